//! Better code for a program that runs already: made elsewhere, handed over whole, taken between two runs.

use std::cell::LazyCell;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fuse_codegen::kernel_ir::Function;
use fuse_ir::kernel::KernelGraph;

use crate::cpu::HostModule;

/// Time of runs after which better code is worth making: what runs once and briefly does without.
pub(crate) const WORTH_IMPROVING: Duration = Duration::from_millis(10);

/// What better code leaves of the time of a run, roughly; where weights stream from memory it is more.
pub(crate) const LEFT_OF_TIME: f64 = 0.4;

/// A program for the host in one form: its kernels, what they were scheduled to, and machine code of that.
pub struct HostCode {
    /// The kernels.
    pub kernels: KernelGraph,
    /// The functions of the kernels, in the order of the code.
    pub functions: Vec<Function>,
    /// Their machine code.
    pub module: Arc<dyn HostModule>,
}

/// The end of [`improvement`] that waits for the code.
pub struct Improvement {
    receiver: Receiver<HostCode>,
    _wanted: Arc<()>,
}

/// The end of [`improvement`] that makes the code.
pub struct Maker {
    sender: Sender<HostCode>,
    wanted: Weak<()>,
}

/// Two ends for code that is made on another thread.
pub fn improvement() -> (Improvement, Maker) {
    let ((sender, receiver), wanted) = (channel(), Arc::new(()));
    let maker = Maker { sender, wanted: Arc::downgrade(&wanted) };
    (Improvement { receiver, _wanted: wanted }, maker)
}

impl Maker {
    /// Whether anybody still waits.
    pub fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }

    /// Hands the code over. Dropping the maker instead says that there will be none.
    pub fn deliver(self, code: HostCode) {
        // Where nobody waits any more, nobody misses it.
        let _ = self.sender.send(code);
    }
}

/// How long a run takes, roughly.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct RunTime {
    /// With the code so far.
    pub time: Duration,
    /// How much of that better code saves.
    pub saved: Duration,
}

/// How much better code is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Runs go on meanwhile: it is to be made on other threads, in what time the process has left.
    Background,
    /// Somebody waits: it is to be made as fast as possible, before the call returns.
    Now,
}

/// Starts to make better code.
pub(crate) type Start = Box<dyn FnOnce(Urgency) -> Option<Improvement> + Send>;

/// How long better code takes to make, when somebody waits for it: estimated only where a run takes longer than the least that
/// it may be.
pub struct Making {
    least: Duration,
    estimate: LazyCell<Duration, Box<dyn FnOnce() -> Duration + Send>>,
}

impl Making {
    /// What `estimate` says, which is not below `least`.
    pub fn new(least: Duration, estimate: impl FnOnce() -> Duration + Send + 'static) -> Making {
        Making { least, estimate: LazyCell::new(Box::new(estimate)) }
    }
}

impl From<Duration> for Making {
    fn from(time: Duration) -> Making {
        Making::new(time, move || time)
    }
}

/// Better code that may be made, and what it takes.
pub(crate) struct Offer {
    pub start: Start,
    /// How long it takes to make.
    pub making: Making,
    /// Of the runs so far.
    pub ran: Duration,
}

impl Offer {
    /// What to do before a run: how soon to begin, if at all.
    fn worth(&self, RunTime { time, saved }: RunTime) -> Option<Urgency> {
        if time <= self.making.least {
            return None;
        }
        let making = *self.making.estimate;
        if saved > making {
            Some(Urgency::Now)
        } else if time > making {
            // It is there for the next run. For a shorter run the disturbance is worse than beginning after it.
            Some(Urgency::Background)
        } else {
            None
        }
    }
}

/// How far better code is.
pub(crate) enum Progress {
    /// Nobody makes any, or it is in use already.
    Idle,
    /// It will be made when it is worth it.
    Waiting(Offer),
    /// It is being made.
    Making(Improvement),
}

impl Progress {
    /// Adds the time of a run, and starts in the background when that is long enough.
    pub(crate) fn ran(&mut self, time: Duration) {
        if let Progress::Waiting(offer) = self {
            offer.ran += time;
            if offer.ran >= WORTH_IMPROVING {
                self.start(Urgency::Background);
            }
        }
    }

    /// Starts before a run that takes so long with the code so far, if that is worth it, and says how.
    pub(crate) fn expect(&mut self, time: RunTime) -> Option<Urgency> {
        let Progress::Waiting(offer) = self else { return None };
        let urgency = offer.worth(time)?;
        self.start(urgency);
        Some(urgency)
    }

    /// Starts, if that has not happened.
    pub(crate) fn start(&mut self, urgency: Urgency) {
        match std::mem::replace(self, Progress::Idle) {
            Progress::Waiting(offer) => {
                *self = (offer.start)(urgency).map_or(Progress::Idle, Progress::Making);
            }
            other => *self = other,
        }
    }

    /// The code, if it is there; with `wait` not before it is known whether it will be.
    pub(crate) fn take(&mut self, wait: bool) -> Option<HostCode> {
        let Progress::Making(improvement) = self else { return None };
        let received = if wait {
            improvement.receiver.recv().ok()
        } else {
            match improvement.receiver.try_recv() {
                Ok(code) => Some(code),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => return None,
            }
        };
        *self = Progress::Idle;
        received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_code_is_made_at_once_only_for_a_run_that_takes_longer() {
        let worth = |making, time, saved| {
            let [making, time, saved] = [making, time, saved].map(Duration::from_millis);
            let making = Making::new(Duration::from_millis(7), move || making);
            let offer = Offer { start: Box::new(|_| None), making, ran: Duration::ZERO };
            offer.worth(RunTime { time, saved })
        };
        assert_eq!(worth(50, 40, 30), None, "the run is over before the code is there");
        assert_eq!(worth(50, 60, 45), Some(Urgency::Background), "waiting would gain nothing");
        assert_eq!(worth(50, 300, 225), Some(Urgency::Now));
        assert_eq!(worth(50, 300, 30), Some(Urgency::Background), "the code so far is as good");
    }

    #[test]
    fn what_is_over_before_any_code_is_there_asks_for_no_estimate() {
        let making = Making::new(Duration::from_millis(7), || unreachable!("no run takes that long"));
        let offer = Offer { start: Box::new(|_| None), making, ran: Duration::ZERO };
        let time = Duration::from_millis(7);
        assert_eq!(offer.worth(RunTime { time, saved: time }), None);
    }
}
