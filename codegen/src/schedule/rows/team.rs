//! The threads of one row, and how all of them learn what each of them found.

use super::super::block::{Numbers, WARP, bits, low_bits, of_lanes};
use super::super::reduction::{Reduction, State, flatten, reshape};
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
        let by_lanes = reshape(&of_warps, &self.exchange(b, numbers, &flatten(&of_warps)));
        let distances = (0..bits(self.warps())).rev().map(|bit| 1u8 << bit);
        let of_all =
            |(reduction, state): (&Reduction, State)| of_lanes(b, *reduction, state, distances.clone());
        reductions.iter().zip(by_lanes).map(of_all).collect()
    }

    /// What a warp has in place of each of the values: each lane learns that of the warp with its number, modulo the number
    /// of warps. So a thread loads one element, whose banks differ from lane to lane, and not as many as there are warps.
    fn exchange(self, b: &mut FunctionBuilder, numbers: Numbers, values: &[ValueId]) -> Vec<ValueId> {
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
        let of_warp = low_bits(b, lane, self.warps());
        arrays.iter().map(|array| b.load_shared(*array, 1, of_warp)).collect()
    }
}
