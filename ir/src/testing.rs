//! Random graphs for property tests, of this crate and of those that compile its graphs.
//!
//! [`arb_graph`] draws valid graphs over the dimensions `T` and `B` that also *run*: whatever small values
//! the two have, 0 included, no slice leaves its operand and no gather needs a row that is not there.
//! [`arb_dims`] draws such values, [`dims_for`] keeps those that a graph has, [`inputs_for`] makes inputs for them, and
//! [`Reference`] tells whether a program computes what a graph means.
//!
//! Shrinking removes steps and draws simpler ones, so a failing graph becomes a small one.

use proptest::prelude::*;

use crate::dtype::{DType, Literal};
use crate::expr::{DimEnv, EvalError};
use crate::graph::Graph;
use crate::tensor::Tensor;

mod builder;
mod choices;
mod reference;
mod scan;
mod structural;

use builder::Builder;
use choices::Recipe;
pub use reference::{Reference, Rounding};

/// Which graphs are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphConfig {
    /// The element types of inputs, constants and casts; bool appears beside them as the result of
    /// comparisons.
    pub dtypes: Vec<DType>,
    /// The constant extents.
    pub sizes: Vec<i64>,
    /// Whether extents may be `T` and `B` and expressions of them.
    pub symbols: bool,
    /// The largest number of statements drawn, those of scan bodies included.
    pub max_nodes: usize,
    /// How deep scans nest; 0 for none.
    pub scan_depth: usize,
    /// Whether constants may be any bits (infinities, NaN with payloads, numbers of any magnitude) and not
    /// only small numbers.
    pub any_literals: bool,
    /// Whether names may need quotes or look like keywords, and inputs may be defined late.
    pub odd_names: bool,
}

impl Default for GraphConfig {
    /// Graphs to compile and run: every element type and op, tame constants and names.
    fn default() -> Self {
        GraphConfig {
            dtypes: DType::ALL.to_vec(),
            sizes: vec![2, 1, 3, 5, 0],
            symbols: true,
            max_nodes: 24,
            scan_depth: 2,
            any_literals: false,
            odd_names: false,
        }
    }
}

impl GraphConfig {
    /// Graphs to print and parse: everything that may stand in one.
    pub fn text() -> Self {
        GraphConfig { any_literals: true, odd_names: true, ..GraphConfig::default() }
    }

    /// Graphs in f32 alone (with integers for indices and bools from comparisons).
    pub fn f32() -> Self {
        GraphConfig { dtypes: vec![DType::F32], ..GraphConfig::default() }
    }
}

/// Draws valid graphs.
pub fn arb_graph(config: GraphConfig) -> impl Strategy<Value = Graph> {
    let step = prop::array::uniform12(any::<u16>());
    let header = prop::array::uniform32(any::<u16>());
    let nodes = prop::collection::vec(step, 1..=config.max_nodes.max(1));
    (header, nodes).prop_map(move |(header, steps)| {
        let mut recipe = Recipe::new(&steps);
        Builder::program(&config, &mut Recipe::header(&header), &mut recipe)
    })
}

/// Draws small values of `T` and `B`, 0 included.
pub fn arb_dims() -> impl Strategy<Value = DimEnv> {
    let extent = || prop_oneof![4 => 1i64..5, 1 => Just(0i64)];
    (extent(), extent()).prop_map(|(t, b)| DimEnv::new().with("T", t).with("B", b))
}

/// Those of the dimensions that occur in a graph; running one refuses others.
pub fn dims_for(graph: &Graph, dims: &DimEnv) -> DimEnv {
    let mut out = DimEnv::new();
    for symbol in graph.symbols() {
        if let Some(value) = dims.get(&symbol) {
            out.set(symbol, value);
        }
    }
    out
}

/// Inputs for a graph at the given dimensions, in order: floats within [-2, 2], integers from 0 to 6, the
/// same for the same seed.
///
/// # Errors
/// Where a dimension has no value or is too large to allocate.
pub fn inputs_for(graph: &Graph, dims: &DimEnv, seed: u64) -> Result<Vec<Tensor>, InputsError> {
    let mut state = seed;
    let mut next = move || {
        // SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut out = Vec::new();
    for input in graph.inputs() {
        let ty = graph.ty(input.value);
        let extent = |d: &crate::expr::Dim| Ok(usize::try_from(d.eval_dim(dims)?).unwrap_or(0));
        let shape: Vec<usize> = ty.shape.iter().map(extent).collect::<Result<_, EvalError>>()?;
        let mut tensor = Tensor::zeros(ty.dtype, &shape)?;
        for chunk in tensor.bytes_mut().chunks_exact_mut(ty.dtype.size()) {
            let value = if ty.dtype.is_float() {
                Literal::from_f64(ty.dtype, (next() % 4097) as f64 / 1024.0 - 2.0)
            } else {
                Literal::from_i64(ty.dtype, (next() % 7) as i64)
            };
            chunk.copy_from_slice(&value.bits().to_le_bytes()[..ty.dtype.size()]);
        }
        out.push(tensor);
    }
    Ok(out)
}

/// Why there are no inputs for a graph.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// A dimension has no value.
    #[error(transparent)]
    Dimension(#[from] EvalError),
    /// A tensor is too large.
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
}

#[cfg(test)]
mod tests;
