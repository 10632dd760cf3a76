//! Sums of a recurrent step, split among the threads of a block.
//!
//! A step of a recurrent cell has few rows (the batch) and long sums (the hidden units) for every column. A block takes
//! `units` neighbouring columns with all their sums, for all rows, and splits each sum into as many slices as it has
//! warps, or more. What the threads of a slice sum up goes through shared memory, where one thread a sum adds the slices
//! up; then one thread a point computes and stores what the kernel stores there.
//!
//! Sums of products that tensor cores take are slices of matrices ([`products`]); the rest stays as it is.
//!
//! What the sums need of the columns' own operands (the weights) is the same at every step. As much of that as fits is
//! staged in shared memory before the first, and so is what the points of a column have in common, such as a bias.
//!
//! ```text
//! lane    column (the other columns of a thread are as many lanes further), then row group, then slice within the warp
//! point   lane, then column of the thread, then row of the thread, then turn
//! staged  [operand][tile][k / 4][column][k mod 4]      a vector of 4 for each lane, without bank conflicts;
//!                         [k][column]                  of what is behind the last whole vector
//! sums    [slice][turn][sum][row and column], of products with the chunks of eight of each turn of the banks in another order
//! ```

mod layout;
mod products;
mod staging;
mod tile;

use fuse_ir::ReduceOp;
use fuse_ir::expr::{Axis, Dim, Symbol};
use fuse_ir::kernel::{Element, ElementId};

use super::Rounding;
use super::analysis::{Analysis, axis_bit, ceil_div};
use super::block::{Numbers, WARP};
use super::contraction::{SplitSums, assumed};
use super::division::floor_division;
use super::emitter::{Emitted, Emitter};
use super::reduction::Reduction;
use super::resident::own::{OwnLayout, OwnPhase};
use crate::builder::FunctionBuilder;
use crate::decompose::register_type;
use crate::kernel_ir::{BinaryOp, LaneType, MatrixFactors, SharedId, ValueId};
use products::Products;
use staging::StagedOperand;
use tile::Tile;

/// Rows for which it comes into question outside of loops, beside tiles.
const FEW_ROWS: i64 = 64;

/// Rows whose states stay on chip where it is not known how many there are.
const USUAL_ROWS: i64 = 256;

/// Elements of a vector along the reduced axis.
const VECTOR: i64 = 4;

/// Bytes that a shared array may begin behind the end of the one before.
const SHARED_ALIGNMENT: i64 = 16;

/// Groups of columns that a block of a cluster takes one after the other at most.
const MOST_TILES: i64 = 4;

/// Where all sums are shorter than this, they are not worth splitting.
const LEAST_EXTENT: i64 = 16;

/// Where blocks hand on what others need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exchange {
    /// In memory, among all blocks.
    Memory,
    /// In shared memory, among the blocks of a cluster.
    Cluster,
}

impl Exchange {
    /// Groups of columns that stay a block's own at most.
    fn most_tiles(self) -> i64 {
        match self {
            Exchange::Memory => 1,
            Exchange::Cluster => MOST_TILES,
        }
    }
}

/// How the sums of one kernel are split.
pub(super) struct Split {
    column: Axis,
    columns: i64,
    rows: Vec<Axis>,
    /// How the sums, all of one kind, combine.
    op: ReduceOp,
    sums: Vec<Sum>,
    /// Columns that a block takes at once.
    units: i64,
    /// Lanes for these; a power of two.
    slots: i64,
    /// Columns of a thread; a power of two.
    columns_a_thread: i64,
    /// Lanes that take other rows than their neighbours; a power of two.
    row_groups: i64,
    /// Rows that a thread sums up at the same time at most.
    rows_a_thread: i64,
    /// Turns of such rows before the slices are added up; a power of two.
    turns: i64,
    /// The number of all rows, where it is known.
    known_rows: Option<i64>,
    /// Blocks of the launch.
    blocks: i64,
    /// Groups of columns that each takes one after the other.
    tiles_a_block: i64,
    staged: Vec<StagedOperand>,
    /// Whether these are all that the sums need of the columns' own operands.
    has_staged_all: bool,
    /// Loads that each column has one value of, which stay in shared memory.
    of_columns: Vec<ElementId>,
    /// The sums as products on tensor cores.
    products: Option<Products>,
    arrays: Option<Arrays>,
}

/// One sum (or product, or extremum).
struct Sum {
    reduction: Reduction,
    axis: Axis,
    extent: i64,
    lane: LaneType,
}

/// Shared memory.
struct Arrays {
    slices: SharedId,
    /// What slices add up to; the slices, where the threads of points do that.
    sums: SharedId,
    staged: Vec<SharedId>,
    of_columns: Vec<SharedId>,
    /// Of products on tensor cores.
    weights: Vec<SharedId>,
}

impl Split {
    /// Where every sum of the kernel has a value for each column and is long; `shared_bytes` are left. With the counter
    /// of a loop, whose steps it is computed at, operands stay in shared memory: those of one group of columns a block, or of
    /// several in a cluster. With tensor cores, which round factors if they may, `products` of them do.
    pub(super) fn new(
        analysis: &Analysis,
        counter: Option<&Symbol>,
        blocks: u32,
        shared_bytes: u32,
        products: Option<Rounding>,
        exchange: Exchange,
    ) -> Option<Split> {
        let axes = analysis.space_axes();
        let (column, rows) = axes.split_last()?;
        let columns = analysis.extent(*column).as_constant().filter(|n| *n > 0)?;
        if analysis.recurrence_axis.is_some() || analysis.groups.is_empty() {
            return None;
        }
        let mut sums = Vec::new();
        for group in &analysis.groups {
            if group.nested || group.height > 0 || group.free & axis_bit(*column) == 0 {
                return None;
            }
            for member in &group.members {
                sums.push(Sum::new(analysis, *member)?);
            }
        }
        if sums.iter().all(|s| s.extent < LEAST_EXTENT) {
            return None;
        }
        let first = sums.first()?;
        let (lane, op) = (first.lane, first.reduction.op);
        // Lanes exchange values of 32 bits.
        if lane.bytes() != 4 || sums.iter().any(|s| s.lane != lane || s.reduction.op != op) {
            return None;
        }
        let blocks = i64::from(blocks.max(1));
        let tiles_a_block = ceil_div(columns, blocks * WARP).clamp(1, exchange.most_tiles());
        let units = ceil_div(columns, blocks * tiles_a_block).min(WARP);
        let slots = power_of_two(units);
        let known_rows = rows.iter().try_fold(1i64, |n, a| n.checked_mul(analysis.extent(*a).as_constant()?));
        let mut split = Split {
            column: *column,
            columns,
            rows: rows.to_vec(),
            op,
            sums,
            units,
            slots,
            columns_a_thread: 1,
            row_groups: 1,
            rows_a_thread: 1,
            turns: 1,
            known_rows,
            blocks,
            tiles_a_block,
            staged: Vec::new(),
            has_staged_all: false,
            of_columns: Vec::new(),
            products: None,
            arrays: None,
        };
        split.share_lanes(1);
        if let Some(counter) = counter.filter(|_| split.tiles_a_block == 1 && split.has_own_tiles()) {
            split.keep_columns(analysis, counter);
        }
        if let Some((counter, rounding)) = counter.zip(products).filter(|_| split.has_own_tiles())
            && split.multiply_tiles(analysis, counter, (rounding, exchange), shared_bytes)
        {
            return Some(split);
        }
        if split.shared_bytes() > shared_bytes {
            return None;
        }
        if let Some(counter) = counter.filter(|_| split.has_own_tiles()) {
            split.stage(analysis, counter, shared_bytes);
            if exchange == Exchange::Memory && split.has_staged_all {
                split.take_columns(shared_bytes);
            }
        }
        Some(split)
    }

    /// Computes the sums on tensor cores, if these take them and there is the shared memory. Of a cluster's blocks each takes
    /// its columns in as few groups as fit: slots that have no columns take up memory, too.
    fn multiply_tiles(
        &mut self,
        analysis: &Analysis,
        counter: &Symbol,
        how: (Rounding, Exchange),
        shared_bytes: u32,
    ) -> bool {
        let before = (self.tiles_a_block, self.units, self.slots);
        let of_columns = self.of_columns.clone();
        for tiles in before.0..=before.0.max(how.1.most_tiles()) {
            if tiles > before.0 {
                self.tiles_a_block = tiles;
                self.units = ceil_div(self.columns, self.blocks * tiles);
                self.slots = power_of_two(self.units);
                self.of_columns.clear();
            }
            if self.multiply(analysis, counter, how, shared_bytes) {
                return true;
            }
        }
        (self.tiles_a_block, self.units, self.slots) = before;
        self.of_columns = of_columns;
        false
    }

    fn multiply(
        &mut self,
        analysis: &Analysis,
        counter: &Symbol,
        how: (Rounding, Exchange),
        shared_bytes: u32,
    ) -> bool {
        self.products = Products::new(analysis, self, self.known_rows, counter, how);
        let possible = self.products.as_ref().map(|products| products.possible_parts(how.1, self.slots));
        let before = (self.row_groups, self.rows_a_thread);
        self.row_groups = products::ROWS.min(WARP / self.slots);
        self.rows_a_thread = products::ROWS / self.row_groups;
        for parts in possible.into_iter().flatten() {
            self.products.iter_mut().for_each(|products| products.share(parts));
            if self.shared_bytes() <= shared_bytes {
                return true;
            }
        }
        self.products = None;
        (self.row_groups, self.rows_a_thread) = before;
        false
    }

    /// Whether a load is of the column and the reduced axis alone, from a buffer that the loop does not write.
    fn stays(&self, analysis: &Analysis, counter: &Symbol, element: ElementId, axis: Axis) -> bool {
        analysis.is_constant(counter, element, axis_bit(self.column) | axis_bit(axis))
    }

    /// The loads that are of shared memory from the first step on.
    pub(super) fn staged_elements(&self, analysis: &Analysis) -> Vec<ElementId> {
        let products = self.products.iter().flat_map(|p| p.weights(analysis));
        let staged = self.staged.iter().map(|s| s.element);
        staged.chain(self.of_columns.iter().copied()).chain(products).collect()
    }

    /// Whether all that the sums need of the columns' own operands stays in shared memory.
    pub(super) fn keeps_weights(&self) -> bool {
        self.products.is_some() || self.has_staged_all
    }

    /// Whether tensor cores compute its sums.
    pub(super) fn is_on_tensor_cores(&self) -> bool {
        self.products.is_some()
    }

    /// Blocks that have columns.
    pub(super) fn blocks_at_work(&self) -> u32 {
        u32::try_from(self.tiles().min(self.blocks)).unwrap_or(u32::MAX)
    }

    /// Groups of columns.
    fn tiles(&self) -> i64 {
        ceil_div(self.columns, self.units)
    }

    /// Whether blocks have the same columns at every step.
    fn has_own_tiles(&self) -> bool {
        self.tiles() <= self.blocks * self.tiles_a_block
    }

    /// The bytes of shared memory that it takes.
    pub(super) fn shared_bytes(&self) -> u32 {
        let sums = self.sums.len() as i64 * self.points();
        let element = self.sums.first().map_or(4, |s| i64::from(s.lane.bytes()));
        let staged: i64 =
            self.staged.iter().map(|s| self.staged_elements_of(s) * i64::from(s.lane.bytes())).sum();
        let of_columns = self.of_columns.len() as i64 * (self.units * 8 + SHARED_ALIGNMENT);
        let products = self.products.as_ref().map_or(0, |p| p.shared_bytes(self.slots));
        let products = self.tiles_a_block * products;
        let sums = self.parts() * self.slice_elements() + if self.adds_up_at_points() { 0 } else { sums };
        u32::try_from(sums * element + staged + of_columns + products).unwrap_or(u32::MAX)
    }

    /// Allocates shared memory, and fills it with what stays there. The threads have not met since.
    pub(super) fn prepare(&mut self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<()> {
        let name = emitter.analysis.kernel.name.clone();
        let lane = self.sums.first().map_or(LaneType::F32, |s| s.lane);
        let sums = self.sums.len() as i64 * self.points();
        let mut array = |what: &str, lane, elements: i64| {
            emitter.b.shared_array(
                format!("{name}.{what}"),
                lane,
                u32::try_from(elements).unwrap_or(u32::MAX),
            )
        };
        let slices = array("slices", lane, self.parts() * self.slice_elements());
        let totals = if self.adds_up_at_points() { slices } else { array("sums", lane, sums) };
        let staged: Vec<SharedId> =
            self.staged.iter().map(|s| array("staged", s.lane, self.staged_elements_of(s))).collect();
        let lanes = self.of_columns.iter().map(|load| register_type(emitter.analysis.dtype(*load)));
        let lanes: Vec<LaneType> = lanes.collect();
        let mut array = |lane| {
            emitter.b.shared_array(
                format!("{name}.columns"),
                lane,
                u32::try_from(self.units).unwrap_or(u32::MAX),
            )
        };
        let of_columns: Vec<SharedId> = lanes.into_iter().map(&mut array).collect();
        self.fill_staged(emitter, numbers, &staged)?;
        if !of_columns.is_empty() {
            self.fill_columns(emitter, numbers, &of_columns)?;
        }
        let weights = match &self.products {
            Some(products) => products.fill(emitter, self, numbers)?,
            None => Vec::new(),
        };
        self.arrays = Some(Arrays { slices, sums: totals, staged, of_columns, weights });
        Ok(())
    }

    /// The column of a unit of a tile, the last one where there are fewer.
    fn column_of(&self, emitter: &mut Emitter, tile: ValueId, unit: ValueId) -> ValueId {
        let units = emitter.b.index(self.units);
        let first = emitter.b.mul(tile, units);
        let column = emitter.b.add(first, unit);
        if self.columns % self.units == 0 && self.tiles() >= self.blocks * self.tiles_a_block {
            return column;
        }
        let last = emitter.b.index(self.columns - 1);
        emitter.b.binary(BinaryOp::Min, column, last)
    }

    /// A tile of a block; of several, the one of that number.
    fn tile_of(&self, b: &mut FunctionBuilder, block: ValueId, within: Option<ValueId>) -> ValueId {
        let Some(within) = within else { return block };
        let each = b.index(self.tiles_a_block);
        let first = b.mul(block, each);
        b.add(first, within)
    }

    /// Whether tiles of a large contraction would have too few rows to fill.
    pub(super) fn has_few_rows(&self, analysis: &Analysis) -> bool {
        assumed(&analysis.points(&self.rows)) <= FEW_ROWS
    }

    /// What it takes of each state that only its own points read: a thread has the same points at every step.
    pub(super) fn own_layout(&self) -> Option<OwnLayout> {
        let passes = self.known_rows.map(|rows| ceil_div(rows, self.rows_at_once()));
        let layout = OwnLayout::new(1, self.points(), passes, USUAL_ROWS / self.rows_at_once());
        (self.tiles_a_block == 1 && self.has_own_tiles()).then_some(layout)
    }

    /// Whether only the threads of points load it, which are others than those that sum up.
    pub(super) fn loads_at_points(&self, analysis: &Analysis, load: ElementId) -> bool {
        !self.sums.iter().any(|sum| operands(analysis, sum.reduction.body).contains(&load))
    }

    /// The kernel at one step.
    pub(super) fn phase(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        own: Option<OwnPhase>,
    ) -> Emitted<()> {
        let rows = emitter.dimension(&emitter.analysis.points(&self.rows))?;
        let end = emitter.b.index(self.tiles());
        let tiles = emitter.b.open_loop(&[], true);
        let zero = emitter.b.index(0);
        let passes = emitter.b.open_loop(&[], true);
        if let Some(own) = own {
            let slots = emitter.b.index(self.slots);
            let before = emitter.b.mul(passes.counter, slots);
            let element = emitter.b.add(before, numbers.thread);
            own.place(emitter, element, 0);
        }
        self.tile(emitter, numbers, [tiles.counter, passes.counter, rows])?;
        emitter.b.close_loop(passes, zero, rows, self.rows_at_once(), &[]);
        emitter.b.close_loop(tiles, numbers.block, end, self.blocks, &[]);
        Ok(())
    }

    /// Whether every column has a thread and all that stays the same is in shared memory.
    pub(super) fn has_all_staged(&self, analysis: &Analysis, counter: &Symbol) -> bool {
        let is_staged = |element: ElementId, axis: Axis| {
            !self.stays(analysis, counter, element, axis)
                || self.staged.iter().any(|s| s.element == element && s.axis == axis)
        };
        let of_sum =
            |sum: &Sum| operands(analysis, sum.reduction.body).into_iter().all(|e| is_staged(e, sum.axis));
        let keeps_weights = self.products.is_some() || self.sums.iter().all(of_sum);
        self.has_own_tiles() && self.rows.len() == 1 && keeps_weights
    }

    /// The axis of its columns.
    pub(super) fn column(&self) -> Axis {
        self.column
    }

    /// What the rows have of products on tensor cores: the loads, and how many elements along the sum a product has.
    pub(super) fn row_loads(&self, analysis: &Analysis) -> Option<(Vec<ElementId>, i64)> {
        self.products.as_ref().map(|products| (products.row_loads(analysis), products.depth()))
    }

    /// The factors of its products on tensor cores.
    pub(super) fn factors(&self) -> Option<MatrixFactors> {
        self.products.as_ref().map(Products::factors)
    }

    /// Operations of the sums of a row.
    pub(super) fn flops_a_row(&self, analysis: &Analysis) -> f64 {
        let columns = analysis.extent(self.column).as_constant().unwrap_or(1) as f64;
        self.sums.iter().map(|sum| 2.0 * sum.extent as f64 * columns).sum()
    }

    /// The kernel at one step, by the blocks of a cluster, for rows from a first one to an end that it takes at once.
    pub(super) fn phase_of_cluster(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        [first_row, rows]: [ValueId; 2],
    ) -> Emitted<()> {
        let Some(arrays) = &self.arrays else {
            return Err(emitter.analysis.malformed("its sums have no shared memory"));
        };
        if self.tiles_a_block == 1 {
            let tile = Tile {
                split: self,
                arrays,
                numbers,
                tile: numbers.block,
                within: None,
                first_row,
                turn: None,
                rows,
            };
            let point = tile.own_point(emitter)?;
            tile.load_early(emitter, &point)?;
            emitter.b.wait_for_cluster();
            tile.sums(emitter)?;
            return tile.epilogue_of_cluster(emitter, &point);
        }
        emitter.b.wait_for_cluster();
        let (begin, end) = (emitter.b.index(0), emitter.b.index(self.tiles_a_block));
        let each = emitter.b.open_loop(&[], true);
        if self.adds_up_at_points() {
            // Others may still add up those of the columns before.
            emitter.b.meet();
        }
        let within = Some(each.counter);
        let number = self.tile_of(&mut emitter.b, numbers.block, within);
        let tile = Tile { split: self, arrays, numbers, tile: number, within, first_row, turn: None, rows };
        let point = tile.own_point(emitter)?;
        tile.load_early(emitter, &point)?;
        tile.sums(emitter)?;
        tile.epilogue(emitter, &point)?;
        emitter.b.close_loop(each, begin, end, 1, &[]);
        emitter.b.arrive_at_cluster();
        Ok(())
    }

    /// What the kernel alone computes its sums by.
    pub(super) fn alone_shape(&self) -> SplitSums {
        SplitSums { groups: self.tiles(), columns: self.units, rows: self.rows_at_once() }
    }

    /// The kernel alone: a block takes some columns of some rows. Returns the number of blocks.
    pub(super) fn alone(&self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<Dim> {
        let rows = emitter.analysis.points(&self.rows);
        let count = emitter.dimension(&rows)?;
        let tiles = emitter.b.index(self.tiles());
        let (pass, tile) = floor_division(&mut emitter.b, numbers.block, tiles, true);
        let at_once = emitter.b.index(self.rows_at_once());
        let first_row = emitter.b.mul(pass, at_once);
        self.tile(emitter, numbers, [tile, first_row, count])?;
        Ok(rows.ceil_div(&Dim::constant(self.rows_at_once())) * Dim::constant(self.tiles()))
    }

    /// The columns of a tile at some rows, from the first one on, of how many there are.
    fn tile(&self, emitter: &mut Emitter, numbers: Numbers, place: [ValueId; 3]) -> Emitted<()> {
        let Some(arrays) = &self.arrays else {
            return Err(emitter.analysis.malformed("its sums have no shared memory"));
        };
        let [tile, first_row, rows] = place;
        let tile = Tile { split: self, arrays, numbers, tile, within: None, first_row, turn: None, rows };
        let point = tile.own_point(emitter)?;
        tile.load_early(emitter, &point)?;
        tile.sums(emitter)?;
        tile.epilogue(emitter, &point)
    }
}

impl Sum {
    fn new(analysis: &Analysis, element: ElementId) -> Option<Sum> {
        let Element::Reduce { op, axes, body } = analysis.element(element) else { return None };
        let axis = *axes.first().filter(|_| axes.len() == 1)?;
        let extent = analysis.extent(axis).as_constant().filter(|n| *n >= 1)?;
        let dtype = analysis.dtype(*body);
        let reduction = Reduction { element, op: *op, body: *body, dtype };
        let lane = register_type(dtype);
        let plain = !op.is_arg() && lane != LaneType::Bool && dtype != fuse_ir::DType::U8;
        plain.then_some(Sum { reduction, axis, extent, lane })
    }
}

impl Split {
    fn reductions(&self) -> Vec<(Reduction, i64)> {
        self.sums.iter().map(|s| (s.reduction, s.extent)).collect()
    }
}

/// The loads that what is stored is computed from beside sums.
fn stored_loads(analysis: &Analysis) -> Vec<ElementId> {
    let mut loads: Vec<ElementId> =
        analysis.stores.iter().flat_map(|store| operands(analysis, store.value)).collect();
    loads.sort_unstable();
    loads.dedup();
    loads
}

/// The loads that an element is computed from, without those behind other sums.
fn operands(analysis: &Analysis, element: ElementId) -> Vec<ElementId> {
    let mut pending = vec![element];
    let mut loads = Vec::new();
    while let Some(id) = pending.pop() {
        match analysis.element(id) {
            Element::Load { .. } if !loads.contains(&id) => loads.push(id),
            Element::Reduce { .. } => {}
            other => pending.extend(other.operands()),
        }
    }
    loads.sort_unstable();
    loads
}

/// The least power of two that is no less.
fn power_of_two(n: i64) -> i64 {
    u64::try_from(n.max(1)).map_or(1, u64::next_power_of_two) as i64
}
