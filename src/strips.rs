//! What the CPU does to kernels so that they take less memory: see `fuse_rewrite::store_joined` and `strip_loops`.

use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::{StripPolicy, store_joined, strip_loops};
use fuse_runtime::machine::largest_cache_bytes;

/// Rows of a strip: one that is longer is no faster, since products take rows in blocks of 128.
const STRIP_ROWS: i64 = 100;
/// Bytes of a strip of long rows: it stays in the second-level caches of a few processors, or shares the third.
const STRIP_BYTES: i64 = 2 << 20;
/// Rows of a strip whose weights do not fit the cache: 500 cost 4 % of the time of an LSTM of 1024 hidden units.
const STRIP_ROWS_OF_MORE: i64 = 1152;
/// The largest cache, where the system does not tell.
const USUAL_CACHE_BYTES: usize = 16 << 20;

/// Has joined tensors stored where they lie, and cuts loops in strips for this machine, where weights may take three
/// quarters of the largest cache; how many changes there were. A strip has `1/parts` of the rows, for programs that hold
/// what is of one so often.
pub fn cut(kernels: &mut KernelGraph, parts: i64) -> usize {
    let cache = largest_cache_bytes().unwrap_or(USUAL_CACHE_BYTES);
    let most_weight_bytes = i64::try_from(cache / 4 * 3).unwrap_or(i64::MAX);
    let policy = StripPolicy {
        rows: STRIP_ROWS / parts,
        bytes: STRIP_BYTES / parts,
        most_weight_bytes,
        rows_of_more: STRIP_ROWS_OF_MORE / parts,
    };
    store_joined(kernels) + strip_loops(kernels, policy)
}
