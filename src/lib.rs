//! A JIT kernel-fusion compiler for recurrent models.

pub mod io;
