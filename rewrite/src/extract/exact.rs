//! Branch and bound over what is materialised.
//!
//! The cost of a kernel is no sum over its terms (a roofline has a maximum in it, joined kernels share their loads),
//! so no linear program states it; but a kernel's cost is known once every class that it meets is decided. A
//! decision is taken for a class that some kernel computes, in memory or not, from the outputs down; what no kernel
//! meets needs none. The bound: kernels of one space can at best become one, which then costs no less than any
//! of them would by itself, with the device as full as it can be.
//!
//! This is for measuring other extractors; it takes too long for anything else.

use std::collections::BTreeMap;

use super::dense::Class;
use super::greedy::Greedy;
use super::memory::Materialised;
use super::roots::{Root, RootKind, Roots};
use super::walk::covers_space;
use super::{Evaluator, ExtractionStats, Extractor, Plan, Problem, Region};
use crate::language::{Head, SpaceId};

/// The extractor.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// The most decisions it looks at; then it stops with the best so far, unproven.
    pub decisions: usize,
}

impl Extractor for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn extract(&self, problem: &Problem<'_>) -> Result<(Plan, ExtractionStats), String> {
        let (plan, mut stats) = Greedy::default().extract(problem)?;
        let n = problem.dense.nodes.len();
        let mut search = Search {
            problem,
            evaluator: Evaluator::new(problem),
            region: Region::default(),
            best: plan,
            memory: Materialised::none(n),
            decided: Materialised::none(n),
            left: self.decisions,
        };
        search.branch();
        stats.evaluated = self.decisions - search.left;
        stats.visited = search.evaluator.visited();
        stats.proven = search.left > 0;
        stats.materialised = search.best.memory.iter().count();
        stats.seconds = search.best.seconds;
        Ok((search.best, stats))
    }
}

struct Search<'a> {
    problem: &'a Problem<'a>,
    evaluator: Evaluator<'a>,
    /// The whole problem.
    region: Region,
    best: Plan,
    /// The classes that were decided to be in memory.
    memory: Materialised,
    /// The classes that were decided.
    decided: Materialised,
    left: usize,
}

impl Search<'_> {
    fn branch(&mut self) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let (roots, needs) = self.evaluator.collect_partly(&self.region, &self.memory);
        if self.bound(&roots) >= self.best.seconds * (1.0 - 1e-9) {
            return;
        }
        match roots.roots.iter().find_map(|r| self.undecided(r)) {
            Some(class) => {
                self.decided.set(class, true);
                self.branch();
                self.memory.set(class, true);
                self.branch();
                self.memory.set(class, false);
                self.decided.set(class, false);
            }
            None if !needs.is_empty() => {}
            None => {
                let limit = self.best.seconds * (1.0 - 1e-9);
                if let Some(plan) = self.evaluator.plan_below(&self.region, &self.memory, limit) {
                    self.best = plan;
                }
            }
        }
    }

    /// A class that a root's kernel computes and that is not decided.
    fn undecided(&self, root: &Root) -> Option<Class> {
        let dense = self.problem.dense;
        let open = |class: &&Class| {
            let head = dense.chosen(**class).head;
            let computes =
                matches!(head, Head::Scalar(_) | Head::Cast(_) | Head::Reduce(..) | Head::Gather(_));
            let own = root.kind == RootKind::Value && root.class == **class;
            let constant = dense.data[**class as usize].constant.is_some();
            computes && !own && !constant && !self.decided.contains(**class) && covers_space(dense, **class)
        };
        root.walk.classes.iter().find(open).copied()
    }

    /// No plan with these decisions is faster.
    fn bound(&self, roots: &Roots) -> f64 {
        let dense = self.problem.dense;
        let mut spaces: BTreeMap<SpaceId, f64> = BTreeMap::new();
        for root in roots.roots.iter().filter(|r| self.undecided(r).is_none()) {
            // Surely in a loop is what reads or makes a state.
            let next = match root.kind {
                RootKind::Next(scan, _) => Some(scan),
                RootKind::Init(..) | RootKind::Output(_) | RootKind::Value => None,
            };
            let scans = root.walk.carries.iter().map(|c| c.scan).chain(next);
            let mut time: Vec<usize> = scans.map(|s| dense.tables.scan(s).depth()).collect();
            time.sort_unstable();
            time.dedup();
            let space = dense.data[root.class as usize].space;
            let cost = self.evaluator.walker.cost(space, &root.walk, &[root.class], &time);
            let sizes = dense.tables.extents(space);
            let trips: f64 = time.iter().map(|d| super::cost::assumed(&sizes[*d])).product();
            let seconds = trips * cost.least_seconds(self.problem.device);
            let most = spaces.entry(space).or_default();
            *most = most.max(seconds);
        }
        spaces.values().sum()
    }
}
