//! The fast CPU tier: Kernel IR to machine code of this process through Cranelift.
//!
//! Code memory is written first and made executable afterwards, never both at once. Without the FMA
//! extension the fused multiply-add is a call of a correct but slow library function; everything else has
//! native code on any x86-64 with SSSE3 and on aarch64. Products with panels are calls of a routine with the machine's widest
//! vectors.

mod builder;
mod libcalls;
mod module;
mod products;

pub use module::{CodegenError, CpuModule, Effort, KernelFn, asm, clif, compile_cpu, compile_cpu_with};
pub use products::lanes as panel_lanes;
