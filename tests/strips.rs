//! Loops and kernels in strips on the CPU: at any length, whatever divides it, on any number of threads.

use fuse::frontend::zoo;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::ir::kernel::Step;
use fuse::{CompileOptions, Device, DeviceOptions, DimEnv, Executable, Graph, HostTensor, Target, Tier};

/// A minimal GRU, which becomes a recurrence that is no loop, forward or from the end.
fn minimal_gru(reverse: bool) -> Graph {
    let direction = if reverse { "reverse " } else { "" };
    let text = format!(
        "graph gru(x: f32[T, B, 33], h: f32[B, 21], param w: f32[33, 42]) {{
           %h, %y = scan {direction}over T carry (h = h) each (x = x) with (w = w) {{
             %p = contract x, w axes=[1:0]
             %f = slice %p start=[0, 0] length=[B, 21]
             %g = slice %p start=[0, 21] length=[B, 21]
             %z = sigmoid %f
             %one = constant 1.0 : f32[]
             %ones = broadcast %one axes=[] : f32[B, 21]
             %k = sub %ones, %z
             %a = mul %k, h
             %c = mul %z, %g
             %n = add %a, %c
             next h = %n
             stack y = %n
           }}
           return y = %y, h = %h
         }}"
    );
    fuse::ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The logarithms of the probabilities of so many classes at each step.
fn classifier(classes: usize) -> Graph {
    let text = format!(
        "graph classifier(x: f32[T, B, 40], param w: f32[40, {classes}]) {{
           %p = contract x, w axes=[2:0]
           %m = max %p axes=[2]
           %mb = broadcast %m axes=[0, 1] : f32[T, B, {classes}]
           %d = sub %p, %mb
           %e = exp %d
           %s = sum %e axes=[2]
           %l = log %s
           %lb = broadcast %l axes=[0, 1] : f32[T, B, {classes}]
           %y = sub %d, %lb
           return y = %y
         }}"
    );
    fuse::ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn tiers() -> Vec<Tier> {
    vec![
        Tier::Fast,
        #[cfg(feature = "llvm")]
        Tier::Peak,
    ]
}

fn load(graph: &Graph, tier: Tier, threads: usize) -> Executable {
    let device = Device::cpu(&DeviceOptions { threads: Some(threads), ..DeviceOptions::default() });
    let options = CompileOptions { tier, ..CompileOptions::new(Target::Cpu) };
    let compiled = fuse::compile(graph, &options).expect("compiles");
    compiled.load(&device.expect("a team of threads starts")).expect("loads")
}

/// Runs a model on random values and compares every output with the interpreter in f64.
fn agrees(graph: &Graph, model: &mut Executable, dims: &DimEnv) -> Vec<HostTensor> {
    let values = fuse::random::values_for(graph, dims, 3).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(graph, &values);
    model.bind(parameters).expect("binds");
    let outputs = model.run(&inputs, dims).expect("runs");
    let expected = Interpreter::new(Precision::F64).with_dims(dims.clone()).run(graph, &values);
    let tolerance = Tolerance { ulp: 0.0, absolute: 1e-5, relative: 1e-5 };
    for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected.expect("interprets"))
    {
        if let Err(e) = compare(got, expected, tolerance) {
            panic!("{} `{}` at {dims:?}: {e}", graph.name(), output.name);
        }
    }
    outputs
}

/// Whether the program has a loop over strips.
fn is_cut(model: &Executable) -> bool {
    let over_strips = |step: &Step| matches!(step, Step::Loop(l) if l.counter.name().ends_with("_strip"));
    model.kernels().steps.iter().any(over_strips)
}

#[test]
fn strips_of_any_length_agree_with_the_interpreter() {
    let graphs =
        [minimal_gru(false), minimal_gru(true), classifier(131), zoo::lstm_graph(24, 40).expect("traces")];
    for graph in &graphs {
        for tier in tiers() {
            for threads in [1, 3] {
                let mut model = load(graph, tier, threads);
                assert!(is_cut(&model), "{}", model.kernels());
                // A batch of 7 has 15 steps a strip, one of 41 three, and one of 130 one.
                for (steps, batch) in
                    [(1, 1), (1, 7), (15, 7), (31, 7), (8, 41), (2, 130), (150, 1), (0, 3), (3, 0)]
                {
                    agrees(graph, &mut model, &DimEnv::new().with("T", steps).with("B", batch));
                }
            }
        }
    }
}

#[test]
fn threads_make_no_difference_to_strips() {
    let dims = DimEnv::new().with("T", 53).with("B", 9);
    for graph in [minimal_gru(false), minimal_gru(true), classifier(131)] {
        for tier in tiers() {
            let alone = agrees(&graph, &mut load(&graph, tier, 1), &dims);
            assert_eq!(agrees(&graph, &mut load(&graph, tier, 4), &dims), alone, "{} {tier:?}", graph.name());
        }
    }
}

#[test]
fn what_lies_between_strips_does_not_grow_with_the_steps() {
    for (graph, most) in [(minimal_gru(false), 150 * 42 * 4), (classifier(131), 150 * 131 * 4)] {
        for tier in tiers() {
            let mut model = load(&graph, tier, 2);
            let dims = DimEnv::new().with("T", 1000).with("B", 9);
            let values = fuse::random::values_for(&graph, &dims, 3).expect("dimensions are given");
            model.bind(fuse::random::by_kind(&graph, &values).0).expect("binds");
            let plan = model.plan(&dims).expect("plans");
            assert!(plan.arena_bytes < most, "{plan}");
        }
    }
}
