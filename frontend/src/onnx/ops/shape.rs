//! Operators on shapes.

use fuse_ir::Dim;

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::*, OpRow, row};
use super::super::value::Value;

pub(crate) const ROWS: &[OpRow] = &[
    row("Identity", (1, 25), &[], Moves, |c| Ok(vec![c.value(0)?.clone()]), ""),
    row("Shape", (1, 25), &["start", "end"], Own, shape, ""),
    row("Reshape", (5, 25), &["allowzero"], Moves, reshape, ""),
];

fn shape(call: &Call<'_>) -> Built<Vec<Value>> {
    let shape = call.value(0)?.shape();
    let rank = shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v + rank } else { v }).clamp(0, rank) as usize;
    let start = clamp(call.attributes.int_or("start", 0)?);
    let end = clamp(call.attributes.int_or("end", rank)?);
    let dims = shape.get(start..end).unwrap_or_default().to_vec();
    Ok(vec![Value::vector_of_dims(call.name, dims)])
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
    if target.iter().filter(|d| d.as_constant() == Some(-1)).count() > 1 {
        return refuse("the target has more than one -1");
    }
    let elements = |dims: &[Dim]| dims.iter().fold(Dim::constant(1), |n, d| n * d.clone());
    if !target.contains(&Dim::constant(-1)) {
        let (from, to) = (elements(x.shape()), elements(&target));
        call.equal(&from, &to)?;
    }
    call.one(x.reshape(target))
}
