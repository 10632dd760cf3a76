//! Barriers in shared memory that count arrivals in phases (`mbarrier`). A word of 8 bytes holds the number of the phase,
//! how many arrivals complete one, and how many are missing. A phase may await bytes of asynchronous copies, too
//! ([`super::bulk`]).
//!
//! An arrival releases and a phase found complete acquires what warps did before their arrivals in that phase, and those
//! before it, at the scope of the block. That is known of whole warps: races between lanes of one warp that such a barrier
//! should have ordered are not all seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::access::{Memories, aligned};
use super::bulk::BulkCopy;
use super::clocks::Clocks;
use super::execute::{Context, Wrong, each_lane};
use super::fault::Problem;
use super::op::{Address, Order, Phase, Space};
use super::order::{Clock, Outgoing, absorb};
use super::requests::count_request;
use super::value::mask;
use super::warp::{LANES, Warp};

/// Bytes of a barrier.
pub(super) const BYTES: u32 = 8;
/// Bits of each of the two counts.
const COUNT_BITS: u32 = 20;
const PHASE_SHIFT: u32 = 2 * COUNT_BITS;

/// What arrivals at the barriers of a block released, by the barrier's offset.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<HashMap<u64, Ledger>>);

/// What arrivals at a barrier released, in phases that are complete and in all, and what its phase awaits.
#[derive(Default)]
pub(super) struct Ledger {
    complete: Released,
    all: Released,
    /// Bytes that are awaited beyond those that came.
    bytes: i64,
    /// Copies on their way.
    pub copies: Vec<BulkCopy>,
}

impl Ledger {
    /// Notes what an arrival released.
    pub fn release(&mut self, released: &Released) {
        self.all.clocks.join(&released.clocks);
        released.known.iter().for_each(|known| absorb(&mut self.all.known, known));
    }

    /// A barrier's word after so many arrivals and so many awaited bytes more.
    pub fn after(&mut self, word: u64, arrivals: u64, bytes: i64) -> u64 {
        self.bytes += bytes;
        let now = after(word, arrivals, self.bytes == 0);
        if phase_of(now) != phase_of(word) {
            self.complete = self.all.clone();
        }
        now
    }
}

/// What is known of the block's warps, and of other blocks.
#[derive(Clone, Default)]
pub(super) struct Released {
    pub clocks: Clocks,
    pub known: Option<Arc<Clock>>,
}

impl Arrivals {
    /// Nothing has arrived anywhere.
    pub fn forget(&self) {
        self.held().clear();
    }

    /// The ledgers, by the offsets of their barriers.
    pub fn held(&self) -> MutexGuard<'_, HashMap<u64, Ledger>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begun(phase: u64, expected: u64) -> u64 {
    (phase << PHASE_SHIFT) | (expected << COUNT_BITS) | expected
}

fn phase_of(word: u64) -> u64 {
    word >> PHASE_SHIFT
}

/// A barrier's word after so many arrivals; the phase ends if no bytes are awaited.
fn after(word: u64, arrivals: u64, whole: bool) -> u64 {
    let missing = (word & mask(COUNT_BITS)).saturating_sub(arrivals);
    if missing > 0 || !whole {
        return (word & !mask(COUNT_BITS)) | missing;
    }
    begun((phase_of(word) + 1) & mask(64 - PHASE_SHIFT), word >> COUNT_BITS & mask(COUNT_BITS))
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
            let released =
                arrives.then(|| Released { clocks: self.clocks.clone(), known: outgoing.of(lane).cloned() });
            let word = self.apply(&memories, f, addresses[lane], lane, released.as_ref());
            words[lane] = word.map_err(|problem| (lane as u32, problem))?;
            if !matches!(f, Phase::Ask { .. }) {
                continue;
            }
            let offset = addresses[lane] & mask(32);
            if self.completes(f, words[lane], lane) {
                complete |= 1 << lane;
                let released = memories.arrivals.held().get(&offset).map(|ledger| ledger.complete.clone());
                released.into_iter().for_each(|released| self.acquire(released));
            } else {
                let came = self.finish_bulk(&memories, offset, lane);
                context.progress |= came.map_err(|problem| (lane as u32, problem))?;
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
        let own = released.clocks.known.get(self.index as usize).copied().unwrap_or(0);
        self.met = self.met.max(own);
        self.clocks.join(&released.clocks);
        if let (Some(knowledge), Some(known)) = (&mut self.knowledge, &released.known) {
            knowledge.learn(known);
        }
    }

    /// Changes a barrier for one lane, and notes what it released; its word before.
    fn apply(
        &self,
        memories: &Memories<'_>,
        f: Phase,
        address: u64,
        lane: usize,
        released: Option<&Released>,
    ) -> Result<u64, Problem> {
        aligned(address, BYTES)?;
        let place = memories.place(None, Space::Shared, address, lane, BYTES)?;
        let plain = matches!(f, Phase::Begin { .. } | Phase::End);
        let access = self.access(memories, Space::Shared, !plain).by(lane as u32);
        let value = |slot: u32| self.registers[slot as usize][lane] & mask(COUNT_BITS);
        if !matches!(f, Phase::Begin { .. }) {
            place.region.note_read(place.offset, BYTES, &access)?;
        }
        if !matches!(f, Phase::Ask { .. }) {
            place.region.note_write(place.offset, BYTES, &access)?;
        }
        let mut held = memories.arrivals.held();
        let ledger = held.entry(place.offset).or_default();
        released.into_iter().for_each(|released| ledger.release(released));
        // Shared memory is accessed by one thread of the host at a time.
        let word = place.region.load(place.offset, BYTES);
        let now = match f {
            Phase::Begin { count } => {
                *ledger = Ledger::default();
                begun(0, value(count))
            }
            Phase::Arrive { count, bytes, .. } => {
                let bytes = bytes.map_or(0, value) as i64;
                ledger.after(word, count.map_or(1, value), bytes)
            }
            Phase::Await { bytes, arrived } => {
                let bytes = value(bytes) as i64;
                ledger.after(word, 0, if arrived { -bytes } else { bytes })
            }
            Phase::Ask { .. } | Phase::End => word,
        };
        place.region.store(place.offset, BYTES, now);
        if f == Phase::End {
            place.region.note_pending(place.offset, BYTES);
        }
        Ok(word)
    }

    /// Whether a lane asks for a phase that is complete.
    fn completes(&self, f: Phase, word: u64, lane: usize) -> bool {
        let Phase::Ask { of, parity, .. } = f else { return false };
        let (now, of) = (phase_of(word), self.registers[of as usize][lane]);
        if parity { now & 1 != of & 1 } else { now != phase_of(of) }
    }

    /// Leaves what lanes found where they want it.
    fn conclude(&mut self, f: Phase, lanes: u32, words: &[u64; LANES], complete: u32) {
        match f {
            Phase::Arrive { d: Some(d), .. } => {
                let out = &mut self.registers[d as usize];
                each_lane(lanes, |lane| out[lane] = words[lane]);
            }
            Phase::Ask { p, .. } => self.set_predicate(p, lanes, complete),
            Phase::Arrive { d: None, .. } | Phase::Await { .. } | Phase::Begin { .. } | Phase::End => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_arrival_begins_the_next_phase() {
        let word = begun(0, 3);
        assert_eq!(after(after(word, 1, true), 1, true) & mask(COUNT_BITS), 1);
        assert_eq!(after(after(word, 2, true), 1, true), begun(1, 3));
        assert_eq!(after(begun(mask(24), 1), 1, true), begun(0, 1));
    }

    #[test]
    fn a_phase_ends_when_all_bytes_came() {
        let mut ledger = Ledger::default();
        let word = ledger.after(begun(0, 1), 1, 32);
        assert_eq!(phase_of(word), 0);
        let word = ledger.after(word, 0, -16);
        assert_eq!(phase_of(word), 0);
        assert_eq!(ledger.after(word, 0, -16), begun(1, 1));
    }
}
