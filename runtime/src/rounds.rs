//! How the members of a job share out its work.
//!
//! Work comes in rounds, one after the other. The work of a round is cut into parts, one for each member that is to take
//! part in it, and a part into pieces. A member first does the pieces of its own part, whose data its caches have from
//! rounds before, and then those of other members that have not begun them. A round is over when all of its pieces are
//! done, whoever did them.
//!
//! So nobody waits for a member but for the piece that it is at. One that comes late, or that the system takes the
//! processor from, finds the rounds that it missed done; and it gives the processor up by itself, between two pieces,
//! where it sees that coming ([`Turn`]), or moves to another one if it shares its own with a member ([`processor`]).

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::flag::Flag;
use crate::processor;
use crate::turn::{Next, Turn};

/// How long a member waits for others' pieces before it sleeps: longer than a piece mostly takes, as a thread that sleeps
/// loses its turn on a processor that it shares.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks at a round this often before doing other members' pieces; some µs.
const PATIENCE: u32 = 512;
/// Pieces of a part at most.
pub const MOST_PIECES: usize = (1 << PIECE_BITS) - 1;
const PIECE_BITS: u32 = 16;
/// Set in the number of the round when the job is over.
const OVER: u64 = 1 << 63;

/// What a member hears at the end of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// On to the next.
    Go,
    /// The job is over: leave. It is done, or a member panicked.
    Over,
}

/// Who does the next piece of work, which is for one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// This member.
    Mine,
    /// Another one.
    Others,
    /// The job is over: leave.
    Over,
}

/// Whose thread a member works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Thread {
    /// One of fuse, which may be moved.
    Own,
    /// One of the caller.
    Callers,
}

/// The rounds of one job.
pub struct Rounds {
    /// The number of the present round, the first being 1.
    round: Flag,
    /// Pieces of the present round that are done.
    done: Padded<AtomicU64>,
    /// Members whose parts others have begun.
    away: Padded<AtomicU32>,
    /// A part for each member.
    parts: Vec<Part>,
}

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// What is known of a member's part.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    /// The last round that pieces were taken in, above [`PIECE_BITS`] bits for how many.
    taken: AtomicU64,
    /// Whether another member began the part, the last time.
    away: AtomicBool,
    /// The processor on which its member was last seen, plus one.
    processor: AtomicUsize,
}

impl Rounds {
    /// Rounds for so many members, at least one.
    pub fn new(members: usize) -> Rounds {
        let parts = (0..members.max(1)).map(|_| Part::default()).collect();
        Rounds { round: Flag::new(1), done: Padded::default(), away: Padded::default(), parts }
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.parts.len()
    }

    /// The place of a member, before the first round, who works on a thread of fuse or on one of the caller.
    pub(crate) fn place(&self, member: usize, thread: Thread) -> Place<'_> {
        let turn = (self.members() > 1).then(|| {
            let mut turn = Turn::of_this_thread();
            if thread == Thread::Own && turn.may_move_back() {
                processor::release();
            }
            turn
        });
        Place { rounds: self, member, round: 0, single: None, thread, turn, seen: None }
    }

    /// Notes where a member is.
    fn see(&self, member: usize, processor: usize) {
        self.parts[member].processor.store(processor.wrapping_add(1), Ordering::Relaxed);
    }

    /// Where the other members were last seen.
    fn processors_of_others(&self, member: usize) -> impl Iterator<Item = usize> {
        let others = self.parts.iter().enumerate().filter(move |(other, _)| *other != member);
        others.filter_map(|(_, part)| part.processor.load(Ordering::Relaxed).checked_sub(1))
    }

    /// Ends the job for everybody, at once.
    pub(crate) fn close(&self) {
        self.round.mark(OVER);
    }

    fn signal(&self) -> Signal {
        if self.round.get() & OVER == 0 { Signal::Go } else { Signal::Over }
    }

    /// Takes the next piece of a part.
    fn take(&self, part: usize, round: u64, pieces: usize) -> Option<usize> {
        let taken = &self.parts[part].taken;
        let mut seen = taken.load(Ordering::Relaxed);
        loop {
            let piece = match (seen >> PIECE_BITS).cmp(&round) {
                Less => 0,
                Equal => seen as usize & MOST_PIECES,
                Greater => return None,
            };
            if piece == pieces {
                return None;
            }
            let next = round << PIECE_BITS | (piece + 1) as u64;
            match taken.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(piece),
                Err(other) => seen = other,
            }
        }
    }

    /// Whether so many pieces of the part have been taken in this round.
    fn are_taken(&self, part: usize, round: u64, pieces: usize) -> bool {
        self.parts[part].taken.load(Ordering::Relaxed) >= round << PIECE_BITS | pieces as u64
    }

    /// Notes whether the member of a part is away.
    fn note(&self, part: usize, away: bool) {
        let noted = &self.parts[part].away;
        if noted.load(Ordering::Relaxed) != away && noted.swap(away, Ordering::Relaxed) != away {
            let by = if away { 1 } else { u32::MAX };
            self.away.0.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Hands so many pieces in; whether the round is over with them.
    fn hand_in(&self, pieces: u64, round: u64, total: u64) -> bool {
        if pieces == 0 || self.done.0.fetch_add(pieces, Ordering::AcqRel) + pieces != total {
            return false;
        }
        self.done.0.store(0, Ordering::Relaxed);
        self.round.replace(round, round + 1);
        true
    }
}

/// Where a member is in the rounds of a job.
pub struct Place<'a> {
    rounds: &'a Rounds,
    member: usize,
    /// The round that the member is in.
    round: u64,
    /// Whether it is one for a single member, and whether for this one.
    single: Option<bool>,
    thread: Thread,
    /// The thread's turns on its processor; nothing where there are no others to leave work to.
    turn: Option<Turn>,
    /// Where the others believe the member to be.
    seen: Option<usize>,
}

impl Place<'_> {
    /// The number of members of the job.
    pub fn members(&self) -> usize {
        self.rounds.members()
    }

    /// Which of them this one is.
    pub fn member(&self) -> usize {
        self.member
    }

    /// The next round: `parts` parts of `pieces` pieces each, of which this member does some, `work(part, piece)`. All
    /// members come with the same parts, at most as many as there are members, and pieces, at most [`MOST_PIECES`].
    pub fn share(&mut self, parts: usize, pieces: usize, mut work: impl FnMut(usize, usize)) -> Signal {
        debug_assert!((1..=self.members()).contains(&parts) && (1..=MOST_PIECES).contains(&pieces));
        if self.members() == 1 {
            (0..pieces).for_each(|piece| work(0, piece));
            return Signal::Go;
        }
        if let Some(signal) = self.enter() {
            return signal;
        }
        let shape = (parts, pieces);
        if self.member < parts && self.work_off(self.member, shape, &mut work) {
            return self.rounds.signal();
        }
        let patience = if self.rounds.away.0.load(Ordering::Relaxed) == 0 { PATIENCE } else { 1 };
        while !self.rounds.round.spin(self.round, patience) {
            let mut others = (1..=parts).map(|i| (self.member + i) % parts);
            let Some(part) = others.find(|part| !self.rounds.are_taken(*part, self.round, pieces)) else {
                self.wait();
                break;
            };
            if self.work_off(part, shape, &mut work) {
                break;
            }
        }
        self.rounds.signal()
    }

    /// All members meet, each of which has to come.
    pub fn meet(&mut self) -> Signal {
        if self.members() == 1 {
            return Signal::Go;
        }
        if let Some(signal) = self.enter() {
            return signal;
        }
        if !self.rounds.hand_in(1, self.round, self.members() as u64) {
            self.wait();
        }
        self.rounds.signal()
    }

    /// Whether this member is to do the next piece of work. The answer holds until the next round that is shared; it is
    /// the first member, unless that one does not come.
    pub fn single(&mut self) -> Whose {
        if self.members() == 1 {
            return Whose::Mine;
        }
        if self.single.is_none() {
            match self.enter() {
                None => self.single = Some(self.takes_over()),
                Some(Signal::Go) => self.single = Some(false),
                Some(Signal::Over) => return Whose::Over,
            }
        }
        if self.single == Some(true) { Whose::Mine } else { Whose::Others }
    }

    /// After the last round: returns when all of them are over.
    pub fn end(&mut self) -> Signal {
        if self.members() == 1 {
            return Signal::Go;
        }
        self.enter().unwrap_or(Signal::Go)
    }

    fn takes_over(&mut self) -> bool {
        let rounds = self.rounds;
        if self.member != 0 {
            let away = rounds.parts[0].away.load(Ordering::Relaxed);
            for _ in 0..if away { 1 } else { PATIENCE } {
                if rounds.are_taken(0, self.round, 1) {
                    return false;
                }
                std::hint::spin_loop();
            }
        }
        let next = self.next();
        self.make_way(next);
        self.take(0, 1).is_some()
    }

    /// Goes on to the next round, once the one before is over. What the member hears if there is nothing left to do in it.
    fn enter(&mut self) -> Option<Signal> {
        if self.single.take() == Some(true) {
            self.rounds.hand_in(1, self.round, 1);
        }
        self.round += 1;
        loop {
            let present = self.rounds.round.get();
            if present & OVER != 0 {
                return Some(Signal::Over);
            }
            match present.cmp(&self.round) {
                Less => self.wait_while(present),
                Equal => return None,
                Greater => return Some(Signal::Go),
            }
        }
    }

    /// Does the pieces of a part that nobody has taken; whether the round is over with them.
    fn work_off(
        &mut self,
        part: usize,
        (parts, pieces): (usize, usize),
        work: &mut impl FnMut(usize, usize),
    ) -> bool {
        let total = (parts * pieces) as u64;
        let mut done = 0;
        loop {
            let next = self.next();
            // Nobody is to wait for a member that is without its processor.
            if next != Next::Goes && self.rounds.hand_in(std::mem::take(&mut done), self.round, total) {
                return true;
            }
            self.make_way(next);
            let Some(piece) = self.take(part, pieces) else { break };
            work(part, piece);
            done += 1;
        }
        self.rounds.hand_in(done, self.round, total)
    }

    /// What is known of the thread's turn before a piece. The others learn where the thread is.
    fn next(&mut self) -> Next {
        let Some(turn) = &mut self.turn else { return Next::Goes };
        let next = turn.next();
        let here = Some(turn.processor());
        if self.seen != here {
            self.rounds.see(self.member, turn.processor());
            self.seen = here;
        }
        next
    }

    /// Holding no piece: leaves the processor if another thread is about to get it or has had it.
    fn make_way(&mut self, next: Next) {
        let (Some(turn), Next::Lost | Next::Ending) = (&mut self.turn, next) else { return };
        let here = turn.processor();
        let mut others = self.rounds.processors_of_others(self.member);
        if self.thread == Thread::Own
            && others.any(|cpu| cpu == here)
            && processor::leave(self.rounds.processors_of_others(self.member))
        {
            turn.moved();
        } else if next == Next::Ending {
            turn.give_up();
        }
    }

    /// Takes a piece of a part, and notes whether the part's own member is here.
    fn take(&self, part: usize, pieces: usize) -> Option<usize> {
        let piece = self.rounds.take(part, self.round, pieces)?;
        if part == self.member {
            self.rounds.note(part, false);
        } else if piece == 0 {
            self.rounds.note(part, true);
        }
        Some(piece)
    }

    fn wait(&mut self) {
        self.wait_while(self.round);
    }

    fn wait_while(&mut self, round: u64) {
        if self.rounds.round.wait(round, AWAKE)
            && let Some(turn) = &mut self.turn
        {
            turn.slept();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            turn.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Runs each member on a thread of its own.
    fn on_threads(rounds: &Rounds, member: impl Fn(&mut Place<'_>) + Sync) {
        std::thread::scope(|scope| {
            for index in 0..rounds.members() {
                let member = &member;
                scope.spawn(move || member(&mut rounds.place(index, Thread::Own)));
            }
        });
    }

    /// How often each piece of each round was done.
    struct Counts {
        counts: Vec<AtomicU32>,
        each: usize,
    }

    impl Counts {
        fn new(rounds: usize, each: usize) -> Counts {
            Counts { counts: (0..rounds * each).map(|_| AtomicU32::new(0)).collect(), each }
        }

        fn add(&self, round: usize, piece: usize) {
            self.counts[round * self.each + piece].fetch_add(1, Ordering::Relaxed);
        }

        fn is_done(&self, round: usize) -> bool {
            let begin = round * self.each;
            self.counts[begin..begin + self.each].iter().all(|c| c.load(Ordering::Relaxed) == 1)
        }
    }

    #[test]
    fn every_piece_is_done_once_before_the_next_round_begins() {
        for (members, parts, pieces) in [(1, 1, 3), (2, 2, 1), (3, 2, 5), (4, 4, 16)] {
            let (rounds, counts) = (Rounds::new(members), Counts::new(500, parts * pieces));
            on_threads(&rounds, |place| {
                for round in 0..500 {
                    let work = |part: usize, piece: usize| {
                        assert!(round == 0 || counts.is_done(round - 1), "{members} members, round {round}");
                        counts.add(round, part * pieces + piece);
                    };
                    assert_eq!(place.share(parts, pieces, work), Signal::Go);
                    assert!(counts.is_done(round));
                }
                assert_eq!(place.end(), Signal::Go);
            });
        }
    }

    #[test]
    fn a_member_that_never_comes_is_not_waited_for() {
        for present in 0..3 {
            let (rounds, counts) = (Rounds::new(3), Counts::new(100, 7));
            let mut place = rounds.place(present, Thread::Callers);
            for round in 0..100 {
                assert_eq!(place.share(3, 2, |part, piece| counts.add(round, part * 2 + piece)), Signal::Go);
                assert_eq!(place.single(), Whose::Mine);
                counts.add(round, 6);
            }
            assert_eq!(place.end(), Signal::Go);
            assert!((0..100).all(|round| counts.is_done(round)));
        }
    }

    #[test]
    fn a_member_that_comes_late_takes_part_from_then_on() {
        let (rounds, late) = (Rounds::new(2), AtomicUsize::new(0));
        let ended = AtomicBool::new(false);
        on_threads(&rounds, |place| {
            let member = place.member();
            if member == 1 {
                std::thread::sleep(Duration::from_millis(20));
            }
            for _ in 0..100 {
                let signal = place.share(2, 4, |_, _| {
                    late.fetch_add(member, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(200));
                });
                if signal == Signal::Over {
                    break;
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        let late = late.load(Ordering::Relaxed);
        assert!((1..790).contains(&late), "the late member did {late} of 800 pieces");
    }

    #[test]
    fn what_one_member_does_by_itself_is_done_by_one_and_seen_by_all() {
        let (rounds, counts) = (Rounds::new(3), Counts::new(300, 4));
        on_threads(&rounds, |place| {
            for round in 0..300 {
                // Two pieces of work one after the other, for the same member.
                for piece in 0..2 {
                    if place.single() == Whose::Mine {
                        counts.add(round, piece);
                    }
                }
                let seen = |piece: usize| counts.counts[round * 4 + piece].load(Ordering::Relaxed);
                let work = |part: usize, _: usize| {
                    assert_eq!((seen(0), seen(1)), (1, 1));
                    counts.add(round, part + 2);
                };
                assert_eq!(place.share(2, 1, work), Signal::Go);
            }
            place.end();
        });
        assert!((0..300).all(|round| counts.is_done(round)));
    }

    #[test]
    fn members_that_meet_all_come() {
        let (rounds, came) = (Rounds::new(4), AtomicUsize::new(0));
        on_threads(&rounds, |place| {
            for round in 1..=200 {
                came.fetch_add(1, Ordering::Relaxed);
                assert_eq!(place.meet(), Signal::Go);
                assert_eq!(came.load(Ordering::Relaxed), 4 * round);
                assert_eq!(place.meet(), Signal::Go);
            }
        });
    }

    #[test]
    fn closed_rounds_let_everybody_go() {
        let rounds = Rounds::new(2);
        on_threads(&rounds, |place| {
            if place.member() == 1 {
                rounds.close();
            } else {
                while place.meet() == Signal::Go {}
            }
            assert_eq!(place.share(2, 1, |_, _| unreachable!("the job is over")), Signal::Over);
            assert_eq!((place.single(), place.end()), (Whose::Over, Signal::Over));
        });
    }
}
