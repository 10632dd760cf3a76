//! Loops in strips: what is computed for all steps before a loop is computed for a few steps at a time instead.
//!
//! The product of the inputs with their weights does not need the loop, and over many rows it runs at full speed. But
//! over all steps its results fill memory: written once, read once, each time past every cache. So the loop is cut in
//! strips of as many steps as make some hundred rows: before the steps of a strip run, the product of their inputs is
//! computed, and lies in a cache when they need it. The buffer between them holds one strip.
//!
//! Which steps a strip has depends on the dimensions, so all that changes is symbolic: with `c` steps a strip,
//! `t = c·i + j`, where `i` counts strips and `j < min(c, T - c·i)` the steps of one.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Coordinate, Element, Kernel, KernelGraph, Loop, Step, Store,
};
use fuse_ir::{Dim, Expr};

use crate::kernel_builder::{KernelBuilder, Names};
use crate::kernel_copy::Copier;

/// How strips are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StripPolicy {
    /// Rows of a strip, about: few enough for what is computed for them to stay in a cache, enough for full speed.
    pub rows: i64,
    /// The weights that a strip may read, in bytes. Where those of the loop and those of what comes before do not fit a
    /// cache together, every strip drives out what the other needs next.
    pub most_weight_bytes: i64,
}

/// Cuts loops in strips, together with the kernels that compute what only their steps read; how many loops.
pub fn strip_loops(graph: &mut KernelGraph, policy: StripPolicy) -> usize {
    let mut names = Names::default();
    for symbol in symbols(graph) {
        names.unique(symbol.name());
    }
    let mut kernel_names = Names::default();
    graph.kernels().iter().for_each(|(kernel, _)| drop(kernel_names.unique(&kernel.name)));
    let mut cut = 0;
    let mut at = 0;
    while at < graph.steps.len() {
        if let Some(strip) = Strip::find(graph, at, policy, (&mut names, &mut kernel_names)) {
            at -= strip.apply(graph, at);
            cut += 1;
        }
        at += 1;
    }
    cut
}

/// Every symbol of the program.
fn symbols(graph: &KernelGraph) -> BTreeSet<Symbol> {
    fn of_steps(steps: &[Step], out: &mut BTreeSet<Symbol>) {
        for step in steps {
            match step {
                Step::Kernel(kernel) => out.extend(kernel.symbols()),
                Step::Loop(l) => {
                    out.insert(l.counter.clone());
                    out.extend(l.trip.symbols());
                    of_steps(&l.body, out);
                }
            }
        }
    }
    let shapes = graph.buffers.iter().flat_map(|b| b.ty.shape.iter());
    let mut out: BTreeSet<Symbol> = shapes.flat_map(Expr::symbols).collect();
    of_steps(&graph.steps, &mut out);
    out
}

/// A kernel before a loop with the stores that only the loop reads, at one position of each step.
struct Source {
    /// The position of the kernel in the program.
    step: usize,
    /// Which row of the results each step reads.
    row: Expr,
    stores: Vec<Store>,
}

/// How one loop is cut.
struct Strip {
    /// The loop over strips.
    outer: Loop,
    /// The buffers that hold one strip from now on.
    held: BTreeSet<BufferId>,
    /// Steps of a strip.
    steps: Dim,
    /// Kernels that are gone from before the loop.
    moved: BTreeSet<usize>,
}

impl Strip {
    /// How to cut the loop at `at`, if there is such a loop and anything is computed for it alone.
    fn find(
        graph: &KernelGraph,
        at: usize,
        policy: StripPolicy,
        (names, kernel_names): (&mut Names, &mut Names),
    ) -> Option<Strip> {
        let Step::Loop(l) = &graph.steps[at] else { return None };
        let sources = sources(graph, at, l);
        let held: BTreeSet<BufferId> =
            sources.iter().flat_map(|s| s.stores.iter().map(|store| store.buffer)).collect();
        let first = sources.first()?;
        let moved: BTreeSet<usize> = sources.iter().map(|s| s.step).collect();
        let kernels = moved.iter().map(|step| &graph.steps[*step]).chain([&graph.steps[at]]);
        if fixed_bytes(graph, kernels.flat_map(Step::kernels)) > policy.most_weight_bytes {
            return None;
        }
        let each = rows_of_a_step(graph, first)?;
        let steps = Dim::constant(policy.rows).floor_div(&(each + Dim::constant(1))) + Dim::constant(1);
        let block = Symbol::new(names.unique(&format!("{}_strip", l.counter.name())));
        let step = Symbol::new(names.unique(&format!("{}_step", l.counter.name())));
        let begin = Expr::symbol(block.name()) * steps.clone();
        let length = steps.minimum(&(l.trip.clone() - begin.clone()));
        let position = begin + Expr::symbol(step.name());
        let buffers = held_buffers(graph, &held, &steps);
        let mut body = Vec::new();
        for source in &sources {
            let Step::Kernel(kernel) = &graph.steps[source.step] else { return None };
            let first = Expr::symbol(block.name()) * steps.clone() + Expr::axis(0);
            let row = at_step(&source.row, &l.counter, &first);
            let mut moved = moved_kernel(&buffers, kernel, source, row, &length)?;
            // One whose results are read at several rows is a kernel for each.
            if body.iter().flat_map(Step::kernels).any(|k| k.name == moved.name) {
                moved.name = kernel_names.unique(&moved.name);
            }
            body.push(Step::Kernel(moved));
        }
        let inner: Option<Vec<Step>> = l
            .body
            .iter()
            .map(|s| match s {
                Step::Kernel(k) => step_kernel(&buffers, k, &held, l, &position, &step).map(Step::Kernel),
                Step::Loop(_) => None,
            })
            .collect();
        let (direction, carries) = (l.direction, l.carries.clone());
        body.push(Step::Loop(Loop { counter: step, trip: length, direction, carries, body: inner? }));
        let trip = (l.trip.clone() + steps.clone() - Dim::constant(1)).floor_div(&steps);
        Some(Strip {
            outer: Loop { counter: block, trip, direction, carries: Vec::new(), body },
            held,
            steps,
            moved,
        })
    }

    /// Changes the program; how many steps before the loop are gone.
    fn apply(self, graph: &mut KernelGraph, at: usize) -> usize {
        let Strip { outer, held, steps, moved } = self;
        graph.buffers = held_buffers(graph, &held, &steps);
        graph.steps[at] = Step::Loop(outer);
        let mut position = 0;
        graph.steps.retain(|_| {
            position += 1;
            !moved.contains(&(position - 1))
        });
        moved.len()
    }
}

/// The bytes of what kernels read whose size no dimension decides, weights first of all.
fn fixed_bytes<'k>(graph: &KernelGraph, kernels: impl Iterator<Item = &'k Kernel>) -> i64 {
    let read: BTreeSet<BufferId> = kernels.flat_map(Kernel::loads).collect();
    let bytes = |buffer: &BufferId| {
        let ty = &graph.buffer(*buffer).ty;
        let extents: Option<Vec<i64>> = ty.shape.iter().map(Dim::as_constant).collect();
        extents?.into_iter().try_fold(ty.dtype.size() as i64, i64::checked_mul)
    };
    read.iter().filter_map(bytes).fold(0, i64::saturating_add)
}

/// The buffers, of which some hold one strip.
fn held_buffers(graph: &KernelGraph, held: &BTreeSet<BufferId>, steps: &Dim) -> Vec<Buffer> {
    let mut buffers = graph.buffers.clone();
    for buffer in held {
        buffers[buffer.index()].ty.shape[0] = steps.clone();
    }
    buffers
}

/// What kernels before the loop compute for all of its steps, and nothing but its steps reads.
fn sources(graph: &KernelGraph, at: usize, l: &Loop) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for (step, kernel) in graph.steps[..at].iter().enumerate() {
        let Step::Kernel(kernel) = kernel else { continue };
        let sums = kernel.elements.iter().any(|e| matches!(e.element, Element::Reduce { .. }));
        let along = kernel.rank > 0 && kernel.extents[0] == l.trip && kernel.recurrence_axis().is_none();
        if !sums || !along {
            continue;
        }
        let rows: Option<Vec<Expr>> = kernel.stores.iter().map(|s| row_read(graph, at, l, s)).collect();
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
fn row_read(graph: &KernelGraph, at: usize, l: &Loop, store: &Store) -> Option<Expr> {
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
    for kernel in l.body.iter().flat_map(Step::kernels) {
        for typed in &kernel.elements {
            let Element::Load { buffer: loaded, index } = &typed.element else { continue };
            if *loaded != buffer {
                continue;
            }
            let Some(Coordinate::Static(e)) = index.first() else { return None };
            let of_step = e.axes().is_empty() && e.symbols().contains(&l.counter);
            if !of_step || row.as_ref().is_some_and(|r| r != e) {
                return None;
            }
            row = Some(e.clone());
        }
    }
    row
}

/// The rows of one step: all axes of the results but the first and the last.
fn rows_of_a_step(graph: &KernelGraph, source: &Source) -> Option<Dim> {
    let shape = &graph.buffer(source.stores.first()?.buffer).ty.shape;
    let middle = shape.get(1..shape.len().checked_sub(1)?)?;
    Some(middle.iter().fold(Dim::constant(1), |rows, n| rows * n.clone()))
}

/// The kernel of a source for the rows of one strip, of which axis 0 of the kernel counts the steps.
fn moved_kernel(
    buffers: &[Buffer],
    kernel: &Kernel,
    source: &Source,
    row: Expr,
    length: &Dim,
) -> Option<Kernel> {
    let mut space = kernel.space().to_vec();
    space[0] = length.clone();
    let mut builder = KernelBuilder::new(space);
    let mut point: Vec<Expr> = (0..kernel.rank).map(Expr::axis).collect();
    point[0] = row;
    let (inlined, symbols, used) = (HashMap::new(), HashMap::new(), BTreeSet::new());
    let mut copier = Copier { buffers, inlined: &inlined, symbols, used };
    copier.kernel_at(&mut builder, kernel, &point, &source.stores)?;
    let mut moved = builder.finish(kernel.name.clone());
    moved.ops = kernel.ops.clone();
    Some(moved)
}

/// A kernel of a step, at the position of a step of a strip.
fn step_kernel(
    buffers: &[Buffer],
    kernel: &Kernel,
    held: &BTreeSet<BufferId>,
    l: &Loop,
    position: &Expr,
    step: &Symbol,
) -> Option<Kernel> {
    let mut kernel = kernel.clone();
    for typed in &mut kernel.elements {
        if let Element::Load { buffer, index } = &mut typed.element
            && held.contains(buffer)
        {
            index[0] = Coordinate::Static(Expr::symbol(step.name()));
        }
    }
    let symbols = HashMap::from([(l.counter.clone(), position.clone())]);
    let inlined = HashMap::new();
    let mut copier = Copier { buffers, inlined: &inlined, symbols, used: BTreeSet::new() };
    let space = kernel.space().iter().map(|n| at_step(n, &l.counter, position)).collect();
    let mut builder = KernelBuilder::new(space);
    copier.kernel(&mut builder, &kernel)?;
    let mut copy = builder.finish(kernel.name.clone());
    copy.ops = kernel.ops.clone();
    Some(copy)
}

/// An expression at a value of a counter.
fn at_step(e: &Expr, counter: &Symbol, value: &Expr) -> Expr {
    e.substitute(&|atom| match atom {
        fuse_ir::expr::Atom::Symbol(s) if s == counter => Some(value.clone()),
        _ => None,
    })
}
