//! Decoded instructions: operands are positions in a warp's registers, constants among them.

use super::arithmetic::{Comparison, Function};
use super::value::{Mode, Type};

/// A position in a register file of a warp.
pub(super) type Slot = u32;

/// A state space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Space {
    Generic,
    Global,
    Shared,
    /// Shared memory of the blocks of a cluster.
    Cluster,
    Local,
}

/// `[base + offset]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub base: Slot,
    pub offset: i64,
}

/// What a load or store moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    pub space: Space,
    pub ty: Type,
    /// Elements of a vector.
    pub count: u32,
    /// Whether it may meet other threads' accesses: relaxed, volatile, acquiring, releasing.
    pub atomic: bool,
    pub order: Order,
    /// The mask of the destination registers, for sign extension.
    pub destination: u64,
}

/// What an access orders between blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Order {
    pub acquires: bool,
    pub releases: bool,
}

/// What an atomic operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Atomic {
    Map(Function),
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

/// What is done with a barrier in shared memory, which counts arrivals in phases (`mbarrier`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Sets how many arrivals complete a phase.
    Begin { count: Slot },
    /// So many arrivals, after so many bytes more are awaited; leaves the phase that they belong to.
    Arrive { d: Option<Slot>, count: Option<Slot>, bytes: Option<Slot> },
    /// The phase awaits so many bytes more, or fewer.
    Await { bytes: Slot, arrived: bool },
    /// Asks whether a phase is complete: that of an arrival, or the last one of a parity.
    Ask { p: Slot, of: Slot, parity: bool },
    /// What was the barrier is memory again.
    End,
}

/// Logic of predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

/// A source predicate, possibly negated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Condition {
    pub slot: Slot,
    pub negated: bool,
}

/// How a comparison's result is combined and where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Test {
    pub comparison: Comparison,
    pub ty: Type,
    pub flush: bool,
    pub combine: Option<(Logic, Condition)>,
    pub a: Slot,
    pub b: Slot,
}

/// How lanes exchange values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// How a matrix operand lies in registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Product {
    /// The inner dimension; the outer ones are 16 and 8.
    pub k: u32,
    pub factors: Type,
    pub sum: Type,
}

/// What a warp group multiplies: 64 by `k`, `k` by `columns`, both in shared memory, into f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GroupProduct {
    pub columns: u32,
    pub k: u32,
    pub factors: Type,
    /// Whether the elements of each factor change their sign.
    pub negated: [bool; 2],
    /// Whether neighbours in each factor's memory differ in row or column, rather than along the summed axis.
    pub transposed: [bool; 2],
}

/// A decoded instruction.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Op {
    Map {
        f: Function,
        ty: Type,
        mode: Mode,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// Addition or subtraction with a carry in, out or both.
    Carry {
        subtract: bool,
        ty: Type,
        take: bool,
        give: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Convert {
        from: Type,
        to: Type,
        mode: Mode,
        /// The mask of the result's register, for sign extension.
        destination: u64,
        d: Slot,
        a: Slot,
    },
    /// Two values into the halves of a register, `a` into the upper one.
    ConvertPair {
        from: Type,
        to: Type,
        mode: Mode,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Test {
        test: Test,
        p: Option<Slot>,
        q: Option<Slot>,
    },
    /// A comparison as a number: all ones, or 1.0.
    TestValue {
        test: Test,
        one: u64,
        d: Slot,
    },
    Select {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Condition,
    },
    /// `a` where `c` is not negative.
    SelectSign {
        ty: Type,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Logic {
        f: Logic,
        d: Slot,
        a: Condition,
        b: Condition,
    },
    Move {
        d: Slot,
        a: Slot,
    },
    MovePredicate {
        d: Slot,
        a: Condition,
    },
    /// A value that grows each time the warp asks.
    Clock {
        d: Slot,
    },
    Pack {
        bits: u32,
        d: Slot,
        parts: Box<[Slot]>,
    },
    Unpack {
        bits: u32,
        parts: Box<[Option<Slot>]>,
        a: Slot,
    },
    Parameter {
        offset: u32,
        transfer: Transfer,
        d: Box<[Option<Slot>]>,
    },
    Load {
        transfer: Transfer,
        at: Address,
        d: Box<[Option<Slot>]>,
    },
    Store {
        transfer: Transfer,
        at: Address,
        values: Box<[Slot]>,
    },
    Atomic {
        f: Atomic,
        transfer: Transfer,
        at: Address,
        d: Option<Slot>,
        b: Slot,
        c: Slot,
    },
    /// A generic address to or from one in a space.
    ConvertAddress {
        to_generic: bool,
        space: Space,
        d: Slot,
        a: Slot,
    },
    IsSpace {
        space: Space,
        p: Slot,
        a: Slot,
    },
    /// An address in the shared memory of another block of the cluster (`mapa`).
    MapToBlock {
        d: Slot,
        a: Slot,
        rank: Slot,
    },
    /// The block whose shared memory an address lies in (`getctarank`).
    BlockOf {
        d: Slot,
        a: Slot,
    },
    /// Bytes copied from global to shared memory, at last when they are waited for.
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u32,
        /// How many bytes are read; the others become zero.
        given: Option<Slot>,
        /// Where it holds, none are.
        ignored: Option<Condition>,
    },
    CommitCopies,
    WaitCopies {
        pending: u32,
    },
    /// Bytes copied from global to shared memory, for which a barrier there waits.
    CopyBulk {
        to: Address,
        from: Address,
        bytes: Slot,
        barrier: Address,
    },
    LoadMatrix {
        at: Address,
        transposed: bool,
        d: Box<[Slot]>,
    },
    StoreMatrix {
        at: Address,
        transposed: bool,
        values: Box<[Slot]>,
    },
    /// What threads do with a barrier in shared memory.
    PhaseBarrier {
        f: Phase,
        at: Address,
    },
    MultiplyMatrix {
        product: Product,
        d: Box<[Slot]>,
        a: Box<[Slot]>,
        b: Box<[Slot]>,
        c: Box<[Slot]>,
    },
    /// Begins a product of the warp group, of factors that descriptors tell of; added to what is there where `adds` holds.
    MultiplyGroup {
        product: GroupProduct,
        d: Box<[Slot]>,
        a: Slot,
        b: Slot,
        adds: Condition,
    },
    /// Registers are ready for products of the warp group.
    GroupFence,
    /// The products since the last commit are a group.
    CommitProducts,
    /// Waits until no more than so many groups of products are under way.
    WaitProducts {
        pending: u32,
    },
    Shuffle {
        f: Shuffle,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    Vote {
        f: Vote,
        d: Slot,
        a: Condition,
        members: Slot,
    },
    Reduce {
        f: Function,
        ty: Type,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    Elect {
        d: Option<Slot>,
        p: Slot,
        members: Slot,
    },
    WarpBarrier {
        members: Slot,
    },
    /// Waits for, or only arrives at, barrier `id`; `count` threads where given.
    Barrier {
        id: Slot,
        count: Option<Slot>,
        waits: bool,
    },
    /// Arrives at the barrier of the cluster.
    ClusterArrive {
        releases: bool,
    },
    /// Waits until all threads of the cluster have arrived there, and acquires.
    ClusterWait,
    Branch {
        target: u32,
    },
    BranchTable {
        index: Slot,
        targets: Box<[u32]>,
    },
    Return,
    Trap,
    /// Acquires and releases, at the scope of the device or beyond.
    Fence,
    /// What threads did is seen through the asynchronous proxy.
    ProxyFence,
    /// Changes nothing here: narrower fences, prefetches, hints.
    Nothing,
}

/// What an instruction counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Category {
    Integer,
    Float,
    Convert,
    Move,
    Memory,
    Control,
}

impl Op {
    /// What the instruction counts as.
    pub fn category(&self) -> Category {
        match self {
            Op::Map { ty, .. } | Op::Reduce { ty, .. } => {
                if ty.is_float() {
                    Category::Float
                } else {
                    Category::Integer
                }
            }
            Op::MultiplyMatrix { .. } | Op::MultiplyGroup { .. } => Category::Float,
            Op::Carry { .. }
            | Op::Test { .. }
            | Op::TestValue { .. }
            | Op::Logic { .. }
            | Op::ConvertAddress { .. }
            | Op::IsSpace { .. }
            | Op::MapToBlock { .. }
            | Op::BlockOf { .. } => Category::Integer,
            Op::Convert { .. } | Op::ConvertPair { .. } => Category::Convert,
            Op::Select { .. }
            | Op::SelectSign { .. }
            | Op::Move { .. }
            | Op::MovePredicate { .. }
            | Op::Clock { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::Parameter { .. } => Category::Move,
            Op::Load { .. }
            | Op::Store { .. }
            | Op::Atomic { .. }
            | Op::CopyAsync { .. }
            | Op::CommitCopies
            | Op::WaitCopies { .. }
            | Op::CopyBulk { .. }
            | Op::LoadMatrix { .. }
            | Op::StoreMatrix { .. }
            | Op::PhaseBarrier { .. } => Category::Memory,
            Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::ActiveMask { .. }
            | Op::Elect { .. }
            | Op::WarpBarrier { .. }
            | Op::Barrier { .. }
            | Op::ClusterArrive { .. }
            | Op::ClusterWait
            | Op::Branch { .. }
            | Op::BranchTable { .. }
            | Op::Return
            | Op::Trap
            | Op::GroupFence
            | Op::CommitProducts
            | Op::WaitProducts { .. }
            | Op::Fence
            | Op::ProxyFence
            | Op::Nothing => Category::Control,
        }
    }
}

/// An instruction with its guard and its place in the text.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub op: Op,
    pub guard: Option<Condition>,
    pub category: Category,
    /// Where lanes that part here meet again; the number of instructions where they never do.
    pub meets: u32,
    pub line: u32,
    pub text: String,
    /// The registers that it names, but for the sums of a product of the warp group; only in kernels that have any.
    pub registers: Box<[Slot]>,
}

/// A value that the hardware provides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Special {
    Thread(usize),
    BlockSize(usize),
    Block(usize),
    GridSize(usize),
    Lane,
    Warp,
    Warps,
    /// Lanes equal to, below, up to, from, above one's own.
    LaneMask {
        below: bool,
        equal: bool,
        above: bool,
    },
    DynamicShared,
    TotalShared,
    Multiprocessor,
    Multiprocessors,
    /// What has a single value here: the number of the grid.
    Zero,
    BlockInCluster(usize),
    ClusterSize(usize),
    Cluster(usize),
    Clusters(usize),
    /// The block's number in its cluster, and how many there are.
    Rank,
    Ranks,
}

/// A kernel, decoded.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub name: String,
    /// Offset and bytes of each parameter.
    pub parameters: Vec<(u32, u32)>,
    pub code: Vec<Instruction>,
    pub registers: u32,
    pub predicates: u32,
    pub constants: Vec<(Slot, u64)>,
    pub specials: Vec<(Special, Slot)>,
    /// Bytes of shared memory that are declared with a size.
    pub shared: u64,
    /// Bytes of local memory a thread.
    pub local: u64,
    pub block: Option<([u32; 3], bool)>,
    /// Blocks of a cluster, where the kernel says it.
    pub cluster: Option<[u32; 3]>,
    /// The most blocks of a cluster, where the kernel says it.
    pub most_clustered: Option<u32>,
    /// Whether it has to be launched in clusters.
    pub is_explicit: bool,
    /// Whether it has instructions of clusters.
    pub is_clustered: bool,
    /// Whether it has products of warp groups.
    pub is_grouped: bool,
    /// The least access to shared memory in bytes, 4 at most.
    pub granule: u64,
}
