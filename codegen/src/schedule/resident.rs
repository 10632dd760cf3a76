//! Whole loops over time as one launch of blocks that all run at the same time.
//!
//! A launch a step costs the host a launch a step, and each of them reads the weights anew. Here the loop is in the
//! code: the kernels of its body are phases that follow each other, and the blocks of the launch meet between them
//! ([`Statement::GridBarrier`](crate::kernel_ir::Statement::GridBarrier)). The blocks stay the same from step to step,
//! so that what a block needs of the weights can stay in its shared memory.
//!
//! A phase is scheduled as [`split`](super::split) sums, by [`rows`](super::rows) or point by point.

use std::collections::{BTreeMap, BTreeSet};

use fuse_ir::expr::{Dim, Symbol};
use fuse_ir::kernel::{BufferId, Kernel, KernelGraph, Loop, Step};
use fuse_ir::ops::Direction;

use super::analysis::Analysis;
use super::block::{Numbers, THREADS};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter};
use super::rows::Rows;
use super::split::Split;
use super::{GpuLimits, Rounding, ScheduleError};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Access, BufferParameter, Function, Mapping, ParameterId};

/// The name of the function that runs all steps of a loop.
pub fn resident_name(l: &Loop) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("steps_{}", l.counter.name().chars().map(word).collect::<String>())
}

/// All steps of a loop as one function; `None` where its body has loops, or nothing at all.
pub(super) fn schedule(
    graph: &KernelGraph,
    l: &Loop,
    limits: GpuLimits,
    rounding: Rounding,
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
    let Some(first) = analyses.first() else { return Ok(None) };
    let builder = emit(&analyses, first, l, &parameters, (limits, rounding))?;
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
            buffers.push(BufferParameter::new(*id, declared, access));
        }
        let exchanged = l.carries.iter().map(|c| (positions[&c.current], positions[&c.next])).collect();
        Parameters { buffers, positions, exchanged }
    }
}

/// How a kernel of the loop's body is computed.
enum Phase {
    Split(Split),
    Rows(Rows),
    Points,
}

impl Phase {
    fn new(analysis: &Analysis, counter: &Symbol, limits: GpuLimits, rounding: Rounding) -> Phase {
        let GpuLimits { multiprocessors, shared_bytes, tensor_cores } = limits;
        let products = tensor_cores.then_some(rounding);
        if let Some(split) = Split::new(analysis, Some(counter), multiprocessors, shared_bytes, products) {
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
    first: &Analysis,
    l: &Loop,
    parameters: &Parameters,
    (limits, rounding): (GpuLimits, Rounding),
) -> Emitted<FunctionBuilder> {
    let mut b = FunctionBuilder::new();
    let numbers = Numbers::new(&mut b);
    let mut phases = Vec::with_capacity(analyses.len());
    let mut free = limits.shared_bytes;
    for analysis in analyses {
        let phase = Phase::new(analysis, &l.counter, GpuLimits { shared_bytes: free, ..limits }, rounding);
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
    let mut emitter = Emitter::within(first, b, None);
    let trip = emitter.dimension(&l.trip)?;
    b = emitter.b;
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
    let mut point = emitter.origin();
    let threads = emitter.b.index(i64::from(THREADS));
    let first = emitter.b.mul(numbers.block, threads);
    let first = emitter.b.add(first, numbers.thread);
    let end = emitter.dimension(&analysis.points(&axes))?;
    let items = emitter.b.open_loop(&[], true);
    emitter.guard(analysis.space_symbols());
    let depth = emitter.b.depth();
    let extents = axes.iter().map(|a| analysis.extent(*a));
    let coordinates = coordinates(emitter, extents, items.counter)?;
    for (axis, value) in axes.iter().zip(coordinates) {
        point = point.with(*axis, value);
    }
    emitter.tile(std::slice::from_ref(&point), 1)?;
    emitter.set_guards_aside(depth - 1);
    emitter.b.close_loop(items, first, end, i64::from(THREADS) * i64::from(blocks), &[]);
    Ok(())
}
