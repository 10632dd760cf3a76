//! `fuse run`: a model on its inputs.

use fuse_ir::{DimEnv, Graph, Tensor};
use fuse_runtime::{Device, DeviceName, DeviceOptions, Executable};

use super::args::{CompileArgs, DeviceArgs, RunArgs};
use super::dump::{compile_error, options};
use super::error::CliError;
use super::model::Problem;
use super::table;
use crate::compile::{Compiled, Target, compile};
use crate::io::npz;
use crate::random::Named;
use crate::weights::WeightsDtype;

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<(), CliError> {
    check_device(&args.device)?;
    let mut problem = Problem::load(&args.model, args.inputs.as_deref())?;
    let parameters = std::mem::take(&mut problem.parameters);
    let loaded = Loaded::new(&problem, parameters, &args.compile, &args.device)?;
    loaded.say_accuracy()?;
    if args.plan {
        let plan = loaded.executable.plan(&problem.dims).map_err(CliError::input)?;
        super::print(&plan.to_string())?;
    }
    let outputs = loaded.run(&problem)?;
    let names = problem.graph.outputs().iter().map(|o| o.name.as_str());
    match &args.outputs {
        Some(path) => npz::write(path, names.zip(&outputs)).map_err(CliError::input),
        None => super::print(&summary(&problem.graph, &outputs)),
    }
}

/// A model that is ready to run on a device.
pub struct Loaded {
    /// The compiled model.
    pub compiled: Compiled,
    /// The loaded model, weights bound.
    pub executable: Executable,
    weights_dtype: WeightsDtype,
}

impl Loaded {
    /// Compiles a model, loads it and binds its weights, whose memory is let go where only other layouts of them are
    /// needed.
    pub fn new(
        problem: &Problem,
        parameters: Named,
        args: &CompileArgs,
        device: &DeviceArgs,
    ) -> Result<Self, CliError> {
        let name = check_device(device)?;
        let mut options = options(args, Target::of(name));
        options.tier = device.tier;
        options.weights_dtype = device.weights_dtype;
        let memory_limit = device.memory_limit.map(|mib| mib.saturating_mul(1 << 20));
        let settings = DeviceOptions { threads: device.threads, memory_limit, ..DeviceOptions::default() };
        let device = Device::open(name, &settings).map_err(CliError::input)?;
        options.gpu = device.gpu_limits().map_err(CliError::input)?.unwrap_or(options.gpu);
        let compiled = compile(&problem.graph, &options).map_err(compile_error)?;
        let mut executable = compiled.load(&device).map_err(compile_error)?;
        executable.bind(parameters).map_err(CliError::input)?;
        Ok(Loaded { compiled, executable, weights_dtype: options.weights_dtype })
    }

    /// Says what was asked for at the expense of accuracy, where it happens, and what it costs.
    pub fn say_accuracy(&self) -> Result<(), CliError> {
        let weights = accuracy(&self.compiled, self.weights_dtype);
        let products = rounding(&self.compiled)?;
        weights.into_iter().chain(products).for_each(|statement| eprintln!("{statement}"));
        Ok(())
    }

    /// One run.
    pub fn run(&self, problem: &Problem) -> Result<Vec<Tensor>, CliError> {
        let mut outputs = Vec::new();
        self.run_into(problem, &mut outputs)?;
        Ok(outputs)
    }

    /// One run that writes over earlier outputs.
    pub fn run_into(&self, problem: &Problem, outputs: &mut Vec<Tensor>) -> Result<(), CliError> {
        let done = self.executable.run_into(&problem.inputs, &problem.dims, outputs);
        done.map_err(|e| CliError::input(format!("{}: {e}", problem.file)))
    }
}

/// Which weights are stored narrower than given, and what that does to results; nothing where none was asked for.
fn accuracy(compiled: &Compiled, dtype: WeightsDtype) -> Option<String> {
    let (narrow, bound) = (compiled.narrow_weights.as_ref()?, dtype.bound()?);
    let names = narrow.parameters.iter().map(|i| compiled.graph.inputs()[*i].name.as_str());
    let names: Vec<&str> = names.collect();
    Some(if names.is_empty() {
        format!(
            "no weight is stored as {}: no sum of 32 products or more in a loop reads one of f32 and of known size",
            narrow.dtype
        )
    } else {
        format!("stored as {}: {}; {bound}", narrow.dtype, names.join(", "))
    })
}

/// Which kernels round factors of their products, and what that does to results; nothing where none was asked to.
pub fn rounding(compiled: &Compiled) -> Result<Option<String>, CliError> {
    let precision = compiled.precision;
    let kernels = compiled.rounded_kernels().map_err(compile_error)?;
    Ok(precision.statement(&kernels))
}

/// The device that the command line names; a mistake there is told before any work.
pub fn check_device(args: &DeviceArgs) -> Result<DeviceName, CliError> {
    if args.threads == Some(0) {
        return Err(CliError::usage("--threads 0: at least one thread is needed"));
    }
    args.device.parse().map_err(CliError::usage)
}

/// The values of the dimensions, as text.
pub fn dims_text(dims: &DimEnv) -> String {
    dims.iter().map(|(s, v)| format!("{s}={v}")).collect::<Vec<_>>().join(" ")
}

fn summary(graph: &Graph, outputs: &[Tensor]) -> String {
    let mut rows = vec![["output", "type", "min", "max", "mean", "NaN"].map(str::to_owned).to_vec()];
    for (output, tensor) in graph.outputs().iter().zip(outputs) {
        let values = tensor.to_f64();
        let finite = || values.iter().copied().filter(|v| !v.is_nan());
        let count = finite().count();
        let show = |v: f64| if count == 0 { "-".to_owned() } else { format!("{v:.6}") };
        rows.push(vec![
            output.name.clone(),
            format!("{}{:?}", tensor.dtype(), tensor.shape()),
            show(finite().fold(f64::INFINITY, f64::min)),
            show(finite().fold(f64::NEG_INFINITY, f64::max)),
            show(finite().sum::<f64>() / count as f64),
            (values.len() - count).to_string(),
        ]);
    }
    table::render(&rows)
}
