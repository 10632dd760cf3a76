//! The states of recurrences that are taken in strips: a strip goes on where the one before ended.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, Recurrence, Store,
    TypedElement,
};
use fuse_ir::{Axis, DType, Expr, TensorType};
use smallvec::SmallVec;

use crate::kernel_builder::{KernelBuilder, Names};
use crate::kernel_copy::Copier;

/// The state of a recurrence between strips: an element for each point of the space but its first axis.
pub(super) struct State {
    recurrence: Recurrence,
    dtype: DType,
    pub(super) carry: Carry,
}

impl State {
    /// The states of a kernel whose recurrences run along its first axis, with buffers for both halves of each.
    pub(super) fn all(kernel: &Kernel, buffers: &mut Vec<Buffer>, names: &mut Names) -> Vec<State> {
        let mut states: Vec<State> = Vec::new();
        let mut buffer = |name: &str, ty: TensorType| {
            let name = names.unique(&format!("{}_{name}", kernel.name));
            buffers.push(Buffer { name, ty, kind: BufferKind::State });
            BufferId::from(buffers.len() - 1)
        };
        for typed in &kernel.elements {
            let Some(recurrence) = typed.element.recurrence() else { continue };
            if recurrence.axis != Axis(0) || states.iter().any(|s| s.recurrence == recurrence) {
                continue;
            }
            let dtype = typed.dtype;
            let ty = TensorType { dtype, shape: kernel.space()[1..].to_vec() };
            let carry = Carry { current: buffer("state", ty.clone()), next: buffer("next", ty) };
            states.push(State { recurrence, dtype, carry });
        }
        states
    }
}

/// One coordinate for each axis of a state, in a kernel in which these are axes `from` and so on.
fn point(kernel: &Kernel, from: usize) -> Vec<Expr> {
    (from..from + kernel.rank - 1).map(Expr::axis).collect()
}

/// A kernel whose recurrences go on from states, and end in their other halves. What it stored as final states is
/// stored by [`last`].
pub(super) fn resumed(kernel: &Kernel, states: &[State]) -> Kernel {
    let moved = |e: ElementId| ElementId::from(e.index() + states.len());
    let load = |state: &State| TypedElement {
        element: Element::Load {
            buffer: state.carry.current,
            index: point(kernel, 1).into_iter().map(Coordinate::Static).collect(),
        },
        dtype: state.dtype,
    };
    let resume = |recurrence: Recurrence| {
        let Recurrence { axis, init, factor, term } = recurrence;
        let state = states.iter().position(|s| s.recurrence == recurrence);
        let init = state.map_or(moved(init), ElementId::from);
        Recurrence { axis, init, factor: moved(factor), term: moved(term) }
    };
    let mut elements: Vec<TypedElement> = states.iter().map(load).collect();
    elements.extend(kernel.elements.iter().map(|typed| {
        let element = match &typed.element {
            Element::Recurrence { state, exclusive } => {
                Element::Recurrence { state: resume(*state), exclusive: *exclusive }
            }
            other => other.map_operands(moved),
        };
        TypedElement { element, dtype: typed.dtype }
    }));
    let mut stores: Vec<Store> = kernel.stores.iter().filter(|s| !kernel.is_final(s)).cloned().collect();
    stores.iter_mut().for_each(|s| s.value = moved(s.value));
    for state in states {
        let element = Element::Recurrence { state: resume(state.recurrence), exclusive: false };
        elements.push(TypedElement { element, dtype: state.dtype });
        let value = ElementId::from(elements.len() - 1);
        stores.push(Store { buffer: state.carry.next, index: point(kernel, 1).into(), value });
    }
    Kernel { elements, stores, ..kernel.clone() }
}

/// The kernel that computes the states before the first strip, if there are any; `None` outside where it cannot be made.
pub(super) fn init(
    buffers: &[Buffer],
    kernel: &Kernel,
    states: &[State],
    names: &mut Names,
) -> Option<Option<Kernel>> {
    if states.is_empty() {
        return Some(None);
    }
    // An initial state does not depend on the axis of the recurrence.
    let at: Vec<Expr> = [Expr::constant(0)].into_iter().chain(point(kernel, 0)).collect();
    let store = |s: &State| Store {
        buffer: s.carry.current,
        index: point(kernel, 0).into(),
        value: s.recurrence.init,
    };
    let stores: Vec<Store> = states.iter().map(store).collect();
    let (inlined, symbols, used) = (HashMap::new(), HashMap::new(), BTreeSet::new());
    let mut copier = Copier { buffers, inlined: &inlined, symbols, used };
    let mut builder = KernelBuilder::new(kernel.space()[1..].to_vec());
    copier.kernel_at(&mut builder, kernel, &at, &stores)?;
    Some(Some(builder.finish(names.unique(&format!("{}_init", kernel.name)))))
}

/// The kernel that stores the final states after the last strip, if that is to be done; `None` outside as with [`init`].
pub(super) fn last(
    buffers: &[Buffer],
    kernel: &Kernel,
    states: &[State],
    names: &mut Names,
) -> Option<Option<Kernel>> {
    let mut builder = KernelBuilder::new(kernel.space()[1..].to_vec());
    let at: Vec<Expr> = [Expr::constant(0)].into_iter().chain(point(kernel, 0)).collect();
    let mut stores = kernel.stores.iter().filter(|s| kernel.is_final(s)).peekable();
    if states.is_empty() || stores.peek().is_none() {
        return Some(None);
    }
    for store in stores {
        let recurrence = kernel.element(store.value).element.recurrence();
        let state = states.iter().find(|s| Some(s.recurrence) == recurrence)?;
        let shape = &buffers[state.carry.current.index()].ty.shape;
        let index = point(kernel, 0).into_iter().map(Coordinate::Static).collect();
        let value = builder.load(state.carry.current, index, shape, state.dtype);
        let index: SmallVec<[Expr; 4]> = store.index.iter().map(|e| e.substitute_axes(&at)).collect();
        builder.store(Store { buffer: store.buffer, index, value });
    }
    Some(Some(builder.finish(names.unique(&format!("{}_final", kernel.name)))))
}
