//! Normalisations, as compositions: the rewriter fuses them with what stands around them.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::tensor::element_type;
use super::super::value::Value;
use super::reduce::float_operand;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("LayerNormalization", (17, 17), &["axis", "epsilon", "stash_type"], Computes, layer_norm, ""),
    row("RMSNormalization", (23, 23), &["axis", "epsilon", "stash_type"], Computes, rms_norm, ""),
    row("GroupNormalization", (18, 21), &["epsilon", "num_groups", "stash_type"], Computes, group_norm, ""),
    row("InstanceNormalization", (6, 22), &["epsilon"], Computes, instance_norm, ""),
    row(
        "BatchNormalization",
        (7, 15),
        &["epsilon", "momentum", "training_mode", "spatial"],
        Computes,
        batch_norm,
        "",
    ),
    row("LpNormalization", (1, 22), &["axis", "p"], Computes, lp_norm, ""),
    row("LRN", (1, 13), &["alpha", "beta", "bias", "size"], Computes, local_response_norm, ""),
    row("MeanVarianceNormalization", (9, 13), &["axes"], Computes, mean_variance_norm, ""),
];

/// `1 / sqrt(x + epsilon)`
fn inverse_root(x: &Tensor, epsilon: f64) -> Tensor {
    (x + epsilon).sqrt().reciprocal()
}

/// The deviations from the mean over axes, the mean and the variance.
fn moments(x: &Tensor, axes: &[i64]) -> (Tensor, Tensor, Tensor) {
    let mean_of = x.mean_keepdims(axes);
    let deviation = x - &mean_of;
    let variance = (&deviation * &deviation).mean_keepdims(axes);
    (deviation, mean_of, variance)
}

/// The type that statistics are computed in: what `stash_type` says, and at least the accumulator of the operand.
fn stash_type(call: &Call<'_>, x: &Tensor) -> Built<DType> {
    let number = i32::try_from(call.attributes.int_or("stash_type", 1)?).unwrap_or(0);
    match element_type(number) {
        Some(dtype) if dtype.is_float() && dtype.size() >= x.dtype().size() => Ok(dtype.accumulator()),
        Some(dtype) if dtype.is_float() => Ok(x.dtype().accumulator()),
        _ => refuse(format!("attribute `stash_type` is {number}, which is no float type of fuse")),
    }
}

/// The axes from `axis` to the last.
fn trailing(call: &Call<'_>, x: &Tensor) -> Built<Vec<i64>> {
    let axis = call.axis(call.attributes.int_or("axis", -1)?, x.rank())?;
    Ok((axis as i64..x.rank() as i64).collect())
}

/// Multiplies by the scale, and adds the bias, that broadcast against `x`.
fn affine(call: &Call<'_>, x: &Tensor, scale: &Tensor, bias: Option<Tensor>) -> Built<Tensor> {
    call.broadcast_together(&[x, scale])?;
    let scaled = x * scale.cast(x.dtype());
    match bias {
        None => Ok(scaled),
        Some(bias) => {
            call.broadcast_together(&[x, &bias])?;
            Ok(scaled + bias.cast(x.dtype()))
        }
    }
}

fn layer_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let axes = trailing(call, &x)?;
    let wide = stash_type(call, &x)?;
    let (deviation, mean, variance) = moments(&x.cast(wide), &axes);
    let inverse = inverse_root(&variance, call.attributes.float_or("epsilon", f64::from(1e-5f32))?);
    let normalized = deviation * &inverse;
    let y = affine(call, &normalized, &call.tensor(1)?, call.optional_tensor(2)?)?;
    // The statistics keep the type that they were asked for.
    let stash = element_type(call.attributes.int_or("stash_type", 1)? as i32).unwrap_or(wide);
    Ok(vec![y.cast(x.dtype()).into(), mean.cast(stash).into(), inverse.cast(stash).into()])
}

fn rms_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let axes = trailing(call, &x)?;
    let wide = x.cast(stash_type(call, &x)?);
    let square = (&wide * &wide).mean_keepdims(&axes[..]);
    let normalized = &wide * inverse_root(&square, call.attributes.float_or("epsilon", f64::from(1e-5f32))?);
    // Unlike the result of the other normalisations, this one has the type of the scale.
    let scale = call.tensor(1)?;
    call.one(affine(call, &normalized, &scale, None)?.cast(scale.dtype()))
}

/// A vector over channels, shaped to broadcast against `[N, C, ...]`.
fn over_channels(call: &Call<'_>, x: &Tensor, vector: &Tensor) -> Built<Tensor> {
    let Some(channels) = x.shape().get(1) else {
        return refuse(format!("its operand is {}; a batch axis and a channel axis are needed", x.ty()));
    };
    if vector.rank() != 1 {
        return refuse(format!("{} stands where a vector over channels is needed", vector.ty()));
    }
    call.equal(channels, &vector.dim(0))?;
    let mut shape = vec![Dim::constant(1); x.rank()];
    shape[1] = channels.clone();
    Ok(vector.reshape(shape))
}

fn group_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let groups = call.attributes.int_or("num_groups", 0)?;
    if x.rank() < 2 || groups < 1 {
        return refuse(format!("{groups} groups of the channels of {}", x.ty()));
    }
    let Some(each) = x.dim(1).exact_div(&Dim::constant(groups)) else {
        return refuse(format!("{} channels are no multiple of {groups} groups", x.dim(1)));
    };
    let mut grouped = x.shape().to_vec();
    grouped.splice(1..2, [Dim::constant(groups), each]);
    let wide = x.cast(stash_type(call, &x)?).reshape(grouped);
    let axes: Vec<i64> = (2..wide.rank() as i64).collect();
    let (deviation, _, variance) = moments(&wide, &axes);
    let normalized =
        deviation * inverse_root(&variance, call.attributes.float_or("epsilon", f64::from(1e-5f32))?);
    // Up to opset 20 there is a scale and a bias for each group, from 21 on for each channel.
    let by_group = call.opset < 21;
    let shaped = if by_group { normalized } else { normalized.reshape(x.shape()) };
    let (scale, bias) = (call.tensor(1)?, call.tensor(2)?);
    let (scale, bias) = (over_channels(call, &shaped, &scale)?, over_channels(call, &shaped, &bias)?);
    let y = affine(call, &shaped, &scale, Some(bias))?;
    call.one(y.reshape(x.shape()).cast(x.dtype()))
}

fn instance_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let wide = x.cast(x.dtype().accumulator());
    let axes: Vec<i64> = (2..x.rank() as i64).collect();
    let (deviation, _, variance) = moments(&wide, &axes);
    let normalized =
        deviation * inverse_root(&variance, call.attributes.float_or("epsilon", f64::from(1e-5f32))?);
    let (scale, bias) =
        (over_channels(call, &x, &call.tensor(1)?)?, over_channels(call, &x, &call.tensor(2)?)?);
    call.one(affine(call, &normalized, &scale, Some(bias))?.cast(x.dtype()))
}

/// With the statistics given; or, in training mode, with those of the batch, which then move the running ones.
fn batch_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    if !call.attributes.flag("spatial", true)? {
        return refuse("statistics for each position (spatial=0) are not supported");
    }
    let wide = x.cast(x.dtype().accumulator());
    let channel =
        |i: usize| -> Built<Tensor> { Ok(over_channels(call, &x, &call.tensor(i)?)?.cast(wide.dtype())) };
    let (scale, bias, running_mean, running_variance) = (channel(1)?, channel(2)?, channel(3)?, channel(4)?);
    let epsilon = call.attributes.float_or("epsilon", f64::from(1e-5f32))?;
    let normalize = |deviation: Tensor, variance: &Tensor| {
        (deviation * inverse_root(variance, epsilon) * &scale + &bias).cast(x.dtype())
    };
    if !call.attributes.flag("training_mode", false)? {
        return call.one(normalize(&wide - &running_mean, &running_variance));
    }
    let axes: Vec<i64> = (0..x.rank() as i64).filter(|a| *a != 1).collect();
    let (deviation, mean, variance) = moments(&wide, &axes);
    let momentum = call.attributes.float_or("momentum", f64::from(0.9f32))?;
    let moved = |running: &Tensor, current: &Tensor, i: usize| -> Built<Value> {
        let dtype = call.value(i)?.dtype();
        let next = running * momentum + current * (1.0 - momentum);
        Ok(next.reshape(vec![x.dim(1)]).cast(dtype).into())
    };
    let statistics = [moved(&running_mean, &mean, 3)?, moved(&running_variance, &variance, 4)?];
    Ok([normalize(deviation, &variance).into()].into_iter().chain(statistics).collect())
}

fn lp_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let axis = call.axis(call.attributes.int_or("axis", -1)?, x.rank())? as i64;
    let wide = x.cast(x.dtype().accumulator());
    let norm = match call.attributes.int_or("p", 2)? {
        1 => wide.abs().sum_keepdims(axis),
        2 => (&wide * &wide).sum_keepdims(axis).sqrt(),
        p => return refuse(format!("the norm of order {p} is not supported; 1 and 2 are")),
    };
    // What is zero throughout stays zero.
    let divisor = norm.eq(0.0).select(1.0, &norm);
    call.one((wide / divisor).cast(x.dtype()))
}

fn mean_variance_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let axes = call.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let axes: Vec<i64> = call.axis_positions(axes, x.rank())?.into_iter().map(|a| a as i64).collect();
    let (deviation, _, variance) = moments(&x.cast(x.dtype().accumulator()), &axes);
    call.one((deviation / (variance.sqrt() + 1e-9)).cast(x.dtype()))
}

/// The widest window of channels; each of its positions is an addition.
const MAX_WINDOW: i64 = 128;

/// Divides by a power of the sum of squares over a window of channels.
fn local_response_norm(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = float_operand(call)?;
    let size = call.attributes.int_or("size", 0)?;
    if x.rank() < 2 {
        return refuse(format!("its operand is {}; a batch axis and a channel axis are needed", x.ty()));
    }
    if !(1..=MAX_WINDOW).contains(&size) {
        return refuse(format!("a window of {size} channels is not supported; 1 to {MAX_WINDOW} are"));
    }
    let alpha = call.attributes.float_or("alpha", f64::from(1e-4f32))?;
    let (beta, bias) = (call.attributes.float_or("beta", 0.75)?, call.attributes.float_or("bias", 1.0)?);
    let wide = x.cast(x.dtype().accumulator());
    let before = (size - 1) / 2;
    let padded = (&wide * &wide).pad(1, before, size - 1 - before, 0.0);
    let part = |k: i64| padded.slice(1, Dim::constant(k)..x.dim(1) + Dim::constant(k));
    let sum = (1..size).fold(part(0), |sum, k| sum + part(k));
    let divisor = (sum * (alpha / size as f64) + bias).pow(call.number(wide.dtype(), beta));
    call.one((wide / divisor).cast(x.dtype()))
}
