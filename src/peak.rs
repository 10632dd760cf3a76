//! The peak tier: LLVM's code, compiled at once or on a background thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::time::Instant;

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::host::schedule_target;
use fuse_codegen::llvm::{LlvmHostModule, Optimization};
use fuse_ir::Graph;
use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::{StripPolicy, panel_parameters, strip_loops};
use fuse_runtime::machine::largest_cache_bytes;
use fuse_runtime::{HostCode, HostModule, Improvement, Maker, improvement};

use crate::compile::{CompileError, schedule_all};

/// Rows of a strip of a loop.
const STRIP_ROWS: i64 = 256;
/// The largest cache, where the system does not tell.
const USUAL_CACHE_BYTES: usize = 16 << 20;

/// Functions compiled one by one, so that making them can be given up between two.
struct Modules(Vec<LlvmHostModule>);

// SAFETY: the functions were compiled from verified Kernel IR, which accesses its buffers as its kernel does.
unsafe impl HostModule for Modules {
    fn functions(&self) -> usize {
        self.0.len()
    }

    unsafe fn call(&self, index: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64) {
        // SAFETY: the caller keeps the same promises as the module, which has one function, asks for.
        let called = self.0.get(index).map(|m| unsafe { m.call(0, buffers, symbols, begin, end) });
        if !matches!(called, Some(Ok(()))) {
            // The team turns a panic into an error of the run, and frees the members that wait for this one.
            panic!("functions and code do not belong together: number {index}, {called:?}");
        }
    }
}

/// Code of the peak tier for fused kernels.
///
/// # Errors
/// Where scheduling or LLVM fails.
pub fn compile(graph: &Graph, kernels: &KernelGraph) -> Result<HostCode, CompileError> {
    let code = compile_while(graph, kernels, || true)?;
    code.ok_or_else(|| CompileError::Internal { stage: "the peak tier", problem: "nothing".into() })
}

/// As [`compile`]; nothing once `wanted` no longer holds.
fn compile_while(
    graph: &Graph,
    kernels: &KernelGraph,
    wanted: impl Fn() -> bool,
) -> Result<Option<HostCode>, CompileError> {
    let start = Instant::now();
    let (kernels, functions) = schedule(graph, kernels)?;
    let mut modules = Vec::with_capacity(functions.len());
    for function in &functions {
        if !wanted() {
            return Ok(None);
        }
        modules.push(LlvmHostModule::compile(std::slice::from_ref(function), Optimization::Aggressive)?);
    }
    let (name, ms) = (&kernels.name, start.elapsed().as_secs_f64() * 1e3);
    tracing::info!(graph = name, ms, functions = functions.len(), "the peak tier is compiled");
    Ok(Some(HostCode { kernels, functions, module: Arc::new(Modules(modules)) }))
}

/// The kernels with parameters in panels of the machine's vectors, and their functions.
///
/// # Errors
/// Where scheduling fails.
pub fn schedule(graph: &Graph, kernels: &KernelGraph) -> Result<(KernelGraph, Vec<Function>), CompileError> {
    let mut kernels = kernels.clone();
    let target = schedule_target();
    strip_loops(&mut kernels, strip_policy());
    // Panels are of f32, which most models are of; vectors of others are parts or multiples of them.
    panel_parameters(graph, &mut kernels, i64::from(target.vector_bits() / 32));
    fuse_ir::verify_kernels(&kernels)
        .map_err(|e| CompileError::Internal { stage: "panels", problem: e.to_string() })?;
    let functions = schedule_all(&kernels, target)?;
    Ok((kernels, functions))
}

/// Strips for this machine: weights may take three quarters of the largest cache.
fn strip_policy() -> StripPolicy {
    let cache = largest_cache_bytes().unwrap_or(USUAL_CACHE_BYTES);
    StripPolicy { rows: STRIP_ROWS, most_weight_bytes: i64::try_from(cache / 4 * 3).unwrap_or(i64::MAX) }
}

/// Compiles on a thread of its own; `None` where the system gives none, which is logged.
pub fn compile_in_background(graph: Graph, kernels: KernelGraph) -> Option<Improvement> {
    let (improvement, maker) = improvement();
    let name = kernels.name.clone();
    let thread = std::thread::Builder::new().name("fuse-peak".into());
    match thread.spawn(move || in_background(&graph, &kernels, maker)) {
        Ok(_) => Some(improvement),
        Err(error) => {
            tracing::warn!(graph = name, %error, "no thread for the peak tier");
            None
        }
    }
}

fn in_background(graph: &Graph, kernels: &KernelGraph, maker: Maker) {
    // The work of the process comes first; on Linux this is the niceness of the calling thread alone.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "the thread of the peak tier keeps its priority");
    }
    let Some(_turn) = Turn::take() else { return };
    let name = graph.name();
    let wanted = || maker.is_wanted() && !EXITING.load(Ordering::SeqCst);
    let made =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compile_while(graph, kernels, wanted)));
    match made {
        Ok(Ok(Some(code))) => maker.deliver(code),
        Ok(Ok(None)) => tracing::debug!(graph = name, "the peak tier is no longer wanted"),
        Ok(Err(error)) => tracing::warn!(graph = name, %error, "no peak tier; the fast one stays"),
        Err(_) => tracing::error!(graph = name, "a bug in the peak tier; the fast one stays"),
    }
}

/// Whether the process is about to exit.
static EXITING: AtomicBool = AtomicBool::new(false);
/// Whether a thread is compiling: one at a time, so that loading many models takes one core.
static COMPILING: Mutex<bool> = Mutex::new(false);
static FREE: Condvar = Condvar::new();

/// The right to compile in the background.
struct Turn;

impl Turn {
    /// Waits for other threads; `None` where the process exits first.
    fn take() -> Option<Turn> {
        static ONCE: Once = Once::new();
        // LLVM's tables are destroyed at exit, under the feet of whoever compiles. Handlers run last first, and
        // the ones that destroy were registered when LLVM was loaded.
        // SAFETY: `wait_at_exit` is a function without arguments that does not unwind.
        ONCE.call_once(|| _ = unsafe { atexit(wait_at_exit) });
        let compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |compiling: &mut bool| *compiling && !EXITING.load(Ordering::SeqCst);
        let mut compiling = FREE.wait_while(compiling, free).unwrap_or_else(PoisonError::into_inner);
        if EXITING.load(Ordering::SeqCst) {
            return None;
        }
        *compiling = true;
        Some(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *COMPILING.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREE.notify_all();
    }
}

unsafe extern "C" {
    /// Registers a function that `exit` calls.
    fn atexit(handler: extern "C" fn()) -> std::ffi::c_int;
}

/// Lets the function that is being compiled be finished, and none begun.
extern "C" fn wait_at_exit() {
    EXITING.store(true, Ordering::SeqCst);
    FREE.notify_all();
    let compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(FREE.wait_while(compiling, |compiling| *compiling));
}
