//! Compiling functions and calling them.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cranelift::codegen::ir::{self, AbiParam, InstBuilder, MemFlagsData, UserFuncName, types};
use cranelift::codegen::isa::TargetIsa;
use cranelift::codegen::settings::{self, Configurable};
use cranelift::codegen::{CodegenError as CraneliftError, Context};
use cranelift::frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift::jit::{JITBuilder, JITModule};
use cranelift::module::{FuncId, Linkage, Module, ModuleError, ModuleReloc, default_libcall_names};

use super::builder::{Arguments, CraneliftBuilder};
use super::{libcalls, products};
use crate::distinct::Distinct;
use crate::kernel_ir::{Function, LaneType, Mapping};
use crate::scalar::emit;
use crate::verify::{VerifyError, verify};

/// The machine code of one function: buffer addresses in the order of [`Function::buffers`], the values of
/// [`Function::symbols`], and the range of work items.
pub type KernelFn = unsafe extern "C" fn(buffers: *const *mut u8, symbols: *const i64, begin: i64, end: i64);

/// Why functions were not compiled, or a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// This machine is not one that Cranelift compiles for.
    #[error("no native code for this machine: {0}")]
    Host(String),
    /// The function is not scheduled for a CPU with 128-bit vectors.
    #[error("`{function}` cannot run on the CPU's fast tier: {what}")]
    Unsupported {
        /// The function.
        function: String,
        /// What it needs.
        what: String,
    },
    /// The function is not valid Kernel IR.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// Cranelift failed, which is a bug in the translation or a function beyond its limits.
    #[error("Cranelift could not compile `{function}`: {message}")]
    Cranelift {
        /// The function.
        function: String,
        /// What it said.
        message: String,
    },
    /// Memory for code could not be had.
    #[error("no memory for machine code: {0}")]
    Memory(String),
    /// A call names a function that the module does not have.
    #[error("the module has {functions} functions, not number {index}")]
    NoFunction {
        /// What was called.
        index: usize,
        /// How many there are.
        functions: usize,
    },
    /// A call passes the wrong number of buffers or symbols.
    #[error("`{function}` takes {expected} {what}, got {given}")]
    Arguments {
        /// The function.
        function: String,
        /// `buffers` or `symbols`.
        what: &'static str,
        /// What it takes.
        expected: usize,
        /// What was passed.
        given: usize,
    },
}

struct Entry {
    name: String,
    buffers: usize,
    symbols: usize,
    code: KernelFn,
}

/// Compiled functions; the code lives as long as the module.
pub struct CpuModule {
    entries: Vec<Entry>,
    /// Owns the code; taken only when the module is dropped.
    memory: Mutex<Option<JITModule>>,
}

impl std::fmt::Debug for CpuModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|e| &e.name)).finish()
    }
}

impl Drop for CpuModule {
    fn drop(&mut self) {
        let module = match self.memory.get_mut() {
            Ok(module) => module.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(module) = module {
            // SAFETY: entry points are reached through `&self` only (`entry` says how long they are valid), so
            // none runs or can be called after this.
            unsafe { module.free_memory() };
        }
    }
}

impl CpuModule {
    /// The number of functions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the module has no functions.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The position of the function of that name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| e.name == name)
    }

    /// The machine code of a function, for callers that check the arguments once and call often. The same
    /// conditions hold as for [`CpuModule::call`], and the module must outlive every call.
    pub fn entry(&self, index: usize) -> Option<KernelFn> {
        self.entries.get(index).map(|e| e.code)
    }

    /// Runs the work items `begin..end` of function number `index`; with `begin >= end` nothing.
    ///
    /// # Errors
    /// [`CodegenError::NoFunction`] and [`CodegenError::Arguments`]; nothing ran then.
    ///
    /// # Safety
    /// * `buffers[i]` is valid for reads (or writes) of all elements of `Function::buffers[i]` at the extents
    ///   that `symbols` gives, and for at least one element in any case; aligned to the element type.
    /// * A buffer that is written overlaps no other, and nothing else accesses it during the call, except that
    ///   calls for disjoint ranges of the same launch may run at the same time.
    /// * `symbols` are the values of `Function::symbols`, in that order, and
    ///   `0 <= begin`, `end <= Function::work` at those values.
    pub unsafe fn call(
        &self,
        index: usize,
        buffers: &[*mut u8],
        symbols: &[i64],
        begin: i64,
        end: i64,
    ) -> Result<(), CodegenError> {
        let entry = self
            .entries
            .get(index)
            .ok_or(CodegenError::NoFunction { index, functions: self.entries.len() })?;
        for (what, expected, given) in
            [("buffers", entry.buffers, buffers.len()), ("symbols", entry.symbols, symbols.len())]
        {
            if expected != given {
                return Err(CodegenError::Arguments { function: entry.name.clone(), what, expected, given });
            }
        }
        // SAFETY: the pointer is code that Cranelift compiled from verified Kernel IR with this signature and
        // that lives as long as `self`; the rest is the caller's promise.
        unsafe { (entry.code)(buffers.as_ptr(), symbols.as_ptr(), begin, end) };
        Ok(())
    }
}

/// Compiles functions for this machine, those that are the same but for names once. Entry points have the functions'
/// order and names.
///
/// # Errors
/// Functions that are not valid, not mapped to ranges, or have vectors of other than 128 bits; hosts that
/// Cranelift does not know.
pub fn compile_cpu(functions: &[Function]) -> Result<CpuModule, CodegenError> {
    compile_cpu_with(functions, &vec![Effort::Full; functions.len()], 1)
}

/// What compiling a function may take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effort {
    /// A third of the time, for code that takes up to a third longer: registers are allocated in one pass.
    Quick,
    /// What makes the code fast.
    Full,
}

/// As [`compile_cpu`], with an effort for each function, on up to so many threads.
///
/// # Errors
/// As [`compile_cpu`].
pub fn compile_cpu_with(
    functions: &[Function],
    efforts: &[Effort],
    threads: usize,
) -> Result<CpuModule, CodegenError> {
    let distinct = Distinct::of(functions);
    let mut most = vec![Effort::Quick; distinct.functions.len()];
    for (place, effort) in distinct.places.iter().zip(efforts) {
        most[*place] = most[*place].max(*effort);
    }
    let isa = host_isa(Effort::Full)?;
    let mut builder = JITBuilder::with_isa(isa.clone(), default_libcall_names());
    libcalls::register(&mut builder);
    if let Some((_, routine)) = products::routine() {
        builder.symbol(PRODUCT, routine as *const u8);
    }
    let mut module = JITModule::new(builder);
    // The first function of the module, as builders expect, whether any calls it or none.
    let mut routine = module.make_signature();
    routine.params.push(AbiParam::new(types::I64));
    let imported = module.declare_function(PRODUCT, Linkage::Import, &routine);
    imported.map_err(|e| CodegenError::Cranelift { function: PRODUCT.into(), message: format!("{e:?}") })?;
    let mut works = Vec::with_capacity(distinct.functions.len());
    for (function, effort) in distinct.functions.into_iter().zip(most) {
        let id =
            module.declare_anonymous_function(&signature(&*isa)).map_err(|e| module_error(function, e))?;
        works.push(Work { function, effort, id });
    }
    let compiled = compile_each(&works, &[host_isa(Effort::Quick)?, isa], threads);
    for (Work { function, id, .. }, code) in works.iter().zip(compiled) {
        let MachineCode { alignment, bytes, relocations } = code?;
        let defined = module.define_function_bytes(*id, alignment, &bytes, &relocations);
        defined.map_err(|e| module_error(function, e))?;
    }
    module.finalize_definitions().map_err(|e| CodegenError::Memory(e.to_string()))?;
    let entry = |(function, place): (&Function, usize)| Entry {
        name: function.name.clone(),
        buffers: function.buffers.len(),
        symbols: function.symbols.len(),
        // SAFETY: the function was defined with `signature`, which is that of `KernelFn`, and its code is final.
        code: unsafe {
            std::mem::transmute::<*const u8, KernelFn>(module.get_finalized_function(works[place].id))
        },
    };
    let entries = functions.iter().zip(distinct.places).map(entry).collect();
    Ok(CpuModule { entries, memory: Mutex::new(Some(module)) })
}

/// A function to compile, and its place in the module.
struct Work<'f> {
    function: &'f Function,
    effort: Effort,
    id: FuncId,
}

/// What a function was compiled to.
struct MachineCode {
    alignment: u64,
    bytes: Vec<u8>,
    relocations: Vec<ModuleReloc>,
}

/// The instruction set as each effort compiles for it.
type HostIsas = [Arc<dyn TargetIsa>; 2];

/// Compiles each function, on this thread and others, the largest first.
fn compile_each(
    works: &[Work<'_>],
    isas: &HostIsas,
    threads: usize,
) -> Vec<Result<MachineCode, CodegenError>> {
    let values = |work: &Work<'_>| work.function.types.len();
    let mut order: Vec<usize> = (0..works.len()).collect();
    order.sort_by_key(|i| Reverse(values(&works[*i])));
    let next = AtomicUsize::new(0);
    let compile_some = || {
        let (mut made, mut scratch) = (Vec::new(), FunctionBuilderContext::new());
        while let Some(i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            made.push((*i, compile(&works[*i], isas, &mut scratch)));
        }
        made
    };
    let threads = threads.min(works.len()).min(works.iter().map(values).sum::<usize>() / VALUES_OF_A_THREAD);
    let mut made = std::thread::scope(|scope| {
        // Where the system gives no thread, this one does the work.
        let spawn = |_| {
            std::thread::Builder::new().name("fuse-cranelift".into()).spawn_scoped(scope, compile_some).ok()
        };
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut made = compile_some();
        for other in others {
            made.extend(other.join().unwrap_or_else(|bug| std::panic::resume_unwind(bug)));
        }
        made
    });
    made.sort_by_key(|(i, _)| *i);
    made.into_iter().map(|(_, compiled)| compiled).collect()
}

/// The machine code of a function. What does not compile in one pass is compiled with full effort.
fn compile(
    work: &Work<'_>,
    [quick, full]: &HostIsas,
    scratch: &mut FunctionBuilderContext,
) -> Result<MachineCode, CodegenError> {
    if work.effort == Effort::Quick
        && let Ok(code) = compile_for(work, &**quick, scratch)
    {
        return Ok(code);
    }
    compile_for(work, &**full, scratch)
}

fn compile_for(
    Work { function, id, .. }: &Work<'_>,
    isa: &dyn TargetIsa,
    scratch: &mut FunctionBuilderContext,
) -> Result<MachineCode, CodegenError> {
    let mut context = Context::new();
    translate(function, isa, &mut context, scratch)?;
    let failed = |error: &CraneliftError| CodegenError::Cranelift {
        function: function.name.clone(),
        message: error.to_string(),
    };
    let code = context.compile(isa, &mut Default::default()).map_err(|e| failed(&e.inner))?;
    let (alignment, bytes) = (u64::from(code.buffer.alignment), code.code_buffer().to_vec());
    let relocations = code.buffer.relocs().to_vec();
    let relocations = relocations.iter().map(|reloc| ModuleReloc::from_mach_reloc(reloc, &context.func, *id));
    Ok(MachineCode { alignment, bytes, relocations: relocations.collect() })
}

/// Values of functions that are worth another thread, some tenths of a millisecond of compiling.
const VALUES_OF_A_THREAD: usize = 200;

/// The name of what multiplies with panels.
const PRODUCT: &str = "panel_product";

/// The CLIF of a function before optimisation, or the error that compiling it would give.
///
/// # Errors
/// As [`compile_cpu`].
pub fn clif(function: &Function) -> Result<String, CodegenError> {
    let isa = host_isa(Effort::Full)?;
    let mut context = Context::new();
    translate(function, &*isa, &mut context, &mut FunctionBuilderContext::new())?;
    Ok(context.func.display().to_string())
}

/// The machine code of a function as Cranelift prints it.
///
/// # Errors
/// As [`compile_cpu`].
pub fn asm(function: &Function) -> Result<String, CodegenError> {
    let isa = host_isa(Effort::Full)?;
    let mut context = Context::new();
    translate(function, &*isa, &mut context, &mut FunctionBuilderContext::new())?;
    context.set_disasm(true);
    let failed = |error: &CraneliftError| CodegenError::Cranelift {
        function: function.name.clone(),
        message: error.to_string(),
    };
    let code = context.compile(&*isa, &mut Default::default()).map_err(|e| failed(&e.inner))?;
    Ok(code.vcode.clone().unwrap_or_default())
}

fn module_error(function: &Function, error: ModuleError) -> CodegenError {
    match error {
        ModuleError::Allocation { .. } => CodegenError::Memory(error.to_string()),
        other => CodegenError::Cranelift { function: function.name.clone(), message: format!("{other:?}") },
    }
}

/// The host's instruction set with every extension that it has.
fn host_isa(effort: Effort) -> Result<Arc<dyn TargetIsa>, CodegenError> {
    let host = |e: &dyn std::fmt::Display| CodegenError::Host(e.to_string());
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("ssse3") {
        return Err(CodegenError::Host("x86-64 without SSSE3".into()));
    }
    let mut flags = settings::builder();
    let allocator = match effort {
        Effort::Quick => "single_pass",
        Effort::Full => "backtracking",
    };
    for (name, value) in [
        ("opt_level", "none"),
        ("regalloc_algorithm", allocator),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("unwind_info", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
    ] {
        flags.set(name, value).map_err(|e| host(&e))?;
    }
    let isa = cranelift::native::builder().map_err(|e| host(&e))?;
    isa.finish(settings::Flags::new(flags)).map_err(|e| host(&e))
}

fn signature(isa: &dyn TargetIsa) -> ir::Signature {
    let mut signature = ir::Signature::new(isa.default_call_conv());
    signature.params = vec![AbiParam::new(types::I64); 4];
    signature
}

/// Whether a function is one that this tier runs.
fn check(function: &Function) -> Result<(), CodegenError> {
    verify(function)?;
    let unsupported = |what: String| Err(CodegenError::Unsupported { function: function.name.clone(), what });
    if function.mapping != Mapping::Range {
        return unsupported("its work is mapped to GPU threads".into());
    }
    let has_routine = |width: u32| products::lanes().is_some_and(|lanes| width.is_multiple_of(lanes));
    if let Some(product) = function.products().into_iter().find(|p| !has_routine(p.width)) {
        return unsupported(format!("there is no routine for panels of {} columns", product.width));
    }
    for ty in function.types.iter().filter(|ty| ty.lanes > 1) {
        let bits = match ty.lane {
            LaneType::F32 | LaneType::I32 => 32,
            LaneType::F64 | LaneType::I64 => 64,
            LaneType::Bool => 128 / u32::from(ty.lanes).clamp(2, 4),
        };
        if bits * u32::from(ty.lanes) != 128 {
            return unsupported(format!("{} is not a vector of 128 bits", ty));
        }
    }
    Ok(())
}

/// Builds the CLIF of a function in `context`.
fn translate(
    function: &Function,
    isa: &dyn TargetIsa,
    context: &mut Context,
    scratch: &mut FunctionBuilderContext,
) -> Result<(), CodegenError> {
    check(function)?;
    context.func.signature = signature(isa);
    context.func.name = UserFuncName::testcase(&function.name);
    let mut f = FunctionBuilder::new(&mut context.func, scratch);
    let entry = f.create_block();
    f.append_block_params_for_function_params(entry);
    f.switch_to_block(entry);
    f.seal_block(entry);
    let parameters = f.block_params(entry).to_vec();
    let flags = MemFlagsData::trusted().with_readonly();
    let mut read = |base: ir::Value, count: usize| -> Vec<ir::Value> {
        (0..count).map(|i| f.ins().load(types::I64, flags, base, 8 * i as i32)).collect()
    };
    let buffers = read(parameters[0], function.buffers.len());
    let symbols = read(parameters[1], function.symbols.len());
    let arguments = Arguments { buffers, symbols, begin: parameters[2], end: parameters[3] };
    emit(function, &mut CraneliftBuilder::new(&mut f, arguments));
    f.ins().return_(&[]);
    f.finalize(isa.frontend_config());
    Ok(())
}
