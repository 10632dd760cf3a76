//! Elementwise operators.

use fuse_ir::DType;

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Abs", (6, 13), &[], Computes, |c| unary(c, Tensor::abs), ""),
    row("Neg", (6, 13), &[], Computes, |c| unary(c, Tensor::neg), ""),
    row("Exp", (6, 13), &[], Computes, |c| unary(c, Tensor::exp), ""),
    row("Tanh", (6, 13), &[], Computes, |c| unary(c, Tensor::tanh), ""),
    row("Add", (7, 14), &[], Computes, |c| binary(c, Tensor::add), ""),
    row("Sub", (7, 14), &[], Computes, |c| binary(c, Tensor::sub), ""),
    row("Mul", (7, 14), &[], Computes, |c| binary(c, Tensor::mul), ""),
    row("Div", (7, 14), &[], Computes, |c| binary(c, Tensor::div), ""),
];

/// A function of one tensor.
pub(super) fn unary(call: &Call<'_>, function: impl Fn(&Tensor) -> Tensor) -> Built<Vec<Value>> {
    call.one(function(&call.tensor(0)?))
}

/// A function of one float tensor that is composed of several ops, in f32 where the tensor is f16 or bf16.
pub(super) fn float_unary(call: &Call<'_>, function: impl Fn(&Tensor) -> Tensor) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    require_float(&x)?;
    call.one(widened(&x, function))
}

/// A function computed in the accumulator type of `x`, and rounded once.
pub(super) fn widened(x: &Tensor, function: impl Fn(&Tensor) -> Tensor) -> Tensor {
    function(&x.cast(x.dtype().accumulator())).cast(x.dtype())
}

/// A function of two tensors, which broadcast.
pub(super) fn binary(call: &Call<'_>, function: impl Fn(&Tensor, Tensor) -> Tensor) -> Built<Vec<Value>> {
    let (x, y) = (call.tensor(0)?, call.tensor(1)?);
    call.broadcast_together(&[&x, &y])?;
    call.one(function(&x, y))
}

/// Refuses element types that are not floats.
pub(super) fn require_float(x: &Tensor) -> Built<DType> {
    match x.dtype().is_float() {
        true => Ok(x.dtype()),
        false => refuse(format!("its operand is {}; a float is needed", x.ty())),
    }
}
