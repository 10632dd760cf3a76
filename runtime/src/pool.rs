//! Runs on threads of the caller, for frameworks that have a pool of their own.
//!
//! Members of a job are the workers that come, in the order in which they do, up to the number that was asked for. What a
//! worker would have done that does not come, or comes late, others do ([`Rounds`](crate::team::Rounds)).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::team::{Attempt, Job, Thread, panic_message, run_alone};

/// Threads of a caller, on which a [`Device`](crate::Device) runs programs instead of on threads of fuse.
///
/// An implementation has to call `work` and to return only after every call of it has returned, which the borrow checker
/// sees to. It *should* make as many calls as it is asked for at the same time, each on another thread; the thread that
/// called `run` may be one of them. Nothing breaks if it does not:
///
/// - Calls that have begun share the work, and do that of the others; so it is with calls made one after the other, of
///   which the first does everything. Calls that begin when the work is done, or are too many, return at once.
/// - Where no call is made at all, the thread that called `run` does the work.
///
/// A worker waits inside `work` for what another one is doing at that moment, spinning for some 10 µs and sleeping after
/// that, and does not call the pool.
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

/// A caller's pool.
pub(crate) struct Pool {
    threads: Box<dyn ThreadPool>,
    most: usize,
}

impl Pool {
    /// A pool of which at most so many workers are taken.
    pub fn new(threads: Box<dyn ThreadPool>, most: usize) -> Pool {
        Pool { threads, most }
    }

    /// The number of members that a job has at most.
    pub fn threads(&self) -> usize {
        self.threads.threads().min(self.most).max(1)
    }

    /// Runs a job on up to `members` workers and returns when all have left it.
    ///
    /// # Errors
    /// The message of the first panic among the members, or that of the pool.
    pub fn run(&self, job: &dyn Job, members: usize) -> Result<(), String> {
        let members = members.clamp(1, self.threads());
        if members == 1 {
            return run_alone(job);
        }
        let (attempt, arrived) = (Attempt::new(members), AtomicUsize::new(0));
        let work = || {
            let member = arrived.fetch_add(1, Ordering::Relaxed);
            if member < members {
                attempt.take_part(job, member, Thread::Callers);
            }
        };
        let ran = catch_unwind(AssertUnwindSafe(|| self.threads.run(members, &work)));
        let finished = attempt.finish(job);
        if let Err(e) = ran {
            return Err(format!("the thread pool: {}", panic_message(e.as_ref())));
        }
        if arrived.load(Ordering::Relaxed) == 0 {
            return run_alone(job);
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use super::*;
    use crate::team::{Place, Signal};

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

    /// Counts the pieces of all rounds, and the members that came.
    #[derive(Default)]
    struct Counting {
        members: AtomicUsize,
        pieces: AtomicUsize,
    }

    const ROUNDS: usize = 100;

    impl Job for Counting {
        fn run(&self, place: &mut Place<'_>) {
            self.members.fetch_add(1, Ordering::SeqCst);
            for _ in 0..ROUNDS {
                if place.share(4, 1, |_, _| _ = self.pieces.fetch_add(1, Ordering::SeqCst)) == Signal::Over {
                    return;
                }
            }
            place.end();
        }
    }

    /// The members that come to a job of four, which is done whoever they are.
    fn members(pool: &Pool) -> usize {
        let job = Counting::default();
        pool.run(&job, 4).unwrap();
        assert_eq!(job.pieces.load(Ordering::SeqCst), ROUNDS * 4);
        job.members.load(Ordering::SeqCst)
    }

    #[test]
    fn workers_share_the_work_however_many_come() {
        assert_eq!(members(&pool(on_threads)), 4);
        assert_eq!(members(&pool(|workers, work| on_threads(workers / 2, work))), 2);
        assert_eq!(members(&pool(|workers, work| on_threads(2 * workers, work))), 4);
        assert_eq!(members(&pool(|workers, work| (0..workers).for_each(|_| work()))), 4, "one by one");
        assert_eq!(members(&pool(|_, work| work())), 1);
    }

    #[test]
    fn without_a_worker_the_calling_thread_does_the_work() {
        let job = Arc::new(Alone::default());
        pool(|_, _| ()).run(job.as_ref(), 4).unwrap();
        assert_eq!(*job.0.lock().unwrap(), Some(std::thread::current().id()));
    }

    /// Notes the thread of the only member.
    #[derive(Default)]
    struct Alone(Mutex<Option<ThreadId>>);

    impl Job for Alone {
        fn run(&self, place: &mut Place<'_>) {
            assert_eq!(place.members(), 1);
            *self.0.lock().unwrap() = Some(std::thread::current().id());
        }
    }

    /// Panics in each member.
    struct Failing;

    impl Job for Failing {
        fn run(&self, place: &mut Place<'_>) {
            assert!(place.members() == 0, "a member fails");
        }
    }

    #[test]
    fn panics_are_errors_and_the_pool_serves_on() {
        let pool_of_threads = pool(on_threads);
        let error = pool_of_threads.run(&Failing, 4).unwrap_err();
        assert!(error.contains("a member fails"), "{error}");
        assert!(members(&pool_of_threads) >= 1);
        let broken = pool(|_, _| panic!("no threads today"));
        let error = broken.run(&Counting::default(), 4).unwrap_err();
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
        let job = Two::default();
        pool.run(&job, 4).unwrap();
        assert_eq!(job.0.load(Ordering::SeqCst), 2);
    }

    /// Counts its members, of whom two are allowed.
    #[derive(Default)]
    struct Two(AtomicUsize);

    impl Job for Two {
        fn run(&self, place: &mut Place<'_>) {
            assert_eq!(place.members(), 2);
            self.0.fetch_add(1, Ordering::SeqCst);
            place.meet();
        }
    }
}
