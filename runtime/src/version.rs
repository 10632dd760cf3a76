//! A program in one form of code, with everything that goes with that form. Better code replaces all of it at once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_ir::expr::DimEnv;
use fuse_ir::kernel::{BufferId, BufferKind, KernelGraph};
use fuse_ir::{DType, Graph};

use crate::cpu::{HostModule, Spread};
use crate::device::{Device, Kind};
use crate::error::BuildError;
use crate::plan::{MemoryPlan, PlanError};
use crate::prepare::{Part, Split, needed, split};
use crate::program::{Program, Quantities};

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

/// A part of what runs before the first call, see [`crate::prepare`].
pub(crate) struct Preparation {
    pub kernels: KernelGraph,
    pub program: Arc<Program>,
    /// The buffers that it computes, and their positions among the main program's inputs.
    pub makes: Vec<(BufferId, usize)>,
    /// The inputs of the graph that it reads.
    pub needs: BTreeSet<usize>,
}

/// A program in one form of code.
pub(crate) struct Version {
    /// The kernels of each call.
    pub kernels: Arc<KernelGraph>,
    pub kinds: Vec<BufferKind>,
    pub program: Arc<Program>,
    /// The code, on the CPU.
    pub module: Option<Arc<dyn HostModule>>,
    pub preparations: Vec<Preparation>,
    /// Whether the kernels of a call read it, by position of the input: the graph's own, then what is prepared.
    pub reads: Vec<bool>,
    pub instances: Mutex<Instances>,
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
        let inputs = graph.inputs().len();
        let Split { parts, main: kernels, prepared } = match &device.kind {
            Kind::Cpu(_) => split(graph, &kernels),
            Kind::Sim(_) | Kind::Cuda(_) => Split { parts: Vec::new(), main: kernels, prepared: 0 },
        };
        let preparation = |Part { kernels, makes, needs }| {
            let program = Arc::new(Program::new(&kernels, functions)?);
            let makes = makes.into_iter().map(|(buffer, i)| (buffer, inputs + i)).collect();
            Ok(Preparation { kernels, program, makes, needs })
        };
        let read = needed(&kernels);
        Ok(Version {
            kinds: kernels.buffers.iter().map(|b| b.kind).collect(),
            program: Arc::new(Program::new(&kernels, functions)?),
            kernels: Arc::new(kernels),
            module,
            preparations: parts.into_iter().map(preparation).collect::<Result<_, BuildError>>()?,
            reads: (0..inputs + prepared).map(|i| read.contains(&i)).collect(),
            instances: Mutex::default(),
        })
    }

    /// Refuses preparations that take more memory than that.
    pub fn check_limit(&self, memory_limit: u64) -> Result<(), PlanError> {
        self.preparations
            .iter()
            .try_for_each(|p| MemoryPlan::new(&p.kernels, &DimEnv::new())?.check_limit(memory_limit))
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
