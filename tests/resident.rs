//! Loops over time as one launch of a GPU, on the simulated one: every cell at odd sizes against the interpreter. The
//! simulator reports races, accesses out of bounds and reads of what nobody wrote.
#![cfg(feature = "llvm")]

use fuse::codegen::kernel_ir::{Function, Mapping};
use fuse::frontend::zoo::cells::{
    Gru, LayerNormLstm, Lstm, MultiplicativeLstm, Nas, PeepholeLstm, StabilisedLstm,
};
use fuse::frontend::zoo::{Cell, StackForm, stack_of};
use fuse::ir::Graph;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::{CompileOptions, Compiled, Device, DimEnv, Target};

const TOLERANCE: Tolerance = Tolerance { ulp: 0.0, absolute: 2e-5, relative: 2e-4 };

fn compiled(graph: &Graph) -> Compiled {
    fuse::compile(graph, &CompileOptions::new(Target::Cuda)).expect("compiles")
}

/// Runs on the simulated GPU at each of the dimensions.
fn agrees(graph: &Graph, compiled: &Compiled, sizes: &[(i64, i64)]) {
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
            if let Err(e) = compare(got, expected, TOLERANCE) {
                panic!("{} `{}` at {steps} steps of {rows} rows: {e}", graph.name(), output.name);
            }
        }
    }
}

fn residents(compiled: &Compiled) -> Vec<&Function> {
    let is_resident = |f: &&Function| matches!(f.mapping, Mapping::Resident { .. });
    compiled.functions.iter().filter(is_resident).collect()
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
