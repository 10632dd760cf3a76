//! The plain recurrent network.

use fuse_ir::Dim;

use crate::session::Trace;
use crate::tensor::Tensor;
use crate::zoo::cell::{Cell, Declare};

/// `h' = tanh(x · W + h · R + b)`.
#[derive(Clone, Debug)]
pub struct TanhRnn {
    /// `W`, `[I, H]`
    pub input_weight: Tensor,
    /// `R`, `[H, H]`
    pub state_weight: Tensor,
    /// `b`, `[H]`
    pub bias: Tensor,
}

impl Cell<1> for TanhRnn {
    const NAME: &'static str = "rnn_tanh";
    const STATES: [&'static str; 1] = ["h"];
    const STARTS_FROM_ZERO: bool = true;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        TanhRnn {
            input_weight: declare.matrix("W", input, 1),
            state_weight: declare.matrix("R", hidden, 1),
            bias: declare.vector("b", 1),
        }
    }

    fn step(&self, x: &Tensor, [h]: [Tensor; 1]) -> (Tensor, [Tensor; 1]) {
        let h = (x.matmul(&self.input_weight) + h.matmul(&self.state_weight) + &self.bias).tanh();
        (h.clone(), [h])
    }
}
