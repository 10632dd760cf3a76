//! What the recurrent layers share: parameters, stacking, both directions.

use fuse_ir::{DType, Dim};

use crate::elementwise::labelled;
use crate::error::{Fault, argument};
use crate::movement::{concat, stack};
use crate::scan::ScanOptions;
use crate::session::Trace;
use crate::tensor::Tensor;
use crate::tensor_list::{TensorList, rebuild, tensors};

/// The number of blocks of `H` rows in a cell's weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gates {
    /// The plain recurrent network: one.
    Rnn,
    /// The GRU: reset, update, new.
    Gru,
    /// The LSTM: input, forget, cell, output.
    Lstm,
}

impl Gates {
    /// The number of blocks.
    pub fn count(self) -> i64 {
        match self {
            Gates::Rnn => 1,
            Gates::Gru => 3,
            Gates::Lstm => 4,
        }
    }
}

/// The weights of one direction of one recurrent layer, with `G` gates (1 for RNN, 3 for GRU, 4 for LSTM),
/// `I` inputs and `H` units.
#[derive(Clone, Debug)]
pub struct CellParameters {
    /// `[G*H, I]`
    pub weight_ih: Tensor,
    /// `[G*H, H]`
    pub weight_hh: Tensor,
    /// `[G*H]`
    pub bias_ih: Option<Tensor>,
    /// `[G*H]`
    pub bias_hh: Option<Tensor>,
}

impl CellParameters {
    /// Declares f32 parameters `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`, with `prefix` before their
    /// names and `suffix` after (PyTorch's is `_l0`, or `_l0_reverse`).
    #[track_caller]
    pub fn declare(t: &Trace, gates: Gates, prefix: &str, suffix: &str, input: &Dim, hidden: &Dim) -> Self {
        let rows = Dim::constant(gates.count()) * hidden.clone();
        let name = |role: &str| format!("{prefix}{role}{suffix}");
        CellParameters {
            weight_ih: t.parameter(&name("weight_ih"), DType::F32, (&rows, input)),
            weight_hh: t.parameter(&name("weight_hh"), DType::F32, (&rows, hidden)),
            bias_ih: Some(t.parameter(&name("bias_ih"), DType::F32, (&rows,))),
            bias_hh: Some(t.parameter(&name("bias_hh"), DType::F32, (&rows,))),
        }
    }

    /// The number of units, `H`.
    pub(super) fn hidden(&self) -> Dim {
        self.weight_hh.dim(-1)
    }

    /// Checks all shapes against those of a cell with these gates on inputs of size `input`.
    pub(super) fn check(&self, gates: Gates, input: &Dim) -> Result<(), Fault> {
        let hidden = self.hidden();
        let rows = Dim::constant(gates.count()) * hidden.clone();
        expect_shape("weight_hh", &self.weight_hh, &[rows.clone(), hidden])?;
        expect_shape("weight_ih", &self.weight_ih, &[rows.clone(), input.clone()])?;
        for (name, bias) in [("bias_ih", &self.bias_ih), ("bias_hh", &self.bias_hh)] {
            if let Some(bias) = bias {
                expect_shape(name, bias, std::slice::from_ref(&rows))?;
            }
        }
        Ok(())
    }
}

/// Checks the shape of an argument.
pub(super) fn expect_shape(name: &str, tensor: &Tensor, shape: &[Dim]) -> Result<(), Fault> {
    tensor.trace().check(&[tensor])?;
    if tensor.shape() == shape {
        return Ok(());
    }
    let text = format!("its shape must be {}", fuse_ir::types::ShapeText(shape));
    Err(argument(labelled(name, tensor), tensor.ty(), text))
}

/// Checks that a sequence is `[T, B, I]` and returns `B` and `I`.
pub(super) fn sequence_dims(x: &Tensor) -> Result<(Dim, Dim), Fault> {
    x.trace().check(&[x])?;
    match x.shape() {
        [_, batch, input] => Ok((batch.clone(), input.clone())),
        _ => Err(argument(labelled("x", x), x.ty(), "a sequence is [T, B, I]")),
    }
}

/// One layer of a stack: the weights of its direction, or of both.
#[derive(Clone, Debug)]
pub struct StackedLayer {
    /// From the first step to the last.
    pub forward: CellParameters,
    /// From the last step to the first; its outputs follow the forward direction's along the last axis.
    pub backward: Option<CellParameters>,
}

/// The form of a stack that [`declare_stack`] declares.
#[derive(Clone, Copy, Debug)]
pub struct StackOptions {
    /// The number of layers.
    pub layers: usize,
    /// Whether every layer runs in both directions.
    pub bidirectional: bool,
}

/// Declares the parameters of a stack under PyTorch's names: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`,
/// `bias_hh_l0`, the same with `_reverse`, then those of `_l1`. Layers after the first take `H` inputs, or
/// `2*H` if the stack is bidirectional. `prefix` stands before each name.
#[track_caller]
pub fn declare_stack(
    t: &Trace,
    gates: Gates,
    prefix: &str,
    input: impl Into<Dim>,
    hidden: impl Into<Dim>,
    options: StackOptions,
) -> Vec<StackedLayer> {
    let (mut input, hidden) = (input.into(), hidden.into());
    let mut layers = Vec::with_capacity(options.layers);
    for layer in 0..options.layers {
        let suffix = format!("_l{layer}");
        let forward = CellParameters::declare(t, gates, prefix, &suffix, &input, &hidden);
        let backward = if options.bidirectional {
            let suffix = format!("{suffix}_reverse");
            Some(CellParameters::declare(t, gates, prefix, &suffix, &input, &hidden))
        } else {
            None
        };
        let directions = if options.bidirectional { 2 } else { 1 };
        input = Dim::constant(directions) * hidden.clone();
        layers.push(StackedLayer { forward, backward });
    }
    layers
}

/// The initial state, or zeros `[B, H]` in each of its parts.
pub(super) fn initial_or_zeros<S: TensorList>(
    initial: Option<S>,
    x: &Tensor,
    batch: &Dim,
    hidden: &Dim,
) -> Result<S, Fault> {
    let Some(state) = initial else {
        return Ok(S::filled_with(&x.trace().zeros(x.dtype(), (batch, hidden))));
    };
    for (i, part) in tensors(&state).iter().enumerate() {
        let name = if i == 0 { "initial h" } else { "initial c" };
        expect_shape(name, part, &[batch.clone(), hidden.clone()])?;
    }
    Ok(state)
}

/// The options of one direction.
pub(super) fn direction(reverse: bool, lengths: Option<&Tensor>) -> ScanOptions {
    ScanOptions::new().reverse_if(reverse).lengths_if(lengths)
}

/// Runs a stack. `layer(x, parameters, initial, options)` runs one direction; the state's parts are
/// `[L*D, B, H]`, layer by layer and in each forward first.
pub(super) fn run_stack<S: TensorList>(
    x: &Tensor,
    layers: &[StackedLayer],
    initial: Option<S>,
    lengths: Option<&Tensor>,
    layer: impl Fn(&Tensor, &CellParameters, Option<S>, ScanOptions) -> (Tensor, S),
) -> Result<(Tensor, S), Fault> {
    let initial_parts = initial.as_ref().map(tensors);
    let mut finals: Vec<Vec<Tensor>> = Vec::new();
    let mut y = x.clone();
    for stacked in layers {
        let mut outputs = Vec::new();
        for (parameters, reverse) in [(Some(&stacked.forward), false), (stacked.backward.as_ref(), true)] {
            let Some(parameters) = parameters else { continue };
            let position = finals.len();
            let state = initial_parts.as_ref().map(|parts| {
                let own = parts.iter().map(|part| part.at(0, position));
                rebuild(S::filled_with(x), own)
            });
            let (out, last) = layer(&y, parameters, state, direction(reverse, lengths));
            outputs.push(out);
            finals.push(tensors(&last));
        }
        y = if outputs.len() == 1 { outputs.swap_remove(0) } else { concat(outputs, -1) };
    }
    let Some(parts) = finals.first().map(Vec::len) else {
        return Err(argument("layers", "an empty list", "at least one layer is needed"));
    };
    if let Some(given) = &initial_parts {
        check_initial(given, finals.len(), &finals[0])?;
    }
    let joined = (0..parts).map(|part| stack(finals.iter().map(|own| &own[part]), 0));
    Ok((y, rebuild(S::filled_with(x), joined)))
}

/// Checks that the initial state holds one entry for each direction of each layer.
fn check_initial(given: &[Tensor], directions: usize, last: &[Tensor]) -> Result<(), Fault> {
    for (part, of_one) in given.iter().zip(last) {
        let mut shape = of_one.shape().to_vec();
        shape.insert(0, Dim::constant(directions as i64));
        expect_shape("initial state", part, &shape)?;
    }
    Ok(())
}
