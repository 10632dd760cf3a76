//! States that nobody but their own points read, such as the memory cell of an LSTM: on chip as long as a loop runs.
//!
//! Of such a state the thread that computes an element at one step is the thread that needs it at the next, so no other
//! block has to see it. The first step reads the state from memory, the last one writes it there if somebody reads it after
//! the loop; between these it stays in the shared memory of the block. That follows from the kernels of the loop: one of them
//! alone stores the state, and all loads are of the element that their own point stores, or of its row where one block
//! computes whole rows.
//!
//! How many rows there are is often not known when code is made. The array then has places for so many, and what is behind
//! these is read and written in memory at every step. Where several threads may look at an element, as those of a row, there
//! are two halves of the array, of which a step reads one and writes the other.
//!
//! ```text
//! array    [half][pass of the block over its points][element of the pass]
//! ```

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{BufferId, BufferKind, Carry, KernelGraph, Loop, Step};

use super::super::access::Access;
use super::super::analysis::{Analysis, AxisSet};
use super::super::emitter::{Emitter, OwnPlace};
use super::{Parameters, Phase};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, LaneType, ParameterId, SharedId, ValueId};

/// The states of one kernel that only its own points read.
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
    parity: ValueId,
}

impl Progress {
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
            if is_own(analyses, (analysis, phase), [current, next], &l.counter) {
                let lane = LaneType::of_memory(graph.buffer(carry.current).ty.dtype);
                let is_read = is_read_elsewhere(graph, l, carry);
                states.push(OwnState { buffer: carry.current, current, next, lane, is_read, array: None });
            }
        }
        let one_pass: i64 =
            states.iter().map(|s| OwnLayout { passes: 1, ..layout }.bytes(s.lane)).sum();
        let fitting = i64::from(free).checked_div(one_pass).unwrap_or(0);
        if fitting < layout.passes {
            (layout.passes, layout.is_all) = (fitting, false);
        }
        if layout.passes == 0 {
            states.clear();
        }
        OwnStates { states, layout }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The states, as the kernel graph names what a step reads.
    pub(super) fn buffers(&self) -> impl Iterator<Item = BufferId> {
        self.states.iter().map(|s| s.buffer)
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
    /// Has the emitter take the states from where they are in a pass of the block: from element `first` of the pass on for
    /// loads and stores that go along one of some axes, otherwise there.
    pub(in super::super) fn place(
        &self,
        emitter: &mut Emitter,
        (pass, first): (ValueId, ValueId),
        along: AxisSet,
    ) {
        let OwnPhase { states, progress } = self;
        let OwnLayout { halves, elements, passes, is_all } = states.layout;
        let b = &mut emitter.b;
        let elements_of_pass = b.index(elements);
        let before = b.mul(pass, elements_of_pass);
        let first = b.add(before, first);
        let half = b.index(elements * passes * (halves - 1));
        let read = b.mul(progress.parity, half);
        let written = b.sub(half, read);
        let [read, written] = [read, written].map(|half| b.add(first, half));
        let is_there = (!is_all).then(|| b.compare_integer(Condition::Lt, pass, passes));
        let is_elsewhere = is_there.map(|is_there| b.not(is_there));
        let or_elsewhere = |b: &mut FunctionBuilder, condition: ValueId| {
            is_elsewhere.map_or(condition, |elsewhere| b.binary(BinaryOp::Or, condition, elsewhere))
        };
        let from_memory = or_elsewhere(b, progress.is_first);
        let to_memory = or_elsewhere(b, progress.is_last);
        for state in &states.states {
            let Some(array) = state.array else { continue };
            let to_memory = if state.is_read { Some(to_memory) } else { is_elsewhere };
            let place = |first, in_memory| OwnPlace { array, first, along, is_there, in_memory };
            emitter.own.insert(state.current, place(read, Some(from_memory)));
            emitter.own.insert(state.next, place(written, to_memory));
        }
    }
}

/// Whether the points of a kernel alone read what they store of a state.
fn is_own(
    analyses: &[Analysis],
    (own, phase): (&Analysis, &Phase),
    [current, next]: [ParameterId; 2],
    counter: &Symbol,
) -> bool {
    let stores = |a: &Analysis, buffer| a.stores.iter().filter(|s| s.access.buffer == buffer).count();
    let loads = |a: &Analysis, buffer| a.loads.values().any(|access| access.buffer == buffer);
    let is_elsewhere = analyses.iter().any(|a| {
        let is_own = std::ptr::eq(a, own);
        loads(a, next) || stores(a, current) > 0 || (!is_own && (loads(a, current) || stores(a, next) > 0))
    });
    if is_elsewhere || stores(own, next) != 1 {
        return false;
    }
    let Some(store) = own.stores.iter().find(|s| s.access.buffer == next) else { return false };
    let is_plain = |access: &Access| {
        access.dynamic.is_empty() && access.guard.is_none() && !access.all_symbols().contains(counter)
    };
    let mut of_state = own.loads.iter().filter(|(_, access)| access.buffer == current);
    is_plain(&store.access)
        && of_state.all(|(load, access)| is_plain(access) && phase.loads_own(own, *load, &store.access))
}

/// Whether something beside the kernels of a loop may read a state that it carries. What runs around the loop runs it again.
fn is_read_elsewhere(graph: &KernelGraph, l: &Loop, carry: &Carry) -> bool {
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
    [carry.current, carry.next].into_iter().any(|buffer| {
        graph.buffer(buffer).kind != BufferKind::State || reads(&graph.steps, l, buffer)
    })
}
