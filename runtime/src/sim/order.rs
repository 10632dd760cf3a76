//! What orders accesses of different blocks of a cooperative launch: what one thread releases and another acquires.
//!
//! Vector clocks (Fidge 1988, Mattern 1989) over the warps of the grid. A warp counts up at barriers and releases; a
//! release leaves at its flag what the thread knows, an acquire takes from there what a thread is sure of when it reads
//! the flag's value ([`super::flags`]). Scopes narrower than the device order nothing between blocks.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::flags::{Incoming, Seen};
use super::warp::LANES;

/// What is known of every warp of a grid, packed as a clock and a set of lanes: all accesses before that clock, and
/// those of the lanes at it.
#[derive(Clone)]
pub(super) struct Clock {
    warps: Vec<u64>,
    /// Of two clocks of the same release sequence the later one knows all that the earlier one does: the sequence, not 0,
    /// and the position in it.
    sequence: (u64, u64),
}

fn entry(clock: u32, lanes: u32) -> u64 {
    (u64::from(clock) << 32) | u64::from(lanes)
}

impl Clock {
    /// Knows nothing of so many warps.
    pub fn nothing(warps: usize) -> Clock {
        Clock { warps: vec![0; warps], sequence: (0, 0) }
    }

    /// The first clock of a release sequence of that number, not 0.
    pub fn begin(&self, sequence: u64) -> Clock {
        Clock { sequence: (sequence, 0), ..self.clone() }
    }

    /// The next clock of its release sequence, by which another was released.
    pub fn continued(&self, other: &Clock) -> Clock {
        let (sequence, position) = self.sequence;
        let mut all = self.clone();
        all.join(other);
        all.sequence = (sequence, position + 1);
        all
    }

    fn join(&mut self, other: &Clock) {
        for (own, other) in self.warps.iter_mut().zip(&other.warps) {
            *own = joined(*own, *other);
        }
        self.sequence = (0, 0);
    }

    /// Whether it is known to cover all that `earlier` does, without looking.
    fn succeeds(&self, earlier: &Clock) -> bool {
        self.sequence.0 != 0 && self.sequence.0 == earlier.sequence.0 && self.sequence.1 >= earlier.sequence.1
    }

    /// Whether it knows of an access of a lane, or of any lane, at a clock of the warp.
    fn covers(&self, warp: usize, clock: u32, lane: Option<u32>) -> bool {
        let lanes = lane.map_or(u32::MAX, |lane| 1 << lane);
        self.lanes(warp, clock) & lanes != 0
    }

    /// The lanes of a warp whose accesses at a clock it knows of.
    fn lanes(&self, warp: usize, clock: u32) -> u32 {
        let known = self.warps.get(warp).copied().unwrap_or(0);
        match (known >> 32).cmp(&u64::from(clock)) {
            Ordering::Less => 0,
            Ordering::Equal => known as u32,
            Ordering::Greater => u32::MAX,
        }
    }
}

fn joined(a: u64, b: u64) -> u64 {
    if (a ^ b) >> 32 == 0 { a | b } else { a.max(b) }
}

/// Adds `other` to what is known, without a copy where that is nothing new.
pub(super) fn absorb(known: &mut Option<Arc<Clock>>, other: &Arc<Clock>) {
    match known {
        None => *known = Some(other.clone()),
        Some(known) if Arc::ptr_eq(known, other) || known.succeeds(other) => {}
        Some(known) if other.succeeds(known) => *known = other.clone(),
        Some(known) => Arc::make_mut(known).join(other),
    }
}

/// What some lanes of a warp know, or would.
#[derive(Clone, Default)]
struct Learned {
    lanes: u32,
    clock: Option<Arc<Clock>>,
}

impl Learned {
    fn add(&mut self, lanes: u32, clock: &Arc<Clock>) {
        self.lanes |= lanes;
        absorb(&mut self.clock, clock);
    }

    fn of(&self, lanes: u32) -> Option<&Arc<Clock>> {
        self.clock.as_ref().filter(|_| self.lanes & lanes != 0)
    }
}

/// A warp among those of its grid.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    /// The first warp of its block among those of the grid.
    pub first: usize,
    /// The warp in its block.
    pub index: usize,
    /// What it knows of the clocks of its block.
    pub clocks: &'a [u32],
}

/// What a warp knows of the accesses of the grid, beyond what barriers of its own block tell it.
pub(super) struct Knowledge {
    /// The first warp of the grid that clocks are of.
    first: usize,
    /// What every lane knows.
    base: Arc<Clock>,
    /// What some lanes acquired since all of them met.
    acquired: Learned,
    /// What some lanes read and acquire by a fence.
    observed: Learned,
    /// What some lanes release by writing anything, since a fence.
    fenced: Learned,
    /// What was acquired and observed before the last look at flags.
    before: [Learned; 2],
    /// What was read of each flag, by address.
    seen: HashMap<u64, Seen>,
    /// Whether it read a newer one since lanes met.
    looked: bool,
}

impl Knowledge {
    /// Knows nothing yet of any of the grid's warps, from the first on that it may learn of.
    pub fn new(nothing: Arc<Clock>, first: usize) -> Knowledge {
        let learned = Learned::default;
        let (acquired, observed, fenced, before) = (learned(), learned(), learned(), Default::default());
        let (base, seen) = (nothing, HashMap::new());
        Knowledge { first, base, acquired, observed, fenced, before, seen, looked: false }
    }

    /// Whether an access of a lane of a warp of the grid, or of any lane, happened before what `lane` does now.
    pub fn covers(&self, warp: usize, clock: u32, earlier: Option<u32>, lane: u32) -> bool {
        let (warp, acquired) = (warp.wrapping_sub(self.first), self.acquired.of(1 << lane));
        self.base.covers(warp, clock, earlier) || acquired.is_some_and(|c| c.covers(warp, clock, earlier))
    }

    /// Whether whatever lanes of a warp of the grid did up to a clock happened before anything that any lane does now.
    pub fn covers_all(&self, warp: usize, clock: u32) -> bool {
        self.base.lanes(warp.wrapping_sub(self.first), clock) == u32::MAX
    }

    /// Whether a lane acquired anything since all of them met.
    pub fn learned(&self, lane: u32) -> bool {
        self.acquired.of(1 << lane).is_some()
    }

    /// What the lanes know and did.
    fn publish(&self, member: Member<'_>, lanes: u32) -> Arc<Clock> {
        let mut all = (*self.base).clone();
        if let Some(acquired) = self.acquired.of(lanes) {
            all.join(acquired);
        }
        for (at, clock) in member.clocks.iter().enumerate() {
            let own = entry(*clock, if at == member.index { lanes } else { u32::MAX });
            let warp = (member.first + at).wrapping_sub(self.first);
            if let Some(slot) = all.warps.get_mut(warp) {
                *slot = joined(*slot, own);
            }
        }
        all.sequence = (0, 0);
        Arc::new(all)
    }

    /// What writes of the lanes leave at flags; the warp has to count up after a release.
    pub fn outgoing(&self, member: Member<'_>, lanes: u32, releases: bool) -> Outgoing {
        if releases {
            return Outgoing { lanes, clock: Some(self.publish(member, lanes)) };
        }
        Outgoing { lanes: self.fenced.lanes, clock: self.fenced.of(lanes).cloned() }
    }

    /// What was read of a flag.
    pub fn seen(&self, address: u64) -> Option<&Seen> {
        self.seen.get(&address)
    }

    /// Takes what reads found at flags, and says whether they found anything new. What lanes read in the last turn of a loop
    /// that waits they need not have read, and so it is replaced.
    pub fn take(&mut self, incoming: &Incoming, acquires: bool, replaces: bool) -> bool {
        if replaces {
            [self.acquired, self.observed] = self.before.clone();
        } else {
            self.before = [self.acquired.clone(), self.observed.clone()];
        }
        let learned = if acquires { &mut self.acquired } else { &mut self.observed };
        let mut news = false;
        for found in &incoming.found {
            found.clock.iter().for_each(|clock| learned.add(found.lanes, clock));
            match self.seen.get_mut(&found.address) {
                Some(seen) => news |= seen.take(found.seen),
                None => {
                    self.seen.insert(found.address, found.seen);
                    news = true;
                }
            }
        }
        self.looked |= news;
        news
    }

    /// A fence of some lanes: what they read before it is acquired, and what they write after it releases.
    pub fn fence(&mut self, member: Member<'_>, lanes: u32) {
        if let Some(observed) = self.observed.of(lanes) {
            self.acquired.add(lanes & self.observed.lanes, observed);
        }
        let clock = self.publish(member, lanes);
        self.fenced = Learned { lanes, clock: Some(clock) };
    }

    /// All lanes of the warp meet.
    pub fn meet(&mut self) {
        Knowledge::meet_all([self], []);
    }

    /// All lanes learn what was released to them.
    pub fn learn(&mut self, released: &Arc<Clock>) {
        self.acquired.add(u32::MAX, released);
    }

    /// All lanes of several warps meet, and learn what others left there.
    pub fn meet_all<'a>(
        warps: impl IntoIterator<Item = &'a mut Knowledge>,
        left: impl IntoIterator<Item = &'a Outgoing>,
    ) {
        let mut warps: Vec<&mut Knowledge> = warps.into_iter().collect();
        let mut all = None;
        let left = left.into_iter().filter_map(|left| left.clock.as_ref());
        warps.iter().map(|warp| &warp.base).chain(left).for_each(|clock| absorb(&mut all, clock));
        for acquired in warps.iter_mut().map(|warp| std::mem::take(&mut warp.acquired)) {
            acquired.clock.iter().for_each(|clock| absorb(&mut all, clock));
        }
        Knowledge::share_seen(&mut warps);
        let Some(all) = all else { return };
        warps.iter_mut().for_each(|warp| warp.base = all.clone());
    }

    /// After some lanes read a flag, those that they meet find no older values there.
    fn share_seen(warps: &mut [&mut Knowledge]) {
        if !warps.iter().any(|warp| warp.looked) {
            return;
        }
        let mut all: HashMap<u64, Seen> = HashMap::new();
        for (address, seen) in warps.iter().flat_map(|warp| &warp.seen) {
            all.entry(*address).and_modify(|known| known.join(*seen)).or_insert(*seen);
        }
        for warp in warps {
            warp.looked = false;
            warp.seen.clone_from(&all);
        }
    }
}

/// What the lanes of an instruction leave at the flags that they write.
#[derive(Default)]
pub(super) struct Outgoing {
    lanes: u32,
    clock: Option<Arc<Clock>>,
}

impl Outgoing {
    /// What a lane releases.
    pub fn of(&self, lane: usize) -> Option<&Arc<Clock>> {
        self.clock.as_ref().filter(|_| self.lanes >> lane & 1 == 1)
    }
}

/// The lane of a thread in its warp.
pub(super) fn lane_of(thread: u32) -> u32 {
    thread % LANES as u32
}
