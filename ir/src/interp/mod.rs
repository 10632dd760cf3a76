//! The reference interpreter: what a graph means, and the oracle for everything that compiles it.
//!
//! It computes floats in f64 and integers in i64. Under [`Precision::Declared`] every result is then rounded
//! once to its element type; under [`Precision::F64`] floats of every width stay unrounded f64, which is what
//! back ends are compared with.
//!
//! Rounding once from f64 makes sums, differences, products, quotients and square roots of f32, f16 and bf16
//! correctly rounded: f64 has more than twice their precision plus two bits, so that rounding first to f64
//! does no harm (Figueroa, "When is double rounding innocuous?", 1995). The functions that are not rational
//! have the error of the f64 function, under one ulp of f64, and round as the exact value would but for
//! arguments within that error of a tie. Reductions and contractions accumulate in f64 whatever their type
//! and round the final value only, so they are at least as accurate as an accumulation in the accumulator
//! type in any order.

mod array;
mod elementwise;
mod errors;
mod run;
mod scalar;
mod scan;
mod structural;
mod value;

#[cfg(test)]
mod tests;

pub use errors::{Estimate, FactorRounding, LIKELIHOOD};
pub use scalar::{ScalarValue, eval_scalar, fold_cast, fold_scalar};

use crate::bind::{BindError, bind_dims};
use crate::expr::{Dim, DimEnv, EvalError};
use crate::graph::{Graph, NodeId};
use crate::tensor::{Tensor, TensorError};

/// How floats are carried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Precision {
    /// Every result is rounded to its element type.
    Declared,
    /// Floats of every width stay f64; float outputs are f64 tensors.
    F64,
}

/// Which sign a reduction or contraction has that sums up to zero.
///
/// It follows from the order of the terms and from whether the sum begins with a zero, neither of which is promised:
/// a product over no axis may be -0, and a sum over one element of -0 may be 0. What a program does with the sign
/// (`rsqrt`, a quotient) is then not promised either.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Zeros {
    /// The one that adding up from the first to the last term to a positive zero gives.
    #[default]
    AsSummed,
    /// The other one, to see whether a result depends on it.
    Flipped,
}

/// What a run may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The bytes of all values that live at one time, at 8 bytes an element whatever its type.
    pub bytes: u64,
}

impl Default for Limits {
    /// 8 GiB.
    fn default() -> Self {
        Limits { bytes: 8 << 30 }
    }
}

/// Why a graph has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InterpError {
    /// The inputs do not fit the graph.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A value would exceed the limit of memory.
    #[error("a value of shape {shape:?} does not fit: {live} of at most {limit} bytes are in use")]
    Memory {
        /// Its extents.
        shape: Vec<usize>,
        /// The bytes in use before it.
        live: u64,
        /// The limit.
        limit: u64,
    },
    /// The system has no memory for a value.
    #[error("the system has no memory for {elements} elements of 8 bytes")]
    Allocation {
        /// The number of elements.
        elements: usize,
    },
    /// An attribute has no value.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// An output is too large for a host tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The graph breaks an invariant that verification checks.
    #[error("the graph is malformed: {0}")]
    Malformed(String),
    /// An error inside a node.
    #[error("{node} ({op}): {error}")]
    Node {
        /// The node, in its own graph or scan body.
        node: NodeId,
        /// The op's name.
        op: &'static str,
        /// What went wrong.
        error: Box<InterpError>,
    },
}

/// Runs graphs.
#[derive(Clone, Debug)]
pub struct Interpreter {
    precision: Precision,
    zeros: Zeros,
    limits: Limits,
    dims: DimEnv,
}

impl Interpreter {
    /// An interpreter with the default limits.
    pub fn new(precision: Precision) -> Self {
        Interpreter { precision, zeros: Zeros::default(), limits: Limits::default(), dims: DimEnv::new() }
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Interpreter { limits, ..self }
    }

    /// The same with other signs of sums that are zero.
    pub fn with_zeros(self, zeros: Zeros) -> Self {
        Interpreter { zeros, ..self }
    }

    /// The same with values for symbols that follow from no input.
    pub fn with_dims(self, dims: DimEnv) -> Self {
        Interpreter { dims, ..self }
    }

    /// The outputs of `graph`, in order, for its inputs and parameters, in order.
    ///
    /// # Errors
    /// Where the inputs do not fit the graph, or a value exceeds the limits.
    pub fn run(&self, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, InterpError> {
        let shapes: Vec<_> = inputs.iter().map(|t| (t.dtype(), t.shape())).collect();
        let dims = bind_dims(graph, &shapes, &self.dims)?;
        run::run(graph, inputs, &dims, (self.precision, self.zeros), self.limits)
    }

    /// The same under [`Precision::F64`], with what may change in every element of the outputs where every op rounds its
    /// results to their types, and factors of products of f32 are rounded by `rounding` before.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_with_errors(
        &self,
        graph: &Graph,
        inputs: &[Tensor],
        rounding: FactorRounding,
    ) -> Result<Vec<Estimate>, InterpError> {
        let shapes: Vec<_> = inputs.iter().map(|t| (t.dtype(), t.shape())).collect();
        let dims = bind_dims(graph, &shapes, &self.dims)?;
        run::run_with_errors(graph, inputs, &dims, rounding, self.limits)
    }
}

/// The outputs of `graph`, in order, for its inputs and parameters, in order, with the default limits.
///
/// # Errors
/// As [`Interpreter::run`].
pub fn interpret(graph: &Graph, inputs: &[Tensor], precision: Precision) -> Result<Vec<Tensor>, InterpError> {
    Interpreter::new(precision).run(graph, inputs)
}

/// The value of a position or extent that binding has found to be within range.
fn position(dim: &Dim, dims: &DimEnv) -> Result<isize, InterpError> {
    let value = dim.eval_dim(dims)?;
    isize::try_from(value).map_err(|_| EvalError::Overflow(dim.to_string()).into())
}
