//! The handle that traced programs compute with.

use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use fuse_ir::{DType, Dim, Op, TensorType, ValueId};

use crate::error::Fault;
use crate::session::{LevelId, Place, Trace};
use crate::shape::axis_of;
use crate::tensor_list::TensorList;

/// A value of the program being traced. Cloning is cheap; a clone is the same value.
///
/// Operands of elementwise operations broadcast as in NumPy: shapes are aligned at their last axes, and an
/// axis of size 1, or a missing one, repeats. Two symbolic sizes agree when they are equal expressions.
/// Numbers take the element type of the tensor they meet. Axes may be negative, counting from the end.
///
/// No method panics on wrong arguments; see the crate's documentation on errors.
#[derive(Clone)]
pub struct Tensor {
    trace: Trace,
    pub(crate) origin: Origin,
    ty: Rc<TensorType>,
}

/// Where a handle's value lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A value of the graph of an open level.
    Value {
        /// The level.
        level: LevelId,
        /// The value in the level's graph.
        value: ValueId,
    },
    /// Nowhere: an operation failed.
    Poisoned,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Value { value, .. } => write!(f, "{value}: {}", self.ty),
            Origin::Poisoned => f.write_str("poisoned"),
        }
    }
}

impl AsRef<Tensor> for Tensor {
    fn as_ref(&self) -> &Tensor {
        self
    }
}

impl Tensor {
    pub(crate) fn new(trace: &Trace, origin: Origin, ty: TensorType) -> Self {
        Tensor { trace: trace.clone(), origin, ty: Rc::new(ty) }
    }

    /// The trace that the tensor belongs to.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The type. That of the handle of a failed operation is a guess.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// The extents, outermost first. [`Tensor::dim`] is the way to one of them that cannot panic.
    pub fn shape(&self) -> &[Dim] {
        &self.ty.shape
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.ty.rank()
    }

    /// The extent of one axis.
    #[track_caller]
    pub fn dim(&self, axis: i64) -> Dim {
        let mut found = Dim::constant(1);
        self.traced("dim", || {
            self.trace.check(&[self])?;
            found = self.ty.shape[axis_of(&self.ty, axis)?].clone();
            Ok(())
        });
        found
    }

    /// The elements converted to another type: to a float rounding to nearest even, to an integer truncating
    /// and saturating, to bool as "differs from zero".
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Tensor {
        self.traced("cast", || {
            if dtype == self.dtype() {
                self.trace.check(&[self])?;
                return Ok(self.clone());
            }
            self.trace.apply(Op::Cast { dtype }, &[self])
        })
    }

    /// Runs a library operation called on this tensor.
    #[track_caller]
    pub(crate) fn traced<R: TensorList>(
        &self,
        operation: &'static str,
        run: impl FnOnce() -> Result<R, Fault>,
    ) -> R {
        self.traced_at(operation, Location::caller(), run)
    }

    /// Runs a library operation called on this tensor at `place`.
    pub(crate) fn traced_at<R: TensorList>(
        &self,
        operation: &'static str,
        place: Place,
        run: impl FnOnce() -> Result<R, Fault>,
    ) -> R {
        self.trace.traced(operation, place, &self.ty, run)
    }
}
