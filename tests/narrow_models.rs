//! The benchmark's cells and models on the simulated GPU in every type and at odd sizes: in strict f32, with rounded
//! factors of products, and with every tensor in bf16 or f16; for GPUs of three generations. The simulator reports races,
//! accesses out of bounds and reads of what nobody wrote. Each element of a result may be as far from the interpreter's as
//! running error analysis estimates ([`fuse::ir::interp::Estimate`]).
#![cfg(feature = "llvm")]

use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
use fuse::codegen::schedule::GpuLimits;
use fuse::frontend::zoo::cells::{
    Gru, LayerNormLstm, Lstm, MinGru, MultiplicativeLstm, Nas, NasRnn, PeepholeLstm, Sru, StabilisedLstm,
    TanhRnn,
};
use fuse::frontend::zoo::{Cell, Scale, StackForm, benchmark, stack_of};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::ir::{DType, Graph};
use fuse::runtime::{Code, Executable};
use fuse::{CompileOptions, Device, DimEnv, ProductPrecision, Target};

/// The generations: without tensor cores that it uses, with them, and with clusters.
const ARCHS: [Arch; 3] = [Arch::Sm75, Arch::Sm80, Arch::Sm90];

/// How the numbers of a model are rounded.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    /// All of f32; factors of products rounded.
    F32(ProductPrecision),
    /// Every tensor of that type.
    Of(DType),
}

const NUMBERS: [Numbers; 5] = [
    Numbers::F32(ProductPrecision::F32),
    Numbers::F32(ProductPrecision::Tf32),
    Numbers::F32(ProductPrecision::Bf16),
    Numbers::Of(DType::Bf16),
    Numbers::Of(DType::F16),
];

/// The graph with every f32 of another type.
fn of_type(graph: &Graph, dtype: DType) -> Graph {
    let text = graph.to_string().replace("f32", dtype.name());
    fuse::ir::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

/// So many steps and rows.
fn dims(graph: &Graph, steps: i64, rows: i64) -> DimEnv {
    graph.symbols().into_iter().fold(DimEnv::new(), |dims, symbol| {
        let value = if symbol.name() == "B" { rows } else { steps };
        dims.with(symbol.name(), value)
    })
}

/// Runs the model on a simulated GPU of a generation and compares every element with the interpreter's.
fn agrees(graph: &Graph, numbers: Numbers, arch: Arch, sizes: &[(i64, i64)]) {
    agrees_on(graph, numbers, (arch, GpuLimits::of_capability(arch.capability())), sizes);
}

fn agrees_on(graph: &Graph, numbers: Numbers, (arch, limits): (Arch, GpuLimits), sizes: &[(i64, i64)]) {
    let (graph, precision) = match numbers {
        Numbers::F32(precision) => (graph.clone(), precision),
        Numbers::Of(dtype) => (of_type(graph, dtype), ProductPrecision::F32),
    };
    let options = CompileOptions { precision, gpu: limits, ..CompileOptions::new(Target::Cuda) };
    let compiled = fuse::compile(&graph, &options).expect("compiles");
    let functions = compiled.functions().expect("schedules");
    let code = Code::Ptx(vec![ptx::ptx(functions, &PtxOptions::new(arch)).expect("PTX")]);
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    let mut executable =
        Executable::new(&graph, compiled.kernels.clone(), functions, code, &device).expect("fits");
    for (steps, rows) in sizes {
        let name = format!("{} of {numbers:?} for {arch}, {steps} steps of {rows} rows", graph.name());
        let dims = dims(&graph, *steps, *rows);
        let values = fuse::random::values_for(&graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(&graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let expected = interpreter.run_with_errors(&graph, &values, precision.factor_rounding());
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

fn cell<const N: usize, C: Cell<N>>(input: i64, hidden: i64) -> Graph {
    stack_of::<N, C>(C::NAME, input, hidden, StackForm::ONE_LAYER).expect("traces")
}

/// All cells of the benchmark.
fn cells(input: i64, hidden: i64) -> Vec<Graph> {
    vec![
        cell::<2, Lstm>(input, hidden),
        cell::<1, Gru>(input, hidden),
        cell::<1, TanhRnn>(input, hidden),
        cell::<2, LayerNormLstm>(input, hidden),
        cell::<2, MultiplicativeLstm>(input, hidden),
        cell::<4, StabilisedLstm>(input, hidden),
        // It has as many inputs as units.
        cell::<1, Sru>(hidden, hidden),
        cell::<1, MinGru>(input, hidden),
        cell::<2, Nas>(input, hidden),
        cell::<1, NasRnn>(input, hidden),
        cell::<2, PeepholeLstm>(input, hidden),
    ]
}

/// Every cell in every kind of numbers and for every generation, at sizes that change from one to the next.
#[test]
fn cells_of_odd_sizes_agree_in_every_type() {
    let sizes = [(5, 17), (48, 33), (7, 48), (16, 80)];
    let rounds: Vec<Vec<Graph>> = sizes.map(|(input, hidden)| cells(input, hidden)).into_iter().collect();
    for number in 0..rounds[0].len() {
        for (i, numbers) in NUMBERS.into_iter().enumerate() {
            let graph = &rounds[(number + i) % rounds.len()][number];
            let steps_and_rows = [(3, 5), (1, 1), (6, 3)][(number + 2 * i) % 3];
            agrees(graph, numbers, ARCHS[(number + i / 2) % ARCHS.len()], &[steps_and_rows]);
        }
    }
}

/// More rows than a turn of a step has, and than all of them: the last turn and the last row of threads are partly there. Blocks
/// that have from one column to sixteen, of which a thread takes four.
#[test]
fn turns_of_rows_agree_in_every_type() {
    const ROWS: [(i64, i64); 5] = [(2, 17), (2, 33), (1, 64), (1, 65), (2, 70)];
    let limits = GpuLimits::of_capability(Arch::Sm80.capability());
    for (i, numbers) in NUMBERS.into_iter().enumerate() {
        for (j, multiprocessors) in [limits.multiprocessors, 20, 9].into_iter().enumerate() {
            let on = (Arch::Sm80, GpuLimits { multiprocessors, ..limits });
            let graph = match (i + j) % 3 {
                0 => cell::<2, Lstm>(7, 33),
                1 => cell::<1, Gru>(5, 48),
                _ => cell::<2, PeepholeLstm>(3, 40),
            };
            agrees_on(&graph, numbers, on, &[ROWS[(i + j) % 5], ROWS[(i + j + 2) % 5], (2, 70)]);
            agrees_on(&cell::<2, LayerNormLstm>(9, 70), numbers, on, &[(2, 3), ROWS[(2 * i + j) % 5]]);
        }
    }
}

/// The other models: stacks, both directions, lengths, unrolled steps, words, attention.
#[test]
fn models_scaled_down_agree_in_16_bits() {
    let cells =
        ["bilstm", "lstm_2layer", "lstm_varlen", "nas_unrolled5", "pointwise", "ptb_lm", "seq2seq_attn"];
    let models = benchmark(Scale::Small).expect("traces");
    for (i, model) in models.iter().filter(|m| cells.contains(&m.graph.name())).enumerate() {
        for (j, dtype) in [DType::Bf16, DType::F16].into_iter().enumerate() {
            agrees(&model.graph, Numbers::Of(dtype), ARCHS[(i + j) % ARCHS.len()], &[(3, 5)]);
        }
    }
}

/// Everything with everything; for `make soak`.
#[test]
#[ignore = "takes minutes; make soak runs it"]
fn every_cell_agrees_at_every_odd_size_in_every_type() {
    for (input, hidden) in [(5, 17), (48, 33), (33, 48), (7, 80), (80, 16)] {
        for graph in cells(input, hidden) {
            for (numbers, arch) in NUMBERS.into_iter().flat_map(|n| ARCHS.map(|arch| (n, arch))) {
                agrees(&graph, numbers, arch, &[(1, 1), (1, 5), (3, 3), (6, 1), (6, 5)]);
            }
        }
    }
    for model in benchmark(Scale::Small).expect("traces") {
        for (numbers, arch) in NUMBERS.into_iter().flat_map(|n| ARCHS.map(|arch| (n, arch))) {
            agrees(&model.graph, numbers, arch, &[(1, 1), (6, 5)]);
        }
    }
}
