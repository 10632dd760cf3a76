//! Kernel IR, schedules and code emitters of the fuse compiler.
