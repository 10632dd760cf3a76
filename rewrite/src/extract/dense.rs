//! The e-graph in dense arrays, and the node that each class uses when it is computed in place.

use std::collections::HashMap;

use egg::Id;

use super::Region;
use super::cost::{cast_work, scalar_work};
use crate::analysis::{ClassData, Terms, gathered_inside, kept_inside, shallower};
use crate::language::{Head, Tables, Term};
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
    index: HashMap<Id, Class>,
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

/// Whether a term of a class is considered.
fn is_live(terms: &Terms, class: Id, term: &Term) -> bool {
    !is_unchanged_state(terms, term) || terms[class].nodes.iter().all(|t| is_unchanged_state(terms, t))
}

/// Beyond this many classes the sets of classes that costs are summed over would take too much memory.
const MAX_CLASSES_FOR_SETS: usize = 8192;

impl<'a> Dense<'a> {
    /// The classes reachable from `roots`, and through the states of the scans met.
    pub fn new(terms: &'a Terms, roots: &[Id]) -> Self {
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
            index: HashMap::new(),
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
                if !is_live(terms, id, term) {
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
            let live = |t: &&Term| is_live(terms, *id, t);
            dense.nodes.push(class.nodes.iter().filter(live).map(node).collect());
            dense.data.push(&class.data);
        }
        dense.gathered = vec![false; dense.nodes.len()];
        for node in dense.nodes.iter().flatten().filter(|n| matches!(n.head, Head::Gather(_))) {
            dense.gathered[node.children[0] as usize] = true;
        }
        dense.choose();
        dense.prefer_views();
        let roots: Vec<Class> = roots.iter().map(|r| dense.class(*r)).collect();
        dense.share(&roots);
        dense.place_inside();
        dense
    }

    /// Works out which loops the chosen nodes lie in, operands first.
    fn place_inside(&mut self) {
        self.inside = vec![ScanSet::new(); self.nodes.len()];
        let mut order: Vec<Class> = (0..self.nodes.len() as Class).collect();
        order.sort_by_key(|c| (self.rank[*c as usize], self.ids[*c as usize]));
        for class in order {
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
                Head::Scalar(_) | Head::Cast(_) => all(&node.children),
                Head::Reindex(map) => kept_inside(self.tables, of(0), &self.tables.map(map).results),
                Head::Reduce(..) => shallower(self.tables, of(0).clone(), rank),
                Head::Gather(id) => gathered_inside(self.tables, self.tables.gather(id), of(0), of(1)),
                Head::ScanFinal(scan, _) => {
                    shallower(self.tables, all(&node.children), self.tables.scan(scan).depth())
                }
            };
            self.inside[class as usize] = inside;
        }
        let deepest = |set: &ScanSet| set.iter().map(|s| self.tables.scan(s).depth() + 1).max().unwrap_or(0);
        self.least_steps = self.inside.iter().map(deepest).collect();
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

    /// A class that the outputs use and that can only be computed from itself; there should be none.
    pub fn unfounded(&self, outputs: &[Class]) -> Option<Id> {
        let used = self.used(outputs);
        (0..used.len()).find(|c| used[*c] && self.rank[*c] == u64::MAX).map(|c| self.ids[c])
    }

    /// The position of a class, if it is reachable.
    pub fn known(&self, id: Id) -> Option<Class> {
        self.index.get(&self.terms.find(id)).copied()
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
            Head::Reduce(..) => 4096,
        }
    }

    /// Greedy with shared costs: the cost of a node is that of all distinct classes below it. After
    /// convergence every class costs more than each of its operands, so the choice has no cycles.
    fn choose(&mut self) {
        let n = self.nodes.len();
        let words = if n <= MAX_CLASSES_FOR_SETS { n.div_ceil(64) } else { 0 };
        let mut best: Vec<Option<u64>> = vec![None; n];
        let mut sets: Vec<Vec<u64>> = vec![Vec::new(); n];
        let mut own: Vec<u64> = vec![0; n];
        self.choice = vec![0; n];
        loop {
            let mut changed = false;
            for class in (0..n).rev() {
                for (k, node) in self.nodes[class].iter().enumerate() {
                    let cost = self.own_cost(class, node);
                    let Some((total, set)) = combine(class, cost, node, &best, &sets, &own, words) else {
                        continue;
                    };
                    if best[class].is_none_or(|b| total < b) {
                        (best[class], sets[class], own[class]) = (Some(total), set, cost);
                        self.choice[class] = k;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        self.rank = best.into_iter().map(|b| b.unwrap_or(u64::MAX)).collect();
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
        let mut best = self.used_cost(roots);
        let mut budget = SHARING_BUDGET;
        for class in 0..self.nodes.len() {
            for k in 0..self.nodes[class].len() {
                let node = &self.nodes[class][k];
                let view = matches!(self.nodes[class][self.choice[class]].head, Head::Reindex(_));
                let allowed = node.children.iter().all(|c| self.below(*c, class as Class));
                if k == self.choice[class] || view || !allowed || budget < self.nodes.len() {
                    continue;
                }
                budget -= self.nodes.len();
                let before = std::mem::replace(&mut self.choice[class], k);
                let cost = self.used_cost(roots);
                if cost < best {
                    best = cost;
                } else {
                    self.choice[class] = before;
                }
            }
        }
    }

    /// The cost of all classes that the outputs use, each once.
    fn used_cost(&self, roots: &[Class]) -> u64 {
        let used = self.used(roots);
        let classes = (0..self.nodes.len()).filter(|c| used[*c]);
        classes.map(|c| self.own_cost(c, self.chosen(c as Class))).fold(0, u64::saturating_add)
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
const SHARING_BUDGET: usize = 2_000_000;

/// The cost of a node and the classes it counts; `None` where an operand has no cost yet or counts `class`.
fn combine(
    class: usize,
    cost: u64,
    node: &Node,
    best: &[Option<u64>],
    sets: &[Vec<u64>],
    own: &[u64],
    words: usize,
) -> Option<(u64, Vec<u64>)> {
    if words == 0 {
        // The longest path instead of the sum: coarser, but linear.
        let mut deepest = node.children.iter().map(|c| best[*c as usize]);
        let deepest = deepest.try_fold(0, |max: u64, c| Some(max.max(c?)))?;
        return Some((deepest.saturating_add(cost), Vec::new()));
    }
    let mut set = vec![0u64; words];
    let mut above = 0;
    for child in &node.children {
        above = above.max(best[*child as usize]?);
        let child_set = &sets[*child as usize];
        if child_set[class / 64] & (1 << (class % 64)) != 0 {
            return None;
        }
        set.iter_mut().zip(child_set).for_each(|(a, b)| *a |= b);
    }
    let mut total = cost;
    for (i, word) in set.iter().enumerate() {
        let mut bits = *word;
        while bits != 0 {
            total = total.saturating_add(own[i * 64 + bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
    }
    set[class / 64] |= 1 << (class % 64);
    // Sets may be older than the costs of their members; the order must hold nevertheless.
    Some((total.max(above.saturating_add(cost)), set))
}
