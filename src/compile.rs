//! The whole compiler, to be read aloud: verify, rewrite, schedule, then emit for a device.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use fuse_codegen::cranelift::{self, CodegenError, Effort};
use fuse_codegen::kernel_ir::Function;
#[cfg(feature = "llvm")]
use fuse_codegen::kernel_ir::Mapping;
#[cfg(feature = "llvm")]
use fuse_codegen::llvm::LlvmError;
use fuse_codegen::schedule::{GpuLimits, LoopForm, ScheduleError, ScheduleTarget, schedule};
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::KernelGraph;
use fuse_ir::{DType, Graph};
use fuse_rewrite::{Mode, Report, RewriteError};
use fuse_runtime::{BuildError, Code, Device, DeviceError, DeviceName, Executable};
#[cfg(feature = "llvm")]
use fuse_runtime::{HostCode, Making};

use crate::fast;
#[cfg(feature = "llvm")]
use crate::peak;
use crate::precision::ProductPrecision;
use crate::tier::Tier;
use crate::weights::{NarrowWeights, WeightsDtype};

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
    pub fn of(device: DeviceName) -> Target {
        match device {
            DeviceName::Cpu => Target::Cpu,
            DeviceName::Sim { .. } | DeviceName::Cuda(_) => Target::Cuda,
        }
    }

    /// The numbers that the cost model decides by.
    pub fn model(self) -> DeviceModel {
        match self {
            Target::Cpu => DeviceModel::cpu(),
            Target::Cuda => DeviceModel::cuda(),
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
    /// Which code runs on the CPU.
    pub tier: Tier,
    /// In which type the CPU stores the weights of products.
    pub weights_dtype: WeightsDtype,
    /// What a GPU may round the factors of products of f32 to.
    pub precision: ProductPrecision,
    /// The GPU that loops are scheduled for. Another one can take the program too, and schedules again.
    pub gpu: GpuLimits,
    /// How a GPU runs loops over time.
    pub loops: LoopForm,
}

impl CompileOptions {
    /// The default options for a target.
    pub fn new(target: Target) -> Self {
        CompileOptions {
            target,
            rewrite: fuse_rewrite::Options::default(),
            tier: Tier::default(),
            weights_dtype: WeightsDtype::default(),
            precision: ProductPrecision::default(),
            gpu: GpuLimits::h100(),
            loops: LoopForm::default(),
        }
    }

    /// One kernel per operation: the baseline that fusion is measured against.
    pub fn unfused(target: Target) -> Self {
        let rewrite = fuse_rewrite::Options { mode: Mode::Off, ..fuse_rewrite::Options::default() };
        CompileOptions { rewrite, ..CompileOptions::new(target) }
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
    /// Cranelift emitted no code.
    #[error(transparent)]
    Cranelift(#[from] CodegenError),
    /// LLVM emitted no code.
    #[cfg(feature = "llvm")]
    #[error(transparent)]
    Llvm(#[from] LlvmError),
    /// This build cannot emit code for the device.
    #[error("this fuse was built without LLVM, which emits code for {0}; build it with the feature `llvm`")]
    WithoutLlvm(DeviceName),
    /// Weights are stored narrower on the CPU alone.
    #[error(
        "weights are stored as {0} on the CPU only; for another device leave them as given, or convert the model"
    )]
    WeightsDtype(DType),
    /// Factors are rounded on GPUs alone.
    #[error("factors of products are rounded to {0} on GPUs only; on the CPU they stay as they are")]
    Precision(ProductPrecision),
    /// The device is older than all architectures that LLVM emits code for here.
    #[error("{device} has compute capability {major}.{minor}; 7.5 is the least that fuse emits code for")]
    TooOld {
        /// The device.
        device: DeviceName,
        /// Its compute capability before the point.
        major: u32,
        /// And after it.
        minor: u32,
    },
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device does not take the code.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl CompileError {
    /// Whether fuse is at fault, rather than the model or the machine.
    pub fn is_bug(&self) -> bool {
        match self {
            CompileError::Verify(_)
            | CompileError::WithoutLlvm(_)
            | CompileError::WeightsDtype(_)
            | CompileError::Precision(_)
            | CompileError::TooOld { .. }
            | CompileError::Device(_)
            | CompileError::Build(_) => false,
            CompileError::Rewrite(_)
            | CompileError::Schedule(_)
            | CompileError::Internal { .. }
            | CompileError::Cranelift(_) => true,
            #[cfg(feature = "llvm")]
            CompileError::Llvm(_) => true,
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
    /// For a GPU those of `gpu`, otherwise those of any CPU, once somebody wants them.
    functions: OnceLock<Vec<Function>>,
    /// What rewriting did.
    pub report: Report,
    /// Which code [`Compiled::load`] makes for the CPU.
    pub tier: Tier,
    /// What a GPU rounds the factors of products of f32 to.
    pub precision: ProductPrecision,
    /// The GPU that [`Compiled::functions`] are scheduled for, where they are for one.
    pub gpu: GpuLimits,
    /// How it runs loops over time.
    pub loops: LoopForm,
    /// The parameters that are stored narrower than given, if that was asked for.
    pub narrow_weights: Option<NarrowWeights>,
}

/// Compiles a graph down to Kernel IR.
///
/// # Errors
/// Where the graph is invalid. Errors that are fuse's own fault say so ([`CompileError::is_bug`]).
pub fn compile(graph: &Graph, options: &CompileOptions) -> Result<Compiled, CompileError> {
    fuse_ir::verify(graph)?;
    if let (Target::Cuda, Some(dtype)) = (options.target, options.weights_dtype.dtype()) {
        return Err(CompileError::WeightsDtype(dtype));
    }
    let precision = options.precision;
    if options.target == Target::Cpu && precision != ProductPrecision::F32 {
        return Err(CompileError::Precision(precision));
    }
    let mut optimized = fuse_rewrite::optimize(graph, &options.target.model(), &options.rewrite)?;
    let narrow_weights = options.weights_dtype.dtype().map(|dtype| NarrowWeights {
        dtype,
        parameters: fuse_rewrite::narrow_parameters(graph, &mut optimized.kernels, dtype),
    });
    fuse_ir::verify_kernels(&optimized.kernels)
        .map_err(|e| CompileError::Internal { stage: "rewriting", problem: e.to_string() })?;
    let functions = match options.target {
        Target::Cpu => OnceLock::new(),
        Target::Cuda => schedule_for_gpu(&optimized.kernels, options.gpu, precision, options.loops)?.into(),
    };
    let (kernels, report, tier) = (optimized.kernels, optimized.report, options.tier);
    let (graph, gpu, loops) = (graph.clone(), options.gpu, options.loops);
    Ok(Compiled { graph, kernels, functions, report, tier, precision, gpu, loops, narrow_weights })
}

/// The loop nest of each kernel for a target, verified.
pub(crate) fn schedule_all(
    kernels: &KernelGraph,
    target: ScheduleTarget,
) -> Result<Vec<Function>, CompileError> {
    let scheduled = kernels.kernels().into_iter().map(|(kernel, _)| schedule(kernels, kernel, target));
    verified(scheduled.collect::<Result<_, _>>()?)
}

/// The functions of a program for a GPU, verified.
fn schedule_for_gpu(
    kernels: &KernelGraph,
    limits: GpuLimits,
    precision: ProductPrecision,
    loops: LoopForm,
) -> Result<Vec<Function>, CompileError> {
    verified(fuse_codegen::schedule::schedule_for_gpu(kernels, limits, precision.rounding(), loops)?)
}

/// The kernels that round the factors of their products on a GPU: those that are scheduled otherwise than without
/// rounding.
///
/// # Errors
/// As [`compile`].
pub fn rounded_kernels(
    kernels: &KernelGraph,
    limits: GpuLimits,
    precision: ProductPrecision,
    loops: LoopForm,
) -> Result<Vec<String>, CompileError> {
    if precision == ProductPrecision::F32 {
        return Ok(Vec::new());
    }
    different(kernels, limits, loops, &schedule_for_gpu(kernels, limits, precision, loops)?)
}

/// The names of functions for a GPU that are others than those without rounding.
fn different(
    kernels: &KernelGraph,
    limits: GpuLimits,
    loops: LoopForm,
    rounded: &[Function],
) -> Result<Vec<String>, CompileError> {
    let exact = schedule_for_gpu(kernels, limits, ProductPrecision::F32, loops)?;
    let differ = exact.iter().zip(rounded).filter(|(exact, rounded)| exact != rounded);
    Ok(differ.map(|(_, rounded)| rounded.name.clone()).collect())
}

fn verified(functions: Vec<Function>) -> Result<Vec<Function>, CompileError> {
    for function in &functions {
        fuse_codegen::verify::verify(function)
            .map_err(|e| CompileError::Internal { stage: "scheduling", problem: e.to_string() })?;
    }
    Ok(functions)
}

impl Compiled {
    /// The loop nest of each kernel, in order of [`KernelGraph::kernels`]; on a GPU those of a loop may be one. For the CPU they
    /// are made when they are first asked for, since each tier changes the kernels and schedules them for itself.
    ///
    /// # Errors
    /// Where scheduling fails.
    pub fn functions(&self) -> Result<&[Function], CompileError> {
        if let Some(functions) = self.functions.get() {
            return Ok(functions);
        }
        let functions = schedule_all(&self.kernels, ScheduleTarget::cpu())?;
        Ok(self.functions.get_or_init(|| functions))
    }

    /// Emits code for a device and loads it.
    ///
    /// # Errors
    /// Where the device does not take the code.
    pub fn load(&self, device: &Device) -> Result<Executable, CompileError> {
        let mut executable = self.load_code(device)?;
        if let Some(narrow) = &self.narrow_weights {
            executable.limit_parameters(&narrow.parameters, narrow.dtype);
        }
        Ok(executable)
    }

    fn load_code(&self, device: &Device) -> Result<Executable, CompileError> {
        match (device.name(), self.tier) {
            (DeviceName::Cpu, Tier::Fast) => self.load_fast(device, fast::RUNS_OF_LASTING_CODE),
            #[cfg(feature = "llvm")]
            (DeviceName::Cpu, Tier::Peak) => {
                let HostCode { kernels, functions, module } =
                    peak::compile(&self.graph, &self.kernels, device.threads())?;
                Ok(Executable::new(&self.graph, kernels, &functions, Code::Host(module), device)?)
            }
            #[cfg(feature = "llvm")]
            (DeviceName::Cpu, Tier::Auto) => {
                let mut executable = self.load_fast(device, fast::RUNS_OF_FIRST_CODE)?;
                let (graph, kernels) = (self.graph.clone(), Arc::new(self.kernels.clone()));
                let threads = device.threads();
                let making = Making::new(peak::FUNCTION_TIME, {
                    let kernels = kernels.clone();
                    move || peak::expected_time(&kernels, threads)
                });
                executable.improve(making, move |urgency| peak::improve(graph, kernels, threads, urgency));
                Ok(executable)
            }
            (DeviceName::Sim { .. } | DeviceName::Cuda(_), _) => {
                let limits = device.gpu_limits()?.unwrap_or_else(GpuLimits::h100);
                self.load_ptx(device, &self.functions_for(limits)?, limits)
            }
        }
    }

    /// The functions for a GPU that has so much.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn functions_for(&self, limits: GpuLimits) -> Result<Cow<'_, [Function]>, CompileError> {
        if limits == self.gpu {
            return Ok(Cow::Borrowed(self.functions()?));
        }
        Ok(Cow::Owned(schedule_for_gpu(&self.kernels, limits, self.precision, self.loops)?))
    }

    /// The kernels that round the factors of their products.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn rounded_kernels(&self) -> Result<Vec<String>, CompileError> {
        match self.precision {
            ProductPrecision::F32 => Ok(Vec::new()),
            _ => different(&self.kernels, self.gpu, self.loops, self.functions()?),
        }
    }

    /// The fast tier's code, which is to be worth compiling for so many runs.
    fn load_fast(&self, device: &Device, runs: f64) -> Result<Executable, CompileError> {
        let start = Instant::now();
        let (kernels, functions) = fast::schedule(&self.graph, &self.kernels)?;
        let scheduled = start.elapsed();
        let efforts = fast::efforts(&kernels, &functions, runs);
        let module = cranelift::compile_cpu_with(&functions, &efforts, device.threads())?;
        let (compiled, functions_made) = (start.elapsed() - scheduled, functions.len());
        let quick = efforts.iter().filter(|e| **e == Effort::Quick).count();
        let values = functions.iter().map(|f| f.types.len()).sum::<usize>();
        tracing::debug!(
            graph = kernels.name,
            ?scheduled,
            ?compiled,
            functions = functions_made,
            quick,
            values,
            "the fast tier is compiled"
        );
        let code = Code::Host(Arc::new(module));
        Ok(Executable::new(&self.graph, kernels, &functions, code, device)?)
    }

    #[cfg(feature = "llvm")]
    fn load_ptx(
        &self,
        device: &Device,
        functions: &[Function],
        limits: GpuLimits,
    ) -> Result<Executable, CompileError> {
        use fuse_codegen::llvm::Arch;
        let (major, minor) = device.compute_capability()?.unwrap_or((7, 5));
        let too_old = || CompileError::TooOld { device: device.name(), major, minor };
        let arch = Arch::for_gpu((major, minor), &limits).ok_or_else(too_old)?;
        let (kernels, precision) = (self.kernels.clone(), self.precision);
        let code = ptx_code(functions, arch)?;
        let mut executable = Executable::new(&self.graph, kernels.clone(), functions, code, device)?;
        if functions.iter().any(|f| matches!(f.mapping, Mapping::Resident { .. } | Mapping::Clusters { .. }))
        {
            // Not in clusters either, for which there may be no room.
            let limits = GpuLimits { cluster_blocks: 1, ..limits };
            executable.fall_back_to(Box::new(move || {
                let functions = schedule_for_gpu(&kernels, limits, precision, LoopForm::Steps);
                let functions = functions.map_err(|e| e.to_string())?;
                let code = ptx_code(&functions, arch).map_err(|e| e.to_string())?;
                Ok((functions, code))
            }));
        }
        Ok(executable)
    }

    #[cfg(not(feature = "llvm"))]
    fn load_ptx(&self, device: &Device, _: &[Function], _: GpuLimits) -> Result<Executable, CompileError> {
        Err(CompileError::WithoutLlvm(device.name()))
    }
}

/// PTX of functions, with indices of 32 bits where they suffice, and the same with 64 where a run needs it.
#[cfg(feature = "llvm")]
fn ptx_code(functions: &[Function], arch: fuse_codegen::llvm::Arch) -> Result<Code, LlvmError> {
    use fuse_codegen::llvm::{Indices, PtxOptions, ptx};
    let modules = vec![ptx::ptx(functions, &PtxOptions::new(arch))?];
    let functions = functions.to_vec();
    let options = PtxOptions { indices: Indices::Wide, ..PtxOptions::new(arch) };
    let wide = move || Ok(vec![ptx::ptx(&functions, &options).map_err(|e| e.to_string())?]);
    Ok(Code::NarrowPtx { modules, wide: Box::new(wide) })
}
