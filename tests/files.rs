//! File tests: one `.fuse` file a case, under `tests/cases/<stage>/`.
//!
//! The first lines of a file are its header, comments of the form `// key: value`:
//!
//! * `stage:` what is printed or done: `graph` (parse, verify, print), `dot`, `egraph`, `kernels`, `kernel-ir`,
//!   `clif`, `llvm`, `ptx`, `error` (parsing or verifying must fail), `run` (every way to run here must agree
//!   with the interpreter);
//! * `device:` cpu (default) or cuda; `arch:` of PTX; `rewrite:` on (default) or off;
//! * `precision:` what a GPU may round the factors of products to: f32 (default), tf32, bf16 or f16;
//! * `chunks:` whether recurrences run in chunks of time: cost (default), never or always;
//! * `dims:` `T=3 B=2`, for `run`; several lines give several runs of one compiled artefact;
//! * `atol:` for `run`, 1e-5 by default.
//!
//! All stages but `run` compare with a snapshot beside the file; `INSTA_UPDATE=always cargo test --test files`
//! accepts what changed.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use fuse::ir::compare::{Tolerance, compare};
use fuse::ir::interp::{Interpreter, Precision};
use fuse::rewrite::ChunkPolicy;
use fuse::{CompileOptions, Device, DimEnv, Graph, Target, Tier};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no cases under {}", root.display());
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("").display().to_string();
        Trial::test(name, move || Case::read(&path)?.run())
    };
    libtest_mimic::run(&Arguments::from_args(), files.into_iter().map(trial).collect()).exit();
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the case directory can be read") {
        let path = entry.expect("the case directory can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "fuse") {
            files.push(path);
        }
    }
}

struct Case {
    path: PathBuf,
    source: String,
    header: Vec<(String, String)>,
}

impl Case {
    fn read(path: &Path) -> Result<Case, Failed> {
        let source = std::fs::read_to_string(path)?;
        let header = source
            .lines()
            .map_while(|line| line.strip_prefix("// "))
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Case { path: path.to_owned(), source, header })
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.header.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn value<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.values(key).next().unwrap_or(default)
    }

    fn run(&self) -> Result<(), Failed> {
        let known = ["stage", "device", "arch", "rewrite", "chunks", "dims", "atol", "precision"];
        if let Some((key, _)) = self.header.iter().find(|(k, _)| !known.contains(&k.as_str())) {
            return Err(format!("unknown header `{key}`; known are {known:?}").into());
        }
        match self.value("stage", "") {
            "run" => self.run_and_compare(),
            "error" => match self.graph() {
                Ok(_) => Err("the file should not parse and verify, but does".into()),
                Err(message) => self.snapshot(&message),
            },
            stage => self.snapshot(&self.print(stage)?),
        }
    }

    /// The graph, or what a user would read.
    fn graph(&self) -> Result<Graph, String> {
        let graph = fuse::ir::parse(&self.source).map_err(|e| e.render("case.fuse", &self.source))?;
        fuse::ir::verify(&graph).map_err(|e| e.to_string())?;
        Ok(graph)
    }

    fn options(&self) -> Result<CompileOptions, Failed> {
        let target = match self.value("device", "cpu") {
            "cpu" => Target::Cpu,
            "cuda" => Target::Cuda,
            other => return Err(format!("unknown device `{other}`").into()),
        };
        let mut options = match self.value("rewrite", "on") {
            "on" => CompileOptions::new(target),
            "off" => CompileOptions::unfused(target),
            other => return Err(format!("rewrite is on or off, not `{other}`").into()),
        };
        options.rewrite.chunks = match self.value("chunks", "cost") {
            "cost" => ChunkPolicy::ByCost,
            "never" => ChunkPolicy::Never,
            "always" => ChunkPolicy::Always,
            other => return Err(format!("chunks are by cost, never or always, not `{other}`").into()),
        };
        let precision = self.value("precision", "f32");
        options.precision = ValueEnum::from_str(precision, false)?;
        #[cfg(feature = "llvm")]
        {
            let arch: fuse::codegen::llvm::Arch = self.value("arch", "sm_90").parse()?;
            let of = fuse::codegen::schedule::GpuLimits::cluster_blocks_of;
            options.gpu.cluster_blocks = of(arch.capability());
            options.gpu.warp_groups = arch.has_warp_groups();
        }
        Ok(options)
    }

    fn print(&self, stage: &str) -> Result<String, Failed> {
        let graph = self.graph()?;
        let mut options = self.options()?;
        if matches!(stage, "llvm" | "ptx") {
            options.target = Target::Cuda;
        }
        let compiled = || fuse::compile(&graph, &options);
        let functions = |text: &dyn Fn(&fuse::codegen::kernel_ir::Function) -> Result<String, Failed>| {
            compiled()?
                .functions()?
                .iter()
                .map(text)
                .collect::<Result<Vec<_>, Failed>>()
                .map(|t| t.join("\n"))
        };
        Ok(match stage {
            "graph" => {
                let text = graph.to_string();
                let again = fuse::ir::parse(&text).map_err(|e| e.render("printed", &text))?;
                if again != graph {
                    return Err(format!("the printed graph parses to another one:\n{text}").into());
                }
                text
            }
            "dot" => fuse::ir::dot(&graph),
            "egraph" => fuse::rewrite::dump_egraph(&graph, &options.rewrite)?,
            "kernels" => {
                let kernels = compiled()?.kernels;
                let text = kernels.to_string();
                let again = fuse::ir::parse_kernels(&text).map_err(|e| e.render("printed", &text))?;
                if again != kernels {
                    return Err(format!("the printed kernels parse to others:\n{text}").into());
                }
                text
            }
            "kernel-ir" => functions(&|f| {
                let text = fuse::codegen::text::print(f);
                if fuse::codegen::text::parse(&text)? != *f {
                    return Err(format!("the printed function parses to another one:\n{text}").into());
                }
                Ok(text)
            })?,
            "clif" => functions(&|f| Ok(fuse::codegen::cranelift::clif(f)?))?,
            #[cfg(feature = "llvm")]
            "llvm" | "ptx" => {
                let arch = self.value("arch", "sm_90").parse()?;
                let options = fuse::codegen::llvm::PtxOptions::new(arch);
                let compiled = compiled()?;
                let functions = compiled.functions()?;
                if stage == "ptx" {
                    let text = fuse::codegen::llvm::ptx::ptx(functions, &options)?;
                    fuse::codegen::llvm::commented(&text, &compiled.kernels, functions)
                } else {
                    fuse::codegen::llvm::ptx::llvm_ir(functions, &options)?
                }
            }
            #[cfg(not(feature = "llvm"))]
            "llvm" | "ptx" => return Err("SKIPPED: built without LLVM".into()),
            other => return Err(format!("unknown stage `{other}`").into()),
        })
    }

    fn snapshot(&self, text: &str) -> Result<(), Failed> {
        let dir = self.path.parent().ok_or("a case lies in a directory")?.join("snapshots");
        let name = self.path.file_stem().ok_or("a case has a name")?.to_string_lossy().into_owned();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(dir);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, text));
        Ok(())
    }

    /// One compiled artefact for each device, fused, in chunks of time and unfused, at all the header's dimensions,
    /// against the interpreter.
    fn run_and_compare(&self) -> Result<(), Failed> {
        let graph = self.graph()?;
        let absolute: f64 = self.value("atol", "1e-5").parse()?;
        let tolerance = Tolerance { ulp: 4.0, absolute, relative: 1e-5 };
        let mut runs: Vec<DimEnv> = self.values("dims").map(parse_dims).collect::<Result<_, _>>()?;
        if runs.is_empty() {
            runs.push(DimEnv::new());
        }
        for device in devices() {
            for options in options_for(&device) {
                run_on(&device, &graph, &options, &runs, tolerance).map_err(|e| {
                    let (mode, tier) = (options.rewrite.mode, options.tier);
                    format!("{}, {mode:?}, {tier:?}: {}", device.name(), e.message().unwrap_or(""))
                })?;
            }
        }
        Ok(())
    }
}

/// One compiled artefact at all dimensions against the interpreter.
fn run_on(
    device: &Device,
    graph: &Graph,
    options: &CompileOptions,
    runs: &[DimEnv],
    tolerance: Tolerance,
) -> Result<(), Failed> {
    let mut model = fuse::compile(graph, options)?.load(device)?;
    for (seed, dims) in runs.iter().enumerate() {
        let values = fuse::random::values_for(graph, dims, seed as u64)?;
        let expected = Interpreter::new(Precision::F64).with_dims(dims.clone()).run(graph, &values)?;
        let (parameters, inputs) = fuse::random::by_kind(graph, &values);
        model.bind(parameters)?;
        let outputs = model.run(&inputs, dims)?;
        for ((output, got), expected) in graph.outputs().iter().zip(&outputs).zip(&expected) {
            compare(got, expected, tolerance)
                .map_err(|e| format!("output `{}` at {dims:?}: {e}", output.name))?;
        }
    }
    Ok(())
}

/// Every device that runs here without special hardware.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu(&Default::default()).expect("a team of threads starts")];
    if cfg!(feature = "llvm") {
        devices.push(Device::sim(&Default::default()).expect("a simulated GPU is always there"));
    }
    devices
}

fn parse_dims(text: &str) -> Result<DimEnv, Failed> {
    text.split_whitespace().try_fold(DimEnv::new(), |dims, item| {
        let (name, value) = item.split_once('=').ok_or("dims: NAME=N")?;
        Ok(dims.with(name, value.parse()?))
    })
}

/// Fused, in chunks of time and unfused; on the CPU also by its other tier.
fn options_for(device: &Device) -> Vec<CompileOptions> {
    let target = Target::of(device.name());
    let fused = CompileOptions { tier: Tier::Fast, ..CompileOptions::new(target) };
    let mut in_chunks = fused.clone();
    in_chunks.rewrite.chunks = ChunkPolicy::Always;
    let unfused = CompileOptions { tier: Tier::Fast, ..CompileOptions::unfused(target) };
    let all = vec![fused, in_chunks, unfused];
    #[cfg(feature = "llvm")]
    if target == Target::Cpu {
        return [all, vec![CompileOptions { tier: Tier::Peak, ..CompileOptions::new(target) }]].concat();
    }
    all
}
