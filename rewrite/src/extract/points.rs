//! Terms at points: what a class looks like from inside a kernel.
//!
//! A kernel's root is a class at every point of its space. Below it, views substitute indices, so what is met
//! is pairs of a class and coordinates over the kernel's axes. These pairs, how each expands by one step and
//! what it costs do not depend on which classes are materialised; that only decides where a walk stops. So they
//! are interned once per space, and evaluating a choice is a walk over integers.

use fuse_ir::expr::Atom;
use fuse_ir::types::Shape;
use fuse_ir::{Dim, Expr};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::complexity::may_substitute;

use super::cost::{Work, assumed, cast_work, scalar_work};
use super::dense::{Class, Dense};
use super::walk::covers_space;
use crate::language::{Head, MapId, ScanId, SpaceId};

/// A point of one space, by position.
pub type PointId = u32;

/// Coordinates that a reduction is evaluated at for each that it has, beyond which it is not repeated but read.
const MAX_REPETITIONS: f64 = 8.0;

/// Reductions that may lie in each other where the inner ones depend on the axes of the outer ones.
const MAX_NESTED: usize = 2;

/// What computes a point.
#[derive(Clone, Debug)]
pub enum Expansion {
    /// Not worked out yet.
    Unknown,
    /// Reads the graph input of that position.
    Leaf,
    /// A constant or index expression.
    Free,
    /// The state of a scan at the start of the step.
    Carry(ScanId, u32),
    /// The state after the loop.
    Final(ScanId, u32),
    /// The same value at another point.
    View(PointId),
    /// The coordinates would become too long; the class must be read from memory.
    TooLong,
    /// The state of a recurrence along that axis of the space: initial state, factor and term.
    Recurrence(usize, [PointId; 3]),
    /// The final state of a recurrence, which only the kernel that runs it has.
    RecurrenceFinal,
    /// Arithmetic on points.
    Op(SmallVec<[PointId; 3]>),
    /// Reads a class in memory at the value of a point.
    Gather {
        /// What is read.
        table: Class,
        /// The coordinate along the gathered axis.
        index: PointId,
        /// How many leading coordinates of the table are the axes of the kernel.
        steps: usize,
    },
}

/// What a walk looks at when it meets a point, together in memory.
#[derive(Clone, Debug)]
pub struct Met {
    /// The class.
    pub class: Class,
    /// How many leading coordinates are the axes of the kernel.
    pub steps: u32,
    /// Whether the coordinates are exactly the axes of the kernel's space.
    pub identity: bool,
    /// Whether the class has one value everywhere, which is never read from memory.
    pub constant: bool,
    /// Whether this lies in another step of the class's loop, where it can only be read from memory.
    pub elsewhere: bool,
    /// Whether it is evaluated far more often than it has elements, or within too many reductions.
    pub repeated: bool,
    /// Whether the class could be kept in memory for that: it is neither a view nor a repetition, which would be
    /// stored as such.
    pub storable: bool,
    /// Whether the class is a reduction.
    pub reduces: bool,
    /// Whether the class is a view of others that could be read instead; known once the point is expanded.
    pub has_views: bool,
    /// How it is computed, once that is worked out.
    pub expansion: Expansion,
}

/// A class at coordinates.
#[derive(Clone, Debug)]
pub struct Point {
    /// The class.
    pub class: Class,
    /// Its coordinates.
    at: CoordinatesId,
    /// The arithmetic of this point, all its evaluations over the whole space.
    pub work: Work,
    /// The elements it has, each counted once, over the whole space.
    pub distinct: f64,
    /// The number of leading axes of the space that it is evaluated for.
    pub levels: usize,
    /// The axes of the space it depends on.
    pub used: u64,
    /// The axes of reductions it depends on, ascending.
    bound: SmallVec<[u32; 4]>,
    /// The points that the class is views of.
    views: SmallVec<[PointId; 2]>,
}

/// Coordinates, by position.
type CoordinatesId = u32;

/// One coordinate for each axis of a class, over the kernel's axes and those of reductions around.
struct Coordinates {
    expressions: Vec<Expr>,
    /// The axes of each: those of the space as bits, those of reductions by number.
    axes: Vec<(u64, SmallVec<[u32; 2]>)>,
    steps: usize,
    identity: bool,
}

/// The points of one space.
pub struct Points {
    /// The extents of the space.
    pub space: Shape,
    /// The assumed extents of the space's axes and, after them, of all reduction axes.
    pub sizes: Vec<f64>,
    extents: Vec<Dim>,
    /// For each reduction axis: the evaluations of one pass over it, and the levels of its reduction.
    passes: Vec<(f64, usize)>,
    /// The reduction that each reduction axis belongs to.
    owners: Vec<PointId>,
    points: Vec<Point>,
    met: Vec<Met>,
    known: FxHashMap<(Class, CoordinatesId), PointId>,
    coordinates: Vec<Coordinates>,
    known_coordinates: FxHashMap<Vec<Expr>, CoordinatesId>,
    /// Coordinates read through maps; `None` where they would become too long.
    composed: FxHashMap<(MapId, CoordinatesId), Option<CoordinatesId>>,
}

impl Points {
    /// No points yet.
    pub fn new(dense: &Dense<'_>, space: SpaceId) -> Self {
        let space = dense.tables.extents(space).clone();
        Points {
            sizes: space.iter().map(assumed).collect(),
            extents: space.clone(),
            space,
            passes: Vec::new(),
            owners: Vec::new(),
            points: Vec::new(),
            met: Vec::new(),
            known: FxHashMap::default(),
            coordinates: Vec::new(),
            known_coordinates: FxHashMap::default(),
            composed: FxHashMap::default(),
        }
    }

    /// The number of points so far.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// A point.
    pub fn get(&self, id: PointId) -> &Point {
        &self.points[id as usize]
    }

    /// What a walk looks at of a point.
    pub fn met(&self, id: PointId) -> &Met {
        &self.met[id as usize]
    }

    /// The class over the whole space.
    pub fn root(&mut self, dense: &Dense<'_>, class: Class) -> PointId {
        // The identity comes first, whatever the space.
        if self.coordinates.is_empty() {
            self.intern((0..self.space.len()).map(Expr::axis).collect());
        }
        self.point(dense, class, 0)
    }

    fn intern(&mut self, expressions: Vec<Expr>) -> CoordinatesId {
        if let Some(id) = self.known_coordinates.get(&expressions) {
            return *id;
        }
        let rank = self.space.len();
        let axes = expressions.iter().map(|e| {
            let (mut used, mut bound) = (0u64, SmallVec::new());
            e.visit_atoms(&mut |atom| {
                if let Atom::Axis(axis) = atom {
                    match axis.index() {
                        a if a < rank => used |= 1 << a,
                        a => bound.push((a - rank) as u32),
                    }
                }
            });
            (used, bound)
        });
        let leading = |(i, e): &(usize, &Expr)| e.as_axis().is_some_and(|a| a.index() == *i);
        let steps = expressions.iter().take(rank).enumerate().take_while(leading).count();
        let identity = steps == rank && expressions.len() == rank;
        let id = self.coordinates.len() as CoordinatesId;
        self.coordinates.push(Coordinates {
            axes: axes.collect(),
            expressions: expressions.clone(),
            steps,
            identity,
        });
        self.known_coordinates.insert(expressions, id);
        id
    }

    fn point(&mut self, dense: &Dense<'_>, class: Class, at: CoordinatesId) -> PointId {
        if let Some(id) = self.known.get(&(class, at)) {
            return *id;
        }
        let coordinates = &self.coordinates[at as usize];
        let rank = self.space.len();
        let depends = dense.data[class as usize].depends;
        let (mut used, mut bound) = (0u64, SmallVec::<[u32; 4]>::new());
        for (i, (axes, reduced)) in coordinates.axes.iter().enumerate() {
            if depends & (1 << i) != 0 {
                used |= axes;
                bound.extend_from_slice(reduced);
            }
        }
        bound.sort_unstable();
        bound.dedup();
        let axes = (0..rank).filter(|a| used & (1 << a) != 0).map(|a| self.sizes[a]);
        let distinct = axes.chain(bound.iter().map(|b| self.sizes[rank + *b as usize])).product();
        let (steps, identity) = (coordinates.steps, coordinates.identity);
        // How many reductions its coordinates depend on.
        let mut reductions: SmallVec<[PointId; 4]> = bound.iter().map(|b| self.owners[*b as usize]).collect();
        reductions.sort_unstable();
        reductions.dedup();
        let mut point = Point {
            class,
            at,
            work: Work::default(),
            distinct,
            levels: 64 - used.leading_zeros() as usize,
            used,
            bound,
            views: SmallVec::new(),
        };
        let evaluations = self.evaluations(&mut point);
        let repetitions = evaluations / point.distinct.max(1.0);
        point.work = own_work(dense, class).map(|n| n * evaluations);
        let head = dense.chosen(class).head;
        let id = self.points.len() as PointId;
        self.points.push(point);
        self.met.push(Met {
            class,
            steps: steps as u32,
            identity,
            constant: dense.is_constant(class),
            elsewhere: steps < dense.least_steps[class as usize],
            repeated: repetitions > MAX_REPETITIONS || reductions.len() > MAX_NESTED,
            storable: !matches!(head, Head::Reindex(_)) && covers_space(dense, class),
            reduces: matches!(head, Head::Reduce(..)),
            has_views: false,
            expansion: Expansion::Unknown,
        });
        self.known.insert((class, at), id);
        id
    }

    /// How often the point is evaluated: for every point of the leading axes down to the deepest it depends on,
    /// or once for every pass of the innermost reduction it is in. Sets its levels.
    fn evaluations(&self, point: &mut Point) -> f64 {
        let passes = point.bound.iter().map(|b| self.passes[*b as usize]);
        match passes.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((evaluations, levels)) => {
                point.levels = levels;
                evaluations
            }
            None => self.sizes[..point.levels].iter().product(),
        }
    }

    /// Sees to it that it is known how the point is computed, and which views could be read instead.
    #[inline]
    pub fn expand(&mut self, dense: &Dense<'_>, id: PointId) {
        if matches!(self.met[id as usize].expansion, Expansion::Unknown) {
            self.work_out(dense, id);
        }
    }

    #[cold]
    fn work_out(&mut self, dense: &Dense<'_>, id: PointId) {
        let point = &self.points[id as usize];
        let (class, at) = (point.class, point.at);
        let expansion = self.expansion(dense, id, class, at);
        let mut views: SmallVec<[PointId; 2]> = SmallVec::new();
        for node in &dense.nodes[class as usize] {
            let Head::Reindex(map) = node.head else { continue };
            let source = node.children[0];
            if dense.below(source, class)
                && let Some(through) = self.through(dense, map, at)
            {
                views.push(self.point(dense, source, through));
            }
        }
        let met = &mut self.met[id as usize];
        met.has_views = !views.is_empty();
        met.expansion = expansion;
        self.points[id as usize].views = views;
    }

    /// The points that the class of an expanded point is views of.
    pub fn views_of(&self, id: PointId) -> &[PointId] {
        &self.points[id as usize].views
    }

    /// Coordinates read through a map, if they stay short.
    fn through(&mut self, dense: &Dense<'_>, map: MapId, at: CoordinatesId) -> Option<CoordinatesId> {
        if let Some(known) = self.composed.get(&(map, at)) {
            return *known;
        }
        let results = &dense.tables.map(map).results;
        let coordinates = &self.coordinates[at as usize].expressions;
        let composed = may_substitute(results, coordinates).then(|| {
            results.iter().map(|e| e.substitute_axes(coordinates).simplify(&self.extents)).collect()
        });
        let composed = composed.map(|expressions| self.intern(expressions));
        self.composed.insert((map, at), composed);
        composed
    }

    fn expansion(&mut self, dense: &Dense<'_>, id: PointId, class: Class, at: CoordinatesId) -> Expansion {
        let node = dense.chosen(class);
        match node.head {
            Head::Leaf(_) => Expansion::Leaf,
            Head::Constant(_) => Expansion::Free,
            Head::Carry(scan, i) => Expansion::Carry(scan, i),
            Head::ScanFinal(scan, i) => Expansion::Final(scan, i),
            Head::Index(index) => {
                let value = std::slice::from_ref(&dense.tables.index(index).value);
                let short = may_substitute(value, &self.coordinates[at as usize].expressions);
                if short { Expansion::Free } else { Expansion::TooLong }
            }
            Head::Reindex(map) => match self.through(dense, map, at) {
                Some(through) => Expansion::View(self.point(dense, node.children[0], through)),
                None => Expansion::TooLong,
            },
            Head::Scalar(_) | Head::Cast(_) => {
                Expansion::Op(node.children.iter().map(|c| self.point(dense, *c, at)).collect())
            }
            Head::Reduce(_, axes) => {
                let child = node.children[0];
                let inner = dense.tables.extents(dense.data[child as usize].space);
                let mut coordinates = self.coordinates[at as usize].expressions.clone();
                for extent in &inner[inner.len() - axes as usize..] {
                    coordinates.push(self.bind(id, extent));
                }
                let coordinates = self.intern(coordinates);
                let body = self.point(dense, child, coordinates);
                // One addition (or the like) for every evaluation of the body.
                let last = self.passes.last().map_or(1.0, |p| p.0);
                self.points[id as usize].work.flops = last;
                Expansion::Op(SmallVec::from_slice(&[body]))
            }
            Head::Recurrence { axis, .. } => {
                let Some(along) = self.runs_along(at, axis as usize) else { return Expansion::TooLong };
                let mut without = self.coordinates[at as usize].expressions.clone();
                without.remove(axis as usize);
                let without = self.intern(without);
                let init = self.point(dense, node.children[0], without);
                let (factor, term) =
                    (self.point(dense, node.children[1], at), self.point(dense, node.children[2], at));
                Expansion::Recurrence(along, [init, factor, term])
            }
            Head::RecurrenceFinal(_) => Expansion::RecurrenceFinal,
            Head::Gather(gather) => {
                let gather = dense.tables.gather(gather);
                let coordinates = &self.coordinates[at as usize].expressions;
                if !may_substitute(&gather.coordinates, coordinates) {
                    return Expansion::TooLong;
                }
                let rank = self.space.len();
                let fixed = gather.coordinates.iter().take(gather.axis);
                let read = fixed.map(|e| e.substitute_axes(coordinates).simplify(&self.extents));
                let leading =
                    |(i, e): &(usize, Expr)| *i < rank && e.as_axis().is_some_and(|a| a.index() == *i);
                let steps = read.enumerate().take_while(leading).count();
                let index = self.point(dense, node.children[1], at);
                Expansion::Gather { table: node.children[0], index, steps }
            }
        }
    }

    /// The axis of the space that a recurrence along `axis` of a class runs along at these coordinates: exactly
    /// one axis must lead through its points in order, and nothing else may vary with that or with a reduction.
    fn runs_along(&self, at: CoordinatesId, axis: usize) -> Option<usize> {
        let coordinates = &self.coordinates[at as usize];
        let along = coordinates.expressions[axis].as_axis()?.index();
        let own = |(i, (used, bound)): (usize, &(u64, SmallVec<[u32; 2]>))| {
            bound.is_empty() && (i == axis || used & (1 << along) == 0)
        };
        (along < self.space.len() && coordinates.axes.iter().enumerate().all(own)).then_some(along)
    }

    /// A new axis for the reduction at a point.
    fn bind(&mut self, reduction: PointId, extent: &Dim) -> Expr {
        let point = &self.points[reduction as usize];
        let levels = point.levels;
        let outer = match self.passes.last() {
            // A further axis of the same reduction runs inside the ones before it.
            Some((evaluations, _)) if self.owners.last() == Some(&reduction) => *evaluations,
            _ => self.evaluations(&mut point.clone()),
        };
        let size = assumed(extent);
        let axis = self.sizes.len();
        self.passes.push((outer * size, levels));
        self.sizes.push(size);
        self.extents.push(extent.clone());
        self.owners.push(reduction);
        Expr::axis(axis)
    }
}

/// The arithmetic of one evaluation of a class by itself.
fn own_work(dense: &Dense<'_>, class: Class) -> Work {
    let node = dense.chosen(class);
    match node.head {
        Head::Scalar(op) => scalar_work(op),
        Head::Cast(to) => cast_work(dense.data[node.children[0] as usize].dtype, to),
        Head::Gather(_) | Head::Recurrence { .. } => Work::of_flops(2.0),
        // A reduction's work is its body's; see its expansion.
        Head::Leaf(_)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Reindex(_)
        | Head::Reduce(..)
        | Head::Carry(..)
        | Head::ScanFinal(..)
        | Head::RecurrenceFinal(_) => Work::default(),
    }
}
