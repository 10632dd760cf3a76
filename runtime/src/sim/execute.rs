//! Executes a warp until it waits, ends or has had its turn.

use super::access::Memories;
use super::compute::compute;
use super::counters::Counters;
use super::fault::Problem;
use super::op::{Category, Instruction, Kernel, Op, Order};
use super::warp::{Arrived, LANES, State, Warp};

/// Instructions that a warp executes before others get their turn.
const TURN: u32 = 4096;

/// What a lane did wrong.
pub(super) type Wrong = (u32, Problem);

/// What one block executes in.
pub(super) struct Context<'a> {
    pub kernel: &'a Kernel,
    pub memories: Memories<'a>,
    pub parameters: &'a [u8],
    pub counters: Counters,
    /// Whether anything but a warp's own registers changed since this was last asked.
    pub progress: bool,
    /// Whether a change was of global memory or of what a warp saw of flags there, or the end of a warp.
    pub changed: bool,
    /// Whether a cluster met.
    pub gathered: bool,
}

/// The first of some lanes.
pub(super) fn first(lanes: u32) -> u32 {
    lanes.trailing_zeros().min(31)
}

/// Calls `f` with each lane of a set.
#[inline(always)]
pub(super) fn each_lane(lanes: u32, mut f: impl FnMut(usize)) {
    if lanes == u32::MAX {
        (0..LANES).for_each(f);
        return;
    }
    let mut rest = lanes;
    while rest != 0 {
        f(rest.trailing_zeros() as usize);
        rest &= rest - 1;
    }
}

impl Warp {
    /// Executes up to a turn's instructions.
    pub fn run(&mut self, context: &mut Context<'_>) -> Result<(), Wrong> {
        let kernel = context.kernel;
        if let Some(poll) = &mut self.poll {
            poll.begin_turn(&context.counters);
        }
        for _ in 0..TURN {
            if !self.join() {
                self.state = State::Done;
                context.progress = true;
                context.changed = true;
                if let Some(neighbours) = context.memories.neighbours {
                    context.gathered |= neighbours.leave(self.gathering.take().is_some());
                }
                return Ok(());
            }
            let Some(instruction) = kernel.code.get(self.current.pc as usize) else {
                self.leave(self.current.lanes);
                continue;
            };
            let lanes = match instruction.guard {
                Some(guard) => self.current.lanes & self.holds(guard),
                None => self.current.lanes,
            };
            if lanes == 0 {
                self.current.pc += 1;
                continue;
            }
            count(&mut context.counters, instruction.category, lanes);
            if let Some(group) = &mut self.group {
                group.note(&instruction.registers).map_err(|problem| (first(lanes), problem))?;
            }
            self.execute(context, instruction, lanes)?;
            if self.state != State::Ready {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes lanes out that returned.
    fn leave(&mut self, lanes: u32) {
        self.live &= !lanes;
        self.current.lanes &= !lanes;
    }

    fn execute(
        &mut self,
        context: &mut Context<'_>,
        instruction: &Instruction,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let next = self.current.pc + 1;
        match &instruction.op {
            Op::Branch { target } => {
                self.branch(lanes, *target, next, instruction.meets);
                return Ok(());
            }
            Op::BranchTable { index, targets } => {
                return self.branch_table(*index, targets, lanes, next, instruction.meets);
            }
            Op::Return => {
                if lanes == self.live {
                    self.leave_group(context).map_err(|problem| (first(lanes), problem))?;
                }
                self.leave(lanes);
                self.current.pc = next;
                return Ok(());
            }
            Op::Trap => return Err((first(lanes), Problem::Trap)),
            Op::Fence => self.fence(context, lanes),
            Op::ProxyFence => self.fence_proxies(lanes),
            Op::MultiplyGroup { product, d, a, b, adds } => {
                self.multiply_group(context, *product, d, [*a, *b], *adds, lanes)?;
            }
            Op::GroupFence => self.fence_group(lanes)?,
            Op::CommitProducts => self.commit_products(lanes)?,
            Op::WaitProducts { pending } => self.wait_for_products(context, *pending, lanes)?,
            Op::Barrier { id, count, waits } => self.barrier(context, *id, *count, *waits, lanes)?,
            Op::ClusterArrive { releases } => self.arrive_at_cluster(context, *releases, lanes)?,
            Op::ClusterWait => {
                self.wait_for_cluster(context, lanes)?;
                if self.state == State::Gathering {
                    return Ok(());
                }
            }
            Op::MapToBlock { d, a, rank } => self.map_to_blocks(context, [*d, *a, *rank], lanes)?,
            Op::BlockOf { d, a } => self.ranks(context, *d, *a, lanes),
            op if op.category() == Category::Memory => {
                self.memory_op(context, op, lanes)?;
                if self.state == State::Polling {
                    return Ok(());
                }
            }
            op if op.category() == Category::Control => self.exchange(op, lanes)?,
            Op::Reduce { f, ty, d, a, members } => self.reduce(*f, *ty, [*d, *a, *members], lanes)?,
            Op::MultiplyMatrix { product, d, a, b, c } => self.multiply(*product, d, a, b, c, lanes)?,
            op => compute(self, context, op, lanes),
        }
        self.current.pc = next;
        Ok(())
    }

    fn branch_table(
        &mut self,
        index: u32,
        targets: &[u32],
        lanes: u32,
        next: u32,
        meets: u32,
    ) -> Result<(), Wrong> {
        let values = self.registers[index as usize];
        let mut groups: Vec<(u32, u32)> = Vec::new();
        let mut beyond = None;
        each_lane(lanes, |lane| match targets.get(values[lane] as usize) {
            Some(target) => match groups.iter_mut().find(|(known, _)| known == target) {
                Some((_, lanes)) => *lanes |= 1 << lane,
                None => groups.push((*target, 1 << lane)),
            },
            None => beyond = Some(lane as u32),
        });
        if let Some(lane) = beyond {
            return Err((lane, Problem::Trap));
        }
        self.scatter(lanes, &groups, next, meets);
        Ok(())
    }

    fn fence(&mut self, context: &mut Context<'_>, lanes: u32) {
        let Some(mut knowledge) = self.knowledge.take() else { return };
        knowledge.fence(self.member(context.memories.block), lanes);
        self.knowledge = Some(knowledge);
        self.count_up();
    }

    fn fence_proxies(&mut self, lanes: u32) {
        let (index, now) = (self.index as usize, self.clocks.known[self.index as usize]);
        // Where some lanes fence, what others did is behind the fence if they met since.
        self.clocks.fence(index, if lanes == self.live { now } else { self.met });
        self.count_up();
    }

    fn barrier(
        &mut self,
        context: &mut Context<'_>,
        id: u32,
        count: Option<u32>,
        waits: bool,
        lanes: u32,
    ) -> Result<(), Wrong> {
        if lanes != self.live {
            return Err((first(lanes), Problem::DivergentBarrier { here: lanes, expected: self.live }));
        }
        let value = |slot: u32| self.registers[slot as usize][first(lanes) as usize] as u32;
        let (id, count) = (value(id), count.map(value));
        context.counters.barriers += 1;
        context.progress = true;
        self.act();
        if waits {
            self.state = State::Waiting { id, count };
            return Ok(());
        }
        let known = self.outgoing(context.memories.block, lanes, Order { acquires: false, releases: true });
        let threads = lanes.count_ones();
        self.arrived.push(Arrived { id, threads, clocks: self.clocks.clone(), known });
        self.count_up();
        Ok(())
    }
}

fn count(counters: &mut Counters, category: Category, lanes: u32) {
    let threads = u64::from(lanes.count_ones());
    *match category {
        Category::Integer => &mut counters.integer,
        Category::Float => &mut counters.float,
        Category::Convert => &mut counters.convert,
        Category::Move => &mut counters.moves,
        Category::Memory => &mut counters.memory,
        Category::Control => &mut counters.control,
    } += threads;
}
