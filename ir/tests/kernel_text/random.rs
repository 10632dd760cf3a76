//! Random kernel graphs, from a seed alone. Their ids are in range and their axes have extents; the other
//! invariants of kernel graphs they need not keep, because the text form does not depend on them.

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop,
    Recurrence, Step, Store, TypedElement,
};
use fuse_ir::limits::dim_problem;
use fuse_ir::ops::Direction;
use fuse_ir::{Axis, DType, Expr, Literal, ReduceOp, ScalarOp, Symbol, TensorType};

/// The generator splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn choose<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn many<T>(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| item(self)).collect()
    }
}

const SYMBOLS: &[&str] = &[
    "T", "B", "%t", "%0", "i0", "i12", "i", "x.y", "a b", "%", "mod", "reverse", "carry", "-", "\"\\\n", "é",
    "0x1",
];
const NAMES: &[&str] =
    &["x", "h.next", "a b", "store", "load", "i0", "e0", "%1", "1", "\t\u{7f}", "\"", "kernel", "fuses"];

fn expr(r: &mut Random, axes: usize, depth: usize) -> Expr {
    let leaf = |r: &mut Random| match r.below(4) {
        0 if axes > 0 => Expr::axis(r.below(axes)),
        1 => Expr::constant(r.below(17) as i64 - 8),
        2 => Expr::constant(r.choose(&[1 << 20, -(1 << 20), 1023, 0])),
        _ => Expr::symbol(r.choose(SYMBOLS)),
    };
    if depth == 0 {
        return leaf(r);
    }
    let a = expr(r, axes, depth - 1);
    let b = if r.below(2) == 0 { leaf(r) } else { expr(r, axes, depth - 1) };
    match r.below(8) {
        0 => a + b,
        1 => a - b,
        2 => a * leaf(r),
        3 => a.floor_div(&b),
        4 => a.modulo(&b),
        5 => a.minimum(&b),
        6 => a.maximum(&b),
        _ => -a,
    }
}

fn index(r: &mut Random, axes: usize) -> Expr {
    let depth = r.below(4);
    let e = expr(r, axes, depth);
    // Beyond the bounds, a text may be refused.
    if dim_problem(&e).is_some() { Expr::symbol("T") } else { e }
}

/// A dimension; constants are clamped, for negative ones are none.
fn dim(r: &mut Random) -> Expr {
    let dim = index(r, 0);
    match dim.as_constant() {
        Some(c) => Expr::constant(c.max(0)),
        None => dim,
    }
}

fn dtype(r: &mut Random) -> DType {
    r.choose(&DType::ALL)
}

fn buffer(r: &mut Random, position: usize) -> Buffer {
    let name = format!("{}{position}", r.choose(NAMES));
    let kind = match r.below(4) {
        0 => BufferKind::Input(r.below(100)),
        1 => BufferKind::Output(r.below(100)),
        2 => BufferKind::Temporary,
        _ => BufferKind::State,
    };
    // Two terms an extent and four axes stay within the bound on the size of a type.
    let extent = |r: &mut Random| {
        let dim = dim(r);
        if dim.terms().count() > 2 { Expr::symbol("T") } else { dim }
    };
    Buffer { name, ty: TensorType { dtype: dtype(r), shape: r.many(4, extent) }, kind }
}

struct Draft {
    buffers: usize,
    extents: Vec<Expr>,
    elements: Vec<TypedElement>,
}

impl Draft {
    fn buffer(&self, r: &mut Random) -> BufferId {
        BufferId::from(r.below(self.buffers))
    }

    fn operand(&self, r: &mut Random) -> ElementId {
        ElementId::from(r.below(self.elements.len()))
    }

    fn coordinate(&self, r: &mut Random) -> Coordinate {
        if !self.elements.is_empty() && r.below(4) == 0 {
            Coordinate::Dynamic(self.operand(r))
        } else {
            Coordinate::Static(index(r, self.extents.len()))
        }
    }

    fn element(&mut self, r: &mut Random) -> Element {
        let kinds = if self.elements.is_empty() { 3 } else { 7 };
        match r.below(kinds) {
            0 => Element::Index(index(r, self.extents.len())),
            1 if self.buffers > 0 => {
                let buffer = self.buffer(r);
                let index = r.many(3, |r| self.coordinate(r)).into_iter().collect();
                Element::Load { buffer, index }
            }
            1 | 2 => {
                let dtype = dtype(r);
                Element::Constant(Literal::from_bits(dtype, r.bits() >> r.below(64)))
            }
            3 => {
                let op = r.choose(ScalarOp::ALL);
                Element::Scalar(op, (0..op.arity()).map(|_| self.operand(r)).collect())
            }
            4 => Element::Cast(self.operand(r)),
            5 => {
                let [init, factor, term] = [(); 3].map(|()| self.operand(r));
                let axis = Axis(r.below(self.extents.len().max(1)) as u32);
                if self.extents.is_empty() {
                    return Element::Cast(init);
                }
                let state = Recurrence { axis, init, factor, term };
                Element::Recurrence { state, exclusive: r.below(2) == 0 }
            }
            _ => {
                let body = self.operand(r);
                let first = self.extents.len();
                self.extents.extend(r.many(2, dim));
                let axes = (first..self.extents.len()).map(|a| Axis(a as u32)).collect();
                Element::Reduce { op: r.choose(&ReduceOp::ALL), axes, body }
            }
        }
    }
}

fn kernel(r: &mut Random, buffers: usize) -> Kernel {
    let mut draft = Draft { buffers, extents: r.many(3, dim), elements: Vec::new() };
    let rank = draft.extents.len();
    for _ in 0..r.below(12) {
        let element = draft.element(r);
        let dtype = match &element {
            Element::Constant(value) => value.dtype(),
            _ => dtype(r),
        };
        draft.elements.push(TypedElement { element, dtype });
    }
    let store = |r: &mut Random| Store {
        buffer: draft.buffer(r),
        index: r.many(3, |r| index(r, draft.extents.len())).into_iter().collect(),
        value: draft.operand(r),
    };
    let stores = if buffers > 0 && !draft.elements.is_empty() { r.many(3, store) } else { Vec::new() };
    let name = r.choose(NAMES).to_owned();
    let ops = r.many(3, |r| r.choose(NAMES).to_owned());
    Kernel { name, rank, extents: draft.extents, elements: draft.elements, stores, ops }
}

fn steps(r: &mut Random, buffers: usize, depth: usize) -> Vec<Step> {
    r.many(3, |r| {
        if depth == 0 || r.below(3) > 0 {
            return Step::Kernel(kernel(r, buffers));
        }
        let carry = |r: &mut Random| Carry {
            current: BufferId::from(r.below(buffers)),
            next: BufferId::from(r.below(buffers)),
        };
        Step::Loop(Loop {
            counter: Symbol::new(r.choose(SYMBOLS)),
            trip: dim(r),
            direction: r.choose(&[Direction::Forward, Direction::Reverse]),
            carries: if buffers > 0 { r.many(2, carry) } else { Vec::new() },
            body: steps(r, buffers, depth - 1),
        })
    })
}

/// The kernel graph of that seed.
pub fn kernel_graph(seed: u64) -> KernelGraph {
    let r = &mut Random::new(seed);
    let count = r.below(6);
    let buffers: Vec<Buffer> = (0..count).map(|i| buffer(r, i)).collect();
    let name = r.choose(NAMES).to_owned();
    let steps = steps(r, buffers.len(), 3);
    KernelGraph { name, buffers, steps }
}
