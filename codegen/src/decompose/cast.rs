//! Casts between element types, and index expressions as elements.

use fuse_ir::DType;

use super::arithmetic::low_byte;
use super::{narrow, register_type};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, ValueId};

/// Converts a register from one element type to another: to a float rounding to nearest even, to an integer
/// truncating and saturating (NaN to 0), between integers wrapping, to bool as "differs from zero".
pub fn cast(b: &mut FunctionBuilder, from: DType, to: DType, x: ValueId) -> ValueId {
    if from == to {
        return x;
    }
    // What was computed in f32 takes its own type's precision before it becomes something else.
    let x = narrow::round(b, from, x);
    if from == DType::Bool {
        from_bool(b, to, x)
    } else if from.is_float() {
        from_float(b, from, to, x)
    } else {
        from_integer(b, from, to, x)
    }
}

/// An index expression's value (i64 scalar) as an element.
pub fn from_index(b: &mut FunctionBuilder, to: DType, x: ValueId) -> ValueId {
    cast(b, DType::I64, to, x)
}

fn from_bool(b: &mut FunctionBuilder, to: DType, x: ValueId) -> ValueId {
    match register_type(to) {
        lane @ (LaneType::F32 | LaneType::F64) => {
            let ty = b.ty(x).with_lane(lane);
            let (one, zero) = (b.number(ty, 1.0), b.number(ty, 0.0));
            b.select(x, one, zero)
        }
        LaneType::I32 => b.convert(Conversion::BoolToInt, x, LaneType::I32),
        LaneType::I64 => {
            let ty = b.ty(x).with_lane(LaneType::I64);
            let (one, zero) = (b.integer(ty, 1), b.integer(ty, 0));
            b.select(x, one, zero)
        }
        LaneType::Bool => x,
    }
}

fn from_float(b: &mut FunctionBuilder, from: DType, to: DType, x: ValueId) -> ValueId {
    match to {
        DType::Bool => b.compare_number(Condition::Ne, x, 0.0),
        DType::I32 => b.convert(Conversion::FloatToInt, x, LaneType::I32),
        DType::I64 => b.convert(Conversion::FloatToInt, x, LaneType::I64),
        DType::U8 => {
            let wide = b.convert(Conversion::FloatToInt, x, LaneType::I32);
            let (low, high) = (b.integer_like(wide, 0), b.integer_like(wide, 255));
            let raised = b.binary(BinaryOp::Max, wide, low);
            b.binary(BinaryOp::Min, raised, high)
        }
        DType::F64 => b.convert(Conversion::FloatToFloat, x, LaneType::F64),
        DType::F32 if from == DType::F64 => b.convert(Conversion::FloatToFloat, x, LaneType::F32),
        DType::F32 => x,
        DType::F16 | DType::Bf16 => {
            let single = if from == DType::F64 { f32_to_odd(b, x) } else { x };
            narrow::round(b, to, single)
        }
    }
}

fn from_integer(b: &mut FunctionBuilder, from: DType, to: DType, x: ValueId) -> ValueId {
    match to {
        DType::Bool => b.compare_integer(Condition::Ne, x, 0),
        DType::F32 => b.convert(Conversion::IntToFloat, x, LaneType::F32),
        DType::F64 => b.convert(Conversion::IntToFloat, x, LaneType::F64),
        DType::F16 | DType::Bf16 if from == DType::U8 => {
            let exact = b.convert(Conversion::IntToFloat, x, LaneType::F32);
            narrow::round(b, to, exact)
        }
        DType::F16 | DType::Bf16 => {
            let single = integer_to_odd(b, x);
            narrow::round(b, to, single)
        }
        DType::I64 if from == DType::U8 => b.convert(Conversion::ZeroExtend, x, LaneType::I64),
        DType::I64 => b.convert(Conversion::IntToInt, x, LaneType::I64),
        DType::I32 if from == DType::I64 => b.convert(Conversion::IntToInt, x, LaneType::I32),
        DType::I32 => x,
        DType::U8 => {
            let narrow =
                if from == DType::I64 { b.convert(Conversion::IntToInt, x, LaneType::I32) } else { x };
            low_byte(b, narrow)
        }
    }
}

/// The f32 next to an f64, the odd one of two where it lies between, so that rounding it further is rounding
/// the f64 itself (Boldo and Melquiond).
fn f32_to_odd(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let nearest = b.convert(Conversion::FloatToFloat, x, LaneType::F32);
    let back = b.convert(Conversion::FloatToFloat, nearest, LaneType::F64);
    let inexact = {
        let below = b.compare(Condition::Lt, back, x);
        let above = b.compare(Condition::Gt, back, x);
        b.or(below, above)
    };
    let (size, exact_size) = (b.abs(back), b.abs(x));
    let short = b.compare(Condition::Lt, size, exact_size);
    to_odd(b, nearest, inexact, short)
}

/// As [`f32_to_odd`] for an integer.
fn integer_to_odd(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let nearest = b.convert(Conversion::IntToFloat, x, LaneType::F32);
    let back = b.convert(Conversion::FloatToInt, nearest, b.ty(x).lane);
    let inexact = b.compare(Condition::Ne, back, x);
    let smaller = b.compare(Condition::Lt, back, x);
    let negative = b.compare_integer(Condition::Lt, x, 0);
    // Short of the integer in magnitude: below a positive one, above a negative one.
    let short = b.xor(smaller, negative);
    to_odd(b, nearest, inexact, short)
}

/// Moves an inexact even significand to its odd neighbour on the side of the exact value.
fn to_odd(b: &mut FunctionBuilder, nearest: ValueId, inexact: ValueId, short: ValueId) -> ValueId {
    let bits = b.bitcast(nearest, LaneType::I32);
    let one = b.integer_like(bits, 1);
    let last = b.and(bits, one);
    let even = b.compare_integer(Condition::Eq, last, 0);
    let (up, down) = (b.add(bits, one), b.sub(bits, one));
    let odd = b.select(short, up, down);
    let adjust = b.and(inexact, even);
    let bits = b.select(adjust, odd, bits);
    b.bitcast(bits, LaneType::F32)
}
