//! Parameters of products stored in 16 bits.
//!
//! A product with one row in a loop reads every weight once a step and does one multiply-add with it: it is as fast as
//! weights come from caches and memory. Stored as f16 or bf16 they are half the bytes. A kernel ahead of everything else rounds
//! a parameter once, to nearest even; products read the copy and convert each element back, exactly, so that all
//! arithmetic stays in f32. As with other copies of parameters ([`crate::pack`]), whoever runs the program makes them
//! once, and copies of the copies ([`crate::panels`]) are of its type.
//!
//! Only factors of products that are summed: what rounding them does to a sum has a bound that can be stated. And only
//! in loops: what was hoisted out of one multiplies all steps with a weight that was read once, so that fewer bytes
//! would cost accuracy for nothing.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, KernelGraph, Step, Store,
    TypedElement,
};
use fuse_ir::{DType, Expr, Graph, ReduceOp, ScalarOp, TensorType};

use crate::extract::cost::assumed;
use crate::kernel_builder::{Names, identifier};
use crate::pack::{SHORTEST, is_parameter, reduced_axes};
use crate::panels::insert_copies;

/// Lets sums of products in loops read parameters of f32, and copies of these in another layout, through copies of type
/// `dtype`; the positions of these parameters among the inputs of `graph`, ascending.
pub fn narrow_parameters(graph: &Graph, kernels: &mut KernelGraph, dtype: DType) -> Vec<usize> {
    let sources = sources(graph, kernels);
    let mut narrower = Narrower {
        dtype,
        copies: HashMap::new(),
        order: Vec::new(),
        buffer_names: Names::of_buffers(&kernels.buffers),
        kernel_names: Names::of_kernels(kernels),
        buffers: std::mem::take(&mut kernels.buffers),
        sources,
    };
    narrower.steps(&mut kernels.steps, 0);
    let order = narrower.order.clone();
    let copies = order.iter().map(|source| Step::Kernel(narrower.kernel(*source))).collect();
    let parameters: BTreeSet<usize> = order.iter().map(|source| narrower.sources[source]).collect();
    kernels.buffers = narrower.buffers;
    insert_copies(graph, kernels, copies);
    parameters.into_iter().collect()
}

/// Parameters of f32 and of known size, and what leading kernels copied them to; each with the position of the input.
fn sources(graph: &Graph, kernels: &KernelGraph) -> HashMap<BufferId, usize> {
    let fits = |b: &Buffer| b.ty.dtype == DType::F32 && b.ty.shape.iter().all(|d| d.as_constant().is_some());
    let mut sources = HashMap::new();
    for (i, buffer) in kernels.buffers.iter().enumerate() {
        if let BufferKind::Input(position) = buffer.kind
            && is_parameter(graph, buffer)
            && fits(buffer)
        {
            sources.insert(BufferId::from(i), position);
        }
    }
    for step in &kernels.steps {
        let Step::Kernel(Kernel { elements, stores, .. }) = step else { break };
        let ([TypedElement { element: Element::Load { buffer, .. }, .. }], [store]) =
            (elements.as_slice(), stores.as_slice())
        else {
            break;
        };
        let target = kernels.buffer(store.buffer);
        if let Some(position) = sources.get(buffer).copied()
            && target.kind == BufferKind::Temporary
            && fits(target)
        {
            sources.insert(store.buffer, position);
        }
    }
    sources
}

struct Narrower {
    dtype: DType,
    /// What may be copied, with the position of the parameter that it is of.
    sources: HashMap<BufferId, usize>,
    copies: HashMap<BufferId, BufferId>,
    /// What is copied, in the order it was asked for.
    order: Vec<BufferId>,
    buffer_names: Names,
    kernel_names: Names,
    buffers: Vec<Buffer>,
}

impl Narrower {
    fn steps(&mut self, steps: &mut [Step], depth: usize) {
        for step in steps {
            match step {
                Step::Kernel(kernel) if depth > 0 => self.redirect(kernel),
                Step::Kernel(_) => {}
                Step::Loop(l) => self.steps(&mut l.body, depth + 1),
            }
        }
    }

    /// Lets the products of a kernel read copies.
    fn redirect(&mut self, kernel: &mut Kernel) {
        let reduced = reduced_axes(kernel);
        let is_wanted = |(i, reduced): (usize, &Vec<_>)| {
            let long = reduced
                .last()
                .is_some_and(|axis: &fuse_ir::Axis| assumed(&kernel.extents[axis.index()]) >= SHORTEST);
            long && self.is_wanted(kernel, ElementId(i as u32))
        };
        let wanted: Vec<bool> = reduced.iter().enumerate().map(is_wanted).collect();
        if !wanted.contains(&true) {
            return;
        }
        let mut moved: Vec<ElementId> = Vec::with_capacity(kernel.elements.len());
        let mut elements = Vec::with_capacity(kernel.elements.len() + 1);
        for (typed, wanted) in std::mem::take(&mut kernel.elements).into_iter().zip(wanted) {
            let TypedElement { mut element, dtype } = typed;
            renumber(&mut element, &moved);
            match &mut element {
                Element::Load { buffer, .. } if wanted => {
                    *buffer = self.copy(*buffer);
                    elements.push(TypedElement { element, dtype: self.dtype });
                    let narrow = ElementId(elements.len() as u32 - 1);
                    elements.push(TypedElement { element: Element::Cast(narrow), dtype });
                }
                _ => elements.push(TypedElement { element, dtype }),
            }
            moved.push(ElementId(elements.len() as u32 - 1));
        }
        kernel.elements = elements;
        for store in &mut kernel.stores {
            store.value = moved[store.value.index()];
        }
    }

    /// Whether an element is a parameter that is read for nothing but sums of products.
    fn is_wanted(&self, kernel: &Kernel, load: ElementId) -> bool {
        let Element::Load { buffer, index } = &kernel.element(load).element else { return false };
        let is_static = |c: &Coordinate| match c {
            Coordinate::Static(_) => true,
            Coordinate::Dynamic(_) => false,
        };
        let is_product = |e: &Element| matches!(e, Element::Scalar(ScalarOp::Mul, _));
        let is_sum = |e: &Element| matches!(e, Element::Reduce { op: ReduceOp::Sum, .. });
        self.sources.contains_key(buffer)
            && index.iter().all(is_static)
            && used_only_by(kernel, load, is_product)
            && users(kernel, load).all(|product| used_only_by(kernel, product, is_sum))
    }

    /// The buffer of a copy.
    fn copy(&mut self, source: BufferId) -> BufferId {
        if let Some(buffer) = self.copies.get(&source) {
            return *buffer;
        }
        let Buffer { name, ty, .. } = &self.buffers[source.index()];
        let (name, ty) =
            (format!("{name}.{}", self.dtype), TensorType { dtype: self.dtype, shape: ty.shape.clone() });
        let name = self.buffer_names.unique(&name);
        self.buffers.push(Buffer { name, ty, kind: BufferKind::Temporary });
        let buffer = BufferId::from(self.buffers.len() - 1);
        self.copies.insert(source, buffer);
        self.order.push(source);
        buffer
    }

    /// The kernel that rounds a parameter.
    fn kernel(&mut self, source: BufferId) -> Kernel {
        let Buffer { name, ty, .. } = &self.buffers[source.index()];
        let name = self.kernel_names.unique(&format!("narrow_{}", identifier(name)));
        let axes = || (0..ty.shape.len()).map(Expr::axis);
        let load = Element::Load { buffer: source, index: axes().map(Coordinate::Static).collect() };
        Kernel {
            name,
            rank: ty.shape.len(),
            extents: ty.shape.to_vec(),
            elements: vec![
                TypedElement { element: load, dtype: ty.dtype },
                TypedElement { element: Element::Cast(ElementId(0)), dtype: self.dtype },
            ],
            stores: vec![Store {
                buffer: self.copies[&source],
                index: axes().collect(),
                value: ElementId(1),
            }],
            ops: vec!["narrow".into()],
        }
    }
}

/// The elements that are computed from `operand` at once.
fn users(kernel: &Kernel, operand: ElementId) -> impl Iterator<Item = ElementId> + '_ {
    let uses = move |i: &usize| kernel.elements[*i].element.operands().contains(&operand);
    (0..kernel.elements.len()).filter(uses).map(|i| ElementId(i as u32))
}

/// Whether an element has users, all of this kind, and is not stored itself.
fn used_only_by(kernel: &Kernel, operand: ElementId, kind: impl Fn(&Element) -> bool) -> bool {
    let mut users = users(kernel, operand).peekable();
    let is_stored = kernel.stores.iter().any(|s| s.value == operand);
    users.peek().is_some() && !is_stored && users.all(|user| kind(&kernel.element(user).element))
}

/// Gives operands the places that they moved to.
fn renumber(element: &mut Element, moved: &[ElementId]) {
    let to = |operand: &mut ElementId| *operand = moved[operand.index()];
    match element {
        Element::Load { index, .. } => index.iter_mut().for_each(|c| match c {
            Coordinate::Static(_) => {}
            Coordinate::Dynamic(operand) => to(operand),
        }),
        Element::Constant(_) | Element::Index(_) => {}
        Element::Scalar(_, operands) => operands.iter_mut().for_each(to),
        Element::Cast(operand) | Element::Reduce { body: operand, .. } => to(operand),
        Element::Recurrence { state, .. } => {
            [&mut state.init, &mut state.factor, &mut state.term].into_iter().for_each(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use fuse_frontend::{DType as D, trace};
    use fuse_ir::device::DeviceModel;

    use super::*;

    fn narrowed(graph: &Graph) -> (KernelGraph, Vec<usize>) {
        let options = crate::Options::default();
        let mut kernels = crate::optimize(graph, &DeviceModel::cpu(), &options).expect("optimizes").kernels;
        let parameters = narrow_parameters(graph, &mut kernels, DType::F16);
        fuse_ir::verify_kernels(&kernels).expect("verifies");
        (kernels, parameters)
    }

    #[test]
    fn factors_of_summed_products_are_stored_narrow() {
        let graph = fuse_frontend::zoo::lstm_graph(64, 64).expect("traces");
        let (mut kernels, parameters) = narrowed(&graph);
        let names: Vec<&str> = parameters.iter().map(|i| graph.inputs()[*i].name.as_str()).collect();
        assert_eq!(names, ["weight_hh"], "not the biases, and not what was hoisted");
        let names: Vec<&str> = kernels.kernels().iter().map(|(k, _)| k.name.as_str()).collect();
        assert_eq!(names.iter().filter(|n| n.starts_with("narrow_")).count(), 1, "{names:?}");
        // Panels are made of the narrow copy.
        assert_eq!(crate::panel_parameters(&graph, &mut kernels, 16), 2);
        fuse_ir::verify_kernels(&kernels).expect("verifies");
        let panels = kernels.buffers.iter().filter(|b| b.name.ends_with(".panels")).map(|b| b.ty.dtype);
        assert_eq!(panels.collect::<BTreeSet<_>>(), BTreeSet::from([DType::F32, DType::F16]));
    }

    #[test]
    fn what_is_outside_loops_or_of_another_type_or_size_stays() {
        let product = |dtype, extent: i64| {
            trace("product", |t| {
                let x = t.input("x", dtype, ("B", extent));
                t.output("y", x.matmul(t.parameter("w", dtype, (extent, 96))));
            })
        };
        let recurrent = |dtype, extent: &str| {
            let ty = match dtype {
                D::F64 => "f64",
                _ => "f32",
            };
            let n = extent;
            let source = format!(
                "graph recurrent(h: {ty}[B, {n}], param w: {ty}[{n}, {n}]) -> (y: {ty}[B, {n}]) {{
  %f = scan body over 9 carry (h0: {ty}[B, {n}] = h) with (k: {ty}[{n}, {n}] = w) -> ({ty}[B, {n}])
  {{
    %p = contract h0, k axes=[1:0]
    %t = tanh %p
    next h1 = %t
  }}
  return y = %f
}}"
            );
            fuse_ir::parse(&source).expect("parses")
        };
        assert_eq!(narrowed(&recurrent(D::F32, "64")).1, [1]);
        assert_eq!(narrowed(&recurrent(D::F64, "64")).1, Vec::<usize>::new());
        assert_eq!(narrowed(&recurrent(D::F32, "16")).1, Vec::<usize>::new(), "too short");
        assert_eq!(narrowed(&recurrent(D::F32, "N")).1, Vec::<usize>::new(), "of unknown size");
        assert_eq!(narrowed(&product(D::F32, 64).expect("traces")).1, Vec::<usize>::new(), "in no loop");
    }
}
