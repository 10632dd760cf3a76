//! What loops over time become on a GPU: where their operands lie, and what a step takes beside what it must.

use std::fmt::Write;

use fuse_codegen::kernel_ir::MatrixFactors;
use fuse_codegen::schedule::{
    ClusterPlan, GpuLimits, LoopForm, LoopPlan, PhaseForm, PhasePlan, Rounding, StatePlace, StatePlan,
    loop_plan,
};
use fuse_ir::DimEnv;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{BufferId, KernelGraph, Loop, Step};
use fuse_rewrite::{KernelUse, ProgramCost, bytes_of};
use serde::Serialize;

use super::{BYTES, quantity};
use crate::cli::error::CliError;

/// One loop.
#[derive(Debug, Serialize)]
pub struct LoopReport {
    /// The function that runs all steps.
    name: String,
    /// The clusters of blocks that exchange states through shared memory, where there are any.
    clusters: Option<Clusters>,
    /// Blocks that run at the same time, or are a cluster, and the threads of each.
    blocks: u32,
    threads: u32,
    /// The shared memory of a block, and what it may have.
    shared_bytes: u32,
    shared_bytes_limit: u32,
    states: Vec<StateReport>,
    kernels: Vec<PhaseReport>,
    step_us: StepTime,
    /// Of a loop by clusters, the step that all blocks would take together.
    step_of_all_blocks_us: Option<StepTime>,
}

/// Clusters that run a loop.
#[derive(Debug, Clone, Copy, Serialize)]
struct Clusters {
    /// How many, of which each takes so many rows.
    count: f64,
    rows_at_once: u32,
    /// The part of the multiprocessors that they keep busy.
    share: f64,
    /// How often these have as many as there is room for at once.
    waves: f64,
}

impl Clusters {
    fn new(plan: &ClusterPlan, limits: GpuLimits, dims: &DimEnv) -> Clusters {
        let rows = plan.rows.eval_dim(dims).map_or(1, |n| n.max(1)) as f64;
        let count = (rows / f64::from(plan.rows_at_once.max(1))).ceil();
        let share = count * f64::from(plan.blocks) / f64::from(limits.multiprocessors.max(1));
        Clusters { count, rows_at_once: plan.rows_at_once, share: share.min(1.0), waves: share.ceil() }
    }
}

/// One state.
#[derive(Debug, Serialize)]
struct StateReport {
    /// The half that a step reads.
    state: Operand,
    /// Where that is.
    place: &'static str,
}

impl StateReport {
    fn new(program: &KernelGraph, plan: &StatePlan, dims: &DimEnv) -> StateReport {
        let place = match plan.place {
            StatePlace::Memory => "memory, where blocks exchange it",
            StatePlace::Cluster => "the shared memory of all blocks of a cluster",
            StatePlace::OwnBlock => "the shared memory of the block that alone needs it",
        };
        StateReport { state: Operand::new(program, plan.buffer, dims), place }
    }
}

/// One kernel of its body.
#[derive(Debug, Serialize)]
struct PhaseReport {
    name: String,
    /// How it is computed.
    form: String,
    /// Operands that are the same at every step, and lie in shared memory.
    shared: Vec<Operand>,
    /// The others that are the same at every step.
    memory: Vec<Operand>,
}

#[derive(Debug, Serialize)]
struct Operand {
    buffer: String,
    bytes: f64,
}

impl Operand {
    fn new(program: &KernelGraph, id: BufferId, dims: &DimEnv) -> Operand {
        let buffer = program.buffer(id);
        Operand { buffer: buffer.name.clone(), bytes: bytes_of(&buffer.ty, dims) }
    }
}

/// A step in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct StepTime {
    /// By the cost model.
    modelled: f64,
    /// Until all blocks have what others made, once a kernel.
    exchange: f64,
    /// Moving what is not in shared memory.
    memory: f64,
    /// Computing: multiply-adds, or the loads of what they multiply.
    arithmetic: f64,
    /// Adding up partial sums between meetings of a block, and what becomes of them.
    turns: f64,
}

/// The loops of a program on a GPU that has so much, priced by a model of it. Those whose body has loops are launches of
/// their own at every step and are not told of.
///
/// # Errors
/// Where a kernel has no schedule.
pub fn loops(
    program: &KernelGraph,
    cost: &ProgramCost,
    device: &DeviceModel,
    (limits, rounding, form): (GpuLimits, Rounding, LoopForm),
    dims: &DimEnv,
) -> Result<Vec<LoopReport>, CliError> {
    let mut found = Vec::new();
    collect_loops(&program.steps, &mut found);
    let mut reports = Vec::new();
    for l in found {
        if let Some(plan) = loop_plan(program, l, limits, rounding, form).map_err(CliError::bug)? {
            let tf32 = rounding == Some(MatrixFactors::Tf32);
            let matrix_rate = device.matrix_flops_per_second / if tf32 { 2.0 } else { 1.0 };
            let of_matrices = DeviceModel { flops_per_second: matrix_rate, ..device.clone() };
            let models = ([device, &of_matrices], limits);
            let mut report = LoopReport::new(program, &plan, cost, models, dims);
            if plan.cluster.is_some() {
                let grid = loop_plan(program, l, limits, rounding, LoopForm::Grid).map_err(CliError::bug)?;
                let of_grid = |grid| LoopReport::new(program, &grid, cost, models, dims).step_us;
                report.step_of_all_blocks_us = grid.map(of_grid);
            }
            reports.push(report);
        }
    }
    Ok(reports)
}

fn collect_loops<'p>(steps: &'p [Step], found: &mut Vec<&'p Loop>) {
    for step in steps {
        if let Step::Loop(l) = step {
            found.push(l);
            collect_loops(&l.body, found);
        }
    }
}

impl LoopReport {
    fn new(
        program: &KernelGraph,
        plan: &LoopPlan,
        cost: &ProgramCost,
        ([device, of_matrices], limits): ([&DeviceModel; 2], GpuLimits),
        dims: &DimEnv,
    ) -> LoopReport {
        let kernels: Vec<_> = plan.phases.iter().map(|p| PhaseReport::new(program, p, dims)).collect();
        let states = plan.states.iter().map(|s| StateReport::new(program, s, dims)).collect();
        let clusters = plan.cluster.as_ref().map(|c| Clusters::new(c, limits, dims));
        let mut step = StepTime { modelled: 0.0, exchange: 0.0, memory: 0.0, arithmetic: 0.0, turns: 0.0 };
        for (phase, report) in plan.phases.iter().zip(&kernels) {
            let Some(used) = cost.kernels.iter().find(|k| k.name == report.name) else { continue };
            let shared = report.shared.iter().map(|o| o.bytes).sum();
            let on_tensor_cores = matches!(phase.form, PhaseForm::Split { tensor_cores: true, .. });
            let device = if on_tensor_cores { of_matrices } else { device };
            step.add((phase, used), shared, device, clusters, dims);
        }
        let exchanged = plan.states.iter().filter(|state| state.place == StatePlace::Memory);
        for state in exchanged {
            let bytes = bytes_of(&program.buffer(state.buffer).ty, dims);
            step.add_exchange(device.seconds_beyond_exchange(bytes));
        }
        LoopReport {
            name: plan.name.clone(),
            clusters,
            blocks: plan.blocks,
            threads: plan.threads,
            shared_bytes: plan.shared_bytes,
            shared_bytes_limit: limits.shared_bytes,
            states,
            kernels,
            step_us: step,
            step_of_all_blocks_us: None,
        }
    }

    /// Adds the lines for people.
    pub fn write(&self, out: &mut String) {
        let bytes = |n: f64| quantity(n, 1024.0, BYTES);
        let [used, limit] = [self.shared_bytes, self.shared_bytes_limit].map(|n| bytes(f64::from(n)));
        let blocks = format!("{} blocks of {} threads", self.blocks, self.threads);
        let shape = match self.clusters {
            None => format!("{blocks}, {used} of {limit} of shared memory each"),
            Some(Clusters { count, rows_at_once, .. }) => format!(
                "{count} clusters of {blocks}, {rows_at_once} rows a cluster, {used} of {limit} of shared memory a block"
            ),
        };
        let _ = writeln!(out, "\n{}  (all steps in one launch: {shape})", self.name);
        if self.clusters.is_some() {
            let _ = writeln!(out, "  states are exchanged through the shared memory of a cluster");
        }
        let list = |operands: &[Operand]| {
            let texts: Vec<String> =
                operands.iter().map(|o| format!("{} ({})", o.buffer, bytes(o.bytes))).collect();
            texts.join(", ")
        };
        for StateReport { state, place, .. } in &self.states {
            let _ = writeln!(out, "  state {} ({}) in {place}", state.buffer, bytes(state.bytes));
        }
        for kernel in &self.kernels {
            let _ = writeln!(out, "  {}: {}", kernel.name, kernel.form);
            if !kernel.shared.is_empty() {
                let _ =
                    writeln!(out, "    in shared memory from the first step on: {}", list(&kernel.shared));
            }
            if !kernel.memory.is_empty() {
                let _ = writeln!(out, "    read from memory at every step: {}", list(&kernel.memory));
            }
        }
        let StepTime { modelled, exchange, memory, arithmetic, turns } = self.step_us;
        let _ = writeln!(
            out,
            "  step    {modelled:.2} us modelled, of these exchange {exchange:.2}, turns of rows {turns:.2}; memory \
             {memory:.2}, arithmetic {arithmetic:.2}"
        );
        if let Some(StepTime { modelled, exchange, .. }) = self.step_of_all_blocks_us {
            let _ = writeln!(
                out,
                "  step of blocks that meet in memory {modelled:.2} us modelled, of these exchange {exchange:.2}"
            );
        }
    }
}

impl PhaseReport {
    fn new(program: &KernelGraph, phase: &PhasePlan, dims: &DimEnv) -> PhaseReport {
        let operands =
            |buffers: &[BufferId]| buffers.iter().map(|id| Operand::new(program, *id, dims)).collect();
        let form = match phase.form {
            PhaseForm::Split { blocks, tensor_cores, tile: [rows, columns], rows_at_once } => {
                let place = if tensor_cores { "on the tensor cores" } else { "among the threads" };
                let tile =
                    if tensor_cores { String::new() } else { format!(", {rows} by {columns} a thread") };
                format!(
                    "sums split {place} of a block{tile}, {blocks} blocks with columns of their own, {rows_at_once} rows \
                     at once"
                )
            }
            PhaseForm::Rows => "statistics of a row by threads of one block together".to_owned(),
            PhaseForm::Points => "a thread a point".to_owned(),
        };
        PhaseReport {
            name: phase.kernel.clone(),
            form,
            shared: operands(&phase.shared),
            memory: operands(&phase.memory),
        }
    }
}

impl StepTime {
    /// Adds a kernel, of whose operands so many bytes are in shared memory.
    fn add(
        &mut self,
        (phase, used): (&PhasePlan, &KernelUse),
        shared: f64,
        device: &DeviceModel,
        clusters: Option<Clusters>,
        dims: &DimEnv,
    ) {
        let steps = used.launches.max(1.0);
        let memory = (used.bytes / steps - shared).max(0.0) / device.memory_bytes_per_second;
        let (products, turns) = match phase.form {
            PhaseForm::Split { tensor_cores, tile, rows_at_once, .. } => {
                let products = match tensor_cores {
                    true => used.flops / device.flops_per_second,
                    false => device.tiled_seconds(used.flops, tile.map(f64::from)),
                };
                let all_rows =
                    phase.rows.as_ref().and_then(|rows| rows.eval_dim(dims).ok()).unwrap_or(1) as f64;
                let rows = clusters.map_or(all_rows, |c| f64::from(c.rows_at_once));
                (products, (rows / f64::from(rows_at_once.max(1))).ceil() * device.turn_seconds)
            }
            PhaseForm::Rows | PhaseForm::Points => (used.flops / device.flops_per_second, 0.0),
        };
        let arithmetic = (products + used.transcendentals / device.transcendentals_per_second)
            / steps
            / clusters.map_or(1.0, |c| c.share);
        let (waves, exchange) = match clusters {
            Some(clusters) => (clusters.waves, clusters.waves * device.cluster_exchange_seconds),
            None => (1.0, device.exchange_seconds),
        };
        let work = memory.max(arithmetic) + device.exposed * memory.min(arithmetic);
        self.memory += 1e6 * memory;
        self.arithmetic += 1e6 * arithmetic;
        self.turns += 1e6 * waves * turns;
        self.modelled += 1e6 * (work + waves * turns);
        self.add_exchange(exchange);
    }

    /// Adds what an exchange takes.
    fn add_exchange(&mut self, seconds: f64) {
        self.exchange += 1e6 * seconds;
        self.modelled += 1e6 * seconds;
    }
}
