//! The kernels of a recurrence in chunks.

use std::collections::HashMap;

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, Recurrence, Store,
};
use fuse_ir::{Axis, DType, Dim, Expr, Literal, TensorType};

use super::{Chunks, Division, below};
use crate::kernel_builder::KernelBuilder;

/// What one state leaves in memory between kernels.
struct Between {
    state: Recurrence,
    dtype: DType,
    /// The product of each chunk's factors; nothing where all are 1.
    product: Option<BufferId>,
    /// The state of each chunk, from zero.
    local: BufferId,
    /// The state before each chunk, if anything is computed from there.
    before: Option<BufferId>,
    /// The state after the last chunk.
    last: BufferId,
}

impl Division<'_> {
    /// The kernels of the [module documentation](super), in order.
    pub(super) fn kernels(
        &mut self,
        kernel: &Kernel,
        axis: Axis,
        states: &[Recurrence],
        chunks: &Chunks,
    ) -> Vec<Kernel> {
        let again = kernel.stores.iter().any(|store| !kernel.is_final(store));
        let finals = kernel.stores.iter().any(|store| kernel.is_final(store));
        let between = self.between(kernel, axis, states, &chunks.count, again);
        let mut out = vec![
            local(kernel, axis, &between, chunks).finish(self.name(kernel, "local")),
            combine(kernel, axis, &between, chunks).finish(self.name(kernel, "combine")),
        ];
        if again {
            out.push(from_each_chunk(kernel, axis, &between, chunks).finish(kernel.name.clone()));
        }
        if finals || !chunks.rest.is_zero() {
            out.push(rest(kernel, axis, &between, chunks).finish(self.name(kernel, "rest")));
        }
        out
    }

    fn name(&mut self, kernel: &Kernel, part: &str) -> String {
        self.kernel_names.unique(&format!("{}_{part}", kernel.name))
    }

    fn between(
        &mut self,
        kernel: &Kernel,
        axis: Axis,
        states: &[Recurrence],
        count: &Dim,
        again: bool,
    ) -> Vec<Between> {
        let mut each = kernel.space().to_vec();
        each[axis.index()] = count.clone();
        let mut once = each.clone();
        once.remove(axis.index());
        let mut products: HashMap<ElementId, BufferId> = HashMap::new();
        let mut out = Vec::with_capacity(states.len());
        for state in states {
            let dtype = kernel.element(state.factor).dtype;
            let mut buffer = |name: &str, shape: &[Dim]| {
                let ty = TensorType::new(dtype, shape.iter().cloned());
                let name = self.buffer_names.unique(name);
                self.graph.buffers.push(Buffer { name, ty, kind: BufferKind::Temporary });
                BufferId::from(self.graph.buffers.len() - 1)
            };
            let product = (!is_one(kernel, state.factor))
                .then(|| *products.entry(state.factor).or_insert_with(|| buffer("product", &each)));
            let local = buffer("local", &each);
            let before = again.then(|| buffer("before", &each));
            let last = buffer("last", &once);
            out.push(Between { state: *state, dtype, product, local, before, last });
        }
        out
    }
}

fn is_one(kernel: &Kernel, factor: ElementId) -> bool {
    let typed = kernel.element(factor);
    typed.element == Element::Constant(Literal::from_i64(typed.dtype, 1))
}

/// What each chunk makes of the state before it: the product of its factors, and its state from zero.
fn local(kernel: &Kernel, axis: Axis, between: &[Between], chunks: &Chunks) -> KernelBuilder {
    let mut copy = Copy::in_chunks(kernel, axis, chunks);
    copy.elements(between.iter().flat_map(|b| [b.state.factor, b.state.term]));
    let (along, index) = (copy.axis, copy.points_but_of(copy.axis));
    for b in between {
        let [zero, one] = [0, 1].map(|value| copy.builder.constant(Literal::from_i64(b.dtype, value)));
        let (factor, term) = (copy.known[&b.state.factor], copy.known[&b.state.term]);
        let mut store = |buffer: BufferId, init: ElementId, term: ElementId| {
            let state = Recurrence { axis: along, init, factor, term };
            let value = copy.builder.add(Element::Recurrence { state, exclusive: false }, b.dtype);
            copy.builder.store(Store { buffer, index: index.iter().cloned().collect(), value });
        };
        if let Some(product) = b.product {
            store(product, one, zero);
        }
        store(b.local, zero, term);
    }
    copy.builder
}

/// The states before each chunk and after the last, from what the chunks make of them.
fn combine(kernel: &Kernel, axis: Axis, between: &[Between], chunks: &Chunks) -> KernelBuilder {
    let mut space = kernel.space().to_vec();
    space[axis.index()] = chunks.count.clone();
    let mut copy = Copy::new(kernel, space, axis, Expr::axis(axis.index()));
    copy.elements(between.iter().map(|b| b.state.init));
    let (each, once) = (copy.points(), copy.points_but_of(axis));
    for b in between {
        let factor = match b.product {
            Some(product) => copy.load(product, &each, b.dtype),
            None => copy.builder.constant(Literal::from_i64(b.dtype, 1)),
        };
        let term = copy.load(b.local, &each, b.dtype);
        let state = Recurrence { axis, init: copy.known[&b.state.init], factor, term };
        if let Some(before) = b.before {
            let value = copy.builder.add(Element::Recurrence { state, exclusive: true }, b.dtype);
            copy.builder.store(Store { buffer: before, index: each.iter().cloned().collect(), value });
        }
        let value = copy.builder.add(Element::Recurrence { state, exclusive: false }, b.dtype);
        copy.builder.store(Store { buffer: b.last, index: once.iter().cloned().collect(), value });
    }
    copy.builder
}

/// Everything but the final states, from the state before each chunk.
fn from_each_chunk(kernel: &Kernel, axis: Axis, between: &[Between], chunks: &Chunks) -> KernelBuilder {
    let mut copy = Copy::in_chunks(kernel, axis, chunks);
    let index = copy.points_but_of(copy.axis);
    for b in between {
        if let Some(before) = b.before {
            let init = copy.load(before, &index, b.dtype);
            copy.inits.insert(b.state, init);
        }
    }
    copy.stores(|store| !kernel.is_final(store));
    copy.builder
}

/// Everything for the steps after the last chunk, from the state after it.
fn rest(kernel: &Kernel, axis: Axis, between: &[Between], chunks: &Chunks) -> KernelBuilder {
    let mut space = kernel.space().to_vec();
    space[axis.index()] = chunks.rest.clone();
    let after = chunks.count.clone() * chunks.length.clone() + Expr::axis(axis.index());
    let mut copy = Copy::new(kernel, space, axis, after);
    let index = copy.points_but_of(axis);
    for b in between {
        let init = copy.load(b.last, &index, b.dtype);
        copy.inits.insert(b.state, init);
    }
    copy.stores(|_| true);
    copy.builder
}

/// Copies elements of a kernel into another one, whose recurrences begin elsewhere.
struct Copy<'a> {
    from: &'a Kernel,
    builder: KernelBuilder,
    rank: usize,
    /// The axis that recurrences run along in the new kernel.
    axis: Axis,
    /// Where the axes of the kernel are in the new one; of those that reductions bind, once they are copied.
    axes: Vec<Expr>,
    /// The copies of elements.
    known: HashMap<ElementId, ElementId>,
    /// Where recurrences begin.
    inits: HashMap<Recurrence, ElementId>,
}

impl<'a> Copy<'a> {
    /// Over a space of as many axes, at a position along that of the recurrences.
    fn new(from: &'a Kernel, space: Vec<Dim>, axis: Axis, position: Expr) -> Self {
        let mut axes: Vec<Expr> = (0..from.extents.len()).map(Expr::axis).collect();
        axes[axis.index()] = position;
        let (rank, builder) = (space.len(), KernelBuilder::new(space));
        Copy { from, builder, rank, axis, axes, known: HashMap::new(), inits: HashMap::new() }
    }

    /// Over the same space with an axis in two: the chunk, and the step in it, along which recurrences run.
    fn in_chunks(from: &'a Kernel, axis: Axis, chunks: &Chunks) -> Self {
        let mut space = from.space().to_vec();
        space[axis.index()] = chunks.count.clone();
        space.insert(axis.index() + 1, chunks.length.clone());
        let position = Expr::axis(axis.index()) * chunks.length.clone() + Expr::axis(axis.index() + 1);
        let mut copy = Copy::new(from, space, axis, position);
        for after in axis.index() + 1..from.rank {
            copy.axes[after] = Expr::axis(after + 1);
        }
        copy.axis = Axis(axis.0 + 1);
        copy
    }

    /// The coordinates of a point.
    fn points(&self) -> Vec<Expr> {
        (0..self.rank).map(Expr::axis).collect()
    }

    /// Those but one.
    fn points_but_of(&self, axis: Axis) -> Vec<Expr> {
        let mut points = self.points();
        points.remove(axis.index());
        points
    }

    fn load(&mut self, buffer: BufferId, index: &[Expr], dtype: DType) -> ElementId {
        let index = index.iter().cloned().map(Coordinate::Static).collect();
        self.builder.add(Element::Load { buffer, index }, dtype)
    }

    /// Copies stores, with what they store.
    fn stores(&mut self, which: impl Fn(&Store) -> bool) {
        let from = self.from;
        let stores: Vec<&Store> = from.stores.iter().filter(|store| which(store)).collect();
        self.elements(stores.iter().map(|store| store.value));
        for store in stores {
            let index = store.index.iter().map(|e| self.at(e)).collect();
            self.builder.store(Store { buffer: store.buffer, index, value: self.known[&store.value] });
        }
    }

    /// Copies elements and what they are computed from.
    fn elements(&mut self, roots: impl Iterator<Item = ElementId>) {
        let from = self.from;
        let needed = below(from, roots, |element| match element.recurrence() {
            Some(state) => vec![state.factor, state.term],
            None => element.operands().to_vec(),
        });
        let needed = || from.elements.iter().enumerate().filter(|(i, _)| needed[*i]);
        for (_, typed) in needed() {
            if let Element::Reduce { axes, .. } = &typed.element {
                for axis in axes {
                    let bound = self.builder.bind(from.extents[axis.index()].clone());
                    self.axes[axis.index()] = Expr::axis(bound.index());
                }
            }
        }
        for (i, typed) in needed() {
            let element = self.element(&typed.element);
            let copied = self.builder.add(element, typed.dtype);
            self.known.insert(ElementId::from(i), copied);
        }
    }

    /// An element whose operands are copied.
    fn element(&self, element: &Element) -> Element {
        let known = |id: &ElementId| self.known[id];
        match element {
            Element::Load { buffer, index } => {
                let coordinate = |c: &Coordinate| match c {
                    Coordinate::Static(e) => Coordinate::Static(self.at(e)),
                    Coordinate::Dynamic(e) => Coordinate::Dynamic(known(e)),
                };
                Element::Load { buffer: *buffer, index: index.iter().map(coordinate).collect() }
            }
            Element::Constant(value) => Element::Constant(*value),
            Element::Index(e) => Element::Index(self.at(e)),
            Element::Scalar(op, operands) => Element::Scalar(*op, operands.iter().map(known).collect()),
            Element::Cast(operand) => Element::Cast(known(operand)),
            Element::Reduce { op, axes, body } => {
                let axes = axes.iter().filter_map(|a| self.axes[a.index()].as_axis()).collect();
                Element::Reduce { op: *op, axes, body: known(body) }
            }
            Element::Recurrence { state, exclusive } => {
                let (factor, term) = (known(&state.factor), known(&state.term));
                let state = Recurrence { axis: self.axis, init: self.inits[state], factor, term };
                Element::Recurrence { state, exclusive: *exclusive }
            }
        }
    }

    /// An index in the new kernel.
    fn at(&self, e: &Expr) -> Expr {
        e.substitute_axes(&self.axes)
    }
}
