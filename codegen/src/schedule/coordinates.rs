//! From the number of a work item to its coordinates.

use fuse_ir::expr::Dim;

use super::division::division_by_count;
use super::emitter::{Emitted, Emitter};
use crate::kernel_ir::ValueId;

/// Takes the fastest coordinate off a number; the last one is all that is left.
pub(super) fn coordinate(
    emitter: &mut Emitter,
    rest: &mut ValueId,
    count: &Dim,
    last: bool,
) -> Emitted<ValueId> {
    if last {
        return Ok(*rest);
    }
    let count = emitter.dimension(count)?;
    let (quotient, value) = division_by_count(&mut emitter.b, *rest, count);
    *rest = quotient;
    Ok(value)
}

/// The coordinates of a number that is within the space of so many along each axis, the last of which is the fastest.
pub(super) fn coordinates<'d>(
    emitter: &mut Emitter,
    counts: impl DoubleEndedIterator<Item = &'d Dim> + ExactSizeIterator,
    number: ValueId,
) -> Emitted<Vec<ValueId>> {
    let mut rest = number;
    let mut values = Vec::with_capacity(counts.len());
    for (i, count) in counts.enumerate().rev() {
        values.push(coordinate(emitter, &mut rest, count, i == 0)?);
    }
    values.reverse();
    Ok(values)
}
