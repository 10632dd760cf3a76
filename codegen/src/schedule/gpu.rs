//! The schedule for GPUs: rows by teams of threads where there are statistics of them, large sums by blocks. Otherwise one
//! thread a point, or as many neighbouring points of the innermost axis as 16 bytes hold. A thread runs along the whole
//! axis of the recurrences.

use std::rc::Rc;

use fuse_ir::expr::{Axis, Dim};

use super::analysis::Analysis;
use super::block::{self as blocks, THREADS};
use super::contraction::{self, Plan, is_multiple};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter, Point};
use super::plan::ProductPlan;
use super::rows::Rows;
use super::split::{Exchange, Split};
use super::vectors::Classes;
use super::{BLOCK, GpuLimits, Rounding};
use crate::kernel_ir::{Condition, Function, LaneType, Mapping, Operation, Type, ValueId};

/// Accumulators that the loop of a thread carries.
const ACCUMULATORS: usize = 8;

/// Steps of a recurrence whose loads are in flight together.
const STEPS_AT_ONCE: i64 = 8;

/// Blocks of `block` threads, but for split sums, which have blocks of a size of their own.
pub(super) fn schedule(
    analysis: &Analysis,
    block: u32,
    limits: GpuLimits,
    rounding: Rounding,
) -> Emitted<Function> {
    let Forms { rows, split, plan } = Forms::of(analysis, block, limits, rounding);
    if let Some(plan) = plan.filter(|plan| !plan.is_better_split()) {
        return contraction::schedule(analysis, &plan);
    }
    if let Some(mut split) = split {
        return blocks::alone(analysis, Mapping::Blocks { threads: THREADS }, |emitter, numbers| {
            split.prepare(emitter, numbers)?;
            split.alone(emitter, numbers)
        });
    }
    match rows {
        Some(rows) => blocks::alone(analysis, rows.mapping(), |e, n| rows.emit_alone(e, n)),
        None => points(analysis, block),
    }
}

/// What was decided about a kernel that is a contraction.
pub(super) fn product_plan(
    analysis: &Analysis,
    limits: GpuLimits,
    rounding: Rounding,
) -> Option<ProductPlan> {
    Some(Forms::of(analysis, BLOCK, limits, rounding).plan?.told())
}

/// The forms that come into question for a kernel, beside a thread a point.
struct Forms {
    /// A warp or a block a row. The only one where rows go along memory.
    rows: Option<Rows>,
    /// Sums split among the threads of blocks, where there are few rows of them.
    split: Option<Split>,
    /// Tiles of a contraction.
    plan: Option<Plan>,
}

impl Forms {
    fn of(analysis: &Analysis, block: u32, limits: GpuLimits, rounding: Rounding) -> Forms {
        let rows = Rows::alone(analysis, block).filter(|r| r.shared_bytes(analysis) <= limits.shared_bytes);
        if rows.as_ref().is_some_and(|rows| rows.is_along_memory) {
            return Forms { rows, split: None, plan: None };
        }
        let split =
            Split::new(analysis, None, limits.multiprocessors, limits.shared_bytes, None, Exchange::Memory);
        let split = split.filter(|s| s.has_few_rows(analysis));
        let plan = Plan::of(analysis, block, limits, rounding, split.as_ref().map(Split::alone_shape));
        Forms { rows, split, plan }
    }
}

/// One thread computes one item of the flattened space, the innermost axis fastest; threads past the end do nothing.
fn points(analysis: &Analysis, block: u32) -> Emitted<Function> {
    let kernel = analysis.kernel;
    let items = Items::new(analysis);
    let mut emitter = Emitter::new(analysis, None, ACCUMULATORS);
    emitter.steps_at_once = STEPS_AT_ONCE;
    let item = emitter.b.operation(Type::scalar(LaneType::I64), Operation::WorkItem);
    let work = items.work();
    let count = emitter.dimension(&work)?;
    let inside = emitter.b.compare(Condition::Lt, item, count);
    emitter.b.open_if();
    emitter.guard(analysis.space_symbols());
    items.emit(&mut emitter, item)?;
    emitter.b.close_if(inside);
    let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
    Ok(emitter.b.finish(kernel.name.clone(), buffers, symbols, work, Mapping::Threads { block }))
}

/// What the threads compute: a point of the space each, or a vector of them.
struct Items {
    /// The axes, outermost first, with the number of items along each.
    counts: Vec<(Axis, Dim)>,
    /// The vector along the innermost axis.
    vector: Option<Rc<Classes>>,
    /// Points behind the last whole vector, of whose number nothing is known.
    has_rest: bool,
}

impl Items {
    fn new(analysis: &Analysis) -> Items {
        let axes = analysis.space_axes();
        let mut counts: Vec<(Axis, Dim)> = axes.iter().map(|a| (*a, analysis.extent(*a).clone())).collect();
        let vector = vectorised(analysis, &axes);
        let mut has_rest = false;
        if let (Some(vector), Some((_, count))) = (&vector, counts.last_mut()) {
            let lanes = i64::from(vector.lanes);
            has_rest = !is_multiple(count, lanes);
            *count = count.ceil_div(&Dim::constant(lanes));
        }
        Items { counts, vector: vector.map(Rc::new), has_rest }
    }

    fn work(&self) -> Dim {
        self.counts.iter().fold(Dim::constant(1), |work, (_, count)| work * count.clone())
    }

    /// Computes and stores an item.
    fn emit(&self, emitter: &mut Emitter, item: ValueId) -> Emitted<()> {
        let mut point = emitter.origin();
        let counts = self.counts.iter().map(|(_, count)| count);
        let coordinates = coordinates(emitter, counts, item)?;
        for ((axis, _), value) in self.counts.iter().zip(&coordinates) {
            point = point.with(*axis, *value);
        }
        match (&self.vector, self.counts.last().zip(coordinates.last())) {
            (Some(vector), Some(((axis, _), number))) => self.lanes(emitter, vector, &point, *axis, *number),
            _ => emitter.tile(std::slice::from_ref(&point), 1),
        }
    }

    /// Vector number `number` along the innermost axis, or the points that are left behind the last whole one.
    fn lanes(
        &self,
        emitter: &mut Emitter,
        vector: &Rc<Classes>,
        point: &Point,
        axis: Axis,
        number: ValueId,
    ) -> Emitted<()> {
        let lanes = emitter.b.index(i64::from(vector.lanes));
        let first = emitter.b.mul(number, lanes);
        let together = point.with_lanes(vector, first);
        if !self.has_rest {
            return emitter.tile(std::slice::from_ref(&together), 1);
        }
        let end = emitter.dimension(emitter.analysis.extent(axis))?;
        let behind = emitter.b.add(first, lanes);
        let is_whole = emitter.b.compare(Condition::Le, behind, end);
        emitter.b.open_if();
        emitter.tile(std::slice::from_ref(&together), 1)?;
        emitter.b.close_if(is_whole);
        let begin = emitter.b.select(is_whole, end, first);
        let each = emitter.b.open_loop(&[], false);
        emitter.tile(&[point.with(axis, each.counter)], 1)?;
        emitter.b.close_loop(each, begin, end, 1, &[]);
        Ok(())
    }
}

/// The vectors along the innermost axis.
fn vectorised(analysis: &Analysis, axes: &[Axis]) -> Option<Classes> {
    let axis = *axes.last()?;
    if analysis.recurrence_axis.is_some() || !analysis.groups.is_empty() {
        return None;
    }
    let is_long = |extent: &Dim, lanes| extent.as_constant().is_none_or(|n| n >= lanes);
    Classes::of_aligned_runs(analysis, &[axis], is_long)
}
