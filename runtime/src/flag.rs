//! A number that threads wait for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::team::lock;

/// Looks at a flag this often between looks at the clock; some µs.
const SPINS: u32 = 64;

/// A number that threads wait on, on cache lines of its own (two: the prefetcher takes pairs). Who waits spins first and
/// then sleeps.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Flag {
    value: AtomicU64,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Flag {
    pub fn new(value: u64) -> Flag {
        Flag { value: AtomicU64::new(value), ..Flag::default() }
    }

    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Adds one.
    pub fn increment(&self) {
        self.value.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Sets bits.
    pub fn mark(&self, bits: u64) {
        self.value.fetch_or(bits, Ordering::SeqCst);
        self.wake();
    }

    /// Sets the value if it is `expected`.
    pub fn replace(&self, expected: u64, value: u64) {
        if self.value.compare_exchange(expected, value, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.wake();
        }
    }

    /// After a change. In the total order of these operations either a sleeper's count stands before this
    /// load, or its look at the value after the change.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            drop(lock(&self.lock));
            self.changed.notify_all();
        }
    }

    /// Waits until the value is other than `seen`, so long without sleeping; whether it slept.
    pub fn wait(&self, seen: u64, awake: Duration) -> bool {
        let mut since = None;
        while !self.spin(seen, SPINS) {
            if since.get_or_insert_with(Instant::now).elapsed() >= awake {
                self.sleep(seen);
                return true;
            }
        }
        false
    }

    /// Looks at the value so many times; whether it has become other than `seen`.
    pub fn spin(&self, seen: u64, times: u32) -> bool {
        for _ in 0..times {
            if self.get() != seen {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn sleep(&self, seen: u64) {
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.value.load(Ordering::SeqCst) == seen {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}
