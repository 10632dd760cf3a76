//! The gated recurrent unit.

use super::recurrent::{CellParameters, Gates, StackedLayer, initial_or_zeros, run_stack, sequence_dims};
use crate::contract::linear;
use crate::error::Fault;
use crate::scan::ScanOptions;
use crate::tensor::Tensor;

/// One step of a GRU: `h` from `x`.
///
/// ```text
/// xr, xz, xn = x · weight_ihᵀ + bias_ih
/// hr, hz, hn = h · weight_hhᵀ + bias_hh
/// r = sigmoid(xr + hr)
/// z = sigmoid(xz + hz)
/// n = tanh(xn + r ∘ hn)
/// h' = (1 - z) ∘ n + z ∘ h
/// ```
///
/// `x` is `[B, I]`, `h` is `[B, H]`; the gates stand in the rows of the weights `[3*H, ..]` in the order reset,
/// update, new. The reset gate multiplies the product with its bias, as in PyTorch and cuDNN (and ONNX with
/// `linear_before_reset = 1`).
#[track_caller]
pub fn gru_cell(x: &Tensor, h: &Tensor, parameters: &CellParameters) -> Tensor {
    x.traced("gru_cell", || {
        parameters.check(Gates::Gru, &x.dim(-1))?;
        step(x, h, parameters)
    })
}

fn step(x: &Tensor, h: &Tensor, p: &CellParameters) -> Result<Tensor, Fault> {
    let [xr, xz, xn] = linear(x, &p.weight_ih, p.bias_ih.as_ref())?.split(-1);
    let [hr, hz, hn] = linear(h, &p.weight_hh, p.bias_hh.as_ref())?.split(-1);
    let r = (xr + hr).sigmoid();
    let z = (xz + hz).sigmoid();
    let n = (xn + r * hn).tanh();
    Ok((1.0 - &z) * n + z * h)
}

/// One direction of a GRU over a sequence: the outputs `[T, B, H]` and the last `h`, `[B, H]`.
///
/// `x` is `[T, B, I]`; each step is [`gru_cell`]'s. The initial `h` is zero if not given. `options` give the
/// direction and the lengths of the rows, as in [`lstm_layer`](super::lstm_layer).
#[track_caller]
pub fn gru_layer(
    x: &Tensor,
    parameters: &CellParameters,
    initial: Option<Tensor>,
    options: ScanOptions,
) -> (Tensor, Tensor) {
    x.traced("gru_layer", || {
        let (batch, input) = sequence_dims(x)?;
        parameters.check(Gates::Gru, &input)?;
        let state = initial_or_zeros(initial, x, &batch, &parameters.hidden())?;
        let (last, y) = x.trace().scan_with(options, state, x.clone(), |h, x| {
            let h = x.traced("step", || step(&x, &h, parameters));
            (h.clone(), h)
        });
        Ok((y, last))
    })
}

/// A stack of GRU layers, each in one or both directions.
///
/// `x` is `[T, B, I]`, the outputs `[T, B, D*H]` with `D` directions, and the initial and the last `h` are
/// `[L*D, B, H]`; the rest is as in [`lstm`](super::lstm()).
#[track_caller]
pub fn gru(
    x: &Tensor,
    layers: &[StackedLayer],
    initial: Option<Tensor>,
    lengths: Option<&Tensor>,
) -> (Tensor, Tensor) {
    x.traced("gru", || run_stack(x, layers, initial, lengths, gru_layer))
}
