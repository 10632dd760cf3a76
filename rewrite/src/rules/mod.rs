//! Algebraic rules, as named data.
//!
//! A [`Rule`] of elementwise ops is a row of [`algebra`]: two sides, guards, and what it promises about
//! floats. A rule that looks at attributes (index expressions, casts, reductions) is a [`Procedure`] in
//! [`structure`]. Both become rewrites of the e-graph here, and nowhere else are equalities asserted but in
//! pushing views. How to add one: `docs/add-a-rule.md`; the float policy: `docs/adr/0006-float-policy.md`.

pub mod algebra;
pub mod associate;
pub mod catalogue;
pub mod chains;
pub mod contraction;
pub mod invariant;
pub mod joined;
pub mod pattern;
pub mod pointwise;
pub mod positions;
pub mod structure;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;
use std::time::Instant;

use egg::{Applier, Id, Pattern, PatternAst, Rewrite, SearchMatches, Searcher, Subst, Symbol, Var};
use fuse_ir::ops::{Law, ScalarOp};
use fuse_ir::{DType, Literal};

use crate::analysis::{Context, Terms};
use crate::language::Term;
use crate::provenance::under;
pub use catalogue::{Family, RuleEntry, catalogue};
use pattern::{Side, matched};

/// What a rule promises about float results.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Contract {
    /// Both sides have the same value in every case: same number, same sign of zero, NaN for NaN.
    Exact,
    /// Both sides are equal over the reals and within the op table's tolerances in floats, as long as no
    /// intermediate result overflows, cancels or divides by zero; the sign of a zero may differ.
    Reassociates,
    /// Equal over the reals where both are finite, with at most this error in units in the last place more;
    /// admitted by fast-math alone.
    Approximate {
        /// The additional error.
        ulp: f64,
    },
}

/// When a rule applies, beyond its pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// The result is of a float type.
    Float,
    /// The result is of an integer type.
    Int,
    /// The variable is of a float type; for rules whose result is a bool.
    FloatVariable(&'static str),
    /// The variable is of an integer type.
    IntVariable(&'static str),
    /// The result is a bool.
    Bool,
    /// The variable is a bool.
    BoolVariable(&'static str),
}

/// A rule between elementwise terms.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// A name; unique.
    pub name: String,
    /// What is rewritten.
    pub left: String,
    /// To what.
    pub right: String,
    /// When.
    pub guards: Vec<Guard>,
    /// What it promises about floats.
    pub contract: Contract,
}

/// A rule in code: an equality of the terms of a class that looks at attributes.
#[derive(Clone, Copy)]
pub struct Procedure {
    /// A name; unique.
    pub name: &'static str,
    /// What is rewritten, in words or symbols, for `docs/rules.md`.
    pub left: &'static str,
    /// To what.
    pub right: &'static str,
    /// When, beyond what the left side says.
    pub guard: &'static str,
    /// What covers it; see [`catalogue::RuleEntry::test`].
    pub test: &'static str,
    /// Which terms it looks at.
    pub candidate: fn(&Term) -> bool,
    /// A term equal to `term`, added to the graph; `None` where the rule does not apply.
    pub apply: fn(&mut Terms, &Term) -> Option<Id>,
    /// What it promises about floats.
    pub contract: Contract,
}

/// The textual rules: the table, and those that the op table's laws imply.
pub fn rules() -> Vec<Rule> {
    let mut out = algebra::table();
    out.extend(law_rules());
    out
}

/// The rules that the laws of the op table imply; all exact, as the laws are. Laws about signs hold for floats.
fn law_rules() -> Vec<Rule> {
    let mut out = Vec::new();
    for op in ScalarOp::ALL {
        let name = op.mnemonic();
        let mut rule = |law: &str, left: String, right: String| {
            // The negation of an unsigned integer, or of the least signed one, has the wrong sign.
            let signs = matches!(law, "even" | "odd");
            let guards = if signs { vec![Guard::Float] } else { Vec::new() };
            let name = format!("{name}-{law}");
            out.push(Rule { name, left, right, guards, contract: Contract::Exact });
        };
        if op.has(Law::Involution) {
            rule("involution", format!("({name} ({name} ?x))"), "?x".into());
        }
        if op.has(Law::Idempotent) && op.arity() == 1 {
            rule("idempotent", format!("({name} ({name} ?x))"), format!("({name} ?x)"));
        }
        if op.has(Law::Idempotent) && op.arity() == 2 {
            rule("idempotent", format!("({name} ?x ?x)"), "?x".into());
        }
        if op.has(Law::Even) {
            rule("even", format!("({name} (neg ?x))"), format!("({name} ?x)"));
        }
        if op.has(Law::Odd) && *op != ScalarOp::Neg {
            rule("odd", format!("({name} (neg ?x))"), format!("(neg ({name} ?x))"));
        }
        // What rounds to integers leaves integers alone.
        for inner in ROUNDINGS.iter().filter(|inner| ROUNDINGS.contains(op) && *inner != op) {
            let inner = inner.mnemonic();
            rule(&format!("of-{inner}"), format!("({name} ({inner} ?x))"), format!("({inner} ?x)"));
        }
    }
    out
}

const ROUNDINGS: [ScalarOp; 4] = [ScalarOp::Floor, ScalarOp::Ceil, ScalarOp::Round, ScalarOp::Trunc];

/// How far rules may grow the graph; appliers check, because one rule can add a great many terms.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most nodes.
    pub nodes: usize,
    /// When to stop.
    pub deadline: Instant,
}

/// Whether the limits that the graph's context sets are reached.
pub fn limits_reached(terms: &Terms) -> bool {
    let reached = |limits: &Limits| terms.total_size() >= limits.nodes || Instant::now() >= limits.deadline;
    terms.analysis.limits.as_ref().is_some_and(reached)
}

/// Rewrites, or which rule is malformed.
type Compiled = Result<Vec<Rewrite<Term, Context>>, String>;

/// The rewrites of all rules that the options admit; compiled once, since that takes longer than applying them to
/// a small model.
///
/// # Errors
/// Names the rule of the table that is malformed; a test keeps that from happening.
pub fn rewrites(fast_math: bool) -> Result<&'static [Rewrite<Term, Context>], String> {
    static EXACT: LazyLock<Compiled> = LazyLock::new(|| compile(false));
    static FAST: LazyLock<Compiled> = LazyLock::new(|| compile(true));
    let compiled = if fast_math { &*FAST } else { &*EXACT };
    compiled.as_deref().map_err(Clone::clone)
}

fn compile(fast_math: bool) -> Compiled {
    let admitted = |contract: Contract| match contract {
        Contract::Exact | Contract::Reassociates => true,
        Contract::Approximate { .. } => fast_math,
    };
    let mut out = Vec::new();
    for rule in rules().into_iter().filter(|r| admitted(r.contract)) {
        out.extend(rule.compile().map_err(|problem| format!("rule {}: {problem}", rule.name))?);
    }
    for procedure in procedures().filter(|p| admitted(p.contract)) {
        out.push(procedure.compile()?);
    }
    Ok(out)
}

/// The rules in code.
pub fn procedures() -> impl Iterator<Item = &'static Procedure> {
    let families = [
        structure::PROCEDURES,
        pointwise::PROCEDURES,
        positions::PROCEDURES,
        contraction::PROCEDURES,
        associate::PROCEDURES,
        joined::PROCEDURES,
        invariant::PROCEDURES,
    ];
    families.into_iter().flatten()
}

impl Rule {
    /// One rewrite for each order of the operands of commutative ops on the left.
    ///
    /// # Errors
    /// In words, where a side is malformed or uses a variable that the left side does not bind.
    fn compile(&self) -> Compiled {
        let (left, right) = (Side::parse(&self.left)?, Side::parse(&self.right)?);
        let mut out = Vec::new();
        for (i, left) in left.commuted().into_iter().enumerate() {
            let (ast, numbers) = left.pattern();
            let applier = RuleApplier {
                name: self.name.clone(),
                left: ast.clone(),
                right: right.clone(),
                guards: self.guards.clone(),
                numbers,
            };
            out.push(Rewrite::new(format!("{}/{i}", self.name), Pattern::new(ast), applier)?);
        }
        Ok(out)
    }
}

impl Procedure {
    fn compile(&'static self) -> Result<Rewrite<Term, Context>, String> {
        Rewrite::new(self.name, Candidates(self), ProcedureApplier(self))
    }
}

/// The rule that a rewrite came from: commuted variants count with their rule.
pub fn rule_name(rewrite: &str) -> &str {
    rewrite.split_once('/').map_or(rewrite, |(name, _)| name)
}

struct RuleApplier {
    name: String,
    left: PatternAst<Term>,
    right: Side,
    guards: Vec<Guard>,
    numbers: Vec<(Var, f64)>,
}

impl RuleApplier {
    fn admits(&self, terms: &Terms, root: Id, subst: &Subst) -> bool {
        let number = |(var, value): &(Var, f64)| {
            let data = &terms[subst[*var]].data;
            let literal = Literal::from_f64(data.dtype, *value);
            // -1 is no value of u8, whatever it would saturate to.
            literal.as_f64() == *value && data.constant == Some(literal)
        };
        let variable =
            |name: &str| name.parse::<Var>().ok().and_then(|v| subst.get(v)).map(|id| terms[*id].data.dtype);
        let guard = |guard: &Guard| match guard {
            Guard::Float => terms[root].data.dtype.is_float(),
            Guard::Int => terms[root].data.dtype.is_int(),
            Guard::FloatVariable(name) => variable(name).is_some_and(|d| d.is_float()),
            Guard::IntVariable(name) => variable(name).is_some_and(|d| d.is_int()),
            Guard::Bool => terms[root].data.dtype == DType::Bool,
            Guard::BoolVariable(name) => variable(name) == Some(DType::Bool),
        };
        self.numbers.iter().all(number) && self.guards.iter().all(guard)
    }

    /// Whether the class is itself an operand of the term that was matched: `x + x` is `x` where `x` is `0 · y`, which
    /// may be NaN and so is no constant. Whatever follows computes the class no better than that operand does, and it
    /// would not end: `x` is `0 · 2y` too, and `0 · 3y`.
    fn matches_itself(&self, terms: &Terms, root: Id, subst: &Subst) -> bool {
        let root = terms.find(root);
        let contains = |t: &Term| t.children.iter().any(|c| terms.find(*c) == root);
        let is_possible = terms[root].nodes.iter().any(contains);
        is_possible && matched(&self.left, terms, subst).is_some_and(|t| contains(&t))
    }
}

impl Applier<Term, Context> for RuleApplier {
    fn apply_one(
        &self,
        terms: &mut Terms,
        root: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        // Nothing is simpler than a constant, and there are endlessly many terms equal to one.
        let known = terms[root].data.constant.is_some();
        if known || limits_reached(terms) || !self.admits(terms, root, subst) {
            return Vec::new();
        }
        let data = &terms[root].data;
        let (space, dtype) = (data.space, data.dtype);
        // Of a term that contains itself only what the graph has already is worth knowing.
        let right = if self.matches_itself(terms, root, subst) {
            self.right.known(terms, subst, space, dtype)
        } else {
            Some(self.right.instantiate(terms, subst, space, dtype))
        };
        let Some(right) = right else { return Vec::new() };
        if terms.analysis.record.is_kept() {
            let left = matched(&self.left, terms, subst);
            let made = self.right.outermost(terms, subst, space, dtype);
            terms.analysis.record.between(left, made);
        }
        let changed = under(terms, &self.name, |terms| terms.union(root, right));
        if changed { vec![root] } else { Vec::new() }
    }
}

/// Finds the classes with a term that a procedure looks at.
struct Candidates(&'static Procedure);

impl Searcher<Term, Context> for Candidates {
    fn search_with_limit(&self, terms: &Terms, limit: usize) -> Vec<SearchMatches<'_, Term>> {
        terms.classes().filter_map(|c| self.search_eclass_with_limit(terms, c.id, 1)).take(limit).collect()
    }

    fn search_eclass_with_limit(
        &self,
        terms: &Terms,
        class: Id,
        _limit: usize,
    ) -> Option<SearchMatches<'_, Term>> {
        let found = terms[class].nodes.iter().any(self.0.candidate);
        found.then(|| SearchMatches { eclass: class, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

struct ProcedureApplier(&'static Procedure);

impl Applier<Term, Context> for ProcedureApplier {
    fn apply_one(
        &self,
        terms: &mut Terms,
        root: Id,
        _: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        if terms[root].data.constant.is_some() {
            return Vec::new();
        }
        let nodes: Vec<Term> = terms[root].nodes.iter().filter(|t| (self.0.candidate)(t)).cloned().collect();
        let mut changed = false;
        for term in nodes {
            if limits_reached(terms) {
                break;
            }
            if let Some(equal) = (self.0.apply)(terms, &term) {
                terms.analysis.record.between(Some(term), None);
                changed |= under(terms, self.0.name, |terms| terms.union(root, equal));
            }
        }
        if changed { vec![root] } else { Vec::new() }
    }
}
