//! Which parameters are copied into another layout, and that the copies change nothing.

use fuse_frontend::{DType, Tensor, Trace, trace};
use fuse_ir::compare::{Tolerance, compare};
use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Interpreter, Precision};
use fuse_ir::kernel::{Buffer, KernelGraph};
use fuse_ir::{DimEnv, Graph, interpret_kernels, verify_kernels};
use fuse_rewrite::{
    Options, StripPolicy, optimize, panel_parameters, split_given_products, split_products, strip_loops,
};

fn graph(program: impl FnOnce(&Trace) -> Tensor) -> Graph {
    trace("g", |t| {
        let y = program(t);
        t.output("y", y);
    })
    .unwrap()
}

fn kernels(graph: &Graph, device: &DeviceModel) -> KernelGraph {
    let kernels = optimize(graph, device, &Options::default()).unwrap().kernels;
    verify_kernels(&kernels).unwrap();
    kernels
}

fn copies(graph: &Graph, device: &DeviceModel) -> usize {
    let kernels = kernels(graph, device);
    kernels.kernels().iter().filter(|(k, depth)| *depth == 0 && k.ops == ["pack"]).count()
}

fn values(graph: &Graph, dims: &DimEnv) -> Vec<fuse_ir::Tensor> {
    let value = |input: &fuse_ir::graph::Input| {
        let shape: Vec<usize> =
            graph.ty(input.value).shape.iter().map(|d| d.eval_dim(dims).unwrap() as usize).collect();
        let count = shape.iter().product::<usize>() as u64;
        let numbers: Vec<f32> = (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
        fuse_ir::Tensor::from_values(&shape, &numbers).unwrap()
    };
    graph.inputs().iter().map(value).collect()
}

/// A product of `[B, K]` with a weight of this shape, over these axes.
fn product(rows: i64, shape: (i64, i64), axis: i64, parameter: bool) -> Graph {
    graph(|t| {
        let contracted = if axis == 0 { shape.0 } else { shape.1 };
        let x = t.input("x", DType::F32, (rows, contracted));
        let w = match parameter {
            true => t.parameter("w", DType::F32, shape),
            false => t.input("w", DType::F32, shape),
        };
        x.contract(&w, [], [(1, axis)])
    })
}

#[test]
fn a_weight_contracted_along_its_first_axis_is_copied_and_read_along_its_last() {
    for columns in [48, 50, 51] {
        let graph = product(20, (40, columns), 0, true);
        assert_eq!(copies(&graph, &DeviceModel::cpu()), 1);
        let dims = DimEnv::new();
        let values = values(&graph, &dims);
        let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
        let got = interpret_kernels(&kernels(&graph, &DeviceModel::cpu()), &values, &dims).unwrap();
        for (e, g) in expected[0].to_f64().iter().zip(got[0].to_f64()) {
            assert!((e - g).abs() <= 1e-5 * (1.0 + e.abs()), "{e} and {g}");
        }
    }
}

#[test]
fn nothing_is_copied_where_the_layout_is_right_or_the_copy_would_not_pay() {
    let cpu = DeviceModel::cpu();
    assert_eq!(copies(&product(20, (48, 40), 1, true), &cpu), 0, "the contracted axis is last already");
    assert_eq!(copies(&product(20, (40, 48), 0, false), &cpu), 0, "an input changes with every call");
    assert_eq!(copies(&product(20, (8, 48), 0, true), &cpu), 0, "a short reduction");
    assert_eq!(copies(&product(1, (40, 48), 0, true), &cpu), 0, "every element is read once");
    assert_eq!(copies(&product(20, (40, 48), 0, true), &DeviceModel::cuda()), 0, "threads read neighbours");
}

#[test]
fn the_weight_of_a_step_is_copied_whatever_the_batch() {
    let graph = graph(|t| {
        let (x, h0) = (t.input("x", DType::F32, ("T", 40)), t.input("h0", DType::F32, (40,)));
        let w = t.parameter("w", DType::F32, (40, 40));
        t.scan(h0, x, |h, x| {
            let h = (h.unsqueeze(0).matmul(&w).squeeze(0) + x).tanh();
            (h.clone(), h)
        })
        .1
    });
    assert_eq!(copies(&graph, &DeviceModel::cpu()), 1);
}

#[test]
fn a_weight_that_is_read_in_both_ways_keeps_its_own_layout_for_one_of_them() {
    let graph = graph(|t| {
        let x = t.input("x", DType::F32, (20, 40));
        let w = t.parameter("w", DType::F32, (40, 40));
        x.matmul(&w).tanh().matmul(w.transpose(0, 1))
    });
    let kernels = kernels(&graph, &DeviceModel::cpu());
    let reads = |name: &str| {
        let buffer = kernels.buffers.iter().position(|b| b.name == name).unwrap();
        kernels.kernels().iter().filter(|(k, _)| k.loads().iter().any(|b| b.index() == buffer)).count()
    };
    assert_eq!((reads("w"), reads("w.packed")), (2, 1), "{kernels}");
}

/// The kernels with parameters in panels of `lanes`, and how many copies that took.
fn in_panels(graph: &Graph, lanes: i64) -> (KernelGraph, usize) {
    let mut kernels = kernels(graph, &DeviceModel::cpu());
    let copies = panel_parameters(graph, &mut kernels, lanes);
    verify_kernels(&kernels).unwrap();
    (kernels, copies)
}

#[test]
fn panels_change_nothing_whichever_axis_is_summed() {
    // Of 50, 17 and 201 columns the last panel computes some again.
    for (shape, axis) in
        [((40, 64), 0), ((64, 40), 1), ((50, 40), 1), ((17, 40), 1), ((40, 201), 0), ((16, 40), 1)]
    {
        let graph = product(20, shape, axis, true);
        let (kernels, copies) = in_panels(&graph, 16);
        assert_eq!(copies, 1, "{kernels}");
        let dims = DimEnv::new();
        let values = values(&graph, &dims);
        let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
        let got = interpret_kernels(&kernels, &values, &dims).unwrap();
        assert_eq!(got[0], expected[0], "{kernels}");
    }
}

#[test]
fn only_what_is_summed_over_is_copied() {
    // Inputs and states are multiplied with parts of one matrix.
    let graph = graph(|t| {
        let w = t.parameter("w", DType::F32, (88, 48));
        let x = t.input("x", DType::F32, (20, 40));
        let h = t.input("h", DType::F32, (20, 48));
        let of_x = x.contract(w.slice(0, ..40), [], [(1, 0)]);
        let of_h = h.contract(w.slice(0, 40..), [], [(1, 0)]);
        of_x.tanh() * of_h
    });
    let (kernels, copies) = in_panels(&graph, 16);
    let elements = |b: &Buffer| b.ty.shape.iter().map(|d| d.as_constant().unwrap()).product::<i64>();
    let panels = || kernels.buffers.iter().filter(|b| b.name.contains(".panels"));
    assert_eq!((copies, panels().map(elements).sum::<i64>()), (2, 88 * 48), "{kernels}");
    let dims = DimEnv::new();
    let values = values(&graph, &dims);
    let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
    let got = interpret_kernels(&kernels, &values, &dims).unwrap();
    let near = Tolerance { ulp: 0.0, absolute: 1e-5, relative: 1e-6 };
    compare(&got[0], &expected[0], near).unwrap_or_else(|e| panic!("{e}\n{kernels}"));
}

#[test]
fn panels_are_as_wide_as_vectors_of_all_products_find_registers() {
    // One product takes four vectors at a time, or fewer where too much would be computed twice.
    for (columns, width) in [(64, 64), (96, 32), (32, 32), (16, 16), (1000, 64), (130, 16), (33, 16)] {
        let (kernels, _) = in_panels(&product(20, (columns, 40), 1, true), 16);
        let panels = kernels.buffers.iter().find(|b| b.name.ends_with(".panels")).expect("a copy");
        assert_eq!(panels.ty.shape.last().and_then(|d| d.as_constant()), Some(width), "{kernels}");
    }
}

#[test]
fn inputs_short_sums_and_few_columns_stay_as_they_are() {
    let few_rows = product(2, (64, 40), 1, true);
    let an_input = product(20, (64, 40), 1, false);
    let few_columns = product(20, (15, 40), 1, true);
    let short = product(20, (64, 8), 1, true);
    for graph in [few_rows, an_input, few_columns, short] {
        assert_eq!(in_panels(&graph, 16).1, 0, "{graph}");
    }
}

#[test]
fn panels_are_copied_from_the_parameter_rather_than_from_its_copy() {
    // Along the first axis, the tier whose vectors run along sums has a copy that is read in panels of 16 columns.
    let graph = product(20, (40, 64), 0, true);
    assert_eq!(copies(&graph, &DeviceModel::cpu()), 1);
    let (kernels, _) = in_panels(&graph, 16);
    let ops: Vec<&[String]> = kernels.kernels().iter().map(|(k, _)| k.ops.as_slice()).collect();
    assert_eq!(ops.iter().filter(|ops| **ops == ["panels"]).count(), 1, "{kernels}");
    assert_eq!(ops.iter().filter(|ops| **ops == ["pack"]).count(), 0, "{kernels}");
}

/// A recurrent cell with two sums a unit over `[K, N]` and `[N, N]` weights, the products in kernels of their own.
fn cell_with_products(inputs: i64, units: i64) -> (Graph, KernelGraph, usize) {
    let graph = graph(|t| {
        let x = t.input("x", DType::F32, ("T", "B", inputs));
        let h0 = t.input("h0", DType::F32, ("B", units));
        let [w, f] = ["w", "f"].map(|name| t.parameter(name, DType::F32, (inputs, units)));
        let [r, g] = ["r", "g"].map(|name| t.parameter(name, DType::F32, (units, units)));
        t.scan(h0, (x.matmul(&w), x.matmul(&f)), |h, (x, f)| {
            let gate = (h.matmul(&g) + f).sigmoid();
            let next = (h.matmul(&r) + x).tanh() * gate.clone() + h.clone() * (1.0 - gate);
            (next.clone(), next)
        })
        .1
    });
    let mut kernels = in_panels(&graph, 8).0;
    let products = split_products(&mut kernels, 8);
    verify_kernels(&kernels).unwrap();
    (graph, kernels, products)
}

#[test]
fn products_in_kernels_of_their_own_change_nothing() {
    // 44 and 33 units have panels that overlap.
    for (inputs, units) in [(40, 32), (36, 44), (64, 33)] {
        let (graph, kernels, products) = cell_with_products(inputs, units);
        assert_eq!(products, 4, "{kernels}");
        let (_, depths): (Vec<_>, Vec<usize>) =
            kernels.kernels().into_iter().filter(|(k, _)| k.ops == ["contract"]).unzip();
        assert!(depths.contains(&1), "the step's sums are apart from its gates: {kernels}");
        for (steps, batch) in [(3, 5), (1, 1), (0, 2)] {
            let dims = DimEnv::new().with("T", steps).with("B", batch);
            let values = values(&graph, &dims);
            let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
            let got = interpret_kernels(&kernels, &values, &dims).unwrap();
            for (e, g) in expected[0].to_f64().iter().zip(got[0].to_f64()) {
                assert!((e - g).abs() <= 1e-5 * (1.0 + e.abs()), "{e} and {g}: {kernels}");
            }
        }
    }
}

/// The kernels with products that read parameters as they are given, and how many those are.
fn given_products(graph: &Graph, lanes: i64) -> (KernelGraph, usize) {
    let mut kernels = kernels(graph, &DeviceModel::cpu());
    let products = split_given_products(graph, &mut kernels, lanes);
    verify_kernels(&kernels).unwrap();
    (kernels, products)
}

/// Whether some kernel of nothing but products reads a buffer of that name.
fn is_read_by_products(kernels: &KernelGraph, name: &str) -> bool {
    let buffer = kernels.buffers.iter().position(|b| b.name == name).unwrap();
    let products = kernels.kernels().into_iter().filter(|(k, _)| k.ops == ["contract"]);
    products.into_iter().any(|(k, _)| k.loads().iter().any(|b| b.index() == buffer))
}

#[test]
fn what_a_run_uses_once_is_read_as_it_is_given() {
    // The copy for vectors along sums goes.
    for (rows, shape, axis) in
        [(1, (40, 64), 0), (20, (40, 64), 0), (1, (64, 40), 1), (20, (64, 40), 1), (3, (40, 208), 0)]
    {
        let graph = product(rows, shape, axis, true);
        let (kernels, products) = given_products(&graph, 16);
        assert_eq!(products, 1, "{kernels}");
        assert!(is_read_by_products(&kernels, "w"), "{kernels}");
        assert!(kernels.kernels().iter().all(|(k, _)| k.ops != ["pack"]), "{kernels}");
        let (dims, values) = (DimEnv::new(), values(&graph, &DimEnv::new()));
        let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
        let got = interpret_kernels(&kernels, &values, &dims).unwrap();
        assert_eq!(got[0], expected[0], "{kernels}");
    }
}

#[test]
fn columns_that_panels_would_have_in_common_are_not_read_as_they_are_given() {
    assert_eq!(given_products(&product(20, (40, 50), 0, true), 16).1, 0);
}

#[test]
fn what_every_step_uses_is_read_in_panels() {
    let graph = graph(|t| {
        let h0 = t.input("h0", DType::F32, ("B", 48));
        let [r, o] = ["r", "o"].map(|name| t.parameter(name, DType::F32, (48, 48)));
        let x = t.input("x", DType::F32, ("T", "B", 48));
        let last = t.scan(h0, x, |h, x| ((h.matmul(&r) + x).tanh(), ())).0;
        last.matmul(&o).tanh()
    });
    let (mut kernels, given) = given_products(&graph, 16);
    assert_eq!(given, 1, "{kernels}");
    assert!(is_read_by_products(&kernels, "o") && !is_read_by_products(&kernels, "r"), "{kernels}");
    assert_eq!((panel_parameters(&graph, &mut kernels, 16), split_products(&mut kernels, 16)), (1, 1));
    verify_kernels(&kernels).unwrap();
    let dims = DimEnv::new().with("T", 3).with("B", 2);
    let values = values(&graph, &dims);
    let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
    let got = interpret_kernels(&kernels, &values, &dims).unwrap();
    for (e, g) in expected[0].to_f64().iter().zip(got[0].to_f64()) {
        assert!((e - g).abs() <= 1e-5, "{e} and {g}: {kernels}");
    }
}

#[test]
fn a_loop_whose_last_step_has_fewer_rows_has_room_for_the_products_of_the_first() {
    // Both layers' products read rows of a strip, the second layer's those that the first one left.
    let graph = graph(|t| {
        let x = t.input("x", DType::F32, ("B", 40));
        let w = t.parameter("w", DType::F32, (40, 48));
        let v = t.parameter("v", DType::F32, (48, 48));
        x.matmul(&w).tanh().matmul(&v).tanh()
    });
    let mut kernels = kernels(&graph, &DeviceModel::cpu());
    let policy = StripPolicy { rows: 12, bytes: 1 << 20, most_weight_bytes: 1 << 20, rows_of_more: 12 };
    assert_eq!(strip_loops(&mut kernels, policy), 1, "{kernels}");
    assert_eq!(split_given_products(&graph, &mut kernels, 16), 2, "{kernels}");
    verify_kernels(&kernels).unwrap();
    for rows in [1, 12, 19, 36] {
        let dims = DimEnv::new().with("B", rows);
        let values = values(&graph, &dims);
        let expected = Interpreter::new(Precision::F64).run(&graph, &values).unwrap();
        let got = interpret_kernels(&kernels, &values, &dims).unwrap();
        for (e, g) in expected[0].to_f64().iter().zip(got[0].to_f64()) {
            assert!((e - g).abs() <= 1e-5, "{rows}: {e} and {g}: {kernels}");
        }
    }
}

#[test]
fn sums_of_anything_else_than_rows_and_panels_stay_where_they_are() {
    let graph = graph(|t| {
        let x = t.input("x", DType::F32, ("B", 64));
        let w = t.parameter("w", DType::F32, (48, 64));
        (x.unsqueeze(1) + w.unsqueeze(0)).max([2]).tanh()
    });
    let mut kernels = in_panels(&graph, 16).0;
    let before = kernels.clone();
    assert_eq!(split_products(&mut kernels, 16), 0);
    assert_eq!(kernels, before);
}
