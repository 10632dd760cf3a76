//! The e-graph in dense arrays, and the node that each class uses when it is computed in place.

use std::collections::VecDeque;

use egg::Id;
use rustc_hash::FxHashMap;

use super::Region;
use super::cost::{cast_work, scalar_work};
use crate::analysis::{ClassData, Terms, gathered_inside, kept_inside, shallower};
use crate::language::{Head, Retired, Tables, Term};
use crate::scan_set::ScanSet;

/// A class, by position.
pub type Class = u32;

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The head.
    pub head: Head,
    /// The operands.
    pub children: Vec<Class>,
}

/// The part of an e-graph that is reachable from its outputs.
pub struct Dense<'a> {
    /// Attributes.
    pub tables: &'a Tables,
    /// Nodes of each class, in a fixed order.
    pub nodes: Vec<Vec<Node>>,
    /// What is known of each class.
    pub data: Vec<&'a ClassData>,
    /// The class in the e-graph.
    pub ids: Vec<Id>,
    /// Which node of a class computes it in place.
    pub choice: Vec<usize>,
    /// The scans inside whose loops a class lies as it is chosen. The analysis of the e-graph knows the least
    /// over all nodes, which none of them need attain.
    pub inside: Vec<ScanSet>,
    /// How many leading coordinates must be the axes of the kernel for a class to be computed there: those of the
    /// loops it lies in.
    pub least_steps: Vec<usize>,
    /// Whether a gather reads the class: the indices are then those of its buffer.
    pub gathered: Vec<bool>,
    /// What a class costs with all it is computed from; see [`Dense::below`].
    rank: Vec<u64>,
    index: FxHashMap<Id, Class>,
    /// The e-graph.
    pub terms: &'a Terms,
}

/// Whether a term is a state that is known to equal its initial value: reading it would keep the loop alive.
fn is_unchanged_state(terms: &Terms, term: &Term) -> bool {
    let (Head::Carry(scan, i) | Head::ScanFinal(scan, i)) = term.head else { return false };
    let carry = &terms.analysis.tables.scan(scan).carries[i as usize];
    let last = terms.lookup(Term::new(Head::ScanFinal(scan, i), &[carry.init, carry.next]));
    last.is_some_and(|last| last == terms.find(carry.init))
}

/// What extraction need not consider, with the classes as they are called now.
fn retired_today(terms: &Terms) -> Retired {
    let retired = &terms.analysis.tables.retired;
    Retired {
        views: retired.views.iter().map(|(map, x)| (*map, terms.find(*x))).collect(),
        finals: retired.finals.clone(),
        terms: retired.terms.iter().map(|term| today(terms, term)).collect(),
    }
}

/// A term with the classes of its operands as they are called now.
fn today(terms: &Terms, term: &Term) -> Term {
    let mut term = term.clone();
    term.children.iter_mut().for_each(|c| *c = terms.find(*c));
    term
}

/// Considers the retired terms of some classes after all, which without them could be computed from themselves alone:
/// two rules may each have relied on what the other retired. Whether there were any.
fn reinstate(terms: &Terms, retired: &mut Retired, classes: &[Id]) -> bool {
    let mut any = false;
    for term in classes.iter().flat_map(|id| &terms[*id].nodes) {
        any |= retired.terms.remove(&today(terms, term));
        if let Head::Reindex(map) = term.head {
            any |= retired.views.remove(&(map, terms.find(term.children[0])));
        }
    }
    any
}

/// Whether a term of a class is made superfluous by another.
fn is_retired(terms: &Terms, retired: &Retired, term: &Term) -> bool {
    if !retired.terms.is_empty() && retired.terms.contains(&today(terms, term)) {
        return true;
    }
    match term.head {
        Head::Reindex(map) => retired.views.contains(&(map, terms.find(term.children[0]))),
        Head::ScanFinal(scan, i) => is_unchanged_state(terms, term) || retired.finals.contains(&(scan, i)),
        Head::Carry(..) => is_unchanged_state(terms, term),
        Head::Leaf(_)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Scalar(_)
        | Head::Cast(_)
        | Head::Reduce(..)
        | Head::Gather(_)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => false,
    }
}

/// How states that have a linear recurrence are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum States {
    /// All by loops.
    Loops,
    /// As recurrences where they have one.
    Recurrences,
}

fn is_recurrence(term: &Term) -> bool {
    matches!(term.head, Head::Recurrence { .. } | Head::RecurrenceFinal(_))
}

/// Whether any state has a linear recurrence.
pub fn has_recurrences(terms: &Terms) -> bool {
    terms.classes().any(|class| class.nodes.iter().any(is_recurrence))
}

/// Whether a term of a class is considered.
fn is_live(terms: &Terms, states: States, retired: &Retired, class: Id, term: &Term) -> bool {
    let nodes = &terms[class].nodes;
    if states == States::Recurrences && nodes.iter().any(is_recurrence) {
        return is_recurrence(term);
    }
    let superfluous = |t: &Term| is_retired(terms, retired, t);
    !is_recurrence(term)
        && (!superfluous(term) || nodes.iter().filter(|t| !is_recurrence(t)).all(superfluous))
}

/// Beyond this many classes the sets of classes that costs are summed over would take too much memory.
const MAX_CLASSES_FOR_SETS: usize = 8192;

impl<'a> Dense<'a> {
    /// The classes reachable from `roots`, and through the states of the scans met.
    pub fn new(terms: &'a Terms, roots: &[Id], states: States) -> Self {
        let mut retired = retired_today(terms);
        let mut dense = loop {
            let mut dense = Dense::reachable(terms, roots, states, &retired);
            dense.choose();
            let ranks = dense.ids.iter().zip(&dense.rank);
            let unfounded: Vec<Id> = ranks.filter(|(_, r)| **r == u64::MAX).map(|(id, _)| *id).collect();
            if !reinstate(terms, &mut retired, &unfounded) {
                break dense;
            }
        };
        dense.prefer_views();
        let roots: Vec<Class> = roots.iter().map(|r| dense.class(*r)).collect();
        dense.share(&roots);
        dense.place_inside();
        dense
    }

    /// The classes that terms which are not retired reach.
    fn reachable(terms: &'a Terms, roots: &[Id], states: States, retired: &Retired) -> Self {
        let mut dense = Dense {
            tables: &terms.analysis.tables,
            nodes: Vec::new(),
            data: Vec::new(),
            ids: Vec::new(),
            choice: Vec::new(),
            rank: Vec::new(),
            inside: Vec::new(),
            least_steps: Vec::new(),
            gathered: Vec::new(),
            index: FxHashMap::default(),
            terms,
        };
        let mut pending: Vec<Id> = roots.iter().rev().copied().collect();
        while let Some(id) = pending.pop() {
            let id = terms.find(id);
            if dense.index.contains_key(&id) {
                continue;
            }
            dense.index.insert(id, dense.ids.len() as Class);
            dense.ids.push(id);
            for term in terms[id].nodes.iter().rev() {
                if !is_live(terms, states, retired, id, term) {
                    continue;
                }
                pending.extend(term.children.iter().rev());
                if let Head::Carry(scan, _) | Head::ScanFinal(scan, _) = term.head {
                    let carries = &terms.analysis.tables.scan(scan).carries;
                    pending.extend(carries.iter().rev().flat_map(|c| [c.next, c.init]));
                }
            }
        }
        for id in &dense.ids {
            let class = &terms[*id];
            let node = |t: &Term| Node {
                head: t.head,
                children: t.children.iter().map(|c| dense.index[&terms.find(*c)]).collect(),
            };
            let live = |t: &&Term| is_live(terms, states, retired, *id, t);
            dense.nodes.push(class.nodes.iter().filter(live).map(node).collect());
            dense.data.push(&class.data);
        }
        dense.gathered = vec![false; dense.nodes.len()];
        for node in dense.nodes.iter().flatten().filter(|n| matches!(n.head, Head::Gather(_))) {
            dense.gathered[node.children[0] as usize] = true;
        }
        dense
    }

    /// Works out which loops the chosen nodes lie in: operands first, and again as long as a final state turns out
    /// to lie in more, because another state of its scan does.
    fn place_inside(&mut self) {
        self.inside = vec![ScanSet::new(); self.nodes.len()];
        let mut order: Vec<Class> = (0..self.nodes.len() as Class).collect();
        order.sort_by_key(|c| (self.rank[*c as usize], self.ids[*c as usize]));
        while self.place_inside_once(&order) {}
        let deepest = |set: &ScanSet| set.iter().map(|s| self.tables.scan(s).depth() + 1).max().unwrap_or(0);
        self.least_steps = self.inside.iter().map(deepest).collect();
    }

    /// One pass over all classes; whether any lies in more loops than it was known to.
    fn place_inside_once(&mut self, order: &[Class]) -> bool {
        let mut changed = false;
        for &class in order {
            let node = self.chosen(class);
            let of = |i: usize| &self.inside[node.children[i] as usize];
            let all = |children: &[Class]| {
                let mut inside = ScanSet::new();
                children.iter().for_each(|c| _ = inside.union_with(&self.inside[*c as usize]));
                inside
            };
            let rank = self.tables.extents(self.data[class as usize].space).len();
            let inside = match node.head {
                Head::Leaf(_) | Head::Constant(_) | Head::Index(_) => ScanSet::new(),
                Head::Carry(scan, _) => ScanSet::of(scan),
                Head::Scalar(_) | Head::Cast(_) | Head::Recurrence { .. } => all(&node.children),
                Head::RecurrenceFinal(axis) => shallower(self.tables, all(&node.children), axis as usize),
                Head::Reindex(map) => {
                    let map = self.tables.map(map);
                    kept_inside(self.tables, of(0), &map.domain, &map.results)
                }
                Head::Reduce(..) => shallower(self.tables, of(0).clone(), rank),
                Head::Gather(id) => gathered_inside(self.tables, self.tables.gather(id), of(0), of(1)),
                Head::ScanFinal(scan, _) => {
                    let info = self.tables.scan(scan);
                    let states = info.carries.iter().flat_map(|c| [c.init, c.next]);
                    let states: Vec<Class> = states.map(|s| self.class(s)).collect();
                    shallower(self.tables, all(&states), info.depth())
                }
            };
            changed |= self.inside[class as usize].union_with(&inside);
        }
        changed
    }

    /// Whether `a` may be computed before `b`: it costs less, or as much and is older. Every choice and every
    /// read goes downwards in this order, so nothing is computed from itself.
    pub fn below(&self, a: Class, b: Class) -> bool {
        let key = |c: Class| (self.rank[c as usize], self.ids[c as usize]);
        key(a) < key(b)
    }

    /// The position of a class of the e-graph.
    pub fn class(&self, id: Id) -> Class {
        self.index[&self.terms.find(id)]
    }

    /// Whether a class has one value everywhere, which is never read from memory: a view of it may clamp its
    /// coordinates to a tensor that is empty, and there memory has no value.
    pub fn is_constant(&self, class: Class) -> bool {
        self.data[class as usize].constant.is_some()
    }

    /// A class that the outputs use and that can only be computed from itself; there should be none.
    pub fn unfounded(&self, outputs: &[Class]) -> Option<Id> {
        let used = self.used(outputs);
        (0..used.len()).find(|c| used[*c] && self.rank[*c] == u64::MAX).map(|c| self.ids[c])
    }

    /// The position of a class, if it is reachable.
    pub fn known(&self, id: Id) -> Option<Class> {
        self.index.get(&self.terms.find(id)).copied()
    }

    /// What a kernel computes to store a class, and the axis of that which the class lacks: the final state of a
    /// recurrence is stored by a kernel over all of its axis.
    pub fn computed(&self, class: Class) -> (Class, Option<usize>) {
        let node = self.chosen(class);
        match node.head {
            Head::RecurrenceFinal(axis) => (node.children[1], Some(axis as usize)),
            Head::Leaf(_)
            | Head::Constant(_)
            | Head::Index(_)
            | Head::Scalar(_)
            | Head::Cast(_)
            | Head::Reindex(_)
            | Head::Reduce(..)
            | Head::Gather(_)
            | Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. } => (class, None),
        }
    }

    /// The node that computes a class in place.
    pub fn chosen(&self, class: Class) -> &Node {
        &self.nodes[class as usize][self.choice[class as usize]]
    }

    /// What a node costs by itself, in sixteenths of a simple operation; views cost least but something, so
    /// that every operand ranks below its use.
    fn own_cost(&self, class: usize, node: &Node) -> u64 {
        match node.head {
            Head::Constant(_) => 0,
            Head::Leaf(_) | Head::Carry(..) | Head::ScanFinal(..) | Head::Index(_) | Head::Reindex(_) => 1,
            Head::Scalar(op) => (16.0 * scalar_work(op).weight()) as u64,
            Head::Cast(to) => {
                let from = self.data[node.children[0] as usize].dtype;
                debug_assert_eq!(to, self.data[class].dtype);
                (16.0 * cast_work(from, to).weight()) as u64
            }
            Head::Gather(_) => 64,
            Head::Recurrence { .. } => 32,
            Head::RecurrenceFinal(_) => 1,
            Head::Reduce(..) => 4096,
        }
    }

    /// Greedy with shared costs: the cost of a node is that of all distinct classes below it. After
    /// convergence every class costs more than each of its operands, so the choice has no cycles.
    fn choose(&mut self) {
        let n = self.nodes.len();
        let words = if n <= MAX_CLASSES_FOR_SETS { n.div_ceil(64) } else { 0 };
        let mut costs = Costs { words, best: vec![None; n], sets: vec![Vec::new(); n], own: vec![0; n] };
        self.choice = vec![0; n];
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); n];
        for (class, nodes) in self.nodes.iter().enumerate() {
            for child in nodes.iter().flat_map(|n| &n.children) {
                users[*child as usize].push(class);
            }
        }
        let mut set = Vec::new();
        let mut waiting = vec![true; n];
        // Operands mostly have higher numbers than their users.
        let mut pending: VecDeque<usize> = (0..n).rev().collect();
        while let Some(class) = pending.pop_front() {
            waiting[class] = false;
            let mut changed = false;
            for (k, node) in self.nodes[class].iter().enumerate() {
                let cost = self.own_cost(class, node);
                let Some(total) = costs.combine(class, cost, node, &mut set) else { continue };
                if costs.best[class].is_none_or(|b| total < b) {
                    (costs.best[class], costs.own[class]) = (Some(total), cost);
                    costs.sets[class].clone_from(&set);
                    self.choice[class] = k;
                    changed = true;
                }
            }
            if changed {
                for user in &users[class] {
                    if !std::mem::replace(&mut waiting[*user], true) {
                        pending.push_back(*user);
                    }
                }
            }
        }
        self.rank = costs.best.into_iter().map(|b| b.unwrap_or(u64::MAX)).collect();
    }
}

/// What classes cost while nodes are chosen.
struct Costs {
    /// The length of each set; 0 where there are none.
    words: usize,
    /// The least cost known of each class, with all it is computed from.
    best: Vec<Option<u64>>,
    /// The classes that it counts, as bits.
    sets: Vec<Vec<u64>>,
    /// The cost of the chosen node by itself.
    own: Vec<u64>,
}

impl Costs {
    /// The cost of a node, and in `set` the classes it counts; `None` where an operand has no cost yet or counts
    /// `class`.
    fn combine(&self, class: usize, cost: u64, node: &Node, set: &mut Vec<u64>) -> Option<u64> {
        set.clear();
        let mut most = None;
        for child in &node.children {
            let cost = self.best[*child as usize]?;
            if most.is_none_or(|(m, _)| cost > m) {
                most = Some((cost, *child as usize));
            }
        }
        if self.words == 0 {
            // The longest path instead of the sum: coarser, but linear.
            return Some(most.map_or(0, |(m, _)| m).saturating_add(cost));
        }
        let counts = |child: usize| self.sets[child][class / 64] & (1 << (class % 64)) != 0;
        if node.children.iter().any(|c| counts(*c as usize)) {
            return None;
        }
        // From the dearest operand; the others add what it does not count.
        let mut total = cost;
        match most {
            Some((most, child)) => {
                total = total.saturating_add(most);
                set.extend_from_slice(&self.sets[child]);
                for other in node.children.iter().filter(|c| **c as usize != child) {
                    for (i, (word, theirs)) in set.iter_mut().zip(&self.sets[*other as usize]).enumerate() {
                        let mut fresh = theirs & !*word;
                        *word |= theirs;
                        while fresh != 0 {
                            total = total.saturating_add(self.own[i * 64 + fresh.trailing_zeros() as usize]);
                            fresh &= fresh - 1;
                        }
                    }
                }
            }
            None => set.resize(self.words, 0),
        }
        set[class / 64] |= 1 << (class % 64);
        Some(total)
    }
}

impl Dense<'_> {
    /// Lets classes that are views be views. A pushed view costs as much and duplicates what it was pushed
    /// through: four gates would be four projections instead of four slices of one.
    fn prefer_views(&mut self) {
        for class in 0..self.nodes.len() {
            // Nothing is simpler than a constant or an index expression.
            if matches!(self.chosen(class as Class).head, Head::Constant(_) | Head::Index(_)) {
                continue;
            }
            let view =
                |n: &Node| matches!(n.head, Head::Reindex(_)) && self.below(n.children[0], class as Class);
            if let Some(k) = self.nodes[class].iter().position(view) {
                self.choice[class] = k;
            }
        }
    }

    /// Changes single choices as long as the sum over everything the outputs use falls: from below a class
    /// cannot be seen what its users compute anyway (`1 - z` where `z` is used too).
    fn share(&mut self, roots: &[Class]) {
        let mut uses = Uses { counts: vec![0; self.nodes.len()], cost: 0, budget: SHARING_BUDGET };
        uses.add(self, roots.to_vec());
        for class in 0..self.nodes.len() {
            for k in 0..self.nodes[class].len() {
                let node = &self.nodes[class][k];
                let view = matches!(self.nodes[class][self.choice[class]].head, Head::Reindex(_));
                let allowed = node.children.iter().all(|c| self.below(*c, class as Class));
                let skipped = uses.counts[class] == 0 || k == self.choice[class] || view || !allowed;
                if skipped || uses.budget == 0 {
                    continue;
                }
                let best = uses.cost;
                let before = self.choice[class];
                uses.change(self, class as Class, k);
                if uses.cost >= best {
                    uses.change(self, class as Class, before);
                }
            }
        }
    }

    /// The classes that the chosen node of a class uses: its operands, and what a state begins and goes on with.
    fn operands(&self, class: Class) -> Vec<Class> {
        let node = self.chosen(class);
        let mut operands = node.children.clone();
        if let Head::Carry(scan, i) | Head::ScanFinal(scan, i) = node.head {
            let info = &self.tables.scan(scan).carries[i as usize];
            operands.extend([self.class(info.init), self.class(info.next)]);
        }
        operands
    }

    /// The classes that the chosen nodes use, from some classes down and through the states of scans.
    pub fn used(&self, roots: &[Class]) -> Vec<bool> {
        self.used_in(roots, &Region::default())
    }

    /// The same within a region.
    pub fn used_in(&self, roots: &[Class], region: &Region) -> Vec<bool> {
        let mut used = vec![false; self.nodes.len()];
        let mut pending = roots.to_vec();
        while let Some(class) = pending.pop() {
            if region.is_foreign(class) || std::mem::replace(&mut used[class as usize], true) {
                continue;
            }
            let node = self.chosen(class);
            if let Head::Carry(scan, i) | Head::ScanFinal(scan, i) = node.head {
                if region.is_foreign_scan(self, scan) {
                    continue;
                }
                let info = &self.tables.scan(scan).carries[i as usize];
                pending.extend([self.class(info.init), self.class(info.next)]);
            }
            pending.extend(&node.children);
        }
        used
    }
}

/// How many classes may be looked at in all while choices are changed one by one.
const SHARING_BUDGET: usize = 1_000_000;

/// How often each class is used by chosen nodes, and what all used ones cost together, each once. States use each
/// other in circles, which stay counted once they are.
struct Uses {
    counts: Vec<u32>,
    cost: u64,
    /// The classes that may still be looked at.
    budget: usize,
}

impl Uses {
    /// Counts uses, and those of what comes into use.
    fn add(&mut self, dense: &Dense<'_>, mut pending: Vec<Class>) {
        while let Some(class) = pending.pop() {
            self.budget = self.budget.saturating_sub(1);
            self.counts[class as usize] += 1;
            if self.counts[class as usize] == 1 {
                self.cost += dense.own_cost(class as usize, dense.chosen(class));
                pending.extend(dense.operands(class));
            }
        }
    }

    /// Takes back uses, and those of what falls out of use.
    fn remove(&mut self, dense: &Dense<'_>, mut pending: Vec<Class>) {
        while let Some(class) = pending.pop() {
            self.budget = self.budget.saturating_sub(1);
            self.counts[class as usize] -= 1;
            if self.counts[class as usize] == 0 {
                self.cost -= dense.own_cost(class as usize, dense.chosen(class));
                pending.extend(dense.operands(class));
            }
        }
    }

    /// Chooses another node for a class in use.
    fn change(&mut self, dense: &mut Dense<'_>, class: Class, choice: usize) {
        let before = dense.operands(class);
        self.cost -= dense.own_cost(class as usize, dense.chosen(class));
        dense.choice[class as usize] = choice;
        self.cost += dense.own_cost(class as usize, dense.chosen(class));
        // The new ones first, so that what both use is not taken back in between.
        self.add(dense, dense.operands(class));
        self.remove(dense, before);
    }
}
