//! Executes a warp until it waits, ends or has had its turn.

use super::access::Memories;
use super::arithmetic::{Function, compare, convert, evaluate};
use super::counters::Counters;
use super::fault::Problem;
use super::op::{Category, Instruction, Kernel, Logic, Op, Order, Test};
use super::value::{Kind, Mode, Type, mask, sign_extend};
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
            op => self.compute(context, op, lanes),
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

    fn compute(&mut self, context: &mut Context<'_>, op: &Op, lanes: u32) {
        match op {
            Op::Map { f, ty, mode, d, a, b, c } => self.map(*f, *ty, *mode, [*d, *a, *b, *c], lanes),
            Op::Convert { from, to, mode, destination, d, a } => {
                self.each([*d, *a, *a, *a], lanes, |x, _, _| {
                    let value = convert(*from, *to, *mode, x);
                    if to.signed() { sign_extend(value, to.bits) as u64 & destination } else { value }
                });
            }
            Op::ConvertPair { from, to, mode, d, a, b } => self.each([*d, *a, *b, *a], lanes, |x, y, _| {
                (convert(*from, *to, *mode, x) << 16) | convert(*from, *to, *mode, y)
            }),
            Op::Move { d, a } => self.each([*d, *a, *a, *a], lanes, |x, _, _| x),
            Op::Clock { d } => {
                self.ticks += 1;
                let ticks = self.ticks;
                self.each([*d; 4], lanes, |_, _, _| ticks);
            }
            Op::SelectSign { ty, d, a, b, c } => self.each([*d, *a, *b, *c], lanes, |x, y, z| {
                let float = ty.is_float() && super::value::to_f64(z, *ty) >= 0.0;
                if float || (!ty.is_float() && sign_extend(z, ty.bits) >= 0) { x } else { y }
            }),
            Op::Select { d, a, b, p } => {
                let chosen = self.holds(*p);
                let (x, y) = (self.registers[*a as usize], self.registers[*b as usize]);
                let out = &mut self.registers[*d as usize];
                each_lane(lanes, |lane| out[lane] = if chosen >> lane & 1 == 1 { x[lane] } else { y[lane] });
            }
            Op::Test { test, p, q } => {
                let (holds, fails) = self.test(test, lanes);
                let targets = [(p, holds), (q, fails)];
                for (slot, values) in targets.into_iter().filter_map(|(s, v)| s.map(|s| (s, v))) {
                    self.set_predicate(slot, lanes, values);
                }
            }
            Op::TestValue { test, one, d } => {
                let holds = self.test(test, lanes).0;
                let out = &mut self.registers[*d as usize];
                each_lane(lanes, |lane| out[lane] = if holds >> lane & 1 == 1 { *one } else { 0 });
            }
            Op::Logic { f, d, a, b } => {
                let value = logic(*f, self.holds(*a), self.holds(*b));
                self.set_predicate(*d, lanes, value);
            }
            Op::MovePredicate { d, a } => {
                let value = self.holds(*a);
                self.set_predicate(*d, lanes, value);
            }
            Op::Carry { subtract, ty, take, give, d, a, b } => {
                self.carry(*subtract, *ty, [*take, *give], [*d, *a, *b], lanes);
            }
            Op::Pack { bits, d, parts } => self.pack(*bits, *d, parts, lanes),
            Op::Unpack { bits, parts, a } => self.unpack(*bits, parts, *a, lanes),
            Op::Parameter { offset, transfer, d } => {
                for (at, slot) in d.iter().enumerate() {
                    let value = parameter(context.parameters, *offset as usize, at, transfer.ty);
                    if let Some(slot) = slot {
                        self.each([*slot; 4], lanes, |_, _, _| value & transfer.destination);
                    }
                }
            }
            Op::ConvertAddress { to_generic, space, d, a } => {
                self.each([*d, *a, *a, *a], lanes, |x, _, _| super::access::convert(*to_generic, *space, x));
            }
            Op::IsSpace { space, p, a } => {
                let addresses = self.registers[*a as usize];
                let mut within = 0;
                each_lane(lanes, |lane| {
                    within |= u32::from(super::access::is_in(*space, addresses[lane])) << lane;
                });
                self.set_predicate(*p, lanes, within);
            }
            // The others are executed elsewhere.
            _ => {}
        }
    }

    /// Computes a register of some lanes from three others.
    #[inline(always)]
    pub fn each(&mut self, [d, a, b, c]: [u32; 4], lanes: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let registers = &mut self.registers;
        let (x, y, z) = (registers[a as usize], registers[b as usize], registers[c as usize]);
        let out = &mut registers[d as usize];
        each_lane(lanes, |lane| out[lane] = f(x[lane], y[lane], z[lane]));
    }

    /// The most frequent instructions are compiled each by itself.
    fn map(&mut self, f: Function, ty: Type, mode: Mode, slots: [u32; 4], lanes: u32) {
        const fn number(kind: Kind, bits: u32) -> Type {
            Type { kind, bits, packed: false }
        }
        const F32: Type = number(Kind::Float, 32);
        const U32: Type = number(Kind::Unsigned, 32);
        const U64: Type = number(Kind::Unsigned, 64);
        macro_rules! special {
            ($($ty:ident: $($f:ident)*;)*) => {
                $($(if f == Function::$f && ty.kind == $ty.kind && ty.bits == $ty.bits && !ty.packed {
                    return self.each(slots, lanes, |a, b, c| {
                        evaluate(Function::$f, $ty, Mode::default(), a, b, c)
                    });
                })*)*
            };
        }
        // Signs do not matter to these.
        let signless = matches!(
            f,
            Function::Add | Function::Sub | Function::MulLow | Function::MadLow | Function::ShiftLeft
        );
        let ty = if signless && ty.signed() { Type { kind: Kind::Unsigned, ..ty } } else { ty };
        if mode == Mode::default() {
            special! {
                F32: Fma Add Mul Sub;
                U64: Add ShiftLeft MadLow MulLow;
                U32: Add ShiftLeft And MadLow;
            }
        }
        self.each(slots, lanes, |a, b, c| evaluate(f, ty, mode, a, b, c));
    }

    /// Lanes where the test holds, and where its comparison fails, each combined as the test says.
    fn test(&mut self, test: &Test, lanes: u32) -> (u32, u32) {
        let (a, b) = (&self.registers[test.a as usize], &self.registers[test.b as usize]);
        let mut holds = 0u32;
        each_lane(lanes, |lane| {
            let result = compare(test.comparison, test.ty, test.flush, a[lane], b[lane]);
            holds |= u32::from(result) << lane;
        });
        match test.combine {
            None => (holds, !holds),
            Some((f, condition)) => {
                let other = self.holds(condition);
                (logic(f, holds, other), logic(f, !holds, other))
            }
        }
    }

    fn carry(&mut self, subtract: bool, ty: Type, [take, give]: [bool; 2], slots: [u32; 3], lanes: u32) {
        let [d, a, b] = slots;
        let (x, y) = (self.registers[a as usize], self.registers[b as usize]);
        let carried = self.carry;
        let out = &mut self.registers[d as usize];
        let mut carry = 0u32;
        each_lane(lanes, |lane| {
            let given = u128::from(take && carried >> lane & 1 == 1);
            let (x, y) = (u128::from(x[lane]), u128::from(y[lane]));
            let wide = if subtract { x.wrapping_sub(y).wrapping_sub(given) } else { x + y + given };
            out[lane] = wide as u64 & mask(ty.bits);
            carry |= u32::from(wide >> ty.bits & 1 == 1) << lane;
        });
        if give {
            self.carry = (self.carry & !lanes) | (carry & lanes);
        }
    }

    fn pack(&mut self, bits: u32, d: u32, parts: &[u32], lanes: u32) {
        let mut out = self.registers[d as usize];
        each_lane(lanes, |lane| {
            let part =
                |(at, slot): (u32, &u32)| (self.registers[*slot as usize][lane] & mask(bits)) << (at * bits);
            out[lane] = (0..).zip(parts).map(part).fold(0, |all, part| all | part);
        });
        self.registers[d as usize] = out;
    }

    fn unpack(&mut self, bits: u32, parts: &[Option<u32>], a: u32, lanes: u32) {
        let whole = self.registers[a as usize];
        for (at, slot) in (0..).zip(parts) {
            let Some(slot) = slot else { continue };
            let out = &mut self.registers[*slot as usize];
            each_lane(lanes, |lane| out[lane] = (whole[lane] >> (at * bits)) & mask(bits));
        }
    }
}

fn logic(f: Logic, a: u32, b: u32) -> u32 {
    match f {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// An element of the parameters; what lies beyond them is 0.
fn parameter(bytes: &[u8], offset: usize, at: usize, ty: Type) -> u64 {
    let size = ty.bytes() as usize;
    let mut out = [0; 8];
    for (i, slot) in out.iter_mut().enumerate().take(size) {
        *slot = bytes.get(offset + at * size + i).copied().unwrap_or(0);
    }
    let value = u64::from_le_bytes(out);
    if ty.signed() { sign_extend(value, ty.bits) as u64 } else { value }
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
