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

/// Each of two blocks of 64 threads reverses its 64 elements through shared memory and adds to each that of the
/// neighbouring thread.
const BLOCKS: &str = r#"function f blocks 64 {
  read p0 "x": i32 = b0
  write p1 "y": i32 = b1
  shared s0 "row": i32 x 64
  work 2
  v0: i64 = block
  v1: i64 = blocks
  v2: i64 = thread
  v3: i64 = constant 64
  v4: i64 = constant 63
  v5: i64 = constant 1
  v6: i64 = mul v0, v3
  v7: i64 = add v6, v2
  v8: i32 = load p0[v7]
  store s0[v2] = v8
  barrier
  v9: i64 = sub v4, v2
  v10: i32 = load s0[v9]
  v11: i32 = butterfly v10, 1
  v12: i32 = add v10, v11
  v13: bool = compare lt v2, v3
  if v13 {
    store p1[v7] = v12
  }
}
"#;

fn evaluate_blocks(text: &str) -> Result<Vec<i32>, EvaluationError> {
    let function = fuse_codegen::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let bytes = |values: Vec<i32>| values.into_iter().flat_map(i32::to_ne_bytes).collect::<Vec<u8>>();
    let mut buffers = [bytes((0..128).map(|i| i * i).collect()), bytes(vec![-1; 128])];
    evaluate_all(&function, &mut buffers, &DimEnv::new())?;
    Ok(buffers[1].chunks_exact(4).map(|b| i32::from_ne_bytes(b.try_into().unwrap())).collect())
}

#[test]
fn threads_of_a_block_exchange_values() {
    let square = |block: i32, thread: i32| (64 * block + 63 - thread).pow(2);
    let expected = |at: i32| square(at / 64, at % 64) + square(at / 64, (at % 64) ^ 1);
    assert_eq!(evaluate_blocks(BLOCKS), Ok((0..128).map(expected).collect()));
}

#[test]
fn threads_that_do_not_meet_where_they_must_are_errors() {
    let changed = |from: &str, to: &str| {
        assert!(BLOCKS.contains(from), "{from}");
        evaluate_blocks(&BLOCKS.replace(from, to))
    };
    // Half of the threads, a whole warp, reach the barrier; one of them, the butterfly.
    let half = "v13: bool = compare lt v2, v3\n  if v13 {\n    barrier";
    let half = half.replace("lt v2, v3", "lt v2, v14");
    let half = format!("  v14: i64 = constant 32\n  {half}\n");
    let diverged = changed("  v13: bool = compare lt v2, v3\n  if v13 {\n", &half);
    assert!(matches!(diverged, Err(EvaluationError::Diverged(_))), "{diverged:?}");
    let alone = "v13: bool = compare lt v2, v5\n  if v13 {\n    v14: i32 = butterfly v12, 2\n";
    let diverged = changed("v13: bool = compare lt v2, v3\n  if v13 {\n", alone);
    assert!(matches!(diverged, Err(EvaluationError::Diverged(_))), "{diverged:?}");
    // The same for all is no divergence.
    assert_eq!(changed("  if v13 {\n", "  if v13 {\n    barrier\n"), evaluate_blocks(BLOCKS));
}

#[test]
fn what_no_barrier_orders_is_an_error() {
    let invalid = |text: String| match evaluate_blocks(&text) {
        Err(EvaluationError::Invalid { what, .. }) => what,
        other => panic!("{other:?}\n{text}"),
    };
    let race = "reads what another thread writes, with no barrier between";
    assert_eq!(invalid(BLOCKS.replace("  barrier\n", "")), race);
    let race = "is written where another thread reads or writes, with no barrier between";
    assert_eq!(invalid(BLOCKS.replace("store s0[v2] = v8", "store s0[v0] = v8")), race);
    let after = "  v10: i32 = load s0[v9]\n  store s0[v2] = v8\n";
    assert_eq!(invalid(BLOCKS.replace("  v10: i32 = load s0[v9]\n", after)), race);
    // A thread orders its own uses.
    let own = "  v14: i32 = load s0[v2]\n  store s0[v2] = v14\n  barrier\n";
    assert_eq!(evaluate_blocks(&BLOCKS.replace("  barrier\n", own)), evaluate_blocks(BLOCKS));
}

#[test]
fn shared_memory_is_written_before_it_is_read_and_has_an_end() {
    let invalid = |from: &str, to: &str| match evaluate_blocks(&BLOCKS.replace(from, to)) {
        Err(EvaluationError::Invalid { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(invalid("  store s0[v2] = v8\n", ""), "reads shared memory that was not written");
    assert_eq!(invalid("i32 x 64", "i32 x 63"), "is outside a shared array");
    assert_eq!(invalid("v9: i64 = sub v4, v2", "v9: i64 = sub v3, v2"), "is outside a shared array");
}

#[test]
fn blocks_that_meet_are_not_evaluated_one_after_the_other() {
    let resident = BLOCKS.replace("blocks 64 {", "resident 64 {");
    let resident = evaluate_blocks(&resident);
    assert!(matches!(resident, Err(EvaluationError::Blocks(_))), "{resident:?}");
}

/// Each of four blocks of 32 threads, two of which are a cluster, gives its elements to both blocks of its cluster; each
/// thread adds that of the other block to its own.
const CLUSTERS: &str = r#"function f clusters 2 of 32 {
  read p0 "x": i32 = b0
  write p1 "y": i32 = b1
  shared s0 "all": i32 x 64
  work 4
  v0: i64 = block
  v1: i64 = thread
  v2: i64 = constant 32
  v3: i64 = constant 1
  v4: i64 = and v0, v3
  v5: i64 = mul v0, v2
  v6: i64 = add v5, v1
  v7: i32 = load p0[v6]
  cluster_arrive
  v8: i64 = mul v4, v2
  v9: i64 = add v8, v1
  v13: i64 = constant 0
  cluster_wait
  store s0[v9] of v13 = v7
  store s0[v9] of v3 = v7
  cluster_arrive
  v10: i64 = xor v9, v2
  cluster_wait
  v11: i32 = load s0[v10]
  v12: i32 = add v7, v11
  store p1[v6] = v12
}
"#;

#[test]
fn blocks_of_a_cluster_write_into_each_others_memory() {
    let square = |at: i32| at * at;
    assert_eq!(evaluate_blocks(CLUSTERS), Ok((0..128).map(|at| square(at) + square(at ^ 32)).collect()));
}

#[test]
fn what_no_meeting_of_a_cluster_orders_is_an_error() {
    let changed = |from: &str, to: &str| {
        assert!(CLUSTERS.contains(from), "{from}");
        evaluate_blocks(&CLUSTERS.replacen(from, to, 1))
    };
    let invalid = |from: &str, to: &str| match changed(from, to) {
        Err(EvaluationError::Invalid { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    // What stands between arrival and waiting is ordered with neither.
    let late = "cluster_arrive\n  store s0[v9] of v13 = v7\n  store s0[v9] of v3 = v7\n  v10";
    let stores = "store s0[v9] of v13 = v7\n  store s0[v9] of v3 = v7\n  cluster_arrive\n  v10";
    let race = "reads what another thread writes, with no barrier between";
    assert_eq!(invalid(stores, late), race);
    // Threads of a block meet without others.
    assert_eq!(
        invalid(
            "cluster_arrive\n  v10: i64 = xor v9, v2\n  cluster_wait",
            "v10: i64 = xor v9, v2\n  barrier"
        ),
        race
    );
    let race = "is written where another thread reads or writes, with no barrier between";
    assert_eq!(invalid("store s0[v9] of v3", "store s0[v1] of v3"), race);
    assert_eq!(invalid("store s0[v9] of v3", "store s0[v9] of v2"), "is outside a shared array");
    let twice = changed("  cluster_wait\n", "");
    assert!(matches!(twice, Err(EvaluationError::Diverged(_))), "{twice:?}");
    let some = "v14: bool = compare lt v1, v3\n  if v14 {\n    cluster_arrive\n  }\n  v10";
    let some = changed("cluster_arrive\n  v10", some);
    assert!(matches!(some, Err(EvaluationError::Diverged(_))), "{some:?}");
}
