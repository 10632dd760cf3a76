//! Logarithms: the significand is brought between √½ and √2, so that near 1 the exponent is 0 and nothing
//! cancels.

use super::coefficients::{LN_2_F32, LN_2_F64, LOG_F32, LOG_F64, LOG2_E_F32, LOG2_E_F64};
use super::exponential::{exp_of_nonpositive, power_of_two};
use super::{bits_lane, is_double, significand_bits};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, ValueId};

/// `x = 2^exponent · (1 + fraction)`, with 1 + fraction between √½ and √2.
pub(super) struct Split {
    /// The exponent as an integer of the float's width.
    pub(super) exponent: ValueId,
    /// 1 + fraction.
    pub(super) significand: ValueId,
}

/// Splits a positive normal number.
pub(super) fn split(b: &mut FunctionBuilder, x: ValueId) -> Split {
    let root = if is_double(b, x) {
        std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64
    } else {
        i64::from(std::f32::consts::FRAC_1_SQRT_2.to_bits())
    };
    let stored = significand_bits(b, x);
    let bits = b.bitcast(x, bits_lane(b, x));
    let root = b.integer_like(bits, root);
    let above = b.sub(bits, root);
    let exponent = b.shift_right_arithmetic(above, stored);
    let mask = b.integer_like(bits, (1 << stored) - 1);
    let kept = b.and(above, mask);
    let kept = b.add(kept, root);
    Split { exponent, significand: b.bitcast(kept, b.ty(x).lane) }
}

/// As [`split`] for subnormal numbers too; the exponent as a float.
pub(super) fn split_any(b: &mut FunctionBuilder, x: ValueId) -> (ValueId, ValueId) {
    let stored = significand_bits(b, x);
    let smallest = if is_double(b, x) { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) };
    let tiny = b.compare_number(Condition::Lt, x, smallest);
    let up = b.number_like(x, 2f64.powi(stored as i32 + 1));
    let raised = b.mul(x, up);
    let normal = b.select(tiny, raised, x);
    let parts = split(b, normal);
    let (offset, none) = (b.integer_like(parts.exponent, stored + 1), b.integer_like(parts.exponent, 0));
    let offset = b.select(tiny, offset, none);
    let exponent = b.sub(parts.exponent, offset);
    (small_integer_to_float(b, exponent, x), parts.significand)
}

/// An integer of magnitude below 2^20 as a float like `like`, by the bits of a large float.
fn small_integer_to_float(b: &mut FunctionBuilder, n: ValueId, like: ValueId) -> ValueId {
    if !is_double(b, like) {
        return b.convert(Conversion::IntToFloat, n, b.ty(like).lane);
    }
    // Vectors of 64-bit integers have no conversion; sums with the bits of 1.5·2^52 count its last place.
    let magic = b.number_like(like, 1.5 * 2f64.powi(52));
    let bits = b.bitcast(magic, b.ty(n).lane);
    let sum = b.add(bits, n);
    let sum = b.bitcast(sum, b.ty(like).lane);
    b.sub(sum, magic)
}

/// `log(1 + f) - f` for 1 + f between √½ and √2.
fn log_tail(b: &mut FunctionBuilder, f: ValueId) -> ValueId {
    let half = b.number_like(f, 0.5);
    let square = b.mul(f, f);
    if is_double(b, f) {
        // With s = f/(2 + f) and R = s²·p(s²): log(1 + f) = f - f²/2 + s·(f²/2 + R), the form that FreeBSD's
        // msun made known, whose rounding errors are all of small terms.
        let two = b.number_like(f, 2.0);
        let denominator = b.add(two, f);
        let s = b.div(f, denominator);
        let z = b.mul(s, s);
        let p = b.polynomial(z, &LOG_F64);
        let r = b.mul(z, p);
        let half_square = b.mul(square, half);
        let sum = b.add(half_square, r);
        let negated = b.neg(half_square);
        return b.fma(s, sum, negated);
    }
    let p = b.polynomial(f, &LOG_F32);
    let minus_half = b.neg(half);
    let q = b.fma(f, p, minus_half);
    b.mul(square, q)
}

/// `exponent·ln(2) + log(1 + f)`.
fn log_of_parts(b: &mut FunctionBuilder, exponent: ValueId, f: ValueId) -> ValueId {
    let [high, low] = if is_double(b, f) { LN_2_F64 } else { LN_2_F32 };
    let (high, low) = (b.number_like(f, high), b.number_like(f, low));
    let tail = log_tail(b, f);
    let tail = b.fma(exponent, low, tail);
    let sum = b.add(f, tail);
    b.fma(exponent, high, sum)
}

/// The logarithm's values where the computation has none: -inf at 0, NaN below, infinity at infinity.
fn with_limits(b: &mut FunctionBuilder, x: ValueId, result: ValueId) -> ValueId {
    let zero = b.number_like(x, 0.0);
    let (infinity, nan) = (b.number_like(x, f64::INFINITY), b.number_like(x, f64::NAN));
    let least = b.number_like(x, f64::NEG_INFINITY);
    let is_zero = b.compare(Condition::Eq, x, zero);
    let outside = b.select(is_zero, least, nan);
    let positive = b.compare(Condition::Gt, x, zero);
    let result = b.select(positive, result, outside);
    let unbounded = b.compare(Condition::Eq, x, infinity);
    b.select(unbounded, infinity, result)
}

fn fraction(b: &mut FunctionBuilder, significand: ValueId) -> ValueId {
    let one = b.number_like(significand, 1.0);
    b.sub(significand, one)
}

pub(super) fn log(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (exponent, significand) = split_any(b, x);
    let f = fraction(b, significand);
    let result = log_of_parts(b, exponent, f);
    with_limits(b, x, result)
}

pub(super) fn log2(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let (exponent, significand) = split_any(b, x);
    let f = fraction(b, significand);
    let [high, low] = if is_double(b, f) { LOG2_E_F64 } else { LOG2_E_F32 };
    let (high, low) = (b.number_like(f, high), b.number_like(f, low));
    let tail = log_tail(b, f);
    let tail = b.mul(tail, high);
    let tail = b.fma(f, low, tail);
    let sum = b.fma(f, high, tail);
    let result = b.add(exponent, sum);
    with_limits(b, x, result)
}

/// `log(1 + x)` for x above -1: of the rounded sum, with what rounding lost added to the fraction.
fn log1p_inside(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let one = b.number_like(x, 1.0);
    let sum = b.add(one, x);
    // Knuth's two-sum: `one + x = sum + lost` exactly.
    let x_part = b.sub(sum, one);
    let one_part = b.sub(sum, x_part);
    let x_error = b.sub(x, x_part);
    let one_error = b.sub(one, one_part);
    let lost = b.add(one_error, x_error);
    let parts = split(b, sum);
    // A large sum loses nothing that its logarithm would show, so the factor need not follow it.
    let largest = b.integer_like(parts.exponent, 100);
    let exponent = b.binary(BinaryOp::Min, parts.exponent, largest);
    let down = b.neg(exponent);
    let factor = power_of_two(b, down, x);
    let f = fraction(b, parts.significand);
    let f = b.fma(lost, factor, f);
    let exponent = small_integer_to_float(b, parts.exponent, x);
    log_of_parts(b, exponent, f)
}

pub(super) fn log1p(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let result = log1p_inside(b, x);
    let one = b.number_like(x, 1.0);
    let shifted = b.add(x, one);
    // 1 + x is exactly 0 at -1, below 0 only for x below -1, and infinite or NaN where x is.
    let result = with_limits(b, shifted, result);
    let zero = b.number_like(x, 0.0);
    let is_zero = b.compare(Condition::Eq, x, zero);
    b.select(is_zero, x, result)
}

/// `max(x, 0) + log(1 + exp(-|x|))`.
pub(super) fn softplus(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let magnitude = b.abs(x);
    let argument = b.neg(magnitude);
    let e = exp_of_nonpositive(b, argument);
    let correction = log1p_inside(b, e);
    let zero = b.number_like(x, 0.0);
    // NaN is not at most zero and stays.
    let cut = b.compare(Condition::Le, x, zero);
    let linear = b.select(cut, zero, x);
    b.add(linear, correction)
}
