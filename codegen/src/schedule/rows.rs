//! Rows on a GPU: threads that work together reduce a row, and go on with what they found.
//!
//! For kernels all of whose reductions have one value a row: layer normalisation, softmax, sums and positions of extremes
//! along an axis. Neighbouring threads take neighbouring vectors of the row ([`walk`]). What each of them has goes
//! through the lanes of its warp, then through shared memory, and afterwards every thread knows the results
//! ([`team`]). Reductions that need others follow these; last, the threads share the points of the row.
//!
//! Where a row is known to fit in the registers of its threads, every pass over it sees the same loads, which run once.
//!
//! Reductions of what are sums themselves, as in the softmax of attention, have those computed at each position of the row
//! ([`inner`]).
//!
//! A row is computed by a warp, several of which make a block, or by a whole block: threads of part of a block could
//! not wait for each other. Outside of loops a block is as large as a row takes.

mod inner;
mod kept;
mod team;
mod walk;

use std::collections::BTreeMap;
use std::rc::Rc;

use fuse_ir::expr::{Atom, Axis, Dim, Expr, Symbol};
use fuse_ir::kernel::{Element, ElementId};

use super::access::Access;
use super::analysis::{Analysis, AxisSet, Group, axis_bit, axis_set, ceil_div};
use super::block::{Numbers, THREADS, WARP, bits};
use super::contraction::{assumed, is_multiple};
use super::coordinates::coordinates;
use super::emitter::{Emitted, Emitter, Point};
use super::parts::Part;
use super::reduction::{Chain, State};
use super::resident::own::{OwnLayout, OwnPhase};
use super::vectors::{ANY_WIDTH, Classes};
use crate::decompose::register_type;
use crate::kernel_ir::{Condition, Mapping, ValueId};
use inner::Inner;
use kept::Kept;
use team::Team;
use walk::{Piece, Walk};

/// Reductions shorter than this are a thread's: it is done before others have met.
const LEAST_EXTENT: i64 = 64;

/// Vectors of a row that a thread takes where there are threads enough: their loads are in flight together.
const VECTORS_A_THREAD: i64 = 4;

/// Vectors of a row that a thread keeps at most.
const MOST_KEPT: i64 = 8;

/// Registers of 32 bits that a thread has for what it keeps of a row.
const REGISTERS: i64 = 64;

/// Rows that a block takes one after the other rather than each warp one: a few warps a block would leave most of its
/// threads idle, and a warp has fewer registers to keep a row in.
const ROWS_OF_A_BLOCK: i64 = 2;

/// Threads for a row of unknown length.
const THREADS_OF_ANY_LENGTH: i64 = 128;

/// Threads of a block whose warps have a row each.
const THREADS_OF_WARPS: i64 = 128;

/// How a kernel's rows are computed.
pub(super) struct Rows {
    /// The axes whose points are rows, outermost first.
    rows: Vec<Axis>,
    /// The axis of the space along a row; without it a row is one point.
    column: Option<Axis>,
    /// Every axis along a row: that of the space and those that reductions bind.
    along: Vec<Axis>,
    /// Vectors along these, which divide every extent; `None` for scalars.
    vector: Option<Rc<Classes>>,
    /// Vectors that a thread keeps in registers.
    kept: i64,
    team: Team,
    /// The rows that a block computes at the same time; 1 where its warps work together.
    teams: i64,
    /// Who computes the sums at a position of the row.
    inner: Inner,
    /// What the rows of a loop have in common at every step.
    common: Kept,
    /// Whether every row reads elements of its own, along memory. Other schedules load what rows share for many of them
    /// at once, and what lies across them by a thread for each.
    pub(super) is_along_memory: bool,
}

impl Rows {
    /// Outside of loops, by blocks of `most_threads` at most, or twice as many where only these keep a row. `None` where
    /// reductions have no value a row, where rows are short, and where they are no better shared.
    pub(super) fn alone(analysis: &Analysis, most_threads: u32) -> Option<Rows> {
        if i64::from(most_threads) < WARP {
            return None;
        }
        let mut rows = Rows::of(analysis)?;
        // Otherwise every point of a row computed its reductions anew, however they lie.
        if rows.column.is_none() && !rows.is_along_memory && rows.inner == Inner::None {
            return None;
        }
        // Powers of two, so that what a block takes at once is one.
        let most = 1i64 << most_threads.min(THREADS / 2).ilog2();
        let threads = if rows.inner == Inner::Warp { most } else { rows.threads(analysis, most) };
        rows.team = Team { threads };
        rows.teams = if threads > WARP { 1 } else { THREADS_OF_WARPS.min(most) / WARP };
        Some(rows)
    }

    /// The threads of a row outside of loops: as few as have no more than a few vectors each.
    fn threads(&self, analysis: &Analysis, most: i64) -> i64 {
        let Some(longest) = self.extents(analysis).and_then(|e| e.into_iter().max()) else {
            return THREADS_OF_ANY_LENGTH.min(most);
        };
        let suffices = |threads: i64, vectors: i64| longest <= threads * self.lanes() * vectors;
        let mut sizes = (WARP.ilog2()..=most.ilog2()).map(|bits| 1i64 << bits);
        let of_few = sizes.find(|threads| suffices(*threads, VECTORS_A_THREAD.min(self.kept)));
        // A larger block is better than a row that every pass reads anew.
        let of_kept = || [most, 2 * most].into_iter().find(|threads| suffices(*threads, self.kept));
        of_few.or_else(of_kept).unwrap_or(most)
    }

    /// As a phase of a loop that is one launch, of so many blocks of [`THREADS`].
    pub(super) fn phase_of(analysis: &Analysis, blocks: u32) -> Option<Rows> {
        let mut rows = Rows::of(analysis)?;
        let rows_of_blocks = ROWS_OF_A_BLOCK * i64::from(blocks);
        let by_warps = assumed(&analysis.points(&rows.rows)) > rows_of_blocks && rows.inner != Inner::Warp;
        rows.team = Team { threads: if by_warps { WARP } else { i64::from(THREADS) } };
        rows.teams = i64::from(THREADS) / rows.team.threads;
        // What follows the sums takes longer than loading: all threads should have some of it, also where it has fewer
        // points than the sums.
        while let Some(extents) = rows.extents(analysis)
            && rows.lanes() > 1
            && extents.iter().any(|extent| *extent < rows.team.threads * rows.lanes())
        {
            rows.set_lanes(analysis, rows.lanes() / 2);
        }
        Some(rows)
    }

    /// Where every reduction has one value a row and is long. Who computes a row is open yet.
    fn of(analysis: &Analysis) -> Option<Rows> {
        if analysis.recurrence_axis.is_some() {
            return None;
        }
        let space = axis_set(&analysis.space_axes());
        let own = analysis.groups.iter().map(|group| group.free & space).reduce(|own, free| own & free)?;
        let (of_rows, others): (Vec<&Group>, Vec<&Group>) =
            analysis.groups.iter().partition(|group| is_of_rows(group, space, own));
        // Points that have sums of their own are for other schedules, unless reductions of the row have them, too.
        if of_rows.is_empty() || (!others.is_empty() && !others.iter().any(|group| group.nested)) {
            return None;
        }
        let inner = Inner::of(analysis, others.into_iter());
        let (rows, columns): (Vec<Axis>, Vec<Axis>) =
            analysis.space_axes().into_iter().partition(|a| own & axis_bit(*a) != 0);
        let column = columns.first().copied();
        if columns.len() > 1 {
            return None;
        }
        let bound = bound_axes(analysis, &of_rows, inner)?;
        let is_along_memory =
            inner == Inner::None && of_rows.iter().all(|group| is_along_memory(analysis, group, own));
        let mut along: Vec<Axis> = column.into_iter().chain(bound).collect();
        along.sort_unstable();
        along.dedup();
        let (team, common) = (Team { threads: WARP }, Kept::default());
        let mut rows = Rows {
            rows,
            column,
            along,
            vector: None,
            kept: 1,
            team,
            teams: 1,
            inner,
            common,
            is_along_memory,
        };
        if inner != Inner::None {
            return Some(rows);
        }
        rows.vector = Classes::of_aligned_runs(analysis, &rows.along, is_multiple).map(Rc::new);
        rows.set_lanes(analysis, rows.lanes());
        Some(rows)
    }

    /// Narrows the vectors to so many lanes, or leaves them; and sees how many a thread keeps.
    fn set_lanes(&mut self, analysis: &Analysis, lanes: i64) {
        if lanes != self.lanes() {
            self.vector =
                self.vector.take().filter(|_| lanes > 1).map(|vector| {
                    Rc::new(Classes::new(analysis, vector.axes.clone(), lanes as u8, ANY_WIDTH))
                });
        }
        self.kept = (REGISTERS / (lanes * words_a_position(analysis, &self.along))).clamp(1, MOST_KEPT);
    }

    fn lanes(&self) -> i64 {
        self.vector.as_ref().map_or(1, |vector| i64::from(vector.lanes))
    }

    /// The extents along a row, where all are known.
    fn extents(&self, analysis: &Analysis) -> Option<Vec<i64>> {
        self.along.iter().map(|axis| analysis.extent(*axis).as_constant()).collect()
    }

    /// Finds what stays in shared memory as long as a loop runs; so much of that is free.
    pub(super) fn keep(&mut self, analysis: &Analysis, counter: &Symbol, free: u32) {
        self.common =
            Kept::of(analysis, &self.along, counter, free.saturating_sub(self.shared_bytes(analysis)));
    }

    /// The loads that are of shared memory from the first step on.
    pub(super) fn kept_elements(&self) -> Vec<ElementId> {
        self.common.loads().collect()
    }

    /// Allocates the shared memory of what stays there, and fills it. The threads have not met since.
    pub(super) fn prepare(&mut self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<()> {
        self.common.prepare(emitter, numbers)
    }

    /// The bytes of shared memory that it takes.
    pub(super) fn shared_bytes(&self, analysis: &Analysis) -> u32 {
        let members = self.groups(analysis).flat_map(|group| &group.members);
        members
            .filter_map(|member| match analysis.element(*member) {
                Element::Reduce { op, body, .. } => Some((op.is_arg(), register_type(analysis.dtype(*body)))),
                _ => None,
            })
            .map(|(is_arg, lane)| self.team.shared_bytes(lane, is_arg))
            .sum::<u32>()
            .saturating_add(self.common.shared_bytes())
    }

    /// The reductions that have one value a row.
    fn groups<'a>(&self, analysis: &'a Analysis) -> impl Iterator<Item = &'a Group> + use<'a> {
        let (space, own) = (axis_set(&analysis.space_axes()), axis_set(&self.rows));
        analysis.groups.iter().filter(move |group| is_of_rows(group, space, own))
    }

    /// How blocks compute the kernel outside of loops.
    pub(super) fn mapping(&self) -> Mapping {
        Mapping::Blocks { threads: (self.team.threads * self.teams) as u32 }
    }

    /// The kernel outside of loops. Returns the number of blocks.
    pub(super) fn emit_alone(&self, emitter: &mut Emitter, numbers: Numbers) -> Emitted<Dim> {
        let rows = emitter.analysis.points(&self.rows);
        if self.teams == 1 {
            self.row(emitter, numbers, numbers.block)?;
            return Ok(rows);
        }
        let end = emitter.dimension(&rows)?;
        let teams = emitter.b.index(self.teams);
        let first = emitter.b.mul(numbers.block, teams);
        let own = self.team.number(&mut emitter.b, numbers);
        let row = emitter.b.add(first, own);
        let inside = emitter.b.compare(Condition::Lt, row, end);
        emitter.b.open_if();
        self.row(emitter, numbers, row)?;
        emitter.b.close_if(inside);
        Ok(rows.ceil_div(&Dim::constant(self.teams)))
    }

    /// The points of a row, if that is known.
    fn row_elements(&self, analysis: &Analysis) -> Option<i64> {
        self.column.map_or(Some(1), |column| analysis.extent(column).as_constant())
    }

    /// What it takes of each state that its own rows read, where the length of a row is known. Two halves where threads may
    /// look at elements that are others', those without one of their own and all of one point; otherwise a thread has loaded
    /// an element before it stores that.
    pub(super) fn own_layout(&self, analysis: &Analysis, blocks: u32) -> Option<OwnLayout> {
        let row = self.row_elements(analysis)?;
        let at_once = i64::from(blocks) * self.teams;
        let rows = analysis.points(&self.rows).as_constant();
        let passes = rows.map(|rows| ceil_div(rows, at_once));
        let are_all_own = self.inner == Inner::None
            && analysis.parts.len() == 1
            && self.column.is_some()
            && row % (self.team.threads * self.lanes()) == 0;
        let halves = if are_all_own { 1 } else { 2 };
        Some(OwnLayout::new(halves, self.teams * row, passes, ROWS_OF_A_BLOCK))
    }

    /// Whether a load is of the row that the same threads store with an access, by any name of the axis along it.
    pub(super) fn loads_own_row(&self, analysis: &Analysis, load: ElementId, store: &Access) -> bool {
        let Some(access) = analysis.loads.get(&load) else { return false };
        let along = |access: &Access| -> Vec<Axis> {
            access.position.axes().into_iter().filter(|axis| self.along.contains(axis)).collect()
        };
        let (loaded, stored) = (along(access), along(store));
        let own = axis_set(&self.rows) | axis_set(&loaded);
        let is_of_rows = analysis.free[load.index()] & !own == 0 && loaded.len() <= 1 && stored.len() <= 1;
        let column = self.column.filter(|column| stored.iter().all(|axis| axis == column));
        let same = |atom: &Atom| {
            let Atom::Axis(axis) = atom else { return None };
            let column = column.filter(|_| loaded.contains(axis))?;
            (analysis.extent(*axis) == analysis.extent(column)).then(|| Expr::atom(Atom::Axis(column)))
        };
        is_of_rows && access.position.substitute(&same) == store.position
    }

    /// The kernel at one step, by `blocks` blocks of [`THREADS`]: all rows, or those from a first one to an end.
    pub(super) fn phase(
        &self,
        emitter: &mut Emitter,
        numbers: Numbers,
        blocks: u32,
        (rows, own_states): (Option<[ValueId; 2]>, Option<OwnPhase>),
    ) -> Emitted<()> {
        let blocks = i64::from(blocks);
        self.common.apply(emitter);
        let end = match rows {
            Some([_, end]) => end,
            None => emitter.dimension(&emitter.analysis.points(&self.rows))?,
        };
        // Neighbouring rows are of other blocks, so that few rows are spread over many.
        let own = self.team.number(&mut emitter.b, numbers);
        let stride = emitter.b.index(blocks);
        let first_of_team = emitter.b.mul(own, stride);
        let mut first = emitter.b.add(first_of_team, numbers.block);
        if let Some([begin, _]) = rows {
            first = emitter.b.add(begin, first);
        }
        let element = own_states.map(|_| {
            let row = self.row_elements(emitter.analysis).unwrap_or(1);
            let row = emitter.b.index(row);
            emitter.b.mul(own, row)
        });
        let each = emitter.b.open_loop(element.as_slice(), true);
        let own_states = own_states.zip(each.current.first().copied());
        if let Some((states, element)) = own_states {
            states.place(emitter, element, axis_set(&self.along));
        }
        self.row(emitter, numbers, each.counter)?;
        if self.teams == 1 {
            // Some threads may still read what all found of this row, where others write what they have of the next.
            emitter.b.meet();
        }
        let next = own_states.map(|(states, element)| states.next_pass(&mut emitter.b, element));
        emitter.b.close_loop(each, first, end, blocks * self.teams, next.as_slice());
        emitter.forget();
        Ok(())
    }

    /// Row number `number`, by the threads of one team.
    fn row(&self, emitter: &mut Emitter, numbers: Numbers, number: ValueId) -> Emitted<()> {
        let analysis = emitter.analysis;
        let mut row = emitter.origin();
        let extents = self.rows.iter().map(|a| analysis.extent(*a));
        for (axis, value) in self.rows.iter().zip(coordinates(emitter, extents, number)?) {
            row = row.with(*axis, value);
        }
        for (at, part) in analysis.parts.iter().enumerate() {
            for group in self.groups(analysis).filter(|group| group.part == at) {
                self.reduce(emitter, group, &row, numbers)?;
            }
            self.points(emitter, part, &row, numbers)?;
        }
        Ok(())
    }

    /// Reductions that do not need each other. Afterwards every thread knows them.
    fn reduce(&self, emitter: &mut Emitter, group: &Group, row: &Point, numbers: Numbers) -> Emitted<()> {
        let analysis = emitter.analysis;
        let first = group.members.first().and_then(|member| bound_axis(analysis, *member));
        // Members have names of their own for axes of equal extents.
        let axis = first.ok_or_else(|| analysis.malformed("its reductions bind no axis"))?;
        let walk = self.walk(emitter, axis, numbers);
        let chain =
            |member: &ElementId| Ok(Chain { reduction: emitter.reduction(*member)?, point: 0, lanes: 1 });
        let chains = group.members.iter().map(chain).collect::<Emitted<Vec<Chain>>>()?;
        let lanes = self.lanes() as u8;
        let states: Vec<State> = chains.iter().map(|chain| emitter.identity(chain, lanes)).collect();
        let bound: Vec<Axis> = group.members.iter().filter_map(|m| bound_axis(analysis, *m)).collect();
        let states = walk.run(emitter, states, &mut |emitter, pieces, states| {
            let points: Vec<Point> = pieces.iter().map(|piece| self.at(row, piece.first)).collect();
            self.inner.evaluate(emitter, numbers, axis_set(&bound), axis_set(&self.rows), &points)?;
            for (piece, point) in pieces.iter().zip(&points) {
                let before = states.to_vec();
                emitter.steps(&chains, std::slice::from_ref(point), piece.first, states)?;
                piece.keep_outside(&mut emitter.b, &before, states);
            }
            Ok(())
        })?;
        let mut parts = Vec::with_capacity(chains.len());
        for (chain, state) in chains.iter().zip(states) {
            parts.push(emitter.one_lane(chain, state));
        }
        let reductions: Vec<_> = chains.iter().map(|chain| chain.reduction).collect();
        let results = self.team.join(&mut emitter.b, numbers, &reductions, parts, self.inner == Inner::Warp);
        for (chain, result) in chains.iter().zip(&results) {
            emitter.remember_result(chain, row, result);
        }
        Ok(())
    }

    /// Computes and stores the points of a part of the kernel.
    fn points(&self, emitter: &mut Emitter, part: &Part, row: &Point, numbers: Numbers) -> Emitted<()> {
        let Some(axis) = self.column else {
            let thread = self.team.member(&mut emitter.b, numbers);
            let is_first = emitter.b.compare_integer(Condition::Eq, thread, 0);
            emitter.b.open_if();
            emitter.stores(std::slice::from_ref(row), part)?;
            emitter.b.close_if(is_first);
            return Ok(());
        };
        let walk = self.walk(emitter, axis, numbers);
        walk.run(emitter, Vec::new(), &mut |emitter, pieces, _| {
            let points: Vec<Point> = pieces.iter().map(|piece| self.at(row, piece.first)).collect();
            self.inner.evaluate(emitter, numbers, axis_bit(axis), axis_set(&self.rows), &points)?;
            let is_first = (self.inner == Inner::Warp).then(|| {
                let lane = numbers.lane(&mut emitter.b);
                emitter.b.compare_integer(Condition::Eq, lane, 0)
            });
            if is_first.is_none() && pieces.iter().all(|piece| piece.inside.is_none()) {
                return emitter.stores(&points, part);
            }
            // Loads that do not wait for the branch, nor for each other.
            emitter.evaluate_stored(&points, part)?;
            let pieces: Vec<Piece> =
                pieces.iter().map(|piece| piece.of_some(&mut emitter.b, is_first)).collect();
            for (piece, point) in pieces.iter().zip(&points) {
                piece.open(&mut emitter.b);
                emitter.stores(std::slice::from_ref(point), part)?;
                piece.close(&mut emitter.b);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// A pass over the row along an axis.
    fn walk(&self, emitter: &mut Emitter, axis: Axis, numbers: Numbers) -> Walk {
        let extent = emitter.analysis.extent(axis).clone();
        let thread = self.team.member(&mut emitter.b, numbers);
        let (thread, threads) = match self.inner {
            Inner::None | Inner::Thread => (thread, self.team.threads),
            // Of a warp all lanes have the same position.
            Inner::Warp => (emitter.b.shift_right_arithmetic(thread, bits(WARP)), self.team.threads / WARP),
        };
        Walk { extent, lanes: self.lanes(), threads, thread, kept: self.kept }
    }

    /// The point of a row, or the points of a vector, from a position on.
    fn at(&self, row: &Point, first: ValueId) -> Point {
        match &self.vector {
            Some(vector) => row.with_lanes(vector, first),
            None => self.along.iter().fold(row.clone(), |point, axis| point.with(*axis, first)),
        }
    }
}

/// The axis that a reduction binds, if it is one only.
fn bound_axis(analysis: &Analysis, reduction: ElementId) -> Option<Axis> {
    match analysis.element(reduction) {
        Element::Reduce { axes, .. } => axes.first().copied().filter(|_| axes.len() == 1),
        _ => None,
    }
}

/// Whether the reductions of a group have one value a row, where rows are along these axes of the space.
fn is_of_rows(group: &Group, space: AxisSet, rows: AxisSet) -> bool {
    !group.nested && group.free & space == rows
}

/// The axes that all reductions of rows bind, if each of them binds one, a long one unless there are sums at each of its
/// positions.
fn bound_axes(analysis: &Analysis, groups: &[&Group], inner: Inner) -> Option<Vec<Axis>> {
    let is_long = |axis: &Axis| {
        inner != Inner::None || analysis.extent(*axis).as_constant().is_none_or(|n| n >= LEAST_EXTENT)
    };
    let members = groups.iter().flat_map(|group| &group.members);
    members.map(|member| bound_axis(analysis, *member).filter(is_long)).collect()
}

/// Whether the reductions of a group read rows of their own, each from its first element to its last.
fn is_along_memory(analysis: &Analysis, group: &Group, rows: AxisSet) -> bool {
    let bound: Vec<Axis> = group.members.iter().filter_map(|member| bound_axis(analysis, *member)).collect();
    let of_rows = |(id, _): &(ElementId, &Access)| analysis.free[id.index()] & rows == rows;
    let mut own = analysis.loads_along(axis_set(&bound)).filter(of_rows).peekable();
    own.peek().is_some() && own.all(|(_, access)| access.is_unit_stride(&bound))
}

/// Registers of 32 bits for what reductions read at one position of a row.
fn words_a_position(analysis: &Analysis, along: &[Axis]) -> i64 {
    let bound: Vec<Axis> = along.iter().copied().filter(|a| a.index() >= analysis.kernel.rank).collect();
    let words = |(id, access): (ElementId, &Access)| {
        (access.buffer, i64::from(register_type(analysis.dtype(id)).bytes() / 4))
    };
    let buffers: BTreeMap<_, i64> = analysis.loads_along(axis_set(&bound)).map(words).collect();
    buffers.values().sum::<i64>().max(1)
}
