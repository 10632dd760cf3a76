//! The fast tier's products: by a routine with the machine's widest vectors where it has one, see
//! `fuse_codegen::schedule::ScheduleTarget::cpu_with_panels`.

use fuse_codegen::cranelift::panel_lanes;
use fuse_codegen::kernel_ir::Function;
use fuse_codegen::schedule::ScheduleTarget;
use fuse_ir::Graph;
use fuse_ir::kernel::KernelGraph;
use fuse_rewrite::{panel_parameters, split_given_products, split_products};

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
