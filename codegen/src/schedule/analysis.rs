//! What a schedule wants to know about a kernel before it makes loops.

use std::collections::{BTreeMap, BTreeSet};

use fuse_ir::expr::{Atom, Axis, Dim, Expr, Symbol};
use fuse_ir::kernel::{BufferId, Coordinate, Element, ElementId, Kernel, KernelGraph, Recurrence};
use fuse_ir::kernel_parts::Shared;
use fuse_ir::{DType, ReduceOp};
use rustc_hash::FxHashMap;

use super::ScheduleError;
use super::access::Access;
use super::parts::{self, Part};
use crate::decompose::register_type;
use crate::kernel_ir::{BufferParameter, LaneType, ParameterId};

/// A set of axes, one bit each.
pub(super) type AxisSet = u64;

/// The set of one axis.
pub(super) fn axis_bit(axis: Axis) -> AxisSet {
    1 << axis.0.min(63)
}

/// The set of some axes.
pub(super) fn axis_set(axes: &[Axis]) -> AxisSet {
    axes.iter().fold(0, |set, axis| set | axis_bit(*axis))
}

/// x / y, rounded up, for y > 0.
pub(super) fn ceil_div(x: i64, y: i64) -> i64 {
    x.div_euclid(y) + i64::from(x.rem_euclid(y) != 0)
}

/// Reductions that run in one loop: over equal extents, at the same place, none needing another.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) members: Vec<ElementId>,
    /// The free axes that all members have.
    pub(super) free: AxisSet,
    /// Whether an axis of another reduction is among them.
    pub(super) nested: bool,
    /// How many reductions must have run before.
    pub(super) height: u32,
    /// The symbols of all coordinates in the bodies.
    pub(super) symbols: BTreeSet<Symbol>,
    /// Whether a member is computed from the state of a recurrence.
    pub(super) carried: bool,
    /// The part of the kernel that needs the members.
    pub(super) part: usize,
    /// What is computed from the members before the next group's loop, where that is one of several over the same
    /// extents: fewer values then wait in registers.
    pub(super) settles: Vec<ElementId>,
}

/// Where a store goes and what it stores.
#[derive(Clone, Debug)]
pub(super) struct StoreAccess {
    pub(super) access: Access,
    pub(super) value: ElementId,
}

/// Where the final state of a recurrence goes.
#[derive(Clone, Debug)]
pub(super) struct FinalStore {
    pub(super) access: Access,
    pub(super) state: Recurrence,
}

/// A kernel with everything derived from it.
#[derive(Debug)]
pub(super) struct Analysis<'a> {
    pub(super) kernel: &'a Kernel,
    /// The extents of all axes, after neighbouring ones were collapsed.
    pub(super) extents: Vec<Dim>,
    /// The buffers: those loaded, then those stored.
    pub(super) buffers: Vec<BufferParameter>,
    /// Every runtime integer of the function, ascending.
    pub(super) symbols: Vec<Symbol>,
    /// The axes that each element depends on.
    pub(super) free: Vec<AxisSet>,
    /// Whether the element is a state of a recurrence, or computed from one.
    pub(super) carried: Vec<bool>,
    /// Whether a store needs the element.
    pub(super) needed: Vec<bool>,
    /// The accesses of loads.
    pub(super) loads: FxHashMap<ElementId, Access>,
    /// The stores of every point.
    pub(super) stores: Vec<StoreAccess>,
    /// The stores after the last point of the axis of the recurrences.
    pub(super) finals: Vec<FinalStore>,
    /// The axis of the recurrences, if a store needs any.
    pub(super) recurrence_axis: Option<Axis>,
    /// The elements that a store needs and that are states of recurrences.
    pub(super) recurrences: Vec<(ElementId, Recurrence)>,
    /// What tiles compute one after the other.
    pub(super) parts: Vec<Part>,
    /// Ascending by height.
    pub(super) groups: Vec<Group>,
    /// The group of each reduction.
    pub(super) group_of: FxHashMap<ElementId, usize>,
}

impl<'a> Analysis<'a> {
    /// `shared` is what makes stores one part where the reductions are few; all are one if it is `None`.
    pub(super) fn new(
        graph: &KernelGraph,
        kernel: &'a Kernel,
        shared: Option<Shared>,
    ) -> Result<Self, ScheduleError> {
        let mut analysis = Analysis {
            kernel,
            extents: kernel.extents.clone(),
            buffers: Vec::new(),
            symbols: Vec::new(),
            free: Vec::new(),
            carried: Vec::new(),
            needed: vec![false; kernel.elements.len()],
            loads: FxHashMap::default(),
            stores: Vec::new(),
            finals: Vec::new(),
            recurrence_axis: kernel.recurrence_axis(),
            recurrences: Vec::new(),
            parts: Vec::new(),
            groups: Vec::new(),
            group_of: FxHashMap::default(),
        };
        analysis.check(graph)?;
        analysis.accesses(graph);
        analysis.collapse();
        analysis.dependencies()?;
        analysis.parts = parts::parts(&analysis, shared);
        analysis.group();
        analysis.collect_symbols();
        Ok(analysis)
    }

    /// Makes the parameters those of a function that other kernels are part of, too.
    pub(super) fn join(&mut self, positions: &BTreeMap<BufferId, ParameterId>, buffers: &[BufferParameter]) {
        let own = std::mem::replace(&mut self.buffers, buffers.to_vec());
        let stores = self.stores.iter_mut().map(|s| &mut s.access);
        let finals = self.finals.iter_mut().map(|s| &mut s.access);
        for access in self.loads.values_mut().chain(stores).chain(finals) {
            access.buffer = positions[&own[access.buffer.0 as usize].buffer];
        }
    }

    /// Whether a buffer is written while it is read, by another step or another block.
    pub(super) fn is_updated(&self, buffer: ParameterId) -> bool {
        self.buffers.get(buffer.0 as usize).is_some_and(|b| b.access == crate::kernel_ir::Access::ReadWrite)
    }

    /// Whether a load is of these axes alone, from a buffer that the loop with this counter does not write, so that every
    /// step reads the same.
    pub(super) fn is_constant(&self, counter: &Symbol, load: ElementId, axes: AxisSet) -> bool {
        let Some(access) = self.loads.get(&load) else { return false };
        self.free[load.index()] == axes
            && access.dynamic.is_empty()
            && access.guard.is_none()
            && !self.is_updated(access.buffer)
            && !access.all_symbols().contains(counter)
            && register_type(self.dtype(load)) != LaneType::Bool
    }

    pub(super) fn malformed(&self, message: impl Into<String>) -> ScheduleError {
        ScheduleError::Malformed { kernel: self.kernel.name.clone(), message: message.into() }
    }

    fn unsupported(&self, message: impl Into<String>) -> ScheduleError {
        ScheduleError::Unsupported { kernel: self.kernel.name.clone(), message: message.into() }
    }

    /// The element type of an element.
    pub(super) fn dtype(&self, e: ElementId) -> DType {
        self.kernel.elements[e.index()].dtype
    }

    /// What computes an element.
    pub(super) fn element(&self, e: ElementId) -> &'a Element {
        &self.kernel.elements[e.index()].element
    }

    /// The extent of an axis.
    pub(super) fn extent(&self, axis: Axis) -> &Dim {
        &self.extents[axis.index()]
    }

    /// The extents of the space.
    pub(super) fn space(&self) -> &[Dim] {
        &self.extents[..self.kernel.rank]
    }

    /// Elements in order, with their identifiers.
    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = ElementId> + use<> {
        (0..self.kernel.elements.len() as u32).map(ElementId)
    }

    /// Rules that the rest relies on, so that nothing below can be out of range.
    fn check(&self, graph: &KernelGraph) -> Result<(), ScheduleError> {
        let kernel = self.kernel;
        if kernel.extents.len() > 63 {
            return Err(self.unsupported("it has more than 63 axes"));
        }
        if kernel.rank > kernel.extents.len() {
            return Err(self.malformed("its space has more axes than the kernel"));
        }
        let axis_known = |e: &Expr| e.axes().iter().all(|a| a.index() < kernel.extents.len());
        let rank_of = |b: BufferId| graph.buffers.get(b.index()).map(|buffer| buffer.ty.rank());
        for (i, typed) in kernel.elements.iter().enumerate() {
            let here = |what: &str| self.malformed(format!("e{i} {what}"));
            if typed.element.operands().iter().any(|o| o.index() >= i) {
                return Err(here("uses an element that is not before it"));
            }
            match &typed.element {
                Element::Load { buffer, index } => {
                    if rank_of(*buffer) != Some(index.len()) {
                        return Err(here("does not have one coordinate for each axis of its buffer"));
                    }
                    let known = |c: &Coordinate| match c {
                        Coordinate::Static(e) => axis_known(e),
                        Coordinate::Dynamic(e) => self.dtype(*e).is_int(),
                    };
                    if !index.iter().all(known) {
                        return Err(here("has a coordinate that is no integer or over unknown axes"));
                    }
                }
                Element::Index(e) if !axis_known(e) => return Err(here("is over unknown axes")),
                Element::Scalar(op, operands) if operands.len() != op.arity() => {
                    return Err(here("has another number of operands than its op"));
                }
                Element::Reduce { op, axes, body } => self.check_reduce(i, *op, axes, *body)?,
                Element::Recurrence { state, .. } => self.check_recurrence(i, state)?,
                Element::Constant(_) | Element::Index(_) | Element::Scalar(..) | Element::Cast(_) => {}
            }
        }
        for (i, store) in kernel.stores.iter().enumerate() {
            let in_space = |e: &Expr| e.axes().iter().all(|a| a.index() < kernel.rank);
            let valid = rank_of(store.buffer) == Some(store.index.len())
                && store.value.index() < kernel.elements.len()
                && store.index.iter().all(in_space);
            if !valid {
                return Err(self.malformed(format!("store {i} does not fit its buffer or its space")));
            }
            if self.dtype(store.value) != graph.buffer(store.buffer).ty.dtype {
                return Err(self.malformed(format!("store {i} stores an element of another type")));
            }
        }
        Ok(())
    }

    fn check_reduce(
        &self,
        position: usize,
        op: ReduceOp,
        axes: &[Axis],
        body: ElementId,
    ) -> Result<(), ScheduleError> {
        let kernel = self.kernel;
        let bound = |a: &Axis| a.index() >= kernel.rank && a.index() < kernel.extents.len();
        if axes.is_empty() || !axes.iter().all(bound) {
            return Err(self.malformed(format!("e{position} binds no axis, or one of the space")));
        }
        if op.is_arg() && axes.len() != 1 {
            return Err(self.malformed(format!("e{position} takes the index along other than one axis")));
        }
        if self.dtype(body) == DType::Bool {
            return Err(self.unsupported(format!("e{position} reduces bools")));
        }
        Ok(())
    }

    fn check_recurrence(&self, position: usize, state: &Recurrence) -> Result<(), ScheduleError> {
        let kernel = self.kernel;
        if state.axis.index() >= kernel.rank || Some(state.axis) != self.recurrence_axis {
            return Err(
                self.malformed(format!("e{position} runs along no axis of the space, or another one"))
            );
        }
        let dtype = kernel.elements[position].dtype;
        let operands = [state.init, state.factor, state.term];
        if dtype == DType::Bool || operands.iter().any(|e| self.dtype(*e) != dtype) {
            return Err(self.malformed(format!("e{position} is no recurrence of numbers of one type")));
        }
        Ok(())
    }

    fn accesses(&mut self, graph: &KernelGraph) {
        let kernel = self.kernel;
        let mut parameters = BTreeMap::new();
        let stored: BTreeSet<BufferId> = kernel.stores.iter().map(|s| s.buffer).collect();
        let loaded = kernel.loads();
        let access =
            |written| if written { crate::kernel_ir::Access::Write } else { crate::kernel_ir::Access::Read };
        for (buffer, written) in
            loaded.into_iter().map(|b| (b, false)).chain(stored.into_iter().map(|b| (b, true)))
        {
            let declared = graph.buffer(buffer);
            parameters.insert((buffer, written), ParameterId(self.buffers.len() as u32));
            self.buffers.push(BufferParameter::new(buffer, declared, access(written)));
        }
        for id in self.ids() {
            if let Element::Load { buffer, index } = self.element(id) {
                let ty = &graph.buffer(*buffer).ty;
                let access = Access::new(parameters[&(*buffer, false)], ty, index, &kernel.extents);
                self.loads.insert(id, access);
            }
        }
        for store in &kernel.stores {
            let index: Vec<_> = store.index.iter().cloned().map(Coordinate::Static).collect();
            let ty = &graph.buffer(store.buffer).ty;
            let access = Access::new(parameters[&(store.buffer, true)], ty, &index, &kernel.extents);
            match self.element(store.value).recurrence() {
                Some(state) if kernel.is_final(store) => self.finals.push(FinalStore { access, state }),
                _ => self.stores.push(StoreAccess { access, value: store.value }),
            }
        }
    }

    /// Makes one axis of two neighbours wherever every access goes through them as through one contiguous
    /// axis: `i·n + j` with j below n. Long runs then need no coordinates and leave few scalars over.
    fn collapse(&mut self) {
        let mut inner = None;
        for outer in (0..self.kernel.rank as u32).rev().map(Axis) {
            if self.extent(outer).is_one() || Some(outer) == self.recurrence_axis {
                continue;
            }
            if let Some(inner) = inner.filter(|inner| self.is_contiguous(outer, *inner)) {
                let merged = self.extent(outer).clone() * self.extent(inner).clone();
                self.extents[outer.index()] = Dim::constant(1);
                self.extents[inner.index()] = merged;
                let fixed = |atom: &Atom| (*atom == Atom::Axis(outer)).then(Expr::default);
                let stores = self.stores.iter_mut().map(|s| &mut s.access);
                let finals = self.finals.iter_mut().map(|s| &mut s.access);
                for access in self.loads.values_mut().chain(stores).chain(finals) {
                    access.position = access.position.substitute(&fixed);
                }
            } else {
                inner = Some(outer);
            }
        }
    }

    /// Whether a step along `outer` is, everywhere, as many steps along `inner` as that has points.
    fn is_contiguous(&self, outer: Axis, inner: Axis) -> bool {
        let is_free_of = |e: &Expr| !e.uses_axis(outer) && !e.uses_axis(inner);
        let indices_are_free = self.kernel.elements.iter().all(|typed| match &typed.element {
            Element::Index(e) => is_free_of(e),
            Element::Load { .. }
            | Element::Constant(_)
            | Element::Scalar(..)
            | Element::Cast(_)
            | Element::Reduce { .. }
            | Element::Recurrence { .. } => true,
        });
        let steps = |access: &Access| {
            let (outer, step) = (access.coefficient(&[outer])?, access.coefficient(&[inner])?);
            Some(outer == step * self.extent(inner).clone())
        };
        let stores = self.stores.iter().map(|s| &s.access);
        let mut accesses = self.loads.values().chain(stores).chain(self.finals.iter().map(|s| &s.access));
        indices_are_free && accesses.all(|access| steps(access) == Some(true))
    }

    /// Free axes, and what the stores need.
    fn dependencies(&mut self) -> Result<(), ScheduleError> {
        let space: AxisSet = (0..self.kernel.rank).map(|a| axis_bit(Axis(a as u32))).sum();
        for id in self.ids() {
            let element = self.element(id);
            let mut free =
                element.operands().iter().fold(0, |free, operand| free | self.free[operand.index()]);
            match element {
                Element::Load { .. } => {
                    let position = self.loads.get(&id).map(|access| access.position.axes());
                    free |= position.into_iter().flatten().map(axis_bit).sum::<AxisSet>();
                }
                Element::Index(e) => free |= e.axes().into_iter().map(axis_bit).sum::<AxisSet>(),
                Element::Reduce { axes, .. } => axes.iter().for_each(|a| free &= !axis_bit(*a)),
                Element::Recurrence { state, .. } => {
                    if free & !space != 0 || self.free[state.init.index()] & axis_bit(state.axis) != 0 {
                        return Err(self.malformed(format!("{id} depends on an axis that it must not")));
                    }
                    free |= axis_bit(state.axis);
                }
                Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) => {}
            }
            self.free.push(free);
            let of_operands = element.operands().iter().any(|o| self.carried[o.index()]);
            self.carried.push(of_operands || element.recurrence().is_some());
        }
        for store in &self.finals {
            for operand in [store.state.init, store.state.factor, store.state.term] {
                self.needed[operand.index()] = true;
            }
        }
        for store in &self.stores {
            self.needed[store.value.index()] = true;
            if self.free[store.value.index()] & !space != 0 {
                return Err(
                    self.malformed(format!("{} is stored over an axis that nothing binds", store.value))
                );
            }
        }
        for id in self.ids().rev() {
            if self.needed[id.index()] {
                for operand in self.element(id).operands() {
                    self.needed[operand.index()] = true;
                }
            }
        }
        let recurrence = |id: ElementId| Some((id, self.element(id).recurrence()?));
        let stored = |state: &Recurrence| self.finals.iter().any(|f| f.state == *state);
        self.recurrences = self
            .ids()
            .filter_map(recurrence)
            .filter(|(id, state)| self.needed[id.index()] || stored(state))
            .collect();
        if self.recurrences.is_empty() {
            self.recurrence_axis = None;
        }
        Ok(())
    }

    fn group(&mut self) {
        let space: AxisSet = (0..self.kernel.rank).map(|a| axis_bit(Axis(a as u32))).sum();
        let mut heights = vec![0u32; self.kernel.elements.len()];
        let mut symbols: Vec<BTreeSet<Symbol>> = Vec::with_capacity(heights.len());
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for id in self.ids() {
            let operands = self.element(id).operands();
            let height = operands.iter().map(|o| heights[o.index()]).max().unwrap_or(0);
            let mut used: BTreeSet<Symbol> =
                operands.iter().flat_map(|o| symbols[o.index()].iter().cloned()).collect();
            if let Some(access) = self.loads.get(&id) {
                used.extend(access.symbols.iter().cloned());
            }
            heights[id.index()] = height;
            if let Element::Reduce { axes, op, .. } = self.element(id) {
                heights[id.index()] = height + 1;
                if self.needed[id.index()] {
                    let free = self.free[id.index()];
                    let extents: Vec<Dim> = axes.iter().map(|a| self.extent(*a).clone()).collect();
                    let part = self.parts.iter().position(|p| p.reductions.contains(&id)).unwrap_or(0);
                    let group = groups.entry((height, free, extents, op.is_arg(), part));
                    let group = group.or_insert_with(|| Group {
                        members: Vec::new(),
                        free,
                        nested: free & !space != 0,
                        height,
                        symbols: BTreeSet::new(),
                        carried: false,
                        part,
                        settles: Vec::new(),
                    });
                    group.carried |= self.carried[id.index()];
                    group.members.push(id);
                    group.symbols.extend(used.iter().cloned());
                }
            }
            symbols.push(used);
        }
        self.groups = groups.into_values().collect();
        self.find_groups();
    }

    /// Notes the group of each reduction.
    pub(super) fn find_groups(&mut self) {
        self.group_of.clear();
        for (i, group) in self.groups.iter().enumerate() {
            self.group_of.extend(group.members.iter().map(|m| (*m, i)));
        }
    }

    fn collect_symbols(&mut self) {
        let mut symbols = self.kernel.symbols();
        symbols.extend(self.loads.values().flat_map(Access::all_symbols));
        symbols.extend(self.stores.iter().flat_map(|s| s.access.all_symbols()));
        symbols.extend(self.finals.iter().flat_map(|s| s.access.all_symbols()));
        self.symbols = symbols.into_iter().collect();
    }

    /// The axes of the space with more than one point, outermost first, without that of the recurrences: their
    /// points are independent.
    pub(super) fn space_axes(&self) -> Vec<Axis> {
        let independent = |a: &Axis| Some(*a) != self.recurrence_axis && !self.extent(*a).is_one();
        (0..self.kernel.rank as u32).map(Axis).filter(independent).collect()
    }

    /// The loads that a store needs and that vary along any of some axes.
    pub(super) fn loads_along(&self, axes: AxisSet) -> impl Iterator<Item = (ElementId, &Access)> {
        let varies = move |id: ElementId| self.needed[id.index()] && self.free[id.index()] & axes != 0;
        self.loads.iter().map(|(id, access)| (*id, access)).filter(move |(id, _)| varies(*id))
    }

    /// The number of points along some axes.
    pub(super) fn points(&self, axes: &[Axis]) -> Dim {
        axes.iter().fold(Dim::constant(1), |n, a| n * self.extent(*a).clone())
    }

    /// The number of states that each point of the other axes carries along that of the recurrences.
    pub(super) fn states(&self) -> usize {
        self.recurrences.iter().map(|(_, state)| state).collect::<BTreeSet<_>>().len()
    }

    /// The symbols of the extents of these axes: where one is 0, there is no point at all.
    pub(super) fn space_symbols(&self) -> BTreeSet<Symbol> {
        self.space_axes().into_iter().flat_map(|a| self.extent(a).symbols()).collect()
    }
}
