//! The table of vectors.

use crate::tensor::Tensor;

/// Looks up the rows of `table` (`[V, E]`) that the integers `tokens` (`[..]`) name; the result is `[.., E]`.
/// A token outside of `[0, V)` is clamped into it.
#[track_caller]
pub fn embedding(table: &Tensor, tokens: &Tensor) -> Tensor {
    table.traced("embedding", || Ok(table.gather(0, tokens)))
}
