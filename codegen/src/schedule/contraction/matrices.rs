//! Tiles whose sums are those of matrices that tensor cores multiply and add up in f32.
//!
//! A block has 2 by 4 warps, a warp up to 4 by 4 products of 16 by 8 sums side by side. Factors that memory holds as they
//! are multiplied are copied to shared memory behind the back of the threads (`cp.async`), up to three steps ahead. Others
//! are computed and rounded one step ahead, on their way through registers.
//!
//! ```text
//! sums of a thread     rows r and r + 8, columns 2·c and 2·c + 1 of every product, r = lane / 4, c = lane mod 4
//! products of a warp   side by side: rows 16 apart, columns 8 apart
//! ```
//!
//! Each of the four parts of an A100's multiprocessor does a product of 16-bit factors in 8 cycles (NVIDIA's A100 white
//! paper: 1024 multiply-adds a cycle), the 4 by 4 of a warp in 128. In these, four warps load 6 times 512 bytes of shared
//! memory each, which takes 96 cycles at 128 bytes a cycle: arithmetic is the limit. On an H100 the memory is.

mod lines;
pub(super) mod tile;

use super::super::emitter::{Emitted, Emitter};
use super::product::{Contraction, Side, is_multiple};
use super::results::Results;
use super::{Place, Share, Slices, Span, bits, thread};
use crate::kernel_ir::{Condition, LaneType, Type, ValueId};
use lines::{At, Chunk, Lines, Matrices};
use tile::{SUMS, Tile, WARPS};

/// The code of a block, where so many have a slice each of the summed axis.
pub(super) fn emit(emitter: &mut Emitter, contraction: &Contraction, tile: Tile, slices: i64) -> Emitted<()> {
    let block = Block::new(emitter, contraction, tile, slices)?;
    let of_thread = tile.sums(contraction);
    let slices = block.place.rank.map(|rank| Slices::new(emitter, slices, rank, of_thread));
    block.first_steps(emitter)?;
    let sums = block.sums(emitter)?;
    Results { contraction, place: &block.place, sums: &sums }.store(
        emitter,
        slices.as_ref(),
        |emitter, thread| block.shares(emitter, thread),
    )
}

/// What a block of threads computes.
struct Block<'c> {
    contraction: &'c Contraction,
    tile: Tile,
    place: Place,
    /// The first row and the first column of the warp, relative to the block's.
    warp: [ValueId; 2],
    /// The factors of the rows, and those of the columns.
    left: Vec<Lines>,
    right: Vec<Lines>,
}

impl<'c> Block<'c> {
    fn new(emitter: &mut Emitter, contraction: &'c Contraction, tile: Tile, slices: i64) -> Emitted<Self> {
        let size = [tile.block_rows(), tile.block_columns()];
        let place = Place::new(emitter, contraction, size, (slices, tile.step))?;
        let thread = thread(emitter);
        let warp = warp_of(emitter, tile, thread);
        let stage = |emitter: &mut Emitter, side: &Side, size, factors: &[_]| -> Vec<Lines> {
            factors.iter().map(|f| Lines::new(emitter, *f, side, size, tile)).collect()
        };
        let left = stage(emitter, &contraction.rows, tile.block_rows(), &contraction.left);
        let right = stage(emitter, &contraction.columns, tile.block_columns(), &contraction.right);
        Ok(Block { contraction, tile, place, warp, left, right })
    }

    /// Whether any factors are copied.
    fn copies(&self) -> bool {
        self.left.iter().chain(&self.right).any(Lines::is_copied)
    }

    /// Every staged factor with the side it is of and where that is.
    fn staged(&self) -> impl Iterator<Item = (&Lines, &Side, Span)> {
        let left = self.left.iter().map(|lines| (lines, &self.contraction.rows, self.place.rows));
        left.chain(self.right.iter().map(|lines| (lines, &self.contraction.columns, self.place.columns)))
    }

    /// Begins with the copies of the first steps and stages what is computed in the very first one, if anything is summed.
    fn first_steps(&self, emitter: &mut Emitter) -> Emitted<()> {
        let Span { origin, end } = self.place.depth;
        let any = emitter.b.compare(Condition::Lt, origin, end);
        emitter.b.open_if();
        for step in 0..self.tile.stages - 1 {
            let further = emitter.b.index(step * self.tile.step);
            let depth = emitter.b.add(origin, further);
            self.copy(emitter, depth)?;
        }
        let fetched = self.fetch(emitter, origin)?;
        self.put(emitter, origin, &fetched);
        emitter.b.close_if(any);
        Ok(())
    }

    /// Begins with the copies of the step that begins at `depth`, as one group.
    fn copy(&self, emitter: &mut Emitter, depth: ValueId) -> Emitted<()> {
        if !self.copies() {
            return Ok(());
        }
        let depth = Span { origin: depth, ..self.place.depth };
        for (lines, side, span) in self.staged() {
            lines.copy(emitter, &self.place.point, side, span, depth)?;
        }
        emitter.b.commit_copies();
        Ok(())
    }

    /// What this thread computes of each factor in the step that begins at `depth`.
    fn fetch(&self, emitter: &mut Emitter, depth: ValueId) -> Emitted<Vec<Vec<Chunk>>> {
        let depth = Span { origin: depth, ..self.place.depth };
        let fetch =
            |(lines, side, span): (&Lines, _, _)| lines.fetch(emitter, &self.place.point, side, span, depth);
        self.staged().map(fetch).collect()
    }

    /// Puts what was fetched into the stage of the step that begins at `depth`.
    fn put(&self, emitter: &mut Emitter, depth: ValueId, fetched: &[Vec<Chunk>]) {
        for ((lines, ..), chunks) in self.staged().zip(fetched) {
            lines.put(emitter, depth, self.place.depth.end, chunks);
        }
    }

    /// The loop along the summed axis. Returns the sums of the thread by member, row and column.
    fn sums(&self, emitter: &mut Emitter) -> Emitted<Vec<ValueId>> {
        let Tile { products: [rows, columns], step, stages, .. } = self.tile;
        let nothing = emitter.b.number(Type { lane: LaneType::F32, lanes: 4 }, 0.0);
        let count = self.contraction.members.len() as i64 * rows * columns;
        let open = emitter.b.open_loop(&vec![nothing; count as usize], false);
        emitter.guard(self.contraction.depth.symbols());
        let outside = emitter.b.depth() - 1;
        if self.copies() {
            emitter.b.await_copies((stages - 2) as u8);
        }
        // What belongs to this step is there for all threads, and what belonged to the last may be overwritten.
        emitter.b.meet();
        let ahead = emitter.b.index((stages - 1) * step);
        let ahead = emitter.b.add(open.counter, ahead);
        self.copy(emitter, ahead)?;
        let next = emitter.b.index(step);
        let next = emitter.b.add(open.counter, next);
        // Behind the end the last factors are fetched again, which are in bounds, and never used.
        let fetched = self.fetch(emitter, next)?;
        let mut sums = open.current.clone();
        for product in 0..self.tile.products_deep() {
            self.add_products(emitter, open.counter, product, &mut sums);
        }
        self.put(emitter, next, &fetched);
        emitter.set_guards_aside(outside);
        let Span { origin, end } = self.place.depth;
        let sums = emitter.b.close_loop(open, origin, end, step, &sums);
        Ok(self.in_order(emitter, &sums))
    }

    /// Adds the products at one place along the step that begins at `depth`.
    fn add_products(&self, emitter: &mut Emitter, depth: ValueId, product: i64, sums: &mut [ValueId]) {
        let [rows, columns] = self.tile.products;
        let left: Vec<_> = self.left.iter().map(|l| self.rows_of(emitter, l, depth, product)).collect();
        let right: Vec<_> = self.right.iter().map(|l| self.columns_of(emitter, l, depth, product)).collect();
        let tiles = sums.chunks_mut((rows * columns) as usize);
        for (member, tile) in self.contraction.members.iter().zip(tiles) {
            for (row, x) in tile.chunks_mut(columns as usize).zip(&left[member.left]) {
                for (sum, y) in row.iter_mut().zip(&right[member.right]) {
                    *sum = emitter.b.matrix_fma(self.tile.factors, *x, *y, *sum);
                }
            }
        }
    }

    /// The left operands of the warp's products.
    fn rows_of(&self, emitter: &mut Emitter, lines: &Lines, depth: ValueId, product: i64) -> Vec<ValueId> {
        let (stage, warp) = (lines.stage(emitter, depth), self.warp[0]);
        let mut operands = Vec::new();
        for row in 0..self.tile.products[0] {
            let at = At { stage, warp, further: row * SUMS[0], product };
            let words = lines.load(emitter, at, Matrices::LEFT);
            operands.push(emitter.b.pack(&words));
        }
        operands
    }

    /// The right operands of the warp's products.
    fn columns_of(&self, emitter: &mut Emitter, lines: &Lines, depth: ValueId, product: i64) -> Vec<ValueId> {
        let (stage, warp) = (lines.stage(emitter, depth), self.warp[1]);
        let count = self.tile.products[1];
        let (matrices, together) =
            if count % 2 == 0 { (Matrices::RIGHT_PAIR, 2) } else { (Matrices::RIGHT, 1) };
        let mut operands = Vec::new();
        for column in (0..count).step_by(together) {
            let at = At { stage, warp, further: column * SUMS[1], product };
            let words = lines.load(emitter, at, matrices);
            operands.extend(words.chunks(2).map(|pair| emitter.b.pack(pair)));
        }
        operands
    }

    /// Sums by member and product as scalars by member, row and column.
    fn in_order(&self, emitter: &mut Emitter, sums: &[ValueId]) -> Vec<ValueId> {
        let [_, columns] = self.tile.products;
        let mut scalars = Vec::new();
        for row_of_products in sums.chunks(columns as usize) {
            for lanes in [[0, 1], [2, 3]] {
                let of_row = row_of_products.iter().flat_map(|sums| lanes.map(|lane| (*sums, lane)));
                scalars.extend(of_row.map(|(sums, lane)| emitter.b.extract(sums, lane)));
            }
        }
        scalars
    }

    /// The rows and columns that the thread of that number has sums of.
    fn shares(&self, emitter: &mut Emitter, thread: ValueId) -> (Share, Share) {
        let warp = warp_of(emitter, self.tile, thread);
        let (row, column) = (bits(emitter, thread, 2, 3), bits(emitter, thread, 0, 2));
        let column = emitter.b.shift_left(column, 1);
        let mut share = |i: usize, block, within, count, run, side: &Side| {
            let of_thread = emitter.b.add(warp[i], within);
            let size = self.tile.products[i] * SUMS[i] * WARPS[i];
            Share { block, of_thread, count, run, distance: 8, is_whole: is_multiple(&side.extent, size) }
        };
        let [rows, columns] = self.tile.products.map(|products| 2 * products);
        (
            share(0, self.place.rows, row, rows, 1, &self.contraction.rows),
            share(1, self.place.columns, column, columns, 2, &self.contraction.columns),
        )
    }
}

/// The first row and the first column of a thread's warp, relative to the block's.
fn warp_of(emitter: &mut Emitter, tile: Tile, thread: ValueId) -> [ValueId; 2] {
    let (row, column) = (bits(emitter, thread, 5, 1), bits(emitter, thread, 6, 2));
    let [rows, columns] = [0, 1].map(|i| emitter.b.index(tile.products[i] * SUMS[i]));
    [emitter.b.mul(row, rows), emitter.b.mul(column, columns)]
}
