//! Index maps: how a view reads its operand.

use std::fmt;

use crate::expr::Expr;
use crate::ops::Op;
use crate::types::{Shape, ShapeText, TensorType};

/// A map from the points of one space to the points of another: `[i0, i1] -> [i1, 2*i0 + 1]`.
///
/// Reading a tensor `x` through a map `m` gives the tensor whose value at point `p` of the domain is
/// `x[m(p)]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexMap {
    /// The extents of the space that is read from, `i0` first.
    pub domain: Shape,
    /// One coordinate of the source for each of its axes.
    pub results: Vec<Expr>,
}

impl IndexMap {
    /// The identity on a space.
    pub fn identity(domain: Shape) -> Self {
        let results = (0..domain.len()).map(Expr::axis).collect();
        IndexMap { domain, results }
    }

    /// Whether every point maps to itself.
    pub fn is_identity(&self) -> bool {
        self.results.len() == self.domain.len()
            && self.results.iter().enumerate().all(|(i, e)| e.as_axis().is_some_and(|a| a.index() == i))
    }

    /// `self ∘ outer`: first `outer` maps its domain into this map's, then this map applies.
    ///
    /// # Panics
    /// If the number of coordinates `outer` gives is not the rank of this map's domain.
    pub fn compose(&self, outer: &IndexMap) -> IndexMap {
        assert_eq!(outer.results.len(), self.domain.len(), "maps compose where the ranks agree");
        let results =
            self.results.iter().map(|e| e.substitute_axes(&outer.results).simplify(&outer.domain)).collect();
        IndexMap { domain: outer.domain.clone(), results }
    }

    /// The axes of the domain on which no coordinate depends: along them the view repeats.
    pub fn dropped_axes(&self) -> Vec<usize> {
        let used: std::collections::BTreeSet<_> = self.results.iter().flat_map(Expr::axes).collect();
        (0..self.domain.len()).filter(|i| !used.iter().any(|a| a.index() == *i)).collect()
    }
}

impl fmt::Display for IndexMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", ShapeText(&self.domain), ShapeText(&self.results))
    }
}

impl fmt::Debug for IndexMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The map by which a movement op's result reads its only operand; `None` for ops that are not one view of
/// one operand (pad and concat choose between sources, gather depends on data).
pub fn view_map(op: &Op, operand: &TensorType, result: &TensorType) -> Option<IndexMap> {
    let domain = result.shape.clone();
    let results = match op {
        Op::Reshape { .. } => unravel(ravel(&domain), &operand.shape),
        Op::Broadcast { axes, .. } => {
            let source = |(i, axis): (usize, &usize)| {
                if operand.shape[i].is_one() { Expr::constant(0) } else { Expr::axis(*axis) }
            };
            axes.iter().enumerate().map(source).collect()
        }
        Op::Transpose { permutation } => {
            let mut results = vec![Expr::default(); permutation.len()];
            for (i, p) in permutation.iter().enumerate() {
                results[*p] = Expr::axis(i);
            }
            results
        }
        Op::Slice { axes } => {
            let position = |(i, a): (usize, &crate::ops::SliceAxis)| {
                a.start.clone() + Expr::axis(i) * Expr::constant(a.step)
            };
            axes.iter().enumerate().map(position).collect()
        }
        Op::Reverse { axes } => (0..operand.rank())
            .map(|i| {
                if axes.contains(&i) {
                    operand.shape[i].clone() - Expr::constant(1) - Expr::axis(i)
                } else {
                    Expr::axis(i)
                }
            })
            .collect(),
        Op::Constant { .. }
        | Op::Iota { .. }
        | Op::Scalar(_)
        | Op::Cast { .. }
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::Contract { .. }
        | Op::Scan(_) => return None,
    };
    let results = results.iter().map(|e: &Expr| e.simplify(&domain)).collect();
    Some(IndexMap { domain, results })
}

/// The row-major position of the point (`i0`, `i1`, …) of a space.
pub fn ravel(shape: &[Expr]) -> Expr {
    let mut flat = Expr::default();
    for (i, extent) in shape.iter().enumerate() {
        flat = flat * extent.clone() + Expr::axis(i);
    }
    flat
}

/// The coordinates in `shape` of a row-major position.
///
/// An extent of 1 has coordinate 0. A trailing coordinate is a modulo, the leading one a plain quotient.
pub fn unravel(flat: Expr, shape: &[Expr]) -> Vec<Expr> {
    let mut results = vec![Expr::default(); shape.len()];
    let mut rest = flat;
    let leading = shape.iter().position(|n| !n.is_one());
    for (i, extent) in shape.iter().enumerate().rev() {
        if extent.is_one() {
            continue;
        }
        if Some(i) == leading {
            results[i] = rest;
            break;
        }
        results[i] = rest.modulo(extent);
        rest = rest.floor_div(extent);
    }
    results
}
