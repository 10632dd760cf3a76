//! Stacks of layers as wavefronts: where they apply and where they just do not, at lengths down to none.

use fuse_frontend::zoo::cells::{Gru, Lstm, TanhRnn};
use fuse_frontend::zoo::{Cell, StackForm, stack_of};
use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::kernel::{KernelGraph, Loop, Step};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, Graph, interpret_kernels, parse, parse_kernels, verify_kernels};
use fuse_rewrite::{Optimized, Options, assumed_dims, cost_of, explain, optimize};

/// Long enough for every loop of a wavefront to run, down to where only some or none do.
const LENGTHS: [i64; 7] = [0, 1, 2, 3, 4, 5, 7];

/// A device on which launches cost so much that whatever saves one is worth it.
fn eager() -> DeviceModel {
    DeviceModel { launch_seconds: 1.0, ..DeviceModel::cuda() }
}

/// The kernels of a graph for a device, which compute what it means at all lengths.
fn fused(graph: &Graph, device: &DeviceModel) -> Optimized {
    let optimized = optimize(graph, device, &Options::default()).unwrap();
    verify_kernels(&optimized.kernels).unwrap_or_else(|e| panic!("{e}\n{}", optimized.kernels));
    let text = optimized.kernels.to_string();
    assert_eq!(parse_kernels(&text).unwrap(), optimized.kernels, "{text}");
    for t in LENGTHS {
        let mut dims = DimEnv::new();
        for symbol in graph.symbols() {
            dims.set(symbol.clone(), if symbol.name() == "B" { 2 } else { t });
        }
        let inputs = inputs_for(graph, &dims, 3).unwrap();
        let expected = interpret(graph, &inputs, Precision::F64).unwrap();
        let got = interpret_kernels(&optimized.kernels, &inputs, &dims).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(expected.len(), got.len());
        for (e, g) in expected.iter().zip(&got) {
            assert_eq!(e.shape(), g.shape());
            for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                let close = (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                assert!(close, "{e} and {g} at T={t}\n{text}");
            }
        }
    }
    optimized
}

fn fused_text(text: &str) -> Optimized {
    fused(&parse(text).unwrap_or_else(|e| panic!("{e}")), &eager())
}

/// The outermost loops.
fn loops(kernels: &KernelGraph) -> Vec<&Loop> {
    let mut out = Vec::new();
    for step in &kernels.steps {
        match step {
            Step::Loop(l) => out.push(l),
            Step::Kernel(_) => {}
        }
    }
    out
}

/// The kernels of each outermost loop.
fn kernels_of_loops(optimized: &Optimized) -> Vec<usize> {
    loops(&optimized.kernels).iter().map(|l| l.body.len()).collect()
}

fn is_wavefront(optimized: &Optimized) -> bool {
    optimized.kernels.kernels().iter().any(|(k, _)| k.name.contains("_wave"))
}

fn stack<const N: usize, C: Cell<N>>(layers: usize, lengths: bool) -> Graph {
    stack_of::<N, C>("stack", 3, 4, StackForm { layers, bidirectional: false, lengths }).unwrap()
}

#[test]
fn a_stack_of_layers_is_a_launch_a_step() {
    let two = fused(&stack::<2, Lstm>(2, false), &eager());
    assert_eq!(kernels_of_loops(&two), [1, 1, 1], "{}", two.kernels);
    let dims = DimEnv::new().with("T", 100).with("B", 2);
    assert_eq!(loops(&two.kernels)[1].trip.eval_dim(&dims), Ok(99));
    // The initial states, the projection of the input, the final states; then a launch a step and one more.
    assert_eq!(cost_of(&two.kernels, &eager(), &dims).launches, 3.0 + 101.0, "{}", two.kernels);
    let three = fused(&stack::<2, Lstm>(3, false), &eager());
    assert_eq!(kernels_of_loops(&three), [1; 6], "{}", three.kernels);
    assert_eq!(cost_of(&three.kernels, &eager(), &dims).launches, 3.0 + 98.0 + 2.0 + 3.0, "{}", three.kernels);
}
