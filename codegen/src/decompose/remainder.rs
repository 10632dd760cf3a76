//! The floating-point remainder, exact: long division of the significands in 64-bit integers, as many bits a
//! step as fit.

use super::copy_sign;
use super::exponential::scale;
use super::{is_double, significand_bits};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, ValueId};

/// A magnitude as `significand · 2^exponent`, the exponent biased so that it is at least 1.
struct Magnitude {
    exponent: ValueId,
    significand: ValueId,
}

/// The bits of a float scalar as an i64.
fn bits(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    if is_double(b, x) {
        return b.bitcast(x, LaneType::I64);
    }
    let bits = b.bitcast(x, LaneType::I32);
    b.convert(Conversion::ZeroExtend, bits, LaneType::I64)
}

fn magnitude(b: &mut FunctionBuilder, x: ValueId) -> Magnitude {
    let stored = significand_bits(b, x);
    let absolute = b.abs(x);
    let bits = bits(b, absolute);
    let field = b.shift_right_logical(bits, stored);
    let mask = b.integer_like(bits, (1 << stored) - 1);
    let fraction = b.and(bits, mask);
    let implicit = b.integer_like(bits, 1 << stored);
    let full = b.or(fraction, implicit);
    let subnormal = b.compare_integer(Condition::Eq, field, 0);
    let significand = b.select(subnormal, fraction, full);
    let one = b.integer_like(bits, 1);
    let exponent = b.select(subnormal, one, field);
    Magnitude { exponent, significand }
}

/// The remainder with the sign of x.
pub(super) fn rem(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let stored = significand_bits(b, x);
    let (dividend, divisor) = (magnitude(b, x), magnitude(b, y));
    let is_zero = b.compare_integer(Condition::Eq, divisor.significand, 0);
    let one = b.integer_like(divisor.significand, 1);
    let safe = b.select(is_zero, one, divisor.significand);
    let distance = b.sub(dividend.exponent, divisor.exponent);
    let first = b.binary(BinaryOp::IntRem, dividend.significand, safe);
    // A remainder has stored + 1 bits, so that it can move up by this much within 63.
    let step = 62 - stored;
    let begin = b.index(0);
    let rest = b.counted_loop(begin, distance, step, &[first], |b, done, rest| {
        let left = b.sub(distance, done);
        let step = b.index(step);
        let shift = b.binary(BinaryOp::Min, left, step);
        let moved = b.binary(BinaryOp::ShiftLeft, rest[0], shift);
        vec![b.binary(BinaryOp::IntRem, moved, safe)]
    })[0];
    let float = b.ty(x).lane;
    let value = b.convert(Conversion::IntToFloat, rest, float);
    let bias = if is_double(b, x) { 1023 } else { 127 };
    let bias = b.index(bias + stored);
    let exponent = b.sub(divisor.exponent, bias);
    let exponent =
        if is_double(b, x) { exponent } else { b.convert(Conversion::IntToInt, exponent, LaneType::I32) };
    let value = scale(b, value, exponent);
    let value = copy_sign(b, value, x);
    with_limits(b, x, y, value)
}

/// x where it is the smaller, NaN for infinite x, zero y and NaN.
fn with_limits(b: &mut FunctionBuilder, x: ValueId, y: ValueId, value: ValueId) -> ValueId {
    let (size_x, size_y) = (b.abs(x), b.abs(y));
    let smaller = b.compare(Condition::Lt, size_x, size_y);
    let value = b.select(smaller, x, value);
    let infinity = b.number_like(x, f64::INFINITY);
    let zero = b.number_like(x, 0.0);
    let finite = b.compare(Condition::Lt, size_x, infinity);
    let divides = b.compare(Condition::Gt, size_y, zero);
    let defined = b.and(finite, divides);
    let nan = b.number_like(x, f64::NAN);
    b.select(defined, value, nan)
}

/// The remainder with the sign of y.
pub(super) fn modulo(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let rest = rem(b, x, y);
    let zero = b.number_like(x, 0.0);
    let (rest_negative, y_negative) =
        (b.compare(Condition::Lt, rest, zero), b.compare(Condition::Lt, y, zero));
    let unequal = b.xor(rest_negative, y_negative);
    let moved = b.add(rest, y);
    let adjusted = b.select(unequal, moved, rest);
    let is_zero = b.compare(Condition::Eq, rest, zero);
    let signed_zero = copy_sign(b, zero, y);
    b.select(is_zero, signed_zero, adjusted)
}
