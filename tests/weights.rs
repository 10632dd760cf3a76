//! Weights stored in 16 bits: exactly the model with rounded weights, refused where they do not fit.

use std::collections::BTreeMap;

use fuse::frontend::zoo::{gru_graph, lstm_graph};
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::{
    CompileOptions, Compiled, DType, Device, DeviceOptions, DimEnv, Graph, HostTensor, Target, Tier,
    WeightsDtype,
};

const NARROW: [WeightsDtype; 2] = [WeightsDtype::F16, WeightsDtype::Bf16];

fn tiers() -> Vec<Tier> {
    vec![
        Tier::Fast,
        #[cfg(feature = "llvm")]
        Tier::Peak,
        #[cfg(feature = "llvm")]
        Tier::Auto,
    ]
}

fn device() -> Device {
    Device::cpu(&DeviceOptions { threads: Some(2), ..DeviceOptions::default() })
        .expect("a team of threads starts")
}

fn compiled(graph: &Graph, weights_dtype: WeightsDtype, tier: Tier) -> Compiled {
    let options = CompileOptions { tier, weights_dtype, ..CompileOptions::new(Target::Cpu) };
    fuse::compile(graph, &options).expect("compiles")
}

/// A tensor of f32 with every value replaced.
fn map(tensor: &HostTensor, f: impl Fn(f32) -> f32) -> HostTensor {
    let values: Vec<f32> = tensor.to_values().expect("f32");
    HostTensor::from_values(tensor.shape(), &values.into_iter().map(f).collect::<Vec<_>>())
        .expect("the same shape")
}

fn rounded(tensor: &HostTensor, dtype: DType) -> HostTensor {
    map(tensor, |x| match dtype {
        DType::F16 => half::f16::from_f32(x).to_f32(),
        _ => half::bf16::from_f32(x).to_f32(),
    })
}

#[test]
fn results_are_those_of_the_model_with_rounded_weights() {
    let device = device();
    // 96 divides into panels, 40 does not.
    let graphs = [lstm_graph(64, 96), gru_graph(33, 64), lstm_graph(48, 40)].map(|g| g.expect("traces"));
    let cases = graphs.iter().flat_map(|g| NARROW.map(|w| (g, w)));
    for ((graph, weights), tier) in cases.flat_map(|c| tiers().into_iter().map(move |t| (c, t))) {
        let compiled = compiled(graph, weights, tier);
        let narrow = compiled.narrow_weights.as_ref().expect("asked for");
        let name = |i: &usize| graph.inputs()[*i].name.as_str();
        assert_eq!(narrow.parameters.iter().map(name).collect::<Vec<_>>(), ["weight_hh"]);
        let mut model = compiled.load(&device).expect("loads");
        for batch in [1, 3, 8] {
            let dims = DimEnv::new().with("T", 5).with("B", batch);
            let mut values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
            let (parameters, inputs) = fuse::random::by_kind(graph, &values);
            model.bind(parameters).expect("binds");
            model.wait_for_improvement();
            let outputs = model.run(&inputs, &dims).expect("runs");
            for i in &narrow.parameters {
                let rounded = rounded(&values[*i], narrow.dtype);
                assert!(rounded != values[*i], "rounding changes something");
                values[*i] = rounded;
            }
            let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
            let expected = interpreter.run(graph, &values).expect("interprets");
            for (output, expected) in outputs.iter().zip(&expected) {
                let tolerance = Tolerance { ulp: 8.0, absolute: 1e-6, relative: 1e-5 };
                if let Err(e) = compare(output, expected, tolerance) {
                    panic!("{} as {weights:?} on {tier:?} at {dims:?}: {e}", graph.name());
                }
            }
        }
    }
}

#[test]
fn a_weight_that_does_not_fit_is_refused_by_name_when_it_is_bound() {
    let graph = lstm_graph(64, 64).expect("traces");
    let dims = DimEnv::new().with("T", 2).with("B", 1);
    let values = fuse::random::values_for(&graph, &dims, 1).expect("dimensions are given");
    let (parameters, inputs) = fuse::random::by_kind(&graph, &values);
    let with = |name: &str, value: f32| -> BTreeMap<String, HostTensor> {
        let mut changed = parameters.clone();
        let spoilt = map(&changed[name], |x| if x > 0.0 { value } else { x });
        changed.insert(name.into(), spoilt);
        changed
    };
    for tier in tiers() {
        let mut model = compiled(&graph, WeightsDtype::F16, tier).load(&device()).expect("loads");
        let error = model.bind(with("weight_hh", 65520.0)).expect_err("is refused").to_string();
        for part in ["`weight_hh`", "f16", "6.5504e4", "6.552e4"] {
            assert!(error.contains(part), "no `{part}` in: {error}");
        }
        // Half a unit less still rounds to the largest f16; what is not stored narrow may be anything.
        model.bind(with("weight_hh", 65519.0)).expect("binds");
        model.bind(with("weight_ih", 1e6)).expect("binds");
        model.run(&inputs, &dims).expect("runs");
        let mut wide = compiled(&graph, WeightsDtype::Bf16, tier).load(&device()).expect("loads");
        wide.bind(with("weight_hh", 65520.0)).expect("bf16 has the range of f32");
    }
}

#[test]
fn another_target_than_the_cpu_is_refused() {
    let graph = lstm_graph(64, 64).expect("traces");
    let weights_dtype = WeightsDtype::F16;
    let options = CompileOptions { weights_dtype, ..CompileOptions::new(Target::Cuda) };
    let error = fuse::compile(&graph, &options).expect_err("is refused");
    assert!(!error.is_bug() && error.to_string().contains("f16 on the CPU only"), "{error}");
}

/// Subnormals, infinities and NaN too; the number of values is no multiple of a vector's lanes.
#[test]
fn every_16_bit_float_converts_exactly() {
    for dtype in [DType::F16, DType::Bf16] {
        let source =
            format!("graph g(x: {dtype}[N]) -> (y: f32[N]) {{\n  %y = cast x : f32[N]\n  return y = %y\n}}");
        let graph = fuse::ir::parse(&source).unwrap_or_else(|e| panic!("{}", e.render("g", &source)));
        let bits: Vec<u16> = (0..=u16::MAX).chain(0..7).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let x = HostTensor::from_bytes(dtype, &[bits.len()], bytes).expect("two bytes each");
        for tier in tiers() {
            let model = compiled(&graph, WeightsDtype::Given, tier).load(&device()).expect("loads");
            let outputs = model.run(&[("x", &x)], &DimEnv::new()).expect("runs");
            let values: Vec<f32> = outputs[0].to_values().expect("f32");
            for (bits, value) in bits.iter().zip(values) {
                let exact = match dtype {
                    DType::F16 => half::f16::from_bits(*bits).to_f32(),
                    _ => half::bf16::from_bits(*bits).to_f32(),
                };
                let same = value.to_bits() == exact.to_bits() || value.is_nan() && exact.is_nan();
                assert!(same, "{dtype} {bits:#06x} on {tier:?}: {value}, not {exact}");
            }
        }
    }
}

/// With one row the inner loop of a step is loads that convert and multiply-adds: no lane is taken out of a vector,
/// and nothing is spilled.
#[cfg(all(feature = "llvm", target_arch = "x86_64"))]
#[test]
fn a_step_converts_whole_vectors() {
    use fuse::codegen::llvm::{Optimization, host};
    let target = host::schedule_target();
    if target.vector_bits() < 512 {
        return;
    }
    let graph = lstm_graph(64, 1024).expect("traces");
    for (weights, convert) in [(WeightsDtype::F16, "vcvtph2ps"), (WeightsDtype::Bf16, "vpmovzxwd")] {
        let mut kernels = compiled(&graph, weights, Tier::Peak).kernels;
        fuse::rewrite::panel_parameters(&graph, &mut kernels, i64::from(target.vector_bits() / 32));
        let all = kernels.kernels();
        let step = all.iter().find(|(_, depth)| *depth > 0).expect("a loop").0;
        let function = fuse::codegen::schedule::schedule(&kernels, step, target).expect("schedules");
        let assembly = host::assembly(&[function], Optimization::Full).expect("compiles");
        let is_conversion = |line: &&str| line.contains(convert) && line.contains("zmm");
        let lines: Vec<&str> = assembly.lines().collect();
        assert!(lines.iter().filter(|l| is_conversion(l)).count() >= 4, "{assembly}");
        let first = lines.iter().position(is_conversion).expect("counted");
        let begin = lines[..first].iter().rposition(|l| l.starts_with('.')).expect("a loop has a label");
        let inside = lines[begin..].iter().take_while(|l| !l.trim_start().starts_with('j'));
        let inside: Vec<&str> = inside.copied().collect();
        let has = |part: &str| inside.iter().any(|l| l.contains(part));
        assert!(has("vfmadd"), "{}", inside.join("\n"));
        for part in ["vextract", "vpextr", "vpinsr", "rsp"] {
            assert!(!has(part), "`{part}` in\n{}", inside.join("\n"));
        }
    }
}
