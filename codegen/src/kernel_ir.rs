//! Kernel IR: the typed loop nest that schedules make and emitters translate.
//!
//! A [`Function`] is one launch. It is in SSA form with structured control: every [`ValueId`] is defined once,
//! by a [`Statement::Let`], as the counter or a carried value of a [`Statement::For`], or as a result of one,
//! and is visible from there to the end of its block. Everything is legal for every target already:
//! transcendental functions were decomposed into the primitives below by [`crate::decompose`], narrow element
//! types were widened at loads and are narrowed at stores, index expressions were turned into 64-bit integer
//! arithmetic. An emitter only walks it ([`crate::scalar`]).
//!
//! # Register types
//! A register holds 1 or more lanes of f32, f64, i32, i64 or bool. In memory u8 and bool take a byte, f16 and
//! bf16 two: a load of one of them gives its bits zero-extended to i32, a store takes the low bits of an i32.
//!
//! # Work
//! The iteration space is cut into [`Function::work`] independent work items. With [`Mapping::Range`] one call
//! handles the items from [`Operation::WorkBegin`] to [`Operation::WorkEnd`] (the runtime gives each
//! thread of a team a range); with [`Mapping::Threads`] each GPU thread handles the item
//! [`Operation::WorkItem`], and items past the end must be masked by the body; with [`Mapping::Blocks`] each block of
//! GPU threads handles the item [`Operation::Block`], its threads telling apart by [`Operation::Thread`] what each of
//! them does.
//!
//! # Threads of a block
//! share [`Function::shared`] memory, which begins unwritten, and meet at [`Statement::Barrier`]: what was stored before
//! it is there for all threads after it, and for what their warp groups multiply. All blocks of a [`Mapping::Resident`] launch run at the same time and
//! meet at [`Statement::GridBarrier`], which does the same for buffers. A barrier is reached by all threads of a block
//! (or of all blocks) or by none. Blocks of a cluster ([`Mapping::Clusters`]) write to each other's shared arrays and meet
//! in two parts, [`Statement::ClusterArrive`] and [`Statement::ClusterWait`], with something else to do between. Loads of shared arrays, and of buffers that the function also writes
//! ([`Access::ReadWrite`]), are worth what memory holds when they run; they stay where they are.

use fuse_ir::expr::{Dim, Symbol};
use fuse_ir::kernel::BufferId;
use fuse_ir::{DType, Literal};

/// The type of one lane of a register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LaneType {
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// 32-bit integer; signedness is in the operation.
    I32,
    /// 64-bit integer.
    I64,
    /// True or false.
    Bool,
}

impl LaneType {
    /// The register type that an element type in memory is loaded to.
    pub fn of_memory(dtype: DType) -> LaneType {
        match dtype {
            DType::F32 => LaneType::F32,
            DType::F64 => LaneType::F64,
            DType::F16 | DType::Bf16 | DType::I32 | DType::U8 | DType::Bool => LaneType::I32,
            DType::I64 => LaneType::I64,
        }
    }

    /// The name in text forms.
    pub fn name(self) -> &'static str {
        match self {
            LaneType::F32 => "f32",
            LaneType::F64 => "f64",
            LaneType::I32 => "i32",
            LaneType::I64 => "i64",
            LaneType::Bool => "bool",
        }
    }

    /// Bytes of an element in shared memory, which holds no bools.
    pub fn bytes(self) -> u32 {
        match self {
            LaneType::F64 | LaneType::I64 => 8,
            LaneType::F32 | LaneType::I32 | LaneType::Bool => 4,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, LaneType::F32 | LaneType::F64)
    }
}

/// The type of a register: `f32`, `f32x4`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Type {
    /// The type of each lane.
    pub lane: LaneType,
    /// The number of lanes; 1 is a scalar.
    pub lanes: u8,
}

impl Type {
    /// A scalar.
    pub fn scalar(lane: LaneType) -> Type {
        Type { lane, lanes: 1 }
    }

    /// The same lanes of another type.
    pub fn with_lane(self, lane: LaneType) -> Type {
        Type { lane, lanes: self.lanes }
    }
}

/// An SSA value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueId(pub u32);

/// An array in the shared memory of a block, by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SharedId(pub u32);

/// A buffer parameter, by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ParameterId(pub u32);

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
}

/// What a [`Statement::Let`] computes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// The same constant in every lane. The literal's element type is that of the lanes.
    Constant(Literal),
    /// A runtime integer (i64), by position in [`Function::symbols`].
    Symbol(u32),
    /// The first work item of this call (i64); [`Mapping::Range`] only.
    WorkBegin,
    /// One past the last work item of this call (i64); [`Mapping::Range`] only.
    WorkEnd,
    /// The work item of this thread (i64), possibly past the end; [`Mapping::Threads`] only.
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
    /// factors. For these, [`Statement::Barrier`] is what it is for loads.
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

/// A value that a loop carries from one iteration to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carried {
    /// The value within the body.
    pub value: ValueId,
    /// Its value in the first iteration.
    pub init: ValueId,
    /// Its value in the next iteration; defined in the body.
    pub next: ValueId,
    /// The value after the loop.
    pub result: ValueId,
}

/// A product of rows with panels of columns, `to[r, j] = Σ_k left[r, k] · panel[k, j]`, of f32. Each sum begins with 0, goes
/// up in `k` and rounds once for each `k`.
#[derive(Clone, PartialEq, Debug)]
pub struct PanelProduct {
    /// The number of rows (i64).
    pub rows: ValueId,
    /// The number of elements summed up (i64).
    pub count: ValueId,
    /// Whose rows are contiguous.
    pub left: ParameterId,
    /// The row-major position of the first row's first element (i64).
    pub from: ValueId,
    /// From one row to the next in `left` (i64).
    pub left_step: ValueId,
    /// The columns of a panel.
    pub width: u32,
    /// How a panel lies in memory.
    pub layout: PanelLayout,
    /// From one row to the next in what is written (i64).
    pub to_step: ValueId,
    /// The panels.
    pub columns: Vec<PanelColumns>,
}

/// How far apart the elements of a panel are; one of the two is 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PanelLayout {
    /// From one `k` to the next.
    pub along: u32,
    /// From one column to the next.
    pub across: u32,
}

/// A panel, and where its columns of the result go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PanelColumns {
    /// The buffer that has the panel.
    pub panel: ParameterId,
    /// The row-major position of its first element (i64).
    pub at: ValueId,
    /// The buffer that is written.
    pub to: ParameterId,
    /// The row-major position of the first row's first element (i64).
    pub to_index: ValueId,
}

/// A statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    /// Defines a value.
    Let {
        /// The value.
        value: ValueId,
        /// What it is.
        operation: Operation,
    },
    /// Writes the lanes of a value to consecutive elements.
    Store {
        /// The buffer.
        buffer: ParameterId,
        /// The row-major position of the first element (i64).
        index: ValueId,
        /// What is written.
        value: ValueId,
    },
    /// Writes the lanes of a value to consecutive elements of a shared array.
    StoreShared {
        /// The array.
        array: SharedId,
        /// The position of the first element (i64).
        index: ValueId,
        /// What is written.
        value: ValueId,
    },
    /// Begins to copy bytes from a buffer to a shared array. They are there for this thread after [`Statement::AwaitCopies`],
    /// for others once they have met it after that.
    StartCopy {
        /// The array, of i32.
        array: SharedId,
        /// The position of the first element there (i64), at a multiple of `bytes`.
        to: ValueId,
        /// The buffer, which the function does not write.
        buffer: ParameterId,
        /// The row-major position of the first element (i64), at a multiple of `bytes`.
        from: ValueId,
        /// How many bytes: 4, 8 or 16.
        bytes: u8,
        /// Whether (bool) there is anything to copy; otherwise zeros are written and the buffer is not read.
        inside: ValueId,
    },
    /// Ends a group of copies: those that this thread began since the last group ended, perhaps none.
    CommitCopies,
    /// Waits for the copies of all groups of this thread but the last so many.
    AwaitCopies {
        /// How many groups may still be on their way.
        pending: u8,
    },
    /// Where the threads of a block meet.
    Barrier,
    /// Where the threads of all blocks meet; [`Mapping::Resident`] only.
    GridBarrier,
    /// Writes the lanes of a value to consecutive elements of the array that another block of the cluster has, or this one;
    /// [`Mapping::Clusters`] only. That block has to be there: it has arrived at the barrier of the cluster before, and
    /// waits there later.
    StoreCluster {
        /// The array.
        array: SharedId,
        /// The position of the first element (i64).
        index: ValueId,
        /// What is written.
        value: ValueId,
        /// The number of the block in its cluster (i64), below that of the cluster's blocks.
        block: ValueId,
    },
    /// All threads of the cluster arrive: what they did before is there, in shared memory and in buffers, for those that
    /// have waited for it. [`Mapping::Clusters`] only.
    ClusterArrive,
    /// Waits until all threads of the cluster have arrived; once after each arrival.
    ClusterWait,
    /// Asks for the memory at an element, which need not be one of the buffer, to come closer. No more than a hint.
    Prefetch {
        /// The buffer.
        buffer: ParameterId,
        /// The row-major position (i64).
        index: ValueId,
    },
    /// Writes a product; [`Mapping::Range`] only. Not what LLVM emits: it has the loops themselves.
    Product(PanelProduct),
    /// Runs the body for `counter = begin, begin + step, …` while below `end`.
    For {
        /// The counter (i64), visible in the body.
        counter: ValueId,
        /// Its first value (i64).
        begin: ValueId,
        /// The bound (i64).
        end: ValueId,
        /// The increment, at least 1.
        step: i64,
        /// Carried values.
        carried: Vec<Carried>,
        /// Pairs of buffers that trade places after each iteration.
        exchanged: Vec<(ParameterId, ParameterId)>,
        /// The body.
        body: Vec<Statement>,
    },
    /// Runs the body if the condition (a bool scalar) holds.
    If {
        /// The condition.
        condition: ValueId,
        /// The body.
        body: Vec<Statement>,
    },
}

impl Statement {
    /// What a loop or a condition runs; empty for others.
    pub fn body(&self) -> &[Statement] {
        match self {
            Statement::For { body, .. } | Statement::If { body, .. } => body,
            Statement::Let { .. }
            | Statement::Store { .. }
            | Statement::StoreShared { .. }
            | Statement::StartCopy { .. }
            | Statement::CommitCopies
            | Statement::AwaitCopies { .. }
            | Statement::Barrier
            | Statement::GridBarrier
            | Statement::StoreCluster { .. }
            | Statement::ClusterArrive
            | Statement::ClusterWait
            | Statement::Prefetch { .. }
            | Statement::Product(_) => &[],
        }
    }
}

/// Whether a buffer parameter is read or written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Only loaded from.
    Read,
    /// Only stored to.
    Write,
    /// Both, by the steps of a loop ([`Mapping::Resident`] and [`Mapping::Clusters`] only).
    ReadWrite,
}

/// A buffer parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct BufferParameter {
    /// Its name, for people.
    pub name: String,
    /// The element type in memory.
    pub dtype: DType,
    /// Read or written.
    pub access: Access,
    /// The buffer of the kernel graph that the launcher passes.
    pub buffer: BufferId,
    /// A power of two that divides its number of elements whatever the symbols, at most 16.
    pub divisor: u32,
}

impl BufferParameter {
    /// The parameter for a buffer as it is declared in a kernel graph.
    pub fn new(id: BufferId, declared: &fuse_ir::kernel::Buffer, access: Access) -> BufferParameter {
        let (name, dtype) = (declared.name.clone(), declared.ty.dtype);
        BufferParameter {
            name,
            dtype,
            access,
            buffer: id,
            divisor: crate::divisors::of_extents(&declared.ty.shape),
        }
    }
}

/// How work items are spread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mapping {
    /// A call handles a range of items: `fn(buffers: *const *mut u8, symbols: *const i64, begin: i64, end: i64)`.
    Range,
    /// One GPU thread an item, `block` threads a block: `fn(buffer pointers…, symbols as i64…)`.
    Threads {
        /// Threads a block.
        block: u32,
    },
    /// One block of GPU threads an item: `fn(buffer pointers…, symbols as i64…)`.
    Blocks {
        /// Threads a block.
        threads: u32,
    },
    /// As many blocks of GPU threads as items, all of which run at the same time:
    /// `fn(buffer pointers…, symbols as i64…, barrier)`, where `barrier` points to a 32-bit counter that is 0.
    Resident {
        /// Threads a block.
        threads: u32,
    },
    /// One block of GPU threads an item, some of which are a cluster: they run at the same time, and reach each other's
    /// shared memory. `fn(buffer pointers…, symbols as i64…)`.
    Clusters {
        /// Threads a block.
        threads: u32,
        /// Blocks of a cluster, which divide the work; 8 at most, a power of two.
        blocks: u32,
    },
}

impl Mapping {
    /// The threads of a block; `None` on a CPU.
    pub fn block_threads(self) -> Option<u32> {
        match self {
            Mapping::Range => None,
            Mapping::Threads { block: threads }
            | Mapping::Blocks { threads }
            | Mapping::Resident { threads }
            | Mapping::Clusters { threads, .. } => Some(threads),
        }
    }

    /// Whether blocks, rather than threads, are given items.
    pub fn is_by_block(self) -> bool {
        matches!(self, Mapping::Blocks { .. } | Mapping::Resident { .. } | Mapping::Clusters { .. })
    }

    /// The blocks of a launch of `work` items; 1 on a CPU.
    pub fn blocks(self, work: u64) -> u64 {
        match self {
            Mapping::Range => 1,
            Mapping::Threads { block } => work.div_ceil(u64::from(block.max(1))),
            Mapping::Blocks { .. } | Mapping::Resident { .. } | Mapping::Clusters { .. } => work,
        }
    }

    /// Blocks of a cluster; `None` where there are none.
    pub fn cluster_blocks(self) -> Option<u32> {
        match self {
            Mapping::Clusters { blocks, .. } => Some(blocks),
            Mapping::Range | Mapping::Threads { .. } | Mapping::Blocks { .. } | Mapping::Resident { .. } => {
                None
            }
        }
    }
}

/// An array in the shared memory of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedArray {
    /// Its name, for people.
    pub name: String,
    /// What its elements are; no bools.
    pub lane: LaneType,
    /// How many.
    pub elements: u32,
}

impl SharedArray {
    /// Its size in bytes, whole vectors of 16.
    pub fn bytes(&self) -> u32 {
        self.elements.saturating_mul(self.lane.bytes()).saturating_add(15) & !15
    }
}

/// One launch.
#[derive(Clone, PartialEq, Debug)]
pub struct Function {
    /// The entry point's name, an identifier.
    pub name: String,
    /// The buffers.
    pub buffers: Vec<BufferParameter>,
    /// The runtime integers, ascending by name.
    pub symbols: Vec<Symbol>,
    /// The number of work items, over `symbols`.
    pub work: Dim,
    /// How they are spread.
    pub mapping: Mapping,
    /// What the threads of a block share, one array behind the other.
    pub shared: Vec<SharedArray>,
    /// The type of every value.
    pub types: Vec<Type>,
    /// What runs.
    pub body: Vec<Statement>,
}

impl Function {
    /// The type of a value.
    ///
    /// # Panics
    /// If the value is of another function.
    pub fn ty(&self, value: ValueId) -> Type {
        self.types[value.0 as usize]
    }

    /// Its products with panels.
    pub fn products(&self) -> Vec<&PanelProduct> {
        fn find<'f>(body: &'f [Statement], out: &mut Vec<&'f PanelProduct>) {
            for statement in body {
                match statement {
                    Statement::Product(product) => out.push(product),
                    other => find(other.body(), out),
                }
            }
        }
        let mut products = Vec::new();
        find(&self.body, &mut products);
        products
    }

    /// The bytes of shared memory that a block takes.
    pub fn shared_bytes(&self) -> u32 {
        self.shared.iter().fold(0, |sum, array| sum.saturating_add(array.bytes()))
    }
}
