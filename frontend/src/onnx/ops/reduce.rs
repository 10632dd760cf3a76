//! Reductions, and running sums and products.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::elementwise::{require_float, widened};
use super::movement::with_axis_at;
use crate::ScanOptions;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("ReduceL1", (1, 18), REDUCE, Computes, |c| reduce(c, |x, axes| x.abs().sum_keepdims(axes)), ""),
    row(
        "ReduceL2",
        (1, 18),
        REDUCE,
        Computes,
        |c| reduce_wide(c, |x, axes| (x * x).sum_keepdims(axes).sqrt()),
        "",
    ),
    row(
        "ReduceLogSum",
        (1, 28),
        REDUCE,
        Computes,
        |c| reduce_wide(c, |x, axes| x.sum_keepdims(axes).log()),
        "",
    ),
    row("ReduceLogSumExp", (1, 28), REDUCE, Computes, |c| reduce_wide(c, log_sum_exp), ""),
    row("ReduceMax", (1, 20), REDUCE, Computes, |c| reduce(c, |x, axes| x.max_keepdims(axes)), ""),
    row("ReduceMean", (1, 18), REDUCE, Computes, |c| reduce_wide(c, |x, axes| x.mean_keepdims(axes)), ""),
    row("ReduceMin", (1, 20), REDUCE, Computes, |c| reduce(c, |x, axes| x.min_keepdims(axes)), ""),
    row("ReduceProd", (1, 18), REDUCE, Computes, |c| reduce(c, |x, axes| x.prod_keepdims(axes)), ""),
    row("ReduceSum", (1, 13), REDUCE, Computes, |c| reduce(c, |x, axes| x.sum_keepdims(axes)), ""),
    row(
        "ReduceSumSquare",
        (1, 18),
        REDUCE,
        Computes,
        |c| reduce_float_wide(c, |x, axes| (x * x).sum_keepdims(axes)),
        "",
    ),
    row("ArgMax", (1, 13), ARGUMENT, Computes, |c| argument(c, Tensor::argmax_keepdims), ""),
    row("ArgMin", (1, 13), ARGUMENT, Computes, |c| argument(c, Tensor::argmin_keepdims), ""),
    row("CumSum", (11, 14), RUNNING, Computes, |c| running(c, 0, |sum, x| sum + x), ""),
    row("CumProd", (26, 26), RUNNING, Computes, |c| running(c, 1, |product, x| product * x), ""),
];

const REDUCE: &[&str] = &["axes", "keepdims", "noop_with_empty_axes"];
const ARGUMENT: &[&str] = &["axis", "keepdims", "select_last_index"];
const RUNNING: &[&str] = &["exclusive", "reverse"];

/// The axes as the front end takes them.
fn signed(axes: &[usize]) -> Vec<i64> {
    axes.iter().map(|a| *a as i64).collect()
}

/// The tensor without some axes of size 1.
fn without(x: &Tensor, axes: &[usize]) -> Tensor {
    let kept = |(i, dim): (usize, &Dim)| (!axes.contains(&i)).then(|| dim.clone());
    x.reshape(x.shape().iter().enumerate().filter_map(kept).collect::<Vec<_>>())
}

/// Applies a reduction that keeps the reduced axes with size 1. Bools are reduced as numbers.
fn reduce(call: &Call<'_>, reduction: impl Fn(&Tensor, Vec<i64>) -> Tensor) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let given = call.axes("axes", 1)?.unwrap_or_default();
    // Without axes, all of them or none.
    let axes = match given.is_empty() && !call.attributes.flag("noop_with_empty_axes", false)? {
        true => (0..x.rank()).collect(),
        false => call.axis_positions(&given, x.rank())?,
    };
    let result = match x.dtype() {
        DType::Bool => reduction(&x.cast(DType::U8), signed(&axes)).cast(DType::Bool),
        _ => reduction(&x, signed(&axes)),
    };
    let keeps = call.attributes.flag("keepdims", true)?;
    call.one(if keeps { result } else { without(&result, &axes) })
}

/// The same, of floats in the type that sums are accumulated in; integers stay what they are, and wrap.
fn reduce_float_wide(call: &Call<'_>, reduction: impl Fn(&Tensor, Vec<i64>) -> Tensor) -> Built<Vec<Value>> {
    reduce(call, |x, axes| widened(x, |x| reduction(x, axes.clone())))
}

/// The same, computed in the wider float type that sums are accumulated in; integers as f64.
fn reduce_wide(call: &Call<'_>, reduction: impl Fn(&Tensor, Vec<i64>) -> Tensor) -> Built<Vec<Value>> {
    reduce(call, |x, axes| {
        let wide = if x.dtype().is_float() { x.dtype().accumulator() } else { DType::F64 };
        reduction(&x.cast(wide), axes).cast(x.dtype())
    })
}

/// Shifted by the largest, so that nothing overflows.
fn log_sum_exp(x: &Tensor, axes: Vec<i64>) -> Tensor {
    let largest = x.max_keepdims(axes.clone());
    let shift = largest.abs().eq(f64::INFINITY).select(0.0, &largest);
    (x - &shift).exp().sum_keepdims(axes).log() + shift
}

/// `ArgMax` and `ArgMin`; the last of equals is the first of the reversed axis.
fn argument(call: &Call<'_>, position: impl Fn(&Tensor, i64) -> Tensor) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.axis(call.attributes.int_or("axis", 0)?, x.rank())?;
    let result = if call.attributes.flag("select_last_index", false)? {
        let last = x.trace().dim_value(DType::I64, x.dim(axis as i64) - Dim::constant(1));
        last - position(&x.reverse(axis as i64), axis as i64)
    } else {
        position(&x, axis as i64)
    };
    let keeps = call.attributes.flag("keepdims", true)?;
    call.one(if keeps { result } else { without(&result, &[axis]) })
}

/// A scan along one axis that stacks what it carries.
fn running(call: &Call<'_>, start: i64, combine: impl Fn(Tensor, Tensor) -> Tensor) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.axis(call.int(1, "the axis")?, x.rank())?;
    let exclusive = call.attributes.flag("exclusive", false)?;
    let wide = if x.dtype().is_float() { x.dtype().accumulator() } else { x.dtype() };
    if wide == DType::Bool {
        return refuse(format!("its operand is {}; a number is needed", x.ty()));
    }
    let sequence = with_axis_at(&x.cast(wide), axis, 0);
    let initial = call.number(wide, start as f64).broadcast_to(&sequence.shape()[1..]);
    let options = ScanOptions::new().reverse_if(call.attributes.flag("reverse", false)?);
    let (_, stacked) = x.trace().scan_with(options, initial, sequence, |carry, x| {
        let next = combine(carry.clone(), x);
        let out = if exclusive { carry } else { next.clone() };
        (next, out)
    });
    call.one(with_axis_at(&stacked, 0, axis).cast(x.dtype()))
}

/// Refuses what has no order of its own: the softmax family takes floats.
pub(super) fn float_operand(call: &Call<'_>) -> Built<Tensor> {
    let x = call.tensor(0)?;
    require_float(&x)?;
    Ok(x)
}
