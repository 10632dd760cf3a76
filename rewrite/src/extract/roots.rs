//! What must be stored, and what computes it.

use std::rc::Rc;

use super::dense::{Class, Dense};
use super::memory::Materialised;
use super::walk::Walk;
use crate::language::{Head, ScanId};
use crate::layout::Layout;

/// A root, by position.
pub type RootId = usize;

/// Something that must be stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RootKind {
    /// The graph output of that position, of a class that is not materialised.
    Output(u32),
    /// The initial state of a scan.
    Init(ScanId, u32),
    /// The state of a scan after a step.
    Next(ScanId, u32),
    /// A materialised class.
    Value,
}

/// A root.
#[derive(Clone, Debug)]
pub struct Root {
    /// Why it is stored.
    pub kind: RootKind,
    /// What is stored.
    pub class: Class,
    /// What is computed to store it, over the space of the kernel; see [`Dense::computed`].
    pub computed: Class,
    /// What lies between it and memory.
    pub walk: Rc<Walk>,
}

impl Root {
    /// Whether it computes a class that may be in memory rather than read it from there.
    pub fn is_inside(&self) -> bool {
        self.kind == RootKind::Value || self.computed != self.class
    }
}

/// A graph output that is stored where a materialised class is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredOutput {
    /// The output, by position.
    pub output: u32,
    /// The class that is stored.
    pub class: Class,
    /// How the output holds the class, where it is not the class itself.
    pub view: Option<Layout>,
}

/// A live state of a scan, and its roots.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct State {
    /// The scan.
    pub scan: ScanId,
    /// Which of its states.
    pub carry: u32,
    /// What stores the initial state.
    pub init: RootId,
    /// What stores the state after a step.
    pub next: RootId,
}

impl State {
    fn key(&self) -> (ScanId, u32) {
        (self.scan, self.carry)
    }
}

/// The position of no root: the class is not stored, or its root is not made yet.
const NONE: u32 = u32::MAX;
const PENDING: u32 = u32::MAX - 1;

/// All roots.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// The roots.
    pub roots: Vec<Root>,
    /// The root of each class, if it is materialised.
    value_of: Vec<u32>,
    /// The classes that are.
    values: Vec<Class>,
    /// The graph outputs that are materialised classes, or views of them that are stored with them, by class.
    outputs: Vec<StoredOutput>,
    /// The live states, by scan and number.
    states: Vec<State>,
    /// The roots whose values each root reads: those of a root end where those of the next begin.
    operands: Vec<RootId>,
    operands_end: Vec<usize>,
}

impl Roots {
    /// No roots, for so many classes; keeps its memory.
    pub fn clear(&mut self, classes: usize) {
        self.value_of.resize(classes, NONE);
        for class in self.values.drain(..) {
            self.value_of[class as usize] = NONE;
        }
        self.roots.clear();
        self.outputs.clear();
        self.states.clear();
        self.operands.clear();
        self.operands_end.clear();
    }

    /// The number of roots.
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The root of a materialised class.
    pub fn value(&self, class: Class) -> Option<RootId> {
        let root = self.value_of[class as usize];
        (root < PENDING).then_some(root as RootId)
    }

    /// Asks for a root for a materialised class; whether nobody did before.
    pub fn ask_value(&mut self, class: Class) -> bool {
        let absent = self.value_of[class as usize] == NONE;
        if absent {
            self.value_of[class as usize] = PENDING;
            self.values.push(class);
        }
        absent
    }

    /// The materialised classes.
    pub fn values(&self) -> &[Class] {
        &self.values
    }

    /// The graph outputs that are stored with each materialised class, by class.
    pub fn outputs(&self) -> &[StoredOutput] {
        &self.outputs
    }

    /// The graph outputs that are stored with a materialised class.
    pub fn outputs_of(&self, class: Class) -> &[StoredOutput] {
        let start = self.outputs.partition_point(|o| o.class < class);
        let count = self.outputs[start..].iter().take_while(|o| o.class == class).count();
        &self.outputs[start..start + count]
    }

    /// Stores an output with a class.
    pub fn add_output(&mut self, output: StoredOutput) {
        let at = self.outputs.partition_point(|o| o.class <= output.class);
        self.outputs.insert(at, output);
    }

    /// The live states, by scan and number.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// A state, if it is live.
    pub fn state(&self, scan: ScanId, carry: u32) -> Option<&State> {
        let at = self.states.binary_search_by_key(&(scan, carry), State::key).ok()?;
        Some(&self.states[at])
    }

    fn state_mut(&mut self, scan: ScanId, carry: u32) -> Option<&mut State> {
        let at = self.states.binary_search_by_key(&(scan, carry), State::key).ok()?;
        Some(&mut self.states[at])
    }

    /// Asks for the roots of a state; whether nobody did before.
    pub fn ask_state(&mut self, scan: ScanId, carry: u32) -> bool {
        match self.states.binary_search_by_key(&(scan, carry), State::key) {
            Ok(_) => false,
            Err(at) => {
                // The roots are known when they are made.
                self.states.insert(at, State { scan, carry, init: RootId::MAX, next: RootId::MAX });
                true
            }
        }
    }

    /// Adds a root that was asked for.
    pub fn add(&mut self, root: Root) {
        let id = self.roots.len();
        match root.kind {
            RootKind::Value => self.value_of[root.class as usize] = id as u32,
            RootKind::Init(scan, carry) => {
                if let Some(state) = self.state_mut(scan, carry) {
                    state.init = id;
                }
            }
            RootKind::Next(scan, carry) => {
                if let Some(state) = self.state_mut(scan, carry) {
                    state.next = id;
                }
            }
            RootKind::Output(_) => {}
        }
        self.roots.push(root);
    }

    /// Notes which roots' values each root reads; all roots are there.
    pub fn connect(&mut self) {
        for root in &self.roots {
            let reads = root.walk.reads.iter().map(|read| self.value_of[read.class as usize]);
            self.operands.extend(reads.filter(|r| *r < PENDING).map(|r| r as RootId));
            self.operands_end.push(self.operands.len());
        }
    }

    /// The roots whose values a root reads; one may stand there several times.
    pub fn values_read(&self, root: RootId) -> &[RootId] {
        let start = if root == 0 { 0 } else { self.operands_end[root - 1] };
        &self.operands[start..self.operands_end[root]]
    }

    /// The roots that a root depends on within one step of a loop at `depth`: reads, and through the states of
    /// deeper scans their initial and next values. States of this loop and of those around it come from
    /// other steps; scans beside it have ended.
    pub fn operands<'a>(
        &'a self,
        dense: &'a Dense<'_>,
        depth: usize,
        root: RootId,
    ) -> impl Iterator<Item = RootId> + 'a {
        let walk = &self.roots[root].walk;
        let states = walk.carries.iter().chain(&walk.finals);
        let deeper = states.filter(move |s| dense.tables.scan(s.scan).depth() > depth);
        let states = deeper.filter_map(|s| self.state(s.scan, s.carry));
        self.values_read(root).iter().copied().chain(states.flat_map(|s| [s.init, s.next]))
    }

    /// The classes in memory that a kernel with these roots computes itself.
    pub fn computed_here<'a>(&'a self, members: &'a [RootId]) -> impl Iterator<Item = Class> + 'a {
        let roots = members.iter().map(|r| &self.roots[*r]);
        roots.filter(|r| r.is_inside()).map(|r| r.computed)
    }

    /// The classes that a kernel stores, ascending: a materialised class that is also an output or next state is
    /// stored there and needs no memory of its own.
    pub fn stored_by(&self, members: &[RootId]) -> Vec<Class> {
        let stored = |root: &RootId| {
            let root = &self.roots[*root];
            let value = root.kind == RootKind::Value;
            (root.class, value, if value { self.outputs_of(root.class).len() } else { 1 })
        };
        let mut stored: Vec<(Class, bool, usize)> = members.iter().map(stored).collect();
        stored.sort_unstable();
        let classes = stored.chunk_by(|a, b| a.0 == b.0).flat_map(|same| {
            let value = same.iter().any(|s| s.1);
            let count: usize = same.iter().map(|s| s.2).sum();
            std::iter::repeat_n(same[0].0, count.max(usize::from(value)))
        });
        classes.collect()
    }
}

/// How graph outputs can be stored without kernels of their own: with the materialised class that an output is, or
/// that it is a view of in some order of axes and directions.
pub struct OutputForms {
    /// For each output, what could be stored, the class that it is first.
    forms: Vec<Vec<StoredOutput>>,
}

impl OutputForms {
    /// The forms of outputs of these classes.
    pub fn of(dense: &Dense<'_>, outputs: &[Class]) -> Self {
        let forms = outputs.iter().enumerate().map(|(i, class)| {
            let mut forms = vec![StoredOutput { output: i as u32, class: *class, view: None }];
            forms.extend(views(dense, i as u32, *class));
            forms
        });
        OutputForms { forms: forms.collect() }
    }

    /// The form of an output that can be stored with what is in memory.
    pub fn stored(&self, output: u32, memory: &Materialised) -> Option<&StoredOutput> {
        self.forms[output as usize].iter().find(|o| memory.contains(o.class))
    }
}

/// The views that a graph output of a class could be stored as.
fn views(dense: &Dense<'_>, output: u32, class: Class) -> impl Iterator<Item = StoredOutput> {
    dense.nodes[class as usize].iter().filter_map(move |node| {
        let (Head::Reindex(map), [source]) = (node.head, &node.children[..]) else { return None };
        if !dense.below(*source, class) || dense.gathered[*source as usize] {
            return None;
        }
        let extents = dense.tables.extents(dense.data[*source as usize].space);
        let layout = Layout::of_view(dense.tables.map(map), extents)?;
        // What has no axes but time is stored element by element anyway.
        let scalar = dense.least_steps[*source as usize] == extents.len();
        (scalar || layout.keeps_last(extents)).then_some(StoredOutput {
            output,
            class: *source,
            view: Some(layout),
        })
    })
}
