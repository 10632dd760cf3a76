//! Elements of one kernel in another: at other coordinates, at other values of loop counters, and with the
//! results of a third computed where they are read.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::kernel::{Buffer, BufferId, Coordinate, Element, ElementId, Kernel, Recurrence, Store};
use fuse_ir::{Axis, DType, Expr};
use smallvec::SmallVec;

use crate::kernel_builder::KernelBuilder;

/// What a kernel stores in a buffer, to be computed where it is read.
#[derive(Clone, Copy, Debug)]
pub struct Inlined<'k> {
    kernel: &'k Kernel,
    store: &'k Store,
}

impl<'k> Inlined<'k> {
    /// A store whose value can be found from the coordinates of a load: its index is the axes of the space in some
    /// order.
    pub fn new(kernel: &'k Kernel, store: &'k Store) -> Option<Self> {
        let axes: BTreeSet<Axis> = store.index.iter().map(Expr::as_axis).collect::<Option<_>>()?;
        let each_once = axes.len() == store.index.len() && axes.len() == kernel.rank;
        (each_once && kernel.recurrence_axis().is_none()).then_some(Inlined { kernel, store })
    }

    /// The point of the kernel's space that stores the element at these coordinates.
    fn point(&self, coordinates: &[Expr]) -> Vec<Expr> {
        let mut point = vec![Expr::constant(0); self.kernel.rank];
        for (at, coordinate) in self.store.index.iter().zip(coordinates) {
            if let Some(axis) = at.as_axis() {
                point[axis.index()] = coordinate.clone();
            }
        }
        point
    }
}

/// What becomes of elements that are copied.
pub struct Copier<'g> {
    /// The buffers of the program.
    pub buffers: &'g [Buffer],
    /// What is computed where it would be loaded.
    pub inlined: &'g HashMap<BufferId, Inlined<'g>>,
    /// The values of symbols; those without one keep their names.
    pub symbols: HashMap<Symbol, Expr>,
    /// The names of the kernels whose results were computed.
    pub used: BTreeSet<String>,
}

impl Copier<'_> {
    /// Copies all that a kernel computes and stores. The space of the kernel is that of the builder. `None` where
    /// something cannot be computed where it is read.
    pub fn kernel(&mut self, builder: &mut KernelBuilder, kernel: &Kernel) -> Option<()> {
        let space: Vec<Expr> = (0..kernel.rank).map(Expr::axis).collect();
        let wanted: Vec<ElementId> = kernel.stores.iter().map(|s| s.value).collect();
        let copies = self.elements(builder, kernel, &space, &wanted)?;
        for store in &kernel.stores {
            let index = store.index.iter().map(|e| self.value(builder, e, &space)).collect();
            builder.store(Store { buffer: store.buffer, index, value: copies[store.value.index()]? });
        }
        Some(())
    }

    /// Copies what a kernel computes at a point of its space, and stores it as `stores` say in terms of the builder's
    /// space. `None` where something cannot be computed there.
    pub fn kernel_at(
        &mut self,
        builder: &mut KernelBuilder,
        kernel: &Kernel,
        point: &[Expr],
        stores: &[Store],
    ) -> Option<()> {
        let wanted: Vec<ElementId> = stores.iter().map(|s| s.value).collect();
        let copies = self.elements(builder, kernel, point, &wanted)?;
        for store in stores {
            builder.store(Store { value: copies[store.value.index()]?, ..store.clone() });
        }
        Some(())
    }

    /// Copies some elements of a kernel, and what they are computed from, at a point of its space.
    fn elements(
        &mut self,
        builder: &mut KernelBuilder,
        kernel: &Kernel,
        space: &[Expr],
        wanted: &[ElementId],
    ) -> Option<Vec<Option<ElementId>>> {
        let needed = needed(kernel, wanted);
        let mut axes = space.to_vec();
        axes.resize(kernel.extents.len(), Expr::constant(0));
        for typed in needed.iter().map(|i| &kernel.elements[*i]) {
            let Element::Reduce { axes: bound, .. } = &typed.element else { continue };
            for axis in bound {
                let extent = self.value(builder, &kernel.extents[axis.index()], &[]);
                axes[axis.index()] = Expr::axis(builder.bind(extent).index());
            }
        }
        let mut copies: Vec<Option<ElementId>> = vec![None; kernel.elements.len()];
        for i in needed {
            let typed = &kernel.elements[i];
            copies[i] = Some(self.element(builder, (&typed.element, typed.dtype), &axes, &copies)?);
        }
        Some(copies)
    }

    fn element(
        &mut self,
        builder: &mut KernelBuilder,
        (element, dtype): (&Element, DType),
        axes: &[Expr],
        copies: &[Option<ElementId>],
    ) -> Option<ElementId> {
        let copy = |e: &ElementId| copies[e.index()];
        let axis = |a: &Axis| axes[a.index()].as_axis();
        // From another start, but the same way.
        let along = |a: &Axis| {
            axes[a.index()]
                .axes()
                .into_iter()
                .next()
                .filter(|along| (axes[a.index()].clone() - Expr::axis(along.index())).axes().is_empty())
        };
        Some(match element {
            Element::Load { buffer, index } => {
                let coordinate = |c: &Coordinate| {
                    Some(match c {
                        Coordinate::Static(e) => Coordinate::Static(self.value(builder, e, axes)),
                        Coordinate::Dynamic(e) => Coordinate::Dynamic(copy(e)?),
                    })
                };
                let index: Vec<Coordinate> = index.iter().map(coordinate).collect::<Option<_>>()?;
                self.load(builder, *buffer, index, dtype)?
            }
            Element::Constant(value) => builder.constant(*value),
            Element::Index(value) => builder.index(self.value(builder, value, axes), dtype),
            Element::Scalar(op, operands) => {
                let operands: SmallVec<[ElementId; 3]> = operands.iter().map(copy).collect::<Option<_>>()?;
                builder.scalar(*op, &operands, dtype)
            }
            Element::Cast(e) => builder.cast(copy(e)?, dtype),
            Element::Reduce { op, axes: bound, body } => {
                let bound: SmallVec<[Axis; 2]> = bound.iter().map(axis).collect::<Option<_>>()?;
                builder.reduce(*op, &bound, copy(body)?)
            }
            Element::Recurrence { state, exclusive } => {
                let state = Recurrence {
                    axis: along(&state.axis)?,
                    init: copy(&state.init)?,
                    factor: copy(&state.factor)?,
                    term: copy(&state.term)?,
                };
                builder.add(Element::Recurrence { state, exclusive: *exclusive }, dtype)
            }
        })
    }

    /// A load, or what would be loaded.
    fn load(
        &mut self,
        builder: &mut KernelBuilder,
        buffer: BufferId,
        index: Vec<Coordinate>,
        dtype: DType,
    ) -> Option<ElementId> {
        let Some(inlined) = self.inlined.get(&buffer) else {
            return Some(builder.load(buffer, index, &self.buffers[buffer.index()].ty.shape, dtype));
        };
        let coordinate = |c: Coordinate| match c {
            Coordinate::Static(e) => Some(e),
            Coordinate::Dynamic(_) => None,
        };
        let coordinates: Vec<Expr> = index.into_iter().map(coordinate).collect::<Option<_>>()?;
        self.used.insert(inlined.kernel.name.clone());
        let (point, value) = (inlined.point(&coordinates), inlined.store.value);
        self.elements(builder, inlined.kernel, &point, &[value])?[value.index()]
    }

    /// An expression where axes and symbols have these values.
    fn value(&self, builder: &KernelBuilder, e: &Expr, axes: &[Expr]) -> Expr {
        let value = e.substitute(&|atom| match atom {
            Atom::Axis(a) => axes.get(a.index()).cloned(),
            Atom::Symbol(s) => self.symbols.get(s).cloned(),
            Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
        });
        value.simplify(&builder.extents)
    }
}

/// The elements that some are computed from, and these themselves, operands first.
fn needed(kernel: &Kernel, wanted: &[ElementId]) -> Vec<usize> {
    let needed = kernel.computed_from(wanted.iter().copied());
    (0..needed.len()).filter(|i| needed[*i]).collect()
}
