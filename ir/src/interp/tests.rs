//! Behaviour of whole graphs; what single ops compute is tested by the conformance cases.

use super::*;
use crate::dtype::{DType, Literal};
use crate::graph::{InputKind, Scan, ValueId};
use crate::ops::{Direction, Op, ReduceOp, ScalarOp, SliceAxis};
use crate::tensor::Scalar;
use crate::types::TensorType;

fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_values(shape, values).unwrap()
}

fn input(graph: &mut Graph, name: &str, dtype: DType, shape: &[&str]) -> ValueId {
    let shape = shape.iter().map(|d| match d.parse::<i64>() {
        Ok(constant) => Dim::constant(constant),
        Err(_) => Dim::symbol(d),
    });
    graph.add_input(name, InputKind::Input, TensorType::new(dtype, shape))
}

fn node(graph: &mut Graph, op: Op, operands: &[ValueId]) -> ValueId {
    graph.add_node(op, operands, None).unwrap()[0]
}

fn values<T: Scalar>(graph: &Graph, inputs: &[Tensor]) -> Vec<Vec<T>> {
    let outputs = interpret(graph, inputs, Precision::Declared).unwrap();
    outputs.iter().map(|t| t.to_values().unwrap()).collect()
}

/// `s' = s + x_t` from `s0`, returning the final and all intermediate sums; `B` rows where `lengths`.
fn running_sum(direction: Direction, lengths: bool) -> Graph {
    let mut body = Graph::new("step");
    let s = input(&mut body, "s", DType::F32, &["B"]);
    let x = input(&mut body, "x", DType::F32, &["B"]);
    let sum = node(&mut body, Op::Scalar(ScalarOp::Add), &[s, x]);
    body.add_output("s", sum);
    body.add_output("y", sum);
    let mut graph = Graph::new("running_sum");
    let mut operands =
        vec![input(&mut graph, "s0", DType::F32, &["B"]), input(&mut graph, "x", DType::F32, &["T", "B"])];
    if lengths {
        operands.push(input(&mut graph, "lengths", DType::I32, &["B"]));
    }
    let scan = Scan { body, carries: 1, scanned: 1, trip: Dim::symbol("T"), direction, lengths };
    let results = graph.add_node(Op::Scan(Box::new(scan)), &operands, None).unwrap();
    graph.add_output("final", results[0]);
    graph.add_output("all", results[1]);
    graph
}

#[test]
fn a_scan_carries_state_and_stacks_at_the_position_of_each_step() {
    let inputs = [f32s(&[1], &[10.0]), f32s(&[3, 1], &[1.0, 2.0, 3.0])];
    let forward = values::<f32>(&running_sum(Direction::Forward, false), &inputs);
    assert_eq!(forward, [vec![16.0], vec![11.0, 13.0, 16.0]]);
    let reverse = values::<f32>(&running_sum(Direction::Reverse, false), &inputs);
    assert_eq!(reverse, [vec![16.0], vec![16.0, 15.0, 13.0]]);
}

#[test]
fn a_scan_of_no_steps_returns_the_initial_carries() {
    let inputs = [f32s(&[2], &[1.0, 2.0]), f32s(&[0, 2], &[])];
    assert_eq!(values::<f32>(&running_sum(Direction::Forward, false), &inputs), [vec![1.0, 2.0], vec![]]);
}

#[test]
fn lengths_freeze_carries_and_stack_zeros_whatever_the_padding_holds() {
    let nan = f32::NAN;
    let x = f32s(&[3, 4], &[1.0, 1.0, nan, 1.0, 2.0, nan, nan, 2.0, 3.0, nan, nan, 3.0]);
    // Lengths outside [0, T] count as the nearest end.
    let lengths = Tensor::from_values(&[4], &[3i32, 1, -5, 9]).unwrap();
    let inputs = [f32s(&[4], &[0.0, 10.0, 20.0, 30.0]), x, lengths];
    let forward = values::<f32>(&running_sum(Direction::Forward, true), &inputs);
    assert_eq!(forward[0], [6.0, 11.0, 20.0, 36.0]);
    assert_eq!(forward[1], [1.0, 11.0, 0.0, 31.0, 3.0, 0.0, 0.0, 33.0, 6.0, 0.0, 0.0, 36.0]);
    let reverse = values::<f32>(&running_sum(Direction::Reverse, true), &inputs);
    assert_eq!(reverse[0], [6.0, 11.0, 20.0, 36.0]);
    assert_eq!(reverse[1], [6.0, 11.0, 0.0, 36.0, 5.0, 0.0, 0.0, 35.0, 3.0, 0.0, 0.0, 33.0]);
}

#[test]
fn scans_nest_and_capture() {
    // The inner loop adds `c` to its carry N times; the outer one multiplies what the inner one gives by x_t.
    let mut inner = Graph::new("inner");
    let s = input(&mut inner, "s", DType::F32, &[]);
    let c = input(&mut inner, "c", DType::F32, &[]);
    let sum = node(&mut inner, Op::Scalar(ScalarOp::Add), &[s, c]);
    inner.add_output("s", sum);
    let mut outer = Graph::new("outer");
    let s = input(&mut outer, "s", DType::F32, &[]);
    let x = input(&mut outer, "x", DType::F32, &[]);
    let c = input(&mut outer, "c", DType::F32, &[]);
    let scan = Scan {
        body: inner,
        carries: 1,
        scanned: 0,
        trip: Dim::symbol("N"),
        direction: Direction::Forward,
        lengths: false,
    };
    let inside = node(&mut outer, Op::Scan(Box::new(scan)), &[s, c]);
    let product = node(&mut outer, Op::Scalar(ScalarOp::Mul), &[inside, x]);
    outer.add_output("s", product);
    let mut graph = Graph::new("nested");
    let s0 = input(&mut graph, "s0", DType::F32, &[]);
    let x = input(&mut graph, "x", DType::F32, &["T"]);
    let c = input(&mut graph, "c", DType::F32, &[]);
    let scan = Scan {
        body: outer,
        carries: 1,
        scanned: 1,
        trip: Dim::symbol("T"),
        direction: Direction::Forward,
        lengths: false,
    };
    let out = node(&mut graph, Op::Scan(Box::new(scan)), &[s0, x, c]);
    graph.add_output("out", out);
    let inputs = [f32s(&[], &[1.0]), f32s(&[2], &[2.0, 3.0]), f32s(&[], &[0.5])];
    let interpreter = Interpreter::new(Precision::Declared).with_dims(DimEnv::new().with("N", 4));
    let out = interpreter.run(&graph, &inputs).unwrap();
    assert_eq!(out[0].to_values::<f32>().unwrap(), [((1.0 + 2.0) * 2.0 + 2.0) * 3.0]);
    assert_eq!(
        interpret(&graph, &inputs, Precision::Declared).unwrap_err().to_string(),
        "dimension `N` follows from no input; give it with --dim N=…"
    );
}

#[test]
fn f64_precision_carries_narrow_floats_unrounded() {
    let mut graph = Graph::new("thirds");
    let x = input(&mut graph, "x", DType::F16, &[]);
    let third = node(&mut graph, Op::Scalar(ScalarOp::Reciprocal), &[x]);
    let sum = node(&mut graph, Op::Scalar(ScalarOp::Mul), &[third, x]);
    graph.add_output("third", third);
    graph.add_output("sum", sum);
    let x = Tensor::from_values(&[], &[half::f16::from_f32(3.0)]).unwrap();
    let exact = interpret(&graph, std::slice::from_ref(&x), Precision::F64).unwrap();
    assert_eq!(exact[0].to_values::<f64>().unwrap(), [1.0 / 3.0]);
    let declared = interpret(&graph, &[x], Precision::Declared).unwrap();
    assert_eq!(declared[0].dtype(), DType::F16);
    assert_eq!(declared[0].to_f64(), [0.333251953125]);
    assert_eq!(declared[1].to_f64(), [1.0]);
}

#[test]
fn values_are_dropped_after_their_last_use() {
    // A chain of 64 negations of 1 MiB (as f64) each runs in 4 MiB, and one that keeps all does not.
    let chain = |keep_all: bool| {
        let mut graph = Graph::new("chain");
        let mut x = input(&mut graph, "x", DType::F32, &["N"]);
        for i in 0..64 {
            x = node(&mut graph, Op::Scalar(ScalarOp::Neg), &[x]);
            if keep_all {
                graph.add_output(format!("y{i}"), x);
            }
        }
        graph.add_output("y", x);
        graph
    };
    let interpreter = Interpreter::new(Precision::F64).with_limits(Limits { bytes: 4 << 20 });
    let x = Tensor::zeros(DType::F32, &[1 << 17]).unwrap();
    assert!(interpreter.run(&chain(false), std::slice::from_ref(&x)).is_ok());
    let error = interpreter.run(&chain(true), &[x]).unwrap_err().to_string();
    assert_eq!(
        error,
        "node4 (neg): a value of shape [131072] does not fit: 4194304 of at most 4194304 bytes are in use"
    );
}

#[test]
fn absurd_sizes_are_errors() {
    let mut graph = Graph::new("huge");
    let x = input(&mut graph, "x", DType::F32, &["N"]);
    let shape = vec![Dim::symbol("M"), Dim::symbol("M"), Dim::symbol("N")];
    let wide = node(&mut graph, Op::Broadcast { shape, axes: vec![2] }, &[x]);
    let sum = node(&mut graph, Op::Reduce { op: ReduceOp::Sum, axes: vec![0, 1, 2] }, &[wide]);
    graph.add_output("sum", sum);
    for m in [1 << 20, 1 << 40, i64::MAX] {
        let interpreter = Interpreter::new(Precision::F64).with_dims(DimEnv::new().with("M", m));
        let error = interpreter.run(&graph, &[f32s(&[2], &[1.0, 2.0])]).unwrap_err();
        assert!(error.to_string().starts_with("node0 (broadcast): a value of shape"), "{error}");
        // An empty value is empty whatever its other extents.
        let empty = interpreter.run(&graph, &[f32s(&[0], &[])]).unwrap();
        assert_eq!(empty[0].to_f64(), [0.0]);
    }
}

#[test]
fn slices_with_symbolic_ends_are_checked_before_the_run() {
    let mut graph = Graph::new("last");
    let x = input(&mut graph, "x", DType::F32, &["T"]);
    let start = Dim::symbol("T") - Dim::constant(1);
    let axes = vec![SliceAxis { start, length: Dim::constant(1), step: 1 }];
    let last = node(&mut graph, Op::Slice { axes }, &[x]);
    graph.add_output("last", last);
    assert_eq!(values::<f32>(&graph, &[f32s(&[3], &[1.0, 2.0, 3.0])]), [[3.0]]);
    assert!(matches!(
        interpret(&graph, &[f32s(&[0], &[])], Precision::Declared),
        Err(InterpError::Bind(BindError::NegativeExtent { .. }))
    ));
}

#[test]
fn an_output_may_be_an_input_or_repeat_another() {
    let mut graph = Graph::new("copies");
    let x = input(&mut graph, "x", DType::Bool, &["N"]);
    graph.add_output("a", x);
    graph.add_output("b", x);
    let x = Tensor::from_values(&[2], &[true, false]).unwrap();
    assert_eq!(values::<bool>(&graph, &[x]), [[true, false], [true, false]]);
}

#[test]
fn constants_of_every_type_keep_their_value() {
    for dtype in DType::ALL {
        let mut graph = Graph::new("constant");
        let c = node(&mut graph, Op::Constant { value: Literal::from_i64(dtype, 1) }, &[]);
        graph.add_output("c", c);
        let out = interpret(&graph, &[], Precision::Declared).unwrap();
        assert_eq!((out[0].dtype(), out[0].to_f64()), (dtype, vec![1.0]));
    }
}

/// An LSTM in PyTorch's layout: gates i, f, g, o stacked along the rows of the weights.
fn lstm() -> Graph {
    let mut body = Graph::new("cell");
    let h = input(&mut body, "h", DType::F32, &["B", "H"]);
    let c = input(&mut body, "c", DType::F32, &["B", "H"]);
    let x = input(&mut body, "x", DType::F32, &["B", "I"]);
    let four_h = Dim::constant(4) * Dim::symbol("H");
    let weight = |body: &mut Graph, name: &str, columns: &str| {
        let ty = TensorType::new(DType::F32, [four_h.clone(), Dim::symbol(columns)]);
        body.add_input(name, InputKind::Parameter, ty)
    };
    let (w, u) = (weight(&mut body, "w", "I"), weight(&mut body, "u", "H"));
    let dot = || Op::Contract { batch: vec![], axes: vec![(1, 1)] };
    let (xw, hu) = (node(&mut body, dot(), &[x, w]), node(&mut body, dot(), &[h, u]));
    let gates = node(&mut body, Op::Scalar(ScalarOp::Add), &[xw, hu]);
    let mut gate = |k: i64, op: ScalarOp| {
        let whole = SliceAxis { start: Dim::constant(0), length: Dim::symbol("B"), step: 1 };
        let start = Dim::constant(k) * Dim::symbol("H");
        let part = SliceAxis { start, length: Dim::symbol("H"), step: 1 };
        let slice = node(&mut body, Op::Slice { axes: vec![whole, part] }, &[gates]);
        node(&mut body, Op::Scalar(op), &[slice])
    };
    let i = gate(0, ScalarOp::Sigmoid);
    let f = gate(1, ScalarOp::Sigmoid);
    let g = gate(2, ScalarOp::Tanh);
    let o = gate(3, ScalarOp::Sigmoid);
    let mut binary = |op, a, b| node(&mut body, Op::Scalar(op), &[a, b]);
    let (kept, new) = (binary(ScalarOp::Mul, f, c), binary(ScalarOp::Mul, i, g));
    let c1 = binary(ScalarOp::Add, kept, new);
    let squashed = node(&mut body, Op::Scalar(ScalarOp::Tanh), &[c1]);
    let h1 = node(&mut body, Op::Scalar(ScalarOp::Mul), &[o, squashed]);
    body.add_output("h", h1);
    body.add_output("c", c1);
    body.add_output("y", h1);
    let mut graph = Graph::new("lstm");
    let operands = [
        input(&mut graph, "h0", DType::F32, &["B", "H"]),
        input(&mut graph, "c0", DType::F32, &["B", "H"]),
        input(&mut graph, "x", DType::F32, &["T", "B", "I"]),
        weight(&mut graph, "w", "I"),
        weight(&mut graph, "u", "H"),
    ];
    let scan = Scan {
        body,
        carries: 2,
        scanned: 1,
        trip: Dim::symbol("T"),
        direction: Direction::Forward,
        lengths: false,
    };
    for (value, name) in
        graph.add_node(Op::Scan(Box::new(scan)), &operands, None).unwrap().iter().zip(["h", "c", "y"])
    {
        graph.add_output(name, *value);
    }
    graph
}

/// Reproducible values in [-1, 1).
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let count = shape.iter().product();
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = std::iter::repeat_with(next).take(count).collect();
    f32s(shape, &values)
}

#[test]
fn a_long_lstm_agrees_with_plain_loops() {
    let (t, b, i, h) = (5000, 64, 16, 16);
    let inputs = [
        noise(&[b, h], 1),
        noise(&[b, h], 2),
        noise(&[t, b, i], 3),
        noise(&[4 * h, i], 4),
        noise(&[4 * h, h], 5),
    ];
    let out = interpret(&lstm(), &inputs, Precision::F64).unwrap();
    assert_eq!(out[2].shape(), [t, b, h]);
    // One row, computed without any of the interpreter's code.
    let row = 37;
    let [h0, c0, x, w, u] = inputs.each_ref().map(Tensor::to_f64);
    let (mut hs, mut cs) = (h0[row * h..][..h].to_vec(), c0[row * h..][..h].to_vec());
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    for step in 0..t {
        let xs = &x[(step * b + row) * i..][..i];
        let gate = |k: usize| -> f64 {
            let from_x: f64 = (0..i).map(|j| w[k * i + j] * xs[j]).sum();
            from_x + (0..h).map(|j| u[k * h + j] * hs[j]).sum::<f64>()
        };
        let next: Vec<(f64, f64)> = (0..h)
            .map(|k| {
                let c = sigmoid(gate(h + k)) * cs[k] + sigmoid(gate(k)) * gate(2 * h + k).tanh();
                (sigmoid(gate(3 * h + k)) * c.tanh(), c)
            })
            .collect();
        (hs, cs) = next.into_iter().unzip();
    }
    let got = &out[0].to_values::<f64>().unwrap()[row * h..][..h];
    for (got, expected) in got.iter().zip(&hs) {
        assert!((got - expected).abs() < 1e-9, "{got} against {expected}");
    }
}

#[test]
fn sums_that_are_zero_have_either_sign_on_request() {
    let source = "graph g(x: f32[2, 2]) -> (a: f32[2], b: f32[2], c: f32[2, 2], d: f32[2]) {
        %a = sum x axes=[1]
        %b = contract x, x batch=[0:0] axes=[1:1]
        %c = relu x
        %d = max x axes=[1]
        return a = %a, b = %b, c = %c, d = %d
    }";
    let graph = crate::parse(source).expect("parses");
    let x = f32s(&[2, 2], &[1.0, -1.0, 0.0, 0.0]);
    let run = |zeros| {
        let outputs = Interpreter::new(Precision::F64)
            .with_zeros(zeros)
            .run(&graph, std::slice::from_ref(&x))
            .expect("runs");
        outputs.iter().map(Tensor::to_f64).collect::<Vec<_>>()
    };
    let (summed, flipped) = (run(Zeros::AsSummed), run(Zeros::Flipped));
    assert_eq!(summed, flipped, "no value differs but for the signs of zeros");
    let signs = |outputs: &[Vec<f64>]| {
        outputs.iter().map(|o| o.iter().map(|x| x.is_sign_negative()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(signs(&summed), [vec![false; 2], vec![false; 2], vec![false; 4], vec![false; 2]]);
    assert_eq!(signs(&flipped), [vec![true; 2], vec![false, true], vec![false; 4], vec![false; 2]]);
}
