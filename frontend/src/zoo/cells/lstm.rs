//! The long short-term memory, and the one whose gates see the cell.

use fuse_ir::Dim;

use crate::movement::concat;
use crate::session::Trace;
use crate::tensor::Tensor;
use crate::zoo::cell::{Cell, Declare};

/// An LSTM. Gates: input, forget, cell, output.
#[derive(Clone, Debug)]
pub struct Lstm {
    /// `W`, `[I, 4*H]`
    pub input_weight: Tensor,
    /// `R`, `[H, 4*H]`
    pub state_weight: Tensor,
    /// `b`, `[4*H]`
    pub bias: Tensor,
}

impl Cell<2> for Lstm {
    const NAME: &'static str = "lstm";
    const STATES: [&'static str; 2] = ["h", "c"];
    const STARTS_FROM_ZERO: bool = true;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        Lstm {
            input_weight: declare.matrix("W", input, 4),
            state_weight: declare.matrix("R", hidden, 4),
            bias: declare.vector("b", 4),
        }
    }

    fn step(&self, x: &Tensor, [h, c]: [Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        gated(x.matmul(&self.input_weight) + h.matmul(&self.state_weight) + &self.bias, c)
    }
}

/// What an LSTM does with the sums of its gates (`[B, 4*H]`) and its cell.
pub(super) fn gated(gates: Tensor, c: Tensor) -> (Tensor, [Tensor; 2]) {
    let [i, f, g, o] = gates.split(-1);
    let c = f.sigmoid() * c + i.sigmoid() * g.tanh();
    let h = o.sigmoid() * c.tanh();
    (h.clone(), [h, c])
}

/// An LSTM whose gates see the cell, the output gate the new one, with one joint matrix for the input and the
/// state, as in TensorFlow's `LSTMCell`.
#[derive(Clone, Debug)]
pub struct PeepholeLstm {
    /// `W`, `[I + H, 4*H]`
    pub weight: Tensor,
    /// `b`, `[4*H]`
    pub bias: Tensor,
    /// `pi`, `[H]`
    pub peephole_input: Tensor,
    /// `pf`, `[H]`
    pub peephole_forget: Tensor,
    /// `po`, `[H]`
    pub peephole_output: Tensor,
}

impl Cell<2> for PeepholeLstm {
    const NAME: &'static str = "peephole_lstm";
    const STATES: [&'static str; 2] = ["h", "c"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        PeepholeLstm {
            weight: declare.matrix("W", &(input.clone() + hidden.clone()), 4),
            bias: declare.vector("b", 4),
            peephole_input: declare.vector("pi", 1),
            peephole_forget: declare.vector("pf", 1),
            peephole_output: declare.vector("po", 1),
        }
    }

    fn step(&self, x: &Tensor, [h, c]: [Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        let [i, f, g, o] = (concat([x, &h], -1).matmul(&self.weight) + &self.bias).split(-1);
        let keep = (f + &self.peephole_forget * &c).sigmoid();
        let write = (i + &self.peephole_input * &c).sigmoid();
        let c = keep * c + write * g.tanh();
        let h = (o + &self.peephole_output * &c).sigmoid() * c.tanh();
        (h.clone(), [h, c])
    }
}
