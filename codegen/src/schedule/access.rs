//! The row-major position of a load or store as one index expression.

use std::collections::BTreeSet;

use fuse_ir::expr::{Atom, Axis, Dim, Expr, Symbol};
use fuse_ir::kernel::{Coordinate, ElementId};
use fuse_ir::{DType, TensorType};

use crate::kernel_ir::ParameterId;

/// A coordinate that is an element: clamped to `0..extent` and multiplied by `stride`.
#[derive(Clone, Debug)]
pub(super) struct DynamicCoordinate {
    pub(super) element: ElementId,
    pub(super) extent: Dim,
    pub(super) stride: Dim,
}

/// Where a load or store goes.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) buffer: ParameterId,
    pub(super) dtype: DType,
    /// The part of the position that is an expression.
    pub(super) position: Expr,
    pub(super) dynamic: Vec<DynamicCoordinate>,
    /// The number of elements, if a clamped coordinate may meet a buffer that has none: then only
    /// element 0 may be read, whatever the other coordinates are.
    pub(super) guard: Option<Dim>,
    /// The symbols of the coordinates: where an extent with one of them is 0, the position may be invalid.
    pub(super) symbols: BTreeSet<Symbol>,
}

impl Access {
    /// The position of `index` in a contiguous buffer of type `ty`.
    pub(super) fn new(buffer: ParameterId, ty: &TensorType, index: &[Coordinate], extents: &[Dim]) -> Access {
        let (mut position, mut dynamic, mut symbols) = (Expr::default(), Vec::new(), BTreeSet::new());
        let mut clamped = false;
        let mut stride = Dim::constant(1);
        for (coordinate, extent) in index.iter().zip(&ty.shape).rev() {
            match coordinate {
                Coordinate::Static(e) => {
                    let mut compound = false;
                    let may_be_empty = extent.as_constant().is_none_or(|n| n < 1);
                    e.visit_atoms(&mut |atom| match atom {
                        Atom::Axis(_) => {}
                        Atom::Symbol(s) => {
                            symbols.insert(s.clone());
                        }
                        Atom::FloorDiv(..) | Atom::Mod(..) => compound = true,
                        Atom::Min(..) | Atom::Max(..) => {
                            (compound, clamped) = (true, clamped || may_be_empty);
                        }
                    });
                    // A fixed coordinate is inside only if there is anything to be inside of.
                    if e.axes().is_empty() {
                        symbols.extend(extent.symbols());
                    }
                    let e = if compound { e.simplify(extents) } else { e.clone() };
                    position = position + e * stride.clone();
                }
                Coordinate::Dynamic(element) => {
                    clamped = true;
                    let (element, extent, stride) = (*element, extent.clone(), stride.clone());
                    dynamic.push(DynamicCoordinate { element, extent, stride });
                }
            }
            stride = stride * extent.clone();
        }
        let never_empty = stride.as_constant().is_some_and(|n| n > 0);
        let guard = (clamped && !never_empty).then_some(stride);
        Access { buffer, dtype: ty.dtype, position, dynamic, guard, symbols }
    }

    /// All symbols that computing the position takes.
    pub(super) fn all_symbols(&self) -> BTreeSet<Symbol> {
        let mut out = self.position.symbols();
        for d in &self.dynamic {
            out.extend(d.extent.symbols());
            out.extend(d.stride.symbols());
        }
        out.extend(self.guard.iter().flat_map(Expr::symbols));
        out
    }

    /// Whether consecutive points along an axis (by all its names) are consecutive elements.
    pub(super) fn is_unit_stride(&self, axes: &[Axis]) -> bool {
        self.guard.is_none() && self.coefficient(axes).is_some_and(|c| c.is_one())
    }

    /// Whether every position is a multiple of `number` where that of an axis, by all its names, is one.
    pub(super) fn is_multiple(&self, number: i64, axes: &[Axis]) -> bool {
        let divides = |factors: &[Atom], c: i64| {
            c % number == 0 || matches!(factors, [Atom::Axis(axis)] if axes.contains(axis))
        };
        let strides = self.dynamic.iter().all(|d| d.stride.terms().all(|(_, c)| c % number == 0));
        strides && self.position.terms().all(|(factors, c)| divides(factors, c))
    }

    /// The factor of an axis, by all its names, in the position; `None` where that is not linear in it.
    pub(super) fn coefficient(&self, axes: &[Axis]) -> Option<Expr> {
        coefficient(&self.position, axes)
    }
}

/// The factor of an axis, by all its names, in an expression that is linear in it; `None` where it is not.
fn coefficient(e: &Expr, axes: &[Axis]) -> Option<Expr> {
    let mut out = Expr::default();
    for (factors, c) in e.terms() {
        let mut product = Expr::constant(c);
        let mut occurrences = 0;
        for atom in factors {
            match atom {
                Atom::Axis(a) if axes.contains(a) => occurrences += 1,
                Atom::Axis(_) | Atom::Symbol(_) => product = product * Expr::atom(atom.clone()),
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    if axes.iter().any(|axis| a.uses_axis(*axis) || b.uses_axis(*axis)) {
                        return None;
                    }
                    product = product * Expr::atom(atom.clone());
                }
            }
        }
        match occurrences {
            0 => {}
            1 => out = out + product,
            _ => return None,
        }
    }
    Some(out)
}
