//! The scan: steps over a leading axis, with carried state and rows that end early.

use crate::dtype::DType;
use crate::graph::Scan;
use crate::ops::Direction;

use super::array::{Array, Element, Elements, Grant, Memory, element_count};
use super::run::{Context, Plan};
use super::value::{Errors, Value};
use super::{InterpError, position};

/// Runs a scan; `body` is absent where it takes no step.
pub(super) fn run_scan(
    scan: &Scan,
    body: Option<&Plan>,
    operands: &[&Value],
    shapes: &[&[usize]],
    context: &Context,
) -> Result<Vec<Value>, InterpError> {
    let short = || InterpError::Malformed(format!("a scan of {} operands", operands.len()));
    let (initial, rest) = operands.split_at_checked(scan.carries).ok_or_else(short)?;
    let (scanned, rest) = rest.split_at_checked(scan.scanned).ok_or_else(short)?;
    let captures = &rest[..scan.captures(operands.len()).min(rest.len())];
    let mut carries: Vec<Value> = initial.iter().map(|v| (*v).clone()).collect();
    let trip = position(&scan.trip, context.dims)? as usize;
    let mut stacks = Vec::new();
    for (i, shape) in shapes.iter().enumerate().skip(scan.carries) {
        let value = scan.body.outputs().get(i).ok_or_else(short)?.value;
        let with_errors = initial.iter().chain(scanned).chain(captures).any(|v| v.errors.is_some());
        stacks.push(Stacks::new(scan.body.ty(value).dtype, shape, with_errors, &context.memory)?);
    }
    let lengths = match (scan.lengths, rest.last()) {
        (true, Some(lengths)) => Some(lengths.array.ints()?),
        (true, None) => return Err(short()),
        (false, _) => None,
    };
    for step in 0..trip {
        let Some(body) = body else { break };
        let at = match scan.direction {
            Direction::Forward => step,
            Direction::Reverse => trip - 1 - step,
        };
        let active = Active::at(at, lengths);
        if active == Active::None {
            continue;
        }
        let mut inputs = carries.clone();
        for tensor in scanned {
            inputs.push(tensor.map(|array| slice_at(array, at, &context.memory))?);
        }
        inputs.extend(captures.iter().map(|v| (*v).clone()));
        let mut outputs = body.run(inputs, context)?;
        for (stack, value) in stacks.iter_mut().zip(outputs.iter().skip(scan.carries)) {
            stack.write(at, value, &active)?;
        }
        outputs.truncate(scan.carries);
        for (carry, new) in carries.iter_mut().zip(outputs) {
            *carry = carry.zip(&new, |old, new| active.keep(old, new, &context.memory))?;
        }
    }
    let stacked = stacks.into_iter().zip(&shapes[scan.carries..]).map(|(s, shape)| s.finish(shape));
    carries.into_iter().map(Ok).chain(stacked).collect()
}

/// Which rows a step concerns.
#[derive(PartialEq)]
enum Active {
    All,
    None,
    Rows(Vec<bool>),
}

impl Active {
    fn at(position: usize, lengths: Option<&[i64]>) -> Active {
        // Lengths beyond the number of steps need no clamping: no position reaches them.
        let Some(lengths) = lengths else { return Active::All };
        let rows: Vec<bool> = lengths.iter().map(|l| i128::from(*l) > position as i128).collect();
        match (rows.contains(&true), rows.contains(&false)) {
            (_, false) => Active::All,
            (false, true) => Active::None,
            (true, true) => Active::Rows(rows),
        }
    }

    /// The new carry in active rows, the old one in the others.
    fn keep(&self, old: &Array, new: &Array, memory: &Memory) -> Result<Array, InterpError> {
        fn blend<T: Element>(
            rows: &[bool],
            old: &Array,
            new: &Array,
            memory: &Memory,
        ) -> Result<Array, InterpError> {
            let grant = memory.grant(new.shape())?;
            let mut out = grant.vector()?;
            let (old, fresh) = (T::of(old)?, T::of(new)?);
            let width = fresh.len() / rows.len();
            for (i, row) in rows.iter().enumerate() {
                let source = if *row { fresh } else { old };
                out.extend_from_slice(&source[i * width..(i + 1) * width]);
            }
            grant.array(new.shape(), out)
        }
        match (self, new.elements()) {
            (Active::All, _) => Ok(new.clone()),
            (Active::None, _) => Ok(old.clone()),
            (Active::Rows(rows), Elements::Float(_)) => blend::<f64>(rows, old, new, memory),
            (Active::Rows(rows), Elements::Int(_)) => blend::<i64>(rows, old, new, memory),
        }
    }
}

/// One position of a scanned tensor.
fn slice_at(tensor: &Array, at: usize, memory: &Memory) -> Result<Array, InterpError> {
    fn copy<T: Element>(
        source: &[T],
        at: usize,
        shape: &[usize],
        memory: &Memory,
    ) -> Result<Array, InterpError> {
        let grant = memory.grant(shape)?;
        let mut out = grant.vector()?;
        let size = element_count(shape).unwrap_or(0);
        out.extend_from_slice(&source[at * size..(at + 1) * size]);
        grant.array(shape, out)
    }
    match tensor.elements() {
        Elements::Float(v) => copy(v, at, &tensor.shape()[1..], memory),
        Elements::Int(v) => copy(v, at, &tensor.shape()[1..], memory),
    }
}

/// A stacked result in the making, with its errors where these are estimated.
struct Stacks {
    array: Stack,
    /// The worst and the likely ones.
    errors: Option<[Stack; 2]>,
}

impl Stacks {
    fn new(dtype: DType, shape: &[usize], with_errors: bool, memory: &Memory) -> Result<Stacks, InterpError> {
        let stack = |dtype| Stack::new(dtype, shape, memory);
        let errors = if with_errors { Some([stack(DType::F64)?, stack(DType::F64)?]) } else { None };
        Ok(Stacks { array: stack(dtype)?, errors })
    }

    fn write(&mut self, at: usize, value: &Value, active: &Active) -> Result<(), InterpError> {
        self.array.write(at, &value.array, active)?;
        if let (Some([worst, likely]), Some(errors)) = (&mut self.errors, &value.errors) {
            worst.write(at, &errors.worst, active)?;
            likely.write(at, &errors.likely, active)?;
        }
        Ok(())
    }

    fn finish(self, shape: &[usize]) -> Result<Value, InterpError> {
        let errors = match self.errors {
            Some([worst, likely]) => {
                Some(Errors { worst: worst.finish(shape)?, likely: likely.finish(shape)? })
            }
            None => None,
        };
        Ok(Value { array: self.array.finish(shape)?, errors })
    }
}

/// One array of a stacked result; zero where nothing is written.
struct Stack {
    elements: Elements,
    grant: Grant,
}

impl Stack {
    fn new(dtype: DType, shape: &[usize], memory: &Memory) -> Result<Stack, InterpError> {
        let grant = memory.grant(shape)?;
        let elements = if dtype.is_float() {
            Elements::Float(grant.filled(0.0)?)
        } else {
            Elements::Int(grant.filled(0)?)
        };
        Ok(Stack { elements, grant })
    }

    fn write(&mut self, at: usize, value: &Array, active: &Active) -> Result<(), InterpError> {
        fn write<T: Element>(out: &mut [T], at: usize, value: &[T], active: &Active) {
            let out = &mut out[at * value.len()..(at + 1) * value.len()];
            match active {
                Active::All => out.copy_from_slice(value),
                Active::None => {}
                Active::Rows(rows) => {
                    let width = value.len() / rows.len();
                    for (i, _) in rows.iter().enumerate().filter(|(_, row)| **row) {
                        let range = i * width..(i + 1) * width;
                        out[range.clone()].copy_from_slice(&value[range]);
                    }
                }
            }
        }
        match &mut self.elements {
            Elements::Float(out) => write(out, at, value.floats()?, active),
            Elements::Int(out) => write(out, at, value.ints()?, active),
        }
        Ok(())
    }

    fn finish(self, shape: &[usize]) -> Result<Array, InterpError> {
        match self.elements {
            Elements::Float(v) => self.grant.array(shape, v),
            Elements::Int(v) => self.grant.array(shape, v),
        }
    }
}
