//! How factors get to shared memory for tensor cores, and from there to the threads of a warp.
//!
//! A stage of a staged array has the factors of one step: lines along the axis that is contiguous in memory, of chunks of
//! 16 bytes. A chunk is what a thread stages at once, and what a thread addresses of the matrices that a warp loads. Eight
//! lines of a matrix begin at the same chunk; so that they come from different banks, chunk `c` of line `l` is where
//! `c xor key(l)` would be:
//!
//! | chunks a line | bytes | key |
//! |---|---|---|
//! | 2 | 32 | bit 2 of `l` |
//! | 4 | 64 | bits 1 and 2 |
//! | 8 and more | 128 … | bits 0 to 2 |
//! | of tf32 along the rows or columns | | twice bits 0 and 1 |
//!
//! What warp groups multiply has lines of 128 bytes alone ([`GroupFactor`]), the lines of 64 rows or columns behind each
//! other where they lie across the summed axis. Four lines of 32 bytes, or two of 64, are as wide as the banks. The last row is of lines that no instruction transposes:
//! the threads of a warp load words of 4 lines and 2 neighbouring chunks.

use std::rc::Rc;

use fuse_ir::DType;
use fuse_ir::kernel::ElementId;

use super::super::super::analysis::{Analysis, axis_bit};
use super::super::super::emitter::{Emitted, Emitter, Point};
use super::super::super::vectors::{Class, Classes};
use super::super::product::{Factor, Side, is_multiple};
use super::super::{Along, Span, THREADS, bits, clamped, low_bits, power, thread};
use super::tile::{By, Tile, depth};
use crate::kernel_ir::{BinaryOp, Condition, GroupFactor, LaneType, MatrixFactors, SharedId, ValueId};

/// Bytes of a chunk.
pub(super) const CHUNK: i64 = 16;

/// Words of a chunk.
const WORDS: i64 = CHUNK / 4;

/// Rows or columns, and positions along the summed axis in words, that one instruction's matrices are wide.
const MATRIX: i64 = 8;

/// A factor in shared memory.
pub(super) struct Lines {
    factor: Factor,
    factors: MatrixFactors,
    array: SharedId,
    along: Along,
    way: Way,
    /// Rows or columns of the tile.
    size: i64,
    /// Positions along the summed axis.
    step: i64,
    stages: i64,
    /// Whether all tiles are whole.
    whole_tiles: bool,
    by: By,
}

/// How factors get there.
enum Way {
    /// As they are in memory: what that load would give, so many elements at once.
    Copied { load: ElementId, elements: i64 },
    /// Through registers; with the classes along the lines, if chunks are vectors.
    Computed { vector: Option<Rc<Classes>> },
}

/// A chunk on its way through registers.
pub(super) struct Chunk {
    /// The factors, in f32.
    values: Vec<ValueId>,
    at: ChunkPlace,
    /// The position of the first along the summed axis.
    depth: ValueId,
}

/// Where a thread's chunk is.
#[derive(Clone, Copy)]
struct ChunkPlace {
    line: ValueId,
    chunk: ValueId,
    /// The row or column of the tile, and the position of the step, of its first factor.
    side: ValueId,
    depth: ValueId,
}

/// The matrices that a warp loads of a factor at once: of 8 rows or columns and 4 words along the summed axis each.
#[derive(Clone, Copy)]
pub(super) struct Matrices {
    count: u8,
    /// Which bit of their number says whether they are of the next 8 rows or columns, if there are more than 8.
    side_bit: Option<i64>,
    /// Which one says whether they are of the next 4 words.
    half_bit: i64,
}

impl Matrices {
    /// 16 rows, in the order of the left operand of a product.
    pub(super) const LEFT: Matrices = Matrices { count: 4, side_bit: Some(0), half_bit: 1 };
    /// 8 columns: the right operand of a product.
    pub(super) const RIGHT: Matrices = Matrices { count: 2, side_bit: None, half_bit: 0 };
    /// 16 columns: the right operands of two products.
    pub(super) const RIGHT_PAIR: Matrices = Matrices { count: 4, side_bit: Some(1), half_bit: 0 };
}

/// Where a warp loads.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// The stage's first word.
    pub(super) stage: ValueId,
    /// The first row or column of the warp in the tile, a multiple of 8.
    pub(super) warp: ValueId,
    /// How many rows or columns further, a multiple of 8.
    pub(super) further: i64,
    /// The number of the product along the step.
    pub(super) product: i64,
}

/// How many elements of a factor can be copied at once as they are in memory: a power of two, of at least 4 bytes. `None`
/// for factors that are computed or lie otherwise.
pub(super) fn copied_elements(analysis: &Analysis, factor: Factor, side: &Side) -> Option<i64> {
    let load = factor.narrow_load(analysis)?;
    let access = analysis.loads.get(&load)?;
    let axis = if factor.is_contiguous(analysis) { factor.axis } else { side.innermost()? };
    let moves = |d: ElementId| analysis.free[d.index()] & axis_bit(axis) != 0;
    let is_run = access.is_unit_stride(&[axis]) && !access.dynamic.iter().any(|d| moves(d.element));
    if !is_run || analysis.is_updated(access.buffer) {
        return None;
    }
    let whole = |n: &i64| access.is_multiple(*n, &[axis]) && is_multiple(analysis.extent(axis), *n);
    [8, 4, 2].into_iter().find(whole)
}

impl Lines {
    pub(super) fn new(emitter: &mut Emitter, factor: Factor, side: &Side, size: i64, tile: Tile) -> Lines {
        let analysis = emitter.analysis;
        let factors = tile.factors;
        let along = if factor.is_contiguous(analysis) { Along::Depth } else { Along::Side };
        let copied = factor.narrow_load(analysis).zip(copied_elements(analysis, factor, side));
        let way = match copied {
            Some((load, elements)) => Way::Copied { load, elements },
            None => Way::Computed { vector: chunk_vector(analysis, factor, along, side, factors) },
        };
        let stages = if copied.is_some() { tile.stages } else { 2 };
        let words = stages * size * tile.step / factors.per_word();
        let array = emitter.b.shared_array(format!("factor_{}", factor.element), LaneType::I32, words as u32);
        let whole_tiles = is_multiple(&side.extent, size);
        Lines { factor, factors, array, along, way, size, step: tile.step, stages, whole_tiles, by: tile.by }
    }

    pub(super) fn is_copied(&self) -> bool {
        matches!(self.way, Way::Copied { .. })
    }

    /// The first word of the stage of the step that begins at position `depth`.
    pub(super) fn stage(&self, emitter: &mut Emitter, depth: ValueId) -> ValueId {
        let words = self.size / self.factors.per_word();
        if self.stages.count_ones() == 1 {
            let number = emitter.b.index(self.step * (self.stages - 1));
            let number = emitter.b.and(depth, number);
            let words = emitter.b.index(words);
            return emitter.b.mul(number, words);
        }
        let number = emitter.b.shift_right_logical(depth, power(self.step));
        let stages = emitter.b.index(self.stages);
        let number = emitter.b.binary(BinaryOp::IntRem, number, stages);
        let words = emitter.b.index(self.step * words);
        emitter.b.mul(number, words)
    }

    /// The factor as a warp group multiplies it, from so many rows or columns on, a multiple of 64, in the stage that begins
    /// at a word.
    pub(super) fn of_group(&self, emitter: &mut Emitter, stage: ValueId, first: ValueId) -> GroupFactor {
        let line = emitter.b.index(i64::from(GroupFactor::LINE / 4));
        // As many lines as rows or columns; across the summed axis, 64 for 64 of these.
        let before = emitter.b.mul(first, line);
        let index = emitter.b.add(stage, before);
        GroupFactor { array: self.array, index, transposed: self.along == Along::Side }
    }

    /// Begins to copy what this thread copies in the step that begins at the origin of `depth`, zeros where there is none.
    pub(super) fn copy(
        &self,
        emitter: &mut Emitter,
        point: &Point,
        side: &Side,
        span: Span,
        depth: Span,
    ) -> Emitted<()> {
        let Way::Copied { load, elements } = self.way else { return Ok(()) };
        let Some(access) = emitter.analysis.loads.get(&load) else { return Ok(()) };
        let indices: Vec<ElementId> = access.dynamic.iter().map(|d| d.element).collect();
        let stage = self.stage(emitter, depth.origin);
        for (at, part) in
            self.chunks(emitter).into_iter().flat_map(|at| self.parts(elements).map(move |p| (at, p)))
        {
            let (index, position) = self.position_of(emitter, at, part, span, depth);
            let mut inside = emitter.b.compare(Condition::Lt, position, depth.end);
            if !self.whole_tiles {
                let within = emitter.b.compare(Condition::Lt, index, span.end);
                inside = emitter.b.and(inside, within);
            }
            let (side_run, depth_run) = self.runs(elements);
            let position = clamped(emitter, position, depth.end, depth_run);
            let index = if self.whole_tiles { index } else { clamped(emitter, index, span.end, side_run) };
            let point = side.bind(emitter, point.with(self.factor.axis, position), index, None)?;
            emitter.evaluate(&indices, &point)?;
            let from = emitter.position(access, &point)?;
            let to = self.word(emitter, at.line, 0, at.chunk);
            let to = emitter.b.add(stage, to);
            let offset = emitter.b.index(part / self.factors.per_word());
            let to = emitter.b.add(to, offset);
            let bytes = elements * 4 / self.factors.per_word();
            emitter.b.start_copy((self.array, to), (access.buffer, from), bytes as u8, inside);
        }
        Ok(())
    }

    /// The chunks of this thread in the step that begins at the origin of `depth`, from memory. Where there are no factors,
    /// other ones.
    pub(super) fn fetch(
        &self,
        emitter: &mut Emitter,
        point: &Point,
        side: &Side,
        span: Span,
        depth: Span,
    ) -> Emitted<Vec<Chunk>> {
        let Way::Computed { vector } = &self.way else { return Ok(Vec::new()) };
        let together = if vector.is_some() { self.chunk_elements() } else { 1 };
        let (side_run, depth_run) = self.runs(together);
        let mut fetched = Vec::new();
        for at in self.chunks(emitter) {
            let mut values = Vec::new();
            for part in self.parts(together) {
                let (index, position) = self.position_of(emitter, at, part, span, depth);
                let position = clamped(emitter, position, depth.end, depth_run);
                let index =
                    if self.whole_tiles { index } else { clamped(emitter, index, span.end, side_run) };
                let along_depth = vector.as_ref().filter(|_| self.along == Along::Depth);
                let along_side = vector.as_ref().filter(|_| self.along == Along::Side);
                let bound = point.with(self.factor.axis, position);
                let bound = side.bind(emitter, bound, index, along_side)?;
                let bound = along_depth.map_or(bound.clone(), |v| bound.with_lanes(v, position));
                emitter.evaluate(&[self.factor.element], &bound)?;
                let value = emitter.value(self.factor.element, &bound)?;
                values.extend((0..together).map(|lane| emitter.b.extract(value, lane as u8)));
            }
            let depth = emitter.b.add(depth.origin, at.depth);
            fetched.push(Chunk { values, at, depth });
        }
        Ok(fetched)
    }

    /// Puts chunks into the stage of the step that begins at position `depth`; zeros behind the end of the summed axis.
    pub(super) fn put(&self, emitter: &mut Emitter, depth: ValueId, end: ValueId, chunks: &[Chunk]) {
        if chunks.is_empty() {
            return;
        }
        let stage = self.stage(emitter, depth);
        // Where chunks are vectors, the axis ends with a whole one.
        let ends_within = self.along == Along::Depth && matches!(self.way, Way::Computed { vector: None });
        for chunk in chunks {
            let inside = |emitter: &mut Emitter, number: i64| {
                let offset = emitter.b.index(number);
                let position = emitter.b.add(chunk.depth, offset);
                emitter.b.compare(Condition::Lt, position, end)
            };
            let mut values = chunk.values.clone();
            if ends_within {
                for (number, value) in (0..).zip(&mut values) {
                    let inside = inside(emitter, number);
                    let nothing = emitter.b.number_like(*value, 0.0);
                    *value = emitter.b.select(inside, *value, nothing);
                }
            }
            let mut words = self.words_of(emitter, &values);
            if !ends_within {
                let inside = inside(emitter, 0);
                for word in &mut words {
                    let nothing = emitter.b.integer_like(*word, 0);
                    *word = emitter.b.select(inside, *word, nothing);
                }
            }
            let words = emitter.b.pack(&words);
            let to = self.word(emitter, chunk.at.line, 0, chunk.at.chunk);
            let to = emitter.b.add(stage, to);
            emitter.b.store_shared(self.array, to, words);
        }
    }

    /// Loads matrices: a thread's words (i32) of each.
    pub(super) fn load(&self, emitter: &mut Emitter, at: At, matrices: Matrices) -> Vec<ValueId> {
        if self.along == Along::Side && self.factors == MatrixFactors::Tf32 {
            return self.load_words(emitter, at, matrices);
        }
        let thread = thread(emitter);
        // The thread says where a line begins: of which matrix, and which of its lines.
        let bit = |emitter: &mut Emitter, bit: i64| bits(emitter, thread, 3 + bit, 1);
        let line = bits(emitter, thread, 0, 3);
        let half = bit(emitter, matrices.half_bit);
        let zero = emitter.b.index(0);
        let second = matrices.side_bit.map_or(zero, |side_bit| bit(emitter, side_bit));
        let (line, further, chunk) = match self.along {
            Along::Depth => {
                let second = emitter.b.shift_left(second, 3);
                let line = emitter.b.add(line, second);
                let chunk = emitter.b.index(2 * at.product);
                (emitter.b.add(at.warp, line), at.further, emitter.b.add(chunk, half))
            }
            Along::Side => {
                let half = emitter.b.shift_left(half, 3);
                let chunk = emitter.b.shift_right_logical(at.warp, 3);
                let chunk = emitter.b.add(chunk, second);
                let further = emitter.b.index(at.further / MATRIX);
                let chunk = emitter.b.add(chunk, further);
                (emitter.b.add(line, half), at.product * depth(self.factors), chunk)
            }
        };
        let word = self.word(emitter, line, further, chunk);
        let word = emitter.b.add(at.stage, word);
        let transposed = self.along == Along::Side;
        let loaded = emitter.b.load_matrices(self.array, matrices.count, word, transposed);
        (0..matrices.count).map(|matrix| emitter.b.extract(loaded, matrix)).collect()
    }

    /// The same word by word, of lines along the rows or columns.
    fn load_words(&self, emitter: &mut Emitter, at: At, matrices: Matrices) -> Vec<ValueId> {
        let thread = thread(emitter);
        let (line, within) = (bits(emitter, thread, 0, 2), bits(emitter, thread, 2, 2));
        let next = bits(emitter, thread, 4, 1);
        let chunk = emitter.b.shift_right_logical(at.warp, 2);
        let chunk = emitter.b.add(chunk, next);
        let number = |matrix: u8, bit: i64| i64::from(matrix) >> bit & 1;
        let mut words = Vec::new();
        for matrix in 0..matrices.count {
            let second = matrices.side_bit.map_or(0, |bit| number(matrix, bit));
            let further = at.product * depth(self.factors) + 4 * number(matrix, matrices.half_bit);
            let chunks = emitter.b.index((at.further + MATRIX * second) / WORDS);
            let chunk = emitter.b.add(chunk, chunks);
            let word = self.word(emitter, line, further, chunk);
            let word = emitter.b.add(word, within);
            let word = emitter.b.add(at.stage, word);
            words.push(emitter.b.load_shared(self.array, 1, word));
        }
        words
    }

    /// Chunks of a run of neighbours in memory that is staged: a line, or several side by side of what warp groups multiply.
    fn run_chunks(&self) -> i64 {
        let along = if self.along == Along::Depth { self.step } else { self.size };
        along / self.chunk_elements()
    }

    /// Chunks of a line.
    fn line_chunks(&self) -> i64 {
        match self.by {
            By::Warps => self.run_chunks(),
            By::Groups => i64::from(GroupFactor::LINE) / CHUNK,
        }
    }

    /// Factors of a chunk.
    fn chunk_elements(&self) -> i64 {
        WORDS * self.factors.per_word()
    }

    /// Neighbours of a run of so many, by row or column and along the summed axis.
    fn runs(&self, elements: i64) -> (i64, i64) {
        match self.along {
            Along::Depth => (1, elements),
            Along::Side => (elements, 1),
        }
    }

    /// Where runs of so many begin in a chunk.
    fn parts(&self, elements: i64) -> impl Iterator<Item = i64> + use<> {
        (0..self.chunk_elements()).step_by(elements as usize)
    }

    /// The chunks that this thread stages.
    fn chunks(&self, emitter: &mut Emitter) -> Vec<ChunkPlace> {
        let of_line = self.run_chunks();
        let chunks = self.size * self.step / self.chunk_elements();
        let thread = thread(emitter);
        let place = |number: i64| {
            let before = emitter.b.index(number * THREADS);
            let number = emitter.b.add(thread, before);
            let chunk_bits = i64::from(of_line.trailing_zeros());
            let chunk = bits(emitter, number, 0, chunk_bits);
            let line = emitter.b.shift_right_logical(number, chunk_bits);
            let elements = emitter.b.index(self.chunk_elements());
            let first = emitter.b.mul(chunk, elements);
            let (side, depth) = if self.along == Along::Depth { (line, first) } else { (first, line) };
            ChunkPlace { line, chunk, side, depth }
        };
        (0..chunks / THREADS).map(place).collect()
    }

    /// The row or column, and the position along the summed axis, of a part of a chunk.
    fn position_of(
        &self,
        emitter: &mut Emitter,
        at: ChunkPlace,
        part: i64,
        span: Span,
        depth: Span,
    ) -> (ValueId, ValueId) {
        let mut index = emitter.b.add(span.origin, at.side);
        let mut position = emitter.b.add(depth.origin, at.depth);
        let part = emitter.b.index(part);
        match self.along {
            Along::Depth => position = emitter.b.add(position, part),
            Along::Side => index = emitter.b.add(index, part),
        }
        (index, position)
    }

    /// Factors in f32 as words.
    fn words_of(&self, emitter: &mut Emitter, values: &[ValueId]) -> Vec<ValueId> {
        let dtype = match self.factors {
            MatrixFactors::F16 => DType::F16,
            MatrixFactors::Bf16 => DType::Bf16,
            MatrixFactors::Tf32 => return values.iter().map(|v| emitter.b.tf32(*v)).collect(),
        };
        values.chunks(2).map(|pair| emitter.b.pair(dtype, pair[0], pair[1])).collect()
    }

    /// The word at which a chunk begins: of line `line` and `further` lines, a multiple of what the key looks at.
    fn word(&self, emitter: &mut Emitter, line: ValueId, further: i64, chunk: ValueId) -> ValueId {
        let of_line = self.line_chunks();
        let (mut line, mut chunk) = (line, chunk);
        let key = self.key(emitter, line);
        if of_line < self.run_chunks() {
            // Behind the lines of all places along the step stand those of the next rows or columns.
            let side = emitter.b.shift_right_logical(chunk, power(of_line));
            let lines = emitter.b.index(self.step);
            let before = emitter.b.mul(side, lines);
            line = emitter.b.add(line, before);
            chunk = low_bits(&mut emitter.b, chunk, of_line);
        }
        let chunk = emitter.b.xor(chunk, key);
        let words = emitter.b.index(WORDS);
        let chunk = emitter.b.mul(chunk, words);
        let pitch = emitter.b.index(self.line_chunks() * WORDS);
        let first = emitter.b.mul(line, pitch);
        let offset = emitter.b.index(further * self.line_chunks() * WORDS);
        let first = emitter.b.add(first, chunk);
        emitter.b.add(first, offset)
    }

    fn key(&self, emitter: &mut Emitter, line: ValueId) -> ValueId {
        if self.along == Along::Side && self.factors == MatrixFactors::Tf32 {
            let key = bits(emitter, line, 0, 2);
            return emitter.b.shift_left(key, 1);
        }
        let count = i64::from(self.line_chunks().trailing_zeros()).min(3);
        bits(emitter, line, 3 - count, count)
    }
}

/// The classes along the lines of a factor, where a chunk of it is one aligned vector.
fn chunk_vector(
    analysis: &Analysis,
    factor: Factor,
    along: Along,
    side: &Side,
    factors: MatrixFactors,
) -> Option<Rc<Classes>> {
    let elements = WORDS * factors.per_word();
    let axis = if along == Along::Depth { Some(factor.axis) } else { side.innermost() };
    let axis = axis.filter(|a| is_multiple(analysis.extent(*a), elements))?;
    let classes = Classes::new(analysis, vec![axis], elements as u8, 32 * elements as u32);
    let is_vector = classes.of(factor.element) == Class::Vector;
    (is_vector && classes.is_fully_vector(analysis, factor.element)).then(|| Rc::new(classes))
}
