//! Cooperative launches: all blocks are there at once and take turns, in rounds. In a round each block that has not
//! ended runs until it ends, waits for others or has had its turn. Flags are read in rounds of their own, when all blocks
//! have come to where they wait ([`super::poll`]). Rounds in which no global memory changes, no flag shows anything new
//! and no warp ends are the same again from some point on: the grid is deadlocked.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex, PoisonError};

use super::block;
use super::counters::Counters;
use super::execute::first;
use super::fault::{Problem, Wait};
use super::flags::Flags;
use super::grid::{Grid, Shared};
use super::warp::{State, Warp, spread};

/// Turns of a warp without a change, after which the grid is taken to wait for ever. One that computes needs so many
/// for more instructions than kernels have between two stores.
const IDLE_TURNS: u32 = 1 << 12;
/// The turns that count for a round in which all warps wait.
const WAITING_TURNS: u32 = 16;

/// A block of a cooperative launch.
struct Resident {
    warps: Vec<Warp>,
    shared: Shared,
    ended: bool,
}

/// What the threads of the host share.
struct Rounds<'g> {
    flags: &'g Flags,
    blocks: Vec<Mutex<Resident>>,
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
    /// Runs all blocks to their ends, on so many threads of the host.
    pub fn cooperate(&self, workers: usize) {
        let blocks = self.blocks as usize;
        let flags = Flags::new(blocks, blocks * self.shape.warps() as usize);
        let rounds = Rounds {
            flags: &flags,
            blocks: (0..self.blocks).map(|at| Mutex::new(self.resident(at, &flags))).collect(),
            meet: Barrier::new(workers),
            changed: AtomicBool::new(false),
            turns: AtomicU32::new(0),
            polls: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            ended: AtomicU64::new(0),
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| self.take_turns(&rounds));
            }
            self.take_turns(&rounds);
        });
    }

    fn resident(&self, at: u64, flags: &Flags) -> Resident {
        let (mut warps, shared) = self.block();
        for warp in &mut warps {
            warp.start(self.kernel, &self.shape, spread(at, self.shape.grid));
            warp.cooperate(flags);
        }
        Resident { warps, shared, ended: false }
    }

    /// What each thread of the host does.
    fn take_turns(&self, rounds: &Rounds<'_>) {
        let mut counters = Counters::default();
        let (mut idle, mut admitted) = (0, false);
        loop {
            loop {
                let at = self.next.fetch_add(1, Relaxed);
                let Some(block) = usize::try_from(at).ok().and_then(|i| rounds.blocks.get(i)) else { break };
                let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
                if !block.ended {
                    self.visit(rounds, at, &mut block, admitted, &mut counters);
                }
            }
            // All have seen the round's end before one of them begins the next.
            rounds.meet.wait();
            let over = self.failed.load(Relaxed) || rounds.ended.load(Relaxed) == self.blocks;
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
                self.next.store(0, Relaxed);
            }
            rounds.meet.wait();
        }
        self.count(counters);
    }

    /// Gives a block its turn, or lets it read flags.
    fn visit(
        &self,
        rounds: &Rounds<'_>,
        at: u64,
        block: &mut Resident,
        admitted: bool,
        counters: &mut Counters,
    ) {
        let memories = self.memories(&block.shared, 1, at, Some(rounds.flags));
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
            self.report(at, &block.warps[warp], lane, problem);
        }
        rounds.ended.fetch_add(u64::from(block.ended), Relaxed);
    }

    /// Reports the first block that waits, and where the others do, each by the warp in it that waits for other blocks.
    fn report_deadlock(&self, rounds: &Rounds<'_>) {
        let mut waits: Vec<Wait> = Vec::new();
        for (at, block) in (0..).zip(&rounds.blocks) {
            let block = block.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((instruction, warp, lane)) = waiting(&block.warps) else { continue };
            let wait = self.place(instruction, at, warp, lane);
            match waits.iter_mut().find(|known| known.line == wait.line && known.text == wait.text) {
                Some(known) => known.blocks += 1,
                None => waits.push(wait),
            }
        }
        let Some(first) = waits.first().cloned() else { return };
        let problem = Problem::GridDeadlock { ended: rounds.ended.load(Relaxed), blocks: self.blocks, waits };
        self.fail(0, first, problem);
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
