//! Rules about reductions of products: contractions.
//!
//! A contraction is the sum of a product of reads over one space, so transposed, broadcast and batched operands are
//! index maps and need no rule, and the gates of a cell share an operand because they share a space. What is left
//! is algebra: what to multiply before summing, and what after. Each rule goes one way, towards fewer operations.
//!
//! Two sums that share no factor are not joined: the joined one would hide two values that could have been stored,
//! the product with the whole input sequence for one. One kernel computes both anyway.

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};

use super::pattern::in_order;
use super::structure::{at_zero, reduced_axes};
use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::language::{Head, Term};

/// The rules.
pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "factor-out-of-sum",
        left: "sum of a · x, of x / a, or of -x, where a does not depend on the reduced axes",
        right: "a · (sum of x), (sum of x) / a, -(sum of x)",
        guard: "the reduced axes surely have a position: of nothing the sum is 0, and 0 · NaN is NaN",
        test: "rewrite/tests/rules/factor-out-of-sum.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
        apply: factor_out_of_sum,
        contract: Contract::Reassociates,
    },
    Procedure {
        name: "shift-out-of-extremum",
        left: "max or min of x + a, where a does not depend on the reduced axes",
        right: "(max or min of x) + a",
        guard: "floats: integers wrap; the reduced axes surely have a position",
        test: "rewrite/tests/rules/shift-out-of-extremum.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Max | ReduceOp::Min, _)),
        apply: shift_out_of_extremum,
        contract: Contract::Reassociates,
    },
    Procedure {
        name: "share-contracted-operand",
        left: "contract(a, b) ± contract(a, c)",
        right: "contract(a, b ± c)",
        guard: "the same read of a over the same space",
        test: "rewrite/tests/rules/share-contracted-operand.fuse",
        candidate: |t| matches!(t.head, Head::Scalar(ScalarOp::Add | ScalarOp::Sub)),
        apply: share_contracted_operand,
        contract: Contract::Reassociates,
    },
    Procedure {
        name: "distribute-contraction",
        left: "contract(a, b ± c)",
        right: "contract(a, b) ± contract(a, c)",
        guard: "both are computed already",
        test: "rewrite/tests/rules/distribute-contraction.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
        apply: distribute_contraction,
        contract: Contract::Reassociates,
    },
];

/// The most factors of a product that are told apart.
const MAX_FACTORS: usize = 8;

/// The reduced axes, where there surely is a position on all of them. Constant ones that have none make a constant.
fn surely_reduced(terms: &Terms, term: &Term) -> Option<Vec<usize>> {
    let (_, axes) = reduced_axes(terms, term)?;
    let extents = terms.analysis.tables.extents(terms[term.children[0]].data.space);
    axes.clone().all(|a| extents[a].as_constant().is_some()).then(|| axes.collect())
}

/// Whether a class is the same at all positions of some axes.
fn independent(terms: &Terms, class: Id, axes: &[usize]) -> bool {
    axes.iter().all(|a| terms[class].data.depends & (1 << a) == 0)
}

/// The operands of the first node of a class with that op.
fn operands(terms: &Terms, class: Id, op: ScalarOp) -> Option<Vec<Id>> {
    let mut nodes: Vec<&Term> = terms[class].nodes.iter().filter(|t| t.head == Head::Scalar(op)).collect();
    nodes.sort();
    nodes.first().map(|t| t.children.iter().map(|c| terms.find(*c)).collect())
}

/// The factors of a product of products.
pub fn factors(terms: &Terms, class: Id) -> Vec<Id> {
    let mut out = Vec::new();
    let mut pending = vec![class];
    let mut expanded = Vec::new();
    while let Some(class) = pending.pop() {
        let class = terms.find(class);
        let few = out.len() + pending.len() < MAX_FACTORS && !expanded.contains(&class);
        match operands(terms, class, ScalarOp::Mul).filter(|_| few) {
            Some(children) => {
                expanded.push(class);
                pending.extend(children.iter().rev());
            }
            None => out.push(class),
        }
    }
    out
}

/// The class of an op of some operands.
pub fn scalar(terms: &mut Terms, op: ScalarOp, operands: &[Id]) -> Id {
    terms.add(Term::new(Head::Scalar(op), operands))
}

/// The class of a product; `None` of nothing.
pub fn product(terms: &mut Terms, factors: &[Id]) -> Option<Id> {
    let (first, rest) = factors.split_first()?;
    Some(rest.iter().fold(*first, |x, y| scalar(terms, ScalarOp::Mul, &[x, *y])))
}

fn factor_out_of_sum(terms: &mut Terms, term: &Term) -> Option<Id> {
    let reduced = surely_reduced(terms, term)?;
    let x = terms.find(term.children[0]);
    if independent(terms, x, &reduced) {
        return None;
    }
    if let Some(inner) = operands(terms, x, ScalarOp::Neg) {
        let sum = terms.add(Term::new(term.head, &inner));
        return Some(scalar(terms, ScalarOp::Neg, &[sum]));
    }
    if let Some(parts) = operands(terms, x, ScalarOp::Div)
        && terms[x].data.dtype.is_float()
        && independent(terms, parts[1], &reduced)
    {
        let sum = terms.add(Term::new(term.head, &[parts[0]]));
        let divisor = at_zero(terms, parts[1], &reduced);
        return Some(scalar(terms, ScalarOp::Div, &[sum, divisor]));
    }
    let (outside, inside): (Vec<Id>, Vec<Id>) =
        factors(terms, x).into_iter().partition(|f| independent(terms, *f, &reduced));
    if outside.is_empty() {
        return None;
    }
    let inside = product(terms, &inside)?;
    let sum = terms.add(Term::new(term.head, &[inside]));
    let outside: Vec<Id> = outside.into_iter().map(|f| at_zero(terms, f, &reduced)).collect();
    let factor = product(terms, &outside)?;
    Some(scalar(terms, ScalarOp::Mul, &[factor, sum]))
}

fn shift_out_of_extremum(terms: &mut Terms, term: &Term) -> Option<Id> {
    let reduced = surely_reduced(terms, term)?;
    let x = terms.find(term.children[0]);
    if !terms[x].data.dtype.is_float() {
        return None;
    }
    let parts = operands(terms, x, ScalarOp::Add)?;
    let repeats = |i: usize| independent(terms, parts[i], &reduced);
    let (inside, shift) = match (repeats(0), repeats(1)) {
        (false, true) => (parts[0], parts[1]),
        (true, false) => (parts[1], parts[0]),
        (true, true) | (false, false) => return None,
    };
    let extremum = terms.add(Term::new(term.head, &[inside]));
    let shift = at_zero(terms, shift, &reduced);
    Some(scalar(terms, ScalarOp::Add, &[extremum, shift]))
}

/// The summed operands of a class that is a sum over that many axes, one for each way it is written.
fn sums(terms: &Terms, class: Id) -> Vec<(u8, Id)> {
    let sum = |t: &Term| match t.head {
        Head::Reduce(ReduceOp::Sum, axes) => Some((axes, terms.find(t.children[0]))),
        _ => None,
    };
    let mut out: Vec<_> = terms[class].nodes.iter().filter_map(sum).collect();
    out.sort_unstable();
    out
}

fn share_contracted_operand(terms: &mut Terms, term: &Term) -> Option<Id> {
    let Head::Scalar(op) = term.head else { return None };
    let (left, right) = (sums(terms, term.children[0]), sums(terms, term.children[1]));
    let pairs = left.iter().flat_map(|l| right.iter().map(move |r| (*l, *r)));
    for ((axes, x), (_, y)) in pairs {
        let (Some(xs), Some(ys)) = (operands(terms, x, ScalarOp::Mul), operands(terms, y, ScalarOp::Mul))
        else {
            continue;
        };
        // What shares a factor stands over one space, and what can be added is summed over as many axes of it.
        let shared = [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().find(|(i, j)| xs[*i] == ys[*j]);
        if let Some((i, j)) = shared {
            let rest = scalar(terms, op, &[xs[1 - i], ys[1 - j]]);
            let joined = scalar(terms, ScalarOp::Mul, &[xs[i], rest]);
            return Some(terms.add(Term::new(Head::Reduce(ReduceOp::Sum, axes), &[joined])));
        }
    }
    None
}

/// The other way round, where it needs no further sum: of two products that are there anyway, the product with the
/// sum of the weights is the sum.
fn distribute_contraction(terms: &mut Terms, term: &Term) -> Option<Id> {
    let x = terms.find(term.children[0]);
    let pair = operands(terms, x, ScalarOp::Mul)?;
    for (shared, sum) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        for op in [ScalarOp::Add, ScalarOp::Sub] {
            let Some(parts) = operands(terms, sum, op) else { continue };
            let known = |part: Id| {
                let product = in_order(terms, ScalarOp::Mul, &[shared, part]);
                let product = terms.lookup(product)?;
                terms.lookup(Term::new(term.head, &[product]))
            };
            if let (Some(b), Some(c)) = (known(parts[0]), known(parts[1])) {
                return Some(scalar(terms, op, &[b, c]));
            }
        }
    }
    None
}
