//! f16 and bf16 in integer arithmetic: no target needs an instruction for them, and all agree. Only widening f16 is a
//! primitive, because some targets do it in one instruction; the others take [`crate::scalar::half_to_float`].

use fuse_ir::DType;

use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Condition, Conversion, LaneType, ValueId};

/// The element that a load gave, as a register of its type.
pub fn from_memory(b: &mut FunctionBuilder, dtype: DType, loaded: ValueId) -> ValueId {
    match dtype {
        DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U8 => loaded,
        DType::Bool => b.compare_integer(Condition::Ne, loaded, 0),
        DType::F16 => b.convert(Conversion::HalfToFloat, loaded, LaneType::F32),
        DType::Bf16 => {
            let bits = b.shift_left(loaded, 16);
            b.bitcast(bits, LaneType::F32)
        }
    }
}

/// A register as what a store to memory of that type takes.
pub fn to_memory(b: &mut FunctionBuilder, dtype: DType, x: ValueId) -> ValueId {
    match dtype {
        DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U8 => x,
        DType::Bool => b.convert(Conversion::BoolToInt, x, LaneType::I32),
        DType::F16 => narrow_f16(b, x),
        DType::Bf16 => narrow_bf16(b, x),
    }
}

/// An f32 register rounded to nearest even to f16 or bf16, as an f32; other types stay.
pub(super) fn round(b: &mut FunctionBuilder, dtype: DType, x: ValueId) -> ValueId {
    match dtype {
        DType::F16 | DType::Bf16 => {
            let bits = to_memory(b, dtype, x);
            from_memory(b, dtype, bits)
        }
        DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => x,
    }
}

fn narrow_bf16(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let bits = b.bitcast(x, LaneType::I32);
    let kept = b.shift_right_logical(bits, 16);
    let one = b.integer_like(bits, 1);
    let odd = b.and(kept, one);
    let half = b.integer_like(bits, 0x7fff);
    // Adding just under half a unit, and the rest of it where the kept part is odd, rounds ties to even.
    let rounding = b.add(half, odd);
    let rounded = b.add(bits, rounding);
    let rounded = b.shift_right_logical(rounded, 16);
    let quiet = b.integer_like(bits, 0x40);
    let nan = b.or(kept, quiet);
    let is_nan = b.compare(Condition::Ne, x, x);
    b.select(is_nan, nan, rounded)
}

fn narrow_f16(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let bits = b.bitcast(x, LaneType::I32);
    let magnitude_mask = b.integer_like(bits, 0x7fff_ffff);
    let magnitude = b.and(bits, magnitude_mask);
    // Normal results: rebias the exponent and round as above.
    let last = b.shift_right_logical(magnitude, 13);
    let one = b.integer_like(bits, 1);
    let odd = b.and(last, one);
    let rebias = b.integer_like(bits, -(112 << 23) + 0xfff);
    let rounding = b.add(rebias, odd);
    let normal = b.add(magnitude, rounding);
    let normal = b.shift_right_logical(normal, 13);
    // Subnormal results are multiples of 2^-24, the unit in the last place of 0.5: adding that rounds.
    let absolute = b.bitcast(magnitude, LaneType::F32);
    let half = b.number_like(absolute, 0.5);
    let sum = b.add(absolute, half);
    let sum = b.bitcast(sum, LaneType::I32);
    let half_bits = b.integer_like(bits, 0x3f00_0000);
    let subnormal = b.sub(sum, half_bits);
    let is_subnormal = b.compare_integer(Condition::Lt, magnitude, 113 << 23);
    let finite = b.select(is_subnormal, subnormal, normal);
    let is_large = b.compare_integer(Condition::Ge, magnitude, 143 << 23);
    let infinity = b.integer_like(bits, 0x7c00);
    let result = b.select(is_large, infinity, finite);
    let is_nan = b.compare(Condition::Ne, x, x);
    let nan = b.integer_like(bits, 0x7e00);
    let result = b.select(is_nan, nan, result);
    let sign = b.shift_right_logical(bits, 16);
    let sign_mask = b.integer_like(bits, 0x8000);
    let sign = b.and(sign, sign_mask);
    b.or(result, sign)
}
