//! Cases of the ops that are not elementwise, written by hand.
//!
//! A movement case says in one closure where each element of the result comes from; the operand's elements
//! are told apart by their values.

use super::{Case, expected_type};
use crate::compare::Tolerance;
use crate::dtype::{DType, Literal};
use crate::expr::Dim;
use crate::graph::{Graph, InputKind, ValueId};
use crate::ops::{Domain, Op, ReduceOp, ScalarOp, SliceAxis};
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
            out.extend(reduce(dtype));
            out.extend(contract(dtype));
        }
    }
    out.extend(accumulation());
    out
}

/// A tensor of literals of its type.
pub(super) fn tensor(dtype: DType, shape: &[usize], literals: &[Literal]) -> Option<Tensor> {
    let bytes = literals.iter().flat_map(|l| l.bits().to_le_bytes().into_iter().take(dtype.size())).collect();
    Tensor::from_bytes(dtype, shape, bytes).ok()
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
fn points(shape: &[usize]) -> Vec<Vec<usize>> {
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

fn exact(name: String, graph: Graph, inputs: Vec<Tensor>, expected: Vec<Tensor>) -> Case {
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

fn reduce(dtype: DType) -> Vec<Case> {
    let mut out = Vec::new();
    for op in ReduceOp::ALL {
        let result_type = if op.is_arg() { DType::I64 } else { expected_type(dtype) };
        let case = |variant: &str,
                    axes: Vec<usize>,
                    shapes: (&[&str], &[usize]),
                    input: Tensor,
                    expected: Tensor| {
            let mut b = Builder::new(op.mnemonic());
            let x = b.input("x", dtype, shapes.0);
            let y = b.apply(Op::Reduce { op, axes }, &[x]);
            exact(
                format!("{}::{variant}::{dtype}", op.mnemonic()),
                b.finish(&[y]),
                vec![input],
                vec![expected],
            )
        };
        // [2, 3, 2] holding 1 2 | 3 1 | 2 1, then 2 1 | 1 1 | 3 2.
        let values = numbers(dtype, &[2, 3, 2], [1, 2, 3, 1, 2, 1, 2, 1, 1, 1, 3, 2]);
        let middle = match op {
            ReduceOp::Sum => [6, 4, 6, 4],
            ReduceOp::Prod => [6, 2, 6, 2],
            ReduceOp::Max => [3, 2, 3, 2],
            ReduceOp::Min => [1, 1, 1, 1],
            ReduceOp::ArgMax => [1, 0, 2, 2],
            ReduceOp::ArgMin => [0, 1, 1, 0],
        };
        let expected = numbers(result_type, &[2, 2], middle);
        out.push(case("middle_axis", vec![1], (&["2", "N", "2"], &[2, 3, 2]), values.clone(), expected));
        if !op.is_arg() {
            let outer = match op {
                ReduceOp::Sum => [6, 6, 8],
                ReduceOp::Prod => [4, 3, 12],
                ReduceOp::Max => [2, 3, 3],
                ReduceOp::Min | ReduceOp::ArgMax | ReduceOp::ArgMin => [1, 1, 1],
            };
            let expected = numbers(result_type, &[3], outer);
            out.push(case(
                "outer_axes",
                vec![0, 2],
                (&["N", "3", "M"], &[2, 3, 2]),
                values.clone(),
                expected,
            ));
            let expected = numbers(result_type, &[2, 3, 2], values.literals().map(Literal::as_i64));
            out.push(case("no_axes", vec![], (&["N", "3", "2"], &[2, 3, 2]), values, expected));
        }
        let empty = numbers(dtype, &[2, 0], []);
        // The limits of the integers survive the conversion, which saturates.
        let identity = Literal::from_f64(result_type, of_nothing(op, dtype));
        let expected = tensor(result_type, &[2], &[identity, identity]).expect("two elements");
        out.push(case("nothing", vec![1], (&["N", "M"], &[2, 0]), empty, expected));
    }
    out
}

/// What a reduction of no elements gives, as a float.
fn of_nothing(op: ReduceOp, dtype: DType) -> f64 {
    let (least, greatest) = match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => (f64::NEG_INFINITY, f64::INFINITY),
        DType::I32 => (-2147483648.0, 2147483647.0),
        DType::I64 => (-9223372036854775808.0, 9223372036854775807.0),
        DType::U8 => (0.0, 255.0),
        DType::Bool => (0.0, 1.0),
    };
    match op {
        ReduceOp::Sum | ReduceOp::ArgMax | ReduceOp::ArgMin => 0.0,
        ReduceOp::Prod => 1.0,
        ReduceOp::Max => least,
        ReduceOp::Min => greatest,
    }
}

/// A contraction: which products of operand positions each result element sums.
struct Contraction {
    name: &'static str,
    batch: &'static [(usize, usize)],
    axes: &'static [(usize, usize)],
    a: (&'static [&'static str], &'static [usize]),
    b: (&'static [&'static str], &'static [usize]),
    result: &'static [usize],
    products: fn(&[usize]) -> Vec<(usize, usize)>,
}

const CONTRACTIONS: &[Contraction] = &[
    Contraction {
        name: "matrix_product",
        batch: &[],
        axes: &[(1, 0)],
        a: (&["M", "K"], &[2, 3]),
        b: (&["K", "N"], &[3, 4]),
        result: &[2, 4],
        products: |p| (0..3).map(|k| (3 * p[0] + k, 4 * k + p[1])).collect(),
    },
    Contraction {
        name: "rows_by_rows",
        batch: &[],
        axes: &[(1, 1)],
        a: (&["M", "K"], &[2, 5]),
        b: (&["N", "K"], &[3, 5]),
        result: &[2, 3],
        products: |p| (0..5).map(|k| (5 * p[0] + k, 5 * p[1] + k)).collect(),
    },
    Contraction {
        name: "batched",
        batch: &[(1, 0)],
        axes: &[(2, 2)],
        a: (&["M", "B", "K"], &[2, 3, 4]),
        b: (&["B", "N", "K"], &[3, 2, 4]),
        result: &[3, 2, 2],
        products: |p| (0..4).map(|k| (12 * p[1] + 4 * p[0] + k, 8 * p[0] + 4 * p[2] + k)).collect(),
    },
    Contraction {
        name: "two_axes",
        batch: &[],
        axes: &[(0, 1), (2, 0)],
        a: (&["2", "N", "3"], &[2, 2, 3]),
        b: (&["3", "2"], &[3, 2]),
        result: &[2],
        products: |p| (0..6).map(|q| (6 * (q / 3) + 3 * p[0] + q % 3, 2 * (q % 3) + q / 3)).collect(),
    },
    Contraction {
        name: "outer_product",
        batch: &[],
        axes: &[],
        a: (&["M"], &[3]),
        b: (&["N"], &[2]),
        result: &[3, 2],
        products: |p| vec![(p[0], p[1])],
    },
    Contraction {
        name: "scalar_product",
        batch: &[],
        axes: &[(0, 0)],
        a: (&["K"], &[6]),
        b: (&["K"], &[6]),
        result: &[],
        products: |_| (0..6).map(|k| (k, k)).collect(),
    },
    Contraction {
        name: "nothing_summed",
        batch: &[],
        axes: &[(1, 0)],
        a: (&["M", "K"], &[2, 0]),
        b: (&["K", "N"], &[0, 3]),
        result: &[2, 3],
        products: |_| vec![],
    },
];

fn contract(dtype: DType) -> Vec<Case> {
    let case = |c: &Contraction| {
        let mut b = Builder::new("contract");
        let (x, y) = (b.input("a", dtype, c.a.0), b.input("b", dtype, c.b.0));
        let out = b.apply(Op::Contract { batch: c.batch.to_vec(), axes: c.axes.to_vec() }, &[x, y]);
        // Small enough that every float type holds the sums exactly; u8 wraps.
        let value = |i: usize| (i * 5 % 7) as i64 + 1;
        let small = |shape: &[usize]| -> Vec<i64> { (0..shape.iter().product()).map(value).collect() };
        let (left, right) = (small(c.a.1), small(c.b.1));
        let sums = points(c.result)
            .into_iter()
            .map(|p| -> i64 { (c.products)(&p).into_iter().map(|(i, j)| left[i] * right[j]).sum() });
        let expected = numbers(expected_type(dtype), c.result, sums.collect::<Vec<_>>());
        let inputs = vec![numbers(dtype, c.a.1, left.clone()), numbers(dtype, c.b.1, right.clone())];
        exact(format!("contract::{}::{dtype}", c.name), b.finish(&[out]), inputs, vec![expected])
    };
    CONTRACTIONS.iter().map(case).collect()
}

/// Sums that only come out right where f16 and bf16 accumulate in f32 and integers wrap.
fn accumulation() -> Vec<Case> {
    let mut out = Vec::new();
    // More ones than the type can count one by one, and an intermediate beyond its range.
    for (dtype, count) in [(DType::F16, 4096usize), (DType::Bf16, 512)] {
        let ones = || numbers(dtype, &[1, count], std::iter::repeat_n(1, count));
        let mut b = Builder::new("sum");
        let x = b.input("x", dtype, &["N", "K"]);
        let sum = b.apply(Op::Reduce { op: ReduceOp::Sum, axes: vec![1] }, &[x]);
        let total = numbers(DType::F64, &[1], [count as i64]);
        out.push(exact(format!("sum::many::{dtype}"), b.finish(&[sum]), vec![ones()], vec![total]));
        let mut b = Builder::new("contract");
        let (x, y) = (b.input("x", dtype, &["M", "K"]), b.input("y", dtype, &["N", "K"]));
        let product = b.apply(Op::Contract { batch: vec![], axes: vec![(1, 1)] }, &[x, y]);
        let total = numbers(DType::F64, &[1, 1], [count as i64]);
        let inputs = vec![ones(), ones()];
        out.push(exact(format!("contract::many::{dtype}"), b.finish(&[product]), inputs, vec![total]));
    }
    let mut b = Builder::new("sum");
    let x = b.input("x", DType::F16, &["N", "3"]);
    let sum = b.apply(Op::Reduce { op: ReduceOp::Sum, axes: vec![1] }, &[x]);
    let input = numbers(DType::F16, &[1, 3], [60000, 60000, -60000]);
    let expected = numbers(DType::F64, &[1], [60000]);
    out.push(exact("sum::beyond_the_range::f16".into(), b.finish(&[sum]), vec![input], vec![expected]));
    for dtype in [DType::I32, DType::I64] {
        let high = if dtype == DType::I32 { i64::from(i32::MAX) } else { i64::MAX };
        let mut b = Builder::new("contract");
        let (x, y) = (b.input("x", dtype, &["K"]), b.input("y", dtype, &["K"]));
        let product = b.apply(Op::Contract { batch: vec![], axes: vec![(0, 0)] }, &[x, y]);
        let inputs = vec![numbers(dtype, &[2], [high, 5]), numbers(dtype, &[2], [2, 1])];
        // 2·(2^(n-1) - 1) + 5 = 2^n + 3.
        let expected = numbers(dtype, &[], [3]);
        out.push(exact(format!("contract::wrapping::{dtype}"), b.finish(&[product]), inputs, vec![expected]));
    }
    out
}
