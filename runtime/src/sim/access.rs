//! Accesses of a warp to memory, each checked, and counted as the hardware would serve them.

use super::arithmetic::{Function, evaluate};
use super::cluster::{self, Neighbours, is_shared};
use super::execute::{Context, Wrong, each_lane};
use super::fault::Problem;
use super::flags::{Change, Flags, Incoming, Word};
use super::group::Groups;
use super::memory::{Memory, REGION_BITS, Region};
use super::op::{Address, Atomic, Op, Order, Space, Transfer};
use super::order::Outgoing;
use super::phase::Arrivals;
use super::record::Access;
use super::requests::count_request;
use super::value::{Mode, mask, sign_extend};
use super::warp::{LANES, Warp};

/// Generic addresses of shared and of local memory have this in their highest byte.
pub(super) const SHARED_WINDOW: u64 = 1 << 56;
const LOCAL_WINDOW: u64 = 2 << 56;
const WINDOW_MASK: u64 = 0xFF << 56;

/// What a block can reach, and who it is.
#[derive(Clone, Copy)]
pub(super) struct Memories<'a> {
    pub global: &'a Memory,
    /// The module's own variables.
    pub module: &'a [Region],
    pub shared: &'a Region,
    /// The launch's number for global memory, and the block's for shared memory.
    pub stamps: [u64; 2],
    pub block: u64,
    pub local: u64,
    /// What orders warps of the block that meet at barriers in shared memory.
    pub arrivals: &'a Arrivals,
    /// What the warp groups of the block have begun.
    pub groups: &'a Groups,
    /// What orders blocks, in a cooperative launch.
    pub flags: Option<&'a Flags>,
    /// The cluster, where blocks run in clusters.
    pub neighbours: Option<&'a Neighbours<'a>>,
}

/// An address between the generic space and another one.
pub(super) fn convert(to_generic: bool, space: Space, address: u64) -> u64 {
    let window = match space {
        Space::Shared | Space::Cluster => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Generic | Space::Global => return address,
    };
    if to_generic { address | window } else { address & !WINDOW_MASK }
}

/// Whether a generic address lies in a space.
pub(super) fn is_in(space: Space, address: u64) -> bool {
    match (space, address & WINDOW_MASK) {
        (Space::Shared, window) => window == SHARED_WINDOW && !cluster::names_block(address),
        (Space::Cluster, window) => window == SHARED_WINDOW,
        (Space::Local, window) => window == LOCAL_WINDOW,
        (Space::Global, window) => window == 0,
        (Space::Generic, _) => true,
    }
}

/// Where an address leads.
pub(super) struct Place<'r> {
    pub region: &'r Region,
    pub offset: u64,
    pub space: Space,
}

impl<'a> Memories<'a> {
    pub fn place<'r>(
        &self,
        local: Option<&'r Region>,
        space: Space,
        address: u64,
        lane: usize,
        size: u32,
    ) -> Result<Place<'r>, Problem>
    where
        'a: 'r,
    {
        let nowhere = || Problem::OutOfBounds { address, bytes: size, buffer: None };
        let space = match (space, address & WINDOW_MASK) {
            (Space::Generic, SHARED_WINDOW) if cluster::names_block(address) => Space::Cluster,
            (Space::Generic, SHARED_WINDOW) => Space::Shared,
            (Space::Cluster, _) if !cluster::names_block(address) => Space::Shared,
            (Space::Generic, LOCAL_WINDOW) => Space::Local,
            (Space::Generic, _) => Space::Global,
            (space, _) => space,
        };
        let (region, offset) = match space {
            Space::Shared => (self.shared, address & mask(32)),
            Space::Cluster => self.distant(address, size)?,
            Space::Local => {
                let offset = address & mask(32);
                if offset + u64::from(size) > self.local {
                    return Err(nowhere());
                }
                (local.ok_or_else(nowhere)?, lane as u64 * self.local + offset)
            }
            Space::Generic | Space::Global => {
                let number = (address >> REGION_BITS).wrapping_sub(super::decode::MODULE_REGIONS);
                match self.module.get(usize::try_from(number).unwrap_or(usize::MAX)) {
                    Some(region) => (region, address & mask(REGION_BITS)),
                    None => self.global.find(address).ok_or_else(nowhere)?,
                }
            }
        };
        region.check(offset, size, address)?;
        Ok(Place { region, offset, space })
    }

    /// The shared memory of the block of the cluster that an address names, and the offset there.
    #[cold]
    #[inline(never)]
    fn distant(&self, address: u64, size: u32) -> Result<(&'a Region, u64), Problem> {
        let nowhere = Problem::OutOfBounds { address, bytes: size, buffer: None };
        let neighbours = self.neighbours.ok_or(nowhere)?;
        Ok((neighbours.region(address)?, cluster::offset(address)))
    }

    /// Notes an access to the shared memory of a block of the cluster.
    #[inline]
    fn note_visit(&self, place: &Place<'_>, address: u64, access: &Access<'_>) {
        if let (Space::Cluster, Some(neighbours)) = (place.space, self.neighbours) {
            neighbours.note_visit(address, access);
        }
    }
}

impl Warp {
    pub fn addresses(&self, at: Address) -> [u64; LANES] {
        self.registers[at.base as usize].map(|base| base.wrapping_add_signed(at.offset))
    }

    /// Executes a memory instruction.
    pub fn memory_op(&mut self, context: &mut Context<'_>, op: &Op, lanes: u32) -> Result<(), Wrong> {
        match op {
            Op::Load { transfer, at, d } => self.load(context, *transfer, *at, d, lanes),
            Op::Store { transfer, at, values } => self.store(context, *transfer, *at, values, lanes),
            Op::Atomic { f, transfer, at, d, b, c } => {
                self.atomic(context, *f, *transfer, *at, (*d, *b, *c), lanes)
            }
            Op::CopyAsync { to, from, bytes, given, ignored } => {
                let ignored = ignored.map_or(0, |condition| self.holds(condition));
                self.copy(context, [*to, *from], *bytes, (*given, ignored), lanes)
            }
            Op::CommitCopies => {
                each_lane(lanes, |lane| self.commits[lane] += 1);
                for copy in self.copies.iter_mut().filter(|c| lanes >> c.lane & 1 == 1) {
                    copy.group = copy.group.min(self.commits[copy.lane as usize]);
                }
                Ok(())
            }
            Op::WaitCopies { pending } => self.finish_copies(context, *pending, lanes),
            Op::CopyBulk { to, from, bytes, barrier } => {
                self.copy_bulk(context, [*to, *from, *barrier], *bytes, lanes)
            }
            Op::LoadMatrix { at, transposed, d } => self.load_matrix(context, *at, *transposed, d, lanes),
            Op::StoreMatrix { at, transposed, values } => {
                self.store_matrix(context, *at, *transposed, values, lanes)
            }
            Op::PhaseBarrier { f, at } => self.phase_barrier(context, *f, *at, lanes),
            _ => Ok(()),
        }
    }

    /// Who accesses memory in a space; the thread is still to be filled in.
    pub fn access(&self, memories: &Memories<'_>, space: Space, atomic: bool) -> Access<'_> {
        let stamp = memories.stamps[usize::from(is_shared(space))];
        let clock = self.clocks.known[self.index as usize];
        let record = Access::record(stamp, memories.block, clock, atomic);
        Access {
            record,
            thread: self.index * LANES as u32,
            clocks: &self.clocks,
            met: self.met,
            knowledge: self.knowledge.as_ref(),
        }
    }

    /// What writes of the lanes release.
    pub fn outgoing(&self, block: u64, lanes: u32, order: Order) -> Outgoing {
        let knowledge = self.knowledge.as_ref();
        knowledge.map(|k| k.outgoing(self.member(block), lanes, order.releases)).unwrap_or_default()
    }

    /// What an access to flags leaves behind: the warp knows what it read, and counts up if it released. Returns whether
    /// it read anything new.
    fn synchronize(
        &mut self,
        context: &mut Context<'_>,
        incoming: &Incoming,
        order: Order,
        repeats: bool,
    ) -> bool {
        let Some(knowledge) = &mut self.knowledge else { return false };
        let news = knowledge.take(incoming, order.acquires, repeats);
        context.changed |= news;
        if order.releases {
            self.count_up();
        }
        news
    }

    fn load(
        &mut self,
        context: &mut Context<'_>,
        transfer: Transfer,
        at: Address,
        d: &[Option<u32>],
        lanes: u32,
    ) -> Result<(), Wrong> {
        let addresses = self.addresses(at);
        if self.load_together(context, transfer, &addresses, d, lanes)?
            || self.defers(context, transfer, lanes, &addresses)
        {
            return Ok(());
        }
        let (size, memories) = (transfer.ty.bytes(), context.memories);
        let flags = memories.flags.filter(|_| transfer.atomic).map(Flags::lock);
        let again = flags.is_some() && self.looks_again(lanes, &addresses);
        let mut incoming = Incoming::default();
        let mut wrong = None;
        let mut values = [[0u64; LANES]; 8];
        let mut space = Space::Global;
        each_lane(lanes, |lane| {
            if wrong.is_some() {
                return;
            }
            let mut read = || -> Result<(), Problem> {
                aligned(addresses[lane], size * transfer.count)?;
                for (element, slot) in (0..transfer.count).zip(&mut values) {
                    let address = addresses[lane] + u64::from(element * size);
                    let place = memories.place(self.local.as_ref(), transfer.space, address, lane, size)?;
                    space = place.space;
                    let access = self.access(&memories, place.space, transfer.atomic).by(lane as u32);
                    place.region.note_read(place.offset, size, &access)?;
                    memories.note_visit(&place, address, &access);
                    let value = place.region.load(place.offset, size);
                    slot[lane] = match &flags {
                        Some(flags) if space == Space::Global => {
                            let word = Word { address, bytes: size, value };
                            flags.find(word, &access, lane, again, &mut incoming)
                        }
                        _ => value,
                    };
                }
                Ok(())
            };
            wrong = read().err().map(|problem| (lane as u32, problem));
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        for (value, slot) in values.iter().zip(d) {
            let Some(slot) = slot else { continue };
            let out = &mut self.registers[*slot as usize];
            if transfer.ty.signed() {
                let extend = |x| sign_extend(x, transfer.ty.bits) as u64 & transfer.destination;
                each_lane(lanes, |lane| out[lane] = extend(value[lane]));
            } else {
                each_lane(lanes, |lane| out[lane] = value[lane]);
            }
        }
        context.progress |= !transfer.atomic;
        let bytes = size * transfer.count;
        if space == Space::Global {
            context.counters.global_read += u64::from(lanes.count_ones() * bytes);
        }
        count_request(context, space, &addresses, bytes, lanes);
        drop(flags);
        if transfer.atomic {
            let repeats = self.repeats(lanes, &addresses);
            let news = self.synchronize(context, &incoming, transfer.order, repeats);
            self.look(context, space, lanes, &addresses, news);
        } else if space != Space::Local {
            self.act();
        }
        Ok(())
    }

    fn store(
        &mut self,
        context: &mut Context<'_>,
        transfer: Transfer,
        at: Address,
        values: &[u32],
        lanes: u32,
    ) -> Result<(), Wrong> {
        let addresses = self.addresses(at);
        if self.store_together(context, transfer, &addresses, values, lanes)? {
            return Ok(());
        }
        let (size, memories) = (transfer.ty.bytes(), context.memories);
        let outgoing = if transfer.atomic {
            self.outgoing(memories.block, lanes, transfer.order)
        } else {
            Outgoing::default()
        };
        let mut flags = memories.flags.filter(|_| transfer.atomic).map(Flags::lock);
        let mut wrong = None;
        let mut space = Space::Global;
        each_lane(lanes, |lane| {
            if wrong.is_some() {
                return;
            }
            let mut write = || -> Result<(), Problem> {
                aligned(addresses[lane], size * transfer.count)?;
                for (element, slot) in (0..transfer.count).zip(values) {
                    let address = addresses[lane] + u64::from(element * size);
                    let place = memories.place(self.local.as_ref(), transfer.space, address, lane, size)?;
                    space = place.space;
                    let access = self.access(&memories, place.space, transfer.atomic).by(lane as u32);
                    place.region.note_write(place.offset, size, &access)?;
                    memories.note_visit(&place, address, &access);
                    let new = self.registers[*slot as usize][lane] & mask(size * 8);
                    if let (Some(flags), Space::Global) = (&mut flags, space) {
                        let value = place.region.load(place.offset, size);
                        flags.write(Word { address, bytes: size, value }, new, &access, outgoing.of(lane));
                    }
                    place.region.store(place.offset, size, new);
                }
                Ok(())
            };
            wrong = write().err().map(|problem| (lane as u32, problem));
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        context.progress = true;
        context.changed |= reaches_others(space);
        let bytes = size * transfer.count;
        if space == Space::Global {
            context.counters.global_written += u64::from(lanes.count_ones() * bytes);
        }
        count_request(context, space, &addresses, bytes, lanes);
        if flags.is_some() {
            drop(flags);
            self.synchronize(context, &Incoming::default(), transfer.order, false);
        }
        if space != Space::Local {
            self.act();
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        context: &mut Context<'_>,
        f: Atomic,
        transfer: Transfer,
        at: Address,
        (d, b, c): (Option<u32>, u32, u32),
        lanes: u32,
    ) -> Result<(), Wrong> {
        let addresses = self.addresses(at);
        let (size, memories) = (transfer.ty.bytes(), context.memories);
        let (operand, second) = (self.registers[b as usize], self.registers[c as usize]);
        let outgoing = self.outgoing(memories.block, lanes, transfer.order);
        let mut flags = memories.flags.map(Flags::lock);
        let again = flags.is_some() && self.looks_again(lanes, &addresses);
        let mut incoming = Incoming::default();
        let mut out = [0u64; LANES];
        let mut changed = false;
        let mut wrong = None;
        let mut space = Space::Global;
        each_lane(lanes, |lane| {
            if wrong.is_some() {
                return;
            }
            let mut update = || -> Result<(), Problem> {
                aligned(addresses[lane], size)?;
                let place =
                    memories.place(self.local.as_ref(), transfer.space, addresses[lane], lane, size)?;
                space = place.space;
                let access = self.access(&memories, place.space, true).by(lane as u32);
                place.region.note_read(place.offset, size, &access)?;
                place.region.note_write(place.offset, size, &access)?;
                memories.note_visit(&place, addresses[lane], &access);
                let (b, c) = (operand[lane] & mask(size * 8), second[lane] & mask(size * 8));
                let new = |old| match f {
                    Atomic::Map(f) => evaluate(f, transfer.ty, Mode::default(), old, b, 0),
                    Atomic::Exchange => b,
                    Atomic::CompareAndSwap => {
                        if old == b {
                            c
                        } else {
                            old
                        }
                    }
                    Atomic::Increment => {
                        if old >= b {
                            0
                        } else {
                            old + 1
                        }
                    }
                    Atomic::Decrement => {
                        if old == 0 || old > b {
                            b
                        } else {
                            old - 1
                        }
                    }
                };
                let Some(flags) = flags.as_mut().filter(|_| space == Space::Global) else {
                    out[lane] = place.region.update(place.offset, size, new);
                    changed |= new(out[lane]) != out[lane];
                    return Ok(());
                };
                let value = place.region.load(place.offset, size);
                let word = Word { address: addresses[lane], bytes: size, value };
                let releases = outgoing.of(lane);
                if releases.is_none() && new(value) == value {
                    // One that changes nothing may come before others that do.
                    let view = flags.read(word, &access, again).filter(|view| new(view.value) == view.value);
                    out[lane] = view.as_ref().map_or(value, |view| view.value);
                    let view = view.or_else(|| flags.newest(word, false));
                    view.into_iter().for_each(|view| incoming.add(lane, word.address, view));
                    return Ok(());
                }
                out[lane] = place.region.update(place.offset, size, new);
                changed |= new(value) != value;
                // A reduction returns nothing, and so its thread learns nothing.
                if d.is_some() || transfer.order.acquires {
                    let view = flags.newest(word, true);
                    view.into_iter().for_each(|view| incoming.add(lane, word.address, view));
                }
                let adds = f == Atomic::Map(Function::Add) && !transfer.ty.is_float();
                let change = Change { value: new(value), step: adds.then_some(b) };
                flags.update(word, change, &access, releases);
                Ok(())
            };
            wrong = update().err().map(|problem| (lane as u32, problem));
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if let Some(d) = d {
            let registers = &mut self.registers[d as usize];
            each_lane(lanes, |lane| registers[lane] = out[lane]);
        }
        context.progress |= changed;
        context.changed |= changed && reaches_others(space);
        if space == Space::Global {
            let bytes = u64::from(lanes.count_ones() * size);
            context.counters.global_read += bytes;
            context.counters.global_written += bytes;
        }
        count_request(context, space, &addresses, size, lanes);
        if flags.is_some() {
            drop(flags);
            let repeats = !changed && self.repeats(lanes, &addresses);
            let news = self.synchronize(context, &incoming, transfer.order, repeats);
            if changed {
                self.act();
            } else {
                self.look(context, space, lanes, &addresses, news);
            }
        }
        Ok(())
    }
}

/// Whether other blocks see what is written there.
pub(super) fn reaches_others(space: Space) -> bool {
    matches!(space, Space::Global | Space::Cluster)
}

pub(super) fn aligned(address: u64, alignment: u32) -> Result<(), Problem> {
    if address.is_multiple_of(u64::from(alignment)) {
        return Ok(());
    }
    Err(Problem::Misaligned { address, alignment })
}
