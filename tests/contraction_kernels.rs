//! Kernels that are scheduled as tiled contractions, whatever graphs they may come from, on the simulated GPU, which
//! reports races, accesses out of bounds and reads of what was never written, against the interpreter of kernel graphs.
#![cfg(feature = "llvm")]

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::{Arch, PtxKernel, PtxOptions};
use fuse_codegen::schedule::{ScheduleTarget, schedule};
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::{BufferKind, KernelGraph};
use fuse_ir::kernel_interp::interpret_kernels;
use fuse_ir::{DType, Literal, Tensor, parse_kernels};
use fuse_runtime::sim::{Content, Launch, Memory, Module};

const CLOSE: Tolerance = Tolerance { ulp: 8.0, absolute: 1e-4, relative: 1e-5 };

/// `M` rows, `N` columns, `K` products a sum: odd ones, few, none, and whole tiles.
const SIZES: [[i64; 3]; 9] = [
    [130, 67, 33],
    [1, 1, 1],
    [5, 7, 0],
    [64, 64, 16],
    [65, 3, 17],
    [2, 129, 8],
    [128, 128, 64],
    [0, 9, 5],
    [9, 0, 5],
];

fn graph(buffers: &str, kernel: &str) -> KernelGraph {
    let text = format!("kernels contraction {{\n{buffers}\n{kernel}\n}}");
    parse_kernels(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn function(graph: &KernelGraph) -> Function {
    let (kernel, _) = graph.kernels()[0];
    let function = schedule(graph, kernel, ScheduleTarget::gpu()).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let is_tiled = function.shared.iter().any(|array| array.name.starts_with("factor_"));
    assert!(is_tiled, "{graph} is not tiled");
    function
}

fn shape(graph: &KernelGraph, buffer: usize, dims: &DimEnv) -> Vec<usize> {
    let extents = graph.buffers[buffer].ty.shape.iter();
    extents.map(|d| usize::try_from(d.eval_dim(dims).expect("a bound symbol")).expect("a size")).collect()
}

/// Values in about -1 to 1; indices in about 0 to 100.
fn values(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 7) % 199;
    let value = |i: usize| match dtype {
        DType::I32 => Literal::from_i64(dtype, noise(i) as i64 / 2),
        _ => Literal::from_f64(dtype, noise(i) as f64 / 99.0 - 1.0),
    };
    let bytes = (0..shape.iter().product()).flat_map(|i| {
        let bytes = value(i).bits().to_le_bytes();
        bytes.into_iter().take(dtype.size())
    });
    Tensor::from_bytes(dtype, shape, bytes.collect()).expect("a tensor")
}

fn run(
    graph: &KernelGraph,
    function: &Function,
    module: &Module,
    inputs: &[Tensor],
    dims: &DimEnv,
) -> Vec<Tensor> {
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
            threads: 2,
        };
        module.launch(&memory, &launch).unwrap_or_else(|e| panic!("{e} at {dims:?}\n{graph}"));
    }
    let outputs =
        (0..graph.buffers.len()).filter(|i| matches!(graph.buffers[*i].kind, BufferKind::Output(_)));
    outputs
        .map(|i| {
            let (dtype, shape) = (graph.buffers[i].ty.dtype, shape(graph, i, dims));
            let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
            memory.read(addresses[i], &mut bytes);
            Tensor::from_bytes(dtype, &shape, bytes).expect("a tensor")
        })
        .collect()
}

/// Holds a kernel to the interpreter at sizes of `M`, `N` and `K`.
fn check_at(graph: &KernelGraph, sizes: &[[i64; 3]]) {
    let function = function(graph);
    let text = ptx(std::slice::from_ref(&function), &PtxOptions::new(Arch::Sm90)).expect("PTX");
    let module = Module::parse(&text).expect("the simulator takes it");
    for [rows, columns, depth] in sizes {
        let dims = DimEnv::new().with("M", *rows).with("N", *columns).with("K", *depth);
        let inputs: Vec<Tensor> = (0..graph.buffers.len())
            .filter(|i| matches!(graph.buffers[*i].kind, BufferKind::Input(_)))
            .map(|i| values(graph.buffers[i].ty.dtype, &shape(graph, i, &dims), i))
            .collect();
        let expected = interpret_kernels(graph, &inputs, &dims).expect("interprets");
        let got = run(graph, &function, &module, &inputs, &dims);
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            compare(got, expected, CLOSE).unwrap_or_else(|e| panic!("output {i} at {dims:?}: {e}\n{graph}"));
        }
    }
}

fn check(graph: &KernelGraph) {
    check_at(graph, &SIZES);
}

#[test]
fn products_of_every_layout_agree() {
    for (left, at_left) in [("M, K", "i0, i2"), ("K, M", "i2, i0")] {
        for (right, at_right) in [("N, K", "i1, i2"), ("K, N", "i2, i1")] {
            check(&graph(
                &format!(
                    "buffer x: f32[{left}] input 0 buffer w: f32[{right}] input 1 buffer y: f32[M, N] output 0"
                ),
                &format!(
                    "kernel product [i0 < M, i1 < N] {{
                       x: f32 = load x[{at_left}]  w: f32 = load w[{at_right}]
                       p: f32 = mul x, w  sum: f32 = sum [i2 < K] p
                       store y[i0, i1] = sum }}"
                ),
            ));
        }
    }
}

#[test]
fn known_extents_are_loaded_and_stored_in_vectors() {
    // Whole quads but not whole steps or tiles, and whole ones; rows enough not to be split among warps.
    for (rows, columns, depth) in [("2*M", 68, 100), ("2*M", 64, 64), ("2*M", 4 * 97, 60), ("128", 256, 64)] {
        for (left, at_left) in [("M, K", "i0, i2"), ("K, M", "i2, i0")] {
            for (right, at_right) in [("N, K", "i1, i2"), ("K, N", "i2, i1")] {
                let sized = |text: &str| {
                    text.replace('M', rows)
                        .replace('N', &columns.to_string())
                        .replace('K', &depth.to_string())
                };
                let graph = graph(
                    &sized(&format!(
                        "buffer x: f32[{left}] input 0 buffer w: f32[{right}] input 1
                         buffer b: f32[N] input 2 buffer y: f32[M, N] output 0"
                    )),
                    &sized(&format!(
                        "kernel product [i0 < M, i1 < N] {{
                           x: f32 = load x[{at_left}]  w: f32 = load w[{at_right}]
                           p: f32 = mul x, w  sum: f32 = sum [i2 < K] p
                           b: f32 = load b[i1]  a: f32 = add sum, b  t: f32 = tanh a
                           store y[i0, i1] = t }}"
                    )),
                );
                check_at(&graph, &[[70, 0, 0], [1, 0, 0], [128, 0, 0]]);
            }
        }
    }
}

#[test]
fn gates_share_their_input_and_meet_in_the_cell() {
    for gates in 2..=4 {
        let weights: String =
            (0..gates).map(|g| format!("buffer w{g}: f32[N, K] input {}\n", g + 1)).collect();
        let sums: String = (0..gates)
            .map(|g| {
                let k = g + 2;
                format!(
                    "x{g}: f32 = load x[i0, i{k}]  l{g}: f32 = load w{g}[i1, i{k}]  p{g}: f32 = mul x{g}, l{g}
                     s{g}: f32 = sum [i{k} < K] p{g}  a{g}: f32 = sigmoid s{g}\n"
                )
            })
            .collect();
        let joined = (1..gates).fold(String::new(), |text, g| {
            let before = if g == 1 { "a0".to_string() } else { format!("m{}", g - 1) };
            format!("{text} m{g}: f32 = mul {before}, a{g}\n")
        });
        check(&graph(
            &format!(
                "buffer x: f32[M, K] input 0\n{weights} buffer y: f32[M, N] output 0 buffer z: f32[N, M] output 1"
            ),
            &format!(
                "kernel gates [i0 < M, i1 < N] {{ {sums} {joined}
                   store y[i0, i1] = m{}  store z[i1, i0] = s0 }}",
                gates - 1
            ),
        ));
    }
}

#[test]
fn factors_may_be_computed_and_gathered() {
    check(&graph(
        "buffer x: bf16[100, K] input 0 buffer at: i32[M] input 1 buffer w: f16[N, K] input 2
         buffer scale: f32[K] input 3 buffer y: bf16[M, N] output 0",
        "kernel product [i0 < M, i1 < N] {
           at: i32 = load at[i0]  x: bf16 = load x[@at, i2]  f: f32 = cast x  s: f32 = load scale[i2]
           left: f32 = mul f, s  w: f16 = load w[i1, i2]  g: f32 = cast w  right: f32 = relu g
           p: f32 = mul left, right  sum: f32 = sum [i2 < K] p  y: bf16 = cast sum
           store y[i0, i1] = y }",
    ));
}

#[test]
fn rows_and_batches_may_have_several_axes() {
    check(&graph(
        "buffer x: f32[3, M, K] input 0 buffer w: f32[K, 5, N] input 1 buffer y: f32[M, N, 3, 5] output 0",
        "kernel product [i0 < 3, i1 < M, i2 < 5, i3 < N] {
           x: f32 = load x[i0, i1, i4]  w: f32 = load w[i4, i2, i3]
           p: f32 = mul x, w  sum: f32 = sum [i4 < K] p
           store y[i1, i3, i0, i2] = sum }",
    ));
    check(&graph(
        "buffer x: f32[3, M, K] input 0 buffer w: f32[3, N, K] input 1 buffer y: f32[3, M, N] output 0",
        "kernel product [i0 < 3, i1 < M, i2 < N] {
           x: f32 = load x[i0, i1, i3]  w: f32 = load w[i0, i2, i3]
           p: f32 = mul x, w  sum: f32 = sum [i3 < K] p
           store y[i0, i1, i2] = sum }",
    ));
}
