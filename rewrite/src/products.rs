//! Products with panels as kernels of their own.
//!
//! A tier whose code has narrow vectors can leave products of rows with panels ([`crate::panels`]) to a routine that was made
//! for the machine. What is around a product (the gates of a cell) then reads its results from memory: they are few beside
//! the weights, and what is won is most of the time of a recurrent layer.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
};
use fuse_ir::types::Shape;
use fuse_ir::{Axis, DType, Dim, Expr, ReduceOp, ScalarOp, TensorType};

use crate::kernel_builder::{KernelBuilder, Names};
use crate::kernel_copy::Copier;

/// Takes products with panels of multiples of `lanes` columns out of the kernels that compute more than that; how many
/// products are in kernels of their own then.
pub fn split_products(kernels: &mut KernelGraph, lanes: i64) -> usize {
    let mut splitter = Splitter {
        lanes,
        names: Names::default(),
        buffer_names: Names::default(),
        buffers: std::mem::take(&mut kernels.buffers),
        counters: Vec::new(),
        products: 0,
    };
    for buffer in &splitter.buffers {
        splitter.buffer_names.unique(&buffer.name);
    }
    let names = kernels.kernels().into_iter().map(|(kernel, _)| kernel.name.clone());
    names.for_each(|name| drop(splitter.names.unique(&name)));
    kernels.steps = splitter.steps(std::mem::take(&mut kernels.steps));
    kernels.buffers = splitter.buffers;
    splitter.products
}

struct Splitter {
    lanes: i64,
    names: Names,
    buffer_names: Names,
    buffers: Vec<Buffer>,
    /// Of the loops around.
    counters: Vec<Symbol>,
    products: usize,
}

impl Splitter {
    fn steps(&mut self, steps: Vec<Step>) -> Vec<Step> {
        let mut out = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Kernel(kernel) => out.extend(self.kernel(kernel).into_iter().map(Step::Kernel)),
                Step::Loop(mut l) => {
                    self.counters.push(l.counter.clone());
                    l.body = self.steps(l.body);
                    self.counters.pop();
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
        self.products += products.len();
        if products.is_empty() || kernel.stores.iter().all(|s| products.contains(&s.value)) {
            return vec![kernel];
        }
        match self.split(&kernel, &products) {
            Some(split) => split.into(),
            None => vec![kernel],
        }
    }

    /// The kernel of the products, and the one that reads their results.
    fn split(&mut self, kernel: &Kernel, products: &BTreeSet<ElementId>) -> Option<[Kernel; 2]> {
        let axes = || (0..kernel.rank).map(Expr::axis);
        let (mut first, mut second) = (kernel.clone(), kernel.clone());
        first.stores.clear();
        let known = self.buffers.len();
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
        let copied = self.needed(&first).zip(self.needed(&second));
        if copied.is_none() {
            self.buffers.truncate(known);
        }
        let (mut first, mut second) = copied?;
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
        stored.filter(|room| room.symbols().iter().all(|s| !self.counters.contains(s)))
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

    /// Whether an element is `Σ_k left[…, k] · panel[…, k, lane]` of f32, where the lane is the last axis of the space, the
    /// one before it numbers panels, and rows depend on neither.
    fn is_product(&self, kernel: &Kernel, id: ElementId) -> bool {
        let Element::Reduce { op: ReduceOp::Sum, axes, body } = &kernel.element(id).element else {
            return false;
        };
        let (&[along], Element::Scalar(ScalarOp::Mul, factors)) =
            (axes.as_slice(), &kernel.element(*body).element)
        else {
            return false;
        };
        let [left, panel] = factors.as_slice() else { return false };
        let (Some(last), Some(number)) = (kernel.rank.checked_sub(1), kernel.rank.checked_sub(2)) else {
            return false;
        };
        let (lane, number) = (Axis(last as u32), Axis(number as u32));
        let lanes_divide = kernel.extents[last].as_constant().is_some_and(|n| n > 0 && n % self.lanes == 0);
        let is_row = |id: ElementId| {
            self.coordinates(kernel, id).is_some_and(|(_, at)| {
                let fixed = at.iter().all(|e| !e.uses_axis(lane) && !e.uses_axis(number));
                fixed && at.last().is_some_and(|e| moves_with(e, along)) && only_last_uses(&at, along)
            })
        };
        let is_panel = |id: ElementId| {
            self.coordinates(kernel, id).is_some_and(|(buffer, at)| {
                let Some((end, others)) = at.split_last() else { return false };
                let whole = self.buffers[buffer.index()].ty.shape.last() == Some(&kernel.extents[last]);
                whole
                    && end.as_axis() == Some(lane)
                    && others.last().is_some_and(|e| moves_with(e, along))
                    && only_last_uses(others, along)
                    && others.iter().all(|e| !e.uses_axis(lane))
            })
        };
        lanes_divide && (is_row(*left) && is_panel(*panel) || is_row(*panel) && is_panel(*left))
    }

    /// Where a load of f32 reads, if it always is inside and says so by expressions.
    fn coordinates<'k>(&self, kernel: &'k Kernel, id: ElementId) -> Option<(BufferId, Vec<&'k Expr>)> {
        let (buffer, index) = kernel.element(id).element.load()?;
        let fixed = index.iter().map(|c| match c {
            Coordinate::Static(e) => Some(e),
            Coordinate::Dynamic(_) => None,
        });
        let is_float = self.buffers[buffer.index()].ty.dtype == DType::F32;
        fixed.collect::<Option<_>>().filter(|_| is_float).map(|at| (buffer, at))
    }
}

/// Whether an expression is an axis and what does not depend on it.
fn moves_with(e: &Expr, axis: Axis) -> bool {
    !(e.clone() - Expr::axis(axis.index())).uses_axis(axis)
}

fn only_last_uses(coordinates: &[&Expr], axis: Axis) -> bool {
    coordinates.iter().rev().skip(1).all(|e| !e.uses_axis(axis))
}
