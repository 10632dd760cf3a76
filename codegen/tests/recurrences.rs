//! Kernels with recurrences: schedules for both targets and Cranelift code against the interpreter of kernel
//! graphs.

mod kernel_support;

use fuse_codegen::kernel_ir::{Mapping, Statement};
use fuse_codegen::schedule::{ScheduleError, ScheduleTarget, schedule};
use fuse_ir::compare::Tolerance;
use fuse_ir::expr::{Axis, Dim, Expr};
use fuse_ir::kernel::{Element, ElementId, Kernel, KernelGraph, Recurrence, Step};
use fuse_ir::{DType, Literal, ReduceOp, ScalarOp};
use kernel_support::{Maker, a, c, check, env, inputs, s};

const CLOSE: Tolerance = Tolerance { ulp: 8.0, absolute: 1e-5, relative: 1e-5 };

fn check_at(graph: &KernelGraph, dims: &[(&str, i64)], tolerance: Tolerance) {
    let env = env(dims);
    check(graph, &inputs(graph, &env), &env, tolerance);
}

fn recurrence(m: &mut Maker, axis: usize, operands: [ElementId; 3], exclusive: bool) -> ElementId {
    let [init, factor, term] = operands;
    let dtype = m.kernel.elements[init.index()].dtype;
    let state = Recurrence { axis: Axis(axis as u32), init, factor, term };
    m.push(dtype, Element::Recurrence { state, exclusive })
}

/// `h = (1 - z)·h + z·n` with `z = sigmoid(g)` over `[T, B, H]`: all states, the state before each point, the
/// last state.
fn gated(dtype: DType, hidden: Dim) -> KernelGraph {
    let space = [s("T"), s("B"), hidden];
    let mut m = Maker::new(&space);
    let (gate, new) = (m.input(dtype, &space), m.input(dtype, &space));
    let start = m.input(dtype, &space[1..]);
    let point = [a(0), a(1), a(2)];
    let (gate, new, start) = (m.load(gate, &point), m.load(new, &point), m.load(start, &point[1..]));
    let z = m.apply(ScalarOp::Sigmoid, &[gate]);
    let one = m.push(dtype, Element::Constant(Literal::from_f64(dtype, 1.0)));
    let keep = m.apply(ScalarOp::Sub, &[one, z]);
    let add = m.apply(ScalarOp::Mul, &[z, new]);
    let after = recurrence(&mut m, 0, [start, keep, add], false);
    let before = recurrence(&mut m, 0, [start, keep, add], true);
    m.store(after);
    m.store(before);
    m.store_at(after, &space[1..], &point[1..]);
    m.finish()
}

fn kernel(graph: &KernelGraph) -> &Kernel {
    match &graph.steps[0] {
        Step::Kernel(kernel) => kernel,
        Step::Loop(_) => panic!("the first step is a kernel"),
    }
}

#[test]
fn gated_states_are_right_at_every_length_and_width() {
    for hidden in [s("H"), c(1), c(7), c(24), c(64)] {
        let graph = gated(DType::F32, hidden.clone());
        for (t, b, h) in [(0, 2, 5), (1, 1, 1), (7, 3, 9), (5, 1, 37), (9, 4, 4), (3, 0, 4), (2, 2, 0)] {
            check_at(&graph, &[("T", t), ("B", b), ("H", h)], CLOSE);
        }
    }
}

#[test]
fn states_of_every_float_width_are_right() {
    check_at(&gated(DType::F64, s("H")), &[("T", 9), ("B", 2), ("H", 11)], CLOSE);
    // The interpreter keeps f64 throughout; a state in memory has the narrow type's precision.
    let half = Tolerance { ulp: 2.0, absolute: 4e-3, relative: 2e-3 };
    check_at(&gated(DType::F16, s("H")), &[("T", 9), ("B", 2), ("H", 19)], half);
    let brain = Tolerance { ulp: 2.0, absolute: 3e-2, relative: 1e-2 };
    check_at(&gated(DType::Bf16, s("H")), &[("T", 9), ("B", 2), ("H", 19)], brain);
}

#[test]
fn integers_wrap_and_sums_have_no_factor() {
    for dtype in [DType::I32, DType::I64, DType::U8, DType::F32] {
        for factor in [1, 3] {
            let space = [s("T"), s("B")];
            let mut m = Maker::new(&space);
            let x = m.input(dtype, &space);
            let x = m.load(x, &[a(0), a(1)]);
            let zero = m.push(dtype, Element::Constant(Literal::from_i64(dtype, 0)));
            let factor = m.push(dtype, Element::Constant(Literal::from_i64(dtype, factor)));
            let sum = recurrence(&mut m, 0, [zero, factor, x], false);
            m.store(sum);
            m.store_at(sum, &space[1..], &[a(1)]);
            let graph = m.finish();
            for (t, b) in [(0, 3), (1, 1), (40, 10)] {
                check_at(&graph, &[("T", t), ("B", b)], CLOSE);
            }
        }
    }
}

#[test]
fn the_axis_may_be_inside_or_alone_and_may_be_read_backwards() {
    // Along the inner axis of memory, from its end.
    let mut m = Maker::new(&[s("B"), s("T")]);
    let x = m.input(DType::F32, &[s("B"), s("T")]);
    let back = s("T") - c(1) - a(1);
    let x = m.load(x, &[a(0), back.clone()]);
    let half = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 0.5)));
    let sum = recurrence(&mut m, 1, [half, half, x], false);
    m.store_at(sum, &[s("B"), s("T")], &[a(0), back]);
    m.store_at(sum, &[s("B")], &[a(0)]);
    let graph = m.finish();
    for (t, b) in [(0, 3), (1, 1), (13, 6)] {
        check_at(&graph, &[("T", t), ("B", b)], CLOSE);
    }
    let mut m = Maker::new(&[s("T")]);
    let x = m.input(DType::F32, &[s("T")]);
    let x = m.load(x, &[a(0)]);
    let half = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 0.5)));
    let sum = recurrence(&mut m, 0, [half, half, x], true);
    m.store(sum);
    let graph = m.finish();
    for t in [0, 1, 17] {
        check_at(&graph, &[("T", t)], CLOSE);
    }
}

#[test]
fn an_initial_state_is_read_where_there_are_no_points() {
    // x[0, …] is read for the factor, and does not exist when T is 0.
    let mut m = Maker::new(&[s("T"), s("B")]);
    let x = m.input(DType::F32, &[s("T"), s("B")]);
    let start = m.input(DType::F32, &[s("B"), c(3)]);
    let first = m.load(x, &[c(0), a(1)]);
    let k = m.axis(c(3));
    let start = m.load(start, &[a(1), a(k.index())]);
    let start = m.reduce(ReduceOp::Sum, &[k], start);
    let x = m.load(x, &[a(0), a(1)]);
    let state = recurrence(&mut m, 0, [start, first, x], false);
    m.store_at(state, &[s("B")], &[a(1)]);
    let graph = m.finish();
    for (t, b) in [(0, 5), (1, 5), (4, 18)] {
        check_at(&graph, &[("T", t), ("B", b)], CLOSE);
    }
}

/// A projection inside, a second recurrence fed by the first, and a reduction over what both give.
#[test]
fn reductions_feed_recurrences_and_are_fed_by_them() {
    let (batch, hidden) = (s("B"), c(20));
    let space = [s("T"), batch.clone(), hidden.clone()];
    let mut m = Maker::new(&space);
    let x = m.input(DType::F32, &[s("T"), batch.clone(), c(6)]);
    let w = m.input(DType::F32, &[c(6), hidden.clone()]);
    let v = m.input(DType::F32, &[c(5), hidden]);
    let term = m.contract(c(6), (x, &|k| vec![a(0), a(1), k]), (w, &|k| vec![k, a(2)]));
    let factor = m.apply(ScalarOp::Tanh, &[term]);
    let zero = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 0.0)));
    let first = recurrence(&mut m, 0, [zero, factor, term], false);
    let earlier = recurrence(&mut m, 0, [zero, factor, term], true);
    let gate = m.apply(ScalarOp::Sigmoid, &[earlier]);
    let second = recurrence(&mut m, 0, [zero, gate, first], false);
    let k = m.axis(c(5));
    let row = m.load(v, &[a(k.index()), a(2)]);
    let product = m.apply(ScalarOp::Mul, &[row, second]);
    let sum = m.reduce(ReduceOp::Sum, &[k], product);
    m.store(second);
    m.store(sum);
    let graph = m.finish();
    for (t, b) in [(0, 2), (1, 1), (6, 5)] {
        check_at(&graph, &[("T", t), ("B", b)], Tolerance { absolute: 1e-4, relative: 1e-4, ..CLOSE });
    }
}

/// What cannot be a vector takes the lanes of the state apart: a transposed store, an integer of another width.
#[test]
fn states_are_taken_apart_where_lanes_go_separate_ways() {
    let space = [s("T"), s("H")];
    let mut m = Maker::new(&space);
    let x = m.input(DType::F32, &space);
    let x = m.load(x, &[a(0), a(1)]);
    let half = m.push(DType::F32, Element::Constant(Literal::from_f64(DType::F32, 0.5)));
    let state = recurrence(&mut m, 0, [half, half, x], false);
    let before = recurrence(&mut m, 0, [half, half, x], true);
    let wide = m.push(DType::I64, Element::Cast(state));
    let odd = m.apply(ScalarOp::Mod, &[before, half]);
    m.store_at(state, &[s("H"), s("T")], &[a(1), a(0)]);
    m.store(odd);
    m.store(wide);
    let graph = m.finish();
    for (t, h) in [(0, 3), (1, 1), (5, 18)] {
        check_at(&graph, &[("T", t), ("H", h)], CLOSE);
    }
}

#[test]
fn one_state_serves_both_its_readers_and_stays_in_a_register() {
    let graph = gated(DType::F32, c(64));
    for (target, threads) in [(ScheduleTarget::cpu(), false), (ScheduleTarget::gpu(), true)] {
        let function = schedule(&graph, kernel(&graph), target).unwrap();
        assert_eq!(matches!(function.mapping, Mapping::Threads { .. }), threads);
        assert!(!function.work.symbols().contains(&fuse_ir::Symbol::new("T")), "{}", function.work);
        let mut carried = Vec::new();
        loops(&function.body, &mut carried);
        // Tiles of four vectors on the CPU, and nothing but the states is carried.
        assert_eq!(carried.into_iter().max(), Some(if threads { 1 } else { 4 }));
    }
}

fn loops(body: &[Statement], carried: &mut Vec<usize>) {
    for statement in body {
        if let Statement::For { carried: values, .. } = statement {
            carried.push(values.len());
        }
        loops(statement.body(), carried);
    }
}

#[test]
fn malformed_recurrences_are_refused() {
    let broken = |change: fn(&mut Kernel)| {
        let mut graph = gated(DType::F32, c(8));
        let Step::Kernel(kernel) = &mut graph.steps[0] else { panic!("the first step is a kernel") };
        change(kernel);
        let kernel = kernel.clone();
        matches!(schedule(&graph, &kernel, ScheduleTarget::cpu()), Err(ScheduleError::Malformed { .. }))
    };
    assert!(broken(|k| set(k, |s| Recurrence { axis: Axis(3), ..s })));
    assert!(broken(|k| set(k, |s| Recurrence { init: s.term, ..s })));
    assert!(broken(|k| {
        k.extents.push(Expr::constant(2));
        k.elements[1].element = Element::Index(Expr::axis(3));
    }));
    assert!(broken(|k| k.elements[2].dtype = DType::F64));
}

fn set(kernel: &mut Kernel, change: fn(Recurrence) -> Recurrence) {
    for e in &mut kernel.elements {
        if let Element::Recurrence { state, .. } = &mut e.element {
            *state = change(*state);
        }
    }
}
