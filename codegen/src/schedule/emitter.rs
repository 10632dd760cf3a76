//! Elements as operations, at a point of the iteration space.

mod own;

pub(super) use own::{OwnLoad, OwnPlace, OwnStore};

use std::collections::BTreeSet;
use std::rc::Rc;

use fuse_ir::expr::{Atom, Axis, Dim, Expr, Symbol};
use fuse_ir::kernel::{Element, ElementId};
use fuse_ir::{DType, Literal};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ScheduleError;
use super::access::Access;
use super::ahead::ColumnsAhead;
use super::analysis::{Analysis, AxisSet, axis_bit};
use super::division::{floor_division, truncating_division};
use super::parts::Part;
use super::vectors::{Class, Classes};
use crate::builder::{Depth, FunctionBuilder};
use crate::decompose;
use crate::kernel_ir::{BinaryOp, Condition, LaneType, Operation, ParameterId, SharedId, Type, ValueId};

/// Points whose operations alternate. A point of several transcendental functions is one long chain of dependent
/// operations, and the next point's stands too far behind it to run meanwhile. Two multiply-adds at a time, of four cycles
/// each, take eight chains; what then finds no register costs less than waiting.
pub(super) const INTERLEAVED_POINTS: usize = 8;

/// Accumulators that the loop of a thread of a GPU carries, each of them perhaps a vector of four.
const GPU_ACCUMULATORS: usize = 16;

/// Values of axes; at most one of them stands for several consecutive lanes from its value on.
#[derive(Clone, Debug)]
pub(super) struct Point {
    axes: SmallVec<[Option<ValueId>; 8]>,
    pub(super) vector: Option<Rc<Classes>>,
}

impl Point {
    /// The point of a kernel where no axis has a value.
    pub(super) fn new(axes: usize) -> Point {
        Point { axes: SmallVec::from_elem(None, axes), vector: None }
    }

    /// The same point with one more axis, a scalar.
    pub(super) fn with(&self, axis: Axis, value: ValueId) -> Point {
        let mut point = self.clone();
        point.axes[axis.index()] = Some(value);
        point
    }

    /// The same point with one more axis, the lanes of a vector from `first` on.
    pub(super) fn with_lanes(&self, classes: &Rc<Classes>, first: ValueId) -> Point {
        let mut point = self.clone();
        classes.axes.iter().for_each(|axis| point.axes[axis.index()] = Some(first));
        point.vector = Some(classes.clone());
        point
    }

    /// The scalar point of one lane (i64).
    pub(super) fn lane(&self, b: &mut FunctionBuilder, lane: ValueId) -> Point {
        let mut scalar = Point { axes: self.axes.clone(), vector: None };
        for axis in self.vector.iter().flat_map(|v| &v.axes) {
            if let Some(first) = self.axis(*axis) {
                scalar.axes[axis.index()] = Some(b.add(first, lane));
            }
        }
        scalar
    }

    fn axis(&self, axis: Axis) -> Option<ValueId> {
        self.axes.get(axis.index()).copied().flatten()
    }
}

/// Identifies the value of an element: the element and the values of its free axes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    element: ElementId,
    lanes: u8,
    axes: SmallVec<[ValueId; 4]>,
}

impl Key {
    /// The values of the free axes.
    pub(super) fn axes(&self) -> &[ValueId] {
        &self.axes
    }
}

/// Where a block of threads keeps an operand of its columns: `[k / 4][column][k mod 4]`, and `[k][column]` what is behind the
/// last whole vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    /// The axis of `k`.
    pub(super) axis: Axis,
    /// The axis of columns.
    pub(super) column: Axis,
    /// The columns of the block.
    pub(super) units: i64,
    /// Where the elements begin that are behind the last whole vector, if there are any.
    pub(super) rest: Option<i64>,
    /// Where the array begins, if not at its first element.
    pub(super) first: Option<ValueId>,
}

impl Staged {
    /// The position of element `k` of the block's column `unit`, or of the vector of `lanes` elements that starts there.
    fn position(&self, b: &mut FunctionBuilder, unit: ValueId, k: ValueId, lanes: u8) -> ValueId {
        let (units, four) = (b.index(self.units), b.index(4));
        let column = b.mul(unit, four);
        let mut place = if lanes > 1 {
            b.mul(k, units)
        } else {
            let (mask, low) = (b.index(!3), b.index(3));
            let (vector, within) = (b.and(k, mask), b.and(k, low));
            let vector = b.mul(vector, units);
            b.add(vector, within)
        };
        place = b.add(place, column);
        if let Some(rest) = self.rest.filter(|_| lanes == 1) {
            let element = b.mul(k, units);
            let element = b.add(element, unit);
            let is_behind = b.compare_integer(Condition::Ge, k, rest);
            place = b.select(is_behind, element, place);
        }
        self.first.map_or(place, |first| b.add(first, place))
    }
}

/// Where a cluster of blocks keeps what a buffer holds of the cluster's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image {
    pub(super) array: SharedId,
    /// From the position in the buffer to that in the array, of the first row.
    pub(super) offset: ValueId,
    /// Elements that a row takes more than in the buffer; negative, where it takes fewer.
    pub(super) padding: i64,
    /// The blocks that each have an image of what all of them store; without, each has what it stores itself.
    pub(super) blocks: Option<u32>,
    pub(super) to_memory: ToMemory,
}

/// When what a step keeps on chip goes to memory, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ToMemory {
    Never,
    /// Where a condition holds.
    If(ValueId),
    Always,
}

/// Steps along an axis whose code stands side by side.
pub(super) struct Together {
    pub(super) axis: Axis,
    /// The value of the axis one step before.
    pub(super) before: FxHashMap<ValueId, ValueId>,
}

/// Builds the function of one kernel.
pub(super) struct Emitter<'a> {
    pub(super) analysis: &'a Analysis<'a>,
    pub(super) b: FunctionBuilder,
    memo: FxHashMap<Key, ValueId>,
    /// Open loops that may run no iteration, with the symbols of their extents.
    guards: Vec<(Depth, BTreeSet<Symbol>)>,
    /// The width of vector registers, where reductions may use them.
    pub(super) vector_bits: Option<u32>,
    /// The accumulators that one loop carries at most.
    pub(super) accumulators: usize,
    /// The columns that come next, where loops may ask for what those need.
    pub(super) ahead: Option<ColumnsAhead>,
    /// Steps that a loop along the axis of the recurrences takes together, all their loads first.
    pub(super) steps_at_once: i64,
    /// The steps that are being taken together.
    pub(super) together: Option<Together>,
    /// The counter of the loop around the kernel, where that is in the code.
    pub(super) counter: Option<(Symbol, ValueId)>,
    /// Loads that are of shared memory now.
    pub(super) staged: FxHashMap<ElementId, (SharedId, Staged)>,
    /// The numbers of the thread's columns among those of the block.
    pub(super) units: FxHashMap<ValueId, ValueId>,
    /// Those whose arrays have an element for each position along an axis.
    pub(super) kept: FxHashMap<ElementId, (SharedId, Axis)>,
    /// The images of buffers, which are loaded from and stored to in their place and beside them.
    pub(super) images: FxHashMap<ParameterId, Image>,
    /// Loads of what their own points stored a step before.
    pub(super) own_loads: FxHashMap<ElementId, OwnLoad>,
    /// The halves of states that such loads read at the next step.
    pub(super) own_stores: FxHashMap<ParameterId, OwnStore>,
    /// What was loaded of these, and of arrays that never change, by the element of the array and the lanes.
    loaded: FxHashMap<(SharedId, ValueId, u8), ValueId>,
}

pub(super) type Emitted<T> = Result<T, ScheduleError>;

impl<'a> Emitter<'a> {
    pub(super) fn new(analysis: &'a Analysis<'a>, vector_bits: Option<u32>, accumulators: usize) -> Self {
        Emitter {
            analysis,
            b: FunctionBuilder::new(),
            memo: FxHashMap::default(),
            guards: Vec::new(),
            vector_bits,
            accumulators,
            ahead: None,
            steps_at_once: 1,
            together: None,
            counter: None,
            staged: FxHashMap::default(),
            units: FxHashMap::default(),
            kept: FxHashMap::default(),
            images: FxHashMap::default(),
            own_loads: FxHashMap::default(),
            own_stores: FxHashMap::default(),
            loaded: FxHashMap::default(),
        }
    }

    /// Goes on with a function for a GPU that other kernels are part of, too.
    pub(super) fn within(
        analysis: &'a Analysis<'a>,
        b: FunctionBuilder,
        counter: Option<(Symbol, ValueId)>,
    ) -> Self {
        // Vectors of four, so that sums along contiguous axes load four elements at once.
        Emitter { b, counter, ..Emitter::new(analysis, Some(128), GPU_ACCUMULATORS) }
    }

    /// Forgets every value.
    pub(super) fn forget(&mut self) {
        self.memo.clear();
    }

    /// The point with the axes of one position, which need no loop.
    pub(super) fn origin(&mut self) -> Point {
        let mut point = Point::new(self.analysis.extents.len());
        let zero = self.b.index(0);
        for (i, extent) in self.analysis.space().iter().enumerate() {
            if extent.is_one() {
                point = point.with(Axis(i as u32), zero);
            }
        }
        point
    }

    /// Marks the innermost open block as one that may not run if a symbol is 0.
    pub(super) fn guard(&mut self, symbols: BTreeSet<Symbol>) {
        if !symbols.is_empty() {
            self.guards.push((self.b.depth(), symbols));
        }
    }

    /// The marks of blocks deeper than `depth`, taken off.
    pub(super) fn set_guards_aside(&mut self, depth: Depth) -> Vec<(Depth, BTreeSet<Symbol>)> {
        let keep = self.guards.partition_point(|(d, _)| *d <= depth);
        self.guards.split_off(keep)
    }

    /// Puts marks back.
    pub(super) fn restore_guards(&mut self, guards: Vec<(Depth, BTreeSet<Symbol>)>) {
        self.guards.extend(guards);
    }

    /// The least depth at which an access with these coordinate symbols is safe.
    pub(super) fn floor(&self, symbols: &BTreeSet<Symbol>) -> Depth {
        let conflicts = |guard: &BTreeSet<Symbol>| guard.iter().any(|s| symbols.contains(s));
        self.guards.iter().rev().find(|(_, guard)| conflicts(guard)).map_or(0, |(depth, _)| *depth)
    }

    /// What identifies an element's value at a point.
    pub(super) fn key(&self, element: ElementId, point: &Point) -> Key {
        let free = self.analysis.free[element.index()];
        let mut axes = SmallVec::new();
        for (i, value) in point.axes.iter().enumerate() {
            if free & axis_bit(Axis(i as u32)) != 0 {
                axes.extend(*value);
            }
        }
        let lanes = match &point.vector {
            Some(v) if free & v.set != 0 => v.lanes,
            _ => 1,
        };
        Key { element, lanes, axes }
    }

    /// The value of an element that was computed already and can be used here.
    pub(super) fn known(&self, element: ElementId, point: &Point) -> Option<ValueId> {
        let value = self.memo.get(&self.key(element, point)).copied();
        value.filter(|v| self.b.is_visible(*v))
    }

    pub(super) fn remember(&mut self, element: ElementId, point: &Point, value: ValueId) {
        let key = self.key(element, point);
        self.memo.insert(key, value);
    }

    pub(super) fn class(&self, element: ElementId, point: &Point) -> Class {
        point.vector.as_ref().map_or(Class::Uniform, |v| v.of(element))
    }

    /// The value of an element, which [`Emitter::evaluate`] has computed.
    pub(super) fn value(&self, element: ElementId, point: &Point) -> Emitted<ValueId> {
        let missing = || self.analysis.malformed(format!("{element} depends on an axis that nothing binds"));
        self.known(element, point).ok_or_else(missing)
    }

    /// Computes elements, and what they need first.
    pub(super) fn evaluate(&mut self, targets: &[ElementId], point: &Point) -> Emitted<()> {
        self.evaluate_each(targets, std::slice::from_ref(point))
    }

    /// Computes elements at several points, operation by operation: while one point's operation waits for its
    /// operands, another's can run.
    pub(super) fn evaluate_each(&mut self, targets: &[ElementId], points: &[Point]) -> Emitted<()> {
        let wanted: Vec<Vec<bool>> = points.iter().map(|point| self.wanted(targets, point)).collect();
        let count = wanted.first().map_or(0, Vec::len) as u32;
        for id in (0..count).map(ElementId) {
            for (wanted, point) in wanted.iter().zip(points) {
                // Another point may have the same value.
                if wanted[id.index()] && self.known(id, point).is_none() {
                    let value = self.element(id, point)?;
                    self.remember(id, point, value);
                }
            }
        }
        Ok(())
    }

    /// What must be computed at a point for some elements to be known.
    fn wanted(&self, targets: &[ElementId], point: &Point) -> Vec<bool> {
        let count = targets.iter().map(|t| t.index() + 1).max().unwrap_or(0);
        let mut wanted = vec![false; count];
        targets.iter().for_each(|t| wanted[t.index()] = true);
        for id in (0..count as u32).rev().map(ElementId) {
            if !wanted[id.index()] {
                continue;
            }
            if self.known(id, point).is_some() {
                wanted[id.index()] = false;
            } else if self.class(id, point) != Class::Lanewise
                && !matches!(self.analysis.element(id), Element::Reduce { .. })
            {
                for operand in self.analysis.element(id).operands() {
                    wanted[operand.index()] = true;
                }
            }
        }
        wanted
    }

    /// The scalar points of the lanes of a point, or the point itself.
    pub(super) fn lanes(&mut self, point: &Point) -> Vec<Point> {
        let lanes = point.vector.as_ref().map_or(1, |v| v.lanes);
        (0..lanes)
            .map(|lane| {
                let lane = self.b.index(i64::from(lane));
                point.lane(&mut self.b, lane)
            })
            .collect()
    }

    fn element(&mut self, id: ElementId, point: &Point) -> Emitted<ValueId> {
        if self.class(id, point) == Class::Lanewise {
            let mut scalars = Vec::new();
            for lane in self.lanes(point) {
                self.evaluate(&[id], &lane)?;
                scalars.push(self.value(id, &lane)?);
            }
            return Ok(self.b.pack(&scalars));
        }
        let dtype = self.analysis.dtype(id);
        match self.analysis.element(id) {
            Element::Load { .. } => self.load(id, point),
            Element::Constant(literal) => Ok(self.constant(*literal)),
            Element::Index(e) => {
                let value = self.expression(e, point)?;
                Ok(decompose::from_index(&mut self.b, dtype, value))
            }
            Element::Scalar(op, operands) => {
                let (values, operand_type) = self.operands(operands, point)?;
                Ok(decompose::scalar(&mut self.b, *op, operand_type, &values))
            }
            Element::Cast(operand) => {
                let x = self.value(*operand, point)?;
                let from = match (self.analysis.element(*operand), self.analysis.dtype(*operand)) {
                    // What memory held needs no rounding to its own type: the register is that f32.
                    (Element::Load { .. }, DType::F16 | DType::Bf16) => DType::F32,
                    (_, from) => from,
                };
                Ok(decompose::cast(&mut self.b, from, dtype, x))
            }
            Element::Reduce { .. } => {
                self.reduce(id, std::slice::from_ref(point), 1)?;
                self.value(id, point)
            }
            Element::Recurrence { .. } => {
                Err(self.analysis.malformed(format!("{id} is needed outside the loop of its recurrence")))
            }
        }
    }

    /// The operands' values, all with the same lanes, and their element type (of a select: of the choices).
    fn operands(&mut self, operands: &[ElementId], point: &Point) -> Emitted<(Vec<ValueId>, DType)> {
        let mut values = Vec::with_capacity(operands.len());
        for operand in operands {
            values.push(self.value(*operand, point)?);
        }
        self.align(&mut values);
        let dtype = operands.last().map_or(DType::F32, |o| self.analysis.dtype(*o));
        Ok((values, dtype))
    }

    /// Gives scalars as many lanes as the widest value has.
    pub(super) fn align(&mut self, values: &mut [ValueId]) {
        let lanes = values.iter().map(|v| self.b.ty(*v).lanes).max().unwrap_or(1);
        for value in values {
            *value = self.b.splat(*value, lanes);
        }
    }

    /// A literal as a register of its element type.
    pub(super) fn constant(&mut self, literal: Literal) -> ValueId {
        let ty = Type::scalar(decompose::register_type(literal.dtype()));
        match literal.dtype() {
            DType::F16 | DType::Bf16 => self.b.number(ty, literal.as_f64()),
            DType::U8 => self.b.integer(ty, literal.as_i64()),
            DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::Bool => self.b.literal(ty, literal),
        }
    }

    pub(super) fn load(&mut self, id: ElementId, point: &Point) -> Emitted<ValueId> {
        let analysis = self.analysis;
        let Some(access) = analysis.loads.get(&id) else {
            return Err(analysis.malformed(format!("{id} loads nothing")));
        };
        let lanes = match &point.vector {
            Some(v) if v.of(id) == Class::Vector => v.lanes,
            _ => 1,
        };
        if let Some((array, staged)) = self.staged.get(&id).copied() {
            let unbound = || analysis.malformed(format!("{id} has no position along its sum"));
            let k = point.axis(staged.axis).ok_or_else(unbound)?;
            let unit = point.axis(staged.column).and_then(|column| self.units.get(&column).copied());
            let unit = unit.ok_or_else(|| analysis.malformed(format!("{id} has no column of the block")))?;
            let position = staged.position(&mut self.b, unit, k, lanes);
            return Ok(self.b.load_shared(array, lanes, position));
        }
        if let Some((array, axis)) = self.kept.get(&id).copied() {
            let unbound = || analysis.malformed(format!("{id} has no position along its row"));
            let position = point.axis(axis).ok_or_else(unbound)?;
            return Ok(self.load_kept(array, lanes, position));
        }
        if let Some(own) = self.own_loads.get(&id).copied() {
            let loaded = self.load_own(access, own, lanes, point)?;
            return Ok(decompose::from_memory(&mut self.b, access.dtype, loaded));
        }
        let mut position = self.position(access, point)?;
        if let Some(image) = self.images.get(&access.buffer).copied() {
            let at = self.position_in_image(position, image, point)?;
            let loaded = self.b.load_shared(image.array, lanes, at);
            return Ok(decompose::from_memory(&mut self.b, access.dtype, loaded));
        }
        if let Some(elements) = &access.guard {
            let elements = self.expression(elements, point)?;
            let empty = self.b.compare_integer(Condition::Le, elements, 0);
            let zero = self.b.index(0);
            position = self.b.select(empty, zero, position);
        }
        let ty = Type { lane: LaneType::of_memory(access.dtype), lanes };
        let floor = self.floor(&access.symbols);
        let loaded = if analysis.is_updated(access.buffer) {
            self.b.load_updated(ty, access.buffer, position, floor)
        } else {
            self.b.load(ty, access.buffer, position, floor)
        };
        Ok(decompose::from_memory(&mut self.b, access.dtype, loaded))
    }

    /// Elements of an array that never change. Passes over a row that load them once know that what they compute of them is
    /// the same, too.
    fn load_kept(&mut self, array: SharedId, lanes: u8, position: ValueId) -> ValueId {
        let key = (array, position, lanes);
        if let Some(loaded) = self.loaded.get(&key).copied().filter(|v| self.b.is_visible(*v)) {
            return loaded;
        }
        let loaded = self.b.load_shared(array, lanes, position);
        self.loaded.insert(key, loaded);
        loaded
    }

    /// The row-major position of an access at a point; of a vector, that of the first lane.
    pub(super) fn position(&mut self, access: &Access, point: &Point) -> Emitted<ValueId> {
        if let Some((before, stride)) = self.step_before(access, point) {
            let (before, stride) = (self.position(access, &before)?, self.expression(&stride, point)?);
            return Ok(self.b.add(before, stride));
        }
        let mut terms = vec![self.expression(&access.position, point)?];
        for d in &access.dynamic {
            let coordinate = self.value(d.element, point)?;
            let coordinate =
                decompose::cast(&mut self.b, self.analysis.dtype(d.element), DType::I64, coordinate);
            let (extent, one, zero) = (self.expression(&d.extent, point)?, self.b.index(1), self.b.index(0));
            let last = self.b.sub(extent, one);
            // At least 0 also where the extent is 0.
            let coordinate = self.b.binary(BinaryOp::Min, coordinate, last);
            let coordinate = self.b.binary(BinaryOp::Max, coordinate, zero);
            let stride = self.expression(&d.stride, point)?;
            terms.push(self.b.mul(coordinate, stride));
        }
        Ok(self.sum(terms))
    }

    /// The point one step before, where steps are taken together, and how far the access goes in a step.
    fn step_before(&self, access: &Access, point: &Point) -> Option<(Point, Expr)> {
        let together = self.together.as_ref().filter(|_| access.dynamic.is_empty())?;
        let before = together.before.get(&point.axis(together.axis)?)?;
        let stride = access.coefficient(&[together.axis]).filter(|stride| !stride.is_zero())?;
        Some((point.with(together.axis, *before), stride))
    }

    /// Adds what is known furthest out first, so that the partial sums leave the inner loops.
    fn sum(&mut self, mut terms: Vec<ValueId>) -> ValueId {
        terms.sort_by_key(|t| self.b.depth_of(*t));
        let zero = self.b.index(0);
        terms.into_iter().fold(zero, |sum, term| self.b.add(sum, term))
    }

    /// The value (i64 scalar) of an index expression.
    pub(super) fn expression(&mut self, e: &Expr, point: &Point) -> Emitted<ValueId> {
        let mut terms = Vec::new();
        for (factors, coefficient) in e.terms() {
            let mut product = vec![self.b.index(coefficient)];
            for atom in factors {
                product.push(self.atom(atom, point)?);
            }
            product.sort_by_key(|v| self.b.depth_of(*v));
            let one = self.b.index(1);
            terms.push(product.into_iter().fold(one, |p, v| self.b.mul(p, v)));
        }
        Ok(self.sum(terms))
    }

    fn atom(&mut self, atom: &Atom, point: &Point) -> Emitted<ValueId> {
        match atom {
            Atom::Axis(axis) => {
                let unbound =
                    || self.analysis.malformed(format!("axis {axis} has no value where it is used"));
                point.axis(*axis).ok_or_else(unbound)
            }
            Atom::Symbol(symbol) => {
                if let Some((counter, value)) = &self.counter
                    && counter == symbol
                {
                    return Ok(*value);
                }
                let position = self.analysis.symbols.iter().position(|s| s == symbol);
                let unknown = || self.analysis.malformed(format!("symbol {symbol} is not collected"));
                let position = position.ok_or_else(unknown)?;
                Ok(self.b.operation(Type::scalar(LaneType::I64), Operation::Symbol(position as u32)))
            }
            Atom::FloorDiv(x, y) => Ok(self.division(x, y, point)?.0),
            Atom::Mod(x, y) => Ok(self.division(x, y, point)?.1),
            Atom::Min(x, y) => self.extreme(BinaryOp::Min, x, y, point),
            Atom::Max(x, y) => self.extreme(BinaryOp::Max, x, y, point),
        }
    }

    fn extreme(&mut self, op: BinaryOp, x: &Expr, y: &Expr, point: &Point) -> Emitted<ValueId> {
        let (x, y) = (self.expression(x, point)?, self.expression(y, point)?);
        Ok(self.b.binary(op, x, y))
    }

    /// Floor division and modulo.
    fn division(&mut self, x: &Expr, y: &Expr, point: &Point) -> Emitted<(ValueId, ValueId)> {
        let extents = &self.analysis.extents;
        let nonnegative = x.is_nonnegative(extents);
        let positive = (y.clone() - Expr::constant(1)).is_nonnegative(extents);
        let (value, divisor) = (self.expression(x, point)?, self.expression(y, point)?);
        if nonnegative && positive && self.b.as_integer(divisor).is_none() {
            return Ok(truncating_division(&mut self.b, value, divisor));
        }
        Ok(floor_division(&mut self.b, value, divisor, nonnegative))
    }

    /// Stores every value of a part at some points.
    pub(super) fn stores(&mut self, points: &[Point], part: &Part) -> Emitted<()> {
        for together in points.chunks(INTERLEAVED_POINTS) {
            let values = self.stored_whole(together, part);
            self.evaluate_each(&values, together)?;
            together.iter().try_for_each(|point| self.store(point, part))?;
        }
        Ok(())
    }

    /// Computes what a part stores at some points, without storing it yet.
    pub(super) fn evaluate_stored(&mut self, points: &[Point], part: &Part) -> Emitted<()> {
        for together in points.chunks(INTERLEAVED_POINTS) {
            let values = self.stored_whole(together, part);
            self.evaluate_each(&values, together)?;
        }
        Ok(())
    }

    /// What a part stores, but for what is computed lane by lane.
    fn stored_whole(&self, points: &[Point], part: &Part) -> Vec<ElementId> {
        let of_vectors = |v: &ElementId| points.iter().all(|p| self.class(*v, p) != Class::Lanewise);
        part.stores.iter().map(|s| self.analysis.stores[*s].value).filter(of_vectors).collect()
    }

    fn store(&mut self, point: &Point, part: &Part) -> Emitted<()> {
        let analysis = self.analysis;
        for store in part.stores.iter().filter_map(|s| analysis.stores.get(*s)) {
            if moves_whole(&store.access, self.class(store.value, point), point) {
                self.evaluate(&[store.value], point)?;
                let value = self.value(store.value, point)?;
                self.store_whole(&store.access, value, point)?;
            } else {
                self.store_lanes(&store.access, store.value, point)?;
            }
        }
        Ok(())
    }

    /// Stores the final state of a recurrence at a point, which has no position along its axis.
    pub(super) fn store_final(&mut self, access: &Access, value: ValueId, point: &Point) -> Emitted<()> {
        if moves_whole(access, Class::Vector, point) {
            return self.store_whole(access, value, point);
        }
        let lanes = point.vector.as_ref().map_or(1, |v| v.lanes);
        let value = self.b.splat(value, lanes);
        for (lane, scalar_point) in self.lanes(point).into_iter().enumerate() {
            let scalar = self.b.extract(value, lane as u8);
            self.store_whole(access, scalar, &scalar_point)?;
        }
        Ok(())
    }

    /// Stores the value of a scalar point, or that of all lanes of a vector in one.
    fn store_whole(&mut self, access: &Access, value: ValueId, point: &Point) -> Emitted<()> {
        let lanes = point.vector.as_ref().map_or(1, |v| v.lanes);
        let value = decompose::to_memory(&mut self.b, access.dtype, value);
        let value = self.b.splat(value, lanes);
        if let Some(own) = self.own_stores.get(&access.buffer).copied() {
            return self.store_own(access, own, value, point);
        }
        self.store_images(access, value, point)?;
        let image = self.images.get(&access.buffer);
        let to_memory = image.map_or(ToMemory::Always, |image| image.to_memory);
        self.store_memory(access, value, point, to_memory)
    }

    /// Stores a value, as memory has it, in memory, or where that is needed.
    pub(super) fn store_memory(
        &mut self,
        access: &Access,
        value: ValueId,
        point: &Point,
        to_memory: ToMemory,
    ) -> Emitted<()> {
        match to_memory {
            ToMemory::Never => {}
            ToMemory::Always => {
                let position = self.position(access, point)?;
                self.b.store(access.buffer, position, value);
            }
            ToMemory::If(condition) => {
                self.b.open_if();
                let position = self.position(access, point)?;
                self.b.store(access.buffer, position, value);
                self.b.close_if(condition);
            }
        }
        Ok(())
    }

    /// Stores a value, as memory has it, where the images of a buffer are, if there are any.
    pub(super) fn store_images(&mut self, access: &Access, value: ValueId, point: &Point) -> Emitted<()> {
        let Some(image) = self.images.get(&access.buffer).copied() else { return Ok(()) };
        let position = self.position(access, point)?;
        let at = self.position_in_image(position, image, point)?;
        match image.blocks {
            None => self.b.store_shared(image.array, at, value),
            Some(blocks) => {
                for block in 0..i64::from(blocks) {
                    let block = self.b.index(block);
                    self.b.store_cluster(image.array, at, value, block);
                }
            }
        }
        Ok(())
    }

    /// The position in an image of what is at one in the buffer.
    fn position_in_image(&mut self, position: ValueId, image: Image, point: &Point) -> Emitted<ValueId> {
        let at = self.b.add(position, image.offset);
        if image.padding == 0 {
            return Ok(at);
        }
        let analysis = self.analysis;
        let unbound = || analysis.malformed("an image has rows, but its point none");
        let row = analysis.space_axes().first().and_then(|row| point.axis(*row)).ok_or_else(unbound)?;
        let padding = self.b.index(image.padding);
        let padding = self.b.mul(row, padding);
        Ok(self.b.add(at, padding))
    }

    fn store_lanes(&mut self, access: &Access, element: ElementId, point: &Point) -> Emitted<()> {
        let class = self.class(element, point);
        if class != Class::Lanewise {
            self.evaluate(&[element], point)?;
        }
        for (lane, scalar_point) in self.lanes(point).into_iter().enumerate() {
            let value = if class == Class::Lanewise {
                self.evaluate(&[element], &scalar_point)?;
                self.value(element, &scalar_point)?
            } else {
                let vector = self.value(element, point)?;
                self.b.extract(vector, lane as u8)
            };
            self.store_whole(access, value, &scalar_point)?;
        }
        Ok(())
    }

    /// The value of a dimension.
    pub(super) fn dimension(&mut self, dim: &Dim) -> Emitted<ValueId> {
        self.expression(dim, &Point::new(0))
    }
}

/// Whether the lanes of a point are consecutive in memory and move as one vector.
fn moves_whole(access: &Access, class: Class, point: &Point) -> bool {
    point.vector.as_ref().is_none_or(|v| {
        let joins = class != Class::Lanewise || v.is_of_any_width();
        joins && v.moves(access.dtype) && access.is_unit_stride(&v.axes)
    })
}
