//! The peak tier: LLVM's code, compiled at once or on a background thread.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use fuse_codegen::distinct::Distinct;
use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::host::schedule_target;
use fuse_codegen::llvm::{HostCompiler, LlvmError, LlvmHostModule, Optimization};
use fuse_codegen::schedule::ScheduleTarget;
use fuse_ir::Graph;
use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::panel_parameters;
use fuse_runtime::{HostCode, HostModule, Improvement, Maker, Urgency, improvement};

use crate::compile::{CompileError, schedule_all};
use crate::strips;

/// What LLVM takes for a function however small, on one thread.
pub const FUNCTION_TIME: Duration = Duration::from_millis(7);
/// What it takes on top for each value of a function of the fast tier, on one thread: the peak tier's has about twice as
/// many. An LSTM of 1,097 values in four functions takes some 80 ms.
const VALUE_TIME: Duration = Duration::from_micros(40);

/// Functions compiled one by one, so that making them can be given up between two; a module for each thread that did.
struct Modules {
    modules: Vec<LlvmHostModule>,
    /// By function: its module, and its position in that.
    places: Vec<(usize, usize)>,
}

// SAFETY: the functions were compiled from verified Kernel IR, which accesses its buffers as its kernel does.
unsafe impl HostModule for Modules {
    fn functions(&self) -> usize {
        self.places.len()
    }

    unsafe fn call(&self, index: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64) {
        let place = self.places.get(index).and_then(|(module, at)| Some((self.modules.get(*module)?, *at)));
        // SAFETY: the caller keeps the same promises as the module asks for.
        let called = place.map(|(m, at)| unsafe { m.call(at, buffers, symbols, begin, end) });
        if !matches!(called, Some(Ok(()))) {
            // The team turns a panic into an error of the run, and frees the members that wait for this one.
            panic!("functions and code do not belong together: number {index}, {called:?}");
        }
    }
}

/// Code of the peak tier for fused kernels, made on so many threads.
///
/// # Errors
/// Where scheduling or LLVM fails.
pub fn compile(graph: &Graph, kernels: &KernelGraph, threads: usize) -> Result<HostCode, CompileError> {
    let code = compile_while(graph, kernels, threads, || true)?;
    code.ok_or_else(|| CompileError::Internal { stage: "the peak tier", problem: "nothing".into() })
}

/// As [`compile`]; nothing once `wanted` no longer holds.
fn compile_while(
    graph: &Graph,
    kernels: &KernelGraph,
    threads: usize,
    wanted: impl Fn() -> bool + Sync,
) -> Result<Option<HostCode>, CompileError> {
    let start = Instant::now();
    let (kernels, functions) = schedule(graph, kernels)?;
    let Some(modules) = compile_functions(&functions, threads, wanted)? else { return Ok(None) };
    let (name, ms) = (&kernels.name, start.elapsed().as_secs_f64() * 1e3);
    let values = functions.iter().map(|f| f.types.len()).sum::<usize>();
    tracing::info!(graph = name, ms, functions = functions.len(), values, "the peak tier is compiled");
    Ok(Some(HostCode { kernels, functions, module: Arc::new(modules) }))
}

/// Compiles each function by itself, those that are the same but for names once, on this thread and others, the largest
/// first; nothing once `wanted` no longer holds.
fn compile_functions(
    functions: &[Function],
    threads: usize,
    wanted: impl Fn() -> bool + Sync,
) -> Result<Option<Modules>, LlvmError> {
    let Distinct { functions, places: kinds } = Distinct::of(functions);
    let mut order: Vec<usize> = (0..functions.len()).collect();
    order.sort_by_key(|i| Reverse(functions[*i].types.len()));
    let next = AtomicUsize::new(0);
    // What was compiled on a thread: the module, and the functions in it in order.
    let compile_some = || -> Result<(LlvmHostModule, Vec<usize>), LlvmError> {
        let mut compiler = HostCompiler::new(Optimization::Full)?;
        let mut made = Vec::new();
        while wanted() {
            let Some(i) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            compiler.add(std::slice::from_ref(functions[*i]))?;
            made.push(*i);
        }
        Ok((compiler.finish(), made))
    };
    let made = std::thread::scope(|scope| {
        let others = 1..threads.min(functions.len());
        // Where the system gives no thread, this one does the work.
        let spawn =
            |_| std::thread::Builder::new().name("fuse-llvm".into()).spawn_scoped(scope, compile_some);
        let others: Vec<_> = others.filter_map(|i| spawn(i).ok()).collect();
        let mut made = vec![compile_some()];
        let join = |other: ScopedJoinHandle<'_, _>| {
            other.join().unwrap_or_else(|bug| std::panic::resume_unwind(bug))
        };
        made.extend(others.into_iter().map(join));
        made
    });
    let (mut modules, mut places) = (Vec::new(), vec![None; functions.len()]);
    for made in made {
        let (module, functions) = made?;
        for (at, i) in functions.into_iter().enumerate() {
            places[i] = Some((modules.len(), at));
        }
        modules.push(module);
    }
    let places = kinds.into_iter().map(|kind| places[kind]).collect::<Option<Vec<_>>>();
    Ok(places.map(|places| Modules { modules, places }))
}

/// The kernels with parameters in panels of the machine's vectors, and their functions.
///
/// # Errors
/// Where scheduling fails.
pub fn schedule(graph: &Graph, kernels: &KernelGraph) -> Result<(KernelGraph, Vec<Function>), CompileError> {
    let mut kernels = kernels.clone();
    let target = schedule_target();
    strips::cut(&mut kernels, 1);
    // Panels are of f32, which most models are of; vectors of others are parts or multiples of them.
    panel_parameters(graph, &mut kernels, i64::from(target.vector_bits() / 32));
    fuse_ir::verify_kernels(&kernels)
        .map_err(|e| CompileError::Internal { stage: "panels", problem: e.to_string() })?;
    let functions = schedule_all(&kernels, target)?;
    Ok((kernels, functions))
}

/// How long [`compile`] takes for these kernels, roughly; forever where it fails.
pub fn expected_time(kernels: &KernelGraph, threads: usize) -> Duration {
    let Ok(functions) = schedule_all(kernels, ScheduleTarget::cpu()) else { return Duration::MAX };
    let making = time_for(&functions, threads);
    let values = functions.iter().map(|f| f.types.len()).sum::<usize>();
    tracing::debug!(graph = kernels.name, ?making, values, "the peak tier is expected");
    making
}

/// How long it takes where the fast tier has these functions.
fn time_for(functions: &[Function], threads: usize) -> Duration {
    let distinct = Distinct::of(functions).functions;
    let times = distinct.iter().map(|f| FUNCTION_TIME + VALUE_TIME * f.types.len() as u32);
    let (total, longest) =
        times.fold((Duration::ZERO, Duration::ZERO), |(t, l), time| (t + time, l.max(time)));
    longest.max(total / u32::try_from(threads).unwrap_or(u32::MAX).max(1))
}

/// Makes the code of the peak tier, at once or on a thread of its own; `None` where the system gives none, which is
/// logged.
pub fn improve(
    graph: Graph,
    kernels: Arc<KernelGraph>,
    threads: usize,
    urgency: Urgency,
) -> Option<Improvement> {
    let (improvement, maker) = improvement();
    // Before there is a thread that may come to compile only once the process exits.
    wait_before_exit();
    match urgency {
        Urgency::Now => {
            make(&graph, &kernels, threads, maker, Turn::at_once());
            Some(improvement)
        }
        Urgency::Background => {
            let name = kernels.name.clone();
            let thread = std::thread::Builder::new().name("fuse-peak".into());
            match thread.spawn(move || in_background(&graph, &kernels, threads, maker)) {
                Ok(_) => Some(improvement),
                Err(error) => {
                    tracing::warn!(graph = name, %error, "no thread for the peak tier");
                    None
                }
            }
        }
    }
}

fn in_background(graph: &Graph, kernels: &KernelGraph, threads: usize, maker: Maker) {
    // The work of the process comes first; on Linux this is the niceness of the calling thread alone, and of those
    // that it starts.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "the thread of the peak tier keeps its priority");
    }
    make(graph, kernels, threads, maker, Turn::take());
}

/// Compiles and delivers; without a turn nothing.
fn make(graph: &Graph, kernels: &KernelGraph, threads: usize, maker: Maker, turn: Option<Turn>) {
    let Some(_turn) = turn else { return };
    let name = graph.name();
    let wanted = || maker.is_wanted() && !EXITING.load(Ordering::SeqCst);
    let compile = || compile_while(graph, kernels, threads, wanted);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(compile)) {
        Ok(Ok(Some(code))) => maker.deliver(code),
        Ok(Ok(None)) => tracing::debug!(graph = name, "the peak tier is no longer wanted"),
        Ok(Err(error)) => tracing::warn!(graph = name, %error, "no peak tier; the fast one stays"),
        Err(_) => tracing::error!(graph = name, "a bug in the peak tier; the fast one stays"),
    }
}

/// Whether the process is about to exit.
static EXITING: AtomicBool = AtomicBool::new(false);
/// How many models are being compiled.
static COMPILING: Mutex<usize> = Mutex::new(0);
static CHANGED: Condvar = Condvar::new();

/// The right to compile, which keeps the process from exiting.
struct Turn;

impl Turn {
    /// Waits until nobody compiles, so that loading many models takes no more threads than one; `None` where the
    /// process exits first.
    fn take() -> Option<Turn> {
        let compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |compiling: &mut usize| *compiling > 0 && !EXITING.load(Ordering::SeqCst);
        Turn::begin(CHANGED.wait_while(compiling, busy).unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for nobody; `None` where the process exits.
    fn at_once() -> Option<Turn> {
        Turn::begin(COMPILING.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(mut compiling: MutexGuard<'_, usize>) -> Option<Turn> {
        if EXITING.load(Ordering::SeqCst) {
            return None;
        }
        *compiling += 1;
        Some(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *COMPILING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CHANGED.notify_all();
    }
}

/// Has the process wait for whoever compiles before it exits: LLVM's tables are destroyed then, under their feet. Handlers run
/// last first, and the ones that destroy were registered when LLVM was loaded. One that is registered while they run comes too
/// late.
fn wait_before_exit() {
    static ONCE: Once = Once::new();
    // SAFETY: `wait_at_exit` is a function without arguments that does not unwind.
    ONCE.call_once(|| _ = unsafe { atexit(wait_at_exit) });
}

unsafe extern "C" {
    /// Registers a function that `exit` calls.
    fn atexit(handler: extern "C" fn()) -> std::ffi::c_int;
}

/// Lets the functions that are being compiled be finished, and none begun.
extern "C" fn wait_at_exit() {
    EXITING.store(true, Ordering::SeqCst);
    CHANGED.notify_all();
    let compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(CHANGED.wait_while(compiling, |compiling| *compiling > 0));
}
