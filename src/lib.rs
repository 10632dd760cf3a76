//! `fuse`: a JIT kernel-fusion compiler for recurrent models.
//!
//! Trace a model as an ordinary closure, compile it once, run it at any length:
//!
//! ```
//! use fuse::{CompileOptions, DType, Device, HostTensor, Target};
//!
//! let graph = fuse::trace("decay", |t| {
//!     let x = t.input("x", DType::F32, ("T", "B", 8));
//!     let h0 = t.input("h0", DType::F32, ("B", 8));
//!     let (last, y) = t.scan(h0, x, |h, x| {
//!         let h = 0.9 * h + 0.1 * x.tanh();
//!         (h.clone(), h)
//!     });
//!     t.output("y", y);
//!     t.output("last", last);
//! })?;
//!
//! let compiled = fuse::compile(&graph, &CompileOptions::new(Target::Cpu))?;
//! let model = compiled.load(&Device::cpu(&Default::default())?)?;
//! for steps in [1, 7, 300] {
//!     let x = HostTensor::from_values(&[steps, 1, 8], &vec![0.5f32; steps * 8])?;
//!     let h0 = HostTensor::from_values(&[1, 8], &[1.0f32; 8])?;
//!     let outputs = model.run(&[("x", &x), ("h0", &h0)], &Default::default())?;
//!     assert_eq!(outputs[0].shape(), [steps, 1, 8]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The stages can be called one by one: [`frontend`], [`ir`], [`rewrite`], [`codegen`] and [`runtime`] are the
//! crates of the workspace, and [`Compiled`] holds what each of them made.

pub mod cli;
mod compile;
pub mod io;
#[cfg(feature = "llvm")]
pub mod manifest;
pub mod random;

pub use compile::{CompileError, CompileOptions, Compiled, Target, compile};
pub use fuse_codegen as codegen;
pub use fuse_frontend as frontend;
pub use fuse_frontend::{Tensor, Trace, TraceError, dim, nn, trace};
pub use fuse_ir as ir;
pub use fuse_ir::tensor::Tensor as HostTensor;
pub use fuse_ir::{DType, Dim, DimEnv, Graph};
pub use fuse_rewrite as rewrite;
pub use fuse_runtime as runtime;
pub use fuse_runtime::{Device, DeviceName, DeviceOptions, Executable};
