//! How a warp of a cooperative launch waits for other blocks: it looks at the same flags again and again.

use super::cluster::is_shared;
use super::counters::Counters;
use super::execute::{Context, first};
use super::op::{Space, Transfer};
use super::warp::{LANES, State, Warp};

/// Where a warp looked at flags last.
#[derive(Default)]
pub(super) struct Poll {
    /// The instruction's position; `None` where the warp did something since.
    at: Option<u32>,
    lanes: u32,
    addresses: [u64; LANES],
    /// What was counted up to then, or up to the start of the warp's turn.
    counted: Counters,
    /// Whether all other warps had come to where they wait, and it did nothing since but look.
    admitted: bool,
}

impl Poll {
    /// The warp goes on.
    pub fn begin_turn(&mut self, counters: &Counters) {
        self.counted = *counters;
    }
}

impl Warp {
    /// Lets the warp look at the flags that it stands before, or not yet.
    pub fn admit(&mut self, admitted: bool) {
        if let Some(poll) = &mut self.poll {
            poll.admitted = admitted && self.state == State::Polling;
            if poll.admitted {
                self.state = State::Ready;
            }
        }
    }

    /// Whether a load is one of flags that have to wait until all others have come to where they wait, and lets the warp
    /// wait: what they can do before is there to be found, then.
    pub fn defers(
        &mut self,
        context: &mut Context<'_>,
        transfer: Transfer,
        lanes: u32,
        addresses: &[u64; LANES],
    ) -> bool {
        let flags = transfer.atomic && matches!(transfer.space, Space::Global | Space::Generic);
        let again = flags && self.looks_again(lanes, addresses);
        let Some(poll) = self.poll.as_ref().filter(|poll| flags && !poll.admitted) else { return false };
        if again {
            context.counters = poll.counted;
        } else {
            context.counters.memory -= u64::from(lanes.count_ones());
        }
        self.state = State::Polling;
        true
    }

    /// Whether the warp looks at the flags that it looked at last, and did nothing in between.
    pub fn looks_again(&self, lanes: u32, addresses: &[u64; LANES]) -> bool {
        self.poll.as_ref().is_some_and(|poll| {
            let same =
                (0..LANES).all(|lane| lanes >> lane & 1 == 0 || poll.addresses[lane] == addresses[lane]);
            poll.at == Some(self.current.pc) && lanes & !poll.lanes == 0 && same
        })
    }

    /// Whether exactly those lanes that looked last look again.
    pub fn repeats(&self, lanes: u32, addresses: &[u64; LANES]) -> bool {
        self.looks_again(lanes, addresses) && self.poll.as_ref().is_some_and(|poll| poll.lanes == lanes)
    }

    /// Notes that lanes looked at flags in a space, at the end of the instruction. Doing so again is another turn of a loop
    /// that waits: it is not counted, and ends the warp's turn if it found nothing new.
    pub fn look(
        &mut self,
        context: &mut Context<'_>,
        space: Space,
        lanes: u32,
        addresses: &[u64; LANES],
        news: bool,
    ) {
        let again = self.looks_again(lanes, addresses);
        let Some(poll) = &mut self.poll else {
            // Alone, a block may as well let its other warps go on.
            self.state = State::Yielding;
            return;
        };
        if again {
            context.counters = poll.counted;
        }
        if again && !news {
            poll.admitted = false;
            self.state = if is_shared(space) { State::Yielding } else { State::Polling };
        }
        poll.at = Some(self.current.pc);
        (poll.lanes, poll.addresses, poll.counted) = (lanes, *addresses, context.counters);
    }

    /// The position of the instruction by which the warp waits for others, and its first lane that does.
    pub fn spins(&self) -> Option<(u32, u32)> {
        let runs = matches!(self.state, State::Ready | State::Polling | State::Yielding);
        let poll = self.poll.as_ref().filter(|_| runs)?;
        poll.at.map(|at| (at, first(poll.lanes)))
    }

    /// Notes that the warp did something that others may wait for, or that was worth waiting for.
    pub fn act(&mut self) {
        if let Some(poll) = &mut self.poll {
            poll.at = None;
            poll.admitted = false;
        }
    }
}
