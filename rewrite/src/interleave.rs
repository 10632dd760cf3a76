//! Intermediates laid out as the steps of a loop read them.
//!
//! What is computed ahead of a recurrent loop for all its steps, such as the products of the inputs, holds the gates of a row
//! one behind the other. A block of a GPU has few columns of all gates, and reads a piece of each gate: of four columns half
//! a sector of memory, of which the other half is some other block's. Where all that the loop reads at a point lies the number
//! of columns apart, it is put side by side, so that a point reads it as one vector and a block reads neighbours.
//!
//! ```text
//! before   [.., gate, column]
//! after    [.., gate / w, column, gate mod w]      w gates a vector, a power of two
//! ```
//!
//! The buffer stays as it is, with its elements in another order along the last axis. The kernel that stores them computes
//! them in that order: it reads parameters of its sums from copies in the same order, written once as those of
//! [`crate::pack`], and other parameters at the places where they are. No value is computed otherwise than before.

use std::collections::BTreeMap;

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
    TypedElement,
};
use fuse_ir::{Axis, Expr, Graph, TensorType};

use crate::kernel_builder::{Names, identifier};
use crate::pack::{is_parameter, reduced_axes};

/// Bytes that a thread moves at once.
const VECTOR_BYTES: i64 = 16;

/// Sums shorter than this are not split among the threads of a block, which then has more columns.
const LEAST_EXTENT: i64 = 16;

/// Lays intermediates out anew where that lets loops read neighbours; how many.
pub fn interleave(graph: &Graph, kernels: &mut KernelGraph) -> usize {
    let parameters: Vec<bool> = kernels.buffers.iter().map(|b| is_parameter(graph, b)).collect();
    let mut orders = orders(kernels);
    for step in &kernels.steps {
        if let Step::Kernel(kernel) = step
            && !can_store_in_order(kernel, &orders, &parameters)
        {
            for store in &kernel.stores {
                orders.remove(&store.buffer);
            }
        }
    }
    if orders.is_empty() {
        return 0;
    }
    let mut copies = Copies::new(kernels);
    for step in &mut kernels.steps {
        match step {
            Step::Kernel(kernel) => copies.store_in_order(kernel, &orders),
            Step::Loop(l) => l.body.iter_mut().for_each(|step| load_in_order(step, &orders)),
        }
    }
    copies.finish(kernels);
    orders.len()
}

/// The order of the elements along the last axis of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// Of the axis.
    elements: i64,
    /// Gates side by side.
    width: i64,
    columns: i64,
}

impl Order {
    /// Where an element is that was at `column + gate · columns`.
    fn place(self, column: Expr, gate: i64) -> Expr {
        let block = gate.div_euclid(self.width) * self.width * self.columns;
        column * Expr::constant(self.width) + Expr::constant(block + gate.rem_euclid(self.width))
    }

    /// Where the element was that is at `place`.
    fn origin(self, place: &Expr) -> Expr {
        let [width, columns] = [self.width, self.columns].map(Expr::constant);
        let block = width.clone() * columns.clone();
        place.floor_div(&block) * block.clone()
            + place.modulo(&width) * columns
            + place.modulo(&block).floor_div(&width)
    }
}

/// The buffers that only sums of columns within loops load, all of a row's gates at every point, with the order that they
/// want.
fn orders(kernels: &KernelGraph) -> BTreeMap<BufferId, Order> {
    let mut orders = BTreeMap::new();
    let all = kernels.kernels();
    for (at, buffer) in kernels.buffers.iter().enumerate() {
        let id = BufferId::from(at);
        let last = buffer.ty.shape.last().and_then(fuse_ir::Dim::as_constant);
        let (BufferKind::Temporary, Some(elements)) = (buffer.kind, last) else { continue };
        let mut readers = all.iter().filter(|(kernel, _)| kernel.loads().contains(&id)).peekable();
        if readers.peek().is_none() {
            continue;
        }
        let wanted = |(kernel, depth): &(&Kernel, usize)| {
            let columns = (*depth > 0).then(|| columns_of(kernel, id)).flatten()?;
            let gates = elements.div_euclid(columns);
            let bytes = buffer.ty.dtype.size() as i64;
            let fits = |width: &i64| gates % width == 0 && width * bytes <= VECTOR_BYTES;
            let width = [2, 4, 8].into_iter().take_while(fits).last()?;
            (gates * columns == elements && reads_all(kernel, id, columns, gates)).then_some(Order {
                elements,
                width,
                columns,
            })
        };
        let first = readers.peek().and_then(|reader| wanted(reader));
        if let Some(order) = first.filter(|order| readers.all(|reader| wanted(reader) == Some(*order))) {
            orders.insert(id, order);
        }
    }
    orders
}

/// The number of columns of a kernel all of whose reductions have a value for each column, some of them long, if it has any
/// and loads a buffer beside them.
fn columns_of(kernel: &Kernel, buffer: BufferId) -> Option<i64> {
    let column = Axis(kernel.rank.checked_sub(1)? as u32);
    let around = reduced_axes(kernel);
    let is_of_column = depend_on(kernel, column);
    let mut longest = 0;
    for (i, typed) in kernel.elements.iter().enumerate() {
        match &typed.element {
            Element::Reduce { axes, .. } => {
                let extents = axes.iter().map(|a| kernel.extents[a.index()].as_constant());
                longest = longest.max(extents.product::<Option<i64>>()?);
                if !is_of_column[i] || !around[i].is_empty() {
                    return None;
                }
            }
            Element::Load { buffer: loaded, .. } if *loaded == buffer && !around[i].is_empty() => {
                return None;
            }
            _ => {}
        }
    }
    kernel.extents[column.index()].as_constant().filter(|columns| *columns > 0 && longest >= LEAST_EXTENT)
}

/// Whether each element depends on an axis of the space.
fn depend_on(kernel: &Kernel, axis: Axis) -> Vec<bool> {
    let mut depends: Vec<bool> = Vec::with_capacity(kernel.elements.len());
    for typed in &kernel.elements {
        let own = match &typed.element {
            Element::Load { index, .. } => index.iter().any(|c| uses(c, axis)),
            Element::Index(e) => e.uses_axis(axis),
            _ => false,
        };
        depends.push(own || typed.element.operands().iter().any(|e| depends[e.index()]));
    }
    depends
}

/// Whether a kernel loads every gate of a buffer, and nothing else of it.
fn reads_all(kernel: &Kernel, buffer: BufferId, columns: i64, gates: i64) -> bool {
    let mut read = vec![false; gates as usize];
    for typed in &kernel.elements {
        let Some((loaded, index)) = typed.element.load() else { continue };
        if loaded != buffer {
            continue;
        }
        let Some(gate) = index.split_last().and_then(|(last, _)| gate_of(kernel, last, columns)) else {
            return false;
        };
        match read.get_mut(gate as usize) {
            Some(read) => *read = true,
            None => return false,
        }
    }
    read.iter().all(|read| *read)
}

/// Which gate a coordinate is of: that many times the columns behind the column of the point.
fn gate_of(kernel: &Kernel, coordinate: &Coordinate, columns: i64) -> Option<i64> {
    let behind = (coordinate.as_static()?.clone() - Expr::axis(kernel.rank.checked_sub(1)?)).as_constant()?;
    (behind >= 0 && behind % columns == 0).then_some(behind.div_euclid(columns))
}

/// Has the loads of a loop's kernels follow the orders.
fn load_in_order(step: &mut Step, orders: &BTreeMap<BufferId, Order>) {
    let kernel = match step {
        Step::Loop(l) => return l.body.iter_mut().for_each(|step| load_in_order(step, orders)),
        Step::Kernel(kernel) => kernel,
    };
    for i in 0..kernel.elements.len() {
        let Some((buffer, index)) = kernel.elements[i].element.load() else { continue };
        let Some(order) = orders.get(&buffer) else { continue };
        let gate = index.last().and_then(|last| gate_of(kernel, last, order.columns));
        let mut index: smallvec::SmallVec<[Coordinate; 4]> = index.iter().cloned().collect();
        if let (Some(gate), Some(last)) = (gate, index.last_mut()) {
            *last = Coordinate::Static(order.place(Expr::axis(kernel.rank - 1), gate));
        }
        kernel.elements[i].element = Element::Load { buffer, index };
    }
}

/// Whether a kernel ahead of loops can compute what it stores in the one order that all its buffers have: along its last
/// axis, on which nothing but loads of parameters depend.
fn can_store_in_order(kernel: &Kernel, orders: &BTreeMap<BufferId, Order>, parameters: &[bool]) -> bool {
    let Some(last) = kernel.rank.checked_sub(1) else { return false };
    let axis = Axis(last as u32);
    let stored = |store: &Store| {
        let (place, others) = store.index.split_last()?;
        let in_order = *place == Expr::axis(last) && !others.iter().any(|e| e.uses_axis(axis));
        orders.get(&store.buffer).filter(|_| in_order)
    };
    let first = kernel.stores.first().and_then(stored);
    let around = reduced_axes(kernel);
    let can_follow = |(i, typed): (usize, &TypedElement)| match &typed.element {
        Element::Load { buffer, index } => {
            let using = index.iter().filter(|c| uses(c, axis)).count();
            let is_static = index.iter().all(|c| c.as_static().is_some());
            let one = |c: &Coordinate| !uses(c, axis) || offset_of(c, last).is_some();
            using == 0
                || parameters.get(buffer.index()) == Some(&true)
                    && (around[i].is_empty() || is_static && using == 1 && index.iter().all(one))
        }
        Element::Index(e) => !e.uses_axis(axis),
        Element::Recurrence { .. } => false,
        Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) | Element::Reduce { .. } => true,
    };
    let extent = kernel.extents[last].as_constant();
    first.is_some_and(|order| extent == Some(order.elements))
        && kernel.stores.iter().all(|store| stored(store) == first)
        && kernel.elements.iter().enumerate().all(can_follow)
}

fn uses(coordinate: &Coordinate, axis: Axis) -> bool {
    coordinate.as_static().is_some_and(|e| e.uses_axis(axis))
}

/// How far a coordinate is behind an axis.
fn offset_of(coordinate: &Coordinate, axis: usize) -> Option<i64> {
    (coordinate.as_static()?.clone() - Expr::axis(axis)).as_constant().filter(|offset| *offset >= 0)
}

/// A copy of a parameter: of which buffer, along which of its axes, from where on, in which order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    source: BufferId,
    along: usize,
    from: i64,
    order: Order,
}

/// Copies of parameters in the order of what is computed from them.
struct Copies {
    buffers: Vec<Buffer>,
    kernels: Vec<Kernel>,
    known: BTreeMap<Copy, BufferId>,
    buffer_names: Names,
    kernel_names: Names,
}

impl Copies {
    fn new(kernels: &mut KernelGraph) -> Copies {
        let (buffer_names, kernel_names) = (Names::of_buffers(&kernels.buffers), Names::of_kernels(kernels));
        let buffers = std::mem::take(&mut kernels.buffers);
        Copies { buffers, kernels: Vec::new(), known: BTreeMap::new(), buffer_names, kernel_names }
    }

    /// Puts the copies ahead of everything else.
    fn finish(self, kernels: &mut KernelGraph) {
        kernels.buffers = self.buffers;
        kernels.steps.splice(0..0, self.kernels.into_iter().map(Step::Kernel));
    }

    /// Has a kernel compute what it stores in its order.
    fn store_in_order(&mut self, kernel: &mut Kernel, orders: &BTreeMap<BufferId, Order>) {
        let Some(order) = kernel.stores.first().and_then(|store| orders.get(&store.buffer)).copied() else {
            return;
        };
        let last = kernel.rank - 1;
        let around = reduced_axes(kernel);
        for (i, around) in around.iter().enumerate() {
            let Some((buffer, index)) = kernel.elements[i].element.load() else { continue };
            let Some(along) = index.iter().position(|c| uses(c, Axis(last as u32))) else { continue };
            let mut index: smallvec::SmallVec<[Coordinate; 4]> = index.iter().cloned().collect();
            let mut loaded = buffer;
            match (around.is_empty(), offset_of(&index[along], last)) {
                (false, Some(from)) => {
                    loaded = self.copy(Copy { source: buffer, along, from, order });
                    index[along] = Coordinate::Static(Expr::axis(last));
                }
                _ => {
                    let mut axes: Vec<Expr> = (0..kernel.extents.len()).map(Expr::axis).collect();
                    axes[last] = order.origin(&Expr::axis(last));
                    for coordinate in &mut index {
                        if let Coordinate::Static(e) = coordinate {
                            *e = e.substitute_axes(&axes).simplify(&kernel.extents);
                        }
                    }
                }
            }
            kernel.elements[i].element = Element::Load { buffer: loaded, index };
        }
    }

    fn copy(&mut self, copy: Copy) -> BufferId {
        if let Some(buffer) = self.known.get(&copy) {
            return *buffer;
        }
        let Buffer { name, ty, .. } = &self.buffers[copy.source.index()];
        let mut shape = ty.shape.clone();
        shape[copy.along] = Expr::constant(copy.order.elements);
        let dtype = ty.dtype;
        let at = copy.order.origin(&Expr::axis(copy.along)) + Expr::constant(copy.from);
        let mut index: Vec<Expr> = (0..shape.len()).map(Expr::axis).collect();
        index[copy.along] = at.simplify(&shape);
        let index = index.into_iter().map(Coordinate::Static).collect();
        let kernel_name = self.kernel_names.unique(&format!("pack_{}", identifier(name)));
        let name = self.buffer_names.unique(&format!("{name}.packed"));
        let buffer = BufferId::from(self.buffers.len());
        self.kernels.push(Kernel {
            name: kernel_name,
            rank: shape.len(),
            extents: shape.clone(),
            elements: vec![TypedElement { element: Element::Load { buffer: copy.source, index }, dtype }],
            stores: vec![Store {
                buffer,
                index: (0..shape.len()).map(Expr::axis).collect(),
                value: ElementId(0),
            }],
            ops: vec!["pack".into()],
        });
        self.buffers.push(Buffer { name, ty: TensorType { dtype, shape }, kind: BufferKind::Temporary });
        self.known.insert(copy, buffer);
        buffer
    }
}
