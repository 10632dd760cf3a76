//! `Scan`: directions, axes and the batched form of opset 8.

use super::net::{Net, assert_says, counting};
use super::*;

const SUMS: &str = "a: f32[B]\n row: f32[B]\n b = Add(a, row)\n return b, b";

fn sums(attributes: &str) -> Net {
    let text = format!(
        "h: f32[B]\n x: f32[T, B]\n last, all = Scan(h, x) num_scan_inputs=1 {attributes}\n return last, all"
    );
    Net::new(16, &text).subgraph("last", "body", SUMS)
}

#[test]
fn directions_of_inputs_and_outputs() {
    let h = f32s(&[1], &[0.5]);
    let run = |attributes: &str| {
        let got = sums(attributes).run(&[h.clone(), counting(&[3, 1])]);
        assert_eq!(got[0].to_f64(), [3.5]);
        got[1].to_f64()
    };
    assert_eq!(run(""), [0.5, 1.5, 3.5]);
    assert_eq!(run("scan_input_directions=[1]"), [2.5, 3.5, 3.5]);
    assert_eq!(run("scan_output_directions=[1]"), [3.5, 1.5, 0.5]);
    assert_eq!(run("scan_input_directions=[1] scan_output_directions=[1]"), [3.5, 3.5, 2.5]);
}

/// One input is read from its end, the other from its start.
#[test]
fn inputs_of_both_directions() {
    let net = Net::new(
        16,
        "x: f32[T]
         w: f32[U]
         y = Scan(x, w) num_scan_inputs=2 scan_input_directions=[1,0]
         return y",
    )
    .subgraph(
        "y",
        "body",
        "a: f32[]\n b: f32[]\n ten = 10.0\n c = Mul(a, ten)\n d = Add(c, b)\n return d",
    );
    assert_eq!(net.result(&[counting(&[3]), counting(&[3])]).1, [20.0, 11.0, 2.0]);
}

#[test]
fn axes_of_inputs_and_outputs() {
    let net = Net::new(
        16,
        "h: f32[B]
         x: f32[B, T]
         last, all = Scan(h, x) num_scan_inputs=1 scan_input_axes=[1] scan_output_axes=[-1]
         return last, all",
    )
    .subgraph("last", "body", SUMS);
    let got = net.run(&[f32s(&[2], &[0.0, 0.0]), counting(&[2, 3])]);
    assert_eq!((got[0].to_f64(), got[1].shape()), (vec![3.0, 12.0], &[2, 3][..]));
    assert_eq!(got[1].to_f64(), [0.0, 1.0, 3.0, 3.0, 7.0, 12.0]);
}

#[test]
fn the_batched_form_of_opset_8() {
    let text = |batch: &str| {
        format!(
            "h: f32[{batch}, 1]
             x: f32[{batch}, T, 1]
             last, all = Scan(, h, x) num_scan_inputs=1 directions=[1]
             return last, all"
        )
    };
    let body = "a: f32[1]\n row: f32[1]\n b = Add(a, row)\n return b, b";
    let net = Net::new(8, &text("2")).subgraph("last", "body", body);
    let got = net.run(&[f32s(&[2, 1], &[0.0, 10.0]), counting(&[2, 2, 1])]);
    assert_eq!(got[0].to_f64(), [1.0, 15.0]);
    // Read from the end, the outputs stand in the order of the steps.
    assert_eq!((got[1].shape(), got[1].to_f64()), (&[2, 2, 1][..], vec![1.0, 1.0, 13.0, 15.0]));
    let open = Net::new(8, &text("N")).subgraph("last", "body", body);
    assert_says(&open.refusal(), &["node `last` (Scan, opset 8)", "known batch size", "opset 9 or newer"]);
    let lengths = text("2").replace("Scan(,", "Scan(h,");
    let lengths = Net::new(8, &lengths).subgraph("last", "body", body);
    assert_says(&lengths.refusal(), &["sequence lengths", "export with opset 9 or newer"]);
}

#[test]
fn scans_that_do_not_fit_are_refused() {
    assert_says(&sums("scan_input_axes=[0,1]").refusal(), &["attribute `scan_input_axes` needs 1 entries"]);
    assert_says(&sums("scan_input_axes=[2]").refusal(), &["node `last` (Scan", "axis 2 is out of range"]);
    let none = Net::new(16, "h: f32[B]\n y = Scan(h) num_scan_inputs=0\n return y");
    let none = none.subgraph("y", "body", "a: f32[B]\n b = Neg(a)\n return b");
    assert_says(&none.refusal(), &["0 of its 1 inputs are scanned"]);
    let grows = Net::new(16, "h: f32[2]\n x: f32[T]\n y = Scan(h, x) num_scan_inputs=1\n return y").subgraph(
        "y",
        "body",
        "a: f32[2]\n e: f32[]\n b = Concat(a, a) axis=0\n return b",
    );
    assert_says(&grows.refusal(), &["node `y`", "sizes 2 and 4 differ"]);
    let rank = Net::new(16, "h: f32[2]\n x: f32[T]\n y = Scan(h, x) num_scan_inputs=1\n return y").subgraph(
        "y",
        "body",
        "a: f32[2]\n e: f32[]\n b = Flatten(a) axis=0\n return b",
    );
    assert_says(&rank.refusal(), &["a carried value is f32[2] before a step and f32[1, 2] after it"]);
}
