//! One walk over Kernel IR, many emitters.
//!
//! [`emit`] visits a [`Function`] once and asks a [`ScalarBuilder`] for each primitive; the builder is
//! implemented once for Cranelift and once for LLVM. Nothing else translates an operation.

use fuse_ir::{DType, Literal};

use crate::kernel_ir::{
    BinaryOp, Condition, Conversion, Function, LaneType, Operation, Statement, Type, UnaryOp, ValueId,
};

/// Emits primitives of one target. Types are passed wherever a target value does not tell its own.
pub trait ScalarBuilder: Sized {
    /// A value of the target.
    type Value: Copy;

    /// A constant in every lane of `ty`.
    fn constant(&mut self, ty: Type, literal: Literal) -> Self::Value;
    /// A runtime integer (i64), by position.
    fn symbol(&mut self, position: usize) -> Self::Value;
    /// The first work item of this call (i64).
    fn work_begin(&mut self) -> Self::Value;
    /// One past the last work item of this call (i64).
    fn work_end(&mut self) -> Self::Value;
    /// The work item of this thread (i64).
    fn work_item(&mut self) -> Self::Value;
    /// Reads consecutive elements of type `memory` from element `index` of a buffer parameter.
    fn load(&mut self, ty: Type, buffer: usize, memory: DType, index: Self::Value) -> Self::Value;
    /// Writes consecutive elements.
    fn store(&mut self, ty: Type, buffer: usize, memory: DType, index: Self::Value, value: Self::Value);
    /// Asks for the memory at element `index` of a buffer parameter, inside or not, to come closer; nothing where the
    /// target has no such instruction.
    fn prefetch(&mut self, _buffer: usize, _memory: DType, _index: Self::Value) {}
    /// A primitive of one operand.
    fn unary(&mut self, op: UnaryOp, ty: Type, x: Self::Value) -> Self::Value;
    /// A primitive of two operands.
    fn binary(&mut self, op: BinaryOp, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `x·y + z`, rounded once.
    fn fma(&mut self, ty: Type, x: Self::Value, y: Self::Value, z: Self::Value) -> Self::Value;
    /// A comparison of operands of type `ty`.
    fn compare(&mut self, condition: Condition, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `x` where `condition` holds, otherwise `y`; both of type `ty`.
    fn select(&mut self, ty: Type, condition: Self::Value, x: Self::Value, y: Self::Value) -> Self::Value;
    /// A conversion.
    fn convert(&mut self, conversion: Conversion, from: Type, to: Type, x: Self::Value) -> Self::Value;
    /// A scalar in every lane of `ty`.
    fn splat(&mut self, ty: Type, x: Self::Value) -> Self::Value;
    /// The lanes `0, 1, …` of an integer type.
    fn lane_index(&mut self, ty: Type) -> Self::Value;
    /// One lane of a vector of type `from`.
    fn extract(&mut self, from: Type, x: Self::Value, lane: u8) -> Self::Value;
    /// A vector of type `ty` with one lane replaced by a scalar.
    fn insert(&mut self, ty: Type, vector: Self::Value, scalar: Self::Value, lane: u8) -> Self::Value;
    /// A counted loop with carried values; `body` gets the counter and the carried values and returns the next
    /// ones. Returns the carried values after the loop.
    fn counted_loop(
        &mut self,
        bounds: Bounds<Self::Value>,
        carried: &[(Type, Self::Value)],
        body: &mut LoopBody<'_, Self>,
    ) -> Vec<Self::Value>;
    /// Runs `body` if the condition holds.
    fn if_then(&mut self, condition: Self::Value, body: &mut dyn FnMut(&mut Self));
}

/// The body of a counted loop: from the counter and the carried values to the next carried values.
pub type LoopBody<'a, B> = dyn FnMut(
        &mut B,
        <B as ScalarBuilder>::Value,
        &[<B as ScalarBuilder>::Value],
    ) -> Vec<<B as ScalarBuilder>::Value>
    + 'a;

/// The range of a counted loop: `begin, begin + step, …` while below `end` (i64).
#[derive(Clone, Copy, Debug)]
pub struct Bounds<V> {
    /// The first value of the counter.
    pub begin: V,
    /// The bound.
    pub end: V,
    /// The increment, at least 1.
    pub step: i64,
}

/// Emits the body of a function.
pub fn emit<B: ScalarBuilder>(function: &Function, builder: &mut B) {
    let mut values = vec![None; function.types.len()];
    block(function, &function.body, builder, &mut values);
}

type Values<B> = Vec<Option<<B as ScalarBuilder>::Value>>;

/// The target's value; a missing definition is a compiler bug that the verifier reports first.
fn get<B: ScalarBuilder>(values: &Values<B>, id: ValueId) -> B::Value {
    values[id.0 as usize].expect("verified Kernel IR defines every value before its use")
}

fn block<B: ScalarBuilder>(function: &Function, body: &[Statement], builder: &mut B, values: &mut Values<B>) {
    for statement in body {
        match statement {
            Statement::Let { value, operation } => {
                values[value.0 as usize] =
                    Some(operate(function, function.ty(*value), operation, builder, values));
            }
            Statement::Store { buffer, index, value } => {
                let memory = function.buffers[buffer.0 as usize].dtype;
                let (index, ty, value) =
                    (get::<B>(values, *index), function.ty(*value), get::<B>(values, *value));
                builder.store(ty, buffer.0 as usize, memory, index, value);
            }
            Statement::Prefetch { buffer, index } => {
                let memory = function.buffers[buffer.0 as usize].dtype;
                builder.prefetch(buffer.0 as usize, memory, get::<B>(values, *index));
            }
            Statement::For { counter, begin, end, step, carried, body } => {
                let bounds =
                    Bounds { begin: get::<B>(values, *begin), end: get::<B>(values, *end), step: *step };
                let inits: Vec<_> =
                    carried.iter().map(|c| (function.ty(c.init), get::<B>(values, c.init))).collect();
                let results = builder.counted_loop(bounds, &inits, &mut |builder, position, current| {
                    values[counter.0 as usize] = Some(position);
                    for (c, value) in carried.iter().zip(current) {
                        values[c.value.0 as usize] = Some(*value);
                    }
                    block(function, body, builder, values);
                    carried.iter().map(|c| get::<B>(values, c.next)).collect()
                });
                for (c, result) in carried.iter().zip(results) {
                    values[c.result.0 as usize] = Some(result);
                }
            }
            Statement::If { condition, body } => {
                let condition = get::<B>(values, *condition);
                builder.if_then(condition, &mut |builder| block(function, body, builder, values));
            }
        }
    }
}

fn operate<B: ScalarBuilder>(
    function: &Function,
    ty: Type,
    operation: &Operation,
    builder: &mut B,
    values: &Values<B>,
) -> B::Value {
    let value = |id: &ValueId| get::<B>(values, *id);
    match operation {
        Operation::Constant(literal) => builder.constant(ty, *literal),
        Operation::Symbol(position) => builder.symbol(*position as usize),
        Operation::WorkBegin => builder.work_begin(),
        Operation::WorkEnd => builder.work_end(),
        Operation::WorkItem => builder.work_item(),
        Operation::Load { buffer, index } => {
            let memory = function.buffers[buffer.0 as usize].dtype;
            builder.load(ty, buffer.0 as usize, memory, value(index))
        }
        Operation::Unary(op, x) => builder.unary(*op, ty, value(x)),
        Operation::Binary(op, x, y) => builder.binary(*op, ty, value(x), value(y)),
        Operation::Fma(x, y, z) => builder.fma(ty, value(x), value(y), value(z)),
        Operation::Compare(condition, x, y) => {
            builder.compare(*condition, function.ty(*x), value(x), value(y))
        }
        Operation::Select(condition, x, y) => builder.select(ty, value(condition), value(x), value(y)),
        Operation::Convert(conversion, x) => builder.convert(*conversion, function.ty(*x), ty, value(x)),
        Operation::Splat(x) => builder.splat(ty, value(x)),
        Operation::LaneIndex => builder.lane_index(ty),
        Operation::Extract(x, lane) => builder.extract(function.ty(*x), value(x), *lane),
        Operation::Insert(vector, scalar, lane) => builder.insert(ty, value(vector), value(scalar), *lane),
    }
}

/// [`Conversion::HalfToFloat`] of `bits` in other primitives, for targets without an instruction for it.
///
/// Reading the bits as the upper bits of an f32 leaves an exponent that is 112 too low, also for subnormals, which one
/// exact product corrects. Only infinities and NaN have no such f32 and get their exponent set.
pub fn half_to_float<B: ScalarBuilder>(builder: &mut B, ty: Type, bits: B::Value) -> B::Value {
    let float = ty.with_lane(LaneType::F32);
    let integer = |b: &mut B, number| b.constant(ty, Literal::from_i64(DType::I32, number));
    let mask = integer(builder, 0x7fff);
    let bare = builder.binary(BinaryOp::And, ty, bits, mask);
    let distance = integer(builder, 13);
    let moved = builder.binary(BinaryOp::ShiftLeft, ty, bare, distance);
    let small = builder.convert(Conversion::Bitcast, ty, float, moved);
    let scale = builder.constant(float, Literal::from_f64(DType::F32, 2f64.powi(112)));
    let finite = builder.binary(BinaryOp::Mul, float, small, scale);
    let finite = builder.convert(Conversion::Bitcast, float, ty, finite);
    let exponent = integer(builder, 0x7f80_0000);
    let special = builder.binary(BinaryOp::Or, ty, moved, exponent);
    let infinity = integer(builder, 0x7c00);
    let is_special = builder.compare(Condition::Ge, ty, bare, infinity);
    let magnitude = builder.select(ty, is_special, special, finite);
    // The magnitude taken out of the bits leaves the sign; the loaded bits have nothing above it.
    let sign = builder.binary(BinaryOp::Xor, ty, bits, bare);
    let distance = integer(builder, 16);
    let sign = builder.binary(BinaryOp::ShiftLeft, ty, sign, distance);
    let joined = builder.binary(BinaryOp::Or, ty, magnitude, sign);
    builder.convert(Conversion::Bitcast, ty, float, joined)
}
