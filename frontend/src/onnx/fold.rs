//! Nodes whose inputs are all known are computed while the model is imported, by the reference interpreter.

use fuse_ir::interp::{Interpreter, Limits, Precision};
use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{Dim, Graph, Op, ValueId};

use super::call::Call;
use super::error::{Built, refuse};
use super::table::{Evaluation, OpRow};
use super::value::Value;
use crate::trace;

/// Larger tensors are left to the compiled program, which computes them faster than the interpreter.
const MAX_ELEMENTS: usize = 1 << 16;
/// The memory that folding one node may take.
const MAX_BYTES: u64 = 64 << 20;

/// Whether a node is computed now.
pub(crate) fn applies(row: &OpRow, call: &Call<'_>) -> bool {
    let small = |v: &Value| v.as_known().is_some_and(|t| t.elements() <= MAX_ELEMENTS);
    let mut given = call.inputs.iter().flatten().peekable();
    row.evaluation != Evaluation::Own && given.peek().is_some() && given.all(small)
}

/// Computes a node whose inputs are known.
pub(crate) fn fold(row: &OpRow, call: &Call<'_>) -> Built<Vec<Value>> {
    let mut result = None;
    let mut parameters = Vec::new();
    let graph = trace("fold", |t| {
        let importer = call.importer.within(t);
        let inner = Call {
            importer: &importer,
            scope: call.scope,
            attributes: call.attributes,
            inputs: call.inputs.clone(),
            outputs: call.outputs,
            opset: call.opset,
            name: call.name,
        };
        let built = (row.build)(&inner);
        if let Ok(values) = &built {
            for (i, value) in values.iter().enumerate() {
                // What is known already needs no computing, but the graph needs an output.
                if let Ok(tensor) = importer.tensor(value) {
                    t.output(&format!("y{i}"), tensor);
                }
            }
        }
        parameters = importer.parameters();
        result = Some(built);
    });
    let values = match result {
        Some(built) => built?,
        None => return refuse("it could not be computed"),
    };
    if values.iter().all(|v| !matches!(v, Value::Traced(_))) {
        return Ok(values);
    }
    let graph = match graph {
        Ok(graph) => graph,
        Err(error) => return refuse(error.message()),
    };
    if !call.importer.model.budget.compute(operations(&graph)) {
        return (row.build)(call);
    }
    let inputs: Vec<HostTensor> = parameters.iter().map(|(_, c)| c.tensor.clone()).collect();
    let interpreter = Interpreter::new(Precision::Declared).with_limits(Limits { bytes: MAX_BYTES });
    match interpreter.run(&graph, &inputs) {
        Ok(outputs) => Ok(outputs
            .into_iter()
            .enumerate()
            .map(|(i, tensor)| {
                let name = call.attributes.0.output.get(i).map_or("", String::as_str);
                Value::known(name, tensor)
            })
            .collect()),
        // Too large after all: the compiled program computes it.
        Err(_) => (row.build)(call),
    }
}

/// How many elements the interpreter computes for a graph; the most there are where that depends on a symbol.
fn operations(graph: &Graph) -> u64 {
    let extent = |dim: &Dim| dim.as_constant().and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX);
    let product = |dims: &mut dyn Iterator<Item = &Dim>| dims.map(extent).fold(1, u64::saturating_mul);
    let elements = |value: &ValueId| product(&mut graph.ty(*value).shape.iter());
    let mut total = 0u64;
    for (_, node) in graph.nodes() {
        let largest = node.operands.iter().chain(&node.results).map(elements).max().unwrap_or(0);
        let own = match &node.op {
            Op::Contract { axes, .. } => {
                let shape = &graph.ty(node.operands[0]).shape;
                largest.saturating_mul(product(&mut axes.iter().map(|(axis, _)| &shape[*axis])))
            }
            Op::Scan(scan) => extent(&scan.trip).saturating_mul(operations(&scan.body)),
            Op::Constant { .. }
            | Op::Iota { .. }
            | Op::Scalar(_)
            | Op::Cast { .. }
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Reverse { .. }
            | Op::Gather { .. }
            | Op::Reduce { .. } => 0,
        };
        total = total.saturating_add(own.max(largest));
    }
    total
}
