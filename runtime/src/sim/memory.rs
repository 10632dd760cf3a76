//! Memory of the simulated device: regions with bounds, and beside each byte what is known of it.
//!
//! A region remembers which of its bytes were written and, for each granule of 1, 2 or 4 bytes, who wrote it last,
//! two threads that read it since, and of more warps the set ([`super::crowd`]). Words are atomics, since blocks run on several threads of the host and a
//! kernel under test may well race; the shadow tells.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::clocks::Clocks;
use super::crowd::{Crowd, Crowds};
use super::fault::{Earlier, Problem};
use super::order::{Knowledge, lane_of};

/// Addresses have the number of their region from this bit on, counted from 1.
const REGION_BITS: u32 = 36;
/// The last launch number that a record can hold.
pub(super) const LAST_STAMP: u64 = (1 << 14) - 1;

/// Who accesses memory: packed for the shadow as launch, block, thread, atomicity and the warp's clock.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    /// The packed record but for the thread.
    pub record: u64,
    /// The thread in its block.
    pub thread: u32,
    /// What this thread's warp knows of the warps of its block, its own included.
    pub clocks: &'a Clocks,
    /// The last clock of its own warp at which all lanes met.
    pub met: u32,
    /// What it knows of other blocks, where those of a launch may know of each other.
    pub knowledge: Option<&'a Knowledge>,
}

const CLOCK_BITS: u32 = 19;
const ATOMIC: u64 = 1 << CLOCK_BITS;
const THREAD_SHIFT: u32 = CLOCK_BITS + 1;
const BLOCK_SHIFT: u32 = THREAD_SHIFT + 10;
const STAMP_SHIFT: u32 = BLOCK_SHIFT + 20;
/// Blocks are told apart by so many bits of their number.
pub(super) const BLOCK_MASK: u64 = (1 << 20) - 1;

impl Access<'_> {
    /// The record of accesses of one warp in one launch.
    pub fn record(stamp: u64, block: u64, clock: u32, atomic: bool) -> u64 {
        let clock = u64::from(clock).min(ATOMIC - 1);
        (stamp << STAMP_SHIFT)
            | ((block & BLOCK_MASK) << BLOCK_SHIFT)
            | clock
            | if atomic { ATOMIC } else { 0 }
    }

    fn own(&self) -> u64 {
        self.record | (u64::from(self.thread) << THREAD_SHIFT)
    }

    /// The access as one that is not atomic.
    pub fn plain(&self) -> u64 {
        self.own() & !ATOMIC
    }

    /// The launch.
    pub fn stamp(&self) -> u64 {
        self.record >> STAMP_SHIFT
    }

    /// The access as one of the thread's warp.
    pub fn of_warp(&self) -> u64 {
        self.own() & !(31 << THREAD_SHIFT)
    }

    /// Whether its lane acquired anything since its warp met.
    pub fn learned(&self) -> bool {
        self.knowledge.is_some_and(|knowledge| knowledge.learned(lane_of(self.thread)))
    }

    /// Whether records are of the same block.
    pub fn same_block(a: u64, b: u64) -> bool {
        (a ^ b) >> BLOCK_SHIFT == 0
    }

    /// Whether records are of the same warp.
    fn same_warp(a: u64, b: u64) -> bool {
        (a ^ b) >> (THREAD_SHIFT + 5) == 0
    }

    /// Whether a proxy fence is known behind an earlier access; those of other blocks are not watched.
    fn is_fenced(&self, earlier: u64) -> bool {
        let clock = (earlier & (ATOMIC - 1)) as u32;
        let fenced = self.clocks.fenced.get(thread_of(earlier) as usize / 32).copied().unwrap_or(0);
        earlier == 0 || !Access::same_block(earlier, self.own()) || fenced >= clock
    }

    /// Whether an earlier access happened before this one, or does not conflict with it.
    pub fn follows(&self, earlier: u64) -> bool {
        self.follows_lane(earlier, Some(lane_of(thread_of(earlier))))
    }

    /// Whether an earlier access of some lane of a warp may have happened before this one, or does not conflict with it.
    pub fn follows_warp(&self, earlier: u64) -> bool {
        Access::same_warp(earlier, self.own()) || self.follows_lane(earlier, None)
    }

    fn follows_lane(&self, earlier: u64, lane: Option<u32>) -> bool {
        let own = self.own();
        let same_block = Access::same_block(earlier, own);
        if earlier == 0 || (earlier ^ own) >> STAMP_SHIFT != 0 || earlier & own & ATOMIC != 0 {
            return true;
        }
        if !same_block && self.knowledge.is_none() {
            return false;
        }
        let thread = thread_of(earlier);
        let clock = (earlier & (ATOMIC - 1)) as u32;
        let known = if !same_block {
            false
        } else if thread / 32 == self.thread / 32 {
            thread == self.thread || self.met >= clock
        } else {
            self.clocks.known.get(thread as usize / 32).is_some_and(|known| *known >= clock)
        };
        known
            || self.knowledge.is_some_and(|k| {
                let block = ((earlier >> BLOCK_SHIFT) & BLOCK_MASK) as usize;
                let warp = block * self.clocks.len() + thread as usize / 32;
                k.covers(warp, clock, lane, lane_of(self.thread))
            })
    }
}

fn thread_of(record: u64) -> u32 {
    ((record >> THREAD_SHIFT) & 1023) as u32
}

/// Who made the access of a record.
pub(super) fn earlier(record: u64, wrote: bool) -> Earlier {
    Earlier { block: ((record >> BLOCK_SHIFT) & BLOCK_MASK) as u32, thread: thread_of(record), wrote }
}

/// The bit of a set of readers in a shadow that says that some are of another block than the first one.
const OTHERS: Crowd = 1 << 31;

#[derive(Default)]
struct Shadow {
    writer: AtomicU64,
    readers: [AtomicU64; 2],
    /// The launch, and the set of warps that read it besides that of the first reader.
    crowd: AtomicU64,
}

impl Shadow {
    /// The word as it is, the set, and whether one of it is of another block than the first reader.
    fn crowd(&self, stamp: u64) -> (u64, Crowd, bool) {
        let word = self.crowd.load(Relaxed);
        if word >> 32 != stamp {
            return (word, 0, false);
        }
        (word, word as Crowd & !OTHERS, word as Crowd & OTHERS != 0)
    }

    /// Notes a reader that nothing orders after the first one.
    fn join(&self, crowds: &Crowds, access: &Access<'_>, first: u64) {
        let stamp = access.stamp();
        loop {
            let (word, crowd, others) = self.crowd(stamp);
            let other = !Access::same_block(first, access.own());
            // Blocks of an ordinary launch are never ordered, and those of two readers are enough.
            if other && others && access.knowledge.is_none() {
                return;
            }
            let mark = if other || others { OTHERS } else { 0 };
            let joined = stamp << 32 | u64::from(crowds.with(crowd, access) | mark);
            if self.crowd.compare_exchange(word, joined, Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }
}

/// What a region is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Holds data and may only be read.
    Constant,
    /// Holds data and may be written.
    Written,
    /// Must be written before it is read.
    Unwritten,
}

/// Memory with bounds.
pub(super) struct Region {
    pub name: String,
    bytes: u64,
    words: Vec<AtomicU32>,
    /// One bit a byte; empty where everything is written from the start.
    written: Vec<AtomicU32>,
    constant: bool,
    /// The binary logarithm of the granule.
    granule: u32,
    shadow: Vec<Shadow>,
    crowds: Crowds,
    /// One bit a granule, set where the asynchronous proxy wrote last; empty where nothing reads through it.
    copied: Vec<AtomicU32>,
    /// Held while 8 bytes change as one.
    wide: Mutex<()>,
}

impl Region {
    pub fn new(name: &str, bytes: u64, granule: u64, content: Content) -> Region {
        let count = |per: u64| bytes.div_ceil(per) as usize;
        let granule = granule.clamp(1, 4).trailing_zeros();
        let unwritten = content == Content::Unwritten;
        let shadows = if content == Content::Constant { 0 } else { count(1 << granule) };
        Region {
            name: name.to_string(),
            bytes,
            words: (0..count(4)).map(|_| AtomicU32::new(0)).collect(),
            written: (0..if unwritten { count(32) } else { 0 }).map(|_| AtomicU32::new(0)).collect(),
            constant: content == Content::Constant,
            granule,
            shadow: (0..shadows).map(|_| Shadow::default()).collect(),
            crowds: Crowds::default(),
            copied: Vec::new(),
            wide: Mutex::default(),
        }
    }

    /// A region without a shadow, for memory that one thread has for itself.
    pub fn private(name: &str, bytes: u64) -> Region {
        let mut region = Region::new(name, bytes, 4, Content::Unwritten);
        region.shadow.clear();
        region
    }

    /// Remembers by which proxy each granule was written.
    pub fn watch_proxies(mut self) -> Region {
        self.copied = (0..self.shadow.len().div_ceil(32)).map(|_| AtomicU32::new(0)).collect();
        self
    }

    /// Forgets what was written; records of earlier stamps mean nothing anyway.
    pub fn forget(&self) {
        self.written.iter().for_each(|w| w.store(0, Relaxed));
    }

    /// Forgets who accessed it.
    pub fn forget_accesses(&self) {
        for shadow in &self.shadow {
            shadow.writer.store(0, Relaxed);
            shadow.readers.iter().for_each(|r| r.store(0, Relaxed));
            shadow.crowd.store(0, Relaxed);
        }
    }

    /// Copies bytes in from the host.
    pub fn fill(&self, bytes: &[u8]) {
        for (word, chunk) in self.words.iter().zip(bytes.chunks(4)) {
            let mut buffer = [0; 4];
            buffer[..chunk.len()].copy_from_slice(chunk);
            word.store(u32::from_le_bytes(buffer), Relaxed);
        }
    }

    /// Copies bytes out to the host.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        for (word, chunk) in self.words.iter().zip(bytes.chunks_mut(4)) {
            chunk.copy_from_slice(&word.load(Relaxed).to_le_bytes()[..chunk.len()]);
        }
    }

    /// Refuses an access that leaves the region; `size` is 1, 2, 4, 8, 16 or 32, and the offset a multiple of it.
    pub fn check(&self, offset: u64, size: u32, address: u64) -> Result<(), Problem> {
        if offset.checked_add(u64::from(size)).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        let buffer = Some((self.name.clone(), offset, self.bytes));
        Err(Problem::OutOfBounds { address, bytes: size, buffer })
    }

    /// Notes a read and reports one of unwritten bytes or that races.
    pub fn note_read(&self, offset: u64, size: u32, access: &Access<'_>) -> Result<(), Problem> {
        if !self.written.is_empty() {
            let mask = ((1u64 << size) - 1) as u32;
            let bits = self.written[offset as usize / 32].load(Relaxed) >> (offset % 32);
            if bits & mask != mask {
                let missing = u64::from((!bits & mask).trailing_zeros());
                return Err(Problem::NeverWritten { buffer: (self.name.clone(), offset + missing) });
            }
        }
        if self.shadow.is_empty() {
            return Ok(());
        }
        let own = access.own();
        for at in self.granules(offset, size) {
            let shadow = &self.shadow[at];
            let writer = shadow.writer.load(Relaxed);
            if !access.follows(writer) {
                return Err(self.race(at, false, earlier(writer, true)));
            }
            let first = shadow.readers[0].load(Relaxed);
            if first == own {
                continue;
            }
            // The first reader that nothing orders before this one stays; others are remembered beside it.
            if access.follows(first) {
                shadow.readers[0].store(own, Relaxed);
                let (_, crowd, _) = shadow.crowd(access.stamp());
                if crowd != 0 && self.crowds.unordered(crowd, access).is_none() {
                    shadow.crowd.store(0, Relaxed);
                }
                continue;
            }
            shadow.readers[1].store(own, Relaxed);
            if !Access::same_warp(first, own) {
                shadow.join(&self.crowds, access, first);
            }
        }
        Ok(())
    }

    /// Notes a read through the asynchronous proxy, and leaves who wrote each granule last. Reports what
    /// [`Region::note_read`] does, and a read of what threads wrote with no proxy fence in between.
    pub fn note_asynchronous_read(
        &self,
        offset: u64,
        size: u32,
        access: &Access<'_>,
        writers: &mut Vec<u64>,
    ) -> Result<(), Problem> {
        self.note_read(offset, size, access)?;
        for at in self.granules(offset, size) {
            let writer = self.shadow[at].writer.load(Relaxed);
            let copied = self.copied.get(at / 32).is_some_and(|c| c.load(Relaxed) >> (at % 32) & 1 == 1);
            if !copied && !access.is_fenced(writer) {
                let buffer = (self.name.clone(), (at as u64) << self.granule);
                return Err(Problem::NoProxyFence { buffer, earlier: earlier(writer, true) });
            }
            writers.push(writer);
        }
        Ok(())
    }

    /// Notes the end of a read that began when these had written; reports whoever wrote since.
    pub fn note_end_of_read(
        &self,
        offset: u64,
        size: u32,
        access: &Access<'_>,
        writers: &mut impl Iterator<Item = u64>,
    ) -> Result<(), Problem> {
        for (at, before) in self.granules(offset, size).zip(writers) {
            let writer = self.shadow[at].writer.load(Relaxed);
            if writer != before {
                return Err(self.race(at, false, earlier(writer, true)));
            }
        }
        self.note_read(offset, size, access)
    }

    /// Notes a write and reports one that races.
    pub fn note_write(&self, offset: u64, size: u32, access: &Access<'_>) -> Result<(), Problem> {
        if self.constant {
            return Err(Problem::ReadOnly { buffer: self.name.clone() });
        }
        self.note_there(offset, size);
        if self.shadow.is_empty() {
            return Ok(());
        }
        for at in self.granules(offset, size) {
            let shadow = &self.shadow[at];
            if let Some(copied) = self.copied.get(at / 32) {
                copied.fetch_and(!(1 << (at % 32)), Relaxed);
            }
            let writer = shadow.writer.swap(access.own(), Relaxed);
            if !access.follows(writer) {
                return Err(self.race(at, true, earlier(writer, true)));
            }
            for reader in &shadow.readers {
                let reader = reader.load(Relaxed);
                if !access.follows(reader) {
                    return Err(self.race(at, true, earlier(reader, false)));
                }
            }
            let (_, crowd, _) = shadow.crowd(access.stamp());
            if let Some(reader) = self.crowds.unordered(crowd, access) {
                return Err(self.race(at, true, earlier(reader, false)));
            }
        }
        Ok(())
    }

    /// Notes that what these bytes hold is not there yet.
    pub fn note_pending(&self, offset: u64, size: u32) {
        if !self.written.is_empty() {
            let mask = ((1u64 << size) - 1) as u32;
            self.written[offset as usize / 32].fetch_and(!(mask << (offset % 32)), Relaxed);
        }
    }

    /// Notes that what was pending has come, and who writes it by that.
    pub fn note_arrived(&self, offset: u64, size: u32, access: &Access<'_>) {
        self.note_there(offset, size);
        for shadow in self.shadow.get(self.granules(offset, size)).into_iter().flatten() {
            shadow.writer.store(access.own(), Relaxed);
        }
        for at in self.granules(offset, size) {
            if let Some(copied) = self.copied.get(at / 32) {
                copied.fetch_or(1 << (at % 32), Relaxed);
            }
        }
    }

    /// Notes that what these bytes hold is there.
    fn note_there(&self, offset: u64, size: u32) {
        if !self.written.is_empty() {
            let mask = ((1u64 << size) - 1) as u32;
            self.written[offset as usize / 32].fetch_or(mask << (offset % 32), Relaxed);
        }
    }

    /// Replaces 2, 4 or 8 bytes by a function of them, as one, and returns what they were.
    pub fn update(&self, offset: u64, size: u32, f: impl Fn(u64) -> u64) -> u64 {
        if size == 8 {
            let _held = self.wide.lock().unwrap_or_else(PoisonError::into_inner);
            let old = self.load(offset, 8);
            self.store(offset, 8, f(old));
            return old;
        }
        let word = &self.words[offset as usize / 4];
        let shift = (offset % 4) * 8;
        let mask = ((1u64 << (size * 8)) - 1) << shift;
        let replaced = |old: u32| {
            let old = u64::from(old);
            ((old & !mask) | ((f((old & mask) >> shift) << shift) & mask)) as u32
        };
        let mut old = word.load(Relaxed);
        while let Err(now) = word.compare_exchange_weak(old, replaced(old), Relaxed, Relaxed) {
            old = now;
        }
        (u64::from(old) & mask) >> shift
    }

    fn granules(&self, offset: u64, size: u32) -> std::ops::Range<usize> {
        let first = (offset >> self.granule) as usize;
        first..((offset + u64::from(size) - 1) >> self.granule) as usize + 1
    }

    fn race(&self, granule: usize, writes: bool, earlier: Earlier) -> Problem {
        Problem::Race { buffer: (self.name.clone(), (granule as u64) << self.granule), writes, earlier }
    }

    /// Reads 1, 2, 4 or 8 bytes that [`Region::check`] admits.
    pub fn load(&self, offset: u64, size: u32) -> u64 {
        let at = offset as usize / 4;
        let word = u64::from(self.words[at].load(Relaxed));
        match size {
            8 => word | (u64::from(self.words[at + 1].load(Relaxed)) << 32),
            4 => word,
            _ => (word >> (offset % 4 * 8)) & ((1 << (size * 8)) - 1),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes that [`Region::check`] admits.
    pub fn store(&self, offset: u64, size: u32, value: u64) {
        let at = offset as usize / 4;
        match size {
            8 => {
                self.words[at].store(value as u32, Relaxed);
                self.words[at + 1].store((value >> 32) as u32, Relaxed);
            }
            4 => self.words[at].store(value as u32, Relaxed),
            _ => {
                let shift = (offset % 4) * 8;
                let mask = (((1u64 << (size * 8)) - 1) << shift) as u32;
                self.words[at].fetch_and(!mask, Relaxed);
                self.words[at].fetch_or(((value << shift) as u32) & mask, Relaxed);
            }
        }
    }
}

/// The global memory of a device.
#[derive(Default)]
pub struct Memory {
    regions: Vec<Region>,
    launches: AtomicU64,
}

impl Memory {
    /// Nothing is allocated at first.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Allocates a buffer and returns its address. Races are told apart down to `granule` bytes, at most 4.
    pub fn allocate(&mut self, name: &str, bytes: u64, granule: u64, content: Content) -> u64 {
        self.regions.push(Region::new(name, bytes, granule, content));
        (self.regions.len() as u64) << REGION_BITS
    }

    /// Allocates a buffer with the given bytes.
    pub fn allocate_with(&mut self, name: &str, bytes: &[u8], granule: u64, content: Content) -> u64 {
        let address = self.allocate(name, bytes.len() as u64, granule, content);
        if let Some(region) = self.regions.last() {
            region.fill(bytes);
        }
        address
    }

    /// Copies the first bytes of the buffer at `address` out; nothing where there is none.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        if let Some((region, 0)) = self.find(address) {
            region.copy_to(bytes);
        }
    }

    /// The region of an address and the offset in it, which may lie beyond its end.
    pub(super) fn find(&self, address: u64) -> Option<(&Region, u64)> {
        let region = usize::try_from(address >> REGION_BITS).ok()?.checked_sub(1)?;
        Some((self.regions.get(region)?, address & ((1 << REGION_BITS) - 1)))
    }

    /// A number for a new launch, by which its accesses are told from earlier ones.
    pub(super) fn next_stamp(&self) -> u64 {
        let stamp = self.launches.fetch_add(1, Relaxed) % LAST_STAMP + 1;
        if stamp == 1 {
            self.regions.iter().for_each(Region::forget_accesses);
        }
        stamp
    }
}
