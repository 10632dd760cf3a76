//! What kernels read and compute, given which classes are materialised.

use std::collections::HashMap;

use fuse_ir::device::DeviceModel;

use super::cost::{KernelCost, Work};
use super::dense::{Class, Dense};
use super::points::{Expansion, PointId, Points};
use crate::analysis::full_bits;
use crate::language::{Head, ScanId, SpaceId};

/// Which classes are in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Materialised {
    flags: Vec<bool>,
}

impl Materialised {
    /// None of `classes` classes.
    pub fn none(classes: usize) -> Self {
        Materialised { flags: vec![false; classes] }
    }

    /// Whether the class is.
    pub fn contains(&self, class: Class) -> bool {
        self.flags[class as usize]
    }

    /// Sets whether the class is.
    pub fn set(&mut self, class: Class, value: bool) {
        self.flags[class as usize] = value;
    }

    /// The classes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Class> + '_ {
        self.flags.iter().enumerate().filter(|(_, f)| **f).map(|(i, _)| i as Class)
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
    /// Classes that must be materialised for this to be a kernel.
    pub needs: Vec<Class>,
}

/// The points of every space, for walking.
pub struct Walker<'a> {
    /// The classes.
    pub dense: &'a Dense<'a>,
    spaces: HashMap<SpaceId, Points>,
    /// For each point of the space being walked: the last walk that met it.
    stamps: HashMap<SpaceId, Vec<u32>>,
    stamp: u32,
    /// Points visited so far, those of all walks.
    pub visited: usize,
}

impl<'a> Walker<'a> {
    /// Nothing walked yet.
    pub fn new(dense: &'a Dense<'a>) -> Self {
        Walker { dense, spaces: HashMap::new(), stamps: HashMap::new(), stamp: 0, visited: 0 }
    }

    /// Walks from root classes of one space. A materialised class in `inside` is computed here (where every
    /// point uses its own); any other is read.
    pub fn walk(&mut self, roots: &[Class], inside: &[Class], memory: &Materialised) -> Walk {
        let mut walk = Walk::default();
        let Some(first) = roots.first() else { return walk };
        let space = self.dense.data[*first as usize].space;
        let points = self.spaces.entry(space).or_insert_with(|| Points::new(self.dense, space));
        let stamps = self.stamps.entry(space).or_default();
        self.stamp += 1;
        let mut pending: Vec<PointId> = roots.iter().rev().map(|r| points.root(self.dense, *r)).collect();
        while let Some(id) = pending.pop() {
            if stamps.len() < points.len() {
                stamps.resize(points.len(), 0);
            }
            if std::mem::replace(&mut stamps[id as usize], self.stamp) == self.stamp {
                continue;
            }
            self.visited += 1;
            visit(self.dense, points, id, inside, memory, &mut walk, &mut pending);
        }
        walk
    }

    /// What one launch of a kernel with this walk costs, in loops over the axes `time` of its space.
    pub fn cost(&self, space: SpaceId, walk: &Walk, stored: &[Class], time: &[usize]) -> KernelCost {
        let Some(points) = self.spaces.get(&space) else { return KernelCost::default() };
        let steps = |within: &dyn Fn(usize) -> bool| -> f64 {
            time.iter().filter(|d| within(**d)).map(|d| points.sizes[*d]).product()
        };
        let mut work = Work::default();
        let mut reductions = 0;
        for id in &walk.computed {
            let point = points.get(*id);
            reductions += usize::from(matches!(self.dense.chosen(point.class).head, Head::Reduce(..)));
            let launches = steps(&|d| d < point.levels);
            work.flops += point.work.flops / launches;
            work.transcendentals += point.work.transcendentals / launches;
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
        let sizes = stored.iter().map(|c| self.dense.data[*c as usize].dtype.size() as f64);
        KernelCost {
            loaded,
            stored: sizes.sum::<f64>() * space_points,
            work,
            reductions,
            points: space_points,
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
        let trips: f64 = match self.spaces.get(&space) {
            Some(points) => time.iter().map(|d| points.sizes[*d]).product(),
            None => 1.0,
        };
        trips * self.cost(space, walk, stored, time).seconds(device)
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

/// Handles one point: reads it from memory, or computes it from others.
fn visit(
    dense: &Dense<'_>,
    points: &mut Points,
    id: PointId,
    inside: &[Class],
    memory: &Materialised,
    walk: &mut Walk,
    pending: &mut Vec<PointId>,
) {
    let point = points.get(id);
    let (class, steps, identity) = (point.class, point.steps, point.identity);
    let here = identity && inside.contains(&class);
    if memory.contains(class) && !here {
        walk.loaded.push(id);
        walk.reads.push(Read { class, steps, identity });
        return;
    }
    // In another step of its loop, it can only be read from memory.
    if steps < dense.least_steps[class as usize] {
        walk.needs.push(class);
        return;
    }
    points.expand(dense, id);
    if let Some(view) = points.views_of(id).iter().find(|v| memory.contains(points.get(**v).class)) {
        pending.push(*view);
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
        Some(Expansion::View(source)) => pending.push(*source),
        Some(Expansion::Op(children)) => {
            walk.computed.push(id);
            walk.classes.push(class);
            pending.extend(children.iter().rev());
        }
        Some(Expansion::Gather { table, index, steps }) => {
            walk.computed.push(id);
            walk.classes.push(class);
            walk.loaded.push(id);
            pending.push(*index);
            read_table(dense, *table, *steps, memory, walk);
        }
    }
}

fn read_table(dense: &Dense<'_>, table: Class, steps: usize, memory: &Materialised, walk: &mut Walk) {
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
        | Head::Gather(_) => walk.needs.push(table),
    }
}

/// Whether a class depends on every axis of its space, so that storing it stores no repetition.
pub fn covers_space(dense: &Dense<'_>, class: Class) -> bool {
    let data = dense.data[class as usize];
    data.depends == full_bits(dense.tables, data.space)
}
