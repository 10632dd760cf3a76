//! A recurrence by hand: graph, kernels and functions, without code.

use fuse_codegen::kernel_ir::{Access, BufferParameter, Function, Mapping};
use fuse_ir::expr::{Dim, Expr, Symbol};
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop, Step,
    Store, TypedElement,
};
use fuse_ir::ops::{Direction, ScalarOp};
use fuse_ir::types::TensorType;
use fuse_ir::{DType, Graph, InputKind, Literal, Tensor};

fn s(name: &str) -> Dim {
    Dim::symbol(name)
}

const NAMES: [(&str, BufferKind); 6] = [
    ("x", BufferKind::Input(0)),
    ("w", BufferKind::Input(1)),
    ("h", BufferKind::State),
    ("h_next", BufferKind::State),
    ("history", BufferKind::Output(0)),
    ("last", BufferKind::Output(1)),
];

fn element(element: Element) -> TypedElement {
    TypedElement { element, dtype: DType::F32 }
}

fn load(buffer: usize, index: &[Expr]) -> TypedElement {
    let index = index.iter().cloned().map(Coordinate::Static).collect();
    element(Element::Load { buffer: BufferId::from(buffer), index })
}

fn kernel(name: &str, elements: Vec<TypedElement>, stores: Vec<Store>) -> Step {
    Step::Kernel(Kernel {
        name: name.into(),
        rank: 1,
        extents: vec![s("B")],
        elements,
        stores,
        ops: vec![name.into()],
    })
}

fn store(buffer: usize, index: &[Expr], value: u32) -> Store {
    Store { buffer: BufferId::from(buffer), index: index.iter().cloned().collect(), value: ElementId(value) }
}

/// `h ← w·h + x[t]` from `h = 0` over the rows of `x: f32[T, B]`, with the history and the last state.
pub fn recurrence(direction: Direction) -> (Graph, KernelGraph) {
    let mut graph = Graph::new("recurrence");
    let x = graph.add_input("x", InputKind::Input, TensorType::new(DType::F32, [s("T"), s("B")]));
    let w = graph.add_input("w", InputKind::Parameter, TensorType::new(DType::F32, [s("B")]));
    // Only the types of the outputs matter here: the kernels below compute something else.
    graph.add_output("history", x);
    graph.add_output("last", w);
    let buffers = NAMES
        .iter()
        .map(|(name, kind)| {
            let shape = if matches!(*name, "x" | "history") { vec![s("T"), s("B")] } else { vec![s("B")] };
            Buffer { name: name.to_string(), ty: TensorType::new(DType::F32, shape), kind: *kind }
        })
        .collect();
    let (i, t) = (Expr::axis(0), s("t"));
    let row = [t, i.clone()];
    let zero = element(Element::Constant(Literal::from_f64(DType::F32, 0.0)));
    let product = element(Element::Scalar(ScalarOp::Mul, smallvec::smallvec![ElementId(0), ElementId(1)]));
    let sum = element(Element::Scalar(ScalarOp::Add, smallvec::smallvec![ElementId(3), ElementId(2)]));
    let own = [i];
    let step = kernel(
        "step",
        vec![load(1, &own), load(2, &own), load(0, &row), product, sum],
        vec![store(3, &own, 4), store(4, &row, 4)],
    );
    let steps = vec![
        kernel("init", vec![zero], vec![store(2, &own, 0)]),
        Step::Loop(Loop {
            counter: Symbol::new("t"),
            trip: s("T"),
            direction,
            carries: vec![Carry { current: BufferId(2), next: BufferId(3) }],
            body: vec![step],
        }),
        kernel("finish", vec![load(2, &own)], vec![store(5, &own, 0)]),
    ];
    (graph, KernelGraph { name: "recurrence".into(), buffers, steps })
}

fn function(name: &str, buffers: &[(usize, Access)], symbols: &[&str]) -> Function {
    let parameter = |(b, access): &(usize, Access)| BufferParameter {
        name: NAMES[*b].0.into(),
        dtype: DType::F32,
        access: *access,
        buffer: BufferId::from(*b),
        divisor: 1,
    };
    Function {
        name: name.into(),
        buffers: buffers.iter().map(parameter).collect(),
        symbols: symbols.iter().map(Symbol::new).collect(),
        work: s("B"),
        mapping: Mapping::Range,
        shared: Vec::new(),
        types: vec![],
        body: vec![],
    }
}

pub fn functions() -> Vec<Function> {
    use Access::{Read, Write};
    vec![
        function("init", &[(2, Write)], &["B"]),
        function("step", &[(0, Read), (1, Read), (2, Read), (3, Write), (4, Write)], &["B", "t"]),
        function("finish", &[(2, Read), (5, Write)], &["B"]),
    ]
}

pub fn tensor(shape: &[usize], value: impl Fn(usize) -> f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_values(shape, &values).unwrap()
}

/// What the recurrence gives: history and last state.
pub fn expected(x: &Tensor, w: &Tensor, direction: Direction) -> (Vec<f32>, Vec<f32>) {
    let (x_values, w): (Vec<f32>, Vec<f32>) = (x.to_values().unwrap(), w.to_values().unwrap());
    let (steps, width) = (x.shape()[0], x.shape()[1]);
    let (mut history, mut h) = (vec![0.0; steps * width], vec![0.0f32; width]);
    for step in 0..steps {
        let t = if direction == Direction::Forward { step } else { steps - 1 - step };
        for i in 0..width {
            h[i] = w[i] * h[i] + x_values[t * width + i];
            history[t * width + i] = h[i];
        }
    }
    (history, h)
}
