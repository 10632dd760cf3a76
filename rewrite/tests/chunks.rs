//! Which recurrences run in chunks of time, and that they compute what their graph means at every length.

use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::kernel::{BufferKind, KernelGraph};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, Graph, interpret_kernels, parse, parse_kernels, verify_kernels};
use fuse_rewrite::{ChunkPolicy, Optimized, Options, explain, optimize};
use proptest::prelude::*;

fn always() -> Options {
    Options { chunks: ChunkPolicy::Always, ..Options::default() }
}

fn graph(text: &str) -> Graph {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn optimized(graph: &Graph, device: &DeviceModel, options: &Options) -> Optimized {
    let optimized = optimize(graph, device, options).unwrap();
    verify_kernels(&optimized.kernels).unwrap_or_else(|e| panic!("{e}\n{}", optimized.kernels));
    assert_eq!(parse_kernels(&optimized.kernels.to_string()).unwrap(), optimized.kernels);
    optimized
}

/// The first difference between what kernels compute and what their graph means, in words.
fn difference(graph: &Graph, kernels: &KernelGraph, t: i64, b: i64) -> Option<String> {
    let mut dims = DimEnv::new();
    for symbol in graph.symbols() {
        let value = if symbol.name() == "T" { t } else { b };
        dims.set(symbol, value);
    }
    let inputs = inputs_for(graph, &dims, 5).unwrap();
    let expected = Interpreter::new(Precision::F64).with_dims(dims.clone()).run(graph, &inputs).unwrap();
    let got = match interpret_kernels(kernels, &inputs, &dims) {
        Ok(got) => got,
        Err(error) => return Some(error.to_string()),
    };
    for (k, (e, g)) in expected.iter().zip(&got).enumerate() {
        if e.shape() != g.shape() {
            return Some(format!("output {k} is {:?}, not {:?}", g.shape(), e.shape()));
        }
        for (i, (e, g)) in e.to_f64().iter().zip(g.to_f64()).enumerate() {
            let close = (e - g).abs() <= 1e-9 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
            if !close {
                return Some(format!("output {k} at {i}, T={t} B={b}: {e} and {g}"));
            }
        }
    }
    None
}

const LENGTHS: [i64; 9] = [0, 1, 2, 5, 15, 16, 64, 65, 1000];

fn agrees(graph: &Graph, kernels: &KernelGraph, lengths: &[i64]) {
    for t in lengths {
        for b in [0, 1, 3] {
            if let Some(text) = difference(graph, kernels, *t, b) {
                panic!("{text}\n{kernels}");
            }
        }
    }
}

/// The graph divided into that many kernels for both kinds of device, which agree with it; those for the second.
fn divided(text: &str, kernels: usize) -> KernelGraph {
    let graph = graph(text);
    let [_, last] = [DeviceModel::cpu(), DeviceModel::cuda()].map(|device| {
        let Optimized { kernels: got, report, .. } = optimized(&graph, &device, &always());
        assert_eq!(report.divided.len(), 1, "{got}");
        assert_eq!(got.kernels().len(), kernels, "{got}");
        agrees(&graph, &got, &LENGTHS);
        got
    });
    last
}

/// One scan over `x`, `z` and `n` of `[T, B, width]` from `h0`, with all states and the last one as outputs.
fn scan(dtype: &str, width: i64, clauses: &str, body: &str, outputs: &str) -> String {
    format!(
        "graph g(x: {dtype}[T, B, {width}], z: {dtype}[T, B, {width}], n: {dtype}[T, B, {width}],
                 h0: {dtype}[B, {width}]) {{
           %last, %y = scan over T {clauses} carry (h = h0) each (x = x, z = z, n = n) {{
             {body}
             next h = %next
             stack y = %next
           }}
           return {outputs}
         }}"
    )
}

const BOTH: &str = "y = %y, last = %last";

/// `(1 - g)·h + g·n` with `g = sigmoid(z)`.
fn gated(dtype: &str, width: i64) -> String {
    format!(
        "%one = constant 1 : {dtype}
         %ones = broadcast %one axes=[] : {dtype}[B, {width}]
         %g = sigmoid z
         %keep = sub %ones, %g
         %kept = mul %keep, h
         %new = mul %g, n
         %next = add %kept, %new"
    )
}

const PRODUCT: &str = "%k = mul z, h
     %next = add %k, x";

#[test]
fn recurrences_in_chunks_compute_what_they_did() {
    for width in [1, 3, 40] {
        for dtype in ["f32", "f64"] {
            divided(&scan(dtype, width, "", &gated(dtype, width), BOTH), 4);
        }
        // Integers wrap, so that any order is exact.
        for dtype in ["i32", "i64"] {
            divided(&scan(dtype, width, "", PRODUCT, BOTH), 4);
        }
    }
}

#[test]
fn a_sum_has_no_product_of_factors() {
    let kernels = divided(&scan("f64", 3, "", "%next = add h, x", BOTH), 4);
    let temporaries = kernels.buffers.iter().filter(|b| b.kind == BufferKind::Temporary);
    let names: Vec<&str> = temporaries.map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["local", "before", "last_1"]);
}

#[test]
fn where_the_last_state_alone_is_read_nothing_is_computed_twice() {
    let text = scan("f64", 3, "", &gated("f64", 3), "last = %last");
    let kernels = divided(&text, 3);
    assert!(kernels.buffers.iter().all(|b| b.name != "before"), "{kernels}");
}

#[test]
fn where_the_last_state_is_not_read_the_rest_is_still_computed() {
    divided(&scan("f64", 3, "", &gated("f64", 3), "y = %y"), 4);
}

#[test]
fn a_reverse_scan_is_divided_from_its_end() {
    divided(&scan("f64", 3, "reverse", &gated("f64", 3), BOTH), 4);
}

#[test]
fn states_with_one_factor_share_its_product() {
    let text = "graph g(x: f64[T, B, 3], z: f64[T, B, 3], n: f64[T, B, 3], a0: f64[B, 3], b0: f64[B, 3]) {
      %a, %b, %y = scan over T carry (a = a0, b = b0) each (x = x, z = z, n = n) {
        %g = sigmoid z
        %ak = mul %g, a
        %an = add %ak, x
        %bk = mul %g, b
        %bn = add %bk, n
        %o = div %an, %bn
        next a = %an, b = %bn
        stack y = %o
      }
      return y = %y, a = %a, b = %b
    }";
    let kernels = divided(text, 4);
    assert_eq!(kernels.buffers.iter().filter(|b| b.name.starts_with("product")).count(), 1, "{kernels}");
}

#[test]
fn the_state_before_a_step_is_read_in_chunks_too() {
    let text = "graph g(x: f64[T, B, 3], z: f64[T, B, 3], h0: f64[B, 3]) {
      %last, %y = scan over T carry (h = h0) each (x = x, z = z) {
        %g = sigmoid z
        %k = mul %g, h
        %n = add %k, x
        %t = tanh h
        %o = mul %t, %n
        next h = %n
        stack y = %o
      }
      return y = %y
    }";
    divided(text, 4);
}

#[test]
fn rows_frozen_past_their_length_are_divided() {
    let text = "graph g(x: f64[T, B, 3], z: f64[T, B, 3], h0: f64[B, 3], l: i64[B]) {
      %last, %y = scan over T carry (h = h0) each (x = x, z = z) lengths l {
        %g = sigmoid z
        %k = mul %g, h
        %n = add %k, x
        next h = %n
        stack y = %n
      }
      return y = %y, last = %last
    }";
    divided(text, 4);
}

#[test]
fn a_result_with_time_inside_is_stored_in_place() {
    let text = "graph g(x: f64[B, T], h0: f64[B]) {
      %xt = transpose x permutation=[1, 0]
      %last, %y = scan over T carry (h = h0) each (x = %xt) {
        %n = add h, x
        next h = %n
        stack y = %n
      }
      %yt = transpose %y permutation=[1, 0]
      return y = %yt
    }";
    divided(text, 4);
}

#[test]
fn a_known_number_of_steps_has_a_known_number_of_chunks() {
    for (t, kernels) in [(64, 3), (65, 4), (1000, 4)] {
        let text = scan("f64", 3, "", &gated("f64", 3), "y = %y").replace('T', &t.to_string());
        let graph = graph(&text);
        let Optimized { kernels: got, report, .. } = optimized(&graph, &DeviceModel::cpu(), &always());
        assert_eq!((report.divided.len(), got.kernels().len()), (1, kernels), "{got}");
        agrees(&graph, &got, &[t]);
    }
    // Too short for a chunk.
    let text = scan("f64", 3, "", &gated("f64", 3), BOTH).replace('T', "12");
    assert_eq!(optimized(&graph(&text), &DeviceModel::cpu(), &always()).report.divided, []);
}

#[test]
fn devices_that_other_points_fill_run_all_steps_in_one_kernel() {
    let divides = |device: &DeviceModel, rows: &str, width: i64| {
        let text = scan("f32", width, "", &gated("f32", width), BOTH).replace('B', rows);
        !optimized(&graph(&text), device, &Options::default()).report.divided.is_empty()
    };
    let (cpu, cuda) = (DeviceModel::cpu(), DeviceModel::cuda());
    assert!(!divides(&cpu, "1", 64) && !divides(&cpu, "16", 1024));
    assert!(divides(&cuda, "1", 64) && divides(&cuda, "8", 256));
    assert!(!divides(&cuda, "64", 4096));
}

#[test]
fn a_product_of_factors_that_overflows_is_not_a_number() {
    // Reassociation: no state overflows one after the other, but the product of a chunk's factors does.
    let text = "graph g(z: f64[T], h0: f64[]) {
      %last = scan over T carry (h = h0) each (z = z) {
        %huge = constant 1e30 : f64
        %k = mul %huge, h
        next h = %k
      }
      return last = %last
    }";
    let graph = graph(text);
    let kernels = optimized(&graph, &DeviceModel::cpu(), &always()).kernels;
    let dims = DimEnv::new().with("T", 100);
    let inputs = [
        fuse_ir::Tensor::zeros(fuse_ir::DType::F64, &[100]).unwrap(),
        fuse_ir::Tensor::zeros(fuse_ir::DType::F64, &[]).unwrap(),
    ];
    let in_order = Interpreter::new(Precision::F64).with_dims(dims.clone()).run(&graph, &inputs).unwrap();
    assert_eq!(in_order[0].to_f64(), [0.0]);
    assert!(interpret_kernels(&kernels, &inputs, &dims).unwrap()[0].to_f64()[0].is_nan());
}

#[test]
fn every_part_is_explained() {
    let graph = graph(&scan("f64", 3, "", &gated("f64", 3), BOTH));
    let explanation = explain(&graph, &DeviceModel::cpu(), &always()).unwrap();
    let kernels = explanation.after.kernels();
    assert_eq!(kernels.len(), explanation.kernels.len());
    for ((kernel, _), why) in kernels.iter().zip(&explanation.kernels) {
        assert_eq!(kernel.name, why.name);
        assert_eq!(kernel.stores.len(), why.boundaries.len());
        assert!(why.proof.iter().any(|step| step.rule == "recurrence-in-chunks"), "{}", why.name);
        assert!(why.proof.iter().any(|step| step.rule == "linear-recurrence"), "{}", why.name);
    }
}

/// A next state that is linear in the state, of a few forms.
fn linear_body() -> impl Strategy<Value = String> {
    let factor = prop_oneof![Just("%g"), Just("%keep"), Just("%half")];
    let term = prop_oneof![Just("x"), Just("n"), Just("%g")];
    (factor, term, any::<bool>(), any::<bool>()).prop_map(|(factor, term, subtract, twice)| {
        let op = if subtract { "sub" } else { "add" };
        let second = if twice { "mul %half, %s" } else { "neg %s" };
        format!(
            "%c = constant 0.5 : f64
             %half = broadcast %c axes=[] : f64[B, 2]
             %g = sigmoid z
             %keep = sub %half, %g
             %k = mul {factor}, h
             %s = {op} %k, {term}
             %next = {second}"
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_linear_states_keep_their_meaning(
        body in linear_body(),
        reverse in any::<bool>(),
        outputs in prop_oneof![Just(BOTH), Just("y = %y"), Just("last = %last")],
        (t, b) in (0i64..300, 0i64..3),
    ) {
        let direction = if reverse { "reverse" } else { "" };
        let graph = graph(&scan("f64", 2, direction, &body, outputs));
        let Optimized { kernels, report, .. } = optimized(&graph, &DeviceModel::cpu(), &always());
        prop_assert_eq!(report.divided.len(), 1);
        let difference = difference(&graph, &kernels, t, b);
        prop_assert!(difference.is_none(), "{difference:?}\n{graph}\n{kernels}");
    }
}
