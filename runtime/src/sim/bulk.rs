//! Bulk copies from global to shared memory (`cp.async.bulk`), for which barriers there wait.
//!
//! A copy comes as late as it can: when a thread asks whether the phase of its barrier is complete and it is not. Whoever
//! finds it complete then knows what the thread did that began the copy.

use super::access::{Memories, aligned};
use super::execute::{Context, Wrong};
use super::fault::Problem;
use super::op::{Address, Order, Space};
use super::phase::{BYTES, Released};
use super::requests::count_request;
use super::value::mask;
use super::warp::{LANES, Warp};

/// What addresses and sizes of bulk copies are multiples of, in bytes.
const UNIT: u32 = 16;
/// How they are accessed, in bytes.
const WORD: u32 = 4;

/// A copy that was begun.
pub(super) struct BulkCopy {
    to: u64,
    from: u64,
    bytes: u32,
    released: Released,
}

impl Warp {
    /// Begins copies of so many bytes, of which barriers are told.
    pub fn copy_bulk(
        &mut self,
        context: &mut Context<'_>,
        [to, from, barrier]: [Address; 3],
        bytes: u32,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let [to, from, barrier] = [to, from, barrier].map(|at| self.addresses(at));
        let memories = context.memories;
        let outgoing = self.outgoing(memories.block, lanes, Order { releases: true, acquires: false });
        for lane in (0..LANES).filter(|lane| lanes >> lane & 1 == 1) {
            let released = Released { clocks: self.clocks.clone(), known: outgoing.of(lane).cloned() };
            let bytes = (self.registers[bytes as usize][lane] & mask(32)) as u32;
            let copy = BulkCopy { to: to[lane], from: from[lane], bytes, released };
            let begun = self.begin_bulk(&memories, copy, barrier[lane], lane);
            begun.map_err(|problem| (lane as u32, problem))?;
            context.counters.global_read += u64::from(bytes);
        }
        count_request(context, Space::Global, &from, UNIT, lanes);
        count_request(context, Space::Shared, &to, UNIT, lanes);
        context.progress = true;
        self.count_up();
        self.act();
        Ok(())
    }

    fn begin_bulk(
        &self,
        memories: &Memories<'_>,
        copy: BulkCopy,
        barrier: u64,
        lane: usize,
    ) -> Result<(), Problem> {
        for value in [copy.to, copy.from, u64::from(copy.bytes)] {
            aligned(value, UNIT)?;
        }
        aligned(barrier, BYTES)?;
        let barrier = memories.place(None, Space::Shared, barrier, lane, BYTES)?;
        let access = |space, atomic| self.access(memories, space, atomic).by(lane as u32);
        barrier.region.note_read(barrier.offset, BYTES, &access(Space::Shared, true))?;
        for at in (0..copy.bytes).step_by(WORD as usize).map(u64::from) {
            let from = memories.place(None, Space::Global, copy.from + at, lane, WORD)?;
            from.region.note_read(from.offset, WORD, &access(Space::Global, false))?;
            let to = memories.place(None, Space::Shared, copy.to + at, lane, WORD)?;
            to.region.note_write(to.offset, WORD, &access(Space::Shared, false))?;
            to.region.note_pending(to.offset, WORD);
        }
        memories.arrivals.held().entry(barrier.offset).or_default().copies.push(copy);
        Ok(())
    }

    /// Makes the copies that the barrier at an offset waits for; whether there were any. The warp stands for the copies: the
    /// others know of them by the barrier, or by what this one does later.
    pub fn finish_bulk(
        &mut self,
        memories: &Memories<'_>,
        offset: u64,
        lane: usize,
    ) -> Result<bool, Problem> {
        let mut held = memories.arrivals.held();
        let copies = held.get_mut(&offset).map(|ledger| std::mem::take(&mut ledger.copies));
        let Some((ledger, copies)) = held.get_mut(&offset).zip(copies.filter(|copies| !copies.is_empty()))
        else {
            return Ok(false);
        };
        let access = self.access(memories, Space::Shared, false).by(lane as u32);
        let outgoing = self.outgoing(memories.block, 1 << lane, Order { releases: true, acquires: false });
        ledger.release(&Released { clocks: self.clocks.clone(), known: outgoing.of(lane).cloned() });
        for copy in &copies {
            for at in (0..copy.bytes).step_by(WORD as usize).map(u64::from) {
                let from = memories.place(None, Space::Global, copy.from + at, lane, WORD)?;
                let to = memories.place(None, Space::Shared, copy.to + at, lane, WORD)?;
                to.region.store(to.offset, WORD, from.region.load(from.offset, WORD));
                to.region.note_arrived(to.offset, WORD, &access);
            }
            ledger.release(&copy.released);
            let word = memories.shared.load(offset, BYTES);
            memories.shared.store(offset, BYTES, ledger.after(word, 0, -i64::from(copy.bytes)));
        }
        drop(held);
        self.count_up();
        Ok(true)
    }
}
