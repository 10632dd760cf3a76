//! Four small models in PyTorch's weight layout, as the examples and the tests of all stages trace them.
//!
//! Each takes a sequence `x` (`[T, B, input]`) and initial states, for any `T` and `B`, and returns the outputs
//! `y` (`[T, B, hidden]`) and the last states. All numbers are f32.

use fuse_ir::{DType, Dim, Graph};

use crate::error::TraceError;
use crate::nn::{
    CellParameters, Gates, LayerNormLstmParameters, gru_layer, layer_norm_lstm_layer, lstm_layer,
};
use crate::scan::ScanOptions;
use crate::session::{Trace, trace};
use crate::tensor::Tensor;

/// An LSTM. Inputs `x`, `h0`, `c0`; parameters `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` as in
/// [`lstm_cell`](crate::nn::lstm_cell); outputs `y`, `h`, `c`.
///
/// # Errors
/// Where a size is negative.
pub fn lstm_graph(input: i64, hidden: i64) -> Result<Graph, TraceError> {
    trace("lstm", |t| {
        let (x, h0, c0) = sequence_and_state(t, input, hidden);
        let parameters = cell_parameters(t, Gates::Lstm, input, hidden);
        let (y, (h, c)) = lstm_layer(&x, &parameters, Some((h0, c0)), ScanOptions::new());
        t.output("y", y);
        t.output("h", h);
        t.output("c", c);
    })
}

/// A GRU. Inputs `x`, `h0`; parameters `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` as in
/// [`gru_cell`](crate::nn::gru_cell); outputs `y`, `h`.
///
/// # Errors
/// Where a size is negative.
pub fn gru_graph(input: i64, hidden: i64) -> Result<Graph, TraceError> {
    trace("gru", |t| {
        let x = t.input("x", DType::F32, ("T", "B", input));
        let h0 = t.input("h0", DType::F32, ("B", hidden));
        let parameters = cell_parameters(t, Gates::Gru, input, hidden);
        let (y, h) = gru_layer(&x, &parameters, Some(h0), ScanOptions::new());
        t.output("y", y);
        t.output("h", h);
    })
}

/// A layer-norm LSTM. Inputs `x`, `h0`, `c0`; parameters `weight_ih`, `weight_hh` and the gains and biases of
/// `norm_ih`, `norm_hh` and `norm_c` as in [`layer_norm_lstm_cell`](crate::nn::layer_norm_lstm_cell); outputs
/// `y`, `h`, `c`.
///
/// # Errors
/// Where a size is negative.
pub fn layer_norm_lstm_graph(input: i64, hidden: i64) -> Result<Graph, TraceError> {
    trace("layer_norm_lstm", |t| {
        let (x, h0, c0) = sequence_and_state(t, input, hidden);
        let parameters = LayerNormLstmParameters::declare(t, "", input, hidden);
        let (y, (h, c)) = layer_norm_lstm_layer(&x, &parameters, Some((h0, c0)), ScanOptions::new());
        t.output("y", y);
        t.output("h", h);
        t.output("c", c);
    })
}

/// A cell that no library has: an LSTM whose gates integrate input and state by product (`α ∘ Wx ∘ Uh`, arXiv
/// 1606.06630) as well as by sum, and look at the cell through peepholes. Inputs `x`, `h0`, `c0`; parameters
/// `weight_ih` `[4*hidden, input]`, `weight_hh` `[4*hidden, hidden]`, `alpha`, `beta_ih`, `beta_hh`, `bias`
/// `[4*hidden]`, `peephole_i`, `peephole_f`, `peephole_o` `[hidden]`; outputs `y`, `h`, `c`.
///
/// ```text
/// u = x · weight_ihᵀ,  v = h · weight_hhᵀ
/// i, f, g, o = alpha ∘ u ∘ v + beta_ih ∘ u + beta_hh ∘ v + bias
/// c' = sigmoid(f + peephole_f ∘ c) ∘ c + sigmoid(i + peephole_i ∘ c) ∘ tanh(g)
/// h' = sigmoid(o + peephole_o ∘ c') ∘ tanh(c')
/// ```
///
/// # Errors
/// Where a size is negative.
pub fn custom_cell_graph(input: i64, hidden: i64) -> Result<Graph, TraceError> {
    trace("custom_cell", |t| {
        let (x, h0, c0) = sequence_and_state(t, input, hidden);
        let parameter = |name: &str, shape: &[Dim]| t.parameter(name, DType::F32, shape);
        let rows = Dim::constant(4 * hidden);
        let weight_ih = parameter("weight_ih", &[rows.clone(), input.into()]);
        let weight_hh = parameter("weight_hh", &[rows.clone(), hidden.into()]);
        let [alpha, beta_ih, beta_hh, bias] =
            ["alpha", "beta_ih", "beta_hh", "bias"].map(|name| parameter(name, std::slice::from_ref(&rows)));
        let [peephole_i, peephole_f, peephole_o] =
            ["peephole_i", "peephole_f", "peephole_o"].map(|name| parameter(name, &[hidden.into()]));

        let ((h, c), y) = t.scan((h0, c0), x, |(h, c), x| {
            let u = crate::nn::linear(&x, &weight_ih, None);
            let v = crate::nn::linear(&h, &weight_hh, None);
            let [i, f, g, o] = (&alpha * &u * &v + &beta_ih * u + &beta_hh * v + &bias).split(-1);
            let keep = (f + &peephole_f * &c).sigmoid();
            let write = (i + &peephole_i * &c).sigmoid();
            let c = keep * c + write * g.tanh();
            let h = (o + &peephole_o * &c).sigmoid() * c.tanh();
            ((h.clone(), c), h)
        });
        t.output("y", y);
        t.output("h", h);
        t.output("c", c);
    })
}

fn sequence_and_state(t: &Trace, input: i64, hidden: i64) -> (Tensor, Tensor, Tensor) {
    let x = t.input("x", DType::F32, ("T", "B", input));
    let [h0, c0] = ["h0", "c0"].map(|name| t.input(name, DType::F32, ("B", hidden)));
    (x, h0, c0)
}

fn cell_parameters(t: &Trace, gates: Gates, input: i64, hidden: i64) -> CellParameters {
    CellParameters::declare(t, gates, "", "", &input.into(), &hidden.into())
}
