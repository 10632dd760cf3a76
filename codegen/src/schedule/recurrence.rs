//! Tiles: reductions together, then stores; where a kernel has recurrences, a loop along their axis does so at
//! each of its points, with the states in registers.

use fuse_ir::expr::Axis;
use fuse_ir::kernel::{Element, ElementId, Recurrence};
use fuse_ir::{DType, Literal, ScalarOp};
use rustc_hash::FxHashMap;

use super::analysis::axis_bit;
use super::emitter::{Emitted, Emitter, Key, Point, Together};
use super::vectors::Class;
use crate::decompose;
use crate::kernel_ir::ValueId;

/// The state of one recurrence at one point of the other axes.
struct State {
    recurrence: Recurrence,
    /// Which of the points.
    point: usize,
}

/// Steps along the axis of the recurrences, some of them together.
struct Steps {
    axis: Axis,
    begin: ValueId,
    end: ValueId,
    together: i64,
}

impl Emitter<'_> {
    /// Computes and stores everything at neighbouring points, `rows` consecutive ones of which share operands.
    pub(super) fn tile(&mut self, points: &[Point], rows: usize) -> Emitted<()> {
        match self.analysis.recurrence_axis {
            Some(axis) => self.recurrences(axis, points, rows),
            None => {
                for (at, part) in self.analysis.parts.iter().enumerate() {
                    self.reductions(points, rows, |group| group.part == at)?;
                    self.stores(points, part)?;
                }
                Ok(())
            }
        }
    }

    /// One loop along `axis` for all points. The points have no position along it.
    fn recurrences(&mut self, axis: Axis, points: &[Point], rows: usize) -> Emitted<()> {
        let states = self.states(axis, points)?;
        let mut inits = Vec::with_capacity(states.len());
        for state in &states {
            let point = &points[state.point];
            self.evaluate(&[state.recurrence.init], point)?;
            let init = self.value(state.recurrence.init, point)?;
            let lanes = self.state_lanes(state, point);
            inits.push(self.b.splat(init, lanes));
        }
        let extent = self.analysis.extent(axis).clone();
        let (mut begin, end) = (self.b.index(0), self.dimension(&extent)?);
        // What is 64 bits wide takes two registers.
        let is_wide = |e: &ElementId| self.analysis.dtype(*e).size() > 4;
        let at_once = if self.loads_along(axis).iter().any(is_wide) { 2 } else { 1 };
        let at_once = (self.steps_at_once / at_once).max(1);
        let together = if self.analysis.groups.is_empty() { at_once } else { 1 };
        let mut values = inits;
        if together > 1 {
            let mask = self.b.index(-together);
            let whole = self.b.and(end, mask);
            let run = Steps { axis, begin, end: whole, together };
            values = self.steps_of_recurrences(&run, points, rows, &states, &values)?;
            begin = whole;
        }
        let run = Steps { axis, begin, end, together: 1 };
        let finals = self.steps_of_recurrences(&run, points, rows, &states, &values)?;
        self.store_finals(axis, points, &states, &finals)
    }

    /// A loop over steps, from the states before to those after it.
    fn steps_of_recurrences(
        &mut self,
        run: &Steps,
        points: &[Point],
        rows: usize,
        states: &[State],
        inits: &[ValueId],
    ) -> Emitted<Vec<ValueId>> {
        let open = self.b.open_loop(inits, false);
        self.guard(self.analysis.extent(run.axis).symbols());
        let depth = self.b.depth();
        let offsets = (0..run.together).map(|step| {
            let offset = self.b.index(step);
            self.b.add(open.counter, offset)
        });
        let positions: Vec<ValueId> = offsets.collect();
        let before = positions.windows(2).map(|pair| (pair[1], pair[0])).collect();
        self.together = Some(Together { axis: run.axis, before });
        let at = |position: &ValueId| points.iter().map(|p| p.with(run.axis, *position)).collect();
        let steps: Vec<Vec<Point>> = positions.iter().map(at).collect();
        if run.together > 1 {
            let loads = self.loads_along(run.axis);
            self.evaluate_each(&loads, &steps.concat())?;
        }
        let mut values = open.current.clone();
        for inside in &steps {
            values = self.step_of_recurrences(inside, rows, states, &values)?;
        }
        self.together = None;
        self.set_guards_aside(depth - 1);
        Ok(self.b.close_loop(open, run.begin, run.end, run.together, &values))
    }

    /// Computes and stores everything at one step, from the states before it. Returns those after it.
    fn step_of_recurrences(
        &mut self,
        inside: &[Point],
        rows: usize,
        states: &[State],
        before: &[ValueId],
    ) -> Emitted<Vec<ValueId>> {
        for (state, before) in states.iter().zip(before) {
            self.remember_state(state, &inside[state.point], true, *before)?;
        }
        self.reductions(inside, rows, |group| !group.carried)?;
        let mut next = Vec::with_capacity(states.len());
        for (state, before) in states.iter().zip(before) {
            let after = self.after(state, &inside[state.point], *before)?;
            self.remember_state(state, &inside[state.point], false, after)?;
            next.push(after);
        }
        self.reductions(inside, rows, |group| group.carried)?;
        for part in &self.analysis.parts {
            self.stores(inside, part)?;
        }
        Ok(next)
    }

    /// The loads of each step that do not wait for a state.
    fn loads_along(&self, axis: Axis) -> Vec<ElementId> {
        let analysis = self.analysis;
        let is_early = |id: &ElementId| {
            let (i, free) = (id.index(), analysis.free[id.index()]);
            analysis.needed[i] && !analysis.carried[i] && free & axis_bit(axis) != 0
        };
        analysis.ids().filter(|id| analysis.loads.contains_key(id) && is_early(id)).collect()
    }

    /// The states that the points carry; points that differ in other axes only share one.
    fn states(&mut self, axis: Axis, points: &[Point]) -> Emitted<Vec<State>> {
        let mut found: FxHashMap<(Recurrence, Key), usize> = FxHashMap::default();
        let mut states = Vec::new();
        let zero = self.b.index(0);
        // In order of the elements, so that what a recurrence is computed from comes first.
        for (element, recurrence) in &self.analysis.recurrences {
            for (i, point) in points.iter().enumerate() {
                if self.class(*element, point) == Class::Lanewise {
                    return Err(self.analysis.malformed(format!("{element} is carried lane by lane")));
                }
                let first = self.analysis.recurrences.iter().find(|(_, r)| r == recurrence);
                let key = self.key(first.map_or(*element, |(e, _)| *e), &point.with(axis, zero));
                found.entry((*recurrence, key)).or_insert_with(|| {
                    states.push(State { recurrence: *recurrence, point: i });
                    states.len() - 1
                });
            }
        }
        Ok(states)
    }

    /// The lanes of a state: those of the point, if it depends on the axis of the vector.
    fn state_lanes(&self, state: &State, point: &Point) -> u8 {
        let of = |(e, r): &(_, Recurrence)| (*r == state.recurrence).then_some(*e);
        match (self.analysis.recurrences.iter().find_map(of), &point.vector) {
            (Some(element), Some(v)) if v.of(element) == Class::Vector => v.lanes,
            _ => 1,
        }
    }

    /// Makes a state known as the value of its elements.
    fn remember_state(
        &mut self,
        state: &State,
        point: &Point,
        exclusive: bool,
        value: ValueId,
    ) -> Emitted<()> {
        let analysis = self.analysis;
        for (element, recurrence) in &analysis.recurrences {
            let is = Element::Recurrence { state: state.recurrence, exclusive };
            if *recurrence != state.recurrence || *analysis.element(*element) != is {
                continue;
            }
            self.remember(*element, point, value);
            // For what is computed lane by lane; lanes that nothing reads are dead code.
            if self.b.ty(value).lanes > 1 && self.takes_lanes(point) {
                for (lane, scalar) in self.lanes(point).into_iter().enumerate() {
                    let value = self.b.extract(value, lane as u8);
                    self.remember(*element, &scalar, value);
                }
            }
        }
        Ok(())
    }

    /// Whether something that is computed lane by lane is computed from a state.
    fn takes_lanes(&self, point: &Point) -> bool {
        let analysis = self.analysis;
        let lanewise =
            |id: ElementId| analysis.needed[id.index()] && self.class(id, point) == Class::Lanewise;
        analysis.ids().any(|id| analysis.carried[id.index()] && lanewise(id))
    }

    /// The state after a point.
    fn after(&mut self, state: &State, point: &Point, before: ValueId) -> Emitted<ValueId> {
        let Recurrence { factor, term, .. } = state.recurrence;
        self.evaluate(&[factor, term], point)?;
        let lanes = self.b.ty(before).lanes;
        let dtype = self.analysis.dtype(factor);
        let [factor_value, term] = [self.value(factor, point)?, self.value(term, point)?];
        let [factor_value, term] = [factor_value, term].map(|v| self.b.splat(v, lanes));
        let one = match self.analysis.element(factor) {
            Element::Constant(literal) => *literal == Literal::from_i64(dtype, 1),
            _ => false,
        };
        if one {
            let after = decompose::scalar(&mut self.b, ScalarOp::Add, dtype, &[before, term]);
            return Ok(self.rounded(after, dtype));
        }
        if dtype.is_float() {
            let after = self.b.fma(factor_value, before, term);
            return Ok(self.rounded(after, dtype));
        }
        let kept = decompose::scalar(&mut self.b, ScalarOp::Mul, dtype, &[factor_value, before]);
        Ok(decompose::scalar(&mut self.b, ScalarOp::Add, dtype, &[kept, term]))
    }

    /// A state as its element type holds it: one of a narrow type is rounded at every step.
    fn rounded(&mut self, state: ValueId, dtype: DType) -> ValueId {
        match dtype {
            DType::F16 | DType::Bf16 => {
                let bits = decompose::to_memory(&mut self.b, dtype, state);
                decompose::from_memory(&mut self.b, dtype, bits)
            }
            DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => state,
        }
    }

    fn store_finals(
        &mut self,
        axis: Axis,
        points: &[Point],
        states: &[State],
        finals: &[ValueId],
    ) -> Emitted<()> {
        let analysis = self.analysis;
        let zero = self.b.index(0);
        for store in &analysis.finals {
            let Some((element, _)) = analysis.recurrences.iter().find(|(_, r)| *r == store.state) else {
                return Err(analysis.malformed("the state of a final store is not computed"));
            };
            for point in points {
                let key = |e: &Emitter, p: &Point| e.key(*element, &p.with(axis, zero));
                let wanted = key(self, point);
                let holds = |(s, _): &(&State, &ValueId)| {
                    s.recurrence == store.state && key(self, &points[s.point]) == wanted
                };
                let Some((_, value)) = states.iter().zip(finals).find(holds) else {
                    return Err(analysis.malformed("the state of a final store has no value"));
                };
                self.store_final(&store.access, *value, point)?;
            }
        }
        Ok(())
    }
}
