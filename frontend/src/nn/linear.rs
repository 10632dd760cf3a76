//! The affine layer.

use crate::tensor::Tensor;

/// `y = x · weightᵀ + bias`
///
/// `x` is `[.., in]`, `weight` `[out, in]`, `bias` `[out]`, the result `[.., out]`.
#[track_caller]
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    x.traced("linear", || crate::contract::linear(x, weight, bias))
}
