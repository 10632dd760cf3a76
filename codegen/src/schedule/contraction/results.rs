//! What is computed and stored of the sums of a tile, by the threads that have them.

use std::rc::Rc;

use fuse_ir::kernel::ElementId;

use super::super::analysis::Analysis;
use super::super::emitter::{Emitted, Emitter, Point};
use super::super::vectors::{ANY_WIDTH, Classes};
use super::product::{Contraction, is_multiple};
use super::{Place, Share};
use crate::kernel_ir::{Condition, ValueId};

/// The sums of a thread.
pub(super) struct Results<'a> {
    pub(super) contraction: &'a Contraction,
    pub(super) place: &'a Place,
    pub(super) rows: Share,
    pub(super) columns: Share,
    /// By member, row and column.
    pub(super) sums: &'a [ValueId],
}

impl Results<'_> {
    /// Computes and stores what follows from the sums of the thread.
    pub(super) fn store(&self, emitter: &mut Emitter) -> Emitted<()> {
        let Share { count, run, block, is_whole, .. } = self.columns;
        let vector = self.column_vectors(emitter.analysis).map(Rc::new);
        let lanes = if vector.is_some() { run } else { 1 };
        for first in (0..count).step_by(lanes as usize) {
            let column = self.columns.position(emitter, first);
            let inside = emitter.b.compare(Condition::Lt, column, block.end);
            if !is_whole {
                emitter.b.open_if();
            }
            let point = self.place.point.clone();
            let point = self.contraction.columns.bind(emitter, point, column, vector.as_ref())?;
            self.of_columns(emitter, &point, first, lanes)?;
            if !is_whole {
                emitter.b.close_if(inside);
            }
        }
        Ok(())
    }

    /// The same at some neighbouring columns, which the point `place` has.
    fn of_columns(&self, emitter: &mut Emitter, place: &Point, first: i64, lanes: i64) -> Emitted<()> {
        let Share { count, block, is_whole, .. } = self.rows;
        for number in 0..count {
            let row = self.rows.position(emitter, number);
            let inside = emitter.b.compare(Condition::Lt, row, block.end);
            if !is_whole {
                emitter.b.open_if();
            }
            let point = self.contraction.rows.bind(emitter, place.clone(), row, None)?;
            for (i, member) in (0..).zip(&self.contraction.members) {
                let at = ((i * count + number) * self.columns.count + first) as usize;
                remember(emitter, member.reduction, &point, &self.sums[at..at + lanes as usize]);
            }
            for part in &emitter.analysis.parts {
                emitter.stores(std::slice::from_ref(&point), part)?;
            }
            if !is_whole {
                emitter.b.close_if(inside);
            }
        }
        Ok(())
    }

    /// The classes along the columns, where neighbouring ones can be stored together.
    fn column_vectors(&self, analysis: &Analysis) -> Option<Classes> {
        let (width, columns) = (self.columns.run, &self.contraction.columns);
        let axis = columns.innermost().filter(|a| is_multiple(analysis.extent(*a), width))?;
        let lanes = u8::try_from(width).ok()?;
        let is_sum = |e| self.contraction.members.iter().any(|m| m.reduction == e);
        Some(Classes::with_staged(analysis, vec![axis], lanes, ANY_WIDTH, &is_sum))
    }
}

/// Makes sums known as a reduction's values at a point, and at each of its lanes, where an element that is computed
/// lane by lane needs them.
fn remember(emitter: &mut Emitter, reduction: ElementId, point: &Point, sums: &[ValueId]) {
    for (lane, sum) in emitter.lanes(point).iter().zip(sums) {
        emitter.remember(reduction, lane, *sum);
    }
    let vector = emitter.b.pack(sums);
    emitter.remember(reduction, point, vector);
}
