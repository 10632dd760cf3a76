//! The CPU: compiled functions called by a team of threads, fuse's own or a caller's.
//!
//! All members walk the whole program, loops over time included. The work items of a kernel are shared out in contiguous
//! parts, one for each member, who do each other's where one is late ([`Rounds`](crate::team::Rounds)). Nothing is
//! allocated or locked on the way, and every member swaps the halves of carried states in its own table.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fuse_codegen::cranelift::{CpuModule, panel_lanes};

use crate::device::DeviceError;
use crate::error::RunError;
use crate::improvement::{LEFT_OF_TIME, RunTime};
use crate::limits;
use crate::pool::{Pool, ThreadPool};
use crate::profile::{Notes, Profile};
use crate::program::{Launch, Program, Quantities, RunState, StepRunner, Total, walk};
use crate::team::{Job, Place, Signal, Team, Whose};
use crate::version::Instance;

/// Scalar operations that keep one thread busy for about as long as a few barriers take; a kernel gets at most
/// one member for each.
const OPERATIONS_PER_MEMBER: f64 = 8192.0;
/// Scalar operations that make up for waking a sleeping thread (tens of µs), for each thread.
const OPERATIONS_PER_WAKING: f64 = 65536.0;
/// Scalar operations that make a piece of work, some 50 µs: what others wait for where a member is late.
const OPERATIONS_PER_PIECE: f64 = 4e6;

/// Scalar operations that the fast tier does in a second on one thread, roughly: half to twice that many.
pub const FAST_OPERATIONS_PER_SECOND: f64 = 4.5e10;

/// The same of products with panels, for each lane of the machine's widest vectors.
const PRODUCT_OPERATIONS_PER_SECOND: f64 = 1.25e10;

/// Every other step of a loop goes through a kernel's items in so many pieces, the last one first: what the step before
/// read last is still in the cache then, as much of the weights as fits, while going round and round finds none of them.
/// So many pieces can others take over, too.
const BACKWARD_PIECES: usize = 16;

/// Machine code of compiled functions, by position.
///
/// # Safety
/// A call with [`HostModule::call`]'s promises kept must access only the elements of the buffers that the
/// function's kernel loads and stores, and must not keep the addresses.
pub unsafe trait HostModule: Send + Sync {
    /// The number of functions.
    fn functions(&self) -> usize;

    /// Does the work items `begin..end` of a function.
    ///
    /// # Safety
    /// `buffers` holds an address for each buffer parameter of the function, aligned to its element type and
    /// valid for as many elements as its type has under `symbols` (at least one), readable, and writable
    /// where the parameter is written; no other thread writes what this call reads or touches what it writes.
    /// `symbols` holds a value for each runtime integer of the function, and `0 ≤ begin ≤ end ≤ work`.
    unsafe fn call(&self, index: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64);
}

// SAFETY: the functions were compiled from verified Kernel IR, which accesses its buffers as its kernel does.
unsafe impl HostModule for CpuModule {
    fn functions(&self) -> usize {
        self.len()
    }

    unsafe fn call(&self, index: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64) {
        // SAFETY: the caller keeps the same promises as the module asks for.
        let called = unsafe { CpuModule::call(self, index, buffers, symbols, begin, end) };
        if let Err(error) = called {
            // The team turns a panic into an error of the run, and frees the members that wait for this one.
            panic!("functions and code do not belong together: {error}");
        }
    }
}

/// The host processor with threads to run on.
#[derive(Clone)]
pub struct CpuDevice {
    workers: Workers,
}

#[derive(Clone)]
enum Workers {
    /// Threads of fuse.
    Team(Arc<Team>),
    /// Threads of the caller.
    Pool(Arc<Pool>),
}

impl CpuDevice {
    /// A device with a team of `threads`; by default as many as the affinity mask and the control group allow.
    ///
    /// # Errors
    /// Where the system refuses the threads.
    pub fn new(threads: Option<usize>) -> Result<CpuDevice, DeviceError> {
        let threads = threads.unwrap_or_else(limits::default_threads).max(1);
        let team = Team::new(threads).map_err(|e| DeviceError::Threads { threads, reason: e.to_string() })?;
        Ok(CpuDevice { workers: Workers::Team(Arc::new(team)) })
    }

    /// A device that runs on a caller's threads, on so many at most.
    pub(crate) fn on_pool(pool: Box<dyn ThreadPool>, most: Option<usize>) -> CpuDevice {
        CpuDevice { workers: Workers::Pool(Arc::new(Pool::new(pool, most.unwrap_or(usize::MAX)))) }
    }

    /// The number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        match &self.workers {
            Workers::Team(team) => team.threads(),
            Workers::Pool(pool) => pool.threads(),
        }
    }

    /// Runs the program once. Blocks until no member touches the run's memory any more.
    pub(crate) fn run(&self, run: CpuRun) -> Result<(), RunError> {
        let members = run.instance.spread.widest;
        let run = Arc::new(run);
        let job: Arc<dyn Job> = run.clone();
        let result = match &self.workers {
            Workers::Team(team) => team.run(&job, members),
            Workers::Pool(pool) => pool.run(job.as_ref(), members),
        };
        result.map_err(RunError::Panicked)?;
        match run.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// How long a run of so much work takes with the fast tier's code on so many threads, roughly. Better code saves nothing of
/// the products that a routine does.
pub(crate) fn expected_time(total: Total, threads: usize) -> RunTime {
    let lanes = panel_lanes().map_or(4.0, f64::from);
    let in_products = total.in_products / (PRODUCT_OPERATIONS_PER_SECOND * lanes);
    let others = (total.operations - total.in_products) / FAST_OPERATIONS_PER_SECOND;
    let duration =
        |seconds: f64| Duration::try_from_secs_f64(seconds / threads.max(1) as f64).unwrap_or(Duration::MAX);
    RunTime { time: duration(in_products + others), saved: duration(others * (1.0 - LEFT_OF_TIME)) }
}

/// How the launches of a program are shared out among a team.
#[derive(Debug)]
pub(crate) struct Spread {
    launches: Vec<Shape>,
    widest: usize,
}

/// How a launch is shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    /// Parts, one for a member.
    parts: usize,
    /// Pieces of each part.
    pieces: usize,
}

impl Shape {
    /// The shape for so many work items and members.
    fn of(self, work: i64, members: usize) -> Shape {
        let work = usize::try_from(work).unwrap_or(usize::MAX);
        let parts = self.parts.min(members).min(work).max(1);
        Shape { parts, pieces: self.pieces.min(work / parts).max(1) }
    }
}

impl Spread {
    /// Spreads the kernels of a program over a team of `most` members.
    pub(crate) fn over(most: usize, quantities: &Quantities) -> Spread {
        let worth = |operations: Option<f64>, each: f64, most: usize| {
            operations.map_or(most, |o| (o / each) as usize).clamp(1, most)
        };
        let most = worth(quantities.total.map(|t| t.operations), OPERATIONS_PER_WAKING, most);
        let shape = |operations: &Option<f64>| {
            let parts = worth(*operations, OPERATIONS_PER_MEMBER, most);
            let of_a_part = operations.map(|o| o / parts as f64);
            Shape { parts, pieces: worth(of_a_part, OPERATIONS_PER_PIECE, BACKWARD_PIECES) }
        };
        let launches: Vec<Shape> = quantities.operations.iter().map(shape).collect();
        let widest = launches.iter().map(|l| l.parts).max().unwrap_or(1);
        Spread { launches, widest }
    }
}

/// One run. Whoever makes it keeps the memory behind the addresses alive and to itself until
/// [`CpuDevice::run`] returns.
pub(crate) struct CpuRun {
    pub program: Arc<Program>,
    pub instance: Arc<Instance>,
    pub module: Arc<dyn HostModule>,
    pub state: RunState,
    pub error: Mutex<Option<RunError>>,
    /// Where to note how long kernels take, if anybody asks.
    pub profile: Option<Arc<Profile>>,
}

impl Job for CpuRun {
    fn run(&self, place: &mut Place<'_>) {
        let mut state = self.state.clone();
        let notes = self.profile.as_ref().map(|_| Notes::new(place.member(), &self.program));
        let mut runner = Member {
            module: self.module.as_ref(),
            launches: &self.instance.spread.launches,
            place,
            buffers: Vec::with_capacity(self.state.addresses.len()),
            symbols: Vec::with_capacity(self.state.symbols.len()),
            left: false,
            notes,
        };
        let result = walk(&self.program, &self.instance.quantities, &mut state, &mut runner);
        let Member { place, left, notes, .. } = runner;
        // Every member meets the same error; leaving because the job is over is not one.
        if let (Err(error), false) = (result, left) {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        place.end();
        if let (Some(profile), Some(notes)) = (&self.profile, notes) {
            profile.add(notes);
        }
    }

    /// Everybody's notes are to be there.
    fn ends_with_members(&self) -> bool {
        self.profile.is_some()
    }
}

/// One member's part of a run.
struct Member<'a, 'r> {
    module: &'a dyn HostModule,
    /// How each launch is shared out.
    launches: &'a [Shape],
    place: &'a mut Place<'r>,
    buffers: Vec<*mut u8>,
    symbols: Vec<i64>,
    /// Whether the member left because the job is over.
    left: bool,
    notes: Option<Notes>,
}

impl StepRunner for Member<'_, '_> {
    fn launch(&mut self, at: usize, launch: &Launch, work: i64, state: &RunState) -> Result<(), RunError> {
        self.buffers.clear();
        let address = |b: &usize| std::ptr::with_exposed_provenance_mut(state.addresses[*b] as usize);
        self.buffers.extend(launch.buffers.iter().map(address));
        self.symbols.clear();
        self.symbols.extend(launch.symbols.iter().map(|s| state.symbols[*s]));
        let call = Call {
            module: self.module,
            function: launch.function,
            buffers: &self.buffers,
            symbols: &self.symbols,
            backward: state.odd_step,
        };
        let since = self.notes.as_ref().map(|_| Instant::now());
        let mut running = Duration::ZERO;
        let mut run = |items: Range<i64>, calls: usize| {
            let since = since.map(|_| Instant::now());
            call.run(items, calls);
            running += since.map(|s| s.elapsed()).unwrap_or_default();
        };
        let Shape { parts, pieces } = self.launches[at].of(work, self.place.members());
        let over = if parts == 1 {
            let whose = self.place.single();
            if whose == Whose::Mine {
                run(0..work, BACKWARD_PIECES);
            }
            whose == Whose::Over
        } else {
            let signal = self.place.share(parts, pieces, |index, piece| {
                let whole = part(&(0..work), index, parts);
                let piece = if state.odd_step { pieces - 1 - piece } else { piece };
                run(part(&whole, piece, pieces), BACKWARD_PIECES / pieces);
            });
            signal == Signal::Over
        };
        if let (Some(notes), Some(since)) = (&mut self.notes, since) {
            notes.launched(at, running, since.elapsed() - running);
        }
        if over {
            self.left = true;
            return Err(RunError::Panicked("another member".into()));
        }
        Ok(())
    }
}

/// A compiled function with its arguments.
struct Call<'a> {
    module: &'a dyn HostModule,
    function: usize,
    buffers: &'a [*mut u8],
    symbols: &'a [i64],
    /// Whether the last items come first.
    backward: bool,
}

impl Call<'_> {
    /// Does some work items; in so many calls, the last one first, if it is to go backward.
    fn run(&self, items: Range<i64>, calls: usize) {
        let most = usize::try_from(items.end - items.start).unwrap_or(usize::MAX);
        let calls = if self.backward { calls.min(most).max(1) } else { 1 };
        for index in (0..calls).rev() {
            let Range { start, end } = part(&items, index, calls);
            // SAFETY: `Program::new` checked the function's parameters against the kernel graph's buffers, so there
            // is one address and one value for each. The addresses are those of the memory plan, of bound
            // parameters, of inputs whose shapes were checked, and of outputs allocated for these dimensions; each
            // holds at least one element and is aligned (`Executable` sees to both). Kernels of a verified graph
            // access elements in bounds, work items are independent, each piece of them is taken by one member, and
            // every earlier launch that another member did a piece of was over before this one began.
            unsafe {
                self.module.call(self.function, self.buffers, self.symbols, start, end);
            }
        }
    }
}

/// Part `index` of `parts` of some work items: even, contiguous, together all of them.
fn part(items: &Range<i64>, index: usize, parts: usize) -> Range<i64> {
    // Between 0 and the number of items, as `index` is at most `parts`.
    let before = |index: usize| {
        (i128::from(items.end - items.start) * index as i128 / parts as i128) as i64 + items.start
    };
    before(index)..before(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(each: &[f64], launches: f64) -> Spread {
        let operations = each.iter().sum::<f64>() * launches / each.len() as f64;
        let quantities = Quantities {
            work: vec![],
            trips: vec![],
            operations: each.iter().map(|o| Some(*o)).collect(),
            total: Some(Total { operations, in_products: 0.0, launches }),
            symbols: vec![],
        };
        Spread::over(4, &quantities)
    }

    #[test]
    fn small_work_stays_on_one_thread_and_large_work_is_cut_into_pieces() {
        assert_eq!(spread(&[1e4], 1.0).widest, 1, "waking the team takes longer");
        assert_eq!(spread(&[100.0], 1e6).widest, 1, "each kernel is smaller than a round");
        let mixed = spread(&[2e4, 1e6, 1e8], 1000.0);
        let shapes: Vec<[usize; 2]> = mixed.launches.iter().map(|l| [l.parts, l.pieces]).collect();
        assert_eq!((shapes.as_slice(), mixed.widest), (&[[2, 1], [4, 1], [4, 6]][..], 4));
        assert_eq!(spread(&[1e12], 1.0).launches[0].pieces, BACKWARD_PIECES);
        let few = mixed.launches[2].of(9, 4);
        assert_eq!((few.parts, few.pieces), (4, 2), "no piece is empty");
        let fewer = mixed.launches[2].of(3, 2);
        assert_eq!((fewer.parts, fewer.pieces), (2, 1));
    }

    #[test]
    fn parts_are_contiguous_even_and_complete() {
        for (work, parts) in [(1, 1), (7, 3), (8, 2), (i64::MAX, 5)] {
            let all: Vec<Range<i64>> = (0..parts).map(|i| part(&(0..work), i, parts)).collect();
            assert_eq!((all[0].start, all[parts - 1].end), (0, work));
            assert!(all.windows(2).all(|w| w[0].end == w[1].start));
            let sizes = || all.iter().map(|r| r.end - r.start);
            assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1, "{all:?}");
        }
        let inner = part(&(10..17), 1, 2);
        assert_eq!((inner.start, inner.end), (13, 17));
    }
}
