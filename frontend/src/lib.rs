//! Tracing front end of the fuse compiler.
//!
//! [`trace`] runs an ordinary closure over [`Tensor`] handles once and returns the [`Graph`] of what it
//! computed. Nothing is computed while tracing; a handle is a reference-counted name of a value of the graph.
//!
//! ```
//! use fuse_frontend::{DType, trace};
//!
//! let graph = trace("gated", |t| {
//!     let x = t.input("x", DType::F32, ("T", "B", 64));
//!     let w = t.parameter("w", DType::F32, (64, "2*H"));
//!     let [gate, value] = x.matmul(&w).split(-1);
//!     t.output("y", gate.sigmoid() * value.tanh() + 1.0);
//! })?;
//! assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), "f32[T, B, H]");
//! # Ok::<(), fuse_frontend::TraceError>(())
//! ```
//!
//! A loop over time is a [`scan`](Trace::scan), whose body is a closure too:
//!
//! ```
//! use fuse_frontend::{DType, trace};
//!
//! let graph = trace("running_sum", |t| {
//!     let x = t.input("x", DType::F32, ("T", "B"));
//!     let zero = t.zeros(DType::F32, ("B",));
//!     let (last, sums) = t.scan(zero, x, |sum, x| {
//!         let sum = sum + x;
//!         (sum.clone(), sum)
//!     });
//!     t.output("sums", sums);
//!     t.output("last", last);
//! })?;
//! assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), "f32[T, B]");
//! # Ok::<(), fuse_frontend::TraceError>(())
//! ```
//!
//! # Errors
//!
//! Operators cannot return a `Result`, so a mistake is kept by the trace: the operation that failed returns a
//! *poisoned* handle, operations on poisoned handles return poisoned handles and complain no more, and
//! [`trace`] returns the first error. It names the operation, its arguments with their types, and the line of
//! the program that called it:
//!
//! ```
//! use fuse_frontend::{DType, trace};
//!
//! let error = trace("broken", |t| {
//!     let x = t.input("x", DType::F32, ("T", 4));
//!     let y = t.input("y", DType::F32, ("T", 5));
//!     t.output("z", (x + y).tanh());
//! })
//! .unwrap_err();
//! let text = error.to_string();
//! assert!(text.contains("add: x (`x`) is f32[T, 4], y (`y`) is f32[T, 5]"), "{text}");
//! ```
//!
//! Nothing that a traced program does wrong panics in this crate.

mod compose;
mod contract;
mod declare;
mod elementwise;
mod error;
mod movement;
mod operators;
mod reduce;
mod scan;
mod session;
mod shape;
mod tensor;
mod tensor_list;

/// The code of the guide, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/tracing.md")]
mod guide {}

pub mod nn;
pub mod onnx;
pub mod zoo;

pub use elementwise::Operand;
pub use error::{ErrorKind, TraceError};
pub use fuse_ir::{DType, Dim, Graph};
pub use movement::{IntoBounds, concat, stack};
pub use reduce::IntoAxes;
pub use scan::ScanOptions;
pub use session::{Trace, trace};
pub use shape::{IntoDim, IntoShape, dim};
pub use tensor::Tensor;
pub use tensor_list::TensorList;
