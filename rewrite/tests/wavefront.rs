//! Stacks of layers as wavefronts: where they apply and where they just do not, at lengths down to none.

mod scan_support;

use fuse_frontend::zoo::cells::{Gru, Lstm, TanhRnn};
use fuse_frontend::zoo::{Cell, StackForm, stack_of};
use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, Graph, interpret_kernels, parse, parse_kernels, verify_kernels};
use fuse_rewrite::{Optimized, Options, cost_of, explain, optimize};
use scan_support::loops;

/// Long enough for every loop of a wavefront to run, down to where only some or none do.
const LENGTHS: [i64; 7] = [0, 1, 2, 3, 4, 5, 7];

/// A device on which launches cost so much that whatever saves one is worth it.
fn eager() -> DeviceModel {
    DeviceModel { launch_seconds: 1.0, ..DeviceModel::cuda() }
}

/// The kernels of a graph for a device, which compute what it means at all lengths.
fn fused(graph: &Graph, device: &DeviceModel) -> Optimized {
    let optimized = optimize(graph, device, &Options::default()).unwrap();
    verify_kernels(&optimized.kernels).unwrap_or_else(|e| panic!("{e}\n{}", optimized.kernels));
    let text = optimized.kernels.to_string();
    assert_eq!(parse_kernels(&text).unwrap(), optimized.kernels, "{text}");
    for t in LENGTHS {
        let mut dims = DimEnv::new();
        for symbol in graph.symbols() {
            dims.set(symbol.clone(), if symbol.name() == "B" { 2 } else { t });
        }
        let inputs = inputs_for(graph, &dims, 3).unwrap();
        let expected = interpret(graph, &inputs, Precision::F64).unwrap();
        let got =
            interpret_kernels(&optimized.kernels, &inputs, &dims).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(expected.len(), got.len());
        for (e, g) in expected.iter().zip(&got) {
            assert_eq!(e.shape(), g.shape());
            for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                let close = (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                assert!(close, "{e} and {g} at T={t}\n{text}");
            }
        }
    }
    optimized
}

fn fused_text(text: &str) -> Optimized {
    fused(&parse(text).unwrap_or_else(|e| panic!("{e}")), &eager())
}

/// The kernels of each outermost loop.
fn kernels_of_loops(optimized: &Optimized) -> Vec<usize> {
    loops(&optimized.kernels).iter().map(|l| l.body.len()).collect()
}

fn is_wavefront(optimized: &Optimized) -> bool {
    optimized.kernels.kernels().iter().any(|(k, _)| k.name.contains("_wave"))
}

fn stack<const N: usize, C: Cell<N>>(layers: usize, lengths: bool) -> Graph {
    stack_of::<N, C>("stack", 3, 4, StackForm { layers, bidirectional: false, lengths }).unwrap()
}

#[test]
fn a_stack_of_layers_is_a_launch_a_step() {
    let two = fused(&stack::<2, Lstm>(2, false), &eager());
    assert_eq!(kernels_of_loops(&two), [1, 1, 1], "{}", two.kernels);
    let dims = DimEnv::new().with("T", 100).with("B", 2);
    assert_eq!(loops(&two.kernels)[1].trip.eval_dim(&dims), Ok(99));
    // The initial states, the projection of the input, the final states; then a launch a step and one more.
    assert_eq!(cost_of(&two.kernels, &eager(), &dims).launches, 3.0 + 101.0, "{}", two.kernels);
    let three = fused(&stack::<2, Lstm>(3, false), &eager());
    assert_eq!(kernels_of_loops(&three), [1; 6], "{}", three.kernels);
    assert_eq!(
        cost_of(&three.kernels, &eager(), &dims).launches,
        3.0 + 98.0 + 2.0 + 3.0,
        "{}",
        three.kernels
    );
}

/// Two loops over `T`, with what is given between them, and the upper one.
fn two_loops(between: &str, upper: &str) -> String {
    format!(
        "graph g(x: f32[T, B, 4], z: f32[S, B, 4], u: f32[4, 4], w: f32[4, 4], h: f32[B, 4]) {{
           %a, %y = scan over T carry (h = h) each (x = x) with (u = u) {{
             %p = contract h, u axes=[1:0]
             %s = add %p, x
             %m = tanh %s
             next h = %m
             stack y = %m
           }}
           {between}
           %b, %z = {upper}
           return b = %b, z = %z, a = %a
         }}"
    )
}

/// An upper loop of a product of its state and one input.
fn upper(over: &str, init: &str, input: &str) -> String {
    format!(
        "scan over {over} carry (h = {init}) each (x = {input}) with (w = w) {{
           %p = contract h, w axes=[1:0]
           %s = sub %p, x
           %m = tanh %s
           next h = %m
           stack z = %m
         }}"
    )
}

#[test]
fn a_loop_that_reads_the_history_below_step_by_step_runs_beside_it() {
    let direct = fused_text(&two_loops("", &upper("T", "h", "%y")));
    assert_eq!(kernels_of_loops(&direct), [1, 1, 1], "{}", direct.kernels);
    assert!(!direct.kernels.buffers.iter().any(|b| b.name.starts_with('v')), "{}", direct.kernels);
    let projected = fused_text(&two_loops("%q = contract %y, w axes=[2:0]", &upper("T", "h", "%q")));
    assert_eq!(kernels_of_loops(&projected), [1, 1, 1], "{}", projected.kernels);
}

#[test]
fn what_lies_between_and_is_read_elsewhere_is_computed_for_all_steps_too() {
    let text = two_loops(
        "%q = contract %y, w axes=[2:0]
         %e = exp %q
         %most = max %e axes=[0]",
        &upper("T", "h", "%e"),
    );
    let text = text.replace("a = %a }", "a = %a, e = %e, most = %most, y = %y }");
    let both = fused_text(&text);
    assert!(is_wavefront(&both), "{}", both.kernels);
}

#[test]
fn what_a_step_makes_of_its_state_is_handed_up_as_a_state() {
    // What is stored is the state with the input, and no state itself.
    let text = two_loops("", &upper("T", "h", "%y"))
        .replace("next h = %m\n             stack y = %m", "%r = add %m, x\n next h = %m\n stack y = %r");
    let residual = fused_text(&text);
    assert_eq!(kernels_of_loops(&residual), [1, 1, 1], "{}", residual.kernels);
    let carries: Vec<usize> = loops(&residual.kernels).iter().map(|l| l.carries.len()).collect();
    assert_eq!(carries, [1, 3, 1], "{}", residual.kernels);
    for lengths in [false, true] {
        for layers in [2, 3, 4] {
            assert!(is_wavefront(&fused(&stack::<2, Lstm>(layers, lengths), &eager())));
            assert!(is_wavefront(&fused(&stack::<1, TanhRnn>(layers, lengths), &eager())));
        }
    }
}

#[test]
fn layers_of_several_kernels_keep_their_order() {
    let gru = fused(&stack::<1, Gru>(3, false), &eager());
    let wave = loops(&gru.kernels)[2];
    assert!(is_wavefront(&gru) && wave.body.len() < 6, "{}", gru.kernels);
    // A layer whose kernels have other spaces gains nothing, beside whatever stands below it.
    let unlike =
        "graph g(x: f32[T, B, 4], u: f32[4, 4], w: f32[4, 3], v: f32[3, 3], h: f32[B, 4], g: f32[B, 3]) {
       %a, %y = scan over T carry (h = h) each (x = x) with (u = u) {
         %p = contract h, u axes=[1:0]
         %s = add %p, x
         %m = tanh %s
         next h = %m
         stack y = %m
       }
       %q = contract %y, w axes=[2:0]
       %b, %z = scan over T carry (g = g) each (q = %q) with (v = v) {
         %p = contract g, v axes=[1:0]
         %s = add %p, q
         %m = tanh %s
         next g = %m
         stack z = %m
       }
       return b = %b, z = %z
     }";
    assert!(!is_wavefront(&fused_text(unlike)));
}

#[test]
fn a_skip_over_a_layer_ends_the_stack() {
    let text = two_loops("", &upper("T", "h", "%y")).replace(
        "return b = %b",
        &format!("%r = add %y, %z\n %c, %q = {}\n return c = %c, q = %q, b = %b", upper("T", "%b", "%r")),
    );
    // The third loop starts where the second ends, so that it could not run beside it at all.
    let lower_two = fused_text(&text);
    assert_eq!(kernels_of_loops(&lower_two), [1, 1, 1, 1], "{}", lower_two.kernels);
    // This one could, but reads what the first made two steps before.
    let lower_two = fused_text(&text.replace("(h = %b)", "(h = h)"));
    assert!(is_wavefront(&lower_two), "{}", lower_two.kernels);
}

#[test]
fn a_layer_that_reads_another_step_is_not_skewed() {
    let shifted = "%cut = slice %y start=[0, 0, 0] length=[T, B, 4] step=[1, 1, 1]
         %pad = pad %cut low=[1, 0, 0] high=[0, 0, 0] value=0.0
         %q = slice %pad start=[0, 0, 0] length=[T, B, 4] step=[1, 1, 1]";
    let later = "%pad = pad %y low=[0, 0, 0] high=[1, 0, 0] value=0.0
         %q = slice %pad start=[1, 0, 0] length=[T, B, 4] step=[1, 1, 1]";
    let all = "%q = max %y axes=[0]
         %r0 = broadcast %q axes=[1, 2] : f32[T, B, 4]
         %r = add %r0, %y";
    let (plain, reversed) = (upper("T", "h", "%y"), upper("T", "h", "%q"));
    let cases = [
        ("a reverse layer", "", plain.replace("over T", "over T reverse")),
        ("a reversed history", "%q = reverse %y axes=[0]", reversed.clone()),
        ("the step before", shifted, reversed.clone()),
        ("the step after", later, reversed.clone()),
        (
            "all steps",
            "%q = sum %y axes=[0]\n %r = broadcast %q axes=[1, 2] : f32[T, B, 4]",
            upper("T", "h", "%r"),
        ),
        ("the last step", "", upper("T", "%a", "%y")),
        ("its own and all", all, upper("T", "h", "%r")),
        (
            "fewer steps",
            "%q = slice %y start=[0, 0, 0] length=[min(T, 2), B, 4] step=[1, 1, 1]",
            upper("min(T, 2)", "h", "%q"),
        ),
    ];
    for (what, between, upper) in cases {
        let apart = fused_text(&two_loops(between, &upper));
        assert!(!is_wavefront(&apart), "{what}: {}", apart.kernels);
        assert_eq!(loops(&apart.kernels).len(), 2, "{what}: {}", apart.kernels);
    }
}

#[test]
fn a_gather_from_the_history_below_is_not_skewed() {
    let text = two_loops("%q = gather %y, i axis=0", &upper("T", "h", "%q"))
        .replace("h: f32[B, 4])", "h: f32[B, 4], i: i64[T])");
    let apart = fused_text(&text);
    assert!(!is_wavefront(&apart), "{}", apart.kernels);
}

#[test]
fn a_loop_between_two_layers_keeps_them_apart() {
    let between = format!(
        "%c, %q = {}\n %s = sum %q axes=[0]\n %t = broadcast %s axes=[1, 2] : f32[T, B, 4]\n %r = add %y, %t",
        upper("S", "%a", "z")
    );
    let apart = fused_text(&two_loops(&between, &upper("T", "h", "%r")));
    assert!(!is_wavefront(&apart), "{}", apart.kernels);
    // One that has nothing to do with them does not.
    let beside = format!("%c, %q = {}", upper("S", "h", "z"));
    let text = two_loops(&beside, &upper("T", "h", "%y")).replace("b = %b", "c = %c, b = %b");
    assert!(is_wavefront(&fused_text(&text)));
}

#[test]
fn loops_with_loops_in_them_are_not_skewed() {
    let nested = "scan over T carry (h = h) each (x = %y) with (z = z) {
         %i = scan over S carry (g = h) each (z = z) {
           %t = tanh g
           %s = add %t, z
           next g = %s
         }
         %m = add %i, x
         next h = %m
         stack z = %m
       }";
    assert!(!is_wavefront(&fused_text(&two_loops("", nested))));
}

#[test]
fn both_directions_of_layers_are_not_skewed() {
    let graph =
        stack_of::<2, Lstm>("stack", 3, 4, StackForm { layers: 2, bidirectional: true, lengths: false })
            .unwrap();
    let both = fused(&graph, &eager());
    assert!(!is_wavefront(&both), "{}", both.kernels);
    assert_eq!(loops(&both.kernels).len(), 2);
}

#[test]
fn a_constant_number_of_steps_leaves_out_loops_that_never_run() {
    let text = two_loops("", &upper("T", "h", "%y"));
    for (steps, expected) in [(2, 3), (5, 3)] {
        let constant = fused_text(
            &text.replace("f32[T", &format!("f32[{steps}")).replace("over T", &format!("over {steps}")),
        );
        assert_eq!(loops(&constant.kernels).len(), expected, "{}", constant.kernels);
    }
}

#[test]
fn two_stacks_beside_each_other_are_two_wavefronts_or_one() {
    let text = two_loops("", &upper("T", "h", "%y")).replace(
        "return b = %b",
        &format!(
            "%c, %p = {}\n %d, %q = {}\n return c = %c, q = %q, d = %d, b = %b",
            upper("S", "h", "z"),
            upper("S", "h", "%p")
        ),
    );
    let two = fused_text(&text);
    assert_eq!(kernels_of_loops(&two), [1; 6], "{}", two.kernels);
}

#[test]
fn the_model_of_the_device_decides() {
    let graph = |hidden: i64| {
        stack_of::<2, Lstm>("stack", hidden, hidden, StackForm { layers: 2, ..StackForm::ONE_LAYER }).unwrap()
    };
    let waves = |hidden: i64, device: &DeviceModel| {
        is_wavefront(&optimize(&graph(hidden), device, &Options::default()).unwrap())
    };
    // Launches saved against the upper layer's input weights, which every step reads.
    assert!(waves(64, &DeviceModel::cuda()));
    assert!(!waves(1024, &DeviceModel::cuda()));
    assert!(!waves(256, &DeviceModel::cpu()));
    // Weights of one layer fit the chip, those of both and of the projection do not.
    let layer = 64 * 4 * 64 * 4;
    let small = |bytes: u64| DeviceModel { on_chip_bytes: bytes, cores: 1, ..DeviceModel::cuda() };
    let slow = |bytes: u64| DeviceModel { memory_bytes_per_second: 1e11, ..small(bytes) };
    assert!(waves(64, &slow(4 * layer)));
    assert!(!waves(64, &slow(2 * layer)));
}

#[test]
fn every_kernel_of_a_wavefront_is_explained() {
    let graph = stack::<2, Lstm>(2, false);
    let explanation = explain(&graph, &eager(), &Options::default()).unwrap();
    let wave = explanation.kernels.iter().find(|k| k.name == "stack_wave").unwrap();
    let rise = explanation.kernels.iter().find(|k| k.name == "stack_rise").unwrap();
    assert_eq!(explanation.kernels.len(), explanation.after.kernels().len());
    assert!(wave.in_registers > rise.in_registers && !wave.boundaries.is_empty(), "{wave:?}");
}
