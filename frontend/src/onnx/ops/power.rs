//! The power operator, whose operands may have different types; the result has that of the base.

use fuse_ir::{DType, Literal};

use super::super::call::Call;
use super::super::error::Built;
use super::super::value::Value;
use super::elementwise::widened;
use crate::ScanOptions;
use crate::tensor::Tensor;

/// Known exponents of floats up to here are multiplied out.
const MAX_FACTORS: f64 = 3.0;

/// A power, exact and wrapping where both operands are integers.
pub(super) fn pow(call: &Call<'_>) -> Built<Vec<Value>> {
    let (x, y) = (call.tensor(0)?, call.tensor(1)?);
    let shape = call.broadcast_together(&[&x, &y])?;
    let known = call.value(1)?.as_known().and_then(|t| t.get(0).filter(|_| t.elements() == 1));
    let integers = !x.dtype().is_float() && !y.dtype().is_float();
    let factors = known.map(Literal::as_f64).filter(|v| v.fract() == 0.0 && (1.0..=64.0).contains(v));
    if let Some(factors) = factors.filter(|v| integers || *v <= MAX_FACTORS) {
        return call.one(widened(&x, |x| multiplied_out(x, factors as u32)).broadcast_to(shape));
    }
    if integers {
        return call.one(integer_power(&x.broadcast_to(shape.clone()), &y.broadcast_to(shape)));
    }
    let wide = common_float(x.dtype(), y.dtype(), known);
    call.one(x.cast(wide).pow(y.cast(wide)).cast(x.dtype()))
}

/// A power with a positive exponent, by squares.
fn multiplied_out(x: &Tensor, exponent: u32) -> Tensor {
    match exponent {
        0 | 1 => x.clone(),
        odd if odd % 2 == 1 => multiplied_out(x, odd - 1) * x,
        even => {
            let root = multiplied_out(x, even / 2);
            &root * &root
        }
    }
}

/// The float type that a power is computed in. It must hold an integer exponent exactly: whether that is odd decides
/// the sign.
fn common_float(base: DType, exponent: DType, known: Option<Literal>) -> DType {
    let fits_f32 = |v: Literal| v.as_f64().abs() <= f64::from(1 << 24);
    let narrow = match exponent {
        DType::F16 | DType::Bf16 | DType::F32 | DType::U8 | DType::Bool => true,
        DType::I32 | DType::I64 => known.is_some_and(fits_f32),
        DType::F64 => false,
    };
    let narrow_base = match base {
        DType::F16 | DType::Bf16 | DType::F32 | DType::U8 | DType::Bool => true,
        DType::I32 | DType::I64 | DType::F64 => false,
    };
    if narrow && narrow_base { DType::F32 } else { DType::F64 }
}

/// A power of integers of one shape. With a negative exponent it is truncated: 0 but for the bases 1 and -1. The
/// exponent's bits are taken from the lowest on, the base squared from one to the next.
fn integer_power(base: &Tensor, exponent: &Tensor) -> Tensor {
    let signed = exponent.dtype() != DType::U8;
    let steps = 8 * exponent.dtype().size() as i64 - i64::from(signed);
    // The least number has no absolute value, but as it is even, its lowest bits say the same.
    let magnitude = if signed { exponent.abs() } else { exponent.clone() };
    let ones = base.trace().full(base.dtype(), base.shape(), 1);
    let init = (ones, base.clone(), magnitude);
    let options = ScanOptions::new().steps(steps);
    let ((power, ..), ()) = base.trace().scan_with(options, init, (), |(power, square, rest), ()| {
        let power = rest.and(1).ne(0).select(&power * &square, &power);
        ((power, &square * &square, rest.div(2)), ())
    });
    let unit = if base.dtype() == DType::U8 { base.eq(1) } else { base.eq(1).or(base.eq(-1)) };
    match signed {
        true => exponent.lt(0).and(unit.not()).select(0, power),
        false => power,
    }
}
