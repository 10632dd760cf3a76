//! Whole models: the kernels compute what the graph means, and are as few as promised.

use fuse_frontend::zoo;
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
            tensor(ty.dtype, &shape, i as u64 + 1)
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
