//! A JIT kernel-fusion compiler for recurrent models.
