//! A program in one form of code, with everything that goes with that form. Better code replaces all of it at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::{BufferId, BufferKind, KernelGraph};
use fuse_ir::{DType, Graph};

use crate::block::Block;
use crate::cpu::{CpuDevice, CpuRun, HostModule, Spread};
use crate::device::{Device, Kind};
use crate::error::{BuildError, RunError};
use crate::plan::MemoryPlan;
use crate::prepare::{self, Split, split};
use crate::program::{Program, Quantities, RunState};

/// What is known of a run once its dimensions are.
#[derive(Debug)]
pub(crate) struct Instance {
    pub plan: Arc<MemoryPlan>,
    pub quantities: Quantities,
    pub spread: Spread,
    /// Whether some index needs 64 bits, where the code has only 32 for it.
    pub has_wide_indices: bool,
    /// Element type and extents of each output.
    pub outputs: Vec<(DType, Vec<usize>)>,
}

/// The dimensions of a call: element types, ranks and extents of all inputs in order, and explicit values.
pub(crate) type InstanceKey = (Vec<usize>, DimEnv);

/// Instances of earlier calls, oldest first in `order`.
#[derive(Default)]
pub(crate) struct Instances {
    pub known: HashMap<InstanceKey, Arc<Instance>>,
    pub order: VecDeque<InstanceKey>,
}

/// What runs once the parameters are bound.
struct Preparation {
    kernels: KernelGraph,
    program: Arc<Program>,
    /// The buffers it computes, in order of the further parameters.
    prepared: Vec<BufferId>,
}

/// A program in one form of code.
pub(crate) struct Version {
    /// The kernels of each call.
    pub kernels: Arc<KernelGraph>,
    pub kinds: Vec<BufferKind>,
    pub program: Arc<Program>,
    /// The code, on the CPU.
    pub module: Option<Arc<dyn HostModule>>,
    /// What was prepared from the parameters, by position of the graph input after the graph's own; empty as long as
    /// some are not bound.
    pub prepared: Vec<Block>,
    pub instances: Mutex<Instances>,
    preparation: Option<Arc<Preparation>>,
}

impl Version {
    /// Puts together what was compiled for the kernels of `graph`.
    pub fn new(
        graph: &Graph,
        kernels: KernelGraph,
        functions: &[Function],
        module: Option<Arc<dyn HostModule>>,
        device: &Device,
    ) -> Result<Version, BuildError> {
        fuse_ir::verify_kernels(&kernels)
            .map_err(|e| BuildError::Kernels(e.to_string().trim_end().to_string()))?;
        check_interface(graph, &kernels)?;
        check_mapping(functions, device)?;
        if let Some(missing) = module.as_ref().and_then(|m| functions.get(m.functions())) {
            return Err(BuildError::MissingFunction { kernel: missing.name.clone() });
        }
        let (kernels, preparation) = match &device.kind {
            Kind::Cpu(_) => {
                let Split { preparation, main, prepared } = split(graph, &kernels);
                let program = Arc::new(Program::new(&preparation, functions)?);
                let preparation = Preparation { kernels: preparation, program, prepared };
                (main, Some(Arc::new(preparation)).filter(|p| !p.prepared.is_empty()))
            }
            Kind::Sim(_) | Kind::Cuda(_) => (kernels, None),
        };
        Ok(Version {
            kinds: kernels.buffers.iter().map(|b| b.kind).collect(),
            program: Arc::new(Program::new(&kernels, functions)?),
            kernels: Arc::new(kernels),
            module,
            prepared: Vec::new(),
            instances: Mutex::default(),
            preparation,
        })
    }

    /// The same for other parameters, of which nothing is prepared yet.
    pub fn unprepared(&self) -> Version {
        Version {
            kernels: self.kernels.clone(),
            kinds: self.kinds.clone(),
            program: self.program.clone(),
            module: self.module.clone(),
            prepared: Vec::new(),
            instances: Mutex::default(),
            preparation: self.preparation.clone(),
        }
    }

    /// Computes what the parameters alone decide, if all that it needs are bound. `parameter` gives the address of a
    /// bound one by position of the graph input.
    pub fn prepare(
        &mut self,
        device: &CpuDevice,
        memory_limit: u64,
        parameter: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), RunError> {
        let (Some(preparation), Some(module)) = (&self.preparation, &self.module) else { return Ok(()) };
        let kernels = &preparation.kernels;
        if prepare::needed(kernels).iter().any(|i| parameter(*i).is_none()) {
            return Ok(());
        }
        let mut addresses = vec![0u64; kernels.buffers.len()];
        for (address, buffer) in addresses.iter_mut().zip(&kernels.buffers) {
            let BufferKind::Input(i) = buffer.kind else { continue };
            *address = parameter(i).unwrap_or(0) as u64;
        }
        let plan = MemoryPlan::new(kernels, &DimEnv::new())?;
        plan.check_limit(memory_limit)?;
        let mut arena = Block::zeroed(plan.arena_bytes)?;
        let base = arena.address_mut() as u64;
        for placement in &plan.placements {
            addresses[placement.buffer.index()] = base + placement.offset;
        }
        let quantities = preparation.program.quantities(&DimEnv::new())?;
        let spread = Spread::over(device.threads(), &quantities);
        let mut made = Vec::new();
        for buffer in &preparation.prepared {
            let mut memory = Block::zeroed(plan.buffer_bytes[buffer.index()])?;
            addresses[buffer.index()] = memory.address_mut() as u64;
            made.push(memory);
        }
        let state = RunState::new(addresses, &quantities);
        let instance = Arc::new(Instance {
            plan: Arc::new(plan),
            quantities,
            spread,
            has_wide_indices: false,
            outputs: Vec::new(),
        });
        let (program, module) = (preparation.program.clone(), module.clone());
        device.run(CpuRun { program, instance, module, state, error: Mutex::default(), profile: None })?;
        self.prepared = made;
        Ok(())
    }
}

/// Checks that inputs and outputs of the kernel graph are those of the graph.
fn check_interface(graph: &Graph, kernels: &KernelGraph) -> Result<(), BuildError> {
    let mut written = vec![0usize; graph.outputs().len()];
    for buffer in &kernels.buffers {
        let declared = match buffer.kind {
            BufferKind::Input(i) => graph.inputs().get(i).map(|input| graph.ty(input.value)),
            BufferKind::Output(i) => {
                if let Some(count) = written.get_mut(i) {
                    *count += 1;
                }
                graph.outputs().get(i).map(|output| graph.ty(output.value))
            }
            BufferKind::Temporary | BufferKind::State => continue,
        };
        if declared != Some(&buffer.ty) {
            let (buffer, graph) = (buffer.name.clone(), graph.name().to_string());
            return Err(BuildError::Interface { buffer, graph });
        }
    }
    match written.iter().position(|count| *count != 1) {
        Some(at) => Err(BuildError::Interface {
            buffer: graph.outputs()[at].name.clone(),
            graph: graph.name().to_string(),
        }),
        None => Ok(()),
    }
}

fn check_mapping(functions: &[Function], device: &Device) -> Result<(), BuildError> {
    for function in functions {
        let fits = match (&device.kind, function.mapping) {
            (Kind::Cpu(_), Mapping::Range) => true,
            (Kind::Cpu(_), _) => false,
            (Kind::Sim(_) | Kind::Cuda(_), mapping) => {
                mapping.block_threads().is_some_and(|threads| threads > 0)
            }
        };
        if !fits {
            let (function, device) = (function.name.clone(), device.name().to_string());
            return Err(BuildError::Mapping { function, device });
        }
    }
    Ok(())
}
