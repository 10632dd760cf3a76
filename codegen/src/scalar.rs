//! One walk over Kernel IR, many emitters.
//!
//! [`emit`] visits a [`crate::kernel_ir::Function`] once and asks a [`ScalarBuilder`] for each primitive; the builder is
//! implemented once for Cranelift and once for LLVM. Nothing else translates an operation.

mod operations;
mod walk;

use fuse_ir::{DType, Literal};

use crate::kernel_ir::{
    BinaryOp, Condition, Conversion, LaneType, MatrixFactors, PanelLayout, Type, UnaryOp,
};
use crate::straight::Straight;
pub use walk::{emit, emit_in};

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
    /// Writes a product with panels ([`crate::kernel_ir::Statement::Product`]); only for builders of code for the fast
    /// tier.
    fn product(&mut self, product: Product<Self::Value>);
    /// A primitive of one operand.
    fn unary(&mut self, op: UnaryOp, ty: Type, x: Self::Value) -> Self::Value;
    /// A primitive of two operands.
    fn binary(&mut self, op: BinaryOp, ty: Type, x: Self::Value, y: Self::Value) -> Self::Value;
    /// [`ScalarBuilder::binary`] of i32 scalars that does not wrap; perhaps it is known that both are at least 0.
    fn binary_of_indices(
        &mut self,
        op: BinaryOp,
        _are_natural: bool,
        [x, y]: [Self::Value; 2],
    ) -> Self::Value {
        self.binary(op, NARROW, x, y)
    }
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
    /// Whether it writes pieces of straight code down as they are ([`ScalarBuilder::straight`]).
    fn writes_straight(&self) -> bool {
        false
    }
    /// Puts so many f32 into registers of their own, where they stay while pieces of straight code change them.
    fn keep(&mut self, _values: Vec<Self::Value>) -> Kept {
        unreachable!("only a builder that says so is given straight code")
    }
    /// What such registers hold now.
    fn kept(&mut self, _kept: Kept) -> Vec<Self::Value> {
        unreachable!("only a builder that says so is given straight code")
    }
    /// Writes such a piece, and gives its sums unless they are kept.
    fn straight(&mut self, _code: &Straight, _around: Around<Self::Value>) -> Vec<Self::Value> {
        unreachable!("only a builder that says so is given straight code")
    }
    /// A counted loop with carried values and pairs of buffers that are `exchanged` after each iteration; `body` gets
    /// the counter and the carried values and returns the next ones. Returns the carried values after the loop.
    fn counted_loop(
        &mut self,
        bounds: Bounds<Self::Value>,
        carried: &[(Type, Self::Value)],
        exchanged: &[(usize, usize)],
        body: &mut LoopBody<'_, Self>,
    ) -> Vec<Self::Value>;
    /// Runs `body` if the condition holds. Returns its values, or those given where it did not run.
    fn if_then(
        &mut self,
        condition: Self::Value,
        otherwise: &[(Type, Self::Value)],
        body: &mut dyn FnMut(&mut Self) -> Vec<Self::Value>,
    ) -> Vec<Self::Value>;
}

/// The body of a counted loop: from the counter and the carried values to the next carried values.
pub type LoopBody<'a, B> = dyn FnMut(
        &mut B,
        <B as ScalarBuilder>::Value,
        &[<B as ScalarBuilder>::Value],
    ) -> Vec<<B as ScalarBuilder>::Value>
    + 'a;

/// The range of a counted loop: `begin, begin + step, …` while below `end`; both i64, or both i32, as is the counter.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<V> {
    /// The first value of the counter.
    pub begin: V,
    /// The bound.
    pub end: V,
    /// The increment, at least 1.
    pub step: i64,
    /// Whether it is known that `begin` is below `end`.
    pub is_entered: bool,
    /// Whether the counter, where it is below `end` once, is `end` after the last step.
    pub meets_end: bool,
    /// Whether iterations are to stay one by one.
    pub stays_rolled: bool,
}

/// Consecutive elements of a buffer parameter.
#[derive(Clone, Copy, Debug)]
pub struct Place<V> {
    /// The position of the parameter.
    pub buffer: usize,
    /// The element type in memory.
    pub memory: DType,
    /// What `index` is counted from (i32), if not from the first element: what stays while the innermost loop runs.
    pub origin: Option<V>,
    /// The first element (i64 or i32).
    pub index: V,
    /// A power of two that divides the position.
    pub divisor: u32,
    /// A power of two that divides the number of elements of the buffer.
    pub length_divisor: u32,
}

/// Consecutive elements of a shared array.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlace<V> {
    /// The position of the array.
    pub array: usize,
    /// The first element (i64 or i32).
    pub index: V,
    /// A power of two that divides `index`.
    pub divisor: u32,
}

/// Registers of their own for so many f32 ([`ScalarBuilder::keep`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The number of the group of registers in the function.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

/// The sums of a piece of straight code.
#[derive(Clone, Debug)]
pub enum Sums<V> {
    /// What they begin with.
    Values(Vec<V>),
    /// They are in registers of their own, in this order.
    Kept(Kept),
}

/// What a piece of straight code finds, in values of a target.
#[derive(Clone, Debug)]
pub struct Around<V> {
    /// What [`Straight::bases`] are.
    pub bases: Vec<SharedPlace<V>>,
    /// Its sums.
    pub sums: Sums<V>,
    /// What else is given to it.
    pub given: Vec<V>,
}

/// [`crate::kernel_ir::GroupFactor`] in values of a target.
#[derive(Clone, Copy, Debug)]
pub struct GroupPlace<V> {
    /// The first line.
    pub place: SharedPlace<V>,
    /// Whether lines are places along the summed axis.
    pub transposed: bool,
}

/// [`crate::kernel_ir::PanelProduct`] in values of a target, all i64.
#[derive(Clone, Debug)]
pub struct Product<V> {
    /// The number of rows.
    pub rows: V,
    /// The number of elements summed up.
    pub count: V,
    /// Whose rows are contiguous, by position of the parameter, and the first element.
    pub left: (usize, V),
    /// From one row to the next there.
    pub left_step: V,
    /// The columns of a panel.
    pub width: u32,
    /// How a panel lies in memory.
    pub layout: PanelLayout,
    /// From one row to the next in what is written.
    pub to_step: V,
    /// Panels and where they go, each by position of the parameter and the first element.
    pub columns: Vec<[(usize, V); 2]>,
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
    /// So many matrices from a shared array, transposed or not ([`crate::kernel_ir::Operation::LoadMatrices`]).
    LoadMatrices(u8, SharedPlace<V>, bool),
    /// [`crate::kernel_ir::Operation::MatrixFma`] of fragments of two matrices of these factors, and of the sums.
    MatrixFma(MatrixFactors, [V; 3]),
    /// [`crate::kernel_ir::Operation::GroupFma`] of two factors of these, and of the sums, which are of that type.
    GroupFma(MatrixFactors, [GroupPlace<V>; 2], Type, V),
    /// Two f32 as 16-bit floats of this type ([`crate::kernel_ir::Operation::Pair`]).
    Pair(DType, [V; 2]),
    /// An f32 with fewer bits ([`crate::kernel_ir::Operation::Tf32`]).
    Tf32(V),
    /// The value of the thread whose number differs by the bits of the distance.
    Butterfly(Type, V, u8),
}

/// What only threads of a GPU do.
#[derive(Clone, Copy, Debug)]
pub enum GpuEffect<V> {
    /// Writes to a shared array.
    StoreShared(Type, SharedPlace<V>, V),
    /// Begins a copy of so many bytes ([`crate::kernel_ir::Statement::StartCopy`]).
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
    /// Writes to a shared array of the block of that number (i32) in the cluster.
    StoreCluster(Type, SharedPlace<V>, V, V),
    /// Arrives where the cluster meets.
    ClusterArrive,
    /// Waits there for all others.
    ClusterWait,
}

/// What indices are where 32 bits suffice.
const NARROW: Type = Type { lane: LaneType::I32, lanes: 1 };

/// What they are in Kernel IR.
const WIDE: Type = Type { lane: LaneType::I64, lanes: 1 };

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
