//! Sine and cosine of scalars, in f64 also for f32. Moderate arguments are reduced modulo π/2 by Cody and
//! Waite's method, large ones by Payne and Hanek's, with as many digits of 2/π as their exponent asks for.

use super::coefficients::{
    COS_F32, COS_F64, HALF_PI, HALF_PI_SPLIT, INVERSE_HALF_PI, SIN_F32, SIN_F64, TWO_OVER_PI,
};
use super::is_double;
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, Conversion, LaneType, Type, ValueId};

/// `x = quadrant·π/2 + rest`, |rest| at most π/4 (a little more by rounding).
struct Reduced {
    /// Modulo 4 (i64).
    quadrant: ValueId,
    rest: ValueId,
}

pub(super) fn sin(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let result = quarter_turns(b, x, 0);
    // The sums above turn -0 into 0.
    let is_zero = b.compare_number(Condition::Eq, x, 0.0);
    b.select(is_zero, x, result)
}

pub(super) fn cos(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    quarter_turns(b, x, 1)
}

/// `sin(x + turns·π/2)`.
fn quarter_turns(b: &mut FunctionBuilder, x: ValueId, turns: i64) -> ValueId {
    let double = is_double(b, x);
    let wide = if double { x } else { b.convert(Conversion::FloatToFloat, x, LaneType::F64) };
    let reduced = reduce(b, wide, double);
    let turns = b.index(turns);
    let quadrant = b.add(reduced.quadrant, turns);
    let (sine, cosine) = kernels(b, reduced.rest, double);
    let bit = |b: &mut FunctionBuilder, mask: i64| {
        let mask = b.index(mask);
        let bit = b.and(quadrant, mask);
        b.compare_integer(Condition::Ne, bit, 0)
    };
    let (odd, lower) = (bit(b, 1), bit(b, 2));
    let value = b.select(odd, cosine, sine);
    let negated = b.neg(value);
    let value = b.select(lower, negated, value);
    if double { value } else { b.convert(Conversion::FloatToFloat, value, LaneType::F32) }
}

/// Sine and cosine of a reduced argument.
fn kernels(b: &mut FunctionBuilder, r: ValueId, double: bool) -> (ValueId, ValueId) {
    let (sin, cos): (&[f64], &[f64]) = if double { (&SIN_F64, &COS_F64) } else { (&SIN_F32, &COS_F32) };
    let z = b.mul(r, r);
    let p = b.polynomial(z, sin);
    let zp = b.mul(z, p);
    let sine = b.fma(r, zp, r);
    // 1 - z/2 is kept with its rounding error, which is as large as the rest of the series.
    let (one, half) = (b.number_like(r, 1.0), b.number_like(r, 0.5));
    let half_square = b.mul(z, half);
    let head = b.sub(one, half_square);
    let back = b.sub(one, head);
    let lost = b.sub(back, half_square);
    let q = b.polynomial(z, cos);
    let square = b.mul(z, z);
    let tail = b.fma(square, q, lost);
    (sine, b.add(head, tail))
}

fn reduce(b: &mut FunctionBuilder, x: ValueId, double: bool) -> Reduced {
    let moderate = moderate(b, x, double);
    let size = b.abs(x);
    // As far as the products with k stay exact.
    let limit = if double { 2f64.powi(20) } else { 2f64.powi(28) };
    let limit = b.number_like(x, limit);
    let within = b.compare(Condition::Lt, size, limit);
    let large = b.not(within);
    // A loop of at most one iteration is the branch: large arguments are rare and expensive.
    let once = b.convert(Conversion::BoolToInt, large, LaneType::I32);
    let once = b.convert(Conversion::ZeroExtend, once, LaneType::I64);
    let begin = b.index(0);
    let inits = [moderate.quadrant, moderate.rest];
    let parts = b.counted_loop(begin, once, 1, &inits, |b, counter, _| {
        let reduced = payne_hanek(b, x, counter);
        vec![reduced.quadrant, reduced.rest]
    });
    // Infinity less itself is NaN, as is NaN; any other number leaves 0.
    let nothing = b.sub(x, x);
    Reduced { quadrant: parts[0], rest: b.add(parts[1], nothing) }
}

fn moderate(b: &mut FunctionBuilder, x: ValueId, double: bool) -> Reduced {
    let magic = b.number_like(x, 1.5 * 2f64.powi(52));
    let factor = b.number_like(x, INVERSE_HALF_PI);
    let sum = b.fma(x, factor, magic);
    // The low bits of the sum count in two's complement, and 1.5·2^52 ends in zeros.
    let quadrant = b.bitcast(sum, LaneType::I64);
    let k = b.sub(sum, magic);
    let parts: &[f64] = if double { &HALF_PI_SPLIT } else { &HALF_PI };
    let rest = parts.iter().fold(x, |rest, part| {
        let part = b.number_like(x, -part);
        b.fma(k, part, rest)
    });
    Reduced { quadrant, rest }
}

/// 64 binary digits of 2/π from digit `position` on (i64, from 0), where 64 zeros precede the point.
fn digits(b: &mut FunctionBuilder, position: ValueId, word: i64) -> ValueId {
    let at = b.shift_right_logical(position, 6);
    let mask = b.index(63);
    let bit = b.and(position, mask);
    let (high, low) = (digit_word(b, at, word), digit_word(b, at, word + 1));
    let left = b.binary(BinaryOp::ShiftLeft, high, bit);
    // In two steps, because a distance of 64 would be taken as 0.
    let one = b.index(1);
    let halved = b.binary(BinaryOp::ShiftRightLogical, low, one);
    let rest = b.sub(mask, bit);
    let right = b.binary(BinaryOp::ShiftRightLogical, halved, rest);
    b.or(left, right)
}

/// Word `at + offset` of the digits; `at` is from 0 to 16.
fn digit_word(b: &mut FunctionBuilder, at: ValueId, offset: i64) -> ValueId {
    let word = |i: i64| if i == 0 { 0 } else { TWO_OVER_PI.get(i as usize - 1).copied().unwrap_or(0) as i64 };
    (0..=16).rev().fold(b.index(0), |rest, i| {
        let word = b.index(word(i + offset));
        let here = b.compare_integer(Condition::Eq, at, i);
        b.select(here, word, rest)
    })
}

/// The upper 64 bits of the product of two unsigned integers, of which the first is below 2^53.
fn multiply_high(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let mask = b.index(0xffff_ffff);
    let (x_low, x_high) = (b.and(x, mask), b.shift_right_logical(x, 32));
    let (y_low, y_high) = (b.and(y, mask), b.shift_right_logical(y, 32));
    let low = b.mul(x_low, y_low);
    let low = b.shift_right_logical(low, 32);
    let middle = b.mul(x_high, y_low);
    let middle = b.add(middle, low);
    let middle_low = b.and(middle, mask);
    let middle_high = b.shift_right_logical(middle, 32);
    let other = b.mul(x_low, y_high);
    let other = b.add(other, middle_low);
    let other = b.shift_right_logical(other, 32);
    let high = b.mul(x_high, y_high);
    let high = b.add(high, middle_high);
    b.add(high, other)
}

/// The product of the significand and those digits of 2/π that matter: digits above multiply to whole turns,
/// which drop out as overflow of 64 bits.
fn payne_hanek(b: &mut FunctionBuilder, x: ValueId, counter: ValueId) -> Reduced {
    let bits = b.bitcast(x, LaneType::I64);
    // Adding the counter, which is 0, keeps the computation inside the loop.
    let bits = b.add(bits, counter);
    let field = b.shift_right_logical(bits, 52);
    let mask = b.index(0x7ff);
    let field = b.and(field, mask);
    let fraction_mask = b.index((1 << 52) - 1);
    let fraction = b.and(bits, fraction_mask);
    let implicit = b.index(1 << 52);
    let significand = b.or(fraction, implicit);
    // x = significand·2^(field - 1075); digits of weight 4 and more begin two places above that exponent.
    let offset = b.index(1075 - 62);
    let position = b.sub(field, offset);
    let [first, second, third] = [0, 1, 2].map(|word| digits(b, position, word));
    // A fixed-point number of 128 bits, 126 of them after the point, modulo 4.
    let head = b.mul(significand, first);
    let middle_high = multiply_high(b, significand, second);
    let middle = b.mul(significand, second);
    let last = multiply_high(b, significand, third);
    let low = b.add(middle, last);
    let sign = b.index(i64::MIN);
    let (low_flipped, middle_flipped) = (b.xor(low, sign), b.xor(middle, sign));
    let carried = b.compare(Condition::Lt, low_flipped, middle_flipped);
    let carry = b.convert(Conversion::BoolToInt, carried, LaneType::I32);
    let carry = b.convert(Conversion::ZeroExtend, carry, LaneType::I64);
    let high = b.add(head, middle_high);
    let high = b.add(high, carry);
    // The nearest quadrant, and what remains as a signed number.
    let half = b.index(1 << 61);
    let rounded = b.add(high, half);
    let quadrant = b.shift_right_logical(rounded, 62);
    let whole = b.shift_left(quadrant, 62);
    let rest = b.sub(high, whole);
    let double = Type::scalar(LaneType::F64);
    let rest = b.convert(Conversion::IntToFloat, rest, LaneType::F64);
    let low = b.shift_right_logical(low, 1);
    let low = b.convert(Conversion::IntToFloat, low, LaneType::F64);
    let low_unit = b.number(double, 2f64.powi(-63));
    let rest = b.fma(low, low_unit, rest);
    let unit = b.number(double, std::f64::consts::FRAC_PI_2 * 2f64.powi(-62));
    let rest = b.mul(rest, unit);
    let negative = b.compare_number(Condition::Lt, x, 0.0);
    let (minus_rest, minus_quadrant) = (b.neg(rest), b.neg(quadrant));
    Reduced {
        quadrant: b.select(negative, minus_quadrant, quadrant),
        rest: b.select(negative, minus_rest, rest),
    }
}
