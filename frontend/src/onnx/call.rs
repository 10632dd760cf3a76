//! A node that is being imported, as its builder sees it.

use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{DType, Dim, Literal};

use super::attribute::Attributes;
use super::error::{Built, Problem, refuse};
use super::importer::{Importer, Scope};
use super::value::{DimTensor, Segment, Value, depends_on_step};
use crate::Trace;
use crate::tensor::Tensor;

/// A node that is being imported.
pub(crate) struct Call<'a> {
    /// The import it is part of.
    pub(crate) importer: &'a Importer<'a>,
    /// The names that its subgraphs see.
    pub(crate) scope: &'a Scope<'a>,
    /// Its attributes.
    pub(crate) attributes: Attributes<'a>,
    /// Its inputs; `None` where an optional one is left out.
    pub(crate) inputs: Vec<Option<Value>>,
    /// The number of outputs.
    pub(crate) outputs: usize,
    /// The version of the operator set that the model imports for the node's domain.
    pub(crate) opset: i64,
    /// The name of the first output, for what is made of it.
    pub(crate) name: &'a str,
}

/// Inputs.
impl Call<'_> {
    /// The trace that ops are added to.
    pub(crate) fn trace(&self) -> &Trace {
        &self.importer.trace
    }

    /// An input, if it is given.
    pub(crate) fn optional(&self, i: usize) -> Option<&Value> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    /// An input, which is a tensor.
    pub(crate) fn value(&self, i: usize) -> Built<&Value> {
        match self.optional(i) {
            Some(Value::Sequence(_)) => refuse(format!("input {i} is a sequence of tensors, not a tensor")),
            Some(value) => Ok(value),
            None => refuse(format!("input {i} is missing")),
        }
    }

    /// An input, which is a sequence of tensors.
    pub(crate) fn sequence(&self, i: usize) -> Built<&[Segment]> {
        match self.optional(i) {
            Some(Value::Sequence(segments)) => Ok(segments),
            Some(_) => refuse(format!("input {i} is a tensor, not a sequence of tensors")),
            None => refuse(format!("input {i} is missing")),
        }
    }

    /// An input as a tensor of the trace.
    pub(crate) fn tensor(&self, i: usize) -> Built<Tensor> {
        self.importer.tensor(self.value(i)?)
    }

    /// An input as a tensor of the trace, if it is given.
    pub(crate) fn optional_tensor(&self, i: usize) -> Built<Option<Tensor>> {
        self.optional(i).map(|value| self.importer.tensor(value)).transpose()
    }

    /// All inputs as tensors.
    pub(crate) fn tensors(&self) -> Built<Vec<Tensor>> {
        (0..self.inputs.len()).map(|i| self.tensor(i)).collect()
    }

    /// The elements of an input, which must be known now. `what` says what they are for, as in "the axes".
    pub(crate) fn known(&self, i: usize, what: &str) -> Built<HostTensor> {
        self.importer.known(self.value(i)?, what)
    }

    /// The integers of an input, which must be known now.
    pub(crate) fn ints(&self, i: usize, what: &str) -> Built<Vec<i64>> {
        let tensor = self.known(i, what)?;
        if tensor.dtype().is_float() {
            return refuse(format!("{what} are {}, not integers", tensor.dtype()));
        }
        Ok(tensor.literals().map(Literal::as_i64).collect())
    }

    /// The integers of an input, if it is given.
    pub(crate) fn optional_ints(&self, i: usize, what: &str) -> Built<Option<Vec<i64>>> {
        self.optional(i).map(|_| self.ints(i, what)).transpose()
    }

    /// The one integer of an input, which must be known now.
    pub(crate) fn int(&self, i: usize, what: &str) -> Built<i64> {
        match self.ints(i, what)?[..] {
            [value] => Ok(value),
            ref other => refuse(format!("{what} has {} elements, not one", other.len())),
        }
    }

    /// The one number of an input, which must be known now.
    pub(crate) fn scalar(&self, i: usize, what: &str) -> Built<Literal> {
        let tensor = self.known(i, what)?;
        match tensor.get(0) {
            Some(value) if tensor.elements() == 1 => Ok(value),
            _ => refuse(format!("{what} has {} elements, not one", tensor.elements())),
        }
    }

    /// The integers of an input as dimensions: numbers, or expressions of the model's symbols.
    pub(crate) fn dims(&self, i: usize, what: &str) -> Built<Vec<Dim>> {
        Ok(self.dim_tensor(i, what)?.dims)
    }

    /// The integers of an input as dimensions, with their shape.
    pub(crate) fn dim_tensor(&self, i: usize, what: &str) -> Built<DimTensor> {
        let tensor = self.step_dims(i, what)?;
        match tensor.dims.iter().any(depends_on_step) {
            true => refuse(format!("{what} must be the same in each step of the loop around it")),
            false => Ok(tensor),
        }
    }

    /// The integers of an input as dimensions, which may depend on the step of a loop that is being imported; see
    /// [`depends_on_step`].
    pub(crate) fn step_dims(&self, i: usize, what: &str) -> Built<DimTensor> {
        let integers = |tensor: DimTensor| match tensor.dtype {
            DType::I32 | DType::I64 => Ok(tensor),
            dtype => refuse(format!("{what} are {dtype}, not integers")),
        };
        if let Value::Dims(tensor) = self.value(i)? {
            return integers((**tensor).clone());
        }
        let tensor = self.known(i, what)?;
        match DimTensor::from_known(&tensor) {
            Some(dims) => integers(dims),
            None => refuse(format!("{what} are {}, not integers", tensor.dtype())),
        }
    }

    /// Axes from the attribute `name` or, in newer versions, from input `i`; `None` where neither is given.
    pub(crate) fn axes(&self, name: &str, i: usize) -> Built<Option<Vec<i64>>> {
        match self.attributes.ints(name)? {
            Some(axes) => Ok(Some(axes.to_vec())),
            None => self.optional_ints(i, name),
        }
    }
}

/// Checks.
impl Call<'_> {
    /// Requires two sizes to be equal. Sizes that are not, but could be, become equal for the whole model.
    pub(crate) fn equal(&self, a: &Dim, b: &Dim) -> Built<()> {
        if a == b { Ok(()) } else { Err(Problem::Unequal(a.clone(), b.clone())) }
    }

    /// The shape that shapes broadcast to, aligned at their last axes.
    pub(crate) fn broadcast_shape(&self, shapes: &[&[Dim]]) -> Built<Vec<Dim>> {
        let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut out = vec![Dim::constant(1); rank];
        for shape in shapes {
            for (own, dim) in out.iter_mut().skip(rank - shape.len()).zip(*shape) {
                if own.is_one() {
                    *own = dim.clone();
                } else if !dim.is_one() {
                    self.equal(own, dim)?;
                }
            }
        }
        Ok(out)
    }

    /// Checks that tensors broadcast, so that an elementwise operation on them does.
    pub(crate) fn broadcast_together(&self, tensors: &[&Tensor]) -> Built<Vec<Dim>> {
        self.broadcast_shape(&tensors.iter().map(|t| t.shape()).collect::<Vec<_>>())
    }

    /// The position of an axis that may count from the end.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Built<usize> {
        let signed = rank as i64;
        let position = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
        match position.filter(|p| (0..signed).contains(p)) {
            Some(position) => Ok(position as usize),
            None => refuse(format!("axis {axis} is out of range for rank {rank}")),
        }
    }

    /// The positions of axes that may count from the end, ascending; none may stand twice.
    pub(crate) fn axis_positions(&self, axes: &[i64], rank: usize) -> Built<Vec<usize>> {
        let mut positions = axes.iter().map(|a| self.axis(*a, rank)).collect::<Built<Vec<_>>>()?;
        positions.sort_unstable();
        match positions.windows(2).any(|pair| pair[0] == pair[1]) {
            true => refuse(format!("axes {axes:?} name an axis twice")),
            false => Ok(positions),
        }
    }

    /// A scalar of the trace.
    pub(crate) fn number(&self, dtype: DType, value: f64) -> Tensor {
        if dtype.is_float() {
            self.trace().constant(dtype, value)
        } else {
            self.trace().constant(dtype, value as i64)
        }
    }

    /// One result.
    pub(crate) fn one(&self, tensor: Tensor) -> Built<Vec<Value>> {
        Ok(vec![tensor.into()])
    }

    /// One result that is known now.
    pub(crate) fn one_known(&self, tensor: HostTensor) -> Built<Vec<Value>> {
        Ok(vec![Value::known(self.name, tensor)])
    }
}
