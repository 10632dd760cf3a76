//! Elementwise operations, generated from the op table, with NumPy's broadcasting.

use fuse_ir::ops::ResultRule;
use fuse_ir::types::Shape;
use fuse_ir::{DType, Literal, Op, ScalarOp, TensorType};

use crate::error::{ErrorKind, Fault, argument};
use crate::tensor::Tensor;

/// An operand of an elementwise operation: a tensor or a number.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A tensor.
    Tensor(Tensor),
    /// A number that takes the element type of the tensor it meets, which must be a float.
    Float(f64),
    /// An integer that takes the element type of the tensor it meets.
    Int(i64),
    /// A truth value that meets tensors of truth values.
    Bool(bool),
}

macro_rules! operand_from {
    ($($ty:ty, |$x:ident| $value:expr;)*) => {
        $(impl From<$ty> for Operand {
            fn from($x: $ty) -> Self {
                $value
            }
        })*
    };
}

operand_from! {
    Tensor, |x| Operand::Tensor(x);
    &Tensor, |x| Operand::Tensor(x.clone());
    f64, |x| Operand::Float(x);
    f32, |x| Operand::Float(x.into());
    i64, |x| Operand::Int(x);
    i32, |x| Operand::Int(x.into());
    bool, |x| Operand::Bool(x);
}

impl Operand {
    fn tensor(&self) -> Option<&Tensor> {
        match self {
            Operand::Tensor(tensor) => Some(tensor),
            Operand::Float(_) | Operand::Int(_) | Operand::Bool(_) => None,
        }
    }

    /// The number as a value of `dtype`. Rounding to a float is fine; losing a fraction or a sign is not.
    pub(crate) fn literal(&self, dtype: DType) -> Result<Literal, Fault> {
        let no_value = |value: String| Err(ErrorKind::Number { value, dtype }.into());
        match self {
            Operand::Tensor(tensor) => Err(argument("value", tensor.ty(), "a number is needed")),
            Operand::Float(x) if dtype.is_float() => Ok(Literal::from_f64(dtype, *x)),
            Operand::Float(x) => no_value(format!("{x:?}")),
            Operand::Int(n) => {
                let literal = Literal::from_i64(dtype, *n);
                let kept = dtype.is_float() || literal.as_i64() == *n;
                if kept { Ok(literal) } else { no_value(n.to_string()) }
            }
            Operand::Bool(b) if dtype == DType::Bool => Ok(Literal::from_i64(dtype, i64::from(*b))),
            Operand::Bool(b) => no_value(b.to_string()),
        }
    }
}

macro_rules! methods {
    ($({ $variant:ident, $method:ident, ($first:ident $(, $operand:ident)*), $domain:ident, $rule:ident, $laws:tt,
        $ulp:expr, $doc:literal })*) => {
        /// Elementwise operations, one for each row of the op table. The tensor that the method is called on
        /// is the operation's first operand.
        impl Tensor {
            $(
                #[doc = $doc]
                #[track_caller]
                pub fn $method(&self $(, $operand: impl Into<Operand>)*) -> Tensor {
                    let operands = [Operand::from(self) $(, $operand.into())*];
                    self.traced(stringify!($method), || elementwise(self, ScalarOp::$variant, &operands))
                }
            )*
        }
    };
}

fuse_ir::scalar_op_table!(methods);

/// Applies `op` after broadcasting the operands to one shape; `receiver` is a tensor among them.
pub(crate) fn elementwise(receiver: &Tensor, op: ScalarOp, operands: &[Operand]) -> Result<Tensor, Fault> {
    let trace = receiver.trace();
    let tensors: Vec<(usize, &Tensor)> =
        operands.iter().enumerate().filter_map(|(i, o)| o.tensor().map(|t| (i, t))).collect();
    trace.check(&tensors.iter().map(|(_, t)| *t).collect::<Vec<_>>())?;
    let dtype = element_type(op, &tensors)?;
    let shape = common_shape(op, &tensors)?;
    let mut values = Vec::with_capacity(operands.len());
    for operand in operands {
        values.push(match operand {
            Operand::Tensor(tensor) => expand(tensor, &shape)?,
            Operand::Float(_) | Operand::Int(_) | Operand::Bool(_) => {
                trace.filled(&shape, operand.literal(dtype)?)?
            }
        });
    }
    trace.apply(Op::Scalar(op), &values.iter().collect::<Vec<_>>())
}

/// The element type of the operands (beside the condition of a select).
fn element_type(op: ScalarOp, tensors: &[(usize, &Tensor)]) -> Result<DType, Fault> {
    let condition = op.result_rule() == ResultRule::Select;
    let mut values = tensors.iter().filter(|(i, _)| !condition || *i > 0);
    let Some(first) = values.next() else {
        return Err(argument("x", "a number, and so is `y`", "one of them must be a tensor of known type"));
    };
    match values.find(|(_, t)| t.dtype() != first.1.dtype()) {
        Some(other) => Err(mismatch(op, first, other, "element types must be equal; cast one of them")),
        None => Ok(first.1.dtype()),
    }
}

/// The shape that all operands broadcast to.
fn common_shape(op: ScalarOp, tensors: &[(usize, &Tensor)]) -> Result<Shape, Fault> {
    let rank = tensors.iter().map(|(_, t)| t.rank()).max().unwrap_or(0);
    let mut shape = Shape::with_capacity(rank);
    for from_end in (1..=rank).rev() {
        let mut chosen: Option<&(usize, &Tensor)> = None;
        for candidate in tensors {
            let Some(dim) = dim_from_end(candidate.1.ty(), from_end) else { continue };
            match chosen.and_then(|c| dim_from_end(c.1.ty(), from_end)) {
                None => chosen = Some(candidate),
                Some(d) if d == dim || dim.is_one() => {}
                Some(d) if d.is_one() => chosen = Some(candidate),
                Some(d) => {
                    let left = chosen.unwrap_or(candidate);
                    let text = format!("sizes {d} and {dim} of axis -{from_end} neither equal nor broadcast");
                    return Err(mismatch(op, left, candidate, text));
                }
            }
        }
        shape.extend(chosen.and_then(|c| dim_from_end(c.1.ty(), from_end)).cloned());
    }
    Ok(shape)
}

fn dim_from_end(ty: &TensorType, from_end: usize) -> Option<&fuse_ir::Dim> {
    ty.rank().checked_sub(from_end).map(|i| &ty.shape[i])
}

fn mismatch(
    op: ScalarOp,
    left: &(usize, &Tensor),
    right: &(usize, &Tensor),
    requirement: impl Into<String>,
) -> Fault {
    let name = |(position, tensor): &(usize, &Tensor)| {
        labelled(op.operands().get(*position).copied().unwrap_or("operand"), tensor)
    };
    ErrorKind::Mismatch {
        left: name(left),
        left_ty: left.1.ty().clone(),
        right: name(right),
        right_ty: right.1.ty().clone(),
        requirement: requirement.into(),
    }
    .into()
}

/// The argument's name, with the input's that was given for it.
pub(crate) fn labelled(argument: &str, tensor: &Tensor) -> String {
    match tensor.trace().input_name(tensor) {
        Some(name) => format!("{argument} (`{name}`)"),
        None => argument.into(),
    }
}

/// Broadcasts `tensor` to `shape`, its axes aligned with the last ones.
pub(crate) fn expand(tensor: &Tensor, shape: &[fuse_ir::Dim]) -> Result<Tensor, Fault> {
    if tensor.shape() == shape {
        return Ok(tensor.clone());
    }
    let Some(missing) = shape.len().checked_sub(tensor.rank()) else {
        let text = format!("it has more axes than {}", fuse_ir::types::ShapeText(shape));
        return Err(argument("x", tensor.ty(), text));
    };
    let axes = (missing..shape.len()).collect();
    tensor.trace().apply(Op::Broadcast { shape: shape.to_vec(), axes }, &[tensor])
}
