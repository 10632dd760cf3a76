//! What a loop computes anew in every step and gets the same.
//!
//! A captured tensor repeats along time, and so does what is computed of captured tensors alone: `tanh(w)`, the product
//! of two weights. Over the space of the loop it could be stored for every step or computed in every step, neither of
//! which is what one wants. The rule makes it a view of the value without the axis of time, which stands outside of
//! the loop, to be stored once; the term over all steps is retired.

use egg::Id;
use fuse_ir::{Expr, IndexMap};

use super::pointwise::is_dear;
use super::structure::zero_map;
use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::language::{Head, Term};

/// The rule.
pub const PROCEDURES: &[Procedure] = &[Procedure {
    name: "hoist-invariant",
    left: "f(x) over the steps of a loop",
    right: "f(x) without them, the same for every step",
    guard: "nothing in it depends on the step; f reduces, or costs more than reading its result",
    test: "rewrite/tests/rules/hoist-invariant.fuse",
    candidate: |t| matches!(t.head, Head::Scalar(_) | Head::Cast(_) | Head::Reduce(..)),
    apply: hoist_invariant,
    contract: Contract::Exact,
}];

fn hoist_invariant(terms: &mut Terms, term: &Term) -> Option<Id> {
    let root = terms.lookup(term.clone())?;
    let dear = matches!(term.head, Head::Scalar(op) if is_dear(op));
    if !dear && !terms[root].data.heavy {
        return None;
    }
    let axis = invariant_time(terms, root)?;
    let mut children = Vec::with_capacity(term.children.len());
    for child in &term.children {
        let map = zero_map(terms, *child, &[axis]);
        children.push(terms.add(Term::new(Head::Reindex(map), &[*child])));
        // Read from a step of the loop, the value would depend on what depends on it.
        terms.analysis.tables.retired.views.insert((map, *child));
    }
    terms.analysis.tables.retired.terms.insert(term.clone());
    let once = terms.add(Term::new(term.head, &children));
    let domain = terms.analysis.tables.extents(terms[root].data.space).clone();
    let results = (0..domain.len()).filter(|a| *a != axis).map(Expr::axis).collect();
    let map = terms.analysis.tables.map_id(IndexMap { domain, results });
    Some(terms.add(Term::new(Head::Reindex(map), &[once])))
}

/// The axis of time of a loop, of those a class stands over, on which it does not depend.
fn invariant_time(terms: &Terms, class: Id) -> Option<usize> {
    let (data, tables) = (&terms[class].data, &terms.analysis.tables);
    let space = tables.extents(data.space);
    let around = |depth: usize| {
        tables
            .scans
            .iter()
            .any(|s| s.depth() == depth && space.starts_with(&s.prefix) && s.trip == space[depth])
    };
    (0..space.len()).find(|a| data.depends & (1 << a) == 0 && !space[*a].is_one() && around(*a))
}
