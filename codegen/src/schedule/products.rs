//! Products of rows with panels of a parameter, in panels or as it is given, which the fast tier leaves to a routine that has the machine's widest vectors.
//!
//! A work item is a panel with a block of rows. All sums that read the same rows go to the routine together: it loads each
//! element of a row once for the columns of all of them.

use fuse_ir::expr::{Atom, Axis, Dim};
use fuse_ir::kernel::{Element, ElementId};
use fuse_ir::{DType, Expr, ReduceOp, ScalarOp};

use super::access::Access;
use super::analysis::{Analysis, StoreAccess};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter, Point};
use crate::kernel_ir::{
    BinaryOp, Function, LaneType, Mapping, Operation, PanelColumns, PanelLayout, PanelProduct, Type, ValueId,
};

/// What the rows of a block take of a cache beside panels, in bytes.
const ROW_BLOCK_BYTES: i64 = 256 << 10;
/// Rows of a block where the routine makes the panels, for each block again: it reads a part of each row at a time.
const ROWS_OF_GIVEN: i64 = 1024;
/// Rows of a block, at least and at most.
const ROWS: (i64, i64) = (16, 512);
/// Vectors that a work item has of one panel at most: as many as the routine's tiles.
const MOST_VECTORS: u32 = 4;

/// A kernel of nothing but such products.
pub(super) struct Products<'a> {
    analysis: &'a Analysis<'a>,
    /// The axis of the columns of a panel, how many there are, and how many of them a work item has.
    lane: Axis,
    width: u32,
    columns: u32,
    panel: Axis,
    /// The axis of rows, the innermost one beside panels that has more than one position.
    row: Option<Axis>,
    /// By store.
    sums: Vec<Sum<'a>>,
}

/// A sum of products, and where it goes.
struct Sum<'a> {
    /// The summed axis.
    along: Axis,
    left: &'a Access,
    panel: &'a Access,
    to: &'a Access,
    layout: PanelLayout,
}

impl<'a> Products<'a> {
    /// The kernel as products with panels of multiples of `lanes` columns, if it is.
    pub(super) fn find(analysis: &'a Analysis<'a>, lanes: u32) -> Option<Self> {
        let rank = analysis.kernel.rank as u32;
        let [lane, panel] = [rank.checked_sub(1)?, rank.checked_sub(2)?].map(Axis);
        let width = u32::try_from(analysis.extent(lane).as_constant()?).ok()?;
        if width == 0 || !width.is_multiple_of(lanes) || analysis.recurrence_axis.is_some() {
            return None;
        }
        // Panels of a matrix as it is given may be one, all axes of columns taken together.
        let columns = match width / lanes {
            ..=MOST_VECTORS => width,
            vectors => lanes * [4, 2, 1].into_iter().find(|n| vectors.is_multiple_of(*n))?,
        };
        let row = (0..panel.0).rev().map(Axis).find(|axis| !analysis.extent(*axis).is_one());
        let mut products = Products { analysis, lane, width, columns, panel, row, sums: Vec::new() };
        products.sums = analysis.stores.iter().map(|s| products.sum(s)).collect::<Option<_>>()?;
        // The routine goes on with sums in memory, which panels that overlap would have in common.
        let apart = |sum: &Sum| !products.is_given(sum) || sum.to.coefficient(&[panel]).is_some();
        (!products.sums.is_empty() && products.sums.iter().all(apart)).then_some(products)
    }

    /// What a store stores, if it is a sum of products with a panel.
    fn sum(&self, StoreAccess { access: to, value }: &'a StoreAccess) -> Option<Sum<'a>> {
        let Element::Reduce { op: ReduceOp::Sum, axes, body } = self.analysis.element(*value) else {
            return None;
        };
        let (&[along], Element::Scalar(ScalarOp::Mul, factors)) =
            (axes.as_slice(), self.analysis.element(*body))
        else {
            return None;
        };
        let [left, panel] = [0, 1].map(|i| factors.get(i).and_then(|f| self.load(*f)));
        let (left, panel) = (left?, panel?);
        let (left, panel) = if left.position.uses_axis(self.lane) { (panel, left) } else { (left, panel) };
        let is_left = step(left, along) == Some(1)
            && !left.position.uses_axis(self.lane)
            && !left.position.uses_axis(self.panel);
        let is_panel = self.row.is_none_or(|row| !panel.position.uses_axis(row));
        let is_linear = |a: &Access| self.row.is_none_or(|row| a.coefficient(&[row]).is_some());
        let fits = is_left && is_panel && step(to, self.lane) == Some(1) && to.dtype == DType::F32;
        let distance = |axis| step(panel, axis).and_then(|n| u32::try_from(n).ok());
        let layout = PanelLayout { along: distance(along)?, across: distance(self.lane)? };
        let contiguous = layout.along.min(layout.across) == 1;
        (fits && contiguous && is_linear(left) && is_linear(to)).then_some(Sum {
            along,
            left,
            panel,
            to,
            layout,
        })
    }

    /// The access of a load of f32 that is always inside.
    fn load(&self, element: ElementId) -> Option<&'a Access> {
        let access = self.analysis.loads.get(&element)?;
        (access.dtype == DType::F32 && access.dynamic.is_empty() && access.guard.is_none()).then_some(access)
    }

    /// Whether a weight is not in panels, which the routine then makes.
    fn is_given(&self, sum: &Sum<'_>) -> bool {
        sum.layout != PanelLayout { along: self.columns, across: 1 }
    }

    /// The rows of a block.
    fn rows_of_a_block(&self) -> i64 {
        if self.sums.iter().any(|sum| self.is_given(sum)) {
            return ROWS_OF_GIVEN;
        }
        let sums = self.sums.iter().filter_map(|s| self.analysis.extent(s.along).as_constant()).max();
        let (least, most) = ROWS;
        (ROW_BLOCK_BYTES / (4 * sums.unwrap_or(1).max(1))).clamp(least, most) / least * least
    }

    /// What the items are numbered by, the last the fastest: outer axes, blocks of rows, panels, columns of a panel.
    fn counts(&self) -> (Vec<Axis>, Vec<Dim>) {
        let is_outer = |axis: &Axis| {
            ![Some(self.panel), self.row].contains(&Some(*axis)) && !self.analysis.extent(*axis).is_one()
        };
        let outer: Vec<Axis> = (0..self.panel.0).map(Axis).filter(is_outer).collect();
        let extents = outer.iter().map(|axis| self.analysis.extent(*axis).clone());
        let block = Dim::constant(self.rows_of_a_block());
        let blocks = self.row.map(|row| self.analysis.extent(row).ceil_div(&block));
        let panels = self.analysis.extent(self.panel).clone();
        let parts = (self.columns < self.width).then(|| Dim::constant(i64::from(self.width / self.columns)));
        let counts = extents.chain(blocks).chain([panels]).chain(parts).collect();
        (outer, counts)
    }

    /// See [`super::schedule`].
    pub(super) fn schedule(&self) -> Emitted<Function> {
        let analysis = self.analysis;
        let mut emitter = Emitter::new(analysis, None, 1);
        let index = Type::scalar(LaneType::I64);
        let begin = emitter.b.operation(index, Operation::WorkBegin);
        let end = emitter.b.operation(index, Operation::WorkEnd);
        let items = emitter.b.open_loop(&[], true);
        emitter.guard(analysis.space_symbols());
        let (outer, counts) = self.counts();
        let values = coordinates(&mut emitter, counts.iter(), items.counter)?;
        let mut point = emitter.origin();
        for (axis, value) in outer.iter().zip(&values) {
            point = point.with(*axis, *value);
        }
        let (zero, one) = (emitter.b.index(0), emitter.b.index(1));
        let mut rows = one;
        if let (Some(row), Some(block)) = (self.row, values.get(outer.len())) {
            let most = emitter.b.index(self.rows_of_a_block());
            let first = emitter.b.mul(*block, most);
            let extent = emitter.dimension(analysis.extent(row))?;
            let left = emitter.b.sub(extent, first);
            rows = emitter.b.binary(BinaryOp::Min, left, most);
            point = point.with(row, first);
        }
        let at = outer.len() + usize::from(self.row.is_some());
        let panel = values.get(at).copied().unwrap_or(zero);
        let columns = emitter.b.index(i64::from(self.columns));
        let first_column = values.get(at + 1).map_or(zero, |part| emitter.b.mul(*part, columns));
        point = point.with(self.panel, panel).with(self.lane, first_column);
        for sum in &self.sums {
            point = point.with(sum.along, zero);
        }
        for sums in self.by_rows() {
            self.product(&mut emitter, &point, rows, &sums)?;
        }
        emitter.b.close_loop(items, begin, end, 1, &[]);
        let (buffers, symbols) = (analysis.buffers.clone(), analysis.symbols.clone());
        let work = counts.into_iter().fold(Dim::constant(1), |work, count| work * count);
        Ok(emitter.b.finish(analysis.kernel.name.clone(), buffers, symbols, work, Mapping::Range))
    }

    /// The sums that read the same elements of rows and panels that lie alike, and step alike from row to row of what they
    /// write.
    fn by_rows(&self) -> Vec<Vec<&Sum<'a>>> {
        let key = |sum: &Sum| {
            let first = |atom: &Atom| (*atom == Atom::Axis(sum.along)).then(Expr::default);
            let step = self.row.map(|row| sum.to.coefficient(&[row]));
            (
                sum.left.buffer,
                sum.left.position.substitute(&first),
                self.analysis.extent(sum.along),
                step,
                sum.layout,
            )
        };
        let mut groups: Vec<Vec<&Sum>> = Vec::new();
        for sum in &self.sums {
            match groups.iter_mut().find(|group| key(group[0]) == key(sum)) {
                Some(group) => group.push(sum),
                None => groups.push(vec![sum]),
            }
        }
        groups
    }

    fn product(&self, emitter: &mut Emitter, point: &Point, rows: ValueId, sums: &[&Sum<'a>]) -> Emitted<()> {
        let Some(first) = sums.first() else { return Ok(()) };
        let step = |access: &Access| self.row.and_then(|row| access.coefficient(&[row])).unwrap_or_default();
        let columns = sums.iter().map(|sum| {
            let (at, to_index) = (emitter.position(sum.panel, point)?, emitter.position(sum.to, point)?);
            Ok(PanelColumns { panel: sum.panel.buffer, at, to: sum.to.buffer, to_index })
        });
        let columns = columns.collect::<Emitted<Vec<_>>>()?;
        let product = PanelProduct {
            rows,
            count: emitter.dimension(self.analysis.extent(first.along))?,
            left: first.left.buffer,
            from: emitter.position(first.left, point)?,
            left_step: emitter.expression(&step(first.left), point)?,
            width: self.columns,
            layout: first.layout,
            to_step: emitter.expression(&step(first.to), point)?,
            columns,
        };
        emitter.b.product(product);
        Ok(())
    }
}

/// From one position of an axis to the next, where that is a number.
fn step(access: &Access, axis: Axis) -> Option<i64> {
    access.coefficient(&[axis])?.as_constant()
}
