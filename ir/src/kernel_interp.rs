//! The meaning of kernel graphs: an interpreter that shares no code with the one of graphs, nor with any back
//! end.
//!
//! Floats of every width stay f64 and integers have their declared width, as under
//! [`Precision::F64`](crate::interp::Precision::F64), so that results can be compared with the reference
//! interpreter's. It is strict where a device would silently go on: a load outside its buffer, a load of an
//! element that nothing has written, two stores of one element in one launch, and two of one element of an output are
//! errors.

use std::collections::{BTreeMap, BTreeSet};

use crate::dtype::{DType, Literal};
use crate::expr::{Atom, DimEnv, EvalError, Expr};
use crate::interp::{ScalarValue, eval_scalar};
use crate::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop, Recurrence,
    Step, TypedElement,
};
use crate::ops::{Direction, ReduceOp, ScalarOp};
use crate::tensor::{Tensor, TensorError};

/// The most elements a buffer may have.
const MAX_ELEMENTS: usize = 1 << 28;

/// Why a kernel graph has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KernelInterpError {
    /// A dimension or index has no value.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// An output is too large for a host tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A buffer is too large or has a negative extent.
    #[error("buffer {buffer} of shape {shape:?} cannot be held")]
    Size {
        /// The buffer's name.
        buffer: String,
        /// Its extents.
        shape: Vec<i64>,
    },
    /// An input is missing or has another type or shape than its buffer.
    #[error("input {position} should be {expected}, got {got}")]
    Input {
        /// Which input.
        position: usize,
        /// Its buffer's type and extents.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A load or store outside of its buffer.
    #[error("kernel {kernel}: {access} of {buffer}{index:?}, whose extents are {shape:?}")]
    OutOfBounds {
        /// The kernel's name.
        kernel: String,
        /// `load` or `store`.
        access: &'static str,
        /// The buffer's name.
        buffer: String,
        /// The coordinates.
        index: Vec<i64>,
        /// The buffer's extents.
        shape: Vec<i64>,
    },
    /// A load of an element that was never written.
    #[error("kernel {kernel}: loads {buffer}{index:?} before anything has written it")]
    Unwritten {
        /// The kernel's name.
        kernel: String,
        /// The buffer's name.
        buffer: String,
        /// The coordinates.
        index: Vec<i64>,
    },
    /// Two stores of different values to one element in one launch, or stores of one element of an output in two.
    #[error("kernel {kernel}: stores {buffer}{index:?} twice")]
    StoredTwice {
        /// The kernel's name.
        kernel: String,
        /// The buffer's name.
        buffer: String,
        /// The coordinates.
        index: Vec<i64>,
    },
    /// The kernel graph breaks an invariant that verification checks.
    #[error("the kernel graph is malformed: {0}")]
    Malformed(String),
}

type Result<T> = std::result::Result<T, KernelInterpError>;

/// The outputs of a kernel graph, in order, for its inputs, in order; `dims` gives every symbol a value. Float
/// outputs are f64 tensors.
///
/// # Errors
/// Where the inputs do not fit, or a kernel does what no kernel may.
pub fn interpret_kernels(graph: &KernelGraph, inputs: &[Tensor], dims: &DimEnv) -> Result<Vec<Tensor>> {
    let mut memory = Vec::with_capacity(graph.buffers.len());
    for buffer in &graph.buffers {
        memory.push(Memory::new(buffer, dims)?);
    }
    let mut run = Run { graph, memory, dims: dims.clone(), launches: 0 };
    run.bind_inputs(inputs)?;
    run.steps(&graph.steps)?;
    run.outputs()
}

/// The contents of a buffer.
struct Memory {
    shape: Vec<i64>,
    elements: Vec<Option<ScalarValue>>,
    /// The launch that last wrote each element, from 1 on; 0 for none.
    written: Vec<u64>,
}

impl Memory {
    fn new(buffer: &Buffer, dims: &DimEnv) -> Result<Self> {
        let shape: std::result::Result<Vec<i64>, EvalError> =
            buffer.ty.shape.iter().map(|d| d.eval_dim(dims)).collect();
        let shape = shape?;
        let product = |n: usize, d: &i64| usize::try_from(*d).ok().and_then(|d| n.checked_mul(d));
        match shape.iter().try_fold(1usize, product) {
            Some(n) if n <= MAX_ELEMENTS => {
                Ok(Memory { shape, elements: vec![None; n], written: vec![0; n] })
            }
            _ => Err(KernelInterpError::Size { buffer: buffer.name.clone(), shape }),
        }
    }

    /// The row-major position of coordinates; `None` outside.
    fn position(&self, index: &[i64]) -> Option<usize> {
        let mut position = 0usize;
        for (i, n) in index.iter().zip(&self.shape) {
            if *i < 0 || i >= n {
                return None;
            }
            position = position * *n as usize + *i as usize;
        }
        Some(position)
    }

    /// Whether coordinates lie in the buffer with every empty axis taken as one of extent 1: what a clamped
    /// read of an empty tensor may touch.
    fn is_empty_at(&self, index: &[i64]) -> bool {
        self.elements.is_empty() && index.iter().zip(&self.shape).all(|(i, n)| *i >= 0 && *i < (*n).max(1))
    }
}

/// Whether two values are the same to the bit.
fn is_same(a: ScalarValue, b: ScalarValue) -> bool {
    match (a, b) {
        (ScalarValue::Float(a), ScalarValue::Float(b)) => a.to_bits() == b.to_bits(),
        (ScalarValue::Int(a), ScalarValue::Int(b)) => a == b,
        (ScalarValue::Float(_), ScalarValue::Int(_)) | (ScalarValue::Int(_), ScalarValue::Float(_)) => false,
    }
}

struct Run<'a> {
    graph: &'a KernelGraph,
    memory: Vec<Memory>,
    dims: DimEnv,
    launches: u64,
}

impl Run<'_> {
    fn bind_inputs(&mut self, inputs: &[Tensor]) -> Result<()> {
        for (buffer, memory) in self.graph.buffers.iter().zip(&mut self.memory) {
            let BufferKind::Input(position) = buffer.kind else { continue };
            let expected = || format!("{}{:?}", buffer.ty.dtype, memory.shape);
            let Some(tensor) = inputs.get(position) else {
                let (expected, got) = (expected(), "nothing".to_string());
                return Err(KernelInterpError::Input { position, expected, got });
            };
            let same = tensor.shape().iter().map(|n| *n as i64).eq(memory.shape.iter().copied());
            if tensor.dtype() != buffer.ty.dtype || !same {
                let got = format!("{}{:?}", tensor.dtype(), tensor.shape());
                return Err(KernelInterpError::Input { position, expected: expected(), got });
            }
            memory.elements = tensor.literals().map(|l| Some(scalar(l))).collect();
        }
        Ok(())
    }

    fn outputs(&self) -> Result<Vec<Tensor>> {
        let mut outputs: BTreeMap<usize, Tensor> = BTreeMap::new();
        for (buffer, memory) in self.graph.buffers.iter().zip(&self.memory) {
            let BufferKind::Output(position) = buffer.kind else { continue };
            let shape: Vec<usize> = memory.shape.iter().map(|n| *n as usize).collect();
            let dtype = if buffer.ty.dtype.is_float() { DType::F64 } else { buffer.ty.dtype };
            let mut tensor = Tensor::zeros(dtype, &shape)?;
            let size = dtype.size();
            for (i, element) in memory.elements.iter().enumerate() {
                let Some(value) = element else {
                    let text = format!("output {} has elements that nothing wrote", buffer.name);
                    return Err(KernelInterpError::Malformed(text));
                };
                let literal = match value {
                    ScalarValue::Float(x) => Literal::from_f64(dtype, *x),
                    ScalarValue::Int(x) => Literal::from_i64(dtype, *x),
                };
                tensor.bytes_mut()[i * size..(i + 1) * size]
                    .copy_from_slice(&literal.bits().to_le_bytes()[..size]);
            }
            outputs.insert(position, tensor);
        }
        Ok(outputs.into_values().collect())
    }

    fn steps(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Step::Kernel(kernel) => self.kernel(kernel)?,
                Step::Loop(l) => self.repeat(l)?,
            }
        }
        Ok(())
    }

    fn repeat(&mut self, l: &Loop) -> Result<()> {
        let trip = l.trip.eval_dim(&self.dims)?.max(0);
        for step in 0..trip {
            let position = match l.direction {
                Direction::Forward => step,
                Direction::Reverse => trip - 1 - step,
            };
            self.dims.set(l.counter.clone(), position);
            self.steps(&l.body)?;
            for carry in &l.carries {
                let (current, next) = (carry.current.index(), carry.next.index());
                if current.max(next) >= self.memory.len() {
                    return Err(KernelInterpError::Malformed("a carry has no such buffer".into()));
                }
                self.memory.swap(current, next);
                self.memory[next].elements.fill(None);
            }
        }
        Ok(())
    }

    fn kernel(&mut self, kernel: &Kernel) -> Result<()> {
        self.launches += 1;
        let mut extents = Vec::with_capacity(kernel.extents.len());
        for extent in &kernel.extents {
            extents.push(extent.eval_dim(&self.dims)?);
        }
        let launch = Launch { kernel, homes: homes(kernel)?, extents };
        let mut point = Point {
            axes: vec![0; launch.extents.len()],
            values: vec![None; kernel.elements.len()],
            states: BTreeMap::new(),
        };
        let along = kernel.recurrence_axis().map(|axis| axis.index());
        let across = || (0..kernel.rank).filter(|axis| Some(*axis) != along);
        if across().any(|axis| launch.extents[axis] <= 0) {
            return Ok(());
        }
        loop {
            launch.start(self, &mut point)?;
            for position in 0..along.map_or(1, |axis| launch.extents[axis]) {
                if let Some(axis) = along {
                    point.axes[axis] = position;
                }
                launch.level(self, &mut point, None)?;
                self.store(kernel, &point, false)?;
                launch.step(&mut point)?;
            }
            self.store(kernel, &point, true)?;
            if !advance(&mut point.axes, &launch.extents, across()) {
                return Ok(());
            }
        }
    }

    /// The stores that happen at every point, or those of final states.
    fn store(&mut self, kernel: &Kernel, point: &Point, finals: bool) -> Result<()> {
        for store in kernel.stores.iter().filter(|store| kernel.is_final(store) == finals) {
            let index = self.indices(&store.index, &point.axes)?;
            let element = kernel.elements.get(store.value.index());
            let value = match element.and_then(|e| e.element.recurrence()).filter(|_| finals) {
                Some(recurrence) => point.state(recurrence)?,
                None => point.value(store.value)?,
            };
            let Buffer { name, kind, .. } = self.buffer(store.buffer)?;
            let (buffer, is_output) = (name.clone(), matches!(kind, BufferKind::Output(_)));
            let memory = &mut self.memory[store.buffer.index()];
            let name = || kernel.name.clone();
            let Some(at) = memory.position(&index) else {
                let shape = memory.shape.clone();
                return Err(KernelInterpError::OutOfBounds {
                    kernel: name(),
                    access: "store",
                    buffer,
                    index,
                    shape,
                });
            };
            let before = std::mem::replace(&mut memory.written[at], self.launches);
            let same = before == self.launches && memory.elements[at].is_some_and(|old| is_same(old, value));
            // Nothing rewrites an output, whose parts may come from several kernels.
            if !same && (before == self.launches || (is_output && before > 0)) {
                return Err(KernelInterpError::StoredTwice { kernel: name(), buffer, index });
            }
            memory.elements[at] = Some(value);
        }
        Ok(())
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer> {
        let found = self.graph.buffers.get(id.index());
        found.ok_or_else(|| KernelInterpError::Malformed(format!("there is no buffer {id}")))
    }

    fn indices(&self, index: &[Expr], axes: &[i64]) -> Result<Vec<i64>> {
        index.iter().map(|e| self.index(e, axes)).collect()
    }

    fn index(&self, e: &Expr, axes: &[i64]) -> Result<i64> {
        Ok(e.eval(&|atom| match atom {
            Atom::Axis(a) => axes.get(a.index()).copied(),
            Atom::Symbol(s) => self.dims.get(s),
            Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
        })?)
    }

    fn load(
        &self,
        kernel: &Kernel,
        id: BufferId,
        index: &[Coordinate],
        point: &Point,
    ) -> Result<ScalarValue> {
        let buffer = self.buffer(id)?;
        let memory = &self.memory[id.index()];
        let mut at = Vec::with_capacity(index.len());
        for (coordinate, n) in index.iter().zip(&memory.shape) {
            at.push(match coordinate {
                Coordinate::Static(e) => self.index(e, &point.axes)?,
                Coordinate::Dynamic(e) => match point.value(*e)? {
                    ScalarValue::Int(i) => i.min(n - 1).max(0),
                    ScalarValue::Float(_) => {
                        return Err(KernelInterpError::Malformed("a float is no coordinate".into()));
                    }
                },
            });
        }
        if memory.is_empty_at(&at) {
            return Ok(scalar(Literal::from_i64(buffer.ty.dtype, 0)));
        }
        let (kernel, name) = (kernel.name.clone(), buffer.name.clone());
        match memory.position(&at) {
            None => Err(KernelInterpError::OutOfBounds {
                kernel,
                access: "load",
                buffer: name,
                index: at,
                shape: memory.shape.clone(),
            }),
            Some(position) => memory.elements[position].ok_or(KernelInterpError::Unwritten {
                kernel,
                buffer: name,
                index: at,
            }),
        }
    }
}

/// One launch of a kernel.
struct Launch<'a> {
    kernel: &'a Kernel,
    /// For each element the innermost reduction whose axes it depends on.
    homes: Vec<Option<ElementId>>,
    extents: Vec<i64>,
}

/// Where a launch is, and what it has computed there.
struct Point {
    axes: Vec<i64>,
    values: Vec<Option<ScalarValue>>,
    /// The states before the point.
    states: BTreeMap<Recurrence, ScalarValue>,
}

impl Point {
    fn value(&self, id: ElementId) -> Result<ScalarValue> {
        let value = self.values.get(id.index()).copied().flatten();
        value.ok_or_else(|| KernelInterpError::Malformed(format!("{id} is used before it is computed")))
    }

    /// The state of a recurrence before the point.
    fn state(&self, recurrence: Recurrence) -> Result<ScalarValue> {
        let missing = || KernelInterpError::Malformed("a recurrence has no state".into());
        self.states.get(&recurrence).copied().ok_or_else(missing)
    }
}

impl Launch<'_> {
    /// Gives every recurrence its initial state.
    fn start(&self, run: &Run<'_>, point: &mut Point) -> Result<()> {
        let recurrences: BTreeSet<Recurrence> =
            self.kernel.elements.iter().filter_map(|e| e.element.recurrence()).collect();
        if recurrences.is_empty() {
            return Ok(());
        }
        // Where the axis has no points, nothing else may be computed.
        let mut wanted = vec![false; self.kernel.elements.len()];
        recurrences.iter().for_each(|r| wanted[r.init.index()] = true);
        for (i, typed) in self.kernel.elements.iter().enumerate().rev() {
            if wanted[i] {
                typed.element.operands().iter().for_each(|o| wanted[o.index()] = true);
            }
        }
        for (i, typed) in self.kernel.elements.iter().enumerate() {
            if wanted[i] && self.homes[i].is_none() {
                point.values[i] = Some(self.element(run, point, ElementId::from(i), typed)?);
            }
        }
        for recurrence in recurrences {
            let init = point.value(recurrence.init)?;
            point.states.insert(recurrence, init);
        }
        Ok(())
    }

    /// Moves every state past the point.
    fn step(&self, point: &mut Point) -> Result<()> {
        for recurrence in point.states.keys().copied().collect::<Vec<_>>() {
            let after = self.after(point, recurrence)?;
            point.states.insert(recurrence, after);
        }
        Ok(())
    }

    /// The state of a recurrence after the point.
    fn after(&self, point: &Point, recurrence: Recurrence) -> Result<ScalarValue> {
        let dtype = self.kernel.elements[recurrence.init.index()].dtype;
        let (factor, term) = (point.value(recurrence.factor)?, point.value(recurrence.term)?);
        let kept = combine(ScalarOp::Mul, factor, point.state(recurrence)?, dtype)?;
        combine(ScalarOp::Add, kept, term, dtype)
    }

    /// Computes the elements whose innermost reduction is `home`.
    fn level(&self, run: &Run<'_>, point: &mut Point, home: Option<ElementId>) -> Result<()> {
        for (i, typed) in self.kernel.elements.iter().enumerate() {
            if self.homes[i] == home {
                let value = self.element(run, point, ElementId::from(i), typed)?;
                point.values[i] = Some(value);
            }
        }
        Ok(())
    }

    fn element(
        &self,
        run: &Run<'_>,
        point: &mut Point,
        id: ElementId,
        typed: &TypedElement,
    ) -> Result<ScalarValue> {
        let malformed =
            |what: &str| KernelInterpError::Malformed(format!("{id} of {}: {what}", self.kernel.name));
        Ok(match &typed.element {
            Element::Load { buffer, index } => run.load(self.kernel, *buffer, index, point)?,
            Element::Constant(value) => scalar(*value),
            Element::Index(e) => convert(ScalarValue::Int(run.index(e, &point.axes)?), typed.dtype),
            Element::Scalar(op, operands) => {
                let mut values = Vec::with_capacity(operands.len());
                for operand in operands {
                    values.push(point.value(*operand)?);
                }
                let last = operands.last().and_then(|e| self.kernel.elements.get(e.index()));
                let dtype = last.map_or(typed.dtype, |e| e.dtype);
                // Floats of every type are f64 here, but only one of its type has the bits of that.
                let wide = dtype.is_float() && *op != ScalarOp::ToBits;
                let dtype = if wide { DType::F64 } else { dtype };
                eval_scalar(*op, &values, dtype).ok_or_else(|| malformed("the operands do not fit the op"))?
            }
            Element::Cast(e) => convert(point.value(*e)?, typed.dtype),
            Element::Reduce { op, axes, body } => {
                let dtype = self.kernel.elements[body.index()].dtype;
                let axes: Vec<usize> = axes.iter().map(|a| a.index()).collect();
                self.reduce(run, point, id, *op, &axes, *body, dtype)?
            }
            Element::Recurrence { state, exclusive: true } => point.state(*state)?,
            Element::Recurrence { state, exclusive: false } => self.after(point, *state)?,
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn reduce(
        &self,
        run: &Run<'_>,
        point: &mut Point,
        id: ElementId,
        op: ReduceOp,
        axes: &[usize],
        body: ElementId,
        dtype: DType,
    ) -> Result<ScalarValue> {
        let mut sum = scalar(op.identity(dtype));
        if axes.iter().any(|a| self.extents[*a] <= 0) {
            return Ok(sum);
        }
        let mut best: Option<(ScalarValue, i64)> = None;
        axes.iter().for_each(|a| point.axes[*a] = 0);
        loop {
            self.level(run, point, Some(id))?;
            let value = point.value(body)?;
            let at = axes.first().map_or(0, |a| point.axes[*a]);
            match op {
                ReduceOp::ArgMax | ReduceOp::ArgMin => {
                    if best.is_none_or(|(b, _)| is_better(op, value, b)) {
                        best = Some((value, at));
                    }
                }
                ReduceOp::Sum => sum = combine(ScalarOp::Add, sum, value, dtype)?,
                ReduceOp::Prod => sum = combine(ScalarOp::Mul, sum, value, dtype)?,
                ReduceOp::Max => sum = combine(ScalarOp::Max, sum, value, dtype)?,
                ReduceOp::Min => sum = combine(ScalarOp::Min, sum, value, dtype)?,
            }
            if !advance(&mut point.axes, &self.extents, axes.iter().copied()) {
                break;
            }
        }
        Ok(best.map_or(sum, |(_, at)| ScalarValue::Int(at)))
    }
}

fn combine(op: ScalarOp, a: ScalarValue, b: ScalarValue, dtype: DType) -> Result<ScalarValue> {
    let dtype = if dtype.is_float() { DType::F64 } else { dtype };
    eval_scalar(op, &[a, b], dtype)
        .ok_or_else(|| KernelInterpError::Malformed("a reduction of values that do not combine".into()))
}

/// Whether an arg reduction prefers `value` to an earlier `best`; a NaN beats all but a NaN.
fn is_better(op: ReduceOp, value: ScalarValue, best: ScalarValue) -> bool {
    let above = match (value, best) {
        (ScalarValue::Float(v), ScalarValue::Float(b)) => {
            if v.is_nan() || b.is_nan() {
                return v.is_nan() && !b.is_nan();
            }
            v.partial_cmp(&b)
        }
        (ScalarValue::Int(v), ScalarValue::Int(b)) => Some(v.cmp(&b)),
        (ScalarValue::Float(_), ScalarValue::Int(_)) | (ScalarValue::Int(_), ScalarValue::Float(_)) => None,
    };
    above == Some(if op == ReduceOp::ArgMax { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less })
}

/// Steps to the next point, the last axis fastest; false after the last.
fn advance(axes: &mut [i64], extents: &[i64], over: impl DoubleEndedIterator<Item = usize>) -> bool {
    for axis in over.rev() {
        axes[axis] += 1;
        if axes[axis] < extents[axis] {
            return true;
        }
        axes[axis] = 0;
    }
    false
}

/// For each element the innermost reduction whose axes it depends on: of those, the first in order.
fn homes(kernel: &Kernel) -> Result<Vec<Option<ElementId>>> {
    let mut owners: BTreeMap<usize, ElementId> = BTreeMap::new();
    for (i, typed) in kernel.elements.iter().enumerate() {
        if let Element::Reduce { axes, .. } = &typed.element {
            owners.extend(axes.iter().map(|a| (a.index(), ElementId::from(i))));
        }
    }
    let mut free: Vec<std::collections::BTreeSet<usize>> = Vec::with_capacity(kernel.elements.len());
    let mut homes = Vec::with_capacity(kernel.elements.len());
    for (i, typed) in kernel.elements.iter().enumerate() {
        let mut axes = std::collections::BTreeSet::new();
        for operand in typed.element.operands() {
            if operand.index() >= i {
                return Err(KernelInterpError::Malformed(format!("{operand} does not come before its use")));
            }
            axes.extend(free[operand.index()].iter().copied());
        }
        match &typed.element {
            Element::Load { index, .. } => axes.extend(index.iter().flat_map(|c| match c {
                Coordinate::Static(e) => e.axes().iter().map(|a| a.index()).collect::<Vec<_>>(),
                Coordinate::Dynamic(_) => Vec::new(),
            })),
            Element::Index(e) => axes.extend(e.axes().iter().map(|a| a.index())),
            Element::Reduce { axes: bound, .. } => bound.iter().for_each(|a| {
                axes.remove(&a.index());
            }),
            Element::Recurrence { state, .. } => {
                axes.insert(state.axis.index());
            }
            Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) => {}
        }
        if let Some(axis) = axes.iter().find(|a| **a >= kernel.extents.len()) {
            return Err(KernelInterpError::Malformed(format!("there is no axis {axis}")));
        }
        homes.push(axes.iter().filter_map(|a| owners.get(a).copied()).min());
        free.push(axes);
    }
    Ok(homes)
}

fn scalar(literal: Literal) -> ScalarValue {
    if literal.dtype().is_float() {
        ScalarValue::Float(literal.as_f64())
    } else {
        ScalarValue::Int(literal.as_i64())
    }
}

/// A conversion; floats of every width stay f64.
fn convert(value: ScalarValue, dtype: DType) -> ScalarValue {
    match value {
        ScalarValue::Float(x) if dtype.is_float() => ScalarValue::Float(x),
        ScalarValue::Float(x) => ScalarValue::Int(Literal::from_f64(dtype, x).as_i64()),
        ScalarValue::Int(x) if dtype.is_float() => ScalarValue::Float(x as f64),
        ScalarValue::Int(x) => ScalarValue::Int(Literal::from_i64(dtype, x).as_i64()),
    }
}

#[cfg(test)]
mod tests;
