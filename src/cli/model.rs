//! From the command line to a model with weights and inputs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use fuse_frontend::onnx::{self, ImportOptions, Imported, OnnxError};
use fuse_ir::bind::{BindError, bind_given_dims};
use fuse_ir::graph::Input;
use fuse_ir::{DimEnv, Graph, InputKind, Symbol, Tensor};

use super::args::ModelArgs;
use super::error::{CliError, Fault};
use crate::io::{npz, weights};
use crate::random;

/// The largest model text that is read.
const MAX_MODEL_BYTES: u64 = 64 << 20;

/// A model from a file.
pub struct Model {
    /// What it computes.
    pub graph: Graph,
    /// The weights that the file itself holds.
    pub parameters: BTreeMap<String, Tensor>,
    /// Inputs whose given values are compiled in, so that the graph has none of these names.
    pub compiled_in: Vec<String>,
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

/// Reads a model: an ONNX file by its extension, otherwise a `.fuse` text. `known` is what is known of its inputs.
pub fn read(path: &Path, known: &ImportOptions) -> Result<Model, CliError> {
    if is_onnx(path) {
        let imported = onnx::import_file(path, known).map_err(|e| onnx_error(path, e))?;
        let Imported { graph, parameters, compiled_in } = imported;
        return Ok(Model { graph, parameters, compiled_in });
    }
    Ok(Model { graph: read_text(path)?, parameters: BTreeMap::new(), compiled_in: Vec::new() })
}

/// What is wrong with an ONNX file, which it names.
pub fn onnx_error(path: &Path, error: OnnxError) -> CliError {
    match error {
        // It names the file already.
        OnnxError::Io { .. } => CliError::input(error),
        error => CliError::input(format!("{}: {error}", path.display())),
    }
}

/// Reads a model for its graph alone.
pub fn load(path: &Path) -> Result<Graph, CliError> {
    Ok(read(path, &ImportOptions::default())?.graph)
}

/// Reads, parses and verifies a `.fuse` file.
fn read_text(path: &Path) -> Result<Graph, CliError> {
    let file = path.display().to_string();
    let io = |e: std::io::Error| CliError::input(format!("{file}: {e}"));
    let mut source = String::new();
    // A pipe has no size of its own.
    File::open(path).map_err(io)?.take(MAX_MODEL_BYTES + 1).read_to_string(&mut source).map_err(io)?;
    if source.len() as u64 > MAX_MODEL_BYTES {
        return Err(CliError::input(format!("{file}: a model has at most {MAX_MODEL_BYTES} bytes")));
    }
    let graph = fuse_ir::parse(&source)
        .map_err(|e| CliError::input(format!("{file} is not a model\n{}", e.render(&file, &source))))?;
    fuse_ir::verify(&graph).map_err(|e| CliError::input(format!("{file}: {e}")))?;
    Ok(graph)
}

/// Parses the `--dim NAME=N` arguments.
pub fn parse_dims(args: &[String]) -> Result<DimEnv, CliError> {
    let mut dims = DimEnv::new();
    for arg in args {
        let (name, value) = arg
            .split_once('=')
            .ok_or_else(|| CliError::usage(format!("--dim {arg}: expected NAME=N, as in --dim T=100")))?;
        let value: i64 = value
            .parse()
            .map_err(|_| CliError::usage(format!("--dim {arg}: `{value}` is not a whole number")))?;
        if value < 0 {
            return Err(CliError::usage(format!("--dim {arg}: a dimension is at least 0")));
        }
        if dims.set(Symbol::new(name), value).is_some_and(|old| old != value) {
            return Err(CliError::usage(format!("--dim {arg}: {name} has another value already")));
        }
    }
    Ok(dims)
}

/// A model with everything that a run needs.
pub struct Problem {
    /// The file, as errors name it.
    pub file: String,
    /// The model.
    pub graph: Graph,
    /// The inputs among them, by name.
    pub inputs: random::Named,
    /// The parameters among them, by name.
    pub parameters: random::Named,
    /// The dimensions of this run.
    pub dims: DimEnv,
}

impl Problem {
    /// The values of all inputs and parameters, in the order of the graph; of those that are still there.
    pub fn values(&self) -> Vec<Tensor> {
        let named = |input: &Input| match input.kind {
            InputKind::Input => self.inputs.get(&input.name),
            InputKind::Parameter => self.parameters.get(&input.name),
        };
        self.graph.inputs().iter().filter_map(named).cloned().collect()
    }

    /// Loads the model, its weights and its inputs; what is not given is random by the seed.
    pub fn load(args: &ModelArgs, inputs: Option<&Path>) -> Result<Problem, CliError> {
        let explicit = parse_dims(&args.dims)?;
        let values = match inputs {
            Some(path) if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) => {
                let name = only_input(&args.model)?;
                BTreeMap::from([(name, npz::read_array(path).map_err(CliError::input)?)])
            }
            Some(path) => npz::read(path).map_err(CliError::input)?,
            None => BTreeMap::new(),
        };
        let known = ImportOptions { values, dims: explicit.clone() };
        let model = read(&args.model, &known)?;
        let mut values = known.values;
        values.retain(|name, _| !model.compiled_in.contains(name));
        let given = given_values(&model, args, inputs.map(|path| (path, values)))?;
        let graph = model.graph;
        let source = inputs.unwrap_or(&args.model).display();
        let dims = bind(&graph, &given, &explicit).map_err(|e| match e.fault {
            Fault::Input => CliError::input(format!("{source}: {}", e.message)),
            Fault::Usage | Fault::Bug => e,
        })?;
        let value = |input: &Input| match given.get(&input.name) {
            Some(tensor) => Ok(tensor.clone()),
            None => random::value_for(&graph, input, &dims, args.seed)
                .map_err(|e| CliError::input(format!("{}: {e}", args.model.display()))),
        };
        let values: Vec<Tensor> = graph.inputs().iter().map(value).collect::<Result<_, _>>()?;
        let (parameters, inputs) = random::by_kind(&graph, &values);
        Ok(Problem { file: args.model.display().to_string(), graph, inputs, parameters, dims })
    }
}

/// The name of a model's only input, for an array without one.
fn only_input(model: &Path) -> Result<String, CliError> {
    let names: Vec<String> = if is_onnx(model) {
        let found = onnx::describe_file(model).map_err(|e| onnx_error(model, e))?;
        found.inputs.into_iter().map(|(name, _)| name).collect()
    } else {
        let graph = read_text(model)?;
        graph.inputs().iter().filter(|i| i.kind == InputKind::Input).map(|i| i.name.clone()).collect()
    };
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) => Err(CliError::usage(format!(
            "--inputs: the model has {} inputs; an .npy file is for a model with one, give an .npz file",
            names.len()
        ))),
    }
}

/// What files give: weights, then inputs (which may also replace weights).
fn given_values(
    model: &Model,
    args: &ModelArgs,
    inputs: Option<(&Path, BTreeMap<String, Tensor>)>,
) -> Result<BTreeMap<String, Tensor>, CliError> {
    let known = |kind: Option<InputKind>| -> Vec<&str> {
        let inputs = model.graph.inputs().iter().filter(|i| kind.is_none_or(|k| i.kind == k));
        inputs.map(|i| i.name.as_str()).collect()
    };
    let mut out = model.parameters.clone();
    if let Some(path) = weights_file(args) {
        let tensors = weights::read(&path).map_err(CliError::input)?;
        for name in known(Some(InputKind::Parameter)) {
            if !tensors.contains_key(name) && !out.contains_key(name) {
                return Err(CliError::input(format!(
                    "{}: the model's parameter `{name}` is missing",
                    path.display()
                )));
            }
        }
        reject_unknown(&path, tensors.keys(), &known(Some(InputKind::Parameter)))?;
        out.extend(tensors);
    }
    if let Some((path, tensors)) = inputs {
        for name in known(Some(InputKind::Input)) {
            if !tensors.contains_key(name) {
                let have: Vec<_> = tensors.keys().cloned().collect();
                return Err(CliError::input(format!(
                    "{}: the model's input `{name}` is missing; the file has {}",
                    path.display(),
                    if have.is_empty() { "nothing".to_owned() } else { have.join(", ") }
                )));
            }
        }
        reject_unknown(path, tensors.keys(), &known(None))?;
        out.extend(tensors);
    }
    Ok(out)
}

fn weights_file(args: &ModelArgs) -> Option<PathBuf> {
    args.weights.clone().or_else(|| {
        let beside = args.model.with_extension("safetensors");
        beside.is_file().then_some(beside)
    })
}

fn reject_unknown<'a>(
    path: &Path,
    mut names: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), CliError> {
    match names.find(|n| !known.contains(&n.as_str())) {
        Some(name) => Err(CliError::input(format!(
            "{}: the model has no `{name}`; it takes {}",
            path.display(),
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

/// The dimensions that the given tensors and `--dim` determine.
fn bind(graph: &Graph, given: &BTreeMap<String, Tensor>, explicit: &DimEnv) -> Result<DimEnv, CliError> {
    let signature = |i: &Input| given.get(&i.name).map(|t| (t.dtype(), t.shape()));
    let shapes: Vec<_> = graph.inputs().iter().map(signature).collect();
    bind_given_dims(graph, &shapes, explicit).map_err(|e| match e {
        BindError::Unknown { .. } | BindError::Negative { .. } | BindError::Unbound { .. } => {
            CliError::usage(e)
        }
        BindError::Count { .. }
        | BindError::Input { .. }
        | BindError::NegativeExtent { .. }
        | BindError::Slice { .. }
        | BindError::Eval(_) => CliError::input(e),
    })
}
