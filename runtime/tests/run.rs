//! Executables on the CPU, with Rust closures for machine code: calls, errors, threads, limits.

mod native;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fuse_ir::Tensor;
use fuse_ir::expr::DimEnv;
use fuse_ir::ops::Direction;
use fuse_runtime::{BuildError, Code, Device, DeviceName, DeviceOptions, Executable, RunError};
use native::{executable, executable_with, natives, threads_only};
use support::{expected, recurrence, tensor};

fn weights(width: usize) -> Tensor {
    tensor(&[width], |i| 0.25 + i as f32 / (2 * width) as f32)
}

fn rows(steps: usize, width: usize) -> Tensor {
    tensor(&[steps, width], |i| (i % 17) as f32 - 8.0)
}

fn check(outputs: &[Tensor], x: &Tensor, w: &Tensor, direction: Direction) {
    let (history, last) = expected(x, w, direction);
    assert_eq!(outputs[0].to_values::<f32>().unwrap(), history);
    assert_eq!(outputs[1].to_values::<f32>().unwrap(), last);
}

#[test]
fn one_executable_runs_any_length_and_width() {
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut executable = executable_with(natives(), direction, &threads_only(3));
        // 16384 is wide enough for all members of the team.
        for width in [1, 3, 64, 16384] {
            executable.bind([("w".to_string(), weights(width))]).unwrap();
            for steps in [0, 1, 2, 7, 300] {
                let x = rows(steps, width);
                let outputs = executable.run(&[&x], &DimEnv::new()).unwrap();
                check(&outputs, &x, &weights(width), direction);
            }
        }
    }
}

#[test]
fn a_sequence_of_no_steps_gives_the_initial_state() {
    let mut executable = executable(2);
    executable.bind([("w".to_string(), weights(3))]).unwrap();
    let outputs = executable.run(&[("x", &rows(0, 3))], &DimEnv::new()).unwrap();
    assert_eq!(outputs[0].shape(), [0, 3]);
    assert_eq!(outputs[1].to_values::<f32>().unwrap(), [0.0; 3]);
    let mut empty = native::executable(2);
    empty.bind([("w".to_string(), weights(0))]).unwrap();
    let outputs = empty.run(&[("x", &rows(4, 0))], &DimEnv::new()).unwrap();
    assert_eq!((outputs[0].shape(), outputs[1].shape()), ([4, 0].as_slice(), [0].as_slice()));
}

#[test]
fn outputs_of_the_right_type_keep_their_memory() {
    let mut executable = executable(1);
    executable.bind([("w".to_string(), weights(64))]).unwrap();
    let mut outputs = executable.run(&[&rows(5, 64)], &DimEnv::new()).unwrap();
    let before = outputs[0].bytes().as_ptr();
    let x = tensor(&[5, 64], |i| i as f32);
    executable.run_into(&[&x], &DimEnv::new(), &mut outputs).unwrap();
    assert_eq!(outputs[0].bytes().as_ptr(), before);
    check(&outputs, &x, &weights(64), Direction::Forward);
    let longer = rows(6, 64);
    executable.run_into(&[&longer], &DimEnv::new(), &mut outputs).unwrap();
    check(&outputs, &longer, &weights(64), Direction::Forward);
}

#[test]
fn threads_share_one_executable() {
    let mut executable = executable(2);
    executable.bind([("w".to_string(), weights(8192))]).unwrap();
    let executable = &executable;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..20 {
                    let x = rows(thread + round, 8192);
                    let outputs = executable.run(&[&x], &DimEnv::new()).unwrap();
                    check(&outputs, &x, &weights(8192), Direction::Forward);
                }
            });
        }
    });
}

#[test]
fn every_work_item_is_done_once() {
    let done: Arc<Vec<AtomicU64>> = Arc::new((0..40_000).map(|_| AtomicU64::new(0)).collect());
    let counter = done.clone();
    let mut natives = natives();
    natives[1] = Box::new(move |_, _, begin, end| {
        for item in begin..end {
            counter[item as usize].fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut executable = executable_with(natives, Direction::Forward, &threads_only(4));
    executable.bind([("w".to_string(), weights(40_000))]).unwrap();
    executable.run(&[&rows(3, 40_000)], &DimEnv::new()).unwrap();
    assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 3));
}

/// Members that stop for a while in the middle of a piece, or between two, come back to other steps, or other runs, than they
/// left.
#[test]
fn members_that_lose_their_processor_do_no_harm() {
    // Wide enough for all members.
    const WIDTH: usize = 30_000;
    let with_pauses = || {
        let mut natives = natives();
        let step = natives.remove(1);
        let calls = AtomicU64::new(0);
        natives.insert(
            1,
            Box::new(move |buffers, symbols, begin, end| {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                let pause = || std::thread::sleep(Duration::from_micros(call % 7 * 300));
                if call.is_multiple_of(13) {
                    pause();
                }
                let middle = begin + (end - begin) / 2;
                step(buffers, symbols, begin, middle);
                if call % 17 == 3 {
                    pause();
                }
                step(buffers, symbols, middle, end);
            }),
        );
        natives
    };
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut executable = executable_with(with_pauses(), direction, &threads_only(4));
        executable.bind([("w".to_string(), weights(WIDTH))]).unwrap();
        for steps in [60, 1, 2, 61, 3] {
            let x = rows(steps, WIDTH);
            let outputs = executable.run(&[&x], &DimEnv::new()).unwrap();
            check(&outputs, &x, &weights(WIDTH), direction);
        }
    }
}

#[test]
fn a_panic_in_one_member_fails_the_run_and_not_the_next() {
    let fail = Arc::new(AtomicU64::new(1));
    let switch = fail.clone();
    let mut natives = natives();
    let step = natives.remove(1);
    natives.insert(
        1,
        Box::new(move |buffers, symbols, begin, end| {
            assert!(
                end != symbols[0] || symbols[1] != 3 || switch.load(Ordering::Relaxed) == 0,
                "step 3 fails"
            );
            step(buffers, symbols, begin, end);
        }),
    );
    let mut executable = executable_with(natives, Direction::Forward, &threads_only(2));
    executable.bind([("w".to_string(), weights(16384))]).unwrap();
    let x = rows(10, 16384);
    let error = executable.run(&[&x], &DimEnv::new()).unwrap_err();
    assert_eq!(error.to_string(), "a thread panicked during the run: step 3 fails");
    fail.store(0, Ordering::Relaxed);
    check(&executable.run(&[&x], &DimEnv::new()).unwrap(), &x, &weights(16384), Direction::Forward);
}

fn message(result: Result<Vec<Tensor>, RunError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn errors_name_the_input_and_what_was_expected() {
    let mut executable = executable(1);
    let x = rows(2, 3);
    let none = DimEnv::new();
    assert_eq!(message(executable.run(&[("x", &x)], &none)), "parameter `w` is missing; expected f32[B]");
    assert_eq!(
        executable.bind([("v".to_string(), weights(3))]).unwrap_err().to_string(),
        "there is no parameter `v`; there is w"
    );
    assert_eq!(
        executable.bind([("w".to_string(), rows(3, 3))]).unwrap_err().to_string(),
        "input `w` is f32[3, 3], expected f32[B]"
    );
    executable.bind([("w".to_string(), weights(3))]).unwrap();
    let no_inputs: &[(&str, &Tensor)] = &[];
    assert_eq!(message(executable.run(no_inputs, &none)), "input `x` is missing; expected f32[T, B]");
    assert_eq!(message(executable.run(&[("x", &x), ("y", &x)], &none)), "there is no input `y`; there is x");
    assert_eq!(message(executable.run(&[("w", &x)], &none)), "there is no input `w`; there is x");
    assert_eq!(message(executable.run(&[("x", &x), ("x", &x)], &none)), "input `x` was given twice");
    assert_eq!(message(executable.run(&[&x, &x], &none)), "expected 1 inputs (x), got 2");
    let f64s = Tensor::from_values(&[2, 3], &[0.0f64; 6]).unwrap();
    assert_eq!(message(executable.run(&[("x", &f64s)], &none)), "input `x` is f64[2, 3], expected f32[T, B]");
    let wide = rows(2, 4);
    assert_eq!(
        message(executable.run(&[("x", &wide)], &none)),
        "input `w` is f32[3], expected f32[B] with B = 4 (from `x`)"
    );
    let dims = DimEnv::new().with("T", 5);
    assert!(message(executable.run(&[("x", &x)], &dims)).contains("T = 5 (from --dim)"));
    assert!(message(executable.run(&[("x", &x)], &DimEnv::new().with("Q", 1))).contains("no dimension `Q`"));
}

#[test]
fn a_plan_needs_every_dimension() {
    let mut executable = executable(1);
    executable.bind([("w".to_string(), weights(3))]).unwrap();
    assert_eq!(
        executable.plan(&DimEnv::new()).unwrap_err().to_string(),
        "dimension `T` follows from no input; give it with --dim T=…"
    );
    let plan = executable.plan(&DimEnv::new().with("T", 100)).unwrap();
    assert_eq!(plan.arena_bytes, 128);
    assert_eq!(plan.output_bytes, 100 * 3 * 4 + 3 * 4);
}

#[test]
fn a_run_over_the_memory_limit_fails_before_it_allocates() {
    let options = DeviceOptions { threads: Some(1), memory_limit: Some(10_000), ..DeviceOptions::default() };
    let mut executable = executable_with(natives(), Direction::Forward, &options);
    executable.bind([("w".to_string(), weights(16))]).unwrap();
    executable.run(&[&rows(70, 16)], &DimEnv::new()).unwrap();
    let error = executable.run(&[&rows(80, 16)], &DimEnv::new()).unwrap_err();
    assert_eq!(error.to_string(), "the run needs 10496 bytes of memory, 10000 are allowed");
    // Far beyond any machine: only the default limit, or a size that cannot be counted, stands in the way.
    let huge = executable.plan(&DimEnv::new().with("T", 1 << 50)).unwrap_err();
    assert!(huge.to_string().contains("are allowed"), "{huge}");
    let absurd = executable.plan(&DimEnv::new().with("T", i64::MAX)).unwrap_err();
    assert!(absurd.to_string().contains("overflow"), "{absurd}");
}

#[test]
fn the_default_limit_is_the_machine() {
    let mut executable = executable(1);
    executable.bind([("w".to_string(), weights(16))]).unwrap();
    let error = executable.plan(&DimEnv::new().with("T", 1 << 45)).unwrap_err();
    assert!(matches!(error, RunError::Plan(_)), "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let device = Device::open(DeviceName::Cpu, &threads_only(1)).unwrap();
    let (graph, kernels) = recurrence(Direction::Forward);
    let functions = support::functions();
    let build = |kernels, functions: &[_], code| {
        Executable::new(&graph, kernels, functions, code, &device).err().map(|e: BuildError| e.to_string())
    };
    assert_eq!(
        build(kernels.clone(), &functions, Code::Ptx(vec![])).as_deref(),
        Some("function `init` was scheduled for another kind of device than `cpu`")
    );
    let none = || Code::Ptx(vec![]);
    assert_eq!(
        build(kernels.clone(), &functions[..2], none()).as_deref(),
        Some("kernel `finish` has no compiled function")
    );
    let mut wrong = kernels.clone();
    wrong.buffers[4].kind = fuse_ir::kernel::BufferKind::Temporary;
    assert_eq!(
        build(wrong, &functions, none()).as_deref(),
        Some("buffer `history` does not fit the inputs and outputs of graph `recurrence`")
    );
    let mut wrong = kernels;
    wrong.buffers[2].kind = fuse_ir::kernel::BufferKind::Temporary;
    assert_eq!(
        build(wrong, &functions, none()).as_deref(),
        Some("the kernel graph is invalid: recurrence/loop t: carry `h` -> `h_next`: both must be states")
    );
}
