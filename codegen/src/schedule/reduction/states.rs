//! The running values of reductions: what two of them come to, and how a loop carries them.

use fuse_ir::{DType, ReduceOp};

use super::{Reduction, State};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, ValueId};

/// Values as one: neighbours together, then the neighbours among these, and so on, until one is left of at least one.
pub(in super::super) fn merge_all(
    b: &mut FunctionBuilder,
    op: ReduceOp,
    mut values: Vec<ValueId>,
) -> ValueId {
    while values.len() > 1 {
        let joined = values.chunks(2).map(|pair| match pair {
            [x, y] => merge(b, op, *x, *y),
            _ => pair[0],
        });
        values = joined.collect();
    }
    values.swap_remove(0)
}

/// Two states as one. Of equal extremes, and of NaNs, the first in the row counts.
pub(in super::super) fn join(b: &mut FunctionBuilder, reduction: Reduction, x: &State, y: &State) -> State {
    let Reduction { op, dtype, .. } = reduction;
    let ([x_value, x_position], [y_value, y_position]) = (&x[..], &y[..]) else {
        return State::from_slice(&[merge(b, op, x[0], y[0])]);
    };
    let beyond = is_better(b, op, dtype, *y_value, *x_value);
    let short = is_better(b, op, dtype, *x_value, *y_value);
    let either = b.or(beyond, short);
    let alike = b.not(either);
    let earlier = b.compare(Condition::Lt, *y_position, *x_position);
    let earlier = b.and(alike, earlier);
    let takes = b.or(beyond, earlier);
    State::from_slice(&[b.select(takes, *y_value, *x_value), b.select(takes, *y_position, *x_position)])
}

pub(in super::super) fn merge(b: &mut FunctionBuilder, op: ReduceOp, x: ValueId, y: ValueId) -> ValueId {
    match op {
        ReduceOp::Sum => b.add(x, y),
        ReduceOp::Prod => b.mul(x, y),
        ReduceOp::Max | ReduceOp::ArgMax => b.binary(BinaryOp::Max, x, y),
        ReduceOp::Min | ReduceOp::ArgMin => b.binary(BinaryOp::Min, x, y),
    }
}

/// Whether `value` replaces `best`: beyond it, or the first NaN.
pub(super) fn is_better(
    b: &mut FunctionBuilder,
    op: ReduceOp,
    dtype: DType,
    value: ValueId,
    best: ValueId,
) -> ValueId {
    let condition = if op == ReduceOp::ArgMax { Condition::Gt } else { Condition::Lt };
    let beyond = b.compare(condition, value, best);
    if !dtype.is_float() {
        return beyond;
    }
    let is_nan = b.compare(Condition::Ne, value, value);
    let was_number = b.compare(Condition::Eq, best, best);
    let first_nan = b.and(is_nan, was_number);
    b.or(beyond, first_nan)
}

pub(in super::super) fn flatten(states: &[State]) -> Vec<ValueId> {
    states.iter().flatten().copied().collect()
}

/// Values in the arrangement of `like`.
pub(in super::super) fn reshape(like: &[State], values: &[ValueId]) -> Vec<State> {
    let mut values = values.iter().copied();
    like.iter().map(|state| values.by_ref().take(state.len()).collect()).collect()
}
