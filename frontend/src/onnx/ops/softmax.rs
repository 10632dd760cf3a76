//! `Softmax`, `LogSoftmax` and `Hardmax`.

use fuse_ir::DType;
use fuse_ir::types::element_count;

use super::super::call::Call;
use super::super::error::Built;
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::reduce::float_operand;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Softmax", (1, 13), &["axis"], Computes, |c| along(c, |x| x.softmax(-1)), ""),
    row("LogSoftmax", (1, 13), &["axis"], Computes, |c| along(c, |x| x.log_softmax(-1)), ""),
    row("Hardmax", (1, 13), &["axis"], Computes, |c| along(c, hardmax), ""),
];

/// Applies a function of the last axis along the one that the node names. Before opset 13 it was all axes from that one
/// on, as one.
fn along(call: &Call<'_>, function: impl Fn(&Tensor) -> Tensor) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let joined = call.opset < 13;
    let axis = call.attributes.int_or("axis", if joined { 1 } else { -1 })?;
    if joined {
        // An axis of its own past the last one, where `axis` is the rank.
        let axis = if axis == x.rank() as i64 { x.rank() } else { call.axis(axis, x.rank())? };
        let (outer, inner) = x.shape().split_at(axis);
        let rows = x.reshape(vec![element_count(outer), element_count(inner)]);
        return call.one(function(&rows).reshape(x.shape()));
    }
    let axis = call.axis(axis, x.rank())? as i64;
    call.one(function(&x.transpose(axis, -1)).transpose(axis, -1))
}

/// 1 at the first largest element along the last axis, 0 elsewhere.
fn hardmax(x: &Tensor) -> Tensor {
    let position = x.trace().iota(DType::I64, x.shape(), -1);
    position.eq(x.argmax_keepdims(-1)).cast(x.dtype())
}
