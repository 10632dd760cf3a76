//! What the primitives do to one lane.

use fuse_ir::{DType, Literal};

use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, UnaryOp};

/// One lane of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lane {
    /// IEEE binary32.
    F32(f32),
    /// IEEE binary64.
    F64(f64),
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// True or false.
    Bool(bool),
}

impl Lane {
    /// The type of the lane.
    pub fn ty(self) -> LaneType {
        match self {
            Lane::F32(_) => LaneType::F32,
            Lane::F64(_) => LaneType::F64,
            Lane::I32(_) => LaneType::I32,
            Lane::I64(_) => LaneType::I64,
            Lane::Bool(_) => LaneType::Bool,
        }
    }
}

/// An element of memory as a register lane; narrow types as their bits.
pub(super) fn read(dtype: DType, element: &[u8]) -> Lane {
    let mut bytes = [0u8; 8];
    bytes[..element.len()].copy_from_slice(element);
    // Little-endian zero extension; on a big-endian machine the bytes are reversed first.
    if cfg!(target_endian = "big") {
        bytes[..element.len()].reverse();
    }
    let bits = u64::from_le_bytes(bytes);
    match LaneType::of_memory(dtype) {
        LaneType::F32 => Lane::F32(f32::from_bits(bits as u32)),
        LaneType::F64 => Lane::F64(f64::from_bits(bits)),
        LaneType::I32 => Lane::I32(bits as u32 as i32),
        LaneType::I64 => Lane::I64(bits as i64),
        LaneType::Bool => Lane::Bool(bits != 0),
    }
}

/// Writes the low bytes of a lane.
pub(super) fn write(lane: Lane, element: &mut [u8]) {
    let bits = match lane {
        Lane::F32(x) => u64::from(x.to_bits()),
        Lane::F64(x) => x.to_bits(),
        Lane::I32(x) => u64::from(x as u32),
        Lane::I64(x) => x as u64,
        Lane::Bool(x) => u64::from(x),
    };
    element.copy_from_slice(&bits.to_le_bytes()[..element.len()]);
    if cfg!(target_endian = "big") {
        element.reverse();
    }
}

/// A constant as a lane.
pub(super) fn constant(literal: Literal) -> Lane {
    match literal.dtype() {
        DType::F32 => Lane::F32(f32::from_bits(literal.bits() as u32)),
        DType::F64 => Lane::F64(f64::from_bits(literal.bits())),
        DType::I64 => Lane::I64(literal.bits() as i64),
        DType::Bool => Lane::Bool(literal.bits() != 0),
        DType::I32 | DType::U8 | DType::F16 | DType::Bf16 => Lane::I32(literal.bits() as u32 as i32),
    }
}

/// Two numbers rounded to a 16-bit type, the first in the low half.
pub(super) fn pair(dtype: DType, low: f32, high: f32) -> Lane {
    let bits = |x: f32| Literal::from_f64(dtype, f64::from(x)).bits() as u32 & 0xffff;
    Lane::I32((bits(low) | bits(high) << 16) as i32)
}

/// The bits of a number rounded to a significand of 11 bits, ties away from zero: half a unit is added to the magnitude.
pub(super) fn tf32(x: f32) -> Lane {
    let bits = if x.is_finite() { x.to_bits().wrapping_add(1 << 12) } else { x.to_bits() };
    Lane::I32((bits & !0x1fff) as i32)
}

/// `None` where the operation does not exist for the type.
pub(super) fn unary(op: UnaryOp, x: Lane) -> Option<Lane> {
    Some(match (op, x) {
        (UnaryOp::Neg, Lane::F32(x)) => Lane::F32(-x),
        (UnaryOp::Neg, Lane::F64(x)) => Lane::F64(-x),
        (UnaryOp::Neg, Lane::I32(x)) => Lane::I32(x.wrapping_neg()),
        (UnaryOp::Neg, Lane::I64(x)) => Lane::I64(x.wrapping_neg()),
        (UnaryOp::Abs, Lane::F32(x)) => Lane::F32(x.abs()),
        (UnaryOp::Abs, Lane::F64(x)) => Lane::F64(x.abs()),
        (UnaryOp::Sqrt, Lane::F32(x)) => Lane::F32(x.sqrt()),
        (UnaryOp::Sqrt, Lane::F64(x)) => Lane::F64(x.sqrt()),
        (UnaryOp::Floor, Lane::F32(x)) => Lane::F32(x.floor()),
        (UnaryOp::Floor, Lane::F64(x)) => Lane::F64(x.floor()),
        (UnaryOp::Ceil, Lane::F32(x)) => Lane::F32(x.ceil()),
        (UnaryOp::Ceil, Lane::F64(x)) => Lane::F64(x.ceil()),
        (UnaryOp::Trunc, Lane::F32(x)) => Lane::F32(x.trunc()),
        (UnaryOp::Trunc, Lane::F64(x)) => Lane::F64(x.trunc()),
        (UnaryOp::Nearest, Lane::F32(x)) => Lane::F32(x.round_ties_even()),
        (UnaryOp::Nearest, Lane::F64(x)) => Lane::F64(x.round_ties_even()),
        (UnaryOp::Not, Lane::I32(x)) => Lane::I32(!x),
        (UnaryOp::Not, Lane::I64(x)) => Lane::I64(!x),
        (UnaryOp::Not, Lane::Bool(x)) => Lane::Bool(!x),
        (UnaryOp::Neg, Lane::Bool(_))
        | (UnaryOp::Not, Lane::F32(_) | Lane::F64(_))
        | (
            UnaryOp::Abs | UnaryOp::Sqrt | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc | UnaryOp::Nearest,
            Lane::I32(_) | Lane::I64(_) | Lane::Bool(_),
        ) => return None,
    })
}

/// `None` where the operation does not exist for the types or its condition on the divisor is broken.
pub(super) fn binary(op: BinaryOp, x: Lane, y: Lane) -> Option<Lane> {
    match (x, y) {
        (Lane::F32(x), Lane::F32(y)) => binary_f32(op, x, y).map(Lane::F32),
        (Lane::F64(x), Lane::F64(y)) => binary_f64(op, x, y).map(Lane::F64),
        (Lane::I32(x), Lane::I32(y)) => binary_i32(op, x, y).map(Lane::I32),
        (Lane::I64(x), Lane::I64(y)) => binary_i64(op, x, y).map(Lane::I64),
        (Lane::Bool(x), Lane::Bool(y)) => binary_bool(op, x, y).map(Lane::Bool),
        _ => None,
    }
}

macro_rules! float_binary {
    ($name:ident, $float:ident) => {
        fn $name(op: BinaryOp, x: $float, y: $float) -> Option<$float> {
            Some(match op {
                BinaryOp::Add => x + y,
                BinaryOp::Sub => x - y,
                BinaryOp::Mul => x * y,
                BinaryOp::Div => x / y,
                BinaryOp::Min | BinaryOp::Max if x.is_nan() || y.is_nan() => $float::NAN,
                // Of two zeros the negative one is the smaller.
                BinaryOp::Min if x == y => {
                    if x.is_sign_negative() {
                        x
                    } else {
                        y
                    }
                }
                BinaryOp::Max if x == y => {
                    if x.is_sign_negative() {
                        y
                    } else {
                        x
                    }
                }
                BinaryOp::Min => {
                    if x < y {
                        x
                    } else {
                        y
                    }
                }
                BinaryOp::Max => {
                    if x > y {
                        x
                    } else {
                        y
                    }
                }
                BinaryOp::IntDiv
                | BinaryOp::IntRem
                | BinaryOp::And
                | BinaryOp::Or
                | BinaryOp::Xor
                | BinaryOp::ShiftLeft
                | BinaryOp::ShiftRightLogical
                | BinaryOp::ShiftRightArithmetic => return None,
            })
        }
    };
}
float_binary!(binary_f32, f32);
float_binary!(binary_f64, f64);

macro_rules! integer_binary {
    ($name:ident, $int:ident, $unsigned:ident) => {
        fn $name(op: BinaryOp, x: $int, y: $int) -> Option<$int> {
            Some(match op {
                BinaryOp::Add => x.wrapping_add(y),
                BinaryOp::Sub => x.wrapping_sub(y),
                BinaryOp::Mul => x.wrapping_mul(y),
                BinaryOp::Min => x.min(y),
                BinaryOp::Max => x.max(y),
                BinaryOp::IntDiv => x.checked_div(y)?,
                BinaryOp::IntRem => x.checked_rem(y)?,
                BinaryOp::And => x & y,
                BinaryOp::Or => x | y,
                BinaryOp::Xor => x ^ y,
                // The wrapping shifts take the distance modulo the width.
                BinaryOp::ShiftLeft => x.wrapping_shl(y as u32),
                BinaryOp::ShiftRightLogical => (x as $unsigned).wrapping_shr(y as u32) as $int,
                BinaryOp::ShiftRightArithmetic => x.wrapping_shr(y as u32),
                BinaryOp::Div => return None,
            })
        }
    };
}
integer_binary!(binary_i32, i32, u32);
integer_binary!(binary_i64, i64, u64);

fn binary_bool(op: BinaryOp, x: bool, y: bool) -> Option<bool> {
    match op {
        BinaryOp::And => Some(x & y),
        BinaryOp::Or => Some(x | y),
        BinaryOp::Xor => Some(x ^ y),
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Min
        | BinaryOp::Max
        | BinaryOp::IntDiv
        | BinaryOp::IntRem
        | BinaryOp::ShiftLeft
        | BinaryOp::ShiftRightLogical
        | BinaryOp::ShiftRightArithmetic => None,
    }
}

/// `None` where the operands are not floats of one type.
pub(super) fn fma(x: Lane, y: Lane, z: Lane) -> Option<Lane> {
    match (x, y, z) {
        (Lane::F32(x), Lane::F32(y), Lane::F32(z)) => Some(Lane::F32(x.mul_add(y, z))),
        (Lane::F64(x), Lane::F64(y), Lane::F64(z)) => Some(Lane::F64(x.mul_add(y, z))),
        _ => None,
    }
}

/// `None` where the operands are not of one type or have no order.
pub(super) fn compare(condition: Condition, x: Lane, y: Lane) -> Option<Lane> {
    fn holds<T: PartialOrd>(condition: Condition, x: T, y: T) -> bool {
        match condition {
            Condition::Eq => x == y,
            Condition::Ne => x != y,
            Condition::Lt => x < y,
            Condition::Le => x <= y,
            Condition::Gt => x > y,
            Condition::Ge => x >= y,
        }
    }
    let result = match (x, y) {
        (Lane::F32(x), Lane::F32(y)) => holds(condition, x, y),
        (Lane::F64(x), Lane::F64(y)) => holds(condition, x, y),
        (Lane::I32(x), Lane::I32(y)) => holds(condition, x, y),
        (Lane::I64(x), Lane::I64(y)) => holds(condition, x, y),
        (Lane::Bool(x), Lane::Bool(y)) => match condition {
            Condition::Eq => x == y,
            Condition::Ne => x != y,
            Condition::Lt | Condition::Le | Condition::Gt | Condition::Ge => return None,
        },
        _ => return None,
    };
    Some(Lane::Bool(result))
}

/// `None` where the conversion does not exist between the types.
pub(super) fn convert(conversion: Conversion, x: Lane, to: LaneType) -> Option<Lane> {
    use LaneType::{F32, F64, I32, I64};
    Some(match (conversion, x, to) {
        (Conversion::FloatToFloat, Lane::F32(x), F64) => Lane::F64(f64::from(x)),
        (Conversion::FloatToFloat, Lane::F64(x), F32) => Lane::F32(x as f32),
        (Conversion::IntToFloat, Lane::I32(x), F32) => Lane::F32(x as f32),
        (Conversion::IntToFloat, Lane::I32(x), F64) => Lane::F64(f64::from(x)),
        (Conversion::IntToFloat, Lane::I64(x), F32) => Lane::F32(x as f32),
        (Conversion::IntToFloat, Lane::I64(x), F64) => Lane::F64(x as f64),
        // Rust's casts truncate, saturate, and take NaN to 0.
        (Conversion::FloatToInt, Lane::F32(x), I32) => Lane::I32(x as i32),
        (Conversion::FloatToInt, Lane::F32(x), I64) => Lane::I64(x as i64),
        (Conversion::FloatToInt, Lane::F64(x), I32) => Lane::I32(x as i32),
        (Conversion::FloatToInt, Lane::F64(x), I64) => Lane::I64(x as i64),
        (Conversion::IntToInt, Lane::I32(x), I64) => Lane::I64(i64::from(x)),
        (Conversion::IntToInt, Lane::I64(x), I32) => Lane::I32(x as i32),
        (Conversion::ZeroExtend, Lane::I32(x), I64) => Lane::I64(i64::from(x as u32)),
        (Conversion::Bitcast, Lane::F32(x), I32) => Lane::I32(x.to_bits() as i32),
        (Conversion::Bitcast, Lane::I32(x), F32) => Lane::F32(f32::from_bits(x as u32)),
        (Conversion::Bitcast, Lane::F64(x), I64) => Lane::I64(x.to_bits() as i64),
        (Conversion::Bitcast, Lane::I64(x), F64) => Lane::F64(f64::from_bits(x as u64)),
        (Conversion::BoolToInt, Lane::Bool(x), I32) => Lane::I32(i32::from(x)),
        (Conversion::HalfToFloat, Lane::I32(x), F32) => {
            let bits = u64::from(u16::try_from(x).ok()?);
            Lane::F32(Literal::from_bits(DType::F16, bits).as_f64() as f32)
        }
        (
            Conversion::FloatToFloat
            | Conversion::IntToFloat
            | Conversion::FloatToInt
            | Conversion::IntToInt
            | Conversion::ZeroExtend
            | Conversion::Bitcast
            | Conversion::BoolToInt
            | Conversion::HalfToFloat,
            ..,
        ) => return None,
    })
}
