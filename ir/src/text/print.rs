//! The printer. It prints any graph, also one that breaks the invariants, so that the verifier can show it.

use std::fmt;

use crate::expr::Dim;
use crate::graph::{Graph, Input, InputKind, Node, Output, Scan, ValueId};
use crate::ops::{Direction, Op};
use crate::types::{ShapeText, TensorType};

use super::is_identifier;

/// Signatures longer than this are broken into one line an entry.
const WIDTH: usize = 100;

/// A name, in quotes where it is not an identifier.
pub(crate) struct NameText<'a>(pub &'a str);

impl fmt::Display for NameText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_identifier(self.0) { f.write_str(self.0) } else { QuotedText(self.0).fmt(f) }
    }
}

/// A string in quotes, with escapes.
pub(crate) struct QuotedText<'a>(pub &'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A graph with the names of its values at hand.
pub(crate) struct Printer<'g> {
    graph: &'g Graph,
    /// The name of each value that is an input.
    names: Vec<Option<&'g str>>,
}

impl<'g> Printer<'g> {
    pub(crate) fn new(graph: &'g Graph) -> Self {
        let mut names = vec![None; graph.values().len()];
        for input in graph.inputs() {
            if let Some(name) = names.get_mut(input.value.index()) {
                *name = Some(input.name.as_str());
            }
        }
        Printer { graph, names }
    }

    /// A value as operands name it.
    fn value(&self, id: ValueId) -> String {
        match self.names.get(id.index()) {
            Some(Some(name)) => NameText(name).to_string(),
            Some(None) => id.to_string(),
            None => format!("{id}?"),
        }
    }

    fn values(&self, ids: &[ValueId]) -> String {
        join(ids.iter().map(|id| self.value(*id)))
    }

    fn ty(&self, id: ValueId) -> Option<&'g TensorType> {
        (id.index() < self.names.len()).then(|| self.graph.ty(id))
    }

    fn type_text(&self, id: ValueId) -> String {
        self.ty(id).map_or_else(|| "?".into(), TensorType::to_string)
    }

    fn binding(&self, output: &Output) -> String {
        format!("{} = {}", NameText(&output.name), self.value(output.value))
    }

    fn bindings(&self, outputs: &[Output]) -> String {
        join(outputs.iter().map(|o| self.binding(o)))
    }

    /// `x: f32[T]`, and ` at 7` where the graph does not define it right after the input before it.
    fn input(&self, position: usize, input: &Input, operand: Option<String>) -> String {
        let inputs = self.graph.inputs();
        let expected = match position.checked_sub(1).and_then(|p| inputs.get(p)) {
            Some(previous) => previous.value.index() + 1,
            None => 0,
        };
        let kind = match input.kind {
            InputKind::Input => "",
            InputKind::Parameter => "param ",
        };
        let operand = operand.map_or_else(String::new, |o| format!(" = {o}"));
        let at =
            if input.value.index() == expected { String::new() } else { format!(" at {}", input.value.0) };
        format!("{kind}{}: {}{operand}{at}", NameText(&input.name), self.type_text(input.value))
    }

    /// The first line or lines, up to the opening brace.
    pub(crate) fn write_signature(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let inputs: Vec<String> =
            self.graph.inputs().iter().enumerate().map(|(i, input)| self.input(i, input, None)).collect();
        let output = |o: &Output| format!("{}: {}", NameText(&o.name), self.type_text(o.value));
        let outputs: Vec<String> = self.graph.outputs().iter().map(output).collect();
        let name = NameText(self.graph.name());
        let line = format!("graph {name}({})", inputs.join(", "));
        let result = if outputs.is_empty() { String::new() } else { format!(" -> ({})", outputs.join(", ")) };
        if line.len() + result.len() + 2 <= WIDTH {
            return writeln!(f, "{line}{result} {{");
        }
        writeln!(f, "graph {name}(")?;
        for input in inputs {
            writeln!(f, "  {input},")?;
        }
        if result.is_empty() {
            writeln!(f, ") {{")
        } else if result.len() + 3 <= WIDTH {
            writeln!(f, "){result} {{")
        } else {
            writeln!(f, ") -> (")?;
            for output in outputs {
                writeln!(f, "  {output},")?;
            }
            writeln!(f, ") {{")
        }
    }

    /// A statement without its line end; of a scan, everything before the body's brace.
    pub(crate) fn write_node_head(&self, node: &Node, indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        write!(f, "{:1$}{2} = ", "", indent, join(&node.results))?;
        if let Op::Scan(scan) = &node.op {
            return self.write_scan_head(scan, node, indent, f);
        }
        f.write_str(node.op.mnemonic())?;
        if !node.operands.is_empty() {
            write!(f, " {}", self.values(&node.operands))?;
        }
        write_attributes(&node.op, f)?;
        write!(f, " : {}", join(node.results.iter().map(|r| self.type_text(*r))))
    }

    fn write_scan_head(
        &self,
        scan: &Scan,
        node: &Node,
        indent: usize,
        f: &mut impl fmt::Write,
    ) -> fmt::Result {
        // A body called `over` would read as a body without a name.
        match scan.body.name() {
            "over" => f.write_str("scan \"over\"")?,
            name => write!(f, "scan {}", NameText(name))?,
        }
        write!(f, " over {}", scan.trip)?;
        if scan.direction == Direction::Reverse {
            f.write_str(" reverse")?;
        }
        let body = Printer::new(&scan.body);
        let inputs = scan.body.inputs();
        let each_end = scan.carries.saturating_add(scan.scanned);
        let clauses =
            [("carry", 0..scan.carries), ("each", scan.carries..each_end), ("with", each_end..inputs.len())];
        let pad = " ".repeat(indent + 4);
        for (clause, range) in clauses {
            let (start, end) = (range.start.min(inputs.len()), range.end.min(inputs.len()));
            let bound = inputs.iter().enumerate().take(end).skip(start).map(|(i, input)| {
                let operand = node.operands.get(i).map_or_else(|| "?".into(), |o| self.value(*o));
                body.input(i, input, Some(operand))
            });
            let bound: Vec<String> = bound.collect();
            write_clause(clause, &bound, &pad, f)?;
        }
        if scan.lengths {
            let lengths = node.operands.last().map_or_else(|| "?".into(), |o| self.value(*o));
            write!(f, "\n{pad}lengths {lengths}")?;
        }
        let types: Vec<String> = node.results.iter().map(|r| self.type_text(*r)).collect();
        write_clause("->", &types, &pad, f)
    }

    fn write_node(&self, node: &Node, indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        self.write_node_head(node, indent, f)?;
        f.write_str("\n")?;
        let Op::Scan(scan) = &node.op else { return Ok(()) };
        writeln!(f, "{:indent$}{{", "")?;
        let body = Printer::new(&scan.body);
        body.write_nodes(indent + 2, f)?;
        body.write_yield(scan.carries, indent + 2, f)?;
        writeln!(f, "{:indent$}}}", "")
    }

    fn write_nodes(&self, indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        self.graph.nodes().try_for_each(|(_, node)| self.write_node(node, indent, f))
    }

    /// The outputs of a scan body.
    fn write_yield(&self, carries: usize, indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        let outputs = self.graph.outputs();
        let (next, stack) = outputs.split_at(carries.min(outputs.len()));
        for (keyword, outputs) in [("next", next), ("stack", stack)] {
            if !outputs.is_empty() {
                writeln!(f, "{:indent$}{keyword} {}", "", self.bindings(outputs))?;
            }
        }
        Ok(())
    }

    /// The `return` line.
    pub(crate) fn write_return(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let outputs = self.graph.outputs();
        if outputs.is_empty() {
            writeln!(f, "  return")
        } else {
            writeln!(f, "  return {}", self.bindings(outputs))
        }
    }
}

/// A clause on its line, or broken where it is long.
fn write_clause(name: &str, items: &[String], pad: &str, f: &mut impl fmt::Write) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let line = items.join(", ");
    if pad.len() + name.len() + line.len() + 3 <= WIDTH {
        return write!(f, "\n{pad}{name} ({line})");
    }
    write!(f, "\n{pad}{name} (")?;
    for item in items {
        write!(f, "\n{pad}  {item},")?;
    }
    write!(f, "\n{pad})")
}

/// Prints the attributes of an op, each after a space. What the result type says is left to it.
fn write_attributes(op: &Op, f: &mut impl fmt::Write) -> fmt::Result {
    match op {
        Op::Constant { value } => write!(f, " {value}"),
        Op::Iota { axis, .. } | Op::Concat { axis } | Op::Gather { axis } => write!(f, " axis={axis}"),
        Op::Broadcast { axes, .. } | Op::Reverse { axes } | Op::Reduce { axes, .. } => {
            write!(f, " axes=[{}]", join(axes))
        }
        Op::Transpose { permutation } => write!(f, " permutation=[{}]", join(permutation)),
        Op::Slice { axes } => {
            let start: Vec<Dim> = axes.iter().map(|a| a.start.clone()).collect();
            let length: Vec<Dim> = axes.iter().map(|a| a.length.clone()).collect();
            write!(f, " start={} length={}", ShapeText(&start), ShapeText(&length))?;
            if axes.iter().any(|a| a.step != 1) {
                write!(f, " step=[{}]", join(axes.iter().map(|a| a.step)))?;
            }
            Ok(())
        }
        Op::Pad { low, high, value } => {
            write!(f, " low={} high={} value={value}", ShapeText(low), ShapeText(high))
        }
        Op::Contract { batch, axes } => {
            let pairs = |pairs: &[(usize, usize)]| join(pairs.iter().map(|(i, j)| format!("{i}:{j}")));
            if !batch.is_empty() {
                write!(f, " batch=[{}]", pairs(batch))?;
            }
            write!(f, " axes=[{}]", pairs(axes))
        }
        Op::Scalar(_) | Op::Cast { .. } | Op::Reshape { .. } | Op::Scan(_) => Ok(()),
    }
}

/// The items, with commas between them.
pub(crate) fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

/// Prints the text form; see [`crate::text`].
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printer = Printer::new(self);
        printer.write_signature(f)?;
        printer.write_nodes(2, f)?;
        printer.write_return(f)?;
        f.write_str("}\n")
    }
}
