//! The whole compiler, to be read aloud: verify, rewrite, schedule, then emit for a device.

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::schedule::{ScheduleError, ScheduleTarget, schedule};
use fuse_ir::Graph;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::{Mode, Report, RewriteError};
use fuse_runtime::{Device, Executable, ExecutableError, ExecutableOptions};

/// What a model is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Host code.
    Cpu,
    /// PTX for an NVIDIA GPU.
    Cuda,
}

impl Target {
    /// The target of a device.
    pub fn of(device: &Device) -> Target {
        match device {
            Device::Cpu => Target::Cpu,
            Device::Cuda(_) => Target::Cuda,
        }
    }

    /// The numbers that the cost model decides by.
    pub fn model(self) -> DeviceModel {
        match self {
            Target::Cpu => DeviceModel::cpu(),
            Target::Cuda => DeviceModel::cuda(),
        }
    }

    fn schedule(self) -> ScheduleTarget {
        match self {
            Target::Cpu => ScheduleTarget::cpu(),
            Target::Cuda => ScheduleTarget::gpu(),
        }
    }
}

/// How a model is compiled.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// What for.
    pub target: Target,
    /// Whether to fuse, or to compile one kernel per operation.
    pub rewrite: fuse_rewrite::Options,
}

impl CompileOptions {
    /// The default options for a target.
    pub fn new(target: Target) -> Self {
        CompileOptions { target, rewrite: fuse_rewrite::Options::default() }
    }

    /// One kernel per operation: the baseline that fusion is measured against.
    pub fn unfused(target: Target) -> Self {
        let rewrite = fuse_rewrite::Options { mode: Mode::Off, ..fuse_rewrite::Options::default() };
        CompileOptions { target, rewrite }
    }
}

/// Why a model does not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The graph breaks an invariant of the tensor IR.
    #[error(transparent)]
    Verify(#[from] fuse_ir::VerifyError),
    /// Rewriting failed.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// Scheduling failed.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A stage produced what the next one's verifier rejects.
    #[error("{stage} produced an invalid program: {problem}")]
    Internal {
        /// The stage.
        stage: &'static str,
        /// What the verifier said.
        problem: String,
    },
    /// Emission or loading failed.
    #[error(transparent)]
    Executable(#[from] ExecutableError),
}

impl CompileError {
    /// Whether fuse is at fault, rather than the model or the machine.
    pub fn is_bug(&self) -> bool {
        match self {
            CompileError::Verify(_) | CompileError::Executable(_) => false,
            CompileError::Rewrite(_) | CompileError::Schedule(_) | CompileError::Internal { .. } => true,
        }
    }
}

/// A compiled model, before code is emitted for a device.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The model as given.
    pub graph: Graph,
    /// The fused kernels.
    pub kernels: KernelGraph,
    /// The loop nest of each kernel, in order of [`KernelGraph::kernels`].
    pub functions: Vec<Function>,
    /// What rewriting did.
    pub report: Report,
}

/// Compiles a graph down to Kernel IR.
///
/// # Errors
/// Where the graph is invalid. Errors that are fuse's own fault say so ([`CompileError::is_bug`]).
pub fn compile(graph: &Graph, options: &CompileOptions) -> Result<Compiled, CompileError> {
    fuse_ir::verify(graph)?;
    let optimized = fuse_rewrite::optimize(graph, &options.target.model(), &options.rewrite)?;
    let internal =
        |stage| move |e: &dyn std::fmt::Display| CompileError::Internal { stage, problem: e.to_string() };
    fuse_ir::verify_kernels(&optimized.kernels).map_err(|e| internal("rewriting")(&e))?;
    let functions = optimized
        .kernels
        .kernels()
        .into_iter()
        .map(|(kernel, _)| schedule(&optimized.kernels, kernel, options.target.schedule()))
        .collect::<Result<Vec<_>, _>>()?;
    for function in &functions {
        fuse_codegen::verify::verify(function).map_err(|e| internal("scheduling")(&e))?;
    }
    Ok(Compiled {
        graph: graph.clone(),
        kernels: optimized.kernels,
        functions,
        report: optimized.report,
    })
}

impl Compiled {
    /// Emits code for a device and loads it.
    ///
    /// # Errors
    /// Where the device is not there or does not take the code.
    pub fn load(&self, device: &Device, options: &ExecutableOptions) -> Result<Executable, CompileError> {
        Ok(Executable::new(&self.graph, &self.kernels, &self.functions, device, options)?)
    }
}
