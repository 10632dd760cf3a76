use fuse_ir::device::DeviceModel;
use fuse_ir::{DimEnv, Tensor, interpret_kernels, parse_kernels, verify_kernels};

use super::*;

/// Two loops, with a kernel between them that could be part of the upper one's steps.
const STACK: &str = "kernels stack {
  buffer x: f32[T, B] input 0
  buffer h: f32[B] state
  buffer h.next: f32[B] state
  buffer g: f32[B] state
  buffer g.next: f32[B] state
  buffer y: f32[T, B] temporary
  buffer v: f32[T, B] temporary
  buffer z: f32[T, B] output 0
  buffer last: f32[B] output 1
  kernel init [i0 < B] {
    e0: f32 = constant 0.5
    store h[i0] = e0
    store g[i0] = e0
  }
  loop %t < T carry (h -> h.next) {
    kernel lower [i0 < B] {
      e0: f32 = load h[i0]
      e1: f32 = load x[%t, i0]
      e2: f32 = add e0, e1
      e3: f32 = tanh e2
      store h.next[i0] = e3
      store y[%t, i0] = e3
    }
  }
  kernel between [i0 < T, i1 < B] {
    e0: f32 = load y[i0, i1]
    e1: f32 = exp e0
    store v[i0, i1] = e1
  }
  loop %s < T carry (g -> g.next) {
    kernel upper [i0 < B] {
      e0: f32 = load g[i0]
      e1: f32 = load v[%s, i0]
      e2: f32 = mul e0, e1
      e3: f32 = tanh e2
      store g.next[i0] = e3
      store z[%s, i0] = e3
    }
  }
  kernel final [i0 < B] {
    e0: f32 = load h[i0]
    store last[i0] = e0
  }
}
";

/// A device on which whatever saves a launch is worth it.
fn eager() -> DeviceModel {
    DeviceModel { launch_seconds: 1.0, ..DeviceModel::cuda() }
}

fn parsed(text: &str) -> KernelGraph {
    let graph = parse_kernels(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify_kernels(&graph).unwrap_or_else(|e| panic!("{e}\n{text}"));
    graph
}

fn results(graph: &KernelGraph, steps: usize) -> Vec<Vec<f64>> {
    let values: Vec<f32> = (0..2 * steps).map(|i| i as f32 * 0.37 - 1.0).collect();
    let x = Tensor::from_values(&[steps, 2], &values).unwrap();
    let dims = DimEnv::new().with("T", steps as i64).with("B", 2);
    let outputs = interpret_kernels(graph, &[x], &dims).unwrap_or_else(|e| panic!("T={steps}: {e}\n{graph}"));
    outputs.iter().map(Tensor::to_f64).collect()
}

#[test]
fn a_stack_computes_the_same_at_every_length_and_forgets_what_it_handed_up() {
    let before = parsed(STACK);
    let mut after = before.clone();
    let wavefronts = run_as_wavefronts(&mut after, &eager());
    assert!(wavefronts.seconds > 0.0);
    let works = |name: &str| wavefronts.origins[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(works("stack_rise"), ["lower"]);
    assert_eq!(works("stack_wave"), ["between", "lower", "upper"]);
    assert_eq!(works("stack_fall"), ["between", "upper"]);
    let places = drop_unused(&mut after);
    assert_eq!(places.len(), after.buffers.len());
    assert!(!after.buffers.iter().any(|b| b.kind == BufferKind::Temporary), "{after}");
    verify_kernels(&after).unwrap_or_else(|e| panic!("{e}\n{after}"));
    for steps in 0..6 {
        assert_eq!(results(&before, steps), results(&after, steps), "T={steps}\n{after}");
    }
}

#[test]
fn what_is_read_after_the_loops_is_still_stored() {
    let text = STACK.replace("load h[i0]\n    store last", "load y[max(T - 1, 0), i0]\n    store last");
    let (before, mut after) = (parsed(&text), parsed(&text));
    assert!(!run_as_wavefronts(&mut after, &eager()).origins.is_empty());
    drop_unused(&mut after);
    assert!(after.buffers.iter().any(|b| b.name == "y"), "{after}");
    for steps in 0..6 {
        assert_eq!(results(&before, steps), results(&after, steps), "T={steps}\n{after}");
    }
}

#[test]
fn a_state_that_is_stored_in_another_order_is_not_what_is_handed_up() {
    let text = STACK.replace("store h.next[i0]", "store h.next[B - 1 - i0]");
    let (before, mut after) = (parsed(&text), parsed(&text));
    assert!(!run_as_wavefronts(&mut after, &eager()).origins.is_empty());
    assert_eq!(after.buffers.len(), before.buffers.len() + 2, "{after}");
    for steps in 0..6 {
        assert_eq!(results(&before, steps), results(&after, steps), "T={steps}\n{after}");
    }
}

#[test]
fn a_loop_that_reads_past_the_one_below_it_is_no_layer() {
    let third = "  loop %r < T carry (k -> k.next) {
    kernel third [i0 < B] {
      e0: f32 = load k[i0]
      e1: f32 = load z[%r, i0]
      e2: f32 = load y[%r, i0]
      e3: f32 = add e1, e2
      e4: f32 = mul e0, e3
      e5: f32 = tanh e4
      store k.next[i0] = e5
    }
  }
  kernel final [i0 < B] {
    e0: f32 = load k[i0]
";
    let text = STACK
        .replace("  kernel final [i0 < B] {\n    e0: f32 = load h[i0]\n", third)
        .replace("  buffer y:", "  buffer k: f32[B] state\n  buffer k.next: f32[B] state\n  buffer y:")
        .replace("store g[i0] = e0", "store g[i0] = e0\n    store k[i0] = e0")
        .replace("y: f32[T, B] temporary", "y: f32[T, B] output 2");
    let (before, mut after) = (parsed(&text), parsed(&text));
    let wavefronts = run_as_wavefronts(&mut after, &eager());
    assert!(wavefronts.origins.contains_key("stack_wave"), "{after}");
    assert!(wavefronts.origins.values().all(|o| !o.contains("third")), "{after}");
    for steps in 0..6 {
        assert_eq!(results(&before, steps), results(&after, steps), "T={steps}\n{after}");
    }
    // Without what is read past it, there are three.
    let three = text.replace("load y[%r, i0]", "load x[%r, i0]");
    let (before, mut after) = (parsed(&three), parsed(&three));
    let wavefronts = run_as_wavefronts(&mut after, &eager());
    assert_eq!(wavefronts.origins["stack_wave"].len(), 4, "{after}");
    for steps in 0..6 {
        assert_eq!(results(&before, steps), results(&after, steps), "T={steps}\n{after}");
    }
}

#[test]
fn loops_that_do_not_fit_stay_as_they_are() {
    let carry = "e0: f32 = constant 0.0
    e2: f32 = load y[i0, i1]
    e1: f32 = recurrence i0 from e0 by e2 plus e2";
    let between = "e0: f32 = load y[i0, i1]\n    e1: f32 = exp e0";
    let near_misses = [
        ("stored in another order", "store v[i0, i1]", "store v[T - 1 - i0, i1]"),
        ("read in another order", "load v[%s, i0]", "load v[T - 1 - %s, i0]"),
        ("the first step for all", "load y[i0, i1]", "load y[0, i1]"),
        ("a step that a clamp may choose", "load y[i0, i1]", "load y[min(i0, 3), i1]"),
        ("the step before", "load v[%s, i0]", "load v[max(%s - 1, 0), i0]"),
        ("stored from the end", "store y[%t, i0]", "store y[T - 1 - %t, i0]"),
        ("the final state below", "load v[%s, i0]", "load h[i0]"),
        ("a reverse loop", "loop %s < T carry", "loop %s < T reverse carry"),
        ("a reverse loop below", "loop %t < T carry", "loop %t < T reverse carry"),
        ("a recurrence between", between, carry),
        ("nothing of the loop below", "load y[i0, i1]", "load x[i0, i1]"),
    ];
    for (what, from, to) in near_misses {
        assert!(STACK.contains(from), "{what}");
        let before = parsed(&STACK.replace(from, to));
        let mut after = before.clone();
        assert_eq!(run_as_wavefronts(&mut after, &eager()), Wavefronts::default(), "{what}\n{after}");
        assert_eq!(after, before, "{what}");
    }
}

#[test]
fn loops_of_fewer_steps_than_layers_stay_as_they_are() {
    for (steps, fits) in [("1", false), ("2", true)] {
        let mut graph =
            parsed(&STACK.replace("T, B", &format!("{steps}, B")).replace("< T", &format!("< {steps}")));
        assert_eq!(!run_as_wavefronts(&mut graph, &eager()).origins.is_empty(), fits, "{graph}");
    }
}

#[test]
fn a_gain_that_is_small_is_none() {
    // Two launches a step for one, beside other work.
    let mut graph = parsed(STACK);
    let device = |launch_seconds: f64| DeviceModel { launch_seconds, ..DeviceModel::cuda() };
    assert!(run_as_wavefronts(&mut graph, &device(1e-12)).origins.is_empty());
    assert!(!run_as_wavefronts(&mut graph, &device(1e-6)).origins.is_empty());
    // Between the steps of a loop on the cores there is a barrier.
    let on_cores = |barrier_seconds: f64| DeviceModel {
        barrier_seconds,
        loops_on_cores: true,
        ..device(if barrier_seconds > 1e-9 { 1e-12 } else { 1e-6 })
    };
    assert!(run_as_wavefronts(&mut parsed(STACK), &on_cores(1e-12)).origins.is_empty());
    assert!(!run_as_wavefronts(&mut parsed(STACK), &on_cores(1e-6)).origins.is_empty());
}
