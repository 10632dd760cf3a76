//! Several loops in place of one with more sums than there are registers for.
//!
//! Sums of one loop share what they load of a row, but each needs an accumulator for each row of a tile: with eight of them
//! a tile of two rows fills the registers, and loads as many vectors of weights as it has multiply-adds. Where little is left
//! of the first sums once what follows from them is computed, as of the gates of a NAS cell, the next ones have a loop of
//! their own, in a tile of as many rows as fit for half of them.

use std::collections::BTreeSet;

use fuse_ir::kernel::{Element, ElementId};

use super::analysis::{Analysis, Group};
use super::parts::MOST_TOGETHER;

/// The rows of a tile that waiting values should leave registers for.
const ROWS: usize = 4;

/// Splits groups of many sums in loops of a few where what waits between them fits in registers, of which there are twice as
/// many as `accumulators`.
pub(super) fn split(analysis: &mut Analysis, accumulators: usize) {
    if analysis.recurrence_axis.is_some() {
        return;
    }
    let groups = std::mem::take(&mut analysis.groups);
    analysis.groups = groups.into_iter().flat_map(|group| waves(analysis, group, accumulators)).collect();
    analysis.find_groups();
}

/// A group as several, or itself.
fn waves(analysis: &Analysis, group: Group, accumulators: usize) -> Vec<Group> {
    if group.nested || group.members.len() <= MOST_TOGETHER {
        return vec![group];
    }
    let count = group.members.len().div_ceil(MOST_TOGETHER);
    let size = group.members.len().div_ceil(count);
    let mut waves: Vec<Group> = Vec::new();
    for members in group.members.chunks(size) {
        let done = waves.iter().flat_map(|w| &w.members).chain(members).copied().collect();
        let settles = waiting(analysis, &done);
        waves.push(Group { members: members.to_vec(), settles, ..group.clone() });
    }
    if let Some(last) = waves.last_mut() {
        last.settles.clear();
    }
    // A loop has an accumulator for each sum and row, a vector for each sum, and two more for what it loads of rows.
    let free = (2 * accumulators).saturating_sub(size * (ROWS + 1) + 2);
    let most_waiting = (free / ROWS).max(1);
    if waves.iter().all(|wave| wave.settles.len() <= most_waiting) { waves } else { vec![group] }
}

/// What follows from these reductions and no others, and that others need as well or a store stores.
fn waiting(analysis: &Analysis, done: &BTreeSet<ElementId>) -> Vec<ElementId> {
    let ids: Vec<ElementId> = analysis.ids().filter(|id| analysis.needed[id.index()]).collect();
    // By element: whether it depends on reductions, and whether all of these are done.
    let mut settled = vec![(false, true); analysis.kernel.elements.len()];
    for id in &ids {
        settled[id.index()] = match analysis.element(*id) {
            Element::Reduce { .. } => (true, done.contains(id)),
            element => element
                .operands()
                .iter()
                .map(|o| settled[o.index()])
                .fold((false, true), |(some, all), (depends, done)| (some || depends, all && done)),
        };
    }
    // What is computed inside of a reduction has no value at a point.
    let at_point = |id: &ElementId| analysis.free[id.index()] >> analysis.kernel.rank == 0;
    let is_settled = |id: &ElementId| settled[id.index()] == (true, true) && at_point(id);
    let users = ids.iter().filter(|id| !is_settled(id)).flat_map(|id| analysis.element(*id).operands());
    let stored = analysis.stores.iter().map(|s| s.value);
    let needed: BTreeSet<ElementId> = users.chain(stored).filter(is_settled).collect();
    needed.into_iter().collect()
}
