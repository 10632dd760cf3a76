//! `Einsum`: an equation becomes contractions, two operands at a time.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[row("Einsum", (12, 28), &["equation"], Computes, einsum, "")];

/// An index of the equation: a letter, or an axis that the ellipsis stands for, counted from the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Index {
    Ellipsis(usize),
    Letter(char),
}

/// A tensor whose axes have names.
#[derive(Clone)]
struct Term {
    tensor: Tensor,
    indices: Vec<Index>,
}

fn einsum(call: &Call<'_>) -> Built<Vec<Value>> {
    let equation: String =
        call.attributes.string_or("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&equation[..], None),
    };
    let operands = call.tensors()?;
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != operands.len() {
        return refuse(format!(
            "the equation `{equation}` has {} operands, the node {}",
            texts.len(),
            operands.len()
        ));
    }
    let mut terms = Vec::with_capacity(operands.len());
    for (text, tensor) in texts.iter().zip(operands) {
        let indices = indices(text, tensor.rank(), &equation)?;
        terms.push(Term { tensor, indices });
    }
    let result = match right {
        Some(text) => {
            let axes = ellipsis_axes(&terms);
            {
                let letters = text.chars().filter(|c| *c != '.').count();
                let ellipsis = if text.contains("...") { axes } else { 0 };
                indices(text, letters + ellipsis, &equation)?
            }
        }
        None => implicit_result(&terms),
    };
    if let Some(missing) = result.iter().find(|i| !terms.iter().any(|t| t.indices.contains(i))) {
        return refuse(format!("the result of `{equation}` has {missing:?}, which no operand has"));
    }
    if (1..result.len()).any(|i| result[..i].contains(&result[i])) {
        return refuse(format!("the result of `{equation}` has an index twice"));
    }
    call.one(contracted(call, terms, &result)?)
}

/// The indices of one operand, or of the result; `rank` says how many axes the ellipsis stands for.
fn indices(text: &str, rank: usize, equation: &str) -> Built<Vec<Index>> {
    let letters = text.replacen("...", "", 1);
    if let Some(other) = letters.chars().find(|c| !c.is_ascii_alphabetic()) {
        return refuse(format!("the equation `{equation}` has a `{other}` where a letter is needed"));
    }
    let has_ellipsis = letters.len() != text.len();
    let Some(count) = rank.checked_sub(letters.len()).filter(|count| has_ellipsis || *count == 0) else {
        return refuse(format!("`{text}` of the equation `{equation}` does not fit a tensor of rank {rank}"));
    };
    let (before, after) = text.split_once("...").unwrap_or((text, ""));
    let ellipsis = (0..count).rev().map(Index::Ellipsis);
    Ok(before.chars().map(Index::Letter).chain(ellipsis).chain(after.chars().map(Index::Letter)).collect())
}

/// The number of axes that the ellipsis stands for: the most among the operands, which broadcast.
fn ellipsis_axes(terms: &[Term]) -> usize {
    let count = |t: &Term| t.indices.iter().filter(|i| matches!(i, Index::Ellipsis(_))).count();
    terms.iter().map(count).max().unwrap_or(0)
}

/// Without an arrow: the axes of the ellipsis, then the letters that stand once, in alphabetic order.
fn implicit_result(terms: &[Term]) -> Vec<Index> {
    let mut letters: Vec<Index> = terms.iter().flat_map(|t| t.indices.clone()).collect();
    letters.retain(|i| matches!(i, Index::Letter(_)));
    let once = |i: &Index| letters.iter().filter(|other| *other == i).count() == 1;
    let mut result: Vec<Index> = letters.iter().copied().filter(once).collect();
    result.sort_unstable();
    (0..ellipsis_axes(terms)).rev().map(Index::Ellipsis).chain(result).collect()
}

/// Contracts the operands from left to right.
fn contracted(call: &Call<'_>, terms: Vec<Term>, result: &[Index]) -> Built<Tensor> {
    let mut terms =
        terms.into_iter().map(|term| diagonal(call, term)).collect::<Built<Vec<_>>>()?.into_iter();
    let Some(mut sum) = terms.next() else { return refuse("it has no operands") };
    while let Some(next) = terms.next() {
        let later: Vec<Index> = terms.as_slice().iter().flat_map(|t| t.indices.clone()).collect();
        let kept = |i: &Index| result.contains(i) || later.contains(i);
        sum = product(call, &sum, &next, &kept)?;
    }
    let sum = summed(&sum, &|i| result.contains(i));
    arranged(&sum, result)
}

/// An operand with each index once: where one stands twice, the diagonal of its axes is taken.
fn diagonal(call: &Call<'_>, term: Term) -> Built<Term> {
    let mut term = term;
    while let Some(second) = (1..term.indices.len()).find(|i| term.indices[..*i].contains(&term.indices[*i]))
    {
        let first = term.indices.iter().position(|i| *i == term.indices[second]).unwrap_or(0);
        let x = &term.tensor;
        call.equal(&x.shape()[first], &x.shape()[second])?;
        // All but one element along the second axis are left out of the sum over it.
        let (i, j) = (
            x.trace().iota(DType::I64, x.shape(), first as i64),
            x.trace().iota(DType::I64, x.shape(), second as i64),
        );
        let zero = call.number(x.dtype(), 0.0);
        let tensor = i.eq(&j).select(x, &zero).sum(second as i64);
        term.indices.remove(second);
        term = Term { tensor, indices: term.indices };
    }
    Ok(term)
}

/// Sums over the indices that are not kept.
fn summed(term: &Term, kept: &dyn Fn(&Index) -> bool) -> Term {
    let axes: Vec<i64> =
        (0..term.indices.len()).filter(|i| !kept(&term.indices[*i])).map(|i| i as i64).collect();
    let indices = term.indices.iter().copied().filter(|i| kept(i)).collect();
    let tensor = if axes.is_empty() { term.tensor.clone() } else { term.tensor.sum(axes) };
    Term { tensor, indices }
}

/// The product of two operands, summed over the indices that both have and nothing later needs.
fn product(call: &Call<'_>, a: &Term, b: &Term, kept: &dyn Fn(&Index) -> bool) -> Built<Term> {
    // What only one has is summed before.
    let (a, b) =
        (summed(a, &|i| kept(i) || b.indices.contains(i)), summed(b, &|i| kept(i) || a.indices.contains(i)));
    let (a, b) = without_ones(call, &a, &b)?;
    let place = |term: &Term, index: &Index| term.indices.iter().position(|i| i == index).map(|p| p as i64);
    let (mut batch, mut axes, mut order) = (Vec::new(), Vec::new(), Vec::new());
    for index in &a.indices {
        let (Some(left), Some(right)) = (place(&a, index), place(&b, index)) else { continue };
        if kept(index) {
            batch.push((left, right));
            order.push(*index);
        } else {
            axes.push((left, right));
        }
    }
    let free = |own: &Term, other: &Term| -> Vec<Index> {
        own.indices.iter().copied().filter(|i| !other.indices.contains(i)).collect()
    };
    order.extend(free(&a, &b));
    order.extend(free(&b, &a));
    Ok(Term { tensor: a.tensor.contract(&b.tensor, batch, axes), indices: order })
}

/// Both operands without the axes of size 1 over which the other one broadcasts; the other sizes must agree.
fn without_ones(call: &Call<'_>, a: &Term, b: &Term) -> Built<(Term, Term)> {
    let size = |term: &Term, index: &Index| {
        term.indices.iter().position(|i| i == index).map(|p| term.tensor.shape()[p].clone())
    };
    for index in &a.indices {
        if let (Some(x), Some(y)) = (size(a, index), size(b, index))
            && !x.is_one()
            && !y.is_one()
        {
            call.equal(&x, &y)?;
        }
    }
    let reduced = |own: &Term, other: &Term| {
        let broadcasts = |index: &Index| match (size(own, index), size(other, index)) {
            (Some(own), Some(other)) => own.is_one() && !other.is_one(),
            _ => false,
        };
        let kept: Vec<usize> = (0..own.indices.len()).filter(|i| !broadcasts(&own.indices[*i])).collect();
        let shape: Vec<Dim> = kept.iter().map(|i| own.tensor.shape()[*i].clone()).collect();
        Term { tensor: own.tensor.reshape(shape), indices: kept.iter().map(|i| own.indices[*i]).collect() }
    };
    Ok((reduced(a, b), reduced(b, a)))
}

/// The axes in the order of the result.
fn arranged(term: &Term, result: &[Index]) -> Built<Tensor> {
    let mut axes = Vec::with_capacity(result.len());
    for index in result {
        match term.indices.iter().position(|i| i == index) {
            Some(position) => axes.push(position as i64),
            None => return refuse(format!("index {index:?} is lost")),
        }
    }
    Ok(term.tensor.permute(axes))
}
