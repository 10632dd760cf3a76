//! Sums over time that only the end of a loop needs: which need no loop.

mod scan_support;

use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{Element, KernelGraph};
use fuse_rewrite::Optimized;
use scan_support::{fused, fused_for};

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
