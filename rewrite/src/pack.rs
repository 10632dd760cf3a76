//! Parameters laid out as reductions read them.
//!
//! On a device whose vectors run along the reduced axis, a weight whose contracted axis is not its last one
//! (`x · W` with `W` `[K, N]`) is read with a stride as long as a row: one element a cache line, one row a page.
//! A kernel ahead of everything else then writes it once with that axis last, and the reductions read the copy.
//! The copy depends on parameters alone, so that whoever runs the program may keep it from one run to the next.
//!
//! Only parameters: inputs and intermediate tensors change with every run, for which moving them costs as much
//! as reading them badly.

use std::collections::HashMap;

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
    TypedElement,
};
use fuse_ir::types::Shape;
use fuse_ir::{Axis, Dim, Expr, Graph, InputKind, TensorType};
use smallvec::SmallVec;

use crate::extract::cost::assumed;
use crate::kernel_builder::{Names, identifier};

/// Reductions shorter than this are over before a stride matters.
pub(crate) const SHORTEST: f64 = 32.0;
/// A kernel outside loops must read every element about this often to pay for the copy.
const LEAST_REUSE: f64 = 16.0;
/// Elements that a point of the copying kernel's outer axes moves: a cache line of f32, so that whole lines are
/// read, and the lines that are written stay in the first-level cache until they are full.
const LINE: [i64; 4] = [16, 8, 4, 2];

/// Reads the parameters of `graph` through copies where reductions want another layout; the number of copies.
pub fn pack_parameters(graph: &Graph, kernels: &mut KernelGraph) -> usize {
    let mut packer = Packer {
        parameters: kernels.buffers.iter().map(|b| is_parameter(graph, b)).collect(),
        copies: HashMap::new(),
        order: Vec::new(),
        buffer_names: Names::of_buffers(&kernels.buffers),
        kernel_names: Names::of_kernels(kernels),
        buffers: std::mem::take(&mut kernels.buffers),
    };
    packer.steps(&mut kernels.steps, 0);
    let copies: Vec<Step> = packer.order.clone().iter().map(|c| Step::Kernel(packer.kernel(*c))).collect();
    kernels.steps.splice(0..0, copies);
    kernels.buffers = packer.buffers;
    packer.order.len()
}

/// Whether a buffer is a parameter of the graph.
pub(crate) fn is_parameter(graph: &Graph, buffer: &Buffer) -> bool {
    match buffer.kind {
        BufferKind::Input(i) => graph.inputs().get(i).is_some_and(|input| input.kind == InputKind::Parameter),
        BufferKind::Output(_) | BufferKind::Temporary | BufferKind::State => false,
    }
}

/// A copy of a parameter: which one, and which of its axes comes last.
type Copy = (BufferId, usize);

struct Packer {
    parameters: Vec<bool>,
    copies: HashMap<Copy, BufferId>,
    /// The copies in the order they were asked for.
    order: Vec<Copy>,
    buffer_names: Names,
    kernel_names: Names,
    buffers: Vec<Buffer>,
}

impl Packer {
    fn steps(&mut self, steps: &mut [Step], depth: usize) {
        for step in steps {
            match step {
                Step::Kernel(kernel) => self.redirect(kernel, depth > 0),
                Step::Loop(l) => self.steps(&mut l.body, depth + 1),
            }
        }
    }

    /// Lets the reductions of a kernel read copies.
    fn redirect(&mut self, kernel: &mut Kernel, in_loop: bool) {
        let reduced = reduced_axes(kernel);
        for (i, reduced) in reduced.iter().enumerate() {
            let Element::Load { buffer, index } = &kernel.elements[i].element else { continue };
            let Some(last) = self.wanted_last(kernel, *buffer, index, reduced, in_loop) else { continue };
            let mut index = index.clone();
            let coordinate = index.remove(last);
            index.push(coordinate);
            let buffer = self.copy((*buffer, last));
            kernel.elements[i].element = Element::Load { buffer, index };
        }
    }

    /// The axis of the buffer that a load would like to be the last one.
    fn wanted_last(
        &self,
        kernel: &Kernel,
        buffer: BufferId,
        index: &[Coordinate],
        reduced: &[Axis],
        in_loop: bool,
    ) -> Option<usize> {
        // The innermost axis that the load's reductions bind is the one they are vectors along.
        let axis = *reduced.last().filter(|_| self.parameters.get(buffer.index()) == Some(&true))?;
        let coordinates: Vec<&Expr> = index.iter().map(Coordinate::as_static).collect::<Option<_>>()?;
        let using: Vec<usize> = (0..coordinates.len()).filter(|i| coordinates[*i].uses_axis(axis)).collect();
        let [at] = using[..] else { return None };
        let steps_by_one = (coordinates[at].clone() - Expr::axis(axis.index())).axes().is_empty();
        let reused = is_reused(kernel, &coordinates, in_loop);
        let worth = steps_by_one && reused && assumed(&kernel.extents[axis.index()]) >= SHORTEST;
        (worth && at + 1 < coordinates.len()).then_some(at)
    }

    /// The buffer of a copy.
    fn copy(&mut self, copy: Copy) -> BufferId {
        if let Some(buffer) = self.copies.get(&copy) {
            return *buffer;
        }
        let (source, last) = copy;
        let Buffer { name, ty, .. } = &self.buffers[source.index()];
        let mut shape = ty.shape.clone();
        let extent = shape.remove(last);
        shape.push(extent);
        let (name, ty) = (format!("{name}.packed"), TensorType { dtype: ty.dtype, shape });
        let name = self.buffer_names.unique(&name);
        self.buffers.push(Buffer { name, ty, kind: BufferKind::Temporary });
        let buffer = BufferId::from(self.buffers.len() - 1);
        self.copies.insert(copy, buffer);
        self.order.push(copy);
        buffer
    }

    /// The kernel that writes a copy. Its last two axes walk the axis that becomes the last one, and within that a
    /// line of the axis that was.
    fn kernel(&mut self, copy: Copy) -> Kernel {
        let (source, last) = copy;
        let Buffer { name, ty, .. } = &self.buffers[source.index()];
        let name = self.kernel_names.unique(&format!("pack_{}", identifier(name)));
        let (dtype, mut outer) = (ty.dtype, ty.shape.clone());
        let along = outer.remove(last);
        let row = outer.pop().unwrap_or_else(|| Dim::constant(1));
        let line = LINE.into_iter().find(|l| row.as_constant().is_some_and(|n| n % l == 0)).unwrap_or(1);
        let space: Shape = outer
            .iter()
            .cloned()
            .chain([row.floor_div(&Dim::constant(line)), along, Dim::constant(line)])
            .collect();
        let axis = |i: usize| Expr::axis(outer.len() + i);
        let across = axis(0) * Expr::constant(line) + axis(2);
        let kept = (0..outer.len()).map(Expr::axis).chain([across]);
        let mut index: Vec<Expr> = kept.clone().collect();
        index.insert(last, axis(1));
        let load =
            Element::Load { buffer: source, index: index.into_iter().map(Coordinate::Static).collect() };
        let index: SmallVec<[Expr; 4]> = kept.chain([axis(1)]).collect();
        Kernel {
            name,
            rank: space.len(),
            extents: space,
            elements: vec![TypedElement { element: load, dtype }],
            stores: vec![Store { buffer: self.copies[&copy], index, value: ElementId(0) }],
            ops: vec!["pack".into()],
        }
    }
}

/// Whether a kernel reads a buffer at these coordinates often enough to pay for a copy.
pub(crate) fn is_reused(kernel: &Kernel, coordinates: &[&Expr], in_loop: bool) -> bool {
    let reads = |a: usize| coordinates.iter().any(|e| e.uses_axis(Axis(a as u32)));
    let repeated = (0..kernel.rank).filter(|a| !reads(*a)).map(|a| assumed(&kernel.extents[a]));
    in_loop || repeated.product::<f64>() >= LEAST_REUSE
}

/// The axes that the reductions around each element bind, outermost first; of several users the last counts.
pub(crate) fn reduced_axes(kernel: &Kernel) -> Vec<Vec<Axis>> {
    let mut around: Vec<Vec<Axis>> = vec![Vec::new(); kernel.elements.len()];
    // Operands come first, so walking backwards meets every user before the element.
    for i in (0..kernel.elements.len()).rev() {
        let element = &kernel.elements[i].element;
        let mut axes = around[i].clone();
        match element {
            Element::Reduce { axes: bound, .. } => axes.extend(bound.iter().copied()),
            Element::Load { .. }
            | Element::Constant(_)
            | Element::Index(_)
            | Element::Scalar(..)
            | Element::Cast(_)
            | Element::Recurrence { .. } => {}
        }
        for operand in element.operands() {
            around[operand.index()].clone_from(&axes);
        }
    }
    around
}
