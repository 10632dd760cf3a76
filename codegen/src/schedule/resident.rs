//! Whole loops over time as one launch of blocks that all run at the same time.
//!
//! A launch a step costs the host a launch a step, and each of them reads the weights anew. Here the loop is in the
//! code: the kernels of its body are phases that follow each other, and the blocks of the launch meet between them
//! ([`Statement::GridBarrier`](crate::kernel_ir::Statement::GridBarrier)). The blocks stay the same from step to step,
//! so that what a block needs of the weights can stay in its shared memory.
//!
//! A phase is scheduled as [`split`](super::split) sums, by [`rows`](super::rows) or point by point. Where the device has
//! clusters of blocks and the weights fit a few blocks, these exchange states by themselves ([`cluster`]).

mod cluster;
pub(super) mod own;

use std::collections::{BTreeMap, BTreeSet};

use fuse_ir::device::DeviceModel;
use fuse_ir::expr::{Dim, Symbol};
use fuse_ir::kernel::{BufferId, Element, ElementId, Kernel, KernelGraph, Loop, Step};
use fuse_ir::ops::Direction;

use super::analysis::{Analysis, axis_set, ceil_div};
use super::block::{Numbers, THREADS};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter};
use super::plan::{ClusterPlan, LoopPlan, PhaseForm, PhasePlan, StatePlace, StatePlan};
use super::rows::Rows;
use super::split::{Exchange, Split};
use super::{GpuLimits, LoopForm, Rounding, ScheduleError};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{Access, BufferParameter, Function, Mapping, MatrixFactors, ParameterId, ValueId};
use cluster::Cluster;
use own::{OwnLayout, OwnPhase, OwnStates, Progress};

/// Points of a thread whose states stay on chip where it is not known how many there are.
const USUAL_PASSES: i64 = 4;

/// The name of the function that runs all steps of a loop.
pub fn resident_name(l: &Loop) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("steps_{}", l.counter.name().chars().map(word).collect::<String>())
}

/// All steps of a loop as one function; `None` where its body has loops, or nothing at all.
pub(super) fn schedule(
    graph: &KernelGraph,
    l: &Loop,
    (limits, rounding, form): (GpuLimits, Rounding, LoopForm),
) -> Result<Option<Function>, ScheduleError> {
    let (resident, cluster) = decide(graph, l, (limits, rounding, form))?;
    if let Some(mut cluster) = cluster {
        let (work, mapping) = (cluster.work(), cluster.mapping());
        let builder = cluster.emit(l)?;
        let Resident { parameters, symbols, .. } = cluster.resident;
        return Ok(Some(builder.finish(resident_name(l), parameters.buffers, symbols, work, mapping)));
    }
    let Some(resident) = resident else { return Ok(None) };
    let own = resident.own_states(graph, l, limits);
    let Resident { analyses, phases, parameters, symbols } = resident;
    let builder = emit(&analyses, (phases, own), l, &parameters, limits)?;
    let work = Dim::constant(i64::from(limits.multiprocessors));
    let mapping = Mapping::Resident { threads: THREADS };
    Ok(Some(builder.finish(resident_name(l), parameters.buffers, symbols, work, mapping)))
}

/// What is decided about all steps of a loop as one launch; `None` where they are none.
pub(super) fn plan(
    graph: &KernelGraph,
    l: &Loop,
    (limits, rounding, form): (GpuLimits, Rounding, LoopForm),
) -> Result<Option<LoopPlan>, ScheduleError> {
    let (resident, cluster) = decide(graph, l, (limits, rounding, form))?;
    let of_cluster = |c: &Cluster| ClusterPlan {
        blocks: c.blocks,
        rows: c.rows.clone(),
        rows_at_once: u32::try_from(c.rows_at_once).unwrap_or(u32::MAX),
        image_bytes: c.image_bytes(),
    };
    let plan = cluster.as_ref().map(of_cluster);
    let images = cluster.as_ref().map(Cluster::state_places);
    let Some(resident) = cluster.map(|c| c.resident).or(resident) else { return Ok(None) };
    let pairs = resident.analyses.iter().zip(&resident.phases);
    let own = if plan.is_none() { resident.own_states(graph, l, limits) } else { Vec::new() };
    let own_bytes: u32 = own.iter().map(OwnStates::shared_bytes).sum();
    let is_own = |buffer| own.iter().any(|own| own.buffers().any(|b| b == buffer));
    let places = l.carries.iter().map(|carry| StatePlan {
        buffer: carry.current,
        place: match &images {
            Some(images) => images.get(&resident.parameters.positions[&carry.current]).copied(),
            None => is_own(carry.current).then_some(StatePlace::OwnBlock),
        }
        .unwrap_or(StatePlace::Memory),
    });
    Ok(Some(LoopPlan {
        name: resident_name(l),
        blocks: plan.as_ref().map_or(limits.multiprocessors, |c| c.blocks),
        threads: THREADS,
        shared_bytes: resident.shared_bytes() + own_bytes + plan.as_ref().map_or(0, |c| c.image_bytes),
        states: places.collect(),
        phases: pairs.map(|(analysis, phase)| phase.plan(analysis, &l.counter)).collect(),
        cluster: plan,
    }))
}

/// The loop as one launch, if it is one, and by clusters where that is better.
fn decide<'a>(
    graph: &'a KernelGraph,
    l: &'a Loop,
    (limits, rounding, form): (GpuLimits, Rounding, LoopForm),
) -> Result<(Option<Resident<'a>>, Option<Cluster<'a>>), ScheduleError> {
    if form == LoopForm::Steps {
        return Ok((None, None));
    }
    let resident = Resident::new(graph, l, (limits, rounding), Exchange::Memory)?;
    let cluster = match (&resident, form) {
        (Some(grid), LoopForm::Clusters) => Cluster::new(graph, l, (limits, rounding), grid)?,
        (_, LoopForm::Clusters | LoopForm::Grid | LoopForm::Steps) => None,
    };
    Ok((resident, cluster))
}

/// The kernels of a loop as phases of one launch.
struct Resident<'a> {
    analyses: Vec<Analysis<'a>>,
    phases: Vec<Phase>,
    parameters: Parameters,
    symbols: Vec<Symbol>,
}

impl<'a> Resident<'a> {
    /// The phases of blocks that hand on what others need there.
    fn new(
        graph: &'a KernelGraph,
        l: &'a Loop,
        (limits, rounding): (GpuLimits, Rounding),
        exchange: Exchange,
    ) -> Result<Option<Self>, ScheduleError> {
        let mut kernels: Vec<&Kernel> = Vec::with_capacity(l.body.len());
        for step in &l.body {
            match step {
                Step::Kernel(kernel) => kernels.push(kernel),
                Step::Loop(_) => return Ok(None),
            }
        }
        if kernels.is_empty() {
            return Ok(None);
        }
        let parameters = Parameters::new(graph, l, &kernels);
        let mut analyses = Vec::with_capacity(kernels.len());
        for kernel in &kernels {
            let mut analysis = Analysis::new(graph, kernel, None)?;
            analysis.join(&parameters.positions, &parameters.buffers);
            analyses.push(analysis);
        }
        let mut symbols: BTreeSet<Symbol> = analyses.iter().flat_map(|a| a.symbols.iter().cloned()).collect();
        symbols.extend(l.trip.symbols());
        symbols.remove(&l.counter);
        let symbols: Vec<Symbol> = symbols.into_iter().collect();
        analyses.iter_mut().for_each(|a| a.symbols.clone_from(&symbols));
        let mut phases = Vec::with_capacity(analyses.len());
        let mut free = limits.shared_bytes;
        for analysis in &analyses {
            let left = GpuLimits { shared_bytes: free, ..limits };
            let phase = Phase::new(analysis, &l.counter, left, rounding, exchange);
            free -= phase.shared_bytes(analysis).min(free);
            phases.push(phase);
        }
        // Beside weights that come from memory at every step, what rows have in common is little, and registers are short.
        if phases.iter().all(Phase::keeps_weights) {
            for (analysis, phase) in analyses.iter().zip(&mut phases) {
                let Phase::Rows(rows) = phase else { continue };
                let before = rows.shared_bytes(analysis);
                rows.keep(analysis, &l.counter, free + before);
                free -= (rows.shared_bytes(analysis) - before).min(free);
            }
        }
        let mut resident = Resident { analyses, phases, parameters, symbols };
        if exchange == Exchange::Memory {
            resident.take_turns(graph, l, limits);
        }
        Ok(Some(resident))
    }

    /// Gives sums what shared memory nothing else takes.
    fn take_turns(&mut self, graph: &KernelGraph, l: &Loop, limits: GpuLimits) {
        let own: u32 = self.own_states(graph, l, limits).iter().map(OwnStates::shared_bytes).sum();
        let mut free = limits.shared_bytes.saturating_sub(self.shared_bytes().saturating_add(own));
        for phase in &mut self.phases {
            let Phase::Split(split) = phase else { continue };
            let before = split.shared_bytes();
            split.take_turns(before.saturating_add(free));
            free = free.saturating_sub(split.shared_bytes() - before);
        }
    }

    /// The bytes of shared memory that the phases take.
    fn shared_bytes(&self) -> u32 {
        self.analyses.iter().zip(&self.phases).map(|(analysis, phase)| phase.shared_bytes(analysis)).sum()
    }

    /// The states that only their own points read, of each phase, as many as fit beside what the phases take.
    fn own_states(&self, graph: &KernelGraph, l: &Loop, limits: GpuLimits) -> Vec<OwnStates> {
        let mut free = limits.shared_bytes.saturating_sub(self.shared_bytes());
        let keep_weights = self.phases.iter().all(Phase::keeps_weights);
        let of_phase = |phase: (&Analysis, &Phase)| {
            // As with what rows have in common.
            if matches!(phase.1, Phase::Rows(_)) && !keep_weights {
                return OwnStates::default();
            }
            let of_loop = (&self.analyses[..], &self.parameters);
            let own = OwnStates::new(graph, l, of_loop, phase, (limits.multiprocessors, free));
            free = free.saturating_sub(own.shared_bytes());
            own
        };
        self.analyses.iter().zip(&self.phases).map(of_phase).collect()
    }
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
    fn new(
        analysis: &Analysis,
        counter: &Symbol,
        limits: GpuLimits,
        rounding: Rounding,
        exchange: Exchange,
    ) -> Phase {
        let GpuLimits { multiprocessors, shared_bytes, tensor_cores, .. } = limits;
        let products = tensor_cores.then_some(rounding);
        if let Some(split) =
            Split::new(analysis, Some(counter), multiprocessors, shared_bytes, products, exchange)
        {
            return Phase::Split(split);
        }
        let rows =
            Rows::phase_of(analysis, multiprocessors).filter(|r| r.shared_bytes(analysis) <= shared_bytes);
        rows.map_or(Phase::Points, Phase::Rows)
    }

    /// Allocates the shared memory of what stays there, and fills it. The threads have not met since.
    fn prepare(&mut self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<()> {
        match self {
            Phase::Split(split) => split.prepare(emitter, numbers),
            Phase::Rows(rows) => rows.prepare(emitter, numbers),
            Phase::Points => Ok(()),
        }
    }

    fn is_on_tensor_cores(&self) -> bool {
        matches!(self, Phase::Split(split) if split.is_on_tensor_cores())
    }

    /// Whether what its sums need of the columns' own operands is in shared memory from the first step on.
    fn keeps_weights(&self) -> bool {
        match self {
            Phase::Split(split) => split.keeps_weights(),
            Phase::Rows(_) | Phase::Points => true,
        }
    }

    /// Whether the blocks of a cluster have shared memory for all that stays the same, and threads for every column.
    fn fits_a_cluster(&self, analysis: &Analysis, counter: &Symbol) -> bool {
        match self {
            Phase::Split(split) => split.has_all_staged(analysis, counter),
            Phase::Rows(_) | Phase::Points => true,
        }
    }

    /// How often blocks take rows in a step of so many.
    fn turns(&self, rows: i64) -> i64 {
        match self {
            Phase::Split(split) => ceil_div(rows, split.rows_at_once()),
            Phase::Rows(_) | Phase::Points => 0,
        }
    }

    /// Seconds that all multiprocessors of a device take for the sums of a row.
    fn seconds_a_row(&self, analysis: &Analysis, device: &DeviceModel) -> f64 {
        let Phase::Split(split) = self else { return 0.0 };
        let flops = split.flops_a_row(analysis);
        match split.factors() {
            None => device.tiled_seconds(flops, split.sums_a_thread().map(f64::from)),
            Some(MatrixFactors::Tf32) => flops / (device.matrix_flops_per_second / 2.0),
            Some(MatrixFactors::F16 | MatrixFactors::Bf16) => flops / device.matrix_flops_per_second,
        }
    }

    fn shared_bytes(&self, analysis: &Analysis) -> u32 {
        match self {
            Phase::Split(split) => split.shared_bytes(),
            Phase::Rows(rows) => rows.shared_bytes(analysis),
            Phase::Points => 0,
        }
    }

    /// What it takes of each state that only its own points read, if it can keep any.
    fn own_layout(&self, analysis: &Analysis, blocks: u32) -> Option<OwnLayout> {
        if analysis.recurrence_axis.is_some() {
            return None;
        }
        match self {
            Phase::Split(split) => split.own_layout(),
            Phase::Rows(rows) => rows.own_layout(analysis, blocks),
            Phase::Points => {
                let points = analysis.points(&analysis.space_axes()).as_constant();
                let at_once = i64::from(THREADS) * i64::from(blocks);
                let passes = points.map(|n| ceil_div(n, at_once));
                Some(OwnLayout::new(2, i64::from(THREADS), passes, USUAL_PASSES))
            }
        }
    }

    /// Whether a load is only of the element that the same thread, or the block, stores with an access.
    fn loads_own(&self, analysis: &Analysis, load: ElementId, store: &super::access::Access) -> bool {
        let is_point = || {
            let space = axis_set(&analysis.space_axes());
            let position = analysis.loads.get(&load).map(|access| &access.position);
            analysis.free[load.index()] & !space == 0 && position == Some(&store.position)
        };
        match self {
            Phase::Split(split) => is_point() && split.loads_at_points(analysis, load),
            Phase::Rows(rows) => rows.loads_own_row(analysis, load, store),
            Phase::Points => is_point(),
        }
    }

    /// Where its operands lie that are the same at every step.
    fn plan(&self, analysis: &Analysis, counter: &Symbol) -> PhasePlan {
        let staged: &[ElementId] = match self {
            Phase::Split(split) => &split.staged_elements(analysis),
            Phase::Rows(rows) => &rows.kept_elements(),
            Phase::Points => &[],
        };
        let (mut shared, mut memory) = (BTreeSet::new(), BTreeSet::new());
        for (id, access) in &analysis.loads {
            let Element::Load { buffer, .. } = analysis.element(*id) else { continue };
            if staged.contains(id) {
                shared.insert(*buffer);
            } else if !analysis.is_updated(access.buffer) && !access.all_symbols().contains(counter) {
                memory.insert(*buffer);
            }
        }
        let (form, rows) = match self {
            Phase::Split(split) => (split.form(), Some(split.rows_of(analysis))),
            Phase::Rows(_) => (PhaseForm::Rows, None),
            Phase::Points => (PhaseForm::Points, None),
        };
        let of = |buffers: BTreeSet<BufferId>| buffers.into_iter().collect();
        PhasePlan { kernel: analysis.kernel.name.clone(), form, rows, shared: of(shared), memory: of(memory) }
    }
}

fn emit(
    analyses: &[Analysis],
    (mut phases, mut own): (Vec<Phase>, Vec<OwnStates>),
    l: &Loop,
    parameters: &Parameters,
    limits: GpuLimits,
) -> Emitted<FunctionBuilder> {
    let mut b = FunctionBuilder::for_steps();
    let numbers = Numbers::new(&mut b);
    for (analysis, phase) in analyses.iter().zip(&mut phases) {
        let mut emitter = Emitter::within(analysis, b, None);
        phase.prepare(&mut emitter, numbers)?;
        b = emitter.b;
    }
    own.iter_mut().for_each(|own| own.prepare(&mut b, parameters));
    b.meet();
    let trip = match analyses.first() {
        Some(first) => {
            let mut emitter = Emitter::within(first, b, None);
            let trip = emitter.dimension(&l.trip)?;
            b = emitter.b;
            trip
        }
        None => b.index(0),
    };
    let begin = b.index(0);
    let steps = b.open_loop(&[], true);
    let position = position_of(&mut b, l, trip, steps.counter);
    let has_own = own.iter().any(|own| !own.is_empty());
    let progress = has_own.then(|| Progress::new(&mut b, steps.counter, trip));
    for ((analysis, phase), own) in analyses.iter().zip(&phases).zip(&own) {
        let mut emitter = Emitter::within(analysis, b, Some((l.counter.clone(), position)));
        let own = OwnPhase::new(own, progress);
        match phase {
            Phase::Split(split) => split.phase(&mut emitter, numbers, own)?,
            Phase::Rows(rows) => rows.phase(&mut emitter, numbers, limits.multiprocessors, (None, own))?,
            Phase::Points => points(&mut emitter, numbers, limits.multiprocessors, own)?,
        }
        b = emitter.b;
        b.meet_grid();
    }
    b.close_exchanging_loop(steps, begin, trip, 1, &[], parameters.exchanged.clone());
    Ok(b)
}

/// The position in time of a step of so many.
fn position_of(b: &mut FunctionBuilder, l: &Loop, trip: ValueId, step: ValueId) -> ValueId {
    match l.direction {
        Direction::Forward => step,
        Direction::Reverse => {
            let one = b.index(1);
            let last = b.sub(trip, one);
            b.sub(last, step)
        }
    }
}

/// Every thread computes points, as many threads apart as there are.
fn points(emitter: &mut Emitter, numbers: Numbers, blocks: u32, own_states: Option<OwnPhase>) -> Emitted<()> {
    points_of(emitter, numbers, (blocks, own_states), |emitter, own| {
        let all = emitter.analysis.points(&emitter.analysis.space_axes());
        Ok((own, emitter.dimension(&all)?))
    })
}

/// Every thread of the blocks computes points by their numbers. `range` gives its first one, from the number that the thread
/// has among all, and where they end.
fn points_of(
    emitter: &mut Emitter,
    numbers: Numbers,
    (blocks, own_states): (u32, Option<OwnPhase>),
    range: impl FnOnce(&mut Emitter, ValueId) -> Emitted<(ValueId, ValueId)>,
) -> Emitted<()> {
    let analysis = emitter.analysis;
    let axes = analysis.space_axes();
    let mut point = emitter.origin();
    let threads = emitter.b.index(i64::from(THREADS));
    let own = emitter.b.mul(numbers.block, threads);
    let own = emitter.b.add(own, numbers.thread);
    let (first, end) = range(emitter, own)?;
    let element = own_states.map(|_| numbers.thread);
    let items = emitter.b.open_loop(element.as_slice(), true);
    let own_states = own_states.zip(items.current.first().copied());
    if let Some((own, element)) = own_states {
        own.place(emitter, element, 0);
    }
    emitter.guard(analysis.space_symbols());
    let depth = emitter.b.depth();
    let extents = axes.iter().map(|a| analysis.extent(*a));
    let coordinates = coordinates(emitter, extents, items.counter)?;
    for (axis, value) in axes.iter().zip(coordinates) {
        point = point.with(*axis, value);
    }
    emitter.tile(std::slice::from_ref(&point), 1)?;
    emitter.set_guards_aside(depth - 1);
    let next = own_states.map(|(own, element)| own.next_pass(&mut emitter.b, element));
    emitter.b.close_loop(items, first, end, i64::from(THREADS) * i64::from(blocks), next.as_slice());
    Ok(())
}
