//! The sizes of a tile of multiply-adds.

use super::THREADS;
use super::product::{Contraction, assumed};
use super::slices::shared_bytes;

/// Threads that share the factors of a row, and as many those of a column.
pub(super) const ACROSS: i64 = 16;

/// Sums that a thread has registers for, with their factors and those of the next step.
const SUMS: i64 = 64;

/// Rows and columns of a thread, those that load least for a multiply-add first.
const SHAPES: [Tile; 5] = [
    Tile { rows: 8, columns: 8 },
    Tile { rows: 8, columns: 4 },
    Tile { rows: 4, columns: 4 },
    Tile { rows: 2, columns: 2 },
    FEW_ROWS,
];

/// For no more rows than it has.
const FEW_ROWS: Tile = Tile { rows: 1, columns: 4 };

/// Bytes of shared memory that every GPU gives a block.
const SHARED_BYTES: i64 = 48 << 10;

/// Elements between the rows of a staged array beyond those of the tile: stores of factors that come from memory along
/// the summed axis then go to different banks, and quads stay aligned.
pub(super) const PADDING: i64 = 4;

/// The rows and columns of a thread. Each is a power of two; from 4 on they are quads that other threads' lie between.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) rows: i64,
    pub(super) columns: i64,
}

impl Tile {
    /// The tiles for a contraction that fit and are used, those that load least for a multiply-add first.
    pub(super) fn possible(contraction: &Contraction) -> Vec<Tile> {
        let (rows, columns) = (assumed(&contraction.rows.extent), assumed(&contraction.columns.extent));
        let is_used = |t: &Tile| {
            let has_rows = if *t == FEW_ROWS { rows <= t.block_rows() } else { t.block_rows() < 2 * rows };
            has_rows && t.block_columns() < 2 * columns
        };
        SHAPES.into_iter().filter(|t| t.fits(contraction, 1) && is_used(t)).collect()
    }

    /// Whether a multiprocessor has the registers and the shared memory, for so many slices.
    pub(super) fn fits(&self, contraction: &Contraction, slices: i64) -> bool {
        let staged = |extent: i64, factors: usize| (extent + PADDING) * factors as i64;
        let elements = staged(self.block_rows(), contraction.left.len())
            + staged(self.block_columns(), contraction.right.len());
        let sums = self.sums(contraction);
        sums <= SUMS && 2 * self.step() * elements * 4 + shared_bytes(slices, sums) <= SHARED_BYTES
    }

    /// Sums of a thread.
    pub(super) fn sums(&self, contraction: &Contraction) -> i64 {
        self.rows * self.columns * contraction.members.len() as i64
    }

    /// How much longer shared memory takes than the arithmetic: as long where a thread has 4 by 4 sums.
    pub(super) fn loads_a_multiply_add(&self) -> f64 {
        (2.0 * (self.rows + self.columns) as f64 / (self.rows * self.columns) as f64).max(1.0)
    }

    pub(super) fn block_rows(&self) -> i64 {
        self.rows * ACROSS
    }

    pub(super) fn block_columns(&self) -> i64 {
        self.columns * ACROSS
    }

    /// Positions along the summed axis that are staged at once: as few as leave each thread a quad of every factor.
    pub(super) fn step(&self) -> i64 {
        4 * THREADS / self.block_rows().min(self.block_columns())
    }

    /// Rows of a thread that are neighbours.
    pub(super) fn row_width(&self) -> i64 {
        self.rows.min(4)
    }

    /// Columns of a thread that are neighbours.
    pub(super) fn column_width(&self) -> i64 {
        self.columns.min(4)
    }
}
