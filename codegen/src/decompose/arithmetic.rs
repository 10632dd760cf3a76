//! Arithmetic, comparisons, logic and rounding: what targets have instructions for, or nearly.

use fuse_ir::{DType, ScalarOp};

use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, LaneType, UnaryOp, ValueId};

/// See [`super::scalar`]; takes every op that is not decomposed in a file of its own.
pub(super) fn scalar(b: &mut FunctionBuilder, op: ScalarOp, dtype: DType, operands: &[ValueId]) -> ValueId {
    let x = operands[0];
    let second = operands.get(1).copied().unwrap_or(x);
    let third = operands.get(2).copied().unwrap_or(x);
    let float = dtype.is_float();
    match op {
        ScalarOp::Neg => wrapped(b, dtype, |b| b.neg(x)),
        ScalarOp::Abs if float => b.abs(x),
        ScalarOp::Abs => integer_abs(b, x),
        ScalarOp::Sign => sign(b, x, float),
        ScalarOp::Floor => b.unary(UnaryOp::Floor, x),
        ScalarOp::Ceil => b.unary(UnaryOp::Ceil, x),
        ScalarOp::Round => b.unary(UnaryOp::Nearest, x),
        ScalarOp::Trunc => b.unary(UnaryOp::Trunc, x),
        ScalarOp::Sqrt => b.unary(UnaryOp::Sqrt, x),
        ScalarOp::Rsqrt => {
            let root = b.unary(UnaryOp::Sqrt, x);
            reciprocal(b, root)
        }
        ScalarOp::Reciprocal => reciprocal(b, x),
        ScalarOp::Relu => relu(b, x, float),
        ScalarOp::Not if dtype == DType::Bool => b.not(x),
        ScalarOp::Not => wrapped(b, dtype, |b| b.not(x)),
        ScalarOp::ToBits => b.bitcast(x, super::bits_lane(b, x)),
        ScalarOp::FromBits => {
            let lane = if b.ty(x).lane == LaneType::I64 { LaneType::F64 } else { LaneType::F32 };
            b.bitcast(x, lane)
        }
        ScalarOp::IsNan => b.compare(Condition::Ne, x, x),
        ScalarOp::Add => wrapped(b, dtype, |b| b.add(x, second)),
        ScalarOp::Sub => wrapped(b, dtype, |b| b.sub(x, second)),
        ScalarOp::Mul => wrapped(b, dtype, |b| b.mul(x, second)),
        ScalarOp::Div if float => b.div(x, second),
        ScalarOp::Div => integer_div(b, x, second),
        ScalarOp::Rem => integer_rem(b, x, second),
        ScalarOp::Mod => integer_mod(b, x, second),
        ScalarOp::Min => b.binary(BinaryOp::Min, x, second),
        ScalarOp::Max => b.binary(BinaryOp::Max, x, second),
        ScalarOp::Eq => compare(b, Condition::Eq, x, second),
        ScalarOp::Ne => compare(b, Condition::Ne, x, second),
        ScalarOp::Lt => compare(b, Condition::Lt, x, second),
        ScalarOp::Le => compare(b, Condition::Le, x, second),
        ScalarOp::Gt => compare(b, Condition::Gt, x, second),
        ScalarOp::Ge => compare(b, Condition::Ge, x, second),
        ScalarOp::And => b.and(x, second),
        ScalarOp::Or => b.or(x, second),
        ScalarOp::Xor => b.xor(x, second),
        ScalarOp::Select => b.select(x, second, third),
        ScalarOp::Clamp => {
            let raised = b.binary(BinaryOp::Max, x, second);
            b.binary(BinaryOp::Min, raised, third)
        }
        ScalarOp::Exp
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
        | ScalarOp::Pow => unreachable!("{} has a file of its own", op.mnemonic()),
    }
}

/// An integer result brought back to 8 bits where that is the type.
fn wrapped(
    b: &mut FunctionBuilder,
    dtype: DType,
    operation: impl FnOnce(&mut FunctionBuilder) -> ValueId,
) -> ValueId {
    let result = operation(b);
    match dtype {
        DType::U8 => low_byte(b, result),
        DType::F32 | DType::F64 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => result,
    }
}

/// The value modulo 256.
pub(super) fn low_byte(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let mask = b.integer_like(x, 0xff);
    b.and(x, mask)
}

fn compare(b: &mut FunctionBuilder, condition: Condition, x: ValueId, y: ValueId) -> ValueId {
    b.compare(condition, x, y)
}

pub(super) fn reciprocal(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let one = b.number_like(x, 1.0);
    b.div(one, x)
}

fn integer_abs(b: &mut FunctionBuilder, x: ValueId) -> ValueId {
    let negative = b.compare_integer(Condition::Lt, x, 0);
    let negated = b.neg(x);
    b.select(negative, negated, x)
}

/// Zeros and NaN are neither above nor below zero and stay.
fn sign(b: &mut FunctionBuilder, x: ValueId, float: bool) -> ValueId {
    let constant = |b: &mut FunctionBuilder, n: i64| {
        if float { b.number_like(x, n as f64) } else { b.integer_like(x, n) }
    };
    let (zero, one, minus) = (constant(b, 0), constant(b, 1), constant(b, -1));
    let above = b.compare(Condition::Gt, x, zero);
    let below = b.compare(Condition::Lt, x, zero);
    let negative = b.select(below, minus, x);
    b.select(above, one, negative)
}

/// Written so that NaN, which is not at most zero, stays, and -0 becomes 0.
fn relu(b: &mut FunctionBuilder, x: ValueId, float: bool) -> ValueId {
    let zero = if float { b.number_like(x, 0.0) } else { b.integer_like(x, 0) };
    let cut = b.compare(Condition::Le, x, zero);
    b.select(cut, zero, x)
}

/// The divisor with 0 and -1, which the instruction must not see, replaced by 1.
fn safe_divisor(b: &mut FunctionBuilder, y: ValueId) -> (ValueId, ValueId, ValueId) {
    let zero = b.compare_integer(Condition::Eq, y, 0);
    let minus = b.compare_integer(Condition::Eq, y, -1);
    let either = b.or(zero, minus);
    let one = b.integer_like(y, 1);
    (b.select(either, one, y), zero, minus)
}

fn integer_div(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let (safe, zero, minus) = safe_divisor(b, y);
    let quotient = b.binary(BinaryOp::IntDiv, x, safe);
    let negated = b.neg(x);
    let quotient = b.select(minus, negated, quotient);
    let nothing = b.integer_like(x, 0);
    b.select(zero, nothing, quotient)
}

/// Divisors 0 and -1 leave the remainder 0 of a division by 1.
fn integer_rem(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let (safe, ..) = safe_divisor(b, y);
    b.binary(BinaryOp::IntRem, x, safe)
}

fn integer_mod(b: &mut FunctionBuilder, x: ValueId, y: ValueId) -> ValueId {
    let rest = integer_rem(b, x, y);
    let nonzero = b.compare_integer(Condition::Ne, rest, 0);
    // The sign bit of the exclusive or tells unequal signs.
    let signs = b.xor(rest, y);
    let unequal = b.compare_integer(Condition::Lt, signs, 0);
    let adjust = b.and(nonzero, unequal);
    let moved = b.add(rest, y);
    b.select(adjust, moved, rest)
}
