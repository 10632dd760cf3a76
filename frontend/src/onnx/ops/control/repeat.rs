//! `Loop`: a scan of the trace where its number of steps can be told and the carried values keep their types. Any other
//! loop of a known number of steps is unrolled.
//!
//! What a loop carries is more than state. Exporters carry the number of the step, weights, and lists to which each
//! step appends; a [`Plan`] tells them apart.

use std::rc::Rc;

use fuse_ir::{DType, Dim};

use super::super::super::call::Call;
use super::super::super::error::{Built, Problem, refuse};
use super::super::super::proto::GraphProto;
use super::super::super::value::{DimTensor, Segment, Value, step_symbol};
use super::plan::{Carry, Plan, Steps};
use super::{MAX_UNROLLED, missing_carry, run, same_type, scanned};
use crate::ScanOptions;
use crate::tensor::Tensor;

/// What a `Loop` is made of.
pub(super) struct Loop<'a> {
    pub(super) body: &'a GraphProto,
    /// The greatest number of steps, if one is given.
    pub(super) trip: Option<Dim>,
    /// Whether the first step runs: positive if so.
    pub(super) enters: Dim,
    /// Whether the condition that a step returns counts; without an initial one it does not.
    pub(super) conditional: bool,
    /// What it carries at first.
    pub(super) initial: Vec<Value>,
}

pub(super) fn repeat(call: &Call<'_>) -> Built<Vec<Value>> {
    let body = call.attributes.graph("body")?;
    let trip = match call.optional(0) {
        None => None,
        Some(_) => match &call.dims(0, "the trip count")?[..] {
            // Exporters give the largest integer where they mean none.
            [trip] if trip.as_constant().is_some_and(|c| c >= i64::from(i32::MAX)) => None,
            [trip] if trip.as_constant().is_some_and(|c| c < 0) => Some(Dim::constant(0)),
            [trip] => Some(trip.clone()),
            other => return refuse(format!("the trip count has {} elements, not one", other.len())),
        },
    };
    let initial = call.inputs.iter().skip(2).map(|v| v.clone().ok_or_else(missing_carry));
    let initial = initial.collect::<Built<_>>()?;
    let conditional = call.optional(1).is_some();
    let this = Loop { body, trip, enters: enters(call)?, conditional, initial };
    if body.output.len() < 1 + this.initial.len() || body.input.len() != 2 + this.initial.len() {
        return refuse("its body does not fit the values that it carries");
    }
    match Plan::of(call, &this) {
        Ok(plan) => this.scan(call, &plan),
        Err(problem) if problem.is_settled_by_a_restart() => Err(problem),
        Err(problem) => this.unrolled(call, problem),
    }
}

/// Whether the first step runs, as an expression that is positive if so.
fn enters(call: &Call<'_>) -> Built<Dim> {
    match call.optional(1) {
        None => Ok(Dim::constant(1)),
        Some(Value::Dims(condition)) if condition.dtype == DType::Bool && condition.dims.len() == 1 => {
            Ok(condition.dims[0].clone())
        }
        Some(_) => {
            let condition = call.scalar(1, "the condition before the first step")?;
            Ok(Dim::constant(condition.as_i64()))
        }
    }
}

impl Loop<'_> {
    /// The number of values that each step stacks.
    pub(super) fn scan_outputs(&self) -> usize {
        self.body.output.len() - 1 - self.initial.len()
    }

    /// As a scan. What a step appends to a carried sequence is stacked; what a step does not change, or only counts,
    /// is not carried.
    fn scan(&self, call: &Call<'_>, plan: &Plan) -> Built<Vec<Value>> {
        let (trip, ends_early) = match &plan.steps {
            Steps::Counted(trip) => (trip.clone(), false),
            Steps::AtMost(trip) => (trip.clone(), true),
        };
        let mut initial = self.select(plan, Carry::Tensor);
        if ends_early {
            // Whether the loop still goes on.
            initial.push(call.importer.tensor(&known_true())?.into());
        }
        let numbers = call.trace().iota(DType::I64, vec![trip.clone()], 0);
        let results = scanned(call, ScanOptions::new(), &initial, &[numbers], |carry, step| {
            let (state, alive) = match carry.split_last() {
                Some((alive, state)) if ends_early => (state, Some(alive)),
                _ => (carry, None),
            };
            self.step(call, plan, state, &step[0], alive)
        })?;
        let carried = initial.len() - usize::from(ends_early);
        let (mut states, mut stacked) =
            (results[..carried].iter().cloned(), results[initial.len()..].iter().cloned());
        let mut outputs = Vec::with_capacity(self.body.output.len());
        for (value, carry) in self.initial.iter().zip(&plan.carries) {
            outputs.extend(match (carry, value) {
                (Carry::Tensor, _) => states.next(),
                (Carry::Invariant, value) => Some(value.clone()),
                (Carry::Counter(step), value) => Some(counted(value, &trip, *step)?),
                (Carry::Sequence, Value::Sequence(segments)) => {
                    stacked.next().map(|items| extended(call, segments, &items)).transpose()?
                }
                (Carry::Sequence, _) => return refuse("a carried tensor becomes a sequence"),
            });
        }
        outputs.extend(stacked);
        Ok(outputs)
    }

    /// The carried values of a kind.
    fn select(&self, plan: &Plan, kind: Carry) -> Vec<Value> {
        let of_kind = self.initial.iter().zip(&plan.carries).filter(|(_, carry)| **carry == kind);
        of_kind.map(|(value, _)| value.clone()).collect()
    }

    /// One step in a scan: the new states, whether the loop goes on if it is carried, then what is stacked.
    fn step(
        &self,
        call: &Call<'_>,
        plan: &Plan,
        state: &[Tensor],
        number: &Tensor,
        alive: Option<&Tensor>,
    ) -> Built<Vec<Value>> {
        let symbol = step_symbol(call.importer.steps.borrow().len());
        call.importer.steps.borrow_mut().insert(symbol.clone(), number.clone());
        let step = Dim::symbol(symbol.name());
        let number = DimTensor { shape: Vec::new(), dims: vec![step.clone()], dtype: DType::I64 };
        let mut inputs = vec![Value::Dims(Rc::new(number)), known_true()];
        let mut states = state.iter();
        for (i, (value, carry)) in self.initial.iter().zip(&plan.carries).enumerate() {
            inputs.extend(match carry {
                Carry::Tensor => states.next().map(|t| t.clone().into()),
                Carry::Invariant => Some(value.clone()),
                Carry::Counter(by) => Some(counted(value, &step, *by)?),
                Carry::Sequence => Some(carried_sequence(i)),
            });
        }
        let results = run(call, self.body, &inputs).and_then(|results| {
            let returned = self.returned(call, plan, state, results, alive)?;
            // As tensors, while the step's number stands for its symbol.
            returned.iter().map(|v| Ok(call.importer.tensor(v)?.into())).collect()
        });
        call.importer.steps.borrow_mut().remove(&symbol);
        results
    }

    /// What a step hands on of what its body returned.
    fn returned(
        &self,
        call: &Call<'_>,
        plan: &Plan,
        state: &[Tensor],
        mut results: Vec<Value>,
        alive: Option<&Tensor>,
    ) -> Built<Vec<Value>> {
        let scan_outputs = results.split_off(1 + self.initial.len());
        let (mut next, mut stacked) = (Vec::new(), Vec::new());
        let mut states = state.iter();
        for (i, (result, carry)) in results[1..].iter().zip(&plan.carries).enumerate() {
            match (carry, alive) {
                (Carry::Tensor, None) => next.push(result.clone()),
                (Carry::Tensor, Some(alive)) => {
                    let Some(old) = states.next() else { return refuse("it carries nothing") };
                    same_type(call, &old.clone().into(), result)?;
                    let new = call.importer.tensor(result)?;
                    next.push(alive.broadcast_to(new.shape()).select(&new, old).into());
                }
                (Carry::Sequence, _) => stacked.push(appended(call, i, result)?.into()),
                (Carry::Invariant | Carry::Counter(_), _) => {}
            }
        }
        if let Some(alive) = alive {
            let goes_on = call.importer.tensor(&results[0])?.reshape(());
            next.push(alive.and(&goes_on).into());
        }
        Ok([next, stacked, scan_outputs].concat())
    }

    /// Step by step. `problem` is why the loop cannot be a scan.
    fn unrolled(&self, call: &Call<'_>, problem: Problem) -> Built<Vec<Value>> {
        let trip = self.trip.as_ref().and_then(Dim::as_constant).filter(|t| *t <= MAX_UNROLLED);
        let (Some(trip), Some(enters)) = (trip, self.enters.as_constant()) else { return Err(problem) };
        let mut carried = self.initial.clone();
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); self.scan_outputs()];
        for step in 0..if enters > 0 { trip } else { 0 } {
            let number = DimTensor { shape: Vec::new(), dims: vec![Dim::constant(step)], dtype: DType::I64 };
            let mut inputs = vec![Value::dims("step", number), known_true()];
            inputs.extend(carried);
            let mut results = run(call, self.body, &inputs)?;
            for (stack, value) in stacks.iter_mut().zip(results.split_off(1 + self.initial.len())) {
                stack.push(call.importer.tensor(&value)?);
            }
            carried = results.split_off(1);
            match results[0].as_known().and_then(|c| c.get(0)) {
                _ if !self.conditional => {}
                Some(goes_on) if goes_on.as_i64() != 0 => {}
                Some(_) => break,
                None => return Err(problem),
            }
        }
        for stack in stacks {
            let Some(first) = stack.first() else {
                return refuse("it has scan outputs but no steps, so that their shape is not known");
            };
            for other in &stack {
                same_type(call, &first.clone().into(), &other.clone().into())?;
            }
            carried.push(crate::stack(&stack, 0).into());
        }
        Ok(carried)
    }
}

/// A carried integer that each step adds `by` to, after `steps` of them.
fn counted(initial: &Value, steps: &Dim, by: i64) -> Built<Value> {
    let start = match initial {
        Value::Dims(tensor) => Some((**tensor).clone()),
        Value::Known(constant) => DimTensor::from_known(&constant.tensor),
        Value::Traced(_) | Value::Sequence(_) => None,
    };
    let Some(start) = start else { return refuse("it counts from a number that is not known") };
    let dims = start.dims.iter().map(|d| d.clone() + Dim::constant(by) * steps.clone()).collect();
    Ok(Value::dims("count", DimTensor { dims, ..start }))
}

/// A sequence as a step gets it.
pub(super) fn carried_sequence(position: usize) -> Value {
    Value::Sequence(Rc::new(vec![Segment::Carried(position)]))
}

/// The entry that a step has appended to the sequence that it got.
pub(super) fn appended(call: &Call<'_>, position: usize, result: &Value) -> Built<Tensor> {
    match result {
        Value::Sequence(segments) => match &segments[..] {
            [Segment::Carried(own), Segment::Item(item)] if *own == position => call.importer.tensor(item),
            _ => refuse("a step does not append exactly one tensor to a sequence that it carries"),
        },
        _ => refuse("a carried sequence becomes a tensor"),
    }
}

/// A sequence with the entries that the steps of a loop have appended.
fn extended(call: &Call<'_>, segments: &[Segment], items: &Value) -> Built<Value> {
    let items = Segment::Stacked(call.importer.tensor(items)?);
    Ok(Value::Sequence(Rc::new(segments.iter().cloned().chain([items]).collect())))
}

/// The scalar `true`.
pub(super) fn known_true() -> Value {
    Value::dims("true", DimTensor { shape: Vec::new(), dims: vec![Dim::constant(1)], dtype: DType::Bool })
}
