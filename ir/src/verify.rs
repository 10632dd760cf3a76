//! The verifier of graphs.
//!
//! # Invariants
//! What the types of [`Graph`] do not rule out by themselves, numbered as in the tests:
//!
//! 1. Values are numbered in order of definition: inputs ascend, the results of a node are consecutive, those
//!    of a later node come later, and every value is where its definition says.
//! 2. The operands of a node, and the outputs, are values of the same graph; operands are defined before the
//!    node.
//! 3. Every node has at least one result, and the recorded types of its results are those that
//!    [`infer`] gives.
//! 4. The names of graphs, inputs and outputs are not empty. Input names are unique in a graph, output names
//!    in the outermost graph.
//! 5. Only inputs of the outermost graph are parameters.
//! 6. The body of a scan keeps all of this by itself: it refers to nothing but its own inputs.
//! 7. Dimensions are over symbols alone, without axes; a constant extent is at least 0.
//! 8. Symbols are identifiers (`[A-Za-z_][A-Za-z0-9_.]*`), so that the text form can name them; in particular
//!    none starts with `%`, which is how later stages mark counters of their own.
//! 9. The bounds of [`crate::limits`] hold: sizes and depths of dimensions, ranks, operands, nesting of scans.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::expr::Dim;
use crate::graph::{Definition, Graph, Input, InputKind, Node, NodeId, Scan, ValueId};
use crate::infer::{InferError, infer};
use crate::limits::{self, MAX_DIM, MAX_OPERANDS, MAX_SCAN_DEPTH};
use crate::ops::Op;
use crate::text::is_identifier;
use crate::text::print::{NameText, Printer};
use crate::types::TensorType;

/// How a graph breaks an invariant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyCause {
    /// Invariant 1.
    #[error("value {0} is not in its place in the order of definition")]
    Numbering(ValueId),
    /// Invariant 2: no such value.
    #[error("{user} is {value}, but the graph has only {count} values")]
    Range {
        /// The operand or output, in words.
        user: String,
        /// The value it names.
        value: ValueId,
        /// The number of values there are.
        count: usize,
    },
    /// Invariant 2: used before it is defined.
    #[error("operand {operand} is {value}, which is defined later")]
    Order {
        /// The position of the operand.
        operand: usize,
        /// The value it names.
        value: ValueId,
    },
    /// Invariant 3: nothing comes out.
    #[error("the node has no results")]
    NoResults,
    /// Invariant 3: the operands do not fit the op.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// Invariant 3: the number of results.
    #[error("the node records {recorded} results, but the op gives {inferred}")]
    ResultCount {
        /// The number recorded.
        recorded: usize,
        /// The number inferred.
        inferred: usize,
    },
    /// Invariant 3: the type of a result.
    #[error("{value} is recorded as {recorded}, but the op gives {inferred}")]
    ResultType {
        /// The result.
        value: ValueId,
        /// The type recorded.
        recorded: TensorType,
        /// The type inferred.
        inferred: TensorType,
    },
    /// Invariant 4: a name is empty.
    #[error("the name of {0} is empty")]
    EmptyName(&'static str),
    /// Invariant 4: a name is taken.
    #[error("two {what} are called {name:?}")]
    DuplicateName {
        /// Inputs or outputs.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Invariant 5.
    #[error("`{0}` is a parameter, but stands in the body of a scan; declare it outside and capture it")]
    ParameterInBody(String),
    /// Invariant 6: the counts of a scan do not fit its node.
    #[error("the scan has {carries} carries and {scanned} scanned tensors, but {operands} operands")]
    ScanCounts {
        /// The number of carries.
        carries: usize,
        /// The number of scanned tensors.
        scanned: usize,
        /// The number of operands of the node.
        operands: usize,
    },
    /// Invariant 7.
    #[error("`{0}` is no dimension: dimensions have no axes, and a constant one is at least 0")]
    Dimension(String),
    /// Invariant 8.
    #[error("the symbol {0:?} is not an identifier")]
    Symbol(String),
    /// Invariant 9.
    #[error("{0}")]
    Limit(String),
}

/// Where a graph breaks an invariant, and how.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {cause}\n{excerpt}{}", location.as_ref().map(|l| format!("  made at {l}\n")).unwrap_or_default())]
pub struct VerifyError {
    /// The way from the outermost graph: `lstm/scan %7/tanh %3`.
    pub path: String,
    /// The broken invariant.
    pub cause: Box<VerifyCause>,
    /// The lines of the text form around the place, the place itself marked with `>`.
    pub excerpt: String,
    /// The place in the traced program, `file:line:column`, where the node has one.
    pub location: Option<String>,
}

/// Checks the invariants of the [module documentation](self).
///
/// # Errors
/// The first that is broken, with its place.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    verify_within(graph, &Surroundings { path: NameText(graph.name()).to_string(), depth: 0 })
}

/// The way to a graph.
struct Surroundings {
    path: String,
    depth: usize,
}

/// A place in a graph.
#[derive(Clone, Copy)]
enum Place {
    Signature,
    Input(usize),
    Node(NodeId),
    Output(usize),
}

type Checked = Result<(), VerifyCause>;

fn verify_within(graph: &Graph, outside: &Surroundings) -> Result<(), VerifyError> {
    let at = |place: Place| move |cause: VerifyCause| located(graph, outside, place, cause);
    check_graph_name(graph).map_err(at(Place::Signature))?;
    check_numbering(graph).map_err(at(Place::Signature))?;
    let mut names = HashSet::new();
    for (i, input) in graph.inputs().iter().enumerate() {
        check_input(graph, input, outside.depth, &mut names).map_err(at(Place::Input(i)))?;
    }
    for (id, node) in graph.nodes() {
        check_operands(graph, node).map_err(at(Place::Node(id)))?;
        check_attributes(&node.op).map_err(at(Place::Node(id)))?;
        if let Op::Scan(scan) = &node.op {
            check_scan(scan, node, outside.depth).map_err(at(Place::Node(id)))?;
            let path = format!("{}/{}", outside.path, node_text(node));
            verify_within(&scan.body, &Surroundings { path, depth: outside.depth + 1 })?;
        }
        check_results(graph, node).map_err(at(Place::Node(id)))?;
    }
    names.clear();
    for i in 0..graph.outputs().len() {
        check_output(graph, i, outside.depth, &mut names).map_err(at(Place::Output(i)))?;
    }
    Ok(())
}

fn check_graph_name(graph: &Graph) -> Checked {
    if graph.name().is_empty() { Err(VerifyCause::EmptyName("the graph")) } else { Ok(()) }
}

/// Invariant 1. What follows may look up every value that is in range.
fn check_numbering(graph: &Graph) -> Checked {
    let mut inputs = graph.inputs().iter().enumerate();
    let results = graph.nodes().flat_map(|(id, node)| {
        node.results.iter().enumerate().map(move |(k, value)| (Definition::Result(id, k), *value))
    });
    let mut results = results.peekable();
    for (id, value) in graph.values() {
        let expected = match value.definition {
            Definition::Input(_) => inputs.next().map(|(i, input)| (Definition::Input(i), input.value)),
            Definition::Result(..) => results.next(),
        };
        if expected != Some((value.definition, id)) {
            return Err(VerifyCause::Numbering(id));
        }
    }
    let left = inputs.next().map(|(_, input)| input.value).or_else(|| results.next().map(|(_, value)| value));
    if let Some(value) = left {
        return Err(VerifyCause::Numbering(value));
    }
    let consecutive = |node: &Node| node.results.windows(2).all(|w| w[0].index() + 1 == w[1].index());
    match graph.nodes().find(|(_, node)| !consecutive(node)) {
        Some((_, node)) => Err(VerifyCause::Numbering(node.results[0])),
        None => Ok(()),
    }
}

fn check_input<'g>(
    graph: &'g Graph,
    input: &'g Input,
    depth: usize,
    names: &mut HashSet<&'g str>,
) -> Checked {
    if input.name.is_empty() {
        return Err(VerifyCause::EmptyName("an input"));
    }
    if !names.insert(&input.name) {
        return Err(VerifyCause::DuplicateName { what: "inputs", name: input.name.clone() });
    }
    if depth > 0 && input.kind == InputKind::Parameter {
        return Err(VerifyCause::ParameterInBody(input.name.clone()));
    }
    check_type(graph.ty(input.value))
}

fn check_operands(graph: &Graph, node: &Node) -> Checked {
    let count = graph.values().len();
    let Some(first) = node.results.first() else { return Err(VerifyCause::NoResults) };
    if node.operands.len() > MAX_OPERANDS {
        let text = format!("{} operands are more than {MAX_OPERANDS}", node.operands.len());
        return Err(VerifyCause::Limit(text));
    }
    for (operand, value) in node.operands.iter().enumerate() {
        if value.index() >= count {
            return Err(VerifyCause::Range { user: format!("operand {operand}"), value: *value, count });
        }
        if value >= first {
            return Err(VerifyCause::Order { operand, value: *value });
        }
    }
    Ok(())
}

/// The dimensions that stand in attributes; before inference, which multiplies them out.
fn check_attributes(op: &Op) -> Checked {
    match op {
        Op::Iota { shape, dtype, .. } => check_type(&TensorType { dtype: *dtype, shape: shape.clone() }),
        Op::Reshape { shape } | Op::Broadcast { shape, .. } => {
            check_type(&TensorType { dtype: crate::dtype::DType::Bool, shape: shape.clone() })
        }
        Op::Slice { axes } => axes.iter().try_for_each(|axis| {
            check_dim(&axis.start)?;
            check_dim(&axis.length)?;
            if axis.step > MAX_DIM {
                return Err(VerifyCause::Limit(format!("the step {} is beyond 2^40", axis.step)));
            }
            Ok(())
        }),
        Op::Pad { low, high, .. } => low.iter().chain(high).try_for_each(check_dim),
        Op::Scan(scan) => check_dim(&scan.trip),
        Op::Constant { .. }
        | Op::Scalar(_)
        | Op::Cast { .. }
        | Op::Transpose { .. }
        | Op::Concat { .. }
        | Op::Reverse { .. }
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::Contract { .. } => Ok(()),
    }
}

fn check_scan(scan: &Scan, node: &Node, depth: usize) -> Checked {
    if depth >= MAX_SCAN_DEPTH {
        return Err(VerifyCause::Limit(format!("scans nest deeper than {MAX_SCAN_DEPTH} levels")));
    }
    let operands = node.operands.len();
    let fixed = scan.carries.checked_add(scan.scanned).and_then(|n| n.checked_add(usize::from(scan.lengths)));
    if fixed.is_none_or(|n| n > operands) {
        return Err(VerifyCause::ScanCounts { carries: scan.carries, scanned: scan.scanned, operands });
    }
    Ok(())
}

/// Invariant 3; the operands are in range, and the body of a scan is verified.
fn check_results(graph: &Graph, node: &Node) -> Checked {
    let operands: Vec<&TensorType> = node.operands.iter().map(|v| graph.ty(*v)).collect();
    let inferred = infer(&node.op, &operands)?;
    if inferred.len() != node.results.len() {
        return Err(VerifyCause::ResultCount { recorded: node.results.len(), inferred: inferred.len() });
    }
    for (value, inferred) in node.results.iter().zip(inferred) {
        let recorded = graph.ty(*value);
        if *recorded != inferred {
            return Err(VerifyCause::ResultType { value: *value, recorded: recorded.clone(), inferred });
        }
        check_type(recorded)?;
    }
    Ok(())
}

fn check_output<'g>(graph: &'g Graph, i: usize, depth: usize, names: &mut HashSet<&'g str>) -> Checked {
    let output = &graph.outputs()[i];
    let count = graph.values().len();
    if output.value.index() >= count {
        return Err(VerifyCause::Range { user: format!("output {i}"), value: output.value, count });
    }
    if output.name.is_empty() {
        return Err(VerifyCause::EmptyName("an output"));
    }
    if depth == 0 && !names.insert(&output.name) {
        return Err(VerifyCause::DuplicateName { what: "outputs", name: output.name.clone() });
    }
    Ok(())
}

fn check_dim(dim: &Dim) -> Checked {
    if let Some(problem) = limits::dim_problem(dim) {
        return Err(VerifyCause::Limit(problem));
    }
    if !dim.axes().is_empty() {
        return Err(VerifyCause::Dimension(dim.to_string()));
    }
    match dim.symbols().into_iter().find(|s| !is_identifier(s.name())) {
        Some(symbol) => Err(VerifyCause::Symbol(symbol.name().to_owned())),
        None => Ok(()),
    }
}

fn check_type(ty: &TensorType) -> Checked {
    if let Some(problem) = limits::type_problem(ty) {
        return Err(VerifyCause::Limit(problem));
    }
    ty.shape.iter().try_for_each(check_dim)?;
    match ty.shape.iter().find(|d| d.as_constant().is_some_and(|c| c < 0)) {
        Some(dim) => Err(VerifyCause::Dimension(dim.to_string())),
        None => Ok(()),
    }
}

fn node_text(node: &Node) -> String {
    match node.results.first() {
        Some(result) => format!("{} {result}", node.op.mnemonic()),
        None => node.op.mnemonic().to_owned(),
    }
}

fn located(graph: &Graph, outside: &Surroundings, place: Place, cause: VerifyCause) -> VerifyError {
    let here = match place {
        Place::Signature => String::new(),
        Place::Input(i) => format!("/input {}", NameText(&graph.inputs()[i].name)),
        Place::Node(id) => format!("/{}", node_text(graph.node(id))),
        Place::Output(i) => format!("/output {}", NameText(&graph.outputs()[i].name)),
    };
    let location = match place {
        Place::Node(id) => graph.node(id).location.map(|l| l.0.to_string()),
        Place::Signature | Place::Input(_) | Place::Output(_) => None,
    };
    VerifyError {
        path: format!("{}{here}", outside.path),
        cause: Box::new(cause),
        excerpt: excerpt(graph, place),
        location,
    }
}

/// Statements shown before and after the marked one.
const CONTEXT: usize = 2;

/// The text form around a place, every line indented and the marked ones with `>`.
fn excerpt(graph: &Graph, place: Place) -> String {
    let printer = Printer::new(graph);
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut show = |marked: bool, write: &dyn Fn(&mut String) -> std::fmt::Result| {
        let mut text = String::new();
        _ = write(&mut text);
        for line in text.lines() {
            _ = writeln!(out, "  {} {line}", if marked { ">" } else { " " });
        }
    };
    match place {
        Place::Signature | Place::Input(_) => show(true, &|f| printer.write_signature(f)),
        Place::Output(_) => show(true, &|f| printer.write_return(f)),
        Place::Node(id) => {
            let from = id.index().saturating_sub(CONTEXT);
            for (other, node) in graph.nodes().skip(from).take(id.index() - from + 1 + CONTEXT) {
                show(other == id, &|f| printer.write_node_head(node, 0, f));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
