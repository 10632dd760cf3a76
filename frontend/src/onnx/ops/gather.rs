//! Operators that read elements where indices say.

use fuse_ir::types::element_count;
use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, Evaluation::Moves, OpRow, row};
use super::super::value::Value;
use crate::Trace;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Gather", (1, 13), &["axis"], Moves, gather, OUT_OF_RANGE),
    row("GatherElements", (11, 13), &["axis"], Moves, gather_elements, OUT_OF_RANGE),
    row("GatherND", (11, 13), &["batch_dims"], Moves, gather_nd, OUT_OF_RANGE),
    row("OneHot", (9, 28), &["axis"], Computes, one_hot, ""),
    row("ReverseSequence", (10, 28), &["batch_axis", "time_axis"], Computes, reverse_sequence, ""),
];

const OUT_OF_RANGE: &str = "an index out of range reads the nearest element";

/// Indices as i64 that count from the start.
pub(super) fn from_start(call: &Call<'_>, indices: &Value, extent: &Dim) -> Built<Tensor> {
    if indices.dtype().is_float() || indices.dtype() == DType::Bool {
        return refuse(format!("its indices are {}; integers are needed", indices.dtype()));
    }
    let counts_from_start = match indices {
        Value::Known(constant) => constant.tensor.literals().all(|v| v.as_i64() >= 0),
        // Dimensions, and steps of loops.
        Value::Dims(tensor) => tensor.dims.iter().all(|d| d.is_nonnegative(&[])),
        Value::Traced(_) | Value::Sequence(_) => false,
    };
    let tensor = call.importer.tensor(indices)?.cast(DType::I64);
    if counts_from_start {
        return Ok(tensor);
    }
    let from_end = &tensor + call.trace().dim_value(DType::I64, extent);
    Ok(tensor.lt(0).select(from_end, &tensor))
}

fn gather(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.axis(call.attributes.int_or("axis", 0)?, x.rank())?;
    let extent = x.shape()[axis].clone();
    // A known position is a view.
    if let Some(known) = call.value(1)?.as_known()
        && let (1, Some(position)) = (known.elements(), known.get(0))
        && extent.as_constant().is_none_or(|n| (-n..n).contains(&position.as_i64()))
    {
        let mut shape = x.shape().to_vec();
        shape.splice(axis..=axis, known.shape().iter().map(|_| Dim::constant(1)));
        return call.one(x.at(axis as i64, position.as_i64()).reshape(shape));
    }
    let indices = from_start(call, call.value(1)?, &extent)?;
    call.one(x.gather(axis as i64, indices))
}

/// The coordinate along an axis at every point of a shape, i64.
pub(super) fn coordinate(trace: &Trace, shape: &[Dim], axis: usize) -> Tensor {
    trace.iota(DType::I64, shape, axis as i64)
}

/// The row-major position of coordinates, one tensor an axis.
pub(super) fn linear(trace: &Trace, coordinates: &[Tensor], extents: &[Dim]) -> Tensor {
    let mut sum: Option<Tensor> = None;
    let mut stride = Dim::constant(1);
    for (coordinate, extent) in coordinates.iter().zip(extents).rev() {
        let scaled = match stride.is_one() {
            true => coordinate.clone(),
            false => coordinate * trace.dim_value(DType::I64, &stride),
        };
        sum = Some(match sum {
            Some(sum) => sum + scaled,
            None => scaled,
        });
        stride = stride * extent.clone();
    }
    sum.unwrap_or_else(|| trace.constant(DType::I64, 0))
}

fn gather_elements(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.axis(call.attributes.int_or("axis", 0)?, x.rank())?;
    let indices = from_start(call, call.value(1)?, &x.shape()[axis])?;
    if indices.rank() != x.rank() {
        return refuse(format!("its indices are {}; they need the rank of {}", indices.ty(), x.ty()));
    }
    call.one(elements_along(&x, axis, &indices))
}

/// `x` at the coordinates of `indices`, whose elements stand for that along one axis.
pub(super) fn elements_along(x: &Tensor, axis: usize, indices: &Tensor) -> Tensor {
    let at = |i: usize| if i == axis { indices.clone() } else { coordinate(x.trace(), indices.shape(), i) };
    let coordinates: Vec<Tensor> = (0..x.rank()).map(at).collect();
    x.reshape(vec![element_count(x.shape())]).gather(0, linear(x.trace(), &coordinates, x.shape()))
}

/// The positions among the rows that indices `[..., Q]` name by their coordinates, and how many axes those are.
pub(super) fn row_positions(
    call: &Call<'_>,
    x: &Tensor,
    indices: &Value,
    batch: usize,
) -> Built<(Tensor, usize)> {
    let shape = indices.shape();
    let count = shape.last().and_then(Dim::as_constant).and_then(|q| usize::try_from(q).ok());
    let Some(count) = count.filter(|q| batch + q <= x.rank()) else {
        return refuse(format!("the last axis of its indices must be a known number of axes of {}", x.ty()));
    };
    if batch >= shape.len() {
        return refuse("its indices have no axis beside those of the batch");
    }
    for (a, b) in x.shape()[..batch].iter().zip(&shape) {
        call.equal(a, b)?;
    }
    let outer = &shape[..shape.len() - 1];
    let indices = call.importer.tensor(indices)?.cast(DType::I64);
    let mut coordinates: Vec<Tensor> = (0..batch).map(|i| coordinate(call.trace(), outer, i)).collect();
    for q in 0..count {
        let along = Value::from(indices.at(-1, q));
        coordinates.push(from_start(call, &along, &x.shape()[batch + q])?);
    }
    let positions = linear(call.trace(), &coordinates, &x.shape()[..batch + count]);
    Ok((positions.broadcast_to(outer), batch + count))
}

/// `x` with its first axes as one.
pub(super) fn as_rows(x: &Tensor, axes: usize) -> Tensor {
    let mut shape = vec![element_count(&x.shape()[..axes])];
    shape.extend_from_slice(&x.shape()[axes..]);
    x.reshape(shape)
}

fn gather_nd(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let batch = usize::try_from(call.attributes.int_or("batch_dims", 0)?).unwrap_or(usize::MAX);
    if batch >= x.rank() {
        return refuse(format!("{batch} axes of a batch are too many for {}", x.ty()));
    }
    let (positions, axes) = row_positions(call, &x, call.value(1)?, batch)?;
    call.one(as_rows(&x, axes).gather(0, positions))
}

fn one_hot(call: &Call<'_>) -> Built<Vec<Value>> {
    let indices = call.tensor(0)?.cast(DType::I64);
    let depth = match call.value(1)?.dtype().is_float() {
        true => Dim::constant(call.scalar(1, "the depth")?.as_f64() as i64),
        false => match &call.dims(1, "the depth")?[..] {
            [depth] => depth.clone(),
            other => return refuse(format!("the depth has {} elements, not one", other.len())),
        },
    };
    let values = call.tensor(2)?;
    if values.rank() != 1 {
        return refuse(format!("its values are {}; a vector of two is needed", values.ty()));
    }
    call.equal(&values.dim(0), &Dim::constant(2))?;
    let axis = call.axis(call.attributes.int_or("axis", -1)?, indices.rank() + 1)?;
    let indices = from_start(call, &indices.into(), &depth)?;
    let mut shape = indices.shape().to_vec();
    shape.insert(axis, depth);
    let is_on = coordinate(call.trace(), &shape, axis).eq(indices.unsqueeze(axis as i64));
    let of = |i: i64| values.at(0, i).broadcast_to(&shape);
    call.one(is_on.select(of(1), of(0)))
}

/// The tensor with two axes in front, and the permutation that puts them back.
fn with_axes_in_front(x: &Tensor, first: usize, second: usize) -> (Tensor, Vec<i64>) {
    let mut axes: Vec<i64> = vec![first as i64, second as i64];
    axes.extend((0..x.rank() as i64).filter(|a| *a != first as i64 && *a != second as i64));
    let mut back = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(i, a)| back[*a as usize] = i as i64);
    (x.permute(axes), back)
}

fn reverse_sequence(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let (time, batch) = (
        call.axis(call.attributes.int_or("time_axis", 0)?, x.rank())?,
        call.axis(call.attributes.int_or("batch_axis", 1)?, x.rank())?,
    );
    if time == batch {
        return refuse("the axes of time and batch are the same");
    }
    let lengths = call.tensor(1)?.cast(DType::I64);
    if lengths.rank() != 1 {
        return refuse(format!("its lengths are {}; a vector is needed", lengths.ty()));
    }
    call.equal(&lengths.dim(0), &x.shape()[batch])?;
    let (x, back) = with_axes_in_front(&x, time, batch);
    let grid = &x.shape()[..2];
    let step = coordinate(call.trace(), grid, 0);
    let turned = step.lt(&lengths).select(lengths - 1 - &step, &step);
    let row = coordinate(call.trace(), grid, 1);
    let positions = linear(call.trace(), &[turned, row], grid);
    call.one(as_rows(&x, 2).gather(0, positions).permute(back))
}
