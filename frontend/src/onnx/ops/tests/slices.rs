//! `Slice`, of known and of symbolic extents.

use super::net::{Net, Random, assert_says, counting, with_dims};
use super::*;

/// The positions of a slice: where it leads backwards, its start is clamped onto the axis, unlike NumPy's.
fn positions(extent: i64, start: i64, end: i64, step: i64) -> Vec<i64> {
    if extent == 0 {
        return Vec::new();
    }
    let from_end = |p: i64| if p < 0 { p.saturating_add(extent) } else { p };
    let (low, high) = if step > 0 { (0, extent) } else { (-1, extent - 1) };
    let (mut at, end) = (from_end(start).clamp(0, high), from_end(end).clamp(low, high));
    let mut all = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        all.push(at);
        at = at.saturating_add(step);
    }
    all
}

#[test]
fn slices_of_known_extents_are_those_of_the_reference() {
    let mut random = Random(1);
    let far = [i64::MAX, i64::MIN, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX - 1, i64::MIN + 1];
    for _ in 0..600 {
        let extent = random.within(0, 7);
        let mut bound = || match random.within(0, 9) {
            0 => far[random.within(0, 5) as usize],
            _ => random.within(-9, 9),
        };
        let (start, end) = (bound(), bound());
        let step = match random.within(0, 9) {
            0 => [i64::MAX, i64::MIN + 1][random.within(0, 1) as usize],
            step => [-3, -2, -1, -1, 1, 1, 1, 2, 3][step as usize - 1],
        };
        let x = i64s(&[2, extent as usize], &(0..2 * extent).collect::<Vec<_>>());
        let one = |value: i64| i64s(&[1], &[value]);
        let operands = [x, one(start), one(end), one(-1), one(step)];
        let row = positions(extent, start, end, step);
        let expected: Vec<i64> = row.iter().copied().chain(row.iter().map(|p| p + extent)).collect();
        let got = Model::new("Slice", 13).run(&operands).swap_remove(0);
        assert_eq!(got.shape(), [2, row.len()], "[{start}:{end}:{step}] of {extent}");
        let got: Vec<i64> = got.literals().map(|v| v.as_i64()).collect();
        assert_eq!(got, expected, "[{start}:{end}:{step}] of {extent}");
    }
}

/// One import serves every extent.
#[test]
fn slices_of_symbolic_extents_are_those_of_the_reference() {
    let mut random = Random(2);
    for _ in 0..120 {
        let mut bound = || match random.within(0, 7) {
            0 => i64::MAX,
            1 => i64::MIN,
            _ => random.within(-6, 6),
        };
        let (start, end) = (bound(), bound());
        let step = [-2, -1, 1, 2][random.within(0, 3) as usize];
        let text = format!(
            "x: f32[T]\n starts = [{start}]\n ends = [{end}]\n axes = [0]\n steps = [{step}]
             y = Slice(x, starts, ends, axes, steps)\n return y"
        );
        let net = Net::new(13, &text);
        for extent in 1..=9 {
            let row = positions(extent, start, end, step);
            let expected: Vec<f64> = row.iter().map(|p| *p as f64).collect();
            let got = net.result(&[counting(&[extent as usize])]);
            assert_eq!(got, (vec![row.len()], expected), "[{start}:{end}:{step}] of {extent}");
        }
    }
}

/// Bounds `a T + c`, forwards and backwards. A call for which it is not known from which end one counts may be
/// refused, but is never computed wrongly.
#[test]
fn slices_to_computed_bounds_are_those_of_the_reference_or_refused() {
    let mut random = Random(17);
    let mut computed = 0;
    for _ in 0..120 {
        let bound = |random: &mut Random| (random.within(-1, 1), random.within(-4, 4));
        let ((a, c), (b, d)) = (bound(&mut random), bound(&mut random));
        let step = [-2, -1, 1, 2][random.within(0, 3) as usize];
        let text = format!(
            "x: f32[T]\n n = Shape(x)\n axes = [0]\n steps = [{step}]
             a = [{a}]\n b = [{b}]\n c = [{c}]\n d = [{d}]
             an = Mul(a, n)\n bn = Mul(b, n)\n start = Add(an, c)\n end = Add(bn, d)
             y = Slice(x, start, end, axes, steps)\n return y"
        );
        let net = Net::new(13, &text);
        for extent in 1..=8 {
            let row = positions(extent, a * extent + c, b * extent + d, step);
            let Ok(got) = net.attempt(&ImportOptions::default(), &[counting(&[extent as usize])]) else {
                continue;
            };
            computed += 1;
            let expected: Vec<f64> = row.iter().map(|p| *p as f64).collect();
            assert_eq!(got[0].to_f64(), expected, "[{a}T+{c}:{b}T+{d}:{step}] of {extent}");
        }
    }
    assert!(computed > 480, "half of all calls at least, not {computed}");
}

#[test]
fn bounds_are_computed_from_a_symbolic_extent() {
    let net = Net::new(
        13,
        "x: f32[T, B]
         n = Shape(x)
         first = [0]
         t = Gather(n, first)
         one = [1]
         end = Sub(t, one)
         axes = [0]
         y = Slice(x, first, end, axes)
         last = Slice(x, end, t, axes)
         back = [-1]
         front = [-9223372036854775808]
         turned = Slice(x, back, front, axes, back)
         return y, last, turned",
    );
    let got = net.run(&[counting(&[3, 2])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 2][..], vec![0.0, 1.0, 2.0, 3.0]));
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[1, 2][..], vec![4.0, 5.0]));
    assert_eq!(got[2].to_f64(), [4.0, 5.0, 2.0, 3.0, 0.0, 1.0]);
    let got = net.run(&[counting(&[1, 1])]);
    assert_eq!((got[0].shape(), got[1].to_f64()), (&[0, 1][..], vec![0.0]));
}

/// Half of the steps, and then those behind the half.
#[test]
fn bounds_are_quotients_of_a_symbolic_extent() {
    let net = Net::new(
        13,
        "x: f32[T]
         n = Shape(x)
         two = [2]
         half = Div(n, two)
         zero = [0]
         y = Slice(x, zero, half)
         z = Slice(x, half, n)
         return y, z",
    );
    for extent in 1..8 {
        let got = net.run(&[counting(&[extent])]);
        assert_eq!((got[0].elements(), got[1].elements()), (extent / 2, extent - extent / 2));
        assert_eq!(got[1].to_f64()[0], (extent / 2) as f64);
    }
}

/// `T - B` may count from either end: a call where it is negative is refused, others are computed.
#[test]
fn bounds_of_unknown_sign_count_from_the_start() {
    let net = Net::new(
        13,
        "x: f32[T]
         other: f32[B]
         n = Shape(x)
         m = Shape(other)
         start = Sub(n, m)
         far = [9223372036854775807]
         y = Slice(x, start, far)
         return y",
    );
    assert_eq!(net.result(&[counting(&[5]), counting(&[2])]), (vec![2], vec![3.0, 4.0]));
    let options = ImportOptions::default();
    assert!(net.attempt(&options, &[counting(&[2]), counting(&[5])]).is_err());
}

#[test]
fn backwards_the_sign_of_bounds_must_be_known() {
    let net = Net::new(
        13,
        "x: f32[T]
         n = Shape(x)
         two = [2]
         start = Sub(n, two)
         far = [-9223372036854775808]
         axes = [0]
         back = [-1]
         y = Slice(x, start, far, axes, back)
         return y",
    );
    assert_says(&net.refusal(), &["node `y` (Slice, opset 13)", "T - 2", "--dim T=N"]);
    let run = |t: usize| {
        let got = net.attempt(&with_dims(&[("T", t as i64)]), &[counting(&[t])]);
        got.expect("the extent is given")[0].to_f64()
    };
    assert_eq!((run(3), run(1)), (vec![1.0, 0.0], vec![0.0]));
}

#[test]
fn bounds_were_attributes_before_opset_10() {
    let x = counting(&[2, 3]);
    let model = Model::new("Slice", 9).ints("starts", &[1, 0]).ints("ends", &[2, -1]);
    assert_eq!(model.values(std::slice::from_ref(&x)), [3.0, 4.0]);
    let model = Model::new("Slice", 7).ints("starts", &[-2]).ints("ends", &[i64::MAX]).ints("axes", &[1]);
    assert_eq!(model.values(&[x]), [1.0, 2.0, 4.0, 5.0]);
}

#[test]
fn what_is_no_slice_is_refused() {
    let slice = |bounds: &str| {
        let text = format!("x: f32[T, B]\n {bounds}\n y = Slice(x, s, e, a, k)\n return y");
        Net::new(13, &text).refusal()
    };
    assert_says(
        &slice("s = [0]\n e = [1]\n a = [0]\n k = [0]"),
        &["node `y` (Slice, opset 13)", "a step is 0"],
    );
    assert_says(&slice("s = [0]\n e = [1]\n a = [2]\n k = [1]"), &["node `y`", "axis 2 is out of range"]);
    assert_says(&slice("s = [0]\n e = [1, 2]\n a = [0]\n k = [1]"), &["differ in number"]);
    assert_says(&slice("s = [0, 0]\n e = [1, 1]\n a = [0, -2]\n k = [1, 1]"), &["name an axis twice"]);
    let computed = Net::new(13, "x: f32[T]\n s: i64[1]\n e = [9]\n y = Slice(x, s, e)\n return y");
    assert_says(&computed.refusal(), &["node `y`", "starts", "input `s`", "--inputs"]);
}
