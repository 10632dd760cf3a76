//! Where the time of a run goes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::program::Program;

/// The time that one kernel took in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: String,
    /// How often it was launched.
    pub launches: u64,
    /// The time in it, by thread.
    pub running: Vec<Duration>,
    /// The time spent waiting for other threads in it, by thread.
    pub waiting: Vec<Duration>,
}

/// What all threads noted, in any order.
#[derive(Debug, Default)]
pub(crate) struct Profile(Mutex<Vec<Notes>>);

impl Profile {
    /// Adds what one thread noted.
    pub fn add(&self, notes: Notes) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(notes);
    }

    /// The times of each kernel that was launched.
    pub fn kernels(&self) -> Vec<KernelTime> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.sort_by_key(|n| n.member);
        let Some(first) = notes.first() else { return Vec::new() };
        let of = |at: usize| KernelTime {
            kernel: first.names[at].clone(),
            launches: notes.iter().map(|n| n.spans[at].launches).max().unwrap_or(0),
            running: notes.iter().map(|n| n.spans[at].running).collect(),
            waiting: notes.iter().map(|n| n.spans[at].waiting).collect(),
        };
        (0..first.names.len()).map(of).filter(|k| k.launches > 0).collect()
    }
}

/// What one thread spent on one launch of the program.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    launches: u64,
    running: Duration,
    waiting: Duration,
}

/// What one thread notes.
#[derive(Debug)]
pub(crate) struct Notes {
    member: usize,
    names: Vec<String>,
    spans: Vec<Span>,
}

impl Notes {
    /// Nothing yet.
    pub fn new(member: usize, program: &Program) -> Notes {
        let names: Vec<String> = program.launches.iter().map(|l| l.name.clone()).collect();
        Notes { member, spans: vec![Span::default(); names.len()], names }
    }

    /// Launch number `at` took so long once, the member's own work in it and waiting for others.
    pub fn launched(&mut self, at: usize, running: Duration, waiting: Duration) {
        let span = &mut self.spans[at];
        span.running += running;
        span.waiting += waiting;
        span.launches += 1;
    }
}
