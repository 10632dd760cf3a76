//! `fuse`: a JIT kernel-fusion compiler for recurrent models.
//!
//! Trace a model as an ordinary closure ([`trace`]), compile it once ([`compile`]), load it on a device
//! ([`Compiled::load`]) and run it at any length ([`Executable::run`]):
//!
//! ```
//! use fuse::{CompileOptions, Device, DimEnv, Target};
//!
//! let graph = fuse::frontend::zoo::lstm_graph(8, 16)?;
//! let compiled = fuse::compile(&graph, &CompileOptions::new(Target::Cpu))?;
//! let model = compiled.load(&Device::cpu(&Default::default())?)?;
//! let dims = DimEnv::new().with("T", 5).with("B", 2);
//! for input in graph.inputs() {
//!     let tensor = fuse::random::value_for(&graph, input, &dims, 0)?;
//!     assert_eq!(tensor.shape().len(), graph.ty(input.value).rank());
//! }
//! println!("{}", compiled.kernels);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On the CPU, runs are made by threads that fuse starts for a [`Device`]. A program that has threads of its own lends them
//! instead ([`ThreadPool`], [`Device::on_pool`]):
//!
//! ```
//! use fuse::{CompileOptions, Device, DeviceOptions, DimEnv, Target, ThreadPool};
//!
//! /// Starts threads for each run, beside the calling one; a framework would hand the calls to its workers.
//! struct Scoped {
//!     threads: usize,
//! }
//!
//! impl ThreadPool for Scoped {
//!     fn threads(&self) -> usize {
//!         self.threads
//!     }
//!
//!     fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
//!         std::thread::scope(|scope| {
//!             for _ in 1..workers {
//!                 scope.spawn(work);
//!             }
//!             work();
//!         });
//!     }
//! }
//!
//! let graph = fuse::frontend::zoo::lstm_graph(64, 128)?;
//! let compiled = fuse::compile(&graph, &CompileOptions::new(Target::Cpu))?;
//! let dims = DimEnv::new().with("T", 20).with("B", 16);
//! let values = fuse::random::values_for(&graph, &dims, 0)?;
//! let (parameters, inputs) = fuse::random::by_kind(&graph, &values);
//!
//! let mut model = compiled.load(&Device::on_pool(Scoped { threads: 2 }, &DeviceOptions::default()))?;
//! model.bind(parameters.clone())?;
//! let outputs = model.run(&inputs, &dims)?;
//!
//! let threads = DeviceOptions { threads: Some(2), ..DeviceOptions::default() };
//! let mut same = compiled.load(&Device::cpu(&threads)?)?;
//! same.bind(parameters)?;
//! assert_eq!(same.run(&inputs, &dims)?, outputs);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The stages can be called one by one: [`frontend`], [`ir`], [`rewrite`], [`codegen`] and [`runtime`] are the
//! crates of the workspace, and [`Compiled`] holds what each of them made.

pub mod cli;
mod compile;
mod fast;
#[doc(hidden)]
pub mod fuzzing;
pub mod io;
#[cfg(feature = "llvm")]
pub mod manifest;
#[cfg(feature = "llvm")]
mod peak;
mod precision;
pub mod random;
mod strips;
mod tier;
mod weights;

pub use compile::{CompileError, CompileOptions, Compiled, Target, compile};
pub use fuse_codegen as codegen;
pub use fuse_frontend as frontend;
pub use fuse_frontend::{ScanOptions, Tensor, Trace, TraceError, concat, dim, nn, stack, trace};
pub use fuse_ir as ir;
pub use fuse_ir::tensor::Tensor as HostTensor;
pub use fuse_ir::{DType, Dim, DimEnv, Graph};
pub use fuse_rewrite as rewrite;
pub use fuse_runtime as runtime;
pub use fuse_runtime::{Device, DeviceName, DeviceOptions, Executable, ThreadPool};
pub use precision::ProductPrecision;
pub use tier::Tier;
pub use weights::{NarrowWeights, WeightsDtype};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
