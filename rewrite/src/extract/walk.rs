//! What kernels read and compute, given which classes are materialised.

use std::rc::Rc;

use smallvec::SmallVec;

use super::dense::{Class, Dense};
use super::memory::{Answers, Asked, Materialised};
use super::points::{Expansion, PointId, Points};
use crate::analysis::full_bits;
use crate::language::{Head, ScanId, SpaceId};

/// A read of a materialised class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// What is read.
    pub class: Class,
    /// How many leading coordinates are the axes of the kernel.
    pub steps: u32,
    /// Whether every point reads its own.
    pub identity: bool,
}

/// A read of a scan's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateRead {
    /// The scan.
    pub scan: ScanId,
    /// Which state.
    pub carry: u32,
    /// How many leading coordinates are the axes of the kernel.
    pub steps: u32,
}

/// What lies between some roots and memory.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Walks with the same number are the same.
    pub id: u32,
    /// Materialised classes that are read.
    pub reads: SmallVec<[Read; 4]>,
    /// States read inside the loop.
    pub carries: SmallVec<[StateRead; 2]>,
    /// States read after the loop.
    pub finals: SmallVec<[StateRead; 1]>,
    /// Points that are computed.
    pub computed: Vec<PointId>,
    /// The classes of these points; a class can be met at several.
    pub classes: Vec<Class>,
    /// Points that are loaded.
    pub loaded: Vec<PointId>,
    /// The axis of the space that recurrences run along, if there are any.
    pub recurrence: Option<usize>,
    /// Classes that must be materialised for this to be a kernel.
    pub needs: Vec<Class>,
    /// What was asked of memory on the way. A walk with the same answers is the same.
    asked: Answers,
}

impl Walk {
    /// Empties all lists, and keeps their memory.
    fn clear(&mut self) {
        let Walk { id: _, reads, carries, finals, computed, classes, loaded, recurrence, needs, asked: _ } =
            self;
        reads.clear();
        carries.clear();
        finals.clear();
        computed.clear();
        classes.clear();
        loaded.clear();
        needs.clear();
        *recurrence = None;
    }
}

/// Walks of one kernel that are kept, those used last.
const WALKS_KEPT: usize = 32;

/// Points of classes that a kernel computes elsewhere already. Beyond, they are read: views of sums of views of
/// sums double with every link.
const MAX_RECOMPUTED: usize = 1024;

/// Walks of a kernel, the one used last in front.
#[derive(Clone, Default)]
struct Kept(Vec<Rc<Walk>>);

impl Kept {
    /// The walk in this memory, if it is kept.
    fn find(&mut self, memory: &Materialised) -> Option<&Rc<Walk>> {
        let at = self.0.iter().position(|w| memory.agrees(&w.asked))?;
        self.0[..=at].rotate_right(1);
        self.0.first()
    }

    fn keep(&mut self, walk: Rc<Walk>) {
        self.0.truncate(WALKS_KEPT - 1);
        self.0.insert(0, walk);
    }
}

/// The points of a space, and for each the last walk that met it, and the last joined one that loaded it.
struct Space {
    points: Points,
    stamps: Vec<u32>,
    loaded: Vec<u32>,
}

/// The points of every space, for walking.
pub struct Walker<'a> {
    /// The classes.
    pub dense: &'a Dense<'a>,
    spaces: Vec<Option<Box<Space>>>,
    /// The number of the last walk.
    stamp: u32,
    /// For each class the last walk that computed it.
    computed_in: Vec<u32>,
    /// The walks of each class, and whether it is computed inside.
    known: Vec<[Kept; 2]>,
    /// Memory for the next walk.
    scratch: Scratch,
    /// Points visited so far, those of all walks; a walk that is known counts one.
    pub visited: usize,
}

/// Memory that walks use one after the other.
#[derive(Default)]
struct Scratch {
    walk: Walk,
    pending: Vec<(PointId, Cut)>,
    /// Words of classes that were asked for; all zero between walks.
    asked: Vec<u64>,
}

impl<'a> Walker<'a> {
    /// Nothing walked yet.
    pub fn new(dense: &'a Dense<'a>) -> Self {
        let classes = dense.nodes.len();
        Walker {
            dense,
            spaces: Vec::new(),
            stamp: 0,
            computed_in: vec![0; classes],
            known: vec![Default::default(); classes],
            scratch: Scratch { asked: vec![0; Materialised::none(classes).words()], ..Scratch::default() },
            visited: 0,
        }
    }

    /// The points of a space; none before the first walk from it.
    pub fn points(&self, space: SpaceId) -> Option<&Points> {
        self.spaces.get(space.index())?.as_deref().map(|s| &s.points)
    }

    /// Walks from a class. If it is materialised and computed `inside`, it is not read where every point uses its own;
    /// any other materialised class is.
    pub fn walk(&mut self, root: Class, inside: bool, memory: &Materialised) -> Rc<Walk> {
        self.visited += 1;
        let known = &mut self.known[root as usize][usize::from(inside)];
        if let Some(walk) = known.find(memory) {
            return walk.clone();
        }
        let walk = Rc::new(self.fresh_walk(root, inside, memory));
        self.known[root as usize][usize::from(inside)].keep(walk.clone());
        walk
    }

    /// What a kernel computes and loads that computes all of some roots of one space; those that are materialised and
    /// computed inside by it are not loaded where every point uses its own.
    pub fn joined<'w>(&mut self, walks: impl Iterator<Item = (Class, bool, &'w Walk)> + Clone) -> Walk {
        let mut out = Walk::default();
        let Some((first, ..)) = walks.clone().next() else { return out };
        let space = self.dense.data[first as usize].space;
        let Some(Space { points, stamps, loaded }) = self.spaces[space.index()].as_deref_mut() else {
            return out;
        };
        self.stamp += 1;
        let stamp = self.stamp;
        loaded.resize(points.len(), 0);
        stamps.resize(points.len(), 0);
        for (root, own, walk) in walks.clone() {
            out.recurrence = out.recurrence.or(walk.recurrence);
            let fresh = |id: &PointId| std::mem::replace(&mut stamps[*id as usize], stamp) != stamp;
            out.computed.extend(walk.computed.iter().copied().filter(fresh));
            // What another of them computes; its own class is loaded only where that is a leaf.
            let here = |class: Class| {
                !(own && class == root) && walks.clone().any(|(c, inside, _)| inside && c == class)
            };
            for id in &walk.loaded {
                let met = points.met(*id);
                if !(met.identity && here(met.class))
                    && std::mem::replace(&mut loaded[*id as usize], stamp) != stamp
                {
                    out.loaded.push(*id);
                }
            }
        }
        out
    }

    fn fresh_walk(&mut self, root: Class, inside: bool, memory: &Materialised) -> Walk {
        let dense = self.dense;
        let id = dense.data[root as usize].space;
        if self.spaces.len() <= id.index() {
            self.spaces.resize_with(id.index() + 1, || None);
        }
        let fresh = || Space { points: Points::new(dense, id), stamps: Vec::new(), loaded: Vec::new() };
        let space = self.spaces[id.index()].get_or_insert_with(|| Box::new(fresh()));
        let Space { points, stamps, .. } = &mut **space;
        let Scratch { walk, pending, asked, .. } = &mut self.scratch;
        self.stamp += 1;
        walk.clear();
        pending.clear();
        pending.push((points.root(dense, root), Cut::None));
        let here = inside.then_some(root);
        let mut asked = Asked::new(memory, asked);
        let mut recomputed = 0;
        while let Some((id, cut)) = pending.pop() {
            if stamps.len() < points.len() {
                stamps.resize(points.len(), 0);
            }
            if std::mem::replace(&mut stamps[id as usize], self.stamp) == self.stamp {
                continue;
            }
            self.visited += 1;
            let before = walk.computed.len();
            visit(dense, points, (id, cut), (root, here), &mut asked, walk, pending);
            if walk.computed.len() > before {
                let class = points.met(id).class;
                let last = std::mem::replace(&mut self.computed_in[class as usize], self.stamp);
                recomputed += usize::from(last == self.stamp);
                if last == self.stamp && recomputed > MAX_RECOMPUTED {
                    walk.needs.push(class);
                    break;
                }
            }
        }
        // Cloned, so that lists are as long as they need to be.
        Walk { id: self.stamp, asked: asked.answers(), ..walk.clone() }
    }
}

/// The outermost value on the way to a point that is evaluated far more often than it has elements: if something
/// that reduces turns out to be below, this is what to keep in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    None,
    At(Class),
}

/// Handles one point: reads it from memory, or computes it from others.
fn visit(
    dense: &Dense<'_>,
    points: &mut Points,
    (id, cut): (PointId, Cut),
    (root, here): (Class, Option<Class>),
    memory: &mut Asked<'_>,
    walk: &mut Walk,
    pending: &mut Vec<(PointId, Cut)>,
) {
    let met = points.met(id);
    let (class, steps, constant) = (met.class, met.steps, met.constant);
    if !constant && memory.contains(class) && !(met.identity && here == Some(class)) {
        walk.loaded.push(id);
        walk.reads.push(Read { class, steps, identity: met.identity });
        return;
    }
    if met.elsewhere {
        walk.needs.push(class);
        return;
    }
    let cut = match cut {
        _ if !met.repeated => Cut::None,
        Cut::At(outermost) => Cut::At(outermost),
        Cut::None if met.storable => Cut::At(class),
        Cut::None => Cut::None,
    };
    if met.reduces
        && let Cut::At(outermost) = cut
    {
        walk.needs.push(outermost);
        return;
    }
    points.expand(dense, id);
    let met = points.met(id);
    if met.has_views && !constant {
        let stored = |v: &&PointId| memory.contains(points.met(**v).class);
        if let Some(view) = points.views_of(id).iter().find(stored) {
            pending.push((*view, cut));
            return;
        }
    }
    match &met.expansion {
        // Expanded above.
        Expansion::Unknown => {}
        Expansion::Leaf => walk.loaded.push(id),
        Expansion::Free => {}
        Expansion::Carry(scan, carry) => {
            walk.loaded.push(id);
            walk.carries.push(StateRead { scan: *scan, carry: *carry, steps });
        }
        Expansion::Final(scan, carry) => {
            walk.loaded.push(id);
            walk.finals.push(StateRead { scan: *scan, carry: *carry, steps });
        }
        Expansion::TooLong => walk.needs.push(class),
        Expansion::View(source) => pending.push((*source, cut)),
        // The axis of a loop around the kernel has one point here.
        Expansion::Recurrence(along, _)
            if *along < dense.least_steps[root as usize]
                || walk.recurrence.is_some_and(|axis| axis != *along) =>
        {
            walk.needs.push(class);
        }
        Expansion::Recurrence(along, operands) => {
            walk.recurrence = Some(*along);
            walk.computed.push(id);
            walk.classes.push(class);
            pending.extend(operands.iter().rev().map(|o| (*o, cut)));
        }
        Expansion::RecurrenceFinal => walk.needs.push(class),
        Expansion::Op(children) => {
            walk.computed.push(id);
            walk.classes.push(class);
            pending.extend(children.iter().rev().map(|c| (*c, cut)));
        }
        Expansion::Gather { table, index, steps } => {
            walk.computed.push(id);
            walk.classes.push(class);
            walk.loaded.push(id);
            pending.push((*index, cut));
            read_table(dense, *table, *steps as u32, memory, walk);
        }
    }
}

fn read_table(dense: &Dense<'_>, table: Class, steps: u32, memory: &mut Asked<'_>, walk: &mut Walk) {
    if memory.contains(table) {
        walk.reads.push(Read { class: table, steps, identity: false });
        return;
    }
    match dense.chosen(table).head {
        Head::Leaf(_) => {}
        Head::Carry(scan, carry) if steps as usize > dense.tables.scan(scan).depth() => {
            walk.carries.push(StateRead { scan, carry, steps });
        }
        Head::ScanFinal(scan, carry) => walk.finals.push(StateRead { scan, carry, steps }),
        Head::Carry(..)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Scalar(_)
        | Head::Cast(_)
        | Head::Reindex(_)
        | Head::Reduce(..)
        | Head::Gather(_)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => walk.needs.push(table),
    }
}

/// Whether a class depends on every axis of its space, so that storing it stores no repetition.
pub fn covers_space(dense: &Dense<'_>, class: Class) -> bool {
    let data = dense.data[class as usize];
    data.depends == full_bits(dense.tables, data.space)
}
