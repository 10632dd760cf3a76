//! What the machine can do at best, measured: arithmetic, memory and barriers.
//!
//! These are the limits that a model's time is compared with. Each is the best of many short rounds, so that other
//! work on the machine, which can only slow a round down, is left out as far as possible.

mod placement;
mod processor;
mod repetitions;
mod vectors;

use std::path::Path;
use std::time::Duration;

pub use processor::{Cache, largest_cache_bytes};

use crate::limits;
use crate::team::Team;
use repetitions::{Work, barrier_seconds, best_seconds};
use vectors::{FACTORS, GRAIN, Line, Vectors};

/// The working set that lies in memory, where the last cache is not larger than half of it.
const LARGEST_SET: usize = 256 << 20;

/// Why the machine cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The system refuses the threads.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system says.
        reason: String,
    },
    /// The working sets do not fit.
    #[error(
        "measuring with {threads} threads takes {needed} MiB of memory, and this process may take {limit} MiB; \
         use fewer threads"
    )]
    Memory {
        /// How many were asked for.
        threads: usize,
        /// What they take at once, in MiB.
        needed: u64,
        /// What there is, in MiB.
        limit: u64,
    },
    /// A measuring thread panicked, which is a bug.
    #[error("a measuring thread panicked: {0}")]
    Panicked(String),
}

/// The limits of a machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The number of threads of what is measured with all.
    pub threads: usize,
    /// The data caches of one processor, the nearest first.
    pub caches: Vec<Cache>,
    /// Fused multiply-adds of f32 on registers, for each width of vectors, the widest last.
    pub arithmetic: Vec<Arithmetic>,
    /// The same where a tile of sums stays in registers and both factors come from the first cache.
    pub products: Arithmetic,
    /// Reads, from the nearest cache to memory.
    pub reads: Vec<Transfer>,
    /// Writes to memory.
    pub write: Transfer,
    /// Copies in memory; what is read and what is written both count.
    pub copy: Transfer,
    /// A barrier of all threads.
    pub barrier_microseconds: f64,
}

/// The speed of arithmetic in one width.
#[derive(Clone, Debug)]
pub struct Arithmetic {
    /// The instruction set.
    pub instructions: &'static str,
    /// The width of a vector.
    pub bits: u32,
    /// In 10⁹ operations a second, a multiply-add being two.
    pub gflops: Rate,
}

/// The speed of reading or writing a working set.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// `L1`, `L2`, …, or `memory`.
    pub place: String,
    /// The working set of one thread when it is alone, and of each thread when all are at work.
    pub bytes: [usize; 2],
    /// In 10⁹ bytes a second.
    pub gigabytes: Rate,
}

/// A speed of one thread, and of all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// One thread, the others idle.
    pub one: f64,
    /// The sum over all threads, all at work.
    pub all: f64,
}

/// Measures the machine with `threads` for about `total`; `progress` hears of the part that is done, from 0 to 1.
///
/// # Errors
/// Where the system refuses the threads or the working sets do not fit in memory.
pub fn measure(
    threads: usize,
    total: Duration,
    progress: &mut dyn FnMut(f64),
) -> Result<Machine, MachineError> {
    let threads = threads.max(1);
    let (processor, caches) = (processor::name(Path::new("/")), processor::caches(Path::new("/")));
    let widths = vectors::available();
    let places = places(&caches, threads);
    check_memory(&places, threads)?;
    let team = Team::new(threads).map_err(|e| MachineError::Threads { threads, reason: e.to_string() })?;
    // Each width and each place is measured once; so are the products, the write, the copy and the
    // barrier.
    let steps = widths.len() + places.len() + 4;
    let mut meter = Meter { team, budget: total / steps as u32, done: 0, steps, progress };
    let mut arithmetic = Vec::new();
    for vectors in &widths {
        let gflops = meter.rate(|_| (MultiplyAdds(*vectors), vectors.operations()))?;
        arithmetic.push(Arithmetic { instructions: vectors.name, bits: vectors.bits, gflops });
    }
    // There is always one width and one place.
    let (Some(widest), Some(memory)) = (widths.last(), places.last()) else {
        return Err(MachineError::Panicked("nothing to measure".into()));
    };
    let gflops = meter.rate(|_| (Products(*widest), widest.product_operations()))?;
    let products = Arithmetic { instructions: widest.name, bits: widest.bits, gflops };
    let mut reads = Vec::new();
    for place in &places {
        reads.push(meter.transfer(place, *widest, Direction::Read)?);
    }
    let write = meter.transfer(memory, *widest, Direction::Write)?;
    let copy = meter.transfer(memory, *widest, Direction::Copy)?;
    let barrier_microseconds = meter.barrier()? * 1e6;
    Ok(Machine { processor, threads, caches, arithmetic, products, reads, write, copy, barrier_microseconds })
}

/// Measures step by step.
struct Meter<'a> {
    team: Team,
    /// For one step.
    budget: Duration,
    done: usize,
    steps: usize,
    progress: &'a mut dyn FnMut(f64),
}

impl Meter<'_> {
    /// The speed of work that is made, with what one repetition of it counts, for a number of threads.
    fn rate<W: Work>(&mut self, work: impl Fn(usize) -> (W, f64)) -> Result<Rate, MachineError> {
        let threads = self.team.threads();
        let parts = if threads == 1 { 1 } else { 2 };
        let rate = |members: usize| {
            let (work, amount) = work(members);
            let seconds = best_seconds(&self.team, members, work, self.budget / parts);
            seconds.map_err(MachineError::Panicked).map(|s| amount * members as f64 / s * 1e-9)
        };
        let one = rate(1)?;
        let all = if threads == 1 { one } else { rate(threads)? };
        self.step();
        Ok(Rate { one, all })
    }

    fn transfer(
        &mut self,
        place: &Place,
        vectors: Vectors,
        direction: Direction,
    ) -> Result<Transfer, MachineError> {
        let bytes = |members: usize| place.bytes[usize::from(members > 1)];
        let gigabytes =
            self.rate(|members| (Pass { vectors, direction, bytes: bytes(members) }, bytes(members) as f64))?;
        let bytes = [bytes(1), bytes(self.team.threads())];
        Ok(Transfer { place: place.name.clone(), bytes, gigabytes })
    }

    fn barrier(&mut self) -> Result<f64, MachineError> {
        let seconds = barrier_seconds(&self.team, self.budget).map_err(MachineError::Panicked)?;
        self.step();
        Ok(seconds)
    }

    fn step(&mut self) {
        self.done += 1;
        (self.progress)(self.done as f64 / self.steps as f64);
    }
}

/// Multiply-adds on registers.
struct MultiplyAdds(Vectors);

impl Work for MultiplyAdds {
    type Memory = ();

    fn prepare(&self) {}

    fn repeat(&self, _: &mut (), times: u64) {
        self.0.multiply_adds(times);
    }
}

/// Products with factors in the first cache.
struct Products(Vectors);

impl Work for Products {
    type Memory = Vec<Line>;

    fn prepare(&self) -> Vec<Line> {
        vec![Line::ONES; FACTORS]
    }

    fn repeat(&self, memory: &mut Vec<Line>, times: u64) {
        self.0.products(memory, times);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
    /// From one half of the working set to the other.
    Copy,
}

/// Passes over a working set.
struct Pass {
    vectors: Vectors,
    direction: Direction,
    bytes: usize,
}

impl Work for Pass {
    type Memory = Vec<Line>;

    fn prepare(&self) -> Vec<Line> {
        vec![Line::ONES; self.bytes / Line::BYTES]
    }

    fn repeat(&self, memory: &mut Vec<Line>, times: u64) {
        match self.direction {
            Direction::Read => self.vectors.read(memory, times),
            Direction::Write => (0..times).for_each(|_| self.vectors.write(memory)),
            Direction::Copy => {
                let half = memory.len() / 2;
                let (to, from) = memory.split_at_mut(half);
                (0..times).for_each(|_| self.vectors.copy(to, from));
            }
        }
    }
}

/// Where a working set lies.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    name: String,
    /// For one thread alone, and for each of all threads.
    bytes: [usize; 2],
}

/// Working sets for each level of cache and for memory.
///
/// Half a cache leaves room for what else is there. Threads that share a cache share the working set; where their part
/// would fit in the level before, it is half as large again as that. What lies in memory is four times the last cache.
fn places(caches: &[Cache], threads: usize) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let whole = |bytes: usize| (bytes / GRAIN).max(1) * GRAIN;
    let mut inner = [0, 0];
    for cache in caches {
        let share = [cache.bytes, cache.bytes / threads.min(cache.shared_by).max(1)];
        let bytes = [0, 1].map(|i| whole((share[i] / 2).max(inner[i] + inner[i] / 2)));
        places.push(Place { name: format!("L{}", cache.level), bytes });
        inner = share;
    }
    let last = caches.last().map_or(0, |cache| cache.bytes);
    let total = if last == 0 { LARGEST_SET } else { (4 * last).min(LARGEST_SET.max(2 * last)) };
    let sharing = caches.last().map_or(threads, |cache| threads.min(cache.shared_by)).max(1);
    places.push(Place { name: "memory".into(), bytes: [whole(total), whole(total / sharing)] });
    places
}

/// Whether all threads' largest working sets fit in half of what the process may take.
fn check_memory(places: &[Place], threads: usize) -> Result<(), MachineError> {
    let largest = |which: usize| places.iter().map(|place| place.bytes[which]).max().unwrap_or(0);
    let needed = (largest(1) as u64).saturating_mul(threads as u64).max(largest(0) as u64);
    let limit = limits::default_memory_limit() / 2;
    if needed > limit {
        return Err(MachineError::Memory { threads, needed: needed >> 20, limit: limit >> 20 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(level: u32, kib: usize, shared_by: usize) -> Cache {
        Cache { level, bytes: kib << 10, shared_by }
    }

    #[test]
    fn working_sets_fit_in_their_level_and_not_in_the_one_before() {
        let caches = [cache(1, 48, 1), cache(2, 1024, 1), cache(3, 32 << 10, 16)];
        let places = places(&caches, 16);
        let kib = |bytes: usize| bytes >> 10;
        let sets: Vec<_> = places.iter().map(|p| (p.name.as_str(), p.bytes.map(kib))).collect();
        let last = ("memory", [128 << 10, 8 << 10]);
        assert_eq!(sets, [("L1", [24, 24]), ("L2", [512, 512]), ("L3", [16 << 10, 1536]), last]);
    }

    #[test]
    fn memory_is_measured_where_no_cache_is_known() {
        let places = places(&[], 4);
        assert_eq!(places, [Place { name: "memory".into(), bytes: [LARGEST_SET, LARGEST_SET / 4] }]);
    }

    #[test]
    fn every_limit_is_measured() {
        let mut parts = Vec::new();
        let machine = measure(2, Duration::from_millis(20), &mut |part| parts.push(part)).unwrap();
        assert!(machine.arithmetic.iter().all(|a| a.gflops.one > 0.0 && a.gflops.all > 0.0), "{machine:?}");
        let transfers = machine.reads.iter().chain([&machine.write, &machine.copy]);
        assert!(transfers.into_iter().all(|t| t.gigabytes.one > 0.0 && t.gigabytes.all > 0.0), "{machine:?}");
        assert!(machine.barrier_microseconds > 0.0, "{machine:?}");
        assert!(parts.is_sorted() && parts.last() == Some(&1.0), "{parts:?}");
    }

    #[test]
    fn more_threads_than_memory_allows_are_refused() {
        let places = [Place { name: "memory".into(), bytes: [1 << 20, 1 << 40] }];
        let error = check_memory(&places, 1 << 20).unwrap_err();
        assert!(error.to_string().contains("fewer threads"), "{error}");
    }
}
