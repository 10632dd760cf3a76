//! Whole models: the kernels compute what the graph means, and are as few as promised.

use fuse_frontend::{nn, trace, zoo};
use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::kernel::KernelGraph;
use fuse_ir::{DType, DimEnv, Graph, Tensor, interpret_kernels, verify_kernels};
use fuse_rewrite::{Mode, Optimized, Options, optimize};

/// Numbers that do not repeat, by a linear congruence.
fn tensor(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut tensor = Tensor::zeros(dtype, shape).unwrap();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let size = dtype.size();
    for i in 0..tensor.elements() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
        let literal = fuse_ir::Literal::from_f64(dtype, 1.6 * unit - 0.8);
        tensor.bytes_mut()[i * size..(i + 1) * size].copy_from_slice(&literal.bits().to_le_bytes()[..size]);
    }
    tensor
}

fn inputs(graph: &Graph, dims: &DimEnv) -> Vec<Tensor> {
    let inputs = graph.inputs().iter().enumerate();
    inputs
        .map(|(i, input)| {
            let ty = graph.ty(input.value);
            let shape: Vec<usize> = ty.shape.iter().map(|d| d.eval_dim(dims).unwrap() as usize).collect();
            if ty.dtype.is_float() {
                return tensor(ty.dtype, &shape, i as u64 + 1);
            }
            // Lengths: from none to more than there are steps.
            let lengths: Vec<i32> = (0..shape.iter().product::<usize>()).map(|b| 3 * b as i32).collect();
            Tensor::from_values(&shape, &lengths).unwrap()
        })
        .collect()
}

fn options(mode: Mode) -> Options {
    Options { mode, ..Options::default() }
}

fn optimized(graph: &Graph, mode: Mode) -> Optimized {
    let optimized = optimize(graph, &DeviceModel::cpu(), &options(mode)).unwrap();
    if let Err(error) = verify_kernels(&optimized.kernels) {
        panic!("{error}\n{}", optimized.kernels);
    }
    optimized
}

fn check(graph: &Graph, kernels: &KernelGraph, dims: &[(&str, i64)]) {
    let env = dims.iter().fold(DimEnv::new(), |env, (name, value)| env.with(name, *value));
    let inputs = inputs(graph, &env);
    let expected = Interpreter::new(Precision::F64).with_dims(env.clone()).run(graph, &inputs).unwrap();
    let got = interpret_kernels(kernels, &inputs, &env).unwrap_or_else(|e| panic!("{e}\n{kernels}"));
    for ((e, g), output) in expected.iter().zip(&got).zip(graph.outputs()) {
        assert_eq!(e.shape(), g.shape(), "{}", output.name);
        for (i, (e, g)) in e.to_f64().iter().zip(g.to_f64()).enumerate() {
            let close = (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || (e.is_nan() && g.is_nan()) || *e == g;
            assert!(close, "{} {dims:?} at {i}: {e} and {g}\n{kernels}", output.name);
        }
    }
}

const SIZES: [[(&str, i64); 2]; 4] =
    [[("T", 0), ("B", 2)], [("T", 1), ("B", 1)], [("T", 5), ("B", 3)], [("T", 7), ("B", 0)]];

fn model(graph: Graph) -> Optimized {
    let fused = optimized(&graph, Mode::On);
    let unfused = optimized(&graph, Mode::Off);
    for dims in SIZES {
        check(&graph, &fused.kernels, &dims);
        check(&graph, &unfused.kernels, &dims);
    }
    assert!(unfused.report.kernels_in_loops > 2 * fused.report.kernels_in_loops);
    fused
}

#[test]
fn an_lstm_step_is_one_kernel_and_its_projection_is_outside() {
    let fused = model(zoo::lstm_graph(3, 4).unwrap());
    println!("{}\n{}", fused.report, fused.kernels);
    assert_eq!(fused.report.kernels_in_loops, 1);
    let before = fused.kernels.kernels();
    assert!(before.iter().any(|(k, depth)| *depth == 0 && k.ops.contains(&"contract".to_string())));
}

#[test]
fn a_gru_step_is_at_most_two_kernels() {
    let fused = model(zoo::gru_graph(3, 4).unwrap());
    println!("{}\n{}", fused.report, fused.kernels);
    assert!(fused.report.kernels_in_loops <= 2);
}

#[test]
fn a_layer_norm_lstm_step_is_at_most_four_kernels() {
    let fused = model(zoo::layer_norm_lstm_graph(3, 4).unwrap());
    println!("{}\n{}", fused.report, fused.kernels);
    assert!(fused.report.kernels_in_loops <= 4);
}

#[test]
fn a_custom_cell_fuses_by_the_same_rules() {
    let fused = model(zoo::custom_cell_graph(3, 4).unwrap());
    println!("{}\n{}", fused.report, fused.kernels);
    assert!(fused.report.kernels_in_loops <= 2);
}

/// A stack of LSTM layers, of one or two directions, whose rows end where `lengths` says. It has one input more than
/// units.
fn lstm_stack(layers: usize, bidirectional: bool, lengths: bool) -> Graph {
    lstm_stack_of(2, layers, bidirectional, lengths)
}

fn lstm_stack_of(units: i64, layers: usize, bidirectional: bool, lengths: bool) -> Graph {
    trace("stack", |t| {
        let x = t.input("x", DType::F32, ("T", "B", units + 1));
        let lengths = lengths.then(|| t.input("lengths", DType::I32, ("B",)));
        let options = nn::StackOptions { layers, bidirectional };
        let layers = nn::declare_stack(t, nn::Gates::Lstm, "", units + 1, units, options);
        let (y, (h, c)) = nn::lstm(&x, &layers, None, lengths.as_ref());
        t.output("y", y);
        t.output("h", h);
        t.output("c", c);
    })
    .unwrap()
}

#[test]
fn every_layer_of_a_stack_is_a_loop_of_one_kernel_with_its_projection_before_it() {
    // Wide enough that the layers run one after the other.
    let fused = model(lstm_stack_of(32, 3, false, false));
    assert_eq!(fused.report.kernels_in_loops, 3, "{}", fused.kernels);
    let projections = fused
        .kernels
        .kernels()
        .into_iter()
        .filter(|(k, depth)| *depth == 0 && k.ops.iter().any(|o| o == "contract"));
    assert_eq!(projections.count(), 3, "{}", fused.kernels);
}

#[test]
fn both_directions_of_a_layer_are_one_loop_of_one_kernel() {
    let fused = model(lstm_stack(1, true, false));
    assert_eq!(fused.report.kernels_in_loops, 1, "{}", fused.kernels);
}

#[test]
fn freezing_rows_past_their_length_costs_no_kernel() {
    let fused = model(lstm_stack(1, false, true));
    assert_eq!(fused.report.kernels_in_loops, 1, "{}", fused.kernels);
    model(lstm_stack(2, true, true));
}

#[test]
fn a_scan_in_a_scan_is_a_loop_in_a_loop_where_it_depends_on_the_outer_state() {
    let graph = trace("nested", |t| {
        let x = t.input("x", DType::F32, ("T", "B"));
        let w = t.parameter("w", DType::F32, (2, "B"));
        let h0 = t.zeros(DType::F32, ("B",));
        let (last, y) = t.scan(h0, x, |h, x| {
            let (inner, _) = t.scan(h + x, w.clone(), |g, w| {
                let g = (g * w).tanh();
                (g.clone(), g)
            });
            (inner.clone(), inner)
        });
        t.output("y", y);
        t.output("last", last);
    })
    .unwrap();
    let fused = optimized(&graph, Mode::On);
    let unfused = optimized(&graph, Mode::Off);
    for dims in SIZES {
        check(&graph, &fused.kernels, &dims);
        check(&graph, &unfused.kernels, &dims);
    }
    assert!(fused.kernels.kernels().iter().any(|(_, depth)| *depth == 2), "{}", fused.kernels);
}

#[test]
fn a_scan_in_a_scan_runs_for_all_outer_steps_at_once_where_it_does_not() {
    let graph = trace("batched", |t| {
        let x = t.input("x", DType::F32, ("T", "B"));
        let h0 = t.zeros(DType::F32, ("B",));
        let w = t.parameter("w", DType::F32, (2, "B"));
        let (last, _) = t.scan(h0, x, |h, x| {
            let (inner, _) = t.scan(x.clone(), w.clone(), |g, w| {
                let g = (g * w).tanh();
                (g.clone(), g)
            });
            let h = (h + inner).tanh();
            (h.clone(), h)
        });
        t.output("last", last);
    })
    .unwrap();
    let fused = optimized(&graph, Mode::On);
    for dims in SIZES {
        check(&graph, &fused.kernels, &dims);
    }
    assert!(fused.kernels.kernels().iter().all(|(_, depth)| *depth <= 1), "{}", fused.kernels);
}

#[test]
fn what_only_outputs_need_leaves_the_loop() {
    let graph = trace("head", |t| {
        let x = t.input("x", DType::F32, ("T", "B", 8));
        let w = t.parameter("w", DType::F32, (8, 8));
        let v = t.parameter("v", DType::F32, (8, 64));
        let h0 = t.zeros(DType::F32, ("B", 8));
        let (_, y) = t.scan(h0, x, |h, x| {
            let h = (h.matmul(&w) + x).tanh();
            (h.clone(), h.matmul(&v).sigmoid())
        });
        t.output("y", y);
    })
    .unwrap();
    let fused = optimized(&graph, Mode::On);
    for dims in SIZES {
        check(&graph, &fused.kernels, &dims);
    }
    assert_eq!(fused.report.kernels_in_loops, 1, "{}", fused.kernels);
    let last = fused.kernels.kernels().into_iter().last().unwrap();
    assert!(last.1 == 0 && last.0.ops.contains(&"sigmoid".to_string()), "{}", fused.kernels);
}

#[test]
fn a_long_chain_of_operations_needs_no_deep_stack() {
    let graph = trace("chain", |t| {
        let mut x = t.input("x", DType::F32, ("B",));
        for _ in 0..9000 {
            x = x.tanh() + 1.0;
        }
        t.output("y", x.reshape(("B", 1)));
    })
    .unwrap();
    let fused = optimize(&graph, &DeviceModel::cpu(), &Options::default()).unwrap();
    assert_eq!(fused.report.kernels, 1);
}

#[test]
fn the_report_and_the_egraph_can_be_read() {
    let graph = zoo::gru_graph(3, 4).unwrap();
    let text = optimized(&graph, Mode::On).report.to_string();
    for part in ["rewriting gru", "saturation", "extraction (greedy)", "launches: T + 3"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let dump = fuse_rewrite::dump_egraph(&graph, &Options::default()).unwrap();
    for part in ["egraph gru", "in loop of scan 0", "contract", "carry", "output y"] {
        assert!(part == "contract" || dump.contains(part), "{part} is not in\n{dump}");
    }
}

#[test]
fn limits_end_saturation_and_leave_correct_kernels() {
    let graph = zoo::layer_norm_lstm_graph(3, 4).unwrap();
    let options = Options { node_limit: 130, iteration_limit: 1, ..Options::default() };
    let fused = optimize(&graph, &DeviceModel::cuda(), &options).unwrap();
    check(&graph, &fused.kernels, &SIZES[2]);
}

#[test]
fn fast_math_admits_approximate_rules_and_nothing_else_does() {
    let graph = trace("logexp", |t| {
        let x = t.input("x", DType::F32, ("B",));
        t.output("y", x.exp().log());
    })
    .unwrap();
    let with = |fast_math| {
        let options = Options { fast_math, ..Options::default() };
        let fused = optimize(&graph, &DeviceModel::cpu(), &options).unwrap();
        fused.kernels.kernels()[0].0.ops.clone()
    };
    assert_eq!(with(true), ["copy"]);
    assert_eq!(with(false), ["exp", "log"]);
}

#[test]
fn too_many_axes_are_an_error() {
    let graph = trace("wide", |t| {
        let mut x = t.input("x", DType::F32, ("B",));
        x = x.reshape(vec![fuse_ir::Dim::symbol("B"); 1]);
        let shape: Vec<fuse_ir::Dim> = (0..64).map(|_| 1.into()).collect();
        let ones = t.zeros(DType::F32, shape);
        let other = ones.clone();
        t.output("x", x);
        t.output("y", ones + other);
    })
    .unwrap();
    let error = optimize(&graph, &DeviceModel::cpu(), &Options::default()).unwrap_err();
    assert!(error.to_string().contains("iteration space"), "{error}");
}

#[test]
#[ignore = "prints kernels for people"]
fn show() {
    for graph in [
        zoo::lstm_graph(64, 128).unwrap(),
        zoo::gru_graph(64, 128).unwrap(),
        zoo::layer_norm_lstm_graph(64, 128).unwrap(),
        zoo::custom_cell_graph(64, 128).unwrap(),
    ] {
        let fused = optimized(&graph, Mode::On);
        println!("{}\n{}", fused.report, fused.kernels);
    }
}

/// `1 - z` beside `z` is one subtraction, not another sigmoid; the rule that equates the two must not cost anything.
#[test]
fn a_gru_computes_each_gate_once() {
    let fused = optimized(&zoo::gru_graph(8, 8).unwrap(), Mode::On);
    let kernels = fused.kernels.kernels();
    let elements = kernels.iter().flat_map(|(k, _)| &k.elements);
    let sigmoid = |e: &&fuse_ir::kernel::TypedElement| {
        matches!(e.element, fuse_ir::kernel::Element::Scalar(fuse_ir::ScalarOp::Sigmoid, _))
    };
    assert_eq!(elements.filter(sigmoid).count(), 2, "{}", fused.kernels);
}
