//! The interpreter of Kernel IR: values checked by hand, and what it refuses.

mod llvm_support;

use fuse_codegen::kernel_ir::{
    Access, BinaryOp, Condition, Conversion, Function, LaneType, Mapping, Operation, Statement, UnaryOp,
};
use fuse_codegen::kernel_ir_eval::{EvaluationError, Work, evaluate, evaluate_all};
use fuse_ir::DType;
use fuse_ir::expr::DimEnv;
use llvm_support::{Case, dims};

/// Evaluates `case` on one item with these bits as inputs.
fn once(case: &Case, inputs: &[u64]) -> Result<u64, EvaluationError> {
    let bytes = |dtype: DType, bits: u64| bits.to_ne_bytes()[..dtype.size()].to_vec();
    let mut buffers: Vec<_> = case.inputs.iter().zip(inputs).map(|(d, bits)| bytes(*d, *bits)).collect();
    buffers.push(bytes(case.output, 0));
    evaluate_all(&case.function(Mapping::Range), &mut buffers, &dims(1))?;
    let mut bits = [0; 8];
    let output = &buffers[buffers.len() - 1];
    bits[..output.len()].copy_from_slice(output);
    Ok(u64::from_ne_bytes(bits))
}

fn binary(op: BinaryOp, dtype: DType, x: u64, y: u64) -> Result<u64, EvaluationError> {
    let case = Case::new("f", &[dtype, dtype], dtype, 1, move |maker, v| maker.binary(op, v[0], v[1]));
    once(&case, &[x, y])
}

fn f32_bits(x: f32) -> u64 {
    u64::from(x.to_bits())
}

#[test]
fn minimum_and_maximum_order_zeros_and_keep_nan() {
    let (zero, minus, nan) = (f32_bits(0.0), f32_bits(-0.0), f32_bits(f32::NAN));
    for (x, y) in [(zero, minus), (minus, zero)] {
        assert_eq!(binary(BinaryOp::Min, DType::F32, x, y), Ok(minus));
        assert_eq!(binary(BinaryOp::Max, DType::F32, x, y), Ok(zero));
    }
    assert_eq!(binary(BinaryOp::Min, DType::F32, nan, zero), Ok(nan));
    assert_eq!(binary(BinaryOp::Max, DType::F32, zero, nan), Ok(nan));
}

#[test]
fn shifts_take_their_distance_modulo_the_width() {
    let minus_two = u64::from(-2i32 as u32);
    assert_eq!(binary(BinaryOp::ShiftLeft, DType::I32, 1, 33), Ok(2));
    assert_eq!(binary(BinaryOp::ShiftRightLogical, DType::I32, minus_two, 1), Ok(0x7fff_ffff));
    assert_eq!(binary(BinaryOp::ShiftRightArithmetic, DType::I32, minus_two, 65), Ok(0xffff_ffff));
    assert_eq!(binary(BinaryOp::ShiftLeft, DType::I64, 1, 33), Ok(1 << 33));
}

#[test]
fn division_truncates_and_its_conditions_are_checked() {
    let minus = |x: i64| (-x) as u64;
    assert_eq!(binary(BinaryOp::IntDiv, DType::I64, minus(7), 2), Ok(minus(3)));
    assert_eq!(binary(BinaryOp::IntRem, DType::I64, minus(7), 2), Ok(minus(1)));
    let broken = |result| matches!(result, Err(EvaluationError::Invalid { .. }));
    assert!(broken(binary(BinaryOp::IntDiv, DType::I64, 7, 0)));
    assert!(broken(binary(BinaryOp::IntRem, DType::I64, i64::MIN as u64, minus(1))));
}

#[test]
fn floats_become_integers_by_truncation_and_saturation() {
    let case = Case::new("f", &[DType::F32], DType::I32, 1, |maker, v| {
        maker.convert(Conversion::FloatToInt, v[0], LaneType::I32)
    });
    let of = |x: f32| once(&case, &[f32_bits(x)]).map(|bits| bits as u32 as i32);
    assert_eq!([of(-1.9), of(3e9), of(-3e9), of(f32::NAN)], [Ok(-1), Ok(i32::MAX), Ok(i32::MIN), Ok(0)]);
}

#[test]
fn fma_rounds_once() {
    let case = Case::new("f", &[DType::F32; 3], DType::F32, 1, |maker, v| {
        maker.let_(maker.ty(v[0]), Operation::Fma(v[0], v[1], v[2]))
    });
    // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, whose last term a rounded product loses.
    let x = 1.0 + 2f32.powi(-12);
    let rest = once(&case, &[f32_bits(x), f32_bits(x), f32_bits(-1.0 - 2f32.powi(-11))]);
    assert_eq!(rest, Ok(f32_bits(2f32.powi(-24))));
}

#[test]
fn nearest_takes_ties_to_even_and_not_equal_holds_for_nan() {
    let nearest = Case::new("f", &[DType::F32], DType::F32, 1, |maker, v| {
        maker.let_(maker.ty(v[0]), Operation::Unary(UnaryOp::Nearest, v[0]))
    });
    assert_eq!(once(&nearest, &[f32_bits(2.5)]), Ok(f32_bits(2.0)));
    assert_eq!(once(&nearest, &[f32_bits(-3.5)]), Ok(f32_bits(-4.0)));
    let differs = Case::new("f", &[DType::F32; 2], DType::I32, 1, |maker, v| {
        let differs = maker.compare(Condition::Ne, v[0], v[1]);
        maker.convert(Conversion::BoolToInt, differs, LaneType::I32)
    });
    assert_eq!(once(&differs, &[f32_bits(f32::NAN), f32_bits(f32::NAN)]), Ok(1));
}

/// A copy of f32 elements, changed by `change`.
fn copy(change: impl FnOnce(&mut Function)) -> Function {
    let mut function = Case::new("f", &[DType::F32], DType::F32, 1, |_, v| v[0]).function(Mapping::Range);
    change(&mut function);
    function
}

#[test]
fn accesses_outside_a_buffer_are_errors() {
    let function = copy(|_| {});
    let range = |begin, end| {
        evaluate(&function, &mut [vec![0; 12], vec![0; 12]], &[3], Work::Range { begin, end }).err()
    };
    assert_eq!(range(0, 3), None);
    for (begin, end, index) in [(0, 4, 3), (-1, 3, -1), (i64::MAX - 1, i64::MAX, i64::MAX - 1)] {
        match range(begin, end) {
            Some(EvaluationError::OutOfBounds { index: at, elements: 3, .. }) => assert_eq!(at, index),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn accesses_against_the_declared_direction_are_errors() {
    for buffer in 0..2 {
        let function = copy(|f| {
            let access = &mut f.buffers[buffer].access;
            *access = if *access == Access::Read { Access::Write } else { Access::Read };
        });
        let result = evaluate_all(&function, &mut [vec![0; 4], vec![0; 4]], &dims(1));
        assert!(matches!(result, Err(EvaluationError::Access { .. })), "{result:?}");
    }
}

#[test]
fn malformed_functions_are_errors_and_not_panics() {
    let buffers = || [vec![0; 4], vec![0; 4]];
    let invalid = |function: &Function| {
        let result = evaluate_all(function, &mut buffers(), &dims(1));
        assert!(matches!(result, Err(EvaluationError::Invalid { .. })), "{result:?}");
    };
    // The loop's bound is no longer defined.
    invalid(&copy(|f| drop(f.body.remove(1))));
    invalid(&copy(|f| {
        let step = f.body.iter_mut().find_map(|s| match s {
            Statement::For { step, .. } => Some(step),
            _ => None,
        });
        *step.expect("a loop") = 0;
    }));
    invalid(&copy(|f| f.types.truncate(1)));
    let arguments = evaluate(&copy(|_| {}), &mut [], &[1], Work::Range { begin: 0, end: 1 });
    assert!(matches!(
        arguments,
        Err(EvaluationError::Arguments { what: "buffers", expected: 2, given: 0, .. })
    ));
    let item = evaluate(&copy(|_| {}), &mut buffers(), &[1], Work::Item(0));
    assert!(matches!(item, Err(EvaluationError::Invalid { .. })));
    let unbound = evaluate_all(&copy(|_| {}), &mut buffers(), &DimEnv::new());
    assert!(matches!(unbound, Err(EvaluationError::Dimension(_))));
}
