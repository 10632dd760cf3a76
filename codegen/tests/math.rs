//! How far elementwise functions of f32 are from the exact result, through LLVM at the host's full vector width.
//!
//! An ordinary run measures a million operands of each; `FUSE_SOAK=n` measures n million, and from 4295 on (as
//! `make soak` does) every f32 there is. `FUSE_MATH=tanh` measures that function alone.
#![cfg(feature = "llvm")]

mod kernel_support;

use std::fmt::Write;

use fuse_codegen::cranelift::{CpuModule, compile_cpu};
use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::host::schedule_target;
use fuse_codegen::llvm::{LlvmHostModule, Optimization};
use fuse_codegen::schedule::{ScheduleTarget, schedule};
use fuse_ir::kernel::Step;
use fuse_ir::{DType, ScalarOp};
use kernel_support::{Maker, a, s};

/// The most that any function may be off, in units in the last place of the exact result.
const BOUND: f64 = 2.0;

/// How many elements a call computes.
const CHUNK: usize = 1 << 20;

/// A function in f64.
type Exact = fn(f64) -> f64;

/// The functions and what they compute, in f64: by the system's library, whose error is below 2^-28 of an f32's
/// last place, and for the error function by a port of FreeBSD's.
const FUNCTIONS: [(ScalarOp, Exact); 15] = [
    (ScalarOp::Sqrt, f64::sqrt),
    (ScalarOp::Rsqrt, |x| 1.0 / x.sqrt()),
    (ScalarOp::Reciprocal, |x| 1.0 / x),
    (ScalarOp::Exp, f64::exp),
    (ScalarOp::Exp2, f64::exp2),
    (ScalarOp::Expm1, f64::exp_m1),
    (ScalarOp::Log, f64::ln),
    (ScalarOp::Log2, f64::log2),
    (ScalarOp::Log1p, f64::ln_1p),
    (ScalarOp::Sin, f64::sin),
    (ScalarOp::Cos, f64::cos),
    (ScalarOp::Tanh, f64::tanh),
    (ScalarOp::Sigmoid, |x| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }),
    (ScalarOp::Softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
    (ScalarOp::Erf, libm::erf),
];

/// A kernel that applies `op` to as many elements as are passed.
fn kernel(op: ScalarOp, target: ScheduleTarget) -> Function {
    let mut m = Maker::new(&[s("N")]);
    let buffer = m.input(DType::F32, &[s("N")]);
    let x = m.load(buffer, &[a(0)]);
    let result = m.apply(op, &[x]);
    m.store(result);
    let graph = m.finish();
    let Step::Kernel(kernel) = &graph.steps[0] else { panic!("one kernel") };
    schedule(&graph, kernel, target).unwrap()
}

/// A function's kernel on both tiers.
struct Tiers {
    peak: LlvmHostModule,
    peak_work: Function,
    fast: CpuModule,
    fast_work: Function,
}

impl Tiers {
    fn new(op: ScalarOp) -> Tiers {
        let (peak_work, fast_work) = (kernel(op, schedule_target()), kernel(op, ScheduleTarget::cpu()));
        let peak = LlvmHostModule::compile(std::slice::from_ref(&peak_work), Optimization::Full).unwrap();
        let fast = compile_cpu(std::slice::from_ref(&fast_work)).unwrap();
        Tiers { peak, peak_work, fast, fast_work }
    }

    /// Calls `launch` with the buffers, the symbols and the end of the range of work items.
    fn call(work: &Function, x: &mut [f32], y: &mut [f32], launch: impl FnOnce(&[*mut u8], &[i64], i64)) {
        let n = x.len() as i64;
        assert_eq!(x.len(), y.len());
        let items = work.work.eval_dim(&kernel_support::env(&[("N", n)])).unwrap();
        launch(&[x.as_mut_ptr().cast(), y.as_mut_ptr().cast()], &[n], items);
    }

    fn peak(&self, x: &mut [f32], y: &mut [f32]) {
        Tiers::call(&self.peak_work, x, y, |buffers, symbols, items| {
            // SAFETY: both buffers have as many elements as the symbol says.
            unsafe { self.peak.call(0, buffers, symbols, 0, items) }.unwrap();
        });
    }

    fn fast(&self, x: &mut [f32], y: &mut [f32]) {
        Tiers::call(&self.fast_work, x, y, |buffers, symbols, items| {
            // SAFETY: both buffers have as many elements as the symbol says.
            unsafe { self.fast.call(0, buffers, symbols, 0, items) }.unwrap();
        });
    }
}

/// The distance between neighbouring f32 where `x` is; below the normal range that of its least numbers.
fn unit(x: f64) -> f64 {
    let exponent = ((x.to_bits() >> 52) & 0x7ff).max(1023 - 126);
    f64::from_bits((exponent - 23) << 52)
}

/// How far `got` is from the exact result, in units in its last place. NaN is wanted for NaN, and an exact result
/// that rounds to infinity wants that infinity; short of that, infinity counts as the power of two that would
/// follow the largest number. A zero must have the exact result's sign.
fn error(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got.to_bits() == rounded.to_bits() && (got.is_infinite() || got == 0.0 && exact == 0.0) {
        return 0.0;
    }
    if got.is_nan() && exact.is_nan() {
        return 0.0;
    }
    if rounded.is_infinite() || rounded.is_nan() || got.is_nan() || exact == 0.0 {
        return f64::INFINITY;
    }
    if got == 0.0 && got.is_sign_negative() != exact.is_sign_negative() {
        return f64::INFINITY;
    }
    let got = if got.is_infinite() { 2f64.powi(128).copysign(f64::from(got)) } else { f64::from(got) };
    (got - exact).abs() / unit(exact)
}

/// The greatest error that was seen.
struct Worst {
    error: f64,
    at: f32,
    got: f32,
}

/// Measures the operands in `x`; the first of every few chunks is computed by Cranelift too.
fn measure(tiers: &Tiers, exact: Exact, x: &mut [f32], both: bool, worst: &mut Worst) {
    let mut y = vec![0.0; x.len()];
    tiers.peak(x, &mut y);
    for (x, y) in x.iter().zip(&y) {
        let error = error(*y, exact(f64::from(*x)));
        if error > worst.error {
            *worst = Worst { error, at: *x, got: *y };
        }
    }
    if both {
        let mut other = vec![0.0f32; x.len()];
        tiers.fast(x, &mut other);
        for ((x, y), other) in x.iter().zip(&y).zip(&other) {
            let same = y.to_bits() == other.to_bits() || y.is_nan() && other.is_nan();
            assert!(same, "LLVM computes {y:e} and Cranelift {other:e} at {x:e}");
        }
    }
}

/// The distance between the bit patterns that are measured.
fn stride() -> u64 {
    let millions: Option<u64> = std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse().ok());
    // A prime for an ordinary run, so that all low bits occur.
    millions.map_or(4099, |n| ((1 << 32) / (n.max(1) * 1_000_000)).max(1))
}

/// Where functions change: zeros, ends of the range, and neighbours of numbers where results saturate.
fn edges() -> Vec<f32> {
    let tops = [f32::MIN_POSITIVE, f32::MAX, 1.0, 0.5, 2.0, 0.55, 0.875, 4.0, 9.01, 10.0, 17.33, 20.0];
    let exps = [88.722_84, 89.0, 87.336_55, 103.972_08, 103.278_93, 104.0, 127.0, 128.0, 126.0, 149.0, 150.0];
    let mut out = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
    out.extend([f32::from_bits(1), -f32::from_bits(1), f32::from_bits(0x7f80_0001)]);
    for x in tops.into_iter().chain(exps) {
        for bits in x.to_bits().saturating_sub(64)..x.to_bits() + 64 {
            out.extend([f32::from_bits(bits), -f32::from_bits(bits)]);
        }
    }
    out
}

fn worst(op: ScalarOp, exact: Exact) -> Worst {
    let (tiers, stride) = (Tiers::new(op), stride());
    let mut worst = Worst { error: 0.0, at: 0.0, got: 0.0 };
    measure(&tiers, exact, &mut edges(), true, &mut worst);
    let (mut bits, mut chunk) = (0u64, 0u64);
    let mut x = Vec::with_capacity(CHUNK);
    while bits < 1 << 32 {
        x.clear();
        while x.len() < CHUNK && bits < 1 << 32 {
            x.push(f32::from_bits(bits as u32));
            bits += stride;
        }
        measure(&tiers, exact, &mut x, chunk.is_multiple_of(16), &mut worst);
        chunk += 1;
    }
    worst
}

#[test]
fn functions_are_within_2_ulp_of_the_exact_result() {
    let only = std::env::var("FUSE_MATH").unwrap_or_default();
    let (mut table, mut failed) = (String::new(), false);
    for (op, exact) in FUNCTIONS.iter().filter(|(op, _)| only.is_empty() || only == op.mnemonic()) {
        let worst = worst(*op, *exact);
        failed |= worst.error > BOUND;
        let bits = worst.at.to_bits();
        let (name, error) = (op.mnemonic(), worst.error);
        let line = format!("{name:<10} {error:7.4} ULP at {:e} ({bits:#010x}): {:e}", worst.at, worst.got);
        println!("{line}");
        writeln!(table, "{line}").unwrap();
    }
    assert!(!failed, "above {BOUND} ULP:\n{table}");
}

/// The values at the ends of the range, exactly, zeros with their signs.
#[test]
fn limits_are_exact() {
    const INF: f32 = f32::INFINITY;
    let limits: [(ScalarOp, &[(f32, f32)]); 10] = [
        (ScalarOp::Tanh, &[(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (f32::MAX, 1.0), (40.0, 1.0)]),
        (
            ScalarOp::Sigmoid,
            &[(INF, 1.0), (-INF, 0.0), (0.0, 0.5), (-0.0, 0.5), (f32::MIN, 0.0), (200.0, 1.0)],
        ),
        (ScalarOp::Exp, &[(INF, INF), (-INF, 0.0), (0.0, 1.0), (-0.0, 1.0), (89.0, INF), (-200.0, 0.0)]),
        (
            ScalarOp::Exp2,
            &[(INF, INF), (-INF, 0.0), (-0.0, 1.0), (128.0, INF), (-149.0, 1e-45), (-151.0, 0.0)],
        ),
        (ScalarOp::Expm1, &[(INF, INF), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (f32::MIN, -1.0)]),
        (ScalarOp::Log, &[(INF, INF), (0.0, -INF), (-0.0, -INF), (1.0, 0.0)]),
        (ScalarOp::Log2, &[(INF, INF), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (1e-45, -149.0)]),
        (ScalarOp::Log1p, &[(INF, INF), (-1.0, -INF), (0.0, 0.0), (-0.0, -0.0)]),
        (ScalarOp::Softplus, &[(INF, INF), (-INF, 0.0), (f32::MAX, f32::MAX), (-200.0, 0.0)]),
        (ScalarOp::Erf, &[(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (f32::MAX, 1.0), (-5.0, -1.0)]),
    ];
    for (op, pairs) in limits {
        let tiers = Tiers::new(op);
        let mut x: Vec<f32> = pairs.iter().map(|(x, _)| *x).collect();
        let logarithm = matches!(op, ScalarOp::Log | ScalarOp::Log2 | ScalarOp::Log1p);
        // NaN for NaN, and logarithms of what is below their domain.
        x.extend([
            f32::NAN,
            if logarithm { -2.0 } else { -f32::NAN },
            if logarithm { -INF } else { f32::NAN },
        ]);
        let mut y = vec![0.0f32; x.len()];
        tiers.peak(&mut x, &mut y);
        for ((x, expected), y) in pairs.iter().zip(&y) {
            assert_eq!(y.to_bits(), expected.to_bits(), "{}({x:e}) is {y:e}", op.mnemonic());
        }
        for (x, y) in x.iter().zip(&y).skip(pairs.len()) {
            assert!(y.is_nan(), "{}({x:e}) is {y:e}", op.mnemonic());
        }
    }
}
