//! Loops over time on a simulated GPU that has no room for them as one launch.
#![cfg(feature = "llvm")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use fuse::codegen::schedule::LoopForm;
use fuse::frontend::zoo::cells::{Gru, LayerNormLstm, Lstm};
use fuse::frontend::zoo::{Cell, StackForm, stack_of};
use fuse::ir::Graph;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::{CompileOptions, Device, DeviceOptions, DimEnv, Target};

const TOLERANCE: Tolerance = Tolerance { ulp: 0.0, absolute: 2e-5, relative: 2e-4 };

/// Where warnings go.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panicked")).into_owned()
    }

    /// Does something whose warnings are written here.
    fn of(&self, f: impl FnOnce()) {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::with_default(subscriber, f);
    }
}

fn device(free_multiprocessors: Option<u32>) -> Device {
    Device::sim(&DeviceOptions { threads: Some(1), free_multiprocessors, ..DeviceOptions::default() })
        .expect("a simulated GPU is always there")
}

/// Runs three times at different lengths, and returns how often each kernel was launched in all.
fn launches(graph: &Graph, loops: LoopForm, device: &Device) -> Vec<(String, u64)> {
    let options = CompileOptions { loops, ..CompileOptions::new(Target::Cuda) };
    let compiled = fuse::compile(graph, &options).expect("compiles");
    let mut executable = compiled.load(device).expect("loads");
    for (steps, rows) in [(3, 5), (0, 2), (4, 1)] {
        let dims = DimEnv::new().with("T", steps).with("B", rows);
        let values = fuse::random::values_for(graph, &dims, 1).expect("dimensions are given");
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
        let expected = interpreter.run(graph, &values).expect("interprets");
        executable.bind(parameters).expect("binds");
        let outputs = executable.run(&inputs, &dims).unwrap_or_else(|e| panic!("{}: {e}", graph.name()));
        for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected) {
            if let Err(e) = compare(got, expected, TOLERANCE) {
                panic!("{} `{}` at {steps} steps of {rows} rows: {e}", graph.name(), output.name);
            }
        }
    }
    let counters = device.counters().expect("it is simulated");
    counters.into_iter().map(|(kernel, counters)| (kernel, counters.launches)).collect()
}

fn cell<const N: usize, C: Cell<N>>(name: &str) -> Graph {
    stack_of::<N, C>(name, 5, 150, StackForm::ONE_LAYER).expect("traces")
}

fn is_resident(kernel: &str) -> bool {
    kernel.starts_with("steps_")
}

#[test]
fn a_device_without_room_runs_the_steps_one_by_one() {
    for graph in [cell::<2, Lstm>("lstm"), cell::<1, Gru>("gru"), cell::<2, LayerNormLstm>("lnlstm")] {
        let log = Log::default();
        log.of(|| {
            let launches = launches(&graph, LoopForm::Grid, &device(Some(4)));
            assert!(!launches.iter().any(|(kernel, _)| is_resident(kernel)), "{launches:?}");
            // Seven steps in all.
            assert!(launches.iter().any(|(_, count)| *count == 7), "{launches:?}");
        });
        let text = log.text();
        let warnings: Vec<&str> = text.lines().filter(|line| line.contains("WARN")).collect();
        let [warning] = warnings[..] else { panic!("{text}") };
        assert!(warning.contains("no room for all blocks of this launch"), "{warning}");
        assert!(warning.contains("kernel=\"steps_"), "{warning}");
        assert!(warning.contains("wanted=132 available=16"), "{warning}");
    }
}

#[test]
fn a_device_with_room_runs_the_loop_as_one_launch() {
    let log = Log::default();
    log.of(|| {
        for loops in [LoopForm::Grid, LoopForm::Clusters] {
            let launches = launches(&cell::<2, Lstm>("lstm"), loops, &device(None));
            // One run has no steps.
            assert!(
                launches.iter().any(|(kernel, count)| is_resident(kernel) && *count == 2),
                "{launches:?}"
            );
        }
    });
    assert_eq!(log.text(), "");
}

/// A cluster needs room for all its blocks.
#[test]
fn a_device_without_room_for_a_cluster_runs_the_steps_one_by_one() {
    let graph = stack_of::<2, Lstm>("lstm", 5, 250, StackForm::ONE_LAYER).expect("traces");
    let log = Log::default();
    log.of(|| {
        let few = launches(&graph, LoopForm::Clusters, &device(Some(7)));
        assert!(!few.iter().any(|(kernel, _)| is_resident(kernel)), "{few:?}");
    });
    assert!(log.text().contains("wanted=8 available=7"), "{}", log.text());
    let enough = launches(&graph, LoopForm::Clusters, &device(Some(8)));
    assert!(enough.iter().any(|(kernel, _)| is_resident(kernel)), "{enough:?}");
}

/// What a kernel takes decides, not the number of multiprocessors alone.
#[test]
fn room_is_what_is_left_of_shared_memory_and_threads() {
    // Two blocks of 512 threads and little shared memory share a multiprocessor.
    let graph = stack_of::<2, Lstm>("lstm", 3, 20, StackForm::ONE_LAYER).expect("traces");
    let launches = launches(&graph, LoopForm::Grid, &device(Some(66)));
    assert!(launches.iter().any(|(kernel, _)| is_resident(kernel)), "{launches:?}");
}
