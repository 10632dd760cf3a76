//! Estimates against rounding that happens.

use super::{Estimate, FactorRounding};
use crate::compare::{Tolerance, compare_within};
use crate::interp::{Interpreter, Precision};
use crate::{DType, Graph, Tensor};

const BF16: FactorRounding = FactorRounding { relative: 1.0 / 256.0, absolute: 0.0 };

/// Numbers between -1 and 1 that no 16-bit type holds.
fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_values(shape, &values).expect("fits")
}

fn parsed(text: &str) -> Graph {
    crate::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn estimates(graph: &Graph, inputs: &[Tensor], rounding: FactorRounding) -> Vec<Estimate> {
    Interpreter::new(Precision::F64).run_with_errors(graph, inputs, rounding).expect("interprets")
}

/// A recurrent network; the model itself rounds the factors of its product, if it does.
fn network(rounds: bool) -> Graph {
    let product = if rounds {
        "%a = cast h : bf16[3, 24]
    %b = cast %a : f32[3, 24]
    %c = cast w : bf16[24, 24]
    %d = cast %c : f32[24, 24]
    %p = contract %b, %d axes=[1:0]"
    } else {
        "%p = contract h, w axes=[1:0]"
    };
    parsed(&format!(
        "graph g(x: f32[5, 3, 24], h: f32[3, 24], w: f32[24, 24]) {{
  %last, %y = scan over 5 carry (h = h) each (x = x) with (w = w) {{
    {product}
    %s = add %p, x
    %n = tanh %s
    next h = %n
    stack y = %n
  }}
  return y = %y
}}"
    ))
}

#[test]
fn the_worst_case_of_a_product_is_the_bound_of_its_factors() {
    let graph = parsed(
        "graph g(x: f32[4, 32], w: f32[32, 6]) {\n  %p = contract x, w axes=[1:0]\n  return y = %p\n}",
    );
    let inputs = [numbers(&[4, 32], 1), numbers(&[32, 6], 2)];
    let [estimate] = estimates(&graph, &inputs, BF16).try_into().expect("one output");
    let (x, w) = (inputs[0].to_f64(), inputs[1].to_f64());
    let u = BF16.relative;
    for row in 0..4 {
        for column in 0..6 {
            let products = (0..32).map(|k| (x[row * 32 + k] * w[k * 6 + column]).abs());
            let bound = (2.0 * u + u * u) * products.sum::<f64>();
            let worst = estimate.worst[row * 6 + column];
            // What f32 rounds comes on top: 33 roundings of 2^-24.
            assert!((bound..bound * 1.001).contains(&worst), "{worst} where {bound} is the bound");
            assert!(estimate.likely[row * 6 + column] <= worst);
        }
    }
}

#[test]
fn what_rounding_does_through_a_loop_is_within_the_estimate_and_near_it() {
    let inputs = [numbers(&[5, 3, 24], 1), numbers(&[3, 24], 2), numbers(&[24, 24], 3)];
    let [estimate] = estimates(&network(false), &inputs, BF16).try_into().expect("one output");
    let rounded = Interpreter::new(Precision::Declared).run(&network(true), &inputs).expect("interprets");
    let agreement = compare_within(&rounded[0], &estimate.value, Tolerance::absolute(0.0), &estimate.likely);
    let share = agreement.expect("is within the estimate").max_share;
    assert!(share > 0.05, "the estimate is {} times what happens", 1.0 / share);
    let [exact] =
        estimates(&network(false), &inputs, FactorRounding::default()).try_into().expect("one output");
    let most = |e: &Estimate| e.likely.iter().copied().fold(0.0, f64::max);
    let (f32_alone, bf16) = (most(&exact), most(&estimate));
    assert!(f32_alone > 0.0 && f32_alone * 100.0 < bf16, "{f32_alone} of f32 alone, {bf16}");
}

#[test]
fn results_of_16_bits_are_rounded_once_an_op() {
    let graph = parsed(
        "graph g(x: f32[64]) {\n  %a = cast x : bf16[64]\n  %t = tanh %a\n  %n = neg %t\n  return y = %n\n}",
    );
    let inputs = [numbers(&[64], 5)];
    let [estimate] = estimates(&graph, &inputs, FactorRounding::default()).try_into().expect("one output");
    let rounded = Interpreter::new(Precision::Declared).run(&graph, &inputs).expect("interprets");
    compare_within(&rounded[0], &estimate.value, Tolerance::absolute(0.0), &estimate.worst)
        .expect("is a bound");
    for (value, worst) in estimate.value.to_f64().iter().zip(&estimate.worst) {
        // The slope of tanh is at most 1.
        assert!(*worst <= 2f64.powi(-8) * (1.0 + value.abs() + 0.01), "{worst}");
    }
}

#[test]
fn a_choice_that_rounding_may_change_is_off_by_the_difference() {
    let text = "graph g(x: bf16[3], a: f32[3], b: f32[3]) {
  %s = mul x, x
  %w = cast %s : f32[3]
  %c = lt %w, a
  %y = select %c, a, b
  return y = %y
}";
    let words = [0x3f80u16, 0x3f80, 0x4000].map(u16::to_le_bytes).concat();
    let bf16 = Tensor::from_bytes(DType::Bf16, &[3], words).expect("fits");
    let (a, b) = (Tensor::from_values(&[3], &[1f32, 2.0, 1.0]), Tensor::from_values(&[3], &[5f32, 9.0, 3.0]));
    let inputs = [bf16, a.expect("fits"), b.expect("fits")];
    let [estimate] =
        estimates(&parsed(text), &inputs, FactorRounding::default()).try_into().expect("one output");
    assert_eq!(estimate.worst, [4.0, 0.0, 0.0]);
}

/// A divisor that may be zero: the quotient at the ends says nothing.
#[test]
fn a_quotient_is_unknown_where_its_divisor_may_be_zero() {
    let text = "graph g(x: f32[2], y: f32[2]) {
  %a = cast x : bf16[2]
  %b = cast %a : f32[2]
  %s = sub %b, y
  %q = div y, %s
  return q = %q
}";
    let of = |values: &[f32]| Tensor::from_values(&[2], values).expect("fits");
    // The first differs by as much as bf16 may round, the second by more.
    let inputs = [of(&[1.002, 1.0]), of(&[1.0, 0.5])];
    let [estimate] =
        estimates(&parsed(text), &inputs, FactorRounding::default()).try_into().expect("one output");
    assert_eq!(estimate.worst[0], f64::INFINITY);
    assert!(estimate.worst[1] < 0.02, "{:?}", estimate.worst);
}
