//! What building kernels takes, fused or not: elements without duplicates, and names.

use std::rc::Rc;

use fuse_ir::expr::Atom;
use fuse_ir::kernel::{
    Buffer, BufferId, Coordinate, Element, ElementId, Kernel, KernelGraph, Store, TypedElement,
};
use fuse_ir::ops::ScalarOp;
use fuse_ir::{Axis, DType, Dim, Expr, Literal, ReduceOp};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::ranges::is_nonnegative_at_points;

/// How far back an equal element is looked for; a bound on the time that huge kernels take.
const SHARING_WINDOW: usize = 512;

/// A kernel under construction.
pub struct KernelBuilder {
    rank: usize,
    /// The extents of all axes so far.
    pub extents: Vec<Dim>,
    elements: Vec<TypedElement>,
    stores: Vec<Store>,
}

impl KernelBuilder {
    /// A kernel over a space.
    pub fn new(space: Vec<Dim>) -> Self {
        KernelBuilder { rank: space.len(), extents: space, elements: Vec::new(), stores: Vec::new() }
    }

    /// A new axis, for a reduction to bind.
    pub fn bind(&mut self, extent: Dim) -> Axis {
        self.extents.push(extent);
        Axis((self.extents.len() - 1) as u32)
    }

    /// Adds an element, or finds an equal one.
    pub fn add(&mut self, element: Element, dtype: DType) -> ElementId {
        let typed = TypedElement { element, dtype };
        let from = self.elements.len().saturating_sub(SHARING_WINDOW);
        if let Some(at) = self.elements[from..].iter().position(|e| *e == typed) {
            return ElementId::from(from + at);
        }
        self.elements.push(typed);
        ElementId::from(self.elements.len() - 1)
    }

    /// Adds an elementwise op.
    pub fn scalar(&mut self, op: ScalarOp, operands: &[ElementId], dtype: DType) -> ElementId {
        self.add(Element::Scalar(op, SmallVec::from_slice(operands)), dtype)
    }

    /// Adds a constant.
    pub fn constant(&mut self, value: Literal) -> ElementId {
        self.add(Element::Constant(value), value.dtype())
    }

    /// Adds an index expression.
    pub fn index(&mut self, value: Expr, dtype: DType) -> ElementId {
        let value = value.simplify(&self.extents);
        self.add(Element::Index(value), dtype)
    }

    /// Adds a conversion where one is needed.
    pub fn cast(&mut self, value: ElementId, dtype: DType) -> ElementId {
        if self.elements[value.index()].dtype == dtype {
            value
        } else {
            self.add(Element::Cast(value), dtype)
        }
    }

    /// Adds a load of a buffer with these extents.
    pub fn load(
        &mut self,
        buffer: BufferId,
        index: Vec<Coordinate>,
        shape: &[Dim],
        dtype: DType,
    ) -> ElementId {
        let index = index.into_iter().zip(shape).map(|(coordinate, extent)| match coordinate {
            Coordinate::Static(e) => Coordinate::Static(self.in_range(e, extent)),
            Coordinate::Dynamic(e) => Coordinate::Dynamic(e),
        });
        let index = index.collect();
        self.add(Element::Load { buffer, index }, dtype)
    }

    /// A coordinate that was clamped into an empty axis of one view can leave the next view's source: position
    /// 0 of nothing, reversed, is -1. Nothing uses what is read there, but it must be readable, so coordinates
    /// with clamps in them are clamped again where they arrive. So is the last position of an axis, which needs no
    /// axis of the kernel: it is read outside of the loop that knows that there is one.
    fn in_range(&self, e: Expr, extent: &Dim) -> Expr {
        let mut clamps = false;
        e.visit_atoms(&mut |atom| clamps |= matches!(atom, Atom::Min(..) | Atom::Max(..)));
        // Of other symbols, the counters of loops, whoever reads knows more.
        let fixed = e.axes().is_empty() && e.symbols().is_subset(&extent.symbols());
        if !clamps && fixed && !is_nonnegative_at_points(&e, &self.extents[..self.rank]) {
            return e.maximum(&Expr::constant(0));
        }
        if !clamps || is_clamp(&e, extent) {
            return e;
        }
        clamped(e, extent).simplify(&self.extents)
    }

    /// Adds a reduction.
    pub fn reduce(&mut self, op: ReduceOp, axes: &[Axis], body: ElementId) -> ElementId {
        let dtype = if op.is_arg() { DType::I64 } else { self.elements[body.index()].dtype };
        self.add(Element::Reduce { op, axes: SmallVec::from_slice(axes), body }, dtype)
    }

    /// Adds a store.
    pub fn store(&mut self, store: Store) {
        if !self.stores.contains(&store) {
            self.stores.push(store);
        }
    }

    /// The kernel.
    pub fn finish(self, name: String) -> Kernel {
        let ops = fused_ops(&self.elements);
        Kernel {
            name,
            rank: self.rank,
            extents: self.extents,
            elements: self.elements,
            stores: self.stores,
            ops,
        }
    }
}

/// A coordinate moved into an axis of extent `n`; 0 where the axis is empty.
pub fn clamped(coordinate: Expr, n: &Dim) -> Expr {
    coordinate.minimum(&(n.clone() - Expr::constant(1))).maximum(&Expr::constant(0))
}

/// Whether an expression is `max(0, min(…, n - 1))`.
fn is_clamp(e: &Expr, n: &Dim) -> bool {
    let last = n.clone() - Expr::constant(1);
    let single = |e: &Expr| match (e.terms().next(), e.terms().count()) {
        (Some(([atom], 1)), 1) => Some(atom.clone()),
        _ => None,
    };
    let Some(Atom::Max(a, b)) = single(e) else { return false };
    let inner = if a.is_zero() { b } else { a };
    matches!(single(&inner), Some(Atom::Min(x, y)) if *x == last || *y == last)
}

/// The names of what elements compute, in order; a sum of products is a contraction.
fn fused_ops(elements: &[TypedElement]) -> Vec<String> {
    let mut contracted: FxHashSet<ElementId> = FxHashSet::default();
    let product = |e: ElementId| matches!(elements[e.index()].element, Element::Scalar(ScalarOp::Mul, _));
    for typed in elements {
        if let Element::Reduce { op: ReduceOp::Sum, body, .. } = &typed.element
            && product(*body)
        {
            contracted.insert(*body);
        }
    }
    let mut names = Vec::new();
    for (i, typed) in elements.iter().enumerate() {
        match &typed.element {
            Element::Scalar(..) if contracted.contains(&ElementId::from(i)) => {}
            Element::Scalar(op, _) => names.push(op.mnemonic().to_string()),
            Element::Cast(_) => names.push("cast".to_string()),
            Element::Reduce { body, .. } if contracted.contains(body) => names.push("contract".to_string()),
            Element::Reduce { op, .. } => names.push(op.mnemonic().to_string()),
            Element::Load { index, .. } => {
                let dynamic = |c: &Coordinate| match c {
                    Coordinate::Dynamic(_) => true,
                    Coordinate::Static(_) => false,
                };
                if index.iter().any(dynamic) {
                    names.push("gather".to_string());
                }
            }
            Element::Recurrence { .. } => names.push("recurrence".to_string()),
            Element::Constant(_) | Element::Index(_) => {}
        }
    }
    if names.is_empty() {
        names.push("copy".to_string());
    }
    names
}

/// Names that were given, so that each is given once.
#[derive(Default)]
pub struct Names {
    /// Each with the number to try next where it is asked for again.
    taken: FxHashMap<String, usize>,
    /// Names that others gave.
    others: Option<Rc<Names>>,
}

impl Names {
    /// Those of buffers.
    pub fn of_buffers(buffers: &[Buffer]) -> Self {
        let mut names = Names::default();
        buffers.iter().for_each(|buffer| drop(names.unique(&buffer.name)));
        names
    }

    /// Those of a program's kernels.
    pub fn of_kernels(program: &KernelGraph) -> Self {
        let mut names = Names::default();
        program.kernels().iter().for_each(|(kernel, _)| drop(names.unique(&kernel.name)));
        names
    }

    /// No names beside those taken already.
    pub fn beside(others: Rc<Names>) -> Self {
        Names { others: Some(others), ..Names::default() }
    }

    /// The number that comes next after a name, if that was given before.
    fn next(&self, name: &str) -> Option<usize> {
        let others = || self.others.as_ref().and_then(|others| others.next(name));
        self.taken.get(name).copied().or_else(others)
    }

    /// `name`, with a number if it was given before.
    pub fn unique(&mut self, name: &str) -> String {
        let Some(mut number) = self.next(name) else {
            self.taken.insert(name.to_string(), 1);
            return name.to_string();
        };
        let mut candidate = format!("{name}_{number}");
        while self.next(&candidate).is_some() {
            number += 1;
            candidate = format!("{name}_{number}");
        }
        self.taken.insert(name.to_string(), number + 1);
        self.taken.insert(candidate.clone(), 1);
        candidate
    }
}

/// A text as an identifier.
pub fn identifier(text: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = text.chars().map(letter).collect();
    match name.chars().next() {
        Some(c) if !c.is_ascii_digit() => name,
        _ => format!("g{name}"),
    }
}
