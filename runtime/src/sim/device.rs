//! The simulated GPU as a device of the runtime: the launches of a program, on memory made anew for each run, so that
//! every buffer has bounds of its own and what a run never wrote is known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_ir::Tensor;
use fuse_ir::bind::concrete_shape;
use fuse_ir::kernel::{BufferKind, KernelGraph};

use super::{Content, Counters, Launch, Memory, Module};
use crate::device::DeviceError;
use crate::error::RunError;
use crate::program::{self, Program, RunState, StepRunner, walk};
use crate::version::Instance;

/// The compute capability that is simulated.
pub(crate) const CAPABILITY: (u32, u32) = (9, 0);

/// The simulated GPU. Clones share what was counted.
#[derive(Clone)]
pub(crate) struct SimDevice {
    /// Threads of the host that run blocks.
    threads: usize,
    /// Multiprocessors that are left for it, where these are not all.
    multiprocessors: Option<u32>,
    /// Whether it is given code for its own architecture alone.
    warp_groups: bool,
    /// By kernel.
    counted: Arc<Mutex<BTreeMap<String, Counters>>>,
}

impl SimDevice {
    pub fn new(threads: usize, multiprocessors: Option<u32>, warp_groups: bool) -> SimDevice {
        SimDevice { threads: threads.max(1), multiprocessors, warp_groups, counted: Arc::default() }
    }

    pub fn has_warp_groups(&self) -> bool {
        self.warp_groups
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What launches cost since the device was opened, by kernel.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads PTX modules and finds each function's kernel in them.
    pub fn load(&self, ptx: &[String], functions: &[Function]) -> Result<SimCode, DeviceError> {
        let modules: Result<Vec<Module>, _> = ptx.iter().map(|text| Module::parse(text)).collect();
        let mut modules = modules?;
        if let Some(multiprocessors) = self.multiprocessors {
            modules.iter_mut().for_each(|module| module.set_multiprocessors(multiprocessors));
        }
        let find = |function: &Function| {
            let has = |m: &Module| m.kernels().any(|k| k == function.name);
            modules.iter().position(has).ok_or_else(|| DeviceError::NoEntry(function.name.clone()))
        };
        let entries = functions.iter().map(find).collect::<Result<_, _>>()?;
        Ok(SimCode { device: self.clone(), modules, entries })
    }
}

/// Loaded modules.
pub(crate) struct SimCode {
    device: SimDevice,
    modules: Vec<Module>,
    /// The module of each function.
    entries: Vec<usize>,
}

/// What one run of loaded code works on.
pub(crate) struct SimRun<'a> {
    pub program: &'a Program,
    pub instance: &'a Instance,
    pub kernels: &'a KernelGraph,
    /// By position of the graph input; `None` where a parameter is bound.
    pub inputs: &'a [Option<&'a Tensor>],
    /// By position of the graph input.
    pub parameters: &'a [Option<&'a [u8]>],
    pub outputs: &'a mut [Tensor],
}

impl SimCode {
    /// How many blocks of a launch there is room for at once.
    pub fn room(&self, launch: &program::Launch) -> u64 {
        let module = &self.modules[self.entries[launch.function]];
        module.room(&launch.name, launch.mapping.block_threads().unwrap_or(1), launch.shared_bytes)
    }

    /// Runs once.
    pub fn run(&self, run: SimRun<'_>) -> Result<(), RunError> {
        let mut memory = Memory::new();
        let plan = &run.instance.plan;
        let buffers = run.kernels.buffers.iter().zip(&plan.buffer_bytes);
        let addresses: Vec<u64> = buffers
            .map(|(buffer, bytes)| {
                let element = buffer.ty.dtype.size() as u64;
                let given = match buffer.kind {
                    BufferKind::Input(i) => {
                        let bound = run.parameters.get(i).copied().flatten();
                        bound.or_else(|| Some(run.inputs.get(i).copied().flatten()?.bytes()))
                    }
                    BufferKind::Output(_) | BufferKind::Temporary | BufferKind::State => None,
                };
                match given {
                    Some(given) if !given.is_empty() => {
                        memory.allocate_with(&buffer.name, given, element, Content::Constant)
                    }
                    // An empty buffer has one element that may be read.
                    _ if concrete_shape(&buffer.ty.shape, &plan.dims).is_ok_and(|s| s.contains(&0)) => {
                        memory.allocate(&buffer.name, *bytes, element, Content::Written)
                    }
                    _ => memory.allocate(&buffer.name, *bytes, element, Content::Unwritten),
                }
            })
            .collect();
        let mut state = RunState::new(addresses.clone(), &run.instance.quantities);
        let mut launcher = Launcher { code: self, memory: &mut memory };
        walk(run.program, &run.instance.quantities, &mut state, &mut launcher)?;
        for (buffer, address) in run.kernels.buffers.iter().zip(&addresses) {
            let BufferKind::Output(i) = buffer.kind else { continue };
            if let Some(tensor) = run.outputs.get_mut(i) {
                memory.read(*address, tensor.bytes_mut());
            }
        }
        Ok(())
    }
}

/// Executes each launch.
struct Launcher<'a> {
    code: &'a SimCode,
    memory: &'a mut Memory,
}

impl StepRunner for Launcher<'_> {
    fn launch(
        &mut self,
        _: usize,
        launch: &program::Launch,
        work: i64,
        state: &RunState,
    ) -> Result<(), RunError> {
        let Some(block) = launch.mapping.block_threads() else {
            return Err(DeviceError::NoEntry(launch.name.clone()).into());
        };
        let blocks = launch.mapping.blocks(work.unsigned_abs());
        let grid = u32::try_from(blocks).ok().filter(|g| *g <= i32::MAX as u32).ok_or_else(|| {
            let blocks = i64::try_from(blocks).unwrap_or(i64::MAX);
            DeviceError::GridTooLarge { kernel: launch.name.clone(), blocks }
        })?;
        let buffers = launch.buffers.iter().map(|b| state.addresses[*b]);
        let mut arguments: Vec<u64> =
            buffers.chain(launch.symbols.iter().map(|s| state.symbols[*s] as u64)).collect();
        if matches!(launch.mapping, Mapping::Resident { .. }) {
            arguments.push(self.memory.allocate_with("barrier", &[0; 4], 4, Content::Written));
        }
        let module = &self.code.modules[self.code.entries[launch.function]];
        let counters = module
            .launch(
                self.memory,
                &Launch {
                    kernel: &launch.name,
                    grid: [grid, 1, 1],
                    block: [block, 1, 1],
                    shared_bytes: launch.shared_bytes,
                    arguments: &arguments,
                    threads: self.code.device.threads,
                    cooperative: matches!(launch.mapping, Mapping::Resident { .. }),
                    clusters: None,
                },
            )
            .map_err(DeviceError::from)?;
        let mut counted = self.code.device.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.entry(launch.name.clone()).or_default() += counters;
        Ok(())
    }
}
