//! The interpreter against values that no part of the compiler computed: one trial for each op and type.

use std::collections::BTreeSet;
use std::process::ExitCode;

use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::conformance::{Case, cases};
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::ops::{OP_ROWS, OpRow};
use fuse_ir::{DType, Op, ReduceOp, ScalarOp};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = cases();
    let mut trials = vec![coverage_trial(&cases)];
    trials.extend(
        cases.into_iter().map(|case| Trial::test(format!("conformance::{}", case.name), move || run(&case))),
    );
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(case: &Case) -> Result<(), Failed> {
    // In its declared types the interpreter rounds once; the millionth is for the error of the f64 function.
    let declared = Tolerance::ulp(if case.tolerance == Tolerance::EXACT { 0.0 } else { 0.5 + 1e-6 });
    check(case, Precision::Declared, |dtype| if dtype == DType::F64 { case.tolerance } else { declared })?;
    // Expected values that are exact are rounded to their type, where the unrounded result need not be.
    check(case, Precision::F64, |dtype| match case.tolerance {
        Tolerance::EXACT if dtype.is_float() && dtype != DType::F64 => Tolerance::absolute(f64::INFINITY),
        tolerance => tolerance,
    })
}

fn check(case: &Case, precision: Precision, tolerance: impl Fn(DType) -> Tolerance) -> Result<(), Failed> {
    let outputs = interpret(&case.graph, &case.inputs, precision).map_err(|e| e.to_string())?;
    if outputs.len() != case.expected.len() {
        return Err(format!("{} outputs, {} expected", outputs.len(), case.expected.len()).into());
    }
    for ((got, expected), output) in outputs.iter().zip(&case.expected).zip(case.graph.outputs()) {
        let declared = case.graph.ty(output.value).dtype;
        compare(got, expected, tolerance(declared))
            .map_err(|e| format!("output `{}` of {declared} under {precision:?}: {e}", output.name))?;
    }
    Ok(())
}

/// Fails where an op of either table has no case in a type that it takes.
fn coverage_trial(cases: &[Case]) -> Trial {
    let names: BTreeSet<String> = cases.iter().map(|c| c.name.clone()).collect();
    let variants: BTreeSet<String> = cases
        .iter()
        .flat_map(|c| c.graph.nodes().map(|(_, n)| variant(&n.op).to_string()).collect::<Vec<_>>())
        .collect();
    let count = cases.len();
    Trial::test("every_op_has_cases_in_every_type", move || {
        let mut missing = Vec::new();
        let has = |op: &str, dtype: DType| {
            let (start, end) = (format!("{op}::"), format!("::{dtype}"));
            names.iter().any(|n| n.starts_with(&start) && n.ends_with(&end))
        };
        for op in ScalarOp::ALL {
            let types = DType::ALL.into_iter().filter(|d| op.domain().contains(*d));
            missing.extend(types.filter(|d| !has(op.mnemonic(), *d)).map(|d| format!("{op:?} of {d}")));
        }
        for op in ReduceOp::ALL {
            let types = DType::ALL.into_iter().filter(|d| *d != DType::Bool);
            missing.extend(types.filter(|d| !has(op.mnemonic(), *d)).map(|d| format!("{op:?} of {d}")));
        }
        for from in DType::ALL {
            let pairs = DType::ALL.into_iter().map(|to| format!("cast::{from}_to_{to}"));
            missing.extend(pairs.filter(|name| !names.contains(name)));
        }
        let rows = OP_ROWS.iter().map(|r: &OpRow| r.variant.to_string());
        missing.extend(rows.filter(|v| !variants.contains(v)));
        if names.len() != count {
            missing.push(format!("{} names that are not used already", count - names.len()));
        }
        if missing.is_empty() { Ok(()) } else { Err(format!("no cases for: {}", missing.join(", ")).into()) }
    })
}

/// The name of the enum variant, as in the table's rows.
fn variant(op: &Op) -> &'static str {
    match op {
        Op::Constant { .. } => "Constant",
        Op::Iota { .. } => "Iota",
        Op::Scalar(_) => "Scalar",
        Op::Cast { .. } => "Cast",
        Op::Reshape { .. } => "Reshape",
        Op::Broadcast { .. } => "Broadcast",
        Op::Transpose { .. } => "Transpose",
        Op::Slice { .. } => "Slice",
        Op::Pad { .. } => "Pad",
        Op::Concat { .. } => "Concat",
        Op::Reverse { .. } => "Reverse",
        Op::Gather { .. } => "Gather",
        Op::Reduce { .. } => "Reduce",
        Op::Contract { .. } => "Contract",
        Op::Scan(_) => "Scan",
    }
}
