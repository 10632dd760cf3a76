//! What fusion is worth on the CPU.

use std::error::Error;
use std::time::{Duration, Instant};

use fuse::frontend::zoo::BenchmarkModel;
use fuse::rewrite::cost_of;
use fuse::{CompileOptions, Device, DeviceOptions, Executable, Target};
use serde::Serialize;

use super::dims;

/// The fewest runs of each program that count.
const RUNS: usize = 5;
/// How long to go on beyond them.
const TIME: Duration = Duration::from_millis(400);

/// Times of a model on one number of threads, in milliseconds.
#[derive(Serialize)]
pub struct Speed {
    model: String,
    dims: String,
    threads: usize,
    fused_ms: f64,
    unfused_ms: f64,
    /// How many times as fast fusion makes it: of the medians, and of the fastest runs, which other load on the
    /// machine disturbs less.
    pub speedup: f64,
    best_speedup: f64,
    /// How many times as fast as the program that is not fused any could be that does the arithmetic of the fused one,
    /// and its multiply-adds at the machine's peak.
    most_speedup: f64,
}

impl Speed {
    /// Runs the model fused and not in turn, and compares medians. `peak` is what the machine can do with so many
    /// threads, in 10⁹ operations a second.
    pub fn of(model: &BenchmarkModel, threads: usize, peak: f64) -> Result<Self, Box<dyn Error>> {
        let dims = dims(model);
        let device = Device::cpu(&DeviceOptions { threads: Some(threads), ..DeviceOptions::default() })?;
        let values = fuse::random::values_for(&model.graph, &dims, 1)?;
        let (parameters, inputs) = fuse::random::by_kind(&model.graph, &values);
        let load = |options: &CompileOptions| -> Result<Executable, Box<dyn Error>> {
            let mut executable = fuse::compile(&model.graph, options)?.load(&device)?;
            executable.bind(parameters.clone())?;
            Ok(executable)
        };
        let target = Target::Cpu;
        let fused =
            fuse::rewrite::optimize(&model.graph, &target.model(), &CompileOptions::new(target).rewrite)?;
        let operations = cost_of(&fused.kernels, &target.model(), &dims).flops;
        let programs =
            [load(&CompileOptions::new(Target::Cpu))?, load(&CompileOptions::unfused(Target::Cpu))?];
        let mut times: [Vec<f64>; 2] = Default::default();
        for program in &programs {
            program.run(&inputs, &dims)?;
            program.wait_for_improvement();
        }
        let begin = Instant::now();
        while begin.elapsed() < TIME || times[0].len() < RUNS {
            for (program, times) in programs.iter().zip(&mut times) {
                let start = Instant::now();
                program.run(&inputs, &dims)?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
        let [fused_ms, unfused_ms] = [0, 1].map(|i| times[i][times[i].len() / 2]);
        let text = model.dims.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(Speed {
            model: model.graph.name().to_owned(),
            dims: text.collect::<Vec<_>>().join(" "),
            threads,
            fused_ms,
            unfused_ms,
            speedup: unfused_ms / fused_ms,
            best_speedup: times[1][0] / times[0][0],
            most_speedup: unfused_ms / (operations / peak / 1e6),
        })
    }

    /// The line above the rows.
    pub fn print_header() {
        println!("model          dims             threads   fused ms  unfused ms  speedup  of best  at most");
    }

    /// A row of the table.
    pub fn print(&self) {
        println!(
            "{:<14} {:<16} {:>7} {:>10.3} {:>11.3} {:>8.2} {:>8.2} {:>8.2}",
            self.model,
            self.dims,
            self.threads,
            self.fused_ms,
            self.unfused_ms,
            self.speedup,
            self.best_speedup,
            self.most_speedup
        );
    }
}
