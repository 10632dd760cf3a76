//! Tests of operators, each imported as a model of one node and run by the interpreter.

mod arithmetic;
mod attentions;
mod branches;
mod convolutions;
mod dimensions;
mod functions;
mod indexing;
mod loops;
mod movements;
mod net;
mod normalisations;
mod products;
mod reductions;
mod scans;
mod sequences;
mod shapes;
mod slices;

use fuse_ir::DType;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::tensor::Tensor as HostTensor;
use prost::Message as _;

use super::super::proto::attribute_proto::AttributeType;
use super::super::proto::tensor_proto::DataType;
use super::super::proto::tensor_shape_proto::{Dimension, dimension};
use super::super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use super::super::{ImportOptions, import_bytes};

/// A model of one node.
struct Model {
    opset: i64,
    node: NodeProto,
    initializers: Vec<usize>,
}

impl Model {
    fn new(operator: &str, opset: i64) -> Self {
        let node = NodeProto {
            op_type: Some(operator.to_owned()),
            output: vec!["y0".to_owned()],
            ..NodeProto::default()
        };
        Model { opset, node, initializers: Vec::new() }
    }

    fn attribute(mut self, name: &str, ty: AttributeType, value: AttributeProto) -> Self {
        let attribute = AttributeProto { name: Some(name.to_owned()), r#type: Some(ty.into()), ..value };
        self.node.attribute.push(attribute);
        self
    }

    fn int(self, name: &str, value: i64) -> Self {
        self.attribute(
            name,
            AttributeType::Int,
            AttributeProto { i: Some(value), ..AttributeProto::default() },
        )
    }

    fn ints(self, name: &str, values: &[i64]) -> Self {
        let value = AttributeProto { ints: values.to_vec(), ..AttributeProto::default() };
        self.attribute(name, AttributeType::Ints, value)
    }

    fn float(self, name: &str, value: f32) -> Self {
        let value = AttributeProto { f: Some(value), ..AttributeProto::default() };
        self.attribute(name, AttributeType::Float, value)
    }

    fn string(self, name: &str, value: &str) -> Self {
        let s = Some(prost::bytes::Bytes::copy_from_slice(value.as_bytes()));
        self.attribute(name, AttributeType::String, AttributeProto { s, ..AttributeProto::default() })
    }

    fn outputs(mut self, count: usize) -> Self {
        self.node.output = (0..count).map(|i| format!("y{i}")).collect();
        self
    }

    /// Stores an input in the model.
    fn stored(mut self, input: usize) -> Self {
        self.initializers.push(input);
        self
    }

    fn proto(&self, inputs: &[HostTensor]) -> ModelProto {
        let (mut graph, mut node) = (GraphProto::default(), self.node.clone());
        node.input = (0..inputs.len()).map(|i| format!("x{i}")).collect();
        for (i, tensor) in inputs.iter().enumerate() {
            match self.initializers.contains(&i) {
                true => graph.initializer.push(initializer(&node.input[i], tensor)),
                false => graph.input.push(value_info(&node.input[i], tensor)),
            }
        }
        graph.output = node
            .output
            .iter()
            .map(|name| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() })
            .collect();
        graph.node = vec![node];
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }],
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    /// The outputs, or why the model is refused.
    fn attempt(&self, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, String> {
        let name = |i: usize| format!("x{i}");
        let options = ImportOptions {
            values: inputs.iter().enumerate().map(|(i, t)| (name(i), t.clone())).collect(),
            ..ImportOptions::default()
        };
        let imported =
            import_bytes(&self.proto(inputs).encode_to_vec(), &options).map_err(|e| e.to_string())?;
        let bound = imported.graph.inputs().iter().map(|input| {
            let parameter = imported.parameters.get(&input.name);
            parameter.or_else(|| options.values.get(&input.name)).expect("every input has a value").clone()
        });
        interpret(&imported.graph, &bound.collect::<Vec<_>>(), Precision::Declared).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn run(&self, inputs: &[HostTensor]) -> Vec<HostTensor> {
        self.attempt(inputs).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The elements of the first output.
    #[track_caller]
    fn values(&self, inputs: &[HostTensor]) -> Vec<f64> {
        self.run(inputs)[0].to_f64()
    }

    /// The integers of the first output.
    #[track_caller]
    fn integers(&self, inputs: &[HostTensor]) -> Vec<i64> {
        self.run(inputs)[0].literals().map(|v| v.as_i64()).collect()
    }
}

fn number_of(dtype: DType) -> i32 {
    let number = match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::F16 => DataType::Float16,
        DType::Bf16 => DataType::Bfloat16,
        DType::I32 => DataType::Int32,
        DType::I64 => DataType::Int64,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
    };
    number.into()
}

fn initializer(name: &str, tensor: &HostTensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(number_of(tensor.dtype())),
        dims: tensor.shape().iter().map(|n| *n as i64).collect(),
        raw_data: Some(prost::bytes::Bytes::copy_from_slice(tensor.bytes())),
        ..TensorProto::default()
    }
}

fn value_info(name: &str, tensor: &HostTensor) -> ValueInfoProto {
    let extent =
        |n: &usize| Dimension { value: Some(dimension::Value::DimValue(*n as i64)), ..Dimension::default() };
    let shape = TensorShapeProto { dim: tensor.shape().iter().map(extent).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(number_of(tensor.dtype())), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn f32s(shape: &[usize], values: &[f32]) -> HostTensor {
    HostTensor::from_values(shape, values).expect("the count fits the shape")
}

fn f64s(shape: &[usize], values: &[f64]) -> HostTensor {
    HostTensor::from_values(shape, values).expect("the count fits the shape")
}

fn i64s(shape: &[usize], values: &[i64]) -> HostTensor {
    HostTensor::from_values(shape, values).expect("the count fits the shape")
}

fn i32s(shape: &[usize], values: &[i32]) -> HostTensor {
    HostTensor::from_values(shape, values).expect("the count fits the shape")
}

fn u8s(shape: &[usize], values: &[u8]) -> HostTensor {
    HostTensor::from_values(shape, values).expect("the count fits the shape")
}

fn bools(shape: &[usize], values: &[bool]) -> HostTensor {
    HostTensor::from_values(shape, values).expect("the count fits the shape")
}

/// A tensor of a narrow float type.
fn narrow(dtype: DType, shape: &[usize], values: &[f32]) -> HostTensor {
    let to = i64::from(number_of(dtype));
    Model::new("Cast", 13).int("to", to).run(&[f32s(shape, values)]).swap_remove(0)
}

/// Checks numbers to a relative error, and infinities, NaNs and zeros as such.
#[track_caller]
fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let same = g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= tolerance * e.abs();
        assert!(same, "element {i}: {g:e} instead of {e:e}");
    }
}
