//! Padding, and what orders, joins, parts, repeats and makes elements.

use super::net::{Net, assert_says, counting, with_dims};
use super::*;

#[test]
fn pads_by_mode() {
    let pad = |mode: &str, pads: &[i64]| {
        let model = Model::new("Pad", 19).string("mode", mode);
        model.values(&[counting(&[4]), i64s(&[2], pads)])
    };
    assert_eq!(pad("constant", &[1, 2]), [0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    assert_eq!(pad("constant", &[-1, 1]), [1.0, 2.0, 3.0, 0.0]);
    assert_eq!(pad("reflect", &[2, 3]), [2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0]);
    assert_eq!(pad("edge", &[2, -1]), [0.0, 0.0, 0.0, 1.0, 2.0]);
    assert_eq!(pad("wrap", &[1, 5]), [3.0, 0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
}

/// Causal padding of a symbolic number of steps, and as many as a kernel needs.
#[test]
fn pads_of_symbolic_extents() {
    let net = Net::new(
        18,
        "x: f32[T, B]
         v: f32[]
         n = Shape(x) end=1
         none = [0]
         one = [1]
         before = Sub(n, one)
         pads = Concat(before, none) axis=0
         axes = [0]
         y = Pad(x, pads, v, axes)
         edges = [1, 1]
         w = Pad(x, edges, , axes) mode=edge
         return y, w",
    );
    let inputs = [counting(&[2, 1]), f32s(&[], &[7.0])];
    let got = net.run(&inputs);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[3, 1][..], vec![7.0, 0.0, 1.0]));
    assert_eq!(got[1].to_f64(), [0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn pads_were_attributes_before_opset_11() {
    let model = Model::new("Pad", 10).ints("pads", &[0, 1, 0, 0]).float("value", 5.0);
    assert_eq!(model.values(&[counting(&[2, 1])]), [5.0, 0.0, 5.0, 1.0]);
}

#[test]
fn centres_are_cropped_and_padded() {
    let model = Model::new("CenterCropPad", 18).ints("axes", &[0]).stored(1);
    assert_eq!(model.values(&[counting(&[4]), i64s(&[1], &[7])]), [0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0][..7]);
    assert_eq!(model.values(&[counting(&[5]), i64s(&[1], &[2])]), [1.0, 2.0]);
    let net = Net::new(18, "x: f32[T]\n s = [3]\n y = CenterCropPad(x, s)\n return y");
    assert_says(&net.refusal(), &["node `y` (CenterCropPad", "which of T and 3 is larger", "--dim T=N"]);
    let got = net.attempt(&with_dims(&[("T", 5)]), &[counting(&[5])]).expect("it is known");
    assert_eq!(got[0].to_f64(), [1.0, 2.0, 3.0]);
}

#[test]
fn parts_of_equal_and_of_given_sizes() {
    let equal = Model::new("Split", 13).outputs(2).int("axis", 1).run(&[counting(&[2, 4])]);
    assert_eq!((equal[0].to_f64(), equal[1].shape()), (vec![0.0, 1.0, 4.0, 5.0], &[2, 2][..]));
    let smaller = Model::new("Split", 18).outputs(3).int("num_outputs", 3).run(&[counting(&[7])]);
    assert_eq!((smaller[1].to_f64(), smaller[2].to_f64()), (vec![3.0, 4.0, 5.0], vec![6.0]));
    let old = Model::new("Split", 11).outputs(2).ints("split", &[1, 2]).run(&[counting(&[3])]);
    assert_eq!(old[1].to_f64(), [1.0, 2.0]);
    let refusal = Model::new("Split", 13).outputs(2).attempt(&[counting(&[7])]).expect_err("7 is odd");
    assert_says(&refusal, &["node `y0` (Split, opset 13)", "7 positions do not divide into 2 parts"]);
}

#[test]
fn parts_of_symbolic_extents() {
    let net = Net::new(
        18,
        "x: f32[T, B]
         n = Shape(x) end=1
         one = [1]
         rest = Sub(n, one)
         sizes = Concat(one, rest) axis=0
         y, z = Split(x, sizes)
         both = Concat(z, y) axis=0
         return y, z, both",
    );
    let got = net.run(&[counting(&[3, 1])]);
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![0.0], vec![1.0, 2.0]));
    assert_eq!(got[2].to_f64(), [1.0, 2.0, 0.0]);
    let net = Net::new(18, "x: f32[T]\n y, z = Split(x) num_outputs=2\n return y, z");
    assert_says(&net.refusal(), &["node `y` (Split", "whether T divides by 2", "--dim T=N"]);
    let got = net.attempt(&with_dims(&[("T", 3)]), &[counting(&[3])]).expect("it is known");
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![0.0, 1.0], vec![2.0]));
}

#[test]
fn transposed_and_tiled_and_expanded() {
    let net = Net::new(
        13,
        "x: f32[T, 2]
         h: f32[1, B]
         y = Transpose(x)
         z = Transpose(x) perm=[1,0]
         twice = [2, 1]
         tiled = Tile(x, twice)
         n = Shape(x)
         zero = 0
         t = Gather(n, zero)
         axes = [0]
         t1 = Unsqueeze(t, axes)
         one = [1]
         times = Concat(t1, one) axis=0
         column = Tile(h, times)
         three = [3, 1, 1]
         big = Expand(x, three)
         return y, z, tiled, column, big",
    );
    let got = net.run(&[counting(&[3, 2]), counting(&[1, 2])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 3][..], vec![0.0, 2.0, 4.0, 1.0, 3.0, 5.0]));
    assert_eq!(got[1].to_f64(), got[0].to_f64());
    assert_eq!(got[2].to_f64(), [counting(&[6]).to_f64(), counting(&[6]).to_f64()].concat());
    assert_eq!((got[3].shape(), got[3].to_f64()), (&[3, 2][..], vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
    assert_eq!(got[4].shape(), [3, 3, 2]);
}

#[test]
fn blocks_become_depth_and_back() {
    let x = counting(&[1, 8, 2, 3]);
    for mode in ["DCR", "CRD"] {
        let there = Model::new("DepthToSpace", 13).int("blocksize", 2).string("mode", mode);
        let y = there.run(std::slice::from_ref(&x)).swap_remove(0);
        assert_eq!(y.shape(), [1, 2, 4, 6]);
        let at = |n: usize| y.to_f64()[n];
        // [0, 0, 0, 1] is of the second position of a block.
        assert_eq!(at(1), if mode == "DCR" { 12.0 } else { 6.0 });
    }
    let dcr = Model::new("DepthToSpace", 13).int("blocksize", 2);
    let y = dcr.run(std::slice::from_ref(&x));
    assert_eq!(Model::new("SpaceToDepth", 13).int("blocksize", 2).values(&y), x.to_f64());
    let refusal = Model::new("DepthToSpace", 13).int("blocksize", 3).attempt(&[x]).expect_err("8 channels");
    assert_says(&refusal, &["node `y0` (DepthToSpace", "8 channels do not divide into blocks of 3 by 3"]);
}

#[test]
fn ranges_to_symbols() {
    let net = Net::new(
        11,
        "x: f32[T]
         n = Shape(x)
         t = Squeeze(n)
         zero = 0
         two = 2
         back = -2
         y = Range(zero, t, two)
         z = Range(t, zero, back)
         return y, z",
    );
    for t in 1..6 {
        let got = net.run(&[counting(&[t])]);
        let forwards: Vec<f64> = (0..t).step_by(2).map(|v| v as f64).collect();
        let backwards: Vec<f64> = (1..=t).rev().step_by(2).map(|v| v as f64).collect();
        assert_eq!((got[0].to_f64(), got[1].to_f64()), (forwards, backwards));
    }
}

#[test]
fn ranges_of_numbers() {
    let range = |bounds: [f32; 3]| Model::new("Range", 11).attempt(&bounds.map(|v| f32s(&[], &[v])));
    let values = |bounds: [f32; 3]| range(bounds).expect("a range")[0].to_f64();
    assert_eq!(values([1.0, 2.0, 0.25]), [1.0, 1.25, 1.5, 1.75]);
    assert_eq!(values([1.0, 0.0, -0.5]), [1.0, 0.5]);
    assert_eq!(values([1.0, 0.0, 0.5]), [] as [f64; 0]);
    assert_says(&range([0.0, 1.0, 0.0]).expect_err("step 0"), &["node `y0` (Range", "is no range"]);
    let text = "x: f32[T]\n e: i64[]\n s = 0\n d = 1\n y = Range(s, e, d)\n return y";
    assert_says(&Net::new(11, text).refusal(), &["node `y`", "the limit", "input `e`", "--inputs"]);
}

#[test]
fn constants_of_computed_shapes() {
    let net = Net::new(
        20,
        "x: f32[T, B]
         n = Shape(x)
         zeros = ConstantOfShape(n)
         two = [2]
         m = Concat(two, n) axis=0
         sevens = ConstantOfShape(m)
         none = [0]
         empty = ConstantOfShape(none)
         return zeros, sevens, empty",
    )
    .tensor("sevens", "value", &i64s(&[1], &[7]));
    let got = net.run(&[counting(&[1, 2])]);
    assert_eq!((got[0].dtype(), got[0].to_f64()), (DType::F32, vec![0.0, 0.0]));
    assert_eq!((got[1].dtype(), got[1].shape()), (DType::I64, &[2, 1, 2][..]));
    assert_eq!((got[1].to_f64(), got[2].shape()), (vec![7.0; 4], &[0][..]));
}

#[test]
fn diagonals_and_triangles() {
    let net = Net::new(
        14,
        "x: f32[T, T]
         k = 1
         upper = Trilu(x)
         above = Trilu(x, k)
         lower = Trilu(x) upper=0
         eye = EyeLike(x) k=-1 dtype=7
         return upper, above, lower, eye",
    );
    let got: Vec<Vec<f64>> = net.run(&[counting(&[2, 2])]).iter().map(HostTensor::to_f64).collect();
    let expected: [[f64; 4]; 4] =
        [[0.0, 1.0, 0.0, 3.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 1.0, 0.0]];
    assert_eq!(got, expected);
}

#[test]
fn what_does_not_fit_is_refused() {
    let refusal = |text: &str| Net::new(18, text).refusal();
    let pad = |rest: &str| refusal(&format!("x: f32[T, 2]\n p = [1, 1]\n y = Pad(x, p){rest}\n return y"));
    assert_says(&pad(""), &["node `y` (Pad, opset 18)", "2 pads do not fit 2 axes"]);
    let mode = refusal("x: f32[T]\n p = [1, 1]\n y = Pad(x, p) mode=mirror\n return y");
    assert_says(&mode, &["mode `mirror` is none of constant, reflect, edge and wrap"]);
    let perm = refusal("x: f32[T, 2]\n y = Transpose(x) perm=[1]\n return y");
    assert_says(&perm, &["[1] does not order all axes"]);
    let join = refusal("x: f32[T, 2]\n w: f32[2]\n y = Concat(x, w) axis=0\n return y");
    assert_says(&join, &["node `y`", "differ in rank"]);
    let axis = refusal("x: f32[T, 2]\n y = Concat(x, x)\n return y");
    assert_says(&axis, &["attribute `axis` is missing"]);
    let tile = refusal("x: f32[T, 2]\n r = [2]\n y = Tile(x, r)\n return y");
    assert_says(&tile, &["1 repeats do not fit the axes"]);
    let negative = refusal("x: f32[T]\n r = [-2]\n y = Tile(x, r)\n return y");
    assert_says(&negative, &["-2 repeats are none"]);
    let expand = refusal("x: f32[T, 2]\n s = [3]\n y = Expand(x, s)\n return y");
    assert_says(&expand, &["node `y`", "sizes 2 and 3 differ"]);
    let eye = refusal("x: f32[T]\n y = EyeLike(x)\n return y");
    assert_says(&eye, &["node `y`", "no matrix"]);
    let range = refusal("x: f32[T]\n a = 0\n y = Range(a, a, a)\n return y");
    assert_says(&range, &["node `y`", "the step is 0"]);
}
