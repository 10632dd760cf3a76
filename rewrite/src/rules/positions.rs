//! Arithmetic on positions, and reads at them.
//!
//! Front ends write a window as a gather at `position + offset`, and a loop reads its step's row at the number of the
//! step. Once the index is an expression of the coordinates the read is a view, which fuses like any other.

use egg::Id;
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Expr, IndexMap};

use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::complexity::{MAX_SIZE, size};
use crate::language::{Head, Term};
use crate::ranges::{fits, index_value, is_nonnegative_at_points};

/// The rules.
pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "index-arithmetic",
        left: "sum, difference, negation, minimum or maximum of index expressions, or a multiple of one",
        right: "an index expression",
        guard: "i64 or i32, and no operand or result wraps, whatever the extents",
        test: "rewrite/tests/rules/index-arithmetic.fuse",
        candidate: is_arithmetic,
        apply: index_arithmetic,
        contract: Contract::Exact,
    },
    Procedure {
        name: "gather-at-index",
        left: "gather at an index expression",
        right: "a view of the table",
        guard: "the index lies within the gathered axis at every point",
        test: "rewrite/tests/rules/gather-at-index.fuse",
        candidate: |t| matches!(t.head, Head::Gather(_)),
        apply: gather_at_index,
        contract: Contract::Exact,
    },
];

fn is_arithmetic(term: &Term) -> bool {
    use ScalarOp::{Add, Max, Min, Mul, Neg, Sub};
    matches!(term.head, Head::Scalar(Add | Sub | Mul | Neg | Min | Max))
}

/// Index arithmetic does not wrap, so that of terms is the same only while they do not either.
fn index_arithmetic(terms: &mut Terms, term: &Term) -> Option<Id> {
    let Head::Scalar(op) = term.head else { return None };
    let data = &terms[term.children[0]].data;
    let (space, dtype) = (data.space, data.dtype);
    if !matches!(dtype, DType::I64 | DType::I32) {
        return None;
    }
    let operands = term.children.iter().map(|x| index_value(terms, *x)).collect::<Option<Vec<Expr>>>()?;
    let extents = terms.analysis.tables.extents(space);
    let value = match (op, &operands[..]) {
        (ScalarOp::Add, [x, y]) => x.clone() + y.clone(),
        (ScalarOp::Sub, [x, y]) => x.clone() - y.clone(),
        (ScalarOp::Neg, [x]) => -x.clone(),
        (ScalarOp::Mul, [x, y]) if x.as_constant().is_some() || y.as_constant().is_some() => {
            x.clone() * y.clone()
        }
        (ScalarOp::Min, [x, y]) => x.minimum(y),
        (ScalarOp::Max, [x, y]) => x.maximum(y),
        _ => return None,
    };
    let value = value.simplify(extents);
    let exact = operands.iter().chain([&value]).all(|e| fits(e, dtype, extents));
    if !exact || size(&value) > MAX_SIZE {
        return None;
    }
    terms.analysis.tables.retired.terms.insert(term.clone());
    let head = terms.analysis.tables.index_head(&value, dtype, space);
    Some(terms.add(Term::leaf(head)))
}

/// A gather clamps its index, which a view does not: the index has to lie within the table.
fn gather_at_index(terms: &mut Terms, term: &Term) -> Option<Id> {
    let Head::Gather(id) = term.head else { return None };
    let position = index_value(terms, term.children[1])?;
    let tables = &terms.analysis.tables;
    let gather = tables.gather(id);
    let domain = tables.extents(gather.space).clone();
    let rows = &tables.extents(terms[term.children[0]].data.space)[gather.axis];
    let rest = rows.clone() - Expr::constant(1) - position.clone();
    if !is_nonnegative_at_points(&position, &domain) || !is_nonnegative_at_points(&rest, &domain) {
        return None;
    }
    let mut results = gather.coordinates.clone();
    results[gather.axis] = position;
    let tables = &mut terms.analysis.tables;
    tables.retired.terms.insert(term.clone());
    let map = tables.map_id(IndexMap { domain, results });
    Some(terms.add(Term::new(Head::Reindex(map), &[term.children[0]])))
}
