//! Random programs, compiled for the CPU, against the interpreter; a few in an ordinary run, `FUSE_SOAK=n` for more
//! (`make soak`).
//!
//! The interpreter runs in f64, the compiled program in the declared types and in another order; how far apart they
//! may be is measured, see [`Reference`].

use fuse::ir::DType;
use fuse::ir::testing::{GraphConfig, Reference, Rounding, arb_dims, arb_graph, dims_for};
use fuse::rewrite::ChunkPolicy;
use fuse::{CompileOptions, Device, DimEnv, Graph, Target};
use proptest::prelude::*;

fn trials(ordinary: u32) -> u32 {
    std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(ordinary)
}

/// A graph that prints as text.
struct Shown(Graph);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn check(
    graph: &Graph,
    dims: &DimEnv,
    options: &CompileOptions,
    device: &Device,
    seed: u64,
) -> Result<(), TestCaseError> {
    let fail = |e: &dyn std::fmt::Display| TestCaseError::fail(format!("{e}\n{graph}"));
    let reference = Reference::of(graph, dims, seed, Rounding::DECLARED).map_err(|e| fail(&e))?;
    let compiled = fuse::compile(graph, options).map_err(|e| fail(&e))?;
    let mut model = compiled.load(device).map_err(|e| fail(&e))?;
    let (parameters, plain) = fuse::random::by_kind(graph, &reference.inputs);
    model.bind(parameters).map_err(|e| fail(&e))?;
    let got = model.run(&plain, dims).map_err(|e| fail(&e))?;
    match reference.difference(&got) {
        None => Ok(()),
        Some(text) => Err(fail(&format!("{dims:?}: {text}"))),
    }
}

fn config() -> GraphConfig {
    let dtypes = vec![DType::F32, DType::F64, DType::I32, DType::I64, DType::U8];
    GraphConfig { dtypes, ..GraphConfig::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: trials(24), max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_random_programs_compute_what_they_mean(
        graph in arb_graph(config()).prop_map(Shown),
        dims in arb_dims(),
        seed in 0u64..1000,
    ) {
        let device = Device::cpu(&Default::default()).expect("a team of threads starts");
        let dims = dims_for(&graph.0, &dims);
        let fused = CompileOptions::new(Target::Cpu);
        let mut in_chunks = fused.clone();
        in_chunks.rewrite.chunks = ChunkPolicy::Always;
        for options in [fused, in_chunks, CompileOptions::unfused(Target::Cpu)] {
            check(&graph.0, &dims, &options, &device, seed)?;
        }
    }
}
