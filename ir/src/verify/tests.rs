use smallvec::smallvec;

use super::*;
use crate::dtype::DType;
use crate::expr::{Axis, Expr};
use crate::graph::{Output, SourceLocation};
use crate::ops::{ScalarOp, SliceAxis};
use crate::parse;

fn sample() -> Graph {
    parse(
        "graph lstm(x: f32[T, B], h: f32[B], param w: f32[B]) {
           %3 = broadcast w axes=[1] : f32[T, B]
           %4 = mul x, %3
           %5, %6 = scan step over T carry (h = h) each (x = %4) with (w = w) {
             %3 = mul x, w
             %4 = add %3, h
             next h = %4
             stack y = %4
           }
           return hn = %5, y = %6
         }",
    )
    .expect("the sample is a graph")
}

/// Breaks the sample and returns how the verifier says so.
fn broken(change: impl FnOnce(&mut Graph)) -> VerifyError {
    let mut graph = sample();
    assert_eq!(verify(&graph), Ok(()));
    change(&mut graph);
    verify(&graph).expect_err("an invariant is broken")
}

fn cause(change: impl FnOnce(&mut Graph)) -> VerifyCause {
    *broken(change).cause
}

fn scan_of(graph: &mut Graph) -> &mut Scan {
    match &mut graph.parts_mut().1[2].op {
        Op::Scan(scan) => scan,
        other => panic!("the third node is {}", other.mnemonic()),
    }
}

#[test]
fn values_keep_the_order_of_definition() {
    let swapped = cause(|g| g.parts_mut().1.swap(0, 1));
    assert_eq!(swapped, VerifyCause::Numbering(ValueId(3)));
    let moved = cause(|g| g.parts_mut().0[1].value = ValueId(0));
    assert_eq!(moved, VerifyCause::Numbering(ValueId(1)));
    let lost = cause(|g| _ = g.parts_mut().2.pop());
    assert_eq!(lost, VerifyCause::Numbering(ValueId(6)));
    let misattributed = cause(|g| g.parts_mut().2[3].definition = Definition::Input(0));
    assert_eq!(misattributed, VerifyCause::Numbering(ValueId(3)));
}

#[test]
fn operands_exist_and_come_first() {
    let absent = cause(|g| g.parts_mut().1[1].operands[0] = ValueId(99));
    assert!(matches!(absent, VerifyCause::Range { value: ValueId(99), count: 7, .. }));
    let later = cause(|g| g.parts_mut().1[0].operands[0] = ValueId(4));
    assert_eq!(later, VerifyCause::Order { operand: 0, value: ValueId(4) });
    let itself = cause(|g| g.parts_mut().1[1].operands[1] = ValueId(4));
    assert_eq!(itself, VerifyCause::Order { operand: 1, value: ValueId(4) });
}

#[test]
fn outputs_exist() {
    let absent = cause(|g| g.parts_mut().3[0].value = ValueId(7));
    assert!(matches!(absent, VerifyCause::Range { value: ValueId(7), .. }));
    let in_body = cause(|g| scan_of(g).body.parts_mut().3[0].value = ValueId(70));
    assert!(matches!(in_body, VerifyCause::Range { value: ValueId(70), .. }));
}

#[test]
fn recorded_types_are_the_inferred_ones() {
    let other = TensorType::new(DType::F64, ["T", "B"]);
    let wrong = cause(|g| g.parts_mut().2[4].ty = other.clone());
    assert!(
        matches!(wrong, VerifyCause::ResultType { value: ValueId(4), recorded, .. } if recorded == other)
    );
    let misfit = cause(|g| g.parts_mut().1[1].operands[1] = ValueId(1));
    assert!(matches!(misfit, VerifyCause::Infer(InferError::Mismatch { .. })));
}

#[test]
fn every_node_has_a_result() {
    let none = cause(|g| {
        let (_, nodes, values, outputs) = g.parts_mut();
        nodes.pop();
        values.truncate(5);
        outputs.clear();
        nodes[1].results = smallvec![];
        values.pop();
    });
    assert_eq!(none, VerifyCause::NoResults);
}

#[test]
fn names_are_given_and_unique() {
    let empty = cause(|g| g.parts_mut().0[0].name.clear());
    assert_eq!(empty, VerifyCause::EmptyName("an input"));
    let twice = cause(|g| g.parts_mut().0[0].name = "h".into());
    assert_eq!(twice, VerifyCause::DuplicateName { what: "inputs", name: "h".into() });
    let output = cause(|g| g.parts_mut().3[1].name = "hn".into());
    assert_eq!(output, VerifyCause::DuplicateName { what: "outputs", name: "hn".into() });
    assert_eq!(*verify(&Graph::new("")).unwrap_err().cause, VerifyCause::EmptyName("the graph"));
}

#[test]
fn outputs_of_a_body_may_share_a_name() {
    let mut graph = sample();
    scan_of(&mut graph).body.parts_mut().3[1].name = "h".into();
    assert_eq!(verify(&graph), Ok(()));
}

#[test]
fn parameters_stand_outside_of_scans() {
    let inside = cause(|g| scan_of(g).body.parts_mut().0[2].kind = InputKind::Parameter);
    assert_eq!(inside, VerifyCause::ParameterInBody("w".into()));
}

#[test]
fn a_scan_fits_its_node() {
    let many = cause(|g| scan_of(g).carries = usize::MAX);
    assert!(matches!(many, VerifyCause::ScanCounts { operands: 3, .. }));
    let other = cause(|g| scan_of(g).scanned = 2);
    assert!(matches!(other, VerifyCause::Infer(InferError::Scan(_))));
    let closed = cause(|g| scan_of(g).body.parts_mut().1[1].operands[1] = ValueId(5));
    assert!(matches!(closed, VerifyCause::Range { .. }));
}

#[test]
fn dimensions_are_over_symbols() {
    let with = |dim: Expr| {
        let mut graph = Graph::new("g");
        graph.add_input("x", InputKind::Input, TensorType::new(DType::F32, [dim]));
        verify(&graph).map_err(|e| *e.cause)
    };
    assert_eq!(with(Expr::symbol("T") - Expr::constant(1)), Ok(()));
    assert_eq!(with(Expr::axis(0)), Err(VerifyCause::Dimension("i0".into())));
    assert_eq!(with(Expr::constant(-1)), Err(VerifyCause::Dimension("-1".into())));
    assert_eq!(with(Expr::symbol("%t0")), Err(VerifyCause::Symbol("%t0".into())));
    assert_eq!(with(Expr::symbol("batch size")), Err(VerifyCause::Symbol("batch size".into())));
    assert!(matches!(with(Expr::constant(i64::MAX)), Err(VerifyCause::Limit(_))));
}

#[test]
fn attributes_keep_to_dimensions_too() {
    let sliced = |axis: SliceAxis| {
        let mut graph = Graph::new("g");
        let x = graph.add_input("x", InputKind::Input, TensorType::new(DType::F32, ["T"]));
        graph.add_node(Op::Slice { axes: vec![axis] }, &[x], None).expect("the slice is inferred");
        verify(&graph).map_err(|e| *e.cause)
    };
    let axis = |start: Expr, step| SliceAxis { start, length: Expr::symbol("T"), step };
    assert_eq!(sliced(axis(Expr::constant(0), 1)), Ok(()));
    let axes = sliced(axis(Expr::atom(crate::expr::Atom::Axis(Axis(3))), 1));
    assert_eq!(axes, Err(VerifyCause::Dimension("i3".into())));
    assert!(matches!(sliced(axis(Expr::constant(0), i64::MAX)), Err(VerifyCause::Limit(_))));
}

#[test]
fn nesting_of_scans_is_bounded() {
    let ty = TensorType::new(DType::F32, [2]);
    let mut body = Graph::new("inner");
    let h = body.add_input("h", InputKind::Input, ty.clone());
    body.add_output("h", h);
    let mut results = Vec::new();
    for _ in 0..MAX_SCAN_DEPTH + 1 {
        let mut outer = Graph::new("outer");
        let h = outer.add_input("h", InputKind::Input, ty.clone());
        let (trip, direction) = (Expr::symbol("T"), Default::default());
        let scan = Scan { body, carries: 1, scanned: 0, trip, direction, lengths: false };
        let next = outer.add_node(Op::Scan(Box::new(scan)), &[h], None).expect("the scan is inferred");
        outer.parts_mut().3.push(Output { name: "h".into(), value: next[0] });
        results.push(verify(&outer));
        body = outer;
    }
    let last = results.pop().expect("there are results");
    assert!(results.iter().all(Result::is_ok));
    assert!(matches!(*last.unwrap_err().cause, VerifyCause::Limit(_)));
}

#[test]
fn an_error_shows_the_way_the_lines_around_and_the_source() {
    let error = broken(|g| {
        let body = &mut scan_of(g).body;
        let (_, nodes, ..) = body.parts_mut();
        nodes[1].op = Op::Scalar(ScalarOp::And);
        nodes[1].location = Some(SourceLocation(std::panic::Location::caller()));
    });
    assert!(error.location.as_deref().is_some_and(|l| l.contains("verify/tests.rs:")));
    let text = error.to_string();
    let without_place = text.split("  made at").next().unwrap_or_default();
    assert_eq!(
        without_place,
        "lstm/scan %5/and %4: and: operand 0 has element type f32, but and takes i32, i64, u8, bool
    %3 = mul x, w : f32[B]
  > %4 = and %3, h : f32[B]
"
    );
}

#[test]
fn a_graph_with_values_out_of_range_is_still_shown() {
    let error = broken(|g| g.parts_mut().1[1].operands[0] = ValueId(99));
    assert!(error.excerpt.contains("> %4 = mul %99?, %3"), "{error}");
}
