//! Barriers in shared memory that count arrivals in phases (`mbarrier`). A word of 8 bytes holds the number of the phase,
//! how many arrivals complete one, and how many are missing.
//!
//! An arrival releases and a phase found complete acquires what warps did before their arrivals in that phase, and those
//! before it, at the scope of the block. That is known of whole warps: races between lanes of one warp that such a barrier
//! should have ordered are not all seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::access::{Memories, aligned, count_request};
use super::execute::{Context, Wrong, each_lane};
use super::fault::Problem;
use super::memory::Access;
use super::op::{Address, Order, Phase, Space};
use super::order::{Clock, Outgoing, absorb};
use super::value::mask;
use super::warp::{LANES, Warp};

const BYTES: u32 = 8;
/// Bits of each of the two counts.
const COUNT_BITS: u32 = 20;
const PHASE_SHIFT: u32 = 2 * COUNT_BITS;

/// What arrivals at the barriers of a block released, by the barrier's offset.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<HashMap<u64, Ledger>>);

/// What arrivals at a barrier released: in phases that are complete, and in all.
#[derive(Clone, Default)]
struct Ledger {
    complete: Released,
    all: Released,
}

/// Clocks of the block's warps, and what is known of other blocks.
#[derive(Clone, Default)]
struct Released {
    clocks: Vec<u32>,
    known: Option<Arc<Clock>>,
}

impl Arrivals {
    /// Nothing has arrived anywhere.
    pub fn forget(&self) {
        self.held().clear();
    }

    /// A barrier begins at this offset.
    fn begin(&self, at: u64) {
        self.held().remove(&at);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Ledger>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, at: u64, clocks: &[u32], known: Option<&Arc<Clock>>, completes: bool) {
        let mut held = self.held();
        let ledger = held.entry(at).or_default();
        ledger.all.clocks.resize(clocks.len(), 0);
        join(&mut ledger.all.clocks, clocks);
        known.into_iter().for_each(|known| absorb(&mut ledger.all.known, known));
        if completes {
            ledger.complete = ledger.all.clone();
        }
    }

    fn acquire(&self, at: u64) -> Released {
        self.held().get(&at).map(|ledger| ledger.complete.clone()).unwrap_or_default()
    }
}

fn join(all: &mut [u32], others: &[u32]) {
    all.iter_mut().zip(others).for_each(|(own, other)| *own = (*own).max(*other));
}

fn begun(phase: u64, expected: u64) -> u64 {
    (phase << PHASE_SHIFT) | (expected << COUNT_BITS) | expected
}

/// A barrier's word after so many arrivals.
fn after(word: u64, arrivals: u64) -> u64 {
    let missing = (word & mask(COUNT_BITS)).saturating_sub(arrivals);
    if missing > 0 {
        return (word & !mask(COUNT_BITS)) | missing;
    }
    begun(((word >> PHASE_SHIFT) + 1) & mask(64 - PHASE_SHIFT), word >> COUNT_BITS & mask(COUNT_BITS))
}

impl Warp {
    /// Does something with a barrier in shared memory.
    pub fn phase_barrier(
        &mut self,
        context: &mut Context<'_>,
        f: Phase,
        at: Address,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let (addresses, memories) = (self.addresses(at), context.memories);
        let arrives = matches!(f, Phase::Arrive { .. });
        let outgoing = if arrives {
            self.outgoing(memories.block, lanes, Order { releases: true, acquires: false })
        } else {
            Outgoing::default()
        };
        let (mut words, mut complete) = ([0; LANES], 0u32);
        for lane in (0..LANES).filter(|lane| lanes >> lane & 1 == 1) {
            let (before, now) =
                self.apply(&memories, f, addresses[lane], lane).map_err(|problem| (lane as u32, problem))?;
            words[lane] = before;
            let offset = addresses[lane] & mask(32);
            if arrives {
                let completes = before >> PHASE_SHIFT != now >> PHASE_SHIFT;
                memories.arrivals.release(offset, &self.clocks, outgoing.of(lane), completes);
            } else if matches!(f, Phase::Begin { .. }) {
                memories.arrivals.begin(offset);
            } else if self.completes(f, before, lane) {
                complete |= 1 << lane;
                self.acquire(memories.arrivals.acquire(offset));
            }
        }
        count_request(context, Space::Shared, &addresses, BYTES, lanes);
        self.conclude(f, lanes, &words, complete);
        if arrives {
            self.count_up();
        }
        if matches!(f, Phase::Ask { .. }) && complete & lanes != lanes {
            self.look(context, Space::Shared, lanes, &addresses, false);
        } else {
            context.progress = true;
            self.act();
        }
        Ok(())
    }

    /// Knows from here on what arrivals released.
    fn acquire(&mut self, released: Released) {
        let own = released.clocks.get(self.index as usize).copied().unwrap_or(0);
        self.met = self.met.max(own);
        join(&mut self.clocks, &released.clocks);
        if let (Some(knowledge), Some(known)) = (&mut self.knowledge, &released.known) {
            knowledge.learn(known);
        }
    }

    /// Changes a barrier for one lane; its word before and after.
    fn apply(
        &self,
        memories: &Memories<'_>,
        f: Phase,
        address: u64,
        lane: usize,
    ) -> Result<(u64, u64), Problem> {
        aligned(address, BYTES)?;
        let place = memories.place(None, Space::Shared, address, lane, BYTES)?;
        let plain = matches!(f, Phase::Begin { .. } | Phase::End);
        let access = self.access(memories, Space::Shared, !plain);
        let access = Access { thread: access.thread + lane as u32, ..access };
        let value = |slot: u32| self.registers[slot as usize][lane] & mask(COUNT_BITS);
        if !matches!(f, Phase::Begin { .. }) {
            place.region.note_read(place.offset, BYTES, &access)?;
        }
        if !matches!(f, Phase::Ask { .. }) {
            place.region.note_write(place.offset, BYTES, &access)?;
        }
        let change = |word| match f {
            Phase::Begin { count } => begun(0, value(count)),
            Phase::Arrive { count, .. } => after(word, count.map_or(1, value)),
            Phase::Ask { .. } | Phase::End => word,
        };
        let before = place.region.update(place.offset, BYTES, change);
        if f == Phase::End {
            place.region.note_pending(place.offset, BYTES);
        }
        Ok((before, change(before)))
    }

    /// Whether a lane asks for a phase that is complete.
    fn completes(&self, f: Phase, word: u64, lane: usize) -> bool {
        let Phase::Ask { of, parity, .. } = f else { return false };
        let (now, of) = (word >> PHASE_SHIFT, self.registers[of as usize][lane]);
        if parity { now & 1 != of & 1 } else { now != of >> PHASE_SHIFT }
    }

    /// Leaves what lanes found where they want it.
    fn conclude(&mut self, f: Phase, lanes: u32, words: &[u64; LANES], complete: u32) {
        match f {
            Phase::Arrive { d: Some(d), .. } => {
                let out = &mut self.registers[d as usize];
                each_lane(lanes, |lane| out[lane] = words[lane]);
            }
            Phase::Ask { p, .. } => self.set_predicate(p, lanes, complete),
            Phase::Arrive { d: None, .. } | Phase::Begin { .. } | Phase::End => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_arrival_begins_the_next_phase() {
        let word = begun(0, 3);
        assert_eq!(after(after(word, 1), 1) & mask(COUNT_BITS), 1);
        assert_eq!(after(after(word, 2), 1), begun(1, 3));
        assert_eq!(after(begun(mask(24), 1), 1), begun(0, 1));
    }
}
