//! Reproducible random values for models whose weights or inputs were not given.
//!
//! The value of an input depends on the seed and its name alone, so that adding another input changes
//! nothing. Float inputs are N(0, 1); float parameters U(-1/√n, 1/√n) with n their last extent, as layers are
//! commonly initialised. Integers stay where their use wants them: indices within the gathered axis, lengths
//! within the scanned one.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use fuse_ir::expr::EvalError;
use fuse_ir::graph::Input;
use fuse_ir::tensor::checked_byte_size;
use fuse_ir::{Bytes, DType, DimEnv, Graph, InputKind, Literal, Op, Tensor, ValueId};

/// The most bytes one made-up tensor may take.
const MAX_BYTES: usize = 2 << 30;

/// Why no value could be made up.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    /// Its shape is not known.
    #[error("input `{name}` is {ty}: {source}")]
    Shape {
        /// The input.
        name: String,
        /// Its type.
        ty: String,
        /// What is missing.
        source: EvalError,
    },
    /// Its shape is absurd.
    #[error(
        "input `{name}` is {ty}, which here is {shape:?}: too large to make up (2 GiB at most); give it in a file"
    )]
    TooLarge {
        /// The input.
        name: String,
        /// Its type.
        ty: String,
        /// Its extents here.
        shape: Vec<i64>,
    },
}

/// A random value for a graph input.
///
/// # Errors
/// Where its shape is not determined by `dims`, or absurd.
pub fn value_for(graph: &Graph, input: &Input, dims: &DimEnv, seed: u64) -> Result<Tensor, RandomError> {
    let ty = graph.ty(input.value);
    let name = || input.name.clone();
    let extents = ty.shape.iter().map(|d| d.eval_dim(dims)).collect::<Result<Vec<_>, _>>();
    let extents =
        extents.map_err(|source| RandomError::Shape { name: name(), ty: ty.to_string(), source })?;
    let shape: Option<Vec<usize>> = extents.iter().map(|d| usize::try_from(*d).ok()).collect();
    let shape = shape.filter(|s| checked_byte_size(ty.dtype, s).is_some_and(|b| b <= MAX_BYTES));
    let shape = shape.ok_or_else(|| RandomError::TooLarge {
        name: name(),
        ty: ty.to_string(),
        shape: extents.clone(),
    })?;
    let mut rng = generator(seed, &input.name);
    let mut draw: Box<dyn FnMut() -> Literal> = if ty.dtype.is_float() {
        match input.kind {
            InputKind::Input => {
                Box::new(move || Literal::from_f64(ty.dtype, StandardNormal.sample(&mut rng)))
            }
            InputKind::Parameter => {
                let bound = 1.0 / (shape.last().copied().unwrap_or(1).max(1) as f64).sqrt();
                let range = Uniform::new_inclusive(-bound, bound).expect("finite bounds");
                Box::new(move || Literal::from_f64(ty.dtype, range.sample(&mut rng)))
            }
        }
    } else {
        let limit = integer_limit(graph, input.value, dims).unwrap_or(10).max(1);
        let limit = if ty.dtype == DType::U8 { limit.min(256) } else { limit };
        Box::new(move || Literal::from_i64(ty.dtype, draw_below(&mut rng, ty.dtype, limit)))
    };
    let size = ty.dtype.size();
    let mut bytes = Bytes::zeroed(shape.iter().product::<usize>() * size);
    for element in bytes.as_mut_slice().chunks_exact_mut(size) {
        element.copy_from_slice(&draw().bits().to_le_bytes()[..size]);
    }
    Ok(Tensor::from_bytes(ty.dtype, &shape, bytes).expect("the values fill the shape"))
}

/// Tensors by name.
pub type Named = BTreeMap<String, Tensor>;

/// Random values for all inputs of a graph, in order.
///
/// # Errors
/// As [`value_for`].
pub fn values_for(graph: &Graph, dims: &DimEnv, seed: u64) -> Result<Vec<Tensor>, RandomError> {
    graph.inputs().iter().map(|input| value_for(graph, input, dims, seed)).collect()
}

/// Splits the values of all inputs of a graph into what is bound once and what is given at each call:
/// (parameters, inputs).
pub fn by_kind(graph: &Graph, values: &[Tensor]) -> (Named, Named) {
    let pairs = graph.inputs().iter().zip(values);
    let (parameters, inputs): (Vec<_>, Vec<_>) = pairs.partition(|(i, _)| i.kind == InputKind::Parameter);
    let named = |pairs: Vec<(&Input, &Tensor)>| -> Named {
        pairs.into_iter().map(|(i, t)| (i.name.clone(), t.clone())).collect()
    };
    (named(parameters), named(inputs))
}

fn draw_below(rng: &mut impl Rng, dtype: DType, limit: i64) -> i64 {
    if dtype == DType::Bool { i64::from(rng.random_bool(0.5)) } else { rng.random_range(0..limit) }
}

/// A generator for one name, by FNV-1a over the name.
fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    ChaCha8Rng::seed_from_u64(seed ^ hash)
}

/// One above the largest integer that the input's use has room for.
fn integer_limit(graph: &Graph, value: ValueId, dims: &DimEnv) -> Option<i64> {
    graph.nodes().find_map(|(_, node)| match &node.op {
        Op::Gather { axis } if node.operands.get(1) == Some(&value) => {
            graph.ty(node.operands[0]).shape[*axis].eval_dim(dims).ok()
        }
        Op::Scan(scan) if scan.lengths && node.operands.last() == Some(&value) => {
            scan.trip.eval_dim(dims).ok()?.checked_add(1)
        }
        _ => None,
    })
}
