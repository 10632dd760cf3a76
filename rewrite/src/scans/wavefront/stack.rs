//! Which loops form a stack, and what it takes to let them run beside each other.
//!
//! A loop stands on another if each of its steps reads what the other stores at the same step. What lies between
//! the two (the projection of the upper one's inputs, over all steps at once) is computed in the upper loop's
//! kernels, where it is read. What the lower loop hands up is then a state: at the time the upper loop reads what
//! step `t` made, the lower one is making that of step `t + 1`.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, Kernel, KernelGraph, Loop, Step, Store,
};
use fuse_ir::ops::Direction;
use fuse_ir::{Dim, Expr, TensorType};
use smallvec::SmallVec;

use super::Program;
use super::access::Access;
use crate::kernel_builder::{KernelBuilder, Names};
use crate::kernel_copy::{Copier, Inlined};

/// Loops that can run as a wavefront, with all that stands among them.
#[derive(Debug)]
pub struct Stack {
    /// The steps of the program that it takes the place of.
    pub range: Range<usize>,
    /// The number of steps of every loop.
    pub trip: Dim,
    /// The loops, the lowest first.
    pub layers: Vec<Layer>,
    /// What ran among the loops and needs none of them.
    pub before: Vec<Step>,
    /// What ran among the loops and none of them needs.
    pub after: Vec<Step>,
    /// The buffers of the program, and those that hand values up.
    pub buffers: Vec<Buffer>,
}

/// A loop of a stack.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its position.
    pub counter: Symbol,
    /// Its states.
    pub carries: Vec<Carry>,
    /// What one step runs.
    pub kernels: Vec<Member>,
    /// States that were added to hand values up; its kernels store them as the next ones.
    pub handed: Vec<Carry>,
}

/// A kernel of a step.
#[derive(Clone, Debug)]
pub struct Member {
    /// The kernel.
    pub kernel: Kernel,
    /// The names of the kernels that it does the work of.
    pub origins: BTreeSet<String>,
}

/// The loop of a step, if it can be a layer.
pub fn layer(step: &Step) -> Option<&Loop> {
    let Step::Loop(l) = step else { return None };
    let plain = |step: &Step| match step {
        Step::Kernel(kernel) => kernel.recurrence_axis().is_none(),
        Step::Loop(_) => false,
    };
    (l.direction == Direction::Forward && l.body.iter().all(plain)).then_some(l)
}

/// The positions of loops of which each may stand on the one before it, from the first that has one upon it at or
/// after `from`: at most `most`, and at least two if there are any.
pub fn candidates(accesses: &[Access], steps: &[Step], from: usize, most: usize) -> Vec<usize> {
    let mut chain = Vec::new();
    for (at, step) in steps.iter().enumerate().skip(from) {
        let Some(l) = layer(step) else { continue };
        chain = vec![at];
        while chain.len() < most
            && let Some(upper) = above(accesses, steps, chain[chain.len() - 1], &l.trip)
        {
            chain.push(upper);
        }
        if chain.len() > 1 {
            return chain;
        }
    }
    chain.clear();
    chain
}

/// The first loop of as many steps that needs a loop, whether directly or not.
fn above(accesses: &[Access], steps: &[Step], lower: usize, trip: &Dim) -> Option<usize> {
    let mut dependent = vec![lower];
    for (at, step) in steps.iter().enumerate().skip(lower + 1) {
        if dependent.iter().any(|d| accesses[at].needs(&accesses[*d])) {
            if let Step::Loop(_) = step {
                return layer(step).filter(|l| l.trip == *trip).map(|_| at);
            }
            dependent.push(at);
        }
    }
    None
}

impl Stack {
    /// The stack of the loops at some positions of a program. `None` where one of them reads of another what it has
    /// not made at the same step, or something among them stands in the way.
    pub fn new(program: &Program<'_>, loops: &[usize]) -> Option<Stack> {
        let Program { graph, accesses, .. } = program;
        let range = *loops.first()?..loops.last()? + 1;
        let trip = layer(&graph.steps[range.start])?.trip.clone();
        if trip.as_constant().is_some_and(|n| n < loops.len() as i64) {
            return None;
        }
        let among = Among::new(graph, accesses, loops)?;
        let inlined = among.inlined(graph)?;
        let mut layers = Vec::with_capacity(loops.len());
        for at in loops {
            layers.push(inlining(graph, layer(&graph.steps[*at])?, &inlined)?);
        }
        let mut stack = Stack {
            range: range.clone(),
            trip,
            layers,
            before: among.steps(graph, Fate::Before),
            after: among.steps(graph, Fate::After),
            buffers: program.take_buffers(),
        };
        let mut elsewhere: BTreeSet<BufferId> =
            stack.after.iter().flat_map(|s| Access::of(s).reads).collect();
        elsewhere.extend(accesses[range.end..].iter().flat_map(|a| &a.reads));
        stack.link(&elsewhere, &program.buffer_names)?;
        Some(stack)
    }

    /// Lets each layer read what the one below it hands up.
    fn link(&mut self, elsewhere: &BTreeSet<BufferId>, taken: &Rc<Names>) -> Option<()> {
        let made: Vec<Access> = self.layers.iter().map(Layer::access).collect();
        let mut names = Names::beside(taken.clone());
        for upper in 1..self.layers.len() {
            for (lower, below) in made[..upper].iter().enumerate() {
                if made[upper].writes.iter().any(|b| below.reads.contains(b) || below.writes.contains(b)) {
                    return None;
                }
                let shared: Vec<BufferId> = below.writes.intersection(&made[upper].reads).copied().collect();
                for history in shared {
                    if lower + 1 != upper {
                        return None;
                    }
                    let axis = self.layers[lower].time_axis(history)?;
                    self.layers[upper].reads_at_its_step(history, axis).then_some(())?;
                    let state = self.handed_up(&mut names, lower, history, axis)?;
                    self.layers[upper].read_state(history, axis, state);
                    let kind = self.buffers[history.index()].kind;
                    if kind == BufferKind::Temporary
                        && !elsewhere.contains(&history)
                        && !made[lower].reads.contains(&history)
                    {
                        self.layers[lower].forget(history);
                    }
                }
            }
        }
        Some(())
    }

    /// The state of a layer that holds what it stored last in a history.
    fn handed_up(
        &mut self,
        names: &mut Names,
        lower: usize,
        history: BufferId,
        axis: usize,
    ) -> Option<BufferId> {
        let Buffer { name, ty, .. } = self.buffers[history.index()].clone();
        let mut shape = ty.shape;
        shape.remove(axis);
        let ty = TensorType { dtype: ty.dtype, shape };
        let known = self.layers[lower].state_of(history, axis);
        if let Some(known) = known.filter(|c| self.buffers[c.next.index()].ty == ty) {
            return Some(known.current);
        }
        let mut state = |suffix: &str| {
            let name = names.unique(&format!("{name}_{suffix}"));
            self.buffers.push(Buffer { name, ty: ty.clone(), kind: BufferKind::State });
            BufferId::from(self.buffers.len() - 1)
        };
        let carry = Carry { next: state("next"), current: state("state") };
        self.layers[lower].hand_up(history, axis, carry);
        Some(carry.current)
    }
}

/// What becomes of a step among the loops of a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is a loop of the stack.
    Layer,
    /// It runs before all loops.
    Before,
    /// Its results are computed where a loop reads them.
    Inlined,
    /// The same, but others read them too, so that it runs after all loops as well.
    Both,
    /// It runs after all loops.
    After,
}

/// The steps from the first to the last loop of a stack.
struct Among {
    first: usize,
    fates: Vec<Fate>,
}

impl Among {
    fn new(graph: &KernelGraph, accesses: &[Access], loops: &[usize]) -> Option<Among> {
        let (first, last) = (*loops.first()?, *loops.last()?);
        // What needs a loop of the stack, and what a later loop needs, directly or not.
        let (mut dependent, mut needed) = (vec![false; last + 1], vec![false; last + 1]);
        for at in first..=last {
            let bound = |d: usize| (loops.contains(&d) || dependent[d]) && accesses[at].meets(&accesses[d]);
            dependent[at] = (first..at).any(bound);
        }
        for at in (first..=last).rev() {
            let bound = |u: usize| (loops.contains(&u) || needed[u]) && accesses[u].meets(&accesses[at]);
            needed[at] = (at + 1..=last).any(bound);
        }
        let mut fates = Vec::with_capacity(last + 1 - first);
        let mut read: BTreeSet<BufferId> =
            accesses[last + 1..].iter().flat_map(|a| &a.reads).copied().collect();
        for at in (first..=last).rev() {
            let fate = match (dependent[at], needed[at]) {
                _ if loops.contains(&at) => Fate::Layer,
                (false, _) => Fate::Before,
                (true, false) => Fate::After,
                (true, true) => {
                    let output = |b: &BufferId| matches!(graph.buffer(*b).kind, BufferKind::Output(_));
                    let kept = accesses[at].writes.iter().any(|b| output(b) || read.contains(b));
                    if kept { Fate::Both } else { Fate::Inlined }
                }
            };
            if matches!(fate, Fate::Both | Fate::After) {
                read.extend(&accesses[at].reads);
            }
            fates.push(fate);
        }
        fates.reverse();
        Some(Among { first, fates })
    }

    fn all<'g>(&self, graph: &'g KernelGraph) -> impl Iterator<Item = (Fate, &'g Step)> + use<'_, 'g> {
        self.fates.iter().copied().zip(&graph.steps[self.first..])
    }

    /// The steps that run before the loops, or after them.
    fn steps(&self, graph: &KernelGraph, when: Fate) -> Vec<Step> {
        let then = |fate: Fate| fate == when || (fate == Fate::Both && when == Fate::After);
        self.all(graph).filter(|(fate, _)| then(*fate)).map(|(_, step)| step.clone()).collect()
    }

    /// What is computed where it is read. `None` where something lies between two loops that cannot be.
    fn inlined<'g>(&self, graph: &'g KernelGraph) -> Option<HashMap<BufferId, Inlined<'g>>> {
        let mut inlined = HashMap::new();
        for (fate, step) in self.all(graph) {
            if !matches!(fate, Fate::Inlined | Fate::Both) {
                continue;
            }
            let Step::Kernel(kernel) = step else { return None };
            for store in &kernel.stores {
                if graph.buffer(store.buffer).kind == BufferKind::State {
                    return None;
                }
                inlined.insert(store.buffer, Inlined::new(kernel, store)?);
            }
        }
        Some(inlined)
    }
}

/// A loop whose kernels compute what they would read of others.
fn inlining(graph: &KernelGraph, l: &Loop, inlined: &HashMap<BufferId, Inlined<'_>>) -> Option<Layer> {
    let mut kernels = Vec::with_capacity(l.body.len());
    for step in &l.body {
        let Step::Kernel(kernel) = step else { return None };
        let mut origins = BTreeSet::from([kernel.name.clone()]);
        let mut copy = kernel.clone();
        if kernel.loads().iter().any(|b| inlined.contains_key(b)) {
            let (symbols, used) = (HashMap::new(), BTreeSet::new());
            let mut copier = Copier { buffers: &graph.buffers, inlined, symbols, used };
            let mut builder = KernelBuilder::new(kernel.space().to_vec());
            copier.kernel(&mut builder, kernel)?;
            copy = builder.finish(kernel.name.clone());
            origins.extend(copier.used);
        }
        kernels.push(Member { kernel: copy, origins });
    }
    Some(Layer { counter: l.counter.clone(), carries: l.carries.clone(), kernels, handed: Vec::new() })
}

impl Layer {
    /// The kernels and states.
    fn access(&self) -> Access {
        let mut access = Access::default();
        self.kernels.iter().for_each(|m| access.kernel(&m.kernel));
        self.carries.iter().for_each(|c| access.carry(c));
        access
    }

    fn kernels_mut(&mut self) -> impl Iterator<Item = &mut Kernel> {
        self.kernels.iter_mut().map(|m| &mut m.kernel)
    }

    fn stores(&self, buffer: BufferId) -> impl Iterator<Item = (&Kernel, &Store)> {
        let all = self.kernels.iter().flat_map(|m| m.kernel.stores.iter().map(|s| (&m.kernel, s)));
        all.filter(move |(_, s)| s.buffer == buffer)
    }

    /// The axis of a buffer that each step stores at its own position, and nothing else of it.
    fn time_axis(&self, buffer: BufferId) -> Option<usize> {
        let own = Expr::symbol(self.counter.name());
        let axis = |store: &Store| {
            let axis = store.index.iter().position(|e| *e == own)?;
            let mut others = store.index.iter().enumerate().filter(|(i, _)| *i != axis);
            others.all(|(_, e)| !e.symbols().contains(&self.counter)).then_some(axis)
        };
        let mut axes = self.stores(buffer).map(|(_, store)| axis(store));
        let first = axes.next()??;
        axes.all(|other| other == Some(first)).then_some(first)
    }

    /// Whether every load of a buffer is at the position of the step along an axis.
    fn reads_at_its_step(&self, buffer: BufferId, axis: usize) -> bool {
        let own = Coordinate::Static(Expr::symbol(self.counter.name()));
        let fits = |element: &Element| match element {
            Element::Load { buffer: b, index } => *b != buffer || index[axis] == own,
            Element::Constant(_)
            | Element::Index(_)
            | Element::Scalar(..)
            | Element::Cast(_)
            | Element::Reduce { .. }
            | Element::Recurrence { .. } => true,
        };
        self.kernels.iter().flat_map(|m| &m.kernel.elements).all(|typed| fits(&typed.element))
    }

    /// Reads a state for what a step has stored in a buffer.
    fn read_state(&mut self, history: BufferId, axis: usize, state: BufferId) {
        for typed in self.kernels_mut().flat_map(|k| &mut k.elements) {
            if let Element::Load { buffer, index } = &mut typed.element
                && *buffer == history
            {
                *buffer = state;
                index.remove(axis);
            }
        }
    }

    /// The state that becomes just what each step stores in a buffer.
    fn state_of(&self, history: BufferId, axis: usize) -> Option<Carry> {
        let mut stores = self.stores(history);
        let ((kernel, store), None) = (stores.next()?, stores.next()) else { return None };
        let index = without(&store.index, axis);
        let same = |s: &Store| s.value == store.value && s.index == index;
        let state = |c: &&Carry| kernel.stores.iter().any(|s| s.buffer == c.next && same(s));
        self.carries.iter().find(state).copied()
    }

    /// Stores what a step stores in a buffer as a state too.
    fn hand_up(&mut self, history: BufferId, axis: usize, carry: Carry) {
        for kernel in self.kernels_mut() {
            let stores = kernel.stores.iter().filter(|s| s.buffer == history);
            let handed =
                stores.map(|s| Store { buffer: carry.next, index: without(&s.index, axis), value: s.value });
            let handed: Vec<Store> = handed.collect();
            kernel.stores.extend(handed);
        }
        self.handed.push(carry);
    }

    /// Stores nothing in a buffer.
    fn forget(&mut self, buffer: BufferId) {
        self.kernels_mut().for_each(|kernel| kernel.stores.retain(|s| s.buffer != buffer));
    }
}

fn without(index: &[Expr], axis: usize) -> SmallVec<[Expr; 4]> {
    index.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, e)| e.clone()).collect()
}
