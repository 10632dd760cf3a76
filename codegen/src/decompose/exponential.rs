//! exp and what is made of it: exp2, expm1, tanh, the logistic function. No branches, one polynomial each; the
//! last two, which recurrent cells spend their time in, cost one division more.

use super::coefficients::{
    EXP_F32, EXP_F64, EXP2_F32, EXP2_F64, EXPM1_F32, EXPM1_F64, LN_2_F32, LN_2_F64, LOG2_E_F64,
};
use super::{bits_lane, copy_sign, is_double, significand_bits};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, ValueId};

/// `x = k·ln(2) + r` with |r| at most ln(2)/2 and an integer k.
struct Reduced {
    /// k as an integer of the float's width.
    exponent: ValueId,
    /// r, rounded.
    rest: ValueId,
    /// The part of r that is exact, and what is missing from it.
    parts: [ValueId; 2],
}

/// Adding this rounds to an integer, which then stands in the low bits of the sum.
fn rounding_constant(b: &FunctionBuilder, x: ValueId) -> f64 {
    1.5 * 2f64.powi(significand_bits(b, x) as i32)
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

fn reduce(b: &mut FunctionBuilder, x: ValueId) -> Reduced {
    let (k, exponent) = nearest(b, x, LOG2_E_F64[0]);
    let [high, low] = if is_double(b, x) { LN_2_F64 } else { LN_2_F32 };
    // k·high is exact and so is its difference from x.
    let (high, low) = (b.number_like(x, -high), b.number_like(x, -low));
    let exact = b.fma(k, high, x);
    let missing = b.mul(k, low);
    Reduced { exponent, rest: b.add(exact, missing), parts: [exact, missing] }
}

/// `2^exponent`, which must be normal.
pub(super) fn power_of_two(b: &mut FunctionBuilder, exponent: ValueId, like: ValueId) -> ValueId {
    let bias = if is_double(b, like) { 1023 } else { 127 };
    let bias = b.integer_like(exponent, bias);
    let biased = b.add(exponent, bias);
    let bits = b.shift_left(biased, significand_bits(b, like));
    b.bitcast(bits, b.ty(like).lane)
}

/// `x` within bounds; NaN stays.
pub(super) fn bounded(b: &mut FunctionBuilder, x: ValueId, low: f64, high: f64) -> ValueId {
    let (low, high) = (b.number_like(x, low), b.number_like(x, high));
    let above = b.compare(Condition::Gt, x, high);
    let x = b.select(above, high, x);
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

/// `exp(r)` for the reduced argument. The linear term, which counts most, is taken unrounded.
fn exp_of_rest(b: &mut FunctionBuilder, reduced: &Reduced) -> ValueId {
    let (rest, [exact, missing]) = (reduced.rest, reduced.parts);
    let coefficients: &[f64] = if is_double(b, rest) { &EXP_F64 } else { &EXP_F32 };
    let q = b.polynomial(rest, coefficients);
    let square = b.mul(rest, rest);
    let tail = b.fma(square, q, missing);
    let tail = b.add(exact, tail);
    let one = b.number_like(rest, 1.0);
    b.add(one, tail)
}

/// `exp(r) - 1` for the reduced argument.
fn expm1_of_rest(b: &mut FunctionBuilder, rest: ValueId) -> ValueId {
    let coefficients: &[f64] = if is_double(b, rest) { &EXPM1_F64 } else { &EXPM1_F32 };
    let q = b.polynomial(rest, coefficients);
    let square = b.mul(rest, rest);
    b.fma(square, q, rest)
}

pub(super) fn exp(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (low, high) = if is_double(b, x) { (-746.0, 710.0) } else { (-104.0, 89.0) };
    let x = bounded(b, x, low, high);
    let reduced = reduce(b, x);
    let p = exp_of_rest(b, &reduced);
    scale(b, p, reduced.exponent)
}

/// `exp(x)` for x at most 0: an exponent that is never above 0 needs one factor and a constant.
pub(super) fn exp_of_nonpositive(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (low, offset) = if is_double(b, x) { (-746.0, 512) } else { (-104.0, 64) };
    let low = b.number_like(x, low);
    let below = b.compare(Condition::Lt, x, low);
    let x = b.select(below, low, x);
    let reduced = reduce(b, x);
    let p = exp_of_rest(b, &reduced);
    let offset_value = b.integer_like(reduced.exponent, offset);
    let raised = b.add(reduced.exponent, offset_value);
    let factor = power_of_two(b, raised, p);
    let p = b.mul(p, factor);
    let back = b.number_like(p, 2f64.powi(-(offset as i32)));
    b.mul(p, back)
}

pub(super) fn exp2(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let zero = b.number_like(x, 0.0);
    exp2_of_sum(b, x, zero)
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

/// `2^k·(exp(r) - 1) + (2^k - 1)`: nothing cancels, because k is 0 for small x and then the last term is too.
pub(super) fn expm1(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (low, high, largest) = if is_double(b, x) { (-40.0, 710.0, 1023) } else { (-20.0, 89.0, 127) };
    let x = bounded(b, x, low, high);
    let reduced = reduce(b, x);
    let p = expm1_of_rest(b, reduced.rest);
    // One exponent more than a float has is made up for by a factor of 2 at the end.
    let largest = b.integer_like(reduced.exponent, largest);
    let exponent = b.binary(BinaryOp::Min, reduced.exponent, largest);
    let excess = b.sub(reduced.exponent, exponent);
    let factor = power_of_two(b, exponent, x);
    let one = b.number_like(x, 1.0);
    let base = b.sub(factor, one);
    let sum = b.fma(factor, p, base);
    let excess = power_of_two(b, excess, x);
    b.mul(sum, excess)
}

/// With `w = exp(-2|x|)` and `e = 1 - w`: `e / (1 + w)` for small |x| and `1 - 2w / (1 + w)` for others, each as a
/// base plus a correction, since rounding the quotient then costs a fraction of what it would; and the
/// sign of x.
pub(super) fn tanh(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    // Beyond, the result is 1.
    let limit = if is_double(b, x) { 20.0 } else { 10.0 };
    let magnitude = b.abs(x);
    let limit = b.number_like(x, limit);
    let above = b.compare(Condition::Gt, magnitude, limit);
    let magnitude = b.select(above, limit, magnitude);
    let minus_two = b.number_like(x, -2.0);
    let argument = b.mul(magnitude, minus_two);
    let reduced = reduce(b, argument);
    let p = expm1_of_rest(b, reduced.rest);
    let factor = power_of_two(b, reduced.exponent, x);
    let (half, one) = (b.number_like(x, 0.5), b.number_like(x, 1.0));
    let w = b.fma(factor, p, factor);
    let base = b.sub(one, factor);
    let negated = b.neg(factor);
    let e = b.fma(negated, p, base);
    let far = b.mul(w, minus_two);
    let is_far = b.compare_number(Condition::Gt, magnitude, 0.55);
    let numerator = b.select(is_far, far, e);
    let denominator = b.add(one, w);
    let quotient = b.div(numerator, denominator);
    // With h = e/2: h / (1 - h) = h + h·(h / (1 - h)).
    let half_e = b.mul(e, half);
    let base = b.select(is_far, one, half_e);
    let result = b.fma(base, quotient, base);
    copy_sign(b, result, x)
}

/// With `e = exp(-|x|)` and `q = e / (1 + e)`: `1 - q`, or `e - e·q` for negative x. Accurate in both tails, and
/// rounding q costs a fraction of what it would in `e / (1 + e)` itself.
pub(super) fn sigmoid(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let magnitude = b.abs(x);
    let argument = b.neg(magnitude);
    let e = exp_of_nonpositive(b, argument);
    let one = b.number_like(x, 1.0);
    let denominator = b.add(one, e);
    let quotient = b.div(e, denominator);
    let zero = b.number_like(x, 0.0);
    let negative = b.compare(Condition::Lt, x, zero);
    let base = b.select(negative, e, one);
    let negated = b.neg(base);
    b.fma(negated, quotient, base)
}
