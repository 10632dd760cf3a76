//! The search for kernels: bounded, deterministic, reused, on record.

use fuse_frontend::zoo::{Scale, benchmark, cells::NasRnn, unrolled};
use fuse_frontend::{Tensor, concat, nn, trace};
use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::kernel::Kernel;
use fuse_ir::testing::inputs_for;
use fuse_ir::{DType, Dim, DimEnv, Graph, interpret_kernels, verify_kernels};
use fuse_rewrite::{Decisions, Mode, Optimized, Options, RewriteError, cost_of, optimize};

fn fused_for(graph: &Graph, device: &DeviceModel) -> Optimized {
    let fused = optimize(graph, device, &Options::default()).unwrap();
    verify_kernels(&fused.kernels).unwrap_or_else(|e| panic!("{e}\n{}", fused.kernels));
    fused
}

fn fused(graph: &Graph) -> Optimized {
    fused_for(graph, &DeviceModel::cpu())
}

/// The kernels compute what the graph means.
fn check(graph: &Graph, fused: &Optimized, dims: &[(&str, i64)]) {
    let dims = dims.iter().fold(DimEnv::new(), |env, (name, value)| env.with(name, *value));
    let inputs = inputs_for(graph, &dims, 3).unwrap();
    let expected = interpret(graph, &inputs, Precision::F64).unwrap();
    let got = interpret_kernels(&fused.kernels, &inputs, &dims).unwrap();
    for (e, g) in expected.iter().zip(&got) {
        assert_eq!(e.shape(), g.shape());
        for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
            let close = (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
            assert!(close, "{e} and {g}\n{}", fused.kernels);
        }
    }
}

/// What every search stays within, whatever the graph: nodes, and points visited while decisions are evaluated.
fn bounded(fused: &Optimized) {
    let report = &fused.report;
    assert!(report.saturation.nodes <= 100_000, "{report}");
    assert!(report.extraction.visited <= 8_000_000, "{report}");
}

fn stack(layers: usize, hidden: i64) -> Graph {
    trace("stack", |t| {
        let x = t.input("x", DType::F32, ("T", "B", hidden));
        let options = nn::StackOptions { layers, bidirectional: false };
        let layers = nn::declare_stack(t, nn::Gates::Lstm, "", hidden, hidden, options);
        let (y, (h, c)) = nn::lstm(&x, &layers, None, None);
        t.output("y", y);
        t.output("h", h);
        t.output("c", c);
    })
    .unwrap()
}

fn nas(steps: usize, hidden: i64) -> Graph {
    unrolled::<1, NasRnn>("nas", steps, hidden, hidden).unwrap()
}

#[test]
fn every_step_of_an_unrolled_cell_is_one_kernel_at_a_third_of_the_cost() {
    let graph = nas(5, 512);
    let device = DeviceModel::cuda();
    let fused = fused_for(&graph, &device);
    assert!(fused.report.kernels <= 6, "{}", fused.kernels);
    let unfused = optimize(&graph, &device, &Options { mode: Mode::Off, ..Options::default() }).unwrap();
    let dims = DimEnv::new().with("B", 1);
    let (before, after) =
        (cost_of(&unfused.kernels, &device, &dims), cost_of(&fused.kernels, &device, &dims));
    assert!(before.seconds >= 3.0 * after.seconds, "{} and {}", before.seconds, after.seconds);
    assert!(after.bytes < before.bytes && after.launches <= 6.0);
    let small = nas(3, 6);
    let fused = self::fused(&small);
    check(&small, &fused, &[("B", 2)]);
}

#[test]
fn an_unrolled_chain_takes_work_in_proportion_to_its_length() {
    let of = |steps| fused_for(&nas(steps, 512), &DeviceModel::cuda());
    let (short, long) = (of(6), of(24));
    assert_eq!(long.report.kernels, 24);
    let (short, long) = (&short.report.extraction, &long.report.extraction);
    assert!(long.evaluated <= short.evaluated + 8, "{long:?}");
    assert!(long.visited <= 5 * short.visited, "{short:?} {long:?}");
    assert!(long.reused >= 18, "{long:?}");
}

#[test]
fn a_deep_stack_takes_work_in_proportion_to_its_layers() {
    let (twelve, all) = (fused(&stack(12, 64)), fused(&stack(24, 64)));
    assert_eq!(all.report.kernels_in_loops, 24);
    assert!(all.report.saturation.nodes <= 21 * twelve.report.saturation.nodes / 10);
    let (twelve, all) = (&twelve.report.extraction, &all.report.extraction);
    assert!(all.evaluated <= twelve.evaluated + 8, "{twelve:?} {all:?}");
    assert!(all.visited <= 3 * twelve.visited, "{twelve:?} {all:?}");
    bounded(&fused(&stack(24, 64)));
}

#[test]
fn equal_layers_become_equal_kernels() {
    let fused = fused(&stack(6, 64));
    let steps: Vec<&Kernel> =
        fused.kernels.kernels().into_iter().filter(|(_, depth)| *depth > 0).map(|(k, _)| k).collect();
    assert_eq!(steps.len(), 6);
    // The first layer reads an input and so is no copy of the others; the last one's results are outputs.
    for pair in steps[1..5].windows(2) {
        let form = |k: &Kernel| (k.rank, k.extents.clone(), k.ops.clone(), k.elements.len(), k.stores.len());
        assert_eq!(form(pair[0]), form(pair[1]));
    }
    assert!(fused.report.extraction.reused >= 3, "{:?}", fused.report.extraction);
}

#[test]
fn nothing_depends_on_the_number_of_steps() {
    let with = |steps: Dim| {
        let graph = trace("lstm", |t| {
            let x = t.input("x", DType::F32, (steps, "B", 64));
            let options = nn::StackOptions { layers: 1, bidirectional: false };
            let layers = nn::declare_stack(t, nn::Gates::Lstm, "", 64, 64, options);
            t.output("y", nn::lstm(&x, &layers, None, None).0);
        });
        fused(&graph.unwrap()).report
    };
    let (ten, many) = (with(10.into()), with(100_000.into()));
    assert_eq!(ten.saturation.nodes, many.saturation.nodes);
    assert!(many.extraction.visited <= 2 * ten.extraction.visited);
}

#[test]
fn a_hundred_terms_are_one_kernel() {
    let graph = trace("sum", |t| {
        let terms: Vec<Tensor> = (0..100).map(|i| t.input(&format!("x{i}"), DType::F32, ("B",))).collect();
        t.output("y", terms.iter().skip(1).fold(terms[0].clone(), |sum, x| sum + x));
    })
    .unwrap();
    let fused = fused(&graph);
    assert_eq!(fused.report.kernels, 1);
    bounded(&fused);
    check(&graph, &fused, &[("B", 3)]);
}

#[test]
fn chains_of_reshapes_and_transposes_stay_bounded() {
    let graph = trace("views", |t| {
        let mut x = t.input("x", DType::F32, (6, 35));
        for i in 0..120 {
            let shape: (i64, i64) = [(35, 6), (14, 15), (10, 21), (6, 35)][i % 4];
            x = x.transpose(0, 1).reshape(shape) + 1.0;
        }
        t.output("y", x);
    })
    .unwrap();
    let fused = fused(&graph);
    bounded(&fused);
    check(&graph, &fused, &[]);
}

/// Every link reads the one before at two places, so that the chain in one kernel would compute the first link
/// at 2¹⁶.
#[test]
fn sums_of_a_value_and_a_view_of_it_do_not_double_without_end() {
    let graph = trace("doubling", |t| {
        let mut x = t.input("x", DType::F32, ("B", 64));
        for i in 0..16 {
            x = (x.slice(1, 0..60) * 0.5 + x.slice(1, (1 + i % 3)..(61 + i % 3)).tanh()).pad(1, 2, 2, 0.0);
        }
        t.output("y", x);
    })
    .unwrap();
    let fused = fused(&graph);
    bounded(&fused);
    check(&graph, &fused, &[("B", 2)]);
}

/// Every product reads the one before at every position of an axis it reduces.
#[test]
fn a_chain_of_products_is_not_computed_within_itself() {
    let graph = trace("products", |t| {
        let mut x = t.input("x", DType::F32, ("B", 64));
        for i in 0..12 {
            x = x.matmul(t.parameter(&format!("w{i}"), DType::F32, (64, 64))).tanh();
        }
        t.output("y", x);
    })
    .unwrap();
    let fused = fused_for(&graph, &DeviceModel::cuda());
    bounded(&fused);
    assert_eq!(fused.report.kernels, 12, "{}", fused.kernels);
    check(&graph, &fused, &[("B", 2)]);
}

#[test]
fn wide_joins_and_many_selections_stay_bounded_and_copy_nothing() {
    let graph = trace("wide", |t| {
        let parts: Vec<Tensor> = (0..150).map(|i| t.input(&format!("x{i}"), DType::F32, ("B", 4))).collect();
        let mut y = concat(parts.iter().map(|x| x.tanh()), 1);
        for i in 0..60 {
            y = y.gt(i as f64 / 60.0).select(y.clone() * 0.5, y.clone() + 0.25);
        }
        t.output("y", y);
    })
    .unwrap();
    let fused = fused(&graph);
    bounded(&fused);
    check(&graph, &fused, &[("B", 2)]);
    assert!(copies(&fused).is_empty(), "{}", fused.kernels);
}

#[test]
fn a_long_pointwise_chain_and_many_outputs_stay_bounded() {
    let chain = trace("chain", |t| {
        let mut x = t.input("x", DType::F32, ("B",));
        for i in 0..2000 {
            x = if i % 2 == 0 { x * 1.001 } else { x.tanh() };
        }
        t.output("y", x);
    })
    .unwrap();
    let fused_chain = fused(&chain);
    assert_eq!(fused_chain.report.kernels, 1);
    bounded(&fused_chain);
    let outputs = trace("outputs", |t| {
        let x = t.input("x", DType::F32, ("B", 8));
        let shared = x.exp();
        for i in 0..500 {
            t.output(&format!("y{i}"), (&shared * f64::from(i)).tanh());
        }
    })
    .unwrap();
    let fused = fused(&outputs);
    assert_eq!(fused.report.kernels, 1);
    bounded(&fused);
    check(&outputs, &fused, &[("B", 2)]);
}

#[test]
fn a_limit_on_nodes_or_time_still_gives_a_correct_program() {
    let graph = stack(2, 8);
    for options in [
        Options { node_limit: 10, ..Options::default() },
        Options { time_limit: std::time::Duration::ZERO, ..Options::default() },
        Options { iteration_limit: 0, ..Options::default() },
    ] {
        let fused = optimize(&graph, &DeviceModel::cpu(), &options).unwrap();
        verify_kernels(&fused.kernels).unwrap();
        check(&graph, &fused, &[("T", 3), ("B", 2)]);
    }
}

/// The names of kernels that compute nothing.
fn copies(fused: &Optimized) -> Vec<String> {
    let copy = |k: &Kernel| k.ops.iter().all(|o| o == "copy" || o == "select" || o == "lt" || o == "ge");
    let kernels = fused.kernels.kernels();
    kernels.iter().filter(|(k, _)| copy(k)).map(|(k, _)| k.name.clone()).collect()
}

#[test]
fn joined_and_sliced_values_are_read_where_they_lie() {
    let graph = trace("joined", |t| {
        let x = t.input("x", DType::F32, ("B", 64));
        let h = t.input("h", DType::F32, ("B", 64));
        let w = t.parameter("w", DType::F32, (64, 256));
        let [a, b, c, d] = x.matmul(w).split(1);
        let gates = concat([a.sigmoid() * b.tanh(), c.sigmoid() * h], 1).reverse([1]);
        t.output("y", gates.transpose(0, 1) * 2.0);
        t.output("z", d.slice_by(1, 0..64, 2));
    })
    .unwrap();
    let fused = fused(&graph);
    assert!(copies(&fused).is_empty(), "{}", fused.kernels);
    check(&graph, &fused, &[("B", 3)]);
}

#[test]
fn row_statistics_fuse_with_what_surrounds_them() {
    let softmax = trace("softmax", |t| {
        let x = t.input("x", DType::F32, ("B", 64));
        let y = t.input("y", DType::F32, ("B", 64));
        t.output("z", (x * 2.0).softmax(-1) * y.tanh());
    })
    .unwrap();
    let norm = trace("norm", |t| {
        let x = t.input("x", DType::F32, ("B", 64));
        t.output("z", (x * 2.0).layer_norm([-1], 1e-5).sigmoid());
    })
    .unwrap();
    for graph in [softmax, norm] {
        let fused = fused(&graph);
        assert_eq!(fused.report.kernels, 1, "{}", fused.kernels);
        check(&graph, &fused, &[("B", 2)]);
    }
}

#[test]
fn the_same_seed_gives_the_same_program_in_every_thread() {
    let text = |seed: u64| {
        let options = Options { seed, ..Options::default() };
        optimize(&nas(3, 16), &DeviceModel::cpu(), &options).unwrap().kernels.to_string()
    };
    for seed in [0, 1, 77] {
        let expected = text(seed);
        let others = std::thread::scope(|s| {
            let threads: Vec<_> = (0..3).map(|_| s.spawn(|| text(seed))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(others.iter().all(|o| *o == expected));
    }
}

#[test]
fn every_seed_gives_a_correct_program() {
    let graph = stack(2, 6);
    for seed in 1..6 {
        let fused = optimize(&graph, &DeviceModel::cpu(), &Options { seed, ..Options::default() }).unwrap();
        verify_kernels(&fused.kernels).unwrap();
        check(&graph, &fused, &[("T", 3), ("B", 2)]);
    }
}

#[test]
fn a_record_replays_to_the_same_kernels_without_a_search() {
    for model in benchmark(Scale::Small).unwrap() {
        let recorded =
            optimize(&model.graph, &DeviceModel::cpu(), &Options { record: true, ..Options::default() });
        let recorded = recorded.unwrap();
        let decisions = recorded.decisions.unwrap();
        let text = decisions.to_string();
        assert_eq!(text.parse::<Decisions>().unwrap(), decisions);
        let replay = Some(text.parse().unwrap());
        let replayed =
            optimize(&model.graph, &DeviceModel::cpu(), &Options { replay, ..Options::default() }).unwrap();
        assert_eq!(replayed.kernels.to_string(), recorded.kernels.to_string(), "{}", model.graph.name());
        assert_eq!(replayed.report.extraction.evaluated, 1);
        assert_eq!(replayed.report.extractor, "replay");
    }
}

#[test]
fn a_record_of_another_graph_is_an_error() {
    let record = optimize(&stack(2, 8), &DeviceModel::cpu(), &Options { record: true, ..Options::default() });
    let record = record.unwrap().decisions;
    let options = Options { replay: record, ..Options::default() };
    let error = optimize(&nas(2, 8), &DeviceModel::cpu(), &options).unwrap_err();
    assert!(matches!(error, RewriteError::Replay { .. }), "{error}");
    assert!(error.to_string().contains("on record"), "{error}");
    // Too little: a product under another product's axis must be in memory.
    let nothing = "decisions nas\n".parse().unwrap();
    let options = Options { replay: Some(nothing), ..Options::default() };
    let error = optimize(&nas(2, 64), &DeviceModel::cpu(), &options).unwrap_err();
    assert!(error.to_string().contains("must be in memory"), "{error}");
    for text in
        ["", "decision x", "decisions x\nmemory", "decisions x\nmemory zz tanh", "decisions x\nmemory 1#a t"]
    {
        assert!(text.parse::<Decisions>().is_err(), "{text}");
    }
}
