//! The loops that a stack becomes.
//!
//! With `n` layers of `N` steps, layer `l` is `l` steps behind the lowest:
//!
//! | loops | steps of each | layers that run in one |
//! |---|---|---|
//! | rise `p`, for `p` in `0..n-1` | one, if `p < N` | `l ≤ p` at step `p - l` |
//! | wave | `max(N - (n-1), 0)` | every `l` at step `s + n-1-l` |
//! | fall `(d, l)`, for `l - d` ascending, then `l` descending | one, if `d < N` | `l` at step `N-1-d`, `d < l` |
//!
//! No step needs to ask whether a layer has begun or ended, and one program is right for every `N`: of a short
//! sequence the wave has no steps, and those of the rise and the fall that remain run the layers one after the
//! other. In the fall each layer has a loop of its own, since what runs together with `N ≥ n-1` does not with fewer.
//!
//! Layer `l + 1` at step `t` reads the states that layer `l` has after step `t`, which is what they are before
//! layer `l` makes step `t + 1`: in the rise and the wave beside it, in the fall after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{BufferId, Kernel, KernelGraph, Loop, Step};
use fuse_ir::ops::Direction;
use fuse_ir::{Dim, Expr};

use super::stack::{Member, Stack};
use crate::kernel_builder::{KernelBuilder, Names, identifier};
use crate::kernel_copy::Copier;

/// What a stack became.
#[derive(Debug)]
pub struct Woven {
    /// The loops in order.
    pub loops: Vec<Loop>,
    /// For each new kernel the names of those whose work it does.
    pub origins: BTreeMap<String, BTreeSet<String>>,
}

/// The names of a program's kernels, and of its symbols.
pub struct ProgramNames {
    program: String,
    kernels: Rc<Names>,
    counters: Rc<Names>,
}

impl ProgramNames {
    /// The names of a program.
    pub fn of(graph: &KernelGraph) -> Self {
        let (mut kernels, mut counters) = (Names::default(), Names::default());
        for (kernel, _) in graph.kernels() {
            kernels.unique(&kernel.name);
            kernel.symbols().iter().for_each(|s| _ = counters.unique(s.name()));
        }
        for symbol in graph.buffers.iter().flat_map(|b| &b.ty.shape).flat_map(Expr::symbols) {
            counters.unique(symbol.name());
        }
        name_counters(&graph.steps, &mut counters);
        let (kernels, counters) = (Rc::new(kernels), Rc::new(counters));
        ProgramNames { program: identifier(&graph.name), kernels, counters }
    }
}

/// The loops that a stack of a program becomes.
pub fn weave(names: &ProgramNames, stack: &Stack) -> Option<Woven> {
    let mut weaver = Weaver::new(names, stack);
    let (n, trip) = (stack.layers.len(), &stack.trip);
    let constant = |value: usize| Expr::constant(value as i64);
    for p in 0..n - 1 {
        let layers = (0..=p).map(|l| (l, constant(p - l))).collect();
        weaver.phase("rise", layers, at_most_one(trip, p), None)?;
    }
    let counter = stack.layers[0].counter.clone();
    let position = |l: usize| Expr::symbol(counter.name()) + constant(n - 1 - l);
    let steps = at_least_none(trip.clone() - constant(n - 1));
    weaver.phase("wave", (0..n).map(|l| (l, position(l))).collect(), steps, Some(counter.clone()))?;
    for ahead in 1..n {
        for l in (ahead..n).rev() {
            let behind = l - ahead;
            let last = trip.clone() - constant(behind + 1);
            weaver.phase("fall", vec![(l, last)], at_most_one(trip, behind), None)?;
        }
    }
    Some(weaver.woven)
}

/// One step if a loop has more than `passed` steps, else none.
fn at_most_one(trip: &Dim, passed: usize) -> Dim {
    let left =
        if passed == 0 { trip.clone() } else { at_least_none(trip.clone() - Expr::constant(passed as i64)) };
    left.minimum(&Expr::constant(1))
}

fn at_least_none(steps: Expr) -> Dim {
    steps.maximum(&Expr::constant(0))
}

struct Weaver<'s> {
    stack: &'s Stack,
    program: &'s str,
    kernels: Names,
    counters: Names,
    woven: Woven,
}

/// A layer that runs in a phase, and at which step.
type Running = (usize, Expr);

impl<'s> Weaver<'s> {
    fn new(names: &'s ProgramNames, stack: &'s Stack) -> Self {
        let beside = |names: &Rc<Names>| Names::beside(names.clone());
        let woven = Woven { loops: Vec::new(), origins: BTreeMap::new() };
        let (kernels, counters) = (beside(&names.kernels), beside(&names.counters));
        Weaver { stack, program: &names.program, kernels, counters, woven }
    }

    /// One loop, in which some layers run.
    fn phase(&mut self, role: &str, running: Vec<Running>, trip: Dim, counter: Option<Symbol>) -> Option<()> {
        if trip.is_zero() {
            return Some(());
        }
        let here = |l: usize| running.iter().any(|(other, _)| *other == l);
        let mut carries = Vec::new();
        // What is handed up to a layer that does not run here is not read before the loop ends, after its one step.
        let mut direct: HashMap<BufferId, BufferId> = HashMap::new();
        for (l, _) in &running {
            let layer = &self.stack.layers[*l];
            carries.extend(&layer.carries);
            match here(l + 1) {
                true => carries.extend(&layer.handed),
                false => direct.extend(layer.handed.iter().map(|c| (c.next, c.current))),
            }
        }
        let mut body = Vec::new();
        for group in self.groups(&running) {
            let mut kernel = self.kernel(role, &group)?;
            for store in &mut kernel.stores {
                store.buffer = direct.get(&store.buffer).copied().unwrap_or(store.buffer);
            }
            body.push(Step::Kernel(kernel));
        }
        let counter = counter.unwrap_or_else(|| Symbol::new(self.counters.unique("t")));
        self.woven.loops.push(Loop { counter, trip, direction: Direction::Forward, carries, body });
        Some(())
    }

    /// The kernels of the layers, those that can share a launch together: at most one of each layer, over the same
    /// space. Layers do not wait for each other within a step.
    fn groups(&self, running: &[Running]) -> Vec<Vec<(&'s Member, Running)>> {
        let mut groups: Vec<Vec<(&Member, Running)>> = Vec::new();
        for (l, at) in running {
            let mut earliest = 0;
            for member in &self.stack.layers[*l].kernels {
                let fits = |group: &[(&Member, Running)]| {
                    group
                        .iter()
                        .all(|(other, (of, _))| of != l && other.kernel.space() == member.kernel.space())
                };
                let host = (earliest..groups.len()).find(|g| fits(&groups[*g]));
                let host = host.unwrap_or_else(|| {
                    groups.insert(earliest, Vec::new());
                    earliest
                });
                groups[host].push((member, (*l, at.clone())));
                earliest = host + 1;
            }
        }
        groups
    }

    /// One kernel that does the work of several.
    fn kernel(&mut self, role: &str, group: &[(&Member, Running)]) -> Option<Kernel> {
        let (first, _) = group.first()?;
        let mut builder = KernelBuilder::new(first.kernel.space().to_vec());
        let mut origins = BTreeSet::new();
        for (member, (l, at)) in group {
            let symbols = HashMap::from([(self.stack.layers[*l].counter.clone(), at.clone())]);
            let (buffers, inlined) = (&self.stack.buffers, &HashMap::new());
            let mut copier = Copier { buffers, inlined, symbols, used: BTreeSet::new() };
            copier.kernel(&mut builder, &member.kernel)?;
            origins.extend(member.origins.iter().cloned());
        }
        let name = self.kernels.unique(&format!("{}_{role}", self.program));
        self.woven.origins.insert(name.clone(), origins);
        Some(builder.finish(name))
    }
}

fn name_counters(steps: &[Step], names: &mut Names) {
    for step in steps {
        if let Step::Loop(l) = step {
            names.unique(l.counter.name());
            name_counters(&l.body, names);
        }
    }
}
