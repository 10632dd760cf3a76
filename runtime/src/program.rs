//! A kernel graph made ready to run: names resolved to positions once, so that a step of a loop does no
//! lookups, allocations or locks. One walk over the steps drives every device ([`walk`], [`StepRunner`]).

use std::collections::{BTreeSet, HashMap};

use fuse_codegen::kernel_ir::{Access, Function, Mapping};
use fuse_codegen::schedule::resident_name;
use fuse_ir::expr::{Atom, Dim, DimEnv, EvalError, Expr, Symbol};
use fuse_ir::kernel::{BufferKind, Coordinate, Element, Kernel, KernelGraph, Loop, Step};
use fuse_ir::ops::Direction;

use crate::error::{BuildError, RunError};

/// A launch of one compiled function.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The kernel's name.
    pub name: String,
    /// The position of the function in the compiled module.
    pub function: usize,
    /// The buffers it is given, by position in the kernel graph.
    pub buffers: Vec<usize>,
    /// The runtime integers it is given, by position in [`Program::symbols`].
    pub symbols: Vec<usize>,
    /// Its number of work items.
    pub work: Dim,
    /// How they are spread.
    pub mapping: Mapping,
    /// Bytes that the threads of a block share.
    pub shared_bytes: u32,
    /// Whether a routine of the fast tier does most of it ([`fuse_codegen::kernel_ir::Statement::Product`]).
    is_product: bool,
    /// The kernel's iteration, for [`operations`].
    cost: KernelCost,
}

/// What runs, by position.
#[derive(Debug)]
pub(crate) enum Node {
    /// A launch, by position in [`Program::launches`].
    Launch(usize),
    /// A loop whose steps are all in one launch, by position in [`Program::launches`].
    Resident {
        launch: usize,
        /// By position in [`Program::trips`].
        trip: usize,
        /// Pairs of buffers that have traded places after an odd number of steps.
        carries: Vec<(usize, usize)>,
    },
    /// A loop, by position in [`Program::trips`].
    Loop {
        trip: usize,
        /// The position of the counter in [`Program::symbols`].
        counter: usize,
        direction: Direction,
        /// Pairs of buffers that trade places after each step.
        carries: Vec<(usize, usize)>,
        body: Vec<Node>,
    },
}

/// A program with its names resolved.
#[derive(Debug)]
pub(crate) struct Program {
    pub launches: Vec<Launch>,
    pub trips: Vec<Dim>,
    pub steps: Vec<Node>,
    /// Every runtime integer: dimensions and loop counters.
    pub symbols: Vec<Symbol>,
}

/// A number that dimensions decide, or only the counter of a loop around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quantity {
    /// Known for the whole run.
    Fixed(i64),
    /// Evaluated at each step.
    Varying,
}

/// The quantities of a program at given dimensions.
#[derive(Debug)]
pub(crate) struct Quantities {
    /// The work items of each launch.
    pub work: Vec<Quantity>,
    /// The steps of each loop.
    pub trips: Vec<Quantity>,
    /// The scalar operations of each launch, roughly.
    pub operations: Vec<Option<f64>>,
    /// The whole run's work.
    pub total: Option<Total>,
    /// The initial values of [`Program::symbols`]; counters are 0.
    pub symbols: Vec<i64>,
}

/// The work of a run.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Total {
    /// Scalar operations, roughly.
    pub operations: f64,
    /// Those among them that are of products by a routine.
    pub in_products: f64,
    /// Launches.
    pub launches: f64,
}

impl Program {
    /// Resolves the names of a verified `graph`, whose kernels `functions` were compiled from.
    pub fn new(graph: &KernelGraph, functions: &[Function]) -> Result<Program, BuildError> {
        let mut builder = Builder {
            graph,
            functions,
            by_name: functions.iter().enumerate().map(|(i, f)| (f.name.as_str(), i)).collect(),
            positions: HashMap::new(),
            program: Program {
                launches: Vec::new(),
                trips: Vec::new(),
                steps: Vec::new(),
                symbols: Vec::new(),
            },
        };
        let steps = builder.steps(&graph.steps)?;
        Ok(Program { steps, ..builder.program })
    }

    /// The quantities at `dims`.
    pub fn quantities(&self, dims: &DimEnv) -> Result<Quantities, RunError> {
        let counters = self.counters();
        let quantity = |dim: &Dim| -> Result<Quantity, RunError> {
            if dim.symbols().iter().any(|s| counters.contains(s)) {
                return Ok(Quantity::Varying);
            }
            Ok(Quantity::Fixed(nonnegative(dim, dim.eval_dim(dims))?))
        };
        let symbols = self.symbols.iter().map(|s| match dims.get(s) {
            Some(value) => Ok(value),
            None if counters.contains(s) => Ok(0),
            None => Err(RunError::Dimension(EvalError::Unbound(s.clone()))),
        });
        let trips = self.trips.iter().map(quantity).collect::<Result<Vec<_>, _>>()?;
        // Where a counter decides, the first step stands for all.
        let mut first = dims.clone();
        for counter in &counters {
            first.set(counter.clone(), 0);
        }
        let operations: Vec<Option<f64>> = self.launches.iter().map(|l| l.cost.operations(&first)).collect();
        let steps: Vec<Option<f64>> =
            self.trips.iter().map(|t| t.eval_dim(&first).ok().map(|n| n.max(0) as f64)).collect();
        Ok(Quantities {
            work: self.launches.iter().map(|l| quantity(&l.work)).collect::<Result<_, _>>()?,
            total: self.total(&self.steps, &operations, &steps),
            trips,
            operations,
            symbols: symbols.collect::<Result<_, _>>()?,
        })
    }

    fn counters(&self) -> BTreeSet<Symbol> {
        fn collect(steps: &[Node], symbols: &[Symbol], out: &mut BTreeSet<Symbol>) {
            for step in steps {
                if let Node::Loop { counter, body, .. } = step {
                    out.insert(symbols[*counter].clone());
                    collect(body, symbols, out);
                }
            }
        }
        let mut out = BTreeSet::new();
        collect(&self.steps, &self.symbols, &mut out);
        out
    }

    /// The steps of a loop.
    fn trip(&self, at: usize, quantities: &Quantities, state: &RunState) -> Result<i64, RunError> {
        self.value(quantities.trips[at], &self.trips[at], state)
    }

    /// The work items of a launch.
    fn work(&self, at: usize, quantities: &Quantities, state: &RunState) -> Result<i64, RunError> {
        self.value(quantities.work[at], &self.launches[at].work, state)
    }

    fn value(&self, quantity: Quantity, dim: &Dim, state: &RunState) -> Result<i64, RunError> {
        match quantity {
            Quantity::Fixed(value) => Ok(value),
            Quantity::Varying => self.evaluate(dim, &state.symbols),
        }
    }

    fn total(&self, steps: &[Node], operations: &[Option<f64>], trips: &[Option<f64>]) -> Option<Total> {
        let mut sum = Total::default();
        for step in steps {
            let (times, once) = match step {
                Node::Launch(at) | Node::Resident { launch: at, .. } => {
                    let operations = operations[*at]?;
                    let in_products = if self.launches[*at].is_product { operations } else { 0.0 };
                    (1.0, Total { operations, in_products, launches: 1.0 })
                }
                Node::Loop { trip, body, .. } => (trips[*trip]?, self.total(body, operations, trips)?),
            };
            sum.operations += times * once.operations;
            sum.in_products += times * once.in_products;
            sum.launches += times * once.launches;
        }
        Some(sum)
    }

    fn evaluate(&self, dim: &Dim, symbols: &[i64]) -> Result<i64, RunError> {
        let value = dim.eval(&|atom| match atom {
            Atom::Symbol(s) => self.symbols.iter().position(|known| known == s).map(|i| symbols[i]),
            _ => None,
        });
        nonnegative(dim, value)
    }
}

fn nonnegative(dim: &Dim, value: Result<i64, EvalError>) -> Result<i64, RunError> {
    match value? {
        value if value >= 0 => Ok(value),
        value => Err(RunError::NegativeQuantity { expression: dim.to_string(), value }),
    }
}

struct Builder<'a> {
    graph: &'a KernelGraph,
    functions: &'a [Function],
    by_name: HashMap<&'a str, usize>,
    positions: HashMap<Symbol, usize>,
    program: Program,
}

impl Builder<'_> {
    fn symbol(&mut self, symbol: &Symbol) -> usize {
        if let Some(position) = self.positions.get(symbol) {
            return *position;
        }
        let position = self.program.symbols.len();
        self.program.symbols.push(symbol.clone());
        self.positions.insert(symbol.clone(), position);
        position
    }

    fn steps(&mut self, steps: &[Step]) -> Result<Vec<Node>, BuildError> {
        let node = |step: &Step| match step {
            Step::Kernel(kernel) => self.launch(kernel),
            Step::Loop(l) => self.repeated(l),
        };
        steps.iter().map(node).collect()
    }

    fn repeated(&mut self, l: &Loop) -> Result<Node, BuildError> {
        if let Some(function) = self.by_name.get(resident_name(l).as_str()).copied() {
            return self.resident(l, function);
        }
        let counter = self.symbol(&l.counter);
        let carries = l.carries.iter().map(|c| (c.current.index(), c.next.index())).collect();
        let trip = self.program.trips.len();
        self.program.trips.push(l.trip.clone());
        let body = self.steps(&l.body)?;
        Ok(Node::Loop { trip, counter, direction: l.direction, carries, body })
    }

    fn resident(&mut self, l: &Loop, function: usize) -> Result<Node, BuildError> {
        let carries = l.carries.iter().map(|c| (c.current.index(), c.next.index())).collect();
        let trip = self.program.trips.len();
        self.program.trips.push(l.trip.clone());
        let cost = KernelCost { extents: Vec::new(), elements: Vec::new() };
        Ok(Node::Resident { launch: self.launch_of(function, cost)?, trip, carries })
    }

    fn launch(&mut self, kernel: &Kernel) -> Result<Node, BuildError> {
        let missing = || BuildError::MissingFunction { kernel: kernel.name.clone() };
        let function = *self.by_name.get(kernel.name.as_str()).ok_or_else(missing)?;
        Ok(Node::Launch(self.launch_of(function, KernelCost::new(kernel))?))
    }

    /// A launch of the function of that position.
    fn launch_of(&mut self, function: usize, cost: KernelCost) -> Result<usize, BuildError> {
        let compiled = &self.functions[function];
        for parameter in &compiled.buffers {
            let mismatch = || BuildError::Parameter {
                function: compiled.name.clone(),
                parameter: parameter.name.clone(),
            };
            let buffer = self.graph.buffers.get(parameter.buffer.index()).ok_or_else(mismatch)?;
            let writes_input =
                parameter.access != Access::Read && matches!(buffer.kind, BufferKind::Input(_));
            if buffer.ty.dtype != parameter.dtype || writes_input {
                return Err(mismatch());
            }
        }
        let launch = Launch {
            name: compiled.name.clone(),
            function,
            buffers: compiled.buffers.iter().map(|p| p.buffer.index()).collect(),
            symbols: compiled.symbols.iter().map(|s| self.symbol(s)).collect(),
            work: compiled.work.clone(),
            mapping: compiled.mapping,
            shared_bytes: compiled.shared_bytes(),
            is_product: !compiled.products().is_empty(),
            cost,
        };
        self.program.launches.push(launch);
        Ok(self.program.launches.len() - 1)
    }
}

/// How often a kernel's elements are computed: products of extents.
#[derive(Debug)]
struct KernelCost {
    extents: Vec<Dim>,
    /// The axes of the loops around each element that costs something.
    elements: Vec<Vec<usize>>,
}

impl KernelCost {
    fn new(kernel: &Kernel) -> KernelCost {
        // Operands come first, so walking backwards meets every user before the element.
        let mut around: Vec<Option<Vec<usize>>> = vec![None; kernel.elements.len()];
        for store in &kernel.stores {
            widen(&mut around, store.value.index(), &[]);
        }
        let depends = axes_of_elements(kernel);
        let mut elements = Vec::new();
        for (i, typed) in kernel.elements.iter().enumerate().rev() {
            let Some(mut axes) = around[i].take() else { continue };
            // What does not depend on an axis is computed outside of its loop.
            axes.retain(|axis| depends[i].contains(axis));
            let space = depends[i].iter().copied().filter(|axis| *axis < kernel.rank);
            match &typed.element {
                Element::Constant(_) | Element::Index(_) => continue,
                Element::Reduce { axes: bound, .. } => axes.extend(bound.iter().map(|a| a.index())),
                Element::Load { .. }
                | Element::Scalar(..)
                | Element::Cast(_)
                | Element::Recurrence { .. } => {}
            }
            for operand in typed.element.operands() {
                widen(&mut around, operand.index(), &axes);
            }
            axes.extend(space);
            elements.push(axes);
        }
        KernelCost { extents: kernel.extents.clone(), elements }
    }

    fn operations(&self, dims: &DimEnv) -> Option<f64> {
        let extents: Option<Vec<f64>> =
            self.extents.iter().map(|e| e.eval_dim(dims).ok().map(|v| v.max(0) as f64)).collect();
        let extents = extents?;
        let times = |axes: &Vec<usize>| -> f64 { axes.iter().filter_map(|a| extents.get(*a)).product() };
        Some(self.elements.iter().map(times).sum())
    }
}

/// The axes that each element of a kernel depends on.
fn axes_of_elements(kernel: &Kernel) -> Vec<BTreeSet<usize>> {
    let mut depends: Vec<BTreeSet<usize>> = Vec::with_capacity(kernel.elements.len());
    for typed in &kernel.elements {
        let mut axes = BTreeSet::new();
        for operand in typed.element.operands() {
            axes.extend(depends.get(operand.index()).into_iter().flatten().copied());
        }
        let mut add = |e: &Expr| axes.extend(e.axes().iter().map(|a| a.index()));
        match &typed.element {
            Element::Load { index, .. } => index.iter().for_each(|coordinate| match coordinate {
                Coordinate::Static(e) => add(e),
                Coordinate::Dynamic(_) => {}
            }),
            Element::Index(e) => add(e),
            Element::Reduce { axes: bound, .. } => bound.iter().for_each(|a| _ = axes.remove(&a.index())),
            Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) | Element::Recurrence { .. } => {}
        }
        depends.push(axes);
    }
    depends
}

/// Notes that the element is computed inside `axes`; of several users the most frequent counts.
fn widen(around: &mut [Option<Vec<usize>>], element: usize, axes: &[usize]) {
    if let Some(known) = around.get_mut(element)
        && known.as_ref().is_none_or(|k| k.len() < axes.len())
    {
        *known = Some(axes.to_vec());
    }
}

/// The moving parts of a run: where each buffer is now, and the value of each runtime integer.
#[derive(Clone, Debug)]
pub(crate) struct RunState {
    /// By position in the kernel graph.
    pub addresses: Vec<u64>,
    /// By position in [`Program::symbols`].
    pub symbols: Vec<i64>,
    /// Whether the innermost loop is at its second step, its fourth, and so on.
    pub odd_step: bool,
}

impl RunState {
    /// The state before a run.
    pub fn new(addresses: Vec<u64>, quantities: &Quantities) -> RunState {
        RunState { addresses, symbols: quantities.symbols.clone(), odd_step: false }
    }
}

/// Executes the launches of a walk.
pub(crate) trait StepRunner {
    /// Executes one launch with `work > 0` items, or its part of it.
    fn launch(&mut self, at: usize, launch: &Launch, work: i64, state: &RunState) -> Result<(), RunError>;
}

/// Runs the whole program once.
pub(crate) fn walk(
    program: &Program,
    quantities: &Quantities,
    state: &mut RunState,
    runner: &mut impl StepRunner,
) -> Result<(), RunError> {
    walk_steps(program, quantities, &program.steps, state, runner)
}

fn walk_steps(
    program: &Program,
    quantities: &Quantities,
    steps: &[Node],
    state: &mut RunState,
    runner: &mut impl StepRunner,
) -> Result<(), RunError> {
    for step in steps {
        match step {
            Node::Launch(at) => {
                let launch = &program.launches[*at];
                let work = program.work(*at, quantities, state)?;
                if work > 0 {
                    runner.launch(*at, launch, work, state)?;
                }
            }
            Node::Resident { launch: at, trip, carries } => {
                let steps = program.trip(*trip, quantities, state)?;
                let work = program.work(*at, quantities, state)?;
                if steps > 0 && work > 0 {
                    runner.launch(*at, &program.launches[*at], work, state)?;
                }
                if steps % 2 == 1 {
                    carries.iter().for_each(|(current, next)| state.addresses.swap(*current, *next));
                }
            }
            Node::Loop { trip, counter, direction, carries, body } => {
                let steps = program.trip(*trip, quantities, state)?;
                for step in 0..steps {
                    state.symbols[*counter] = match direction {
                        Direction::Forward => step,
                        Direction::Reverse => steps - 1 - step,
                    };
                    state.odd_step = step % 2 == 1;
                    walk_steps(program, quantities, body, state, runner)?;
                    for (current, next) in carries {
                        state.addresses.swap(*current, *next);
                    }
                }
                state.odd_step = false;
            }
        }
    }
    Ok(())
}
