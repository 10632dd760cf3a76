//! The shared memory of a block, which remembers who used what since the threads last met.
//!
//! The evaluator takes the threads of a block in lockstep, so a missing barrier would go unnoticed: every store of a
//! statement is there before the next statement loads. Here it is an error, also within a warp, whose threads run in any
//! order between barriers.

use super::Register;
use super::lane::Lane;
use crate::kernel_ir::SharedArray;

/// The arrays of a block.
pub(super) struct Shared {
    arrays: Vec<Vec<Element>>,
    /// How often the threads have met.
    meetings: u64,
}

#[derive(Clone, Copy, Default)]
struct Element {
    /// What was written last; nothing at first.
    lane: Option<Lane>,
    written: Option<Use>,
    read: Option<Use>,
}

/// Who used an element last, and after how many meetings.
#[derive(Clone, Copy)]
struct Use {
    by: Users,
    meetings: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    Thread(i64),
    Several,
}

impl Shared {
    pub(super) fn new(arrays: &[SharedArray]) -> Shared {
        let unwritten = |array: &SharedArray| vec![Element::default(); array.elements as usize];
        Shared { arrays: arrays.iter().map(unwritten).collect(), meetings: 0 }
    }

    /// All threads meet: what follows is ordered after what was before.
    pub(super) fn meet(&mut self) {
        self.meetings += 1;
    }

    /// Reads `lanes` elements from `index` on; or what is wrong.
    pub(super) fn load(
        &mut self,
        thread: i64,
        array: usize,
        index: i64,
        lanes: usize,
    ) -> Result<Register, &'static str> {
        let meetings = self.meetings;
        let read = |element: &mut Element| {
            if element.written.is_some_and(|last| last.races(thread, meetings)) {
                return Err("reads what another thread writes, with no barrier between");
            }
            element.read = Some(Use::join(element.read, thread, meetings));
            element.lane.ok_or("reads shared memory that was not written")
        };
        self.elements(array, index, lanes)?.iter_mut().map(read).collect()
    }

    /// Writes the lanes of a register from `index` on; or what is wrong.
    pub(super) fn store(
        &mut self,
        thread: i64,
        array: usize,
        index: i64,
        register: &Register,
    ) -> Result<(), &'static str> {
        let meetings = self.meetings;
        for (element, lane) in self.elements(array, index, register.len())?.iter_mut().zip(register) {
            if [element.written, element.read].into_iter().flatten().any(|last| last.races(thread, meetings))
            {
                return Err("is written where another thread reads or writes, with no barrier between");
            }
            element.written = Some(Use::join(element.written, thread, meetings));
            element.lane = Some(*lane);
        }
        Ok(())
    }

    fn elements(&mut self, array: usize, index: i64, lanes: usize) -> Result<&mut [Element], &'static str> {
        let range = usize::try_from(index).ok().and_then(|first| Some(first..first.checked_add(lanes)?));
        let array = self.arrays.get_mut(array);
        array.zip(range).and_then(|(array, range)| array.get_mut(range)).ok_or("is outside a shared array")
    }
}

impl Use {
    /// Whether a thread that uses the element now has not met this user since.
    fn races(self, thread: i64, meetings: u64) -> bool {
        self.meetings == meetings && self.by != Users::Thread(thread)
    }

    /// The last use where a thread uses the element now.
    fn join(last: Option<Use>, thread: i64, meetings: u64) -> Use {
        let by = if last.is_some_and(|last| last.races(thread, meetings)) {
            Users::Several
        } else {
            Users::Thread(thread)
        };
        Use { by, meetings }
    }
}
