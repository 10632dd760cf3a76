//! Sums over joined axes: `contract(concat(x, h), w) = contract(x, w[..n]) + contract(h, w[n..])`.
//!
//! A concatenation is a selection by position, and a sum over the joined axis would decide at every term which part
//! it reads. Split where the parts meet, each sum reads one part, its views are plain, and a part that no loop
//! changes is a sum of its own, which can leave the loop: the cell that multiplies `[x, h]` by one matrix is the cell
//! that multiplies `x` and `h` by two. Padding is the same with a constant for a part.
//!
//! The sum as it was is retired: it multiplies as often, and selects besides.

use std::ops::Range;

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::types::Shape;
use fuse_ir::{Expr, IndexMap};

use super::contraction::{factors, product, scalar};
use super::structure::reduced_axes;
use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::language::{Head, Term};
use crate::ranges::index_value;

/// The rule.
pub const PROCEDURES: &[Procedure] = &[Procedure {
    name: "split-joined-sum",
    left: "sum over an axis i of select(i < n, x, y) · z",
    right: "sum of x · z over the first n positions + sum of y · z over the others",
    guard: "n is the same everywhere and surely within the axis, but at neither end of it",
    test: "rewrite/tests/rules/split-joined-sum.fuse",
    candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
    apply: split_joined_sum,
    contract: Contract::Reassociates,
}];

/// A factor that is two joined parts, perhaps seen through a view.
struct Joined {
    seam: Seam,
    /// The coordinates at which the view reads the parts.
    results: Vec<Expr>,
    first: Id,
    second: Id,
}

/// Where two parts meet.
#[derive(PartialEq)]
struct Seam {
    /// The joined axis.
    axis: usize,
    /// The first position of the second part.
    at: Expr,
}

fn split_joined_sum(terms: &mut Terms, term: &Term) -> Option<Id> {
    let (_, reduced) = reduced_axes(terms, term)?;
    if terms.analysis.tables.retired.terms.contains(term) {
        return None;
    }
    let factors = factors(terms, term.children[0]);
    let space = terms.analysis.tables.extents(terms[term.children[0]].data.space).clone();
    let joined: Vec<Vec<Joined>> = factors.iter().map(|f| joined(terms, *f, &space, &reduced)).collect();
    let seam = &joined.iter().flatten().next()?.seam;
    let rest = space[seam.axis].clone() - seam.at.clone();
    let parts = [(Expr::constant(0), seam.at.clone(), true), (seam.at.clone(), rest, false)];
    let mut sums = Vec::with_capacity(parts.len());
    for (start, length, is_first) in parts {
        let part = Part { space: &space, axis: seam.axis, start, length };
        let mut read = Vec::with_capacity(factors.len());
        for (factor, joined) in factors.iter().zip(&joined) {
            read.push(match joined.iter().find(|j| j.seam == *seam) {
                Some(j) => part.read(terms, if is_first { j.first } else { j.second }, &j.results),
                None => part.read(terms, *factor, &IndexMap::identity(space.clone()).results),
            });
        }
        let product = product(terms, &read)?;
        sums.push(terms.add(Term::new(term.head, &[product])));
    }
    terms.analysis.tables.retired.terms.insert(term.clone());
    Some(scalar(terms, ScalarOp::Add, &sums))
}

/// The ways in which a factor is two parts that are joined along a reduced axis of the space. A view that repeats a
/// part which holds products is not pushed into it, so the parts may lie behind one.
fn joined(terms: &Terms, factor: Id, space: &Shape, reduced: &Range<usize>) -> Vec<Joined> {
    // What would be read of an empty tensor is a constant, though what that tensor is a view of is none.
    if terms[factor].data.constant.is_some() {
        return Vec::new();
    }
    let mut sources = vec![(IndexMap::identity(space.clone()).results, terms.find(factor))];
    let mut views: Vec<&Term> = terms[factor].nodes.iter().collect();
    views.sort();
    for view in views {
        if let Head::Reindex(map) = view.head {
            let results = terms.analysis.tables.map(map).results.clone();
            sources.push((results, terms.find(view.children[0])));
        }
    }
    let mut out = Vec::new();
    for (results, source) in sources {
        let selects = |t: &&Term| t.head == Head::Scalar(ScalarOp::Select);
        let mut selections: Vec<&Term> = terms[source].nodes.iter().filter(selects).collect();
        selections.sort();
        for selection in selections {
            let [x, y] = [1, 2].map(|i| terms.find(selection.children[i]));
            if let Some((seam, before)) = seam(terms, selection.children[0], &results, space, reduced) {
                let (first, second) = if before { (x, y) } else { (y, x) };
                out.push(Joined { seam, results: results.clone(), first, second });
            }
        }
    }
    out
}

/// The seam that a condition on a position draws, and whether it holds before it.
fn seam(
    terms: &Terms,
    condition: Id,
    results: &[Expr],
    space: &Shape,
    reduced: &Range<usize>,
) -> Option<(Seam, bool)> {
    terms[condition].nodes.iter().find_map(|t| {
        let before = match t.head {
            Head::Scalar(ScalarOp::Lt) => true,
            Head::Scalar(ScalarOp::Ge) => false,
            _ => return None,
        };
        let value =
            |i: usize| Some(index_value(terms, t.children[i])?.substitute_axes(results).simplify(space));
        let (position, at) = (value(0)?, value(1)?);
        // Parts of parts begin further on.
        let axes = position.axes();
        let axis = axes.first().filter(|_| axes.len() == 1)?.index();
        let at = at - (position - Expr::axis(axis));
        let rest = space[axis].clone() - at.clone();
        let inside = at.is_nonnegative(space) && rest.is_nonnegative(space);
        // One part would be the whole again, and split again.
        let inside = inside && !at.is_zero() && !rest.is_zero();
        let draws = reduced.contains(&axis) && at.axes().is_empty() && inside;
        draws.then_some((Seam { axis, at }, before))
    })
}

/// A part of an axis of a space.
struct Part<'a> {
    space: &'a Shape,
    axis: usize,
    start: Expr,
    length: Expr,
}

impl Part<'_> {
    /// What the coordinates over the space read of a class, over the part.
    fn read(&self, terms: &mut Terms, class: Id, coordinates: &[Expr]) -> Id {
        let mut part = IndexMap::identity(self.space.clone());
        part.domain[self.axis] = self.length.clone();
        part.results[self.axis] = Expr::axis(self.axis) + self.start.clone();
        let read = |e: &Expr| e.substitute_axes(&part.results).simplify(&part.domain);
        let results = coordinates.iter().map(read).collect();
        let map = terms.analysis.tables.map_id(IndexMap { domain: part.domain.clone(), results });
        terms.add(Term::new(Head::Reindex(map), &[class]))
    }
}
