//! Products of warp groups in Kernel IR, evaluated, against the interpreter of kernel graphs.

mod kernel_support;

use fuse_codegen::kernel_ir::{Function, MatrixFactors, Statement};
use fuse_codegen::kernel_ir_eval::{EvaluationError, evaluate_all};
use fuse_codegen::schedule::{GpuLimits, Rounding, ScheduleTarget, schedule};
use fuse_codegen::text::print;
use fuse_ir::compare::Tolerance;
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::KernelGraph;
use fuse_ir::parse_kernels;
use kernel_support::check_kernel_ir;

/// What sums in another order may differ by, of factors that are exact.
const CLOSE: Tolerance = Tolerance { ulp: 8.0, absolute: 1e-4, relative: 1e-5 };

/// A few multiprocessors of an H100, which products of this size fill, that code is made for alone.
fn target(rounding: Rounding) -> ScheduleTarget {
    let limits = GpuLimits { warp_groups: true, multiprocessors: 4, ..GpuLimits::h100() };
    ScheduleTarget::Gpu { block: 256, limits, rounding }
}

fn graph(buffers: &str, kernel: &str) -> KernelGraph {
    let text = format!("kernels product {{\n{buffers}\n{kernel}\n}}");
    parse_kernels(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn function(graph: &KernelGraph, rounding: Rounding) -> Function {
    let (kernel, _) = graph.kernels()[0];
    schedule(graph, kernel, target(rounding)).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

fn has_groups(graph: &KernelGraph, rounding: Rounding) -> bool {
    print(&function(graph, rounding)).contains("group_fma")
}

fn check(graph: &KernelGraph, rounding: Rounding, sizes: &[[i64; 3]]) {
    assert!(has_groups(graph, rounding), "no warp groups: {graph}");
    for [rows, columns, depth] in sizes {
        let dims = DimEnv::new().with("M", *rows).with("N", *columns).with("K", *depth);
        check_kernel_ir(graph, &dims, target(rounding), CLOSE);
    }
}

/// The four layouts of two factors: shape and coordinates of the left, then of the right one.
const LAYOUTS: [[&str; 4]; 4] = [
    ["M, K", "i0, i2", "N, K", "i1, i2"],
    ["M, K", "i0, i2", "K, N", "i2, i1"],
    ["K, M", "i2, i0", "N, K", "i1, i2"],
    ["K, M", "i2, i0", "K, N", "i2, i1"],
];

/// A product of 16-bit factors with a bias.
fn product(dtype: &str, [left, at_left, right, at_right]: [&str; 4], sizes: [&str; 3]) -> KernelGraph {
    let sized = |text: &str| text.replace('M', sizes[0]).replace('N', sizes[1]).replace('K', sizes[2]);
    graph(
        &sized(&format!(
            "buffer x: {dtype}[{left}] input 0 buffer w: {dtype}[{right}] input 1
             buffer b: f32[N] input 2 buffer y: f32[M, N] output 0"
        )),
        &sized(&format!(
            "kernel product [i0 < M, i1 < N] {{
               x: {dtype} = load x[{at_left}]  f: f32 = cast x  w: {dtype} = load w[{at_right}]  g: f32 = cast w
               p: f32 = mul f, g  sum: f32 = sum [i2 < K] p
               b: f32 = load b[i1]  a: f32 = add sum, b  store y[i0, i1] = a }}"
        )),
    )
}

#[test]
fn halves_of_every_layout_agree() {
    for dtype in ["bf16", "f16"] {
        for layout in LAYOUTS {
            // Copied 16 and 4 bytes at a time, and computed one by one; tiles and steps that are whole and not.
            check(&product(dtype, layout, ["64*M", "256", "128"]), None, &[[2, 0, 0]]);
            check(&product(dtype, layout, ["66*M", "130", "70"]), None, &[[2, 0, 0]]);
            check(&product(dtype, layout, ["32*M", "32*N", "K"]), None, &[[5, 3, 65], [1, 1, 3]]);
        }
    }
}

#[test]
fn gates_and_computed_factors_agree() {
    let gates = graph(
        "buffer x: bf16[64*M, 136] input 0 buffer w0: bf16[152, 136] input 1 buffer w1: bf16[136, 152] input 2
         buffer y: f32[64*M, 152] output 0",
        "kernel gates [i0 < 64*M, i1 < 152] {
           x0: bf16 = load x[i0, i2]  f0: f32 = cast x0  l0: bf16 = load w0[i1, i2]  g0: f32 = cast l0
           p0: f32 = mul f0, g0  s0: f32 = sum [i2 < 136] p0
           x1: bf16 = load x[i0, i3]  f1: f32 = cast x1  l1: bf16 = load w1[i3, i1]  g1: f32 = cast l1
           p1: f32 = mul f1, g1  s1: f32 = sum [i3 < 136] p1
           m: f32 = mul s0, s1  store y[i0, i1] = m }",
    );
    check(&gates, None, &[[3, 0, 0]]);
    let computed = graph(
        "buffer x: bf16[64*M, 248] input 0 buffer least: bf16[248] input 1 buffer w: bf16[56, 248] input 2
         buffer y: bf16[64*M, 56] output 0",
        "kernel product [i0 < 64*M, i1 < 56] {
           x: bf16 = load x[i0, i2]  s: bf16 = load least[i2]  m: bf16 = maximum x, s  f: f32 = cast m
           w: bf16 = load w[i1, i2]  r: bf16 = relu w  g: f32 = cast r
           p: f32 = mul f, g  sum: f32 = sum [i2 < 248] p  y: bf16 = cast sum
           store y[i0, i1] = y }",
    );
    check(&computed, None, &[[3, 0, 0]]);
}

#[test]
fn tf32_is_what_its_bits_say() {
    // Small whole numbers are tf32.
    let graph = graph(
        "buffer x: i32[64*M, K] input 0 buffer w: i32[130, K] input 1 buffer y: f32[64*M, 130] output 0",
        "kernel product [i0 < 64*M, i1 < 130] {
           x: i32 = load x[i0, i2]  f: f32 = cast x  w: i32 = load w[i1, i2]  g: f32 = cast w
           p: f32 = mul f, g  sum: f32 = sum [i2 < K] p  store y[i0, i1] = sum }",
    );
    check(&graph, Some(MatrixFactors::Tf32), &[[2, 0, 40], [1, 0, 32]]);
}

/// Drops the first statement of a kind from a body.
fn drop_first(body: &mut Vec<Statement>, is_it: &dyn Fn(&Statement) -> bool) -> bool {
    if let Some(at) = body.iter().position(is_it) {
        body.remove(at);
        return true;
    }
    body.iter_mut().any(|statement| match statement {
        Statement::For { body, .. } | Statement::If { body, .. } => drop_first(body, is_it),
        _ => false,
    })
}

#[test]
fn what_is_copied_is_multiplied_only_behind_a_wait_and_a_barrier() {
    let graph = product("bf16", LAYOUTS[0], ["128", "256", "192"]);
    let function = function(&graph, None);
    let dims = DimEnv::new();
    let evaluated = |function: &Function| {
        let sizes = [128 * 192 * 2, 256 * 192 * 2, 256 * 4, 128 * 256 * 4];
        let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|bytes| vec![0; *bytes]).collect();
        evaluate_all(function, &mut buffers, &dims)
    };
    assert_eq!(evaluated(&function), Ok(()));
    for is_it in [
        (&|s: &Statement| matches!(s, Statement::AwaitCopies { .. })) as &dyn Fn(&Statement) -> bool,
        &|s: &Statement| matches!(s, Statement::Barrier),
    ] {
        let mut broken = function.clone();
        assert!(drop_first(&mut broken.body, is_it));
        let invalid = matches!(evaluated(&broken), Err(EvaluationError::Invalid { .. }));
        assert!(invalid, "{:?}", evaluated(&broken));
    }
}
