//! Modules, and launches of their kernels: the blocks of a grid over the threads of the host.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::access::Memories;
use super::block;
use super::counters::Counters;
use super::decode::decode;
use super::error::PtxError;
use super::execute::Context;
use super::fault::{Fault, Problem, SimError, Wait};
use super::flags::Flags;
use super::group::Groups;
use super::limits::Limits;
use super::memory::{Content, Memory, Region};
use super::op::Kernel;
use super::parser::parse;
use super::phase::Arrivals;
use super::record::LAST_STAMP;
use super::syntax::VariableSpace;
use super::warp::{LANES, Shape, Warp, spread};

/// A PTX module, ready to be launched.
pub struct Module {
    kernels: Vec<Kernel>,
    /// Variables of the module that lie in global or constant memory.
    variables: Vec<Region>,
    limits: Limits,
}

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The parameters, in order; the low bytes of each.
    pub arguments: &'a [u64],
    /// Threads of the host that blocks are spread over, at least 1.
    pub threads: usize,
    /// Whether all blocks are there at once and may wait for each other; refused where a device has no room for that.
    pub cooperative: bool,
    /// The clusters that blocks run in; those that the kernel was compiled for where it is none.
    pub clusters: Option<Clusters>,
}

/// Blocks that reach each other's shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clusters {
    /// Blocks of a cluster along x, y and z.
    pub blocks: [u32; 3],
    /// Whether they may be more than 8, which not all devices have room for, and up to 16.
    pub nonportable: bool,
}

impl Module {
    /// Reads and decodes PTX text.
    ///
    /// # Errors
    /// At the first line that is no PTX, or that is not simulated.
    pub fn parse(text: &str) -> Result<Module, PtxError> {
        let module = parse(text)?;
        let kernels = decode(&module)?;
        let variables = module
            .variables
            .iter()
            .filter(|v| matches!(v.space, VariableSpace::Global | VariableSpace::Constant))
            .map(|v| {
                let constant = v.space == VariableSpace::Constant;
                let content = if constant { Content::Constant } else { Content::Written };
                let region = Region::new(v.name, v.bytes, 1, content);
                region.fill(v.initial.as_deref().unwrap_or(&[]));
                region
            })
            .collect();
        Ok(Module { kernels, variables, limits: Limits::of(module.target) })
    }

    /// Sets how many multiprocessors the device has, 132 at first.
    pub fn set_multiprocessors(&mut self, multiprocessors: u32) {
        self.limits.multiprocessors = multiprocessors;
    }

    /// How many blocks of a kernel, of so many threads and bytes of dynamic shared memory, there is room for at once; 0 where
    /// it does not exist.
    pub fn room(&self, kernel: &str, threads: u32, shared_bytes: u32) -> u64 {
        let Some(kernel) = self.kernels.iter().find(|k| k.name == kernel) else { return 0 };
        let dynamic_shared = kernel.shared.next_multiple_of(16);
        let shared = dynamic_shared + u64::from(shared_bytes);
        let (grid, cluster) = ([1; 3], kernel.cluster.unwrap_or([1; 3]));
        let shape = Shape { grid, block: [threads, 1, 1], cluster, dynamic_shared, shared };
        self.limits.residency(&shape).blocks()
    }

    /// The names of the kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }

    /// Runs a kernel to its end and counts what it did.
    ///
    /// # Errors
    /// Where the launch does not fit the kernel, or at the first mistake of a thread.
    pub fn launch(&self, memory: &Memory, launch: &Launch<'_>) -> Result<Counters, SimError> {
        let kernel = self.kernels.iter().find(|k| k.name == launch.kernel);
        let kernel = kernel.ok_or_else(|| SimError::NoKernel(launch.kernel.to_string()))?;
        let shape = self.check(kernel, launch)?;
        let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
        let refused = |problem| SimError::Launch { kernel: kernel.name.clone(), problem };
        if launch.cooperative {
            self.limits.residency(&shape).admit("a cooperative grid", blocks).map_err(refused)?;
        }
        let each = u64::from(shape.cluster_blocks());
        if each > 1 {
            self.limits.residency(&shape).admit("a cluster", each).map_err(refused)?;
        }
        let grid = Grid {
            module: self,
            memory,
            kernel,
            shape,
            parameters: parameters(kernel, launch.arguments),
            blocks,
            stamp: memory.next_stamp(),
            next: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            fault: Mutex::default(),
            total: Mutex::default(),
        };
        let workers = launch.threads.clamp(1, 1024).min(usize::try_from(blocks).unwrap_or(usize::MAX)).max(1);
        if launch.cooperative {
            grid.cooperate(0..blocks, workers);
        } else if each > 1 || kernel.is_clustered {
            grid.on_threads(workers.min(usize::try_from(blocks / each).unwrap_or(1)), || {
                grid.work_in_clusters(each)
            });
        } else {
            grid.on_threads(workers, || grid.work());
        }
        let fault = grid.fault.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fault)) = fault {
            return Err(SimError::Fault(fault));
        }
        let mut total = grid.total.into_inner().unwrap_or_else(PoisonError::into_inner);
        total.launches = 1;
        Ok(total)
    }

    /// Refuses what a device would refuse.
    fn check(&self, kernel: &Kernel, launch: &Launch<'_>) -> Result<Shape, SimError> {
        let refused = |problem: String| Err(SimError::Launch { kernel: kernel.name.clone(), problem });
        if launch.arguments.len() != kernel.parameters.len() {
            let (takes, got) = (kernel.parameters.len(), launch.arguments.len());
            return refused(format!("it takes {takes} parameters, got {got}"));
        }
        let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
        if !(1..=1024).contains(&threads) {
            return refused(format!("a block has 1 to 1024 threads, not {threads}"));
        }
        if let Some((limit, exact)) = kernel.block {
            let most: u64 = limit.iter().map(|n| u64::from(*n)).product();
            if threads > most || (exact && limit != launch.block) {
                return refused(format!(
                    "it was compiled for blocks of {limit:?} threads, not {:?}",
                    launch.block
                ));
            }
        }
        let first = kernel.shared.next_multiple_of(16);
        let shared = first + u64::from(launch.shared_bytes);
        let Limits { declared, shared: most, .. } = self.limits;
        if kernel.shared > declared || shared > most {
            return refused(format!(
                "a block takes {} bytes of declared and {shared} of all shared memory; it may take {declared} and {most}",
                kernel.shared
            ));
        }
        let cluster = match self.limits.clusters(kernel, launch.clusters, launch.grid) {
            Ok(cluster) => cluster,
            Err(problem) => return refused(problem),
        };
        Ok(Shape { grid: launch.grid, block: launch.block, cluster, dynamic_shared: first, shared })
    }
}

/// The bytes of the parameters.
fn parameters(kernel: &Kernel, arguments: &[u64]) -> Vec<u8> {
    let end = kernel.parameters.iter().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
    let mut out = vec![0; end as usize];
    for ((offset, bytes), argument) in kernel.parameters.iter().zip(arguments) {
        let count = (*bytes as usize).min(8);
        out[*offset as usize..][..count].copy_from_slice(&argument.to_le_bytes()[..count]);
    }
    out
}

/// The shared memory of a block.
pub(super) struct Shared {
    pub region: Region,
    pub arrivals: Arrivals,
    pub groups: Groups,
}

/// One launch under way.
pub(super) struct Grid<'a> {
    module: &'a Module,
    memory: &'a Memory,
    pub kernel: &'a Kernel,
    pub shape: Shape,
    parameters: Vec<u8>,
    pub blocks: u64,
    stamp: u64,
    pub next: AtomicU64,
    pub failed: AtomicBool,
    /// The fault of the block of the lowest index.
    fault: Mutex<Option<(u64, Box<Fault>)>>,
    total: Mutex<Counters>,
}

impl Grid<'_> {
    /// Does the same on so many threads of the host.
    pub fn on_threads(&self, workers: usize, work: impl Fn() + Sync) {
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(&work);
            }
            work();
        });
    }

    /// Runs clusters of so many blocks until there are none left or one failed.
    fn work_in_clusters(&self, each: u64) {
        loop {
            let first = self.next.fetch_add(each, Relaxed);
            if first >= self.blocks || self.failed.load(Relaxed) {
                break;
            }
            self.cooperate(first..first + each, 1);
        }
    }

    /// Runs blocks until there are none left or one failed.
    fn work(&self) {
        let (mut warps, shared) = self.block();
        let mut counters = Counters::default();
        for run in 0.. {
            let block = self.next.fetch_add(1, Relaxed);
            if block >= self.blocks || self.failed.load(Relaxed) {
                break;
            }
            let stamp = run % LAST_STAMP + 1;
            if run > 0 {
                shared.region.forget();
                shared.arrivals.forget();
                shared.groups.forget();
                if stamp == 1 {
                    shared.region.forget_accesses();
                }
            }
            let index = self.shape.index(block);
            warps.iter_mut().for_each(|w| w.start(self.kernel, &self.shape, index));
            let memories = self.memories(&shared, stamp, block, None);
            let mut context = self.context(memories, counters);
            let result = block::run(&mut warps, &mut context);
            counters = context.counters;
            if let Err((warp, (lane, problem))) = result {
                self.report(block, &warps[warp], lane, problem);
            }
        }
        self.count(counters);
    }

    /// The warps of a block and its shared memory.
    pub fn block(&self) -> (Vec<Warp>, Shared) {
        let region = Region::new("shared memory", self.shape.shared, self.kernel.granule, Content::Unwritten);
        let region = if self.kernel.is_grouped { region.watch_proxies() } else { region };
        let shared = Shared { region, arrivals: Arrivals::default(), groups: Groups::default() };
        let warps = (0..self.shape.warps()).map(|i| Warp::new(self.kernel, &self.shape, i)).collect();
        (warps, shared)
    }

    /// What a block can reach; `stamp` tells its accesses to shared memory from those of earlier blocks.
    pub fn memories<'g>(
        &'g self,
        shared: &'g Shared,
        stamp: u64,
        block: u64,
        flags: Option<&'g Flags>,
    ) -> Memories<'g> {
        Memories {
            global: self.memory,
            module: &self.module.variables,
            shared: &shared.region,
            arrivals: &shared.arrivals,
            groups: &shared.groups,
            stamps: [self.stamp, stamp],
            block,
            local: self.kernel.local,
            flags,
            neighbours: None,
        }
    }

    /// What a block executes in, with what was counted before.
    pub fn context<'g>(&'g self, memories: Memories<'g>, counters: Counters) -> Context<'g> {
        let parameters = &self.parameters;
        Context {
            kernel: self.kernel,
            memories,
            parameters,
            counters,
            progress: false,
            changed: false,
            gathered: false,
        }
    }

    /// Adds to what the launch counted.
    pub fn count(&self, counters: Counters) {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) += counters;
    }

    /// Ends the launch with what a thread did wrong, unless a block of a lower index did, too.
    pub fn report(&self, block: u64, warp: &Warp, lane: u32, problem: Problem) {
        self.fail(block, self.place(warp.before(), block, warp, lane), problem);
    }

    /// A lane of a warp at an instruction.
    pub fn place(&self, at: u32, block: u64, warp: &Warp, lane: u32) -> Wait {
        let instruction = self.kernel.code.get(at as usize);
        Wait {
            line: instruction.map_or(0, |i| i.line),
            text: instruction.map_or_else(String::new, |i| i.text.clone()),
            blocks: 1,
            block: self.shape.index(block),
            thread: spread(u64::from(warp.index * LANES as u32 + lane), self.shape.block),
        }
    }

    /// Ends the launch with a problem of a block, unless one of a lower index had one, too.
    pub fn fail(&self, block: u64, place: Wait, problem: Problem) {
        self.failed.store(true, Relaxed);
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|(earlier, _)| *earlier < block) {
            return;
        }
        let Wait { line, text, block: at, thread, .. } = place;
        let kernel = self.kernel.name.clone();
        let problem = problem.with_blocks(|block| self.shape.linear(block));
        *known = Some((block, Box::new(Fault { kernel, line, text, block: at, thread, problem })));
    }
}
