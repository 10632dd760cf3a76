//! Parameters laid out in panels, for wide vectors along the results of a product.
//!
//! `Σ_k x[b, k] · w[n, k]` with a vector along `k` ends in a sum over the lanes of every result, which costs as much
//! as a short product itself. With a vector along `n` nothing is left to add, but neighbouring `n` must lie side by
//! side, and what one tile reads over all `k` should be one contiguous piece. So the axis `n` of the kernel is split
//! in panels, `n = width·p + l`, and the parameter is copied to `[⌈N/width⌉, K, width]`. Where panels do not divide the axis
//! the last one begins earlier, `n = min(width·p, N - width) + l`, and computes some elements again. As with other copies
//! of parameters ([`crate::pack`]), whoever runs the program makes them once.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
    TypedElement,
};
use fuse_ir::kernel_parts::Shared;
use fuse_ir::types::Shape;
use fuse_ir::{Axis, Dim, Expr, Graph, TensorType};
use smallvec::SmallVec;

use crate::copies::read_inputs;
use crate::extract::cost::assumed;
use crate::kernel_builder::{Names, identifier};
use crate::pack::{SHORTEST, is_parameter, is_reused, reduced_axes};

/// Vectors of a panel: as many as tiles have of them.
const VECTORS: [i64; 3] = [1, 2, 4];

/// Vectors of all panels that a tile of one row adds to at a time.
const MOST_VECTORS: usize = 4;

/// Splits kernels in panels of `lanes` elements, or small multiples of that, and lets them read copies of their
/// parameters; the number of copies.
pub fn panel_parameters(graph: &Graph, kernels: &mut KernelGraph, lanes: i64) -> usize {
    let mut paneler = Paneler {
        known: known(graph, kernels),
        lanes,
        copies: HashMap::new(),
        order: Vec::new(),
        buffer_names: Names::of_buffers(&kernels.buffers),
        kernel_names: Names::of_kernels(kernels),
        buffers: std::mem::take(&mut kernels.buffers),
    };
    paneler.steps(&mut kernels.steps, 0);
    let copies = paneler.order.clone();
    let copies: Vec<Step> = copies.iter().map(|c| Step::Kernel(paneler.kernel(c))).collect();
    kernels.buffers = paneler.buffers;
    insert_copies(graph, kernels, copies);
    read_inputs(kernels);
    paneler.order.len()
}

/// Puts kernels that copy what parameters decide behind the kernels that compute it, which read nothing but parameters.
pub(crate) fn insert_copies(graph: &Graph, kernels: &mut KernelGraph, copies: Vec<Step>) {
    let known = known(graph, kernels);
    let computes = |step: &Step| match step {
        Step::Kernel(k) => k.stores.iter().all(|s| known.contains(&s.buffer)),
        Step::Loop(_) => false,
    };
    let at = kernels.steps.iter().rposition(computes).map_or(0, |last| last + 1);
    kernels.steps.splice(at..at, copies);
}

/// The buffers that parameters alone decide: parameters, and what leading kernels make of them.
pub(crate) fn known(graph: &Graph, kernels: &KernelGraph) -> BTreeSet<BufferId> {
    let ids = (0..kernels.buffers.len()).map(BufferId::from);
    let mut known: BTreeSet<BufferId> = ids.filter(|b| is_parameter(graph, kernels.buffer(*b))).collect();
    for step in &kernels.steps {
        let Step::Kernel(kernel) = step else { break };
        let temporary = |s: &Store| kernels.buffer(s.buffer).kind == BufferKind::Temporary;
        if !kernel.loads().is_subset(&known) || !kernel.stores.iter().all(temporary) {
            break;
        }
        known.extend(kernel.stores.iter().map(|s| s.buffer));
    }
    known
}

/// A copy of a parameter in panels.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Copy {
    source: BufferId,
    /// The axes of the source that are `n` and `k`.
    across: usize,
    along: usize,
    panels: Panels,
    /// Where the first panel begins along `n`.
    from: i64,
    /// The elements along `k`: others are not copied.
    summed: Summed,
}

/// A range of an axis that is summed over.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Summed {
    from: i64,
    count: Dim,
}

impl Summed {
    /// What a sum over so many elements from `from` on reads of an axis: all of it where that is not known.
    fn of(from: i64, extent: &Dim, whole: &Dim) -> Summed {
        match (extent.as_constant(), whole.as_constant()) {
            (Some(count), Some(whole)) if from >= 0 && from + count <= whole => {
                Summed { from, count: Dim::constant(count) }
            }
            _ => Summed { from: 0, count: whole.clone() },
        }
    }

    fn contains(&self, other: &Summed) -> bool {
        let end = |s: &Summed| Some(s.from + s.count.as_constant()?);
        let within = end(other).zip(end(self)).is_some_and(|(other, this)| other <= this);
        self == other || (self.from <= other.from && within)
    }
}

/// An axis in panels.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Panels {
    /// The elements of the axis, at least a panel of them.
    count: i64,
    width: i64,
}

impl Panels {
    fn number(self) -> i64 {
        (self.count + self.width - 1) / self.width
    }

    /// Whether no two panels overlap.
    fn divide(self) -> bool {
        self.count % self.width == 0
    }

    /// The element that lane `lane` of panel `panel` is.
    fn element(self, panel: Expr, lane: Expr) -> Expr {
        let first = panel * Expr::constant(self.width);
        let last = Expr::constant(self.count - self.width);
        if self.divide() { first + lane } else { first.minimum(&last) + lane }
    }

    /// The widest panels of vectors of `lanes` that do not overlap.
    pub(crate) fn dividing(count: i64, lanes: i64) -> Option<Panels> {
        let mut widths = VECTORS.into_iter().rev().map(|vectors| vectors * lanes);
        widths.find(|width| count % width == 0).map(|width| Panels { count, width })
    }

    /// The best of up to so many vectors of `lanes` a panel: a tile of more loads less for each multiply-add, but
    /// may compute more elements twice.
    fn choose(count: i64, lanes: i64, most_vectors: i64) -> Option<Panels> {
        let panels =
            VECTORS.into_iter().filter(|v| *v <= most_vectors).map(|v| Panels { count, width: v * lanes });
        let cost = |p: &Panels| {
            let vectors = p.width / lanes;
            (p.number() * p.width) as f64 * (1.0 + 0.25 / vectors as f64)
        };
        panels.filter(|p| count >= p.width).min_by(|a, b| cost(a).total_cmp(&cost(b)))
    }
}

/// A load that wants panels.
struct Wish {
    element: usize,
    /// The axes of the buffer that are the kernel's last and the reduced one.
    across: usize,
    along: usize,
    /// What is summed over of the latter.
    summed: Summed,
}

struct Paneler {
    known: BTreeSet<BufferId>,
    lanes: i64,
    copies: HashMap<Copy, BufferId>,
    /// The copies in the order they were asked for.
    order: Vec<Copy>,
    buffer_names: Names,
    kernel_names: Names,
    buffers: Vec<Buffer>,
}

impl Paneler {
    fn steps(&mut self, steps: &mut [Step], depth: usize) {
        for step in steps {
            match step {
                Step::Kernel(kernel) => self.redirect(kernel, depth > 0),
                Step::Loop(l) => self.steps(&mut l.body, depth + 1),
            }
        }
    }

    /// Splits a kernel's last axis in panels if its reductions of parameters want that.
    fn redirect(&mut self, kernel: &mut Kernel, in_loop: bool) {
        let Some(last) = kernel.rank.checked_sub(1) else { return };
        let reduced = reduced_axes(kernel);
        let wishes: Vec<Wish> = (0..kernel.elements.len())
            .filter_map(|element| self.wish(kernel, element, &reduced[element], in_loop))
            .collect();
        if wishes.is_empty() || !is_linear_in(kernel, Axis(last as u32)) {
            return;
        }
        // Products that share an operand share a loop, and their vectors the registers.
        let most_vectors = MOST_VECTORS / most_together(kernel, &wishes).clamp(1, MOST_VECTORS);
        let count = kernel.extents[last].as_constant();
        let Some(panels) = count.and_then(|n| Panels::choose(n, self.lanes, most_vectors as i64)) else {
            return;
        };
        let copies: Option<Vec<(Copy, i64)>> =
            wishes.iter().map(|w| self.wanted_copy(kernel, w, panels)).collect();
        let Some(copies) = copies else { return };
        split_axis(kernel, last, panels);
        for (Wish { element, across, along, .. }, (copy, first)) in wishes.into_iter().zip(copies) {
            let Element::Load { index, .. } = &kernel.elements[element].element else { continue };
            let others = (0..index.len()).filter(|i| *i != across && *i != along);
            let mut packed: SmallVec<[Coordinate; 4]> = others.map(|i| index[i].clone()).collect();
            let Coordinate::Static(k) = index[along].clone() else { continue };
            let (buffer, summed) = self.copy(copy);
            packed.push(Coordinate::Static(Expr::axis(last) + Expr::constant(first)));
            packed.push(Coordinate::Static(k - Expr::constant(summed.from)));
            packed.push(Coordinate::Static(Expr::axis(last + 1)));
            kernel.elements[element].element = Element::Load { buffer, index: packed };
        }
    }

    /// The copy that a load wants, and the panel of it that is the kernel's first. Panels that fit all of the
    /// parameter are shared by kernels and loads that begin at different ones of them.
    fn wanted_copy(&self, kernel: &Kernel, wish: &Wish, panels: Panels) -> Option<(Copy, i64)> {
        let Wish { element, across, along, ref summed } = *wish;
        let Element::Load { buffer, index } = &kernel.elements[element].element else { return None };
        let Coordinate::Static(n) = &index[across] else { return None };
        let from = (n.clone() - Expr::axis(kernel.rank - 1)).as_constant().filter(|from| *from >= 0)?;
        let shape = &self.buffers[buffer.index()].ty.shape;
        let whole = shape.iter().map(Dim::as_constant).collect::<Option<Vec<i64>>>()?[across];
        let all = Panels { count: whole, width: panels.width };
        if panels.divide() && all.divide() && from % panels.width == 0 {
            return Some((
                Copy { source: *buffer, across, along, panels: all, from: 0, summed: summed.clone() },
                from / panels.width,
            ));
        }
        let copy = Copy { source: *buffer, across, along, panels, from, summed: summed.clone() };
        (from + panels.count <= whole).then_some((copy, 0))
    }

    /// Whether an element is a load of a parameter that a reduction would rather read in panels.
    fn wish(&self, kernel: &Kernel, element: usize, reduced: &[Axis], in_loop: bool) -> Option<Wish> {
        let Element::Load { buffer, index } = &kernel.elements[element].element else { return None };
        let k = *reduced.last().filter(|_| self.known.contains(buffer))?;
        let n = Axis(kernel.rank as u32 - 1);
        let coordinates: Vec<&Expr> = index.iter().map(Coordinate::as_static).collect::<Option<_>>()?;
        // Exactly one coordinate steps along the axis, and by one; which.
        let along = |axis: Axis| {
            let using: Vec<usize> =
                (0..coordinates.len()).filter(|i| coordinates[*i].uses_axis(axis)).collect();
            let [at] = using[..] else { return None };
            (coordinates[at].clone() - Expr::axis(axis.index())).as_constant().map(|from| (at, from))
        };
        let ((across, _), (along, from)) = (along(n)?, along(k)?);
        let summed =
            Summed::of(from, &kernel.extents[k.index()], &self.buffers[buffer.index()].ty.shape[along]);
        let worth =
            is_reused(kernel, &coordinates, in_loop) && assumed(&kernel.extents[k.index()]) >= SHORTEST;
        worth.then_some(Wish { element, across, along, summed })
    }

    /// The buffer of a copy, or of one with more elements to sum over, and which these are.
    fn copy(&mut self, copy: Copy) -> (BufferId, Summed) {
        let covers = |known: &&Copy| {
            let same = Copy { summed: copy.summed.clone(), ..(*known).clone() } == copy;
            same && known.summed.contains(&copy.summed)
        };
        if let Some(known) = self.order.iter().find(covers) {
            return (self.copies[known], known.summed.clone());
        }
        let Copy { source, across, along, panels, ref summed, .. } = copy;
        let summed = summed.clone();
        let Buffer { name, ty, .. } = &self.buffers[source.index()];
        let outer = (0..ty.shape.len()).filter(|i| *i != across && *i != along);
        let mut shape: Shape = outer.map(|i| ty.shape[i].clone()).collect();
        shape.push(Dim::constant(panels.number()));
        shape.push(summed.count.clone());
        shape.push(Dim::constant(panels.width));
        let (name, ty) = (format!("{name}.panels"), TensorType { dtype: ty.dtype, shape });
        let name = self.buffer_names.unique(&name);
        self.buffers.push(Buffer { name, ty, kind: BufferKind::Temporary });
        let buffer = BufferId::from(self.buffers.len() - 1);
        self.copies.insert(copy.clone(), buffer);
        self.order.push(copy);
        (buffer, summed)
    }

    /// The kernel that writes a copy.
    fn kernel(&mut self, copy: &Copy) -> Kernel {
        let Copy { source, across, along, panels, from, ref summed } = *copy;
        let target = self.copies[copy];
        let (name, dtype) = {
            let buffer = &self.buffers[source.index()];
            (self.kernel_names.unique(&format!("panels_{}", identifier(&buffer.name))), buffer.ty.dtype)
        };
        let space = self.buffers[target.index()].ty.shape.clone();
        let [panel, k, lane] = [3, 2, 1].map(|from_end| Expr::axis(space.len() - from_end));
        let mut outer = (0..space.len() - 3).map(Expr::axis);
        let coordinate = |i: usize| {
            let e = if i == across {
                panels.element(panel.clone(), lane.clone()) + Expr::constant(from)
            } else if i == along {
                k.clone() + Expr::constant(summed.from)
            } else {
                outer.next().unwrap_or_default()
            };
            Coordinate::Static(e)
        };
        let index = (0..self.buffers[source.index()].ty.shape.len()).map(coordinate).collect();
        let store = (0..space.len()).map(Expr::axis).collect();
        Kernel {
            name,
            rank: space.len(),
            extents: space.to_vec(),
            elements: vec![TypedElement { element: Element::Load { buffer: source, index }, dtype }],
            stores: vec![Store { buffer: target, index: store, value: ElementId(0) }],
            ops: vec!["panels".into()],
        }
    }
}

/// The most loads that are for one part of the kernel.
fn most_together(kernel: &Kernel, wishes: &[Wish]) -> usize {
    let loads = |reductions: &BTreeSet<ElementId>| {
        let inside = kernel.computed_from(reductions.iter().copied());
        wishes.iter().filter(|w| inside[w.element]).count()
    };
    kernel.parts(Shared::Operands).iter().map(|part| loads(&part.reductions)).max().unwrap_or(0)
}

/// Whether an axis is in no quotient, remainder, minimum or maximum, where it would not split, and is not the one of
/// recurrences.
pub(crate) fn is_linear_in(kernel: &Kernel, axis: Axis) -> bool {
    use fuse_ir::expr::Atom;
    let linear = |e: &Expr| {
        e.terms().all(|(atoms, _)| {
            atoms.iter().all(|atom| match atom {
                Atom::Axis(_) | Atom::Symbol(_) => true,
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    !a.uses_axis(axis) && !b.uses_axis(axis)
                }
            })
        })
    };
    let elements = kernel.elements.iter().all(|typed| match &typed.element {
        Element::Load { index, .. } => index.iter().all(|c| match c {
            Coordinate::Static(e) => linear(e),
            Coordinate::Dynamic(_) => true,
        }),
        Element::Index(e) => linear(e),
        Element::Recurrence { state, .. } => state.axis != axis,
        Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) | Element::Reduce { .. } => true,
    });
    elements && kernel.stores.iter().flat_map(|s| &s.index).all(linear)
}

/// Splits an axis of the space in two: the panel in its place and the lane behind it.
pub(crate) fn split_axis(kernel: &mut Kernel, at: usize, panels: Panels) {
    let renamed: Vec<Expr> = (0..kernel.extents.len())
        .map(|axis| match axis {
            _ if axis < at => Expr::axis(axis),
            _ if axis == at => panels.element(Expr::axis(at), Expr::axis(at + 1)),
            _ => Expr::axis(axis + 1),
        })
        .collect();
    let moved = |axis: &mut Axis| {
        if axis.index() > at {
            axis.0 += 1;
        }
    };
    kernel.extents[at] = Dim::constant(panels.number());
    kernel.extents.insert(at + 1, Dim::constant(panels.width));
    kernel.rank += 1;
    for typed in &mut kernel.elements {
        match &mut typed.element {
            Element::Load { index, .. } => index.iter_mut().for_each(|c| {
                if let Coordinate::Static(e) = c {
                    *e = e.substitute_axes(&renamed);
                }
            }),
            Element::Index(e) => *e = e.substitute_axes(&renamed),
            Element::Reduce { axes, .. } => axes.iter_mut().for_each(moved),
            Element::Recurrence { state, .. } => moved(&mut state.axis),
            Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) => {}
        }
    }
    for store in &mut kernel.stores {
        store.index.iter_mut().for_each(|e| *e = e.substitute_axes(&renamed));
    }
}
