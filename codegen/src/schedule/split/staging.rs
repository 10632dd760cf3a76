//! What stays in shared memory as long as a loop runs: which operands, how they lie there, and how they get there.

use fuse_ir::expr::{Axis, Symbol};
use fuse_ir::kernel::ElementId;

use super::super::analysis::{Analysis, axis_bit};
use super::super::block::{Numbers, THREADS};
use super::super::division::floor_division;
use super::super::emitter::{Emitted, Emitter, Staged};
use super::{Split, Sum, VECTOR, operands, stored_loads};
use crate::builder::FunctionBuilder;
use crate::decompose::register_type;
use crate::kernel_ir::{Condition, LaneType, SharedId, ValueId};

/// What a sum needs of the columns' own operands.
pub(super) struct StagedOperand {
    pub(super) element: ElementId,
    /// The reduced axis.
    pub(super) axis: Axis,
    extent: i64,
    pub(super) lane: LaneType,
}

impl StagedOperand {
    /// Where the elements begin that are behind the last whole vector, if there are any.
    fn rest(&self) -> Option<i64> {
        let rest = self.extent.rem_euclid(VECTOR);
        (rest > 0).then_some(self.extent - rest)
    }

    /// Elements that a tile takes of its array.
    fn elements(&self, units: i64) -> i64 {
        self.extent * units
    }

    /// Where the operand is, of the first tile of the block or of another one.
    pub(super) fn place(
        &self,
        b: &mut FunctionBuilder,
        (column, units): (Axis, i64),
        tile: Option<ValueId>,
    ) -> Staged {
        let first = tile.map(|tile| {
            let size = b.index(self.elements(units));
            b.mul(tile, size)
        });
        Staged { axis: self.axis, column, units, rest: self.rest(), first }
    }
}

impl Split {
    /// Finds what the points of a column have in common at every step: a few bytes a column.
    pub(super) fn keep_columns(&mut self, analysis: &Analysis, counter: &Symbol) {
        let columns = axis_bit(self.column);
        self.of_columns = stored_loads(analysis);
        self.of_columns.retain(|load| analysis.is_constant(counter, *load, columns));
    }

    /// Finds operands that stay in shared memory as long as the loop runs, as many as fit.
    pub(super) fn stage(&mut self, analysis: &Analysis, counter: &Symbol, shared_bytes: u32) {
        self.has_staged_all = true;
        for at in 0..self.sums.len() {
            let Sum { reduction, axis, extent, .. } = self.sums[at];
            for element in operands(analysis, reduction.body) {
                let known = self.staged.iter().any(|s| s.element == element && s.axis == axis);
                if known || !self.stays(analysis, counter, element, axis) {
                    continue;
                }
                let lane = register_type(analysis.dtype(element));
                self.staged.push(StagedOperand { element, axis, extent, lane });
                if self.shared_bytes() > shared_bytes {
                    self.staged.pop();
                    self.has_staged_all = false;
                }
            }
        }
    }

    /// Elements of the array of an operand.
    pub(super) fn staged_elements_of(&self, operand: &StagedOperand) -> i64 {
        operand.elements(self.units) * self.tiles_a_block
    }

    /// Fills the arrays of all operands.
    pub(super) fn fill_staged(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        arrays: &[SharedId],
    ) -> Emitted<()> {
        let mut pending: Vec<(&StagedOperand, SharedId)> =
            self.staged.iter().zip(arrays.iter().copied()).collect();
        while let Some((first, _)) = pending.first() {
            let (same, others) = pending.iter().partition(|(operand, _)| operand.extent == first.extent);
            self.fill(emitter, numbers, same)?;
            pending = others;
        }
        Ok(())
    }

    /// Fills the arrays of what the points of a column have in common.
    pub(super) fn fill_columns(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        arrays: &[SharedId],
    ) -> Emitted<()> {
        let end = emitter.b.index(self.units);
        let each = emitter.b.open_loop(&[], true);
        let column = self.column_of(emitter, numbers.block, each.counter);
        let point = emitter.origin().with(self.column, column);
        for (load, array) in self.of_columns.iter().zip(arrays) {
            let value = emitter.load(*load, &point)?;
            emitter.b.store_shared(*array, each.counter, value);
        }
        emitter.b.close_loop(each, numbers.thread, end, i64::from(THREADS), &[]);
        Ok(())
    }

    /// Fills the arrays of operands of one extent in their order, so that neighbouring threads store to neighbouring banks.
    fn fill(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        operands: Vec<(&StagedOperand, SharedId)>,
    ) -> Emitted<()> {
        let Some((operand, _)) = operands.first() else { return Ok(()) };
        let b = &mut emitter.b;
        let end = b.index(self.staged_elements_of(operand));
        let each = b.open_loop(&[], true);
        let (within, place) = match self.tiles_a_block {
            1 => (None, each.counter),
            _ => {
                let size = b.index(operand.elements(self.units));
                let (within, place) = floor_division(b, each.counter, size, true);
                (Some(within), place)
            }
        };
        let line = b.index(VECTOR * self.units);
        let (vector, within_line) = floor_division(b, place, line, true);
        let lanes = b.index(VECTOR);
        let (mut unit, lane) = floor_division(b, within_line, lanes, true);
        let position = b.mul(vector, lanes);
        let mut position = b.add(position, lane);
        if let Some(rest) = operand.rest() {
            let units = b.index(self.units);
            let (element, of_element) = floor_division(b, place, units, true);
            let is_behind = b.compare_integer(Condition::Ge, place, rest * self.units);
            position = b.select(is_behind, element, position);
            unit = b.select(is_behind, of_element, unit);
        }
        let tile = self.tile_of(b, numbers.block, within);
        let column = self.column_of(emitter, tile, unit);
        let point = emitter.origin().with(self.column, column);
        let mut values = Vec::with_capacity(operands.len());
        for (operand, _) in &operands {
            values.push(emitter.load(operand.element, &point.with(operand.axis, position))?);
        }
        for ((_, array), value) in operands.iter().zip(values) {
            emitter.b.store_shared(*array, each.counter, value);
        }
        emitter.b.close_loop(each, numbers.thread, end, i64::from(THREADS), &[]);
        Ok(())
    }
}
