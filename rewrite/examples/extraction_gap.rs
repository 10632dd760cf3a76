//! How far the usual extractor is off: modelled time of its kernels and of the best there are, on the benchmark's
//! models.
//!
//! ```sh
//! cargo run --release -p fuse-rewrite --features exact --example extraction_gap [DECISIONS [MODEL]]
//! ```
//!
//! The exact extractor looks at that many decisions (200,000) at most; where that does not suffice it says so.

use std::error::Error;

use fuse_frontend::zoo::{Scale, benchmark};
use fuse_ir::device::DeviceModel;
use fuse_rewrite::{Options, optimize};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let exact_decisions = arguments.next().map_or(Ok(200_000), |n| n.parse())?;
    let wanted = arguments.next().unwrap_or_default();
    println!(
        "{:<16} {:<5} {:>12} {:>12} {:>7} {:>10}",
        "model", "device", "greedy µs", "exact µs", "gap %", "decisions"
    );
    for model in benchmark(Scale::Full)?.iter().filter(|m| m.graph.name().contains(&wanted)) {
        for device in [DeviceModel::cpu(), DeviceModel::cuda()] {
            let greedy = optimize(&model.graph, &device, &Options::default())?.report.extraction;
            let options = Options { exact_decisions, ..Options::default() };
            let exact = optimize(&model.graph, &device, &options)?.report.extraction;
            let proven = if exact.proven { "" } else { "  (not proven)" };
            println!(
                "{:<16} {:<5} {:>12.2} {:>12.2} {:>7.2} {:>10}{proven}",
                model.graph.name(),
                device.name,
                greedy.seconds * 1e6,
                exact.seconds * 1e6,
                100.0 * (greedy.seconds / exact.seconds - 1.0),
                exact.evaluated,
            );
        }
    }
    Ok(())
}
