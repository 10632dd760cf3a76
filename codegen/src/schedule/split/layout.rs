//! Which lanes of a block sum up what, and where their slices, totals and points are.

use fuse_ir::expr::Dim;

use super::super::analysis::{Analysis, ceil_div};
use super::super::block::{THREADS, WARP, WARPS, bits, low_bits};
use super::super::plan::PhaseForm;
use super::products::{self, Products};
use super::{Split, power_of_two};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, ValueId};

/// Sums of which a thread has registers for several rows and turns.
const FEW_SUMS: usize = 4;

/// Columns, each with its sums, that a thread sums up at the same time if there are enough: so often is what a row has used
/// that was loaded, four times where a thread has as many sums.
const COLUMNS: i64 = 4;

/// Rows that a block takes before slices are added up at most.
const MOST_ROWS: i64 = 64;

/// Rows that a block sums up at the same time where it is not known how many there are.
const ROWS_AT_ONCE: i64 = 16;

/// Rows that a thread sums up at the same time: so often is an operand used that was loaded. Of more sums fewer rows, or
/// the registers do not last: on an H200 four rows of four gates take 7 to 14 % less time than two at 64 rows (as much
/// at 16), but 36 % more of the 12 gates of two layers in one step (docs/perf/gpu.md).
fn rows_a_thread(sums: usize) -> i64 {
    if sums <= FEW_SUMS { 4 } else { 2 }
}

impl Split {
    /// Gives each thread so many columns, and the lanes that these leave other rows.
    pub(super) fn share_lanes(&mut self, columns_a_thread: i64) {
        let at_once = self.known_rows.map_or(ROWS_AT_ONCE, |n| n.clamp(1, ROWS_AT_ONCE));
        self.columns_a_thread = columns_a_thread;
        self.rows_a_thread = power_of_two(at_once.min(rows_a_thread(self.sums.len())));
        let groups = power_of_two(at_once.div_euclid(self.rows_a_thread).max(1));
        self.row_groups = groups.min(WARP / self.lanes_of_columns());
    }

    /// Gives each thread as many columns as make use of what it loads of a row.
    pub(super) fn take_columns(&mut self, shared_bytes: u32) {
        let columns = power_of_two_below((COLUMNS / self.sums.len() as i64).min(self.slots / COLUMNS));
        self.share_lanes(columns);
        if self.shared_bytes() > shared_bytes {
            self.share_lanes(1);
        }
    }

    /// Takes as many rows before slices are added up as there is the shared memory for, and threads for their points: those
    /// meet twice for all of them, and compute points at the same time. Not where sums take all registers already (of three, four
    /// bytes were spilled for sm_80), and not with weights that come from memory at every step.
    pub(in super::super) fn take_turns(&mut self, shared_bytes: u32) {
        let is_short = self.products.is_none() && !self.sums.len().is_power_of_two();
        if self.sums.len() > FEW_SUMS || is_short || !self.keeps_weights() {
            return;
        }
        let most = self.known_rows.map_or(MOST_ROWS, |rows| rows.min(MOST_ROWS));
        let turns = |split: &Split| ceil_div(most, split.rows_a_turn());
        while self.turns < turns(self) && 2 * self.points() <= i64::from(THREADS) {
            self.turns *= 2;
            if self.shared_bytes() > shared_bytes {
                self.turns /= 2;
                return;
            }
        }
    }

    /// Lanes with columns and rows of their own; the others of a warp take other slices of the same.
    pub(super) fn lanes(&self) -> i64 {
        self.lanes_of_columns() * self.row_groups
    }

    /// Lanes beside each other with columns of their own.
    pub(super) fn lanes_of_columns(&self) -> i64 {
        self.slots / self.columns_a_thread
    }

    /// The slot of a point's column and its row among those of the tile, by the number of the point.
    pub(super) fn place_of(&self, b: &mut FunctionBuilder, number: ValueId) -> (ValueId, ValueId) {
        if self.columns_a_thread == 1 {
            let slot = low_bits(b, number, self.slots);
            return (slot, b.shift_right_arithmetic(number, bits(self.slots)));
        }
        let lanes = self.lanes_of_columns();
        let lane = low_bits(b, number, lanes);
        let behind = b.shift_right_arithmetic(number, bits(lanes));
        let group = low_bits(b, behind, self.row_groups);
        let behind = b.shift_right_arithmetic(behind, bits(self.row_groups));
        let column = low_bits(b, behind, self.columns_a_thread);
        let row = b.shift_right_arithmetic(behind, bits(self.columns_a_thread));
        let (lanes, groups) = (b.index(lanes), b.index(self.row_groups));
        let (column, row) = (b.mul(column, lanes), b.mul(row, groups));
        (b.add(column, lane), b.add(row, group))
    }

    /// How many rows of a thread there is code for, ascending: the most, and one where few rows are left. More of them take
    /// longer to compile than the rows that are read again are worth. Where weights come from memory at every step, such a
    /// row is little beside them, and registers are short.
    pub(super) fn rows_of_threads(&self) -> Vec<i64> {
        let most = self.rows_a_thread;
        let rest = self.known_rows.map_or(1, |rows| rows.rem_euclid(self.rows_a_turn()));
        let is_few = (1..=self.row_groups).contains(&rest);
        if self.has_staged_all && is_few && most > 1 { vec![1, most] } else { vec![most] }
    }

    /// Into how many slices a sum is split.
    pub(super) fn slices(&self) -> i64 {
        WARPS * (WARP / self.lanes())
    }

    /// Warps that share a sum.
    pub(super) fn parts(&self) -> i64 {
        self.products.as_ref().map_or(WARPS, Products::parts)
    }

    /// Whether the threads of points add slices up: where there are few slices of many points.
    pub(super) fn adds_up_at_points(&self) -> bool {
        self.parts() < WARPS
    }

    /// Points that a block computes at once.
    pub(super) fn points(&self) -> i64 {
        self.slots * self.rows_at_once()
    }

    /// Points that its threads sum up at the same time.
    pub(super) fn points_a_turn(&self) -> i64 {
        self.slots * self.rows_a_turn()
    }

    /// Sums of these.
    pub(super) fn sums_a_turn(&self) -> i64 {
        self.sums.len() as i64 * self.points_a_turn()
    }

    /// Elements of the array of slices that a warp has: the sums of all points, of products in whole turns of the banks.
    pub(super) fn slice_elements(&self) -> i64 {
        let sums = self.sums.len() as i64 * self.points();
        if self.products.is_some() { ceil_div(sums, WARP) * WARP } else { sums }
    }

    /// Where the sum of that number among those of all points is in its slice. Of products, a warp stores eight rows of
    /// columns or of sums that are whole turns of the banks apart: each of four turns has eight banks of its own first.
    pub(super) fn place_in_slice(&self, b: &mut FunctionBuilder, number: ValueId) -> ValueId {
        if self.products.is_none() {
            return number;
        }
        let turn = b.shift_right_logical(number, bits(WARP));
        let turn = low_bits(b, turn, WARP / products::SIDE);
        let side = b.index(products::SIDE);
        let key = b.mul(turn, side);
        b.xor(number, key)
    }

    /// Rows and columns that a thread sums up at the same time.
    pub(in super::super) fn sums_a_thread(&self) -> [u32; 2] {
        let columns = self.columns_a_thread * self.sums.len() as i64;
        [self.rows_a_thread, columns].map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    /// The rows of a step.
    pub(in super::super) fn rows_of(&self, analysis: &Analysis) -> Dim {
        analysis.points(&self.rows)
    }

    /// What is told of it.
    pub(in super::super) fn form(&self) -> PhaseForm {
        PhaseForm::Split {
            blocks: self.blocks_at_work(),
            tensor_cores: self.is_on_tensor_cores(),
            tile: self.sums_a_thread(),
            rows_at_once: u32::try_from(self.rows_at_once()).unwrap_or(u32::MAX),
        }
    }

    /// Rows that a block takes at once.
    pub(in super::super) fn rows_at_once(&self) -> i64 {
        self.rows_a_turn() * self.turns
    }

    /// Rows that its threads sum up at the same time.
    pub(super) fn rows_a_turn(&self) -> i64 {
        self.row_groups * self.rows_a_thread
    }

    /// The column of a lane's slot among those of a tile; the last one where there are fewer than slots.
    pub(super) fn unit_of(&self, b: &mut FunctionBuilder, slot: ValueId) -> ValueId {
        if self.units == self.slots {
            return slot;
        }
        let last = b.index(self.units - 1);
        b.binary(BinaryOp::Min, slot, last)
    }

    /// The columns that stay a block's own, which are neighbours.
    pub(in super::super) fn columns_a_block(&self) -> i64 {
        self.units * self.tiles_a_block
    }
}

/// The largest power of two that is no more; 1 where there is none.
fn power_of_two_below(n: i64) -> i64 {
    power_of_two(n / 2 + 1)
}
