//! Words of global memory by which blocks of a cooperative launch wait for each other, with all values that they had.
//!
//! A thread that reads a flag again and again finds one value after the other, from the oldest that coherence allows: so it
//! learns no more than it waited for, however far others are ahead. Additions of the same number could have come in
//! another order where nothing orders them, and a thread is sure only of what came before a value in each of these
//! orders: of additions `a` to a flag, `newest` in all, of which `after` can only come with or after `a`, the first
//! `position` contain `a` for sure if `position + after > newest`. A thread that waits for too few of them is sure of
//! none, and what lacks an order is found whichever blocks come first.
//!
//! Atomic operations continue the release sequence of what they read; stores begin anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::order::{Clock, Knowledge, absorb};
use super::record::{Access, BLOCK_MASK};

/// The most bytes of clocks that the versions of one flag take.
const HISTORY_BYTES: usize = 64 << 20;

/// What a warp read of a flag last.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// The version by whose value it goes on.
    position: u64,
    /// Up to this version all came before that in any order.
    sure: u64,
    /// Whether it read the same twice: it may, but not for ever.
    twice: bool,
}

impl Seen {
    /// Goes on to what was read now, and says whether that is new.
    pub fn take(&mut self, now: Seen) -> bool {
        let news = now.position > self.position;
        *self = Seen { sure: self.sure.max(now.sure), twice: !news, ..now };
        news
    }

    /// What threads that meet have seen together.
    pub fn join(&mut self, other: Seen) {
        *self = Seen {
            position: self.position.max(other.position),
            sure: self.sure.max(other.sure),
            twice: self.twice && other.twice,
        };
    }
}

/// What lanes of an instruction found at a flag.
pub(super) struct Found {
    pub lanes: u32,
    pub address: u64,
    value: u64,
    pub seen: Seen,
    /// What those released that came before for sure.
    pub clock: Option<Arc<Clock>>,
}

/// What the lanes of an instruction found at the flags that they read.
#[derive(Default)]
pub(super) struct Incoming {
    pub found: Vec<Found>,
}

impl Incoming {
    /// What a lane finds at a flag that the one before it found something at.
    pub fn again(&mut self, lane: usize, address: u64) -> Option<u64> {
        let last = self.found.last_mut().filter(|last| last.address == address)?;
        last.lanes |= 1 << lane;
        Some(last.value)
    }

    /// Adds what a lane found.
    pub fn add(&mut self, lane: usize, address: u64, view: View) {
        let View { value, seen, clock } = view;
        match self.found.last_mut() {
            Some(last) if last.address == address && last.seen.position == seen.position => {
                last.lanes |= 1 << lane;
            }
            _ => self.found.push(Found { lanes: 1 << lane, address, value, seen, clock }),
        }
    }
}

/// What a thread finds when it reads a flag.
pub(super) struct View {
    pub value: u64,
    seen: Seen,
    clock: Option<Arc<Clock>>,
}

/// A write of a flag.
struct Version {
    value: u64,
    /// What it added, if that is what it did.
    step: Option<u64>,
    /// What it released.
    own: Option<Arc<Clock>>,
    /// What all of its release sequence did, up to it.
    clock: Option<Arc<Clock>>,
    /// Who wrote it, as an access that is not atomic; 0 at first.
    record: u64,
    /// It, and newer versions that can only come after it.
    after: u64,
}

impl Version {
    fn initial(value: u64) -> Version {
        Version { value, step: None, own: None, clock: None, record: 0, after: 1 }
    }
}

/// The versions of a flag, as far as they are remembered.
struct History {
    bytes: u32,
    /// The number of the oldest.
    first: u64,
    versions: VecDeque<Version>,
    /// All that are newer than this one added the same number.
    base: u64,
}

impl History {
    fn new(bytes: u32, value: u64, first: u64) -> History {
        History { bytes, first, versions: [Version::initial(value)].into(), base: first }
    }

    fn newest(&self) -> u64 {
        (self.first + self.versions.len() as u64).saturating_sub(1)
    }

    fn get(&self, number: u64) -> Option<&Version> {
        self.versions.get(number.checked_sub(self.first)? as usize)
    }

    /// The oldest version that is remembered and follows `base`, as an offset and its number.
    fn additions(&self) -> (usize, u64) {
        let start = (self.base + 1).max(self.first);
        ((start - self.first) as usize, start)
    }

    /// Adds a version by a thread that is sure of all up to `sure`.
    fn push(&mut self, version: Version, access: &Access<'_>, sure: u64, most: usize) {
        let (number, newest) = (self.newest() + 1, self.newest());
        let same = version.step.is_some() && self.get(newest).is_some_and(|last| last.step == version.step);
        if version.step.is_none() {
            self.base = number;
        } else if !same {
            self.base = newest;
        }
        let (offset, start) = self.additions();
        let additions = self.versions.range_mut(offset.min(self.versions.len())..);
        for (at, earlier) in (start..).zip(additions) {
            earlier.after += u64::from(at <= sure || access.follows(earlier.record));
        }
        if self.versions.len() >= most {
            self.versions.pop_front();
            self.first += 1;
        }
        self.versions.push_back(version);
    }

    /// The oldest version by whose value a thread may go on that knows what it does, and of versions up to `sure`.
    fn oldest(&self, access: &Access<'_>, sure: u64) -> u64 {
        let known = |at: u64, version: &Version| at <= sure || access.follows(version.record);
        let (offset, start) = self.additions();
        let offset = offset.min(self.versions.len());
        let additions = (start..).zip(self.versions.range(offset..));
        match additions.filter(|(at, version)| known(*at, version)).count() as u64 {
            0 => {
                let before = self.versions.range(..offset).enumerate();
                let before = before.map(|(i, version)| (self.first + i as u64, version));
                before.rev().find(|(at, version)| known(*at, version)).map_or(self.first, |(at, _)| at)
            }
            count => start - 1 + count,
        }
    }

    /// What a thread learns by the value of a version, if it is sure of all up to `sure`.
    fn view(&self, position: u64, sure: u64) -> Option<View> {
        let version = self.get(position)?;
        let (value, newest) = (version.value, self.newest());
        let whole = |sure| Seen { position, sure, twice: false };
        if position <= self.base || position == newest {
            return Some(View { value, seen: whole(position), clock: version.clock.clone() });
        }
        let certain = |version: &Version| position + version.after > newest;
        // What is not remembered was long ago.
        let mut prefix = sure.max(self.base).max(self.first).min(position);
        while prefix < position && self.get(prefix + 1).is_some_and(certain) {
            prefix += 1;
        }
        let mut clock = self.get(prefix).and_then(|version| version.clock.clone());
        for number in prefix + 2..=position {
            let version = self.get(number).filter(|version| certain(version));
            version.and_then(|v| v.own.as_ref()).into_iter().for_each(|own| absorb(&mut clock, own));
        }
        Some(View { value, seen: whole(prefix), clock })
    }
}

/// The flags of a launch, by address.
pub(super) struct Flags {
    nothing: Arc<Clock>,
    /// The first warp of the grid that may learn by them.
    first: usize,
    /// Versions of a flag that are remembered: those of two meetings of all blocks, where memory allows.
    versions: usize,
    words: Mutex<Words>,
}

#[derive(Default)]
struct Words {
    histories: HashMap<u64, History>,
    sequences: u64,
}

impl Flags {
    /// None are written yet, by so many blocks of so many warps each, the first of which is that of the grid.
    pub fn new(first: u64, blocks: usize, warps: usize) -> Flags {
        let first = (first & BLOCK_MASK) as usize * warps;
        let warps = blocks * warps;
        let versions = (2 * blocks + 2).min(HISTORY_BYTES / (16 * warps.max(1))).max(2);
        Flags { nothing: Arc::new(Clock::nothing(warps)), first, versions, words: Mutex::default() }
    }

    /// What a warp knows at first.
    pub fn knowledge(&self) -> Knowledge {
        Knowledge::new(self.nothing.clone(), self.first)
    }

    /// Holds the flags for one instruction, so that values and what comes with them change as one.
    pub fn lock(&self) -> Held<'_> {
        Held { versions: self.versions, words: self.words.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// A word of memory that is accessed as a flag.
#[derive(Clone, Copy)]
pub(super) struct Word {
    pub address: u64,
    pub bytes: u32,
    /// What memory holds, or did before a write.
    pub value: u64,
}

/// What a write of a flag does.
#[derive(Clone, Copy)]
pub(super) struct Change {
    /// The value that it leaves.
    pub value: u64,
    /// What it adds, if that is what it does.
    pub step: Option<u64>,
}

/// Flags that no other thread accesses at the time.
pub(super) struct Held<'a> {
    versions: usize,
    words: MutexGuard<'a, Words>,
}

impl Held<'_> {
    /// What a thread may find at a flag. `again` says that its warp did nothing since it read the flag, and goes on to the
    /// next version. None where memory alone tells.
    pub fn read(&self, word: Word, access: &Access<'_>, again: bool) -> Option<View> {
        let history = self.words.histories.get(&word.address).filter(|h| h.bytes == word.bytes)?;
        let newest = history.newest();
        // A plain store may have replaced what atomic ones wrote.
        history.get(newest).filter(|version| version.value == word.value)?;
        let seen = access.knowledge.and_then(|k| k.seen(word.address));
        let sure = seen.map_or(0, |seen| seen.sure);
        let next = seen.map_or(0, |seen| seen.position + u64::from(again || seen.twice));
        let oldest = if again { history.first } else { history.oldest(access, sure) };
        history.view(next.max(oldest).min(newest), sure)
    }

    /// The value that a lane finds at a flag, and what comes with it.
    pub fn find(
        &self,
        word: Word,
        access: &Access<'_>,
        lane: usize,
        again: bool,
        incoming: &mut Incoming,
    ) -> u64 {
        if let Some(value) = incoming.again(lane, word.address) {
            return value;
        }
        let Some(view) = self.read(word, access, again) else { return word.value };
        let value = view.value;
        incoming.add(lane, word.address, view);
        value
    }

    /// What the last write of a flag left. A thread that replaces it comes later.
    pub fn newest(&self, word: Word, replaces: bool) -> Option<View> {
        let history = self.words.histories.get(&word.address)?;
        let newest = history.get(history.newest())?;
        // What it adds to could have been less, had it come earlier.
        let sure = history.base;
        let seen = Seen { position: history.newest() + u64::from(replaces), sure, twice: false };
        Some(View { value: newest.value, seen, clock: newest.clock.clone() })
    }

    /// A lane replaces what a flag holds.
    pub fn write(&mut self, word: Word, new: u64, access: &Access<'_>, outgoing: Option<&Arc<Clock>>) {
        let (own, clock) = (outgoing.cloned(), outgoing.cloned());
        let version = Version { own, clock, record: access.plain(), ..Version::initial(new) };
        self.push(word, version, access);
    }

    /// A lane computes what a flag holds from what it held.
    pub fn update(&mut self, word: Word, change: Change, access: &Access<'_>, own: Option<&Arc<Clock>>) {
        if own.is_none() && change.value == word.value {
            return;
        }
        let before = self.words.histories.get(&word.address);
        let before = before.and_then(|h| h.get(h.newest())?.clock.clone());
        let clock = match (before, own) {
            (before, None) => before,
            (None, Some(own)) => {
                self.words.sequences += 1;
                Some(Arc::new(own.begin(self.words.sequences)))
            }
            (Some(before), Some(own)) => Some(Arc::new(before.continued(own))),
        };
        let Change { value, step } = change;
        let version =
            Version { step, own: own.cloned(), clock, record: access.plain(), ..Version::initial(value) };
        self.push(word, version, access);
    }

    fn push(&mut self, word: Word, version: Version, access: &Access<'_>) {
        let most = self.versions;
        let history = self.words.histories.entry(word.address);
        let history = history.or_insert_with(|| History::new(word.bytes, word.value, 0));
        if history.bytes != word.bytes || history.versions.back().is_none_or(|last| last.value != word.value)
        {
            // What memory held came from elsewhere; the numbers go on.
            *history = History::new(word.bytes, word.value, history.newest() + 1);
        }
        let sure = access.knowledge.and_then(|k| k.seen(word.address)).map_or(0, |seen| seen.sure);
        history.push(version, access, sure, most);
    }
}
