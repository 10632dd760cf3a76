//! Loads and stores of lanes that access one region together, as most do: checked, noted and made at once. What lies in
//! several regions, or is wrong, is looked at lane by lane ([`super::access`]).

use super::access::{Memories, reaches_others};
use super::cluster::RANK_SHIFT;
use super::execute::{Context, Wrong, first};
use super::memory::{REGION_BITS, Region};
use super::op::{Space, Transfer};
use super::record::Batch;
use super::requests::{Units, count_units, units};
use super::value::{mask, sign_extend};
use super::vectors::in_vectors;
use super::warp::{LANES, Warp};

/// Where some lanes access memory together, aligned and within its bounds.
struct Together<'r> {
    region: &'r Region,
    space: Space,
    /// The bits of an address that are an offset in the region.
    offset: u64,
    units: Units,
    /// The bytes of an element, and of all that a lane moves.
    size: u32,
    bytes: u32,
}

/// What the addresses of some lanes have in common.
struct Survey {
    /// Bits in which some differ.
    differ: u64,
    /// Bits that some have.
    any: u64,
    /// The highest.
    highest: u64,
}

in_vectors! {
    fn survey(addresses: &[u64; LANES], lanes: u32) -> Survey {
        let base = addresses[first(lanes) as usize];
        let mut survey = Survey { differ: 0, any: 0, highest: 0 };
        for lane in 0..LANES {
            let address = if lanes >> lane & 1 == 1 { addresses[lane] } else { base };
            survey.differ |= address ^ base;
            survey.any |= address;
            survey.highest = survey.highest.max(address);
        }
        survey
    }
}

in_vectors! {
    /// Gives each of some lanes the value of its unit.
    fn spread(values: &[u64; LANES], of: &[u8; LANES], lanes: u32, out: &mut [u64; LANES]) {
        for lane in 0..LANES {
            let value = values[of[lane] as usize % LANES];
            out[lane] = if lanes >> lane & 1 == 1 { value } else { out[lane] };
        }
    }
}

impl<'a> Memories<'a> {
    fn together(&self, transfer: Transfer, addresses: &[u64; LANES], lanes: u32) -> Option<Together<'a>> {
        if transfer.atomic {
            return None;
        }
        let (size, bytes) = (transfer.ty.bytes(), transfer.ty.bytes() * transfer.count);
        let lane = first(lanes) as usize;
        let place = self.place(None, transfer.space, addresses[lane], lane, bytes).ok()?;
        let offset = match place.space {
            Space::Global => mask(REGION_BITS),
            Space::Shared | Space::Cluster => mask(RANK_SHIFT),
            Space::Generic | Space::Local => return None,
        };
        let survey = survey(addresses, lanes);
        let aligned = survey.any & u64::from(bytes - 1) == 0;
        if survey.differ & !offset != 0 || !aligned {
            return None;
        }
        place.region.check(survey.highest & offset, bytes, survey.highest).ok()?;
        Some(Together {
            region: place.region,
            space: place.space,
            offset,
            units: units(addresses, bytes, lanes),
            size,
            bytes,
        })
    }
}

impl Together<'_> {
    /// The lanes of each unit and its offset.
    fn offsets(&self, addresses: &[u64; LANES]) -> impl Iterator<Item = (u32, u64)> {
        self.units.lanes().map(|lanes| (lanes, addresses[first(lanes) as usize] & self.offset))
    }

    /// Counts the access, and notes it where it leads to another block of the cluster.
    fn count(&self, context: &mut Context<'_>, batch: &Batch<'_>, addresses: &[u64; LANES], lanes: u32) {
        if let (Space::Cluster, Some(neighbours)) = (self.space, context.memories.neighbours) {
            let last = 31 - lanes.leading_zeros();
            neighbours.note_visit(addresses[last as usize], &batch.access.by(last));
        }
        count_units(context, self.space, &self.units, addresses, self.bytes, lanes);
    }
}

impl Warp {
    /// Loads what all lanes find in one region; `false` where they do not, or look at flags.
    pub fn load_together(
        &mut self,
        context: &mut Context<'_>,
        transfer: Transfer,
        addresses: &[u64; LANES],
        d: &[Option<u32>],
        lanes: u32,
    ) -> Result<bool, Wrong> {
        let memories = context.memories;
        let Some(together) = memories.together(transfer, addresses, lanes) else { return Ok(false) };
        let Together { size, bytes, .. } = together;
        let mut batch = Batch::new(self.access(&memories, together.space, false));
        for (lanes, offset) in together.offsets(addresses) {
            together.region.note_reads(offset, bytes, lanes, &mut batch)?;
        }
        together.count(context, &batch, addresses, lanes);
        for (element, slot) in (0..transfer.count).zip(d) {
            let Some(slot) = slot else { continue };
            let mut values = [0; LANES];
            for (value, (_, offset)) in values.iter_mut().zip(together.offsets(addresses)) {
                *value = together.region.load(offset + u64::from(element * size), size);
            }
            if transfer.ty.signed() {
                let extend = |x| sign_extend(x, transfer.ty.bits) as u64 & transfer.destination;
                values = values.map(extend);
            }
            spread(&values, &together.units.of, lanes, &mut self.registers[*slot as usize]);
        }
        if together.space == Space::Global {
            context.counters.global_read += u64::from(lanes.count_ones() * bytes);
        }
        context.progress = true;
        self.act();
        Ok(true)
    }

    /// Stores what all lanes give one region, each to an address of its own; `false` where they do not, or write flags.
    pub fn store_together(
        &mut self,
        context: &mut Context<'_>,
        transfer: Transfer,
        addresses: &[u64; LANES],
        values: &[u32],
        lanes: u32,
    ) -> Result<bool, Wrong> {
        let memories = context.memories;
        let Some(together) = memories.together(transfer, addresses, lanes) else { return Ok(false) };
        if together.units.lanes().any(|lanes| lanes.count_ones() > 1) {
            return Ok(false);
        }
        let Together { size, bytes, .. } = together;
        let mut batch = Batch::new(self.access(&memories, together.space, false));
        for (lanes, offset) in together.offsets(addresses) {
            let lane = first(lanes);
            together
                .region
                .note_lane_write(offset, bytes, lane, &mut batch)
                .map_err(|problem| (lane, problem))?;
            for (element, slot) in (0..transfer.count).zip(values) {
                let value = self.registers[*slot as usize][lane as usize] & mask(size * 8);
                together.region.store(offset + u64::from(element * size), size, value);
            }
        }
        together.count(context, &batch, addresses, lanes);
        if together.space == Space::Global {
            context.counters.global_written += u64::from(lanes.count_ones() * bytes);
        }
        context.progress = true;
        context.changed |= reaches_others(together.space);
        self.act();
        Ok(true)
    }
}
