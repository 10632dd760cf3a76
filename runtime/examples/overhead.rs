//! What the runtime itself costs: a barrier, a step of a time loop with an empty kernel, and a whole run.
//!
//! `cargo run --release -p fuse-runtime --example overhead`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_ir::expr::{Dim, DimEnv, Symbol};
use fuse_ir::kernel::{
    Buffer, BufferId, BufferKind, Element, ElementId, Kernel, KernelGraph, Loop, Step, Store, TypedElement,
};
use fuse_ir::ops::Direction;
use fuse_ir::types::TensorType;
use fuse_ir::{DType, Graph, InputKind, Literal, Tensor};
use fuse_runtime::team::{Barrier, Job, JobOptions, Signal, Team};
use fuse_runtime::{Code, Device, DeviceOptions, Executable, HostModule};

const BARRIERS: u32 = 20_000;
const STEPS: usize = 5_000;

struct Meetings;

impl Job for Meetings {
    fn run(&self, _: usize, barrier: &Barrier) {
        for _ in 0..BARRIERS {
            if barrier.wait() != Signal::Go {
                return;
            }
        }
    }
}

struct Nothing;

// SAFETY: nothing is accessed.
unsafe impl HostModule for Nothing {
    fn functions(&self) -> usize {
        1
    }

    unsafe fn call(&self, _: usize, buffers: &[*mut u8], symbols: &[i64], begin: i64, end: i64) {
        std::hint::black_box((buffers, symbols, begin, end));
    }
}

/// A loop over `x: f32[T]` of one kernel that does nothing but claims `points` work items.
fn empty_loop(points: i64) -> (Graph, KernelGraph, Vec<Function>) {
    let mut graph = Graph::new("empty");
    let x = graph.add_input("x", InputKind::Input, TensorType::new(DType::F32, ["T"]));
    graph.add_output("y", x);
    let ty = TensorType::new(DType::F32, ["T"]);
    let buffer = |name: &str, kind| Buffer { name: name.into(), ty: ty.clone(), kind };
    let zero = Element::Constant(Literal::from_f64(DType::F32, 0.0));
    let noted = Element::Cast(ElementId(0));
    let kernel = Kernel {
        name: "nothing".into(),
        rank: 1,
        extents: vec![Dim::constant(points)],
        elements: vec![
            TypedElement { element: zero, dtype: DType::F32 },
            TypedElement { element: noted, dtype: DType::F32 },
        ],
        stores: vec![Store {
            buffer: BufferId(1),
            index: [Dim::symbol("t")].into_iter().collect(),
            value: ElementId(1),
        }],
        ops: vec![],
    };
    let function = Function {
        name: "nothing".into(),
        buffers: vec![],
        symbols: vec![Symbol::new("t")],
        work: Dim::constant(points),
        mapping: Mapping::Range,
        types: vec![],
        body: vec![],
    };
    let steps = vec![Step::Loop(Loop {
        counter: Symbol::new("t"),
        trip: Dim::symbol("T"),
        direction: Direction::Forward,
        carries: vec![],
        body: vec![Step::Kernel(kernel)],
    })];
    let buffers = vec![buffer("x", BufferKind::Input(0)), buffer("y", BufferKind::Output(0))];
    (graph, KernelGraph { name: "empty".into(), buffers, steps }, vec![function])
}

/// The least and the median time of `run`.
fn times(mut run: impl FnMut()) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..25)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[0], times[times.len() / 2])
}

fn report(what: &str, (least, median): (Duration, Duration), count: u32) {
    let nanoseconds = |d: Duration| d.as_nanos() as f64 / f64::from(count);
    println!("{what:48} {:10.1} ns least {:10.1} ns median", nanoseconds(least), nanoseconds(median));
}

fn executable(points: i64, threads: usize) -> Executable {
    let (graph, kernels, functions) = empty_loop(points);
    let options = DeviceOptions { threads: Some(threads), memory_limit: None };
    let device = Device::cpu(&options).expect("threads start");
    Executable::new(&graph, kernels, &functions, Code::Host(Arc::new(Nothing)), &device).expect("it fits")
}

fn measure(title: &str) {
    println!("{title}");
    let threads = fuse_runtime::limits::default_threads().max(2);
    let team = Team::new(threads).expect("threads start");
    let job: Arc<dyn Job> = Arc::new(Meetings);
    for fine_grained in [false, true] {
        let options = JobOptions { members: threads, fine_grained };
        let taken = times(|| team.run(&job, options).expect("nothing panics"));
        let kind = if fine_grained { ", may break up" } else { "" };
        report(&format!("barrier of {threads} threads{kind}"), taken, BARRIERS);
    }
    let step = |points: i64, threads: usize, steps: usize| {
        let executable = executable(points, threads);
        let x = Tensor::zeros(DType::F32, &[steps]).expect("small");
        let mut outputs = executable.run(&[&x], &DimEnv::new()).expect("it runs");
        times(|| executable.run_into(&[&x], &DimEnv::new(), &mut outputs).expect("it runs"))
    };
    report("step, one small kernel", step(1, threads, STEPS), STEPS as u32);
    report(&format!("step, one kernel on {threads} threads"), step(1 << 20, threads, STEPS), STEPS as u32);
    report("run of no steps on one thread", step(1, 1, 0), 1);
    report(&format!("run of no steps on {threads} threads"), step(1 << 20, threads, 0), 1);
}

fn main() {
    measure("alone");
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let other = std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    });
    measure("beside a busy thread");
    stop.store(true, Ordering::Relaxed);
    other.join().expect("it only spins");
}
