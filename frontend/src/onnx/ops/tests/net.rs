//! Models of several nodes, written as text, with dimensions that may be symbols.
//!
//! ```text
//! x: f32[T, 3]            an input
//! ends = [-1]             a stored vector of i64; without brackets a scalar, of i64, f32 or bool
//! y, z = Split(x) axis=1  a node with attributes: integers, [lists of them], floats, or strings
//! return y, z
//! ```

use super::*;
use crate::onnx::Imported;
use fuse_ir::expr::Symbol;

/// A model of several nodes.
pub(super) struct Net {
    opset: i64,
    graph: GraphProto,
}

impl Net {
    #[track_caller]
    pub(super) fn new(opset: i64, text: &str) -> Self {
        Net { opset, graph: graph(text) }
    }

    /// The same with a tensor stored.
    pub(super) fn stored(mut self, name: &str, tensor: &HostTensor) -> Self {
        self.graph.initializer.push(initializer(name, tensor));
        self
    }

    /// The same with a subgraph as an attribute of the node that computes `output`.
    #[track_caller]
    pub(super) fn subgraph(mut self, output: &str, attribute: &str, text: &str) -> Self {
        let g = Some(graph(text));
        let value = AttributeProto { g, ..AttributeProto::default() };
        self.node(output).attribute.push(typed(attribute, AttributeType::Graph, value));
        self
    }

    /// The same with another model as the body of the node that computes `output`.
    #[track_caller]
    pub(super) fn with_body(mut self, output: &str, body: Net) -> Self {
        let value = AttributeProto { g: Some(body.graph), ..AttributeProto::default() };
        self.node(output).attribute.push(typed("body", AttributeType::Graph, value));
        self
    }

    /// The same with a tensor as an attribute of the node that computes `output`.
    #[track_caller]
    pub(super) fn tensor(mut self, output: &str, attribute: &str, tensor: &HostTensor) -> Self {
        let t = Some(initializer("", tensor));
        let value = AttributeProto { t, ..AttributeProto::default() };
        self.node(output).attribute.push(typed(attribute, AttributeType::Tensor, value));
        self
    }

    fn node(&mut self, output: &str) -> &mut NodeProto {
        let computes = |n: &&mut NodeProto| n.output.iter().any(|o| o == output);
        self.graph.node.iter_mut().find(computes).expect("a node computes it")
    }

    fn import(&self, options: &ImportOptions) -> Result<Imported, String> {
        let proto = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }],
            graph: Some(self.graph.clone()),
            ..ModelProto::default()
        };
        import_bytes(&proto.encode_to_vec(), options).map_err(|e| e.to_string())
    }

    /// Why the model is refused where nothing is known of its inputs.
    #[track_caller]
    pub(super) fn refusal(&self) -> String {
        self.import(&ImportOptions::default()).expect_err("the model should be refused")
    }

    /// Runs the model, imported with what `options` say, on inputs in the order of the text.
    pub(super) fn attempt(
        &self,
        options: &ImportOptions,
        inputs: &[HostTensor],
    ) -> Result<Vec<HostTensor>, String> {
        let imported = self.import(options)?;
        let given: std::collections::HashMap<&str, &HostTensor> =
            self.graph.input.iter().map(|i| i.name()).zip(inputs).collect();
        let bound = imported.graph.inputs().iter().map(|input| {
            let parameter = imported.parameters.get(&input.name);
            parameter.unwrap_or_else(|| given[&input.name[..]]).clone()
        });
        interpret(&imported.graph, &bound.collect::<Vec<_>>(), Precision::Declared).map_err(|e| e.to_string())
    }

    /// Runs the model, imported without knowing anything of its inputs.
    #[track_caller]
    pub(super) fn run(&self, inputs: &[HostTensor]) -> Vec<HostTensor> {
        self.attempt(&ImportOptions::default(), inputs).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The shape and the elements of the first output.
    #[track_caller]
    pub(super) fn result(&self, inputs: &[HostTensor]) -> (Vec<usize>, Vec<f64>) {
        let y = self.run(inputs).swap_remove(0);
        (y.shape().to_vec(), y.to_f64())
    }
}

/// Options that give values of inputs.
pub(super) fn with_values(values: &[(&str, HostTensor)]) -> ImportOptions {
    let values = values.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    ImportOptions { values, ..ImportOptions::default() }
}

/// Options that give dimensions.
pub(super) fn with_dims(dims: &[(&str, i64)]) -> ImportOptions {
    let mut options = ImportOptions::default();
    for (name, value) in dims {
        options.dims.set(Symbol::new(*name), *value);
    }
    options
}

/// A tensor with the elements 0, 1, 2, ...
pub(super) fn counting(shape: &[usize]) -> HostTensor {
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|v| v as f32).collect();
    f32s(shape, &values)
}

/// Checks that a text has parts.
#[track_caller]
pub(super) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{text}` does not say `{part}`");
    }
}

/// Pseudo-random numbers (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn within(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1).unsigned_abs()) as i64
    }

    /// A tensor of whole numbers, which sums and products keep exactly.
    pub(super) fn tensor(&mut self, shape: &[usize]) -> HostTensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.within(-9, 9) as f64).collect();
        f64s(shape, &values)
    }
}

fn typed(name: &str, ty: AttributeType, value: AttributeProto) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(ty.into()), ..value }
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).collect()
}

#[track_caller]
fn graph(text: &str) -> GraphProto {
    let mut graph = GraphProto { name: Some("net".to_owned()), ..GraphProto::default() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(outputs) = line.strip_prefix("return ") {
            let output = |name| ValueInfoProto { name: Some(name), ..ValueInfoProto::default() };
            graph.output = names(outputs).into_iter().map(output).collect();
        } else if let Some((outputs, rest)) = line.split_once(" = ") {
            match rest.split_once('(') {
                Some((operator, rest)) => graph.node.push(node(outputs, operator, rest)),
                None => graph.initializer.push(initializer(outputs, &literal(rest))),
            }
        } else {
            graph.input.push(input(line));
        }
    }
    graph
}

/// A stored tensor: `[1, 2]`, `3`, `0.5` or `true`.
#[track_caller]
fn literal(text: &str) -> HostTensor {
    if let Some(list) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let values = integers(list);
        return i64s(&[values.len()], &values);
    }
    match (text.parse::<i64>(), text.parse::<f32>()) {
        (Ok(value), _) => i64s(&[], &[value]),
        (_, Ok(value)) => f32s(&[], &[value]),
        _ => bools(&[], &[text.parse().expect("a literal")]),
    }
}

#[track_caller]
fn integers(list: &str) -> Vec<i64> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| entry.parse().expect("an integer")).collect()
}

/// A node from `y, z`, the operator, and `x, w) axis=1 perm=[0,1]`.
#[track_caller]
fn node(outputs: &str, operator: &str, rest: &str) -> NodeProto {
    let (inputs, attributes) = rest.split_once(')').expect("the inputs end");
    let attribute = |text: &str| {
        let (name, value) = text.split_once('=').expect("an attribute has a value");
        let default = AttributeProto::default();
        match (value.strip_prefix('['), value.parse::<i64>(), value.parse::<f32>()) {
            (Some(list), ..) => {
                let ints = integers(list.trim_end_matches(']'));
                typed(name, AttributeType::Ints, AttributeProto { ints, ..default })
            }
            (_, Ok(i), _) => typed(name, AttributeType::Int, AttributeProto { i: Some(i), ..default }),
            (_, _, Ok(f)) => typed(name, AttributeType::Float, AttributeProto { f: Some(f), ..default }),
            _ => {
                let s = Some(prost::bytes::Bytes::copy_from_slice(value.as_bytes()));
                typed(name, AttributeType::String, AttributeProto { s, ..default })
            }
        }
    };
    NodeProto {
        input: if inputs.is_empty() { Vec::new() } else { names(inputs) },
        output: names(outputs),
        op_type: Some(operator.to_owned()),
        attribute: attributes.split_whitespace().map(attribute).collect(),
        ..NodeProto::default()
    }
}

/// An input: `x: f32[T, 3]`; `?` stands for a dimension without a name.
#[track_caller]
fn input(text: &str) -> ValueInfoProto {
    let (name, ty) = text.split_once(": ").expect("a line is an input, a node or the result");
    let (dtype, shape) = ty.trim_end_matches(']').split_once('[').expect("an input has a shape");
    let elem_type = [DType::F32, DType::F64, DType::I32, DType::I64, DType::Bool]
        .into_iter()
        .find(|d| d.to_string() == dtype)
        .map(number_of);
    assert!(elem_type.is_some(), "{dtype} is no type");
    let dim = |text: String| Dimension {
        value: match text.parse() {
            Ok(n) => Some(dimension::Value::DimValue(n)),
            Err(_) => (text != "?").then_some(dimension::Value::DimParam(text)),
        },
        ..Dimension::default()
    };
    let dim = if shape.is_empty() { Vec::new() } else { names(shape).into_iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type, shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}
