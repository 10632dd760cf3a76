//! What a device has room for.

use fuse_codegen::schedule::GpuLimits;

use super::warp::{LANES, Shape};

/// Threads that are resident on a multiprocessor.
const RESIDENT_THREADS: u64 = 2048;
/// Blocks that are resident on a multiprocessor.
const RESIDENT_BLOCKS: u64 = 32;
/// Shared memory that the system takes for itself beside each resident block, in bytes.
const RESERVED_SHARED: u64 = 1 << 10;

/// What blocks may take on an architecture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Shared memory that a block declares with a size, in bytes.
    pub declared: u64,
    /// All shared memory of a block, in bytes.
    pub shared: u64,
}

impl Limits {
    /// The limits of an architecture.
    pub fn of(target: &str) -> Limits {
        let digits: String = target.chars().filter(char::is_ascii_digit).collect();
        let shared = GpuLimits::of_capability(digits.parse().unwrap_or(0)).shared_bytes;
        Limits { declared: 48 << 10, shared: u64::from(shared) }
    }

    /// How many blocks of that shape are there at once. Registers limit it on a device, too; PTX does not say how many
    /// a kernel takes.
    pub fn residency(&self, shape: &Shape) -> Residency {
        let by_threads = RESIDENT_THREADS / (u64::from(shape.warps()) * LANES as u64);
        let by_shared = (self.shared + RESERVED_SHARED) / (shape.shared + RESERVED_SHARED);
        let each = RESIDENT_BLOCKS.min(by_threads).min(by_shared);
        let limit = if each == by_threads {
            format!("{RESIDENT_THREADS} threads")
        } else if each == by_shared {
            format!("{} bytes of shared memory, of which a block takes {}", self.shared, shape.shared)
        } else {
            format!("{RESIDENT_BLOCKS} blocks")
        };
        Residency { each, limit }
    }
}

/// How many blocks of a launch are there at once.
pub(super) struct Residency {
    /// On a multiprocessor.
    each: u64,
    /// What there are no more for.
    limit: String,
}

impl Residency {
    /// Refuses a cooperative launch of more blocks.
    pub fn admit(&self, blocks: u64) -> Result<(), String> {
        let Residency { each, limit } = self;
        let multiprocessors = u64::from(GpuLimits::h100().multiprocessors);
        let most = multiprocessors * each;
        if blocks <= most {
            return Ok(());
        }
        Err(format!(
            "a cooperative grid of {blocks} blocks; {most} are resident at once, {each} on each of {multiprocessors} \
             multiprocessors with room for {limit}"
        ))
    }
}
