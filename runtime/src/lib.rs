//! Memory planning and kernel launch for the fuse compiler.
