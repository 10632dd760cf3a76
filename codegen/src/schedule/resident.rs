//! Whole loops over time as one launch of blocks that all run at the same time.
//!
//! A launch a step costs the host a launch a step, and each of them reads the weights anew. Here the loop is in the
//! code: the kernels of its body are phases that follow each other, and the blocks of the launch meet between them
//! ([`Statement::GridBarrier`](crate::kernel_ir::Statement::GridBarrier)). The blocks stay the same from step to step,
//! so that what a block needs of the weights can stay in its shared memory.
//!
//! A phase is scheduled as [`split`](super::split) sums, by [`rows`](super::rows) or point by point.

use std::collections::{BTreeMap, BTreeSet};

use fuse_ir::expr::{Axis, Dim, Symbol};
use fuse_ir::kernel::{BufferId, Kernel, KernelGraph, Loop, Step};
use fuse_ir::ops::Direction;

use super::analysis::Analysis;
use super::emitter::{Emitted, Emitter, floor_division};
use super::rows::Rows;
use super::split::Split;
use super::{GpuLimits, ScheduleError};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{
    Access, BufferParameter, Condition, Function, LaneType, Mapping, Operation, ParameterId, Type, ValueId,
};

/// Threads of a block: as many as still have 128 registers each.
pub(super) const THREADS: u32 = 512;

/// The name of the function that runs all steps of a loop.
pub fn resident_name(l: &Loop) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("steps_{}", l.counter.name().chars().map(word).collect::<String>())
}

/// All steps of a loop as one function; `None` where its body has loops.
pub(super) fn schedule(
    graph: &KernelGraph,
    l: &Loop,
    limits: GpuLimits,
) -> Result<Option<Function>, ScheduleError> {
    let mut kernels: Vec<&Kernel> = Vec::with_capacity(l.body.len());
    for step in &l.body {
        match step {
            Step::Kernel(kernel) => kernels.push(kernel),
            Step::Loop(_) => return Ok(None),
        }
    }
    let parameters = Parameters::new(graph, l, &kernels);
    let mut analyses = Vec::with_capacity(kernels.len());
    for kernel in &kernels {
        let mut analysis = Analysis::new(graph, kernel)?;
        analysis.join(&parameters.positions, &parameters.buffers);
        analyses.push(analysis);
    }
    let mut symbols: BTreeSet<Symbol> = analyses.iter().flat_map(|a| a.symbols.iter().cloned()).collect();
    symbols.extend(l.trip.symbols());
    symbols.remove(&l.counter);
    let symbols: Vec<Symbol> = symbols.into_iter().collect();
    analyses.iter_mut().for_each(|a| a.symbols.clone_from(&symbols));
    let builder = emit(&analyses, l, &parameters, limits)?;
    let work = Dim::constant(i64::from(limits.multiprocessors));
    let mapping = Mapping::Resident { threads: THREADS };
    Ok(Some(builder.finish(resident_name(l), parameters.buffers, symbols, work, mapping)))
}

/// The buffers of all kernels of a loop.
struct Parameters {
    buffers: Vec<BufferParameter>,
    positions: BTreeMap<BufferId, ParameterId>,
    /// The halves of each state.
    exchanged: Vec<(ParameterId, ParameterId)>,
}

impl Parameters {
    fn new(graph: &KernelGraph, l: &Loop, kernels: &[&Kernel]) -> Parameters {
        let stored = kernels.iter().flat_map(|k| k.stores.iter().map(|s| s.buffer));
        let halves = l.carries.iter().flat_map(|c| [c.current, c.next]);
        let written: BTreeSet<BufferId> = stored.chain(halves).collect();
        let loaded: BTreeSet<BufferId> = kernels.iter().flat_map(|k| k.loads()).collect();
        let mut buffers = Vec::new();
        let mut positions = BTreeMap::new();
        for id in loaded.union(&written) {
            let declared = graph.buffer(*id);
            // Also where it is only written: in the next step another block may read or write beside it.
            let access = if written.contains(id) { Access::ReadWrite } else { Access::Read };
            positions.insert(*id, ParameterId(buffers.len() as u32));
            let (name, dtype) = (declared.name.clone(), declared.ty.dtype);
            buffers.push(BufferParameter { name, dtype, access, buffer: *id });
        }
        let exchanged = l.carries.iter().map(|c| (positions[&c.current], positions[&c.next])).collect();
        Parameters { buffers, positions, exchanged }
    }
}

/// What the numbers of block and thread are called.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) block: ValueId,
    pub(super) thread: ValueId,
}

impl Numbers {
    fn new(b: &mut FunctionBuilder) -> Numbers {
        let index = Type::scalar(LaneType::I64);
        Numbers { block: b.operation(index, Operation::Block), thread: b.operation(index, Operation::Thread) }
    }
}

/// A kernel outside of loops that has few rows and long sums, or statistics of rows, by blocks; `None` for others.
pub(super) fn alone(analysis: &Analysis, limits: GpuLimits) -> Emitted<Option<Function>> {
    let split = Split::new(analysis, None, limits.multiprocessors, limits.shared_bytes);
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

/// How a kernel of the loop's body is computed.
enum Phase {
    Split(Split),
    Rows(Rows),
    Points,
}

impl Phase {
    fn new(analysis: &Analysis, counter: &Symbol, blocks: u32, shared_bytes: u32) -> Phase {
        if let Some(split) = Split::new(analysis, Some(counter), blocks, shared_bytes) {
            return Phase::Split(split);
        }
        let rows = Rows::new(analysis).filter(|rows| rows.shared_bytes() <= shared_bytes);
        rows.map_or(Phase::Points, Phase::Rows)
    }

    fn shared_bytes(&self) -> u32 {
        match self {
            Phase::Split(split) => split.shared_bytes(),
            Phase::Rows(rows) => rows.shared_bytes(),
            Phase::Points => 0,
        }
    }
}

fn emit(
    analyses: &[Analysis],
    l: &Loop,
    parameters: &Parameters,
    limits: GpuLimits,
) -> Emitted<FunctionBuilder> {
    let mut b = FunctionBuilder::new();
    let numbers = Numbers::new(&mut b);
    let mut phases = Vec::with_capacity(analyses.len());
    let mut free = limits.shared_bytes;
    for analysis in analyses {
        let phase = Phase::new(analysis, &l.counter, limits.multiprocessors, free);
        free -= phase.shared_bytes().min(free);
        phases.push(phase);
    }
    for (analysis, phase) in analyses.iter().zip(&mut phases) {
        let mut emitter = Emitter::within(analysis, b, None);
        match phase {
            Phase::Split(split) => split.prepare(&mut emitter, numbers)?,
            Phase::Rows(rows) => rows.prepare(&mut emitter),
            Phase::Points => {}
        }
        b = emitter.b;
    }
    b.meet();
    let first = analyses.first();
    let trip = match first {
        Some(analysis) => {
            let mut emitter = Emitter::within(analysis, b, None);
            let trip = emitter.dimension(&l.trip)?;
            b = emitter.b;
            trip
        }
        None => b.index(0),
    };
    let begin = b.index(0);
    let steps = b.open_loop(&[], true);
    let position = match l.direction {
        Direction::Forward => steps.counter,
        Direction::Reverse => {
            let one = b.index(1);
            let last = b.sub(trip, one);
            b.sub(last, steps.counter)
        }
    };
    for (analysis, phase) in analyses.iter().zip(&phases) {
        let mut emitter = Emitter::within(analysis, b, Some((l.counter.clone(), position)));
        match phase {
            Phase::Split(split) => split.phase(&mut emitter, numbers)?,
            Phase::Rows(rows) => rows.phase(&mut emitter, numbers, limits.multiprocessors)?,
            Phase::Points => points(&mut emitter, numbers, limits.multiprocessors)?,
        }
        b = emitter.b;
        b.meet_grid();
    }
    b.close_exchanging_loop(steps, begin, trip, 1, &[], parameters.exchanged.clone());
    Ok(b)
}

/// Every thread computes points, as many threads apart as there are.
fn points(emitter: &mut Emitter, numbers: Numbers, blocks: u32) -> Emitted<()> {
    let analysis = emitter.analysis;
    let axes = analysis.space_axes();
    let work = axes.iter().map(|a| analysis.extent(*a).clone()).fold(Dim::constant(1), |a, b| a * b);
    let mut point = emitter.origin();
    let threads = emitter.b.index(i64::from(THREADS));
    let first = emitter.b.mul(numbers.block, threads);
    let first = emitter.b.add(first, numbers.thread);
    let end = emitter.dimension(&work)?;
    let items = emitter.b.open_loop(&[], true);
    emitter.guard(analysis.space_symbols());
    let depth = emitter.b.depth();
    let coordinates = coordinates(emitter, &axes, items.counter)?;
    for (axis, value) in axes.iter().zip(coordinates) {
        point = point.with(*axis, value);
    }
    emitter.tile(std::slice::from_ref(&point), 1)?;
    emitter.set_guards_aside(depth - 1);
    emitter.b.close_loop(items, first, end, i64::from(THREADS) * i64::from(blocks), &[]);
    Ok(())
}

/// The coordinates of a number along axes of which the last changes fastest.
pub(super) fn coordinates(emitter: &mut Emitter, axes: &[Axis], number: ValueId) -> Emitted<Vec<ValueId>> {
    let mut rest = number;
    let mut coordinates = Vec::with_capacity(axes.len());
    for (i, axis) in axes.iter().enumerate().rev() {
        if i == 0 {
            // The number is within the space, so what is left is the outermost coordinate.
            coordinates.push(rest);
            break;
        }
        let extent = emitter.dimension(emitter.analysis.extent(*axis))?;
        let (quotient, coordinate) = floor_division(&mut emitter.b, rest, extent, true);
        coordinates.push(coordinate);
        rest = quotient;
    }
    coordinates.reverse();
    Ok(coordinates)
}

/// Whether a value is below a bound, both i64.
pub(super) fn below(b: &mut FunctionBuilder, value: ValueId, bound: ValueId) -> ValueId {
    b.compare(Condition::Lt, value, bound)
}
