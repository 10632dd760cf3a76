//! The recurrent layers against plain loops over vectors, written from the published equations.

mod common;

use common::{Numbers, assert_close, f32s, i64s, run};
use fuse_frontend::nn::{self, Activation, CellParameters, Gates};
use fuse_frontend::{DType, ScanOptions, Tensor, Trace, trace, zoo};

const I: usize = 3;
const H: usize = 4;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `weight · x` for a row-major weight.
fn product(weight: &[f64], x: &[f64]) -> Vec<f64> {
    weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn normalise(x: &[f64], gain: &[f64], bias: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + 1e-5).sqrt();
    x.iter().zip(gain).zip(bias).map(|((x, g), b)| (x - mean) * scale * g + b).collect()
}

#[derive(Clone)]
struct Weights {
    ih: Vec<f64>,
    hh: Vec<f64>,
    bias_ih: Vec<f64>,
    bias_hh: Vec<f64>,
}

impl Weights {
    fn new(numbers: &mut Numbers, gates: usize, input: usize) -> Self {
        Weights {
            ih: numbers.take(gates * H * input),
            hh: numbers.take(gates * H * H),
            bias_ih: numbers.take(gates * H),
            bias_hh: numbers.take(gates * H),
        }
    }

    fn inputs(&self, gates: usize, input: usize, suffix: &str) -> Vec<(String, fuse_ir::Tensor)> {
        let g = gates * H;
        vec![
            (format!("weight_ih{suffix}"), f32s(&[g, input], &self.ih)),
            (format!("weight_hh{suffix}"), f32s(&[g, H], &self.hh)),
            (format!("bias_ih{suffix}"), f32s(&[g], &self.bias_ih)),
            (format!("bias_hh{suffix}"), f32s(&[g], &self.bias_hh)),
        ]
    }
}

/// The state of one row: `h`, and `c` for an LSTM.
type State = Vec<Vec<f64>>;

fn lstm_step(w: &Weights, x: &[f64], state: &State) -> State {
    let (h, c) = (&state[0], &state[1]);
    let a = plus(&plus(&product(&w.ih, x), &w.bias_ih), &plus(&product(&w.hh, h), &w.bias_hh));
    let new_c: Vec<f64> =
        (0..H).map(|k| sigmoid(a[H + k]) * c[k] + sigmoid(a[k]) * a[2 * H + k].tanh()).collect();
    let new_h = (0..H).map(|k| sigmoid(a[3 * H + k]) * new_c[k].tanh()).collect();
    vec![new_h, new_c]
}

fn gru_step(w: &Weights, x: &[f64], state: &State) -> State {
    let h = &state[0];
    let a = plus(&product(&w.ih, x), &w.bias_ih);
    let b = plus(&product(&w.hh, h), &w.bias_hh);
    let new = (0..H).map(|k| {
        let r = sigmoid(a[k] + b[k]);
        let z = sigmoid(a[H + k] + b[H + k]);
        let n = (a[2 * H + k] + r * b[2 * H + k]).tanh();
        (1.0 - z) * n + z * h[k]
    });
    vec![new.collect()]
}

fn rnn_step(activation: Activation) -> impl Fn(&Weights, &[f64], &State) -> State {
    move |w, x, state| {
        let a = plus(&plus(&product(&w.ih, x), &w.bias_ih), &plus(&product(&w.hh, &state[0]), &w.bias_hh));
        let f = |v: &f64| if activation == Activation::Relu { v.max(0.0) } else { v.tanh() };
        vec![a.iter().map(f).collect()]
    }
}

/// Runs a step over a sequence `[T][B][input]` for every row on its own. Returns `y` `[T][B][H]` flat and the
/// last states flat, one vector for each part.
fn reference(
    step: &impl Fn(&Weights, &[f64], &State) -> State,
    w: &Weights,
    x: &[f64],
    (t, b, input): (usize, usize, usize),
    initial: &[Vec<f64>],
    reverse: bool,
    lengths: Option<&[i64]>,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut y = vec![0.0; t * b * H];
    let mut last = vec![Vec::new(); initial.len()];
    for row in 0..b {
        let mut state: State = initial.iter().map(|part| part[row * H..][..H].to_vec()).collect();
        let steps = lengths.map_or(t, |l| l[row] as usize);
        for i in 0..steps {
            let at = if reverse { steps - 1 - i } else { i };
            let position = at * b + row;
            state = step(w, &x[position * input..][..input], &state);
            y[position * H..][..H].copy_from_slice(&state[0]);
        }
        for (part, own) in last.iter_mut().zip(state) {
            part.extend(own);
        }
    }
    (y, last)
}

#[derive(Clone, Copy)]
struct Case {
    t: usize,
    b: usize,
    reverse: bool,
    lengths: Option<&'static [i64]>,
}

const CASES: &[Case] = &[
    Case { t: 1, b: 1, reverse: false, lengths: None },
    Case { t: 5, b: 3, reverse: false, lengths: None },
    Case { t: 5, b: 3, reverse: true, lengths: None },
    Case { t: 5, b: 3, reverse: false, lengths: Some(&[5, 0, 2]) },
    Case { t: 5, b: 3, reverse: true, lengths: Some(&[1, 5, 3]) },
    Case { t: 0, b: 2, reverse: false, lengths: None },
    Case { t: 0, b: 2, reverse: true, lengths: Some(&[0, 0]) },
];

type Layer = fn(&Tensor, &CellParameters, Vec<Tensor>, ScanOptions) -> (Tensor, Vec<Tensor>);

/// Compares one direction of a layer with the loops, from a given state and from zero.
fn check_layer(gates: Gates, states: usize, layer: Layer, step: impl Fn(&Weights, &[f64], &State) -> State) {
    let count = gates.count() as usize;
    for (n, case) in CASES.iter().enumerate() {
        let Case { t, b, reverse, lengths } = *case;
        let graph = trace("layer", |tr: &Trace| {
            let x = tr.input("x", DType::F32, ("T", "B", I));
            let initial: Vec<Tensor> =
                (0..states).map(|i| tr.input(&format!("s{i}"), DType::F32, ("B", H))).collect();
            let lengths = lengths.map(|_| tr.input("lengths", DType::I64, ("B",)));
            let p = CellParameters::declare(tr, gates, "", "", &(I as i64).into(), &(H as i64).into());
            let options = ScanOptions::new().reverse_if(reverse).lengths_if(lengths.as_ref());
            let (y, last) = layer(&x, &p, initial, options);
            tr.output("y", y);
            last.iter().enumerate().for_each(|(i, s)| tr.output(&format!("last{i}"), s));
        })
        .unwrap_or_else(|e| panic!("{e}"));
        let mut numbers = Numbers(n as u64 + 17);
        let weights = Weights::new(&mut numbers, count, I);
        let x = numbers.take(t * b * I);
        let initial: Vec<Vec<f64>> = (0..states).map(|_| numbers.take(b * H)).collect();
        let mut inputs = weights.inputs(count, I, "");
        inputs.push(("x".into(), f32s(&[t, b, I], &x)));
        for (i, s) in initial.iter().enumerate() {
            inputs.push((format!("s{i}"), f32s(&[b, H], s)));
        }
        if let Some(lengths) = lengths {
            inputs.push(("lengths".into(), i64s(&[b], lengths)));
        }
        let inputs: Vec<(&str, _)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let got = run(&graph, &inputs);
        let (y, last) = reference(&step, &weights, &x, (t, b, I), &initial, reverse, lengths);
        assert_eq!(got[0].0, [t, b, H]);
        assert_close(&got[0].1, &y);
        for (got, expected) in got[1..].iter().zip(&last) {
            assert_close(&got.1, expected);
        }
    }
}

#[test]
fn an_lstm_layer_computes_its_equations() {
    let layer: Layer = |x, p, s, options| {
        let (y, (h, c)) = nn::lstm_layer(x, p, Some((s[0].clone(), s[1].clone())), options);
        (y, vec![h, c])
    };
    check_layer(Gates::Lstm, 2, layer, lstm_step);
}

#[test]
fn a_gru_layer_computes_its_equations() {
    let layer: Layer = |x, p, s, options| {
        let (y, h) = nn::gru_layer(x, p, Some(s[0].clone()), options);
        (y, vec![h])
    };
    check_layer(Gates::Gru, 1, layer, gru_step);
}

#[test]
fn a_plain_rnn_layer_computes_its_equations() {
    let tanh: Layer = |x, p, s, options| {
        let (y, h) = nn::rnn_layer(x, p, Activation::Tanh, Some(s[0].clone()), options);
        (y, vec![h])
    };
    check_layer(Gates::Rnn, 1, tanh, rnn_step(Activation::Tanh));
    let relu: Layer = |x, p, s, options| {
        let (y, h) = nn::rnn_layer(x, p, Activation::Relu, Some(s[0].clone()), options);
        (y, vec![h])
    };
    check_layer(Gates::Rnn, 1, relu, rnn_step(Activation::Relu));
}

#[test]
fn one_step_of_a_cell_is_a_layer_over_one_step() {
    let graph = trace("cells", |t| {
        let x = t.input("x", DType::F32, (1, "B", I));
        let h = t.zeros(DType::F32, ("B", H));
        let options = nn::StackOptions { layers: 1, bidirectional: false };
        let (i, hidden) = (I as i64, H as i64);
        let lstm = nn::declare_stack(t, Gates::Lstm, "lstm.", i, hidden, options);
        let gru = nn::declare_stack(t, Gates::Gru, "gru.", i, hidden, options);
        let rnn = nn::declare_stack(t, Gates::Rnn, "rnn.", i, hidden, options);
        let step = x.at(0, 0);
        t.output("lstm_cell", nn::lstm_cell(&step, (&h, &h), &lstm[0].forward).0);
        t.output("lstm", nn::lstm(&x, &lstm, None, None).0.at(0, 0));
        t.output("gru_cell", nn::gru_cell(&step, &h, &gru[0].forward));
        t.output("gru", nn::gru(&x, &gru, None, None).0.at(0, 0));
        t.output("rnn_cell", nn::rnn_cell(&step, &h, &rnn[0].forward, Activation::Relu));
        t.output("rnn", nn::rnn(&x, &rnn, Activation::Relu, None, None).0.at(0, 0));
    })
    .unwrap_or_else(|e| panic!("{e}"));
    let mut numbers = Numbers(5);
    let mut inputs = vec![("x".to_string(), f32s(&[1, 2, I], &numbers.take(2 * I)))];
    for (name, gates) in [("lstm", 4), ("gru", 3), ("rnn", 1)] {
        let weights = Weights::new(&mut numbers, gates, I).inputs(gates, I, "_l0");
        inputs.extend(weights.into_iter().map(|(n, w)| (format!("{name}.{n}"), w)));
    }
    let inputs: Vec<(&str, _)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let got = run(&graph, &inputs);
    for pair in got.chunks(2) {
        assert!(pair[0].1.iter().any(|v| *v != 0.0));
        assert_close(&pair[0].1, &pair[1].1);
    }
}

#[test]
fn a_bidirectional_stack_joins_directions_and_layers_as_pytorch_does() {
    let (t, b) = (4, 3);
    let lengths = [4, 1, 3];
    let options = nn::StackOptions { layers: 2, bidirectional: true };
    let graph = trace("stack", |tr| {
        let x = tr.input("x", DType::F32, ("T", "B", I));
        let [h0, c0] = ["h0", "c0"].map(|n| tr.input(n, DType::F32, (4, "B", H)));
        let lengths = tr.input("lengths", DType::I64, ("B",));
        let layers = nn::declare_stack(tr, Gates::Lstm, "", I as i64, H as i64, options);
        let (y, (h, c)) = nn::lstm(&x, &layers, Some((h0, c0)), Some(&lengths));
        tr.output("y", y);
        tr.output("h", h);
        tr.output("c", c);
    })
    .unwrap_or_else(|e| panic!("{e}"));

    let mut numbers = Numbers(99);
    let x = numbers.take(t * b * I);
    let [h0, c0] = [numbers.take(4 * b * H), numbers.take(4 * b * H)];
    let mut inputs = vec![
        ("x".to_string(), f32s(&[t, b, I], &x)),
        ("h0".to_string(), f32s(&[4, b, H], &h0)),
        ("c0".to_string(), f32s(&[4, b, H], &c0)),
        ("lengths".to_string(), i64s(&[b], &lengths)),
    ];
    let (mut flow, mut width) = (x, I);
    let (mut h_last, mut c_last) = (Vec::new(), Vec::new());
    for layer in 0..2 {
        let mut halves = Vec::new();
        for (direction, reverse) in [("", false), ("_reverse", true)] {
            let weights = Weights::new(&mut numbers, 4, width);
            inputs.extend(weights.inputs(4, width, &format!("_l{layer}{direction}")));
            let at = (2 * layer + usize::from(reverse)) * b * H;
            let initial = [h0[at..][..b * H].to_vec(), c0[at..][..b * H].to_vec()];
            let dims = (t, b, width);
            let (y, mut last) =
                reference(&lstm_step, &weights, &flow, dims, &initial, reverse, Some(&lengths));
            halves.push(y);
            h_last.append(&mut last[0]);
            c_last.append(&mut last[1]);
        }
        flow = halves[0].chunks(H).zip(halves[1].chunks(H)).flat_map(|(f, r)| [f, r].concat()).collect();
        width = 2 * H;
    }
    let inputs: Vec<(&str, _)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let got = run(&graph, &inputs);
    assert_eq!(got[0].0, [t, b, 2 * H]);
    assert_close(&got[0].1, &flow);
    assert_close(&got[1].1, &h_last);
    assert_close(&got[2].1, &c_last);
}

#[test]
fn the_layer_norm_lstm_carries_the_normalised_cell() {
    let (t, b) = (4, 2);
    let graph = zoo::layer_norm_lstm_graph(I as i64, H as i64).unwrap_or_else(|e| panic!("{e}"));
    let mut numbers = Numbers(3);
    let shapes = [
        ("weight_ih", vec![4 * H, I]),
        ("weight_hh", vec![4 * H, H]),
        ("norm_ih.gain", vec![4 * H]),
        ("norm_ih.bias", vec![4 * H]),
        ("norm_hh.gain", vec![4 * H]),
        ("norm_hh.bias", vec![4 * H]),
        ("norm_c.gain", vec![H]),
        ("norm_c.bias", vec![H]),
        ("x", vec![t, b, I]),
        ("h0", vec![b, H]),
        ("c0", vec![b, H]),
    ];
    let values: Vec<(&str, Vec<usize>, Vec<f64>)> = shapes
        .into_iter()
        .map(|(n, s)| {
            let v = numbers.take(s.iter().product());
            (n, s, v)
        })
        .collect();
    let of = |name: &str| &values.iter().find(|v| v.0 == name).expect("declared above").2;
    let step = |w: &Weights, x: &[f64], state: &State| {
        let a = plus(
            &normalise(&product(&w.ih, x), of("norm_ih.gain"), of("norm_ih.bias")),
            &normalise(&product(&w.hh, &state[0]), of("norm_hh.gain"), of("norm_hh.bias")),
        );
        let c: Vec<f64> =
            (0..H).map(|k| sigmoid(a[H + k]) * state[1][k] + sigmoid(a[k]) * a[2 * H + k].tanh()).collect();
        let c = normalise(&c, of("norm_c.gain"), of("norm_c.bias"));
        vec![(0..H).map(|k| sigmoid(a[3 * H + k]) * c[k].tanh()).collect(), c]
    };
    let weights = Weights {
        ih: of("weight_ih").clone(),
        hh: of("weight_hh").clone(),
        bias_ih: vec![],
        bias_hh: vec![],
    };
    let initial = [of("h0").clone(), of("c0").clone()];
    let (y, last) = reference(&step, &weights, of("x"), (t, b, I), &initial, false, None);
    let inputs: Vec<(&str, _)> = values.iter().map(|(n, s, v)| (*n, f32s(s, v))).collect();
    let got = run(&graph, &inputs);
    // 1e-5 is added in f32 by the graph's constant and in f64 by the reference.
    let close = |got: &[f64], expected: &[f64]| {
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-9), "{got:?} {expected:?}");
    };
    close(&got[0].1, &y);
    close(&got[1].1, &last[0]);
    close(&got[2].1, &last[1]);
}

#[test]
fn the_custom_cell_computes_its_equations() {
    let (t, b) = (3, 2);
    let graph = zoo::custom_cell_graph(I as i64, H as i64).unwrap_or_else(|e| panic!("{e}"));
    let mut numbers = Numbers(4);
    let mut values: Vec<(String, Vec<usize>, Vec<f64>)> = Vec::new();
    for input in graph.inputs() {
        let ty = graph.ty(input.value);
        let size = |d: &fuse_ir::Dim| match d.as_constant() {
            Some(n) => n as usize,
            None => {
                if d.to_string() == "T" {
                    t
                } else {
                    b
                }
            }
        };
        let shape: Vec<usize> = ty.shape.iter().map(size).collect();
        let value = numbers.take(shape.iter().product());
        values.push((input.name.clone(), shape, value));
    }
    let of = |name: &str| &values.iter().find(|v| v.0 == name).expect("declared above").2;
    let step = |w: &Weights, x: &[f64], state: &State| {
        let (u, v, c) = (product(&w.ih, x), product(&w.hh, &state[0]), &state[1]);
        let gate = |g: usize, k: usize| {
            let i = g * H + k;
            of("alpha")[i] * u[i] * v[i] + of("beta_ih")[i] * u[i] + of("beta_hh")[i] * v[i] + of("bias")[i]
        };
        let new_c: Vec<f64> = (0..H)
            .map(|k| {
                let write = sigmoid(gate(0, k) + of("peephole_i")[k] * c[k]);
                let keep = sigmoid(gate(1, k) + of("peephole_f")[k] * c[k]);
                keep * c[k] + write * gate(2, k).tanh()
            })
            .collect();
        let read = |k: usize| sigmoid(gate(3, k) + of("peephole_o")[k] * new_c[k]);
        vec![(0..H).map(|k| read(k) * new_c[k].tanh()).collect(), new_c]
    };
    let weights = Weights {
        ih: of("weight_ih").clone(),
        hh: of("weight_hh").clone(),
        bias_ih: vec![],
        bias_hh: vec![],
    };
    let initial = [of("h0").clone(), of("c0").clone()];
    let (y, last) = reference(&step, &weights, of("x"), (t, b, I), &initial, false, None);
    let inputs: Vec<(&str, _)> = values.iter().map(|(n, s, v)| (n.as_str(), f32s(s, v))).collect();
    let got = run(&graph, &inputs);
    assert_close(&got[0].1, &y);
    assert_close(&got[1].1, &last[0]);
    assert_close(&got[2].1, &last[1]);
}

#[test]
fn a_sequence_without_steps_gives_the_initial_state() {
    let mut numbers = Numbers(8);
    let weights = Weights::new(&mut numbers, 4, I);
    let (h0, c0) = (numbers.take(2 * H), numbers.take(2 * H));
    let mut inputs = weights.inputs(4, I, "");
    inputs.push(("x".into(), f32s(&[0, 2, I], &[])));
    inputs.push(("h0".into(), f32s(&[2, H], &h0)));
    inputs.push(("c0".into(), f32s(&[2, H], &c0)));
    let inputs: Vec<(&str, _)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let graph = zoo::lstm_graph(I as i64, H as i64).unwrap_or_else(|e| panic!("{e}"));
    let got = run(&graph, &inputs);
    assert_eq!(got[0].0, [0, 2, H]);
    assert_close(&got[1].1, &h0);
    assert_close(&got[2].1, &c0);
}

#[test]
fn the_text_of_every_model_parses_to_the_same_graph() {
    for graph in [zoo::lstm_graph, zoo::gru_graph, zoo::layer_norm_lstm_graph, zoo::custom_cell_graph] {
        let graph = graph(5, 7).unwrap_or_else(|e| panic!("{e}"));
        let text = graph.to_string();
        let parsed = fuse_ir::parse(&text).unwrap_or_else(|e| panic!("{}", e.render("traced", &text)));
        assert_eq!(parsed, graph);
    }
}
