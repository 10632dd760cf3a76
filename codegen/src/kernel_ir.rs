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

mod operation;

use fuse_ir::DType;
use fuse_ir::expr::{Dim, Symbol};
use fuse_ir::kernel::BufferId;

pub use operation::{BinaryOp, Condition, Conversion, GroupFactor, MatrixFactors, Operation, UnaryOp};

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

    /// Whether it, or one that it runs, is such.
    pub fn any(&self, is: &dyn Fn(&Statement) -> bool) -> bool {
        is(self) || self.body().iter().any(|statement| statement.any(is))
    }

    /// What it computes, if it defines a value.
    pub fn operation(&self) -> Option<&Operation> {
        if let Statement::Let { operation, .. } = self { Some(operation) } else { None }
    }

    /// Whether it, or one that it runs, multiplies matrices.
    pub fn multiplies_matrices(&self) -> bool {
        let is_product =
            |o: &Operation| matches!(o, Operation::MatrixFma { .. } | Operation::GroupFma { .. });
        self.any(&|statement| statement.operation().is_some_and(is_product))
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

    /// Whether a launch runs all steps of a loop over time.
    pub fn is_of_steps(self) -> bool {
        matches!(self, Mapping::Resident { .. } | Mapping::Clusters { .. })
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

    /// Whether it multiplies matrices, on tensor cores where there are some.
    pub fn multiplies_matrices(&self) -> bool {
        self.body.iter().any(Statement::multiplies_matrices)
    }

    /// The bytes of shared memory that a block takes.
    pub fn shared_bytes(&self) -> u32 {
        self.shared.iter().fold(0, |sum, array| sum.saturating_add(array.bytes()))
    }
}
