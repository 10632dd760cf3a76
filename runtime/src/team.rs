//! A team of threads that runs one job together.
//!
//! The calling thread is the first member. A run goes on with those members that come, and returns when its work is done:
//! a thread that still sleeps, or that has lost its processor to another process, is not waited for ([`Rounds`]).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::flag::Flag;
pub(crate) use crate::rounds::Thread;
pub use crate::rounds::{MOST_PIECES, Place, Rounds, Signal, Whose};

/// How long a thread waits for the next job before it sleeps.
const AWAKE: Duration = Duration::from_micros(30);

/// A job for the team.
pub trait Job: Send + Sync {
    /// What one member does. All members go through the same rounds in the same order; one that comes late may begin
    /// when the others have ended.
    fn run(&self, place: &mut Place<'_>);

    /// Whether the job is over only when all members that came have left it, and not when its rounds are.
    fn ends_with_members(&self) -> bool {
        false
    }
}

/// Threads that wait for jobs. The thread that brings a job is member 0.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs.
    lease: Mutex<()>,
}

struct Shared {
    present: Mutex<Option<Arc<Ongoing>>>,
    /// One for each worker; counts the jobs it is called to.
    calls: Vec<Flag>,
    closing: AtomicBool,
}

/// A job that runs.
struct Ongoing {
    job: Arc<dyn Job>,
    attempt: Attempt,
}

/// What the members of a job have in common.
pub(crate) struct Attempt {
    pub rounds: Rounds,
    /// Members inside the job.
    inside: AtomicUsize,
    /// What the first panic said.
    panic: Mutex<Option<String>>,
}

impl Attempt {
    pub fn new(members: usize) -> Attempt {
        Attempt { rounds: Rounds::new(members), inside: AtomicUsize::new(0), panic: Mutex::default() }
    }

    /// Does a member's part. A panic is noted if it is the first, and frees the others.
    pub fn take_part(&self, job: &dyn Job, member: usize, thread: Thread) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let ran = catch_unwind(AssertUnwindSafe(|| job.run(&mut self.rounds.place(member, thread))));
        if let Err(e) = ran {
            lock(&self.panic).get_or_insert_with(|| panic_message(e.as_ref()));
            self.rounds.close();
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    /// After member 0 has left: nobody does a piece of the job any more once this returns.
    ///
    /// # Errors
    /// The message of the first panic among the members.
    pub fn finish(&self, job: &dyn Job) -> Result<(), String> {
        self.rounds.close();
        let panic = lock(&self.panic).take();
        // The memory that the job points to is the caller's, and after a panic a member may be at a piece. Who comes later
        // finds the rounds closed.
        while (panic.is_some() || job.ends_with_members()) && self.inside.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        panic.map_or(Ok(()), Err)
    }
}

impl Team {
    /// A team of `threads`, the caller's among them.
    ///
    /// # Errors
    /// Where the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Team> {
        let workers = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            present: Mutex::new(None),
            calls: (0..workers).map(|_| Flag::default()).collect(),
            closing: AtomicBool::new(false),
        });
        let mut team = Team { shared, workers: Vec::new(), lease: Mutex::new(()) };
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

    /// Runs a job on up to `members` members and returns when it is done. Fewer are used when the team is smaller or busy
    /// with another thread's job.
    ///
    /// # Errors
    /// The message of the first panic among the members.
    pub fn run(&self, job: &Arc<dyn Job>, members: usize) -> Result<(), String> {
        let members = members.clamp(1, self.threads());
        if members == 1 {
            return run_alone(job.as_ref());
        }
        let Ok(_lease) = self.lease.try_lock() else { return run_alone(job.as_ref()) };
        let ongoing = Arc::new(Ongoing { job: job.clone(), attempt: Attempt::new(members) });
        *lock(&self.shared.present) = Some(ongoing.clone());
        self.shared.calls[..members - 1].iter().for_each(Flag::increment);
        ongoing.attempt.take_part(job.as_ref(), 0, Thread::Callers);
        *lock(&self.shared.present) = None;
        ongoing.attempt.finish(job.as_ref())
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.calls.iter().for_each(Flag::increment);
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
    let attempt = Attempt::new(1);
    attempt.take_part(job, 0, Thread::Callers);
    attempt.finish(job)
}

/// The life of a worker.
fn serve(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        shared.calls[worker].wait(seen, AWAKE);
        seen = shared.calls[worker].get();
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        let present = lock(&shared.present).clone();
        // A job that is over already has gone, and may have given way to one of fewer members.
        if let Some(Ongoing { job, attempt }) = present.as_deref()
            && worker + 1 < attempt.rounds.members()
        {
            attempt.take_part(job.as_ref(), worker + 1, Thread::Own);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    struct Closure<F>(F);

    impl<F: Fn(&mut Place<'_>) + Send + Sync> Job for Closure<F> {
        fn run(&self, place: &mut Place<'_>) {
            (self.0)(place);
        }
    }

    fn job(run: impl Fn(&mut Place<'_>) + Send + Sync + 'static) -> Arc<dyn Job> {
        Arc::new(Closure(run))
    }

    #[test]
    fn a_job_is_done_when_the_call_returns_whoever_came() {
        let team = Team::new(4).unwrap();
        let done = Arc::new(AtomicU32::new(0));
        let count = done.clone();
        let work = job(move |place| {
            for _ in 0..50 {
                if place.share(4, 2, |_, _| _ = count.fetch_add(1, Ordering::Relaxed)) == Signal::Over {
                    return;
                }
            }
            place.end();
        });
        for run in 1..=200 {
            team.run(&work, 4).unwrap();
            assert_eq!(done.load(Ordering::Relaxed), run * 400);
        }
    }

    #[test]
    fn a_panic_in_one_member_frees_the_others_and_the_team_serves_on() {
        let team = Team::new(3).unwrap();
        for culprit in 0..3 {
            let failing = job(move |place| {
                assert!(place.member() != culprit, "member {culprit} fails");
                while place.meet() == Signal::Go {}
            });
            let error = team.run(&failing, 3).unwrap_err();
            assert!(error.contains(&format!("member {culprit} fails")), "{error}");
        }
        let sum = Arc::new(AtomicU32::new(0));
        let total = sum.clone();
        let adding = job(move |place| {
            total.fetch_add(1 << place.member(), Ordering::Relaxed);
            place.meet();
        });
        team.run(&adding, 3).unwrap();
        assert_eq!(sum.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn nobody_is_at_a_piece_any_more_when_a_panic_is_reported() {
        let team = Team::new(2).unwrap();
        let at_a_piece = Arc::new(AtomicU32::new(0));
        let count = at_a_piece.clone();
        let work = job(move |place| {
            let member = place.member();
            place.share(2, 1, |_, _| {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(2));
                assert!(member != 0, "the first member fails");
                std::thread::sleep(std::time::Duration::from_millis(5));
                count.fetch_sub(1, Ordering::SeqCst);
            });
        });
        for _ in 0..10 {
            let error = team.run(&work, 2).unwrap_err();
            assert!(error.contains("the first member fails"), "{error}");
            assert_eq!(
                at_a_piece.swap(0, Ordering::SeqCst),
                1,
                "only the piece that failed was not completed"
            );
        }
    }

    #[test]
    fn a_busy_team_leaves_a_second_caller_to_work_alone() {
        let team = Arc::new(Team::new(2).unwrap());
        let inner = team.clone();
        let ran = Arc::new(AtomicU32::new(0));
        let count = ran.clone();
        let nested = job(move |place| {
            assert_eq!(place.members(), 1);
            count.fetch_add(1, Ordering::Relaxed);
        });
        let outer = job(move |place| {
            if place.member() == 0 {
                inner.run(&nested, 2).unwrap();
            }
        });
        team.run(&outer, 2).unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    }
}
