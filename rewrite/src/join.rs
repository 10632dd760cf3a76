//! Joined tensors: what a kernel only copies together is stored there by the kernels that compute it.
//!
//! The two directions of a layer end in one tensor. A loop that stores each in memory of its own, for another kernel to
//! copy, writes and reads all of it once more, and holds it twice. Where every part is read whole and by nobody else, the
//! coordinates that it is copied to follow from those that it is stored at.

use std::collections::BTreeMap;

use fuse_ir::expr::Atom;
use fuse_ir::kernel::{
    BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
};
use fuse_ir::ops::ScalarOp;
use fuse_ir::{Axis, DType, Dim, Expr};
use smallvec::SmallVec;

/// Has what kernels copy together stored where it is copied to; how many such kernels are gone.
pub fn store_joined(graph: &mut KernelGraph) -> usize {
    let mut gone = 0;
    let mut at = 0;
    while at < graph.steps.len() {
        match Join::find(graph, at) {
            Some(join) => {
                graph.steps.remove(at);
                join.apply(&mut graph.steps);
                gone += 1;
            }
            None => at += 1,
        }
    }
    gone
}

/// A kernel that copies parts into one tensor.
struct Join {
    target: BufferId,
    parts: BTreeMap<BufferId, Part>,
}

/// Where a part goes: the coordinate along each axis of the target, of the element at coordinates that are written as axes.
struct Part(SmallVec<[Expr; 4]>);

/// A box of the space of a kernel.
#[derive(Clone)]
struct Region {
    begin: Vec<Expr>,
    extents: Vec<Dim>,
}

impl Join {
    fn find(graph: &KernelGraph, at: usize) -> Option<Join> {
        let Step::Kernel(kernel) = &graph.steps[at] else { return None };
        let [store] = kernel.stores.as_slice() else { return None };
        let in_order = store.index.iter().enumerate().all(|(i, e)| *e == Expr::axis(i));
        if !in_order || store.index.len() != kernel.rank || kernel.rank == 0 {
            return None;
        }
        let all = Region { begin: vec![Expr::constant(0); kernel.rank], extents: kernel.space().to_vec() };
        let mut parts = BTreeMap::new();
        let mut left = vec![(store.value, all)];
        while let Some((value, region)) = left.pop() {
            match &kernel.element(value).element {
                Element::Load { buffer, index } => {
                    let part = Part::new(graph, *buffer, index, &region)?;
                    if parts.insert(*buffer, part).is_some() {
                        return None;
                    }
                }
                Element::Scalar(ScalarOp::Select, operands) => {
                    let [condition, yes, no] = operands.as_slice() else { return None };
                    let (below, above) = region.split(kernel, *condition)?;
                    left.extend([(*yes, below), (*no, above)]);
                }
                _ => return None,
            }
        }
        let of_the_kernel_alone = |buffer: &BufferId| {
            let loads = |k: &&Kernel| k.loads().contains(buffer);
            graph.kernels().iter().map(|(k, _)| k).filter(|k| loads(k)).count() == 1
        };
        parts.keys().all(of_the_kernel_alone).then_some(Join { target: store.buffer, parts })
    }

    /// Has the parts stored in the target.
    fn apply(&self, steps: &mut [Step]) {
        for step in steps {
            match step {
                Step::Kernel(kernel) => {
                    let Kernel { stores, extents, .. } = kernel;
                    stores.iter_mut().for_each(|store| self.redirect(store, extents));
                }
                Step::Loop(l) => self.apply(&mut l.body),
            }
        }
    }

    fn redirect(&self, store: &mut Store, extents: &[Dim]) {
        let Some(Part(place)) = self.parts.get(&store.buffer) else { return };
        let index = place.iter().map(|e| e.substitute_axes(&store.index).simplify(extents));
        *store = Store { buffer: self.target, index: index.collect(), value: store.value };
    }
}

impl Part {
    /// Where a part goes of which a region copies every element; `None` where it does not.
    fn new(graph: &KernelGraph, buffer: BufferId, index: &[Coordinate], region: &Region) -> Option<Part> {
        let part = graph.buffer(buffer);
        let rank = region.extents.len();
        if part.kind != BufferKind::Temporary || index.len() != rank {
            return None;
        }
        let shifted = |(i, begin): (usize, &Expr)| Expr::axis(i) + begin.clone();
        let point: Vec<Expr> = region.begin.iter().enumerate().map(shifted).collect();
        let mut place: Vec<Option<Expr>> = vec![None; rank];
        for (at, coordinate) in index.iter().enumerate() {
            let Coordinate::Static(e) = coordinate else { return None };
            let e = e.substitute_axes(&point).simplify(&region.extents);
            let axis = *e.axes().first()?;
            let (along, extent) = (Expr::axis(axis.index()), &region.extents[axis.index()]);
            let last = extent.clone() - Expr::constant(1);
            let here = Expr::axis(at);
            let position = if e == along {
                here
            } else if e == last.clone() - along {
                last - here
            } else {
                return None;
            };
            // Neighbours stay neighbours, which are stored together.
            let inner = at + 1 != rank || (axis.index() == at && position == Expr::axis(at));
            if part.ty.shape[at] != *extent || place[axis.index()].is_some() || !inner {
                return None;
            }
            place[axis.index()] = Some(region.begin[axis.index()].clone() + position);
        }
        place.into_iter().collect::<Option<_>>().map(Part)
    }
}

impl Region {
    /// The two sides of a condition that compares a position along one axis.
    fn split(&self, kernel: &Kernel, condition: ElementId) -> Option<(Region, Region)> {
        let Element::Scalar(ScalarOp::Lt, operands) = &kernel.element(condition).element else { return None };
        let [position, bound] = operands.as_slice() else { return None };
        let typed = kernel.element(*position);
        let Element::Index(position) = &typed.element else { return None };
        let bound = match &kernel.element(*bound).element {
            Element::Index(e) if e.axes().is_empty() => e.clone(),
            Element::Constant(n) => Expr::constant(n.as_i64()),
            _ => return None,
        };
        let (axis, bound) = below(position, &bound).filter(|_| typed.dtype == DType::I64)?;
        let (begin, extent) = (&self.begin[axis.index()], &self.extents[axis.index()]);
        let first = bound.clone() - begin.clone();
        let second = extent.clone() - first.clone();
        if !first.is_nonnegative(&[]) || !second.is_nonnegative(&[]) {
            return None;
        }
        let (mut below, mut above) = (self.clone(), self.clone());
        below.extents[axis.index()] = first;
        above.extents[axis.index()] = second;
        above.begin[axis.index()] = bound;
        Some((below, above))
    }
}

/// What `position < bound` says of one axis: that it is below an expression without axes.
fn below(position: &Expr, bound: &Expr) -> Option<(Axis, Expr)> {
    let axis = *position.axes().first()?;
    let along = Expr::axis(axis.index());
    let rest = position.clone() - along.clone();
    if rest.axes().is_empty() {
        return Some((axis, bound.clone() - rest));
    }
    // `⌊i / d⌋ < n` where `i < n·d`.
    let mut terms = position.terms();
    let (Some(([Atom::FloorDiv(of, by)], 1)), None) = (terms.next(), terms.next()) else { return None };
    let positive = by.as_constant().is_some_and(|d| d > 0);
    (**of == along && positive).then(|| (axis, bound.clone() * (**by).clone()))
}
