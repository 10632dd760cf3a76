//! How a buffer holds a class.
//!
//! Buffers are row-major, but a buffer need not have the axes of what it holds in their order: a loop's own
//! values have no time axis, and a result that is a view of a value (transposed, reversed, with unit axes more
//! or less) can be stored where the value is computed, at the index the view has it, instead of copied by a
//! kernel of its own.

use fuse_ir::types::Shape;
use fuse_ir::{Dim, Expr, IndexMap};
use smallvec::SmallVec;

/// What one axis of a buffer runs along.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Along {
    /// An axis of the class.
    Axis(usize),
    /// An axis of the class of this extent, from its end.
    FromEnd(usize, Dim),
    /// None: the axis has one position.
    Unit,
}

/// The axes of a buffer in terms of those of a class.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    axes: SmallVec<[Along; 4]>,
}

impl Layout {
    /// All axes of a class of this rank, in their order, but the dropped ones (as bits).
    pub fn without(rank: usize, dropped: u64) -> Self {
        let kept = (0..rank).filter(|i| dropped & (1 << i) == 0);
        Layout { axes: kept.map(Along::Axis).collect() }
    }

    /// How a buffer of the view's shape holds a class with these extents that is read through `view`; `None`
    /// where the view repeats or leaves out elements, or mixes axes.
    pub fn of_view(view: &IndexMap, extents: &Shape) -> Option<Layout> {
        let mut axes: SmallVec<[Along; 4]> = SmallVec::from_elem(Along::Unit, view.domain.len());
        for (i, (read, extent)) in view.results.iter().zip(extents).enumerate() {
            if extent.is_one() {
                continue;
            }
            let (axis, along) = match read.as_axis() {
                Some(axis) => (axis.index(), Along::Axis(i)),
                None => {
                    let axis = read.axes().into_iter().next()?.index();
                    let from_end = extent.clone() - Expr::constant(1) - Expr::axis(axis);
                    if *read != from_end {
                        return None;
                    }
                    (axis, Along::FromEnd(i, extent.clone()))
                }
            };
            let slot = axes.get_mut(axis)?;
            if *slot != Along::Unit || view.domain[axis] != *extent {
                return None;
            }
            *slot = along;
        }
        let whole = axes.iter().zip(&view.domain).all(|(a, n)| *a != Along::Unit || n.is_one());
        whole.then_some(Layout { axes })
    }

    /// The index at which the buffer holds the class's element at `coordinates`.
    pub fn index(&self, coordinates: &[Expr]) -> SmallVec<[Expr; 4]> {
        let at = |along: &Along| match along {
            Along::Axis(i) => coordinates[*i].clone(),
            Along::FromEnd(i, extent) => extent.clone() - Expr::constant(1) - coordinates[*i].clone(),
            Along::Unit => Expr::constant(0),
        };
        self.axes.iter().map(at).collect()
    }

    /// The axis of the buffer that runs along an axis of the class, from its start.
    pub fn position(&self, axis: usize) -> Option<usize> {
        self.axes.iter().position(|a| *a == Along::Axis(axis))
    }

    /// Whether the last axis of this class that has an extent runs along the last such axis of the buffer, so
    /// that what is computed side by side is stored side by side.
    pub fn keeps_last(&self, extents: &Shape) -> bool {
        let last = extents.iter().rposition(|n| !n.is_one());
        let stored = self.axes.iter().rev().find(|a| **a != Along::Unit);
        last.is_none_or(|last| stored == Some(&Along::Axis(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents() -> Shape {
        vec![Expr::symbol("T"), Expr::symbol("B"), Expr::constant(4)]
    }

    fn from_end(axis: usize, n: &str) -> Expr {
        Expr::symbol(n) - Expr::constant(1) - Expr::axis(axis)
    }

    #[test]
    fn a_view_that_permutes_and_reverses_has_a_layout() {
        let view = IndexMap {
            domain: vec![Expr::symbol("B"), Expr::symbol("T"), Expr::constant(1), Expr::constant(4)],
            results: vec![from_end(1, "T"), Expr::axis(0), Expr::axis(3)],
        };
        let layout = Layout::of_view(&view, &extents()).unwrap();
        let point = [Expr::symbol("t"), Expr::axis(0), Expr::axis(1)];
        let index = layout.index(&point);
        let expected = [
            Expr::axis(0),
            Expr::symbol("T") - Expr::constant(1) - Expr::symbol("t"),
            Expr::constant(0),
            Expr::axis(1),
        ];
        assert_eq!(index.as_slice(), expected);
        assert!(layout.keeps_last(&extents()));
        assert_eq!((layout.position(1), layout.position(0)), (Some(0), None));
    }

    #[test]
    fn a_view_that_leaves_out_repeats_or_mixes_has_none() {
        let view = |domain: Vec<Expr>, results: Vec<Expr>| IndexMap { domain, results };
        let (t, b, four) = (Expr::symbol("T"), Expr::symbol("B"), Expr::constant(4));
        let axes = || vec![Expr::axis(0), Expr::axis(1), Expr::axis(2)];
        let shorter = view(vec![t.clone() - Expr::constant(1), b.clone(), four.clone()], axes());
        assert_eq!(Layout::of_view(&shorter, &extents()), None);
        let longer: Vec<Expr> = extents().into_iter().chain([Expr::constant(2)]).collect();
        assert_eq!(Layout::of_view(&view(longer, axes()), &extents()), None);
        let square: Shape = vec![b.clone(), b.clone()];
        let diagonal = view(square.clone(), vec![Expr::axis(0), Expr::axis(0)]);
        assert_eq!(Layout::of_view(&diagonal, &square), None);
        let shifted = view(square.clone(), vec![Expr::axis(0) + Expr::constant(1), Expr::axis(1)]);
        assert_eq!(Layout::of_view(&shifted, &square), None);
    }

    #[test]
    fn a_transposition_does_not_keep_the_last_axis() {
        let view = IndexMap {
            domain: vec![Expr::symbol("T"), Expr::constant(4), Expr::symbol("B")],
            results: vec![Expr::axis(0), Expr::axis(2), Expr::axis(1)],
        };
        assert!(!Layout::of_view(&view, &extents()).unwrap().keeps_last(&extents()));
    }
}
