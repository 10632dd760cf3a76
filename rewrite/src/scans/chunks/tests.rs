use fuse_ir::{parse_kernels, verify_kernels};

use super::*;

/// Four points and 100 steps, of which each takes as long as ten launches, leave it idle; its cores have no vectors.
fn idle() -> DeviceModel {
    DeviceModel {
        parallel_points: 64.0,
        launch_seconds: 1e-6,
        step_seconds: 1e-5,
        reduces_contiguously: false,
        ..DeviceModel::cpu()
    }
}

/// Whether the kernels of a graph can be divided.
fn divisible(text: &str) -> bool {
    divides(text, &DeviceModel::cpu(), ChunkPolicy::Always)
}

/// Whether they are divided.
fn divides(text: &str, device: &DeviceModel, policy: ChunkPolicy) -> bool {
    let mut graph = parse_kernels(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify_kernels(&graph).unwrap_or_else(|e| panic!("{e}"));
    let before = graph.clone();
    let divided = !divide_recurrences(&mut graph, device, policy).is_empty();
    verify_kernels(&graph).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    assert_eq!(divided, graph != before, "what is not divided stays as it is");
    divided
}

/// One kernel over `[T, 4]` (with an axis to reduce over) whose elements end with the state that is stored.
fn kernel(dtype: &str, elements: &str, state: &str) -> String {
    format!(
        "kernels g {{
           buffer x: {dtype}[T, 4] input 0
           buffer w: {dtype}[3, 4] input 1
           buffer y: {dtype}[T, 4] output 0
           kernel g [i0 < T, i1 < 4] {{
             e0: {dtype} = load x[i0, i1]
             e1: {dtype} = constant 0
             {elements}
             store y[i0, i1] = {state}
           }}
         }}
"
    )
}

fn sum_of(dtype: &str) -> String {
    kernel(dtype, &format!("e2: {dtype} = recurrence i0 from e1 by e0 plus e0"), "e2")
}

#[test]
fn states_of_types_that_keep_a_product_are_divided() {
    for dtype in ["f32", "f64", "i32", "i64", "u8"] {
        assert!(divisible(&sum_of(dtype)), "{dtype}");
    }
}

#[test]
fn states_that_are_rounded_at_every_step_are_not() {
    for dtype in ["f16", "bf16"] {
        assert!(!divisible(&sum_of(dtype)), "{dtype}");
    }
}

#[test]
fn states_that_are_computed_from_states_are_not() {
    let fed = |by: &str, plus: &str| {
        let elements = format!(
            "e2: f32 = recurrence i0 from e1 by e0 plus e0
             e3: f32 = recurrence i0 from e1 by {by} plus {plus}"
        );
        kernel("f32", &elements, "e3")
    };
    assert!(divisible(&fed("e1", "e0")));
    assert!(!divisible(&fed("e2", "e0")), "by its factor");
    assert!(!divisible(&fed("e0", "e2")), "by its term");
}

#[test]
fn reductions_are_not_computed_twice_but_may_follow() {
    let reduced = |by: &str, value: &str| {
        let elements = format!(
            "e2: f32 = load w[i2, i1]
             e3: f32 = sum [i2 < 3] e2
             e4: f32 = recurrence i0 from e1 by {by} plus e0
             e5: f32 = mul e4, e3"
        );
        kernel("f32", &elements, value)
    };
    assert!(divisible(&reduced("e0", "e5")), "after the state");
    assert!(!divisible(&reduced("e3", "e4")), "in its factor");
}

#[test]
fn an_initial_state_may_be_reduced() {
    let elements = "e2: f32 = load w[i2, i1]
             e3: f32 = sum [i2 < 3] e2
             e4: f32 = recurrence i0 from e3 by e0 plus e0";
    assert!(divisible(&kernel("f32", elements, "e4")));
}

#[test]
fn an_axis_that_may_be_shorter_than_none_is_not_divided() {
    let shorter = sum_of("f32").replace("i0 < T", "i0 < T - 1").replace("y: f32[T", "y: f32[T - 1");
    assert!(!divisible(&shorter));
    let longer = sum_of("f32").replace("i0 < T", "i0 < T + 1").replace("f32[T", "f32[T + 1");
    assert!(divisible(&longer));
}

#[test]
fn kernels_without_recurrences_are_left_alone() {
    assert!(!divisible(&kernel("f32", "e2: f32 = tanh e0", "e2")));
}

#[test]
fn nothing_is_divided_that_costs_more() {
    let divided = |device| divides(&sum_of("f32"), &device, ChunkPolicy::ByCost);
    assert!(divided(idle()));
    assert!(!divided(DeviceModel { launch_seconds: 1.0, ..idle() }), "four launches for one");
    let quick = DeviceModel { launch_seconds: 0.0, step_seconds: 0.0, flops_per_second: 1e18, ..idle() };
    assert!(!divided(quick), "what is in memory is read twice");
    assert!(!divided(DeviceModel { parallel_points: 8.0, ..idle() }), "two chunks fill the device");
}

#[test]
fn chunks_fill_cores_with_vectors_and_no_vectors_but_of_one_point() {
    let text = |width: &str| {
        let text = sum_of("f32").replace("[T, 4]", &format!("[T, {width}]"));
        text.replace("[3, 4]", &format!("[3, {width}]")).replace("i1 < 4", &format!("i1 < {width}"))
    };
    let cores = |cores| DeviceModel { cores, step_seconds: 1e-5, ..DeviceModel::cpu() };
    assert!(
        !divides(&text("4"), &cores(2), ChunkPolicy::ByCost),
        "two cores do twice the work in the same time"
    );
    assert!(divides(&text("4"), &cores(8), ChunkPolicy::ByCost));
    assert!(divides(&text("1"), &cores(2), ChunkPolicy::ByCost), "vectors run across chunks");
}

#[test]
fn policies_are_kept() {
    let expensive = DeviceModel { launch_seconds: 1.0, ..DeviceModel::cpu() };
    assert!(divides(&sum_of("f32"), &expensive, ChunkPolicy::Always));
    assert!(!divides(&sum_of("f32"), &idle(), ChunkPolicy::Never));
}

#[test]
fn a_kernel_in_a_loop_is_divided_where_no_extent_depends_on_the_step() {
    let in_loop = |extent: &str| {
        format!(
            "kernels g {{
               buffer x: f32[S, T] input 0
               buffer y: f32[S, T] output 0
               loop s < S {{
                 kernel g [i0 < {extent}] {{
                   e0: f32 = load x[s, i0]
                   e1: f32 = constant 0
                   e2: f32 = recurrence i0 from e1 by e0 plus e0
                   store y[s, i0] = e2
                 }}
               }}
             }}
"
        )
    };
    assert!(divisible(&in_loop("T")));
    assert!(!divisible(&in_loop("s")));
}
