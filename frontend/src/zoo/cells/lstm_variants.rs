//! LSTMs that normalise, multiply or exponentiate.

use fuse_ir::Dim;

use super::lstm::gated;
use crate::session::Trace;
use crate::tensor::Tensor;
use crate::zoo::cell::{Cell, Declare};

/// What is added to a variance before its square root.
const EPSILON: f64 = 1e-5;

/// The layer-norm LSTM of PyTorch's fastrnns benchmark: both products are normalised, and the cell, whose
/// normalised form is carried.
#[derive(Clone, Debug)]
pub struct LayerNormLstm {
    /// `W`, `[I, 4*H]`
    pub input_weight: Tensor,
    /// `R`, `[H, 4*H]`
    pub state_weight: Tensor,
    /// `gi` and `bi`, `[4*H]`: gain and bias of the product with the input.
    pub input_norm: [Tensor; 2],
    /// `gh` and `bh`, `[4*H]`: of the product with the state.
    pub state_norm: [Tensor; 2],
    /// `gc` and `bc`, `[H]`: of the cell.
    pub cell_norm: [Tensor; 2],
}

impl Cell<2> for LayerNormLstm {
    const NAME: &'static str = "lnlstm";
    const STATES: [&'static str; 2] = ["h", "c"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        LayerNormLstm {
            input_weight: declare.matrix("W", input, 4),
            state_weight: declare.matrix("R", hidden, 4),
            input_norm: ["gi", "bi"].map(|name| declare.vector(name, 4)),
            state_norm: ["gh", "bh"].map(|name| declare.vector(name, 4)),
            cell_norm: ["gc", "bc"].map(|name| declare.vector(name, 1)),
        }
    }

    fn step(&self, x: &Tensor, [h, c]: [Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        let from_input = normalised(&x.matmul(&self.input_weight), &self.input_norm);
        let from_state = normalised(&h.matmul(&self.state_weight), &self.state_norm);
        let [i, f, g, o] = (from_input + from_state).split(-1);
        let c = normalised(&(f.sigmoid() * c + i.sigmoid() * g.tanh()), &self.cell_norm);
        let h = o.sigmoid() * c.tanh();
        (h.clone(), [h, c])
    }
}

fn normalised(x: &Tensor, [gain, bias]: &[Tensor; 2]) -> Tensor {
    x.layer_norm(-1, EPSILON) * gain + bias
}

/// An LSTM with multiplicative integration, arXiv 1606.06630.
#[derive(Clone, Debug)]
pub struct MultiplicativeLstm {
    /// `W`, `[I, 4*H]`
    pub input_weight: Tensor,
    /// `R`, `[H, 4*H]`
    pub state_weight: Tensor,
    /// `a`, `[4*H]`: of the product of both.
    pub product_gain: Tensor,
    /// `b1`, `[4*H]`: of the part from the state.
    pub state_gain: Tensor,
    /// `b2`, `[4*H]`: of the part from the input.
    pub input_gain: Tensor,
    /// `b`, `[4*H]`
    pub bias: Tensor,
}

impl Cell<2> for MultiplicativeLstm {
    const NAME: &'static str = "milstm";
    const STATES: [&'static str; 2] = ["h", "c"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        MultiplicativeLstm {
            input_weight: declare.matrix("W", input, 4),
            state_weight: declare.matrix("R", hidden, 4),
            product_gain: declare.vector("a", 4),
            state_gain: declare.vector("b1", 4),
            input_gain: declare.vector("b2", 4),
            bias: declare.vector("b", 4),
        }
    }

    fn step(&self, x: &Tensor, [h, c]: [Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        let (u, v) = (x.matmul(&self.input_weight), h.matmul(&self.state_weight));
        let product = &self.product_gain * &u * &v;
        gated(product + &self.state_gain * v + &self.input_gain * u + &self.bias, c)
    }
}

/// The sLSTM of xLSTM with one head, arXiv 2405.04517: an exponential input gate, a normaliser `n` and a
/// stabiliser `m`. It starts from zero.
#[derive(Clone, Debug)]
pub struct StabilisedLstm {
    /// `W`, `[I, 4*H]`
    pub input_weight: Tensor,
    /// `R`, `[H, 4*H]`
    pub state_weight: Tensor,
    /// `b`, `[4*H]`
    pub bias: Tensor,
}

impl Cell<4> for StabilisedLstm {
    const NAME: &'static str = "slstm";
    const STATES: [&'static str; 4] = ["h", "c", "n", "m"];
    const STARTS_FROM_ZERO: bool = true;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        StabilisedLstm {
            input_weight: declare.matrix("W", input, 4),
            state_weight: declare.matrix("R", hidden, 4),
            bias: declare.vector("b", 4),
        }
    }

    fn step(&self, x: &Tensor, [h, c, n, m]: [Tensor; 4]) -> (Tensor, [Tensor; 4]) {
        let gates = x.matmul(&self.input_weight) + h.matmul(&self.state_weight) + &self.bias;
        let [i, f, z, o] = gates.split(-1);
        let keep = m - (-f).softplus();
        let m = i.maximum(&keep);
        let (i, f) = ((i - &m).exp(), (keep - &m).exp());
        let c = &f * c + &i * z.tanh();
        let n = f * n + i;
        let h = o.sigmoid() * &c / &n;
        (h.clone(), [h, c, n, m])
    }
}
