//! Operators of several operands, and conversions.

use super::*;

#[test]
fn integers_are_divided_towards_zero() {
    let operands = [i32s(&[4], &[7, -7, 7, -7]), i32s(&[4], &[2, 2, -2, -2])];
    assert_eq!(Model::new("Div", 14).integers(&operands), [3, -3, -3, 3]);
    assert_eq!(Model::new("Mod", 13).integers(&operands), [1, 1, -1, -1]);
    assert_eq!(Model::new("Mod", 13).int("fmod", 1).integers(&operands), [1, -1, 1, -1]);
}

#[test]
fn powers_of_integers_are_exact_and_wrap() {
    let base: [i64; 8] = [3, -3, 2, 2, -1, 1, 0, 5];
    let exponent: [i64; 8] = [39, 39, 62, 64, 1_000_001, -7, 0, -1];
    let expected: [i64; 8] = [3i64.pow(39), -(3i64.pow(39)), 1 << 62, 0, -1, 1, 1, 0];
    let operands = [i64s(&[8], &base), i64s(&[8], &exponent)];
    assert_eq!(Model::new("Pow", 13).integers(&operands), expected);
    for exponent in [1, 2, 3, 13, 39] {
        let operands = [i64s(&[2], &[3, -3]), i64s(&[], &[exponent])];
        let expected = [3i64.pow(exponent as u32), (-3i64).pow(exponent as u32)];
        assert_eq!(Model::new("Pow", 13).stored(1).integers(&operands), expected, "{exponent}");
    }
}

#[test]
fn powers_have_the_type_of_the_base() {
    let operands = [f32s(&[2], &[-1.0, 0.5]), i64s(&[2], &[(1 << 24) + 1, -2])];
    let result = Model::new("Pow", 15).run(&operands);
    assert_eq!((result[0].dtype(), result[0].to_f64()), (DType::F32, vec![-1.0, 4.0]));
    let operands = [i32s(&[2], &[4, 9]), f32s(&[], &[0.5])];
    let result = Model::new("Pow", 15).run(&operands);
    assert_eq!((result[0].dtype(), result[0].to_f64()), (DType::I32, vec![2.0, 3.0]));
}

#[test]
fn shifts_to_the_end_and_beyond() {
    let shift = |direction: &str, operands: &[HostTensor]| {
        Model::new("BitShift", 28).string("direction", direction).integers(operands)
    };
    let bytes = [u8s(&[5], &[255, 255, 129, 1, 200]), u8s(&[5], &[1, 7, 8, 0, 9])];
    assert_eq!(shift("LEFT", &bytes), [254, 128, 0, 1, 0]);
    assert_eq!(shift("RIGHT", &bytes), [127, 1, 0, 1, 0]);
    let words = [i64s(&[6], &[-5, -5, i64::MIN, 1, 3, 7]), i64s(&[6], &[1, 64, 63, 63, 63, -1])];
    assert_eq!(shift("RIGHT", &words), [-3, -1, -1, 0, 0, 0]);
    assert_eq!(shift("LEFT", &words), [-10, 0, 0, i64::MIN, i64::MIN, 0]);
}

#[test]
fn any_number_of_operands_broadcast() {
    let operands = [f32s(&[2, 1], &[1.0, 4.0]), f32s(&[3], &[2.0, 3.0, 6.0]), f32s(&[], &[3.0])];
    assert_eq!(Model::new("Max", 7).values(&operands), [3.0, 3.0, 6.0, 4.0, 4.0, 6.0]);
    assert_eq!(Model::new("Min", 8).values(&operands), [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
    assert_eq!(Model::new("Mean", 13).values(&operands)[0], 2.0);
}

/// 2048 + 1 is a tie of f16 that rounds down; twice in a row it would lose 2.
#[test]
fn sums_of_narrow_floats_are_rounded_once() {
    let operands: Vec<HostTensor> =
        [2048.0, 1.0, 1.0].iter().map(|v| narrow(DType::F16, &[1], &[*v])).collect();
    assert_eq!(Model::new("Sum", 13).values(&operands), [2050.0]);
    // 683.33, to the spacing of f16 between 512 and 1024.
    assert_eq!(Model::new("Mean", 13).values(&operands), [683.5]);
}

#[test]
fn logic_is_of_bools_and_bits_are_of_integers() {
    let flags = [bools(&[2], &[true, false]), bools(&[2], &[true, true])];
    assert_eq!(Model::new("Xor", 7).integers(&flags), [0, 1]);
    let bits = [i32s(&[2], &[6, -1]), i32s(&[2], &[3, 5])];
    assert_eq!(Model::new("BitwiseXor", 18).integers(&bits), [5, -6]);
    assert!(Model::new("And", 7).attempt(&bits).is_err_and(|e| e.contains("bool is needed")));
    assert!(Model::new("BitwiseAnd", 18).attempt(&flags).is_err_and(|e| e.contains("integer is needed")));
}

#[test]
fn casts_to_types_that_fuse_has() {
    let x = f32s(&[4], &[-1.5, 0.0, f32::NAN, 300.7]);
    let cast = |to: i64| Model::new("Cast", 13).int("to", to);
    assert_eq!(cast(9).integers(std::slice::from_ref(&x)), [1, 0, 1, 1]);
    assert_eq!(cast(7).integers(&[f32s(&[2], &[-1.5, 300.7])]), [-1, 300]);
    assert!(cast(8).attempt(&[x]).is_err_and(|e| e.contains("string")));
}
