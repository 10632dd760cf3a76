//! `LSTM`, `GRU` and `RNN`: scans of primitive ops, with every attribute that ONNX gives them.

use fuse_ir::{DType, Dim};

use super::super::call::Call;
use super::super::error::{Built, refuse};
use super::super::table::{Evaluation::Computes, OpRow, row};
use super::super::value::Value;
use super::activation::{self, Activation};
use crate::ScanOptions;
use crate::tensor::Tensor;

pub(crate) const ROWS: &[OpRow] = &[
    row("LSTM", (7, 22), LSTM_ATTRIBUTES, Computes, lstm, ""),
    row("GRU", (7, 22), GRU_ATTRIBUTES, Computes, gru, ""),
    row("RNN", (7, 22), RNN_ATTRIBUTES, Computes, rnn, ""),
];

const LSTM_ATTRIBUTES: &[&str] = &[
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
    "input_forget",
    "layout",
];
const GRU_ATTRIBUTES: &[&str] = &[
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
    "layout",
    "linear_before_reset",
];
const RNN_ATTRIBUTES: &[&str] =
    &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"];

/// What the three operators have in common.
struct Layer<'a> {
    call: &'a Call<'a>,
    /// The input, `[T, B, I]`.
    x: Tensor,
    /// The weights of the input, `[D, G*H, I]`.
    w: Tensor,
    /// The weights of the state, `[D, G*H, H]`.
    r: Tensor,
    /// The biases of both, `[D, 2*G*H]`.
    bias: Option<Tensor>,
    /// The lengths of the rows, `[B]`.
    lengths: Option<Tensor>,
    /// Whether each direction runs from the last step to the first.
    directions: Vec<bool>,
    /// Whether the batch is the first axis of the input, the outputs and the states.
    batch_first: bool,
    batch: Dim,
    hidden: Dim,
    clip: Option<f64>,
    activations: Vec<Activation>,
}

/// The weights of one direction.
struct Weights {
    /// `[G*H, I]`
    w: Tensor,
    /// `[G*H, H]`
    r: Tensor,
    /// Of the input and of the state, `[G*H]` each.
    bias: Option<(Tensor, Tensor)>,
}

impl<'a> Layer<'a> {
    /// Checks the inputs of a layer of `gates` gates, whose cell has the activations `defaults`.
    fn new(call: &'a Call<'a>, gates: i64, defaults: &[&str]) -> Built<Self> {
        let batch_first = call.attributes.flag("layout", false)?;
        let (mut x, w, r) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
        for (name, tensor) in [("X", &x), ("W", &w), ("R", &r)] {
            if tensor.rank() != 3 {
                return refuse(format!("{name} is {}; it needs three axes", tensor.ty()));
            }
        }
        if batch_first {
            x = x.transpose(0, 1);
        }
        let directions = match call.attributes.string_or("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return refuse(format!("attribute `direction` is `{other}`")),
        };
        let count = Dim::constant(directions.len() as i64);
        let hidden = r.dim(2);
        if let Some(size) = call.attributes.int("hidden_size")? {
            call.equal(&hidden, &Dim::constant(size))?;
        }
        let rows = Dim::constant(gates) * hidden.clone();
        for (tensor, axis, size) in
            [(&w, 0, &count), (&w, 1, &rows), (&w, 2, &x.dim(2)), (&r, 0, &count), (&r, 1, &rows)]
        {
            call.equal(&tensor.dim(axis), size)?;
        }
        let bias = call.optional_tensor(3)?;
        if let Some(bias) = &bias {
            has_shape(call, "B", bias, &[&count, &(Dim::constant(2) * rows)])?;
        }
        let lengths = call.optional_tensor(4)?;
        let batch = x.dim(1);
        if let Some(lengths) = &lengths {
            has_shape(call, "sequence_lens", lengths, &[&batch])?;
        }
        let activations = activations(call, defaults, directions.len())?;
        let clip = call.attributes.float("clip")?.filter(|c| *c > 0.0);
        Ok(Layer { call, x, w, r, bias, lengths, directions, batch_first, batch, hidden, clip, activations })
    }

    fn weights(&self, direction: usize) -> Weights {
        let of = |tensor: &Tensor| tensor.at(0, direction);
        let halves = |bias: &Tensor| {
            let [input, state] = of(bias).split(0);
            (input, state)
        };
        Weights { w: of(&self.w), r: of(&self.r), bias: self.bias.as_ref().map(halves) }
    }

    /// The initial state of a direction, `[B, H]`: that of input `i`, or zeros.
    fn initial(&self, i: usize, direction: usize) -> Built<Tensor> {
        let Some(state) = self.call.optional_tensor(i)? else {
            let shape = vec![self.batch.clone(), self.hidden.clone()];
            return Ok(self.call.trace().zeros(self.x.dtype(), shape));
        };
        let count = Dim::constant(self.directions.len() as i64);
        let (axis, shape) = match self.batch_first {
            true => (1, [&self.batch, &count, &self.hidden]),
            false => (0, [&count, &self.batch, &self.hidden]),
        };
        has_shape(self.call, "the initial state", &state, &shape)?;
        Ok(state.at(axis, direction))
    }

    /// The input of an activation within the bounds of `clip`.
    fn clipped(&self, x: Tensor) -> Tensor {
        match self.clip {
            Some(clip) => x.clamp(-clip, clip),
            None => x,
        }
    }

    /// An activation of a direction: `function` counts those of the cell.
    fn activate(&self, direction: usize, function: usize, x: Tensor) -> Tensor {
        let of_each = self.activations.len() / self.directions.len();
        (self.activations[direction * of_each + function])(&self.clipped(x))
    }

    /// Runs a cell over the sequence, in each direction. `step(direction, weights, x, state)` returns the new state,
    /// whose first part is the output; inputs from `first_state` on give the state's initial parts.
    fn run(
        &self,
        first_state: usize,
        parts: usize,
        step: impl Fn(usize, &Weights, &Tensor, &[Tensor]) -> Built<Vec<Tensor>>,
    ) -> Built<Vec<Value>> {
        let mut outputs = Vec::new();
        let mut finals: Vec<Vec<Tensor>> = vec![Vec::new(); parts];
        for (direction, reverse) in self.directions.iter().enumerate() {
            let weights = self.weights(direction);
            let initial = (0..parts).map(|k| self.initial(first_state + k, direction));
            let initial = initial.collect::<Built<Vec<Tensor>>>()?;
            let options = ScanOptions::new().reverse_if(*reverse).lengths_if(self.lengths.as_ref());
            let mut failure = None;
            let (last, y) = self.call.trace().scan_with(options, initial, self.x.clone(), |state, x| {
                let next = step(direction, &weights, &x, &state).unwrap_or_else(|problem| {
                    failure = Some(problem);
                    state
                });
                (next.clone(), next.into_iter().next().unwrap_or(x))
            });
            if let Some(problem) = failure {
                return Err(problem);
            }
            outputs.push(y);
            finals.iter_mut().zip(last).for_each(|(part, state)| part.push(state));
        }
        let y = if self.batch_first {
            // [D, T, B, H] to [B, T, D, H]
            crate::stack(&outputs, 0).permute([2, 1, 0, 3])
        } else {
            crate::stack(&outputs, 1)
        };
        let states = finals.iter().map(|part| crate::stack(part, i64::from(self.batch_first)));
        Ok([y].into_iter().chain(states).map(Value::from).collect())
    }
}

/// Requires a tensor to have a shape.
fn has_shape(call: &Call<'_>, name: &str, tensor: &Tensor, shape: &[&Dim]) -> Built<()> {
    if tensor.rank() != shape.len() {
        return refuse(format!("{name} is {}; it needs {} axes", tensor.ty(), shape.len()));
    }
    tensor.shape().iter().zip(shape).try_for_each(|(own, dim)| call.equal(own, dim))
}

/// The activations of all directions. `activation_alpha` and `activation_beta` have an entry for each activation
/// that takes one, in order.
fn activations(call: &Call<'_>, defaults: &[&str], directions: usize) -> Built<Vec<Activation>> {
    let names = match call.attributes.strings("activations")? {
        Some(names) if !names.is_empty() => names,
        _ => defaults.repeat(directions),
    };
    if names.len() != defaults.len() * directions {
        let text = format!(
            "{} activations are given for {directions} directions of {}",
            names.len(),
            defaults.len()
        );
        return refuse(text);
    }
    let mut alphas = call.attributes.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = call.attributes.floats("activation_beta")?.unwrap_or_default().into_iter();
    let one = |name: &&str| {
        let (takes_alpha, takes_beta) = takes_parameters(name);
        let alpha = if takes_alpha { alphas.next() } else { None };
        let beta = if takes_beta { betas.next() } else { None };
        match activation::by_name(name, alpha, beta) {
            Some(activation) => Ok(activation),
            None => refuse(format!("the activation `{name}` is not one of ONNX's")),
        }
    };
    names.iter().map(one).collect()
}

/// Whether an activation takes an alpha and a beta.
fn takes_parameters(name: &str) -> (bool, bool) {
    match name.to_ascii_lowercase().as_str() {
        "affine" | "scaledtanh" | "hardsigmoid" => (true, true),
        "leakyrelu" | "thresholdedrelu" | "elu" => (true, false),
        _ => (false, false),
    }
}

/// `x · wᵀ`, of `[B, I]` and `[N, I]`.
fn product(x: &Tensor, w: &Tensor) -> Tensor {
    x.contract(w, [], [(1, 1)])
}

/// `x · wᵀ + h · rᵀ`, with both biases.
fn both_products(weights: &Weights, x: &Tensor, h: &Tensor) -> Tensor {
    let mut sum = product(x, &weights.w);
    if let Some((input, state)) = &weights.bias {
        sum += input + state;
    }
    sum + product(h, &weights.r)
}

fn float(layer: &Layer<'_>) -> Built<DType> {
    super::elementwise::require_float(&layer.x)
}

/// Gates in the order input, output, forget, cell.
fn lstm(call: &Call<'_>) -> Built<Vec<Value>> {
    let layer = Layer::new(call, 4, &["Sigmoid", "Tanh", "Tanh"])?;
    float(&layer)?;
    let coupled = call.attributes.flag("input_forget", false)?;
    let peepholes = call.optional_tensor(7)?;
    if let Some(p) = &peepholes {
        let count = Dim::constant(layer.directions.len() as i64);
        has_shape(call, "P", p, &[&count, &(Dim::constant(3) * layer.hidden.clone())])?;
    }
    layer.run(5, 2, |direction, weights, x, state| {
        let [h, c] = state else { return refuse("an LSTM carries two states") };
        let [mut i, mut o, mut f, g] = both_products(weights, x, h).split(-1);
        let peephole: Option<[Tensor; 3]> = peepholes.as_ref().map(|p| p.at(0, direction).split(0));
        if let Some([p_i, _, p_f]) = &peephole {
            i += p_i * c;
            f += p_f * c;
        }
        let i = layer.activate(direction, 0, i);
        let f = if coupled { 1.0 - &i } else { layer.activate(direction, 0, f) };
        let c = f * c + i * layer.activate(direction, 1, g);
        if let Some([_, p_o, _]) = &peephole {
            o += p_o * &c;
        }
        let h = layer.activate(direction, 0, o) * layer.activate(direction, 2, c.clone());
        Ok(vec![h, c])
    })
}

/// Gates in the order update, reset, hidden.
fn gru(call: &Call<'_>) -> Built<Vec<Value>> {
    let layer = Layer::new(call, 3, &["Sigmoid", "Tanh"])?;
    float(&layer)?;
    let linear_before_reset = call.attributes.flag("linear_before_reset", false)?;
    layer.run(5, 1, |direction, weights, x, state| {
        let [h] = state else { return refuse("a GRU carries one state") };
        let mut from_input = product(x, &weights.w);
        if let Some((input, _)) = &weights.bias {
            from_input += input;
        }
        let [x_z, x_r, x_h] = from_input.split(-1);
        let [r_z, r_r, r_h] = weights.r.split(0);
        let bias: Option<[Tensor; 3]> = weights.bias.as_ref().map(|(_, state)| state.split(0));
        let biased = |sum: Tensor, gate: usize| match &bias {
            Some(bias) => sum + &bias[gate],
            None => sum,
        };
        let z = layer.activate(direction, 0, x_z + biased(product(h, &r_z), 0));
        let r = layer.activate(direction, 0, x_r + biased(product(h, &r_r), 1));
        let from_state = match linear_before_reset {
            true => r * biased(product(h, &r_h), 2),
            false => biased(product(&(r * h), &r_h), 2),
        };
        let candidate = layer.activate(direction, 1, x_h + from_state);
        Ok(vec![(1.0 - &z) * candidate + z * h])
    })
}

fn rnn(call: &Call<'_>) -> Built<Vec<Value>> {
    let layer = Layer::new(call, 1, &["Tanh"])?;
    float(&layer)?;
    layer.run(5, 1, |direction, weights, x, state| {
        let [h] = state else { return refuse("an RNN carries one state") };
        Ok(vec![layer.activate(direction, 0, both_products(weights, x, h))])
    })
}
