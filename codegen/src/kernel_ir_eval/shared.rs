//! The shared memory of a block, or of the blocks of a cluster, which remembers who used what since the threads last met.
//!
//! The evaluator takes the threads of a block in lockstep, so a missing barrier would go unnoticed: every store of a
//! statement is there before the next statement loads. Here it is an error, also within a warp, whose threads run in any
//! order between barriers.

use super::Register;
use super::lane::Lane;
use crate::kernel_ir::SharedArray;

/// A thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    /// The number of its block among those that are evaluated together.
    pub(super) block: usize,
    /// Its number in the block.
    pub(super) thread: i64,
}

/// The arrays of some blocks.
pub(super) struct Shared {
    blocks: Vec<Vec<Vec<Element>>>,
    /// How often the threads of each block have met.
    meetings: Vec<u64>,
    /// How often the cluster has arrived where it meets, and how often it has waited there.
    arrivals: u64,
    waits: u64,
}

#[derive(Clone, Copy, Default)]
struct Element {
    /// What was written last; nothing at first.
    lane: Option<Lane>,
    written: Option<Use>,
    read: Option<Use>,
}

/// Who used an element last, and after how many meetings of its block and arrivals of its cluster.
#[derive(Clone, Copy)]
struct Use {
    by: Users,
    meetings: u64,
    arrivals: u64,
}

#[derive(Clone, Copy)]
enum Users {
    One(User),
    /// Several threads of that block.
    Block(usize),
    /// Threads of several blocks.
    Several,
}

/// Who uses elements now.
#[derive(Clone, Copy)]
struct Now {
    user: User,
    meetings: u64,
    arrivals: u64,
    waits: u64,
}

impl Shared {
    pub(super) fn new(arrays: &[SharedArray], blocks: usize) -> Shared {
        let unwritten = |array: &SharedArray| vec![Element::default(); array.elements as usize];
        let block = || arrays.iter().map(unwritten).collect();
        Shared {
            blocks: (0..blocks).map(|_| block()).collect(),
            meetings: vec![0; blocks],
            arrivals: 0,
            waits: 0,
        }
    }

    /// All threads of a block meet: what follows is ordered after what was before.
    pub(super) fn meet(&mut self, block: usize) {
        self.meetings[block] += 1;
    }

    /// All threads of the cluster arrive where it meets, or have waited there: what follows the waiting is ordered after
    /// what was before the arrival.
    pub(super) fn meet_cluster(&mut self, arrives: bool) {
        if arrives {
            self.arrivals += 1;
        } else {
            self.waits += 1;
        }
    }

    fn now(&self, user: User) -> Now {
        Now { user, meetings: self.meetings[user.block], arrivals: self.arrivals, waits: self.waits }
    }

    /// Reads `lanes` elements of the thread's own block from `index` on; or what is wrong.
    pub(super) fn load(
        &mut self,
        user: User,
        array: usize,
        index: i64,
        lanes: usize,
    ) -> Result<Register, &'static str> {
        let now = self.now(user);
        let read = |element: &mut Element| {
            if element.written.is_some_and(|last| last.races(now)) {
                return Err("reads what another thread writes, with no barrier between");
            }
            element.read = Some(Use::join(element.read, now));
            element.lane.ok_or("reads shared memory that was not written")
        };
        self.elements(user.block, array, index, lanes)?.iter_mut().map(read).collect()
    }

    /// Writes the lanes of a register to a block's array from `index` on; or what is wrong.
    pub(super) fn store(
        &mut self,
        user: User,
        block: usize,
        array: usize,
        index: i64,
        register: &Register,
    ) -> Result<(), &'static str> {
        let now = self.now(user);
        for (element, lane) in self.elements(block, array, index, register.len())?.iter_mut().zip(register) {
            if [element.written, element.read].into_iter().flatten().any(|last| last.races(now)) {
                return Err("is written where another thread reads or writes, with no barrier between");
            }
            element.written = Some(Use::join(element.written, now));
            element.lane = Some(*lane);
        }
        Ok(())
    }

    /// The same of what is there only later: until then nobody may read it.
    pub(super) fn announce(
        &mut self,
        user: User,
        array: usize,
        index: i64,
        lanes: usize,
    ) -> Result<(), &'static str> {
        self.store(user, user.block, array, index, &vec![Lane::I32(0); lanes])?;
        self.elements(user.block, array, index, lanes)?.iter_mut().for_each(|element| element.lane = None);
        Ok(())
    }

    fn elements(
        &mut self,
        block: usize,
        array: usize,
        index: i64,
        lanes: usize,
    ) -> Result<&mut [Element], &'static str> {
        let range = usize::try_from(index).ok().and_then(|first| Some(first..first.checked_add(lanes)?));
        let array = self.blocks.get_mut(block).and_then(|arrays| arrays.get_mut(array));
        array.zip(range).and_then(|(array, range)| array.get_mut(range)).ok_or("is outside a shared array")
    }
}

impl Use {
    /// Whether a thread that uses the element now has not met this user since.
    fn races(self, now: Now) -> bool {
        let (is_own, block) = match self.by {
            Users::One(user) => (user == now.user, Some(user.block)),
            Users::Block(block) => (false, Some(block)),
            Users::Several => (false, None),
        };
        let has_met = block == Some(now.user.block) && self.meetings < now.meetings;
        !is_own && !has_met && self.arrivals >= now.waits
    }

    /// The last use where a thread uses the element now.
    fn join(last: Option<Use>, now: Now) -> Use {
        let by = match last.filter(|last| last.races(now)).map(|last| last.by) {
            None => Users::One(now.user),
            Some(Users::One(User { block, .. }) | Users::Block(block)) if block == now.user.block => {
                Users::Block(block)
            }
            Some(Users::One(_) | Users::Block(_) | Users::Several) => Users::Several,
        };
        Use { by, meetings: now.meetings, arrivals: now.arrivals }
    }
}
