//! The case file of every rule in code.
//!
//! `rewrite/tests/rules/<rule>.fuse` holds graphs, each under a line `// applies` or `// near miss`, which may go on
//! after a colon. A near miss differs from a graph where the rule applies in one place that its guard looks at.

use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::testing::{dims_for, inputs_for};
use fuse_ir::{DimEnv, Graph, interpret_kernels, parse, verify_kernels};

use super::evaluate::{Agreement, Evaluator};
use super::random::{special_inputs, under_rules};
use super::trials;
use crate::optimize::{Optimized, Options, optimize, saturate};
use crate::provenance::Record;
use crate::rules::{Contract, RuleEntry, catalogue, rewrites, rule_name};

struct Case {
    title: String,
    applies: bool,
    graph: Graph,
}

/// The cases of a rule; none for rules that a test covers.
fn cases(rule: &RuleEntry) -> Vec<Case> {
    if !rule.test.ends_with(".fuse") {
        return Vec::new();
    }
    let path = format!("{}/../{}", env!("CARGO_MANIFEST_DIR"), rule.test);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let title =
            line.strip_prefix("// ").filter(|t| t.starts_with("applies") || t.starts_with("near miss"));
        match (title, sections.last_mut()) {
            (Some(title), _) => sections.push((title.to_string(), String::new())),
            (None, Some(section)) => section.1 += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    let read = |(title, text): (String, String)| {
        let graph =
            parse(&text).unwrap_or_else(|e| panic!("{}: {title}: {}", rule.name, e.render(&path, &text)));
        fuse_ir::verify(&graph).unwrap_or_else(|e| panic!("{}: {title}: {e}", rule.name));
        Case { applies: title.starts_with("applies"), title, graph }
    };
    sections.into_iter().map(read).collect()
}

fn optimized(graph: &Graph) -> Optimized {
    let device = fuse_ir::device::DeviceModel::cpu();
    optimize(graph, &device, &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn rules_in_code_apply_where_they_should_and_not_on_near_misses() {
    for rule in catalogue() {
        let cases = cases(&rule);
        let both =
            cases.iter().any(|c| c.applies) && (rule.guard.is_empty() || cases.iter().any(|c| !c.applies));
        assert!(both || !rule.test.ends_with(".fuse"), "{} needs cases of both kinds", rule.name);
        for case in cases {
            let applied = optimized(&case.graph).report.saturation.applied;
            let count = applied.get(&*rule.name).copied().unwrap_or(0);
            assert_eq!(count > 0, case.applies, "{}: {}: applied {count} times", rule.name, case.title);
        }
    }
}

fn dims(graph: &Graph, trial: usize) -> DimEnv {
    let (t, b) = [(3, 2), (0, 1), (1, 0), (2, 4), (4, 1), (1, 1), (0, 0)][trial % 7];
    dims_for(graph, &DimEnv::new().with("T", t).with("B", b))
}

/// How often each of that many cases of a rule is run, at least at all dimensions.
fn runs(trials: usize, cases: usize) -> usize {
    trials.div_ceil(cases.max(1)).max(7)
}

#[test]
fn the_graphs_of_cases_compute_what_they_mean() {
    for rule in catalogue() {
        let cases = cases(&rule);
        let runs = runs(trials(100), cases.len());
        for case in cases {
            let kernels = optimized(&case.graph).kernels;
            verify_kernels(&kernels).unwrap_or_else(|e| panic!("{}: {}: {e}", rule.name, case.title));
            for trial in 0..runs {
                let dims = dims(&case.graph, trial);
                let inputs = inputs_for(&case.graph, &dims, trial as u64).unwrap();
                let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
                let expected = interpreter.run(&case.graph, &inputs).unwrap();
                let got = interpret_kernels(&kernels, &inputs, &dims).unwrap();
                for (e, g) in expected.iter().zip(&got) {
                    for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                        let close =
                            (e - g).abs() <= 1e-9 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                        // Inputs are finite: something was divided by zero, which only exact rules keep apart.
                        let undefined = !e.is_finite() && rule.contract != Contract::Exact;
                        assert!(
                            close || undefined,
                            "{}: {} at {dims:?}: {e} and {g}\n{kernels}",
                            rule.name,
                            case.title
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_rules_in_code_hold_equal_in_their_cases_is_equal() {
    for rule in catalogue() {
        let cases = cases(&rule);
        // Every node of every class at every point takes longer than the graph.
        let runs = runs(trials(100) / 10, cases.len());
        for case in cases {
            let own: Vec<_> = rewrites(true).unwrap().iter().collect();
            let own: Vec<_> = own.into_iter().filter(|r| rule_name(r.name.as_str()) == rule.name).collect();
            let exact = rule.contract == Contract::Exact && !own.is_empty();
            // Exact rules by themselves, bit by bit; the others among all.
            let terms = if exact {
                under_rules(&case.graph, &own)
            } else {
                saturate(&case.graph, &Options::default(), Record::default()).unwrap().0.terms
            };
            for trial in 0..runs {
                let dims = dims(&case.graph, trial);
                let (inputs, how) = if exact {
                    (special_inputs(&case.graph, &dims, trial as u64), Agreement::Exact)
                } else {
                    (inputs_for(&case.graph, &dims, trial as u64).unwrap(), Agreement::Within(1e-7))
                };
                let problems = Evaluator::new(&terms, &dims, &inputs).disagreements(how);
                assert!(problems.is_empty(), "{}: {}: {}", rule.name, case.title, problems.join("\n"));
            }
        }
    }
}
