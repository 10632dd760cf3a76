//! Asynchronous copies from global to shared memory (`cp.async`), which arrive when they are waited for.

use super::access::{Memories, aligned};
use super::execute::{Context, Wrong};
use super::fault::Problem;
use super::op::{Address, Space};
use super::record::Access;
use super::requests::count_request;
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
                for at in (0..bytes).step_by(4) {
                    let address = to[lane] + u64::from(at);
                    let place = memories.place(None, Space::Shared, address, lane, 4)?;
                    let access = self.access(&memories, Space::Shared, false);
                    let access = Access { thread: access.thread + lane as u32, ..access };
                    place.region.note_write(place.offset, 4, &access)?;
                    place.region.note_pending(place.offset, 4);
                }
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
        for copy in &due {
            self.finish_copy(&memories, copy).map_err(|problem| (copy.lane, problem))?;
        }
        self.copies = later;
        context.progress = true;
        Ok(())
    }

    fn finish_copy(&self, memories: &Memories<'_>, copy: &Copy) -> Result<(), Problem> {
        for at in 0..copy.bytes {
            let (lane, offset) = (copy.lane as usize, u64::from(at));
            let access = |space| {
                let access = self.access(memories, space, false);
                Access { thread: access.thread + copy.lane, ..access }
            };
            let mut value = 0;
            if at < copy.given {
                let from = memories.place(None, Space::Global, copy.from + offset, lane, 1)?;
                from.region.note_read(from.offset, 1, &access(Space::Global))?;
                value = from.region.load(from.offset, 1);
            }
            let to = memories.place(None, Space::Shared, copy.to + offset, lane, 1)?;
            to.region.note_write(to.offset, 1, &access(Space::Shared))?;
            to.region.store(to.offset, 1, value);
        }
        Ok(())
    }
}
