//! `fuse ptx --stats`: what the kernels execute and move, counted on the simulated GPU, and what `ptxas` says that they
//! take.

use std::collections::BTreeMap;

use fuse_codegen::kernel_ir::Function;
use fuse_runtime::sim::Counters;
use fuse_runtime::{Device, DeviceName, DeviceOptions};

use super::args::{ModelArgs, PtxArgs};
use super::dump::{compile_error, options};
use super::error::CliError;
use super::model::Problem;
use super::run::dims_text;
use super::table;
use crate::compile::{Compiled, Target, compile};

/// What ptxas says of a kernel: registers, bytes of spills, bytes of shared memory.
type Resources = BTreeMap<String, [u32; 3]>;

/// Runs the command.
pub fn stats(args: &PtxArgs) -> Result<(), CliError> {
    let model = ModelArgs { model: args.model.clone(), weights: None, seed: 0, dims: args.dims.clone() };
    let problem = Problem::load(&model, None)?;
    let compiled = compile(&problem.graph, &options(&args.compile, Target::Cuda)).map_err(compile_error)?;
    let warp_groups = args.arch == "sm_90a";
    let name = DeviceName::Sim { warp_groups };
    let device = Device::open(name, &DeviceOptions::default()).map_err(CliError::input)?;
    let mut executable = compiled.load(&device).map_err(compile_error)?;
    executable.bind(problem.parameters.clone()).map_err(CliError::input)?;
    executable.run(&problem.inputs, &problem.dims).map_err(CliError::input)?;
    let resources = resources(&compiled, &args.arch)?;
    let counted = device.counters().unwrap_or_default();
    let note = if resources.is_none() { "; no ptxas here (scripts/setup-ptxas.sh fetches it)" } else { "" };
    super::print(&format!(
        "{} at {}, one run on a simulated sm_90{}{note}\n{}",
        problem.graph.name(),
        dims_text(&problem.dims),
        if warp_groups { "a" } else { "" },
        rows(compiled.functions().map_err(compile_error)?, &counted, resources.as_ref())
    ))
}

fn rows(
    functions: &[Function],
    counted: &BTreeMap<String, Counters>,
    resources: Option<&Resources>,
) -> String {
    let head = [
        "kernel",
        "launches",
        "instructions",
        "integer",
        "float",
        "convert",
        "move",
        "memory",
        "control",
        "bytes read",
        "written",
        "sectors",
        "a request",
        "conflicts",
        "barriers",
        "distributed",
        "distributed bytes",
        "cluster barriers",
        "registers",
        "spills",
        "shared",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for function in functions {
        let c = counted.get(&function.name).copied().unwrap_or_default();
        let counts = [
            c.launches,
            c.instructions(),
            c.integer,
            c.float,
            c.convert,
            c.moves,
            c.memory,
            c.control,
            c.global_read,
            c.global_written,
            c.global_sectors,
        ];
        let mut row = vec![function.name.clone()];
        row.extend(counts.map(|n| n.to_string()));
        row.push(format!("{:.2}", c.global_sectors as f64 / c.global_requests.max(1) as f64));
        let shared =
            [c.bank_conflicts, c.barriers, c.distributed_requests, c.distributed_bytes, c.cluster_barriers];
        row.extend(shared.map(|n| n.to_string()));
        match resources.and_then(|r| r.get(&function.name)) {
            Some(known) => row.extend(known.map(|n| n.to_string())),
            None => row.extend(["-", "-", "-"].map(str::to_owned)),
        }
        rows.push(row);
    }
    table::render(&rows)
}

/// What ptxas says, where it is installed.
#[cfg(feature = "llvm")]
fn resources(compiled: &Compiled, arch: &str) -> Result<Option<Resources>, CliError> {
    let Some(ptxas) = fuse_codegen::llvm::ptxas::Ptxas::find() else { return Ok(None) };
    let text = super::ptx::ptx_text(compiled, arch)?;
    let arch = arch.parse().map_err(|e| CliError::usage(format!("--arch {arch}: {e}")))?;
    let found = ptxas.assemble(&text, arch).map_err(CliError::bug)?;
    Ok(Some(
        found
            .into_iter()
            .map(|r| (r.kernel, [r.registers, r.spill_stores + r.spill_loads, r.shared]))
            .collect(),
    ))
}

/// Without LLVM there is no PTX to assemble; loading has failed before.
#[cfg(not(feature = "llvm"))]
fn resources(_: &Compiled, _: &str) -> Result<Option<Resources>, CliError> {
    Ok(None)
}
