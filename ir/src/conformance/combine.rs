//! Cases of reductions and contractions, written by hand; what they sum is exact in any order.

use super::structural::{Builder, exact, numbers, points, tensor};
use super::{Case, expected_type};
use crate::dtype::{DType, Literal};
use crate::ops::{Op, ReduceOp};
use crate::tensor::Tensor;

pub(super) fn cases() -> Vec<Case> {
    let numeric = DType::ALL.into_iter().filter(|d| *d != DType::Bool);
    let mut out: Vec<Case> = numeric.flat_map(|d| reduce(d).into_iter().chain(contract(d))).collect();
    out.extend(accumulation());
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
