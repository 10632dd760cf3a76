//! What rewriting did, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use fuse_ir::Graph;

pub use crate::extract::ExtractionStats;
pub use crate::scans::chunks::Divided;

/// How saturation went.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SaturationStats {
    /// Nodes before the first rule.
    pub nodes_before: usize,
    /// Nodes after the last.
    pub nodes: usize,
    /// Classes after the last.
    pub classes: usize,
    /// Rounds over all rules.
    pub iterations: usize,
    /// Why it stopped.
    pub stop: String,
    /// How often each rule changed something, by rule.
    pub applied: BTreeMap<String, usize>,
    /// How long it took, in milliseconds.
    pub milliseconds: f64,
}

/// What [`optimize`](crate::optimize) did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// The graph's name.
    pub graph: String,
    /// How saturation went; all zero with rewriting off.
    pub saturation: SaturationStats,
    /// The name of the extractor; empty with rewriting off.
    pub extractor: String,
    /// How extraction went; all zero with rewriting off.
    pub extraction: ExtractionStats,
    /// How long extraction took, in milliseconds.
    pub extraction_milliseconds: f64,
    /// How long it took to build the kernels, in milliseconds.
    pub lowering_milliseconds: f64,
    /// Kernels.
    pub kernels: usize,
    /// Kernels inside a loop.
    pub kernels_in_loops: usize,
    /// Launches of one run, as an expression of the dimensions.
    pub launches: String,
    /// The kernels whose recurrences run in chunks of time.
    pub divided: Vec<Divided>,
    /// Copies of parameters, which are kernels too but made once, when the parameters are bound; not counted above.
    pub packed: usize,
}

impl Report {
    /// Nothing done yet.
    pub fn of(graph: &Graph) -> Self {
        Report { graph: graph.name().to_string(), ..Report::default() }
    }

    /// How long the search took, in milliseconds: saturation, extraction and lowering.
    pub fn search_milliseconds(&self) -> f64 {
        self.saturation.milliseconds + self.extraction_milliseconds + self.lowering_milliseconds
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.saturation;
        writeln!(f, "rewriting {}", self.graph)?;
        if !self.extractor.is_empty() {
            writeln!(
                f,
                "  saturation: {} → {} nodes, {} classes, {} iterations ({}), {:.2} ms",
                s.nodes_before, s.nodes, s.classes, s.iterations, s.stop, s.milliseconds
            )?;
            for (rule, count) in &s.applied {
                writeln!(f, "    {rule}: {count}")?;
            }
            let e = &self.extraction;
            writeln!(
                f,
                "  extraction ({}): {} of {} candidates materialised, {} decisions, {:.2} ms",
                self.extractor, e.materialised, e.candidates, e.evaluated, self.extraction_milliseconds
            )?;
        }
        for Divided { kernel, parts } in &self.divided {
            writeln!(f, "  in chunks of time: {kernel}, as {}", parts.join(", "))?;
        }
        writeln!(
            f,
            "  kernels: {}, of these {} in loops; launches: {}",
            self.kernels, self.kernels_in_loops, self.launches
        )
    }
}
