//! Subgraphs: `If`, `Loop` and `Scan`.

mod plan;
mod repeat;
mod scan;

use fuse_ir::TensorType;

use super::super::call::Call;
use super::super::error::{Built, Problem, refuse};
use super::super::importer::Scope;
use super::super::proto::GraphProto;
use super::super::table::{Evaluation::Own, OpRow, row};
use super::super::value::Value;
use crate::ScanOptions;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("If", (1, 25), &["then_branch", "else_branch"], Own, branch, ""),
    row("Loop", (1, 25), &["body"], Own, repeat::repeat, ENDS_EARLY),
    row(
        "Scan",
        (8, 25),
        SCAN_ATTRIBUTES,
        Own,
        scan::scan,
        "in opset 8 for a known batch size and without sequence lengths",
    ),
];

const ENDS_EARLY: &str = "the trip count must be known, or an expression of dimensions; a condition that depends on \
                          data may end the loop early if it has no scan outputs";

const SCAN_ATTRIBUTES: &[&str] = &[
    "body",
    "num_scan_inputs",
    "directions",
    "scan_input_directions",
    "scan_output_directions",
    "scan_input_axes",
    "scan_output_axes",
];

/// Runs a subgraph on values for its inputs.
fn run(call: &Call<'_>, graph: &GraphProto, inputs: &[Value]) -> Built<Vec<Value>> {
    if graph.input.len() != inputs.len() {
        let text =
            format!("graph `{}` takes {} inputs, not {}", graph.name(), graph.input.len(), inputs.len());
        return refuse(text);
    }
    let scope = Scope::new(Some(call.scope));
    for (input, value) in graph.input.iter().zip(inputs) {
        scope.set(input.name(), value.clone())?;
    }
    call.importer.graph(graph, &scope)
}

/// `If`: one branch where the condition is known, otherwise both and a choice between their results.
fn branch(call: &Call<'_>) -> Built<Vec<Value>> {
    let branches = [call.attributes.graph("then_branch")?, call.attributes.graph("else_branch")?];
    let one = |condition: bool| run(call, branches[usize::from(!condition)], &[]);
    if let Some(known) = call.value(0)?.as_known() {
        return one(known.get(0).is_some_and(|v| v.as_i64() != 0));
    }
    let both: Built<bool> = call.trace().speculate(|| {
        let then = run(call, branches[0], &[])?;
        let other = run(call, branches[1], &[])?;
        let same = |(a, b): (&Value, &Value)| a.dtype() == b.dtype() && a.shape() == b.shape();
        Ok(then.len() == other.len() && then.iter().zip(&other).all(same))
    });
    let same = match both {
        Ok(same) => same,
        Err(problem) if problem.is_settled_by_a_restart() => return Err(problem),
        Err(_) => false,
    };
    if !same {
        // The branches differ in their types, or one of them cannot be computed: which one must be known.
        let condition = call.scalar(0, "the condition, as the branches give results of different types,")?;
        return one(condition.as_i64() != 0);
    }
    let (then, other) = (run(call, branches[0], &[])?, run(call, branches[1], &[])?);
    let condition = call.tensor(0)?.reshape(());
    let choose = |(a, b): (&Value, &Value)| -> Built<Value> {
        let (a, b) = (call.importer.tensor(a)?, call.importer.tensor(b)?);
        Ok(condition.broadcast_to(a.shape()).select(&a, &b).into())
    };
    then.iter().zip(&other).map(choose).collect()
}

/// Requires a carried value to keep its type.
fn same_type(call: &Call<'_>, old: &Value, new: &Value) -> Built<()> {
    let ty = |v: &Value| TensorType::new(v.dtype(), v.shape());
    if old.dtype() != new.dtype() || old.rank() != new.rank() {
        return refuse(format!("a carried value is {} before a step and {} after it", ty(old), ty(new)));
    }
    old.shape().iter().zip(&new.shape()).try_for_each(|(a, b)| call.equal(a, b))
}

/// A scan of the trace whose body may fail. The body gets the carried tensors and one slice of each scanned one, and
/// returns the new carries, then what to stack.
fn scanned(
    call: &Call<'_>,
    options: ScanOptions,
    initial: &[Value],
    inputs: &[Tensor],
    body: impl FnOnce(&[Tensor], &[Tensor]) -> Built<Vec<Value>>,
) -> Built<Vec<Value>> {
    let initial = initial.iter().map(|v| call.importer.tensor(v)).collect::<Built<Vec<_>>>()?;
    let mut failure = None;
    let (last, stacked) = call.trace().scan_with(options, initial, inputs.to_vec(), |carry, slices| {
        let results = body(&carry, &slices).and_then(|results| {
            for (old, new) in carry.iter().zip(&results) {
                same_type(call, &old.clone().into(), new)?;
            }
            results.iter().map(|v| call.importer.tensor(v)).collect::<Built<Vec<_>>>()
        });
        match results {
            Ok(mut results) => {
                let stacked = results.split_off(carry.len().min(results.len()));
                (results, stacked)
            }
            Err(problem) => {
                failure = Some(problem);
                (carry, Vec::new())
            }
        }
    });
    match failure {
        Some(problem) => Err(problem),
        None => Ok(last.into_iter().chain(stacked).map(Value::from).collect()),
    }
}

/// How many steps a loop is unrolled to at most.
const MAX_UNROLLED: i64 = 4096;

fn missing_carry() -> Problem {
    Problem::Refused("a carried value is missing".into())
}
