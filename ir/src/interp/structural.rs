//! The ops that move, reduce and contract.

use crate::dtype::{DType, Literal};
use crate::expr::{Dim, DimEnv};
use crate::ops::{ReduceOp, SliceAxis};

use super::array::{Array, Element, Elements, Memory, element_count, read_strided, strides, write_strided};
use super::scalar::{maximum, minimum, wrap};
use super::{InterpError, position};

/// A strided view of an operand: where it starts and how far apart positions are along each result axis.
pub(super) struct View {
    base: isize,
    strides: Vec<isize>,
}

impl View {
    pub fn broadcast(operand: &[usize], rank: usize, axes: &[usize]) -> View {
        let mut out = vec![0; rank];
        for ((extent, stride), axis) in operand.iter().zip(strides(operand)).zip(axes) {
            out[*axis] = if *extent == 1 { 0 } else { stride };
        }
        View { base: 0, strides: out }
    }

    pub fn transpose(operand: &[usize], permutation: &[usize]) -> View {
        let own = strides(operand);
        View { base: 0, strides: permutation.iter().map(|p| own[*p]).collect() }
    }

    pub fn slice(operand: &[usize], axes: &[SliceAxis], dims: &DimEnv) -> Result<View, InterpError> {
        let (mut base, mut out) = (0isize, Vec::with_capacity(axes.len()));
        for (axis, stride) in axes.iter().zip(strides(operand)) {
            base = base.wrapping_add(position(&axis.start, dims)?.wrapping_mul(stride));
            out.push(stride.wrapping_mul(axis.step as isize));
        }
        Ok(View { base, strides: out })
    }

    pub fn reverse(operand: &[usize], axes: &[usize]) -> View {
        let mut view = View { base: 0, strides: strides(operand) };
        for axis in axes {
            let stride = &mut view.strides[*axis];
            view.base = view.base.wrapping_add((operand[*axis] as isize - 1).wrapping_mul(*stride));
            *stride = stride.wrapping_neg();
        }
        view
    }

    /// The viewed elements as an array of this shape.
    pub fn read(&self, operand: &Array, shape: &[usize], memory: &Memory) -> Result<Array, InterpError> {
        match operand.elements() {
            Elements::Float(v) => self.read_typed(v, shape, memory),
            Elements::Int(v) => self.read_typed(v, shape, memory),
        }
    }

    fn read_typed<T: Element>(
        &self,
        source: &[T],
        shape: &[usize],
        memory: &Memory,
    ) -> Result<Array, InterpError> {
        let grant = memory.grant(shape)?;
        let mut out = grant.vector()?;
        read_strided(source, shape, self.base, &self.strides, &mut out);
        grant.array(shape, out)
    }
}

/// The operand surrounded by a constant.
pub(super) fn pad(
    operand: &Array,
    low: &[Dim],
    value: Literal,
    shape: &[usize],
    dims: &DimEnv,
    memory: &Memory,
) -> Result<Array, InterpError> {
    let out_strides = strides(shape);
    let mut base = 0isize;
    for (dim, stride) in low.iter().zip(&out_strides) {
        base = base.wrapping_add(position(dim, dims)?.wrapping_mul(*stride));
    }
    fn place<T: Element>(
        (source, source_shape): (&[T], &[usize]),
        fill: T,
        (shape, base, strides): (&[usize], isize, &[isize]),
        memory: &Memory,
    ) -> Result<Array, InterpError> {
        let grant = memory.grant(shape)?;
        let mut out = grant.filled(fill)?;
        write_strided(source, source_shape, base, strides, &mut out);
        grant.array(shape, out)
    }
    let target = (shape, base, out_strides.as_slice());
    match operand.elements() {
        Elements::Float(v) => place((v, operand.shape()), value.as_f64(), target, memory),
        Elements::Int(v) => place((v, operand.shape()), value.as_i64(), target, memory),
    }
}

/// The operands joined along one axis.
pub(super) fn concat(
    operands: &[&Array],
    axis: usize,
    shape: &[usize],
    memory: &Memory,
) -> Result<Array, InterpError> {
    fn join<T: Element>(
        operands: &[&Array],
        axis: usize,
        shape: &[usize],
        zero: T,
        memory: &Memory,
    ) -> Result<Array, InterpError> {
        let grant = memory.grant(shape)?;
        let mut out = grant.filled(zero)?;
        let out_strides = strides(shape);
        let mut start = 0isize;
        for operand in operands {
            let base = start.wrapping_mul(out_strides[axis]);
            write_strided(T::of(operand)?, operand.shape(), base, &out_strides, &mut out);
            start += operand.shape()[axis] as isize;
        }
        grant.array(shape, out)
    }
    match operands.first().map(|a| a.elements()) {
        Some(Elements::Float(_)) => join(operands, axis, shape, 0.0, memory),
        Some(Elements::Int(_)) => join(operands, axis, shape, 0i64, memory),
        None => Err(InterpError::Malformed("concat of nothing".into())),
    }
}

/// Rows of a table along one axis, by index; out of range is clamped, a row of an empty table is zero.
pub(super) fn gather(
    table: &Array,
    indices: &Array,
    axis: usize,
    shape: &[usize],
    memory: &Memory,
) -> Result<Array, InterpError> {
    fn pick<T: Element>(
        table: &[T],
        table_shape: &[usize],
        indices: &[i64],
        (axis, shape, zero): (usize, &[usize], T),
        memory: &Memory,
    ) -> Result<Array, InterpError> {
        let grant = memory.grant(shape)?;
        let rows = table_shape[axis];
        if rows == 0 || element_count(shape) == Some(0) {
            let zeros = grant.filled(zero)?;
            return grant.array(shape, zeros);
        }
        let mut out = grant.vector()?;
        let inner: usize = table_shape[axis + 1..].iter().product();
        for block in table.chunks_exact(rows * inner) {
            for index in indices {
                let row = (*index).clamp(0, rows as i64 - 1) as usize;
                out.extend_from_slice(&block[row * inner..(row + 1) * inner]);
            }
        }
        grant.array(shape, out)
    }
    let indices = indices.ints()?;
    match table.elements() {
        Elements::Float(v) => pick(v, table.shape(), indices, (axis, shape, 0.0), memory),
        Elements::Int(v) => pick(v, table.shape(), indices, (axis, shape, 0), memory),
    }
}

/// The axes of a shape that are not in `removed`, ascending.
fn kept_axes(rank: usize, removed: &[usize]) -> Vec<usize> {
    (0..rank).filter(|a| !removed.contains(a)).collect()
}

/// The array with its axes in this order; itself where that changes nothing.
fn permuted(operand: &Array, order: &[usize], memory: &Memory) -> Result<Array, InterpError> {
    if order.is_sorted() {
        return Ok(operand.clone());
    }
    let shape: Vec<usize> = order.iter().map(|a| operand.shape()[*a]).collect();
    View::transpose(operand.shape(), order).read(operand, &shape, memory)
}

/// A reduction along axes. Floats accumulate in f64; the caller rounds the result once.
pub(super) fn reduce(
    op: ReduceOp,
    operand: &Array,
    axes: &[usize],
    (dtype, shape): (DType, &[usize]),
    memory: &Memory,
) -> Result<Array, InterpError> {
    let kept = kept_axes(operand.shape().len(), axes);
    let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let packed = permuted(operand, &order, memory)?;
    let reduced: Vec<usize> = axes.iter().map(|a| operand.shape()[*a]).collect();
    let length = element_count(&reduced).unwrap_or(0);
    let grant = memory.grant(shape)?;
    let identity = op.identity(dtype);
    if length == 0 {
        return if dtype.is_float() && !op.is_arg() {
            let filled = grant.filled(identity.as_f64())?;
            grant.array(shape, filled)
        } else {
            let filled = grant.filled(identity.as_i64())?;
            grant.array(shape, filled)
        };
    }
    match packed.elements() {
        Elements::Float(v) => {
            let rows = v.chunks_exact(length);
            match op {
                ReduceOp::Sum => collect(rows.map(sum), grant, shape),
                ReduceOp::Prod => collect(rows.map(|r| r.iter().product::<f64>()), grant, shape),
                ReduceOp::Max => collect(rows.map(|r| fold(r, maximum)), grant, shape),
                ReduceOp::Min => collect(rows.map(|r| fold(r, minimum)), grant, shape),
                ReduceOp::ArgMax => {
                    collect(rows.map(|r| first_best(r, |x, best| x > best, f64::is_nan)), grant, shape)
                }
                ReduceOp::ArgMin => {
                    collect(rows.map(|r| first_best(r, |x, best| x < best, f64::is_nan)), grant, shape)
                }
            }
        }
        Elements::Int(v) => {
            let rows = v.chunks_exact(length);
            let wrapped = |x| wrap(dtype, x);
            match op {
                ReduceOp::Sum => collect(rows.map(|r| wrapped(fold(r, i64::wrapping_add))), grant, shape),
                ReduceOp::Prod => collect(rows.map(|r| wrapped(fold(r, i64::wrapping_mul))), grant, shape),
                ReduceOp::Max => collect(rows.map(|r| fold(r, i64::max)), grant, shape),
                ReduceOp::Min => collect(rows.map(|r| fold(r, i64::min)), grant, shape),
                ReduceOp::ArgMax => {
                    collect(rows.map(|r| first_best(r, |x, best| x > best, |_| false)), grant, shape)
                }
                ReduceOp::ArgMin => {
                    collect(rows.map(|r| first_best(r, |x, best| x < best, |_| false)), grant, shape)
                }
            }
        }
    }
}

fn collect<T: Element>(
    elements: impl Iterator<Item = T>,
    grant: super::array::Grant,
    shape: &[usize],
) -> Result<Array, InterpError> {
    let mut out = grant.vector()?;
    out.extend(elements);
    grant.array(shape, out)
}

/// Combines a row that is not empty.
fn fold<T: Copy>(row: &[T], f: impl Fn(T, T) -> T) -> T {
    row[1..].iter().fold(row[0], |a, b| f(a, *b))
}

/// The sum with Neumaier's compensation, so that the oracle does not add its own error to long sums.
fn sum(row: &[f64]) -> f64 {
    let (mut sum, mut lost) = (0f64, 0f64);
    for x in row {
        let next = sum + x;
        lost += if sum.abs() >= x.abs() { (sum - next) + x } else { (x - next) + sum };
        sum = next;
    }
    // An infinity or NaN makes the compensation NaN; the plain sum is then the answer.
    if lost.is_nan() { sum } else { sum + lost }
}

/// The position of the first element that no other beats; the first NaN if there is one.
fn first_best<T: Copy>(row: &[T], beats: impl Fn(T, T) -> bool, is_nan: impl Fn(T) -> bool) -> i64 {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if is_nan(*x) {
            return i as i64;
        }
        if beats(*x, row[best]) {
            best = i;
        }
    }
    best as i64
}

/// The general dot product. Floats accumulate in f64; the caller rounds the result once.
pub(super) fn contract(
    (a, b): (&Array, &Array),
    batch: &[(usize, usize)],
    axes: &[(usize, usize)],
    (dtype, shape): (DType, &[usize]),
    memory: &Memory,
) -> Result<Array, InterpError> {
    let batch_axes: (Vec<usize>, Vec<usize>) = batch.iter().copied().unzip();
    let summed: (Vec<usize>, Vec<usize>) = axes.iter().copied().unzip();
    // Both as [batch, rows, summed], so that every result element is the dot product of two contiguous rows.
    let pack = |operand: &Array, batch: &[usize], summed: &[usize]| {
        let removed: Vec<usize> = batch.iter().chain(summed).copied().collect();
        let free = kept_axes(operand.shape().len(), &removed);
        let rows = extents(operand, &free);
        let order: Vec<usize> = batch.iter().chain(&free).chain(summed).copied().collect();
        Ok::<_, InterpError>((permuted(operand, &order, memory)?, rows))
    };
    let (pa, m) = pack(a, &batch_axes.0, &summed.0)?;
    let (pb, n) = pack(b, &batch_axes.1, &summed.1)?;
    let depth = extents(a, &summed.0);
    let grant = memory.grant(shape)?;
    match (pa.elements(), pb.elements()) {
        (Elements::Float(x), Elements::Float(y)) => {
            let out = products(x, y, (m, n, depth), &grant, dot, 0.0)?;
            grant.array(shape, out)
        }
        (Elements::Int(x), Elements::Int(y)) => {
            let dot = |x: &[i64], y: &[i64]| {
                let sum = x.iter().zip(y).fold(0i64, |s, (a, b)| s.wrapping_add(a.wrapping_mul(*b)));
                wrap(dtype, sum)
            };
            let out = products(x, y, (m, n, depth), &grant, dot, 0)?;
            grant.array(shape, out)
        }
        _ => Err(InterpError::Malformed("contract of floats with integers".into())),
    }
}

/// The product of some extents; saturates, where no elements can exist anyway.
fn extents(array: &Array, axes: &[usize]) -> usize {
    axes.iter().fold(1usize, |n, a| n.saturating_mul(array.shape()[*a]))
}

fn products<T: Element>(
    x: &[T],
    y: &[T],
    (m, n, depth): (usize, usize, usize),
    grant: &super::array::Grant,
    dot: impl Fn(&[T], &[T]) -> T,
    zero: T,
) -> Result<Vec<T>, InterpError> {
    if depth == 0 || x.is_empty() || y.is_empty() {
        return grant.filled(zero);
    }
    let mut out = grant.vector()?;
    for (block_x, block_y) in x.chunks_exact(m * depth).zip(y.chunks_exact(n * depth)) {
        for row_x in block_x.chunks_exact(depth) {
            out.extend(block_y.chunks_exact(depth).map(|row_y| dot(row_x, row_y)));
        }
    }
    Ok(out)
}

/// Four partial sums hide the latency of the additions.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0f64; 4];
    let (chunks_x, chunks_y) = (x.chunks_exact(4), y.chunks_exact(4));
    let tail: f64 = chunks_x.remainder().iter().zip(chunks_y.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in chunks_x.zip(chunks_y) {
        for i in 0..4 {
            sums[i] += a[i] * b[i];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}
