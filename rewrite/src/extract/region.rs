//! Parts of a problem that are decided by themselves.
//!
//! An outermost loop is one: loops exchange nothing but stacked results and final states, so little is lost, and
//! the time is linear in the number of loops. What lies in no loop falls apart once the values are known that no
//! kernel could compute in place (an unrolled step's state under the next step's products): kernels that share
//! nothing else worth a decision need not be decided together.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::dense::{Class, Dense};
use super::memory::Materialised;
use super::roots::RootKind;
use super::{Plan, Problem};
use crate::language::ScanId;

/// A part of a problem: what belongs to one outermost loop, or to none, or some of the latter. Other parts' stacked
/// results are in memory, their final states are there.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// The loop.
    pub scan: Option<ScanId>,
    /// What other regions read of it, ascending.
    pub values: Vec<Class>,
    /// Its final states that other regions read.
    pub finals: Vec<u32>,
    /// The outermost loop that each stacked result belongs to; empty where the problem is not divided.
    pub owners: Rc<FxHashMap<Class, ScanId>>,
    /// Set where this is only some of what belongs to no loop.
    pub part: Option<Part>,
}

/// Some of what belongs to no loop.
#[derive(Clone, Debug)]
pub struct Part {
    /// The graph outputs.
    pub outputs: Vec<u32>,
    /// What is in memory whatever is decided; the parts lie between.
    pub boundary: Rc<Materialised>,
}

impl Region {
    /// Whether another region stores a class.
    pub fn is_foreign(&self, class: Class) -> bool {
        let owned = || self.owners.get(&class).is_some_and(|owner| Some(*owner) != self.scan);
        let outside =
            |part: &Part| part.boundary.contains(class) && self.values.binary_search(&class).is_err();
        self.part.as_ref().is_some_and(outside) || owned()
    }

    /// Whether another region runs a scan.
    pub fn is_foreign_scan(&self, dense: &Dense<'_>, scan: ScanId) -> bool {
        !self.owners.is_empty() && dense.tables.scan(scan).depth() == 0 && Some(scan) != self.scan
    }

    /// The graph outputs it makes.
    pub fn outputs(&self, problem: &Problem<'_>) -> Vec<u32> {
        match (&self.part, self.scan) {
            (Some(part), _) => part.outputs.clone(),
            (None, None) => (0..problem.outputs.len() as u32).collect(),
            (None, Some(_)) => Vec::new(),
        }
    }

    /// The final states that it makes for others.
    pub fn finals(&self) -> impl DoubleEndedIterator<Item = (ScanId, u32)> + '_ {
        self.finals.iter().filter_map(|carry| Some((self.scan?, *carry)))
    }

    /// The classes that it is entered by.
    pub fn entries(&self, problem: &Problem<'_>) -> Vec<Class> {
        let mut entries: Vec<Class> =
            self.outputs(problem).into_iter().map(|i| problem.outputs[i as usize]).collect();
        entries.extend(&self.values);
        for (scan, carry) in self.finals() {
            let carry = &problem.dense.tables.scan(scan).carries[carry as usize];
            entries.extend([problem.dense.class(carry.init), problem.dense.class(carry.next)]);
        }
        entries
    }

    /// The parts that this falls into where what `plan` has in memory stays there; `matters` says which classes
    /// there is a decision about. One part, where a loop ties it together.
    pub fn parts(&self, plan: &Plan, matters: impl Fn(Class) -> bool) -> Vec<Region> {
        let roots = &plan.roots;
        if self.scan.is_some() || !roots.states().is_empty() || self.part.is_some() {
            return vec![self.clone()];
        }
        let mut joined = Joined::new(roots.roots.len());
        let mut computed_by: FxHashMap<Class, usize> = FxHashMap::default();
        for (r, root) in roots.roots.iter().enumerate() {
            for class in root.walk.classes.iter().filter(|c| matters(**c)) {
                match computed_by.get(class) {
                    Some(other) => joined.join(*other, r),
                    None => _ = computed_by.insert(*class, r),
                }
            }
        }
        let mut parts: BTreeMap<usize, (BTreeSet<u32>, BTreeSet<Class>)> = BTreeMap::new();
        for (r, root) in roots.roots.iter().enumerate() {
            let (outputs, values) = parts.entry(joined.first(r)).or_default();
            match root.kind {
                RootKind::Output(i) => _ = outputs.insert(i),
                RootKind::Value => {
                    values.insert(root.class);
                    outputs.extend(roots.outputs_of(root.class).iter().map(|s| s.output));
                }
                // There are no states here.
                RootKind::Init(..) | RootKind::Next(..) => {}
            }
        }
        let boundary = Rc::new(plan.memory.clone());
        let parts = parts.into_values().map(|(outputs, values)| Region {
            values: values.into_iter().collect(),
            part: Some(Part { outputs: outputs.into_iter().collect(), boundary: boundary.clone() }),
            ..self.clone()
        });
        parts.collect()
    }
}

/// Sets that are joined; each is known by its first member.
struct Joined {
    parent: Vec<usize>,
}

impl Joined {
    fn new(n: usize) -> Self {
        Joined { parent: (0..n).collect() }
    }

    fn first(&mut self, mut x: usize) -> usize {
        while self.parent[x] != x {
            self.parent[x] = self.parent[self.parent[x]];
            x = self.parent[x];
        }
        x
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.parent[a.max(b)] = a.min(b);
    }
}
