//! Graphs as pictures: the DOT language of Graphviz.

use std::fmt::Write as _;

use crate::graph::{Definition, Graph, InputKind, Node, NodeId, Scan, ValueId};
use crate::limits::MAX_SCAN_DEPTH;
use crate::ops::{Direction, Group, Op};

/// The graph in the DOT language: a node for each input, op and output, the type on each edge, the body of a
/// scan as a cluster in the node's place.
///
/// Operands enter a scan's body at its inputs and results leave at its outputs; new carries return to theirs
/// by dashed edges.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::new();
    line(&mut out, 0, &format!("digraph {} {{", quoted(graph.name())));
    line(&mut out, 1, "node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=monospace];");
    line(&mut out, 1, "edge [fontname=monospace, fontsize=10];");
    let drawing = Drawing { graph, prefix: "g".into(), depth: 0 };
    drawing.nodes(&mut out, None);
    for (i, output) in graph.outputs().iter().enumerate() {
        let label = quoted(&output.name);
        line(&mut out, 1, &format!("\"g.out{i}\" [label={label}, shape=oval, fillcolor=lightgrey];"));
        drawing.edge(&mut out, output.value, &format!("g.out{i}"));
    }
    line(&mut out, 0, "}");
    out
}

/// A graph and the prefix that makes its node names unique.
struct Drawing<'g> {
    graph: &'g Graph,
    prefix: String,
    depth: usize,
}

impl Drawing<'_> {
    /// Inputs and ops, with the edges into the ops. `scan` is the scan whose body this is.
    fn nodes(&self, out: &mut String, scan: Option<&Scan>) {
        for (i, input) in self.graph.inputs().iter().enumerate() {
            let fill = match (scan, input.kind) {
                (Some(scan), _) if i < scan.carries => "lightsalmon",
                (Some(scan), _) if i < scan.carries.saturating_add(scan.scanned) => "lightblue",
                (_, InputKind::Parameter) => "khaki",
                (_, InputKind::Input) => "lightgrey",
            };
            let (name, label) = (self.value(input.value), quoted(&input.name));
            line(out, self.depth + 1, &format!("\"{name}\" [label={label}, shape=oval, fillcolor={fill}];"));
        }
        for (id, node) in self.graph.nodes() {
            match &node.op {
                Op::Scan(scan) if self.depth < MAX_SCAN_DEPTH => self.scan(out, id, node, scan),
                _ => self.op(out, id, node),
            }
        }
    }

    fn op(&self, out: &mut String, id: NodeId, node: &Node) {
        let name = format!("{}.n{}", self.prefix, id.index());
        let fill = match node.op.group() {
            Group::Leaf => "whitesmoke",
            Group::Elementwise => "white",
            Group::Movement => "lavender",
            Group::Reduce => "mistyrose",
            Group::Contract => "lightpink",
            Group::Control => "lightcyan",
        };
        let label = match &node.op {
            Op::Constant { value } => value.to_string(),
            op => op.mnemonic().to_owned(),
        };
        line(out, self.depth + 1, &format!("\"{name}\" [label={}, fillcolor={fill}];", quoted(&label)));
        for operand in &node.operands {
            self.edge(out, *operand, &name);
        }
    }

    fn scan(&self, out: &mut String, id: NodeId, node: &Node, scan: &Scan) {
        let prefix = format!("{}.n{}", self.prefix, id.index());
        let body = Drawing { graph: &scan.body, prefix: prefix.clone(), depth: self.depth + 1 };
        let pad = self.depth + 1;
        let direction = match scan.direction {
            Direction::Forward => "",
            Direction::Reverse => " reverse",
        };
        line(out, pad, &format!("subgraph \"cluster.{prefix}\" {{"));
        let title = format!("scan {} over {}{direction}", scan.body.name(), scan.trip);
        line(out, pad + 1, &format!("label={}; style=rounded; fontname=monospace;", quoted(&title)));
        body.nodes(out, Some(scan));
        for (i, output) in scan.body.outputs().iter().enumerate() {
            let fill = if i < scan.carries { "lightsalmon" } else { "lightblue" };
            let label = quoted(&output.name);
            line(
                out,
                pad + 1,
                &format!("\"{prefix}.out{i}\" [label={label}, shape=oval, fillcolor={fill}];"),
            );
            body.edge(out, output.value, &format!("{prefix}.out{i}"));
            if let Some(carry) = scan.body.inputs().get(i).filter(|_| i < scan.carries) {
                let target = body.value(carry.value);
                line(
                    out,
                    pad + 1,
                    &format!("\"{prefix}.out{i}\" -> \"{target}\" [style=dashed, constraint=false];"),
                );
            }
        }
        if scan.lengths {
            line(out, pad + 1, &format!("\"{prefix}.lengths\" [label=lengths, shape=oval];"));
        }
        line(out, pad, "}");
        for (i, operand) in node.operands.iter().enumerate() {
            let target = match scan.body.inputs().get(i) {
                Some(input) => body.value(input.value),
                None => format!("{prefix}.lengths"),
            };
            self.edge(out, *operand, &target);
        }
    }

    fn edge(&self, out: &mut String, from: ValueId, to: &str) {
        let ty = if from.index() < self.graph.values().len() {
            self.graph.ty(from).to_string()
        } else {
            String::new()
        };
        line(out, self.depth + 1, &format!("\"{}\" -> \"{to}\" [label={}];", self.value(from), quoted(&ty)));
    }

    /// The DOT node from which a value comes.
    fn value(&self, id: ValueId) -> String {
        if id.index() >= self.graph.values().len() {
            return format!("{}.{id}?", self.prefix);
        }
        match self.graph.value(id).definition {
            Definition::Input(position) => format!("{}.in{position}", self.prefix),
            Definition::Result(node, position) => {
                let name = format!("{}.n{}", self.prefix, node.index());
                let is_scan = node.index() < self.graph.nodes().len()
                    && matches!(self.graph.node(node).op, Op::Scan(_))
                    && self.depth < MAX_SCAN_DEPTH;
                if is_scan { format!("{name}.out{position}") } else { name }
            }
        }
    }
}

fn line(out: &mut String, indent: usize, text: &str) {
    // Writing to a string does not fail.
    _ = writeln!(out, "{:1$}{text}", "", 2 * indent);
}

/// A string of the DOT language.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn a_scan_is_a_cluster_with_its_carries_fed_back() {
        let graph = parse(
            "graph \"a \\\"b\\\"\"(x: f32[T, B], h: f32[B], n: i32[B]) {
               %h, %y = scan step over T reverse carry (h = h) each (x = x) lengths n {
                 %s = add x, h next h = %s stack y = %s
               }
               %o = neg %y
               return h = %h, y = %o
             }",
        )
        .expect("a graph");
        let picture = dot(&graph);
        let lines: Vec<&str> = picture.lines().map(str::trim).collect();
        for line in [
            r#"digraph "a \"b\"" {"#,
            r#"subgraph "cluster.g.n0" {"#,
            r#"label="scan step over T reverse"; style=rounded; fontname=monospace;"#,
            r#""g.n0.out0" -> "g.n0.in0" [style=dashed, constraint=false];"#,
            r#""g.in0" -> "g.n0.in1" [label="f32[T, B]"];"#,
            r#""g.in2" -> "g.n0.lengths" [label="i32[B]"];"#,
            r#""g.n0.out1" -> "g.n1" [label="f32[T, B]"];"#,
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{picture}");
        }
    }
}
