//! `fuse dump`: the model at one stage.

use std::path::Path;

use fuse_codegen::text;

use super::args::{CompileArgs, DumpArgs, Rewrite, Stage};
use super::error::CliError;
use super::model;
use crate::compile::{CompileError, CompileOptions, Compiled, Target, compile};

/// Runs the command.
pub fn dump(args: &DumpArgs) -> Result<(), CliError> {
    super::print(&stage_text(args)?)
}

fn stage_text(args: &DumpArgs) -> Result<String, CliError> {
    let graph = model::load(&args.model)?;
    let device: fuse_runtime::DeviceName = args.device.parse().map_err(CliError::usage)?;
    let target = Target::of(device);
    let compiled = |target| compile_model(&args.model, &args.compile, target);
    Ok(match args.stage {
        Stage::Graph => graph.to_string(),
        Stage::Dot => fuse_ir::dot(&graph),
        Stage::Egraph => {
            let options = options(&args.compile, target);
            fuse_rewrite::dump_egraph(&graph, &options.rewrite).map_err(CliError::bug)?
        }
        Stage::Kernels => {
            let compiled = compiled(target)?;
            // As comments, so that what is printed can be read back.
            let report: String = compiled.report.to_string().lines().map(|l| format!("// {l}\n")).collect();
            format!("{}\n{report}", compiled.kernels)
        }
        Stage::KernelIr => compiled(target)?
            .functions
            .iter()
            .map(|f| format!("{}\n", text::print(f)))
            .collect::<Vec<_>>()
            .concat(),
        Stage::Clif => {
            each(&compiled(Target::Cpu)?, |f| fuse_codegen::cranelift::clif(f).map_err(CliError::bug))?
        }
        Stage::Asm => {
            each(&compiled(Target::Cpu)?, |f| fuse_codegen::cranelift::asm(f).map_err(CliError::bug))?
        }
        Stage::Llvm => super::ptx::llvm_text(&compiled(Target::Cuda)?, &args.arch)?,
        Stage::Ptx => super::ptx::ptx_text(&compiled(Target::Cuda)?, &args.arch)?,
    })
}

fn each(
    compiled: &Compiled,
    text: impl Fn(&fuse_codegen::kernel_ir::Function) -> Result<String, CliError>,
) -> Result<String, CliError> {
    let mut out = String::new();
    for function in &compiled.functions {
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
    options
}

/// Loads and compiles a model.
pub fn compile_model(path: &Path, args: &CompileArgs, target: Target) -> Result<Compiled, CliError> {
    compile(&model::load(path)?, &options(args, target)).map_err(compile_error)
}

/// Tells a compiler bug from a mistake in the model.
pub fn compile_error(e: CompileError) -> CliError {
    if e.is_bug() { CliError::bug(e) } else { CliError::input(e) }
}
