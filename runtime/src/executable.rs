//! The executable: compiled once, bound to its weights once, run at any dimensions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use cudarc::driver::CudaSlice;
use fuse_codegen::kernel_ir::Function;
use fuse_ir::bind::bind_given_dims;
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::{BufferKind, KernelGraph};
use fuse_ir::{DType, Graph, InputKind, Tensor};

use crate::arguments::Arguments;
use crate::block::{Block, OutOfMemory};
use crate::cpu::{CpuDevice, CpuRun, HostModule, expected_time};
use crate::cuda::{CudaCode, CudaDevice, CudaRun};
use crate::device::{Device, Kind};
use crate::error::{BuildError, RunError};
use crate::fallback::Fallback;
use crate::improvement::{HostCode, Improvement, Making, Offer, Progress, RunTime, Urgency, WORTH_IMPROVING};
use crate::narrow;
use crate::plan::MemoryPlan;
use crate::profile::{KernelTime, Profile};
use crate::program::{Quantities, RunState};
use crate::sim::device::{SimCode, SimRun};
use crate::version::{Instance, Version};
use crate::weights::{Bound, Weights};
use crate::wide::MakePtx;

mod choice;
mod dims;

use choice::{Choice, Form};

/// Arenas kept for later runs; as many runs at once allocate nothing.
const ARENAS_KEPT: usize = 8;

/// Compiled functions, in the order of the function list they come with.
pub enum Code {
    /// Machine code of this processor.
    Host(Arc<dyn HostModule>),
    /// PTX modules that together have an entry point of each function's name.
    Ptx(Vec<String>),
    /// The same with indices of 32 bits where [`Widths::assumed`](fuse_codegen::indices::Widths::assumed) finds that
    /// these suffice.
    NarrowPtx {
        /// The modules.
        modules: Vec<String>,
        /// Makes those with indices of 64 bits, for runs at dimensions that need them.
        wide: MakePtx,
    },
}

/// A bound weight.
struct Parameter {
    dtype: DType,
    shape: Vec<usize>,
    memory: ParameterMemory,
}

enum ParameterMemory {
    /// In [`Executable::bound`].
    Host,
    Sim(Vec<u8>),
    Cuda(CudaSlice<u8>),
}

/// What runs the program.
enum Backend {
    Cpu { device: CpuDevice, arenas: Mutex<Vec<Block>> },
    Sim { code: SimCode },
    Cuda { device: CudaDevice, code: CudaCode },
}

/// A compiled program on a device. Runs may be made from several threads at once; each has its own arena.
pub struct Executable {
    graph: Graph,
    device: Device,
    form: Form,
    /// What runs where a GPU has no room for loops as one launch.
    fallback: Option<Fallback<Form>>,
    /// By position of the graph input.
    parameters: Vec<Option<Parameter>>,
    /// The types that parameters must fit beside their own, by position of the graph input.
    limits: Vec<Option<DType>>,
    /// What runs, with its weights on the CPU; replaced as a whole, between runs.
    bound: Mutex<Bound>,
    progress: Mutex<Progress>,
}

/// A parameter on its way to the device.
struct Loaded {
    position: usize,
    parameter: Parameter,
    /// What the CPU keeps of it.
    tensor: Option<Tensor>,
}

/// What one call on the CPU runs, on what.
struct CpuCall<'a> {
    version: &'a Version,
    weights: &'a Weights,
    instance: &'a Arc<Instance>,
    /// The inputs that are not bound.
    given: &'a [Option<&'a Tensor>],
    profile: Option<Arc<Profile>>,
}

impl Executable {
    /// Makes an executable of `graph` on `device`, where `kernels` is what the graph was rewritten to, `functions`
    /// what the kernels were scheduled to (by the kernels' names), and `code` what these were compiled to.
    ///
    /// # Errors
    /// Where the parts do not belong together, or the device does not take the code.
    pub fn new(
        graph: &Graph,
        kernels: KernelGraph,
        functions: &[Function],
        code: Code,
        device: &Device,
    ) -> Result<Executable, BuildError> {
        let module = match &code {
            Code::Host(module) => Some(module.clone()),
            Code::Ptx(_) | Code::NarrowPtx { .. } => None,
        };
        let version = Version::new(graph, kernels, functions, module, device)?;
        let form = match (&device.kind, &version.module) {
            (Kind::Cpu(cpu), Some(_)) => {
                let backend = Backend::Cpu { device: cpu.clone(), arenas: Mutex::default() };
                Form { backend, wide: None }
            }
            (Kind::Sim(_) | Kind::Cuda(_), None) => Form::of_ptx(device, functions, code)?,
            (Kind::Cpu(_), None) | (Kind::Sim(_) | Kind::Cuda(_), Some(_)) => {
                let function = functions.first().map_or_else(String::new, |f| f.name.clone());
                return Err(BuildError::Mapping { function, device: device.name().to_string() });
            }
        };
        Ok(Executable {
            graph: graph.clone(),
            device: device.clone(),
            form,
            fallback: None,
            parameters: graph.inputs().iter().map(|_| None).collect(),
            limits: vec![None; graph.inputs().len()],
            bound: Mutex::new(Bound::new(Arc::new(version), graph.inputs().len())),
            progress: Mutex::new(Progress::Idle),
        })
    }

    /// Has [`Executable::bind`] refuse a value of these parameters, by position of the graph input, that is finite as
    /// given but not once it is rounded to `dtype`, in which the program stores them.
    pub fn limit_parameters(&mut self, parameters: &[usize], dtype: DType) {
        for position in parameters {
            if let Some(limit) = self.limits.get_mut(*position) {
                *limit = Some(dtype);
            }
        }
    }

    /// Replaces the code by better code of the same graph when that is there, never within a run. `start` has it made,
    /// which takes about `making` where somebody waits for it, or says that there will be none. It is called when a
    /// run is expected to take longer than that, which then waits, and otherwise in the background, before or after
    /// the run with which all runs take some milliseconds. Without effect on other devices than the CPU.
    pub fn improve(
        &mut self,
        making: impl Into<Making>,
        start: impl FnOnce(Urgency) -> Option<Improvement> + Send + 'static,
    ) {
        let offer = Offer { start: Box::new(start), making: making.into(), ran: Duration::ZERO };
        *lock(&self.progress) = Progress::Waiting(offer);
    }

    /// Has better code made now and waits until it is in use, or known not to come.
    pub fn wait_for_improvement(&self) {
        let mut progress = lock(&self.progress);
        progress.start(Urgency::Now);
        if let Some(code) = progress.take(true) {
            self.replace(code);
        }
    }

    /// Has better code made if it is worth it for a run of so much work, and uses what has come. Only a run that is
    /// expected to take longer than making the code waits for it.
    fn take_improvement(&self, quantities: &Quantities) {
        let Backend::Cpu { device, .. } = &self.form.backend else { return };
        let time =
            quantities.total.map_or(RunTime::default(), |total| expected_time(total, device.threads()));
        tracing::trace!(graph = self.graph.name(), ?time, total = ?quantities.total, "the fast tier's time");
        // While another run has code made that is worth waiting for, it is for this one too if it takes as long.
        let mut progress = match try_lock(&self.progress) {
            Some(progress) => progress,
            None if time.time > WORTH_IMPROVING => lock(&self.progress),
            None => return,
        };
        let wait = progress.expect(time) == Some(Urgency::Now);
        if let Some(code) = progress.take(wait) {
            self.replace(code);
        }
    }

    /// Uses other code from the next run on, and lets go what the code so far needs alone. Where it does not fit the
    /// machine, the code so far stays.
    fn replace(&self, code: HostCode) {
        let HostCode { kernels, functions, module } = code;
        let version = Version::new(&self.graph, kernels, &functions, Some(module), &self.device);
        let taken = version.map_err(|e| e.to_string()).and_then(|version| self.take(version));
        match taken {
            Ok(()) => tracing::debug!(graph = self.graph.name(), "better code is in use"),
            Err(reason) => tracing::warn!(graph = self.graph.name(), reason, "better code is not used"),
        }
    }

    fn take(&self, version: Version) -> Result<(), String> {
        let Backend::Cpu { device, arenas } = &self.form.backend else { return Ok(()) };
        let limit = self.device.memory_limit();
        version.check_limit(limit).map_err(|e| e.to_string())?;
        let mut bound = lock(&self.bound);
        if !bound.replace(Arc::new(version)) {
            return Err("weights that it needs are gone".into());
        }
        lock(arenas).clear();
        // What fails here is tried again before the next run, which then fails with the same error.
        bound.prepare(device, limit, true).map_err(|e| e.to_string())
    }

    /// Whether no better code will come.
    fn is_settled(&self) -> bool {
        try_lock(&self.progress).is_some_and(|progress| matches!(*progress, Progress::Idle))
    }

    fn version(&self) -> Arc<Version> {
        lock(&self.bound).version().clone()
    }

    /// The program with its weights, all of which are bound.
    fn ready(&self) -> Result<(Arc<Version>, Arc<Weights>), RunError> {
        let settled = self.is_settled();
        let mut bound = lock(&self.bound);
        if let Backend::Cpu { device, .. } = &self.form.backend {
            bound.prepare(device, self.device.memory_limit(), settled)?;
        }
        Ok((bound.version().clone(), bound.weights().clone()))
    }

    /// The graph that was compiled.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The kernels that run at each call; on the CPU without those that only weights decide.
    pub fn kernels(&self) -> Arc<KernelGraph> {
        self.version().kernels.clone()
    }

    /// The device that they run on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Binds weights by name; may be called again to bind more or others. A GPU gets copies. The CPU shares the tensor's
    /// memory as long as it needs it: what depends on weights alone is computed once, here, or before the first run where
    /// better code may come until then, and what only that needs is let go.
    ///
    /// # Errors
    /// Where a name is no parameter's, a tensor does not fit its declared type, or a value not the type that it is
    /// stored in. Earlier parameters of the same
    /// call stay bound.
    pub fn bind(&mut self, parameters: impl IntoIterator<Item = (String, Tensor)>) -> Result<(), RunError> {
        let mut loaded = Vec::new();
        let mut failure = None;
        for (name, tensor) in parameters {
            match self.load(&name, tensor) {
                Ok(parameter) => loaded.push(parameter),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let bound = self.bind_loaded(loaded);
        // After a failure too: earlier parameters of the call stay bound.
        let prepared = if self.is_settled() { self.ready().map(drop) } else { Ok(()) };
        bound?;
        failure.map_or(prepared, Err)
    }

    /// Copies a parameter to a device that is none of the host.
    fn load(&self, name: &str, tensor: Tensor) -> Result<Loaded, RunError> {
        let position = self.position(name, InputKind::Parameter)?;
        if let Some(dtype) = self.limits[position] {
            narrow::check(name, &tensor, dtype)?;
        }
        let memory = match &self.form.backend {
            Backend::Cpu { .. } => ParameterMemory::Host,
            Backend::Sim { .. } => ParameterMemory::Sim(tensor.bytes().to_vec()),
            Backend::Cuda { device, .. } => ParameterMemory::Cuda(device.upload(tensor.bytes())?),
        };
        let parameter = Parameter { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), memory };
        let tensor = matches!(self.form.backend, Backend::Cpu { .. }).then_some(tensor);
        Ok(Loaded { position, parameter, tensor })
    }

    /// Binds parameters, all at once if they fit: each check looks at every input. Otherwise one by one, up to the one
    /// that does not fit.
    fn bind_loaded(&mut self, loaded: Vec<Loaded>) -> Result<(), RunError> {
        let mut tensors = Vec::new();
        let mut parameters = Vec::new();
        for Loaded { position, parameter, tensor } in loaded {
            tensors.push((position, tensor));
            parameters.push((position, Some(parameter)));
        }
        let (fit, result) = self.swap_in(parameters);
        let bound = self.bound.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (position, tensor) in tensors.into_iter().take(fit) {
            if let Some(tensor) = tensor {
                bound.bind(position, tensor);
            }
        }
        result
    }

    /// Puts in as many parameters as fit; their number, and what is wrong with the next.
    fn swap_in(&mut self, mut loaded: Vec<(usize, Option<Parameter>)>) -> (usize, Result<(), RunError>) {
        for (position, parameter) in &mut loaded {
            std::mem::swap(&mut self.parameters[*position], parameter);
        }
        if self.check_parameters().is_ok() {
            return (loaded.len(), Ok(()));
        }
        for (position, parameter) in loaded.iter_mut().rev() {
            std::mem::swap(&mut self.parameters[*position], parameter);
        }
        for (fit, (position, mut parameter)) in loaded.into_iter().enumerate() {
            std::mem::swap(&mut self.parameters[position], &mut parameter);
            if let Err(error) = self.check_parameters() {
                self.parameters[position] = parameter;
                return (fit, Err(error));
            }
        }
        (usize::MAX, Ok(()))
    }

    /// Refuses bound parameters that contradict their types or each other; symbols that follow from inputs stay
    /// open.
    fn check_parameters(&self) -> Result<(), RunError> {
        use fuse_ir::bind::BindError;
        match bind_given_dims(&self.graph, &self.shapes(&[]), &DimEnv::new()) {
            Ok(_) | Err(BindError::Unbound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The memory plan of a run at these dimensions; symbols that the bound parameters determine may be left out.
    ///
    /// # Errors
    /// Where a symbol has no value, or the plan is impossible or over the device's limit.
    pub fn plan(&self, dims: &DimEnv) -> Result<Arc<MemoryPlan>, RunError> {
        let plan = self.instance(&self.version(), &self.form, &[], dims)?.plan.clone();
        let kept_bytes = self.kept_bytes();
        Ok(if plan.kept_bytes == kept_bytes {
            plan
        } else {
            Arc::new(MemoryPlan { kept_bytes, ..(*plan).clone() })
        })
    }

    /// The bytes of weights as given that are kept beside what kernels read of them.
    fn kept_bytes(&self) -> u64 {
        let settled = self.is_settled();
        lock(&self.bound).kept_bytes(settled)
    }

    /// Runs once and returns the outputs in order. `dims` gives the symbols that follow from no input; others may
    /// be given too and are checked.
    ///
    /// # Errors
    /// Where an input is missing, unknown or does not fit its type, where memory does not suffice (before
    /// anything is allocated), or where the device fails.
    pub fn run<'a>(&self, inputs: impl Into<Arguments<'a>>, dims: &DimEnv) -> Result<Vec<Tensor>, RunError> {
        let mut outputs = Vec::new();
        self.run_into(inputs, dims, &mut outputs)?;
        Ok(outputs)
    }

    /// As [`Executable::run`], writing over `outputs`; those that have the right type already keep their memory.
    ///
    /// # Errors
    /// As [`Executable::run`]; the outputs are then in an unspecified state.
    pub fn run_into<'a>(
        &self,
        inputs: impl Into<Arguments<'a>>,
        dims: &DimEnv,
        outputs: &mut Vec<Tensor>,
    ) -> Result<(), RunError> {
        self.run_and_note(inputs, dims, outputs, None)
    }

    /// Runs once and says how long each kernel took, in order of first launch: on each thread of a CPU, the times
    /// including those of taking them, some 50 ns a launch; on a GPU between CUDA events, what is between launches
    /// included. Empty on the simulated GPU.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn profile<'a>(
        &self,
        inputs: impl Into<Arguments<'a>>,
        dims: &DimEnv,
    ) -> Result<Vec<KernelTime>, RunError> {
        let profile = Arc::new(Profile::default());
        self.run_and_note(inputs, dims, &mut Vec::new(), Some(profile.clone()))?;
        Ok(profile.kernels())
    }

    fn run_and_note<'a>(
        &self,
        inputs: impl Into<Arguments<'a>>,
        dims: &DimEnv,
        outputs: &mut Vec<Tensor>,
        profile: Option<Arc<Profile>>,
    ) -> Result<(), RunError> {
        let given = self.arrange(inputs.into())?;
        let mut version = self.version();
        let mut instance = self.instance(&version, &self.form, &given, dims)?;
        self.take_improvement(&instance.quantities);
        let (ready, weights) = self.ready()?;
        if !Arc::ptr_eq(&ready, &version) {
            version = ready;
            instance = self.instance(&version, &self.form, &given, dims)?;
        }
        let Choice { version, instance, backend } = self.choose(version, instance, &given, dims)?;
        self.shape_outputs(&instance, outputs)?;
        match backend {
            Backend::Cpu { device, arenas } => {
                let start = Instant::now();
                let mut arena = take_arena(arenas, instance.plan.arena_bytes)?;
                let (version, weights) = (&version, &weights);
                let call = CpuCall { version, weights, instance: &instance, given: &given, profile };
                let result = self.run_on_cpu(device, call, outputs, &mut arena);
                let mut arenas = lock(arenas);
                if arenas.len() < ARENAS_KEPT {
                    arenas.push(arena);
                }
                // Where another run has better code made, there is nothing to start.
                if let Some(mut progress) = try_lock(&self.progress) {
                    progress.ran(start.elapsed());
                }
                result
            }
            Backend::Sim { code } => {
                let parameters: Vec<Option<&[u8]>> = self.parameters.iter().map(simulated_bytes).collect();
                code.run(SimRun {
                    program: &version.program,
                    instance: &instance,
                    kernels: &version.kernels,
                    inputs: &given,
                    parameters: &parameters,
                    outputs,
                })
            }
            Backend::Cuda { code, .. } => {
                let parameters: Vec<Option<&CudaSlice<u8>>> = self
                    .parameters
                    .iter()
                    .map(|p| match p.as_ref().map(|p| &p.memory) {
                        Some(ParameterMemory::Cuda(memory)) => Some(memory),
                        Some(ParameterMemory::Host | ParameterMemory::Sim(_)) | None => None,
                    })
                    .collect();
                code.run(CudaRun {
                    program: &version.program,
                    instance: &instance,
                    kinds: &version.kinds,
                    inputs: &given,
                    parameters: &parameters,
                    outputs,
                    profile: profile.as_deref(),
                })
            }
        }
    }

    fn run_on_cpu(
        &self,
        device: &CpuDevice,
        call: CpuCall,
        outputs: &mut [Tensor],
        arena: &mut Block,
    ) -> Result<(), RunError> {
        let CpuCall { version, weights, instance, given, profile } = call;
        let base = arena.address_mut();
        let mut addresses = vec![base as u64; version.kinds.len()];
        for placement in &instance.plan.placements {
            addresses[placement.buffer.index()] = base as u64 + placement.offset;
        }
        // Memory of tensors that are empty or not aligned to their elements.
        let mut stand_ins = Vec::new();
        let mut copied_back = Vec::new();
        for (b, kind) in version.kinds.iter().enumerate() {
            let address = match kind {
                BufferKind::Temporary | BufferKind::State => continue,
                BufferKind::Input(i) if !version.reads[*i] => continue,
                BufferKind::Input(i) => match (&weights[*i], given.get(*i).copied().flatten()) {
                    (Some(block), _) => block.address(),
                    (None, Some(tensor)) => match aligned_address(tensor) {
                        Some(address) => address,
                        None => {
                            stand_ins.push(Block::copy_of(tensor.bytes())?);
                            stand_ins.last().map_or(base, Block::address)
                        }
                    },
                    (None, None) => return Err(self.missing(*i)),
                },
                BufferKind::Output(i) => match aligned_address(&outputs[*i]) {
                    Some(_) => outputs[*i].bytes_mut().as_mut_ptr().expose_provenance(),
                    None => {
                        let mut block = Block::zeroed(instance.plan.buffer_bytes[b])?;
                        let address = block.address_mut();
                        copied_back.push((*i, block));
                        address
                    }
                },
            };
            addresses[b] = address as u64;
        }
        let Some(module) = version.module.clone() else {
            return Err(RunError::Panicked("a version without code".into()));
        };
        device.run(CpuRun {
            program: version.program.clone(),
            instance: instance.clone(),
            module,
            state: RunState::new(addresses, &instance.quantities),
            error: Mutex::default(),
            profile,
        })?;
        for (i, block) in &copied_back {
            block.copy_to(outputs[*i].bytes_mut());
        }
        Ok(())
    }

    /// The position of the input of that name and kind.
    fn position(&self, name: &str, kind: InputKind) -> Result<usize, RunError> {
        let found = self.graph.inputs().iter().position(|i| i.name == name && i.kind == kind);
        found.ok_or_else(|| RunError::Unknown {
            kind: kind_name(kind),
            name: name.to_string(),
            known: self.names(kind),
        })
    }

    fn names(&self, kind: InputKind) -> Vec<String> {
        self.graph.inputs().iter().filter(|i| i.kind == kind).map(|i| i.name.clone()).collect()
    }

    fn missing(&self, position: usize) -> RunError {
        let input = &self.graph.inputs()[position];
        RunError::Missing {
            kind: kind_name(input.kind),
            name: input.name.clone(),
            expected: self.graph.ty(input.value).to_string(),
        }
    }
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable")
            .field("graph", &self.graph.name())
            .field("device", &self.device)
            .field("kernels", &self.version().program.launches.len())
            .finish_non_exhaustive()
    }
}

/// The bytes of a weight that is bound to a simulated GPU.
fn simulated_bytes(parameter: &Option<Parameter>) -> Option<&[u8]> {
    match parameter.as_ref().map(|p| &p.memory) {
        Some(ParameterMemory::Sim(bytes)) => Some(bytes),
        Some(ParameterMemory::Host | ParameterMemory::Cuda(_)) | None => None,
    }
}

fn kind_name(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Input => "input",
        InputKind::Parameter => "parameter",
    }
}

/// Nothing is left half-changed under these locks, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lock if nobody has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// The address of a tensor's elements, exposed; `None` for an empty one, or where they are not aligned.
fn aligned_address(tensor: &Tensor) -> Option<usize> {
    let start = tensor.bytes().as_ptr();
    let usable = tensor.elements() > 0 && start.addr().is_multiple_of(tensor.dtype().size());
    usable.then(|| start.expose_provenance())
}

/// An arena of at least `bytes`, an earlier run's where one is large enough.
fn take_arena(arenas: &Mutex<Vec<Block>>, bytes: u64) -> Result<Block, OutOfMemory> {
    let mut arenas = lock(arenas);
    if let Some(at) = arenas.iter().position(|a| a.capacity() >= bytes) {
        return Ok(arenas.swap_remove(at));
    }
    // A larger one replaces the one that was too small.
    drop(arenas.pop());
    drop(arenas);
    Block::zeroed(bytes)
}
