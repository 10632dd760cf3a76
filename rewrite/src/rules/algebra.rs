//! The table of elementwise rules.

use super::{Contract, Guard, Rule};

const EXACT: Contract = Contract::Exact;
const REASSOCIATES: Contract = Contract::Reassociates;

/// (name, left, right, guards, contract)
type Row = (&'static str, &'static str, &'static str, &'static [Guard], Contract);

/// One direction each, always towards the form that is cheaper or that other rules know: rules in both
/// directions (tanh and sigmoid, say) never end.
const TABLE: &[Row] = &[
    // Neutral elements. x + 0 turns -0 into 0, so only -0 is neutral exactly (for integers they are one).
    ("add-zero", "(add ?x -0)", "?x", &[], EXACT),
    ("add-positive-zero", "(add ?x 0)", "?x", &[Guard::Float], REASSOCIATES),
    ("sub-zero", "(sub ?x 0)", "?x", &[], EXACT),
    ("mul-one", "(mul ?x 1)", "?x", &[], EXACT),
    ("div-one", "(div ?x 1)", "?x", &[], EXACT),
    ("pow-one", "(pow ?x 1)", "?x", &[], EXACT),
    // 0 · NaN is NaN and inf - inf is NaN, so for integers alone.
    ("mul-zero", "(mul ?x 0)", "0", &[Guard::Int], EXACT),
    ("sub-self", "(sub ?x ?x)", "0", &[Guard::Int], EXACT),
    // Signs.
    ("add-neg", "(add ?x (neg ?y))", "(sub ?x ?y)", &[], EXACT),
    ("sub-neg", "(sub ?x (neg ?y))", "(add ?x ?y)", &[], EXACT),
    ("neg-sub", "(neg (sub ?x ?y))", "(sub ?y ?x)", &[], REASSOCIATES),
    ("zero-sub", "(sub -0 ?x)", "(neg ?x)", &[], EXACT),
    ("mul-minus-one", "(mul ?x -1)", "(neg ?x)", &[], EXACT),
    ("mul-neg", "(mul (neg ?x) ?y)", "(neg (mul ?x ?y))", &[], EXACT),
    ("div-neg", "(div (neg ?x) ?y)", "(neg (div ?x ?y))", &[Guard::Float], EXACT),
    // Selections.
    ("select-true", "(select 1 ?x ?y)", "?x", &[], EXACT),
    ("select-false", "(select 0 ?x ?y)", "?y", &[], EXACT),
    ("select-same", "(select ?c ?x ?x)", "?x", &[], EXACT),
    ("select-not", "(select (not ?c) ?x ?y)", "(select ?c ?y ?x)", &[], EXACT),
    ("select-then", "(select ?c (select ?c ?x ?y) ?z)", "(select ?c ?x ?z)", &[], EXACT),
    ("select-else", "(select ?c ?x (select ?c ?y ?z))", "(select ?c ?x ?z)", &[], EXACT),
    // Comparisons of integers; with NaN neither a < b nor a ≥ b holds.
    ("not-lt", "(not (lt ?x ?y))", "(ge ?x ?y)", &[Guard::IntVariable("?x")], EXACT),
    ("not-ge", "(not (ge ?x ?y))", "(lt ?x ?y)", &[Guard::IntVariable("?x")], EXACT),
    ("not-eq", "(not (eq ?x ?y))", "(ne ?x ?y)", &[], EXACT),
    ("not-ne", "(not (ne ?x ?y))", "(eq ?x ?y)", &[], EXACT),
    // One op for several.
    ("max-relu", "(maximum ?x 0)", "(relu ?x)", &[], EXACT),
    ("div-reciprocal", "(div 1 ?x)", "(reciprocal ?x)", &[Guard::Float], EXACT),
    ("reciprocal-sqrt", "(reciprocal (sqrt ?x))", "(rsqrt ?x)", &[], REASSOCIATES),
    ("pow-square", "(pow ?x 2)", "(mul ?x ?x)", &[], REASSOCIATES),
    ("exp-minus-one", "(sub (exp ?x) 1)", "(expm1 ?x)", &[], REASSOCIATES),
    ("log-one-plus", "(log (add 1 ?x))", "(log1p ?x)", &[], REASSOCIATES),
    ("one-minus-sigmoid", "(sub 1 (sigmoid ?x))", "(sigmoid (neg ?x))", &[], REASSOCIATES),
    ("sigmoid-from-exp", "(reciprocal (add 1 (exp (neg ?x))))", "(sigmoid ?x)", &[], REASSOCIATES),
    ("tanh-from-sigmoid", "(sub (mul 2 (sigmoid (mul 2 ?x))) 1)", "(tanh ?x)", &[], REASSOCIATES),
    // Fast-math.
    ("log-exp", "(log (exp ?x))", "?x", &[], Contract::Approximate { ulp: 2.0 }),
    ("exp-product", "(mul (exp ?x) (exp ?y))", "(exp (add ?x ?y))", &[], Contract::Approximate { ulp: 4.0 }),
    ("sqrt-square", "(mul (sqrt ?x) (sqrt ?x))", "?x", &[], Contract::Approximate { ulp: 1.5 }),
    (
        "div-as-mul",
        "(div ?x ?y)",
        "(mul ?x (reciprocal ?y))",
        &[Guard::Float],
        Contract::Approximate { ulp: 1.0 },
    ),
];

/// The rows as rules.
pub fn table() -> Vec<Rule> {
    let rule = |(name, left, right, guards, contract): &Row| Rule {
        name: name.to_string(),
        left: left.to_string(),
        right: right.to_string(),
        guards: guards.to_vec(),
        contract: *contract,
    };
    TABLE.iter().map(rule).collect()
}
