//! One walk over Kernel IR, many emitters.
//!
//! [`emit`] visits a [`Function`] once and asks a [`ScalarBuilder`] for each primitive; the builder is
//! implemented once for Cranelift and once for LLVM. Nothing else translates an operation.

use fuse_ir::{DType, Literal};

use crate::divisors::Divisors;
use crate::kernel_ir::{
    BinaryOp, Condition, Conversion, Function, LaneType, MatrixFactors, Operation, ParameterId, SharedId,
    Statement, Type, UnaryOp, ValueId,
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
    /// What only threads of a GPU do.
    fn on_gpu(&mut self, operation: GpuOperation<Self::Value>) -> Self::Value;
    /// What only threads of a GPU do, for its effect.
    fn effect_on_gpu(&mut self, effect: GpuEffect<Self::Value>);
    /// Reads consecutive elements.
    fn load(&mut self, ty: Type, place: Place<Self::Value>) -> Self::Value;
    /// Writes consecutive elements.
    fn store(&mut self, ty: Type, place: Place<Self::Value>, value: Self::Value);
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
    /// A counted loop with carried values and pairs of buffers that are `exchanged` after each iteration; `body` gets
    /// the counter and the carried values and returns the next ones. Returns the carried values after the loop.
    fn counted_loop(
        &mut self,
        bounds: Bounds<Self::Value>,
        carried: &[(Type, Self::Value)],
        exchanged: &[(usize, usize)],
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

/// Consecutive elements of a buffer parameter.
#[derive(Clone, Copy, Debug)]
pub struct Place<V> {
    /// The position of the parameter.
    pub buffer: usize,
    /// The element type in memory.
    pub memory: DType,
    /// The first element (i64).
    pub index: V,
    /// A power of two that divides `index`.
    pub divisor: u32,
    /// A power of two that divides the number of elements of the buffer.
    pub length_divisor: u32,
}

/// Consecutive elements of a shared array.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlace<V> {
    /// The position of the array.
    pub array: usize,
    /// The first element (i64).
    pub index: V,
    /// A power of two that divides `index`.
    pub divisor: u32,
}

/// What only threads of a GPU compute.
#[derive(Clone, Copy, Debug)]
pub enum GpuOperation<V> {
    /// The number of the block (i64).
    Block,
    /// How many blocks there are (i64).
    Blocks,
    /// The number of the thread in its block (i64).
    Thread,
    /// Reads from a shared array.
    LoadShared(Type, SharedPlace<V>),
    /// So many matrices from a shared array, transposed or not ([`Operation::LoadMatrices`]).
    LoadMatrices(u8, SharedPlace<V>, bool),
    /// [`Operation::MatrixFma`] of fragments of two matrices of these factors, and of the sums.
    MatrixFma(MatrixFactors, [V; 3]),
    /// Two f32 as 16-bit floats of this type ([`Operation::Pair`]).
    Pair(DType, [V; 2]),
    /// An f32 with fewer bits ([`Operation::Tf32`]).
    Tf32(V),
    /// The value of the thread whose number differs by the bits of the distance.
    Butterfly(Type, V, u8),
}

/// What only threads of a GPU do.
#[derive(Clone, Copy, Debug)]
pub enum GpuEffect<V> {
    /// Writes to a shared array.
    StoreShared(Type, SharedPlace<V>, V),
    /// Begins a copy of so many bytes ([`Statement::StartCopy`]).
    StartCopy {
        /// Where to.
        to: SharedPlace<V>,
        /// Where from.
        from: Place<V>,
        /// How many.
        bytes: u8,
        /// Whether there is anything to copy.
        inside: V,
    },
    /// Ends a group of copies.
    CommitCopies,
    /// Waits for all groups of copies but the last so many.
    AwaitCopies(u8),
    /// Waits for the threads of the block.
    Barrier,
    /// Waits for the threads of all blocks.
    GridBarrier,
}

/// Emits the body of a function.
pub fn emit<B: ScalarBuilder>(function: &Function, builder: &mut B) {
    let values = vec![None; function.types.len()];
    let mut values = Values { target: values, divisors: Divisors::of(function) };
    block(function, &function.body, builder, &mut values);
}

/// The target's values by number, and what divides them.
struct Values<B: ScalarBuilder> {
    target: Vec<Option<B::Value>>,
    divisors: Divisors,
}

impl<B: ScalarBuilder> Values<B> {
    fn set(&mut self, id: ValueId, value: B::Value) {
        self.target[id.0 as usize] = Some(value);
    }

    fn place(&self, function: &Function, buffer: ParameterId, index: ValueId) -> Place<B::Value> {
        let (buffer, divisor) = (buffer.0 as usize, self.divisors.get(index));
        let parameter = &function.buffers[buffer];
        let (memory, length_divisor) = (parameter.dtype, parameter.divisor);
        Place { buffer, memory, index: get(self, index), divisor, length_divisor }
    }

    fn shared_place(&self, array: SharedId, index: ValueId) -> SharedPlace<B::Value> {
        SharedPlace { array: array.0 as usize, index: get(self, index), divisor: self.divisors.get(index) }
    }
}

/// The target's value; a missing definition is a compiler bug that the verifier reports first.
fn get<B: ScalarBuilder>(values: &Values<B>, id: ValueId) -> B::Value {
    values.target[id.0 as usize].expect("verified Kernel IR defines every value before its use")
}

fn block<B: ScalarBuilder>(function: &Function, body: &[Statement], builder: &mut B, values: &mut Values<B>) {
    for statement in body {
        match statement {
            Statement::Let { value, operation } => {
                let result = operate(function, function.ty(*value), operation, builder, values);
                values.set(*value, result);
            }
            Statement::Store { buffer, index, value } => {
                let place = values.place(function, *buffer, *index);
                builder.store(function.ty(*value), place, get::<B>(values, *value));
            }
            Statement::StoreShared { array, index, value } => {
                let place = values.shared_place(*array, *index);
                let value = (function.ty(*value), get::<B>(values, *value));
                builder.effect_on_gpu(GpuEffect::StoreShared(value.0, place, value.1));
            }
            Statement::StartCopy { array, to, buffer, from, bytes, inside } => {
                let to = values.shared_place(*array, *to);
                let from = values.place(function, *buffer, *from);
                let inside = get::<B>(values, *inside);
                builder.effect_on_gpu(GpuEffect::StartCopy { to, from, bytes: *bytes, inside });
            }
            Statement::CommitCopies => builder.effect_on_gpu(GpuEffect::CommitCopies),
            Statement::AwaitCopies { pending } => builder.effect_on_gpu(GpuEffect::AwaitCopies(*pending)),
            Statement::Barrier => builder.effect_on_gpu(GpuEffect::Barrier),
            Statement::GridBarrier => builder.effect_on_gpu(GpuEffect::GridBarrier),
            Statement::Prefetch { buffer, index } => {
                let memory = function.buffers[buffer.0 as usize].dtype;
                builder.prefetch(buffer.0 as usize, memory, get::<B>(values, *index));
            }
            Statement::For { counter, begin, end, step, carried, exchanged, body } => {
                let bounds =
                    Bounds { begin: get::<B>(values, *begin), end: get::<B>(values, *end), step: *step };
                let inits: Vec<_> =
                    carried.iter().map(|c| (function.ty(c.init), get::<B>(values, c.init))).collect();
                let exchanged: Vec<_> = exchanged.iter().map(|(a, b)| (a.0 as usize, b.0 as usize)).collect();
                let results =
                    builder.counted_loop(bounds, &inits, &exchanged, &mut |builder, position, current| {
                        values.set(*counter, position);
                        for (c, value) in carried.iter().zip(current) {
                            values.set(c.value, *value);
                        }
                        block(function, body, builder, values);
                        carried.iter().map(|c| get::<B>(values, c.next)).collect()
                    });
                for (c, result) in carried.iter().zip(results) {
                    values.set(c.result, result);
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
        Operation::Block => builder.on_gpu(GpuOperation::Block),
        Operation::Blocks => builder.on_gpu(GpuOperation::Blocks),
        Operation::Thread => builder.on_gpu(GpuOperation::Thread),
        Operation::Load { buffer, index } => builder.load(ty, values.place(function, *buffer, *index)),
        Operation::Butterfly(x, distance) => builder.on_gpu(GpuOperation::Butterfly(ty, value(x), *distance)),
        Operation::LoadShared { array, index } => {
            builder.on_gpu(GpuOperation::LoadShared(ty, values.shared_place(*array, *index)))
        }
        Operation::LoadMatrices { array, index, transposed } => {
            let place = values.shared_place(*array, *index);
            builder.on_gpu(GpuOperation::LoadMatrices(ty.lanes, place, *transposed))
        }
        Operation::MatrixFma { factors, left, right, sum } => {
            builder.on_gpu(GpuOperation::MatrixFma(*factors, [left, right, sum].map(value)))
        }
        Operation::Pair(dtype, x, y) => builder.on_gpu(GpuOperation::Pair(*dtype, [x, y].map(value))),
        Operation::Tf32(x) => builder.on_gpu(GpuOperation::Tf32(value(x))),
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
