//! Loops and kernels in strips: what is computed for all steps before them is computed for a few steps at a time instead.
//!
//! The product of the inputs with their weights does not need the loop, and over many rows it runs at full speed. But
//! over all steps its results fill memory: written once, read once, each time past every cache. So the loop is cut in
//! strips of as many steps as make some hundred rows: before the steps of a strip run, the product of their inputs is
//! computed, and lies in a cache when they need it. The buffer between them holds one strip. So it is with a kernel that
//! reads such products row by row: a softmax over many classes, or a recurrence that is no loop, whose state is carried
//! from strip to strip.
//!
//! Which steps a strip has depends on the dimensions, so all that changes is symbolic: with `c` steps a strip,
//! `t = c·i + j`, where `i` counts strips and `j < min(c, T - c·i)` the steps of one.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{Buffer, BufferId, Carry, Coordinate, Element, Kernel, KernelGraph, Loop, Step, Store};
use fuse_ir::{Dim, Expr};

use crate::kernel_builder::{KernelBuilder, Names};
use crate::kernel_copy::Copier;

mod sources;
mod states;

use sources::{Sink, Source, rows_of_a_step, sources};
use states::State;

/// Strips have at least this many rows, however long these are.
const LEAST_ROWS: i64 = 16;
/// Into how many parts rows are counted: `c = 1 + ⌊128·(rows - 1) / (128·B + 1)⌋` is about `⌈rows / B⌉`, and a number for a
/// batch of none too.
const ROW_PARTS: i64 = 128;

/// How strips are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StripPolicy {
    /// Rows of a strip, about: few enough for what is computed for them to stay in a cache, enough for full speed.
    pub rows: i64,
    /// The bytes that those rows may take; where they are long there are fewer.
    pub bytes: i64,
    /// The weights that a strip may read, in bytes. Where those of the sink and those of what comes before do not fit a
    /// cache together, every strip drives out what the other needs next.
    pub most_weight_bytes: i64,
    /// Rows of a strip of more weights, so many that reading these again costs little.
    pub rows_of_more: i64,
}

/// Cuts loops and kernels in strips, together with the kernels that compute what only their steps read; how many.
pub fn strip_loops(graph: &mut KernelGraph, policy: StripPolicy) -> usize {
    let mut namer = Namer::new(graph);
    let mut cut = 0;
    // Loops first: what they read is better computed for their steps than in strips of its own.
    for loops in [true, false] {
        let mut at = 0;
        while at < graph.steps.len() {
            if matches!(graph.steps[at], Step::Loop(_)) == loops
                && let Some(strip) = Strip::find(graph, at, policy, &mut namer)
            {
                at = strip.apply(graph, at);
                cut += 1;
            }
            at += 1;
        }
    }
    cut
}

/// Names that are given once.
struct Namer {
    symbols: Names,
    kernels: Names,
    buffers: Names,
}

impl Namer {
    fn new(graph: &KernelGraph) -> Self {
        let mut taken = Names::default();
        symbols(graph).iter().for_each(|symbol| drop(taken.unique(symbol.name())));
        let (kernels, buffers) = (Names::of_kernels(graph), Names::of_buffers(&graph.buffers));
        Namer { symbols: taken, kernels, buffers }
    }
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

/// How one loop or kernel is cut.
struct Strip {
    /// What takes its place: the loop over strips with what stands around it.
    steps: Vec<Step>,
    /// The buffers of the program from now on, of which some hold one strip.
    buffers: Vec<Buffer>,
    /// Kernels that are gone from before the sink.
    moved: BTreeSet<usize>,
}

/// The steps of one strip.
struct Frame {
    /// The buffers that hold one strip.
    held: BTreeSet<BufferId>,
    /// The first step.
    begin: Expr,
    /// How many there are.
    length: Dim,
    /// The symbol of a step's position in the strip.
    step: Symbol,
}

impl Strip {
    /// How to cut what stands at `at`, if anything is computed for that alone.
    fn find(graph: &KernelGraph, at: usize, policy: StripPolicy, namer: &mut Namer) -> Option<Strip> {
        let sink = Sink::of(&graph.steps[at])?;
        let sources = sources(graph, at, sink);
        let held: BTreeSet<BufferId> =
            sources.iter().flat_map(|s| s.stores.iter().map(|store| store.buffer)).collect();
        let moved: BTreeSet<usize> = sources.iter().map(|s| s.step).collect();
        let kernels = moved.iter().map(|step| &graph.steps[*step]).chain([&graph.steps[at]]);
        let weights = fixed_bytes(graph, kernels.flat_map(Step::kernels));
        let rows = rows_of_a_strip(graph, &held, policy, weights);
        let steps = steps_of_a_strip(rows, &rows_of_a_step(graph, sources.first()?)?);
        let block = Symbol::new(namer.symbols.unique(&format!("{}_strip", sink.name())));
        let begin = Expr::symbol(block.name()) * steps.clone();
        let length = steps.minimum(&(sink.steps().clone() - begin.clone()));
        let step = Symbol::new(namer.symbols.unique(&format!("{}_step", sink.name())));
        let frame = Frame { held, begin, length, step };
        let mut buffers = frame.buffers(graph, &steps.minimum(sink.steps()));
        let mut body = Vec::new();
        for source in &sources {
            let Step::Kernel(kernel) = &graph.steps[source.step] else { return None };
            let mut moved = frame.source(&buffers, kernel, source, sink)?;
            // One whose results are read at several rows is a kernel for each.
            if body.iter().flat_map(Step::kernels).any(|k| k.name == moved.name) {
                moved.name = namer.kernels.unique(&moved.name);
            }
            body.push(Step::Kernel(moved));
        }
        let Around { before, carries, after } = match sink {
            Sink::Loop(l) => {
                body.push(Step::Loop(frame.inner_loop(&buffers, l)?));
                Around::default()
            }
            Sink::Kernel(kernel) => {
                let states = State::all(kernel, &mut buffers, &mut namer.buffers);
                body.push(Step::Kernel(frame.sink(&buffers, kernel, &states)?));
                let init = states::init(&buffers, kernel, &states, &mut namer.kernels);
                let last = states::last(&buffers, kernel, &states, &mut namer.kernels);
                let carries = states.iter().map(|s| s.carry).collect();
                Around { before: init?, carries, after: last? }
            }
        };
        let trip = (sink.steps().clone() + steps.clone() - Dim::constant(1)).floor_div(&steps);
        let outer = Loop { counter: block, trip, direction: sink.direction(), carries, body };
        let outer = [Step::Loop(outer)];
        let steps = before.map(Step::Kernel).into_iter().chain(outer).chain(after.map(Step::Kernel));
        Some(Strip { steps: steps.collect(), buffers, moved })
    }

    /// Changes the program; the position of the last step that takes the sink's place.
    fn apply(self, graph: &mut KernelGraph, at: usize) -> usize {
        let Strip { steps, buffers, moved } = self;
        let last = at - moved.len() + steps.len() - 1;
        graph.buffers = buffers;
        graph.steps.splice(at..=at, steps);
        let mut position = 0;
        graph.steps.retain(|_| {
            position += 1;
            !moved.contains(&(position - 1))
        });
        last
    }
}

/// What stands around a loop over strips, and what that carries.
#[derive(Default)]
struct Around {
    before: Option<Kernel>,
    carries: Vec<Carry>,
    after: Option<Kernel>,
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

/// About how many rows a strip has that holds these buffers and reads so many bytes of weights.
fn rows_of_a_strip(graph: &KernelGraph, held: &BTreeSet<BufferId>, policy: StripPolicy, weights: i64) -> i64 {
    if weights > policy.most_weight_bytes {
        return policy.rows_of_more;
    }
    let row = |buffer: &BufferId| {
        let ty = &graph.buffer(*buffer).ty;
        let elements = ty.shape.last().and_then(Dim::as_constant).unwrap_or(1);
        elements.saturating_mul(ty.dtype.size() as i64)
    };
    let row = held.iter().map(row).fold(0, i64::saturating_add).max(1);
    policy.rows.min((policy.bytes / row).max(LEAST_ROWS))
}

/// The steps of a strip of about so many rows, of which each step has `each`.
fn steps_of_a_strip(rows: i64, each: &Dim) -> Dim {
    let parts = Dim::constant(ROW_PARTS);
    let rows = Dim::constant((rows - 1).saturating_mul(ROW_PARTS));
    rows.floor_div(&(parts * each.clone() + Dim::constant(1))) + Dim::constant(1)
}

impl Frame {
    /// The buffers of the program, of which some hold at most so many steps.
    fn buffers(&self, graph: &KernelGraph, steps: &Dim) -> Vec<Buffer> {
        let mut buffers = graph.buffers.clone();
        for buffer in &self.held {
            buffers[buffer.index()].ty.shape[0] = steps.clone();
        }
        buffers
    }

    /// The kernel of a source for one strip, of which axis 0 of the kernel counts the steps.
    fn source(&self, buffers: &[Buffer], kernel: &Kernel, source: &Source, sink: Sink) -> Option<Kernel> {
        let mut point: Vec<Expr> = (0..kernel.rank).map(Expr::axis).collect();
        point[0] = sink.at_step(&source.row, &(self.begin.clone() + Expr::axis(0)));
        let mut space = kernel.space().to_vec();
        space[0] = self.length.clone();
        self.copy(buffers, kernel, space, &point, &source.stores, HashMap::new())
    }

    /// The loop over the steps of one strip, which goes on with the states where the strip before left them.
    fn inner_loop(&self, buffers: &[Buffer], l: &Loop) -> Option<Loop> {
        let position = self.begin.clone() + Expr::symbol(self.step.name());
        let sink = Sink::Loop(l);
        let kernel = |step: &Step| {
            let Step::Kernel(kernel) = step else { return None };
            let mut kernel = kernel.clone();
            self.read_held(&mut kernel);
            let at_step = |e: &Expr| sink.at_step(e, &position);
            let space: Vec<Dim> = kernel.space().iter().map(at_step).collect();
            let point: Vec<Expr> = (0..kernel.rank).map(Expr::axis).collect();
            let mut stores = kernel.stores.clone();
            stores.iter_mut().flat_map(|s| s.index.iter_mut()).for_each(|e| *e = at_step(e));
            let symbols = HashMap::from([(l.counter.clone(), position.clone())]);
            self.copy(buffers, &kernel, space, &point, &stores, symbols).map(Step::Kernel)
        };
        let body: Option<Vec<Step>> = l.body.iter().map(kernel).collect();
        Some(Loop {
            counter: self.step.clone(),
            trip: self.length.clone(),
            direction: l.direction,
            carries: l.carries.clone(),
            body: body?,
        })
    }

    /// A kernel for the points of one strip, of which axis 0 counts the steps. Its recurrences go on from `states`.
    fn sink(&self, buffers: &[Buffer], kernel: &Kernel, states: &[State]) -> Option<Kernel> {
        let mut kernel = states::resumed(kernel, states);
        self.read_held(&mut kernel);
        let mut point: Vec<Expr> = (0..kernel.rank).map(Expr::axis).collect();
        point[0] = self.begin.clone() + Expr::axis(0);
        let mut space = kernel.space().to_vec();
        space[0] = self.length.clone();
        let mut stores = kernel.stores.clone();
        stores.iter_mut().flat_map(|s| s.index.iter_mut()).for_each(|e| *e = e.substitute_axes(&point));
        let symbols = HashMap::from([(self.step.clone(), Expr::axis(0))]);
        self.copy(buffers, &kernel, space, &point, &stores, symbols)
    }

    /// Has a kernel read what it is at a step where the strip holds it.
    fn read_held(&self, kernel: &mut Kernel) {
        for typed in &mut kernel.elements {
            if let Element::Load { buffer, index } = &mut typed.element
                && self.held.contains(buffer)
            {
                index[0] = Coordinate::Static(Expr::symbol(self.step.name()));
            }
        }
    }

    /// A kernel at other points of its space, with these stores.
    fn copy(
        &self,
        buffers: &[Buffer],
        kernel: &Kernel,
        space: Vec<Dim>,
        point: &[Expr],
        stores: &[Store],
        symbols: HashMap<Symbol, Expr>,
    ) -> Option<Kernel> {
        let inlined = HashMap::new();
        let mut builder = KernelBuilder::new(space);
        let mut copier = Copier { buffers, inlined: &inlined, symbols, used: BTreeSet::new() };
        copier.kernel_at(&mut builder, kernel, point, stores)?;
        let mut copy = builder.finish(kernel.name.clone());
        copy.ops = kernel.ops.clone();
        Some(copy)
    }
}
