//! What kernels read and compute, given which classes are materialised.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use fuse_ir::device::DeviceModel;

use super::cost::{KernelCost, Reductions, Work};
use super::dense::{Class, Dense};
use super::points::{Expansion, PointId, Points};
use crate::analysis::full_bits;
use crate::language::{Head, ScanId, SpaceId};

/// Which classes are in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Materialised {
    words: Vec<u64>,
}

impl Materialised {
    /// None of `classes` classes.
    pub fn none(classes: usize) -> Self {
        Materialised { words: vec![0; classes.div_ceil(64)] }
    }

    /// Whether the class is.
    pub fn contains(&self, class: Class) -> bool {
        self.words[class as usize / 64] & (1 << (class % 64)) != 0
    }

    /// Sets whether the class is.
    pub fn set(&mut self, class: Class, value: bool) {
        let bit = 1 << (class % 64);
        match value {
            true => self.words[class as usize / 64] |= bit,
            false => self.words[class as usize / 64] &= !bit,
        }
    }

    /// The classes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Class> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i as Class * 64 + bit)
            })
        })
    }
}

/// A read of a materialised class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// What is read.
    pub class: Class,
    /// How many leading coordinates are the axes of the kernel.
    pub steps: usize,
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
    pub steps: usize,
}

/// What lies between some roots and memory.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Materialised classes that are read.
    pub reads: Vec<Read>,
    /// States read inside the loop.
    pub carries: Vec<StateRead>,
    /// States read after the loop.
    pub finals: Vec<StateRead>,
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
    /// What was asked of memory on the way: words of classes, which bits of each, and the answers. A walk with
    /// the same answers is the same.
    asked: Vec<(u32, u64, u64)>,
    /// Seconds that were worked out, by bytes stored at a point and loops around.
    seconds: RefCell<Vec<(f64, Vec<usize>, f64)>>,
}

impl Walk {
    /// Whether this is the walk in this memory, given that it is in some.
    fn holds(&self, memory: &Materialised) -> bool {
        self.asked.iter().all(|(word, mask, value)| memory.words[*word as usize] & mask == *value)
    }
}

/// Walks of one kernel that are kept, the latest ones.
const WALKS_KEPT: usize = 8;

/// Coordinates that a reduction is evaluated at for each that it has, beyond which it is not repeated but read.
const MAX_REPETITIONS: f64 = 8.0;

/// Reductions that may lie in each other where the inner ones depend on the axes of the outer ones.
const MAX_NESTED: usize = 2;

/// Points of classes that a kernel computes elsewhere already. Beyond, they are read: views of sums of views of
/// sums double with every link.
const MAX_RECOMPUTED: usize = 1024;

/// The latest walks of a kernel, the oldest first.
type Kept = VecDeque<Rc<Walk>>;

/// The points of every space, for walking.
pub struct Walker<'a> {
    /// The classes.
    pub dense: &'a Dense<'a>,
    spaces: HashMap<SpaceId, Points>,
    /// For each point of the space being walked: the last walk that met it.
    stamps: HashMap<SpaceId, Vec<u32>>,
    stamp: u32,
    /// For each class the last walk that computed it.
    computed_in: Vec<u32>,
    /// The walks of kernels with one root, and whether it is computed inside.
    known: Vec<[Kept; 2]>,
    /// The walks of kernels by roots and what is computed inside.
    known_joined: HashMap<(Vec<Class>, Vec<Class>), Kept>,
    /// Points visited so far, those of all walks; a walk that is known counts one.
    pub visited: usize,
}

impl<'a> Walker<'a> {
    /// Nothing walked yet.
    pub fn new(dense: &'a Dense<'a>) -> Self {
        Walker {
            dense,
            spaces: HashMap::new(),
            stamps: HashMap::new(),
            stamp: 0,
            computed_in: vec![0; dense.nodes.len()],
            known: vec![Default::default(); dense.nodes.len()],
            known_joined: HashMap::new(),
            visited: 0,
        }
    }

    /// Walks from root classes of one space. A materialised class in `inside` is computed here (where every
    /// point uses its own); any other is read.
    pub fn walk(&mut self, roots: &[Class], inside: &[Class], memory: &Materialised) -> Rc<Walk> {
        self.visited += 1;
        let known = self.known(roots, inside);
        if let Some(walk) = known.iter().find(|w| w.holds(memory)) {
            return walk.clone();
        }
        let walk = Rc::new(self.fresh_walk(roots, inside, memory));
        let known = self.known(roots, inside);
        if known.len() == WALKS_KEPT {
            known.pop_front();
        }
        known.push_back(walk.clone());
        walk
    }

    fn known(&mut self, roots: &[Class], inside: &[Class]) -> &mut Kept {
        match (roots, inside) {
            ([root], []) => &mut self.known[*root as usize][0],
            ([root], [inside]) if root == inside => &mut self.known[*root as usize][1],
            _ => self.known_joined.entry((roots.to_vec(), inside.to_vec())).or_default(),
        }
    }

    fn fresh_walk(&mut self, roots: &[Class], inside: &[Class], memory: &Materialised) -> Walk {
        let mut walk = Walk::default();
        let Some(first) = roots.first() else { return walk };
        let space = self.dense.data[*first as usize].space;
        let points = self.spaces.entry(space).or_insert_with(|| Points::new(self.dense, space));
        let stamps = self.stamps.entry(space).or_default();
        let loops = roots.iter().map(|r| self.dense.least_steps[*r as usize]).max().unwrap_or(0);
        self.stamp += 1;
        let mut asked = Asked { memory, classes: Vec::new() };
        let mut recomputed = 0;
        let roots = roots.iter().rev().map(|r| (points.root(self.dense, *r), Cut::None));
        let mut pending: Vec<(PointId, Cut)> = roots.collect();
        while let Some((id, cut)) = pending.pop() {
            if stamps.len() < points.len() {
                stamps.resize(points.len(), 0);
            }
            if std::mem::replace(&mut stamps[id as usize], self.stamp) == self.stamp {
                continue;
            }
            self.visited += 1;
            let before = walk.computed.len();
            visit(self.dense, points, (id, cut), (inside, loops), &mut asked, &mut walk, &mut pending);
            if walk.computed.len() > before {
                let class = points.get(id).class;
                let last = std::mem::replace(&mut self.computed_in[class as usize], self.stamp);
                recomputed += usize::from(last == self.stamp);
                if last == self.stamp && recomputed > MAX_RECOMPUTED {
                    walk.needs.push(class);
                    break;
                }
            }
        }
        walk.asked = asked.answers();
        walk
    }

    /// What one launch of a kernel with this walk costs, in loops over the axes `time` of its space.
    pub fn cost(&self, space: SpaceId, walk: &Walk, stored: &[Class], time: &[usize]) -> KernelCost {
        let Some(points) = self.spaces.get(&space) else { return KernelCost::default() };
        let steps = |within: &dyn Fn(usize) -> bool| -> f64 {
            time.iter().filter(|d| within(**d)).map(|d| points.sizes[*d]).product()
        };
        let mut work = Work::default();
        let mut reductions = Reductions::default();
        for id in &walk.computed {
            let point = points.get(*id);
            let launches = steps(&|d| d < point.levels);
            if matches!(self.dense.chosen(point.class).head, Head::Reduce(..)) {
                reductions.add(point.work.flops / launches);
            }
            work += point.work.map(|n| n / launches);
        }
        let mut loads: Vec<(Class, f64)> = Vec::with_capacity(walk.loaded.len());
        for id in &walk.loaded {
            let point = points.get(*id);
            loads.push((point.class, point.distinct / steps(&|d| point.used & (1 << d) != 0)));
        }
        loads.sort_unstable_by_key(|l| l.0);
        let mut loaded = 0.0;
        for same in loads.chunk_by(|a, b| a.0 == b.0) {
            let class = same[0].0;
            let elements: f64 = same.iter().map(|l| l.1).sum();
            let size = self.dense.data[class as usize].dtype.size() as f64;
            loaded += elements.min(self.buffer_elements(class)) * size;
        }
        let all: f64 = points.sizes[..points.space.len()].iter().product();
        let space_points = all / steps(&|_| true);
        let bytes = |c: &Class| {
            let elements = space_points.min(self.buffer_elements(*c));
            elements * self.dense.data[*c as usize].dtype.size() as f64
        };
        // The points along the axis of a recurrence wait for each other.
        let waiting = walk.recurrence.map_or(0.0, |axis| points.sizes[axis]);
        KernelCost {
            loaded,
            stored: stored.iter().map(bytes).sum(),
            work,
            reductions,
            points: space_points / waiting.max(1.0),
            steps: waiting,
        }
    }

    /// Seconds of all launches of a kernel.
    pub fn seconds(
        &self,
        device: &DeviceModel,
        space: SpaceId,
        walk: &Walk,
        stored: &[Class],
        time: &[usize],
    ) -> f64 {
        let bytes: f64 = stored.iter().map(|c| self.dense.data[*c as usize].dtype.size() as f64).sum();
        let known = walk.seconds.borrow().iter().find(|k| k.0 == bytes && k.1 == time).map(|k| k.2);
        if let Some(seconds) = known {
            return seconds;
        }
        let trips: f64 = match self.spaces.get(&space) {
            Some(points) => time.iter().map(|d| points.sizes[*d]).product(),
            None => 1.0,
        };
        let seconds = trips * self.cost(space, walk, stored, time).seconds(device);
        walk.seconds.borrow_mut().push((bytes, time.to_vec(), seconds));
        seconds
    }

    /// The classes that a kernel loads without regard to the loops over the axes `time`, and their bytes.
    pub fn invariant_loads(&self, space: SpaceId, walk: &Walk, time: &[usize]) -> Vec<(Class, f64)> {
        let Some(points) = self.spaces.get(&space) else { return Vec::new() };
        let bits = time.iter().fold(0u64, |bits, axis| bits | 1 << axis);
        let invariant = walk.loaded.iter().map(|id| points.get(*id)).filter(|p| p.used & bits == 0);
        let sized = invariant.map(|point| {
            let elements = point.distinct.min(self.buffer_elements(point.class));
            (point.class, elements * self.dense.data[point.class as usize].dtype.size() as f64)
        });
        sized.collect()
    }

    fn buffer_elements(&self, class: Class) -> f64 {
        let extents = self.dense.tables.extents(self.dense.data[class as usize].space);
        extents.iter().map(super::cost::assumed).product()
    }
}

/// Memory that remembers what it was asked.
struct Asked<'m> {
    memory: &'m Materialised,
    classes: Vec<Class>,
}

impl Asked<'_> {
    fn contains(&mut self, class: Class) -> bool {
        self.classes.push(class);
        self.memory.contains(class)
    }

    /// The questions and answers by words.
    fn answers(mut self) -> Vec<(u32, u64, u64)> {
        self.classes.sort_unstable();
        let words = self.classes.chunk_by(|a, b| a / 64 == b / 64);
        let masks = words.map(|same| {
            let mask = same.iter().fold(0, |bits, c| bits | 1u64 << (c % 64));
            (same[0] / 64, mask, self.memory.words[same[0] as usize / 64] & mask)
        });
        masks.collect()
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
    (inside, loops): (&[Class], usize),
    memory: &mut Asked<'_>,
    walk: &mut Walk,
    pending: &mut Vec<(PointId, Cut)>,
) {
    let point = points.get(id);
    let (class, steps, identity) = (point.class, point.steps, point.identity);
    let here = identity && inside.contains(&class);
    let constant = dense.is_constant(class);
    if memory.contains(class) && !here && !constant {
        walk.loaded.push(id);
        walk.reads.push(Read { class, steps, identity });
        return;
    }
    // In another step of its loop, it can only be read from memory.
    if steps < dense.least_steps[class as usize] {
        walk.needs.push(class);
        return;
    }
    let repeated = point.repetitions > MAX_REPETITIONS || point.nested > MAX_NESTED;
    let view = matches!(dense.chosen(class).head, Head::Reindex(_));
    let cut = match cut {
        Cut::At(class) if repeated => Cut::At(class),
        // Neither a view nor a repetition, which would be stored as such.
        Cut::None | Cut::At(_) if repeated && !view && covers_space(dense, class) => Cut::At(class),
        Cut::None | Cut::At(_) => Cut::None,
    };
    if matches!(dense.chosen(class).head, Head::Reduce(..))
        && let Cut::At(outermost) = cut
    {
        walk.needs.push(outermost);
        return;
    }
    points.expand(dense, id);
    let stored = |v: &&PointId| !constant && memory.contains(points.get(**v).class);
    if let Some(view) = points.views_of(id).iter().find(stored) {
        pending.push((*view, cut));
        return;
    }
    match points.expansion_of(id) {
        // Expanded above.
        None => {}
        Some(Expansion::Leaf) => walk.loaded.push(id),
        Some(Expansion::Free) => {}
        Some(Expansion::Carry(scan, carry)) => {
            walk.loaded.push(id);
            walk.carries.push(StateRead { scan: *scan, carry: *carry, steps });
        }
        Some(Expansion::Final(scan, carry)) => {
            walk.loaded.push(id);
            walk.finals.push(StateRead { scan: *scan, carry: *carry, steps });
        }
        Some(Expansion::TooLong) => walk.needs.push(class),
        Some(Expansion::View(source)) => pending.push((*source, cut)),
        // The axis of a loop around the kernel has one point here.
        Some(Expansion::Recurrence(along, _))
            if *along < loops || walk.recurrence.is_some_and(|axis| axis != *along) =>
        {
            walk.needs.push(class);
        }
        Some(Expansion::Recurrence(along, operands)) => {
            walk.recurrence = Some(*along);
            walk.computed.push(id);
            walk.classes.push(class);
            pending.extend(operands.iter().rev().map(|o| (*o, cut)));
        }
        Some(Expansion::RecurrenceFinal) => walk.needs.push(class),
        Some(Expansion::Op(children)) => {
            walk.computed.push(id);
            walk.classes.push(class);
            pending.extend(children.iter().rev().map(|c| (*c, cut)));
        }
        Some(Expansion::Gather { table, index, steps }) => {
            walk.computed.push(id);
            walk.classes.push(class);
            walk.loaded.push(id);
            pending.push((*index, cut));
            read_table(dense, *table, *steps, memory, walk);
        }
    }
}

fn read_table(dense: &Dense<'_>, table: Class, steps: usize, memory: &mut Asked<'_>, walk: &mut Walk) {
    if memory.contains(table) {
        walk.reads.push(Read { class: table, steps, identity: false });
        return;
    }
    match dense.chosen(table).head {
        Head::Leaf(_) => {}
        Head::Carry(scan, carry) if steps > dense.tables.scan(scan).depth() => {
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
