//! A GPU against the interpreter, the CPU and the simulated GPU: every conformance case and every model of the zoo,
//! fused and not, at small and odd sizes and at the benchmark's. Where there is no CUDA driver it says so, and runs the
//! conformance cases on the simulated GPU.
//!
//! Needs no file at run time, so the compiled test runs on a machine that has none of the sources; where the current
//! directory has `tests/cases/run`, those cases run too. `FUSE_TEST_GPU` names another device than `cuda:0`: with
//! `sim`, all but the full sizes run without a GPU.

use std::path::Path;

use fuse::codegen::llvm::{Arch, PtxOptions, ptx};
use fuse::frontend::zoo::{self, Scale, StackForm, benchmark, cells, stack_of};
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::conformance::{Case, cases};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::rewrite::ChunkPolicy;
use fuse::runtime::DeviceError;
use fuse::{CompileOptions, Device, DeviceName, DimEnv, Executable, Graph, HostTensor, Target};
use libtest_mimic::{Arguments, Failed, Trial};

/// Of models against the interpreter.
const TOLERANCE: Tolerance = Tolerance { ulp: 0.0, absolute: 1e-5, relative: 1e-4 };
/// Of full sizes against the CPU, which is as far from the truth as the GPU.
const FULL_TOLERANCE: Tolerance = Tolerance { ulp: 0.0, absolute: 1e-4, relative: 1e-3 };

fn main() {
    let arguments = Arguments::from_args();
    let name = std::env::var("FUSE_TEST_GPU").unwrap_or_else(|_| "cuda:0".to_owned());
    let device = match name.parse().and_then(|name| Device::open(name, &Default::default())) {
        Ok(device) => device,
        Err(DeviceError::NoDriver(reason)) => {
            println!(
                "SKIPPED all but the conformance cases, which are simulated: no CUDA driver here: {reason}"
            );
            let simulated = Device::sim(&Default::default()).expect("needs nothing");
            libtest_mimic::run(&arguments, conformance(&simulated)).exit();
        }
        Err(error) => panic!("{error}"),
    };
    let mut trials = conformance(&device);
    trials.extend(against_interpreter("zoo", subjects(), &device));
    trials.extend(against_interpreter("files", files(), &device));
    trials.extend(bits(&device));
    if !matches!(device.name(), DeviceName::Sim { .. }) {
        trials.extend(full_sizes(&device));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// The ways to compile for a GPU.
fn ways() -> [(&'static str, CompileOptions); 3] {
    let fused = CompileOptions::new(Target::Cuda);
    let mut in_chunks = fused.clone();
    in_chunks.rewrite.chunks = ChunkPolicy::Always;
    [("fused", fused), ("in_chunks", in_chunks), ("unfused", CompileOptions::unfused(Target::Cuda))]
}

fn load(graph: &Graph, options: &CompileOptions, device: &Device) -> Result<Executable, Failed> {
    Ok(fuse::compile(graph, options)?.load(device)?)
}

/// Binds those of `values` that are parameters and runs with the others.
fn run(model: &mut Executable, values: &[HostTensor], dims: &DimEnv) -> Result<Vec<HostTensor>, Failed> {
    let (parameters, inputs) = fuse::random::by_kind(model.graph(), values);
    model.bind(parameters)?;
    Ok(model.run(&inputs, dims)?)
}

fn agree(
    graph: &Graph,
    got: &[HostTensor],
    expected: &[HostTensor],
    tolerance: Tolerance,
) -> Result<(), Failed> {
    assert_eq!(got.len(), expected.len(), "as many outputs as the graph has");
    for ((output, got), expected) in graph.outputs().iter().zip(got).zip(expected) {
        compare(got, expected, tolerance).map_err(|e| format!("output `{}`: {e}", output.name))?;
    }
    Ok(())
}

fn conformance(device: &Device) -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in cases() {
        for (way, options) in ways() {
            let (case, device) = (case.clone(), device.clone());
            let name = format!("conformance::{way}::{}", case.name);
            trials.push(Trial::test(name, move || conforms(&case, &options, &device)));
        }
    }
    trials
}

fn conforms(case: &Case, options: &CompileOptions, device: &Device) -> Result<(), Failed> {
    let mut model = load(&case.graph, options, device)?;
    let outputs = run(&mut model, &case.inputs, &DimEnv::new())?;
    agree(&case.graph, &outputs, &case.expected, case.tolerance)
}

/// A model, and the sizes to run one artefact of it at.
struct Subject {
    name: String,
    graph: Graph,
    sizes: Vec<DimEnv>,
    tolerance: Tolerance,
}

impl Subject {
    fn new(graph: Graph, sizes: Vec<DimEnv>) -> Subject {
        Subject { name: graph.name().to_owned(), graph, sizes, tolerance: TOLERANCE }
    }
}

fn at(sizes: &[(&str, i64)]) -> DimEnv {
    sizes.iter().fold(DimEnv::new(), |dims, (name, value)| dims.with(name, *value))
}

/// Every model at its small size, and the cells at sizes that divide nothing.
fn subjects() -> Vec<Subject> {
    let small = benchmark(Scale::Small).expect("traces");
    let mut subjects: Vec<Subject> =
        small.into_iter().map(|m| Subject::new(m.graph, vec![at(&m.dims)])).collect();
    let (one, both) = (StackForm::ONE_LAYER, StackForm { bidirectional: true, ..StackForm::ONE_LAYER });
    let three = StackForm { layers: 3, ..one };
    let sizes = [(0, 2), (1, 1), (2, 3), (7, 3), (20, 1), (9, 17), (7, 0)];
    let sizes: Vec<DimEnv> = sizes.iter().map(|(t, b)| at(&[("T", *t), ("B", *b)])).collect();
    let graphs = [
        zoo::lstm_graph(8, 16),
        zoo::lstm_graph(24, 100),
        zoo::gru_graph(13, 37),
        zoo::layer_norm_lstm_graph(8, 65),
        zoo::custom_cell_graph(5, 33),
        stack_of::<2, cells::Lstm>("lstm_128", 64, 128, one),
        stack_of::<2, cells::Lstm>("lstm_three_layers", 8, 16, three),
        stack_of::<1, cells::Gru>("gru_both_ways", 8, 24, both),
        stack_of::<1, cells::Gru>("gru_96", 32, 96, one),
        stack_of::<1, cells::TanhRnn>("rnn_31", 7, 31, one),
        stack_of::<2, cells::LayerNormLstm>("lnlstm_64", 64, 64, one),
        stack_of::<2, cells::MultiplicativeLstm>("milstm_40", 24, 40, one),
        stack_of::<4, cells::StabilisedLstm>("slstm_40", 24, 40, one),
        stack_of::<2, cells::PeepholeLstm>("peephole_33", 16, 33, one),
        stack_of::<1, cells::Sru>("sru_48", 48, 48, one),
        stack_of::<1, cells::MinGru>("mingru_33", 20, 33, one),
        stack_of::<2, cells::Nas>("nas_20", 20, 20, one),
        stack_of::<1, cells::NasRnn>("nas_taso_20", 20, 20, one),
    ];
    subjects.extend(graphs.map(|graph| Subject::new(graph.expect("traces"), sizes.clone())));
    subjects
}

/// The cases of the file tests that run, if they are here; their headers are told of in `tests/files.rs`.
fn files() -> Vec<Subject> {
    let Ok(entries) = Path::new("tests/cases/run").read_dir() else { return Vec::new() };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.expect("a directory that can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "fuse"));
    paths.sort();
    paths.iter().map(|path| subject_of(path)).collect()
}

fn subject_of(path: &Path) -> Subject {
    let source = std::fs::read_to_string(path).expect("a file that can be read");
    let header: Vec<(&str, &str)> = source
        .lines()
        .map_while(|line| line.strip_prefix("// "))
        .filter_map(|line| line.split_once(": "))
        .collect();
    let values = |key: &'static str| header.iter().filter(move |(k, _)| *k == key).map(|(_, value)| *value);
    let dims = |text: &str| {
        text.split_whitespace().fold(DimEnv::new(), |dims, item| {
            let (name, value) = item.split_once('=').expect("dims: NAME=N");
            dims.with(name, value.parse().expect("an integer"))
        })
    };
    let mut sizes: Vec<DimEnv> = values("dims").map(dims).collect();
    if sizes.is_empty() {
        sizes.push(DimEnv::new());
    }
    let absolute = values("atol").next().map_or(1e-5, |atol| atol.parse().expect("a number"));
    Subject {
        name: path.file_stem().unwrap_or_default().display().to_string(),
        graph: fuse::ir::parse(&source).expect("a valid graph"),
        sizes,
        tolerance: Tolerance { ulp: 4.0, absolute, relative: 1e-5 },
    }
}

fn against_interpreter(group: &str, subjects: Vec<Subject>, device: &Device) -> Vec<Trial> {
    let mut trials = Vec::new();
    for Subject { name, graph, sizes, tolerance } in subjects {
        for (way, options) in ways() {
            let (graph, sizes, device) = (graph.clone(), sizes.clone(), device.clone());
            trials.push(Trial::test(format!("{group}::{way}::{name}"), move || {
                let mut model = load(&graph, &options, &device)?;
                for dims in &sizes {
                    let values = fuse::random::values_for(&graph, dims, 1)?;
                    let outputs = run(&mut model, &values, dims)?;
                    let interpreter = Interpreter::new(Precision::F64).with_dims(dims.clone());
                    let expected = interpreter.run(&graph, &values)?;
                    agree(&graph, &outputs, &expected, tolerance)
                        .map_err(|e| format!("at {dims:?}: {}", e.message().unwrap_or_default()))?;
                }
                Ok(())
            }));
        }
    }
    trials
}

/// What the same PTX gives on the simulated GPU: the same bits, unless an instruction of it may round as it likes.
fn bits(device: &Device) -> Vec<Trial> {
    let mut trials = Vec::new();
    for Subject { name, graph, sizes, .. } in subjects() {
        for (way, options) in ways() {
            let (graph, sizes, device) = (graph.clone(), sizes.clone(), device.clone());
            let name = format!("bits::{way}::{name}");
            trials
                .push(Trial::test(name.clone(), move || same_bits(&name, &graph, &options, &sizes, &device)));
        }
    }
    trials
}

fn same_bits(
    name: &str,
    graph: &Graph,
    options: &CompileOptions,
    sizes: &[DimEnv],
    device: &Device,
) -> Result<(), Failed> {
    let compiled = fuse::compile(graph, options)?;
    let simulated = Device::sim(&fuse::DeviceOptions { threads: Some(1), ..Default::default() })?;
    let (mut model, mut reference) = (compiled.load(device)?, compiled.load(&simulated)?);
    let inexact = inexact_instructions(&compiled, device)?;
    let mut count = Difference::default();
    for dims in sizes {
        let values = fuse::random::values_for(graph, dims, 1)?;
        let (got, expected) = (run(&mut model, &values, dims)?, run(&mut reference, &values, dims)?);
        for (got, expected) in got.iter().zip(&expected) {
            count.add(got, expected);
        }
    }
    if count.elements == 0 {
        return Ok(());
    }
    let found = format!(
        "{} of {} elements differ from the simulation, in {} bits",
        count.elements, count.compared, count.bits
    );
    if inexact.is_empty() {
        return Err(found.into());
    }
    println!("{name}: {found}; inexact: {}", inexact.join(" "));
    Ok(())
}

/// The instructions whose last bits PTX leaves open.
fn inexact_instructions(compiled: &fuse::Compiled, device: &Device) -> Result<Vec<String>, Failed> {
    let (major, minor) = device.compute_capability()?.unwrap_or((9, 0));
    let limits = device.gpu_limits()?.unwrap_or_else(fuse::codegen::schedule::GpuLimits::h100);
    let arch = Arch::for_gpu((major, minor), &limits).ok_or("an architecture that PTX is emitted for")?;
    let text = ptx::ptx(&compiled.functions_for(limits)?, &PtxOptions::new(arch))?;
    let mut found: Vec<String> = text
        .split_ascii_whitespace()
        .filter(|word| word.contains(".approx") || word.contains("mma."))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// By how much results differ.
#[derive(Default)]
struct Difference {
    compared: usize,
    elements: usize,
    bits: u64,
}

impl Difference {
    fn add(&mut self, got: &HostTensor, expected: &HostTensor) {
        assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()));
        let size = got.dtype().size();
        self.compared += got.elements();
        for (a, b) in got.bytes().chunks(size).zip(expected.bytes().chunks(size)) {
            self.elements += usize::from(a != b);
            self.bits += a.iter().zip(b).map(|(a, b)| u64::from((a ^ b).count_ones())).sum::<u64>();
        }
    }
}

/// The benchmark's sizes, at which an interpreter would take hours: against the CPU.
fn full_sizes(device: &Device) -> Vec<Trial> {
    let trial = |model: zoo::BenchmarkModel| {
        let device = device.clone();
        Trial::test(format!("full::{}", model.graph.name()), move || {
            let dims = at(&model.dims);
            let values = fuse::random::values_for(&model.graph, &dims, 1)?;
            let mut on_gpu = load(&model.graph, &CompileOptions::new(Target::Cuda), &device)?;
            let got = run(&mut on_gpu, &values, &dims)?;
            let cpu = Device::cpu(&fuse::DeviceOptions { threads: Some(4), ..Default::default() })?;
            let mut on_cpu = load(&model.graph, &CompileOptions::new(Target::Cpu), &cpu)?;
            let expected = run(&mut on_cpu, &values, &dims)?;
            agree(&model.graph, &got, &expected, FULL_TOLERANCE)
        })
    };
    benchmark(Scale::Full).expect("traces").into_iter().map(trial).collect()
}
