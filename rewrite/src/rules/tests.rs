//! Every rule of the table: its two sides agree on values, it fires where it should, and on nothing that
//! differs from its left side in one place.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use egg::Id;
use fuse_ir::ops::{ResultRule, ScalarOp};
use fuse_ir::{DType, Dim, Literal, TensorType};

use super::pattern::Side;
use super::*;
use crate::analysis::Context;
use crate::language::{Head, Term};

fn sides(rule: &Rule) -> (Side, Side) {
    (Side::parse(&rule.left).unwrap(), Side::parse(&rule.right).unwrap())
}

/// The type of each variable where values have type `dtype`: conditions are bools.
fn variable_types(side: &Side, dtype: DType, out: &mut BTreeMap<String, DType>) {
    match side {
        Side::Variable(name) => {
            out.insert(name.clone(), dtype);
        }
        Side::Number(_) => {}
        Side::Apply(op, operands) => {
            for (i, operand) in operands.iter().enumerate() {
                let condition = op.result_rule() == ResultRule::Select && i == 0;
                variable_types(operand, if condition { DType::Bool } else { dtype }, out);
            }
        }
    }
}

fn numbers_fit(side: &Side, dtype: DType) -> bool {
    match side {
        Side::Variable(_) => true,
        Side::Number(value) => Literal::from_f64(dtype, *value).as_f64() == *value,
        Side::Apply(_, operands) => operands.iter().all(|o| numbers_fit(o, dtype)),
    }
}

/// The types of values that a rule is for.
fn types_of(rule: &Rule) -> Vec<DType> {
    let (left, _) = sides(rule);
    let admits = |dtype: &DType| {
        let guard = |g: &Guard| match g {
            Guard::Float | Guard::FloatVariable(_) => dtype.is_float(),
            Guard::Int | Guard::IntVariable(_) => dtype.is_int(),
        };
        let mut types = BTreeMap::new();
        variable_types(&left, *dtype, &mut types);
        let ones = types.into_iter().map(|(name, ty)| (name, Literal::from_i64(ty, 1))).collect();
        numbers_fit(&left, *dtype) && rule.guards.iter().all(guard) && left.evaluate(&ones, *dtype).is_some()
    };
    DType::ALL.into_iter().filter(admits).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Values of all kinds: special ones often.
    fn any(&mut self, dtype: DType) -> Literal {
        let special =
            [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 3e38];
        match self.next() % 3 {
            0 => Literal::from_f64(dtype, special[(self.next() % special.len() as u64) as usize]),
            1 => self.tame(dtype),
            _ => Literal::from_bits(dtype, self.next()),
        }
    }

    /// Values whose functions neither overflow nor cancel badly.
    fn tame(&mut self, dtype: DType) -> Literal {
        Literal::from_f64(dtype, (self.next() % 8001) as f64 / 1000.0 - 4.0)
    }
}

#[test]
fn names_are_unique_and_every_rule_compiles() {
    let mut names: Vec<String> = rules().into_iter().map(|r| r.name).collect();
    names.extend(structure::PROCEDURES.iter().map(|p| p.name.to_string()));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    let limits = Limits { nodes: 1000, deadline: Instant::now() };
    assert!(rewrites(false, limits).unwrap().len() >= count - 4);
    assert!(rewrites(true, limits).unwrap().len() > rewrites(false, limits).unwrap().len());
}

#[test]
fn a_malformed_side_is_named() {
    for text in ["(add ?x)", "(nope ?x)", "(add ?x ?y", "?x ?y", "(add ?x huh)", ""] {
        assert!(Side::parse(text).is_err(), "{text}");
    }
}

#[test]
fn both_sides_of_every_rule_keep_its_contract() {
    for rule in rules() {
        let (left, right) = sides(&rule);
        let mut compared = 0;
        for dtype in types_of(&rule) {
            let mut types = BTreeMap::new();
            variable_types(&left, dtype, &mut types);
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            // Away from exactness, in f64, so that what is compared is the algebra and not the rounding.
            if rule.contract != Contract::Exact && dtype.is_float() && dtype != DType::F64 {
                continue;
            }
            for _ in 0..400 {
                let mut draw = |ty: DType| match rule.contract {
                    Contract::Exact => random.any(ty),
                    Contract::Reassociates | Contract::Approximate { .. } => random.tame(ty),
                };
                let values: BTreeMap<_, _> = types.iter().map(|(n, t)| (n.clone(), draw(*t))).collect();
                let a = left.evaluate(&values, dtype).unwrap();
                let b = right.evaluate(&values, dtype).unwrap();
                let (x, y) = (a.as_f64(), b.as_f64());
                let agree = match rule.contract {
                    Contract::Exact => a == b || (x.is_nan() && y.is_nan()),
                    Contract::Reassociates => {
                        x == y || (x - y).abs() <= 1e-9 * (1.0 + x.abs()) || (x.is_nan() && y.is_nan())
                    }
                    Contract::Approximate { .. } => !x.is_finite() || (x - y).abs() <= 1e-9 * (1.0 + x.abs()),
                };
                assert!(agree, "{}: {values:?} gives {a:?} and {b:?}", rule.name);
                compared += 1;
            }
        }
        assert!(compared >= 400, "{} was compared {compared} times", rule.name);
    }
}

/// An e-graph with an input for each variable of some sides.
fn graph_of(sides: &[&Side], dtype: DType) -> (Terms, BTreeMap<String, Id>) {
    let mut types = BTreeMap::new();
    sides.iter().for_each(|side| variable_types(side, dtype, &mut types));
    let mut context = Context::default();
    context.tables.leaves =
        types.values().map(|ty| TensorType { dtype: *ty, shape: vec![Dim::constant(3)] }).collect();
    let mut terms = Terms::new(context);
    let leaves =
        types.keys().enumerate().map(|(i, name)| (name.clone(), terms.add(Term::leaf(Head::Leaf(i as u32)))));
    let leaves: BTreeMap<_, _> = leaves.collect();
    (terms, leaves)
}

fn add(terms: &mut Terms, leaves: &BTreeMap<String, Id>, side: &Side, dtype: DType) -> Id {
    match side {
        Side::Variable(name) => leaves[name],
        Side::Number(value) => {
            let space = terms.analysis.tables.space(&[Dim::constant(3)]);
            let head = terms.analysis.tables.constant_head(Literal::from_f64(dtype, *value), space);
            terms.add(Term::leaf(head))
        }
        Side::Apply(op, operands) => {
            let children: Vec<Id> = operands
                .iter()
                .enumerate()
                .map(|(i, o)| {
                    let condition = op.result_rule() == ResultRule::Select && i == 0;
                    add(terms, leaves, o, if condition { DType::Bool } else { dtype })
                })
                .collect();
            terms.add(Term::new(Head::Scalar(*op), &children))
        }
    }
}

/// Whether the rule alone makes `start` equal to its right side.
fn fires(rule: &Rule, start: &Side, dtype: DType) -> bool {
    let (left, right) = sides(rule);
    let (mut terms, leaves) = graph_of(&[&left, start], dtype);
    let a = add(&mut terms, &leaves, start, dtype);
    let limits = Limits { nodes: 10_000, deadline: Instant::now() + Duration::from_secs(60) };
    let own: Vec<_> = rewrites(true, limits)
        .unwrap()
        .into_iter()
        .filter(|r| rule_name(r.name.as_str()) == rule.name)
        .collect();
    let runner = egg::Runner::<_, _, ()>::new(Context::default()).with_egraph(terms).run(&own);
    let mut terms = runner.egraph;
    let b = add(&mut terms, &leaves, &right, dtype);
    terms.rebuild();
    terms.find(a) == terms.find(b)
}

#[test]
fn every_rule_fires_on_its_left_side_in_any_order_of_operands() {
    for rule in rules() {
        let (left, _) = sides(&rule);
        let dtype = types_of(&rule)[0];
        for start in left.commuted() {
            assert!(fires(&rule, &start, dtype), "{} on {start:?}", rule.name);
        }
    }
}

/// The sides that differ from this one in one place: another op, another number, another variable where one is
/// repeated, anything for an operand.
fn near_misses(side: &Side) -> Vec<Side> {
    let mut out = Vec::new();
    let mut seen = Vec::new();
    mutate(side, &mut seen, &mut |mutant| out.push(mutant));
    out
}

fn mutate(side: &Side, seen: &mut Vec<String>, emit: &mut dyn FnMut(Side)) {
    match side {
        Side::Variable(name) => {
            if seen.contains(name) {
                emit(Side::Variable(format!("{name}other")));
            }
            seen.push(name.clone());
        }
        Side::Number(1.0) => emit(Side::Number(0.0)),
        Side::Number(0.0) => emit(Side::Number(1.0)),
        Side::Number(_) => emit(Side::Number(3.0)),
        Side::Apply(op, operands) => {
            let similar = |o: &&ScalarOp| {
                **o != *op
                    && o.arity() == op.arity()
                    && o.result_rule() == op.result_rule()
                    && o.domain() == op.domain()
            };
            if let Some(other) = ScalarOp::ALL.iter().find(similar) {
                emit(Side::Apply(*other, operands.clone()));
            }
            for (i, operand) in operands.iter().enumerate() {
                if matches!(operand, Side::Apply(..)) {
                    let mut operands = operands.clone();
                    operands[i] = Side::Variable("?any".into());
                    emit(Side::Apply(*op, operands));
                }
                let mut each = |mutant: Side| {
                    let mut operands = operands.clone();
                    operands[i] = mutant;
                    emit(Side::Apply(*op, operands));
                };
                mutate(operand, seen, &mut each);
            }
        }
    }
}

#[test]
fn no_rule_fires_on_a_near_miss() {
    for rule in rules() {
        let (left, _) = sides(&rule);
        let dtype = types_of(&rule)[0];
        let misses = near_misses(&left);
        assert!(!misses.is_empty(), "{}", rule.name);
        for miss in misses {
            assert!(!fires(&rule, &miss, dtype), "{} on {miss:?}", rule.name);
        }
    }
}

#[test]
fn guards_keep_rules_from_other_types() {
    for rule in rules() {
        let (left, _) = sides(&rule);
        for guard in &rule.guards {
            let other = match guard {
                Guard::Float | Guard::FloatVariable(_) => DType::I32,
                Guard::Int | Guard::IntVariable(_) => DType::F32,
            };
            let mut types = BTreeMap::new();
            variable_types(&left, other, &mut types);
            let ones = types.into_iter().map(|(n, ty)| (n, Literal::from_i64(ty, 1))).collect();
            if left.evaluate(&ones, other).is_some() {
                assert!(!fires(&rule, &left, other), "{} for {other}", rule.name);
            }
        }
    }
}
