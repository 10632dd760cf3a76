//! Tracing front end of the fuse compiler.
