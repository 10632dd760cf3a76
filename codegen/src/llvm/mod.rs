//! LLVM 22 through inkwell: PTX for NVIDIA GPUs ([`ptx`]) and machine code for the host ([`host`]).
//!
//! Both start from Kernel IR and share one set of primitives (`builder.rs`); they differ in the signature of
//! an entry point, in the address space of buffers and in where work items come from.
//!
//! # What protects the process
//! LLVM aborts on what it cannot select, so nothing doubtful reaches it: functions are checked
//! first ([`LlvmError::Invalid`]), every module is verified, and a symbol that nothing defines, such
//! as a misspelt intrinsic, is an error ([`LlvmError::UnresolvedSymbols`]) instead of an external call. What
//! LLVM reports through its context comes back as [`LlvmError::Emission`]; only its own fatal errors still end
//! the process, after LLVM has printed them to stderr. No handler is installed for those: it would be
//! process-wide, and other users of LLVM may live in the process.
//!
//! # Threads
//! Every compilation has a context of its own, so compilations may run on any number of threads at once.

mod arch;
mod branches;
mod builder;
mod comments;
mod gpu;
mod group;
pub mod host;
mod manifest;
mod matrix;
mod module;
mod neighbours;
mod phases;
pub mod ptx;
pub mod ptxas;
mod straight;
mod wide_products;

pub use arch::{Arch, PtxVersion, UnknownArch};
pub use comments::commented;
pub use host::{HostCompiler, LlvmHostModule};
pub use manifest::{Launch, LaunchError, ParameterKind, PtxKernel, PtxParameter};
pub use ptx::{Indices, PtxOptions};

use crate::verify::VerifyError;

/// How much LLVM optimises.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Optimization {
    /// Not at all; for reading what the builder makes.
    None,
    /// With the passes that fit what schedules make.
    #[default]
    Full,
}

/// Why LLVM gave no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LlvmError {
    /// An entry point's name is not a C identifier, or two entry points have it.
    #[error("`{0}` cannot name an entry point: names are distinct identifiers")]
    Name(String),
    /// A function was scheduled for another kind of target.
    #[error("`{function}` was not scheduled for {target}")]
    Mapping {
        /// The function.
        function: String,
        /// What it should have been scheduled for.
        target: &'static str,
    },
    /// A function has operations that the architecture has no instructions for.
    #[error(
        "`{function}` has instructions that {arch} lacks: copies to shared memory and matrices need sm_80, clusters sm_90"
    )]
    Architecture {
        /// The function.
        function: String,
        /// The architecture.
        arch: Arch,
    },
    /// A block has no thread or more than a GPU allows.
    #[error("`{function}` asks for {block} threads a block; a GPU allows 1 to 1024")]
    BlockSize {
        /// The function.
        function: String,
        /// Threads a block.
        block: u32,
    },
    /// A function has a product in one statement, where LLVM takes the loops of one.
    #[error("`{0}` has a product with panels, which is for the CPU's fast tier")]
    Product(String),
    /// The Kernel IR is malformed.
    #[error(transparent)]
    Invalid(Box<VerifyError>),
    /// The module refers to symbols that nothing defines.
    #[error("the LLVM module refers to undefined symbols: {}", .0.join(", "))]
    UnresolvedSymbols(Vec<String>),
    /// LLVM's verifier rejects the module, which is a bug of this crate.
    #[error("LLVM rejects the module: {0}")]
    Rejected(String),
    /// This build of LLVM lacks the target.
    #[error("LLVM does not offer the target: {0}")]
    Target(String),
    /// LLVM failed to optimise or to emit.
    #[error("LLVM emits no code: {0}")]
    Emission(String),
    /// There is no function of that position.
    #[error("there is no function {index}; the module has {functions}")]
    NoFunction {
        /// The position.
        index: usize,
        /// The number of functions.
        functions: usize,
    },
    /// A call passes another number of arguments than the function takes.
    #[error("`{function}` takes {expected} {what}, got {given}")]
    Arguments {
        /// The function.
        function: String,
        /// `buffers` or `symbols`.
        what: &'static str,
        /// What it takes.
        expected: usize,
        /// What was passed.
        given: usize,
    },
}
