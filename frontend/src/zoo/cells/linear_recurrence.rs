//! Cells whose state enters linearly.

use fuse_ir::Dim;

use crate::session::Trace;
use crate::tensor::Tensor;
use crate::zoo::cell::{Cell, Declare};

/// The simple recurrent unit with its highway connection, arXiv 1709.02755. It has as many inputs as units.
#[derive(Clone, Debug)]
pub struct Sru {
    /// `W`, `[I, 3*H]`
    pub weight: Tensor,
    /// `vf`, `[H]`
    pub forget_state: Tensor,
    /// `vr`, `[H]`
    pub highway_state: Tensor,
    /// `bf`, `[H]`
    pub forget_bias: Tensor,
    /// `br`, `[H]`
    pub highway_bias: Tensor,
}

impl Cell<1> for Sru {
    const NAME: &'static str = "sru";
    const STATES: [&'static str; 1] = ["c"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        let declare = Declare { t, prefix, hidden };
        Sru {
            weight: declare.matrix("W", input, 3),
            forget_state: declare.vector("vf", 1),
            highway_state: declare.vector("vr", 1),
            forget_bias: declare.vector("bf", 1),
            highway_bias: declare.vector("br", 1),
        }
    }

    fn step(&self, x: &Tensor, [c]: [Tensor; 1]) -> (Tensor, [Tensor; 1]) {
        let [u, uf, ur] = x.matmul(&self.weight).split(-1);
        let f = (uf + &self.forget_state * &c + &self.forget_bias).sigmoid();
        let r = (ur + &self.highway_state * &c + &self.highway_bias).sigmoid();
        let c = &f * c + (1.0 - &f) * u;
        (&r * &c + (1.0 - &r) * x, [c])
    }
}

/// minGRU in its plain form, arXiv 2410.01201.
#[derive(Clone, Debug)]
pub struct MinGru {
    /// `W`, `[I, 2*H]`
    pub weight: Tensor,
}

impl Cell<1> for MinGru {
    const NAME: &'static str = "mingru";
    const STATES: [&'static str; 1] = ["h"];
    const STARTS_FROM_ZERO: bool = false;

    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self {
        MinGru { weight: Declare { t, prefix, hidden }.matrix("W", input, 2) }
    }

    fn step(&self, x: &Tensor, [h]: [Tensor; 1]) -> (Tensor, [Tensor; 1]) {
        let [z, n] = x.matmul(&self.weight).split(-1);
        let z = z.sigmoid();
        let h = (1.0 - &z) * h + z * n;
        (h.clone(), [h])
    }
}
