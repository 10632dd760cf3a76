//! Which loops the CPU runs in strips, see `fuse_rewrite::strip_loops`.

use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::{StripPolicy, strip_loops};
use fuse_runtime::machine::largest_cache_bytes;

/// Rows of a strip of a loop.
const STRIP_ROWS: i64 = 256;
/// The largest cache, where the system does not tell.
const USUAL_CACHE_BYTES: usize = 16 << 20;

/// Cuts loops in strips for this machine, where weights may take three quarters of the largest cache; how many loops.
pub fn cut(kernels: &mut KernelGraph) -> usize {
    let cache = largest_cache_bytes().unwrap_or(USUAL_CACHE_BYTES);
    let most_weight_bytes = i64::try_from(cache / 4 * 3).unwrap_or(i64::MAX);
    strip_loops(kernels, StripPolicy { rows: STRIP_ROWS, most_weight_bytes })
}
