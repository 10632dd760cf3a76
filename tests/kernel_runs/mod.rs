//! Kernels in text form, scheduled for a GPU and run on the simulated one, which reports races, accesses out of bounds and
//! reads of what was never written; against the interpreter of kernel graphs.

#![allow(dead_code, reason = "each test binary uses a part")]

use fuse_codegen::kernel_ir::{Function, MatrixFactors};
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::{Arch, PtxKernel, PtxOptions};
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::{BufferKind, KernelGraph};
use fuse_ir::kernel_interp::interpret_kernels;
use fuse_ir::{DType, Literal, Tensor, parse_kernels};
use fuse_runtime::sim::{Content, Counters, Launch, Memory, Module, SimError};

/// What sums in another order may differ by.
pub const CLOSE: Tolerance = Tolerance { ulp: 8.0, absolute: 1e-4, relative: 1e-5 };

pub fn graph(buffers: &str, kernel: &str) -> KernelGraph {
    let text = format!("kernels contraction {{\n{buffers}\n{kernel}\n}}");
    parse_kernels(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

pub fn shape(graph: &KernelGraph, buffer: usize, dims: &DimEnv) -> Vec<usize> {
    let extents = graph.buffers[buffer].ty.shape.iter();
    extents.map(|d| usize::try_from(d.eval_dim(dims).expect("a bound symbol")).expect("a size")).collect()
}

/// Values in about -1 to 1; indices in about 0 to 100.
pub fn values(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 7) % 199;
    let value = |i: usize| match dtype {
        DType::I32 => Literal::from_i64(dtype, noise(i) as i64 / 2),
        _ => Literal::from_f64(dtype, noise(i) as f64 / 99.0 - 1.0),
    };
    let bytes = (0..shape.iter().product()).flat_map(|i| {
        let bytes = value(i).bits().to_le_bytes();
        bytes.into_iter().take(dtype.size())
    });
    Tensor::from_bytes(dtype, shape, bytes.collect::<Vec<u8>>()).expect("a tensor")
}

/// Some values for each input.
pub fn inputs(graph: &KernelGraph, dims: &DimEnv) -> Vec<Tensor> {
    (0..graph.buffers.len())
        .filter(|i| matches!(graph.buffers[*i].kind, BufferKind::Input(_)))
        .map(|i| values(graph.buffers[i].ty.dtype, &shape(graph, i, dims), i))
        .collect()
}

/// One launch of a module's function: the outputs and what it cost.
pub fn run(
    graph: &KernelGraph,
    function: &Function,
    module: &Module,
    inputs: &[Tensor],
    dims: &DimEnv,
) -> Result<(Vec<Tensor>, Counters), SimError> {
    let mut memory = Memory::new();
    let addresses: Vec<u64> = (0..graph.buffers.len())
        .map(|i| {
            let buffer = &graph.buffers[i];
            let size = buffer.ty.dtype.size();
            match buffer.kind {
                BufferKind::Input(input) => {
                    let mut bytes = inputs[input].bytes().to_vec();
                    bytes.resize(bytes.len().max(size), 0);
                    memory.allocate_with(&buffer.name, &bytes, size as u64, Content::Constant)
                }
                _ => {
                    let bytes = shape(graph, i, dims).iter().product::<usize>().max(1) * size;
                    memory.allocate(&buffer.name, bytes as u64, size as u64, Content::Unwritten)
                }
            }
        })
        .collect();
    let kernel = PtxKernel::of(function).expect("a kernel");
    let mut counters = Counters::default();
    let shape_of_launch = kernel.launch(dims).expect("a launch");
    if !shape_of_launch.is_empty() {
        let mut arguments: Vec<u64> = function.buffers.iter().map(|b| addresses[b.buffer.index()]).collect();
        arguments.extend(kernel.symbol_values(dims).expect("symbols").iter().map(|v| *v as u64));
        let launch = Launch {
            kernel: &function.name,
            grid: shape_of_launch.grid,
            block: shape_of_launch.block,
            shared_bytes: shape_of_launch.shared_bytes,
            arguments: &arguments,
            cooperative: false,
            clusters: None,
            threads: 2,
        };
        counters = module.launch(&memory, &launch)?;
    }
    let outputs =
        (0..graph.buffers.len()).filter(|i| matches!(graph.buffers[*i].kind, BufferKind::Output(_)));
    let read = |i: usize| {
        let (dtype, shape) = (graph.buffers[i].ty.dtype, shape(graph, i, dims));
        let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
        memory.read(addresses[i], &mut bytes);
        Tensor::from_bytes(dtype, &shape, bytes).expect("a tensor")
    };
    Ok((outputs.map(read).collect(), counters))
}

/// Holds a function, as PTX for an architecture, to the interpreter at sizes of `M`, `N` and `K`; the function computes with
/// inputs that are `rounded`. Returns what the launches cost.
pub fn check_function(
    graph: &KernelGraph,
    function: &Function,
    arch: Arch,
    sizes: &[[i64; 3]],
    rounded: &dyn Fn(&Tensor) -> Tensor,
) -> Counters {
    let text = ptx(std::slice::from_ref(function), &PtxOptions::new(arch)).expect("PTX");
    let module = Module::parse(&text).expect("the simulator takes it");
    let mut counters = Counters::default();
    for [rows, columns, depth] in sizes {
        let dims = DimEnv::new().with("M", *rows).with("N", *columns).with("K", *depth);
        let inputs = inputs(graph, &dims);
        let seen: Vec<Tensor> = inputs.iter().map(rounded).collect();
        let expected = interpret_kernels(graph, &seen, &dims).expect("interprets");
        let (got, counted) = run(graph, function, &module, &inputs, &dims)
            .unwrap_or_else(|e| panic!("{e} at {dims:?}\n{graph}"));
        counters += counted;
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            compare(got, expected, CLOSE).unwrap_or_else(|e| panic!("output {i} at {dims:?}: {e}\n{graph}"));
        }
    }
    counters
}

/// The four layouts of two factors: shape and coordinates of the left, then of the right one.
pub const LAYOUTS: [[&str; 4]; 4] = [
    ["M, K", "i0, i2", "N, K", "i1, i2"],
    ["M, K", "i0, i2", "K, N", "i2, i1"],
    ["K, M", "i2, i0", "N, K", "i1, i2"],
    ["K, M", "i2, i0", "K, N", "i2, i1"],
];

/// A product of factors of a type, with a bias and an activation.
pub fn product(dtype: &str, layout: [&str; 4], sizes: [&str; 3]) -> KernelGraph {
    let [left, at_left, right, at_right] = layout;
    let cast = |name: &str| match dtype {
        "f32" => format!("{name}: f32 = load"),
        _ => format!("{name}_narrow: {dtype} = load"),
    };
    let widen = |name: &str| match dtype {
        "f32" => String::new(),
        _ => format!("{name}: f32 = cast {name}_narrow"),
    };
    let sized = |text: &str| text.replace('M', sizes[0]).replace('N', sizes[1]).replace('K', sizes[2]);
    graph(
        &sized(&format!(
            "buffer x: {dtype}[{left}] input 0 buffer w: {dtype}[{right}] input 1
             buffer b: f32[N] input 2 buffer y: f32[M, N] output 0"
        )),
        &sized(&format!(
            "kernel product [i0 < M, i1 < N] {{
               {} x[{at_left}] {}  {} w[{at_right}] {}
               p: f32 = mul x, w  sum: f32 = sum [i2 < K] p
               b: f32 = load b[i1]  a: f32 = add sum, b  t: f32 = tanh a
               store y[i0, i1] = t }}",
            cast("x"),
            widen("x"),
            cast("w"),
            widen("w"),
        )),
    )
}

/// An input of f32 as tensor cores see it.
pub fn rounded(input: &Tensor, factors: MatrixFactors) -> Tensor {
    let round = |x: f32| match factors {
        MatrixFactors::F16 => Literal::from_f64(DType::F16, f64::from(x)).as_f64() as f32,
        MatrixFactors::Bf16 => Literal::from_f64(DType::Bf16, f64::from(x)).as_f64() as f32,
        // To nearest, ties away from zero, by what is added below the last of 10 bits behind the first.
        MatrixFactors::Tf32 => f32::from_bits(x.to_bits().wrapping_add(1 << 12) & !((1 << 13) - 1)),
    };
    let bytes = input.to_f64().into_iter().flat_map(|x| round(x as f32).to_le_bytes());
    Tensor::from_bytes(DType::F32, input.shape(), bytes.collect::<Vec<u8>>()).expect("a tensor")
}

/// A product of f32 without anything beside it that rounding its inputs would change.
pub fn bare_product(layout: [&str; 4], sizes: [&str; 3]) -> KernelGraph {
    let [left, at_left, right, at_right] = layout;
    let sized = |text: &str| text.replace('M', sizes[0]).replace('N', sizes[1]).replace('K', sizes[2]);
    graph(
        &sized(&format!(
            "buffer x: f32[{left}] input 0 buffer w: f32[{right}] input 1 buffer y: f32[M, N] output 0"
        )),
        &sized(&format!(
            "kernel product [i0 < M, i1 < N] {{
               x: f32 = load x[{at_left}]  w: f32 = load w[{at_right}]
               p: f32 = mul x, w  sum: f32 = sum [i2 < K] p  store y[i0, i1] = sum }}"
        )),
    )
}
