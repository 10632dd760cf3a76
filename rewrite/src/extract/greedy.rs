//! Local search over what is materialised.
//!
//! From a few starting points (nothing but what must be; everything that a loop could read instead of
//! recompute; every reduction too), single classes and groups of like classes are toggled as long as the exact
//! cost of the kernels falls. Every order is fixed, so equal graphs give equal plans.

use std::collections::BTreeMap;

use super::cost::scalar_work;
use super::dense::{Class, Dense};
use super::placement::Root;
use super::walk::{Materialised, covers_space};
use super::{Evaluator, ExtractionStats, Extractor, Illegal, Plan, Problem};
use crate::language::{Head, SpaceId};

/// The extractor.
#[derive(Clone, Copy, Debug)]
pub struct Greedy {
    /// How often the list of candidates is gone through at most.
    pub passes: usize,
    /// The most decisions that are evaluated; the search stops with the best so far.
    pub evaluations: usize,
}

impl Default for Greedy {
    fn default() -> Self {
        Greedy { passes: 6, evaluations: 4000 }
    }
}

impl Extractor for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn extract(&self, problem: &Problem<'_>) -> Result<(Plan, ExtractionStats), String> {
        let candidates = Candidates::new(problem.dense, &problem.outputs);
        let mut search = Search { evaluator: Evaluator::new(problem), limit: self.evaluations };
        let mut best: Option<Plan> = None;
        let mut problem_text = String::new();
        for (i, start) in starts(problem, &candidates).into_iter().enumerate() {
            if i == LAST_RESORT && best.is_some() {
                break;
            }
            match search.legal(start) {
                Ok(plan) => {
                    let plan = search.descend(plan, &candidates, self.passes);
                    if best.as_ref().is_none_or(|b| plan.seconds < b.seconds * (1.0 - 1e-9)) {
                        best = Some(plan);
                    }
                }
                Err(text) => problem_text = text,
            }
        }
        let plan = best.ok_or(problem_text)?;
        let stats = ExtractionStats {
            evaluated: search.evaluator.evaluated,
            candidates: candidates.all.len(),
            materialised: plan.memory.iter().count(),
            seconds: plan.seconds,
        };
        Ok((plan, stats))
    }
}

/// The classes whose materialisation is worth a thought.
struct Candidates {
    /// All of them, ascending.
    all: Vec<Class>,
    /// Those that do not depend on a state that a user of theirs depends on, and reduce something.
    hoistable: Vec<Class>,
    /// Reductions.
    reductions: Vec<Class>,
    /// Candidates with one head and space, where there are several.
    groups: Vec<Vec<Class>>,
}

impl Candidates {
    fn new(dense: &Dense<'_>, outputs: &[Class]) -> Self {
        let reached = dense.used(outputs);
        let n = dense.nodes.len();
        let (mut uses, mut boundary, mut summed) = (vec![0usize; n], vec![false; n], vec![false; n]);
        for class in (0..n).filter(|c| reached[*c]) {
            let node = dense.chosen(class as Class);
            for child in &node.children {
                let c = *child as usize;
                uses[c] += 1;
                boundary[c] |= !dense.inside[class].is_subset(&dense.inside[c]);
                // What a view repeats or a reduction reads is evaluated more often than it has values.
                let repeats = matches!(node.head, Head::Reindex(_) | Head::Reduce(..));
                summed[c] |= repeats;
            }
        }
        let mut out = Candidates { all: vec![], hoistable: vec![], reductions: vec![], groups: vec![] };
        let mut groups: BTreeMap<(SpaceId, Head), Vec<Class>> = BTreeMap::new();
        for class in (0..n).filter(|c| reached[*c]) {
            let id = class as Class;
            let head = dense.chosen(id).head;
            let computes = matches!(head, Head::Scalar(_) | Head::Cast(_) | Head::Reduce(..) | Head::Gather(_));
            if !computes || !covers_space(dense, id) || dense.data[class].constant.is_some() {
                continue;
            }
            let reduces = matches!(head, Head::Reduce(..));
            let transcendental = match head {
                Head::Scalar(op) => scalar_work(op).transcendentals > 0.0,
                Head::Leaf(_)
                | Head::Constant(_)
                | Head::Index(_)
                | Head::Cast(_)
                | Head::Reindex(_)
                | Head::Reduce(..)
                | Head::Gather(_)
                | Head::Carry(..)
                | Head::ScanFinal(..) => false,
            };
            if !(reduces || transcendental || boundary[class] || summed[class] || uses[class] > 1) {
                continue;
            }
            out.all.push(id);
            if boundary[class] && dense.data[class].heavy {
                out.hoistable.push(id);
            }
            if reduces {
                out.reductions.push(id);
            }
            groups.entry((dense.data[class].space, head)).or_default().push(id);
        }
        out.groups = groups.into_values().filter(|g| g.len() > 1).collect();
        out
    }
}

/// The position of the start that is tried only if no other leads anywhere.
const LAST_RESORT: usize = 4;

fn starts(problem: &Problem<'_>, candidates: &Candidates) -> Vec<Materialised> {
    let mut least = Materialised::none(problem.dense.nodes.len());
    for class in &problem.stacked {
        least.set(*class, !problem.dense.inside[*class as usize].is_empty());
    }
    let with = |base: &Materialised, classes: &[Class]| {
        let mut more = base.clone();
        classes.iter().for_each(|c| more.set(*c, true));
        more
    };
    let hoisted = with(&least, &candidates.hoistable);
    let reduced = with(&hoisted, &candidates.reductions);
    let everything = with(&reduced, &candidates.all);
    // Where rules joined values of different loops, cutting everywhere separates them again.
    let loops = problem.dense.used(&problem.outputs);
    let in_loops = (0..loops.len()).filter(|c| loops[*c] && !problem.dense.inside[*c].is_empty());
    let separated = with(&everything, &in_loops.map(|c| c as Class).collect::<Vec<_>>());
    vec![hoisted, reduced, everything, least, separated]
}

struct Search<'a> {
    evaluator: Evaluator<'a>,
    limit: usize,
}

impl Search<'_> {
    /// The plan of a decision, with the classes added that turn out to be needed in memory.
    fn legal(&mut self, mut memory: Materialised) -> Result<Plan, String> {
        loop {
            match self.evaluator.plan(&memory) {
                Ok(plan) => return Ok(plan),
                Err(Illegal::Misplaced(problem)) => return Err(problem.0),
                Err(Illegal::Needs(classes)) => {
                    let fresh: Vec<Class> = classes.into_iter().filter(|c| !memory.contains(*c)).collect();
                    if fresh.is_empty() {
                        return Err("a class in memory is needed in memory".into());
                    }
                    fresh.iter().for_each(|c| memory.set(*c, true));
                }
            }
        }
    }

    fn descend(&mut self, mut best: Plan, candidates: &Candidates, passes: usize) -> Plan {
        for _ in 0..passes {
            let before = best.seconds;
            for class in &candidates.all {
                let toggled = !best.memory.contains(*class);
                self.try_move(&mut best, &[*class], toggled);
            }
            for group in &candidates.groups {
                self.try_move(&mut best, group, true);
                self.try_move(&mut best, group, false);
            }
            for class in &candidates.all {
                self.try_instead(&mut best, *class, candidates);
            }
            for class in best.memory.iter().collect::<Vec<_>>() {
                self.try_above(&mut best, class, candidates);
            }
            if best.seconds >= before || self.evaluator.evaluated >= self.limit {
                break;
            }
        }
        best
    }

    /// Materialises a class instead of everything that is computed from it directly or through other classes
    /// in place: one projection instead of its products with several factors.
    fn try_instead(&mut self, best: &mut Plan, class: Class, candidates: &Candidates) {
        if best.memory.contains(class) {
            return;
        }
        let users = best.roots.roots.iter().filter(|r| r.walk.classes.contains(&class)).map(|r| r.class);
        let users: Vec<Class> = users.filter(|c| candidates.all.binary_search(c).is_ok()).collect();
        if users.is_empty() || self.evaluator.evaluated >= self.limit {
            return;
        }
        let mut memory = best.memory.clone();
        users.iter().for_each(|c| memory.set(*c, false));
        memory.set(class, true);
        if let Ok(plan) = self.evaluator.plan(&memory)
            && plan.seconds < best.seconds * (1.0 - 1e-9)
        {
            *best = plan;
        }
    }

    /// Materialises a class that a reader of `class` computes instead of `class`: one of four gates that the next
    /// kernel needs, instead of all four before their activation.
    fn try_above(&mut self, best: &mut Plan, class: Class, candidates: &Candidates) {
        if !best.memory.contains(class) || candidates.all.binary_search(&class).is_err() {
            return;
        }
        let reads = |r: &&Root| r.walk.reads.iter().any(|read| read.class == class);
        let readers = best.roots.roots.iter().filter(reads);
        let mut above: Vec<Class> = readers.flat_map(|r| r.walk.classes.iter().copied()).collect();
        above.sort_unstable();
        above.dedup();
        above.retain(|c| candidates.all.binary_search(c).is_ok() && !best.memory.contains(*c));
        for replacement in above {
            if self.evaluator.evaluated >= self.limit || !best.memory.contains(class) {
                return;
            }
            let mut memory = best.memory.clone();
            memory.set(class, false);
            memory.set(replacement, true);
            if let Ok(plan) = self.evaluator.plan(&memory)
                && plan.seconds < best.seconds * (1.0 - 1e-9)
            {
                *best = plan;
            }
        }
    }

    fn try_move(&mut self, best: &mut Plan, classes: &[Class], value: bool) {
        if classes.iter().all(|c| best.memory.contains(*c) == value) || self.evaluator.evaluated >= self.limit {
            return;
        }
        let mut memory = best.memory.clone();
        classes.iter().for_each(|c| memory.set(*c, value));
        if let Ok(plan) = self.evaluator.plan(&memory)
            && plan.seconds < best.seconds * (1.0 - 1e-9)
        {
            *best = plan;
        }
    }
}
