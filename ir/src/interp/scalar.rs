//! The functions of scalars: what every elementwise op computes, in f64 for floats and i64 for the rest.

use crate::dtype::{DType, Literal};
use crate::ops::ScalarOp;

/// A scalar as the interpreter carries it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ScalarValue {
    /// A value of a float type.
    Float(f64),
    /// A value of an integer type; 0 or 1 for bool.
    Int(i64),
}

/// A scalar function in the form that loops call.
#[derive(Clone, Copy)]
pub(super) enum Function {
    Float1(fn(f64) -> f64),
    Float2(fn(f64, f64) -> f64),
    Float3(fn(f64, f64, f64) -> f64),
    FloatTest1(fn(f64) -> bool),
    FloatTest2(fn(f64, f64) -> bool),
    Int1(fn(i64) -> i64),
    Int2(fn(i64, i64) -> i64),
    Int3(fn(i64, i64, i64) -> i64),
    IntTest2(fn(i64, i64) -> bool),
    FloatToInt(fn(f64) -> i64),
    IntToFloat(fn(i64) -> f64),
    Select,
}

/// The function of `op` on elements of type `dtype` (of a select: the type of its choices); `None` outside
/// the op's domain. Float results are to be rounded to the type, integer results wrapped.
pub(super) fn function(op: ScalarOp, dtype: DType) -> Option<Function> {
    if !op.domain().contains(dtype) {
        return None;
    }
    match (op, dtype) {
        // Rounded to its type, whatever the precision of the run: only that has these bits.
        (ScalarOp::ToBits, DType::F32) => {
            Some(Function::FloatToInt(|x| i64::from((x as f32).to_bits() as i32)))
        }
        (ScalarOp::ToBits, _) => Some(Function::FloatToInt(|x| x.to_bits() as i64)),
        (ScalarOp::FromBits, DType::I32) => {
            Some(Function::IntToFloat(|x| f64::from(f32::from_bits(x as u32))))
        }
        (ScalarOp::FromBits, _) => Some(Function::IntToFloat(|x| f64::from_bits(x as u64))),
        _ if dtype.is_float() => float_function(op),
        _ => int_function(op),
    }
}

fn float_function(op: ScalarOp) -> Option<Function> {
    use Function::{Float1, Float2, Float3, FloatTest1, FloatTest2};
    Some(match op {
        ScalarOp::Neg => Float1(|x| -x),
        ScalarOp::Abs => Float1(f64::abs),
        ScalarOp::Sign => Float1(|x| if x == 0.0 || x.is_nan() { x } else { 1f64.copysign(x) }),
        ScalarOp::Floor => Float1(f64::floor),
        ScalarOp::Ceil => Float1(f64::ceil),
        ScalarOp::Round => Float1(f64::round_ties_even),
        ScalarOp::Trunc => Float1(f64::trunc),
        ScalarOp::Sqrt => Float1(f64::sqrt),
        ScalarOp::Rsqrt => Float1(|x| 1.0 / x.sqrt()),
        ScalarOp::Reciprocal => Float1(|x| 1.0 / x),
        ScalarOp::Exp => Float1(f64::exp),
        ScalarOp::Exp2 => Float1(f64::exp2),
        ScalarOp::Expm1 => Float1(f64::exp_m1),
        ScalarOp::Log => Float1(f64::ln),
        ScalarOp::Log2 => Float1(f64::log2),
        ScalarOp::Log1p => Float1(f64::ln_1p),
        ScalarOp::Sin => Float1(f64::sin),
        ScalarOp::Cos => Float1(f64::cos),
        ScalarOp::Tanh => Float1(f64::tanh),
        ScalarOp::Sigmoid => Float1(sigmoid),
        ScalarOp::Softplus => Float1(softplus),
        ScalarOp::Erf => Float1(libm::erf),
        ScalarOp::Relu => Float1(|x| maximum(x, 0.0)),
        ScalarOp::IsNan => FloatTest1(f64::is_nan),
        ScalarOp::Add => Float2(|x, y| x + y),
        ScalarOp::Sub => Float2(|x, y| x - y),
        ScalarOp::Mul => Float2(|x, y| x * y),
        ScalarOp::Div => Float2(|x, y| x / y),
        ScalarOp::Mod => Float2(modulo),
        ScalarOp::Rem => Float2(|x, y| x % y),
        ScalarOp::Pow => Float2(power),
        ScalarOp::Min => Float2(minimum),
        ScalarOp::Max => Float2(maximum),
        ScalarOp::Eq => FloatTest2(|x, y| x == y),
        ScalarOp::Ne => FloatTest2(|x, y| x != y),
        ScalarOp::Lt => FloatTest2(|x, y| x < y),
        ScalarOp::Le => FloatTest2(|x, y| x <= y),
        ScalarOp::Gt => FloatTest2(|x, y| x > y),
        ScalarOp::Ge => FloatTest2(|x, y| x >= y),
        ScalarOp::Clamp => Float3(clamp),
        ScalarOp::Select => Function::Select,
        ScalarOp::ToBits
        | ScalarOp::FromBits
        | ScalarOp::Not
        | ScalarOp::And
        | ScalarOp::Or
        | ScalarOp::Xor => return None,
    })
}

/// The C library gives NaN for a signalling one, whatever the exponent; IEEE 754 leaves that open.
fn power(x: f64, y: f64) -> f64 {
    if x == 1.0 || y == 0.0 { 1.0 } else { x.powf(y) }
}

fn int_function(op: ScalarOp) -> Option<Function> {
    use Function::{Int1, Int2, Int3, IntTest2};
    Some(match op {
        ScalarOp::Neg => Int1(i64::wrapping_neg),
        ScalarOp::Abs => Int1(i64::wrapping_abs),
        ScalarOp::Sign => Int1(i64::signum),
        ScalarOp::Relu => Int1(|x| x.max(0)),
        // Wrapping to one bit afterwards makes this the logical negation of a bool.
        ScalarOp::Not => Int1(|x| !x),
        ScalarOp::Add => Int2(i64::wrapping_add),
        ScalarOp::Sub => Int2(i64::wrapping_sub),
        ScalarOp::Mul => Int2(i64::wrapping_mul),
        ScalarOp::Div => Int2(|x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
        ScalarOp::Mod => Int2(int_modulo),
        ScalarOp::Rem => Int2(|x, y| if y == 0 { 0 } else { x.wrapping_rem(y) }),
        ScalarOp::Min => Int2(i64::min),
        ScalarOp::Max => Int2(i64::max),
        ScalarOp::Eq => IntTest2(|x, y| x == y),
        ScalarOp::Ne => IntTest2(|x, y| x != y),
        ScalarOp::Lt => IntTest2(|x, y| x < y),
        ScalarOp::Le => IntTest2(|x, y| x <= y),
        ScalarOp::Gt => IntTest2(|x, y| x > y),
        ScalarOp::Ge => IntTest2(|x, y| x >= y),
        ScalarOp::And => Int2(|x, y| x & y),
        ScalarOp::Or => Int2(|x, y| x | y),
        ScalarOp::Xor => Int2(|x, y| x ^ y),
        ScalarOp::Clamp => Int3(|x, low, high| x.max(low).min(high)),
        ScalarOp::Select => Function::Select,
        ScalarOp::Floor
        | ScalarOp::Ceil
        | ScalarOp::Round
        | ScalarOp::Trunc
        | ScalarOp::Sqrt
        | ScalarOp::Rsqrt
        | ScalarOp::Reciprocal
        | ScalarOp::Exp
        | ScalarOp::Exp2
        | ScalarOp::Expm1
        | ScalarOp::Log
        | ScalarOp::Log2
        | ScalarOp::Log1p
        | ScalarOp::Sin
        | ScalarOp::Cos
        | ScalarOp::Tanh
        | ScalarOp::Sigmoid
        | ScalarOp::Softplus
        | ScalarOp::Erf
        | ScalarOp::IsNan
        | ScalarOp::ToBits
        | ScalarOp::FromBits
        | ScalarOp::Pow => return None,
    })
}

/// Both branches keep the exponential at most 1, so that neither overflows nor cancels.
fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

fn softplus(x: f64) -> f64 {
    // `max` of std ignores NaN, the sum does not.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The remainder with the sign of `y`, zeros too.
fn modulo(x: f64, y: f64) -> f64 {
    let rest = x % y;
    if rest == 0.0 {
        0f64.copysign(y)
    } else if (rest < 0.0) != (y < 0.0) {
        rest + y
    } else {
        rest
    }
}

fn int_modulo(x: i64, y: i64) -> i64 {
    if y == 0 {
        return 0;
    }
    let rest = x.wrapping_rem(y);
    if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }
}

pub(super) fn minimum(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else if x < y || (x == y && x.is_sign_negative()) {
        x
    } else {
        y
    }
}

pub(super) fn maximum(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else if x > y || (x == y && x.is_sign_positive()) {
        x
    } else {
        y
    }
}

fn clamp(x: f64, low: f64, high: f64) -> f64 {
    minimum(maximum(x, low), high)
}

/// The integer of type `dtype` that agrees with `value` in its low bits.
pub(super) fn wrap(dtype: DType, value: i64) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::U8 => i64::from(value as u8),
        DType::Bool => value & 1,
        DType::I64 | DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => value,
    }
}

/// A float to an integer type: truncated and saturated, NaN to 0; to bool: whether it differs from zero.
pub(super) fn int_from_float(dtype: DType, value: f64) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::U8 => i64::from(value as u8),
        DType::Bool => i64::from(value != 0.0),
        DType::I64 | DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => value as i64,
    }
}

/// An integer to an integer type: wrapped; to bool: whether it differs from zero.
pub(super) fn int_from_int(dtype: DType, value: i64) -> i64 {
    if dtype == DType::Bool { i64::from(value != 0) } else { wrap(dtype, value) }
}

/// `op` of scalars whose element type is `dtype` (of a select: the type of its choices), the result rounded
/// or wrapped to the result's type. Tests give `Int(0)` or `Int(1)`.
///
/// `None` where the number or kind of the operands, or the type, does not fit the op.
pub fn eval_scalar(op: ScalarOp, operands: &[ScalarValue], dtype: DType) -> Option<ScalarValue> {
    use ScalarValue::{Float, Int};
    let float = |x: f64| Float(dtype.round_f64(x));
    let int = |x: i64| Int(wrap(dtype, x));
    let test = |x: bool| Int(i64::from(x));
    Some(match (function(op, dtype)?, operands) {
        (Function::Float1(f), [Float(x)]) => float(f(*x)),
        (Function::Float2(f), [Float(x), Float(y)]) => float(f(*x, *y)),
        (Function::Float3(f), [Float(x), Float(y), Float(z)]) => float(f(*x, *y, *z)),
        (Function::FloatTest1(f), [Float(x)]) => test(f(*x)),
        (Function::FloatTest2(f), [Float(x), Float(y)]) => test(f(*x, *y)),
        (Function::Int1(f), [Int(x)]) => int(f(*x)),
        (Function::Int2(f), [Int(x), Int(y)]) => int(f(*x, *y)),
        (Function::Int3(f), [Int(x), Int(y), Int(z)]) => int(f(*x, *y, *z)),
        (Function::IntTest2(f), [Int(x), Int(y)]) => test(f(*x, *y)),
        (Function::FloatToInt(f), [Float(x)]) => Int(f(*x)),
        (Function::IntToFloat(f), [Int(x)]) => Float(f(*x)),
        (Function::Select, [Int(c), Float(x), Float(y)]) if dtype.is_float() => {
            Float(if *c != 0 { *x } else { *y })
        }
        (Function::Select, [Int(c), Int(x), Int(y)]) if !dtype.is_float() => {
            Int(if *c != 0 { *x } else { *y })
        }
        _ => return None,
    })
}

/// `op` of literals, for folding constants: the literal that a run would compute in the declared types.
///
/// `None` where the number or the types of the operands do not fit the op.
pub fn fold_scalar(op: ScalarOp, operands: &[Literal]) -> Option<Literal> {
    let types: Vec<_> = operands.iter().map(|l| crate::types::TensorType::scalar(l.dtype())).collect();
    let result = crate::infer::infer(&crate::ops::Op::Scalar(op), &types.iter().collect::<Vec<_>>()).ok()?;
    let dtype = operands.last()?.dtype();
    let values: Vec<_> = operands.iter().map(|l| scalar_value(*l)).collect();
    Some(literal(result.first()?.dtype, eval_scalar(op, &values, dtype)?))
}

/// A cast of a literal, as [`Op::Cast`](crate::ops::Op::Cast) casts.
pub fn fold_cast(value: Literal, dtype: DType) -> Literal {
    match scalar_value(value) {
        ScalarValue::Float(x) if dtype.is_float() => Literal::from_f64(dtype, x),
        ScalarValue::Float(x) => Literal::from_i64(dtype, int_from_float(dtype, x)),
        ScalarValue::Int(x) => Literal::from_i64(dtype, x),
    }
}

fn scalar_value(literal: Literal) -> ScalarValue {
    if literal.dtype().is_float() {
        ScalarValue::Float(literal.as_f64())
    } else {
        ScalarValue::Int(literal.as_i64())
    }
}

fn literal(dtype: DType, value: ScalarValue) -> Literal {
    match value {
        ScalarValue::Float(x) => Literal::from_f64(dtype, x),
        ScalarValue::Int(x) => Literal::from_i64(dtype, x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(op: ScalarOp, x: f64) -> f64 {
        match eval_scalar(op, &[ScalarValue::Float(x)], DType::F64) {
            Some(ScalarValue::Float(y)) => y,
            other => panic!("{op:?} gave {other:?}"),
        }
    }

    #[test]
    fn every_op_has_a_function_on_exactly_its_domain() {
        for op in ScalarOp::ALL {
            for dtype in DType::ALL {
                assert_eq!(function(*op, dtype).is_some(), op.domain().contains(dtype), "{op:?} {dtype}");
            }
        }
    }

    #[test]
    fn logistic_functions_stay_accurate_in_both_tails() {
        assert_eq!(f(ScalarOp::Sigmoid, -800.0), 0.0);
        assert_eq!(f(ScalarOp::Sigmoid, -700.0), (-700f64).exp());
        assert_eq!(f(ScalarOp::Sigmoid, 40.0), 1.0);
        assert_eq!(f(ScalarOp::Softplus, -700.0), (-700f64).exp());
        assert_eq!(f(ScalarOp::Softplus, 1e300), 1e300);
        assert!(f(ScalarOp::Softplus, f64::NAN).is_nan());
        assert!(f(ScalarOp::Sigmoid, f64::NAN).is_nan());
    }

    #[test]
    fn a_fold_is_typed_like_the_op() {
        let i = |v| Literal::from_i64(DType::I32, v);
        assert_eq!(
            fold_scalar(ScalarOp::Div, &[i(i64::from(i32::MIN)), i(-1)]),
            Some(i(i64::from(i32::MIN)))
        );
        assert_eq!(fold_scalar(ScalarOp::Lt, &[i(1), i(2)]), Some(Literal::from_i64(DType::Bool, 1)));
        assert_eq!(fold_scalar(ScalarOp::Exp, &[i(1)]), None);
        assert_eq!(fold_scalar(ScalarOp::Add, &[i(1), Literal::from_f64(DType::F32, 1.0)]), None);
        let condition = Literal::from_i64(DType::Bool, 0);
        assert_eq!(fold_scalar(ScalarOp::Select, &[condition, i(1), i(2)]), Some(i(2)));
    }

    #[test]
    fn casts_fold_as_they_run() {
        let f32 = |v| Literal::from_f64(DType::F32, v);
        assert_eq!(fold_cast(f32(-2.9), DType::I32).as_i64(), -2);
        assert_eq!(fold_cast(f32(300.0), DType::U8).as_i64(), 255);
        assert_eq!(fold_cast(f32(f64::NAN), DType::I64).as_i64(), 0);
        assert_eq!(fold_cast(Literal::from_i64(DType::I32, 300), DType::U8).as_i64(), 44);
        assert_eq!(fold_cast(Literal::from_i64(DType::I32, 256), DType::Bool).as_i64(), 1);
    }
}
