//! Runs on threads of the caller, for frameworks that have a pool of their own.
//!
//! Which workers take part is settled when a run begins: whoever arrives, up to the number that was asked for, within
//! a bounded time. From then on all of them are threads inside the job, so that they can meet at its barriers whatever
//! the pool does; who comes later has nothing to do. A single worker does the whole job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::team::{
    Barrier, FIRST_REST, Job, JobOptions, LONGEST_REST, SPINS, lock, panic_message, run_alone, take_part,
};

/// How long workers that have arrived wait for the others. A pool that starts a thread for each worker takes some 50 µs.
const GATHERING: Duration = Duration::from_millis(1);

/// Threads of a caller, on which a [`Device`](crate::Device) runs programs instead of on threads of fuse.
///
/// An implementation has to call `work` and to return only after every call of it has returned, which the borrow checker
/// sees to. It *should* make as many calls as it is asked for at the same time, each on another thread; the thread that
/// called `run` may be one of them. Nothing breaks if it does not:
///
/// - Where fewer calls begin within about a millisecond, those share the work, were it only one; so it is with calls made
///   one after the other, of which the first does everything. Calls that begin later or are too many return at once.
/// - Where no call is made at all, the thread that called `run` does the work.
/// - A pool that offered fewer workers than it was asked for is asked for as many as it offered, for 20 ms at first and up
///   to a second where that happens again.
///
/// Workers wait for each other inside `work`, spinning for some 10 µs and sleeping after that, and do not call the pool.
/// Several threads may run executables at once, and `run` is then called by each. If workers of the pool do so, `run` must
/// not wait for calls that no worker is free to begin: let it make or withdraw those that have not begun when its own
/// is over. Results are the same, bit for bit, whatever number of workers comes.
///
/// Code is compiled on threads of fuse, in the background with [`Executable::improve`](crate::Executable::improve).
///
/// ```
/// use fuse_runtime::{Device, DeviceOptions, ThreadPool};
///
/// /// Starts threads for each run, beside the calling one.
/// struct Scoped;
///
/// impl ThreadPool for Scoped {
///     fn threads(&self) -> usize {
///         4
///     }
///
///     fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
///         std::thread::scope(|scope| {
///             (1..workers).for_each(|_| drop(scope.spawn(work)));
///             work();
///         });
///     }
/// }
///
/// let device = Device::on_pool(Scoped, &DeviceOptions::default());
/// assert_eq!(device.threads(), 4);
/// ```
pub trait ThreadPool: Send + Sync {
    /// How many workers it has at most, the thread that calls [`ThreadPool::run`] included if that is one.
    fn threads(&self) -> usize;

    /// Calls `work` on `workers` threads at once, at least two and at most [`ThreadPool::threads`], and returns when
    /// all calls have returned.
    fn run(&self, workers: usize, work: &(dyn Fn() + Sync));
}

impl<P: ThreadPool + ?Sized> ThreadPool for Arc<P> {
    fn threads(&self) -> usize {
        self.as_ref().threads()
    }

    fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
        self.as_ref().run(workers, work);
    }
}

/// A caller's pool, and what is known of it.
pub(crate) struct Pool {
    threads: Box<dyn ThreadPool>,
    most: usize,
    rest: Mutex<Rest>,
}

/// Until when fewer workers are asked for than there are, and for how long the next time.
struct Rest {
    until: Option<Instant>,
    next: Duration,
    workers: usize,
}

impl Rest {
    fn none() -> Rest {
        Rest { until: None, next: FIRST_REST, workers: usize::MAX }
    }
}

impl Pool {
    /// A pool of which at most so many workers are taken.
    pub fn new(threads: Box<dyn ThreadPool>, most: usize) -> Pool {
        Pool { threads, most, rest: Mutex::new(Rest::none()) }
    }

    /// The number of members that a job has at most.
    pub fn threads(&self) -> usize {
        self.threads.threads().min(self.most).max(1)
    }

    /// Runs a job on up to `options.members` workers and returns when all have left it.
    ///
    /// # Errors
    /// The message of the first panic among the members, or that of the pool.
    pub fn run(&self, job: &dyn Job, options: JobOptions) -> Result<(), String> {
        let wanted = options.members.clamp(1, self.threads()).min(self.offered());
        if wanted == 1 {
            return run_alone(job);
        }
        let gathering = Gathering::new(wanted, options.fine_grained);
        let work = || gathering.work(job);
        let ran = catch_unwind(AssertUnwindSafe(|| self.threads.run(wanted, &work)));
        let members = gathering.close();
        self.note(wanted, if gathering.barrier.was_broken_up() { 1 } else { members.max(1) });
        if let Err(e) = ran {
            return Err(format!("the thread pool: {}", panic_message(e.as_ref())));
        }
        if members == 0 {
            return run_alone(job);
        }
        match lock(&gathering.panic).take() {
            Some(message) => Err(message),
            None => Ok(()),
        }
    }

    /// How many workers the pool has to offer at present, as far as that is known.
    fn offered(&self) -> usize {
        let rest = lock(&self.rest);
        match rest.until {
            Some(until) if Instant::now() < until => rest.workers,
            Some(_) | None => usize::MAX,
        }
    }

    /// Notes how many of the workers that were wanted were of use.
    fn note(&self, wanted: usize, workers: usize) {
        let mut rest = lock(&self.rest);
        if workers < wanted {
            tracing::debug!(wanted, workers, "the thread pool has fewer workers");
            let until = Some(Instant::now() + rest.next);
            *rest = Rest { until, next: (rest.next * 2).min(LONGEST_REST), workers };
        } else if rest.until.is_none_or(|until| until <= Instant::now()) {
            *rest = Rest::none();
        }
    }
}

const CLOSED: u32 = 1 << 31;

/// The workers of one job while they arrive, and their barrier.
struct Gathering {
    wanted: u32,
    fine_grained: bool,
    /// How many have arrived, and whether that is all.
    arrived: AtomicU32,
    /// The number of members once the barrier is ready for them.
    members: AtomicU32,
    barrier: Barrier,
    panic: Mutex<Option<String>>,
}

impl Gathering {
    fn new(wanted: usize, fine_grained: bool) -> Gathering {
        Gathering {
            wanted: u32::try_from(wanted).unwrap_or(CLOSED - 1).min(CLOSED - 1),
            fine_grained,
            arrived: AtomicU32::new(0),
            members: AtomicU32::new(0),
            barrier: Barrier::default(),
            panic: Mutex::new(None),
        }
    }

    /// What each worker calls.
    fn work(&self, job: &dyn Job) {
        if let Some(member) = self.arrive() {
            take_part(job, member, &self.barrier, &self.panic);
        }
    }

    /// Lets nobody in any more; how many have come in.
    fn close(&self) -> usize {
        (self.arrived.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED) as usize
    }

    /// Which member the calling thread is, once it is known who takes part; `None` where it comes too late.
    fn arrive(&self) -> Option<usize> {
        let enter = |arrived: u32| match arrived + 1 {
            _ if arrived & CLOSED != 0 => None,
            all if all == self.wanted => Some(all | CLOSED),
            some => Some(some),
        };
        let before = self.arrived.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).ok()?;
        if before + 1 == self.wanted {
            self.begin(self.wanted);
        } else {
            self.wait();
        }
        Some(before as usize)
    }

    /// Waits until all have arrived, or begins with those who have.
    fn wait(&self) {
        let since = Instant::now();
        let mut looks = 0;
        while self.members.load(Ordering::Acquire) == 0 {
            if looks < SPINS {
                looks += 1;
                std::hint::spin_loop();
            } else if since.elapsed() < GATHERING {
                std::thread::yield_now();
            } else {
                let arrived = self.arrived.fetch_or(CLOSED, Ordering::AcqRel);
                if arrived & CLOSED == 0 {
                    self.begin(arrived);
                }
                // Otherwise whoever closed is about to begin.
                std::thread::yield_now();
            }
        }
    }

    fn begin(&self, members: u32) {
        self.barrier.begin(members, self.fine_grained);
        self.members.store(members, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::Signal;

    /// A pool made of a function.
    struct Made<F>(F);

    impl<F: Fn(usize, &(dyn Fn() + Sync)) + Send + Sync> ThreadPool for Made<F> {
        fn threads(&self) -> usize {
            4
        }

        fn run(&self, workers: usize, work: &(dyn Fn() + Sync)) {
            (self.0)(workers, work);
        }
    }

    fn pool(run: impl Fn(usize, &(dyn Fn() + Sync)) + Send + Sync + 'static) -> Pool {
        Pool::new(Box::new(Made(run)), usize::MAX)
    }

    fn on_threads(calls: usize, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..calls).for_each(|_| drop(scope.spawn(work))));
    }

    /// Counts the rounds of all members, which meet after each, and how many members there were.
    #[derive(Default)]
    struct Rounds {
        members: AtomicU32,
        rounds: AtomicU32,
    }

    const ROUNDS: u32 = 100;

    impl Job for Rounds {
        fn run(&self, _member: usize, barrier: &Barrier) {
            self.members.fetch_add(1, Ordering::SeqCst);
            for round in 1..=ROUNDS {
                self.rounds.fetch_add(1, Ordering::SeqCst);
                assert_eq!(barrier.wait(), Signal::Go);
                assert_eq!(self.rounds.load(Ordering::SeqCst), round * barrier.members() as u32);
                assert_eq!(barrier.wait(), Signal::Go);
            }
        }
    }

    const OPTIONS: JobOptions = JobOptions { members: 4, fine_grained: false };

    /// The members of a job, which does all of its rounds.
    fn members(pool: &Pool) -> u32 {
        let job = Rounds::default();
        pool.run(&job, OPTIONS).unwrap();
        let members = job.members.load(Ordering::SeqCst);
        assert_eq!(job.rounds.load(Ordering::SeqCst), ROUNDS * members);
        members
    }

    #[test]
    fn as_many_workers_as_come_meet_at_barriers() {
        // Where the machine is busy, a thread may come too late.
        assert!((1..=4).contains(&members(&pool(on_threads))));
        assert!((1..=2).contains(&members(&pool(|workers, work| on_threads(workers / 2, work)))));
        assert!((1..=4).contains(&members(&pool(|workers, work| on_threads(2 * workers, work)))));
    }

    #[test]
    fn a_worker_that_comes_alone_does_everything() {
        let one_by_one = pool(|workers, work| (0..workers).for_each(|_| work()));
        assert_eq!(members(&one_by_one), 1);
        assert_eq!(members(&pool(|_, work| work())), 1);
        assert_eq!(members(&pool(|_, _| ())), 1, "nobody comes");
        let late = pool(|_, work| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(20 * GATHERING);
                    work();
                });
                work();
            });
        });
        assert_eq!(members(&late), 1);
    }

    #[test]
    fn a_pool_that_offers_less_is_not_asked_for_more_at_once() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let one_by_one = pool(move |workers, work| {
            count.fetch_add(1, Ordering::SeqCst);
            (0..workers).for_each(|_| work());
        });
        assert_eq!(members(&one_by_one), 1);
        let begin = Instant::now();
        assert_eq!(members(&one_by_one), 1);
        // Unless the machine was so busy that the rest is over.
        if begin.elapsed() < FIRST_REST / 2 {
            assert_eq!(asked.load(Ordering::SeqCst), 1);
        }
        let before = asked.load(Ordering::SeqCst);
        std::thread::sleep(LONGEST_REST);
        assert_eq!(members(&one_by_one), 1);
        assert_eq!(asked.load(Ordering::SeqCst), before + 1);
    }

    /// Panics in each member.
    struct Failing;

    impl Job for Failing {
        fn run(&self, _member: usize, barrier: &Barrier) {
            assert!(barrier.members() == 0, "a member fails");
        }
    }

    #[test]
    fn panics_are_errors_and_the_pool_serves_on() {
        let pool_of_threads = pool(on_threads);
        let error = pool_of_threads.run(&Failing, OPTIONS).unwrap_err();
        assert!(error.contains("a member fails"), "{error}");
        assert!(members(&pool_of_threads) >= 1);
        let broken = pool(|_, _| panic!("no threads today"));
        let error = broken.run(&Rounds::default(), OPTIONS).unwrap_err();
        assert_eq!(error, "the thread pool: no threads today");
    }

    #[test]
    fn fewer_workers_are_taken_where_fewer_are_allowed() {
        let pool = Pool::new(
            Box::new(Made(|workers, work: &(dyn Fn() + Sync)| {
                assert_eq!(workers, 2);
                on_threads(workers, work);
            })),
            2,
        );
        assert_eq!(pool.threads(), 2);
        assert!((1..=2).contains(&members(&pool)));
    }
}
