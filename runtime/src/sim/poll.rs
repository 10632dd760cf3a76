//! How a warp of a cooperative launch waits for other blocks: it reads the same flags again and again.

use super::counters::Counters;
use super::execute::{Context, first};
use super::warp::{LANES, State, Warp};

/// What a warp read last by an instruction that may meet other threads' writes.
#[derive(Default)]
pub(super) struct Poll {
    /// The instruction's position; `None` where the warp did something since.
    at: Option<u32>,
    lanes: u32,
    addresses: [u64; LANES],
    values: [u64; LANES],
    /// What was counted up to then, or up to the start of the warp's turn.
    counted: Counters,
}

impl Poll {
    /// The warp goes on.
    pub fn begin_turn(&mut self, counters: &Counters) {
        self.counted = *counters;
    }
}

impl Warp {
    /// Notes what lanes read from flags, at the end of the instruction. Doing so again with nothing in between is
    /// another turn of a loop that waits: it is not counted, and ends the warp's turn if the values are the same.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        lanes: u32,
        addresses: &[u64; LANES],
        values: &[u64; LANES],
    ) {
        let at = self.current.pc;
        let Some(poll) = &mut self.poll else { return };
        let same = |known: &[u64; LANES], now: &[u64; LANES]| {
            (0..LANES).all(|lane| lanes >> lane & 1 == 0 || known[lane] == now[lane])
        };
        if poll.at == Some(at) && lanes & !poll.lanes == 0 && same(&poll.addresses, addresses) {
            context.counters = poll.counted;
            if same(&poll.values, values) {
                self.state = State::Polling;
            }
        }
        **poll =
            Poll { at: Some(at), lanes, addresses: *addresses, values: *values, counted: context.counters };
    }

    /// The position of the instruction by which the warp waits for others, and its first lane that does.
    pub fn spins(&self) -> Option<(u32, u32)> {
        let poll = self.poll.as_ref().filter(|_| matches!(self.state, State::Ready | State::Polling))?;
        poll.at.map(|at| (at, first(poll.lanes)))
    }

    /// Notes that the warp did something that others may wait for, or that was worth waiting for.
    pub fn act(&mut self) {
        if let Some(poll) = &mut self.poll {
            poll.at = None;
        }
    }
}
