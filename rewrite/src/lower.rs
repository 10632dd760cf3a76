//! Chosen terms → kernels.
//!
//! Walks the same way as extraction did (a materialised class is loaded, a view substitutes indices, anything
//! else is computed in place) and writes down elements. The axes of loops around a kernel are the loops'
//! counters; a value in memory that only its own loop reads has no time axis.

use std::collections::{BTreeMap, BTreeSet};

use fuse_ir::device::DeviceModel;
use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop,
    Recurrence, Step, Store,
};
use fuse_ir::ops::{Direction, ReduceOp, ScalarOp};
use fuse_ir::types::Shape;
use fuse_ir::{Axis, DType, Expr, Graph, Literal, TensorType};
use rustc_hash::FxHashMap;

use crate::complexity::may_substitute;
use crate::extract::Plan;
use crate::extract::arrange::Item;
use crate::extract::dense::{Class, Dense};
use crate::extract::roots::{RootId, RootKind, StoredOutput};
use crate::kernel_builder::{KernelBuilder, Names, identifier};
use crate::language::{Head, ScanId};
use crate::layout::Layout;
use crate::scans::wavefront::{Wavefronts, drop_unused, run_as_wavefronts};

/// Where a class lies in memory.
#[derive(Clone, PartialEq, Debug)]
struct Storage {
    buffer: BufferId,
    layout: Layout,
}

/// Kernels, and what of the plan each part of them is.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The kernels.
    pub kernels: KernelGraph,
    /// The class that lies in each temporary buffer.
    pub storage: FxHashMap<BufferId, Class>,
    /// The roots that each kernel stores, by its name.
    pub roots: FxHashMap<String, Vec<RootId>>,
}

/// The kernels of a plan.
pub fn lower(graph: &Graph, dense: &Dense<'_>, plan: &Plan) -> Lowered {
    let mut lowering = Lowering::new(graph, dense, plan);
    lowering.name_counters(graph);
    lowering.place_states();
    lowering.place_values(&plan.items);
    let loops = plan.items.iter().filter(|i| matches!(i, Item::Loop(..))).count();
    let steps = lowering.steps(&plan.items, &[], loops);
    let storage = lowering.values.iter().map(|(class, storage)| (storage.buffer, *class)).collect();
    let kernels = KernelGraph { name: graph.name().to_string(), buffers: lowering.buffers, steps };
    Lowered { kernels, storage, roots: lowering.stored }
}

struct Lowering<'a> {
    dense: &'a Dense<'a>,
    plan: &'a Plan,
    graph_name: String,
    buffers: Vec<Buffer>,
    buffer_names: Names,
    kernel_names: Names,
    outputs: Vec<BufferId>,
    states: BTreeMap<(ScanId, u32), (Storage, Storage)>,
    values: FxHashMap<Class, Storage>,
    counters: BTreeMap<ScanId, Symbol>,
    /// The roots that each kernel stores, by its name.
    stored: FxHashMap<String, Vec<RootId>>,
}

impl<'a> Lowering<'a> {
    fn new(graph: &Graph, dense: &'a Dense<'a>, plan: &'a Plan) -> Self {
        let mut lowering = Lowering {
            dense,
            plan,
            graph_name: identifier(graph.name()),
            buffers: Vec::new(),
            buffer_names: Names::default(),
            kernel_names: Names::default(),
            outputs: Vec::new(),
            states: BTreeMap::new(),
            values: FxHashMap::default(),
            counters: BTreeMap::new(),
            stored: FxHashMap::default(),
        };
        for (i, input) in graph.inputs().iter().enumerate() {
            lowering.add_buffer(&input.name, graph.ty(input.value).clone(), BufferKind::Input(i));
        }
        for (i, output) in graph.outputs().iter().enumerate() {
            let ty = graph.ty(output.value).clone();
            let buffer = lowering.add_buffer(&output.name, ty, BufferKind::Output(i));
            lowering.outputs.push(buffer);
        }
        lowering
    }

    fn add_buffer(&mut self, name: &str, ty: TensorType, kind: BufferKind) -> BufferId {
        let name = self.buffer_names.unique(name);
        self.buffers.push(Buffer { name, ty, kind });
        BufferId::from(self.buffers.len() - 1)
    }

    /// A buffer for a class, without the dropped axes.
    fn add_class_buffer(&mut self, name: &str, class: Class, dropped: u64, kind: BufferKind) -> Storage {
        let data = self.dense.data[class as usize];
        let axes = self.dense.tables.extents(data.space).iter().enumerate();
        let shape: Shape = axes.filter(|(i, _)| dropped & (1 << i) == 0).map(|(_, n)| n.clone()).collect();
        let rank = self.rank(class);
        let buffer = self.add_buffer(name, TensorType { dtype: data.dtype, shape }, kind);
        Storage { buffer, layout: Layout::without(rank, dropped) }
    }

    fn rank(&self, class: Class) -> usize {
        self.dense.tables.extents(self.dense.data[class as usize].space).len()
    }

    /// A buffer that holds a class as it is.
    fn whole(&self, buffer: BufferId, class: Class) -> Storage {
        Storage { buffer, layout: Layout::without(self.rank(class), 0) }
    }

    fn name_counters(&mut self, graph: &Graph) {
        let mut names = Names::default();
        for symbol in graph.symbols() {
            names.unique(symbol.name());
        }
        for (scan, _) in self.plan.placement.scans() {
            self.counters.insert(*scan, Symbol::new(names.unique("t")));
        }
    }

    fn depth_bits(&self, scans: &[ScanId]) -> u64 {
        scans.iter().fold(0, |bits, s| bits | 1 << self.dense.tables.scan(*s).depth())
    }

    /// The two halves of every live state.
    fn place_states(&mut self) {
        let plan = self.plan;
        for state in plan.roots.states() {
            let (scan, i) = (state.scan, state.carry);
            let mut chain = plan.placement.around(scan).unwrap_or_default().to_vec();
            chain.push(plan.placement.leader(scan));
            let dropped = self.depth_bits(&chain);
            let name = identifier(&self.dense.tables.scan(scan).carries[i as usize].name);
            let class = plan.roots.roots[state.next].class;
            let next_storage =
                self.add_class_buffer(&format!("{name}_next"), class, dropped, BufferKind::State);
            let ty = self.buffers[next_storage.buffer.index()].ty.clone();
            let current = self.add_buffer(&format!("{name}_state"), ty, BufferKind::State);
            let current = Storage { buffer: current, layout: next_storage.layout.clone() };
            self.states.insert((scan, i), (current, next_storage));
        }
    }

    /// Memory for the materialised classes: an output or next state that is stored with it anyway, or a
    /// temporary.
    fn place_values(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Loop(_, body) => self.place_values(body),
                Item::Kernel(members) => {
                    for root in members {
                        if self.plan.roots.roots[*root].kind == RootKind::Value {
                            self.place_value(*root, members);
                        }
                    }
                }
            }
        }
    }

    fn place_value(&mut self, value: RootId, members: &[RootId]) {
        let plan = self.plan;
        let class = plan.roots.roots[value].class;
        let chain = plan.placement.chain(value);
        let reads = |r: &RootId| plan.roots.roots[*r].walk.reads.iter().any(|read| read.class == class);
        let readers = (0..plan.roots.roots.len()).filter(|r| reads(r) && !members.contains(r));
        let readers: Vec<RootId> = readers.collect();
        if let Some(storage) = self.output_storages(plan.roots.outputs_of(class)).into_iter().next() {
            self.values.insert(class, storage);
            return;
        }
        if readers.is_empty() {
            return;
        }
        let inner = |s: &&ScanId| readers.iter().all(|r| plan.placement.chain(*r).contains(s));
        let local: Vec<ScanId> = chain.iter().filter(inner).copied().collect();
        let next_states = members.iter().filter_map(|r| match plan.roots.roots[*r].kind {
            RootKind::Next(scan, i) if plan.roots.roots[*r].class == class => self.states.get(&(scan, i)),
            RootKind::Next(..) | RootKind::Init(..) | RootKind::Output(_) | RootKind::Value => None,
        });
        if let Some((_, next)) = next_states.into_iter().next().filter(|_| local.len() == chain.len()) {
            let next = next.clone();
            self.values.insert(class, next);
            return;
        }
        let dropped = self.depth_bits(&local);
        let storage = self.add_class_buffer("v", class, dropped, BufferKind::Temporary);
        self.values.insert(class, storage);
    }

    fn steps(&mut self, items: &[Item], chain: &[ScanId], loops: usize) -> Vec<Step> {
        let mut steps = Vec::with_capacity(items.len());
        let mut loops_left = loops;
        for item in items {
            match item {
                Item::Kernel(members) => {
                    let passed = loops - loops_left;
                    steps.push(Step::Kernel(self.kernel(members, chain, (passed, loops_left))));
                }
                Item::Loop(scan, body) => {
                    loops_left = loops_left.saturating_sub(1);
                    let inner: Vec<ScanId> = chain.iter().copied().chain([*scan]).collect();
                    let body = self.steps(body, &inner, 0);
                    let info = self.dense.tables.scan(*scan);
                    let leader = |(s, _): &(ScanId, u32)| self.plan.placement.leader(*s);
                    let states = self.states.iter().filter(|(key, _)| leader(key) == *scan);
                    let carries = states
                        .map(|(_, (current, next))| Carry { current: current.buffer, next: next.buffer });
                    steps.push(Step::Loop(Loop {
                        counter: self.counters[scan].clone(),
                        trip: info.trip.clone(),
                        direction: Direction::Forward,
                        carries: carries.collect(),
                        body,
                    }));
                }
            }
        }
        steps
    }

    /// One kernel; `loops` are how many loops of its level ran before it and run after it.
    fn kernel(&mut self, members: &[RootId], chain: &[ScanId], loops: (usize, usize)) -> Kernel {
        let role = self.role(members, chain, loops);
        let name = self.kernel_names.unique(&format!("{}_{role}", self.graph_name));
        self.stored.insert(name.clone(), members.to_vec());
        let roots = &self.plan.roots.roots;
        let inside = self.plan.roots.computed_here(members).collect();
        let space = self.dense.tables.extents(self.dense.data[roots[members[0]].computed as usize].space);
        let counters: FxHashMap<usize, Expr> = chain
            .iter()
            .map(|s| (self.dense.tables.scan(*s).depth(), Expr::symbol(self.counters[s].name())))
            .collect();
        let mut own = Vec::with_capacity(space.len());
        let mut kernel_space = Vec::new();
        for (i, extent) in space.iter().enumerate() {
            match counters.get(&i) {
                Some(counter) => own.push(counter.clone()),
                None => {
                    own.push(Expr::axis(kernel_space.len()));
                    kernel_space.push(extent.clone());
                }
            }
        }
        let mut kernel = KernelLowering {
            lowering: self,
            builder: KernelBuilder::new(kernel_space),
            known: FxHashMap::default(),
            inside,
            own: own.clone(),
        };
        for root in members {
            let root = &roots[*root];
            let targets = kernel.lowering.targets(root.kind, root.class, members);
            if targets.is_empty() {
                continue;
            }
            let value = kernel.element(root.computed, own.clone());
            let mut point = own.clone();
            if let (_, Some(axis)) = kernel.lowering.dense.computed(root.class) {
                point.remove(axis);
            }
            for target in targets {
                let index = target.layout.index(&point);
                kernel.builder.store(Store { buffer: target.buffer, index, value });
            }
        }
        kernel.builder.finish(name)
    }

    /// Where a class is stored that graph outputs are views of; one that holds it as it is comes first.
    fn output_storages(&self, outputs: &[StoredOutput]) -> Vec<Storage> {
        let mut ordered: Vec<&StoredOutput> = outputs.iter().collect();
        ordered.sort_by_key(|o| o.view.is_some());
        let storage = |o: &&StoredOutput| {
            let buffer = self.outputs[o.output as usize];
            match &o.view {
                None => self.whole(buffer, o.class),
                Some(layout) => Storage { buffer, layout: layout.clone() },
            }
        };
        ordered.iter().map(storage).collect()
    }

    /// Where a root is stored; nowhere if nothing reads it or another store of the kernel writes it already.
    fn targets(&self, kind: RootKind, class: Class, members: &[RootId]) -> Vec<Storage> {
        match kind {
            RootKind::Output(i) => vec![self.whole(self.outputs[i as usize], class)],
            RootKind::Init(scan, i) => {
                // The state's buffer drops the time axis; the initial value has none.
                vec![self.final_storage(scan, i)]
            }
            RootKind::Next(scan, i) => self.states.get(&(scan, i)).map(|s| s.1.clone()).into_iter().collect(),
            RootKind::Value => {
                let outputs = self.plan.roots.outputs_of(class);
                if !outputs.is_empty() {
                    return self.output_storages(outputs);
                }
                let Some(storage) = self.values.get(&class) else { return Vec::new() };
                let stored = |r: &RootId| match self.plan.roots.roots[*r].kind {
                    RootKind::Next(scan, i) => self.states.get(&(scan, i)).is_some_and(|s| s.1 == *storage),
                    RootKind::Init(..) | RootKind::Output(_) | RootKind::Value => false,
                };
                if members.iter().any(stored) { Vec::new() } else { vec![storage.clone()] }
            }
        }
    }

    fn role(&self, members: &[RootId], chain: &[ScanId], (before, after): (usize, usize)) -> &'static str {
        let roots = &self.plan.roots.roots;
        let all = |test: &dyn Fn(RootKind) -> bool| members.iter().all(|r| test(roots[*r].kind));
        let finals = |r: &RootId| !roots[*r].walk.finals.is_empty() && roots[*r].walk.computed.is_empty();
        if all(&|k| matches!(k, RootKind::Init(..))) {
            "init"
        } else if members.iter().any(|r| roots[*r].walk.recurrence.is_some()) {
            "recurrence"
        } else if members.iter().all(finals) {
            "final"
        } else if !chain.is_empty() {
            "step"
        } else if after > 0 {
            "pre"
        } else if before > 0 {
            "post"
        } else {
            "main"
        }
    }
}

/// A class at coordinates of a kernel.
type Key = (Class, Vec<Expr>);

/// How a key is computed.
enum Form {
    Load(Storage, Vec<Expr>),
    Same(Key),
    Constant(Literal),
    Index(Expr),
    Scalar(ScalarOp, Vec<Key>),
    Cast(Key),
    /// The state of a recurrence along an axis of the kernel: initial state, factor, term.
    Recurrence {
        axis: Axis,
        exclusive: bool,
        operands: [Key; 3],
    },
    Reduce(ReduceOp, Vec<Axis>, Key),
    Gather {
        storage: Storage,
        coordinates: Vec<Expr>,
        axis: usize,
        index: Key,
    },
}

impl Form {
    fn operands(&self) -> &[Key] {
        match self {
            Form::Load(..) | Form::Constant(_) | Form::Index(_) => &[],
            Form::Same(key) | Form::Cast(key) | Form::Reduce(_, _, key) => std::slice::from_ref(key),
            Form::Gather { index, .. } => std::slice::from_ref(index),
            Form::Scalar(_, keys) => keys,
            Form::Recurrence { operands, .. } => operands,
        }
    }
}

struct KernelLowering<'l, 'a> {
    lowering: &'l Lowering<'a>,
    builder: KernelBuilder,
    known: FxHashMap<Key, ElementId>,
    /// Materialised classes that this kernel computes.
    inside: Vec<Class>,
    /// The kernel's own point in the space of its roots.
    own: Vec<Expr>,
}

impl KernelLowering<'_, '_> {
    /// The element of a class at coordinates. Uses a stack of its own: models can be deep.
    fn element(&mut self, class: Class, coordinates: Vec<Expr>) -> ElementId {
        let root = (class, coordinates);
        let mut pending: Vec<(Key, Option<Form>)> = vec![(root.clone(), None)];
        while let Some((key, form)) = pending.pop() {
            if self.known.contains_key(&key) {
                continue;
            }
            let form = form.unwrap_or_else(|| self.form(&key));
            let missing: Vec<Key> =
                form.operands().iter().filter(|k| !self.known.contains_key(*k)).cloned().collect();
            if missing.is_empty() {
                let element = self.build(&form, self.lowering.dense.data[key.0 as usize].dtype);
                self.known.insert(key, element);
            } else {
                pending.push((key, Some(form)));
                pending.extend(missing.into_iter().rev().map(|k| (k, None)));
            }
        }
        self.known[&root]
    }

    fn form(&mut self, (class, coordinates): &Key) -> Form {
        let (dense, memory) = (self.lowering.dense, &self.lowering.plan.memory);
        let here = self.inside.contains(class) && *coordinates == self.own;
        let constant = dense.is_constant(*class);
        if memory.contains(*class) && !here && !constant {
            return Form::Load(self.lowering.values[class].clone(), coordinates.clone());
        }
        let through = |builder: &KernelBuilder, map: crate::language::MapId| -> Vec<Expr> {
            let results = &dense.tables.map(map).results;
            results.iter().map(|e| e.substitute_axes(coordinates).simplify(&builder.extents)).collect()
        };
        for node in &dense.nodes[*class as usize] {
            let Head::Reindex(map) = node.head else { continue };
            let source = node.children[0];
            let short = may_substitute(&dense.tables.map(map).results, coordinates);
            if !constant && short && dense.below(source, *class) && memory.contains(source) {
                return Form::Same((source, through(&self.builder, map)));
            }
        }
        let node = dense.chosen(*class);
        match node.head {
            Head::Leaf(i) => Form::Load(self.lowering.whole(BufferId(i), *class), coordinates.clone()),
            Head::Carry(scan, i) => {
                Form::Load(self.lowering.states[&(scan, i)].0.clone(), coordinates.clone())
            }
            Head::ScanFinal(scan, i) => Form::Load(self.lowering.final_storage(scan, i), coordinates.clone()),
            Head::Constant(id) => Form::Constant(dense.tables.constant(id).value),
            Head::Index(id) => Form::Index(dense.tables.index(id).value.substitute_axes(coordinates)),
            Head::Scalar(op) => {
                let key = |c: &Class| (*c, coordinates.clone());
                Form::Scalar(op, node.children.iter().map(key).collect())
            }
            Head::Recurrence { axis, exclusive } => {
                let along = coordinates[axis as usize].as_axis();
                let along = along.expect("extraction runs recurrences along an axis of the kernel");
                let mut without = coordinates.clone();
                without.remove(axis as usize);
                let [factor, term] = [1, 2].map(|i| (node.children[i], coordinates.clone()));
                Form::Recurrence {
                    axis: along,
                    exclusive,
                    operands: [(node.children[0], without), factor, term],
                }
            }
            Head::RecurrenceFinal(_) => unreachable!("extraction materialises final states"),
            Head::Cast(_) => Form::Cast((node.children[0], coordinates.clone())),
            Head::Reindex(map) => Form::Same((node.children[0], through(&self.builder, map))),
            Head::Reduce(op, count) => {
                let child = node.children[0];
                let inner = dense.tables.extents(dense.data[child as usize].space);
                let extents = &inner[inner.len() - count as usize..];
                let axes: Vec<Axis> = extents.iter().map(|n| self.builder.bind(n.clone())).collect();
                let bound = axes.iter().map(|a| Expr::axis(a.index()));
                let coordinates = coordinates.iter().cloned().chain(bound).collect();
                Form::Reduce(op, axes, (child, coordinates))
            }
            Head::Gather(id) => {
                let gather = dense.tables.gather(id);
                let fixed = gather.coordinates.iter();
                let fixed = fixed.map(|e| e.substitute_axes(coordinates).simplify(&self.builder.extents));
                Form::Gather {
                    storage: self.lowering.table_storage(node.children[0]),
                    coordinates: fixed.collect(),
                    axis: gather.axis,
                    index: (node.children[1], coordinates.clone()),
                }
            }
        }
    }

    fn build(&mut self, form: &Form, dtype: DType) -> ElementId {
        match form {
            Form::Same(key) => self.known[key],
            Form::Load(storage, coordinates) => {
                let index = storage.layout.index(coordinates);
                let index = index.into_iter().map(|e| Coordinate::Static(e.simplify(&self.builder.extents)));
                let index = index.collect();
                self.load(storage.buffer, index, dtype)
            }
            Form::Constant(value) => self.builder.constant(*value),
            Form::Index(value) => self.builder.index(value.clone(), dtype),
            Form::Scalar(op, keys) => {
                let operands: Vec<ElementId> = keys.iter().map(|k| self.known[k]).collect();
                self.builder.scalar(*op, &operands, dtype)
            }
            Form::Recurrence { axis, exclusive, operands } => {
                let [init, factor, term] = [0, 1, 2].map(|i| self.known[&operands[i]]);
                let state = Recurrence { axis: *axis, init, factor, term };
                self.builder.add(Element::Recurrence { state, exclusive: *exclusive }, dtype)
            }
            Form::Cast(key) => self.builder.cast(self.known[key], dtype),
            Form::Reduce(op, axes, key) => self.builder.reduce(*op, axes, self.known[key]),
            Form::Gather { storage, coordinates, axis, index } => {
                let mut read: Vec<Coordinate> =
                    storage.layout.index(coordinates).into_iter().map(Coordinate::Static).collect();
                let along = storage.layout.position(*axis).expect("extraction stores tables as they are");
                read[along] = Coordinate::Dynamic(self.known[index]);
                self.load(storage.buffer, read, dtype)
            }
        }
    }

    fn load(&mut self, buffer: BufferId, index: Vec<Coordinate>, dtype: DType) -> ElementId {
        let shape = &self.lowering.buffers[buffer.index()].ty.shape;
        self.builder.load(buffer, index, shape, dtype)
    }
}

impl Lowered {
    /// Runs stacks of layers as wavefronts wherever that is faster; the modelled seconds gained.
    pub fn run_as_wavefronts(&mut self, device: &DeviceModel) -> f64 {
        let Wavefronts { seconds, origins } = run_as_wavefronts(&mut self.kernels, device);
        if origins.is_empty() {
            return seconds;
        }
        for (kernel, origins) in origins {
            let roots: BTreeSet<RootId> = origins.iter().flat_map(|o| &self.roots[o]).copied().collect();
            self.roots.insert(kernel, roots.into_iter().collect());
        }
        let places = drop_unused(&mut self.kernels);
        let storage = std::mem::take(&mut self.storage).into_iter();
        self.storage = storage.filter_map(|(b, class)| Some((*places.get(&b)?, class))).collect();
        seconds
    }
}

impl Lowering<'_> {
    fn final_storage(&self, scan: ScanId, i: u32) -> Storage {
        let around = self.plan.placement.around(scan).unwrap_or_default();
        let (buffer, info) = (self.states[&(scan, i)].0.buffer, self.dense.tables.scan(scan));
        // The initial and final states have no time axis of this scan.
        let rank = info.depth() + info.carries[i as usize].ty.rank();
        Storage { buffer, layout: Layout::without(rank, self.depth_bits(around)) }
    }

    /// Where the table of a gather lies; extraction sees to it that it does.
    fn table_storage(&self, table: Class) -> Storage {
        if let Some(storage) = self.values.get(&table).filter(|_| self.plan.memory.contains(table)) {
            return storage.clone();
        }
        match self.dense.chosen(table).head {
            Head::Leaf(i) => self.whole(BufferId(i), table),
            Head::Carry(scan, i) => self.states[&(scan, i)].0.clone(),
            Head::ScanFinal(scan, i) => self.final_storage(scan, i),
            Head::Constant(_)
            | Head::Index(_)
            | Head::Scalar(_)
            | Head::Cast(_)
            | Head::Reindex(_)
            | Head::Reduce(..)
            | Head::Gather(_)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_) => unreachable!("extraction materialises the tables of gathers"),
        }
    }
}
