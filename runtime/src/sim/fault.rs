//! What the simulator reports of a kernel that does something wrong.

use std::fmt;

/// A mistake of a kernel, found where one of its threads made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{kernel}`, PTX line {line} `{text}`, block {block:?}, thread {thread:?}: {problem}")]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// The line of the instruction, from 1.
    pub line: u32,
    /// The instruction.
    pub text: String,
    /// The block's index along x, y and z.
    pub block: [u32; 3],
    /// The thread's index in its block.
    pub thread: [u32; 3],
    /// What is wrong.
    pub problem: Problem,
}

/// Who accessed memory before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The linear index of the block, modulo 2^20.
    pub block: u32,
    /// The linear index of the thread in its block.
    pub thread: u32,
    /// Whether it wrote.
    pub wrote: bool,
}

/// Where blocks wait for what never comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The line of the instruction, from 1.
    pub line: u32,
    /// The instruction.
    pub text: String,
    /// How many blocks wait here.
    pub blocks: u64,
    /// The index along x, y and z of the first of them.
    pub block: [u32; 3],
    /// The index in its block of a thread that waits.
    pub thread: [u32; 3],
}

/// What a thread did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// An address outside every buffer, or across the end of one.
    OutOfBounds {
        /// The address.
        address: u64,
        /// Bytes accessed.
        bytes: u32,
        /// The buffer it lies in or before, with its size, if any.
        buffer: Option<(String, u64, u64)>,
    },
    /// An address that is no multiple of the access's size.
    Misaligned {
        /// The address.
        address: u64,
        /// What it must be a multiple of.
        alignment: u32,
    },
    /// A read of bytes that nothing wrote.
    NeverWritten {
        /// The buffer and the offset in it.
        buffer: (String, u64),
    },
    /// A write to memory that the kernel may only read.
    ReadOnly {
        /// The buffer.
        buffer: String,
    },
    /// Two accesses that nothing orders, at least one a write.
    Race {
        /// The buffer and the offset in it.
        buffer: (String, u64),
        /// Whether this access writes.
        writes: bool,
        /// The other access.
        earlier: Earlier,
    },
    /// A barrier that only some threads of a warp reach together.
    DivergentBarrier {
        /// The lanes that are here.
        here: u32,
        /// The lanes that should be.
        expected: u32,
    },
    /// A warp-wide exchange whose members are not those that execute it.
    WrongMembers {
        /// The lanes that are here.
        here: u32,
        /// The lanes named.
        named: u32,
    },
    /// Every warp of the block waits, and not for the same barrier; or nothing happens for ever.
    Deadlock,
    /// The blocks of a cooperative launch, or of a cluster, that have not ended wait for each other, or for those that have.
    GridDeadlock {
        /// Whether they are those of a cluster.
        of_cluster: bool,
        /// Blocks that have ended.
        ended: u64,
        /// All blocks of the launch or cluster.
        blocks: u64,
        /// Where the others wait, in the order of the first block at each place.
        waits: Vec<Wait>,
    },
    /// A rank that the cluster does not have.
    OutsideCluster {
        /// The rank.
        rank: u64,
        /// Blocks of the cluster.
        blocks: u32,
    },
    /// An access to shared memory of a block of the cluster that has ended.
    BlockEnded {
        /// Its rank.
        rank: u32,
    },
    /// The end of a block whose shared memory another accesses, with nothing that orders the end after that.
    EndsEarly {
        /// The access.
        earlier: Earlier,
    },
    /// The barrier of the cluster, out of order.
    ClusterBarrier(Misuse),
    /// A read through the asynchronous proxy of what a thread wrote, with no proxy fence in between.
    NoProxyFence {
        /// The buffer and the offset in it.
        buffer: (String, u64),
        /// The write.
        earlier: Earlier,
    },
    /// A product of a warp group that the hardware would not carry out as written.
    WarpGroup(GroupMisuse),
    /// The kernel stopped itself by `trap`.
    Trap,
}

/// How a thread misuses the barrier of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// It arrives again before it has waited.
    ArrivesTwice,
    /// It waits and has not arrived.
    WaitsWithoutArrival,
}

/// How a warp misuses products of its warp group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupMisuse {
    /// It accesses a register that a product under way sums up in.
    SumsUnderWay,
    /// It multiplies into registers that it accessed, or that a product of another shape sums up in, and no
    /// `wgmma.fence` stands in between; or none stands before its first product.
    NoFence,
    /// A descriptor of a factor in shared memory that is none.
    Descriptor(&'static str),
    /// Its lanes, or the warps of its group, give different factors, or are at different instructions.
    Differs,
    /// Its group has no four warps, or one has ended and takes no part.
    Incomplete,
    /// It ends, and has not waited for its products.
    NotAwaited,
}

impl GroupMisuse {
    fn text(self) -> &'static str {
        match self {
            GroupMisuse::SumsUnderWay => {
                "accesses a register that a product of the warp group sums up in, before waiting for that"
            }
            GroupMisuse::NoFence => {
                "multiplies into registers that were accessed with no wgmma.fence in between, or that another shape \
                 sums up in"
            }
            GroupMisuse::Descriptor(problem) => problem,
            GroupMisuse::Differs => "the threads of the warp group do not multiply the same",
            GroupMisuse::Incomplete => "not all four warps of the warp group multiply",
            GroupMisuse::NotAwaited => "ends with products of the warp group under way",
        }
    }
}

impl Problem {
    /// With the position in the grid in place of a block's number.
    pub(super) fn with_blocks(mut self, position: impl Fn(u64) -> u64) -> Problem {
        if let Problem::Race { earlier, .. }
        | Problem::EndsEarly { earlier }
        | Problem::NoProxyFence { earlier, .. } = &mut self
        {
            earlier.block = position(u64::from(earlier.block)) as u32;
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::OutOfBounds { address, bytes, buffer: Some((name, offset, size)) } => write!(
                f,
                "out of bounds: {bytes} bytes at offset {offset} of `{name}`, which has {size} bytes \
                 (address {address:#x})"
            ),
            Problem::OutOfBounds { address, bytes, buffer: None } => {
                write!(f, "out of bounds: {bytes} bytes at address {address:#x}, which no buffer has")
            }
            Problem::Misaligned { address, alignment } => {
                write!(f, "misaligned: address {address:#x} is no multiple of {alignment}")
            }
            Problem::NeverWritten { buffer: (name, offset) } => {
                write!(f, "reads offset {offset} of `{name}`, which was never written")
            }
            Problem::ReadOnly { buffer } => write!(f, "writes to `{buffer}`, which may only be read"),
            Problem::Race { buffer: (name, offset), writes, earlier } => write!(
                f,
                "race: {} offset {offset} of `{name}`, which thread {} of block {} {} with nothing in between that \
                 orders them",
                if *writes { "writes" } else { "reads" },
                earlier.thread,
                earlier.block,
                if earlier.wrote { "wrote" } else { "read" },
            ),
            Problem::DivergentBarrier { here, expected } => {
                write!(f, "divergent barrier: lanes {here:#010x} are here, of {expected:#010x}")
            }
            Problem::WrongMembers { here, named } => {
                write!(f, "lanes {here:#010x} are here, but the instruction names {named:#010x}")
            }
            Problem::Deadlock => f.write_str("deadlock: this thread waits for what never comes"),
            Problem::GridDeadlock { of_cluster, ended, blocks, waits } => {
                let what = if *of_cluster { "cluster" } else { "grid" };
                write!(f, "deadlock of the {what}: {ended} of {blocks} blocks have ended")?;
                waits.iter().try_for_each(|wait| {
                    let Wait { line, text, blocks, block, thread } = wait;
                    write!(
                        f,
                        "; {blocks} wait at line {line} `{text}`, as block {block:?}, thread {thread:?}"
                    )
                })
            }
            Problem::OutsideCluster { rank, blocks } => {
                write!(f, "rank {rank} is outside of the cluster, which has {blocks} blocks")
            }
            Problem::BlockEnded { rank } => {
                write!(f, "accesses shared memory of block {rank} of the cluster, which has ended")
            }
            Problem::EndsEarly { earlier } => write!(
                f,
                "the block ends with nothing that orders that after an access of thread {} of block {} to its shared memory",
                earlier.thread, earlier.block
            ),
            Problem::ClusterBarrier(Misuse::ArrivesTwice) => f.write_str(
                "arrives at the barrier of the cluster again, and has not waited for the last time",
            ),
            Problem::ClusterBarrier(Misuse::WaitsWithoutArrival) => {
                f.write_str("waits at the barrier of the cluster, and has not arrived there")
            }
            Problem::NoProxyFence { buffer: (name, offset), earlier } => write!(
                f,
                "reads offset {offset} of `{name}` through the asynchronous proxy, which thread {} of block {} wrote with \
                 no proxy fence in between",
                earlier.thread, earlier.block
            ),
            Problem::WarpGroup(misuse) => f.write_str(misuse.text()),
            Problem::Trap => f.write_str("trap"),
        }
    }
}

/// Why a launch did not happen or did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// The module has no such kernel.
    #[error("the PTX module has no kernel `{0}`")]
    NoKernel(String),
    /// The launch does not fit the kernel or the device.
    #[error("kernel `{kernel}` cannot be launched: {problem}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Why.
        problem: String,
    },
    /// A thread did something wrong.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
}
