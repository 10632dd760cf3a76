//! The tiers of host code: Cranelift's, which is there at once, and LLVM's, which is faster and takes longer to make.

/// Which code a model runs on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Cranelift's, with 128-bit vectors, but products with weights by a routine that has the machine's widest; compiled in
    /// milliseconds.
    #[cfg_attr(not(feature = "llvm"), default)]
    Fast,
    /// LLVM's, with the machine's widest vectors; compiled before the first run.
    #[cfg(feature = "llvm")]
    Peak,
    /// The peak tier before a run that would take longer with the fast one than compiling does; otherwise the fast
    /// tier at once, and the peak tier from some run on, when background threads have compiled it.
    #[cfg(feature = "llvm")]
    #[default]
    Auto,
}
