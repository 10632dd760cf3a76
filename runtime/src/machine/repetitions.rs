//! How long work takes at best, on some members of a team at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::placement::Placement;
use crate::team::{Job, Place, Signal, Team};

/// About how long a round is: long beside the time that members need to begin, short enough to fit between two
/// disturbances.
const ROUND: Duration = Duration::from_millis(2);
/// So many rounds are measured however long they take.
const FEWEST_ROUNDS: u64 = 3;
/// Barriers in one round.
const MEETINGS: u64 = 200;

/// What every member repeats by itself, on memory of its own.
pub(super) trait Work: Send + Sync + 'static {
    /// Made by the member that uses it, so that it lies near.
    type Memory;
    fn prepare(&self) -> Self::Memory;
    fn repeat(&self, memory: &mut Self::Memory, times: u64);
}

/// The seconds that one repetition takes when `members` work at once: from the first to begin until the last to end,
/// in the best round of those that fit in `budget`.
///
/// # Errors
/// The message of a panic in the work.
pub(super) fn best_seconds<W: Work>(
    team: &Team,
    members: usize,
    work: W,
    budget: Duration,
) -> Result<f64, String> {
    let rounds = Arc::new(Rounds {
        work,
        budget,
        epoch: Instant::now(),
        spans: (0..members).map(|_| Default::default()).collect(),
        times: AtomicU64::new(1),
        more: AtomicBool::new(true),
        best: AtomicU64::new(u64::MAX),
    });
    let job: Arc<dyn Job> = rounds.clone();
    team.run(&job, members)?;
    let times = rounds.times.load(Ordering::Relaxed);
    Ok(rounds.best.load(Ordering::Relaxed) as f64 * 1e-9 / times as f64)
}

/// Rounds of work between barriers, which order what members read of each other here.
struct Rounds<W> {
    work: W,
    budget: Duration,
    epoch: Instant,
    /// When each member began and ended its round, in nanoseconds from the epoch.
    spans: Vec<[AtomicU64; 2]>,
    /// Repetitions in a round.
    times: AtomicU64,
    more: AtomicBool,
    /// Nanoseconds of the best round.
    best: AtomicU64,
}

impl<W: Work> Job for Rounds<W> {
    fn run(&self, place: &mut Place<'_>) {
        let (member, members) = (place.member(), place.members());
        let _placement = Placement::of(member, members);
        let mut memory = self.work.prepare();
        if member == 0 {
            self.times.store(self.times_of_a_round(&mut memory), Ordering::Relaxed);
        }
        let (mut begin, mut rounds) = (None, 0);
        while place.meet() == Signal::Go && self.more.load(Ordering::Relaxed) {
            let times = self.times.load(Ordering::Relaxed);
            let began = self.now();
            self.work.repeat(&mut memory, times);
            let ended = self.now();
            for (place, time) in self.spans[member].iter().zip([began, ended]) {
                place.store(time, Ordering::Relaxed);
            }
            if place.meet() != Signal::Go {
                return;
            }
            if member == 0 {
                self.best.fetch_min(self.length_of_the_round(members), Ordering::Relaxed);
                rounds += 1;
                let begin = *begin.get_or_insert(Instant::now());
                let more = rounds < FEWEST_ROUNDS || begin.elapsed() < self.budget;
                self.more.store(more, Ordering::Relaxed);
            }
        }
    }
}

impl<W: Work> Rounds<W> {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How many repetitions take about as long as a round is to be.
    fn times_of_a_round(&self, memory: &mut W::Memory) -> u64 {
        let mut times = 1;
        loop {
            let start = Instant::now();
            self.work.repeat(memory, times);
            let elapsed = start.elapsed();
            if elapsed * 2 >= ROUND {
                let times = times as f64 * ROUND.as_secs_f64() / elapsed.as_secs_f64();
                return (times as u64).max(1);
            }
            times *= 2;
        }
    }

    fn length_of_the_round(&self, members: usize) -> u64 {
        let times =
            |which: usize| self.spans[..members].iter().map(move |s| s[which].load(Ordering::Relaxed));
        let (began, ended) = (times(0).min().unwrap_or(0), times(1).max().unwrap_or(0));
        ended.saturating_sub(began).max(1)
    }
}

/// The seconds that one barrier of the whole team takes, on average in the best round.
///
/// # Errors
/// None that are known of; a panic in the team would be one.
pub(super) fn barrier_seconds(team: &Team, budget: Duration) -> Result<f64, String> {
    let meetings = Arc::new(Meetings { budget, more: AtomicBool::new(true), best: AtomicU64::new(u64::MAX) });
    let job: Arc<dyn Job> = meetings.clone();
    team.run(&job, team.threads())?;
    Ok(meetings.best.load(Ordering::Relaxed) as f64 * 1e-9 / MEETINGS as f64)
}

/// Nothing but barriers.
struct Meetings {
    budget: Duration,
    more: AtomicBool,
    /// Nanoseconds of the best round.
    best: AtomicU64,
}

impl Job for Meetings {
    fn run(&self, place: &mut Place<'_>) {
        let (member, members) = (place.member(), place.members());
        let _placement = Placement::of(member, members);
        let (begin, mut rounds) = (Instant::now(), 0);
        loop {
            let start = Instant::now();
            for _ in 0..MEETINGS {
                if place.meet() != Signal::Go {
                    return;
                }
            }
            if member == 0 {
                let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.best.fetch_min(elapsed, Ordering::Relaxed);
                rounds += 1;
                let more = rounds < FEWEST_ROUNDS || begin.elapsed() < self.budget;
                self.more.store(more, Ordering::Relaxed);
            }
            if place.meet() != Signal::Go || !self.more.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleep;

    impl Work for Sleep {
        type Memory = ();
        fn prepare(&self) {}
        fn repeat(&self, _: &mut (), times: u64) {
            std::thread::sleep(Duration::from_millis(2) * times as u32);
        }
    }

    #[test]
    fn members_that_work_at_once_take_as_long_as_one() {
        let team = Team::new(2).unwrap();
        for members in [1, 2] {
            let seconds = best_seconds(&team, members, Sleep, Duration::from_millis(20)).unwrap();
            assert!((0.002..0.5).contains(&seconds), "{members} members: {seconds} s");
        }
        let barrier = barrier_seconds(&team, Duration::from_millis(1)).unwrap();
        assert!(barrier > 0.0 && barrier < 0.1, "{barrier} s");
    }
}
