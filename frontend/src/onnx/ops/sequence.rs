//! Sequences of tensors, in which a program's lists arrive. Only how they are put together is kept; there is no
//! sequence when the model runs.

use std::rc::Rc;

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Own, OpRow, row};
use super::super::value::{Segment, Value};
use super::movement::with_axis_at;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("SequenceEmpty", (11, 11), &["dtype"], Own, |_| sequence(Vec::new()), ""),
    row("SequenceConstruct", (11, 11), &[], Own, construct, ""),
    row("SequenceInsert", (11, 11), &[], Own, insert, "at a known position"),
    row(
        "SequenceAt",
        (11, 11),
        &[],
        Own,
        at,
        "at any position of a sequence that a loop has made, else at a known one",
    ),
    row("SequenceLength", (11, 11), &[], Own, length, ""),
    row("ConcatFromSequence", (11, 11), &["axis", "new_axis"], Own, concat, ""),
    row("SplitToSequence", (11, 24), &["axis", "keepdims"], Own, split, "into parts of size 1"),
];

fn sequence(segments: Vec<Segment>) -> Built<Vec<Value>> {
    Ok(vec![Value::Sequence(Rc::new(segments))])
}

fn construct(call: &Call<'_>) -> Built<Vec<Value>> {
    let items = (0..call.inputs.len()).map(|i| Ok(Segment::Item(call.value(i)?.clone())));
    sequence(items.collect::<Built<_>>()?)
}

fn insert(call: &Call<'_>) -> Built<Vec<Value>> {
    let mut segments = call.sequence(0)?.to_vec();
    let item = Segment::Item(call.value(1)?.clone());
    let Some(_) = call.optional(2) else {
        segments.push(item);
        return sequence(segments);
    };
    let position = call.int(2, "the position")?;
    let index = if position < 0 { position + segments.len() as i64 } else { position };
    let all_items = segments.iter().all(|s| matches!(s, Segment::Item(_)));
    match usize::try_from(index) {
        Ok(index) if all_items && index <= segments.len() => segments.insert(index, item),
        _ => return refuse(format!("position {position} is not within the known entries of the sequence")),
    }
    sequence(segments)
}

fn at(call: &Call<'_>) -> Built<Vec<Value>> {
    let segments = call.sequence(0)?;
    if let [Segment::Stacked(stack)] = segments {
        let index = call.tensor(1)?.cast(DType::I64).reshape(());
        let count = call.trace().dim_value(DType::I64, stack.dim(0));
        let from_end = &index + count;
        return call.one(stack.gather(0, index.lt(0).select(from_end, &index)));
    }
    let position = call.int(1, "the position")?;
    let index = if position < 0 { position + segments.len() as i64 } else { position };
    let all_items = segments.iter().all(|s| matches!(s, Segment::Item(_)));
    match usize::try_from(index).ok().and_then(|i| segments.get(i)) {
        Some(Segment::Item(item)) if all_items => Ok(vec![item.clone()]),
        _ => refuse(format!("position {position} is not within the known entries of the sequence")),
    }
}

fn length(call: &Call<'_>) -> Built<Vec<Value>> {
    let mut count = Dim::constant(0);
    for segment in call.sequence(0)? {
        count = count
            + match segment {
                Segment::Item(_) => Dim::constant(1),
                Segment::Stacked(stack) => stack.dim(0),
                Segment::Carried(_) => {
                    return refuse("the length of a sequence that a loop carries is not known");
                }
            };
    }
    let dims = super::super::value::DimTensor { shape: Vec::new(), dims: vec![count], dtype: DType::I64 };
    Ok(vec![Value::dims(call.name, dims)])
}

fn concat(call: &Call<'_>) -> Built<Vec<Value>> {
    let new_axis = call.attributes.flag("new_axis", false)?;
    let Some(axis) = call.attributes.int("axis")? else { return refuse("attribute `axis` is missing") };
    let mut parts: Vec<Tensor> = Vec::new();
    for segment in call.sequence(0)? {
        // Each with the entries along a leading axis.
        let stack = match segment {
            Segment::Item(item) => call.importer.tensor(item)?.unsqueeze(0),
            Segment::Stacked(stack) => stack.clone(),
            Segment::Carried(_) => {
                return refuse("a sequence that a loop carries cannot be joined in its step");
            }
        };
        let rank = stack.rank() - usize::from(!new_axis);
        let position = call.axis(axis, rank)?;
        let stack = with_axis_at(&stack, 0, position);
        parts.push(if new_axis { stack } else { merged(&stack, position) });
    }
    let Some(first) = parts.first() else { return refuse("the sequence is empty") };
    let axis = call.axis(axis, first.rank())?;
    for part in &parts {
        for (i, (a, b)) in first.shape().iter().zip(part.shape()).enumerate() {
            if i != axis {
                call.equal(a, b)?;
            }
        }
    }
    call.one(crate::concat(&parts, axis as i64))
}

/// The tensor with the axis at `position` and the one after it as one.
fn merged(x: &Tensor, position: usize) -> Tensor {
    let mut shape = x.shape().to_vec();
    let inner = shape.remove(position + 1);
    shape[position] = shape[position].clone() * inner;
    x.reshape(shape)
}

fn split(call: &Call<'_>) -> Built<Vec<Value>> {
    let x = call.tensor(0)?;
    let axis = call.axis(call.attributes.int_or("axis", 0)?, x.rank())?;
    if let Some(sizes) = call.optional_ints(1, "the sizes")?
        && sizes != [1]
    {
        return refuse("only parts of size 1 are supported; use Split for a known number of others");
    }
    let stack = with_axis_at(&x, axis, 0);
    // The attribute applies only where no sizes are given.
    let keeps = call.optional(1).is_some() || call.attributes.flag("keepdims", true)?;
    sequence(vec![Segment::Stacked(if keeps { stack.unsqueeze(axis as i64 + 1) } else { stack })])
}
