//! Who accessed memory and when, in the 64 bits that the shadow of a granule remembers.

use super::clocks::Clocks;
use super::fault::Earlier;
use super::order::{Knowledge, lane_of};
use super::warp::LANES;

/// The last launch number that a record can hold.
pub(super) const LAST_STAMP: u64 = (1 << 14) - 1;

/// Who accesses memory: packed for the shadow as launch, block, thread, atomicity and the warp's clock.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    /// The packed record but for the thread.
    pub record: u64,
    /// The thread in its block.
    pub thread: u32,
    /// What this thread's warp knows of the warps of its block, its own included.
    pub clocks: &'a Clocks,
    /// The last clock of its own warp at which all lanes met.
    pub met: u32,
    /// What it knows of other blocks, where those of a launch may know of each other.
    pub knowledge: Option<&'a Knowledge>,
}

const CLOCK_BITS: u32 = 19;
const ATOMIC: u64 = 1 << CLOCK_BITS;
const THREAD_SHIFT: u32 = CLOCK_BITS + 1;
const BLOCK_SHIFT: u32 = THREAD_SHIFT + 10;
const LANE_MASK: u64 = (LANES as u64 - 1) << THREAD_SHIFT;
const STAMP_SHIFT: u32 = BLOCK_SHIFT + 20;
/// Blocks are told apart by so many bits of their number.
pub(super) const BLOCK_MASK: u64 = (1 << 20) - 1;

impl Access<'_> {
    /// The record of accesses of one warp in one launch.
    pub fn record(stamp: u64, block: u64, clock: u32, atomic: bool) -> u64 {
        let clock = u64::from(clock).min(ATOMIC - 1);
        (stamp << STAMP_SHIFT)
            | ((block & BLOCK_MASK) << BLOCK_SHIFT)
            | clock
            | if atomic { ATOMIC } else { 0 }
    }

    /// The record.
    pub fn own(&self) -> u64 {
        self.record | (u64::from(self.thread) << THREAD_SHIFT)
    }

    /// The access as one that is not atomic.
    pub fn plain(&self) -> u64 {
        self.own() & !ATOMIC
    }

    /// The launch.
    pub fn stamp(&self) -> u64 {
        self.record >> STAMP_SHIFT
    }

    /// The access as one of the thread's warp.
    pub fn of_warp(&self) -> u64 {
        self.own() & !LANE_MASK
    }

    /// The access as one of another lane of its warp.
    pub fn by(self, lane: u32) -> Self {
        Access { thread: self.thread & !31 | lane, ..self }
    }

    /// Whether its lane acquired anything since its warp met.
    pub fn learned(&self) -> bool {
        self.knowledge.is_some_and(|knowledge| knowledge.learned(lane_of(self.thread)))
    }

    /// Whether records are of the same block.
    pub fn same_block(a: u64, b: u64) -> bool {
        (a ^ b) >> BLOCK_SHIFT == 0
    }

    /// Whether records are of the same thread.
    pub fn same_thread(a: u64, b: u64) -> bool {
        (a ^ b) >> THREAD_SHIFT == 0
    }

    /// Whether records are of the same warp.
    pub fn same_warp(a: u64, b: u64) -> bool {
        (a ^ b) >> (THREAD_SHIFT + 5) == 0
    }

    /// Whether a proxy fence is known behind an earlier access; those of other blocks are not watched.
    pub fn is_fenced(&self, earlier: u64) -> bool {
        let clock = clock_of(earlier);
        let fenced = self.clocks.fenced.get(thread_of(earlier) as usize / 32).copied().unwrap_or(0);
        earlier == 0 || !Access::same_block(earlier, self.own()) || fenced >= clock
    }

    /// Whether an earlier access happened before this one, or does not conflict with it.
    pub fn follows(&self, earlier: u64) -> bool {
        self.follows_lane(earlier, Some(lane_of(thread_of(earlier))))
    }

    /// Whether an earlier access of some lane of a warp may have happened before this one, or does not conflict with it.
    pub fn follows_warp(&self, earlier: u64) -> bool {
        Access::same_warp(earlier, self.own()) || self.follows_lane(earlier, None)
    }

    fn follows_lane(&self, earlier: u64, lane: Option<u32>) -> bool {
        self.need_not_follow(earlier)
            || self.block_follows(earlier, thread_of(earlier) == self.thread)
            || self.knowledge.is_some_and(|k| {
                k.covers(self.warp_of(earlier), clock_of(earlier), lane, lane_of(self.thread))
            })
    }

    /// Whether all that lanes of a warp did up to the clock of an earlier access happened before whatever lanes of the
    /// own warp do now. Where not, it depends on the lanes.
    fn all_follow_all(&self, earlier: u64) -> bool {
        self.need_not_follow(earlier)
            || self.block_follows(earlier, false)
            || self.knowledge.is_some_and(|k| k.covers_all(self.warp_of(earlier), clock_of(earlier)))
    }

    /// Whether there was no access, or only in an earlier launch, or one that does not conflict as both are atomic.
    fn need_not_follow(&self, earlier: u64) -> bool {
        let own = self.record;
        earlier == 0 || (earlier ^ own) >> STAMP_SHIFT != 0 || earlier & own & ATOMIC != 0
    }

    /// Whether barriers of the block, or the order of a single thread, stand between an earlier access and this one.
    fn block_follows(&self, earlier: u64, same_thread: bool) -> bool {
        let (thread, clock) = (thread_of(earlier), clock_of(earlier));
        if !Access::same_block(earlier, self.own()) {
            false
        } else if thread / 32 == self.thread / 32 {
            same_thread || self.met >= clock
        } else {
            self.clocks.known.get(thread as usize / 32).is_some_and(|known| *known >= clock)
        }
    }

    /// The number of a record's warp in its grid.
    fn warp_of(&self, earlier: u64) -> usize {
        let block = ((earlier >> BLOCK_SHIFT) & BLOCK_MASK) as usize;
        block * self.clocks.len() + thread_of(earlier) as usize / 32
    }
}

fn clock_of(record: u64) -> u32 {
    (record & (ATOMIC - 1)) as u32
}

fn thread_of(record: u64) -> u32 {
    ((record >> THREAD_SHIFT) & 1023) as u32
}

/// Who made the access of a record.
pub(super) fn earlier(record: u64, wrote: bool) -> Earlier {
    Earlier { block: ((record >> BLOCK_SHIFT) & BLOCK_MASK) as u32, thread: thread_of(record), wrote }
}

/// Which of a granule's earlier accesses are asked for.
#[derive(Clone, Copy)]
pub(super) enum Before {
    Writer,
    Reader,
}

/// The accesses of a warp's lanes by one instruction, all reads or all writes, and what was found out of earlier ones:
/// granules side by side were mostly accessed by the same warp before.
pub(super) struct Batch<'a> {
    /// The access of one of the lanes.
    pub access: Access<'a>,
    /// Of writers and of readers, the last record, but for the lane, that everything follows now.
    followed: [u64; 2],
    /// The last record that the access of a lane does not follow, and the lane.
    refused: Option<(u64, u32)>,
    /// Whether some lanes followed a record that not all of them would.
    pub is_narrow: bool,
    /// Where what is remembered of a line lies, which every lane may access, as far as it was accessed as a whole.
    pub line: usize,
}

impl<'a> Batch<'a> {
    pub fn new(access: Access<'a>) -> Batch<'a> {
        Batch { access, followed: [0; 2], refused: None, is_narrow: false, line: 0 }
    }

    /// The first of some lanes whose access an earlier one did not happen before, and conflicts with.
    #[inline]
    pub fn unordered(&mut self, before: Before, earlier: u64, lanes: u32) -> Option<u32> {
        // None there was, or in an earlier launch, mostly.
        let is_over = (earlier ^ self.access.record) >> STAMP_SHIFT != 0;
        if is_over || earlier & !LANE_MASK == self.followed[before as usize] {
            return None;
        }
        if let Some((_, lane)) =
            self.refused.filter(|(record, lane)| (*record, 1 << lane) == (earlier, lanes))
        {
            return Some(lane);
        }
        self.look(before, earlier, lanes)
    }

    fn look(&mut self, before: Before, earlier: u64, lanes: u32) -> Option<u32> {
        if self.access.all_follow_all(earlier) {
            self.followed[before as usize] = earlier & !LANE_MASK;
            return None;
        }
        let follows = |lane: u32| self.access.by(lane).follows(earlier);
        self.is_narrow = true;
        let refused = (0..LANES as u32).find(|lane| lanes >> lane & 1 == 1 && !follows(*lane))?;
        self.refused = Some((earlier, refused));
        Some(refused)
    }
}
