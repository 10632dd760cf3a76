//! How factors get to shared memory for multiply-adds.
//!
//! A staged array has two halves of as many lines as a step has positions; a line has the factors of all rows (or
//! columns) of the tile. A thread moves quads: neighbours along the axis that is contiguous in memory, as one vector
//! where that is aligned.

use std::rc::Rc;

use super::super::emitter::{Emitted, Emitter, Point};
use super::super::vectors::{Class, Classes};
use super::product::{Contraction, Factor, Side, is_multiple};
use super::tile::{ACROSS, PADDING};
use super::{Along, Span, THREADS, bits, clamped, thread};
use crate::kernel_ir::{Condition, LaneType, SharedId, ValueId};

/// Neighbours that move together.
const QUAD: i64 = 4;

/// A factor in shared memory.
pub(super) struct Staged {
    factor: Factor,
    array: SharedId,
    along: Along,
    /// The classes along that axis, if quads are vectors.
    vector: Option<Rc<Classes>>,
    /// Rows or columns of the tile.
    size: i64,
    step: i64,
    /// Whether all tiles are whole, and whether all steps are.
    whole_tiles: bool,
    whole_steps: bool,
}

/// Four factors on their way.
pub(super) struct Quad {
    values: Vec<ValueId>,
    /// Where it goes: the row or column, and the position of the step.
    place: Place,
    /// Its position along the summed axis.
    depth: ValueId,
}

/// A row or column of the tile and a position of the step.
#[derive(Clone, Copy)]
struct Place {
    side: ValueId,
    depth: ValueId,
}

impl Staged {
    pub(super) fn new(
        emitter: &mut Emitter,
        contraction: &Contraction,
        factor: Factor,
        side: &Side,
        size: i64,
        step: i64,
    ) -> Staged {
        let analysis = emitter.analysis;
        let along = if factor.is_contiguous(analysis) { Along::Depth } else { Along::Side };
        let axis = match along {
            Along::Depth => Some(factor.axis),
            Along::Side => side.innermost(),
        };
        let axis = axis.filter(|a| is_multiple(analysis.extent(*a), QUAD));
        let vector = axis.map(|a| Rc::new(Classes::new(analysis, vec![a], QUAD as u8, 32 * QUAD as u32)));
        let vector = vector.filter(|classes| {
            classes.of(factor.element) == Class::Vector && classes.is_fully_vector(analysis, factor.element)
        });
        let elements = 2 * step * (size + PADDING);
        let array =
            emitter.b.shared_array(format!("factor_{}", factor.element), LaneType::F32, elements as u32);
        let whole_tiles = is_multiple(&side.extent, size);
        let whole_steps = is_multiple(&contraction.depth, step);
        Staged { factor, array, along, vector, size, step, whole_tiles, whole_steps }
    }

    /// The quads of this thread in the step that begins at the origin of `depth`. Where there are no factors, other ones.
    pub(super) fn fetch(
        &self,
        emitter: &mut Emitter,
        point: &Point,
        side: &Side,
        extent: Span,
        depth: Span,
    ) -> Emitted<Vec<Quad>> {
        let quads = self.size * self.step / QUAD / THREADS;
        let mut fetched = Vec::new();
        for number in 0..quads {
            let place = self.place(emitter, number);
            let at = Place {
                side: emitter.b.add(extent.origin, place.side),
                depth: emitter.b.add(depth.origin, place.depth),
            };
            let values = if self.vector.is_some() {
                self.vector_quad(emitter, point, side, at, [extent.end, depth.end])?
            } else {
                self.scalar_quad(emitter, point, side, at, [extent.end, depth.end])?
            };
            fetched.push(Quad { values, place, depth: at.depth });
        }
        Ok(fetched)
    }

    /// Where the quads of this thread begin.
    fn place(&self, emitter: &mut Emitter, number: i64) -> Place {
        let thread = thread(emitter);
        let before = emitter.b.index(number * THREADS);
        let number = emitter.b.add(thread, before);
        let size_bits = i64::from(self.size.trailing_zeros());
        let quad_bits = i64::from(QUAD.trailing_zeros());
        match self.along {
            Along::Side => {
                let quad = bits(emitter, number, 0, size_bits - quad_bits);
                let depth = emitter.b.shift_right_logical(number, size_bits - quad_bits);
                Place { side: emitter.b.shift_left(quad, quad_bits), depth }
            }
            // A warp fetches two quads each of 16 rows: whole sectors of memory, and other banks for each of its
            // stores.
            Along::Depth => {
                let across = i64::from(ACROSS.trailing_zeros());
                let (low, row) = (bits(emitter, number, 0, 1), bits(emitter, number, 1, across));
                let group = bits(emitter, number, 1 + across, size_bits - across);
                let group = emitter.b.shift_left(group, across);
                let high = emitter.b.shift_right_logical(number, 1 + size_bits);
                let high = emitter.b.shift_left(high, 1);
                let quad = emitter.b.add(high, low);
                Place { side: emitter.b.add(group, row), depth: emitter.b.shift_left(quad, quad_bits) }
            }
        }
    }

    fn vector_quad(
        &self,
        emitter: &mut Emitter,
        point: &Point,
        side: &Side,
        at: Place,
        ends: [ValueId; 2],
    ) -> Emitted<Vec<ValueId>> {
        let (side_run, depth_run) = match self.along {
            Along::Depth => (1, QUAD),
            Along::Side => (QUAD, 1),
        };
        let Place { side: index, depth: position } = self.within(emitter, at, ends, [side_run, depth_run]);
        let point = match self.along {
            Along::Depth => {
                let point = side.bind(emitter, point.clone(), index, None)?;
                self.vector.as_ref().map_or(point.clone(), |classes| point.with_lanes(classes, position))
            }
            Along::Side => {
                let point = point.with(self.factor.axis, position);
                side.bind(emitter, point, index, self.vector.as_ref())?
            }
        };
        let vector = self.value(emitter, &point)?;
        Ok((0..QUAD).map(|lane| emitter.b.extract(vector, lane as u8)).collect())
    }

    fn scalar_quad(
        &self,
        emitter: &mut Emitter,
        point: &Point,
        side: &Side,
        at: Place,
        ends: [ValueId; 2],
    ) -> Emitted<Vec<ValueId>> {
        let mut values = Vec::new();
        for number in 0..QUAD {
            let offset = emitter.b.index(number);
            let mut at = at;
            match self.along {
                Along::Depth => at.depth = emitter.b.add(at.depth, offset),
                Along::Side => at.side = emitter.b.add(at.side, offset),
            }
            let Place { side: index, depth: position } = self.within(emitter, at, ends, [1, 1]);
            let point = side.bind(emitter, point.with(self.factor.axis, position), index, None)?;
            values.push(self.value(emitter, &point)?);
        }
        Ok(values)
    }

    /// Where there is something to load: runs of so many rows or columns, and positions of the step, end by `ends`.
    fn within(&self, emitter: &mut Emitter, at: Place, ends: [ValueId; 2], runs: [i64; 2]) -> Place {
        let side = if self.whole_tiles { at.side } else { clamped(emitter, at.side, ends[0], runs[0]) };
        Place { side, depth: clamped(emitter, at.depth, ends[1], runs[1]) }
    }

    fn value(&self, emitter: &mut Emitter, point: &Point) -> Emitted<ValueId> {
        emitter.evaluate(&[self.factor.element], point)?;
        emitter.value(self.factor.element, point)
    }

    /// The factors of a quad, and zeros behind the end of the summed axis. Not until they are put: before, they are on
    /// their way.
    fn masked(&self, emitter: &mut Emitter, quad: &Quad, end: ValueId) -> Vec<ValueId> {
        if self.whole_steps {
            return quad.values.clone();
        }
        // Where quads are vectors, the axis ends with a whole one.
        let ends_within = self.along == Along::Depth && self.vector.is_none();
        let masked = (0..).zip(&quad.values).map(|(number, value)| {
            let offset = emitter.b.index(if ends_within { number } else { 0 });
            let depth = emitter.b.add(quad.depth, offset);
            let inside = emitter.b.compare(Condition::Lt, depth, end);
            let nothing = emitter.b.number_like(*value, 0.0);
            emitter.b.select(inside, *value, nothing)
        });
        masked.collect()
    }

    /// Puts quads into the half that begins at line `half`.
    pub(super) fn put(&self, emitter: &mut Emitter, half: ValueId, end: ValueId, quads: &[Quad]) {
        let pitch = emitter.b.index(self.pitch());
        for quad in quads {
            let values = self.masked(emitter, quad, end);
            let line = emitter.b.add(half, quad.place.depth);
            let line = emitter.b.mul(line, pitch);
            let first = emitter.b.add(line, quad.place.side);
            match self.along {
                Along::Side => {
                    let vector = emitter.b.pack(&values);
                    emitter.b.store_shared(self.array, first, vector);
                }
                Along::Depth => {
                    for (number, value) in (0..).zip(&values) {
                        let offset = emitter.b.index(number * self.pitch());
                        let index = emitter.b.add(first, offset);
                        emitter.b.store_shared(self.array, index, *value);
                    }
                }
            }
        }
    }

    /// The factors of a thread at one position of a step: `runs` of `width` neighbours, the first one at `of_thread`.
    pub(super) fn load(
        &self,
        emitter: &mut Emitter,
        half: ValueId,
        depth: i64,
        of_thread: ValueId,
        width: i64,
        runs: i64,
    ) -> Vec<ValueId> {
        let pitch = emitter.b.index(self.pitch());
        let first = emitter.b.mul(half, pitch);
        let first = emitter.b.add(first, of_thread);
        let mut values = Vec::new();
        for run in 0..runs {
            let offset = emitter.b.index(depth * self.pitch() + run * width * ACROSS);
            let index = emitter.b.add(first, offset);
            let vector = emitter.b.load_shared(self.array, width as u8, index);
            values.extend((0..width).map(|lane| emitter.b.extract(vector, lane as u8)));
        }
        values
    }

    /// Elements from one line to the next.
    fn pitch(&self) -> i64 {
        self.size + PADDING
    }
}
