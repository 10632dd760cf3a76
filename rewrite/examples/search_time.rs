//! How long rewriting takes: milliseconds of saturation, extraction and lowering, each the median of 20 runs; and
//! the mean processor time of all three.
//!
//! ```sh
//! cargo run --release -p fuse-rewrite --example search_time [MODEL]
//! ```
//!
//! With a model's name only models whose names contain it run. Each is searched for both devices.

use std::error::Error;

use fuse_frontend::{Tensor, nn, trace, zoo};
use fuse_ir::device::DeviceModel;
use fuse_ir::{DType, Graph};
use fuse_rewrite::{Options, Report, optimize};

const RUNS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    println!(
        "{:<16} {:<6} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "model",
        "device",
        "saturate",
        "extract",
        "lower",
        "total ms",
        "cpu ms",
        "nodes",
        "plans",
        "reused",
        "kernels",
        "in loops"
    );
    for (name, graph) in models()? {
        for device in [DeviceModel::cpu(), DeviceModel::cuda()].iter().filter(|_| name.contains(&wanted)) {
            measure(&name, &graph, device)?;
        }
    }
    Ok(())
}

fn measure(name: &str, graph: &Graph, device: &DeviceModel) -> Result<(), Box<dyn Error>> {
    let before = processor_nanoseconds();
    let reports: Result<Vec<Report>, _> = (0..RUNS)
        .map(|_| Ok::<_, fuse_rewrite::RewriteError>(optimize(graph, device, &Options::default())?.report))
        .collect();
    let reports = reports?;
    let processor = (processor_nanoseconds() - before) / 1e6 / RUNS as f64;
    let median = |of: &dyn Fn(&Report) -> f64| {
        let mut values: Vec<f64> = reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[RUNS / 2 - 1] + values[RUNS / 2]) / 2.0
    };
    let saturation = |r: &Report| r.saturation.milliseconds;
    let total = |r: &Report| r.saturation.milliseconds + r.extraction_milliseconds + r.lowering_milliseconds;
    let last = &reports[RUNS - 1];
    println!(
        "{name:<16} {:<6} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {processor:>8.2} {:>8} {:>8} {:>8} {:>8} {:>8}",
        device.name,
        median(&saturation),
        median(&|r| r.extraction_milliseconds),
        median(&|r| r.lowering_milliseconds),
        median(&total),
        last.saturation.nodes,
        last.extraction.evaluated,
        last.extraction.reused,
        last.kernels,
        last.kernels_in_loops,
    );
    Ok(())
}

/// The time this thread had a processor, where the system tells; on a busy machine less than the time that passed.
fn processor_nanoseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}

fn models() -> Result<Vec<(String, Graph)>, Box<dyn Error>> {
    let mut models = vec![
        ("lstm".to_string(), zoo::lstm_graph(512, 512)?),
        ("gru".to_string(), zoo::gru_graph(512, 512)?),
        ("lnlstm".to_string(), zoo::layer_norm_lstm_graph(512, 512)?),
        ("custom".to_string(), zoo::custom_cell_graph(512, 512)?),
    ];
    for steps in [5, 24] {
        models.push((format!("nas_unrolled{steps}"), nas_unrolled(steps)?));
    }
    for layers in [1, 4, 12, 24] {
        models.push((format!("lstm_stack{layers}"), lstm_stack(layers)?));
    }
    Ok(models)
}

/// A stack of LSTM layers.
fn lstm_stack(layers: usize) -> Result<Graph, Box<dyn Error>> {
    Ok(trace("stack", |t| {
        let x = t.input("x", DType::F32, ("T", "B", 512));
        let options = nn::StackOptions { layers, bidirectional: false };
        let layers = nn::declare_stack(t, nn::Gates::Lstm, "", 512, 512, options);
        let (y, (h, c)) = nn::lstm(&x, &layers, None, None);
        t.output("y", y);
        t.output("h", h);
        t.output("c", c);
    })?)
}

/// The NasRNN graph of TASO (SOSP 2019) and TENSAT (MLSys 2021), unrolled: sixteen matrices of its own a step.
fn nas_unrolled(steps: usize) -> Result<Graph, Box<dyn Error>> {
    Ok(trace("nas_unrolled", |t| {
        let mut h = t.input("h0", DType::F32, ("B", 512));
        for step in 0..steps {
            let x = t.input(&format!("x{step}"), DType::F32, ("B", 512));
            let matrix =
                |name: &str, i: usize| t.parameter(&format!("s{step}.{name}{i}"), DType::F32, (512, 512));
            let parts: Vec<Tensor> =
                (0..8).map(|i| x.matmul(matrix("W", i)) + h.matmul(matrix("R", i))).collect();
            let a = parts[0].relu() + parts[3].sigmoid();
            let b = parts[1].sigmoid() + parts[2].tanh();
            let c = parts[4].sigmoid() * parts[5].tanh();
            let d = parts[6].sigmoid() * parts[7].relu();
            let e = b.sigmoid() + c.tanh();
            h = (e.tanh() * (a.tanh() * d.tanh()).tanh()).tanh();
        }
        t.output("y", h);
    })?)
}
