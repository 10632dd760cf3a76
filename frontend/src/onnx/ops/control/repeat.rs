//! `Loop`: a scan of the trace where its number of steps is known and the carried values keep their types. One whose
//! condition may end it early carries along whether it has; a sequence to which each step appends a tensor is a stacked
//! output. Any other loop of a known number of steps is unrolled.

use std::rc::Rc;

use fuse_ir::{DType, Dim, TensorType};

use super::super::super::call::Call;
use super::super::super::error::{Built, Problem, refuse};
use super::super::super::proto::GraphProto;
use super::super::super::value::{Segment, Value};
use super::{MAX_UNROLLED, missing_carry, run, same_type, scanned};
use crate::ScanOptions;
use crate::tensor::Tensor;

/// What a `Loop` is made of.
struct Loop<'a> {
    body: &'a GraphProto,
    /// The number of steps, if they are counted.
    trip: Dim,
    /// What it carries at first.
    initial: Vec<Value>,
}

pub(super) fn repeat(call: &Call<'_>) -> Built<Vec<Value>> {
    let body = call.attributes.graph("body")?;
    let Some(_) = call.optional(0) else {
        return refuse("a loop without a trip count is not supported; give it the largest number of steps");
    };
    let mut trip = match &call.dims(0, "the trip count")?[..] {
        [trip] => trip.clone(),
        other => return refuse(format!("the trip count has {} elements, not one", other.len())),
    };
    let enters = match call.optional(1) {
        Some(_) => call.scalar(1, "the condition before the first step")?.as_i64() != 0,
        None => true,
    };
    if !enters || trip.as_constant().is_some_and(|c| c < 0) {
        trip = Dim::constant(0);
    }
    let initial = call.inputs.iter().skip(2).map(|v| v.clone().ok_or_else(missing_carry));
    let this = Loop { body, trip, initial: initial.collect::<Built<_>>()? };
    if body.output.len() < 1 + this.initial.len() || body.input.len() != 2 + this.initial.len() {
        return refuse("its body does not fit the values that it carries");
    }
    match call.trace().speculate(|| this.kind(call)) {
        Ok(Kind::Counted) => this.counted(call),
        Ok(Kind::EndsEarly) => this.ending_early(call),
        Err(problem) if problem.is_settled_by_a_restart() => Err(problem),
        Err(problem) => this.unrolled(call, problem),
    }
}

/// How a loop can be a scan.
enum Kind {
    /// All its steps run.
    Counted,
    /// Its condition may end it.
    EndsEarly,
}

impl Loop<'_> {
    fn scan_outputs(&self) -> usize {
        self.body.output.len() - 1 - self.initial.len()
    }

    fn carries_sequences(&self) -> bool {
        self.initial.iter().any(|v| matches!(v, Value::Sequence(_)))
    }

    /// Runs the body once on inputs of the carried types, to see what it needs and makes.
    fn kind(&self, call: &Call<'_>) -> Built<Kind> {
        let input = |ty: TensorType| call.trace().step_input(ty);
        let mut inputs: Vec<Value> = vec![input(TensorType::scalar(DType::I64)).into(), known_true()];
        for (i, value) in self.initial.iter().enumerate() {
            inputs.push(match value {
                Value::Sequence(_) => carried_sequence(i),
                tensor => input(TensorType::new(tensor.dtype(), tensor.shape())).into(),
            });
        }
        let results = run(call, self.body, &inputs)?;
        for (i, (old, new)) in self.initial.iter().zip(&results[1..]).enumerate() {
            match old {
                Value::Sequence(_) => _ = appended(call, i, new)?,
                tensor => same_type(call, tensor, new)?,
            }
        }
        match results[0].as_known().and_then(|c| c.get(0)) {
            Some(goes_on) if goes_on.as_i64() != 0 => Ok(Kind::Counted),
            // It ends after the first step.
            Some(_) => refuse("its condition is false after one step"),
            None if self.scan_outputs() == 0 && !self.carries_sequences() => Ok(Kind::EndsEarly),
            None => refuse("its condition depends on data, so that the length of what it stacks does"),
        }
    }

    /// As a scan over all steps. What a step appends to a carried sequence is stacked.
    fn counted(&self, call: &Call<'_>) -> Built<Vec<Value>> {
        let steps = call.trace().iota(DType::I64, vec![self.trip.clone()], 0);
        let is_sequence = |v: &&Value| matches!(v, Value::Sequence(_));
        let tensors: Vec<Value> = self.initial.iter().filter(|v| !is_sequence(v)).cloned().collect();
        let results = scanned(call, ScanOptions::new(), &tensors, &[steps], |carry, step| {
            let mut carry = carry.iter().cloned();
            let mut inputs = vec![step[0].clone().into(), known_true()];
            inputs.extend(self.initial.iter().enumerate().filter_map(|(i, value)| match value {
                Value::Sequence(_) => Some(carried_sequence(i)),
                _ => carry.next().map(Value::from),
            }));
            let mut results = run(call, self.body, &inputs)?.split_off(1);
            let scan_outputs = results.split_off(self.initial.len());
            let (mut next, mut items) = (Vec::new(), Vec::new());
            for (i, (value, result)) in self.initial.iter().zip(results).enumerate() {
                match value {
                    Value::Sequence(_) => items.push(appended(call, i, &result)?.into()),
                    _ => next.push(result),
                }
            }
            Ok([next, items, scan_outputs].concat())
        })?;
        // The carried tensors, what each sequence got, the scan outputs; in the order of the node's outputs again.
        let (carried, stacked) = results.split_at(tensors.len());
        let (mut carried, mut stacked) = (carried.iter().cloned(), stacked.iter().cloned());
        let mut outputs = Vec::with_capacity(results.len());
        for value in &self.initial {
            outputs.extend(match value {
                Value::Sequence(segments) => {
                    stacked.next().map(|items| extended(call, segments, &items)).transpose()?
                }
                _ => carried.next(),
            });
        }
        outputs.extend(stacked);
        Ok(outputs)
    }

    /// As a scan that carries along whether the loop goes on, and nothing changes once it does not.
    fn ending_early(&self, call: &Call<'_>) -> Built<Vec<Value>> {
        let steps = call.trace().iota(DType::I64, vec![self.trip.clone()], 0);
        let mut initial = self.initial.clone();
        initial.push(known_true());
        let mut results = scanned(call, ScanOptions::new(), &initial, &[steps], |carry, step| {
            let Some((alive, carry)) = carry.split_last() else { return refuse("it carries nothing") };
            let mut inputs = vec![step[0].clone().into(), known_true()];
            inputs.extend(carry.iter().cloned().map(Value::from));
            let results = run(call, self.body, &inputs)?;
            let mut next = Vec::with_capacity(carry.len() + 1);
            for (old, new) in carry.iter().zip(&results[1..]) {
                same_type(call, &old.clone().into(), new)?;
                let new = call.importer.tensor(new)?;
                next.push(alive.broadcast_to(new.shape()).select(&new, old).into());
            }
            let goes_on = call.importer.tensor(&results[0])?.reshape(());
            next.push(alive.and(&goes_on).into());
            Ok(next)
        })?;
        results.truncate(self.initial.len());
        Ok(results)
    }

    /// Step by step. `problem` is why the loop cannot be a scan.
    fn unrolled(&self, call: &Call<'_>, problem: Problem) -> Built<Vec<Value>> {
        let Some(trip) = self.trip.as_constant().filter(|t| *t <= MAX_UNROLLED) else { return Err(problem) };
        let mut carried = self.initial.clone();
        let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); self.scan_outputs()];
        for step in 0..trip {
            let number = fuse_ir::tensor::Tensor::from_values(&[], &[step]);
            let Ok(number) = number else { return Err(problem) };
            let mut inputs = vec![Value::known("step", number), known_true()];
            inputs.extend(carried);
            let mut results = run(call, self.body, &inputs)?;
            for (stack, value) in stacks.iter_mut().zip(results.split_off(1 + self.initial.len())) {
                stack.push(call.importer.tensor(&value)?);
            }
            carried = results.split_off(1);
            match results[0].as_known().and_then(|c| c.get(0)) {
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

/// A sequence as a step gets it.
fn carried_sequence(position: usize) -> Value {
    Value::Sequence(Rc::new(vec![Segment::Carried(position)]))
}

/// The entry that a step has appended to the sequence that it got.
fn appended(call: &Call<'_>, position: usize, result: &Value) -> Built<Tensor> {
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

fn known_true() -> Value {
    let flag = fuse_ir::tensor::Tensor::from_values(&[], &[true]);
    flag.map_or_else(|_| unreachable!("one byte is a scalar"), |flag| Value::known("true", flag))
}
