//! What a statement computes.

use fuse_ir::{DType, Literal};

use super::{ParameterId, SharedId, ValueId};

/// A primitive of one operand; the operand and the result have one type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnaryOp {
    /// Flips the sign (floats), two's complement negation (integers).
    Neg,
    /// Clears the sign; floats only.
    Abs,
    /// Correctly rounded; floats only.
    Sqrt,
    /// Rounds down; floats only.
    Floor,
    /// Rounds up; floats only.
    Ceil,
    /// Rounds towards zero; floats only.
    Trunc,
    /// Rounds to nearest, ties to even; floats only.
    Nearest,
    /// Logical (bool) or bitwise (integers).
    Not,
}

/// A primitive of two operands of the type of the result. The shifts take their distance modulo the width.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BinaryOp {
    /// Sum; integers wrap.
    Add,
    /// Difference; integers wrap.
    Sub,
    /// Product; integers wrap.
    Mul,
    /// Quotient, correctly rounded; floats only.
    Div,
    /// The smaller; floats: NaN if either is, -0 below 0; integers signed.
    Min,
    /// The larger; floats: NaN if either is, 0 above -0; integers signed.
    Max,
    /// Truncated signed quotient. The divisor is neither 0 nor, for the least dividend, -1: whoever makes this
    /// operation has seen to it.
    IntDiv,
    /// Remainder of [`BinaryOp::IntDiv`], with the sign of the dividend; same conditions.
    IntRem,
    /// Bitwise (integers) or logical (bool).
    And,
    /// Bitwise or logical.
    Or,
    /// Bitwise or logical.
    Xor,
    /// Shifts left; integers.
    ShiftLeft,
    /// Shifts right, zeros in; integers.
    ShiftRightLogical,
    /// Shifts right, sign bits in; integers.
    ShiftRightArithmetic,
}

/// A comparison: ordered for floats except that `Ne` holds for NaN; signed for integers; bools are equal or
/// not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Condition {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Below.
    Lt,
    /// Below or equal.
    Le,
    /// Above.
    Gt,
    /// Above or equal.
    Ge,
}

/// A conversion between lane types; the number of lanes stays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Conversion {
    /// f32 ↔ f64, rounding to nearest even.
    FloatToFloat,
    /// Signed integer to float, rounding to nearest even.
    IntToFloat,
    /// Float to signed integer, truncating and saturating; NaN to 0.
    FloatToInt,
    /// i32 → i64 with sign, i64 → i32 by dropping bits.
    IntToInt,
    /// i32 → i64 without sign.
    ZeroExtend,
    /// The same bits: f32 ↔ i32, f64 ↔ i64.
    Bitcast,
    /// bool → i32 as 0 or 1.
    BoolToInt,
    /// An IEEE binary16 in the low half of an i32 whose high half is 0 → f32, exactly; of a NaN the bits are not
    /// specified.
    HalfToFloat,
}

/// What the factors of a product of matrices are, which tensor cores multiply. Each lies in 32-bit words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MatrixFactors {
    /// IEEE binary16, two a word.
    F16,
    /// bfloat16, two a word.
    Bf16,
    /// f32 with a significand of 11 bits ([`Operation::Tf32`]), one a word.
    Tf32,
}

impl MatrixFactors {
    /// The 16-bit floats of that type, or f32 as tf32; `None` for other types.
    pub fn of(dtype: DType) -> Option<MatrixFactors> {
        match dtype {
            DType::F16 => Some(MatrixFactors::F16),
            DType::Bf16 => Some(MatrixFactors::Bf16),
            DType::F32 => Some(MatrixFactors::Tf32),
            DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => None,
        }
    }

    /// How many a word of 32 bits holds.
    pub fn per_word(self) -> i64 {
        match self {
            MatrixFactors::F16 | MatrixFactors::Bf16 => 2,
            MatrixFactors::Tf32 => 1,
        }
    }
}

/// A factor of a product of a warp group in shared memory: lines of 128 bytes, each in 8 chunks of 16, of which chunk `c` of
/// line `l` is where chunk `c xor (l mod 8)` would be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupFactor {
    /// The array, of i32, which begins at a multiple of [`GroupFactor::ALIGNMENT`] bytes of the block's shared memory.
    pub array: SharedId,
    /// The position of the first line (i64), at a multiple of as many bytes.
    pub index: ValueId,
    /// What lines are: rows of `A` or columns of `B`, of 128 bytes along the summed axis; or, transposed, 64 of the places
    /// along the summed axis, of 64 rows or columns in 16-bit floats, and behind these as many of the next 64 rows or columns.
    pub transposed: bool,
}

impl GroupFactor {
    /// Bytes that 8 lines take, after which chunks change places in the same way again.
    pub const ALIGNMENT: u32 = 1024;
    /// Bytes of a line.
    pub const LINE: u32 = 128;
    /// Rows and columns that a transposed factor has side by side.
    pub const SIDE: u32 = 64;
    /// Threads of a warp group.
    pub const THREADS: u32 = 128;
}

/// What a [`Statement::Let`](super::Statement::Let) computes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// The same constant in every lane. The literal's element type is that of the lanes.
    Constant(Literal),
    /// A runtime integer (i64), by position in [`Function::symbols`](super::Function::symbols).
    Symbol(u32),
    /// The first work item of this call (i64); [`Mapping::Range`](super::Mapping::Range) only.
    WorkBegin,
    /// One past the last work item of this call (i64); [`Mapping::Range`](super::Mapping::Range) only.
    WorkEnd,
    /// The work item of this thread (i64), possibly past the end; [`Mapping::Threads`](super::Mapping::Threads) only.
    WorkItem,
    /// The number of this block (i64); of blocks only.
    Block,
    /// How many blocks there are (i64); of blocks only.
    Blocks,
    /// The number of this thread within its block (i64); of blocks only.
    Thread,
    /// Reads as many consecutive elements as the value has lanes, from element `index` (i64) on.
    Load {
        /// The buffer.
        buffer: ParameterId,
        /// The row-major position of the first element.
        index: ValueId,
    },
    /// Reads as many consecutive elements of a shared array as the value has lanes, from element `index` (i64) on.
    LoadShared {
        /// The array.
        array: SharedId,
        /// The position of the first element.
        index: ValueId,
    },
    /// Matrices of 8 lines by 16 bytes, one a lane of the value (i32; 1, 2 or 4 of them), read by the 32 threads of a warp
    /// together: line `l` of matrix `m` begins where thread `8·m + l` says, at a multiple of 16 bytes. Thread `4·r + c`
    /// gets word `c` of line `r`, or, transposed, the 16-bit halves `r` of the lines `2·c` and `2·c + 1`.
    LoadMatrices {
        /// The array, of i32.
        array: SharedId,
        /// The position of this thread's line; of threads that have none, any position.
        index: ValueId,
        /// Whether 16-bit elements change places.
        transposed: bool,
    },
    /// Two f32 rounded to nearest even to [`DType::F16`] or [`DType::Bf16`], the first in the low half of an i32.
    Pair(DType, ValueId, ValueId),
    /// An f32 rounded to a significand of 11 bits, ties away from zero, as its bits (i32).
    Tf32(ValueId),
    /// `A·B + C` of matrices that the 32 threads of a warp hold together: 16 by 8 words times 8 words by 8. Each thread
    /// has fragments of them, as those of `mma.m16n8k16` for 16-bit factors and `mma.m16n8k8` for tf32 (PTX ISA, "Matrix
    /// fragments for mma"): thread `4·r + c` of a warp has
    ///
    /// * of `A` (i32x4) the words `c` along k of row `r` and of row `r + 8`, then the words `c + 4` of the same;
    /// * of `B` (i32x2) the words `c` and `c + 4` along k of column `r`;
    /// * of `C` and the result (f32x4) the columns `2·c` and `2·c + 1` of row `r`, then of row `r + 8`.
    ///
    /// Products are exact; in which order they are added, and with how many bits more than an f32 has, is the
    /// machine's choice. All threads of a warp compute it together.
    MatrixFma {
        /// What the words of `left` and `right` hold.
        factors: MatrixFactors,
        /// `A`.
        left: ValueId,
        /// `B`.
        right: ValueId,
        /// `C`.
        sum: ValueId,
    },
    /// `A·B + C` of matrices that the 128 threads of a warp group, from a multiple of 128 on, hold together: 64 rows by 128
    /// bytes of factors, times as many bytes by twice as many columns as the value has lanes. `A` and `B` lie in shared
    /// memory ([`GroupFactor`]). Thread `128·g + 32·w + 4·r + c` has of `C` and the result (f32 in 4 to 128 lanes), for the
    /// rows `16·w` to `16·w + 15`, what threads of a warp have of products side by side ([`Operation::MatrixFma`]): the
    /// columns `8·j + 2·c` and `8·j + 2·c + 1` of row `r`, then of row `r + 8`, for each `j`.
    ///
    /// What is said there of products and sums holds here. All threads of a group compute it together, and of the same
    /// factors. For these, [`Statement::Barrier`](super::Statement::Barrier) is what it is for loads.
    GroupFma {
        /// What the words of `left` and `right` hold.
        factors: MatrixFactors,
        /// `A`.
        left: GroupFactor,
        /// `B`.
        right: GroupFactor,
        /// `C`.
        sum: ValueId,
    },
    /// The value (a scalar of 32 bits) of the thread whose number differs by the bits of the distance, from 1 to 31. All
    /// threads of a warp compute it together.
    Butterfly(ValueId, u8),
    /// A primitive of one operand.
    Unary(UnaryOp, ValueId),
    /// A primitive of two operands.
    Binary(BinaryOp, ValueId, ValueId),
    /// `a·b + c`, rounded once; floats.
    Fma(ValueId, ValueId, ValueId),
    /// A comparison, bool in as many lanes.
    Compare(Condition, ValueId, ValueId),
    /// The second where the first (bool, as many lanes) holds, otherwise the third.
    Select(ValueId, ValueId, ValueId),
    /// A conversion to the value's lane type.
    Convert(Conversion, ValueId),
    /// A scalar in every lane.
    Splat(ValueId),
    /// The lanes `0, 1, 2, …` (i32) or the scalar 0.
    LaneIndex,
    /// One lane of a vector as a scalar.
    Extract(ValueId, u8),
    /// A vector (the first) with one lane replaced by a scalar (the second).
    Insert(ValueId, ValueId, u8),
}
