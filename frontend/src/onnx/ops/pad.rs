//! Padding and cropping.

use fuse_ir::{DType, Dim, Literal};

use super::super::call::Call;
use super::super::error::{Built, Problem, refuse};
use super::super::table::{Evaluation::*, OpRow, row};
use super::super::value::Value;
use super::slice::is_certain;
use crate::elementwise::Operand;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row(
        "Pad",
        (2, 25),
        &["mode", "pads", "value"],
        Computes,
        pad,
        "symbolic pads are taken not to be negative",
    ),
    row("CenterCropPad", (18, 18), &["axes"], Computes, center_crop_pad, ""),
];

/// A literal as an operand.
pub(super) fn operand(value: Literal) -> Operand {
    match value.dtype() {
        DType::Bool => Operand::Bool(value.as_i64() != 0),
        DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => Operand::Float(value.as_f64()),
        DType::I32 | DType::I64 | DType::U8 => Operand::Int(value.as_i64()),
    }
}

/// What lies outside of the padded tensor.
enum Outside {
    /// A number, known now.
    Constant(Literal),
    /// A number that is computed.
    Computed(Tensor),
    /// The elements from the edge inwards, the edge once.
    Reflect,
    /// The element at the edge.
    Edge,
    /// The elements from the other edge on.
    Wrap,
}

fn outside(call: &Call<'_>, dtype: DType) -> Built<Outside> {
    let zero = Literal::from_i64(dtype, 0);
    Ok(match call.attributes.string_or("mode", "constant")? {
        "constant" => match call.optional(2) {
            None => match call.attributes.float("value")? {
                Some(value) => Outside::Constant(Literal::from_f64(dtype, value)),
                None => Outside::Constant(zero),
            },
            Some(value) if value.as_known().is_some() => Outside::Constant(call.scalar(2, "the constant")?),
            Some(_) => Outside::Computed(call.tensor(2)?.reshape(Vec::<Dim>::new())),
        },
        "reflect" => Outside::Reflect,
        "edge" => Outside::Edge,
        "wrap" => Outside::Wrap,
        other => return refuse(format!("mode `{other}` is none of constant, reflect, edge and wrap")),
    })
}

fn pad(call: &Call<'_>) -> Built<Vec<Value>> {
    let mut x = call.tensor(0)?;
    let pads = match call.attributes.ints("pads")? {
        Some(pads) => pads.iter().map(|n| Dim::constant(*n)).collect(),
        None => call.dims(1, "the pads")?,
    };
    let axes = match call.optional_ints(3, "axes")? {
        Some(axes) => axes.iter().map(|a| call.axis(*a, x.rank())).collect::<Built<_>>()?,
        None => (0..x.rank()).collect::<Vec<_>>(),
    };
    if pads.len() != 2 * axes.len() {
        return refuse(format!("{} pads do not fit {} axes", pads.len(), axes.len()));
    }
    let outside = outside(call, x.dtype())?;
    for (i, axis) in axes.iter().enumerate() {
        x = padded(call, &x, *axis as i64, &pads[i], &pads[i + axes.len()], &outside)?;
    }
    call.one(x)
}

/// What one axis loses at an end where its pad is negative, and what it gains there otherwise.
fn parted(pad: &Dim) -> (Dim, Dim) {
    let zero = Dim::constant(0);
    match pad.as_constant() {
        Some(c) if c < 0 => (zero - pad.clone(), Dim::constant(0)),
        _ => (zero, pad.clone()),
    }
}

fn padded(call: &Call<'_>, x: &Tensor, axis: i64, low: &Dim, high: &Dim, outside: &Outside) -> Built<Tensor> {
    let ((crop_low, low), (crop_high, high)) = (parted(low), parted(high));
    let end = x.dim(axis) - crop_high;
    let x = x.slice(axis, crop_low..end);
    if low.is_zero() && high.is_zero() {
        return Ok(x);
    }
    Ok(match outside {
        Outside::Constant(value) => x.pad(axis, low, high, operand(*value)),
        Outside::Computed(value) => {
            let inside = call.trace().full(DType::Bool, x.shape(), true).pad(axis, &low, &high, false);
            let zero = operand(Literal::from_i64(x.dtype(), 0));
            inside.select(x.pad(axis, low, high, zero), value)
        }
        Outside::Reflect | Outside::Edge | Outside::Wrap => {
            x.gather(axis, positions(call, &x.dim(axis), low, high, outside))
        }
    })
}

/// The positions along an axis of `extent` that what pads it repeats.
fn positions(call: &Call<'_>, extent: &Dim, low: Dim, high: Dim, outside: &Outside) -> Tensor {
    let trace = call.trace();
    let size = low.clone() + extent.clone() + high;
    let from_first = trace.iota(DType::I64, [size], 0) - trace.dim_value(DType::I64, low);
    let extent = trace.dim_value(DType::I64, extent);
    match outside {
        // There and back again.
        Outside::Reflect => {
            let period = (extent - 1) * 2;
            let there = from_first.modulo(&period);
            there.minimum(period - &there)
        }
        Outside::Wrap => from_first.modulo(extent),
        Outside::Edge | Outside::Constant(_) | Outside::Computed(_) => {
            from_first.maximum(0).minimum(extent - 1)
        }
    }
}

fn center_crop_pad(call: &Call<'_>) -> Built<Vec<Value>> {
    let mut x = call.tensor(0)?;
    let target = call.dims(1, "the shape")?;
    let axes = match call.attributes.ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => (0..x.rank() as i64).collect(),
    };
    if axes.len() != target.len() {
        return refuse(format!("{} extents do not fit {} axes", target.len(), axes.len()));
    }
    let zero = operand(Literal::from_i64(x.dtype(), 0));
    let two = Dim::constant(2);
    for (axis, wanted) in axes.iter().zip(target) {
        let axis = call.axis(*axis, x.rank())? as i64;
        let extent = x.dim(axis);
        let (more, less) = (wanted.clone() - extent.clone(), extent.clone() - wanted.clone());
        x = if is_certain(&more) {
            let low = more.floor_div(&two);
            x.pad(axis, &low, more - low.clone(), zero.clone())
        } else if is_certain(&less) {
            let start = less.floor_div(&two);
            x.slice(axis, start.clone()..start + wanted)
        } else {
            let what = format!("which of {extent} and {wanted} is larger must be known");
            return Err(Problem::NeedsDims { what, symbols: more.symbols().into_iter().collect() });
        };
    }
    call.one(x)
}
