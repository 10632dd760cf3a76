//! Functions of one operand, against those of the standard library in f64.

use super::*;

/// A function of the reference.
type Function = fn(f64) -> f64;

/// Magnitudes from the least to the greatest, more of them around 1, and what is not finite.
fn grid() -> Vec<f64> {
    let powers = (-30..=30).map(|k| 10f64.powf(f64::from(k) / 2.0));
    let even = (1..=80).map(|k| f64::from(k) * 0.05);
    let near_one = (1..=20).flat_map(|k| [1.0 - 0.5f64.powi(k), 1.0 + 0.5f64.powi(k)]);
    let large = [19.9, 20.1, 88.5, 88.8, 89.3, 700.0, 710.2, 1e18, 1e25, 1e38, f64::INFINITY, 0.0];
    let positive: Vec<f64> = powers.chain(even).chain(near_one).chain(large).collect();
    positive.iter().flat_map(|x| [*x, -*x]).chain([f64::NAN]).collect()
}

#[track_caller]
fn check(model: &Model, function: Function, tolerances: (f64, f64)) {
    let points = grid();
    let expected: Vec<f64> = points.iter().map(|x| function(*x)).collect();
    assert_close(&model.values(&[f64s(&[points.len()], &points)]), &expected, tolerances.1);
    let points: Vec<f32> = points.iter().map(|x| *x as f32).collect();
    // Results below the normal numbers of f32 have fewer digits.
    let got = model.values(&[f32s(&[points.len()], &points)]);
    for ((x, g), e) in points.iter().zip(got).zip(points.iter().map(|x| function(f64::from(*x)))) {
        let rounded = f64::from(e as f32);
        let near = (g - e).abs() <= tolerances.0 * e.abs() + f64::from(f32::MIN_POSITIVE);
        assert!(g == rounded || (g.is_nan() && e.is_nan()) || near, "at {x:e}: {g:e} instead of {e:e}");
    }
}

#[test]
fn functions_hold_their_accuracy_everywhere() {
    let functions: [(&str, Function); 13] = [
        ("Asin", f64::asin),
        ("Acos", f64::acos),
        ("Atan", f64::atan),
        ("Sinh", f64::sinh),
        ("Cosh", f64::cosh),
        ("Tanh", f64::tanh),
        ("Exp", f64::exp),
        ("Log", f64::ln),
        ("Sqrt", f64::sqrt),
        ("Reciprocal", f64::recip),
        ("Ceil", f64::ceil),
        ("Round", f64::round_ties_even),
        ("Abs", f64::abs),
    ];
    for (name, function) in functions {
        check(&Model::new(name, 22), function, (1e-6, 3e-15));
    }
}

/// Those of the standard library cancel or overflow themselves, so that the references are others.
#[test]
fn inverse_hyperbolic_functions_hold_their_accuracy_everywhere() {
    // asinh(x) for large x is log(2x), and log(x) + log(2) where that overflows.
    let asinh = |x: f64| {
        let t = x.abs();
        let large = t.ln() + std::f64::consts::LN_2;
        let small = (t + t * t / (1.0 + t.hypot(1.0))).ln_1p();
        (if t > 1e9 { large } else { small }).copysign(x)
    };
    let acosh = |x: f64| match x {
        x if x > 1e9 => x.ln() + std::f64::consts::LN_2,
        x if x >= 1.0 => ((x - 1.0) + ((x - 1.0) * (x + 1.0)).sqrt()).ln_1p(),
        _ => f64::NAN,
    };
    let atanh = |x: f64| {
        let t = x.abs();
        (0.5 * (t.ln_1p() - (-t).ln_1p())).copysign(x)
    };
    check(&Model::new("Asinh", 22), asinh, (1e-6, 3e-15));
    check(&Model::new("Acosh", 22), acosh, (1e-6, 3e-15));
    check(&Model::new("Atanh", 22), atanh, (1e-6, 3e-15));
}

#[test]
fn odd_functions_keep_the_sign_of_zero() {
    for name in ["Asin", "Atan", "Sinh", "Asinh", "Atanh", "Tan"] {
        let got = Model::new(name, 22).values(&[f64s(&[2], &[0.0, -0.0])]);
        assert_eq!(got.iter().map(|v| v.is_sign_negative()).collect::<Vec<_>>(), [false, true], "{name}");
        assert_eq!(got, [0.0, 0.0], "{name}");
    }
}

#[test]
fn tangents_between_their_poles() {
    let points: Vec<f64> = (-150..=150).map(|k| f64::from(k) * 0.0107).chain([1e-20, -1e-20]).collect();
    let expected: Vec<f64> = points.iter().map(|x| x.tan()).collect();
    assert_close(&Model::new("Tan", 7).values(&[f64s(&[points.len()], &points)]), &expected, 1e-13);
}

#[test]
fn narrow_floats_are_rounded_once() {
    let points: Vec<f32> = (0..64).map(|k| k as f32 / 64.0).collect();
    for dtype in [DType::F16, DType::Bf16] {
        let x = narrow(dtype, &[points.len()], &points);
        let expected: Vec<f32> = x.to_f64().iter().map(|v| v.sinh() as f32).collect();
        let got = Model::new("Sinh", 9).values(&[x]);
        assert_eq!(got, narrow(dtype, &[points.len()], &expected).to_f64(), "{dtype}");
    }
}

#[test]
fn infinities_are_found_by_their_sign() {
    let x = f32s(&[4], &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0]);
    let found = |negative: i64, positive: i64| {
        let model = Model::new("IsInf", 20).int("detect_negative", negative).int("detect_positive", positive);
        model.integers(std::slice::from_ref(&x))
    };
    assert_eq!(found(1, 1), [1, 1, 0, 0]);
    assert_eq!(found(0, 1), [1, 0, 0, 0]);
    assert_eq!(found(1, 0), [0, 1, 0, 0]);
    assert_eq!(found(0, 0), [0, 0, 0, 0]);
}

#[test]
fn activations() {
    let points = [-f64::INFINITY, -30.0, -1.5, -0.25, -0.0, 0.25, 1.5, 30.0, f64::INFINITY];
    let got = |model: Model| model.values(&[f64s(&[points.len()], &points)]);
    let expected = |function: fn(f64) -> f64| points.iter().map(|x| function(*x)).collect::<Vec<_>>();
    let elu = expected(|x| if x > 0.0 { x } else { 2.0 * x.exp_m1() });
    assert_close(&got(Model::new("Elu", 7).float("alpha", 2.0)), &elu, 1e-14);
    let celu = expected(|x| if x > 0.0 { x } else { 2.0 * (x / 2.0).exp_m1() });
    assert_close(&got(Model::new("Celu", 12).float("alpha", 2.0)), &celu, 1e-14);
    let thresholded = expected(|x| if x > 1.0 { x } else { 0.0 });
    assert_close(&got(Model::new("ThresholdedRelu", 10)), &thresholded, 0.0);
    let shrunk = expected(|x| if x.abs() > 0.5 { x - 0.25 * x.signum() } else { 0.0 });
    assert_close(&got(Model::new("Shrink", 9).float("bias", 0.25)), &shrunk, 0.0);
    let softplus = expected(|x| x.max(0.0) + (-x.abs()).exp().ln_1p());
    assert_close(&got(Model::new("Softplus", 7)), &softplus, 1e-14);
}

#[test]
fn clips_by_attributes_and_by_inputs() {
    let x = f32s(&[3], &[-2.0, 0.5, 2.0]);
    let attributes = Model::new("Clip", 7).float("min", -1.0).float("max", 1.0);
    assert_eq!(attributes.values(std::slice::from_ref(&x)), [-1.0, 0.5, 1.0]);
    let bounds = [f32s(&[], &[1.0]), f32s(&[], &[-1.0])];
    let crossed = Model::new("Clip", 13).values(&[x, bounds[0].clone(), bounds[1].clone()]);
    assert_eq!(crossed, [-1.0; 3], "the upper bound counts");
}
