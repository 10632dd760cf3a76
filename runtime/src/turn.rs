//! When the system will take the processor from a thread.
//!
//! Where threads outnumber processors, the system lets each run for a while, mostly for the same time again and again: a
//! multiple of its clock's tick. A thread that loses the processor in the middle of a piece of work keeps everybody
//! waiting who needs the piece, for as long as the others' turns last. So a thread measures how long its turns are and
//! gives the processor up itself, between two pieces, shortly before it would lose it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::processor;

/// A thread that was without the processor for so long has lost it to another, not to an interrupt.
const LOST: Duration = Duration::from_micros(200);
/// Turns shorter than this are none that can be foreseen.
const SHORTEST: Duration = Duration::from_micros(500);
/// What takes the processor at longer intervals does so for a moment, and at no time that could be foreseen.
const LONGEST: Duration = Duration::from_millis(24);
/// How often a thread that loses no processor looks whether it has.
const LOOK: Duration = Duration::from_micros(300);
/// How often one looks that has lost it lately.
const CLOSE_LOOK: Duration = Duration::from_micros(50);
/// A thread that has not lost the processor for so long has it for itself.
const CALM: Duration = Duration::from_millis(200);
/// So many turns tell how long they are: the one in the middle.
const OBSERVED: usize = 3;
/// When [`Turn::doubt`] is so large, the length of turns is learnt anew.
const DOUBTED: u32 = 6;
/// The part of its turn by which a thread prolongs it that gave it up in time for the first time since a loss; twice that
/// the next time, up to 64 times.
const GUESS: u32 = 1 << 14;
/// A thread that has the processor for itself reads the clock before every so manieth piece.
const PIECES_A_READING: u32 = 16;

/// What the clocks of a thread say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    /// Time since the process began to measure it.
    wall: Duration,
    /// Time that the thread has had a processor.
    running: Duration,
    /// Which one it has.
    processor: usize,
}

/// What a turn is before the next piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// It goes on.
    Goes,
    /// The processor was lost during the last piece.
    Lost,
    /// The piece would probably not be done before it is lost.
    Ending,
}

/// A thread's turns on its processor, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// When the thread last began to run, and when it was last seen before a piece.
    began: Duration,
    seen: Duration,
    looked: Reading,
    /// When it last lost the processor.
    lost: Option<Duration>,
    /// Whether it began then because another thread's turn was over.
    whole: bool,
    /// The lengths of turns that were not given up, while they are learnt.
    observed: [Duration; OBSERVED],
    count: usize,
    /// How long turns last; nothing where that is not known or the thread has the processor for itself.
    length: Option<Duration>,
    /// When the thread last wanted to give its processor up and nobody took it.
    refused: Duration,
    /// How many turns in a row were given up in time.
    in_time: u32,
    /// How much speaks against `length`: it grows with turns that were much shorter.
    doubt: u32,
    pieces: u32,
    /// Whether the thread was moved to some processors.
    confined: bool,
}

thread_local! {
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

impl Turn {
    /// What the calling thread knows from earlier work.
    pub fn of_this_thread() -> Turn {
        let wall = wall();
        match TURN.get() {
            // Too little time to have slept for as long as a loss takes.
            Some(turn) if wall.saturating_sub(turn.looked.wall) < LOST => turn,
            Some(mut turn) => {
                turn.resumed(read());
                turn
            }
            None => Turn::at(read()),
        }
    }

    /// Keeps it for the thread's next work.
    pub fn keep(self) {
        TURN.set(Some(self));
    }

    fn at(now: Reading) -> Turn {
        Turn {
            began: now.wall,
            seen: now.wall,
            looked: now,
            lost: None,
            whole: false,
            observed: [Duration::ZERO; OBSERVED],
            count: 0,
            length: None,
            refused: Duration::ZERO,
            in_time: 0,
            doubt: 0,
            pieces: 0,
            confined: false,
        }
    }

    /// What is known before the next piece of work.
    pub fn next(&mut self) -> Next {
        if self.lost.is_none() {
            self.pieces = (self.pieces + 1) % PIECES_A_READING;
            if self.pieces != 0 {
                return Next::Goes;
            }
        }
        let wall = wall();
        let interval = if self.lost.is_none() { LOOK } else { CLOSE_LOOK };
        if wall.saturating_sub(self.looked.wall) >= interval && self.look(read()) {
            return Next::Lost;
        }
        if self.ends_within_a_piece(wall) { Next::Ending } else { Next::Goes }
    }

    /// The processor that the thread had when it last looked.
    pub fn processor(&self) -> usize {
        self.looked.processor
    }

    /// The thread has been moved to other processors, about which nothing is known.
    pub fn moved(&mut self) {
        self.forget();
        self.confined = true;
        self.begin(read(), false);
    }

    /// Whether the thread was moved and need not stay there, since nobody wants its processor.
    pub fn may_move_back(&mut self) -> bool {
        self.lost.is_none() && std::mem::take(&mut self.confined)
    }

    /// Leaves the processor to another thread, if there is one that wants it.
    pub fn give_up(&mut self) {
        self.look(read());
        std::thread::yield_now();
        self.passed(read());
    }

    /// The thread has slept of its own will.
    pub fn slept(&mut self) {
        self.begin(read(), false);
    }

    /// The thread has done something else, and maybe slept.
    fn resumed(&mut self, now: Reading) {
        if self.away_until(now) >= LOST {
            self.begin(now, false);
        }
        (self.looked, self.seen) = (now, now.wall);
    }

    /// The thread has a processor since now.
    fn begin(&mut self, now: Reading, whole: bool) {
        (self.began, self.seen, self.looked, self.whole) = (now.wall, now.wall, now, whole);
    }

    /// The time without a processor since the last look.
    fn away_until(&self, now: Reading) -> Duration {
        let passed = now.wall.saturating_sub(self.looked.wall);
        passed.saturating_sub(now.running.saturating_sub(self.looked.running))
    }

    /// Takes notice of the time; whether the processor was lost.
    fn look(&mut self, now: Reading) -> bool {
        let away = self.away_until(now);
        if away >= LOST {
            let ran = self.looked.wall.saturating_sub(self.began);
            // Of other turns only the end is known.
            if self.whole {
                self.learn(ran);
            }
            (self.lost, self.in_time) = (Some(now.wall), 0);
            (self.began, self.whole) = (self.looked.wall + away, true);
            self.seen = now.wall;
        } else if self.lost.is_some_and(|lost| now.wall.saturating_sub(lost) > CALM) {
            self.calm();
        }
        self.looked = now;
        away >= LOST
    }

    /// A turn ended by itself after so long.
    fn learn(&mut self, ran: Duration) {
        match self.length {
            Some(length) if ran < length - length / 4 => {
                self.doubt += 2;
                if self.doubt >= DOUBTED {
                    self.forget();
                }
            }
            Some(length) => self.length = Some(length.min(ran)),
            None => {
                self.observed[self.count] = ran;
                self.count += 1;
                if self.count == OBSERVED {
                    self.observed.sort();
                    self.count = 0;
                    self.length =
                        Some(self.observed[OBSERVED / 2]).filter(|ran| (SHORTEST..=LONGEST).contains(ran));
                }
            }
        }
    }

    /// Nothing is known of the length of turns.
    fn forget(&mut self) {
        (self.length, self.count, self.doubt) = (None, 0, 0);
    }

    /// Nobody else wants the processor.
    fn calm(&mut self) {
        self.lost = None;
        self.forget();
    }

    /// Whether the turn will be over before a piece as long as the last one is done.
    fn ends_within_a_piece(&mut self, wall: Duration) -> bool {
        let piece = wall.saturating_sub(self.seen);
        self.seen = wall;
        let Some(length) = self.length else { return false };
        let ran = wall.saturating_sub(self.began);
        if ran > 2 * length {
            self.calm();
            return false;
        }
        ran + piece.min(length / 8) > length - length / 32 && wall >= self.refused + length / 64
    }

    /// The thread gave the processor up and has it again.
    fn passed(&mut self, now: Reading) {
        if self.away_until(now) < LOST {
            // Nobody took it. The turn goes on.
            (self.looked, self.seen, self.refused) = (now, now.wall, now.wall);
            return;
        }
        // The turn may have been longer, by little if guesses were wrong lately, otherwise maybe by much. A loss tells.
        self.length = self.length.map(|length| length + length / (GUESS >> self.in_time.min(6)));
        self.in_time += 1;
        self.doubt = self.doubt.saturating_sub(1);
        self.lost = Some(now.wall);
        self.begin(now, true);
    }
}

fn wall() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn read() -> Reading {
    Reading { wall: wall(), running: running(), processor: processor::present() }
}

#[cfg(unix)]
fn running() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// As if no processor were ever lost.
#[cfg(not(unix))]
fn running() -> Duration {
    wall()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(4);
    const PIECE: Duration = Duration::from_micros(60);

    /// A thread that shares its processor with another: each has it for a tick in turn, unless it gives it up.
    struct Shared {
        now: Reading,
        /// Pieces during which the processor was lost, and how often it was given up before.
        lost: usize,
        given_up: usize,
    }

    impl Shared {
        fn new() -> Shared {
            let now = Reading { wall: Duration::from_secs(1), running: Duration::ZERO, processor: 0 };
            Shared { now, lost: 0, given_up: 0 }
        }

        /// When the present tick ends.
        fn next_tick(&self) -> Duration {
            TICK * (self.now.wall.as_nanos() / TICK.as_nanos() + 1) as u32
        }

        /// Works on a piece, and loses the processor for a tick at every other one.
        fn piece(&mut self, shared: bool) {
            let tick = self.next_tick();
            self.now.wall += PIECE;
            self.now.running += PIECE;
            if shared && self.now.wall > tick {
                self.now.wall += TICK;
                self.lost += 1;
            }
        }

        /// Gives the processor up until the other has had it for a tick.
        fn give_up(&mut self, shared: bool) {
            self.given_up += 1;
            self.now.wall +=
                if shared { self.next_tick() - self.now.wall + TICK } else { Duration::from_micros(1) };
        }

        fn work(&mut self, turn: &mut Turn, shared: bool, until: Duration) {
            while self.now.wall < until {
                if self.now.wall.saturating_sub(turn.looked.wall) >= CLOSE_LOOK {
                    turn.look(self.now);
                }
                if turn.ends_within_a_piece(self.now.wall) {
                    turn.look(self.now);
                    self.give_up(shared);
                    turn.passed(self.now);
                }
                self.piece(shared);
            }
        }
    }

    fn begin() -> (Shared, Turn) {
        let thread = Shared::new();
        let turn = Turn::at(thread.now);
        (thread, turn)
    }

    #[test]
    fn a_thread_gives_its_processor_up_before_it_is_lost() {
        let (mut thread, mut turn) = begin();
        thread.work(&mut turn, true, Duration::from_millis(1100));
        let learnt = thread.lost;
        assert!((2..6).contains(&learnt), "lost {learnt} times");
        thread.work(&mut turn, true, Duration::from_millis(1900));
        let (lost, given_up) = (thread.lost - learnt, thread.given_up);
        assert!(lost <= 5 && given_up > 80, "lost {lost} times, given up {given_up} times");
    }

    #[test]
    fn a_thread_that_has_its_processor_for_itself_again_keeps_it() {
        let (mut thread, mut turn) = begin();
        thread.work(&mut turn, true, Duration::from_millis(1500));
        let before = thread.given_up;
        thread.work(&mut turn, false, Duration::from_millis(3000));
        assert!(thread.given_up - before < 100, "{} times", thread.given_up - before);
        assert_eq!((turn.lost, turn.length), (None, None));
    }

    #[test]
    fn sleep_is_no_loss_and_interrupts_are_none() {
        let (mut thread, mut turn) = begin();
        for _ in 0..1000 {
            thread.piece(false);
            thread.now.wall += Duration::from_micros(5);
            turn.look(thread.now);
            thread.now.wall += Duration::from_millis(3);
            turn.resumed(thread.now);
        }
        assert_eq!((turn.lost, turn.length), (None, None));
    }
}
