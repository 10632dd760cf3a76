//! What the kernels of walks cost.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::cost::{KernelCost, Reductions, Work, assumed};
use super::dense::Class;
use super::points::Points;
use super::walk::{Walk, Walker};
use crate::language::SpaceId;

/// The assumed number of steps of the loops over the axes `time` that `within` holds for.
fn steps(points: &Points, time: &[usize], within: impl Fn(usize) -> bool) -> f64 {
    time.iter().filter(|d| within(**d)).map(|d| points.sizes[*d]).product()
}

impl Walker<'_> {
    /// What one launch of a kernel with this walk costs, in loops over the axes `time` of its space.
    pub fn cost(&self, space: SpaceId, walk: &Walk, stored: &[Class], time: &[usize]) -> KernelCost {
        let Some(points) = self.points(space) else { return KernelCost::default() };
        let rank = points.space.len();
        let launches: SmallVec<[f64; 8]> =
            (0..=rank).map(|levels| steps(points, time, |d| d < levels)).collect();
        let mut work = Work::default();
        let mut reductions = Reductions::default();
        for id in &walk.computed {
            let point = points.get(*id);
            let launches = launches[point.levels];
            if points.met(*id).reduces {
                reductions.add(point.work.flops / launches);
            }
            work += point.work.map(|n| n / launches);
        }
        let all: f64 = points.sizes[..rank].iter().product();
        let space_points = all / launches[rank];
        let bytes = |c: &Class| {
            let elements = space_points.min(self.buffer_elements(*c));
            elements * self.dense.data[*c as usize].dtype.size() as f64
        };
        // The points along the axis of a recurrence wait for each other.
        let waiting = walk.recurrence.map_or(0.0, |axis| points.sizes[axis]);
        KernelCost {
            loaded: self.loaded_bytes(points, walk, time),
            stored: stored.iter().map(bytes).sum(),
            work,
            reductions,
            points: space_points / waiting.max(1.0),
            steps: waiting,
            is_in_loop: !time.is_empty(),
        }
    }

    /// The bytes that one launch loads.
    fn loaded_bytes(&self, points: &Points, walk: &Walk, time: &[usize]) -> f64 {
        let mut loads: SmallVec<[(Class, f64); 32]> = SmallVec::new();
        for id in &walk.loaded {
            let point = points.get(*id);
            loads.push((point.class, point.distinct / steps(points, time, |d| point.used & (1 << d) != 0)));
        }
        loads.sort_by_key(|l| l.0);
        let mut loaded = 0.0;
        for same in loads.chunk_by(|a, b| a.0 == b.0) {
            let class = same[0].0;
            let elements: f64 = same.iter().map(|l| l.1).sum();
            let size = self.dense.data[class as usize].dtype.size() as f64;
            loaded += elements.min(self.buffer_elements(class)) * size;
        }
        loaded
    }

    /// The assumed number of steps of all loops over the axes `time` together.
    pub fn trips(&self, space: SpaceId, time: &[usize]) -> f64 {
        self.points(space).map_or(1.0, |points| steps(points, time, |_| true))
    }

    /// The classes that a kernel loads without regard to the loops over the axes `time`, and their bytes.
    pub fn invariant_loads(&self, space: SpaceId, walk: &Walk, time: &[usize]) -> Vec<(Class, f64)> {
        let Some(points) = self.points(space) else { return Vec::new() };
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
        extents.iter().map(assumed).product()
    }
}

/// Seconds of kernels that were worked out, by all that they depend on.
#[derive(Default)]
pub struct KnownSeconds {
    known: FxHashMap<Box<[u32]>, f64>,
    /// The key that is looked for.
    pub key: Vec<u32>,
}

impl KnownSeconds {
    /// The seconds of the kernel that the key describes.
    pub fn get(&self) -> Option<f64> {
        self.known.get(&self.key[..]).copied()
    }

    /// Notes the seconds of the kernel that the key describes.
    pub fn insert(&mut self, seconds: f64) {
        self.known.insert(self.key.as_slice().into(), seconds);
    }
}
