//! Arithmetic of dimensions: what models do with the results of `Shape` before they hand them to `Reshape`.

use fuse_ir::expr::Atom;
use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{DType, Dim};

use super::call::Call;
use super::error::{Built, refuse};
use super::fold;
use super::table::{Evaluation, OpRow};
use super::value::{DimTensor, Value};
use crate::Trace;
use crate::tensor::Tensor;

/// Larger results are not kept as dimensions.
const MAX_ELEMENTS: usize = 4096;

/// The results of a node whose inputs are known or made of dimensions; `None` where it does not compute with those.
pub(crate) fn apply(row: &'static OpRow, call: &Call<'_>) -> Built<Option<Vec<Value>>> {
    let mut given = call.inputs.iter().flatten();
    let symbolic = given.clone().any(|v| matches!(v, Value::Dims(_)));
    if !symbolic || given.any(|v| matches!(v, Value::Traced(_) | Value::Sequence(_))) {
        return Ok(None);
    }
    if let Some(value) = arithmetic(row.name, call)? {
        return Ok(Some(vec![value]));
    }
    match row.evaluation {
        Evaluation::Moves | Evaluation::Joins => moved(row, call),
        Evaluation::Computes | Evaluation::Own => Ok(None),
    }
}

/// A node that only moves elements, applied to their positions and then to them.
fn moved(row: &'static OpRow, call: &Call<'_>) -> Built<Option<Vec<Value>>> {
    let mut pool: Vec<Dim> = Vec::new();
    let mut inputs = Vec::with_capacity(call.inputs.len());
    let mut dtype = DType::I64;
    for (i, input) in call.inputs.iter().enumerate() {
        // Positions stand for the elements of the operands that move; what says how to move them stays.
        let moves = row.moves(i);
        let replaced = match input {
            Some(value) if moves => {
                let Some(tensor) = as_dims(value) else { return Ok(None) };
                dtype = tensor.dtype;
                let positions: Vec<i64> =
                    (pool.len()..pool.len() + tensor.dims.len()).map(|p| p as i64).collect();
                pool.extend(tensor.dims);
                let Ok(host) = HostTensor::from_values(&tensor.shape, &positions) else { return Ok(None) };
                Some(Value::known("", host))
            }
            Some(Value::Dims(_)) => return Ok(None),
            other => other.clone(),
        };
        inputs.push(replaced);
    }
    let positions = Call { inputs, importer: call.importer, scope: call.scope, ..*call };
    if !fold::applies(row, &positions) {
        return Ok(None);
    }
    let results = fold::fold(row, &positions)?;
    let back = |value: Value| -> Option<Value> {
        let host = value.as_known()?;
        let dims = host.literals().map(|p| pool.get(usize::try_from(p.as_i64()).ok()?).cloned());
        let dims: Option<Vec<Dim>> = dims.collect();
        Some(Value::dims(call.name, DimTensor { shape: host.shape().to_vec(), dims: dims?, dtype }))
    };
    Ok(results.into_iter().map(back).collect())
}

fn as_dims(value: &Value) -> Option<DimTensor> {
    match value {
        Value::Dims(tensor) => Some((**tensor).clone()),
        Value::Known(constant) => DimTensor::from_known(&constant.tensor),
        Value::Traced(_) | Value::Sequence(_) => None,
    }
}

/// Elementwise arithmetic and reductions.
fn arithmetic(name: &str, call: &Call<'_>) -> Built<Option<Value>> {
    let operands: Option<Vec<DimTensor>> = call.inputs.iter().flatten().map(as_dims).collect();
    let two: Option<fn(&Dim, &Dim) -> Option<Dim>> = match name {
        "Add" => Some(|a, b| Some(a.clone() + b.clone())),
        "Sub" => Some(|a, b| Some(a.clone() - b.clone())),
        "Mul" => Some(|a, b| Some(a.clone() * b.clone())),
        "Div" => Some(divided),
        "Mod" => Some(remainder),
        "Min" => Some(|a, b| Some(a.minimum(b))),
        "Max" => Some(|a, b| Some(a.maximum(b))),
        _ => None,
    };
    if let Some(operation) = two {
        let Some(operands) = operands else { return Ok(None) };
        let Some((first, rest)) = operands.split_first() else { return Ok(None) };
        let mut result = Some(first.clone());
        for operand in rest {
            result = result.and_then(|r| zipped(&r, operand, operation));
        }
        return Ok(result.map(|r| Value::dims(call.name, r)));
    }
    match name {
        "Cast" => cast(call),
        "Equal" => Ok(operands.and_then(|o| equal(call.name, &o))),
        "Where" => selected(call),
        "ReduceProd" | "ReduceSum" => reduced(name, call, operands),
        "Size" | "Shape" => Ok(None),
        _ => Ok(None),
    }
}

/// `a / b`, truncated as integers are; of dimensions, which are not negative, the floor.
fn divided(a: &Dim, b: &Dim) -> Option<Dim> {
    if b.is_zero() {
        return None;
    }
    match (a.as_constant(), b.as_constant()) {
        (Some(a), Some(b)) => a.checked_div(b).map(Dim::constant),
        _ => a
            .exact_div(b)
            .or_else(|| (a.is_nonnegative(&[]) && b.is_nonnegative(&[])).then(|| a.floor_div(b))),
    }
}

fn remainder(a: &Dim, b: &Dim) -> Option<Dim> {
    (a.is_nonnegative(&[]) && b.as_constant().is_some_and(|b| b > 0)).then(|| a.modulo(b))
}

/// Broadcasts two tensors of dimensions against each other.
fn zipped(a: &DimTensor, b: &DimTensor, operation: fn(&Dim, &Dim) -> Option<Dim>) -> Option<DimTensor> {
    let rank = a.shape.len().max(b.shape.len());
    let padded = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    let (own, other) = (padded(&a.shape), padded(&b.shape));
    let mut shape = Vec::with_capacity(rank);
    for (n, m) in own.iter().zip(&other) {
        shape.push(if *n == 1 { *m } else { *n });
        if *n != *m && *n != 1 && *m != 1 {
            return None;
        }
    }
    let count: usize = shape.iter().product();
    if count > MAX_ELEMENTS {
        return None;
    }
    let element = |position: usize, extents: &[usize]| {
        let (mut rest, mut stride, mut at) = (position, 1, 0);
        for axis in (0..rank).rev() {
            let coordinate = rest % shape[axis];
            rest /= shape[axis];
            at += if extents[axis] == 1 { 0 } else { coordinate * stride };
            stride *= extents[axis];
        }
        at
    };
    let dims = (0..count).map(|p| operation(&a.dims[element(p, &own)], &b.dims[element(p, &other)]));
    Some(DimTensor { dims: dims.collect::<Option<_>>()?, shape, dtype: a.dtype })
}

fn cast(call: &Call<'_>) -> Built<Option<Value>> {
    let Value::Dims(tensor) = call.value(0)? else { return Ok(None) };
    let to = call.attributes.int_or("to", 0)?;
    Ok(match super::tensor::element_type(i32::try_from(to).unwrap_or(0)) {
        Some(dtype @ (DType::I32 | DType::I64)) => {
            Some(Value::Dims(std::rc::Rc::new(DimTensor { dtype, ..(**tensor).clone() })))
        }
        _ => None,
    })
}

/// Whether dimensions are equal, where that is certain: equal expressions are, and a symbol is taken to be no
/// negative number.
fn equal(name: &str, operands: &[DimTensor]) -> Option<Value> {
    let [a, b] = operands else { return None };
    let verdict = |a: &Dim, b: &Dim| {
        let difference = (a.clone() - b.clone()).as_constant();
        let negative =
            |d: &Dim, other: &Dim| d.as_constant().is_some_and(|c| c < 0) && other.is_nonnegative(&[]);
        match difference {
            Some(0) => Some(Dim::constant(1)),
            Some(_) => Some(Dim::constant(0)),
            None if negative(a, b) || negative(b, a) => Some(Dim::constant(0)),
            None => None,
        }
    };
    let result = zipped(a, b, verdict)?;
    let flags: Vec<bool> = result.dims.iter().map(|d| !d.is_zero()).collect();
    Some(Value::known(name, HostTensor::from_values(&result.shape, &flags).ok()?))
}

/// `Where` with a known condition.
fn selected(call: &Call<'_>) -> Built<Option<Value>> {
    let Some(condition) = call.value(0)?.as_known() else { return Ok(None) };
    let (Some(x), Some(y)) = (as_dims(call.value(1)?), as_dims(call.value(2)?)) else { return Ok(None) };
    let flags = DimTensor {
        shape: condition.shape().to_vec(),
        dims: condition.literals().map(|v| Dim::constant(v.as_i64())).collect(),
        dtype: x.dtype,
    };
    // Of the shape of all three, once as x and once as y.
    let first = |a: &DimTensor, b: &DimTensor| zipped(a, b, |a, _| Some(a.clone()));
    let whole = |a: &DimTensor, b: &DimTensor, c: &DimTensor| first(&first(a, b)?, c);
    let (Some(flags), Some(x), Some(y)) =
        (whole(&flags, &x, &y), whole(&x, &y, &flags), whole(&y, &x, &flags))
    else {
        return Ok(None);
    };
    let pick = |((f, x), y): ((&Dim, &Dim), &Dim)| if f.is_zero() { y.clone() } else { x.clone() };
    let dims = flags.dims.iter().zip(&x.dims).zip(&y.dims).map(pick).collect();
    Ok(Some(Value::dims(call.name, DimTensor { dims, shape: flags.shape, dtype: x.dtype })))
}

/// A reduction of a whole vector.
fn reduced(name: &str, call: &Call<'_>, operands: Option<Vec<DimTensor>>) -> Built<Option<Value>> {
    let Some(x) = operands.and_then(|o| o.into_iter().next()) else { return Ok(None) };
    let axes = call.axes("axes", 1)?;
    if x.shape.len() != 1 || axes.is_some_and(|a| a != [0] && a != [-1]) {
        return Ok(None);
    }
    let combine = |a: Dim, b: &Dim| if name == "ReduceProd" { a * b.clone() } else { a + b.clone() };
    let start = Dim::constant(i64::from(name == "ReduceProd"));
    let result = x.dims.iter().fold(start, combine);
    let shape = if call.attributes.flag("keepdims", true)? { vec![1] } else { vec![] };
    Ok(Some(Value::dims(call.name, DimTensor { shape, dims: vec![result], dtype: x.dtype })))
}

/// The value of a dimension when the model runs, as a scalar.
pub(crate) fn scalar(trace: &Trace, dtype: DType, dim: &Dim) -> Built<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (factors, coefficient) in dim.terms() {
        let mut product = trace.constant(dtype, coefficient);
        for atom in factors {
            product = product * atom_value(trace, dtype, atom)?;
        }
        sum = Some(match sum {
            Some(sum) => sum + product,
            None => product,
        });
    }
    Ok(sum.unwrap_or_else(|| trace.constant(dtype, 0)))
}

fn atom_value(trace: &Trace, dtype: DType, atom: &Atom) -> Built<Tensor> {
    Ok(match atom {
        Atom::Symbol(symbol) => trace.dim_value(dtype, Dim::symbol(symbol.name())),
        Atom::Axis(_) => return refuse("a dimension refers to a position"),
        // Both operands are not negative, so that truncation is the floor.
        Atom::FloorDiv(a, b) => scalar(trace, dtype, a)?.div(scalar(trace, dtype, b)?),
        Atom::Mod(a, b) => scalar(trace, dtype, a)?.modulo(scalar(trace, dtype, b)?),
        Atom::Min(a, b) => scalar(trace, dtype, a)?.minimum(scalar(trace, dtype, b)?),
        Atom::Max(a, b) => scalar(trace, dtype, a)?.maximum(scalar(trace, dtype, b)?),
    })
}
