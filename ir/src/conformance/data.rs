//! Cases from the generated file.

use std::collections::BTreeMap;

use super::{Case, expected_type};
use crate::compare::Tolerance;
use crate::dtype::{DType, Literal};
use crate::graph::{Graph, InputKind};
use crate::ops::{Op, ReduceOp, ScalarOp};
use crate::tensor::Tensor;
use crate::types::TensorType;

const DATA: &str = include_str!("../../tests/conformance/scalars.txt");

/// Operand tuples of one type and arity, as text.
type Operands<'a> = BTreeMap<(DType, usize), Vec<&'a str>>;

pub(super) fn cases() -> Vec<Case> {
    let mut operands = Operands::new();
    let mut out = Vec::new();
    for (number, line) in DATA.lines().enumerate().filter(|(_, l)| !l.starts_with('#')) {
        match line_case(line, &mut operands) {
            Some(case) => out.extend(case),
            None => panic!("scalars.txt, line {}: not understood", number + 1),
        }
    }
    out
}

/// The case of a line, if it is one; `None` where the line has no meaning.
fn line_case<'a>(line: &'a str, operands: &mut Operands<'a>) -> Option<Option<Case>> {
    let mut words = line.split(' ');
    Some(match words.next()? {
        "values" => {
            let key = (DType::from_name(words.next()?)?, words.next()?.parse().ok()?);
            operands.insert(key, words.collect());
            None
        }
        "case" => {
            let op = ScalarOp::from_mnemonic(words.next()?)?;
            let dtype = DType::from_name(words.next()?)?;
            Some(scalar_case(op, dtype, operands.get(&(dtype, op.arity()))?, &words.collect::<Vec<_>>())?)
        }
        "cast" => {
            let (from, to) = (DType::from_name(words.next()?)?, DType::from_name(words.next()?)?);
            Some(cast_case(from, to, operands.get(&(from, 1))?, &words.collect::<Vec<_>>())?)
        }
        "reduce" => {
            let op = ReduceOp::from_mnemonic(words.next()?)?;
            let dtype = DType::from_name(words.next()?)?;
            let width = words.next()?.parse().ok()?;
            let words: Vec<_> = words.collect();
            let equals = words.iter().position(|w| *w == "=")?;
            Some(reduce_case(op, dtype, width, &words[..equals], &words[equals + 1..])?)
        }
        _ => return None,
    })
}

/// A value as the file spells it: the leading digits of the bits as f64, or decimal.
fn literal(dtype: DType, word: &str) -> Option<Literal> {
    if !dtype.is_float() {
        return Some(Literal::from_i64(dtype, word.parse().ok()?));
    }
    if word == "n" {
        return Some(Literal::from_f64(dtype, f64::NAN));
    }
    let bits = u64::from_str_radix(&format!("{word:0<16}"), 16).ok()?;
    Some(Literal::from_f64(dtype, f64::from_bits(bits)))
}

/// A tensor of these words.
fn tensor<'a>(dtype: DType, shape: &[usize], words: impl Iterator<Item = &'a str>) -> Option<Tensor> {
    let literals: Option<Vec<Literal>> = words.map(|w| literal(dtype, w)).collect();
    super::structural::tensor(dtype, shape, &literals?)
}

/// One elementwise op over a vector of any length.
fn scalar_case(op: ScalarOp, dtype: DType, tuples: &[&str], results: &[&str]) -> Option<Case> {
    let ty = TensorType::new(dtype, ["N"]);
    let mut graph = Graph::new(op.mnemonic());
    let operands: Vec<_> =
        op.operands().iter().map(|name| graph.add_input(*name, InputKind::Input, ty.clone())).collect();
    let result = graph.add_node(Op::Scalar(op), &operands, None).ok()?;
    graph.add_output("result", result[0]);
    let n = tuples.len();
    let column =
        |i: usize| tensor(dtype, &[n], tuples.iter().map(|t| t.split(':').nth(i).unwrap_or_default()));
    let inputs: Option<Vec<Tensor>> = (0..op.arity()).map(column).collect();
    let result_type = op.result_rule().result(dtype);
    Some(Case {
        name: format!("{}::{dtype}", op.mnemonic()),
        graph,
        inputs: inputs?,
        expected: vec![tensor(expected_type(result_type), &[n], results.iter().copied())?],
        tolerance: Tolerance::ulp(op.tolerance_ulp()),
    })
}

fn cast_case(from: DType, to: DType, values: &[&str], results: &[&str]) -> Option<Case> {
    let mut graph = Graph::new("cast");
    let x = graph.add_input("x", InputKind::Input, TensorType::new(from, ["N"]));
    let result = graph.add_node(Op::Cast { dtype: to }, &[x], None).ok()?;
    graph.add_output("result", result[0]);
    Some(Case {
        name: format!("cast::{from}_to_{to}"),
        graph,
        inputs: vec![tensor(from, &[values.len()], values.iter().copied())?],
        expected: vec![tensor(expected_type(to), &[values.len()], results.iter().copied())?],
        tolerance: Tolerance::EXACT,
    })
}

/// Rows of `width` elements, each reduced; the sums and products are exact in any order.
fn reduce_case(
    op: ReduceOp,
    dtype: DType,
    width: usize,
    operands: &[&str],
    results: &[&str],
) -> Option<Case> {
    let mut graph = Graph::new(op.mnemonic());
    let x = graph.add_input("x", InputKind::Input, TensorType::new(dtype, ["N", "K"]));
    let result = graph.add_node(Op::Reduce { op, axes: vec![1] }, &[x], None).ok()?;
    graph.add_output("result", result[0]);
    let rows = results.len();
    let result_type = if op.is_arg() { DType::I64 } else { expected_type(dtype) };
    Some(Case {
        name: format!("{}::rows::{dtype}", op.mnemonic()),
        graph,
        inputs: vec![tensor(dtype, &[rows, width], operands.iter().copied())?],
        expected: vec![tensor(result_type, &[rows], results.iter().copied())?],
        tolerance: Tolerance::EXACT,
    })
}
