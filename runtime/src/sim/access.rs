//! Accesses of a warp to memory, each checked, and counted as the hardware would serve them.

use super::arithmetic::evaluate;
use super::execute::{Context, Wrong, each_lane, first};
use super::fault::Problem;
use super::memory::{Access, Memory, Region};
use super::op::{Address, Atomic, Op, Order, Space, Transfer};
use super::order::{Flags, Incoming, Outgoing};
use super::value::{Mode, mask, sign_extend};
use super::warp::{Copy, LANES, Warp};

/// Generic addresses of shared and of local memory have this in their highest byte.
const SHARED_WINDOW: u64 = 1 << 56;
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
    /// What orders blocks, in a cooperative launch.
    pub flags: Option<&'a Flags>,
}

/// An address between the generic space and another one.
pub(super) fn convert(to_generic: bool, space: Space, address: u64) -> u64 {
    let window = match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Generic | Space::Global => return address,
    };
    if to_generic { address | window } else { address & !WINDOW_MASK }
}

/// Whether a generic address lies in a space.
pub(super) fn is_in(space: Space, address: u64) -> bool {
    match (space, address & WINDOW_MASK) {
        (Space::Shared, window) => window == SHARED_WINDOW,
        (Space::Local, window) => window == LOCAL_WINDOW,
        (Space::Global, window) => window == 0,
        (Space::Generic, _) => true,
    }
}

/// Where an address leads.
struct Place<'r> {
    region: &'r Region,
    offset: u64,
    space: Space,
}

impl<'a> Memories<'a> {
    fn place<'r>(
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
            (Space::Generic, SHARED_WINDOW) => Space::Shared,
            (Space::Generic, LOCAL_WINDOW) => Space::Local,
            (Space::Generic, _) => Space::Global,
            (space, _) => space,
        };
        let (region, offset) = match space {
            Space::Shared => (self.shared, address & mask(32)),
            Space::Local => {
                let offset = address & mask(32);
                if offset + u64::from(size) > self.local {
                    return Err(nowhere());
                }
                (local.ok_or_else(nowhere)?, lane as u64 * self.local + offset)
            }
            Space::Generic | Space::Global => {
                let number = (address >> 36).wrapping_sub(super::decode::MODULE_REGIONS);
                match self.module.get(usize::try_from(number).unwrap_or(usize::MAX)) {
                    Some(region) => (region, address & mask(36)),
                    None => self.global.find(address).ok_or_else(nowhere)?,
                }
            }
        };
        region.check(offset, size, address)?;
        Ok(Place { region, offset, space })
    }
}

impl Warp {
    fn addresses(&self, at: Address) -> [u64; LANES] {
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
            Op::CopyAsync { to, from, bytes, given } => {
                self.copy(context, [*to, *from], *bytes, *given, lanes)
            }
            Op::CommitCopies => {
                each_lane(lanes, |lane| self.commits[lane] += 1);
                for copy in self.copies.iter_mut().filter(|c| lanes >> c.lane & 1 == 1) {
                    copy.group = copy.group.min(self.commits[copy.lane as usize]);
                }
                Ok(())
            }
            Op::WaitCopies { pending } => self.finish_copies(context, *pending, lanes),
            Op::LoadMatrix { at, transposed, d } => self.load_matrix(context, *at, *transposed, d, lanes),
            _ => Ok(()),
        }
    }

    /// Who accesses memory in a space; the thread is still to be filled in.
    fn access(&self, memories: &Memories<'_>, space: Space, atomic: bool) -> Access<'_> {
        let stamp = memories.stamps[usize::from(space == Space::Shared)];
        let clock = self.clocks[self.index as usize];
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
    fn outgoing(&self, block: u64, lanes: u32, order: Order) -> Outgoing {
        let knowledge = self.knowledge.as_ref();
        knowledge.map(|k| k.outgoing(self.member(block), lanes, order.releases)).unwrap_or_default()
    }

    /// What an access to flags leaves behind: the warp knows what it read, and counts up if it released.
    fn synchronize(&mut self, incoming: &Incoming, order: Order) {
        let Some(knowledge) = &mut self.knowledge else { return };
        knowledge.take(incoming, order.acquires);
        if order.releases {
            self.count_up();
        }
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
        let (size, memories) = (transfer.ty.bytes(), context.memories);
        let flags = memories.flags.filter(|_| transfer.atomic).map(Flags::lock);
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
                    let access = self.access(&memories, place.space, transfer.atomic);
                    let access = Access { thread: access.thread + lane as u32, ..access };
                    place.region.note_read(place.offset, size, &access)?;
                    slot[lane] = place.region.load(place.offset, size);
                }
                if let (Some(flags), Space::Global) = (&flags, space) {
                    flags.read(addresses[lane], lane, &mut incoming);
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
        if flags.is_some() {
            drop(flags);
            self.synchronize(&incoming, transfer.order);
            self.poll(context, lanes, &addresses, &values[0]);
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
                    let access = self.access(&memories, place.space, transfer.atomic);
                    let access = Access { thread: access.thread + lane as u32, ..access };
                    place.region.note_write(place.offset, size, &access)?;
                    place.region.store(place.offset, size, self.registers[*slot as usize][lane]);
                }
                if let (Some(flags), Space::Global) = (&mut flags, space) {
                    flags.write(addresses[lane], lane, &outgoing);
                }
                Ok(())
            };
            wrong = write().err().map(|problem| (lane as u32, problem));
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        context.progress = true;
        context.changed |= space == Space::Global;
        let bytes = size * transfer.count;
        if space == Space::Global {
            context.counters.global_written += u64::from(lanes.count_ones() * bytes);
        }
        count_request(context, space, &addresses, bytes, lanes);
        if flags.is_some() {
            drop(flags);
            self.synchronize(&Incoming::default(), transfer.order);
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
                let access = self.access(&memories, place.space, true);
                let access = Access { thread: access.thread + lane as u32, ..access };
                place.region.note_read(place.offset, size, &access)?;
                place.region.note_write(place.offset, size, &access)?;
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
                out[lane] = place.region.update(place.offset, size, new);
                changed |= new(out[lane]) != out[lane];
                if let (Some(flags), Space::Global) = (&mut flags, space) {
                    flags.read(addresses[lane], lane, &mut incoming);
                    flags.update(addresses[lane], lane, &outgoing);
                }
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
        context.changed |= changed && space == Space::Global;
        if space == Space::Global {
            let bytes = u64::from(lanes.count_ones() * size);
            context.counters.global_read += bytes;
            context.counters.global_written += bytes;
        }
        count_request(context, space, &addresses, size, lanes);
        if flags.is_some() {
            drop(flags);
            self.synchronize(&incoming, transfer.order);
            if changed {
                self.act();
            } else {
                self.poll(context, lanes, &addresses, &out);
            }
        }
        Ok(())
    }

    /// Begins copies: what they are to write is not there until they are waited for.
    fn copy(
        &mut self,
        context: &mut Context<'_>,
        [to, from]: [Address; 2],
        bytes: u32,
        given: Option<u32>,
        lanes: u32,
    ) -> Result<(), Wrong> {
        let (to, from) = (self.addresses(to), self.addresses(from));
        let memories = context.memories;
        let mut copies = Vec::new();
        for lane in (0..LANES).filter(|lane| lanes >> lane & 1 == 1) {
            let given = given.map_or(bytes, |slot| (self.registers[slot as usize][lane] as u32).min(bytes));
            let mut begin = || -> Result<(), Problem> {
                aligned(to[lane], bytes)?;
                aligned(from[lane], bytes)?;
                for at in (0..bytes).step_by(4) {
                    let address = to[lane] + u64::from(at);
                    let place = memories.place(None, Space::Shared, address, lane, 4)?;
                    let access = self.access(&memories, Space::Shared, false);
                    let access = Access { thread: access.thread + lane as u32, ..access };
                    place.region.note_write(place.offset, 4, &access)?;
                    place.region.note_pending(place.offset, 4);
                }
                let (lane, group) = (lane as u32, u32::MAX);
                copies.push(Copy {
                    lane,
                    group,
                    to: to[lane as usize],
                    from: from[lane as usize],
                    bytes,
                    given,
                });
                Ok(())
            };
            begin().map_err(|problem| (lane as u32, problem))?;
        }
        self.copies.extend(copies);
        context.counters.global_read += u64::from(lanes.count_ones() * bytes);
        count_request(context, Space::Global, &from, bytes, lanes);
        count_request(context, Space::Shared, &to, bytes, lanes);
        Ok(())
    }

    /// Makes the copies whose groups are not among the last `pending` commits of their lanes.
    fn finish_copies(&mut self, context: &mut Context<'_>, pending: u32, lanes: u32) -> Result<(), Wrong> {
        let memories = context.memories;
        let due = |copy: &Copy| {
            let last = self.commits[copy.lane as usize].saturating_sub(pending);
            lanes >> copy.lane & 1 == 1 && (copy.group <= last || (pending == 0 && copy.group == u32::MAX))
        };
        let (due, later): (Vec<Copy>, Vec<Copy>) = self.copies.iter().partition(|copy| due(copy));
        for copy in &due {
            self.finish_copy(&memories, copy).map_err(|problem| (copy.lane, problem))?;
        }
        self.copies = later;
        context.progress = true;
        Ok(())
    }

    fn finish_copy(&self, memories: &Memories<'_>, copy: &Copy) -> Result<(), Problem> {
        for at in 0..copy.bytes {
            let (lane, offset) = (copy.lane as usize, u64::from(at));
            let access = |space| {
                let access = self.access(memories, space, false);
                Access { thread: access.thread + copy.lane, ..access }
            };
            let mut value = 0;
            if at < copy.given {
                let from = memories.place(None, Space::Global, copy.from + offset, lane, 1)?;
                from.region.note_read(from.offset, 1, &access(Space::Global))?;
                value = from.region.load(from.offset, 1);
            }
            let to = memories.place(None, Space::Shared, copy.to + offset, lane, 1)?;
            to.region.note_write(to.offset, 1, &access(Space::Shared))?;
            to.region.store(to.offset, 1, value);
        }
        Ok(())
    }

    /// Eight by eight halves at a time, a row from the address that each of eight lanes gives.
    fn load_matrix(
        &mut self,
        context: &mut Context<'_>,
        at: Address,
        transposed: bool,
        d: &[u32],
        lanes: u32,
    ) -> Result<(), Wrong> {
        if lanes != u32::MAX {
            return Err((first(lanes), Problem::WrongMembers { here: lanes, named: u32::MAX }));
        }
        let (addresses, memories) = (self.addresses(at), context.memories);
        for (matrix, slot) in d.iter().enumerate() {
            let mut rows = [[0u64; 8]; 8];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = (matrix * 8 + row) % LANES;
                let read = || -> Result<(), Problem> {
                    aligned(addresses[lane], 16)?;
                    for (column, value) in (0..).zip(values) {
                        let address = addresses[lane] + 2 * column;
                        let place = memories.place(None, Space::Shared, address, lane, 2)?;
                        let access = self.access(&memories, Space::Shared, false);
                        let access = Access { thread: access.thread + lane as u32, ..access };
                        place.region.note_read(place.offset, 2, &access)?;
                        *value = place.region.load(place.offset, 2);
                    }
                    Ok(())
                };
                read().map_err(|problem| (lane as u32, problem))?;
            }
            self.registers[*slot as usize] = std::array::from_fn(|lane| {
                let (outer, inner) = (lane / 4, lane % 4 * 2);
                let pick =
                    |i: usize| if transposed { rows[inner + i][outer] } else { rows[outer][inner + i] };
                pick(0) | (pick(1) << 16)
            });
            let group = 0xFFu32 << (matrix * 8 % LANES);
            count_request(context, Space::Shared, &addresses, 16, group);
        }
        Ok(())
    }
}

fn aligned(address: u64, alignment: u32) -> Result<(), Problem> {
    if address.is_multiple_of(u64::from(alignment)) {
        return Ok(());
    }
    Err(Problem::Misaligned { address, alignment })
}

/// Counts an access of some lanes, `bytes` each.
fn count_request(context: &mut Context<'_>, space: Space, addresses: &[u64; LANES], bytes: u32, lanes: u32) {
    match space {
        Space::Global => {
            context.counters.global_requests += 1;
            context.counters.global_sectors += distinct(addresses, lanes, 32, |_, sector| sector).1;
        }
        Space::Shared => {
            context.counters.shared_requests += 1;
            context.counters.bank_conflicts += conflicts(addresses, bytes, lanes);
        }
        Space::Generic | Space::Local => {}
    }
}

/// The distinct units of some lanes' addresses, and their number.
fn distinct(
    addresses: &[u64; LANES],
    lanes: u32,
    unit: u64,
    key: impl Fn(usize, u64) -> u64,
) -> ([u64; LANES], u64) {
    let mut found = [0; LANES];
    let (mut count, mut sorted) = (0, true);
    each_lane(lanes, |lane| {
        let value = key(lane, addresses[lane] / unit);
        if count == 0 || found[count - 1] != value {
            sorted &= count == 0 || found[count - 1] < value;
            found[count] = value;
            count += 1;
        }
    });
    if !sorted {
        found[..count].sort_unstable();
        let mut kept = 1;
        for at in 1..count {
            if found[at] != found[kept - 1] {
                found[kept] = found[at];
                kept += 1;
            }
        }
        count = kept;
    }
    (found, count as u64)
}

/// Turns that an access of shared memory takes beyond the least: each of 32 banks gives one 4-byte word a turn, and
/// wide accesses are served by parts of the warp.
fn conflicts(addresses: &[u64; LANES], bytes: u32, lanes: u32) -> u64 {
    let words = u64::from(bytes.div_ceil(4).clamp(1, 4));
    let per_turn = LANES / words as usize;
    let mut extra = 0;
    for turn in 0..words as usize {
        let part = lanes & (((1u64 << per_turn) - 1) << (turn * per_turn)) as u32;
        if part == 0 {
            continue;
        }
        let (found, count) = distinct(addresses, part, 4 * words, |_, unit| unit);
        let mut banks = [0u64; LANES];
        for unit in &found[..count as usize] {
            banks[((unit * words) % LANES as u64) as usize] += 1;
        }
        extra += banks.iter().max().map_or(0, |most| most.saturating_sub(1));
    }
    extra
}
