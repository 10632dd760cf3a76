//! One processor for each thread, while it is measured.

/// Keeps the calling thread on one processor until it is dropped; only where the threads are as many as the
/// processors, so that each has one. The system may otherwise leave two on the same for longer than a measurement
/// takes.
#[cfg(target_os = "linux")]
pub(super) struct Placement {
    /// Where the thread was allowed to run before; nothing where that was not changed.
    before: Option<rustix::thread::CpuSet>,
}

#[cfg(target_os = "linux")]
impl Placement {
    pub(super) fn of(member: usize, threads: usize) -> Placement {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let place = |allowed: CpuSet| {
            if allowed.count() as usize != threads {
                return None;
            }
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).nth(member)?);
            // A system that refuses places the thread itself.
            sched_setaffinity(None, &one).ok().map(|()| allowed)
        };
        Placement { before: sched_getaffinity(None).ok().and_then(place) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Placement {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = rustix::thread::sched_setaffinity(None, before)
        {
            tracing::warn!(%error, "a thread stays on one processor");
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) struct Placement;

#[cfg(not(target_os = "linux"))]
impl Placement {
    pub(super) fn of(_: usize, _: usize) -> Placement {
        Placement
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn a_thread_may_run_everywhere_again_afterwards() {
        let before = sched_getaffinity(None).unwrap();
        let placement = Placement::of(0, before.count() as usize);
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(placement);
        assert!(sched_getaffinity(None).unwrap() == before);
        let _placement = Placement::of(0, before.count() as usize + 1);
        assert!(sched_getaffinity(None).unwrap() == before);
    }
}
