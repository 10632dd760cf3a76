//! What a decision leads to: kernels, and what they cost.

use std::ops::ControlFlow;
use std::rc::Rc;

use fuse_ir::device::DeviceModel;
use rustc_hash::FxHashMap;

use super::arrange::{Arranged, Levels};
use super::dense::{Class, Dense};
use super::kernel_cost::KnownSeconds;
use super::memory::Materialised;
use super::placement::{Placement, Placer, place};
use super::roots::{OutputForms, Root, RootId, RootKind, Roots};
use super::walk::{Walk, Walker};
use super::{Illegal, Plan, Problem, Region};
use crate::language::{Head, ScanId};

/// Evaluates decisions. What was worked out for one, walks and the cost of kernels above all, serves the next.
pub struct Evaluator<'a> {
    problem: &'a Problem<'a>,
    /// The points of every space, and the walks that are known.
    pub walker: Walker<'a>,
    output_forms: OutputForms,
    pricer: Pricer,
    decision: Decision,
    /// Decisions evaluated so far.
    pub evaluated: usize,
}

/// What the decision evaluated last leads to.
#[derive(Default)]
struct Decision {
    roots: Roots,
    needs: Vec<Class>,
    /// What is asked for and not made yet.
    pending: Vec<(RootKind, Class)>,
    placer: Placer,
    placement: Placement,
    levels: Levels,
}

impl<'a> Evaluator<'a> {
    /// An evaluator.
    pub fn new(problem: &'a Problem<'a>) -> Self {
        Evaluator {
            problem,
            walker: Walker::new(problem.dense),
            output_forms: OutputForms::of(problem.dense, &problem.outputs),
            pricer: Pricer::default(),
            decision: Decision::default(),
            evaluated: 0,
        }
    }

    /// What is decided about.
    pub fn problem(&self) -> &'a Problem<'a> {
        self.problem
    }

    /// The classes.
    pub fn dense(&self) -> &'a Dense<'a> {
        self.problem.dense
    }

    /// The device.
    pub fn device(&self) -> &'a DeviceModel {
        self.problem.device
    }

    /// The points visited so far: the work that evaluating took.
    pub fn visited(&self) -> usize {
        self.walker.visited
    }

    /// What must be stored while some is undecided, and what would have to be in memory.
    #[cfg(feature = "exact")]
    pub fn collect_partly(&mut self, region: &Region, memory: &Materialised) -> (Roots, Vec<Class>) {
        self.evaluated += 1;
        self.collect(region, memory);
        (self.decision.roots.clone(), self.decision.needs.clone())
    }

    /// The kernels and the cost of a decision about a region.
    ///
    /// # Errors
    /// Where there are none.
    pub fn plan(&mut self, region: &Region, memory: &Materialised) -> Result<Plan, Illegal> {
        let seconds = self.evaluate(region, memory, f64::INFINITY)?;
        Ok(self.written(seconds))
    }

    /// The same, if it takes less than `limit` seconds and is legal.
    pub fn plan_below(&mut self, region: &Region, memory: &Materialised, limit: f64) -> Option<Plan> {
        let seconds = self.evaluate(region, memory, limit).ok()?;
        (seconds < limit).then(|| self.written(seconds))
    }

    /// The cost of a decision, or that of some of its kernels where these take as long as `limit` already.
    fn evaluate(&mut self, region: &Region, memory: &Materialised, limit: f64) -> Result<f64, Illegal> {
        self.evaluated += 1;
        self.collect(region, memory);
        let dense = self.problem.dense;
        let Decision { roots, needs, placer, placement, levels, .. } = &mut self.decision;
        if !needs.is_empty() {
            return Err(Illegal::Needs(needs.clone()));
        }
        place(dense, roots, region, placer, placement).map_err(Illegal::Misplaced)?;
        levels.set(roots, placement);
        let arranged = levels.arrange(dense, roots, &[]).map_err(Illegal::Misplaced)?;
        // What is known already may be too much.
        let mut known = 0.0;
        let all_known = arranged.kernels(dense, &[], |members, time| {
            known += self.pricer.known_seconds((roots, members), time).unwrap_or(0.0);
            if known >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if all_known.is_break() {
            return Ok(known);
        }
        let mut sum = 0.0;
        _ = arranged.kernels(dense, &[], |members, time| {
            sum += self.pricer.seconds(&mut self.walker, self.problem.device, (roots, members), time);
            // No kernel takes less than nothing.
            if sum >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        Ok(sum)
    }

    /// The decision evaluated last, written down.
    fn written(&mut self, seconds: f64) -> Plan {
        let dense = self.problem.dense;
        let Decision { roots, placement, levels, .. } = &mut self.decision;
        let mut memory = Materialised::none(dense.nodes.len());
        roots.values().iter().for_each(|c| memory.set(*c, true));
        roots.outputs().iter().for_each(|o| memory.set(o.class, true));
        // In a region also what others store.
        roots.roots.iter().flat_map(|r| &r.walk.reads).for_each(|read| memory.set(read.class, true));
        let items = levels.arranged().items();
        Plan { memory, roots: roots.clone(), placement: placement.clone(), items, seconds }
    }

    /// Everything that must be stored, from the outputs down, and the classes that would have to be in memory for
    /// it to be possible. Classes that nothing reads do not appear.
    fn collect(&mut self, region: &Region, memory: &Materialised) {
        let problem = self.problem;
        let dense = problem.dense;
        let Decision { roots, needs, pending, .. } = &mut self.decision;
        roots.clear(dense.nodes.len());
        needs.clear();
        pending.clear();
        for class in region.values.iter().rev() {
            roots.ask_value(*class);
            pending.push((RootKind::Value, *class));
        }
        for i in region.outputs(problem).into_iter().rev() {
            pending.push((RootKind::Output(i), problem.outputs[i as usize]));
        }
        for (scan, carry) in region.finals().rev() {
            require_state(dense, roots, pending, scan, carry);
        }
        while let Some((kind, class)) = pending.pop() {
            if let RootKind::Output(i) = kind
                && let Some(stored) = self.output_forms.stored(i, memory)
            {
                // Stored where the class is computed, in whatever loop that is.
                let class = stored.class;
                roots.add_output(stored.clone());
                if !region.is_foreign(class) && roots.ask_value(class) {
                    pending.push((RootKind::Value, class));
                }
                continue;
            }
            let (computed, last) = dense.computed(class);
            let inside = kind == RootKind::Value || last.is_some();
            let walk = self.walker.walk(computed, inside, memory);
            // Neither can the recurrence of a state's kernel run along the axis of the state's loop.
            if walk.recurrence.is_some_and(|axis| axis < loops_of(dense, kind)) {
                let is_state = |c: &Class| matches!(dense.chosen(*c).head, Head::Recurrence { .. });
                needs.extend(walk.classes.iter().copied().filter(is_state));
            }
            needs.extend_from_slice(&walk.needs);
            for read in walk.reads.iter().rev() {
                if !region.is_foreign(read.class) && roots.ask_value(read.class) {
                    pending.push((RootKind::Value, read.class));
                }
            }
            for state in walk.carries.iter().chain(&walk.finals).rev() {
                if !region.is_foreign_scan(dense, state.scan) {
                    require_state(dense, roots, pending, state.scan, state.carry);
                }
            }
            roots.add(Root { kind, class, computed, walk });
        }
        roots.connect();
    }

    /// The time of all kernels of a level, in loops over the axes `time`.
    pub fn seconds(&mut self, roots: &Roots, arranged: Arranged<'_>, time: &[usize]) -> f64 {
        let mut sum = 0.0;
        _ = arranged.kernels(self.problem.dense, time, |members, time| {
            sum += self.pricer.seconds(&mut self.walker, self.problem.device, (roots, members), time);
            ControlFlow::Continue(())
        });
        sum
    }

    /// The bytes that the kernels of a level read and no step of the loops over the axes `time` changes.
    pub fn invariant_bytes(&mut self, roots: &Roots, arranged: Arranged<'_>, time: &[usize]) -> f64 {
        let dense = self.problem.dense;
        let mut bytes: FxHashMap<Class, f64> = FxHashMap::default();
        _ = arranged.kernels(dense, time, |members, time| {
            let space = dense.data[roots.roots[members[0]].computed as usize].space;
            let walk = kernel_walk(&mut self.walker, roots, members);
            for (class, size) in self.walker.invariant_loads(space, &walk, time) {
                let known = bytes.entry(class).or_default();
                *known = known.max(size);
            }
            ControlFlow::Continue(())
        });
        let mut bytes: Vec<f64> = bytes.into_values().collect();
        bytes.sort_unstable_by(f64::total_cmp);
        bytes.iter().sum()
    }
}

/// The number of loops that certainly are around a root.
fn loops_of(dense: &Dense<'_>, kind: RootKind) -> usize {
    match kind {
        RootKind::Next(scan, _) => dense.tables.scan(scan).depth() + 1,
        RootKind::Init(scan, _) => dense.tables.scan(scan).depth(),
        RootKind::Value | RootKind::Output(_) => 0,
    }
}

/// Sees to it that a state is initialised and stepped.
fn require_state(
    dense: &Dense<'_>,
    roots: &mut Roots,
    pending: &mut Vec<(RootKind, Class)>,
    scan: ScanId,
    carry: u32,
) {
    if roots.ask_state(scan, carry) {
        let info = &dense.tables.scan(scan).carries[carry as usize];
        let (init, next) = (dense.class(info.init), dense.class(info.next));
        pending.push((RootKind::Next(scan, carry), next));
        pending.push((RootKind::Init(scan, carry), init));
    }
}

/// What lies between the roots of a kernel and memory.
fn kernel_walk(walker: &mut Walker<'_>, roots: &Roots, members: &[RootId]) -> Rc<Walk> {
    match members {
        [one] => roots.roots[*one].walk.clone(),
        _ => {
            let walk = |r: &RootId| {
                let root = &roots.roots[*r];
                (root.computed, root.is_inside(), &*root.walk)
            };
            Rc::new(walker.joined(members.iter().map(walk)))
        }
    }
}

/// Says what kernels cost.
#[derive(Default)]
struct Pricer {
    known: KnownSeconds,
}

impl Pricer {
    /// Seconds of all launches of a kernel with these roots in loops over the axes `time`, if they were worked out.
    fn known_seconds(&mut self, (roots, members): (&Roots, &[RootId]), time: &[usize]) -> Option<f64> {
        self.known.key.clear();
        let axes = time.iter().fold(0u64, |bits, axis| bits | 1 << axis);
        self.known.key.extend([axes as u32, (axes >> 32) as u32]);
        for member in members {
            let root = &roots.roots[*member];
            let stored = match root.kind {
                RootKind::Value => 1 + roots.outputs_of(root.class).len() as u32,
                RootKind::Output(_) | RootKind::Init(..) | RootKind::Next(..) => 0,
            };
            self.known.key.extend([root.walk.id, root.class, stored]);
        }
        self.known.get()
    }

    /// Seconds of all launches of a kernel with these roots in loops over the axes `time`.
    fn seconds(
        &mut self,
        walker: &mut Walker<'_>,
        device: &DeviceModel,
        (roots, members): (&Roots, &[RootId]),
        time: &[usize],
    ) -> f64 {
        if let Some(seconds) = self.known_seconds((roots, members), time) {
            return seconds;
        }
        let space = walker.dense.data[roots.roots[members[0]].computed as usize].space;
        let walk = kernel_walk(walker, roots, members);
        let cost = walker.cost(space, &walk, &roots.stored_by(members), time);
        let seconds = walker.trips(space, time) * cost.seconds(device);
        self.known.insert(seconds);
        seconds
    }
}
