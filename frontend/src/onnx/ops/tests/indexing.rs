//! Operators that read, write and choose elements by indices, against loops.

use super::net::{Net, Random, assert_says, counting};
use super::*;

#[test]
fn entries_are_read_where_indices_say() {
    let x = counting(&[3, 2]);
    let gather = |axis: i64, indices: HostTensor| {
        Model::new("Gather", 13).int("axis", axis).run(&[x.clone(), indices]).swap_remove(0)
    };
    let rows = gather(0, i64s(&[2, 1], &[-1, 0]));
    assert_eq!((rows.shape(), rows.to_f64()), (&[2, 1, 2][..], vec![4.0, 5.0, 0.0, 1.0]));
    let column = gather(-1, i32s(&[], &[1]));
    assert_eq!((column.shape(), column.to_f64()), (&[3][..], vec![1.0, 3.0, 5.0]));
}

/// The last step of a symbolic number, an embedding, and the step that an input names.
#[test]
fn entries_of_symbolic_axes() {
    let net = Net::new(
        13,
        "x: f32[T, B]
         ids: i64[B, S]
         step: i64[]
         last = -1
         y = Gather(x, last)
         z = Gather(x, ids)
         w = Gather(x, step) axis=0
         n = Shape(z)
         return y, z, w, n",
    );
    let got = net.run(&[counting(&[3, 2]), i64s(&[2, 1], &[-3, 2]), i64s(&[], &[-2])]);
    let values: Vec<Vec<f64>> = got.iter().map(HostTensor::to_f64).collect();
    let expected: [&[f64]; 4] = [&[4.0, 5.0], &[0.0, 1.0, 4.0, 5.0], &[2.0, 3.0], &[2.0, 1.0, 2.0]];
    assert_eq!(values, expected);
}

/// The coordinates of a row-major position.
fn coordinates(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut out = vec![0; shape.len()];
    for (c, n) in out.iter_mut().zip(shape).rev() {
        *c = position % n;
        position /= n;
    }
    out
}

/// The row-major position of coordinates.
fn position(coordinates: &[usize], shape: &[usize]) -> usize {
    coordinates.iter().zip(shape).fold(0, |p, (c, n)| p * n + c)
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A shape of one to three axes, and one that is no larger along each.
fn shapes(random: &mut Random) -> (Vec<usize>, Vec<usize>) {
    let rank = random.within(1, 3);
    let whole: Vec<usize> = (0..rank).map(|_| random.within(1, 4) as usize).collect();
    let part = whole.iter().map(|n| random.within(1, *n as i64) as usize).collect();
    (whole, part)
}

fn from_start(index: i64, extent: usize) -> usize {
    (if index < 0 { index + extent as i64 } else { index }) as usize
}

#[test]
fn single_elements_are_read_and_written() {
    let mut random = Random(3);
    for round in 0..60 {
        let (shape, mut part) = shapes(&mut random);
        let axis = random.within(0, shape.len() as i64 - 1) as usize;
        // Along the axis there may be more indices than entries.
        part[axis] = random.within(1, 6) as usize;
        let (x, updates) = (random.tensor(&shape), random.tensor(&part));
        let extent = shape[axis] as i64;
        let indices: Vec<i64> = (0..elements(&part)).map(|_| random.within(-extent, extent - 1)).collect();
        let host = i64s(&part, &indices);
        let place = |p: usize| {
            let mut c = coordinates(p, &part);
            c[axis] = from_start(indices[p], shape[axis]);
            position(&c, &shape)
        };
        let read: Vec<f64> = (0..indices.len()).map(|p| x.to_f64()[place(p)]).collect();
        let model = Model::new("GatherElements", 13).int("axis", axis as i64);
        assert_eq!(model.values(&[x.clone(), host.clone()]), read);
        for (reduction, combine) in REDUCTIONS {
            let mut expected = x.to_f64();
            for (p, update) in updates.to_f64().iter().enumerate() {
                expected[place(p)] = combine(expected[place(p)], *update);
            }
            let model =
                Model::new("ScatterElements", 18).int("axis", axis as i64).string("reduction", reduction);
            let got = model.values(&[x.clone(), host.clone(), updates.clone()]);
            assert_eq!(got, expected, "round {round}, {reduction}");
        }
    }
}

type Combine = fn(f64, f64) -> f64;

/// How updates combine with what is there.
const REDUCTIONS: [(&str, Combine); 5] =
    [("none", |_, b| b), ("add", |a, b| a + b), ("mul", |a, b| a * b), ("max", f64::max), ("min", f64::min)];

#[test]
fn rows_are_read_and_written() {
    let mut random = Random(4);
    for round in 0..60 {
        let (shape, _) = shapes(&mut random);
        let named = random.within(1, shape.len() as i64) as usize;
        let count = random.within(0, 5) as usize;
        let inner = &shape[named..];
        let x = random.tensor(&shape);
        let updates = random.tensor(&[&[count], inner].concat());
        let mut indices = Vec::new();
        for _ in 0..count {
            indices.extend(shape[..named].iter().map(|n| random.within(-(*n as i64), *n as i64 - 1)));
        }
        let host = i64s(&[count, named], &indices);
        let row = |u: usize| {
            let own = &indices[u * named..(u + 1) * named];
            let c: Vec<usize> = own.iter().zip(&shape).map(|(i, n)| from_start(*i, *n)).collect();
            position(&c, &shape[..named]) * elements(inner)
        };
        let values = x.to_f64();
        let read: Vec<f64> =
            (0..count).flat_map(|u| values[row(u)..row(u) + elements(inner)].to_vec()).collect();
        assert_eq!(Model::new("GatherND", 13).values(&[x.clone(), host.clone()]), read);
        for (reduction, combine) in REDUCTIONS {
            let mut expected = values.clone();
            for u in 0..count {
                for k in 0..elements(inner) {
                    let update = updates.to_f64()[u * elements(inner) + k];
                    expected[row(u) + k] = combine(expected[row(u) + k], update);
                }
            }
            let model = Model::new("ScatterND", 18).string("reduction", reduction);
            let got = model.values(&[x.clone(), host.clone(), updates.clone()]);
            assert_eq!(got, expected, "round {round}, {reduction}");
        }
    }
}

#[test]
fn rows_of_a_batch_are_read() {
    let net = Net::new(
        12,
        "x: f32[B, T, 2]
         i: i64[B, 1]
         y = GatherND(x, i) batch_dims=1
         return y",
    );
    let got = net.result(&[counting(&[2, 3, 2]), i64s(&[2, 1], &[1, -1])]);
    assert_eq!(got, (vec![2, 2], vec![2.0, 3.0, 10.0, 11.0]));
}

/// A row of a cache of symbolic length is written.
#[test]
fn entries_of_symbolic_axes_are_written() {
    let net = Net::new(
        18,
        "x: f32[T, B]
         i: i64[S, 1]
         u: f32[S, B]
         y = ScatterND(x, i, u)
         j: i64[1, B]
         v: f32[1, B]
         z = ScatterElements(x, j, v) axis=0
         return y, z",
    );
    let inputs = [
        counting(&[3, 2]),
        i64s(&[2, 1], &[-1, 0]),
        f32s(&[2, 2], &[10.0, 11.0, 12.0, 13.0]),
        i64s(&[1, 2], &[2, 0]),
        f32s(&[1, 2], &[20.0, 21.0]),
    ];
    let got = net.run(&inputs);
    assert_eq!(got[0].to_f64(), [12.0, 13.0, 2.0, 3.0, 10.0, 11.0]);
    assert_eq!(got[1].to_f64(), [0.0, 21.0, 2.0, 3.0, 20.0, 5.0]);
}

#[test]
fn the_largest_are_those_of_a_sort() {
    let mut random = Random(5);
    for _ in 0..60 {
        let (rows, n) = (random.within(1, 3) as usize, random.within(1, 8) as usize);
        let k = random.within(0, n as i64) as usize;
        let x = random.tensor(&[rows, n]);
        for largest in [true, false] {
            let (mut values, mut indices) = (Vec::new(), Vec::new());
            for row in x.to_f64().chunks(n) {
                let mut order: Vec<usize> = (0..n).collect();
                // Stable, so that of equals the first is taken.
                order.sort_by(|a, b| {
                    let (a, b) = if largest { (b, a) } else { (a, b) };
                    row[*a].total_cmp(&row[*b])
                });
                values.extend(order[..k].iter().map(|i| row[*i]));
                indices.extend(order[..k].iter().map(|i| *i as f64));
            }
            let model = Model::new("TopK", 11).outputs(2).int("largest", i64::from(largest));
            let got = model.run(&[x.clone(), i64s(&[1], &[k as i64])]);
            assert_eq!((got[0].to_f64(), got[1].to_f64()), (values, indices));
        }
    }
    let with_nan = f32s(&[6], &[1.0, f32::NAN, 3.0, 2.0, f32::NAN, 0.0]);
    for (largest, order) in [(1, [1.0, 4.0, 2.0, 3.0, 0.0]), (0, [5.0, 0.0, 3.0, 2.0, 1.0])] {
        let model = Model::new("TopK", 11).outputs(2).int("largest", largest);
        assert_eq!(model.run(&[with_nan.clone(), i64s(&[1], &[5])])[1].to_f64(), order);
    }
    let net = Net::new(
        11,
        "x: f32[T, 2]\n n = Shape(x) \n m = [0]\n t = Gather(n, m)\n y, i = TopK(x, t) axis=0\n return y",
    );
    assert_eq!(net.result(&[counting(&[3, 2])]).1, [4.0, 5.0, 2.0, 3.0, 0.0, 1.0]);
    let old = Model::new("TopK", 7).outputs(2).int("k", 1).run(&[counting(&[2, 2])]);
    assert_eq!((old[0].to_f64(), old[1].to_f64()), (vec![1.0, 3.0], vec![1.0, 1.0]));
}

#[test]
fn selections_of_known_conditions() {
    let c = bools(&[2], &[true, true]);
    let net = Net::new(11, "x: f32[T, 3]\n y = Compress(x, c) axis=1\n z = NonZero(c)\n return y, z")
        .stored("c", &c);
    let got = net.run(&[counting(&[2, 3])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 2][..], vec![0.0, 1.0, 3.0, 4.0]));
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[1, 2][..], vec![0.0, 1.0]));
    let text = "x: f32[T, 3]\n c: bool[3]\n y = Compress(x, c)\n return y";
    assert_says(&Net::new(11, text).refusal(), &["node `y` (Compress", "the condition", "`c`", "--inputs"]);
    let text = "x: f32[T]\n y = NonZero(x)\n return y";
    assert_says(&Net::new(13, text).refusal(), &["node `y` (NonZero", "the input must be known", "`x`"]);
}

#[test]
fn distinct_elements_with_their_places() {
    let unique = |sorted: i64| {
        let model = Model::new("Unique", 11).outputs(4).int("sorted", sorted);
        let got = model.run(&[i64s(&[5], &[3, 1, 3, 2, 1])]);
        got.iter().map(HostTensor::to_f64).collect::<Vec<_>>()
    };
    let expected =
        [[1.0, 2.0, 3.0].to_vec(), vec![1.0, 3.0, 0.0], vec![2.0, 0.0, 2.0, 1.0, 0.0], vec![2.0, 1.0, 2.0]];
    assert_eq!(unique(1), expected);
    let expected =
        [[3.0, 1.0, 2.0].to_vec(), vec![0.0, 1.0, 3.0], vec![0.0, 1.0, 0.0, 2.0, 1.0], vec![2.0, 2.0, 1.0]];
    assert_eq!(unique(0), expected);
    let rows = Model::new("Unique", 11).outputs(2).int("axis", 0).run(&[i64s(&[3, 2], &[2, 1, 0, 5, 2, 1])]);
    assert_eq!((rows[0].to_f64(), rows[1].to_f64()), (vec![0.0, 5.0, 2.0, 1.0], vec![1.0, 0.0]));
}

#[test]
fn one_is_hot() {
    let net = Net::new(
        11,
        "i: i64[T]
         x: f32[B]
         b = Size(x)
         y = OneHot(i, b, x) axis=0
         return y",
    );
    let got = net.result(&[i64s(&[3], &[1, -1, 7]), f32s(&[2], &[-1.0, 5.0])]);
    assert_eq!(got, (vec![2, 3], vec![-1.0, -1.0, -1.0, 5.0, 5.0, -1.0]));
}

#[test]
fn sequences_of_lengths_are_reversed() {
    let net = Net::new(10, "x: f32[T, B]\n n: i64[B]\n y = ReverseSequence(x, n)\n return y");
    let got = net.result(&[counting(&[3, 2]), i64s(&[2], &[2, 3])]);
    assert_eq!(got.1, [2.0, 5.0, 0.0, 3.0, 4.0, 1.0]);
    let model = Model::new("ReverseSequence", 10).int("time_axis", 1).int("batch_axis", 0);
    assert_eq!(model.values(&[counting(&[2, 2]), i64s(&[2], &[1, 2])]), [0.0, 1.0, 3.0, 2.0]);
}

#[test]
fn caches_are_written_from_a_position() {
    let net = Net::new(
        24,
        "cache: f32[B, T, 1]
         new: f32[B, S, 1]
         at: i64[B]
         y = TensorScatter(cache, new, at)
         z = TensorScatter(cache, new, at) mode=circular
         return y, z",
    );
    let new = f32s(&[2, 2, 1], &[10.0, 11.0, 12.0, 13.0]);
    let got = net.run(&[counting(&[2, 3, 1]), new.clone(), i64s(&[2], &[1, 0])]);
    assert_eq!(got[0].to_f64(), [0.0, 10.0, 11.0, 12.0, 13.0, 5.0]);
    let got = net.run(&[counting(&[2, 3, 1]), new, i64s(&[2], &[2, 1])]);
    assert_eq!(got[1].to_f64(), [11.0, 1.0, 10.0, 3.0, 12.0, 13.0]);
}

#[test]
fn indices_that_do_not_fit_are_refused() {
    let refusal = |text: &str| Net::new(18, text).refusal();
    let float = refusal("x: f32[T]\n i: f32[2]\n y = Gather(x, i)\n return y");
    assert_says(&float, &["node `y` (Gather, opset 18)", "its indices are f32; integers are needed"]);
    let rank = refusal("x: f32[T, 2]\n i: i64[2]\n y = GatherElements(x, i)\n return y");
    assert_says(&rank, &["node `y`", "they need the rank of"]);
    let many = refusal("x: f32[T]\n i: i64[2, 2]\n y = GatherND(x, i)\n return y");
    assert_says(&many, &["node `y`", "must be a known number of axes"]);
    let open = refusal("x: f32[T]\n i: i64[2, Q]\n y = GatherND(x, i)\n return y");
    assert_says(&open, &["node `y`", "must be a known number of axes"]);
    let batch = refusal("x: f32[T]\n i: i64[T, 1]\n y = GatherND(x, i) batch_dims=1\n return y");
    assert_says(&batch, &["1 axes of a batch are too many"]);
    let updates = refusal("x: f32[T]\n i: i64[2]\n u: i64[2]\n y = ScatterElements(x, i, u)\n return y");
    assert_says(&updates, &["node `y`", "do not fit data"]);
    let reduction =
        "x: f32[T]\n i: i64[2]\n u: f32[2]\n y = ScatterElements(x, i, u) reduction=xor\n return y";
    assert_says(&refusal(reduction), &["attribute `reduction` is `xor`"]);
    let hot = refusal("i: i64[T]\n d: i64[]\n v: f32[2]\n y = OneHot(i, d, v)\n return y");
    assert_says(&hot, &["node `y` (OneHot", "the depth", "input `d`", "--inputs"]);
    let same = "x: f32[T, 2]\n n: i64[2]\n y = ReverseSequence(x, n) time_axis=1\n return y";
    assert_says(&refusal(same), &["the axes of time and batch are the same"]);
}
