//! Invariants within one kernel.

use std::collections::BTreeSet;

use crate::dtype::DType;
use crate::expr::{Axis, Expr};
use crate::infer::infer;
use crate::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, ElementId, Kernel, Recurrence, Store, TypedElement,
};
use crate::ops::{Op, ReduceOp, ScalarOp};
use crate::text::is_identifier;
use crate::types::TensorType;

use super::excerpt::{Place, located};
use super::{Checked, KernelVerifyCause, Located, Walk};

/// The axes on which each element depends, by position, and the axes bound so far.
#[derive(Default)]
struct Axes {
    free: Vec<BTreeSet<Axis>>,
    bound: BTreeSet<Axis>,
}

impl<'g> Walk<'g> {
    pub(super) fn kernel(&mut self, kernel: &'g Kernel, path: &str) -> Located {
        let graph = self.graph;
        let here = |place: Place| move |cause| located(graph, kernel, path, place, cause);
        self.head(kernel).map_err(here(Place::Head))?;
        let mut axes = Axes::default();
        for (i, typed) in kernel.elements.iter().enumerate() {
            let id = ElementId::from(i);
            self.element(kernel, typed, id, &mut axes).map_err(here(Place::Element(id)))?;
        }
        let unbound =
            (kernel.rank..kernel.extents.len()).map(|i| Axis(i as u32)).find(|a| !axes.bound.contains(a));
        if let Some(axis) = unbound {
            let problem = "is past the space, and no reduction binds it";
            return Err(here(Place::Head)(KernelVerifyCause::Binding { axis, problem }.into()));
        }
        let loaded = kernel.loads();
        for (i, store) in kernel.stores.iter().enumerate() {
            self.store(kernel, store, &axes, &loaded).map_err(here(Place::Store(i)))?;
            let target = graph.buffer(store.buffer);
            let same = |earlier: &Store| earlier.buffer == store.buffer && earlier.index == store.index;
            let again = kernel.stores[..i].iter().any(same);
            if again && matches!(target.kind, BufferKind::Output(_)) {
                let cause = KernelVerifyCause::OutputStoredTwice(target.name.clone());
                return Err(here(Place::Store(i))(cause.into()));
            }
        }
        for store in &kernel.stores {
            self.written.insert(store.buffer);
            self.stored.insert(store.buffer);
        }
        Ok(())
    }

    fn head(&mut self, kernel: &'g Kernel) -> Checked {
        if !is_identifier(&kernel.name) {
            return Err(KernelVerifyCause::Name { what: "a kernel", name: kernel.name.clone() }.into());
        }
        if !self.kernel_names.insert(&kernel.name) {
            return Err(KernelVerifyCause::Duplicate(format!("the kernel name `{}`", kernel.name)).into());
        }
        let count = kernel.extents.len();
        if kernel.rank > count {
            return Err(KernelVerifyCause::Rank { rank: kernel.rank, count }.into());
        }
        if kernel.stores.is_empty() {
            return Err(KernelVerifyCause::NoStores.into());
        }
        kernel.extents.iter().try_for_each(|extent| self.dimension(extent))
    }

    /// Checks an element whose operands are checked, and notes the axes it depends on.
    fn element(&self, kernel: &Kernel, typed: &TypedElement, id: ElementId, axes: &mut Axes) -> Checked {
        let mut free = BTreeSet::new();
        for operand in typed.element.operands() {
            if operand.index() >= kernel.elements.len() {
                return Err(KernelVerifyCause::NoElement(operand).into());
            }
            if operand >= id {
                return Err(KernelVerifyCause::Order(operand).into());
            }
            free.extend(axes.free[operand.index()].iter().copied());
        }
        match &typed.element {
            Element::Load { buffer, index } => {
                let source = self.buffer(*buffer)?;
                if !self.written.contains(buffer) {
                    return Err(KernelVerifyCause::ReadBeforeWrite(source.name.clone()).into());
                }
                coordinates(source, index.len())?;
                for coordinate in index {
                    match coordinate {
                        Coordinate::Static(e) => free.extend(self.index_axes(kernel, e)?),
                        Coordinate::Dynamic(e) => dynamic(*e, kernel.element(*e).dtype)?,
                    }
                }
                expect_dtype("the load", typed.dtype, source.ty.dtype)?;
            }
            Element::Constant(value) => expect_dtype("the constant", typed.dtype, value.dtype())?,
            Element::Index(e) => free.extend(self.index_axes(kernel, e)?),
            Element::Scalar(op, operands) => scalar(kernel, *op, operands, typed.dtype)?,
            Element::Cast(_) => {}
            Element::Reduce { op, axes: bound, body } => {
                reduce(*op, bound.len(), kernel.element(*body).dtype, typed.dtype)?;
                for axis in bound {
                    bind(kernel, *axis, axes)?;
                    free.remove(axis);
                }
            }
            Element::Recurrence { state, .. } => {
                recurrence(kernel, state, typed.dtype, axes)?;
                free.insert(state.axis);
            }
        }
        axes.free.push(free);
        Ok(())
    }

    /// The axes of an index expression, which are axes of the kernel.
    fn index_axes(&self, kernel: &Kernel, e: &Expr) -> Result<BTreeSet<Axis>, Box<KernelVerifyCause>> {
        self.symbols(e)?;
        let axes = e.axes();
        let count = kernel.extents.len();
        match axes.iter().find(|a| a.index() >= count) {
            Some(axis) => Err(KernelVerifyCause::NoAxis { axis: *axis, count }.into()),
            None => Ok(axes),
        }
    }

    fn store(&self, kernel: &Kernel, store: &Store, axes: &Axes, loaded: &BTreeSet<BufferId>) -> Checked {
        let target = self.buffer(store.buffer)?;
        let name = || target.name.clone();
        if matches!(target.kind, BufferKind::Input(_)) {
            return Err(KernelVerifyCause::StoresInput(name()).into());
        }
        if self.current.contains(&store.buffer) {
            return Err(KernelVerifyCause::StoresCurrent(name()).into());
        }
        if loaded.contains(&store.buffer) {
            return Err(KernelVerifyCause::LoadsItsStore(name()).into());
        }
        let Some(value) = kernel.elements.get(store.value.index()) else {
            return Err(KernelVerifyCause::NoElement(store.value).into());
        };
        expect_dtype("the stored value", value.dtype, target.ty.dtype)?;
        coordinates(target, store.index.len())?;
        let mut used = BTreeSet::new();
        for e in &store.index {
            used.extend(self.index_axes(kernel, e)?);
        }
        let outside = |free: &BTreeSet<Axis>| free.iter().copied().find(|a| a.index() >= kernel.rank);
        if let Some(axis) = outside(&used) {
            return Err(KernelVerifyCause::FreeAxis { what: "the index", axis }.into());
        }
        if let Some(axis) = outside(&axes.free[store.value.index()]) {
            return Err(KernelVerifyCause::FreeAxis { what: "the stored value", axis }.into());
        }
        for (i, extent) in kernel.space().iter().enumerate() {
            let axis = Axis(i as u32);
            let final_state = kernel.is_final(store) && kernel.recurrence_axis() == Some(axis);
            if !used.contains(&axis) && !final_state && extent.as_constant().is_none_or(|n| n > 1) {
                return Err(KernelVerifyCause::Overwrites { axis, extent: extent.clone() }.into());
            }
        }
        Ok(())
    }
}

fn coordinates(buffer: &Buffer, coordinates: usize) -> Checked {
    if coordinates == buffer.ty.rank() {
        return Ok(());
    }
    let (buffer, ty) = (buffer.name.clone(), buffer.ty.clone());
    Err(KernelVerifyCause::Coordinates { buffer, ty, coordinates }.into())
}

fn dynamic(element: ElementId, dtype: DType) -> Checked {
    if dtype.is_int() {
        return Ok(());
    }
    let (what, expected) = (format!("coordinate {element}"), "an integer type".into());
    Err(KernelVerifyCause::DType { what, got: dtype, expected }.into())
}

fn expect_dtype(what: &str, got: DType, expected: DType) -> Checked {
    if got == expected {
        return Ok(());
    }
    Err(KernelVerifyCause::DType { what: what.into(), got, expected: expected.to_string() }.into())
}

/// The rules of a graph's elementwise ops, applied to scalars.
fn scalar(kernel: &Kernel, op: ScalarOp, operands: &[ElementId], dtype: DType) -> Checked {
    let types: Vec<TensorType> =
        operands.iter().map(|e| TensorType::scalar(kernel.element(*e).dtype)).collect();
    let results =
        infer(&Op::Scalar(op), &types.iter().collect::<Vec<_>>()).map_err(KernelVerifyCause::from)?;
    results.iter().try_for_each(|ty| expect_dtype(op.mnemonic(), dtype, ty.dtype))
}

fn reduce(op: ReduceOp, axes: usize, body: DType, dtype: DType) -> Checked {
    // The rules of a graph's reductions, applied to a tensor whose axes are those bound here.
    let ty = TensorType::new(body, vec![Expr::constant(1); axes]);
    let op = Op::Reduce { op, axes: (0..axes).collect() };
    let results = infer(&op, &[&ty]).map_err(KernelVerifyCause::from)?;
    results.iter().try_for_each(|ty| expect_dtype(op.mnemonic(), dtype, ty.dtype))
}

/// Invariant 13.
fn recurrence(kernel: &Kernel, state: &Recurrence, dtype: DType, axes: &Axes) -> Checked {
    let axis = state.axis;
    let operands = [("initial state", state.init), ("factor", state.factor), ("term", state.term)];
    for (what, operand) in operands {
        expect_dtype(&format!("the {what} of the recurrence"), kernel.element(operand).dtype, dtype)?;
    }
    let in_space = |e: ElementId| axes.free[e.index()].iter().all(|a| a.index() < kernel.rank);
    let problem = if axis.index() >= kernel.rank {
        "it is no axis of the space"
    } else if kernel.recurrence_axis() != Some(axis) {
        "another recurrence of the kernel runs along another axis"
    } else if dtype == DType::Bool {
        "its type is not numeric"
    } else if axes.free[state.init.index()].contains(&axis) {
        "the initial state depends on it"
    } else if !operands.into_iter().all(|(_, e)| in_space(e)) {
        "an operand depends on an axis that is not of the space"
    } else {
        return Ok(());
    };
    Err(KernelVerifyCause::Recurrence { axis, problem }.into())
}

fn bind(kernel: &Kernel, axis: Axis, axes: &mut Axes) -> Checked {
    let count = kernel.extents.len();
    if axis.index() >= count {
        return Err(KernelVerifyCause::NoAxis { axis, count }.into());
    }
    let problem = if axis.index() < kernel.rank {
        "belongs to the space, and a reduction binds it"
    } else if !axes.bound.insert(axis) {
        "is bound twice"
    } else {
        return Ok(());
    };
    Err(KernelVerifyCause::Binding { axis, problem }.into())
}
