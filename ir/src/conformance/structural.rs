//! Cases of the leaves, select and the movement ops, written by hand.
//!
//! A movement case says in one closure where each element of the result comes from; the operand's elements
//! are told apart by their values.

use super::Case;
use crate::compare::Tolerance;
use crate::dtype::{DType, Literal};
use crate::expr::Dim;
use crate::graph::{Graph, InputKind, ValueId};
use crate::ops::{Domain, Op, ScalarOp, SliceAxis};
use crate::tensor::Tensor;
use crate::types::TensorType;

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for dtype in DType::ALL {
        out.push(constant(dtype));
        out.push(select(dtype));
        out.extend(views(dtype));
        out.push(pad(dtype));
        out.extend(concat(dtype));
        out.extend(gather(dtype));
        if Domain::Numeric.contains(dtype) {
            out.push(iota(dtype));
        }
    }
    out
}

/// A tensor of literals of its type.
pub(super) fn tensor(dtype: DType, shape: &[usize], literals: &[Literal]) -> Option<Tensor> {
    let bytes = literals.iter().flat_map(|l| l.bits().to_le_bytes().into_iter().take(dtype.size()));
    Tensor::from_bytes(dtype, shape, bytes.collect::<Vec<u8>>()).ok()
}

/// A tensor of integers, converted to its type.
pub(super) fn numbers(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = i64>) -> Tensor {
    let literals: Vec<_> = values.into_iter().map(|v| Literal::from_i64(dtype, v)).collect();
    tensor(dtype, shape, &literals).expect("as many values as the shape has elements")
}

/// A tensor whose elements differ from their neighbours, so that a misplaced one shows.
fn distinct(dtype: DType, shape: &[usize], first: i64) -> Tensor {
    let count = shape.iter().product::<usize>() as i64;
    let value = |i: i64| if dtype == DType::Bool { i64::from(i % 3 == 0 || i % 5 == 1) } else { i };
    numbers(dtype, shape, (first..first + count).map(value))
}

/// A graph under construction, by op.
pub(super) struct Builder {
    pub graph: Graph,
}

impl Builder {
    pub fn new(name: &str) -> Self {
        Builder { graph: Graph::new(name) }
    }

    /// An input; extents that are not numbers are symbols.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[&str]) -> ValueId {
        let dim = |d: &&str| d.parse::<i64>().map_or_else(|_| Dim::symbol(d), Dim::constant);
        let ty = TensorType::new(dtype, shape.iter().map(dim));
        self.graph.add_input(name, InputKind::Input, ty)
    }

    pub fn apply(&mut self, op: Op, operands: &[ValueId]) -> ValueId {
        self.graph.add_node(op, operands, None).expect("the case is well-typed")[0]
    }

    pub fn finish(mut self, outputs: &[ValueId]) -> Graph {
        for (i, value) in outputs.iter().enumerate() {
            self.graph.add_output(format!("y{i}"), *value);
        }
        self.graph
    }
}

/// Every point of a shape in row-major order.
pub(super) fn points(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![vec![]], |prefixes, extent| {
        let extend = |p: &Vec<usize>| (0..*extent).map(|i| [p.as_slice(), &[i]].concat()).collect::<Vec<_>>();
        prefixes.iter().flat_map(extend).collect()
    })
}

/// The tensor whose element at each point is the one of `operands` at that (operand, position), or `fill`.
fn picked(
    dtype: DType,
    operands: &[Tensor],
    shape: &[usize],
    fill: Literal,
    source: impl Fn(&[usize]) -> Option<(usize, usize)>,
) -> Tensor {
    let literal = |p: Vec<usize>| match source(&p) {
        Some((operand, position)) => {
            operands[operand].get(position).expect("the source is within the operand")
        }
        None => fill,
    };
    let literals: Vec<_> = points(shape).into_iter().map(literal).collect();
    widened(&tensor(dtype, shape, &literals).expect("as many elements as points"))
}

/// The tensor in the type in which expected values are given.
fn widened(tensor_of: &Tensor) -> Tensor {
    if !tensor_of.dtype().is_float() {
        return tensor_of.clone();
    }
    Tensor::from_values(tensor_of.shape(), &tensor_of.to_f64()).expect("the same shape")
}

fn dims(extents: &[i64]) -> Vec<Dim> {
    extents.iter().map(|e| Dim::constant(*e)).collect()
}

pub(super) fn exact(name: String, graph: Graph, inputs: Vec<Tensor>, expected: Vec<Tensor>) -> Case {
    Case { name, graph, inputs, expected, tolerance: Tolerance::EXACT }
}

fn constant(dtype: DType) -> Case {
    let mut values =
        vec![Literal::from_i64(dtype, 0), Literal::from_i64(dtype, 1), Literal::from_i64(dtype, 77)];
    if dtype.is_float() {
        values.extend([-0.0, 0.1, f64::INFINITY, f64::NAN].map(|v| Literal::from_f64(dtype, v)));
    }
    let mut b = Builder::new("constant");
    let outputs: Vec<_> = values.iter().map(|v| b.apply(Op::Constant { value: *v }, &[])).collect();
    let expected = values.iter().map(|v| widened(&tensor(dtype, &[], &[*v]).expect("one element"))).collect();
    exact(format!("constant::{dtype}"), b.finish(&outputs), vec![], expected)
}

fn select(dtype: DType) -> Case {
    let mut b = Builder::new("select");
    let c = b.input("condition", DType::Bool, &["N"]);
    let (x, y) = (b.input("x", dtype, &["N"]), b.input("y", dtype, &["N"]));
    let out = b.apply(Op::Scalar(ScalarOp::Select), &[c, x, y]);
    let one =
        |v: f64| if dtype.is_float() { Literal::from_f64(dtype, v) } else { Literal::from_i64(dtype, 1) };
    // A NaN that is not chosen leaves no trace, and a chosen one stays.
    let xs = [one(f64::NAN), one(1.5), one(f64::INFINITY), one(-0.0)];
    let ys = [2, 0, 0, 3].map(|v| Literal::from_i64(dtype, v));
    let condition = [false, true, true, true];
    let chosen: Vec<_> = (0..4).map(|i| if condition[i] { xs[i] } else { ys[i] }).collect();
    let vector = |v: &[Literal]| tensor(dtype, &[4], v).expect("four elements");
    let condition = Tensor::from_values(&[4], &condition).expect("four elements");
    let inputs = vec![condition, vector(&xs), vector(&ys)];
    exact(format!("select::{dtype}"), b.finish(&[out]), inputs, vec![widened(&vector(&chosen))])
}

fn iota(dtype: DType) -> Case {
    // Long enough that u8 wraps and bf16 and f16 round; the coordinate along the middle axis.
    let mut b = Builder::new("iota");
    let x = b.input("x", DType::F32, &["N"]);
    let shape = vec![Dim::constant(2), Dim::symbol("N"), Dim::constant(1)];
    let out = b.apply(Op::Iota { shape, axis: 1, dtype }, &[]);
    let n = 2100;
    let coordinates = numbers(dtype, &[2, n, 1], (0..2).flat_map(|_| 0..n as i64));
    let input = Tensor::zeros(DType::F32, &[n]).expect("a small shape");
    exact(
        format!("iota::{dtype}"),
        b.finish(&[out, x]),
        vec![input.clone()],
        vec![widened(&coordinates), widened(&input)],
    )
}

/// An op that reads one operand through a map: the result at `p` is the operand at `source(p)`.
struct View {
    name: &'static str,
    op: Op,
    symbolic: &'static [&'static str],
    operand: &'static [usize],
    result: &'static [usize],
    source: fn(&[usize]) -> usize,
}

fn slice(start: Dim, length: impl Into<Dim>, step: i64) -> SliceAxis {
    SliceAxis { start, length: length.into(), step }
}

/// The views, each with the formula of its source position.
fn view_table() -> Vec<View> {
    let n = || Dim::symbol("N");
    vec![
        View {
            name: "reshape::split",
            op: Op::Reshape { shape: vec![n(), Dim::constant(2), Dim::constant(3)] },
            symbolic: &["N", "6"],
            operand: &[2, 6],
            result: &[2, 2, 3],
            source: |p| 6 * p[0] + 3 * p[1] + p[2],
        },
        View {
            name: "reshape::merge",
            op: Op::Reshape { shape: vec![n() * Dim::constant(6)] },
            symbolic: &["2", "N", "3"],
            operand: &[2, 5, 3],
            result: &[30],
            source: |p| p[0],
        },
        View {
            name: "reshape::scalar",
            op: Op::Reshape { shape: vec![] },
            symbolic: &["1", "1"],
            operand: &[1, 1],
            result: &[],
            source: |_| 0,
        },
        View {
            name: "reshape::empty",
            op: Op::Reshape { shape: vec![Dim::constant(3), n()] },
            symbolic: &["N", "3"],
            operand: &[0, 3],
            result: &[3, 0],
            source: |_| 0,
        },
        View {
            name: "broadcast::new_axes",
            op: Op::Broadcast { shape: vec![Dim::constant(2), n(), Dim::constant(4)], axes: vec![1] },
            symbolic: &["N"],
            operand: &[3],
            result: &[2, 3, 4],
            source: |p| p[1],
        },
        View {
            name: "broadcast::size_one",
            op: Op::Broadcast { shape: vec![n(), Dim::constant(4)], axes: vec![0, 1] },
            symbolic: &["N", "1"],
            operand: &[3, 1],
            result: &[3, 4],
            source: |p| p[0],
        },
        View {
            name: "broadcast::scalar",
            op: Op::Broadcast { shape: dims(&[2, 3]), axes: vec![] },
            symbolic: &[],
            operand: &[],
            result: &[2, 3],
            source: |_| 0,
        },
        View {
            name: "transpose::matrix",
            op: Op::Transpose { permutation: vec![1, 0] },
            symbolic: &["N", "M"],
            operand: &[3, 5],
            result: &[5, 3],
            source: |p| 5 * p[1] + p[0],
        },
        View {
            name: "transpose::rotation",
            op: Op::Transpose { permutation: vec![2, 0, 1] },
            symbolic: &["2", "N", "4"],
            operand: &[2, 3, 4],
            result: &[4, 2, 3],
            source: |p| 12 * p[1] + 4 * p[2] + p[0],
        },
        View {
            name: "slice::steps",
            op: Op::Slice { axes: vec![slice(Dim::constant(1), 2, 2), slice(Dim::constant(0), 3, 2)] },
            symbolic: &["5", "6"],
            operand: &[5, 6],
            result: &[2, 3],
            source: |p| 6 * (1 + 2 * p[0]) + 2 * p[1],
        },
        View {
            name: "slice::last",
            op: Op::Slice { axes: vec![slice(n() - Dim::constant(1), 1, 1), slice(Dim::constant(1), 2, 1)] },
            symbolic: &["N", "3"],
            operand: &[4, 3],
            result: &[1, 2],
            source: |p| 9 + 1 + p[1],
        },
        View {
            name: "slice::empty",
            op: Op::Slice { axes: vec![slice(Dim::constant(2), 0, 1), slice(Dim::constant(0), n(), 1)] },
            symbolic: &["2", "N"],
            operand: &[2, 3],
            result: &[0, 3],
            source: |_| 0,
        },
        View {
            name: "reverse::one_axis",
            op: Op::Reverse { axes: vec![0] },
            symbolic: &["N", "2"],
            operand: &[5, 2],
            result: &[5, 2],
            source: |p| 2 * (4 - p[0]) + p[1],
        },
        View {
            name: "reverse::two_axes",
            op: Op::Reverse { axes: vec![0, 2] },
            symbolic: &["2", "3", "N"],
            operand: &[2, 3, 4],
            result: &[2, 3, 4],
            source: |p| 12 * (1 - p[0]) + 4 * p[1] + (3 - p[2]),
        },
    ]
}

fn views(dtype: DType) -> Vec<Case> {
    let case = |view: View| {
        let mut b = Builder::new(view.op.mnemonic());
        let x = b.input("x", dtype, view.symbolic);
        let out = b.apply(view.op, &[x]);
        let operand = distinct(dtype, view.operand, 1);
        let unused = Literal::from_i64(dtype, 0);
        let operands = [operand];
        let expected = picked(dtype, &operands, view.result, unused, |p| Some((0, (view.source)(p))));
        exact(format!("{}::{dtype}", view.name), b.finish(&[out]), operands.into(), vec![expected])
    };
    view_table().into_iter().map(case).collect()
}

fn pad(dtype: DType) -> Case {
    let fill = Literal::from_i64(dtype, 99);
    let mut b = Builder::new("pad");
    let x = b.input("x", dtype, &["N", "2"]);
    let pad = Op::Pad { low: dims(&[1, 0]), high: dims(&[2, 1]), value: fill };
    let padded = b.apply(pad, &[x]);
    // Padding by an extent, of an operand that may be empty.
    let empty = b.input("empty", dtype, &["M"]);
    let double = Op::Pad { low: vec![Dim::symbol("N")], high: dims(&[1]), value: fill };
    let filled = b.apply(double, &[empty]);
    let inputs = [distinct(dtype, &[2, 2], 1), distinct(dtype, &[0], 1)];
    let expected = vec![
        picked(dtype, &inputs, &[5, 3], fill, |p| {
            ((1..3).contains(&p[0]) && p[1] < 2).then(|| (0, 2 * (p[0] - 1) + p[1]))
        }),
        picked(dtype, &inputs, &[3], fill, |_| None),
    ];
    exact(format!("pad::{dtype}"), b.finish(&[padded, filled]), inputs.into(), expected)
}

fn concat(dtype: DType) -> Vec<Case> {
    let case = |name: &str,
                axis: usize,
                symbolic: [&[&str]; 3],
                shapes: [&[usize]; 3],
                result: &[usize],
                at: Source| {
        let mut b = Builder::new("concat");
        let operands: Vec<_> =
            symbolic.iter().zip(["x", "y", "z"]).map(|(shape, name)| b.input(name, dtype, shape)).collect();
        let out = b.apply(Op::Concat { axis }, &operands);
        let firsts = [1, 31, 61];
        let inputs: Vec<_> = shapes.iter().zip(firsts).map(|(s, first)| distinct(dtype, s, first)).collect();
        let expected = picked(dtype, &inputs, result, Literal::from_i64(dtype, 0), |p| Some(at(p)));
        exact(format!("concat::{name}::{dtype}"), b.finish(&[out]), inputs, vec![expected])
    };
    type Source = fn(&[usize]) -> (usize, usize);
    vec![
        case("rows", 0, [&["N", "2"], &["M", "2"], &["1", "2"]], [&[2, 2], &[3, 2], &[1, 2]], &[6, 2], |p| {
            match p[0] {
                0 | 1 => (0, 2 * p[0] + p[1]),
                2..=4 => (1, 2 * (p[0] - 2) + p[1]),
                _ => (2, p[1]),
            }
        }),
        case(
            "columns_with_an_empty_operand",
            1,
            [&["N", "2"], &["N", "M"], &["N", "3"]],
            [&[2, 2], &[2, 0], &[2, 3]],
            &[2, 5],
            |p| if p[1] < 2 { (0, 2 * p[0] + p[1]) } else { (2, 3 * p[0] + p[1] - 2) },
        ),
    ]
}

fn gather(dtype: DType) -> Vec<Case> {
    let mut out = Vec::new();
    for index in [DType::I32, DType::I64, DType::U8] {
        let mut b = Builder::new("gather");
        let table = b.input("table", dtype, &["V", "2"]);
        let indices = b.input("indices", index, &["N"]);
        let rows = b.apply(Op::Gather { axis: 0 }, &[table, indices]);
        // Out of range is clamped: below only where the type has a below.
        let (below, clamped) = if index == DType::U8 { (1, 1) } else { (-3, 0) };
        let picks = [2, 0, below, 200, 3];
        let places = [2, 0, clamped, 3, 3];
        let inputs = [distinct(dtype, &[4, 2], 1), numbers(index, &[5], picks)];
        let expected = picked(dtype, &inputs, &[5, 2], Literal::from_i64(dtype, 0), |p| {
            Some((0, 2 * places[p[0]] + p[1]))
        });
        let name = format!("gather::rows_by_{index}::{dtype}");
        out.push(exact(name, b.finish(&[rows]), inputs.into(), vec![expected]));
    }
    let mut b = Builder::new("gather");
    let table = b.input("table", dtype, &["2", "V", "3"]);
    let indices = b.input("indices", DType::I64, &["N", "2"]);
    let middle = b.apply(Op::Gather { axis: 1 }, &[table, indices]);
    let places = [1, 0, 3, 3];
    let inputs = [distinct(dtype, &[2, 4, 3], 1), numbers(DType::I64, &[2, 2], [1, 0, 3, i64::MAX])];
    let expected = picked(dtype, &inputs, &[2, 2, 2, 3], Literal::from_i64(dtype, 0), |p| {
        Some((0, 12 * p[0] + 3 * places[2 * p[1] + p[2]] + p[3]))
    });
    out.push(exact(
        format!("gather::middle_axis::{dtype}"),
        b.finish(&[middle]),
        inputs.into(),
        vec![expected],
    ));
    let mut b = Builder::new("gather");
    let table = b.input("table", dtype, &["V", "2"]);
    let indices = b.input("indices", DType::I32, &["N"]);
    let rows = b.apply(Op::Gather { axis: 0 }, &[table, indices]);
    let inputs = [distinct(dtype, &[0, 2], 1), numbers(DType::I32, &[3], [0, -1, 5])];
    let expected = picked(dtype, &inputs, &[3, 2], Literal::from_i64(dtype, 0), |_| None);
    out.push(exact(
        format!("gather::empty_table::{dtype}"),
        b.finish(&[rows]),
        inputs.into(),
        vec![expected],
    ));
    out
}
