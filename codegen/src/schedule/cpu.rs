//! The schedule for CPUs.
//!
//! The innermost axis is cut into chunks; a work item is one chunk at one point of the outer axes, or at a
//! few neighbouring points of one of them (the rows) where reductions load the same operands for all rows.
//! A chunk is walked in tiles of one or more vectors by the item's rows; all reductions of a tile run in one
//! loop per group. Scalar code does what columns are left over; rows that are left over are computed together
//! with some that were computed already, which costs less than one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fuse_ir::ScalarOp;
use fuse_ir::expr::{Axis, Dim};
use fuse_ir::kernel::{Element, ElementId};

use super::analysis::{Analysis, axis_bit};
use super::emitter::{Emitted, Emitter, INTERLEAVED_POINTS, Point, floor_division};
use super::reduction::MAX_ACCUMULATORS;
use super::vectors::{Class, Classes};
use crate::decompose::register_type;
use crate::kernel_ir::{
    BinaryOp, Condition, Function, LaneType, Mapping, Operation, ParameterId, Type, ValueId,
};

/// Points of a chunk where each point is a few operations.
const ELEMENTWISE_CHUNK: i64 = 1024;
/// Points of a chunk where each point is a reduction.
const REDUCTION_CHUNK: i64 = 16;
/// The vectors that a tile may have: up to what hides the latency of a fused multiply-add where each carries the
/// state of a recurrence; powers of two, so that whole tiles are counted with a mask.
const VECTORS: [i64; 3] = [1, 2, 4];
/// Instructions of a point from which on the next point's are too far behind for a core to run both at once.
const LONG_POINT: u32 = 60;
/// Rows of a tile at most.
const MOST_ROWS: i64 = 4;
/// Bytes of the rows of a group, which all columns use while they are in the second-level cache.
const GROUP_BYTES: i64 = 256 << 10;
/// Rows longer than this are worth grouping.
const LONG_ROW_BYTES: i64 = 512;

/// Reductions of one lane that keep the machine busy, so that a loop over the lanes costs nothing.
const LANE_LOOP_CHAINS: i64 = 4;

/// How a kernel's space is walked.
struct Tiling {
    /// Each coordinate is part of the work item.
    outer: Vec<Axis>,
    /// The axis whose neighbouring points share operands.
    rows: Option<Rows>,
    /// The innermost axis, if the space has any with more than one point.
    columns: Option<Columns>,
}

#[derive(Clone, Copy)]
struct Rows {
    axis: Axis,
    /// Rows of a tile, of which an item has one block.
    tile: i64,
    /// Blocks that all columns go through before any goes on to the next, if the rows are long.
    group: Option<i64>,
}

struct Columns {
    axis: Axis,
    /// Points a work item; `None` for all.
    chunk: Option<i64>,
    /// Vectors along the axis, if it is vectorised.
    vector: Option<Rc<Classes>>,
    /// Vectors (or scalars) of a tile of several rows, and of a tile of one.
    tile: i64,
    single_tile: i64,
}

/// See [`super::schedule`].
pub(super) fn schedule(analysis: &Analysis, vector_bits: u32) -> Emitted<Function> {
    let tiling = Tiling::new(analysis, vector_bits);
    let work = tiling.work(analysis);
    let mut emitter = Emitter::new(analysis, Some(vector_bits));
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

impl Tiling {
    fn new(analysis: &Analysis, vector_bits: u32) -> Tiling {
        let mut outer = analysis.space_axes();
        let Some(axis) = outer.pop() else { return Tiling { outer, rows: None, columns: None } };
        let hot: Vec<ElementId> = analysis
            .groups
            .iter()
            .filter(|g| !g.nested && g.free & axis_bit(axis) != 0)
            .flat_map(|g| g.members.iter().copied())
            .collect();
        let hoisted = analysis.groups.iter().any(|g| !g.nested && g.free & axis_bit(axis) == 0);
        let mut vector = vectorised(analysis, axis, !hot.is_empty(), vector_bits);
        // The reductions that one loop carries for each point.
        let members = analysis
            .groups
            .iter()
            .filter(|g| !g.nested && g.free & axis_bit(axis) != 0)
            .map(|g| g.members.len())
            .max()
            .unwrap_or(0);
        let states = analysis.states();
        let by_column = vector.as_ref().is_some_and(|v| hot.iter().any(|h| v.of(*h) == Class::Vector));
        let lanes = vector.as_ref().map_or(1, |v| i64::from(v.lanes));
        let extent = analysis.extent(axis).as_constant();
        let fits = |t: &i64| extent.is_none_or(|n| n % (lanes * t) == 0 || n >= 4 * lanes * t);
        let most_vectors = if states > 0 {
            // Each state of each vector is carried by the one loop that there is.
            MAX_ACCUMULATORS as i64 / states as i64
        } else if by_column {
            MAX_ACCUMULATORS as i64
        } else if hot.is_empty() && vector.is_some() && operations(analysis, axis) >= LONG_POINT {
            INTERLEAVED_POINTS as i64
        } else {
            1
        };
        let vectors: Vec<i64> =
            VECTORS.into_iter().filter(|t| *t == 1 || *t <= most_vectors && fits(t)).collect();
        let shape = |row_axis: Option<Axis>| {
            let most = row_axis.map_or(1, |a| analysis.extent(a).as_constant().unwrap_or(MOST_ROWS));
            if states > 0 || hot.is_empty() {
                (vectors.last().copied().unwrap_or(1), 1)
            } else if by_column || row_axis.is_none() {
                tile_shape(members as i64, &vectors, most.min(MOST_ROWS))
            } else {
                (1, rows_by_lane(members).min(most))
            }
        };
        let row_axis = row_axis(analysis, &outer, axis, &hot);
        let ((tile, rows), (single_tile, _)) = (shape(row_axis), shape(None));
        let rows = row_axis.filter(|_| rows > 1).map(|axis| {
            let group = group(analysis, &hot, axis, rows);
            Rows { axis, tile: rows, group }
        });
        let chains = members as i64 * rows.map_or(1, |r| r.tile);
        if let Some(vector) = vector.as_mut().filter(|_| chains >= LANE_LOOP_CHAINS && states == 0) {
            vector.loop_over_lanes(analysis);
        }
        let vector = vector.map(Rc::new);
        let tile_columns = lanes * tile.max(single_tile);
        let chunk = if states > 0 {
            // All of the axis of the recurrences is in every item: a tile is work enough.
            chunk(extent, 1, tile_columns)
        } else if hoisted {
            // What is computed once a row is not to be computed once a chunk.
            None
        } else if hot.is_empty() {
            chunk(extent, ELEMENTWISE_CHUNK, tile_columns)
        } else {
            chunk(extent, REDUCTION_CHUNK, tile_columns)
        };
        outer.retain(|a| rows.is_none_or(|r| r.axis != *a));
        let columns = Columns { axis, chunk, vector, tile, single_tile };
        Tiling { outer, rows, columns: Some(columns) }
    }

    /// The number of work items.
    fn work(&self, analysis: &Analysis) -> Dim {
        let outer = self.outer.iter().map(|a| analysis.extent(*a).clone());
        let chunks = self.columns.as_ref().and_then(|c| Some(chunks(analysis.extent(c.axis), c.chunk?)));
        let rows = self.rows.map(|r| row_blocks(analysis.extent(r.axis), r.tile));
        let mut work = outer.chain(chunks).chain(rows).fold(Dim::constant(1), |a, b| a * b);
        if let Some(c) = self.columns.as_ref().filter(|c| c.chunk.is_none()) {
            // A row is one item, but no item may exist where rows have no points.
            let extent = analysis.extent(c.axis);
            if extent.as_constant().is_none_or(|n| n < 1) {
                work = work * extent.minimum(&Dim::constant(1));
            }
        }
        work
    }
}

fn chunks(extent: &Dim, chunk: i64) -> Dim {
    extent.ceil_div(&Dim::constant(chunk))
}

/// The whole blocks of `rows` rows, or one that is not whole. Rows left over go with the last block.
fn row_blocks(extent: &Dim, rows: i64) -> Dim {
    extent.floor_div(&Dim::constant(rows)).maximum(&extent.minimum(&Dim::constant(1)))
}

/// The vectors and rows of a tile with so many reductions a point: as many accumulators as one loop has, in the
/// shape that loads least for each multiply-add. A step loads a vector for each reduction and each vector of
/// columns, and a scalar for each row.
fn tile_shape(reductions: i64, vectors: &[i64], most_rows: i64) -> (i64, i64) {
    let shapes = vectors.iter().flat_map(|v| (1..=most_rows).map(move |r| (*v, r)));
    let fits = |(v, r): &(i64, i64)| reductions * v * r <= MAX_ACCUMULATORS as i64;
    let loads = |(v, r): (i64, i64)| (reductions * v + r) as f64 / (reductions * v * r) as f64;
    let best = shapes.filter(fits).min_by(|a, b| loads(*a).total_cmp(&loads(*b)).then(a.0.cmp(&b.0)));
    best.unwrap_or((1, 1))
}

/// The rows of a tile whose reductions are computed lane by lane.
fn rows_by_lane(reductions: usize) -> i64 {
    match reductions {
        0..=2 => 4,
        3..=6 => 2,
        _ => 1,
    }
}

/// The points of a chunk: near `target`, a multiple of `multiple`, dividing a known extent where possible;
/// `None` for all in one.
fn chunk(extent: Option<i64>, target: i64, multiple: i64) -> Option<i64> {
    let target = target.max(multiple) / multiple * multiple;
    match extent {
        Some(n) if n <= target => None,
        Some(n) => {
            let divides = |c: &i64| n % c == 0;
            let near =
                (target / 2 / multiple..=target * 2 / multiple).map(|c| c * multiple).filter(|c| *c > 0);
            Some(near.filter(divides).min_by_key(|c| (c - target).abs()).unwrap_or(target))
        }
        None => Some(target),
    }
}

/// Roughly the instructions of a point outside reductions.
fn operations(analysis: &Analysis, axis: Axis) -> u32 {
    let at_each = |id: &ElementId| {
        let free = analysis.free[id.index()];
        analysis.needed[id.index()] && free & axis_bit(axis) != 0 && free >> analysis.kernel.rank == 0
    };
    analysis.ids().filter(at_each).map(|id| cost(analysis.element(id))).sum()
}

/// The classes along the innermost axis, if vectors pay.
fn vectorised(analysis: &Analysis, axis: Axis, reduces: bool, vector_bits: u32) -> Option<Classes> {
    // As many lanes as the widest float or integer that is stored allows; others go lane by lane.
    let bits = |lane| match lane {
        LaneType::F32 | LaneType::I32 | LaneType::Bool => 32,
        LaneType::F64 | LaneType::I64 => 64,
    };
    let finals = analysis.finals.iter().map(|f| &f.access);
    let mut stored = analysis.stores.iter().map(|s| &s.access).chain(finals);
    let narrow = stored.any(|access| bits(register_type(access.dtype)) == 32);
    let lanes = if narrow { vector_bits / 32 } else { vector_bits / 64 };
    let classes = Classes::new(analysis, vec![axis], u8::try_from(lanes).ok()?, vector_bits);
    // A state is one vector, or one scalar.
    if analysis.recurrences.iter().any(|(e, _)| classes.of(*e) == Class::Lanewise) {
        return None;
    }
    let (mut vectors, mut scalars) = (0, 0);
    for id in analysis.ids().filter(|id| analysis.needed[id.index()]) {
        let free = analysis.free[id.index()];
        let in_reduction = free >> analysis.kernel.rank != 0;
        if free & axis_bit(axis) == 0 || in_reduction {
            continue;
        }
        match classes.of(id) {
            Class::Uniform => {}
            Class::Vector | Class::LaneLoop => vectors += cost(analysis.element(id)),
            Class::Lanewise => scalars += cost(analysis.element(id)),
        }
    }
    let pays = vectors >= scalars && (vectors > 0 || reduces) && lanes > 1;
    (pays && analysis.extent(axis).as_constant().is_none_or(|n| n >= i64::from(lanes))).then_some(classes)
}

/// A rough number of instructions.
fn cost(element: &Element) -> u32 {
    match element {
        Element::Constant(_) | Element::Reduce { .. } => 0,
        Element::Recurrence { .. } => 1,
        Element::Load { .. } | Element::Index(_) | Element::Cast(_) => 1,
        Element::Scalar(op, _) => match op {
            ScalarOp::Exp
            | ScalarOp::Exp2
            | ScalarOp::Expm1
            | ScalarOp::Log
            | ScalarOp::Log2
            | ScalarOp::Log1p
            | ScalarOp::Sin
            | ScalarOp::Cos
            | ScalarOp::Tanh
            | ScalarOp::Sigmoid
            | ScalarOp::Softplus
            | ScalarOp::Erf
            | ScalarOp::Pow => 20,
            ScalarOp::Div | ScalarOp::Mod | ScalarOp::Rem | ScalarOp::Sqrt => 4,
            ScalarOp::Rsqrt | ScalarOp::Reciprocal => 4,
            ScalarOp::Neg
            | ScalarOp::Abs
            | ScalarOp::Sign
            | ScalarOp::Floor
            | ScalarOp::Ceil
            | ScalarOp::Round
            | ScalarOp::Trunc
            | ScalarOp::Relu
            | ScalarOp::Not
            | ScalarOp::IsNan
            | ScalarOp::Add
            | ScalarOp::Sub
            | ScalarOp::Mul
            | ScalarOp::Min
            | ScalarOp::Max
            | ScalarOp::Eq
            | ScalarOp::Ne
            | ScalarOp::Lt
            | ScalarOp::Le
            | ScalarOp::Gt
            | ScalarOp::Ge
            | ScalarOp::And
            | ScalarOp::Or
            | ScalarOp::Xor
            | ScalarOp::Select
            | ScalarOp::Clamp => 1,
        },
    }
}

/// The innermost outer axis with neighbouring points that share loads of the reductions.
fn row_axis(analysis: &Analysis, outer: &[Axis], columns: Axis, hot: &[ElementId]) -> Option<Axis> {
    let in_bodies = bodies(analysis, hot);
    let shares = |row: &Axis| {
        let loads = in_bodies.iter().filter(|e| analysis.loads.contains_key(e));
        let varies = loads.clone().any(|e| analysis.free[e.index()] & axis_bit(*row) != 0);
        let reused = loads.clone().any(|e| {
            let free = analysis.free[e.index()];
            free & axis_bit(*row) == 0 && free & axis_bit(columns) != 0
        });
        varies && reused
    };
    outer.iter().rev().copied().find(shares)
}

/// The blocks of `tile` rows whose operands fit the second-level cache, if they are long.
fn group(analysis: &Analysis, hot: &[ElementId], rows: Axis, tile: i64) -> Option<i64> {
    let bound: BTreeSet<Vec<Axis>> = hot
        .iter()
        .filter_map(|id| match analysis.element(*id) {
            Element::Reduce { axes, .. } => Some(axes.to_vec()),
            _ => None,
        })
        .collect();
    // Loads of equal reductions are of the same elements.
    let mut bytes: BTreeMap<ParameterId, i64> = BTreeMap::new();
    for id in bodies(analysis, hot) {
        let Some(access) = analysis.loads.get(&id).filter(|a| a.position.uses_axis(rows)) else { continue };
        let reduced = bound.iter().find(|axes| axes.iter().any(|a| access.position.uses_axis(*a)))?;
        let elements = reduced.iter().map(|a| analysis.extent(*a).as_constant()).product::<Option<i64>>()?;
        bytes.insert(access.buffer, elements.checked_mul(access.dtype.size() as i64)?);
    }
    let row: i64 = bytes.values().sum();
    (row > LONG_ROW_BYTES).then(|| (GROUP_BYTES / (row * tile)).max(1))
}

/// Everything that reductions are computed from.
fn bodies(analysis: &Analysis, reductions: &[ElementId]) -> Vec<ElementId> {
    let mut inside = vec![false; analysis.kernel.elements.len()];
    for id in reductions {
        for operand in analysis.element(*id).operands() {
            inside[operand.index()] = true;
        }
    }
    for id in analysis.ids().rev() {
        if inside[id.index()] {
            for operand in analysis.element(id).operands() {
                inside[operand.index()] = true;
            }
        }
    }
    analysis.ids().filter(|id| inside[id.index()]).collect()
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
                let blocks = row_blocks(analysis.extent(rows.axis), rows.tile);
                coordinate(emitter, &mut rest, &blocks, remaining == 0)?
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
    }
    let Some(columns) = &tiling.columns else { return emitter.tile(std::slice::from_ref(&point), 1) };
    let range = column_range(emitter, columns, chunk_number)?;
    let Some((rows, block)) = tiling.rows.zip(row_block) else {
        return walk_columns(emitter, columns, &range, std::slice::from_ref(&point), columns.single_tile);
    };
    walk_rows(emitter, columns, &range, &point, &rows, block)
}

/// The row block of an item where blocks go in groups: all blocks of a group for the first columns, for the next
/// ones, and so on, then the next group. The last group has what blocks are left. Leaves the number of the columns.
fn grouped_block(
    emitter: &mut Emitter,
    tiling: &Tiling,
    rows: &Rows,
    group: i64,
    item: &mut ValueId,
) -> Emitted<ValueId> {
    let analysis = emitter.analysis;
    let others = tiling.outer.iter().map(|a| analysis.extent(*a).clone());
    let chunks = tiling.columns.as_ref().and_then(|c| Some(chunks(analysis.extent(c.axis), c.chunk?)));
    let others = others.chain(chunks).fold(Dim::constant(1), |a, b| a * b);
    let items = emitter.dimension(&(others * Dim::constant(group)))?;
    let (number, within) = floor_division(&mut emitter.b, *item, items, true);
    let size = emitter.b.index(group);
    let first = emitter.b.mul(number, size);
    let blocks = emitter.dimension(&row_blocks(analysis.extent(rows.axis), rows.tile))?;
    let left = emitter.b.sub(blocks, first);
    let size = emitter.b.binary(BinaryOp::Min, size, left);
    let (columns, block) = floor_division(&mut emitter.b, within, size, true);
    *item = columns;
    Ok(emitter.b.add(first, block))
}

/// Takes the fastest coordinate off an item number; the last one is all that is left.
fn coordinate(emitter: &mut Emitter, rest: &mut ValueId, count: &Dim, last: bool) -> Emitted<ValueId> {
    if last {
        return Ok(*rest);
    }
    let count = emitter.dimension(count)?;
    let (quotient, value) = floor_division(&mut emitter.b, *rest, count, true);
    *rest = quotient;
    Ok(value)
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

/// A block of rows in tiles, the last block with what rows are left over; rows that are fewer than a tile one by one.
fn walk_rows(
    emitter: &mut Emitter,
    columns: &Columns,
    range: &Range,
    point: &Point,
    rows: &Rows,
    block: ValueId,
) -> Emitted<()> {
    let Rows { axis, tile: rows, .. } = *rows;
    let extent = emitter.analysis.extent(axis);
    let rows_value = emitter.b.index(rows);
    let first = emitter.b.mul(block, rows_value);
    let tile = |emitter: &mut Emitter, first: ValueId| {
        let mut points = Vec::new();
        for row in 0..rows {
            let row = emitter.b.index(row);
            let value = emitter.b.add(first, row);
            points.push(point.with(axis, value));
        }
        walk_columns(emitter, columns, range, &points, columns.tile)
    };
    if extent.as_constant().is_some_and(|n| n % rows == 0) {
        return tile(emitter, first);
    }
    let count = emitter.dimension(extent)?;
    let last = emitter.b.sub(count, rows_value);
    let fills_tile = extent.as_constant().map(|n| n >= rows);
    let whole = emitter.b.compare_integer(Condition::Ge, last, 0);
    if fills_tile != Some(false) {
        emitter.b.open_if();
        // Only behind the last block are there fewer than the rows of another one.
        let (next, after) = (emitter.b.add(first, rows_value), emitter.b.sub(last, first));
        let is_last = emitter.b.compare(Condition::Lt, after, rows_value);
        let end = emitter.b.select(is_last, count, next);
        let each = emitter.b.open_loop(&[], false);
        let begin = emitter.b.binary(BinaryOp::Min, each.counter, last);
        tile(emitter, begin)?;
        emitter.b.close_loop(each, first, end, rows, &[]);
        emitter.b.close_if(whole);
    }
    if fills_tile != Some(true) {
        let partial = emitter.b.not(whole);
        emitter.b.open_if();
        let each = emitter.b.open_loop(&[], false);
        let single = point.with(axis, each.counter);
        walk_columns(emitter, columns, range, std::slice::from_ref(&single), columns.single_tile)?;
        let zero = emitter.b.index(0);
        emitter.b.close_loop(each, zero, count, 1, &[]);
        emitter.b.close_if(partial);
    }
    Ok(())
}

/// Tiles of `tile` vectors, then of one, then scalars.
fn walk_columns(
    emitter: &mut Emitter,
    columns: &Columns,
    range: &Range,
    rows: &[Point],
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
            one_tile(emitter, columns, rows, first, size)?;
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

/// A tile of `size` columns from `first` on: its reductions together, then its stores.
fn one_tile(
    emitter: &mut Emitter,
    columns: &Columns,
    rows: &[Point],
    first: ValueId,
    size: i64,
) -> Emitted<()> {
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
    emitter.tile(&points, rows.len())
}
