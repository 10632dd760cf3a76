//! Which elements are vectors when an axis is bound to consecutive lanes.
//!
//! The reductions of one loop have axes of their own, all bound to the loop's counter, so the axis may go by
//! several names.

use fuse_ir::DType;
use fuse_ir::expr::{Axis, Dim};
use fuse_ir::kernel::{Element, ElementId};

use super::access::Access;
use super::analysis::{Analysis, AxisSet, axis_set};
use crate::decompose::{register_type, takes_vectors};
use crate::kernel_ir::LaneType;

/// How an element is computed for the lanes of one axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// It does not depend on the axis: one scalar for all lanes.
    Uniform,
    /// As one vector.
    Vector,
    /// A reduction, which a loop over the lanes computes one by one and puts into a vector.
    LaneLoop,
    /// Lane by lane; where a vector needs it, the lanes are packed.
    Lanewise,
}

/// The classes of all elements for one axis and number of lanes.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    /// The axis by all its names.
    pub(super) axes: Vec<Axis>,
    /// The same as a set.
    pub(super) set: AxisSet,
    pub(super) lanes: u8,
    bits: u32,
    of: Vec<Class>,
}

/// The width of registers that hold lanes of any type: to a thread of a GPU, a vector is so many scalars.
pub(super) const ANY_WIDTH: u32 = 0;

/// Bytes that a thread of a GPU moves at once.
pub(super) const ACCESS_BYTES: usize = 16;

fn lane_bits(lane: LaneType) -> u32 {
    match lane {
        LaneType::F32 | LaneType::I32 => 32,
        LaneType::F64 | LaneType::I64 => 64,
        LaneType::Bool => 0,
    }
}

impl Classes {
    /// The widest vectors along an axis (by all its names) that a thread of a GPU had better move at once: so wide that
    /// most of what varies along it moves in aligned vectors of 16 bytes or less, and that extents allow it.
    pub(super) fn of_aligned_runs(
        analysis: &Analysis,
        axes: &[Axis],
        allows: impl Fn(&Dim, i64) -> bool,
    ) -> Option<Classes> {
        let set = axis_set(axes);
        let stores = analysis.stores.iter().map(|store| &store.access);
        let stores = stores.filter(|access| axes.iter().any(|axis| access.position.uses_axis(*axis)));
        let loads = analysis.loads_along(set).map(|(_, access)| access);
        let accesses: Vec<&Access> = loads.chain(stores).collect();
        let runs: Vec<&Access> = accesses.iter().copied().filter(|a| a.is_unit_stride(axes)).collect();
        let widest = runs.iter().map(|access| access.dtype.size()).max()?;
        let fits = |lanes: i64| {
            let aligned = runs.iter().filter(|access| access.is_multiple(lanes, axes)).count();
            axes.iter().all(|axis| allows(analysis.extent(*axis), lanes)) && 2 * aligned > accesses.len()
        };
        let lanes = [16u8, 8, 4, 2]
            .into_iter()
            .find(|lanes| usize::from(*lanes) * widest <= ACCESS_BYTES && fits(i64::from(*lanes)))?;
        Some(Classes::new(analysis, axes.to_vec(), lanes, ANY_WIDTH))
    }

    /// Classifies all elements for lanes along `axes` that fill a register of `vector_bits`.
    pub(super) fn new(analysis: &Analysis, axes: Vec<Axis>, lanes: u8, vector_bits: u32) -> Classes {
        Classes::with_staged(analysis, axes, lanes, vector_bits, &|_| false)
    }

    /// The same where some loads are of shared memory, in which their lanes are neighbours.
    pub(super) fn with_staged(
        analysis: &Analysis,
        axes: Vec<Axis>,
        lanes: u8,
        vector_bits: u32,
        staged: &dyn Fn(ElementId) -> bool,
    ) -> Classes {
        let set = axis_set(&axes);
        let mut classes = Classes { axes, set, lanes, bits: vector_bits, of: Vec::new() };
        for id in analysis.ids() {
            let class = if analysis.free[id.index()] & set == 0 {
                Class::Uniform
            } else if staged(id) && classes.packs(analysis.dtype(id)) || classes.is_vector(analysis, id) {
                Class::Vector
            } else {
                Class::Lanewise
            };
            classes.of.push(class);
        }
        classes
    }

    /// Lets loops over the lanes do the reductions that would be computed lane by lane: much less code than
    /// lane after lane, if nothing needs the lanes apart.
    pub(super) fn loop_over_lanes(&mut self, analysis: &Analysis) {
        // The number of the lane is a vector of i32.
        if u32::from(self.lanes) * 32 != self.bits {
            return;
        }
        let lanewise = |id: ElementId| {
            let outside = analysis.free[id.index()] >> analysis.kernel.rank == 0;
            analysis.needed[id.index()] && outside && self.of(id) == Class::Lanewise
        };
        let is_loop = |id: ElementId| match analysis.element(id) {
            Element::Reduce { op, .. } => !op.is_arg() && self.packs(analysis.dtype(id)),
            _ => false,
        };
        let reductions: Vec<ElementId> = analysis.ids().filter(|id| lanewise(*id)).collect();
        // One that needs another at the same lane would compute it again.
        let independent = |id: &ElementId| !needs_any(analysis, *id, &reductions);
        if reductions.iter().all(|id| is_loop(*id)) && reductions.iter().all(independent) {
            reductions.iter().for_each(|id| self.of[id.index()] = Class::LaneLoop);
        }
    }

    /// The class of an element.
    pub(super) fn of(&self, e: ElementId) -> Class {
        self.of[e.index()]
    }

    /// Whether registers of elements of that type fill a vector register with these lanes.
    pub(super) fn packs(&self, dtype: DType) -> bool {
        let bits = lane_bits(register_type(dtype));
        bits == 0 || self.fills(bits)
    }

    /// Whether a vector moves between registers and memory of that type.
    pub(super) fn moves(&self, dtype: DType) -> bool {
        self.fills(lane_bits(LaneType::of_memory(dtype)))
    }

    fn fills(&self, bits: u32) -> bool {
        self.is_of_any_width() || bits * u32::from(self.lanes) == self.bits
    }

    /// Whether vectors are no more than lanes side by side, which cost nothing to take apart and join.
    pub(super) fn is_of_any_width(&self) -> bool {
        self.bits == ANY_WIDTH
    }

    fn is_vector(&self, analysis: &Analysis, id: ElementId) -> bool {
        let dtype = analysis.dtype(id);
        if !self.packs(dtype) {
            return false;
        }
        match analysis.element(id) {
            Element::Load { .. } => analysis.loads.get(&id).is_some_and(|access| {
                let uniform = |e: ElementId| self.of(e) == Class::Uniform;
                self.moves(access.dtype)
                    && access.is_unit_stride(&self.axes)
                    && access.dynamic.iter().all(|d| uniform(d.element))
            }),
            Element::Constant(_) | Element::Index(_) => false,
            Element::Scalar(op, operands) => {
                let operand = operands.last().map_or(dtype, |o| analysis.dtype(*o));
                takes_vectors(*op, operand) && operands.iter().all(|o| self.packs(analysis.dtype(*o)))
            }
            Element::Cast(operand) => {
                // Rounding integers to the narrow floats passes through other widths.
                self.packs(analysis.dtype(*operand))
            }
            Element::Reduce { op, body, .. } => !op.is_arg() && self.is_fully_vector(analysis, *body),
            // Its loop carries a vector, however the operands are computed.
            Element::Recurrence { .. } => true,
        }
    }

    /// Whether computing `e` has no lane-by-lane part.
    pub(super) fn is_fully_vector(&self, analysis: &Analysis, e: ElementId) -> bool {
        let mut seen = vec![false; e.index() + 1];
        let mut pending = vec![e];
        while let Some(id) = pending.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            match self.of(id) {
                Class::Uniform => {}
                Class::Lanewise | Class::LaneLoop => return false,
                Class::Vector if analysis.element(id).recurrence().is_some() => {}
                Class::Vector => pending.extend(analysis.element(id).operands()),
            }
        }
        true
    }
}

/// Whether `e` is computed from any of `others`.
fn needs_any(analysis: &Analysis, e: ElementId, others: &[ElementId]) -> bool {
    let mut inside = vec![false; e.index() + 1];
    inside[e.index()] = true;
    for id in (0..=e.index() as u32).rev().map(ElementId) {
        if inside[id.index()] {
            for operand in analysis.element(id).operands() {
                if others.contains(&operand) {
                    return true;
                }
                inside[operand.index()] = true;
            }
        }
    }
    false
}
