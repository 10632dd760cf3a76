//! Better code for a program that runs already: made elsewhere, handed over whole, taken between two runs.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fuse_codegen::kernel_ir::Function;
use fuse_ir::kernel::KernelGraph;

use crate::cpu::HostModule;

/// Time of runs after which better code is worth making: what runs once and briefly does without.
pub(crate) const WORTH_IMPROVING: Duration = Duration::from_millis(10);

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

/// Starts to make better code on another thread.
pub(crate) type Start = Box<dyn FnOnce() -> Option<Improvement> + Send>;

/// How far better code is.
pub(crate) enum Progress {
    /// Nobody makes any, or it is in use already.
    Idle,
    /// Runs so far took so long; it will be made when that is long enough.
    Waiting(Start, Duration),
    /// It is being made.
    Making(Improvement),
}

impl Progress {
    /// Adds the time of a run, and starts when it is long enough.
    pub(crate) fn ran(&mut self, time: Duration) {
        if let Progress::Waiting(_, ran) = self {
            *ran += time;
            if *ran >= WORTH_IMPROVING {
                self.start();
            }
        }
    }

    /// Starts now, if that has not happened.
    pub(crate) fn start(&mut self) {
        match std::mem::replace(self, Progress::Idle) {
            Progress::Waiting(start, _) => *self = start().map_or(Progress::Idle, Progress::Making),
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
