//! Operators that order, join, part and repeat elements.

use fuse_ir::Dim;
use fuse_ir::types::element_count;

use super::super::call::Call;
use super::super::error::{Built, Problem, refuse};
use super::super::table::{Evaluation::*, OpRow, row};
use super::super::value::Value;
use crate::concat as joined;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Transpose", (1, 25), &["perm"], Moves, transpose, ""),
    row("Concat", (4, 13), &["axis"], Joins, concat, ""),
    row("Split", (2, 18), &["axis", "split", "num_outputs"], Moves, split, ""),
    row("Expand", (8, 13), &[], Moves, expand, ""),
    row("Tile", (6, 13), &[], Moves, tile, ""),
    row("DepthToSpace", (1, 28), &["blocksize", "mode"], Moves, depth_to_space, ""),
    row("SpaceToDepth", (1, 28), &["blocksize", "mode"], Moves, space_to_depth, ""),
];

fn transpose(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let permutation = match call.attributes.ints("perm")? {
        Some(permutation) => permutation.to_vec(),
        None => (0..x.rank() as i64).rev().collect(),
    };
    if call.axis_positions(&permutation, x.rank())?.len() != x.rank() {
        return refuse(format!("{permutation:?} does not order all axes of {}", x.ty()));
    }
    call.one(x.permute(permutation))
}

fn concat(call: &Call<'_>) -> Built<Vec<Value>> {
    let tensors = call.tensors()?;
    let Some(first) = tensors.first() else { return refuse("there is nothing to join") };
    let Some(axis) = call.attributes.int("axis")? else { return refuse("attribute `axis` is missing") };
    let axis = call.axis(axis, first.rank())?;
    for tensor in &tensors {
        if tensor.rank() != first.rank() {
            return refuse(format!("{} and {} differ in rank", first.ty(), tensor.ty()));
        }
        for (i, (a, b)) in first.shape().iter().zip(tensor.shape()).enumerate() {
            if i != axis {
                call.equal(a, b)?;
            }
        }
    }
    call.one(joined(&tensors, axis as i64))
}

fn split(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.axis(call.attributes.int_or("axis", 0)?, x.rank())?;
    let extent = x.shape()[axis].clone();
    let sizes = match call.attributes.ints("split")? {
        Some(sizes) => sizes.iter().map(|n| Dim::constant(*n)).collect(),
        None if call.optional(1).is_some() => call.dims(1, "the sizes of the parts")?,
        None => equal_parts(call, &extent)?,
    };
    call.equal(&extent, &sizes.iter().fold(Dim::constant(0), |n, d| n + d.clone()))?;
    let mut start = Dim::constant(0);
    let mut parts = Vec::with_capacity(sizes.len());
    for size in sizes {
        let end = start.clone() + size;
        parts.push(x.slice(axis as i64, start..end.clone()).into());
        start = end;
    }
    Ok(parts)
}

/// The sizes of as many parts as there are outputs; where they cannot be equal, which is allowed from opset 18 on,
/// the last is smaller.
fn equal_parts(call: &Call<'_>, extent: &Dim) -> Built<Vec<Dim>> {
    let count = call.attributes.int_or("num_outputs", call.outputs as i64)?;
    if !(1..=fuse_ir::limits::MAX_OPERANDS as i64).contains(&count) {
        return refuse(format!("{count} parts are no number of outputs"));
    }
    let parts = Dim::constant(count);
    if let Some(size) = extent.exact_div(&parts) {
        return Ok(vec![size; count as usize]);
    }
    let Some(whole) = extent.as_constant() else {
        let what = format!("whether {extent} divides by {count} must be known");
        return Err(Problem::NeedsDims { what, symbols: extent.symbols().into_iter().collect() });
    };
    let size = extent.ceil_div(&parts);
    let last = whole - size.as_constant().unwrap_or(0) * (count - 1);
    if call.opset < 18 || last < 0 {
        return refuse(format!("{extent} positions do not divide into {count} parts"));
    }
    let mut sizes = vec![size; count as usize - 1];
    sizes.push(Dim::constant(last));
    Ok(sizes)
}

fn expand(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let target = call.dims(1, "the shape")?;
    let shape = call.broadcast_shape(&[x.shape(), &target])?;
    call.one(x.broadcast_to(shape))
}

fn tile(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let repeats = call.dims(1, "the repeats")?;
    if repeats.len() != x.rank() {
        return refuse(format!("{} repeats do not fit the axes of {}", repeats.len(), x.ty()));
    }
    if let Some(negative) = repeats.iter().find(|r| r.as_constant().is_some_and(|c| c < 0)) {
        return refuse(format!("{negative} repeats are none"));
    }
    // Every axis gets one before it that repeats, and takes it in.
    let (mut apart, mut repeated, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for (extent, repeat) in x.shape().iter().zip(&repeats) {
        if !repeat.is_one() {
            apart.push(Dim::constant(1));
            repeated.push(repeat.clone());
        }
        apart.push(extent.clone());
        repeated.push(extent.clone());
        whole.push(repeat.clone() * extent.clone());
    }
    call.one(x.reshape(apart).broadcast_to(repeated).reshape(whole))
}

/// The extents of a tensor of batches, channels, rows and columns, and the size of a block.
fn blocks(call: &Call<'_>) -> Built<(Tensor, [Dim; 4], Dim)> {
    let x = call.tensor(0)?;
    let size = call.attributes.int_or("blocksize", 0)?;
    let Ok(extents) = <[Dim; 4]>::try_from(x.shape().to_vec()) else {
        return refuse(format!("its operand is {}; four axes are needed", x.ty()));
    };
    match size {
        1.. => Ok((x, extents, Dim::constant(size))),
        _ => refuse(format!("blocks of size {size} do not exist")),
    }
}

/// Whether the channels within a block vary slowest (DCR), rather than the channels of the result (CRD).
fn block_first(call: &Call<'_>) -> Built<bool> {
    match call.attributes.string_or("mode", "DCR")? {
        "DCR" => Ok(true),
        "CRD" => Ok(false),
        other => refuse(format!("mode `{other}` is none of DCR and CRD")),
    }
}

fn depth_to_space(call: &Call<'_>) -> Built<Vec<Value>> {
    let (x, [n, c, h, w], size) = blocks(call)?;
    let Some(channels) = c.exact_div(&(size.clone() * size.clone())) else {
        return refuse(format!("{c} channels do not divide into blocks of {size} by {size}"));
    };
    let (apart, order) = match block_first(call)? {
        true => (
            [n.clone(), size.clone(), size.clone(), channels.clone(), h.clone(), w.clone()],
            [0, 3, 4, 1, 5, 2],
        ),
        false => (
            [n.clone(), channels.clone(), size.clone(), size.clone(), h.clone(), w.clone()],
            [0, 1, 4, 2, 5, 3],
        ),
    };
    call.one(x.reshape(apart).permute(order).reshape([n, channels, h * size.clone(), w * size]))
}

fn space_to_depth(call: &Call<'_>) -> Built<Vec<Value>> {
    let (x, [n, c, h, w], size) = blocks(call)?;
    let (Some(rows), Some(columns)) = (h.exact_div(&size), w.exact_div(&size)) else {
        return refuse(format!("{h} by {w} positions do not divide into blocks of {size} by {size}"));
    };
    let order = if block_first(call)? { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] };
    let apart = [n.clone(), c.clone(), rows.clone(), size.clone(), columns.clone(), size.clone()];
    let channels = element_count(&[c, size.clone(), size]);
    call.one(x.reshape(apart).permute(order).reshape([n, channels, rows, columns]))
}

/// The tensor with one axis moved to another place.
pub(super) fn with_axis_at(x: &Tensor, from: usize, to: usize) -> Tensor {
    let mut axes: Vec<i64> = (0..x.rank() as i64).collect();
    let axis = axes.remove(from);
    axes.insert(to, axis);
    x.permute(axes)
}
