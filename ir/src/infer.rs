//! Shape and type inference: the one place that says which operands an op takes and what it returns.

use smallvec::{SmallVec, smallvec};

use crate::dtype::DType;
use crate::expr::{Dim, Expr};
use crate::graph::Scan;
use crate::ops::{Domain, Op, ReduceOp, ResultRule, ScalarOp, SliceAxis};
use crate::types::{Shape, ShapeText, TensorType, element_count};

/// Why an op does not take its operands. Every message names the op and both sides of a mismatch.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InferError {
    /// The number of operands is wrong.
    #[error("{op}: takes {expected} operands, got {got}")]
    Arity {
        /// The op's name.
        op: &'static str,
        /// How many it takes, in words.
        expected: String,
        /// How many there are.
        got: usize,
    },
    /// An element type is outside the op's domain.
    #[error("{op}: operand {operand} has element type {got}, but {op} takes {expected}")]
    DType {
        /// The op's name.
        op: &'static str,
        /// The position of the operand.
        operand: usize,
        /// Which types would do.
        expected: String,
        /// The operand's type.
        got: DType,
    },
    /// Two operands should agree and do not.
    #[error("{op}: operand {left} is {left_ty}, operand {right} is {right_ty}; {requirement}")]
    Mismatch {
        /// The op's name.
        op: &'static str,
        /// The position of one operand.
        left: usize,
        /// Its type.
        left_ty: TensorType,
        /// The position of the other.
        right: usize,
        /// Its type.
        right_ty: TensorType,
        /// What should hold.
        requirement: String,
    },
    /// An attribute does not fit the operand.
    #[error("{op}: operand 0 is {ty}; {problem}")]
    Attribute {
        /// The op's name.
        op: &'static str,
        /// The type of the operand.
        ty: TensorType,
        /// What is wrong and what would fit.
        problem: String,
    },
    /// A scan and its body disagree.
    #[error("scan: {0}")]
    Scan(String),
}

type Types = SmallVec<[TensorType; 1]>;

/// The types of the results of `op` applied to operands of these types.
///
/// # Errors
/// Where the op does not take them.
pub fn infer(op: &Op, operands: &[&TensorType]) -> Result<Types, InferError> {
    if let Some(arity) = op.arity()
        && arity != operands.len()
    {
        return Err(InferError::Arity {
            op: op.mnemonic(),
            expected: arity.to_string(),
            got: operands.len(),
        });
    }
    Ok(smallvec![match op {
        Op::Constant { value } => TensorType::scalar(value.dtype()),
        Op::Iota { shape, axis, dtype } => iota(shape, *axis, *dtype)?,
        Op::Scalar(scalar_op) => scalar(*scalar_op, operands)?,
        Op::Cast { dtype } => TensorType { dtype: *dtype, shape: operands[0].shape.clone() },
        Op::Reshape { shape } => reshape(operands[0], shape)?,
        Op::Broadcast { shape, axes } => broadcast(operands[0], shape, axes)?,
        Op::Transpose { permutation } => transpose(operands[0], permutation)?,
        Op::Slice { axes } => slice(operands[0], axes)?,
        Op::Pad { low, high, value } => pad(operands[0], low, high, value.dtype())?,
        Op::Concat { axis } => concat(operands, *axis)?,
        Op::Reverse { axes } => {
            check_axes("reverse", operands[0], axes)?;
            operands[0].clone()
        }
        Op::Gather { axis } => gather(operands[0], operands[1], *axis)?,
        Op::Reduce { op, axes } => reduce(*op, operands[0], axes)?,
        Op::Contract { batch, axes } => contract(operands[0], operands[1], batch, axes)?,
        Op::Scan(s) => return scan(s, operands),
    }])
}

fn attribute(op: &'static str, ty: &TensorType, problem: impl Into<String>) -> InferError {
    InferError::Attribute { op, ty: ty.clone(), problem: problem.into() }
}

/// A dimension that is negative as written cannot be right for any value of the symbols.
fn check_dims(op: &'static str, ty: &TensorType, shape: &[Dim]) -> Result<(), InferError> {
    match shape.iter().find(|d| d.as_constant().is_some_and(|c| c < 0) || !d.axes().is_empty()) {
        Some(d) => Err(attribute(op, ty, format!("{d} is not a dimension in {}", ShapeText(shape)))),
        None => Ok(()),
    }
}

fn iota(shape: &[Dim], axis: usize, dtype: DType) -> Result<TensorType, InferError> {
    let ty = TensorType { dtype, shape: shape.to_vec() };
    check_dims("iota", &ty, shape)?;
    if axis >= shape.len() {
        return Err(attribute("iota", &ty, format!("there is no axis {axis}")));
    }
    if dtype == DType::Bool {
        return Err(attribute("iota", &ty, "coordinates are numbers, not bools"));
    }
    Ok(ty)
}

fn domain_words(domain: Domain) -> String {
    let names: Vec<_> = DType::ALL.into_iter().filter(|d| domain.contains(*d)).map(DType::name).collect();
    names.join(", ")
}

fn scalar(op: ScalarOp, operands: &[&TensorType]) -> Result<TensorType, InferError> {
    let name = op.mnemonic();
    let values = match op.result_rule() {
        ResultRule::Select => {
            if operands[0].dtype != DType::Bool {
                let got = operands[0].dtype;
                return Err(InferError::DType { op: name, operand: 0, expected: "bool".into(), got });
            }
            1..operands.len()
        }
        ResultRule::Same | ResultRule::Comparison | ResultRule::SameWidth => 0..operands.len(),
    };
    let first = operands[values.start];
    for i in values {
        let ty = operands[i];
        if !op.domain().contains(ty.dtype) {
            let expected = domain_words(op.domain());
            return Err(InferError::DType { op: name, operand: i, expected, got: ty.dtype });
        }
        if ty.dtype != first.dtype {
            return Err(mismatch(name, operands, first, i, "element types must be equal; cast one of them"));
        }
    }
    for (i, ty) in operands.iter().enumerate() {
        if ty.shape != operands[0].shape {
            return Err(mismatch(
                name,
                operands,
                operands[0],
                i,
                "shapes must be equal; broadcast one of them",
            ));
        }
    }
    let dtype = op.result_rule().result(first.dtype);
    Ok(TensorType { dtype, shape: first.shape.clone() })
}

fn mismatch(
    op: &'static str,
    operands: &[&TensorType],
    left: &TensorType,
    right: usize,
    requirement: impl Into<String>,
) -> InferError {
    let left_at = operands.iter().position(|t| std::ptr::eq(*t, left)).unwrap_or(0);
    InferError::Mismatch {
        op,
        left: left_at,
        left_ty: left.clone(),
        right,
        right_ty: operands[right].clone(),
        requirement: requirement.into(),
    }
}

fn reshape(ty: &TensorType, shape: &[Dim]) -> Result<TensorType, InferError> {
    check_dims("reshape", ty, shape)?;
    let (from, to) = (ty.elements(), element_count(shape));
    if from != to {
        let text = format!("{} has {to} elements, the operand {from}", ShapeText(shape));
        return Err(attribute("reshape", ty, text));
    }
    Ok(TensorType { dtype: ty.dtype, shape: shape.to_vec() })
}

fn broadcast(ty: &TensorType, shape: &[Dim], axes: &[usize]) -> Result<TensorType, InferError> {
    check_dims("broadcast", ty, shape)?;
    if axes.len() != ty.rank() {
        return Err(attribute("broadcast", ty, format!("{} axes are mapped, not {}", axes.len(), ty.rank())));
    }
    if !axes.is_sorted_by(|a, b| a < b) || axes.iter().any(|a| *a >= shape.len()) {
        let text = format!("axes {axes:?} must ascend within the rank of {}", ShapeText(shape));
        return Err(attribute("broadcast", ty, text));
    }
    for (i, axis) in axes.iter().enumerate() {
        if !ty.shape[i].is_one() && ty.shape[i] != shape[*axis] {
            let text =
                format!("axis {i} of size {} cannot become axis {axis} of {}", ty.shape[i], ShapeText(shape));
            return Err(attribute("broadcast", ty, text));
        }
    }
    Ok(TensorType { dtype: ty.dtype, shape: shape.to_vec() })
}

fn transpose(ty: &TensorType, permutation: &[usize]) -> Result<TensorType, InferError> {
    let mut sorted = permutation.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..ty.rank()) {
        return Err(attribute("transpose", ty, format!("{permutation:?} is not a permutation of its axes")));
    }
    let shape = permutation.iter().map(|p| ty.shape[*p].clone()).collect();
    Ok(TensorType { dtype: ty.dtype, shape })
}

fn slice(ty: &TensorType, axes: &[SliceAxis]) -> Result<TensorType, InferError> {
    if axes.len() != ty.rank() {
        return Err(attribute("slice", ty, format!("{} axes are sliced, not {}", axes.len(), ty.rank())));
    }
    for (i, (axis, extent)) in axes.iter().zip(&ty.shape).enumerate() {
        let start_ok = axis.start.as_constant().is_none_or(|s| s >= 0);
        if axis.step < 1 || !start_ok || axis.length.as_constant().is_some_and(|l| l < 0) {
            let text = format!("axis {i}: start and length must be at least 0 and the step at least 1");
            return Err(attribute("slice", ty, text));
        }
        let last = axis.start.clone() + (axis.length.clone() - Dim::constant(1)) * Dim::constant(axis.step);
        let beyond = (last - extent.clone()).as_constant().is_some_and(|d| d >= 0);
        if beyond && axis.length.as_constant() != Some(0) {
            let text = format!(
                "axis {i} of size {extent} does not hold {} positions from {} by {}",
                axis.length, axis.start, axis.step
            );
            return Err(attribute("slice", ty, text));
        }
    }
    let shape: Shape = axes.iter().map(|a| a.length.clone()).collect();
    check_dims("slice", ty, &shape)?;
    Ok(TensorType { dtype: ty.dtype, shape })
}

fn pad(ty: &TensorType, low: &[Dim], high: &[Dim], value: DType) -> Result<TensorType, InferError> {
    if low.len() != ty.rank() || high.len() != ty.rank() {
        return Err(attribute("pad", ty, format!("low and high need {} entries each", ty.rank())));
    }
    check_dims("pad", ty, low)?;
    check_dims("pad", ty, high)?;
    if value != ty.dtype {
        return Err(attribute("pad", ty, format!("the value is {value}, not {}", ty.dtype)));
    }
    let shape = ty.shape.iter().zip(low).zip(high).map(|((n, l), h)| l.clone() + n.clone() + h.clone());
    Ok(TensorType { dtype: ty.dtype, shape: shape.collect() })
}

fn concat(operands: &[&TensorType], axis: usize) -> Result<TensorType, InferError> {
    let Some(first) = operands.first() else {
        return Err(InferError::Arity { op: "concat", expected: "at least one".into(), got: 0 });
    };
    if axis >= first.rank() {
        return Err(attribute("concat", first, format!("there is no axis {axis}")));
    }
    let mut sum = Dim::constant(0);
    for (i, ty) in operands.iter().enumerate() {
        let same = ty.dtype == first.dtype
            && ty.rank() == first.rank()
            && (0..first.rank()).all(|a| a == axis || ty.shape[a] == first.shape[a]);
        if !same {
            let text = format!("all but axis {axis} must be equal");
            return Err(mismatch("concat", operands, first, i, text));
        }
        sum = sum + ty.shape[axis].clone();
    }
    let mut shape = first.shape.clone();
    shape[axis] = sum;
    Ok(TensorType { dtype: first.dtype, shape })
}

fn check_axes(op: &'static str, ty: &TensorType, axes: &[usize]) -> Result<(), InferError> {
    if !axes.is_sorted_by(|a, b| a < b) || axes.iter().any(|a| *a >= ty.rank()) {
        return Err(attribute(op, ty, format!("axes {axes:?} must ascend and be below {}", ty.rank())));
    }
    Ok(())
}

fn gather(table: &TensorType, indices: &TensorType, axis: usize) -> Result<TensorType, InferError> {
    if axis >= table.rank() {
        return Err(attribute("gather", table, format!("there is no axis {axis}")));
    }
    if !indices.dtype.is_int() {
        let expected = "i32, i64, u8".into();
        return Err(InferError::DType { op: "gather", operand: 1, expected, got: indices.dtype });
    }
    let mut shape = table.shape.clone();
    shape.splice(axis..=axis, indices.shape.iter().cloned());
    Ok(TensorType { dtype: table.dtype, shape })
}

fn reduce(op: ReduceOp, ty: &TensorType, axes: &[usize]) -> Result<TensorType, InferError> {
    let name = op.mnemonic();
    check_axes(name, ty, axes)?;
    if ty.dtype == DType::Bool {
        let expected = domain_words(Domain::Numeric);
        return Err(InferError::DType { op: name, operand: 0, expected, got: ty.dtype });
    }
    if op.is_arg() && axes.len() != 1 {
        return Err(attribute(name, ty, "exactly one axis is searched"));
    }
    let kept = (0..ty.rank()).filter(|a| !axes.contains(a));
    let dtype = if op.is_arg() { DType::I64 } else { ty.dtype };
    Ok(TensorType { dtype, shape: kept.map(|a| ty.shape[a].clone()).collect() })
}

fn contract(
    a: &TensorType,
    b: &TensorType,
    batch: &[(usize, usize)],
    axes: &[(usize, usize)],
) -> Result<TensorType, InferError> {
    let both = [a, b];
    if a.dtype != b.dtype {
        return Err(mismatch("contract", &both, a, 1, "element types must be equal; cast one of them"));
    }
    if a.dtype == DType::Bool {
        let expected = domain_words(Domain::Numeric);
        return Err(InferError::DType { op: "contract", operand: 0, expected, got: a.dtype });
    }
    let pairs = || batch.iter().chain(axes);
    let distinct = |side: Vec<usize>| side.iter().enumerate().all(|(i, x)| !side[..i].contains(x));
    let in_range = pairs().all(|(i, j)| *i < a.rank() && *j < b.rank());
    if !in_range || !distinct(pairs().map(|p| p.0).collect()) || !distinct(pairs().map(|p| p.1).collect()) {
        let text = format!("batch {batch:?} and axes {axes:?} must pair existing axes, each at most once");
        return Err(mismatch("contract", &both, a, 1, text));
    }
    for (i, j) in pairs() {
        if a.shape[*i] != b.shape[*j] {
            let text = format!("axis {i} of the first and axis {j} of the second must be equal");
            return Err(mismatch("contract", &both, a, 1, text));
        }
    }
    let free = |ty: &TensorType, used: Vec<usize>| {
        (0..ty.rank()).filter(|i| !used.contains(i)).map(|i| ty.shape[i].clone()).collect::<Vec<_>>()
    };
    let mut shape: Shape = batch.iter().map(|(i, _)| a.shape[*i].clone()).collect();
    shape.extend(free(a, pairs().map(|p| p.0).collect()));
    shape.extend(free(b, pairs().map(|p| p.1).collect()));
    Ok(TensorType { dtype: a.dtype, shape })
}

fn scan(scan: &Scan, operands: &[&TensorType]) -> Result<Types, InferError> {
    let fail = |text: String| Err(InferError::Scan(text));
    let (carries, scanned) = (scan.carries, scan.scanned);
    let fixed = carries + scanned + usize::from(scan.lengths);
    let (inputs, outputs) = (scan.body.inputs(), scan.body.outputs());
    if operands.len() < fixed || inputs.len() + usize::from(scan.lengths) != operands.len() {
        return fail(format!(
            "{} operands do not fit a body of {} inputs with {carries} carries and {scanned} scanned tensors",
            operands.len(),
            inputs.len()
        ));
    }
    if outputs.len() < carries {
        return fail(format!("the body returns {} values, fewer than its {carries} carries", outputs.len()));
    }
    if scan.trip.as_constant().is_some_and(|t| t < 0) || !scan.trip.axes().is_empty() {
        return fail(format!("`{}` is not a number of steps", scan.trip));
    }
    for (i, input) in inputs.iter().enumerate() {
        let mut expected = operands[i].clone();
        if (carries..carries + scanned).contains(&i) {
            if expected.rank() == 0 || expected.shape[0] != scan.trip {
                return fail(format!(
                    "scanned operand {i} is {expected}, but its leading axis must be the {} steps",
                    scan.trip
                ));
            }
            expected.shape.remove(0);
        }
        let got = scan.body.ty(input.value);
        if *got != expected {
            return fail(format!("body input `{}` is {got}, but its operand gives {expected}", input.name));
        }
    }
    let body_type = |i: usize| scan.body.ty(outputs[i].value);
    for i in 0..carries {
        if body_type(i) != operands[i] {
            return fail(format!(
                "carry {i} (`{}`) starts as {} and comes back as {}; a carry keeps its type",
                inputs[i].name,
                operands[i],
                body_type(i)
            ));
        }
    }
    if scan.lengths {
        check_lengths(operands[operands.len() - 1], (0..outputs.len()).map(body_type))?;
    }
    let stacked = (carries..outputs.len()).map(|i| {
        let mut ty = body_type(i).clone();
        ty.shape.insert(0, scan.trip.clone());
        ty
    });
    Ok((0..carries).map(|i| operands[i].clone()).chain(stacked).collect())
}

fn check_lengths<'a>(
    lengths: &TensorType,
    mut results: impl Iterator<Item = &'a TensorType>,
) -> Result<(), InferError> {
    if !matches!(lengths.dtype, DType::I32 | DType::I64) || lengths.rank() != 1 {
        return Err(InferError::Scan(format!("lengths are {lengths}, but must be i32[B] or i64[B]")));
    }
    let batch: &Expr = &lengths.shape[0];
    match results.find(|ty| ty.shape.first() != Some(batch)) {
        Some(ty) => Err(InferError::Scan(format!(
            "with lengths {lengths} every carry and output needs the leading axis {batch}, but one is {ty}"
        ))),
        None => Ok(()),
    }
}
