//! Layer normalisation, and the LSTM built with it.

use fuse_ir::{DType, Dim};

use super::recurrent::{expect_shape, initial_or_zeros, sequence_dims};
use crate::contract::linear;
use crate::elementwise::labelled;
use crate::error::{Fault, argument};
use crate::scan::ScanOptions;
use crate::session::Trace;
use crate::tensor::Tensor;

/// What is added to a variance before its square root, as in PyTorch.
const EPSILON: f64 = 1e-5;

/// The gain and bias of a layer normalisation, both of the shape of the axes normalised over.
#[derive(Clone, Debug)]
pub struct LayerNormParameters {
    /// What the normalised values are multiplied by.
    pub gain: Tensor,
    /// What is added then.
    pub bias: Tensor,
}

impl LayerNormParameters {
    /// Declares f32 parameters `{prefix}gain` and `{prefix}bias` of shape `[size]`.
    #[track_caller]
    pub fn declare(t: &Trace, prefix: &str, size: &Dim) -> Self {
        LayerNormParameters {
            gain: t.parameter(&format!("{prefix}gain"), DType::F32, (size,)),
            bias: t.parameter(&format!("{prefix}bias"), DType::F32, (size,)),
        }
    }
}

/// `(x - mean) / sqrt(variance + 1e-5) ∘ gain + bias`, with mean and population variance over the last axes,
/// as many as the gain has.
#[track_caller]
pub fn layer_norm(x: &Tensor, parameters: &LayerNormParameters) -> Tensor {
    x.traced("layer_norm", || {
        let LayerNormParameters { gain, bias } = parameters;
        x.trace().check(&[x, gain, bias])?;
        let Some(normal) = x.rank().checked_sub(gain.rank()) else {
            return Err(argument(labelled("gain", gain), gain.ty(), format!("x has fewer axes: {}", x.ty())));
        };
        expect_shape("gain", gain, &x.shape()[normal..])?;
        expect_shape("bias", bias, &x.shape()[normal..])?;
        let axes: Vec<i64> = (normal as i64..x.rank() as i64).collect();
        Ok(x.layer_norm(axes, EPSILON) * gain + bias)
    })
}

/// The weights of a layer-norm LSTM with `I` inputs and `H` units.
#[derive(Clone, Debug)]
pub struct LayerNormLstmParameters {
    /// `[4*H, I]`, gates in the order input, forget, cell, output.
    pub weight_ih: Tensor,
    /// `[4*H, H]`
    pub weight_hh: Tensor,
    /// Of the product with the input, `[4*H]`.
    pub norm_ih: LayerNormParameters,
    /// Of the product with the state, `[4*H]`.
    pub norm_hh: LayerNormParameters,
    /// Of the cell, `[H]`.
    pub norm_c: LayerNormParameters,
}

impl LayerNormLstmParameters {
    /// Declares f32 parameters: `weight_ih`, `weight_hh`, and a `gain` and `bias` of each of `norm_ih.`,
    /// `norm_hh.` and `norm_c.`, with `prefix` before their names.
    #[track_caller]
    pub fn declare(t: &Trace, prefix: &str, input: impl Into<Dim>, hidden: impl Into<Dim>) -> Self {
        let (input, hidden) = (input.into(), hidden.into());
        let rows = Dim::constant(4) * hidden.clone();
        LayerNormLstmParameters {
            weight_ih: t.parameter(&format!("{prefix}weight_ih"), DType::F32, (&rows, &input)),
            weight_hh: t.parameter(&format!("{prefix}weight_hh"), DType::F32, (&rows, &hidden)),
            norm_ih: LayerNormParameters::declare(t, &format!("{prefix}norm_ih."), &rows),
            norm_hh: LayerNormParameters::declare(t, &format!("{prefix}norm_hh."), &rows),
            norm_c: LayerNormParameters::declare(t, &format!("{prefix}norm_c."), &hidden),
        }
    }

    fn check(&self, input: &Dim) -> Result<Dim, Fault> {
        let hidden = self.weight_hh.dim(-1);
        let rows = Dim::constant(4) * hidden.clone();
        expect_shape("weight_hh", &self.weight_hh, &[rows.clone(), hidden.clone()])?;
        expect_shape("weight_ih", &self.weight_ih, &[rows, input.clone()])?;
        Ok(hidden)
    }
}

/// One step of a layer-norm LSTM, in the form of PyTorch's fastrnns benchmark: `(h, c)` from `x`.
///
/// ```text
/// i, f, g, o = layer_norm_ih(x · weight_ihᵀ) + layer_norm_hh(h · weight_hhᵀ)
/// c' = layer_norm_c(sigmoid(f) ∘ c + sigmoid(i) ∘ tanh(g))
/// h' = sigmoid(o) ∘ tanh(c')
/// ```
///
/// The cell that is carried is the normalised one. `x` is `[B, I]`, `h` and `c` are `[B, H]`.
#[track_caller]
pub fn layer_norm_lstm_cell(
    x: &Tensor,
    (h, c): (&Tensor, &Tensor),
    parameters: &LayerNormLstmParameters,
) -> (Tensor, Tensor) {
    x.traced("layer_norm_lstm_cell", || {
        parameters.check(&x.dim(-1))?;
        step(x, h, c, parameters)
    })
}

fn step(x: &Tensor, h: &Tensor, c: &Tensor, p: &LayerNormLstmParameters) -> Result<(Tensor, Tensor), Fault> {
    let from_input = layer_norm(&linear(x, &p.weight_ih, None)?, &p.norm_ih);
    let from_state = layer_norm(&linear(h, &p.weight_hh, None)?, &p.norm_hh);
    let [i, f, g, o] = (from_input + from_state).split(-1);
    let c = layer_norm(&(f.sigmoid() * c + i.sigmoid() * g.tanh()), &p.norm_c);
    Ok((o.sigmoid() * c.tanh(), c))
}

/// One direction of a layer-norm LSTM over a sequence: the outputs `[T, B, H]` and the last `(h, c)`.
///
/// `x` is `[T, B, I]`; each step is [`layer_norm_lstm_cell`]'s. The initial `(h, c)` is zero if not given.
#[track_caller]
pub fn layer_norm_lstm_layer(
    x: &Tensor,
    parameters: &LayerNormLstmParameters,
    initial: Option<(Tensor, Tensor)>,
    options: ScanOptions,
) -> (Tensor, (Tensor, Tensor)) {
    x.traced("layer_norm_lstm_layer", || {
        let (batch, input) = sequence_dims(x)?;
        let hidden = parameters.check(&input)?;
        let state = initial_or_zeros(initial, x, &batch, &hidden)?;
        let (last, y) = x.trace().scan_with(options, state, x.clone(), |(h, c), x| {
            let (h, c) = x.traced("step", || step(&x, &h, &c, parameters));
            ((h.clone(), c), h)
        });
        Ok((y, last))
    })
}
