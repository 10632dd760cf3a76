//! What running linear recurrences in chunks of time is worth on the CPU, and whether the cost model knows.
//!
//! ```sh
//! cargo run --release --example recurrences -- [STEPS] [THREADS]
//! ```
//!
//! One row, few channels, a number of steps that is known when compiling, so that the cost model counts with it: a
//! cumulative sum, a state with a factor that is read, and a gated state as in minGRU.

use std::error::Error;
use std::time::{Duration, Instant};

use fuse::rewrite::ChunkPolicy;
use fuse::{CompileOptions, Device, DeviceOptions, DimEnv, Executable, Graph, Target};

/// The channels of the states.
const WIDTHS: [usize; 6] = [1, 2, 3, 4, 8, 16];
/// How long to go on with each program.
const TIME: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: i64| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (steps, threads) = (number(0, 100_000)?, number(1, 2)?);
    let device = DeviceOptions { threads: Some(usize::try_from(threads)?), ..DeviceOptions::default() };
    let device = Device::cpu(&device)?;
    println!("T={steps} on {threads} threads: milliseconds, medians and (best)");
    println!("state       width      one kernel          in chunks      times  of best  chosen");
    for (name, step) in STATES {
        for width in WIDTHS {
            row(&device, (name, &graph(step, steps, width)?), width)?;
        }
    }
    Ok(())
}

const STATES: [(&str, &str); 3] = [
    ("sum", "%next = add h, x"),
    ("factor", "%k = mul z, h\n %next = add %k, x"),
    (
        "gated",
        "%one = constant 1 : f32
         %ones = broadcast %one axes=[] : f32[WIDTH]
         %g = sigmoid z
         %keep = sub %ones, %g
         %k = mul %keep, h
         %n = mul %g, x
         %next = add %k, %n",
    ),
];

fn graph(step: &str, steps: i64, width: usize) -> Result<Graph, Box<dyn Error>> {
    let text = format!(
        "graph g(x: f32[STEPS, WIDTH], z: f32[STEPS, WIDTH], h0: f32[WIDTH]) {{
           %last, %y = scan over STEPS carry (h = h0) each (x = x, z = z) {{
             {step}
             next h = %next
             stack y = %next
           }}
           return y = %y, last = %last
         }}"
    );
    let text = text.replace("WIDTH", &width.to_string()).replace("STEPS", &steps.to_string());
    Ok(fuse::ir::parse(&text)?)
}

/// Both forms in turn.
fn row(device: &Device, (name, graph): (&str, &Graph), width: usize) -> Result<(), Box<dyn Error>> {
    let dims = &DimEnv::new();
    let mut values = fuse::random::values_for(graph, dims, 1)?;
    // Factors between 0 and 1, so that no state grows without bound.
    if let Some(factors) = values.get_mut(1) {
        let shape = factors.shape().to_vec();
        let bounded: Vec<f32> = factors.to_f64().iter().map(|v| v.abs().fract() as f32).collect();
        *factors = fuse::ir::Tensor::from_values(&shape, &bounded)?;
    }
    let (_, inputs) = fuse::random::by_kind(graph, &values);
    let compiled = |chunks: ChunkPolicy| {
        let mut options = CompileOptions::new(Target::Cpu);
        options.rewrite.chunks = chunks;
        fuse::compile(graph, &options)
    };
    let load = |chunks| -> Result<Executable, Box<dyn Error>> { Ok(compiled(chunks)?.load(device)?) };
    let programs = [load(ChunkPolicy::Never)?, load(ChunkPolicy::Always)?];
    let chosen = !compiled(ChunkPolicy::ByCost)?.report.divided.is_empty();
    let mut times: [Vec<f64>; 2] = Default::default();
    for program in &programs {
        program.run(&inputs, dims)?;
    }
    let begin = Instant::now();
    while begin.elapsed() < TIME || times[0].len() < 5 {
        for (program, times) in programs.iter().zip(&mut times) {
            let start = Instant::now();
            program.run(&inputs, dims)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
    let [one, many] = [0, 1].map(|i| (times[i][times[i].len() / 2], times[i][0]));
    println!(
        "{name:<11} {width:>5} {:>9.3} ({:>6.3}) {:>9.3} ({:>6.3}) {:>8.2} {:>8.2}  {}",
        one.0,
        one.1,
        many.0,
        many.1,
        one.0 / many.0,
        one.1 / many.1,
        if chosen { "yes" } else { "no" }
    );
    Ok(())
}
