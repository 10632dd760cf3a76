//! `Loop`: as a scan, and step by step.

use super::net::{Net, assert_says, counting};
use super::*;

/// A loop over the steps of `x: f32[T, B]` that carries `h`.
fn over_steps(body: &str) -> Net {
    Net::new(
        16,
        "x: f32[T, B]
         h: f32[B]
         n = Shape(x)
         zero = 0
         t = Gather(n, zero)
         go = true
         last, all = Loop(t, go, h)
         return last, all",
    )
    .subgraph("last", "body", body)
}

#[test]
fn as_many_steps_as_a_symbol_says() {
    let net = over_steps(
        "i: i64[]
         c: bool[]
         a: f32[B]
         row = Gather(x, i)
         b = Add(a, row)
         next = Identity(c)
         return next, b, b",
    );
    let h = f32s(&[2], &[10.0, 20.0]);
    let got = net.run(&[counting(&[3, 2]), h.clone()]);
    assert_eq!(got[0].to_f64(), [16.0, 29.0]);
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[3, 2][..], vec![10.0, 21.0, 12.0, 24.0, 16.0, 29.0]));
    let got = net.run(&[counting(&[1, 2]), h]);
    assert_eq!((got[0].to_f64(), got[1].shape()), (vec![10.0, 21.0], &[1, 2][..]));
}

/// A step carries its number, one that counts down by 2, and a weight that it does not change.
#[test]
fn counters_and_what_does_not_change() {
    let net = Net::new(
        16,
        "w: f32[2]
         x: f32[2]
         trip = 3
         go = true
         k = 5
         m = 9
         k1, m1, w1, y = Loop(trip, go, k, m, w, x)
         return k1, m1, w1, y",
    )
    .subgraph(
        "y",
        "body",
        "i: i64[]
         c: bool[]
         k0: i64[]
         m0: i64[]
         w0: f32[2]
         a: f32[2]
         one = 1
         two = 2
         kn = Add(k0, one)
         mn = Sub(m0, two)
         wn = Identity(w0)
         f = Cast(k0) to=1
         p = Mul(a, w0)
         an = Add(p, f)
         return c, kn, mn, wn, an",
    );
    let got = net.run(&[f32s(&[2], &[2.0, -1.0]), f32s(&[2], &[1.0, 0.0])]);
    let values: Vec<Vec<f64>> = got.iter().map(HostTensor::to_f64).collect();
    // ((1 * 2 + 5) * 2 + 6) * 2 + 7 and ((0 * -1 + 5) * -1 + 6) * -1 + 7
    assert_eq!(values, [vec![8.0], vec![3.0], vec![2.0, -1.0], vec![47.0, 6.0]]);
}

/// Doubles until the sum passes a bound; afterwards nothing changes, counters included.
#[test]
fn data_end_a_loop_early() {
    let net = Net::new(
        16,
        "x: f32[]
         trip = 10
         go = true
         k = 0
         y, n = Loop(trip, go, x, k)
         return y, n",
    )
    .subgraph(
        "y",
        "body",
        "i: i64[]
         c: bool[]
         a: f32[]
         k0: i64[]
         one = 1
         b = Add(a, a)
         kn = Add(k0, one)
         bound = 20.0
         next = Less(b, bound)
         return next, b, kn",
    );
    let run = |x: f32| net.run(&[f32s(&[], &[x])]).iter().map(|r| r.to_f64()[0]).collect::<Vec<_>>();
    assert_eq!(run(3.0), [24.0, 3.0]);
    assert_eq!(run(100.0), [200.0, 1.0]);
    assert_eq!(run(0.0), [0.0, 10.0]);
}

/// Each step makes what it carries longer, so that the loop cannot be a scan.
#[test]
fn what_grows_is_unrolled() {
    let text = |trip: &str| format!("x: f32[T]\n {trip}\n go = true\n y = Loop(n, go, x)\n return y");
    let body = "i: i64[]\n c: bool[]\n a: f32[S]\n b = Concat(a, x) axis=0\n return c, b";
    let net = Net::new(16, &text("n = 2")).subgraph("y", "body", body);
    assert_eq!(net.result(&[counting(&[2])]), (vec![6], vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
    let net = Net::new(16, &text("n = Size(x)")).subgraph("y", "body", body);
    assert!(net.attempt(&ImportOptions::default(), &[counting(&[2])]).is_err(), "T steps do not unroll");
}

#[test]
fn conditions_count_only_where_an_initial_one_is_given() {
    let run = |condition: &str| {
        let text = format!("x: f32[]\n n = 3\n go = true\n y = Loop(n, {condition}, x)\n return y");
        let body = "i: i64[]\n c: bool[]\n a: f32[]\n b = Add(a, a)\n stop = false\n return stop, b";
        Net::new(16, &text).subgraph("y", "body", body).result(&[f32s(&[], &[1.0])]).1
    };
    assert_eq!(run(""), [8.0]);
    assert_eq!(run("go"), [2.0]);
}

#[test]
fn loops_without_steps_keep_what_they_carry() {
    for (trip, go) in [("0", "true"), ("-3", "true"), ("4", "false")] {
        let text = format!("x: f32[2]\n n = {trip}\n go = {go}\n y, s = Loop(n, go, x)\n return y, s");
        let body = "i: i64[]\n c: bool[]\n a: f32[2]\n b = Add(a, a)\n return c, b, b";
        let got = Net::new(16, &text).subgraph("y", "body", body).run(&[counting(&[2])]);
        assert_eq!((got[0].to_f64(), got[1].shape()), (vec![0.0, 1.0], &[0, 2][..]), "{trip}, {go}");
    }
}

/// A `while` loop as exporters write it: no trip count, and a counter against a bound.
#[test]
fn conditions_that_count_are_trip_counts() {
    let net = Net::new(
        16,
        "x: f32[T, B]
         h: f32[B]
         n = Shape(x)
         zero = 0
         t = Gather(n, zero)
         k = 0
         go = Less(k, t)
         kn, y = Loop(, go, k, h)
         return kn, y",
    )
    .subgraph(
        "y",
        "body",
        "i: i64[]
         c: bool[]
         k0: i64[]
         a: f32[B]
         row = Gather(x, k0)
         b = Add(a, row)
         one = 1
         k1 = Add(k0, one)
         next = Less(k1, t)
         return next, k1, b",
    );
    for t in 1..4 {
        let got = net.run(&[counting(&[t, 1]), f32s(&[1], &[0.5])]);
        let sum = (t * (t - 1) / 2) as f64 + 0.5;
        assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![t as f64], vec![sum]));
    }
}

#[test]
fn lists_to_which_steps_append() {
    let net = Net::new(
        16,
        "x: f32[T, B]
         n = Shape(x)
         zero = 0
         t = Gather(n, zero)
         go = true
         none = SequenceEmpty()
         list = Loop(t, go, none)
         y = ConcatFromSequence(list) axis=0 new_axis=1
         len = SequenceLength(list)
         last = -1
         z = SequenceAt(list, last)
         return y, len, z",
    )
    .subgraph(
        "list",
        "body",
        "i: i64[]
         c: bool[]
         s: f32[]
         row = Gather(x, i)
         twice = Add(row, row)
         more = SequenceInsert(s, twice)
         return c, more",
    );
    let got = net.run(&[counting(&[2, 2])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 2][..], vec![0.0, 2.0, 4.0, 6.0]));
    assert_eq!((got[1].to_f64(), got[2].to_f64()), (vec![2.0], vec![4.0, 6.0]));
}

/// Steps read a window that moves, and a loop within a loop.
#[test]
fn loops_nest() {
    let inner = "j: i64[]\n d: bool[]\n b: f32[]\n e = Gather(row, j)\n bn = Add(b, e)\n return d, bn";
    let body = Net::new(
        16,
        "i: i64[]
         c: bool[]
         a: f32[]
         row = Gather(x, i)
         m = Size(row)
         an = Loop(m, c, a)
         return c, an",
    )
    .subgraph("an", "body", inner);
    let net = Net::new(
        16,
        "x: f32[T, B]
         n = Shape(x)
         zero = 0
         t = Gather(n, zero)
         go = true
         start = 0.0
         y = Loop(t, go, start)
         return y",
    );
    assert_eq!(net.with_body("y", body).result(&[counting(&[2, 3])]).1, [15.0]);
}

#[test]
fn loops_that_cannot_be_told_are_refused() {
    let refusal = |inputs: &str, next: &str, results: &str| {
        let text = format!("x: f32[2]\n t: i64[]\n n = 3\n go = true\n c0: bool[]\n y{inputs}\n return y");
        let body = format!("i: i64[]\n c: bool[]\n a: f32[2]\n b = Add(a, a)\n {next}\n return {results}");
        Net::new(16, &text).subgraph("y", "body", &body).refusal()
    };
    let data = "s = ReduceSum(b) keepdims=0\n e = 1.0\n d = Less(s, e)";
    assert_says(
        &refusal(" = Loop(t, go, x)", "", "c, b"),
        &["node `y` (Loop, opset 16)", "the trip count", "input `t`", "--inputs"],
    );
    assert_says(&refusal(" = Loop(n, c0, x)", "", "c, b"), &["the condition before the first step", "`c0`"]);
    assert_says(&refusal(" = Loop(, go, x)", data, "d, b"), &["no trip count", "give it a trip count"]);
    assert_says(
        &refusal(", s2 = Loop(n, go, x)", data, "d, b, b"),
        &["its condition depends on data, so that the length of what it stacks does"],
    );
    assert_says(
        &refusal(" = Loop(n, go)", "", "c, b"),
        &["its body does not fit the values that it carries"],
    );
    assert_says(&refusal(" = Loop(n, go, )", "", "c, b"), &["a carried value is missing"]);
}
