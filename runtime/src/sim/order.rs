//! What orders accesses of different blocks of a cooperative launch: flags in global memory, released and acquired.
//!
//! Vector clocks (Fidge 1988, Mattern 1989) over the warps of the grid. A warp counts up at barriers and releases; a
//! release leaves at its flag what the thread knows, an acquire takes it from there. Atomic operations add to what a
//! flag carries, since they continue the release sequence of what they read; stores replace it. Scopes narrower than
//! the device order nothing between blocks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::warp::LANES;

/// What is known of every warp of a grid, packed as a clock and a set of lanes: all accesses before that clock, and
/// those of the lanes at it.
#[derive(Clone)]
pub(super) struct Clock(Vec<u64>);

fn entry(clock: u32, lanes: u32) -> u64 {
    (u64::from(clock) << 32) | u64::from(lanes)
}

impl Clock {
    fn join(&mut self, other: &Clock) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own = joined(*own, *other);
        }
    }

    /// Whether it knows of an access of a lane at a clock of the warp.
    fn covers(&self, warp: usize, clock: u32, lane: u32) -> bool {
        let known = self.0.get(warp).copied().unwrap_or(0);
        known >> 32 > u64::from(clock) || (known >> 32 == u64::from(clock) && known >> lane & 1 == 1)
    }
}

fn joined(a: u64, b: u64) -> u64 {
    if (a ^ b) >> 32 == 0 { a | b } else { a.max(b) }
}

/// Adds `other` to what is known, without a copy where that is nothing new.
fn absorb(known: &mut Option<Arc<Clock>>, other: &Arc<Clock>) {
    match known {
        None => *known = Some(other.clone()),
        Some(known) if Arc::ptr_eq(known, other) => {}
        Some(known) => Arc::make_mut(known).join(other),
    }
}

/// What some lanes of a warp know, or would.
#[derive(Default)]
struct Learned {
    lanes: u32,
    clock: Option<Arc<Clock>>,
    /// What was added last; threads that spin find the same again and again.
    last: Option<Arc<Clock>>,
}

impl Learned {
    fn add(&mut self, lanes: u32, clock: &Arc<Clock>) {
        self.lanes |= lanes;
        if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, clock)) {
            return;
        }
        absorb(&mut self.clock, clock);
        self.last = Some(clock.clone());
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
    /// What every lane knows.
    base: Arc<Clock>,
    /// What some lanes acquired since all of them met.
    acquired: Learned,
    /// What some lanes read and acquire by a fence.
    observed: Learned,
    /// What some lanes release by writing anything, since a fence.
    fenced: Learned,
}

impl Knowledge {
    /// Knows nothing yet of any of the grid's warps.
    pub fn new(nothing: Arc<Clock>) -> Knowledge {
        let learned = Learned::default;
        Knowledge { base: nothing, acquired: learned(), observed: learned(), fenced: learned() }
    }

    /// Whether an access of a lane of a warp of the grid happened before what `lane` does now.
    pub fn covers(&self, warp: usize, clock: u32, earlier: u32, lane: u32) -> bool {
        let acquired = self.acquired.of(1 << lane);
        self.base.covers(warp, clock, earlier) || acquired.is_some_and(|c| c.covers(warp, clock, earlier))
    }

    /// What the lanes know and did.
    fn publish(&self, member: Member<'_>, lanes: u32) -> Arc<Clock> {
        let mut all = (*self.base).clone();
        if let Some(acquired) = self.acquired.of(lanes) {
            all.join(acquired);
        }
        for (at, clock) in member.clocks.iter().enumerate() {
            let own = entry(*clock, if at == member.index { lanes } else { u32::MAX });
            if let Some(slot) = all.0.get_mut(member.first + at) {
                *slot = joined(*slot, own);
            }
        }
        Arc::new(all)
    }

    /// What writes of the lanes leave at flags; the warp has to count up after a release.
    pub fn outgoing(&self, member: Member<'_>, lanes: u32, releases: bool) -> Outgoing {
        if releases {
            return Outgoing { lanes, clock: Some(self.publish(member, lanes)) };
        }
        Outgoing { lanes: self.fenced.lanes, clock: self.fenced.of(lanes).cloned() }
    }

    /// Takes what reads found at flags.
    pub fn take(&mut self, incoming: &Incoming, acquires: bool) {
        let learned = if acquires { &mut self.acquired } else { &mut self.observed };
        incoming.found.iter().for_each(|(lanes, clock)| learned.add(*lanes, clock));
    }

    /// A fence of some lanes: what they read before it is acquired, and what they write after it releases.
    pub fn fence(&mut self, member: Member<'_>, lanes: u32) {
        if let Some(observed) = self.observed.of(lanes) {
            self.acquired.add(lanes & self.observed.lanes, observed);
        }
        let clock = self.publish(member, lanes);
        self.fenced = Learned { lanes, clock: Some(clock), last: None };
    }

    /// All lanes of the warp meet.
    pub fn meet(&mut self) {
        Knowledge::meet_all([self]);
    }

    /// All lanes of several warps meet.
    pub fn meet_all<'a>(warps: impl IntoIterator<Item = &'a mut Knowledge>) {
        let mut warps: Vec<&mut Knowledge> = warps.into_iter().collect();
        let mut all = None;
        warps.iter().for_each(|warp| absorb(&mut all, &warp.base));
        for acquired in warps.iter_mut().map(|warp| std::mem::take(&mut warp.acquired)) {
            acquired.clock.iter().for_each(|clock| absorb(&mut all, clock));
        }
        let Some(all) = all else { return };
        warps.iter_mut().for_each(|warp| warp.base = all.clone());
    }
}

/// What the lanes of an instruction leave at the flags that they write.
#[derive(Default)]
pub(super) struct Outgoing {
    lanes: u32,
    clock: Option<Arc<Clock>>,
}

impl Outgoing {
    fn of(&self, lane: usize) -> Option<&Arc<Clock>> {
        self.clock.as_ref().filter(|_| self.lanes >> lane & 1 == 1)
    }
}

/// What the lanes of an instruction found at the flags that they read.
#[derive(Default)]
pub(super) struct Incoming {
    found: Vec<(u32, Arc<Clock>)>,
}

/// The flags of a launch: what the last writes of words released, by address.
pub(super) struct Flags {
    nothing: Arc<Clock>,
    words: Mutex<HashMap<u64, Arc<Clock>>>,
}

impl Flags {
    /// None are written yet, in a grid of so many warps.
    pub fn new(warps: usize) -> Flags {
        Flags { nothing: Arc::new(Clock(vec![0; warps])), words: Mutex::default() }
    }

    /// What a warp knows at first.
    pub fn knowledge(&self) -> Knowledge {
        Knowledge::new(self.nothing.clone())
    }

    /// Holds the flags for one instruction, so that values and what comes with them change as one.
    pub fn lock(&self) -> Held<'_> {
        Held(self.words.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Flags that no other thread accesses at the time.
pub(super) struct Held<'a>(MutexGuard<'a, HashMap<u64, Arc<Clock>>>);

impl Held<'_> {
    /// A lane reads a flag.
    pub fn read(&self, address: u64, lane: usize, incoming: &mut Incoming) {
        let Some(clock) = self.0.get(&address) else { return };
        match incoming.found.last_mut() {
            Some((lanes, last)) if Arc::ptr_eq(last, clock) => *lanes |= 1 << lane,
            _ => incoming.found.push((1 << lane, clock.clone())),
        }
    }

    /// A lane replaces what a flag holds.
    pub fn write(&mut self, address: u64, lane: usize, outgoing: &Outgoing) {
        match outgoing.of(lane) {
            Some(clock) => drop(self.0.insert(address, clock.clone())),
            None => drop(self.0.remove(&address)),
        }
    }

    /// A lane computes what a flag holds from what it held.
    pub fn update(&mut self, address: u64, lane: usize, outgoing: &Outgoing) {
        let Some(clock) = outgoing.of(lane) else { return };
        self.0
            .entry(address)
            .and_modify(|known| {
                if !Arc::ptr_eq(known, clock) {
                    Arc::make_mut(known).join(clock);
                }
            })
            .or_insert_with(|| clock.clone());
    }
}

/// The lane of a thread in its warp.
pub(super) fn lane_of(thread: u32) -> u32 {
    thread % LANES as u32
}
