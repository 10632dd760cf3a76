//! Reductions, running sums and the softmax family.

use super::*;

fn matrix() -> HostTensor {
    f32s(&[2, 3], &[1.0, -2.0, 3.0, -4.0, 5.0, -6.0])
}

#[test]
fn axes_are_an_attribute_or_an_input_by_version() {
    let attribute = Model::new("ReduceL1", 13).ints("axes", &[-1]).run(&[matrix()]);
    assert_eq!((attribute[0].shape(), attribute[0].to_f64()), (&[2, 1][..], vec![6.0, 15.0]));
    let input = Model::new("ReduceL1", 18).int("keepdims", 0).run(&[matrix(), i64s(&[1], &[0])]);
    assert_eq!((input[0].shape(), input[0].to_f64()), (&[3][..], vec![5.0, 7.0, 9.0]));
}

#[test]
fn no_axes_are_all_of_them_or_none() {
    let none = i64s(&[0], &[]);
    let all = Model::new("ReduceSumSquare", 18).run(&[matrix(), none.clone()]);
    assert_eq!((all[0].shape(), all[0].to_f64()), (&[1, 1][..], vec![91.0]));
    let noop = Model::new("ReduceSumSquare", 18).int("noop_with_empty_axes", 1);
    assert_eq!(noop.values(&[matrix(), none.clone()]), [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]);
    let flags = Model::new("ReduceMax", 20).int("noop_with_empty_axes", 1);
    assert_eq!(flags.integers(&[bools(&[2], &[true, false]), none]), [1, 0]);
}

#[test]
fn logarithms_of_sums_do_not_overflow() {
    let x = f64s(
        &[4, 2],
        &[1000.0, 1000.0, -1000.0, -1000.0, f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0, f64::INFINITY],
    );
    let got = Model::new("ReduceLogSumExp", 13).ints("axes", &[1]).values(&[x]);
    let ln2 = std::f64::consts::LN_2;
    assert_close(&got, &[1000.0 + ln2, -1000.0 + ln2, f64::NEG_INFINITY, f64::INFINITY], 1e-15);
}

#[test]
fn narrow_floats_accumulate_wide() {
    let x = narrow(DType::F16, &[3], &[300.0, 300.0, 300.0]);
    let l2 = Model::new("ReduceL2", 13).values(std::slice::from_ref(&x));
    assert_close(&l2, &[519.615], 1e-3);
    let many = narrow(DType::F16, &[4096], &[1.0; 4096]);
    assert_eq!(Model::new("ReduceMean", 13).values(&[many]), [1.0]);
}

#[test]
fn the_last_of_equals_is_found() {
    let x = f32s(&[1, 4], &[2.0, 5.0, 5.0, 1.0]);
    let found = |last: i64| {
        let model =
            Model::new("ArgMax", 13).int("axis", -1).int("keepdims", 0).int("select_last_index", last);
        model.integers(std::slice::from_ref(&x))
    };
    assert_eq!((found(0), found(1)), (vec![1], vec![2]));
}

#[test]
fn running_sums_and_products() {
    let x = i32s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let run = |operator: &str, exclusive: i64, reverse: i64| {
        let model = Model::new(operator, 26).int("exclusive", exclusive).int("reverse", reverse);
        model.integers(&[x.clone(), i64s(&[], &[-1])])
    };
    assert_eq!(run("CumSum", 0, 0), [1, 3, 6, 4, 9, 15]);
    assert_eq!(run("CumSum", 1, 0), [0, 1, 3, 0, 4, 9]);
    assert_eq!(run("CumSum", 0, 1), [6, 5, 3, 15, 11, 6]);
    assert_eq!(run("CumProd", 1, 1), [6, 3, 1, 30, 6, 1]);
}

/// Before opset 13 the axes from the given one on are one.
#[test]
fn the_softmax_family_joins_axes_before_opset_13() {
    let x = f64s(&[1, 2, 2], &[0.0, 1.0, 2.0, 3.0]);
    let softmax = |values: &[f64]| {
        let sum: f64 = values.iter().map(|v| v.exp()).sum();
        values.iter().map(|v| v.exp() / sum).collect::<Vec<_>>()
    };
    let joined = Model::new("Softmax", 11).values(std::slice::from_ref(&x));
    assert_close(&joined, &softmax(&[0.0, 1.0, 2.0, 3.0]), 1e-14);
    let apart = Model::new("Softmax", 13).values(std::slice::from_ref(&x));
    assert_close(&apart, &[softmax(&[0.0, 1.0]), softmax(&[2.0, 3.0])].concat(), 1e-14);
    assert_eq!(Model::new("Hardmax", 11).values(std::slice::from_ref(&x)), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(Model::new("Hardmax", 13).values(&[x]), [0.0, 1.0, 0.0, 1.0]);
}
