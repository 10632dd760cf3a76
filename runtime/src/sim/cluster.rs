//! Clusters: blocks that are there at once, reach each other's shared memory, and meet at a barrier of their own.
//!
//! An address of `shared::cluster` holds an offset in 24 bits and, above, the rank of a block plus one; 0 there is the
//! block's own memory, as in `shared::cta`. What one block writes into another's memory is ordered for the others by
//! [`barrier.cluster`](Op::ClusterArrive) alone: flags in shared memory order nothing between blocks here, nor do fences
//! and flags at the scope of the cluster.
//!
//! A block may end only when nobody accesses its memory any more. That is told in both orders: an access to a block that
//! has ended, and the end of a block that nothing orders after an access.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::execute::{Context, Wrong, each_lane, first};
use super::fault::{Misuse, Problem};
use super::grid::Shared;
use super::memory::Region;
#[cfg(doc)]
use super::op::Op;
use super::op::{Order, Space};
use super::order::{Clock, absorb};
use super::record::{Access, earlier};
use super::value::mask;
use super::warp::{State, Warp};

/// The most blocks of a cluster that every device with clusters has room for.
pub(super) const PORTABLE_BLOCKS: u32 = 8;
/// The most blocks of a cluster where the launch does not ask for portability.
pub(super) const MOST_BLOCKS: u32 = 16;
/// The first compute capability (times ten) with clusters.
pub(super) const FIRST_CAPABILITY: u32 = 90;

/// Where the rank begins in an address.
pub(super) const RANK_SHIFT: u32 = 24;
const RANK_MASK: u64 = 0xFF << RANK_SHIFT;

/// Whether an address of shared memory names a block.
pub(super) fn names_block(address: u64) -> bool {
    address & RANK_MASK != 0
}

/// The offset in the memory of the block that an address names.
pub(super) fn offset(address: u64) -> u64 {
    address & mask(RANK_SHIFT)
}

/// The rank of the block that an address names.
fn rank_of(address: u64) -> Option<usize> {
    ((address & RANK_MASK) >> RANK_SHIFT).checked_sub(1).map(|rank| rank as usize)
}

/// What the blocks of a cluster have in common.
pub(super) struct Cluster {
    meeting: Mutex<Meeting>,
    members: Vec<Member>,
}

struct Member {
    ended: AtomicBool,
    /// The last access of each warp of the cluster to this block's memory; 0 where there was none.
    visits: Vec<AtomicU64>,
}

/// The barrier of a cluster.
#[derive(Default)]
struct Meeting {
    phase: u64,
    arrived: u32,
    /// Warps that have not ended.
    present: u32,
    /// What was released by arrivals in this phase, and in the one before.
    pending: Option<Arc<Clock>>,
    released: Option<Arc<Clock>>,
}

impl Meeting {
    /// Begins the next phase if all that are there have arrived, and says so.
    fn turn(&mut self) -> bool {
        let complete = self.present > 0 && self.arrived == self.present;
        if complete {
            self.phase += 1;
            self.arrived = 0;
            self.released = self.pending.take();
        }
        complete
    }
}

impl Cluster {
    /// A cluster of so many blocks of so many warps.
    pub fn new(blocks: u32, warps: u32) -> Cluster {
        let all = blocks * warps;
        let visits = || (0..all).map(|_| AtomicU64::new(0)).collect();
        let member = || Member { ended: AtomicBool::new(false), visits: visits() };
        Cluster {
            meeting: Mutex::new(Meeting { present: all, ..Meeting::default() }),
            members: (0..blocks).map(|_| member()).collect(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cluster as one of its blocks sees it.
#[derive(Clone, Copy)]
pub(super) struct Neighbours<'a> {
    pub cluster: &'a Cluster,
    /// The shared memory of all its blocks, by rank.
    pub shared: &'a [Shared],
    /// The block's own rank.
    pub rank: usize,
}

impl<'a> Neighbours<'a> {
    /// The shared memory that an address with a rank leads to.
    pub fn region(&self, address: u64) -> Result<&'a Region, Problem> {
        let rank = rank_of(address).unwrap_or(self.rank);
        let Some(shared) = self.shared.get(rank) else { return Err(self.outside(rank as u64)) };
        if self.cluster.members[rank].ended.load(Relaxed) {
            return Err(Problem::BlockEnded { rank: rank as u32 });
        }
        Ok(&shared.region)
    }

    /// The address of the same offset in the memory of another block.
    fn map(&self, address: u64, rank: u64) -> Result<u64, Problem> {
        if rank >= self.shared.len() as u64 {
            return Err(self.outside(rank));
        }
        Ok((address & !RANK_MASK) | (rank + 1) << RANK_SHIFT)
    }

    fn outside(&self, rank: u64) -> Problem {
        Problem::OutsideCluster { rank, blocks: self.shared.len() as u32 }
    }

    /// Notes an access at an address with a rank.
    pub fn note_visit(&self, address: u64, access: &Access<'_>) {
        let Some(rank) = rank_of(address).filter(|rank| *rank != self.rank) else { return };
        let warp = self.rank * access.clocks.len() + access.thread as usize / 32;
        let visits = self.cluster.members.get(rank).map(|member| &member.visits);
        if let Some(visit) = visits.and_then(|visits| visits.get(warp)) {
            visit.store(access.plain(), Relaxed);
        }
    }

    /// How many of some lanes' addresses lead to other blocks.
    pub fn distant(&self, addresses: &[u64], lanes: u32) -> u32 {
        let mut count = 0;
        each_lane(lanes, |lane| {
            count += u32::from(rank_of(addresses[lane]).is_some_and(|rank| rank != self.rank));
        });
        count
    }

    /// The block has ended; an access to its memory that nothing orders before that.
    pub fn end(&self, follows: impl Fn(u64) -> bool) -> Result<(), Problem> {
        let member = &self.cluster.members[self.rank];
        member.ended.store(true, Relaxed);
        let visits = member.visits.iter().map(|visit| visit.load(Relaxed));
        let early = visits.filter(|visit| *visit != 0).find(|visit| !follows(*visit));
        early.map_or(Ok(()), |visit| Err(Problem::EndsEarly { earlier: earlier(visit, false) }))
    }

    /// Whether a phase of the barrier is over.
    pub fn is_over(&self, phase: u64) -> bool {
        self.cluster.held().phase > phase
    }

    /// A warp ends, which may have arrived at the barrier; whether that ends the phase.
    pub fn leave(&self, has_arrived: bool) -> bool {
        let mut meeting = self.cluster.held();
        meeting.present -= 1;
        meeting.arrived -= u32::from(has_arrived);
        meeting.turn()
    }
}

impl Warp {
    /// Arrives at the barrier of the cluster.
    pub fn arrive_at_cluster(
        &mut self,
        context: &mut Context<'_>,
        releases: bool,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let Some(neighbours) = context.memories.neighbours else { return Ok(()) };
        self.together(lanes)?;
        if self.gathering.is_some() {
            return Err((first(lanes), Problem::ClusterBarrier(Misuse::ArrivesTwice)));
        }
        let order = Order { acquires: false, releases };
        let outgoing = releases.then(|| self.outgoing(context.memories.block, lanes, order));
        let mut meeting = neighbours.cluster.held();
        let known = outgoing.as_ref().and_then(|outgoing| outgoing.of(first(lanes) as usize));
        known.into_iter().for_each(|known| absorb(&mut meeting.pending, known));
        self.gathering = Some(meeting.phase);
        meeting.arrived += 1;
        context.gathered |= meeting.turn();
        drop(meeting);
        (context.progress, context.changed) = (true, true);
        self.count_up();
        self.act();
        Ok(())
    }

    /// Waits at the barrier of the cluster, or goes on with what the others released.
    pub fn wait_for_cluster(&mut self, context: &mut Context<'_>, lanes: u32) -> Result<(), Wrong> {
        let Some(neighbours) = context.memories.neighbours else { return Ok(()) };
        self.together(lanes)?;
        let Some(phase) = self.gathering else {
            return Err((first(lanes), Problem::ClusterBarrier(Misuse::WaitsWithoutArrival)));
        };
        let meeting = neighbours.cluster.held();
        if meeting.phase <= phase {
            // It is executed once more when the others have come.
            context.counters.control -= u64::from(lanes.count_ones());
            self.state = State::Gathering;
            return Ok(());
        }
        if let (Some(knowledge), Some(released)) = (&mut self.knowledge, &meeting.released) {
            knowledge.learn(released);
        }
        drop(meeting);
        self.gathering = None;
        context.counters.cluster_barriers += 1;
        (context.progress, context.changed) = (true, true);
        self.act();
        Ok(())
    }

    /// Refuses a barrier that not all lanes reach.
    fn together(&self, lanes: u32) -> Result<(), Wrong> {
        if lanes == self.live {
            return Ok(());
        }
        Err((first(lanes), Problem::DivergentBarrier { here: lanes, expected: self.live }))
    }

    /// Addresses in the memory of other blocks, at the ranks that a register holds.
    pub fn map_to_blocks(
        &mut self,
        context: &Context<'_>,
        [d, a, rank]: [u32; 3],
        lanes: u32,
    ) -> Result<(), Wrong> {
        let Some(neighbours) = context.memories.neighbours else { return Ok(()) };
        let [addresses, ranks] = [a, rank].map(|slot| self.registers[slot as usize]);
        let mut wrong = None;
        let out = &mut self.registers[d as usize];
        each_lane(lanes, |lane| match neighbours.map(addresses[lane], ranks[lane] & mask(32)) {
            Ok(address) => out[lane] = address,
            Err(problem) => _ = wrong.get_or_insert((lane as u32, problem)),
        });
        wrong.map_or(Ok(()), Err)
    }

    /// The ranks of the blocks whose memory addresses lead to.
    pub fn ranks(&mut self, context: &Context<'_>, d: u32, a: u32, lanes: u32) {
        let own = context.memories.neighbours.map_or(0, |neighbours| neighbours.rank);
        self.each([d, a, a, a], lanes, |address, _, _| rank_of(address).unwrap_or(own) as u64);
    }

    /// Lets the warp go on where the cluster has met.
    pub fn gather(&mut self, context: &Context<'_>) -> bool {
        let waits = self.state == State::Gathering;
        let over = context.memories.neighbours.zip(self.gathering).is_some_and(|(n, phase)| n.is_over(phase));
        if waits && over {
            self.state = State::Ready;
        }
        waits && over
    }
}

/// Whether a space is shared memory, of whichever block.
pub(super) fn is_shared(space: Space) -> bool {
    matches!(space, Space::Shared | Space::Cluster)
}
