//! The CPU: compiled functions called by a team of threads, fuse's own or a caller's.
//!
//! All members walk the whole program, loops over time included, in lockstep: each does its contiguous part of
//! every kernel's work items, and they meet at a barrier between kernels. Nothing is allocated or locked on
//! the way, and every member swaps the halves of carried states in its own table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuse_codegen::cranelift::{CpuModule, panel_lanes};

use crate::device::DeviceError;
use crate::error::RunError;
use crate::improvement::{LEFT_OF_TIME, RunTime};
use crate::limits;
use crate::pool::{Pool, ThreadPool};
use crate::profile::{Notes, Profile};
use crate::program::{Launch, Program, Quantities, RunState, StepRunner, Total, walk};
use crate::team::{Barrier, Job, JobOptions, Signal, Team};
use crate::version::Instance;

/// Scalar operations that keep one thread busy for about as long as a few barriers take; a kernel gets at most
/// one member for each.
const OPERATIONS_PER_MEMBER: f64 = 8192.0;
/// Scalar operations that make up for waking a sleeping thread (tens of µs), for each thread.
const OPERATIONS_PER_WAKING: f64 = 65536.0;
/// Members that do fewer operations than this between barriers on average (some 100 µs) are better off as one
/// when waiting blows up.
const FINE_GRAINED_OPERATIONS: f64 = 2e6;

/// Scalar operations that the fast tier does in a second on one thread, roughly: half to twice that many.
pub const FAST_OPERATIONS_PER_SECOND: f64 = 4.5e10;

/// The same of products with panels, for each lane of the machine's widest vectors.
const PRODUCT_OPERATIONS_PER_SECOND: f64 = 1.25e10;

/// Every other step of a loop goes through a kernel's items in so many pieces, the last one first: what the step before
/// read last is still in the cache then, as much of the weights as fits, while going round and round finds none of them.
const BACKWARD_PIECES: i64 = 16;

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
        let Spread { widest, fine_grained, .. } = run.instance.spread;
        let run = Arc::new(run);
        let job: Arc<dyn Job> = run.clone();
        let options = JobOptions { members: widest, fine_grained };
        let result = match &self.workers {
            Workers::Team(team) => team.run(&job, options),
            Workers::Pool(pool) => pool.run(job.as_ref(), options),
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

/// The members of the team that take part in each launch.
#[derive(Debug)]
pub(crate) struct Spread {
    members: Vec<usize>,
    widest: usize,
    fine_grained: bool,
}

impl Spread {
    /// Spreads the kernels of a program over a team of `most` members.
    pub(crate) fn over(most: usize, quantities: &Quantities) -> Spread {
        let worth = |operations: Option<f64>, each: f64, most: usize| {
            operations.map_or(most, |o| (o / each) as usize).clamp(1, most)
        };
        let total = quantities.total;
        let most = worth(total.map(|t| t.operations), OPERATIONS_PER_WAKING, most);
        let members = |operations: &Option<f64>| worth(*operations, OPERATIONS_PER_MEMBER, most);
        let members: Vec<usize> = quantities.operations.iter().map(members).collect();
        let widest = members.iter().copied().max().unwrap_or(1);
        // The mean, since it is the many small kernels of a loop that suffer, whatever stands before it.
        let between_barriers = |t: Total| t.operations / t.launches.max(1.0) / widest as f64;
        let fine_grained = total.is_some_and(|t| between_barriers(t) < FINE_GRAINED_OPERATIONS);
        Spread { members, widest, fine_grained }
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
    fn run(&self, member: usize, barrier: &Barrier) {
        let mut state = self.state.clone();
        let mut runner = Member {
            module: self.module.as_ref(),
            members: &self.instance.spread.members,
            member,
            active: barrier.members(),
            barrier,
            since_barrier: Since::Nothing,
            buffers: Vec::with_capacity(self.state.addresses.len()),
            symbols: Vec::with_capacity(self.state.symbols.len()),
            left: false,
            notes: self.profile.as_ref().map(|_| Notes::new(member, &self.program)),
        };
        let result = walk(&self.program, &self.instance.quantities, &mut state, &mut runner);
        // Every member meets the same error; leaving because of a signal is not one.
        if let (Err(error), false) = (result, runner.left) {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        if let (Some(profile), Some(notes)) = (&self.profile, runner.notes) {
            profile.add(notes);
        }
    }
}

/// What ran since the last barrier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Since {
    Nothing,
    /// Kernels on member 0 alone.
    Single,
    /// A kernel on several members.
    Several,
}

/// One member's part of a run.
struct Member<'a> {
    module: &'a dyn HostModule,
    /// The members of each launch.
    members: &'a [usize],
    member: usize,
    /// The members of this job.
    active: usize,
    barrier: &'a Barrier,
    since_barrier: Since,
    buffers: Vec<*mut u8>,
    symbols: Vec<i64>,
    /// Whether the member left on a signal.
    left: bool,
    notes: Option<Notes>,
}

impl Member<'_> {
    fn note(&mut self, what: impl FnOnce(&mut Notes)) {
        if let Some(notes) = &mut self.notes {
            what(notes);
        }
    }

    /// Meets the others; whether this member stays.
    fn meet(&mut self) -> bool {
        self.since_barrier = Since::Nothing;
        match self.barrier.wait() {
            Signal::Go => true,
            Signal::Alone if self.member == 0 => {
                self.active = 1;
                true
            }
            Signal::Alone | Signal::Abandoned => false,
        }
    }

    /// The members for a launch, and whether all must meet before it.
    fn share(&self, at: usize, work: i64) -> (usize, bool) {
        let work = usize::try_from(work).unwrap_or(usize::MAX);
        let members = self.members[at].min(self.active).min(work);
        let meet = match self.since_barrier {
            Since::Nothing => false,
            Since::Single => members > 1,
            Since::Several => true,
        };
        (members, meet && self.active > 1)
    }
}

impl StepRunner for Member<'_> {
    fn launch(&mut self, at: usize, launch: &Launch, work: i64, state: &RunState) -> Result<(), RunError> {
        let (mut members, meet) = self.share(at, work);
        if meet {
            self.note(Notes::start);
            let stays = self.meet();
            self.note(|notes| notes.waited(at));
            if !stays {
                self.left = true;
                return Err(RunError::Panicked("another member".into()));
            }
            members = members.min(self.active);
        }
        self.since_barrier = match (self.since_barrier, members) {
            (Since::Nothing | Since::Single, 1) => Since::Single,
            _ => Since::Several,
        };
        if self.member >= members {
            return Ok(());
        }
        self.buffers.clear();
        let address = |b: &usize| std::ptr::with_exposed_provenance_mut(state.addresses[*b] as usize);
        self.buffers.extend(launch.buffers.iter().map(address));
        self.symbols.clear();
        self.symbols.extend(launch.symbols.iter().map(|s| state.symbols[*s]));
        let (begin, end) = (part(work, self.member, members), part(work, self.member + 1, members));
        self.note(Notes::start);
        let pieces = if state.odd_step { BACKWARD_PIECES.min(end - begin) } else { 1 };
        for piece in (0..pieces).rev() {
            let at = |piece| begin + (end - begin) * piece / pieces;
            // SAFETY: `Program::new` checked the function's parameters against the kernel graph's buffers, so there
            // is one address and one value for each. The addresses are those of the memory plan, of bound
            // parameters, of inputs whose shapes were checked, and of outputs allocated for these dimensions; each
            // holds at least one element and is aligned (`Executable` sees to both). Kernels of a verified graph
            // access elements in bounds, work items are independent, members have disjoint ranges, and a barrier
            // stands between this launch and any earlier one that ran on another member.
            unsafe {
                self.module.call(launch.function, &self.buffers, &self.symbols, at(piece), at(piece + 1));
            }
        }
        self.note(|notes| notes.ran(at));
        Ok(())
    }
}

/// Where part `index` of `parts` begins: even contiguous parts of `work`.
fn part(work: i64, index: usize, parts: usize) -> i64 {
    let product = i128::from(work) * index as i128 / parts as i128;
    // Between 0 and `work`, as `index` is at most `parts`.
    product as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_work_stays_on_one_thread_and_a_loop_of_small_kernels_is_fine_grained() {
        let spread = |each: &[f64], launches: f64| {
            let operations = each.iter().sum::<f64>() * launches / each.len() as f64;
            Spread::over(
                4,
                &Quantities {
                    work: vec![],
                    trips: vec![],
                    operations: each.iter().map(|o| Some(*o)).collect(),
                    total: Some(Total { operations, in_products: 0.0, launches }),
                    symbols: vec![],
                },
            )
        };
        assert_eq!(spread(&[1e4], 1.0).widest, 1, "waking the team takes longer");
        assert_eq!(spread(&[100.0], 1e6).widest, 1, "each kernel is smaller than a barrier");
        let mixed = spread(&[2e4, 1e6], 1000.0);
        assert_eq!((mixed.members.as_slice(), mixed.widest, mixed.fine_grained), (&[2, 4][..], 4, true));
        assert!(!spread(&[1e8], 1000.0).fine_grained);
    }

    #[test]
    fn parts_are_contiguous_even_and_complete() {
        for (work, parts) in [(1, 1), (7, 3), (8, 2), (i64::MAX, 5)] {
            let bounds: Vec<i64> = (0..=parts).map(|i| part(work, i, parts)).collect();
            assert_eq!((bounds[0], bounds[parts]), (0, work));
            let sizes: Vec<i64> = bounds.windows(2).map(|w| w[1] - w[0]).collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1, "{sizes:?}");
        }
    }
}
