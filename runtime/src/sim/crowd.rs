//! Readers of memory by the many: which warps read a granule with nothing in between that orders them.
//!
//! Most granules are read by one warp at a time, and their records have room for two threads; what more warps read, a whole
//! grid perhaps, would take a record for each warp and granule. But granules are read by the same warps in the same order,
//! so that sets of readers are shared: a set is a reader and the set that it was added to, and has a number.
//!
//! Of readers in a set the warp is known and not the lane: one counts as ordered if any lane of its warp is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::Access;

/// The number of a set of readers; 0 has none.
pub(super) type Crowd = u32;

/// The sets of readers of a region.
pub(super) struct Crowds {
    /// Tells regions apart in what threads of the host remember.
    serial: u64,
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    /// The launch that they are of.
    stamp: u64,
    /// From 1 on: the set without the reader, and the reader.
    nodes: Vec<(Crowd, u64)>,
    known: HashMap<(Crowd, u64), Crowd>,
}

impl Sets {
    /// The readers of a set, latest first.
    fn readers(&self, crowd: Crowd) -> impl Iterator<Item = u64> {
        let node = |crowd: Crowd| self.nodes.get((crowd as usize).wrapping_sub(1));
        std::iter::successors(node(crowd), move |(rest, _)| node(*rest)).map(|(_, reader)| *reader)
    }

    fn with(&mut self, crowd: Crowd, reader: u64) -> Crowd {
        if let Some(known) = self.known.get(&(crowd, reader)) {
            return *known;
        }
        let mut set = crowd;
        if !self.readers(crowd).any(|known| known == reader) {
            self.nodes.push((crowd, reader));
            set = self.nodes.len() as Crowd;
        }
        self.known.insert((crowd, reader), set);
        set
    }
}

/// What was found out of a set and a reader: regions and launches have sets of their own.
#[derive(Clone, Copy, Default, PartialEq)]
struct Question {
    serial: u64,
    crowd: Crowd,
    reader: u64,
    /// Whether the reader's lane knows more than its warp.
    learned: bool,
}

const REMEMBERED: usize = 64;

/// What a thread of the host found out last: sets with one more reader, and sets that came before one.
struct Answers {
    with: [(Question, Crowd); REMEMBERED],
    before: [Question; REMEMBERED],
}

thread_local! {
    static ANSWERS: RefCell<Answers> = RefCell::new(Answers {
        with: [Default::default(); REMEMBERED],
        before: [Default::default(); REMEMBERED],
    });
}

impl Default for Crowds {
    fn default() -> Crowds {
        static SERIALS: AtomicU64 = AtomicU64::new(1);
        Crowds { serial: SERIALS.fetch_add(1, Relaxed), sets: Mutex::default() }
    }
}

impl Crowds {
    fn sets(&self, stamp: u64) -> MutexGuard<'_, Sets> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.stamp != stamp {
            *sets = Sets { stamp, ..Sets::default() };
        }
        sets
    }

    fn question(&self, crowd: Crowd, access: &Access<'_>) -> Question {
        Question { serial: self.serial, crowd, reader: access.of_warp(), learned: access.learned() }
    }

    /// The set with one more reader.
    pub fn with(&self, crowd: Crowd, access: &Access<'_>) -> Crowd {
        let question = self.question(crowd, access);
        let slot = crowd as usize % REMEMBERED;
        let known = ANSWERS.with_borrow(|answers| answers.with[slot]);
        if known.0 == question {
            return known.1;
        }
        let set = self.sets(access.stamp()).with(crowd, question.reader);
        ANSWERS.with_borrow_mut(|answers| answers.with[slot] = (question, set));
        set
    }

    /// A reader in the set that nothing orders before an access.
    pub fn unordered(&self, crowd: Crowd, access: &Access<'_>) -> Option<u64> {
        if crowd == 0 {
            return None;
        }
        let question = self.question(crowd, access);
        let slot = crowd as usize % REMEMBERED;
        if ANSWERS.with_borrow(|answers| answers.before[slot] == question) {
            return None;
        }
        let found = self.sets(access.stamp()).readers(crowd).find(|reader| !access.follows_warp(*reader));
        if found.is_none() {
            ANSWERS.with_borrow_mut(|answers| answers.before[slot] = question);
        }
        found
    }
}
