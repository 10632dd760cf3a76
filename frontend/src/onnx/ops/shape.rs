//! Operators on shapes: what says how large a tensor is, and what only gives its elements another shape.

use fuse_ir::types::element_count;
use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, Problem, refuse};
use super::super::table::{Evaluation::*, OpRow, row};
use super::super::value::{DimTensor, Value};

pub(crate) const ROWS: &[OpRow] = &[
    row("Identity", (1, 25), &[], Moves, identity, ""),
    row("Shape", (1, 25), &["start", "end"], Own, shape, ""),
    row("Size", (1, 25), &[], Own, size, ""),
    row("Reshape", (5, 25), &["allowzero"], Moves, reshape, "the shape follows from constants and shapes"),
    row("Flatten", (1, 25), &["axis"], Moves, flatten, ""),
    row("Squeeze", (1, 25), &["axes"], Moves, squeeze, "without axes, every extent must be a number"),
    row("Unsqueeze", (1, 25), &["axes"], Moves, unsqueeze, ""),
];

/// The input, which may be a sequence of tensors.
fn identity(call: &Call<'_>) -> Built<Vec<Value>> {
    match call.optional(0) {
        Some(value) => Ok(vec![value.clone()]),
        None => refuse("input 0 is missing"),
    }
}

fn shape(call: &Call<'_>) -> Built<Vec<Value>> {
    let shape = call.value(0)?.shape();
    let rank = shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let start = clamp(call.attributes.int_or("start", 0)?);
    let end = clamp(call.attributes.int_or("end", rank)?);
    let dims = shape.get(start..end).unwrap_or_default().to_vec();
    Ok(vec![Value::vector_of_dims(call.name, dims)])
}

fn size(call: &Call<'_>) -> Built<Vec<Value>> {
    let dims = vec![element_count(&call.value(0)?.shape())];
    Ok(vec![Value::dims(call.name, DimTensor { shape: vec![], dims, dtype: DType::I64 })])
}

fn reshape(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let allow_zero = call.attributes.flag("allowzero", false)?;
    let mut target = call.dims(1, "the target shape")?;
    for (i, dim) in target.iter_mut().enumerate() {
        if dim.is_zero() && !allow_zero {
            match x.shape().get(i) {
                Some(own) => *dim = own.clone(),
                None => return refuse(format!("the target keeps axis {i} of {}, which has none", x.ty())),
            }
        } else if dim.as_constant().is_some_and(|c| c < -1) {
            return refuse(format!("the target has the dimension {dim}"));
        }
    }
    let open: Vec<usize> = (0..target.len()).filter(|i| target[*i].as_constant() == Some(-1)).collect();
    match open[..] {
        [] => call.equal(&element_count(x.shape()), &element_count(&target))?,
        [at] => {
            target[at] = Dim::constant(1);
            target[at] = remainder(&element_count(x.shape()), &element_count(&target))?;
        }
        _ => return refuse("the target has more than one -1"),
    }
    call.one(x.reshape(target))
}

/// The extent that -1 stands for: what the other extents of the target leave of all elements.
fn remainder(all: &Dim, others: &Dim) -> Built<Dim> {
    if let Some(extent) = all.exact_div(others).filter(|_| !others.is_zero()) {
        return Ok(extent);
    }
    let what = format!("-1 in the target stands for {all} elements divided by {others}, which must be known");
    match [all, others].into_iter().flat_map(Dim::symbols).collect::<Vec<_>>() {
        symbols if !symbols.is_empty() => Err(Problem::NeedsDims { what, symbols }),
        _ => refuse(format!("{all} elements do not divide by {others}, the other extents of the target")),
    }
}

fn flatten(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.attributes.int_or("axis", 1)?;
    let rank = x.rank() as i64;
    if !(-rank..=rank).contains(&axis) {
        return refuse(format!("axis {axis} is out of range for rank {rank}"));
    }
    let (rows, columns) = x.shape().split_at(if axis < 0 { axis + rank } else { axis } as usize);
    call.one(x.reshape(vec![element_count(rows), element_count(columns)]))
}

fn squeeze(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axes = match call.axes("axes", 1)? {
        Some(axes) => call.axis_positions(&axes, x.rank())?,
        None => {
            let open: Vec<_> = x.shape().iter().filter(|d| d.as_constant().is_none()).collect();
            if !open.is_empty() {
                let symbols = open.into_iter().flat_map(Dim::symbols).collect();
                let what = format!("which axes of {} have size 1 must be known", x.ty());
                return Err(Problem::NeedsDims { what, symbols });
            }
            (0..x.rank()).filter(|i| x.shape()[*i].is_one()).collect()
        }
    };
    for axis in &axes {
        call.equal(&x.shape()[*axis], &Dim::constant(1))?;
    }
    let kept = (0..x.rank()).filter(|i| !axes.contains(i)).map(|i| x.shape()[i].clone());
    call.one(x.reshape(kept.collect::<Vec<_>>()))
}

fn unsqueeze(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let Some(axes) = call.axes("axes", 1)? else { return refuse("the axes are missing") };
    let positions = call.axis_positions(&axes, x.rank() + axes.len())?;
    let mut shape = x.shape().to_vec();
    for position in positions {
        shape.insert(position, Dim::constant(1));
    }
    call.one(x.reshape(shape))
}
