//! The error function: a polynomial in x² near zero, `1 - exp(-q(x))` beyond, where what the exponential
//! loses is small against 1.

use super::coefficients::{ERF_FAR_F32, ERF_FAR_F64, ERF_NEAR_F32, ERF_NEAR_F64};
use super::exponential::exp_of_nonpositive;
use super::{copy_sign, is_double};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Condition, ValueId};

pub(super) fn erf(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    // Where the near part ends, and from where on the result is 1.
    let (near_end, one_from, near, far): (_, _, &[f64], &[f64]) = if is_double(b, x) {
        (1.0, 6.0, &ERF_NEAR_F64, &ERF_FAR_F64)
    } else {
        (0.875, 4.0, &ERF_NEAR_F32, &ERF_FAR_F32)
    };
    let magnitude = b.abs(x);
    let square = b.mul(x, x);
    let p = b.polynomial(square, near);
    let near = b.fma(x, p, x);

    let limit = b.number_like(x, one_from);
    let above = b.compare(Condition::Gt, magnitude, limit);
    let inside = b.select(above, limit, magnitude);
    let offset = b.number_like(x, near_end);
    let t = b.sub(inside, offset);
    let q = b.polynomial(t, far);
    let argument = b.neg(q);
    let complement = exp_of_nonpositive(b, argument);
    let one = b.number_like(x, 1.0);
    let far = b.sub(one, complement);
    let far = copy_sign(b, far, x);

    let is_near = b.compare_number(Condition::Lt, magnitude, near_end);
    b.select(is_near, near, far)
}
