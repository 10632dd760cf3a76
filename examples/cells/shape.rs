//! What the search makes of a model.

use std::error::Error;
use std::time::Instant;

use fuse::frontend::zoo::BenchmarkModel;
use fuse::{CompileOptions, Target};
use serde::Serialize;

use super::dims;

/// Runs of the search of which the median is shown.
const SEARCHES: usize = 9;

/// What the search makes of a model, for one target.
#[derive(Serialize)]
pub struct Shape {
    model: String,
    target: &'static str,
    /// Distinct kernels in loops.
    loop_kernels: usize,
    /// Distinct kernels.
    kernels: usize,
    /// Copies of weights that are made once, when they are bound; not counted in the rest.
    packed: usize,
    /// Launches of one run at the model's sizes.
    launches: i64,
    /// Launches without fusion.
    unfused_launches: i64,
    /// Median time of the search.
    search_ms: f64,
}

impl Shape {
    /// Rewrites the model, a few times.
    pub fn of(model: &BenchmarkModel, target: Target) -> Result<Self, Box<dyn Error>> {
        let dims = dims(model);
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
        let packed = optimized.report.packed;
        Ok(Shape {
            model: model.graph.name().to_owned(),
            target: if target == Target::Cpu { "cpu" } else { "cuda" },
            loop_kernels: optimized.report.kernels_in_loops,
            kernels: optimized.report.kernels,
            launches: optimized.kernels.launches().eval_dim(&dims)? - i64::try_from(packed)?,
            packed,
            unfused_launches: before.kernels.launches().eval_dim(&dims)?,
            search_ms: times[SEARCHES / 2],
        })
    }

    /// The line above the rows.
    pub fn print_header() {
        println!("model          target  in loop  kernels  packed  launches   unfused  search ms");
    }

    /// A row of the table.
    pub fn print(&self) {
        println!(
            "{:<14} {:>6} {:>8} {:>8} {:>7} {:>9} {:>9} {:>10.2}",
            self.model,
            self.target,
            self.loop_kernels,
            self.kernels,
            self.packed,
            self.launches,
            self.unfused_launches,
            self.search_ms
        );
    }
}
