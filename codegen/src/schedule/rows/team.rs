//! The threads of one row, and how all of them learn what each of them found.

use super::super::block::{Numbers, WARP, bits, low_bits, of_lanes};
use super::super::reduction::{Reduction, State, flatten, join_all, reshape};
use super::super::vectors::ACCESS_BYTES;
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Condition, LaneType, SharedArray, SharedId, ValueId};

/// A warp, or all threads of a block.
#[derive(Clone, Copy)]
pub(super) struct Team {
    /// How many; a power of two, at least [`WARP`].
    pub(super) threads: i64,
}

impl Team {
    /// The number of a thread in its team.
    pub(super) fn member(self, b: &mut FunctionBuilder, numbers: Numbers) -> ValueId {
        low_bits(b, numbers.thread, self.threads)
    }

    /// The number of its team in the block.
    pub(super) fn number(self, b: &mut FunctionBuilder, numbers: Numbers) -> ValueId {
        b.shift_right_arithmetic(numbers.thread, bits(self.threads))
    }

    fn warps(self) -> i64 {
        self.threads / WARP
    }

    /// The bytes of shared memory that joining values of a type takes, and their positions where these are kept.
    pub(super) fn shared_bytes(self, lane: LaneType, with_position: bool) -> u32 {
        if self.warps() == 1 {
            return 0;
        }
        let bytes = |lane| SharedArray { name: String::new(), lane, elements: self.warps() as u32 }.bytes();
        bytes(lane) + if with_position { bytes(LaneType::I64) } else { 0 }
    }

    /// What all threads have, from what each has of some reductions, or each warp, all lanes of which have the same; in
    /// shared memory of their own.
    pub(super) fn join(
        self,
        b: &mut FunctionBuilder,
        numbers: Numbers,
        reductions: &[Reduction],
        parts: Vec<State>,
        of_warps: bool,
    ) -> Vec<State> {
        let distances: &[u8] = if of_warps { &[] } else { &[16, 8, 4, 2, 1] };
        let of_warp =
            |(reduction, part): (&Reduction, State)| of_lanes(b, *reduction, part, distances.iter().copied());
        let of_warps: Vec<State> = reductions.iter().zip(parts).map(of_warp).collect();
        if self.warps() == 1 {
            return of_warps;
        }
        let by_warp = self.exchange(b, numbers, &flatten(&of_warps));
        let mut states = reductions.iter().map(|_| Vec::new()).collect::<Vec<Vec<State>>>();
        for warp in 0..self.warps() as usize {
            let values: Vec<ValueId> = by_warp.iter().map(|values| values[warp]).collect();
            for (states, state) in states.iter_mut().zip(reshape(&of_warps, &values)) {
                states.push(state);
            }
        }
        reductions.iter().zip(states).map(|(reduction, states)| join_all(b, *reduction, states)).collect()
    }

    /// What each warp has in place of each of the values.
    fn exchange(self, b: &mut FunctionBuilder, numbers: Numbers, values: &[ValueId]) -> Vec<Vec<ValueId>> {
        let (lane, warp) = (numbers.lane(b), numbers.warp(b));
        let is_first = b.compare_integer(Condition::Eq, lane, 0);
        let mut array = |value: &ValueId| b.shared_array("warps", b.ty(*value).lane, self.warps() as u32);
        let arrays: Vec<SharedId> = values.iter().map(&mut array).collect();
        b.open_if();
        for (array, value) in arrays.iter().zip(values) {
            b.store_shared(*array, warp, *value);
        }
        b.close_if(is_first);
        b.meet();
        let mut read = |(array, value): (&SharedId, &ValueId)| {
            let together = self.warps().min(ACCESS_BYTES as i64 / i64::from(b.ty(*value).lane.bytes()));
            let mut of_warps = Vec::new();
            for first in (0..self.warps()).step_by(together as usize) {
                let at = b.index(first);
                let vector = b.load_shared(*array, together as u8, at);
                of_warps.extend((0..together).map(|lane| b.extract(vector, lane as u8)));
            }
            of_warps
        };
        arrays.iter().zip(values).map(&mut read).collect()
    }
}
