//! Loops over time by clusters of blocks whose products are on tensor cores, on the simulated GPU: every cell at odd sizes,
//! each element as far from the interpreter's at most as running error analysis estimates. The simulator reports races,
//! accesses out of bounds, reads of what nobody wrote, and blocks that end too early.
#![cfg(feature = "llvm")]

use fuse::codegen::schedule::LoopForm;
use fuse::frontend::zoo::cells::{
    Gru, LayerNormLstm, Lstm, MultiplicativeLstm, PeepholeLstm, StabilisedLstm,
};
use fuse::frontend::zoo::{Cell, StackForm, stack_of};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::ir::{DType, Graph};
use fuse::{CompileOptions, Compiled, Device, DimEnv, ProductPrecision, Target};

fn cell<const N: usize, C: Cell<N>>(input: i64, hidden: i64) -> Graph {
    stack_of::<N, C>(C::NAME, input, hidden, StackForm::ONE_LAYER).expect("traces")
}

fn compiled(graph: &Graph, precision: ProductPrecision, loops: LoopForm) -> Compiled {
    let options = CompileOptions { precision, loops, ..CompileOptions::new(Target::Cuda) };
    fuse::compile(graph, &options).expect("compiles")
}

/// The graph with every f32 of another type.
fn of_type(graph: &Graph, dtype: DType) -> Graph {
    fuse::ir::parse(&graph.to_string().replace("f32", dtype.name())).expect("parses")
}

/// The loops by clusters with products on tensor cores.
fn clusters_of_matrices(compiled: &Compiled) -> usize {
    let functions = compiled.functions().expect("schedules").iter();
    functions.filter(|f| f.mapping.cluster_blocks().is_some() && f.multiplies_matrices()).count()
}

/// Runs on the simulated GPU at so many steps and rows.
fn agrees(compiled: &Compiled, precision: ProductPrecision, sizes: &[(i64, i64)]) {
    let graph = &compiled.graph;
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    let mut executable = compiled.load(&device).expect("loads");
    for (steps, rows) in sizes {
        let name = format!("{} with factors of {precision}, {steps} steps of {rows} rows", graph.name());
        let dims = DimEnv::new().with("T", *steps).with("B", *rows);
        let values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let expected = interpreter.run_with_errors(graph, &values, precision.factor_rounding());
        executable.bind(parameters).expect("binds");
        let outputs = executable.run(&inputs, &dims).unwrap_or_else(|e| panic!("{name}: {e}"));
        for ((output, got), expected) in
            graph.outputs().iter().zip(&outputs).zip(expected.expect("interprets"))
        {
            if let Err(e) = expected.compare(got) {
                panic!("{name}, `{}`: {e}", output.name);
            }
        }
    }
}

/// In every precision.
fn runs_in_every_precision(graph: &Graph, sizes: &[(i64, i64)]) {
    use ProductPrecision::{Bf16, F16, Tf32};
    [Bf16, F16, Tf32].into_iter().for_each(|precision| runs_on_tensor_cores(graph, precision, sizes));
}

/// In every precision and wholly in 16 bits.
fn runs_in_every_type(graph: &Graph, sizes: &[(i64, i64)]) {
    runs_in_every_precision(graph, sizes);
    for dtype in [DType::Bf16, DType::F16] {
        runs_on_tensor_cores(&of_type(graph, dtype), ProductPrecision::F32, sizes);
    }
}

fn runs_on_tensor_cores(graph: &Graph, precision: ProductPrecision, sizes: &[(i64, i64)]) {
    let compiled = compiled(graph, precision, LoopForm::Clusters);
    assert_eq!(clusters_of_matrices(&compiled), 1, "{} with factors of {precision}", graph.name());
    agrees(&compiled, precision, sizes);
}

#[test]
fn an_lstm_of_no_whole_products_agrees() {
    runs_in_every_type(&cell::<2, Lstm>(7, 36), &[(0, 2), (1, 1), (2, 0), (3, 3), (2, 17), (3, 40)]);
}

#[test]
fn products_behind_a_reset_agree() {
    runs_in_every_type(&cell::<1, Gru>(5, 80), &[(1, 1), (3, 16), (2, 17)]);
}

/// Wholly in 16 bits, what it multiplies is no vector.
#[test]
fn peepholes_agree() {
    runs_in_every_precision(&cell::<2, PeepholeLstm>(3, 48), &[(2, 3), (3, 17)]);
}

#[test]
fn multiplied_inputs_agree() {
    runs_in_every_type(&cell::<2, MultiplicativeLstm>(3, 28), &[(2, 1), (3, 17)]);
}

#[test]
fn four_states_agree() {
    runs_in_every_type(&cell::<4, StabilisedLstm>(3, 20), &[(2, 3), (2, 17)]);
}

#[test]
fn normalised_rows_agree() {
    runs_in_every_type(&cell::<2, LayerNormLstm>(9, 48), &[(2, 3), (3, 17)]);
}

/// As many columns a block as a warp has lanes, also where sums are no whole products; and more, up to as many as leave room
/// for the sums of half as many warps as would be best.
#[test]
fn large_cells_agree() {
    use ProductPrecision::{Bf16, Tf32};
    for (hidden, precision) in [(252, Bf16), (256, Tf32), (352, Bf16), (384, Bf16)] {
        let compiled = compiled(&cell::<2, Lstm>(4, hidden), precision, LoopForm::Clusters);
        assert_eq!(clusters_of_matrices(&compiled), 1, "{hidden} with factors of {precision}");
        agrees(&compiled, precision, &[(2, 17)]);
    }
}

/// Weights beyond the shared memory of eight blocks, rows that are no whole vectors, and loops that are to be of other forms.
#[test]
fn other_loops_meet_in_memory() {
    let large = cell::<2, Lstm>(4, 512);
    assert_eq!(clusters_of_matrices(&compiled(&large, ProductPrecision::Bf16, LoopForm::Clusters)), 0);
    // Rows that are no whole vectors.
    for hidden in [33, 250] {
        let odd = cell::<2, Lstm>(4, hidden);
        assert_eq!(clusters_of_matrices(&compiled(&odd, ProductPrecision::Bf16, LoopForm::Clusters)), 0);
    }
    let small = cell::<2, Lstm>(4, 64);
    for loops in [LoopForm::Grid, LoopForm::Steps] {
        assert_eq!(clusters_of_matrices(&compiled(&small, ProductPrecision::Bf16, loops)), 0, "{loops:?}");
    }
}

/// `ptxas` keeps everything in registers.
#[test]
fn they_stay_in_registers() {
    use fuse::codegen::llvm::ptxas::Ptxas;
    use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
    let Some(ptxas) = Ptxas::find() else {
        println!("SKIPPED they_stay_in_registers: no ptxas");
        return;
    };
    for graph in [
        cell::<2, Lstm>(4, 256),
        cell::<2, Lstm>(4, 252),
        cell::<2, Lstm>(4, 352),
        cell::<2, Lstm>(4, 384),
        cell::<1, Gru>(4, 256),
        cell::<2, LayerNormLstm>(4, 128),
    ] {
        for precision in [ProductPrecision::Bf16, ProductPrecision::Tf32] {
            let compiled = compiled(&graph, precision, LoopForm::Clusters);
            let functions = compiled.functions().expect("schedules");
            let text = ptx::ptx(functions, &PtxOptions::new(Arch::Sm90)).expect("emits");
            for kernel in ptxas.assemble(&text, Arch::Sm90).unwrap_or_else(|e| panic!("{text}: {e}")) {
                let name = format!("{} with factors of {precision}", graph.name());
                println!("{name}: {} registers", kernel.registers);
                assert_eq!(kernel.spill_stores + kernel.spill_loads, 0, "{name}");
            }
        }
    }
}
