//! The schedule for CPUs.
//!
//! The innermost axis is cut into chunks; a work item is one chunk at one point of the outer axes, or at a
//! few neighbouring points of one of them (the rows) where reductions load the same operands for all rows.
//! A chunk is walked in tiles of one or more vectors by the item's rows; all reductions of a tile run in one
//! loop per group. Scalar code does what columns are left over; rows that are left over are computed together
//! with some that were computed already, which costs less than one by one.

use fuse_ir::expr::{Axis, Dim};

use super::Registers;
use super::ahead::ColumnsAhead;
use super::analysis::Analysis;
use super::coordinates::coordinate;
use super::division::division_by_count;
use super::emitter::{Emitted, Emitter, Point};
use super::tiling::{Columns, Rows, Tiling, chunks, row_blocks};
use crate::kernel_ir::{BinaryOp, Condition, Function, LaneType, Mapping, Operation, Type, ValueId};

/// See [`super::schedule`].
pub(super) fn schedule(analysis: &Analysis, registers: Registers) -> Emitted<Function> {
    let tiling = Tiling::new(analysis, registers);
    let work = tiling.work(analysis);
    let mut emitter = Emitter::new(analysis, Some(registers.vector_bits), registers.accumulators);
    let index = Type::scalar(LaneType::I64);
    let begin = emitter.b.operation(index, Operation::WorkBegin);
    let end = emitter.b.operation(index, Operation::WorkEnd);
    let items = emitter.b.open_loop(&[], true);
    emitter.guard(analysis.space_symbols());
    item(&mut emitter, &tiling, items.counter)?;
    emitter.b.close_loop(items, begin, end, 1, &[]);
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    Ok(emitter.b.finish(analysis.kernel.name.clone(), buffers, symbols, work, Mapping::Range))
}

/// One work item: its coordinates, then its rows, then its columns.
fn item(emitter: &mut Emitter, tiling: &Tiling, item: ValueId) -> Emitted<()> {
    let analysis = emitter.analysis;
    let mut point = emitter.origin();
    let mut rest = item;
    let chunked = tiling.columns.as_ref().filter(|c| c.chunk.is_some());
    let mut remaining = tiling.outer.len() + usize::from(chunked.is_some());
    let mut row_block = None;
    if let Some(rows) = tiling.rows {
        row_block = Some(match rows.group.filter(|_| remaining > 0) {
            Some(group) => grouped_block(emitter, tiling, &rows, group, &mut rest)?,
            None => {
                // The row block changes fastest, so that neighbouring items use the same columns.
                let blocks = row_blocks(&rows.extent(analysis), rows.tile);
                let block = coordinate(emitter, &mut rest, &blocks, remaining == 0)?;
                RowBlock { block, turn: block }
            }
        });
    }
    let mut chunk_number = None;
    if let Some((columns, size)) = chunked.and_then(|c| Some((c, c.chunk?))) {
        remaining -= 1;
        let count = chunks(analysis.extent(columns.axis), size);
        chunk_number = Some(coordinate(emitter, &mut rest, &count, remaining == 0)?);
    }
    for axis in tiling.outer.iter().rev() {
        remaining -= 1;
        let value = coordinate(emitter, &mut rest, analysis.extent(*axis), remaining == 0)?;
        point = point.with(*axis, value);
        let innermost = Some(axis) == tiling.outer.last() && chunk_number.is_none();
        if let (true, Some(rows), Some(RowBlock { turn, .. })) = (innermost, tiling.rows, row_block) {
            let one = emitter.b.index(1);
            let next = emitter.b.add(value, one);
            emitter.ahead = rows.prefetches.then_some(ColumnsAhead { axis: *axis, next, turn });
        }
    }
    let Some(columns) = &tiling.columns else { return emitter.tile(std::slice::from_ref(&point), 1) };
    let range = column_range(emitter, columns, chunk_number)?;
    let Some((rows, RowBlock { block, .. })) = tiling.rows.zip(row_block) else {
        let point = std::slice::from_ref(&point);
        return walk_columns(emitter, columns, &range, point, None, columns.single_tile);
    };
    walk_rows(emitter, columns, &range, &point, &rows, block)
}

/// The row block of an item.
#[derive(Clone, Copy)]
struct RowBlock {
    block: ValueId,
    /// How many row blocks before it use the same columns.
    turn: ValueId,
}

/// The row block of an item where blocks go in groups: all blocks of a group for the first columns, for the next
/// ones, and so on, then the next group. The last group has what blocks are left. Leaves the number of the columns.
fn grouped_block(
    emitter: &mut Emitter,
    tiling: &Tiling,
    rows: &Rows,
    group: i64,
    item: &mut ValueId,
) -> Emitted<RowBlock> {
    let analysis = emitter.analysis;
    let items = emitter.dimension(&(tiling.items_of_a_block(analysis) * Dim::constant(group)))?;
    let (number, within) = division_by_count(&mut emitter.b, *item, items);
    let size = emitter.b.index(group);
    let first = emitter.b.mul(number, size);
    let blocks = emitter.dimension(&row_blocks(&rows.extent(analysis), rows.tile))?;
    let left = emitter.b.sub(blocks, first);
    let size = emitter.b.binary(BinaryOp::Min, size, left);
    let (columns, turn) = division_by_count(&mut emitter.b, within, size);
    *item = columns;
    Ok(RowBlock { block: emitter.b.add(first, turn), turn })
}

/// The columns of an item.
struct Range {
    begin: ValueId,
    end: ValueId,
    /// Their number, where it is known and the same for all items.
    count: Option<i64>,
    /// What divides their number in any case.
    divisor: i64,
}

fn column_range(emitter: &mut Emitter, columns: &Columns, number: Option<ValueId>) -> Emitted<Range> {
    let extent = emitter.analysis.extent(columns.axis);
    let end = emitter.dimension(extent)?;
    let (Some(size), Some(number)) = (columns.chunk, number) else {
        let (count, divisor) = (extent.as_constant(), divisor(extent));
        return Ok(Range { begin: emitter.b.index(0), end, count, divisor });
    };
    let length = emitter.b.index(size);
    let begin = emitter.b.mul(number, length);
    let chunk_end = emitter.b.add(begin, length);
    if extent.as_constant().is_some_and(|n| n % size == 0) {
        return Ok(Range { begin, end: chunk_end, count: Some(size), divisor: size });
    }
    // A chunk is a whole one or ends with the axis.
    let divisor = greatest_common_divisor(size, divisor(extent));
    Ok(Range { begin, end: emitter.b.binary(BinaryOp::Min, chunk_end, end), count: None, divisor })
}

/// What divides an extent whatever the symbols are.
fn divisor(extent: &Dim) -> i64 {
    extent.terms().fold(0, |divisor, (_, coefficient)| greatest_common_divisor(divisor, coefficient)).max(1)
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a.saturating_abs() } else { greatest_common_divisor(b, a.wrapping_rem(b)) }
}

/// The rows of the tile that is likely to come next.
struct RowsAhead {
    axis: Axis,
    points: Vec<Point>,
}

/// A block of rows in a tile, the last block with what rows are left over.
fn walk_rows(
    emitter: &mut Emitter,
    columns: &Columns,
    range: &Range,
    point: &Point,
    rows: &Rows,
    block: ValueId,
) -> Emitted<()> {
    let extent = &rows.extent(emitter.analysis);
    let tile = emitter.b.index(rows.tile);
    let first = emitter.b.mul(block, tile);
    let walk = RowWalk { columns, range, point, rows };
    if extent.as_constant().is_some_and(|n| n % rows.tile == 0) {
        return walk.tile(emitter, first, rows.tile);
    }
    let count = emitter.dimension(extent)?;
    let fills_tile = extent.as_constant().map(|n| n >= rows.tile);
    let last = emitter.b.sub(count, tile);
    let whole = emitter.b.compare_integer(Condition::Ge, last, 0);
    if fills_tile != Some(false) {
        emitter.b.open_if();
        if rows.few {
            walk.tile(emitter, first, rows.tile)?;
        } else {
            walk.with_overlap(emitter, first, count, last)?;
        }
        emitter.b.close_if(whole);
    }
    // Loops of few rows have no time to ask for more.
    emitter.ahead = None;
    if rows.few {
        let behind = emitter.b.add(first, tile);
        let begin = emitter.b.select(whole, behind, first);
        return walk.few(emitter, begin, count);
    }
    if fills_tile != Some(true) {
        let partial = emitter.b.not(whole);
        emitter.b.open_if();
        let zero = emitter.b.index(0);
        walk.one_by_one(emitter, zero, count)?;
        emitter.b.close_if(partial);
    }
    Ok(())
}

/// What tiles of rows have in common.
struct RowWalk<'a> {
    columns: &'a Columns,
    range: &'a Range,
    point: &'a Point,
    rows: &'a Rows,
}

impl RowWalk<'_> {
    /// The columns of `count` rows.
    fn tile(&self, emitter: &mut Emitter, first: ValueId, count: i64) -> Emitted<()> {
        let points = self.consecutive(emitter, first, count)?;
        let ahead = if self.rows.prefetches {
            let length = emitter.b.index(count);
            let next = emitter.b.add(first, length);
            Some(RowsAhead { axis: self.rows.axis, points: self.consecutive(emitter, next, count)? })
        } else {
            None
        };
        walk_columns(emitter, self.columns, self.range, &points, ahead.as_ref(), self.columns.tile)
    }

    /// The point of a row.
    fn at(&self, emitter: &mut Emitter, row: ValueId) -> Emitted<Point> {
        let Some(over) = self.rows.over else { return Ok(self.point.with(self.rows.axis, row)) };
        let extent = emitter.dimension(emitter.analysis.extent(self.rows.axis))?;
        let (outer, inner) = division_by_count(&mut emitter.b, row, extent);
        Ok(self.point.with(over, outer).with(self.rows.axis, inner))
    }

    /// The points of `count` consecutive rows.
    fn consecutive(&self, emitter: &mut Emitter, first: ValueId, count: i64) -> Emitted<Vec<Point>> {
        let row = |row| {
            let row = emitter.b.index(row);
            let row = emitter.b.add(first, row);
            self.at(emitter, row)
        };
        (0..count).map(row).collect()
    }

    /// A tile, and behind the last one the rows that are left over together with some that were computed already.
    fn with_overlap(
        &self,
        emitter: &mut Emitter,
        first: ValueId,
        count: ValueId,
        last: ValueId,
    ) -> Emitted<()> {
        let tile = emitter.b.index(self.rows.tile);
        // Only behind the last block are there fewer than the rows of another one.
        let (next, after) = (emitter.b.add(first, tile), emitter.b.sub(last, first));
        let is_last = emitter.b.compare(Condition::Lt, after, tile);
        let end = emitter.b.select(is_last, count, next);
        let each = emitter.b.open_loop(&[], false);
        let begin = emitter.b.binary(BinaryOp::Min, each.counter, last);
        self.tile(emitter, begin, self.rows.tile)?;
        emitter.b.close_loop(each, first, end, self.rows.tile, &[]);
        Ok(())
    }

    /// The rows from `begin` on where those are fewer than a tile: several together, the last one as often as rows
    /// are missing, or one alone.
    fn few(&self, emitter: &mut Emitter, begin: ValueId, count: ValueId) -> Emitted<()> {
        let left = emitter.b.sub(count, begin);
        let most = self.rows.tile - 1;
        let is_end = emitter.b.compare_integer(Condition::Le, left, most);
        if most > 1 {
            let several = emitter.b.compare_integer(Condition::Ge, left, 2);
            let several = emitter.b.and(is_end, several);
            emitter.b.open_if();
            let one = emitter.b.index(1);
            let last = emitter.b.sub(count, one);
            let mut points = self.consecutive(emitter, begin, 2)?;
            for row in 2..most {
                let row = emitter.b.index(row);
                let row = emitter.b.add(begin, row);
                let row = emitter.b.binary(BinaryOp::Min, row, last);
                points.push(self.at(emitter, row)?);
            }
            walk_columns(emitter, self.columns, self.range, &points, None, self.columns.tile)?;
            emitter.b.close_if(several);
        }
        let single = emitter.b.compare_integer(Condition::Eq, left, 1);
        emitter.b.open_if();
        self.one_by_one(emitter, begin, count)?;
        emitter.b.close_if(single);
        Ok(())
    }

    fn one_by_one(&self, emitter: &mut Emitter, begin: ValueId, end: ValueId) -> Emitted<()> {
        let each = emitter.b.open_loop(&[], false);
        let row = self.at(emitter, each.counter)?;
        let vectors = self.columns.single_tile;
        walk_columns(emitter, self.columns, self.range, std::slice::from_ref(&row), None, vectors)?;
        emitter.b.close_loop(each, begin, end, 1, &[]);
        Ok(())
    }
}

/// Tiles of `tile` vectors, then of one, then scalars. The rows `ahead` follow.
fn walk_columns(
    emitter: &mut Emitter,
    columns: &Columns,
    range: &Range,
    rows: &[Point],
    ahead: Option<&RowsAhead>,
    tile: i64,
) -> Emitted<()> {
    let lanes = columns.vector.as_ref().map_or(1, |v| i64::from(v.lanes));
    let mut sizes = vec![lanes * tile];
    if tile > 1 && lanes > 1 {
        sizes.push(lanes);
    }
    if sizes.last() != Some(&1) {
        sizes.push(1);
    }
    let (mut begin, mut done) = (range.begin, 0);
    for size in sizes {
        if range.count == Some(done) {
            break;
        }
        let end = if size == 1 {
            range.end
        } else {
            let length = emitter.b.sub(range.end, begin);
            let mask = emitter.b.index(-size);
            let whole = match range.count {
                Some(count) => emitter.b.index((count - done) / size * size),
                None => emitter.b.and(length, mask),
            };
            emitter.b.add(begin, whole)
        };
        if range.count.is_none_or(|count| (count - done) / size > 0) {
            let open = emitter.b.open_loop(&[], false);
            let first = open.counter;
            one_tile(emitter, columns, rows, ahead, first, size)?;
            emitter.b.close_loop(open, begin, end, size, &[]);
        }
        if range.divisor % size == 0 {
            break;
        }
        begin = end;
        done += range.count.map_or(0, |count| (count - done) / size * size);
    }
    Ok(())
}

/// A tile of `size` columns from `first` on: its reductions together, then its stores. Meanwhile the memory comes closer
/// that the same columns of the rows `ahead` will be computed from.
fn one_tile(
    emitter: &mut Emitter,
    columns: &Columns,
    rows: &[Point],
    ahead: Option<&RowsAhead>,
    first: ValueId,
    size: i64,
) -> Emitted<()> {
    let points = tile_points(emitter, columns, rows, first, size);
    if let Some(ahead) = ahead {
        for point in tile_points(emitter, columns, &ahead.points, first, size) {
            emitter.prefetch(&point, ahead.axis)?;
        }
    }
    emitter.tile(&points, rows.len())
}

fn tile_points(
    emitter: &mut Emitter,
    columns: &Columns,
    rows: &[Point],
    first: ValueId,
    size: i64,
) -> Vec<Point> {
    let vector = columns.vector.as_ref().filter(|v| size >= i64::from(v.lanes));
    let step = vector.map_or(1, |v| i64::from(v.lanes));
    let mut points = Vec::new();
    for column in 0..size / step {
        let offset = emitter.b.index(column * step);
        let value = emitter.b.add(first, offset);
        for row in rows {
            points.push(match vector {
                Some(classes) => row.with_lanes(classes, value),
                None => row.with(columns.axis, value),
            });
        }
    }
    points
}
