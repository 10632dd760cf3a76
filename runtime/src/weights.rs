//! The weights of a program on the CPU: as they were given, and as its kernels read them.
//!
//! What is given stays only as long as something may still be prepared from it. Preparation goes from one weight to the
//! next, so that of one at a time both forms are there.

use std::sync::{Arc, Mutex};

use fuse_ir::Tensor;
use fuse_ir::expr::DimEnv;

use crate::block::{Block, is_shareable};
use crate::cpu::{CpuDevice, CpuRun, HostModule, Spread};
use crate::error::RunError;
use crate::plan::MemoryPlan;
use crate::program::RunState;
use crate::version::{Instance, Preparation, Version};

/// What kernels read beside the inputs of a call, by position of the main program's input.
pub(crate) type Weights = Vec<Option<Block>>;

/// A program and its weights.
pub(crate) struct Bound {
    version: Arc<Version>,
    /// Calls keep those that they run with.
    weights: Arc<Weights>,
    /// The weights as given, by position of the graph input.
    given: Vec<Given>,
}

/// A weight as given.
enum Given {
    /// Not bound yet.
    Absent,
    Here(Tensor),
    /// Bound, and no longer needed.
    Gone,
}

impl Given {
    fn tensor(&self) -> Option<&Tensor> {
        match self {
            Given::Here(tensor) => Some(tensor),
            Given::Absent | Given::Gone => None,
        }
    }
}

impl Bound {
    /// A program of which no weight is bound yet.
    pub fn new(version: Arc<Version>, inputs: usize) -> Bound {
        let weights = Arc::new(vec![None; version.reads.len()]);
        Bound { version, weights, given: (0..inputs).map(|_| Given::Absent).collect() }
    }

    /// The program.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The weights, as far as they are ready.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// Takes another program for the same weights, unless it needs some that are gone; whether it does. What was prepared
    /// for the one before is let go, but for calls that run with it.
    pub fn replace(&mut self, version: Arc<Version>) -> bool {
        let mut weights: Weights = vec![None; version.reads.len()];
        for (position, given) in self.given.iter().enumerate() {
            if let Given::Gone = given {
                weights[position] = self.weights[position].clone();
                let missing = version.reads[position] && weights[position].is_none();
                if missing || version.preparations.iter().any(|p| p.needs.contains(&position)) {
                    return false;
                }
            }
        }
        self.weights = Arc::new(weights);
        self.version = version;
        true
    }

    /// Binds a weight, again or for the first time.
    pub fn bind(&mut self, position: usize, tensor: Tensor) {
        let weights = Arc::make_mut(&mut self.weights);
        weights[position] = None;
        for preparation in self.version.preparations.iter().filter(|p| p.needs.contains(&position)) {
            preparation.makes.iter().for_each(|(_, made)| weights[*made] = None);
        }
        self.given[position] = Given::Here(tensor);
    }

    /// Makes ready what can be with the weights that are bound. If the program is `settled`, no other one will come for
    /// these weights, and they are let go as given once no preparation needs them any more.
    ///
    /// # Errors
    /// Where memory does not suffice or a kernel fails; what is ready by then stays.
    pub fn prepare(&mut self, device: &CpuDevice, memory_limit: u64, settled: bool) -> Result<(), RunError> {
        let version = self.version.clone();
        self.let_go(settled);
        let pending =
            |p: &&Preparation| !self.is_done(p) && p.needs.iter().all(|i| self.given[*i].tensor().is_some());
        let pending = version.preparations.iter().filter(pending).map(|p| Pending::new(p, memory_limit));
        let pending = pending.collect::<Result<Vec<_>, _>>()?;
        let sizes: Vec<u64> = pending.iter().flat_map(Pending::sizes).collect();
        let mut blocks = Block::zeroed_together(&sizes)?.into_iter();
        for pending in pending {
            let made = blocks.by_ref().take(pending.preparation.makes.len()).collect();
            self.run(device, pending, made)?;
            self.let_go(settled);
        }
        for (position, given) in self.given.iter().enumerate() {
            if let (Given::Here(tensor), None, true) =
                (given, &self.weights[position], version.reads[position])
            {
                let block = Block::of(tensor)?;
                Arc::make_mut(&mut self.weights)[position] = Some(block);
            }
        }
        self.let_go(settled);
        Ok(())
    }

    /// The bytes of weights that stay as given beside those that kernels read.
    pub fn kept_bytes(&self, settled: bool) -> u64 {
        let kept = |(position, given): (usize, &Given)| {
            let tensor = given.tensor()?;
            let shared = self.version.reads[position] && is_shareable(tensor);
            let goes = settled && self.prepares_alone(position);
            let stays = !shared && !goes;
            stays.then_some(tensor.bytes().len() as u64)
        };
        self.given.iter().enumerate().filter_map(kept).sum()
    }

    fn is_done(&self, preparation: &Preparation) -> bool {
        preparation.makes.iter().all(|(_, made)| self.weights[*made].is_some())
    }

    /// Whether every preparation that needs a weight needs it alone, so that binding another repeats none of them.
    fn prepares_alone(&self, position: usize) -> bool {
        let mut needing = self.version.preparations.iter().filter(|p| p.needs.contains(&position));
        needing.all(|p| p.needs.len() == 1)
    }

    /// Lets go what is given and not needed as such.
    fn let_go(&mut self, settled: bool) {
        for position in 0..self.given.len() {
            let mut needing = self.version.preparations.iter().filter(|p| p.needs.contains(&position));
            let done = needing.all(|p| self.is_done(p));
            let ready = !self.version.reads[position] || self.weights[position].is_some();
            let here = self.given[position].tensor().is_some();
            if settled && here && done && ready && self.prepares_alone(position) {
                self.given[position] = Given::Gone;
            }
        }
    }

    /// Runs a preparation, which writes what it makes to `made`.
    fn run(
        &mut self,
        device: &CpuDevice,
        Pending { preparation, plan }: Pending<'_>,
        mut made: Vec<Block>,
    ) -> Result<(), RunError> {
        let kernels = &preparation.kernels;
        let mut addresses = vec![0u64; kernels.buffers.len()];
        let mut needed = Vec::new();
        for (position, address) in inputs(preparation, &mut addresses) {
            if let Some(tensor) = self.given[position].tensor() {
                let block = Block::of(tensor)?;
                *address = block.address() as u64;
                needed.push(block);
            }
        }
        let mut arena = Block::zeroed(plan.arena_bytes)?;
        let base = arena.address_mut() as u64;
        for placement in &plan.placements {
            addresses[placement.buffer.index()] = base + placement.offset;
        }
        for ((buffer, _), memory) in preparation.makes.iter().zip(&mut made) {
            addresses[buffer.index()] = memory.address_mut() as u64;
        }
        let Some(module) = self.version.module.clone() else {
            return Err(RunError::Panicked("a version without code".into()));
        };
        launch(device, preparation, plan, module, addresses)?;
        let weights = Arc::make_mut(&mut self.weights);
        let positions = preparation.makes.iter().map(|(_, position)| *position);
        positions.zip(made).for_each(|(position, memory)| weights[position] = Some(memory));
        Ok(())
    }
}

/// A preparation of which everything needed is there.
struct Pending<'p> {
    preparation: &'p Preparation,
    plan: MemoryPlan,
}

impl<'p> Pending<'p> {
    fn new(preparation: &'p Preparation, memory_limit: u64) -> Result<Pending<'p>, RunError> {
        let plan = MemoryPlan::new(&preparation.kernels, &DimEnv::new())?;
        plan.check_limit(memory_limit)?;
        Ok(Pending { preparation, plan })
    }

    /// The bytes of what it makes.
    fn sizes(&self) -> impl Iterator<Item = u64> {
        self.preparation.makes.iter().map(|(buffer, _)| self.plan.buffer_bytes[buffer.index()])
    }
}

/// Runs a preparation once, its memory at these addresses, which stays where it is until this returns.
fn launch(
    device: &CpuDevice,
    preparation: &Preparation,
    plan: MemoryPlan,
    module: Arc<dyn HostModule>,
    addresses: Vec<u64>,
) -> Result<(), RunError> {
    let quantities = preparation.program.quantities(&DimEnv::new())?;
    let spread = Spread::over(device.threads(), &quantities);
    let state = RunState::new(addresses, &quantities);
    let instance = Arc::new(Instance {
        plan: Arc::new(plan),
        quantities,
        spread,
        has_wide_indices: false,
        outputs: Vec::new(),
    });
    let program = preparation.program.clone();
    device.run(CpuRun { program, instance, module, state, error: Mutex::default(), profile: None })
}

/// The inputs of the graph that a preparation reads, and where their addresses go.
fn inputs<'a>(
    preparation: &'a Preparation,
    addresses: &'a mut [u64],
) -> impl Iterator<Item = (usize, &'a mut u64)> {
    use fuse_ir::kernel::BufferKind;
    let buffers = preparation.kernels.buffers.iter().zip(addresses);
    buffers.filter_map(|(buffer, address)| match buffer.kind {
        BufferKind::Input(i) if preparation.needs.contains(&i) => Some((i, address)),
        BufferKind::Input(_) | BufferKind::Output(_) | BufferKind::Temporary | BufferKind::State => None,
    })
}
