//! `manifest.json`: what a program needs to launch the kernels of `fuse ptx` itself.

use std::collections::BTreeMap;

use serde::Serialize;

use fuse_codegen::kernel_ir::Function;
use fuse_codegen::llvm::{Indices, LlvmError, PtxKernel, PtxOptions};
use fuse_codegen::schedule::resident_name;
use fuse_ir::Graph;
use fuse_ir::graph::InputKind;
use fuse_ir::kernel::{BufferKind, KernelGraph, Step};
use fuse_ir::ops::Direction;

use crate::compile::Compiled;

/// The whole manifest.
#[derive(Debug, Serialize)]
pub struct Manifest {
    /// The name of the model.
    pub model: String,
    /// The architecture, as in `sm_90`.
    pub arch: String,
    /// In how many bits kernels compute positions. In 32, where no buffer has more elements, and no grid more threads,
    /// than 31 bits count; otherwise wrong ones are read and written, and `--wide-indices` is needed.
    pub index_bits: u32,
    /// The runtime integers that extents and grids are written in.
    pub symbols: Vec<String>,
    /// The tensors in memory; contiguous, row-major.
    pub buffers: Vec<BufferEntry>,
    /// The kernels.
    pub kernels: Vec<KernelEntry>,
    /// What to launch, in order.
    pub launch_order: Vec<LaunchEntry>,
}

/// A tensor in memory.
#[derive(Debug, Serialize)]
pub struct BufferEntry {
    /// Its name; kernels' parameters refer to it.
    pub name: String,
    /// The element type.
    pub dtype: String,
    /// The extents, over the symbols.
    pub shape: Vec<String>,
    /// `input`, `parameter`, `output`, `temporary` or `state`.
    pub kind: &'static str,
    /// The model's name for an input, parameter or output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
}

/// A kernel.
#[derive(Debug, Serialize)]
pub struct KernelEntry {
    /// Entry point, parameters (buffers as 64-bit pointers, then symbols as 64-bit integers), block, grid.
    #[serde(flatten)]
    pub launch: PtxKernel,
    /// The file beside the manifest.
    pub file: String,
    /// The operations that were fused.
    pub ops: Vec<String>,
}

/// A step of the program.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LaunchEntry {
    /// Launches a kernel.
    Kernel {
        /// Its entry point.
        entry: String,
    },
    /// Launches a kernel, cooperative or of clusters, that runs all steps of a loop, unless there are none; after an odd number of steps
    /// every pair of buffers has traded places.
    Resident {
        /// Its entry point.
        entry: String,
        /// The number of steps, over the symbols.
        trip: String,
        /// The pairs that trade places.
        swap: Vec<[String; 2]>,
    },
    /// Repeats steps with a symbol counting positions; after each step every pair of buffers trades places.
    Loop {
        /// The symbol that holds the position.
        counter: String,
        /// The number of steps, over the symbols.
        trip: String,
        /// Whether positions descend.
        reverse: bool,
        /// The pairs that trade places.
        swap: Vec<[String; 2]>,
        /// The steps.
        body: Vec<LaunchEntry>,
    },
}

impl Manifest {
    /// The manifest of a model compiled for a GPU to these functions.
    ///
    /// # Errors
    /// Where the model was compiled for another target.
    pub fn new(compiled: &Compiled, functions: &[Function], options: &PtxOptions) -> Result<Self, LlvmError> {
        let (graph, kernels) = (&compiled.graph, &compiled.kernels);
        let ops = ops(&kernels.steps);
        let none = Vec::new();
        let ops_of = |f: &Function| ops.get(&f.name).unwrap_or(&none);
        Ok(Manifest {
            model: graph.name().to_owned(),
            arch: options.arch.to_string(),
            index_bits: match options.indices {
                Indices::Narrow => 32,
                Indices::Wide => 64,
            },
            symbols: graph.symbols().iter().map(ToString::to_string).collect(),
            buffers: buffers(graph, kernels),
            kernels: functions.iter().map(|f| kernel_entry(f, ops_of(f))).collect::<Result<_, _>>()?,
            launch_order: launch_order(kernels, &kernels.steps, functions),
        })
    }
}

fn buffers(graph: &Graph, kernels: &KernelGraph) -> Vec<BufferEntry> {
    let entry = |buffer: &fuse_ir::kernel::Buffer| {
        let (kind, model_name) = match buffer.kind {
            BufferKind::Input(i) => {
                let input = &graph.inputs()[i];
                let kind = match input.kind {
                    InputKind::Input => "input",
                    InputKind::Parameter => "parameter",
                };
                (kind, Some(input.name.clone()))
            }
            BufferKind::Output(i) => ("output", Some(graph.outputs()[i].name.clone())),
            BufferKind::Temporary => ("temporary", None),
            BufferKind::State => ("state", None),
        };
        BufferEntry {
            name: buffer.name.clone(),
            dtype: buffer.ty.dtype.to_string(),
            shape: buffer.ty.shape.iter().map(ToString::to_string).collect(),
            kind,
            model_name,
        }
    };
    kernels.buffers.iter().map(entry).collect()
}

fn kernel_entry(function: &Function, ops: &[String]) -> Result<KernelEntry, LlvmError> {
    let file = format!("{}.ptx", function.name);
    Ok(KernelEntry { launch: PtxKernel::of(function)?, file, ops: ops.to_vec() })
}

fn launch_order(kernels: &KernelGraph, steps: &[Step], functions: &[Function]) -> Vec<LaunchEntry> {
    let name = |id| kernels.buffer(id).name.clone();
    let entry = |step: &Step| match step {
        Step::Kernel(kernel) => LaunchEntry::Kernel { entry: kernel.name.clone() },
        Step::Loop(l) => {
            let trip = l.trip.to_string();
            let swap = l.carries.iter().map(|c| [name(c.current), name(c.next)]).collect();
            let entry = resident_name(l);
            if functions.iter().any(|f| f.name == entry) {
                return LaunchEntry::Resident { entry, trip, swap };
            }
            let (counter, reverse) = (l.counter.to_string(), l.direction == Direction::Reverse);
            LaunchEntry::Loop {
                counter,
                trip,
                reverse,
                swap,
                body: launch_order(kernels, &l.body, functions),
            }
        }
    };
    steps.iter().map(entry).collect()
}

/// The operations that were fused in each function, by its name.
fn ops(steps: &[Step]) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for step in steps {
        for kernel in step.kernels() {
            all.insert(kernel.name.clone(), kernel.ops.clone());
        }
        if let Step::Loop(l) = step {
            all.extend(ops(&l.body));
            let phases = step.kernels().into_iter().flat_map(|k| k.ops.iter().cloned());
            all.insert(resident_name(l), phases.collect());
        }
    }
    all
}
