//! The plain recurrent network.

use super::recurrent::{CellParameters, Gates, StackedLayer, initial_or_zeros, run_stack, sequence_dims};
use crate::contract::linear;
use crate::error::Fault;
use crate::scan::ScanOptions;
use crate::tensor::Tensor;

/// The nonlinearity of a plain recurrent network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activation {
    /// The hyperbolic tangent.
    #[default]
    Tanh,
    /// `max(x, 0)`
    Relu,
}

/// One step of a plain recurrent network: `h' = activation(x · weight_ihᵀ + bias_ih + h · weight_hhᵀ + bias_hh)`.
///
/// `x` is `[B, I]`, `h` is `[B, H]`.
#[track_caller]
pub fn rnn_cell(x: &Tensor, h: &Tensor, parameters: &CellParameters, activation: Activation) -> Tensor {
    x.traced("rnn_cell", || {
        parameters.check(Gates::Rnn, &x.dim(-1))?;
        step(x, h, parameters, activation)
    })
}

fn step(x: &Tensor, h: &Tensor, p: &CellParameters, activation: Activation) -> Result<Tensor, Fault> {
    let sum = linear(x, &p.weight_ih, p.bias_ih.as_ref())? + linear(h, &p.weight_hh, p.bias_hh.as_ref())?;
    Ok(match activation {
        Activation::Tanh => sum.tanh(),
        Activation::Relu => sum.relu(),
    })
}

/// One direction over a sequence: the outputs `[T, B, H]` and the last `h`, `[B, H]`.
///
/// `x` is `[T, B, I]`; each step is [`rnn_cell`]'s. The initial `h` is zero if not given. `options` give the
/// direction and the lengths of the rows, as in [`lstm_layer`](super::lstm_layer).
#[track_caller]
pub fn rnn_layer(
    x: &Tensor,
    parameters: &CellParameters,
    activation: Activation,
    initial: Option<Tensor>,
    options: ScanOptions,
) -> (Tensor, Tensor) {
    x.traced("rnn_layer", || {
        let (batch, input) = sequence_dims(x)?;
        parameters.check(Gates::Rnn, &input)?;
        let state = initial_or_zeros(initial, x, &batch, &parameters.hidden())?;
        let (last, y) = x.trace().scan_with(options, state, x.clone(), |h, x| {
            let h = x.traced("step", || step(&x, &h, parameters, activation));
            (h.clone(), h)
        });
        Ok((y, last))
    })
}

/// A stack of plain recurrent layers, each in one or both directions.
///
/// `x` is `[T, B, I]`, the outputs `[T, B, D*H]` with `D` directions, and the initial and the last `h` are
/// `[L*D, B, H]`; the rest is as in [`lstm`](super::lstm()).
#[track_caller]
pub fn rnn(
    x: &Tensor,
    layers: &[StackedLayer],
    activation: Activation,
    initial: Option<Tensor>,
    lengths: Option<&Tensor>,
) -> (Tensor, Tensor) {
    x.traced("rnn", || {
        run_stack(x, layers, initial, lengths, |x, p, state, options| {
            rnn_layer(x, p, activation, state, options)
        })
    })
}
