//! Compile time by stage, and fused against unfused runs, for the models of the front end's zoo.
//!
//! `make bench`, or `cargo bench -p fuse -- compile` for one group.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fuse::frontend::zoo;
use fuse::{CompileOptions, Device, DimEnv, Graph, Target};

fn graphs() -> Vec<Graph> {
    let graphs = [
        zoo::lstm_graph(64, 128),
        zoo::gru_graph(64, 128),
        zoo::layer_norm_lstm_graph(64, 128),
        zoo::custom_cell_graph(64, 128),
    ];
    graphs.into_iter().map(|g| g.expect("the zoo traces")).collect()
}

fn cpu() -> Device {
    Device::cpu(&Default::default()).expect("a team of threads starts")
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    for graph in &graphs() {
        group.bench_with_input(BenchmarkId::new("rewrite", graph.name()), graph, |b, graph| {
            let (device, options) = (Target::Cpu.model(), fuse::rewrite::Options::default());
            b.iter(|| fuse::rewrite::optimize(graph, &device, &options).expect("rewrites"));
        });
        group.bench_with_input(BenchmarkId::new("to_kernel_ir", graph.name()), graph, |b, graph| {
            b.iter(|| fuse::compile(graph, &CompileOptions::new(Target::Cpu)).expect("compiles"));
        });
        let compiled = fuse::compile(graph, &CompileOptions::new(Target::Cpu)).expect("compiles");
        group.bench_with_input(BenchmarkId::new("cranelift", graph.name()), &compiled, |b, compiled| {
            b.iter(|| fuse::codegen::cranelift::compile_cpu(&compiled.functions).expect("emits"));
        });
    }
    group.finish();
}

fn run(c: &mut Criterion) {
    let mut group = c.benchmark_group("run");
    group.sample_size(20);
    let dims = DimEnv::new().with("T", 100).with("B", 1);
    for graph in &graphs() {
        let values = fuse::random::values_for(graph, &dims, 0).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        for (name, options) in
            [("fused", CompileOptions::new(Target::Cpu)), ("unfused", CompileOptions::unfused(Target::Cpu))]
        {
            let compiled = fuse::compile(graph, &options).expect("compiles");
            let mut model = compiled.load(&cpu()).expect("loads");
            model.bind(parameters.clone()).expect("binds");
            model.wait_for_improvement();
            group.bench_function(BenchmarkId::new(name, graph.name()), |b| {
                b.iter(|| model.run(&inputs, &dims).expect("runs"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, compile, run);
criterion_main!(benches);
