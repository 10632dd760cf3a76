//! Convolutions and pooling, against loops over every position of every window.

use super::net::{Net, Random, assert_says, counting, with_dims};
use super::*;

/// How windows slide over one axis.
#[derive(Clone, Copy, Debug)]
struct Slide {
    kernel: usize,
    stride: usize,
    dilation: usize,
    pads: (usize, usize),
}

impl Slide {
    fn random(random: &mut Random) -> Slide {
        let mut of = |low: i64, high: i64| random.within(low, high) as usize;
        let kernel = of(1, 3);
        Slide {
            kernel,
            stride: of(1, 3),
            dilation: of(1, 2),
            pads: (of(0, kernel as i64 - 1), of(0, kernel as i64 - 1)),
        }
    }

    fn span(self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// The number of windows.
    fn count(self, extent: usize) -> usize {
        (extent + self.pads.0 + self.pads.1 - self.span()) / self.stride + 1
    }

    /// The position that a window reads, `None` in the padding.
    fn position(self, window: usize, offset: usize, extent: usize) -> Option<usize> {
        let at = (window * self.stride + offset * self.dilation).checked_sub(self.pads.0)?;
        (at < extent).then_some(at)
    }
}

fn windows(model: Model, slides: &[Slide]) -> Model {
    let of = |value: fn(&Slide) -> usize| slides.iter().map(|s| value(s) as i64).collect::<Vec<_>>();
    let pads = [of(|s| s.pads.0), of(|s| s.pads.1)].concat();
    model.ints("strides", &of(|s| s.stride)).ints("dilations", &of(|s| s.dilation)).ints("pads", &pads)
}

#[test]
fn convolutions_are_sums_over_windows() {
    let mut random = Random(11);
    for _ in 0..24 {
        let slides = [Slide::random(&mut random), Slide::random(&mut random)];
        let groups = random.within(1, 2) as usize;
        let (own, filters) = (random.within(1, 2) as usize, groups * random.within(1, 2) as usize);
        let (n, c) = (2, own * groups);
        let size = slides.map(|s| s.span() + random.within(0, 3) as usize);
        let kernel = slides.map(|s| s.kernel);
        let x = random.tensor(&[n, c, size[0], size[1]]);
        let w = random.tensor(&[filters, own, kernel[0], kernel[1]]);
        let bias = random.tensor(&[filters]);
        let out = [slides[0].count(size[0]), slides[1].count(size[1])];
        let (xs, ws, bs) = (x.to_f64(), w.to_f64(), bias.to_f64());
        let at = |b: usize, f: usize, i: usize, j: usize| {
            let mut sum = bs[f];
            for (q, k, l) in (0..own * kernel[0] * kernel[1])
                .map(|p| (p / kernel[1] / kernel[0], p / kernel[1] % kernel[0], p % kernel[1]))
            {
                let (row, column) = (slides[0].position(i, k, size[0]), slides[1].position(j, l, size[1]));
                if let (Some(row), Some(column)) = (row, column) {
                    let channel = f / (filters / groups) * own + q;
                    sum += xs[((b * c + channel) * size[0] + row) * size[1] + column]
                        * ws[((f * own + q) * kernel[0] + k) * kernel[1] + l];
                }
            }
            sum
        };
        let expected: Vec<f64> = (0..n * filters * out[0] * out[1])
            .map(|p| {
                let (rest, j) = (p / out[1], p % out[1]);
                let (rest, i) = (rest / out[0], rest % out[0]);
                at(rest / filters, rest % filters, i, j)
            })
            .collect();
        let model = windows(Model::new("Conv", 11).int("group", groups as i64), &slides);
        let got = model.run(&[x, w, bias]).swap_remove(0);
        assert_eq!(got.shape(), [n, filters, out[0], out[1]], "{slides:?}");
        assert_eq!(got.to_f64(), expected, "{slides:?}");
    }
}

/// The values that each window of a vector reads, without the padding.
fn read(x: &[f64], slide: Slide) -> Vec<Vec<f64>> {
    let window =
        |i: usize| (0..slide.kernel).filter_map(|k| Some(x[slide.position(i, k, x.len())?])).collect();
    (0..slide.count(x.len())).map(window).collect()
}

#[test]
fn pooling_reduces_windows() {
    let mut random = Random(12);
    for _ in 0..40 {
        let slide = Slide::random(&mut random);
        let size = slide.span() + random.within(0, 4) as usize;
        let x = random.tensor(&[1, 1, size]);
        // A window with a dilation may lie in the padding as a whole.
        let all = read(&x.to_f64(), slide);
        if all.iter().any(Vec::is_empty) {
            continue;
        }
        let pool = |operator: &str| {
            windows(Model::new(operator, 22).ints("kernel_shape", &[slide.kernel as i64]), &[slide])
        };
        let expected = |of: &dyn Fn(&[f64]) -> f64| all.iter().map(|w| of(w)).collect::<Vec<_>>();
        let inputs = std::slice::from_ref(&x);
        let largest = |w: &[f64]| w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(pool("MaxPool").values(inputs), expected(&largest), "{slide:?}");
        let sum = |w: &[f64]| w.iter().sum::<f64>();
        let mean = expected(&|w| sum(w) / w.len() as f64);
        assert_close(&pool("AveragePool").values(inputs), &mean, 1e-15);
        let whole = expected(&|w| sum(w) / slide.kernel as f64);
        assert_close(&pool("AveragePool").int("count_include_pad", 1).values(inputs), &whole, 1e-15);
        for p in [1, 2, 3] {
            let norm = expected(&|w| w.iter().map(|v| v.abs().powi(p)).sum::<f64>().powf(1.0 / f64::from(p)));
            assert_close(&pool("LpPool").int("p", i64::from(p)).values(inputs), &norm, 1e-12);
        }
    }
}

/// As many windows as positions, divided by the stride; the odd position of padding at either end.
#[test]
fn padding_that_keeps_the_size() {
    let net = Net::new(
        11,
        "x: f32[B, 1, T]
         upper = MaxPool(x) kernel_shape=[2] auto_pad=SAME_UPPER
         lower = MaxPool(x) kernel_shape=[2] auto_pad=SAME_LOWER
         half = MaxPool(x) kernel_shape=[3] strides=[2] auto_pad=SAME_UPPER
         valid = AveragePool(x) kernel_shape=[2] auto_pad=VALID
         return upper, lower, half, valid",
    );
    let got: Vec<Vec<f64>> = net.run(&[counting(&[1, 1, 4])]).iter().map(HostTensor::to_f64).collect();
    let expected: [&[f64]; 4] = [&[1.0, 2.0, 3.0, 3.0], &[0.0, 1.0, 2.0, 3.0], &[2.0, 3.0], &[0.5, 1.5, 2.5]];
    assert_eq!(got, expected);
    let got = net.run(&[counting(&[1, 1, 5])]);
    assert_eq!(got[2].to_f64(), [1.0, 3.0, 4.0]);
}

/// A causal convolution of a symbolic number of steps.
#[test]
fn convolutions_of_symbolic_extents() {
    let net = Net::new(
        11,
        "x: f32[B, 1, T]
         w: f32[1, 1, 2]
         y = Conv(x, w) pads=[1,0]
         s = Conv(x, w) strides=[2]
         return y, s",
    );
    let w = f32s(&[1, 1, 2], &[10.0, 1.0]);
    let got = net.run(&[counting(&[1, 1, 3]), w.clone()]);
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![0.0, 1.0, 12.0], vec![1.0]));
    let got = net.run(&[counting(&[1, 1, 4]), w]);
    assert_eq!(got[1].to_f64(), [1.0, 23.0]);
}

#[test]
fn windows_that_are_rounded_up() {
    let pool = |operator: &str| {
        Model::new(operator, 19).ints("kernel_shape", &[2]).ints("strides", &[2]).int("ceil_mode", 1)
    };
    let x = counting(&[1, 1, 5]);
    assert_eq!(pool("MaxPool").values(std::slice::from_ref(&x)), [1.0, 3.0, 4.0]);
    // Positions behind the padding do not count, whether padding does or not.
    assert_eq!(pool("AveragePool").values(std::slice::from_ref(&x)), [0.5, 2.5, 4.0]);
    assert_eq!(pool("AveragePool").int("count_include_pad", 1).values(&[x]), [0.5, 2.5, 4.0]);
    // Nor does the padding of one axis behind that of another.
    let padded = Model::new("AveragePool", 19)
        .ints("kernel_shape", &[2, 2])
        .ints("strides", &[2, 2])
        .ints("pads", &[0, 1, 0, 0])
        .int("ceil_mode", 1)
        .int("count_include_pad", 1);
    assert_eq!(padded.values(&[counting(&[1, 1, 3, 2])]), [0.5, 2.0, 2.0, 5.0]);
    let net =
        Net::new(11, "x: f32[1, 1, T]\n y = MaxPool(x) kernel_shape=[2] strides=[2] ceil_mode=1\n return y");
    assert_says(
        &net.refusal(),
        &["node `y` (MaxPool", "the extent T must be known for ceil_mode", "--dim T=N"],
    );
    let got = net.attempt(&with_dims(&[("T", 3)]), &[counting(&[1, 1, 3])]).expect("the extent is given");
    assert_eq!(got[0].to_f64(), [1.0, 2.0]);
}

#[test]
fn all_positions_of_a_channel() {
    let net = Net::new(
        7,
        "x: f32[B, C, H, W]
         y = GlobalAveragePool(x)
         z = GlobalMaxPool(x)
         return y, z",
    );
    let got = net.run(&[counting(&[1, 2, 2, 1])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[1, 2, 1, 1][..], vec![0.5, 2.5]));
    assert_eq!(got[1].to_f64(), [1.0, 3.0]);
}

#[test]
fn windows_that_do_not_fit_are_refused() {
    let refusal = |line: &str| {
        let text = format!(
            "x: f32[B, 4, T]\n w: f32[2, 3, 2]\n k: f32[3, 2, K]\n v: f32[4, 2]\n i: i64[1, 1, T]\n y = {line}\n return y"
        );
        Net::new(11, &text).refusal()
    };
    assert_says(&refusal("Conv(x, w)"), &["node `y` (Conv, opset 11)", "sizes 4 and 3 differ"]);
    assert_says(&refusal("Conv(x, v)"), &["node `y`", "do not fit an operand"]);
    assert_says(&refusal("Conv(x, k) group=2"), &["the size of its windows must be known"]);
    assert_says(&refusal("Conv(x, w) kernel_shape=[3]"), &["attribute `kernel_shape` is [3]"]);
    assert_says(&refusal("Conv(x, w) strides=[0]"), &["node `y`"]);
    assert_says(&refusal("MaxPool(x)"), &["attribute `kernel_shape` is missing"]);
    assert_says(&refusal("MaxPool(x) kernel_shape=[2,2]"), &["windows of 2 axes do not slide over"]);
    assert_says(&refusal("MaxPool(x) kernel_shape=[0]"), &["windows of [0] positions are not supported"]);
    assert_says(&refusal("MaxPool(x) kernel_shape=[2] strides=[0]"), &["attribute `strides` is [0]"]);
    assert_says(&refusal("MaxPool(x) kernel_shape=[2] auto_pad=NONE"), &["attribute `auto_pad` is `NONE`"]);
    assert_says(&refusal("MaxPool(i) kernel_shape=[2]"), &["the largest of i64 is not supported"]);
    assert_says(&refusal("GlobalMaxPool(v)"), &["has no spatial axes"]);
}
