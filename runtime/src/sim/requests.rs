//! What the lanes of a warp ask memory for by one instruction: the distinct addresses, and what the hardware takes to
//! serve them.

use super::execute::Context;
use super::op::Space;
use super::vectors::in_vectors;
use super::warp::LANES;

/// The distinct addresses of some lanes.
#[derive(Clone, Copy)]
pub(super) struct Units {
    count: usize,
    /// The lanes of each, in the order of their first ones.
    lanes: [u32; LANES],
    /// The unit of each lane that has one.
    pub of: [u8; LANES],
}

in_vectors! {
    /// The distinct addresses of some lanes, each a multiple of so many bytes.
    pub fn units(addresses: &[u64; LANES], bytes: u32, lanes: u32) -> Units {
        let mut units = Units { count: 0, lanes: [0; LANES], of: [0; LANES] };
        if are_distinct(addresses, bytes, lanes) {
            let mut rest = lanes;
            while rest != 0 {
                let lane = rest.trailing_zeros() as usize;
                (units.lanes[units.count % LANES], units.of[lane]) = (1 << lane, units.count as u8);
                units.count += 1;
                rest &= rest - 1;
            }
            return units;
        }
        let mut rest = lanes;
        while rest != 0 {
            let (address, number) = (addresses[rest.trailing_zeros() as usize], units.count as u8);
            let mut same = 0u32;
            for lane in 0..LANES {
                same |= u32::from(addresses[lane] == address) << lane;
                units.of[lane] = if addresses[lane] == address { number } else { units.of[lane] };
            }
            units.lanes[units.count % LANES] = same & lanes;
            units.count += 1;
            rest &= !same;
        }
        units
    }
}

/// Whether it is easily seen that no two lanes have the same address: they ascend, or lie within 64 neighbours.
#[inline(always)]
fn are_distinct(addresses: &[u64; LANES], bytes: u32, lanes: u32) -> bool {
    let base = addresses[lanes.trailing_zeros() as usize % LANES];
    let (mut ascends, mut least) = (true, base);
    for lane in 1..LANES {
        ascends &= addresses[lane - 1] < addresses[lane];
        least = if lanes >> lane & 1 == 1 { least.min(addresses[lane]) } else { least };
    }
    if ascends && lanes == u32::MAX {
        return true;
    }
    let (mut taken, mut highest) = (0u64, 0);
    for (lane, address) in addresses.iter().enumerate() {
        let address = if lanes >> lane & 1 == 1 { *address } else { base };
        let neighbour = (address - least) >> bytes.trailing_zeros();
        taken |= 1 << (neighbour & 63);
        highest = highest.max(neighbour);
    }
    highest < 64 && taken.count_ones() == lanes.count_ones()
}

impl Units {
    /// The lanes of each, in the order of their first ones.
    pub fn lanes(&self) -> impl Iterator<Item = u32> {
        self.lanes[..self.count.min(LANES)].iter().copied()
    }

    /// The address of each that some of the lanes have.
    fn addresses(&self, addresses: &[u64; LANES], lanes: u32) -> impl Iterator<Item = u64> {
        self.lanes()
            .filter(move |unit| unit & lanes != 0)
            .map(|unit| addresses[unit.trailing_zeros() as usize % LANES])
    }

    /// The sectors of 32 bytes of global memory.
    pub fn sectors(&self, addresses: &[u64; LANES]) -> u64 {
        distinct(self.addresses(addresses, u32::MAX).map(|address| address / 32), &mut [0; LANES]).len()
            as u64
    }

    /// Turns that an access of shared memory of so many bytes a lane takes beyond the least: each of 32 banks gives one 4-byte
    /// word a turn, and wide accesses are served by parts of the warp.
    pub fn conflicts(&self, addresses: &[u64; LANES], bytes: u32) -> u64 {
        let words = u64::from(bytes.div_ceil(4).clamp(1, 4));
        let per_turn = LANES / words as usize;
        let (mut extra, mut found) = (0, [0; LANES]);
        for turn in 0..words as usize {
            let part = (((1u64 << per_turn) - 1) << (turn * per_turn)) as u32;
            let asked = self.addresses(addresses, part).map(|address| address / (4 * words));
            let (mut banks, mut most) = ([0u8; LANES], 1);
            for unit in distinct(asked, &mut found) {
                let bank = &mut banks[(unit * words) as usize % LANES];
                *bank += 1;
                most = most.max(*bank);
            }
            extra += u64::from(most - 1);
        }
        extra
    }
}

/// Counts an access of some lanes, `bytes` each.
pub(super) fn count_request(
    context: &mut Context<'_>,
    space: Space,
    addresses: &[u64; LANES],
    bytes: u32,
    lanes: u32,
) {
    count_units(context, space, &units(addresses, bytes, lanes), addresses, bytes, lanes);
}

/// Counts an access of some lanes, `bytes` each, to so many units.
pub(super) fn count_units(
    context: &mut Context<'_>,
    space: Space,
    units: &Units,
    addresses: &[u64; LANES],
    bytes: u32,
    lanes: u32,
) {
    match space {
        Space::Global => {
            context.counters.global_requests += 1;
            context.counters.global_sectors += units.sectors(addresses);
        }
        Space::Shared => {
            context.counters.shared_requests += 1;
            context.counters.bank_conflicts += units.conflicts(addresses, bytes);
        }
        Space::Cluster => count_distant(context, addresses, bytes, lanes),
        Space::Generic | Space::Local => {}
    }
}

/// Counts an access of some lanes to shared memory of the cluster: what leads to other blocks, and the rest as the block's
/// own.
fn count_distant(context: &mut Context<'_>, addresses: &[u64; LANES], bytes: u32, lanes: u32) {
    let distant = context.memories.neighbours.map_or(0, |n| n.distant(addresses, lanes));
    context.counters.distributed_requests += u64::from(distant > 0);
    context.counters.distributed_bytes += u64::from(distant * bytes);
    context.counters.shared_requests += u64::from(distant < lanes.count_ones());
}

/// Puts the distinct ones of up to 32 numbers into `found`, and returns them.
#[inline]
fn distinct(numbers: impl Iterator<Item = u64>, found: &mut [u64; LANES]) -> &[u64] {
    let (mut count, mut sorted) = (0, true);
    for number in numbers {
        if count == 0 || found[count - 1] != number {
            sorted &= count == 0 || found[count - 1] < number;
            found[count] = number;
            count += 1;
        }
    }
    if !sorted {
        found[..count].sort_unstable();
        let mut kept = 1;
        for at in 1..count {
            if found[at] != found[kept - 1] {
                found[kept] = found[at];
                kept += 1;
            }
        }
        count = kept;
    }
    &found[..count]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units, conflicts and sectors of an access of so many bytes a lane.
    fn served(address: impl Fn(u64) -> u64, bytes: u32, lanes: u32) -> (usize, u64, u64) {
        let addresses = std::array::from_fn(|lane| address(lane as u64));
        let units = units(&addresses, bytes, lanes);
        let whole = units.lanes().fold(0, |all, unit| all ^ unit);
        assert_eq!(whole, lanes, "each lane has one unit");
        for (at, unit) in units.lanes().enumerate() {
            assert!((0..LANES).all(|lane| unit >> lane & 1 == 0 || units.of[lane] as usize == at));
        }
        (units.count, units.conflicts(&addresses, bytes), units.sectors(&addresses))
    }

    #[test]
    fn units_are_the_distinct_addresses() {
        assert_eq!(served(|lane| 4 * lane, 4, u32::MAX), (32, 0, 4));
        assert_eq!(served(|lane| 4 * lane, 4, 0xFF00_00FF), (16, 0, 2));
        assert_eq!(served(|lane| 124 - 4 * lane, 4, u32::MAX), (32, 0, 4));
        assert_eq!(served(|_| 64, 4, u32::MAX), (1, 0, 1));
        assert_eq!(served(|lane| 16 * (lane % 4) + 1024 * (lane / 16), 16, u32::MAX), (8, 0, 4));
    }

    #[test]
    fn banks_serve_one_word_a_turn() {
        assert_eq!(served(|lane| 128 * lane, 4, u32::MAX).1, 31);
        assert_eq!(served(|lane| 8 * lane, 4, u32::MAX).1, 1);
        assert_eq!(served(|lane| 2 * lane, 2, u32::MAX), (32, 0, 2), "two halves of a word are one");
        assert_eq!(served(|lane| 16 * lane, 16, u32::MAX).1, 0);
        assert_eq!(served(|lane| 128 * lane, 16, u32::MAX).1, 4 * 7);
        assert_eq!(served(|lane| 128 * (lane / 8), 16, u32::MAX).1, 0, "one unit a turn");
    }
}
