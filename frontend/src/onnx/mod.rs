//! Import of ONNX models.
//!
//! [`import_file`] reads a model and traces what its nodes compute. Dimensions that the model leaves open become
//! symbols, so one import serves every length and batch size; what an operator needs to know when it is compiled (the
//! target of a `Reshape`, the axes of a reduction) is folded from constants and shapes. Where it comes from an input
//! of the model, that input's value must be given ([`ImportOptions::values`]); the import then holds for that value.
//!
//! | file | concept |
//! |---|---|
//! | `table` | one row an operator: what is supported, and what builds it |
//! | `model` | what a model imports, defines and takes |
//! | `importer` | the walk over nodes |
//! | `call` | a node as its builder sees it |
//! | `value` | known tensors, integers made of dimensions, traced tensors |
//! | `fold` | nodes whose inputs are known |
//! | `dims` | arithmetic of dimensions |
//! | `ops/` | builders, by family |
//! | `budget` | what an import may cost |
//! | `describe` | what a file holds, without an import |
//! | `file`, `wire` | model files, and what decoding them would take |
//! | `external` | data outside of the model file |

use std::collections::BTreeMap;
use std::path::Path;

use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{Dim, DimEnv, Graph};

mod attribute;
mod budget;
mod call;
mod describe;
mod dims;
mod error;
mod external;
mod file;
mod fold;
mod function;
mod importer;
mod model;
mod ops;
#[allow(missing_docs, clippy::all)]
mod proto;
mod table;
mod tensor;
mod value;
mod wire;

pub use describe::{Description, describe_file};
pub use error::{NodeName, OnnxError, UnsupportedNode};
pub use table::{OpRow, rows};

use error::{Built, Problem};
use importer::{Importer, Scope};
use model::Model;
use proto::ModelProto;

/// The newest operator set that is read, that of onnx 1.23.
pub const NEWEST_OPSET: i64 = 28;
/// The oldest operator set that is read. Operators that changed up to 7 are refused in older ones.
pub const OLDEST_OPSET: i64 = 1;

/// What is known of a model's inputs while it is imported.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Values of inputs. Those that an operator needs when it is compiled are compiled in.
    pub values: BTreeMap<String, HostTensor>,
    /// Values of dimensions. Those that an operator needs when it is compiled are compiled in.
    pub dims: DimEnv,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What it computes. Inputs of the model are inputs, initializers that it uses are parameters.
    pub graph: Graph,
    /// The values of the parameters.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Inputs of the model whose given values are compiled in; they are no inputs of the graph.
    pub compiled_in: Vec<String>,
}

/// Imports the model in a file.
///
/// # Errors
/// Where the file is no model, or one that fuse cannot compile; see [`OnnxError`].
pub fn import_file(path: &Path, options: &ImportOptions) -> Result<Imported, OnnxError> {
    let bytes = file::map(path)?;
    let data = tensor::Data::new(Some(file::directory(path)), bytes.len());
    let proto = file::decode(bytes)?;
    import_proto(&proto, data, options)
}

/// Imports the model in a buffer. It must hold all its tensors itself.
///
/// # Errors
/// Where the bytes are no model, or one that fuse cannot compile; see [`OnnxError`].
pub fn import_bytes(bytes: &[u8], options: &ImportOptions) -> Result<Imported, OnnxError> {
    let proto = file::decode(prost::bytes::Bytes::copy_from_slice(bytes))?;
    import_proto(&proto, tensor::Data::new(None, bytes.len()), options)
}

/// Imports again and again, each time with one more thing fixed that a node turned out to need.
fn import_proto(
    proto: &ModelProto,
    data: tensor::Data<'_>,
    options: &ImportOptions,
) -> Result<Imported, OnnxError> {
    let mut model = Model::new(proto, data)?;
    let unsupported = model.unsupported();
    if !unsupported.is_empty() {
        return Err(OnnxError::Unsupported(unsupported));
    }
    loop {
        match attempt(&model, options) {
            Ok(imported) => return Ok(imported),
            Err(problem) => settle(&mut model, options, problem)?,
        }
    }
}

/// Fixes what the import failed for the lack of.
///
/// # Errors
/// Where that is not possible.
fn settle(model: &mut Model<'_>, options: &ImportOptions, problem: Problem) -> Result<(), OnnxError> {
    match problem {
        Problem::Located(error) => Err(error),
        Problem::Refused(problem) => Err(OnnxError::Model(problem)),
        Problem::NeedsValues { what, inputs } => {
            let missing: Vec<&String> = inputs.iter().filter(|i| model.given(options, i).is_none()).collect();
            let all_fixed = inputs.iter().all(|i| model.fixed.inputs.contains(i));
            if !missing.is_empty() || all_fixed {
                let names = missing.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
                let text = format!(
                    "{what} when the model is compiled; give the value of input {names} with --inputs"
                );
                return Err(OnnxError::Model(text));
            }
            model.fixed.inputs.extend(inputs);
            Ok(())
        }
        Problem::NeedsDims { what, symbols } => {
            let known = model.known_dims(options);
            for symbol in &symbols {
                let Some(value) = known.get(symbol) else {
                    let text = format!(
                        "{what} when the model is compiled; give the dimension with --dim {symbol}=N"
                    );
                    return Err(OnnxError::Model(text));
                };
                model.fixed.set(symbol.clone(), Dim::constant(*value))?;
            }
            if symbols.is_empty() { Err(OnnxError::Model(what)) } else { Ok(()) }
        }
        Problem::Unequal(a, b) => unify(model, &a, &b),
    }
}

/// Lets two sizes be one.
fn unify(model: &mut Model<'_>, a: &Dim, b: &Dim) -> Result<(), OnnxError> {
    let (a, b) = (model.resolved(a), model.resolved(b));
    if let Some((symbol, dim)) = error::solved(&a, &b) {
        return model.fixed.set(symbol, dim);
    }
    Err(OnnxError::Model(format!("the sizes {a} and {b} must be equal")))
}

/// One pass over the model.
fn attempt(model: &Model<'_>, options: &ImportOptions) -> Built<Imported> {
    model.data.restart(model.read_bytes());
    let mut result: Built<()> = Ok(());
    let mut parameters = Vec::new();
    let graph = crate::trace(&graph_name(model.graph.name()), |t| {
        let importer = Importer::new(model, t);
        result = run(&importer, options);
        parameters = importer.parameters();
    });
    result?;
    let graph = graph.map_err(|e| OnnxError::Model(e.message()))?;
    let parameters = parameters.into_iter().map(|(name, constant)| (name, constant.tensor.clone())).collect();
    let compiled_in = model.fixed.inputs.iter().cloned().collect();
    Ok(Imported { graph, parameters, compiled_in })
}

fn run(importer: &Importer<'_>, options: &ImportOptions) -> Built<()> {
    let scope = Scope::new(None);
    for input in importer.model.plain_inputs() {
        scope.set(input.name(), importer.model.input(&importer.trace, input, options)?)?;
    }
    if let Some(error) = importer.trace.failure() {
        return Err(Problem::Refused(error));
    }
    let outputs = importer.graph(importer.model.graph, &scope)?;
    for (output, value) in importer.model.graph.output.iter().zip(&outputs) {
        importer.trace.output(output.name(), importer.tensor(value)?);
    }
    Ok(())
}

/// The graph's name as an identifier.
fn graph_name(name: &str) -> String {
    let text: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
    match text.chars().next() {
        Some(c) if c.is_ascii_alphabetic() => text,
        _ => format!("model{}{text}", if text.is_empty() { "" } else { "_" }),
    }
}
