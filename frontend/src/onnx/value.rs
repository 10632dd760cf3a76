//! What a name of an ONNX graph stands for while the graph is imported.

use std::rc::Rc;

use fuse_ir::expr::Symbol;
use fuse_ir::limits::MAX_DIM;
use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{DType, Dim, Literal};

use crate::tensor::Tensor;

/// A value of an ONNX graph.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Known when the model is imported: an initializer, a constant, what was folded from them, or an input whose
    /// value was given for the import.
    Known(Rc<Constant>),
    /// Integers that follow from dimensions, such as what `Shape` returns.
    Dims(Rc<DimTensor>),
    /// Computed when the model runs.
    Traced(Tensor),
    /// A sequence of tensors.
    Sequence(Rc<Vec<Segment>>),
}

/// A part of a sequence of tensors.
#[derive(Clone, Debug)]
pub(crate) enum Segment {
    /// One entry.
    Item(Value),
    /// As many entries as the leading axis is long.
    Stacked(Tensor),
    /// What a loop has carried into its step: the carried value of that position.
    Carried(usize),
}

/// A tensor with the name it goes by as a parameter.
#[derive(Debug)]
pub(crate) struct Constant {
    /// The name of the initializer, or of the node's output that was folded.
    pub(crate) name: String,
    /// The elements.
    pub(crate) tensor: HostTensor,
}

/// A tensor of integers, each an expression over the model's symbols. They may have become floats by a cast, which
/// holds them exactly up to 2^24 (f32); and of bools each is true where its expression is positive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DimTensor {
    /// The extents.
    pub(crate) shape: Vec<usize>,
    /// The elements, row-major.
    pub(crate) dims: Vec<Dim>,
    /// The element type.
    pub(crate) dtype: DType,
}

/// The symbol that stands for the step of a loop that is being imported; no dimension of a model has such a name.
pub(crate) fn step_symbol(number: usize) -> Symbol {
    Symbol::new(format!("step#{number}"))
}

/// Whether a dimension depends on the step of a loop, so that it is no dimension of a tensor.
pub(crate) fn depends_on_step(dim: &Dim) -> bool {
    dim.symbols().iter().any(|s| s.name().contains('#'))
}

impl Value {
    /// A known tensor.
    pub(crate) fn known(name: impl Into<String>, tensor: HostTensor) -> Value {
        Value::Known(Rc::new(Constant { name: name.into(), tensor }))
    }

    /// Integers that follow from dimensions; known ones if all of them are numbers.
    pub(crate) fn dims(name: &str, tensor: DimTensor) -> Value {
        let dtype = tensor.dtype;
        let literal = |value: i64| match dtype {
            DType::Bool => Literal::from_i64(dtype, i64::from(value > 0)),
            dtype => Literal::from_i64(dtype, value),
        };
        let constants: Option<Vec<Literal>> =
            tensor.dims.iter().map(|d| d.as_constant().map(literal)).collect();
        let host = constants.and_then(|values| {
            let bytes: Vec<u8> =
                values.iter().flat_map(|v| v.bits().to_le_bytes().into_iter().take(dtype.size())).collect();
            HostTensor::from_bytes(dtype, &tensor.shape, bytes).ok()
        });
        match host {
            Some(host) => Value::known(name, host),
            None => Value::Dims(Rc::new(tensor)),
        }
    }

    /// A vector of dimensions, i64.
    pub(crate) fn vector_of_dims(name: &str, dims: Vec<Dim>) -> Value {
        Value::dims(name, DimTensor { shape: vec![dims.len()], dims, dtype: DType::I64 })
    }

    /// The element type. That of a sequence is its entries' own affair; builders see none, see [`Call::value`].
    ///
    /// [`Call::value`]: super::call::Call::value
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Value::Sequence(_) => DType::F32,
            Value::Known(constant) => constant.tensor.dtype(),
            Value::Dims(tensor) => tensor.dtype,
            Value::Traced(tensor) => tensor.dtype(),
        }
    }

    /// The extents.
    pub(crate) fn shape(&self) -> Vec<Dim> {
        let of = |shape: &[usize]| shape.iter().map(|n| Dim::constant(*n as i64)).collect();
        match self {
            Value::Known(constant) => of(constant.tensor.shape()),
            Value::Dims(tensor) => of(&tensor.shape),
            Value::Traced(tensor) => tensor.shape().to_vec(),
            Value::Sequence(_) => Vec::new(),
        }
    }

    /// The number of axes.
    pub(crate) fn rank(&self) -> usize {
        match self {
            Value::Known(constant) => constant.tensor.shape().len(),
            Value::Dims(tensor) => tensor.shape.len(),
            Value::Traced(tensor) => tensor.rank(),
            Value::Sequence(_) => 0,
        }
    }

    /// The elements, if they are known now.
    pub(crate) fn as_known(&self) -> Option<&HostTensor> {
        match self {
            Value::Known(constant) => Some(&constant.tensor),
            Value::Dims(_) | Value::Traced(_) | Value::Sequence(_) => None,
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Value::Traced(tensor)
    }
}

impl DimTensor {
    /// The symbols of all elements.
    pub(crate) fn symbols(&self) -> Vec<Symbol> {
        let mut all: Vec<Symbol> = self.dims.iter().flat_map(Dim::symbols).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The tensor of dimensions that known integers and bools are, or floats that are whole; `None` for others.
    pub(crate) fn from_known(tensor: &HostTensor) -> Option<DimTensor> {
        let dtype = tensor.dtype();
        let whole = |v: Literal| match dtype {
            DType::F32 | DType::F64 => {
                let value = v.as_f64();
                (value.trunc() == value && value.abs() <= MAX_DIM as f64).then_some(value as i64)
            }
            DType::I32 | DType::I64 | DType::Bool => Some(v.as_i64()),
            DType::F16 | DType::Bf16 | DType::U8 => None,
        };
        let dims = tensor.literals().map(|v| whole(v).map(Dim::constant)).collect::<Option<_>>()?;
        Some(DimTensor { shape: tensor.shape().to_vec(), dims, dtype })
    }
}
