//! What a wrong program is told: the operation, the arguments, both shapes, and the line.

use fuse_frontend::{DType, ErrorKind, ScanOptions, Tensor, Trace, TraceError, concat, nn, stack, trace};

fn error(program: impl FnOnce(&Trace)) -> TraceError {
    trace("wrong", program).expect_err("the program is wrong")
}

fn vector(t: &Trace, name: &str, size: i64) -> Tensor {
    t.input(name, DType::F32, (size,))
}

/// Asserts that the message starts with `expected` and names `line` of this file.
#[track_caller]
fn assert_told(error: &TraceError, expected: &str, line: u32) {
    let text = error.to_string();
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains(&format!("tests/errors.rs:{line}:")), "{text}");
}

#[test]
fn an_operator_names_both_operands_and_its_own_line() {
    let mut line = 0;
    let error = error(|t| {
        let hidden = t.input("hidden", DType::F32, ("B", 128));
        let bias = vector(t, "bias", 64);
        line = line!() + 1;
        t.output("y", hidden + bias);
    });
    let expected = "add: x (`hidden`) is f32[B, 128], y (`bias`) is f32[64]; sizes 128 and 64 of axis -1";
    assert_told(&error, expected, line);
}

#[test]
fn element_types_do_not_convert_silently() {
    let error = error(|t| {
        let y = vector(t, "x", 3) * t.input("n", DType::I32, (3,));
        t.output("y", y);
    });
    let text = "mul: x (`x`) is f32[3], y (`n`) is i32[3]; element types must be equal; cast one of them";
    assert!(error.to_string().starts_with(text), "{error}");
}

#[test]
fn inference_names_the_op_once() {
    let mut line = 0;
    let error = error(|t| {
        let n = t.input("n", DType::I32, (3,));
        line = line!() + 1;
        t.output("y", n.tanh());
    });
    assert_told(&error, "tanh: operand 0 has element type i32, but tanh takes f32", line);
}

#[test]
fn a_matrix_product_names_the_inner_sizes() {
    let error = error(|t| {
        let x = t.input("x", DType::F32, ("T", "B", 64));
        let w = t.parameter("w", DType::F32, (32, 10));
        t.output("y", x.matmul(&w));
    });
    let text =
        "matmul: left (`x`) is f32[T, B, 64], right (`w`) is f32[32, 10]; the inner sizes 64 and 32 differ";
    assert!(error.to_string().starts_with(text), "{error}");
}

#[test]
fn a_number_must_be_a_value_of_the_other_operands_type() {
    for (make, text) in [
        ((|x| x + 0.5) as fn(Tensor) -> Tensor, "add: the number 0.5 is no value of u8"),
        (|x| x * 256, "mul: the number 256 is no value of u8"),
        (|x| -1 - x, "sub: the number -1 is no value of u8"),
    ] {
        let error = error(|t| t.output("y", make(t.input("x", DType::U8, (2,)))));
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[test]
fn only_the_first_mistake_is_told() {
    let error = error(|t| {
        let x = vector(t, "x", 2);
        let poisoned = x.squeeze(5) + vector(t, "y", 3);
        let [a, b] = poisoned.split(7);
        t.output("z", (a + b).reshape((9,)).softmax(3));
    });
    assert_eq!(*error.kind, ErrorKind::Axis { ty: fuse_ir::TensorType::new(DType::F32, [2]), axis: 5 });
    assert_eq!(error.operation, "squeeze");
}

#[test]
fn a_library_function_is_placed_at_its_caller() {
    let mut line = 0;
    let error = error(|t| {
        let x = t.input("x", DType::F32, ("T", "B", 64));
        let options = nn::StackOptions { layers: 1, bidirectional: false };
        let mut layers = nn::declare_stack(t, nn::Gates::Lstm, "", 64, 128, options);
        layers[0].forward.weight_hh = t.parameter("small", DType::F32, (128, 128));
        line = line!() + 1;
        t.output("y", nn::lstm(&x, &layers, None, None).0);
    });
    let text =
        "lstm: lstm_layer: argument `weight_hh (`small`)` is f32[128, 128]; its shape must be [512, 128]";
    assert_told(&error, text, line);
}

#[test]
fn a_carry_keeps_its_type() {
    let mut line = 0;
    let error = error(|t| {
        let (x, h0) = (t.input("x", DType::F32, ("T", 4, 3)), t.input("h0", DType::F32, (3,)));
        line = line!() + 1;
        let (h, ()) = t.scan(h0, x, |h, x| (h + x, ()));
        t.output("h", h);
    });
    let text =
        "scan: carry 0 at the start (`h0`) is f32[3], carry 0 from the body is f32[4, 3]; a carry keeps";
    assert_told(&error, text, line);
}

#[test]
fn a_body_that_returns_more_carries_is_refused() {
    let error = error(|t| {
        let x = t.input("x", DType::F32, ("T", 3));
        let (h, ()) = t.scan(Vec::<Tensor>::new(), x, |_, x| (vec![x], ()));
        assert_eq!(h.len(), 1);
        t.output("h", &h[0]);
    });
    let text = "scan: argument `carries` is 1 from the body; the scan starts with 0";
    assert!(error.to_string().starts_with(text), "{error}");
}

#[test]
fn scanned_tensors_need_one_leading_axis() {
    let scalar = error(|t| {
        let x = t.input("x", DType::F32, ());
        t.scan((), x, |(), x| ((), x));
    });
    assert!(scalar.to_string().starts_with("scan: argument `scanned 0 (`x`)` is f32[]"), "{scalar}");
    let differ = error(|t| {
        let (x, y) = (t.input("x", DType::F32, ("T", 2)), t.input("y", DType::F32, ("S", 2)));
        t.scan((), (x, y), |(), (x, y)| ((), x + y));
    });
    let text =
        "scan: scanned 0 (`x`) is f32[T, 2], scanned 1 (`y`) is f32[S, 2]; their leading axes must be equal";
    assert!(differ.to_string().starts_with(text), "{differ}");
    let nothing = error(|t| {
        t.scan((), (), |(), ()| ((), ()));
    });
    assert!(nothing.to_string().starts_with("scan: argument `scanned` is empty"), "{nothing}");
}

#[test]
fn lengths_need_the_batch_axis_in_carries_and_outputs() {
    let error = error(|t| {
        let x = t.input("x", DType::F32, ("T", "B"));
        let lengths = t.input("lengths", DType::I32, ("B",));
        let zero = t.constant(DType::F32, 0.0);
        let options = ScanOptions::new().lengths(&lengths);
        let (sum, ()) = t.scan_with(options, zero, x, |sum, x| (sum + x.sum(0), ()));
        t.output("sum", sum);
    });
    let text = "scan: with lengths i32[B] every carry and output needs the leading axis B, but one is f32";
    assert!(error.to_string().starts_with(text), "{error}");
}

#[test]
fn a_tensor_of_a_body_cannot_be_used_after_it() {
    let mut line = 0;
    let error = error(|t| {
        let x = t.input("x", DType::F32, ("T", 3));
        let mut kept = None;
        let (_, y) = t.scan((), x, |(), x| {
            kept = Some(x.clone());
            ((), x)
        });
        line = line!() + 1;
        t.output("y", y + kept.expect("the body ran"));
    });
    assert_told(&error, "add: operand 1, f32[3], belongs to a scan body that has ended", line);
}

#[test]
fn a_tensor_of_a_body_is_no_output() {
    let error = error(|t| {
        let x = t.input("x", DType::F32, ("T", 3));
        t.scan((), x, |(), x| {
            t.output("inner", &x);
            ((), x)
        });
    });
    assert!(error.to_string().starts_with("output: argument `tensor` is f32[3] of a scan body"), "{error}");
}

#[test]
fn tensors_of_two_traces_do_not_mix() {
    let outer = error(|t| {
        let x = vector(t, "x", 2);
        let inner = error(|t| t.output("y", vector(t, "y", 2) + &x));
        assert!(inner.to_string().starts_with("add: operand 1, f32[2], belongs to another trace"), "{inner}");
        t.output("x", x);
    });
    // The trace whose tensor was taken away hears of it too.
    assert!(outer.to_string().starts_with("add: operand 1, f32[2], belongs to another trace"), "{outer}");
}

#[test]
fn a_tensor_that_outlives_its_trace_is_harmless() {
    let mut kept = None;
    let graph = trace("kept", |t| {
        let x = vector(t, "x", 2);
        t.output("y", &x);
        kept = Some(x);
    });
    assert!(graph.is_ok());
    let x = kept.expect("the program ran");
    let again = (&x + 1.0).sum(0);
    let (t, _) = (again.trace().clone(), x.dim(0));
    t.output("late", again);
    t.scan(x.clone(), (), |x, ()| (x, ()));
}

#[test]
fn an_empty_list_is_told_where_its_result_is_used() {
    let mut line = 0;
    let error = error(|t| {
        line = line!() + 1;
        let nothing = concat(Vec::<Tensor>::new(), 0);
        t.output("y", vector(t, "x", 2) + nothing);
    });
    assert_told(&error, "concat: argument `tensors` is an empty list", line);
    let error = self::error(|t| {
        line = line!() + 1;
        let nothing = stack(Vec::<Tensor>::new(), 0);
        t.output("y", nothing * vector(t, "x", 2));
    });
    assert_told(&error, "stack: argument `tensors` is an empty list", line);
}

#[test]
fn names_are_unique_and_printable() {
    let twice = error(|t| t.output("y", vector(t, "x", 2) + vector(t, "x", 2)));
    assert_eq!(twice.to_string().lines().next(), Some("input: the name `x` is already taken"));
    let empty = error(|t| t.output("y", vector(t, "", 2)));
    assert!(empty.to_string().starts_with("input: the name `` must be printable"), "{empty}");
    let outputs = error(|t| {
        let x = vector(t, "x", 2);
        t.output("y", &x);
        t.output("y", &x);
    });
    assert!(outputs.to_string().starts_with("output: the name `y` is already taken"), "{outputs}");
    let graph = trace("not a name", |t| t.output("y", vector(t, "x", 2)));
    assert!(graph.is_err_and(|e| e.to_string().starts_with("trace: the name `not a name`")));
}

#[test]
fn a_program_returns_something() {
    let error = error(|t| {
        vector(t, "x", 2);
    });
    assert_eq!(*error.kind, ErrorKind::NoOutputs);
}

#[test]
fn scans_nest_to_a_limit() {
    fn nested(t: &Trace, x: &Tensor, depth: usize) -> Tensor {
        if depth == 0 {
            return x + 1.0;
        }
        let (last, ()) =
            t.scan_with(ScanOptions::new().steps(2), x.clone(), (), |x, ()| (nested(t, &x, depth - 1), ()));
        last
    }
    let deep = |depth| trace("nested", |t| t.output("y", nested(t, &vector(t, "x", 2), depth)));
    assert!(deep(32).is_ok());
    let error = deep(33).expect_err("too deep");
    assert_eq!(error.to_string().lines().next(), Some("scan: scans nest more than 32 deep"));
    assert!(deep(100_000).is_err(), "a program without end must not overflow the stack");
}

type Make = fn(&Tensor) -> Tensor;

#[test]
fn arguments_out_of_range_are_told_apart() {
    let cases: [(Make, &str); 17] = [
        (|x| x.squeeze(0), "squeeze: argument `axis` is 0; its size in f32[6, T] is 6, not 1"),
        (|x| x.unsqueeze(4), "unsqueeze: there is no axis 4 in f32[6, T], whose rank is 2"),
        (|x| x.sum([0, -2]), "sum: argument `axes` is [0, -2]; axis 0 stands twice"),
        (|x| x.sum(-3), "sum: there is no axis -3"),
        (|x| x.argmax([0, 1]), "argmax: operand 0 is f32[6, T]; exactly one axis is searched"),
        (|x| x.slice(0, "4".."2"), "slice: argument `range` is 4..2; it ends before it starts"),
        (|x| x.slice(0, 4..7), "slice: operand 0 is f32[6, T]; axis 0 of size 6 does not hold 3 positions"),
        (|x| x.slice_by(0, .., -1), "slice: argument `step` is -1; it must be at least 1"),
        (|x| x.slice(1, .."T/2"), "slice: argument `range` is not a range; `T/2` is no dimension"),
        (|x| x.at(0, 6), "at: slice: operand 0 is f32[6, T]; axis 0 of size 6"),
        (
            |x| x.chunks(4, 0).pop().unwrap_or(x.clone()),
            "chunks: argument `x` is f32[6, T]; axis 0 has size 6",
        ),
        (|x| x.reshape((5, -1)), "reshape: argument `x` is f32[6, T]; its 6*T elements do not divide by 5"),
        (|x| x.reshape((-1, -1)), "reshape: operand 0 is f32[6, T]; -1 is not a dimension"),
        (|x| x.permute([0, 0]), "permute: transpose: operand 0 is f32[6, T]; [0, 0] is not a permutation"),
        (|x| x.broadcast_to(("T",)), "broadcast_to: argument `x` is f32[6, T]; it has more axes than [T]"),
        (|x| x.pad(0, -1, 0, 0.0), "pad: operand 0 is f32[6, T]; -1 is not a dimension"),
        (|x| x.contract(x, [], [(0, 1)]), "contract: operand 0 is f32[6, T], operand 1 is f32[6, T]; axis 0"),
    ];
    for (make, text) in cases {
        let error = error(|t| t.output("y", make(&t.input("x", DType::F32, (6, "T")))));
        assert!(error.to_string().starts_with(text), "{error}\ninstead of {text}");
    }
}

#[test]
fn shapes_beyond_the_limits_are_refused() {
    let negative = error(|t| t.output("y", t.input("x", DType::F32, (-1,))));
    assert!(negative.to_string().starts_with("input: argument `shape`"), "{negative}");
    let huge = error(|t| t.output("y", t.input("x", DType::F32, (1i64 << 41,))));
    assert!(huge.to_string().contains("beyond 2^40"), "{huge}");
    let ranks = error(|t| t.output("y", t.zeros(DType::F32, vec![1; 65])));
    assert!(ranks.to_string().contains("more than 64"), "{ranks}");
    let text = error(|t| t.output("y", t.input("x", DType::F32, ("T", "2H"))));
    assert!(text.to_string().contains("`2H` is no dimension"), "{text}");
}

#[test]
fn a_symbol_is_an_identifier() {
    let shape = [fuse_ir::Dim::symbol("not a name")];
    let error = error(|t| t.output("y", t.input("x", DType::F32, &shape[..])));
    assert!(matches!(*error.kind, ErrorKind::Invalid(_)), "{error}");
    assert!(error.to_string().contains("not a name"), "{error}");
}

#[test]
fn stack_and_select_name_what_does_not_fit() {
    let shapes = error(|t| t.output("y", stack([vector(t, "a", 2), vector(t, "b", 3)], 0)));
    assert!(shapes.to_string().starts_with("stack: concat: operand 0 is f32[1, 2], operand 1 is f32[1, 3]"));
    let numbers = error(|t| t.output("y", vector(t, "a", 2).lt(0.0).select(1.0, 0.0)));
    assert!(numbers.to_string().starts_with("select: argument `x` is a number, and so is `y`"), "{numbers}");
}
