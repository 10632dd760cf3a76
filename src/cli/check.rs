//! `fuse check`: every backend that can run here against the reference interpreter.

use fuse_ir::compare::{Agreement, Tolerance, compare_within};
use fuse_ir::interp::{Estimate, FactorRounding, Interpreter, LIKELIHOOD, Precision};
use fuse_ir::{DType, Graph, Op, Tensor};
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
    /// The largest part of what rounding may change in an element that its error is.
    share: Option<f64>,
    detail: String,
}

/// Runs the command; fails if a backend that runs here disagrees.
pub fn check(args: &CheckArgs) -> Result<(), CliError> {
    let known = backends();
    if let Some(unknown) = args.devices.iter().find(|d| known.iter().all(|b| b.device != **d)) {
        let names = "cpu, sim, sim:sm_90a and cuda:0";
        return Err(CliError::usage(format!("--device {unknown}: there are {names}")));
    }
    let problem = Problem::load(&args.model, args.inputs.as_deref())?;
    let progress = super::progress::spinner("interpreting in f64");
    let exact = Expected::new(&problem, FactorRounding::default())?;
    let on_gpus = match args.precision {
        ProductPrecision::F32 => None,
        precision => Some(Expected::new(&problem, precision.factor_rounding())?),
    };
    let tolerance = Tolerance { ulp: 0.0, absolute: args.atol, relative: args.rtol };
    let mut verdicts = Vec::new();
    let chosen = |b: &Backend| match args.devices.as_slice() {
        [] => b.device != WITH_WARP_GROUPS,
        devices => devices.iter().any(|d| d == b.device),
    };
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
            Some(reason) => Verdict::without_error(name, "skipped", reason),
            None => {
                let precision = if device == "cpu" { ProductPrecision::F32 } else { args.precision };
                let options = CompileArgs { rewrite, fast_math: false, precision, loops: Loops::Clusters };
                let outputs = run_on(&problem, device, tier, &options, &mut rounding);
                let expected = on_gpus.as_ref().filter(|_| device != "cpu").unwrap_or(&exact);
                judge(name, outputs, &problem, expected, tolerance)
            }
        });
    }
    progress.finish_and_clear();
    let allowances = [("", Some(&exact)), ("on GPUs, ", on_gpus.as_ref())];
    let allowances = allowances.into_iter().filter_map(|(on, e)| Some(format!("{on}{}", e?.allowance()?)));
    let allowances: Vec<String> = allowances.collect();
    report(args, &problem, &verdicts, (rounding.as_deref(), &allowances))?;
    match verdicts.iter().find(|v| v.verdict == "DISAGREES" || v.verdict == "failed") {
        Some(v) => Err(CliError::input(format!("{} {}: {}", v.backend, v.verdict, v.detail))),
        None => Ok(()),
    }
}

/// What the interpreter gives, and how far from that rounding may lead.
struct Expected {
    outputs: Vec<Tensor>,
    /// For each output what rounding may change in its elements; empty where nothing but f32 and f64 is rounded.
    estimates: Vec<Estimate>,
}

impl Expected {
    fn new(problem: &Problem, rounding: FactorRounding) -> Result<Expected, CliError> {
        let interpreter = Interpreter::new(Precision::F64).with_dims(problem.dims.clone());
        let (graph, values) = (&problem.graph, problem.values());
        if rounding == FactorRounding::default() && !has_narrow_floats(graph) {
            let outputs = interpreter.run(graph, &values).map_err(CliError::input)?;
            return Ok(Expected { outputs, estimates: Vec::new() });
        }
        let estimates = interpreter.run_with_errors(graph, &values, rounding).map_err(CliError::input)?;
        Ok(Expected { outputs: estimates.iter().map(|e| e.value.clone()).collect(), estimates })
    }

    /// What rounding may change, for people.
    fn allowance(&self) -> Option<String> {
        let most = |of: fn(&Estimate) -> &[f64]| self.estimates.iter().flat_map(of).copied().reduce(f64::max);
        let (likely, worst) = (most(|e| &e.likely)?, most(|e| &e.worst)?);
        let odds = -(2.0 * (-LIKELIHOOD * LIKELIHOOD / 2.0).exp()).log10();
        Some(format!(
            "rounding may change an element by up to {likely:.2e} beside --atol and --rtol, an estimate for independent \
             rounding errors to first order, through all steps of loops (exceeded with probability 10^-{odds:.0}); \
             by up to {worst:.2e} if all of them added up"
        ))
    }
}

/// Whether anything in a graph is a float of 16 bits.
fn has_narrow_floats(graph: &Graph) -> bool {
    let is_narrow = |dtype| matches!(dtype, DType::F16 | DType::Bf16);
    let in_scan = |op: &Op| matches!(op, Op::Scan(scan) if has_narrow_floats(&scan.body));
    graph.values().any(|(_, v)| is_narrow(v.ty.dtype)) || graph.nodes().any(|(_, node)| in_scan(&node.op))
}

impl Verdict {
    fn without_error(backend: String, verdict: &'static str, detail: String) -> Verdict {
        Verdict { backend, verdict, max_abs_err: None, share: None, detail }
    }
}

/// The simulated GPU that is given code for its own architecture alone, where it is asked for.
const WITH_WARP_GROUPS: &str = "sim:sm_90a";

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
        (WITH_WARP_GROUPS, Tier::Fast),
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
    expected: &Expected,
    tolerance: Tolerance,
) -> Verdict {
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(e) => return Verdict::without_error(backend, "failed", e.message),
    };
    let mut all = Agreement::default();
    let names = problem.graph.outputs().iter().map(|o| &o.name);
    for (i, ((name, got), value)) in names.zip(&outputs).zip(&expected.outputs).enumerate() {
        let allowed = expected.estimates.get(i).map_or(&[][..], |e| &e.likely);
        match compare_within(got, value, tolerance, allowed) {
            Ok(agreement) => all = all.merge(agreement),
            Err(e) => return Verdict::without_error(backend, "DISAGREES", format!("output `{name}`: {e}")),
        }
    }
    let share = (!expected.estimates.is_empty()).then_some(all.max_share);
    let part = share.map_or(String::new(), |s| format!(", at most {s:.2} of what rounding may change"));
    let detail = format!("{} outputs{part}", outputs.len());
    Verdict { backend, verdict: "agrees", max_abs_err: Some(all.max_absolute), share, detail }
}

fn report(
    args: &CheckArgs,
    problem: &Problem,
    verdicts: &[Verdict],
    (rounding, allowances): (Option<&str>, &[String]),
) -> Result<(), CliError> {
    if args.json {
        let value = serde_json::json!({
            "model": problem.graph.name(),
            "dims": dims_text(&problem.dims),
            "atol": args.atol,
            "rtol": args.rtol,
            "precision": args.precision.name(),
            "rounding": rounding,
            "allowances": allowances,
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
    let allowances: String = allowances.iter().map(|statement| format!("{statement}\n")).collect();
    super::print(&format!(
        "{} at {}, against the interpreter in f64\n{}{rounding}{allowances}",
        problem.graph.name(),
        dims_text(&problem.dims),
        table::render(&rows)
    ))
}
