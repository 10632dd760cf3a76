//! Reduction loops: which accumulators they carry and how these are combined.

mod slices;
mod states;

use std::collections::HashSet;
use std::rc::Rc;

use fuse_ir::expr::Axis;
use fuse_ir::kernel::{Element, ElementId};
use fuse_ir::{DType, ReduceOp, ScalarOp};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ahead::Stream;
use super::analysis::Group;
use super::emitter::{Emitted, Emitter, Key, Point};
use super::vectors::{Class, Classes};
use crate::builder::FunctionBuilder;
use crate::decompose::register_type;
use crate::kernel_ir::{Condition, Conversion, LaneType, Operation, Type, ValueId};
use states::is_better;
pub(super) use states::{flatten, join, merge, merge_all, reshape};

/// Elements that an accumulator takes an iteration where there are accumulators enough.
const REPEAT: usize = 2;

/// Iterations from which on it matters little that one takes more elements and may leave more of them over.
const LEAST_ITERATIONS: i64 = 16;

/// Chains of dependent additions that keep two fused multiply-adds of four cycles' latency busy.
const INDEPENDENT_CHAINS: usize = 8;

/// The running value of one reduction at one point: a value, and for the arg reductions its index.
pub(super) type State = SmallVec<[ValueId; 2]>;

/// One reduction at one point.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub(super) reduction: Reduction,
    /// Which of the points.
    pub(super) point: usize,
    /// The lanes of its accumulator along the axis of a vector point.
    pub(super) lanes: u8,
}

#[derive(Clone, Copy)]
pub(super) struct Reduction {
    pub(super) element: ElementId,
    pub(super) op: ReduceOp,
    pub(super) body: ElementId,
    /// The element type that is reduced.
    pub(super) dtype: DType,
}

/// How many chains take an operand at a point.
type Uses = FxHashMap<Key, usize>;

/// How the innermost loop runs.
struct Plan {
    /// Lanes along the reduced axis, if it is vectorised.
    vector: Option<Rc<Classes>>,
    /// Accumulators a chain.
    unroll: usize,
    /// Elements that each accumulator takes an iteration: what moves values to where the next iteration expects
    /// them is shared.
    repeat: usize,
}

impl Emitter<'_> {
    pub(super) fn reduction(&self, element: ElementId) -> Emitted<Reduction> {
        match self.analysis.element(element) {
            Element::Reduce { op, body, .. } => {
                Ok(Reduction { element, op: *op, body: *body, dtype: self.analysis.dtype(*body) })
            }
            _ => Err(self.analysis.malformed(format!("{element} is not a reduction"))),
        }
    }

    /// Runs the reductions of a tile that are chosen, those that others need first.
    pub(super) fn reductions(
        &mut self,
        points: &[Point],
        rows: usize,
        choose: impl Fn(&Group) -> bool,
    ) -> Emitted<()> {
        let groups = &self.analysis.groups;
        let mut order: Vec<&Group> = groups.iter().filter(|g| !g.nested && choose(g)).collect();
        order.sort_by_key(|group| group.height);
        for group in order {
            let members = &group.members;
            let Some(first) = points.first() else { return Ok(()) };
            let by_lane = |emitter: &Emitter, m: &ElementId| emitter.class(*m, first) == Class::Lanewise;
            if let Some(member) = members.iter().find(|m| !by_lane(self, m)) {
                self.reduce(*member, points, rows)?;
            }
            if let Some(member) = members.iter().find(|m| by_lane(self, m)) {
                // Lane by lane, the rows of one lane together: they share the operands that have a lane.
                let lanes: Vec<Vec<Point>> = points.iter().map(|p| self.lanes(p)).collect();
                let mut scalars = Vec::new();
                for column in lanes.chunks(rows.max(1)) {
                    for lane in 0..column.first().map_or(0, Vec::len) {
                        scalars.extend(column.iter().map(|row| row[lane].clone()));
                    }
                }
                self.reduce(*member, &scalars, rows)?;
            }
            self.evaluate_each(&group.settles, points)?;
        }
        Ok(())
    }

    /// Computes a reduction, and those that run in its loop, at every point; `rows` consecutive points share
    /// operands and should stay together.
    pub(super) fn reduce(&mut self, element: ElementId, points: &[Point], rows: usize) -> Emitted<()> {
        let analysis = self.analysis;
        let Some(group) = analysis.group_of.get(&element).and_then(|g| analysis.groups.get(*g)) else {
            return Err(analysis.malformed(format!("{element} has no loop")));
        };
        // Points that differ in other axes only have the same value.
        let mut fresh: Vec<Point> = Vec::new();
        let mut keys = HashSet::new();
        for point in points {
            if self.known(element, point).is_none() && keys.insert(self.key(element, point)) {
                fresh.push(point.clone());
            }
        }
        let Some(first) = fresh.first() else { return Ok(()) };
        let class = self.class(element, first);
        if class == Class::LaneLoop {
            return self.lane_loop(group, &fresh, rows);
        }
        let members: Vec<ElementId> =
            group.members.iter().copied().filter(|m| self.class(*m, first) == class).collect();
        let home = self.key(element, first).axes().iter().map(|v| self.b.depth_of(*v)).max().unwrap_or(0);
        let depth = home.max(self.floor(&group.symbols)).max(self.b.barrier());
        let aside = self.b.enter_depth(depth);
        let guards = self.set_guards_aside(depth);
        let together = even_share(members.len(), self.accumulators / fresh.len());
        let size = batch_size(fresh.len(), together, rows, self.accumulators);
        let result = members.chunks(together).try_for_each(|members| {
            fresh.chunks(size).try_for_each(|batch| self.batch(members, batch, rows))
        });
        self.restore_guards(guards);
        self.b.restore(aside);
        result
    }

    /// Reduces at one lane of all points after the other, and collects the results in vectors.
    fn lane_loop(&mut self, group: &Group, points: &[Point], rows: usize) -> Emitted<()> {
        let Some(first) = points.first() else { return Ok(()) };
        let members: Vec<ElementId> =
            group.members.iter().copied().filter(|m| self.class(*m, first) == Class::LaneLoop).collect();
        let lanes = first.vector.as_ref().map_or(1, |v| v.lanes);
        let results: Vec<(ElementId, &Point)> =
            points.iter().flat_map(|p| members.iter().map(move |m| (*m, p))).collect();
        let mut inits = Vec::with_capacity(results.len());
        for (member, _) in &results {
            let ty = Type { lane: register_type(self.analysis.dtype(*member)), lanes };
            inits.push(self.b.number(ty, 0.0));
        }
        let (begin, end) = (self.b.index(0), self.b.index(i64::from(lanes)));
        let open = self.b.open_loop(&inits, false);
        let lane = open.counter;
        let scalars: Vec<Point> = points.iter().map(|p| p.lane(&mut self.b, lane)).collect();
        for member in &members {
            self.reduce(*member, &scalars, rows)?;
        }
        let narrow = self.b.convert(Conversion::IntToInt, lane, LaneType::I32);
        let narrow = self.b.splat(narrow, lanes);
        let number = self.b.operation(Type { lane: LaneType::I32, lanes }, Operation::LaneIndex);
        let here = self.b.compare(Condition::Eq, number, narrow);
        let mut next = Vec::with_capacity(results.len());
        for (i, current) in open.current.iter().enumerate() {
            let value = self.value(results[i].0, &scalars[i / members.len()])?;
            let value = self.b.splat(value, lanes);
            next.push(self.b.select(here, value, *current));
        }
        let vectors = self.b.close_loop(open, begin, end, 1, &next);
        for ((member, point), vector) in results.into_iter().zip(vectors) {
            self.remember(member, point, vector);
        }
        Ok(())
    }

    /// Reduces at the points of one loop.
    fn batch(&mut self, members: &[ElementId], points: &[Point], rows: usize) -> Emitted<()> {
        let mut chains = Vec::new();
        for (member, i) in in_order(members, points.len(), rows) {
            let lanes = match &points[i].vector {
                Some(v) if v.of(member) == Class::Vector => v.lanes,
                _ => 1,
            };
            chains.push(Chain { reduction: self.reduction(member)?, point: i, lanes });
        }
        let Some(first) = chains.first() else { return Ok(()) };
        let axes = self.bound_axes(first.reduction.element);
        let states = chains.iter().map(|c| self.identity(c, c.lanes)).collect();
        let points: Vec<Point> = points.to_vec();
        let states = self.loops(&axes, 0, &chains, &points, states)?;
        for (chain, state) in chains.iter().zip(states) {
            self.remember_result(chain, &points[chain.point], &state);
        }
        Ok(())
    }

    /// Makes a state after the last element known as the value of the reduction.
    pub(super) fn remember_result(&mut self, chain: &Chain, point: &Point, state: &State) {
        let mut value = *state.last().unwrap_or(&state[0]);
        if chain.reduction.dtype == DType::U8 && !chain.reduction.op.is_arg() {
            let mask = self.b.integer_like(value, 0xff);
            value = self.b.and(value, mask);
        }
        self.remember(chain.reduction.element, point, value);
    }

    /// The axes that the reduction binds. Members of a group bind different axes of the same extents.
    fn bound_axes(&self, element: ElementId) -> SmallVec<[Axis; 2]> {
        match self.analysis.element(element) {
            Element::Reduce { axes, .. } => axes.clone(),
            _ => SmallVec::new(),
        }
    }

    /// The state of nothing reduced; a position has one lane.
    pub(super) fn identity(&mut self, chain: &Chain, lanes: u8) -> State {
        let Reduction { op, dtype, .. } = chain.reduction;
        let extreme = match op {
            ReduceOp::ArgMax => ReduceOp::Max,
            ReduceOp::ArgMin => ReduceOp::Min,
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min => op,
        };
        let value = self.constant(extreme.identity(dtype));
        if op.is_arg() {
            return SmallVec::from_slice(&[value, self.b.index(0)]);
        }
        SmallVec::from_slice(&[self.b.splat(value, lanes)])
    }

    /// The loops over the bound axes from number `level` on.
    fn loops(
        &mut self,
        axes: &[Axis],
        level: usize,
        chains: &[Chain],
        points: &[Point],
        states: Vec<State>,
    ) -> Emitted<Vec<State>> {
        if level + 1 >= axes.len() {
            return self.innermost(axes, chains, points, states);
        }
        let extent = self.analysis.extent(axes[level]).clone();
        let (begin, end) = (self.b.index(0), self.dimension(&extent)?);
        let open = self.b.open_loop(&flatten(&states), false);
        self.guard(extent.symbols());
        let depth = self.b.depth();
        let counter = open.counter;
        let inside = self.bind(chains, points, level, &mut |point, axis| point.with(axis, counter));
        let current = reshape(&states, &open.current);
        let next = self.loops(axes, level + 1, chains, &inside, current)?;
        self.set_guards_aside(depth - 1);
        Ok(reshape(&states, &self.b.close_loop(open, begin, end, 1, &flatten(&next))))
    }

    /// The points with the axis number `level` of every chain's reduction bound: one point can serve all
    /// chains, because each member has bound axes of its own.
    fn bind(
        &self,
        chains: &[Chain],
        points: &[Point],
        level: usize,
        bind: &mut dyn FnMut(&Point, Axis) -> Point,
    ) -> Vec<Point> {
        let mut bound: Vec<Point> = points.to_vec();
        for chain in chains {
            if let Some(axis) = self.bound_axes(chain.reduction.element).get(level) {
                bound[chain.point] = bind(&bound[chain.point], *axis);
            }
        }
        bound
    }

    /// The innermost loop: a main loop of several accumulators or lanes, then what is left.
    fn innermost(
        &mut self,
        axes: &[Axis],
        chains: &[Chain],
        points: &[Point],
        states: Vec<State>,
    ) -> Emitted<Vec<State>> {
        let level = axes.len() - 1;
        let extent = self.analysis.extent(axes[level]).clone();
        let plan = self.plan(chains, level);
        let span = plan.span();
        let (zero, end) = (self.b.index(0), self.dimension(&extent)?);
        if span == 1 {
            let body = Body { chains, points, level, extent: &extent };
            return self.simple_loop(&body, zero, end, states);
        }
        let body = Body { chains, points, level, extent: &extent };
        let mask = self.b.index(-span);
        let main_end = self.b.and(end, mask);
        let accumulators = self.main_loop(&body, &plan, zero, main_end)?;
        let mut states = states;
        for (chain, (state, parts)) in chains.iter().zip(states.iter_mut().zip(accumulators)) {
            *state = self.combine(chain, state, parts);
        }
        if self.b.as_integer(end).is_some_and(|n| n % span == 0) {
            return Ok(states);
        }
        self.simple_loop(&body, main_end, end, states)
    }

    fn plan(&self, chains: &[Chain], level: usize) -> Plan {
        let Some(first) = chains.first() else { return Plan { vector: None, unroll: 1, repeat: 1 } };
        if chains.iter().any(|c| c.reduction.op.is_arg()) {
            return Plan { vector: None, unroll: 1, repeat: 1 };
        }
        // A known small extent limits what a main loop can use.
        let extent = self
            .bound_axes(first.reduction.element)
            .get(level)
            .and_then(|a| self.analysis.extent(*a).as_constant());
        let extent = extent.unwrap_or(i64::MAX);
        let vector = self.reduced_lanes(chains, level).filter(|v| extent >= i64::from(v.lanes));
        let lanes = vector.as_ref().map_or(1, |v| i64::from(v.lanes));
        let wanted = INDEPENDENT_CHAINS.div_ceil(chains.len());
        let useful = |u: &usize| *u <= wanted && *u as i64 * lanes <= extent;
        let unroll = [4, 2].into_iter().find(useful).unwrap_or(1);
        // What an iteration leaves over is reduced one by one.
        let short =
            extent < LEAST_ITERATIONS * lanes * REPEAT as i64 && extent % (lanes * REPEAT as i64) != 0;
        let repeat = if unroll > 1 || short { 1 } else { REPEAT };
        Plan { vector, unroll, repeat }
    }

    /// The classes along the reduced axis, if every body is a vector along it and the points are scalars.
    fn reduced_lanes(&self, chains: &[Chain], level: usize) -> Option<Rc<Classes>> {
        let vector_bits = self.vector_bits?;
        let lane_bits = |c: &Chain| match register_type(c.reduction.dtype) {
            LaneType::F32 | LaneType::I32 => Some(32),
            LaneType::F64 | LaneType::I64 => Some(64),
            LaneType::Bool => None,
        };
        let bits = lane_bits(chains.first()?)?;
        let mut axes = Vec::new();
        for chain in chains {
            if chain.lanes != 1 || lane_bits(chain) != Some(bits) {
                return None;
            }
            let axis = *self.bound_axes(chain.reduction.element).get(level)?;
            if !axes.contains(&axis) {
                axes.push(axis);
            }
        }
        let staged = |id| self.staged.contains_key(&id);
        let lanes = (vector_bits / bits) as u8;
        let classes = Classes::with_staged(self.analysis, axes, lanes, vector_bits, &staged);
        let fits = |c: &Chain| {
            let body = c.reduction.body;
            classes.of(body) == Class::Vector && classes.is_fully_vector(self.analysis, body)
        };
        chains.iter().all(fits).then(|| Rc::new(classes))
    }

    /// One iteration an element, carrying the states themselves.
    fn simple_loop(
        &mut self,
        body: &Body,
        begin: ValueId,
        end: ValueId,
        states: Vec<State>,
    ) -> Emitted<Vec<State>> {
        let open = self.b.open_loop(&flatten(&states), false);
        self.guard(body.extent.symbols());
        let depth = self.b.depth();
        let counter = open.counter;
        let points = self.bind(body.chains, body.points, body.level, &mut |p, axis| p.with(axis, counter));
        let mut next = reshape(&states, &open.current);
        self.steps(body.chains, &points, counter, &mut next)?;
        self.set_guards_aside(depth - 1);
        Ok(reshape(&states, &self.b.close_loop(open, begin, end, 1, &flatten(&next))))
    }

    /// Several accumulators a chain, each with the lanes of the plan. Returns them, by chain.
    fn main_loop(
        &mut self,
        body: &Body,
        plan: &Plan,
        begin: ValueId,
        end: ValueId,
    ) -> Emitted<Vec<Vec<State>>> {
        let lanes = plan.first_lanes();
        let mut inits = Vec::new();
        for _ in 0..plan.unroll {
            for chain in body.chains {
                inits.push(self.identity(chain, chain.lanes.max(lanes as u8)));
            }
        }
        let stream = self.stream(body, plan, begin)?;
        let open = self.b.open_loop(&flatten(&inits), false);
        self.guard(body.extent.symbols());
        let depth = self.b.depth();
        let mut next = reshape(&inits, &open.current);
        let mut asked = Vec::new();
        for step in 0..plan.unroll * plan.repeat {
            let offset = self.b.index(step as i64 * lanes);
            let position = self.b.add(open.counter, offset);
            let points = self.bind(body.chains, body.points, body.level, &mut |p, axis| match &plan.vector {
                Some(classes) => p.with_lanes(classes, position),
                None => p.with(axis, position),
            });
            let first = step % plan.unroll * body.chains.len();
            let states = &mut next[first..first + body.chains.len()];
            self.steps(body.chains, &points, position, states)?;
            asked.push(points);
        }
        // Behind the loads: compilers keep these on their side of a prefetch, and so together.
        if let Some(stream) = &stream {
            asked.iter().try_for_each(|points| self.ask(stream, points))?;
        }
        self.set_guards_aside(depth - 1);
        let span = plan.span();
        let results = reshape(&inits, &self.b.close_loop(open, begin, end, span, &flatten(&next)));
        let chains = body.chains.len();
        Ok((0..chains).map(|c| results.iter().skip(c).step_by(chains).cloned().collect()).collect())
    }

    /// What a main loop of vectors along the columns asks for ahead.
    fn stream(&mut self, body: &Body, plan: &Plan, begin: ValueId) -> Emitted<Option<Stream>> {
        if plan.vector.is_some() || body.chains.iter().any(|c| c.lanes == 1) {
            return Ok(None);
        }
        let starts = self.bind(body.chains, body.points, body.level, &mut |p, axis| p.with(axis, begin));
        let bodies: Vec<(ElementId, usize)> =
            body.chains.iter().map(|c| (c.reduction.body, c.point)).collect();
        self.stream_ahead(&bodies, &starts)
    }

    /// Adds one element to each state.
    pub(super) fn steps(
        &mut self,
        chains: &[Chain],
        points: &[Point],
        position: ValueId,
        states: &mut [State],
    ) -> Emitted<()> {
        let mut uses = Uses::default();
        for chain in chains {
            for factor in self.analysis.element(chain.reduction.body).operands() {
                *uses.entry(self.key(factor, &points[chain.point])).or_default() += 1;
            }
        }
        for (chain, state) in chains.iter().zip(states) {
            self.step(chain, &points[chain.point], position, &uses, state)?;
        }
        Ok(())
    }

    /// Adds one element to a state, or the lanes of one.
    fn step(
        &mut self,
        chain: &Chain,
        point: &Point,
        position: ValueId,
        uses: &Uses,
        state: &mut State,
    ) -> Emitted<()> {
        let Reduction { op, body, dtype, .. } = chain.reduction;
        let lanes = self.b.ty(state[0]).lanes;
        // A sum of products is one fused multiply-add an element.
        if let (ReduceOp::Sum, true, Element::Scalar(ScalarOp::Mul, factors)) =
            (op, dtype.is_float(), self.analysis.element(body))
        {
            let (x, y) = (factors[0], factors[1]);
            // A scalar comes last, so that nothing stands between its load and its use in all lanes: one
            // instruction does both.
            let is_scalar = |e: &ElementId| self.class(*e, point) == Class::Uniform;
            let order = if is_scalar(&x) && !is_scalar(&y) { [y, x] } else { [x, y] };
            order.iter().try_for_each(|factor| self.evaluate(&[*factor], point))?;
            // An instruction that overwrites a factor had better overwrite the one that is needed less.
            let needed = |e| uses.get(&self.key(e, point)).copied().unwrap_or(0);
            let (x, y) = if needed(x) <= needed(y) { (x, y) } else { (y, x) };
            let (x, y) = (self.value(x, point)?, self.value(y, point)?);
            for [x, y] in self.parts_of([x, y], lanes) {
                state[0] = self.b.fma(x, y, state[0]);
            }
            return Ok(());
        }
        self.evaluate(&[body], point)?;
        let value = self.value(body, point)?;
        if op.is_arg() {
            for lane in 0..point.vector.as_ref().map_or(1, |v| v.lanes) {
                let value = self.b.extract(value, lane);
                let offset = self.b.index(i64::from(lane));
                let position = self.b.add(position, offset);
                let better = is_better(&mut self.b, op, dtype, value, state[0]);
                state[0] = self.b.select(better, value, state[0]);
                state[1] = self.b.select(better, position, state[1]);
            }
            return Ok(());
        }
        for [value] in self.parts_of([value], lanes) {
            state[0] = merge(&mut self.b, op, state[0], value);
        }
        Ok(())
    }

    /// Values with as many lanes as an accumulator has: itself, a scalar in all of them, or one lane after the other.
    fn parts_of<const N: usize>(&mut self, values: [ValueId; N], lanes: u8) -> Vec<[ValueId; N]> {
        let most = values.iter().map(|v| self.b.ty(*v).lanes).max().unwrap_or(1);
        if lanes > 1 || most == 1 {
            return vec![values.map(|v| self.b.splat(v, lanes))];
        }
        let lane_of = |b: &mut FunctionBuilder, value, lane| match b.ty(value).lanes {
            1 => value,
            _ => b.extract(value, lane),
        };
        (0..most).map(|lane| values.map(|v| lane_of(&mut self.b, v, lane))).collect()
    }

    /// The lanes of an accumulator as one.
    pub(super) fn one_lane(&mut self, chain: &Chain, state: State) -> State {
        if self.b.ty(state[0]).lanes == 1 {
            return state;
        }
        let none = self.identity(chain, 1);
        self.combine(chain, &none, vec![state])
    }

    /// The state with all accumulators of a chain merged into it.
    fn combine(&mut self, chain: &Chain, state: &State, parts: Vec<State>) -> State {
        let op = chain.reduction.op;
        let mut value = merge_all(&mut self.b, op, parts.iter().map(|p| p[0]).collect());
        if self.b.ty(value).lanes > chain.lanes {
            let lanes = self.b.ty(value).lanes;
            let scalars: Vec<_> = (0..lanes).map(|lane| self.b.extract(value, lane)).collect();
            let mut halves = scalars;
            while halves.len() > 1 {
                let (low, high) = halves.split_at(halves.len() / 2);
                halves = low.iter().zip(high).map(|(x, y)| merge(&mut self.b, op, *x, *y)).collect();
            }
            value = halves[0];
        }
        // The accumulators began with the identity, so merging it once more changes nothing.
        let identity = self.identity(chain, chain.lanes);
        if state[0] == identity[0] {
            return SmallVec::from_slice(&[value]);
        }
        SmallVec::from_slice(&[merge(&mut self.b, op, state[0], value)])
    }
}

impl Plan {
    fn first_lanes(&self) -> i64 {
        self.vector.as_ref().map_or(1, |v| i64::from(v.lanes))
    }

    /// The elements that an iteration reduces.
    fn span(&self) -> i64 {
        self.first_lanes() * (self.unroll * self.repeat) as i64
    }
}

/// What a loop runs.
struct Body<'a> {
    chains: &'a [Chain],
    points: &'a [Point],
    level: usize,
    extent: &'a fuse_ir::Dim,
}

/// The order in which a loop takes members at points, of which `rows` stand together. A member has an operand for
/// each column (the weight), a row one for all members and columns; those that are fewer stay in registers, each of
/// the others is used up before the next is loaded.
fn in_order(members: &[ElementId], points: usize, rows: usize) -> Vec<(ElementId, usize)> {
    let rows = rows.clamp(1, points.max(1));
    let columns = points.div_ceil(rows);
    let of_columns = (0..columns).flat_map(|c| members.iter().map(move |m| (*m, c * rows)));
    let in_columns: Vec<(ElementId, usize)> = of_columns.collect();
    let all: Vec<(ElementId, usize)> = if in_columns.len() <= rows {
        (0..rows).flat_map(|r| in_columns.iter().map(move |(m, first)| (*m, first + r))).collect()
    } else {
        in_columns.iter().flat_map(|(m, first)| (0..rows).map(move |r| (*m, first + r))).collect()
    };
    all.into_iter().filter(|(_, point)| *point < points).collect()
}

/// How many points one loop takes: as many as accumulators allow, evenly, in whole rows.
fn batch_size(points: usize, members: usize, rows: usize, accumulators: usize) -> usize {
    let size = even_share(points, accumulators / members);
    if size > rows && rows > 0 { size / rows * rows } else { size }
}

/// How many of `all` go together if at most `most` can: as few times as possible, evenly.
fn even_share(all: usize, most: usize) -> usize {
    all.div_ceil(all.div_ceil(most.max(1)).max(1)).max(1)
}
