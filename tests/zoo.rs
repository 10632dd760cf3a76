//! The benchmark's cells and models: what they become, and that it is what they mean.

use std::collections::BTreeSet;

use fuse::frontend::zoo::{BenchmarkModel, Scale, benchmark};
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::ir::kernel::{BufferId, BufferKind, Element, Kernel, KernelGraph};
use fuse::{CompileOptions, Device, DimEnv, Target};

fn models(scale: Scale) -> Vec<BenchmarkModel> {
    benchmark(scale).expect("traces")
}

fn kernels_of(model: &BenchmarkModel, target: Target) -> KernelGraph {
    let options = CompileOptions::new(target).rewrite;
    fuse::rewrite::optimize(&model.graph, &target.model(), &options).expect("optimizes").kernels
}

fn kernels_in_the_loop(kernels: &KernelGraph) -> Vec<&Kernel> {
    kernels.kernels().into_iter().filter(|(_, depth)| *depth > 0).map(|(k, _)| k).collect()
}

/// Model, and the most kernels its step may have: a specialist's figure, for each of the two targets.
const KERNELS_A_STEP: [(&str, usize); 13] = [
    ("lstm_b1", 1),
    ("lstm_large", 1),
    ("gru_b32", 2),
    ("rnn_b32", 1),
    ("lstm_varlen", 1),
    ("lnlstm_b64", 3),
    ("milstm_b64", 1),
    ("slstm_b16", 1),
    ("sru_b32", 1),
    ("mingru_b32", 0),
    ("nas_b1", 1),
    ("nas_taso_b1", 1),
    ("peephole_b32", 1),
];

#[test]
fn a_step_of_every_cell_is_as_few_kernels_as_a_specialist_would_write() {
    let models = models(Scale::Full);
    for (name, most) in KERNELS_A_STEP {
        let model = models.iter().find(|m| m.graph.name() == name).expect("in the benchmark");
        for target in [Target::Cpu, Target::Cuda] {
            let kernels = kernels_of(model, target);
            let count = kernels_in_the_loop(&kernels).len();
            assert!(count <= most, "{name} for {target:?}: {count} kernels a step\n{kernels}");
        }
    }
}

/// Whether a kernel reduces something that it reads from one of these buffers.
fn reduces(kernel: &Kernel, buffers: &BTreeSet<BufferId>) -> bool {
    let mut reads = vec![false; kernel.elements.len()];
    for (i, typed) in kernel.elements.iter().enumerate() {
        let loads = matches!(&typed.element, Element::Load { buffer, .. } if buffers.contains(buffer));
        reads[i] = loads || typed.element.operands().iter().any(|o| reads[o.index()]);
        if reads[i] && matches!(typed.element, Element::Reduce { .. }) {
            return true;
        }
    }
    false
}

/// The sequence is multiplied by its weights for all steps at once: no kernel of a step reduces it, nor what another
/// kernel of the step made of it.
#[test]
fn the_input_projection_of_every_cell_is_outside_the_loop() {
    let models = models(Scale::Full);
    let sequences = KERNELS_A_STEP.iter().map(|(name, _)| (*name, "x"));
    for (name, sequence) in sequences.chain([("seq2seq_attn", "source"), ("seq2seq_attn", "target")]) {
        let model = models.iter().find(|m| m.graph.name() == name).expect("in the benchmark");
        let x = model.graph.inputs().iter().position(|i| i.name == sequence).expect("a sequence");
        for target in [Target::Cpu, Target::Cuda] {
            let kernels = kernels_of(model, target);
            let is_sequence = |b: &BufferId| kernels.buffer(*b).kind == BufferKind::Input(x);
            let mut made_of_it: BTreeSet<BufferId> =
                (0..kernels.buffers.len()).map(BufferId::from).filter(is_sequence).collect();
            for kernel in kernels_in_the_loop(&kernels) {
                let projects = reduces(kernel, &made_of_it);
                assert!(!projects, "{name} for {target:?}: `{}` projects every step\n{kernels}", kernel.name);
                if !kernel.loads().is_disjoint(&made_of_it) {
                    let temporary = |b: &BufferId| kernels.buffer(*b).kind == BufferKind::Temporary;
                    made_of_it.extend(kernel.stores.iter().map(|s| s.buffer).filter(temporary));
                }
            }
        }
    }
}

#[test]
fn every_model_agrees_with_the_interpreter_rewritten_or_not() {
    let cpu = Device::cpu(&Default::default()).expect("a team of threads starts");
    let tolerance = Tolerance { ulp: 0.0, absolute: 1e-5, relative: 1e-4 };
    for model in models(Scale::Small) {
        let graph = &model.graph;
        let dims = model.dims.iter().fold(DimEnv::new(), |dims, (name, value)| dims.with(name, *value));
        let values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let expected = interpreter.run(graph, &values).expect("interprets");
        for options in [CompileOptions::new(Target::Cpu), CompileOptions::unfused(Target::Cpu)] {
            let compiled = fuse::compile(graph, &options).expect("compiles");
            let mut executable = compiled.load(&cpu).expect("loads");
            executable.bind(parameters.clone()).expect("binds");
            let outputs = executable.run(&inputs, &dims).expect("runs");
            for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected) {
                if let Err(e) = compare(got, expected, tolerance) {
                    panic!("{} `{}`, rewrite {:?}: {e}", graph.name(), output.name, options.rewrite.mode);
                }
            }
        }
    }
}

/// Factors of products rounded to bf16: the simulated GPU reports nothing, and every element is as near as rounding is
/// estimated to leave it.
#[cfg(feature = "llvm")]
#[test]
fn every_model_runs_on_tensor_cores_of_bf16() {
    let sim = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    let precision = fuse::ProductPrecision::Bf16;
    let options = CompileOptions { precision, ..CompileOptions::new(Target::Cuda) };
    for model in models(Scale::Small) {
        let graph = &model.graph;
        // Few steps and rows; other dimensions as they are.
        let few = |name: &str, value: i64| match name {
            "T" | "S" => value.min(3),
            "B" => value.min(5),
            _ => value,
        };
        let dims =
            model.dims.iter().fold(DimEnv::new(), |dims, (name, value)| dims.with(name, few(name, *value)));
        let values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let estimates = interpreter.run_with_errors(graph, &values, precision.factor_rounding());
        let compiled = fuse::compile(graph, &options).expect("compiles");
        let mut executable = compiled.load(&sim).expect("loads");
        executable.bind(parameters).expect("binds");
        let outputs = executable.run(&inputs, &dims).unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
        let estimates = estimates.expect("interprets");
        for ((output, got), estimate) in graph.outputs().iter().zip(&outputs).zip(&estimates) {
            if let Err(e) = estimate.compare(got) {
                panic!("{} `{}`: {e}", graph.name(), output.name);
            }
        }
    }
}
