//! The ONNX operators that fuse imports: one row an operator.

use super::call::Call;
use super::error::Built;
use super::ops;
use super::proto::NodeProto;
use super::value::Value;

/// What builds the ops of a node.
pub(crate) type Builder = fn(&Call<'_>) -> Built<Vec<Value>>;

/// How a node is evaluated while the model is imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Evaluation {
    /// Where all inputs are known, by the interpreter.
    Computes,
    /// The same; and as it only moves the elements of its first input, also where those are made of dimensions.
    Moves,
    /// The same for all inputs.
    Joins,
    /// Its builder looks at its inputs itself: it has subgraphs, or results whose shape depends on data.
    Own,
}

/// An operator.
pub struct OpRow {
    /// Its name.
    pub name: &'static str,
    /// Its domain; empty for ONNX's own.
    pub domain: &'static str,
    /// The first and last version of the operator set in which its definition changed, among those read.
    pub versions: (i64, i64),
    /// The attributes that are understood; a node with another is refused.
    pub attributes: &'static [&'static str],
    /// What is not supported, or how it is done; empty where there is nothing to say.
    pub note: &'static str,
    pub(crate) evaluation: Evaluation,
    pub(crate) build: Builder,
}

impl std::fmt::Debug for OpRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.name, self.versions)
    }
}

impl OpRow {
    /// Whether the node only moves the elements of an input.
    pub(crate) fn moves(&self, input: usize) -> bool {
        match self.evaluation {
            Evaluation::Moves => input == 0,
            Evaluation::Joins => true,
            Evaluation::Computes | Evaluation::Own => false,
        }
    }
}

/// A row of ONNX's own domain.
pub(crate) const fn row(
    name: &'static str,
    versions: (i64, i64),
    attributes: &'static [&'static str],
    evaluation: Evaluation,
    build: Builder,
    note: &'static str,
) -> OpRow {
    OpRow { name, domain: "", versions, attributes, note, evaluation, build }
}

/// All operators, each with its family.
pub fn rows() -> impl Iterator<Item = (&'static str, &'static OpRow)> {
    ops::FAMILIES.iter().flat_map(|(family, rows)| rows.iter().map(|row| (*family, row)))
}

/// The row of an operator.
pub(crate) fn find(domain: &str, name: &str) -> Option<&'static OpRow> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    rows().map(|(_, row)| row).find(|row| row.name == name && row.domain == domain)
}

/// Why a node has no import; `None` where it has one.
pub(crate) fn unsupported(node: &NodeProto, opset: i64) -> Option<String> {
    let Some(row) = find(node.domain(), node.op_type()) else {
        return Some(ops::alternatives::to(node.domain(), node.op_type()));
    };
    if opset < row.versions.0 {
        return Some(format!("the operator exists from opset {} on", row.versions.0));
    }
    let unknown = node.attribute.iter().find(|a| !row.attributes.contains(&a.name()));
    unknown.map(|a| format!("its attribute `{}` is not supported", a.name()))
}
