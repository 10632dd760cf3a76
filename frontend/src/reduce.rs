//! Reductions.

use std::ops::RangeFull;

use fuse_ir::{Dim, Op, ReduceOp, TensorType};

use crate::error::{ErrorKind, Fault, argument};
use crate::shape::axis_of;
use crate::tensor::Tensor;

/// What may stand for axes: one (`-1`), several (`[0, 1]`), or all (`..`). Negative ones count from the end.
pub trait IntoAxes {
    /// The axes as written; `None` for all.
    fn axes(self) -> Option<Vec<i64>>;
}

impl IntoAxes for i64 {
    fn axes(self) -> Option<Vec<i64>> {
        Some(vec![self])
    }
}

impl IntoAxes for i32 {
    fn axes(self) -> Option<Vec<i64>> {
        Some(vec![self.into()])
    }
}

impl<A: Into<i64>, const N: usize> IntoAxes for [A; N] {
    fn axes(self) -> Option<Vec<i64>> {
        Some(self.into_iter().map(Into::into).collect())
    }
}

impl IntoAxes for &[i64] {
    fn axes(self) -> Option<Vec<i64>> {
        Some(self.to_vec())
    }
}

impl IntoAxes for Vec<i64> {
    fn axes(self) -> Option<Vec<i64>> {
        Some(self)
    }
}

impl IntoAxes for RangeFull {
    fn axes(self) -> Option<Vec<i64>> {
        None
    }
}

/// Conversion with the crate's own error.
pub(crate) trait AxesArgument {
    /// The positions, ascending.
    fn positions(self, ty: &TensorType) -> Result<Vec<usize>, Fault>;
}

impl<A: IntoAxes> AxesArgument for A {
    fn positions(self, ty: &TensorType) -> Result<Vec<usize>, Fault> {
        let Some(axes) = self.axes() else { return Ok((0..ty.rank()).collect()) };
        let mut positions = axes.iter().map(|a| axis_of(ty, *a)).collect::<Result<Vec<_>, _>>()?;
        positions.sort_unstable();
        match positions.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                Err(argument("axes", format!("{axes:?}"), format!("axis {} stands twice", pair[0])))
            }
            None => Ok(positions),
        }
    }
}

macro_rules! reductions {
    ($($method:ident $keepdims:ident $op:ident, $doc:literal;)*) => {
        /// Reductions. Reduced axes disappear; the forms that end in `_keepdims` keep them with size 1.
        impl Tensor {
            $(
                #[doc = $doc]
                #[track_caller]
                pub fn $method(&self, axes: impl IntoAxes) -> Tensor {
                    self.traced(stringify!($method), || {
                        self.trace().check(&[self])?;
                        let axes = axes.positions(self.ty())?;
                        reduced(self, ReduceOp::$op, &axes, false)
                    })
                }

                #[doc = concat!("Like [`Tensor::", stringify!($method), "`], with reduced axes kept as size 1.")]
                #[track_caller]
                pub fn $keepdims(&self, axes: impl IntoAxes) -> Tensor {
                    self.traced(stringify!($method), || {
                        self.trace().check(&[self])?;
                        let axes = axes.positions(self.ty())?;
                        reduced(self, ReduceOp::$op, &axes, true)
                    })
                }
            )*
        }
    };
}

reductions! {
    sum sum_keepdims Sum, "The sum over axes; 0 of nothing.";
    prod prod_keepdims Prod, "The product over axes; 1 of nothing.";
    max max_keepdims Max, "The largest over axes; NaN if any is; the type's least value (-inf) of nothing.";
    min min_keepdims Min, "The smallest over axes; NaN if any is; the type's greatest value (+inf) of nothing.";
    argmax argmax_keepdims ArgMax, "The index (i64) of the first largest element along one axis.";
    argmin argmin_keepdims ArgMin, "The index (i64) of the first smallest element along one axis.";
}

/// Reduces over `axes`, ascending.
pub(crate) fn reduced(
    tensor: &Tensor,
    op: ReduceOp,
    axes: &[usize],
    keepdims: bool,
) -> Result<Tensor, Fault> {
    if axes.is_empty() && !op.is_arg() {
        // Nothing to combine, but the element type must still be one that the reduction takes.
        fuse_ir::infer::infer(&Op::Reduce { op, axes: vec![] }, &[tensor.ty()])?;
        return Ok(tensor.clone());
    }
    let result = tensor.trace().apply(Op::Reduce { op, axes: axes.to_vec() }, &[tensor])?;
    if !keepdims {
        return Ok(result);
    }
    let size = |(i, n): (usize, &Dim)| if axes.contains(&i) { Dim::constant(1) } else { n.clone() };
    let shape = tensor.shape().iter().enumerate().map(size).collect();
    tensor.trace().apply(Op::Reshape { shape }, &[&result])
}

/// Refuses element types that are not floats.
pub(crate) fn require_float(tensor: &Tensor) -> Result<(), Fault> {
    tensor.trace().check(&[tensor])?;
    if tensor.dtype().is_float() {
        return Ok(());
    }
    let (got, requirement) = (tensor.ty().to_string(), "a float is needed; cast it".to_string());
    Err(ErrorKind::Argument { argument: "x".into(), got, requirement }.into())
}
