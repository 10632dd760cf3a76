//! Asking for memory before it is needed: what the next tile is computed from, while this one is.

use fuse_ir::expr::Axis;
use fuse_ir::kernel::{Element, ElementId};

use super::access::Access;
use super::analysis::axis_bit;
use super::emitter::{Emitted, Emitter, Point};
use super::vectors::Class;
use crate::kernel_ir::{Condition, ParameterId, ValueId};

/// Vectors a loop loads for each element that is summed over, from which on one more access costs it nothing.
const LEAST_STREAMS: usize = 2;

/// The columns that the work items after these go on with.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnsAhead {
    /// The axis that tells them from these.
    pub(super) axis: Axis,
    /// Its value there.
    pub(super) next: ValueId,
    /// How many tiles before this one had these columns.
    pub(super) turn: ValueId,
}

/// Where a loop finds what the next columns load: so far from what it loads itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// What is loaded, and at which of the loop's points.
    pub(super) load: ElementId,
    pub(super) point: usize,
    pub(super) buffer: ParameterId,
    pub(super) distance: ValueId,
}

impl Emitter<'_> {
    /// Brings closer what a point needs outside of its reductions, which are long enough meanwhile, and what those on the
    /// other side of it along `rows` do not need. The point need not be one of the space.
    pub(super) fn prefetch(&mut self, point: &Point, rows: Axis) -> Emitted<()> {
        let analysis = self.analysis;
        let Some(columns) = point.vector.as_ref().map(|v| v.set) else { return Ok(()) };
        for id in analysis.ids().filter(|id| analysis.needed[id.index()]) {
            let (free, Some(access)) = (analysis.free[id.index()], analysis.loads.get(&id)) else { continue };
            let each =
                free & columns != 0 && free & axis_bit(rows) != 0 && self.class(id, point) == Class::Vector;
            if each && free >> analysis.kernel.rank == 0 && access.dynamic.is_empty() {
                let position = self.position(access, point)?;
                self.b.prefetch(access.buffer, position);
            }
        }
        Ok(())
    }

    /// What a loop may ask for: each of the first tiles of these columns a part of what the next columns load for
    /// the same sums. `starts` are the loop's points before its first element, `bodies` what it sums, and at which of
    /// the points.
    pub(super) fn stream_ahead(
        &mut self,
        bodies: &[(ElementId, usize)],
        starts: &[Point],
    ) -> Emitted<Option<Stream>> {
        let Some(ahead) = self.ahead else { return Ok(None) };
        let analysis = self.analysis;
        let mut streams: Vec<(ElementId, usize, &Access, ValueId)> = Vec::new();
        for (body, point) in bodies {
            for load in self.loads_of(*body, &starts[*point]) {
                let Some(access) = analysis.loads.get(&load) else { continue };
                if analysis.free[load.index()] & axis_bit(ahead.axis) == 0 || !access.dynamic.is_empty() {
                    continue;
                }
                let here = self.position(access, &starts[*point])?;
                let same =
                    |s: &(ElementId, usize, &Access, ValueId)| s.2.buffer == access.buffer && s.3 == here;
                if !streams.iter().any(same) {
                    streams.push((load, *point, access, here));
                }
            }
        }
        let Some((load, point, first, here)) = streams.first().copied() else { return Ok(None) };
        let in_one = streams.iter().all(|s| s.2.buffer == first.buffer);
        if streams.len() < LEAST_STREAMS || !in_one {
            return Ok(None);
        }
        // The tiles after the first ones ask for what is there already.
        let mut distance = self.b.index(0);
        for (turn, (_, point, access, _)) in streams.iter().enumerate() {
            let there = self.position(access, &starts[*point].with(ahead.axis, ahead.next))?;
            let far = self.b.sub(there, here);
            let now = self.b.compare_integer(Condition::Eq, ahead.turn, turn as i64);
            distance = self.b.select(now, far, distance);
        }
        Ok(Some(Stream { load, point, buffer: first.buffer, distance }))
    }

    /// Asks for an element of a stream, by the loop's points at it.
    pub(super) fn ask(&mut self, stream: &Stream, points: &[Point]) -> Emitted<()> {
        let analysis = self.analysis;
        let Some(access) = analysis.loads.get(&stream.load) else { return Ok(()) };
        let position = self.position(access, &points[stream.point])?;
        let position = self.b.add(position, stream.distance);
        self.b.prefetch(stream.buffer, position);
        Ok(())
    }

    /// The vectors among the factors of a product that is summed.
    fn loads_of(&self, body: ElementId, point: &Point) -> Vec<ElementId> {
        let analysis = self.analysis;
        let source = |e: ElementId| match analysis.element(e) {
            Element::Cast(x) => *x,
            _ => e,
        };
        let factors = analysis.element(body).operands();
        let is_vector = |e: &ElementId| self.class(*e, point) == Class::Vector;
        factors
            .iter()
            .map(|e| source(*e))
            .filter(|e| analysis.loads.contains_key(e) && is_vector(e))
            .collect()
    }
}
