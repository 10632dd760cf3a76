//! Every rule of the table: its two sides agree on values, it fires where it should, and on nothing that
//! differs from its left side in one place.

use std::collections::BTreeMap;

use egg::Id;
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Dim, Literal, TensorType};

use super::pattern::{Side, in_order};
use super::*;
use crate::analysis::Context;
use crate::language::{Head, Term};

fn sides(rule: &Rule) -> (Side, Side) {
    (Side::parse(&rule.left).unwrap(), Side::parse(&rule.right).unwrap())
}

/// The type of each variable of a side with a result of type `result` where values have type `dtype`.
fn variable_types(side: &Side, result: DType, dtype: DType, out: &mut BTreeMap<String, DType>) {
    match side {
        Side::Variable(name) => {
            out.insert(name.clone(), result);
        }
        Side::Number(_) => {}
        Side::Apply(op, operands) => {
            for (i, operand) in operands.iter().enumerate() {
                variable_types(operand, Side::operand_type(*op, i, result, dtype), dtype, out);
            }
        }
    }
}

fn types_in(side: &Side, dtype: DType) -> BTreeMap<String, DType> {
    let mut types = BTreeMap::new();
    variable_types(side, side.result_type(dtype), dtype, &mut types);
    types
}

fn numbers_fit(side: &Side, result: DType, dtype: DType) -> bool {
    match side {
        Side::Variable(_) => true,
        Side::Number(value) => Literal::from_f64(result, *value).as_f64() == *value,
        Side::Apply(op, operands) => {
            let fits =
                |(i, o): (usize, &Side)| numbers_fit(o, Side::operand_type(*op, i, result, dtype), dtype);
            operands.iter().enumerate().all(fits)
        }
    }
}

/// Whether the types fit where values have type `dtype`, guards aside.
fn is_typed(side: &Side, dtype: DType) -> bool {
    let ones = types_in(side, dtype).into_iter().map(|(name, ty)| (name, Literal::from_i64(ty, 1)));
    let result = side.result_type(dtype);
    numbers_fit(side, result, dtype) && side.evaluate(&ones.collect(), result, dtype).is_some()
}

/// Whether a guard admits values of type `dtype`.
fn guard_admits(guard: &Guard, dtype: DType) -> bool {
    match guard {
        Guard::Float | Guard::FloatVariable(_) => dtype.is_float(),
        Guard::Int | Guard::IntVariable(_) => dtype.is_int(),
        Guard::Bool | Guard::BoolVariable(_) => dtype == DType::Bool,
    }
}

/// The types of values that a rule is for.
fn types_of(rule: &Rule) -> Vec<DType> {
    let (left, _) = sides(rule);
    let admits = |d: &DType| is_typed(&left, *d) && rule.guards.iter().all(|g| guard_admits(g, *d));
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

    /// Values whose functions neither overflow nor cancel badly, and floats by which one may divide.
    fn tame(&mut self, dtype: DType) -> Literal {
        Literal::from_f64(dtype, (self.next() % 8000) as f64 / 1000.0 - 3.9995)
    }
}

#[test]
fn names_are_unique_and_every_rule_compiles() {
    let mut names: Vec<String> = rules().into_iter().map(|r| r.name).collect();
    names.extend(procedures().map(|p| p.name.to_string()));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(rewrites(true).unwrap().len() >= count);
    assert!(rewrites(true).unwrap().len() > rewrites(false).unwrap().len());
}

#[test]
fn a_malformed_side_is_named() {
    for text in ["(add ?x)", "(nope ?x)", "(add ?x ?y", "?x ?y", "(add ?x huh)", ""] {
        assert!(Side::parse(text).is_err(), "{text}");
    }
}

/// How many random values each rule is tried on: 400, or `FUSE_SOAK` where that is set.
fn trials() -> usize {
    std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

/// Whether two results agree as far as a contract promises it.
fn agree(contract: Contract, a: Literal, b: Literal) -> bool {
    let (x, y) = (a.as_f64(), b.as_f64());
    let close = x == y || (x - y).abs() <= 1e-9 * (1.0 + x.abs());
    match contract {
        Contract::Exact => a == b || (x.is_nan() && y.is_nan()),
        Contract::Reassociates => close || (x.is_nan() && y.is_nan()),
        Contract::Approximate { .. } => !x.is_finite() || close,
    }
}

#[test]
fn both_sides_of_every_rule_keep_its_contract() {
    for rule in rules() {
        let (left, right) = sides(&rule);
        let mut compared = 0;
        for dtype in types_of(&rule) {
            let (types, result) = (types_in(&left, dtype), left.result_type(dtype));
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            // Away from exactness, in f64, so that what is compared is the algebra and not the rounding.
            if rule.contract != Contract::Exact && dtype.is_float() && dtype != DType::F64 {
                continue;
            }
            for _ in 0..trials() {
                let mut draw = |ty: DType| match rule.contract {
                    Contract::Exact => random.any(ty),
                    Contract::Reassociates | Contract::Approximate { .. } => random.tame(ty),
                };
                let values: BTreeMap<_, _> = types.iter().map(|(n, t)| (n.clone(), draw(*t))).collect();
                let a = left.evaluate(&values, result, dtype).unwrap();
                let b = right.evaluate(&values, result, dtype).unwrap();
                assert!(agree(rule.contract, a, b), "{}: {values:?} gives {a:?} and {b:?}", rule.name);
                compared += 1;
            }
        }
        assert!(compared >= trials(), "{} was compared {compared} times", rule.name);
    }
}

/// Rules that reassociate may make a NaN out of infinities and of what overflows, but lose none: where an operand
/// is NaN both sides are, or both are what the left side is without regard to it (`pow(NaN, 0)`).
#[test]
fn no_rule_of_the_default_loses_a_nan() {
    for rule in rules() {
        let (left, right) = sides(&rule);
        for dtype in types_of(&rule).into_iter().filter(|d| d.is_float()) {
            let (types, result) = (types_in(&left, dtype), left.result_type(dtype));
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            if matches!(rule.contract, Contract::Approximate { .. }) {
                continue;
            }
            for i in 0..trials() {
                let draw = |(k, (name, ty)): (usize, (&String, &DType))| {
                    let nan = i % types.len() == k && ty.is_float();
                    let value = if nan { Literal::from_f64(*ty, f64::NAN) } else { random.any(*ty) };
                    (name.clone(), value)
                };
                let values: BTreeMap<_, _> = types.iter().enumerate().map(draw).collect();
                let a = left.evaluate(&values, result, dtype).unwrap();
                let b = right.evaluate(&values, result, dtype).unwrap();
                let lost = a.as_f64().is_nan() && !b.as_f64().is_nan();
                assert!(!lost, "{}: {values:?} gives {a:?} and {b:?}", rule.name);
            }
        }
    }
}

/// An e-graph with an input for each variable of some sides.
fn graph_of(sides: &[&Side], dtype: DType) -> (Terms, BTreeMap<String, Id>) {
    let types: BTreeMap<_, _> = sides.iter().flat_map(|side| types_in(side, dtype)).collect();
    let mut context = Context::default();
    context.tables.leaves =
        types.values().map(|ty| TensorType { dtype: *ty, shape: vec![Dim::constant(3)] }).collect();
    let mut terms = Terms::new(context);
    let leaves =
        types.keys().enumerate().map(|(i, name)| (name.clone(), terms.add(Term::leaf(Head::Leaf(i as u32)))));
    let leaves: BTreeMap<_, _> = leaves.collect();
    (terms, leaves)
}

/// A side as a term with a result of type `result` where values have type `dtype`.
fn add(terms: &mut Terms, leaves: &BTreeMap<String, Id>, side: &Side, result: DType, dtype: DType) -> Id {
    match side {
        Side::Variable(name) => leaves[name],
        Side::Number(value) => {
            let space = terms.analysis.tables.space(&[Dim::constant(3)]);
            let head = terms.analysis.tables.constant_head(Literal::from_f64(result, *value), space);
            terms.add(Term::leaf(head))
        }
        Side::Apply(op, operands) => {
            let operand = |(i, o): (usize, &Side)| {
                add(terms, leaves, o, Side::operand_type(*op, i, result, dtype), dtype)
            };
            let children: Vec<Id> = operands.iter().enumerate().map(operand).collect();
            let term = in_order(terms, *op, &children);
            terms.add(term)
        }
    }
}

/// Whether the rule alone makes `start` equal to its right side.
fn fires(rule: &Rule, start: &Side, dtype: DType) -> bool {
    let (left, right) = sides(rule);
    let (mut terms, leaves) = graph_of(&[&left, start], dtype);
    let a = add(&mut terms, &leaves, start, start.result_type(dtype), dtype);
    terms.rebuild();
    let own = rule.compile().unwrap();
    let runner = egg::Runner::<_, _, ()>::new(Context::default()).with_egraph(terms).run(&own);
    let mut terms = runner.egraph;
    let b = add(&mut terms, &leaves, &right, left.result_type(dtype), dtype);
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
        Side::Number(_) => emit(Side::Number(5.0)),
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
            let others = [DType::F32, DType::F64, DType::I32, DType::I64, DType::U8, DType::Bool];
            for other in others.into_iter().filter(|d| !guard_admits(guard, *d) && is_typed(&left, *d)) {
                assert!(!fires(&rule, &left, other), "{} for {other}", rule.name);
            }
        }
    }
}

/// Without its guard a rule would be wrong somewhere, or it needs none.
#[test]
fn every_guard_keeps_a_rule_from_where_it_is_wrong() {
    let mut narrower = Vec::new();
    for rule in rules() {
        let (left, right) = sides(&rule);
        let unguarded = Rule { guards: Vec::new(), ..rule.clone() };
        let refused = types_of(&unguarded).into_iter().filter(|d| !types_of(&rule).contains(d));
        let mut refused = refused.peekable();
        if refused.peek().is_none() || NARROWER_THAN_NEEDED.contains(&rule.name.as_str()) {
            continue;
        }
        let wrong = refused.any(|dtype| {
            let (types, result) = (types_in(&left, dtype), left.result_type(dtype));
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            (0..2000).any(|_| {
                let values = types.iter().map(|(n, t)| (n.clone(), random.any(*t))).collect();
                let a = left.evaluate(&values, result, dtype);
                a.zip(right.evaluate(&values, result, dtype))
                    .is_none_or(|(a, b)| !agree(Contract::Exact, a, b))
            })
        });
        if !wrong {
            narrower.push(rule.name);
        }
    }
    assert!(narrower.is_empty(), "guards refuse what would be right: {narrower:?}");
}

/// Rules whose guards say more than correctness asks for: another rule, with a better contract, does the same for
/// the other types.
const NARROWER_THAN_NEEDED: &[&str] = &[
    "add-positive-zero",
    "positive-zero-sub",
    "select-lt-min-fast",
    "select-gt-max-fast",
    "select-relu-fast",
];

/// A graph with many places for one rule, its limits, and how many terms that rule adds.
fn terms_added(limits: Limits) -> usize {
    let rule = rules().into_iter().find(|r| r.name == "factor").unwrap();
    let (mut terms, leaves) = graph_of(&[&sides(&rule).0], DType::F64);
    let mut x = leaves["?x"];
    for _ in 0..200 {
        let product = |terms: &mut Terms, y: Id| terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[x, y]));
        let [a, b] = ["?y", "?z"].map(|name| product(&mut terms, leaves[name]));
        x = terms.add(Term::new(Head::Scalar(ScalarOp::Add), &[a, b]));
    }
    terms.analysis.limits = Some(limits);
    terms.rebuild();
    let before = terms.total_number_of_nodes();
    let own = rule.compile().unwrap();
    let runner = egg::Runner::<_, _, ()>::new(Context::default()).with_egraph(terms).with_iter_limit(1);
    runner.run(&own).egraph.total_number_of_nodes() - before
}

/// The matcher's own limits are looked at between rules; a rule with many matches must stop by itself.
#[test]
fn a_rule_stops_at_its_limits_in_the_middle() {
    let far = Instant::now() + std::time::Duration::from_secs(600);
    let all = terms_added(Limits { nodes: usize::MAX, deadline: far });
    assert!(all >= 200, "{all}");
    let some = terms_added(Limits { nodes: 650, deadline: far });
    assert!((1..100).contains(&some), "{some} of {all}");
    assert_eq!(terms_added(Limits { nodes: usize::MAX, deadline: Instant::now() }), 0);
}
