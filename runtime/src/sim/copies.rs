//! Asynchronous copies from global to shared memory (`cp.async`), which arrive when they are waited for.

use super::access::{Memories, aligned};
use super::execute::{Context, Wrong};
use super::fault::Problem;
use super::op::{Address, Space};
use super::record::Batch;
use super::requests::count_request;
use super::value::mask;
use super::warp::{Copy, LANES, Warp};

impl Warp {
    /// Begins copies: what they are to write is not there until they are waited for.
    pub fn copy(
        &mut self,
        context: &mut Context<'_>,
        [to, from]: [Address; 2],
        bytes: u32,
        (given, ignored): (Option<u32>, u32),
        lanes: u32,
    ) -> Result<(), Wrong> {
        let (to, from) = (self.addresses(to), self.addresses(from));
        let memories = context.memories;
        let mut batch = Batch::new(self.access(&memories, Space::Shared, false));
        let mut copies = Vec::new();
        for lane in (0..LANES).filter(|lane| lanes >> lane & 1 == 1) {
            let given = match given {
                _ if ignored >> lane & 1 == 1 => 0,
                Some(slot) => (self.registers[slot as usize][lane] as u32).min(bytes),
                None => bytes,
            };
            let mut begin = || -> Result<(), Problem> {
                aligned(to[lane], bytes)?;
                aligned(from[lane], bytes)?;
                let place = memories.place(None, Space::Shared, to[lane], lane, bytes)?;
                place.region.note_lane_write(place.offset, bytes, lane as u32, &mut batch)?;
                place.region.note_pending(place.offset, bytes);
                let (lane, group) = (lane as u32, u32::MAX);
                copies.push(Copy {
                    lane,
                    group,
                    to: to[lane as usize],
                    from: from[lane as usize],
                    bytes,
                    given,
                });
                Ok(())
            };
            begin().map_err(|problem| (lane as u32, problem))?;
        }
        self.copies.extend(copies);
        context.counters.global_read += u64::from(lanes.count_ones() * bytes);
        count_request(context, Space::Global, &from, bytes, lanes);
        count_request(context, Space::Shared, &to, bytes, lanes);
        Ok(())
    }

    /// Makes the copies whose groups are not among the last `pending` commits of their lanes.
    pub fn finish_copies(
        &mut self,
        context: &mut Context<'_>,
        pending: u32,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let memories = context.memories;
        let due = |copy: &Copy| {
            let last = self.commits[copy.lane as usize].saturating_sub(pending);
            lanes >> copy.lane & 1 == 1 && (copy.group <= last || (pending == 0 && copy.group == u32::MAX))
        };
        let (due, later): (Vec<Copy>, Vec<Copy>) = self.copies.iter().partition(|copy| due(copy));
        let batch = |space| Batch::new(self.access(&memories, space, false));
        let mut batches = [Space::Global, Space::Shared].map(batch);
        for copy in &due {
            finish(&memories, copy, &mut batches).map_err(|problem| (copy.lane, problem))?;
        }
        self.copies = later;
        context.progress = true;
        Ok(())
    }
}

/// Makes a copy, a word after the other; notes what it reads and what it writes.
fn finish(memories: &Memories<'_>, copy: &Copy, [reads, writes]: &mut [Batch<'_>; 2]) -> Result<(), Problem> {
    let (lane, given) = (copy.lane as usize, copy.given);
    let to = memories.place(None, Space::Shared, copy.to, lane, copy.bytes)?;
    to.region.note_lane_write(to.offset, copy.bytes, copy.lane, writes)?;
    let from = match given {
        0 => None,
        _ => Some(memories.place(None, Space::Global, copy.from, lane, given)?),
    };
    if let Some(from) = &from {
        from.region.note_reads(from.offset, given, 1 << lane, reads).map_err(|(_, problem)| problem)?;
    }
    for at in (0..copy.bytes).step_by(4) {
        let value = from.as_ref().map_or(0, |from| {
            let there = given.saturating_sub(at).min(4);
            if there == 0 { 0 } else { from.region.load(from.offset + u64::from(at), 4) & mask(8 * there) }
        });
        to.region.store(to.offset + u64::from(at), 4, value);
    }
    Ok(())
}
