//! What a device has room for.

use fuse_codegen::schedule::GpuLimits;

use super::cluster::{FIRST_CAPABILITY, MOST_BLOCKS, PORTABLE_BLOCKS};
use super::grid::Clusters;
use super::op::Kernel;
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
    /// The compute capability, times ten.
    pub capability: u32,
    pub multiprocessors: u32,
}

impl Limits {
    /// The limits of an architecture.
    pub fn of(target: &str) -> Limits {
        let digits: String = target.chars().filter(char::is_ascii_digit).collect();
        let capability = digits.parse().unwrap_or(0);
        let shared = u64::from(GpuLimits::of_capability(capability).shared_bytes);
        let multiprocessors = GpuLimits::h100().multiprocessors;
        Limits { declared: 48 << 10, shared, capability, multiprocessors }
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
        Residency { multiprocessors: u64::from(self.multiprocessors), each, limit }
    }

    /// Blocks of a cluster along each axis, or why a device would refuse them.
    pub fn clusters(
        &self,
        kernel: &Kernel,
        launch: Option<Clusters>,
        grid: [u32; 3],
    ) -> Result<[u32; 3], String> {
        let given = launch.map(|clusters| clusters.blocks);
        let Some(blocks) = given.or(kernel.cluster) else {
            if kernel.is_explicit {
                return Err("it has to be launched in clusters".into());
            }
            return Ok([1; 3]);
        };
        if let Some(compiled) = kernel.cluster.filter(|compiled| *compiled != blocks) {
            return Err(format!("it was compiled for clusters of {compiled:?} blocks, not {blocks:?}"));
        }
        if self.capability < FIRST_CAPABILITY {
            return Err("clusters need sm_90".into());
        }
        let all = blocks.iter().fold(1u32, |all, n| all.saturating_mul(*n));
        let portable = !launch.is_some_and(|clusters| clusters.nonportable);
        let most = if portable { PORTABLE_BLOCKS } else { MOST_BLOCKS };
        let most = most.min(kernel.most_clustered.unwrap_or(most));
        if !(1..=most).contains(&all) {
            return Err(format!("a cluster has 1 to {most} blocks here, not {all}"));
        }
        if grid.iter().zip(blocks).any(|(grid, blocks)| grid % blocks != 0) {
            return Err(format!("clusters of {blocks:?} blocks do not divide a grid of {grid:?}"));
        }
        Ok(blocks)
    }
}

/// How many blocks of a launch are there at once.
pub(super) struct Residency {
    multiprocessors: u64,
    /// On a multiprocessor.
    each: u64,
    /// What there are no more for.
    limit: String,
}

impl Residency {
    /// How many there are on all multiprocessors.
    pub fn blocks(&self) -> u64 {
        self.multiprocessors * self.each
    }

    /// Refuses more blocks at once, `what` they are.
    pub fn admit(&self, what: &str, blocks: u64) -> Result<(), String> {
        let (Residency { multiprocessors, each, limit }, most) = (self, self.blocks());
        if blocks <= most {
            return Ok(());
        }
        Err(format!(
            "{what} of {blocks} blocks; {most} are resident at once, {each} on each of {multiprocessors} \
             multiprocessors with room for {limit}"
        ))
    }
}
