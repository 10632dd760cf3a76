//! Loops that stand beside each other: which become one.

mod scan_support;

use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{Loop, Step};
use scan_support::{LENGTHS, fused, fused_for, loops};

/// A graph of two scans over `x` and `z`; the second is given.
fn two_scans(second: &str) -> String {
    format!(
        "graph g(x: f32[T, B, 4], z: f32[S, B, 4], u: f32[4, 4], w: f32[4, 4], h: f32[B, 4], n: i64[B]) {{
           %a, %ya = scan over T carry (h = h) each (x = x) with (u = u) {{
             %p = contract h, u axes=[1:0]
             %s = add %p, x
             %m = tanh %s
             next h = %m
             stack y = %m
           }}
           {second}
           return ya = %ya, yb = %yb, a = %a, b = %b
         }}"
    )
}

#[test]
fn both_directions_share_a_loop_of_one_kernel() {
    let both = fused(&two_scans(
        "%b, %yb = scan over T reverse carry (h = h) each (x = x) with (u = w) {
             %p = contract h, u axes=[1:0]
             %s = sub %p, x
             %m = tanh %s
             next h = %m
             stack y = %m
           }",
    ));
    assert_eq!(loops(&both.kernels).len(), 1, "{}", both.kernels);
    assert_eq!(both.report.kernels_in_loops, 1, "{}", both.kernels);
}

#[test]
fn lengths_do_not_keep_loops_apart() {
    let both = fused(&two_scans(
        "%b, %yb = scan over T reverse carry (h = h) each (x = x) with (u = w) lengths n {
             %p = contract h, u axes=[1:0]
             %s = sub %p, x
             %m = tanh %s
             next h = %m
             stack y = %m
           }",
    ));
    assert_eq!(loops(&both.kernels).len(), 1, "{}", both.kernels);
}

#[test]
fn loops_of_which_one_needs_the_other_stay_apart() {
    for (what, input) in [("history", "each (x = %ya)"), ("last state", "each (x = x)")] {
        let init = if what == "history" { "h" } else { "%a" };
        let chained = fused(&two_scans(&format!(
            "%b, %yb = scan over T carry (h = {init}) {input} with (u = w) {{
               %p = contract h, u axes=[1:0]
               %s = sub %p, x
               %m = tanh %s
               next h = %m
               stack y = %m
             }}"
        )));
        // A step apart they may run together: a wavefront has loops for its two ends.
        let expected = if what == "history" { 3 } else { 2 };
        assert_eq!(loops(&chained.kernels).len(), expected, "{what}: {}", chained.kernels);
    }
}

#[test]
fn a_value_between_two_loops_keeps_them_apart() {
    let chained = fused(&two_scans(
        "%q = sum %ya axes=[0]
         %b, %yb = scan over T carry (h = h) each (x = x) with (q = %q) {
             %s = mul h, q
             %t = add %s, x
             %m = tanh %t
             next h = %m
             stack y = %m
           }",
    ));
    assert_eq!(loops(&chained.kernels).len(), 2, "{}", chained.kernels);
}

#[test]
fn loops_of_unequal_length_stay_apart() {
    let unequal = fused(&two_scans(
        "%b, %yb = scan over S carry (h = h) each (x = z) with (u = w) {
             %p = contract h, u axes=[1:0]
             %s = sub %p, x
             %m = tanh %s
             next h = %m
             stack y = %m
           }",
    ));
    assert_eq!(loops(&unequal.kernels).len(), 2, "{}", unequal.kernels);
}

#[test]
fn loops_that_would_share_no_kernel_stay_apart() {
    let unlike = fused(
        "graph g(x: f32[T, B, 4], z: f32[T, B, 5], h: f32[B, 4], k: f32[B, 5]) {
           %a = scan over T carry (h = h) each (x = x) {
             %s = add h, x
             %m = tanh %s
             next h = %m
           }
           %b = scan over T carry (h = k) each (x = z) {
             %s = add h, x
             %m = tanh %s
             next h = %m
           }
           return a = %a, b = %b
         }",
    );
    assert_eq!(loops(&unlike.kernels).len(), 2, "{}", unlike.kernels);
}

#[test]
fn loops_whose_weights_fit_the_chip_alone_but_not_together_stay_apart() {
    let text = |hidden: usize| {
        let layer = |x: &str, u: &str, direction: &str| {
            format!(
                "scan over T {direction} carry (h = h) each (x = {x}) with (u = {u}) {{
                   %p = contract h, u axes=[1:0]
                   %s = add %p, x
                   %m = tanh %s
                   next h = %m
                   stack y = %m
                 }}"
            )
        };
        format!(
            "graph g(x: f32[T, B, {hidden}], u: f32[{hidden}, {hidden}], w: f32[{hidden}, {hidden}],
                     h: f32[B, {hidden}]) {{
               %a, %ya = {}
               %b, %yb = {}
               return ya = %ya, yb = %yb
             }}",
            layer("x", "u", ""),
            layer("x", "w", "reverse")
        )
    };
    let device = DeviceModel::cpu();
    let bytes = |hidden: usize| (hidden * hidden * 4) as f64;
    let total = device.on_chip_total_bytes();
    for (hidden, expected) in [(16, 1), (600, 2), (1024, 1)] {
        let fits = (bytes(hidden) <= total, 2.0 * bytes(hidden) <= total);
        assert_eq!(expected, if fits == (true, false) { 2 } else { 1 });
        let lengths = if hidden > 16 { &[][..] } else { &LENGTHS };
        let both = fused_for(&text(hidden), &device, lengths);
        assert_eq!(loops(&both.kernels).len(), expected, "{hidden}: {}", both.kernels);
    }
}

#[test]
fn loops_within_a_loop_share_one_too() {
    let inner = fused(
        "graph g(x: f32[T, B], w: f32[3, B], h: f32[B]) {
           %last, %y = scan over T carry (h = h) each (x = x) with (w = w) {
             %a = scan over 3 carry (a = h) each (w = w) {
               %m = mul a, w
               %t = tanh %m
               next a = %t
             }
             %b = scan over 3 reverse carry (b = x) each (w = w) {
               %m = add b, w
               %t = sigmoid %m
               next b = %t
             }
             %s = add %a, %b
             next h = %s
             stack y = %s
           }
           return y = %y, last = %last
         }",
    );
    let outer = loops(&inner.kernels);
    let nested: Vec<_> = outer.iter().filter(|l| l.body.iter().any(|s| matches!(s, Step::Loop(_)))).collect();
    let steps = |l: &Loop| l.body.iter().filter(|s| matches!(s, Step::Loop(_))).count();
    assert!(nested.iter().all(|l| steps(l) == 1), "{}", inner.kernels);
}
