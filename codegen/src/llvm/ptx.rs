//! PTX: one module of kernels.
//!
//! Every [`Function`] for GPU threads becomes one entry `name(buffers…, symbols…)`: a buffer is a
//! 64-bit pointer to global memory aligned to [`BUFFER_ALIGNMENT`], a symbol a 64-bit integer, in the order of
//! [`Function::buffers`] and [`Function::symbols`]. [`crate::llvm::PtxKernel`] describes how to launch it.

use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::module::Module;
use inkwell::targets::{CodeModel, FileType, RelocMode, Target, TargetMachine, TargetTriple};
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{FunctionValue, IntValue};
use inkwell::{AddressSpace, OptimizationLevel};

use super::branches::without_idle_branches;
use super::builder::{Frame, LlvmBuilder, Work};
use super::gpu::{BlockFrame, GridFrame, place_shared};
use super::group::needs_groups;
use super::matrix::needs_matrices;
use super::module::{
    Session, add_enum, add_string, check_functions, check_module, check_symbols, describe_buffer, initialize,
    run_passes,
};
use super::neighbours::has_neighbours;
use super::phases::Phases;
use super::wide_products::with_wide_products;
use super::{Arch, LlvmError, Optimization};
use crate::indices::{Ranges, Widths};
use crate::kernel_ir::{Function, Mapping, Operation, Statement};
use crate::scalar::emit_in;
use crate::schedule::GpuLimits;

/// What the address of every buffer is a multiple of, in bytes. The launcher sees to it; LLVM relies on it
/// where it joins neighbouring accesses.
pub const BUFFER_ALIGNMENT: u32 = 16;

/// The most threads a block may have.
pub const MAX_BLOCK: u32 = 1024;

/// The first compute capability (times ten) with clusters of blocks.
const FIRST_WITH_CLUSTERS: u32 = 90;

/// Global memory, in the NVPTX back end.
const GLOBAL: u16 = 1;
/// `ptx_kernel`, the calling convention of an entry point.
const PTX_KERNEL: u32 = 71;

/// The passes for kernels. What [`crate::indices::Ranges`] know of counters and conditions, most of what LLVM found out in two
/// fifths of the time of all passes, is not there to begin with; what Kernel IR computes as early as it can stands where it is
/// needed, so that it takes no registers before. The last ones see to vectors that are aligned because extents are, and to
/// constant parts of addresses, which are for the instructions. What does not change in loops stands before them already;
/// addresses that LLVM would move there too wait in registers.
const PASSES: &str = "sroa,sink,instcombine<no-verify-fixpoint>,simplifycfg,\
    infer-alignment,separate-const-offset-from-gep,early-cse";

/// The same for long kernels, while somebody waits for their code. `ptxas` simplifies what is left to simplify, and makes as
/// many instructions of it (docs/perf/gpu.md).
const PASSES_OF_LONG: &str = "sroa,sink,infer-alignment,separate-const-offset-from-gep,early-cse,simplifycfg";

/// The pass behind these, which makes one access of neighbouring ones.
const JOINING_PASS: &str = "load-store-vectorizer";

/// What PTX to make.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PtxOptions {
    /// The oldest GPU that it must run on.
    pub arch: Arch,
    /// How much LLVM optimises.
    pub optimization: Optimization,
    /// How wide indices are.
    pub indices: Indices,
}

/// How wide the registers are that hold positions, counters and coordinates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Indices {
    /// 32 bits where [`Widths::assumed`] finds that these suffice. Launches where they do not
    /// ([`suffice`](crate::indices::suffice)) compute something else.
    #[default]
    Narrow,
    /// 64 bits, whatever is launched.
    Wide,
}

impl PtxOptions {
    /// Fully optimised PTX with narrow indices.
    pub fn new(arch: Arch) -> Self {
        PtxOptions { arch, optimization: Optimization::default(), indices: Indices::default() }
    }
}

/// The functions as the text of one PTX module, in the lowest version of PTX that the architecture needs.
///
/// # Errors
/// A function that is malformed or not scheduled for GPU threads, and whatever LLVM refuses.
pub fn ptx(functions: &[Function], options: &PtxOptions) -> Result<String, LlvmError> {
    let mut phases = Phases::new();
    let session = Session::new();
    let machine = target_machine(options)?;
    phases.end("machine");
    let module = optimized_module(&session, &machine, functions, options, &mut phases)?;
    machine.set_asm_verbosity(false);
    select_only(&session, &module);
    let emitted = machine.write_to_memory_buffer(&module, FileType::Assembly);
    session.check()?;
    phases.end("text");
    phases.report(functions);
    let buffer = emitted.map_err(|message| LlvmError::Emission(message.to_string()))?;
    let bytes = buffer.as_slice();
    // LLVM ends the buffer with a zero byte.
    let text = String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned();
    // Instruction selection may itself call out, to a function of a runtime library that PTX does not have.
    let undefined: Vec<String> = text.lines().filter(|line| is_undefined(line)).map(str::to_string).collect();
    if !undefined.is_empty() {
        return Err(LlvmError::UnresolvedSymbols(undefined));
    }
    Ok(match options.optimization {
        Optimization::None => text,
        Optimization::Full => with_wide_products(&without_idle_branches(&text)),
    })
}

/// Keeps instruction selection from optimising. What it would do has been done, except for the strength reduction of
/// loops, which trades instructions for registers: that is for `ptxas` to decide, which knows how many there are. It took
/// a quarter of the time, and had more registers spilled (docs/perf/gpu.md).
fn select_only(session: &Session, module: &Module<'_>) {
    for function in module.get_functions().filter(|f| f.count_basic_blocks() > 0) {
        leave(session, function);
    }
}

/// What LLVM does not optimise.
const LEFT: [&str; 2] = ["noinline", "optnone"];

/// Keeps LLVM from optimising a function.
fn leave(session: &Session, function: FunctionValue<'_>) {
    for attribute in LEFT {
        add_enum(session.context(), function, AttributeLoc::Function, attribute, 0);
    }
}

/// Runs passes over some functions.
fn improve(
    session: &Session,
    module: &Module<'_>,
    machine: &TargetMachine,
    functions: &[&Function],
    passes: &str,
) -> Result<(), LlvmError> {
    if functions.is_empty() {
        return Ok(());
    }
    let is_other = |f: &FunctionValue<'_>| {
        f.count_basic_blocks() > 0
            && !functions.iter().any(|own| f.get_name().to_bytes() == own.name.as_bytes())
    };
    let others: Vec<_> = module.get_functions().filter(is_other).collect();
    others.iter().for_each(|function| leave(session, *function));
    run_passes(session, module, machine, &format!("function({passes})"))?;
    for attribute in LEFT.map(Attribute::get_named_enum_kind_id) {
        others.iter().for_each(|function| function.remove_enum_attribute(AttributeLoc::Function, attribute));
    }
    Ok(())
}

/// Whether a function is a loop over time, or tiles of a product: most of the code of a model. Products of matrices outside of
/// loops are short, and hold as many registers as there are.
fn is_long(function: &Function) -> bool {
    let is_product = function.mapping.is_by_block() && !function.multiplies_matrices();
    function.mapping.is_of_steps() || is_product
}

/// The functions as optimised LLVM IR for the GPU, to be read.
///
/// # Errors
/// As [`ptx`].
pub fn llvm_ir(functions: &[Function], options: &PtxOptions) -> Result<String, LlvmError> {
    let session = Session::new();
    let machine = target_machine(options)?;
    let module = optimized_module(&session, &machine, functions, options, &mut Phases::new())?;
    Ok(module.print_to_string().to_string())
}

/// Whether what is loaded and copied in loops moves in vectors, whose elements are no wider in registers than in memory.
fn loads_vectors(body: &[Statement], function: &Function) -> bool {
    body.iter().all(|statement| match statement {
        Statement::For { body, .. } => body.iter().all(|inside| match inside {
            Statement::Let { value, operation: Operation::Load { buffer, .. } } => {
                let memory = function.buffers.get(buffer.0 as usize).map_or(0, |b| b.dtype.size());
                function.ty(*value).lanes > 1 && memory >= 4
            }
            Statement::StartCopy { bytes, .. } => *bytes == 16,
            _ => true,
        }),
        _ => true,
    })
}

/// Whether a line declares what is defined nowhere; shared memory is the launch's to define.
fn is_undefined(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with(".extern") && !line.starts_with(".extern .shared")
}

fn target_machine(options: &PtxOptions) -> Result<TargetMachine, LlvmError> {
    initialize();
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).map_err(|message| LlvmError::Target(message.to_string()))?;
    let level = match options.optimization {
        Optimization::None => OptimizationLevel::None,
        // The next level looks for equal values twice, in a quarter of the time of all, after they were found.
        Optimization::Full => OptimizationLevel::Default,
    };
    let machine = target.create_target_machine(
        &triple,
        options.arch.name(),
        &options.arch.features(),
        level,
        RelocMode::Default,
        CodeModel::Default,
    );
    machine.ok_or_else(|| LlvmError::Target(format!("nvptx64 {}", options.arch)))
}

fn optimized_module<'s>(
    session: &'s Session,
    machine: &TargetMachine,
    functions: &[Function],
    options: &PtxOptions,
    phases: &mut Phases,
) -> Result<Module<'s>, LlvmError> {
    check_functions(functions, |function| block_size(function).map(|_| ()))?;
    let module = session.context().create_module("fuse");
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    for function in functions {
        kernel(session, &module, function, options)?;
    }
    phases.end("building");
    check_module(&module)?;
    phases.end("verifying");
    if options.optimization == Optimization::Full {
        let (long, others): (Vec<&Function>, Vec<&Function>) = functions.iter().partition(|f| is_long(f));
        improve(session, &module, machine, &long, PASSES_OF_LONG)?;
        improve(session, &module, machine, &others, PASSES)?;
        let of_neighbours: Vec<&Function> = functions.iter().filter(|f| has_neighbours(f)).collect();
        improve(session, &module, machine, &of_neighbours, JOINING_PASS)?;
    }
    phases.end("passes");
    // What passes make of a valid module is valid, but may call what nothing defines.
    check_symbols(&module)?;
    debug_assert!(module.verify().is_ok(), "LLVM's passes left an invalid module");
    Ok(module)
}

/// The threads of a block.
///
/// # Errors
/// If the function is not scheduled for GPU threads, or its block has no legal size.
pub(super) fn block_size(function: &Function) -> Result<u32, LlvmError> {
    let name = || function.name.clone();
    match function.mapping {
        Mapping::Threads { block: threads }
        | Mapping::Blocks { threads }
        | Mapping::Resident { threads }
        | Mapping::Clusters { threads, .. } => {
            let legal = (1..=MAX_BLOCK).contains(&threads).then_some(threads);
            legal.ok_or_else(|| LlvmError::BlockSize { function: name(), block: threads })
        }
        Mapping::Range => Err(LlvmError::Mapping { function: name(), target: "GPU threads" }),
    }
}

/// Adds one entry point.
fn kernel<'s>(
    session: &'s Session,
    module: &Module<'s>,
    function: &Function,
    &PtxOptions { arch, indices, .. }: &PtxOptions,
) -> Result<(), LlvmError> {
    let block = block_size(function)?;
    let has_matrices = needs_matrices(function);
    let lacks_clusters =
        function.mapping.cluster_blocks().is_some() && arch.capability() < FIRST_WITH_CLUSTERS;
    let lacks_groups = needs_groups(function) && !arch.has_warp_groups();
    if lacks_clusters || lacks_groups || (has_matrices && !GpuLimits::has_tensor_cores(arch.capability())) {
        return Err(LlvmError::Architecture { function: function.name.clone(), arch });
    }
    let context = session.context();
    let pointer: BasicMetadataTypeEnum<'_> = context.ptr_type(AddressSpace::from(GLOBAL)).into();
    let mut parameters = vec![pointer; function.buffers.len()];
    parameters.extend(vec![BasicMetadataTypeEnum::from(context.i64_type()); function.symbols.len()]);
    let is_resident = matches!(function.mapping, Mapping::Resident { .. });
    parameters.extend(is_resident.then_some(pointer));
    let ty = context.void_type().fn_type(&parameters, false);
    let entry = module.add_function(&function.name, ty, None);
    entry.set_call_conventions(PTX_KERNEL);
    add_string(context, entry, "nvvm.maxntid", &format!("{block},1,1"));
    if let Some(blocks) = function.mapping.cluster_blocks() {
        add_string(context, entry, "nvvm.cluster_dim", &format!("{blocks},1,1"));
    }
    add_enum(context, entry, AttributeLoc::Function, "nounwind", 0);
    // But for sm_90, products of matrices want a few registers more (`codegen/tests/llvm_ptxas.rs`).
    let is_short = has_matrices && arch.capability() / 10 != 9;
    match function.mapping {
        // While the threads of one block wait for each other, those of another compute: 128 registers each. Where
        // elements move one by one or are widened, that does not suffice.
        Mapping::Blocks { threads: ..=256 } if loads_vectors(&function.body, function) && !is_short => {
            add_string(context, entry, "nvvm.minctasm", "2");
        }
        // As many registers as one block leaves.
        Mapping::Blocks { .. } | Mapping::Resident { .. } | Mapping::Clusters { .. } => {
            add_string(context, entry, "nvvm.minctasm", "1");
        }
        Mapping::Range | Mapping::Threads { .. } => {}
    }
    for (position, buffer) in (0..).zip(&function.buffers) {
        // No more than the length is a multiple of: see `LlvmBuilder::alignment`.
        let known = (buffer.divisor * buffer.dtype.size() as u32).min(BUFFER_ALIGNMENT);
        describe_buffer(context, entry, position, buffer.access, Some(known));
    }

    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(entry, "entry"));
    let work = if function.mapping.is_by_block() {
        Work::Block(block_frame(module, &builder, function, entry, arch)?)
    } else {
        Work::Item(work_item(module, &builder, block)?)
    };
    // Integers convert f16, as on a CPU without the instruction.
    let frame = frame(function, entry, work, false);
    let mut body = LlvmBuilder::new(context, module, builder, entry, frame);
    let widths = match indices {
        Indices::Narrow => Some(Widths::assumed(function)),
        Indices::Wide => None,
    };
    emit_in(function, widths, Some(Ranges::of(function)), &mut body);
    body.finish();
    Ok(())
}

/// The parameters of a function that start with its buffers and symbols.
pub(super) fn frame<'ctx>(
    function: &Function,
    entry: FunctionValue<'ctx>,
    work: Work<'ctx>,
    has_half: bool,
) -> Frame<'ctx> {
    let parameters = entry.get_params();
    let (buffers, rest) = parameters.split_at(function.buffers.len());
    let buffers = buffers.iter().map(|p| p.into_pointer_value()).collect();
    let symbols = rest[..function.symbols.len()].iter().map(|p| p.into_int_value()).collect();
    Frame { buffers, symbols, work, has_half }
}

/// What a block of threads finds around it.
fn block_frame<'s>(
    module: &Module<'s>,
    builder: &inkwell::builder::Builder<'s>,
    function: &Function,
    entry: FunctionValue<'s>,
    arch: Arch,
) -> Result<BlockFrame<'s>, LlvmError> {
    let refused = |e: inkwell::builder::BuilderError| LlvmError::Rejected(e.to_string());
    let [block, blocks, thread] =
        ["ctaid", "nctaid", "tid"].map(|name| special_register(module, builder, name));
    let grid = match function.mapping {
        Mapping::Resident { .. } => {
            let number = module.get_context().i32_type();
            let expected = builder.build_alloca(number, "expected").map_err(refused)?;
            builder.build_store(expected, number.const_zero()).map_err(refused)?;
            entry.get_last_param().map(|p| GridFrame { counter: p.into_pointer_value(), expected })
        }
        Mapping::Range | Mapping::Threads { .. } | Mapping::Blocks { .. } | Mapping::Clusters { .. } => None,
    };
    Ok(BlockFrame {
        numbers: [block?, blocks?, thread?],
        shared: place_shared(module, builder, function),
        has_matrices: GpuLimits::has_tensor_cores(arch.capability()),
        has_groups: needs_groups(function),
        grid,
    })
}

/// A special register's first component, in 64 bits.
fn special_register<'s>(
    module: &Module<'s>,
    builder: &inkwell::builder::Builder<'s>,
    name: &str,
) -> Result<IntValue<'s>, LlvmError> {
    let refused = |e: inkwell::builder::BuilderError| LlvmError::Rejected(e.to_string());
    let intrinsic = format!("llvm.nvvm.read.ptx.sreg.{name}.x");
    let declaration = inkwell::intrinsics::Intrinsic::find(&intrinsic)
        .and_then(|found| found.get_declaration(module, &[]))
        .ok_or_else(|| LlvmError::UnresolvedSymbols(vec![intrinsic]))?;
    let value =
        builder.build_call(declaration, &[], "").map_err(refused)?.try_as_basic_value().unwrap_basic();
    let wide = module.get_context().i64_type();
    builder.build_int_z_extend(value.into_int_value(), wide, "").map_err(refused)
}

/// `block · ctaid.x + tid.x`, in 64 bits.
fn work_item<'s>(
    module: &Module<'s>,
    builder: &inkwell::builder::Builder<'s>,
    block: u32,
) -> Result<IntValue<'s>, LlvmError> {
    let refused = |e: inkwell::builder::BuilderError| LlvmError::Rejected(e.to_string());
    let block_index = special_register(module, builder, "ctaid")?;
    let thread = special_register(module, builder, "tid")?;
    let wide = module.get_context().i64_type();
    let first = builder.build_int_nsw_mul(block_index, wide.const_int(u64::from(block), false), "");
    builder.build_int_nsw_add(first.map_err(refused)?, thread, "item").map_err(refused)
}
