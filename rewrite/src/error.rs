//! Why a graph cannot be rewritten.

use fuse_ir::infer::InferError;

/// Why [`optimize`](crate::optimize) fails.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RewriteError {
    /// A node's operands do not fit its op; the graph was not verified.
    #[error("the graph is not well formed: {0}")]
    Graph(#[from] InferError),
    /// A term has more axes than analyses can hold.
    #[error(
        "`{op}` needs an iteration space of {rank} axes, more than {limit}; nest fewer scans or use tensors of lower rank",
        limit = crate::language::MAX_AXES
    )]
    Rank {
        /// The op's name.
        op: String,
        /// The number of axes.
        rank: usize,
    },
    /// The decisions that were to be replayed do not fit the graph.
    #[error("the decisions on record do not fit `{graph}`: {problem}")]
    Replay {
        /// The graph's name.
        graph: String,
        /// What does not fit.
        problem: String,
    },
    /// No placement of the values in loops and memory was found. This is a bug of the compiler.
    #[error("internal error: no legal kernels for `{graph}`: {problem}")]
    Infeasible {
        /// The graph's name.
        graph: String,
        /// What did not fit.
        problem: String,
    },
}
