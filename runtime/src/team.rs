//! A team of threads that runs one job together and meets at barriers inside it.
//!
//! Waiting is a bounded spin, then sleep: a spin alone collapses when another process takes a core, sleep
//! alone costs tens of microseconds a barrier. Where waits blow up all the same, the barrier releases every
//! member but the first ([`Signal::Alone`]), which carries on by itself; the team then rests for a while.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Looks at a flag this often before sleeping; about 10 to 50 µs.
pub(crate) const SPINS: u32 = 1000;
/// Sleep at barriers in one job below this never breaks up the team.
const SLEEP_ALLOWED: Duration = Duration::from_millis(1);
/// How long the team first rests after it was broken up; doubles each time up to [`LONGEST_REST`].
pub(crate) const FIRST_REST: Duration = Duration::from_millis(20);
/// How long a team rests at most.
pub(crate) const LONGEST_REST: Duration = Duration::from_secs(1);

/// What a barrier tells a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// All members arrived.
    Go,
    /// All arrived, but waiting costs too much: member 0 does the rest of the job alone, others leave.
    Alone,
    /// A member panicked: leave.
    Abandoned,
}

/// A job for the team.
pub trait Job: Send + Sync {
    /// What `member` of `0..members` does. All members meet the same barriers in the same order.
    fn run(&self, member: usize, barrier: &Barrier);
}

/// How one job is run.
#[derive(Clone, Copy, Debug)]
pub struct JobOptions {
    /// The number of members wanted, at least 1.
    pub members: usize,
    /// Whether the work between barriers is so little that one thread does better when waits blow up.
    pub fine_grained: bool,
}

/// Threads that wait for jobs. The thread that brings a job is member 0.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs.
    lease: Mutex<Rest>,
}

/// Until when the team rests, and for how long the next time.
struct Rest {
    until: Option<Instant>,
    next: Duration,
}

struct Shared {
    job: Mutex<Option<Arc<dyn Job>>>,
    /// One for each worker; counts the jobs it is called to.
    calls: Vec<Flag>,
    running: AtomicU32,
    /// The number of the job that runs, and of the last one that all workers left.
    number: AtomicU32,
    finished: Flag,
    closing: AtomicBool,
    barrier: Barrier,
    panic: Mutex<Option<String>>,
}

impl Team {
    /// A team of `threads`, the caller's among them.
    ///
    /// # Errors
    /// Where the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Team> {
        let workers = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            calls: (0..workers).map(|_| Flag::default()).collect(),
            running: AtomicU32::new(0),
            number: AtomicU32::new(0),
            finished: Flag::default(),
            closing: AtomicBool::new(false),
            barrier: Barrier::default(),
            panic: Mutex::new(None),
        });
        let lease = Mutex::new(Rest { until: None, next: FIRST_REST });
        let mut team = Team { shared, workers: Vec::new(), lease };
        for worker in 0..workers {
            let shared = team.shared.clone();
            let builder = std::thread::Builder::new().name(format!("fuse-{}", worker + 1));
            team.workers.push(builder.spawn(move || serve(&shared, worker))?);
        }
        Ok(team)
    }

    /// The number of members, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs a job on up to `options.members` members and returns when all have left it. Fewer are used when the
    /// team is smaller, busy with another thread's job, or resting.
    ///
    /// # Errors
    /// The message of the first panic among the members.
    pub fn run(&self, job: &Arc<dyn Job>, options: JobOptions) -> Result<(), String> {
        let members = options.members.clamp(1, self.threads());
        if members == 1 {
            return run_alone(job.as_ref());
        }
        let Ok(mut rest) = self.lease.try_lock() else { return run_alone(job.as_ref()) };
        if options.fine_grained && rest.until.is_some_and(|until| Instant::now() < until) {
            return run_alone(job.as_ref());
        }
        let broken_up = self.shared.run(job, members, options.fine_grained);
        if broken_up {
            rest.until = Some(Instant::now() + rest.next);
            rest.next = (rest.next * 2).min(LONGEST_REST);
        } else if options.fine_grained {
            *rest = Rest { until: None, next: FIRST_REST };
        }
        drop(rest);
        match lock(&self.shared.panic).take() {
            Some(message) => Err(message),
            None => Ok(()),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for call in &self.shared.calls {
            call.set(call.get().wrapping_add(1));
        }
        for worker in self.workers.drain(..) {
            // A worker catches panics of its jobs; one of its own must not take the caller down.
            if worker.join().is_err() {
                tracing::error!("a team thread had panicked");
            }
        }
    }
}

/// Runs a job on the calling thread.
pub(crate) fn run_alone(job: &dyn Job) -> Result<(), String> {
    let barrier = Barrier::default();
    barrier.begin(1, false);
    catch_unwind(AssertUnwindSafe(|| job.run(0, &barrier))).map_err(|e| panic_message(e.as_ref()))
}

impl Shared {
    /// Runs the job; whether the barrier broke the team up.
    fn run(&self, job: &Arc<dyn Job>, members: usize, fine_grained: bool) -> bool {
        self.barrier.begin(members as u32, fine_grained);
        *lock(&self.panic) = None;
        *lock(&self.job) = Some(job.clone());
        self.running.store(members as u32 - 1, Ordering::SeqCst);
        let number = self.number.load(Ordering::SeqCst).wrapping_add(1);
        self.number.store(number, Ordering::SeqCst);
        for call in &self.calls[..members - 1] {
            call.set(call.get().wrapping_add(1));
        }
        self.take_part(job.as_ref(), 0);
        // The job borrows nothing, but the memory that it points to is the caller's: wait for everyone.
        let mut finished = self.finished.get();
        while finished != number {
            finished = self.finished.wait(finished);
        }
        *lock(&self.job) = None;
        self.barrier.was_broken_up()
    }

    fn take_part(&self, job: &dyn Job, member: usize) {
        take_part(job, member, &self.barrier, &self.panic);
    }
}

/// Does a member's part. A panic is noted if it is the first, and frees the others.
pub(crate) fn take_part(job: &dyn Job, member: usize, barrier: &Barrier, panic: &Mutex<Option<String>>) {
    if let Err(e) = catch_unwind(AssertUnwindSafe(|| job.run(member, barrier))) {
        lock(panic).get_or_insert_with(|| panic_message(e.as_ref()));
        barrier.abandon();
    }
}

/// The life of a worker.
fn serve(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        seen = shared.calls[worker].wait(seen);
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        let job = lock(&shared.job).clone();
        if let Some(job) = job {
            shared.take_part(job.as_ref(), worker + 1);
        }
        if shared.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.finished.set(shared.number.load(Ordering::SeqCst));
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// Nothing is left half-changed under these locks, so a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that threads wait on, on cache lines of its own (two: the prefetcher takes pairs).
#[derive(Default)]
#[repr(align(128))]
struct Flag {
    value: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Flag {
    fn get(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }

    fn set(&self, value: u32) {
        self.value.store(value, Ordering::SeqCst);
        self.wake();
    }

    /// Sets the value if it is `expected`; whether it was.
    fn replace(&self, expected: u32, value: u32) -> bool {
        let replaced = self.value.compare_exchange(expected, value, Ordering::SeqCst, Ordering::SeqCst);
        self.wake();
        replaced.is_ok()
    }

    /// After a change. In the total order of these operations either a sleeper's count stands before this
    /// load, or its look at the value after the change.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            drop(lock(&self.lock));
            self.changed.notify_all();
        }
    }

    /// The value once it is other than `seen`.
    fn wait(&self, seen: u32) -> u32 {
        self.spin(seen).unwrap_or_else(|| self.sleep(seen))
    }

    fn spin(&self, seen: u32) -> Option<u32> {
        for _ in 0..SPINS {
            let value = self.get();
            if value != seen {
                return Some(value);
            }
            std::hint::spin_loop();
        }
        None
    }

    fn sleep(&self, seen: u32) -> u32 {
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let value = loop {
            let value = self.value.load(Ordering::SeqCst);
            if value != seen {
                break value;
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        value
    }
}

const ABANDONED: u32 = 1 << 31;
const ALONE: u32 = 1 << 30;
const ROUND: u32 = ALONE - 1;

/// Where the members of a job meet. A round number tells rounds apart; its high bits carry the [`Signal`].
#[derive(Default)]
pub struct Barrier {
    members: AtomicU32,
    arrived: Padded,
    round: Flag,
    fine_grained: AtomicBool,
    /// Nanoseconds that members have slept at this barrier in this job.
    slept: AtomicU64,
    began: Mutex<Option<Instant>>,
}

/// A counter on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU32);

impl Barrier {
    /// Prepares for a job; no member is at the barrier.
    pub(crate) fn begin(&self, members: u32, fine_grained: bool) {
        self.members.store(members, Ordering::SeqCst);
        self.arrived.0.store(0, Ordering::SeqCst);
        self.round.set(0);
        self.fine_grained.store(fine_grained, Ordering::SeqCst);
        self.slept.store(0, Ordering::SeqCst);
        *lock(&self.began) = Some(Instant::now());
    }

    /// The number of members that meet here.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed) as usize
    }

    /// Waits for all members; everything they wrote before is visible after. Once broken up, it holds nobody.
    pub fn wait(&self) -> Signal {
        let seen = self.round.get();
        if seen & (ABANDONED | ALONE) != 0 {
            return signal(seen);
        }
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.members.load(Ordering::Relaxed) {
            self.arrived.0.store(0, Ordering::Relaxed);
            let alone = if self.waits_too_much() { ALONE } else { 0 };
            let next = (seen.wrapping_add(1) & ROUND) | alone;
            return if self.round.replace(seen, next) { signal(next) } else { Signal::Abandoned };
        }
        let value = self.round.spin(seen).unwrap_or_else(|| {
            let since = Instant::now();
            let value = self.round.sleep(seen);
            let slept = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.slept.fetch_add(slept, Ordering::Relaxed);
            value
        });
        signal(value)
    }

    /// Whether members slept through more than a quarter of a fine-grained job.
    fn waits_too_much(&self) -> bool {
        let slept = Duration::from_nanos(self.slept.load(Ordering::Relaxed));
        if slept < SLEEP_ALLOWED || !self.fine_grained.load(Ordering::Relaxed) {
            return false;
        }
        let began = *lock(&self.began);
        began.is_some_and(|began| slept * 4 > began.elapsed())
    }

    /// Whether waiting cost so much that member 0 went on alone.
    pub(crate) fn was_broken_up(&self) -> bool {
        self.round.get() & ALONE != 0
    }

    /// Frees all members: one has panicked.
    pub(crate) fn abandon(&self) {
        self.round.set(ABANDONED);
    }
}

fn signal(round: u32) -> Signal {
    if round & ABANDONED != 0 {
        Signal::Abandoned
    } else if round & ALONE != 0 {
        Signal::Alone
    } else {
        Signal::Go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closure<F>(F);

    impl<F: Fn(usize, &Barrier) + Send + Sync> Job for Closure<F> {
        fn run(&self, member: usize, barrier: &Barrier) {
            (self.0)(member, barrier);
        }
    }

    fn job(run: impl Fn(usize, &Barrier) + Send + Sync + 'static) -> Arc<dyn Job> {
        Arc::new(Closure(run))
    }

    fn coarse(members: usize) -> JobOptions {
        JobOptions { members, fine_grained: false }
    }

    #[test]
    fn members_meet_at_every_barrier() {
        let team = Team::new(4).unwrap();
        let counts: Arc<Vec<AtomicU32>> = Arc::new((0..4).map(|_| AtomicU32::new(0)).collect());
        let seen = counts.clone();
        let work = job(move |member, barrier| {
            for round in 1..=500 {
                seen[member].store(round, Ordering::Relaxed);
                assert_eq!(barrier.wait(), Signal::Go);
                assert!(seen.iter().all(|c| c.load(Ordering::Relaxed) == round));
                assert_eq!(barrier.wait(), Signal::Go);
            }
        });
        for _ in 0..3 {
            team.run(&work, coarse(4)).unwrap();
        }
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 500));
    }

    #[test]
    fn a_panic_in_one_member_frees_the_others_and_the_team_serves_on() {
        let team = Team::new(3).unwrap();
        for culprit in 0..3 {
            let failing = job(move |member, barrier| {
                assert!(member != culprit, "member {culprit} fails");
                while barrier.wait() == Signal::Go {}
            });
            let error = team.run(&failing, coarse(3)).unwrap_err();
            assert!(error.contains(&format!("member {culprit} fails")), "{error}");
        }
        let sum = Arc::new(AtomicU32::new(0));
        let total = sum.clone();
        let adding = job(move |member, _| {
            total.fetch_add(1 << member, Ordering::Relaxed);
        });
        team.run(&adding, coarse(3)).unwrap();
        assert_eq!(sum.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_busy_team_leaves_a_second_caller_to_work_alone() {
        let team = Arc::new(Team::new(2).unwrap());
        let inner = team.clone();
        let ran = Arc::new(AtomicU32::new(0));
        let count = ran.clone();
        let nested = job(move |_, barrier| {
            assert_eq!(barrier.members(), 1);
            count.fetch_add(1, Ordering::Relaxed);
        });
        let outer = job(move |member, _| {
            if member == 0 {
                inner.run(&nested, coarse(2)).unwrap();
            }
        });
        team.run(&outer, coarse(2)).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn waits_that_blow_up_break_a_fine_grained_job_up_once() {
        let team = Team::new(2).unwrap();
        let alone = Arc::new(AtomicU32::new(0));
        let count = alone.clone();
        let slow = job(move |member, barrier| {
            for _ in 0..100 {
                if barrier.members() > 1 && member == 1 {
                    std::thread::sleep(Duration::from_micros(500));
                }
                match barrier.wait() {
                    Signal::Go => {}
                    Signal::Alone if member == 0 => {
                        count.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    Signal::Alone | Signal::Abandoned => return,
                }
            }
        });
        team.run(&slow, JobOptions { members: 2, fine_grained: true }).unwrap();
        assert_eq!(alone.load(Ordering::Relaxed), 1);
        // Resting: the next such job has one member and so never hears of it.
        team.run(&slow, JobOptions { members: 2, fine_grained: true }).unwrap();
        assert_eq!(alone.load(Ordering::Relaxed), 1);
        // A coarse job keeps its members.
        team.run(&slow, coarse(2)).unwrap();
        assert_eq!(alone.load(Ordering::Relaxed), 1);
    }
}
