//! `If`: of a condition that is known, that follows from dimensions, and that data decide.

use super::net::{Net, assert_says, counting, with_values};
use super::*;

#[test]
fn branches_of_known_conditions() {
    let branch = |condition: bool| {
        // The other branch could not be imported.
        let (own, other) = ("y = Add(x, x)\n return y", "w = [1, 2]\n y = Reshape(x, w)\n return y");
        let (then, otherwise) = if condition { (own, other) } else { (other, own) };
        let net = Net::new(16, &format!("x: f32[3]\n c = {condition}\n z = If(c)\n return z"));
        net.subgraph("z", "then_branch", then).subgraph("z", "else_branch", otherwise)
    };
    for condition in [true, false] {
        assert_eq!(branch(condition).result(&[counting(&[3])]).1, [0.0, 2.0, 4.0]);
    }
}

#[test]
fn branches_that_data_choose() {
    let net = Net::new(
        16,
        "x: f32[T, 2]
         s = ReduceSum(x) keepdims=0
         five = 5.0
         c = Greater(s, five)
         y, z = If(c)
         return y, z",
    )
    .subgraph("y", "then_branch", "a = Add(x, x)\n n = Shape(x)\n return a, n")
    .subgraph("y", "else_branch", "b = Neg(x)\n n = Shape(x)\n return b, n");
    let got = net.run(&[counting(&[1, 2])]);
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![-0.0, -1.0], vec![1.0, 2.0]));
    let got = net.run(&[counting(&[2, 2])]);
    assert_eq!((got[0].to_f64(), got[1].to_f64()), (vec![0.0, 2.0, 4.0, 6.0], vec![2.0, 2.0]));
}

/// Whether there is more than one step.
#[test]
fn branches_that_dimensions_choose() {
    let net = Net::new(
        16,
        "x: f32[T]
         n = Size(x)
         one = 1
         c = Greater(n, one)
         y = If(c)
         return y",
    )
    .subgraph("y", "then_branch", "a = Neg(x)\n return a")
    .subgraph("y", "else_branch", "a = Identity(x)\n b = Add(a, a)\n return b");
    assert_eq!(net.result(&[f32s(&[1], &[3.0])]).1, [6.0]);
    assert_eq!(net.result(&[f32s(&[2], &[3.0, 4.0])]).1, [-3.0, -4.0]);
}

#[test]
fn branches_of_different_types_need_a_known_condition() {
    let net = Net::new(16, "x: f32[T, 1]\n c: bool[]\n y = If(c)\n return y")
        .subgraph("y", "then_branch", "a = Flatten(x) axis=0\n return a")
        .subgraph("y", "else_branch", "a = Cast(x) to=7\n return a");
    assert_says(&net.refusal(), &["node `y` (If, opset 16)", "different types", "input `c`", "--inputs"]);
    let known = bools(&[], &[false]);
    let got = net.attempt(&with_values(&[("c", known.clone())]), &[counting(&[2, 1]), known]);
    assert_eq!(got.expect("it is known")[0].dtype(), DType::I64);
}

#[test]
fn what_is_wrong_in_a_branch_is_said() {
    let missing = Net::new(16, "x: f32[T]\n c = true\n y = If(c)\n return y");
    assert_says(&missing.refusal(), &["node `y` (If", "attribute `then_branch`, a graph, is missing"]);
    let inner = Net::new(16, "x: f32[T]\n c = true\n y = If(c)\n return y")
        .subgraph("y", "then_branch", "a = Flatten(x) axis=9\n return a")
        .subgraph("y", "else_branch", "a = Neg(x)\n return a");
    assert_says(&inner.refusal(), &["node `a` (Flatten, opset 16)", "axis 9 is out of range"]);
}
