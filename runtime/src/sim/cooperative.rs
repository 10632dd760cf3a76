//! Cooperative launches, and clusters: all their blocks are there at once and take turns, in rounds. In a round each block that has not
//! ended runs until it ends, waits for others or has had its turn. Flags are read in rounds of their own, when all blocks
//! have come to where they wait ([`super::poll`]). Rounds in which no global memory changes, no flag shows anything new
//! and no warp ends are the same again from some point on: the grid is deadlocked.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex, PoisonError};

use super::access::Memories;
use super::block;
use super::cluster::{Cluster, Neighbours};
use super::counters::Counters;
use super::execute::first;
use super::fault::{Problem, Wait};
use super::flags::Flags;
use super::grid::{Grid, Shared};
use super::op::Space;
use super::warp::{State, Warp};

/// Turns of a warp without a change, after which the grid is taken to wait for ever. One that computes needs so many
/// for more instructions than kernels have between two stores.
const IDLE_TURNS: u32 = 1 << 12;
/// The turns that count for a round in which all warps wait.
const WAITING_TURNS: u32 = 16;

/// A block that is there together with others.
struct Resident {
    warps: Vec<Warp>,
    ended: bool,
}

/// What the threads of the host share.
struct Rounds<'g> {
    flags: &'g Flags,
    /// The number of the first block.
    first: u64,
    blocks: Vec<Mutex<Resident>>,
    /// The shared memory of each block.
    shared: Vec<Shared>,
    /// The clusters of the blocks, in order.
    clusters: Vec<Cluster>,
    /// The next block that has not had its turn in this round, counted from the first one.
    next: AtomicU64,
    /// The threads begin and end rounds together.
    meet: Barrier,
    /// Whether global memory changed in this round, or a warp ended.
    changed: AtomicBool,
    /// The most turns that a block took in this round in which a warp did not wait.
    turns: AtomicU32,
    /// Whether a warp is about to read flags.
    polls: AtomicBool,
    /// Whether a warp could go on at once.
    ready: AtomicBool,
    ended: AtomicU64,
}

impl Grid<'_> {
    /// Runs some blocks to their ends, which are there at once, on so many threads of the host.
    pub fn cooperate(&self, numbers: Range<u64>, workers: usize) {
        let (first, count) = (numbers.start, (numbers.end - numbers.start) as usize);
        let warps = self.shape.warps();
        let each = self.shape.cluster_blocks();
        let flags = Flags::new(first, count, warps as usize);
        let (blocks, shared) = numbers.map(|at| self.resident(at, &flags)).unzip();
        let rounds = Rounds {
            flags: &flags,
            first,
            blocks,
            shared,
            clusters: (0..count / each as usize).map(|_| Cluster::new(each, warps)).collect(),
            next: AtomicU64::new(0),
            meet: Barrier::new(workers),
            changed: AtomicBool::new(false),
            turns: AtomicU32::new(0),
            polls: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            ended: AtomicU64::new(0),
        };
        self.on_threads(workers, || self.take_turns(&rounds));
    }

    fn resident(&self, at: u64, flags: &Flags) -> (Mutex<Resident>, Shared) {
        let (mut warps, shared) = self.block();
        for warp in &mut warps {
            warp.start(self.kernel, &self.shape, self.shape.index(at));
            warp.cooperate(flags);
        }
        (Mutex::new(Resident { warps, ended: false }), shared)
    }

    /// What each thread of the host does.
    fn take_turns(&self, rounds: &Rounds<'_>) {
        let mut counters = Counters::default();
        let (mut idle, mut admitted) = (0, false);
        loop {
            loop {
                let at = rounds.next.fetch_add(1, Relaxed);
                let Some(block) = usize::try_from(at).ok().and_then(|i| rounds.blocks.get(i)) else { break };
                let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
                if !block.ended {
                    self.visit(rounds, at, &mut block, admitted, &mut counters);
                }
            }
            // All have seen the round's end before one of them begins the next.
            rounds.meet.wait();
            let over = self.failed.load(Relaxed) || rounds.ended.load(Relaxed) == rounds.blocks.len() as u64;
            if rounds.changed.load(Relaxed) {
                idle = 0;
            } else {
                let turns = rounds.turns.load(Relaxed);
                idle += if turns == 0 { WAITING_TURNS } else { turns };
            }
            admitted = rounds.polls.load(Relaxed) && !rounds.ready.load(Relaxed);
            let leads = rounds.meet.wait().is_leader();
            if over {
                break;
            }
            if leads {
                if idle > IDLE_TURNS {
                    self.report_deadlock(rounds);
                }
                rounds.changed.store(false, Relaxed);
                rounds.turns.store(0, Relaxed);
                rounds.polls.store(false, Relaxed);
                rounds.ready.store(false, Relaxed);
                rounds.next.store(0, Relaxed);
            }
            rounds.meet.wait();
        }
        self.count(counters);
    }

    /// Gives a block its turn, or lets it read flags; `at` counts from the first one.
    fn visit(
        &self,
        rounds: &Rounds<'_>,
        at: u64,
        block: &mut Resident,
        admitted: bool,
        counters: &mut Counters,
    ) {
        let (number, each) = (rounds.first + at, self.shape.cluster_blocks() as usize);
        let (cluster, rank) = (at as usize / each, at as usize % each);
        let shared = &rounds.shared[cluster * each..][..each];
        let neighbours = Neighbours { cluster: &rounds.clusters[cluster], shared, rank };
        let memories = self.memories(&shared[rank], 1, number, Some(rounds.flags));
        let memories = Memories { neighbours: Some(&neighbours), ..memories };
        let mut context = self.context(memories, *counters);
        let result = block::visit(&mut block.warps, &mut context, admitted).map(|visit| {
            block.ended = visit.ended;
            rounds.turns.fetch_max(visit.turns, Relaxed);
            rounds.polls.fetch_or(visit.polls, Relaxed);
            rounds.ready.fetch_or(visit.ready, Relaxed);
        });
        *counters = context.counters;
        rounds.changed.fetch_or(context.changed, Relaxed);
        if let Err((warp, (lane, problem))) = result {
            // Its faulty warp does not run again.
            block.ended = true;
            self.report(number, &block.warps[warp], lane, problem);
        } else if block.ended {
            self.end(number, &block.warps, &memories, &neighbours);
        }
        rounds.ended.fetch_add(u64::from(block.ended), Relaxed);
    }

    /// A block has ended: nobody may access its shared memory any more.
    fn end(&self, number: u64, warps: &[Warp], memories: &Memories<'_>, neighbours: &Neighbours<'_>) {
        let follows =
            |visit| warps.iter().any(|w| w.access(memories, Space::Shared, false).follows_warp(visit));
        let Err(problem) = neighbours.end(follows) else { return };
        let Some(last) = warps.first() else { return };
        let at = (last.current.pc as usize).min(self.kernel.code.len()).saturating_sub(1);
        self.fail(number, self.place(at as u32, number, last, 0), problem);
    }

    /// Reports the first block that waits, and where the others do, each by the warp in it that waits for other blocks.
    fn report_deadlock(&self, rounds: &Rounds<'_>) {
        let mut waits: Vec<Wait> = Vec::new();
        for (at, block) in (rounds.first..).zip(&rounds.blocks) {
            let block = block.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((instruction, warp, lane)) = waiting(&block.warps) else { continue };
            let wait = self.place(instruction, at, warp, lane);
            match waits.iter_mut().find(|known| known.line == wait.line && known.text == wait.text) {
                Some(known) => known.blocks += 1,
                None => waits.push(wait),
            }
        }
        let Some(first) = waits.first().cloned() else { return };
        let (ended, blocks) = (rounds.ended.load(Relaxed), rounds.blocks.len() as u64);
        let each = u64::from(self.shape.cluster_blocks());
        let of_cluster = blocks < self.blocks || (each > 1 && blocks == each);
        self.fail(rounds.first, first, Problem::GridDeadlock { of_cluster, ended, blocks, waits });
    }
}

/// Where a block waits for others: the instruction by which a warp does, or before which one that has not ended stands;
/// the warp, and a lane of it.
fn waiting(warps: &[Warp]) -> Option<(u32, &Warp, u32)> {
    let spinning = warps.iter().find_map(|w| w.spins().map(|(at, lane)| (at, w, lane)));
    spinning.or_else(|| {
        let unended = warps.iter().find(|w| w.state != State::Done)?;
        Some((unended.before(), unended, first(unended.current.lanes)))
    })
}
