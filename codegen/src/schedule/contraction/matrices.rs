//! Tiles whose sums are those of matrices that tensor cores multiply and add up in f32.
//!
//! Either each warp multiplies by itself what its threads have loaded ([`warps`]), or four of them multiply together what
//! lies in shared memory ([`groups`]). A warp has products of 16 by 8 sums side by side. Factors that memory holds as they
//! are multiplied are copied to shared memory behind the back of the threads (`cp.async`), up to three steps ahead. Others
//! are computed and rounded one step ahead, on their way through registers.
//!
//! ```text
//! sums of a thread     rows r and r + 8, columns 2·c and 2·c + 1 of every product, r = lane / 4, c = lane mod 4
//! products of a warp   side by side: rows 16 apart, columns 8 apart
//! ```

mod groups;
mod lines;
pub(super) mod tile;
mod warps;

use super::super::emitter::{Emitted, Emitter};
use super::product::{Contraction, Side, is_multiple};
use super::results::Results;
use super::{Place, Share, Slices, Span, bits, power, thread};
use crate::kernel_ir::{Condition, LaneType, Type, ValueId};
use lines::{Chunk, Lines};
use tile::{By, SUMS, Tile};

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
        let Tile { step, stages, .. } = self.tile;
        let nothing = self.no_sums(emitter);
        let open = emitter.b.open_loop(&nothing, false);
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
        match self.tile.by {
            By::Warps => self.add_products_of_warps(emitter, open.counter, &mut sums),
            By::Groups => self.add_products_of_groups(emitter, open.counter, &mut sums),
        }
        self.put(emitter, next, &fetched);
        emitter.set_guards_aside(outside);
        let Span { origin, end } = self.place.depth;
        let sums = emitter.b.close_loop(open, origin, end, step, &sums);
        Ok(match self.tile.by {
            By::Warps => self.sums_of_warps(emitter, &sums),
            By::Groups => self.sums_of_groups(emitter, &sums),
        })
    }

    /// The sums of a thread before anything is added: by member and product, or by member where groups multiply.
    fn no_sums(&self, emitter: &mut Emitter) -> Vec<ValueId> {
        let members = self.contraction.members.len() as i64;
        let sums = self.tile.sums(self.contraction) / members;
        let lanes = if self.tile.by == By::Warps { 4 } else { sums };
        let nothing = emitter.b.number(Type { lane: LaneType::F32, lanes: lanes as u8 }, 0.0);
        vec![nothing; (members * sums / lanes) as usize]
    }

    /// The rows and columns that the thread of that number has sums of.
    fn shares(&self, emitter: &mut Emitter, thread: ValueId) -> (Share, Share) {
        let warp = warp_of(emitter, self.tile, thread);
        let (row, column) = (bits(emitter, thread, 2, 3), bits(emitter, thread, 0, 2));
        let column = emitter.b.shift_left(column, 1);
        let mut share = |i: usize, block, within, count, run, side: &Side| {
            let of_thread = emitter.b.add(warp[i], within);
            let size = self.tile.products[i] * SUMS[i] * self.tile.by.warps()[i];
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
    let [rows, columns] = tile.by.warps().map(power);
    let (row, column) = (bits(emitter, thread, 5, rows), bits(emitter, thread, 5 + rows, columns));
    let [rows, columns] = [0, 1].map(|i| emitter.b.index(tile.products[i] * SUMS[i]));
    [emitter.b.mul(row, rows), emitter.b.mul(column, columns)]
}
