//! The power of scalars: `2^(y·log2|x|)`, with the logarithm in double-word arithmetic for f64; f32 is
//! computed in f64.

use super::coefficients::{LOG_TAIL, THIRD, TWO_LOG2_E};
use super::exponential::exp2_of_sum;
use super::logarithm::split_any;
use super::{copy_sign, is_double};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Condition, Conversion, LaneType, UnaryOp, ValueId};

/// An unevaluated sum; the second part is below the last place of the first.
#[derive(Clone, Copy)]
struct Double {
    high: ValueId,
    low: ValueId,
}

/// `x + y`, exactly (Knuth).
fn two_sum(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> Double {
    let high = b.add(x, y);
    let y_part = b.sub(high, x);
    let x_part = b.sub(high, y_part);
    let (x_error, y_error) = (b.sub(x, x_part), b.sub(y, y_part));
    Double { high, low: b.add(x_error, y_error) }
}

/// `x·y` to about twice the precision.
fn product(b: &mut FunctionBuilder, x: Double, y: Double) -> Double {
    let high = b.mul(x.high, y.high);
    let negated = b.neg(high);
    let error = b.fma(x.high, y.high, negated);
    let cross = b.mul(x.low, y.high);
    let cross = b.fma(x.high, y.low, cross);
    Double { high, low: b.add(error, cross) }
}

fn constant(b: &mut FunctionBuilder, like: ValueId, parts: [f64; 2]) -> Double {
    Double { high: b.number_like(like, parts[0]), low: b.number_like(like, parts[1]) }
}

/// `log2(x)` for positive finite x: `2·atanh(s)/ln(2)` with `s = (m - 1)/(m + 1)`; the series' first two terms
/// are double words.
fn log2(b: &mut FunctionBuilder, x: ValueId) -> Double {
    let (exponent, m) = split_any(b, x);
    let one = b.number_like(x, 1.0);
    let numerator = b.sub(m, one);
    let denominator = two_sum(b, m, one);
    let high = b.div(numerator, denominator.high);
    let negated = b.neg(high);
    let rest = b.fma(negated, denominator.high, numerator);
    let rest = b.fma(negated, denominator.low, rest);
    let s = Double { high, low: b.div(rest, denominator.high) };
    let z = product(b, s, s);
    let cube = product(b, s, z);
    let third = constant(b, x, THIRD);
    let third = product(b, cube, third);
    let tail = b.polynomial(z.high, &LOG_TAIL);
    let fifth = b.mul(cube.high, z.high);
    let tail = b.mul(fifth, tail);
    let sum = two_sum(b, s.high, third.high);
    let low = b.add(s.low, third.low);
    let low = b.add(low, tail);
    let low = b.add(low, sum.low);
    let sum = two_sum(b, sum.high, low);
    let factor = constant(b, x, TWO_LOG2_E);
    let fraction = product(b, sum, factor);
    let whole = two_sum(b, exponent, fraction.high);
    let low = b.add(whole.low, fraction.low);
    two_sum(b, whole.high, low)
}

pub(super) fn pow(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    if is_double(b, x) {
        return pow_double(b, x, y);
    }
    let wide_x = b.convert(Conversion::FloatToFloat, x, LaneType::F64);
    let wide_y = b.convert(Conversion::FloatToFloat, y, LaneType::F64);
    let power = pow_double(b, wide_x, wide_y);
    b.convert(Conversion::FloatToFloat, power, LaneType::F32)
}

fn pow_double(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let size = b.abs(x);
    let (zero, one) = (b.number_like(x, 0.0), b.number_like(x, 1.0));
    let infinity = b.number_like(x, f64::INFINITY);
    let logarithm = log2(b, size);
    // The limits of the logarithm, with no low part.
    let is_zero = b.compare(Condition::Eq, size, zero);
    let least = b.neg(infinity);
    let high = b.select(is_zero, least, logarithm.high);
    let unbounded = b.compare(Condition::Eq, size, infinity);
    let high = b.select(unbounded, infinity, high);
    let is_nan = b.compare(Condition::Ne, x, x);
    let high = b.select(is_nan, x, high);

    let product = b.mul(y, high);
    let negated = b.neg(product);
    let error = b.fma(y, high, negated);
    let low = b.fma(y, logarithm.low, error);
    // Far out, where the result is 0 or infinite anyway, the low part may be NaN.
    let distance = b.abs(product);
    let matters = b.compare_number(Condition::Lt, distance, 1100.0);
    let low = b.select(matters, low, zero);
    let power = exp2_of_sum(b, product, low);
    let power = with_sign(b, x, y, power);
    with_limits(b, x, y, power, one)
}

/// Negative for a negative x and an odd y; NaN for a negative finite x and a y that is no integer.
fn with_sign(b: &mut FunctionBuilder, x: ValueId, y: ValueId, power: ValueId) -> ValueId {
    let is_integer = |b: &mut FunctionBuilder, v: ValueId| {
        let whole = b.unary(UnaryOp::Trunc, v);
        b.compare(Condition::Eq, whole, v)
    };
    let half = b.number_like(y, 0.5);
    let half_y = b.mul(y, half);
    let (integer, even) = (is_integer(b, y), is_integer(b, half_y));
    let uneven = b.not(even);
    let odd = b.and(integer, uneven);
    let signed = copy_sign(b, power, x);
    let power = b.select(odd, signed, power);
    let (zero, least) = (b.number_like(x, 0.0), b.number_like(x, f64::NEG_INFINITY));
    let below = b.compare(Condition::Lt, x, zero);
    let finite = b.compare(Condition::Gt, x, least);
    let broken = b.not(integer);
    let undefined = b.and(below, finite);
    let undefined = b.and(undefined, broken);
    let nan = b.number_like(x, f64::NAN);
    b.select(undefined, nan, power)
}

/// 1 to any power and anything to the power 0 are 1, NaN too; -1 to an infinite power is 1.
fn with_limits(b: &mut FunctionBuilder, x: ValueId, y: ValueId, power: ValueId, one: ValueId) -> ValueId {
    let y_zero = b.compare_number(Condition::Eq, y, 0.0);
    let x_one = b.compare(Condition::Eq, x, one);
    let always = b.or(y_zero, x_one);
    let power = b.select(always, one, power);
    let size_x = b.abs(x);
    let size_y = b.abs(y);
    let unit = b.compare(Condition::Eq, size_x, one);
    let endless = b.compare_number(Condition::Eq, size_y, f64::INFINITY);
    let alternating = b.and(unit, endless);
    b.select(alternating, one, power)
}
