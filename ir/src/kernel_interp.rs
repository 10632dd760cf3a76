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
    /// Two stores of one element in one launch, or of one element of an output.
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
            // Nothing rewrites an output, whose parts may come from several kernels.
            if before == self.launches || (is_output && before > 0) {
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
                let dtype = if dtype.is_float() { DType::F64 } else { dtype };
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
mod tests {
    use smallvec::{SmallVec, smallvec};

    use super::*;
    use crate::expr::Dim;
    use crate::kernel::Store;
    use crate::types::TensorType;

    fn axis(i: usize) -> Expr {
        Expr::axis(i)
    }

    fn buffer(name: &str, shape: &[Dim], kind: BufferKind) -> Buffer {
        Buffer { name: name.into(), ty: TensorType::new(DType::F32, shape.to_vec()), kind }
    }

    /// `y[store] = x[load]` for every point of a space of 3.
    fn copy(load: Expr, store: Expr, x: &[Dim]) -> KernelGraph {
        let load = Element::Load { buffer: BufferId(0), index: smallvec![Coordinate::Static(load)] };
        let kernel = Kernel {
            name: "copy".into(),
            rank: 1,
            extents: vec![Dim::constant(3)],
            elements: vec![TypedElement { element: load, dtype: DType::F32 }],
            stores: vec![Store { buffer: BufferId(1), index: smallvec![store], value: ElementId(0) }],
            ops: vec![],
        };
        let y = buffer("y", &[Dim::constant(3)], BufferKind::Output(0));
        KernelGraph {
            name: "g".into(),
            buffers: vec![buffer("x", x, BufferKind::Input(0)), y],
            steps: vec![Step::Kernel(kernel)],
        }
    }

    fn three() -> [Tensor; 1] {
        [Tensor::from_values(&[3], &[1f32, 2.0, 3.0]).unwrap()]
    }

    fn run(graph: &KernelGraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        interpret_kernels(graph, inputs, &DimEnv::new())
    }

    #[test]
    fn a_reversed_copy_is_reversed() {
        let graph = copy(Expr::constant(2) - axis(0), axis(0), &[Dim::constant(3)]);
        assert_eq!(run(&graph, &three()).unwrap()[0].to_f64(), [3.0, 2.0, 1.0]);
    }

    #[test]
    fn leaving_a_buffer_is_an_error() {
        let graph = copy(axis(0) + Expr::constant(1), axis(0), &[Dim::constant(3)]);
        let error = run(&graph, &three()).unwrap_err();
        assert!(matches!(error, KernelInterpError::OutOfBounds { access: "load", .. }), "{error}");
        let graph = copy(axis(0), axis(0) - Expr::constant(1), &[Dim::constant(3)]);
        let error = run(&graph, &three()).unwrap_err();
        assert!(matches!(error, KernelInterpError::OutOfBounds { access: "store", .. }), "{error}");
    }

    #[test]
    fn storing_an_element_twice_is_an_error() {
        let graph = copy(axis(0), axis(0).floor_div(&Expr::constant(2)), &[Dim::constant(3)]);
        let error = run(&graph, &three()).unwrap_err();
        assert!(matches!(error, KernelInterpError::StoredTwice { .. }), "{error}");
    }

    #[test]
    fn kernels_may_store_parts_of_an_output_but_no_element_twice() {
        let halves = |from: i64| {
            let mut graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
            let Step::Kernel(kernel) = &mut graph.steps[0] else { panic!("the step is a kernel") };
            let mut rest = kernel.clone();
            kernel.extents[0] = Dim::constant(2);
            rest.name = "rest".into();
            rest.extents[0] = Dim::constant(3 - from);
            let at = axis(0) + Expr::constant(from);
            rest.elements[0].element =
                Element::Load { buffer: BufferId(0), index: smallvec![Coordinate::Static(at.clone())] };
            rest.stores[0].index = smallvec![at];
            graph.steps.push(Step::Kernel(rest));
            graph
        };
        assert_eq!(run(&halves(2), &three()).unwrap()[0].to_f64(), [1.0, 2.0, 3.0]);
        let error = run(&halves(1), &three()).unwrap_err();
        assert!(matches!(error, KernelInterpError::StoredTwice { .. }), "{error}");
    }

    #[test]
    fn storing_an_element_of_an_output_in_two_launches_is_an_error() {
        let mut graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
        graph.steps.push(graph.steps[0].clone());
        let error = run(&graph, &three()).unwrap_err();
        assert!(matches!(error, KernelInterpError::StoredTwice { .. }), "{error}");
        graph.buffers[1].kind = BufferKind::Temporary;
        assert_eq!(run(&graph, &three()), Ok(vec![]));
    }

    #[test]
    fn a_missing_or_misshaped_input_is_an_error() {
        let graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
        assert!(matches!(run(&graph, &[]), Err(KernelInterpError::Input { .. })));
        let two = [Tensor::from_values(&[2], &[1f32, 2.0]).unwrap()];
        let error = run(&graph, &two).unwrap_err();
        assert_eq!(error.to_string(), "input 0 should be f32[3], got f32[2]");
    }

    #[test]
    fn a_clamped_read_of_nothing_is_zero() {
        let clamped = axis(0).minimum(&Expr::constant(-1)).maximum(&Expr::constant(0));
        let graph = copy(clamped, axis(0), &[Dim::constant(0)]);
        let empty = [Tensor::zeros(DType::F32, &[0]).unwrap()];
        assert_eq!(run(&graph, &empty).unwrap()[0].to_f64(), [0.0; 3]);
    }

    #[test]
    fn reading_what_nothing_wrote_is_an_error() {
        let mut graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
        graph.buffers[0].kind = BufferKind::Temporary;
        let error = run(&graph, &[]).unwrap_err();
        assert!(matches!(error, KernelInterpError::Unwritten { .. }), "{error}");
        graph.steps.clear();
        assert!(matches!(run(&graph, &[]), Err(KernelInterpError::Malformed(_))));
    }

    #[test]
    fn a_buffer_beyond_reason_is_an_error() {
        let huge = [Dim::constant(1 << 40)];
        let graph = copy(axis(0), axis(0), &huge);
        assert!(matches!(run(&graph, &three()), Err(KernelInterpError::Size { .. })));
    }

    const LINEAR: &str = "kernels linear {
  buffer x: f32[T, B] input 0
  buffer a: f32[T, B] input 1
  buffer start: f32[B] input 2
  buffer after: f32[T, B] output 0
  buffer before: f32[T, B] output 1
  buffer last: f32[B] output 2
  kernel linear [i0 < T, i1 < B] {
    e0: f32 = load start[i1]
    e1: f32 = load a[i0, i1]
    e2: f32 = load x[i0, i1]
    e3: f32 = recurrence before i0 from e0 by e1 plus e2
    e4: f32 = recurrence i0 from e0 by e1 plus e2
    store after[i0, i1] = e4
    store before[i0, i1] = e3
    store last[i1] = e4
  }
}
";

    fn linear(source: &str, steps: i64, x: &[f32], a: &[f32]) -> Vec<Vec<f64>> {
        let graph = crate::parse_kernels(source).unwrap();
        crate::verify_kernels(&graph).unwrap();
        let mut dims = DimEnv::new();
        dims.set(crate::Symbol::new("T"), steps);
        dims.set(crate::Symbol::new("B"), 2);
        let tensor = |values: &[f32]| Tensor::from_values(&[steps as usize, 2], values).unwrap();
        let start = Tensor::from_values(&[2], &[1f32, -1.0]).unwrap();
        let outputs = interpret_kernels(&graph, &[tensor(x), tensor(a), start], &dims).unwrap();
        outputs.iter().map(Tensor::to_f64).collect()
    }

    #[test]
    fn a_recurrence_has_its_state_before_and_after_each_point_and_at_the_end() {
        let got = linear(LINEAR, 3, &[1.0, 0.0, 0.5, 4.0, 2.0, 0.0], &[2.0, 3.0, 0.0, -1.0, 0.5, 10.0]);
        assert_eq!(got[0], [3.0, -3.0, 0.5, 7.0, 2.25, 70.0]);
        assert_eq!(got[1], [1.0, -1.0, 3.0, -3.0, 0.5, 7.0]);
        assert_eq!(got[2], [2.25, 70.0]);
    }

    #[test]
    fn a_recurrence_without_points_ends_where_it_begins() {
        let got = linear(LINEAR, 0, &[], &[]);
        assert_eq!(got, [vec![], vec![], vec![1.0, -1.0]]);
    }

    #[test]
    fn a_recurrence_advances_when_only_its_earlier_state_is_read() {
        let lines: Vec<&str> = LINEAR
            .lines()
            .filter(|l| !l.contains("e4") && !l.contains("after") && !l.contains("last"))
            .collect();
        let source = lines.join("\n").replace("output 1", "output 0");
        let got = linear(&source, 2, &[1.0, 0.0, 0.5, 4.0], &[2.0, 3.0, 0.0, -1.0]);
        assert_eq!(got, [vec![1.0, -1.0, 3.0, -3.0]]);
    }

    #[test]
    fn a_recurrence_is_fed_by_another_and_by_reductions() {
        let source = "kernels two {
  buffer x: f32[T, 1, B] input 0
  buffer a: f32[T, B] input 1
  buffer start: f32[B] input 2
  buffer first: f32[T, B] output 0
  buffer second: f32[T, B] output 1
  buffer last: f32[B] output 2
  kernel two [i0 < T, i1 < B] {
    e0: f32 = load start[i1]
    e1: f32 = load a[i0, i1]
    e2: f32 = load x[i0, i2, i1]
    e3: f32 = sum [i2 < 1] e2
    e4: f32 = recurrence i0 from e0 by e1 plus e3
    e5: f32 = recurrence i0 from e0 by e1 plus e4
    store first[i0, i1] = e4
    store second[i0, i1] = e5
    store last[i1] = e4
  }
}
";
        let graph = crate::parse_kernels(source).unwrap();
        let mut dims = DimEnv::new();
        dims.set(crate::Symbol::new("T"), 2);
        dims.set(crate::Symbol::new("B"), 1);
        let x = Tensor::from_values(&[2, 1, 1], &[1f32, 2.0]).unwrap();
        let a = Tensor::from_values(&[2, 1], &[2f32, 3.0]).unwrap();
        let start = Tensor::from_values(&[1], &[1f32]).unwrap();
        let got = interpret_kernels(&graph, &[x, a, start], &dims).unwrap();
        // s = 2·1+1, 3·3+2; of the second: 2·1+3, 3·5+11.
        assert_eq!(got[0].to_f64(), [3.0, 11.0]);
        assert_eq!(got[1].to_f64(), [5.0, 26.0]);
        assert_eq!(got[2].to_f64(), [11.0]);
    }

    #[test]
    fn arg_reductions_take_the_first_and_prefer_nan() {
        let index: SmallVec<[Coordinate; 4]> = smallvec![Coordinate::Static(axis(0))];
        let element = |element, dtype| TypedElement { element, dtype };
        let reduce =
            Element::Reduce { op: ReduceOp::ArgMax, axes: smallvec![crate::Axis(0)], body: ElementId(0) };
        let kernel = Kernel {
            name: "argmax".into(),
            rank: 0,
            extents: vec![Dim::constant(3)],
            elements: vec![
                element(Element::Load { buffer: BufferId(0), index }, DType::F32),
                element(reduce, DType::I64),
            ],
            stores: vec![Store { buffer: BufferId(1), index: smallvec![], value: ElementId(1) }],
            ops: vec![],
        };
        let mut y = buffer("y", &[], BufferKind::Output(0));
        y.ty.dtype = DType::I64;
        let graph = KernelGraph {
            name: "g".into(),
            buffers: vec![buffer("x", &[Dim::constant(3)], BufferKind::Input(0)), y],
            steps: vec![Step::Kernel(kernel)],
        };
        let at = |values: [f32; 3]| {
            let x = [Tensor::from_values(&[3], &values).unwrap()];
            run(&graph, &x).unwrap()[0].to_f64()[0]
        };
        assert_eq!(at([1.0, 5.0, 5.0]), 1.0);
        assert_eq!(at([1.0, f32::NAN, 9.0]), 1.0);
    }
}
