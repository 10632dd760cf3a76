//! What launches cost, counted.

use std::ops::AddAssign;

/// Counts of one or more launches. Instructions are counted once a thread that executes them. In a cooperative launch a
/// loop that waits for other blocks counts as one turn of it, however often it looks; where blocks meet is not told from
/// other loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Launches.
    pub launches: u64,
    /// Integer, logic and predicate instructions.
    pub integer: u64,
    /// Floating-point arithmetic.
    pub float: u64,
    /// Conversions.
    pub convert: u64,
    /// Moves and selections.
    pub moves: u64,
    /// Loads, stores and atomic operations.
    pub memory: u64,
    /// Branches, barriers and exchanges between lanes.
    pub control: u64,
    /// Bytes that threads asked global memory for.
    pub global_read: u64,
    /// Bytes that threads gave global memory.
    pub global_written: u64,
    /// Global accesses of whole warps.
    pub global_requests: u64,
    /// 32-byte sectors of global memory that those accesses touch, each counted anew for each access.
    pub global_sectors: u64,
    /// Shared-memory accesses of whole warps.
    pub shared_requests: u64,
    /// Turns that shared memory takes beyond those that the accesses' width needs.
    pub bank_conflicts: u64,
    /// Barriers of blocks, counted once a warp.
    pub barriers: u64,
    /// Accesses of whole warps to shared memory of other blocks of their cluster.
    pub distributed_requests: u64,
    /// Bytes that threads read or wrote there.
    pub distributed_bytes: u64,
    /// Barriers of clusters that were waited for, counted once a warp.
    pub cluster_barriers: u64,
}

impl Counters {
    /// All thread instructions.
    pub fn instructions(&self) -> u64 {
        self.integer + self.float + self.convert + self.moves + self.memory + self.control
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.launches += other.launches;
        self.integer += other.integer;
        self.float += other.float;
        self.convert += other.convert;
        self.moves += other.moves;
        self.memory += other.memory;
        self.control += other.control;
        self.global_read += other.global_read;
        self.global_written += other.global_written;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.shared_requests += other.shared_requests;
        self.bank_conflicts += other.bank_conflicts;
        self.barriers += other.barriers;
        self.distributed_requests += other.distributed_requests;
        self.distributed_bytes += other.distributed_bytes;
        self.cluster_barriers += other.cluster_barriers;
    }
}
