//! Why the kernels are what they are.
//!
//! For each kernel: the rules that lead from the graph's own terms to the chosen ones, as a proof, and why each
//! tensor it stores is in memory. A boundary that the cost model chose is defended by what the program would cost
//! without it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use egg::Id;
use fuse_ir::Graph;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{BufferKind, Kernel, KernelGraph, Store};
use fuse_ir::ops::ScalarOp;
use fuse_ir::types::ShapeText;

use crate::analysis::Terms;
use crate::error::RewriteError;
use crate::extract::dense::Class;
use crate::extract::roots::RootId;
use crate::extract::{Evaluator, Illegal, Region};
use crate::language::{Head, Term};
use crate::lower::Lowered;
use crate::optimize::{Found, Options, search};
use crate::provenance::{ProofStep, Proofs, Record};
use crate::report::Report;
use crate::scans::chunks;
use crate::unfused::unfused;

/// How a program came about.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The program with one kernel per operation.
    pub before: KernelGraph,
    /// The fused program.
    pub after: KernelGraph,
    /// The search in numbers.
    pub report: Report,
    /// One for each kernel of `after`, in the order of [`KernelGraph::kernels`].
    pub kernels: Vec<KernelExplanation>,
}

/// How a kernel came about.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct KernelExplanation {
    /// The kernel's name.
    pub name: String,
    /// Whether it computes, for all steps at once, what the graph computes in a loop.
    pub hoisted: bool,
    /// Values that it keeps in registers: one kernel per operation would store each.
    pub in_registers: usize,
    /// The rules that lead from the terms the graph was read as to those the kernel computes, in order.
    pub proof: Vec<RuleApplication>,
    /// What it stores.
    pub boundaries: Vec<Boundary>,
}

/// One step of a proof.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RuleApplication {
    /// The rule's name.
    pub rule: String,
    /// The term before, down to a few levels.
    pub before: String,
    /// The term after.
    pub after: String,
}

/// A tensor that a kernel stores.
#[derive(Clone, PartialEq, Debug)]
pub struct Boundary {
    /// The buffer's name.
    pub buffer: String,
    /// Why it is in memory.
    pub reason: BoundaryReason,
}

/// Why a tensor is in memory.
#[derive(Clone, PartialEq, Debug)]
pub enum BoundaryReason {
    /// It is an output of the graph.
    Output,
    /// It is a state that the next step reads.
    State,
    /// Computing it where it is used would cost more; seconds of a run by the cost model.
    Cheaper {
        /// As it is.
        with: f64,
        /// Without this boundary.
        without: f64,
    },
    /// It cannot be computed where it is used, for the reason given.
    Needed(String),
}

impl fmt::Display for BoundaryReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BoundaryReason::Output => write!(f, "an output of the model"),
            BoundaryReason::State => write!(f, "a state that the next step reads"),
            BoundaryReason::Cheaper { with, without } => {
                let percent = (without / with - 1.0) * 100.0;
                let text = if percent < 1000.0 {
                    format!("{percent:.1} % more time")
                } else {
                    format!("{:.0} times the time", without / with)
                };
                write!(f, "computing it where it is used would take {text} (modelled)")
            }
            BoundaryReason::Needed(why) => write!(f, "{why}"),
        }
    }
}

/// Optimizes a graph as [`optimize`](crate::optimize) does, and says why.
///
/// # Errors
/// As [`optimize`](crate::optimize).
pub fn explain(graph: &Graph, device: &DeviceModel, options: &Options) -> Result<Explanation, RewriteError> {
    let before = unfused(graph)?;
    let (optimized, kernels) = search(graph, device, options, Record::kept(), |found| {
        let terms = found.problem.dense.terms;
        let names = graph.inputs().iter().map(|i| i.name.as_str()).collect();
        let explainer = Explainer {
            found,
            proofs: Proofs::new(terms),
            members: members(terms),
            writer: Writer { terms, names },
        };
        explainer.kernels()
    })?;
    let (after, report) = (optimized.kernels, optimized.report);
    let kernels = after.kernels().iter().map(|(k, _)| of_kernel(k, &after, &kernels, &report)).collect();
    Ok(Explanation { before, after, report, kernels })
}

/// The explanation of a kernel, given those of the kernels that extraction chose: it may be one of them, take its
/// part in computing one in chunks of time, or copy a parameter.
fn of_kernel(
    kernel: &Kernel,
    after: &KernelGraph,
    chosen: &[KernelExplanation],
    report: &Report,
) -> KernelExplanation {
    let divided = report.divided.iter().find(|d| d.parts.contains(&kernel.name));
    let origin = divided.map_or(&kernel.name, |d| &d.kernel);
    let mut out = chosen.iter().find(|k| k.name == *origin).cloned().unwrap_or_default();
    out.name.clone_from(&kernel.name);
    if let Some(divided) = divided {
        let (before, after) = (divided.kernel.clone(), divided.parts.join(", "));
        out.proof.push(RuleApplication { rule: chunks::RULE.to_string(), before, after });
    }
    let why = match divided {
        Some(_) => "it leads from one chunk of time to the next",
        None => "it is a parameter in the layout that reductions read",
    };
    let reason = |buffer: &str| {
        let known = out.boundaries.iter().find(|b| b.buffer == buffer);
        known.map_or_else(|| BoundaryReason::Needed(why.to_string()), |b| b.reason.clone())
    };
    let boundary = |store: &Store| {
        let buffer = after.buffer(store.buffer).name.clone();
        Boundary { reason: reason(&buffer), buffer }
    };
    out.boundaries = kernel.stores.iter().map(boundary).collect();
    out
}

/// The terms of each class, as they were added, in that order.
fn members(terms: &Terms) -> HashMap<Id, Vec<Id>> {
    let mut out: HashMap<Id, Vec<Id>> = HashMap::new();
    for id in (0..terms.nodes().len()).map(Id::from) {
        out.entry(terms.find(id)).or_default().push(id);
    }
    out
}

struct Explainer<'a> {
    found: Found<'a>,
    proofs: Proofs<'a>,
    members: HashMap<Id, Vec<Id>>,
    writer: Writer<'a>,
}

impl Explainer<'_> {
    fn kernels(&self) -> Vec<KernelExplanation> {
        let Lowered { kernels, roots, .. } = self.found.lowered;
        let mut evaluator = Evaluator::new(self.found.problem);
        let explain = |(kernel, depth): (&Kernel, usize)| {
            let roots = &roots[&kernel.name];
            KernelExplanation {
                name: kernel.name.clone(),
                hoisted: depth == 0 && self.computed(roots).iter().any(|c| self.is_of_a_body(*c)),
                in_registers: self.in_registers(roots),
                proof: self.proof(roots),
                boundaries: self.boundaries(kernel, &mut evaluator),
            }
        };
        kernels.kernels().into_iter().map(explain).collect()
    }

    /// The classes that a kernel computes, each once.
    fn computed(&self, roots: &[RootId]) -> HashSet<Class> {
        let all = &self.found.plan.roots.roots;
        roots.iter().flat_map(|r| all[*r].walk.classes.iter().copied()).collect()
    }

    /// Whether a class was read from the body of a scan.
    fn is_of_a_body(&self, class: Class) -> bool {
        let first = usize::from(self.members[&self.found.problem.dense.ids[class as usize]][0]);
        self.writer.terms.analysis.tables.bodies.iter().any(|b| b.contains(&first))
    }

    fn in_registers(&self, roots: &[RootId]) -> usize {
        let mut computed = self.computed(roots);
        roots.iter().for_each(|r| _ = computed.remove(&self.found.plan.roots.roots[*r].class));
        computed.len()
    }

    /// The steps from the terms the graph was read as to the chosen ones, outermost first.
    fn proof(&self, roots: &[RootId]) -> Vec<RuleApplication> {
        let (dense, plan) = (self.found.problem.dense, self.found.plan);
        let mut known = HashSet::new();
        let mut steps = Vec::new();
        let start = |root: &RootId| {
            let class = plan.roots.roots[*root].class;
            (self.members[&dense.ids[class as usize]][0], class, true)
        };
        let mut pending: Vec<(Id, Class, bool)> = roots.iter().rev().map(start).collect();
        while let Some((from, class, root)) = pending.pop() {
            if !known.insert((from, class)) || (plan.memory.contains(class) && !root) {
                continue;
            }
            let chosen = self.chosen_term(class);
            steps.extend(self.proofs.explain(from, chosen));
            let operands = &self.writer.terms.id_to_node(chosen).children;
            let below = operands.iter().zip(&dense.chosen(class).children);
            pending.extend(below.rev().map(|(id, class)| (*id, *class, false)));
        }
        let mut said = HashSet::new();
        let apply = |step: &ProofStep| RuleApplication {
            rule: step.rule.map_or_else(|| "?".to_string(), |r| r.to_string()),
            before: self.writer.text(step.before, TEXT_DEPTH),
            after: self.writer.text(step.after, TEXT_DEPTH),
        };
        steps.iter().map(apply).filter(|step| said.insert(step.clone())).collect()
    }

    /// The first term of a class that is its chosen node.
    fn chosen_term(&self, class: Class) -> Id {
        let dense = self.found.problem.dense;
        let terms = self.writer.terms;
        let node = dense.chosen(class);
        let operands = || node.children.iter().map(|c| dense.ids[*c as usize]);
        let same = |id: &&Id| {
            let term = terms.id_to_node(**id);
            term.head == node.head && term.children.iter().map(|c| terms.find(*c)).eq(operands())
        };
        let members = &self.members[&dense.ids[class as usize]];
        *members.iter().find(same).unwrap_or(&members[0])
    }

    fn boundaries(&self, kernel: &Kernel, evaluator: &mut Evaluator<'_>) -> Vec<Boundary> {
        let mut out: Vec<Boundary> = Vec::new();
        for store in &kernel.stores {
            let buffer = self.found.lowered.kernels.buffer(store.buffer);
            let reason = match buffer.kind {
                BufferKind::Output(_) => BoundaryReason::Output,
                BufferKind::State => BoundaryReason::State,
                BufferKind::Input(_) | BufferKind::Temporary => {
                    match self.found.lowered.storage.get(&store.buffer) {
                        Some(class) => self.without(*class, evaluator),
                        None => BoundaryReason::Needed("what reads it has no other way".to_string()),
                    }
                }
            };
            out.push(Boundary { buffer: buffer.name.clone(), reason });
        }
        out
    }

    /// What would happen if a class were computed where it is used.
    fn without(&self, class: Class, evaluator: &mut Evaluator<'_>) -> BoundaryReason {
        let plan = self.found.plan;
        let mut memory = plan.memory.clone();
        memory.set(class, false);
        match evaluator.plan(&Region::default(), &memory) {
            Ok(other) => BoundaryReason::Cheaper { with: plan.seconds, without: other.seconds },
            Err(Illegal::Misplaced(why)) => BoundaryReason::Needed(format!("otherwise {}", why.0)),
            Err(Illegal::Needs(_)) => BoundaryReason::Needed(
                "it is read at another step of its loop, by a gather, or through indices too long to compute"
                    .into(),
            ),
        }
    }
}

/// How many levels of a term are written.
const TEXT_DEPTH: usize = 3;

/// Writes terms for people.
struct Writer<'a> {
    terms: &'a Terms,
    /// The names of the graph inputs.
    names: Vec<&'a str>,
}

impl Writer<'_> {
    /// A term down to some levels; what lies deeper is `…`.
    fn text(&self, id: Id, depth: usize) -> String {
        let term = self.terms.id_to_node(id);
        let tables = &self.terms.analysis.tables;
        if depth == 0 && !term.children.is_empty() {
            return "…".to_string();
        }
        let operand = |i: usize| self.text(term.children[i], depth - 1);
        match term.head {
            Head::Leaf(i) => self.names.get(i as usize).copied().unwrap_or("?").to_string(),
            Head::Constant(id) => tables.constant(id).value.to_string(),
            Head::Index(id) => tables.index(id).value.to_string(),
            Head::Scalar(op) => self.scalar(op, term, depth),
            Head::Cast(to) => format!("{to}({})", operand(0)),
            Head::Reindex(map) => format!("{}{}", operand(0), ShapeText(&tables.map(map).results)),
            Head::Reduce(op, axes) => format!("{}{{{axes}}}({})", op.mnemonic(), operand(0)),
            Head::Gather(_) => format!("gather({}, {})", operand(0), operand(1)),
            Head::Carry(scan, i) => tables.scan(scan).carries[i as usize].name.clone(),
            Head::ScanFinal(scan, i) => format!("last({})", tables.scan(scan).carries[i as usize].name),
            Head::Recurrence { .. } => {
                format!("recurrence({}, {}, {})", operand(0), operand(1), operand(2))
            }
            Head::RecurrenceFinal(_) => format!("last({})", operand(1)),
        }
    }

    fn scalar(&self, op: ScalarOp, term: &Term, depth: usize) -> String {
        let operands: Vec<String> = term.children.iter().map(|c| self.text(*c, depth - 1)).collect();
        let symbol = match op {
            ScalarOp::Add => Some("+"),
            ScalarOp::Sub => Some("-"),
            ScalarOp::Mul => Some("·"),
            ScalarOp::Div => Some("/"),
            _ => None,
        };
        match (symbol, &operands[..]) {
            (Some(symbol), [x, y]) => format!("({x} {symbol} {y})"),
            _ => format!("{}({})", op.mnemonic(), operands.join(", ")),
        }
    }
}
