//! The stages of rewriting, in order.

use std::fmt::Write;
use std::time::{Duration, Instant};

use egg::{Id, Runner};
use fuse_ir::Graph;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::KernelGraph;
use fuse_ir::types::ShapeText;

use crate::error::RewriteError;
use crate::extract::decisions::{Decisions, Replay};
use crate::extract::dense::{Dense, States, has_recurrences};
#[cfg(feature = "exact")]
use crate::extract::exact::Exact;
use crate::extract::greedy::Greedy;
use crate::extract::{Evaluator, ExtractionStats, Extractor, Plan, Problem};
use crate::ingest::{Ingested, ingest};
use crate::interleave::interleave;
use crate::lower::{Lowered, lower};
use crate::pack::pack_parameters;
use crate::provenance::{Record, under};
use crate::push::{Pusher, look_through_table_views};
use crate::report::{Report, SaturationStats};
use crate::rules::{Limits, chains, rewrites, rule_name};
use crate::scans::chunks::{ChunkPolicy, divide_recurrences};
use crate::scans::demand::compute_what_is_read;
use crate::scans::linear;
use crate::scans::recent::keep_recent_steps;
use crate::scans::siblings::merge_siblings;
use crate::scans::{accumulation, last_step, states};
use crate::unfused::unfused;

/// Whether to fuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Rewrite and fuse.
    #[default]
    On,
    /// One kernel per operation: the baseline that fusion is measured against.
    Off,
}

/// How to rewrite.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Whether to fuse.
    pub mode: Mode,
    /// Whether rules may change results beyond the op table's tolerances.
    pub fast_math: bool,
    /// The most e-nodes; beyond, saturation stops with what it has.
    pub node_limit: usize,
    /// The most rounds over the rules.
    pub iteration_limit: usize,
    /// The most time for saturation; a guard, far above what models need, since stopping by time makes the
    /// result depend on the machine.
    pub time_limit: Duration,
    /// When recurrences run in chunks of time.
    pub chunks: ChunkPolicy,
    /// The order in which the search tries things: the same seed, the same program.
    pub seed: u64,
    /// Whether to put the decisions on record.
    pub record: bool,
    /// Decisions to take instead of searching; they must be of this graph.
    pub replay: Option<Decisions>,
    /// The most decisions that the exact extractor may look at; 0 for the usual one.
    #[cfg(feature = "exact")]
    pub exact_decisions: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mode: Mode::On,
            fast_math: false,
            node_limit: 50_000,
            iteration_limit: 12,
            time_limit: Duration::from_secs(5),
            chunks: ChunkPolicy::ByCost,
            seed: 0,
            record: false,
            replay: None,
            #[cfg(feature = "exact")]
            exact_decisions: 0,
        }
    }
}

/// Fused kernels, and how they came about.
#[derive(Clone, Debug)]
pub struct Optimized {
    /// The kernels.
    pub kernels: KernelGraph,
    /// What happened.
    pub report: Report,
    /// What was decided, if that was to be recorded.
    pub decisions: Option<Decisions>,
}

/// Turns a graph into kernels. The same graph, device and options give the same kernels.
///
/// # Errors
/// [`RewriteError::Rank`] where a term needs too many axes; [`RewriteError::Replay`] where decisions on record are
/// not of this graph.
pub fn optimize(graph: &Graph, device: &DeviceModel, options: &Options) -> Result<Optimized, RewriteError> {
    match options.mode {
        Mode::Off => Ok(finish(unfused(graph)?, Report::of(graph))),
        Mode::On => Ok(search(graph, device, options, Record::default(), |_| ())?.0),
    }
}

/// What a search found, before it is forgotten.
pub struct Found<'a> {
    /// What was searched.
    pub problem: &'a Problem<'a>,
    /// The decision.
    pub plan: &'a Plan,
    /// Its kernels.
    pub lowered: &'a Lowered,
}

/// Saturates, extracts and lowers; `look` sees what was found.
///
/// # Errors
/// As [`optimize`].
pub fn search<R>(
    graph: &Graph,
    device: &DeviceModel,
    options: &Options,
    record: Record,
    look: impl FnOnce(Found<'_>) -> R,
) -> Result<(Optimized, R), RewriteError> {
    let mut report = Report::of(graph);
    let (ingested, saturation) = saturate(graph, options, record)?;
    report.saturation = saturation;
    let (mut kernels, decisions, seen) = extract(graph, &ingested, (device, options), &mut report, look)?;
    report.divided = divide_recurrences(&mut kernels, device, options.chunks);
    let mut optimized = Optimized { decisions, ..finish(kernels, report) };
    if device.reduces_contiguously {
        optimized.report.packed = pack_parameters(graph, &mut optimized.kernels);
    } else {
        interleave(graph, &mut optimized.kernels);
    }
    Ok((optimized, seen))
}

fn finish(kernels: KernelGraph, mut report: Report) -> Optimized {
    let all = kernels.kernels();
    report.kernels = all.len();
    report.kernels_in_loops = all.iter().filter(|(_, depth)| *depth > 0).count();
    report.launches = kernels.launches().to_string();
    let (saturation, extraction) = (report.saturation.milliseconds, report.extraction_milliseconds);
    let evaluated = report.extraction.evaluated;
    tracing::debug!(
        graph = report.graph,
        kernels = report.kernels,
        saturation,
        extraction,
        evaluated,
        "rewritten"
    );
    Optimized { kernels, report, decisions: None }
}

/// The saturated e-graph of a graph, for people to read: one line a class, then one a node.
///
/// # Errors
/// As [`optimize`].
pub fn dump_egraph(graph: &Graph, options: &Options) -> Result<String, RewriteError> {
    let (ingested, stats) = saturate(graph, options, Record::default())?;
    let terms = &ingested.terms;
    let mut out = String::new();
    let _ = writeln!(out, "egraph {} {{ // {} nodes, {} classes", graph.name(), stats.nodes, stats.classes);
    let mut ids: Vec<Id> = terms.classes().map(|c| c.id).collect();
    ids.sort_unstable();
    for id in ids {
        let data = &terms[id].data;
        let extents = terms.analysis.tables.extents(data.space);
        let _ = write!(out, "  c{id}: {}{}", data.dtype, ShapeText(extents));
        if !data.inside.is_empty() {
            let scans: Vec<String> = data.inside.iter().map(|s| s.0.to_string()).collect();
            let _ = write!(out, " in loop of scan {}", scans.join(", "));
        }
        let _ = writeln!(out);
        let mut nodes: Vec<_> = terms[id].nodes.iter().collect();
        nodes.sort();
        for node in nodes {
            let children: Vec<String> =
                node.children.iter().map(|c| format!("c{}", terms.find(*c))).collect();
            let head = terms.analysis.tables.head_text(node.head);
            let _ = writeln!(out, "    {head} ({})", children.join(", "));
        }
    }
    for (i, scan) in terms.analysis.tables.scans.iter().enumerate() {
        let _ = writeln!(out, "  scan {i} < {}", scan.trip);
        for carry in &scan.carries {
            let (init, next) = (terms.find(carry.init), terms.find(carry.next));
            let _ = writeln!(out, "    carry {}: c{init}, then c{next}", carry.name);
        }
    }
    for (output, id) in graph.outputs().iter().zip(&ingested.outputs) {
        let _ = writeln!(out, "  output {} = c{}", output.name, terms.find(*id));
    }
    let _ = writeln!(out, "}}");
    Ok(out)
}

/// Ingests a graph and applies all rules.
pub fn saturate(
    graph: &Graph,
    options: &Options,
    record: Record,
) -> Result<(Ingested, SaturationStats), RewriteError> {
    // egg times its rounds by a clock that takes milliseconds to calibrate when it is asked first. Nothing needs these
    // times.
    let (still, _) = quanta::Clock::mock();
    quanta::with_clock(&still, || saturated(graph, options, record))
}

fn saturated(
    graph: &Graph,
    options: &Options,
    record: Record,
) -> Result<(Ingested, SaturationStats), RewriteError> {
    let start = Instant::now();
    let mut ingested = ingest(graph)?;
    ingested.terms.analysis.record = record;
    let mut stats = SaturationStats { nodes_before: ingested.terms.total_size(), ..Default::default() };
    let limits = Limits { nodes: options.node_limit, deadline: start + options.time_limit };
    ingested.terms.analysis.limits = Some(limits);
    let rules = rewrites(options.fast_math)
        .map_err(|problem| RewriteError::Infeasible { graph: graph.name().to_string(), problem })?;
    let mut pusher = Pusher::new(&ingested.stacked);
    let mut terms = ingested.terms;
    under(&mut terms, accumulation::NAME, |terms| {
        accumulation::sum_after_the_loop(terms, &ingested.outputs, &ingested.stacked);
    });
    // Pushing and algebra feed each other; two rounds of both settle what models contain.
    for round in 0..2 {
        under(&mut terms, states::UNCHANGED, states::drop_unchanged);
        under(&mut terms, last_step::NAME, |terms| last_step::read_final_states(terms, &ingested.outputs));
        look_through_table_views(&mut terms);
        under(&mut terms, "push-view", |terms| pusher.run(terms, options.node_limit));
        // Views of views are known by now.
        under(&mut terms, last_step::NAME, |terms| last_step::read_final_states(terms, &ingested.outputs));
        under(&mut terms, states::UNCHANGED, states::drop_unchanged);
        under(&mut terms, states::DUPLICATE, states::merge_duplicates);
        for (rule, count) in chains::normalise(&mut terms) {
            *stats.applied.entry(rule.to_string()).or_default() += count;
        }
        let deadline = limits.deadline;
        let in_time =
            move || (Instant::now() < deadline).then_some(()).ok_or_else(|| "time limit".to_string());
        let runner = Runner::<_, _, ()>::new(Default::default())
            .with_egraph(terms)
            .with_node_limit(options.node_limit)
            .with_iter_limit(options.iteration_limit)
            .with_hook(move |_| in_time())
            .run(rules);
        stats.iterations += runner.iterations.len();
        let mut changed = false;
        for iteration in &runner.iterations {
            for (rule, count) in &iteration.applied {
                changed |= *count > 0;
                *stats.applied.entry(rule_name(rule.as_str()).to_string()).or_default() += count;
            }
        }
        stats.stop = runner.stop_reason.map_or_else(String::new, |r| format!("{r:?}"));
        terms = runner.egraph;
        // Afterwards more may be pushed and simplified: the states lie outside the loop.
        let recurrences = under(&mut terms, linear::RULE, linear::recognise_recurrences);
        if recurrences > 0 {
            changed = true;
            *stats.applied.entry(linear::RULE.to_string()).or_default() += recurrences;
        }
        if !changed || round == 1 {
            break;
        }
    }
    under(&mut terms, states::UNCHANGED, states::drop_unchanged);
    under(&mut terms, states::DUPLICATE, states::merge_duplicates);
    stats.nodes = terms.total_size();
    stats.classes = terms.number_of_classes();
    stats.milliseconds = milliseconds(start);
    ingested.terms = terms;
    Ok((ingested, stats))
}

fn extract<R>(
    graph: &Graph,
    ingested: &Ingested,
    (device, options): (&DeviceModel, &Options),
    report: &mut Report,
    look: impl FnOnce(Found<'_>) -> R,
) -> Result<(KernelGraph, Option<Decisions>, R), RewriteError> {
    let start = Instant::now();
    // States with a linear recurrence go through a loop or not: what is in the loop differs, and with it
    // everything else, so each way is a search of its own.
    let with = |states| Dense::new(&ingested.terms, &ingested.outputs, states);
    let mut ways = vec![with(States::Loops)];
    if has_recurrences(&ingested.terms) {
        ways.push(with(States::Recurrences));
    }
    let problems: Vec<Problem<'_>> = ways.iter().map(|dense| problem_of(ingested, dense, device)).collect();
    let mut best: Option<(&Problem<'_>, Decided)> = None;
    let mut reason = None;
    for problem in &problems {
        match decide(graph, problem, options) {
            Ok(decided) => {
                if best.as_ref().is_none_or(|(_, b)| decided.plan.seconds < b.plan.seconds) {
                    best = Some((problem, decided));
                }
            }
            Err(error) => reason = Some(error),
        }
    }
    let Some((problem, Decided { extractor, plan, stats, decisions })) = best else {
        let none = || RewriteError::Infeasible { graph: graph.name().to_string(), problem: "nothing".into() };
        return Err(reason.unwrap_or_else(none));
    };
    let dense = problem.dense;
    report.extractor = extractor.to_string();
    report.extraction = stats;
    report.extraction_milliseconds = milliseconds(start);
    let start = Instant::now();
    let mut lowered = lower(graph, dense, &plan);
    compute_what_is_read(&mut lowered.kernels);
    report.extraction.seconds -= lowered.run_as_wavefronts(device);
    keep_recent_steps(&mut lowered.kernels);
    report.lowering_milliseconds = milliseconds(start);
    let seen = look(Found { problem, plan: &plan, lowered: &lowered });
    Ok((lowered.kernels, decisions, seen))
}

fn problem_of<'a>(ingested: &Ingested, dense: &'a Dense<'a>, device: &'a DeviceModel) -> Problem<'a> {
    let mut stacked: Vec<_> = ingested.stacked.iter().filter_map(|id| dense.known(*id)).collect();
    stacked.sort_unstable();
    stacked.dedup();
    let outputs = ingested.outputs.iter().map(|id| dense.class(*id)).collect();
    Problem { outputs, dense, stacked, device }
}

/// What was decided for one way of computing states.
struct Decided {
    extractor: &'static str,
    plan: Plan,
    stats: ExtractionStats,
    decisions: Option<Decisions>,
}

fn decide(graph: &Graph, problem: &Problem<'_>, options: &Options) -> Result<Decided, RewriteError> {
    let infeasible = |problem| RewriteError::Infeasible { graph: graph.name().to_string(), problem };
    if let Some(class) = problem.dense.unfounded(&problem.outputs) {
        return Err(infeasible(format!("class {class} is computed from itself")));
    }
    let (extractor, (plan, mut stats)) = match &options.replay {
        Some(decisions) => {
            let fit = |problem| RewriteError::Replay { graph: graph.name().to_string(), problem };
            let replay = Replay(decisions);
            (replay.name(), replay.extract(problem).map_err(fit)?)
        }
        #[cfg(feature = "exact")]
        None if options.exact_decisions > 0 => {
            let exact = Exact { decisions: options.exact_decisions };
            (exact.name(), exact.extract(problem).map_err(infeasible)?)
        }
        None => {
            let greedy = Greedy { seed: options.seed, ..Greedy::default() };
            (greedy.name(), greedy.extract(problem).map_err(infeasible)?)
        }
    };
    let decisions = options.record.then(|| Decisions::of(graph.name(), problem, &plan));
    let plan = merge_siblings(&mut Evaluator::new(problem), plan);
    stats.seconds = plan.seconds;
    Ok(Decided { extractor, plan, stats, decisions })
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
