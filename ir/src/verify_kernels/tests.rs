use smallvec::smallvec;

use super::*;
use crate::dtype::Literal;
use crate::kernel::{Coordinate, Element, Kernel, Recurrence, Store, TypedElement};
use crate::ops::{Direction, ReduceOp, ScalarOp};

fn f32s(shape: &[&str]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

fn buffer(name: &str, ty: TensorType, kind: BufferKind) -> Buffer {
    Buffer { name: name.into(), ty, kind }
}

fn element(dtype: DType, element: Element) -> TypedElement {
    TypedElement { element, dtype }
}

fn load(buffer: u32, axes: &[usize]) -> TypedElement {
    let index = axes.iter().map(|a| Coordinate::Static(Expr::axis(*a))).collect();
    element(DType::F32, Element::Load { buffer: BufferId(buffer), index })
}

fn store(buffer: u32, axes: &[usize], value: u32) -> Store {
    let index = axes.iter().map(|a| Expr::axis(*a)).collect();
    Store { buffer: BufferId(buffer), index, value: ElementId(value) }
}

fn kernel(
    name: &str,
    rank: usize,
    extents: &[&str],
    elements: Vec<TypedElement>,
    stores: Vec<Store>,
) -> Kernel {
    let extents = extents.iter().map(Expr::symbol).collect();
    Kernel { name: name.into(), rank, extents, elements, stores, ops: vec![] }
}

/// `h = h·w + x[t]` over time, with the final state and all states as outputs.
fn recurrence() -> KernelGraph {
    let buffers = vec![
        buffer("x", f32s(&["T", "B", "H"]), BufferKind::Input(0)),
        buffer("w", f32s(&["H", "H"]), BufferKind::Input(1)),
        buffer("h", f32s(&["B", "H"]), BufferKind::State),
        buffer("h2", f32s(&["B", "H"]), BufferKind::State),
        buffer("y", f32s(&["T", "B", "H"]), BufferKind::Output(0)),
        buffer("hn", f32s(&["B", "H"]), BufferKind::Output(1)),
    ];
    let zero = element(DType::F32, Element::Constant(Literal::from_i64(DType::F32, 0)));
    let start = kernel("start", 2, &["B", "H"], vec![zero], vec![store(2, &[0, 1], 0)]);
    let sum = Element::Reduce { op: ReduceOp::Sum, axes: smallvec![Axis(2)], body: ElementId(2) };
    let at_time = Element::Load {
        buffer: BufferId(0),
        index: smallvec![
            Coordinate::Static(Expr::symbol("%t")),
            Coordinate::Static(Expr::axis(0)),
            Coordinate::Static(Expr::axis(1))
        ],
    };
    let elements = vec![
        load(2, &[0, 2]),
        load(1, &[2, 1]),
        element(DType::F32, Element::Scalar(ScalarOp::Mul, smallvec![ElementId(0), ElementId(1)])),
        element(DType::F32, sum),
        element(DType::F32, at_time),
        element(DType::F32, Element::Scalar(ScalarOp::Add, smallvec![ElementId(3), ElementId(4)])),
    ];
    let history = Store {
        buffer: BufferId(4),
        index: smallvec![Expr::symbol("%t"), Expr::axis(0), Expr::axis(1)],
        value: ElementId(5),
    };
    let step = kernel("step", 2, &["B", "H", "H"], elements, vec![store(3, &[0, 1], 5), history]);
    let over_time = Loop {
        counter: Symbol::new("%t"),
        trip: Expr::symbol("T"),
        direction: Direction::Forward,
        carries: vec![Carry { current: BufferId(2), next: BufferId(3) }],
        body: vec![Step::Kernel(step)],
    };
    let finish = kernel("finish", 2, &["B", "H"], vec![load(2, &[0, 1])], vec![store(5, &[0, 1], 0)]);
    let steps = vec![Step::Kernel(start), Step::Loop(over_time), Step::Kernel(finish)];
    KernelGraph { name: "rnn".into(), buffers, steps }
}

fn error(change: impl FnOnce(&mut KernelGraph)) -> KernelVerifyError {
    let mut graph = recurrence();
    assert_eq!(verify_kernels(&graph), Ok(()));
    change(&mut graph);
    verify_kernels(&graph).expect_err("an invariant is broken")
}

fn cause(change: impl FnOnce(&mut KernelGraph)) -> KernelVerifyCause {
    *error(change).cause
}

fn kernel_at(graph: &mut KernelGraph, step: usize) -> &mut Kernel {
    match &mut graph.steps[step] {
        Step::Kernel(kernel) => kernel,
        Step::Loop(_) => panic!("step {step} is a loop"),
    }
}

fn time_loop(graph: &mut KernelGraph) -> &mut Loop {
    match &mut graph.steps[1] {
        Step::Loop(l) => l,
        Step::Kernel(_) => panic!("step 1 is a kernel"),
    }
}

fn step_kernel(graph: &mut KernelGraph) -> &mut Kernel {
    match &mut time_loop(graph).body[0] {
        Step::Kernel(kernel) => kernel,
        Step::Loop(_) => panic!("the body begins with a loop"),
    }
}

#[test]
fn ids_are_in_range() {
    let store = cause(|g| kernel_at(g, 0).stores[0].buffer = BufferId(60));
    assert_eq!(store, KernelVerifyCause::NoBuffer(BufferId(60)));
    let load = cause(|g| step_kernel(g).elements[0] = super::tests::load(60, &[0, 1]));
    assert_eq!(load, KernelVerifyCause::NoBuffer(BufferId(60)));
    let carry = cause(|g| time_loop(g).carries[0].next = BufferId(60));
    assert_eq!(carry, KernelVerifyCause::NoBuffer(BufferId(60)));
    let value = cause(|g| kernel_at(g, 0).stores[0].value = ElementId(9));
    assert_eq!(value, KernelVerifyCause::NoElement(ElementId(9)));
    let axis = cause(|g| step_kernel(g).elements[0] = super::tests::load(2, &[0, 3]));
    assert_eq!(axis, KernelVerifyCause::NoAxis { axis: Axis(3), count: 3 });
    let rank = cause(|g| kernel_at(g, 0).rank = 3);
    assert_eq!(rank, KernelVerifyCause::Rank { rank: 3, count: 2 });
}

#[test]
fn names_and_roles_are_unique() {
    let buffer = cause(|g| g.buffers[1].name = "x".into());
    assert!(matches!(buffer, KernelVerifyCause::Duplicate(_)));
    let unnamed = cause(|g| g.buffers[1].name.clear());
    assert!(matches!(unnamed, KernelVerifyCause::Name { what: "a buffer", .. }));
    let kernel = cause(|g| kernel_at(g, 2).name = "step".into());
    assert!(matches!(kernel, KernelVerifyCause::Duplicate(_)));
    let identifier = cause(|g| kernel_at(g, 2).name = "a b".into());
    assert!(matches!(identifier, KernelVerifyCause::Name { what: "a kernel", .. }));
    let input = cause(|g| g.buffers[1].kind = BufferKind::Input(0));
    assert_eq!(input, KernelVerifyCause::Duplicate("input 0".into()));
    let output = cause(|g| g.buffers[5].kind = BufferKind::Output(0));
    assert_eq!(output, KernelVerifyCause::Duplicate("output 0".into()));
    let counter = cause(|g| {
        let twin = time_loop(g).clone();
        time_loop(g).body.push(Step::Loop(twin));
    });
    assert!(matches!(counter, KernelVerifyCause::Duplicate(_)));
}

#[test]
fn dimensions_have_no_axes_and_buffers_no_counters() {
    let axis = cause(|g| kernel_at(g, 0).extents[0] = Expr::axis(0));
    assert_eq!(axis, KernelVerifyCause::Dimension("i0".into()));
    let negative = cause(|g| g.buffers[0].ty.shape[0] = Expr::constant(-1));
    assert_eq!(negative, KernelVerifyCause::Dimension("-1".into()));
    let shape = cause(|g| g.buffers[0].ty.shape[0] = Expr::symbol("%t"));
    assert_eq!(shape, KernelVerifyCause::CounterOutside(Symbol::new("%t")));
    let outside = cause(|g| kernel_at(g, 2).stores[0].index[0] = Expr::axis(0) + Expr::symbol("%t"));
    assert_eq!(outside, KernelVerifyCause::CounterOutside(Symbol::new("%t")));
    let own_trip = cause(|g| time_loop(g).trip = Expr::symbol("%t"));
    assert_eq!(own_trip, KernelVerifyCause::CounterOutside(Symbol::new("%t")));
}

#[test]
fn operands_come_first() {
    let later = cause(|g| {
        step_kernel(g).elements[2].element =
            Element::Scalar(ScalarOp::Mul, smallvec![ElementId(0), ElementId(2)]);
    });
    assert_eq!(later, KernelVerifyCause::Order(ElementId(2)));
}

#[test]
fn element_types_follow_the_op_table() {
    let recorded = cause(|g| step_kernel(g).elements[2].dtype = DType::F64);
    assert!(matches!(recorded, KernelVerifyCause::DType { got: DType::F64, .. }));
    let domain = cause(|g| {
        step_kernel(g).elements[2].element =
            Element::Scalar(ScalarOp::And, smallvec![ElementId(0), ElementId(1)]);
    });
    assert!(matches!(domain, KernelVerifyCause::Infer(_)));
    let arity = cause(|g| {
        step_kernel(g).elements[2].element = Element::Scalar(ScalarOp::Mul, smallvec![ElementId(0)]);
    });
    assert!(matches!(arity, KernelVerifyCause::Infer(InferError::Arity { .. })));
    let loaded = cause(|g| step_kernel(g).elements[0].dtype = DType::F16);
    assert!(matches!(loaded, KernelVerifyCause::DType { got: DType::F16, .. }));
    let stored = cause(|g| g.buffers[5].ty.dtype = DType::F64);
    assert!(matches!(stored, KernelVerifyCause::DType { got: DType::F32, .. }));
    let argument = cause(|g| {
        step_kernel(g).elements[3].element =
            Element::Reduce { op: ReduceOp::ArgMax, axes: smallvec![Axis(2)], body: ElementId(2) };
    });
    assert!(matches!(argument, KernelVerifyCause::DType { got: DType::F32, .. }));
}

#[test]
fn coordinates_fit_the_buffer() {
    let loaded = cause(|g| step_kernel(g).elements[0] = load(2, &[0]));
    assert!(matches!(loaded, KernelVerifyCause::Coordinates { coordinates: 1, .. }));
    let stored = cause(|g| _ = kernel_at(g, 0).stores[0].index.pop());
    assert!(matches!(stored, KernelVerifyCause::Coordinates { coordinates: 1, .. }));
    let dynamic = cause(|g| {
        let index = smallvec![Coordinate::Dynamic(ElementId(0)), Coordinate::Static(Expr::axis(1))];
        step_kernel(g).elements[1].element = Element::Load { buffer: BufferId(1), index };
    });
    assert!(matches!(dynamic, KernelVerifyCause::DType { got: DType::F32, .. }));
}

#[test]
fn reduction_axes_are_bound_once_and_stay_inside() {
    let leak = cause(|g| step_kernel(g).stores[0].value = ElementId(2));
    assert_eq!(leak, KernelVerifyCause::FreeAxis { what: "the stored value", axis: Axis(2) });
    let index = cause(|g| step_kernel(g).stores[0].index[1] = Expr::axis(2));
    assert_eq!(index, KernelVerifyCause::FreeAxis { what: "the index", axis: Axis(2) });
    let unbound = cause(|g| kernel_at(g, 0).extents.push(Expr::symbol("K")));
    assert!(matches!(unbound, KernelVerifyCause::Binding { axis: Axis(2), .. }));
    let reduce = |axis, body| Element::Reduce {
        op: ReduceOp::Sum,
        axes: smallvec![Axis(axis)],
        body: ElementId(body),
    };
    let twice = cause(|g| step_kernel(g).elements[5].element = reduce(2, 2));
    assert_eq!(twice, KernelVerifyCause::Binding { axis: Axis(2), problem: "is bound twice" });
    let space = cause(|g| step_kernel(g).elements[3].element = reduce(1, 2));
    assert!(matches!(space, KernelVerifyCause::Binding { axis: Axis(1), .. }));
}

#[test]
fn points_do_not_overwrite_each_other() {
    let same = cause(|g| kernel_at(g, 0).stores[0].index[1] = Expr::constant(0));
    assert_eq!(same, KernelVerifyCause::Overwrites { axis: Axis(1), extent: Expr::symbol("H") });
    let mut single = recurrence();
    single.buffers[5].ty.shape[1] = Expr::constant(1);
    kernel_at(&mut single, 2).extents[1] = Expr::constant(1);
    kernel_at(&mut single, 2).stores[0].index[1] = Expr::constant(0);
    assert_eq!(verify_kernels(&single), Ok(()));
}

#[test]
fn a_kernel_stores_something_that_it_does_not_load() {
    let nothing = cause(|g| kernel_at(g, 2).stores.clear());
    assert_eq!(nothing, KernelVerifyCause::NoStores);
    let temporary = cause(|g| {
        g.buffers.push(buffer("t", f32s(&["B", "H"]), BufferKind::Temporary));
        let first =
            kernel("fill", 2, &["B", "H"], kernel_at(g, 0).elements.clone(), vec![store(6, &[0, 1], 0)]);
        let in_place = kernel("again", 2, &["B", "H"], vec![load(6, &[0, 1])], vec![store(6, &[0, 1], 0)]);
        g.steps.extend([Step::Kernel(first), Step::Kernel(in_place)]);
    });
    assert_eq!(temporary, KernelVerifyCause::LoadsItsStore("t".into()));
}

#[test]
fn inputs_are_never_stored_and_outputs_once_by_a_kernel() {
    let input = cause(|g| {
        g.buffers[5].kind = BufferKind::Input(2);
    });
    assert_eq!(input, KernelVerifyCause::StoresInput("hn".into()));
    let never = cause(|g| _ = g.steps.pop());
    assert_eq!(never, KernelVerifyCause::OutputNotStored("hn".into()));
    let twice = cause(|g| {
        let kernel = kernel_at(g, 2);
        kernel.stores.push(kernel.stores[0].clone());
    });
    assert_eq!(twice, KernelVerifyCause::OutputStoredTwice("hn".into()));
    // Whether two kernels store different parts depends on the dimensions: running it tells.
    let mut parts = recurrence();
    let mut again = kernel_at(&mut parts, 2).clone();
    again.name = "again".into();
    parts.steps.push(Step::Kernel(again));
    assert_eq!(verify_kernels(&parts), Ok(()));
}

/// The loop over time, once more.
fn again(graph: &mut KernelGraph) -> Loop {
    let mut again = time_loop(graph).clone();
    again.counter = Symbol::new("%again");
    let Step::Kernel(kernel) = &mut again.body[0] else { panic!("the body begins with a loop") };
    kernel.name = "again".into();
    let counter = |atom: &crate::expr::Atom| match atom {
        crate::expr::Atom::Symbol(s) if s.name() == "%t" => Some(Expr::symbol("%again")),
        _ => None,
    };
    for typed in &mut kernel.elements {
        let Element::Load { index, .. } = &mut typed.element else { continue };
        for coordinate in index {
            if let Coordinate::Static(e) = coordinate {
                *e = e.substitute(&counter);
            }
        }
    }
    kernel.stores.iter_mut().flat_map(|s| &mut s.index).for_each(|e| *e = e.substitute(&counter));
    again
}

#[test]
fn loops_one_after_the_other_may_carry_one_state_and_store_parts_of_an_output() {
    let mut graph = recurrence();
    let second = again(&mut graph);
    graph.steps.insert(2, Step::Loop(second));
    assert_eq!(verify_kernels(&graph), Ok(()));
}

#[test]
fn loops_within_each_other_carry_states_of_their_own() {
    let nested = cause(|g| {
        let mut inner = again(g);
        inner.body.iter_mut().for_each(|step| {
            if let Step::Kernel(kernel) = step {
                kernel.stores.truncate(1);
            }
        });
        time_loop(g).body.push(Step::Loop(inner));
    });
    let KernelVerifyCause::Carry { problem, .. } = nested else { panic!("{nested}") };
    assert_eq!(problem, "a loop around this one, or another carry of this one, is the same");
}

#[test]
fn buffers_are_written_before_they_are_read() {
    let early = cause(|g| kernel_at(g, 2).elements[0] = load(3, &[0, 1]));
    assert_eq!(early, KernelVerifyCause::ReadBeforeWrite("h2".into()));
    let next = cause(|g| step_kernel(g).elements[0] = load(3, &[0, 2]));
    assert_eq!(next, KernelVerifyCause::ReadBeforeWrite("h2".into()));
}

#[test]
fn carries_are_two_states_with_a_beginning() {
    let problem = |change: fn(&mut KernelGraph)| match cause(change) {
        KernelVerifyCause::Carry { problem, .. } => problem,
        other => panic!("{other}"),
    };
    assert_eq!(problem(|g| time_loop(g).carries[0].next = BufferId(2)), "the two are one buffer");
    assert_eq!(problem(|g| g.buffers[3].kind = BufferKind::Temporary), "both must be states");
    assert_eq!(problem(|g| g.buffers[3].ty = f32s(&["B", "K"])), "the types differ");
    assert_eq!(problem(|g| _ = g.steps.remove(0)), "nothing writes the initial state");
    assert_eq!(problem(|g| _ = step_kernel(g).stores.remove(0)), "no step writes the next state");
    let again = |g: &mut KernelGraph| {
        let carry = time_loop(g).carries[0];
        time_loop(g).carries.push(carry);
    };
    assert_eq!(problem(again), "a loop around this one, or another carry of this one, is the same");
    let crossed = |g: &mut KernelGraph| {
        let Carry { current, next } = time_loop(g).carries[0];
        let mut second = super::tests::again(g);
        second.carries = vec![Carry { current: next, next: current }];
        g.steps.insert(2, Step::Loop(second));
    };
    assert_eq!(problem(crossed), "another carry has one of them");
    let current = cause(|g| step_kernel(g).stores[0].buffer = BufferId(2));
    assert_eq!(current, KernelVerifyCause::StoresCurrent("h".into()));
    let loose = cause(|g| g.buffers.push(buffer("s", f32s(&["B"]), BufferKind::State)));
    assert_eq!(loose, KernelVerifyCause::LooseState("s".into()));
}

/// `s(t) = a·s(t-1) + x(t)` over `T` beside `B`, with all states and the last one as outputs.
fn linear() -> KernelGraph {
    let buffers = vec![
        buffer("x", f32s(&["T", "B"]), BufferKind::Input(0)),
        buffer("a", f32s(&["B"]), BufferKind::Input(1)),
        buffer("y", f32s(&["T", "B"]), BufferKind::Output(0)),
        buffer("last", f32s(&["B"]), BufferKind::Output(1)),
    ];
    let elements = vec![load(1, &[1]), load(0, &[0, 1]), state(0, [0, 0, 1], false)];
    let stores = vec![store(2, &[0, 1], 2), store(3, &[1], 2)];
    let kernel = kernel("linear", 2, &["T", "B"], elements, stores);
    KernelGraph { name: "linear".into(), buffers, steps: vec![Step::Kernel(kernel)] }
}

fn state(axis: u32, operands: [u32; 3], exclusive: bool) -> TypedElement {
    let [init, factor, term] = operands.map(ElementId);
    element(
        DType::F32,
        Element::Recurrence { state: Recurrence { axis: Axis(axis), init, factor, term }, exclusive },
    )
}

#[test]
fn recurrences_run_along_one_axis_of_the_space() {
    assert_eq!(verify_kernels(&linear()), Ok(()));
    let cause = |change: fn(&mut KernelGraph)| {
        let mut graph = linear();
        change(&mut graph);
        *verify_kernels(&graph).expect_err("an invariant is broken").cause
    };
    let problem = |change: fn(&mut KernelGraph)| match cause(change) {
        KernelVerifyCause::Recurrence { problem, .. } => problem,
        other => panic!("{other}"),
    };
    let initial = problem(|g| kernel_at(g, 0).elements[2] = state(0, [1, 0, 1], false));
    assert_eq!(initial, "the initial state depends on it");
    let outside = problem(|g| kernel_at(g, 0).elements[2] = state(2, [0, 0, 1], false));
    assert_eq!(outside, "it is no axis of the space");
    let two = problem(|g| {
        kernel_at(g, 0)
            .elements
            .push(element(DType::F32, Element::Constant(Literal::from_i64(DType::F32, 0))));
        kernel_at(g, 0).elements.push(state(1, [3, 3, 1], false));
    });
    assert_eq!(two, "another recurrence of the kernel runs along another axis");
    let inner = problem(|g| {
        let sum = Element::Reduce { op: ReduceOp::Sum, axes: smallvec![Axis(2)], body: ElementId(1) };
        let kernel = kernel_at(g, 0);
        kernel.extents.push(Expr::symbol("T"));
        kernel.elements[1] = load(0, &[2, 1]);
        kernel.elements.push(element(DType::F32, sum));
    });
    assert_eq!(inner, "an operand depends on an axis that is not of the space");
    let bools = problem(|g| {
        g.buffers.iter_mut().for_each(|b| b.ty.dtype = DType::Bool);
        kernel_at(g, 0).elements.iter_mut().for_each(|e| e.dtype = DType::Bool);
    });
    assert_eq!(bools, "its type is not numeric");
    let mixed = cause(|g| kernel_at(g, 0).elements[2].dtype = DType::F64);
    assert!(matches!(mixed, KernelVerifyCause::DType { got: DType::F32, .. }));
    let later = cause(|g| kernel_at(g, 0).elements[2] = state(0, [0, 2, 1], false));
    assert_eq!(later, KernelVerifyCause::Order(ElementId(2)));
}

#[test]
fn only_the_state_after_the_last_point_is_stored_without_the_axis() {
    let overwrites = KernelVerifyCause::Overwrites { axis: Axis(0), extent: Expr::symbol("T") };
    let stored = |change: fn(&mut Kernel)| {
        let mut graph = linear();
        change(kernel_at(&mut graph, 0));
        *verify_kernels(&graph).expect_err("an invariant is broken").cause
    };
    assert_eq!(stored(|k| k.elements[2] = state(0, [0, 0, 1], true)), overwrites);
    assert_eq!(stored(|k| k.stores[1].value = ElementId(1)), overwrites);
    let other = stored(|k| k.stores[1].index[0] = Expr::constant(0));
    assert_eq!(other, KernelVerifyCause::Overwrites { axis: Axis(1), extent: Expr::symbol("B") });
}

#[test]
fn loops_nest_within_the_limit() {
    let deep = cause(|g| {
        for i in 0..MAX_SCAN_DEPTH {
            let body = std::mem::take(&mut g.steps);
            let (counter, trip) = (Symbol::new(format!("%u{i}")), Expr::constant(2));
            g.steps = vec![Step::Loop(Loop {
                counter,
                trip,
                direction: Direction::Forward,
                carries: vec![],
                body,
            })];
        }
    });
    assert_eq!(deep, KernelVerifyCause::Depth);
}

#[test]
fn an_error_shows_the_way_and_the_lines_around() {
    let error = error(|g| step_kernel(g).elements[5].dtype = DType::F64);
    assert_eq!(
        error.to_string(),
        "rnn/loop %t/kernel step/e5: add is f64, but must be f32
      e2: f32 = mul e0, e1
      e3: f32 = sum [i2 < H] e2
      e4: f32 = load x[%t, i0, i1]
>     e5: f64 = add e3, e4
      store h2[i0, i1] = e5
      store y[%t, i0, i1] = e5
    }
"
    );
}
