//! An independent check of a memory plan: runs the program on paper.
//!
//! It shares nothing with the planner but the plan itself: no program points, no live intervals. It executes
//! the steps with every loop cut to a few iterations, follows which block of the arena each name means
//! while the halves of states trade places, and notes for every block who wrote what it holds. A load of a
//! block that something else has written over since is a conflict, as is a load of one never written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use fuse_ir::expr::{Dim, DimEnv, Expr, Symbol};
use fuse_ir::kernel::{BufferId, BufferKind, Kernel, KernelGraph, Loop, Step, Store};

use crate::plan::{ALIGNMENT, MemoryPlan};

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A buffer that the program uses has no place.
    #[error("kernel `{kernel}` uses `{buffer}`, which has no place")]
    NoPlace {
        /// The kernel.
        kernel: String,
        /// The buffer.
        buffer: String,
    },
    /// A block is misaligned, too small, or past the arena's end.
    #[error("`{buffer}` is misaligned, too small or outside the arena")]
    Outside {
        /// The buffer.
        buffer: String,
    },
    /// A kernel reads what nobody wrote.
    #[error("kernel `{kernel}` reads `{buffer}` before anything is written there")]
    Unwritten {
        /// The kernel.
        kernel: String,
        /// The buffer.
        buffer: String,
    },
    /// A kernel reads what another buffer has overwritten.
    #[error("kernel `{kernel}` reads `{buffer}` after `{by}` was written over it")]
    Overwritten {
        /// The kernel.
        kernel: String,
        /// The buffer.
        buffer: String,
        /// What was written over it.
        by: String,
    },
    /// A kernel writes a block that it reads.
    #[error("kernel `{kernel}` writes `{buffer}` over `{read}`, which it reads")]
    InPlace {
        /// The kernel.
        kernel: String,
        /// The buffer written.
        buffer: String,
        /// The buffer read.
        read: String,
    },
}

/// Checks a plan of `graph` against the program.
///
/// # Errors
/// The first conflict.
pub fn check(graph: &KernelGraph, plan: &MemoryPlan) -> Result<(), Conflict> {
    let mut blocks = BTreeMap::new();
    for placement in &plan.placements {
        let buffer = placement.buffer.index();
        let end = placement.offset.checked_add(plan.buffer_bytes[buffer]);
        let inside = end.is_some_and(|end| end <= plan.arena_bytes);
        if !inside || placement.offset % ALIGNMENT != 0 {
            return Err(Conflict::Outside { buffer: placement.name.clone() });
        }
        blocks.insert(buffer, (placement.offset, placement.offset + plan.buffer_bytes[buffer]));
    }
    let mut paper = Paper {
        graph,
        blocks,
        dims: plan.dims.clone(),
        home: (0..graph.buffers.len()).collect(),
        pieces: vec![BTreeMap::new(); graph.buffers.len()],
        counters: Vec::new(),
    };
    paper.steps(&graph.steps)
}

/// What became of a piece of a block.
#[derive(Clone, Debug)]
enum Piece {
    Whole,
    OverwrittenBy(usize),
}

struct Paper<'a> {
    graph: &'a KernelGraph,
    /// Begin and end of each block in the arena.
    blocks: BTreeMap<usize, (u64, u64)>,
    dims: DimEnv,
    /// The block that each buffer's name means now.
    home: Vec<usize>,
    /// For each block, the stores (by kernel and index) that filled it.
    pieces: Vec<BTreeMap<(String, usize), Piece>>,
    counters: Vec<Symbol>,
}

impl Paper<'_> {
    fn steps(&mut self, steps: &[Step]) -> Result<(), Conflict> {
        for step in steps {
            match step {
                Step::Kernel(kernel) => self.kernel(kernel)?,
                Step::Loop(l) => self.repeated(l)?,
            }
        }
        Ok(())
    }

    fn repeated(&mut self, l: &Loop) -> Result<(), Conflict> {
        let trip = l.trip.eval_dim(&self.dims).unwrap_or(0);
        // Three or four iterations, odd as the trip is odd, show every pattern of two halves.
        let trip = if trip > 4 { 3 + (trip + 1) % 2 } else { trip };
        self.counters.push(l.counter.clone());
        for step in 0..trip {
            self.dims.set(l.counter.clone(), step);
            if step == 0 {
                // Slices stored along this counter start anew.
                self.forget_slices(&l.body, &l.counter);
            }
            self.steps(&l.body)?;
            for carry in &l.carries {
                self.home.swap(carry.current.index(), carry.next.index());
            }
        }
        self.counters.pop();
        Ok(())
    }

    fn forget_slices(&mut self, body: &[Step], counter: &Symbol) {
        for step in body {
            match step {
                Step::Kernel(kernel) => {
                    for (i, store) in kernel.stores.iter().enumerate() {
                        if store.index.iter().any(|e| e.symbols().contains(counter)) {
                            let block = self.home[store.buffer.index()];
                            self.pieces[block].remove(&(kernel.name.clone(), i));
                        }
                    }
                }
                Step::Loop(inner) => self.forget_slices(&inner.body, counter),
            }
        }
    }

    fn name(&self, buffer: usize) -> String {
        self.graph.buffers[buffer].name.clone()
    }

    fn in_arena(&self, buffer: BufferId) -> bool {
        matches!(self.graph.buffer(buffer).kind, BufferKind::Temporary | BufferKind::State)
    }

    fn is_empty(&self, buffer: BufferId) -> bool {
        self.graph.buffer(buffer).ty.shape.iter().any(|d| d.eval_dim(&self.dims) == Ok(0))
    }

    /// Whether there are points at which a store happens; that of a final state needs none along its recurrence.
    fn happens(&self, kernel: &Kernel, store: &Store) -> bool {
        let along = kernel.recurrence_axis().filter(|_| kernel.is_final(store));
        let counts = |(i, _): &(usize, &Dim)| along.is_none_or(|axis| axis.index() != *i);
        !kernel.space().iter().enumerate().filter(counts).any(|(_, d)| d.eval_dim(&self.dims) == Ok(0))
    }

    fn kernel(&mut self, kernel: &Kernel) -> Result<(), Conflict> {
        if !kernel.stores.iter().any(|store| self.happens(kernel, store)) {
            return Ok(());
        }
        let loads = kernel.loads();
        for buffer in loads.iter().copied().filter(|b| self.in_arena(*b)) {
            self.load(kernel, buffer)?;
        }
        for (i, store) in kernel.stores.iter().enumerate() {
            if self.in_arena(store.buffer) && self.happens(kernel, store) {
                self.store(kernel, i, store.buffer, &loads)?;
                self.note_piece(kernel, i);
            }
        }
        Ok(())
    }

    fn note_piece(&mut self, kernel: &Kernel, at: usize) {
        let store = &kernel.stores[at];
        let partial = store.index.iter().flat_map(Expr::symbols).any(|s| self.counters.contains(&s));
        let piece = (kernel.name.clone(), at);
        let pieces = &mut self.pieces[self.home[store.buffer.index()]];
        if self.graph.buffer(store.buffer).kind == BufferKind::State && !partial {
            // Whoever wrote the state before, it is replaced whole.
            pieces.clear();
        }
        // One more slice does not bring back the slices that were lost.
        if !(partial && matches!(pieces.get(&piece), Some(Piece::OverwrittenBy(_)))) {
            pieces.insert(piece, Piece::Whole);
        }
    }

    fn load(&self, kernel: &Kernel, buffer: BufferId) -> Result<(), Conflict> {
        let block = self.home[buffer.index()];
        let (kernel, name) = (kernel.name.clone(), self.name(buffer.index()));
        if !self.blocks.contains_key(&block) {
            return Err(Conflict::NoPlace { kernel, buffer: name });
        }
        if self.is_empty(buffer) {
            return Ok(());
        }
        if self.pieces[block].is_empty() {
            return Err(Conflict::Unwritten { kernel, buffer: name });
        }
        for piece in self.pieces[block].values() {
            if let Piece::OverwrittenBy(by) = piece {
                return Err(Conflict::Overwritten { kernel, buffer: name, by: self.name(*by) });
            }
        }
        Ok(())
    }

    fn store(
        &mut self,
        kernel: &Kernel,
        at: usize,
        buffer: BufferId,
        loads: &BTreeSet<BufferId>,
    ) -> Result<(), Conflict> {
        let block = self.home[buffer.index()];
        let Some(&(begin, end)) = self.blocks.get(&block) else {
            let (kernel, buffer) = (kernel.name.clone(), self.name(buffer.index()));
            return Err(Conflict::NoPlace { kernel, buffer });
        };
        let shares = |other: &usize| {
            *other != block && self.blocks.get(other).is_some_and(|(b, e)| *b < end && begin < *e)
        };
        let others_stored = kernel.stores.iter().enumerate().filter(|(i, _)| *i != at);
        let beside = loads.iter().copied().chain(others_stored.map(|(_, s)| s.buffer));
        for other in beside.filter(|b| self.in_arena(*b)) {
            let home = self.home[other.index()];
            if shares(&home) || (home == block && loads.contains(&other)) {
                let (kernel, buffer) = (kernel.name.clone(), self.name(buffer.index()));
                return Err(Conflict::InPlace { kernel, buffer, read: self.name(other.index()) });
            }
        }
        let overwritten: Vec<usize> = (0..self.pieces.len()).filter(shares).collect();
        for other in overwritten {
            for piece in self.pieces[other].values_mut() {
                *piece = Piece::OverwrittenBy(buffer.index());
            }
        }
        Ok(())
    }
}
