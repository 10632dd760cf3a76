//! The tiers of the CPU: the emitters agree bit for bit on the same functions, and code is swapped between runs.
#![cfg(feature = "llvm")]

use std::path::Path;
use std::sync::Arc;

use fuse::codegen::cranelift::compile_cpu;
use fuse::codegen::llvm::{LlvmHostModule, Optimization};
use fuse::frontend::zoo::{Scale, benchmark};
use fuse::ir::compare::{Tolerance, compare};
use fuse::runtime::{Code, HostModule};
use fuse::{
    CompileOptions, Compiled, Device, DeviceOptions, DimEnv, Executable, Graph, HostTensor, Target, Tier,
};

/// LLVM's code of functions that were scheduled for the fast tier.
struct SameFunctions(LlvmHostModule);

// SAFETY: the functions were compiled from verified Kernel IR, which accesses its buffers as its kernel does.
unsafe impl HostModule for SameFunctions {
    fn functions(&self) -> usize {
        self.0.len()
    }

    unsafe fn call(&self, index: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64) {
        // SAFETY: the caller keeps the same promises as the module asks for.
        unsafe { self.0.call(index, buffers, symbols, begin, end) }
            .expect("functions and code belong together");
    }
}

fn device() -> Device {
    Device::cpu(&DeviceOptions { threads: Some(2), ..DeviceOptions::default() })
        .expect("a team of threads starts")
}

fn compiled(graph: &Graph, tier: Tier) -> Compiled {
    let options = CompileOptions { tier, ..CompileOptions::new(Target::Cpu) };
    fuse::compile(graph, &options).expect("compiles")
}

/// The outputs of one run, with made-up weights and inputs.
fn outputs(model: &mut Executable, graph: &Graph, dims: &DimEnv) -> Vec<HostTensor> {
    let values = fuse::random::values_for(graph, dims, 1).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(graph, &values);
    model.bind(parameters).expect("binds");
    model.run(&inputs, dims).expect("runs")
}

/// Every model of `tests/cases/run` and of the zoo, with dimensions.
fn all_models() -> Vec<(Graph, Vec<DimEnv>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/run");
    let files =
        std::fs::read_dir(directory).expect("the cases are there").map(|f| f.expect("readable").path());
    let mut all = Vec::new();
    for file in files.filter(|f| f.extension().is_some_and(|e| e == "fuse")) {
        let source = std::fs::read_to_string(&file).expect("readable");
        let graph = fuse::ir::parse(&source).expect("parses");
        let headers = source.lines().filter_map(|l| l.strip_prefix("// dims:"));
        let mut dims: Vec<DimEnv> = headers.map(parse_dims).collect();
        if dims.is_empty() {
            dims.push(DimEnv::new());
        }
        all.push((graph, dims));
    }
    assert!(all.len() > 50, "only {} cases", all.len());
    for model in benchmark(Scale::Small).expect("traces") {
        let dims = model.dims.iter().fold(DimEnv::new(), |dims, (name, value)| dims.with(name, *value));
        all.push((model.graph, vec![dims]));
    }
    all
}

fn parse_dims(text: &str) -> DimEnv {
    text.split_whitespace().fold(DimEnv::new(), |dims, item| {
        let (name, value) = item.split_once('=').expect("NAME=N");
        dims.with(name, value.parse().expect("a number"))
    })
}

#[test]
fn both_emitters_give_the_same_bits_for_the_same_functions() {
    let device = device();
    for (graph, runs) in all_models() {
        let compiled = compiled(&graph, Tier::Fast);
        let (kernels, functions) = (&compiled.kernels, compiled.functions().expect("schedules"));
        let cranelift = compile_cpu(functions).expect("Cranelift compiles");
        let llvm = LlvmHostModule::compile(functions, Optimization::Full).expect("LLVM compiles");
        let codes: [Arc<dyn HostModule>; 2] = [Arc::new(cranelift), Arc::new(SameFunctions(llvm))];
        let [mut fast, mut same] = codes.map(|code| {
            Executable::new(&graph, kernels.clone(), functions, Code::Host(code), &device).expect("fits")
        });
        for dims in &runs {
            let (fast, same) = (outputs(&mut fast, &graph, dims), outputs(&mut same, &graph, dims));
            for (output, (fast, same)) in graph.outputs().iter().zip(fast.iter().zip(&same)) {
                assert!(fast.bytes() == same.bytes(), "{} `{}` at {dims:?}", graph.name(), output.name);
            }
        }
    }
}

/// The peak tier adds in another order, see docs/adr/0012-cpu-tiers.md.
#[test]
fn the_peak_tier_agrees_with_the_fast_one() {
    let (device, tolerance) = (device(), Tolerance { ulp: 8.0, absolute: 1e-5, relative: 1e-4 });
    for (graph, runs) in all_models() {
        let load = |tier| compiled(&graph, tier).load(&device).expect("loads");
        let (mut fast, mut peak) = (load(Tier::Fast), load(Tier::Peak));
        for dims in &runs {
            let (fast, peak) = (outputs(&mut fast, &graph, dims), outputs(&mut peak, &graph, dims));
            for (output, (fast, peak)) in graph.outputs().iter().zip(fast.iter().zip(&peak)) {
                if let Err(e) = compare(peak, fast, tolerance) {
                    panic!("{} `{}` at {dims:?}: {e}", graph.name(), output.name);
                }
            }
        }
    }
}

/// Layers whose weights are copied into panels, at batch sizes around those of the tiles.
#[test]
fn panels_serve_every_batch_size() {
    let device = device();
    // No panels fit 50 hidden units without an overlap.
    let mut layers =
        [64, 50].map(|hidden| fuse::frontend::zoo::lstm_graph(96, hidden).expect("traces")).to_vec();
    // The inputs' product of a reversed sequence has tiles with rows of several steps.
    let models = benchmark(Scale::Small).expect("traces");
    layers.extend(models.into_iter().map(|m| m.graph).filter(|graph| graph.name() == "bilstm"));
    assert_eq!(layers.len(), 3);
    for graph in layers {
        let load = |tier| compiled(&graph, tier).load(&device).expect("loads");
        let (mut fast, mut peak) = (load(Tier::Fast), load(Tier::Peak));
        for batch in [0, 1, 2, 3, 4, 5, 6, 7, 8, 13] {
            let dims = DimEnv::new().with("T", 3).with("B", batch);
            let (fast, peak) = (outputs(&mut fast, &graph, &dims), outputs(&mut peak, &graph, &dims));
            for (fast, peak) in fast.iter().zip(&peak) {
                compare(peak, fast, Tolerance { ulp: 0.0, absolute: 1e-6, relative: 1e-5 }).expect("agrees");
            }
        }
    }
}

/// Of weights of both layouts, which the fast tier reads as they are given and the peak tier in panels.
#[test]
fn products_with_weights_have_the_same_bits_in_both_tiers() {
    let device = device();
    for units in [96, 50] {
        let graph = fuse::frontend::trace("products", |t| {
            let x = t.input("x", fuse::ir::DType::F32, ("B", 300));
            let w = t.parameter("w", fuse::ir::DType::F32, (300, units));
            let v = t.parameter("v", fuse::ir::DType::F32, (units, 300));
            t.output("y", x.matmul(&w) * x.matmul(v.transpose(0, 1)));
        })
        .expect("traces");
        let load = |tier| compiled(&graph, tier).load(&device).expect("loads");
        let (mut fast, mut peak) = (load(Tier::Fast), load(Tier::Peak));
        assert!(fast.kernels().kernels().iter().any(|(k, _)| k.ops == ["contract"]), "{}", fast.kernels());
        // The peak tier takes a row that is left over alone with several sums at a time.
        for batch in [2, 3, 4, 7, 16, 18, 64, 303] {
            let dims = DimEnv::new().with("B", batch);
            let (fast, peak) = (outputs(&mut fast, &graph, &dims), outputs(&mut peak, &graph, &dims));
            assert!(fast == peak, "{units} units, {batch} rows");
        }
    }
}

#[test]
fn better_code_replaces_the_first_between_runs() {
    let device = device();
    let graph = fuse::frontend::zoo::lstm_graph(96, 64).expect("traces");
    let dims = DimEnv::new().with("T", 3).with("B", 5);
    let load = |tier| compiled(&graph, tier).load(&device).expect("loads");
    let [fast, peak] = [Tier::Fast, Tier::Peak].map(|tier| outputs(&mut load(tier), &graph, &dims));
    let mut model = load(Tier::Auto);
    assert!(outputs(&mut model, &graph, &dims) == fast, "Cranelift's code runs first");
    model.wait_for_improvement();
    let values = fuse::random::values_for(&graph, &dims, 1).expect("dimensions are given");
    let (_, inputs) = fuse::random::by_kind(&graph, &values);
    assert!(model.run(&inputs, &dims).expect("runs") == peak, "LLVM's code runs then");
    assert!(outputs(&mut model, &graph, &dims) == peak, "and on other weights too");
}

/// A run that takes longer with Cranelift's code than making LLVM's does waits for that.
#[test]
fn a_heavy_first_run_gets_the_better_code() {
    let device = device();
    // Of two inputs, neither of which is in panels for the fast tier's routine.
    let graph = fuse::frontend::trace("product", |t| {
        let [x, y] = ["x", "y"].map(|name| t.input(name, fuse::ir::DType::F32, ("N", "N")));
        t.output("z", x.matmul(y.transpose(0, 1)));
    })
    .expect("traces");
    let dims = DimEnv::new().with("N", 1600);
    let run = |tier| outputs(&mut compiled(&graph, tier).load(&device).expect("loads"), &graph, &dims);
    let [fast, peak, auto] = [Tier::Fast, Tier::Peak, Tier::Auto].map(run);
    assert!(fast != peak, "the tiers add in different orders");
    assert!(auto == peak, "LLVM's code runs first");
}

#[test]
fn models_may_be_dropped_and_run_on_other_threads_while_better_code_is_made() {
    let device = device();
    let graph = fuse::frontend::zoo::lstm_graph(96, 64).expect("traces");
    let dims = DimEnv::new().with("T", 40).with("B", 32);
    let values = fuse::random::values_for(&graph, &dims, 1).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(&graph, &values);
    for runs in [1, 20, 60] {
        let mut model = compiled(&graph, Tier::Auto).load(&device).expect("loads");
        model.bind(parameters.clone()).expect("binds");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..runs).for_each(|_| drop(model.run(&inputs, &dims).expect("runs"))));
            }
        });
    }
}
