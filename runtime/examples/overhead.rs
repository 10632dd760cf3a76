//! What the runtime itself costs: a round of a team, a step of a time loop with an empty kernel, and a whole run.
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
use fuse_runtime::team::{Job, Place, Signal, Team};
use fuse_runtime::{Code, Device, DeviceOptions, Executable, HostModule};

const ROUNDS: u32 = 20_000;
const STEPS: usize = 5_000;

/// Rounds of work that the members share.
struct Rounds {
    rounds: u32,
    /// Multiplications in one round, of all members together.
    work: u32,
}

impl Job for Rounds {
    fn run(&self, place: &mut Place<'_>) {
        let members = place.members();
        for _ in 0..self.rounds {
            let signal = place.share(members, 1, |_, _| {
                let mut x = 1.0f32;
                for _ in 0..self.work / members as u32 {
                    x = std::hint::black_box(x * 1.000_001);
                }
            });
            if signal == Signal::Over {
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

/// A loop over `x: f32[T]` of one kernel that does nothing but claims as many work items as `p` has elements.
fn empty_loop(points: i64) -> (Graph, KernelGraph, Vec<Function>) {
    let mut graph = Graph::new("empty");
    graph.add_input("x", InputKind::Input, TensorType::new(DType::F32, ["T"]));
    let ty = TensorType::new(DType::F32, [points]);
    let p = graph.add_input("p", InputKind::Input, ty.clone());
    graph.add_output("y", p);
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
            buffer: BufferId(0),
            index: [Dim::axis(0)].into_iter().collect(),
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
        shared: Vec::new(),
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
    let buffers = vec![Buffer { name: "y".into(), ty, kind: BufferKind::Output(0) }];
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
    let options = DeviceOptions { threads: Some(threads), ..DeviceOptions::default() };
    let device = Device::cpu(&options).expect("threads start");
    Executable::new(&graph, kernels, &functions, Code::Host(Arc::new(Nothing)), &device).expect("it fits")
}

fn measure(title: &str) {
    println!("{title}");
    let threads = fuse_runtime::limits::default_threads().max(2);
    let team = Team::new(threads).expect("threads start");
    let work = 5_000;
    for (what, rounds, work, members) in [
        ("round", ROUNDS, 0, threads),
        ("work and round", ROUNDS / 10, work, threads),
        ("the same work", ROUNDS / 10, work, 1),
    ] {
        let job: Arc<dyn Job> = Arc::new(Rounds { rounds, work });
        let taken = times(|| team.run(&job, members).expect("nothing panics"));
        let threads = if members == 1 { "one thread".into() } else { format!("{members} threads") };
        report(&format!("{what} of {threads}"), taken, rounds);
    }
    let step = |points: i64, threads: usize, steps: usize| {
        let executable = executable(points, threads);
        let x = Tensor::zeros(DType::F32, &[steps]).expect("small");
        let p = Tensor::zeros(DType::F32, &[points as usize]).expect("small");
        let mut outputs = executable.run(&[&x, &p], &DimEnv::new()).expect("it runs");
        times(|| executable.run_into(&[&x, &p], &DimEnv::new(), &mut outputs).expect("it runs"))
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
