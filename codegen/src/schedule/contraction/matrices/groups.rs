//! Products of warp groups: two groups a block, each with 64 rows and all columns of the tile.
//!
//! The instructions read both factors from shared memory, where they lie as they are staged: lines of 128 bytes, so that a step
//! is as deep as these are long. All products of a member and a step are begun together and waited for; meanwhile the other
//! group multiplies, and those of the other block on the multiprocessor.

use super::super::super::emitter::Emitter;
use super::super::{power, thread};
use super::Block;
use super::tile::THREADS_OF_GROUP;
use crate::kernel_ir::{GroupFactor, ValueId};

impl Block<'_> {
    /// Adds the products of the step that begins at `depth`.
    pub(super) fn add_products_of_groups(&self, emitter: &mut Emitter, depth: ValueId, sums: &mut [ValueId]) {
        let thread = thread(emitter);
        let group = emitter.b.shift_right_logical(thread, power(THREADS_OF_GROUP));
        let rows = emitter.b.index(i64::from(GroupFactor::SIDE));
        let (row, column) = (emitter.b.mul(group, rows), emitter.b.index(0));
        for (member, sum) in self.contraction.members.iter().zip(sums) {
            let [left, right] = [(&self.left[member.left], row), (&self.right[member.right], column)].map(
                |(lines, first)| {
                    let stage = lines.stage(emitter, depth);
                    lines.of_group(emitter, stage, first)
                },
            );
            *sum = emitter.b.group_fma(self.tile.factors, left, right, *sum);
        }
    }

    /// Sums by member as scalars by member, row and column.
    pub(super) fn sums_of_groups(&self, emitter: &mut Emitter, sums: &[ValueId]) -> Vec<ValueId> {
        let [_, columns] = self.tile.products;
        let mut scalars = Vec::new();
        for of_member in sums {
            // A thread has two columns of a row, then as many of the row eight further down, product by product.
            for row in 0..2 {
                let lanes = (0..columns).flat_map(|product| [0, 1].map(|lane| 4 * product + 2 * row + lane));
                scalars.extend(lanes.map(|lane| emitter.b.extract(*of_member, lane as u8)));
            }
        }
        scalars
    }
}
