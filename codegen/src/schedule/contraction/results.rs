//! What is computed and stored of the sums of a tile, by the threads that have them.

use std::rc::Rc;

use fuse_ir::kernel::ElementId;

use super::super::analysis::Analysis;
use super::super::emitter::{Emitted, Emitter, Point};
use super::super::vectors::{ANY_WIDTH, Classes};
use super::product::{Contraction, is_multiple};
use super::{Place, Share, Slices, thread};
use crate::kernel_ir::{Condition, ValueId};

/// The sums of a thread.
pub(super) struct Results<'a> {
    pub(super) contraction: &'a Contraction,
    pub(super) place: &'a Place,
    /// By member, row and column.
    pub(super) sums: &'a [ValueId],
}

impl Results<'_> {
    /// Computes and stores what follows from the sums of the tile, of the block's slice or of all slices. The thread of a
    /// number has sums of the rows and columns that `shares` says.
    pub(super) fn store(
        &self,
        emitter: &mut Emitter,
        slices: Option<&Slices>,
        shares: impl Fn(&mut Emitter, ValueId) -> (Share, Share),
    ) -> Emitted<()> {
        let Some(slices) = slices else {
            let thread = thread(emitter);
            let (rows, columns) = shares(emitter, thread);
            return OfThread { of: self, rows, columns, sums: self.sums }.store(emitter);
        };
        slices.send(emitter, self.sums);
        let has_sums = slices.has_sums(emitter);
        emitter.b.open_if();
        let thread = slices.thread(emitter);
        let (rows, columns) = shares(emitter, thread);
        let sums = slices.totals(emitter);
        OfThread { of: self, rows, columns, sums: &sums }.store(emitter)?;
        emitter.b.close_if(has_sums);
        Ok(())
    }
}

/// The final sums of a thread.
struct OfThread<'a> {
    of: &'a Results<'a>,
    rows: Share,
    columns: Share,
    sums: &'a [ValueId],
}

/// Neighbouring columns of a thread.
struct Columns {
    /// The number of the first one among the thread's.
    first: i64,
    point: Point,
}

impl OfThread<'_> {
    fn store(&self, emitter: &mut Emitter) -> Emitted<()> {
        let Share { count, run, block, is_whole, .. } = self.columns;
        let vector = self.column_vectors(emitter.analysis).map(Rc::new);
        let lanes = if vector.is_some() { run } else { 1 };
        let common = self.of.contraction.common_to_rows(emitter.analysis);
        let mut sure = Vec::new();
        for first in (0..count).step_by(lanes as usize) {
            let column = self.columns.position(emitter, first);
            let inside = emitter.b.compare(Condition::Lt, column, block.end);
            if !is_whole {
                emitter.b.open_if();
            }
            let point = self.of.place.point.clone();
            let point = self.of.contraction.columns.bind(emitter, point, column, vector.as_ref())?;
            // Conditions of rows would each compute it again.
            emitter.evaluate(&common, &point)?;
            let columns = Columns { first, point };
            if is_whole {
                sure.push(columns);
            } else {
                self.rows(emitter, &[columns], lanes)?;
                emitter.b.close_if(inside);
            }
        }
        // Those that are certainly there share the conditions of the rows.
        if sure.is_empty() { Ok(()) } else { self.rows(emitter, &sure, lanes) }
    }

    /// The same at some columns, `lanes` of them at each point.
    fn rows(&self, emitter: &mut Emitter, columns: &[Columns], lanes: i64) -> Emitted<()> {
        let Share { count, block, is_whole, .. } = self.rows;
        for number in 0..count {
            let row = self.rows.position(emitter, number);
            let inside = emitter.b.compare(Condition::Lt, row, block.end);
            if !is_whole {
                emitter.b.open_if();
            }
            for Columns { first, point } in columns {
                let point = self.of.contraction.rows.bind(emitter, point.clone(), row, None)?;
                for (i, member) in (0..).zip(&self.of.contraction.members) {
                    let at = ((i * count + number) * self.columns.count + first) as usize;
                    remember(emitter, member.reduction, &point, &self.sums[at..at + lanes as usize]);
                }
                for part in &emitter.analysis.parts {
                    emitter.stores(std::slice::from_ref(&point), part)?;
                }
            }
            if !is_whole {
                emitter.b.close_if(inside);
            }
        }
        Ok(())
    }

    /// The classes along the columns, where neighbouring ones can be stored together.
    fn column_vectors(&self, analysis: &Analysis) -> Option<Classes> {
        let (width, columns) = (self.columns.run, &self.of.contraction.columns);
        let axis = columns.innermost().filter(|a| is_multiple(analysis.extent(*a), width))?;
        let lanes = u8::try_from(width).ok()?;
        let is_sum = |e| self.of.contraction.members.iter().any(|m| m.reduction == e);
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
