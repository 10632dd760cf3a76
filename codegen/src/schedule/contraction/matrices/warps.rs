//! Products of warps: 2 by 4 warps a block, up to 4 by 4 products a warp.
//!
//! Each of the four parts of an A100's multiprocessor does a product of 16-bit factors in 8 cycles (NVIDIA's A100 white
//! paper: 1024 multiply-adds a cycle), the 4 by 4 of a warp in 128. In these, four warps load 6 times 512 bytes of shared
//! memory each, which takes 96 cycles at 128 bytes a cycle: arithmetic is the limit. On an H100 the memory is.

use super::super::super::emitter::Emitter;
use super::Block;
use super::lines::{At, Lines, Matrices};
use super::tile::SUMS;
use crate::kernel_ir::ValueId;

impl Block<'_> {
    /// Adds the products of the step that begins at `depth`.
    pub(super) fn add_products_of_warps(&self, emitter: &mut Emitter, depth: ValueId, sums: &mut [ValueId]) {
        for product in 0..self.tile.products_deep() {
            self.add_products(emitter, depth, product, sums);
        }
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
    pub(super) fn sums_of_warps(&self, emitter: &mut Emitter, sums: &[ValueId]) -> Vec<ValueId> {
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
}
