//! The code of a block: slices, their totals, and the points.

use fuse_ir::kernel::ElementId;

use super::super::block::{Numbers, THREADS, WARPS, bits, low_bits, of_lanes};
use super::super::coordinates::coordinates;
use super::super::division::floor_division;
use super::super::emitter::{Emitted, Emitter, Point, ToMemory};
use super::super::reduction::{State, merge_all};
use super::{Arrays, Split, stored_loads};
use crate::builder::FunctionBuilder;
use crate::decompose::{self, register_type};
use crate::kernel_ir::{BinaryOp, Condition, LaneType, Type, ValueId};

/// What a block computes at once.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) split: &'a Split,
    pub(super) arrays: &'a Arrays,
    pub(super) numbers: Numbers,
    pub(super) tile: ValueId,
    /// Its number among those of the block, where there are several.
    pub(super) within: Option<ValueId>,
    pub(super) first_row: ValueId,
    /// The number of the turn, where it is one of several.
    pub(super) turn: Option<ValueId>,
    /// The number of all rows.
    pub(super) rows: ValueId,
}

impl Tile<'_> {
    /// The slices of all sums, turn by turn.
    fn turns(&self, emitter: &mut Emitter) -> Emitted<()> {
        let split = self.split;
        if split.turns == 1 {
            return self.slices(emitter);
        }
        let b = &mut emitter.b;
        let (begin, end) = (b.index(0), self.turns_here(b));
        let each = b.open_loop(&[], true);
        let rows = b.index(split.rows_a_turn());
        let passed = b.mul(each.counter, rows);
        let first_row = b.add(self.first_row, passed);
        let turn = Tile { first_row, turn: Some(each.counter), ..*self };
        turn.slices(emitter)?;
        emitter.b.close_loop(each, begin, end, 1, &[]);
        Ok(())
    }

    /// How many turns have rows.
    fn turns_here(&self, b: &mut FunctionBuilder) -> ValueId {
        let left = b.sub(self.rows, self.first_row);
        let others = b.index(self.split.rows_a_turn() - 1);
        let rows = b.add(left, others);
        let left = b.shift_right_arithmetic(rows, bits(self.split.rows_a_turn()));
        let turns = b.index(self.split.turns);
        b.binary(BinaryOp::Min, left, turns)
    }

    /// The slices of one turn. Threads that sum up do so for one row where that suffices; their rows that are behind the last one
    /// are that one again.
    fn slices(&self, emitter: &mut Emitter) -> Emitted<()> {
        let split = self.split;
        if let Some(products) = &split.products {
            return products.slices(emitter, self, &self.arrays.weights);
        }
        let counts = split.rows_of_threads();
        if let [rows] = counts[..] {
            return self.slices_of(emitter, rows);
        }
        let left = emitter.b.sub(self.rows, self.first_row);
        for rows in counts {
            let condition = if rows == 1 { Condition::Le } else { Condition::Gt };
            let suits = emitter.b.compare_integer(condition, left, split.row_groups);
            emitter.b.open_if();
            self.slices_of(emitter, rows)?;
            emitter.b.close_if(suits);
        }
        Ok(())
    }

    /// Every thread sums up its slice, at its columns, for so many rows.
    fn slices_of(&self, emitter: &mut Emitter, rows: i64) -> Emitted<()> {
        let split = self.split;
        let (columns, lanes_of_columns) = (split.columns_a_thread, split.lanes_of_columns());
        let b = &mut emitter.b;
        let (lane, warp) = (self.numbers.lane(b), self.numbers.warp(b));
        let first_slot = low_bits(b, lane, lanes_of_columns);
        let group = b.shift_right_arithmetic(lane, bits(lanes_of_columns));
        let row_group = low_bits(b, group, split.row_groups);
        let within = b.shift_right_arithmetic(group, bits(split.row_groups));
        let slices_a_warp = b.index(split.slices() / WARPS);
        let slice = b.mul(warp, slices_a_warp);
        let slice = b.add(slice, within);
        let mut of_thread = Vec::new();
        for number in 0..columns {
            let offset = emitter.b.index(number * lanes_of_columns);
            let slot = emitter.b.add(first_slot, offset);
            let unit = split.unit_of(&mut emitter.b, slot);
            let column = split.column_of(emitter, self.tile, unit);
            emitter.units.insert(column, unit);
            of_thread.push(column);
        }
        let last = emitter.b.index(1);
        let last = emitter.b.sub(self.rows, last);
        let mut points = Vec::new();
        for row in 0..rows {
            let offset = emitter.b.index(row * split.row_groups);
            let number = emitter.b.add(self.first_row, offset);
            let number = emitter.b.add(number, row_group);
            let number = emitter.b.binary(BinaryOp::Min, number, last);
            for column in &of_thread {
                points.push(self.point(emitter, number, *column)?);
            }
        }
        for (operand, array) in split.staged.iter().zip(&self.arrays.staged) {
            let place = operand.place(&mut emitter.b, (split.column, split.units), self.within);
            emitter.staged.insert(operand.element, (*array, place));
        }
        let partials = emitter.partial_sums(&split.reductions(), &points, slice, split.slices())?;
        emitter.staged.clear();
        emitter.units.clear();
        let b = &mut emitter.b;
        // The lanes that have other slices of the same sum.
        let distances = (0..5).map(|bit| 1u8 << bit).filter(|d| i64::from(*d) >= split.lanes());
        let reductions = split.sums.iter().flat_map(|sum| std::iter::repeat_n(sum.reduction, points.len()));
        let of_warp =
            |(reduction, part)| of_lanes(b, reduction, State::from_slice(&[part]), distances.clone());
        let partials: Vec<State> = reductions.zip(partials).map(of_warp).collect();
        let sums = b.index(split.sums.len() as i64 * split.points());
        let first = b.mul(warp, sums);
        let place = low_bits(b, lane, split.lanes());
        let mut first = b.add(first, place);
        if let Some(passed) = self.passed_sums(b) {
            first = b.add(first, passed);
        }
        let is_first = b.compare_integer(Condition::Eq, within, 0);
        b.open_if();
        for (i, partial) in (0..).zip(partials) {
            // Points of a thread stand in the order of rows, then of columns, as they do among all points.
            let (sum, point) = (i64::div_euclid(i, rows * columns), i64::rem_euclid(i, rows * columns));
            let offset = b.index(sum * split.points_a_turn() + point * split.lanes());
            let at = b.add(first, offset);
            b.store_shared(self.arrays.slices, at, partial[0]);
        }
        b.close_if(is_first);
        Ok(())
    }

    /// How many sums of a slice stand before those of the turn, if there are several.
    pub(super) fn passed_sums(&self, b: &mut FunctionBuilder) -> Option<ValueId> {
        let turn = self.turn?;
        let of_turn = b.index(self.split.sums_a_turn());
        Some(b.mul(turn, of_turn))
    }

    /// The sums, as slices and, where that is not left to the threads of points, totals.
    pub(super) fn sums(&self, emitter: &mut Emitter) -> Emitted<()> {
        self.turns(emitter)?;
        emitter.b.meet();
        if !self.split.adds_up_at_points() {
            self.totals(emitter);
            emitter.b.meet();
        }
        Ok(())
    }

    /// One thread a sum adds its slices up, of the rows that there are.
    pub(super) fn totals(&self, emitter: &mut Emitter) {
        let split = self.split;
        let b = &mut emitter.b;
        let of_turn = b.index(split.sums_a_turn());
        let end = match split.turns {
            1 => of_turn,
            _ => {
                let turns = self.turns_here(b);
                b.mul(turns, of_turn)
            }
        };
        let each = b.open_loop(&[], true);
        let is_there = (split.rows_of_threads().len() > 1).then(|| {
            let point = low_bits(b, each.counter, split.points_a_turn());
            let (_, mut row) = split.place_of(b, point);
            if split.turns > 1 {
                let (turn, _) = floor_division(b, each.counter, of_turn, true);
                let before = b.index(split.rows_a_turn());
                let before = b.mul(turn, before);
                row = b.add(row, before);
            }
            let row = b.add(self.first_row, row);
            let is_there = b.compare(Condition::Lt, row, self.rows);
            b.open_if();
            is_there
        });
        let total = self.total(b, each.counter);
        b.store_shared(self.arrays.sums, each.counter, total);
        if let Some(is_there) = is_there {
            b.close_if(is_there);
        }
        b.close_loop(each, self.numbers.thread, end, i64::from(THREADS), &[]);
    }

    /// What the slices of a sum add up to, of that number among those of all points.
    fn total(&self, b: &mut FunctionBuilder, number: ValueId) -> ValueId {
        let split = self.split;
        let place = split.place_in_slice(b, number);
        let mut parts = Vec::new();
        for part in 0..split.parts() {
            let offset = b.index(part * split.slice_elements());
            let at = b.add(place, offset);
            parts.push(b.load_shared(self.arrays.slices, 1, at));
        }
        merge_all(b, split.op, parts)
    }

    /// The point that the thread stores. The threads after those that store any have the last one of these.
    pub(super) fn own_point(&self, emitter: &mut Emitter) -> Emitted<Point> {
        let split = self.split;
        let b = &mut emitter.b;
        let last = b.index(split.points() - 1);
        let number = b.binary(BinaryOp::Min, self.numbers.thread, last);
        let (slot, row) = split.place_of(b, number);
        let unit = split.unit_of(b, slot);
        let row = b.add(self.first_row, row);
        let one = b.index(1);
        let last = b.sub(self.rows, one);
        let row = b.binary(BinaryOp::Min, row, last);
        let column = split.column_of(emitter, self.tile, unit);
        self.point(emitter, row, column)
    }

    /// Loads what the point needs beside the sums and what its column has: on its way while the sums are computed. Threads
    /// without a point load nothing.
    pub(super) fn load_early(&self, emitter: &mut Emitter, point: &Point) -> Emitted<()> {
        let (analysis, split) = (emitter.analysis, self.split);
        let images = &emitter.images;
        let direct = |e: &ElementId| {
            let access = analysis.loads.get(e);
            access.is_some_and(|a| a.dynamic.is_empty() && !images.contains_key(&a.buffer))
        };
        let mut loads: Vec<ElementId> = stored_loads(analysis);
        loads.retain(|load| direct(load) && !split.of_columns.contains(load));
        if loads.is_empty() {
            return Ok(());
        }
        // A condition gives no values; a loop that runs once or never does.
        let b = &mut emitter.b;
        let nothing = |load: &ElementId| b.number(Type::scalar(register_type(analysis.dtype(*load))), 0.0);
        let nothing: Vec<ValueId> = loads.iter().map(nothing).collect();
        let (_, has_point) = self.own_unit(b);
        let (zero, one) = (b.index(0), b.index(1));
        let times = b.select(has_point, one, zero);
        let once = b.open_loop(&nothing, true);
        emitter.load_neighbours(&loads, point)?;
        emitter.evaluate(&loads, point)?;
        let loaded = loads.iter().map(|load| emitter.value(*load, point)).collect::<Emitted<Vec<_>>>()?;
        let loaded = emitter.b.close_loop(once, zero, times, 1, &loaded);
        for (load, value) in loads.iter().zip(loaded) {
            emitter.remember(*load, point, value);
        }
        Ok(())
    }

    /// One thread a point computes and stores what the kernel stores there.
    pub(super) fn epilogue(&self, emitter: &mut Emitter, point: &Point) -> Emitted<()> {
        let (_, inside) = self.own_unit(&mut emitter.b);
        emitter.b.open_if();
        self.remember_totals(emitter, point);
        for part in &emitter.analysis.parts {
            emitter.stores(std::slice::from_ref(point), part)?;
        }
        emitter.b.close_if(inside);
        emitter.forget();
        Ok(())
    }

    /// As [`Tile::epilogue`], by a block of a cluster, which arrives when the images are written; then buffers are.
    pub(super) fn epilogue_of_cluster(&self, emitter: &mut Emitter, point: &Point) -> Emitted<()> {
        let analysis = emitter.analysis;
        let (_, inside) = self.own_unit(&mut emitter.b);
        let mut before = Vec::with_capacity(analysis.stores.len());
        for store in &analysis.stores {
            before.push(emitter.b.integer(Type::scalar(LaneType::of_memory(store.access.dtype)), 0));
        }
        // A condition whose block has results.
        let (none, one) = (emitter.b.index(0), emitter.b.index(1));
        let times = emitter.b.select(inside, one, none);
        let once = emitter.b.open_loop(&before, true);
        self.remember_totals(emitter, point);
        let targets: Vec<ElementId> = analysis.stores.iter().map(|store| store.value).collect();
        emitter.evaluate(&targets, point)?;
        let mut values = Vec::with_capacity(analysis.stores.len());
        for store in &analysis.stores {
            let value = emitter.value(store.value, point)?;
            let value = decompose::to_memory(&mut emitter.b, store.access.dtype, value);
            emitter.store_images(&store.access, value, point)?;
            values.push(value);
        }
        let values = emitter.b.close_loop(once, none, times, 1, &values);
        emitter.b.arrive_at_cluster();
        emitter.b.open_if();
        for (store, value) in analysis.stores.iter().zip(values) {
            let image = emitter.images.get(&store.access.buffer);
            let to_memory = image.map_or(ToMemory::Always, |image| image.to_memory);
            emitter.store_memory(&store.access, value, point, to_memory)?;
        }
        emitter.b.close_if(inside);
        emitter.forget();
        Ok(())
    }

    /// The number of the thread's column in the tile, and whether the thread has a point there.
    fn own_unit(&self, b: &mut FunctionBuilder) -> (ValueId, ValueId) {
        let split = self.split;
        let thread = self.numbers.thread;
        let (unit, row) = split.place_of(b, thread);
        let row = b.add(self.first_row, row);
        let units = b.index(split.units);
        let first = b.mul(self.tile, units);
        let column = b.add(first, unit);
        let (points, columns) = (b.index(split.points()), b.index(split.columns));
        let mut inside = b.compare(Condition::Lt, thread, points);
        for (value, bound) in [(row, self.rows), (column, columns), (unit, units)] {
            let within = b.compare(Condition::Lt, value, bound);
            inside = b.and(inside, within);
        }
        (unit, inside)
    }

    /// Takes what is in shared memory for the thread's point: the sums, and what its column has.
    fn remember_totals(&self, emitter: &mut Emitter, point: &Point) {
        let split = self.split;
        let (unit, _) = self.own_unit(&mut emitter.b);
        let mut first = self.numbers.thread;
        if split.turns > 1 {
            let b = &mut emitter.b;
            let turn = b.shift_right_logical(first, bits(split.points_a_turn()));
            let others = b.index(split.sums_a_turn() - split.points_a_turn());
            let others = b.mul(turn, others);
            first = b.add(first, others);
        }
        for (i, sum) in split.sums.iter().enumerate() {
            let offset = emitter.b.index(i as i64 * split.points_a_turn());
            let at = emitter.b.add(first, offset);
            let total = if split.adds_up_at_points() {
                self.total(&mut emitter.b, at)
            } else {
                emitter.b.load_shared(self.arrays.sums, 1, at)
            };
            emitter.remember(sum.reduction.element, point, total);
        }
        for (load, array) in split.of_columns.iter().zip(&self.arrays.of_columns) {
            let value = emitter.b.load_shared(*array, 1, unit);
            emitter.remember(*load, point, value);
        }
    }

    pub(super) fn point(&self, emitter: &mut Emitter, row: ValueId, column: ValueId) -> Emitted<Point> {
        let (analysis, rows) = (emitter.analysis, &self.split.rows);
        let mut point = emitter.origin().with(self.split.column, column);
        let extents = rows.iter().map(|a| analysis.extent(*a));
        for (axis, value) in rows.iter().zip(coordinates(emitter, extents, row)?) {
            point = point.with(*axis, value);
        }
        Ok(point)
    }
}
