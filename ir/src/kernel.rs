//! The kernel graph: what rewriting hands to code generation.
//!
//! Here the two sorts of DESIGN are explicit. A [`Buffer`] is a tensor in memory; an [`Element`] is a value at
//! one point of an iteration space, that is, in a register. A [`Kernel`] computes elements at every point of
//! its space and stores some of them; everything between its loads and its stores is fused. Time is the
//! symbol of a [`Loop`]: kernels in the loop's body see it like any other runtime integer.
//!
//! # Semantics
//! * Axes `0..space.len()` of a kernel are its space, outermost first; further axes belong to its
//!   reductions, each bound by exactly one [`Element::Reduce`]. `extents[a]` is the extent of axis `a`.
//! * An element has a value for every assignment of its free axes. Where it is computed is the scheduler's
//!   choice: an element that does not depend on an inner axis may be computed once outside that loop.
//! * All stores of a kernel happen at every point of its space, except those of final states (below). A kernel
//!   never loads a buffer it stores.
//! * The [recurrences](Recurrence) of a kernel run along one axis of its space, in order of that axis. Where the
//!   index of a store does not depend on that axis and its value is an inclusive recurrence, the store happens
//!   once, after the last point of the axis, and writes the final state; where the axis has no points,
//!   that is the initial state.
//! * A load whose index is outside its buffer must not happen. Views of padded or joined tensors clamp their
//!   indices instead; so that a clamp to an empty tensor stays harmless, **every buffer has at least
//!   one readable element**, whatever its shape, and a clamped index is at least 0.
//! * A [`Loop`] runs its body once a step with its symbol set to the position; before the first step each
//!   carry's `current` buffer holds the initial state, after each step `current` and `next` trade places, so
//!   after the loop `current` holds the final state (with no steps: the initial one). A later loop may carry the same
//!   state on from there.

use std::fmt;

use smallvec::SmallVec;

use crate::dtype::{DType, Literal};
use crate::expr::{Axis, Dim, Expr, Symbol};
use crate::graph::index_type;
use crate::ops::{Direction, ReduceOp, ScalarOp};
use crate::types::TensorType;

index_type!(
    /// A tensor in memory.
    BufferId, "b"
);
index_type!(
    /// An element expression of a kernel.
    ElementId, "e"
);

/// What a buffer is for, which decides who provides its memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BufferKind {
    /// The graph input of that position (inputs and parameters alike); provided by the caller, never written.
    Input(usize),
    /// The graph output of that position; each of its elements is written by one kernel.
    Output(usize),
    /// An intermediate tensor; lives in the arena between its first store and its last load.
    Temporary,
    /// One of the two halves of a carried state; lives as long as its loops.
    State,
}

/// A tensor in memory, contiguous and row-major.
#[derive(Clone, PartialEq, Debug)]
pub struct Buffer {
    /// A name for people; unique in the graph.
    pub name: String,
    /// Element type and extents.
    pub ty: TensorType,
    /// What it is for.
    pub kind: BufferKind,
}

/// One coordinate of a load.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Coordinate {
    /// An expression over axes and symbols.
    Static(Expr),
    /// An integer element (i32, i64 or u8), clamped to the buffer's extent along this axis.
    Dynamic(ElementId),
}

impl Coordinate {
    /// The expression, if it is one.
    pub fn as_static(&self) -> Option<&Expr> {
        match self {
            Coordinate::Static(e) => Some(e),
            Coordinate::Dynamic(_) => None,
        }
    }
}

/// A first-order linear recurrence along an axis of the space: `s(t) = factor(t)·s(t-1) + term(t)` with
/// `s(-1) = init`. Integers wrap. The operands have one numeric type and depend on axes of the space alone,
/// `init` not on `axis`. Equal recurrences of one kernel are one state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Recurrence {
    /// The axis of the space that it runs along, `t`.
    pub axis: Axis,
    /// The state before the first point.
    pub init: ElementId,
    /// What the state is multiplied with.
    pub factor: ElementId,
    /// What is added.
    pub term: ElementId,
}

/// A value at one point of a kernel's space.
#[derive(Clone, PartialEq, Debug)]
pub enum Element {
    /// Reads a buffer.
    Load {
        /// The buffer.
        buffer: BufferId,
        /// One coordinate for each of its axes.
        index: SmallVec<[Coordinate; 4]>,
    },
    /// A constant.
    Constant(Literal),
    /// The value of an index expression, converted to the element's type.
    Index(Expr),
    /// A function of scalars.
    Scalar(ScalarOp, SmallVec<[ElementId; 3]>),
    /// Converts to the element's type, as [`crate::ops::Op::Cast`].
    Cast(ElementId),
    /// Combines `body` over axes that this element binds. The element's type is the body's, or i64 for the arg
    /// reductions (which bind one axis).
    Reduce {
        /// How elements combine.
        op: ReduceOp,
        /// The bound axes, outermost first; all at least `space.len()`.
        axes: SmallVec<[Axis; 2]>,
        /// What is combined.
        body: ElementId,
    },
    /// The state of a recurrence.
    Recurrence {
        /// Which recurrence.
        state: Recurrence,
        /// Whether this is the state before the point, `s(t-1)`, rather than the one after it, `s(t)`.
        exclusive: bool,
    },
}

/// An element with its type.
#[derive(Clone, PartialEq, Debug)]
pub struct TypedElement {
    /// What it computes.
    pub element: Element,
    /// Its type.
    pub dtype: DType,
}

/// Writes an element to a buffer at every point of the space.
#[derive(Clone, PartialEq, Debug)]
pub struct Store {
    /// The buffer; no two stores of a kernel graph outside alternative loop bodies write the same elements.
    pub buffer: BufferId,
    /// One coordinate for each of its axes, over space axes and symbols. No two points of the space store different
    /// values to one element: the index is injective, or overlapping panels compute the same again
    /// (`fuse_rewrite::panel_parameters`). The axis of a recurrence whose final state is stored does not count.
    pub index: SmallVec<[Expr; 4]>,
    /// The value.
    pub value: ElementId,
}

/// Fused computation over one iteration space: one launch.
#[derive(Clone, PartialEq, Debug)]
pub struct Kernel {
    /// An identifier, unique in the graph; names the entry point.
    pub name: String,
    /// The number of leading axes that form the space.
    pub rank: usize,
    /// The extent of every axis, those of the space first, over symbols.
    pub extents: Vec<Dim>,
    /// The element expressions, operands first.
    pub elements: Vec<TypedElement>,
    /// What is written.
    pub stores: Vec<Store>,
    /// Names of the graph ops that were fused, in order of execution, for people.
    pub ops: Vec<String>,
}

impl Kernel {
    /// The extents of the iteration space.
    pub fn space(&self) -> &[Dim] {
        &self.extents[..self.rank]
    }

    /// An element.
    ///
    /// # Panics
    /// If the id is of another kernel.
    pub fn element(&self, id: ElementId) -> &TypedElement {
        &self.elements[id.index()]
    }

    /// The buffers that are loaded, ascending.
    pub fn loads(&self) -> std::collections::BTreeSet<BufferId> {
        self.elements.iter().filter_map(|e| e.element.load()).map(|(buffer, _)| buffer).collect()
    }

    /// The axis that the recurrences run along, if there are any.
    pub fn recurrence_axis(&self) -> Option<Axis> {
        self.elements.iter().find_map(|e| e.element.recurrence()).map(|state| state.axis)
    }

    /// Whether a store writes the final state of a recurrence, once, after the last point of its axis.
    pub fn is_final(&self, store: &Store) -> bool {
        match self.elements.get(store.value.index()).map(|e| &e.element) {
            Some(Element::Recurrence { state, exclusive: false }) => {
                !store.index.iter().any(|e| e.uses_axis(state.axis))
            }
            _ => false,
        }
    }

    /// The runtime integers the kernel depends on, ascending by name.
    pub fn symbols(&self) -> std::collections::BTreeSet<Symbol> {
        let mut out: std::collections::BTreeSet<Symbol> =
            self.extents.iter().flat_map(Expr::symbols).collect();
        for e in &self.elements {
            match &e.element {
                Element::Load { index, .. } => out.extend(index.iter().flat_map(|c| match c {
                    Coordinate::Static(e) => e.symbols(),
                    Coordinate::Dynamic(_) => Default::default(),
                })),
                Element::Index(e) => out.extend(e.symbols()),
                Element::Constant(_)
                | Element::Scalar(..)
                | Element::Cast(_)
                | Element::Reduce { .. }
                | Element::Recurrence { .. } => {}
            }
        }
        out.extend(self.stores.iter().flat_map(|s| s.index.iter().flat_map(Expr::symbols)));
        out
    }
}

impl Element {
    /// The elements this one is computed from.
    pub fn operands(&self) -> SmallVec<[ElementId; 3]> {
        match self {
            Element::Load { index, .. } => index
                .iter()
                .filter_map(|c| match c {
                    Coordinate::Static(_) => None,
                    Coordinate::Dynamic(e) => Some(*e),
                })
                .collect(),
            Element::Constant(_) | Element::Index(_) => SmallVec::new(),
            Element::Scalar(_, operands) => operands.clone(),
            Element::Cast(e) | Element::Reduce { body: e, .. } => SmallVec::from_slice(&[*e]),
            Element::Recurrence { state, .. } => {
                SmallVec::from_slice(&[state.init, state.factor, state.term])
            }
        }
    }

    /// The same element computed from other elements.
    pub fn map_operands(&self, to: impl Fn(ElementId) -> ElementId) -> Element {
        match self {
            Element::Load { buffer, index } => {
                let coordinate = |c: &Coordinate| match c {
                    Coordinate::Static(e) => Coordinate::Static(e.clone()),
                    Coordinate::Dynamic(e) => Coordinate::Dynamic(to(*e)),
                };
                Element::Load { buffer: *buffer, index: index.iter().map(coordinate).collect() }
            }
            Element::Constant(_) | Element::Index(_) => self.clone(),
            Element::Scalar(op, operands) => Element::Scalar(*op, operands.iter().map(|e| to(*e)).collect()),
            Element::Cast(e) => Element::Cast(to(*e)),
            Element::Reduce { op, axes, body } => {
                Element::Reduce { op: *op, axes: axes.clone(), body: to(*body) }
            }
            Element::Recurrence { state, exclusive } => {
                let Recurrence { axis, init, factor, term } = *state;
                let state = Recurrence { axis, init: to(init), factor: to(factor), term: to(term) };
                Element::Recurrence { state, exclusive: *exclusive }
            }
        }
    }

    /// What is loaded, and where, if that is what it is.
    pub fn load(&self) -> Option<(BufferId, &[Coordinate])> {
        match self {
            Element::Load { buffer, index } => Some((*buffer, index)),
            Element::Constant(_)
            | Element::Index(_)
            | Element::Scalar(..)
            | Element::Cast(_)
            | Element::Reduce { .. }
            | Element::Recurrence { .. } => None,
        }
    }

    /// The recurrence whose state this is.
    pub fn recurrence(&self) -> Option<Recurrence> {
        match self {
            Element::Recurrence { state, .. } => Some(*state),
            Element::Load { .. }
            | Element::Constant(_)
            | Element::Index(_)
            | Element::Scalar(..)
            | Element::Cast(_)
            | Element::Reduce { .. } => None,
        }
    }
}

/// A state that a loop carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carry {
    /// Read by the body; holds the initial state before and the final state after the loop.
    pub current: BufferId,
    /// Written by the body.
    pub next: BufferId,
}

/// A sequential loop over time.
#[derive(Clone, PartialEq, Debug)]
pub struct Loop {
    /// The symbol that holds the position; unique in the graph.
    pub counter: Symbol,
    /// The number of steps.
    pub trip: Dim,
    /// Whether positions ascend or descend.
    pub direction: Direction,
    /// The carried states.
    pub carries: Vec<Carry>,
    /// What one step runs, in order.
    pub body: Vec<Step>,
}

/// A part of the program.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Launches a kernel.
    Kernel(Kernel),
    /// Repeats steps.
    Loop(Loop),
}

impl Step {
    /// The kernels of a step, in order of execution.
    pub fn kernels(&self) -> Vec<&Kernel> {
        match self {
            Step::Kernel(kernel) => vec![kernel],
            Step::Loop(l) => l.body.iter().flat_map(Step::kernels).collect(),
        }
    }
}

/// A whole program: buffers, and steps in order of execution.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelGraph {
    /// The name of the graph it was made from.
    pub name: String,
    /// The tensors in memory.
    pub buffers: Vec<Buffer>,
    /// What runs, in order.
    pub steps: Vec<Step>,
}

impl KernelGraph {
    /// A buffer.
    ///
    /// # Panics
    /// If the id is of another kernel graph.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.index()]
    }

    /// All kernels in order of execution, with the number of loops around each.
    pub fn kernels(&self) -> Vec<(&Kernel, usize)> {
        fn collect<'a>(steps: &'a [Step], depth: usize, out: &mut Vec<(&'a Kernel, usize)>) {
            for step in steps {
                match step {
                    Step::Kernel(kernel) => out.push((kernel, depth)),
                    Step::Loop(l) => collect(&l.body, depth + 1, out),
                }
            }
        }
        let mut out = Vec::new();
        collect(&self.steps, 0, &mut out);
        out
    }

    /// The number of kernel launches of one run, as an expression of the dimensions.
    pub fn launches(&self) -> Dim {
        fn count(steps: &[Step]) -> Dim {
            steps.iter().fold(Dim::constant(0), |sum, step| {
                sum + match step {
                    Step::Kernel(_) => Dim::constant(1),
                    Step::Loop(l) => l.trip.clone() * count(&l.body),
                }
            })
        }
        count(&self.steps)
    }
}

/// The shape of a buffer with its unit of storage, for plans: bytes as an expression of the dimensions.
pub fn byte_size(ty: &TensorType) -> Dim {
    let elements: Dim = crate::types::element_count(&ty.shape);
    elements * Dim::constant(ty.dtype.size() as i64)
}
