//! Parts of a kernel that have no sums in common.
//!
//! Reductions over equal extents share a loop. Where that makes more of them than there are registers, as in the cell of
//! a layer that runs in both directions, several loops follow each other, and what the first ones sum must wait in
//! memory for the last. Stores that need none of the others' sums had better be done with before.

use std::collections::BTreeSet;

use fuse_ir::kernel::{Element, ElementId};

use super::analysis::Analysis;

/// Sums that one loop has registers for, with several rows of each.
const MOST_TOGETHER: usize = 4;

/// Stores, and the reductions that they need and no other part does.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// By position.
    pub(super) stores: Vec<usize>,
    pub(super) reductions: BTreeSet<ElementId>,
}

/// What tiles compute one after the other: parts that share no reduction, or all in one where there are few.
pub(super) fn parts(analysis: &Analysis) -> Vec<Part> {
    let is_reduction = |id: &ElementId| matches!(analysis.element(*id), Element::Reduce { .. });
    let reductions: BTreeSet<ElementId> =
        analysis.ids().filter(|id| analysis.needed[id.index()] && is_reduction(id)).collect();
    let all = || vec![Part { stores: (0..analysis.stores.len()).collect(), reductions: reductions.clone() }];
    if reductions.len() <= MOST_TOGETHER || analysis.recurrence_axis.is_some() {
        return all();
    }
    let mut parts: Vec<Part> = Vec::new();
    for (at, store) in analysis.stores.iter().enumerate() {
        let needs = needs(analysis, store.value, &reductions);
        let (shared, others): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|p| !p.reductions.is_disjoint(&needs));
        let mut part = Part { stores: vec![at], reductions: needs };
        for other in shared {
            part.stores.extend(other.stores);
            part.reductions.extend(other.reductions);
        }
        part.stores.sort_unstable();
        parts = others;
        parts.push(part);
    }
    parts.sort_by_key(|p| p.stores.first().copied());
    parts
}

/// The reductions that an element is computed from.
fn needs(analysis: &Analysis, element: ElementId, reductions: &BTreeSet<ElementId>) -> BTreeSet<ElementId> {
    let mut inside = vec![false; element.index() + 1];
    inside[element.index()] = true;
    for id in (0..=element.index() as u32).rev().map(ElementId) {
        if inside[id.index()] {
            analysis.element(id).operands().iter().for_each(|o| inside[o.index()] = true);
        }
    }
    reductions.iter().copied().filter(|r| inside.get(r.index()).copied().unwrap_or(false)).collect()
}
