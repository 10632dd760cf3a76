//! Statistics of rows: a block takes a row, and its threads sum up together.
//!
//! For kernels all of whose sums have one value a row, such as the mean and the variance of layer normalisation or the
//! sum of a softmax. Each thread sums up every so many elements, the threads of a warp exchange what they have, and
//! through shared memory every thread learns the total of all warps. Sums that need others follow these. Then the
//! threads share the points of the row.

use fuse_ir::expr::{Axis, Dim};
use fuse_ir::kernel::Element;

use super::analysis::{Analysis, axis_bit};
use super::block::{Numbers, THREADS, WARPS, of_lanes};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter, Point};
use super::reduction::{Reduction, merge};
use crate::decompose::register_type;
use crate::kernel_ir::{Condition, LaneType, SharedId, ValueId};

/// Sums shorter than this are not worth sharing.
const LEAST_EXTENT: i64 = 64;

/// How a kernel's rows are computed.
pub(super) struct Rows {
    rows: Vec<Axis>,
    column: Axis,
    /// Those that need no others, those that need these, and so on.
    levels: Vec<Vec<(Reduction, i64)>>,
    /// The warps' sums, by level.
    arrays: Vec<SharedId>,
}

impl Rows {
    /// Where every sum has one value a row and is long.
    pub(super) fn new(analysis: &Analysis) -> Option<Rows> {
        let axes = analysis.space_axes();
        let (column, rows) = axes.split_last()?;
        if analysis.recurrence_axis.is_some() || analysis.groups.is_empty() {
            return None;
        }
        let mut levels: Vec<Vec<(Reduction, i64)>> = Vec::new();
        for group in &analysis.groups {
            if group.nested || group.free & axis_bit(*column) != 0 {
                return None;
            }
            levels.resize_with(levels.len().max(group.height as usize + 1), Vec::new);
            for member in &group.members {
                let Element::Reduce { op, axes, body } = analysis.element(*member) else { return None };
                let axis = axes.first().filter(|_| axes.len() == 1)?;
                let extent = analysis.extent(*axis).as_constant().filter(|n| *n >= LEAST_EXTENT)?;
                let dtype = analysis.dtype(*body);
                if op.is_arg() || !matches!(register_type(dtype), LaneType::F32) {
                    return None;
                }
                let reduction = Reduction { element: *member, op: *op, body: *body, dtype };
                levels[group.height as usize].push((reduction, extent));
            }
        }
        Some(Rows { rows: rows.to_vec(), column: *column, levels, arrays: Vec::new() })
    }

    /// The bytes of shared memory that it takes.
    pub(super) fn shared_bytes(&self) -> u32 {
        self.levels.iter().map(|level| level.len() as u32 * WARPS as u32 * 4).sum()
    }

    /// Allocates shared memory.
    pub(super) fn prepare(&mut self, emitter: &mut Emitter) {
        let name = &emitter.analysis.kernel.name;
        let array = |level: &Vec<_>| {
            let elements = level.len() as u32 * WARPS as u32;
            emitter.b.shared_array(format!("{name}.rows"), LaneType::F32, elements)
        };
        self.arrays = self.levels.iter().map(array).collect();
    }

    /// The kernel at one step, by `blocks` blocks.
    pub(super) fn phase(&self, emitter: &mut Emitter, numbers: Numbers, blocks: u32) -> Emitted<()> {
        let end = emitter.dimension(&emitter.analysis.points(&self.rows))?;
        let each = emitter.b.open_loop(&[], true);
        self.row(emitter, numbers, each.counter)?;
        emitter.b.close_loop(each, numbers.block, end, i64::from(blocks), &[]);
        emitter.forget();
        Ok(())
    }

    /// The kernel alone: a block takes a row. Returns the number of blocks.
    pub(super) fn alone(&self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<Dim> {
        self.row(emitter, numbers, numbers.block)?;
        Ok(emitter.analysis.points(&self.rows))
    }

    fn row(&self, emitter: &mut Emitter, numbers: Numbers, number: ValueId) -> Emitted<()> {
        let analysis = emitter.analysis;
        let mut row = emitter.origin();
        let extents = self.rows.iter().map(|a| analysis.extent(*a));
        for (axis, value) in self.rows.iter().zip(coordinates(emitter, extents, number)?) {
            row = row.with(*axis, value);
        }
        for (level, array) in self.levels.iter().zip(&self.arrays) {
            self.level(emitter, numbers, level, *array, &row)?;
        }
        let columns = emitter.dimension(analysis.extent(self.column))?;
        let own = emitter.b.open_loop(&[], true);
        let point = row.with(self.column, own.counter);
        for part in &analysis.parts {
            emitter.stores(std::slice::from_ref(&point), part)?;
        }
        emitter.b.close_loop(own, numbers.thread, columns, i64::from(THREADS), &[]);
        Ok(())
    }

    /// Sums that do not need each other. Afterwards every thread knows them.
    fn level(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        level: &[(Reduction, i64)],
        array: SharedId,
        row: &Point,
    ) -> Emitted<()> {
        let points = std::slice::from_ref(row);
        let parts = emitter.partial_sums(level, points, numbers.thread, i64::from(THREADS))?;
        let b = &mut emitter.b;
        let (lane, warp) = (numbers.lane(b), numbers.warp(b));
        let is_first = b.compare_integer(Condition::Eq, lane, 0);
        let all = [16, 8, 4, 2, 1];
        let of_warp =
            |(part, (sum, _)): (ValueId, &(Reduction, i64))| of_lanes(b, sum.op, part, all.into_iter());
        let parts: Vec<ValueId> = parts.into_iter().zip(level).map(of_warp).collect();
        b.open_if();
        for (i, part) in parts.into_iter().enumerate() {
            let offset = b.index(i as i64 * WARPS);
            let at = b.add(warp, offset);
            b.store_shared(array, at, part);
        }
        b.close_if(is_first);
        b.meet();
        for (i, (sum, _)) in level.iter().enumerate() {
            let mut parts = Vec::new();
            for vector in 0..WARPS / 4 {
                let at = emitter.b.index(i as i64 * WARPS + vector * 4);
                let loaded = emitter.b.load_shared(array, 4, at);
                parts.extend((0..4).map(|lane| emitter.b.extract(loaded, lane)));
            }
            let total = parts.into_iter().reduce(|x, y| merge(&mut emitter.b, sum.op, x, y));
            if let Some(total) = total {
                emitter.remember(sum.element, row, total);
            }
        }
        Ok(())
    }
}
