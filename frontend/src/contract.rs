//! Sums of products.

use fuse_ir::types::Shape;
use fuse_ir::{Dim, Op};

use crate::elementwise::labelled;
use crate::error::{ErrorKind, Fault, argument};
use crate::movement::permuted;
use crate::shape::axis_of;
use crate::tensor::Tensor;

/// Sums of products.
impl Tensor {
    /// The general dot product: sums products over the pairs `axes`, (axis of this tensor, axis of the other).
    /// The result has the axes paired in `batch`, then the other axes of this tensor, then those of the other.
    #[track_caller]
    pub fn contract(
        &self,
        other: impl AsRef<Tensor>,
        batch: impl AsRef<[(i64, i64)]>,
        axes: impl AsRef<[(i64, i64)]>,
    ) -> Tensor {
        let other = other.as_ref();
        self.traced("contract", || {
            self.trace().check(&[self, other])?;
            let pair = |(a, b): &(i64, i64)| Ok((axis_of(self.ty(), *a)?, axis_of(other.ty(), *b)?));
            let batch = batch.as_ref().iter().map(pair).collect::<Result<_, Fault>>()?;
            let axes = axes.as_ref().iter().map(pair).collect::<Result<_, Fault>>()?;
            self.trace().apply(Op::Contract { batch, axes }, &[self, other])
        })
    }

    /// The matrix product, with NumPy's rules: matrices are the last two axes, the axes before them broadcast,
    /// and a vector is a row on the left and a column on the right, whose axis disappears.
    #[track_caller]
    pub fn matmul(&self, other: impl AsRef<Tensor>) -> Tensor {
        let other = other.as_ref();
        self.traced("matmul", || {
            self.trace().check(&[self, other])?;
            matmul(self, other)
        })
    }
}

/// How one axis of the product's batch is made.
enum BatchAxis {
    /// Both operands have it.
    Paired,
    /// Only the left operand has it.
    Left,
    /// Only the right operand has it.
    Right,
}

fn matmul(left: &Tensor, right: &Tensor) -> Result<Tensor, Fault> {
    if left.rank() == 0 || right.rank() == 0 {
        return Err(mismatch(left, right, "a matrix product takes no scalars"));
    }
    let depth = (left.rank() - 1, right.rank().saturating_sub(2));
    if left.shape()[depth.0] != right.shape()[depth.1] {
        let text = format!("the inner sizes {} and {} differ", left.shape()[depth.0], right.shape()[depth.1]);
        return Err(mismatch(left, right, text));
    }
    let kinds = batch_axes(left, right)?;
    // Axes of size 1 that the other operand broadcasts over are dropped, and put in place at the end.
    let left = drop_axes(left, &kinds, |k| matches!(k, BatchAxis::Right))?;
    let right = drop_axes(right, &kinds, |k| matches!(k, BatchAxis::Left))?;
    let position =
        |side: fn(&BatchAxis) -> bool, upto: usize| kinds[..upto].iter().filter(|k| side(k)).count();
    let batch: Vec<(usize, usize)> = (0..kinds.len())
        .filter(|i| matches!(kinds[*i], BatchAxis::Paired))
        .map(|i| (position(on_left, i), position(on_right, i)))
        .collect();
    let axes = vec![(left.rank() - 1, position(on_right, kinds.len()))];
    let product = left.trace().apply(Op::Contract { batch, axes }, &[&left, &right])?;
    arrange(&product, &kinds, left.rank() > position(on_left, kinds.len()) + 1)
}

fn on_left(kind: &BatchAxis) -> bool {
    matches!(kind, BatchAxis::Paired | BatchAxis::Left)
}

fn on_right(kind: &BatchAxis) -> bool {
    matches!(kind, BatchAxis::Paired | BatchAxis::Right)
}

/// Orders the axes of a contraction (paired, left's batch, rows, right's batch, columns) as the product's.
fn arrange(product: &Tensor, kinds: &[BatchAxis], rows: bool) -> Result<Tensor, Fault> {
    let count = |side: fn(&BatchAxis) -> bool| kinds.iter().filter(|k| side(k)).count();
    let lefts = count(on_left);
    let (mut paired, mut left) = (0, count(|k| matches!(k, BatchAxis::Paired)));
    let mut right = lefts + usize::from(rows);
    let take = |next: &mut usize| {
        *next += 1;
        *next - 1
    };
    let mut permutation: Vec<usize> = Vec::with_capacity(product.rank());
    for kind in kinds {
        permutation.push(match kind {
            BatchAxis::Paired => take(&mut paired),
            BatchAxis::Left => take(&mut left),
            BatchAxis::Right => take(&mut right),
        });
    }
    if rows {
        permutation.push(lefts);
    }
    permutation.extend(right..product.rank());
    permuted(product, permutation)
}

/// Decides every axis of the product's batch.
fn batch_axes(left: &Tensor, right: &Tensor) -> Result<Vec<BatchAxis>, Fault> {
    let batch = |t: &Tensor| t.shape()[..t.rank().saturating_sub(2)].to_vec();
    let (a, b) = (batch(left), batch(right));
    let rank = a.len().max(b.len());
    let from = |shape: &Shape, i: usize| (i + shape.len()).checked_sub(rank).map(|i| shape[i].clone());
    let kind = |i: usize| match (from(&a, i), from(&b, i)) {
        (Some(x), Some(y)) if x == y => Ok(BatchAxis::Paired),
        (Some(x), Some(y)) if x.is_one() && !y.is_one() => Ok(BatchAxis::Right),
        (Some(_), None) => Ok(BatchAxis::Left),
        (Some(_), Some(y)) if y.is_one() => Ok(BatchAxis::Left),
        (Some(x), Some(y)) => {
            Err(mismatch(left, right, format!("batch sizes {x} and {y} neither equal nor broadcast")))
        }
        (None, _) => Ok(BatchAxis::Right),
    };
    (0..rank).map(kind).collect()
}

/// Removes the axes of size 1 of the batch that `broadcast` picks.
fn drop_axes(
    tensor: &Tensor,
    kinds: &[BatchAxis],
    broadcast: impl Fn(&BatchAxis) -> bool,
) -> Result<Tensor, Fault> {
    let batch = tensor.rank().saturating_sub(2);
    let missing = kinds.len() - batch.min(kinds.len());
    let keep = |i: &usize| *i >= batch || !broadcast(&kinds[missing + i]);
    let shape: Vec<Dim> = (0..tensor.rank()).filter(keep).map(|i| tensor.shape()[i].clone()).collect();
    if shape.len() == tensor.rank() {
        return Ok(tensor.clone());
    }
    tensor.trace().apply(Op::Reshape { shape }, &[tensor])
}

fn mismatch(left: &Tensor, right: &Tensor, requirement: impl Into<String>) -> Fault {
    ErrorKind::Mismatch {
        left: labelled("left", left),
        left_ty: left.ty().clone(),
        right: labelled("right", right),
        right_ty: right.ty().clone(),
        requirement: requirement.into(),
    }
    .into()
}

/// `x · Wᵀ + b` for a weight of rank 2 and a bias of rank 1.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Fault> {
    x.trace().check(&[x, weight])?;
    if weight.rank() != 2 {
        return Err(argument(labelled("weight", weight), weight.ty(), "its shape must be [out, in]"));
    }
    let last = x.rank().checked_sub(1).filter(|last| x.shape()[*last] == weight.shape()[1]);
    let Some(last) = last else {
        let text = format!("the last axis of x must have size {}", weight.shape()[1]);
        return Err(ErrorKind::Mismatch {
            left: labelled("x", x),
            left_ty: x.ty().clone(),
            right: labelled("weight", weight),
            right_ty: weight.ty().clone(),
            requirement: text,
        }
        .into());
    };
    let product = x.trace().apply(Op::Contract { batch: vec![], axes: vec![(last, 1)] }, &[x, weight])?;
    Ok(match bias {
        Some(bias) => product + bias,
        None => product,
    })
}
