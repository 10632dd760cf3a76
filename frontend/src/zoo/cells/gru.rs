//! The gated recurrent unit.

use fuse_ir::Dim;

use crate::session::Trace;
use crate::tensor::Tensor;
use crate::zoo::cell::{Cell, Declare};

/// A GRU in the form of cuDNN and PyTorch: the reset gate multiplies the product with its bias. Gates: reset,
/// update, new.
#[derive(Clone, Debug)]
pub struct Gru {
    /// `W`, `[I, 3*H]`
    pub input_weight: Tensor,
    /// `R`, `[H, 3*H]`
    pub state_weight: Tensor,
    /// `b`, `[3*H]`
    pub input_bias: Tensor,
    /// `rb`, `[3*H]`
    pub state_bias: Tensor,
}

impl Cell<1> for Gru {
    const NAME: &'static str = "gru";
    const STATES: [&'static str; 1] = ["h"];
    const STARTS_FROM_ZERO: bool = true;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        Gru {
            input_weight: declare.matrix("W", input, 3),
            state_weight: declare.matrix("R", hidden, 3),
            input_bias: declare.vector("b", 3),
            state_bias: declare.vector("rb", 3),
        }
    }

    fn step(&self, x: &Tensor, [h]: [Tensor; 1]) -> (Tensor, [Tensor; 1]) {
        let [xr, xz, xn] = (x.matmul(&self.input_weight) + &self.input_bias).split(-1);
        let [hr, hz, hn] = (h.matmul(&self.state_weight) + &self.state_bias).split(-1);
        let z = (xz + hz).sigmoid();
        let n = (xn + (xr + hr).sigmoid() * hn).tanh();
        let h = (1.0 - &z) * n + z * h;
        (h.clone(), [h])
    }
}
