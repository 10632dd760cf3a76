//! What kernels have in common that blocks of threads compute together, and such kernels outside of loops.

use fuse_ir::ReduceOp;

use super::GpuLimits;
use super::analysis::Analysis;
use super::emitter::{Emitted, Emitter};
use super::reduction::merge;
use super::rows::Rows;
use super::split::Split;
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Function, LaneType, Mapping, Operation, Type, ValueId};

/// Threads of a block: as many as still have 128 registers each.
pub(super) const THREADS: u32 = 512;

/// Threads of a warp.
pub(super) const WARP: i64 = 32;

/// Warps of a block.
pub(super) const WARPS: i64 = THREADS as i64 / WARP;

/// What the numbers of block and thread are called.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) block: ValueId,
    pub(super) thread: ValueId,
}

impl Numbers {
    pub(super) fn new(b: &mut FunctionBuilder) -> Numbers {
        let index = Type::scalar(LaneType::I64);
        Numbers { block: b.operation(index, Operation::Block), thread: b.operation(index, Operation::Thread) }
    }

    /// The number of the thread in its warp.
    pub(super) fn lane(self, b: &mut FunctionBuilder) -> ValueId {
        low_bits(b, self.thread, WARP)
    }

    /// The number of its warp.
    pub(super) fn warp(self, b: &mut FunctionBuilder) -> ValueId {
        b.shift_right_arithmetic(self.thread, bits(WARP))
    }
}

/// The binary logarithm of a power of two.
pub(super) fn bits(power: i64) -> i64 {
    i64::from(power.trailing_zeros())
}

/// The remainder of a division by a power of two.
pub(super) fn low_bits(b: &mut FunctionBuilder, x: ValueId, power: i64) -> ValueId {
    let mask = b.index(power - 1);
    b.and(x, mask)
}

/// What the lanes at these distances, powers of two, have of a sum as one.
pub(super) fn of_lanes(
    b: &mut FunctionBuilder,
    op: ReduceOp,
    part: ValueId,
    distances: impl Iterator<Item = u8>,
) -> ValueId {
    distances.fold(part, |part, distance| {
        let other = b.butterfly(part, distance);
        merge(b, op, part, other)
    })
}

/// A kernel outside of loops that has few rows and long sums, or statistics of rows, by blocks; `None` for others.
pub(super) fn alone(analysis: &Analysis, limits: GpuLimits) -> Emitted<Option<Function>> {
    let split = Split::new(analysis, None, limits.multiprocessors, limits.shared_bytes, None);
    let rows = Rows::new(analysis).filter(|rows| rows.shared_bytes() <= limits.shared_bytes);
    let mut b = FunctionBuilder::new();
    let numbers = Numbers::new(&mut b);
    let mut emitter = Emitter::within(analysis, b, None);
    let work = if let Some(mut split) = split.filter(|s| s.has_few_rows(analysis)) {
        split.prepare(&mut emitter, numbers)?;
        split.alone(&mut emitter, numbers)?
    } else if let Some(mut rows) = rows {
        rows.prepare(&mut emitter);
        rows.alone(&mut emitter, numbers)?
    } else {
        return Ok(None);
    };
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    let (name, mapping) = (analysis.kernel.name.clone(), Mapping::Blocks { threads: THREADS });
    Ok(Some(emitter.b.finish(name, buffers, symbols, work, mapping)))
}
