//! The sizes of a tile of tensor cores' products.

use super::super::super::GpuLimits;
use super::super::super::analysis::Analysis;
use super::super::THREADS;
use super::super::product::{Contraction, Factor, Side, assumed};
use super::super::slices::shared_bytes;
use super::lines::{CHUNK, copied_elements};
use crate::kernel_ir::MatrixFactors;

/// Warps of a block, along its rows and along its columns.
pub(super) const WARPS: [i64; 2] = [2, 4];

/// Rows and columns of the sums of one product of a warp.
pub(super) const SUMS: [i64; 2] = [16, 8];

/// Products of a warp side by side, along its rows and along its columns: those that load least for a product first.
const SHAPES: [[i64; 2]; 4] = [[4, 4], [4, 2], [2, 2], [1, 1]];

/// Products side by side, of all members, whose sums a thread has registers for: four each.
const PRODUCTS: i64 = 16;

/// Bytes of shared memory that the system takes for itself beside each block (CUDA programming guide).
const RESERVED: i64 = 1 << 10;

/// A tile, and how its factors are staged.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Tile {
    pub(in super::super) factors: MatrixFactors,
    /// Products of a warp side by side, along its rows and along its columns.
    pub(super) products: [i64; 2],
    /// Positions along the summed axis that are staged at once.
    pub(in super::super) step: i64,
    /// Steps that there is room for of factors that are copied; a power of two.
    pub(super) stages: i64,
    /// What its factors take of shared memory.
    shared_bytes: i64,
}

impl Tile {
    /// The tiles for a contraction of such factors that fit and are used, those that load least for a product first. Of few
    /// rows or columns the smallest is used, too: what is not there is not read.
    pub(in super::super) fn possible(
        analysis: &Analysis,
        contraction: &Contraction,
        factors: MatrixFactors,
        limits: GpuLimits,
    ) -> Vec<Tile> {
        let (rows, columns) = (assumed(&contraction.rows.extent), assumed(&contraction.columns.extent));
        let tile = |products| Tile::new(analysis, contraction, factors, products, limits);
        let is_used = |t: &Tile| {
            [(t.products[0], t.block_rows(), rows), (t.products[1], t.block_columns(), columns)]
                .iter()
                .all(|(products, size, extent)| *products == 1 || *size < 2 * extent)
        };
        SHAPES.into_iter().filter_map(tile).filter(is_used).collect()
    }

    /// A tile of so many products a warp, if a multiprocessor has the registers and the shared memory.
    fn new(
        analysis: &Analysis,
        contraction: &Contraction,
        factors: MatrixFactors,
        products: [i64; 2],
        limits: GpuLimits,
    ) -> Option<Tile> {
        let mut tile = Tile { factors, products, step: 0, stages: 2, shared_bytes: 0 };
        let (rows, columns) = (tile.block_rows(), tile.block_columns());
        let of_side = |factors: &[Factor], side: &Side, size: i64| -> [i64; 2] {
            let copied = factors.iter().filter(|f| copied_elements(analysis, **f, side).is_some()).count();
            [copied as i64 * size, (factors.len() - copied) as i64 * size]
        };
        let left = of_side(&contraction.left, &contraction.rows, rows);
        let right = of_side(&contraction.right, &contraction.columns, columns);
        let [copied, computed] = [0, 1].map(|i| left[i] + right[i]);
        // Every thread moves a chunk of every factor. What waits in registers is no more than that.
        let least = if computed == 0 { 64 } else { 32 };
        let line = (THREADS * CHUNK / rows.min(columns)).max(least);
        tile.step = line / 4 * factors.per_word();
        // Two blocks on a multiprocessor: while the threads of one wait for each other, those of the other compute.
        let (all, half) = (i64::from(limits.shared_bytes), i64::from(limits.shared_bytes) / 2 - RESERVED);
        let bytes = |stages: i64| (stages * copied + 2 * computed) * line;
        if copied > 0 && bytes(4) <= half {
            tile.stages = 4;
        }
        tile.shared_bytes = bytes(tile.stages);
        let products = products[0] * products[1] * contraction.members.len() as i64;
        (products <= PRODUCTS && tile.shared_bytes <= all).then_some(tile)
    }

    /// Sums of a thread.
    pub(in super::super) fn sums(&self, contraction: &Contraction) -> i64 {
        4 * self.products[0] * self.products[1] * contraction.members.len() as i64
    }

    /// Whether a multiprocessor has the shared memory for so many slices.
    pub(in super::super) fn fits(&self, contraction: &Contraction, slices: i64, limits: GpuLimits) -> bool {
        let exchanged = shared_bytes(slices, self.sums(contraction));
        self.shared_bytes + exchanged <= i64::from(limits.shared_bytes)
    }

    /// Steps that are on their way from memory at the same time.
    pub(in super::super) fn ahead(&self) -> i64 {
        self.stages - 1
    }

    /// How much longer shared memory takes than the products: 4 by 4 load 12 times 256 bytes, which takes three quarters of
    /// the time of the 16 products.
    pub(in super::super) fn loads_a_product(&self) -> f64 {
        let [rows, columns] = self.products;
        ((2 * rows + columns) as f64 / (rows * columns) as f64).max(1.0)
    }

    pub(in super::super) fn block_rows(&self) -> i64 {
        self.products[0] * SUMS[0] * WARPS[0]
    }

    pub(in super::super) fn block_columns(&self) -> i64 {
        self.products[1] * SUMS[1] * WARPS[1]
    }

    /// Products one behind the other along a step.
    pub(super) fn products_deep(&self) -> i64 {
        self.step / depth(self.factors)
    }
}

/// Positions along the summed axis of one product: 8 words.
pub(super) fn depth(factors: MatrixFactors) -> i64 {
    8 * factors.per_word()
}
