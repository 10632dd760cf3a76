//! What ways to compute a contraction are expected to take, by the model of a device.
//!
//! Nothing here is of a card: rates and latencies are those of [`DeviceModel`], traffic and arithmetic are counted. What
//! blocks read is priced as memory is, though they find much of it in the second-level cache, of which the model knows
//! nothing: each form is charged for what it reads again.

use fuse_ir::device::DeviceModel;

use super::super::analysis::{Analysis, ceil_div};
use super::product::{Contraction, Factor, assumed};

/// Blocks that a multiprocessor runs at the same time: tiles leave room for as many.
const RESIDENT: i64 = 2;

/// Bytes that memory moves at once.
const SECTOR: i64 = 32;

/// A launch of tiles, with what symbols are assumed to be worth.
pub(super) struct Tiles {
    pub(super) tiles: i64,
    pub(super) slices: i64,
    /// Steps along the whole summed axis.
    pub(super) steps: i64,
    /// Bytes that the blocks of a tile read. What is not there is not read.
    pub(super) tile_bytes: f64,
    /// Operations of a block in a step, those of rows, columns and factors that are not there too.
    pub(super) step_flops: f64,
    /// Operations a second of the whole device.
    pub(super) flops_per_second: f64,
    /// Steps whose factors are on their way at the same time.
    pub(super) ahead: i64,
}

impl Tiles {
    /// Blocks of the launch.
    pub(super) fn blocks(&self) -> i64 {
        self.tiles.saturating_mul(self.slices)
    }

    /// What it is expected to take, without the launch itself.
    pub(super) fn seconds(&self, device: &DeviceModel) -> f64 {
        let cores = i64::from(device.cores.max(1));
        let blocks = self.blocks();
        let steps = ceil_div(self.steps, self.slices) as f64;
        let latency = device.step_seconds / self.ahead as f64;
        let waiting = ceil_div(blocks, RESIDENT * cores) as f64 * steps * latency;
        let busiest = ceil_div(blocks, cores) as f64 * steps;
        let arithmetic = busiest * self.step_flops * cores as f64 / self.flops_per_second;
        let memory = self.tiles as f64 * self.tile_bytes / device.memory_bytes_per_second;
        // The blocks of a cluster meet twice: when all are there, and when all have given away their sums.
        let exchange = if self.slices > 1 { 2.0 * device.cluster_exchange_seconds } else { 0.0 };
        device.step_seconds + waiting.max(arithmetic).max(memory) + exchange
    }
}

/// Sums that threads of a block share, without tiles.
pub(in super::super) struct SplitSums {
    /// Groups of columns, and how many columns one has.
    pub(in super::super) groups: i64,
    pub(in super::super) columns: i64,
    /// Rows that a block takes at once.
    pub(in super::super) rows: i64,
}

impl SplitSums {
    /// What it is expected to take at best, without the launch itself: waiting for memory is not counted.
    pub(super) fn seconds(
        &self,
        analysis: &Analysis,
        contraction: &Contraction,
        device: &DeviceModel,
    ) -> f64 {
        let rows = assumed(&contraction.rows.extent).saturating_mul(batch(contraction));
        let passes = ceil_div(rows, self.rows);
        let depth = assumed(&contraction.depth) as f64;
        let of_rows: i64 = contraction.left.iter().map(|f| bytes(analysis, *f)).sum();
        // Columns that are neighbours in memory come by whole sectors.
        let of_columns = contraction.right.iter().map(|f| {
            let bytes = self.columns * bytes(analysis, *f);
            if f.is_contiguous(analysis) { bytes } else { bytes.max(SECTOR) }
        });
        let of_columns: i64 = of_columns.sum();
        let read = (rows * of_rows * self.groups + passes * of_columns * self.groups) as f64 * depth;
        let sums = contraction.members.len() as i64 * passes * self.rows * self.groups * self.columns;
        let flops = 2.0 * sums as f64 * depth;
        let arithmetic = flops / device.flops_per_second;
        device.step_seconds + arithmetic.max(read / device.memory_bytes_per_second)
    }
}

/// The bytes that the factors of a side take at one position along the summed axis, for so many rows or columns.
pub(super) fn staged_bytes(analysis: &Analysis, factors: &[Factor], count: i64) -> f64 {
    let bytes: i64 = factors.iter().map(|f| bytes(analysis, *f)).sum();
    (bytes * count) as f64
}

fn bytes(analysis: &Analysis, factor: Factor) -> i64 {
    analysis.dtype(factor.load(analysis)).size() as i64
}

fn batch(contraction: &Contraction) -> i64 {
    contraction.batch_extents.iter().map(assumed).product()
}
