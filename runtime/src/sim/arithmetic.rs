//! What instructions compute, one lane at a time.

use super::value::{
    BRAIN, Kind, Mode, Rounding, SINGLE, Type, flushed, from_f64, fused_to_odd, mask, sign_extend,
    sum_to_odd, to_f64,
};

/// A function of up to three operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Function {
    Add,
    Sub,
    MulLow,
    MulHigh,
    MulWide,
    MadLow,
    MadHigh,
    MadWide,
    Div,
    Rem,
    Min,
    Max,
    Neg,
    Abs,
    Not,
    CNot,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    /// Funnel shifts, by the distance modulo 32 or at most 32.
    FunnelLeft {
        clamp: bool,
    },
    FunnelRight {
        clamp: bool,
    },
    PopCount,
    LeadingZeros,
    FindBit {
        shift: bool,
    },
    Reverse,
    Extract,
    /// Inserts the first operand into the second; position and length are packed into the third.
    Insert,
    Permute,
    /// Any function of three bits, by its table.
    Lookup(u8),
    SumOfDifference,
    Mul,
    Fma,
    Sqrt,
    Reciprocal,
    ReciprocalSqrt,
    Exp2,
    Log2,
    Sin,
    Cos,
    Tanh,
    CopySign,
}

/// The result of `f` on registers of type `ty`.
#[inline(always)]
pub(super) fn evaluate(f: Function, ty: Type, mode: Mode, a: u64, b: u64, c: u64) -> u64 {
    if !ty.is_float() {
        return integer(f, ty, a, b, c);
    }
    if ty.packed {
        let single = Type { packed: false, ..ty };
        let low = float(f, single, mode, a & 0xFFFF, b & 0xFFFF, c & 0xFFFF);
        return low | (float(f, single, mode, a >> 16, b >> 16, c >> 16) << 16);
    }
    float(f, ty, mode, a, b, c)
}

#[inline(always)]
fn integer(f: Function, ty: Type, a: u64, b: u64, c: u64) -> u64 {
    let (bits, signed) = (ty.bits, ty.signed());
    let wide = |x: u64| if signed { i128::from(sign_extend(x, bits)) } else { i128::from(x & mask(bits)) };
    let result = match f {
        Function::Add => a.wrapping_add(b),
        Function::Sub => a.wrapping_sub(b),
        Function::MulLow | Function::Mul => a.wrapping_mul(b),
        Function::MadLow | Function::Fma => a.wrapping_mul(b).wrapping_add(c),
        Function::MulHigh => (wide(a).wrapping_mul(wide(b)) >> bits) as u64,
        Function::MadHigh => ((wide(a).wrapping_mul(wide(b)) >> bits) as u64).wrapping_add(c),
        // The result has twice the width.
        Function::MulWide => return (wide(a) * wide(b)) as u64 & mask(2 * bits),
        Function::MadWide => return ((wide(a) * wide(b)) as u64).wrapping_add(c) & mask(2 * bits),
        // A division by zero has an unspecified result; GPUs give all ones.
        Function::Div if b & mask(bits) == 0 => u64::MAX,
        Function::Div => (wide(a) / wide(b)) as u64,
        Function::Rem if b & mask(bits) == 0 => a,
        Function::Rem => (wide(a) % wide(b)) as u64,
        Function::Min => wide(a).min(wide(b)) as u64,
        Function::Max => wide(a).max(wide(b)) as u64,
        Function::Neg => a.wrapping_neg(),
        Function::Abs => sign_extend(a, bits).unsigned_abs(),
        Function::Not => !a,
        Function::CNot => u64::from(a & mask(bits) == 0),
        Function::And => a & b,
        Function::Or => a | b,
        Function::Xor => a ^ b,
        Function::ShiftLeft => {
            if b as u32 >= bits {
                0
            } else {
                a << (b as u32)
            }
        }
        Function::ShiftRight => {
            let distance = (b as u32).min(bits);
            if signed {
                (sign_extend(a, bits) >> distance.min(63)) as u64
            } else if distance >= bits {
                0
            } else {
                (a & mask(bits)) >> distance
            }
        }
        Function::FunnelLeft { clamp } => funnel(a, b, 32 - funnel_distance(c, clamp)),
        Function::FunnelRight { clamp } => funnel(a, b, funnel_distance(c, clamp)),
        Function::PopCount => return u64::from((a & mask(bits)).count_ones()),
        Function::LeadingZeros => return u64::from((a & mask(bits)).leading_zeros() - (64 - bits)),
        Function::FindBit { shift } => return find_bit(a, ty, shift),
        Function::Reverse => a.reverse_bits() >> (64 - bits),
        Function::Extract => extract(ty, a, b, c),
        Function::Insert => insert(bits, a, b, c),
        Function::Permute => permute(a, b, c),
        Function::Lookup(table) => lookup(table, a, b, c),
        Function::SumOfDifference => {
            let difference = wide(a) - wide(b);
            c.wrapping_add(difference.unsigned_abs() as u64)
        }
        Function::Sqrt
        | Function::Reciprocal
        | Function::ReciprocalSqrt
        | Function::Exp2
        | Function::Log2
        | Function::Sin
        | Function::Cos
        | Function::Tanh
        | Function::CopySign => 0,
    };
    result & mask(bits)
}

fn funnel_distance(c: u64, clamp: bool) -> u32 {
    if clamp { (c as u32).min(32) } else { c as u32 & 31 }
}

/// The low word of `b:a` shifted right.
fn funnel(a: u64, b: u64, distance: u32) -> u64 {
    (((b & mask(32)) << 32) | (a & mask(32))) >> distance
}

fn find_bit(a: u64, ty: Type, shift: bool) -> u64 {
    let value = if ty.signed() && sign_extend(a, ty.bits) < 0 { !a } else { a } & mask(ty.bits);
    if value == 0 {
        return mask(32);
    }
    let position = 63 - value.leading_zeros();
    u64::from(if shift { ty.bits - 1 - position } else { position })
}

#[inline(always)]
fn extract(ty: Type, a: u64, b: u64, c: u64) -> u64 {
    let (position, length) = (b as u32 & 0xFF, c as u32 & 0xFF);
    let sign = ty.signed() && length > 0 && (a >> (position + length - 1).min(ty.bits - 1)) & 1 == 1;
    // Bits beyond the operand or the field are the sign.
    let given = mask(length.min(ty.bits.saturating_sub(position)));
    let field = (a & mask(ty.bits)) >> position.min(63) & given;
    if sign { field | (mask(ty.bits) & !given) } else { field }
}

fn insert(bits: u32, a: u64, b: u64, c: u64) -> u64 {
    let (position, length) = (c as u32 & 0xFF, (c >> 8) as u32 & 0xFF);
    if position >= bits {
        return b;
    }
    let field = mask(length.min(bits)) << position;
    (b & !field) | ((a << position) & field)
}

fn permute(a: u64, b: u64, c: u64) -> u64 {
    let bytes = (a & mask(32)) | (b << 32);
    (0..4).fold(0, |out, i| {
        let selector = (c >> (4 * i)) & 15;
        let byte = (bytes >> (8 * (selector & 7))) & 0xFF;
        let byte = if selector & 8 == 0 {
            byte
        } else if byte & 0x80 == 0 {
            0
        } else {
            0xFF
        };
        out | (byte << (8 * i))
    })
}

fn lookup(table: u8, a: u64, b: u64, c: u64) -> u64 {
    (0..8u8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
        let pick = |x: u64, bit: u8| if i >> bit & 1 == 1 { x } else { !x };
        out | (pick(a, 2) & pick(b, 1) & pick(c, 0))
    })
}

#[inline(always)]
fn float(f: Function, ty: Type, mode: Mode, a: u64, b: u64, c: u64) -> u64 {
    let sign = 1u64 << (ty.bits - 1);
    match f {
        Function::Neg => return finish_bits(a ^ sign, ty, mode),
        Function::Abs => return finish_bits(a & !sign, ty, mode),
        // The second operand gives the magnitude.
        Function::CopySign => return (b & !sign) | (a & sign),
        _ => {}
    }
    let (a, b, c) = if mode.flush { (flushed(a, ty), flushed(b, ty), flushed(c, ty)) } else { (a, b, c) };
    let nearest = mode.rounding == Rounding::Nearest;
    let bits = match (ty.kind, ty.bits) {
        (Kind::Float, 32) if nearest && is_basic(f) => {
            let number = |x: u64| f32::from_bits(x as u32);
            let result = basic_single(f, number(a), number(b), number(c));
            if result.is_nan() { 0x7FFF_FFFF } else { u64::from(result.to_bits()) }
        }
        (Kind::Float, 64) if is_basic(f) => {
            basic_double(f, f64::from_bits(a), f64::from_bits(b), f64::from_bits(c)).to_bits()
        }
        _ => from_f64(through_f64(f, mode, to_f64(a, ty), to_f64(b, ty), to_f64(c, ty)), ty, mode.rounding),
    };
    finish_bits(bits, ty, mode)
}

#[inline(always)]
fn is_basic(f: Function) -> bool {
    matches!(
        f,
        Function::Add | Function::Sub | Function::Mul | Function::Div | Function::Fma | Function::Sqrt
    )
}

#[inline(always)]
fn basic_single(f: Function, a: f32, b: f32, c: f32) -> f32 {
    match f {
        Function::Add => a + b,
        Function::Sub => a - b,
        Function::Mul => a * b,
        Function::Div => a / b,
        Function::Sqrt => a.sqrt(),
        _ => a.mul_add(b, c),
    }
}

#[inline(always)]
fn basic_double(f: Function, a: f64, b: f64, c: f64) -> f64 {
    match f {
        Function::Add => a + b,
        Function::Sub => a - b,
        Function::Mul => a * b,
        Function::Div => a / b,
        Function::Sqrt => a.sqrt(),
        _ => a.mul_add(b, c),
    }
}

/// Functions of narrower numbers through f64; sums and products round to odd on the way.
fn through_f64(f: Function, mode: Mode, a: f64, b: f64, c: f64) -> f64 {
    match f {
        Function::Add => sum_to_odd(a, b),
        Function::Sub => sum_to_odd(a, -b),
        Function::Mul | Function::MulLow => a * b,
        Function::Fma | Function::MadLow => fused_to_odd(a, b, c),
        Function::Div => a / b,
        Function::Sqrt => a.sqrt(),
        Function::Min => extremum(a, b, mode, false),
        Function::Max => extremum(a, b, mode, true),
        Function::Reciprocal => 1.0 / a,
        Function::ReciprocalSqrt => 1.0 / a.sqrt(),
        Function::Exp2 => a.exp2(),
        Function::Log2 => a.log2(),
        Function::Sin => a.sin(),
        Function::Cos => a.cos(),
        Function::Tanh => a.tanh(),
        _ => f64::NAN,
    }
}

/// Minimum or maximum with −0 < +0, of the number where one operand is NaN unless the mode propagates it.
fn extremum(a: f64, b: f64, mode: Mode, largest: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f64::NAN,
        (true, false) => {
            if mode.propagate {
                f64::NAN
            } else {
                b
            }
        }
        (false, true) => {
            if mode.propagate {
                f64::NAN
            } else {
                a
            }
        }
        (false, false) => {
            if (a.total_cmp(&b).is_gt()) == largest {
                a
            } else {
                b
            }
        }
    }
}

/// Flushes, saturates or clips a result.
#[inline(always)]
fn finish_bits(bits: u64, ty: Type, mode: Mode) -> u64 {
    if !(mode.flush || mode.saturate || mode.relu) {
        return bits;
    }
    let bits = if mode.flush { flushed(bits, ty) } else { bits };
    let x = to_f64(bits, ty);
    if mode.saturate {
        let clamped = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
        return if x == clamped && x.is_sign_positive() {
            bits
        } else {
            from_f64(clamped, ty, Rounding::Nearest)
        };
    }
    if mode.relu && x.is_sign_negative() && !x.is_nan() { 0 } else { bits }
}

/// A value of type `from` as one of type `to`.
#[inline(always)]
pub(super) fn convert(from: Type, to: Type, mode: Mode, bits: u64) -> u64 {
    match (from.is_float(), to.is_float()) {
        (false, false) => integer_to_integer(from, to, mode, bits),
        (false, true) => integer_to_float(from, to, mode, bits),
        (true, false) => {
            let bits = if mode.flush { flushed(bits, from) } else { bits };
            float_to_integer(to_f64(bits, from), from.bits == 64, to, mode.rounding)
        }
        (true, true) => {
            let bits = if mode.flush { flushed(bits, from) } else { bits };
            if from == SINGLE && to == BRAIN && mode == Mode::default() {
                return brain(bits as u32);
            }
            let x = to_f64(bits, from);
            let x = if mode.integral { to_integral(x, mode.rounding) } else { x };
            if from == to && !mode.integral && !mode.saturate && !mode.relu {
                return bits;
            }
            finish_bits(from_f64(x, to, mode.rounding), to, mode)
        }
    }
}

/// The bits of an f32 as those of the nearest bf16, whose bits are its upper half.
#[inline(always)]
fn brain(bits: u32) -> u64 {
    if f32::from_bits(bits).is_nan() {
        return 0x7FFF;
    }
    // Half a unit in the last place, or just less where the number before is even; carries go up to infinity.
    (u64::from(bits) + 0x7FFF + u64::from(bits >> 16 & 1)) >> 16
}

#[inline(always)]
fn integer_to_integer(from: Type, to: Type, mode: Mode, bits: u64) -> u64 {
    let value = if from.signed() {
        i128::from(sign_extend(bits, from.bits))
    } else {
        i128::from(bits & mask(from.bits))
    };
    if !mode.saturate {
        return value as u64 & mask(to.bits);
    }
    let (least, most) = range(to);
    value.clamp(least, most) as u64 & mask(to.bits)
}

fn range(ty: Type) -> (i128, i128) {
    if ty.signed() { (-(1 << (ty.bits - 1)), (1 << (ty.bits - 1)) - 1) } else { (0, (1 << ty.bits) - 1) }
}

fn integer_to_float(from: Type, to: Type, mode: Mode, bits: u64) -> u64 {
    let signed = sign_extend(bits, from.bits);
    let unsigned = bits & mask(from.bits);
    match (to.kind, to.bits, mode.rounding) {
        (Kind::Float, 32, Rounding::Nearest) if from.signed() => u64::from((signed as f32).to_bits()),
        (Kind::Float, 32, Rounding::Nearest) => u64::from((unsigned as f32).to_bits()),
        (Kind::Float, 64, _) if from.signed() => (signed as f64).to_bits(),
        (Kind::Float, 64, _) => (unsigned as f64).to_bits(),
        _ => {
            // High and low half are exact in f64; their sum, rounded to odd, rounds on rightly.
            let magnitude = if from.signed() { signed.unsigned_abs() } else { unsigned };
            let high = (magnitude >> 32) as f64 * 4_294_967_296.0;
            let sum = sum_to_odd(high, (magnitude & mask(32)) as f64);
            from_f64(if from.signed() && signed < 0 { -sum } else { sum }, to, mode.rounding)
        }
    }
}

fn to_integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Away => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// Out of range goes to the nearest end; NaN to 0, or where either side has 64 bits to the highest bit alone.
fn float_to_integer(x: f64, wide: bool, to: Type, rounding: Rounding) -> u64 {
    if x.is_nan() {
        return if wide || to.bits == 64 { 1 << (to.bits - 1) } else { 0 };
    }
    let (least, most) = range(to);
    (to_integral(x, rounding) as i128).clamp(least, most) as u64 & mask(to.bits)
}

/// A comparison; those of floats that are true for NaN say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Less { or_equal: bool, or_unordered: bool },
    Greater { or_equal: bool, or_unordered: bool },
    Equal { or_unordered: bool },
    NotEqual { or_unordered: bool },
    Ordered,
    Unordered,
}
