//! Sums at each position of a row, which what is reduced along the row is computed from: the scores of attention.
//!
//! A position is a warp's. Its lanes share each sum: slices of it, then what all lanes have, which every lane knows. Sums
//! that are too short for that, or of unknown length, are a thread's, as is its position.

use fuse_ir::expr::Axis;
use fuse_ir::kernel::{Element, ElementId};

use super::super::analysis::{Analysis, AxisSet, Group, axis_bit};
use super::super::block::{Numbers, WARP, of_lanes};
use super::super::emitter::{Emitted, Emitter, Point};
use super::super::reduction::{Chain, Reduction, State};
use super::bound_axis;

/// Who computes the sums at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inner {
    /// There are none.
    None,
    /// The thread whose position it is.
    Thread,
    /// The warp whose position it is.
    Warp,
}

impl Inner {
    /// What fits the groups that are not one value a row.
    pub(super) fn of<'g>(analysis: &Analysis, groups: impl Iterator<Item = &'g Group>) -> Inner {
        let mut inner = Inner::None;
        for group in groups {
            let is_shared = group.height == 0
                && group.members.iter().all(|member| {
                    let extent = extent_of(analysis, *member);
                    let is_arg =
                        matches!(analysis.element(*member), Element::Reduce { op, .. } if op.is_arg());
                    !is_arg && extent.is_some_and(|n| n >= WARP)
                });
            if !is_shared {
                return Inner::Thread;
            }
            inner = Inner::Warp;
        }
        inner
    }

    /// Computes what a warp shares of the groups that depend on an axis, at some points.
    pub(super) fn evaluate(
        self,
        emitter: &mut Emitter,
        numbers: Numbers,
        axes: AxisSet,
        rows: AxisSet,
        points: &[Point],
    ) -> Emitted<()> {
        if self != Inner::Warp {
            return Ok(());
        }
        let analysis = emitter.analysis;
        let space = (0..analysis.kernel.rank).map(|a| axis_bit(Axis(a as u32))).sum::<AxisSet>();
        let is_inner = |group: &&Group| group.nested || group.free & space != rows;
        for group in analysis.groups.iter().filter(is_inner).filter(|group| group.free & axes != 0) {
            let mut sums: Vec<(Reduction, i64)> = Vec::new();
            for member in &group.members {
                let extent = extent_of(analysis, *member).unwrap_or(0);
                sums.push((emitter.reduction(*member)?, extent));
            }
            let lane = numbers.lane(&mut emitter.b);
            let parts = emitter.partial_sums(&sums, points, lane, WARP)?;
            let each = sums.iter().flat_map(|(sum, _)| (0..points.len()).map(move |point| (*sum, point)));
            for ((reduction, point), part) in each.zip(parts) {
                let distances = [16, 8, 4, 2, 1].into_iter();
                let all = of_lanes(&mut emitter.b, reduction, State::from_slice(&[part]), distances);
                emitter.remember_result(&Chain { reduction, point, lanes: 1 }, &points[point], &all);
            }
        }
        Ok(())
    }
}

/// The length of a reduction along one axis, if it is known.
fn extent_of(analysis: &Analysis, reduction: ElementId) -> Option<i64> {
    analysis.extent(bound_axis(analysis, reduction)?).as_constant()
}
