//! The benchmark's models.

use fuse_ir::{DType, Dim, Graph};

use super::cell::{Cell, run_layer};
use super::cells::{Gru, Lstm};
use crate::error::TraceError;
use crate::movement::{concat, stack};
use crate::scan::ScanOptions;
use crate::session::{Trace, trace};
use crate::tensor::Tensor;

/// The form of a stack of one cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackForm {
    /// The number of layers.
    pub layers: usize,
    /// Whether every layer runs in both directions.
    pub bidirectional: bool,
    /// Whether an input `lengths` (i32, `[B]`) says where each row ends.
    pub lengths: bool,
}

impl StackForm {
    /// One layer, forward, over whole sequences.
    pub const ONE_LAYER: StackForm = StackForm { layers: 1, bidirectional: false, lengths: false };
}

/// A stack of one cell over `x` (`[T, B, input]`), to outputs `y` (`[T, B, D*hidden]` with `D` directions) and the
/// last states: `h_n` and so on, with the layer's number before the underscore if there are several, and with a
/// leading axis of the directions if there are two. Cells that do not start from zero have inputs `h0` and so on
/// (`h_0` and the layer's number if there are several, a `0` behind); parameters are `l{layer}f.` and
/// `l{layer}b.` and the cell's own name.
///
/// # Errors
/// Where a size is negative.
pub fn stack_of<const N: usize, C: Cell<N>>(
    name: &str,
    input: i64,
    hidden: i64,
    form: StackForm,
) -> Result<Graph, TraceError> {
    trace(name, |t| {
        let mut y = t.input("x", DType::F32, ("T", "B", input));
        let lengths = form.lengths.then(|| t.input("lengths", DType::I32, ("B",)));
        let hidden = Dim::constant(hidden);
        let mut ends = Vec::new();
        for layer in 0..form.layers {
            let number = if form.layers > 1 { layer.to_string() } else { String::new() };
            let directions: &[(&str, bool)] =
                if form.bidirectional { &[("f", false), ("b", true)] } else { &[("f", false)] };
            let (mut outputs, mut finals) = (Vec::new(), Vec::new());
            let initial = initial_state::<N, C>(t, &number, &hidden);
            for (letter, reverse) in directions {
                let cell = C::declare(t, &format!("l{layer}{letter}"), &y.dim(-1), &hidden);
                let options = ScanOptions::new().reverse_if(*reverse).lengths_if(lengths.as_ref());
                let (out, last) = run_layer(&cell, &y, initial.clone(), options);
                outputs.push(out);
                finals.push(last);
            }
            y = if form.bidirectional { concat(outputs, -1) } else { outputs.swap_remove(0) };
            for (i, state) in C::STATES.into_iter().enumerate() {
                let last: Vec<&Tensor> = finals.iter().map(|last| &last[i]).collect();
                let last = if form.bidirectional { stack(last, 0) } else { last[0].clone() };
                ends.push((format!("{state}{number}_n"), last));
            }
        }
        t.output("y", y);
        for (name, last) in ends {
            t.output(&name, last);
        }
    })
}

fn initial_state<const N: usize, C: Cell<N>>(t: &Trace, layer: &str, hidden: &Dim) -> [Tensor; N] {
    C::STATES.map(|state| {
        let separator = if layer.is_empty() { "" } else { "_" };
        match C::STARTS_FROM_ZERO {
            true => t.zeros(DType::F32, ("B", hidden)),
            false => t.input(&format!("{state}{separator}{layer}0"), DType::F32, ("B", hidden)),
        }
    })
}

/// `steps` steps of a cell written out as plain operations, with weights of their own in every step (`s0.`, `s1.`
/// and so on), from the inputs `x0`, `x1` and so on (`[B, input]`) and the initial states to the last output `y`.
///
/// # Errors
/// Where a size is negative.
pub fn unrolled<const N: usize, C: Cell<N>>(
    name: &str,
    steps: usize,
    input: i64,
    hidden: i64,
) -> Result<Graph, TraceError> {
    trace(name, |t| {
        let (input, hidden) = (Dim::constant(input), Dim::constant(hidden));
        let mut state = C::STATES.map(|state| t.input(&format!("{state}0"), DType::F32, ("B", &hidden)));
        let mut y = None;
        for step in 0..steps {
            let x = t.input(&format!("x{step}"), DType::F32, ("B", &input));
            let cell = C::declare(t, &format!("s{step}"), &input, &hidden);
            let (out, next) = cell.step(&x, state);
            (y, state) = (Some(out), next);
        }
        if let Some(y) = y {
            t.output("y", y);
        }
    })
}

/// A chain of 24 elementwise operations over `a` and `b` (`[T, columns]`) and `row` (`[columns]`), to `y`.
///
/// # Errors
/// Where the size is negative.
pub fn pointwise(columns: i64) -> Result<Graph, TraceError> {
    trace("pointwise", |t| {
        let [a, b] = ["a", "b"].map(|name| t.input(name, DType::F32, ("T", columns)));
        let row = t.input("row", DType::F32, (columns,));
        let u = &a * &row;
        let s = (&u + &b).sigmoid();
        let tanh = u.tanh();
        let w = &s * &tanh + (1.0 - &s) * &a;
        let e = (-(&w * &w)).exp();
        let k = ((&e * b).tanh() + &row).sigmoid();
        let r = (k * w + tanh) * e + s;
        let y = r.tanh() * row + a;
        t.output("y", y.sigmoid() * y);
    })
}

/// A language model of two LSTM layers: `tokens` (i64, `[T, B]`) to `log_probs` (`[T, B, vocabulary]`). Parameters
/// `embedding` (`[vocabulary, hidden]`), `l0.` and `l1.`, `out.W` (`[hidden, vocabulary]`) and `out.b`.
///
/// # Errors
/// Where a size is negative.
pub fn language_model(vocabulary: i64, hidden: i64) -> Result<Graph, TraceError> {
    trace("ptb_lm", |t| {
        let tokens = t.input("tokens", DType::I64, ("T", "B"));
        let embedding = t.parameter("embedding", DType::F32, (vocabulary, hidden));
        let mut y = crate::nn::embedding(&embedding, &tokens);
        let hidden = Dim::constant(hidden);
        for layer in ["l0", "l1"] {
            let cell = Lstm::declare(t, layer, &hidden, &hidden);
            let initial = [(), ()].map(|()| t.zeros(DType::F32, ("B", &hidden)));
            (y, _) = run_layer(&cell, &y, initial, ScanOptions::new());
        }
        let weight = t.parameter("out.W", DType::F32, (&hidden, vocabulary));
        let bias = t.parameter("out.b", DType::F32, (vocabulary,));
        t.output("log_probs", (y.matmul(&weight) + bias).log_softmax(-1));
    })
}

/// A GRU that encodes `source` (`[S, B, hidden]`), and one that decodes `target` (`[T, B, hidden]`) from its last state
/// and attends to it, by dot products, before every step. Outputs `y` (`[T, B, hidden]`) and `h_n`; parameters `enc.`
/// and `dec.`, whose inputs are the target's and the context.
///
/// # Errors
/// Where the size is negative.
pub fn attention(hidden: i64) -> Result<Graph, TraceError> {
    trace("seq2seq_attn", |t| {
        let source = t.input("source", DType::F32, ("S", "B", hidden));
        let target = t.input("target", DType::F32, ("T", "B", hidden));
        let hidden = Dim::constant(hidden);
        let encoder = Gru::declare(t, "enc", &hidden, &hidden);
        let decoder = Gru::declare(t, "dec", &(Dim::constant(2) * hidden.clone()), &hidden);
        let zero = [t.zeros(DType::F32, ("B", &hidden))];
        let (encoded, state) = run_layer(&encoder, &source, zero, ScanOptions::new());
        let (keys, values) = (encoded.permute([1, 2, 0]), encoded.permute([1, 0, 2]));
        let ([h], y) = t.scan(state, target, |state, x| {
            let weights = state[0].unsqueeze(1).matmul(&keys).softmax(-1);
            let context = weights.matmul(&values).squeeze(1);
            let (y, state) = decoder.step(&concat([x, context], -1), state);
            (state, y)
        });
        t.output("y", y);
        t.output("h_n", h);
    })
}
