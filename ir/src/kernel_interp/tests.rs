use smallvec::{SmallVec, smallvec};

use super::*;
use crate::expr::Dim;
use crate::kernel::Store;
use crate::types::TensorType;

fn axis(i: usize) -> Expr {
    Expr::axis(i)
}

fn buffer(name: &str, shape: &[Dim], kind: BufferKind) -> Buffer {
    Buffer { name: name.into(), ty: TensorType::new(DType::F32, shape.to_vec()), kind }
}

/// `y[store] = x[load]` for every point of a space of 3.
fn copy(load: Expr, store: Expr, x: &[Dim]) -> KernelGraph {
    let load = Element::Load { buffer: BufferId(0), index: smallvec![Coordinate::Static(load)] };
    let kernel = Kernel {
        name: "copy".into(),
        rank: 1,
        extents: vec![Dim::constant(3)],
        elements: vec![TypedElement { element: load, dtype: DType::F32 }],
        stores: vec![Store { buffer: BufferId(1), index: smallvec![store], value: ElementId(0) }],
        ops: vec![],
    };
    let y = buffer("y", &[Dim::constant(3)], BufferKind::Output(0));
    KernelGraph {
        name: "g".into(),
        buffers: vec![buffer("x", x, BufferKind::Input(0)), y],
        steps: vec![Step::Kernel(kernel)],
    }
}

fn three() -> [Tensor; 1] {
    [Tensor::from_values(&[3], &[1f32, 2.0, 3.0]).unwrap()]
}

fn run(graph: &KernelGraph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    interpret_kernels(graph, inputs, &DimEnv::new())
}

#[test]
fn a_reversed_copy_is_reversed() {
    let graph = copy(Expr::constant(2) - axis(0), axis(0), &[Dim::constant(3)]);
    assert_eq!(run(&graph, &three()).unwrap()[0].to_f64(), [3.0, 2.0, 1.0]);
}

#[test]
fn leaving_a_buffer_is_an_error() {
    let graph = copy(axis(0) + Expr::constant(1), axis(0), &[Dim::constant(3)]);
    let error = run(&graph, &three()).unwrap_err();
    assert!(matches!(error, KernelInterpError::OutOfBounds { access: "load", .. }), "{error}");
    let graph = copy(axis(0), axis(0) - Expr::constant(1), &[Dim::constant(3)]);
    let error = run(&graph, &three()).unwrap_err();
    assert!(matches!(error, KernelInterpError::OutOfBounds { access: "store", .. }), "{error}");
}

#[test]
fn storing_an_element_twice_is_an_error() {
    let graph = copy(axis(0), axis(0).floor_div(&Expr::constant(2)), &[Dim::constant(3)]);
    let error = run(&graph, &three()).unwrap_err();
    assert!(matches!(error, KernelInterpError::StoredTwice { .. }), "{error}");
}

#[test]
fn kernels_may_store_parts_of_an_output_but_no_element_twice() {
    let halves = |from: i64| {
        let mut graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
        let Step::Kernel(kernel) = &mut graph.steps[0] else { panic!("the step is a kernel") };
        let mut rest = kernel.clone();
        kernel.extents[0] = Dim::constant(2);
        rest.name = "rest".into();
        rest.extents[0] = Dim::constant(3 - from);
        let at = axis(0) + Expr::constant(from);
        rest.elements[0].element =
            Element::Load { buffer: BufferId(0), index: smallvec![Coordinate::Static(at.clone())] };
        rest.stores[0].index = smallvec![at];
        graph.steps.push(Step::Kernel(rest));
        graph
    };
    assert_eq!(run(&halves(2), &three()).unwrap()[0].to_f64(), [1.0, 2.0, 3.0]);
    let error = run(&halves(1), &three()).unwrap_err();
    assert!(matches!(error, KernelInterpError::StoredTwice { .. }), "{error}");
}

#[test]
fn storing_an_element_of_an_output_in_two_launches_is_an_error() {
    let mut graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
    graph.steps.push(graph.steps[0].clone());
    let error = run(&graph, &three()).unwrap_err();
    assert!(matches!(error, KernelInterpError::StoredTwice { .. }), "{error}");
    graph.buffers[1].kind = BufferKind::Temporary;
    assert_eq!(run(&graph, &three()), Ok(vec![]));
}

#[test]
fn a_missing_or_misshaped_input_is_an_error() {
    let graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
    assert!(matches!(run(&graph, &[]), Err(KernelInterpError::Input { .. })));
    let two = [Tensor::from_values(&[2], &[1f32, 2.0]).unwrap()];
    let error = run(&graph, &two).unwrap_err();
    assert_eq!(error.to_string(), "input 0 should be f32[3], got f32[2]");
}

#[test]
fn a_clamped_read_of_nothing_is_zero() {
    let clamped = axis(0).minimum(&Expr::constant(-1)).maximum(&Expr::constant(0));
    let graph = copy(clamped, axis(0), &[Dim::constant(0)]);
    let empty = [Tensor::zeros(DType::F32, &[0]).unwrap()];
    assert_eq!(run(&graph, &empty).unwrap()[0].to_f64(), [0.0; 3]);
}

#[test]
fn reading_what_nothing_wrote_is_an_error() {
    let mut graph = copy(axis(0), axis(0), &[Dim::constant(3)]);
    graph.buffers[0].kind = BufferKind::Temporary;
    let error = run(&graph, &[]).unwrap_err();
    assert!(matches!(error, KernelInterpError::Unwritten { .. }), "{error}");
    graph.steps.clear();
    assert!(matches!(run(&graph, &[]), Err(KernelInterpError::Malformed(_))));
}

#[test]
fn a_buffer_beyond_reason_is_an_error() {
    let huge = [Dim::constant(1 << 40)];
    let graph = copy(axis(0), axis(0), &huge);
    assert!(matches!(run(&graph, &three()), Err(KernelInterpError::Size { .. })));
}

const LINEAR: &str = "kernels linear {
  buffer x: f32[T, B] input 0
  buffer a: f32[T, B] input 1
  buffer start: f32[B] input 2
  buffer after: f32[T, B] output 0
  buffer before: f32[T, B] output 1
  buffer last: f32[B] output 2
  kernel linear [i0 < T, i1 < B] {
    e0: f32 = load start[i1]
    e1: f32 = load a[i0, i1]
    e2: f32 = load x[i0, i1]
    e3: f32 = recurrence before i0 from e0 by e1 plus e2
    e4: f32 = recurrence i0 from e0 by e1 plus e2
    store after[i0, i1] = e4
    store before[i0, i1] = e3
    store last[i1] = e4
  }
}
";

fn linear(source: &str, steps: i64, x: &[f32], a: &[f32]) -> Vec<Vec<f64>> {
    let graph = crate::parse_kernels(source).unwrap();
    crate::verify_kernels(&graph).unwrap();
    let mut dims = DimEnv::new();
    dims.set(crate::Symbol::new("T"), steps);
    dims.set(crate::Symbol::new("B"), 2);
    let tensor = |values: &[f32]| Tensor::from_values(&[steps as usize, 2], values).unwrap();
    let start = Tensor::from_values(&[2], &[1f32, -1.0]).unwrap();
    let outputs = interpret_kernels(&graph, &[tensor(x), tensor(a), start], &dims).unwrap();
    outputs.iter().map(Tensor::to_f64).collect()
}

#[test]
fn a_recurrence_has_its_state_before_and_after_each_point_and_at_the_end() {
    let got = linear(LINEAR, 3, &[1.0, 0.0, 0.5, 4.0, 2.0, 0.0], &[2.0, 3.0, 0.0, -1.0, 0.5, 10.0]);
    assert_eq!(got[0], [3.0, -3.0, 0.5, 7.0, 2.25, 70.0]);
    assert_eq!(got[1], [1.0, -1.0, 3.0, -3.0, 0.5, 7.0]);
    assert_eq!(got[2], [2.25, 70.0]);
}

#[test]
fn a_recurrence_without_points_ends_where_it_begins() {
    let got = linear(LINEAR, 0, &[], &[]);
    assert_eq!(got, [vec![], vec![], vec![1.0, -1.0]]);
}

#[test]
fn a_recurrence_advances_when_only_its_earlier_state_is_read() {
    let lines: Vec<&str> =
        LINEAR.lines().filter(|l| !l.contains("e4") && !l.contains("after") && !l.contains("last")).collect();
    let source = lines.join("\n").replace("output 1", "output 0");
    let got = linear(&source, 2, &[1.0, 0.0, 0.5, 4.0], &[2.0, 3.0, 0.0, -1.0]);
    assert_eq!(got, [vec![1.0, -1.0, 3.0, -3.0]]);
}

#[test]
fn a_recurrence_is_fed_by_another_and_by_reductions() {
    let source = "kernels two {
  buffer x: f32[T, 1, B] input 0
  buffer a: f32[T, B] input 1
  buffer start: f32[B] input 2
  buffer first: f32[T, B] output 0
  buffer second: f32[T, B] output 1
  buffer last: f32[B] output 2
  kernel two [i0 < T, i1 < B] {
    e0: f32 = load start[i1]
    e1: f32 = load a[i0, i1]
    e2: f32 = load x[i0, i2, i1]
    e3: f32 = sum [i2 < 1] e2
    e4: f32 = recurrence i0 from e0 by e1 plus e3
    e5: f32 = recurrence i0 from e0 by e1 plus e4
    store first[i0, i1] = e4
    store second[i0, i1] = e5
    store last[i1] = e4
  }
}
";
    let graph = crate::parse_kernels(source).unwrap();
    let mut dims = DimEnv::new();
    dims.set(crate::Symbol::new("T"), 2);
    dims.set(crate::Symbol::new("B"), 1);
    let x = Tensor::from_values(&[2, 1, 1], &[1f32, 2.0]).unwrap();
    let a = Tensor::from_values(&[2, 1], &[2f32, 3.0]).unwrap();
    let start = Tensor::from_values(&[1], &[1f32]).unwrap();
    let got = interpret_kernels(&graph, &[x, a, start], &dims).unwrap();
    // s = 2·1+1, 3·3+2; of the second: 2·1+3, 3·5+11.
    assert_eq!(got[0].to_f64(), [3.0, 11.0]);
    assert_eq!(got[1].to_f64(), [5.0, 26.0]);
    assert_eq!(got[2].to_f64(), [11.0]);
}

#[test]
fn arg_reductions_take_the_first_and_prefer_nan() {
    let index: SmallVec<[Coordinate; 4]> = smallvec![Coordinate::Static(axis(0))];
    let element = |element, dtype| TypedElement { element, dtype };
    let reduce =
        Element::Reduce { op: ReduceOp::ArgMax, axes: smallvec![crate::Axis(0)], body: ElementId(0) };
    let kernel = Kernel {
        name: "argmax".into(),
        rank: 0,
        extents: vec![Dim::constant(3)],
        elements: vec![
            element(Element::Load { buffer: BufferId(0), index }, DType::F32),
            element(reduce, DType::I64),
        ],
        stores: vec![Store { buffer: BufferId(1), index: smallvec![], value: ElementId(1) }],
        ops: vec![],
    };
    let mut y = buffer("y", &[], BufferKind::Output(0));
    y.ty.dtype = DType::I64;
    let graph = KernelGraph {
        name: "g".into(),
        buffers: vec![buffer("x", &[Dim::constant(3)], BufferKind::Input(0)), y],
        steps: vec![Step::Kernel(kernel)],
    };
    let at = |values: [f32; 3]| {
        let x = [Tensor::from_values(&[3], &values).unwrap()];
        run(&graph, &x).unwrap()[0].to_f64()[0]
    };
    assert_eq!(at([1.0, 5.0, 5.0]), 1.0);
    assert_eq!(at([1.0, f32::NAN, 9.0]), 1.0);
}
