//! Placeholder.
use crate::error::RewriteError;
use fuse_ir::Graph;
use fuse_ir::kernel::KernelGraph;
pub fn unfused(_graph: &Graph) -> Result<KernelGraph, RewriteError> { unimplemented!() }
