//! Shapes that are computed from those of inputs, and values and dimensions that the import is told.

use super::net::{Net, assert_says, counting, with_dims, with_values};
use super::*;

#[test]
fn computed_shapes_reshape() {
    let net = Net::new(
        18,
        "x: f32[T, B, 6]
         n = Shape(x)
         zero = 0
         one = 1
         t = Gather(n, zero)
         b = Gather(n, one)
         axes = [0]
         t1 = Unsqueeze(t, axes)
         b1 = Unsqueeze(b, axes)
         heads = [2, -1]
         target = Concat(t1, b1, heads) axis=0
         y = Reshape(x, target)
         open = [-1]
         flat = Concat(open, b1) axis=0
         z = Reshape(x, flat)
         return y, z",
    );
    let got = net.run(&[counting(&[2, 1, 6])]);
    assert_eq!((got[0].shape(), got[1].shape()), (&[2, 1, 2, 3][..], &[12, 1][..]));
    let got = net.run(&[counting(&[3, 2, 6])]);
    assert_eq!((got[0].shape(), got[1].shape()), (&[3, 2, 2, 3][..], &[18, 2][..]));
    assert_eq!(got[0].to_f64(), counting(&[36]).to_f64());
}

#[test]
fn zeros_of_a_target_keep_extents_or_are_none() {
    let keep = Net::new(14, "x: f32[T, 2, 3]\n s = [0, -1]\n y = Reshape(x, s)\n return y");
    assert_eq!(keep.result(&[counting(&[2, 2, 3])]).0, [2, 6]);
    let model = Model::new("Reshape", 14).int("allowzero", 1).stored(1);
    assert_eq!(model.run(&[counting(&[0, 2]), i64s(&[2], &[3, 0])])[0].shape(), [3, 0]);
    let model = Model::new("Reshape", 5).stored(1);
    assert_eq!(model.run(&[counting(&[0, 2]), i64s(&[2], &[0, 1])]).len(), 1);
}

#[test]
fn parts_of_shapes_and_sizes() {
    let net = Net::new(
        15,
        "x: f32[T, B, 3]
         all = Shape(x)
         inner = Shape(x) start=1
         last = Shape(x) start=-1
         but_last = Shape(x) end=-1
         none = Shape(x) start=2 end=1
         beyond = Shape(x) start=-9 end=9
         size = Size(x)
         return all, inner, last, but_last, none, beyond, size",
    );
    let got: Vec<Vec<f64>> = net.run(&[counting(&[2, 5, 3])]).iter().map(HostTensor::to_f64).collect();
    let expected: [&[f64]; 7] =
        [&[2.0, 5.0, 3.0], &[5.0, 3.0], &[3.0], &[2.0, 5.0], &[], &[2.0, 5.0, 3.0], &[30.0]];
    assert_eq!(got, expected);
}

#[test]
fn flat_and_squeezed_and_unsqueezed() {
    let net = Net::new(
        13,
        "x: f32[T, 1, B, 1]
         a = Flatten(x) axis=2
         b = Flatten(x) axis=0
         c = Flatten(x) axis=-1
         axes = [-1, 1]
         d = Squeeze(x, axes)
         e = Unsqueeze(d, axes)
         f = Flatten(x) axis=4
         return a, b, c, d, e, f",
    );
    let got = net.run(&[counting(&[2, 1, 3, 1])]);
    let shapes: Vec<&[usize]> = got.iter().map(HostTensor::shape).collect();
    let expected: [&[usize]; 6] = [&[2, 3], &[1, 6], &[6, 1], &[2, 3], &[2, 1, 3, 1], &[6, 1]];
    assert_eq!(shapes, expected);
    let old = Model::new("Squeeze", 11).ints("axes", &[-2]);
    assert_eq!(old.run(&[counting(&[2, 1, 3])])[0].shape(), [2, 3]);
    assert_eq!(Model::new("Squeeze", 13).run(&[counting(&[1, 2, 1])])[0].shape(), [2]);
    let old = Model::new("Unsqueeze", 11).ints("axes", &[0, 2]);
    assert_eq!(old.run(&[counting(&[2])])[0].shape(), [1, 2, 1]);
}

/// Sizes that must be equal become one: of two symbols, or of a symbol and a number.
#[test]
fn sizes_that_must_be_equal_are() {
    let net = Net::new(13, "x: f32[T, 2]\n w: f32[U, 2]\n y = Add(x, w)\n return y");
    assert_eq!(net.result(&[counting(&[2, 2]), counting(&[2, 2])]).1, [0.0, 2.0, 4.0, 6.0]);
    let options = ImportOptions::default();
    assert!(net.attempt(&options, &[counting(&[2, 2]), counting(&[3, 2])]).is_err());
    let net = Net::new(13, "x: f32[T]\n w: f32[3]\n y = Mul(x, w)\n return y");
    assert_eq!(net.result(&[counting(&[3]), counting(&[3])]).1, [0.0, 1.0, 4.0]);
    assert!(net.attempt(&options, &[counting(&[2]), counting(&[3])]).is_err());
    let net = Net::new(13, "x: f32[T]\n w: f32[U]\n z = Concat(x, x) axis=0\n y = Sub(z, w)\n return y");
    assert_eq!(net.result(&[counting(&[1]), counting(&[2])]).1, [0.0, -1.0]);
    let net = Net::new(13, "x: f32[2, T]\n w: f32[3, T]\n y = Mul(x, w)\n return y");
    assert_says(&net.refusal(), &["node `y` (Mul, opset 13)", "sizes 2 and 3 differ"]);
    let net = Net::new(
        13,
        "x: f32[T]\n a = Concat(x, x) axis=0\n b = Concat(a, x) axis=0\n y = Add(a, b)\n return y",
    );
    assert_says(&net.refusal(), &["sizes 2*T and 3*T must be equal"]);
}

#[test]
fn values_of_inputs_are_compiled_in_where_they_are_needed() {
    let net = Net::new(13, "x: f32[T, 2]\n shape: i64[2]\n y = Reshape(x, shape)\n return y");
    assert_says(
        &net.refusal(),
        &["node `y` (Reshape, opset 13)", "target shape", "input `shape`", "--inputs"],
    );
    let x = counting(&[3, 2]);
    let options = with_values(&[("shape", i64s(&[2], &[2, -1])), ("x", x.clone())]);
    let imported = net.attempt(&options, &[x]).expect("it is known");
    assert_eq!(imported[0].shape(), [2, 3]);
    // What is computed from two inputs needs both of them.
    let text = "x: f32[T]\n a: i64[1]\n b: i64[1]\n s = Add(a, b)\n y = Expand(x, s)\n return y";
    assert_says(&Net::new(13, text).refusal(), &["input `a`, `b`"]);
    let options = with_values(&[("a", i64s(&[1], &[1])), ("b", i64s(&[1], &[2]))]);
    let got = Net::new(13, text).attempt(&options, &[counting(&[3])]).expect("both are known");
    assert_eq!(got[0].to_f64(), [0.0, 1.0, 2.0]);
}

#[test]
fn a_target_that_data_decide_is_refused() {
    let text = "x: f32[T]\n n = ReduceSum(x) keepdims=1\n m = Cast(n) to=7\n y = Reshape(x, m)\n return y";
    assert_says(&Net::new(13, text).refusal(), &["node `y`", "the target shape", "input `x`", "--inputs"]);
}

#[test]
fn dimensions_that_must_be_numbers_are_asked_for() {
    let text = "x: f32[T, 3]\n s = [2, -1]\n y = Reshape(x, s)\n return y";
    let net = Net::new(13, text);
    assert_says(&net.refusal(), &["node `y` (Reshape, opset 13)", "-1 in the target", "--dim T=N"]);
    let got = net.attempt(&with_dims(&[("T", 4)]), &[counting(&[4, 3])]).expect("it divides");
    assert_eq!(got[0].shape(), [2, 6]);
    // What inputs are given tells dimensions too.
    let got = net.attempt(&with_values(&[("x", counting(&[2, 3]))]), &[counting(&[2, 3])]);
    assert_eq!(got.expect("it divides")[0].shape(), [2, 3]);
    let odd = net.attempt(&with_dims(&[("T", 3)]), &[counting(&[3, 3])]).expect_err("9 is odd");
    assert_says(&odd, &["9 elements do not divide by 2"]);
    let net = Net::new(13, "x: f32[T, B]\n y = Squeeze(x)\n return y");
    assert_says(&net.refusal(), &["node `y` (Squeeze", "size 1", "--dim"]);
}

#[test]
fn what_is_no_shape_is_refused() {
    let refusal = |text: &str| Net::new(13, text).refusal();
    let reshape = |s: &str| refusal(&format!("x: f32[T, 3]\n s = {s}\n y = Reshape(x, s)\n return y"));
    assert_says(&reshape("[-1, -1]"), &["node `y`", "more than one -1"]);
    assert_says(&reshape("[-2, 3]"), &["node `y`", "the dimension -2"]);
    assert_says(&reshape("[-1, 3, 0]"), &["node `y`", "keeps axis 2"]);
    assert_says(&reshape("[5, 7]"), &["must be equal"]);
    let float = "x: f32[T, 3]\n s = 3.5\n y = Reshape(x, s)\n return y";
    assert_says(&refusal(float), &["node `y`", "the target shape"]);
    assert_says(&refusal("x: f32[T]\n y = Flatten(x) axis=2\n return y"), &["axis 2 is out of range"]);
    let twice = "x: f32[T]\n a = [0, 0]\n y = Unsqueeze(x, a)\n return y";
    assert_says(&refusal(twice), &["name an axis twice"]);
    assert_says(&refusal("x: f32[T]\n y = Unsqueeze(x)\n return y"), &["node `y`", "the axes are missing"]);
    let wide = "x: f32[2, T]\n a = [0]\n y = Squeeze(x, a)\n return y";
    assert_says(&refusal(wide), &["node `y`", "sizes 2 and 1 differ"]);
}
