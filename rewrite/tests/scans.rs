//! Rules about scans, each where it applies and where it just does not, at lengths down to none.

mod scan_support;

use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{BufferKind, Element};
use fuse_rewrite::Optimized;
use scan_support::{fused, fused_for, loops};

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
