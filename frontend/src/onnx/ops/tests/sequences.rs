//! Sequences of tensors, which are there only while a model is imported.

use super::net::{Net, assert_says, counting};
use super::*;

#[test]
fn entries_are_found_and_inserted() {
    let net = Net::new(
        14,
        "x: f32[T, 2]
         w: f32[2]
         list = SequenceConstruct(x, w)
         n = Neg(x)
         at = -1
         more = SequenceInsert(list, n, at)
         same = Identity(more)
         end = SequenceInsert(same, w)
         len = SequenceLength(end)
         one = 1
         y = SequenceAt(end, one)
         z = SequenceAt(end, at)
         return y, z, len",
    );
    let got = net.run(&[counting(&[1, 2]), f32s(&[2], &[5.0, 6.0])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[1, 2][..], vec![-0.0, -1.0]));
    assert_eq!((got[1].to_f64(), got[2].to_f64()), (vec![5.0, 6.0], vec![4.0]));
}

#[test]
fn entries_are_joined_along_an_axis_or_a_new_one() {
    let net = Net::new(
        13,
        "x: f32[T, 2]
         w: f32[1, 2]
         list = SequenceConstruct(x, w)
         y = ConcatFromSequence(list) axis=0
         twice = SequenceConstruct(x, x)
         z = ConcatFromSequence(twice) axis=-1 new_axis=1
         u = ConcatFromSequence(twice) axis=1
         return y, z, u",
    );
    let got = net.run(&[counting(&[1, 2]), f32s(&[1, 2], &[5.0, 6.0])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2, 2][..], vec![0.0, 1.0, 5.0, 6.0]));
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[1, 2, 2][..], vec![0.0, 0.0, 1.0, 1.0]));
    assert_eq!((got[2].shape(), got[2].to_f64()), (&[1, 4][..], vec![0.0, 1.0, 0.0, 1.0]));
}

/// Steps of a symbolic number, found by a position that is computed.
#[test]
fn tensors_are_parted_into_steps() {
    let net = Net::new(
        13,
        "x: f32[B, T]
         at: i64[]
         steps = SplitToSequence(x) axis=1 keepdims=0
         len = SequenceLength(steps)
         y = SequenceAt(steps, at)
         z = ConcatFromSequence(steps) axis=0 new_axis=1
         ones = 1
         kept = SplitToSequence(x, ones) axis=1 keepdims=0
         u = ConcatFromSequence(kept) axis=1
         return y, z, u, len",
    );
    let got = net.run(&[counting(&[2, 3]), i64s(&[], &[-1])]);
    assert_eq!((got[0].shape(), got[0].to_f64()), (&[2][..], vec![2.0, 5.0]));
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[3, 2][..], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert_eq!((got[2].to_f64(), got[3].to_f64()), (counting(&[6]).to_f64(), vec![3.0]));
}

#[test]
fn sequences_that_are_not_known_are_refused() {
    let refusal = |lines: &str| {
        let text =
            format!("x: f32[T, 2]\n p: i64[]\n two = 2\n s = SequenceConstruct(x, x)\n {lines}\n return y");
        Net::new(13, &text).refusal()
    };
    assert_says(
        &refusal("y = SequenceAt(s, two)"),
        &["node `y` (SequenceAt, opset 13)", "position 2 is not within the known entries"],
    );
    assert_says(&refusal("y = SequenceAt(s, p)"), &["node `y`", "the position", "input `p`", "--inputs"]);
    assert_says(&refusal("y = Add(s, x)"), &["node `y`", "input 0 is a sequence of tensors, not a tensor"]);
    assert_says(&refusal("y = SequenceLength(x)"), &["input 0 is a tensor, not a sequence of tensors"]);
    assert_says(&refusal("y = ConcatFromSequence(s)"), &["attribute `axis` is missing"]);
    let empty = "e = SequenceEmpty()\n y = ConcatFromSequence(e) axis=0";
    assert_says(&refusal(empty), &["node `y`", "the sequence is empty"]);
    let parts = "q = SplitToSequence(x, two)\n y = SequenceLength(q)";
    assert_says(&refusal(parts), &["node `q`", "only parts of size 1", "use Split"]);
    assert_says(&refusal("y = Identity(s)"), &["a sequence of tensors stands where a tensor is needed"]);
}
