//! How long each phase of a compilation took, to be logged.

use std::time::{Duration, Instant};

use crate::kernel_ir::Function;

/// The phases so far.
pub(super) struct Phases {
    began: Instant,
    ended: Vec<(&'static str, Duration)>,
}

impl Phases {
    pub fn new() -> Phases {
        Phases { began: Instant::now(), ended: Vec::new() }
    }

    /// Ends a phase, which began with the end of the one before.
    pub fn end(&mut self, phase: &'static str) {
        let now = Instant::now();
        self.ended.push((phase, now - self.began));
        self.began = now;
    }

    /// Logs them.
    pub fn report(&self, functions: &[Function]) {
        let function = functions.first().map_or("", |f| f.name.as_str());
        let values = functions.iter().map(|f| f.types.len()).sum::<usize>();
        tracing::debug!(function, functions = functions.len(), values, phases = ?self.ended, "compiled");
    }
}
