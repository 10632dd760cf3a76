//! Pointwise rules that look at the value of a constant or at an attribute.

use egg::Id;
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Literal};

use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::language::{Head, Term};
use crate::ranges::index_value;

/// The rules.
pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "div-by-power-of-two",
        left: "x / c",
        right: "x · (1/c)",
        guard: "floats; c is a constant whose reciprocal is exact: a power of two",
        test: "rewrite/tests/rules/div-by-power-of-two.fuse",
        candidate: |t| t.head == Head::Scalar(ScalarOp::Div),
        apply: div_by_power_of_two,
        contract: Contract::Exact,
    },
    Procedure {
        name: "select-of-same-function",
        left: "select(c, f(x), f(y))",
        right: "f(select(c, x, y))",
        guard: "f is a function of one operand that costs more than a selection",
        test: "rewrite/tests/rules/select-of-same-function.fuse",
        candidate: |t| t.head == Head::Scalar(ScalarOp::Select),
        apply: select_of_same_function,
        contract: Contract::Exact,
    },
    Procedure {
        name: "cast-of-index",
        left: "cast of an index expression",
        right: "the index expression in that type",
        guard: "of type i64, or i32 without wrapping: others may have been rounded",
        test: "rewrite/tests/rules/cast-of-index.fuse",
        candidate: |t| matches!(t.head, Head::Cast(_)),
        apply: cast_of_index,
        contract: Contract::Exact,
    },
    Procedure {
        name: "test-of-cast-bool",
        left: "cast of b ≠ 0, cast of b = 0",
        right: "b, not b",
        guard: "b is a bool",
        test: "rewrite/tests/rules/test-of-cast-bool.fuse",
        candidate: |t| matches!(t.head, Head::Scalar(ScalarOp::Eq | ScalarOp::Ne)),
        apply: test_of_cast_bool,
        contract: Contract::Exact,
    },
];

fn div_by_power_of_two(terms: &mut Terms, term: &Term) -> Option<Id> {
    let data = &terms[term.children[1]].data;
    let (divisor, dtype, space) = (data.constant?, data.dtype, data.space);
    let inverse = Literal::from_f64(dtype, 1.0 / divisor.as_f64());
    // The reciprocal of any other number rounds, and rounding twice differs.
    let exact = inverse.as_f64() == 1.0 / divisor.as_f64() && inverse.as_f64().abs().log2().fract() == 0.0;
    if !dtype.is_float() || !exact {
        return None;
    }
    let head = terms.analysis.tables.constant_head(inverse, space);
    let inverse = terms.add(Term::leaf(head));
    Some(terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[term.children[0], inverse])))
}

/// Functions of one operand that are dearer than choosing between operands.
pub fn is_dear(op: ScalarOp) -> bool {
    op.arity() == 1 && op.tolerance_ulp() > 0.0
}

fn select_of_same_function(terms: &mut Terms, term: &Term) -> Option<Id> {
    let of =
        |class: Id| terms[class].nodes.iter().filter(|t| matches!(t.head, Head::Scalar(op) if is_dear(op)));
    let mut pairs: Vec<(Head, Id, Id)> = Vec::new();
    for x in of(term.children[1]) {
        let same = of(term.children[2]).filter(|y| y.head == x.head);
        pairs.extend(same.map(|y| (x.head, terms.find(x.children[0]), terms.find(y.children[0]))));
    }
    let (head, x, y) = pairs.into_iter().min()?;
    let chosen = terms.add(Term::new(term.head, &[term.children[0], x, y]));
    Some(terms.add(Term::new(head, &[chosen])))
}

fn cast_of_index(terms: &mut Terms, term: &Term) -> Option<Id> {
    let Head::Cast(to) = term.head else { return None };
    let value = index_value(terms, term.children[0])?;
    let space = terms[term.children[0]].data.space;
    // A constant folds by itself, and a truth value is no index.
    if value.as_constant().is_some() || to == DType::Bool {
        return None;
    }
    let head = terms.analysis.tables.index_head(&value, to, space);
    Some(terms.add(Term::leaf(head)))
}

fn test_of_cast_bool(terms: &mut Terms, term: &Term) -> Option<Id> {
    let zero = |class: Id| terms[class].data.constant.is_some_and(|c| c.as_f64() == 0.0);
    let cast = match (zero(term.children[0]), zero(term.children[1])) {
        (false, true) => term.children[0],
        (true, false) => term.children[1],
        (true, true) | (false, false) => return None,
    };
    let bools = terms[cast].nodes.iter().filter(|t| matches!(t.head, Head::Cast(_)));
    let bools = bools.map(|t| terms.find(t.children[0]));
    let x = bools.filter(|x| terms[*x].data.dtype == DType::Bool).min()?;
    match term.head {
        Head::Scalar(ScalarOp::Ne) => Some(x),
        _ => Some(terms.add(Term::new(Head::Scalar(ScalarOp::Not), &[x]))),
    }
}
