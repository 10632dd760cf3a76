//! Rules that look at attributes, each where it applies and where it just does not, in whole graphs.

use fuse_ir::device::DeviceModel;
use fuse_ir::interp::{Precision, interpret};
use fuse_ir::kernel::{Element, KernelGraph};
use fuse_ir::testing::inputs_for;
use fuse_ir::{DimEnv, ScalarOp, interpret_kernels, parse, verify_kernels};
use fuse_rewrite::{Optimized, Options, optimize};

/// The kernels of a graph, which compute what it means.
fn fused(text: &str) -> Optimized {
    let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let optimized = optimize(&graph, &DeviceModel::cpu(), &Options::default()).unwrap();
    verify_kernels(&optimized.kernels).unwrap_or_else(|e| panic!("{e}"));
    for (t, b) in [(3, 2), (0, 1), (1, 0), (2, 4)] {
        let mut dims = DimEnv::new();
        for symbol in graph.symbols() {
            dims.set(symbol.clone(), if symbol.name() == "T" { t } else { b });
        }
        let inputs = inputs_for(&graph, &dims, 3).unwrap();
        let expected = interpret(&graph, &inputs, Precision::F64).unwrap();
        let got = interpret_kernels(&optimized.kernels, &inputs, &dims).unwrap();
        for (e, g) in expected.iter().zip(&got) {
            for (e, g) in e.to_f64().iter().zip(g.to_f64()) {
                let close = (e - g).abs() <= 1e-6 * (1.0 + e.abs()) || *e == g || (e.is_nan() && g.is_nan());
                assert!(close, "{e} and {g}\n{}", optimized.kernels);
            }
        }
    }
    optimized
}

fn count(kernels: &KernelGraph, test: impl Fn(&Element) -> bool) -> usize {
    let elements = kernels.kernels().into_iter().flat_map(|(k, _)| k.elements.iter());
    elements.filter(|e| test(&e.element)).count()
}

fn selects(o: &Optimized) -> usize {
    count(&o.kernels, |e| matches!(e, Element::Scalar(ScalarOp::Select, _)))
}

fn reductions(o: &Optimized) -> usize {
    count(&o.kernels, |e| matches!(e, Element::Reduce { .. }))
}

fn casts(o: &Optimized) -> usize {
    count(&o.kernels, |e| matches!(e, Element::Cast(_)))
}

#[test]
fn reading_the_inner_part_of_a_padded_tensor_needs_no_selection() {
    let inner = fused(
        "graph g(x: f32[4]) -> (y: f32[3]) {
           %p = pad x low=[2] high=[2] value=0 : f32[8]
           %s = slice %p start=[2] length=[3] step=[1] : f32[3]
           return y = %s
         }",
    );
    assert_eq!(selects(&inner), 0, "{}", inner.kernels);
    let across = fused(
        "graph g(x: f32[4]) -> (y: f32[3]) {
           %p = pad x low=[2] high=[2] value=0 : f32[8]
           %s = slice %p start=[1] length=[3] step=[1] : f32[3]
           return y = %s
         }",
    );
    assert_eq!(selects(&across), 1, "{}", across.kernels);
}

#[test]
fn parts_of_a_joined_tensor_are_the_joined_tensors() {
    let parts = fused(
        "graph g(a: f32[2], b: f32[3]) -> (y: f32[2], z: f32[3]) {
           %c = concat a, b axis=0 : f32[5]
           %y = slice %c start=[0] length=[2] step=[1] : f32[2]
           %z = slice %c start=[2] length=[3] step=[1] : f32[3]
           return y = %y, z = %z
         }",
    );
    assert_eq!(selects(&parts), 0, "{}", parts.kernels);
}

#[test]
fn a_detour_through_a_wider_type_disappears() {
    let wide = fused(
        "graph g(x: f16[4]) -> (y: f16[4]) {
           %w = cast x : f32[4]
           %n = cast %w : f16[4]
           return y = %n
         }",
    );
    assert_eq!(casts(&wide), 0, "{}", wide.kernels);
    let narrow = fused(
        "graph g(x: f32[4]) -> (y: f32[4]) {
           %n = cast x : f16[4]
           %w = cast %n : f32[4]
           return y = %w
         }",
    );
    assert_eq!(casts(&narrow), 2, "{}", narrow.kernels);
    let saturating = fused(
        "graph g(x: i32[4]) -> (y: u8[4]) {
           %w = cast x : f64[4]
           %n = cast %w : u8[4]
           return y = %n
         }",
    );
    assert_eq!(casts(&saturating), 2, "{}", saturating.kernels);
}

#[test]
fn an_axis_of_extent_one_is_not_reduced() {
    let unit = fused(
        "graph g(x: f32[T, 1]) -> (y: f32[T]) {
           %s = sum x axes=[1] : f32[T]
           return y = %s
         }",
    );
    assert_eq!(reductions(&unit), 0, "{}", unit.kernels);
    let two = fused(
        "graph g(x: f32[T, 2]) -> (y: f32[T]) {
           %s = sum x axes=[1] : f32[T]
           return y = %s
         }",
    );
    assert_eq!(reductions(&two), 1, "{}", two.kernels);
}

#[test]
fn repetitions_are_not_reduced_where_there_surely_is_one() {
    let known = fused(
        "graph g(x: f32[T]) -> (y: f32[T], z: f32[T]) {
           %b = broadcast x axes=[0] : f32[T, 5]
           %m = max %b axes=[1] : f32[T]
           %s = sum %b axes=[1] : f32[T]
           return y = %m, z = %s
         }",
    );
    assert_eq!(reductions(&known), 0, "{}", known.kernels);
    let maybe_none = fused(
        "graph g(x: f32[T], b: f32[B]) -> (y: f32[T], c: f32[B]) {
           %b = broadcast x axes=[0] : f32[T, B]
           %m = max %b axes=[1] : f32[T]
           return y = %m, c = b
         }",
    );
    assert_eq!(reductions(&maybe_none), 1, "{}", maybe_none.kernels);
}

/// The statistic of a row of a product reads the product where that is in memory anyway, instead of computing it
/// again over the axes of both.
#[test]
fn a_sum_of_a_stored_product_reads_it() {
    let both = fused(
        "graph g(x: f32[B, 256], w: f32[256, 256]) -> (p: f32[B, 256], s: f32[B]) {
           %p = contract x, w axes=[1:0]
           %s = sum %p axes=[1]
           return p = %p, s = %s
         }",
    );
    let nested = both.kernels.kernels().iter().any(|(k, _)| {
        k.elements.iter().any(|e| matches!(&e.element, Element::Reduce { axes, .. } if axes.len() > 1))
    });
    assert!(!nested && reductions(&both) == 2, "{}", both.kernels);
}

#[test]
fn a_state_that_never_changes_needs_no_loop() {
    let unchanged = fused(
        "graph g(x: f32[T, B], h: f32[B]) -> (y: f32[B], z: f32[T, B]) {
           %f, %s = scan body over T
               carry (h0: f32[B] = h)
               each (x0: f32[B] = x)
               -> (f32[B], f32[T, B])
           {
             %a = add x0, h0 : f32[B]
             next h1 = h0
             stack y = %a
           }
           return y = %f, z = %s
         }",
    );
    assert_eq!(unchanged.report.kernels_in_loops, 0, "{}", unchanged.kernels);
}

/// General associativity would make more terms of ten summands than fit into memory.
#[test]
fn a_sum_of_a_hundred_terms_saturates_at_once() {
    let inputs: Vec<String> = (0..50).map(|i| format!("x{i}: f32[T]")).collect();
    let mut text = format!("graph g({}) -> (y: f32[T]) {{\n%s0 = add x0, x1\n", inputs.join(", "));
    // Each input twice, far apart.
    for i in 1..99 {
        text += &format!("%s{i} = add x{}, %s{}\n", (i * 37 + 13) % 50, i - 1);
    }
    text += "return y = %s98 }";
    let start = std::time::Instant::now();
    let sum = optimize(&parse(&text).unwrap(), &DeviceModel::cpu(), &Options::default()).unwrap();
    let saturation = &sum.report.saturation;
    assert!(saturation.nodes < 3 * saturation.nodes_before, "{saturation:?}");
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
    let additions = count(&sum.kernels, |e| matches!(e, Element::Scalar(ScalarOp::Add, _)));
    assert!(additions < 60, "{additions} additions of {} inputs", 50);
    fused(&text);
}

#[test]
fn sums_of_the_same_terms_are_computed_once() {
    let twice = fused(
        "graph g(a: f32[T], b: f32[T], c: f32[T]) -> (y: f32[T], z: f32[T]) {
           %1 = add a, b
           %y = add %1, c
           %2 = add c, a
           %z = add b, %2
           return y = %y, z = %z
         }",
    );
    assert_eq!(
        count(&twice.kernels, |e| matches!(e, Element::Scalar(ScalarOp::Add, _))),
        2,
        "{}",
        twice.kernels
    );
}

fn ops(o: &Optimized) -> Vec<String> {
    o.kernels.kernels().into_iter().flat_map(|(k, _)| k.ops.clone()).collect()
}

#[test]
fn a_product_with_joined_parts_selects_nothing() {
    let three = fused(
        "graph g(x: f64[B, 3], h: f64[B, 4], c: f64[B, 2], w: f64[9, 5]) -> (y: f64[B, 5]) {
           %j = concat x, h, c axis=1
           %y = contract %j, w axes=[1:0]
           return y = %y
         }",
    );
    assert_eq!((reductions(&three), selects(&three)), (3, 0), "{}", three.kernels);
}

/// What is taken away twice is multiplied by two and taken away, not by minus two and added; integers likewise.
#[test]
fn differences_stay_differences() {
    for ty in ["f64", "i64"] {
        let twice = fused(&format!(
            "graph g(x: {ty}[T], y: {ty}[T], z: {ty}[T]) -> (s: {ty}[T]) {{
               %1 = sub x, y
               %2 = add %1, z
               %s = sub %2, y
               return s = %s
             }}"
        ));
        let mut found = ops(&twice);
        found.sort();
        assert_eq!(found, ["add", "mul", "sub"], "{}", twice.kernels);
        assert!(twice.kernels.to_string().contains("constant 2"), "{}", twice.kernels);
    }
}

/// Sums are looked at as a whole up to a number of operands.
#[test]
fn a_sum_of_very_many_terms_stays_as_it_is() {
    let multiplied = |terms: usize| {
        let mut text = "graph g(x: f64[T]) -> (y: f64[T]) {\n%s1 = neg x\n".to_string();
        for i in 1..terms {
            text += &format!("%s{} = add %s{i}, x\n", i + 1);
        }
        text += &format!("return y = %s{terms} }}");
        let sum = optimize(&parse(&text).unwrap(), &DeviceModel::cpu(), &Options::default()).unwrap();
        ops(&sum).contains(&"mul".to_string())
    };
    assert!(multiplied(1000));
    assert!(!multiplied(1100));
}

/// Zero times x is not zero, for x may be NaN, but twice that is what it was: a class that is a sum of itself, hence
/// a product of itself, of which rules could say ever more. Infinity times x likewise, and zero divided by x.
#[test]
fn a_value_that_is_a_multiple_of_itself_saturates_at_once() {
    for (c, first, then) in [
        ("0", "mul x, %c", "add %1, %1"),
        ("0", "mul x, %c", "sub %1, %1"),
        ("-0", "mul x, %c", "add %1, %1"),
        ("inf", "mul x, %c", "add %1, %1"),
        ("0", "div %c, x", "add %1, %1"),
        ("0", "div %c, x", "sub %1, %1"),
    ] {
        let circle = fused(&format!(
            "graph g(x: f64[T], y: f64[T]) -> (s: f64[T], p: f64[T], z: f64[T]) {{
               %0 = constant {c} : f64[]
               %c = broadcast %0 axes=[] : f64[T]
               %1 = {first}
               %s = {then}
               %p = mul %s, y
               %2 = mul %1, y
               %z = add %2, %p
               return s = %s, p = %p, z = %z
             }}"
        ));
        let saturation = &circle.report.saturation;
        assert_eq!(saturation.stop, "Saturated", "{c}, {first}, {then}: {saturation:?}");
        assert!(saturation.nodes < 6 * saturation.nodes_before, "{c}, {first}, {then}: {saturation:?}");
    }
}

/// A part that is read over the space of its concatenation is a view of the part, which is a view of that.
#[test]
fn views_of_each_other_are_not_followed_in_circles() {
    for parts in ["%a, %a", "%a, %a, %a", "%a, %a, %a, %a"] {
        let circle = fused(&format!(
            "graph g(x: i32[B]) -> (s: i64[], p: i64[]) {{
               %a = cast x : i64[B]
               %j = concat {parts} axis=0
               %s = sum %j axes=[0]
               %p = contract %j, %j axes=[0:0]
               return s = %s, p = %p
             }}"
        ));
        let saturation = &circle.report.saturation;
        assert_eq!(saturation.stop, "Saturated", "{parts}: {saturation:?}");
        assert!(saturation.nodes < 8 * saturation.nodes_before, "{parts}: {saturation:?}");
    }
}

/// A part of a padded axis is split no further: where it ends there is no seam.
#[test]
fn a_sum_over_padded_axes_is_split_as_often_as_there_are_parts() {
    let padded = fused(
        "graph g(x: f64[T, B]) -> (y: f64[]) {
           %p = pad x low=[1, 1] high=[1, 2] value=4.0
           %r = rsqrt %p
           %y = contract %p, %r axes=[0:0, 1:1]
           return y = %y
         }",
    );
    let saturation = &padded.report.saturation;
    assert_eq!(saturation.stop, "Saturated", "{saturation:?}");
    assert!(saturation.applied["split-joined-sum"] <= 8, "{saturation:?}");
}
