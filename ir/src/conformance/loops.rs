//! Cases of the scan.

use super::structural::{Builder, exact, numbers};
use super::{Case, expected_type};
use crate::dtype::{DType, Literal};
use crate::expr::Dim;
use crate::graph::{Graph, Scan, ValueId};
use crate::ops::{Direction, Op, ScalarOp};
use crate::tensor::Tensor;

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::F16, DType::Bf16, DType::I32, DType::I64] {
        out.extend(running_sums(dtype));
        out.push(recurrence(dtype));
        out.push(counter(dtype));
        out.push(nested(dtype));
    }
    out.extend([Direction::Forward, Direction::Reverse].map(padding_is_never_seen));
    out
}

fn scan(b: &mut Builder, scan: Scan, operands: &[ValueId]) -> Vec<ValueId> {
    b.graph.add_node(Op::Scan(Box::new(scan)), operands, None).expect("the case is well-typed").to_vec()
}

fn add(b: &mut Builder, x: ValueId, y: ValueId) -> ValueId {
    b.apply(Op::Scalar(ScalarOp::Add), &[x, y])
}

fn multiply(b: &mut Builder, x: ValueId, y: ValueId) -> ValueId {
    b.apply(Op::Scalar(ScalarOp::Mul), &[x, y])
}

/// `s ← s + x_t`, giving the final sum and all sums on the way; rows `B`, steps `T`.
fn sum_graph(dtype: DType, direction: Direction, lengths: bool) -> Graph {
    let mut step = Builder::new("step");
    let (s, x) = (step.input("s", dtype, &["B"]), step.input("x", dtype, &["B"]));
    let sum = add(&mut step, s, x);
    let body = step.finish(&[sum, sum]);
    let mut b = Builder::new("running_sum");
    let mut operands = vec![b.input("s0", dtype, &["B"]), b.input("x", dtype, &["T", "B"])];
    if lengths {
        operands.push(b.input("lengths", DType::I32, &["B"]));
    }
    let trip = Dim::symbol("T");
    let results = scan(&mut b, Scan { body, carries: 1, scanned: 1, trip, direction, lengths }, &operands);
    b.finish(&results)
}

fn running_sums(dtype: DType) -> Vec<Case> {
    let wide = expected_type(dtype);
    let inputs = || vec![numbers(dtype, &[2], [10, 20]), numbers(dtype, &[3, 2], [1, 2, 3, 4, 5, 6])];
    let case = |name: &str, graph, inputs, last: [i64; 2], all: &[i64]| {
        let stacked = numbers(wide, &[all.len() / 2, 2], all.iter().copied());
        let expected = vec![numbers(wide, &[2], last), stacked];
        exact(format!("scan::{name}::{dtype}"), graph, inputs, expected)
    };
    let with_lengths = |lengths: [i64; 2]| {
        let mut inputs = inputs();
        inputs.push(numbers(DType::I32, &[2], lengths));
        inputs
    };
    let none = vec![numbers(dtype, &[2], [10, 20]), numbers(dtype, &[0, 2], [])];
    let (forward, reverse) = (Direction::Forward, Direction::Reverse);
    vec![
        case("forward", sum_graph(dtype, forward, false), inputs(), [19, 32], &[11, 22, 14, 26, 19, 32]),
        case("reverse", sum_graph(dtype, reverse, false), inputs(), [19, 32], &[19, 32, 18, 30, 15, 26]),
        case("no_steps", sum_graph(dtype, forward, false), none, [10, 20], &[]),
        case(
            "lengths",
            sum_graph(dtype, forward, true),
            with_lengths([2, 3]),
            [14, 32],
            &[11, 22, 14, 26, 0, 32],
        ),
        case(
            "reverse_with_lengths",
            sum_graph(dtype, reverse, true),
            with_lengths([2, 3]),
            [14, 32],
            &[14, 32, 13, 30, 0, 26],
        ),
        case(
            "lengths_out_of_range",
            sum_graph(dtype, forward, true),
            with_lengths([-1, 100]),
            [10, 32],
            &[0, 22, 0, 26, 0, 32],
        ),
    ]
}

/// `h ← w·h + x_t` with a captured matrix: what a step reads is all of the last state, never half of a new one.
fn recurrence(dtype: DType) -> Case {
    let mut step = Builder::new("step");
    let h = step.input("h", dtype, &["H"]);
    let x = step.input("x", dtype, &["H"]);
    let w = step.input("w", dtype, &["H", "H"]);
    let product = step.apply(Op::Contract { batch: vec![], axes: vec![(1, 0)] }, &[w, h]);
    let next = add(&mut step, product, x);
    let body = step.finish(&[next, h]);
    let mut b = Builder::new("recurrence");
    let operands =
        [b.input("h0", dtype, &["H"]), b.input("x", dtype, &["T", "H"]), b.input("w", dtype, &["H", "H"])];
    let loop_ = Scan {
        body,
        carries: 1,
        scanned: 1,
        trip: Dim::symbol("T"),
        direction: Direction::Forward,
        lengths: false,
    };
    let results = scan(&mut b, loop_, &operands);
    let inputs = vec![
        numbers(dtype, &[2], [1, 2]),
        numbers(dtype, &[3, 2], [1, 0, 0, 1, 1, 1]),
        numbers(dtype, &[2, 2], [0, 1, 1, 1]),
    ];
    // (1, 2) → (2+1, 3+0) = (3, 3) → (3+0, 6+1) = (3, 7) → (7+1, 10+1) = (8, 11).
    let wide = expected_type(dtype);
    let expected = vec![numbers(wide, &[2], [8, 11]), numbers(wide, &[3, 2], [1, 2, 3, 3, 3, 7])];
    exact(format!("scan::recurrence::{dtype}"), b.finish(&results), inputs, expected)
}

/// Two carries of different types, one of which is only copied, no scanned input, a trip of `T` from elsewhere.
fn counter(dtype: DType) -> Case {
    let mut step = Builder::new("step");
    let n = step.input("n", DType::I64, &[]);
    let (x, y) = (step.input("x", dtype, &[]), step.input("y", dtype, &[]));
    let one = step.apply(Op::Constant { value: Literal::from_i64(DType::I64, 1) }, &[]);
    let more = add(&mut step, n, one);
    // The two swap places at every step.
    let body = step.finish(&[more, y, x, n]);
    let mut b = Builder::new("counter");
    let n0 = b.input("n0", DType::I64, &[]);
    let (x0, y0) = (b.input("x0", dtype, &[]), b.input("y0", dtype, &[]));
    let clock = b.input("clock", DType::U8, &["T"]);
    let loop_ = Scan {
        body,
        carries: 3,
        scanned: 0,
        trip: Dim::symbol("T"),
        direction: Direction::Reverse,
        lengths: false,
    };
    let mut outputs = scan(&mut b, loop_, &[n0, x0, y0]);
    outputs.push(clock);
    let inputs = vec![
        numbers(DType::I64, &[], [5]),
        numbers(dtype, &[], [1]),
        numbers(dtype, &[], [2]),
        numbers(DType::U8, &[3], [7, 8, 9]),
    ];
    let wide = expected_type(dtype);
    let expected = vec![
        numbers(DType::I64, &[], [8]),
        numbers(wide, &[], [2]),
        numbers(wide, &[], [1]),
        numbers(DType::I64, &[3], [7, 6, 5]),
        numbers(DType::U8, &[3], [7, 8, 9]),
    ];
    exact(format!("scan::counter::{dtype}"), b.finish(&outputs), inputs, expected)
}

/// A loop in a loop: the outer carry is the inner one's initial state.
fn nested(dtype: DType) -> Case {
    let mut inner = Builder::new("inner");
    let (s, x, k) =
        (inner.input("s", dtype, &[]), inner.input("x", dtype, &[]), inner.input("k", dtype, &[]));
    let scaled = multiply(&mut inner, x, k);
    let sum = add(&mut inner, s, scaled);
    let inner = inner.finish(&[sum]);
    let mut outer = Builder::new("outer");
    let s = outer.input("s", dtype, &[]);
    let row = outer.input("row", dtype, &["N"]);
    let k = outer.input("k", dtype, &[]);
    let forward = |body, trip: &str| Scan {
        body,
        carries: 1,
        scanned: 1,
        trip: Dim::symbol(trip),
        direction: Direction::Forward,
        lengths: false,
    };
    let total = scan(&mut outer, forward(inner, "N"), &[s, row, k])[0];
    let outer = outer.finish(&[total, total]);
    let mut b = Builder::new("nested");
    let operands = [b.input("s0", dtype, &[]), b.input("x", dtype, &["T", "N"]), b.input("k", dtype, &[])];
    let results = scan(&mut b, forward(outer, "T"), &operands);
    let inputs =
        vec![numbers(dtype, &[], [1]), numbers(dtype, &[2, 3], [1, 2, 3, 4, 5, 6]), numbers(dtype, &[], [2])];
    let wide = expected_type(dtype);
    let expected = vec![numbers(wide, &[], [43]), numbers(wide, &[2], [13, 43])];
    exact(format!("scan::nested::{dtype}"), b.finish(&results), inputs, expected)
}

/// Padding of NaN leaves no trace in carries or stacked values.
fn padding_is_never_seen(direction: Direction) -> Case {
    let nan = f32::NAN;
    let x = Tensor::from_values(&[3, 2], &[1.0, 2.0, 3.0, nan, nan, nan]).expect("six elements");
    let inputs = vec![numbers(DType::F32, &[2], [10, 20]), x, numbers(DType::I32, &[2], [2, 1])];
    let (name, all) = match direction {
        Direction::Forward => ("padding_of_nan", [11, 22, 14, 0, 0, 0]),
        Direction::Reverse => ("reverse_padding_of_nan", [14, 22, 13, 0, 0, 0]),
    };
    let expected = vec![numbers(DType::F64, &[2], [14, 22]), numbers(DType::F64, &[3, 2], all)];
    exact(format!("scan::{name}::f32"), sum_graph(DType::F32, direction, true), inputs, expected)
}
