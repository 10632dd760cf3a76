//! Elementwise ops: one function of scalars over whole arrays, chosen once outside the loop.

use crate::dtype::DType;
use crate::ops::ScalarOp;

use super::InterpError;
use super::array::{Array, Element, Grant};
use super::run::Context;
use super::scalar::{Function, function, wrap};

/// `op` at every point; `dtype` is the operands' element type (of a select: that of its choices).
pub(super) fn elementwise(
    context: &Context,
    op: ScalarOp,
    operands: &[&Array],
    dtype: DType,
    shape: &[usize],
) -> Result<Array, InterpError> {
    let malformed = || InterpError::Malformed(format!("{} of {dtype}", op.mnemonic()));
    let grant = context.memory.grant(shape)?;
    let wrapped = |x: i64| wrap(dtype, x);
    let float = Rounding { context, dtype, shape };
    match (function(op, dtype).ok_or_else(malformed)?, operands) {
        (Function::Float1(f), [x]) => float.collect(grant, x.floats()?.iter().map(|x| f(*x))),
        (Function::Float2(f), [x, y]) => float.collect(grant, pairs(x, y)?.map(|(x, y)| f(x, y))),
        (Function::Float3(f), [x, y, z]) => {
            float.collect(grant, triples(x, y, z)?.map(|(x, y, z)| f(x, y, z)))
        }
        (Function::FloatTest1(f), [x]) => collect(grant, shape, x.floats()?.iter().map(|x| i64::from(f(*x)))),
        (Function::FloatTest2(f), [x, y]) => {
            collect(grant, shape, pairs(x, y)?.map(|(x, y)| i64::from(f(x, y))))
        }
        (Function::Int1(f), [x]) => collect(grant, shape, x.ints()?.iter().map(|x| wrapped(f(*x)))),
        (Function::Int2(f), [x, y]) => collect(grant, shape, pairs(x, y)?.map(|(x, y)| wrapped(f(x, y)))),
        (Function::Int3(f), [x, y, z]) => {
            collect(grant, shape, triples(x, y, z)?.map(|(x, y, z)| wrapped(f(x, y, z))))
        }
        (Function::IntTest2(f), [x, y]) => {
            collect(grant, shape, pairs(x, y)?.map(|(x, y)| i64::from(f(x, y))))
        }
        (Function::FloatToInt(f), [x]) => collect(grant, shape, x.floats()?.iter().map(|x| f(*x))),
        (Function::IntToFloat(f), [x]) => collect(grant, shape, x.ints()?.iter().map(|x| f(*x))),
        (Function::Select, [c, x, y]) if dtype.is_float() => select::<f64>(grant, shape, c, x, y),
        (Function::Select, [c, x, y]) => select::<i64>(grant, shape, c, x, y),
        _ => Err(malformed()),
    }
}

/// Where float results go: rounded to the element type as the precision asks.
struct Rounding<'a> {
    context: &'a Context<'a>,
    dtype: DType,
    shape: &'a [usize],
}

impl Rounding<'_> {
    fn collect(&self, grant: Grant, elements: impl Iterator<Item = f64>) -> Result<Array, InterpError> {
        let mut out = grant.vector()?;
        out.extend(elements);
        self.context.round(&mut out, self.dtype);
        grant.array(self.shape, out)
    }
}

fn collect<T: Element>(
    grant: Grant,
    shape: &[usize],
    elements: impl Iterator<Item = T>,
) -> Result<Array, InterpError> {
    let mut out = grant.vector()?;
    out.extend(elements);
    grant.array(shape, out)
}

fn select<T: Element>(
    grant: Grant,
    shape: &[usize],
    condition: &Array,
    x: &Array,
    y: &Array,
) -> Result<Array, InterpError> {
    let choices = condition.ints()?.iter().zip(pairs::<T>(x, y)?);
    collect(grant, shape, choices.map(|(c, (x, y))| if *c != 0 { x } else { y }))
}

fn pairs<'a, T: Element + 'a>(
    x: &'a Array,
    y: &'a Array,
) -> Result<impl Iterator<Item = (T, T)> + 'a, InterpError> {
    Ok(T::of(x)?.iter().copied().zip(T::of(y)?.iter().copied()))
}

fn triples<'a, T: Element + 'a>(
    x: &'a Array,
    y: &'a Array,
    z: &'a Array,
) -> Result<impl Iterator<Item = (T, T, T)> + 'a, InterpError> {
    Ok(pairs(x, y)?.zip(T::of(z)?.iter().copied()).map(|((x, y), z)| (x, y, z)))
}
