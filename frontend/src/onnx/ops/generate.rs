//! Operators that make tensors of little: constants, ranges, diagonals and triangles.

use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{DType, Dim, Literal};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::*, OpRow, row};
use super::super::tensor::element_type;
use super::super::value::Value;
use super::pad::operand;
use super::slice::not_negative;
use crate::tensor::Tensor;

const CONSTANT_FORMS: &[&str] = &["value", "value_float", "value_floats", "value_int", "value_ints"];

pub(crate) const ROWS: &[OpRow] = &[
    row("Constant", (1, 25), CONSTANT_FORMS, Own, constant, ""),
    row("ConstantOfShape", (9, 25), &["value"], Computes, constant_of_shape, ""),
    row("Range", (11, 27), &["stash_type"], Computes, range, "its bounds follow from constants and shapes"),
    row("EyeLike", (9, 22), &["dtype", "k"], Computes, eye_like, ""),
    row("Trilu", (14, 14), &["upper"], Computes, triangle, ""),
];

fn constant(call: &Call<'_>) -> Built<Vec<Value>> {
    let attributes = call.attributes;
    let given: Vec<&&str> = CONSTANT_FORMS.iter().filter(|name| attributes.has(name)).collect();
    let [form] = given[..] else { return refuse("it needs exactly one attribute, its value") };
    let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    let tensor = match *form {
        "value" => match attributes.tensor("value", &call.importer.model.data)? {
            Some(tensor) => Ok(tensor),
            None => return refuse("attribute `value` holds no tensor"),
        },
        "value_float" => HostTensor::from_values(&[], &[attributes.float_or(form, 0.0)? as f32]),
        "value_int" => HostTensor::from_values(&[], &[attributes.int_or(form, 0)?]),
        "value_floats" => {
            let values = narrow(attributes.floats(form)?.unwrap_or_default());
            HostTensor::from_values(&[values.len()], &values)
        }
        _ => {
            let values = attributes.ints(form)?.unwrap_or_default();
            HostTensor::from_values(&[values.len()], values)
        }
    };
    match tensor {
        Ok(tensor) => call.one_known(tensor),
        Err(error) => refuse(error.to_string()),
    }
}

fn constant_of_shape(call: &Call<'_>) -> Built<Vec<Value>> {
    let shape = call.dims(0, "the shape")?;
    let value = match call.attributes.tensor("value", &call.importer.model.data)? {
        None => Literal::from_i64(DType::F32, 0),
        Some(tensor) => match (tensor.elements(), tensor.get(0)) {
            (1, Some(value)) => value,
            (count, _) => return refuse(format!("attribute `value` has {count} elements, not one")),
        },
    };
    call.one(call.trace().full(value.dtype(), shape, operand(value)))
}

fn range(call: &Call<'_>) -> Built<Vec<Value>> {
    let dtype = call.value(0)?.dtype();
    let count = if dtype.is_float() { float_count(call)? } else { integer_count(call)? };
    // f16 and bf16 have not all integers that count the elements.
    let wide = dtype.accumulator();
    let scalar = |i: usize| call.tensor(i).map(|t| t.reshape(Vec::<Dim>::new()).cast(wide));
    let (start, delta) = (scalar(0)?, scalar(2)?);
    let position = call.trace().iota(wide, [count], 0);
    call.one((position * delta + start).cast(dtype))
}

fn float_count(call: &Call<'_>) -> Built<Dim> {
    let number = |i: usize, what: &str| call.scalar(i, what).map(Literal::as_f64);
    let (start, limit, delta) = (number(0, "the start")?, number(1, "the limit")?, number(2, "the step")?);
    let count = ((limit - start) / delta).ceil().max(0.0);
    match delta != 0.0 && count <= fuse_ir::limits::MAX_DIM as f64 {
        true => Ok(Dim::constant(count as i64)),
        false => refuse(format!("from {start} to {limit} by {delta} is no range")),
    }
}

fn integer_count(call: &Call<'_>) -> Built<Dim> {
    let number = |i: usize, what: &str| match &call.dims(i, what)?[..] {
        [dim] => Ok(dim.clone()),
        other => refuse(format!("{what} has {} elements, not one", other.len())),
    };
    let (start, limit) = (number(0, "the start")?, number(1, "the limit")?);
    let delta = call.int(2, "the step")?;
    let (span, step) = match delta {
        0 => return refuse("the step is 0"),
        1.. => (limit - start, delta),
        _ => (start - limit, delta.saturating_neg()),
    };
    Ok(not_negative(span.ceil_div(&Dim::constant(step))))
}

/// The coordinates along the last two axes of a matrix, as a column and a row.
fn coordinates(call: &Call<'_>, rows: &Dim, columns: &Dim) -> (Tensor, Tensor) {
    let one = Dim::constant(1);
    let along = |shape: [Dim; 2], axis: i64| call.trace().iota(DType::I64, shape, axis);
    (along([rows.clone(), one.clone()], 0), along([one, columns.clone()], 1))
}

fn eye_like(call: &Call<'_>) -> Built<Vec<Value>> {
    let value = call.value(0)?;
    let [rows, columns] = &value.shape()[..] else { return refuse("its operand is no matrix") };
    let dtype = match call.attributes.int("dtype")? {
        None => value.dtype(),
        Some(number) => match element_type(i32::try_from(number).unwrap_or(0)) {
            Some(dtype) => dtype,
            None => return refuse(format!("element type {number} is not supported")),
        },
    };
    let (row, column) = coordinates(call, rows, columns);
    let diagonal = (column - row).eq(call.attributes.int_or("k", 0)?);
    call.one(diagonal.cast(dtype))
}

fn triangle(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let [.., rows, columns] = x.shape() else {
        return refuse(format!("its operand is {}, no matrix", x.ty()));
    };
    let (row, column) = coordinates(call, rows, columns);
    let above = column - row;
    let diagonal = match call.optional_tensor(1)? {
        Some(k) => k.reshape(Vec::<Dim>::new()),
        None => call.number(DType::I64, 0.0),
    };
    let kept = match call.attributes.flag("upper", true)? {
        true => above.ge(diagonal),
        false => above.le(diagonal),
    };
    call.one(kept.select(&x, operand(Literal::from_i64(x.dtype(), 0))))
}
