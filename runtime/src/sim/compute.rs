//! What instructions compute: a register of all lanes from up to three others.
//!
//! The lanes of a register lie side by side, so that the host's compiler makes vector instructions of loops over them. It
//! does so for what is known when the simulator is compiled: the frequent functions and types are loops of their own,
//! compiled for each width of vectors that processors have.

use super::arithmetic::{Comparison, Function, convert, evaluate};
use super::execute::{Context, each_lane};
use super::op::{Logic, Op, Test};
use super::value::{BRAIN, DOUBLE, HALF, Kind, Mode, SINGLE, Type, flushed, mask, sign_extend, to_f64};
use super::vectors::in_vectors;
use super::warp::{LANES, Warp};

/// Lanes that are computed together.
const PART: usize = 8;
/// Where fewer lanes than this compute, each does by itself.
const FEW: u32 = 4;

const U16: Type = Type::new(Kind::Unsigned, 16);
const U32: Type = Type::new(Kind::Unsigned, 32);
const U64: Type = Type::new(Kind::Unsigned, 64);
const S32: Type = Type::new(Kind::Signed, 32);
const S64: Type = Type::new(Kind::Signed, 64);

/// Computes a register of some lanes from three others. No closure: what is not inlined would not be compiled for the
/// same width of vectors.
macro_rules! each {
    ($warp:expr, $slots:expr, $lanes:expr, |$a:pat_param, $b:pat_param, $c:pat_param| $f:expr) => {{
        let ([d, a, b, c], lanes): ([u32; 4], u32) = ($slots, $lanes);
        let registers = &mut $warp.registers;
        if lanes.count_ones() < FEW {
            let mut rest = lanes;
            while rest != 0 {
                let lane = rest.trailing_zeros() as usize;
                let ($a, $b, $c) =
                    (registers[a as usize][lane], registers[b as usize][lane], registers[c as usize][lane]);
                registers[d as usize][lane] = $f;
                rest &= rest - 1;
            }
        } else {
            for first in (0..LANES).step_by(PART) {
                let (x, y, z) =
                    (part(registers, a, first), part(registers, b, first), part(registers, c, first));
                let mut out = part(registers, d, first);
                for at in 0..PART {
                    let ($a, $b, $c) = (x[at], y[at], z[at]);
                    let new = $f;
                    out[at] = if lanes >> (first + at) & 1 == 1 { new } else { out[at] };
                }
                registers[d as usize][first..][..PART].copy_from_slice(&out);
            }
        }
    }};
}

/// Some lanes of a register.
#[inline(always)]
fn part(registers: &[[u64; LANES]], slot: u32, first: usize) -> [u64; PART] {
    let mut part = [0; PART];
    part.copy_from_slice(&registers[slot as usize][first..][..PART]);
    part
}

/// Which relations of two numbers a comparison holds for.
struct Relations {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

impl Relations {
    fn of(comparison: Comparison) -> Relations {
        let (less, equal, greater, unordered) = match comparison {
            Comparison::Less { or_equal, or_unordered } => (true, or_equal, false, or_unordered),
            Comparison::Greater { or_equal, or_unordered } => (false, or_equal, true, or_unordered),
            Comparison::Equal { or_unordered } => (false, true, false, or_unordered),
            Comparison::NotEqual { or_unordered } => (true, false, true, or_unordered),
            Comparison::Ordered => (true, true, true, false),
            Comparison::Unordered => (false, false, false, true),
        };
        Relations { less, equal, greater, unordered }
    }

    /// The lanes for which it holds, of those that are less, equal and greater.
    fn select(&self, [less, equal, greater]: [u32; 3]) -> u32 {
        let part = |wanted, lanes| if wanted { lanes } else { 0 };
        part(self.less, less)
            | part(self.equal, equal)
            | part(self.greater, greater)
            | part(self.unordered, !(less | equal | greater))
    }
}

in_vectors! {
    /// Executes an instruction that changes nothing but registers, each lane by itself.
    pub fn compute(warp: &mut Warp, context: &Context<'_>, op: &Op, lanes: u32) {
        warp.compute(context, op, lanes)
    }
}

impl Warp {
    #[inline(always)]
    fn compute(&mut self, context: &Context<'_>, op: &Op, lanes: u32) {
        match op {
            Op::Map { f, ty, mode, d, a, b, c } => self.map(*f, *ty, *mode, [*d, *a, *b, *c], lanes),
            Op::Convert { from, to, mode, destination, d, a } => {
                self.convert([*from, *to], *mode, *destination, [*d, *a], lanes);
            }
            Op::ConvertPair { from: SINGLE, to: BRAIN, mode, d, a, b } if *mode == Mode::default() => {
                let convert = |x| convert(SINGLE, BRAIN, Mode::default(), x);
                each!(self, [*d, *a, *b, *a], lanes, |x, y, _| (convert(x) << 16) | convert(y));
            }
            Op::ConvertPair { from, to, mode, d, a, b } => {
                let convert = |x| convert(*from, *to, *mode, x);
                each!(self, [*d, *a, *b, *a], lanes, |x, y, _| (convert(x) << 16) | convert(y));
            }
            Op::Move { d, a } => each!(self, [*d, *a, *a, *a], lanes, |x, _, _| x),
            Op::Clock { d } => {
                self.ticks += 1;
                let ticks = self.ticks;
                each!(self, [*d; 4], lanes, |_, _, _| ticks);
            }
            Op::SelectSign { ty, d, a, b, c } => each!(self, [*d, *a, *b, *c], lanes, |x, y, z| {
                let float = ty.is_float() && to_f64(z, *ty) >= 0.0;
                if float || (!ty.is_float() && sign_extend(z, ty.bits) >= 0) { x } else { y }
            }),
            Op::Select { d, a, b, p } => {
                let chosen = self.holds(*p) & lanes;
                each!(self, [*d, *b, *b, *b], lanes & !chosen, |x, _, _| x);
                each!(self, [*d, *a, *a, *a], chosen, |x, _, _| x);
            }
            Op::Test { test, p, q } => {
                let (holds, fails) = self.test(test);
                let targets = [(p, holds), (q, fails)];
                for (slot, values) in targets.into_iter().filter_map(|(s, v)| s.map(|s| (s, v))) {
                    self.set_predicate(slot, lanes, values);
                }
            }
            Op::TestValue { test, one, d } => {
                let holds = self.test(test).0;
                let out = &mut self.registers[*d as usize];
                each_lane(lanes, |lane| out[lane] = if holds >> lane & 1 == 1 { *one } else { 0 });
            }
            Op::Logic { f, d, a, b } => {
                let value = logic(*f, self.holds(*a), self.holds(*b));
                self.set_predicate(*d, lanes, value);
            }
            Op::MovePredicate { d, a } => {
                let value = self.holds(*a);
                self.set_predicate(*d, lanes, value);
            }
            Op::Carry { subtract, ty, take, give, d, a, b } => {
                self.carry(*subtract, *ty, [*take, *give], [*d, *a, *b], lanes);
            }
            Op::Pack { bits, d, parts } => self.pack(*bits, *d, parts, lanes),
            Op::Unpack { bits, parts, a } => self.unpack(*bits, parts, *a, lanes),
            Op::Parameter { offset, transfer, d } => {
                for (at, slot) in d.iter().enumerate() {
                    let value = parameter(context.parameters, *offset as usize, at, transfer.ty);
                    if let Some(slot) = slot {
                        each!(self, [*slot; 4], lanes, |_, _, _| value & transfer.destination);
                    }
                }
            }
            Op::ConvertAddress { to_generic, space, d, a } => {
                each!(self, [*d, *a, *a, *a], lanes, |x, _, _| super::access::convert(
                    *to_generic,
                    *space,
                    x
                ));
            }
            Op::IsSpace { space, p, a } => {
                let addresses = self.registers[*a as usize];
                let mut within = 0;
                each_lane(lanes, |lane| {
                    within |= u32::from(super::access::is_in(*space, addresses[lane])) << lane;
                });
                self.set_predicate(*p, lanes, within);
            }
            // The others are executed elsewhere.
            _ => {}
        }
    }

    /// Computes a register of some lanes from three others.
    #[inline(always)]
    pub fn each(&mut self, slots: [u32; 4], lanes: u32, f: impl Fn(u64, u64, u64) -> u64) {
        each!(self, slots, lanes, |a, b, c| f(a, b, c));
    }

    #[inline(always)]
    fn map(&mut self, f: Function, ty: Type, mode: Mode, slots: [u32; 4], lanes: u32) {
        if mode != Mode::default() {
            return each!(self, slots, lanes, |a, b, c| evaluate(f, ty, mode, a, b, c));
        }
        // Signs do not matter to these.
        let signless = matches!(
            f,
            Function::Add | Function::Sub | Function::MulLow | Function::MadLow | Function::ShiftLeft
        );
        let ty = if signless && ty.signed() { Type { kind: Kind::Unsigned, ..ty } } else { ty };
        macro_rules! frequent {
            ($($ty:ident: $($f:ident)*;)*) => {
                match (f, ty) {
                    $($((Function::$f, $ty) => each!(self, slots, lanes, |a, b, c| {
                        evaluate(Function::$f, $ty, Mode::default(), a, b, c)
                    }),)*)*
                    _ => each!(self, slots, lanes, |a, b, c| evaluate(f, ty, mode, a, b, c)),
                }
            };
        }
        frequent! {
            SINGLE: Fma Add Sub Mul Div Neg Abs Min Max Sqrt;
            DOUBLE: Fma Add Sub Mul Div;
            U64: Add Sub MulLow MadLow ShiftLeft ShiftRight And Or;
            U32: Add Sub MulLow MadLow ShiftLeft ShiftRight And Or Xor Not Min Max MulWide Extract;
            S32: Min Max Neg ShiftRight MulWide;
        }
    }

    #[inline(always)]
    fn convert(&mut self, [from, to]: [Type; 2], mode: Mode, destination: u64, [d, a]: [u32; 2], lanes: u32) {
        macro_rules! frequent {
            ($($from:ident $to:ident,)*) => {
                match (from, to) {
                    $(($from, $to) if mode == Mode::default() => each!(self, [d, a, a, a], lanes, |x, _, _| {
                        extended(convert($from, $to, Mode::default(), x), $to, destination)
                    }),)*
                    _ => each!(self, [d, a, a, a], lanes, |x, _, _| {
                        extended(convert(from, to, mode, x), to, destination)
                    }),
                }
            };
        }
        frequent! {
            S32 S64, U32 U64, U64 U32, S64 S32, U16 U32, U32 U16,
            S32 SINGLE, U32 SINGLE, SINGLE DOUBLE, DOUBLE SINGLE, SINGLE HALF, HALF SINGLE, SINGLE BRAIN, BRAIN SINGLE,
        }
    }

    /// Lanes where the test holds, and where its comparison fails, each combined as the test says.
    #[inline(always)]
    fn test(&self, test: &Test) -> (u32, u32) {
        let (a, b) = (&self.registers[test.a as usize], &self.registers[test.b as usize]);
        let holds = Relations::of(test.comparison).select(compared(test, a, b));
        match test.combine {
            None => (holds, !holds),
            Some((f, condition)) => {
                let other = self.holds(condition);
                (logic(f, holds, other), logic(f, !holds, other))
            }
        }
    }

    fn carry(&mut self, subtract: bool, ty: Type, [take, give]: [bool; 2], slots: [u32; 3], lanes: u32) {
        let [d, a, b] = slots;
        let (x, y) = (self.registers[a as usize], self.registers[b as usize]);
        let carried = self.carry;
        let out = &mut self.registers[d as usize];
        let mut carry = 0u32;
        each_lane(lanes, |lane| {
            let given = u128::from(take && carried >> lane & 1 == 1);
            let (x, y) = (u128::from(x[lane]), u128::from(y[lane]));
            let wide = if subtract { x.wrapping_sub(y).wrapping_sub(given) } else { x + y + given };
            out[lane] = wide as u64 & mask(ty.bits);
            carry |= u32::from(wide >> ty.bits & 1 == 1) << lane;
        });
        if give {
            self.carry = (self.carry & !lanes) | (carry & lanes);
        }
    }

    fn pack(&mut self, bits: u32, d: u32, parts: &[u32], lanes: u32) {
        let mut out = self.registers[d as usize];
        each_lane(lanes, |lane| {
            let part =
                |(at, slot): (u32, &u32)| (self.registers[*slot as usize][lane] & mask(bits)) << (at * bits);
            out[lane] = (0..).zip(parts).map(part).fold(0, |all, part| all | part);
        });
        self.registers[d as usize] = out;
    }

    fn unpack(&mut self, bits: u32, parts: &[Option<u32>], a: u32, lanes: u32) {
        let whole = self.registers[a as usize];
        for (at, slot) in (0..).zip(parts) {
            let Some(slot) = slot else { continue };
            let out = &mut self.registers[*slot as usize];
            each_lane(lanes, |lane| out[lane] = (whole[lane] >> (at * bits)) & mask(bits));
        }
    }
}

/// A result as its register holds it.
#[inline(always)]
fn extended(value: u64, ty: Type, destination: u64) -> u64 {
    if ty.signed() { sign_extend(value, ty.bits) as u64 & destination } else { value }
}

/// The lanes in which the first of two numbers is less, equal and greater.
#[inline(always)]
fn compared(test: &Test, a: &[u64; LANES], b: &[u64; LANES]) -> [u32; 3] {
    macro_rules! related {
        (|$x:ident| $number:expr) => {{
            let [mut less, mut equal, mut greater] = [0u32; 3];
            for lane in 0..LANES {
                let (x, y) = (
                    {
                        let $x = a[lane];
                        $number
                    },
                    {
                        let $x = b[lane];
                        $number
                    },
                );
                less |= u32::from(x < y) << lane;
                equal |= u32::from(x == y) << lane;
                greater |= u32::from(x > y) << lane;
            }
            [less, equal, greater]
        }};
    }
    let (ty, flush) = (test.ty, test.flush);
    match ty {
        S32 => related!(|x| x as i32),
        U32 => related!(|x| x as u32),
        S64 => related!(|x| x as i64),
        U64 => related!(|x| x),
        SINGLE if !flush => related!(|x| f32::from_bits(x as u32)),
        _ if ty.is_float() => related!(|x| to_f64(if flush { flushed(x, ty) } else { x }, ty)),
        _ if ty.signed() => related!(|x| sign_extend(x, ty.bits)),
        _ => related!(|x| x & mask(ty.bits)),
    }
}

fn logic(f: Logic, a: u32, b: u32) -> u32 {
    match f {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// An element of the parameters; what lies beyond them is 0.
fn parameter(bytes: &[u8], offset: usize, at: usize, ty: Type) -> u64 {
    let size = ty.bytes() as usize;
    let mut out = [0; 8];
    for (i, slot) in out.iter_mut().enumerate().take(size) {
        *slot = bytes.get(offset + at * size + i).copied().unwrap_or(0);
    }
    let value = u64::from_le_bytes(out);
    if ty.signed() { sign_extend(value, ty.bits) as u64 } else { value }
}
