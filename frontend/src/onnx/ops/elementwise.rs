//! Elementwise operators.

use fuse_ir::DType;

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::tensor::{element_type, type_name};
use super::super::value::Value;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("Abs", (6, 13), &[], Computes, |c| unary(c, Tensor::abs), ""),
    row("Neg", (6, 13), &[], Computes, |c| unary(c, Tensor::neg), ""),
    row("Sign", (9, 13), &[], Computes, |c| unary(c, Tensor::sign), ""),
    row("Ceil", (6, 13), &[], Computes, |c| unary(c, Tensor::ceil), ""),
    row("Floor", (6, 13), &[], Computes, |c| unary(c, Tensor::floor), ""),
    row("Round", (11, 22), &[], Computes, |c| unary(c, Tensor::round), ""),
    row("Exp", (6, 13), &[], Computes, |c| unary(c, Tensor::exp), ""),
    row("Log", (6, 13), &[], Computes, |c| unary(c, Tensor::log), ""),
    row("Sqrt", (6, 13), &[], Computes, |c| unary(c, Tensor::sqrt), ""),
    row("Reciprocal", (6, 13), &[], Computes, |c| unary(c, Tensor::reciprocal), ""),
    row("Tanh", (6, 13), &[], Computes, |c| unary(c, Tensor::tanh), ""),
    row("Sin", (7, 22), &[], Computes, |c| unary(c, Tensor::sin), ""),
    row("Cos", (7, 22), &[], Computes, |c| unary(c, Tensor::cos), ""),
    row("Erf", (9, 13), &[], Computes, |c| unary(c, Tensor::erf), ""),
    row("Not", (1, 1), &[], Computes, |c| bits(c, true, |c| unary(c, Tensor::not)), ""),
    row("BitwiseNot", (18, 18), &[], Computes, |c| bits(c, false, |c| unary(c, Tensor::not)), ""),
    row("IsNaN", (9, 20), &[], Computes, |c| unary(c, Tensor::is_nan), ""),
    row("IsInf", (10, 20), &["detect_negative", "detect_positive"], Computes, is_inf, ""),
    row("Add", (7, 14), &[], Computes, |c| binary(c, Tensor::add), ""),
    row("Sub", (7, 14), &[], Computes, |c| binary(c, Tensor::sub), ""),
    row("Mul", (7, 14), &[], Computes, |c| binary(c, Tensor::mul), ""),
    row("Div", (7, 14), &[], Computes, |c| binary(c, Tensor::div), ""),
    row("Mod", (10, 28), &["fmod"], Computes, modulo, ""),
    row("Pow", (7, 15), &[], Computes, super::power::pow, "integers wrap"),
    row("Max", (6, 13), &[], Computes, |c| several(c, Tensor::maximum), ""),
    row("Min", (6, 13), &[], Computes, |c| several(c, Tensor::minimum), ""),
    row("Sum", (6, 13), &[], Computes, sum, ""),
    row("Mean", (6, 13), &[], Computes, mean, ""),
    row("Equal", (7, 19), &[], Computes, |c| binary(c, Tensor::eq), ""),
    row("Greater", (7, 13), &[], Computes, |c| binary(c, Tensor::gt), ""),
    row("GreaterOrEqual", (12, 16), &[], Computes, |c| binary(c, Tensor::ge), ""),
    row("Less", (7, 13), &[], Computes, |c| binary(c, Tensor::lt), ""),
    row("LessOrEqual", (12, 16), &[], Computes, |c| binary(c, Tensor::le), ""),
    row("And", (7, 7), &[], Computes, |c| bits(c, true, |c| binary(c, Tensor::and)), ""),
    row("Or", (7, 7), &[], Computes, |c| bits(c, true, |c| binary(c, Tensor::or)), ""),
    row("Xor", (7, 7), &[], Computes, |c| bits(c, true, |c| binary(c, Tensor::xor)), ""),
    row("BitwiseAnd", (18, 18), &[], Computes, |c| bits(c, false, |c| binary(c, Tensor::and)), ""),
    row("BitwiseOr", (18, 18), &[], Computes, |c| bits(c, false, |c| binary(c, Tensor::or)), ""),
    row("BitwiseXor", (18, 18), &[], Computes, |c| bits(c, false, |c| binary(c, Tensor::xor)), ""),
    row("BitShift", (11, 28), &["direction"], Computes, bit_shift, ""),
    row("Where", (9, 16), &[], Computes, choose, ""),
    row("Cast", (6, 28), &["to", "saturate", "round_mode"], Computes, cast, ""),
    row("CastLike", (15, 25), &["saturate", "round_mode"], Computes, cast_like, ""),
    row("Dropout", (7, 22), &["ratio", "seed"], Computes, dropout, "in inference, where it changes nothing"),
];

/// A function of one tensor.
pub(super) fn unary(call: &Call<'_>, function: impl Fn(&Tensor) -> Tensor) -> Built<Vec<Value>> {
    call.one(function(&call.tensor(0)?))
}

/// A function of one float tensor that is composed of several ops, in f32 where the tensor is f16 or bf16.
pub(super) fn float_unary(call: &Call<'_>, function: impl Fn(&Tensor) -> Tensor) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    require_float(&x)?;
    call.one(widened(&x, function))
}

/// A function computed in the accumulator type of `x`, and rounded once.
pub(super) fn widened(x: &Tensor, function: impl Fn(&Tensor) -> Tensor) -> Tensor {
    function(&x.cast(x.dtype().accumulator())).cast(x.dtype())
}

/// A function of two tensors, which broadcast.
pub(super) fn binary(call: &Call<'_>, function: impl Fn(&Tensor, Tensor) -> Tensor) -> Built<Vec<Value>> {
    let (x, y) = (call.tensor(0)?, call.tensor(1)?);
    call.broadcast_together(&[&x, &y])?;
    call.one(function(&x, y))
}

/// A function of two tensors applied to any number, which broadcast.
fn several(call: &Call<'_>, function: impl Fn(&Tensor, Tensor) -> Tensor) -> Built<Vec<Value>> {
    call.one(joined(call, function)?)
}

fn joined(call: &Call<'_>, function: impl Fn(&Tensor, Tensor) -> Tensor) -> Built<Tensor> {
    let tensors = call.tensors()?;
    call.broadcast_together(&tensors.iter().collect::<Vec<_>>())?;
    let mut tensors = tensors.into_iter();
    match tensors.next() {
        Some(first) => Ok(tensors.fold(first, |all, next| function(&all, next))),
        None => refuse("it has no inputs"),
    }
}

/// The sum, rounded once.
fn sum(call: &Call<'_>) -> Built<Vec<Value>> {
    call.one(wide_sum(call)?.cast(call.value(0)?.dtype()))
}

fn mean(call: &Call<'_>) -> Built<Vec<Value>> {
    let sum = wide_sum(call)?;
    let dtype = call.value(0)?.dtype();
    call.one((&sum / call.number(sum.dtype(), call.inputs.len() as f64)).cast(dtype))
}

/// The sum in the type that sums are accumulated in.
fn wide_sum(call: &Call<'_>) -> Built<Tensor> {
    joined(call, |a, b| {
        let wide = b.dtype().accumulator();
        a.cast(wide) + b.cast(wide)
    })
}

/// Refuses element types that are not floats.
pub(super) fn require_float(x: &Tensor) -> Built<DType> {
    match x.dtype().is_float() {
        true => Ok(x.dtype()),
        false => refuse(format!("its operand is {}; a float is needed", x.ty())),
    }
}

/// Logic of bools, or of the bits of integers, which the IR does by the same ops.
fn bits(call: &Call<'_>, bools: bool, build: fn(&Call<'_>) -> Built<Vec<Value>>) -> Built<Vec<Value>> {
    let dtype = call.value(0)?.dtype();
    if dtype.is_float() || (dtype == DType::Bool) != bools {
        let needed = if bools { "bool" } else { "an integer" };
        return refuse(format!("its operand is {dtype}; {needed} is needed"));
    }
    build(call)
}

fn is_inf(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    require_float(&x)?;
    let (negative, positive) =
        (call.attributes.flag("detect_negative", true)?, call.attributes.flag("detect_positive", true)?);
    call.one(match (negative, positive) {
        (true, true) => x.abs().eq(f64::INFINITY),
        (true, false) => x.eq(f64::NEG_INFINITY),
        (false, true) => x.eq(f64::INFINITY),
        (false, false) => x.ne(&x).and(x.eq(&x)),
    })
}

fn modulo(call: &Call<'_>) -> Built<Vec<Value>> {
    // The sign of the divisor, or with `fmod` that of the dividend.
    match call.attributes.flag("fmod", false)? {
        true => binary(call, Tensor::rem),
        false => binary(call, Tensor::modulo),
    }
}

/// A shift is a product with, or a quotient by, a power of two. In i64, whose low bits are those of narrower types.
/// By a negative number, or by all bits and more, everything is shifted out but the sign.
fn bit_shift(call: &Call<'_>) -> Built<Vec<Value>> {
    let (x, y) = (call.tensor(0)?, call.tensor(1)?);
    if x.dtype().is_float() || x.dtype() == DType::Bool {
        return refuse(format!("its operand is {}; an integer is needed", x.ty()));
    }
    call.broadcast_together(&[&x, &y])?;
    let (wide, by) = (x.cast(DType::I64), y.cast(DType::I64));
    let constant = |value: i64| call.trace().constant(DType::I64, value);
    // 2^by from the bits of `by`, which is at most 62 where it counts.
    let bit = |k: u32| by.and(constant(1 << k)).ne(0).select(constant(1 << (1 << k)), constant(1));
    let power = (1..6).fold(bit(0), |product, k| product * bit(k));
    let bits = 8 * x.dtype().size() as i64;
    let shifted_out = by.lt(0).or(by.ge(bits.min(63)));
    let shifted = match call.attributes.string_or("direction", "")? {
        "LEFT" => {
            // The highest bit alone is left of 64.
            let last = by.eq(63).and(wide.and(constant(1)).ne(0)).select(constant(i64::MIN), constant(0));
            shifted_out.select(if bits == 64 { last } else { constant(0) }, &wide * power)
        }
        "RIGHT" => {
            let floor = (&wide - wide.modulo(&power)).div(&power);
            shifted_out.select(wide.lt(0).select(constant(-1), constant(0)), floor)
        }
        other => return refuse(format!("attribute `direction` is `{other}`; it is LEFT or RIGHT")),
    };
    call.one(shifted.cast(x.dtype()))
}

fn choose(call: &Call<'_>) -> Built<Vec<Value>> {
    let (condition, x, y) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    call.broadcast_together(&[&condition, &x, &y])?;
    call.one(condition.select(x, y))
}

fn cast(call: &Call<'_>) -> Built<Vec<Value>> {
    let number = i32::try_from(call.attributes.int_or("to", 0)?).unwrap_or(0);
    match element_type(number) {
        Some(dtype) => call.one(call.tensor(0)?.cast(dtype)),
        None => refuse(format!("the element type {} is not supported", type_name(number))),
    }
}

fn cast_like(call: &Call<'_>) -> Built<Vec<Value>> {
    call.one(call.tensor(0)?.cast(call.value(1)?.dtype()))
}

/// The operand, and a mask that keeps all of it.
fn dropout(call: &Call<'_>) -> Built<Vec<Value>> {
    if call.optional(2).is_some() && call.scalar(2, "the training mode")?.as_i64() != 0 {
        return refuse("training mode is not supported; export the model for inference");
    }
    let x = call.value(0)?.clone();
    // Up to opset 9 the mask has the type of the operand.
    let dtype = if call.opset < 10 { x.dtype() } else { DType::Bool };
    let mask = call.trace().constant(DType::Bool, true).cast(dtype).broadcast_to(x.shape());
    Ok(vec![x, mask.into()])
}
