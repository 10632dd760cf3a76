//! The tensor IR of the `fuse` compiler.
//!
//! A [`Graph`] is what tracing and importing produce and what the reference interpreter runs; a
//! [`KernelGraph`](kernel::KernelGraph) is what rewriting hands to code generation. Both are made of
//! symbolic [`Expr`]essions, so one compiled artefact serves every sequence length and batch size.

pub mod bind;
pub mod bytes;
pub mod compare;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod device;
pub mod dot;
pub mod dtype;
pub mod expr;
pub mod graph;
pub mod index_map;
pub mod infer;
pub mod interp;
pub mod kernel;
pub mod kernel_interp;
pub mod kernel_parts;
pub mod kernel_text;
pub mod limits;
pub mod ops;
pub mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod types;
pub mod verify;
pub mod verify_kernels;

pub use bytes::Bytes;
pub use dot::dot;
pub use dtype::{DType, Literal};
pub use expr::{Axis, Dim, DimEnv, Expr, Symbol};
pub use graph::{Graph, InputKind, Node, NodeId, Scan, ValueId};
pub use index_map::IndexMap;
pub use kernel_interp::{KernelInterpError, interpret_kernels};
pub use kernel_text::parse_kernels;
pub use ops::{Op, ReduceOp, ScalarOp};
pub use tensor::Tensor;
pub use text::{ParseError, parse};
pub use types::{Shape, TensorType};
pub use verify::{VerifyError, verify};
pub use verify_kernels::{KernelVerifyError, verify_kernels};
