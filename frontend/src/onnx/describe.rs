//! What an ONNX file holds, without importing it.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::OnnxError;
use super::importer::operator;
use super::model::{Model, tensor_type};
use super::proto::tensor_shape_proto::dimension::Value as DimValue;
use super::proto::{NodeProto, TensorProto, ValueInfoProto};
use super::tensor::{Data, element_type, type_name};
use super::{UnsupportedNode, file};

/// What an ONNX file holds.
#[derive(Clone, Debug)]
pub struct Description {
    /// The name of the graph.
    pub name: String,
    /// The program that wrote the file, and its version.
    pub producer: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// The operator sets that the model imports: domain, empty for ONNX's own, and version.
    pub opsets: Vec<(String, i64)>,
    /// The inputs that a caller gives: name and type as in `float[batch, 10]`.
    pub inputs: Vec<(String, String)>,
    /// The outputs: name and declared type.
    pub outputs: Vec<(String, String)>,
    /// The dimensions that the inputs leave open, as `--dim` names them.
    pub symbols: Vec<String>,
    /// The tensors that the file holds.
    pub initializers: usize,
    /// Their elements.
    pub elements: u64,
    /// Their bytes, those in other files included.
    pub bytes: u64,
    /// The operators, how often each stands in the file, subgraphs and functions included.
    pub operators: BTreeMap<String, usize>,
    /// The functions that the model defines.
    pub functions: usize,
    /// Nodes that have no import.
    pub unsupported: Vec<UnsupportedNode>,
}

/// Describes the model in a file.
///
/// # Errors
/// Where the file is no model.
pub fn describe_file(path: &Path) -> Result<Description, OnnxError> {
    let bytes = file::map(path)?;
    let data = Data::new(None, bytes.len());
    let proto = file::decode(bytes)?;
    let model = Model::new(&proto, data)?;
    let mut operators = BTreeMap::new();
    let functions = proto.functions.iter().flat_map(|f| &f.node);
    for node in with_subgraphs(model.graph.node.iter().chain(functions)) {
        *operators.entry(operator(node)).or_default() += 1;
    }
    let sizes = || model.graph.initializer.iter().map(size);
    let domain = |name: &str| if name == "ai.onnx" { String::new() } else { name.to_owned() };
    Ok(Description {
        name: model.graph.name().to_owned(),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
        ir_version: proto.ir_version(),
        opsets: proto.opset_import.iter().map(|o| (domain(o.domain()), o.version())).collect(),
        inputs: model.plain_inputs().map(declared).collect(),
        outputs: model.graph.output.iter().map(declared).collect(),
        symbols: model.symbol_names(),
        initializers: model.graph.initializer.len(),
        elements: sizes().fold(0, |n, (elements, _)| n.saturating_add(elements)),
        bytes: sizes().fold(0, |n, (_, bytes)| n.saturating_add(bytes)),
        operators,
        functions: proto.functions.len(),
        unsupported: model.unsupported(),
    })
}

/// Nodes, and those of the graphs within them.
pub(crate) fn with_subgraphs<'a>(
    nodes: impl DoubleEndedIterator<Item = &'a NodeProto>,
) -> impl Iterator<Item = &'a NodeProto> {
    let mut pending: Vec<&NodeProto> = nodes.rev().collect();
    std::iter::from_fn(move || {
        let node = pending.pop()?;
        let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        pending.extend(graphs.flat_map(|g| g.node.iter().rev()));
        Some(node)
    })
}

/// The elements and bytes that a tensor's dimensions take; of element types that fuse has not, no bytes.
fn size(tensor: &TensorProto) -> (u64, u64) {
    let extent = |d: &i64| u64::try_from(*d).unwrap_or(0);
    let elements = tensor.dims.iter().map(extent).fold(1, u64::saturating_mul);
    let size = element_type(tensor.data_type()).map_or(0, |dtype| dtype.size() as u64);
    (elements, elements.saturating_mul(size))
}

/// A name with its declared type, as in `float[batch, 10]`.
fn declared(value: &ValueInfoProto) -> (String, String) {
    let text = match tensor_type(value) {
        None => "no tensor".to_owned(),
        Some(ty) => {
            let dim = |d: &super::proto::tensor_shape_proto::Dimension| match &d.value {
                Some(DimValue::DimValue(n)) => n.to_string(),
                Some(DimValue::DimParam(name)) if !name.is_empty() => name.clone(),
                Some(DimValue::DimParam(_)) | None => "?".to_owned(),
            };
            let shape = ty.shape.as_ref().map(|s| s.dim.iter().map(dim).collect::<Vec<_>>().join(", "));
            let shape = shape.map_or_else(|| "of any shape".to_owned(), |dims| format!("[{dims}]"));
            let space = if ty.shape.is_some() { "" } else { " " };
            format!("{}{space}{shape}", type_name(ty.elem_type()))
        }
    };
    (value.name().to_owned(), text)
}
