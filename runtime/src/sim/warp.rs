//! The state of a warp: its lanes' registers, and which lanes go which way.

use fuse_codegen::schedule::GpuLimits;

use super::clocks::Clocks;
use super::flags::Flags;
use super::group::Group;
use super::memory::Region;
use super::op::{Kernel, Special};
use super::order::{Knowledge, Member, Outgoing};
use super::poll::Poll;
use super::record::BLOCK_MASK;

/// Lanes of a warp.
pub(super) const LANES: usize = 32;

/// Lanes that wait to go on at `pc`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub pc: u32,
    pub lanes: u32,
    /// Where they meet those that the frame below holds.
    pub meets: u32,
}

/// Whether a warp can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Ready,
    /// At the barrier of that number, for as many threads where given.
    Waiting {
        id: u32,
        count: Option<u32>,
    },
    /// In a cooperative launch: about to read flags, once all others have come to where they wait.
    Polling,
    /// Has read what it may have to wait for, and gives others their turn.
    Yielding,
    /// At the barrier of its cluster.
    Gathering,
    Done,
}

/// An arrival at a barrier of the block, for those that wait there.
pub(super) struct Arrived {
    pub id: u32,
    pub threads: u32,
    /// What the warp knew of its block, and of other blocks.
    pub clocks: Clocks,
    pub known: Outgoing,
}

/// A copy that was begun: from global to shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub lane: u32,
    /// The commit that covers it, counted a lane; later than all of them where none does yet.
    pub group: u32,
    pub to: u64,
    pub from: u64,
    pub bytes: u32,
    /// Bytes that are read; the others become zero.
    pub given: u32,
}

/// A warp.
pub(super) struct Warp {
    pub index: u32,
    pub registers: Vec<[u64; LANES]>,
    /// One bit a lane.
    pub predicates: Vec<u32>,
    pub carry: u32,
    pub current: Frame,
    pub frames: Vec<Frame>,
    /// Lanes that have not returned.
    pub live: u32,
    /// What it knows of the block's warps.
    pub clocks: Clocks,
    /// Its own clock when all lanes met last.
    pub met: u32,
    /// What it knows of other blocks, in a cooperative launch.
    pub knowledge: Option<Knowledge>,
    /// How it waits for others, in a cooperative launch.
    pub poll: Option<Box<Poll>>,
    pub state: State,
    /// The phase of the cluster's barrier that it has arrived in and not waited for.
    pub gathering: Option<u64>,
    /// Barriers of the block at which it has arrived without waiting.
    pub arrived: Vec<Arrived>,
    /// How often it asked for the time.
    pub ticks: u64,
    pub copies: Vec<Copy>,
    /// Commits of each lane.
    pub commits: [u32; LANES],
    pub local: Option<Region>,
    /// Its part in products of its warp group, in kernels that have any.
    pub group: Option<Box<Group>>,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster along each axis.
    pub cluster: [u32; 3],
    pub dynamic_shared: u64,
    pub shared: u64,
}

impl Shape {
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Blocks of a cluster.
    pub fn cluster_blocks(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// The index of a block. Blocks have their numbers in the order of their clusters, and within these of their ranks.
    pub fn index(&self, block: u64) -> [u32; 3] {
        if self.cluster == [1; 3] {
            return spread(block, self.grid);
        }
        let each = u64::from(self.cluster_blocks());
        let clusters = std::array::from_fn(|axis| self.grid[axis] / self.cluster[axis].max(1));
        let (cluster, within) = (spread(block / each, clusters), spread(block % each, self.cluster));
        std::array::from_fn(|axis| cluster[axis] * self.cluster[axis] + within[axis])
    }

    /// The position of a block's number among indices that count along x first.
    pub fn linear(&self, block: u64) -> u64 {
        let ([x, y, z], [width, height, _]) = (self.index(block).map(u64::from), self.grid.map(u64::from));
        (z * height + y) * width + x
    }

    /// Warps of a block.
    pub fn warps(&self) -> u32 {
        self.threads().div_ceil(LANES as u32)
    }
}

/// The index along three axes of a linear one.
pub(super) fn spread(linear: u64, extents: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extents.map(|e| u64::from(e.max(1)));
    [(linear % x) as u32, (linear / x % y) as u32, (linear / x / y) as u32]
}

impl Warp {
    /// The warp of that number of a block, at the start of a kernel.
    pub fn new(kernel: &Kernel, shape: &Shape, index: u32) -> Warp {
        let local = (kernel.local > 0).then(|| Region::private("local memory", kernel.local * LANES as u64));
        Warp {
            index,
            registers: vec![[0; LANES]; kernel.registers as usize],
            predicates: vec![0; kernel.predicates as usize],
            carry: 0,
            current: Frame { pc: 0, lanes: 0, meets: 0 },
            frames: Vec::new(),
            live: 0,
            clocks: Clocks::new(shape.warps() as usize),
            met: 0,
            knowledge: None,
            poll: None,
            state: State::Ready,
            gathering: None,
            arrived: Vec::new(),
            ticks: 0,
            copies: Vec::new(),
            commits: [0; LANES],
            local,
            group: kernel.is_grouped.then(|| Box::new(Group::new(kernel.registers))),
        }
    }

    /// Starts over in the block of that index.
    pub fn start(&mut self, kernel: &Kernel, shape: &Shape, block: [u32; 3]) {
        self.registers.iter_mut().for_each(|r| *r = [0; LANES]);
        self.predicates.iter_mut().for_each(|p| *p = 0);
        let first = self.index * LANES as u32;
        let threads = (shape.threads() - first).min(LANES as u32);
        self.live = u32::MAX >> (LANES as u32 - threads);
        self.current = Frame { pc: 0, lanes: self.live, meets: kernel.code.len() as u32 };
        self.frames.clear();
        self.clocks.restart(self.index as usize);
        self.met = 0;
        self.state = State::Ready;
        self.gathering = None;
        self.arrived.clear();
        self.ticks = 0;
        self.copies.clear();
        self.commits = [0; LANES];
        if let Some(local) = &self.local {
            local.forget();
        }
        if let Some(group) = &mut self.group {
            group.forget();
        }
        for (slot, bits) in &kernel.constants {
            self.registers[*slot as usize] = [*bits; LANES];
        }
        for (special, slot) in &kernel.specials {
            let value = |lane| special_value(*special, shape, block, self.index, lane);
            self.registers[*slot as usize] = std::array::from_fn(|lane| u64::from(value(lane as u32)));
        }
    }

    /// Makes it one of the warps of a cooperative launch.
    pub fn cooperate(&mut self, flags: &Flags) {
        self.knowledge = Some(flags.knowledge());
        self.poll = Some(Box::default());
    }

    /// Its place in a grid, as one of a block's warps.
    pub fn member(&self, block: u64) -> Member<'_> {
        let first = (block & BLOCK_MASK) as usize * self.clocks.len();
        Member { first, index: self.index as usize, clocks: &self.clocks.known }
    }

    /// The position of the instruction at which it stands; a barrier that it waits at lies behind it.
    pub fn before(&self) -> u32 {
        self.current.pc.saturating_sub(u32::from(matches!(self.state, State::Waiting { .. })))
    }

    /// Accesses from here on are later ones.
    pub fn count_up(&mut self) {
        self.clocks.known[self.index as usize] += 1;
    }

    /// All lanes meet: each knows from here on what any of them did before.
    pub fn meet(&mut self) {
        self.met = self.clocks.known[self.index as usize];
        self.count_up();
        if let Some(knowledge) = &mut self.knowledge {
            knowledge.meet();
        }
    }

    /// Lanes among the current ones for which the condition holds.
    pub fn holds(&self, condition: super::op::Condition) -> u32 {
        let lanes = self.predicates[condition.slot as usize];
        if condition.negated { !lanes } else { lanes }
    }

    pub fn set_predicate(&mut self, slot: u32, lanes: u32, values: u32) {
        let predicate = &mut self.predicates[slot as usize];
        *predicate = (*predicate & !lanes) | (values & lanes);
    }

    /// Goes on with waiting lanes where the current ones have met them or returned; `false` where none are left.
    pub fn join(&mut self) -> bool {
        while self.current.lanes == 0 || self.current.pc == self.current.meets {
            match self.frames.pop() {
                Some(frame) => self.current = Frame { lanes: frame.lanes & self.live, ..frame },
                None => return self.current.lanes != 0 && self.live != 0,
            }
        }
        true
    }

    /// Sends `taken` of the current lanes to `target` and the others on to `next`; they meet at `meets`.
    pub fn branch(&mut self, taken: u32, target: u32, next: u32, meets: u32) {
        let others = self.current.lanes & !taken;
        if others == 0 {
            self.current.pc = target;
        } else if taken == 0 {
            self.current.pc = next;
        } else {
            self.part(meets);
            if next != meets {
                self.frames.push(Frame { pc: next, lanes: others, meets });
            }
            self.current = Frame { pc: target, lanes: taken, meets };
        }
    }

    /// Leaves a frame in which all current lanes go on from `meets`, unless the one below does so anyway.
    fn part(&mut self, meets: u32) {
        if meets != self.current.meets {
            self.frames.push(Frame { pc: meets, ..self.current });
        }
    }

    /// Sends each lane to a target of its own.
    pub fn scatter(&mut self, lanes: u32, targets: &[(u32, u32)], next: u32, meets: u32) {
        let others = self.current.lanes & !lanes;
        self.part(meets);
        if others != 0 {
            self.frames.push(Frame { pc: next, lanes: others, meets });
        }
        for (target, lanes) in targets {
            self.frames.push(Frame { pc: *target, lanes: *lanes, meets });
        }
        self.current.lanes = 0;
    }
}

fn special_value(special: Special, shape: &Shape, block: [u32; 3], warp: u32, lane: u32) -> u32 {
    let linear = warp * LANES as u32 + lane;
    match special {
        Special::Thread(axis) => spread(u64::from(linear), shape.block)[axis],
        Special::BlockSize(axis) => shape.block[axis],
        Special::Block(axis) => block[axis],
        Special::GridSize(axis) => shape.grid[axis],
        Special::Lane => lane,
        Special::Warp => warp,
        Special::Warps => shape.warps(),
        Special::LaneMask { below, equal, above } => {
            let own = 1u32 << lane;
            let part = |wanted, bits| if wanted { bits } else { 0 };
            part(below, own - 1) | part(equal, own) | part(above, !(own | (own - 1)))
        }
        Special::DynamicShared => shape.dynamic_shared as u32,
        Special::TotalShared => shape.shared as u32,
        Special::Multiprocessor => {
            let [x, y, _] = shape.grid.map(u64::from);
            let [i, j, k] = block.map(u64::from);
            (((k * y + j) * x + i) % multiprocessors()) as u32
        }
        Special::Multiprocessors => multiprocessors() as u32,
        Special::Zero => 0,
        Special::BlockInCluster(axis) => block[axis] % shape.cluster[axis].max(1),
        Special::ClusterSize(axis) => shape.cluster[axis],
        Special::Cluster(axis) => block[axis] / shape.cluster[axis].max(1),
        Special::Clusters(axis) => shape.grid[axis] / shape.cluster[axis].max(1),
        Special::Rank => {
            let [x, y, z] = std::array::from_fn(|axis| block[axis] % shape.cluster[axis].max(1));
            (z * shape.cluster[1] + y) * shape.cluster[0] + x
        }
        Special::Ranks => shape.cluster_blocks(),
    }
}

/// Multiprocessors of the simulated device.
fn multiprocessors() -> u64 {
    u64::from(GpuLimits::h100().multiprocessors)
}
