//! Extraction: which node computes each class, and which classes are materialised.
//!
//! An [`Extractor`] decides; there is one file for each. What a decision means (which kernels, in which
//! loops, at what cost) is the same for all and lives here.

pub mod canonical;
pub mod cost;
pub mod decisions;
pub mod dense;
#[cfg(feature = "exact")]
pub mod exact;
pub mod greedy;
pub mod placement;
pub mod points;
pub mod region;
pub mod walk;

use std::collections::hash_map::{Entry, HashMap};

use fuse_ir::device::DeviceModel;

use dense::{Class, Dense};
use placement::{Item, Misplaced, Placement, Root, RootId, RootKind, Roots, arrange, place, stored_output};
pub use region::Region;
use walk::{Materialised, Walk, Walker};

use crate::language::{Head, ScanId};

/// What is to be extracted.
pub struct Problem<'a> {
    /// The classes.
    pub dense: &'a Dense<'a>,
    /// The class of each graph output.
    pub outputs: Vec<Class>,
    /// The stacked results of scans: with these in memory every loop can be separated from what follows it.
    pub stacked: Vec<Class>,
    /// The device.
    pub device: &'a DeviceModel,
}

/// The kernels that a decision leads to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is in memory.
    pub memory: Materialised,
    /// What is stored, and what computes it.
    pub roots: Roots,
    /// The loops around each root.
    pub placement: Placement,
    /// Kernels and loops in order of execution.
    pub items: Vec<Item>,
    /// Seconds of one run, for assumed dimensions.
    pub seconds: f64,
}

/// Numbers about an extraction.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ExtractionStats {
    /// Decisions that were evaluated.
    pub evaluated: usize,
    /// Classes that could be materialised or not.
    pub candidates: usize,
    /// Regions that were decided as an equal one was.
    pub reused: usize,
    /// Points that were visited to evaluate decisions: the work of the search, whatever the machine.
    pub visited: usize,
    /// Classes that were materialised.
    pub materialised: usize,
    /// Whether nothing else is better, in what could be stored without repetition.
    pub proven: bool,
    /// Seconds of one run by the model.
    pub seconds: f64,
}

/// A way to decide.
pub trait Extractor {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// The best plan found.
    ///
    /// # Errors
    /// In words, where no legal plan was found.
    fn extract(&self, problem: &Problem<'_>) -> Result<(Plan, ExtractionStats), String>;
}

/// Why a decision leads to no kernels.
#[derive(Clone, Debug, PartialEq)]
pub enum Illegal {
    /// These classes must be materialised too.
    Needs(Vec<Class>),
    /// The values cannot be placed in loops.
    Misplaced(Misplaced),
}

/// Evaluates decisions.
pub struct Evaluator<'a> {
    problem: &'a Problem<'a>,
    region: &'a Region,
    walker: Walker<'a>,
    /// Decisions evaluated so far.
    pub evaluated: usize,
}

impl<'a> Evaluator<'a> {
    /// An evaluator.
    pub fn new(problem: &'a Problem<'a>, region: &'a Region) -> Self {
        Evaluator { problem, region, walker: Walker::new(problem.dense), evaluated: 0 }
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
    pub fn collect_partly(&mut self, memory: &Materialised) -> (Roots, Vec<Class>) {
        self.evaluated += 1;
        self.collected(memory)
    }

    /// The kernels and the cost of a decision.
    ///
    /// # Errors
    /// Where there are none.
    pub fn plan(&mut self, memory: &Materialised) -> Result<Plan, Illegal> {
        self.evaluated += 1;
        let roots = self.collect(memory).map_err(Illegal::Needs)?;
        let placement = place(self.problem.dense, &roots, self.region).map_err(Illegal::Misplaced)?;
        let mut join = |_: &[RootId], _: RootId| true;
        let items = arrange(self.problem.dense, &roots, &placement, &mut join).map_err(Illegal::Misplaced)?;
        let seconds = self.seconds(&roots, &items, memory, &mut Vec::new());
        let mut used = Materialised::none(self.problem.dense.nodes.len());
        roots.values.keys().chain(roots.outputs.keys()).for_each(|c| used.set(*c, true));
        // In a region also what others store.
        roots.roots.iter().flat_map(|r| &r.walk.reads).for_each(|read| used.set(read.class, true));
        Ok(Plan { memory: used, roots, placement, items, seconds })
    }

    /// Everything that must be stored, from the outputs down. Classes that nothing reads do not appear.
    fn collect(&mut self, memory: &Materialised) -> Result<Roots, Vec<Class>> {
        let (roots, needs) = self.collected(memory);
        if needs.is_empty() { Ok(roots) } else { Err(needs) }
    }

    /// The same, and the classes that would have to be in memory for it to be possible.
    fn collected(&mut self, memory: &Materialised) -> (Roots, Vec<Class>) {
        let mut roots = Roots::default();
        let mut needs = Vec::new();
        let mut pending: Vec<(RootKind, Class)> = Vec::new();
        for class in self.region.values.iter().rev() {
            roots.values.insert(*class, usize::MAX);
            pending.push((RootKind::Value, *class));
        }
        for i in self.region.outputs(self.problem).into_iter().rev() {
            pending.push((RootKind::Output(i), self.problem.outputs[i as usize]));
        }
        for (scan, carry) in self.region.finals().rev() {
            self.require_state(&mut roots, &mut pending, scan, carry);
        }
        while let Some((kind, class)) = pending.pop() {
            if let RootKind::Output(i) = kind
                && let Some(stored) = stored_output(self.problem.dense, memory, i, class)
            {
                // Stored where the class is computed, in whatever loop that is.
                let class = stored.class;
                roots.outputs.entry(class).or_default().push(stored);
                if self.region.is_foreign(class) {
                    continue;
                }
                if let Entry::Vacant(entry) = roots.values.entry(class) {
                    entry.insert(usize::MAX);
                    pending.push((RootKind::Value, class));
                }
                continue;
            }
            let (computed, last) = self.problem.dense.computed(class);
            let inside = [computed];
            let inside = if kind == RootKind::Value || last.is_some() { &inside[..] } else { &[] };
            let loops = match kind {
                RootKind::Next(scan, _) => self.problem.dense.tables.scan(scan).depth() + 1,
                RootKind::Init(scan, _) => self.problem.dense.tables.scan(scan).depth(),
                RootKind::Value | RootKind::Output(_) => 0,
            };
            let walk = self.walker.walk(&[computed], inside, memory);
            // Neither can the recurrence of a state's kernel run along the axis of the state's loop.
            if walk.recurrence.is_some_and(|axis| axis < loops) {
                let is_state =
                    |c: &Class| matches!(self.problem.dense.chosen(*c).head, Head::Recurrence { .. });
                needs.extend(walk.classes.iter().copied().filter(is_state));
            }
            needs.extend_from_slice(&walk.needs);
            for read in walk.reads.iter().rev() {
                if self.region.is_foreign(read.class) {
                    continue;
                }
                if let Entry::Vacant(entry) = roots.values.entry(read.class) {
                    // The position is set when the root is made.
                    entry.insert(usize::MAX);
                    pending.push((RootKind::Value, read.class));
                }
            }
            for state in walk.carries.iter().chain(&walk.finals).rev() {
                if !self.region.is_foreign_scan(self.problem.dense, state.scan) {
                    self.require_state(&mut roots, &mut pending, state.scan, state.carry);
                }
            }
            let id = roots.roots.len();
            match kind {
                RootKind::Value => {
                    roots.values.insert(class, id);
                }
                RootKind::Init(scan, carry) => {
                    roots.states.entry((scan, carry)).and_modify(|s| s.0 = id);
                }
                RootKind::Next(scan, carry) => {
                    roots.states.entry((scan, carry)).and_modify(|s| s.1 = id);
                }
                RootKind::Output(_) => {}
            }
            roots.roots.push(Root { kind, class, computed, walk });
        }
        (roots, needs)
    }

    /// Sees to it that a state is initialised and stepped.
    fn require_state(
        &self,
        roots: &mut Roots,
        pending: &mut Vec<(RootKind, Class)>,
        scan: ScanId,
        carry: u32,
    ) {
        if roots.states.contains_key(&(scan, carry)) {
            return;
        }
        // The positions are set when the roots are made.
        roots.states.insert((scan, carry), (usize::MAX, usize::MAX));
        let info = &self.problem.dense.tables.scan(scan).carries[carry as usize];
        let (init, next) = (self.problem.dense.class(info.init), self.problem.dense.class(info.next));
        pending.push((RootKind::Next(scan, carry), next));
        pending.push((RootKind::Init(scan, carry), init));
    }

    /// The time of all kernels of a level, in loops over the axes `time`.
    pub fn seconds(
        &mut self,
        roots: &Roots,
        items: &[Item],
        memory: &Materialised,
        time: &mut Vec<usize>,
    ) -> f64 {
        let (device, mut sum) = (self.problem.device, 0.0);
        self.visit_kernels(roots, items, memory, time, &mut |walker, members, walk, time| {
            let space = self.problem.dense.data[roots.roots[members[0]].computed as usize].space;
            sum += walker.seconds(device, space, walk, &stored_classes(roots, members), time);
        });
        sum
    }

    /// The bytes that the kernels of a level read and no step of the loops over the axes `time` changes.
    pub fn invariant_bytes(
        &mut self,
        roots: &Roots,
        items: &[Item],
        memory: &Materialised,
        time: &mut Vec<usize>,
    ) -> f64 {
        let mut bytes: HashMap<Class, f64> = HashMap::new();
        self.visit_kernels(roots, items, memory, time, &mut |walker, members, walk, time| {
            let space = self.problem.dense.data[roots.roots[members[0]].computed as usize].space;
            for (class, size) in walker.invariant_loads(space, walk, time) {
                let known = bytes.entry(class).or_default();
                *known = known.max(size);
            }
        });
        let mut bytes: Vec<f64> = bytes.into_values().collect();
        bytes.sort_unstable_by(f64::total_cmp);
        bytes.iter().sum()
    }

    /// Shows every kernel of a level: its members, what it reads and computes, and the time axes around it.
    fn visit_kernels(
        &mut self,
        roots: &Roots,
        items: &[Item],
        memory: &Materialised,
        time: &mut Vec<usize>,
        see: &mut impl FnMut(&Walker<'a>, &[RootId], &Walk, &[usize]),
    ) {
        for item in items {
            match item {
                Item::Loop(scan, body) => {
                    time.push(self.problem.dense.tables.scan(*scan).depth());
                    self.visit_kernels(roots, body, memory, time, see);
                    time.pop();
                }
                Item::Kernel(members) => {
                    let joined;
                    let walk = match &members[..] {
                        [one] => &roots.roots[*one].walk,
                        _ => {
                            let classes: Vec<Class> =
                                members.iter().map(|r| roots.roots[*r].computed).collect();
                            let inside = roots.computed_here(members);
                            joined = self.walker.walk(&classes, &inside, memory);
                            &joined
                        }
                    };
                    see(&self.walker, members, walk, time);
                }
            }
        }
    }
}

/// The classes that a kernel stores: a materialised class that is also an output or next state is stored there
/// and needs no memory of its own.
fn stored_classes(roots: &Roots, members: &[RootId]) -> Vec<Class> {
    let mut counts: HashMap<Class, (usize, bool)> = HashMap::new();
    for root in members {
        let root = &roots.roots[*root];
        let entry = counts.entry(root.class).or_default();
        match root.kind {
            RootKind::Value => {
                entry.0 += roots.outputs.get(&root.class).map_or(0, Vec::len);
                entry.1 = true;
            }
            RootKind::Output(_) | RootKind::Init(..) | RootKind::Next(..) => entry.0 += 1,
        }
    }
    let mut out: Vec<Class> = counts
        .iter()
        .flat_map(|(c, (n, value))| std::iter::repeat_n(*c, (*n).max(usize::from(*value))))
        .collect();
    out.sort_unstable();
    out
}
