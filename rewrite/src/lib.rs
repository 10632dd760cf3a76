//! E-graph rewriting and kernel extraction of the fuse compiler.
