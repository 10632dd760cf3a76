//! Rules that look at attributes: index expressions, casts, reductions.

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::{DType, Expr, IndexMap, Literal};

use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::language::{Head, MapId, Term};
use crate::ranges::{index_value, is_nonnegative_at_points};

/// The rules in code.
pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "compare-index",
        left: "comparison of two index expressions",
        right: "true or false",
        guard: "the ranges of the axes decide it at every point",
        test: "rewrite/tests/rules/compare-index.fuse",
        candidate: is_comparison,
        apply: compare_index,
        contract: Contract::Exact,
    },
    Procedure {
        name: "cast-of-cast",
        left: "cast to c of cast to b of x",
        right: "cast to c of x",
        guard: "b holds every value of x's type; no integer reaches a narrower one through a float",
        test: "rewrite/tests/rules/cast-of-cast.fuse",
        candidate: |t| matches!(t.head, Head::Cast(_)),
        apply: cast_of_cast,
        contract: Contract::Exact,
    },
    Procedure {
        name: "reduce-unit-axis",
        left: "reduction over an axis of extent 1",
        right: "the only element (of argmax and argmin: 0)",
        guard: "",
        test: "rewrite/tests/rules/reduce-unit-axis.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(..)),
        apply: reduce_unit_axis,
        // The sum of -0 alone is 0.
        contract: Contract::Reassociates,
    },
    Procedure {
        name: "extremum-of-repetition",
        left: "max or min over an axis on which x does not depend",
        right: "x at 0",
        guard: "the axis surely has a position",
        test: "rewrite/tests/rules/extremum-of-repetition.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Max | ReduceOp::Min, _)),
        apply: extremum_of_repetition,
        contract: Contract::Exact,
    },
    Procedure {
        name: "sum-of-repetition",
        left: "sum over an axis of extent n on which x does not depend",
        right: "n · x at 0",
        guard: "n is constant and a value of x's type",
        test: "rewrite/tests/rules/sum-of-repetition.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
        apply: sum_of_repetition,
        contract: Contract::Reassociates,
    },
    Procedure {
        name: "sum-of-constant",
        left: "sum of a constant c over axes of symbolic extents n",
        right: "c · n",
        guard: "c is finite: 0 · inf is NaN where n is 0",
        test: "rewrite/tests/rules/sum-of-constant.fuse",
        candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
        apply: sum_of_constant,
        contract: Contract::Reassociates,
    },
    // No rule joins a reduction of a reduction: it would hide the inner value, a matrix product under a row
    // statistic for one, which is then computed again where it could have been read.
];

fn is_comparison(term: &Term) -> bool {
    use ScalarOp::{Eq, Ge, Gt, Le, Lt, Ne};
    matches!(term.head, Head::Scalar(Eq | Ne | Lt | Le | Gt | Ge))
}

/// A comparison of indices that the ranges of the axes decide: reading the inner part of a padded tensor, or whether a
/// table has rows at all where the space has points only if it does.
fn compare_index(terms: &mut Terms, term: &Term) -> Option<Id> {
    let Head::Scalar(op) = term.head else { return None };
    let (x, y) = (index_value(terms, term.children[0])?, index_value(terms, term.children[1])?);
    let space = terms[term.children[0]].data.space;
    let extents = terms.analysis.tables.extents(space);
    let at_least = |a: &Expr, b: &Expr| is_nonnegative_at_points(&(a.clone() - b.clone()), extents);
    let above = |a: &Expr, b: &Expr| at_least(a, &(b.clone() + Expr::constant(1)));
    let decide = |holds: bool, fails: bool| {
        if holds {
            Some(true)
        } else if fails {
            Some(false)
        } else {
            None
        }
    };
    let apart = above(&x, &y) || above(&y, &x);
    let value = match op {
        ScalarOp::Lt => decide(above(&y, &x), at_least(&x, &y)),
        ScalarOp::Le => decide(at_least(&y, &x), above(&x, &y)),
        ScalarOp::Gt => decide(above(&x, &y), at_least(&y, &x)),
        ScalarOp::Ge => decide(at_least(&x, &y), above(&y, &x)),
        ScalarOp::Eq => decide(x == y, apart),
        ScalarOp::Ne => decide(apart, x == y),
        _ => None,
    }?;
    let head = terms.analysis.tables.constant_head(Literal::from_i64(DType::Bool, i64::from(value)), space);
    Some(terms.add(Term::leaf(head)))
}

/// Whether every value of `from` is a value of `to`, another type.
fn embeds(from: DType, to: DType) -> bool {
    use DType::{Bf16, Bool, F16, F32, F64, I32, I64, U8};
    match (from, to) {
        (Bool, _) => true,
        (_, Bool) => false,
        (U8, I32 | I64 | F32 | F64 | F16 | Bf16) => true,
        (I32, I64 | F64) => true,
        (F16 | Bf16, F32 | F64) | (F32, F64) => true,
        (F16 | Bf16 | F32 | F64 | I32 | I64 | U8, _) => false,
    }
}

/// A conversion to a type that holds the operand's values all, then to a third: directly to the third. Not
/// where the detour through floats saturates and the direct way wraps.
fn cast_of_cast(terms: &mut Terms, term: &Term) -> Option<Id> {
    let Head::Cast(to) = term.head else { return None };
    let inner = terms[term.children[0]].nodes.iter().find(|t| matches!(t.head, Head::Cast(_)))?;
    let x = inner.children[0];
    let (from, via) = (terms[x].data.dtype, terms[term.children[0]].data.dtype);
    let saturates = !from.is_float() && via.is_float() && !to.is_float() && to != DType::Bool;
    if !embeds(from, via) || (saturates && !embeds(from, to)) {
        return None;
    }
    if from == to {
        return Some(x);
    }
    Some(terms.add(Term::new(Head::Cast(to), &[x])))
}

/// The last axes of a space that a reduction takes, as a range.
pub fn reduced_axes(terms: &Terms, term: &Term) -> Option<(ReduceOp, std::ops::Range<usize>)> {
    let Head::Reduce(op, axes) = term.head else { return None };
    let rank = terms.analysis.tables.extents(terms[term.children[0]].data.space).len();
    Some((op, rank - axes as usize..rank))
}

/// Reads `x` with the axes of `dropped` at 0.
pub fn at_zero(terms: &mut Terms, x: Id, dropped: &[usize]) -> Id {
    let map = zero_map(terms, x, dropped);
    terms.add(Term::new(Head::Reindex(map), &[x]))
}

/// The map to the space of `x` from that without the axes of `dropped`, which are at 0.
pub fn zero_map(terms: &mut Terms, x: Id, dropped: &[usize]) -> MapId {
    let space = terms.analysis.tables.extents(terms[x].data.space).clone();
    let kept: Vec<usize> = (0..space.len()).filter(|a| !dropped.contains(a)).collect();
    let position = |a: usize| kept.iter().position(|k| *k == a).map_or(Expr::constant(0), Expr::axis);
    let map = IndexMap {
        domain: kept.iter().map(|a| space[*a].clone()).collect(),
        results: (0..space.len()).map(position).collect(),
    };
    terms.analysis.tables.map_id(map)
}

/// An axis of extent 1 needs no reduction.
fn reduce_unit_axis(terms: &mut Terms, term: &Term) -> Option<Id> {
    let (op, reduced) = reduced_axes(terms, term)?;
    let x = term.children[0];
    let space = terms.analysis.tables.extents(terms[x].data.space).clone();
    let units: Vec<usize> = reduced.clone().filter(|a| space[*a].is_one()).collect();
    if units.is_empty() {
        return None;
    }
    if op.is_arg() {
        // The only index is 0.
        let kept = terms.analysis.tables.space(&space[..reduced.start]);
        let head = terms.analysis.tables.constant_head(Literal::from_i64(DType::I64, 0), kept);
        return Some(terms.add(Term::leaf(head)));
    }
    let rest = reduced.len() - units.len();
    let read = at_zero(terms, x, &units);
    Some(if rest == 0 { read } else { terms.add(Term::new(Head::Reduce(op, rest as u8), &[read])) })
}

/// The reduced axes along which the operand repeats and which surely have a position.
fn repeated_axes(terms: &Terms, term: &Term) -> Option<(ReduceOp, Vec<usize>, usize)> {
    let (op, reduced) = reduced_axes(terms, term)?;
    let data = &terms[term.children[0]].data;
    let space = terms.analysis.tables.extents(data.space);
    let repeated = |a: &usize| data.depends & (1 << a) == 0 && space[*a].as_constant().is_some_and(|n| n > 1);
    let axes: Vec<usize> = reduced.clone().filter(repeated).collect();
    (!axes.is_empty()).then_some((op, axes, reduced.len()))
}

/// The largest of equal values is that value.
fn extremum_of_repetition(terms: &mut Terms, term: &Term) -> Option<Id> {
    let (op, axes, reduced) = repeated_axes(terms, term)?;
    let read = at_zero(terms, term.children[0], &axes);
    let rest = reduced - axes.len();
    Some(if rest == 0 { read } else { terms.add(Term::new(Head::Reduce(op, rest as u8), &[read])) })
}

/// The sum of n equal values is n times that value.
fn sum_of_repetition(terms: &mut Terms, term: &Term) -> Option<Id> {
    let (op, axes, reduced) = repeated_axes(terms, term)?;
    let x = term.children[0];
    let space = terms.analysis.tables.extents(terms[x].data.space).clone();
    let count = axes.iter().try_fold(1i64, |n, a| n.checked_mul(space[*a].as_constant()?))?;
    let dtype = terms[x].data.dtype;
    let factor = Literal::from_i64(dtype, count);
    // Beyond this a float no longer holds the count exactly.
    if factor.as_i64() != count {
        return None;
    }
    let read = at_zero(terms, x, &axes);
    let rest = reduced - axes.len();
    let sum = if rest == 0 { read } else { terms.add(Term::new(Head::Reduce(op, rest as u8), &[read])) };
    let space = terms[sum].data.space;
    let head = terms.analysis.tables.constant_head(factor, space);
    let factor = terms.add(Term::leaf(head));
    Some(terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[sum, factor])))
}

/// The sum of a constant is a multiple of the number of positions, known or not.
fn sum_of_constant(terms: &mut Terms, term: &Term) -> Option<Id> {
    let (_, axes) = reduced_axes(terms, term)?;
    let x = &terms[term.children[0]].data;
    let (value, dtype) = (x.constant?, x.dtype);
    if !value.as_f64().is_finite() {
        return None;
    }
    let extents = terms.analysis.tables.extents(x.space).clone();
    let count = axes.clone().fold(Expr::constant(1), |n, a| n * extents[a].clone());
    let space = terms.analysis.tables.space(&extents[..axes.start]);
    let count = terms.analysis.tables.index_head(&count, dtype, space);
    let count = terms.add(Term::leaf(count));
    let value = terms.analysis.tables.constant_head(value, space);
    let value = terms.add(Term::leaf(value));
    Some(terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[value, count])))
}
