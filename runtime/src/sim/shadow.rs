//! The shadow of memory: who wrote each granule last, and who read it since.
//!
//! A granule has 1, 2 or 4 bytes. Two threads that read it are remembered, and of more warps the set ([`super::crowd`]). That
//! is enough: whoever writes has to follow each warp that read, and of the lanes of a warp another one than itself.
//!
//! Most accesses are of whole lines of 16 bytes. They are remembered for the line, beside what its granules remember of
//! accesses to parts of it; who accesses memory has to follow both.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::crowd::{Crowd, Crowds};
use super::execute::{Wrong, first};
use super::fault::{Earlier, Problem};
use super::memory::{Region, zeroed};
use super::order::lane_of;
use super::record::{Access, Batch, Before, earlier};

/// The bytes of a line.
const LINE: u64 = 16;
/// The bit of a set of readers in a shadow that says that some are of another block than the first one.
const OTHERS: Crowd = 1 << 31;

/// What is remembered of a granule, or of a line; nothing where all is 0.
struct Shadow {
    writer: AtomicU64,
    readers: [AtomicU64; 2],
    /// The launch, and the set of warps that read it besides that of the first reader.
    crowd: AtomicU64,
}

/// What is remembered of a line; nothing where all is 0.
struct Line {
    whole: Shadow,
    /// The last launches that wrote and that read parts of it.
    parts: [AtomicU32; 2],
}

/// Whether parts of a line are written or read.
#[derive(Clone, Copy)]
enum Part {
    Written,
    Read,
}

/// The shadows of a region.
pub(super) struct Shadows {
    lines: Box<[Line]>,
    granules: Box<[Shadow]>,
    /// The binary logarithm of the bytes of a granule.
    granule: u32,
    crowds: Crowds,
    /// One bit a granule, set where the asynchronous proxy wrote last; empty where nothing reads through it.
    copied: Vec<AtomicU32>,
}

/// An access by lanes of a warp to bytes of a region.
struct Asked<'b, 'a> {
    batch: &'b mut Batch<'a>,
    crowds: &'b Crowds,
    lanes: u32,
    /// The access of the first lane, its record, and that of the last one.
    access: Access<'a>,
    own: u64,
    last: u64,
    joined: Option<Joined>,
}

/// The lane whose access conflicts with an earlier one.
type Conflict = (u32, Earlier);

/// The word of a set of readers that a batch joined last, and what it became.
#[derive(Clone, Copy)]
struct Joined {
    word: u64,
    /// Whether the first reader is of another block.
    other: bool,
    into: u64,
}

impl<'b, 'a> Asked<'b, 'a> {
    fn new(batch: &'b mut Batch<'a>, crowds: &'b Crowds, lanes: u32) -> Self {
        let access = batch.access.by(first(lanes));
        let last = batch.access.by(31 - lanes.leading_zeros()).own();
        Asked { lanes, access, own: access.own(), last, joined: None, batch, crowds }
    }

    /// Refuses unless all lanes follow a writer.
    fn follow_writer(&mut self, writer: u64) -> Result<(), Conflict> {
        match self.batch.unordered(Before::Writer, writer, self.lanes) {
            Some(lane) => Err((lane, earlier(writer, true))),
            None => Ok(()),
        }
    }

    /// Refuses unless the first lane follows all readers.
    fn follow_readers(&mut self, shadow: &Shadow) -> Result<(), Conflict> {
        for reader in &shadow.readers {
            let reader = reader.load(Relaxed);
            if let Some(lane) = self.batch.unordered(Before::Reader, reader, self.lanes) {
                return Err((lane, earlier(reader, false)));
            }
        }
        let crowd = shadow.crowd(self.access.stamp());
        self.batch.is_narrow |= crowd != 0;
        match self.crowds.unordered(crowd, &self.access) {
            Some(reader) => Err((first(self.lanes), earlier(reader, false))),
            None => Ok(()),
        }
    }

    /// Begins to access a part of a line; refuses unless all lanes follow who accessed it as a whole. Lanes side by side access
    /// the same line, and ask once.
    fn enter(&mut self, line: &Line, part: Part) -> Result<(), Conflict> {
        let place = std::ptr::from_ref(line).addr();
        if self.batch.line == place {
            return Ok(());
        }
        line.part(part, self.access.stamp());
        self.batch.is_narrow = false;
        match part {
            Part::Written => self.follow(&line.whole)?,
            Part::Read => self.follow_writer(line.whole.writer.load(Relaxed))?,
        }
        if !self.batch.is_narrow {
            self.batch.line = place;
        }
        Ok(())
    }

    /// Writes it; refuses unless that follows who accessed it before.
    fn write(&mut self, shadow: &Shadow) -> Result<(), Conflict> {
        let writer = shadow.writer.swap(self.own, Relaxed);
        self.follow_writer(writer)?;
        self.follow_readers(shadow)
    }

    /// Refuses unless all lanes follow whoever accessed it.
    fn follow(&mut self, shadow: &Shadow) -> Result<(), Conflict> {
        self.follow_writer(shadow.writer.load(Relaxed))?;
        self.follow_readers(shadow)
    }

    /// Reads it; refuses unless all lanes follow who wrote it. Of lanes that read the same, two are remembered.
    fn read(&mut self, shadow: &Shadow) -> Result<(), Conflict> {
        self.follow_writer(shadow.writer.load(Relaxed))?;
        let reader = shadow.readers[0].load(Relaxed);
        // The first reader that nothing orders before this one stays; others are remembered beside it.
        let stays = reader != self.own
            && self.batch.unordered(Before::Reader, reader, self.lanes & self.lanes.wrapping_neg()).is_some();
        if stays {
            // Two readers of a warp are two lanes.
            let other = if Access::same_thread(reader, self.last) { self.own } else { self.last };
            shadow.readers[1].store(other, Relaxed);
            if !Access::same_warp(reader, self.own) {
                shadow.join(self.crowds, &self.access, reader, &mut self.joined);
            }
            return Ok(());
        }
        if self.last != self.own {
            shadow.readers[1].store(self.last, Relaxed);
        }
        if reader == self.own {
            return Ok(());
        }
        shadow.readers[0].store(self.own, Relaxed);
        let crowd = shadow.crowd(self.access.stamp());
        if crowd != 0 && self.crowds.unordered(crowd, &self.access).is_none() {
            shadow.crowd.store(0, Relaxed);
        }
        Ok(())
    }
}

impl Shadow {
    fn forget(&self) {
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

impl Line {
    /// Notes that parts of it are accessed.
    fn part(&self, part: Part, stamp: u64) {
        let parts = &self.parts[part as usize];
        if u64::from(parts.load(Relaxed)) != stamp {
            parts.store(stamp as u32, Relaxed);
        }
    }

    /// Whether parts of it were accessed in this launch.
    fn has_parts(&self, part: Part, stamp: u64) -> bool {
        u64::from(self.parts[part as usize].load(Relaxed)) == stamp
    }
}

impl Shadows {
    /// Nobody accessed so many bytes, in granules of so many, yet.
    pub fn new(bytes: u64, granule: u64) -> Shadows {
        let granule = granule.clamp(1, 4).trailing_zeros();
        let count = |each: u64| bytes.div_ceil(each) as usize;
        // SAFETY: atomic integers may be 0.
        let (lines, granules) = unsafe { (zeroed(count(LINE)), zeroed(count(1 << granule))) };
        Shadows { lines, granules, granule, crowds: Crowds::default(), copied: Vec::new() }
    }

    /// Remembers by which proxy each granule was written.
    pub fn watch_proxies(&mut self) {
        self.copied = (0..self.granules.len().div_ceil(32)).map(|_| AtomicU32::new(0)).collect();
    }

    /// Forgets all accesses.
    pub fn forget(&self) {
        for line in &self.lines {
            line.whole.forget();
            line.parts.iter().for_each(|part| part.store(0, Relaxed));
        }
        self.granules.iter().for_each(Shadow::forget);
    }

    /// The lines of some bytes, and whether the bytes are all of it; the bytes of each.
    fn lines(&self, offset: u64, size: u32) -> impl Iterator<Item = (&Line, bool, Range<u64>)> {
        let end = offset + u64::from(size);
        (offset / LINE..end.div_ceil(LINE)).map(move |at| {
            let bytes = offset.max(at * LINE)..end.min((at + 1) * LINE);
            (&self.lines[at as usize], bytes.end - bytes.start == LINE, bytes)
        })
    }

    /// The granules of some bytes.
    fn granules(&self, bytes: &Range<u64>) -> Range<usize> {
        (bytes.start >> self.granule) as usize..((bytes.end - 1) >> self.granule) as usize + 1
    }

    /// The offset at which an access found a conflict in a granule.
    fn offset(&self, granule: usize) -> u64 {
        (granule as u64) << self.granule
    }

    fn read(&self, offset: u64, size: u32, asked: &mut Asked<'_, '_>) -> Result<(), (u64, Conflict)> {
        let stamp = asked.access.stamp();
        for (line, whole, bytes) in self.lines(offset, size) {
            let here = |conflict| (bytes.start, conflict);
            if whole {
                asked.read(&line.whole).map_err(here)?;
                if !line.has_parts(Part::Written, stamp) {
                    continue;
                }
            } else {
                asked.enter(line, Part::Read).map_err(here)?;
            }
            for at in self.granules(&bytes) {
                let shadow = &self.granules[at];
                let read = match whole {
                    true => asked.follow_writer(shadow.writer.load(Relaxed)),
                    false => asked.read(shadow),
                };
                read.map_err(|conflict| (self.offset(at), conflict))?;
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, size: u32, asked: &mut Asked<'_, '_>) -> Result<(), (u64, Conflict)> {
        let stamp = asked.access.stamp();
        for (line, whole, bytes) in self.lines(offset, size) {
            let here = |conflict| (bytes.start, conflict);
            self.mark_copied(&bytes, false);
            if whole {
                asked.write(&line.whole).map_err(here)?;
                if !line.has_parts(Part::Written, stamp) && !line.has_parts(Part::Read, stamp) {
                    continue;
                }
            } else {
                asked.enter(line, Part::Written).map_err(here)?;
            }
            for at in self.granules(&bytes) {
                let shadow = &self.granules[at];
                let written = if whole { asked.follow(shadow) } else { asked.write(shadow) };
                written.map_err(|conflict| (self.offset(at), conflict))?;
            }
        }
        Ok(())
    }

    /// Notes by which proxy some bytes are written, where that matters.
    fn mark_copied(&self, bytes: &Range<u64>, copied: bool) {
        for at in self.granules(bytes) {
            let Some(bits) = self.copied.get(at / 32) else { return };
            match copied {
                true => bits.fetch_or(1 << (at % 32), Relaxed),
                false => bits.fetch_and(!(1 << (at % 32)), Relaxed),
            };
        }
    }

    /// Whether the asynchronous proxy wrote a granule last.
    fn is_copied(&self, at: usize) -> bool {
        self.copied.get(at / 32).is_some_and(|copied| copied.load(Relaxed) >> (at % 32) & 1 == 1)
    }

    /// Who wrote some bytes last: granule by granule the thread that wrote it as a part, and the one that wrote the whole line;
    /// and the granule.
    fn writers(&self, offset: u64, size: u32) -> impl Iterator<Item = (usize, u64)> {
        self.lines(offset, size).flat_map(move |(line, _, bytes)| {
            self.granules(&bytes).flat_map(move |at| {
                [&line.whole, &self.granules[at]].map(|shadow| (at, shadow.writer.load(Relaxed)))
            })
        })
    }
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
        let Some(shadows) = &self.shadows else { return Ok(()) };
        let mut asked = Asked::new(batch, &shadows.crowds, lanes);
        shadows
            .read(offset, size, &mut asked)
            .map_err(|(at, (lane, earlier))| (lane, self.race(at, false, earlier)))
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
        let Some(shadows) = &self.shadows else { return Ok(()) };
        for (at, writer) in shadows.writers(offset, size) {
            if !shadows.is_copied(at) && !access.is_fenced(writer) {
                let buffer = (self.name.clone(), shadows.offset(at));
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
        let Some(shadows) = &self.shadows else { return self.note_read(offset, size, access) };
        for ((at, writer), before) in shadows.writers(offset, size).zip(writers) {
            if writer != before {
                return Err(self.race(shadows.offset(at), false, earlier(writer, true)));
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
        let Some(shadows) = &self.shadows else { return Ok(()) };
        let mut asked = Asked::new(batch, &shadows.crowds, 1 << lane);
        let written = shadows.write(offset, size, &mut asked);
        written.map_err(|(at, (_, earlier))| self.race(at, true, earlier))
    }

    /// Notes that what was pending has come, and who writes it by that.
    pub fn note_arrived(&self, offset: u64, size: u32, access: &Access<'_>) {
        self.note_there(offset, size);
        let Some(shadows) = &self.shadows else { return };
        for (line, whole, bytes) in shadows.lines(offset, size) {
            shadows.mark_copied(&bytes, true);
            if whole {
                line.whole.writer.store(access.own(), Relaxed);
                continue;
            }
            line.part(Part::Written, access.stamp());
            for shadow in &shadows.granules[shadows.granules(&bytes)] {
                shadow.writer.store(access.own(), Relaxed);
            }
        }
    }

    fn race(&self, offset: u64, writes: bool, earlier: Earlier) -> Problem {
        Problem::Race { buffer: (self.name.clone(), offset), writes, earlier }
    }
}
