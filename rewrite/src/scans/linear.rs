//! States that are linear in themselves, as recurrences.
//!
//! Where the next state of a carry is `factor·state + term` and neither factor nor term depends on the loop, the
//! state needs no loop: it is a [recurrence](fuse_ir::kernel::Recurrence), which a kernel computes along its
//! axis with the state in a register. The rule says so of three classes: the state before a step, the one after it,
//! and the one after the last step. Once a state is a recurrence, what is computed from it lies outside the loop
//! too, and may be the factor or term of another state.
//!
//! Collecting factor and term reassociates: `(1 - z)·h + z·n` is one multiplication and one addition as before,
//! `h·a·b` becomes `h·(a·b)`. A state that a selection replaces altogether is left alone: multiplied by zero,
//! an infinite state would not go away.

use std::collections::HashMap;

use egg::Id;
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Literal};

use crate::analysis::Terms;
use crate::language::{Head, ScanId, Term};
use crate::rules::Contract;
use crate::rules::catalogue::{Family, RuleEntry};

/// The name of the rule.
pub const RULE: &str = "linear-recurrence";

/// The rule, for people.
pub const ENTRY: RuleEntry = RuleEntry::new(
    Family::Scans,
    RULE,
    ("a state whose next value is f·state + b", "a recurrence along the axis of time: no loop"),
    "f and b do not depend on the loop, f is not zero where a selection replaces the state; floats, i32, i64",
    Contract::Reassociates,
    "rewrite/tests/recurrences.rs::sums_averages_and_gated_states_are_one_kernel",
);

/// How many operations deep a next state is searched for its state.
const MAX_DEPTH: usize = 32;

/// Turns linear states into recurrences, one after the other, since one may make another linear. Returns how many.
pub fn recognise_recurrences(terms: &mut Terms) -> usize {
    let mut count = 0;
    while recognise_once(terms) {
        count += 1;
    }
    count
}

fn recognise_once(terms: &mut Terms) -> bool {
    let mut carries = Vec::new();
    for class in terms.classes() {
        for term in &class.nodes {
            if let Head::Carry(scan, i) = term.head {
                carries.push((scan, i, class.id));
            }
        }
    }
    carries.sort_unstable();
    for (scan, i, carry) in carries {
        let info = terms.analysis.tables.scan(scan);
        let (depth, init, next) =
            (info.depth(), info.carries[i as usize].init, info.carries[i as usize].next);
        let data = &terms[next].data;
        let takes = matches!(
            data.dtype,
            DType::F32 | DType::F64 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64
        );
        let done = terms[next].nodes.iter().any(|t| matches!(t.head, Head::Recurrence { .. }));
        if !takes || done || !data.inside.contains(scan) || terms.find(next) == carry {
            continue;
        }
        let mut search = Search { scan, carry, known: HashMap::new() };
        let Some(Linear { factor: Some(factor), term }) = search.decompose(terms, next, MAX_DEPTH) else {
            continue;
        };
        let (factor, term) = (search.class(terms, factor), search.class_or_zero(terms, term));
        let operands = [init, factor, term];
        let axis = depth as u8;
        let before = Term::new(Head::Recurrence { axis, exclusive: true }, &operands);
        let after = Term::new(Head::Recurrence { axis, exclusive: false }, &operands);
        let last = Term::new(Head::ScanFinal(scan, i), &[init, next]);
        equal(terms, carry, Some(Term::leaf(Head::Carry(scan, i))), before);
        let after_id = equal(terms, next, None, after);
        // A sum over time in its place needs no order.
        if !terms.analysis.tables.retired.finals.contains(&(scan, i)) {
            let last_id = terms.add(last.clone());
            equal(terms, last_id, Some(last), Term::new(Head::RecurrenceFinal(axis), &[init, after_id]));
        }
        terms.rebuild();
        return true;
    }
    false
}

fn equal(terms: &mut Terms, class: Id, known: Option<Term>, new: Term) -> Id {
    let id = terms.add(new.clone());
    terms.analysis.record.between(known, Some(new));
    terms.union(class, id);
    terms.find(id)
}

/// `factor·state + term`; without a factor it does not depend on the state, without a term nothing is added.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Linear {
    factor: Option<Factor>,
    term: Option<Id>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Factor {
    One,
    Class(Id),
}

/// The search below one next state.
struct Search {
    scan: ScanId,
    carry: Id,
    /// What is known of each class; nothing while it is being searched, so that cycles end.
    known: HashMap<Id, Option<Linear>>,
}

impl Search {
    fn decompose(&mut self, terms: &mut Terms, class: Id, depth: usize) -> Option<Linear> {
        let class = terms.find(class);
        if class == terms.find(self.carry) {
            return Some(Linear { factor: Some(Factor::One), term: None });
        }
        if !terms[class].data.inside.contains(self.scan) {
            return Some(Linear { factor: None, term: Some(class) });
        }
        if let Some(known) = self.known.get(&class) {
            return *known;
        }
        if depth == 0 {
            return None;
        }
        self.known.insert(class, None);
        let mut nodes: Vec<Term> = terms[class].nodes.clone();
        nodes.sort_unstable();
        let found = nodes.iter().find_map(|term| self.term(terms, term, depth - 1));
        self.known.insert(class, found);
        found
    }

    fn term(&mut self, terms: &mut Terms, term: &Term, depth: usize) -> Option<Linear> {
        let Head::Scalar(op) = term.head else { return None };
        let mut operand = |terms: &mut Terms, i: usize| self.decompose(terms, term.children[i], depth);
        match op {
            ScalarOp::Add | ScalarOp::Sub => {
                let (x, y) = (operand(terms, 0)?, operand(terms, 1)?);
                let factor = match (x.factor, y.factor) {
                    (Some(x), Some(y)) => {
                        let (x, y) = (self.class(terms, x), self.class(terms, y));
                        Some(Factor::Class(scalar(terms, op, &[x, y])))
                    }
                    (x, None) => x,
                    (None, Some(y)) if op == ScalarOp::Add => Some(y),
                    (None, Some(y)) => Some(self.negated(terms, y)),
                };
                let term = match (x.term, y.term) {
                    (Some(x), Some(y)) => Some(scalar(terms, op, &[x, y])),
                    (x, None) => x,
                    (None, Some(y)) if op == ScalarOp::Add => Some(y),
                    (None, Some(y)) => Some(scalar(terms, ScalarOp::Neg, &[y])),
                };
                Some(Linear { factor, term })
            }
            ScalarOp::Neg => {
                let x = operand(terms, 0)?;
                let factor = x.factor.map(|f| self.negated(terms, f));
                Some(Linear { factor, term: x.term.map(|t| scalar(terms, op, &[t])) })
            }
            ScalarOp::Mul => {
                let (x, y) = (operand(terms, 0)?, operand(terms, 1)?);
                let (linear, by) = if y.factor.is_none() { (x, y.term?) } else { (y, x.free()?) };
                Some(self.scaled(terms, linear, |terms, x| scalar(terms, ScalarOp::Mul, &[x, by]), by))
            }
            ScalarOp::Div if terms[term.children[0]].data.dtype.is_float() => {
                let (x, by) = (operand(terms, 0)?, operand(terms, 1)?.free()?);
                let one = self.class(terms, Factor::One);
                let inverse = scalar(terms, ScalarOp::Div, &[one, by]);
                Some(self.scaled(terms, x, |terms, x| scalar(terms, ScalarOp::Div, &[x, by]), inverse))
            }
            ScalarOp::Select => {
                let condition = operand(terms, 0)?.free()?;
                let (x, y) = (operand(terms, 1)?, operand(terms, 2)?);
                let (f, g) = (x.factor?, y.factor?);
                let (f, g) = (self.class(terms, f), self.class(terms, g));
                let factor = scalar(terms, op, &[condition, f, g]);
                let term = match (x.term, y.term) {
                    (None, None) => None,
                    (a, b) => {
                        let (a, b) = (self.class_or_zero(terms, a), self.class_or_zero(terms, b));
                        Some(scalar(terms, op, &[condition, a, b]))
                    }
                };
                Some(Linear { factor: Some(Factor::Class(factor)), term })
            }
            ScalarOp::Abs
            | ScalarOp::Sign
            | ScalarOp::Floor
            | ScalarOp::Ceil
            | ScalarOp::Round
            | ScalarOp::Trunc
            | ScalarOp::Sqrt
            | ScalarOp::Rsqrt
            | ScalarOp::Reciprocal
            | ScalarOp::Exp
            | ScalarOp::Exp2
            | ScalarOp::Expm1
            | ScalarOp::Log
            | ScalarOp::Log2
            | ScalarOp::Log1p
            | ScalarOp::Sin
            | ScalarOp::Cos
            | ScalarOp::Tanh
            | ScalarOp::Sigmoid
            | ScalarOp::Relu
            | ScalarOp::Softplus
            | ScalarOp::Erf
            | ScalarOp::Not
            | ScalarOp::IsNan
            | ScalarOp::ToBits
            | ScalarOp::FromBits
            | ScalarOp::Div
            | ScalarOp::Mod
            | ScalarOp::Rem
            | ScalarOp::Pow
            | ScalarOp::Min
            | ScalarOp::Max
            | ScalarOp::Eq
            | ScalarOp::Ne
            | ScalarOp::Lt
            | ScalarOp::Le
            | ScalarOp::Gt
            | ScalarOp::Ge
            | ScalarOp::And
            | ScalarOp::Or
            | ScalarOp::Xor
            | ScalarOp::Clamp => None,
        }
    }

    /// A linear form whose factor and term are each passed through `scale`; `one` is what becomes of a factor of 1.
    fn scaled(&self, terms: &mut Terms, x: Linear, scale: impl Fn(&mut Terms, Id) -> Id, one: Id) -> Linear {
        let factor = x.factor.map(|f| match f {
            Factor::One => Factor::Class(one),
            Factor::Class(f) => Factor::Class(scale(terms, f)),
        });
        Linear { factor, term: x.term.map(|t| scale(terms, t)) }
    }

    fn negated(&self, terms: &mut Terms, factor: Factor) -> Factor {
        let factor = self.class(terms, factor);
        Factor::Class(scalar(terms, ScalarOp::Neg, &[factor]))
    }

    fn class(&self, terms: &mut Terms, factor: Factor) -> Id {
        match factor {
            Factor::One => self.constant(terms, 1),
            Factor::Class(id) => id,
        }
    }

    fn class_or_zero(&self, terms: &mut Terms, term: Option<Id>) -> Id {
        term.unwrap_or_else(|| self.constant(terms, 0))
    }

    /// A constant over the space of the state.
    fn constant(&self, terms: &mut Terms, value: i64) -> Id {
        let data = &terms[self.carry].data;
        let (dtype, space) = (data.dtype, data.space);
        let head = terms.analysis.tables.constant_head(Literal::from_i64(dtype, value), space);
        terms.add(Term::leaf(head))
    }
}

impl Linear {
    /// The class, if it does not depend on the state.
    fn free(&self) -> Option<Id> {
        if self.factor.is_none() { self.term } else { None }
    }
}

fn scalar(terms: &mut Terms, op: ScalarOp, operands: &[Id]) -> Id {
    terms.add(Term::new(Head::Scalar(op), operands))
}
