//! The command line: what `fuse --help` teaches.

use std::path::PathBuf;

use crate::precision::ProductPrecision;
use crate::tier::Tier;
use crate::weights::WeightsDtype;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fuse_codegen::schedule::LoopForm;

/// A JIT kernel-fusion compiler for recurrent models.
///
/// fuse takes a traced model, fuses the pointwise operations of any recurrent cell into single kernels, and
/// runs the result on the CPU or prints it as PTX. One compiled model serves every sequence length and batch
/// size.
///
/// Exit codes: 0 success; 1 the model, a file or the data is at fault; 2 the command line is; 70 a bug in fuse.
#[derive(Debug, Parser)]
#[command(name = "fuse", version, max_term_width = 110)]
#[command(after_help = "Examples:
  fuse run lstm.fuse --inputs in.npz --outputs out.npz
  fuse run lstm.fuse --dim T=100 --dim B=8          random inputs, shapes from the model
  fuse ptx lstm.fuse --arch sm_90 -o ptx/           one file a kernel, and manifest.json
  fuse ptx lstm.fuse --stats --dim T=20 --dim B=8   what each kernel executes and moves
  fuse dump lstm.fuse --stage kernels               what was fused
  fuse inspect lstm.fuse --dim T=100                inputs, parameters, operators, cost of a run
  fuse inspect in.npz                               types, shapes and ranges of arrays
  fuse explain lstm.fuse                            which rules, which boundaries, and why
  fuse check lstm.fuse --dim T=20 --dim B=3         every backend against the interpreter
  fuse bench lstm.fuse --dim T=100 --dim B=1        time and memory
  fuse bench lstm.fuse --dim T=100 --dim B=1 --rewrite off
  fuse machine                                      what this machine can do at best")]
pub struct Cli {
    /// Print what each stage does (repeat for more); RUST_LOG overrides it.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a model and write its outputs.
    Run(RunArgs),
    /// Print the model's kernels as PTX, or write them with a manifest for launching them.
    Ptx(PtxArgs),
    /// Print the model at one stage of the compiler.
    Dump(DumpArgs),
    /// Say what was fused, by which rules, and why the boundaries that remain stayed.
    Explain(ExplainArgs),
    /// Compare every backend that can run here with the reference interpreter.
    Check(CheckArgs),
    /// Measure compile time, run time and memory.
    Bench(BenchArgs),
    /// Measure what this machine can do at best: arithmetic, memory, barriers.
    Machine(MachineArgs),
    /// Say what a file holds: a model (.fuse, .onnx) or arrays (.npz, .npy).
    Inspect(InspectArgs),
    /// List the operations of the tensor IR.
    Ops,
    /// List the ONNX operators that are imported.
    OnnxOps {
        /// Print one JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What names a model and fills it.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model: a .fuse or an .onnx file.
    pub model: PathBuf,

    /// Weights; by default MODEL with the extension .safetensors if it exists, otherwise random by --seed.
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,

    /// The seed of random weights and inputs.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,

    /// The value of a symbolic dimension, for inputs that are made up (repeatable), as in --dim T=100.
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<String>,
}

/// How a model is compiled.
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// `off` compiles one kernel per operation: the baseline that fusion is measured against.
    #[arg(long, value_enum, default_value_t = Rewrite::On)]
    pub rewrite: Rewrite,

    /// Allow rules that approximate within a stated bound.
    #[arg(long)]
    pub fast_math: bool,

    /// What a GPU may round the factors of products of f32 to, large ones and those in loops, which its tensor cores then
    /// sum up in f32; the bound of the error is printed.
    #[arg(long, value_enum, default_value_t = ProductPrecision::default(), value_name = "TYPE")]
    pub precision: ProductPrecision,

    /// How a GPU runs loops over time: as one launch, by clusters of blocks where that is expected to be faster; as one launch
    /// whose blocks meet in memory; or as a launch for each kernel and step.
    #[arg(long, value_enum, default_value_t = Loops::Clusters, value_name = "FORM")]
    pub loops: Loops,
}

/// How a GPU runs loops over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Loops {
    /// One launch, by clusters of blocks where that is expected to be faster.
    Clusters,
    /// One launch whose blocks meet in memory.
    Grid,
    /// A launch for each kernel and step.
    Steps,
}

impl Loops {
    /// The form as schedules know it.
    pub fn form(self) -> LoopForm {
        match self {
            Loops::Clusters => LoopForm::Clusters,
            Loops::Grid => LoopForm::Grid,
            Loops::Steps => LoopForm::Steps,
        }
    }
}

/// Where a model runs.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The device: cpu, cuda:N, or sim, which executes the PTX for sm_90 on the host and checks every access; sim:sm_90a
    /// does so with that for sm_90a.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,

    /// Which code the CPU runs.
    #[arg(long, value_enum, default_value_t = Tier::default())]
    pub tier: Tier,

    /// In which type the CPU stores the f32 weights of products; arithmetic stays in f32. Fewer bytes are read, which
    /// is what the time of a recurrent layer goes to at batch 1; what that costs in accuracy is printed.
    #[arg(long, value_enum, default_value_t = WeightsDtype::default(), value_name = "TYPE")]
    pub weights_dtype: WeightsDtype,

    /// CPU threads, those that simulate a GPU included; by default what affinity and cgroup limits allow.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// The most memory for intermediate tensors, in MiB; by default what the machine has.
    #[arg(long, value_name = "MIB")]
    pub memory_limit: Option<u64>,
}

/// Whether to rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rewrite {
    /// Fuse.
    On,
    /// One kernel per operation.
    Off,
}

/// `fuse run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArgs,
    /// Where it runs.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The inputs: an array for each by name (.npz), or the one array of a model with one input (.npy); random by
    /// --seed if absent.
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Where the outputs go; without it a summary of each is printed.
    #[arg(long, value_name = "NPZ")]
    pub outputs: Option<PathBuf>,
    /// Print the memory plan before the run.
    #[arg(long)]
    pub plan: bool,
}

/// `fuse ptx`.
#[derive(Debug, Args)]
pub struct PtxArgs {
    /// The model: a .fuse or an .onnx file.
    pub model: PathBuf,
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArgs,
    /// The architecture, sm_75 to sm_120.
    #[arg(long, default_value = "sm_90", value_name = "ARCH")]
    pub arch: String,
    /// Compute positions in 64 bits, for buffers and grids of 2^31 elements and more; otherwise 32 bits where these do.
    #[arg(long)]
    pub wide_indices: bool,
    /// Run the kernels once on a simulated GPU, and print for each what it executed and moved, and what ptxas says that
    /// it takes, instead of PTX.
    #[arg(long, conflicts_with = "output")]
    pub stats: bool,
    /// The value of a symbolic dimension for --stats (repeatable), as in --dim T=100.
    #[arg(long = "dim", value_name = "NAME=N", requires = "stats")]
    pub dims: Vec<String>,
    /// A directory for one .ptx file a kernel and manifest.json; without it PTX goes to the standard output.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// The stages that `fuse dump` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The tensor IR.
    Graph,
    /// The e-graph after saturation.
    Egraph,
    /// The fused kernels as element expressions.
    Kernels,
    /// The scheduled loop nests.
    KernelIr,
    /// Cranelift IR (CPU).
    Clif,
    /// LLVM IR (GPU, or the CPU's peak tier).
    Llvm,
    /// Machine code (CPU).
    Asm,
    /// PTX (GPU).
    Ptx,
    /// The tensor IR as a picture, for Graphviz.
    Dot,
}

/// `fuse dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The model: a .fuse or an .onnx file.
    pub model: PathBuf,
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArgs,
    /// What to print.
    #[arg(long, value_enum, default_value_t = Stage::Graph)]
    pub stage: Stage,
    /// For whom kernels and kernel-ir are made: cpu, or cuda and sim alike.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// The code of kernels, kernel-ir, clif (fast), llvm (peak) and asm that a tier runs on this CPU; by default what
    /// they are before that is made for this CPU.
    #[arg(long, value_enum, value_name = "TIER")]
    pub tier: Option<Tier>,
    /// The architecture of llvm and ptx.
    #[arg(long, default_value = "sm_90", value_name = "ARCH")]
    pub arch: String,
}

/// `fuse explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The model: a .fuse or an .onnx file.
    pub model: PathBuf,
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArgs,
    /// For whom: cpu, cuda (an H100), or a GPU's architecture such as sm_80; of a GPU also where the operands of loops lie
    /// and what a step takes.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// The value of a symbolic dimension (repeatable), as in --dim T=100; by default what the cost model assumes.
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<String>,
    /// Print every step of the proofs that lead from the model's terms to the kernels'.
    #[arg(long)]
    pub proof: bool,
    /// Print one JSON object, with the proofs.
    #[arg(long)]
    pub json: bool,
}

/// `fuse inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file: .fuse, .onnx, .npz or .npy.
    pub file: PathBuf,
    /// The value of a symbolic dimension (repeatable), as in --dim T=100; by default what the cost model assumes.
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `fuse check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The inputs: an array for each by name (.npz), or the one array of a model with one input (.npy); random by
    /// --seed if absent.
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// The largest absolute error that passes, beside the relative one.
    #[arg(long, default_value_t = 1e-5, value_name = "ERROR")]
    pub atol: f64,
    /// The largest relative error that passes, beside the absolute one.
    #[arg(long, default_value_t = 1e-4, value_name = "ERROR")]
    pub rtol: f64,
    /// What GPUs may round the factors of products of f32 to; what that may change in each element is allowed for.
    #[arg(long, value_enum, default_value_t = ProductPrecision::default(), value_name = "TYPE")]
    pub precision: ProductPrecision,
    /// Only backends of these devices: cpu, sim, sim:sm_90a or cuda:0 (repeatable); by default all but sim:sm_90a.
    #[arg(long = "device", value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `fuse bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How it is compiled.
    #[command(flatten)]
    pub compile: CompileArgs,
    /// Where it runs.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The inputs: an array for each by name (.npz), or the one array of a model with one input (.npy); random by
    /// --seed if absent.
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// What the outputs should be; the largest absolute error is reported.
    #[arg(long, value_name = "NPZ")]
    pub expected: Option<PathBuf>,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 1.5, value_name = "SECONDS")]
    pub seconds: f64,
    /// Also say how long each kernel takes on each CPU thread, and how long that waits for others before it, or how long
    /// each launch takes on a GPU: of the run of median time among twenty.
    #[arg(long)]
    pub profile: bool,
    /// Also write the figures as one JSON object to a file, or with `-` only that to the standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `fuse machine`.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// CPU threads beside one alone; by default what affinity and cgroup limits allow.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    pub seconds: f64,
    /// Also write the figures as one JSON object to a file, or with `-` only that to the standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
