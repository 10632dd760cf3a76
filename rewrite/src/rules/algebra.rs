//! The table of elementwise rules.
//!
//! One direction each, always towards the form that is cheaper or that other rules know: rules in both
//! directions (tanh and sigmoid, say) never end. What is absent is as deliberate: `0 · x`, `x - x`, `x / x`,
//! `σ(x) + σ(-x)` lose a NaN; selections by a comparison are no minimum where one operand is NaN; `x · (1/y)` stays
//! two ops, for the reciprocal is often one a row and the product one an element.

use super::{Contract, Guard, Rule};

const EXACT: Contract = Contract::Exact;
const REASSOCIATES: Contract = Contract::Reassociates;

const fn approximate(ulp: f64) -> Contract {
    Contract::Approximate { ulp }
}

const FLOAT: &[Guard] = &[Guard::Float];
const INT: &[Guard] = &[Guard::Int];
const BOOL: &[Guard] = &[Guard::Bool];
const OF_FLOATS: &[Guard] = &[Guard::FloatVariable("?x")];
const OF_INTS: &[Guard] = &[Guard::IntVariable("?x")];
const OF_BOOLS: &[Guard] = &[Guard::BoolVariable("?x")];

/// (name, left, right, guards, contract)
type Row = (&'static str, &'static str, &'static str, &'static [Guard], Contract);

/// Neutral and absorbing elements, and what cancels.
const IDENTITIES: &[Row] = &[
    // x + 0 turns -0 into 0, so only -0 is neutral exactly (for integers they are one).
    ("add-zero", "(add ?x -0)", "?x", &[], EXACT),
    ("add-positive-zero", "(add ?x 0)", "?x", FLOAT, REASSOCIATES),
    ("sub-zero", "(sub ?x 0)", "?x", &[], EXACT),
    ("mul-one", "(mul ?x 1)", "?x", &[], EXACT),
    ("div-one", "(div ?x 1)", "?x", &[], EXACT),
    ("pow-one", "(pow ?x 1)", "?x", &[], EXACT),
    // IEEE 754 has it so even for NaN.
    ("pow-zero", "(pow ?x 0)", "1", &[], EXACT),
    ("one-pow", "(pow 1 ?x)", "1", &[], EXACT),
    // 0 · NaN is NaN and inf - inf is NaN, so for integers alone.
    ("mul-zero", "(mul ?x 0)", "0", INT, EXACT),
    ("sub-self", "(sub ?x ?x)", "0", INT, EXACT),
    ("add-sub", "(add (sub ?x ?y) ?y)", "?x", INT, EXACT),
    ("sub-add", "(sub (add ?x ?y) ?y)", "?x", INT, EXACT),
    ("zero-div", "(div 0 ?x)", "0", INT, EXACT),
    ("mod-one", "(modulo ?x 1)", "0", INT, EXACT),
    ("rem-one", "(rem ?x 1)", "0", INT, EXACT),
    // Of floats the inner remainder may round up to y itself.
    ("mod-mod", "(modulo (modulo ?x ?y) ?y)", "(modulo ?x ?y)", INT, EXACT),
    ("rem-rem", "(rem (rem ?x ?y) ?y)", "(rem ?x ?y)", &[], EXACT),
    // One product less. Sums that do not overflow on the left may on the right.
    ("factor", "(add (mul ?x ?y) (mul ?x ?z))", "(mul ?x (add ?y ?z))", &[], REASSOCIATES),
    ("factor-sub", "(sub (mul ?x ?y) (mul ?x ?z))", "(mul ?x (sub ?y ?z))", &[], REASSOCIATES),
    ("factor-div", "(add (div ?x ?z) (div ?y ?z))", "(div (add ?x ?y) ?z)", FLOAT, REASSOCIATES),
];

/// Signs and magnitudes.
const SIGNS: &[Row] = &[
    ("add-neg", "(add ?x (neg ?y))", "(sub ?x ?y)", &[], EXACT),
    ("sub-neg", "(sub ?x (neg ?y))", "(add ?x ?y)", &[], EXACT),
    ("neg-sub", "(neg (sub ?x ?y))", "(sub ?y ?x)", &[], REASSOCIATES),
    ("zero-sub", "(sub -0 ?x)", "(neg ?x)", &[], EXACT),
    ("positive-zero-sub", "(sub 0 ?x)", "(neg ?x)", FLOAT, REASSOCIATES),
    ("mul-minus-one", "(mul ?x -1)", "(neg ?x)", &[], EXACT),
    ("div-minus-one", "(div ?x -1)", "(neg ?x)", &[], EXACT),
    ("mul-neg", "(mul (neg ?x) ?y)", "(neg (mul ?x ?y))", &[], EXACT),
    ("div-neg", "(div (neg ?x) ?y)", "(neg (div ?x ?y))", FLOAT, EXACT),
    ("div-by-neg", "(div ?x (neg ?y))", "(neg (div ?x ?y))", FLOAT, EXACT),
    ("reciprocal-neg", "(reciprocal (neg ?x))", "(neg (reciprocal ?x))", &[], EXACT),
    // The absolute value of the least integer is itself, and of an unsigned negation anything.
    ("max-neg-self", "(maximum ?x (neg ?x))", "(abs ?x)", FLOAT, EXACT),
    ("max-neg-neg", "(maximum (neg ?x) (neg ?y))", "(neg (minimum ?x ?y))", FLOAT, EXACT),
    ("min-neg-neg", "(minimum (neg ?x) (neg ?y))", "(neg (maximum ?x ?y))", FLOAT, EXACT),
    ("relu-plus-relu-neg", "(add (relu ?x) (relu (neg ?x)))", "(abs ?x)", FLOAT, EXACT),
    ("relu-minus-relu-neg", "(sub (relu ?x) (relu (neg ?x)))", "?x", FLOAT, REASSOCIATES),
    ("sign-times-self", "(mul (sign ?x) ?x)", "(abs ?x)", &[], EXACT),
    ("sign-times-abs", "(mul (sign ?x) (abs ?x))", "?x", &[], EXACT),
    ("abs-squared", "(mul (abs ?x) (abs ?x))", "(mul ?x ?x)", &[], EXACT),
    ("abs-product", "(mul (abs ?x) (abs ?y))", "(abs (mul ?x ?y))", FLOAT, EXACT),
    ("abs-square", "(abs (mul ?x ?x))", "(mul ?x ?x)", FLOAT, EXACT),
    ("relu-square", "(relu (mul ?x ?x))", "(mul ?x ?x)", FLOAT, EXACT),
    ("relu-abs", "(relu (abs ?x))", "(abs ?x)", FLOAT, EXACT),
    ("abs-relu", "(abs (relu ?x))", "(relu ?x)", &[], EXACT),
    ("relu-exp", "(relu (exp ?x))", "(exp ?x)", &[], EXACT),
    ("abs-exp", "(abs (exp ?x))", "(exp ?x)", &[], EXACT),
    ("relu-sigmoid", "(relu (sigmoid ?x))", "(sigmoid ?x)", &[], EXACT),
    ("abs-sigmoid", "(abs (sigmoid ?x))", "(sigmoid ?x)", &[], EXACT),
    ("relu-softplus", "(relu (softplus ?x))", "(softplus ?x)", &[], EXACT),
];

/// Minimum, maximum and clamping: NaN in any operand is NaN in the result, and -0 is below 0.
const ORDER: &[Row] = &[
    ("max-relu", "(maximum ?x 0)", "(relu ?x)", &[], EXACT),
    ("max-least", "(maximum ?x -inf)", "?x", &[], EXACT),
    ("min-greatest", "(minimum ?x inf)", "?x", &[], EXACT),
    ("max-max", "(maximum (maximum ?x ?y) ?y)", "(maximum ?x ?y)", &[], EXACT),
    ("min-min", "(minimum (minimum ?x ?y) ?y)", "(minimum ?x ?y)", &[], EXACT),
    // With y a NaN the left side is one.
    ("min-max", "(minimum ?x (maximum ?x ?y))", "?x", INT, EXACT),
    ("max-min", "(maximum ?x (minimum ?x ?y))", "?x", INT, EXACT),
    ("max-plus-min", "(add (maximum ?x ?y) (minimum ?x ?y))", "(add ?x ?y)", &[], EXACT),
    ("max-times-min", "(mul (maximum ?x ?y) (minimum ?x ?y))", "(mul ?x ?y)", &[], EXACT),
    ("clamp-above", "(clamp ?x ?y inf)", "(maximum ?x ?y)", &[], EXACT),
    ("clamp-below", "(clamp ?x -inf ?y)", "(minimum ?x ?y)", &[], EXACT),
    ("clamp-clamp", "(clamp (clamp ?x ?y ?z) ?y ?z)", "(clamp ?x ?y ?z)", &[], EXACT),
    ("clamp-relu", "(clamp (relu ?x) 0 ?y)", "(clamp ?x 0 ?y)", &[], EXACT),
    ("min-relu", "(minimum (relu ?x) ?y)", "(clamp ?x 0 ?y)", &[], EXACT),
    ("min-of-max", "(minimum (maximum ?x ?y) ?z)", "(clamp ?x ?y ?z)", &[], EXACT),
];

/// Bools, and integers bit by bit.
const LOGIC: &[Row] = &[
    ("and-true", "(and ?x 1)", "?x", BOOL, EXACT),
    ("and-false", "(and ?x 0)", "0", &[], EXACT),
    ("or-true", "(or ?x 1)", "1", BOOL, EXACT),
    ("or-false", "(or ?x 0)", "?x", &[], EXACT),
    ("xor-true", "(xor ?x 1)", "(not ?x)", BOOL, EXACT),
    ("xor-false", "(xor ?x 0)", "?x", &[], EXACT),
    ("xor-self", "(xor ?x ?x)", "0", &[], EXACT),
    ("xor-not", "(xor (not ?x) ?y)", "(not (xor ?x ?y))", &[], EXACT),
    ("and-not-self", "(and ?x (not ?x))", "0", &[], EXACT),
    ("or-not-self", "(or ?x (not ?x))", "1", BOOL, EXACT),
    ("and-not-not", "(and (not ?x) (not ?y))", "(not (or ?x ?y))", &[], EXACT),
    ("or-not-not", "(or (not ?x) (not ?y))", "(not (and ?x ?y))", &[], EXACT),
    ("and-or", "(and ?x (or ?x ?y))", "?x", &[], EXACT),
    ("or-and", "(or ?x (and ?x ?y))", "?x", &[], EXACT),
    ("and-and", "(and ?x (and ?x ?y))", "(and ?x ?y)", &[], EXACT),
    ("or-or", "(or ?x (or ?x ?y))", "(or ?x ?y)", &[], EXACT),
];

/// Comparisons. With NaN neither a < b nor a ≥ b holds, so negation turns one into the other for integers alone.
const COMPARISONS: &[Row] = &[
    ("not-lt", "(not (lt ?x ?y))", "(ge ?x ?y)", OF_INTS, EXACT),
    ("not-le", "(not (le ?x ?y))", "(gt ?x ?y)", OF_INTS, EXACT),
    ("not-gt", "(not (gt ?x ?y))", "(le ?x ?y)", OF_INTS, EXACT),
    ("not-ge", "(not (ge ?x ?y))", "(lt ?x ?y)", OF_INTS, EXACT),
    ("not-eq", "(not (eq ?x ?y))", "(ne ?x ?y)", &[], EXACT),
    ("not-ne", "(not (ne ?x ?y))", "(eq ?x ?y)", &[], EXACT),
    ("lt-self", "(lt ?x ?x)", "0", &[], EXACT),
    ("gt-self", "(gt ?x ?x)", "0", &[], EXACT),
    ("le-self", "(le ?x ?x)", "1", OF_INTS, EXACT),
    ("ge-self", "(ge ?x ?x)", "1", OF_INTS, EXACT),
    ("eq-self", "(eq ?x ?x)", "1", OF_INTS, EXACT),
    ("ne-self", "(ne ?x ?x)", "0", OF_INTS, EXACT),
    ("ne-self-is-nan", "(ne ?x ?x)", "(is_nan ?x)", OF_FLOATS, EXACT),
    ("eq-self-is-number", "(eq ?x ?x)", "(not (is_nan ?x))", OF_FLOATS, EXACT),
    ("eq-true", "(eq ?x 1)", "?x", OF_BOOLS, EXACT),
    ("ne-false", "(ne ?x 0)", "?x", OF_BOOLS, EXACT),
    ("eq-false", "(eq ?x 0)", "(not ?x)", OF_BOOLS, EXACT),
    ("ne-true", "(ne ?x 1)", "(not ?x)", OF_BOOLS, EXACT),
    ("lt-or-eq", "(or (lt ?x ?y) (eq ?x ?y))", "(le ?x ?y)", &[], EXACT),
    ("gt-or-eq", "(or (gt ?x ?y) (eq ?x ?y))", "(ge ?x ?y)", &[], EXACT),
    ("le-and-ne", "(and (le ?x ?y) (ne ?x ?y))", "(lt ?x ?y)", &[], EXACT),
    ("ge-and-ne", "(and (ge ?x ?y) (ne ?x ?y))", "(gt ?x ?y)", &[], EXACT),
    ("le-and-ge", "(and (le ?x ?y) (ge ?x ?y))", "(eq ?x ?y)", &[], EXACT),
    ("lt-or-gt", "(or (lt ?x ?y) (gt ?x ?y))", "(ne ?x ?y)", OF_INTS, EXACT),
    // The negation of the least integer is itself.
    ("lt-neg-neg", "(lt (neg ?x) (neg ?y))", "(gt ?x ?y)", OF_FLOATS, EXACT),
    ("gt-neg-neg", "(gt (neg ?x) (neg ?y))", "(lt ?x ?y)", OF_FLOATS, EXACT),
    ("le-neg-neg", "(le (neg ?x) (neg ?y))", "(ge ?x ?y)", OF_FLOATS, EXACT),
    ("ge-neg-neg", "(ge (neg ?x) (neg ?y))", "(le ?x ?y)", OF_FLOATS, EXACT),
    ("is-nan-neg", "(is_nan (neg ?x))", "(is_nan ?x)", &[], EXACT),
    ("is-nan-abs", "(is_nan (abs ?x))", "(is_nan ?x)", &[], EXACT),
    ("is-nan-relu", "(is_nan (relu ?x))", "(is_nan ?x)", &[], EXACT),
    ("is-nan-tanh", "(is_nan (tanh ?x))", "(is_nan ?x)", &[], EXACT),
    ("is-nan-sigmoid", "(is_nan (sigmoid ?x))", "(is_nan ?x)", &[], EXACT),
    ("is-nan-exp", "(is_nan (exp ?x))", "(is_nan ?x)", &[], EXACT),
];

/// Selections. Nested ones do not join their conditions: a class of equal selections would join them for ever.
const SELECTIONS: &[Row] = &[
    ("select-true", "(select 1 ?x ?y)", "?x", &[], EXACT),
    ("select-false", "(select 0 ?x ?y)", "?y", &[], EXACT),
    ("select-same", "(select ?c ?x ?x)", "?x", &[], EXACT),
    ("select-not", "(select (not ?c) ?x ?y)", "(select ?c ?y ?x)", &[], EXACT),
    ("select-then", "(select ?c (select ?c ?x ?y) ?z)", "(select ?c ?x ?z)", &[], EXACT),
    ("select-else", "(select ?c ?x (select ?c ?y ?z))", "(select ?c ?x ?z)", &[], EXACT),
    ("select-condition", "(select ?c 1 0)", "?c", BOOL, EXACT),
    ("select-no-condition", "(select ?c 0 1)", "(not ?c)", BOOL, EXACT),
    ("select-and", "(select ?c ?x 0)", "(and ?c ?x)", BOOL, EXACT),
    ("select-or", "(select ?c 1 ?x)", "(or ?c ?x)", BOOL, EXACT),
    // With a NaN the comparison fails and the selection is a number, or the other NaN.
    ("select-lt-min", "(select (lt ?x ?y) ?x ?y)", "(minimum ?x ?y)", INT, EXACT),
    ("select-lt-max", "(select (lt ?x ?y) ?y ?x)", "(maximum ?x ?y)", INT, EXACT),
    ("select-gt-max", "(select (gt ?x ?y) ?x ?y)", "(maximum ?x ?y)", INT, EXACT),
    ("select-gt-min", "(select (gt ?x ?y) ?y ?x)", "(minimum ?x ?y)", INT, EXACT),
    ("select-le-min", "(select (le ?x ?y) ?x ?y)", "(minimum ?x ?y)", INT, EXACT),
    ("select-ge-max", "(select (ge ?x ?y) ?x ?y)", "(maximum ?x ?y)", INT, EXACT),
    ("select-eq", "(select (eq ?x ?y) ?x ?y)", "?y", INT, EXACT),
    ("select-ne", "(select (ne ?x ?y) ?x ?y)", "?x", INT, EXACT),
];

/// Division, roots, powers, exponentials and their relatives: one op for several.
const FUNCTIONS: &[Row] = &[
    ("div-reciprocal", "(div 1 ?x)", "(reciprocal ?x)", FLOAT, EXACT),
    ("div-by-reciprocal", "(div ?x (reciprocal ?y))", "(mul ?x ?y)", &[], REASSOCIATES),
    ("reciprocal-div", "(reciprocal (div ?x ?y))", "(div ?y ?x)", &[], REASSOCIATES),
    ("div-div", "(div (div ?x ?y) ?z)", "(div ?x (mul ?y ?z))", FLOAT, REASSOCIATES),
    ("div-by-div", "(div ?x (div ?y ?z))", "(div (mul ?x ?z) ?y)", FLOAT, REASSOCIATES),
    ("reciprocal-sqrt", "(reciprocal (sqrt ?x))", "(rsqrt ?x)", &[], REASSOCIATES),
    ("div-sqrt", "(div ?x (sqrt ?y))", "(mul ?x (rsqrt ?y))", &[], REASSOCIATES),
    ("div-rsqrt", "(div ?x (rsqrt ?y))", "(mul ?x (sqrt ?y))", &[], REASSOCIATES),
    ("pow-square", "(pow ?x 2)", "(mul ?x ?x)", &[], REASSOCIATES),
    ("pow-cube", "(pow ?x 3)", "(mul ?x (mul ?x ?x))", &[], REASSOCIATES),
    ("pow-root", "(pow ?x 0.5)", "(sqrt ?x)", &[], REASSOCIATES),
    ("pow-inverse", "(pow ?x -1)", "(reciprocal ?x)", &[], REASSOCIATES),
    ("pow-inverse-root", "(pow ?x -0.5)", "(rsqrt ?x)", &[], REASSOCIATES),
    ("two-pow", "(pow 2 ?x)", "(exp2 ?x)", &[], REASSOCIATES),
    ("exp-minus-one", "(sub (exp ?x) 1)", "(expm1 ?x)", &[], REASSOCIATES),
    ("exp-plus-minus-one", "(add (exp ?x) -1)", "(expm1 ?x)", &[], REASSOCIATES),
    ("expm1-plus-one", "(add (expm1 ?x) 1)", "(exp ?x)", &[], REASSOCIATES),
    ("log-one-plus", "(log (add 1 ?x))", "(log1p ?x)", &[], REASSOCIATES),
    ("softplus-from-exp", "(log1p (exp ?x))", "(softplus ?x)", &[], REASSOCIATES),
    ("reciprocal-exp", "(reciprocal (exp ?x))", "(exp (neg ?x))", &[], REASSOCIATES),
    ("div-exp", "(div ?y (exp ?x))", "(mul ?y (exp (neg ?x)))", &[], REASSOCIATES),
    ("one-minus-sigmoid", "(sub 1 (sigmoid ?x))", "(sigmoid (neg ?x))", &[], REASSOCIATES),
    ("sigmoid-from-exp", "(reciprocal (add 1 (exp ?x)))", "(sigmoid (neg ?x))", &[], REASSOCIATES),
    // The division by an infinite exponential is the product with a sigmoid that underflows.
    ("div-one-plus-exp", "(div ?x (add 1 (exp ?y)))", "(mul ?x (sigmoid (neg ?y)))", &[], REASSOCIATES),
    ("sigmoid-from-odds", "(div (exp ?x) (add 1 (exp ?x)))", "(sigmoid ?x)", &[], REASSOCIATES),
    ("sigmoid-from-tanh", "(mul 0.5 (add 1 (tanh (mul 0.5 ?x))))", "(sigmoid ?x)", &[], REASSOCIATES),
    ("tanh-from-sigmoid", "(sub (mul 2 (sigmoid (mul 2 ?x))) 1)", "(tanh ?x)", &[], REASSOCIATES),
    (
        "tanh-from-exp",
        "(div (sub (exp ?x) (exp (neg ?x))) (add (exp ?x) (exp (neg ?x))))",
        "(tanh ?x)",
        &[],
        REASSOCIATES,
    ),
    ("tanh-from-expm1", "(div (expm1 (mul 2 ?x)) (add 1 (exp (mul 2 ?x))))", "(tanh ?x)", &[], REASSOCIATES),
    ("log-sigmoid", "(log (sigmoid ?x))", "(neg (softplus (neg ?x)))", &[], REASSOCIATES),
    ("softplus-minus-self", "(sub (softplus ?x) ?x)", "(softplus (neg ?x))", &[], REASSOCIATES),
];

/// Admitted by `--fast-math` alone: NaN, infinities, and numbers near the ends of the range may differ.
const FAST_MATH: &[Row] = &[
    ("log-exp", "(log (exp ?x))", "?x", &[], approximate(2.0)),
    ("exp-log", "(exp (log ?x))", "?x", &[], approximate(2.0)),
    ("log2-exp2", "(log2 (exp2 ?x))", "?x", &[], approximate(2.0)),
    ("exp2-log2", "(exp2 (log2 ?x))", "?x", &[], approximate(2.0)),
    ("expm1-log1p", "(expm1 (log1p ?x))", "?x", &[], approximate(3.0)),
    ("log1p-expm1", "(log1p (expm1 ?x))", "?x", &[], approximate(3.0)),
    ("exp-product", "(mul (exp ?x) (exp ?y))", "(exp (add ?x ?y))", &[], approximate(4.0)),
    ("exp-quotient", "(div (exp ?x) (exp ?y))", "(exp (sub ?x ?y))", &[], approximate(4.0)),
    ("log-quotient", "(sub (log ?x) (log ?y))", "(log (div ?x ?y))", &[], approximate(4.0)),
    ("sqrt-squared", "(mul (sqrt ?x) (sqrt ?x))", "?x", &[], approximate(1.5)),
    ("sqrt-of-square", "(sqrt (mul ?x ?x))", "(abs ?x)", &[], approximate(1.0)),
    ("rsqrt-squared", "(mul (rsqrt ?x) (rsqrt ?x))", "(reciprocal ?x)", &[], approximate(3.0)),
    ("self-times-rsqrt", "(mul ?x (rsqrt ?x))", "(sqrt ?x)", &[], approximate(2.0)),
    ("reciprocal-twice", "(reciprocal (reciprocal ?x))", "?x", &[], approximate(1.0)),
    ("div-as-mul", "(div ?x ?y)", "(mul ?x (reciprocal ?y))", FLOAT, approximate(1.0)),
    ("select-lt-min-fast", "(select (lt ?x ?y) ?x ?y)", "(minimum ?x ?y)", FLOAT, approximate(0.0)),
    ("select-gt-max-fast", "(select (gt ?x ?y) ?x ?y)", "(maximum ?x ?y)", FLOAT, approximate(0.0)),
    ("select-relu-fast", "(select (gt ?x 0) ?x 0)", "(relu ?x)", FLOAT, approximate(0.0)),
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
    let sections = [IDENTITIES, SIGNS, ORDER, LOGIC, COMPARISONS, SELECTIONS, FUNCTIONS, FAST_MATH];
    sections.into_iter().flatten().map(rule).collect()
}
