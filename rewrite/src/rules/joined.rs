//! Sums over joined axes: `contract(concat(x, h), w) = contract(x, w[..n]) + contract(h, w[n..])`.
//!
//! A concatenation is a selection by position, and a sum over the joined axis would decide at every term which part
//! it reads. Split where the parts meet, each sum reads one part, its views are plain, and a part that no loop
//! changes is a sum of its own, which can leave the loop: the cell that multiplies `[x, h]` by one matrix is the cell
//! that multiplies `x` and `h` by two. Padding is the same with a constant for a part.
//!
//! The sum as it was is retired: it multiplies as often, and selects besides.

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::types::Shape;
use fuse_ir::{Expr, IndexMap};

use super::contraction::{factors, product, scalar};
use super::structure::{index_value, reduced_axes};
use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::language::{Head, Term};

/// The rule.
pub const PROCEDURES: &[Procedure] = &[Procedure {
    name: "split-joined-sum",
    left: "sum over an axis i of select(i < n, x, y) · z",
    right: "sum of x · z over the first n positions + sum of y · z over the others",
    guard: "n is the same everywhere and surely within the axis",
    test: "rewrite/tests/rules/split-joined-sum.fuse",
    candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
    apply: split_joined_sum,
    contract: Contract::Reassociates,
}];

/// A place where two parts meet.
struct Seam {
    /// The joined axis.
    axis: usize,
    /// The first position of the second part.
    at: Expr,
    /// The class that is true before it, or from it on.
    condition: Id,
    /// Whether the condition holds before it.
    before: bool,
}

fn split_joined_sum(terms: &mut Terms, term: &Term) -> Option<Id> {
    let (_, reduced) = reduced_axes(terms, term)?;
    if terms.analysis.tables.retired.terms.contains(term) {
        return None;
    }
    let factors = factors(terms, term.children[0]);
    let seam = factors.iter().find_map(|f| seam(terms, *f, &reduced))?;
    let space = terms.analysis.tables.extents(terms[term.children[0]].data.space).clone();
    let rest = space[seam.axis].clone() - seam.at.clone();
    let parts = [(Expr::constant(0), seam.at.clone(), true), (seam.at.clone(), rest, false)];
    let mut sums = Vec::with_capacity(parts.len());
    for (start, length, first) in parts {
        let part = Part { space: &space, axis: seam.axis, start, length };
        let chosen = |terms: &Terms, factor: Id| {
            selected(terms, factor, seam.condition, first == seam.before).unwrap_or(factor)
        };
        let read = factors.iter().map(|f| part.read(terms, chosen(terms, *f))).collect::<Vec<Id>>();
        let product = product(terms, &read)?;
        sums.push(terms.add(Term::new(term.head, &[product])));
    }
    terms.analysis.tables.retired.terms.insert(term.clone());
    Some(scalar(terms, ScalarOp::Add, &sums))
}

/// Where two parts meet along a reduced axis of a factor, if it selects between them.
fn seam(terms: &Terms, factor: Id, reduced: &std::ops::Range<usize>) -> Option<Seam> {
    let mut selections: Vec<&Term> =
        terms[factor].nodes.iter().filter(|t| t.head == Head::Scalar(ScalarOp::Select)).collect();
    selections.sort();
    selections.into_iter().find_map(|t| condition(terms, terms.find(t.children[0]), reduced))
}

/// What a condition says of a position on a reduced axis.
fn condition(terms: &Terms, condition: Id, reduced: &std::ops::Range<usize>) -> Option<Seam> {
    let space = terms.analysis.tables.extents(terms[condition].data.space);
    terms[condition].nodes.iter().find_map(|t| {
        let before = match t.head {
            Head::Scalar(ScalarOp::Lt) => true,
            Head::Scalar(ScalarOp::Ge) => false,
            _ => return None,
        };
        let (position, at) = (index_value(terms, t.children[0])?, index_value(terms, t.children[1])?);
        // Parts of parts begin further on.
        let axes = position.axes();
        let axis = axes.first().filter(|_| axes.len() == 1)?.index();
        let at = at - (position - Expr::axis(axis));
        let inside = at.is_nonnegative(space) && (space[axis].clone() - at.clone()).is_nonnegative(space);
        (reduced.contains(&axis) && at.axes().is_empty() && inside).then_some(Seam {
            axis,
            at,
            condition,
            before,
        })
    })
}

/// The operand of a selection by that condition which is taken where it is true, or where it is not.
fn selected(terms: &Terms, factor: Id, condition: Id, holds: bool) -> Option<Id> {
    let by_condition =
        |t: &&Term| t.head == Head::Scalar(ScalarOp::Select) && terms.find(t.children[0]) == condition;
    let selection = terms[factor].nodes.iter().filter(by_condition).min()?;
    Some(terms.find(selection.children[if holds { 1 } else { 2 }]))
}

/// A part of an axis of a space.
struct Part<'a> {
    space: &'a Shape,
    axis: usize,
    start: Expr,
    length: Expr,
}

impl Part<'_> {
    /// A class over the space, read over the part.
    fn read(&self, terms: &mut Terms, class: Id) -> Id {
        let mut map = IndexMap::identity(self.space.clone());
        map.domain[self.axis] = self.length.clone();
        map.results[self.axis] = Expr::axis(self.axis) + self.start.clone();
        let map = terms.analysis.tables.map_id(map);
        terms.add(Term::new(Head::Reindex(map), &[class]))
    }
}
