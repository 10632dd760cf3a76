//! `fuse machine`: what this machine can do at best.

use std::path::Path;
use std::time::Duration;

use fuse_runtime::limits::default_threads;
use fuse_runtime::machine::{Arithmetic, Cache, Machine, Rate, Transfer, measure};
use serde_json::{Value, json};

use super::args::MachineArgs;
use super::error::CliError;
use super::explain::{BYTES, quantity};
use super::table;

/// Runs the command.
pub fn machine(args: &MachineArgs) -> Result<(), CliError> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(CliError::usage(format!("--seconds {}: give a time up to an hour", args.seconds)));
    }
    if args.threads == Some(0) {
        return Err(CliError::usage("--threads 0: at least one thread is needed"));
    }
    let threads = args.threads.unwrap_or_else(default_threads);
    let total = Duration::from_secs_f64(args.seconds);
    let progress = super::progress::timed("measuring", total);
    let mut advance = |part: f64| progress.set_position((total.as_millis() as f64 * part) as u64);
    let measured = measure(threads, total, &mut advance).map_err(CliError::input);
    progress.finish_and_clear();
    let measured = measured?;
    match args.json.as_deref() {
        Some(path) if path == Path::new("-") => return super::print(&format!("{}\n", value(&measured))),
        Some(path) => std::fs::write(path, format!("{}\n", value(&measured)))
            .map_err(|e| CliError::input(format!("{}: {e}", path.display())))?,
        None => {}
    }
    super::print(&text(&measured))
}

/// The figures for machines; units are in the names.
fn value(machine: &Machine) -> Value {
    let cache = |c: &Cache| json!({ "level": c.level, "bytes": c.bytes, "shared_by": c.shared_by });
    let arithmetic = |a: &Arithmetic| {
        json!({
            "bits": a.bits,
            "instructions": a.instructions,
            "one_thread_gflops": a.gflops.one,
            "all_threads_gflops": a.gflops.all,
        })
    };
    let transfer = |t: &Transfer| {
        json!({
            "place": t.place,
            "one_thread_bytes": t.bytes[0],
            "each_thread_bytes": t.bytes[1],
            "one_thread_gb_per_s": t.gigabytes.one,
            "all_threads_gb_per_s": t.gigabytes.all,
        })
    };
    json!({
        "processor": machine.processor,
        "threads": machine.threads,
        "caches": machine.caches.iter().map(cache).collect::<Vec<_>>(),
        "multiply_add": machine.arithmetic.iter().map(arithmetic).collect::<Vec<_>>(),
        "product_in_l1": arithmetic(&machine.products),
        "read": machine.reads.iter().map(transfer).collect::<Vec<_>>(),
        "write": transfer(&machine.write),
        "copy": transfer(&machine.copy),
        "barrier_us": machine.barrier_microseconds,
    })
}

/// What the system says of the processor, then what was measured.
fn text(machine: &Machine) -> String {
    let size = |bytes: usize| quantity(bytes as f64, 1024.0, BYTES);
    let cache = |c: &Cache| format!("L{} {} (of {})", c.level, size(c.bytes), processors(c.shared_by));
    let caches: Vec<String> = machine.caches.iter().map(cache).collect();
    let width = |a: &Arithmetic| format!("{} bits ({})", a.bits, a.instructions);
    let widths: Vec<String> = machine.arithmetic.iter().map(width).collect();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let head = [
        row("processor", machine.processor.clone()),
        row("threads", machine.threads.to_string()),
        row("caches", if caches.is_empty() { "unknown".into() } else { caches.join(", ") }),
        row("vectors", widths.join(", ")),
    ];
    let threads = format!("{} threads", machine.threads);
    let mut rows = vec![["best of", "1 thread", &threads, "each", ""].map(str::to_owned).to_vec()];
    let mut line = |name: String, rate: &Rate, unit: &str| {
        let each = rate.all / machine.threads as f64;
        let [one, all, each] = [rate.one, rate.all, each].map(|v| format!("{v:.1}"));
        rows.push(vec![name, one, all, each, unit.to_owned()]);
    };
    for a in &machine.arithmetic {
        line(format!("multiply-adds, {} bits", a.bits), &a.gflops, "GFLOP/s");
    }
    line("products, factors in L1".into(), &machine.products.gflops, "GFLOP/s");
    for t in &machine.reads {
        line(format!("read, {}", t.place), &t.gigabytes, "GB/s");
    }
    line(format!("write, {}", machine.write.place), &machine.write.gigabytes, "GB/s");
    line(format!("copy, {}", machine.copy.place), &machine.copy.gigabytes, "GB/s, both ways");
    rows.push(vec![
        "barrier".into(),
        String::new(),
        format!("{:.2}", machine.barrier_microseconds),
        String::new(),
        "µs".into(),
    ]);
    table::render(&head) + "\n" + &table::render(&rows)
}

/// Of how many logical processors a cache is.
fn processors(count: usize) -> String {
    if count == 1 { "1 CPU".into() } else { format!("{count} CPUs") }
}
