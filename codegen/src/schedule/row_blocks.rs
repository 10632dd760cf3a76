//! Kernels of row statistics by themselves: a block of GPU threads computes a row.
//!
//! For kernels all of whose reductions have one value a row and run along contiguous memory: layer normalisation,
//! softmax, sums of rows. Neighbouring threads take neighbouring vectors of the row. Reductions that do not need each
//! other run together: what the threads of a warp have is exchanged among them, what the warps have goes through
//! shared memory, and afterwards every thread knows the results. Then the threads share the points of the row.
//!
//! Where every thread takes equally many vectors, and few, there are no loops: what a reduction loads stays in
//! registers for the next one and for the points.

use std::rc::Rc;

use fuse_ir::expr::{Axis, Dim};
use fuse_ir::kernel::{Element, ElementId};

use super::access::Access;
use super::analysis::{Analysis, AxisSet, Group, axis_bit};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter, Point};
use super::gpu::{ACCUMULATORS, is_multiple, lanes_along};
use super::reduction::{Chain, State, flatten, is_better, merge, reshape};
use super::vectors::{ANY_WIDTH, Classes};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{
    Condition, Conversion, Function, LaneType, Mapping, Operation, SharedId, Type, ValueId,
};

const WARP: i64 = 32;

/// Reductions shorter than this are a thread's.
const LEAST_EXTENT: i64 = 64;

/// Vectors that a thread takes of a row, so that their loads are in flight together.
const VECTORS_A_THREAD: i64 = 4;

/// Vectors of a row that a thread has registers for.
const MOST_IN_REGISTERS: i64 = 8;

/// How a kernel's rows are computed.
pub(super) struct RowBlocks {
    rows: Vec<(Axis, Dim)>,
    /// The axis of a row's points; a row may be a single one.
    columns: Option<Axis>,
    threads: i64,
    /// Whether rows reduce an operand that they share, which other schedules load for many of them at once.
    pub(super) shares: bool,
}

/// A run of elements along an axis, which the threads of a block share.
struct Run {
    extent: Dim,
    /// Lanes along it, which divide the extent; `None` for scalars.
    vector: Option<Rc<Classes>>,
}

impl RowBlocks {
    /// Where every reduction has one value a row and is long; blocks have `most_threads` at most.
    pub(super) fn new(analysis: &Analysis, most_threads: u32) -> Option<RowBlocks> {
        let first = analysis.groups.first()?;
        if analysis.recurrence_axis.is_some() || i64::from(most_threads) < WARP {
            return None;
        }
        let space = analysis.space_axes().into_iter().fold(0, |set, axis| set | axis_bit(axis));
        let free = first.free & space;
        let alike = |g: &Group| !g.nested && g.free & space == free;
        let reductions = || analysis.groups.iter().flat_map(|g| &g.members);
        if !analysis.groups.iter().all(alike) || !reductions().all(|r| is_of_rows(analysis, *r, free)) {
            return None;
        }
        let (rows, columns): (Vec<Axis>, Vec<Axis>) =
            analysis.space_axes().into_iter().partition(|a| free & axis_bit(*a) != 0);
        if columns.len() > 1 {
            return None;
        }
        let rows = rows.into_iter().map(|a| (a, analysis.extent(a).clone())).collect();
        // Powers of two, so that what a block takes at once is one.
        let most_threads = 1i64 << most_threads.ilog2();
        let longest = analysis.groups.iter().map(|g| Run::of_group(analysis, g).turns()).max()?;
        let threads = longest.div_euclid(VECTORS_A_THREAD).clamp(WARP, most_threads);
        let threads = threads.unsigned_abs().next_power_of_two() as i64;
        let reduced = reductions().fold(0, |set, r| set | bound_axes(analysis, *r));
        let reads = analysis.needed_loads().filter(|(id, _)| analysis.free[id.index()] & reduced != 0);
        let shares = reads.map(|(id, _)| id).any(|id| free & !analysis.free[id.index()] != 0);
        Some(RowBlocks { rows, columns: columns.first().copied(), threads, shares })
    }

    /// The kernel's function.
    pub(super) fn schedule(&self, analysis: &Analysis) -> Emitted<Function> {
        let mut emitter = Emitter::new(analysis, None, ACCUMULATORS);
        let index = Type::scalar(LaneType::I64);
        let [block, thread] = [Operation::Block, Operation::Thread].map(|o| emitter.b.operation(index, o));
        let mut row = emitter.origin();
        for ((axis, _), value) in self.rows.iter().zip(coordinates(
            &mut emitter,
            self.rows.iter().map(|(_, extent)| extent),
            block,
        )?) {
            row = row.with(*axis, value);
        }
        for group in &analysis.groups {
            self.reduce(&mut emitter, group, &row, thread)?;
        }
        self.points(&mut emitter, &row, thread)?;
        let work = self.rows.iter().fold(Dim::constant(1), |work, (_, extent)| work * extent.clone());
        let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
        let mapping = Mapping::Blocks { threads: self.threads as u32 };
        Ok(emitter.b.finish(analysis.kernel.name.clone(), buffers, symbols, work, mapping))
    }

    /// The reductions of a group. Afterwards every thread knows them.
    fn reduce(&self, emitter: &mut Emitter, group: &Group, row: &Point, thread: ValueId) -> Emitted<()> {
        let run = Run::of_group(emitter.analysis, group);
        let chain =
            |member: &ElementId| Ok(Chain { reduction: emitter.reduction(*member)?, point: 0, lanes: 1 });
        let chains: Vec<Chain> = group.members.iter().map(chain).collect::<Emitted<_>>()?;
        let of_threads = self.of_thread(emitter, &run, &chains, row, thread)?;
        let of_warps: Vec<State> = chains
            .iter()
            .zip(of_threads)
            .map(|(chain, state)| of_warp(&mut emitter.b, chain, state))
            .collect();
        let of_block = self.of_block(emitter, &chains, of_warps, thread);
        for (chain, state) in chains.iter().zip(&of_block) {
            emitter.remember_result(chain, row, state);
        }
        Ok(())
    }

    /// What a thread's part of a run comes to.
    fn of_thread(
        &self,
        emitter: &mut Emitter,
        run: &Run,
        chains: &[Chain],
        row: &Point,
        thread: ValueId,
    ) -> Emitted<Vec<State>> {
        let lanes = run.lanes();
        let states = chains.iter().map(|c| emitter.identity(c, lanes as u8)).collect();
        let states = self.walk(emitter, run, thread, states, |emitter, positions, states| {
            for position in positions {
                let bound = emitter.bind(chains, std::slice::from_ref(row), 0, &mut |point, axis| {
                    run.vector.as_ref().map_or_else(
                        || point.with(axis, *position),
                        |vector| point.with_lanes(vector, *position),
                    )
                });
                emitter.steps(chains, &bound, *position, states)?;
            }
            Ok(())
        })?;
        let joined = chains.iter().zip(states).map(|(chain, state)| {
            let none = emitter.identity(chain, 1);
            if lanes > 1 { emitter.combine(chain, &none, vec![state]) } else { state }
        });
        Ok(joined.collect())
    }

    /// Runs `body` for the positions of a thread along a run, some of them at a time, carrying states.
    fn walk(
        &self,
        emitter: &mut Emitter,
        run: &Run,
        thread: ValueId,
        mut states: Vec<State>,
        mut body: impl FnMut(&mut Emitter, &[ValueId], &mut [State]) -> Emitted<()>,
    ) -> Emitted<Vec<State>> {
        let lanes = emitter.b.index(run.lanes());
        let first = emitter.b.mul(thread, lanes);
        let stride = self.threads * run.lanes();
        if let Some(turns) = self.turns_in_registers(run) {
            let positions = turns_from(&mut emitter.b, first, turns, stride);
            body(emitter, &positions, &mut states)?;
            return Ok(states);
        }
        let end = emitter.dimension(&run.extent)?;
        let mut begin = emitter.b.index(0);
        for turns in [VECTORS_A_THREAD, 1] {
            // The last loop goes from each thread's own position to the end, the others from the block's.
            let (own, until) = if turns == 1 {
                (emitter.b.add(begin, first), end)
            } else {
                let mask = emitter.b.index(-(turns * stride));
                (begin, emitter.b.and(end, mask))
            };
            let open = emitter.b.open_loop(&flatten(&states), false);
            emitter.guard(run.extent.symbols());
            let depth = emitter.b.depth();
            let here = if turns == 1 { open.counter } else { emitter.b.add(open.counter, first) };
            let positions = turns_from(&mut emitter.b, here, turns, stride);
            let mut next = reshape(&states, &open.current);
            body(emitter, &positions, &mut next)?;
            emitter.set_guards_aside(depth - 1);
            let after = emitter.b.close_loop(open, own, until, turns * stride, &flatten(&next));
            states = reshape(&states, &after);
            begin = until;
        }
        Ok(states)
    }

    /// The vectors of each thread, where those are equally many and few.
    fn turns_in_registers(&self, run: &Run) -> Option<i64> {
        let stride = self.threads * run.lanes();
        let extent = run.extent.as_constant()?;
        (extent % stride == 0 && (1..=MOST_IN_REGISTERS).contains(&(extent / stride)))
            .then_some(extent / stride)
    }

    /// What all warps have, from what each has.
    fn of_block(
        &self,
        emitter: &mut Emitter,
        chains: &[Chain],
        of_warp: Vec<State>,
        thread: ValueId,
    ) -> Vec<State> {
        let warps = self.threads / WARP;
        if warps == 1 {
            return of_warp;
        }
        let b = &mut emitter.b;
        let parts = flatten(&of_warp);
        let arrays: Vec<SharedId> =
            parts.iter().map(|part| b.shared_array("warps", b.ty(*part).lane, warps as u32)).collect();
        let mask = b.index(WARP - 1);
        let lane = b.and(thread, mask);
        let warp = b.shift_right_arithmetic(thread, i64::from(WARP.trailing_zeros()));
        let is_first = b.compare_integer(Condition::Eq, lane, 0);
        b.open_if();
        for (array, part) in arrays.iter().zip(&parts) {
            b.store_shared(*array, warp, *part);
        }
        b.close_if(is_first);
        b.meet();
        let mut totals: Option<Vec<State>> = None;
        for warp in 0..warps {
            let at = b.index(warp);
            let loaded: Vec<ValueId> = arrays.iter().map(|array| b.load_shared(*array, 1, at)).collect();
            let states = reshape(&of_warp, &loaded);
            totals = Some(match totals {
                None => states,
                Some(totals) => {
                    let pairs = chains.iter().zip(totals.iter().zip(&states));
                    pairs.map(|(chain, (x, y))| join(b, chain, x, y)).collect()
                }
            });
        }
        totals.unwrap_or(of_warp)
    }

    /// Computes and stores the points of the row.
    fn points(&self, emitter: &mut Emitter, row: &Point, thread: ValueId) -> Emitted<()> {
        let Some(axis) = self.columns else {
            let is_first = emitter.b.compare_integer(Condition::Eq, thread, 0);
            emitter.b.open_if();
            emitter.tile(std::slice::from_ref(row), 1)?;
            emitter.b.close_if(is_first);
            return Ok(());
        };
        let run = Run::of_columns(emitter.analysis, axis);
        self.walk(emitter, &run, thread, Vec::new(), |emitter, positions, _| {
            let point = |position: &ValueId| match &run.vector {
                Some(vector) => row.with_lanes(vector, *position),
                None => row.with(axis, *position),
            };
            let points: Vec<Point> = positions.iter().map(point).collect();
            emitter.tile(&points, 1)
        })?;
        Ok(())
    }
}

impl Run {
    /// The elements that a group reduces.
    fn of_group(analysis: &Analysis, group: &Group) -> Run {
        let bound = |member: &ElementId| match analysis.element(*member) {
            Element::Reduce { axes, .. } => axes.first().copied(),
            _ => None,
        };
        let mut axes: Vec<Axis> = group.members.iter().filter_map(bound).collect();
        axes.dedup();
        let extent = axes.first().map_or_else(Dim::default, |axis| analysis.extent(*axis).clone());
        let set: AxisSet = axes.iter().fold(0, |set, axis| set | axis_bit(*axis));
        let loads: Vec<&Access> = analysis.accesses_along(set).collect();
        // The positions of an index are those of scalars.
        let by_index = group.members.iter().any(|member| is_arg(analysis, *member));
        let lanes = if by_index { None } else { lanes_along(&loads, &extent, &axes) };
        Run::new(analysis, axes, extent, lanes)
    }

    /// The points of a row.
    fn of_columns(analysis: &Analysis, axis: Axis) -> Run {
        let stores = analysis.stores.iter().map(|s| &s.access);
        let accesses: Vec<&Access> = analysis.accesses_along(axis_bit(axis)).chain(stores).collect();
        let extent = analysis.extent(axis).clone();
        let lanes = lanes_along(&accesses, &extent, &[axis]);
        Run::new(analysis, vec![axis], extent, lanes)
    }

    fn new(analysis: &Analysis, axes: Vec<Axis>, extent: Dim, lanes: Option<u8>) -> Run {
        let lanes = lanes.filter(|lanes| is_multiple(&extent, i64::from(*lanes)));
        let vector = lanes.map(|lanes| Rc::new(Classes::new(analysis, axes, lanes, ANY_WIDTH)));
        Run { extent, vector }
    }

    fn lanes(&self) -> i64 {
        self.vector.as_ref().map_or(1, |vector| i64::from(vector.lanes))
    }

    /// Vectors, as many as they may be.
    fn turns(&self) -> i64 {
        self.extent.as_constant().map_or(i64::MAX, |extent| extent / self.lanes())
    }
}

fn bound_axes(analysis: &Analysis, element: ElementId) -> AxisSet {
    match analysis.element(element) {
        Element::Reduce { axes, .. } => axes.iter().fold(0, |set, axis| set | axis_bit(*axis)),
        _ => 0,
    }
}

fn is_arg(analysis: &Analysis, element: ElementId) -> bool {
    matches!(analysis.element(element), Element::Reduce { op, .. } if op.is_arg())
}

/// Whether a reduction is long, along contiguous memory, and no contraction: one whose operands differ in the rows that
/// they vary along has more use for a tile of rows.
fn is_of_rows(analysis: &Analysis, reduction: ElementId, rows: AxisSet) -> bool {
    let Element::Reduce { axes, body, .. } = analysis.element(reduction) else { return false };
    let [axis] = axes[..] else { return false };
    if analysis.extent(axis).as_constant().is_some_and(|n| n < LEAST_EXTENT) {
        return false;
    }
    let mut contiguous = false;
    let mut missing: AxisSet = 0;
    let varies = |id: ElementId| analysis.free[id.index()] & axis_bit(axis) != 0;
    for (id, access) in analysis.needed_loads().filter(|(id, _)| varies(*id)) {
        if access.position.uses_axis(axis) && !access.is_unit_stride(&[axis]) {
            return false;
        }
        contiguous |= access.is_unit_stride(&[axis]);
        let lacks = rows & !analysis.free[id.index()];
        if lacks != 0 && missing != 0 && lacks != missing {
            return false;
        }
        missing |= lacks;
    }
    contiguous && analysis.free[body.index()] & axis_bit(axis) != 0
}

/// Positions that are `stride` apart.
fn turns_from(b: &mut FunctionBuilder, first: ValueId, turns: i64, stride: i64) -> Vec<ValueId> {
    let position = |turn: i64| {
        let offset = b.index(turn * stride);
        b.add(first, offset)
    };
    (0..turns).map(position).collect()
}

/// What all threads of a warp have.
fn of_warp(b: &mut FunctionBuilder, chain: &Chain, state: State) -> State {
    [16u8, 8, 4, 2, 1].into_iter().fold(state, |state, distance| {
        let other: State = state.iter().map(|part| exchanged(b, *part, distance)).collect();
        join(b, chain, &state, &other)
    })
}

/// The value of another thread of the warp, of 32 bits or in two halves.
fn exchanged(b: &mut FunctionBuilder, value: ValueId, distance: u8) -> ValueId {
    match b.ty(value).lane {
        LaneType::F64 => {
            let bits = b.bitcast(value, LaneType::I64);
            let other = exchanged(b, bits, distance);
            b.bitcast(other, LaneType::F64)
        }
        LaneType::I64 => {
            let high = b.shift_right_logical(value, 32);
            let [low, high] = [value, high].map(|half| {
                let half = b.convert(Conversion::IntToInt, half, LaneType::I32);
                let other = b.butterfly(half, distance);
                b.convert(Conversion::ZeroExtend, other, LaneType::I64)
            });
            let high = b.shift_left(high, 32);
            b.or(low, high)
        }
        LaneType::F32 | LaneType::I32 | LaneType::Bool => b.butterfly(value, distance),
    }
}

/// Two states as one. Of equal extremes the first counts.
fn join(b: &mut FunctionBuilder, chain: &Chain, x: &State, y: &State) -> State {
    let op = chain.reduction.op;
    let ([x_value, x_index], [y_value, y_index]) = (&x[..], &y[..]) else {
        return State::from_slice(&[merge(b, op, x[0], y[0])]);
    };
    let dtype = chain.reduction.dtype;
    let [x_value, x_index, y_value, y_index] = [*x_value, *x_index, *y_value, *y_index];
    let beyond = is_better(b, op, dtype, y_value, x_value);
    let short = is_better(b, op, dtype, x_value, y_value);
    let either = b.or(beyond, short);
    let alike = b.not(either);
    let earlier = b.compare(Condition::Lt, y_index, x_index);
    let earlier = b.and(alike, earlier);
    let takes = b.or(beyond, earlier);
    State::from_slice(&[b.select(takes, y_value, x_value), b.select(takes, y_index, x_index)])
}
