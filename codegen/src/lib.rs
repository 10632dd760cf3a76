//! Code generation of the `fuse` compiler: Kernel IR, schedules and emitters.
//!
//! [`schedule`] decides how a kernel's iteration space becomes a loop nest
//! ([`kernel_ir`]); [`scalar`] walks the result once for every emitter.

pub mod builder;
pub mod cranelift;
pub mod decompose;
pub mod distinct;
mod divisors;
pub mod indices;
pub mod kernel_ir;
pub mod kernel_ir_eval;
mod late;
#[cfg(feature = "llvm")]
pub mod llvm;
mod operands;
pub mod scalar;
pub mod schedule;
pub mod straight;
pub mod text;
pub mod verify;
