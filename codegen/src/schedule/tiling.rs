//! How a CPU walks the space of a kernel: which axes items go over, how many rows and columns a tile has, and what
//! keeps its operands in caches and registers.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fuse_ir::ScalarOp;
use fuse_ir::expr::{Axis, Dim};
use fuse_ir::kernel::{Element, ElementId};

use super::Registers;
use super::analysis::{Analysis, axis_bit};
use super::emitter::INTERLEAVED_POINTS;
use super::vectors::{Class, Classes};
use crate::decompose::register_type;
use crate::kernel_ir::{LaneType, ParameterId};

/// Points of a chunk where each point is a few operations.
const ELEMENTWISE_CHUNK: i64 = 1024;

/// Points of a chunk where each point is a reduction.
const REDUCTION_CHUNK: i64 = 16;

/// The vectors that a tile may have: powers of two, so that whole tiles are counted with a mask.
const VECTORS: [i64; 4] = [1, 2, 4, 8];

/// The most vectors of a tile where each has accumulators or states, of which one loop carries all.
const ACCUMULATED_VECTORS: i64 = 4;

/// Instructions of a point from which on the next point's are too far behind for a core to run both at once.
const LONG_POINT: u32 = 60;

/// Bytes of the rows of a group, which all columns use while they are in the second-level cache.
const GROUP_BYTES: i64 = 512 << 10;

/// Rows longer than this are worth grouping.
const LONG_ROW_BYTES: i64 = 512;

/// Reductions of one lane that keep the machine busy, so that a loop over the lanes costs nothing.
const LANE_LOOP_CHAINS: i64 = 4;

/// How a kernel's space is walked.
pub(super) struct Tiling {
    /// Each coordinate is part of the work item.
    pub(super) outer: Vec<Axis>,
    /// The axis whose neighbouring points share operands.
    pub(super) rows: Option<Rows>,
    /// The innermost axis, if the space has any with more than one point.
    pub(super) columns: Option<Columns>,
}

#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) axis: Axis,
    /// An axis around it that rows go on along, where tiles would seldom fill otherwise: rows are the points of both,
    /// one after the other, though no access goes through them in even steps.
    pub(super) over: Option<Axis>,
    /// Whether a tile asks for what the next one needs.
    pub(super) prefetches: bool,
    /// Whether rows that do not fill a tile have loops of their own, which are worth their code.
    pub(super) few: bool,
    /// Rows of a tile, of which an item has one block.
    pub(super) tile: i64,
    /// Blocks that all columns go through before any goes on to the next, if the rows are long.
    pub(super) group: Option<i64>,
}

impl Rows {
    pub(super) fn extent(&self, analysis: &Analysis) -> Dim {
        let axes = [Some(self.axis), self.over].into_iter().flatten();
        axes.fold(Dim::constant(1), |rows, axis| rows * analysis.extent(axis).clone())
    }
}

pub(super) struct Columns {
    pub(super) axis: Axis,
    /// Points a work item; `None` for all.
    pub(super) chunk: Option<i64>,
    /// Vectors along the axis, if it is vectorised.
    pub(super) vector: Option<Rc<Classes>>,
    /// Vectors (or scalars) of a tile of several rows, and of a tile of one.
    pub(super) tile: i64,
    pub(super) single_tile: i64,
}

/// What the points of the columns mostly do.
#[derive(Clone, Copy)]
enum Kind {
    /// Elements alone, so many instructions each.
    Elementwise(u32),
    /// They carry so many states along the axis of the recurrences.
    Recurrence(usize),
    /// So many reductions in one loop, each of a vector of columns.
    ByColumn(usize),
    /// So many reductions in one loop, each of one column.
    ByLane(usize),
}

impl Kind {
    fn of(analysis: &Analysis, axis: Axis, hot: &[ElementId], vector: Option<&Classes>) -> Kind {
        let groups = analysis.groups.iter().filter(|g| !g.nested && g.free & axis_bit(axis) != 0);
        let members = groups.map(|g| g.members.len()).max().unwrap_or(0);
        match (analysis.states(), vector) {
            (0, _) if hot.is_empty() => Kind::Elementwise(operations(analysis, axis)),
            (0, Some(v)) if hot.iter().any(|h| v.of(*h) == Class::Vector) => Kind::ByColumn(members),
            (0, _) => Kind::ByLane(members),
            (states, _) => Kind::Recurrence(states),
        }
    }

    /// The most vectors that a tile has use for.
    fn most_vectors(self, accumulators: i64) -> i64 {
        match self {
            Kind::Elementwise(instructions) if instructions >= LONG_POINT => INTERLEAVED_POINTS as i64,
            Kind::Elementwise(_) | Kind::ByLane(_) => 1,
            // Each state of each vector is carried by the one loop that there is.
            Kind::Recurrence(states) => (accumulators / states as i64).min(ACCUMULATED_VECTORS),
            Kind::ByColumn(_) => accumulators.min(ACCUMULATED_VECTORS),
        }
    }

    /// The vectors, of these numbers of them, and rows of a tile with at most so many rows.
    fn shape(self, vectors: &[i64], most_rows: i64, accumulators: i64) -> (i64, i64) {
        match self {
            Kind::Elementwise(_) | Kind::Recurrence(_) => (vectors.last().copied().unwrap_or(1), 1),
            Kind::ByColumn(members) => {
                tile_shape(members as i64, vectors, most_rows.min(accumulators / 2), accumulators)
            }
            Kind::ByLane(members) => (1, rows_by_lane(members as i64, accumulators).min(most_rows)),
        }
    }
}

impl Tiling {
    pub(super) fn new(analysis: &Analysis, registers: Registers) -> Tiling {
        let accumulators = registers.accumulators as i64;
        let mut outer = analysis.space_axes();
        let Some(axis) = outer.pop() else { return Tiling { outer, rows: None, columns: None } };
        let groups = analysis.groups.iter().filter(|g| !g.nested && g.free & axis_bit(axis) != 0);
        let hot: Vec<ElementId> = groups.flat_map(|g| g.members.iter().copied()).collect();
        let mut vector = vectorised(analysis, axis, !hot.is_empty(), registers.vector_bits);
        let kind = Kind::of(analysis, axis, &hot, vector.as_ref());
        let lanes = vector.as_ref().map_or(1, |v| i64::from(v.lanes));
        let most_vectors = if vector.is_some() { kind.most_vectors(accumulators) } else { 1 };
        let extent = analysis.extent(axis).as_constant();
        let fits = |t: &i64| extent.is_none_or(|n| n % (lanes * t) == 0 || n >= 4 * lanes * t);
        let vectors: Vec<i64> =
            VECTORS.into_iter().filter(|t| *t == 1 || *t <= most_vectors && fits(t)).collect();
        let along = row_axis(analysis, &outer, axis, &hot);
        let most_rows = along.map_or(1, |a| analysis.extent(a).as_constant().unwrap_or(i64::MAX));
        let ((tile, rows), (single_tile, _)) =
            (kind.shape(&vectors, most_rows, accumulators), kind.shape(&vectors, 1, accumulators));
        let rows = along.filter(|_| rows > 1).map(|along| {
            let prefetches = registers.prefetches;
            let few = prefetches && matches!(kind, Kind::ByColumn(_));
            let fill = analysis.extent(along).as_constant().is_some_and(|n| n % rows == 0);
            let others: Vec<Axis> = outer.iter().copied().filter(|a| *a != along).collect();
            let over = if few && !fill { row_axis(analysis, &others, axis, &hot) } else { None };
            let group = group(analysis, &hot, along, rows);
            Rows { axis: along, over, prefetches, few, tile: rows, group }
        });
        if let (Some(vector), Kind::ByLane(members) | Kind::ByColumn(members)) = (&mut vector, kind)
            && members as i64 * rows.map_or(1, |r| r.tile) >= LANE_LOOP_CHAINS
        {
            vector.loop_over_lanes(analysis);
        }
        outer.retain(|a| rows.is_none_or(|r| r.axis != *a && r.over != Some(*a)));
        let chunk = chunk_of(analysis, axis, kind, lanes * tile.max(single_tile));
        let columns = Columns { axis, chunk, vector: vector.map(Rc::new), tile, single_tile };
        Tiling { outer, rows, columns: Some(columns) }
    }

    /// The number of work items of each block of rows.
    pub(super) fn items_of_a_block(&self, analysis: &Analysis) -> Dim {
        let outer = self.outer.iter().map(|a| analysis.extent(*a).clone());
        let chunks = self.columns.as_ref().and_then(|c| Some(chunks(analysis.extent(c.axis), c.chunk?)));
        outer.chain(chunks).fold(Dim::constant(1), |a, b| a * b)
    }

    /// The number of work items.
    pub(super) fn work(&self, analysis: &Analysis) -> Dim {
        let rows = self.rows.map(|r| row_blocks(&r.extent(analysis), r.tile));
        let mut work = rows.into_iter().fold(self.items_of_a_block(analysis), |a, b| a * b);
        if let Some(c) = self.columns.as_ref().filter(|c| c.chunk.is_none()) {
            // A row is one item, but no item may exist where rows have no points.
            let extent = analysis.extent(c.axis);
            if extent.as_constant().is_none_or(|n| n < 1) {
                work = work * extent.minimum(&Dim::constant(1));
            }
        }
        work
    }
}

/// The vectors and rows of a tile with so many reductions a point: as many accumulators as one loop has, in the
/// shape that loads least for each multiply-add. A step loads a vector for each reduction and each vector of
/// columns, and a scalar for each row.
fn tile_shape(reductions: i64, vectors: &[i64], most_rows: i64, accumulators: i64) -> (i64, i64) {
    // Five rows would load a little less than four, but leave more over of most batches.
    let suits = |r: &i64| r & (r - 1) == 0 || accumulators & (accumulators - 1) != 0;
    let shapes = vectors.iter().flat_map(|v| (1..=most_rows).filter(suits).map(move |r| (*v, r)));
    let fits = |(v, r): &(i64, i64)| reductions * v * r <= accumulators;
    let loads = |(v, r): (i64, i64)| (reductions * v + r) as f64 / (reductions * v * r) as f64;
    let best = shapes.filter(fits).min_by(|a, b| loads(*a).total_cmp(&loads(*b)).then(a.0.cmp(&b.0)));
    best.unwrap_or((1, 1))
}

/// The rows of a tile whose reductions are computed lane by lane.
fn rows_by_lane(reductions: i64, accumulators: i64) -> i64 {
    let rows = accumulators / reductions.max(1);
    // A few more than accumulators are for are taken in turn, and still share what they load.
    if rows <= 1 && reductions * 4 <= accumulators * 3 { 2 } else { rows.clamp(1, accumulators / 2) }
}

/// The columns of a work item, whole tiles of them.
fn chunk_of(analysis: &Analysis, axis: Axis, kind: Kind, tile: i64) -> Option<i64> {
    let extent = analysis.extent(axis).as_constant();
    let once_a_row = analysis.groups.iter().any(|g| !g.nested && g.free & axis_bit(axis) == 0);
    match kind {
        // All of the axis of the recurrences is in every item: a tile is work enough.
        Kind::Recurrence(_) => chunk(extent, 1, tile),
        // What is computed once a row is not to be computed once a chunk.
        _ if once_a_row => None,
        Kind::Elementwise(_) => chunk(extent, ELEMENTWISE_CHUNK, tile),
        Kind::ByColumn(_) | Kind::ByLane(_) => chunk(extent, REDUCTION_CHUNK, tile),
    }
}

/// The points of a chunk: near `target`, a multiple of `multiple`, dividing a known extent where possible;
/// `None` for all in one.
fn chunk(extent: Option<i64>, target: i64, multiple: i64) -> Option<i64> {
    let target = target.max(multiple) / multiple * multiple;
    match extent {
        Some(n) if n <= target => None,
        Some(n) => {
            let divides = |c: &i64| n % c == 0;
            let near =
                (target / 2 / multiple..=target * 2 / multiple).map(|c| c * multiple).filter(|c| *c > 0);
            Some(near.filter(divides).min_by_key(|c| (c - target).abs()).unwrap_or(target))
        }
        None => Some(target),
    }
}

/// Roughly the instructions of a point outside reductions.
fn operations(analysis: &Analysis, axis: Axis) -> u32 {
    let at_each = |id: &ElementId| {
        let free = analysis.free[id.index()];
        analysis.needed[id.index()] && free & axis_bit(axis) != 0 && free >> analysis.kernel.rank == 0
    };
    analysis.ids().filter(at_each).map(|id| cost(analysis.element(id))).sum()
}

/// The classes along the innermost axis, if vectors pay.
fn vectorised(analysis: &Analysis, axis: Axis, reduces: bool, vector_bits: u32) -> Option<Classes> {
    // As many lanes as the widest float or integer that is stored allows; others go lane by lane.
    let bits = |lane| match lane {
        LaneType::F32 | LaneType::I32 | LaneType::Bool => 32,
        LaneType::F64 | LaneType::I64 => 64,
    };
    let finals = analysis.finals.iter().map(|f| &f.access);
    let mut stored = analysis.stores.iter().map(|s| &s.access).chain(finals);
    let narrow = stored.any(|access| bits(register_type(access.dtype)) == 32);
    let lanes = if narrow { vector_bits / 32 } else { vector_bits / 64 };
    let classes = Classes::new(analysis, vec![axis], u8::try_from(lanes).ok()?, vector_bits);
    // A state is one vector, or one scalar.
    if analysis.recurrences.iter().any(|(e, _)| classes.of(*e) == Class::Lanewise) {
        return None;
    }
    let (mut vectors, mut scalars) = (0, 0);
    for id in analysis.ids().filter(|id| analysis.needed[id.index()]) {
        let free = analysis.free[id.index()];
        let in_reduction = free >> analysis.kernel.rank != 0;
        if free & axis_bit(axis) == 0 || in_reduction {
            continue;
        }
        match classes.of(id) {
            Class::Uniform => {}
            Class::Vector | Class::LaneLoop => vectors += cost(analysis.element(id)),
            Class::Lanewise => scalars += cost(analysis.element(id)),
        }
    }
    let pays = vectors >= scalars && (vectors > 0 || reduces) && lanes > 1;
    (pays && analysis.extent(axis).as_constant().is_none_or(|n| n >= i64::from(lanes))).then_some(classes)
}

/// A rough number of instructions.
fn cost(element: &Element) -> u32 {
    match element {
        Element::Constant(_) | Element::Reduce { .. } => 0,
        Element::Recurrence { .. } => 1,
        Element::Load { .. } | Element::Index(_) | Element::Cast(_) => 1,
        Element::Scalar(op, _) => match op {
            ScalarOp::Exp
            | ScalarOp::Exp2
            | ScalarOp::Expm1
            | ScalarOp::Log
            | ScalarOp::Log2
            | ScalarOp::Log1p
            | ScalarOp::Sin
            | ScalarOp::Cos
            | ScalarOp::Tanh
            | ScalarOp::Sigmoid
            | ScalarOp::Softplus
            | ScalarOp::Erf
            | ScalarOp::Pow => 20,
            ScalarOp::Div | ScalarOp::Mod | ScalarOp::Rem | ScalarOp::Sqrt => 4,
            ScalarOp::Rsqrt | ScalarOp::Reciprocal => 4,
            ScalarOp::Neg
            | ScalarOp::Abs
            | ScalarOp::Sign
            | ScalarOp::Floor
            | ScalarOp::Ceil
            | ScalarOp::Round
            | ScalarOp::Trunc
            | ScalarOp::Relu
            | ScalarOp::Not
            | ScalarOp::IsNan
            | ScalarOp::ToBits
            | ScalarOp::FromBits
            | ScalarOp::Add
            | ScalarOp::Sub
            | ScalarOp::Mul
            | ScalarOp::Min
            | ScalarOp::Max
            | ScalarOp::Eq
            | ScalarOp::Ne
            | ScalarOp::Lt
            | ScalarOp::Le
            | ScalarOp::Gt
            | ScalarOp::Ge
            | ScalarOp::And
            | ScalarOp::Or
            | ScalarOp::Xor
            | ScalarOp::Select
            | ScalarOp::Clamp => 1,
        },
    }
}

/// The innermost outer axis with neighbouring points that share loads of the reductions.
fn row_axis(analysis: &Analysis, outer: &[Axis], columns: Axis, hot: &[ElementId]) -> Option<Axis> {
    let in_bodies = bodies(analysis, hot);
    let shares = |row: &Axis| {
        let loads = in_bodies.iter().filter(|e| analysis.loads.contains_key(e));
        let varies = loads.clone().any(|e| analysis.free[e.index()] & axis_bit(*row) != 0);
        let reused = loads.clone().any(|e| {
            let free = analysis.free[e.index()];
            free & axis_bit(*row) == 0 && free & axis_bit(columns) != 0
        });
        varies && reused
    };
    outer.iter().rev().copied().find(shares)
}

/// The blocks of `tile` rows whose operands fit the second-level cache, if they are long.
fn group(analysis: &Analysis, hot: &[ElementId], rows: Axis, tile: i64) -> Option<i64> {
    let bound: BTreeSet<Vec<Axis>> = hot
        .iter()
        .filter_map(|id| match analysis.element(*id) {
            Element::Reduce { axes, .. } => Some(axes.to_vec()),
            _ => None,
        })
        .collect();
    // Loads of equal reductions are of the same elements.
    let mut bytes: BTreeMap<ParameterId, i64> = BTreeMap::new();
    for id in bodies(analysis, hot) {
        let Some(access) = analysis.loads.get(&id).filter(|a| a.position.uses_axis(rows)) else { continue };
        let reduced = bound.iter().find(|axes| axes.iter().any(|a| access.position.uses_axis(*a)))?;
        let elements = reduced.iter().map(|a| analysis.extent(*a).as_constant()).product::<Option<i64>>()?;
        bytes.insert(access.buffer, elements.checked_mul(access.dtype.size() as i64)?);
    }
    let row: i64 = bytes.values().sum();
    (row > LONG_ROW_BYTES).then(|| (GROUP_BYTES / (row * tile)).max(1))
}

/// Everything that reductions are computed from.
fn bodies(analysis: &Analysis, reductions: &[ElementId]) -> Vec<ElementId> {
    let inside =
        analysis.kernel.computed_from(reductions.iter().flat_map(|r| analysis.element(*r).operands()));
    analysis.ids().filter(|id| inside[id.index()]).collect()
}

pub(super) fn chunks(extent: &Dim, chunk: i64) -> Dim {
    extent.ceil_div(&Dim::constant(chunk))
}

/// The whole blocks of `rows` rows, or one that is not whole. Rows left over go with the last block.
pub(super) fn row_blocks(extent: &Dim, rows: i64) -> Dim {
    extent.floor_div(&Dim::constant(rows)).maximum(&extent.minimum(&Dim::constant(1)))
}
