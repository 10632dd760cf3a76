//! Kernels against graphs: whatever the graph, fused or not, its kernels verify and compute the same.

use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::testing::{GraphConfig, arb_dims, arb_graph, dims_for, inputs_for};
use fuse_ir::{DType, DimEnv, Graph, Tensor, interpret_kernels, verify_kernels};
use fuse_rewrite::{ChunkPolicy, Mode, Options, optimize};
use proptest::prelude::*;

/// The first difference of two outputs, in words. A difference of the last bits can flip a comparison or a
/// rounding further down, so the tolerance is for graphs without those; see the callers.
fn difference(expected: &[Tensor], got: &[Tensor], tolerance: f64) -> Option<String> {
    for (k, (e, g)) in expected.iter().zip(got).enumerate() {
        if e.shape() != g.shape() || e.dtype() != g.dtype() {
            return Some(format!("output {k} is {:?}, not {:?}", g.shape(), e.shape()));
        }
        for (i, (e, g)) in e.to_f64().iter().zip(g.to_f64()).enumerate() {
            let close = (e - g).abs() <= tolerance * (1.0 + e.abs())
                || (e.is_nan() && g.is_nan())
                || *e == g
                || tolerance == f64::INFINITY;
            if !close {
                return Some(format!("output {k} at {i}: {g} and not {e}"));
            }
        }
    }
    (expected.len() != got.len()).then(|| "the number of outputs differs".to_string())
}

fn options(mode: Mode) -> Options {
    Options { mode, ..Options::default() }
}

fn run(graph: &Graph, options: &Options, inputs: &[Tensor], dims: &DimEnv) -> Result<Vec<Tensor>, String> {
    let optimized = optimize(graph, &DeviceModel::cpu(), options).map_err(|e| e.to_string())?;
    verify_kernels(&optimized.kernels).map_err(|e| format!("{e}\n{}", optimized.kernels))?;
    interpret_kernels(&optimized.kernels, inputs, dims).map_err(|e| format!("{e}\n{}", optimized.kernels))
}

#[test]
fn every_op_keeps_its_meaning() {
    let mut failures = Vec::new();
    for case in fuse_ir::conformance::cases() {
        let mut dims = DimEnv::new();
        for (input, tensor) in case.graph.inputs().iter().zip(&case.inputs) {
            for (d, n) in case.graph.ty(input.value).shape.iter().zip(tensor.shape()) {
                for symbol in d.symbols() {
                    if d == &fuse_ir::Expr::symbol(symbol.name()) {
                        dims.set(symbol, *n as i64);
                    }
                }
            }
        }
        for mode in [Mode::On, Mode::Off] {
            match run(&case.graph, &options(mode), &case.inputs, &dims) {
                Ok(got) => {
                    // Kernels run in f64 here; expected values are rounded to the declared type.
                    let narrow = ["f16", "bf16"].iter().any(|t| case.name.ends_with(t));
                    let tolerance = if narrow { 1e-2 } else { 1e-6 };
                    if let Some(text) = difference(&case.expected, &got, tolerance) {
                        failures.push(format!("{} {mode:?}: {text}", case.name));
                    }
                }
                Err(text) => failures.push(format!("{} {mode:?}: {text}", case.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

fn agrees(graph: &Graph, dims: &DimEnv, options: &Options, tolerance: f64) -> Result<(), TestCaseError> {
    let dims = dims_for(graph, dims);
    let inputs = inputs_for(graph, &dims, 7).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let expected = Interpreter::new(Precision::F64)
        .with_dims(dims.clone())
        .run(graph, &inputs)
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    let got =
        run(graph, options, &inputs, &dims).map_err(|e| TestCaseError::fail(format!("{e}\n{graph}")))?;
    match difference(&expected, &got, tolerance) {
        None => Ok(()),
        Some(text) => Err(TestCaseError::fail(format!("{:?} {dims:?} {text}\n{graph}", options.mode))),
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(192)
}

/// A graph that prints as text.
struct Shown(Graph);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn graphs(config: GraphConfig) -> impl Strategy<Value = Shown> {
    arb_graph(config).prop_map(Shown)
}

/// Types whose constants fold to what the f64 interpreter computes: folding rounds to the declared type.
fn wide() -> GraphConfig {
    GraphConfig { dtypes: vec![DType::F64, DType::I32, DType::I64, DType::U8], ..GraphConfig::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_keep_their_meaning_unfused(graph in graphs(GraphConfig::default()), dims in arb_dims()) {
        agrees(&graph.0, &dims, &options(Mode::Off), 1e-9)?;
    }

    #[test]
    fn random_graphs_keep_their_meaning_fused(graph in graphs(wide()), dims in arb_dims()) {
        agrees(&graph.0, &dims, &options(Mode::On), 1e-9)?;
    }

    #[test]
    fn random_graphs_keep_their_meaning_in_chunks_of_time(graph in graphs(wide()), dims in arb_dims()) {
        agrees(&graph.0, &dims, &Options { chunks: ChunkPolicy::Always, ..options(Mode::On) }, 1e-9)?;
    }

    #[test]
    fn random_graphs_of_all_types_become_legal_kernels(
        graph in graphs(GraphConfig::default()),
        dims in arb_dims(),
    ) {
        agrees(&graph.0, &dims, &options(Mode::On), f64::INFINITY)?;
    }

    #[test]
    fn equal_graphs_give_equal_kernels(graph in graphs(GraphConfig::default())) {
        let kernels = || optimize(&graph.0, &DeviceModel::cpu(), &Options::default()).unwrap().kernels;
        prop_assert_eq!(kernels().to_string(), kernels().to_string());
    }
}
