//! What kernels have in common that blocks of threads compute together.

use fuse_ir::expr::Dim;

use super::analysis::Analysis;
use super::emitter::{Emitted, Emitter};
use super::reduction::{Reduction, State, join};
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

/// What the lanes at these distances, powers of two, have of a reduction as one.
pub(super) fn of_lanes(
    b: &mut FunctionBuilder,
    reduction: Reduction,
    part: State,
    distances: impl Iterator<Item = u8>,
) -> State {
    distances.fold(part, |part, distance| {
        let other: State = part.iter().map(|value| b.butterfly(*value, distance)).collect();
        join(b, reduction, &part, &other)
    })
}

/// A kernel outside of loops that blocks of threads compute together; `emit` returns how many blocks.
pub(super) fn alone(
    analysis: &Analysis,
    mapping: Mapping,
    emit: impl FnOnce(&mut Emitter, Numbers) -> Emitted<Dim>,
) -> Emitted<Function> {
    let mut b = FunctionBuilder::new();
    let numbers = Numbers::new(&mut b);
    let mut emitter = Emitter::within(analysis, b, None);
    let work = emit(&mut emitter, numbers)?;
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    Ok(emitter.b.finish(analysis.kernel.name.clone(), buffers, symbols, work, mapping))
}
