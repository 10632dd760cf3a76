//! Machine code for the host through LLVM, with all that its CPU offers.
//!
//! Every [`Function`] with [`Mapping::Range`] becomes one entry of that mapping's signature. Its body is a
//! function of its own that takes buffers and symbols as parameters and is inlined into the entry: parameters
//! can be declared not to overlap, pointers loaded from an array cannot.

use std::sync::OnceLock;

use inkwell::AddressSpace;
use inkwell::OptimizationLevel;
use inkwell::attributes::AttributeLoc;
use inkwell::builder::{Builder, BuilderError};
use inkwell::execution_engine::ExecutionEngine;
use inkwell::module::{Linkage, Module};
use inkwell::targets::{CodeModel, FileType, RelocMode, Target, TargetMachine};
use inkwell::types::{BasicMetadataTypeEnum, BasicTypeEnum};
use inkwell::values::{BasicMetadataValueEnum, FunctionValue, IntValue, PointerValue};

use super::builder::{LlvmBuilder, Work};
use super::module::{
    Session, add_enum, add_string, check_functions, check_module, describe_buffer, initialize, optimize,
};
use super::phases::Phases;
use super::ptx::frame;
use super::{LlvmError, Optimization};
use crate::kernel_ir::{Function, Mapping};
use crate::scalar::emit;
use crate::schedule::ScheduleTarget;

/// The signature of an entry: buffers, symbols, first item, one past the last item.
pub type HostEntry = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64);

/// Machine code of some functions. It may be called from any number of threads at once.
pub struct LlvmHostModule {
    /// By position of the function.
    entries: Vec<Compiled>,
    /// Owns the code, and nothing of the contexts that it was compiled in.
    _engine: Option<ExecutionEngine<'static>>,
}

struct Compiled {
    name: String,
    code: HostEntry,
    buffers: usize,
    symbols: usize,
}

impl std::fmt::Debug for LlvmHostModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.name)).finish()
    }
}

// SAFETY: after construction nothing touches the engine until it is dropped by its one owner, which may be on another
// thread than the one that made it: it has no module and nothing of a context any more. The machine code itself is immutable.
unsafe impl Send for LlvmHostModule {}
// SAFETY: as above; shared access only reads `entries` and calls machine code.
unsafe impl Sync for LlvmHostModule {}

impl LlvmHostModule {
    /// Compiles the functions for the CPU that this process runs on.
    ///
    /// # Errors
    /// A function that is malformed or not scheduled for ranges on the host, and whatever LLVM refuses.
    pub fn compile(functions: &[Function], optimization: Optimization) -> Result<Self, LlvmError> {
        let mut compiler = HostCompiler::new(optimization)?;
        compiler.add(functions)?;
        Ok(compiler.finish())
    }

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
        self.entries.iter().position(|entry| entry.name == name)
    }

    /// The machine code of a function, for callers that check the arguments once and call often. The same
    /// conditions hold as for [`LlvmHostModule::call`], and the module must outlive every call.
    pub fn entry(&self, index: usize) -> Option<HostEntry> {
        self.entries.get(index).map(|entry| entry.code)
    }

    /// Runs the work items `begin..end` of function number `index`; with `begin >= end` nothing.
    ///
    /// # Errors
    /// [`LlvmError::NoFunction`] and [`LlvmError::Arguments`]; nothing ran then.
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
    ) -> Result<(), LlvmError> {
        let functions = self.entries.len();
        let entry = self.entries.get(index).ok_or(LlvmError::NoFunction { index, functions })?;
        for (what, expected, given) in
            [("buffers", entry.buffers, buffers.len()), ("symbols", entry.symbols, symbols.len())]
        {
            if expected != given {
                return Err(LlvmError::Arguments { function: entry.name.clone(), what, expected, given });
            }
        }
        // SAFETY: the code was compiled from checked Kernel IR with this signature and lives as long as `self`;
        // it reads as many buffers and symbols as were just counted; the rest is the caller's promise.
        unsafe { (entry.code)(buffers.as_ptr(), symbols.as_ptr(), begin, end) };
        Ok(())
    }
}

/// Compiles functions one after the other into one module. What LLVM knows of the target, a megabyte and more, is there
/// once for all of them.
pub struct HostCompiler {
    optimization: Optimization,
    machine: TargetMachine,
    /// Made with the first functions.
    engine: Option<ExecutionEngine<'static>>,
    entries: Vec<Compiled>,
}

impl HostCompiler {
    /// A compiler for the CPU that this process runs on.
    ///
    /// # Errors
    /// Where this LLVM has no such target.
    pub fn new(optimization: Optimization) -> Result<Self, LlvmError> {
        let machine = target_machine(optimization)?;
        Ok(HostCompiler { optimization, machine, engine: None, entries: Vec::new() })
    }

    /// Compiles functions, of other names than those before.
    ///
    /// # Errors
    /// As [`LlvmHostModule::compile`].
    pub fn add(&mut self, functions: &[Function]) -> Result<(), LlvmError> {
        if let Some(known) = functions.iter().find(|f| self.entries.iter().any(|e| e.name == f.name)) {
            return Err(LlvmError::Name(known.name.clone()));
        }
        let mut phases = Phases::new();
        let session = Box::new(Session::new());
        // SAFETY: the reference lives as long as the box's contents, from which only the module and the engine borrow.
        // The module is dropped before the box, below. The engine stays: what it has of a context are modules alone, and
        // this one is taken from it before the context goes, or else the context stays for ever.
        let borrowed: &'static Session = unsafe { &*std::ptr::from_ref(session.as_ref()) };
        let module = optimized_module(borrowed, &self.machine, functions, self.optimization, &mut phases)?;
        let engine = self.engine_with(&module)?;
        phases.end("engine");
        let compiled = functions.iter().map(|function| compiled(&engine, &session, function));
        let compiled = compiled.collect::<Result<Vec<_>, _>>();
        // The code needs neither module nor context, which take many times its size.
        if let Err(error) = engine.remove_module(&module) {
            Box::leak(session);
            return Err(LlvmError::Emission(error.to_string()));
        }
        drop(module);
        drop(session);
        self.entries.extend(compiled?);
        phases.end("code");
        phases.report(functions);
        Ok(())
    }

    /// The module of all functions so far.
    pub fn finish(self) -> LlvmHostModule {
        LlvmHostModule { entries: self.entries, _engine: self.engine }
    }

    /// The engine, which has the module.
    fn engine_with(&mut self, module: &Module<'static>) -> Result<ExecutionEngine<'static>, LlvmError> {
        if let Some(engine) = &self.engine {
            let added = engine.add_module(module);
            added.map_err(|()| LlvmError::Emission("a module of another engine".into()))?;
            return Ok(engine.clone());
        }
        let engine = module.create_jit_execution_engine(level(self.optimization));
        let engine = engine.map_err(|message| LlvmError::Emission(message.to_string()))?;
        Ok(self.engine.insert(engine).clone())
    }
}

/// The machine code of a function that the engine has.
fn compiled(
    engine: &ExecutionEngine<'static>,
    session: &Session,
    function: &Function,
) -> Result<Compiled, LlvmError> {
    let address = engine.get_function_address(&function.name);
    session.check()?;
    let address = address.map_err(|e| LlvmError::Emission(format!("{}: {e}", function.name)))?;
    // SAFETY: the engine compiled the function of that name with exactly this signature, and keeps its code until it
    // is dropped.
    let code = unsafe { std::mem::transmute::<usize, HostEntry>(address) };
    let (buffers, symbols) = (function.buffers.len(), function.symbols.len());
    Ok(Compiled { name: function.name.clone(), code, buffers, symbols })
}

/// The functions as optimised LLVM IR for this host, to be read.
///
/// # Errors
/// As [`LlvmHostModule::compile`].
pub fn llvm_ir(functions: &[Function], optimization: Optimization) -> Result<String, LlvmError> {
    let session = Session::new();
    let machine = target_machine(optimization)?;
    let module = optimized_module(&session, &machine, functions, optimization, &mut Phases::new())?;
    Ok(module.print_to_string().to_string())
}

/// The functions as assembly of this host, to be read.
///
/// # Errors
/// As [`LlvmHostModule::compile`].
pub fn assembly(functions: &[Function], optimization: Optimization) -> Result<String, LlvmError> {
    let session = Session::new();
    let machine = target_machine(optimization)?;
    let module = optimized_module(&session, &machine, functions, optimization, &mut Phases::new())?;
    let emitted = machine.write_to_memory_buffer(&module, FileType::Assembly);
    session.check()?;
    let buffer = emitted.map_err(|message| LlvmError::Emission(message.to_string()))?;
    let bytes = buffer.as_slice();
    Ok(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
}

/// LLVM's name of a level, for instruction selection.
fn level(optimization: Optimization) -> OptimizationLevel {
    match optimization {
        Optimization::None => OptimizationLevel::None,
        Optimization::Full => OptimizationLevel::Aggressive,
    }
}

fn target_machine(optimization: Optimization) -> Result<TargetMachine, LlvmError> {
    initialize();
    let triple = TargetMachine::get_default_triple();
    let target = Target::from_triple(&triple).map_err(|message| LlvmError::Target(message.to_string()))?;
    let (cpu, features) = host_cpu();
    let machine = target.create_target_machine(
        &triple,
        cpu,
        features,
        level(optimization),
        RelocMode::PIC,
        CodeModel::Default,
    );
    machine.ok_or_else(|| LlvmError::Target(format!("{} {cpu}", triple.as_str().to_string_lossy())))
}

/// LLVM's name of this CPU and the features it has.
fn host_cpu() -> &'static (String, String) {
    static CPU: OnceLock<(String, String)> = OnceLock::new();
    CPU.get_or_init(|| {
        (TargetMachine::get_host_cpu_name().to_string(), TargetMachine::get_host_cpu_features().to_string())
    })
}

fn has(feature: &str) -> bool {
    host_cpu().1.split(',').any(|f| f.strip_prefix('+') == Some(feature))
}

/// Whether this CPU converts f16 to f32 in one instruction.
fn has_half() -> bool {
    has("f16c") || has("avx512f") || has("neon")
}

/// Whether this CPU has 32 vector registers of 512 bits.
pub(super) fn has_wide_vectors() -> bool {
    has("avx512f") && has("avx512vl") && has("avx512dq")
}

/// What to schedule for so that the code uses this CPU's widest vectors and all its vector registers.
pub fn schedule_target() -> ScheduleTarget {
    let (vector_bits, accumulators) = if has_wide_vectors() {
        // Of 32 registers. Up to 24 stay in registers too, but tiles of 16 suit more batch sizes.
        (512, 16)
    } else if has("avx2") && has("fma") {
        (256, 12)
    } else if has("neon") {
        (128, 16)
    } else {
        return ScheduleTarget::cpu();
    };
    ScheduleTarget::Cpu { vector_bits, accumulators, prefetches: true, panel_lanes: None }
}

fn optimized_module<'s>(
    session: &'s Session,
    machine: &TargetMachine,
    functions: &[Function],
    optimization: Optimization,
    phases: &mut Phases,
) -> Result<Module<'s>, LlvmError> {
    check_functions(functions, |function| match function.mapping {
        Mapping::Range => Ok(()),
        Mapping::Threads { .. }
        | Mapping::Blocks { .. }
        | Mapping::Resident { .. }
        | Mapping::Clusters { .. } => {
            Err(LlvmError::Mapping { function: function.name.clone(), target: "ranges on the host" })
        }
    })?;
    let module = session.context().create_module("fuse");
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    for function in functions {
        let body = body(session, &module, function);
        entry(session, &module, function, body).map_err(|e| LlvmError::Rejected(e.to_string()))?;
    }
    phases.end("building");
    check_module(&module)?;
    phases.end("verifying");
    optimize(session, &module, machine, optimization)?;
    phases.end("passes");
    Ok(module)
}

/// The engine compiles for a generic CPU unless the functions themselves name theirs.
fn name_cpu(session: &Session, function: FunctionValue<'_>) {
    let (cpu, features) = host_cpu();
    add_string(session.context(), function, "target-cpu", cpu);
    add_string(session.context(), function, "target-features", features);
    // Some CPUs prefer narrower vectors than they have, and LLVM would then split ours.
    let bits = schedule_target().vector_bits().to_string();
    add_string(session.context(), function, "prefer-vector-width", &bits);
    add_string(session.context(), function, "min-legal-vector-width", &bits);
    add_enum(session.context(), function, AttributeLoc::Function, "nounwind", 0);
}

/// `name.body(buffers…, symbols…, begin, end)`, always inlined.
fn body<'s>(session: &'s Session, module: &Module<'s>, function: &Function) -> FunctionValue<'s> {
    let context = session.context();
    let pointer: BasicMetadataTypeEnum<'_> = context.ptr_type(AddressSpace::default()).into();
    let mut parameters = vec![pointer; function.buffers.len()];
    parameters.extend(vec![BasicMetadataTypeEnum::from(context.i64_type()); function.symbols.len() + 2]);
    let ty = context.void_type().fn_type(&parameters, false);
    // No entry has a point in its name.
    let body = module.add_function(&format!("{}.body", function.name), ty, Some(Linkage::Internal));
    name_cpu(session, body);
    add_enum(context, body, AttributeLoc::Function, "alwaysinline", 0);
    for (position, buffer) in (0..).zip(&function.buffers) {
        describe_buffer(context, body, position, buffer.access, None);
    }
    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(body, "entry"));
    let parameters = body.get_params();
    let (begin, end) = (parameters[parameters.len() - 2], parameters[parameters.len() - 1]);
    let work = Work::Range { begin: begin.into_int_value(), end: end.into_int_value() };
    let mut emitter =
        LlvmBuilder::new(context, module, builder, body, frame(function, body, work, has_half()));
    emit(function, &mut emitter);
    emitter.finish();
    body
}

/// `name(buffers, symbols, begin, end)`: reads the two arrays and calls the body.
fn entry<'s>(
    session: &'s Session,
    module: &Module<'s>,
    function: &Function,
    body: FunctionValue<'s>,
) -> Result<(), BuilderError> {
    let context = session.context();
    let (pointer, integer) = (context.ptr_type(AddressSpace::default()), context.i64_type());
    let parameters = [pointer.into(), pointer.into(), integer.into(), integer.into()];
    let entry = module.add_function(&function.name, context.void_type().fn_type(&parameters, false), None);
    name_cpu(session, entry);
    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(entry, "entry"));
    let parameters = entry.get_params();
    let mut arguments: Vec<BasicMetadataValueEnum<'s>> = Vec::new();
    for position in 0..function.buffers.len() {
        let position = integer.const_int(position as u64, false);
        arguments.push(element(&builder, pointer.into(), parameters[0].into_pointer_value(), position)?);
    }
    for position in 0..function.symbols.len() {
        let position = integer.const_int(position as u64, false);
        arguments.push(element(&builder, integer.into(), parameters[1].into_pointer_value(), position)?);
    }
    arguments.extend([BasicMetadataValueEnum::from(parameters[2]), parameters[3].into()]);
    builder.build_call(body, &arguments, "")?;
    builder.build_return(None)?;
    Ok(())
}

/// Loads an element of an array of pointers or of integers.
fn element<'s>(
    builder: &Builder<'s>,
    ty: BasicTypeEnum<'s>,
    array: PointerValue<'s>,
    position: IntValue<'s>,
) -> Result<BasicMetadataValueEnum<'s>, BuilderError> {
    // SAFETY: this emits an instruction and touches no memory; one index is right for a scalar element.
    let address = unsafe { builder.build_in_bounds_gep(ty, array, &[position], "") }?;
    Ok(builder.build_load(ty, address, "")?.into())
}
