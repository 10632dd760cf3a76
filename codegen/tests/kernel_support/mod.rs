//! Runs kernel graphs through schedules and emitters, and builds small ones by hand.

#![allow(dead_code, reason = "each test binary uses a part")]

use fuse_codegen::cranelift::{Effort, compile_cpu_with, panel_lanes};
use fuse_codegen::kernel_ir::Function;
use fuse_codegen::kernel_ir_eval::evaluate_all;
use fuse_codegen::schedule::{GpuLimits, ScheduleTarget, schedule};
use fuse_codegen::text::{parse, print};
use fuse_codegen::verify::verify;
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::expr::{Axis, Dim, DimEnv, Expr, Symbol};
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
    TypedElement,
};
use fuse_ir::kernel_interp::interpret_kernels;
use fuse_ir::ops::{Direction, ReduceOp};
use fuse_ir::{DType, ScalarOp, Tensor, TensorType};

/// Runs one launch over the buffers of a graph.
type Launch<'a> = dyn FnMut(&Function, &mut [Vec<u8>], &DimEnv) + 'a;

fn launch_kernel_ir(function: &Function, memory: &mut [Vec<u8>], dims: &DimEnv) {
    let mut buffers: Vec<Vec<u8>> =
        function.buffers.iter().map(|b| memory[b.buffer.index()].clone()).collect();
    evaluate_all(function, &mut buffers, dims).unwrap_or_else(|e| panic!("{e}\n{}", print(function)));
    for (parameter, buffer) in function.buffers.iter().zip(buffers) {
        memory[parameter.buffer.index()] = buffer;
    }
}

/// Code of either effort does the same.
fn launch_cranelift(function: &Function, memory: &mut [Vec<u8>], dims: &DimEnv) {
    let mut again = memory.to_vec();
    launch_compiled(function, Effort::Full, memory, dims);
    launch_compiled(function, Effort::Quick, &mut again, dims);
    assert!(memory == again, "{}", print(function));
}

fn launch_compiled(function: &Function, effort: Effort, memory: &mut [Vec<u8>], dims: &DimEnv) {
    let module = compile_cpu_with(std::slice::from_ref(function), &[effort], 1)
        .unwrap_or_else(|e| panic!("{e}\n{}", print(function)));
    let symbols: Vec<i64> = function.symbols.iter().map(|s| dims.get(s).unwrap()).collect();
    let work = function.work.eval_dim(dims).unwrap();
    let pointers: Vec<*mut u8> =
        function.buffers.iter().map(|b| memory[b.buffer.index()].as_mut_ptr()).collect();
    // In three calls, the last first: items are independent.
    let cuts = [0, work / 3, work - work / 4, work];
    for range in cuts.windows(2).rev() {
        // SAFETY: the buffers have the sizes of their shapes (at least one element), and the Kernel IR
        // interpreter has found no access outside them.
        unsafe { module.call(0, &pointers, &symbols, range[0], range[1]) }.unwrap();
    }
}

/// The outputs of a graph whose launches `launch` does; floats in their own types.
pub fn run(
    graph: &KernelGraph,
    inputs: &[Tensor],
    dims: &DimEnv,
    target: ScheduleTarget,
    launch: &mut Launch,
) -> Vec<Tensor> {
    let shape = |b: &Buffer| -> Vec<usize> {
        b.ty.shape.iter().map(|d| usize::try_from(d.eval_dim(dims).unwrap()).unwrap()).collect()
    };
    let mut memory: Vec<Vec<u8>> = graph
        .buffers
        .iter()
        .map(|b| match b.kind {
            BufferKind::Input(i) => inputs[i].bytes().to_vec(),
            _ => vec![0xa5; shape(b).iter().product::<usize>() * b.ty.dtype.size()],
        })
        .collect();
    for (bytes, buffer) in memory.iter_mut().zip(&graph.buffers) {
        let least = buffer.ty.dtype.size();
        if bytes.len() < least {
            bytes.resize(least, 0);
        }
    }
    steps(graph, &graph.steps, &mut memory, dims, target, launch);
    let outputs = graph.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Output(_))).count();
    (0..outputs)
        .map(|i| {
            let at = graph.buffers.iter().position(|b| b.kind == BufferKind::Output(i)).unwrap();
            let (buffer, shape) = (&graph.buffers[at], shape(&graph.buffers[at]));
            let size = shape.iter().product::<usize>() * buffer.ty.dtype.size();
            Tensor::from_bytes(buffer.ty.dtype, &shape, memory[at][..size].to_vec()).unwrap()
        })
        .collect()
}

fn steps(
    graph: &KernelGraph,
    body: &[Step],
    memory: &mut [Vec<u8>],
    dims: &DimEnv,
    target: ScheduleTarget,
    launch: &mut Launch,
) {
    for step in body {
        match step {
            Step::Kernel(kernel) => {
                let function = schedule(graph, kernel, target).unwrap_or_else(|e| panic!("{e}\n{graph}"));
                verify(&function).unwrap_or_else(|e| panic!("{e}\n{}", print(&function)));
                assert_eq!(parse(&print(&function)).as_ref(), Ok(&function), "{}", print(&function));
                launch(&function, memory, dims);
            }
            Step::Loop(l) => {
                let trip = l.trip.eval_dim(dims).unwrap();
                for i in 0..trip {
                    let position = match l.direction {
                        Direction::Forward => i,
                        Direction::Reverse => trip - 1 - i,
                    };
                    let mut dims = dims.clone();
                    dims.set(l.counter.clone(), position);
                    steps(graph, &l.body, memory, &dims, target, launch);
                    for carry in &l.carries {
                        memory.swap(carry.current.index(), carry.next.index());
                    }
                }
            }
        }
    }
}

/// Holds every way to run a graph to the interpreter of kernel graphs.
pub fn check(graph: &KernelGraph, inputs: &[Tensor], dims: &DimEnv, tolerance: Tolerance) {
    let expected = interpret_kernels(graph, inputs, dims).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    check_against(graph, inputs, dims, &expected, tolerance);
}

/// Holds every way to run a graph to expected outputs.
pub fn check_against(
    graph: &KernelGraph,
    inputs: &[Tensor],
    dims: &DimEnv,
    expected: &[Tensor],
    tolerance: Tolerance,
) {
    let compare_all = |way: &str, got: Vec<Tensor>| {
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            if let Err(e) = compare(got, expected, tolerance) {
                panic!("output {i} through {way} at {dims:?}: {e}\n{graph}");
            }
        }
    };
    let (cpu, gpu) = (ScheduleTarget::cpu(), gpu_of(32));
    compare_all("the CPU schedule", run(graph, inputs, dims, cpu, &mut launch_kernel_ir));
    compare_all("the GPU schedule", run(graph, inputs, dims, gpu, &mut launch_kernel_ir));
    compare_all("Cranelift", run(graph, inputs, dims, cpu, &mut launch_cranelift));
}

/// Holds the schedule that leaves products with panels to a routine, if the machine has one, to the interpreter of kernel
/// graphs.
pub fn check_products(graph: &KernelGraph, inputs: &[Tensor], dims: &DimEnv, tolerance: Tolerance) {
    let Some(lanes) = panel_lanes() else { return };
    let target = ScheduleTarget::cpu_with_panels(lanes);
    for launch in [&mut launch_kernel_ir as &mut Launch, &mut launch_cranelift] {
        check_schedule(graph, inputs, dims, target, launch, tolerance);
    }
}

/// Holds the Kernel IR of a schedule to the interpreter of kernel graphs.
pub fn check_kernel_ir(graph: &KernelGraph, dims: &DimEnv, target: ScheduleTarget, tolerance: Tolerance) {
    check_schedule(graph, &inputs(graph, dims), dims, target, &mut launch_kernel_ir, tolerance);
}

fn check_schedule(
    graph: &KernelGraph,
    inputs: &[Tensor],
    dims: &DimEnv,
    target: ScheduleTarget,
    launch: &mut Launch,
    tolerance: Tolerance,
) {
    let expected = interpret_kernels(graph, inputs, dims).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let got = run(graph, inputs, dims, target, launch);
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        compare(got, expected, tolerance).unwrap_or_else(|e| panic!("output {i} at {dims:?}: {e}\n{graph}"));
    }
}

/// An H100 with blocks of so many threads.
fn gpu_of(block: u32) -> ScheduleTarget {
    ScheduleTarget::Gpu { block, limits: GpuLimits::h100(), rounding: None }
}

/// Holds the schedule for large blocks of GPU threads to the interpreter of kernel graphs.
pub fn check_large_blocks(graph: &KernelGraph, inputs: &[Tensor], dims: &DimEnv, tolerance: Tolerance) {
    let expected = interpret_kernels(graph, inputs, dims).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let got = run(graph, inputs, dims, gpu_of(256), &mut launch_kernel_ir);
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        compare(got, expected, tolerance).unwrap_or_else(|e| panic!("output {i} at {dims:?}: {e}\n{graph}"));
    }
}

/// A kernel graph of one kernel under construction.
pub struct Maker {
    pub graph: KernelGraph,
    pub kernel: Kernel,
}

pub fn s(name: &str) -> Dim {
    Expr::symbol(name)
}
pub fn c(value: i64) -> Dim {
    Expr::constant(value)
}
pub fn a(axis: usize) -> Expr {
    Expr::axis(axis)
}

impl Maker {
    /// A kernel over `space`.
    pub fn new(space: &[Dim]) -> Maker {
        let kernel = Kernel {
            name: "kernel".into(),
            rank: space.len(),
            extents: space.to_vec(),
            elements: Vec::new(),
            stores: Vec::new(),
            ops: Vec::new(),
        };
        let graph = KernelGraph { name: "test".into(), buffers: Vec::new(), steps: Vec::new() };
        Maker { graph, kernel }
    }

    fn buffer(&mut self, name: &str, dtype: DType, shape: &[Dim], kind: BufferKind) -> BufferId {
        let ty = TensorType { dtype, shape: shape.to_vec() };
        self.graph.buffers.push(Buffer { name: name.into(), ty, kind });
        BufferId(self.graph.buffers.len() as u32 - 1)
    }

    pub fn input(&mut self, dtype: DType, shape: &[Dim]) -> BufferId {
        let n = self.graph.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Input(_))).count();
        self.buffer(&format!("in{n}"), dtype, shape, BufferKind::Input(n))
    }

    /// A reduction's axis.
    pub fn axis(&mut self, extent: Dim) -> Axis {
        self.kernel.extents.push(extent);
        Axis(self.kernel.extents.len() as u32 - 1)
    }

    pub fn push(&mut self, dtype: DType, element: Element) -> ElementId {
        self.kernel.elements.push(TypedElement { element, dtype });
        ElementId(self.kernel.elements.len() as u32 - 1)
    }

    pub fn load(&mut self, buffer: BufferId, index: &[Expr]) -> ElementId {
        let dtype = self.graph.buffer(buffer).ty.dtype;
        let index = index.iter().cloned().map(Coordinate::Static).collect();
        self.push(dtype, Element::Load { buffer, index })
    }

    pub fn apply(&mut self, op: ScalarOp, operands: &[ElementId]) -> ElementId {
        let operand = self.kernel.elements[operands.last().unwrap().index()].dtype;
        let dtype = op.result_rule().result(operand);
        self.push(dtype, Element::Scalar(op, operands.into()))
    }

    pub fn reduce(&mut self, op: ReduceOp, axes: &[Axis], body: ElementId) -> ElementId {
        let dtype = if op.is_arg() { DType::I64 } else { self.kernel.elements[body.index()].dtype };
        self.push(dtype, Element::Reduce { op, axes: axes.into(), body })
    }

    /// `sum_k x·y` over one new axis of extent `k`; the operands' indices come from the axis.
    pub fn contract(
        &mut self,
        k: Dim,
        x: (BufferId, &dyn Fn(Expr) -> Vec<Expr>),
        y: (BufferId, &dyn Fn(Expr) -> Vec<Expr>),
    ) -> ElementId {
        let axis = self.axis(k);
        let at = a(axis.index());
        let (x, y) = (self.load(x.0, &x.1(at.clone())), self.load(y.0, &y.1(at)));
        let product = self.apply(ScalarOp::Mul, &[x, y]);
        self.reduce(ReduceOp::Sum, &[axis], product)
    }

    /// Stores an element to a new output at the point itself.
    pub fn store(&mut self, value: ElementId) {
        let shape = self.kernel.space().to_vec();
        let index: Vec<Expr> = (0..shape.len()).map(a).collect();
        self.store_at(value, &shape, &index);
    }

    pub fn store_at(&mut self, value: ElementId, shape: &[Dim], index: &[Expr]) {
        let n = self.graph.buffers.iter().filter(|b| matches!(b.kind, BufferKind::Output(_))).count();
        let dtype = self.kernel.elements[value.index()].dtype;
        let buffer = self.buffer(&format!("out{n}"), dtype, shape, BufferKind::Output(n));
        self.kernel.stores.push(Store { buffer, index: index.into(), value });
    }

    pub fn finish(mut self) -> KernelGraph {
        self.graph.steps.push(Step::Kernel(self.kernel));
        self.graph
    }
}

/// Values that follow from a seed, in about -2 to 2, with every width of float able to hold them.
pub fn data(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut tensor = Tensor::zeros(dtype, shape).unwrap();
    let size = dtype.size();
    for element in tensor.bytes_mut().chunks_exact_mut(size) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 40) as f64 / (1u64 << 24) as f64;
        let literal = if dtype.is_float() {
            fuse_ir::Literal::from_f64(dtype, (unit - 0.5) * 4.0)
        } else {
            fuse_ir::Literal::from_i64(dtype, (unit * 10.0) as i64)
        };
        element.copy_from_slice(&literal.bits().to_le_bytes()[..size]);
    }
    tensor
}

/// A tensor of floats with these values, rounded to its type.
pub fn tensor_of(dtype: DType, shape: &[usize], values: &[f64]) -> Tensor {
    let mut tensor = Tensor::zeros(dtype, shape).unwrap();
    let size = dtype.size();
    for (element, value) in tensor.bytes_mut().chunks_exact_mut(size).zip(values) {
        element.copy_from_slice(&fuse_ir::Literal::from_f64(dtype, *value).bits().to_le_bytes()[..size]);
    }
    tensor
}

/// Inputs for all buffers of a graph at `dims`.
pub fn inputs(graph: &KernelGraph, dims: &DimEnv) -> Vec<Tensor> {
    let mut out = Vec::new();
    for buffer in &graph.buffers {
        if let BufferKind::Input(i) = buffer.kind {
            let shape: Vec<usize> =
                buffer.ty.shape.iter().map(|d| d.eval_dim(dims).unwrap() as usize).collect();
            out.push((i, data(buffer.ty.dtype, &shape, i as u64 + 1)));
        }
    }
    out.sort_by_key(|(i, _)| *i);
    out.into_iter().map(|(_, t)| t).collect()
}

pub fn env(values: &[(&str, i64)]) -> DimEnv {
    let mut env = DimEnv::new();
    for (name, value) in values {
        env.set(Symbol::new(name), *value);
    }
    env
}

/// How the recurrent weights of [`lstm_step`] lie in memory.
#[derive(Clone, Copy)]
pub enum Weights {
    /// `[4H, H]`: along the contracted axis, as PyTorch keeps them.
    Rows,
    /// `[H, 4H]`: along the hidden units.
    Columns,
}

/// One LSTM step over `[B, H]` from `[B, H]` states and a precomputed input projection.
pub fn lstm_step(batch: Dim, hidden: i64, layout: Weights) -> KernelGraph {
    let h = c(hidden);
    let mut m = Maker::new(&[batch.clone(), h.clone()]);
    let gates = m.input(DType::F32, &[batch.clone(), c(4 * hidden)]);
    let weights = match layout {
        Weights::Rows => m.input(DType::F32, &[c(4 * hidden), h.clone()]),
        Weights::Columns => m.input(DType::F32, &[h.clone(), c(4 * hidden)]),
    };
    let state = m.input(DType::F32, &[batch.clone(), h.clone()]);
    let cell = m.input(DType::F32, &[batch, h.clone()]);
    let gate = |m: &mut Maker, g: i64| {
        let column = a(1) + c(g * hidden);
        let weight = |k: Expr| match layout {
            Weights::Rows => vec![column.clone(), k],
            Weights::Columns => vec![k, column.clone()],
        };
        let product = m.contract(h.clone(), (state, &|k| vec![a(0), k]), (weights, &weight));
        let x = m.load(gates, &[a(0), column.clone()]);
        m.apply(ScalarOp::Add, &[x, product])
    };
    let [i, f, g, o] = [0, 1, 2, 3].map(|n| gate(&mut m, n));
    let [i, f, o] = [i, f, o].map(|x| m.apply(ScalarOp::Sigmoid, &[x]));
    let g = m.apply(ScalarOp::Tanh, &[g]);
    let old = m.load(cell, &[a(0), a(1)]);
    let kept = m.apply(ScalarOp::Mul, &[f, old]);
    let added = m.apply(ScalarOp::Mul, &[i, g]);
    let cell = m.apply(ScalarOp::Add, &[kept, added]);
    let squashed = m.apply(ScalarOp::Tanh, &[cell]);
    let hidden = m.apply(ScalarOp::Mul, &[o, squashed]);
    m.store(hidden);
    m.store(cell);
    m.finish()
}
