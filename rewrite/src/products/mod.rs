//! Products with panels as kernels of their own.
//!
//! A tier whose code has narrow vectors can leave products of rows with panels ([`crate::panels`]) to a routine that was made
//! for the machine. What is around a product (the gates of a cell) then reads its results from memory: they are few beside
//! the weights, and what is won is most of the time of a recurrent layer. Where a run uses a parameter a few times, the routine
//! reads it as it is given (`given.rs`).

mod given;

use std::collections::{BTreeSet, HashMap};

use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
};
use fuse_ir::types::Shape;
use fuse_ir::{Axis, DType, Dim, Expr, Graph, ReduceOp, ScalarOp, TensorType};

use crate::extract::cost::assumed;
use crate::kernel_builder::{KernelBuilder, Names};
use crate::kernel_copy::Copier;
use given::Given;

/// Takes products with panels of multiples of `lanes` columns out of the kernels that compute more than that; how many
/// products are in kernels of their own then.
pub fn split_products(kernels: &mut KernelGraph, lanes: i64) -> usize {
    split(kernels, lanes, None)
}

/// The same of products with parameters that a run uses so seldom that copies in panels do not pay: these read them as they
/// are given, the last axis of their kernels in panels. To be called before [`crate::panel_parameters`].
pub fn split_given_products(graph: &Graph, kernels: &mut KernelGraph, lanes: i64) -> usize {
    let given = Given::new(graph, kernels);
    let products = split(kernels, lanes, Some(&given));
    given.drop_copies(kernels);
    products
}

fn split(kernels: &mut KernelGraph, lanes: i64, given: Option<&Given>) -> usize {
    let mut splitter = Splitter {
        lanes,
        given,
        uses: 1.0,
        names: Names::of_kernels(kernels),
        buffer_names: Names::of_buffers(&kernels.buffers),
        buffers: std::mem::take(&mut kernels.buffers),
        counters: Vec::new(),
        products: 0,
    };
    kernels.steps = splitter.steps(std::mem::take(&mut kernels.steps));
    kernels.buffers = splitter.buffers;
    splitter.products
}

struct Splitter<'g> {
    lanes: i64,
    /// Products with parameters as they are given are looked for instead of those with panels.
    given: Option<&'g Given>,
    /// How often a run launches a kernel here, by the assumed dimensions.
    uses: f64,
    names: Names,
    buffer_names: Names,
    buffers: Vec<Buffer>,
    /// Of the loops around.
    counters: Vec<Symbol>,
    products: usize,
}

impl Splitter<'_> {
    fn steps(&mut self, steps: Vec<Step>) -> Vec<Step> {
        let mut out = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Kernel(kernel) => out.extend(self.kernel(kernel).into_iter().map(Step::Kernel)),
                Step::Loop(mut l) => {
                    let uses = self.uses;
                    self.uses *= assumed(&l.trip);
                    self.counters.push(l.counter.clone());
                    l.body = self.steps(l.body);
                    self.counters.pop();
                    self.uses = uses;
                    out.push(Step::Loop(l));
                }
            }
        }
        out
    }

    /// A kernel, behind one with its products if it has any beside other things.
    fn kernel(&mut self, kernel: Kernel) -> Vec<Kernel> {
        let ids = (0..kernel.elements.len()).map(ElementId::from);
        let products: BTreeSet<ElementId> = ids.filter(|id| self.is_product(&kernel, *id)).collect();
        if products.is_empty() {
            return vec![kernel];
        }
        let known = self.buffers.len();
        let made = if kernel.stores.iter().all(|s| products.contains(&s.value)) {
            self.finished(kernel.clone()).map(|kernel| vec![kernel])
        } else {
            self.split(&kernel, &products)
                .and_then(|[first, second]| Some(vec![self.finished(first)?, second]))
        };
        if made.is_none() {
            self.buffers.truncate(known);
        }
        self.products += made.as_ref().map_or(0, |_| products.len());
        made.unwrap_or_else(|| vec![kernel])
    }

    /// A kernel of nothing but products as the routine takes it.
    fn finished(&self, kernel: Kernel) -> Option<Kernel> {
        match self.given {
            Some(given) => given.in_panels(kernel, self.lanes),
            None => Some(kernel),
        }
    }

    /// The kernel of the products, and the one that reads their results.
    fn split(&mut self, kernel: &Kernel, products: &BTreeSet<ElementId>) -> Option<[Kernel; 2]> {
        let axes = || (0..kernel.rank).map(Expr::axis);
        let (mut first, mut second) = (kernel.clone(), kernel.clone());
        first.stores.clear();
        let shape: Shape = (0..kernel.rank).map(|axis| self.extent(kernel, axis)).collect::<Option<_>>()?;
        for product in products {
            let ty = TensorType { dtype: DType::F32, shape: shape.clone() };
            let name = self.buffer_names.unique(&format!("{}.product", kernel.name));
            self.buffers.push(Buffer { name, ty, kind: BufferKind::Temporary });
            let buffer = BufferId::from(self.buffers.len() - 1);
            first.stores.push(Store { buffer, index: axes().collect(), value: *product });
            let index = axes().map(Coordinate::Static).collect();
            second.elements[product.index()].element = Element::Load { buffer, index };
        }
        let (mut first, mut second) = self.needed(&first).zip(self.needed(&second))?;
        first.name = self.names.unique(&format!("{}_products", kernel.name));
        first.ops = vec!["contract".into()];
        (second.name, second.ops) = (kernel.name.clone(), kernel.ops.clone());
        Some([first, second])
    }

    /// How many positions a buffer has for an axis of the space. Where the extent differs from one iteration of a loop to the
    /// next, what the kernel stores has room for the largest.
    fn extent(&self, kernel: &Kernel, axis: usize) -> Option<Dim> {
        let extent = &kernel.extents[axis];
        if extent.symbols().iter().all(|s| !self.counters.contains(s)) {
            return Some(extent.clone());
        }
        let stored = kernel.stores.iter().find_map(|store| {
            let at = store.index.iter().position(|e| e.as_axis() == Some(Axis(axis as u32)))?;
            Some(self.buffers[store.buffer.index()].ty.shape[at].clone())
        });
        let largest = || self.falls(extent).then(|| self.at_first(extent));
        stored.filter(|room| room.symbols().iter().all(|s| !self.counters.contains(s))).or_else(largest)
    }

    /// Whether an extent becomes no larger as the counters of the loops around go up.
    fn falls(&self, extent: &Dim) -> bool {
        let counts = |e: &Expr| e.symbols().iter().any(|s| self.counters.contains(s));
        extent.terms().all(|(atoms, coefficient)| match atoms {
            [Atom::Min(a, b) | Atom::Max(a, b)] if coefficient > 0 => self.falls(a) && self.falls(b),
            _ if !atoms.iter().any(|atom| counts(&Expr::atom(atom.clone()))) => true,
            // Counters and dimensions are never below 0.
            _ => coefficient < 0 && atoms.iter().all(|atom| matches!(atom, Atom::Symbol(_))),
        })
    }

    /// An extent in the first iteration of all loops around.
    fn at_first(&self, extent: &Dim) -> Dim {
        extent.substitute(&|atom| match atom {
            Atom::Symbol(s) if self.counters.contains(s) => Some(Expr::constant(0)),
            _ => None,
        })
    }

    /// A kernel without what no store needs.
    fn needed(&self, kernel: &Kernel) -> Option<Kernel> {
        let mut builder = KernelBuilder::new(kernel.space().to_vec());
        let inlined = HashMap::new();
        let mut copier = Copier {
            buffers: &self.buffers,
            inlined: &inlined,
            symbols: HashMap::new(),
            used: BTreeSet::new(),
        };
        copier.kernel(&mut builder, kernel)?;
        Some(builder.finish(String::new()))
    }

    fn is_product(&self, kernel: &Kernel, id: ElementId) -> bool {
        let Some(product) = SumOfProducts::of(kernel, id) else { return false };
        match self.given {
            Some(given) => given.is_product(&self.buffers, kernel, &product, self.lanes, self.uses),
            None => self.is_with_panel(kernel, &product),
        }
    }

    /// Whether a sum is `Σ_k left[…, k] · panel[…, k, lane]` of f32, where the lane is the last axis of the space, the
    /// one before it numbers panels, and rows depend on neither.
    fn is_with_panel(&self, kernel: &Kernel, product: &SumOfProducts) -> bool {
        let SumOfProducts { along, factors: [left, panel] } = *product;
        let (Some(last), Some(number)) = (kernel.rank.checked_sub(1), kernel.rank.checked_sub(2)) else {
            return false;
        };
        let (lane, number) = (Axis(last as u32), Axis(number as u32));
        let lanes_divide = kernel.extents[last].as_constant().is_some_and(|n| n > 0 && n % self.lanes == 0);
        let is_row = |id: ElementId| is_row(&self.buffers, kernel, id, along, &[lane, number]);
        let is_panel = |id: ElementId| {
            coordinates(&self.buffers, kernel, id).is_some_and(|(buffer, at)| {
                let Some((end, others)) = at.split_last() else { return false };
                let whole = self.buffers[buffer.index()].ty.shape.last() == Some(&kernel.extents[last]);
                whole
                    && end.as_axis() == Some(lane)
                    && others.last().is_some_and(|e| moves_with(e, along))
                    && only_last_uses(others, along)
                    && others.iter().all(|e| !e.uses_axis(lane))
            })
        };
        lanes_divide && (is_row(left) && is_panel(panel) || is_row(panel) && is_panel(left))
    }
}

/// A sum along one axis of products of two factors.
struct SumOfProducts {
    along: Axis,
    factors: [ElementId; 2],
}

impl SumOfProducts {
    /// What an element is, if that.
    fn of(kernel: &Kernel, id: ElementId) -> Option<SumOfProducts> {
        let Element::Reduce { op: ReduceOp::Sum, axes, body } = &kernel.element(id).element else {
            return None;
        };
        let (&[along], Element::Scalar(ScalarOp::Mul, factors)) =
            (axes.as_slice(), &kernel.element(*body).element)
        else {
            return None;
        };
        let &[left, right] = factors.as_slice() else { return None };
        Some(SumOfProducts { along, factors: [left, right] })
    }
}

/// Whether an element is a load of f32 that steps through its buffer along an axis and does not depend on the others.
fn is_row(buffers: &[Buffer], kernel: &Kernel, id: ElementId, along: Axis, others: &[Axis]) -> bool {
    coordinates(buffers, kernel, id).is_some_and(|(_, at)| {
        let fixed = at.iter().all(|e| !others.iter().any(|axis| e.uses_axis(*axis)));
        fixed && at.last().is_some_and(|e| moves_with(e, along)) && only_last_uses(&at, along)
    })
}

/// Where a load of f32 reads, if it always is inside and says so by expressions.
fn coordinates<'k>(
    buffers: &[Buffer],
    kernel: &'k Kernel,
    id: ElementId,
) -> Option<(BufferId, Vec<&'k Expr>)> {
    let (buffer, index) = kernel.element(id).element.load()?;
    let fixed = index.iter().map(Coordinate::as_static);
    let is_float = buffers[buffer.index()].ty.dtype == DType::F32;
    fixed.collect::<Option<_>>().filter(|_| is_float).map(|at| (buffer, at))
}

/// Whether an expression is an axis and what does not depend on it.
fn moves_with(e: &Expr, axis: Axis) -> bool {
    !(e.clone() - Expr::axis(axis.index())).uses_axis(axis)
}

fn only_last_uses(coordinates: &[&Expr], axis: Axis) -> bool {
    coordinates.iter().rev().skip(1).all(|e| !e.uses_axis(axis))
}
