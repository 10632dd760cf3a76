//! Products of warp groups on the simulated GPU, which reports races, missing fences, sums that are touched too early, accesses
//! out of bounds and reads of what was never written, against the interpreter of kernel graphs.
#![cfg(feature = "llvm")]

mod kernel_runs;

use fuse_codegen::kernel_ir::{Function, MatrixFactors};
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::{Arch, PtxOptions};
use fuse_codegen::schedule::{GpuLimits, Rounding, ScheduleTarget, schedule};
use fuse_codegen::text;
use fuse_ir::Tensor;
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::KernelGraph;
use fuse_runtime::sim::{Counters, Module, Problem, SimError};
use kernel_runs::{LAYOUTS, bare_product, graph, inputs, product, rounded, run};

/// A few multiprocessors of an H100, which products of this size fill.
fn limits(warp_groups: bool) -> GpuLimits {
    GpuLimits { warp_groups, multiprocessors: 4, ..GpuLimits::h100() }
}

fn scheduled(graph: &KernelGraph, rounding: Rounding, limits: GpuLimits) -> Function {
    let (kernel, _) = graph.kernels()[0];
    let target = ScheduleTarget::Gpu { block: 256, limits, rounding };
    schedule(graph, kernel, target).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// Schedules a kernel for warp groups.
fn with_groups(graph: &KernelGraph, rounding: Rounding) -> Function {
    let function = scheduled(graph, rounding, limits(true));
    assert!(text::print(&function).contains("group_fma"), "no warp groups: {graph}");
    function
}

fn check(graph: &KernelGraph, rounding: Rounding, sizes: &[[i64; 3]]) -> Counters {
    let seen = |input: &Tensor| match rounding {
        Some(factors) => rounded(input, factors),
        None => input.clone(),
    };
    kernel_runs::check_function(graph, &with_groups(graph, rounding), Arch::Sm90a, sizes, &seen)
}

#[test]
fn halves_of_every_layout_agree() {
    for dtype in ["bf16", "f16"] {
        for layout in LAYOUTS {
            // Copied 16, 8 and 4 bytes at a time, and computed one by one; tiles and steps that are whole and not.
            check(&product(dtype, layout, ["64*M", "256", "192"]), None, &[[2, 0, 0], [1, 0, 0]]);
            check(&product(dtype, layout, ["68*M", "132", "76"]), None, &[[1, 0, 0]]);
            check(&product(dtype, layout, ["66*M", "130", "70"]), None, &[[2, 0, 0]]);
            check(&product(dtype, layout, ["32*M", "32*N", "K"]), None, &[[5, 3, 65], [1, 1, 3], [3, 2, 0]]);
        }
    }
}

#[test]
fn factors_of_f32_are_rounded_on_their_way() {
    for factors in [MatrixFactors::Tf32, MatrixFactors::Bf16, MatrixFactors::F16] {
        // Lines of tf32 go along the summed axis.
        let layouts = if factors == MatrixFactors::Tf32 { &LAYOUTS[..1] } else { &LAYOUTS[..] };
        for layout in layouts {
            check(&bare_product(*layout, ["64*M", "256", "248"]), Some(factors), &[[2, 0, 0], [1, 0, 0]]);
            check(&bare_product(*layout, ["32*M", "32*N", "K"]), Some(factors), &[[5, 3, 65], [1, 1, 3]]);
        }
    }
}

/// Gates of one input, which meet in one value.
fn gates(count: usize, right: &str, at_right: &str) -> KernelGraph {
    let weights: String =
        (0..count).map(|g| format!("buffer w{g}: bf16[{right}] input {}\n", g + 1)).collect();
    let sums: String = (0..count)
        .map(|g| {
            let k = g + 2;
            let at = at_right.replace('k', &format!("i{k}"));
            format!(
                "x{g}: bf16 = load x[i0, i{k}]  f{g}: f32 = cast x{g}
                 l{g}: bf16 = load w{g}[{at}]  h{g}: f32 = cast l{g}  p{g}: f32 = mul f{g}, h{g}
                 s{g}: f32 = sum [i{k} < 136] p{g}  a{g}: f32 = sigmoid s{g}\n"
            )
        })
        .collect();
    let joined = (1..count).fold(String::new(), |text, g| {
        let before = if g == 1 { "a0".to_string() } else { format!("m{}", g - 1) };
        format!("{text} m{g}: f32 = mul {before}, a{g}\n")
    });
    graph(
        &format!("buffer x: bf16[64*M, 136] input 0\n{weights} buffer y: f32[64*M, 152] output 0"),
        &format!("kernel gates [i0 < 64*M, i1 < 152] {{ {sums} {joined} store y[i0, i1] = m{} }}", count - 1),
    )
}

#[test]
fn gates_share_their_input_and_meet_in_the_cell() {
    for count in 2..=4 {
        check(&gates(count, "152, 136", "i1, k"), None, &[[3, 0, 0], [1, 0, 0]]);
    }
    check(&gates(2, "136, 152", "k, i1"), None, &[[3, 0, 0]]);
}

#[test]
fn factors_may_be_gathered_computed_and_rounded_by_the_model() {
    // One factor is copied, row by gathered row; the other is rounded because the model says so, and computed.
    let graph = graph(
        "buffer x: bf16[100, 136] input 0 buffer at: i32[64*M] input 1 buffer w: f32[200, 136] input 2
         buffer y: bf16[64*M, 200] output 0",
        "kernel product [i0 < 64*M, i1 < 200] {
           at: i32 = load at[i0]  x: bf16 = load x[@at, i2]  left: f32 = cast x
           w: f32 = load w[i1, i2]  narrow: bf16 = cast w  positive: bf16 = relu narrow  right: f32 = cast positive
           p: f32 = mul left, right  sum: f32 = sum [i2 < 136] p  y: bf16 = cast sum
           store y[i0, i1] = y }",
    );
    let as_the_model_rounds = |input: &Tensor| match input.dtype() {
        fuse_ir::DType::F32 => rounded(input, MatrixFactors::Bf16),
        _ => input.clone(),
    };
    let function = with_groups(&graph, None);
    kernel_runs::check_function(
        &graph,
        &function,
        Arch::Sm90a,
        &[[3, 0, 0], [1, 0, 0]],
        &as_the_model_rounds,
    );
}

#[test]
fn batches_and_sides_of_several_axes_agree() {
    check(
        &graph(
            "buffer x: bf16[3, 64*M, 88] input 0 buffer w: bf16[3, 130, 88] input 1 buffer y: f32[3, 64*M, 130] output 0",
            "kernel product [i0 < 3, i1 < 64*M, i2 < 130] {
               x: bf16 = load x[i0, i1, i3]  f: f32 = cast x  w: bf16 = load w[i0, i2, i3]  g: f32 = cast w
               p: f32 = mul f, g  sum: f32 = sum [i3 < 88] p
               store y[i0, i1, i2] = sum }",
        ),
        None,
        &[[3, 0, 0]],
    );
    check(
        &graph(
            "buffer x: f16[3, 64*M, 40] input 0 buffer w: f16[40, 12, 16] input 1 buffer y: f32[64*M, 16, 3, 12] output 0",
            "kernel product [i0 < 3, i1 < 64*M, i2 < 12, i3 < 16] {
               x: f16 = load x[i0, i1, i4]  f: f32 = cast x  w: f16 = load w[i4, i2, i3]  g: f32 = cast w
               p: f32 = mul f, g  sum: f32 = sum [i4 < 40] p
               store y[i1, i3, i0, i2] = sum }",
        ),
        None,
        &[[1, 0, 0]],
    );
}

/// Sums that the blocks of a cluster share, each with whole steps or none; on as many multiprocessors as have them shared.
#[test]
fn divided_sums_agree() {
    for layout in [LAYOUTS[0], LAYOUTS[3]] {
        let graph = product("bf16", layout, ["256", "128", "1032"]);
        let of = |multiprocessors| scheduled(&graph, None, GpuLimits { multiprocessors, ..limits(true) });
        let is_divided = |function: &Function| {
            let by_groups = text::print(function).contains("group_fma");
            by_groups && function.mapping.cluster_blocks().is_some_and(|n| n > 1)
        };
        let function = [8, 12, 16, 24, 32, 64, 132].into_iter().map(of).find(is_divided);
        let function = function.unwrap_or_else(|| panic!("{graph} is not divided"));
        kernel_runs::check_function(&graph, &function, Arch::Sm90a, &[[0, 0, 0]], &|input| input.clone());
    }
}

/// The instructions of the same product, by warp groups and by warps.
#[test]
fn warp_groups_load_nothing_and_have_no_bank_conflicts() {
    let graph = product("bf16", LAYOUTS[0], ["256", "512", "256"]);
    let by_groups = check(&graph, None, &[[0, 0, 0]]);
    let by_warps = scheduled(&graph, None, limits(false));
    let by_warps =
        kernel_runs::check_function(&graph, &by_warps, Arch::Sm90, &[[0, 0, 0]], &|input| input.clone());
    assert_eq!((by_groups.bank_conflicts, by_warps.bank_conflicts), (0, 0));
    let all = format!("{by_groups:?} {by_warps:?}");
    assert!(3 * by_groups.memory < 2 * by_warps.memory && by_groups.integer < by_warps.integer, "{all}");
    // In a step a block stages 256 lines of 128 bytes, 512 a request, and two groups read 64 rows and 128 columns in pieces
    // of 8 lines by 16 bytes.
    let (blocks, steps) = (8, 4);
    let requests = blocks * ((steps + 2) * 256 / 4 + steps * 2 * (64 + 128));
    assert_eq!(by_groups.shared_requests, requests, "{all}");
}

/// What the simulated GPU reports where something is missing in a kernel's PTX.
fn problem(from: &str, to: &str) -> Problem {
    let graph = product("bf16", LAYOUTS[0], ["256", "512", "256"]);
    let function = with_groups(&graph, None);
    let text = ptx(std::slice::from_ref(&function), &PtxOptions::new(Arch::Sm90a)).expect("PTX");
    assert!(text.contains(from), "no `{from}`");
    let changed = text.replace(from, to);
    let module = Module::parse(&changed).expect("the simulator takes it");
    let dims = DimEnv::new();
    match run(&graph, &function, &module, &inputs(&graph, &dims), &dims) {
        Err(SimError::Fault(fault)) => fault.problem,
        other => {
            panic!("`{from}` as `{to}`: expected a report, got {:?}", other.map(|(_, counters)| counters))
        }
    }
}

#[test]
fn what_is_missing_is_reported() {
    assert!(matches!(problem("fence.proxy.async.shared::cta;", ""), Problem::NoProxyFence { .. }));
    assert!(matches!(problem("bar.sync \t0;", ""), Problem::Race { .. } | Problem::NeverWritten { .. }));
    assert!(matches!(problem("wgmma.fence.sync.aligned;", ""), Problem::WarpGroup(_)));
    assert!(matches!(problem("wgmma.wait_group.sync.aligned 0;", ""), Problem::WarpGroup(_)));
    assert!(matches!(problem("wgmma.commit_group.sync.aligned;", ""), Problem::WarpGroup(_)));
    // One step too few is waited for.
    let early = problem("cp.async.wait_group \t1;", "cp.async.wait_group \t2;");
    assert!(matches!(early, Problem::Race { .. } | Problem::NeverWritten { .. }), "{early:?}");
}
