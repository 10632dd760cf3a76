//! What points read of their own from step to step, such as the memory cell of an LSTM: on chip as long as a loop runs.
//!
//! The thread that computes an element of such a state at one step is the thread that needs it at the next. The first step
//! reads it from memory; from then on it is in the shared memory of the block. Where nobody else reads the state, only the
//! last step writes it to memory, if somebody reads it after the loop. A state that others read, too, as that of a GRU, is
//! in both places. That follows from the kernels of the loop: one of them alone stores the state, and a load is of the element
//! that its own point stores, or of its row where one block computes whole rows.
//!
//! How many rows there are is often not known when code is made. The array then has places for so many, and what is behind
//! these is read and written in memory at every step. Where several threads may look at an element, as those of a row, there
//! are two halves of the array, of which a step reads one and writes the other.
//!
//! ```text
//! array    [half][pass of the block over its points][element of the pass]
//! ```

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{BufferId, BufferKind, Carry, ElementId, KernelGraph, Loop, Step};

use super::super::access::Access;
use super::super::analysis::{Analysis, AxisSet};
use super::super::emitter::{Emitter, OwnLoad, OwnPlace, OwnStore, ToMemory};
use super::{Parameters, Phase};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, LaneType, ParameterId, SharedId, ValueId};

/// The states of one kernel that its own points read.
#[derive(Default)]
pub(in super::super) struct OwnStates {
    states: Vec<OwnState>,
    layout: OwnLayout,
}

/// One state.
struct OwnState {
    /// The half that a step reads, as the kernel graph names it.
    buffer: BufferId,
    current: ParameterId,
    next: ParameterId,
    lane: LaneType,
    /// The loads of what their own points stored.
    loads: Vec<ElementId>,
    /// Whether steps load it otherwise, too.
    is_exchanged: bool,
    /// Whether somebody reads it after the loop.
    is_read: bool,
    array: Option<SharedId>,
}

/// What a kernel's schedule takes of each of its own states.
#[derive(Clone, Copy, Default, Debug)]
pub(in super::super) struct OwnLayout {
    /// 1 where the thread that stores an element is the only one to load it.
    pub(in super::super) halves: i64,
    /// Elements that the block has in one pass over its points.
    pub(in super::super) elements: i64,
    /// Passes that there are places for.
    pub(in super::super) passes: i64,
    /// Whether there are no more.
    pub(in super::super) is_all: bool,
}

impl OwnLayout {
    /// Places for so many passes, or for as many as are usual where it is not known how many there are.
    pub(in super::super) fn new(halves: i64, elements: i64, passes: Option<i64>, usual: i64) -> OwnLayout {
        OwnLayout { halves, elements, passes: passes.unwrap_or(usual).max(1), is_all: passes.is_some() }
    }

    /// The bytes that a state takes.
    fn bytes(&self, lane: LaneType) -> i64 {
        (self.halves * self.elements * self.passes * i64::from(lane.bytes()) + 15) & !15
    }
}

/// How far the loop has come.
#[derive(Clone, Copy)]
pub(in super::super) struct Progress {
    is_first: ValueId,
    is_last: ValueId,
    pub(super) parity: ValueId,
}

impl Progress {
    /// When a state goes to memory that steps read elsewhere.
    pub(super) fn to_memory(self, is_read: bool) -> ToMemory {
        if is_read { ToMemory::If(self.is_last) } else { ToMemory::Never }
    }

    /// At a step of so many.
    pub(super) fn new(b: &mut FunctionBuilder, step: ValueId, trip: ValueId) -> Progress {
        let one = b.index(1);
        let following = b.add(step, one);
        Progress {
            is_first: b.compare_integer(Condition::Eq, step, 0),
            is_last: b.compare(Condition::Eq, following, trip),
            parity: b.and(step, one),
        }
    }
}

/// The states of a phase at a step.
#[derive(Clone, Copy)]
pub(in super::super) struct OwnPhase<'a> {
    states: &'a OwnStates,
    progress: Progress,
}

impl<'a> OwnPhase<'a> {
    /// `None` where there are no such states.
    pub(super) fn new(states: &'a OwnStates, progress: Option<Progress>) -> Option<OwnPhase<'a>> {
        let progress = progress.filter(|_| !states.is_empty())?;
        Some(OwnPhase { states, progress })
    }
}

impl OwnStates {
    /// Those of a kernel among the kernels of a loop, as many as fit so many bytes of shared memory.
    pub(super) fn new(
        graph: &KernelGraph,
        l: &Loop,
        (analyses, parameters): (&[Analysis], &Parameters),
        (analysis, phase): (&Analysis, &Phase),
        (blocks, free): (u32, u32),
    ) -> OwnStates {
        let Some(mut layout) = phase.own_layout(analysis, blocks) else { return OwnStates::default() };
        if analysis.space().iter().any(|extent| extent.symbols().contains(&l.counter)) {
            return OwnStates::default();
        }
        let mut states = Vec::new();
        for carry in &l.carries {
            let [current, next] = [carry.current, carry.next].map(|id| parameters.positions[&id]);
            let loads = own_loads(analyses, (analysis, phase), [current, next], &l.counter);
            if loads.is_empty() {
                continue;
            }
            let of_state = |a: &Analysis| a.loads.values().filter(|access| access.buffer == current).count();
            states.push(OwnState {
                buffer: carry.current,
                current,
                next,
                lane: LaneType::of_memory(graph.buffer(carry.current).ty.dtype),
                is_exchanged: analyses.iter().map(of_state).sum::<usize>() > loads.len(),
                loads,
                is_read: is_read_elsewhere(graph, l, carry),
                array: None,
            });
        }
        let fitting = |states: &[OwnState]| {
            let one_pass = states.iter().map(|s| OwnLayout { passes: 1, ..layout }.bytes(s.lane)).sum();
            i64::from(free).checked_div(one_pass).unwrap_or(0)
        };
        if fitting(&states) < layout.passes {
            // These are in memory anyway.
            states.retain(|s| !s.is_exchanged);
        }
        let passes = fitting(&states);
        if passes < layout.passes {
            (layout.passes, layout.is_all) = (passes, false);
        }
        if passes == 0 {
            states.clear();
        }
        OwnStates { states, layout }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The states that no other block needs, as the kernel graph names what a step reads.
    pub(super) fn buffers(&self) -> impl Iterator<Item = BufferId> {
        self.states.iter().filter(|s| !s.is_exchanged).map(|s| s.buffer)
    }

    /// The bytes of shared memory that they take.
    pub(super) fn shared_bytes(&self) -> u32 {
        let bytes: i64 = self.states.iter().map(|s| self.layout.bytes(s.lane)).sum();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Allocates their shared memory.
    pub(super) fn prepare(&mut self, b: &mut FunctionBuilder, parameters: &Parameters) {
        let OwnLayout { halves, elements, passes, .. } = self.layout;
        let elements = u32::try_from(halves * elements * passes).unwrap_or(u32::MAX);
        for state in &mut self.states {
            let name = format!("{}.own", parameters.buffers[state.current.0 as usize].name);
            state.array = Some(b.shared_array(name, state.lane, elements));
        }
    }
}

impl OwnPhase<'_> {
    /// What a loop over points carries: the element of its first point, and that of the same thread a pass later.
    pub(in super::super) fn next_pass(&self, b: &mut FunctionBuilder, element: ValueId) -> ValueId {
        let elements = b.index(self.states.layout.elements);
        b.add(element, elements)
    }

    /// Has the emitter take the states from where they are in a pass of the block: from element `first` of all passes on for
    /// loads and stores that go along one of some axes, otherwise there.
    pub(in super::super) fn place(&self, emitter: &mut Emitter, first: ValueId, along: AxisSet) {
        let OwnPhase { states, progress } = self;
        let OwnLayout { halves, elements, passes, is_all } = states.layout;
        let b = &mut emitter.b;
        let half = b.index(elements * passes * (halves - 1));
        let read = b.mul(progress.parity, half);
        let written = b.sub(half, read);
        let [read, written] = [read, written].map(|half| b.add(first, half));
        let is_there = (!is_all).then(|| b.compare_integer(Condition::Lt, first, elements * passes));
        let is_elsewhere = is_there.map(|is_there| b.not(is_there));
        let or_elsewhere = |b: &mut FunctionBuilder, condition: ValueId| {
            is_elsewhere.map_or(condition, |elsewhere| b.binary(BinaryOp::Or, condition, elsewhere))
        };
        let in_memory = or_elsewhere(b, progress.is_first);
        let is_last = or_elsewhere(b, progress.is_last);
        for state in &states.states {
            let Some(array) = state.array else { continue };
            let to_memory = match (state.is_exchanged, state.is_read) {
                (true, _) => ToMemory::Always,
                (false, true) => ToMemory::If(is_last),
                (false, false) => is_elsewhere.map_or(ToMemory::Never, ToMemory::If),
            };
            let place = |first| OwnPlace { array, first, along };
            let loads = state.loads.iter().map(|load| (*load, OwnLoad { place: place(read), in_memory }));
            emitter.own_loads.extend(loads);
            emitter.own_stores.insert(state.next, OwnStore { place: place(written), is_there, to_memory });
        }
    }
}

/// The loads of what their own points stored of a state a step before, if a kernel alone stores it.
fn own_loads(
    analyses: &[Analysis],
    (own, phase): (&Analysis, &Phase),
    [current, next]: [ParameterId; 2],
    counter: &Symbol,
) -> Vec<ElementId> {
    let stores = |a: &Analysis, buffer| a.stores.iter().filter(|s| s.access.buffer == buffer).count();
    let is_stored_elsewhere = analyses.iter().any(|a| {
        let loads_next = a.loads.values().any(|access| access.buffer == next);
        loads_next || stores(a, current) > 0 || stores(a, next) != usize::from(std::ptr::eq(a, own))
    });
    let is_plain = |access: &Access| {
        access.dynamic.is_empty() && access.guard.is_none() && !access.all_symbols().contains(counter)
    };
    let store = own.stores.iter().map(|s| &s.access).find(|access| access.buffer == next);
    let Some(store) = store.filter(|store| !is_stored_elsewhere && is_plain(store)) else {
        return Vec::new();
    };
    let is_own = |(load, access): &(&ElementId, &Access)| {
        access.buffer == current && is_plain(access) && phase.loads_own(own, **load, store)
    };
    let mut loads: Vec<ElementId> = own.loads.iter().filter(is_own).map(|(load, _)| *load).collect();
    loads.sort_unstable();
    loads
}

/// Whether something beside the kernels of a loop may read a state that it carries. What runs around the loop runs it again.
pub(super) fn is_read_elsewhere(graph: &KernelGraph, l: &Loop, carry: &Carry) -> bool {
    fn reads(steps: &[Step], l: &Loop, buffer: BufferId) -> bool {
        steps.iter().any(|step| match step {
            Step::Kernel(kernel) => kernel.loads().contains(&buffer),
            Step::Loop(other) if std::ptr::eq(other, l) => false,
            Step::Loop(other) => contains(&other.body, l) || reads(&other.body, l, buffer),
        })
    }
    fn contains(steps: &[Step], l: &Loop) -> bool {
        steps.iter().any(|step| match step {
            Step::Kernel(_) => false,
            Step::Loop(other) => std::ptr::eq(other, l) || contains(&other.body, l),
        })
    }
    [carry.current, carry.next]
        .into_iter()
        .any(|buffer| graph.buffer(buffer).kind != BufferKind::State || reads(&graph.steps, l, buffer))
}
