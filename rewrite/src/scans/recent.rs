//! Only the last steps of a history, where only those are read.
//!
//! A loop that stacks a value of every step needs memory for all of them. Where what follows reads the last k alone,
//! k rows are enough: every step before those writes the first row, which the first step that counts overwrites.
//! Like [`demand`](super::demand) this is decided on the kernels, where every read is written down.

use std::collections::BTreeMap;

use fuse_ir::expr::Atom;
use fuse_ir::kernel::{BufferId, BufferKind, Coordinate, Element, Kernel, KernelGraph, Step};
use fuse_ir::{Dim, Expr};

use crate::extract::cost::assumed;

/// The name of the rule.
pub const NAME: &str = "recent-steps";

/// At most this part of the steps must be read: clamping an index costs something too.
const LARGEST_PART: f64 = 0.5;

/// Gives histories of which the last steps alone are read memory for those.
pub fn keep_recent_steps(graph: &mut KernelGraph) {
    let mut uses = Uses::default();
    uses.collect(&graph.steps, &[]);
    let temporary = |b: &BufferId| graph.buffers[b.index()].kind == BufferKind::Temporary;
    let histories: BTreeMap<BufferId, History> =
        uses.0.iter().filter(|(b, _)| temporary(b)).fold(BTreeMap::new(), |mut found, (buffer, uses)| {
            found.extend(uses.history(&graph.buffers[buffer.index()].ty.shape).map(|h| (*buffer, h)));
            found
        });
    for (buffer, history) in &histories {
        graph.buffers[buffer.index()].ty.shape[history.axis] = history.rows.clone();
    }
    shift(&mut graph.steps, &histories);
}

/// A loop's value of every step, of which the last ones are read.
struct History {
    /// The axis of the steps.
    axis: usize,
    /// The first step that is read; steps before it are negative to it.
    first: Expr,
    /// How many steps there are from that on.
    rows: Dim,
}

/// A loop around a kernel: its counter and trip count.
type Around = (Expr, Dim);

/// How a buffer is used.
#[derive(Default)]
struct BufferUses {
    /// The indices it is stored at, and the loops around.
    stores: Vec<(Vec<Expr>, Vec<Around>)>,
    /// The indices it is loaded from, with the extents of the kernel; `None` inside loops.
    loads: Vec<Option<(Vec<Coordinate>, Vec<Dim>)>>,
}

#[derive(Default)]
struct Uses(BTreeMap<BufferId, BufferUses>);

impl Uses {
    fn collect(&mut self, steps: &[Step], around: &[Around]) {
        for step in steps {
            match step {
                Step::Kernel(kernel) => self.kernel(kernel, around),
                Step::Loop(l) => {
                    let counter = (Expr::symbol(l.counter.name()), l.trip.clone());
                    let around: Vec<_> = around.iter().cloned().chain([counter]).collect();
                    self.collect(&l.body, &around);
                }
            }
        }
    }

    fn kernel(&mut self, kernel: &Kernel, around: &[Around]) {
        for store in &kernel.stores {
            let uses = self.0.entry(store.buffer).or_default();
            uses.stores.push((store.index.to_vec(), around.to_vec()));
        }
        for element in &kernel.elements {
            if let Element::Load { buffer, index } = &element.element {
                let load = around.is_empty().then(|| (index.to_vec(), kernel.extents.clone()));
                self.0.entry(*buffer).or_default().loads.push(load);
            }
        }
    }
}

impl BufferUses {
    /// The history that a buffer of this shape is, if only its last steps are read.
    fn history(&self, shape: &[Dim]) -> Option<History> {
        let [(index, around)] = &self.stores[..] else { return None };
        let [(counter, trip)] = &around[..] else { return None };
        let counts = |e: &Expr| e.symbols().iter().any(|s| Expr::symbol(s.name()) == *counter);
        let axis = index.iter().position(|e| e == counter)?;
        let alone = index.iter().filter(|e| counts(e)).count() == 1;
        if !alone || shape[axis] != *trip {
            return None;
        }
        let mut first: Option<Expr> = None;
        for load in &self.loads {
            let (index, extents) = load.as_ref()?;
            let Coordinate::Static(position) = &index[axis] else { return None };
            let least = least(position, extents)?;
            first = Some(first.map_or_else(|| least.clone(), |f| f.minimum(&least)));
        }
        let first = first?;
        let rows = trip.clone() - first.clone();
        let (first, rows) = match first.is_nonnegative(&[]) {
            true => (first, rows),
            // Where there are fewer steps than are read, there is none before the first.
            false => (first.maximum(&Expr::constant(0)), rows.minimum(trip)),
        };
        (assumed(&rows) <= LARGEST_PART * assumed(trip)).then_some(History { axis, first, rows })
    }
}

/// The least value of a coordinate: of what clamps it at the bound, otherwise at the beginning of all axes or at
/// their end.
fn least(coordinate: &Expr, extents: &[Dim]) -> Option<Expr> {
    let mut terms = coordinate.terms();
    if let (Some(([atom], 1)), None) = (terms.next(), terms.next()) {
        match atom {
            Atom::Min(a, b) => return Some(least(a, extents)?.minimum(&least(b, extents)?)),
            Atom::Max(a, b) => return Some(least(a, extents)?.maximum(&least(b, extents)?)),
            Atom::Axis(_) | Atom::Symbol(_) | Atom::FloorDiv(..) | Atom::Mod(..) => {}
        }
    }
    let begin = vec![Expr::constant(0); extents.len()];
    let end: Vec<Expr> = extents.iter().map(|n| n.clone() - Expr::constant(1)).collect();
    let corners = [begin, end].map(|corner| coordinate.substitute_axes(&corner));
    corners.into_iter().find(|least| (coordinate.clone() - least.clone()).is_nonnegative(extents))
}

/// Counts the steps of histories from the first that is read.
fn shift(steps: &mut [Step], histories: &BTreeMap<BufferId, History>) {
    for step in steps {
        match step {
            Step::Kernel(kernel) => {
                for store in &mut kernel.stores {
                    if let Some(history) = histories.get(&store.buffer) {
                        let row = store.index[history.axis].clone() - history.first.clone();
                        store.index[history.axis] = row.maximum(&Expr::constant(0));
                    }
                }
                for element in &mut kernel.elements {
                    if let Element::Load { buffer, index } = &mut element.element
                        && let Some(history) = histories.get(buffer)
                        && let Coordinate::Static(position) = &mut index[history.axis]
                    {
                        *position = position.clone() - history.first.clone();
                    }
                }
            }
            Step::Loop(l) => shift(&mut l.body, histories),
        }
    }
}
