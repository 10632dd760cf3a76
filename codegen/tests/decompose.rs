//! The accuracy of decomposed functions, through Cranelift, over the whole range of their operands; `math.rs`
//! takes every f32.

mod kernel_support;

use fuse_codegen::cranelift::{CpuModule, compile_cpu};
use fuse_codegen::schedule::{ScheduleTarget, schedule};
use fuse_ir::compare::ulp_distance;
use fuse_ir::interp::{ScalarValue, eval_scalar};
use fuse_ir::kernel::Step;
use fuse_ir::{DType, ScalarOp};
use kernel_support::{Maker, a, s};

const FUNCTIONS: &[ScalarOp] = &[
    ScalarOp::Sqrt,
    ScalarOp::Rsqrt,
    ScalarOp::Reciprocal,
    ScalarOp::Exp,
    ScalarOp::Exp2,
    ScalarOp::Expm1,
    ScalarOp::Log,
    ScalarOp::Log2,
    ScalarOp::Log1p,
    ScalarOp::Sin,
    ScalarOp::Cos,
    ScalarOp::Tanh,
    ScalarOp::Sigmoid,
    ScalarOp::Softplus,
    ScalarOp::Erf,
];

/// Applies an op to as many elements as are passed.
struct Applied {
    module: CpuModule,
}

impl Applied {
    fn new(op: ScalarOp, dtype: DType) -> Applied {
        let mut m = Maker::new(&[s("N")]);
        let operands: Vec<_> = (0..op.arity())
            .map(|_| {
                let buffer = m.input(dtype, &[s("N")]);
                m.load(buffer, &[a(0)])
            })
            .collect();
        let result = m.apply(op, &operands);
        m.store(result);
        let graph = m.finish();
        let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
        let function = schedule(&graph, kernel, ScheduleTarget::cpu()).unwrap();
        Applied { module: compile_cpu(&[function]).unwrap() }
    }

    fn run<T: Copy + Default>(&self, operands: &mut [Vec<T>]) -> Vec<T> {
        let n = operands[0].len();
        let mut out = vec![T::default(); n];
        let mut pointers: Vec<*mut u8> = operands.iter_mut().map(|o| o.as_mut_ptr().cast()).collect();
        pointers.push(out.as_mut_ptr().cast());
        // One item is 1024 elements.
        let items = (n as i64 + 1023) / 1024;
        // SAFETY: every buffer has n elements of the type that the kernel was made for.
        unsafe { self.module.call(0, &pointers, &[n as i64], 0, items) }.unwrap();
        out
    }
}

fn exact(op: ScalarOp, operands: &[f64]) -> f64 {
    let operands: Vec<_> = operands.iter().map(|x| ScalarValue::Float(*x)).collect();
    match eval_scalar(op, &operands, DType::F64) {
        Some(ScalarValue::Float(y)) => y,
        other => panic!("{op:?} gave {other:?}"),
    }
}

/// The greatest error over all bit patterns `first`, `first + step`, ….
fn worst_f32(op: ScalarOp, first: u64, step: u64) -> (f64, f32) {
    let applied = Applied::new(op, DType::F32);
    let mut worst = (0.0, 0.0);
    let mut bits = first;
    while bits < 1 << 32 {
        let mut operands: Vec<f32> = Vec::with_capacity(1 << 16);
        while operands.len() < 1 << 16 && bits < 1 << 32 {
            operands.push(f32::from_bits(bits as u32));
            bits += step;
        }
        let mut operands = [operands];
        let results = applied.run(&mut operands);
        for (x, y) in operands[0].iter().zip(results) {
            let error = ulp_distance(DType::F32, f64::from(y), exact(op, &[f64::from(*x)]));
            if error > worst.0 {
                worst = (error, *x);
            }
        }
    }
    worst
}

#[test]
fn f32_functions_keep_their_tolerance_over_the_whole_range() {
    let mut failed = Vec::new();
    for op in FUNCTIONS {
        let (error, at) = worst_f32(*op, 0, 9973);
        let tolerance = op.tolerance_ulp();
        println!("f32 {:<10} {error:7.3} ULP at {at:e} (tolerance {tolerance})", op.mnemonic());
        if error > tolerance {
            failed.push(format!("{} is off by {error} ULP at {at:e}", op.mnemonic()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Pseudo-random bits, and the neighbourhood of numbers where functions change.
fn f64_operands(count: usize) -> Vec<f64> {
    let mut out = vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0, -1.0, f64::MIN_POSITIVE];
    out.extend([5e-324, f64::MAX, f64::MIN, 709.78, 709.79, -745.13, -745.14, 1e22, 2f64.powi(1000)]);
    let mut state = 0x1234_5678_9abc_def1_u64;
    for i in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        out.push(match i % 4 {
            0 => f64::from_bits(state),
            1 => unit * 40.0,
            2 => 2f64.powf(unit * 60.0) * unit.signum(),
            _ => 1.0 + unit * 0.5,
        });
    }
    out
}

#[test]
fn f64_functions_stay_within_4_ulp_of_the_system_library() {
    let mut failed = Vec::new();
    for op in FUNCTIONS {
        let mut operands = [f64_operands(200_000)];
        let results = Applied::new(*op, DType::F64).run(&mut operands);
        let mut worst = (0.0, 0.0);
        for (x, y) in operands[0].iter().zip(results) {
            let error = ulp_distance(DType::F64, y, exact(*op, &[*x]));
            if error > worst.0 {
                worst = (error, *x);
            }
        }
        println!("f64 {:<10} {:7.3} ULP at {:e}", op.mnemonic(), worst.0, worst.1);
        if worst.0 > 4.0 {
            failed.push(format!("{} is off by {} ULP at {:e}", op.mnemonic(), worst.0, worst.1));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Pairs of ordinary and extreme operands.
fn pairs_f64(op: ScalarOp) -> [Vec<f64>; 2] {
    let corners = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        1e300,
        -1e300,
        5e-324,
        -5e-324,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        4503599627370497.0,
        1e17,
        0.1,
        7.25,
    ];
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for p in corners {
        for q in corners {
            x.push(p);
            y.push(q);
        }
    }
    let random = f64_operands(60_000);
    for pair in random.chunks_exact(2) {
        x.push(if op == ScalarOp::Pow { pair[0].abs() } else { pair[0] });
        y.push(pair[1]);
        // Powers over the whole range of results.
        x.push(2f64.powf(pair[0].abs().min(1.0) * 40.0));
        y.push((pair[1].abs().fract() - 0.5) * 50.0);
    }
    [x, y]
}

#[test]
fn powers_and_remainders_agree_for_f32_and_f64() {
    for (op, tolerance) in [(ScalarOp::Pow, 2.0), (ScalarOp::Rem, 0.0), (ScalarOp::Mod, 0.0)] {
        let mut wide = pairs_f64(op);
        let mut narrow = wide.clone().map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
        let results = Applied::new(op, DType::F64).run(&mut wide);
        let mut worst = (0.0, 0.0, 0.0);
        for ((x, y), z) in wide[0].iter().zip(&wide[1]).zip(&results) {
            let expected = exact(op, &[*x, *y]);
            let error = ulp_distance(DType::F64, *z, expected);
            if error > worst.0 {
                worst = (error, *x, *y);
            }
            if *z == 0.0 && expected == 0.0 {
                assert_eq!(z.is_sign_negative(), expected.is_sign_negative(), "{op:?}({x:e}, {y:e})");
            }
        }
        println!("f64 {:<10} {:7.3} ULP at ({:e}, {:e})", op.mnemonic(), worst.0, worst.1, worst.2);
        assert!(worst.0 <= tolerance, "{op:?} is off by {worst:?}");
        let results = Applied::new(op, DType::F32).run(&mut narrow);
        let mut worst = (0.0, 0.0, 0.0);
        for ((x, y), z) in narrow[0].iter().zip(&narrow[1]).zip(&results) {
            let expected = DType::F32.round_f64(exact(op, &[f64::from(*x), f64::from(*y)]));
            let expected =
                if op == ScalarOp::Pow { exact(op, &[f64::from(*x), f64::from(*y)]) } else { expected };
            let error = ulp_distance(DType::F32, f64::from(*z), expected);
            if error > worst.0 {
                worst = (error, *x, *y);
            }
        }
        println!("f32 {:<10} {:7.3} ULP at ({:e}, {:e})", op.mnemonic(), worst.0, worst.1, worst.2);
        assert!(worst.0 <= tolerance.min(1.0), "{op:?} is off by {worst:?}");
    }
}

/// Every f16 and bf16, through every cast, against the conversions of the `half` crate by way of literals.
#[test]
fn narrow_floats_are_rounded_once_to_nearest_even() {
    use fuse_ir::kernel::Element;
    for dtype in [DType::F16, DType::Bf16] {
        for from in [DType::F32, DType::F64, DType::I32, DType::I64] {
            let mut m = Maker::new(&[s("N")]);
            let x = m.input(from, &[s("N")]);
            let x = m.load(x, &[a(0)]);
            let narrow = m.push(dtype, Element::Cast(x));
            m.store(narrow);
            let graph = m.finish();
            let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
            let function = schedule(&graph, kernel, ScheduleTarget::cpu()).unwrap();
            let module = compile_cpu(&[function]).unwrap();
            let bits = operand_bits(from, dtype);
            let mut input: Vec<u8> =
                bits.iter().flat_map(|b| b.to_le_bytes()[..from.size()].to_vec()).collect();
            let mut output = vec![0u16; bits.len()];
            let pointers = [input.as_mut_ptr(), output.as_mut_ptr().cast()];
            let items = (bits.len() as i64 + 1023) / 1024;
            // SAFETY: both buffers have one element for each of the bits.
            unsafe { module.call(0, &pointers, &[bits.len() as i64], 0, items) }.unwrap();
            for (bits, got) in bits.iter().zip(output) {
                let literal = fuse_ir::Literal::from_bits(from, *bits);
                let expected = if from.is_float() {
                    fuse_ir::Literal::from_f64(dtype, literal.as_f64())
                } else {
                    fuse_ir::Literal::from_i64(dtype, literal.as_i64())
                };
                let got = fuse_ir::Literal::from_bits(dtype, u64::from(got));
                let both_nan = got.as_f64().is_nan() && expected.as_f64().is_nan();
                assert!(both_nan || got == expected, "{literal:?} to {dtype}: {got:?}, not {expected:?}");
            }
        }
    }
}

/// Halfway cases between neighbours of the narrow type and their own neighbours, and pseudo-random bits.
fn operand_bits(from: DType, narrow: DType) -> Vec<u64> {
    let mut out = Vec::new();
    for bits in 0..0x7fffu64 {
        let (low, high) = (
            fuse_ir::Literal::from_bits(narrow, bits).as_f64(),
            fuse_ir::Literal::from_bits(narrow, bits + 1).as_f64(),
        );
        let middle = if high.is_finite() { low + (high - low) / 2.0 } else { low * 1.0003 };
        for x in [low, middle, -middle] {
            let literal = fuse_ir::Literal::from_f64(from, x);
            for bits in [literal.bits(), literal.bits().wrapping_add(1), literal.bits().wrapping_sub(1)] {
                out.push(fuse_ir::Literal::from_bits(from, bits).bits());
            }
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in 0..50_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.push(fuse_ir::Literal::from_bits(from, state >> (i % 60)).bits());
    }
    out
}
