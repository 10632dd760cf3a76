//! Kernels against graphs: whatever the graph, fused or not, its kernels verify and compute the same.

use std::fmt::Write;

use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::KernelGraph;
use fuse_ir::testing::{GraphConfig, Reference, Rounding, arb_dims, arb_graph, dims_for};
use fuse_ir::{DType, DimEnv, Graph, Tensor, interpret_kernels, verify_kernels};
use fuse_rewrite::{ChunkPolicy, Mode, Options, StripPolicy, optimize, store_joined, strip_loops};
use proptest::prelude::*;

/// Few enough rows for several strips of a few steps: three steps at batch 2.
const STRIPS: StripPolicy =
    StripPolicy { rows: 6, bytes: 1 << 20, most_weight_bytes: 1 << 20, rows_of_more: 12 };

/// What a graph is rewritten for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// A CPU, fused or not.
    Cpu(Mode),
    /// A CPU, with every recurrence in chunks of time.
    Chunks,
    /// A CPU, with loops in strips of a few steps.
    Strips,
    /// A device on which launches cost so much that whatever saves one is worth it.
    SlowLaunches,
}

fn run(graph: &Graph, way: Way, inputs: &[Tensor], dims: &DimEnv) -> Result<Vec<Tensor>, String> {
    let rewritten = Options::default();
    let (options, device) = match way {
        Way::Cpu(mode) => (Options { mode, ..rewritten }, DeviceModel::cpu()),
        Way::Strips => (rewritten, DeviceModel::cpu()),
        Way::Chunks => (Options { chunks: ChunkPolicy::Always, ..rewritten }, DeviceModel::cpu()),
        Way::SlowLaunches => (rewritten, DeviceModel { launch_seconds: 1.0, ..DeviceModel::cuda() }),
    };
    let mut optimized = optimize(graph, &device, &options).map_err(|e| e.to_string())?;
    if way == Way::Strips {
        store_joined(&mut optimized.kernels);
        strip_loops(&mut optimized.kernels, STRIPS);
    }
    verify_kernels(&optimized.kernels).map_err(|e| format!("{e}\n{}", optimized.kernels))?;
    interpret_kernels(&optimized.kernels, inputs, dims).map_err(|e| format!("{e}\n{}", optimized.kernels))
}

#[test]
fn every_op_keeps_its_meaning() {
    let mut failures = Vec::new();
    for case in fuse_ir::conformance::cases() {
        let mut dims = DimEnv::new();
        for (input, tensor) in case.graph.inputs().iter().zip(&case.inputs) {
            for (d, n) in case.graph.ty(input.value).shape.iter().zip(tensor.shape()) {
                for symbol in d.symbols() {
                    if d == &fuse_ir::Expr::symbol(symbol.name()) {
                        dims.set(symbol, *n as i64);
                    }
                }
            }
        }
        for way in [Way::Cpu(Mode::On), Way::Cpu(Mode::Off), Way::Strips, Way::SlowLaunches] {
            match run(&case.graph, way, &case.inputs, &dims) {
                Ok(got) => {
                    // Kernels run in f64 here; expected values are rounded to the declared type.
                    let narrow = ["f16", "bf16"].iter().any(|t| case.name.ends_with(t));
                    let tolerance = if narrow { 1e-2 } else { 1e-6 };
                    let reference = Reference::known(case.inputs.clone(), case.expected.clone(), tolerance);
                    if let Some(text) = reference.difference(&got) {
                        failures.push(format!("{} {way:?}: {text}", case.name));
                    }
                }
                Err(text) => failures.push(format!("{} {way:?}: {text}", case.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

fn agrees(graph: &Graph, dims: &DimEnv, way: Way, rounding: Rounding) -> Result<(), TestCaseError> {
    let dims = dims_for(graph, dims);
    let reference = Reference::of(graph, &dims, 7, rounding).map_err(TestCaseError::fail)?;
    let got = run(graph, way, &reference.inputs, &dims);
    let got = got.map_err(|e| TestCaseError::fail(format!("{e}\n{graph}")))?;
    match reference.difference(&got) {
        None => Ok(()),
        Some(text) => Err(TestCaseError::fail(format!("{way:?} {dims:?} {text}\n{graph}"))),
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(192)
}

/// A graph that prints as text.
struct Shown(Graph);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn graphs(config: GraphConfig) -> impl Strategy<Value = Shown> {
    arb_graph(config).prop_map(Shown)
}

/// Types whose constants fold to what the f64 interpreter computes: folding rounds to the declared type.
fn wide() -> GraphConfig {
    GraphConfig { dtypes: vec![DType::F64, DType::I32, DType::I64, DType::U8], ..GraphConfig::default() }
}

/// A layer of a random stack.
#[derive(Clone, Copy, Debug)]
struct Layer {
    /// Which values the step computes of its input and state: a cell of one product, or of two with two states.
    gated: bool,
    /// Whether the input goes through a product before the scan.
    projected: bool,
    /// Whether what a step hands up is its state with its input.
    residual: bool,
    /// What is read beside what the layer below made: nothing, the input of the stack, or the first layer.
    beside: u8,
    /// Whether rows end early.
    lengths: bool,
    /// Whether its history is an output.
    output: bool,
    /// 0: runs in reverse; 1: begins with the last state of the layer below; others: neither.
    unfit: u8,
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let flags = (any::<[bool; 5]>(), 0u8..6, 0u8..12);
    let layer = flags.prop_map(|([gated, projected, residual, lengths, output], beside, unfit)| Layer {
        gated,
        projected,
        residual,
        beside,
        lengths,
        output,
        unfit,
    });
    proptest::collection::vec(layer, 2..6)
}

/// A stack of recurrent layers, of 3 units each.
fn stack(layers: &[Layer]) -> Graph {
    let mut text = "graph stack(x: f64[T, B, 3], h: f64[B, 3], n: i64[B]".to_string();
    for l in 0..layers.len() {
        let _ = write!(text, ", u{l}: f64[3, 3], v{l}: f64[3, 3], w{l}: f64[3, 3]");
    }
    text.push_str(") {\n");
    let mut outputs = vec![format!("y = %y{}", layers.len() - 1)];
    for (l, layer) in layers.iter().enumerate() {
        let below = if l == 0 { "x".to_string() } else { format!("%y{}", l - 1) };
        let mut input = below.clone();
        let other = match layer.beside {
            0 if l > 0 => Some("x"),
            1 if l > 1 => Some("%y0"),
            _ => None,
        };
        if let Some(other) = other {
            let _ = writeln!(text, "%s{l} = add {input}, {other}");
            input = format!("%s{l}");
        }
        if layer.projected {
            let _ = writeln!(text, "%q{l} = contract {input}, w{l} axes=[2:0]");
            input = format!("%q{l}");
        }
        let init = if layer.unfit == 1 && l > 0 { format!("%h{}", l - 1) } else { "h".to_string() };
        let direction = if layer.unfit == 0 { " reverse" } else { "" };
        let lengths = if layer.lengths { " lengths n" } else { "" };
        let _ = writeln!(text, "{}", scan(l, layer, (&init, &input), (direction, lengths)));
        outputs.push(format!("h{l} = %h{l}"));
        if layer.output && l + 1 < layers.len() {
            outputs.push(format!("y{l} = %y{l}"));
        }
    }
    let _ = writeln!(text, "return {}\n}}", outputs.join(", "));
    fuse_ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn scan(l: usize, layer: &Layer, (init, input): (&str, &str), (direction, lengths): (&str, &str)) -> String {
    let (results, carries, weights, step, next) = if layer.gated {
        let step = "%p = contract h, u axes=[1:0]
           %o = contract h, v axes=[1:0]
           %a = add %p, i
           %g = sigmoid %a
           %k = mul %g, c
           %d = add %k, %o
           %t = tanh %d
           %m = mul %t, %g";
        let (results, carries) = (format!("%h{l}, %c{l}"), format!("h = {init}, c = h"));
        (results, carries, format!("u = u{l}, v = v{l}"), step, "next h = %m, c = %d")
    } else {
        let step = "%p = contract h, u axes=[1:0]
           %a = add %p, i
           %m = tanh %a";
        (format!("%h{l}"), format!("h = {init}"), format!("u = u{l}"), step, "next h = %m")
    };
    let made = if layer.residual { "%r" } else { "%m" };
    format!(
        "{results}, %y{l} = scan over T{direction} carry ({carries}) each (i = {input}) with ({weights}){lengths} {{
           {step}
           %r = add %m, i
           {next}
           stack y = {made}
         }}"
    )
}

#[test]
fn random_stacks_are_wavefronts_often_enough_to_tell() {
    let plain = Layer {
        gated: true,
        projected: true,
        residual: true,
        beside: 2,
        lengths: true,
        output: true,
        unfit: 2,
    };
    let device = DeviceModel { launch_seconds: 1.0, ..DeviceModel::cuda() };
    let kernels = optimize(&stack(&[plain; 3]), &device, &Options::default()).unwrap().kernels;
    assert!(kernels.to_string().contains("stack_wave"), "{kernels}");
}

#[test]
fn a_layer_with_projected_inputs_runs_in_strips_in_either_direction() {
    let layer = Layer {
        gated: true,
        projected: true,
        residual: false,
        beside: 2,
        lengths: false,
        output: true,
        unfit: 2,
    };
    for unfit in [2, 0] {
        let graph = stack(&[Layer { unfit, ..layer }]);
        let mut kernels = optimize(&graph, &DeviceModel::cpu(), &Options::default()).unwrap().kernels;
        let tight = StripPolicy { most_weight_bytes: 3 * 9 * 8 - 1, ..STRIPS };
        let mut longer = kernels.clone();
        assert_eq!(strip_loops(&mut longer, tight), 1, "{longer}");
        assert_eq!(strip_loops(&mut kernels, STRIPS), 1, "{kernels}");
        let rows = |kernels: &KernelGraph, rows: i64| {
            let steps = format!("floordiv({}, 128*B + 1) + 1", 128 * (rows - 1));
            assert!(kernels.to_string().contains(&steps), "{kernels}");
        };
        rows(&kernels, STRIPS.rows);
        // Three matrices do not fit.
        rows(&longer, STRIPS.rows_of_more);
        verify_kernels(&kernels).unwrap_or_else(|e| panic!("{e}\n{kernels}"));
        for (steps, batch) in [(0, 2), (1, 2), (3, 2), (7, 2), (5, 0), (9, 40)] {
            let dims = DimEnv::new().with("T", steps).with("B", batch);
            agrees(&graph, &dims, Way::Strips, Rounding::F64).unwrap_or_else(|e| panic!("{dims:?}: {e}"));
        }
    }
}

/// The two directions of a layer, joined at each step, or one of them twice.
fn directions(joined: &str) -> Graph {
    let direction = |name: &str, reverse: &str, op: &str| {
        format!(
            "%h{name}, %{name} = scan {reverse} over T carry (h = h) each (x = x) with (w = w) {{
               %p = contract h, w axes=[1:0]
               %a = {op} %p, x
               %n = tanh %a
               next h = %n
               stack y = %n
             }}"
        )
    };
    let (f, r) = (direction("f", "", "add"), direction("r", "reverse", "sub"));
    let text = format!(
        "graph g(x: f64[T, B, 3], h: f64[B, 3], w: f64[3, 3]) {{
           {f}
           {r}
           %y = concat {joined} axis=2
           return y = %y
         }}"
    );
    fuse_ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn joined_directions_are_stored_where_they_lie() {
    for (joined, gone) in [("%f, %r", 1), ("%r, %f", 1), ("%f, %r, %f", 0), ("%r, x, %f", 0)] {
        let graph = directions(joined);
        let mut kernels = optimize(&graph, &DeviceModel::cpu(), &Options::default()).unwrap().kernels;
        assert_eq!(store_joined(&mut kernels), gone, "{joined}: {kernels}");
        for (steps, batch) in [(0, 2), (1, 1), (4, 3), (7, 2)] {
            let dims = DimEnv::new().with("T", steps).with("B", batch);
            agrees(&graph, &dims, Way::Strips, Rounding::F64).unwrap_or_else(|e| panic!("{dims:?}: {e}"));
        }
    }
}

/// A sum over nothing of what is read at a fixed position, which there is not: the read stands outside of the sum.
#[test]
fn the_last_element_of_nothing_is_not_read() {
    let graph = fuse_ir::parse(
        "graph g(x: f32[1, B, T]) -> (y: i64[1, T]) {
           %1 = reverse x axes=[1, 2]
           %2 = argmax %1 axes=[0]
           %3 = argmax %1 axes=[2]
           %4 = reshape %3 : i64[B]
           %5 = gather %4, %2 axis=0
           %6 = contract %3, %5 axes=[1:0]
           return y = %6
         }",
    )
    .expect("the graph is well-formed");
    for (batch, steps) in [(0, 1), (0, 2), (1, 0), (2, 3)] {
        let dims = DimEnv::new().with("T", steps).with("B", batch);
        agrees(&graph, &dims, Way::Cpu(Mode::On), Rounding::F64).unwrap_or_else(|e| panic!("{dims:?}: {e}"));
    }
}

/// Every second element of what there may be none of: fewer than none cannot be stored.
#[test]
fn strides_over_nothing_need_nothing() {
    let graph = fuse_ir::parse(
        "graph g(x: f64[T, B]) -> (y: f64[floordiv(3*T + 1, 2), floordiv(3*T + 1, 2)]) {
           %1 = exp x
           %2 = concat x, %1, x axis=0
           %3 = slice %2 start=[0, 0] length=[floordiv(3*T + 1, 2), floordiv(B + 1, 2)] step=[2, 2]
           %4 = add %3, %3
           %5 = contract %3, %4 axes=[1:1]
           return y = %5
         }",
    )
    .expect("the graph is well-formed");
    for (steps, batch) in [(0, 1), (1, 0), (0, 0), (1, 1), (2, 3), (3, 4)] {
        let dims = DimEnv::new().with("T", steps).with("B", batch);
        for way in [Way::Cpu(Mode::On), Way::Strips, Way::SlowLaunches] {
            agrees(&graph, &dims, way, Rounding::F64).unwrap_or_else(|e| panic!("{dims:?}: {e}"));
        }
    }
}

/// The product over no axis of -1 and 0 is -0 where it is a product, and 0 where it is a sum: 1 / sqrt of it has
/// either sign.
#[test]
fn the_sign_of_a_sum_that_is_zero_is_not_promised() {
    let graph = fuse_ir::parse(
        "graph g(x: f64[B]) -> (y: bool[B]) {
           %1 = relu x
           %2 = contract x, %1 batch=[0:0] axes=[]
           %3 = rsqrt %2
           %4 = lt %1, %3
           return y = %4
         }",
    )
    .expect("the graph is well-formed");
    for way in [Way::Cpu(Mode::On), Way::Cpu(Mode::Off), Way::SlowLaunches] {
        agrees(&graph, &DimEnv::new().with("B", 9), way, Rounding::F64).unwrap_or_else(|e| panic!("{e}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_keep_their_meaning_unfused(graph in graphs(GraphConfig::default()), dims in arb_dims()) {
        agrees(&graph.0, &dims, Way::Cpu(Mode::Off), Rounding::F64)?;
    }

    #[test]
    fn random_graphs_keep_their_meaning_fused(graph in graphs(wide()), dims in arb_dims()) {
        agrees(&graph.0, &dims, Way::Cpu(Mode::On), Rounding::F64)?;
    }

    #[test]
    fn random_graphs_keep_their_meaning_in_chunks_of_time(graph in graphs(wide()), dims in arb_dims()) {
        agrees(&graph.0, &dims, Way::Chunks, Rounding::F64)?;
    }

    #[test]
    fn random_graphs_of_all_types_become_legal_kernels(
        graph in graphs(GraphConfig::default()),
        dims in arb_dims(),
    ) {
        agrees(&graph.0, &dims, Way::Cpu(Mode::On), Rounding { tolerance: f64::INFINITY, ..Rounding::F64 })?;
    }

    #[test]
    fn random_graphs_keep_their_meaning_where_launches_are_slow(graph in graphs(wide()), dims in arb_dims()) {
        agrees(&graph.0, &dims, Way::SlowLaunches, Rounding::F64)?;
    }

    #[test]
    fn random_stacks_keep_their_meaning_where_launches_are_slow(layers in layers(), steps in 0i64..9) {
        let dims = DimEnv::new().with("T", steps).with("B", 2);
        agrees(&stack(&layers), &dims, Way::SlowLaunches, Rounding::F64)?;
    }

    #[test]
    fn random_stacks_keep_their_meaning_in_strips(layers in layers(), steps in 0i64..9) {
        let dims = DimEnv::new().with("T", steps).with("B", 2);
        agrees(&stack(&layers), &dims, Way::Strips, Rounding::F64)?;
    }

    #[test]
    fn random_graphs_keep_their_meaning_in_strips(graph in graphs(wide()), dims in arb_dims()) {
        agrees(&graph.0, &dims, Way::Strips, Rounding::F64)?;
    }

    #[test]
    fn equal_graphs_give_equal_kernels(graph in graphs(GraphConfig::default())) {
        let kernels = || optimize(&graph.0, &DeviceModel::cpu(), &Options::default()).unwrap().kernels;
        prop_assert_eq!(kernels().to_string(), kernels().to_string());
    }
}
