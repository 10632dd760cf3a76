//! Operators that choose elements by their values: sorting, and selections whose size depends on data.

use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::types::element_count;
use fuse_ir::{DType, Dim, Literal};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, Evaluation::Own, OpRow, row};
use super::super::value::Value;
use super::gather::{coordinate, elements_along};
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row(
        "TopK",
        (1, 24),
        &["axis", "k", "largest", "sorted"],
        Computes,
        top_k,
        "by comparing each pair along the axis; NaN is larger than all numbers",
    ),
    row(
        "Compress",
        (9, 28),
        &["axis"],
        Own,
        compress,
        "the condition must be known when the model is compiled",
    ),
    row("NonZero", (9, 13), &[], Own, non_zero, "the input must be known when the model is compiled"),
    row(
        "Unique",
        (11, 28),
        &["axis", "sorted"],
        Own,
        unique,
        "the input must be known when the model is compiled",
    ),
];

/// Each element's rank is the number of those before it; the result takes them by rank.
fn top_k(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let k = match call.attributes.int("k")? {
        Some(k) => Dim::constant(k),
        None => match &call.dims(1, "the number of elements")?[..] {
            [k] => k.clone(),
            other => return refuse(format!("the number of elements has {} elements, not one", other.len())),
        },
    };
    let axis = call.axis(call.attributes.int_or("axis", -1)?, x.rank())? as i64;
    let along = x.transpose(axis, -1);
    let n = along.rank();
    // [..., i, j]: whether element j comes before element i.
    let (own, other) = (along.unsqueeze(-1), along.unsqueeze(-2));
    let (better, equal) = compared(&other, &own, call.attributes.flag("largest", true)?);
    let pairs: Vec<Dim> = [along.shape(), &[along.dim(-1)]].concat();
    let earlier = coordinate(call.trace(), &pairs, n).lt(coordinate(call.trace(), &pairs, n - 1));
    let before = better.or(equal.and(earlier));
    let rank = before.cast(DType::I64).sum(-1);
    // [..., r, i]: whether element i has rank r.
    let mut chosen = along.shape().to_vec();
    chosen.insert(n - 1, k);
    let is_chosen = coordinate(call.trace(), &chosen, n - 1).eq(rank.unsqueeze(-2));
    let indices = is_chosen.cast(DType::I64).argmax(-1);
    let values = elements_along(&along, n - 1, &indices);
    Ok(vec![values.transpose(axis, -1).into(), indices.transpose(axis, -1).into()])
}

/// Whether elements come before others, being larger or else smaller, and whether they are equal. NaN is larger than
/// all numbers, and equal to NaN.
fn compared(x: &Tensor, y: &Tensor, largest: bool) -> (Tensor, Tensor) {
    let better = if largest { x.gt(y) } else { x.lt(y) };
    if !x.dtype().is_float() {
        return (better, x.eq(y));
    }
    let (x_is_nan, y_is_nan) = (x.is_nan(), y.is_nan());
    let only = if largest { x_is_nan.and(y_is_nan.not()) } else { y_is_nan.and(x_is_nan.not()) };
    (better.or(only), x.eq(y).or(x_is_nan.and(y_is_nan)))
}

fn vector(call: &Call<'_>, values: &[i64]) -> Built<Value> {
    tensor(call, &[values.len()], values)
}

fn tensor(call: &Call<'_>, shape: &[usize], values: &[i64]) -> Built<Value> {
    match HostTensor::from_values(shape, values) {
        Ok(host) => Ok(Value::known(call.name, host)),
        Err(e) => refuse(e.to_string()),
    }
}

fn compress(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let condition = call.known(1, "the condition")?;
    let chosen: Vec<i64> =
        (0i64..).zip(condition.literals()).filter(|(_, v)| v.as_i64() != 0).map(|(i, _)| i).collect();
    let indices = call.importer.tensor(&vector(call, &chosen)?)?;
    call.one(match call.attributes.int("axis")? {
        Some(axis) => x.gather(call.axis(axis, x.rank())? as i64, indices),
        None => x.reshape(vec![element_count(x.shape())]).gather(0, indices),
    })
}

fn non_zero(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.known(0, "the input")?;
    let is_zero = |v: Literal| if v.dtype().is_float() { v.as_f64() == 0.0 } else { v.as_i64() == 0 };
    let positions: Vec<usize> =
        (0..).zip(x.literals()).filter(|(_, v)| !is_zero(*v)).map(|(i, _)| i).collect();
    // A scalar counts as a vector of one.
    let shape = if x.shape().is_empty() { &[1][..] } else { x.shape() };
    let mut coordinates = Vec::with_capacity(shape.len() * positions.len());
    for axis in 0..shape.len() {
        let stride: usize = shape[axis + 1..].iter().product();
        coordinates.extend(positions.iter().map(|p| (p / stride % shape[axis]) as i64));
    }
    Ok(vec![tensor(call, &[shape.len(), positions.len()], &coordinates)?])
}

/// The slices of a tensor along an axis, or its elements, as bytes in order.
fn slices(x: &HostTensor, axis: Option<usize>) -> Vec<Vec<Literal>> {
    let all: Vec<Literal> = x.literals().collect();
    let Some(axis) = axis else { return all.into_iter().map(|v| vec![v]).collect() };
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let count = x.shape()[axis];
    let slice =
        |k: usize| all.iter().enumerate().filter(move |(i, _)| i / inner % count == k).map(|(_, v)| *v);
    (0..count).map(|k| slice(k).collect()).collect()
}

/// Lexicographic order, NaN last.
fn compare(a: &[Literal], b: &[Literal]) -> std::cmp::Ordering {
    let one = |(a, b): (&Literal, &Literal)| match a.dtype().is_float() {
        true => {
            let (x, y) = (a.as_f64(), b.as_f64());
            x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
        }
        false => a.as_i64().cmp(&b.as_i64()),
    };
    a.iter().zip(b).map(one).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
}

/// The distinct slices, where each stands first, which each slice is, and how often each is there.
fn unique(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.known(0, "the input")?;
    let axis = match call.attributes.int("axis")? {
        Some(axis) => Some(call.axis(axis, x.shape().len())?),
        None => None,
    };
    let all = slices(&x, axis);
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| compare(&all[*a], &all[*b]).then(a.cmp(b)));
    // The first of each run of equals.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(group) if compare(&all[group[0]], &all[i]).is_eq() => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    if !call.attributes.flag("sorted", true)? {
        groups.sort_by_key(|group| group[0]);
    }
    let mut inverse = vec![0; all.len()];
    for (number, group) in (0i64..).zip(&groups) {
        group.iter().for_each(|i| inverse[*i] = number);
    }
    let firsts: Vec<i64> = groups.iter().map(|g| g[0] as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|g| g.len() as i64).collect();
    let indices = call.importer.tensor(&vector(call, &firsts)?)?;
    let x = call.tensor(0)?;
    let distinct = match axis {
        Some(axis) => x.gather(axis as i64, indices),
        None => x.reshape(vec![element_count(x.shape())]).gather(0, indices),
    };
    Ok(vec![distinct.into(), vector(call, &firsts)?, vector(call, &inverse)?, vector(call, &counts)?])
}
