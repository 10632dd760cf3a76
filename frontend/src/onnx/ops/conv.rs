//! Convolutions and pooling, as contractions and reductions of windows.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::elementwise::{require_float, widened};
use super::windows::Windows;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row(
        "Conv",
        (1, 22),
        &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"],
        Computes,
        conv,
        "",
    ),
    row("MaxPool", (1, 22), MAX_POOL, Computes, max_pool, "without the indices of the largest"),
    row("AveragePool", (7, 22), AVERAGE_POOL, Computes, average_pool, ""),
    row("LpPool", (2, 22), LP_POOL, Computes, lp_pool, ""),
    row("GlobalAveragePool", (1, 22), &[], Computes, global_average_pool, ""),
    row("GlobalMaxPool", (1, 22), &[], Computes, |c| over_space(c, |x, axes| x.max_keepdims(axes)), ""),
];

const MAX_POOL: &[&str] =
    &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];
const AVERAGE_POOL: &[&str] =
    &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"];
const LP_POOL: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"];

fn conv(call: &Call<'_>) -> Built<Vec<Value>> {
    let (x, w) = (call.tensor(0)?, call.tensor(1)?);
    require_float(&x)?;
    if w.rank() != x.rank() || w.rank() < 3 || w.dtype() != x.dtype() {
        return refuse(format!("weights {} do not fit an operand {}", w.ty(), x.ty()));
    }
    let kernel: Option<Vec<i64>> = w.shape()[2..].iter().map(Dim::as_constant).collect();
    let Some(kernel) = kernel else {
        return refuse(format!("the size of its windows must be known, but its weights are {}", w.ty()));
    };
    if let Some(shape) = call.attributes.ints("kernel_shape")?
        && shape != kernel
    {
        return refuse(format!("attribute `kernel_shape` is {shape:?}, its weights are {}", w.ty()));
    }
    let groups = call.attributes.int_or("group", 1)?;
    let group = Dim::constant(groups);
    call.equal(&x.shape()[1], &(group.clone() * w.dim(1)))?;
    let filters = w.dim(0).exact_div(&group).filter(|_| groups > 0);
    let Some(filters) = filters else {
        return refuse(format!("{} filters are no multiple of {groups} groups", w.dim(0)));
    };
    let windows = Windows::of(call, &x, &kernel)?;
    let axes = windows.axes();
    // [N, g, C/g, O1, K1, ...] and [g, M/g, C/g, K1, ...]
    let read = windows.read(&x, 0.0, 0.0);
    let mut shape = read.shape().to_vec();
    let outer: Vec<Dim> = (0..axes).map(|i| shape[2 + 2 * i].clone()).collect();
    shape.splice(1..2, [group.clone(), w.dim(1)]);
    let read = read.reshape(shape);
    let weights = w.reshape([&[group, filters], &w.shape()[1..]].concat());
    let mut summed = vec![(2, 2)];
    summed.extend((0..axes as i64).map(|i| (4 + 2 * i, 3 + i)));
    // [g, N, O1, ..., M/g] to [N, M, O1, ...]
    let sum = read.contract(&weights, [(1, 0)], summed);
    let mut order = vec![1, 0, axes as i64 + 2];
    order.extend((0..axes as i64).map(|i| i + 2));
    let sum = sum.permute(order).reshape([&[x.dim(0), w.dim(0)], &outer[..]].concat());
    let Some(bias) = call.optional_tensor(2)? else { return call.one(sum) };
    if bias.rank() != 1 {
        return refuse(format!("its bias is {}; a vector is needed", bias.ty()));
    }
    call.equal(&bias.dim(0), &w.dim(0))?;
    let mut shape = vec![w.dim(0)];
    shape.resize(axes + 1, Dim::constant(1));
    call.one(sum + bias.reshape(shape))
}

/// The windows that a pooling node names.
fn pool_windows(call: &Call<'_>, x: &Tensor) -> Built<Windows> {
    match call.attributes.ints("kernel_shape")? {
        Some(kernel) => Windows::of(call, x, kernel),
        None => refuse("attribute `kernel_shape` is missing"),
    }
}

fn max_pool(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let windows = pool_windows(call, &x)?;
    let read = match x.dtype() {
        DType::U8 => windows.read(&x, 0i64, 0i64),
        dtype if dtype.is_float() => windows.read(&x, f64::NEG_INFINITY, f64::NEG_INFINITY),
        dtype => return refuse(format!("the largest of {dtype} is not supported")),
    };
    call.one(read.max(windows.inner_axes()))
}

fn average_pool(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    require_float(&x)?;
    let windows = pool_windows(call, &x)?;
    let counts_padding = call.attributes.flag("count_include_pad", false)?;
    let axes = windows.inner_axes();
    call.one(widened(&x, |x| {
        let sum = windows.read(x, 0.0, 0.0).sum(axes.clone());
        if windows.lie_within() {
            return sum / windows.positions() as f64;
        }
        // How many positions count, the same in each row and channel.
        let mut shape = vec![Dim::constant(1), Dim::constant(1)];
        shape.extend_from_slice(&x.shape()[2..]);
        let ones = x.trace().full(x.dtype(), shape, 1.0);
        sum / windows.read(&ones, if counts_padding { 1.0 } else { 0.0 }, 0.0).sum(axes.clone())
    }))
}

fn lp_pool(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    require_float(&x)?;
    let windows = pool_windows(call, &x)?;
    let p = call.attributes.int_or("p", 2)?;
    call.one(widened(&x, |x| {
        let read = windows.read(x, 0.0, 0.0).abs();
        match p {
            1 => read.sum(windows.inner_axes()),
            2 => (&read * &read).sum(windows.inner_axes()).sqrt(),
            p => read.pow(p as f64).sum(windows.inner_axes()).pow(1.0 / p as f64),
        }
    }))
}

/// A reduction over all spatial axes, which stay with size 1.
fn over_space(call: &Call<'_>, reduction: impl Fn(&Tensor, Vec<i64>) -> Tensor) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    if x.rank() < 3 {
        return refuse(format!("{} has no spatial axes", x.ty()));
    }
    call.one(reduction(&x, (2..x.rank() as i64).collect()))
}

fn global_average_pool(call: &Call<'_>) -> Built<Vec<Value>> {
    require_float(&call.tensor(0)?)?;
    over_space(call, |x, axes| x.mean_keepdims(axes))
}
