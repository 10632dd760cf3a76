//! The slices of a recurrent step's sums on tensor cores.
//!
//! Where every sum is one of products of what a row has (the state) and what stays with the columns (the weights), a warp
//! multiplies matrices: 16 rows by its slice of the summed axis, and that by 8 sums of columns. The weights wait in shared
//! memory as words that tensor cores take; what the rows have comes from memory at every step, straight to the threads
//! that the fragments of a product want it from.
//!
//! ```text
//! line     sum · slots + slot, of the sums that share what the rows have; padded to whole products; of each tile of the block
//! words    of thread c of four: words c and c + 4 of a product hold neighbouring elements, 2 of 16 bits or 1 of tf32 each
//! slices   products along the summed axis take turns: the first is the first warp's, the next the next one's
//! warp     side · parts + part: as many parts as warps share a sum, and sides that have other sums
//! ```
//!
//! A block of a grid has few columns, so that all warps share their sums. One of a cluster has many, and what all warps would
//! hand on of all sums more than there is shared memory for: there only some share a sum, and each reads more of the state.

use std::rc::Rc;

use fuse_ir::DType;
use fuse_ir::expr::Symbol;
use fuse_ir::kernel::ElementId;

use super::super::Rounding;
use super::super::analysis::{Analysis, axis_bit, ceil_div};
use super::super::block::{Numbers, THREADS, WARP, WARPS, bits, low_bits};
use super::super::contraction::product::{Factor, is_same, matrix_factors, product};
use super::super::division::floor_division;
use super::super::emitter::{Emitted, Emitter, Point};
use super::super::vectors::{Class, Classes};
use super::tile::Tile;
use super::{Exchange, Split, operands};
use crate::kernel_ir::{BinaryOp, Condition, LaneType, MatrixFactors, SharedId, Type, ValueId};

/// Rows of a product.
pub(super) const ROWS: i64 = 16;

/// Sums of a product side by side.
pub(super) const SIDE: i64 = 8;

/// Words of a product along the summed axis.
const WORDS: i64 = 8;

/// Words between lines beyond those of the factors: an odd number of four words from line to line puts the lines of a matrix
/// in different banks.
const PADDING: i64 = 4;

/// Products along the summed axis that a warp has registers for what the rows have of.
const DEEP: i64 = 8;

/// Rows for which there are too few to fill products.
const FEW_ROWS: i64 = 4;

/// The sums of a step as products of matrices.
pub(super) struct Products {
    factors: MatrixFactors,
    groups: Vec<Group>,
    /// Warps that share a sum; a power of two.
    parts: i64,
}

/// Sums that share what the rows have.
struct Group {
    left: Factor,
    /// Of the summed axis.
    extent: i64,
    /// What the columns have, a factor a sum.
    right: Vec<Factor>,
    /// The sums of groups before it.
    before: i64,
}

/// A row that a thread has fragments of.
struct Row {
    /// The row, or the last one where it is behind that.
    point: Point,
    is_there: ValueId,
}

/// Where a warp multiplies.
#[derive(Clone, Copy)]
struct Place {
    /// Its number among those that share a sum.
    part: ValueId,
    /// The first of its products side by side, where the block has others.
    first_product: Option<ValueId>,
}

impl Products {
    /// The sums of a step that is part of a loop with this counter, if all of them are such products. Puts them in order of
    /// their groups. All warps share a sum, if [`Products::share`] says nothing else.
    pub(super) fn new(
        analysis: &Analysis,
        split: &mut Split,
        rows: Option<i64>,
        counter: &Symbol,
        (rounding, exchange): (Rounding, Exchange),
    ) -> Option<Products> {
        if rows.is_some_and(|n| n <= FEW_ROWS) {
            return None;
        }
        let mut found = Vec::new();
        for sum in &split.sums {
            let (left, right) = product(analysis, sum.reduction.element, axis_bit(split.column))?;
            let free = |f: &Factor| analysis.free[f.element.index()];
            let load = right.load(analysis);
            let stays = split.stays(analysis, counter, load, sum.axis);
            let is_row = free(&left) & axis_bit(split.column) == 0;
            if !stays || !is_row || free(&right) != axis_bit(split.column) | axis_bit(sum.axis) {
                return None;
            }
            found.push((left, right, sum.extent));
        }
        let factors = matrix_factors(analysis, found.iter().flat_map(|(x, y, _)| [x, y]), rounding)?;
        let mut groups: Vec<Group> = Vec::new();
        let mut order: Vec<Vec<usize>> = Vec::new();
        for (i, (left, right, extent)) in found.iter().enumerate() {
            let same = |g: &Group| {
                g.extent == *extent
                    && is_same(analysis, g.left.element, left.element, (g.left.axis, left.axis))
            };
            let at = groups.iter().position(same).unwrap_or_else(|| {
                groups.push(Group { left: *left, extent: *extent, right: Vec::new(), before: 0 });
                order.push(Vec::new());
                groups.len() - 1
            });
            groups[at].right.push(*right);
            order[at].push(i);
        }
        let mut before = 0;
        for group in &mut groups {
            group.before = before;
            before += group.right.len() as i64;
        }
        let products = Products { factors, groups, parts: WARPS };
        let run = products.run();
        let is_vector = |g: &Group| run_vector(analysis, g.left, g.extent, run).is_some();
        // Rows that are no whole vectors would be read one by one, by threads that get in each other's way.
        if exchange == Exchange::Cluster && !products.groups.iter().all(is_vector) {
            return None;
        }
        let mut sums: Vec<_> = std::mem::take(&mut split.sums).into_iter().map(Some).collect();
        split.sums = order.into_iter().flatten().filter_map(|i| sums[i].take()).collect();
        Some(products)
    }

    /// The loads that are of shared memory from the first step on.
    pub(super) fn weights(&self, analysis: &Analysis) -> Vec<ElementId> {
        self.groups.iter().flat_map(|g| &g.right).map(|factor| factor.load(analysis)).collect()
    }

    /// The loads of what the rows have.
    pub(super) fn row_loads(&self, analysis: &Analysis) -> Vec<ElementId> {
        self.groups.iter().flat_map(|group| operands(analysis, group.left.element)).collect()
    }

    /// The bytes of shared memory that the weights of a tile take, for so many slots.
    pub(super) fn shared_bytes(&self, slots: i64) -> i64 {
        self.groups.iter().map(|g| self.words(g, slots) * 4).sum()
    }

    /// How many warps may share a sum, best first: all of a block of a grid. In a cluster, where that leaves least to move
    /// through shared memory beside weights: the more of them, the more there is to add up; the fewer, the more of them read
    /// the same of the state.
    pub(super) fn possible_parts(&self, exchange: Exchange, slots: i64) -> Vec<i64> {
        let moved = |parts: i64| {
            let with = Products { parts, groups: Vec::new(), factors: self.factors };
            let of_group = |group: &Group| {
                let sides = with.sides().min(group.products(slots));
                let state = sides * ROWS * self.deep(group) * self.depth();
                state + 2 * parts * ROWS * SIDE * group.products(slots)
            };
            self.groups.iter().map(of_group).sum::<i64>()
        };
        let suits = |parts: &i64| self.groups.iter().all(|group| ceil_div(self.deep(group), *parts) <= DEEP);
        let of_exchange: &[i64] = match exchange {
            Exchange::Memory => &[WARPS],
            Exchange::Cluster => &[1, 2, 4, 8],
        };
        let mut possible: Vec<i64> = of_exchange.iter().copied().filter(suits).collect();
        possible.sort_by_key(|parts| moved(*parts));
        possible
    }

    /// Has so many warps share a sum.
    pub(super) fn share(&mut self, parts: i64) {
        self.parts = parts;
    }

    /// Warps that share a sum.
    pub(super) fn parts(&self) -> i64 {
        self.parts
    }

    /// Groups of warps that have sums of their own.
    fn sides(&self) -> i64 {
        WARPS.div_euclid(self.parts)
    }

    /// Products side by side that a warp has.
    fn products_a_warp(&self, group: &Group, slots: i64) -> i64 {
        ceil_div(group.products(slots), self.sides())
    }

    /// The factors of the products.
    pub(super) fn factors(&self) -> MatrixFactors {
        self.factors
    }

    /// Elements of the summed axis that one product has: what four threads load of a row.
    pub(super) fn depth(&self) -> i64 {
        WORDS * self.factors.per_word()
    }

    /// Neighbouring elements that a thread has of a row in one product.
    fn run(&self) -> i64 {
        2 * self.factors.per_word()
    }

    /// Products along the summed axis.
    fn deep(&self, group: &Group) -> i64 {
        ceil_div(group.extent, self.depth())
    }

    /// How often the warps take turns.
    fn turns(&self, group: &Group) -> i64 {
        ceil_div(self.deep(group), self.parts)
    }

    /// Words from one line to the next.
    fn pitch(&self, group: &Group) -> i64 {
        self.deep(group) * WORDS + PADDING
    }

    fn words(&self, group: &Group, slots: i64) -> i64 {
        group.products(slots) * SIDE * self.pitch(group)
    }

    /// Allocates the weights' arrays and fills them. The threads have not met since.
    pub(super) fn fill(
        &self,
        emitter: &mut Emitter,
        split: &Split,
        numbers: Numbers,
    ) -> Emitted<Vec<SharedId>> {
        let mut arrays = Vec::new();
        for group in &self.groups {
            let name = format!("{}.weights", emitter.analysis.kernel.name);
            let words = split.tiles_a_block * self.words(group, split.slots);
            let words = u32::try_from(words).unwrap_or(u32::MAX);
            let array = emitter.b.shared_array(name, LaneType::I32, words);
            for within in 0..split.tiles_a_block {
                self.fill_tile(emitter, split, numbers, (group, array), within)?;
            }
            arrays.push(array);
        }
        Ok(arrays)
    }

    /// The weights of one tile of the block.
    fn fill_tile(
        &self,
        emitter: &mut Emitter,
        split: &Split,
        numbers: Numbers,
        (group, array): (&Group, SharedId),
        within: i64,
    ) -> Emitted<()> {
        let number = (split.tiles_a_block > 1).then(|| emitter.b.index(within));
        let tile = split.tile_of(&mut emitter.b, numbers.block, number);
        let first = within * self.words(group, split.slots);
        for (i, right) in (0..).zip(&group.right) {
            self.fill_sum(emitter, split, (numbers, tile), (group, array, first), i, *right)?;
        }
        self.fill_rest(emitter, split, numbers, (group, array, first));
        Ok(())
    }

    /// The lines of one sum, zeros behind the end of the summed axis.
    fn fill_sum(
        &self,
        emitter: &mut Emitter,
        split: &Split,
        (numbers, tile): (Numbers, ValueId),
        (group, array, first_word): (&Group, SharedId, i64),
        number: i64,
        right: Factor,
    ) -> Emitted<()> {
        let line_words = self.deep(group) * WORDS;
        let end = emitter.b.index(split.slots * line_words);
        let each = emitter.b.open_loop(&[], true);
        let words = emitter.b.index(line_words);
        let (slot, word) = floor_division(&mut emitter.b, each.counter, words, true);
        let unit = split.unit_of(&mut emitter.b, slot);
        let column = split.column_of(emitter, tile, unit);
        let within = low_bits(&mut emitter.b, word, WORDS);
        let first = emitter.b.sub(word, within);
        let per_word = emitter.b.index(self.factors.per_word());
        let first = emitter.b.mul(first, per_word);
        // Words c and c + 4 are neighbours.
        let thread = low_bits(&mut emitter.b, within, WORDS / 2);
        let half = emitter.b.shift_right_logical(within, bits(WORDS / 2));
        let neighbour = emitter.b.shift_left(thread, 1);
        let neighbour = emitter.b.add(neighbour, half);
        let neighbour = emitter.b.mul(neighbour, per_word);
        let first = emitter.b.add(first, neighbour);
        let point = emitter.origin().with(split.column, column);
        let mut values = Vec::new();
        for element in 0..self.factors.per_word() {
            let element = emitter.b.index(element);
            let position = emitter.b.add(first, element);
            let is_whole = group.extent % self.depth() == 0;
            values.push(self.value(emitter, right, &point, (position, group.extent, is_whole))?);
        }
        let value = self.word_of(emitter, &values);
        let line = emitter.b.index(number * split.slots);
        let line = emitter.b.add(line, slot);
        let pitch = emitter.b.index(self.pitch(group));
        let line = emitter.b.mul(line, pitch);
        let at = emitter.b.add(line, word);
        let first_word = emitter.b.index(first_word);
        let at = emitter.b.add(at, first_word);
        emitter.b.store_shared(array, at, value);
        emitter.b.close_loop(each, numbers.thread, end, i64::from(THREADS), &[]);
        Ok(())
    }

    /// Zeros in the lines behind those of the last sum.
    fn fill_rest(
        &self,
        emitter: &mut Emitter,
        split: &Split,
        numbers: Numbers,
        (group, array, first): (&Group, SharedId, i64),
    ) {
        let used = first + group.right.len() as i64 * split.slots * self.pitch(group);
        let end = first + self.words(group, split.slots);
        if used == end {
            return;
        }
        let (used, end) = (emitter.b.index(used), emitter.b.index(end));
        let first = emitter.b.add(used, numbers.thread);
        let each = emitter.b.open_loop(&[], true);
        let nothing = emitter.b.integer(Type::scalar(LaneType::I32), 0);
        emitter.b.store_shared(array, each.counter, nothing);
        emitter.b.close_loop(each, first, end, i64::from(THREADS), &[]);
    }

    /// One factor, or 0 behind the end of the summed axis, which no position is if the axis is whole.
    fn value(
        &self,
        emitter: &mut Emitter,
        factor: Factor,
        point: &Point,
        (position, extent, is_whole): (ValueId, i64, bool),
    ) -> Emitted<ValueId> {
        let clamped = if is_whole { position } else { self.clamped(emitter, position, extent, 1) };
        let point = point.with(factor.axis, clamped);
        emitter.evaluate(&[factor.element], &point)?;
        let value = emitter.value(factor.element, &point)?;
        if is_whole {
            return Ok(value);
        }
        let end = emitter.b.index(extent);
        let inside = emitter.b.compare(Condition::Lt, position, end);
        let nothing = emitter.b.number_like(value, 0.0);
        Ok(emitter.b.select(inside, value, nothing))
    }

    /// The first of a run that ends with the summed axis at the latest.
    fn clamped(&self, emitter: &mut Emitter, position: ValueId, extent: i64, run: i64) -> ValueId {
        let last = emitter.b.index((extent - run).max(0));
        emitter.b.binary(BinaryOp::Min, position, last)
    }

    /// As many factors as a word holds.
    fn word_of(&self, emitter: &mut Emitter, values: &[ValueId]) -> ValueId {
        match (self.factors, values) {
            (MatrixFactors::F16, [low, high]) => emitter.b.pair(DType::F16, *low, *high),
            (MatrixFactors::Bf16, [low, high]) => emitter.b.pair(DType::Bf16, *low, *high),
            (_, values) => emitter.b.tf32(values[0]),
        }
    }

    /// The slices of all sums of a tile, of each warp its part of its sums.
    pub(super) fn slices(&self, emitter: &mut Emitter, tile: &Tile, weights: &[SharedId]) -> Emitted<()> {
        let rows = self.rows(emitter, tile)?;
        for (group, array) in self.groups.iter().zip(weights) {
            let place = self.place(emitter, tile, group);
            let mut left = Vec::new();
            for row in &rows {
                left.push(self.words_of(emitter, tile, group, row, place.part)?);
            }
            let nothing = emitter.b.number(Type { lane: LaneType::F32, lanes: 4 }, 0.0);
            let mut sums = vec![nothing; self.products_a_warp(group, tile.split.slots) as usize];
            for turn in 0..self.turns(group) {
                let [[a, c], [b, d]] = [0, 1].map(|row: usize| left[row][turn as usize]);
                let x = emitter.b.pack(&[a, b, c, d]);
                let right = self.right_operands(emitter, tile, group, *array, (place, turn));
                for (sum, y) in sums.iter_mut().zip(right) {
                    *sum = emitter.b.matrix_fma(self.factors, x, y, *sum);
                }
            }
            self.store(emitter, tile, group, (place, &sums));
        }
        Ok(())
    }

    /// Where the thread's warp multiplies.
    fn place(&self, emitter: &mut Emitter, tile: &Tile, group: &Group) -> Place {
        let warp = tile.numbers.warp(&mut emitter.b);
        if self.sides() == 1 {
            return Place { part: warp, first_product: None };
        }
        let part = low_bits(&mut emitter.b, warp, self.parts);
        let side = emitter.b.shift_right_logical(warp, bits(self.parts));
        let products = emitter.b.index(self.products_a_warp(group, tile.split.slots));
        Place { part, first_product: Some(emitter.b.mul(side, products)) }
    }

    /// The two rows that a thread has fragments of.
    fn rows(&self, emitter: &mut Emitter, tile: &Tile) -> Emitted<[Row; 2]> {
        let lane = tile.numbers.lane(&mut emitter.b);
        let row = emitter.b.shift_right_logical(lane, 2);
        let first = emitter.b.add(tile.first_row, row);
        let one = emitter.b.index(1);
        let last = emitter.b.sub(tile.rows, one);
        let zero = emitter.b.index(0);
        let column = tile.split.column_of(emitter, tile.tile, zero);
        let mut row = |further: i64| {
            let further = emitter.b.index(further);
            let row = emitter.b.add(first, further);
            let is_there = emitter.b.compare(Condition::Lt, row, tile.rows);
            let row = emitter.b.binary(BinaryOp::Min, row, last);
            Ok(Row { point: tile.point(emitter, row, column)?, is_there })
        };
        Ok([row(0)?, row(ROWS / 2)?])
    }

    /// The number of the product along the summed axis that a warp multiplies in a turn; behind the last one, where there is
    /// none left.
    fn number(&self, emitter: &mut Emitter, (part, turn): (ValueId, i64)) -> ValueId {
        let before = emitter.b.index(turn * self.parts);
        emitter.b.add(part, before)
    }

    /// The two words that a thread has of a row in the product of each turn; zeros where there is no such product, of which
    /// nothing is loaded. Nor is anything from memory where there is no such row; images have the last one then, which is
    /// near. The loads of all turns are on their way at the same time.
    fn words_of(
        &self,
        emitter: &mut Emitter,
        tile: &Tile,
        group: &Group,
        row: &Row,
        warp: ValueId,
    ) -> Emitted<Vec<[ValueId; 2]>> {
        let whole = self.deep(group).div_euclid(self.parts);
        let is_near = {
            let (analysis, images) = (emitter.analysis, &emitter.images);
            let is_image = |load: &ElementId| {
                analysis.loads.get(load).is_some_and(|access| images.contains_key(&access.buffer))
            };
            operands(analysis, group.left.element).iter().all(is_image)
        };
        let mut words = if is_near {
            self.words_at(emitter, tile, group, row, (warp, 0..whole))?
        } else {
            self.words_if(emitter, tile, group, row, (warp, 0..whole), row.is_there)?
        };
        if whole < self.turns(group) {
            let number = self.number(emitter, (warp, whole));
            let end = emitter.b.index(self.deep(group));
            let mut is_there = emitter.b.compare(Condition::Lt, number, end);
            if !is_near {
                is_there = emitter.b.and(row.is_there, is_there);
            }
            words.extend(self.words_if(emitter, tile, group, row, (warp, whole..whole + 1), is_there)?);
        }
        Ok(words.chunks(2).map(|pair| [pair[0], pair[1]]).collect())
    }

    /// The words of a row in the products of some turns, where a condition holds.
    fn words_if(
        &self,
        emitter: &mut Emitter,
        tile: &Tile,
        group: &Group,
        row: &Row,
        (warp, turns): (ValueId, std::ops::Range<i64>),
        condition: ValueId,
    ) -> Emitted<Vec<ValueId>> {
        // A condition gives no values; a loop that runs once or never does.
        let nothing = emitter.b.integer(Type::scalar(LaneType::I32), 0);
        let nothing = vec![nothing; 2 * turns.clone().count()];
        let (zero, one) = (emitter.b.index(0), emitter.b.index(1));
        let times = emitter.b.select(condition, one, zero);
        let once = emitter.b.open_loop(&nothing, true);
        let words = self.words_at(emitter, tile, group, row, (warp, turns))?;
        Ok(emitter.b.close_loop(once, zero, times, 1, &words))
    }

    /// The words of a row in the products of some turns, one after the other.
    fn words_at(
        &self,
        emitter: &mut Emitter,
        tile: &Tile,
        group: &Group,
        row: &Row,
        (warp, turns): (ValueId, std::ops::Range<i64>),
    ) -> Emitted<Vec<ValueId>> {
        let mut words = Vec::new();
        for turn in turns {
            let first = self.first_of_thread(emitter, tile, (warp, turn));
            let values = self.run_of(emitter, group, &row.point, first)?;
            for values in values.chunks(self.factors.per_word() as usize) {
                words.push(self.word_of(emitter, values));
            }
        }
        Ok(words)
    }

    /// The first element along the summed axis that a thread has of a row in the product of a turn.
    fn first_of_thread(&self, emitter: &mut Emitter, tile: &Tile, place: (ValueId, i64)) -> ValueId {
        let number = self.number(emitter, place);
        let depth = emitter.b.index(self.depth());
        let first = emitter.b.mul(number, depth);
        let lane = tile.numbers.lane(&mut emitter.b);
        let thread = low_bits(&mut emitter.b, lane, 4);
        let run = emitter.b.index(self.run());
        let thread = emitter.b.mul(thread, run);
        emitter.b.add(first, thread)
    }

    /// Neighbouring factors of a row, zeros behind the end of the summed axis.
    fn run_of(
        &self,
        emitter: &mut Emitter,
        group: &Group,
        row: &Point,
        first: ValueId,
    ) -> Emitted<Vec<ValueId>> {
        let (extent, run) = (group.extent, self.run());
        let is_whole = extent % self.depth() == 0;
        let Some(vector) = run_vector(emitter.analysis, group.left, extent, run) else {
            let value = |number: i64| {
                let number = emitter.b.index(number);
                let position = emitter.b.add(first, number);
                self.value(emitter, group.left, row, (position, extent, is_whole))
            };
            return (0..run).map(value).collect();
        };
        let position = if is_whole { first } else { self.clamped(emitter, first, extent, run) };
        let point = row.with_lanes(&vector, position);
        emitter.evaluate(&[group.left.element], &point)?;
        let values = emitter.value(group.left.element, &point)?;
        let mut values: Vec<_> = (0..run).map(|lane| emitter.b.extract(values, lane as u8)).collect();
        if !is_whole {
            let end = emitter.b.index(extent);
            let inside = emitter.b.compare(Condition::Lt, first, end);
            let nothing = emitter.b.number_like(values[0], 0.0);
            values.iter_mut().for_each(|v| *v = emitter.b.select(inside, *v, nothing));
        }
        Ok(values)
    }

    /// The right operands of a turn's products.
    fn right_operands(
        &self,
        emitter: &mut Emitter,
        tile: &Tile,
        group: &Group,
        array: SharedId,
        (place, turn): (Place, i64),
    ) -> Vec<ValueId> {
        let number = self.number(emitter, (place.part, turn));
        let last = emitter.b.index(self.deep(group) - 1);
        let number = emitter.b.binary(BinaryOp::Min, number, last);
        let words = emitter.b.index(WORDS);
        let mut first = emitter.b.mul(number, words);
        if let Some(within) = tile.within {
            let tile_words = emitter.b.index(self.words(group, tile.split.slots));
            let before = emitter.b.mul(within, tile_words);
            first = emitter.b.add(first, before);
        }
        let lane = tile.numbers.lane(&mut emitter.b);
        let line = low_bits(&mut emitter.b, lane, SIDE);
        // Matrices by their number: the next four words, then the next eight lines.
        let matrix = emitter.b.shift_right_logical(lane, 3);
        let half = low_bits(&mut emitter.b, matrix, 2);
        let half = emitter.b.shift_left(half, 2);
        let next = emitter.b.shift_right_logical(matrix, 1);
        let next = emitter.b.shift_left(next, 3);
        let pair_line = emitter.b.add(line, next);
        let pitch = emitter.b.index(self.pitch(group));
        let count = self.products_a_warp(group, tile.split.slots);
        // The last warps have fewer, and load the last one instead.
        let has_all = self.sides() * count == group.products(tile.split.slots);
        let product_words = emitter.b.index(SIDE * self.pitch(group));
        let mut loaded_operands = Vec::new();
        for product in (0..count).step_by(2) {
            let is_pair = product + 1 < count;
            let matrices = if is_pair { 4 } else { 2 };
            let (line, offset) = if has_all {
                let line = emitter.b.mul(if is_pair { pair_line } else { line }, pitch);
                let number = emitter.b.index(product);
                let number = place.first_product.map_or(number, |first| emitter.b.add(first, number));
                (line, emitter.b.mul(number, product_words))
            } else {
                let number = emitter.b.index(product);
                let mut number = place.first_product.map_or(number, |first| emitter.b.add(first, number));
                if is_pair {
                    let second = emitter.b.shift_right_logical(matrix, 1);
                    number = emitter.b.add(number, second);
                }
                let last = emitter.b.index(group.products(tile.split.slots) - 1);
                let number = emitter.b.binary(BinaryOp::Min, number, last);
                (emitter.b.mul(line, pitch), emitter.b.mul(number, product_words))
            };
            let mut at = emitter.b.add(line, first);
            for further in [half, offset] {
                at = emitter.b.add(at, further);
            }
            let loaded = emitter.b.load_matrices(array, matrices, at, false);
            let words: Vec<_> = (0..matrices).map(|matrix| emitter.b.extract(loaded, matrix)).collect();
            loaded_operands.extend(words.chunks(2).map(|pair| emitter.b.pack(pair)));
        }
        loaded_operands
    }

    /// Puts what a warp has of the sums of a group where the slices are added up.
    fn store(
        &self,
        emitter: &mut Emitter,
        tile: &Tile,
        group: &Group,
        (place_of_warp, sums): (Place, &[ValueId]),
    ) {
        let split = tile.split;
        let lane = tile.numbers.lane(&mut emitter.b);
        let row = emitter.b.shift_right_logical(lane, 2);
        let column = low_bits(&mut emitter.b, lane, 4);
        let two = emitter.b.index(2);
        let mut column = emitter.b.mul(column, two);
        if let Some(first) = place_of_warp.first_product {
            let side = emitter.b.index(SIDE);
            let before = emitter.b.mul(first, side);
            column = emitter.b.add(column, before);
        }
        let used = group.right.len() as i64 * split.slots;
        let slice = emitter.b.index(split.slice_elements());
        let slice = emitter.b.mul(place_of_warp.part, slice);
        let passed = tile.passed_sums(&mut emitter.b);
        // Then the chunks of all turns of the rows change places in the same way.
        let is_alike = split.sums_a_turn() % (WARP * WARP / SIDE) == 0;
        let before = emitter.b.index(group.before * split.points_a_turn());
        let before = passed.filter(|_| !is_alike).map_or(before, |passed| emitter.b.add(before, passed));
        let slice = passed.filter(|_| is_alike).map_or(slice, |passed| emitter.b.add(slice, passed));
        // Neighbouring columns are neighbours there unless each is of another sum.
        let together = if split.slots > 1 { 2 } else { 1 };
        for (product, sum) in (0..).zip(sums) {
            for first in (0..2).step_by(together) {
                let line = emitter.b.index(product * SIDE + first);
                let line = emitter.b.add(line, column);
                let is_partial = match place_of_warp.first_product {
                    None => (product + 1) * SIDE > used,
                    Some(_) => self.sides() * sums.len() as i64 * SIDE > used,
                };
                let inside = emitter.b.compare_integer(Condition::Lt, line, used);
                if is_partial {
                    emitter.b.open_if();
                }
                let number = emitter.b.shift_right_logical(line, bits(split.slots));
                let slot = low_bits(&mut emitter.b, line, split.slots);
                let points = emitter.b.index(split.points_a_turn());
                let number = emitter.b.mul(number, points);
                let place = emitter.b.add(before, number);
                let place = emitter.b.add(place, slot);
                for (half, further) in [(0, 0), (2, ROWS / 2)] {
                    let further = emitter.b.index(further);
                    let row = emitter.b.add(row, further);
                    let slots = emitter.b.index(split.slots);
                    let row = emitter.b.mul(row, slots);
                    let place = emitter.b.add(place, row);
                    let place = split.place_in_slice(&mut emitter.b, place);
                    let at = emitter.b.add(slice, place);
                    let lanes = (0..together as u8).map(|i| emitter.b.extract(*sum, half + first as u8 + i));
                    let lanes: Vec<_> = lanes.collect();
                    let value = emitter.b.pack(&lanes);
                    emitter.b.store_shared(tile.arrays.slices, at, value);
                }
                if is_partial {
                    emitter.b.close_if(inside);
                }
            }
        }
    }
}

impl Group {
    /// Products side by side.
    fn products(&self, slots: i64) -> i64 {
        ceil_div(self.right.len() as i64 * slots, SIDE)
    }
}

/// The classes along the summed axis, where a run of a factor is one aligned vector.
fn run_vector(analysis: &Analysis, factor: Factor, extent: i64, run: i64) -> Option<Rc<Classes>> {
    if extent % run != 0 {
        return None;
    }
    let classes = Classes::new(analysis, vec![factor.axis], run as u8, 32 * run as u32);
    let is_vector = classes.of(factor.element) == Class::Vector;
    (is_vector && classes.is_fully_vector(analysis, factor.element)).then(|| Rc::new(classes))
}
