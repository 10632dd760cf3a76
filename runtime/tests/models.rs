//! Whole models, compiled once and run at many lengths and batch sizes, against the interpreter in f64.

mod compiled;

use fuse_frontend::trace;
use fuse_frontend::zoo::cells::Lstm;
use fuse_frontend::zoo::{self, StackForm};
use fuse_ir::bind::concrete_shape;
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::device::DeviceModel;
use fuse_ir::expr::DimEnv;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::{DType, Graph, Tensor};
use fuse_rewrite::Mode;
use fuse_runtime::plan_checker::check;
use fuse_runtime::{Device, DeviceOptions, Executable, MemoryPlan};

fn device(threads: usize) -> Device {
    Device::cpu(&DeviceOptions { threads: Some(threads), ..DeviceOptions::default() }).expect("threads start")
}

/// Values in [-0.5, 0.5) for every input, the same for the same seed (a linear congruential generator).
fn values(graph: &Graph, dims: &DimEnv, seed: u64) -> Vec<Tensor> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let value = |input: &fuse_ir::graph::Input| {
        let ty = graph.ty(input.value);
        assert_eq!(ty.dtype, DType::F32);
        let shape = concrete_shape(&ty.shape, dims).expect("dimensions are given");
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        Tensor::from_values(&shape, &values).expect("as many values as the shape has")
    };
    graph.inputs().iter().map(value).collect()
}

fn agrees_at(graph: &Graph, mode: Mode, threads: usize, sizes: &[(i64, i64)]) {
    agrees(graph, &mut compiled::compile(graph, mode, &device(threads)).expect("compiles"), sizes);
}

fn agrees(graph: &Graph, executable: &mut Executable, sizes: &[(i64, i64)]) {
    for (t, b) in sizes.iter().copied() {
        let dims = DimEnv::new().with("T", t).with("B", b);
        let values = values(graph, &dims, 1 + t as u64 * 1000 + b as u64);
        let inputs = compiled::bind(executable, &values).expect("binds");
        let outputs = executable.run(inputs.as_slice(), &DimEnv::new()).expect("runs");
        let expected = Interpreter::new(Precision::F64).run(graph, &values).expect("interprets");
        assert_eq!(outputs.len(), expected.len());
        for (got, expected) in outputs.iter().zip(&expected) {
            if let Err(error) = compare(got, expected, Tolerance::absolute(1e-5)) {
                panic!("{} T={t} B={b}: {error}\n{}", graph.name(), executable.kernels());
            }
        }
    }
}

const SIZES: [(i64, i64); 11] =
    [(0, 3), (1, 1), (1, 3), (1, 64), (7, 1), (7, 3), (7, 64), (300, 1), (300, 3), (300, 64), (7, 0)];

#[test]
fn one_lstm_runs_at_every_length_and_batch() {
    let graph = zoo::lstm_graph(8, 16).expect("traces");
    agrees_at(&graph, Mode::On, 2, &SIZES);
}

#[test]
fn an_unfused_lstm_agrees_too() {
    let graph = zoo::lstm_graph(8, 16).expect("traces");
    agrees_at(&graph, Mode::Off, 2, &SIZES[..7]);
}

#[test]
fn a_wide_lstm_agrees_on_a_team() {
    let graph = zoo::lstm_graph(24, 100).expect("traces");
    agrees_at(&graph, Mode::On, 3, &[(5, 1), (6, 17)]);
}

#[test]
fn the_other_models_of_the_zoo_agree() {
    for graph in [
        zoo::gru_graph(8, 16).expect("traces"),
        zoo::layer_norm_lstm_graph(8, 16).expect("traces"),
        zoo::custom_cell_graph(8, 16).expect("traces"),
    ] {
        agrees_at(&graph, Mode::On, 2, &[(0, 2), (1, 1), (7, 3), (40, 64)]);
    }
}

#[test]
fn stacks_that_run_as_wavefronts_agree_and_their_plans_hold() {
    let model = DeviceModel { barrier_seconds: 1.0, ..DeviceModel::cpu() };
    for layers in [2, 3, 4] {
        let form = StackForm { layers, ..StackForm::ONE_LAYER };
        let plain = zoo::stack_of::<2, Lstm>("stack", 8, 16, form).expect("traces");
        let residual = residual_stack(layers);
        for graph in [plain, residual] {
            let mut executable =
                compiled::compile_for(&graph, &model, Mode::On, &device(2)).expect("compiles");
            let kernels = executable.kernels();
            assert!(kernels.kernels().iter().any(|(k, _)| k.name == "stack_wave"), "{kernels}");
            for steps in 0..6 {
                let dims = DimEnv::new().with("T", steps).with("B", 3);
                let plan = MemoryPlan::new(&kernels, &dims).expect("plans");
                check(&kernels, &plan).unwrap_or_else(|e| panic!("T={steps}: {e}\n{kernels}"));
            }
            let sizes = [(0, 3), (1, 3), (2, 3), (3, 1), (7, 3), (40, 64), (7, 0)];
            agrees(&graph, &mut executable, &sizes);
        }
    }
}

/// Layers that hand up their state with their input, so that what they hand up is no state of theirs.
fn residual_stack(layers: usize) -> Graph {
    trace("stack", |t| {
        let mut y = t.input("x", DType::F32, ("T", "B", 16));
        for layer in 0..layers {
            let w = t.parameter(&format!("w{layer}"), DType::F32, (16, 16));
            let h = t.zeros(DType::F32, ("B", 16));
            let (last, out) = t.scan(h, y, |h, x| {
                let h = (h.matmul(&w) + &x).tanh();
                (h.clone(), h + x)
            });
            t.output(&format!("h{layer}"), last);
            y = out;
        }
        t.output("y", y);
    })
    .expect("traces")
}

#[test]
fn threads_run_one_lstm_at_different_lengths() {
    let graph = zoo::lstm_graph(8, 16).expect("traces");
    let mut executable = compiled::compile(&graph, Mode::On, &device(2)).expect("compiles");
    let at = |t: i64| values(&graph, &DimEnv::new().with("T", t).with("B", 5), 7);
    // The weights come first or last in the draw, whatever the length: bind those of one draw for all.
    let first = at(1);
    compiled::bind(&mut executable, &first).expect("binds");
    let (executable, graph, first) = (&executable, &graph, &first);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                for t in [1, 20 + thread, 50, 3] {
                    let mut all = at(t);
                    let mut inputs = Vec::new();
                    for (i, input) in graph.inputs().iter().enumerate() {
                        match input.kind {
                            fuse_ir::InputKind::Parameter => all[i] = first[i].clone(),
                            fuse_ir::InputKind::Input => inputs.push(i),
                        }
                    }
                    let given: Vec<&Tensor> = inputs.iter().map(|i| &all[*i]).collect();
                    let outputs = executable.run(given.as_slice(), &DimEnv::new()).expect("runs");
                    let expected = Interpreter::new(Precision::F64).run(graph, &all).expect("interprets");
                    for (got, expected) in outputs.iter().zip(&expected) {
                        compare(got, expected, Tolerance::absolute(1e-5)).expect("agrees");
                    }
                }
            });
        }
    });
}

#[test]
fn the_operations_of_an_unfused_lstm_share_memory() {
    let graph = zoo::lstm_graph(64, 128).expect("traces");
    let dims = DimEnv::new().with("T", 100).with("B", 8);
    let mut executable = compiled::compile(&graph, Mode::Off, &device(1)).expect("compiles");
    compiled::bind(&mut executable, &values(&graph, &dims, 1)).expect("binds");
    let plan = executable.plan(&dims).expect("plans");
    assert!(3 * plan.arena_bytes < 2 * plan.unplanned_bytes, "{plan}");
    assert_eq!(plan.arena_bytes, plan.live_bytes, "nothing is lost to gaps\n{plan}");
}
