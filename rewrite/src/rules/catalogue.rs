//! Every rule, as a line of `docs/rules.md`.
//!
//! Rules of the table and of the op table's laws describe themselves; a rule in code says in words what its two
//! sides are. A new family of rules adds its entries in [`catalogue`], and nothing else: the page, and the check
//! that the test of every rule exists, follow.

use std::borrow::Cow;
use std::fmt::Write;

use super::{Contract, Guard, algebra, chains, law_rules, procedures};

/// The families of rules, in the order of the page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// Rows of the table of elementwise rules.
    Pointwise,
    /// What the laws of the op table imply.
    Laws,
    /// Rules in code about terms: index expressions, casts, reductions.
    Terms,
    /// Rules about scans.
    Scans,
}

impl Family {
    const ALL: [Family; 4] = [Family::Pointwise, Family::Laws, Family::Terms, Family::Scans];

    fn title(self) -> &'static str {
        match self {
            Family::Pointwise => "Pointwise algebra",
            Family::Laws => "Laws of the op table",
            Family::Terms => "Index expressions, casts, sums, reductions and contractions",
            Family::Scans => "Scans",
        }
    }
}

/// One rule, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct RuleEntry {
    /// The family it belongs to.
    pub family: Family,
    /// Its name; unique.
    pub name: Cow<'static, str>,
    /// What is rewritten.
    pub left: Cow<'static, str>,
    /// To what.
    pub right: Cow<'static, str>,
    /// When, beyond what the left side says; empty where always.
    pub guard: Cow<'static, str>,
    /// What it promises about floats.
    pub contract: Contract,
    /// What covers it, from the root of the repository: a case file, or `path/of/a/test.rs::name`.
    pub test: Cow<'static, str>,
}

impl RuleEntry {
    /// An entry of a rule in code.
    pub const fn new(
        family: Family,
        name: &'static str,
        sides: (&'static str, &'static str),
        guard: &'static str,
        contract: Contract,
        test: &'static str,
    ) -> Self {
        RuleEntry {
            family,
            name: Cow::Borrowed(name),
            left: Cow::Borrowed(sides.0),
            right: Cow::Borrowed(sides.1),
            guard: Cow::Borrowed(guard),
            contract,
            test: Cow::Borrowed(test),
        }
    }
}

/// What covers the textual rules: tests that take every one of them.
const TEXTUAL_TEST: &str = "rewrite/src/rules/tests.rs::both_sides_of_every_rule_keep_its_contract";

/// Every rule, by family.
pub fn catalogue() -> Vec<RuleEntry> {
    let textual = |family: Family, rule: super::Rule| RuleEntry {
        family,
        name: rule.name.into(),
        left: rule.left.into(),
        right: rule.right.into(),
        guard: rule.guards.iter().map(guard_text).collect::<Vec<_>>().join("; ").into(),
        contract: rule.contract,
        test: TEXTUAL_TEST.into(),
    };
    let mut out: Vec<RuleEntry> =
        algebra::table().into_iter().map(|r| textual(Family::Pointwise, r)).collect();
    out.extend(law_rules().into_iter().map(|r| textual(Family::Laws, r)));
    out.extend(
        procedures()
            .map(|p| RuleEntry::new(Family::Terms, p.name, (p.left, p.right), p.guard, p.contract, p.test)),
    );
    out.extend(chains::ENTRIES.iter().cloned());
    out.push(crate::scans::linear::ENTRY);
    out.push(crate::scans::chunks::ENTRY);
    out.extend(crate::scans::catalogue::ENTRIES.iter().cloned());
    out
}

fn guard_text(guard: &Guard) -> String {
    match guard {
        Guard::Float => "floats".into(),
        Guard::Int => "integers".into(),
        Guard::FloatVariable(name) => format!("{name} of a float type"),
        Guard::IntVariable(name) => format!("{name} of an integer type"),
        Guard::Bool => "bools".into(),
        Guard::BoolVariable(name) => format!("{name} a bool"),
    }
}

fn contract_text(contract: Contract) -> String {
    match contract {
        Contract::Exact => "exact".into(),
        Contract::Reassociates => "reassociates".into(),
        Contract::Approximate { ulp } => format!("approximate, {ulp} ULP; fast-math"),
    }
}

const HEADER: &str = "\
# Rules

Generated from the rules themselves (`UPDATE_DOCS=1 cargo test -p fuse-rewrite --lib catalogue`); do not edit.
[Add a rule](add-a-rule.md) says how they come about, [ADR 0006](adr/0006-float-policy.md) what the contracts mean:
**exact** rules keep every value, NaN, infinities and the sign of zero included; rules that **reassociate** are equal
over the reals and, in floats, within the op table's tolerances as long as nothing is divided by zero,
overflows or cancels (NaN stays NaN); **approximate** ones are admitted by `--fast-math` alone, and where their left side is infinite or NaN their
right side may be anything. Operands of commutative ops match in any order.
";

/// The page `docs/rules.md`.
pub fn page() -> String {
    let mut out = String::from(HEADER);
    let rules = catalogue();
    for family in Family::ALL {
        let members: Vec<_> = rules.iter().filter(|r| r.family == family).collect();
        if members.is_empty() {
            continue;
        }
        let _ = write!(out, "\n## {}\n\n| rule | left | right | when | contract | test |\n", family.title());
        out.push_str("|---|---|---|---|---|---|\n");
        for rule in members {
            let code = |text: &str| text.replace('|', "\\|");
            let sides = match family {
                Family::Pointwise | Family::Laws => (format!("`{}`", rule.left), format!("`{}`", rule.right)),
                Family::Terms | Family::Scans => (code(&rule.left), code(&rule.right)),
            };
            let test = match rule.test.split_once("::") {
                Some((file, test)) => format!("[{}](../{file})", test.replace('_', " ")),
                None => format!("[case](../{})", rule.test),
            };
            let contract = contract_text(rule.contract);
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {contract} | {test} |",
                rule.name,
                sides.0,
                sides.1,
                code(&rule.guard)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn the_page_of_rules_is_up_to_date() {
        let path = root().join("docs/rules.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == page(), "docs/rules.md is stale: UPDATE_DOCS=1 cargo test -p fuse-rewrite --lib");
    }

    #[test]
    fn names_are_unique_and_the_test_of_every_rule_exists() {
        let mut names = std::collections::BTreeSet::new();
        for rule in catalogue() {
            assert!(names.insert(rule.name.clone()), "two rules are called {}", rule.name);
            assert!(!rule.left.is_empty() && !rule.right.is_empty(), "{}", rule.name);
            let (file, test) = rule.test.split_once("::").unwrap_or((&rule.test, ""));
            let text = std::fs::read_to_string(root().join(file));
            let text = text.unwrap_or_else(|e| panic!("{}: {file}: {e}", rule.name));
            let found = test.is_empty() || text.contains(&format!("fn {test}("));
            assert!(found, "{}: {file} has no test {test}", rule.name);
        }
    }
}
