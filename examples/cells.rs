//! The benchmark's cells and models through the compiler: how many kernels they become, how long the search takes,
//! and what it is worth.
//!
//! ```text
//! cells [--json] [NAME…]       kernels, launches and search time, for both targets
//! cells --write DIR [NAME…]    writes DIR/NAME.fuse
//! ```
//!
//! A `NAME` selects the models whose names contain it. `--small` scales the models down.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use fuse::frontend::zoo::{BenchmarkModel, Scale, benchmark};
use fuse::{CompileOptions, DimEnv, Target};
use serde::Serialize;

/// Runs of the search of which the median is shown.
const SEARCHES: usize = 9;

#[derive(Default)]
struct Arguments {
    json: bool,
    small: bool,
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
    let header = ["model", "target", "in loop", "kernels", "launches", "unfused", "search ms"];
    if !arguments.json {
        println!(
            "{:<14} {:>6} {:>8} {:>8} {:>9} {:>9} {:>10}",
            header[0], header[1], header[2], header[3], header[4], header[5], header[6]
        );
    }
    for model in &models {
        for target in [Target::Cpu, Target::Cuda] {
            let shape = Shape::of(model, target)?;
            if arguments.json {
                println!("{}", serde_json::to_string(&shape)?);
            } else {
                shape.print();
            }
        }
    }
    Ok(())
}

/// What the search makes of a model.
#[derive(Serialize)]
struct Shape {
    model: String,
    target: &'static str,
    /// Distinct kernels in loops.
    loop_kernels: usize,
    /// Distinct kernels.
    kernels: usize,
    /// Launches of one run at the model's sizes.
    launches: i64,
    /// Launches without fusion.
    unfused_launches: i64,
    /// Median time of the search.
    search_ms: f64,
}

impl Shape {
    fn of(model: &BenchmarkModel, target: Target) -> Result<Self, Box<dyn Error>> {
        let dims = model.dims.iter().fold(DimEnv::new(), |dims, (name, value)| dims.with(name, *value));
        let (fused, unfused) = (CompileOptions::new(target), CompileOptions::unfused(target));
        let device = target.model();
        let mut times = Vec::new();
        for _ in 0..SEARCHES {
            let start = Instant::now();
            fuse::rewrite::optimize(&model.graph, &device, &fused.rewrite)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let optimized = fuse::rewrite::optimize(&model.graph, &device, &fused.rewrite)?;
        let before = fuse::rewrite::optimize(&model.graph, &device, &unfused.rewrite)?;
        Ok(Shape {
            model: model.graph.name().to_owned(),
            target: if target == Target::Cpu { "cpu" } else { "cuda" },
            loop_kernels: optimized.report.kernels_in_loops,
            kernels: optimized.report.kernels,
            launches: optimized.kernels.launches().eval_dim(&dims)?,
            unfused_launches: before.kernels.launches().eval_dim(&dims)?,
            search_ms: times[SEARCHES / 2],
        })
    }

    fn print(&self) {
        println!(
            "{:<14} {:>6} {:>8} {:>8} {:>9} {:>9} {:>10.2}",
            self.model,
            self.target,
            self.loop_kernels,
            self.kernels,
            self.launches,
            self.unfused_launches,
            self.search_ms
        );
    }
}
