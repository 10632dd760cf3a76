//! Fewer steps where fewer are read.
//!
//! What is stored for later kernels and of which they read the first rows alone need not be computed beyond
//! them: a loop whose final states nobody reads runs as many steps as are read of its histories, and what was
//! projected for the steps that are left out is not projected. This is decided on the kernels, last first, where
//! every read is written down.

use std::collections::BTreeMap;

use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::kernel::{BufferId, BufferKind, Coordinate, Element, Kernel, KernelGraph, Loop, Step};
use fuse_ir::{Dim, Expr};

/// Lets loops and kernels compute what is read, and no more.
pub fn compute_what_is_read(graph: &mut KernelGraph) {
    let mut demand = Demand { reads: BTreeMap::new(), counters: Vec::new() };
    let kinds: Vec<(BufferKind, Vec<Dim>)> =
        graph.buffers.iter().map(|b| (b.kind, b.ty.shape.clone())).collect();
    let mut steps = std::mem::take(&mut graph.steps);
    demand.steps(&kinds, &mut steps);
    graph.steps = steps;
}

struct Demand {
    /// For each buffer and axis one past the last position that is read later; `None` where that is not known.
    /// Buffers that are not read do not appear.
    reads: BTreeMap<BufferId, Vec<Option<Expr>>>,
    /// The counters of the loops around, with their trip counts.
    counters: Vec<(Symbol, Dim)>,
}

impl Demand {
    fn steps(&mut self, buffers: &[(BufferKind, Vec<Dim>)], steps: &mut [Step]) {
        for step in steps.iter_mut().rev() {
            match step {
                Step::Kernel(kernel) => {
                    // In a loop a kernel may write for the next step, and for readers before it.
                    if self.counters.is_empty() {
                        self.shrink(buffers, kernel);
                    }
                    self.note(kernel);
                }
                Step::Loop(l) => {
                    if self.counters.is_empty()
                        && let Some(trip) = self.trip(buffers, l)
                    {
                        l.trip = fewer(&l.trip, &trip);
                    }
                    self.counters.push((l.counter.clone(), l.trip.clone()));
                    self.steps(buffers, &mut l.body);
                    self.counters.pop();
                }
            }
        }
    }

    /// One past the last position that is read of what is stored at `index` along the axis where that is `at`;
    /// `None` where everything counts.
    fn read_along(
        &self,
        buffers: &[(BufferKind, Vec<Dim>)],
        store: (BufferId, &[Expr]),
        at: &Expr,
    ) -> Option<Expr> {
        let (buffer, index) = store;
        if buffers[buffer.index()].0 != BufferKind::Temporary {
            return None;
        }
        let mut axes = (0..index.len()).filter(|i| index[*i] == *at);
        let (axis, more) = (axes.next()?, axes.next());
        match self.reads.get(&buffer) {
            _ if more.is_some() => None,
            Some(reads) => reads[axis].clone(),
            None => Some(Expr::constant(0)),
        }
    }

    /// The most of several demands, where all are known.
    fn most(demands: impl Iterator<Item = Option<Expr>>) -> Option<Expr> {
        let mut most: Option<Expr> = None;
        for demand in demands {
            let demand = demand?;
            most = Some(match most {
                None => demand,
                Some(other) => other.maximum(&demand),
            });
        }
        most
    }

    /// The steps of a loop that are read later; `None` where all may be.
    fn trip(&self, buffers: &[(BufferKind, Vec<Dim>)], l: &Loop) -> Option<Expr> {
        // The final states are those after the last step.
        if l.carries.iter().any(|c| self.reads.contains_key(&c.current)) {
            return None;
        }
        let counter = Expr::symbol(l.counter.name());
        let mut stores = Vec::new();
        collect_stores(&l.body, &mut stores);
        let states: Vec<BufferId> = l.carries.iter().map(|c| c.next).collect();
        let read = |b: &BufferId| self.reads.contains_key(b) || buffers[b.index()].0 != BufferKind::Temporary;
        let stores = stores.iter().filter(|(b, _)| !states.contains(b) && read(b));
        Self::most(stores.map(|(b, index)| self.read_along(buffers, (*b, index), &counter)))
    }

    /// Leaves out the points of a kernel that nothing reads.
    fn shrink(&self, buffers: &[(BufferKind, Vec<Dim>)], kernel: &mut Kernel) {
        if kernel.elements.iter().any(|e| matches!(e.element, Element::Recurrence { .. })) {
            return;
        }
        for a in 0..kernel.rank {
            let axis = Expr::axis(a);
            let stores = kernel.stores.iter();
            let needed = Self::most(stores.map(|s| self.read_along(buffers, (s.buffer, &s.index), &axis)));
            if let Some(needed) = needed {
                kernel.extents[a] = fewer(&kernel.extents[a], &needed);
            }
        }
    }

    /// Notes what a kernel reads.
    fn note(&mut self, kernel: &Kernel) {
        for element in &kernel.elements {
            let Element::Load { buffer, index } = &element.element else { continue };
            let read: Vec<Option<Expr>> = index.iter().map(|c| self.end(kernel, c)).collect();
            let merged = match self.reads.remove(buffer) {
                None => read,
                Some(known) => known.into_iter().zip(read).map(|(a, b)| Some(a?.maximum(&b?))).collect(),
            };
            self.reads.insert(*buffer, merged);
        }
    }

    /// One past the largest value of a coordinate.
    fn end(&self, kernel: &Kernel, coordinate: &Coordinate) -> Option<Expr> {
        let Coordinate::Static(e) = coordinate else { return None };
        let mut greatest = e.upper_bound(&kernel.extents)?;
        for (counter, trip) in self.counters.iter().rev() {
            let last = trip.clone() - Expr::constant(1);
            let own = Expr::symbol(counter.name());
            if greatest == own {
                greatest = last;
            } else if greatest.symbols().contains(counter) {
                return None;
            }
        }
        Some(greatest + Expr::constant(1))
    }
}

/// The less of an extent and what is needed of it, which may be bounded by the extent already.
fn fewer(extent: &Dim, needed: &Expr) -> Dim {
    let mut bounded = false;
    needed.visit_atoms(&mut |atom| {
        if let Atom::Min(a, b) = atom {
            bounded |= (**a == *extent || **b == *extent) && a.minimum(b) == *needed;
        }
    });
    if bounded {
        return needed.clone();
    }
    // Of every second of no elements, one less than none would be needed.
    let needed = if needed.is_nonnegative(&[]) { needed.clone() } else { needed.maximum(&Expr::constant(0)) };
    extent.minimum(&needed)
}

fn collect_stores(steps: &[Step], out: &mut Vec<(BufferId, Vec<Expr>)>) {
    for step in steps {
        match step {
            Step::Kernel(kernel) => {
                out.extend(kernel.stores.iter().map(|s| (s.buffer, s.index.to_vec())));
            }
            Step::Loop(l) => collect_stores(&l.body, out),
        }
    }
}
