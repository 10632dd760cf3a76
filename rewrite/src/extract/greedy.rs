//! Local search over what is materialised.
//!
//! From a few starting points (nothing but what must be; everything that a loop could read instead of
//! recompute; every reduction too), single classes and groups of like classes are toggled as long as the exact
//! cost of the kernels falls. Every order is fixed, so equal graphs give equal plans.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::canonical::{Canonical, Token};
use super::cost::scalar_work;
use super::dense::Class;
use super::memory::Materialised;
use super::roots::Root;
use super::walk::covers_space;
use super::{Evaluator, ExtractionStats, Extractor, Illegal, Plan, Problem, Region};
use crate::language::{Head, ScanId, SpaceId};

/// The extractor.
#[derive(Clone, Copy, Debug)]
pub struct Greedy {
    /// How often the list of candidates is gone through at most.
    pub passes: usize,
    /// The work of evaluating decisions, in visited points; then the search of a region stops with the best so
    /// far. A count and not a time, so that results do not depend on the machine.
    pub work: usize,
    /// The order in which candidates are tried: 0 for that of the graph, others for shuffled ones.
    pub seed: u64,
}

impl Default for Greedy {
    fn default() -> Self {
        Greedy { passes: 6, work: 1_000_000, seed: 0 }
    }
}

impl Extractor for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn extract(&self, problem: &Problem<'_>) -> Result<(Plan, ExtractionStats), String> {
        let owners = owners(problem);
        let loops: BTreeSet<ScanId> = owners.values().copied().collect();
        let mut run = Run {
            greedy: self,
            problem,
            evaluator: Evaluator::new(problem),
            known: FxHashMap::default(),
            stats: ExtractionStats::default(),
        };
        let whole = Region::default();
        let mut plan = None;
        if loops.len() > 1 {
            // Where a region cannot be decided by itself, all are decided together.
            let memory = run.by_loop(Rc::new(owners), &loops).ok();
            plan = memory.and_then(|m| legal(&mut run.evaluator, &whole, m).ok());
        }
        let plan = match plan {
            Some(plan) => plan,
            None => run.decide(&whole)?,
        };
        let mut stats = run.stats;
        stats.materialised = plan.memory.iter().count();
        stats.seconds = plan.seconds;
        Ok((plan, stats))
    }
}

/// The outermost loop that makes each stacked result, of those the outputs need.
fn owners(problem: &Problem<'_>) -> FxHashMap<Class, ScanId> {
    let dense = problem.dense;
    let used = dense.used(&problem.outputs);
    let owner = |class: &Class| {
        let inside = dense.inside[*class as usize].iter();
        inside.filter(|s| dense.tables.scan(*s).depth() == 0).max().map(|s| (*class, s))
    };
    problem.stacked.iter().filter(|c| used[**c as usize]).filter_map(owner).collect()
}

/// One extraction.
struct Run<'a> {
    greedy: &'a Greedy,
    problem: &'a Problem<'a>,
    evaluator: Evaluator<'a>,
    /// The classes in memory, by number, of regions that were searched: equal regions are decided alike.
    known: FxHashMap<Vec<Token>, Vec<usize>>,
    stats: ExtractionStats,
}

impl Run<'_> {
    /// Decides each outermost loop by itself, the last first: by then it is known what the loops after it read.
    /// Loops exchange nothing but stacked results and final states, so little is lost, and the time is linear in
    /// the number of loops.
    fn by_loop(
        &mut self,
        owners: Rc<FxHashMap<Class, ScanId>>,
        loops: &BTreeSet<ScanId>,
    ) -> Result<Materialised, String> {
        let problem = self.problem;
        let mut memory = Materialised::none(problem.dense.nodes.len());
        let mut asked: BTreeMap<ScanId, (BTreeSet<Class>, BTreeSet<u32>)> = BTreeMap::new();
        let mut pending: BTreeSet<ScanId> = loops.clone();
        let mut scan = None;
        loop {
            let (values, finals) = scan.and_then(|s| asked.remove(&s)).unwrap_or_default();
            let region = Region {
                scan,
                values: values.into_iter().collect(),
                finals: finals.into_iter().collect(),
                owners: owners.clone(),
                part: None,
            };
            if scan.is_none() || !region.values.is_empty() || !region.finals.is_empty() {
                let plan = self.decide(&region)?;
                plan.memory.iter().for_each(|c| memory.set(c, true));
                let reads = plan.roots.roots.iter().flat_map(|r| r.walk.reads.iter().map(|read| read.class));
                for class in plan.roots.outputs().iter().map(|o| o.class).chain(reads) {
                    if region.is_foreign(class)
                        && let Some(owner) = owners.get(&class)
                    {
                        asked.entry(*owner).or_default().0.insert(class);
                        memory.set(class, true);
                    }
                }
                for state in plan.roots.roots.iter().flat_map(|r| &r.walk.finals) {
                    if region.is_foreign_scan(problem.dense, state.scan) {
                        asked.entry(state.scan).or_default().1.insert(state.carry);
                        pending.insert(state.scan);
                    }
                }
            }
            // Scans are numbered in the order of the graph, so a later one never feeds an earlier one.
            match pending.pop_last() {
                Some(next) => scan = Some(next),
                None => return Ok(memory),
            }
        }
    }

    /// Decides a region, in parts where it falls into some.
    fn decide(&mut self, region: &Region) -> Result<Plan, String> {
        let candidates = Candidates::new(self.problem, region, 0);
        if let Ok(least) = legal(&mut self.evaluator, region, least(self.problem)) {
            let matters = |c| candidates.instead.binary_search(&c).is_ok();
            let parts = region.parts(&least, matters);
            if parts.len() > 1 {
                let mut memory = least.memory.clone();
                for part in &parts {
                    self.part(part)?.memory.iter().for_each(|c| memory.set(c, true));
                }
                if let Ok(plan) = legal(&mut self.evaluator, region, memory) {
                    return Ok(plan);
                }
            }
        }
        self.part(region)
    }

    /// Decides a region as a whole, or as an equal one was.
    fn part(&mut self, region: &Region) -> Result<Plan, String> {
        let canonical = Canonical::of(self.problem, region);
        if let Some(known) = self.known.get(&canonical.structure) {
            let mut memory = Materialised::none(self.problem.dense.nodes.len());
            known.iter().for_each(|number| memory.set(canonical.classes[*number], true));
            self.stats.reused += 1;
            if let Ok(plan) = legal(&mut self.evaluator, region, memory) {
                return Ok(plan);
            }
        }
        let mut search = Search::new(&mut self.evaluator, region, self.greedy.work);
        let plan = self.greedy.search(&mut search, &mut self.stats)?;
        let numbers = canonical.classes.iter().enumerate().filter(|(_, c)| plan.memory.contains(**c));
        self.known.insert(canonical.structure, numbers.map(|(i, _)| i).collect());
        Ok(plan)
    }
}

impl Greedy {
    fn search(&self, search: &mut Search<'_, '_>, stats: &mut ExtractionStats) -> Result<Plan, String> {
        let problem = search.evaluator.problem();
        let candidates = Candidates::new(problem, search.region, self.seed);
        let mut best: Option<Plan> = None;
        let mut problem_text = String::new();
        for (i, start) in starts(problem, &candidates).into_iter().enumerate() {
            if best.is_some() && (i == LAST_RESORT || search.exhausted()) {
                break;
            }
            match legal(search.evaluator, search.region, start) {
                Ok(plan) => {
                    let found = best.as_ref().map_or(f64::INFINITY, |b: &Plan| b.seconds);
                    let plan = search.descend(plan, &candidates, (self.passes, found));
                    if best.as_ref().is_none_or(|b| plan.seconds < b.seconds * (1.0 - 1e-9)) {
                        best = Some(plan);
                    }
                }
                Err(text) => problem_text = text,
            }
        }
        let [evaluated, visited] = search.work_done();
        stats.evaluated += evaluated;
        stats.visited += visited;
        stats.candidates += candidates.all.len();
        best.ok_or(problem_text)
    }
}

/// The classes whose materialisation is worth a thought.
struct Candidates {
    /// Those that may be tried alone, ascending.
    all: Vec<Class>,
    /// The same in the order in which they are tried.
    order: Vec<Class>,
    /// Those that may take the place of one that they are computed from, ascending.
    instead: Vec<Class>,
    /// Those that do not depend on a state that a user of theirs depends on, and reduce something.
    hoistable: Vec<Class>,
    /// Reductions.
    reductions: Vec<Class>,
    /// Candidates with one head and space, where there are several.
    groups: Vec<Vec<Class>>,
}

impl Candidates {
    fn new(problem: &Problem<'_>, region: &Region, seed: u64) -> Self {
        let dense = problem.dense;
        let reached = dense.used_in(&region.entries(problem), region);
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
        let mut out = Candidates {
            all: vec![],
            order: vec![],
            instead: vec![],
            hoistable: vec![],
            reductions: vec![],
            groups: vec![],
        };
        let mut groups: BTreeMap<(SpaceId, Head), Vec<Class>> = BTreeMap::new();
        for class in (0..n).filter(|c| reached[*c]) {
            let id = class as Class;
            let head = dense.chosen(id).head;
            let computes =
                matches!(head, Head::Scalar(_) | Head::Cast(_) | Head::Reduce(..) | Head::Gather(_))
                    || matches!(head, Head::Recurrence { .. });
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
                | Head::ScanFinal(..)
                | Head::Recurrence { .. }
                | Head::RecurrenceFinal(_) => false,
            };
            let alone = reduces || boundary[class] || summed[class] || uses[class] > 1;
            if alone || transcendental {
                out.instead.push(id);
            }
            if !alone {
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
        out.order = shuffled(out.all.clone(), seed);
        out
    }
}

/// How much longer than the best so far a plan may take after a pass for which another is made, and from which wider moves
/// are tried. Of 1,702 searches (the zoo, its scaled-down twins, the conformance cases and the tests' models, for both
/// devices) none ended elsewhere than without these, after less than half as many evaluations.
const PROMISING: f64 = 1.1;
const NEAR: f64 = 1.01;

/// The position of the start that is tried only if no other leads anywhere.
const LAST_RESORT: usize = 4;

/// In an order that depends on nothing but the seed (Fisher-Yates, numbers by SplitMix64); as they are for 0.
fn shuffled(mut classes: Vec<Class>, seed: u64) -> Vec<Class> {
    let mut state = seed;
    for i in (1..classes.len()).rev().filter(|_| seed != 0) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        classes.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
    }
    classes
}

/// In memory is only what lets every loop be separated from what follows it.
fn least(problem: &Problem<'_>) -> Materialised {
    let mut least = Materialised::none(problem.dense.nodes.len());
    for class in &problem.stacked {
        least.set(*class, !problem.dense.inside[*class as usize].is_empty());
    }
    least
}

fn starts(problem: &Problem<'_>, candidates: &Candidates) -> Vec<Materialised> {
    let least = least(problem);
    let with = |base: &Materialised, classes: &[Class]| {
        let mut more = base.clone();
        classes.iter().for_each(|c| more.set(*c, true));
        more
    };
    let hoisted = with(&least, &candidates.hoistable);
    let reduced = with(&hoisted, &candidates.reductions);
    // In large regions this start is slow to evaluate, and far from anything good.
    let all = if candidates.all.len() <= 64 { &candidates.all[..] } else { &[] };
    let everything = with(&reduced, all);
    // Where rules joined values of different loops, cutting everywhere separates them again.
    let loops = problem.dense.used(&problem.outputs);
    let in_loops = (0..loops.len()).filter(|c| loops[*c] && !problem.dense.inside[*c].is_empty());
    let separated = with(&everything, &in_loops.map(|c| c as Class).collect::<Vec<_>>());
    vec![hoisted, reduced, everything, least, separated]
}

/// The classes that the kernels of a plan compute, in memory or in place.
fn computed(plan: &Plan) -> FxHashSet<Class> {
    plan.roots.roots.iter().flat_map(|r| r.walk.classes.iter().copied()).collect()
}

/// The plan of a decision, with the classes added that turn out to be needed in memory.
fn legal(evaluator: &mut Evaluator<'_>, region: &Region, mut memory: Materialised) -> Result<Plan, String> {
    loop {
        match evaluator.plan(region, &memory) {
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

struct Search<'e, 'a> {
    evaluator: &'e mut Evaluator<'a>,
    region: &'e Region,
    /// Decisions that were evaluated; the best of them is a start's result already.
    known: FxHashSet<Materialised>,
    work: usize,
    /// The decisions and points that the evaluator had seen before.
    before: [usize; 2],
}

impl<'e, 'a> Search<'e, 'a> {
    fn new(evaluator: &'e mut Evaluator<'a>, region: &'e Region, work: usize) -> Self {
        let before = [evaluator.evaluated, evaluator.visited()];
        Search { evaluator, region, known: FxHashSet::default(), work, before }
    }

    /// The decisions that were evaluated, and the points that were visited for it.
    fn work_done(&self) -> [usize; 2] {
        [self.evaluator.evaluated - self.before[0], self.evaluator.visited() - self.before[1]]
    }

    fn exhausted(&self) -> bool {
        self.work_done()[1] >= self.work
    }

    /// Takes a decision if it is better, and has not been seen: what was is either worse than the best of its
    /// start, or that best.
    fn improve(&mut self, best: &mut Plan, memory: Materialised) -> bool {
        if self.known.contains(&memory) {
            return false;
        }
        let better = self.evaluator.plan_below(self.region, &memory, best.seconds * (1.0 - 1e-9));
        self.known.insert(memory);
        let found = better.is_some();
        if let Some(plan) = better {
            *best = plan;
        }
        found
    }

    /// The best plan that a start leads to, in so many passes, unless earlier starts led to one of `found` seconds that it
    /// does not come near.
    fn descend(&mut self, mut best: Plan, candidates: &Candidates, (passes, found): (usize, f64)) -> Plan {
        for pass in 0..passes {
            if pass > 0 && best.seconds > found * PROMISING {
                break;
            }
            let before = best.seconds;
            let mut computed = computed(&best);
            for class in &candidates.order {
                let toggled = !best.memory.contains(*class);
                // What no kernel computes changes nothing by being stored.
                if (!toggled || computed.contains(class)) && self.try_move(&mut best, &[*class], toggled) {
                    computed = self::computed(&best);
                }
            }
            // Wider moves only from where single ones lead no further.
            if best.seconds < before {
                continue;
            }
            if best.seconds > found * NEAR {
                break;
            }
            for group in &candidates.groups {
                self.try_move(&mut best, group, true);
                self.try_move(&mut best, group, false);
            }
            for class in &candidates.order {
                self.try_instead(&mut best, *class, candidates);
            }
            for class in best.memory.iter().collect::<Vec<_>>() {
                self.try_above(&mut best, class, candidates);
            }
            if best.seconds >= before || self.exhausted() {
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
        if users.is_empty() || self.exhausted() {
            return;
        }
        let mut memory = best.memory.clone();
        users.iter().for_each(|c| memory.set(*c, false));
        memory.set(class, true);
        self.improve(best, memory);
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
        above.retain(|c| candidates.instead.binary_search(c).is_ok() && !best.memory.contains(*c));
        for replacement in above {
            if self.exhausted() || !best.memory.contains(class) {
                return;
            }
            let mut memory = best.memory.clone();
            memory.set(class, false);
            memory.set(replacement, true);
            self.improve(best, memory);
        }
    }

    /// Whether setting all of these was better.
    fn try_move(&mut self, best: &mut Plan, classes: &[Class], value: bool) -> bool {
        if classes.iter().all(|c| best.memory.contains(*c) == value) || self.exhausted() {
            return false;
        }
        let mut memory = best.memory.clone();
        classes.iter().for_each(|c| memory.set(*c, value));
        self.improve(best, memory)
    }
}
