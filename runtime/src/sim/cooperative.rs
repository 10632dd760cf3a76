//! Cooperative launches: all blocks are there at once and take turns, in rounds. In a round each block that has not
//! ended runs until it ends, waits for others or has had its turn. Rounds in which no global memory changes and no warp
//! ends are the same again from some point on: the grid is deadlocked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex, PoisonError};

use super::block;
use super::counters::Counters;
use super::fault::Problem;
use super::grid::Grid;
use super::memory::Region;
use super::order::Flags;
use super::warp::{State, Warp, spread};

/// Rounds without a change, after which the grid is taken to wait for ever.
const IDLE_ROUNDS: u32 = 256;

/// A block of a cooperative launch.
struct Resident {
    warps: Vec<Warp>,
    shared: Region,
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
    ended: AtomicU64,
}

impl Grid<'_> {
    /// Runs all blocks to their ends, on so many threads of the host.
    pub fn cooperate(&self, workers: usize) {
        let flags = Flags::new(self.blocks as usize * self.shape.warps() as usize);
        let rounds = Rounds {
            flags: &flags,
            blocks: (0..self.blocks).map(|at| Mutex::new(self.resident(at, &flags))).collect(),
            meet: Barrier::new(workers),
            changed: AtomicBool::new(false),
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
        let mut idle = 0;
        loop {
            loop {
                let at = self.next.fetch_add(1, Relaxed);
                let Some(block) = usize::try_from(at).ok().and_then(|i| rounds.blocks.get(i)) else { break };
                let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
                if !block.ended {
                    self.visit(rounds, at, &mut block, &mut counters);
                }
            }
            // All have seen the round's end before one of them begins the next.
            rounds.meet.wait();
            let over = self.failed.load(Relaxed) || rounds.ended.load(Relaxed) == self.blocks;
            idle = if rounds.changed.load(Relaxed) { 0 } else { idle + 1 };
            let leads = rounds.meet.wait().is_leader();
            if over {
                break;
            }
            if leads {
                if idle > IDLE_ROUNDS {
                    self.report_deadlock(rounds);
                }
                rounds.changed.store(false, Relaxed);
                self.next.store(0, Relaxed);
            }
            rounds.meet.wait();
        }
        self.count(counters);
    }

    /// Gives a block its turn.
    fn visit(&self, rounds: &Rounds<'_>, at: u64, block: &mut Resident, counters: &mut Counters) {
        let memories = self.memories(&block.shared, 1, at, Some(rounds.flags));
        let mut context = self.context(memories, *counters);
        let result = block::visit(&mut block.warps, &mut context);
        *counters = context.counters;
        if context.changed {
            rounds.changed.store(true, Relaxed);
        }
        match result {
            Ok(ended) => block.ended = ended,
            Err((warp, (lane, problem))) => {
                // Its faulty warp does not run again.
                block.ended = true;
                self.report(at, &block.warps[warp], lane, problem);
            }
        }
        rounds.ended.fetch_add(u64::from(block.ended), Relaxed);
    }

    /// Reports the first block that waits, by the warp in it that waits for other blocks.
    fn report_deadlock(&self, rounds: &Rounds<'_>) {
        let problem = Problem::GridDeadlock { ended: rounds.ended.load(Relaxed), blocks: self.blocks };
        for (at, block) in (0..).zip(&rounds.blocks) {
            let block = block.lock().unwrap_or_else(PoisonError::into_inner);
            let unended = |w: &&Warp| w.state != State::Done;
            let spinning = block.warps.iter().find(|w| w.spins().is_some());
            let Some(warp) = spinning.or_else(|| block.warps.iter().find(unended)) else { continue };
            let lane = warp.spins().map_or(super::execute::first(warp.current.lanes), |(_, lane)| lane);
            self.report(at, warp, lane, problem);
            return;
        }
    }
}
