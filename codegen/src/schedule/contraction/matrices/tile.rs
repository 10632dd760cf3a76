//! The sizes of a tile of tensor cores' products.

use fuse_ir::device::DeviceModel;

use super::super::super::GpuLimits;
use super::super::super::analysis::Analysis;
use super::super::THREADS;
use super::super::product::{Contraction, Factor, Side, assumed};
use super::super::slices::shared_bytes;
use super::lines::{CHUNK, copied_elements};
use crate::kernel_ir::{GroupFactor, MatrixFactors};

/// Rows and columns of the sums of one product of a warp.
pub(super) const SUMS: [i64; 2] = [16, 8];

/// Products side by side, of all members, whose sums a thread has registers for: four each.
const PRODUCTS: i64 = 16;

/// Threads of a warp group.
pub(super) const THREADS_OF_GROUP: i64 = GroupFactor::THREADS as i64;

/// Registers of a thread for sums and for what waits to be put into shared memory.
const REGISTERS: i64 = 96;

/// Bytes of shared memory that the system takes for itself beside each block (CUDA programming guide).
const RESERVED: i64 = 1 << 10;

/// Who multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum By {
    /// Each warp by itself, what its threads have loaded.
    Warps,
    /// Four warps together, what lies in shared memory.
    Groups,
}

impl By {
    /// Warps of a block, along its rows and along its columns.
    pub(super) fn warps(self) -> [i64; 2] {
        match self {
            By::Warps => [2, 4],
            By::Groups => [8, 1],
        }
    }

    /// Products of a warp side by side, along its rows and along its columns: those that load least for a product first.
    fn shapes(self) -> &'static [[i64; 2]] {
        match self {
            By::Warps => &[[4, 4], [4, 2], [2, 2], [1, 1]],
            By::Groups => &[[1, 16], [1, 8], [1, 4]],
        }
    }

    /// Steps that there may be room for, if they fit beside those of another block.
    fn stages(self) -> &'static [i64] {
        match self {
            By::Warps => &[4],
            By::Groups => &[4, 3],
        }
    }
}

/// A tile, and how its factors are staged.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Tile {
    pub(in super::super) factors: MatrixFactors,
    pub(in super::super) by: By,
    /// Products of a warp side by side, along its rows and along its columns.
    pub(super) products: [i64; 2],
    /// Positions along the summed axis that are staged at once.
    pub(in super::super) step: i64,
    /// Steps that there is room for of factors that are copied.
    pub(super) stages: i64,
    /// What its factors take of shared memory.
    shared_bytes: i64,
}

impl Tile {
    /// The tiles for a contraction of such factors that fit and are used, by who multiplies, those that load least for a
    /// product first. Of few rows or columns the smallest of warps is used, too: what is not there is not read.
    pub(in super::super) fn possible(
        analysis: &Analysis,
        contraction: &Contraction,
        factors: MatrixFactors,
        limits: GpuLimits,
    ) -> Vec<Vec<Tile>> {
        let extents = [assumed(&contraction.rows.extent), assumed(&contraction.columns.extent)];
        let is_used = |t: &Tile| {
            let sizes = [t.block_rows(), t.block_columns()];
            (0..2).all(|i| sizes[i] < 2 * extents[i] || t.by == By::Warps && t.products[i] == 1)
        };
        let tiles = |by: By| {
            let shapes = by.shapes().iter();
            let tiles = shapes.filter_map(|p| Tile::new(analysis, contraction, (factors, by), *p, limits));
            tiles.filter(is_used).collect()
        };
        vec![tiles(By::Groups), tiles(By::Warps)]
    }

    /// A tile of so many products a warp, if a multiprocessor has what it takes.
    fn new(
        analysis: &Analysis,
        contraction: &Contraction,
        (factors, by): (MatrixFactors, By),
        products: [i64; 2],
        limits: GpuLimits,
    ) -> Option<Tile> {
        let mut tile = Tile { factors, by, products, step: 0, stages: 2, shared_bytes: 0 };
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
        let line = match by {
            By::Warps => (THREADS * CHUNK / rows.min(columns)).max(least),
            By::Groups => i64::from(GroupFactor::LINE),
        };
        tile.step = line / 4 * factors.per_word();
        // Two blocks on a multiprocessor: while the threads of one wait for each other, those of the other compute.
        let (all, half) = (i64::from(limits.shared_bytes), i64::from(limits.shared_bytes) / 2 - RESERVED);
        let bytes = |stages: i64| (stages * copied + 2 * computed) * line;
        let fits = |stages: &i64| bytes(*stages) <= half;
        if let Some(stages) = by.stages().iter().copied().find(fits).filter(|_| copied > 0) {
            tile.stages = stages;
        }
        tile.shared_bytes = bytes(tile.stages);
        let possible = match by {
            By::Warps => true,
            By::Groups => limits.warp_groups && tile.suits_groups(analysis, contraction, computed),
        };
        let products = products[0] * products[1] * contraction.members.len() as i64;
        (possible && products <= PRODUCTS && tile.shared_bytes <= all).then_some(tile)
    }

    /// Whether warp groups can multiply such factors, of which so many rows and columns are computed, and have registers
    /// for them.
    fn suits_groups(&self, analysis: &Analysis, contraction: &Contraction, computed: i64) -> bool {
        // Across the summed axis lines are 64 of 16 bits, or what no group multiplies.
        let fits = |factors: &[Factor], size: i64| {
            let whole = self.factors.per_word() == 2 && size % i64::from(GroupFactor::SIDE) == 0;
            whole || factors.iter().all(|f| f.is_contiguous(analysis))
        };
        fits(&contraction.left, self.block_rows())
            && fits(&contraction.right, self.block_columns())
            && self.sums(contraction) + computed * self.step / THREADS <= REGISTERS
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

    /// Operations a second of the whole device.
    pub(in super::super) fn flops_per_second(&self, contraction: &Contraction, device: &DeviceModel) -> f64 {
        let rate = match self.by {
            By::Warps => device.matrix_flops_per_second / self.loads_a_product(),
            By::Groups => device.group_matrix_flops_per_second / self.reads_a_product(contraction),
        };
        if self.factors == MatrixFactors::Tf32 { rate / 2.0 } else { rate }
    }

    /// How much longer shared memory takes than the products: 4 by 4 load 12 times 256 bytes, which takes three quarters of
    /// the time of the 16 products.
    fn loads_a_product(&self) -> f64 {
        let [rows, columns] = self.products;
        ((2 * rows + columns) as f64 / (rows * columns) as f64).max(1.0)
    }

    /// The same where groups multiply: each reads its rows and all columns of every member, and what is staged is written,
    /// at 128 bytes a cycle. The tensor cores of an H100 do as many products of 16 bits in a cycle as 128 bytes have for 32
    /// rows and columns (NVIDIA's H100 white paper); three quarters of these are what they are taken to sustain.
    fn reads_a_product(&self, contraction: &Contraction) -> f64 {
        let (rows, columns) = (self.block_rows(), self.block_columns());
        let members = contraction.members.len() as i64;
        let groups = THREADS / THREADS_OF_GROUP;
        let read = members * (rows + groups * columns);
        let written = contraction.left.len() as i64 * rows + contraction.right.len() as i64 * columns;
        let products = members * rows * columns / 32;
        (0.75 * (read + written) as f64 / products as f64).max(1.0)
    }

    pub(in super::super) fn block_rows(&self) -> i64 {
        self.products[0] * SUMS[0] * self.by.warps()[0]
    }

    pub(in super::super) fn block_columns(&self) -> i64 {
        self.products[1] * SUMS[1] * self.by.warps()[1]
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
