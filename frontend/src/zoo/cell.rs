//! What a cell is, and how a layer runs it over time.

use fuse_ir::{DType, Dim};

use crate::scan::ScanOptions;
use crate::session::Trace;
use crate::tensor::Tensor;

/// One step of a recurrent cell with `N` carried states, each `[B, H]`, and its weights.
pub trait Cell<const N: usize>: Sized {
    /// The cell's name.
    const NAME: &'static str;
    /// The names of its states, in the order of [`step`](Cell::step)'s.
    const STATES: [&'static str; N];
    /// Whether its states start from zero, rather than from inputs.
    const STARTS_FROM_ZERO: bool;

    /// Declares its weights for `input` inputs and `hidden` units as parameters, `prefix` and a dot before each
    /// name.
    fn declare(t: &Trace, prefix: &str, input: &Dim, hidden: &Dim) -> Self;

    /// The output and the new states from `x` (`[B, I]`) and the states.
    fn step(&self, x: &Tensor, state: [Tensor; N]) -> (Tensor, [Tensor; N]);
}

/// Runs a cell over the sequence `x` (`[T, B, I]`): the outputs (`[T, B, H]`) and the last states.
#[track_caller]
pub fn run_layer<const N: usize, C: Cell<N>>(
    cell: &C,
    x: &Tensor,
    initial: [Tensor; N],
    options: ScanOptions,
) -> (Tensor, [Tensor; N]) {
    let (last, y) = x.trace().scan_with(options, initial, x.clone(), |state, x| {
        let (y, state) = cell.step(&x, state);
        (state, y)
    });
    (y, last)
}

/// Declares the parameters of one cell.
pub(super) struct Declare<'a> {
    pub(super) t: &'a Trace,
    pub(super) prefix: &'a str,
    pub(super) hidden: &'a Dim,
}

impl Declare<'_> {
    /// A matrix of `rows` rows and `blocks` blocks of `H` columns.
    pub(super) fn matrix(&self, name: &str, rows: &Dim, blocks: i64) -> Tensor {
        self.parameter(name, &[rows.clone(), self.columns(blocks)])
    }

    /// A vector of `blocks` blocks of `H` numbers.
    pub(super) fn vector(&self, name: &str, blocks: i64) -> Tensor {
        self.parameter(name, &[self.columns(blocks)])
    }

    fn columns(&self, blocks: i64) -> Dim {
        Dim::constant(blocks) * self.hidden.clone()
    }

    fn parameter(&self, name: &str, shape: &[Dim]) -> Tensor {
        self.t.parameter(&format!("{}.{name}", self.prefix), DType::F32, shape)
    }
}
