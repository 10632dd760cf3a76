//! exp and what is made of it: exp2, expm1, tanh, the logistic function. No branches, one polynomial each; the
//! last two, which recurrent cells spend their time in, cost one division more.
//!
//! What matters for speed is the number of operations: vectors of these keep all of a core's units busy. So each
//! function spends of its 2 ULP (`docs/perf/math.md` has what they are) on a shorter way.

use super::coefficients::{
    EXP_F32, EXP_F64, EXP_WIDE_F32, EXP_WIDE_F64, EXP2_F32, EXP2_F64, EXP2_WIDE_F32, EXP2_WIDE_F64,
    EXPM1_F32, EXPM1_F64, LN_2_F32, LN_2_F64, LOG2_E_F64, TANH_F32, TANH_F64,
};
use super::{bits_lane, copy_sign, is_double, significand_bits};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, ValueId};

/// Adding this rounds to an integer, which then stands in the low bits of the sum.
fn rounding_constant(b: &FunctionBuilder, x: ValueId) -> f64 {
    1.5 * 2f64.powi(significand_bits(b, x) as i32)
}

/// What is added to an exponent where a float stores it.
fn exponent_bias(b: &FunctionBuilder, x: ValueId) -> i64 {
    if is_double(b, x) { 1023 } else { 127 }
}

/// The integer nearest to `x·factor`, as a float and as an integer of its width; |x·factor| below 2^21.
fn nearest(b: &mut FunctionBuilder, x: ValueId, factor: f64) -> (ValueId, ValueId) {
    let magic = rounding_constant(b, x);
    let magic = b.number_like(x, magic);
    let factor = b.number_like(x, factor);
    let sum = b.fma(x, factor, magic);
    let lane = bits_lane(b, x);
    let (sum_bits, magic_bits) = (b.bitcast(sum, lane), b.bitcast(magic, lane));
    (b.sub(sum, magic), b.sub(sum_bits, magic_bits))
}

/// The integer k nearest to `x·factor`, as a float, and `2^(k + offset)`, which must be normal.
fn nearest_power(b: &mut FunctionBuilder, x: ValueId, factor: f64, offset: i64) -> (ValueId, ValueId) {
    // With the bias in the constant, the low bits of the sum are those of the power's exponent.
    let magic = rounding_constant(b, x) + (exponent_bias(b, x) + offset) as f64;
    let magic = b.number_like(x, magic);
    let factor = b.number_like(x, factor);
    let sum = b.fma(x, factor, magic);
    let k = b.sub(sum, magic);
    let bits = b.bitcast(sum, bits_lane(b, x));
    let bits = b.shift_left(bits, significand_bits(b, x));
    (k, b.bitcast(bits, b.ty(x).lane))
}

/// `x - k·times·ln(2)`, rounded once: the product with the first part of ln(2) is exact, and so is its difference
/// from x.
fn rest_of_ln_2(b: &mut FunctionBuilder, x: ValueId, k: ValueId, times: f64) -> ValueId {
    let parts = if is_double(b, x) { LN_2_F64 } else { LN_2_F32 };
    parts.into_iter().fold(x, |rest, part| {
        let part = b.number_like(x, -part * times);
        b.fma(k, part, rest)
    })
}

/// `2^exponent`, which must be normal.
pub(super) fn power_of_two(b: &mut FunctionBuilder, exponent: ValueId, like: ValueId) -> ValueId {
    let bias = exponent_bias(b, like);
    let bias = b.integer_like(exponent, bias);
    let biased = b.add(exponent, bias);
    let bits = b.shift_left(biased, significand_bits(b, like));
    b.bitcast(bits, b.ty(like).lane)
}

/// `x` within bounds; NaN stays.
pub(super) fn bounded(b: &mut FunctionBuilder, x: ValueId, low: f64, high: f64) -> ValueId {
    let x = at_most(b, x, high);
    at_least(b, x, low)
}

/// `x`, or `high` where it is above; NaN stays. CPUs have an instruction for exactly this comparison and choice.
fn at_most(b: &mut FunctionBuilder, x: ValueId, high: f64) -> ValueId {
    let high = b.number_like(x, high);
    let above = b.compare(Condition::Gt, x, high);
    b.select(above, high, x)
}

/// `x`, or `low` where it is below; NaN stays.
fn at_least(b: &mut FunctionBuilder, x: ValueId, low: f64) -> ValueId {
    let low = b.number_like(x, low);
    let below = b.compare(Condition::Lt, x, low);
    b.select(below, low, x)
}

/// `x·2^exponent` over the whole range: two factors, of which the second alone may round.
pub(super) fn scale(b: &mut FunctionBuilder, x: ValueId, exponent: ValueId) -> ValueId {
    let first = b.shift_right_arithmetic(exponent, 1);
    let second = b.sub(exponent, first);
    let (first, second) = (power_of_two(b, first, x), power_of_two(b, second, x));
    let x = b.mul(x, first);
    b.mul(x, second)
}

/// `exp(x)` by a power that is used twice, `x = k·2ln(2) + r`: the square of `2^k` reaches over the whole range, and
/// of the two products the second alone may round. The wider r costs one coefficient.
pub(super) fn exp(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let double = is_double(b, x);
    let (low, high) = if double { (-746.0, 710.0) } else { (-104.0, 89.0) };
    let x = bounded(b, x, low, high);
    let (k, factor) = nearest_power(b, x, LOG2_E_F64[0] / 2.0, 0);
    let rest = rest_of_ln_2(b, x, k, 2.0);
    let q = b.polynomial(rest, if double { &EXP_WIDE_F64 } else { &EXP_WIDE_F32 });
    times_power_twice(b, rest, q, factor)
}

/// As [`exp`] to base 2.
pub(super) fn exp2(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let double = is_double(b, x);
    let (low, high) = if double { (-1076.0, 1025.0) } else { (-151.0, 129.0) };
    let x = bounded(b, x, low, high);
    let (k, factor) = nearest_power(b, x, 0.5, 0);
    let minus_two = b.number_like(x, -2.0);
    let rest = b.fma(k, minus_two, x);
    let q = b.polynomial(rest, if double { &EXP2_WIDE_F64 } else { &EXP2_WIDE_F32 });
    times_power_twice(b, rest, q, factor)
}

/// `(1 + rest·q)·factor²`.
fn times_power_twice(b: &mut FunctionBuilder, rest: ValueId, q: ValueId, factor: ValueId) -> ValueId {
    let one = b.number_like(rest, 1.0);
    let p = b.fma(rest, q, one);
    let p = b.mul(p, factor);
    b.mul(p, factor)
}

/// An exponent in the middle of the range: added to those of a function's small results, none is below the range.
fn middle(b: &FunctionBuilder, x: ValueId) -> i64 {
    if is_double(b, x) { 512 } else { 64 }
}

/// `exp(x)` for x at most 0: an exponent that is never above 0 needs one power and a constant.
pub(super) fn exp_of_nonpositive(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (low, offset) = (if is_double(b, x) { -746.0 } else { -104.0 }, middle(b, x));
    let x = at_least(b, x, low);
    let (k, factor) = nearest_power(b, x, LOG2_E_F64[0], offset);
    let rest = rest_of_ln_2(b, x, k, 1.0);
    let q = b.polynomial(rest, if is_double(b, x) { &EXP_F64 } else { &EXP_F32 });
    let one = b.number_like(x, 1.0);
    let p = b.fma(rest, q, one);
    let p = b.mul(p, factor);
    let back = b.number_like(p, 2f64.powi(-(offset as i32)));
    b.mul(p, back)
}

/// `2^(x + tail)` for a tail below the last place of x.
pub(super) fn exp2_of_sum(b: &mut FunctionBuilder, x: ValueId, tail: ValueId) -> ValueId {
    let double = is_double(b, x);
    let (low, high) = if double { (-1076.0, 1025.0) } else { (-151.0, 129.0) };
    let x = bounded(b, x, low, high);
    let (k, exponent) = nearest(b, x, 1.0);
    let rest = b.sub(x, k);
    let rest = b.add(rest, tail);
    let coefficients: &[f64] = if double { &EXP2_F64 } else { &EXP2_F32 };
    let q = b.polynomial(rest, coefficients);
    let one = b.number_like(x, 1.0);
    let p = b.fma(rest, q, one);
    scale(b, p, exponent)
}

/// `r + r²·p(r)`.
fn quadratic(b: &mut FunctionBuilder, r: ValueId, coefficients: &[f64]) -> ValueId {
    let q = b.polynomial(r, coefficients);
    let square = b.mul(r, r);
    b.fma(square, q, r)
}

/// `2^k·(exp(r) - 1) + (2^k - 1)`: nothing cancels, because k is 0 for small x and then the last term is too.
pub(super) fn expm1(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (low, high, largest) = if is_double(b, x) { (-40.0, 710.0, 1023) } else { (-20.0, 89.0, 127) };
    let x = bounded(b, x, low, high);
    let (k, exponent) = nearest(b, x, LOG2_E_F64[0]);
    let rest = rest_of_ln_2(b, x, k, 1.0);
    let p = quadratic(b, rest, if is_double(b, x) { &EXPM1_F64 } else { &EXPM1_F32 });
    // One exponent more than a float has is made up for by a factor of 2 at the end.
    let largest = b.integer_like(exponent, largest);
    let normal = b.binary(BinaryOp::Min, exponent, largest);
    let excess = b.sub(exponent, normal);
    let factor = power_of_two(b, normal, x);
    let one = b.number_like(x, 1.0);
    let base = b.sub(factor, one);
    let sum = b.fma(factor, p, base);
    let excess = power_of_two(b, excess, x);
    let result = b.mul(sum, excess);
    // The sums above turn -0 into 0.
    copy_sign(b, result, x)
}

/// With `h = (exp(2|x|) - 1) / 2`: `h / (1 + h)`, which is `c - c·c / (1 + h)` for c = h and also, as it is
/// `1 - 1 / (1 + h)`, for c = 1. The smaller c makes the quotient a correction, so that rounding it costs a fraction
/// of what it would; and the sign of x.
pub(super) fn tanh(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let double = is_double(b, x);
    let magnitude = b.abs(x);
    // Beyond, the result is 1.
    let magnitude = at_most(b, magnitude, if double { 20.0 } else { 10.0 });
    let (k, factor) = nearest_power(b, magnitude, 2.0 * LOG2_E_F64[0], 0);
    let (one, half) = (b.number_like(x, 1.0), b.number_like(x, 0.5));
    let rest = if double {
        rest_of_ln_2(b, magnitude, k, 0.5)
    } else {
        // What a single part is off by counts for large k alone, where the quotient is small.
        let minus_half_ln_2 = b.number_like(x, -std::f64::consts::LN_2 / 2.0);
        b.fma(k, minus_half_ln_2, magnitude)
    };
    let p = quadratic(b, rest, if double { &TANH_F64 } else { &TANH_F32 });
    let minus_half = b.number_like(x, -0.5);
    let base = b.fma(factor, half, minus_half);
    let h = b.fma(factor, p, base);
    let denominator = b.add(h, one);
    let c = at_most(b, h, 1.0);
    let quotient = b.div(c, denominator);
    let negated = b.neg(c);
    let result = b.fma(negated, quotient, c);
    copy_sign(b, result, x)
}

/// `1 / (1 + exp(-x))`, numerator and denominator scaled so that neither overflows and a subnormal quotient is rounded
/// once. With `exp(-x) = 2^k·(1 + t)` the denominator is `(1 + 2^k·t) + 2^k`: what is not known exactly, `t`, is
/// small where it counts.
pub(super) fn sigmoid(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let double = is_double(b, x);
    let (low, high) = if double { (-746.0, 40.0) } else { (-104.0, 20.0) };
    let x = bounded(b, x, low, high);
    let offset = -middle(b, x);
    let (k, factor) = nearest_power(b, x, -LOG2_E_F64[0], offset);
    let negated = b.neg(x);
    let rest = rest_of_ln_2(b, negated, k, 1.0);
    let q = b.polynomial(rest, if double { &EXP_F64 } else { &EXP_F32 });
    let tail = b.mul(rest, q);
    let one = b.number_like(x, 2f64.powi(offset as i32));
    let sum = b.fma(factor, tail, one);
    let denominator = b.add(factor, sum);
    b.div(one, denominator)
}
