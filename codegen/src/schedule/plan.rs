//! What a schedule for a GPU has decided, for people to read.

use fuse_ir::expr::Dim;
use fuse_ir::kernel::{BufferId, Kernel, KernelGraph, Loop};

use super::analysis::Analysis;
use super::{GpuLimits, LoopForm, Rounding, ScheduleError, gpu, resident};

/// A loop over time as one launch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoopPlan {
    /// The function that runs all steps.
    pub name: String,
    /// Blocks, all of which run at the same time; those of a cluster, where there are any.
    pub blocks: u32,
    /// Threads of each.
    pub threads: u32,
    /// The shared memory of each, in bytes.
    pub shared_bytes: u32,
    /// The kernels of a step, between which the blocks meet.
    pub phases: Vec<PhasePlan>,
    /// The states that steps carry.
    pub states: Vec<StatePlan>,
    /// The clusters, where blocks exchange states through each other's shared memory.
    pub cluster: Option<ClusterPlan>,
}

/// Clusters that run a loop, each for rows of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterPlan {
    /// Blocks of a cluster.
    pub blocks: u32,
    /// All rows.
    pub rows: Dim,
    /// Rows that a cluster takes.
    pub rows_at_once: u32,
    /// The shared memory of a block that holds what blocks exchange, in bytes.
    pub image_bytes: u32,
}

/// Where a state of a loop is while the loop runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatePlan {
    /// The half that a step reads.
    pub buffer: BufferId,
    /// Where that is.
    pub place: StatePlace,
}

/// Where steps read a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatePlace {
    /// In memory, where the blocks exchange it.
    Memory,
    /// In the shared memory of all blocks of a cluster.
    Cluster,
    /// In the shared memory of the block that alone needs it.
    OwnBlock,
}

/// A kernel of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PhasePlan {
    /// Its name.
    pub kernel: String,
    /// How it is computed.
    pub form: PhaseForm,
    /// The rows of a step, where sums are split.
    pub rows: Option<Dim>,
    /// What it reads that is the same at every step, weights above all: read from memory once, before the first step, and
    /// from then on from the shared memory of the blocks.
    pub shared: Vec<BufferId>,
    /// The same where it does not fit there, or is read once a point anyway: read from memory (its caches) at every step.
    pub memory: Vec<BufferId>,
}

/// How a kernel of a step is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PhaseForm {
    /// Its sums are split among the threads of a block, each of which has columns of its own.
    Split {
        /// Blocks with columns.
        blocks: u32,
        /// Whether tensor cores multiply.
        tensor_cores: bool,
        /// Rows and columns that a thread sums up at the same time, where threads multiply.
        tile: [u32; 2],
        /// Rows that a block takes at once, before partial sums are added up.
        rows_at_once: u32,
    },
    /// A row with statistics is computed by threads of one block together.
    Rows,
    /// A thread a point.
    Points,
}

/// What a loop becomes on a GPU that has so much; `None` where its steps are launches of their own, which those are whose
/// body has loops.
///
/// # Errors
/// As [`schedule`](super::schedule).
pub fn loop_plan(
    graph: &KernelGraph,
    l: &Loop,
    limits: GpuLimits,
    rounding: Rounding,
    loops: LoopForm,
) -> Result<Option<LoopPlan>, ScheduleError> {
    resident::plan(graph, l, (limits, rounding, loops))
}

/// A contraction that is a launch of its own. Times are by the model of the device, at the extents that symbols are assumed
/// to have, in seconds, without the launch.
#[derive(Clone, PartialEq, Debug)]
pub struct ProductPlan {
    /// How it is computed.
    pub form: ProductForm,
    /// What it is expected to take so.
    pub seconds: f64,
    /// What forms that were not chosen are expected to take.
    pub others: Vec<(ProductForm, f64)>,
}

/// How a contraction that is a launch of its own is computed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProductForm {
    /// In tiles that are staged in shared memory.
    Tiles {
        /// Rows and columns of a tile.
        tile: [i64; 2],
        /// How many there are.
        tiles: Dim,
        /// Blocks of a cluster that share one, each with a slice of the sum.
        slices: i64,
        /// What multiplies.
        units: ProductUnits,
    },
    /// Sums are split among the threads of a block.
    Split,
}

/// What multiplies in tiles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProductUnits {
    /// Threads, by multiply-adds.
    Threads,
    /// Tensor cores, each for a warp by itself.
    Warps,
    /// Tensor cores, all of them for four warps together.
    WarpGroups,
}

/// What a kernel becomes on a GPU that has so much, if it is a contraction that tiles may compute; `None` for others.
///
/// # Errors
/// As [`schedule`](super::schedule).
pub fn product_plan(
    graph: &KernelGraph,
    kernel: &Kernel,
    limits: GpuLimits,
    rounding: Rounding,
) -> Result<Option<ProductPlan>, ScheduleError> {
    Ok(gpu::product_plan(&Analysis::new(graph, kernel, None)?, limits, rounding))
}
