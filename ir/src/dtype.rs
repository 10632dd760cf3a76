//! Element types and scalar literals.

use std::fmt;

use half::{bf16, f16};

/// The element type of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 8] =
        [DType::F32, DType::F64, DType::F16, DType::Bf16, DType::I32, DType::I64, DType::U8, DType::Bool];

    /// The name in text forms.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The element type of that name.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::Bf16)
    }

    /// Whether this is an integer type; `bool` is not.
    pub fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::I64 | DType::U8)
    }

    /// The value of this type nearest to `value`, ties to even: one rounding, also to f16 and bf16, whose
    /// conversions elsewhere pass through f32 and round twice. Values of a type that is not a float stay.
    pub fn round_f64(self, value: f64) -> f64 {
        match self {
            DType::F32 => f64::from(value as f32),
            DType::F16 => round_binary(value, 11, -14, 15),
            DType::Bf16 => round_binary(value, 8, -126, 127),
            DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => value,
        }
    }

    /// The value of this float type nearest to an integer, ties to even: one rounding.
    pub fn round_i64(self, value: i64) -> f64 {
        match self {
            DType::F32 => f64::from(value as f32),
            DType::F16 | DType::Bf16 => self.round_f64(to_odd(value)),
            DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => value as f64,
        }
    }

    /// The type that sums and products of this type accumulate in: f32 for f16 and bf16, itself otherwise.
    pub fn accumulator(self) -> DType {
        match self {
            DType::F16 | DType::Bf16 => DType::F32,
            other => other,
        }
    }
}

/// Rounds to a binary format of `precision` significant bits whose normal numbers have exponents from `low`
/// to `high`; gradual underflow below, infinity above.
fn round_binary(value: f64, precision: i32, low: i32, high: i32) -> f64 {
    if !value.is_finite() {
        return value;
    }
    let power = |exponent: i32| f64::from_bits(((exponent + 1023) as u64) << 52);
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    // Scaling by the power of two of the last place is exact, so that only the integer rounding rounds.
    let quantum = power(exponent.max(low) - (precision - 1));
    let rounded = (value / quantum).round_ties_even() * quantum;
    if rounded.abs() >= power(high) * 2.0 { f64::INFINITY.copysign(value) } else { rounded }
}

/// The f64 next to an integer, the odd one of two where it lies between: rounding that to a narrower format
/// is rounding the integer itself (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums").
fn to_odd(value: i64) -> f64 {
    let nearest = value as f64;
    let error = i128::from(value) - nearest as i128;
    if error == 0 || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    if (error > 0) == (value > 0) {
        f64::from_bits(nearest.to_bits() + 1)
    } else {
        f64::from_bits(nearest.to_bits() - 1)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A scalar constant of some element type. Equality and order are those of the bits, so that NaN equals
/// itself and -0 differs from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Literal {
    dtype: DType,
    bits: u64,
}

impl Literal {
    /// The literal nearest to `value`: rounded to a float type, truncated and saturated to an integer type,
    /// nonzero is true for bool.
    pub fn from_f64(dtype: DType, value: f64) -> Self {
        let bits = match dtype {
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F64 => value.to_bits(),
            DType::F16 => u64::from(f16::from_f64(dtype.round_f64(value)).to_bits()),
            DType::Bf16 => u64::from(bf16::from_f64(dtype.round_f64(value)).to_bits()),
            DType::I32 => u64::from(value as i32 as u32),
            DType::I64 => value as i64 as u64,
            DType::U8 => u64::from(value as u8),
            DType::Bool => u64::from(value != 0.0),
        };
        Literal { dtype, bits }
    }

    /// The literal of an integer: rounded to a float type, wrapped to an integer type, nonzero is true.
    pub fn from_i64(dtype: DType, value: i64) -> Self {
        let bits = match dtype {
            DType::I32 => u64::from(value as i32 as u32),
            DType::I64 => value as u64,
            DType::U8 => u64::from(value as u8),
            DType::Bool => u64::from(value != 0),
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => {
                return Literal::from_f64(dtype, dtype.round_i64(value));
            }
        };
        Literal { dtype, bits }
    }

    /// The literal with these bits in the low bytes; bits beyond the type's size are dropped.
    pub fn from_bits(dtype: DType, bits: u64) -> Self {
        let mask = u64::MAX >> (64 - 8 * dtype.size() as u32);
        Literal { dtype, bits: if dtype == DType::Bool { bits & 1 } else { bits & mask } }
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// The bits, zero-extended.
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// The value as f64; exact except for i64 beyond 2^53.
    pub fn as_f64(self) -> f64 {
        match self.dtype {
            DType::F32 => f64::from(f32::from_bits(self.bits as u32)),
            DType::F64 => f64::from_bits(self.bits),
            DType::F16 => f16::from_bits(self.bits as u16).to_f64(),
            DType::Bf16 => bf16::from_bits(self.bits as u16).to_f64(),
            DType::I32 | DType::I64 | DType::U8 | DType::Bool => self.as_i64() as f64,
        }
    }

    /// The value as i64; floats are truncated and saturated.
    pub fn as_i64(self) -> i64 {
        match self.dtype {
            DType::I32 => i64::from(self.bits as u32 as i32),
            DType::I64 => self.bits as i64,
            DType::U8 | DType::Bool => self.bits as i64,
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => self.as_f64() as i64,
        }
    }
}

/// Prints the value so that parsing it back gives the same bits: `1`, `0.5`, `-inf`, `nan`, `true`. A NaN
/// other than the canonical quiet one prints as `nan:0x7fc00001`.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::Bool => write!(f, "{}", self.bits != 0),
            DType::I32 | DType::I64 | DType::U8 => write!(f, "{}", self.as_i64()),
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => {
                let value = self.as_f64();
                if value.is_nan() && self.bits != Literal::from_f64(self.dtype, f64::NAN).bits {
                    write!(f, "nan:{:#x}", self.bits)
                } else if value.is_nan() {
                    f.write_str("nan")
                } else if value.is_infinite() {
                    f.write_str(if value > 0.0 { "inf" } else { "-inf" })
                } else if self.dtype == DType::F64 {
                    write!(f, "{value:?}")
                } else {
                    // The shortest decimal that identifies an f32 also identifies the narrower types.
                    write!(f, "{:?}", value as f32)
                }
            }
        }
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}: {}", self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_to_half_widths_round_once() {
        // Just above a tie, by a bit that a detour through f32 would lose.
        let above = |tie: f64| 1.0 + tie + 2f64.powi(-40);
        let f16 = Literal::from_f64(DType::F16, above(2f64.powi(-11)));
        assert_eq!(f16.as_f64(), 1.0 + 2f64.powi(-10));
        let bf16 = Literal::from_f64(DType::Bf16, above(2f64.powi(-8)));
        assert_eq!(bf16.as_f64(), 1.0 + 2f64.powi(-7));
        let wide = Literal::from_i64(DType::Bf16, (1 << 62) + (1 << 54) + 1);
        assert_eq!(wide.as_f64(), 2f64.powi(62) + 2f64.powi(55));
    }

    #[test]
    fn half_widths_underflow_gradually_and_overflow_to_infinity() {
        assert_eq!(DType::F16.round_f64(2f64.powi(-24)), 2f64.powi(-24));
        assert_eq!(DType::F16.round_f64(2f64.powi(-25)), 0.0);
        assert_eq!(DType::F16.round_f64(1.5 * 2f64.powi(-25)), 2f64.powi(-24));
        assert_eq!(DType::F16.round_f64(65519.0), 65504.0);
        assert_eq!(DType::F16.round_f64(-65520.0), f64::NEG_INFINITY);
        assert!(DType::Bf16.round_f64(-1e-300).is_sign_negative());
        assert_eq!(DType::Bf16.round_f64(f64::MAX), f64::INFINITY);
    }
}
