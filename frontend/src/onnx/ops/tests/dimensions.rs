//! Arithmetic of dimensions, and nodes that are computed while the model is imported.

use super::net::{Net, assert_says, counting};
use super::*;

/// What a model computes from the extents `t` and `b` of `x: f32[T, B]`, both scalars.
fn of_extents(lines: &str, result: &str) -> Net {
    let text = format!(
        "x: f32[T, B]
         n = Shape(x)
         zero = 0
         one = 1
         t = Gather(n, zero)
         b = Gather(n, one)
         {lines}
         return {result}"
    );
    Net::new(18, &text)
}

/// The first element of each result.
#[track_caller]
fn integers(net: &Net, t: usize, b: usize) -> Vec<i64> {
    let results = net.run(&[counting(&[t, b])]);
    results.iter().map(|r| r.get(0).expect("there is an element").as_i64()).collect()
}

#[test]
fn integers_are_computed_from_extents() {
    let net = of_extents(
        "three = 3
         sum = Add(t, b)
         product = Mul(t, b)
         quotient = Div(product, three)
         exact = Div(product, b)
         rest = Mod(sum, three)
         least = Min(t, b, three)
         most = Max(t, b)",
        "sum, product, quotient, exact, rest, least, most",
    );
    assert_eq!(integers(&net, 4, 2), [6, 8, 2, 4, 0, 2, 4]);
    assert_eq!(integers(&net, 7, 5), [12, 35, 11, 7, 0, 3, 7]);
}

/// Truncated towards zero, though a dimension that could be negative is divided.
#[test]
fn negative_differences_are_divided_towards_zero() {
    let net = of_extents(
        "two = 2
         less = Sub(t, b)
         y = Div(less, two)
         z = Mod(less, two)
         three = -3
         minus = Mul(t, three)
         w = Div(minus, two)",
        "y, z, w",
    );
    assert_eq!(integers(&net, 2, 5), [-1, 1, -3]);
    assert_eq!(integers(&net, 5, 2), [1, 1, -7]);
}

#[test]
fn extents_are_compared() {
    let net = of_extents(
        "a = Equal(t, b)
         c = Less(t, b)
         d = LessOrEqual(t, b)
         e = Greater(t, b)
         f = GreaterOrEqual(t, b)
         g = Not(a)
         h = And(d, g)
         i = Or(a, e)
         j = And(c, e)
         k = Xor(c, e)
         l = Not(i)",
        "a, c, d, e, f, g, h, i, j, k, l",
    );
    assert_eq!(integers(&net, 2, 2), [1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0]);
    assert_eq!(integers(&net, 2, 3), [0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(integers(&net, 3, 2), [0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0]);
}

#[test]
fn extents_are_chosen_between() {
    let net = of_extents(
        "seven = 7
         is_long = Greater(t, seven)
         a = Where(is_long, t, seven)
         pair = [1, -1]
         ones = [-1, -1]
         chosen = Equal(pair, ones)
         c = Where(chosen, n, pair)
         last = [1]
         d = Gather(c, last)
         minus = -1
         never = Equal(t, minus)
         e = Where(never, seven, b)",
        "a, d, e, c",
    );
    assert_eq!(integers(&net, 3, 4), [7, 4, 4, 1]);
    assert_eq!(integers(&net, 9, 2), [9, 2, 2, 1]);
}

/// `Expand` as PyTorch exports it: -1 keeps an extent.
#[test]
fn a_computed_target_keeps_what_is_minus_one() {
    let net = Net::new(
        13,
        "x: f32[1, B]
         y: f32[T]
         t = Shape(y)
         minus = [-1]
         wanted = Concat(t, minus) axis=0
         none = [-1, -1]
         open = Equal(wanted, none)
         ones = [1, 1]
         target = Where(open, ones, wanted)
         z = Expand(x, target)
         return z",
    );
    let got = net.result(&[counting(&[1, 2]), counting(&[3])]);
    assert_eq!(got, (vec![3, 2], vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
}

#[test]
fn extents_are_converted() {
    let net = of_extents(
        "f = Cast(t) to=1
         half = 0.5
         g = Mul(f, half)
         narrow = Cast(t) to=6
         wide = Cast(narrow) to=7
         whole = Cast(f) to=7
         flag = Cast(t) to=9
         equal = Equal(t, b)
         number = Cast(equal) to=7
         root = Sqrt(f)",
        "f, g, wide, whole, flag, number, root",
    );
    let got = net.run(&[counting(&[9, 2])]);
    let first: Vec<f64> = got.iter().map(|r| r.to_f64()[0]).collect();
    assert_eq!(first, [9.0, 4.5, 9.0, 9.0, 1.0, 0.0, 3.0]);
    let dtypes: Vec<DType> = got.iter().map(HostTensor::dtype).collect();
    let (f, i, b) = (DType::F32, DType::I64, DType::Bool);
    assert_eq!(dtypes, [f, f, i, i, b, i, f]);
}

/// Half of an extent by way of floats: rounded down and up, and then a shape.
#[test]
fn whole_quotients_of_floats_are_shapes_only_where_they_are_exact() {
    let net = of_extents(
        "one_axis = [0]
         product = ReduceProd(n) keepdims=0
         total = ReduceSum(n, one_axis)
         flat = Unsqueeze(product, one_axis)
         y = Reshape(x, flat)
         many = Range(zero, product, one)",
        "product, total, y, many",
    );
    let got = net.run(&[counting(&[3, 2])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[][..], vec![6.0]));
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[1][..], vec![5.0]));
    assert_eq!((got[2].shape(), got[3].to_f64()), (&[6][..], counting(&[6]).to_f64()));
}

#[test]
fn extents_move() {
    let net = of_extents(
        "again = Concat(n, n) axis=0
         matrix = [2, -1]
         m = Reshape(again, matrix)
         turned = Transpose(m)
         row = Squeeze(n)
         starts = [3]
         ends = [-9]
         axes = [0]
         back = [-1]
         reversed = Slice(again, starts, ends, axes, back)
         first, second = Split(n)
         three = [3]
         tiled = Tile(first, three)
         big = [2, 2]
         spread = Expand(n, big)",
        "turned, reversed, second, tiled, spread, row",
    );
    let got: Vec<Vec<f64>> = net.run(&[counting(&[3, 2])]).iter().map(HostTensor::to_f64).collect();
    let expected: [&[f64]; 6] = [
        &[3.0, 3.0, 2.0, 2.0],
        &[2.0, 3.0, 2.0, 3.0],
        &[2.0],
        &[3.0, 3.0, 3.0],
        &[3.0, 2.0, 3.0, 2.0],
        &[3.0, 2.0],
    ];
    assert_eq!(got, expected);
}

#[test]
fn extents_are_operands_of_what_runs() {
    let net = of_extents(
        "f = Cast(t) to=1
         y = Div(x, f)
         sum = ReduceSum(y) keepdims=0",
        "sum, y",
    );
    let got = net.run(&[counting(&[2, 2])]);
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![3.0], vec![0.0, 0.5, 1.0, 1.5]));
}

#[test]
fn nodes_of_known_inputs_are_computed() {
    let net = Net::new(
        13,
        "x: f32[T, 4]
         a = [1, 2]
         b = [2, 1]
         c = Mul(a, b)
         m = [-1]
         t = Concat(m, c) axis=0
         n = Gather(t, m)
         three = [3]
         u = Pow(three, n)
         f = Cast(u) to=1
         g = Exp(f)
         h = Log(g)
         y = Reshape(x, t)
         return y, h",
    );
    let got = net.run(&[counting(&[3, 4])]);
    assert_eq!(got[0].shape(), [3, 2, 2]);
    assert_close(&got[1].to_f64(), &[9.0], 1e-6);
    // Nothing of it is left to run.
    let constant = Net::new(13, "a = [1, 2]\n b = [3, 4]\n y = Mul(a, b)\n return y");
    assert_eq!(constant.result(&[]), (vec![2], vec![3.0, 8.0]));
}

/// Too large to be computed by the import, so that it runs; what only names its shape is known all the same.
#[test]
fn large_constants_are_left_to_run() {
    let net = Net::new(
        13,
        "x: f32[T]
         big = [300, 300]
         c = ConstantOfShape(big)
         one = 1.0
         d = Add(c, one)
         n = Shape(d)
         s = ReduceSum(d) keepdims=0
         return n, s",
    );
    let got = net.run(&[counting(&[1])]);
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![300.0, 300.0], vec![90000.0]));
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let text = "x: f32[T]\n a = [1, 2]\n b = [1, 2, 3]\n y = Add(a, b)\n return y";
    assert_says(&Net::new(13, text).refusal(), &["node `y` (Add, opset 13)", "2", "3"]);
    let text = "x: f32[T]\n n = Shape(x)\n f = Cast(n) to=1\n y = Expand(x, f)\n return y";
    assert_says(&Net::new(13, text).refusal(), &["node `y`", "the shape are f32, not integers"]);
    let text = "x: f32[T]\n y = Add(x, z)\n z = Add(x, x)\n return y";
    assert_says(&Net::new(13, text).refusal(), &["`z` is not defined before", "not in order"]);
    let text = "x: f32[T]\n x = Add(x, x)\n return x";
    assert_says(&Net::new(13, text).refusal(), &["the name `x` is defined twice"]);
    let text = "x: f32[T]\n y = Add(x, x)\n return z";
    assert_says(&Net::new(13, text).refusal(), &["output `z`", "is not computed"]);
}
