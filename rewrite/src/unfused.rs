//! The baseline: one kernel for each operation, no rules, nothing moved out of its loop.
//!
//! Views cost nothing here either: they are folded into the kernels that read them, as in any framework with
//! strides. Constants and coordinates are folded too. Everything else (elementwise, casts, reductions,
//! contractions, gathers, padding, joining) reads its operands from memory and writes its result to memory.
//! Shares no code with the e-graph, so that the two check each other.

use std::collections::HashMap;

use fuse_ir::expr::Symbol;
use fuse_ir::graph::InputKind;
use fuse_ir::index_map::view_map;
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, ElementId, KernelGraph, Loop, Step, Store,
};
use fuse_ir::ops::{Op, ReduceOp, ScalarOp};
use fuse_ir::types::Shape;
use fuse_ir::{Axis, DType, Dim, Expr, Graph, IndexMap, Literal, Node, Scan, TensorType, ValueId};

use crate::complexity::may_substitute;
use crate::error::RewriteError;
use crate::kernel_builder::{KernelBuilder, Names, clamped, identifier};

/// One kernel for each operation of a graph.
///
/// # Errors
/// None that a verified graph has; the signature is that of fusing.
pub fn unfused(graph: &Graph) -> Result<KernelGraph, RewriteError> {
    let mut names = Names::default();
    for symbol in graph.symbols() {
        names.unique(symbol.name());
    }
    let mut builder = Builder {
        name: identifier(graph.name()),
        buffers: Vec::new(),
        buffer_names: Names::default(),
        kernel_names: Names::default(),
        counters: names,
        loops: 0,
        made: HashMap::new(),
    };
    let mut inputs = Vec::new();
    for (i, input) in graph.inputs().iter().enumerate() {
        debug_assert!(matches!(input.kind, InputKind::Input | InputKind::Parameter));
        let ty = graph.ty(input.value).clone();
        let shape = ty.shape.clone();
        let buffer = builder.add_buffer(&input.name, ty, BufferKind::Input(i));
        inputs.push(View::of(buffer, &shape));
    }
    let mut steps = Vec::new();
    let outputs = builder.graph(graph, inputs, &mut steps);
    for (i, (output, view)) in graph.outputs().iter().zip(outputs).enumerate() {
        builder.output(i, &output.name, graph.ty(output.value), &view, &mut steps);
    }
    Ok(KernelGraph { name: graph.name().to_string(), buffers: builder.buffers, steps })
}

/// Where the elements of a value come from.
#[derive(Clone, Debug)]
enum Source {
    Buffer(BufferId),
    Constant(Literal),
    /// The only coordinate of the view, converted.
    Index(DType),
}

/// A value as a view of its source.
#[derive(Clone, Debug)]
struct View {
    source: Source,
    /// One coordinate of the source for each of its axes, over the axes of the value and loop counters.
    coordinates: Vec<Expr>,
    /// The extents of the source.
    shape: Shape,
}

impl View {
    fn of(buffer: BufferId, shape: &[Dim]) -> Self {
        let coordinates = (0..shape.len()).map(Expr::axis).collect();
        View { source: Source::Buffer(buffer), coordinates, shape: shape.to_vec() }
    }

    /// This value read through a map.
    fn through(&self, map: &IndexMap) -> Self {
        let coordinates =
            self.coordinates.iter().map(|e| e.substitute_axes(&map.results).simplify(&map.domain));
        View { source: self.source.clone(), coordinates: coordinates.collect(), shape: self.shape.clone() }
    }

    /// The buffer that this value of some shape is, with nothing moved or left out.
    fn whole(&self, shape: &[Dim]) -> Option<BufferId> {
        let identity = |(i, e): (usize, &Expr)| e.as_axis().is_some_and(|a| a.index() == i);
        match self.source {
            Source::Buffer(buffer) if self.shape == shape => {
                self.coordinates.iter().enumerate().all(identity).then_some(buffer)
            }
            Source::Buffer(_) | Source::Constant(_) | Source::Index(_) => None,
        }
    }
}

struct Builder {
    name: String,
    buffers: Vec<Buffer>,
    buffer_names: Names,
    kernel_names: Names,
    counters: Names,
    loops: usize,
    /// How many loops are around the kernel that writes each temporary.
    made: HashMap<BufferId, usize>,
}

impl Builder {
    fn add_buffer(&mut self, name: &str, ty: TensorType, kind: BufferKind) -> BufferId {
        let name = self.buffer_names.unique(name);
        self.buffers.push(Buffer { name, ty, kind });
        BufferId::from(self.buffers.len() - 1)
    }

    fn graph(&mut self, graph: &Graph, inputs: Vec<View>, steps: &mut Vec<Step>) -> Vec<View> {
        let mut values: HashMap<ValueId, View> = graph.inputs().iter().map(|i| i.value).zip(inputs).collect();
        for (_, node) in graph.nodes() {
            let results = match &node.op {
                Op::Scan(scan) => self.scan(graph, node, scan, &values, steps),
                _ => vec![self.node(graph, node, &values, steps)],
            };
            values.extend(node.results.iter().copied().zip(results));
        }
        graph.outputs().iter().map(|o| values[&o.value].clone()).collect()
    }

    fn node(
        &mut self,
        graph: &Graph,
        node: &Node,
        values: &HashMap<ValueId, View>,
        steps: &mut Vec<Step>,
    ) -> View {
        let operands: Vec<(&View, &TensorType)> =
            node.operands.iter().map(|v| (&values[v], graph.ty(*v))).collect();
        let result = graph.ty(node.results[0]).clone();
        match &node.op {
            Op::Constant { value } => {
                View { source: Source::Constant(*value), coordinates: Vec::new(), shape: Shape::new() }
            }
            Op::Iota { axis, dtype, shape } => View {
                source: Source::Index(*dtype),
                coordinates: vec![Expr::axis(*axis)],
                shape: vec![shape[*axis].clone()],
            },
            Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Reverse { .. } => match view_map(&node.op, operands[0].1, &result) {
                Some(map) => self.view(operands[0], &map, steps),
                None => operands[0].0.clone(),
            },
            Op::Gather { axis } => self.gather(&operands, &result, *axis, steps),
            Op::Scalar(_)
            | Op::Cast { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Reduce { .. }
            | Op::Contract { .. }
            | Op::Scan(_) => {
                self.compute(&result, node.op.mnemonic(), steps, |k| k.op(&node.op, &operands, &result))
            }
        }
    }

    /// A value read through a map; copied first where the indices would become too long.
    fn view(&mut self, (x, ty): (&View, &TensorType), map: &IndexMap, steps: &mut Vec<Step>) -> View {
        if may_substitute(&x.coordinates, &map.results) {
            return x.through(map);
        }
        let copied = self.compute(ty, "copy", steps, |k| k.read(x, ty.dtype, &k.point()));
        copied.through(map)
    }

    /// A kernel that writes one result to a new temporary.
    fn compute(
        &mut self,
        result: &TensorType,
        what: &str,
        steps: &mut Vec<Step>,
        build: impl FnOnce(&mut OpKernel) -> ElementId,
    ) -> View {
        let buffer = self.add_buffer("v", result.clone(), BufferKind::Temporary);
        let index = (0..result.rank()).map(Expr::axis).collect();
        self.made.insert(buffer, self.loops);
        self.kernel(&result.shape, what, steps, |k| {
            let value = build(k);
            (Store { buffer, index, value }, ())
        });
        View::of(buffer, &result.shape)
    }

    fn kernel<R>(
        &mut self,
        space: &[Dim],
        what: &str,
        steps: &mut Vec<Step>,
        build: impl FnOnce(&mut OpKernel) -> (Store, R),
    ) -> R {
        let mut kernel = OpKernel { builder: KernelBuilder::new(space.to_vec()), rank: space.len() };
        let (store, out) = build(&mut kernel);
        kernel.builder.store(store);
        let name = self.kernel_names.unique(&format!("{}_{}", self.name, identifier(what)));
        steps.push(Step::Kernel(kernel.builder.finish(name)));
        out
    }

    /// A kernel that copies a value.
    fn copy(
        &mut self,
        view: &View,
        ty: &TensorType,
        buffer: BufferId,
        index: &[Expr],
        steps: &mut Vec<Step>,
    ) {
        let index = index.iter().cloned().collect();
        self.kernel(&ty.shape, "copy", steps, |k| {
            let value = k.read(view, ty.dtype, &k.point());
            (Store { buffer, index, value }, ())
        });
    }

    fn gather(
        &mut self,
        operands: &[(&View, &TensorType)],
        result: &TensorType,
        axis: usize,
        steps: &mut Vec<Step>,
    ) -> View {
        let ((table, table_ty), (indices, indices_ty)) = (operands[0], operands[1]);
        // The gathered axis must be an axis of a buffer; a view that mixes it is copied first.
        let table = match table.whole(&table_ty.shape) {
            Some(_) => table.clone(),
            None => self.compute(table_ty, "copy", steps, |k| k.read(table, table_ty.dtype, &k.point())),
        };
        self.compute(result, "gather", steps, |k| {
            let point = k.point();
            let index = k.read(indices, indices_ty.dtype, &point[axis..axis + indices_ty.rank()]);
            let coordinate = |i: usize| match i.cmp(&axis) {
                std::cmp::Ordering::Less => Coordinate::Static(Expr::axis(i)),
                std::cmp::Ordering::Equal => Coordinate::Dynamic(index),
                std::cmp::Ordering::Greater => Coordinate::Static(Expr::axis(i + indices_ty.rank() - 1)),
            };
            let read = (0..table_ty.rank()).map(coordinate).collect();
            let dtype = table_ty.dtype;
            let row = match table.source {
                Source::Buffer(buffer) => k.builder.load(buffer, read, &table.shape, dtype),
                Source::Constant(value) => k.builder.constant(value),
                Source::Index(_) => index,
            };
            let rows = &table_ty.shape[axis];
            if rows.as_constant().is_some_and(|n| n > 0) {
                return row;
            }
            let rows = k.builder.index(rows.clone(), DType::I64);
            let none = k.builder.constant(Literal::from_i64(DType::I64, 0));
            let some = k.builder.scalar(ScalarOp::Gt, &[rows, none], DType::Bool);
            let zero = k.builder.constant(Literal::from_i64(dtype, 0));
            k.builder.scalar(ScalarOp::Select, &[some, row, zero], dtype)
        })
    }

    /// Writes a graph output: in the kernel that computes it where that is free to, or by a copy.
    fn output(&mut self, i: usize, name: &str, ty: &TensorType, view: &View, steps: &mut Vec<Step>) {
        let free = view.whole(&ty.shape).filter(|b| self.buffers[b.index()].kind == BufferKind::Temporary);
        match free {
            Some(buffer) => {
                let name = self.buffer_names.unique(name);
                let buffer = &mut self.buffers[buffer.index()];
                (buffer.kind, buffer.name) = (BufferKind::Output(i), name);
            }
            None => {
                let buffer = self.add_buffer(name, ty.clone(), BufferKind::Output(i));
                let index: Vec<Expr> = (0..ty.rank()).map(Expr::axis).collect();
                self.copy(view, ty, buffer, &index, steps);
            }
        }
    }

    fn scan(
        &mut self,
        graph: &Graph,
        node: &Node,
        scan: &Scan,
        values: &HashMap<ValueId, View>,
        steps: &mut Vec<Step>,
    ) -> Vec<View> {
        let types: Vec<&TensorType> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        let views: Vec<&View> = node.operands.iter().map(|v| &values[v]).collect();
        let counter = Symbol::new(self.counters.unique("t"));
        let time = Expr::symbol(counter.name());
        let mut inputs = Vec::new();
        let mut current = Vec::new();
        for i in 0..scan.carries {
            let name = identifier(&scan.body.inputs()[i].name);
            let buffer = self.add_buffer(&format!("{name}_state"), types[i].clone(), BufferKind::State);
            let index: Vec<Expr> = (0..types[i].rank()).map(Expr::axis).collect();
            self.copy(views[i], types[i], buffer, &index, steps);
            inputs.push(View::of(buffer, &types[i].shape));
            current.push(buffer);
        }
        let fixed = scan.carries + scan.scanned;
        for i in scan.carries..fixed {
            let domain: Shape = types[i].shape[1..].to_vec();
            let results = std::iter::once(time.clone()).chain((0..domain.len()).map(Expr::axis)).collect();
            inputs.push(views[i].through(&IndexMap { domain, results }));
        }
        inputs.extend(views[fixed..fixed + scan.captures(views.len())].iter().map(|v| (*v).clone()));
        let lengths = if scan.lengths { views.last().zip(types.last()) } else { None };
        let lengths = lengths.map(|(view, ty)| ((*view).clone(), ty.dtype, time.clone()));
        let mut body = Vec::new();
        self.loops += 1;
        let outputs = self.graph(&scan.body, inputs, &mut body);
        let mut carries = Vec::new();
        let mut results = Vec::new();
        for (i, (output, view)) in scan.body.outputs().iter().zip(&outputs).enumerate() {
            let ty = scan.body.ty(output.value);
            let index: Vec<Expr> = (0..ty.rank()).map(Expr::axis).collect();
            if i < scan.carries {
                let old = View::of(current[i], &ty.shape);
                let view = self.frozen(&lengths, view, Some(&old), ty, &mut body);
                let next = self.next_state(&view, ty, &mut body);
                carries.push(Carry { current: current[i], next });
                results.push(View::of(current[i], &ty.shape));
            } else {
                let view = self.frozen(&lengths, view, None, ty, &mut body);
                let stacked = graph.ty(node.results[i]).clone();
                let shape = stacked.shape.clone();
                let buffer = self.add_buffer("v", stacked, BufferKind::Temporary);
                let index: Vec<Expr> = std::iter::once(time.clone()).chain(index).collect();
                self.stack(&view, ty, buffer, &index, &mut body);
                results.push(View::of(buffer, &shape));
            }
        }
        self.loops -= 1;
        let direction = scan.direction;
        steps.push(Step::Loop(Loop { counter, trip: scan.trip.clone(), direction, carries, body }));
        results
    }

    /// The value while the position is below the row's length; past it the old one, or zero.
    fn frozen(
        &mut self,
        lengths: &Option<(View, DType, Expr)>,
        view: &View,
        old: Option<&View>,
        ty: &TensorType,
        steps: &mut Vec<Step>,
    ) -> View {
        let Some((lengths, length_type, time)) = lengths else { return view.clone() };
        self.compute(ty, "freeze", steps, |k| {
            let point = k.point();
            let length = k.read(lengths, *length_type, &point[..1]);
            let length = k.builder.cast(length, DType::I64);
            let position = k.builder.index(time.clone(), DType::I64);
            let running = k.builder.scalar(ScalarOp::Lt, &[position, length], DType::Bool);
            let new = k.read(view, ty.dtype, &point);
            let otherwise = match old {
                Some(old) => k.read(old, ty.dtype, &point),
                None => k.builder.constant(Literal::from_i64(ty.dtype, 0)),
            };
            k.builder.scalar(ScalarOp::Select, &[running, new, otherwise], ty.dtype)
        })
    }

    /// The buffer of the next state: that of the value where a kernel of this body has just made it.
    fn next_state(&mut self, view: &View, ty: &TensorType, steps: &mut Vec<Step>) -> BufferId {
        let made = self.made_here(view, ty);
        if let Some(buffer) = made.filter(|b| self.buffers[b.index()].kind == BufferKind::Temporary) {
            self.buffers[buffer.index()].kind = BufferKind::State;
            return buffer;
        }
        let buffer = self.add_buffer("next", ty.clone(), BufferKind::State);
        let index: Vec<Expr> = (0..ty.rank()).map(Expr::axis).collect();
        self.copy(view, ty, buffer, &index, steps);
        buffer
    }

    /// Stores a value at a position of a stacked result, in the kernel that makes it where there is one.
    fn stack(
        &mut self,
        view: &View,
        ty: &TensorType,
        buffer: BufferId,
        index: &[Expr],
        steps: &mut Vec<Step>,
    ) {
        let made = self.made_here(view, ty).and_then(|b| {
            let of = |step: &&mut Step| match step {
                Step::Kernel(kernel) => kernel.stores.iter().any(|s| s.buffer == b),
                Step::Loop(_) => false,
            };
            steps.iter_mut().find(of).map(|step| (b, step))
        });
        if let Some((made, Step::Kernel(kernel))) = made
            && let Some(store) = kernel.stores.iter().find(|s| s.buffer == made)
        {
            let store = Store { buffer, index: index.iter().cloned().collect(), value: store.value };
            kernel.stores.push(store);
            return;
        }
        self.copy(view, ty, buffer, index, steps);
    }

    fn made_here(&self, view: &View, ty: &TensorType) -> Option<BufferId> {
        let buffer = view.whole(&ty.shape)?;
        let loops = self.made.get(&buffer)?;
        (*loops == self.loops).then_some(buffer)
    }
}

/// The kernel of one operation.
struct OpKernel {
    builder: KernelBuilder,
    rank: usize,
}

impl OpKernel {
    /// The kernel's own point.
    fn point(&self) -> Vec<Expr> {
        (0..self.rank).map(Expr::axis).collect()
    }

    /// A value at a point.
    fn read(&mut self, view: &View, dtype: DType, point: &[Expr]) -> ElementId {
        let at = view.coordinates.iter().map(|e| e.substitute_axes(point).simplify(&self.builder.extents));
        let at: Vec<Expr> = at.collect();
        match view.source {
            Source::Constant(value) => self.builder.constant(value),
            Source::Index(dtype) => self.builder.index(at.into_iter().next().unwrap_or_default(), dtype),
            Source::Buffer(buffer) => {
                let index = at.into_iter().map(Coordinate::Static).collect();
                self.builder.load(buffer, index, &view.shape, dtype)
            }
        }
    }

    fn op(&mut self, op: &Op, operands: &[(&View, &TensorType)], result: &TensorType) -> ElementId {
        let point = self.point();
        match op {
            Op::Scalar(scalar) => {
                let values: Vec<ElementId> =
                    operands.iter().map(|(v, ty)| self.read(v, ty.dtype, &point)).collect();
                self.builder.scalar(*scalar, &values, result.dtype)
            }
            Op::Cast { dtype } => {
                let value = self.read(operands[0].0, operands[0].1.dtype, &point);
                self.builder.cast(value, *dtype)
            }
            Op::Pad { low, value, .. } => self.pad(operands[0], result, low, *value),
            Op::Concat { axis } => self.concat(operands, *axis),
            Op::Reduce { op, axes } => self.reduce(*op, axes, operands[0]),
            Op::Contract { batch, axes } => self.contract(operands, result, batch, axes),
            Op::Constant { .. }
            | Op::Iota { .. }
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Reverse { .. }
            | Op::Gather { .. }
            | Op::Scan(_) => unreachable!("views, gathers and loops are no single kernel"),
        }
    }

    fn select(
        &mut self,
        op: ScalarOp,
        at: &Expr,
        bound: &Expr,
        x: ElementId,
        y: ElementId,
        dtype: DType,
    ) -> ElementId {
        let at = self.builder.index(at.clone(), DType::I64);
        let bound = self.builder.index(bound.clone(), DType::I64);
        let holds = self.builder.scalar(op, &[at, bound], DType::Bool);
        self.builder.scalar(ScalarOp::Select, &[holds, x, y], dtype)
    }

    fn pad(
        &mut self,
        x: (&View, &TensorType),
        result: &TensorType,
        low: &[Dim],
        value: Literal,
    ) -> ElementId {
        let (view, ty) = x;
        if ty.shape.iter().any(Expr::is_zero) {
            return self.builder.constant(value);
        }
        let clamp = |(i, n): (usize, &Dim)| clamped(Expr::axis(i) - low[i].clone(), n);
        let at: Vec<Expr> = ty.shape.iter().enumerate().map(clamp).collect();
        let mut out = self.read(view, ty.dtype, &at);
        let fill = self.builder.constant(value);
        for (i, n) in ty.shape.iter().enumerate() {
            let end = low[i].clone() + n.clone();
            if end != result.shape[i] {
                out = self.select(ScalarOp::Lt, &Expr::axis(i), &end, out, fill, ty.dtype);
            }
            if !low[i].is_zero() {
                out = self.select(ScalarOp::Ge, &Expr::axis(i), &low[i], out, fill, ty.dtype);
            }
        }
        out
    }

    fn concat(&mut self, operands: &[(&View, &TensorType)], axis: usize) -> ElementId {
        let mut parts = Vec::new();
        let mut offset = Dim::constant(0);
        // Nothing to read in empty operands, but one must be there for an empty result.
        let some = |o: &&(&View, &TensorType)| !o.1.shape[axis].is_zero();
        let read: Vec<_> = operands.iter().filter(some).collect();
        for (view, ty) in if read.is_empty() { operands.iter().collect() } else { read } {
            let mut at = self.point();
            at[axis] = clamped(Expr::axis(axis) - offset.clone(), &ty.shape[axis]);
            offset = offset + ty.shape[axis].clone();
            parts.push((self.read(view, ty.dtype, &at), offset.clone()));
        }
        let dtype = operands[0].1.dtype;
        let (mut out, _) = parts[parts.len() - 1];
        for (part, end) in parts[..parts.len() - 1].iter().rev() {
            out = self.select(ScalarOp::Lt, &Expr::axis(axis), end, *part, out, dtype);
        }
        out
    }

    fn reduce(&mut self, op: ReduceOp, axes: &[usize], x: (&View, &TensorType)) -> ElementId {
        let (view, ty) = x;
        let bound: Vec<Axis> = axes.iter().map(|a| self.builder.bind(ty.shape[*a].clone())).collect();
        let mut kept = 0;
        let mut at = Vec::with_capacity(ty.rank());
        for axis in 0..ty.rank() {
            match axes.iter().position(|a| *a == axis) {
                Some(k) => at.push(Expr::axis(bound[k].index())),
                None => {
                    at.push(Expr::axis(kept));
                    kept += 1;
                }
            }
        }
        let value = self.read(view, ty.dtype, &at);
        if axes.is_empty() {
            return value;
        }
        let accumulator = match op {
            ReduceOp::Sum | ReduceOp::Prod => ty.dtype.accumulator(),
            ReduceOp::Max | ReduceOp::Min | ReduceOp::ArgMax | ReduceOp::ArgMin => ty.dtype,
        };
        let value = self.builder.cast(value, accumulator);
        let reduced = self.builder.reduce(op, &bound, value);
        if op.is_arg() { reduced } else { self.builder.cast(reduced, ty.dtype) }
    }

    fn contract(
        &mut self,
        operands: &[(&View, &TensorType)],
        result: &TensorType,
        batch: &[(usize, usize)],
        axes: &[(usize, usize)],
    ) -> ElementId {
        let ((a, a_ty), (b, b_ty)) = (operands[0], operands[1]);
        let bound: Vec<Axis> = axes.iter().map(|(i, _)| self.builder.bind(a_ty.shape[*i].clone())).collect();
        let mut free = batch.len();
        let mut at = |rank: usize, side: fn(&(usize, usize)) -> usize| -> Vec<Expr> {
            let mut out = Vec::with_capacity(rank);
            for axis in 0..rank {
                if let Some(k) = batch.iter().position(|p| side(p) == axis) {
                    out.push(Expr::axis(k));
                } else if let Some(k) = axes.iter().position(|p| side(p) == axis) {
                    out.push(Expr::axis(bound[k].index()));
                } else {
                    out.push(Expr::axis(free));
                    free += 1;
                }
            }
            out
        };
        let (at_a, at_b) = (at(a_ty.rank(), |p| p.0), at(b_ty.rank(), |p| p.1));
        let accumulator = result.dtype.accumulator();
        let x = self.read(a, a_ty.dtype, &at_a);
        let x = self.builder.cast(x, accumulator);
        let y = self.read(b, b_ty.dtype, &at_b);
        let y = self.builder.cast(y, accumulator);
        let product = self.builder.scalar(ScalarOp::Mul, &[x, y], accumulator);
        let sum =
            if bound.is_empty() { product } else { self.builder.reduce(ReduceOp::Sum, &bound, product) };
        self.builder.cast(sum, result.dtype)
    }
}
