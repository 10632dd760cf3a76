//! `fuse dump`: the model at one stage.

use std::path::Path;

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::text;
use fuse_ir::Graph;
use fuse_ir::kernel::KernelGraph;

use super::args::{CompileArgs, DumpArgs, Rewrite, Stage};
use super::error::CliError;
use super::model;
use crate::compile::{CompileError, CompileOptions, Compiled, Target, compile};
use crate::tier::Tier;

/// Runs the command.
pub fn dump(args: &DumpArgs) -> Result<(), CliError> {
    super::print(&stage_text(args)?)
}

fn stage_text(args: &DumpArgs) -> Result<String, CliError> {
    let graph = model::load(&args.model)?;
    let device: fuse_runtime::DeviceName = args.device.parse().map_err(CliError::usage)?;
    let target = Target::of(device);
    let compiled = |target| compile_graph(&graph, &options(&args.compile, target));
    match args.tier.filter(|_| target == Target::Cpu) {
        None => {}
        Some(Tier::Fast) => return fast_text(args, &graph, &compiled),
        #[cfg(feature = "llvm")]
        Some(Tier::Peak | Tier::Auto) => return peak_text(args, &graph, &compiled),
    }
    Ok(match args.stage {
        Stage::Graph => graph.to_string(),
        Stage::Dot => fuse_ir::dot(&graph),
        Stage::Egraph => {
            let options = options(&args.compile, target);
            fuse_rewrite::dump_egraph(&graph, &options.rewrite).map_err(CliError::bug)?
        }
        Stage::Kernels => {
            let compiled = compiled(target)?;
            kernels_text(&compiled.kernels, &compiled)
        }
        Stage::KernelIr => kernel_ir_text(functions_of(&compiled(target)?)?),
        Stage::Clif => each(functions_of(&compiled(Target::Cpu)?)?, clif)?,
        Stage::Asm => each(functions_of(&compiled(Target::Cpu)?)?, assembly)?,
        Stage::Llvm => super::ptx::llvm_text(&for_arch(args, &graph)?, &args.arch)?,
        Stage::Ptx => super::ptx::ptx_text(&for_arch(args, &graph)?, &args.arch)?,
    })
}

/// The model for the least GPU of the architecture.
fn for_arch(args: &DumpArgs, graph: &Graph) -> Result<Compiled, CliError> {
    compile_graph(graph, &super::ptx::options_for(&args.compile, &args.arch)?)
}

fn functions_of(compiled: &Compiled) -> Result<&[Function], CliError> {
    compiled.functions().map_err(compile_error)
}

fn clif(function: &Function) -> Result<String, CliError> {
    fuse_codegen::cranelift::clif(function).map_err(CliError::bug)
}

fn assembly(function: &Function) -> Result<String, CliError> {
    fuse_codegen::cranelift::asm(function).map_err(CliError::bug)
}

/// What the fast tier of the CPU runs.
fn fast_text(
    args: &DumpArgs,
    graph: &Graph,
    compiled: &dyn Fn(Target) -> Result<Compiled, CliError>,
) -> Result<String, CliError> {
    let compiled = compiled(Target::Cpu)?;
    let (kernels, functions) = crate::fast::schedule(graph, &compiled.kernels).map_err(compile_error)?;
    match args.stage {
        Stage::Kernels => Ok(kernels_text(&kernels, &compiled)),
        Stage::KernelIr => Ok(kernel_ir_text(&functions)),
        Stage::Clif => each(&functions, clif),
        Stage::Asm => each(&functions, assembly),
        Stage::Graph | Stage::Dot | Stage::Egraph | Stage::Llvm | Stage::Ptx => {
            Err(CliError::usage("--tier fast: only the stages kernels, kernel-ir, clif and asm are its own"))
        }
    }
}

/// What the peak tier of the CPU makes.
#[cfg(feature = "llvm")]
fn peak_text(
    args: &DumpArgs,
    graph: &Graph,
    compiled: &dyn Fn(Target) -> Result<Compiled, CliError>,
) -> Result<String, CliError> {
    use fuse_codegen::llvm::{Optimization, host};
    let compiled = compiled(Target::Cpu)?;
    let (kernels, functions) = crate::peak::schedule(graph, &compiled.kernels).map_err(compile_error)?;
    let alone = std::slice::from_ref::<Function>;
    match args.stage {
        Stage::Kernels => Ok(kernels_text(&kernels, &compiled)),
        Stage::KernelIr => Ok(kernel_ir_text(&functions)),
        Stage::Asm => {
            each(&functions, |f| host::assembly(alone(f), Optimization::Full).map_err(CliError::bug))
        }
        Stage::Llvm => {
            each(&functions, |f| host::llvm_ir(alone(f), Optimization::Full).map_err(CliError::bug))
        }
        Stage::Graph | Stage::Dot | Stage::Egraph | Stage::Clif | Stage::Ptx => {
            Err(CliError::usage("--tier peak: only the stages kernels, kernel-ir, llvm and asm are its own"))
        }
    }
}

fn kernels_text(kernels: &KernelGraph, compiled: &Compiled) -> String {
    // As comments, so that what is printed can be read back.
    let report: String = compiled.report.to_string().lines().map(|l| format!("// {l}\n")).collect();
    format!("{kernels}\n{report}")
}

fn kernel_ir_text(functions: &[Function]) -> String {
    functions.iter().map(|f| format!("{}\n", text::print(f))).collect()
}

fn each(
    functions: &[Function],
    text: impl Fn(&Function) -> Result<String, CliError>,
) -> Result<String, CliError> {
    let mut out = String::new();
    for function in functions {
        out.push_str(&format!("; kernel {}\n{}\n", function.name, text(function)?));
    }
    Ok(out)
}

/// The options that the command line asks for.
pub fn options(args: &CompileArgs, target: Target) -> CompileOptions {
    let mut options = match args.rewrite {
        Rewrite::On => CompileOptions::new(target),
        Rewrite::Off => CompileOptions::unfused(target),
    };
    options.rewrite.fast_math = args.fast_math;
    options.precision = args.precision;
    options.loops = args.loops.form();
    options
}

/// Compiles a model.
fn compile_graph(graph: &Graph, options: &CompileOptions) -> Result<Compiled, CliError> {
    compile(graph, options).map_err(compile_error)
}

/// Loads and compiles a model.
pub fn compile_model(path: &Path, options: &CompileOptions) -> Result<Compiled, CliError> {
    compile_graph(&model::load(path)?, options)
}

/// Tells a compiler bug from a mistake in the model.
pub fn compile_error(e: CompileError) -> CliError {
    if e.is_bug() { CliError::bug(e) } else { CliError::input(e) }
}
