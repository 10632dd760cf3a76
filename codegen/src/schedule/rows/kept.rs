//! What the rows of a loop have in common at every step, such as the gains of a normalisation: in shared memory from the
//! first step on, a value for each position along the row.

use std::collections::BTreeSet;

use fuse_ir::expr::{Atom, Axis, Expr, Symbol};
use fuse_ir::kernel::ElementId;

use super::super::analysis::{Analysis, axis_bit};
use super::super::block::{Numbers, THREADS};
use super::super::emitter::{Emitted, Emitter};
use crate::decompose::register_type;
use crate::kernel_ir::{LaneType, ParameterId, SharedId};

/// Loads that are of shared memory.
#[derive(Default)]
pub(super) struct Kept {
    values: Vec<Values>,
    arrays: Vec<SharedId>,
}

/// What loads read at the positions along a row.
struct Values {
    buffer: ParameterId,
    /// Where in the buffer, with the position along the row as axis 0.
    place: Expr,
    lane: LaneType,
    /// Positions along the row.
    extent: i64,
    /// The loads, with the name that the axis along the row has there.
    loads: Vec<(ElementId, Axis)>,
}

impl Kept {
    /// The loads of an axis along a row alone that are the same at every step of a loop, as many as fit.
    pub(super) fn of(analysis: &Analysis, along: &[Axis], counter: &Symbol, shared_bytes: u32) -> Kept {
        let mut kept = Kept::default();
        for load in analysis.ids() {
            let is_of = |axis: &Axis| analysis.is_constant(counter, load, axis_bit(*axis));
            let axis = along.iter().copied().find(is_of);
            let extent = axis.and_then(|axis| analysis.extent(axis).as_constant());
            let (Some(axis), Some(extent), Some(access)) = (axis, extent, analysis.loads.get(&load)) else {
                continue;
            };
            let own = |atom: &Atom| (*atom == Atom::Axis(axis)).then(|| Expr::axis(0));
            let place = access.position.substitute(&own);
            let same = |v: &&mut Values| v.buffer == access.buffer && v.place == place && v.extent == extent;
            if let Some(known) = kept.values.iter_mut().find(same) {
                known.loads.push((load, axis));
                continue;
            }
            let (buffer, lane) = (access.buffer, register_type(analysis.dtype(load)));
            kept.values.push(Values { buffer, place, lane, extent, loads: vec![(load, axis)] });
            if kept.shared_bytes() > shared_bytes {
                kept.values.pop();
            }
        }
        kept
    }

    /// The loads.
    pub(super) fn loads(&self) -> impl Iterator<Item = ElementId> {
        self.values.iter().flat_map(|v| &v.loads).map(|(load, _)| *load)
    }

    /// The bytes of shared memory that they take.
    pub(super) fn shared_bytes(&self) -> u32 {
        let bytes = |v: &Values| (v.extent * i64::from(v.lane.bytes()) + 15) & !15;
        u32::try_from(self.values.iter().map(bytes).sum::<i64>()).unwrap_or(u32::MAX)
    }

    /// Allocates shared memory and fills it. The threads have not met since.
    pub(super) fn prepare(&mut self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<()> {
        let name = format!("{}.row", emitter.analysis.kernel.name);
        let mut array = |values: &Values| {
            let elements = u32::try_from(values.extent).unwrap_or(u32::MAX);
            emitter.b.shared_array(name.clone(), values.lane, elements)
        };
        self.arrays = self.values.iter().map(&mut array).collect();
        let extents: BTreeSet<i64> = self.values.iter().map(|v| v.extent).collect();
        for extent in extents {
            let end = emitter.b.index(extent);
            let each = emitter.b.open_loop(&[], true);
            let of_extent =
                self.values.iter().zip(&self.arrays).filter(|(values, _)| values.extent == extent);
            for (values, array) in of_extent {
                let Some((load, axis)) = values.loads.first().copied() else { continue };
                let point = emitter.origin().with(axis, each.counter);
                let value = emitter.load(load, &point)?;
                emitter.b.store_shared(*array, each.counter, value);
            }
            emitter.b.close_loop(each, numbers.thread, end, i64::from(THREADS), &[]);
        }
        Ok(())
    }

    /// Has the emitter load from shared memory.
    pub(super) fn apply(&self, emitter: &mut Emitter) {
        for (values, array) in self.values.iter().zip(&self.arrays) {
            emitter.kept.extend(values.loads.iter().map(|(load, axis)| (*load, (*array, *axis))));
        }
    }
}
