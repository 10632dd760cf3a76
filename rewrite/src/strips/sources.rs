//! What is computed before a loop or a kernel for its steps alone, and may be computed for some steps at a time.

use std::collections::BTreeSet;

use fuse_ir::expr::Atom;
use fuse_ir::kernel::{BufferId, BufferKind, Coordinate, Element, Kernel, KernelGraph, Loop, Step, Store};
use fuse_ir::ops::Direction;
use fuse_ir::{Axis, Dim, Expr};

/// What runs in strips. The steps of a kernel are the points of its first axis.
#[derive(Clone, Copy)]
pub(super) enum Sink<'g> {
    Loop(&'g Loop),
    Kernel(&'g Kernel),
}

impl<'g> Sink<'g> {
    /// What a step of the program is, if it has steps itself.
    pub(super) fn of(step: &'g Step) -> Option<Self> {
        match step {
            Step::Loop(l) => Some(Sink::Loop(l)),
            Step::Kernel(kernel) => (kernel.rank > 0).then_some(Sink::Kernel(kernel)),
        }
    }

    /// The number of steps.
    pub(super) fn steps(self) -> &'g Dim {
        match self {
            Sink::Loop(l) => &l.trip,
            Sink::Kernel(kernel) => &kernel.extents[0],
        }
    }

    /// In which order the steps are taken.
    pub(super) fn direction(self) -> Direction {
        match self {
            Sink::Loop(l) => l.direction,
            Sink::Kernel(_) => Direction::Forward,
        }
    }

    /// A name for its steps.
    pub(super) fn name(self) -> &'g str {
        match self {
            Sink::Loop(l) => l.counter.name(),
            Sink::Kernel(kernel) => &kernel.name,
        }
    }

    /// Whether an expression is decided by the step, and depends on it.
    fn is_of_step(self, e: &Expr) -> bool {
        match self {
            Sink::Loop(l) => e.axes().is_empty() && e.symbols().contains(&l.counter),
            Sink::Kernel(_) => e.axes() == BTreeSet::from([Axis(0)]),
        }
    }

    /// An expression at another step.
    pub(super) fn at_step(self, e: &Expr, step: &Expr) -> Expr {
        e.substitute(&|atom| match (self, atom) {
            (Sink::Loop(l), Atom::Symbol(s)) if *s == l.counter => Some(step.clone()),
            (Sink::Kernel(_), Atom::Axis(Axis(0))) => Some(step.clone()),
            _ => None,
        })
    }

    fn kernels(self) -> Vec<&'g Kernel> {
        match self {
            Sink::Loop(l) => l.body.iter().flat_map(Step::kernels).collect(),
            Sink::Kernel(kernel) => vec![kernel],
        }
    }
}

/// A kernel before a sink with the stores that only the sink reads, at one position of each step.
pub(super) struct Source {
    /// The position of the kernel in the program.
    pub(super) step: usize,
    /// Which row of the results each step reads.
    pub(super) row: Expr,
    pub(super) stores: Vec<Store>,
}

/// What kernels before the sink at `at` compute for all of its steps, and nothing but the sink reads.
pub(super) fn sources(graph: &KernelGraph, at: usize, sink: Sink) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for (step, kernel) in graph.steps[..at].iter().enumerate() {
        let Step::Kernel(kernel) = kernel else { continue };
        let sums = kernel.elements.iter().any(|e| matches!(e.element, Element::Reduce { .. }));
        let along =
            kernel.rank > 0 && kernel.extents[0] == *sink.steps() && kernel.recurrence_axis().is_none();
        if !sums || !along {
            continue;
        }
        let rows: Option<Vec<Expr>> = kernel.stores.iter().map(|s| row_read(graph, at, sink, s)).collect();
        let Some(rows) = rows else { continue };
        for (store, row) in kernel.stores.iter().zip(rows) {
            match sources.iter_mut().find(|s| s.step == step && s.row == row) {
                Some(source) => source.stores.push(store.clone()),
                None => sources.push(Source { step, row, stores: vec![store.clone()] }),
            }
        }
    }
    sources
}

/// The row that every step reads of what a store writes, whose rows are the first axis of its kernel; `None` where others
/// read it, or steps more than one row.
fn row_read(graph: &KernelGraph, at: usize, sink: Sink, store: &Store) -> Option<Expr> {
    let buffer = store.buffer;
    let first = store.index.first()?.as_axis()?;
    let once = store.index[1..].iter().all(|e| !e.uses_axis(first));
    if first.index() != 0 || !once || graph.buffer(buffer).kind != BufferKind::Temporary {
        return None;
    }
    let elsewhere = graph.steps.iter().enumerate().filter(|(i, _)| *i != at);
    let mut kernels = elsewhere.flat_map(|(_, step)| step.kernels());
    let writes = |k: &&Kernel| k.stores.iter().any(|s| s.buffer == buffer);
    if kernels.clone().filter(writes).count() != 1 || kernels.any(|k| k.loads().contains(&buffer)) {
        return None;
    }
    let mut row = None;
    for (_, index) in sink.kernels().into_iter().flat_map(|k| loads_of(k, buffer)) {
        let Some(Coordinate::Static(e)) = index.first() else { return None };
        if !sink.is_of_step(e) || row.as_ref().is_some_and(|r| r != e) {
            return None;
        }
        row = Some(e.clone());
    }
    row
}

fn loads_of(kernel: &Kernel, buffer: BufferId) -> impl Iterator<Item = (BufferId, &[Coordinate])> {
    kernel.elements.iter().filter_map(|e| e.element.load()).filter(move |(loaded, _)| *loaded == buffer)
}

/// The rows of one step: all axes of the results but the first and the last.
pub(super) fn rows_of_a_step(graph: &KernelGraph, source: &Source) -> Option<Dim> {
    let shape = &graph.buffer(source.stores.first()?.buffer).ty.shape;
    let middle = shape.get(1..shape.len().checked_sub(1)?)?;
    Some(middle.iter().fold(Dim::constant(1), |rows, n| rows * n.clone()))
}
