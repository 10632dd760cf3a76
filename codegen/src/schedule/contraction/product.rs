//! Which kernels are contractions, and what their rows and columns are.

use std::rc::Rc;

use fuse_ir::expr::{Atom, Axis, Dim, Expr};
use fuse_ir::kernel::{Element, ElementId};
use fuse_ir::{DType, ReduceOp, ScalarOp};

use super::super::Rounding;
use super::super::analysis::{Analysis, AxisSet, axis_bit, axis_set};
use super::super::division::division_by_count;
use super::super::emitter::{Emitted, Emitter, Point};
use super::super::vectors::Classes;
use crate::decompose::register_type;
use crate::kernel_ir::{LaneType, MatrixFactors, ValueId};

/// What a symbol is taken to be worth where the choice of a schedule depends on it.
const ASSUMED: i64 = 64;

/// Rows or columns that one thread a point serves as well.
const FEW: i64 = 16;

/// Products that are too few to fill tiles.
const LITTLE_WORK: i64 = 1 << 17;

/// Sums of products over one axis: each of a factor of the row and one of the column.
pub(super) struct Contraction {
    pub(super) members: Vec<Member>,
    /// The different factors of the rows, and those of the columns.
    pub(super) left: Vec<Factor>,
    pub(super) right: Vec<Factor>,
    /// Axes that both factors depend on.
    pub(super) batch: Vec<Axis>,
    pub(super) batch_extents: Vec<Dim>,
    pub(super) rows: Side,
    pub(super) columns: Side,
    /// The extent of the summed axis.
    pub(super) depth: Dim,
}

/// One sum.
pub(super) struct Member {
    pub(super) reduction: ElementId,
    /// Which factor of the rows, and which of the columns.
    pub(super) left: usize,
    pub(super) right: usize,
}

/// A factor, and the summed axis by the name it has there.
#[derive(Clone, Copy)]
pub(in super::super) struct Factor {
    pub(in super::super) element: ElementId,
    pub(in super::super) axis: Axis,
}

/// The rows or the columns: the points of some axes, the last one fastest.
pub(super) struct Side {
    pub(super) axes: Vec<Axis>,
    pub(super) extent: Dim,
}

impl Contraction {
    /// The kernel as a contraction, if it is one.
    pub(super) fn of(analysis: &Analysis) -> Option<Contraction> {
        let [group] = analysis.groups.as_slice() else { return None };
        if analysis.recurrence_axis.is_some() || !analysis.finals.is_empty() || group.nested {
            return None;
        }
        let space = analysis.space_axes();
        let innermost = space.last().map_or(0, |a| axis_bit(*a));
        let mut factors = Vec::new();
        for reduction in &group.members {
            factors.push(product(analysis, *reduction, innermost)?);
        }
        let all = axis_set(&space);
        let free = |f: &Factor| analysis.free[f.element.index()] & all;
        let rows = factors.iter().fold(0, |set, (left, _)| set | free(left));
        let columns = factors.iter().fold(0, |set, (_, right)| set | free(right));
        let of = |set: AxisSet| space.iter().copied().filter(|a| set & axis_bit(*a) != 0).collect();
        let batch: Vec<Axis> = of(rows & columns);
        let rows_and_columns = [rows & !columns, columns & !rows];
        if rows | columns != all || rows_and_columns.contains(&0) {
            return None;
        }
        let [rows, columns] = rows_and_columns.map(|set| Side::new(analysis, of(set)));
        let depth = analysis.extent(factors.first()?.0.axis).clone();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let members = group.members.iter().zip(&factors).map(|(reduction, (x, y))| Member {
            reduction: *reduction,
            left: position(analysis, &mut left, *x),
            right: position(analysis, &mut right, *y),
        });
        let members = members.collect();
        let batch_extents = batch.iter().map(|a| analysis.extent(*a).clone()).collect();
        Some(Contraction { members, left, right, batch, batch_extents, rows, columns, depth })
    }

    /// What the kernel stores is computed from this that the rows of a column have in common.
    pub(super) fn common_to_rows(&self, analysis: &Analysis) -> Vec<ElementId> {
        let (rows, columns) = (axis_set(&self.rows.axes), axis_set(&self.columns.axes));
        let mut pending: Vec<ElementId> = analysis.stores.iter().map(|store| store.value).collect();
        let mut common = Vec::new();
        let mut seen = vec![false; analysis.free.len()];
        while let Some(id) = pending.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            let free = analysis.free[id.index()];
            let element = analysis.element(id);
            if free & rows == 0 && free & columns != 0 {
                common.push(id);
            } else if !matches!(element, Element::Reduce { .. }) {
                pending.extend(element.operands());
            }
        }
        common
    }
}

impl Contraction {
    /// What tensor cores take its factors as: what all of them are, or what those of f32 may be rounded to. `None` where
    /// that would round a factor otherwise.
    pub(super) fn matrix_factors(&self, analysis: &Analysis, rounding: Rounding) -> Option<MatrixFactors> {
        matrix_factors(analysis, self.left.iter().chain(&self.right), rounding)
    }

    /// The number of tiles of so many rows and columns.
    pub(super) fn blocks(&self, rows: i64, columns: i64) -> Dim {
        let tiles = |side: &Side, size| side.extent.ceil_div(&Dim::constant(size));
        let tiles = tiles(&self.rows, rows) * tiles(&self.columns, columns);
        self.batch_extents.iter().fold(tiles, |blocks, extent| blocks * extent.clone())
    }

    /// All products that are summed up, with what symbols are assumed to be worth.
    fn work(&self) -> i64 {
        let (rows, columns) = (assumed(&self.rows.extent), assumed(&self.columns.extent));
        let others = self.batch_extents.iter().chain([&self.depth]);
        others.fold(rows.saturating_mul(columns), |n, extent| n.saturating_mul(assumed(extent)))
    }

    /// Whether there are rows, columns and products enough for tiles.
    pub(super) fn is_large(&self) -> bool {
        let (rows, columns) = (assumed(&self.rows.extent), assumed(&self.columns.extent));
        rows > FEW && columns > FEW && self.has_much_work()
    }

    /// Whether there are products enough for tiles.
    pub(super) fn has_much_work(&self) -> bool {
        self.work() >= LITTLE_WORK
    }
}

impl Factor {
    /// The 16-bit float type that all its values are of, if there is one.
    pub(super) fn narrow_type(&self, analysis: &Analysis) -> Option<DType> {
        let own = match analysis.element(self.element) {
            Element::Cast(operand) if analysis.dtype(self.element) == DType::F32 => analysis.dtype(*operand),
            _ => analysis.dtype(self.element),
        };
        matches!(own, DType::F16 | DType::Bf16).then_some(own)
    }

    /// What it is the same values of in another type, or itself.
    pub(in super::super) fn load(&self, analysis: &Analysis) -> ElementId {
        match analysis.element(self.element) {
            Element::Cast(operand) => *operand,
            _ => self.element,
        }
    }

    /// The load whose elements it is as they are in memory, if it is one of a 16-bit float type.
    pub(super) fn narrow_load(&self, analysis: &Analysis) -> Option<ElementId> {
        let dtype = self.narrow_type(analysis)?;
        let load = self.load(analysis);
        let is_load = matches!(analysis.element(load), Element::Load { .. });
        (is_load && analysis.dtype(load) == dtype).then_some(load)
    }

    /// Whether what it loads are neighbours in memory along the summed axis.
    pub(super) fn is_contiguous(&self, analysis: &Analysis) -> bool {
        let mut pending = vec![self.element];
        while let Some(id) = pending.pop() {
            let depends = |e: &ElementId| analysis.free[e.index()] & axis_bit(self.axis) != 0;
            if !depends(&id) {
                continue;
            }
            let access = analysis.loads.get(&id);
            if access.is_some_and(|a| a.is_unit_stride(&[self.axis])) {
                return true;
            }
            pending.extend(analysis.element(id).operands());
        }
        false
    }
}

impl Side {
    fn new(analysis: &Analysis, axes: Vec<Axis>) -> Side {
        let extent = analysis.points(&axes);
        Side { axes, extent }
    }

    /// The axis whose points are neighbours.
    pub(super) fn innermost(&self) -> Option<Axis> {
        self.axes.last().copied()
    }

    /// A point with the axes of this side at the flat position `index`, or of vectors from there on.
    pub(super) fn bind(
        &self,
        emitter: &mut Emitter,
        mut point: Point,
        index: ValueId,
        vector: Option<&Rc<Classes>>,
    ) -> Emitted<Point> {
        let mut rest = index;
        for (i, axis) in self.axes.iter().enumerate().rev() {
            let mut value = rest;
            if i > 0 {
                let extent = emitter.dimension(emitter.analysis.extent(*axis))?;
                (rest, value) = division_by_count(&mut emitter.b, rest, extent);
            }
            point = match vector.filter(|_| Some(*axis) == self.innermost()) {
                Some(classes) => point.with_lanes(classes, value),
                None => point.with(*axis, value),
            };
        }
        Ok(point)
    }
}

/// What tensor cores take factors as: what all of them are, or what those of f32 may be rounded to. `None` where that would
/// round a factor otherwise.
pub(in super::super) fn matrix_factors<'f>(
    analysis: &Analysis,
    factors: impl Iterator<Item = &'f Factor>,
    rounding: Rounding,
) -> Option<MatrixFactors> {
    let types: Vec<Option<DType>> = factors.map(|f| f.narrow_type(analysis)).collect();
    let first = types.first().copied().flatten();
    if let Some(dtype) = first.filter(|_| types.iter().all(|d| *d == first)) {
        return MatrixFactors::of(dtype);
    }
    // Every f16 and every bf16 is a tf32, but not the other way round.
    let holds = |into: MatrixFactors, dtype: &DType| {
        into == MatrixFactors::Tf32 || MatrixFactors::of(*dtype) == Some(into)
    };
    rounding.filter(|into| types.iter().flatten().all(|dtype| holds(*into, dtype)))
}

/// The factors of a sum of products, the second of which depends on the innermost axis if one of them does.
pub(in super::super) fn product(
    analysis: &Analysis,
    reduction: ElementId,
    innermost: AxisSet,
) -> Option<(Factor, Factor)> {
    let Element::Reduce { op: ReduceOp::Sum, axes, body } = analysis.element(reduction) else { return None };
    let [axis] = axes.as_slice() else { return None };
    let Element::Scalar(ScalarOp::Mul, factors) = analysis.element(*body) else { return None };
    let is_number = |e: &ElementId| register_type(analysis.dtype(*e)) == LaneType::F32;
    let [x, y] = factors.as_slice() else { return None };
    if !is_number(body) || !is_number(x) || !is_number(y) {
        return None;
    }
    let factor = |element: ElementId| Factor { element, axis: *axis };
    let is_inner = |e: &ElementId| analysis.free[e.index()] & innermost != 0;
    let (left, right) = if is_inner(x) && !is_inner(y) { (*y, *x) } else { (*x, *y) };
    Some((factor(left), factor(right)))
}

/// The position of a factor among `known` ones, where it is put if none has its values.
fn position(analysis: &Analysis, known: &mut Vec<Factor>, factor: Factor) -> usize {
    let equal = |k: &Factor| is_same(analysis, k.element, factor.element, (k.axis, factor.axis));
    known.iter().position(equal).unwrap_or_else(|| {
        known.push(factor);
        known.len() - 1
    })
}

/// Whether two elements have the same value wherever the first of two axes is where the second is.
pub(in super::super) fn is_same(analysis: &Analysis, x: ElementId, y: ElementId, axes: (Axis, Axis)) -> bool {
    let renamed = |e: &Expr| {
        e.substitute(&|atom: &Atom| (*atom == Atom::Axis(axes.0)).then(|| Expr::axis(axes.1.index())))
    };
    let same = |x: &ElementId, y: &ElementId| is_same(analysis, *x, *y, axes);
    if analysis.dtype(x) != analysis.dtype(y) {
        return false;
    }
    match (analysis.element(x), analysis.element(y)) {
        (Element::Load { .. }, Element::Load { .. }) => {
            let (Some(x), Some(y)) = (analysis.loads.get(&x), analysis.loads.get(&y)) else { return false };
            let mut dynamic = x.dynamic.iter().zip(&y.dynamic);
            x.buffer == y.buffer
                && renamed(&x.position) == y.position
                && x.dynamic.len() == y.dynamic.len()
                && dynamic.all(|(x, y)| x.stride == y.stride && same(&x.element, &y.element))
        }
        (Element::Constant(x), Element::Constant(y)) => x == y,
        (Element::Index(x), Element::Index(y)) => renamed(x) == *y,
        (Element::Scalar(op, xs), Element::Scalar(other, ys)) => {
            op == other && xs.iter().zip(ys).all(|(x, y)| same(x, y))
        }
        (Element::Cast(x), Element::Cast(y)) => same(x, y),
        _ => false,
    }
}

/// What a dimension is taken to be worth.
pub(in super::super) fn assumed(dim: &Dim) -> i64 {
    dim.eval(&|_| Some(ASSUMED)).unwrap_or(ASSUMED)
}

/// Whether a dimension is a multiple of `number`, whatever its symbols are.
pub(in super::super) fn is_multiple(dim: &Dim, number: i64) -> bool {
    dim.terms().all(|(_, coefficient)| coefficient % number == 0)
}
