//! Which processor a thread of fuse runs on.
//!
//! The system places threads, and mostly leaves the members of a team on different processors. Beside another busy thread
//! it does not: of three threads two have to share one of two processors, and it is all the same to the system which. If
//! those are two members, the team has one processor instead of one and a half. So a member that finds another on its
//! processor goes elsewhere, until processors are free again.

#[cfg(target_os = "linux")]
mod linux {
    use rustix::process::getpid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The processor that the calling thread is on.
    pub(crate) fn present() -> usize {
        rustix::thread::sched_getcpu()
    }

    /// Moves the calling thread to a processor that is none of `taken`, among those that the process may use; whether
    /// there is one.
    pub(crate) fn leave(taken: impl Iterator<Item = usize>) -> bool {
        let Ok(mut allowed) = sched_getaffinity(Some(getpid())) else { return false };
        taken.filter(|cpu| *cpu < CpuSet::MAX_CPU).for_each(|cpu| allowed.unset(cpu));
        allowed.count() > 0 && sched_setaffinity(None, &allowed).is_ok()
    }

    /// Lets the calling thread run on all processors that the process may use.
    pub(crate) fn release() {
        if let Err(error) = sched_getaffinity(Some(getpid())).and_then(|all| sched_setaffinity(None, &all)) {
            tracing::debug!(%error, "a thread stays on some processors");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    pub(crate) fn present() -> usize {
        usize::MAX
    }

    pub(crate) fn leave(_: impl Iterator<Item = usize>) -> bool {
        false
    }

    pub(crate) fn release() {}
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{leave, present, release};
#[cfg(target_os = "linux")]
pub(crate) use linux::{leave, present, release};
