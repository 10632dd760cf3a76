//! Why terms are equal: a record of what rules asserted, and proofs from it.
//!
//! Where asked for, the e-graph notes every equality that a rule asserts, and nothing else: searching stays as
//! fast as without. Congruence (equal operands make equal terms) is derived again afterwards, into a forest
//! whose edges are one reason each (Nieuwenhuis and Oliveras, "Proof-producing congruence closure", 2005), so
//! that two equal terms are joined by the one path that says why.

use std::cell::RefCell;

use egg::{Id, Symbol};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::analysis::Terms;
use crate::language::Term;

/// The equalities that rules asserted.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The rule being applied.
    rule: Option<Symbol>,
    /// What it is applied to, and what it makes of it, where that is one new term: a class alone does not say
    /// which of its terms was meant.
    sides: RefCell<(Option<Term>, Option<Term>)>,
    /// In order; `None` where nothing is recorded.
    asserted: Option<RefCell<Vec<Assertion>>>,
}

/// An equality that a rule asserted.
#[derive(Clone, Debug)]
struct Assertion {
    left: (Id, Option<Term>),
    right: (Id, Option<Term>),
    rule: Option<Symbol>,
}

impl Record {
    /// A record that is kept.
    pub fn kept() -> Self {
        Record { asserted: Some(RefCell::default()), ..Record::default() }
    }

    /// Whether anything is recorded.
    pub fn is_kept(&self) -> bool {
        self.asserted.is_some()
    }

    /// Says which terms the next equality is between.
    pub fn between(&self, left: Option<Term>, right: Option<Term>) {
        if self.is_kept() {
            self.sides.replace((left, right));
        }
    }

    /// Notes an equality.
    pub fn note(&self, left: Id, right: Id) {
        if let Some(asserted) = &self.asserted {
            let (l, r) = self.sides.take();
            asserted.borrow_mut().push(Assertion { left: (left, l), right: (right, r), rule: self.rule });
        }
    }
}

/// Lets a rule assert equalities under its name.
pub fn under<R>(terms: &mut Terms, rule: &str, work: impl FnOnce(&mut Terms) -> R) -> R {
    let before = terms.analysis.record.rule.replace(Symbol::from(rule));
    let result = work(terms);
    terms.analysis.record.rule = before;
    result
}

/// One application of a rule in a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProofStep {
    /// The rule; `None` where it left no name.
    pub rule: Option<Symbol>,
    /// The term before, as it was added.
    pub before: Id,
    /// The term after.
    pub after: Id,
}

#[derive(Clone, Copy, Debug)]
enum Reason {
    Rule(Option<Symbol>),
    /// The operands are equal.
    Congruence,
}

/// The proofs of one e-graph.
pub struct Proofs<'a> {
    terms: &'a Terms,
    /// The forest: each term's neighbour on the way to the root of its class, and why they are equal.
    towards: Vec<Option<(usize, Reason)>>,
    /// Union–find over terms as they were added.
    class: Vec<usize>,
    /// The terms that have a member of a class as an operand, by root.
    users: Vec<Vec<usize>>,
    canonical: FxHashMap<Term, usize>,
}

impl<'a> Proofs<'a> {
    /// Derives all equalities again from what rules asserted.
    pub fn new(terms: &'a Terms) -> Self {
        let count = terms.nodes().len();
        let mut proofs = Proofs {
            terms,
            towards: vec![None; count],
            class: (0..count).collect(),
            users: vec![Vec::new(); count],
            canonical: FxHashMap::with_capacity_and_hasher(count, Default::default()),
        };
        let mut equal = Vec::new();
        for (id, term) in terms.nodes().iter().enumerate() {
            for child in &term.children {
                proofs.users[usize::from(*child)].push(id);
            }
            if let Some(other) = proofs.canonical.insert(term.clone(), id) {
                equal.push((id, other, Reason::Congruence));
            }
        }
        let asserted = terms.analysis.record.asserted.as_ref().map(|a| a.borrow().clone());
        for a in asserted.unwrap_or_default() {
            proofs.close(&mut equal);
            let (left, right) = (proofs.meant(&a.left), proofs.meant(&a.right));
            equal.push((left, right, Reason::Rule(a.rule)));
        }
        proofs.close(&mut equal);
        proofs
    }

    /// What leads from one term to an equal one, in order. Nothing for terms that are not equal, or one.
    pub fn explain(&self, from: Id, to: Id) -> Vec<ProofStep> {
        let mut steps = Vec::new();
        let mut known: FxHashSet<(usize, usize)> = FxHashSet::default();
        let mut pending = vec![(usize::from(from), usize::from(to))];
        while let Some((a, b)) = pending.pop() {
            if a == b || !known.insert((a, b)) {
                continue;
            }
            let mut operands = Vec::new();
            for (x, y, reason) in self.path(a, b) {
                match reason {
                    Reason::Rule(rule) => {
                        steps.push(ProofStep { rule, before: Id::from(x), after: Id::from(y) });
                    }
                    Reason::Congruence => {
                        let (x, y) = (&self.terms.nodes()[x].children, &self.terms.nodes()[y].children);
                        operands.extend(x.iter().zip(y).map(|(x, y)| (usize::from(*x), usize::from(*y))));
                    }
                }
            }
            pending.extend(operands.into_iter().rev());
        }
        steps
    }

    /// The edges of the forest between two terms; empty where they lie in different trees.
    fn path(&self, a: usize, b: usize) -> Vec<(usize, usize, Reason)> {
        let up = |mut at: usize| {
            let mut edges = Vec::new();
            while let Some((next, reason)) = self.towards[at] {
                edges.push((at, next, reason));
                at = next;
            }
            (edges, at)
        };
        let ((mut from_a, root_a), (mut from_b, root_b)) = (up(a), up(b));
        if root_a != root_b {
            return Vec::new();
        }
        while let (Some(x), Some(y)) = (from_a.last(), from_b.last())
            && (x.0, x.1) == (y.0, y.1)
        {
            from_a.pop();
            from_b.pop();
        }
        from_a.extend(from_b.into_iter().rev().map(|(x, y, reason)| (y, x, reason)));
        from_a
    }

    /// The term that an assertion is about: one that is congruent to the term named, in the class named.
    fn meant(&mut self, (id, term): &(Id, Option<Term>)) -> usize {
        let id = usize::from(*id);
        let named = term.as_ref().and_then(|term| {
            let term = self.canonical_form(term.clone());
            self.canonical.get(&term).copied()
        });
        named.unwrap_or(id)
    }

    fn canonical_form(&mut self, mut term: Term) -> Term {
        for child in &mut term.children {
            *child = Id::from(self.find(usize::from(*child)));
        }
        term
    }

    fn find(&mut self, mut x: usize) -> usize {
        while self.class[x] != x {
            self.class[x] = self.class[self.class[x]];
            x = self.class[x];
        }
        x
    }

    /// Asserts equalities, and those that follow by congruence.
    fn close(&mut self, equal: &mut Vec<(usize, usize, Reason)>) {
        while let Some((a, b, reason)) = equal.pop() {
            let (mut small, mut large) = (self.find(a), self.find(b));
            if small == large {
                continue;
            }
            self.connect(a, b, reason);
            if self.users[small].len() > self.users[large].len() {
                std::mem::swap(&mut small, &mut large);
            }
            self.class[small] = large;
            let users = std::mem::take(&mut self.users[small]);
            for user in &users {
                let term = self.canonical_form(self.terms.nodes()[*user].clone());
                match self.canonical.get(&term) {
                    Some(other) => equal.push((*user, *other, Reason::Congruence)),
                    None => _ = self.canonical.insert(term, *user),
                }
            }
            self.users[large].extend(users);
        }
    }

    /// Adds an edge between two trees of the forest, turning the path from `a` to its root around.
    fn connect(&mut self, a: usize, b: usize, reason: Reason) {
        let mut edge = Some((b, reason));
        let mut at = a;
        while let Some((next, why)) = edge {
            let old = self.towards[at].replace((next, why));
            edge = old.map(|(_, why)| (at, why));
            match old {
                Some((next, _)) => at = next,
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fuse_ir::parse;

    use super::*;
    use crate::optimize::{Options, saturate};

    fn saturated(text: &str) -> Terms {
        let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
        saturate(&graph, &Options::default(), Record::kept()).unwrap().0.terms
    }

    const CELL: &str = "graph g(x: f32[T, B, 4], h: f32[B, 4], w: f32[4, 8]) -> (y: f32[T, B, 4]) {
       %f, %s = scan body over T
           carry (h0: f32[B, 4] = h)
           each (x0: f32[B, 4] = x)
           with (k: f32[4, 8] = w)
           -> (f32[B, 4], f32[T, B, 4])
       {
         %p = contract x0, k axes=[1:0]
         %q = contract h0, k axes=[1:0]
         %a = add %p, %q
         %u = slice %a start=[0, 0] length=[B, 4] step=[1, 1]
         %v = slice %a start=[0, 4] length=[B, 4] step=[1, 1]
         %z = sigmoid %u
         %n = neg %v
         %t = tanh %n
         %m = mul %z, %t
         next h1 = %m
         stack y = %m
       }
       return y = %s
     }";

    /// Whether some equalities and congruence alone make two terms equal, found out in the plainest way.
    fn follows(terms: &Terms, steps: &[ProofStep], a: Id, b: Id) -> bool {
        let nodes = terms.nodes();
        let mut class: Vec<usize> = (0..nodes.len()).collect();
        let join = |class: &mut Vec<usize>, x: usize, y: usize| {
            let (from, to) = (class[x], class[y]);
            class.iter_mut().filter(|c| **c == from).for_each(|c| *c = to);
            from != to
        };
        for step in steps {
            join(&mut class, usize::from(step.before), usize::from(step.after));
        }
        loop {
            let mut known: FxHashMap<(crate::language::Head, Vec<usize>), usize> = FxHashMap::default();
            let mut changed = false;
            for (id, term) in nodes.iter().enumerate() {
                let children: Vec<usize> = term.children.iter().map(|c| class[usize::from(*c)]).collect();
                let other = *known.entry((term.head, children)).or_insert(id);
                changed |= join(&mut class, id, other);
            }
            if !changed {
                return class[usize::from(a)] == class[usize::from(b)];
            }
        }
    }

    #[test]
    fn every_equality_has_a_proof_that_suffices() {
        let terms = saturated(CELL);
        let proofs = Proofs::new(&terms);
        let mut classes: FxHashMap<Id, Vec<Id>> = FxHashMap::default();
        for id in (0..terms.nodes().len()).map(Id::from) {
            classes.entry(terms.find(id)).or_default().push(id);
        }
        let (mut rules, mut pairs) = (FxHashSet::default(), 0);
        for members in classes.values() {
            for pair in members.windows(2) {
                let steps = proofs.explain(pair[0], pair[1]);
                assert!(follows(&terms, &steps, pair[0], pair[1]), "{steps:?}");
                assert!(steps.iter().all(|s| s.rule.is_some()), "{steps:?}");
                rules.extend(steps.iter().filter_map(|s| s.rule));
                pairs += 1;
            }
        }
        assert!(pairs > 20, "{pairs}");
        let named = |name: &str| rules.contains(&Symbol::from(name));
        assert!(named("push-view") && named("tanh-odd") && named("mul-neg"), "{rules:?}");
    }

    #[test]
    fn terms_that_are_not_equal_have_no_proof() {
        let terms = saturated(CELL);
        let proofs = Proofs::new(&terms);
        let leaf = |position: u32| {
            let term = Term::leaf(crate::language::Head::Leaf(position));
            terms.lookup(term).unwrap()
        };
        assert_eq!(proofs.explain(leaf(0), leaf(1)), []);
        assert_eq!(proofs.explain(leaf(0), leaf(0)), []);
    }
}
