//! Rewrites graphs of scans, and checks that the kernels compute what the graph means.

#![allow(dead_code, reason = "each test binary uses a part")]

use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::kernel::{KernelGraph, Loop, Step};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, interpret_kernels, parse, verify_kernels};
use fuse_rewrite::{Optimized, Options, optimize};

/// Lengths of `T` and `B`.
pub const LENGTHS: [(i64, i64); 5] = [(3, 2), (1, 1), (0, 2), (5, 3), (2, 0)];

/// How many random inputs each graph gets at each length: one, or more where `FUSE_SOAK` says how often a rule is
/// tried, for which there are about four graphs and five lengths.
pub fn seeds() -> u64 {
    let soak = std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse::<u64>().ok());
    soak.map_or(1, |n| n.div_ceil(20))
}

/// The kernels of a graph for a device, which compute what it means at these lengths of `T` and `B`.
pub fn fused_for(text: &str, device: &DeviceModel, lengths: &[(i64, i64)]) -> Optimized {
    let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let optimized = optimize(&graph, device, &Options::default()).unwrap();
    verify_kernels(&optimized.kernels).unwrap_or_else(|e| panic!("{e}"));
    for (t, b) in lengths {
        let mut dims = DimEnv::new();
        for symbol in graph.symbols() {
            dims.set(symbol.clone(), if symbol.name() == "B" { *b } else { *t });
        }
        for seed in 3..3 + seeds() {
            let inputs = inputs_for(&graph, &dims, seed).unwrap();
            let expected = interpret(&graph, &inputs, Precision::F64).unwrap();
            let got = interpret_kernels(&optimized.kernels, &inputs, &dims).unwrap();
            for (e, g) in expected.iter().zip(&got) {
                assert_eq!(e.shape(), g.shape());
                for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                    let close =
                        (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                    assert!(close, "{e} and {g} at T={t} B={b}, seed {seed}\n{}", optimized.kernels);
                }
            }
        }
    }
    optimized
}

/// The same on a CPU, at the usual lengths.
pub fn fused(text: &str) -> Optimized {
    fused_for(text, &DeviceModel::cpu(), &LENGTHS)
}

/// The outermost loops.
pub fn loops(kernels: &KernelGraph) -> Vec<&Loop> {
    let mut out = Vec::new();
    for step in &kernels.steps {
        match step {
            Step::Loop(l) => out.push(l),
            Step::Kernel(_) => {}
        }
    }
    out
}
