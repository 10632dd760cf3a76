//! Random programs, compiled for the CPU, against the interpreter; a few in an ordinary run, `FUSE_SOAK=n` for more
//! (`make soak`).
//!
//! The interpreter runs in f64, the compiled program in the declared types and in another order. Where the last bit
//! of an operand decides (a comparison, a rounding, a difference of equals) both are right, so how far a result may
//! be off follows from how far the interpreter itself moves: in the declared types, and for inputs that differ in
//! their last places.

use fuse::ir::interp::{Interpreter, Precision};
use fuse::ir::testing::{GraphConfig, arb_dims, arb_graph, dims_for, inputs_for};
use fuse::ir::{DType, Literal, Tensor};
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

/// All of the interpreter's outputs, or why there are none.
fn interpret(
    graph: &Graph,
    dims: &DimEnv,
    inputs: &[Tensor],
    how: Precision,
) -> Result<Vec<Vec<f64>>, TestCaseError> {
    let outputs = Interpreter::new(how).with_dims(dims.clone()).run(graph, inputs);
    let outputs = outputs.map_err(|e| TestCaseError::fail(e.to_string()))?;
    Ok(outputs.iter().map(Tensor::to_f64).collect())
}

/// The inputs with floats off by a few units in the last place.
fn nudged(inputs: &[Tensor], round: u64) -> Vec<Tensor> {
    let nudge = |tensor: &Tensor| {
        let mut out = tensor.clone();
        let dtype = tensor.dtype();
        for (i, chunk) in out.bytes_mut().chunks_exact_mut(dtype.size()).enumerate() {
            let Some(value) = tensor.get(i).filter(|_| dtype.is_float()) else { continue };
            let sign = if (i as u64).wrapping_mul(0x9e37_79b9).wrapping_add(round * 7).is_multiple_of(3) {
                -1.0
            } else {
                1.0
            };
            let off = value.as_f64() * (1.0 + sign * 4e-7) + sign * 1e-9;
            chunk.copy_from_slice(&Literal::from_f64(dtype, off).bits().to_le_bytes()[..dtype.size()]);
        }
        out
    };
    inputs.iter().map(nudge).collect()
}

/// How far results may be apart where the interpreter gave these.
fn tolerance(expected: f64, others: &[f64]) -> f64 {
    let moved = others
        .iter()
        .map(|o| if o.is_nan() != expected.is_nan() { f64::INFINITY } else { (o - expected).abs() });
    let moved = moved.filter(|d| !d.is_nan()).fold(0.0, f64::max);
    1e-5 * (1.0 + expected.abs()) + 64.0 * moved
}

fn check(
    graph: &Graph,
    dims: &DimEnv,
    options: &CompileOptions,
    device: &Device,
    seed: u64,
) -> Result<(), TestCaseError> {
    let fail = |e: &dyn std::fmt::Display| TestCaseError::fail(format!("{e}\n{graph}"));
    let inputs = inputs_for(graph, dims, seed).map_err(|e| fail(&e))?;
    let expected = interpret(graph, dims, &inputs, Precision::F64)?;
    let mut others = vec![interpret(graph, dims, &inputs, Precision::Declared)?];
    for round in 0..2 {
        others.push(interpret(graph, dims, &nudged(&inputs, round), Precision::F64)?);
    }
    let compiled = fuse::compile(graph, options).map_err(|e| fail(&e))?;
    let mut model = compiled.load(device).map_err(|e| fail(&e))?;
    let (parameters, plain) = fuse::random::by_kind(graph, &inputs);
    model.bind(parameters).map_err(|e| fail(&e))?;
    let got = model.run(&plain, dims).map_err(|e| fail(&e))?;
    for (k, (tensor, expected)) in got.iter().zip(&expected).enumerate() {
        for (i, (g, e)) in tensor.to_f64().iter().zip(expected).enumerate() {
            let moved: Vec<f64> = others.iter().map(|o| o[k][i]).collect();
            let close = (g - e).abs() <= tolerance(*e, &moved) || g == e || (g.is_nan() && e.is_nan());
            // Beyond f32 there is no telling an overflow from a large number.
            let wild = !e.is_finite() || e.abs() > 1e30 || moved.iter().any(|m| !m.is_finite());
            if !close && !wild {
                let name = &graph.outputs()[k].name;
                return Err(fail(&format!("{name} at {i}, {dims:?}: {g} and not {e} (others: {moved:?})")));
            }
        }
    }
    Ok(())
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
