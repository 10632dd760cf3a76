//! Movement, reductions and contractions.

use crate::expr::Dim;
use crate::graph::ValueId;
use crate::ops::{Op, ReduceOp, SliceAxis};
use crate::types::Shape;

use super::builder::Builder;
use super::choices::Choices;

impl Builder<'_> {
    pub(super) fn iota(&mut self, choices: &mut Choices) -> Option<ValueId> {
        let shape: Shape = (0..1 + choices.below(2)).map(|_| self.dim(choices)).collect();
        let (axis, dtype) = (choices.below(shape.len()), self.dtype(choices));
        self.add(Op::Iota { shape, axis, dtype }, &[])
    }

    /// Merges two axes, splits one, adds or removes one of size 1, or flattens.
    pub(super) fn reshape(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let mut shape = self.ty(x).shape;
        let axis = choices.below(shape.len());
        match choices.below(5) {
            0 => shape = vec![self.ty(x).elements()],
            1 => shape.insert(choices.below(shape.len() + 1), Dim::constant(1)),
            2 => drop(shape.iter().position(Dim::is_one).map(|one| shape.remove(one))),
            3 if axis + 1 < shape.len() => {
                let next = shape.remove(axis + 1);
                shape[axis] = shape[axis].clone() * next;
            }
            _ => {
                let factors = [Dim::constant(2), Dim::constant(3), Dim::constant(5), Dim::symbol("B")];
                let extent = shape.get(axis)?;
                let (inner, outer) = factors.into_iter().rev().find_map(|f| {
                    let outer = extent.exact_div(&f)?;
                    Some((f, outer))
                })?;
                shape[axis] = outer;
                shape.insert(axis + 1, inner);
            }
        }
        self.add(Op::Reshape { shape }, &[x])
    }

    /// Adds an axis, or repeats those of size 1.
    pub(super) fn broadcast(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let mut shape = self.ty(x).shape;
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        if choices.one_in(3) {
            for extent in shape.iter_mut().filter(|d| d.is_one()) {
                *extent = self.dim(choices);
            }
        } else {
            let at = choices.below(shape.len() + 1);
            shape.insert(at, self.dim(choices));
            axes.iter_mut().filter(|a| **a >= at).for_each(|a| *a += 1);
        }
        self.add(Op::Broadcast { shape, axes }, &[x])
    }

    pub(super) fn transpose(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let mut left: Vec<usize> = (0..self.ty(x).rank()).collect();
        let mut permutation = Vec::new();
        while !left.is_empty() {
            permutation.push(left.swap_remove(choices.below(left.len())));
        }
        self.add(Op::Transpose { permutation }, &[x])
    }

    pub(super) fn slice(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let shape = self.ty(x).shape;
        let axes = shape.iter().map(|extent| slice_axis(extent, choices)).collect();
        self.add(Op::Slice { axes }, &[x])
    }

    pub(super) fn pad(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let ty = self.ty(x);
        let mut amounts = || (0..ty.rank()).map(|_| Dim::constant(choices.below(3) as i64)).collect();
        let (low, high) = (amounts(), amounts());
        self.add(Op::Pad { low, high, value: self.literal(ty.dtype, choices) }, &[x])
    }

    pub(super) fn concat(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let ty = self.ty(x);
        let axis = choices.below(ty.rank());
        let mut operands = vec![x];
        for _ in 0..choices.below(3) {
            let fits = |other: &crate::types::TensorType| {
                let equal = |i: usize| i == axis || ty.shape[i] == other.shape[i];
                other.dtype == ty.dtype && other.rank() == ty.rank() && (0..ty.rank()).all(equal)
            };
            operands.push(self.value_where(choices, fits)?);
        }
        self.add(Op::Concat { axis }, &operands)
    }

    pub(super) fn reverse(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let axes = choices.subset(self.ty(x).rank());
        self.add(Op::Reverse { axes }, &[x])
    }

    pub(super) fn gather(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let axis = choices.below(self.ty(x).rank());
        let indices = self.value_where(choices, |ty| ty.dtype.is_int() && ty.rank() <= 2)?;
        self.add(Op::Gather { axis }, &[x, indices])
    }

    pub(super) fn reduce(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let op = *choices.of(&ReduceOp::ALL)?;
        let rank = self.ty(x).rank();
        let axes = if op.is_arg() { vec![choices.below(rank)] } else { choices.subset(rank) };
        self.add(Op::Reduce { op, axes }, &[x])
    }

    /// Pairs equal axes of two values, for the batch or to sum over.
    pub(super) fn contract(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let a = self.ty(x);
        let y =
            self.value_where(choices, |b| b.dtype == a.dtype && b.shape.iter().any(|n| a.shape.contains(n)));
        let y = y.unwrap_or(x);
        let b = self.ty(y);
        let (mut batch, mut axes, mut taken) = (Vec::new(), Vec::new(), vec![false; b.rank()]);
        for (i, extent) in a.shape.iter().enumerate() {
            let free: Vec<usize> = (0..b.rank()).filter(|j| !taken[*j] && b.shape[*j] == *extent).collect();
            let Some(j) = choices.of(&free) else { continue };
            match choices.below(3) {
                0 => axes.push((i, *j)),
                1 => batch.push((i, *j)),
                _ => continue,
            }
            taken[*j] = true;
        }
        self.add(Op::Contract { batch, axes }, &[x, y])
    }
}

/// Positions that an axis has whatever its symbols are.
fn slice_axis(extent: &Dim, choices: &mut Choices) -> SliceAxis {
    let (zero, two) = (Dim::constant(0), Dim::constant(2));
    let full = SliceAxis { start: zero.clone(), length: extent.clone(), step: 1 };
    let Some(n) = extent.as_constant() else {
        return match choices.below(4) {
            // The last two, the first two, every second one.
            1 => SliceAxis {
                start: (extent.clone() - two.clone()).maximum(&zero),
                length: extent.minimum(&two),
                step: 1,
            },
            2 => SliceAxis { start: zero, length: extent.minimum(&two), step: 1 },
            3 => SliceAxis { start: zero, length: extent.ceil_div(&two), step: 2 },
            _ => full,
        };
    };
    let start = choices.below(n as usize + 1) as i64;
    let step = 1 + choices.below(3) as i64;
    let most = (n - start + step - 1) / step;
    let length = most - choices.below(most as usize + 1) as i64;
    SliceAxis { start: Dim::constant(start), length: Dim::constant(length), step }
}
