//! Times the CPU's fast tier: how long a kernel takes to schedule and compile, and how fast its code runs
//! against the fused multiply-adds that the machine can do with 128-bit vectors. One thread.
//!
//! `cargo run --release -p fuse-codegen --example cpu_kernels [asm|clif|ir]`

#[path = "../tests/kernel_support/mod.rs"]
mod kernel_support;

use std::hint::black_box;
use std::time::Instant;

use fuse_codegen::cranelift::{asm, clif, compile_cpu};
use fuse_codegen::schedule::{ScheduleTarget, schedule};
use fuse_codegen::text::print;
use fuse_ir::kernel::{KernelGraph, Step};
use fuse_ir::{DType, ReduceOp, ScalarOp};
use kernel_support::{Maker, Weights, a, c, env, inputs, lstm_step, s};

fn main() {
    let peak = peak();
    println!("128-bit FMA peak: {:.1} GFLOP/s", peak / 1e9);
    for (batch, hidden) in [(1, 256), (1, 512), (4, 256), (8, 256), (32, 512), (64, 1024)] {
        for weights in [Weights::Rows, Weights::Columns] {
            let graph = lstm_step(s("B"), hidden, weights);
            let layout = match weights {
                Weights::Rows => "[4H, H]",
                Weights::Columns => "[H, 4H]",
            };
            let name = format!("LSTM step B={batch} H={hidden} W{layout}");
            let flops = (8 * batch * hidden * hidden) as f64;
            measure(&name, &graph, &[("B", batch)], flops, peak);
        }
    }
    let flops = 2.0 * 128.0 * 512.0 * 512.0;
    measure("matmul 128x512x512", &matmul(Weights::Columns), &[("M", 128)], flops, peak);
    measure("its weights [N, K]", &matmul(Weights::Rows), &[("M", 128)], flops, peak);
    for op in [ScalarOp::Tanh, ScalarOp::Sigmoid, ScalarOp::Exp, ScalarOp::Add, ScalarOp::Erf, ScalarOp::Log]
    {
        measure(&format!("{} of 65536", op.mnemonic()), &elementwise(op), &[("N", 65536)], 65536.0, peak);
    }
    measure("layer norm 32x512", &sums(), &[("B", 32), ("N", 512)], 2.0 * 32.0 * 512.0, peak);
}

/// Twelve independent chains of fused multiply-adds on four lanes.
fn peak() -> f64 {
    let rounds = 20_000_000u64;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let mut sums = [[0.5f32; 4]; 12];
        let (x, y) = (black_box([1.0001f32; 4]), black_box([1e-7f32; 4]));
        let start = Instant::now();
        chains(&mut sums, x, y, rounds);
        best = best.min(start.elapsed().as_secs_f64());
        black_box(sums);
    }
    (rounds * 12 * 4 * 2) as f64 / best
}

#[cfg(target_arch = "x86_64")]
fn chains(sums: &mut [[f32; 4]; 12], x: [f32; 4], y: [f32; 4], rounds: u64) {
    #[target_feature(enable = "fma")]
    fn run(sums: &mut [[f32; 4]; 12], x: [f32; 4], y: [f32; 4], rounds: u64) {
        use std::arch::x86_64::{__m128, _mm_fmadd_ps};
        // SAFETY: an array of four floats has the size of the vector and no invalid values.
        let vector = |v: [f32; 4]| unsafe { std::mem::transmute::<[f32; 4], __m128>(v) };
        let (x, y) = (vector(x), vector(y));
        let mut v = sums.map(vector);
        for _ in 0..rounds {
            for chain in &mut v {
                *chain = _mm_fmadd_ps(*chain, x, y);
            }
        }
        // SAFETY: as above.
        *sums = v.map(|v| unsafe { std::mem::transmute::<__m128, [f32; 4]>(v) });
    }
    if std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the feature was just found.
        unsafe { run(sums, x, y, rounds) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn chains(sums: &mut [[f32; 4]; 12], x: [f32; 4], y: [f32; 4], rounds: u64) {
    for _ in 0..rounds {
        for chain in sums.iter_mut() {
            for (lane, value) in chain.iter_mut().enumerate() {
                *value = value.mul_add(x[lane], y[lane]);
            }
        }
    }
}

fn measure(name: &str, graph: &KernelGraph, dims: &[(&str, i64)], flops: f64, peak: f64) {
    let dims = env(dims);
    let Some(Step::Kernel(kernel)) = graph.steps.first() else { return };
    let scheduled = |_| schedule(graph, kernel, ScheduleTarget::cpu()).expect("the kernel is valid");
    let function = scheduled(());
    match std::env::args().nth(1).as_deref() {
        Some("asm") => println!("{name}\n{}", asm(&function).expect("the kernel compiles")),
        Some("clif") => println!("{name}\n{}", clif(&function).expect("the kernel compiles")),
        Some("ir") => println!("{name}\n{}", print(&function)),
        _ => {}
    }
    let schedule_ms = average(200, || drop(scheduled(())));
    let compile_ms = average(50, || drop(compile_cpu(std::slice::from_ref(&function))));
    let module = compile_cpu(std::slice::from_ref(&function)).expect("the kernel compiles");
    let mut tensors = inputs(graph, &dims);
    let mut outputs: Vec<Vec<u8>> = Vec::new();
    let mut pointers = Vec::new();
    for parameter in &function.buffers {
        let buffer = graph.buffer(parameter.buffer);
        if let fuse_ir::kernel::BufferKind::Input(i) = buffer.kind {
            pointers.push(tensors[i].bytes_mut().as_mut_ptr());
        } else {
            let size = fuse_ir::kernel::byte_size(&buffer.ty).eval_dim(&dims).expect("sizes are known");
            let mut output = vec![0u8; size as usize];
            pointers.push(output.as_mut_ptr());
            outputs.push(output);
        }
    }
    let symbols: Vec<i64> = function.symbols.iter().map(|s| dims.get(s).expect("known")).collect();
    let work = function.work.eval_dim(&dims).expect("work is known");
    // SAFETY: the buffers have the sizes of their shapes at these dimensions.
    let mut call = || unsafe { module.call(0, &pointers, &symbols, 0, work) }.expect("the arguments fit");
    let first = best(1, &mut call);
    let repeats = (200.0 / (first + 0.001)).clamp(5.0, 20_000.0) as usize;
    let run_ms = best(repeats, &mut call);
    let rate = flops / run_ms * 1e3;
    println!(
        "{name:<32} schedule {schedule_ms:6.3} ms, compile {compile_ms:6.3} ms, {:9.2} us, {:7.2} G/s ({:4.1} %)",
        run_ms * 1e3,
        rate / 1e9,
        rate / peak * 100.0
    );
}

/// The processor time of one of several runs, in milliseconds, which other load on the machine hardly changes;
/// where the system does not tell it, the time that passed.
fn average(runs: u32, mut run: impl FnMut()) -> f64 {
    let used = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    run();
    let (start, before) = (Instant::now(), used());
    (0..runs).for_each(|_| run());
    let nanoseconds = match (before, used()) {
        (Some(before), Some(after)) => after - before,
        _ => start.elapsed().as_secs_f64() * 1e9,
    };
    nanoseconds / f64::from(runs) / 1e6
}

/// The shortest of several runs, in milliseconds.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .fold(f64::INFINITY, f64::min)
}

fn matmul(weights: Weights) -> KernelGraph {
    let mut m = Maker::new(&[s("M"), c(512)]);
    let (x, y) = (m.input(DType::F32, &[s("M"), c(512)]), m.input(DType::F32, &[c(512), c(512)]));
    let weight = |k| match weights {
        Weights::Rows => vec![a(1), k],
        Weights::Columns => vec![k, a(1)],
    };
    let product = m.contract(c(512), (x, &|k| vec![a(0), k]), (y, &weight));
    m.store(product);
    m.finish()
}

fn elementwise(op: ScalarOp) -> KernelGraph {
    let mut m = Maker::new(&[s("N")]);
    let operands: Vec<_> = (0..op.arity())
        .map(|_| {
            let buffer = m.input(DType::F32, &[s("N")]);
            m.load(buffer, &[a(0)])
        })
        .collect();
    let result = m.apply(op, &operands);
    m.store(result);
    m.finish()
}

fn sums() -> KernelGraph {
    let mut m = Maker::new(&[s("B"), s("N")]);
    let input = m.input(DType::F32, &[s("B"), s("N")]);
    let axis = m.axis(s("N"));
    let x = m.load(input, &[a(0), a(axis.index())]);
    let sum = m.reduce(ReduceOp::Sum, &[axis], x);
    let x = m.load(input, &[a(0), a(1)]);
    let out = m.apply(ScalarOp::Sub, &[x, sum]);
    m.store(out);
    m.finish()
}
