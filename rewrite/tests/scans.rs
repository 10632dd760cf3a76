//! Rules about scans, each where it applies and where it just does not, at lengths down to none.

use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::kernel::{BufferKind, Element, KernelGraph, Loop, Step};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, interpret_kernels, parse, verify_kernels};
use fuse_rewrite::{Optimized, Options, optimize};

const LENGTHS: [(i64, i64); 5] = [(3, 2), (1, 1), (0, 2), (5, 3), (2, 0)];

/// How many random inputs each graph gets at each length: one, or more where `FUSE_SOAK` says how often a rule is
/// tried, for which there are about four graphs and five lengths.
fn seeds() -> u64 {
    let soak = std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse::<u64>().ok());
    soak.map_or(1, |n| n.div_ceil(20))
}

/// The kernels of a graph for a device, which compute what it means at these lengths of `T` and `B`.
fn fused_for(text: &str, device: &DeviceModel, lengths: &[(i64, i64)]) -> Optimized {
    let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let optimized = optimize(&graph, device, &Options::default()).unwrap();
    verify_kernels(&optimized.kernels).unwrap_or_else(|e| panic!("{e}"));
    for (t, b) in lengths {
        let mut dims = DimEnv::new();
        for symbol in graph.symbols() {
            dims.set(symbol.clone(), if symbol.name() == "B" { *b } else { *t });
        }
        for seed in 3..3 + seeds() {
            let inputs = inputs_for(&graph, &dims, seed).unwrap();
            let expected = interpret(&graph, &inputs, Precision::F64).unwrap();
            let got = interpret_kernels(&optimized.kernels, &inputs, &dims).unwrap();
            for (e, g) in expected.iter().zip(&got) {
                assert_eq!(e.shape(), g.shape());
                for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                    let close =
                        (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                    assert!(close, "{e} and {g} at T={t} B={b}, seed {seed}\n{}", optimized.kernels);
                }
            }
        }
    }
    optimized
}

fn fused(text: &str) -> Optimized {
    fused_for(text, &DeviceModel::cpu(), &LENGTHS)
}

/// The outermost loops.
fn loops(kernels: &KernelGraph) -> Vec<&Loop> {
    let mut out = Vec::new();
    for step in &kernels.steps {
        match step {
            Step::Loop(l) => out.push(l),
            Step::Kernel(_) => {}
        }
    }
    out
}

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

fn reductions(kernels: &KernelGraph) -> usize {
    let all = kernels.kernels();
    let elements = all.iter().flat_map(|(k, _)| &k.elements);
    elements.filter(|e| matches!(e.element, Element::Reduce { .. })).count()
}

/// A scan over `x` and `z` with the states `h` and `a`; the body is given.
fn accumulator(ty: &str, body: &str, result: &str) -> String {
    format!(
        "graph g(x: {ty}[T, B, 4], z: {ty}[T, B, 4], a: {ty}[B, 4], h: {ty}[B, 4], n: i64[B]) {{
           {body}
           return {result}
         }}"
    )
}

#[test]
fn a_sum_that_only_the_end_needs_is_a_reduction_without_a_loop() {
    for (op, reduces) in [("add", 1), ("mul", 1), ("maximum", 1), ("minimum", 1), ("sub", 0)] {
        let body = format!(
            "%l = scan over T carry (a = a) each (x = x, z = z) {{
               %p = mul x, z
               %s = {op} a, %p
               next a = %s
             }}"
        );
        let sum = fused(&accumulator("f32", &body, "l = %l"));
        // The difference is a recurrence: in no loop either, but no reduction.
        assert_eq!(sum.report.kernels_in_loops, 0, "{op}: {}", sum.kernels);
        assert_eq!(reductions(&sum.kernels), reduces, "{op}: {}", sum.kernels);
    }
}

#[test]
fn a_sum_of_products_over_time_is_one_contraction() {
    let gradient = fused(
        "graph g(x: f32[T, B, 4], z: f32[T, B, 5], a: f32[4, 5]) {
           %l = scan over T reverse carry (a = a) each (x = x, z = z) {
             %p = contract x, z axes=[0:0]
             %s = add %p, a
             next a = %s
           }
           return l = %l
         }",
    );
    assert_eq!(gradient.report.kernels_in_loops, 0, "{}", gradient.kernels);
    assert_eq!(gradient.report.kernels, 1, "{}", gradient.kernels);
    let kernels = gradient.kernels.kernels();
    let both = |e: &Element| matches!(e, Element::Reduce { axes, .. } if axes.len() == 2);
    assert!(kernels[0].0.elements.iter().any(|e| both(&e.element)), "{}", gradient.kernels);
}

#[test]
fn a_sum_of_products_of_states_is_taken_after_their_loop() {
    let gradient = fused(
        "graph g(x: f32[T, B, 4], h: f32[B, 4], a: f32[4, 4]) {
           %h, %l = scan over T carry (h = h, a = a) each (x = x) {
             %s = add h, x
             %m = tanh %s
             %p = contract %m, x axes=[0:0]
             %b = add a, %p
             next h = %m, a = %b
           }
           return l = %l
         }",
    );
    let in_loop = gradient.kernels.kernels().into_iter().filter(|(_, depth)| *depth > 0);
    let reduce = in_loop.flat_map(|(k, _)| &k.elements).any(|e| matches!(e.element, Element::Reduce { .. }));
    assert!(!reduce, "{}", gradient.kernels);
}

#[test]
fn rows_that_end_early_add_nothing() {
    let sum = fused(&accumulator(
        "f32",
        "%l = scan over T carry (a = a) each (x = x) lengths n {
           %s = add x, a
           next a = %s
         }",
        "l = %l",
    ));
    assert_eq!(sum.report.kernels_in_loops, 0, "{}", sum.kernels);
    assert_eq!(reductions(&sum.kernels), 1, "{}", sum.kernels);
    for (ty, op) in [("i32", "add"), ("f32", "mul"), ("f32", "maximum"), ("i32", "minimum")] {
        let body = format!(
            "%l = scan over T carry (a = a) each (x = x) lengths n {{
               %s = {op} x, a
               next a = %s
             }}"
        );
        let found = fused(&accumulator(ty, &body, "l = %l").replace("n: i64", "n: i32"));
        assert_eq!(found.report.kernels_in_loops, 0, "{op}: {}", found.kernels);
        assert_eq!(reductions(&found.kernels), 1, "{op}: {}", found.kernels);
    }
}

/// What a step puts in place of the state where it adds nothing must be the state.
#[test]
fn a_sum_that_begins_anew_is_no_reduction() {
    let again = fused(&accumulator(
        "f32",
        "%l = scan over T carry (a = a) each (x = x, z = z) {
           %c = lt x, z
           %s = add a, x
           %r = select %c, %s, z
           next a = %r
         }",
        "l = %l",
    ));
    assert_eq!(reductions(&again.kernels), 0, "{}", again.kernels);
}

#[test]
fn a_sum_that_is_needed_at_every_step_is_no_reduction() {
    for (what, stacked) in [("before a step", "a"), ("negated", "%n"), ("before it is frozen", "%s")] {
        let body = format!(
            "%l, %y = scan over T carry (a = a) each (x = x) lengths n {{
               %s = maximum a, x
               %n = neg %s
               next a = %s
               stack y = {stacked}
             }}"
        );
        let needed = fused(&accumulator("f32", &body, "l = %l, y = %y"));
        assert_eq!(reductions(&needed.kernels), 0, "{what}: {}", needed.kernels);
        assert_eq!(needed.report.kernels_in_loops, 1, "{what}: {}", needed.kernels);
    }
}

/// A sum over an axis that a step adds is one with the sum over time, but the largest of sums is not.
#[test]
fn only_the_same_reduction_is_taken_with_time() {
    let text = |inner: &str, op: &str, more: &str| {
        format!(
            "graph g(x: f32[T, B, 4], h: f32[B, 4], a: f32[B]) {{
               %h, %l{more_result} = scan over T carry (h = h, a = a) each (x = x) {{
                 %s = add h, x
                 %m = tanh %s
                 %p = {inner} %m axes=[1]
                 %b = {op} a, %p
                 next h = %m, a = %b
                 {more}
               }}
               return l = %l{more_output}
             }}",
            more_result = if more.is_empty() { "" } else { ", %z" },
            more_output = if more.is_empty() { "" } else { ", z = %z" },
        )
    };
    let both = |o: &Optimized| {
        let kernels = o.kernels.kernels();
        let elements = kernels.iter().flat_map(|(k, _)| &k.elements);
        elements.filter(|e| matches!(&e.element, Element::Reduce { axes, .. } if axes.len() == 2)).count()
    };
    let of = |inner, op, more| fused(&text(inner, op, more));
    assert_eq!(both(&of("sum", "add", "")), 1);
    assert_eq!(both(&of("max", "maximum", "")), 1);
    assert_eq!(both(&of("max", "add", "")), 0);
    // Each step's own sum is needed too.
    assert_eq!(both(&of("sum", "add", "stack z = %p")), 0);
}

#[test]
fn a_sum_whose_history_is_needed_is_no_reduction() {
    let running = fused(&accumulator(
        "f32",
        "%l, %y = scan over T carry (a = a) each (x = x) {
           %s = add a, x
           next a = %s
           stack y = %s
         }",
        "l = %l, y = %y",
    ));
    assert_eq!(reductions(&running.kernels), 0, "{}", running.kernels);
}

#[test]
fn a_sum_that_its_terms_depend_on_is_no_reduction() {
    // The first is a recurrence, the second is none.
    for (term, in_loop) in [("%p = mul a, x", 0), ("%p = tanh a", 1)] {
        let body = format!(
            "%l = scan over T carry (a = a) each (x = x) {{
               {term}
               %s = add a, %p
               next a = %s
             }}"
        );
        let dependent = fused(&accumulator("f32", &body, "l = %l"));
        assert_eq!(reductions(&dependent.kernels), 0, "{}", dependent.kernels);
        assert_eq!(dependent.report.kernels_in_loops, in_loop, "{term}: {}", dependent.kernels);
    }
}

#[test]
fn a_sum_that_another_state_reads_stays_in_its_loop() {
    let read = fused(&accumulator(
        "f32",
        "%l, %m = scan over T carry (a = a, h = h) each (x = x) {
           %s = add a, x
           %g = mul h, a
           %t = tanh %g
           next a = %s, h = %t
         }",
        "l = %l, m = %m",
    ));
    assert_eq!(read.report.kernels_in_loops, 1, "{}", read.kernels);
}

#[test]
fn a_plain_sum_of_states_does_not_keep_their_history() {
    let sum = fused(&accumulator(
        "f32",
        "%m, %l = scan over T carry (h = h, a = a) each (x = x) {
           %s = add h, x
           %t = tanh %s
           %b = add a, %t
           next h = %t, a = %b
         }",
        "l = %l",
    ));
    assert_eq!(sum.report.kernels, sum.report.kernels_in_loops + 2, "{}", sum.kernels);
    assert!(sum.kernels.buffers.iter().all(|b| b.ty.rank() < 3 || b.name == "x" || b.name == "z"));
}

#[test]
fn a_sum_in_a_narrow_type_rounds_every_step() {
    let graph = accumulator(
        "bf16",
        "%l = scan over T carry (a = a) each (x = x) {
           %s = add a, x
           next a = %s
         }",
        "l = %l",
    );
    let narrow = fused_for(&graph, &DeviceModel::cpu(), &[]);
    // A recurrence rounds its state at every step; a reduction would round once.
    assert_eq!(reductions(&narrow.kernels), 0, "{}", narrow.kernels);
}

#[test]
fn the_last_step_of_a_history_is_the_final_state() {
    let text = |start: &str| {
        format!(
            "graph g(x: f32[T, B, 4], h: f32[B, 4]) {{
               %l, %y = scan over T carry (h = h) each (x = x) {{
                 %s = add h, x
                 %m = tanh %s
                 next h = %m
                 stack y = %m
               }}
               %last = slice %y start=[{start}, 0, 0] length=[1, B, 4] step=[1, 1, 1]
               return y = %last
             }}"
        )
    };
    let stacks = |o: &Optimized| {
        o.kernels.buffers.iter().any(|b| b.name != "x" && b.ty.rank() == 3 && !b.ty.shape[0].is_one())
    };
    let some = [(3, 2), (1, 1), (5, 3)];
    let last = fused_for(&text("T - 1"), &DeviceModel::cpu(), &some);
    assert!(!stacks(&last), "{}", last.kernels);
    let first = fused_for(&text("0"), &DeviceModel::cpu(), &some);
    assert!(stacks(&first), "{}", first.kernels);
}

#[test]
fn what_each_step_makes_of_its_state_is_made_once_if_the_last_alone_is_read() {
    let last = fused_for(
        "graph g(x: f32[T, B, 4], h: f32[B, 4], w: f32[4, 3]) {
           %l, %y = scan over T carry (h = h) each (x = x) with (w = w) {
             %s = add h, x
             %m = tanh %s
             %p = contract %m, w axes=[1:0]
             next h = %m
             stack y = %p
           }
           %last = slice %y start=[T - 1, 0, 0] length=[1, B, 3] step=[1, 1, 1]
           return y = %last
         }",
        &DeviceModel::cpu(),
        &[(3, 2), (1, 1), (5, 3)],
    );
    let history =
        last.kernels.buffers.iter().any(|b| b.name != "x" && b.ty.rank() == 3 && !b.ty.shape[0].is_one());
    assert!(!history, "{}", last.kernels);
    let kernels = last.kernels.kernels();
    let in_loop = kernels.iter().filter(|(_, d)| *d > 0).flat_map(|(k, _)| &k.elements);
    assert_eq!(
        in_loop.filter(|e| matches!(e.element, Element::Reduce { .. })).count(),
        0,
        "{}",
        last.kernels
    );
}

#[test]
fn states_that_are_always_equal_are_one() {
    let text = |second: &str, init: &str| {
        format!(
            "graph g(x: f32[T, B, 4], h: f32[B, 4], k: f32[B, 4]) {{
               %a, %b = scan over T carry (a = h, b = {init}) each (x = x) {{
                 %s = mul a, b
                 %t = add %s, x
                 %u = tanh %t
                 %v = mul b, b
                 %w = {second}
                 %y = tanh %w
                 next a = %u, b = %y
               }}
               return a = %a, b = %b
             }}"
        )
    };
    let states = |o: &Optimized| loops(&o.kernels)[0].carries.len();
    assert_eq!(states(&fused(&text("add %v, x", "h"))), 1);
    assert_eq!(states(&fused(&text("sub %v, x", "h"))), 2);
    assert_eq!(states(&fused(&text("add %v, x", "k"))), 2);
}

#[test]
fn states_that_nothing_reads_are_not_computed() {
    let unused = fused(
        "graph g(x: f32[T, B, 4], z: f32[T, B, 4], h: f32[B, 4], k: f32[B, 4]) {
           %a, %b, %y = scan over T carry (a = h, b = k) each (x = x, z = z) {
             %s = mul a, x
             %t = tanh %s
             %u = add b, z
             %v = tanh %u
             next a = %t, b = %v
             stack y = %v
           }
           return a = %a
         }",
    );
    assert_eq!(loops(&unused.kernels)[0].carries.len(), 1, "{}", unused.kernels);
    let read = |name: &str| {
        let id = unused.kernels.buffers.iter().position(|b| b.name == name).unwrap();
        unused.kernels.kernels().iter().any(|(k, _)| k.loads().iter().any(|b| b.index() == id))
    };
    assert!(read("x") && !read("z") && !read("k"), "{}", unused.kernels);
}

#[test]
fn one_step_is_no_loop_and_none_is_nothing() {
    for (steps, body, direction) in [(1, 1, ""), (1, 1, "reverse"), (0, 0, ""), (2, 1, "")] {
        let text = format!(
            "graph g(x: f32[{steps}, B, 4], h: f32[B, 4], n: i64[B]) {{
               %l, %y = scan over {steps} {direction} carry (h = h) each (x = x) lengths n {{
                 %s = add h, x
                 %m = tanh %s
                 next h = %m
                 stack y = %m
               }}
               return l = %l, y = %y
             }}"
        );
        let found = fused(&text);
        assert_eq!(loops(&found.kernels).len(), usize::from(steps > 1), "{}", found.kernels);
        let tanh = found.kernels.kernels().iter().any(|(k, _)| k.ops.contains(&"tanh".to_string()));
        assert_eq!(usize::from(tanh), body, "{}", found.kernels);
    }
}

#[test]
fn a_loop_runs_as_many_steps_as_are_read() {
    let text = |result: &str| {
        format!(
            "graph g(x: f32[T, B, 3], h: f32[B, 4], w: f32[3, 4]) {{
               %l, %y = scan over T carry (h = h) each (x = x) with (w = w) {{
                 %p = contract x, w axes=[1:0]
                 %s = add h, %p
                 %m = tanh %s
                 next h = %m
                 stack y = %m
               }}
               %two = slice %y start=[0, 0, 0] length=[2, B, 4] step=[1, 1, 1]
               %even = slice %y start=[0, 0, 0] length=[2, B, 4] step=[2, 1, 1]
               {result}
             }}"
        )
    };
    let trip = |o: &Optimized| loops(&o.kernels)[0].trip.to_string();
    let some = [(3, 2), (4, 1), (5, 3)];
    let device = DeviceModel::cpu();
    let two = fused_for(&text("return y = %two"), &device, &some);
    assert_eq!(trip(&two), "min(2, T)", "{}", two.kernels);
    let projection = two.kernels.kernels().into_iter().find(|(k, _)| k.ops.iter().any(|o| o == "contract"));
    assert_eq!(projection.unwrap().0.space()[0].to_string(), "min(2, T)", "{}", two.kernels);
    let even = fused_for(&text("return y = %even"), &device, &[(3, 2), (4, 1)]);
    assert_eq!(trip(&even), "min(3, T)", "{}", even.kernels);
    let last = fused_for(&text("return y = %two, l = %l"), &device, &some);
    assert_eq!(trip(&last), "T", "{}", last.kernels);
    let whole = fused_for(&text("return y = %two, z = %y"), &device, &some);
    assert_eq!(trip(&whole), "T", "{}", whole.kernels);
}

#[test]
fn a_history_keeps_the_last_steps_if_those_alone_are_read() {
    let text = |stacked: &str, result: &str| {
        format!(
            "graph g(x: f32[T, B, 4], h: f32[B, 4]) {{
               %l, %y = scan over T carry (h = h) each (x = x) {{
                 %s = add h, x
                 %m = tanh %s
                 next h = %m
                 stack y = {stacked}
               }}
               {result}
             }}"
        )
    };
    let rows = |o: &Optimized| {
        let stored = o.kernels.buffers.iter().find(|b| b.kind == BufferKind::Temporary);
        stored.unwrap_or_else(|| panic!("{}", o.kernels)).ty.shape[0].to_string()
    };
    let slice = |start: &str, length: &str| {
        format!("%two = slice %y start=[{start}, 0, 0] length=[{length}, B, 4] step=[1, 1, 1]")
    };
    let some = [(3, 2), (2, 1), (5, 3)];
    let device = DeviceModel::cpu();
    let two = fused_for(&text("%m", &(slice("T - 2", "2") + " return y = %two")), &device, &some);
    assert_eq!(rows(&two), "min(2, T)", "{}", two.kernels);
    // Of fewer steps than that, all there are.
    let up_to_two = slice("max(0, T - 2)", "min(2, T)") + " return y = %two";
    let up_to_two = fused(&text("%m", &up_to_two));
    assert!(rows(&up_to_two).contains("T - 2"), "{}", up_to_two.kernels);
    let backwards = slice("T - 3", "3") + " %back = reverse %two axes=[0] return y = %back";
    let backwards = fused_for(&text("%m", &backwards), &device, &[(3, 2), (5, 1)]);
    assert_eq!(rows(&backwards), "min(3, T)", "{}", backwards.kernels);
    // Most of the steps, the first ones too, or a reader in the loop of another scan.
    let most = fused_for(&text("%m", &(slice("1", "T - 1") + " return y = %two")), &device, &some);
    assert_eq!(rows(&most), "T", "{}", most.kernels);
    let ends = slice("T - 2", "2")
        + " %first = slice %y start=[0, 0, 0] length=[1, B, 4] step=[1, 1, 1] return y = %two, z = %first";
    let ends = fused_for(&text("%m", &ends), &device, &some);
    assert_eq!(rows(&ends), "T", "{}", ends.kernels);
    let read_by_step = slice("T - 2", "2")
        + " %k = scan over T carry (h = h) each (y = %y) {
              %p = mul h, y
              %q = tanh %p
              next h = %q
            }
            return y = %two, k = %k";
    let read_by_step = fused_for(&text("%m", &read_by_step), &device, &some);
    assert_eq!(rows(&read_by_step), "T", "{}", read_by_step.kernels);
}

/// What does not depend on the state is computed for all steps at once, and stored: hoisted. Where storing it costs
/// more than computing it every step, it is computed there.
#[test]
fn what_a_step_computes_of_its_inputs_alone_is_hoisted_if_that_pays() {
    let projection = fused(
        "graph g(x: f32[T, B, 3], h: f32[B, 4], w: f32[3, 4]) {
           %l = scan over T carry (h = h) each (x = x) with (w = w) {
             %p = contract x, w axes=[1:0]
             %s = add h, %p
             %m = tanh %s
             next h = %m
           }
           return l = %l
         }",
    );
    let in_loop = |o: &Optimized, op: &str| {
        o.kernels.kernels().iter().any(|(k, d)| *d > 0 && k.ops.iter().any(|k| k == op))
    };
    assert!(!in_loop(&projection, "contract"), "{}", projection.kernels);
    let pointwise = fused(
        "graph g(x: f32[T, B, 4], h: f32[B, 4]) {
           %l = scan over T carry (h = h) each (x = x) {
             %p = neg x
             %s = mul h, %p
             %m = tanh %s
             next h = %m
           }
           return l = %l
         }",
    );
    assert_eq!(pointwise.report.kernels, 3, "{}", pointwise.kernels);
    assert!(in_loop(&pointwise, "neg") || in_loop(&pointwise, "mul"), "{}", pointwise.kernels);
}

/// A scan in reverse whose sequence and history are then seen through views.
fn reversed(input: &str, result: &str) -> String {
    format!(
        "graph g(x: f32[T, B, 4], h: f32[B, 4]) {{
           %x = reverse x axes=[{input}]
           %l, %y = scan over T reverse carry (h = h) each (x = %x) {{
             %s = add h, x
             %m = tanh %s
             next h = %m
             stack y = %m
           }}
           %r = {result}
           return y = %r
         }}"
    )
}

#[test]
fn the_reverse_of_a_reverse_scan_reads_and_stores_in_order() {
    let twice = fused(&reversed("0", "reverse %y axes=[0]"));
    assert_eq!(twice.report.kernels, 2, "{}", twice.kernels);
    assert!(!twice.kernels.to_string().contains("T - "), "{}", twice.kernels);
    let once = fused(&reversed("", "reverse %y axes=[]"));
    assert_eq!(once.report.kernels, 2, "{}", once.kernels);
    assert!(once.kernels.to_string().contains("T - "), "{}", once.kernels);
}

#[test]
fn a_result_that_is_a_view_is_stored_where_it_is_computed() {
    let batch_major = fused(&reversed("0", "transpose %y permutation=[1, 0, 2]"));
    assert_eq!(batch_major.report.kernels, 2, "{}", batch_major.kernels);
    // Neighbours would be stored apart.
    let columns = fused(&reversed("0", "transpose %y permutation=[0, 2, 1]"));
    assert_eq!(columns.report.kernels, 3, "{}", columns.kernels);
    // A part of the history is a copy.
    let part = fused(&reversed("0", "slice %y start=[0, 0, 0] length=[T, B, 2] step=[1, 1, 1]"));
    assert_eq!(part.report.kernels, 3, "{}", part.kernels);
}
