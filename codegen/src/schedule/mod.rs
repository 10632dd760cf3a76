//! Scheduling: from a kernel of element expressions to a loop nest.
//!
//! Where an element is computed follows from its free axes: the builder places every value at the outermost
//! loop that knows its operands, and reductions are placed the same way, so row statistics are computed once a
//! row and shared elements once. Reductions over equal extents at the same place run in one loop: the gates
//! of a recurrent cell share their loads of the state.
//!
//! | file | decides |
//! |---|---|
//! | `analysis.rs` | free axes, which reductions run together |
//! | `access.rs` | the row-major position of each load and store |
//! | `vectors.rs` | which elements are vectors along an axis |
//! | `emitter.rs` | elements as operations |
//! | `joined.rs` | which loads of a point are one vector |
//! | `reduction.rs` | reduction loops and their accumulators, or slices of them |
//! | `recurrence.rs` | the loop along the axis of the recurrences, and their states |
//! | `tiling.rs` | rows, columns and tiles of a CPU's work items |
//! | `cpu.rs`, `gpu.rs` | work items and loops of each target |
//! | `products.rs` | products that the CPU's fast tier leaves to a routine |
//! | `coordinates.rs` | from the number of a work item to its coordinates |
//! | `block.rs` | what kernels have in common that blocks of a GPU's threads compute together |
//! | `contraction.rs` | large sums of products on a GPU: tiles of blocks, staged in shared memory |
//! | `plan.rs` | nothing; it says what was decided about a loop on a GPU |
//! | `resident.rs` | a loop over time as one launch of a GPU, its kernels as phases |
//! | `resident/own.rs` | what points read of their own from step to step, in shared memory |
//! | `resident/cluster.rs` | the same by clusters of blocks, which exchange states through shared memory |
//! | `rows.rs` | statistics of rows on a GPU: a warp or a block a row |
//! | `waves.rs` | loops of a few sums each, where one had too many for a CPU's registers |
//! | `split.rs` | the sums of a phase, split among the threads of a block |

mod access;
mod ahead;
mod analysis;
mod block;
mod contraction;
mod coordinates;
mod cpu;
mod division;
mod emitter;
mod gpu;
mod joined;
mod parts;
mod plan;
mod products;
mod recurrence;
mod reduction;
mod resident;
mod rows;
mod split;
mod tiling;
mod vectors;
mod waves;

use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{Kernel, KernelGraph, Step};
use fuse_ir::kernel_parts::Shared;

use crate::kernel_ir::{Function, MatrixFactors};
use analysis::Analysis;
use products::Products;

pub use plan::{
    ClusterPlan, LoopPlan, PhaseForm, PhasePlan, ProductForm, ProductPlan, ProductUnits, StatePlace,
    StatePlan, loop_plan, product_plan,
};
pub use resident::resident_name;

/// What a schedule is made for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScheduleTarget {
    /// Ranges of work items on a CPU.
    Cpu {
        /// The width of a vector register in bits; a power of two, at least 64.
        vector_bits: u32,
        /// Accumulators that one loop carries at most, beside which operands must find registers; at least 1.
        accumulators: u32,
        /// Whether its compiler emits prefetches.
        prefetches: bool,
        /// The columns of panels that there is a routine for, or multiples of them
        /// ([`crate::kernel_ir::Statement::Product`]).
        panel_lanes: Option<u32>,
    },
    /// One GPU thread a point of the space.
    Gpu {
        /// Threads a block, from 1 to 1024.
        block: u32,
        /// What the GPU has.
        limits: GpuLimits,
        /// What factors may be rounded to.
        rounding: Rounding,
    },
}

/// What the factors of products of f32 may be rounded to where tensor cores sum them up, in f32; `None` where they stay as
/// they are.
pub type Rounding = Option<MatrixFactors>;

impl ScheduleTarget {
    /// The CPU's fast tier: 128-bit vectors. Eight accumulators are what stays in the 16 vector registers of x86-64
    /// without AVX-512 (whose further ones Cranelift does not use) beside operands and copies of them. One that is
    /// spilled costs more than two that are missing.
    pub fn cpu() -> Self {
        ScheduleTarget::fast_tier(None)
    }

    /// The same with a routine for products with panels of multiples of so many columns.
    pub fn cpu_with_panels(lanes: u32) -> Self {
        ScheduleTarget::fast_tier(Some(lanes))
    }

    fn fast_tier(panel_lanes: Option<u32>) -> Self {
        ScheduleTarget::Cpu { vector_bits: 128, accumulators: 8, prefetches: false, panel_lanes }
    }

    /// The width of a vector register in bits; 0 on GPUs, whose threads have scalars.
    pub fn vector_bits(self) -> u32 {
        match self {
            ScheduleTarget::Cpu { vector_bits, .. } => vector_bits,
            ScheduleTarget::Gpu { .. } => 0,
        }
    }

    /// A GPU with blocks of 256 threads, an H100.
    pub fn gpu() -> Self {
        ScheduleTarget::gpu_of(GpuLimits::h100())
    }

    /// A GPU that has so much, with blocks of 256 threads; factors stay as they are.
    pub fn gpu_of(limits: GpuLimits) -> Self {
        ScheduleTarget::Gpu { block: BLOCK, limits, rounding: None }
    }
}

/// Threads of a block of a program's kernels.
const BLOCK: u32 = 256;

/// How a GPU runs loops over time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum LoopForm {
    /// As one launch, where their bodies have no loops; by clusters of blocks where the device has them and that is
    /// expected to be faster.
    #[default]
    Clusters,
    /// As one launch whose blocks all meet in memory.
    Grid,
    /// As a launch for each kernel and step.
    Steps,
}

/// What a GPU has for blocks that all run at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GpuLimits {
    /// The compute capability (times ten).
    pub capability: u32,
    /// Multiprocessors, each of which runs one block.
    pub multiprocessors: u32,
    /// Shared memory that a block may take, in bytes.
    pub shared_bytes: u32,
    /// Whether it has tensor cores for 16-bit floats and tf32, and copies from memory to shared memory.
    pub tensor_cores: bool,
    /// Blocks of the largest cluster that may be relied upon; 1 where there are no clusters.
    pub cluster_blocks: u32,
    /// Whether warp groups multiply matrices in shared memory, and code for this GPU alone may have them do so.
    pub warp_groups: bool,
}

impl GpuLimits {
    /// An H100 (SXM5).
    pub fn h100() -> Self {
        GpuLimits::of_capability(90)
    }

    /// What blocks may take on a GPU of a compute capability (times ten), as [`DeviceModel::gpu`] has it; later ones than
    /// the H100 are taken to have no more multiprocessors, for not all of them have. Code for them is to run on later GPUs,
    /// too, so warp groups do not multiply.
    pub fn of_capability(capability: u32) -> Self {
        let device = DeviceModel::gpu(capability);
        GpuLimits {
            capability,
            multiprocessors: device.cores.min(132),
            shared_bytes: u32::try_from(device.on_chip_bytes).unwrap_or(u32::MAX),
            tensor_cores: GpuLimits::has_tensor_cores(capability),
            cluster_blocks: GpuLimits::cluster_blocks_of(capability),
            warp_groups: false,
        }
    }

    /// What the cost model knows of such a GPU ([`DeviceModel::gpu`]): of more or fewer multiprocessors, as much more or less
    /// arithmetic.
    pub fn model(self) -> DeviceModel {
        let model = DeviceModel::gpu(self.capability);
        let share = f64::from(self.multiprocessors) / f64::from(model.cores);
        DeviceModel {
            flops_per_second: share * model.flops_per_second,
            matrix_flops_per_second: share * model.matrix_flops_per_second,
            group_matrix_flops_per_second: share * model.group_matrix_flops_per_second,
            transcendentals_per_second: share * model.transcendentals_per_second,
            load_bytes_per_second: share * model.load_bytes_per_second,
            parallel_points: share * model.parallel_points,
            on_chip_bytes: u64::from(self.shared_bytes),
            cores: self.multiprocessors,
            ..model
        }
    }

    /// The largest cluster that every GPU of a compute capability (times ten) has room for.
    pub fn cluster_blocks_of(capability: u32) -> u32 {
        if capability >= 90 { 8 } else { 1 }
    }

    /// Whether GPUs of a compute capability (times ten) have what [`GpuLimits::tensor_cores`] says. The tensor cores of
    /// Turing take smaller matrices of f16 alone, and only from a later version of PTX on than the rest of the code needs.
    pub fn has_tensor_cores(capability: u32) -> bool {
        capability >= 80
    }
}

/// The functions of a whole program for a GPU, in order of its steps. A loop is one function where its form says so and
/// its body has no loops.
///
/// # Errors
/// As [`schedule`].
pub fn schedule_for_gpu(
    graph: &KernelGraph,
    limits: GpuLimits,
    rounding: Rounding,
    loops: LoopForm,
) -> Result<Vec<Function>, ScheduleError> {
    let mut functions = Vec::new();
    steps_for_gpu(graph, &graph.steps, (limits, rounding, loops), &mut functions)?;
    Ok(functions)
}

fn steps_for_gpu(
    graph: &KernelGraph,
    steps: &[Step],
    form: (GpuLimits, Rounding, LoopForm),
    functions: &mut Vec<Function>,
) -> Result<(), ScheduleError> {
    let (limits, rounding, _) = form;
    let target = ScheduleTarget::Gpu { block: BLOCK, limits, rounding };
    for step in steps {
        match step {
            Step::Kernel(kernel) => functions.push(schedule(graph, kernel, target)?),
            Step::Loop(l) => match resident::schedule(graph, l, form)? {
                Some(function) => functions.push(function),
                None => steps_for_gpu(graph, &l.body, form, functions)?,
            },
        }
    }
    Ok(())
}

/// The vector registers of a CPU.
#[derive(Clone, Copy, Debug)]
struct Registers {
    /// Their width.
    vector_bits: u32,
    /// The accumulators that one loop carries at most.
    accumulators: usize,
    /// Whether a function may ask for memory ahead.
    prefetches: bool,
}

/// Why a kernel has no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The kernel breaks a rule of the kernel graph, which is a bug of whoever made it.
    #[error("kernel `{kernel}` is malformed: {message}")]
    Malformed {
        /// The kernel.
        kernel: String,
        /// The rule.
        message: String,
    },
    /// The kernel is beyond what schedules handle.
    #[error("kernel `{kernel}` cannot be scheduled: {message}")]
    Unsupported {
        /// The kernel.
        kernel: String,
        /// What is missing.
        message: String,
    },
}

/// Turns a kernel into a function for `target`. Every call of the function computes part of the space; calls
/// (or threads) for all work items compute all of it, in any order.
///
/// # Errors
/// [`ScheduleError::Malformed`] where `kernel` is not a valid kernel of `graph`, and
/// [`ScheduleError::Unsupported`] for more than 63 axes or a reduction of bools.
pub fn schedule(
    graph: &KernelGraph,
    kernel: &Kernel,
    target: ScheduleTarget,
) -> Result<Function, ScheduleError> {
    // Loops of a CPU's core that have no operand in common are of no use to each other.
    let shared = match target {
        ScheduleTarget::Cpu { .. } => Some(Shared::Operands),
        ScheduleTarget::Gpu { .. } => None,
    };
    let mut analysis = Analysis::new(graph, kernel, shared)?;
    if let ScheduleTarget::Cpu { accumulators, .. } = target {
        waves::split(&mut analysis, accumulators as usize);
    }
    let function = match target {
        ScheduleTarget::Cpu { vector_bits, accumulators, prefetches, panel_lanes } => {
            let accumulators = accumulators.max(1) as usize;
            let registers = Registers { vector_bits, accumulators, prefetches };
            match panel_lanes.and_then(|lanes| Products::find(&analysis, lanes)) {
                Some(products) => products.schedule(),
                None => cpu::schedule(&analysis, registers),
            }
        }
        ScheduleTarget::Gpu { block, limits, rounding } => gpu::schedule(&analysis, block, limits, rounding),
    }?;
    #[cfg(debug_assertions)]
    if let Err(error) = crate::verify::verify(&function) {
        return Err(analysis.malformed(format!("its schedule is invalid: {error}")));
    }
    Ok(function)
}
