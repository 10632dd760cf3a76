//! How a warp of a cooperative launch waits for other blocks: it reads the same flags again and again.

use super::counters::Counters;
use super::execute::{Context, first};
use super::op::Transfer;
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
    /// How often it began to wait for what it acquires.
    waits: u64,
}

/// So many waits are of one kind before a block waits in the other.
const KIND_WAITS: u64 = 16;

fn same(lanes: u32, known: &[u64; LANES], now: &[u64; LANES]) -> bool {
    (0..LANES).all(|lane| lanes >> lane & 1 == 0 || known[lane] == now[lane])
}

impl Poll {
    /// The warp goes on.
    pub fn begin_turn(&mut self, counters: &Counters) {
        self.counted = *counters;
    }

    /// Whether a block looks for what it acquires only when all others have come to where they wait. Every other block
    /// does, and later the others: one that looks at once learns of what it should not need, as in a barrier that waits
    /// for too few; one that does not, of no more than it must, so that the lack of a second barrier shows.
    fn patient(&mut self, block: u64) -> bool {
        self.waits += 1;
        (block + (self.waits - 1) / KIND_WAITS) % 2 == 1
    }

    /// Whether an instruction reads again what it read, with nothing in between.
    fn repeats(&self, at: u32, lanes: u32, addresses: &[u64; LANES]) -> bool {
        self.at == Some(at) && lanes & !self.lanes == 0 && same(lanes, &self.addresses, addresses)
    }
}

impl Warp {
    /// Whether a load stands where the warp has to wait until all blocks read flags, and lets it wait. What it did to
    /// come back here is another turn of a loop that waits, and not counted.
    pub fn defers(
        &mut self,
        context: &mut Context<'_>,
        transfer: Transfer,
        lanes: u32,
        addresses: &[u64; LANES],
    ) -> bool {
        let at = self.current.pc;
        let may_wait = transfer.atomic && !context.polling;
        let Some(poll) = self.poll.as_mut().filter(|_| may_wait) else { return false };
        let repeats = poll.repeats(at, lanes, addresses);
        let acquires = transfer.order.acquires && !repeats;
        let waits = repeats || (acquires && poll.patient(context.memories.block));
        if !waits {
            return false;
        }
        if repeats {
            context.counters = poll.counted;
        } else {
            context.counters.memory -= u64::from(lanes.count_ones());
        }
        self.state = State::Polling;
        true
    }

    /// Notes what lanes read from flags, at the end of the instruction. A read that finds what the same read found
    /// before is not counted and ends the warp's turn.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        lanes: u32,
        addresses: &[u64; LANES],
        values: &[u64; LANES],
    ) {
        let at = self.current.pc;
        let Some(poll) = &mut self.poll else {
            // Alone, a block may as well let its other warps go on.
            self.state = State::Yielding;
            return;
        };
        let repeats = poll.repeats(at, lanes, addresses);
        if repeats {
            context.counters = poll.counted;
        }
        if context.polling || (repeats && same(lanes, &poll.values, values)) {
            self.state = State::Yielding;
        }
        let (counted, waits) = (context.counters, poll.waits);
        **poll = Poll { at: Some(at), lanes, addresses: *addresses, values: *values, counted, waits };
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
        }
    }
}
