//! The schedule for GPUs: one thread a point, neighbours along the innermost axis. A thread runs along the
//! whole axis of the recurrences.

use fuse_ir::expr::Dim;

use super::analysis::Analysis;
use super::emitter::{Emitted, Emitter, floor_division};
use crate::kernel_ir::{Condition, Function, LaneType, Mapping, Operation, Type};

/// Accumulators that the loop of a thread carries.
const ACCUMULATORS: usize = 8;

/// One thread computes one point of the flattened space, the innermost axis fastest; threads past the end do
/// nothing.
pub(super) fn schedule(analysis: &Analysis, block: u32) -> Emitted<Function> {
    let kernel = analysis.kernel;
    let axes = analysis.space_axes();
    let work = axes.iter().map(|a| analysis.extent(*a).clone()).fold(Dim::constant(1), |a, b| a * b);
    let mut emitter = Emitter::new(analysis, None, ACCUMULATORS);
    let mut point = emitter.origin();
    let item = emitter.b.operation(Type::scalar(LaneType::I64), Operation::WorkItem);
    let count = emitter.dimension(&work)?;
    let inside = emitter.b.compare(Condition::Lt, item, count);
    emitter.b.open_if();
    emitter.guard(analysis.space_symbols());
    let mut rest = item;
    for (i, axis) in axes.iter().enumerate().rev() {
        if i == 0 {
            // The item is within the space, so what is left is the outermost coordinate.
            point = point.with(*axis, rest);
            break;
        }
        let extent = emitter.dimension(analysis.extent(*axis))?;
        let (quotient, coordinate) = floor_division(&mut emitter.b, rest, extent, true);
        point = point.with(*axis, coordinate);
        rest = quotient;
    }
    emitter.tile(std::slice::from_ref(&point), 1)?;
    emitter.b.close_if(inside);
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    Ok(emitter.b.finish(kernel.name.clone(), buffers, symbols, work, Mapping::Threads { block }))
}
