//! The calls to the CUDA driver, against a stand-in for it: a library called `libcuda.so.1` that a C compiler
//! makes here and that executes the kernels of a test on the host. What a GPU computes is tested elsewhere; this
//! shows that arguments, geometry, memory, states and errors are right where there is no GPU at all.
//!
//! The driver is looked for once in a process, so every test runs itself again with the library in its path.

#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use fuse_codegen::kernel_ir::{Function, Mapping};
use fuse_ir::expr::DimEnv;
use fuse_ir::ops::Direction;
use fuse_runtime::{BuildError, Code, Device, DeviceError, DeviceOptions, Executable};
use support::{expected, recurrence, tensor};

const STAND_IN: &str = "FUSE_TEST_CUDA_STAND_IN";

/// The folder of the stand-in, or why it cannot be made.
fn library() -> &'static Result<PathBuf, String> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_protocol/driver.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-stand-in");
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(folder.join("libcuda.so"))
            .arg(&source)
            .output()
            .map_err(|e| format!("there is no C compiler: {e}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(folder)
    })
}

/// Runs `test` in a process of its own in which the stand-in is the driver.
fn with_stand_in(name: &str, test: impl FnOnce()) {
    if std::env::var_os(STAND_IN).is_some() {
        return test();
    }
    let folder = match library() {
        Ok(folder) => folder,
        Err(reason) => {
            println!("SKIPPED {name}: {reason}");
            return;
        }
    };
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env(STAND_IN, "1")
        .env("LD_LIBRARY_PATH", folder)
        .output()
        .expect("the test starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn functions(block: u32) -> Vec<Function> {
    let on_threads = |function| Function { mapping: Mapping::Threads { block }, ..function };
    support::functions().into_iter().map(on_threads).collect()
}

fn ptx() -> Code {
    Code::Ptx(vec![".version 6.4".to_string()])
}

fn device(memory_limit: Option<u64>) -> Device {
    Device::cuda(0, &DeviceOptions { memory_limit, ..DeviceOptions::default() })
        .expect("the stand-in has one device")
}

#[test]
fn a_recurrence_runs_at_any_length_and_width() {
    with_stand_in("a_recurrence_runs_at_any_length_and_width", || {
        let device = device(None);
        assert_eq!(device.compute_capability(), Ok(Some((9, 0))));
        for direction in [Direction::Forward, Direction::Reverse] {
            let (graph, kernels) = recurrence(direction);
            let mut executable = Executable::new(&graph, kernels, &functions(128), ptx(), &device).unwrap();
            for width in [1, 127, 128, 129, 0] {
                let w = tensor(&[width], |i| 0.5 - i as f32 / 300.0);
                executable.bind([("w".to_string(), w.clone())]).unwrap();
                for steps in [0, 1, 2, 7, 40] {
                    let x = tensor(&[steps, width], |i| (i % 13) as f32 - 6.0);
                    let outputs = executable.run(&[&x], &DimEnv::new()).unwrap();
                    let (history, last) = expected(&x, &w, direction);
                    assert_eq!(outputs[0].to_values::<f32>().unwrap(), history);
                    assert_eq!(outputs[1].to_values::<f32>().unwrap(), last);
                }
            }
        }
    });
}

#[test]
fn an_executable_runs_on_threads_that_did_not_make_it() {
    with_stand_in("an_executable_runs_on_threads_that_did_not_make_it", || {
        let (graph, kernels) = recurrence(Direction::Forward);
        let device = device(None);
        let mut executable = Executable::new(&graph, kernels, &functions(32), ptx(), &device).unwrap();
        let w = tensor(&[40], |i| i as f32 / 64.0);
        executable.bind([("w".to_string(), w.clone())]).unwrap();
        // The stand-in keeps its books without a lock, so the threads come one after the other.
        let executable = &executable;
        for thread in 1..4 {
            let x = tensor(&[thread, 40], |i| i as f32);
            let outputs = std::thread::scope(|scope| {
                scope.spawn(|| executable.run(&[&x], &DimEnv::new()).unwrap()).join().unwrap()
            });
            assert_eq!(outputs[1].to_values::<f32>().unwrap(), expected(&x, &w, Direction::Forward).1);
        }
    });
}

#[test]
fn what_the_driver_rejects_is_told_in_one_line() {
    with_stand_in("what_the_driver_rejects_is_told_in_one_line", || {
        let missing = Device::cuda(1, &DeviceOptions::default()).unwrap_err();
        assert_eq!(missing.to_string(), "there is no cuda:1; the driver has 1 devices");
        let device = device(None);
        let (graph, kernels) = recurrence(Direction::Forward);
        let build = |functions: &[Function], code| {
            Executable::new(&graph, kernels.clone(), functions, code, &device).map(|_| ()).unwrap_err()
        };
        let rejected = build(&functions(128), Code::Ptx(vec!["nonsense".to_string()]));
        assert_eq!(
            rejected.to_string(),
            "the driver rejected the PTX (CUDA_ERROR_STAND_IN: error 218): stand-in: expected .version"
        );
        let no_entry = build(&functions(128), Code::Ptx(vec![]));
        assert_eq!(no_entry, BuildError::Device(DeviceError::NoEntry("init".into())));
        let host = build(&support::functions(), ptx());
        assert_eq!(
            host.to_string(),
            "function `init` was scheduled for another kind of device than `cuda:0`"
        );
    });
}

#[test]
fn the_memory_of_the_device_bounds_a_run() {
    with_stand_in("the_memory_of_the_device_bounds_a_run", || {
        let (graph, kernels) = recurrence(Direction::Forward);
        for (limit, allowed) in [(None, 1 << 20), (Some(5000), 5000)] {
            let device = device(limit);
            let mut executable =
                Executable::new(&graph, kernels.clone(), &functions(128), ptx(), &device).unwrap();
            executable.bind([("w".to_string(), tensor(&[16], |_| 0.5))]).unwrap();
            let error = executable.run(&[&tensor(&[10_000, 16], |_| 0.0)], &DimEnv::new()).unwrap_err();
            let message = error.to_string();
            assert!(message.ends_with(&format!("bytes of memory, {allowed} are allowed")), "{message}");
            executable.run(&[&tensor(&[3, 16], |_| 0.0)], &DimEnv::new()).unwrap();
        }
    });
}
