use std::collections::BTreeMap;

use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::interp::Precision;
use crate::ops::{Direction, OP_ROWS, Op, ReduceOp, ScalarOp};
use crate::{parse, verify};

/// Edits of a text: what to do, where, and a character to do it with.
type Edit = (u8, prop::sample::Index, prop::sample::Index, char);

fn arb_edits() -> impl Strategy<Value = Vec<Edit>> {
    let character = prop_oneof![
        4 => prop::sample::select("()[]{},:=+-*%\"\\/.0159 \naxTBn".chars().collect::<Vec<_>>()),
        1 => any::<char>(),
    ];
    let edit = (0u8..5, any::<prop::sample::Index>(), any::<prop::sample::Index>(), character);
    prop::collection::vec(edit, 1..6)
}

fn apply_edits(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (kind, at, other, character) in edits {
        if chars.is_empty() {
            break;
        }
        let (i, j) = (at.index(chars.len()), other.index(chars.len()));
        match kind {
            0 => chars[i] = *character,
            1 => chars.insert(i, *character),
            2 => drop(chars.drain(i..(i + 1 + j % 12).min(chars.len()))),
            3 => {
                let piece: Vec<char> = chars[i..(i + 1 + j % 40).min(chars.len())].to_vec();
                let to = other.index(chars.len());
                chars.splice(to..to, piece);
            }
            _ => chars.truncate(i),
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #[test]
    fn random_graphs_are_valid(graph in arb_graph(GraphConfig::text())) {
        if let Err(error) = verify(&graph) {
            return Err(TestCaseError::fail(format!("{error}\n{graph}")));
        }
    }

    #[test]
    fn parsing_what_is_printed_gives_the_same_graph(graph in arb_graph(GraphConfig::text())) {
        let text = graph.to_string();
        match parse(&text) {
            Ok(again) => {
                prop_assert_eq!(&again, &graph);
                prop_assert_eq!(again.to_string(), text);
            }
            Err(error) => return Err(TestCaseError::fail(error.render("printed.fuse", &text))),
        }
    }

    #[test]
    fn edited_text_is_an_error_or_a_valid_graph(graph in arb_graph(GraphConfig::text()), edits in arb_edits()) {
        let text = apply_edits(&graph.to_string(), &edits);
        match parse(&text) {
            Ok(graph) => {
                if let Err(error) = verify(&graph) {
                    return Err(TestCaseError::fail(format!("{error}\nfrom\n{text}")));
                }
                let printed = graph.to_string();
                prop_assert_eq!(parse(&printed).map_err(|e| e.render("printed.fuse", &printed)), Ok(graph));
            }
            Err(error) => {
                prop_assert!(error.span.start <= error.span.end && error.span.end <= text.len());
                let shown = error.render("edited.fuse", &text);
                prop_assert!(shown.contains(&format!("edited.fuse:{}:{}", error.line, error.column)), "{}", shown);
            }
        }
    }

    #[test]
    fn any_text_is_refused_or_read(text in ".{0,200}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.render("noise.fuse", &text).is_empty());
        }
    }

    #[test]
    fn random_graphs_run_at_any_dimensions(
        graph in arb_graph(GraphConfig::default()),
        dims in arb_dims(),
        seed in any::<u64>(),
    ) {
        let inputs = inputs_for(&graph, &dims, seed).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let interpreter = crate::interp::Interpreter::new(Precision::Declared).with_dims(dims_for(&graph, &dims));
        let outputs = match interpreter.run(&graph, &inputs) {
            Ok(outputs) => outputs,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{dims:?}\n{graph}"))),
        };
        for (output, tensor) in graph.outputs().iter().zip(&outputs) {
            let extents = graph.ty(output.value).shape.iter().map(|d| d.eval_dim(&dims));
            let shape: Vec<i64> = extents.collect::<Result<_, _>>().map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(shape.iter().copied().eq(tensor.shape().iter().map(|n| *n as i64)));
        }
    }

    #[test]
    fn pictures_have_a_node_for_every_edge(graph in arb_graph(GraphConfig::text())) {
        let picture = crate::dot(&graph);
        let ends = picture.lines().filter_map(|l| l.trim().split_once(" -> "));
        for (from, to) in ends {
            let to = to.split_once(" [").map_or(to, |(to, _)| to);
            for end in [from, to] {
                let declared = format!("{end} [label=");
                prop_assert!(picture.lines().any(|l| l.trim().starts_with(&declared)), "{}\n{}", end, picture);
            }
        }
    }
}

/// Counts what occurs in a graph: mnemonics, element types, extents, properties of scans.
fn count_features(graph: &Graph, depth: usize, out: &mut BTreeMap<String, usize>) {
    fn note(out: &mut BTreeMap<String, usize>, feature: String) {
        *out.entry(feature).or_default() += 1;
    }
    for (_, value) in graph.values() {
        note(out, format!("element type {}", value.ty.dtype));
        value.ty.shape.iter().for_each(|d| note(out, format!("extent {d}")));
    }
    for (_, node) in graph.nodes() {
        note(out, format!("op {}", node.op.mnemonic()));
        if let Op::Scan(scan) = &node.op {
            note(out, format!("scan at depth {depth}"));
            note(out, format!("reverse {}", scan.direction == Direction::Reverse));
            note(out, format!("lengths {}", scan.lengths));
            count_features(&scan.body, depth + 1, out);
        }
    }
}

#[test]
fn everything_is_drawn() {
    let mut runner = TestRunner::deterministic();
    let strategy = arb_graph(GraphConfig::default());
    let mut counts = BTreeMap::new();
    for _ in 0..3000 {
        let tree = strategy.new_tree(&mut runner).expect("a graph is drawn");
        count_features(&tree.current(), 0, &mut counts);
    }
    let scalars = ScalarOp::ALL.iter().filter(|op| **op != ScalarOp::ToBits).map(|op| op.mnemonic());
    let reductions = ReduceOp::ALL.into_iter().map(ReduceOp::mnemonic);
    let rows = OP_ROWS.iter().map(|row| row.mnemonic).filter(|m| !matches!(*m, "elementwise" | "reduce"));
    let mut expected: Vec<String> =
        scalars.chain(reductions).chain(rows).map(|m| format!("op {m}")).collect();
    expected.extend(DType::ALL.map(|d| format!("element type {d}")));
    expected.extend(["0", "1", "2", "3", "5", "T", "B", "B*T", "min(2, T)"].map(|d| format!("extent {d}")));
    expected.extend(["scan at depth 0", "scan at depth 1"].map(String::from));
    expected.extend(["reverse true", "reverse false", "lengths true", "lengths false"].map(String::from));
    let missing: Vec<_> = expected.iter().filter(|f| !counts.contains_key(*f)).collect();
    assert!(missing.is_empty(), "never drawn: {missing:?} of {counts:?}");
}
