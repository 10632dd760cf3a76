//! Tiles of which each thread sums up products in f32, one after the other.
//!
//! A thread has a few quads of rows by a few quads of columns. Each staged factor serves 16 threads. The factors of the
//! next step are on their way through registers to the other half of the staged arrays: one barrier a step.
//!
//! A multiprocessor starts 128 fused multiply-adds and reads 128 bytes of shared memory a cycle (CUDA programming
//! guide). The four loads of a warp whose threads have 8 by 8 sums take 4 to 8 cycles of the memory, its 64
//! multiply-adds 16 of the multiprocessor: arithmetic is the limit. With 4 by 4 sums both take about the same.

use super::super::emitter::{Emitted, Emitter};
use super::product::{Contraction, Side, is_multiple};
use super::quads::{Quad, Staged};
use super::results::Results;
use super::tile::{ACROSS, Tile};
use super::{Place, Share, Slices, Span, bits, thread};
use crate::kernel_ir::{Condition, LaneType, Type, ValueId};

/// The code of a block, where so many have a slice each of the summed axis.
pub(super) fn emit(emitter: &mut Emitter, contraction: &Contraction, tile: Tile, slices: i64) -> Emitted<()> {
    let block = Block::new(emitter, contraction, tile, slices)?;
    let of_thread = tile.sums(contraction);
    let slices = block.place.rank.map(|rank| Slices::new(emitter, slices, rank, of_thread));
    block.first_step(emitter)?;
    let sums = block.sums(emitter)?;
    Results { contraction, place: &block.place, sums: &sums }.store(
        emitter,
        slices.as_ref(),
        |emitter, thread| shares(emitter, contraction, tile, &block.place, thread),
    )
}

/// What a block of threads computes.
struct Block<'c> {
    contraction: &'c Contraction,
    tile: Tile,
    place: Place,
    rows: Share,
    columns: Share,
    /// The factors of the rows, and those of the columns.
    left: Vec<Staged>,
    right: Vec<Staged>,
}

impl<'c> Block<'c> {
    fn new(emitter: &mut Emitter, contraction: &'c Contraction, tile: Tile, slices: i64) -> Emitted<Self> {
        let size = [tile.block_rows(), tile.block_columns()];
        let place = Place::new(emitter, contraction, size, (slices, tile.step()))?;
        let thread = thread(emitter);
        let (rows, columns) = shares(emitter, contraction, tile, &place, thread);
        let stage = |emitter: &mut Emitter, side, size, factors: &[_]| -> Vec<Staged> {
            let factors = factors.iter();
            factors.map(|f| Staged::new(emitter, contraction, *f, side, size, tile.step())).collect()
        };
        let left = stage(emitter, &contraction.rows, tile.block_rows(), &contraction.left);
        let right = stage(emitter, &contraction.columns, tile.block_columns(), &contraction.right);
        Ok(Block { contraction, tile, place, rows, columns, left, right })
    }

    /// Fills the first half of the staged arrays, if anything is summed.
    fn first_step(&self, emitter: &mut Emitter) -> Emitted<()> {
        let Span { origin, end } = self.place.depth;
        let any = emitter.b.compare(Condition::Lt, origin, end);
        emitter.b.open_if();
        let fetched = self.fetch(emitter, origin)?;
        let distance = emitter.b.index(self.tile.step());
        let half = emitter.b.and(origin, distance);
        self.put(emitter, half, &fetched);
        emitter.b.close_if(any);
        Ok(())
    }

    /// What this thread stages of each factor in the step that begins at `depth`, from memory.
    fn fetch(&self, emitter: &mut Emitter, depth: ValueId) -> Emitted<Vec<Vec<Quad>>> {
        let depth = Span { origin: depth, ..self.place.depth };
        let of_side = |emitter: &mut Emitter, staged: &Staged, side: &Side, span: Span| {
            staged.fetch(emitter, &self.place.point, side, span, depth)
        };
        let mut fetched = Vec::new();
        for staged in &self.left {
            fetched.push(of_side(emitter, staged, &self.contraction.rows, self.place.rows)?);
        }
        for staged in &self.right {
            fetched.push(of_side(emitter, staged, &self.contraction.columns, self.place.columns)?);
        }
        Ok(fetched)
    }

    /// Puts what was fetched into the half of the staged arrays that begins at step position `half`.
    fn put(&self, emitter: &mut Emitter, half: ValueId, fetched: &[Vec<Quad>]) {
        for (staged, quads) in self.left.iter().chain(&self.right).zip(fetched) {
            staged.put(emitter, half, self.place.depth.end, quads);
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
        let Span { origin, end } = self.place.depth;
        Ok(emitter.b.close_loop(open, origin, end, step, &sums))
    }

    /// Adds the products at one position of the step.
    fn add_products(&self, emitter: &mut Emitter, half: ValueId, depth: i64, sums: &mut [ValueId]) {
        let Tile { rows, columns } = self.tile;
        let mut load = |factors: &[Staged], share: Share| -> Vec<Vec<ValueId>> {
            let load = |s: &Staged| {
                s.load(emitter, half, depth, share.of_thread, share.run, share.count / share.run)
            };
            factors.iter().map(load).collect()
        };
        let left = load(&self.left, self.rows);
        let right = load(&self.right, self.columns);
        let tiles = sums.chunks_mut((rows * columns) as usize);
        for (member, tile) in self.contraction.members.iter().zip(tiles) {
            for (row, x) in tile.chunks_mut(columns as usize).zip(&left[member.left]) {
                for (sum, y) in row.iter_mut().zip(&right[member.right]) {
                    *sum = emitter.b.fma(*x, *y, *sum);
                }
            }
        }
    }
}

/// The rows and columns that the thread of that number has sums of.
fn shares(
    emitter: &mut Emitter,
    contraction: &Contraction,
    tile: Tile,
    place: &Place,
    thread: ValueId,
) -> (Share, Share) {
    // A warp has 4 quads of rows by 8 of columns: what its threads load of a column's factors is 128 bytes.
    let row = bits(emitter, thread, 3, 4);
    let (low, high) = (bits(emitter, thread, 0, 3), bits(emitter, thread, 7, 1));
    let high = emitter.b.shift_left(high, 3);
    let column = emitter.b.add(high, low);
    let share = |emitter: &mut Emitter, block: Span, number, side: &Side, count, run: i64| {
        let width = emitter.b.index(run);
        let of_thread = emitter.b.mul(number, width);
        let is_whole = is_multiple(&side.extent, count * ACROSS);
        Share { block, of_thread, count, run, distance: run * ACROSS, is_whole }
    };
    let (rows, columns) = (&contraction.rows, &contraction.columns);
    (
        share(emitter, place.rows, row, rows, tile.rows, tile.row_width()),
        share(emitter, place.columns, column, columns, tile.columns, tile.column_width()),
    )
}
