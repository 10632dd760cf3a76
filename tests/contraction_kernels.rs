//! Kernels that are scheduled as tiled contractions, whatever graphs they may come from, on the simulated GPU, which
//! reports races, accesses out of bounds and reads of what was never written, against the interpreter of kernel graphs.
//! With tensor cores and without.
#![cfg(feature = "llvm")]

mod kernel_runs;

use fuse_codegen::kernel_ir::{Function, MatrixFactors};
use fuse_codegen::kernel_ir_eval::evaluate_all;
use fuse_codegen::llvm::ptx::ptx;
use fuse_codegen::llvm::{Arch, PtxOptions};
use fuse_codegen::schedule::{GpuLimits, Rounding, ScheduleTarget, schedule};
use fuse_codegen::{text, verify};
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::KernelGraph;
use fuse_ir::{DType, Tensor};
use fuse_runtime::sim::{Content, Launch, Memory, Module};
use kernel_runs::{LAYOUTS, bare_product, graph, product, rounded};

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

fn function(graph: &KernelGraph, target: ScheduleTarget) -> Function {
    let (kernel, _) = graph.kernels()[0];
    let function = schedule(graph, kernel, target).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let is_tiled = function.shared.iter().any(|array| array.name.starts_with("factor_"));
    assert!(is_tiled, "{graph} is not tiled");
    function
}

/// Holds a kernel to the interpreter at sizes of `M`, `N` and `K`.
fn check_at(graph: &KernelGraph, sizes: &[[i64; 3]]) {
    check_function(graph, &function(graph, ScheduleTarget::gpu()), sizes, &|input| input.clone());
}

/// The same for a function that computes with inputs that are `rounded`.
fn check_function(
    graph: &KernelGraph,
    function: &Function,
    sizes: &[[i64; 3]],
    rounded: &dyn Fn(&Tensor) -> Tensor,
) {
    kernel_runs::check_function(graph, function, Arch::Sm90, sizes, rounded);
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

/// Schedules a kernel for tensor cores; how its factors get to shared memory is told by what Kernel IR has.
fn on_tensor_cores(graph: &KernelGraph, rounding: Rounding, copies: &str) -> Function {
    let target = ScheduleTarget::Gpu { block: 256, limits: GpuLimits::h100(), rounding };
    let function = function(graph, target);
    let text = text::print(&function);
    assert!(text.contains("matrix_fma"), "no products of matrices: {graph}");
    let bytes = |line: &str| Some(line.trim().strip_prefix("copy ")?.split(' ').nth(3)?.to_owned());
    let copied = text.lines().find_map(bytes).unwrap_or_else(|| "none".into());
    assert_eq!(copied, copies, "bytes that are copied at once: {graph}");
    function
}

fn check_matrices(graph: &KernelGraph, copies: &str, sizes: &[[i64; 3]]) {
    check_function(graph, &on_tensor_cores(graph, None, copies), sizes, &|input| input.clone());
}

#[test]
fn matrices_of_every_layout_agree() {
    for dtype in ["f16", "bf16"] {
        for layout in LAYOUTS {
            check_matrices(&product(dtype, layout, ["M", "N", "K"]), "none", &SIZES);
        }
    }
}

#[test]
fn factors_are_copied_where_their_runs_are_aligned() {
    // Eight, four and two elements at a time; steps enough to go round all stages; whole tiles and steps.
    for (sizes, bytes, rows) in [
        (["8*M", "72", "264"], "16", 9),
        (["4*M", "68", "60"], "8", 17),
        (["2*M", "66", "34"], "4", 33),
        (["64*M", "256", "128"], "16", 2),
    ] {
        for layout in LAYOUTS {
            check_matrices(&product("bf16", layout, sizes), bytes, &[[rows, 0, 0], [1, 0, 0]]);
        }
    }
}

#[test]
fn tiles_of_every_size_agree() {
    // Products of 4 by 4, 4 by 2, 2 by 2 and 1 by 1 a warp: the largest of which there are as many as multiprocessors.
    for (rows, columns, tile) in [
        ("40*M", "16*N", [128, 128]),
        ("32*M", "16*N", [128, 64]),
        ("16*M", "16*N", [64, 64]),
        ("8*M", "8*N", [32, 32]),
    ] {
        let graph = product("f16", LAYOUTS[3], [rows, columns, "200"]);
        let function = on_tensor_cores(&graph, None, "16");
        let dims = DimEnv::new().with("M", 64).with("N", 64);
        let side = |text: &str| 64 * text.split('*').next().map_or(0, |n| n.parse().unwrap_or(0));
        let tiles = side(rows) / tile[0] * (side(columns) / tile[1]);
        assert_eq!(function.work.eval_dim(&dims).ok(), Some(tiles), "blocks of {rows} by {columns}");
        check_function(&graph, &function, &[[5, 9, 0]], &|input| input.clone());
    }
}

#[test]
fn gates_of_matrices_share_their_input_and_meet_in_the_cell() {
    for gates in 2..=4 {
        let weights: String =
            (0..gates).map(|g| format!("buffer w{g}: bf16[N, 72] input {}\n", g + 1)).collect();
        let sums: String = (0..gates)
            .map(|g| {
                let k = g + 2;
                format!(
                    "x{g}: bf16 = load x[i0, i{k}]  f{g}: f32 = cast x{g}
                     l{g}: bf16 = load w{g}[i1, i{k}]  h{g}: f32 = cast l{g}  p{g}: f32 = mul f{g}, h{g}
                     s{g}: f32 = sum [i{k} < 72] p{g}  a{g}: f32 = sigmoid s{g}\n"
                )
            })
            .collect();
        let joined = (1..gates).fold(String::new(), |text, g| {
            let before = if g == 1 { "a0".to_string() } else { format!("m{}", g - 1) };
            format!("{text} m{g}: f32 = mul {before}, a{g}\n")
        });
        check_matrices(
            &graph(
                &format!(
                    "buffer x: bf16[M, 72] input 0\n{weights} buffer y: f32[M, N] output 0
                     buffer z: f32[N, M] output 1"
                ),
                &format!(
                    "kernel gates [i0 < M, i1 < N] {{ {sums} {joined}
                       store y[i0, i1] = m{}  store z[i1, i0] = s0 }}",
                    gates - 1
                ),
            ),
            "16",
            &[[130, 67, 0], [1, 1, 0], [64, 64, 0]],
        );
    }
}

#[test]
fn factors_of_matrices_may_be_gathered_computed_and_rounded_by_the_model() {
    // One factor is copied, row by gathered row; the other is rounded because the model says so, and computed.
    let graph = graph(
        "buffer x: bf16[100, 88] input 0 buffer at: i32[M] input 1 buffer w: f32[N, 88] input 2
         buffer y: bf16[M, N] output 0",
        "kernel product [i0 < M, i1 < N] {
           at: i32 = load at[i0]  x: bf16 = load x[@at, i2]  left: f32 = cast x
           w: f32 = load w[i1, i2]  narrow: bf16 = cast w  positive: bf16 = relu narrow  right: f32 = cast positive
           p: f32 = mul left, right  sum: f32 = sum [i2 < 88] p  y: bf16 = cast sum
           store y[i0, i1] = y }",
    );
    let function = on_tensor_cores(&graph, None, "16");
    let as_the_model_rounds = |input: &Tensor| match input.dtype() {
        DType::F32 => rounded(input, MatrixFactors::Bf16),
        _ => input.clone(),
    };
    check_function(&graph, &function, &[[130, 67, 0], [1, 1, 0], [64, 64, 0]], &as_the_model_rounds);
}

#[test]
fn rows_and_batches_of_matrices_may_have_several_axes() {
    check_matrices(
        &graph(
            "buffer x: f16[3, M, 40] input 0 buffer w: f16[40, 6, 8] input 1 buffer y: f32[M, 8, 3, 6] output 0",
            "kernel product [i0 < 3, i1 < M, i2 < 6, i3 < 8] {
               x: f16 = load x[i0, i1, i4]  f: f32 = cast x  w: f16 = load w[i4, i2, i3]  g: f32 = cast w
               p: f32 = mul f, g  sum: f32 = sum [i4 < 40] p
               store y[i1, i3, i0, i2] = sum }",
        ),
        "16",
        &[[50, 0, 0], [1, 0, 0]],
    );
    check_matrices(
        &graph(
            "buffer x: bf16[3, M, K] input 0 buffer w: bf16[3, N, K] input 1 buffer y: f32[3, M, N] output 0",
            "kernel product [i0 < 3, i1 < M, i2 < N] {
               x: bf16 = load x[i0, i1, i3]  f: f32 = cast x  w: bf16 = load w[i0, i2, i3]  g: f32 = cast w
               p: f32 = mul f, g  sum: f32 = sum [i3 < K] p
               store y[i0, i1, i2] = sum }",
        ),
        "none",
        &SIZES,
    );
}

#[test]
fn factors_of_f32_are_rounded_to_what_was_asked_for_and_no_further() {
    for factors in [MatrixFactors::Tf32, MatrixFactors::Bf16, MatrixFactors::F16] {
        for layout in LAYOUTS {
            for (sizes, at) in [
                (["M", "N", "K"], &SIZES[..4]),
                // In vectors; steps enough to go round.
                (["8*M", "72", "136"], &[[9, 0, 0], [1, 0, 0]][..]),
                (["256", "256", "64"], &[[0, 0, 0]][..]),
            ] {
                let graph = bare_product(layout, sizes);
                let function = on_tensor_cores(&graph, Some(factors), "none");
                check_function(&graph, &function, at, &|input| rounded(input, factors));
            }
        }
    }
}

/// Sums that blocks of a cluster divide: of columns whose number is not known, so that sums are not split among threads.
#[test]
fn divided_sums_of_every_layout_agree() {
    const AT: [[i64; 3]; 6] = [[1, 1, 0], [3, 77, 0], [16, 40, 0], [17, 33, 0], [0, 5, 0], [5, 0, 0]];
    let odd = LAYOUTS.map(|layout| (layout, "333", &AT[..]));
    let long = [LAYOUTS[0], LAYOUTS[1]].map(|layout| (layout, "4096", &AT[1..2]));
    for (layout, depth, at) in odd.into_iter().chain(long) {
        let sizes = ["M", "N", depth];
        let multiply_add = (product("f32", layout, sizes), None, false);
        let narrow = ["bf16", "f16"].map(|dtype| (product(dtype, layout, sizes), None, true));
        let rounded_to = (bare_product(layout, sizes), Some(MatrixFactors::Tf32), true);
        for (graph, rounding, is_on_tensor_cores) in narrow.into_iter().chain([multiply_add, rounded_to]) {
            let target = ScheduleTarget::Gpu { block: 256, limits: GpuLimits::h100(), rounding };
            let function = function(&graph, target);
            assert!(function.mapping.cluster_blocks().is_some_and(|n| n > 1), "{graph} is not divided");
            assert_eq!(text::print(&function).contains("matrix_fma"), is_on_tensor_cores, "{graph}");
            let seen = |input: &Tensor| match rounding {
                Some(factors) => rounded(input, factors),
                None => input.clone(),
            };
            check_function(&graph, &function, at, &seen);
        }
    }
}

#[test]
fn nothing_is_rounded_that_would_lose_more_than_was_asked_for() {
    let graph = |left: &str, right: &str| {
        graph(
            &format!(
                "buffer x: {left}[M, K] input 0 buffer w: {right}[N, K] input 1 buffer y: f32[M, N] output 0"
            ),
            "kernel product [i0 < M, i1 < N] {
               x: LEFT = load x[i0, i2]  f: f32 = cast x  w: RIGHT = load w[i1, i2]  g: f32 = cast w
               p: f32 = mul f, g  sum: f32 = sum [i2 < K] p  store y[i0, i1] = sum }"
                .replace("LEFT", left)
                .replace("RIGHT", right)
                .as_str(),
        )
    };
    let is_on_tensor_cores = |left: &str, right: &str, rounding: Rounding| {
        let graph = graph(left, right);
        let target = ScheduleTarget::Gpu { block: 256, limits: GpuLimits::h100(), rounding };
        text::print(&function(&graph, target)).contains("matrix_fma")
    };
    assert!(!is_on_tensor_cores("f16", "bf16", None));
    assert!(!is_on_tensor_cores("f16", "bf16", Some(MatrixFactors::Bf16)));
    assert!(!is_on_tensor_cores("bf16", "f16", Some(MatrixFactors::F16)));
    // Both are tf32 as they are.
    assert!(is_on_tensor_cores("f16", "bf16", Some(MatrixFactors::Tf32)));
    check_function(
        &graph("f16", "bf16"),
        &on_tensor_cores(&graph("f16", "bf16"), Some(MatrixFactors::Tf32), "none"),
        &SIZES,
        &|input| input.clone(),
    );
    assert!(is_on_tensor_cores("f16", "f16", Some(MatrixFactors::Bf16)), "f16 stays f16");
}

/// What tiles do not have: factors and sums of other origin, one and two elements at a time, positions that are used twice.
const STRAIGHT: &str = "function sums blocks 32 {
  read p0 \"x\": f32 = b0 multiple 16
  write p1 \"y\": f32 = b1
  shared s0 \"left\": f32 x 160
  shared s1 \"right\": f32 x 160
  work 1
  v0: i64 = thread
  v1: i64 = constant 4
  v2: i64 = mul v0, v1
  v3: f32x4 = load p0[v2]
  store s0[v2] = v3
  v4: i64 = constant 7
  v5: i64 = add v2, v4
  v6: f32 = load p0[v5]
  store s1[v2] = v3
  v7: i64 = constant 128
  v8: i64 = add v0, v7
  store s0[v8] = v6
  store s1[v8] = v6
  barrier
  v9: i64 = constant 0
  v10: i64 = constant 3
  v11: i64 = constant 1
  v12: f32 = constant 0.5
  for v13 = v9 to v10 step 1 carry (v14: f32 = v6 next NEXT0 result v15, v16: f32 = v12 next NEXT1 result v17) {
    v18: i64 = add v2, v13
    v19: i64 = add v18, v11
    v20: f32 = load s0[v18]
    v21: f32 = load s0[v19]
    v22: i64 = and v2, v7
    v23: f32x2 = load s1[v22]
    v24: f32 = extract v23, 1
    v25: i64 = add v22, v1
    v26: f32x4 = load s1[v25]
    v27: f32 = extract v26, 2
FMAS
  }
  v28: i64 = add v0, v0
  store p1[v28] = v15
  v29: i64 = add v28, v11
  store p1[v29] = v17
}
";

#[test]
fn straight_code_computes_what_kernel_ir_says() {
    // Two sums in turn; each product of two of what there is.
    let factors = [20, 21, 24, 27, 6];
    let mut last = [14, 16];
    let mut products = String::new();
    for number in 30..130 {
        let [x, y] = [factors[number % 5], factors[number / 5 % 5]];
        let sum = &mut last[number % 2];
        products += &format!("    v{number}: f32 = fma v{x}, v{y}, v{sum}\n");
        *sum = number;
    }
    let next = |text: String| {
        text.replace("NEXT0", &format!("v{}", last[0])).replace("NEXT1", &format!("v{}", last[1]))
    };
    let text = next(STRAIGHT.replace("FMAS\n", &products));
    let first = "    v18: i64 = add v2, v13\n";
    let use_sum = "    store s0[v8] = v14\n";
    // Sums that stay in registers of their own.
    computes_what_kernel_ir_says(&text, &["fma.rn.f32 \tsum1", ", a0, b"]);
    // Those that somebody else uses in the loop, before what is loaded, and behind it, so that all is given.
    let before = text.replace(first, &format!("{use_sum}{first}"));
    computes_what_kernel_ir_says(&before, &["fma.rn.f32 \t%r", ", a0, b"]);
    let behind = text.replace("    v30: f32 =", &format!("{use_sum}    v30: f32 ="));
    computes_what_kernel_ir_says(&behind, &["fma.rn.f32 \t%r"]);
}

/// Runs a function on the simulated GPU, whose code has all of this in it.
fn computes_what_kernel_ir_says(text: &str, parts: &[&str]) {
    let function = text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify::verify(&function).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let input: Vec<u8> = (0..160).flat_map(|i: u8| (f32::from(i % 13) / 16.0 - 0.4).to_le_bytes()).collect();

    let mut buffers = [input.clone(), vec![0; 64 * 4]];
    evaluate_all(&function, &mut buffers, &DimEnv::new()).expect("evaluates");

    let code = ptx(&[function], &PtxOptions::new(Arch::Sm80)).expect("PTX");
    assert!(parts.iter().all(|part| code.contains(part)), "{code}");
    let mut memory = Memory::new();
    let x = memory.allocate_with("x", &input, 16, Content::Constant);
    let y = memory.allocate("y", 64 * 4, 16, Content::Unwritten);
    let launch = Launch {
        kernel: "sums",
        grid: [1, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 2 * 160 * 4,
        arguments: &[x, y],
        threads: 1,
        cooperative: false,
        clusters: None,
    };
    let module = Module::parse(&code).unwrap_or_else(|e| panic!("{e}\n{code}"));
    module.launch(&memory, &launch).unwrap_or_else(|e| panic!("{e}"));
    let mut got = vec![0; 64 * 4];
    memory.read(y, &mut got);
    assert_eq!(got, buffers[1]);
}
