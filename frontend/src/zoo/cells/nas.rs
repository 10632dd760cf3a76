//! Cells found by architecture search.

use fuse_ir::Dim;

use crate::session::Trace;
use crate::tensor::Tensor;
use crate::zoo::cell::{Cell, Declare};

/// The NAS cell as TensorFlow Addons has it, without bias or projection, arXiv 1611.01578.
#[derive(Clone, Debug)]
pub struct Nas {
    /// `W`, `[I, 8*H]`
    pub input_weight: Tensor,
    /// `R`, `[H, 8*H]`
    pub state_weight: Tensor,
}

impl Cell<2> for Nas {
    const NAME: &'static str = "nas";
    const STATES: [&'static str; 2] = ["h", "c"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        Nas { input_weight: declare.matrix("W", input, 8), state_weight: declare.matrix("R", hidden, 8) }
    }

    fn step(&self, x: &Tensor, [h, c]: [Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        let [a0, a1, a2, a3, a4, a5, a6, a7] = x.matmul(&self.input_weight).split(-1);
        let [b0, b1, b2, b3, b4, b5, b6, b7] = h.matmul(&self.state_weight).split(-1);
        let l0 = ((a0 + b0).sigmoid() * (a1 + b1).relu()).tanh();
        let l1 = ((a2 + b2).sigmoid() + (a3 * b3).relu()).tanh();
        let l2 = ((a4 + b4).tanh() * (a5 + b5).sigmoid()).tanh();
        let l3 = ((a6 + b6).tanh() + (a7 + b7).sigmoid()).sigmoid();
        let c = (l0 + c).tanh() * l1;
        let h = (&c * (l2 + l3).tanh()).tanh();
        (h.clone(), [h, c])
    }
}

/// The NasRNN node that TASO and TENSAT report on: sixteen separate matrices, no carried cell.
#[derive(Clone, Debug)]
pub struct NasRnn {
    /// `W0` to `W7`, each `[I, H]`
    pub input_weights: [Tensor; 8],
    /// `R0` to `R7`, each `[H, H]`
    pub state_weights: [Tensor; 8],
}

impl Cell<1> for NasRnn {
    const NAME: &'static str = "nas_taso";
    const STATES: [&'static str; 1] = ["h"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        NasRnn {
            input_weights: std::array::from_fn(|i| declare.matrix(&format!("W{i}"), input, 1)),
            state_weights: std::array::from_fn(|i| declare.matrix(&format!("R{i}"), hidden, 1)),
        }
    }

    fn step(&self, x: &Tensor, [h]: [Tensor; 1]) -> (Tensor, [Tensor; 1]) {
        let [t0, t1, t2, t3, t4, t5, t6, t7] =
            std::array::from_fn(|i| x.matmul(&self.input_weights[i]) + h.matmul(&self.state_weights[i]));
        let a = t0.relu() + t3.sigmoid();
        let b = t1.sigmoid() + t2.tanh();
        let c = t4.sigmoid() * t5.tanh();
        let d = t6.sigmoid() * t7.relu();
        let e = b.sigmoid() + c.tanh();
        let h = (e.tanh() * (a.tanh() * d.tanh()).tanh()).tanh();
        (h.clone(), [h])
    }
}
