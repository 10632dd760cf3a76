//! `Attention`, as a composition of products and a softmax.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::elementwise::require_float;
use super::gather::coordinate;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[row(
    "Attention",
    (23, 28),
    ATTRIBUTES,
    Computes,
    attention,
    "the scores and the softmax are computed in f32 at least",
)];

const ATTRIBUTES: &[&str] = &[
    "is_causal",
    "kv_num_heads",
    "left_window_size",
    "q_num_heads",
    "qk_matmul_output_mode",
    "right_window_size",
    "scale",
    "softcap",
    "softmax_precision",
];

/// Queries, keys and values by heads.
struct Heads {
    /// `[B, H, S, D]`
    query: Tensor,
    /// `[B, K, T, D]`, those of the past before.
    key: Tensor,
    /// `[B, K, T, V]`, those of the past before.
    value: Tensor,
    /// Query heads that share a head of keys and values: `H / K`.
    group: Dim,
    /// The number of keys before the first query, where it is the same in each row of the batch.
    past: Dim,
}

impl Heads {
    fn of(call: &Call<'_>) -> Built<Heads> {
        let heads = |i: usize, name: &str| -> Built<Tensor> {
            let x = call.tensor(i)?;
            require_float(&x)?;
            match x.rank() {
                4 => Ok(x),
                // [B, S, H * D] to [B, H, S, D]
                3 => {
                    let count = Dim::constant(call.attributes.int_or(name, 0)?);
                    let Some(size) = x.dim(2).exact_div(&count).filter(|_| !count.is_zero()) else {
                        return refuse(format!("{} has no {count} heads; see attribute `{name}`", x.ty()));
                    };
                    Ok(x.reshape(vec![x.dim(0), x.dim(1), count, size]).transpose(1, 2))
                }
                _ => refuse(format!("{} has neither 3 nor 4 axes", x.ty())),
            }
        };
        let query = heads(0, "q_num_heads")?;
        let with_past = |new: Tensor, i: usize| -> Built<(Tensor, Dim)> {
            let Some(past) = call.optional_tensor(i)? else { return Ok((new, Dim::constant(0))) };
            if past.rank() != 4 || past.dtype() != new.dtype() {
                return refuse(format!("a past of {} does not fit {}", past.ty(), new.ty()));
            }
            for axis in [0, 1, 3] {
                call.equal(&past.dim(axis), &new.dim(axis))?;
            }
            let steps = past.dim(2);
            Ok((crate::concat([past, new], 2), steps))
        };
        let (key, past) = with_past(heads(1, "kv_num_heads")?, 4)?;
        let (value, _) = with_past(heads(2, "kv_num_heads")?, 5)?;
        for (a, b) in [(&query, &key), (&query, &value)] {
            call.equal(&a.dim(0), &b.dim(0))?;
        }
        for axis in [1, 2] {
            call.equal(&key.dim(axis), &value.dim(axis))?;
        }
        call.equal(&query.dim(3), &key.dim(3))?;
        let Some(group) = query.dim(1).exact_div(&key.dim(1)) else {
            return refuse(format!("{} heads of queries do not share {} of keys", query.dim(1), key.dim(1)));
        };
        Ok(Heads { query, key, value, group, past })
    }

    /// `[B, H, S, T]`
    fn scores_shape(&self) -> [Dim; 4] {
        [self.query.dim(0), self.query.dim(1), self.query.dim(2), self.key.dim(2)]
    }

    /// `[B, H, X, Y]` as `[B, K, H / K, X, Y]`.
    fn grouped(&self, x: &Tensor) -> Tensor {
        x.reshape(vec![x.dim(0), self.key.dim(1), self.group.clone(), x.dim(2), x.dim(3)])
    }

    /// The scaled products of queries and keys, `[B, H, S, T]`.
    fn scores(&self, call: &Call<'_>, wide: DType) -> Built<Tensor> {
        let scale = match call.attributes.float("scale")? {
            Some(scale) => call.number(wide, scale),
            None => call.trace().dim_value(wide, self.query.dim(3)).sqrt().reciprocal(),
        };
        let products =
            self.grouped(&self.query.cast(wide)).contract(self.key.cast(wide), [(0, 0), (1, 1)], [(4, 3)]);
        Ok(products.reshape(&self.scores_shape()[..]) * scale)
    }

    /// The sums of values that weights `[B, H, S, T]` give, `[B, H, S, V]`.
    fn weighted(&self, weights: &Tensor) -> Tensor {
        let value = self.value.cast(weights.dtype());
        let sums = self.grouped(weights).contract(&value, [(0, 0), (1, 1)], [(4, 2)]);
        sums.reshape(vec![self.query.dim(0), self.query.dim(1), self.query.dim(2), value.dim(3)])
    }
}

/// Which keys each query attends to, as far as positions decide; `None` where it attends to all.
fn allowed(call: &Call<'_>, heads: &Heads) -> Built<Option<Tensor>> {
    let shape = heads.scores_shape();
    let valid = call.optional_tensor(6)?.map(|n| n.cast(DType::I64));
    if let Some(valid) = &valid {
        if valid.rank() != 1 {
            return refuse(format!("the numbers of valid keys are {}; a vector is needed", valid.ty()));
        }
        call.equal(&valid.dim(0), &shape[0])?;
    }
    let of_row =
        |n: &Tensor| n.reshape(vec![shape[0].clone(), Dim::constant(1), Dim::constant(1), Dim::constant(1)]);
    let value = |dim: &Dim| call.trace().dim_value(DType::I64, dim);
    let key = coordinate(call.trace(), &shape, 3);
    // Keys before the first query: those of the past, or the valid ones without the queries' own.
    let offset = match &valid {
        Some(valid) => of_row(valid) - value(&shape[2]),
        None => value(&heads.past),
    };
    let ahead = &key - (coordinate(call.trace(), &shape, 2) + offset);
    let mut conditions = Vec::new();
    if call.attributes.flag("is_causal", false)? {
        conditions.push(ahead.le(0));
    }
    let left = call.attributes.int_or("left_window_size", -1)?;
    if left >= 0 {
        conditions.push(ahead.ge(left.saturating_neg()));
    }
    let right = call.attributes.int_or("right_window_size", -1)?;
    if right >= 0 {
        conditions.push(ahead.le(right));
    }
    conditions.extend(valid.map(|valid| key.lt(of_row(&valid))));
    Ok(conditions.into_iter().reduce(|a, b| a.and(b)))
}

/// Scores with the mask of the model and that of positions applied.
fn masked(call: &Call<'_>, heads: &Heads, scores: Tensor) -> Built<Tensor> {
    let mut scores = scores;
    if let Some(mask) = call.optional_tensor(3)? {
        // A mask may end before the keys do; those past its end are not attended to.
        let given = mask.shape().last().cloned().unwrap_or(Dim::constant(1));
        let missing = heads.key.dim(2) - given.clone();
        let short = !given.is_one() && missing.as_constant().is_some_and(|m| m > 0);
        let is_bool = mask.dtype() == DType::Bool;
        let mask = match (short, is_bool) {
            (false, _) => mask,
            (true, true) => mask.pad(-1, 0, missing, false),
            (true, false) => mask.pad(-1, 0, missing, f64::NEG_INFINITY),
        };
        call.broadcast_together(&[&scores, &mask])?;
        scores = match is_bool {
            true => mask.select(scores, f64::NEG_INFINITY),
            false => &scores + mask.cast(scores.dtype()),
        };
    }
    Ok(match allowed(call, heads)? {
        Some(allowed) => allowed.select(&scores, f64::NEG_INFINITY),
        None => scores,
    })
}

/// The softmax along the last axis; 0 where a query attends to nothing.
fn softmax(scores: &Tensor) -> Tensor {
    let largest = scores.max_keepdims(-1);
    let shift = largest.eq(f64::NEG_INFINITY).select(0.0, &largest);
    let powers = (scores - shift).exp();
    let sum = powers.sum_keepdims(-1);
    powers / sum.eq(0.0).select(1.0, &sum)
}

fn attention(call: &Call<'_>) -> Built<Vec<Value>> {
    let heads = Heads::of(call)?;
    let dtype = heads.query.dtype();
    let wide = dtype.accumulator();
    let scores = heads.scores(call, wide)?;
    let cap = call.attributes.float_or("softcap", 0.0)?;
    let capped = if cap > 0.0 { (&scores / cap).tanh() * cap } else { scores.clone() };
    let masked = masked(call, &heads, capped.clone())?;
    let weights = softmax(&masked);
    let sums = heads.weighted(&weights).cast(dtype);
    let y = match call.value(0)?.rank() {
        3 => {
            let by_step = sums.transpose(1, 2);
            by_step.reshape(vec![by_step.dim(0), by_step.dim(1), by_step.dim(2) * by_step.dim(3)])
        }
        _ => sums,
    };
    let mode = call.attributes.int_or("qk_matmul_output_mode", 0)?;
    let shown = match mode {
        0 => scores,
        1 => capped,
        2 => masked,
        3 => weights,
        other => return refuse(format!("attribute `qk_matmul_output_mode` is {other}")),
    };
    Ok(vec![y.into(), heads.key.into(), heads.value.into(), shown.cast(dtype).into()])
}
