//! Why an ONNX model is not imported.

use std::fmt;
use std::path::PathBuf;

use fuse_ir::Dim;
use fuse_ir::expr::Symbol;

/// Why an ONNX model is not imported.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no valid ONNX model.
    #[error("not a valid ONNX model: {0}")]
    Malformed(String),
    /// The model is larger than the importer admits.
    #[error("the model exceeds a limit: {0}")]
    Limit(String),
    /// The model has operators, or uses of them, that fuse does not support.
    #[error("{}", Unsupported(.0))]
    Unsupported(Vec<UnsupportedNode>),
    /// A node cannot be imported.
    #[error("{node}: {problem}")]
    Node {
        /// The node.
        node: NodeName,
        /// What is wrong, and what would help.
        problem: String,
    },
    /// The model as a whole cannot be compiled.
    #[error("{0}")]
    Model(String),
}

/// A node of an ONNX graph, as errors name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// The operator, with its domain unless that is ONNX's own.
    pub operator: String,
    /// The name of the node, or of its first output.
    pub name: String,
    /// The version of the operator set that the model imports.
    pub opset: i64,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node `{}` ({}, opset {})", self.name, self.operator, self.opset)
    }
}

/// A node that fuse has no import for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The node.
    pub node: NodeName,
    /// Why, and what could stand in its place.
    pub reason: String,
}

/// All unsupported nodes of a model, each operator once.
struct Unsupported<'a>(&'a [UnsupportedNode]);

impl fmt::Display for Unsupported<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "node" } else { "nodes" };
        write!(f, "{} {plural} of the model cannot be imported", self.0.len())?;
        for entry in self.0.iter().take(MAX_LISTED) {
            write!(f, "\n  {}: {}", entry.node, entry.reason)?;
        }
        match self.0.len().checked_sub(MAX_LISTED) {
            Some(more) if more > 0 => write!(f, "\n  and {more} more"),
            _ => Ok(()),
        }
    }
}

/// How many unsupported nodes an error lists.
const MAX_LISTED: usize = 50;

/// Why a node has no values yet.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It cannot be imported: what is wrong, and what would help.
    Refused(String),
    /// It needs the value of these inputs of the model while it is compiled.
    NeedsValues {
        /// What for.
        what: String,
        /// The inputs.
        inputs: Vec<String>,
    },
    /// It needs these dimensions to be numbers.
    NeedsDims {
        /// What for.
        what: String,
        /// The dimensions.
        symbols: Vec<Symbol>,
    },
    /// Two sizes must be equal.
    Unequal(Dim, Dim),
    /// An error that already says where.
    Located(OnnxError),
}

impl Problem {
    /// Whether importing again with something fixed may help.
    pub(crate) fn is_settled_by_a_restart(&self) -> bool {
        match self {
            Problem::NeedsValues { .. } | Problem::NeedsDims { .. } => true,
            Problem::Unequal(a, b) => solved(a, b).is_some(),
            Problem::Refused(_) | Problem::Located(_) => false,
        }
    }
}

/// The symbol that one of two dimensions is, and what it must stand for so that both are equal.
pub(crate) fn solved(a: &Dim, b: &Dim) -> Option<(Symbol, Dim)> {
    [(a, b), (b, a)].into_iter().find_map(|(dim, other)| {
        let symbol = dim.symbols().into_iter().next().filter(|s| *dim == Dim::symbol(s.name()))?;
        (!other.symbols().contains(&symbol)).then(|| (symbol, other.clone()))
    })
}

impl From<OnnxError> for Problem {
    fn from(error: OnnxError) -> Self {
        Problem::Located(error)
    }
}

/// What a builder returns.
pub(crate) type Built<T> = Result<T, Problem>;

/// A refusal.
pub(crate) fn refuse<T>(problem: impl Into<String>) -> Built<T> {
    Err(Problem::Refused(problem.into()))
}
