//! `fuse check`: every backend that can run here against the reference interpreter.

use fuse_ir::Tensor;
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::interp::{Interpreter, Precision};
use fuse_runtime::Device;
use serde::Serialize;

use super::args::{CheckArgs, CompileArgs, DeviceArgs, Loops, Rewrite};
use super::error::CliError;
use super::model::Problem;
use super::run::{Loaded, dims_text};
use super::table;
use crate::precision::ProductPrecision;
use crate::tier::Tier;
use crate::weights::WeightsDtype;

/// One backend's verdict.
#[derive(Debug, Serialize)]
struct Verdict {
    backend: String,
    /// `agrees`, `DISAGREES`, `skipped` or `failed`.
    verdict: &'static str,
    max_abs_err: Option<f64>,
    detail: String,
}

/// Runs the command; fails if a backend that runs here disagrees.
pub fn check(args: &CheckArgs) -> Result<(), CliError> {
    let known = backends();
    if let Some(unknown) = args.devices.iter().find(|d| known.iter().all(|b| b.device != **d)) {
        return Err(CliError::usage(format!("--device {unknown}: there are cpu, sim and cuda:0")));
    }
    let problem = Problem::load(&args.model, args.inputs.as_deref())?;
    let progress = super::progress::spinner("interpreting in f64");
    let expected = Interpreter::new(Precision::F64)
        .with_dims(problem.dims.clone())
        .run(&problem.graph, &problem.values())
        .map_err(CliError::input)?;
    let tolerance = Tolerance { ulp: 0.0, absolute: args.atol, relative: args.rtol };
    let mut verdicts = Vec::new();
    let chosen = |b: &Backend| args.devices.is_empty() || args.devices.iter().any(|d| d == b.device);
    let mut rounding = None;
    for Backend { device, tier, rewrite } in known.into_iter().filter(chosen) {
        let mut name = device.to_owned();
        if tier != Tier::Fast {
            name += ", peak tier";
        }
        if rewrite == Rewrite::Off {
            name += ", unfused";
        }
        progress.set_message(name.clone());
        verdicts.push(match absence(device) {
            Some(reason) => Verdict { backend: name, verdict: "skipped", max_abs_err: None, detail: reason },
            None => {
                let precision = if device == "cpu" { ProductPrecision::F32 } else { args.precision };
                let options = CompileArgs { rewrite, fast_math: false, precision, loops: Loops::Clusters };
                let outputs = run_on(&problem, device, tier, &options, &mut rounding);
                judge(name, outputs, &problem, &expected, tolerance)
            }
        });
    }
    progress.finish_and_clear();
    report(args, &problem, &verdicts, rounding.as_deref())?;
    match verdicts.iter().find(|v| v.verdict == "DISAGREES" || v.verdict == "failed") {
        Some(v) => Err(CliError::input(format!("{} {}: {}", v.backend, v.verdict, v.detail))),
        None => Ok(()),
    }
}

/// What is compared with the interpreter.
struct Backend {
    device: &'static str,
    tier: Tier,
    rewrite: Rewrite,
}

fn backends() -> Vec<Backend> {
    let devices = [
        ("cpu", Tier::Fast),
        #[cfg(feature = "llvm")]
        ("cpu", Tier::Peak),
        ("sim", Tier::Fast),
        ("cuda:0", Tier::Fast),
    ];
    let both = |(device, tier)| [Rewrite::On, Rewrite::Off].map(|rewrite| Backend { device, tier, rewrite });
    devices.into_iter().flat_map(both).collect()
}

/// Why a device cannot run here, if so.
fn absence(device: &str) -> Option<String> {
    if device != "cpu" && cfg!(not(feature = "llvm")) {
        return Some("this fuse was built without LLVM".to_owned());
    }
    let opened = device.parse().and_then(|name| Device::open(name, &Default::default()));
    opened.err().map(|e| e.to_string())
}

/// Runs on a backend; `rounding` becomes what the first one that rounds factors says of it.
fn run_on(
    problem: &Problem,
    device: &str,
    tier: Tier,
    compile: &CompileArgs,
    rounding: &mut Option<String>,
) -> Result<Vec<Tensor>, CliError> {
    let device = DeviceArgs {
        device: device.to_owned(),
        tier,
        weights_dtype: WeightsDtype::Given,
        threads: None,
        memory_limit: None,
    };
    let loaded = Loaded::new(problem, problem.parameters.clone(), compile, &device)?;
    if rounding.is_none() {
        *rounding = super::run::rounding(&loaded.compiled)?;
    }
    loaded.run(problem)
}

fn judge(
    backend: String,
    outputs: Result<Vec<Tensor>, CliError>,
    problem: &Problem,
    expected: &[Tensor],
    tolerance: Tolerance,
) -> Verdict {
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(e) => return Verdict { backend, verdict: "failed", max_abs_err: None, detail: e.message },
    };
    let mut worst = 0f64;
    for ((output, got), expected) in problem.graph.outputs().iter().zip(&outputs).zip(expected) {
        match compare(got, expected, tolerance) {
            Ok(agreement) => worst = worst.max(agreement.max_absolute),
            Err(e) => {
                let detail = format!("output `{}`: {e}", output.name);
                return Verdict { backend, verdict: "DISAGREES", max_abs_err: None, detail };
            }
        }
    }
    let detail = format!("{} outputs", outputs.len());
    Verdict { backend, verdict: "agrees", max_abs_err: Some(worst), detail }
}

fn report(
    args: &CheckArgs,
    problem: &Problem,
    verdicts: &[Verdict],
    rounding: Option<&str>,
) -> Result<(), CliError> {
    if args.json {
        let value = serde_json::json!({
            "model": problem.graph.name(),
            "dims": dims_text(&problem.dims),
            "atol": args.atol,
            "rtol": args.rtol,
            "precision": args.precision.name(),
            "rounding": rounding,
            "backends": verdicts,
        });
        return super::print(&format!("{value}\n"));
    }
    let mut rows = vec![["backend", "verdict", "max abs error", ""].map(str::to_owned).to_vec()];
    for v in verdicts {
        let error = v.max_abs_err.map_or("-".to_owned(), |e| format!("{e:.2e}"));
        rows.push(vec![v.backend.clone(), v.verdict.to_owned(), error, v.detail.clone()]);
    }
    let rounding = rounding.map(|statement| format!("on GPUs, {statement}\n")).unwrap_or_default();
    super::print(&format!(
        "{} at {}, against the interpreter in f64\n{}{rounding}",
        problem.graph.name(),
        dims_text(&problem.dims),
        table::render(&rows)
    ))
}
