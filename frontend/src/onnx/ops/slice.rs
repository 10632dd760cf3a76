//! `Slice`, and the arithmetic of positions along an axis whose extent may be a symbol.

use std::rc::Rc;

use fuse_ir::expr::Atom;
use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, Problem, refuse};
use super::super::table::{Evaluation::*, OpRow, row};
use super::super::value::{DimTensor, Value, depends_on_step};
use super::gather::from_start;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[row(
    "Slice",
    (1, 13),
    &["starts", "ends", "axes"],
    Moves,
    slice,
    "symbolic extents are taken to be at least 1, and symbolic bounds to count from the start; \
     a call for which that does not hold is refused",
)];

/// The least number that stands for "as far as there is something": exporters write that of i32 or of i64.
const FAR: i64 = i32::MAX as i64;

/// The least step that is taken to lead out of any axis; tf2onnx writes it where one position is wanted.
const OUT_OF_ANY: i64 = 1_000_000_000;

/// Whether a size is certainly not negative, all symbols being at least 1.
pub(super) fn is_certain(size: &Dim) -> bool {
    let one_more = size.substitute(&|atom| match atom {
        Atom::Symbol(symbol) => Some(Dim::symbol(symbol.name()) + Dim::constant(1)),
        _ => None,
    });
    one_more.is_nonnegative(&[])
}

/// The smaller of two sizes, without a choice where it is certain.
fn smaller(a: &Dim, b: &Dim) -> Dim {
    match (is_certain(&(b.clone() - a.clone())), is_certain(&(a.clone() - b.clone()))) {
        (true, _) => a.clone(),
        (false, true) => b.clone(),
        (false, false) => a.minimum(b),
    }
}

/// The size, but not less than 0.
pub(super) fn not_negative(size: Dim) -> Dim {
    if is_certain(&size) { size } else { size.maximum(&Dim::constant(0)) }
}

fn slice(call: &Call<'_>) -> Built<Vec<Value>> {
    let mut x = call.tensor(0)?;
    let bounds = |name: &str, i: usize| -> Built<Vec<Dim>> {
        match call.attributes.ints(name)? {
            Some(values) => Ok(values.iter().map(|v| Dim::constant(*v)).collect()),
            None => Ok(call.step_dims(i, name)?.dims),
        }
    };
    let (starts, ends) = (bounds("starts", 1)?, bounds("ends", 2)?);
    let axes = call.axes("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.optional_ints(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return refuse("starts, ends, axes and steps differ in number");
    }
    call.axis_positions(&axes, x.rank())?;
    for (((axis, start), end), step) in axes.iter().zip(&starts).zip(&ends).zip(&steps) {
        let axis = call.axis(*axis, x.rank())?;
        x = match depends_on_step(start) || depends_on_step(end) {
            true => moving(call, &x, axis, (start, end), *step)?,
            false => sliced(&x, axis, start, end, *step)?,
        };
    }
    call.one(x)
}

/// The positions from one that depends on the step of a loop, as many in each step.
fn moving(call: &Call<'_>, x: &Tensor, axis: usize, (start, end): (&Dim, &Dim), step: i64) -> Built<Tensor> {
    let span = (end.clone() - start.clone()).as_constant();
    let count = match span {
        _ if step >= OUT_OF_ANY => 1,
        Some(span) if span > 0 && step > 0 => (span + step - 1) / step,
        _ => return refuse("it takes more or fewer positions from step to step of the loop around it"),
    };
    let tensor = DimTensor { shape: Vec::new(), dims: vec![start.clone()], dtype: DType::I64 };
    let start = from_start(call, &Value::Dims(Rc::new(tensor)), &x.shape()[axis])?;
    let offsets = call.trace().iota(DType::I64, (count,), 0) * if count == 1 { 1 } else { step };
    Ok(x.gather(axis as i64, offsets + start))
}

/// The positions from `start` to before `end` along one axis, by `step`.
fn sliced(x: &Tensor, axis: usize, start: &Dim, end: &Dim, step: i64) -> Built<Tensor> {
    if step == 0 {
        return refuse("a step is 0");
    }
    let extent = x.shape()[axis].clone();
    let axis = axis as i64;
    if extent.is_zero() {
        return Ok(x.clone());
    }
    let bounds = (start, end);
    let (start, end) = (Position::of(start, &extent), Position::of(end, &extent));
    let sure = start.is_sure() && end.is_sure();
    if step < 0 && !sure {
        // Before the first position is within a slice that leads there, so that the call would not be refused.
        let what =
            format!("whether {} and {}, the bounds, count from the end must be known", bounds.0, bounds.1);
        let symbols = [bounds.0, bounds.1].into_iter().flat_map(Dim::symbols).collect();
        return Err(Problem::NeedsDims { what, symbols });
    }
    // Backwards is forwards on the reversed axis, where `p` is at `extent - 1 - p`. The start is clamped onto the
    // axis, the end to just beyond it.
    let last = extent.clone() - Dim::constant(1);
    let (x, start, end) = match step > 0 {
        true => (x.clone(), start.within(&extent), end.within(&extent)),
        false => (x.reverse(axis), start.reversed(&last).within(&last), end.reversed(&last).within(&extent)),
    };
    if start.is_zero() && end == extent && step.abs() == 1 {
        return Ok(x);
    }
    let length = length(&start, &end, &extent);
    let length = if sure { not_negative(length) } else { length };
    // Where nothing is left, the start may lie beyond the end.
    let start = if length.is_zero() { Dim::constant(0) } else { start };
    let step = i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX).min(fuse_ir::limits::MAX_DIM);
    let end = start.clone() + length.clone();
    if !sure && step > 1 {
        // By itself, as a length that is negative may round up to 0 steps.
        return Ok(x.slice(axis, start..end).slice_by(axis, Dim::constant(0)..length, step));
    }
    Ok(x.slice_by(axis, start..end, step))
}

/// The number of positions between two, negative where they are in the wrong order.
fn length(start: &Dim, end: &Dim, extent: &Dim) -> Dim {
    let mut terms = start.terms();
    let rest = |d: &Dim| extent.clone() - d.clone();
    // `n - min(s, n)` is `max(n - s, 0)`, and `n - max(n - s, 0)` is `min(s, n)`.
    match (terms.next(), terms.next()) {
        (Some(([Atom::Min(a, b)], 1)), None) if end == extent => rest(a).maximum(&rest(b)),
        (Some(([Atom::Max(a, b)], 1)), None) if end == extent => smaller(&rest(a), &rest(b)),
        _ => end.clone() - start.clone(),
    }
}

/// A position along an axis, which may lie beyond its ends.
enum Position {
    /// There, counted from the start.
    At(Dim),
    /// There if that is not negative; otherwise it would count from the end.
    Unsure(Dim),
    /// Before all.
    First,
    /// Behind all.
    Last,
}

impl Position {
    /// The position that a bound stands for, which counts from the end where it is negative.
    fn of(bound: &Dim, extent: &Dim) -> Position {
        match bound.as_constant() {
            Some(c) if c >= FAR && extent.as_constant().is_none_or(|n| c >= n) => Position::Last,
            Some(c) if c <= -FAR && extent.as_constant().is_none_or(|n| c < -n) => Position::First,
            _ if is_certain(bound) => Position::At(bound.clone()),
            _ if is_certain(&(Dim::constant(-1) - bound.clone())) => {
                Position::At(extent.clone() + bound.clone())
            }
            _ => Position::Unsure(bound.clone()),
        }
    }

    /// Whether it is known from which end the position counts.
    fn is_sure(&self) -> bool {
        match self {
            Position::At(_) | Position::First | Position::Last => true,
            Position::Unsure(_) => false,
        }
    }

    /// The same position counted backwards from `last`.
    fn reversed(self, last: &Dim) -> Position {
        match self {
            Position::At(position) => Position::At(last.clone() - position),
            Position::Unsure(position) => Position::Unsure(last.clone() - position),
            Position::First => Position::Last,
            Position::Last => Position::First,
        }
    }

    /// The position clamped to 0 and `high`. An unsure one is left, so that a call is refused for which it lies
    /// outside.
    fn within(self, high: &Dim) -> Dim {
        match self {
            Position::First => Dim::constant(0),
            Position::Last => high.clone(),
            Position::At(position) => not_negative(smaller(&position, high)),
            Position::Unsure(position) => position,
        }
    }
}
