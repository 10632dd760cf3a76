//! Large products on the simulated GPU, which reports races and accesses outside, against the interpreter.
#![cfg(feature = "llvm")]

use fuse::{CompileOptions, ProductPrecision, Target};
use fuse_codegen::kernel_ir::Function;
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::expr::DimEnv;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_runtime::Device;

/// Sums of some hundred products of numbers near 1, in another order.
const TOLERANCE: Tolerance = Tolerance { ulp: 8.0, absolute: 2e-4, relative: 2e-5 };

fn stages_factors(function: &Function) -> bool {
    function.shared.iter().any(|array| array.name.starts_with("factor_"))
}

/// Compiles once and runs at all dimensions, in tiles if `tiled`.
fn check(text: &str, tiled: bool, runs: &[&[(&str, i64)]]) {
    let graph = fuse_ir::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    for options in [CompileOptions::new(Target::Cuda), CompileOptions::unfused(Target::Cuda)] {
        let compiled = fuse::compile(&graph, &options).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(
            compiled.functions().expect("schedules").iter().any(stages_factors),
            tiled,
            "{}",
            compiled.kernels
        );
        let mut model = compiled.load(&device).unwrap_or_else(|e| panic!("{e}"));
        for (seed, dims) in runs.iter().enumerate() {
            let dims = dims.iter().fold(DimEnv::new(), |env, (name, value)| env.with(name, *value));
            let values = fuse::random::values_for(&graph, &dims, seed as u64).expect("values");
            let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
            let expected = interpreter.run(&graph, &values).expect("the interpreter runs");
            let (parameters, inputs) = fuse::random::by_kind(&graph, &values);
            model.bind(parameters).expect("parameters fit");
            let outputs = model.run(&inputs, &dims).unwrap_or_else(|e| panic!("{dims:?}: {e}\n{text}"));
            for (got, expected) in outputs.iter().zip(&expected) {
                compare(got, expected, TOLERANCE).unwrap_or_else(|e| panic!("{dims:?}: {e}\n{text}"));
            }
        }
    }
}

#[test]
fn every_layout_runs_at_odd_symbolic_extents() {
    for (x, w, axes) in [
        ("M, K", "K, N", "[1:0]"),
        ("M, K", "N, K", "[1:1]"),
        ("K, M", "K, N", "[0:0]"),
        ("K, M", "N, K", "[0:1]"),
    ] {
        let text = format!(
            "graph g(x: f32[{x}], w: f32[{w}]) {{\n  %p = contract x, w axes={axes}\n  return y = %p\n}}\n"
        );
        let at = |m, n, k| [("M", m), ("N", n), ("K", k)];
        let runs = [at(130, 67, 33), at(1, 1, 1), at(64, 64, 16), at(5, 70, 0), at(0, 3, 4), at(3, 0, 4)];
        let runs: Vec<&[(&str, i64)]> = runs.iter().map(|r| r.as_slice()).collect();
        check(&text, true, &runs);
    }
}

#[test]
fn fixed_extents_that_are_no_whole_tiles_are_masked() {
    for (m, n, k) in
        [(130, 67, 33), (129, 132, 36), (65, 64, 40), (200, 40, 20), (80, 260, 64), (128, 128, 64)]
    {
        let text = format!(
            "graph g(x: f32[{m}, {k}], param w: f32[{k}, {n}], param bias: f32[{n}]) {{
  %p = contract x, w axes=[1:0]
  %b = broadcast bias axes=[1] : f32[{m}, {n}]
  %s = add %p, %b
  %t = tanh %s
  return y = %t
}}
"
        );
        check(&text, true, &[&[]]);
    }
}

#[test]
fn rows_of_several_axes_and_products_that_share_an_operand() {
    let text = "graph g(x: f32[T, B, 40], param a: f32[72, 40], param c: f32[72, 40], param bias: f32[72]) {
  %p = contract x, a axes=[2:1]
  %q = contract x, c axes=[2:1]
  %b = broadcast bias axes=[2] : f32[T, B, 72]
  %s = add %p, %b
  %t = tanh %s
  %g = sigmoid %q
  %y = mul %t, %g
  return y = %y
}
";
    check(text, true, &[&[("T", 7), ("B", 11)], &[("T", 1), ("B", 1)], &[("T", 0), ("B", 3)]]);
}

#[test]
fn products_in_a_batch_share_no_rows() {
    let text = "graph g(x: f32[G, M, 24], w: f32[G, 24, 48]) {
  %p = contract x, w axes=[2:1] batch=[0:0]
  return y = %p
}
";
    check(text, true, &[&[("G", 3), ("M", 70)], &[("G", 1), ("M", 1)], &[("G", 0), ("M", 5)]]);
}

#[test]
fn factors_are_computed_before_they_are_staged() {
    for dtype in ["f16", "bf16"] {
        let text = format!(
            "graph g(x: {dtype}[70, 48], scale: f32[70], param w: {dtype}[72, 48]) {{
  %x = cast x : f32[70, 48]
  %w = cast w : f32[72, 48]
  %s = broadcast scale axes=[0] : f32[70, 48]
  %scaled = mul %x, %s
  %p = contract %scaled, %w axes=[1:1]
  return y = %p
}}
"
        );
        check(&text, true, &[&[]]);
    }
}

#[test]
fn small_products_have_a_thread_a_point() {
    let text = "graph g(x: f32[4, 24], w: f32[24, 48]) {
  %p = contract x, w axes=[1:0]
  return y = %p
}
";
    check(text, false, &[&[]]);
}

#[test]
fn rounded_products_keep_the_stated_bound() {
    let text = "graph g(x: f32[70, 200], param w: f32[136, 200]) {
  %p = contract x, w axes=[1:1]
  return y = %p
}
";
    let graph = fuse_ir::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let dims = DimEnv::new();
    let values = fuse::random::values_for(&graph, &dims, 3).expect("values");
    let magnitudes: Vec<_> = values.iter().map(magnitude).collect();
    let interpret = |values: &[fuse::HostTensor]| {
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        interpreter.run(&graph, values).expect("the interpreter runs")[0].to_f64()
    };
    let (expected, sums) = (interpret(&values), interpret(&magnitudes));
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    let (parameters, inputs) = fuse::random::by_kind(&graph, &values);
    for precision in [ProductPrecision::Tf32, ProductPrecision::Bf16, ProductPrecision::F16] {
        let options = CompileOptions { precision, ..CompileOptions::new(Target::Cuda) };
        let mut model = fuse::compile(&graph, &options).and_then(|c| c.load(&device)).expect("a model");
        model.bind(parameters.clone()).expect("parameters fit");
        let got = model.run(&inputs, &dims).expect("it runs")[0].to_f64();
        let unit = precision.unit();
        // Beside the bound, what 200 additions in f32 round, and what is lost of factors near 0.
        let bound = |sum: f64| (2.0 * unit + unit * unit + 200.0 * 2f64.powi(-24)) * sum + 1e-6;
        let errors = got.iter().zip(&expected).map(|(got, expected)| (got - expected).abs());
        for (error, sum) in errors.clone().zip(&sums) {
            assert!(error <= bound(*sum), "{precision}: {error:e} off, of at most {:e}", bound(*sum));
        }
        let relative = errors.zip(&sums).map(|(error, sum)| error / sum).fold(0.0, f64::max);
        assert!(relative > unit / 50.0, "{precision}: {relative:e} at most; nothing was rounded");
    }
}

fn magnitude(tensor: &fuse::HostTensor) -> fuse::HostTensor {
    let bytes = tensor.to_f64().into_iter().flat_map(|x| (x.abs() as f32).to_le_bytes());
    fuse::HostTensor::from_bytes(fuse::DType::F32, tensor.shape(), bytes.collect::<Vec<u8>>())
        .expect("a tensor")
}
