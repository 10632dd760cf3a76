//! Products whose sums are divided among the blocks of a cluster, and products of few rows, on the simulated GPU, which
//! reports races, accesses outside and reads of what was never written, against the interpreter.
#![cfg(feature = "llvm")]

use fuse::{CompileOptions, Compiled, Device, ProductPrecision, Target};
use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_codegen::schedule::{GpuLimits, ProductForm, product_plan};
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::expr::DimEnv;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::{Graph, Tensor, parse};

/// A product with a bias and an activation: rows, columns, summed elements; weights by column or by summed element.
fn product(dtype: &str, [rows, columns, depth]: [&str; 3], is_by_column: bool) -> Graph {
    let (weights, axes) = if is_by_column {
        (format!("{columns}, {depth}"), "[1:1]")
    } else {
        (format!("{depth}, {columns}"), "[1:0]")
    };
    let text = format!(
        "graph g(x: {dtype}[{rows}, {depth}], param w: {dtype}[{weights}], param bias: f32[{columns}]) {{
  %x = cast x : f32[{rows}, {depth}]
  %w = cast w : f32[{weights}]
  %p = contract %x, %w axes={axes}
  %b = broadcast bias axes=[1] : f32[{rows}, {columns}]
  %s = add %p, %b
  %t = tanh %s
  return y = %t
}}
"
    );
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn compiled(graph: &Graph, precision: ProductPrecision) -> Compiled {
    let options = CompileOptions { precision, ..CompileOptions::new(Target::Cuda) };
    fuse::compile(graph, &options).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// The slices that sums of the only product in tiles are divided into; `None` where there are no tiles.
fn slices(compiled: &Compiled) -> Option<u32> {
    let is_tiled = |f: &&Function| f.shared.iter().any(|array| array.name.starts_with("factor_"));
    let function = compiled.functions().expect("schedules").iter().find(is_tiled)?;
    Some(function.mapping.cluster_blocks().unwrap_or(1))
}

fn multiplies_matrices(compiled: &Compiled) -> bool {
    compiled.functions().expect("schedules").iter().any(Function::multiplies_matrices)
}

/// Runs twice; both runs have to give the same bits, and what the interpreter gives within what rounding may change.
fn check(compiled: &Compiled, dims: &[(&str, i64)], bound: Tolerance) {
    let dims = dims.iter().fold(DimEnv::new(), |env, (name, value)| env.with(name, *value));
    let device = Device::sim(&Default::default()).expect("a simulated GPU is always there");
    let mut model = compiled.load(&device).unwrap_or_else(|e| panic!("{e}"));
    let graph = &compiled.graph;
    let values = fuse::random::values_for(graph, &dims, 3).expect("values");
    let expected =
        Interpreter::new(Precision::F64).with_dims(dims.clone()).run(graph, &values).expect("interprets");
    let (parameters, inputs) = fuse::random::by_kind(graph, &values);
    model.bind(parameters).expect("parameters fit");
    let run =
        || -> Vec<Tensor> { model.run(&inputs, &dims).unwrap_or_else(|e| panic!("{dims:?}: {e}\n{graph}")) };
    let [first, second] = [run(), run()];
    for (got, expected) in first.iter().zip(&expected) {
        compare(got, expected, bound).unwrap_or_else(|e| panic!("{dims:?}: {e}\n{graph}"));
    }
    let bits = |outputs: &[Tensor]| outputs.iter().map(|t| t.bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(bits(&first), bits(&second), "two runs of {graph}");
}

const EXACT: Tolerance = Tolerance { ulp: 8.0, absolute: 2e-4, relative: 2e-5 };
/// Sums of a few thousand products of numbers near 1 whose factors have 11 or 8 bits.
const TF32: Tolerance = Tolerance { ulp: 0.0, absolute: 2e-2, relative: 0.0 };
const BF16: Tolerance = Tolerance { ulp: 0.0, absolute: 1.5e-1, relative: 0.0 };

#[test]
fn few_rows_of_sixteen_bits_are_divided_products_of_matrices() {
    for dtype in ["bf16", "f16"] {
        for (rows, columns, is_by_column) in
            [("3", "512", true), ("3", "500", false), ("16", "512", false), ("17", "129", true)]
        {
            let compiled =
                compiled(&product(dtype, [rows, columns, "4096"], is_by_column), ProductPrecision::F32);
            assert!(multiplies_matrices(&compiled), "{}", compiled.graph);
            assert!(slices(&compiled).is_some_and(|n| n > 1), "{}", compiled.graph);
            check(&compiled, &[], EXACT);
        }
    }
}

#[test]
fn sums_of_f32_are_divided_with_and_without_rounding() {
    for (precision, bound) in
        [(ProductPrecision::F32, EXACT), (ProductPrecision::Tf32, TF32), (ProductPrecision::Bf16, BF16)]
    {
        for (rows, columns, depth, is_by_column) in [
            ("16", "512", "4096", false),
            ("16", "500", "4095", true),
            ("130", "68", "1000", false),
            ("65", "129", "333", true),
        ] {
            let compiled = compiled(&product("f32", [rows, columns, depth], is_by_column), precision);
            let rounds = precision != ProductPrecision::F32;
            assert_eq!(multiplies_matrices(&compiled), rounds, "{precision} {}", compiled.graph);
            assert!(slices(&compiled).is_some_and(|n| n > 1), "{precision} {}", compiled.graph);
            check(&compiled, &[], bound);
        }
    }
}

/// Whichever form the model prefers.
#[test]
fn products_of_few_rows_agree_at_odd_sizes() {
    for (dtype, precision, bound) in [
        ("f32", ProductPrecision::F32, EXACT),
        ("f32", ProductPrecision::Tf32, TF32),
        ("bf16", ProductPrecision::F32, EXACT),
        ("f16", ProductPrecision::F32, EXACT),
    ] {
        for rows in ["1", "3", "16", "17"] {
            for (columns, depth, is_by_column) in
                [("77", "100", true), ("130", "333", false), ("1000", "333", true), ("10", "4096", true)]
            {
                check(
                    &compiled(&product(dtype, [rows, columns, depth], is_by_column), precision),
                    &[],
                    bound,
                );
            }
        }
    }
}

/// Slices that have nothing, of a sum that is shorter than a step for each of them, and rows that are known only in a run.
#[test]
fn slices_may_be_empty_and_rows_symbolic() {
    for precision in [ProductPrecision::F32, ProductPrecision::Tf32] {
        let compiled = compiled(&product("f32", ["B", "64", "K"], false), precision);
        for (rows, depth) in [(5, 300), (33, 1), (64, 0), (1, 129)] {
            check(&compiled, &[("B", rows), ("K", depth)], TF32);
        }
        let compiled = self::compiled(&product("f32", ["B", "96", "2100"], true), precision);
        assert!(slices(&compiled).is_some_and(|n| n > 1), "{}", compiled.graph);
        for rows in [1, 33, 70] {
            check(&compiled, &[("B", rows)], TF32);
        }
        check(&compiled, &[("B", 0)], TF32);
    }
}

/// Gates whose sums share the rows' factors, and what follows from all of them, after the slices were added up.
#[test]
fn what_follows_from_several_sums_is_computed_once() {
    let text = "graph g(x: f32[70, 1200], param a: f32[256, 1200], param c: f32[256, 1200], bias: f32[256]) {
  %p = contract x, a axes=[1:1]
  %q = contract x, c axes=[1:1]
  %b = broadcast bias axes=[1] : f32[70, 256]
  %s = add %p, %b
  %t = tanh %s
  %g = sigmoid %q
  %y = mul %t, %g
  return y = %y
}
";
    let graph = parse(text).expect("parses");
    for (precision, bound) in [(ProductPrecision::F32, EXACT), (ProductPrecision::Tf32, TF32)] {
        let compiled = compiled(&graph, precision);
        assert!(slices(&compiled).is_some_and(|n| n > 1), "{}", compiled.kernels);
        check(&compiled, &[], bound);
    }
}

/// The number of slices follows from the multiprocessors and what a cluster may have, and is 1 where tiles fill the device.
#[test]
fn sums_are_divided_only_where_tiles_leave_multiprocessors_idle() {
    let graph = product("bf16", ["128", "512", "4096"], true);
    let compiled = compiled(&graph, ProductPrecision::F32);
    let kernels = compiled.kernels.kernels();
    let product = kernels.iter().map(|(k, _)| *k).find(|k| k.name.contains("main")).expect("a product");
    let slices_of = |limits: GpuLimits| {
        let plan =
            product_plan(&compiled.kernels, product, limits, None).expect("schedules").expect("a product");
        match plan.form {
            ProductForm::Tiles { slices, .. } => slices,
            ProductForm::Split => panic!("128 rows are not split"),
        }
    };
    let h100 = GpuLimits::h100();
    assert!(slices_of(h100) > 1);
    assert_eq!(slices_of(GpuLimits { multiprocessors: 8, ..h100 }), 1, "tiles fill eight multiprocessors");
    assert_eq!(slices_of(GpuLimits::of_capability(80)), 1, "an A100 has no clusters");
    assert!(slices_of(GpuLimits { cluster_blocks: 2, ..h100 }) == 2, "a cluster of two");
    let functions = compiled.functions().expect("schedules");
    assert!(functions.iter().any(|f| matches!(f.mapping, Mapping::Clusters { .. })), "{}", compiled.kernels);
}
