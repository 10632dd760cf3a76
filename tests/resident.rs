//! Loops over time as one launch of a GPU whose blocks meet in memory, on the simulated one: every cell at odd sizes against the interpreter. The
//! simulator reports races, accesses out of bounds and reads of what nobody wrote.
#![cfg(feature = "llvm")]

use fuse::codegen::kernel_ir::{Function, Mapping};
use fuse::codegen::schedule::LoopForm;
use fuse::frontend::zoo::cells::{
    Gru, LayerNormLstm, Lstm, MultiplicativeLstm, Nas, PeepholeLstm, StabilisedLstm,
};
use fuse::frontend::zoo::{Cell, StackForm, stack_of};
use fuse::ir::Graph;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::{CompileOptions, Compiled, Device, DimEnv, ProductPrecision, Target};

const TOLERANCE: Tolerance = Tolerance { ulp: 0.0, absolute: 2e-5, relative: 2e-4 };

fn compiled(graph: &Graph) -> Compiled {
    fuse::compile(graph, &options(ProductPrecision::F32)).expect("compiles")
}

/// Blocks meet in memory.
fn options(precision: ProductPrecision) -> CompileOptions {
    CompileOptions { precision, loops: LoopForm::Grid, ..CompileOptions::new(Target::Cuda) }
}

/// Runs on the simulated GPU at each of the dimensions.
fn agrees(graph: &Graph, compiled: &Compiled, sizes: &[(i64, i64)]) {
    agrees_within(TOLERANCE, graph, compiled, sizes);
}

fn agrees_within(tolerance: Tolerance, graph: &Graph, compiled: &Compiled, sizes: &[(i64, i64)]) {
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    for (steps, rows) in sizes {
        let dims = DimEnv::new().with("T", *steps).with("B", *rows);
        let values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let expected = interpreter.run(graph, &values).expect("interprets");
        let mut executable = compiled.load(&device).expect("loads");
        executable.bind(parameters).expect("binds");
        let outputs = executable.run(&inputs, &dims).unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
        for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected) {
            if let Err(e) = compare(got, expected, tolerance) {
                panic!("{} `{}` at {steps} steps of {rows} rows: {e}", graph.name(), output.name);
            }
        }
    }
}

fn residents(compiled: &Compiled) -> Vec<&Function> {
    let is_resident = |f: &&Function| matches!(f.mapping, Mapping::Resident { .. });
    compiled.functions().expect("schedules").iter().filter(is_resident).collect()
}

fn cell<const N: usize, C: Cell<N>>(name: &str, input: i64, hidden: i64) -> Graph {
    stack_of::<N, C>(name, input, hidden, StackForm::ONE_LAYER).expect("traces")
}

/// One launch for all steps.
fn is_one_launch(graph: &Graph) {
    let compiled = compiled(graph);
    assert_eq!(residents(&compiled).len(), 1, "{}", graph.name());
    agrees(graph, &compiled, &[(0, 2), (1, 1), (2, 0), (3, 5), (2, 19)]);
}

#[test]
fn cells_of_odd_sizes_are_one_launch_that_agrees_with_the_interpreter() {
    is_one_launch(&cell::<2, Lstm>("lstm", 7, 33));
    is_one_launch(&cell::<1, Gru>("gru", 5, 80));
    is_one_launch(&cell::<2, PeepholeLstm>("peephole", 3, 21));
    is_one_launch(&cell::<2, MultiplicativeLstm>("milstm", 3, 48));
    is_one_launch(&cell::<4, StabilisedLstm>("slstm", 3, 18));
    is_one_launch(&cell::<2, Nas>("nas", 16, 16));
    is_one_launch(&cell::<2, LayerNormLstm>("lnlstm", 9, 70));
}

/// Five columns a block, which are no power of two; the last block has fewer.
#[test]
fn hidden_units_are_spread_over_as_many_blocks_as_there_are() {
    is_one_launch(&cell::<2, Lstm>("lstm", 4, 333));
    let graph = cell::<2, Lstm>("lstm", 4, 597);
    agrees(&graph, &compiled(&graph), &[(2, 3)]);
}

/// The weights of the step lie in shared memory where they fit, and are read from the device's where they do not.
#[test]
fn weights_stay_in_shared_memory_where_they_fit() {
    let shared = |hidden| {
        let graph = cell::<2, Lstm>("lstm", 4, hidden);
        residents(&compiled(&graph)).first().map_or(0, |f| f.shared_bytes())
    };
    // Four gates of 4 or 8 columns of 512 or 1024 weights of 4 bytes.
    assert!(shared(512) > 4 * 4 * 512 * 4, "{}", shared(512));
    assert!(shared(1024) > 4 * 8 * 1024 * 4, "{}", shared(1024));
    assert!((1..4 * 32 * 4096 * 4).contains(&shared(4096)), "{}", shared(4096));
}

/// Blocks take several rows each, one after the other, where nobody expected so many; where more than two rows a block were
/// expected, warps have a row each.
#[test]
fn statistics_of_rows_in_a_loop_are_computed_by_blocks_or_by_warps() {
    let text = |rows: &str, row_axes: &str, column: usize| {
        format!(
            "graph g(x: f32[T, {rows}, 96], h: f32[{rows}, 96]) {{
  %h = scan over T carry (h = h) each (x = x) {{
    %s = add x, h
    %m = max %s axes=[{column}]
    %mb = broadcast %m axes=[{row_axes}] : f32[{rows}, 96]
    %n = sub %s, %mb
    next h = %n
  }}
  return h = %h
}}"
        )
    };
    let by_blocks = (text("B", "0", 1), 16, &[(3, 5), (2, 300)][..]);
    let by_warps = (text("B, 24", "0, 1", 2), 0, &[(3, 5), (2, 100)][..]);
    for (text, shared_elements, sizes) in [by_blocks, by_warps] {
        let graph = fuse::ir::parse(&text).expect("parses");
        let compiled = compiled(&graph);
        let functions = residents(&compiled);
        let of_warps =
            functions.iter().flat_map(|f| &f.shared).filter(|array| array.name.starts_with("warps"));
        let elements: u32 = of_warps.map(|array| array.elements).sum();
        assert_eq!((functions.len(), elements), (1, shared_elements), "{text}");
        agrees(&graph, &compiled, sizes);
    }
}

/// States that only their own points read are on chip for as many rows as there are places, and in memory behind these: for
/// sums split among threads, rows of blocks, and points of threads; at one step, two, and an odd number of these.
#[test]
fn states_agree_on_chip_and_behind_the_last_place() {
    let points = fuse::ir::parse(
        "graph points(x: f32[T, B, 4096], h: f32[B, 4096]) {
  %h = scan over T carry (h = h) each (x = x) {
    %s = add x, h
    %n = tanh %s
    next h = %n
  }
  return h = %h
}",
    );
    let graphs = [
        (cell::<2, Lstm>("lstm", 3, 20), &[(1, 2), (2, 5), (3, 300)][..]),
        (cell::<1, Gru>("gru", 3, 20), &[(1, 2), (2, 5), (3, 300)]),
        (cell::<2, LayerNormLstm>("lnlstm", 3, 70), &[(1, 2), (2, 3), (3, 270)]),
        (cell::<2, LayerNormLstm>("lnlstm", 3, 512), &[(2, 3)]),
        (points.expect("parses"), &[(1, 1), (3, 70)]),
    ];
    for (graph, sizes) in graphs {
        let compiled = compiled(&graph);
        let functions = residents(&compiled);
        let is_own = |name: &str| name.ends_with(".own");
        assert!(
            functions.iter().flat_map(|f| &f.shared).any(|array| is_own(&array.name)),
            "{}",
            graph.name()
        );
        agrees(&graph, &compiled, sizes);
    }
}

/// Whether tensor cores multiply in a loop.
fn multiplies_matrices(compiled: &Compiled) -> bool {
    residents(compiled).iter().any(|f| f.multiplies_matrices())
}

/// So few steps leave of rounding what some sums of products of numbers near 1 do.
fn near(absolute: f64) -> Tolerance {
    Tolerance { ulp: 0.0, absolute, relative: 0.0 }
}

#[test]
fn cells_on_tensor_cores_agree_within_what_is_rounded() {
    // One column a block and three, summed axes that are no whole products or no whole turns of the warps, shared states.
    let cells = [
        cell::<2, Lstm>("lstm", 7, 33),
        cell::<1, Gru>("gru", 5, 80),
        cell::<2, MultiplicativeLstm>("milstm", 3, 48),
        cell::<2, Lstm>("lstm", 4, 333),
    ];
    for graph in &cells {
        for (precision, absolute) in
            [(ProductPrecision::Tf32, 4e-3), (ProductPrecision::F16, 4e-3), (ProductPrecision::Bf16, 3e-2)]
        {
            let compiled = fuse::compile(graph, &options(precision)).expect("compiles");
            assert!(multiplies_matrices(&compiled), "{} with factors of {precision}", graph.name());
            agrees_within(near(absolute), graph, &compiled, &[(0, 2), (1, 1), (2, 0), (3, 5), (2, 19)]);
        }
        assert!(!multiplies_matrices(&compiled(graph)), "{} is f32", graph.name());
    }
}

#[test]
fn states_of_16_bits_are_multiplied_on_tensor_cores() {
    for dtype in ["f16", "bf16"] {
        let text = format!(
            "graph g(h: {dtype}[B, 272], param r: {dtype}[272, 272]) {{
  %last, %y = scan over T carry (h = h) with (r = r) {{
    %p = contract h, r axes=[1:0]
    %n = tanh %p
    next h = %n
    stack y = %n
  }}
  return y = %y, last = %last
}}
"
        );
        let graph = fuse::ir::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let compiled = compiled(&graph);
        assert!(multiplies_matrices(&compiled), "{}", compiled.kernels);
        agrees_within(near(3e-2), &graph, &compiled, &[(0, 2), (1, 1), (3, 5), (2, 19)]);
    }
}

#[test]
fn loops_on_tensor_cores_stay_in_registers() {
    use fuse::codegen::llvm::ptxas::Ptxas;
    use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
    use fuse::codegen::schedule::GpuLimits;
    let ptxas = Ptxas::find();
    if ptxas.is_none() {
        println!("SKIPPED: no ptxas; PTX was emitted and not assembled");
    }
    let graph = cell::<2, Lstm>("lstm", 16, 512);
    for precision in [ProductPrecision::Tf32, ProductPrecision::F16, ProductPrecision::Bf16] {
        let compiled = fuse::compile(&graph, &options(precision)).expect("compiles");
        for arch in [Arch::Sm80, Arch::Sm90, Arch::Sm120] {
            let limits = GpuLimits::of_capability(arch.capability());
            let functions = compiled.functions_for(limits).expect("schedules");
            let is_loop = |f: &&Function| matches!(f.mapping, Mapping::Resident { .. });
            let steps: Vec<Function> = functions.iter().filter(is_loop).cloned().collect();
            let text = ptx::ptx(&steps, &PtxOptions::new(arch)).expect("PTX");
            assert!(text.contains("mma.sync"), "{precision} for {arch}");
            for kernel in ptxas.iter().flat_map(|ptxas| ptxas.assemble(&text, arch).expect("assembles")) {
                assert_eq!(kernel.spill_stores + kernel.spill_loads, 0, "{precision} for {arch}: {kernel:?}");
            }
        }
    }
}
