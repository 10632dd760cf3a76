//! Running error analysis: how far each element of a result may be from what it is in real numbers.
//!
//! Rounded are the factors of products of f32 where a GPU may ([`FactorRounding`]), every result of f32 (by the tolerance of
//! its op) and of a 16-bit float type that is not exact, and the partial sums of reductions and contractions, which are f32
//! for all three types. What f64 rounds is not counted. Each element has two figures, which travel with it from op to op,
//! through every step of a loop:
//!
//! * `worst`: all rounding errors add up. A bound of whatever the devices do that round at most at these places. Elementwise
//!   functions are evaluated at the corners of the box that their operands may be in, which is exact for functions that are
//!   monotone in each operand. Where a function is not, as a quotient whose divisor may be zero, anything is possible.
//! * `likely`: rounding errors are independent of each other with mean zero, to first order. By Hoeffding's inequality
//!   `|Σ a·δ| ≤ λ·u·√Σa²` with probability `1 - 2·exp(-λ²/2)` for `|δ| ≤ u` (Higham and Mary, "A new approach to
//!   probabilistic rounding error analysis", 2019, lemma 2.3), so the errors of operands are added as squares. λ is
//!   [`LIKELIHOOD`]. An estimate and not a bound: a state that several sums read brings the same error to each of them, a
//!   weight brings its own to every step, and both count as independent.
//!
//! Through a loop the worst case grows as the product of the sums of absolute weights, soon beyond the results themselves;
//! then the estimate is what says something. It is never above the bound.

use crate::compare::{Agreement, Disagreement, Tolerance, compare_within};
use crate::dtype::DType;
use crate::ops::{Op, ReduceOp, ScalarOp};
use crate::tensor::Tensor;

use super::array::{Array, Elements};
use super::run::Context;
use super::scalar::{Function, function, int_from_float};
use super::structural::contract;
use super::value::{Errors, Value};
use super::{InterpError, Precision};

/// λ: an estimate is exceeded by one of 4·10¹³ elements whose errors are as independent as it takes them to be.
pub const LIKELIHOOD: f64 = 8.0;

/// What the factors of products of f32 are rounded by.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct FactorRounding {
    /// The relative error at most, of factors that are no smaller than the least normal number of the type.
    pub relative: f64,
    /// The absolute error at most of smaller ones.
    pub absolute: f64,
}

/// An output in real numbers (f64, or an integer), and how far each element may be from it, in row-major order.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The output.
    pub value: Tensor,
    /// By rounding errors that all add up: a bound.
    pub worst: Vec<f64>,
    /// By independent rounding errors, at most the bound: an estimate.
    pub likely: Vec<f64>,
}

impl Estimate {
    pub(super) fn new(value: &Value, dtype: DType) -> Result<Estimate, InterpError> {
        let (worst, likely) = errors_of(value)?;
        let tensor = value.array.to_tensor(dtype, Precision::F64)?;
        Ok(Estimate { value: tensor, worst: worst.to_vec(), likely: likely.to_vec() })
    }

    /// Compares a result with the output: every element is as near as independent rounding errors are estimated to leave
    /// it.
    ///
    /// # Errors
    /// As [`compare_within`].
    pub fn compare(&self, got: &Tensor) -> Result<Agreement, Disagreement> {
        // What f64 rounds is not in the estimate.
        let rest = Tolerance { ulp: 0.0, absolute: 1e-12, relative: 1e-12 };
        compare_within(got, &self.value, rest, &self.likely)
    }
}

/// Axes of the left operand of a contraction, each with the right one's.
type Pairs<'a> = &'a [(usize, usize)];

/// The errors of what is exact.
pub(super) fn none(context: &Context, shape: &[usize]) -> Result<Errors, InterpError> {
    let grant = context.memory.grant(shape)?;
    let zeros = grant.filled(0.0)?;
    let zeros = grant.array(shape, zeros)?;
    Ok(Errors { worst: zeros.clone(), likely: zeros })
}

fn errors_of(value: &Value) -> Result<(&[f64], &[f64]), InterpError> {
    let errors =
        value.errors.as_ref().ok_or_else(|| InterpError::Malformed("a value without errors".into()))?;
    Ok((errors.worst.floats()?, errors.likely.floats()?))
}

/// The unit roundoff of f32.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// The relative and the absolute error of a number that is rounded to a float type of 32 bits at most; nothing for others.
fn rounding_to(dtype: DType) -> FactorRounding {
    let (relative, absolute) = match dtype {
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        DType::Bf16 => (2f64.powi(-8), 2f64.powi(-134)),
        DType::F32 => (UNIT, 2f64.powi(-150)),
        DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => (0.0, 0.0),
    };
    FactorRounding { relative, absolute }
}

/// The error of an elementwise op's result. Those of 16 bits are computed in f32 and rounded once.
fn rounding_of(op: ScalarOp, dtype: DType) -> FactorRounding {
    let FactorRounding { relative, absolute } = rounding_to(dtype);
    // A unit in the last place is at most two unit roundoffs of the number.
    let units = match dtype {
        _ if op.tolerance_ulp() == 0.0 => 0.0,
        DType::F32 => 2.0 * op.tolerance_ulp(),
        _ => 1.0,
    };
    FactorRounding { relative: units * relative, absolute: units * absolute }
}

impl FactorRounding {
    /// The error of rounding a number that is off by `error` already.
    fn of(self, value: f64, error: f64) -> f64 {
        if self.relative == 0.0 { 0.0 } else { self.relative * (value.abs() + error) + self.absolute }
    }
}

/// Both figures of one element.
#[derive(Clone, Copy)]
struct Error {
    worst: f64,
    likely: f64,
}

impl Error {
    /// The same after one more rounding.
    fn rounded(self, rounding: FactorRounding, value: f64) -> Error {
        let likely = self.likely.hypot(LIKELIHOOD * rounding.of(value, 0.0));
        Error { worst: self.worst + rounding.of(value, self.worst), likely }
    }

    /// The same with what adding up `count` terms rounds, whose magnitudes are `magnitude` together. The likely part is that
    /// of partial sums each as large as all of that.
    fn summed(self, count: usize, magnitude: f64) -> Error {
        let each = UNIT * magnitude;
        let likely = self.likely.hypot(LIKELIHOOD * (count as f64).sqrt() * each);
        Error { worst: self.worst + count as f64 * each, likely }
    }

    /// What is not known may be anything; and nothing likely is beyond the worst case.
    fn known(self) -> Error {
        let known = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
        let worst = known(self.worst);
        Error { worst, likely: known(self.likely).min(worst) }
    }
}

/// How far two numbers are apart.
fn distance(x: f64, y: f64) -> f64 {
    if x == y || x.is_nan() && y.is_nan() { 0.0 } else { (x - y).abs() }
}

/// A node other than a scan, whose result has element type and extents `ty`.
pub(super) struct Node<'a> {
    pub op: &'a Op,
    pub operands: &'a [&'a Value],
    pub operand_type: &'a dyn Fn(usize) -> DType,
    pub ty: (DType, &'a [usize]),
}

impl Node<'_> {
    /// The errors of its result, which is `value`.
    pub fn errors(
        &self,
        context: &Context,
        rounding: FactorRounding,
        value: &Array,
    ) -> Result<Errors, InterpError> {
        let own = rounding_to(self.ty.0);
        match (self.op, self.operands) {
            (Op::Constant { .. } | Op::Iota { .. }, _) => none(context, self.ty.1),
            (Op::Scalar(op), _) => self.scalar(context, *op, value),
            (Op::Cast { .. }, [x]) => self.cast(context, x, value),
            (Op::Pad { low, high, value }, [_]) => {
                let nothing = crate::dtype::Literal::from_f64(DType::F64, 0.0);
                let value = if value.dtype().is_float() { nothing } else { *value };
                let (low, high) = (low.clone(), high.clone());
                self.moved(context, &Op::Pad { low, high, value })
            }
            (Op::Gather { .. }, [_, indices]) if errors_of(indices)?.0.iter().any(|e| *e > 0.0) => {
                self.collect(context, |_| Error { worst: f64::INFINITY, likely: f64::INFINITY })
            }
            (
                Op::Reshape { .. }
                | Op::Broadcast { .. }
                | Op::Transpose { .. }
                | Op::Slice { .. }
                | Op::Concat { .. }
                | Op::Reverse { .. }
                | Op::Gather { .. },
                _,
            ) => self.moved(context, self.op),
            (Op::Reduce { op, axes }, [x]) => self.reduce(context, (*op, axes), x, value, own),
            (Op::Contract { batch, axes }, [a, b]) => {
                let rounding =
                    if (self.operand_type)(0) == DType::F32 { rounding } else { Default::default() };
                self.contract(context, (a, b), (batch, axes), (rounding, own), value)
            }
            _ => Err(InterpError::Malformed(format!("{} of other operands", self.op.mnemonic()))),
        }
    }

    /// An array of errors and one of likely ones, element by element.
    fn collect(&self, context: &Context, error: impl Fn(usize) -> Error) -> Result<Errors, InterpError> {
        let shape = self.ty.1;
        let (worst, likely) = (context.memory.grant(shape)?, context.memory.grant(shape)?);
        let count = super::array::element_count(shape).unwrap_or(0);
        let (mut of_worst, mut of_likely) = (worst.vector()?, likely.vector()?);
        for i in 0..count {
            let error = error(i).known();
            of_worst.push(error.worst);
            of_likely.push(error.likely);
        }
        Ok(Errors { worst: worst.array(shape, of_worst)?, likely: likely.array(shape, of_likely)? })
    }

    /// The errors move as the elements do; indices stay what they are.
    fn moved(&self, context: &Context, op: &Op) -> Result<Errors, InterpError> {
        let apply = |part: &dyn Fn(&Errors) -> Array| {
            let parts = self.operands.iter().enumerate().map(|(i, value)| match (op, &value.errors) {
                (Op::Gather { .. }, _) if i == 1 => Ok(value.array.clone()),
                (_, Some(errors)) => Ok(part(errors)),
                (_, None) => Err(InterpError::Malformed("a value without errors".into())),
            });
            let parts: Vec<Array> = parts.collect::<Result<_, _>>()?;
            context.apply(op, &parts.iter().collect::<Vec<_>>(), |_| DType::F64, (DType::F64, self.ty.1))
        };
        Ok(Errors { worst: apply(&|e| e.worst.clone())?, likely: apply(&|e| e.likely.clone())? })
    }

    fn scalar(&self, context: &Context, op: ScalarOp, value: &Array) -> Result<Errors, InterpError> {
        use Function::{Float1, Float2, Float3, FloatTest1, FloatTest2};
        let dtype = (self.operand_type)(self.operands.len().saturating_sub(1));
        let malformed = || InterpError::Malformed(format!("{} of {dtype}", op.mnemonic()));
        let own = rounding_of(op, self.ty.0);
        let test = |x: bool| f64::from(u8::from(x));
        match (function(op, dtype).ok_or_else(malformed)?, self.operands) {
            (Float1(_), [x]) if matches!(op, ScalarOp::Sin | ScalarOp::Cos) => {
                let Operand { worst, likely, .. } = Operand::new(x)?;
                let value = value.floats()?;
                self.collect(context, |i| Error { worst: worst[i], likely: likely[i] }.rounded(own, value[i]))
            }
            (Float1(f), [_]) => {
                self.perturbed(context, own, value.floats()?, |[x]| f(x), |at| is_monotone(op, at))
            }
            // A square has one operand, whose error counts twice.
            (Float2(f), [x, y]) if std::ptr::eq(*x, *y) => {
                self.perturbed(context, own, value.floats()?, |[x]| f(x, x), |[x]| is_monotone(op, [x, x]))
            }
            (Float2(f), [_, _]) => {
                self.perturbed(context, own, value.floats()?, |[x, y]| f(x, y), |at| is_monotone(op, at))
            }
            (Float3(f), [_, _, _]) => {
                self.perturbed(context, own, value.floats()?, |[x, y, z]| f(x, y, z), |_| true)
            }
            (FloatTest1(f), [_]) => {
                let value: Vec<f64> = value.ints()?.iter().map(|x| *x as f64).collect();
                self.perturbed(context, own, &value, |[x]| test(f(x)), |_| true)
            }
            (FloatTest2(f), [_, _]) => {
                let value: Vec<f64> = value.ints()?.iter().map(|x| *x as f64).collect();
                self.perturbed(context, own, &value, |[x, y]| test(f(x, y)), |at| is_monotone(op, at))
            }
            (Function::Select, [condition, x, y]) => self.select(context, condition, x, y),
            // Of integers, which are exact unless floats with errors were compared or converted.
            (_, operands) => {
                let errors: Vec<_> = operands.iter().map(|x| errors_of(x)).collect::<Result<_, _>>()?;
                let off = |i: usize| errors.iter().any(|(worst, _)| worst[i] > 0.0);
                self.collect(context, |i| {
                    let error = if off(i) { f64::INFINITY } else { 0.0 };
                    Error { worst: error, likely: error }
                })
            }
        }
    }

    /// A function of floats: at the corners of the box that its operands may be in, and with one off at a time.
    fn perturbed<const N: usize>(
        &self,
        context: &Context,
        own: FactorRounding,
        value: &[f64],
        f: impl Fn([f64; N]) -> f64,
        is_monotone: impl Fn([(f64, f64); N]) -> bool,
    ) -> Result<Errors, InterpError> {
        let operands = self.operands.iter().take(N);
        let boxes: Vec<Operand> = operands.map(|x| Operand::new(x)).collect::<Result<_, _>>()?;
        if boxes.len() != N {
            return Err(InterpError::Malformed(format!("{} operands of {N}", boxes.len())));
        }
        self.collect(context, |i| {
            let x: [f64; N] = std::array::from_fn(|k| boxes[k].value[i]);
            let (mut worst, mut squares) = (0f64, 0f64);
            if boxes.iter().any(|b| b.worst[i] > 0.0) {
                if !is_monotone(std::array::from_fn(|k| (x[k] - boxes[k].worst[i], x[k] + boxes[k].worst[i])))
                {
                    worst = f64::INFINITY;
                }
                for corner in 0..1usize << N {
                    let at = std::array::from_fn(|k| {
                        let error = boxes[k].worst[i];
                        if corner >> k & 1 == 0 { x[k] - error } else { x[k] + error }
                    });
                    worst = greater(worst, distance(f(at), value[i]));
                }
                for (k, operand) in boxes.iter().enumerate() {
                    let off = |by: f64| {
                        let mut at = x;
                        at[k] += by;
                        distance(f(at), value[i])
                    };
                    let likely = operand.likely[i];
                    let most = if likely > 0.0 { greater(off(likely), off(-likely)) } else { 0.0 };
                    squares += most * most;
                }
            }
            Error { worst, likely: squares.sqrt() }.rounded(own, value[i])
        })
    }

    /// The errors of what is chosen; where the choice is not certain, of either.
    fn select(
        &self,
        context: &Context,
        condition: &Value,
        x: &Value,
        y: &Value,
    ) -> Result<Errors, InterpError> {
        let choices = condition.array.ints()?;
        let (uncertain, maybe) = errors_of(condition)?;
        let (of_x, of_y) = (errors_of(x)?, errors_of(y)?);
        let difference = |i: usize| match (x.array.elements(), y.array.elements()) {
            (Elements::Float(x), Elements::Float(y)) => distance(x[i], y[i]),
            (Elements::Int(x), Elements::Int(y)) => x[i].abs_diff(y[i]) as f64,
            _ => f64::INFINITY,
        };
        self.collect(context, |i| {
            let (chosen, other) = if choices[i] != 0 { (of_x, of_y) } else { (of_y, of_x) };
            let either = |is_open: bool, chosen: f64, other: f64| {
                if is_open { greater(chosen, difference(i) + other) } else { chosen }
            };
            Error {
                worst: either(uncertain[i] > 0.0, chosen.0[i], other.0[i]),
                likely: either(maybe[i] > 0.0, chosen.1[i], other.1[i]),
            }
        })
    }

    fn cast(&self, context: &Context, x: &Value, value: &Array) -> Result<Errors, InterpError> {
        let (dtype, _) = self.ty;
        let (worst, likely) = errors_of(x)?;
        match (x.array.elements(), value.elements()) {
            (Elements::Float(_), Elements::Float(out)) => {
                let from = (self.operand_type)(0);
                let is_exact = from == dtype || from.size() < dtype.size();
                let own = if is_exact { FactorRounding::default() } else { rounding_to(dtype) };
                self.collect(context, |i| Error { worst: worst[i], likely: likely[i] }.rounded(own, out[i]))
            }
            (Elements::Float(x), Elements::Int(out)) => {
                let off = |i: usize, by: f64| {
                    let ends = [x[i] - by, x[i] + by].map(|x| int_from_float(dtype, x).abs_diff(out[i]));
                    ends[0].max(ends[1]) as f64
                };
                self.collect(context, |i| Error { worst: off(i, worst[i]), likely: off(i, likely[i]) })
            }
            (Elements::Int(_), Elements::Float(out)) => {
                let own = rounding_to(dtype);
                self.collect(context, |i| Error { worst: worst[i], likely: likely[i] }.rounded(own, out[i]))
            }
            (Elements::Int(_), Elements::Int(_)) => {
                self.collect(context, |i| Error { worst: worst[i], likely: likely[i] })
            }
        }
    }

    fn reduce(
        &self,
        context: &Context,
        (op, axes): (ReduceOp, &[usize]),
        x: &Value,
        value: &Array,
        own: FactorRounding,
    ) -> Result<Errors, InterpError> {
        let shape = self.ty.1;
        let over = |op: ReduceOp, x: &Array| {
            super::structural::reduce(op, x, axes, (DType::F64, shape), &context.memory)
        };
        let Some(errors) = &x.errors else { return none(context, shape) };
        match (op, value.elements()) {
            (ReduceOp::Sum, Elements::Float(out)) => {
                let squares = mapped(context, &errors.likely, |x| x * x)?;
                let magnitudes = mapped(context, &x.array, f64::abs)?;
                let sums = [&errors.worst, &squares, &magnitudes].map(|x| over(ReduceOp::Sum, x));
                let [worst, squares, magnitudes] = sums;
                let (worst, squares, magnitudes) = (worst?, squares?, magnitudes?);
                let (worst, squares, magnitudes) = (worst.floats()?, squares.floats()?, magnitudes.floats()?);
                let count = axes.iter().map(|a| x.array.shape()[*a]).product();
                self.collect(context, |i| {
                    let terms = Error { worst: worst[i], likely: squares[i].sqrt() };
                    self.partial(terms, count, magnitudes[i]).rounded(own, out[i])
                })
            }
            // No element moves the extremum further than it moves itself.
            (ReduceOp::Max | ReduceOp::Min, Elements::Float(_)) => {
                let (worst, likely) =
                    (over(ReduceOp::Max, &errors.worst)?, over(ReduceOp::Max, &errors.likely)?);
                let (worst, likely) = (worst.floats()?, likely.floats()?);
                self.collect(context, |i| Error { worst: worst[i].max(0.0), likely: likely[i].max(0.0) })
            }
            // Products are not followed, and positions of extrema are taken to be certain.
            (ReduceOp::Prod, Elements::Float(_)) => {
                let worst = over(ReduceOp::Max, &errors.worst)?;
                let worst = worst.floats()?;
                self.collect(context, |i| {
                    let error = if worst[i] > 0.0 { f64::INFINITY } else { 0.0 };
                    Error { worst: error, likely: error }
                })
            }
            (_, _) => none(context, shape),
        }
    }

    /// Σ(|a| + δa)(|b| + δb) - Σ|a||b| at worst, √Σ(a²δb² + b²δa²) likely.
    fn contract(
        &self,
        context: &Context,
        (a, b): (&Value, &Value),
        (batch, axes): (Pairs, Pairs),
        (rounding, own): (FactorRounding, FactorRounding),
        value: &Array,
    ) -> Result<Errors, InterpError> {
        let Elements::Float(out) = value.elements() else { return none(context, self.ty.1) };
        let sides = [Factors::new(context, a, rounding)?, Factors::new(context, b, rounding)?];
        let sum =
            |a: &Array, b: &Array| contract((a, b), batch, axes, (DType::F64, self.ty.1), &context.memory);
        let count = axes.iter().map(|(axis, _)| a.array.shape()[*axis]).product();
        let [a, b] = &sides;
        let (by_a, by_b) = (sum(&a.worst, &b.reach)?, sum(&a.magnitude, &b.worst)?);
        let magnitudes = sum(&a.magnitude, &b.magnitude)?;
        let magnitudes = magnitudes.floats()?;
        let (of_a, of_b) = (sum(&a.squares, &b.value_squares)?, sum(&a.value_squares, &b.squares)?);
        let [by_a, by_b, of_a, of_b] = [by_a.floats()?, by_b.floats()?, of_a.floats()?, of_b.floats()?];
        self.collect(context, |i| {
            let terms = Error { worst: by_a[i] + by_b[i], likely: (of_a[i] + of_b[i]).sqrt() };
            self.partial(terms, count, magnitudes[i]).rounded(own, out[i])
        })
    }

    /// The error of a sum of `count` terms before it is rounded to its own type.
    fn partial(&self, terms: Error, count: usize, magnitude: f64) -> Error {
        if self.ty.0 == DType::F64 { terms } else { terms.summed(count, magnitude) }
    }
}

/// Whether a function of floats is monotone in each operand where these are in those intervals, or is as far from any value
/// at the ends as anywhere.
fn is_monotone<const N: usize>(op: ScalarOp, intervals: [(f64, f64); N]) -> bool {
    let has_zero = |i: usize| intervals.get(i).is_some_and(|(low, high)| *low <= 0.0 && *high >= 0.0);
    match op {
        ScalarOp::Reciprocal => !has_zero(0),
        ScalarOp::Div => !has_zero(1),
        ScalarOp::Pow => !has_zero(0) || intervals.get(1).is_some_and(|(low, _)| *low >= 0.0),
        ScalarOp::Mod | ScalarOp::Rem => false,
        // Equal somewhere, if the intervals meet.
        ScalarOp::Eq | ScalarOp::Ne => match intervals.as_slice() {
            [(x, x_end), (y, y_end)] => x > y_end || y > x_end,
            _ => false,
        },
        _ => true,
    }
}

/// The larger of two, NaN if one is.
fn greater(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() { f64::NAN } else { x.max(y) }
}

fn mapped(context: &Context, x: &Array, f: impl Fn(f64) -> f64) -> Result<Array, InterpError> {
    collected(context, x, x.floats()?.iter().map(|x| f(*x)))
}

/// Elements for the shape of another array.
fn collected(
    context: &Context,
    like: &Array,
    elements: impl Iterator<Item = f64>,
) -> Result<Array, InterpError> {
    let grant = context.memory.grant(like.shape())?;
    let mut out = grant.vector()?;
    out.extend(elements);
    grant.array(like.shape(), out)
}

/// The elements of an operand and their errors.
struct Operand<'a> {
    value: &'a [f64],
    worst: &'a [f64],
    likely: &'a [f64],
}

impl<'a> Operand<'a> {
    fn new(operand: &'a Value) -> Result<Operand<'a>, InterpError> {
        let (worst, likely) = errors_of(operand)?;
        Ok(Operand { value: operand.array.floats()?, worst, likely })
    }
}

/// One side of a contraction.
struct Factors {
    magnitude: Array,
    value_squares: Array,
    /// The errors at worst, the factors' own rounding included.
    worst: Array,
    /// Magnitude and error.
    reach: Array,
    /// The squares of likely errors.
    squares: Array,
}

impl Factors {
    fn new(context: &Context, operand: &Value, rounding: FactorRounding) -> Result<Factors, InterpError> {
        let Operand { value, worst, likely } = Operand::new(operand)?;
        let error = |i: usize| Error { worst: worst[i], likely: likely[i] }.rounded(rounding, value[i]);
        let all = || 0..value.len();
        let of = |elements: &mut dyn Iterator<Item = f64>| collected(context, &operand.array, elements);
        Ok(Factors {
            magnitude: of(&mut value.iter().map(|x| x.abs()))?,
            value_squares: of(&mut value.iter().map(|x| x * x))?,
            worst: of(&mut all().map(|i| error(i).worst))?,
            reach: of(&mut all().map(|i| value[i].abs() + error(i).worst))?,
            squares: of(&mut all().map(|i| error(i).likely.powi(2)))?,
        })
    }
}

#[cfg(test)]
mod tests;
