//! Compile time by stage, single kernels, and whole models: in both tiers, fused against unfused, and on the simulated
//! GPU.
//!
//! `make microbench`, or `cargo bench -p fuse -- compile` for one group. Beside other runtimes: `make bench`.

use std::collections::BTreeMap;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use fuse::frontend::nn::{CellParameters, Gates, lstm_cell};
use fuse::frontend::zoo::{self, Scale};
use fuse::{CompileOptions, Compiled, DType, Device, DimEnv, Executable, Graph, HostTensor, Target, Tier};

/// Models with dimensions `T` and `B`, small enough that an unfused run takes milliseconds.
fn small() -> Vec<Graph> {
    let graphs =
        [zoo::gru_graph(64, 128), zoo::layer_norm_lstm_graph(64, 128), zoo::custom_cell_graph(64, 128)];
    graphs.into_iter().map(|g| g.expect("the zoo traces")).collect()
}

/// A model of the benchmark, at its dimensions.
fn benchmark(name: &str) -> (Graph, DimEnv) {
    let models = zoo::benchmark(Scale::Full).expect("the zoo traces");
    let model = models.into_iter().find(|m| m.graph.name() == name).expect("the benchmark has the model");
    let dims = dims_of(&model.dims);
    (model.graph, dims)
}

fn dims_of(dims: &[(&str, i64)]) -> DimEnv {
    dims.iter().fold(DimEnv::new(), |dims, (symbol, value)| dims.with(symbol, *value))
}

/// The tiers of this build, by name.
fn tiers() -> Vec<(&'static str, Tier)> {
    vec![
        ("fast", Tier::Fast),
        #[cfg(feature = "llvm")]
        ("peak", Tier::Peak),
    ]
}

fn in_tier(graph: &Graph, tier: Tier) -> Compiled {
    let options = CompileOptions { tier, ..CompileOptions::new(Target::Cpu) };
    fuse::compile(graph, &options).expect("compiles")
}

fn cpu() -> Device {
    Device::cpu(&Default::default()).expect("a team of threads starts")
}

/// The search of each model, and what each tier makes of an LSTM that is found: Cranelift's code and LLVM's.
fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    let (lstm, _) = benchmark("lstm_b1");
    for graph in small().iter().chain([&lstm]) {
        group.bench_with_input(BenchmarkId::new("search", graph.name()), graph, |b, graph| {
            let (device, options) = (Target::Cpu.model(), fuse::rewrite::Options::default());
            b.iter(|| fuse::rewrite::optimize(graph, &device, &options).expect("rewrites"));
        });
    }
    let device = cpu();
    for (name, tier) in tiers() {
        let compiled = in_tier(&lstm, tier);
        group.bench_function(BenchmarkId::new(name, lstm.name()), |b| {
            b.iter(|| compiled.load(&device).expect("loads"));
        });
    }
    group.finish();
}

/// The whole way from a graph to PTX, one thread, for every cell.
#[cfg(feature = "llvm")]
fn ptx(c: &mut Criterion) {
    use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
    let mut group = c.benchmark_group("ptx");
    group.sample_size(20);
    for name in [
        "lstm_b64",
        "gru_b32",
        "lnlstm_b64",
        "milstm_b64",
        "slstm_b16",
        "peephole_b32",
        "sru_b32",
        "mingru_b32",
        "nas_b1",
    ] {
        let (graph, _) = benchmark(name);
        let options = CompileOptions::new(Target::Cuda);
        group.bench_with_input(BenchmarkId::new("text", name), &graph, |b, graph| {
            b.iter(|| {
                let compiled = fuse::compile(graph, &options).expect("compiles");
                ptx::ptx(compiled.functions().expect("schedules"), &PtxOptions::new(Arch::Sm90))
                    .expect("has PTX")
            });
        });
    }
    group.finish();
}

/// A model on a device with random parameters, and random inputs.
fn bound(
    graph: &Graph,
    compiled: &Compiled,
    dims: &DimEnv,
    device: &Device,
) -> (Executable, BTreeMap<String, HostTensor>) {
    let values = fuse::random::values_for(graph, dims, 0).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(graph, &values);
    let mut model = compiled.load(device).expect("loads");
    model.bind(parameters).expect("binds");
    (model, inputs)
}

/// Runs of a compiled model on random numbers.
fn run(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    graph: &Graph,
    compiled: &Compiled,
    dims: &DimEnv,
) {
    let (model, inputs) = bound(graph, compiled, dims, &cpu());
    group.bench_function(BenchmarkId::new(name, graph.name()), |b| {
        b.iter(|| model.run(&inputs, dims).expect("runs"));
    });
}

/// One step of an LSTM, with both of its products, and a chain of elementwise operations: one kernel each.
fn kernels(c: &mut Criterion) {
    let step = fuse::trace("lstm_step", |t| {
        let hidden = 512;
        let [x, h, c] = ["x", "h", "c"].map(|name| t.input(name, DType::F32, ("B", hidden)));
        let parameters = CellParameters::declare(t, Gates::Lstm, "", "", &hidden.into(), &hidden.into());
        let (h, c) = lstm_cell(&x, (&h, &c), &parameters);
        t.output("h_next", h);
        t.output("c_next", c);
    });
    let chain = zoo::pointwise(1024).expect("the zoo traces");
    let step = step.expect("the step traces");
    let sizes = [(step, DimEnv::new().with("B", 32)), (chain, DimEnv::new().with("T", 4096))];
    let mut group = c.benchmark_group("kernel");
    for (graph, dims) in &sizes {
        for (name, tier) in tiers() {
            let compiled = in_tier(graph, tier);
            assert_eq!(compiled.kernels.kernels().len(), 1, "{} is one kernel", graph.name());
            run(&mut group, name, graph, &compiled, dims);
        }
    }
    group.finish();
}

/// Two LSTMs of the benchmark in both tiers, and what fusion is worth on others, in the fast one.
fn models(c: &mut Criterion) {
    let mut group = c.benchmark_group("model");
    group.sample_size(20);
    for name in ["lstm_b1", "lstm_b64"] {
        let (graph, dims) = benchmark(name);
        for (name, tier) in tiers() {
            run(&mut group, name, &graph, &in_tier(&graph, tier), &dims);
        }
    }
    let dims = DimEnv::new().with("T", 100).with("B", 1);
    for graph in &small() {
        let unfused = CompileOptions { tier: Tier::Fast, ..CompileOptions::unfused(Target::Cpu) };
        let unfused = fuse::compile(graph, &unfused).expect("compiles");
        run(&mut group, "fused", graph, &in_tier(graph, Tier::Fast), &dims);
        run(&mut group, "unfused", graph, &unfused, &dims);
    }
    group.finish();
}

/// Whole models on the simulated GPU, on all threads; the throughput is that of instructions, counted once a thread.
#[cfg(feature = "llvm")]
fn sim(c: &mut Criterion) {
    use criterion::Throughput;
    use fuse::ProductPrecision;
    let mut group = c.benchmark_group("sim");
    group.sample_size(10);
    let models = [
        ("pointwise", [("T", 512)].as_slice()),
        ("lstm_b64", &[("T", 6), ("B", 16)]),
        ("gru_b32", &[("T", 6), ("B", 16)]),
        ("lnlstm_b64", &[("T", 6), ("B", 16)]),
        ("sru_b32", &[("T", 8), ("B", 16)]),
    ];
    let device = Device::sim(&Default::default()).expect("the simulator needs nothing");
    for precision in [ProductPrecision::F32, ProductPrecision::Bf16] {
        for (name, dims) in models {
            let (graph, _) = benchmark(name);
            let dims = dims_of(dims);
            let options = CompileOptions { precision, ..CompileOptions::new(Target::Cuda) };
            let compiled = fuse::compile(&graph, &options).expect("compiles");
            let (model, inputs) = bound(&graph, &compiled, &dims, &device);
            let executed = || device.counters().into_iter().flatten().map(|(_, c)| c.instructions()).sum();
            let before: u64 = executed();
            model.run(&inputs, &dims).expect("runs");
            group.throughput(Throughput::Elements(executed() - before));
            group.bench_function(BenchmarkId::new(precision.name(), name), |b| {
                b.iter(|| model.run(&inputs, &dims).expect("runs"));
            });
        }
    }
    group.finish();
}

#[cfg(not(feature = "llvm"))]
fn ptx(_: &mut Criterion) {}
#[cfg(not(feature = "llvm"))]
fn sim(_: &mut Criterion) {}

criterion_group!(benches, compile, ptx, kernels, models, sim);
criterion_main!(benches);
