//! Decisions on record: what was put in memory, under names that another run of the compiler understands.
//!
//! A class is known by its structure (the chosen term, down to the graph's inputs) and not by its position, so
//! that a record outlives changes of numbering. Saturation and the choice of nodes search nothing and need no
//! record; replaying takes one evaluation.
//!
//! ```text
//! decisions lstm
//! memory 52b0c4f0d5a2d38e tanh f32[T, B, 64]
//! memory 52b0c4f0d5a2d38e#1 tanh f32[T, B, 64]
//! ```
//!
//! What follows the name is for people. Equal structures (two scans over the same operands, say) are told apart
//! by their order.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use fuse_ir::types::ShapeText;
use rustc_hash::FxHashMap;

use super::dense::{Class, Dense};
use super::memory::Materialised;
use super::region::Region;
use super::{Evaluator, ExtractionStats, Extractor, Illegal, Plan, Problem};
use crate::language::Head;

/// What was decided about a graph.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decisions {
    /// The graph's name.
    pub graph: String,
    /// The classes in memory, in order.
    pub memory: Vec<Decision>,
}

/// A class that is in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The structure of the class, in few bits.
    pub structure: u64,
    /// Which of the classes with this structure.
    pub ordinal: usize,
    /// The class in words.
    pub text: String,
}

/// Why a text is no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct DecisionsError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "decisions {}", self.graph)?;
        for d in &self.memory {
            write!(f, "memory {:016x}", d.structure)?;
            if d.ordinal > 0 {
                write!(f, "#{}", d.ordinal)?;
            }
            writeln!(f, " {}", d.text)?;
        }
        Ok(())
    }
}

impl FromStr for Decisions {
    type Err = DecisionsError;

    fn from_str(text: &str) -> Result<Self, DecisionsError> {
        let mut lines = text.lines().enumerate();
        let fail = |line: usize, problem: &str| DecisionsError { line: line + 1, problem: problem.into() };
        let graph = match lines.next() {
            Some((_, line)) => {
                line.strip_prefix("decisions ").ok_or_else(|| fail(0, "no `decisions GRAPH`"))?
            }
            None => return Err(fail(0, "the record is empty")),
        };
        let mut out = Decisions { graph: graph.to_string(), memory: Vec::new() };
        for (i, line) in lines {
            let rest = line.strip_prefix("memory ").ok_or_else(|| fail(i, "no `memory CLASS`"))?;
            let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let (structure, ordinal) = name.split_once('#').unwrap_or((name, "0"));
            let structure = u64::from_str_radix(structure, 16).map_err(|e| fail(i, &e.to_string()))?;
            let ordinal = ordinal.parse().map_err(|_| fail(i, "no number after `#`"))?;
            out.memory.push(Decision { structure, ordinal, text: text.to_string() });
        }
        Ok(out)
    }
}

impl Decisions {
    /// The record of a plan.
    pub fn of(graph: &str, problem: &Problem<'_>, plan: &Plan) -> Self {
        let names = Names::new(problem.dense);
        let decision = |class: Class| {
            let (structure, ordinal) = names.of[class as usize];
            Decision { structure, ordinal, text: class_text(problem.dense, class) }
        };
        Decisions { graph: graph.to_string(), memory: plan.memory.iter().map(decision).collect() }
    }
}

fn class_text(dense: &Dense<'_>, class: Class) -> String {
    let data = dense.data[class as usize];
    let head = dense.tables.head_text(dense.chosen(class).head);
    format!("{head} {}{}", data.dtype, ShapeText(dense.tables.extents(data.space)))
}

/// The names of all classes.
struct Names {
    of: Vec<(u64, usize)>,
    classes: FxHashMap<(u64, usize), Class>,
}

impl Names {
    fn new(dense: &Dense<'_>) -> Self {
        let structures = structures(dense);
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        let mut names = Names { of: Vec::with_capacity(structures.len()), classes: FxHashMap::default() };
        for (class, structure) in structures.into_iter().enumerate() {
            let count = counts.entry(structure).or_default();
            names.of.push((structure, *count));
            names.classes.insert((structure, *count), class as Class);
            *count += 1;
        }
        names
    }
}

/// A hash of the structure of each class, the same on every machine.
fn structures(dense: &Dense<'_>) -> Vec<u64> {
    let mut known: Vec<Option<u64>> = vec![None; dense.nodes.len()];
    let below = |class: Class| {
        let node = dense.chosen(class);
        let mut below = node.children.clone();
        // A state is known by what it begins with; what it goes on with contains it.
        if let Head::Carry(scan, i) = node.head {
            below.push(dense.class(dense.tables.scan(scan).carries[i as usize].init));
        }
        below
    };
    // Being worked out: what contains itself is left out where it does.
    let mut open = vec![false; dense.nodes.len()];
    for class in 0..dense.nodes.len() as Class {
        let mut pending = vec![class];
        while let Some(class) = pending.pop() {
            if known[class as usize].is_some() {
                continue;
            }
            let operands = below(class);
            let missing: Vec<Class> = operands
                .iter()
                .copied()
                .filter(|c| known[*c as usize].is_none() && !open[*c as usize])
                .collect();
            if missing.is_empty() {
                let mut hash = Fnv::new(&class_name(dense, class));
                operands.iter().for_each(|c| hash.add(&known[*c as usize].unwrap_or(0).to_le_bytes()));
                known[class as usize] = Some(hash.0);
                open[class as usize] = false;
            } else {
                open[class as usize] = true;
                pending.push(class);
                pending.extend(missing);
            }
        }
    }
    known.into_iter().map(|k| k.unwrap_or(0)).collect()
}

/// A class by itself, without numbers that depend on the order in which the graph was read.
fn class_name(dense: &Dense<'_>, class: Class) -> String {
    match dense.chosen(class).head {
        Head::Carry(scan, i) | Head::ScanFinal(scan, i) => {
            let info = dense.tables.scan(scan);
            let data = dense.data[class as usize];
            let shape = ShapeText(dense.tables.extents(data.space));
            format!("state {i} {} over {} {shape}", info.carries[i as usize].name, info.trip)
        }
        Head::Leaf(_)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Scalar(_)
        | Head::Cast(_)
        | Head::Reindex(_)
        | Head::Reduce(..)
        | Head::Gather(_)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => class_text(dense, class),
    }
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new(text: &str) -> Self {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.add(text.as_bytes());
        hash
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Decides as a record says.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'d>(pub &'d Decisions);

impl Extractor for Replay<'_> {
    fn name(&self) -> &'static str {
        "replay"
    }

    fn extract(&self, problem: &Problem<'_>) -> Result<(Plan, ExtractionStats), String> {
        let names = Names::new(problem.dense);
        let mut memory = Materialised::none(problem.dense.nodes.len());
        for d in &self.0.memory {
            let class = names.classes.get(&(d.structure, d.ordinal));
            let class =
                class.ok_or_else(|| format!("the graph has no `{}` with the structure on record", d.text))?;
            memory.set(*class, true);
        }
        let plan = Evaluator::new(problem).plan(&Region::default(), &memory).map_err(|e| match e {
            Illegal::Needs(classes) => match classes.first() {
                Some(class) => format!("`{}` must be in memory too", class_text(problem.dense, *class)),
                None => "a class must be in memory too".into(),
            },
            Illegal::Misplaced(problem) => problem.0,
        })?;
        if plan.memory != memory {
            return Err("a class on record is read by nothing".into());
        }
        let materialised = plan.memory.iter().count();
        let stats =
            ExtractionStats { evaluated: 1, materialised, seconds: plan.seconds, ..Default::default() };
        Ok((plan, stats))
    }
}
