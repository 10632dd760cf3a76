//! Operators that write elements where indices say. There is no scatter in the tensor IR: every element of the result
//! looks for the updates that are meant for it, so that nothing races. That is a comparison for each pair of an element
//! and an update along the indexed axes.

use fuse_ir::types::element_count;
use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::gather::{as_rows, coordinate, elements_along, from_start, linear, row_positions};
use super::movement::with_axis_at;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Scatter", (9, 11), &["axis"], Computes, scatter_elements, ""),
    row("ScatterElements", (11, 18), &["axis", "reduction"], Computes, scatter_elements, ""),
    row("ScatterND", (11, 18), &["reduction"], Computes, scatter_nd, ""),
    row("TensorScatter", (24, 24), &["axis", "mode"], Computes, tensor_scatter, ""),
];

/// How updates combine with what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    /// The last update stands.
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn of(call: &Call<'_>) -> Built<Self> {
        Ok(match call.attributes.string_or("reduction", "none")? {
            "none" => Reduction::Replace,
            "add" => Reduction::Add,
            "mul" => Reduction::Mul,
            "max" => Reduction::Max,
            "min" => Reduction::Min,
            other => return refuse(format!("attribute `reduction` is `{other}`")),
        })
    }
}

/// Data with updates combined into it. The updates of a row lie along `axis` of `meant` and of `updates`, which
/// broadcast against each other and, without that axis, to the data; `meant` says which are for an element.
fn combined(reduction: Reduction, data: &Tensor, meant: &Tensor, updates: &Tensor, axis: i64) -> Tensor {
    let of = |neutral: Tensor| meant.select(updates, neutral);
    let constant = |value: i64| data.trace().constant(data.dtype(), value);
    match reduction {
        Reduction::Add => data + of(constant(0)).sum(axis),
        Reduction::Mul => data * of(constant(1)).prod(axis),
        // Nothing is larger than the largest of the data, where there is no update.
        Reduction::Max => data.maximum(of(data.unsqueeze(axis)).max(axis)),
        Reduction::Min => data.minimum(of(data.unsqueeze(axis)).min(axis)),
        Reduction::Replace => data.clone(),
    }
}

/// The last update along `axis` that is meant for an element; -1 where there is none.
fn last_update(meant: &Tensor, axis: usize) -> Tensor {
    let number = coordinate(meant.trace(), meant.shape(), axis);
    meant.select(number, meant.trace().constant(DType::I64, -1)).max(axis as i64)
}

fn scatter_elements(call: &Call<'_>) -> Built<Vec<Value>> {
    let (data, updates) = (call.tensor(0)?, call.tensor(2)?);
    let axis = call.axis(call.attributes.int_or("axis", 0)?, data.rank())?;
    let indices = from_start(call, call.value(1)?, &data.shape()[axis])?;
    if indices.rank() != data.rank() || updates.rank() != data.rank() || updates.dtype() != data.dtype() {
        let (i, u) = (indices.ty(), updates.ty());
        return refuse(format!("indices {i} and updates {u} do not fit data {}", data.ty()));
    }
    for (a, b) in indices.shape().iter().zip(updates.shape()) {
        call.equal(a, b)?;
    }
    let reduction = Reduction::of(call)?;
    // Along the axis last.
    let last = -1;
    let (data, indices, updates) = (
        data.transpose(axis as i64, last),
        indices.transpose(axis as i64, last),
        updates.transpose(axis as i64, last),
    );
    let result = within_region(&data, indices.shape(), 0, &|data| {
        // [..., n, k]: whether update k is meant for element n.
        let n = data.rank() - 1;
        let meant = coordinate(data.trace(), data.shape(), n).unsqueeze(-1).eq(indices.unsqueeze(n as i64));
        if reduction != Reduction::Replace {
            return combined(reduction, data, &meant, &updates.unsqueeze(n as i64), -1);
        }
        let winner = last_update(&meant, n + 1);
        let values = elements_along(&updates, n, &winner.maximum(0));
        winner.ge(0).select(values, data)
    });
    call.one(result.transpose(axis as i64, last))
}

/// Applies a function to the leading part of the data, of the extents of the indices along all axes but the last, and
/// leaves the rest.
fn within_region(data: &Tensor, region: &[Dim], axis: usize, function: &dyn Fn(&Tensor) -> Tensor) -> Tensor {
    if axis + 1 >= data.rank() {
        return function(data);
    }
    if data.shape()[axis] == region[axis] {
        return within_region(data, region, axis + 1, function);
    }
    let end = &region[axis];
    let inside = data.slice(axis as i64, Dim::constant(0)..end.clone());
    let outside = data.slice(axis as i64, end.clone()..data.shape()[axis].clone());
    crate::concat([within_region(&inside, region, axis + 1, function), outside], axis as i64)
}

fn scatter_nd(call: &Call<'_>) -> Built<Vec<Value>> {
    let (data, updates) = (call.tensor(0)?, call.tensor(2)?);
    let (positions, axes) = row_positions(call, &data, call.value(1)?, 0)?;
    let outer = positions.rank();
    let shape: Vec<Dim> = [positions.shape(), &data.shape()[axes..]].concat();
    if updates.rank() != shape.len() || updates.dtype() != data.dtype() {
        return refuse(format!("updates {} do not fit data {}", updates.ty(), data.ty()));
    }
    for (a, b) in updates.shape().iter().zip(&shape) {
        call.equal(a, b)?;
    }
    let rows = as_rows(&data, axes);
    let updates = as_rows(&updates, outer);
    let positions = positions.reshape(vec![element_count(positions.shape())]);
    // [rows, updates]: whether an update is meant for a row.
    let grid = [rows.dim(0), positions.dim(0)];
    let meant = coordinate(call.trace(), &grid, 0).eq(&positions);
    // The same for each element of a row.
    let inner = vec![Dim::constant(1); rows.rank() - 1];
    let of_elements = |x: &Tensor| x.reshape([x.shape(), &inner].concat());
    let result = match Reduction::of(call)? {
        Reduction::Replace => {
            let winner = last_update(&meant, 1);
            let values = updates.gather(0, winner.maximum(0));
            of_elements(&winner.ge(0)).select(values, &rows)
        }
        reduction => {
            let meant = of_elements(&meant);
            combined(reduction, &rows, &meant, &updates.unsqueeze(0), 1)
        }
    };
    call.one(result.reshape(data.shape()))
}

/// A cache with new entries written into each row of the batch from a position on.
fn tensor_scatter(call: &Call<'_>) -> Built<Vec<Value>> {
    let (cache, update) = (call.tensor(0)?, call.tensor(1)?);
    let axis = call.axis(call.attributes.int_or("axis", -2)?, cache.rank())?;
    if axis == 0 || update.rank() != cache.rank() || update.dtype() != cache.dtype() {
        return refuse(format!(
            "updates {} do not fit a cache {} along axis {axis}",
            update.ty(),
            cache.ty()
        ));
    }
    let is_circular = match call.attributes.string_or("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return refuse(format!("attribute `mode` is `{other}`")),
    };
    // Batch and time in front.
    let (cache, update) = (with_axis_at(&cache, axis, 1), with_axis_at(&update, axis, 1));
    for (i, (a, b)) in cache.shape().iter().zip(update.shape()).enumerate() {
        if i != 1 {
            call.equal(a, b)?;
        }
    }
    let grid = &cache.shape()[..2];
    let extent = |dim: &Dim| call.trace().dim_value(DType::I64, dim);
    let position = coordinate(call.trace(), grid, 1);
    let offset = match call.optional_tensor(2)? {
        Some(start) => position - start.cast(DType::I64).unsqueeze(-1),
        None => position,
    };
    let offset = if is_circular { offset.modulo(extent(&grid[1])) } else { offset };
    let written = offset.ge(0).and(offset.lt(extent(&update.dim(1))));
    let rows = [coordinate(call.trace(), grid, 0), offset.maximum(0).minimum(extent(&update.dim(1)) - 1)];
    let values = as_rows(&update, 2).gather(0, linear(call.trace(), &rows, &update.shape()[..2]));
    let mut shape = grid.to_vec();
    shape.resize(cache.rank(), Dim::constant(1));
    let result = written.reshape(shape).select(values, &cache);
    call.one(with_axis_at(&result, 1, axis))
}
