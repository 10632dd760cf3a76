//! Legalisation: every elementwise op and cast in the primitives of Kernel IR.
//!
//! Everything is decided here, so the emitters stay dumb and all targets compute the same bits. In registers
//! f16 and bf16 are f32 (their values are rounded when stored and at casts, not after every op), u8 is an i32
//! between 0 and 255, and bool is a bool.
//!
//! # Accuracy
//! Measured against f64 for f32, and against correctly rounded values computed with 120 bits for f64; in
//! units in the last place of the result, over the whole range of the operands, subnormal results
//! included. `codegen/tests/decompose.rs` and, on every f32, `math.rs` there repeat the measurement;
//! `docs/perf/math.md` has the table.
//!
//! # Sources
//! Range reductions with split constants are Cody and Waite's ("Software Manual for the Elementary Functions",
//! 1980), the reduction of large arguments modulo π/2 is Payne and Hanek's (1983), the double-word arithmetic
//! of the power is Dekker's and Knuth's as in Muller et al., "Handbook of Floating-Point Arithmetic". The
//! polynomials are fits of our own, made by `fit.py` beside this file.

mod arithmetic;
mod cast;
mod coefficients;
mod error_function;
mod exponential;
mod logarithm;
mod narrow;
mod power;
mod remainder;
mod trigonometric;

use fuse_ir::{DType, ScalarOp};

use crate::builder::FunctionBuilder;
use crate::kernel_ir::{LaneType, ValueId};

pub use cast::{cast, from_index};
pub use narrow::{from_memory, to_memory};

/// The type of the register that holds an element of type `dtype`.
pub fn register_type(dtype: DType) -> LaneType {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => LaneType::F32,
        DType::F64 => LaneType::F64,
        DType::I32 | DType::U8 => LaneType::I32,
        DType::I64 => LaneType::I64,
        DType::Bool => LaneType::Bool,
    }
}

/// Whether `op` on elements of type `dtype` decomposes for vectors. What does not loops, divides integers or
/// computes in a wider type, and takes scalars only.
pub fn takes_vectors(op: ScalarOp, dtype: DType) -> bool {
    match op {
        ScalarOp::Div => dtype.is_float(),
        ScalarOp::Mod | ScalarOp::Rem => false,
        ScalarOp::Sin | ScalarOp::Cos | ScalarOp::Pow => false,
        ScalarOp::Neg
        | ScalarOp::Abs
        | ScalarOp::Sign
        | ScalarOp::Floor
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
        | ScalarOp::Tanh
        | ScalarOp::Sigmoid
        | ScalarOp::Softplus
        | ScalarOp::Erf
        | ScalarOp::Relu
        | ScalarOp::Not
        | ScalarOp::IsNan
        | ScalarOp::ToBits
        | ScalarOp::FromBits
        | ScalarOp::Add
        | ScalarOp::Sub
        | ScalarOp::Mul
        | ScalarOp::Min
        | ScalarOp::Max
        | ScalarOp::Eq
        | ScalarOp::Ne
        | ScalarOp::Lt
        | ScalarOp::Le
        | ScalarOp::Gt
        | ScalarOp::Ge
        | ScalarOp::And
        | ScalarOp::Or
        | ScalarOp::Xor
        | ScalarOp::Select
        | ScalarOp::Clamp => true,
    }
}

/// `op` of elements of type `dtype` (of a select: the type of its choices). The operands are registers of that
/// type, as many as the op takes and within its domain, all with the same lanes; where
/// [`takes_vectors`] does not hold, one lane.
///
/// # Panics
/// If there are fewer operands than the op takes.
pub fn scalar(b: &mut FunctionBuilder, op: ScalarOp, dtype: DType, operands: &[ValueId]) -> ValueId {
    let x = operands[0];
    let y = || operands[1];
    match op {
        ScalarOp::Exp => exponential::exp(b, x),
        ScalarOp::Exp2 => exponential::exp2(b, x),
        ScalarOp::Expm1 => exponential::expm1(b, x),
        ScalarOp::Tanh => exponential::tanh(b, x),
        ScalarOp::Sigmoid => exponential::sigmoid(b, x),
        ScalarOp::Softplus => logarithm::softplus(b, x),
        ScalarOp::Log => logarithm::log(b, x),
        ScalarOp::Log2 => logarithm::log2(b, x),
        ScalarOp::Log1p => logarithm::log1p(b, x),
        ScalarOp::Sin => trigonometric::sin(b, x),
        ScalarOp::Cos => trigonometric::cos(b, x),
        ScalarOp::Erf => error_function::erf(b, x),
        ScalarOp::Pow => power::pow(b, x, y()),
        ScalarOp::Mod if dtype.is_float() => remainder::modulo(b, x, y()),
        ScalarOp::Rem if dtype.is_float() => remainder::rem(b, x, y()),
        ScalarOp::Neg
        | ScalarOp::Abs
        | ScalarOp::Sign
        | ScalarOp::Floor
        | ScalarOp::Ceil
        | ScalarOp::Round
        | ScalarOp::Trunc
        | ScalarOp::Sqrt
        | ScalarOp::Rsqrt
        | ScalarOp::Reciprocal
        | ScalarOp::Relu
        | ScalarOp::Not
        | ScalarOp::IsNan
        | ScalarOp::ToBits
        | ScalarOp::FromBits
        | ScalarOp::Add
        | ScalarOp::Sub
        | ScalarOp::Mul
        | ScalarOp::Div
        | ScalarOp::Mod
        | ScalarOp::Rem
        | ScalarOp::Min
        | ScalarOp::Max
        | ScalarOp::Eq
        | ScalarOp::Ne
        | ScalarOp::Lt
        | ScalarOp::Le
        | ScalarOp::Gt
        | ScalarOp::Ge
        | ScalarOp::And
        | ScalarOp::Or
        | ScalarOp::Xor
        | ScalarOp::Select
        | ScalarOp::Clamp => arithmetic::scalar(b, op, dtype, operands),
    }
}

/// Whether the lanes of a register are f64.
fn is_double(b: &FunctionBuilder, x: ValueId) -> bool {
    b.ty(x).lane == LaneType::F64
}

/// The integer lanes of the width of a float register's.
fn bits_lane(b: &FunctionBuilder, x: ValueId) -> LaneType {
    if is_double(b, x) { LaneType::I64 } else { LaneType::I32 }
}

/// The number of stored significand bits of a float register.
fn significand_bits(b: &FunctionBuilder, x: ValueId) -> i64 {
    if is_double(b, x) { 52 } else { 23 }
}

/// The sign of `sign` on the magnitude of `magnitude`.
fn copy_sign(b: &mut FunctionBuilder, magnitude: ValueId, sign: ValueId) -> ValueId {
    let (lane, bits) = (bits_lane(b, magnitude), b.ty(magnitude).lane);
    let (m, s) = (b.bitcast(magnitude, lane), b.bitcast(sign, lane));
    let mask = if lane == LaneType::I64 { i64::MIN } else { i64::from(i32::MIN) };
    let mask = b.integer_like(m, mask);
    let keep = b.not(mask);
    let (m, s) = (b.and(m, keep), b.and(s, mask));
    let joined = b.or(m, s);
    b.bitcast(joined, bits)
}
