//! Trigonometric and hyperbolic functions that are not ops of their own, composed so that they are good over their
//! whole domain: nothing cancels near zero, nothing overflows before the result does.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, LN_2};

use super::super::table::{Evaluation::Computes, OpRow, row};
use super::elementwise::float_unary;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Tan", (7, 22), &[], Computes, |c| float_unary(c, |x| x.sin() / x.cos()), ""),
    row("Asin", (7, 22), &[], Computes, |c| float_unary(c, asin), ""),
    row("Acos", (7, 22), &[], Computes, |c| float_unary(c, acos), ""),
    row("Atan", (7, 22), &[], Computes, |c| float_unary(c, atan), ""),
    row("Sinh", (9, 22), &[], Computes, |c| float_unary(c, sinh), ""),
    row("Cosh", (9, 22), &[], Computes, |c| float_unary(c, cosh), ""),
    row("Asinh", (9, 22), &[], Computes, |c| float_unary(c, asinh), ""),
    row("Acosh", (9, 22), &[], Computes, |c| float_unary(c, acosh), ""),
    row("Atanh", (9, 22), &[], Computes, |c| float_unary(c, atanh), ""),
];

/// The rational approximation of `(atan(t) - t) / t^3` in `t^2` for `|t| <= 0.66`, of Moshier's Cephes library.
const ATAN_NUMERATOR: [f64; 5] = [
    -8.750_608_600_031_904e-1,
    -1.615_753_718_733_365e1,
    -7.500_855_792_314_705e1,
    -1.228_866_684_490_136_2e2,
    -6.485_021_904_942_025e1,
];
const ATAN_DENOMINATOR: [f64; 6] = [
    1.0,
    2.485_846_490_142_306_4e1,
    1.650_270_098_316_988_6e2,
    4.328_810_604_912_903e2,
    4.853_903_996_359_137e2,
    1.945_506_571_482_614e2,
];
/// tan(3π/8), above which the reciprocal is nearer to zero.
const TAN_3_PI_8: f64 = 2.414_213_562_373_095;

/// A polynomial, highest coefficient first.
fn polynomial(x: &Tensor, coefficients: &[f64]) -> Tensor {
    let leading = x.trace().constant(x.dtype(), coefficients[0]).broadcast_to(x.shape());
    coefficients[1..].iter().fold(leading, |sum, c| sum * x + *c)
}

fn atan(x: &Tensor) -> Tensor {
    let t = x.abs();
    let (large, middle) = (t.gt(TAN_3_PI_8), t.gt(0.66));
    let constant = |value: f64| x.trace().constant(x.dtype(), value);
    let reduced = large.select(-t.reciprocal(), middle.select((&t - 1.0) / (&t + 1.0), &t));
    let offset = large.select(constant(FRAC_PI_2), middle.select(constant(FRAC_PI_4), constant(0.0)));
    let square = &reduced * &reduced;
    let ratio = polynomial(&square, &ATAN_NUMERATOR) / polynomial(&square, &ATAN_DENOMINATOR);
    let positive = offset + (&reduced * (&square * ratio) + &reduced);
    with_sign_of(&positive, x)
}

/// An odd function's value at `|x|`, with the sign of `x`.
fn with_sign_of(positive: &Tensor, x: &Tensor) -> Tensor {
    x.lt(0.0).select(-positive, x.eq(0.0).select(x, positive))
}

fn asin(x: &Tensor) -> Tensor {
    atan(&(x / ((1.0 - x) * (1.0 + x)).sqrt()))
}

fn acos(x: &Tensor) -> Tensor {
    atan(&((1.0 - x) / (1.0 + x)).sqrt()) * 2.0
}

/// `e^|x| / 2`, which overflows no sooner than the result.
fn half_exp(t: &Tensor) -> Tensor {
    let root = (t * 0.5).exp();
    (&root * 0.5) * root
}

/// Beyond it `e^-|x|` is nothing beside `e^|x|`, in f64 too.
const LARGE: f64 = 20.0;

fn sinh(x: &Tensor) -> Tensor {
    let t = x.abs();
    let e = t.minimum(LARGE).expm1();
    let small = (&e + &e / (&e + 1.0)) * 0.5;
    with_sign_of(&t.gt(LARGE).select(half_exp(&t), small), x)
}

fn cosh(x: &Tensor) -> Tensor {
    let t = x.abs();
    let e = t.minimum(LARGE).exp();
    let small = (&e + e.reciprocal()) * 0.5;
    t.gt(LARGE).select(half_exp(&t), small)
}

/// Beyond it the square has no room for 1, and soon none at all.
const LARGE_SQUARE: f64 = 1e9;

fn asinh(x: &Tensor) -> Tensor {
    let t = x.abs();
    let s = t.minimum(LARGE_SQUARE);
    let square = &s * &s;
    let small = (&s + &square / ((&square + 1.0).sqrt() + 1.0)).log1p();
    with_sign_of(&t.gt(LARGE_SQUARE).select(t.log() + LN_2, small), x)
}

fn acosh(x: &Tensor) -> Tensor {
    let t = x.minimum(LARGE_SQUARE) - 1.0;
    let small = (&t + (&t * (&t + 2.0)).sqrt()).log1p();
    let value = x.gt(LARGE_SQUARE).select(x.log() + LN_2, small);
    x.lt(1.0).select(f64::NAN, value)
}

fn atanh(x: &Tensor) -> Tensor {
    let t = x.abs();
    let positive = (&t * 2.0 / (1.0 - &t)).log1p() * 0.5;
    with_sign_of(&positive, x)
}
