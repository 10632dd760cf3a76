//! Operations that only move elements.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};
use std::panic::Location;

use fuse_ir::ops::SliceAxis;
use fuse_ir::types::{Shape, ShapeText, element_count};
use fuse_ir::{Dim, Op};

use crate::elementwise::{Operand, expand};
use crate::error::{Fault, argument};
use crate::reduce::{AxesArgument, IntoAxes};
use crate::session::Trace;
use crate::shape::{IntoDim, IntoShape, ShapeArgument, axis_of, insertion_axis, one_dim};
use crate::tensor::Tensor;

/// What may stand for positions along an axis: `2..5`, `..n`, `1..`, `..`, of numbers or dimensions. A
/// negative number counts from the end.
pub trait IntoBounds {
    /// The first position and the one past the last, where given.
    ///
    /// # Errors
    /// Where a text is not a dimension.
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String>;
}

impl<D: IntoDim> IntoBounds for Range<D> {
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String> {
        Ok((Some(self.start.into_dim()?), Some(self.end.into_dim()?)))
    }
}

impl<D: IntoDim> IntoBounds for RangeInclusive<D> {
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String> {
        let (start, last) = self.into_inner();
        Ok((Some(start.into_dim()?), after(last.into_dim()?)))
    }
}

impl<D: IntoDim> IntoBounds for RangeToInclusive<D> {
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String> {
        Ok((None, after(self.end.into_dim()?)))
    }
}

/// One past a last position; `..=-1` runs to the end, where one past -1 would read as position 0.
fn after(last: Dim) -> Option<Dim> {
    Some(last + Dim::constant(1)).filter(|end| !end.is_zero())
}

impl<D: IntoDim> IntoBounds for RangeTo<D> {
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String> {
        Ok((None, Some(self.end.into_dim()?)))
    }
}

impl<D: IntoDim> IntoBounds for RangeFrom<D> {
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String> {
        Ok((Some(self.start.into_dim()?), None))
    }
}

impl IntoBounds for RangeFull {
    fn bounds(self) -> Result<(Option<Dim>, Option<Dim>), String> {
        Ok((None, None))
    }
}

/// Operations that only move elements.
impl Tensor {
    /// The same elements in row-major order under another shape. One entry may be -1: what remains.
    #[track_caller]
    pub fn reshape(&self, shape: impl IntoShape) -> Tensor {
        self.traced("reshape", || {
            self.trace().check(&[self])?;
            let shape = with_remainder(self, shape.into_shape()?)?;
            if shape == self.shape() {
                return Ok(self.clone());
            }
            self.trace().apply(Op::Reshape { shape }, &[self])
        })
    }

    /// Repeats elements so that the shape becomes `shape`; axes are aligned at the last one, and an axis of
    /// size 1, or a missing one, repeats.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl IntoShape) -> Tensor {
        self.traced("broadcast_to", || {
            self.trace().check(&[self])?;
            expand(self, &shape.into_shape()?)
        })
    }

    /// Exchanges two axes.
    #[track_caller]
    pub fn transpose(&self, axis: i64, other: i64) -> Tensor {
        self.traced("transpose", || {
            self.trace().check(&[self])?;
            let mut permutation: Vec<usize> = (0..self.rank()).collect();
            permutation.swap(axis_of(self.ty(), axis)?, axis_of(self.ty(), other)?);
            permuted(self, permutation)
        })
    }

    /// Orders the axes anew: axis `i` of the result is axis `axes[i]`.
    #[track_caller]
    pub fn permute(&self, axes: impl AsRef<[i64]>) -> Tensor {
        self.traced("permute", || {
            self.trace().check(&[self])?;
            let axes = axes.as_ref().iter().map(|a| axis_of(self.ty(), *a));
            permuted(self, axes.collect::<Result<_, _>>()?)
        })
    }

    /// The positions `range` along one axis: `x.slice(0, 1..)`, `x.slice(-1, ..-1)`, `x.slice(0, "1".."T - 1")`.
    ///
    /// Clippy takes `1..-1` for an empty range; write `x.slice(0, 1..).slice(0, ..-1)`.
    #[track_caller]
    pub fn slice(&self, axis: i64, range: impl IntoBounds) -> Tensor {
        self.slice_by(axis, range, 1)
    }

    /// Every `step`-th position of `range` along one axis; `step` is at least 1.
    #[track_caller]
    pub fn slice_by(&self, axis: i64, range: impl IntoBounds, step: i64) -> Tensor {
        self.traced("slice", || {
            self.trace().check(&[self])?;
            let axis = axis_of(self.ty(), axis)?;
            if step < 1 {
                return Err(argument("step", step, "it must be at least 1; `reverse` turns an axis round"));
            }
            let bounds = range.bounds().map_err(|problem| argument("range", "not a range", problem))?;
            let (start, end) = positions(&self.shape()[axis], bounds);
            let span = end.clone() - start.clone();
            if span.as_constant().is_some_and(|c| c < 0) {
                let text = "it ends before it starts";
                return Err(argument("range", format!("{start}..{end}"), text));
            }
            sliced(self, axis, start, span.ceil_div(&Dim::constant(step)), step)
        })
    }

    /// One position along an axis, which disappears: `x.at(0, -1)` is the last step of a sequence.
    #[track_caller]
    pub fn at(&self, axis: i64, position: impl IntoDim) -> Tensor {
        self.traced("at", || {
            self.trace().check(&[self])?;
            let axis = axis_of(self.ty(), axis)?;
            let position = from_end(&self.shape()[axis], one_dim("position", position)?);
            let one = sliced(self, axis, position, Dim::constant(1), 1)?;
            let mut shape = one.shape().to_vec();
            shape.remove(axis);
            self.trace().apply(Op::Reshape { shape }, &[&one])
        })
    }

    /// `N` equal parts along one axis, whose size must be a multiple of `N`:
    /// `let [input, forget, cell, output] = gates.split(-1);`
    #[track_caller]
    pub fn split<const N: usize>(&self, axis: i64) -> [Tensor; N] {
        self.traced("split", || {
            let parts = chunks(self, N, axis)?;
            <[Tensor; N]>::try_from(parts).map_err(|_| Fault::Poisoned)
        })
    }

    /// `count` equal parts along one axis, whose size must be a multiple of `count`.
    #[track_caller]
    pub fn chunks(&self, count: usize, axis: i64) -> Vec<Tensor> {
        self.traced("chunks", || chunks(self, count, axis))
    }

    /// Adds `low` positions before and `high` after one axis, filled with `value`.
    #[track_caller]
    pub fn pad(&self, axis: i64, low: impl IntoDim, high: impl IntoDim, value: impl Into<Operand>) -> Tensor {
        let value = value.into();
        self.traced("pad", || {
            self.trace().check(&[self])?;
            let axis = axis_of(self.ty(), axis)?;
            let mut lows = vec![Dim::constant(0); self.rank()];
            let mut highs = lows.clone();
            lows[axis] = one_dim("low", low)?;
            highs[axis] = one_dim("high", high)?;
            let value = value.literal(self.dtype())?;
            self.trace().apply(Op::Pad { low: lows, high: highs, value }, &[self])
        })
    }

    /// Reverses the order along axes: `x.reverse(0)`, `x.reverse([0, 1])`.
    #[track_caller]
    pub fn reverse(&self, axes: impl IntoAxes) -> Tensor {
        self.traced("reverse", || {
            self.trace().check(&[self])?;
            let axes = axes.positions(self.ty())?;
            self.trace().apply(Op::Reverse { axes }, &[self])
        })
    }

    /// Removes an axis of size 1.
    #[track_caller]
    pub fn squeeze(&self, axis: i64) -> Tensor {
        self.traced("squeeze", || {
            self.trace().check(&[self])?;
            let mut shape = self.shape().to_vec();
            let removed = shape.remove(axis_of(self.ty(), axis)?);
            if !removed.is_one() {
                return Err(argument("axis", axis, format!("its size in {} is {removed}, not 1", self.ty())));
            }
            self.trace().apply(Op::Reshape { shape }, &[self])
        })
    }

    /// Adds an axis of size 1, which becomes axis `axis` of the result.
    #[track_caller]
    pub fn unsqueeze(&self, axis: i64) -> Tensor {
        self.traced("unsqueeze", || {
            self.trace().check(&[self])?;
            unsqueezed(self, axis)
        })
    }

    /// Picks positions along one axis by integers, whose axes replace it; an index out of range is clamped
    /// into it. `table.gather(0, &tokens)` looks rows up.
    #[track_caller]
    pub fn gather(&self, axis: i64, indices: impl AsRef<Tensor>) -> Tensor {
        self.traced("gather", || {
            self.trace().check(&[self, indices.as_ref()])?;
            let axis = axis_of(self.ty(), axis)?;
            self.trace().apply(Op::Gather { axis }, &[self, indices.as_ref()])
        })
    }
}

/// Joins tensors along an existing axis: `concat([&x, &h], -1)`.
#[track_caller]
pub fn concat(tensors: impl IntoIterator<Item = impl AsRef<Tensor>>, axis: i64) -> Tensor {
    let tensors: Vec<_> = tensors.into_iter().collect();
    joined("concat", tensors.iter().map(AsRef::as_ref).collect(), |first, all| {
        let axis = axis_of(first.ty(), axis)?;
        first.trace().apply(Op::Concat { axis }, all)
    })
}

/// Joins tensors of one shape along a new axis, axis `axis` of the result.
#[track_caller]
pub fn stack(tensors: impl IntoIterator<Item = impl AsRef<Tensor>>, axis: i64) -> Tensor {
    let tensors: Vec<_> = tensors.into_iter().collect();
    joined("stack", tensors.iter().map(AsRef::as_ref).collect(), |first, all| {
        let axis_position = insertion_axis(first.ty(), axis, first.rank() + 1)?;
        let parts = all.iter().map(|t| unsqueezed(t, axis_position as i64));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        first.trace().apply(Op::Concat { axis: axis_position }, &parts.iter().collect::<Vec<_>>())
    })
}

#[track_caller]
fn joined(
    operation: &'static str,
    tensors: Vec<&Tensor>,
    join: impl FnOnce(&Tensor, &[&Tensor]) -> Result<Tensor, Fault>,
) -> Tensor {
    let place = Location::caller();
    match tensors.first() {
        Some(first) => first.traced_at(operation, place, || {
            first.trace().check(&tensors)?;
            join(first, &tensors)
        }),
        None => {
            let guess = fuse_ir::TensorType::scalar(fuse_ir::DType::F32);
            let text = "at least one is needed";
            Trace::detached()
                .traced(operation, place, &guess, || Err(argument("tensors", "an empty list", text)))
        }
    }
}

/// The shape with an entry of -1 replaced by what the others leave.
fn with_remainder(tensor: &Tensor, mut shape: Shape) -> Result<Shape, Fault> {
    let open: Vec<usize> = (0..shape.len()).filter(|i| shape[*i].as_constant() == Some(-1)).collect();
    let [at] = open[..] else { return Ok(shape) };
    shape[at] = Dim::constant(1);
    let rest = element_count(&shape);
    let size = if rest.is_zero() { None } else { tensor.ty().elements().exact_div(&rest) };
    match size {
        Some(size) => {
            shape[at] = size;
            Ok(shape)
        }
        None => {
            let text = format!("its {} elements do not divide by {rest}", tensor.ty().elements());
            Err(argument("x", tensor.ty(), format!("{text}, the rest of {}", ShapeText(&shape))))
        }
    }
}

/// Transposes, unless every axis stays.
pub(crate) fn permuted(tensor: &Tensor, permutation: Vec<usize>) -> Result<Tensor, Fault> {
    if permutation.iter().copied().eq(0..tensor.rank()) {
        return Ok(tensor.clone());
    }
    tensor.trace().apply(Op::Transpose { permutation }, &[tensor])
}

fn unsqueezed(tensor: &Tensor, axis: i64) -> Result<Tensor, Fault> {
    let mut shape = tensor.shape().to_vec();
    shape.insert(insertion_axis(tensor.ty(), axis, tensor.rank() + 1)?, Dim::constant(1));
    tensor.trace().apply(Op::Reshape { shape }, &[tensor])
}

/// A position that, being negative, counts from the end of an axis of size `extent`.
fn from_end(extent: &Dim, position: Dim) -> Dim {
    match position.as_constant() {
        Some(c) if c < 0 => extent.clone() + position,
        _ => position,
    }
}

fn positions(extent: &Dim, (start, end): (Option<Dim>, Option<Dim>)) -> (Dim, Dim) {
    let start = start.map_or(Dim::constant(0), |s| from_end(extent, s));
    let end = end.map_or(extent.clone(), |e| from_end(extent, e));
    (start, end)
}

fn sliced(tensor: &Tensor, axis: usize, start: Dim, length: Dim, step: i64) -> Result<Tensor, Fault> {
    let whole = |n: &Dim| SliceAxis { start: Dim::constant(0), length: n.clone(), step: 1 };
    let mut axes: Vec<SliceAxis> = tensor.shape().iter().map(whole).collect();
    let part = SliceAxis { start, length, step };
    if axes[axis] == part {
        return Ok(tensor.clone());
    }
    axes[axis] = part;
    tensor.trace().apply(Op::Slice { axes }, &[tensor])
}

fn chunks(tensor: &Tensor, count: usize, axis: i64) -> Result<Vec<Tensor>, Fault> {
    tensor.trace().check(&[tensor])?;
    let axis_position = axis_of(tensor.ty(), axis)?;
    let extent = &tensor.shape()[axis_position];
    let parts = Dim::constant(count as i64);
    let Some(size) = extent.exact_div(&parts).filter(|_| count > 0) else {
        let text = format!("axis {axis} has size {extent}, which is no multiple of {count}");
        return Err(argument("x", tensor.ty(), text));
    };
    let part = |i: usize| {
        let start = Dim::constant(i as i64) * size.clone();
        sliced(tensor, axis_position, start, size.clone(), 1)
    };
    (0..count).map(part).collect()
}
