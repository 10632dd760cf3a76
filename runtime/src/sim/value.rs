//! Types of instructions, and the floating-point formats behind them.
//!
//! A register holds its bits zero-extended to 64. The half formats compute through f64, where their sums and
//! products are exact or, once rounded to odd, round on as if they were.

/// How the bits of an operand are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Unsigned,
    Signed,
    /// IEEE 754 of the type's width.
    Float,
    /// bfloat16
    Brain,
    /// tf32, in 32 bits.
    Tensor,
    Predicate,
}

/// A fundamental type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Type {
    pub kind: Kind,
    /// Bits of one element.
    pub bits: u32,
    /// Two elements in one register.
    pub packed: bool,
}

/// The formats of floating point that have names of their own.
pub(super) const SINGLE: Type = Type::new(Kind::Float, 32);
pub(super) const DOUBLE: Type = Type::new(Kind::Float, 64);
pub(super) const HALF: Type = Type::new(Kind::Float, 16);
pub(super) const BRAIN: Type = Type::new(Kind::Brain, 16);
pub(super) const TENSOR: Type = Type::new(Kind::Tensor, 32);

impl Type {
    pub const fn new(kind: Kind, bits: u32) -> Type {
        Type { kind, bits, packed: false }
    }

    /// The type of that name, without its point.
    pub fn named(name: &str) -> Option<Type> {
        let (kind, bits, packed) = match name {
            "pred" => (Kind::Predicate, 1, false),
            "f16x2" => (Kind::Float, 16, true),
            "bf16x2" => (Kind::Brain, 16, true),
            "bf16" => (Kind::Brain, 16, false),
            "tf32" => (Kind::Tensor, 32, false),
            _ => {
                let kind = match name.chars().next()? {
                    'b' | 'u' => Kind::Unsigned,
                    's' => Kind::Signed,
                    'f' => Kind::Float,
                    _ => return None,
                };
                let bits = name[1..].parse().ok().filter(|b| matches!(b, 8 | 16 | 32 | 64))?;
                (kind, bits, false)
            }
        };
        (kind != Kind::Float || bits > 8).then_some(Type { kind, bits, packed })
    }

    pub fn is_float(self) -> bool {
        matches!(self.kind, Kind::Float | Kind::Brain | Kind::Tensor)
    }

    pub fn signed(self) -> bool {
        self.kind == Kind::Signed
    }

    /// Bytes of a register's worth of it.
    pub fn bytes(self) -> u32 {
        self.bits / 8 * if self.packed { 2 } else { 1 }
    }
}

/// The direction of rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// What the modifiers of a floating-point instruction say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mode {
    pub rounding: Rounding,
    /// Whether results are rounded to integers (`.rni` and the like).
    pub integral: bool,
    pub flush: bool,
    pub saturate: bool,
    /// Whether minimum and maximum of NaN are NaN.
    pub propagate: bool,
    /// Whether negative results become zero.
    pub relu: bool,
}

/// The low `bits` bits.
pub(super) fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// The low `bits` bits as a signed number.
pub(super) fn sign_extend(value: u64, bits: u32) -> i64 {
    let shift = 64 - bits.clamp(1, 64);
    ((value << shift) as i64) >> shift
}

/// A binary format: explicit bits of the significand, and the least normal exponent.
struct Format {
    significand: u32,
    least: i32,
    bits: u32,
}

const HALF_FORMAT: Format = Format { significand: 10, least: -14, bits: 16 };
const BRAIN_FORMAT: Format = Format { significand: 7, least: -126, bits: 16 };
const SINGLE_FORMAT: Format = Format { significand: 23, least: -126, bits: 32 };
const TENSOR_FORMAT: Format = Format { significand: 10, least: -126, bits: 32 };

fn format(ty: Type) -> Format {
    match (ty.kind, ty.bits) {
        (Kind::Brain, _) => BRAIN_FORMAT,
        (Kind::Tensor, _) => TENSOR_FORMAT,
        (_, 16) => HALF_FORMAT,
        _ => SINGLE_FORMAT,
    }
}

/// Rounds an f64 to a narrower format, once, and returns the bits.
fn narrow(x: f64, ty: Type, rounding: Rounding) -> u64 {
    let format = format(ty);
    let infinity = (mask(format.bits - 1 - if ty.kind == Kind::Tensor { 23 } else { format.significand }))
        << if ty.kind == Kind::Tensor { 23 } else { format.significand };
    let sign = u64::from(x.is_sign_negative()) << (format.bits - 1);
    if x.is_nan() {
        return mask(format.bits - 1);
    }
    if x.is_infinite() {
        return sign | infinity;
    }
    let magnitude = x.abs();
    let exponent = (((magnitude.to_bits() >> 52) as i32) - 1023).max(format.least);
    // The unit in the last place; scaling by powers of two is exact.
    let unit = exponent - format.significand as i32;
    let scaled = magnitude * power_of_two(-unit / 2) * power_of_two(-unit - (-unit / 2));
    let down = scaled.floor();
    let up = match rounding {
        Rounding::Nearest => scaled - down > 0.5 || (scaled - down == 0.5 && down % 2.0 == 1.0),
        Rounding::Away => scaled - down >= 0.5,
        Rounding::Zero => false,
        Rounding::Down => scaled > down && sign != 0,
        Rounding::Up => scaled > down && sign == 0,
    };
    let significand = down as u64 + u64::from(up);
    // Subnormal numbers count on into the normal ones, and those into infinity.
    let biased = (exponent - format.least) as u64;
    let mut bits = (biased << format.significand) + significand;
    if ty.kind == Kind::Tensor {
        bits <<= 13;
    }
    if bits >= infinity {
        let towards_zero = match rounding {
            Rounding::Zero => true,
            Rounding::Down => sign == 0,
            Rounding::Up => sign != 0,
            Rounding::Nearest | Rounding::Away => false,
        };
        bits = if towards_zero {
            infinity - if ty.kind == Kind::Tensor { 1 << 13 } else { 1 }
        } else {
            infinity
        };
    }
    sign | bits
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).clamp(1, 2046) as u64) << 52)
}

/// The value of a register's low element.
#[inline]
pub(super) fn to_f64(bits: u64, ty: Type) -> f64 {
    match (ty.kind, ty.bits) {
        (Kind::Brain, _) => f64::from(f32::from_bits((bits as u32 & 0xFFFF) << 16)),
        (Kind::Float, 16) => half_to_f64(bits),
        (Kind::Float, 64) => f64::from_bits(bits),
        (Kind::Tensor, _) => f64::from(f32::from_bits(bits as u32 & !0x1FFF)),
        (Kind::Float, _) => f64::from(f32::from_bits(bits as u32)),
        (Kind::Signed, _) => sign_extend(bits, ty.bits) as f64,
        (Kind::Unsigned | Kind::Predicate, _) => (bits & mask(ty.bits)) as f64,
    }
}

fn half_to_f64(bits: u64) -> f64 {
    let (exponent, fraction) = ((bits >> 10) & 31, (bits & 1023) as f64);
    let magnitude = match exponent {
        0 => fraction * power_of_two(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (fraction + 1024.0) * power_of_two(e as i32 - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// The bits of a value in a floating-point type, rounded once.
#[inline]
pub(super) fn from_f64(x: f64, ty: Type, rounding: Rounding) -> u64 {
    match (ty.kind, ty.bits, rounding) {
        (Kind::Float, 64, _) => x.to_bits(),
        (Kind::Float, 32, Rounding::Nearest) => {
            if x.is_nan() {
                0x7FFF_FFFF
            } else {
                u64::from((x as f32).to_bits())
            }
        }
        _ => narrow(x, ty, rounding),
    }
}

/// `a · b + c` rounded to odd, where the product is exact in f64: any narrower rounding of it is right.
pub(super) fn fused_to_odd(a: f64, b: f64, c: f64) -> f64 {
    sum_to_odd(a * b, c)
}

/// `a + b` rounded to odd.
pub(super) fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let back = sum - a;
    let error = (a - (sum - back)) + (b - back);
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // An inexact sum whose last bit is even moves to the odd neighbour on the error's side.
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// Subnormal bits as zero of the same sign.
pub(super) fn flushed(bits: u64, ty: Type) -> u64 {
    if ty.bits == 32 && bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ty(name: &str) -> Type {
        Type::named(name).expect("a type")
    }

    #[test]
    fn narrowing_to_single_agrees_with_the_processor() {
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = f64::from_bits(state & !(0x7FF << 52) | ((880 + (state >> 5) % 280) << 52));
            assert_eq!(narrow(x, ty("f32"), Rounding::Nearest), u64::from((x as f32).to_bits()), "{x:e}");
        }
    }

    #[test]
    fn every_half_number_survives_the_way_to_f64_and_back() {
        for name in ["f16", "bf16"] {
            for bits in 0..=0xFFFFu64 {
                let x = to_f64(bits, ty(name));
                if !x.is_nan() {
                    assert_eq!(from_f64(x, ty(name), Rounding::Nearest), bits, "{name} {bits:#x}");
                }
            }
        }
    }

    #[test]
    fn directed_roundings_bracket_the_value() {
        for x in [0.1, -0.1, 1.0e9, -70000.0] {
            let to = |r| to_f64(from_f64(x, ty("f16"), r), ty("f16"));
            assert!(to(Rounding::Down) <= x && x <= to(Rounding::Up), "{x}");
            assert!(to(Rounding::Zero).abs() <= f64::abs(x), "{x}");
        }
        assert_eq!(from_f64(1.0 + 1.0 / 2048.0, ty("tf32"), Rounding::Away), 0x3F80_2000);
    }

    #[test]
    fn a_sum_rounded_to_odd_keeps_what_a_second_rounding_needs() {
        let tie = 1.0 + 2f64.powi(-24);
        assert_eq!(sum_to_odd(tie, 2f64.powi(-80)) as f32, 1.0 + f32::EPSILON);
        assert_eq!(sum_to_odd(tie, -(2f64.powi(-80))) as f32, 1.0);
    }
}
