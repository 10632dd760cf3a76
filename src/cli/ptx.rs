//! `fuse ptx`: kernels for programs that launch them themselves.

use super::args::{CompileArgs, PtxArgs};
use super::dump::{compile_model, options};
use super::error::CliError;
use crate::compile::{CompileOptions, Compiled, Target};

/// Runs the command.
pub fn ptx(args: &PtxArgs) -> Result<(), CliError> {
    if args.stats {
        return super::stats::stats(args);
    }
    let compiled = compile_model(&args.model, &options_for(&args.compile, &args.arch)?)?;
    if let Some(statement) = super::run::rounding(&compiled)? {
        eprintln!("{statement}");
    }
    match &args.output {
        None => super::print(&module_text(&compiled, args)?),
        Some(dir) => write_files(&compiled, args, dir),
    }
}

/// The options that the command line asks for, for the least GPU of an architecture.
#[cfg(feature = "llvm")]
pub fn options_for(args: &CompileArgs, arch: &str) -> Result<CompileOptions, CliError> {
    let gpu = ptx_options(arch)?.arch.limits();
    Ok(CompileOptions { gpu, ..options(args, Target::Cuda) })
}

#[cfg(feature = "llvm")]
fn ptx_options(arch: &str) -> Result<fuse_codegen::llvm::PtxOptions, CliError> {
    let arch: fuse_codegen::llvm::Arch =
        arch.parse().map_err(|e| CliError::usage(format!("--arch {arch}: {e}")))?;
    Ok(fuse_codegen::llvm::PtxOptions::new(arch))
}

/// The functions for the least GPU of an architecture.
#[cfg(feature = "llvm")]
fn functions<'c>(
    compiled: &'c Compiled,
    options: &fuse_codegen::llvm::PtxOptions,
) -> Result<std::borrow::Cow<'c, [fuse_codegen::kernel_ir::Function]>, CliError> {
    compiled.functions_for(options.arch.limits()).map_err(super::dump::compile_error)
}

/// What the command asks for.
#[cfg(feature = "llvm")]
fn options_of(args: &PtxArgs) -> Result<fuse_codegen::llvm::PtxOptions, CliError> {
    use fuse_codegen::llvm::{Indices, PtxOptions};
    let indices = if args.wide_indices { Indices::Wide } else { Indices::Narrow };
    Ok(PtxOptions { indices, ..ptx_options(&args.arch)? })
}

/// All kernels as one PTX module, as the command asks for it.
#[cfg(feature = "llvm")]
fn module_text(compiled: &Compiled, args: &PtxArgs) -> Result<String, CliError> {
    let options = options_of(args)?;
    text_of(compiled, &functions(compiled, &options)?, &options)
}

/// Functions as a PTX module that says what each was made of.
#[cfg(feature = "llvm")]
fn text_of(
    compiled: &Compiled,
    functions: &[fuse_codegen::kernel_ir::Function],
    options: &fuse_codegen::llvm::PtxOptions,
) -> Result<String, CliError> {
    let text = fuse_codegen::llvm::ptx::ptx(functions, options).map_err(CliError::bug)?;
    Ok(fuse_codegen::llvm::commented(&text, &compiled.kernels, functions))
}

/// All kernels as one PTX module.
#[cfg(feature = "llvm")]
pub fn ptx_text(compiled: &Compiled, arch: &str) -> Result<String, CliError> {
    let options = ptx_options(arch)?;
    text_of(compiled, &functions(compiled, &options)?, &options)
}

/// All kernels as one LLVM module.
#[cfg(feature = "llvm")]
pub fn llvm_text(compiled: &Compiled, arch: &str) -> Result<String, CliError> {
    let options = ptx_options(arch)?;
    fuse_codegen::llvm::ptx::llvm_ir(&functions(compiled, &options)?, &options).map_err(CliError::bug)
}

#[cfg(feature = "llvm")]
fn write_files(compiled: &Compiled, args: &PtxArgs, dir: &std::path::Path) -> Result<(), CliError> {
    use crate::manifest::Manifest;
    let options = options_of(args)?;
    let io = |path: &std::path::Path, e: std::io::Error| CliError::input(format!("{}: {e}", path.display()));
    std::fs::create_dir_all(dir).map_err(|e| io(dir, e))?;
    let functions = functions(compiled, &options)?;
    for function in functions.iter() {
        let text = text_of(compiled, std::slice::from_ref(function), &options)?;
        let path = dir.join(format!("{}.ptx", function.name));
        std::fs::write(&path, text).map_err(|e| io(&path, e))?;
    }
    let manifest = Manifest::new(compiled, &functions, &options).map_err(CliError::bug)?;
    let text = serde_json::to_string_pretty(&manifest).map_err(CliError::bug)? + "\n";
    let path = dir.join("manifest.json");
    std::fs::write(&path, text).map_err(|e| io(&path, e))
}

#[cfg(not(feature = "llvm"))]
fn without_llvm<T>() -> Result<T, CliError> {
    Err(CliError::usage(
        "this fuse was built without LLVM, which emits PTX; build it with the feature `llvm`",
    ))
}

/// The options that the command line asks for; this build knows no architectures.
#[cfg(not(feature = "llvm"))]
pub fn options_for(args: &CompileArgs, _: &str) -> Result<CompileOptions, CliError> {
    Ok(options(args, Target::Cuda))
}

/// All kernels as one PTX module; not in this build.
#[cfg(not(feature = "llvm"))]
pub fn ptx_text(_: &Compiled, _: &str) -> Result<String, CliError> {
    without_llvm()
}

/// All kernels as one LLVM module; not in this build.
#[cfg(not(feature = "llvm"))]
pub fn llvm_text(_: &Compiled, _: &str) -> Result<String, CliError> {
    without_llvm()
}

#[cfg(not(feature = "llvm"))]
fn module_text(_: &Compiled, _: &PtxArgs) -> Result<String, CliError> {
    without_llvm()
}

#[cfg(not(feature = "llvm"))]
fn write_files(_: &Compiled, _: &PtxArgs, _: &std::path::Path) -> Result<(), CliError> {
    without_llvm()
}
