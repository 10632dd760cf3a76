//! What must come out for the models of the front end's zoo: how much is fused, how it runs, what it takes.

use fuse::frontend::zoo;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::ir::kernel::{Element, Kernel};
use fuse::{CompileOptions, Compiled, Device, DimEnv, Executable, Graph, Target};

fn cpu() -> Device {
    Device::cpu(&Default::default()).expect("a team of threads starts")
}

fn graphs() -> [Graph; 4] {
    [
        zoo::lstm_graph(64, 128).expect("traces"),
        zoo::gru_graph(64, 128).expect("traces"),
        zoo::layer_norm_lstm_graph(64, 128).expect("traces"),
        zoo::custom_cell_graph(64, 128).expect("traces"),
    ]
}

fn compiled(graph: &Graph, target: Target) -> Compiled {
    fuse::compile(graph, &CompileOptions::new(target)).expect("compiles")
}

fn kernels_in_the_loop(compiled: &Compiled) -> Vec<&Kernel> {
    compiled.kernels.kernels().into_iter().filter(|(_, depth)| *depth > 0).map(|(k, _)| k).collect()
}

fn reductions(kernel: &Kernel) -> usize {
    kernel.elements.iter().filter(|e| matches!(e.element, Element::Reduce { .. })).count()
}

#[test]
fn steps_fuse_to_few_kernels_on_every_target() {
    for target in [Target::Cpu, Target::Cuda] {
        for (graph, most) in graphs().iter().zip([1, 2, 4, 4]) {
            let compiled = compiled(graph, target);
            let count = kernels_in_the_loop(&compiled).len();
            assert!(
                count <= most,
                "{} on {target:?}: {count} kernels a step\n{}",
                graph.name(),
                compiled.kernels
            );
        }
    }
}

/// The weights that multiply the input sequence are read by kernels outside the loop alone.
#[test]
fn input_projections_are_outside_the_loop() {
    for target in [Target::Cpu, Target::Cuda] {
        for graph in &graphs() {
            let compiled = compiled(graph, target);
            let input = |name: &str| {
                let position =
                    graph.inputs().iter().position(|i| i.name == name).expect("an input of that name");
                let kind = fuse::ir::kernel::BufferKind::Input(position);
                compiled.kernels.buffers.iter().position(|b| b.kind == kind).expect("a buffer")
            };
            // The weights, and what is copied from them when they are bound.
            let mut weights = vec![input("weight_ih")];
            let outside = || compiled.kernels.kernels().into_iter().filter(|(_, depth)| *depth == 0);
            let reads =
                |k: &Kernel, weights: &[usize]| k.loads().iter().any(|b| weights.contains(&b.index()));
            for (kernel, _) in outside() {
                if reductions(kernel) == 0 && reads(kernel, &weights) {
                    weights.extend(kernel.stores.iter().map(|s| s.buffer.index()));
                }
            }
            for kernel in kernels_in_the_loop(&compiled) {
                assert!(
                    !reads(kernel, &weights),
                    "{}: `{}` projects the input at every step",
                    graph.name(),
                    kernel.name
                );
            }
            let projects = |k: &Kernel| reductions(k) > 0 && reads(k, &weights);
            assert!(outside().any(|(k, _)| projects(k)), "{}: nothing projects the input", graph.name());
        }
    }
}

/// Runs a model on random values and compares every output with the interpreter in f64.
fn agrees(graph: &Graph, model: &mut Executable, dims: &DimEnv, tolerance: Tolerance) {
    let values = fuse::random::values_for(graph, dims, 1).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(graph, &values);
    model.bind(parameters).expect("binds");
    let outputs = model.run(&inputs, dims).expect("runs");
    let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
    let expected = interpreter.run(graph, &values).expect("interprets");
    for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected) {
        if let Err(e) = compare(got, expected, tolerance) {
            panic!("{} `{}` at {dims:?}: {e}", graph.name(), output.name);
        }
    }
}

#[test]
fn one_lstm_artefact_runs_every_length_and_batch() {
    let graph = zoo::lstm_graph(8, 16).expect("traces");
    let compiled = compiled(&graph, Target::Cpu);
    let mut model = compiled.load(&cpu()).expect("loads");
    let tolerance = Tolerance { ulp: 0.0, absolute: 1e-5, relative: 0.0 };
    for steps in [1, 7, 300, 5000, 0] {
        for batch in [1, 3, 64] {
            let dims = DimEnv::new().with("T", steps).with("B", batch);
            agrees(&graph, &mut model, &dims, tolerance);
        }
    }
}

#[test]
fn every_model_agrees_with_the_interpreter() {
    let tolerance = Tolerance { ulp: 0.0, absolute: 1e-5, relative: 1e-4 };
    for graph in &graphs() {
        for options in [CompileOptions::new(Target::Cpu), CompileOptions::unfused(Target::Cpu)] {
            let compiled = fuse::compile(graph, &options).expect("compiles");
            let mut model = compiled.load(&cpu()).expect("loads");
            for (steps, batch) in [(1, 1), (9, 3), (20, 17)] {
                agrees(graph, &mut model, &DimEnv::new().with("T", steps).with("B", batch), tolerance);
            }
        }
    }
}

/// One buffer for every value that a body op computes, over all steps, as running op by op and keeping results
/// would take; inputs, outputs and views of other values are not counted.
fn bytes_of_one_buffer_per_op(graph: &Graph, dims: &DimEnv, steps: i64) -> i64 {
    use fuse::ir::ops::{Group, Op};
    let mut bytes = 0;
    for (_, node) in graph.nodes() {
        if let Op::Scan(scan) = &node.op {
            let trip = scan.trip.eval_dim(dims).expect("bound");
            bytes += bytes_of_one_buffer_per_op(&scan.body, dims, steps * trip);
        } else if matches!(node.op.group(), Group::Elementwise | Group::Reduce | Group::Contract) {
            let ty = graph.ty(node.results[0]);
            bytes += steps * ty.elements().eval_dim(dims).expect("bound") * ty.dtype.size() as i64;
        }
    }
    bytes
}

#[test]
fn the_memory_plan_of_an_lstm_is_a_third_of_one_buffer_per_op() {
    let graph = zoo::lstm_graph(64, 128).expect("traces");
    let model = compiled(&graph, Target::Cpu).load(&cpu()).expect("loads");
    let dims = DimEnv::new().with("T", 100).with("B", 16);
    let planned = model.plan(&dims).expect("plans").arena_bytes as i64;
    let naive = bytes_of_one_buffer_per_op(&graph, &dims, 1);
    assert!(3 * planned <= naive, "{planned} bytes planned, {naive} with one buffer per op");
}

/// Every kernel of every model assembles for every generation of GPUs there is PTX for.
#[cfg(feature = "llvm")]
#[test]
fn ptx_of_every_model_assembles() {
    use fuse::codegen::llvm::{Arch, PtxOptions, ptx, ptxas::Ptxas};
    use fuse::codegen::schedule::GpuLimits;
    let Some(ptxas) = Ptxas::find() else {
        eprintln!("SKIPPED: ptxas is not installed; scripts/setup-ptxas.sh fetches it");
        return;
    };
    for graph in &graphs() {
        let compiled = compiled(graph, Target::Cuda);
        for arch in ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"] {
            let arch: Arch = arch.parse().expect("an architecture");
            let limits = GpuLimits::of_capability(arch.capability());
            let functions = compiled.functions_for(limits).expect("schedules");
            let text = ptx::ptx(&functions, &PtxOptions::new(arch)).expect("emits");
            let kernels = ptxas.assemble(&text, arch).unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
            assert_eq!(kernels.len(), functions.len(), "{}: an entry a kernel", graph.name());
        }
    }
}

#[test]
fn a_failed_bind_leaves_nothing_prepared_from_older_weights() {
    let source = "graph g(x: f32[B, 8], param w: f32[8, 8], param v: f32[8, 8]) {
        %q = contract w, v axes=[1:0]
        %p = contract x, %q axes=[1:0]
        return z = %p
    }";
    let graph = fuse::ir::parse(source).unwrap();
    let dims = fuse::DimEnv::new().with("B", 3);
    let device = fuse::Device::cpu(&Default::default()).unwrap();
    let options = fuse::CompileOptions::new(fuse::Target::Cpu);
    let mut model = fuse::compile(&graph, &options).unwrap().load(&device).unwrap();
    let weights = |seed| {
        let values = fuse::random::values_for(&graph, &dims, seed).unwrap();
        fuse::random::by_kind(&graph, &values)
    };
    let ((older, inputs), (newer, _)) = (weights(1), weights(2));
    model.bind(older).unwrap();
    let before = model.run(&inputs, &dims).unwrap();
    let unknown = ("unknown".to_owned(), newer["w"].clone());
    assert!(model.bind(newer.clone().into_iter().chain([unknown])).is_err());
    let after = model.run(&inputs, &dims).unwrap();
    model.bind(newer).unwrap();
    assert_eq!(after, model.run(&inputs, &dims).unwrap());
    assert_ne!(after, before);
}
