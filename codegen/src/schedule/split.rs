//! Sums of a recurrent step, split among the threads of a block.
//!
//! A step of a recurrent cell has few rows (the batch) and long sums (the hidden units) for every column. A block takes
//! `units` neighbouring columns with all their sums, for all rows, and splits each sum into as many slices as it has
//! warps, or more. What the threads of a slice sum up goes through shared memory, where one thread a sum adds the slices
//! up; then one thread a point computes and stores what the kernel stores there.
//!
//! What the sums need of the columns' own operands (the weights) is the same at every step. As much of that as fits is
//! staged in shared memory before the first.
//!
//! ```text
//! lane    column = lane mod slots, then row group, then slice within the warp
//! staged  [operand][k / 4][column][k mod 4]      a vector of 4 for each lane, without bank conflicts
//! sums    [slice][sum][row and column]
//! ```

use fuse_ir::expr::{Axis, Dim, Symbol};
use fuse_ir::kernel::{Element, ElementId};

use super::analysis::{Analysis, axis_bit};
use super::contraction::assumed;
use super::emitter::{Emitted, Emitter, Point, Staged, floor_division};
use super::reduction::{Reduction, merge};
use super::resident::{Numbers, THREADS, below, coordinates};
use crate::builder::FunctionBuilder;
use crate::decompose::register_type;
use crate::kernel_ir::{BinaryOp, Condition, LaneType, SharedId, ValueId};

const WARP: i64 = 32;
/// Rows that it serves better than large tiles do.
const FEW_ROWS: i64 = 64;
const WARPS: i64 = THREADS as i64 / WARP;

/// Rows that a thread sums up at the same time: so often is an operand used that was loaded. Of more sums fewer rows, or
/// the registers do not last: on an H200 four rows of four gates take 7 to 14 % less time than two at 64 rows (as much
/// at 16), but 36 % more of the 12 gates of two layers in one step (docs/perf/gpu.md).
fn rows_a_thread(sums: usize) -> i64 {
    if sums <= 4 { 4 } else { 2 }
}

/// Rows that a block takes at once where it is not known how many there are.
const ROWS_AT_ONCE: i64 = 16;

/// Elements of a vector along the reduced axis.
const VECTOR: i64 = 4;

/// Where all sums are shorter than this, they are not worth splitting.
const LEAST_EXTENT: i64 = 16;

/// How the sums of one kernel are split.
pub(super) struct Split {
    column: Axis,
    columns: i64,
    rows: Vec<Axis>,
    sums: Vec<Sum>,
    /// Columns that a block takes at once.
    units: i64,
    /// Lanes for these; a power of two.
    slots: i64,
    /// Lanes that take other rows than their neighbours; a power of two.
    row_groups: i64,
    rows_a_thread: i64,
    /// Blocks of the launch.
    blocks: i64,
    staged: Vec<StagedOperand>,
    arrays: Option<Arrays>,
}

/// One sum (or product, or extremum).
struct Sum {
    reduction: Reduction,
    axis: Axis,
    extent: i64,
    lane: LaneType,
}

/// What a sum needs of the columns' own operands.
struct StagedOperand {
    element: ElementId,
    /// The reduced axis.
    axis: Axis,
    extent: i64,
    lane: LaneType,
}

/// Shared memory.
struct Arrays {
    slices: SharedId,
    sums: SharedId,
    staged: Vec<SharedId>,
}

impl Split {
    /// Where every sum of the kernel has a value for each column and is long; `shared_bytes` are left. With the counter
    /// of a loop, whose steps it is computed at, operands stay in shared memory.
    pub(super) fn new(
        analysis: &Analysis,
        counter: Option<&Symbol>,
        blocks: u32,
        shared_bytes: u32,
    ) -> Option<Split> {
        let axes = analysis.space_axes();
        let (column, rows) = axes.split_last()?;
        let columns = analysis.extent(*column).as_constant().filter(|n| *n > 0)?;
        if analysis.recurrence_axis.is_some() || analysis.groups.is_empty() {
            return None;
        }
        let mut sums = Vec::new();
        for group in &analysis.groups {
            if group.nested || group.height > 0 || group.free & axis_bit(*column) == 0 {
                return None;
            }
            for member in &group.members {
                sums.push(Sum::new(analysis, *member)?);
            }
        }
        if sums.iter().all(|s| s.extent < LEAST_EXTENT) {
            return None;
        }
        let first = sums.first()?;
        let (lane, op) = (first.lane, first.reduction.op);
        // Lanes exchange values of 32 bits.
        if lane.bytes() != 4 || sums.iter().any(|s| s.lane != lane || s.reduction.op != op) {
            return None;
        }
        let blocks = i64::from(blocks.max(1));
        let units = (columns.div_euclid(blocks) + i64::from(columns % blocks != 0)).min(WARP);
        let slots = power_of_two(units);
        let known_rows = rows.iter().try_fold(1i64, |n, a| n.checked_mul(analysis.extent(*a).as_constant()?));
        let at_once = known_rows.map_or(ROWS_AT_ONCE, |n| n.clamp(1, ROWS_AT_ONCE));
        let rows_a_thread = power_of_two(at_once.min(rows_a_thread(sums.len())));
        let row_groups = power_of_two(at_once.div_euclid(rows_a_thread).max(1)).min(WARP / slots);
        let mut split = Split {
            column: *column,
            columns,
            rows: rows.to_vec(),
            sums,
            units,
            slots,
            row_groups,
            rows_a_thread,
            blocks,
            staged: Vec::new(),
            arrays: None,
        };
        if split.shared_bytes() > shared_bytes {
            return None;
        }
        if let Some(counter) = counter.filter(|_| split.tiles() <= blocks) {
            split.stage(analysis, counter, shared_bytes);
        }
        Some(split)
    }

    /// Finds operands that stay in shared memory as long as the loop runs, as many as fit.
    fn stage(&mut self, analysis: &Analysis, counter: &Symbol, shared_bytes: u32) {
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
                }
            }
        }
    }

    /// Whether a load is of the column and the reduced axis alone, from a buffer that the loop does not write.
    fn stays(&self, analysis: &Analysis, counter: &Symbol, element: ElementId, axis: Axis) -> bool {
        let Some(access) = analysis.loads.get(&element) else { return false };
        analysis.free[element.index()] == axis_bit(self.column) | axis_bit(axis)
            && access.dynamic.is_empty()
            && access.guard.is_none()
            && !analysis.is_updated(access.buffer)
            && !access.all_symbols().contains(counter)
            && register_type(analysis.dtype(element)) != LaneType::Bool
    }

    /// Groups of columns.
    fn tiles(&self) -> i64 {
        self.columns.div_euclid(self.units) + i64::from(self.columns % self.units != 0)
    }

    /// Lanes with columns and rows of their own; the others of a warp take other slices of the same.
    fn lanes(&self) -> i64 {
        self.slots * self.row_groups
    }

    /// Into how many slices a sum is split.
    fn slices(&self) -> i64 {
        WARPS * (WARP / self.lanes())
    }

    /// Points that a block computes at once.
    fn points(&self) -> i64 {
        self.lanes() * self.rows_a_thread
    }

    /// The bytes of shared memory that it takes.
    pub(super) fn shared_bytes(&self) -> u32 {
        let sums = self.sums.len() as i64 * self.points();
        let element = self.sums.first().map_or(4, |s| i64::from(s.lane.bytes()));
        let staged: i64 =
            self.staged.iter().map(|s| s.elements(self.units) * i64::from(s.lane.bytes())).sum();
        u32::try_from((WARPS + 1) * sums * element + staged).unwrap_or(u32::MAX)
    }

    /// Allocates shared memory, and fills it with what stays there. The threads have not met since.
    pub(super) fn prepare(&mut self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<()> {
        let name = emitter.analysis.kernel.name.clone();
        let lane = self.sums.first().map_or(LaneType::F32, |s| s.lane);
        let sums = self.sums.len() as i64 * self.points();
        let mut array = |what: &str, lane, elements: i64| {
            emitter.b.shared_array(
                format!("{name}.{what}"),
                lane,
                u32::try_from(elements).unwrap_or(u32::MAX),
            )
        };
        let slices = array("slices", lane, WARPS * sums);
        let totals = array("sums", lane, sums);
        let staged: Vec<SharedId> =
            self.staged.iter().map(|s| array("staged", s.lane, s.elements(self.units))).collect();
        for (operand, array) in self.staged.iter().zip(&staged) {
            self.fill(emitter, numbers, operand, *array)?;
        }
        self.arrays = Some(Arrays { slices, sums: totals, staged });
        Ok(())
    }

    fn fill(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        operand: &StagedOperand,
        array: SharedId,
    ) -> Emitted<()> {
        let end = emitter.b.index(self.units * operand.extent);
        let each = emitter.b.open_loop(&[], true);
        let extent = emitter.b.index(operand.extent);
        let (unit, position) = floor_division(&mut emitter.b, each.counter, extent, true);
        let column = self.column_of(emitter, numbers.block, unit);
        let point = emitter.origin().with(self.column, column).with(operand.axis, position);
        let value = emitter.load(operand.element, &point)?;
        let place = operand.place(self.units, unit);
        let at = place.position(&mut emitter.b, position, 1);
        emitter.b.store_shared(array, at, value);
        emitter.b.close_loop(each, numbers.thread, end, i64::from(THREADS), &[]);
        Ok(())
    }

    /// The column of a unit of a tile, the last one where there are fewer.
    fn column_of(&self, emitter: &mut Emitter, tile: ValueId, unit: ValueId) -> ValueId {
        let units = emitter.b.index(self.units);
        let first = emitter.b.mul(tile, units);
        let column = emitter.b.add(first, unit);
        if self.columns % self.units == 0 && self.tiles() >= self.blocks {
            return column;
        }
        let last = emitter.b.index(self.columns - 1);
        emitter.b.binary(BinaryOp::Min, column, last)
    }

    /// Whether tiles of a large contraction would have too few rows to fill.
    pub(super) fn has_few_rows(&self, analysis: &Analysis) -> bool {
        assumed(&row_count(analysis, &self.rows)) <= FEW_ROWS
    }

    /// Rows that a block takes at once.
    fn rows_at_once(&self) -> i64 {
        self.row_groups * self.rows_a_thread
    }

    /// The kernel at one step.
    pub(super) fn phase(&self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<()> {
        let rows = emitter.dimension(&row_count(emitter.analysis, &self.rows))?;
        let end = emitter.b.index(self.tiles());
        let tiles = emitter.b.open_loop(&[], true);
        let zero = emitter.b.index(0);
        let passes = emitter.b.open_loop(&[], true);
        self.tile(emitter, numbers, [tiles.counter, passes.counter, rows])?;
        emitter.b.close_loop(passes, zero, rows, self.rows_at_once(), &[]);
        emitter.b.close_loop(tiles, numbers.block, end, self.blocks, &[]);
        Ok(())
    }

    /// The kernel alone: a block takes some columns of some rows. Returns the number of blocks.
    pub(super) fn alone(&self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<Dim> {
        let rows = row_count(emitter.analysis, &self.rows);
        let count = emitter.dimension(&rows)?;
        let tiles = emitter.b.index(self.tiles());
        let (pass, tile) = floor_division(&mut emitter.b, numbers.block, tiles, true);
        let at_once = emitter.b.index(self.rows_at_once());
        let first_row = emitter.b.mul(pass, at_once);
        self.tile(emitter, numbers, [tile, first_row, count])?;
        Ok(rows.ceil_div(&Dim::constant(self.rows_at_once())) * Dim::constant(self.tiles()))
    }

    /// The columns of a tile at some rows, from the first one on, of how many there are.
    fn tile(&self, emitter: &mut Emitter, numbers: Numbers, place: [ValueId; 3]) -> Emitted<()> {
        let Some(arrays) = &self.arrays else {
            return Err(emitter.analysis.malformed("its sums have no shared memory"));
        };
        let [tile, first_row, rows] = place;
        let tile = Tile { split: self, arrays, numbers, tile, first_row, rows };
        let point = tile.own_point(emitter)?;
        tile.load_early(emitter, &point)?;
        tile.slices(emitter)?;
        emitter.b.meet();
        tile.totals(emitter);
        emitter.b.meet();
        tile.epilogue(emitter, &point)
    }
}

/// The number of rows.
pub(super) fn row_count(analysis: &Analysis, rows: &[Axis]) -> Dim {
    rows.iter().map(|a| analysis.extent(*a).clone()).fold(Dim::constant(1), |a, b| a * b)
}

impl Sum {
    fn new(analysis: &Analysis, element: ElementId) -> Option<Sum> {
        let Element::Reduce { op, axes, body } = analysis.element(element) else { return None };
        let axis = *axes.first().filter(|_| axes.len() == 1)?;
        let extent = analysis.extent(axis).as_constant().filter(|n| *n >= 1)?;
        let dtype = analysis.dtype(*body);
        let reduction = Reduction { element, op: *op, body: *body, dtype };
        let lane = register_type(dtype);
        let plain = !op.is_arg() && lane != LaneType::Bool && dtype != fuse_ir::DType::U8;
        plain.then_some(Sum { reduction, axis, extent, lane })
    }
}

impl StagedOperand {
    /// Elements of its array.
    fn elements(&self, units: i64) -> i64 {
        vectors(self.extent) * VECTOR * units
    }

    fn place(&self, units: i64, unit: ValueId) -> Staged {
        Staged { axis: self.axis, units, unit }
    }
}

/// What a block computes at once.
struct Tile<'a> {
    split: &'a Split,
    arrays: &'a Arrays,
    numbers: Numbers,
    tile: ValueId,
    first_row: ValueId,
    /// The number of all rows.
    rows: ValueId,
}

impl Tile<'_> {
    /// Every thread sums up its slice, at its column, for its rows.
    fn slices(&self, emitter: &mut Emitter) -> Emitted<()> {
        let split = self.split;
        let b = &mut emitter.b;
        let lane = low_bits(b, self.numbers.thread, WARP);
        let warp = b.shift_right_arithmetic(self.numbers.thread, bits(WARP));
        let slot = low_bits(b, lane, split.slots);
        let unit = split.unit_of(b, slot);
        let group = b.shift_right_arithmetic(lane, bits(split.slots));
        let row_group = low_bits(b, group, split.row_groups);
        let within = b.shift_right_arithmetic(group, bits(split.row_groups));
        let slices_a_warp = b.index(split.slices() / WARPS);
        let slice = b.mul(warp, slices_a_warp);
        let slice = b.add(slice, within);
        let column = split.column_of(emitter, self.tile, unit);
        let last = emitter.b.index(1);
        let last = emitter.b.sub(self.rows, last);
        let mut points = Vec::new();
        for row in 0..split.rows_a_thread {
            let offset = emitter.b.index(row * split.row_groups);
            let number = emitter.b.add(self.first_row, offset);
            let number = emitter.b.add(number, row_group);
            let number = emitter.b.binary(BinaryOp::Min, number, last);
            points.push(self.point(emitter, number, column)?);
        }
        for (operand, array) in split.staged.iter().zip(&self.arrays.staged) {
            emitter.staged.insert(operand.element, (*array, operand.place(split.units, unit)));
        }
        let partials = emitter.partial_sums(&split.reductions(), &points, slice, split.slices())?;
        emitter.staged.clear();
        let b = &mut emitter.b;
        let partials: Vec<ValueId> = partials.into_iter().map(|p| split.of_warp(b, p)).collect();
        let sums = b.index(split.sums.len() as i64 * split.points());
        let first = b.mul(warp, sums);
        let place = low_bits(b, lane, split.lanes());
        let first = b.add(first, place);
        let zero = b.index(0);
        let is_first = b.compare(Condition::Eq, within, zero);
        b.open_if();
        for (i, partial) in partials.into_iter().enumerate() {
            let offset = b.index(i as i64 * split.lanes());
            let at = b.add(first, offset);
            b.store_shared(self.arrays.slices, at, partial);
        }
        b.close_if(is_first);
        Ok(())
    }

    /// One thread a sum adds its slices up.
    fn totals(&self, emitter: &mut Emitter) {
        let split = self.split;
        let sums = split.sums.len() as i64 * split.points();
        let b = &mut emitter.b;
        let end = b.index(sums);
        let each = b.open_loop(&[], true);
        let mut parts = Vec::new();
        for warp in 0..WARPS {
            let offset = b.index(warp * sums);
            let at = b.add(each.counter, offset);
            parts.push(b.load_shared(self.arrays.slices, 1, at));
        }
        while parts.len() > 1 {
            let merged = parts.chunks(2).map(|p| if let [x, y] = p { split.merge(b, *x, *y) } else { p[0] });
            parts = merged.collect();
        }
        b.store_shared(self.arrays.sums, each.counter, parts[0]);
        b.close_loop(each, self.numbers.thread, end, i64::from(THREADS), &[]);
    }

    /// The point that the thread stores, or one that another does.
    fn own_point(&self, emitter: &mut Emitter) -> Emitted<Point> {
        let split = self.split;
        let b = &mut emitter.b;
        let number = low_bits(b, self.numbers.thread, split.points());
        let slot = low_bits(b, number, split.slots);
        let unit = split.unit_of(b, slot);
        let row = b.shift_right_arithmetic(number, bits(split.slots));
        let row = b.add(self.first_row, row);
        let one = b.index(1);
        let last = b.sub(self.rows, one);
        let row = b.binary(BinaryOp::Min, row, last);
        let column = split.column_of(emitter, self.tile, unit);
        self.point(emitter, row, column)
    }

    /// Loads what the point needs beside the sums: on its way while these are computed.
    fn load_early(&self, emitter: &mut Emitter, point: &Point) -> Emitted<()> {
        let analysis = emitter.analysis;
        let mut loads: Vec<ElementId> =
            analysis.stores.iter().flat_map(|store| operands(analysis, store.value)).collect();
        loads.sort_unstable();
        loads.dedup();
        let direct = |e: &ElementId| analysis.loads.get(e).is_some_and(|access| access.dynamic.is_empty());
        loads.retain(direct);
        emitter.evaluate(&loads, point)
    }

    /// One thread a point computes and stores what the kernel stores there.
    fn epilogue(&self, emitter: &mut Emitter, point: &Point) -> Emitted<()> {
        let split = self.split;
        let b = &mut emitter.b;
        let thread = self.numbers.thread;
        let unit = low_bits(b, thread, split.slots);
        let row = b.shift_right_arithmetic(thread, bits(split.slots));
        let row = b.add(self.first_row, row);
        let units = b.index(split.units);
        let first = b.mul(self.tile, units);
        let column = b.add(first, unit);
        let (points, columns) = (b.index(split.points()), b.index(split.columns));
        let mut inside = below(b, thread, points);
        for (value, bound) in [(row, self.rows), (column, columns), (unit, units)] {
            let within = below(b, value, bound);
            inside = b.and(inside, within);
        }
        b.open_if();
        for (i, sum) in split.sums.iter().enumerate() {
            let offset = emitter.b.index(i as i64 * split.points());
            let at = emitter.b.add(thread, offset);
            let total = emitter.b.load_shared(self.arrays.sums, 1, at);
            emitter.remember(sum.reduction.element, point, total);
        }
        for part in &emitter.analysis.parts {
            emitter.stores(std::slice::from_ref(point), part)?;
        }
        emitter.b.close_if(inside);
        emitter.forget();
        Ok(())
    }

    fn point(&self, emitter: &mut Emitter, row: ValueId, column: ValueId) -> Emitted<Point> {
        let mut point = emitter.origin().with(self.split.column, column);
        for (axis, value) in self.split.rows.iter().zip(coordinates(emitter, &self.split.rows, row)?) {
            point = point.with(*axis, value);
        }
        Ok(point)
    }
}

impl Split {
    fn reductions(&self) -> Vec<(Reduction, i64)> {
        self.sums.iter().map(|s| (s.reduction, s.extent)).collect()
    }

    /// The column of a lane's slot among those of a tile; the last one where there are fewer than slots.
    fn unit_of(&self, b: &mut FunctionBuilder, slot: ValueId) -> ValueId {
        if self.units == self.slots {
            return slot;
        }
        let last = b.index(self.units - 1);
        b.binary(BinaryOp::Min, slot, last)
    }

    /// Two parts of a sum as one.
    fn merge(&self, b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
        self.sums.first().map_or(x, |s| merge(b, s.reduction.op, x, y))
    }

    /// The parts that lanes of one warp have of the same sum as one.
    fn of_warp(&self, b: &mut FunctionBuilder, part: ValueId) -> ValueId {
        let mut sum = part;
        let mut distance = self.lanes();
        while distance < WARP {
            let other = b.butterfly(sum, distance as u8);
            sum = self.merge(b, sum, other);
            distance *= 2;
        }
        sum
    }
}

/// The loads that an element is computed from, without those behind other sums.
fn operands(analysis: &Analysis, element: ElementId) -> Vec<ElementId> {
    let mut pending = vec![element];
    let mut loads = Vec::new();
    while let Some(id) = pending.pop() {
        match analysis.element(id) {
            Element::Load { .. } if !loads.contains(&id) => loads.push(id),
            Element::Reduce { .. } => {}
            other => pending.extend(other.operands()),
        }
    }
    loads.sort_unstable();
    loads
}

fn vectors(extent: i64) -> i64 {
    extent.div_euclid(VECTOR) + i64::from(extent % VECTOR != 0)
}

/// The least power of two that is no less.
fn power_of_two(n: i64) -> i64 {
    u64::try_from(n.max(1)).map_or(1, u64::next_power_of_two) as i64
}

fn bits(power: i64) -> i64 {
    i64::from(power.trailing_zeros())
}

/// The remainder of a division by a power of two.
fn low_bits(b: &mut FunctionBuilder, x: ValueId, power: i64) -> ValueId {
    let mask = b.index(power - 1);
    b.and(x, mask)
}
