//! Times elementwise functions of f32 through the LLVM host tier: nanoseconds an element, in a buffer that stays in
//! the first-level cache, and instructions of the innermost loop; `chain` is five of them one after the other, in
//! four vectors an iteration. One thread.
//!
//! `cargo run --release -p fuse-codegen --example math_kernels [FUNCTION [asm]]`

#[path = "../tests/kernel_support/mod.rs"]
mod kernel_support;

use std::time::Instant;

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::host::{assembly, schedule_target};
use fuse_codegen::llvm::{LlvmHostModule, Optimization};
use fuse_codegen::schedule::schedule;
use fuse_ir::kernel::Step;
use fuse_ir::{DType, ScalarOp};
use kernel_support::{Maker, a, c};

/// Elements of a buffer: input and output together are half of a first-level cache.
const ELEMENTS: usize = 2048;

fn main() {
    let only = std::env::args().nth(1);
    let show = std::env::args().nth(2).is_some();
    let chain = [ScalarOp::Tanh, ScalarOp::Sigmoid, ScalarOp::Exp, ScalarOp::Tanh, ScalarOp::Sigmoid];
    if only.as_deref().is_none_or(|only| only == "chain") {
        measure("chain", &chain, show);
    }
    for op in [
        ScalarOp::Relu,
        ScalarOp::Reciprocal,
        ScalarOp::Exp,
        ScalarOp::Exp2,
        ScalarOp::Expm1,
        ScalarOp::Log,
        ScalarOp::Log2,
        ScalarOp::Log1p,
        ScalarOp::Tanh,
        ScalarOp::Sigmoid,
        ScalarOp::Softplus,
        ScalarOp::Erf,
    ] {
        if only.as_deref().is_none_or(|only| only == op.mnemonic()) {
            measure(op.mnemonic(), &[op], show);
        }
    }
}

/// One function after the other.
fn kernel(ops: &[ScalarOp]) -> Function {
    let mut m = Maker::new(&[c(ELEMENTS as i64)]);
    let buffer = m.input(DType::F32, &[c(ELEMENTS as i64)]);
    let x = m.load(buffer, &[a(0)]);
    let result = ops.iter().fold(x, |x, op| m.apply(*op, &[x]));
    m.store(result);
    let graph = m.finish();
    let Some(Step::Kernel(kernel)) = graph.steps.first() else { panic!("one kernel") };
    schedule(&graph, kernel, schedule_target()).expect("the kernel is valid")
}

fn measure(name: &str, ops: &[ScalarOp], show: bool) {
    let function = kernel(ops);
    let text = assembly(std::slice::from_ref(&function), Optimization::Full).expect("assembly");
    if show {
        println!("{text}");
    }
    let module = LlvmHostModule::compile(std::slice::from_ref(&function), Optimization::Full);
    let module = module.expect("the kernel compiles");
    let mut x: Vec<f32> = (0..ELEMENTS).map(|i| (i as f32 + 0.5) / ELEMENTS as f32 * 8.0 - 4.0).collect();
    let mut y = vec![0f32; ELEMENTS];
    let items = function.work.eval_dim(&kernel_support::env(&[])).expect("constant");
    let pointers = [x.as_mut_ptr().cast(), y.as_mut_ptr().cast()];
    let mut best = f64::INFINITY;
    for _ in 0..300 {
        let start = Instant::now();
        for _ in 0..50 {
            // SAFETY: both buffers have the kernel's constant number of elements.
            unsafe { module.call(0, &pointers, &[], 0, items) }.expect("the arguments fit");
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let ns = best * 1e9 / 50.0 / ELEMENTS as f64;
    println!("{name:<10} {ns:7.4} ns an element, {:3} instructions a loop", longest_loop(&text));
}

/// The instructions of the longest stretch from a label to a jump back to it without another label between.
fn longest_loop(text: &str) -> usize {
    let (mut label, mut count, mut longest) = ("", 0, 0);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.split(':').next().filter(|_| line.starts_with(".L") && line.contains(':')) {
            (label, count) = (name, 0);
        } else if !line.is_empty() && !line.starts_with(['.', '#']) {
            count += 1;
            if line.starts_with('j') && line.split_whitespace().nth(1) == Some(label) {
                longest = longest.max(count);
            }
        }
    }
    longest
}
