//! How the threads of a row go along it: who takes which elements, and when.

use fuse_ir::expr::Dim;

use super::super::contraction::is_multiple;
use super::super::emitter::{Emitted, Emitter};
use super::super::reduction::{State, flatten, reshape};
use super::VECTORS_A_THREAD;
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, Condition, ValueId};

/// One pass over a row.
///
/// ```text
/// stretch   thread 0, thread 1, … one vector each      `kept` stretches at most, or
///           VECTORS_A_THREAD stretches an iteration    as many as there are
/// ```
pub(super) struct Walk {
    /// Elements of the row.
    pub(super) extent: Dim,
    /// Lanes of a vector, which divide the extent; a power of two.
    pub(super) lanes: i64,
    /// Threads of the row; a power of two.
    pub(super) threads: i64,
    /// The number of this thread among them.
    pub(super) thread: ValueId,
    /// Vectors that a thread keeps: as many need no loop.
    pub(super) kept: i64,
}

/// A vector of the row.
pub(super) struct Piece {
    /// Where it begins; within the row also where the thread has none.
    pub(super) first: ValueId,
    /// Whether the thread has it, where that is not sure.
    pub(super) inside: Option<ValueId>,
}

/// What is done with pieces whose loads may be in flight together, to the states so far.
type Visit<'a> = dyn FnMut(&mut Emitter, &[Piece], &mut [State]) -> Emitted<()> + 'a;

impl Walk {
    /// Visits the pieces of this thread. Returns the states behind the last one.
    pub(super) fn run(
        &self,
        emitter: &mut Emitter,
        mut states: Vec<State>,
        visit: &mut Visit,
    ) -> Emitted<Vec<State>> {
        let zero = emitter.b.index(0);
        let length = self.extent.as_constant();
        if let Some(length) = length.filter(|n| *n <= self.kept * self.stretch()) {
            let whole = length.div_euclid(self.stretch());
            let pieces = self.pieces(
                emitter,
                zero,
                whole,
                length.unsigned_abs().div_ceil(self.stretch().unsigned_abs()) as i64,
            )?;
            visit(emitter, &pieces, &mut states)?;
            return Ok(states);
        }
        let span = VECTORS_A_THREAD * self.stretch();
        let end = emitter.dimension(&self.extent)?;
        let mask = emitter.b.index(-span);
        let whole = emitter.b.and(end, mask);
        states = self.repeat(emitter, [zero, whole], true, states, visit)?;
        if !is_multiple(&self.extent, span) {
            states = self.repeat(emitter, [whole, end], false, states, visit)?;
        }
        Ok(states)
    }

    /// Elements that the threads have at once.
    fn stretch(&self) -> i64 {
        self.lanes * self.threads
    }

    /// A loop over several stretches at once, all of which are within the row or not.
    fn repeat(
        &self,
        emitter: &mut Emitter,
        [begin, end]: [ValueId; 2],
        are_whole: bool,
        states: Vec<State>,
        visit: &mut Visit,
    ) -> Emitted<Vec<State>> {
        let open = emitter.b.open_loop(&flatten(&states), false);
        emitter.guard(self.extent.symbols());
        let depth = emitter.b.depth();
        let mut next = reshape(&states, &open.current);
        let whole = if are_whole { VECTORS_A_THREAD } else { 0 };
        let pieces = self.pieces(emitter, open.counter, whole, VECTORS_A_THREAD)?;
        visit(emitter, &pieces, &mut next)?;
        emitter.set_guards_aside(depth - 1);
        let step = VECTORS_A_THREAD * self.stretch();
        Ok(reshape(&states, &emitter.b.close_loop(open, begin, end, step, &flatten(&next))))
    }

    /// The thread's pieces of `all` stretches from `begin` on, the first `whole` of which are within the row.
    fn pieces(&self, emitter: &mut Emitter, begin: ValueId, whole: i64, all: i64) -> Emitted<Vec<Piece>> {
        let end = emitter.dimension(&self.extent)?;
        let b = &mut emitter.b;
        let lanes = b.index(self.lanes);
        let (own, last) = (b.mul(self.thread, lanes), b.sub(end, lanes));
        let mut pieces = Vec::new();
        for stretch in 0..all {
            let offset = b.index(stretch * self.stretch());
            let begin = b.add(begin, offset);
            let first = b.add(begin, own);
            pieces.push(if stretch < whole {
                Piece { first, inside: None }
            } else {
                // A thread without a piece loads the last one of the row, so that none waits for a branch.
                let inside = b.compare(Condition::Le, first, last);
                Piece { first: b.binary(BinaryOp::Min, first, last), inside: Some(inside) }
            });
        }
        Ok(pieces)
    }
}

impl Piece {
    /// Where the thread does not have the piece, puts the states before it in place of those behind.
    pub(super) fn keep_outside(&self, b: &mut FunctionBuilder, before: &[State], behind: &mut [State]) {
        let Some(inside) = self.inside else { return };
        for (old, new) in before.iter().flatten().zip(behind.iter_mut().flatten()) {
            let inside = b.splat(inside, b.ty(*new).lanes);
            *new = b.select(inside, *new, *old);
        }
    }

    /// The piece where a condition holds, too, if there is one.
    pub(super) fn of_some(&self, b: &mut FunctionBuilder, condition: Option<ValueId>) -> Piece {
        let inside = match (self.inside, condition) {
            (Some(inside), Some(condition)) => Some(b.and(inside, condition)),
            (inside, condition) => inside.or(condition),
        };
        Piece { first: self.first, inside }
    }

    /// Begins what only a thread with the piece does.
    pub(super) fn open(&self, b: &mut FunctionBuilder) {
        if self.inside.is_some() {
            b.open_if();
        }
    }

    /// Ends it.
    pub(super) fn close(&self, b: &mut FunctionBuilder) {
        if let Some(inside) = self.inside {
            b.close_if(inside);
        }
    }
}
