//! The schedule for GPUs of large contractions: sums of products of an element of the rows and one of the columns.
//!
//! A block computes a tile of rows by columns, a thread of it a few quads of rows by a few quads of columns. In steps
//! along the summed axis, the block stages the factors of its tile in shared memory, where each serves 16 threads, and
//! every thread adds products to sums in its registers. Meanwhile the factors of the next step are on their way from
//! memory, through registers to the other half of the staged arrays: one barrier a step.
//!
//! A multiprocessor starts 128 fused multiply-adds and reads 128 bytes of shared memory a cycle (CUDA programming
//! guide). The four loads of a warp whose threads have 8 by 8 sums take 4 to 8 cycles of the memory, its 64
//! multiply-adds 16 of the multiprocessor: arithmetic is the limit. With 4 by 4 sums both take about the same.
//!
//! | file | decides |
//! |---|---|
//! | `product.rs` | which kernels are contractions, what their rows and columns are |
//! | `tile.rs` | the sizes of a tile |
//! | `staging.rs` | how factors get to shared memory |

mod product;
mod staging;
mod tile;

use std::rc::Rc;

use fuse_ir::expr::Dim;
use fuse_ir::kernel::ElementId;

use super::analysis::Analysis;
use super::coordinates::coordinate;
use super::emitter::{Emitted, Emitter, Point};
use super::vectors::{ANY_WIDTH, Classes};
use crate::kernel_ir::{Condition, Function, LaneType, Mapping, Operation, Type, ValueId};
pub(super) use product::assumed;
use product::{Contraction, Side, is_multiple};
use staging::{Quad, Staged};
use tile::{ACROSS, THREADS, Tile};

/// The tiled schedule of a kernel that is a large contraction, for blocks of `threads`; `None` for other kernels and
/// blocks of another size.
pub(super) fn schedule(analysis: &Analysis, threads: u32) -> Emitted<Option<Function>> {
    let contraction = Contraction::of(analysis).filter(|_| i64::from(threads) == THREADS);
    let Some(contraction) = contraction else { return Ok(None) };
    let Some(tile) = Tile::of(&contraction) else { return Ok(None) };
    let mut emitter = Emitter::new(analysis, None, 1);
    let block = Block::new(&mut emitter, &contraction, tile)?;
    block.first_step(&mut emitter)?;
    let sums = block.sums(&mut emitter)?;
    block.results(&mut emitter, &sums)?;
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    let (name, work) = (analysis.kernel.name.clone(), tile.blocks(&contraction));
    Ok(Some(emitter.b.finish(name, buffers, symbols, work, Mapping::Blocks { threads })))
}

/// What a block of threads computes.
struct Block<'c> {
    contraction: &'c Contraction,
    tile: Tile,
    /// Has the axes that rows and columns share.
    point: Point,
    rows: Extent,
    columns: Extent,
    depth: Extent,
    /// The factors of the rows, and those of the columns.
    left: Vec<Staged>,
    right: Vec<Staged>,
}

/// The rows or columns of a block, or the summed axis.
#[derive(Clone, Copy)]
struct Extent {
    /// The first one.
    origin: ValueId,
    /// How many there are in all.
    end: ValueId,
    /// Where those of the thread begin, relative to the first.
    of_thread: ValueId,
}

impl<'c> Block<'c> {
    fn new(emitter: &mut Emitter, contraction: &'c Contraction, tile: Tile) -> Emitted<Self> {
        let index = Type::scalar(LaneType::I64);
        let mut rest = emitter.b.operation(index, Operation::Block);
        let thread = emitter.b.operation(index, Operation::Thread);
        let mut point = emitter.origin();
        let rows = tile_origin(emitter, &mut rest, &contraction.rows, tile.block_rows(), false)?;
        let is_last = contraction.batch.is_empty();
        let columns = tile_origin(emitter, &mut rest, &contraction.columns, tile.block_columns(), is_last)?;
        for (i, axis) in contraction.batch.iter().enumerate() {
            let extent = emitter.analysis.extent(*axis).clone();
            let is_last = i + 1 == contraction.batch.len();
            point = point.with(*axis, coordinate(emitter, &mut rest, &extent, is_last)?);
        }
        // A warp has 4 quads of rows by 8 of columns: what its threads load of a column's factors is 128 bytes.
        let row = bits(emitter, thread, 3, 4);
        let (low, high) = (bits(emitter, thread, 0, 3), bits(emitter, thread, 7, 1));
        let high = emitter.b.shift_left(high, 3);
        let column = emitter.b.add(high, low);
        let zero = emitter.b.index(0);
        let extent = |emitter: &mut Emitter, origin, dim: &Dim, number, width: i64| {
            let width = emitter.b.index(width);
            let of_thread = emitter.b.mul(number, width);
            Ok(Extent { origin, end: emitter.dimension(dim)?, of_thread })
        };
        let rows = extent(emitter, rows, &contraction.rows.extent, row, tile.row_width())?;
        let columns = extent(emitter, columns, &contraction.columns.extent, column, tile.column_width())?;
        let depth = extent(emitter, zero, &contraction.depth, zero, 1)?;
        let stage = |emitter: &mut Emitter, side, extent, factors: &[_]| -> Vec<Staged> {
            let factors = factors.iter();
            factors.map(|f| Staged::new(emitter, contraction, *f, side, extent, tile.step())).collect()
        };
        let left = stage(emitter, &contraction.rows, tile.block_rows(), &contraction.left);
        let right = stage(emitter, &contraction.columns, tile.block_columns(), &contraction.right);
        Ok(Block { contraction, tile, point, rows, columns, depth, left, right })
    }

    /// Fills the first half of the staged arrays, if anything is summed.
    fn first_step(&self, emitter: &mut Emitter) -> Emitted<()> {
        let zero = emitter.b.index(0);
        let any = emitter.b.compare(Condition::Lt, zero, self.depth.end);
        emitter.b.open_if();
        let fetched = self.fetch(emitter, zero)?;
        self.put(emitter, zero, &fetched);
        emitter.b.close_if(any);
        Ok(())
    }

    /// What this thread stages of each factor in the step that begins at `depth`, from memory.
    fn fetch(&self, emitter: &mut Emitter, depth: ValueId) -> Emitted<Vec<Vec<Quad>>> {
        let of_side = |emitter: &mut Emitter, staged: &Staged, side: &Side, extent: Extent| {
            staged.fetch(emitter, &self.point, side, extent, Extent { origin: depth, ..self.depth })
        };
        let mut fetched = Vec::new();
        for staged in &self.left {
            fetched.push(of_side(emitter, staged, &self.contraction.rows, self.rows)?);
        }
        for staged in &self.right {
            fetched.push(of_side(emitter, staged, &self.contraction.columns, self.columns)?);
        }
        Ok(fetched)
    }

    /// Puts what was fetched into the half of the staged arrays that begins at step position `half`.
    fn put(&self, emitter: &mut Emitter, half: ValueId, fetched: &[Vec<Quad>]) {
        for (staged, quads) in self.left.iter().chain(&self.right).zip(fetched) {
            staged.put(emitter, half, self.depth.end, quads);
        }
    }

    /// The loop along the summed axis. Returns the sums of the thread by member, row and column.
    fn sums(&self, emitter: &mut Emitter) -> Emitted<Vec<ValueId>> {
        let step = self.tile.step();
        let nothing = emitter.b.number(Type::scalar(LaneType::F32), 0.0);
        let count = self.contraction.members.len() as i64 * self.tile.rows * self.tile.columns;
        let open = emitter.b.open_loop(&vec![nothing; count as usize], false);
        emitter.guard(self.contraction.depth.symbols());
        let outside = emitter.b.depth() - 1;
        // What the last step stored is there, and what it loaded may be overwritten.
        emitter.b.meet();
        let distance = emitter.b.index(step);
        let next = emitter.b.add(open.counter, distance);
        // Behind the end the last factors are fetched again, which are in bounds, and never used.
        let fetched = self.fetch(emitter, next)?;
        let half = emitter.b.and(open.counter, distance);
        let mut sums = open.current.clone();
        for depth in 0..step {
            self.add_products(emitter, half, depth, &mut sums);
        }
        let other_half = emitter.b.and(next, distance);
        self.put(emitter, other_half, &fetched);
        emitter.set_guards_aside(outside);
        let zero = emitter.b.index(0);
        Ok(emitter.b.close_loop(open, zero, self.depth.end, step, &sums))
    }

    /// Adds the products at one position of the step.
    fn add_products(&self, emitter: &mut Emitter, half: ValueId, depth: i64, sums: &mut [ValueId]) {
        let Tile { rows, columns } = self.tile;
        let mut load = |factors: &[Staged], extent: Extent, width, count| -> Vec<Vec<ValueId>> {
            let load = |s: &Staged| s.load(emitter, half, depth, extent.of_thread, width, count / width);
            factors.iter().map(load).collect()
        };
        let left = load(&self.left, self.rows, self.tile.row_width(), rows);
        let right = load(&self.right, self.columns, self.tile.column_width(), columns);
        let tiles = sums.chunks_mut((rows * columns) as usize);
        for (member, tile) in self.contraction.members.iter().zip(tiles) {
            for (row, x) in tile.chunks_mut(columns as usize).zip(&left[member.left]) {
                for (sum, y) in row.iter_mut().zip(&right[member.right]) {
                    *sum = emitter.b.fma(*x, *y, *sum);
                }
            }
        }
    }

    /// Computes and stores what follows from the sums of the thread.
    fn results(&self, emitter: &mut Emitter, sums: &[ValueId]) -> Emitted<()> {
        let Tile { columns, .. } = self.tile;
        let width = self.tile.column_width();
        let vector = self.column_vectors(emitter.analysis).map(Rc::new);
        let lanes = if vector.is_some() { width } else { 1 };
        let is_whole = is_multiple(&self.contraction.columns.extent, self.tile.block_columns());
        for first in (0..columns).step_by(lanes as usize) {
            let column = position(emitter, self.columns, first, width);
            let inside = emitter.b.compare(Condition::Lt, column, self.columns.end);
            if !is_whole {
                emitter.b.open_if();
            }
            let place =
                self.contraction.columns.bind(emitter, self.point.clone(), column, vector.as_ref())?;
            self.column_results(emitter, &place, first, lanes, sums)?;
            if !is_whole {
                emitter.b.close_if(inside);
            }
        }
        Ok(())
    }

    /// The same at some neighbouring columns, which the point `place` has.
    fn column_results(
        &self,
        emitter: &mut Emitter,
        place: &Point,
        first: i64,
        lanes: i64,
        sums: &[ValueId],
    ) -> Emitted<()> {
        let Tile { rows, columns } = self.tile;
        let is_whole = is_multiple(&self.contraction.rows.extent, self.tile.block_rows());
        for number in 0..rows {
            let row = position(emitter, self.rows, number, self.tile.row_width());
            let inside = emitter.b.compare(Condition::Lt, row, self.rows.end);
            if !is_whole {
                emitter.b.open_if();
            }
            let point = self.contraction.rows.bind(emitter, place.clone(), row, None)?;
            for (i, member) in (0..).zip(&self.contraction.members) {
                let at = ((i * rows + number) * columns + first) as usize;
                remember(emitter, member.reduction, &point, &sums[at..at + lanes as usize]);
            }
            for part in &emitter.analysis.parts {
                emitter.stores(std::slice::from_ref(&point), part)?;
            }
            if !is_whole {
                emitter.b.close_if(inside);
            }
        }
        Ok(())
    }

    /// The classes along the columns, where neighbouring ones can be stored together.
    fn column_vectors(&self, analysis: &Analysis) -> Option<Classes> {
        let (width, columns) = (self.tile.column_width(), &self.contraction.columns);
        let axis = columns.innermost().filter(|a| is_multiple(analysis.extent(*a), width))?;
        let lanes = u8::try_from(width).ok()?;
        let is_sum = |e| self.contraction.members.iter().any(|m| m.reduction == e);
        Some(Classes::with_staged(analysis, vec![axis], lanes, ANY_WIDTH, &is_sum))
    }
}

/// Makes sums known as a reduction's values at a point, and at each of its lanes, where an element that is computed
/// lane by lane needs them.
fn remember(emitter: &mut Emitter, reduction: ElementId, point: &Point, sums: &[ValueId]) {
    for (lane, sum) in emitter.lanes(point).iter().zip(sums) {
        emitter.remember(reduction, lane, *sum);
    }
    let vector = emitter.b.pack(sums);
    emitter.remember(reduction, point, vector);
}

/// The row or column of a thread with that number, which come in runs of `width`.
fn position(emitter: &mut Emitter, extent: Extent, number: i64, width: i64) -> ValueId {
    let first = emitter.b.add(extent.origin, extent.of_thread);
    let offset = emitter.b.index(number / width * width * ACROSS + number % width);
    emitter.b.add(first, offset)
}

/// Takes the number of a block's tile of rows or columns off a block number; returns the first of them.
fn tile_origin(
    emitter: &mut Emitter,
    rest: &mut ValueId,
    side: &Side,
    size: i64,
    is_last: bool,
) -> Emitted<ValueId> {
    let tiles = side.extent.ceil_div(&Dim::constant(size));
    let number = coordinate(emitter, rest, &tiles, is_last)?;
    let size = emitter.b.index(size);
    Ok(emitter.b.mul(number, size))
}

/// Some bits of a number that is not negative.
fn bits(emitter: &mut Emitter, number: ValueId, first: i64, count: i64) -> ValueId {
    let moved = if first == 0 { number } else { emitter.b.shift_right_logical(number, first) };
    let mask = emitter.b.index((1 << count) - 1);
    emitter.b.and(moved, mask)
}
