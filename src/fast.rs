//! The fast tier: its products by a routine with the machine's widest vectors where it has one, see
//! `fuse_codegen::schedule::ScheduleTarget::cpu_with_panels`, and how much effort its functions are worth.

use fuse_codegen::cranelift::{Effort, panel_lanes};
use fuse_codegen::kernel_ir::Function;
use fuse_codegen::schedule::ScheduleTarget;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{Element, Kernel, KernelGraph, Step};
use fuse_ir::{DimEnv, Graph};
use fuse_rewrite::{KernelUse, cost_of, panel_parameters, split_given_products, split_products};
use fuse_runtime::FAST_OPERATIONS_PER_SECOND;

use crate::compile::{CompileError, schedule_all};
use crate::strips;

/// The kernels as the fast tier runs them, and their functions.
///
/// # Errors
/// Where scheduling fails.
pub fn schedule(graph: &Graph, given: &KernelGraph) -> Result<(KernelGraph, Vec<Function>), CompileError> {
    let mut kernels = given.clone();
    // Products and what is made of them are apart.
    strips::cut(&mut kernels, 2);
    let mut target = ScheduleTarget::cpu();
    if let Some((split, lanes)) = with_products(graph, &kernels) {
        (kernels, target) = (split, ScheduleTarget::cpu_with_panels(lanes));
    }
    fuse_ir::verify_kernels(&kernels)
        .map_err(|e| CompileError::Internal { stage: "the fast tier", problem: e.to_string() })?;
    let functions = schedule_all(&kernels, target)?;
    Ok((kernels, functions))
}

/// Runs that code is compiled for: where it stays, and where better code follows.
pub const RUNS_OF_LASTING_CODE: f64 = 50.0;
#[cfg(feature = "llvm")]
pub const RUNS_OF_FIRST_CODE: f64 = 1.0;

/// Seconds that full effort takes longer for each value of a function.
const SECONDS_OF_A_VALUE: f64 = 2e-6;
/// Of the time of code that was compiled quickly, what full effort saves: of sums, whose accumulators are spilled, and of others.
const SAVED_OF_QUICK_SUMS: f64 = 0.7;
const SAVED_OF_QUICK_CODE: f64 = 0.3;
/// What a transcendental function is of operations, roughly.
const OPERATIONS_OF_A_FUNCTION: f64 = 40.0;

/// How each function of these kernels is to be compiled, by what that takes and what it saves in so many runs at the dimensions
/// that the search assumes.
pub fn efforts(kernels: &KernelGraph, functions: &[Function], runs: f64) -> Vec<Effort> {
    let cost = cost_of(kernels, &DeviceModel::cpu(), &first_iterations(&kernels.steps, DimEnv::new()));
    let sums = |kernel: &Kernel| kernel.elements.iter().any(|e| matches!(e.element, Element::Reduce { .. }));
    let effort = |(function, ((kernel, _), used)): (&Function, ((&Kernel, usize), &KernelUse))| {
        // The routine is compiled already.
        let operations = match function.products().is_empty() {
            true => used.flops + OPERATIONS_OF_A_FUNCTION * used.transcendentals,
            false => 0.0,
        };
        let part = if sums(kernel) { SAVED_OF_QUICK_SUMS } else { SAVED_OF_QUICK_CODE };
        let saved = part * runs * operations / FAST_OPERATIONS_PER_SECOND;
        let takes = SECONDS_OF_A_VALUE * function.types.len() as f64;
        if saved > takes { Effort::Full } else { Effort::Quick }
    };
    functions.iter().zip(kernels.kernels().into_iter().zip(&cost.kernels)).map(effort).collect()
}

/// With the counters of loops where these begin: what depends on them (the steps of a strip) is then as large as it gets.
fn first_iterations(steps: &[Step], dims: DimEnv) -> DimEnv {
    steps.iter().fold(dims, |dims, step| match step {
        Step::Kernel(_) => dims,
        Step::Loop(l) => first_iterations(&l.body, dims.with(l.counter.name(), 0)),
    })
}

/// The kernels with products that the routine takes as kernels of their own, and how many columns it takes at a time; `None`
/// where there is no such product.
fn with_products(graph: &Graph, kernels: &KernelGraph) -> Option<(KernelGraph, u32)> {
    let lanes = panel_lanes()?;
    let mut kernels = kernels.clone();
    let columns = i64::from(lanes);
    let given = split_given_products(graph, &mut kernels, columns);
    panel_parameters(graph, &mut kernels, columns);
    let in_panels = split_products(&mut kernels, columns);
    (given + in_panels > 0).then_some((kernels, lanes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{CompileOptions, Target, compile};

    #[test]
    fn what_runs_at_every_step_is_worth_full_effort_where_it_stays() {
        let graph = fuse_frontend::zoo::lstm_graph(96, 64).unwrap();
        let compiled = compile(&graph, &CompileOptions::new(Target::Cpu)).unwrap();
        let (kernels, functions) = schedule(&graph, &compiled.kernels).unwrap();
        let all = kernels.kernels();
        let cell = all.iter().position(|(k, _)| k.ops.iter().any(|op| op == "tanh")).unwrap();
        let copies = all.iter().map(|(k, _)| ["panels", "pack", "copy"].contains(&k.ops[0].as_str()));
        let lasting = efforts(&kernels, &functions, RUNS_OF_LASTING_CODE);
        assert_eq!((lasting.len(), lasting[cell]), (all.len(), Effort::Full), "{kernels}");
        for (is_copy, effort) in copies.zip(&lasting) {
            assert!(!is_copy || *effort == Effort::Quick, "{kernels}");
        }
        // Without the routine, the cell's sums are worth it at once.
        if panel_lanes().is_some() {
            assert_eq!(efforts(&kernels, &functions, 1.0)[cell], Effort::Quick, "{kernels}");
        }
    }
}
