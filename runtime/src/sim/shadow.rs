//! The shadow of memory: who wrote each granule last, and who read it since.
//!
//! A granule has 1, 2 or 4 bytes. Two threads that read it are remembered, and of more warps the set ([`super::crowd`]). That
//! is enough: whoever writes has to follow each warp that read, and of the lanes of a warp another one than itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::crowd::{Crowd, Crowds};
use super::execute::{Wrong, first};
use super::fault::{Earlier, Problem};
use super::memory::Region;
use super::order::lane_of;
use super::record::{Access, Batch, Before, earlier};

/// The bit of a set of readers in a shadow that says that some are of another block than the first one.
const OTHERS: Crowd = 1 << 31;

/// What is remembered of a granule.
#[derive(Default)]
pub(super) struct Shadow {
    writer: AtomicU64,
    readers: [AtomicU64; 2],
    /// The launch, and the set of warps that read it besides that of the first reader.
    crowd: AtomicU64,
}

/// The word of a set of readers that a batch joined last, and what it became.
#[derive(Clone, Copy)]
struct Joined {
    word: u64,
    /// Whether the first reader is of another block.
    other: bool,
    into: u64,
}

impl Shadow {
    /// Nobody accessed it.
    pub fn forget(&self) {
        self.writer.store(0, Relaxed);
        self.readers.iter().for_each(|r| r.store(0, Relaxed));
        self.crowd.store(0, Relaxed);
    }

    /// The set of further readers in this launch.
    fn crowd(&self, stamp: u64) -> Crowd {
        crowd_of(self.crowd.load(Relaxed), stamp)
    }

    /// Notes a reader that nothing orders after the first one.
    fn join(&self, crowds: &Crowds, access: &Access<'_>, first: u64, joined: &mut Option<Joined>) {
        let other = !Access::same_block(first, access.own());
        loop {
            let word = self.crowd.load(Relaxed);
            let into = match joined {
                Some(before) if (before.word, before.other) == (word, other) => before.into,
                _ => with_reader(word, crowds, access, other),
            };
            *joined = Some(Joined { word, other, into });
            if into == word || self.crowd.compare_exchange(word, into, Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }
}

/// The set that a word names, if it is of this launch.
fn crowd_of(word: u64, stamp: u64) -> Crowd {
    if word >> 32 == stamp { word as Crowd & !OTHERS } else { 0 }
}

/// The word of the set with one more reader, of the block of the first one or of another.
fn with_reader(word: u64, crowds: &Crowds, access: &Access<'_>, other: bool) -> u64 {
    let stamp = access.stamp();
    let others = word >> 32 == stamp && word as Crowd & OTHERS != 0;
    // Blocks of an ordinary launch are never ordered, and those of two readers are enough.
    if other && others && access.knowledge.is_none() {
        return word;
    }
    let mark = if other || others { OTHERS } else { 0 };
    stamp << 32 | u64::from(crowds.with(crowd_of(word, stamp), access) | mark)
}

impl Region {
    /// Notes a read by a single lane, and reports one of unwritten bytes or that races.
    pub fn note_read(&self, offset: u64, size: u32, access: &Access<'_>) -> Result<(), Problem> {
        let lanes = 1 << lane_of(access.thread);
        self.note_reads(offset, size, lanes, &mut Batch::new(*access)).map_err(|(_, problem)| problem)
    }

    /// Notes that some lanes read the same bytes, at most 32 that lie in 32 that are aligned; reports unwritten ones, and reads
    /// that race.
    pub fn note_reads(&self, offset: u64, size: u32, lanes: u32, batch: &mut Batch<'_>) -> Result<(), Wrong> {
        self.check_there(offset, size).map_err(|problem| (first(lanes), problem))?;
        if self.shadow.is_empty() {
            return Ok(());
        }
        // Of lanes that read the same, two are enough.
        let access = batch.access.by(first(lanes));
        let (own, last) = (access.own(), batch.access.by(31 - lanes.leading_zeros()).own());
        let mut joined = None;
        for at in self.granules(offset, size) {
            let shadow = &self.shadow[at];
            let writer = shadow.writer.load(Relaxed);
            if let Some(lane) = batch.unordered(Before::Writer, writer, lanes) {
                return Err((lane, self.race(at, false, earlier(writer, true))));
            }
            let reader = shadow.readers[0].load(Relaxed);
            if reader == own {
                if last != own {
                    shadow.readers[1].store(last, Relaxed);
                }
                continue;
            }
            // The first reader that nothing orders before this one stays; others are remembered beside it.
            if batch.unordered(Before::Reader, reader, lanes & lanes.wrapping_neg()).is_none() {
                shadow.readers[0].store(own, Relaxed);
                if last != own {
                    shadow.readers[1].store(last, Relaxed);
                }
                let crowd = shadow.crowd(access.stamp());
                if crowd != 0 && self.crowds.unordered(crowd, &access).is_none() {
                    shadow.crowd.store(0, Relaxed);
                }
                continue;
            }
            shadow.readers[1].store(last, Relaxed);
            if !Access::same_warp(reader, own) {
                shadow.join(&self.crowds, &access, reader, &mut joined);
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
        self.note_lane_write(offset, size, lane_of(access.thread), &mut Batch::new(*access))
    }

    /// Notes a write by one of a warp's lanes and reports one that races.
    pub fn note_lane_write(
        &self,
        offset: u64,
        size: u32,
        lane: u32,
        batch: &mut Batch<'_>,
    ) -> Result<(), Problem> {
        self.check_writable()?;
        self.note_there(offset, size);
        if self.shadow.is_empty() {
            return Ok(());
        }
        let (access, lanes) = (batch.access.by(lane), 1 << lane);
        for at in self.granules(offset, size) {
            let shadow = &self.shadow[at];
            if let Some(copied) = self.copied.get(at / 32) {
                copied.fetch_and(!(1 << (at % 32)), Relaxed);
            }
            let writer = shadow.writer.swap(access.own(), Relaxed);
            if batch.unordered(Before::Writer, writer, lanes).is_some() {
                return Err(self.race(at, true, earlier(writer, true)));
            }
            for reader in &shadow.readers {
                let reader = reader.load(Relaxed);
                if batch.unordered(Before::Reader, reader, lanes).is_some() {
                    return Err(self.race(at, true, earlier(reader, false)));
                }
            }
            let crowd = shadow.crowd(access.stamp());
            if let Some(reader) = self.crowds.unordered(crowd, &access) {
                return Err(self.race(at, true, earlier(reader, false)));
            }
        }
        Ok(())
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

    fn granules(&self, offset: u64, size: u32) -> std::ops::Range<usize> {
        let first = (offset >> self.granule) as usize;
        first..((offset + u64::from(size) - 1) >> self.granule) as usize + 1
    }

    fn race(&self, granule: usize, writes: bool, earlier: Earlier) -> Problem {
        Problem::Race { buffer: (self.name.clone(), (granule as u64) << self.granule), writes, earlier }
    }
}
