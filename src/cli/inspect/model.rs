//! What a model holds: its signature, parameters and operators, and what one run of it takes.

use std::collections::BTreeMap;
use std::fmt::Write;

use fuse_frontend::onnx::{self, Description, ImportOptions};
use fuse_ir::graph::{Graph, InputKind};
use fuse_ir::{DimEnv, Op};
use fuse_rewrite::{assumed_dims, cost_of};
use serde::Serialize;

use super::super::args::InspectArgs;
use super::super::error::CliError;
use super::super::explain::{BYTES, FLOPS, Figures, binds, quantity};
use super::super::model;
use super::super::run::dims_text;
use super::super::{print, table};
use crate::compile::{CompileOptions, Target};

/// What is said of a model, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    symbols: Vec<String>,
    parameters: Parameters,
    /// Operators of the file, ONNX's or the tensor IR's, with how often each stands there.
    operators: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    onnx: Option<OnnxFacts>,
    /// One run; absent where the model cannot be compiled.
    run: Option<Run>,
    /// Why it cannot be compiled.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Port {
    name: String,
    #[serde(rename = "type")]
    ty: String,
}

#[derive(Debug, Serialize)]
struct Parameters {
    count: usize,
    elements: u64,
    bytes: u64,
}

/// What only ONNX files say.
#[derive(Debug, Serialize)]
struct OnnxFacts {
    producer: String,
    ir_version: i64,
    opsets: BTreeMap<String, i64>,
    functions: usize,
    unsupported: Vec<String>,
}

/// What one run takes.
#[derive(Debug, Serialize)]
struct Run {
    dims: String,
    /// With one kernel per operation.
    before: Figures,
    /// Fused, without what is done once, when weights are bound.
    after: Figures,
}

/// Prints what a model holds.
pub fn inspect(args: &InspectArgs, onnx: bool) -> Result<(), CliError> {
    let dims = model::parse_dims(&args.dims)?;
    let report = if onnx { of_onnx(args, &dims)? } else { of_text(args, &dims)? };
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(CliError::bug)?;
        return print(&format!("{text}\n"));
    }
    print(&report.text())
}

fn of_text(args: &InspectArgs, dims: &DimEnv) -> Result<Report, CliError> {
    let graph = model::load(&args.file)?;
    let port = |name: &str, value| Port { name: name.to_owned(), ty: graph.ty(value).to_string() };
    let inputs = graph.inputs().iter().filter(|i| i.kind == InputKind::Input);
    let parameters: Vec<_> = graph.inputs().iter().filter(|i| i.kind == InputKind::Parameter).collect();
    let extents = |i: &fuse_ir::graph::Input| graph.ty(i.value).elements().as_constant();
    // A parameter whose size is open has none yet.
    let elements = |i: &fuse_ir::graph::Input| extents(i).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let bytes = |i: &fuse_ir::graph::Input| elements(i).saturating_mul(graph.ty(i.value).dtype.size() as u64);
    let mut operators = BTreeMap::new();
    count(&graph, &mut operators);
    check_dims(graph.name(), &names(&graph), dims)?;
    Ok(Report {
        model: graph.name().to_owned(),
        inputs: inputs.map(|i| port(&i.name, i.value)).collect(),
        outputs: graph.outputs().iter().map(|o| port(&o.name, o.value)).collect(),
        symbols: names(&graph),
        parameters: Parameters {
            count: parameters.len(),
            elements: parameters.iter().map(|i| elements(i)).fold(0, u64::saturating_add),
            bytes: parameters.iter().map(|i| bytes(i)).fold(0, u64::saturating_add),
        },
        operators,
        onnx: None,
        run: Some(one_run(&graph, dims)?),
        problem: None,
    })
}

fn of_onnx(args: &InspectArgs, dims: &DimEnv) -> Result<Report, CliError> {
    let file = args.file.display();
    let found = onnx::describe_file(&args.file).map_err(|e| model::onnx_error(&args.file, e))?;
    check_dims(&found.name, &found.symbols, dims)?;
    let options = ImportOptions { values: BTreeMap::new(), dims: dims.clone() };
    let mut inferred = BTreeMap::new();
    let (run, problem) = match model::read(&args.file, &options) {
        Ok(imported) => {
            let graph = &imported.graph;
            inferred.extend(graph.outputs().iter().map(|o| (o.name.clone(), graph.ty(o.value).to_string())));
            (Some(one_run(graph, dims)?), None)
        }
        Err(e) => (None, Some(e.message.strip_prefix(&format!("{file}: ")).unwrap_or(&e.message).to_owned())),
    };
    let Description { name, inputs, outputs, symbols, operators, .. } = &found;
    // Exporters write names of their own for what an output's dimensions follow from.
    let ports = |list: &[(String, String)]| -> Vec<Port> {
        let ty = |name: &String, declared: &String| inferred.get(name).unwrap_or(declared).clone();
        list.iter().map(|(name, declared)| Port { name: name.clone(), ty: ty(name, declared) }).collect()
    };
    let domain = |name: &str| if name.is_empty() { "ai.onnx".to_owned() } else { name.to_owned() };
    let unsupported = found.unsupported.iter().map(|u| format!("{}: {}", u.node, u.reason));
    Ok(Report {
        model: name.clone(),
        inputs: ports(inputs),
        outputs: ports(outputs),
        symbols: symbols.clone(),
        parameters: Parameters { count: found.initializers, elements: found.elements, bytes: found.bytes },
        operators: operators.clone(),
        onnx: Some(OnnxFacts {
            producer: found.producer.clone(),
            ir_version: found.ir_version,
            opsets: found.opsets.iter().map(|(name, version)| (domain(name), *version)).collect(),
            functions: found.functions,
            unsupported: unsupported.collect(),
        }),
        run,
        problem,
    })
}

fn names(graph: &Graph) -> Vec<String> {
    graph.symbols().iter().map(ToString::to_string).collect()
}

fn check_dims(model: &str, symbols: &[String], dims: &DimEnv) -> Result<(), CliError> {
    match dims.iter().find(|(symbol, _)| !symbols.iter().any(|s| s == symbol.name())) {
        Some((unknown, _)) => Err(CliError::usage(format!(
            "`{model}` has no dimension `{unknown}`; it has {}",
            if symbols.is_empty() { "none".to_owned() } else { symbols.join(", ") }
        ))),
        None => Ok(()),
    }
}

/// Counts the ops of a graph, those in the bodies of scans too.
fn count(graph: &Graph, operators: &mut BTreeMap<String, usize>) {
    for (_, node) in graph.nodes() {
        *operators.entry(node.op.mnemonic().to_owned()).or_default() += 1;
        if let Op::Scan(scan) = &node.op {
            count(&scan.body, operators);
        }
    }
}

/// What one run takes on the CPU; dimensions that are not given have the values that the search assumes.
fn one_run(graph: &Graph, given: &DimEnv) -> Result<Run, CliError> {
    let options = CompileOptions::new(Target::Cpu);
    let device = Target::Cpu.model();
    let mut dims = assumed_dims(graph);
    for (symbol, value) in given.iter().filter(|(s, _)| graph.symbols().contains(s)) {
        dims.set(symbol.clone(), value);
    }
    let found = fuse_rewrite::explain(graph, &device, &options.rewrite).map_err(CliError::bug)?;
    let (before, after) = (cost_of(&found.before, &device, &dims), cost_of(&found.after, &device, &dims));
    let kernels = found.after.kernels();
    let running = kernels.iter().zip(&after.kernels).filter(|((k, _), _)| !binds(k)).map(|(_, cost)| cost);
    Ok(Run {
        dims: dims_text(&dims),
        before: Figures::of_kernels(&before.kernels),
        after: Figures::of_kernels(running),
    })
}

impl Report {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.model);
        if let Some(facts) = &self.onnx {
            let opsets: Vec<String> = facts.opsets.iter().map(|(d, v)| format!("{d} {v}")).collect();
            let producer = if facts.producer.is_empty() { "unknown" } else { &facts.producer };
            let _ = writeln!(
                out,
                "ONNX: opset {}; IR version {}; producer {producer}; functions: {}",
                opsets.join(", "),
                facts.ir_version,
                facts.functions
            );
        }
        let mut rows = Vec::new();
        for (what, ports) in [("input", &self.inputs), ("output", &self.outputs)] {
            rows.extend(ports.iter().map(|p| vec![what.to_owned(), p.name.clone(), p.ty.clone()]));
        }
        let _ = write!(out, "\n{}\n", table::render(&rows));
        let symbols = if self.symbols.is_empty() { "none".to_owned() } else { self.symbols.join(", ") };
        let Parameters { count, elements, bytes } = self.parameters;
        let size = quantity(bytes as f64, 1024.0, BYTES);
        let _ = writeln!(out, "dimensions  {symbols}\nparameters  {count}: {elements} elements, {size}");
        let mut operators: Vec<_> = self.operators.iter().collect();
        operators.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        let rows: Vec<_> =
            operators.iter().map(|(name, count)| vec![(*name).clone(), count.to_string()]).collect();
        let _ = write!(out, "\noperators\n{}", table::render(&rows));
        match (&self.run, &self.problem) {
            (Some(run), _) => out.push_str(&run.text()),
            (None, problem) => {
                let why = problem.as_deref().unwrap_or("for an unknown reason");
                let _ = writeln!(out, "\ncannot be compiled: {why}");
            }
        }
        out
    }
}

impl Run {
    fn text(&self) -> String {
        let row = |name: &str, value: &dyn Fn(&Figures) -> String| {
            vec![name.to_owned(), value(&self.before), value(&self.after)]
        };
        let at = if self.dims.is_empty() { String::new() } else { format!(" at {}", self.dims) };
        let rows = [
            vec![format!("one run{at}"), "one per op".into(), "fused".into()],
            row("launches", &|f| f.launches.to_string()),
            row("bytes moved", &|f| quantity(f.bytes, 1024.0, BYTES)),
            row("arithmetic", &|f| quantity(f.flops, 1000.0, FLOPS)),
        ];
        format!("\n{}", table::render(&rows))
    }
}
