//! Loops over time by clusters of blocks, on the simulated GPU: every cell at odd sizes against the interpreter. The
//! simulator reports races, accesses out of bounds, reads of what nobody wrote, and blocks that end too early.
#![cfg(feature = "llvm")]

use fuse::codegen::kernel_ir::{Function, Mapping};
use fuse::codegen::schedule::{GpuLimits, LoopForm};
use fuse::frontend::zoo::cells::{
    Gru, LayerNormLstm, Lstm, MultiplicativeLstm, PeepholeLstm, StabilisedLstm,
};
use fuse::frontend::zoo::{Cell, StackForm, stack_of};
use fuse::ir::Graph;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::{CompileOptions, Compiled, Device, DimEnv, Target};

const TOLERANCE: Tolerance = Tolerance { ulp: 0.0, absolute: 2e-5, relative: 2e-4 };

fn compiled(graph: &Graph, loops: LoopForm) -> Compiled {
    let options = CompileOptions { loops, ..CompileOptions::new(Target::Cuda) };
    fuse::compile(graph, &options).expect("compiles")
}

/// Runs on the simulated GPU at each of the dimensions.
fn agrees(graph: &Graph, compiled: &Compiled, device: &Device, sizes: &[(i64, i64)]) {
    for (steps, rows) in sizes {
        let dims = DimEnv::new().with("T", *steps).with("B", *rows);
        let values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let expected = interpreter.run(graph, &values).expect("interprets");
        let mut executable = compiled.load(device).expect("loads");
        executable.bind(parameters).expect("binds");
        let outputs = executable.run(&inputs, &dims).unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
        for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected) {
            if let Err(e) = compare(got, expected, TOLERANCE) {
                panic!("{} `{}` at {steps} steps of {rows} rows: {e}", graph.name(), output.name);
            }
        }
    }
}

fn device() -> Device {
    Device::sim(&Default::default()).expect("a simulated GPU is always there")
}

fn clustered(compiled: &Compiled) -> Vec<&Function> {
    compiled.functions().expect("schedules").iter().filter(|f| f.mapping.cluster_blocks().is_some()).collect()
}

fn cell<const N: usize, C: Cell<N>>(name: &str, input: i64, hidden: i64) -> Graph {
    stack_of::<N, C>(name, input, hidden, StackForm::ONE_LAYER).expect("traces")
}

/// One launch of clusters for all steps.
fn runs_in_clusters(graph: &Graph) {
    let compiled = compiled(graph, LoopForm::Clusters);
    assert_eq!(clustered(&compiled).len(), 1, "{}", graph.name());
    let device = device();
    agrees(graph, &compiled, &device, &[(0, 2), (1, 1), (2, 0), (3, 5), (2, 19), (4, 16)]);
    let exchanged =
        device.counters().expect("it is simulated").values().map(|c| c.distributed_bytes).sum::<u64>();
    assert!(exchanged > 0, "{}", graph.name());
}

#[test]
fn cells_of_odd_sizes_run_in_clusters_and_agree_with_the_interpreter() {
    runs_in_clusters(&cell::<2, Lstm>("lstm", 7, 33));
    runs_in_clusters(&cell::<1, Gru>("gru", 5, 80));
    runs_in_clusters(&cell::<2, PeepholeLstm>("peephole", 3, 21));
    runs_in_clusters(&cell::<2, MultiplicativeLstm>("milstm", 3, 48));
    runs_in_clusters(&cell::<4, StabilisedLstm>("slstm", 3, 18));
    runs_in_clusters(&cell::<2, LayerNormLstm>("lnlstm", 9, 70));
}

/// As many columns a block as a warp has lanes; more, which it takes one group after the other; more weights than eight
/// blocks have shared memory for.
#[test]
fn clusters_are_taken_as_far_as_weights_fit() {
    for hidden in [256, 270] {
        let graph = cell::<2, Lstm>("lstm", 4, hidden);
        let compiled = compiled(&graph, LoopForm::Clusters);
        assert_eq!(clustered(&compiled).len(), 1, "{hidden}");
        agrees(&graph, &compiled, &device(), &[(3, 5)]);
    }
    let large = compiled(&cell::<2, Lstm>("lstm", 4, 512), LoopForm::Clusters);
    assert!(clustered(&large).is_empty());
}

#[test]
fn the_form_of_loops_is_a_choice() {
    let graph = cell::<2, Lstm>("lstm", 5, 40);
    let mapping = |loops| {
        compiled(&graph, loops).functions().expect("schedules").iter().map(|f| f.mapping).collect::<Vec<_>>()
    };
    let has = |loops, f: fn(&Mapping) -> bool| mapping(loops).iter().any(f);
    assert!(has(LoopForm::Clusters, |m| m.cluster_blocks() == Some(8)));
    assert!(has(LoopForm::Grid, |m| matches!(m, Mapping::Resident { .. })));
    for other in [LoopForm::Grid, LoopForm::Steps] {
        assert!(!has(other, |m| m.cluster_blocks().is_some()), "{other:?}");
        agrees(&graph, &compiled(&graph, other), &device(), &[(3, 5)]);
    }
    assert!(!has(LoopForm::Steps, |m| matches!(m, Mapping::Resident { .. })));
}

/// Devices without clusters have loops whose blocks meet in memory.
#[test]
fn devices_without_clusters_are_scheduled_without() {
    let graph = cell::<2, Lstm>("lstm", 5, 40);
    for capability in [75, 80, 89] {
        let gpu = GpuLimits::of_capability(capability);
        let options = CompileOptions { gpu, ..CompileOptions::new(Target::Cuda) };
        assert!(clustered(&fuse::compile(&graph, &options).expect("compiles")).is_empty(), "{capability}");
    }
}

/// Rows that need each other are no cluster's.
#[test]
fn rows_that_read_each_other_meet_in_memory() {
    let text = "graph g(x: f32[T, B, 40], h: f32[B, 40], param w: f32[40, 40]) {
  %h = scan over T carry (h = h) each (x = x) with (w = w) {
    %p = contract h, w axes=[1:0]
    %m = max %p axes=[0]
    %mb = broadcast %m axes=[1] : f32[B, 40]
    %n = sub %mb, x
    next h = %n
  }
  return h = %h
}";
    let graph = fuse::ir::parse(text).expect("parses");
    agrees(&graph, &compiled(&graph, LoopForm::Clusters), &device(), &[(2, 5)]);
    assert!(clustered(&compiled(&graph, LoopForm::Clusters)).is_empty());
}

/// `ptxas` keeps everything in registers, for the first architecture with clusters and a late one.
#[test]
fn clusters_stay_in_registers() {
    use fuse::codegen::llvm::ptxas::Ptxas;
    use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
    let Some(ptxas) = Ptxas::find() else {
        println!("SKIPPED clusters_stay_in_registers: no ptxas");
        return;
    };
    for graph in [
        cell::<2, Lstm>("lstm", 4, 128),
        cell::<1, Gru>("gru", 4, 128),
        cell::<2, PeepholeLstm>("peephole", 4, 128),
        cell::<2, MultiplicativeLstm>("milstm", 4, 128),
        cell::<4, StabilisedLstm>("slstm", 4, 128),
        cell::<2, LayerNormLstm>("lnlstm", 4, 128),
    ] {
        for (name, capability) in [("sm_90", 90), ("sm_120", 120)] {
            let arch: Arch = name.parse().expect("an architecture");
            let gpu = GpuLimits::of_capability(capability);
            let options = CompileOptions { gpu, ..CompileOptions::new(Target::Cuda) };
            let compiled = fuse::compile(&graph, &options).expect("compiles");
            let functions: Vec<Function> = clustered(&compiled).into_iter().cloned().collect();
            assert_eq!(functions.len(), 1, "{} {name}", graph.name());
            let text = ptx::ptx(&functions, &PtxOptions::new(arch)).expect("emits");
            assert!(
                text.contains("barrier.cluster.arrive") && text.contains("mapa.shared::cluster"),
                "{text}"
            );
            for kernel in ptxas.assemble(&text, arch).unwrap_or_else(|e| panic!("{text}: {e}")) {
                println!("{} {name}: {} registers", graph.name(), kernel.registers);
                assert_eq!(kernel.spill_stores + kernel.spill_loads, 0, "{} {name}", graph.name());
            }
        }
    }
}
