//! `Attention`, against loops in f64.

use super::net::{Net, Random, assert_says};
use super::*;

/// What a query attends to, and how.
struct Case {
    batch: usize,
    heads: usize,
    /// Heads of keys and values.
    shared: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value_size: usize,
}

const CASE: Case = Case { batch: 2, heads: 4, shared: 2, queries: 3, keys: 4, size: 2, value_size: 3 };

impl Case {
    fn inputs(&self, random: &mut Random) -> [HostTensor; 3] {
        [
            random.tensor(&[self.batch, self.heads, self.queries, self.size]),
            random.tensor(&[self.batch, self.shared, self.keys, self.size]),
            random.tensor(&[self.batch, self.shared, self.keys, self.value_size]),
        ]
    }

    /// `score` makes a score of a product at a batch, a head, a query and a key.
    fn expected(&self, inputs: &[HostTensor], score: &dyn Fn(f64, [usize; 4]) -> f64) -> Vec<f64> {
        let (q, k, v) = (inputs[0].to_f64(), inputs[1].to_f64(), inputs[2].to_f64());
        let mut out = Vec::new();
        for (b, h, i) in (0..self.batch * self.heads * self.queries)
            .map(|p| (p / self.queries / self.heads, p / self.queries % self.heads, p % self.queries))
        {
            let own = b * self.shared + h / (self.heads / self.shared);
            let product = |j: usize| {
                let of = |d: usize| {
                    q[((b * self.heads + h) * self.queries + i) * self.size + d]
                        * k[(own * self.keys + j) * self.size + d]
                };
                (0..self.size).map(of).sum::<f64>()
            };
            let scores: Vec<f64> = (0..self.keys).map(|j| score(product(j), [b, h, i, j])).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            out.extend((0..self.value_size).map(|d| {
                let weighted = |j: usize| powers[j] * v[(own * self.keys + j) * self.value_size + d];
                // A query that attends to nothing gets nothing.
                if sum > 0.0 { (0..self.keys).map(weighted).sum::<f64>() / sum } else { 0.0 }
            }));
        }
        out
    }
}

fn scaled(product: f64) -> f64 {
    product / (CASE.size as f64).sqrt()
}

/// To an absolute error: values of both signs cancel.
#[track_caller]
fn assert_near(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() < 1e-12, "element {i}: {g} instead of {e}");
    }
}

#[test]
fn queries_attend_to_all_keys_of_their_group() {
    let inputs = CASE.inputs(&mut Random(13));
    let model = Model::new("Attention", 23);
    assert_near(&model.values(&inputs), &CASE.expected(&inputs, &|p, _| scaled(p)));
    let model = Model::new("Attention", 23).float("scale", 0.25).float("softcap", 2.0);
    let capped = CASE.expected(&inputs, &|p, _| (p * 0.25 / 2.0).tanh() * 2.0);
    assert_near(&model.values(&inputs), &capped);
}

#[test]
fn queries_attend_to_what_positions_and_masks_allow() {
    let [q, k, v] = CASE.inputs(&mut Random(14));
    let inputs = [q, k, v];
    let causal = Model::new("Attention", 23).int("is_causal", 1).values(&inputs);
    let before = |p: f64, [_, _, i, j]: [usize; 4]| if j <= i { scaled(p) } else { f64::NEG_INFINITY };
    assert_near(&causal, &CASE.expected(&inputs, &before));
    // The second query attends to nothing.
    let flags: Vec<bool> = (0..12).map(|p| p / 4 != 1 && p % 3 != 0).collect();
    let masked = [&inputs[..], &[bools(&[3, 4], &flags)]].concat();
    let allowed =
        |p: f64, [_, _, i, j]: [usize; 4]| if flags[i * 4 + j] { scaled(p) } else { f64::NEG_INFINITY };
    assert_near(&Model::new("Attention", 23).values(&masked), &CASE.expected(&inputs, &allowed));
    let bias = Random(15).tensor(&[2, 1, 3, 4]);
    let biased = |p: f64, [b, _, i, j]: [usize; 4]| scaled(p) + bias.to_f64()[(b * 3 + i) * 4 + j];
    let expected = CASE.expected(&inputs, &biased);
    let biased = [&inputs[..], std::slice::from_ref(&bias)].concat();
    assert_near(&Model::new("Attention", 23).values(&biased), &expected);
}

/// New keys of a step join those of a cache, whose length is a symbol; heads are one axis with their sizes.
#[test]
fn caches_of_symbolic_length() {
    let net = Net::new(
        23,
        "q: f64[B, S, 8]
         k: f64[B, S, 4]
         v: f64[B, S, 4]
         pk: f64[B, 2, P, 2]
         pv: f64[B, 2, P, 2]
         y, nk, nv = Attention(q, k, v, , pk, pv) q_num_heads=4 kv_num_heads=2 is_causal=1
         return y, nk, nv",
    );
    let case = Case { batch: 1, queries: 2, keys: 5, value_size: 2, ..CASE };
    let mut random = Random(16);
    let whole = case.inputs(&mut random);
    let part = |x: &HostTensor, range: std::ops::Range<usize>| {
        f64s(&[1, 2, range.len(), 2], &steps(x, 5, |t| range.contains(&t)))
    };
    let joined = |x: &HostTensor, count: usize, steps: usize| {
        let values = x.to_f64();
        let at = |p: usize| {
            let (t, h, d) = (p / (count * 2), p / 2 % count, p % 2);
            values[(h * steps + t) * 2 + d]
        };
        f64s(&[1, steps, count * 2], &(0..values.len()).map(at).collect::<Vec<_>>())
    };
    let (past_k, past_v) = (part(&whole[1], 0..3), part(&whole[2], 0..3));
    let (new_k, new_v) = (part(&whole[1], 3..5), part(&whole[2], 3..5));
    let inputs = [joined(&whole[0], 4, 2), joined(&new_k, 2, 2), joined(&new_v, 2, 2), past_k, past_v];
    let got = net.run(&inputs);
    let causal = |p: f64, [_, _, i, j]: [usize; 4]| if j <= i + 3 { scaled(p) } else { f64::NEG_INFINITY };
    let expected = f64s(&[1, 4, 2, 2], &case.expected(&whole, &causal));
    assert_near(&got[0].to_f64(), &joined(&expected, 4, 2).to_f64());
    assert_eq!((got[1].to_f64(), got[2].to_f64()), (whole[1].to_f64(), whole[2].to_f64()));
}

/// The steps of `[1, H, steps, 2]` that are chosen.
fn steps(x: &HostTensor, count: usize, chosen: impl Fn(usize) -> bool) -> Vec<f64> {
    let of_step = |(p, _): &(usize, f64)| chosen(p / 2 % count);
    x.to_f64().into_iter().enumerate().filter(of_step).map(|(_, v)| v).collect()
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let refusal = |text: &str| Net::new(23, text).refusal();
    let count = refusal("q: f32[B, T, 6]\n y = Attention(q, q, q) q_num_heads=4 kv_num_heads=2\n return y");
    assert_says(&count, &["node `y` (Attention, opset 23)", "has no 4 heads", "`q_num_heads`"]);
    let missing = refusal("q: f32[B, T, 6]\n y = Attention(q, q, q)\n return y");
    assert_says(&missing, &["has no 0 heads; see attribute `q_num_heads`"]);
    let rank = refusal("q: f32[B, 6]\n y = Attention(q, q, q)\n return y");
    assert_says(&rank, &["has neither 3 nor 4 axes"]);
    let group = refusal("q: f32[B, 3, T, 2]\n k: f32[B, 2, T, 2]\n y = Attention(q, k, k)\n return y");
    assert_says(&group, &["3 heads of queries do not share 2 of keys"]);
}
