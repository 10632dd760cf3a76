//! The memory plan against its independent checker, on random programs and on known ones.

use fuse_ir::expr::{Dim, DimEnv, Expr, Symbol};
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop, Step,
    Store, TypedElement,
};
use fuse_ir::ops::Direction;
use fuse_ir::types::TensorType;
use fuse_ir::{DType, Literal};
use fuse_runtime::plan::ALIGNMENT;
use fuse_runtime::plan_checker::{Conflict, check};
use fuse_runtime::{MemoryPlan, PlanError};
use proptest::prelude::*;

/// Builds kernel graphs statement by statement. Every tensor is `f32[shape]`.
#[derive(Default)]
struct Program {
    buffers: Vec<Buffer>,
    kernels: usize,
}

impl Program {
    fn buffer(&mut self, kind: BufferKind, shape: &[Dim]) -> BufferId {
        let name = format!("v{}", self.buffers.len());
        self.buffers.push(Buffer { name, ty: TensorType::new(DType::F32, shape.to_vec()), kind });
        BufferId::from(self.buffers.len() - 1)
    }

    /// A kernel of one point that loads the first element of some buffers and stores to one.
    fn kernel(&mut self, loads: &[BufferId], store: BufferId, at: Option<&Symbol>) -> Step {
        self.kernels += 1;
        let zero = TypedElement {
            element: Element::Constant(Literal::from_f64(DType::F32, 0.0)),
            dtype: DType::F32,
        };
        let load = |b: &BufferId| TypedElement {
            element: Element::Load {
                buffer: *b,
                index: self.buffers[b.index()]
                    .ty
                    .shape
                    .iter()
                    .map(|_| Coordinate::Static(Expr::constant(0)))
                    .collect(),
            },
            dtype: DType::F32,
        };
        let position = at.map_or(Expr::constant(0), |s| Expr::symbol(s.name()));
        let rank = self.buffers[store.index()].ty.rank();
        Step::Kernel(Kernel {
            name: format!("k{}", self.kernels),
            rank: 0,
            extents: vec![],
            elements: std::iter::once(zero).chain(loads.iter().map(load)).collect(),
            stores: vec![Store {
                buffer: store,
                index: (0..rank).map(|_| position.clone()).collect(),
                value: ElementId(0),
            }],
            ops: vec![],
        })
    }

    fn finish(self, steps: Vec<Step>) -> KernelGraph {
        KernelGraph { name: "random".into(), buffers: self.buffers, steps }
    }
}

fn symbol(name: &str) -> Dim {
    Dim::symbol(name)
}

/// Choices that a random program is made from.
#[derive(Clone, Debug)]
enum Shape {
    /// A new temporary from earlier values; the numbers pick them, modulo how many there are.
    Compute { loads: Vec<usize>, size: usize },
    /// A loop with carries, a stacked result and a body.
    Loop { carries: usize, size: usize, reverse: bool, stacked: bool, body: Vec<Shape> },
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let compute = (prop::collection::vec(any::<usize>(), 0..4), 0..6usize)
        .prop_map(|(loads, size)| Shape::Compute { loads, size });
    let shape = compute.prop_recursive(3, 40, 6, |inner| {
        (0..3usize, 0..6usize, any::<bool>(), any::<bool>(), prop::collection::vec(inner, 1..6)).prop_map(
            |(carries, size, reverse, stacked, body)| Shape::Loop { carries, size, reverse, stacked, body },
        )
    });
    prop::collection::vec(shape, 1..10)
}

fn extent(size: usize) -> Vec<Dim> {
    let dims = ["A", "B", "C"];
    match size {
        0 => vec![],
        s @ 1..=3 => vec![symbol(dims[s - 1])],
        s => vec![symbol("A"), symbol(dims[s % 3])],
    }
}

/// Turns choices into steps that only read what is defined; `visible` are the values that may be read.
fn build(program: &mut Program, shapes: &[Shape], visible: &mut Vec<BufferId>, depth: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for shape in shapes {
        match shape {
            Shape::Compute { loads, size } => {
                let loads: Vec<BufferId> = loads.iter().map(|l| visible[l % visible.len()]).collect();
                let store = program.buffer(BufferKind::Temporary, &extent(*size));
                steps.push(program.kernel(&loads, store, None));
                visible.push(store);
            }
            Shape::Loop { carries, size, reverse, stacked, body } => {
                let counter = Symbol::new(format!("t{}_{}", depth, program.buffers.len()));
                let mut states = Vec::new();
                for _ in 0..*carries {
                    let current = program.buffer(BufferKind::State, &extent(*size));
                    let next = program.buffer(BufferKind::State, &extent(*size));
                    let init = visible[program.buffers.len() % visible.len()];
                    steps.push(program.kernel(&[init], current, None));
                    states.push(Carry { current, next });
                }
                let mut inside = visible.clone();
                inside.extend(states.iter().map(|c| c.current));
                let mut inner = build(program, body, &mut inside, depth + 1);
                for (i, carry) in states.iter().enumerate() {
                    let from = [inside[i % inside.len()], inside[inside.len() - 1], carry.current];
                    inner.push(program.kernel(&from, carry.next, None));
                }
                let history = stacked.then(|| program.buffer(BufferKind::Temporary, &[symbol("T")]));
                if let Some(history) = history {
                    inner.push(program.kernel(&[inside[inside.len() - 1]], history, Some(&counter)));
                }
                let direction = if *reverse { Direction::Reverse } else { Direction::Forward };
                visible.extend(states.iter().map(|c| c.current));
                visible.extend(history);
                steps.push(Step::Loop(Loop {
                    counter,
                    trip: symbol("T"),
                    direction,
                    carries: states,
                    body: inner,
                }));
            }
        }
    }
    steps
}

fn random_graph(shapes: &[Shape]) -> KernelGraph {
    let mut program = Program::default();
    let input = program.buffer(BufferKind::Input(0), &[symbol("A")]);
    let mut visible = vec![input];
    let mut steps = build(&mut program, shapes, &mut visible, 0);
    let output = program.buffer(BufferKind::Output(0), &[symbol("A")]);
    let ends: Vec<BufferId> = visible.iter().rev().take(3).copied().collect();
    steps.push(program.kernel(&ends, output, None));
    program.finish(steps)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_programs_never_read_what_was_overwritten(
        shapes in shapes(),
        (a, b, c) in (0..40i64, 0..40i64, 0..40i64),
        t in 0..6i64,
    ) {
        let graph = random_graph(&shapes);
        let dims = DimEnv::new().with("A", a).with("B", b).with("C", c).with("T", t);
        let plan = MemoryPlan::new(&graph, &dims).unwrap();
        // With T = 0 no step runs, so a stacked result of no elements is read unwritten; that is no conflict.
        if let Err(conflict) = check(&graph, &plan) {
            prop_assert!(false, "{conflict}\n{plan}\n{graph}");
        }
        prop_assert!(plan.live_bytes <= plan.arena_bytes);
        prop_assert!(plan.arena_bytes <= plan.unplanned_bytes + ALIGNMENT * graph.buffers.len() as u64);
    }
}

/// `n` temporaries in a chain, each read by the next kernel only.
fn chain(n: usize) -> KernelGraph {
    let mut program = Program::default();
    let mut last = program.buffer(BufferKind::Input(0), &[symbol("A")]);
    let mut steps = Vec::new();
    for _ in 0..n {
        let next = program.buffer(BufferKind::Temporary, &[symbol("A")]);
        steps.push(program.kernel(&[last], next, None));
        last = next;
    }
    let output = program.buffer(BufferKind::Output(0), &[symbol("A")]);
    steps.push(program.kernel(&[last], output, None));
    program.finish(steps)
}

#[test]
fn a_chain_of_temporaries_takes_two_blocks() {
    let plan = MemoryPlan::new(&chain(20), &DimEnv::new().with("A", 1000)).unwrap();
    assert_eq!(plan.arena_bytes, 2 * 4032);
    assert_eq!(plan.live_bytes, plan.arena_bytes);
    assert_eq!(plan.unplanned_bytes, 20 * 4000);
    assert_eq!(plan.peak_bytes(), 2 * 4032 + 4000 + 4000);
}

#[test]
fn a_plan_that_shares_too_much_is_caught_by_the_checker() {
    let graph = chain(5);
    let mut plan = MemoryPlan::new(&graph, &DimEnv::new().with("A", 16)).unwrap();
    plan.placements.iter_mut().for_each(|p| p.offset = 0);
    assert!(matches!(check(&graph, &plan), Err(Conflict::InPlace { .. })));
}

/// x → long (used after the loop) ; loop { short ; next = f(current, short) } ; y = long + current
fn loop_with_a_value_across() -> KernelGraph {
    let mut program = Program::default();
    let x = program.buffer(BufferKind::Input(0), &[symbol("A")]);
    let long = program.buffer(BufferKind::Temporary, &[symbol("A")]);
    let current = program.buffer(BufferKind::State, &[symbol("A")]);
    let next = program.buffer(BufferKind::State, &[symbol("A")]);
    let short = program.buffer(BufferKind::Temporary, &[symbol("A")]);
    let y = program.buffer(BufferKind::Output(0), &[symbol("A")]);
    let first = program.kernel(&[x], long, None);
    let init = program.kernel(&[x], current, None);
    let body = vec![program.kernel(&[long], short, None), program.kernel(&[current, short], next, None)];
    let last = program.kernel(&[long, current], y, None);
    let repeated = Step::Loop(Loop {
        counter: Symbol::new("t"),
        trip: symbol("T"),
        direction: Direction::Forward,
        carries: vec![Carry { current, next }],
        body,
    });
    program.finish(vec![first, init, repeated, last])
}

#[test]
fn a_buffer_used_in_a_loop_but_defined_before_it_lives_through_it() {
    let graph = loop_with_a_value_across();
    let plan = MemoryPlan::new(&graph, &DimEnv::new().with("A", 16).with("T", 5)).unwrap();
    check(&graph, &plan).unwrap();
    assert_eq!(plan.arena_bytes, 4 * 64, "long, both halves and short are all alive in the loop\n{plan}");
    let range = |name: &str| plan.placements.iter().find(|p| p.name == name).unwrap().range;
    assert_eq!(range("v2"), range("v3"), "both halves of a state live equally long");
    assert!(range("v4").last < range("v1").last);
}

#[test]
fn a_short_lived_block_moved_onto_a_state_is_caught() {
    let graph = loop_with_a_value_across();
    let dims = DimEnv::new().with("A", 16).with("T", 3);
    let plan = MemoryPlan::new(&graph, &dims).unwrap();
    let offset = |name: &str| plan.placements.iter().find(|p| p.name == name).unwrap().offset;
    for onto in ["v1", "v2", "v3"] {
        let mut wrong = plan.clone();
        let target = offset(onto);
        wrong.placements.iter_mut().filter(|p| p.name == "v4").for_each(|p| p.offset = target);
        assert!(check(&graph, &wrong).is_err(), "{onto}\n{wrong}");
    }
}

#[test]
fn a_buffer_filled_slice_by_slice_in_its_loop_is_not_lent_out_between_steps() {
    let mut program = Program::default();
    let x = program.buffer(BufferKind::Input(0), &[symbol("A")]);
    let history = program.buffer(BufferKind::Temporary, &[symbol("T")]);
    let seen = program.buffer(BufferKind::Temporary, &[symbol("A")]);
    let short = program.buffer(BufferKind::Temporary, &[symbol("A")]);
    let y = program.buffer(BufferKind::Output(0), &[symbol("A")]);
    let t = Symbol::new("t");
    let body = vec![
        program.kernel(&[x], history, Some(&t)),
        program.kernel(&[history], seen, None),
        program.kernel(&[seen], short, None),
        program.kernel(&[short], y, None),
    ];
    let (trip, direction) = (symbol("T"), Direction::Forward);
    let graph = program.finish(vec![Step::Loop(Loop { counter: t, trip, direction, carries: vec![], body })]);
    let plan = MemoryPlan::new(&graph, &DimEnv::new().with("A", 16).with("T", 4)).unwrap();
    check(&graph, &plan).unwrap();
    assert_eq!(plan.arena_bytes, 3 * 64, "{plan}");
}

#[test]
fn empty_buffers_have_one_readable_element() {
    let plan = MemoryPlan::new(&chain(1), &DimEnv::new().with("A", 0)).unwrap();
    assert_eq!(plan.buffer_bytes, vec![4, 4, 4]);
    assert_eq!(plan.arena_bytes, 64);
}

#[test]
fn sizes_that_are_impossible_are_refused() {
    let plan = |a: i64| MemoryPlan::new(&chain(1), &DimEnv::new().with("A", a));
    assert!(matches!(plan(i64::MAX), Err(PlanError::Overflow { .. })));
    assert!(matches!(plan(-1), Err(PlanError::Negative { value: -1, .. })));
    let unbound = MemoryPlan::new(&chain(1), &DimEnv::new());
    assert_eq!(
        unbound.unwrap_err().to_string(),
        "buffer `v0`: symbol `A` has no value; give it with an input or as a dimension"
    );
}

#[test]
fn a_plan_over_the_limit_says_how_much_is_needed_and_allowed() {
    let plan = MemoryPlan::new(&chain(1), &DimEnv::new().with("A", 16)).unwrap();
    plan.check_limit(192).unwrap();
    let error = plan.check_limit(191).unwrap_err();
    assert_eq!(error.to_string(), "the run needs 192 bytes of memory, 191 are allowed");
}

#[test]
fn the_plan_prints_as_a_table() {
    let plan = MemoryPlan::new(&chain(2), &DimEnv::new().with("A", 20)).unwrap();
    let expected = "\
buffer         bytes        offset  live
v1                80             0  0..=1
v2                80           128  1..=2
at A = 20
arena 256 bytes (fullest point 256, one block a buffer 160)
weights 0 bytes, inputs 80 bytes, outputs 80 bytes, peak 416 bytes
";
    assert_eq!(plan.to_string(), expected);
}
