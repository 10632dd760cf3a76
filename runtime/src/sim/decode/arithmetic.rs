//! Arithmetic, logic, comparisons, conversions and moves.

use super::super::arithmetic::{Comparison, Function};
use super::super::op::{Condition, Logic, Op, Slot, Test};
use super::super::syntax::{Class, Operand};
use super::super::value::{Kind, Mode, Rounding, Type, mask};
use super::{Decoded, Decoder, Opcode, class_bits, predicate_result, result_of};

const WORD: Type = Type { kind: Kind::Unsigned, bits: 32, packed: false };

impl<'m> Decoder<'m> {
    /// The instruction, if it is one of these.
    pub(super) fn arithmetic(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Option<Op>> {
        let ty = match opcode.types.first() {
            Some(ty) => *ty,
            None => return Ok(None),
        };
        Ok(Some(match opcode.name {
            "setp" => self.setp(opcode, o)?,
            "set" => self.set(opcode, o)?,
            "selp" => {
                let (d, p) = (self.result(o, 0)?, self.predicate(o, 3)?);
                Op::Select { d, a: self.source(o, 1, ty)?, b: self.source(o, 2, ty)?, p }
            }
            "slct" => {
                let of = *opcode.types.get(1).ok_or("slct compares a second type")?;
                let (a, b, c) = (self.source(o, 1, ty)?, self.source(o, 2, ty)?, self.source(o, 3, of)?);
                Op::SelectSign { ty: of, d: self.result(o, 0)?, a, b, c }
            }
            "mov" => self.mov(ty, o)?,
            "cvt" => self.cvt(opcode, o)?,
            "and" | "or" | "xor" | "not" if ty.kind == Kind::Predicate => self.logic(opcode.name, o)?,
            "add" | "sub" if opcode.has("cc") => self.carry(opcode, ty, false, o)?,
            "addc" | "subc" => self.carry(opcode, ty, true, o)?,
            "lop3" => {
                let table = self.literal(o, 4)? as u8;
                self.map(Function::Lookup(table), ty, Mode::default(), o, 3)?
            }
            "bfi" => self.insert(ty, o)?,
            _ => match function(opcode, ty) {
                Some((f, sources)) => self.checked_map(opcode, f, ty, o, sources)?,
                None => return Ok(None),
            },
        }))
    }

    fn literal(&self, o: &[Operand<'m>], at: usize) -> Decoded<u64> {
        match o.get(at) {
            Some(Operand::Literal(super::super::syntax::Literal::Integer(v))) => Ok(*v),
            _ => Err("expected a constant".to_string()),
        }
    }

    /// Refuses what would be rounded wrongly.
    fn checked_map(
        &mut self,
        opcode: &Opcode<'_>,
        f: Function,
        ty: Type,
        o: &[Operand<'m>],
        sources: usize,
    ) -> Decoded<Op> {
        let mode = opcode.mode();
        let summed = matches!(f, Function::Add | Function::Sub | Function::Mul | Function::Fma);
        let directed = mode.rounding != Rounding::Nearest;
        if directed && ty.is_float() && (ty.bits == 64 || !summed) {
            return Err("this rounding is not simulated for the operation".to_string());
        }
        if opcode.has("xorsign") {
            return Err("the modifier `.xorsign` is not simulated".to_string());
        }
        self.map(f, ty, mode, o, sources)
    }

    fn map(&mut self, f: Function, ty: Type, mode: Mode, o: &[Operand<'m>], sources: usize) -> Decoded<Op> {
        if o.len() < sources + 1 {
            return Err(format!("takes {sources} operands"));
        }
        let d = self.result(o, 0)?;
        let mut slots = [0; 3];
        for (i, slot) in slots.iter_mut().enumerate().take(sources) {
            let of = if i > 0 { operand_type(f, ty, i) } else { ty };
            *slot = self.source(o, i + 1, of)?;
        }
        let [a, b, c] = slots;
        // What is not there reads what is.
        let (b, c) = (if sources > 1 { b } else { a }, if sources > 2 { c } else { a });
        Ok(Op::Map { f, ty, mode, d, a, b, c })
    }

    fn insert(&mut self, ty: Type, o: &[Operand<'m>]) -> Decoded<Op> {
        let (position, length) = (self.literal(o, 3), self.literal(o, 4));
        let (Ok(position), Ok(length)) = (position, length) else {
            return Err("bfi is simulated with constant position and length only".to_string());
        };
        let c = self.constant((position & 0xFF) | ((length & 0xFF) << 8));
        let (d, a, b) = (self.result(o, 0)?, self.source(o, 1, ty)?, self.source(o, 2, ty)?);
        Ok(Op::Map { f: Function::Insert, ty, mode: Mode::default(), d, a, b, c })
    }

    fn carry(&mut self, opcode: &Opcode<'_>, ty: Type, take: bool, o: &[Operand<'m>]) -> Decoded<Op> {
        let subtract = opcode.name.starts_with("sub");
        let (d, a, b) = (self.result(o, 0)?, self.source(o, 1, ty)?, self.source(o, 2, ty)?);
        Ok(Op::Carry { subtract, ty, take, give: opcode.has("cc"), d, a, b })
    }

    fn logic(&mut self, name: &str, o: &[Operand<'m>]) -> Decoded<Op> {
        let Some(d) = o.first().map(predicate_result).transpose()?.flatten() else {
            return Err("the result is no predicate".to_string());
        };
        let a = self.predicate(o, 1)?;
        let f = match name {
            "not" => {
                let a = Condition { negated: !a.negated, ..a };
                return Ok(Op::MovePredicate { d, a });
            }
            "and" => Logic::And,
            "or" => Logic::Or,
            _ => Logic::Xor,
        };
        Ok(Op::Logic { f, d, a, b: self.predicate(o, 2)? })
    }

    fn test(&mut self, opcode: &Opcode<'_>, ty: Type, o: &[Operand<'m>]) -> Decoded<Test> {
        let comparison = opcode.parts.first().and_then(|p| comparison(p));
        let comparison = comparison.ok_or("the comparison is not simulated")?;
        let logic = opcode.parts.iter().skip(1).find_map(|p| match *p {
            "and" => Some(Logic::And),
            "or" => Some(Logic::Or),
            "xor" => Some(Logic::Xor),
            _ => None,
        });
        let combine = match logic {
            Some(logic) => Some((logic, self.predicate(o, 3)?)),
            None => None,
        };
        // `lo`, `ls`, `hi` and `hs` compare without signs.
        let unsigned = matches!(opcode.parts.first(), Some(&("lo" | "ls" | "hi" | "hs")));
        let ty = if unsigned { Type { kind: Kind::Unsigned, ..ty } } else { ty };
        let (a, b) = (self.source(o, 1, ty)?, self.source(o, 2, ty)?);
        Ok(Test { comparison, ty, flush: opcode.has("ftz"), combine, a, b })
    }

    fn setp(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let ty = *opcode.types.last().ok_or("the type is missing")?;
        if ty.packed {
            return Err("comparisons of pairs are not simulated".to_string());
        }
        let test = self.test(opcode, ty, o)?;
        let (p, q) = match o.first() {
            Some(Operand::Pair(p, q)) => (predicate_result(p)?, predicate_result(q)?),
            Some(p) => (predicate_result(p)?, None),
            None => return Err("the result is missing".to_string()),
        };
        Ok(Op::Test { test, p, q })
    }

    fn set(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let [to, from] = opcode.types[..] else { return Err("takes two types".to_string()) };
        let one = if to.is_float() {
            super::super::value::from_f64(1.0, to, Rounding::Nearest)
        } else {
            mask(to.bits)
        };
        if to.packed || from.packed {
            return Err("comparisons of pairs are not simulated".to_string());
        }
        Ok(Op::TestValue { test: self.test(opcode, from, o)?, one, d: self.result(o, 0)? })
    }

    fn mov(&mut self, ty: Type, o: &[Operand<'m>]) -> Decoded<Op> {
        match (o.first(), o.get(1)) {
            (Some(Operand::Register(d)), Some(Operand::Literal(value))) if d.class == Class::Predicate => {
                let bits = super::literal_bits(*value, WORD);
                // A predicate xor itself is false; its negation there is true.
                let own = Condition { slot: d.slot, negated: false };
                let other = Condition { slot: d.slot, negated: bits != 0 };
                Ok(Op::Logic { f: Logic::Xor, d: d.slot, a: own, b: other })
            }
            (Some(Operand::Register(d)), Some(_)) if d.class == Class::Predicate => {
                Ok(Op::MovePredicate { d: d.slot, a: self.predicate(o, 1)? })
            }
            (Some(Operand::Vector(parts)), Some(_)) => {
                let bits = ty.bits / parts.len().max(1) as u32;
                let slots: Decoded<Box<[Option<Slot>]>> = parts.iter().map(wanted).collect();
                Ok(Op::Unpack { bits, parts: slots?, a: self.source(o, 1, ty)? })
            }
            (Some(d), Some(Operand::Vector(parts))) => {
                let bits = ty.bits / parts.len().max(1) as u32;
                let part = Type { kind: Kind::Unsigned, bits, packed: false };
                let slots: Decoded<Box<[Slot]>> = parts.iter().map(|p| self.source_of(p, part)).collect();
                Ok(Op::Pack { bits, d: result_of(d)?, parts: slots? })
            }
            (Some(d), Some(Operand::Special("%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo"))) => {
                Ok(Op::Clock { d: result_of(d)? })
            }
            _ => Ok(Op::Move { d: self.result(o, 0)?, a: self.source(o, 1, ty)? }),
        }
    }

    fn cvt(&mut self, opcode: &Opcode<'_>, o: &[Operand<'m>]) -> Decoded<Op> {
        let [to, from] = opcode.types[..] else {
            return Err("conversions between these types are not simulated".to_string());
        };
        let mode = opcode.mode();
        if to.packed {
            let (d, a, b) = (self.result(o, 0)?, self.source(o, 1, from)?, self.source(o, 2, from)?);
            return Ok(Op::ConvertPair { from, to: Type { packed: false, ..to }, mode, d, a, b });
        }
        if from.packed || opcode.has("rs") || opcode.has("satfinite") {
            return Err("this conversion is not simulated".to_string());
        }
        let d = match o.first() {
            Some(Operand::Register(r)) if r.class != Class::Predicate => r,
            _ => return Err("the result is no register".to_string()),
        };
        let a = self.source(o, 1, from)?;
        let same_float = to.is_float() && from.is_float() && to == from;
        let mode = Mode { integral: mode.integral && (same_float || !to.is_float()), ..mode };
        // Into a wider register, signed integers go with their sign.
        Ok(Op::Convert { from, to, mode, destination: mask(class_bits(*d)), d: d.slot, a })
    }
}

fn wanted(operand: &Operand<'_>) -> Decoded<Option<Slot>> {
    match operand {
        Operand::Sink => Ok(None),
        operand => result_of(operand).map(Some),
    }
}

/// The type of the second or third source.
fn operand_type(f: Function, ty: Type, at: usize) -> Type {
    match f {
        Function::ShiftLeft | Function::ShiftRight | Function::Extract => WORD,
        Function::MadWide if at == 2 => Type { bits: ty.bits * 2, ..ty },
        _ => ty,
    }
}

/// The function of an opcode and its number of sources.
fn function(opcode: &Opcode<'_>, ty: Type) -> Option<(Function, usize)> {
    let float = ty.is_float();
    let part = |low, high, wide| {
        if opcode.has("wide") {
            Some(wide)
        } else if opcode.has("hi") {
            Some(high)
        } else if opcode.has("lo") {
            Some(low)
        } else {
            None
        }
    };
    let clamp = opcode.has("clamp");
    Some(match opcode.name {
        "add" => (Function::Add, 2),
        "sub" => (Function::Sub, 2),
        "mul" if float => (Function::Mul, 2),
        "mul" => (part(Function::MulLow, Function::MulHigh, Function::MulWide)?, 2),
        "mad" | "fma" if float => (Function::Fma, 3),
        "mad" => (part(Function::MadLow, Function::MadHigh, Function::MadWide)?, 3),
        "div" => (Function::Div, 2),
        "rem" if !float => (Function::Rem, 2),
        "min" => (Function::Min, 2),
        "max" => (Function::Max, 2),
        "neg" => (Function::Neg, 1),
        "abs" => (Function::Abs, 1),
        "not" if !float => (Function::Not, 1),
        "cnot" => (Function::CNot, 1),
        "and" => (Function::And, 2),
        "or" => (Function::Or, 2),
        "xor" => (Function::Xor, 2),
        "shl" => (Function::ShiftLeft, 2),
        "shr" => (Function::ShiftRight, 2),
        "shf" if opcode.has("l") => (Function::FunnelLeft { clamp }, 3),
        "shf" => (Function::FunnelRight { clamp }, 3),
        "popc" => (Function::PopCount, 1),
        "clz" => (Function::LeadingZeros, 1),
        "bfind" => (Function::FindBit { shift: opcode.has("shiftamt") }, 1),
        "brev" => (Function::Reverse, 1),
        "bfe" => (Function::Extract, 3),
        // The other modes of prmt are not emitted.
        "prmt" if opcode.parts.len() == 1 => (Function::Permute, 3),
        "sad" => (Function::SumOfDifference, 3),
        "sqrt" if float => (Function::Sqrt, 1),
        "rcp" if float => (Function::Reciprocal, 1),
        "rsqrt" if float => (Function::ReciprocalSqrt, 1),
        "ex2" if float => (Function::Exp2, 1),
        "lg2" if float => (Function::Log2, 1),
        "sin" if float => (Function::Sin, 1),
        "cos" if float => (Function::Cos, 1),
        "tanh" if float => (Function::Tanh, 1),
        "copysign" if float => (Function::CopySign, 2),
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<Comparison> {
    let less = |or_equal, or_unordered| Comparison::Less { or_equal, or_unordered };
    let greater = |or_equal, or_unordered| Comparison::Greater { or_equal, or_unordered };
    Some(match name {
        "eq" => Comparison::Equal { or_unordered: false },
        "ne" => Comparison::NotEqual { or_unordered: false },
        "lt" | "lo" => less(false, false),
        "le" | "ls" => less(true, false),
        "gt" | "hi" => greater(false, false),
        "ge" | "hs" => greater(true, false),
        "equ" => Comparison::Equal { or_unordered: true },
        "neu" => Comparison::NotEqual { or_unordered: true },
        "ltu" => less(false, true),
        "leu" => less(true, true),
        "gtu" => greater(false, true),
        "geu" => greater(true, true),
        "num" => Comparison::Ordered,
        "nan" => Comparison::Unordered,
        _ => return None,
    })
}
