//! The size and the time of the search on small models: `cargo run --release --example search -p fuse-rewrite`.

use fuse_frontend::{nn, trace, zoo};
use fuse_ir::device::DeviceModel;
use fuse_ir::{DType, Graph};
use fuse_rewrite::{Options, optimize};

fn stack(layers: usize) -> Graph {
    let graph = trace("stack", |t| {
        let x = t.input("x", DType::F32, ("T", "B", 64));
        let options = nn::StackOptions { layers, bidirectional: false };
        let layers = nn::declare_stack(t, nn::Gates::Lstm, "", 64, 64, options);
        let (y, _) = nn::lstm(&x, &layers, None, None);
        t.output("y", y);
    });
    graph.expect("the stack is well formed")
}

fn main() {
    let models = [
        zoo::lstm_graph(64, 64).expect("sizes are positive"),
        zoo::gru_graph(64, 64).expect("sizes are positive"),
        zoo::layer_norm_lstm_graph(64, 64).expect("sizes are positive"),
        zoo::custom_cell_graph(64, 64).expect("sizes are positive"),
        stack(24),
    ];
    println!(
        "{:16} {:>6} {:>6} {:>7} {:>8} {:>9} {:>7} {:>7}",
        "model", "before", "nodes", "classes", "saturate", "extract", "kernels", "in loop"
    );
    for graph in &models {
        let mut times = Vec::new();
        let mut last = None;
        for _ in 0..20 {
            let optimized =
                optimize(graph, &DeviceModel::cpu(), &Options::default()).expect("the model is legal");
            times.push((optimized.report.saturation.milliseconds, optimized.report.extraction_milliseconds));
            last = Some(optimized.report);
        }
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut sorted: Vec<f64> = times.iter().map(of).collect();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        };
        let Some(report) = last else { continue };
        println!(
            "{:16} {:6} {:6} {:7} {:8.2} {:9.2} {:7} {:7}  {:?}",
            report.graph,
            report.saturation.nodes_before,
            report.saturation.nodes,
            report.saturation.classes,
            median(|t| t.0),
            median(|t| t.1),
            report.kernels,
            report.kernels_in_loops,
            report.saturation.applied.iter().filter(|(_, n)| **n > 0).collect::<Vec<_>>(),
        );
    }
}
