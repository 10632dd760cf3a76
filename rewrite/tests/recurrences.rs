//! Which states become recurrences, which do not, and that both compute what their graph means.

use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::kernel::{Element, KernelGraph};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, interpret_kernels, parse, verify_kernels};
use fuse_rewrite::{ChunkPolicy, Options, optimize};

/// How many random inputs each graph gets at each length: one, or more where `FUSE_SOAK` says how often a rule is
/// tried.
fn seeds() -> u64 {
    let soak = std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse::<u64>().ok());
    soak.map_or(1, |n| n.div_ceil(200))
}

/// The kernels of a graph for both kinds of device, which compute what it means at every length.
fn both(text: &str) -> [KernelGraph; 2] {
    [DeviceModel::cpu(), DeviceModel::cuda()].map(|device| checked(text, &device))
}

fn checked(text: &str, device: &DeviceModel) -> KernelGraph {
    let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
    // Chunks of time have tests of their own.
    let options = Options { chunks: ChunkPolicy::Never, ..Options::default() };
    let kernels = optimize(&graph, device, &options).unwrap().kernels;
    verify_kernels(&kernels).unwrap_or_else(|e| panic!("{e}\n{kernels}"));
    for (t, b) in [(0, 2), (1, 1), (7, 3), (20, 1), (3, 0)] {
        let mut dims = DimEnv::new();
        for symbol in graph.symbols() {
            dims.set(symbol.clone(), if symbol.name() == "T" { t } else { b });
        }
        for seed in 5..5 + seeds() {
            let inputs = inputs_for(&graph, &dims, seed).unwrap();
            let expected = interpret(&graph, &inputs, Precision::F64).unwrap();
            let got =
                interpret_kernels(&kernels, &inputs, &dims).unwrap_or_else(|e| panic!("{e}\n{kernels}"));
            for (k, (e, g)) in expected.iter().zip(&got).enumerate() {
                assert_eq!(e.shape(), g.shape());
                for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                    let close =
                        (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                    // Inputs are finite: something was divided by zero, and no number is left to agree on.
                    let undefined = !e.is_finite();
                    let place = || format!("output {k} at T={t}, seed {seed}");
                    assert!(close || undefined, "{}: {e} and {g}\n{kernels}", place());
                }
            }
        }
    }
    kernels
}

fn recurrences(kernels: &KernelGraph) -> usize {
    let elements = kernels.kernels().into_iter().flat_map(|(k, _)| k.elements.iter());
    elements.filter(|e| matches!(e.element, Element::Recurrence { .. })).count()
}

/// No loop is left, and there are that many kernels in all.
fn assert_parallel(text: &str, kernels: usize) {
    for graph in both(text) {
        assert!(graph.kernels().iter().all(|(_, depth)| *depth == 0), "{graph}");
        assert!(recurrences(&graph) > 0, "{graph}");
        assert_eq!(graph.kernels().len(), kernels, "{graph}");
    }
}

/// That many states stay in the loop, and nothing is a recurrence.
fn assert_loop(text: &str) {
    for graph in both(text) {
        assert!(graph.kernels().iter().any(|(_, depth)| *depth > 0), "{graph}");
        assert_eq!(recurrences(&graph), 0, "{graph}");
    }
}

/// One scan over `x`, `z` and `n` of `[T, B, 8]` from `h0`, with all states and the last one as outputs; `clauses`
/// go to the scan, `inputs` to the graph.
fn scan(inputs: &str, clauses: &str, body: &str) -> String {
    format!(
        "graph g(x: f64[T, B, 8], z: f64[T, B, 8], n: f64[T, B, 8], h0: f64[B, 8]{inputs}) {{
           %last, %y = scan over T {clauses} {{
             {body}
             next h = %next
             stack y = %next
           }}
           return y = %y, last = %last
         }}"
    )
}

fn cell(body: &str) -> String {
    scan("", "carry (h = h0) each (x = x, z = z, n = n)", body)
}

/// `(1 - g)·h + g·n` with `g = sigmoid(z)`.
const GATED: &str = "%one = constant 1 : f64
             %ones = broadcast %one axes=[] : f64[B, 8]
             %g = sigmoid z
             %keep = sub %ones, %g
             %kept = mul %keep, h
             %new = mul %g, n
             %next = add %kept, %new";

#[test]
fn sums_averages_and_gated_states_are_one_kernel() {
    // A cumulative sum.
    assert_parallel(&cell("%next = add h, x"), 1);
    // An exponential moving average, in its form with one product.
    let average = "%d = sub x, h
             %p = mul z, %d
             %next = add h, %p";
    assert_parallel(&cell(average), 1);
    assert_parallel(&cell(GATED), 1);
    // Divided, negated, and with two terms of the state.
    let twice = "%a = mul h, x
             %b = div h, n
             %c = sub %a, %b
             %d = neg %c
             %next = sub z, %d";
    assert_parallel(&cell(twice), 1);
}

#[test]
fn a_state_frozen_past_its_length_is_a_recurrence() {
    let text = scan(", l: i64[B]", "carry (h = h0) each (x = x, z = z, n = n) lengths l", GATED);
    assert_parallel(&text, 1);
}

#[test]
fn a_reverse_scan_is_a_recurrence() {
    assert_parallel(&scan("", "reverse carry (h = h0) each (x = x, z = z, n = n)", GATED), 1);
}

#[test]
fn a_state_that_feeds_the_factor_of_another_makes_both_recurrences() {
    let text = "graph g(x: f64[T, B, 8], z: f64[T, B, 8], c0: f64[B, 8], h0: f64[B, 8]) {
      %h, %c, %y = scan over T carry (h = h0, c = c0) each (x = x, z = z) {
        %f = sigmoid c
        %hk = mul %f, h
        %hn = add %hk, x
        %ck = mul z, c
        %cn = add %ck, x
        next h = %hn, c = %cn
        stack y = %hn
      }
      return y = %y, h = %h, c = %c
    }";
    assert_parallel(text, 1);
}

#[test]
fn the_state_before_the_step_is_read_without_a_loop() {
    let text = "graph g(x: f64[T, B, 8], z: f64[T, B, 8], h0: f64[B, 8]) {
      %last, %y = scan over T carry (h = h0) each (x = x, z = z) {
        %k = mul z, h
        %n = add %k, x
        %t = tanh h
        %o = mul %t, %n
        next h = %n
        stack y = %o
      }
      return y = %y
    }";
    assert_parallel(text, 1);
}

#[test]
fn what_reads_a_recurrence_in_another_loop_reads_it_from_memory() {
    // The second scan is no recurrence, and runs after the first; its state begins where that one ends.
    let text = "graph g(x: f64[T, B, 8], z: f64[T, B, 8], h0: f64[B, 8], w: f64[8, 8]) {
      %last, %y = scan over T carry (h = h0) each (x = x, z = z) {
        %k = mul z, h
        %n = add %k, x
        next h = %n
        stack y = %n
      }
      %end, %out = scan over T carry (s = %last) each (y = %y) with (w = w) {
        %p = contract s, w axes=[1:0]
        %a = add %p, y
        %t = tanh %a
        next s = %t
        stack out = %t
      }
      return out = %out, end = %end
    }";
    for kernels in both(text) {
        assert_eq!(recurrences(&kernels), 1, "{kernels}");
        assert!(kernels.kernels().iter().any(|(_, depth)| *depth == 1), "{kernels}");
    }
}

#[test]
fn a_linear_state_beside_one_that_is_not_leaves_the_loop_alone() {
    let text = "graph g(x: f64[T, B, 8], z: f64[T, B, 8], c0: f64[B, 8], h0: f64[B, 8]) {
      %h, %c, %y = scan over T carry (h = h0, c = c0) each (x = x, z = z) {
        %ck = mul z, c
        %cn = add %ck, x
        %hs = add h, %cn
        %hn = tanh %hs
        next h = %hn, c = %cn
        stack y = %hn
      }
      return y = %y, h = %h, c = %c
    }";
    let _ = both(text);
}

#[test]
fn nested_linear_states_are_recurrences_at_their_own_axis() {
    let text = "graph g(x: f64[T, B, 8], h0: f64[8]) {
      %last, %y = scan over T carry (h = h0) each (x = x) {
        %in, %s = scan over B carry (i = h) each (row = x) {
          %n = add i, row
          next i = %n
          stack s = %n
        }
        %t = tanh %in
        next h = %t
        stack y = %s
      }
      return y = %y, last = %last
    }";
    let _ = both(text);
}

#[test]
fn states_that_are_not_linear_in_themselves_stay_in_the_loop() {
    // A nonlinearity around the state, as in the independently recurrent network.
    let independent = "%k = mul z, h
             %s = add %k, x
             %next = tanh %s";
    assert_loop(&cell(independent));
    // The factor reads the state, as in the simple recurrent unit with its peephole.
    let peephole = "%v = mul z, h
             %s = add %v, x
             %f = sigmoid %s
             %k = mul %f, h
             %next = add %k, n";
    assert_loop(&cell(peephole));
    // A product of the state with itself, and a division by it.
    assert_loop(&cell("%q = mul h, h\n %next = add %q, x"));
    assert_loop(&cell("%q = div x, h\n %next = add %q, z"));
    // A choice that the state makes.
    let choice = "%c = lt h, x
             %k = mul z, h
             %next = select %c, %k, n";
    assert_loop(&cell(choice));
}

#[test]
fn a_state_that_a_selection_replaces_stays_in_the_loop() {
    // Times zero, an infinite state would become NaN instead of going away.
    let reset = "%c = lt x, z
             %k = mul z, h
             %s = select %c, %k, n
             %next = add %s, x";
    assert_loop(&cell(reset));
}

#[test]
fn two_states_that_feed_each_other_stay_in_the_loop() {
    let text = "graph g(x: f64[T, B, 8], a0: f64[B, 8], b0: f64[B, 8]) {
      %a, %b = scan over T carry (a = a0, b = b0) each (x = x) {
        %s = add b, x
        %d = mul a, x
        next a = %s, b = %d
      }
      return a = %a, b = %b
    }";
    assert_loop(text);
}

/// A quotient of integers is rounded: what it makes of a sum is not the sum of what it makes of both.
#[test]
fn a_state_that_is_divided_is_linear_for_floats_alone() {
    let text = |ty: &str| {
        format!(
            "graph g(x: {ty}[T, B, 8], z: {ty}[B, 8], h0: {ty}[B, 8]) {{
               %last, %y = scan over T carry (h = h0) each (x = x) with (z = z) {{
                 %s = add h, x
                 %next = div %s, z
                 next h = %next
                 stack y = %next
               }}
               return y = %y, last = %last
             }}"
        )
    };
    assert_parallel(&text("f64"), 1);
    assert_loop(&text("i32"));
}

/// Bytes wrap at every step, and no kernel has recurrences of them.
#[test]
fn a_state_of_bytes_stays_in_its_loop() {
    assert_loop(
        "graph g(x: u8[T, B, 8], h0: u8[B, 8]) {
           %last, %y = scan over T carry (h = h0) each (x = x) {
             %p = mul h, x
             %next = add %p, x
             next h = %next
             stack y = %next
           }
           return y = %y, last = %last
         }",
    );
}

/// The search for the state ends somewhere.
#[test]
fn a_state_far_below_its_next_one_stays_in_its_loop() {
    let steps = |pairs: usize| {
        let mut body = "%s0 = mul h, x\n".to_string();
        for i in 0..pairs {
            body += &format!("%a{i} = add %s{i}, z\n%s{} = mul %a{i}, n\n", i + 1);
        }
        cell(&format!("{body}%next = add %s{pairs}, x"))
    };
    for graph in both(&steps(3)) {
        assert!(recurrences(&graph) > 0, "{graph}");
    }
    assert_loop(&steps(20));
}

#[test]
fn the_report_counts_recurrences() {
    let graph = parse(&cell(GATED)).unwrap();
    let report = optimize(&graph, &DeviceModel::cpu(), &Options::default()).unwrap().report;
    assert_eq!(report.saturation.applied.get("linear-recurrence"), Some(&1));
}
