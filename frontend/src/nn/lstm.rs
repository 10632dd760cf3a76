//! The long short-term memory.

use fuse_ir::Dim;

use super::recurrent::{CellParameters, Gates, StackedLayer, initial_or_zeros, run_stack, sequence_dims};
use crate::contract::linear;
use crate::error::Fault;
use crate::scan::ScanOptions;
use crate::tensor::Tensor;

/// One step of an LSTM: `(h, c)` from `x`.
///
/// ```text
/// i, f, g, o = x · weight_ihᵀ + bias_ih + h · weight_hhᵀ + bias_hh
/// c' = sigmoid(f) ∘ c + sigmoid(i) ∘ tanh(g)
/// h' = sigmoid(o) ∘ tanh(c')
/// ```
///
/// `x` is `[B, I]`, `h` and `c` are `[B, H]`; the gates stand in the rows of the weights `[4*H, ..]` in the
/// order input, forget, cell, output.
#[track_caller]
pub fn lstm_cell(x: &Tensor, (h, c): (&Tensor, &Tensor), parameters: &CellParameters) -> (Tensor, Tensor) {
    x.traced("lstm_cell", || {
        parameters.check(Gates::Lstm, &x.dim(-1))?;
        step(x, h, c, parameters)
    })
}

fn step(x: &Tensor, h: &Tensor, c: &Tensor, p: &CellParameters) -> Result<(Tensor, Tensor), Fault> {
    let from_input = linear(x, &p.weight_ih, p.bias_ih.as_ref())?;
    let from_state = linear(h, &p.weight_hh, p.bias_hh.as_ref())?;
    Ok(gated(from_input + from_state, c))
}

/// The part of the step after the matrix products: `(h, c)` from the gates and the old `c`.
fn gated(gates: Tensor, c: &Tensor) -> (Tensor, Tensor) {
    let [i, f, g, o] = gates.split(-1);
    let c = f.sigmoid() * c + i.sigmoid() * g.tanh();
    (o.sigmoid() * c.tanh(), c)
}

/// One direction of an LSTM over a sequence: the outputs `[T, B, H]` and the last `(h, c)`, each `[B, H]`.
///
/// `x` is `[T, B, I]`; each step is [`lstm_cell`]'s. The initial `(h, c)` is zero if not given. `options` give
/// the direction and the lengths of the rows; where there are lengths, outputs past them are zero and the
/// last state is that at each row's own end.
#[track_caller]
pub fn lstm_layer(
    x: &Tensor,
    parameters: &CellParameters,
    initial: Option<(Tensor, Tensor)>,
    options: ScanOptions,
) -> (Tensor, (Tensor, Tensor)) {
    x.traced("lstm_layer", || {
        let (batch, input): (Dim, Dim) = sequence_dims(x)?;
        parameters.check(Gates::Lstm, &input)?;
        let state = initial_or_zeros(initial, x, &batch, &parameters.hidden())?;
        let (last, y) = x.trace().scan_with(options, state, x.clone(), |(h, c), x| {
            let (h, c) = x.traced("step", || step(&x, &h, &c, parameters));
            ((h.clone(), c), h)
        });
        Ok((y, last))
    })
}

/// A stack of LSTM layers, each in one or both directions.
///
/// `x` is `[T, B, I]`, the outputs `[T, B, D*H]` with `D` directions, and `h` and `c` of the initial and the last
/// state are `[L*D, B, H]`, layer by layer, in each the forward direction first. The initial state is zero if
/// not given. `lengths` (i32 or i64, `[B]`) work as in [`lstm_layer`].
///
/// ```
/// use fuse_frontend::{DType, nn, trace};
///
/// let graph = trace("encoder", |t| {
///     let x = t.input("x", DType::F32, ("T", "B", 64));
///     let options = nn::StackOptions { layers: 2, bidirectional: true };
///     let layers = nn::declare_stack(t, nn::Gates::Lstm, "encoder.", 64, 128, options);
///     let (y, (h, _)) = nn::lstm(&x, &layers, None, None);
///     t.output("y", y);
///     t.output("h", h);
/// })?;
/// assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), "f32[T, B, 256]");
/// assert_eq!(graph.ty(graph.outputs()[1].value).to_string(), "f32[4, B, 128]");
/// # Ok::<(), fuse_frontend::TraceError>(())
/// ```
#[track_caller]
pub fn lstm(
    x: &Tensor,
    layers: &[StackedLayer],
    initial: Option<(Tensor, Tensor)>,
    lengths: Option<&Tensor>,
) -> (Tensor, (Tensor, Tensor)) {
    x.traced("lstm", || run_stack(x, layers, initial, lengths, lstm_layer))
}
