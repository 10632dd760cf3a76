//! `fuse explain`: what was fused, by which rules, and why the boundaries that remain stayed.

mod loops;
mod products;

use std::collections::BTreeMap;
use std::fmt::Write;

use fuse_codegen::schedule::GpuLimits;

use fuse_ir::DimEnv;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::Kernel;
use fuse_rewrite::explain::{Boundary, BoundaryReason, KernelExplanation, RuleApplication};
use fuse_rewrite::{Explanation, KernelUse, assumed_dims, cost_of};
use fuse_runtime::DeviceName;
use serde::Serialize;

use super::args::ExplainArgs;
use super::error::CliError;
use super::run::dims_text;
use super::{dump, model, table};
use crate::compile::{CompileError, Target, rounded_kernels};
use crate::precision::ProductPrecision;
use loops::{LoopReport, loops};
use products::ProductReport;

/// Everything that is said, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    dims: String,
    /// Saturation, extraction and lowering.
    search_ms: f64,
    /// The program with one kernel per operation.
    before: Figures,
    /// The fused program, without what is done once, when weights are bound.
    after: Figures,
    /// What is done once: copies of weights in the layout that the kernels read.
    binding: Figures,
    kernels: Vec<KernelReport>,
    /// On a GPU, the loops over time.
    loops: Vec<LoopReport>,
    /// Which kernels round factors of their products, and what that does to results.
    rounding: Option<String>,
}

/// A program in one run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Figures {
    kernels: usize,
    /// How often kernels are launched.
    pub(super) launches: f64,
    /// Between memory and the cores; each element once a launch.
    pub(super) bytes: f64,
    /// Arithmetic operations.
    pub(super) flops: f64,
    /// By the cost model.
    modelled_ms: f64,
}

#[derive(Debug, Serialize)]
struct KernelReport {
    name: String,
    in_loop: bool,
    /// Whether it runs once, when weights are bound, and not in every run.
    binds: bool,
    /// Whether it computes, for all steps at once, what the model computes in a loop.
    hoisted: bool,
    /// Values that one kernel per operation would store.
    in_registers: usize,
    /// In one run of the program.
    launches: f64,
    bytes: f64,
    flops: f64,
    modelled_ms: f64,
    /// The operations of the model that it computes.
    ops: Vec<String>,
    /// The rules behind it, in order of their first use, with how often each.
    rules: Vec<RuleUse>,
    proof: Vec<ProofLine>,
    stores: Vec<Stored>,
    /// How a GPU computes it, where it is a product outside of loops.
    product: Option<ProductReport>,
}

#[derive(Debug, Serialize)]
struct RuleUse {
    rule: String,
    times: usize,
}

#[derive(Debug, Serialize)]
struct ProofLine {
    rule: String,
    before: String,
    after: String,
}

#[derive(Debug, Serialize)]
struct Stored {
    buffer: String,
    why: String,
    /// `output`, `state`, `cheaper` or `needed`.
    kind: &'static str,
}

/// Runs the command.
pub fn explain(args: &ExplainArgs) -> Result<(), CliError> {
    let graph = model::load(&args.model)?;
    let device = ExplainedDevice::new(&args.device)?;
    let target = device.target();
    let options = dump::options(&args.compile, target);
    let given = model::parse_dims(&args.dims)?;
    if let Some((unknown, _)) = given.iter().find(|(s, _)| !graph.symbols().contains(s)) {
        return Err(CliError::usage(format!("`{}` has no dimension `{unknown}`", graph.name())));
    }
    let mut dims = assumed_dims(&graph);
    for (symbol, value) in given.iter() {
        dims.set(symbol.clone(), value);
    }
    let found = fuse_rewrite::explain(&graph, &target.model(), &options.rewrite).map_err(CliError::bug)?;
    let mut report = Report::new(&found, &args.device, &device.model(), &dims);
    if let ExplainedDevice::Gpu { limits, .. } = device {
        let (model, program) = (device.model(), &found.after);
        let cost = cost_of(program, &model, &dims);
        for (told, (kernel, _)) in report.kernels.iter_mut().zip(program.kernels()) {
            if !told.in_loop && !told.binds {
                let form = (limits, options.precision.rounding());
                told.product = ProductReport::of(program, kernel, form, &dims)?;
            }
        }
        report.loops =
            loops(program, &cost, &model, (limits, options.precision.rounding(), options.loops), &dims)?;
    }
    let precision = options.precision;
    if target == Target::Cpu && precision != ProductPrecision::F32 {
        return Err(dump::compile_error(CompileError::Precision(precision)));
    }
    let rounded = match device {
        ExplainedDevice::Cpu => Vec::new(),
        ExplainedDevice::Gpu { limits, .. } => {
            rounded_kernels(&found.after, limits, precision, options.loops).map_err(dump::compile_error)?
        }
    };
    report.rounding = precision.statement(&rounded);
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(CliError::bug)?;
        return super::print(&format!("{text}\n"));
    }
    super::print(&report.text(args.proof))
}

/// For whom a program is explained.
#[derive(Clone, Copy, Debug)]
enum ExplainedDevice {
    Cpu,
    /// A GPU of a compute capability, times ten.
    Gpu {
        capability: u32,
        limits: GpuLimits,
    },
}

impl ExplainedDevice {
    /// `cpu`, or a GPU: `cuda` for an H100, or an architecture.
    fn new(name: &str) -> Result<Self, CliError> {
        let of =
            |capability| ExplainedDevice::Gpu { capability, limits: GpuLimits::of_capability(capability) };
        let with_warp_groups = || {
            let limits = GpuLimits { warp_groups: true, ..GpuLimits::of_capability(90) };
            ExplainedDevice::Gpu { capability: 90, limits }
        };
        if name == "sm_90a" {
            return Ok(with_warp_groups());
        }
        if let Some(number) = name.strip_prefix("sm_") {
            let capability = number.parse().ok().filter(|c| (75..=121).contains(c));
            let unknown = || {
                CliError::usage(format!("`{name}` is no architecture; they are sm_75 to sm_121 and sm_90a"))
            };
            return capability.map(of).ok_or_else(unknown);
        }
        Ok(match name.parse().map_err(CliError::usage)? {
            DeviceName::Cpu => ExplainedDevice::Cpu,
            DeviceName::Sim { warp_groups: true } => with_warp_groups(),
            DeviceName::Sim { warp_groups: false } | DeviceName::Cuda(_) => of(90),
        })
    }

    fn target(self) -> Target {
        match self {
            ExplainedDevice::Cpu => Target::Cpu,
            ExplainedDevice::Gpu { .. } => Target::Cuda,
        }
    }

    /// What its kernels are priced by. The program is the same for all GPUs.
    fn model(self) -> DeviceModel {
        match self {
            ExplainedDevice::Cpu => DeviceModel::cpu(),
            ExplainedDevice::Gpu { capability, .. } => DeviceModel::gpu(capability),
        }
    }
}

impl Report {
    fn new(found: &Explanation, device: &str, model: &DeviceModel, dims: &DimEnv) -> Report {
        let (before, after) = (cost_of(&found.before, model, dims), cost_of(&found.after, model, dims));
        let kernels = found.after.kernels();
        let (binding, running): (Vec<_>, Vec<_>) =
            kernels.iter().zip(&after.kernels).partition(|((k, _), _)| binds(k));
        let figures =
            |kernels: Vec<(_, &KernelUse)>| Figures::of_kernels(kernels.into_iter().map(|(_, c)| c));
        let (binding, after_figures) = (figures(binding), figures(running));
        let kernels = kernels.iter().zip(&after.kernels).zip(&found.kernels);
        Report {
            model: found.report.graph.clone(),
            device: device.to_owned(),
            dims: dims_text(dims),
            search_ms: found.report.search_milliseconds(),
            before: Figures::of_kernels(&before.kernels),
            after: after_figures,
            binding,
            kernels: kernels.map(|(((k, _), cost), why)| KernelReport::new(k, cost, why)).collect(),
            loops: Vec::new(),
            rounding: None,
        }
    }

    fn text(&self, proof: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} on {} at {}: {} kernels became {}, found in {:.1} ms\n",
            self.model, self.device, self.dims, self.before.kernels, self.after.kernels, self.search_ms
        );
        let row = |name: &str, value: &dyn Fn(&Figures) -> String| {
            vec![name.to_owned(), value(&self.before), value(&self.after)]
        };
        let rows = [
            vec![String::new(), "one per op".into(), "fused".into()],
            row("kernels", &|f| f.kernels.to_string()),
            row("launches a run", &|f| f.launches.to_string()),
            row("bytes moved", &|f| quantity(f.bytes, 1024.0, BYTES)),
            row("arithmetic", &|f| quantity(f.flops, 1000.0, FLOPS)),
            row("modelled time", &|f| format!("{:.3} ms", f.modelled_ms)),
        ];
        out.push_str(&table::render(&rows));
        if self.binding.kernels > 0 {
            let Figures { kernels, bytes, .. } = self.binding;
            let moved = quantity(bytes, 1024.0, BYTES);
            let _ = writeln!(out, "\nonce, when weights are bound: {kernels} kernels, {moved} moved");
        }
        for kernel in &self.kernels {
            kernel.write(&mut out, proof);
        }
        for l in &self.loops {
            l.write(&mut out);
        }
        if let Some(rounding) = &self.rounding {
            let _ = writeln!(out, "\n{rounding}");
        }
        out
    }
}

impl Figures {
    /// The sums over kernels.
    pub(super) fn of_kernels<'a>(kernels: impl IntoIterator<Item = &'a KernelUse>) -> Figures {
        kernels.into_iter().fold(Figures::default(), |sum, kernel| Figures {
            kernels: sum.kernels + 1,
            launches: sum.launches + kernel.launches,
            bytes: sum.bytes + kernel.bytes,
            flops: sum.flops + kernel.flops,
            modelled_ms: sum.modelled_ms + kernel.seconds * 1e3,
        })
    }
}

impl KernelReport {
    fn new(kernel: &Kernel, cost: &KernelUse, why: &KernelExplanation) -> KernelReport {
        let line = |step: &RuleApplication| {
            let RuleApplication { rule, before, after } = step.clone();
            ProofLine { rule, before, after }
        };
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        for step in &why.proof {
            let count = times.entry(&step.rule).or_default();
            if *count == 0 {
                order.push(&step.rule);
            }
            *count += 1;
        }
        let rules = order.iter().map(|rule| RuleUse { rule: (*rule).to_owned(), times: times[rule] });
        KernelReport {
            name: kernel.name.clone(),
            in_loop: cost.depth > 0,
            binds: binds(kernel),
            hoisted: why.hoisted,
            in_registers: why.in_registers,
            launches: cost.launches,
            bytes: cost.bytes,
            flops: cost.flops,
            modelled_ms: cost.seconds * 1e3,
            ops: kernel.ops.clone(),
            rules: rules.collect(),
            proof: why.proof.iter().map(line).collect(),
            stores: why.boundaries.iter().map(Stored::new).collect(),
            product: None,
        }
    }

    fn write(&self, out: &mut String, proof: bool) {
        let place = match (self.in_loop, self.hoisted) {
            (true, _) => "in the loop",
            (false, _) if self.binds => "once, when weights are bound",
            (false, true) => "out of the loop: all steps at once",
            (false, false) => "once",
        };
        let _ = writeln!(out, "\n{}  ({place}; launches: {})", self.name, self.launches);
        let mut line = |label: &str, text: &str| {
            let _ = writeln!(out, "  {label:<7} {text}");
        };
        line("fuses", &counted(&self.ops));
        line("keeps", &format!("{} values in registers", self.in_registers));
        for stored in &self.stores {
            line("stores", &format!("{}: {}", stored.buffer, stored.why));
        }
        if let Some(product) = self.product.as_ref().filter(|product| product.has_others()) {
            line("product", &product.text());
        }
        let rules: Vec<String> = self.rules.iter().map(|r| times(&r.rule, r.times)).collect();
        line("rules", &if rules.is_empty() { "none".to_owned() } else { rules.join(", ") });
        if proof {
            for step in &self.proof {
                let _ = writeln!(out, "    {}\n      {}\n    = {}", step.rule, step.before, step.after);
            }
        }
    }
}

impl Stored {
    fn new(boundary: &Boundary) -> Stored {
        let kind = match &boundary.reason {
            BoundaryReason::Output => "output",
            BoundaryReason::State => "state",
            BoundaryReason::Cheaper { .. } => "cheaper",
            BoundaryReason::Needed(_) => "needed",
        };
        Stored { buffer: boundary.buffer.clone(), why: boundary.reason.to_string(), kind }
    }
}

/// Names in the order of their first use, with how often each stands there.
fn counted(names: &[String]) -> String {
    let mut order: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match order.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => order.push((name, 1)),
        }
    }
    let texts: Vec<String> = order.iter().map(|(name, count)| times(name, *count)).collect();
    texts.join(", ")
}

fn times(name: &str, count: usize) -> String {
    if count == 1 { name.to_owned() } else { format!("{name} ×{count}") }
}

/// Whether a kernel copies a weight into another layout, which the runtime does when weights are bound.
pub(super) fn binds(kernel: &Kernel) -> bool {
    kernel.ops == ["pack"]
}

/// Units of memory, in steps of 1024.
pub(super) const BYTES: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB"];
/// Units of arithmetic, in steps of 1000.
pub(super) const FLOPS: &[&str] = &["flop", "kflop", "Mflop", "Gflop", "Tflop"];

/// A number with the unit that makes it short.
pub(super) fn quantity(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!(quantity(12.0, 1024.0, &["B", "KiB"]), "12 B");
        assert_eq!(quantity(1536.0, 1024.0, &["B", "KiB"]), "1.5 KiB");
        assert_eq!(quantity(5e9, 1024.0, &["B", "KiB"]), "4882812.5 KiB");
    }

    #[test]
    fn names_are_counted_in_order() {
        let names = ["mul", "add", "mul"].map(str::to_owned);
        assert_eq!(counted(&names), "mul ×2, add");
    }
}
