//! Parts of a kernel that have no sums in common.
//!
//! Reductions over equal extents share a loop. Where that makes more of them than there are registers, as in the cell of
//! a layer that runs in both directions, several loops follow each other, and what the first ones sum must wait in
//! memory for the last. Stores that need none of the others' sums had better be done with before.

use std::collections::BTreeSet;

use fuse_ir::kernel::{Element, ElementId};
pub(super) use fuse_ir::kernel_parts::Part;
use fuse_ir::kernel_parts::Shared;

use super::analysis::Analysis;

/// Sums that one loop has registers for, with several rows of each.
pub(super) const MOST_TOGETHER: usize = 4;

/// What tiles compute one after the other: parts that share no reduction where there are many, otherwise those that
/// share nothing of what `shared` says, or all in one.
pub(super) fn parts(analysis: &Analysis, shared: Option<Shared>) -> Vec<Part> {
    let is_reduction = |id: &ElementId| matches!(analysis.element(*id), Element::Reduce { .. });
    let reductions: BTreeSet<ElementId> =
        analysis.ids().filter(|id| analysis.needed[id.index()] && is_reduction(id)).collect();
    let all = || Part { stores: (0..analysis.stores.len()).collect(), reductions: reductions.clone() };
    if analysis.recurrence_axis.is_some() {
        return vec![all()];
    }
    let shared = if reductions.len() > MOST_TOGETHER { Some(Shared::Reductions) } else { shared };
    shared.map_or_else(|| vec![all()], |shared| analysis.kernel.parts(shared))
}
