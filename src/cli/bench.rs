//! `fuse bench`: compile time, run time and memory of a model.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use fuse_ir::{Literal, Tensor};
use fuse_runtime::KernelTime;
use serde::Serialize;

use super::args::{BenchArgs, Rewrite};
use super::error::CliError;
use super::model::Problem;
use super::run::{Loaded, check_device, dims_text};
use super::table;
use crate::io::npz;

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    model: String,
    device: String,
    tier: String,
    weights_dtype: &'static str,
    precision: &'static str,
    dims: String,
    rewrite: &'static str,
    /// From the model in memory to the first complete result: compile, load, bind and run.
    first_ms: f64,
    /// From there to when the code that is measured is in use.
    ready_ms: f64,
    /// Of the runs after a warm-up.
    median_ms: f64,
    min_ms: f64,
    runs: usize,
    /// Against --expected: of the first run, and of the last, which may be of another tier.
    max_abs_err: Option<f64>,
    /// Of the whole process, at its highest.
    peak_rss_mib: f64,
    /// Distinct kernels, and those inside a loop.
    kernels: usize,
    loop_kernels: usize,
    /// Of one run.
    launches: i64,
    /// Intermediate tensors: the planned arena.
    arena_bytes: u64,
    /// With --profile, the time in each kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Vec<ProfileRow>>,
}

/// The time in one kernel, by thread.
#[derive(Debug, Serialize)]
struct ProfileRow {
    kernel: String,
    launches: u64,
    running_ms: Vec<f64>,
    waiting_ms: Vec<f64>,
}

/// Runs the command.
pub fn bench(args: &BenchArgs) -> Result<(), CliError> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(CliError::usage(format!("--seconds {}: give a time up to an hour", args.seconds)));
    }
    check_device(&args.device)?;
    let mut problem = Problem::load(&args.model, args.inputs.as_deref())?;
    let mut expected =
        args.expected.as_deref().map(npz::Archive::open).transpose().map_err(CliError::input)?;
    let parameters = std::mem::take(&mut problem.parameters);
    let start = Instant::now();
    let loaded = Loaded::new(&problem, parameters, &args.compile, &args.device)?;
    let mut outputs = loaded.run(&problem)?;
    let first = start.elapsed();
    let mut error =
        |outputs: &[Tensor]| expected.as_mut().map(|e| max_abs_error(&problem, outputs, e)).transpose();
    loaded.executable.wait_for_improvement();
    let ready = start.elapsed();
    loaded.say_accuracy()?;
    let first_error = error(&outputs)?;
    let times = measure(Duration::from_secs_f64(args.seconds), || loaded.run_into(&problem, &mut outputs))?;
    let profile = args.profile.then(|| profile(&loaded, &problem)).transpose()?;
    let max_abs_err = first_error.zip(error(&outputs)?).map(|(first, last)| f64::max(first, last));
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let kernels = loaded.compiled.kernels.kernels();
    let figures = Figures {
        model: problem.graph.name().to_owned(),
        device: args.device.device.clone(),
        tier: args.device.tier.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
        weights_dtype: args.device.weights_dtype.name(),
        precision: args.compile.precision.name(),
        dims: dims_text(&problem.dims),
        rewrite: if args.compile.rewrite == Rewrite::On { "on" } else { "off" },
        first_ms: ms(first),
        ready_ms: ms(ready),
        median_ms: ms(times[times.len() / 2]),
        min_ms: ms(times[0]),
        runs: times.len(),
        max_abs_err,
        peak_rss_mib: peak_rss_mib(),
        kernels: kernels.len(),
        loop_kernels: kernels.iter().filter(|(_, depth)| *depth > 0).count(),
        launches: loaded.compiled.kernels.launches().eval_dim(&problem.dims).map_err(CliError::input)?,
        arena_bytes: loaded.executable.plan(&problem.dims).map_err(CliError::input)?.arena_bytes,
        profile,
    };
    report(args, &figures)
}

/// Times of runs, ascending: a tenth of the time warms up, at least three runs count.
fn measure(
    total: Duration,
    mut run: impl FnMut() -> Result<(), CliError>,
) -> Result<Vec<Duration>, CliError> {
    let progress = super::progress::timed("measuring", total);
    let begin = Instant::now();
    while begin.elapsed() < total / 10 {
        run()?;
    }
    let mut times = Vec::new();
    while begin.elapsed() < total || times.len() < 3 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
        progress.set_position(begin.elapsed().as_millis() as u64);
    }
    progress.finish_and_clear();
    times.sort();
    Ok(times)
}

/// The kernels of the run of median time among twenty.
fn profile(loaded: &Loaded, problem: &Problem) -> Result<Vec<ProfileRow>, CliError> {
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(loaded.executable.profile(&problem.inputs, &problem.dims).map_err(CliError::input)?);
    }
    let total = |run: &Vec<KernelTime>| -> Duration {
        run.iter()
            .map(|k| k.running.iter().zip(&k.waiting).map(|(r, w)| *r + *w).max().unwrap_or_default())
            .sum()
    };
    runs.sort_by_key(total);
    let ms = |times: &[Duration]| times.iter().map(|d| d.as_secs_f64() * 1e3).collect();
    let row = |k: KernelTime| ProfileRow {
        running_ms: ms(&k.running),
        waiting_ms: ms(&k.waiting),
        kernel: k.kernel,
        launches: k.launches,
    };
    Ok(runs.swap_remove(runs.len() / 2).into_iter().map(row).collect())
}

/// The largest difference of any element of the outputs from what is expected, of which a part at a time is read: the
/// memory of the process is to be that of the model.
fn max_abs_error(
    problem: &Problem,
    outputs: &[Tensor],
    expected: &mut npz::Archive,
) -> Result<f64, CliError> {
    let mut worst = 0f64;
    let compared = expected.for_each(|expected| {
        let mut named = problem.graph.outputs().iter().zip(outputs);
        let Some((_, got)) = named.find(|(o, _)| o.name == expected.array) else { return Ok(()) };
        if expected.shape != got.shape() {
            return Err(format!("the output has shape {:?}, this has {:?}", got.shape(), expected.shape));
        }
        for (i, wanted) in expected.values.iter().enumerate() {
            let (a, b) = (got.get(expected.start + i).map_or(f64::NAN, Literal::as_f64), wanted.as_f64());
            let difference = if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() };
            worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
        }
        Ok(())
    });
    compared.map_err(CliError::input)?;
    Ok(worst)
}

/// The process's largest resident set, in MiB; from the kernel's account of it.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |k| k / 1024.0)
}

fn report(args: &BenchArgs, figures: &Figures) -> Result<(), CliError> {
    let line = serde_json::to_string(figures).map_err(CliError::bug)? + "\n";
    match &args.json {
        Some(path) if path.as_os_str() == "-" => return super::print(&line),
        Some(path) => {
            std::fs::write(path, line).map_err(|e| CliError::input(format!("{}: {e}", path.display())))?
        }
        None => {}
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let error = match figures.max_abs_err {
        Some(e) => format!("{e:.2e}"),
        None => "not measured (give --expected, or use fuse check)".into(),
    };
    let rows = [
        row("model", format!("{} at {}", figures.model, figures.dims)),
        row("device", format!("{}, tier {}, rewrite {}", figures.device, figures.tier, figures.rewrite)),
        row("weights", format!("stored as {}", figures.weights_dtype)),
        row("products", format!("factors of f32 as {}", figures.precision)),
        row("kernels", format!("{}, {} of them in a loop", figures.kernels, figures.loop_kernels)),
        row("launches a run", figures.launches.to_string()),
        row("first result", format!("{:.2} ms, compiling included", figures.first_ms)),
        row("code in use", format!("{:.2} ms", figures.ready_ms)),
        row("median", format!("{:.3} ms of {} runs", figures.median_ms, figures.runs)),
        row("minimum", format!("{:.3} ms", figures.min_ms)),
        row("largest error", error),
        row("arena", format!("{:.2} MiB", figures.arena_bytes as f64 / (1 << 20) as f64)),
        row("peak memory", format!("{:.1} MiB", figures.peak_rss_mib)),
    ];
    super::print(&table::render(&rows))?;
    figures.profile.as_ref().map_or(Ok(()), |profile| super::print(&profile_table(profile)))
}

fn profile_table(profile: &[ProfileRow]) -> String {
    let heading = ["kernel", "launches", "ms, by thread", "waiting in it, ms"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let all = |times: &[f64]| times.iter().map(|ms| format!("{ms:.3}")).collect::<Vec<_>>().join(" ");
    for row in profile {
        let (running, waiting) = (all(&row.running_ms), all(&row.waiting_ms));
        rows.push(vec![row.kernel.clone(), row.launches.to_string(), running, waiting]);
    }
    format!("\n{}", table::render(&rows))
}
