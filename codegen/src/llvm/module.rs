//! What every compilation does: check, declare, walk, verify, optimise.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{CStr, c_void};
use std::sync::Once;

use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::llvm_sys::core::{
    LLVMContextSetDiagnosticHandler, LLVMDisposeMessage, LLVMGetDiagInfoDescription, LLVMGetDiagInfoSeverity,
};
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::llvm_sys::{LLVMDiagnosticSeverity, prelude::LLVMDiagnosticInfoRef};
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{InitializationConfig, Target, TargetMachine};
use inkwell::values::FunctionValue;

use super::gpu::SHARED_MEMORY;
use super::host;
use super::{LlvmError, Optimization};
use crate::kernel_ir::{Access, Function};
use crate::verify::verify;

/// Registers the targets, once a process.
pub(super) fn initialize() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let config = InitializationConfig::default();
        Target::initialize_nvptx(&config);
        Target::initialize_x86(&config);
        Target::initialize_aarch64(&config);
        if host::has_wide_vectors() {
            keep_order();
        }
    });
}

/// Keeps LLVM from reordering instructions, before it assigns registers and after. Schedules put them in an order that
/// suits the processor, as chains of operations side by side; LLVM puts each chain together, so that a core waits for one
/// after the other, which made elementwise kernels a half slower (`docs/perf/cpu-log.md`). With 16 vector registers it
/// makes up for reorderings before, without which products spill. The setting is of the process, and LLVM for GPUs has
/// none to turn off.
fn keep_order() {
    let arguments =
        [c"fuse", c"-enable-misched=false", c"-disable-post-ra"].map(|argument| argument.as_ptr());
    // SAFETY: the arguments are strings that end with a zero byte, as many as said; no other thread compiles yet, since
    // they all wait for `initialize`.
    unsafe {
        LLVMParseCommandLineOptions(arguments.len() as i32, arguments.as_ptr(), std::ptr::null());
    }
}

/// A context with what LLVM reported through it.
pub(super) struct Session {
    // Before `errors`, so that the handler's target outlives the handler.
    context: Context,
    errors: Box<RefCell<Vec<String>>>,
}

impl Session {
    /// A new context. Without a handler of its own, an error report would end the process.
    pub fn new() -> Self {
        let session = Session { context: Context::create(), errors: Box::default() };
        let errors: *const RefCell<Vec<String>> = &*session.errors;
        // SAFETY: the context is valid; `report` expects a pointer to a `RefCell<Vec<String>>`, which the box
        // keeps at that address for longer than the context lives.
        unsafe {
            LLVMContextSetDiagnosticHandler(session.context.raw(), Some(report), errors as *mut c_void);
        }
        session
    }

    /// The context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// `Err` with what LLVM reported since the last call, if anything.
    pub fn check(&self) -> Result<(), LlvmError> {
        let errors = self.errors.take();
        if errors.is_empty() { Ok(()) } else { Err(LlvmError::Emission(errors.join("; "))) }
    }
}

/// Called by LLVM on the thread that compiles, with the `errors` of its [`Session`].
extern "C" fn report(info: LLVMDiagnosticInfoRef, errors: *mut c_void) {
    // SAFETY: LLVM passes a valid report for the duration of the call, and the pointer that `Session::new`
    // installed; the description is a C string that is ours to dispose of.
    unsafe {
        if !matches!(LLVMGetDiagInfoSeverity(info), LLVMDiagnosticSeverity::LLVMDSError) {
            return;
        }
        let description = LLVMGetDiagInfoDescription(info);
        let message = CStr::from_ptr(description).to_string_lossy().into_owned();
        LLVMDisposeMessage(description);
        (*errors.cast::<RefCell<Vec<String>>>()).borrow_mut().push(message);
    }
}

/// Rejects what must not reach LLVM. `scheduled` tells whether a function is scheduled for the target.
pub(super) fn check_functions(
    functions: &[Function],
    scheduled: impl Fn(&Function) -> Result<(), LlvmError>,
) -> Result<(), LlvmError> {
    let mut names = HashSet::new();
    for function in functions {
        if !is_entry_name(&function.name) || !names.insert(&function.name) {
            return Err(LlvmError::Name(function.name.clone()));
        }
        scheduled(function)?;
        if !function.products().is_empty() {
            return Err(LlvmError::Product(function.name.clone()));
        }
        verify(function).map_err(|e| LlvmError::Invalid(Box::new(e)))?;
    }
    Ok(())
}

/// Whether PTX takes a name for that of an entry: an identifier of C, except a lone underscore and the one
/// constant that PTX predefines.
fn is_entry_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !["_", "WARP_SZ"].contains(&name)
}

/// Adds attributes to a buffer parameter: what it may be assumed of the pointer.
pub(super) fn describe_buffer(
    context: &Context,
    function: FunctionValue<'_>,
    position: u32,
    access: Access,
    alignment: Option<u32>,
) {
    let direction = match access {
        Access::Read => "readonly",
        Access::Write => "writeonly",
        // What other threads write between two loads is seen by the second.
        Access::ReadWrite => "",
    };
    if !direction.is_empty() {
        // Two parameters never overlap where one of them is written.
        add_enum(context, function, AttributeLoc::Param(position), "noalias", 0);
        add_enum(context, function, AttributeLoc::Param(position), direction, 0);
    }
    if let Some(alignment) = alignment {
        add_enum(context, function, AttributeLoc::Param(position), "align", u64::from(alignment));
    }
}

/// Adds an attribute that LLVM knows by name.
pub(super) fn add_enum(
    context: &Context,
    function: FunctionValue<'_>,
    at: AttributeLoc,
    name: &str,
    value: u64,
) {
    let kind = Attribute::get_named_enum_kind_id(name);
    function.add_attribute(at, context.create_enum_attribute(kind, value));
}

/// Adds an attribute of a function that is a pair of strings.
pub(super) fn add_string(context: &Context, function: FunctionValue<'_>, key: &str, value: &str) {
    function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, value));
}

/// Verifies the module and that everything it refers to exists.
pub(super) fn check_module(module: &Module<'_>) -> Result<(), LlvmError> {
    module.verify().map_err(|message| LlvmError::Rejected(message.to_string()))?;
    check_symbols(module)
}

/// Verifies that everything the module refers to exists.
pub(super) fn check_symbols(module: &Module<'_>) -> Result<(), LlvmError> {
    let undefined: Vec<String> = module
        .get_functions()
        .filter(|function| function.count_basic_blocks() == 0 && function.get_intrinsic_id() == 0)
        .map(|function| function.get_name().to_string_lossy().into_owned())
        .chain(
            module
                .get_globals()
                .filter(|global| global.is_declaration())
                .filter(|global| global.get_name().to_bytes() != SHARED_MEMORY.as_bytes())
                .map(|global| global.get_name().to_string_lossy().into_owned()),
        )
        .collect();
    if undefined.is_empty() { Ok(()) } else { Err(LlvmError::UnresolvedSymbols(undefined)) }
}

/// What schedules leave to LLVM before it emits code. Kernel IR has its vectors, tiles and unrolled loops already, so what
/// looks for more of them, most of the time of LLVM's own pipelines, finds nothing (`docs/perf/cpu-log.md`,
/// `docs/perf/gpu.md`). Loops are rotated so that what does not change can leave them; `indvars` finds the conditions
/// on counters that always hold.
const HOST_PASSES: &str = "sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,\
    loop-mssa(loop-rotate),loop(indvars),early-cse,instcombine<no-verify-fixpoint>,simplifycfg,loop-mssa(licm)";

/// Runs LLVM's passes for the CPU.
pub(super) fn optimize(
    session: &Session,
    module: &Module<'_>,
    machine: &TargetMachine,
    optimization: Optimization,
) -> Result<(), LlvmError> {
    let pipeline = match optimization {
        // The bodies of host functions are inlined whatever the level.
        Optimization::None => "always-inline".to_owned(),
        Optimization::Full => format!("always-inline,globaldce,function({HOST_PASSES})"),
    };
    run_passes(session, module, machine, &pipeline)
}

/// Runs passes by their names.
pub(super) fn run_passes(
    session: &Session,
    module: &Module<'_>,
    machine: &TargetMachine,
    pipeline: &str,
) -> Result<(), LlvmError> {
    let passes = module.run_passes(pipeline, machine, PassBuilderOptions::create());
    passes.map_err(|message| LlvmError::Emission(message.to_string()))?;
    session.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undefined(name: &str) -> Result<(), LlvmError> {
        let session = Session::new();
        let module = session.context().create_module("test");
        let ty = session.context().i32_type().fn_type(&[], false);
        module.add_function(name, ty, None);
        check_module(&module)
    }

    #[test]
    fn a_symbol_that_nothing_defines_is_named() {
        assert_eq!(undefined("tanhf"), Err(LlvmError::UnresolvedSymbols(vec!["tanhf".into()])));
    }

    #[test]
    fn a_misspelt_intrinsic_is_an_undefined_symbol_and_a_real_one_is_not() {
        let misspelt = "llvm.nvvm.read.ptx.sreg.tid.w.";
        assert_eq!(undefined(misspelt), Err(LlvmError::UnresolvedSymbols(vec![misspelt.into()])));
        assert_eq!(undefined("llvm.nvvm.read.ptx.sreg.tid.x"), Ok(()));
    }
}
