//! The benchmark's cells and models through the compiler: how many kernels they become, how long the search takes,
//! and what it is worth.
//!
//! ```text
//! cells [--json] [NAME…]       kernels, launches and search time, for both targets
//! cells --bench [NAME…]        time on the CPU, fused against one kernel per operation, and the most that any program
//!                              could be ahead of the latter at the machine's peak
//! cells --write DIR [NAME…]    writes DIR/NAME.fuse
//! ```
//!
//! A `NAME` selects the models whose names contain it. `--small` scales the models down, `--steps N` runs at most
//! so many steps.

mod shape;
mod speed;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use fuse::frontend::zoo::{BenchmarkModel, Scale, benchmark};
use fuse::{DimEnv, Target};

use shape::Shape;
use speed::Speed;

#[derive(Default)]
struct Arguments {
    json: bool,
    small: bool,
    bench: bool,
    steps: Option<i64>,
    write: Option<PathBuf>,
    names: Vec<String>,
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut parsed = Arguments::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => parsed.json = true,
                "--small" => parsed.small = true,
                "--bench" => parsed.bench = true,
                "--steps" => {
                    parsed.steps = Some(arguments.next().ok_or("--steps needs a number")?.parse()?);
                }
                "--write" => parsed.write = Some(arguments.next().ok_or("--write needs a directory")?.into()),
                option if option.starts_with('-') => return Err(format!("no such option: {option}").into()),
                name => parsed.names.push(name.to_owned()),
            }
        }
        Ok(parsed)
    }

    fn models(&self) -> Result<Vec<BenchmarkModel>, Box<dyn Error>> {
        let mut models = benchmark(if self.small { Scale::Small } else { Scale::Full })?;
        let chosen =
            |name: &str| self.names.is_empty() || self.names.iter().any(|n| name.contains(n.as_str()));
        models.retain(|m| chosen(m.graph.name()));
        for (_, steps) in models.iter_mut().flat_map(|m| &mut m.dims).filter(|(name, _)| *name == "T") {
            *steps = (*steps).min(self.steps.unwrap_or(*steps));
        }
        if models.is_empty() { Err("no model of that name".into()) } else { Ok(models) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let models = arguments.models()?;
    if let Some(directory) = &arguments.write {
        std::fs::create_dir_all(directory)?;
        for model in &models {
            let path = directory.join(model.graph.name()).with_extension("fuse");
            std::fs::write(&path, model.graph.to_string())?;
            println!("wrote {}", path.display());
        }
        return Ok(());
    }
    if arguments.bench { bench(&models, arguments.json) } else { shapes(&models, arguments.json) }
}

/// The sizes of a model.
fn dims(model: &BenchmarkModel) -> DimEnv {
    model.dims.iter().fold(DimEnv::new(), |dims, (name, value)| dims.with(name, *value))
}

fn shapes(models: &[BenchmarkModel], json: bool) -> Result<(), Box<dyn Error>> {
    if !json {
        Shape::print_header();
    }
    for model in models {
        for target in [Target::Cpu, Target::Cuda] {
            let shape = Shape::of(model, target)?;
            if json {
                println!("{}", serde_json::to_string(&shape)?);
            } else {
                shape.print();
            }
        }
    }
    Ok(())
}

fn bench(models: &[BenchmarkModel], json: bool) -> Result<(), Box<dyn Error>> {
    if !json {
        Speed::print_header();
    }
    let machine = fuse::runtime::machine::measure(2, Duration::from_secs(3), &mut |_| ())?;
    let widest = machine.arithmetic.last().ok_or("no vectors were measured")?.gflops;
    for (threads, peak) in [(1, widest.one), (2, widest.all)] {
        let mut logarithms = 0.0;
        for model in models {
            let speed = Speed::of(model, threads, peak)?;
            logarithms += speed.speedup.ln();
            if json {
                println!("{}", serde_json::to_string(&speed)?);
            } else {
                speed.print();
            }
        }
        if !json {
            println!("geometric mean on {threads} threads: {:.2}", (logarithms / models.len() as f64).exp());
        }
    }
    Ok(())
}
