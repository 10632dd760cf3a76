//! The summed axis in slices, where there are too few tiles to fill a GPU.
//!
//! The blocks of a cluster have one tile together and a slice of the summed axis each. Behind its slice every block gives
//! each of the others, and itself, the sums of a share of its threads, through their shared memory. As many threads of a
//! block then add up what all blocks have of a share, in the order of the slices, and compute and store what follows from
//! the sums as the threads of the share would have. So the results are the same in every run, nothing waits in memory, and
//! what follows from the sums is divided among the blocks too.
//!
//! ```text
//! share    the threads from rank · THREADS / slices on
//! exchange [slice][four sums of a thread][thread of the share][sum mod 4]
//! ```

use super::super::block::{bits as power, low_bits};
use super::super::emitter::Emitter;
use super::{THREADS, thread};
use crate::kernel_ir::{Condition, LaneType, SharedId, ValueId};

/// Numbers of slices, ascending.
pub(super) const COUNTS: [i64; 3] = [2, 4, 8];

/// Sums that are stored and loaded as one vector.
const TOGETHER: i64 = 4;

/// How the blocks of a cluster share a tile.
pub(super) struct Slices {
    count: i64,
    /// The number of this block in its cluster, which is that of its slice.
    rank: ValueId,
    /// Sums of a thread.
    sums: i64,
    array: SharedId,
}

/// The bytes of shared memory that the exchange of so many sums a thread takes.
pub(super) fn shared_bytes(count: i64, sums: i64) -> i64 {
    if count > 1 { THREADS * sums * i64::from(LaneType::F32.bytes()) } else { 0 }
}

impl Slices {
    /// For `count` slices and `sums` sums of a thread, a multiple of four. The block arrives, so that others may write to it
    /// once they have waited.
    pub(super) fn new(emitter: &mut Emitter, count: i64, rank: ValueId, sums: i64) -> Slices {
        let elements = u32::try_from(THREADS * sums).unwrap_or(u32::MAX);
        let array = emitter.b.shared_array("slices", LaneType::F32, elements);
        emitter.b.arrive_at_cluster();
        Slices { count, rank, sums, array }
    }

    /// Threads of a share.
    fn share(&self) -> i64 {
        THREADS / self.count
    }

    /// The thread, of those of the tile's first slice, in whose place this one is with the sums of the block's share; behind
    /// the last one of the share for threads that have none.
    pub(super) fn thread(&self, emitter: &mut Emitter) -> ValueId {
        let share = emitter.b.index(self.share());
        let first = emitter.b.mul(self.rank, share);
        let thread = thread(emitter);
        emitter.b.add(first, thread)
    }

    /// Whether this thread has sums of the share.
    pub(super) fn has_sums(&self, emitter: &mut Emitter) -> ValueId {
        let thread = thread(emitter);
        emitter.b.compare_integer(Condition::Lt, thread, self.share())
    }

    /// Gives the thread's sums to the block of its share. Afterwards all are there.
    pub(super) fn send(&self, emitter: &mut Emitter, sums: &[ValueId]) {
        let thread = thread(emitter);
        let to = emitter.b.shift_right_logical(thread, power(self.share()));
        let place = low_bits(&mut emitter.b, thread, self.share());
        let first = self.place(emitter, self.rank, place);
        // The others are there.
        emitter.b.wait_for_cluster();
        for (number, four) in (0..).zip(sums.chunks(TOGETHER as usize)) {
            let at = self.further(emitter, first, number);
            let four = emitter.b.pack(four);
            emitter.b.store_cluster(self.array, at, four, to);
        }
        emitter.b.arrive_at_cluster();
        emitter.b.wait_for_cluster();
    }

    /// What all slices have of the sums of a thread that has some.
    pub(super) fn totals(&self, emitter: &mut Emitter) -> Vec<ValueId> {
        let place = thread(emitter);
        let mut totals = Vec::with_capacity(self.sums as usize);
        for number in 0..self.sums / TOGETHER {
            let mut total = None;
            for slice in 0..self.count {
                let slice = emitter.b.index(slice);
                let first = self.place(emitter, slice, place);
                let at = self.further(emitter, first, number);
                let part = emitter.b.load_shared(self.array, TOGETHER as u8, at);
                total = Some(total.map_or(part, |sum| emitter.b.add(sum, part)));
            }
            let lanes =
                total.map(|total| (0..TOGETHER).map(|lane| emitter.b.extract(total, lane as u8)).collect());
            totals.extend(lanes.unwrap_or_else(Vec::new));
        }
        totals
    }

    /// Where the first sums of a thread of the share are that a slice has.
    fn place(&self, emitter: &mut Emitter, slice: ValueId, thread: ValueId) -> ValueId {
        let (of_slice, of_thread) = (emitter.b.index(self.sums * self.share()), emitter.b.index(TOGETHER));
        let first = emitter.b.mul(slice, of_slice);
        let within = emitter.b.mul(thread, of_thread);
        emitter.b.add(first, within)
    }

    /// The same of the sums behind so many vectors.
    fn further(&self, emitter: &mut Emitter, first: ValueId, vectors: i64) -> ValueId {
        let offset = emitter.b.index(vectors * TOGETHER * self.share());
        emitter.b.add(first, offset)
    }
}
