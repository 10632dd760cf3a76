//! The schedule for GPUs of large contractions: sums of products of an element of the rows and one of the columns.
//!
//! A block computes a tile of rows by columns. In steps along the summed axis it stages the factors of its tile in shared
//! memory, where each serves many threads, and every thread adds products to sums in its registers. Meanwhile the factors
//! of later steps are on their way from memory. What follows from the sums is computed and stored by the threads that have
//! them. Where there are fewer tiles than multiprocessors, the blocks of a cluster may share a tile ([`slices`]); whether
//! they do, and whether tiles serve few rows better than [`Split`](super::split::Split) does, the model of the device says
//! ([`cost`]).
//!
//! Tensor cores multiply 16-bit floats, and f32 where the user lets its factors be rounded ([`matrices`]); everything else
//! is fused multiply-adds in f32 ([`multiply_add`]).
//!
//! | file | decides |
//! |---|---|
//! | `product.rs` | which kernels are contractions, what their rows and columns are, what their factors can be |
//! | `multiply_add.rs` | sums of a thread, product by product |
//! | `tile.rs`, `quads.rs` | for those: the sizes of a tile, how factors get to shared memory |
//! | `matrices.rs` | sums of a warp, on tensor cores |
//! | `matrices/tile.rs`, `matrices/lines.rs` | for those: the sizes of a tile, how factors get to shared memory and from there |
//! | `plan.rs`, `cost.rs` | tiles or other forms, and how many blocks share a tile, by what each is expected to take |
//! | `slices.rs` | how blocks share a tile |
//! | `results.rs` | what is computed and stored of the sums |

mod cost;
mod matrices;
mod multiply_add;
mod plan;
pub(super) mod product;
mod quads;
mod results;
mod slices;
mod tile;

use fuse_ir::expr::Dim;

use super::analysis::Analysis;
use super::block::{bits as power, low_bits};
use super::coordinates::coordinate;
use super::emitter::{Emitted, Emitter, Point};
use crate::kernel_ir::{BinaryOp, Function, LaneType, Operation, Type, ValueId};
pub(super) use cost::SplitSums;
use plan::Form;
pub(super) use plan::Plan;
use product::{Contraction, Side};
pub(super) use product::{assumed, is_multiple};
use slices::Slices;

/// Threads of a block.
const THREADS: i64 = 256;

/// The schedule of a kernel by a plan for it.
pub(super) fn schedule(analysis: &Analysis, plan: &Plan) -> Emitted<Function> {
    let mut emitter = Emitter::new(analysis, None, 1);
    match plan.form {
        Form::Matrices(tile) => matrices::emit(&mut emitter, &plan.contraction, tile, plan.slices)?,
        Form::MultiplyAdd(tile) => multiply_add::emit(&mut emitter, &plan.contraction, tile, plan.slices)?,
    }
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    let name = analysis.kernel.name.clone();
    Ok(emitter.b.finish(name, buffers, symbols, plan.work(), plan.mapping()))
}

/// The axis along which elements that move together are neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Along {
    /// The summed one.
    Depth,
    /// The innermost one of the rows or columns.
    Side,
}

/// Rows, columns or positions along the summed axis, from one on.
#[derive(Clone, Copy)]
struct Span {
    /// The first one.
    origin: ValueId,
    /// How many there are in all.
    end: ValueId,
}

/// Where a block is.
struct Place {
    /// Has the axes that rows and columns share.
    point: Point,
    rows: Span,
    columns: Span,
    /// The summed axis, or the slice of the block.
    depth: Span,
    /// The number of the slice, where there are several.
    rank: Option<ValueId>,
}

impl Place {
    /// The place of this block among tiles of so many rows and columns: the rows fastest, so that blocks that run at the
    /// same time share factors. With several slices, of whole steps, neighbouring blocks have one tile.
    fn new(
        emitter: &mut Emitter,
        contraction: &Contraction,
        [block_rows, block_columns]: [i64; 2],
        (slices, step): (i64, i64),
    ) -> Emitted<Place> {
        let block = emitter.b.operation(Type::scalar(LaneType::I64), Operation::Block);
        let (mut rest, mut rank) = (block, None);
        if slices > 1 {
            rank = Some(low_bits(&mut emitter.b, block, slices));
            rest = emitter.b.shift_right_logical(block, power(slices));
        }
        let mut point = emitter.origin();
        let rows = tile_origin(emitter, &mut rest, &contraction.rows, block_rows, false)?;
        let is_last = contraction.batch.is_empty();
        let columns = tile_origin(emitter, &mut rest, &contraction.columns, block_columns, is_last)?;
        for (i, axis) in contraction.batch.iter().enumerate() {
            let extent = emitter.analysis.extent(*axis).clone();
            let is_last = i + 1 == contraction.batch.len();
            point = point.with(*axis, coordinate(emitter, &mut rest, &extent, is_last)?);
        }
        let span = |emitter: &mut Emitter, origin, dim: &Dim| -> Emitted<Span> {
            Ok(Span { origin, end: emitter.dimension(dim)? })
        };
        let rows = span(emitter, rows, &contraction.rows.extent)?;
        let columns = span(emitter, columns, &contraction.columns.extent)?;
        let zero = emitter.b.index(0);
        let mut depth = span(emitter, zero, &contraction.depth)?;
        if let Some(rank) = rank {
            let [step, slices] = [step, slices].map(Dim::constant);
            let length = contraction.depth.ceil_div(&step).ceil_div(&slices) * step;
            let length = emitter.dimension(&length)?;
            let begin = emitter.b.mul(rank, length);
            let end = emitter.b.add(begin, length);
            depth = Span { origin: begin, end: emitter.b.binary(BinaryOp::Min, end, depth.end) };
        }
        Ok(Place { point, rows, columns, depth, rank })
    }
}

/// The rows or columns that a thread has sums of: runs of neighbours.
#[derive(Clone, Copy)]
struct Share {
    /// Those of the block.
    block: Span,
    /// Where the first of the thread is, relative to the block's first.
    of_thread: ValueId,
    /// How many it has.
    count: i64,
    /// How many are neighbours.
    run: i64,
    /// From the first of a run to the first of the next.
    distance: i64,
    /// Whether every block has all of its rows or columns.
    is_whole: bool,
}

impl Share {
    /// The row or column of the thread with that number.
    fn position(&self, emitter: &mut Emitter, number: i64) -> ValueId {
        let first = emitter.b.add(self.block.origin, self.of_thread);
        let offset = emitter.b.index(number / self.run * self.distance + number % self.run);
        emitter.b.add(first, offset)
    }
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
    low_bits(&mut emitter.b, moved, 1 << count)
}

/// The first of `run` neighbours that all are below `end`.
fn clamped(emitter: &mut Emitter, first: ValueId, end: ValueId, run: i64) -> ValueId {
    let run = emitter.b.index(run);
    let last = emitter.b.sub(end, run);
    emitter.b.binary(BinaryOp::Min, first, last)
}

/// The number of this thread in its block.
fn thread(emitter: &mut Emitter) -> ValueId {
    emitter.b.operation(Type::scalar(LaneType::I64), Operation::Thread)
}
