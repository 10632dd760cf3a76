//! A simulated GPU: executes the PTX that code generation emits, and watches it.
//!
//! Text becomes a module ([`Module::parse`]): tokens, statements, then decoded instructions whose operands are
//! positions in a register file, constants and special registers among them. A launch runs each block to its end, one
//! warp after the other in turns, 32 lanes at a time; lanes that part at a branch meet again at its immediate
//! post-dominator. Blocks are spread over threads of the host, since those of one launch are independent; those of a
//! cooperative launch ([`Launch::cooperative`]) are all there at once, take turns, and may wait for each other, and so are
//! those of a cluster ([`Launch::clusters`]).
//!
//! Semantics follow NVIDIA's PTX ISA document. What it leaves open within a bound (`ex2.approx` and its like, sums of
//! matrix products) is computed in f64 and rounded once. What is not simulated is refused with its line when a module
//! is read.
//!
//! Every access is checked: bounds, alignment, whether the bytes were ever written, and whether another thread accessed
//! them with nothing in between that orders the two ([`Problem::Race`]). Barriers order threads of a block; what one
//! thread releases at the scope of the device and another acquires orders blocks of a cooperative launch; barriers of a
//! cluster order its blocks; proxy fences, what threads write and warp groups multiply. The first mistake ends a launch with a [`Fault`] that names kernel, instruction, block and
//! thread.

mod access;
mod arithmetic;
mod block;
mod bulk;
mod clocks;
mod cluster;
mod compute;
mod cooperative;
mod copies;
mod counters;
mod crowd;
mod decode;
mod descriptor;
pub(crate) mod device;
mod error;
mod exchange;
mod execute;
mod fault;
mod flags;
mod flow;
mod grid;
mod group;
mod lexer;
mod limits;
mod literal;
mod matrix;
mod memory;
mod op;
mod order;
mod parser;
mod phase;
mod poll;
mod record;
mod requests;
mod shadow;
mod syntax;
mod together;
mod value;
mod vectors;
mod warp;

pub use counters::Counters;
pub use error::PtxError;
pub use fault::{Earlier, Fault, GroupMisuse, Misuse, Problem, SimError, Wait};
pub use grid::{Clusters, Launch, Module};
pub use memory::{Content, Memory};
