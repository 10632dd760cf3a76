//! What goes in and comes out of a traced program, and tensors made of nothing.

use std::panic::Location;

use fuse_ir::limits::type_problem;
use fuse_ir::{DType, InputKind, Literal, Op, TensorType};

use crate::elementwise::Operand;
use crate::error::{Fault, argument};
use crate::session::Trace;
use crate::shape::{IntoDim, IntoShape, ShapeArgument, axis_of, one_dim};
use crate::tensor::{Origin, Tensor};

/// Declaring what goes in and comes out, and tensors that depend on nothing.
impl Trace {
    /// Declares an input that callers give at every call.
    ///
    /// Dimensions are numbers, symbols (`"T"`) or sums of products of both (`"4*H + 1"`); see [`IntoShape`].
    /// May be called inside a scan body as well; the input belongs to the program.
    #[track_caller]
    pub fn input(&self, name: &str, dtype: DType, shape: impl IntoShape) -> Tensor {
        self.declare("input", name, InputKind::Input, dtype, shape)
    }

    /// Declares a weight, which is bound once, before the calls; otherwise like [`Trace::input`].
    #[track_caller]
    pub fn parameter(&self, name: &str, dtype: DType, shape: impl IntoShape) -> Tensor {
        self.declare("parameter", name, InputKind::Parameter, dtype, shape)
    }

    #[track_caller]
    fn declare(
        &self,
        operation: &'static str,
        name: &str,
        kind: InputKind,
        dtype: DType,
        shape: impl IntoShape,
    ) -> Tensor {
        let guess = TensorType::scalar(dtype);
        self.traced(operation, Location::caller(), &guess, || {
            let ty = TensorType { dtype, shape: shape.into_shape()? };
            if let Some(problem) = type_problem(&ty) {
                return Err(argument("shape", "too large", problem));
            }
            if let Some(d) = ty.shape.iter().find(|d| d.as_constant().is_some_and(|c| c < 0)) {
                return Err(argument("shape", &ty, format!("{d} is negative")));
            }
            let mut state = self.0.borrow_mut();
            let Some(level) = state.levels.first_mut() else { return Err(Fault::Poisoned) };
            let value = level.named_input(name, kind, ty.clone())?;
            Ok(Tensor::new(self, Origin::Value { level: level.id, value }, ty))
        })
    }

    /// Returns `tensor` to the callers under `name`.
    #[track_caller]
    pub fn output(&self, name: &str, tensor: impl AsRef<Tensor>) {
        let tensor = tensor.as_ref();
        self.traced("output", Location::caller(), tensor.ty(), || {
            self.check(&[tensor])?;
            let mut state = self.0.borrow_mut();
            let Some(level) = state.levels.first_mut() else { return Err(Fault::Poisoned) };
            match tensor.origin {
                Origin::Value { level: id, value } if id == level.id => level.named_output(name, value),
                _ => Err(argument(
                    "tensor",
                    format!("{} of a scan body", tensor.ty()),
                    "only a tensor of the program itself can be an output; return it from the body",
                )),
            }
        });
    }

    /// The scalar `value` as a tensor of rank 0.
    #[track_caller]
    pub fn constant(&self, dtype: DType, value: impl Into<Operand>) -> Tensor {
        let value = value.into();
        self.traced("constant", Location::caller(), &TensorType::scalar(dtype), || {
            let value = value.literal(dtype)?;
            self.apply(Op::Constant { value }, &[])
        })
    }

    /// A tensor of `shape` that is `value` everywhere.
    #[track_caller]
    pub fn full(&self, dtype: DType, shape: impl IntoShape, value: impl Into<Operand>) -> Tensor {
        let value = value.into();
        self.traced("full", Location::caller(), &TensorType::scalar(dtype), || {
            let (shape, value) = (shape.into_shape()?, value.literal(dtype)?);
            self.filled(&shape, value)
        })
    }

    /// A tensor of zeros.
    #[track_caller]
    pub fn zeros(&self, dtype: DType, shape: impl IntoShape) -> Tensor {
        self.traced("zeros", Location::caller(), &TensorType::scalar(dtype), || {
            let shape = shape.into_shape()?;
            self.filled(&shape, Literal::from_i64(dtype, 0))
        })
    }

    /// The coordinate along `axis` (negative counts from the end) at every point of `shape`.
    #[track_caller]
    pub fn iota(&self, dtype: DType, shape: impl IntoShape, axis: i64) -> Tensor {
        self.traced("iota", Location::caller(), &TensorType::scalar(dtype), || {
            let ty = TensorType { dtype, shape: shape.into_shape()? };
            let axis = axis_of(&ty, axis)?;
            self.apply(Op::Iota { shape: ty.shape, axis, dtype }, &[])
        })
    }

    /// The value of a dimension at run time, as a tensor of rank 0.
    #[track_caller]
    pub fn dim_value(&self, dtype: DType, dim: impl IntoDim) -> Tensor {
        self.traced("dim_value", Location::caller(), &TensorType::scalar(dtype), || {
            let dim = one_dim("dim", dim)?;
            self.dim_tensor(dtype, &dim)
        })
    }
}
