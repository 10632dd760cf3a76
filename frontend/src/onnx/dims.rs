//! Arithmetic of dimensions: what models do with the results of `Shape` before they hand them to `Reshape`.

use fuse_ir::expr::Atom;
use fuse_ir::limits::dim_problem;
use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{DType, Dim};

use super::call::Call;
use super::error::{Built, refuse};
use super::fold;
use super::importer::Importer;
use super::table::{Evaluation, OpRow};
use super::value::{DimTensor, Value};
use crate::tensor::Tensor;

/// The most terms that are multiplied with each other.
const MAX_TERMS: usize = 256;
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

/// Elementwise arithmetic, comparisons and reductions.
fn arithmetic(name: &str, call: &Call<'_>) -> Built<Option<Value>> {
    let operands: Option<Vec<DimTensor>> = call.inputs.iter().flatten().map(as_dims).collect();
    let two: Option<fn(&Dim, &Dim) -> Option<Dim>> = match name {
        "Add" => Some(|a, b| Some(a.clone() + b.clone())),
        "Sub" => Some(|a, b| Some(a.clone() - b.clone())),
        "Mul" => Some(|a, b| Some(a.clone() * b.clone())),
        "Div" if call.value(0)?.dtype().is_float() => None,
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
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" => {
            Ok(operands.and_then(|o| truth(name, call.name, &o)))
        }
        "Not" => Ok(operands.and_then(|o| negated(call.name, &o))),
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

/// The result of an operation, unless it is, or could become, larger than dimensions may be.
fn bounded(a: &Dim, b: &Dim, operation: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Dim> {
    if a.terms().count().saturating_mul(b.terms().count()) > MAX_TERMS {
        return None;
    }
    operation(a, b).filter(|result| dim_problem(result).is_none())
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
    let dims = (0..count).map(|p| bounded(&a.dims[element(p, &own)], &b.dims[element(p, &other)], operation));
    Some(DimTensor { dims: dims.collect::<Option<_>>()?, shape, dtype: a.dtype })
}

/// A cast that keeps the integers: to integers and to floats.
fn cast(call: &Call<'_>) -> Built<Option<Value>> {
    let Value::Dims(tensor) = call.value(0)? else { return Ok(None) };
    let to = call.attributes.int_or("to", 0)?;
    Ok(match super::tensor::element_type(i32::try_from(to).unwrap_or(0)) {
        Some(dtype @ (DType::I32 | DType::I64 | DType::F32 | DType::F64)) if tensor.dtype != DType::Bool => {
            Some(Value::Dims(std::rc::Rc::new(DimTensor { dtype, ..(**tensor).clone() })))
        }
        _ => None,
    })
}

/// Comparisons and what joins them: expressions that are positive where the result is true.
fn truth(operator: &str, name: &str, operands: &[DimTensor]) -> Option<Value> {
    let [a, b] = operands else { return None };
    // An expression for a bool is positive or not, and no more.
    let of_bools = matches!(operator, "And" | "Or");
    if operands.iter().any(|o| (o.dtype == DType::Bool) != of_bools) {
        return None;
    }
    let positive: fn(&Dim, &Dim) -> Option<Dim> = match operator {
        "Equal" => equal,
        "Less" => |a, b| Some(b.clone() - a.clone()),
        "LessOrEqual" => |a, b| Some(b.clone() - a.clone() + Dim::constant(1)),
        "Greater" => |a, b| Some(a.clone() - b.clone()),
        "GreaterOrEqual" => |a, b| Some(a.clone() - b.clone() + Dim::constant(1)),
        "And" => |a, b| Some(both(a, b)),
        "Or" => |a, b| Some(one_minus(&both(&one_minus(a), &one_minus(b)))),
        _ => return None,
    };
    let result = zipped(a, b, positive)?;
    // Constants are what they say.
    let dims = result.dims.into_iter().map(|d| match d.as_constant() {
        Some(c) if c > 0 => Dim::constant(1),
        Some(_) => Dim::constant(0),
        None => d,
    });
    let dims = dims.collect();
    Some(Value::dims(name, DimTensor { dims, shape: result.shape, dtype: DType::Bool }))
}

fn one_minus(a: &Dim) -> Dim {
    Dim::constant(1) - a.clone()
}

/// What is positive where both are.
fn both(a: &Dim, b: &Dim) -> Dim {
    match (a.as_constant(), b.as_constant()) {
        (Some(c), _) | (_, Some(c)) if c <= 0 => Dim::constant(0),
        (Some(_), _) => b.clone(),
        (_, Some(_)) => a.clone(),
        (None, None) if a == b => a.clone(),
        (None, None) => a.minimum(b),
    }
}

/// What is positive where two dimensions are equal. A dimension of the model is taken to be no negative number.
fn equal(a: &Dim, b: &Dim) -> Option<Dim> {
    let (above, below) = (a.clone() - b.clone(), b.clone() - a.clone());
    let negative = |d: &Dim, other: &Dim| d.as_constant().is_some_and(|c| c < 0) && other.is_nonnegative(&[]);
    Some(match above.as_constant() {
        Some(0) => Dim::constant(1),
        Some(_) => Dim::constant(0),
        None if negative(a, b) || negative(b, a) => Dim::constant(0),
        None => one_minus(&above.maximum(&below)),
    })
}

fn negated(name: &str, operands: &[DimTensor]) -> Option<Value> {
    let [x] = operands else { return None };
    if x.dtype != DType::Bool {
        return None;
    }
    let dims = x.dims.iter().map(one_minus).collect();
    Some(Value::dims(name, DimTensor { dims, shape: x.shape.clone(), dtype: DType::Bool }))
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
    let product = name == "ReduceProd";
    let combine =
        |a: &Dim, b: &Dim| Some(if product { a.clone() * b.clone() } else { a.clone() + b.clone() });
    let mut dims = x.dims.iter();
    let result = dims.try_fold(Dim::constant(i64::from(product)), |a, b| bounded(&a, b, combine));
    let Some(result) = result else { return Ok(None) };
    let shape = if call.attributes.flag("keepdims", true)? { vec![1] } else { vec![] };
    Ok(Some(Value::dims(call.name, DimTensor { shape, dims: vec![result], dtype: x.dtype })))
}

/// The value of a dimension when the model runs, as a scalar.
pub(crate) fn scalar(importer: &Importer<'_>, dtype: DType, dim: &Dim) -> Built<Tensor> {
    if dtype.is_float() || dtype == DType::Bool {
        let value = scalar(importer, DType::I64, dim)?;
        return Ok(if dtype == DType::Bool { value.gt(0) } else { value.cast(dtype) });
    }
    let mut sum: Option<Tensor> = None;
    for (factors, coefficient) in dim.terms() {
        let mut product = importer.trace.constant(dtype, coefficient);
        for atom in factors {
            product *= atom_value(importer, dtype, atom)?;
        }
        sum = Some(match sum {
            Some(sum) => sum + product,
            None => product,
        });
    }
    Ok(sum.unwrap_or_else(|| importer.trace.constant(dtype, 0)))
}

fn atom_value(importer: &Importer<'_>, dtype: DType, atom: &Atom) -> Built<Tensor> {
    let of = |dim: &Dim| scalar(importer, dtype, dim);
    Ok(match atom {
        Atom::Symbol(symbol) => match importer.steps.borrow().get(symbol) {
            Some(step) => step.cast(dtype),
            None => importer.trace.dim_value(dtype, Dim::symbol(symbol.name())),
        },
        Atom::Axis(_) => return refuse("a dimension refers to a position"),
        // Both operands are not negative, so that truncation is the floor.
        Atom::FloorDiv(a, b) => of(a)?.div(of(b)?),
        Atom::Mod(a, b) => of(a)?.modulo(of(b)?),
        Atom::Min(a, b) => of(a)?.minimum(of(b)?),
        Atom::Max(a, b) => of(a)?.maximum(of(b)?),
    })
}
