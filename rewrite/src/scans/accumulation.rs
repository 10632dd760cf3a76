//! A sum that only the end of a loop needs is a sum over time.
//!
//! A state to which every step adds a term, and which nothing else reads, is after the loop its initial value
//! plus the sum of the terms over all steps: one reduction over time, outside. A sum of products of two
//! sequences, the gradient of a weight for one, becomes a single contraction over time and whatever each step
//! contracts; the same goes for products, maxima and minima. Rows that end early add nothing.
//!
//! Where the terms depend on other states of the loop their history must be kept for this, which pays only for
//! products; and a history of the sum itself (a running sum) needs the loop anyway.

use std::collections::{BTreeSet, HashMap};

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::{DType, Expr, IndexMap};

use crate::analysis::Terms;
use crate::language::{Head, ScanId, Term};

/// The name of the rule.
pub const NAME: &str = "terminal-accumulation";

/// Replaces final states that accumulate by reductions over time.
pub fn sum_after_the_loop(terms: &mut Terms, outputs: &[Id], stacked: &[Id]) {
    if terms.analysis.tables.scans.is_empty() {
        return;
    }
    let users = Users::new(terms, outputs, stacked);
    for s in 0..terms.analysis.tables.scans.len() {
        for i in 0..terms.analysis.tables.scans[s].carries.len() {
            let (scan, i) = (ScanId::from(s), i as u32);
            if let Some(found) = accumulation(terms, &users, scan, i) {
                found.replace(terms, scan, i);
            }
        }
    }
    terms.rebuild();
}

/// A state that accumulates.
struct Accumulation {
    op: ScalarOp,
    reduction: ReduceOp,
    /// What a step adds.
    term: Id,
    /// Where it adds it; `None` everywhere.
    running: Option<Id>,
    /// Whether the term is itself such a reduction of something that nothing else needs, over that many axes.
    inner: Option<(Id, u8)>,
}

/// How a state accumulates, if that is all that happens to it.
fn accumulation(terms: &Terms, users: &Users, scan: ScanId, i: u32) -> Option<Accumulation> {
    let carry = &terms.analysis.tables.scan(scan).carries[i as usize];
    let state = terms.lookup(Term::leaf(Head::Carry(scan, i)))?;
    let next = terms.find(carry.next);
    let only_final = |(class, head): &(Id, Head)| *class != next && *head == Head::ScanFinal(scan, i);
    if users.fixed.contains(&state) || users.fixed.contains(&next) || !users.of(next).iter().all(only_final) {
        return None;
    }
    let (added, running) = match select_of_state(terms, next, state) {
        Some((running, added)) => (added, Some(running)),
        None => (next, None),
    };
    let (op, reduction, term) = step(terms, added, state)?;
    let within = |id: Id| id == next || id == added;
    let alone = users.of(state).iter().all(|(class, _)| within(*class));
    let unshared =
        added == next || (users.of(added).iter().all(|u| u.0 == next) && !users.fixed.contains(&added));
    // Narrow floats round every step, which a reduction does not.
    let dtype = terms[state].data.dtype;
    if !alone || !unshared || dtype == DType::Bool || dtype.accumulator() != dtype {
        return None;
    }
    let term_alone = users.of(term).iter().all(|u| u.0 == added) && !users.fixed.contains(&term);
    let reduces = |t: &Term| match t.head {
        Head::Reduce(op, axes) if op == reduction => Some((t.children[0], axes)),
        _ => None,
    };
    let inner = terms[term].nodes.iter().find_map(reduces).filter(|_| running.is_none() && term_alone);
    if terms[term].data.inside.contains(scan) && inner.is_none() {
        return None;
    }
    Some(Accumulation { op, reduction, term, running, inner })
}

/// The condition and the value of a selection between a value and the old state.
fn select_of_state(terms: &Terms, next: Id, state: Id) -> Option<(Id, Id)> {
    terms[next].nodes.iter().find_map(|t| match (t.head, &t.children[..]) {
        (Head::Scalar(ScalarOp::Select), [running, value, old]) if terms.find(*old) == state => {
            Some((terms.find(*running), terms.find(*value)))
        }
        _ => None,
    })
}

/// What a step combines the state with, and how.
fn step(terms: &Terms, added: Id, state: Id) -> Option<(ScalarOp, ReduceOp, Id)> {
    terms[added].nodes.iter().find_map(|t| {
        let (op, reduction) = match t.head {
            Head::Scalar(ScalarOp::Add) => (ScalarOp::Add, ReduceOp::Sum),
            Head::Scalar(ScalarOp::Mul) => (ScalarOp::Mul, ReduceOp::Prod),
            Head::Scalar(ScalarOp::Max) => (ScalarOp::Max, ReduceOp::Max),
            Head::Scalar(ScalarOp::Min) => (ScalarOp::Min, ReduceOp::Min),
            _ => return None,
        };
        let [a, b] = [terms.find(t.children[0]), terms.find(t.children[1])];
        match (a == state, b == state) {
            (true, false) => Some((op, reduction, b)),
            (false, true) => Some((op, reduction, a)),
            (true, true) | (false, false) => None,
        }
    })
}

impl Accumulation {
    fn replace(self, terms: &mut Terms, scan: ScanId, i: u32) {
        let info = terms.analysis.tables.scan(scan);
        let (depth, carry) = (info.depth(), &info.carries[i as usize]);
        let (init, next, rank) = (carry.init, carry.next, info.depth() + carry.ty.rank());
        let (value, axes) = match (self.inner, self.running) {
            (Some((inner, axes)), _) => (inner, axes),
            (None, Some(running)) => (self.nothing_past_the_end(terms, running), 0),
            (None, None) => (self.term, 0),
        };
        // Time moves behind the axes of the state, where reductions take it, before what was reduced already.
        let from = terms.analysis.tables.extents(terms[value].data.space).clone();
        let place = |a: usize| match a {
            a if a < depth || a > rank => a,
            a if a == depth => rank,
            a => a - 1,
        };
        let mut domain = from.clone();
        (0..from.len()).for_each(|a| domain[place(a)] = from[a].clone());
        let results = (0..from.len()).map(|a| Expr::axis(place(a))).collect();
        let map = terms.analysis.tables.map_id(IndexMap { domain, results });
        let moved = terms.add(Term::new(Head::Reindex(map), &[value]));
        let sum = terms.add(Term::new(Head::Reduce(self.reduction, axes + 1), &[moved]));
        let total = terms.add(Term::new(Head::Scalar(self.op), &[init, sum]));
        let last = terms.add(Term::new(Head::ScanFinal(scan, i), &[init, next]));
        terms.union(last, total);
        terms.analysis.tables.retired.finals.insert((scan, i));
    }

    /// The term where its row still runs, and past that what changes nothing.
    fn nothing_past_the_end(&self, terms: &mut Terms, running: Id) -> Id {
        let data = &terms[self.term].data;
        let (dtype, space) = (data.dtype, data.space);
        let neutral = self.reduction.identity(dtype);
        let head = terms.analysis.tables.constant_head(neutral, space);
        let neutral = terms.add(Term::leaf(head));
        terms.add(Term::new(Head::Scalar(ScalarOp::Select), &[running, self.term, neutral]))
    }
}

/// Who uses which class.
struct Users {
    terms: HashMap<Id, Vec<(Id, Head)>>,
    /// Classes that are used by more than terms: outputs, histories, states of scans.
    fixed: BTreeSet<Id>,
}

impl Users {
    fn new(terms: &Terms, outputs: &[Id], stacked: &[Id]) -> Self {
        let mut users: HashMap<Id, Vec<(Id, Head)>> = HashMap::new();
        for class in terms.classes() {
            for term in &class.nodes {
                for child in &term.children {
                    users.entry(terms.find(*child)).or_default().push((class.id, term.head));
                }
            }
        }
        let mut fixed: BTreeSet<Id> = outputs.iter().chain(stacked).map(|id| terms.find(*id)).collect();
        let mut nexts = BTreeSet::new();
        for carry in terms.analysis.tables.scans.iter().flat_map(|s| &s.carries) {
            fixed.insert(terms.find(carry.init));
            // One value for two states: each is the state of the other's accumulation too.
            if !nexts.insert(terms.find(carry.next)) {
                fixed.insert(terms.find(carry.next));
            }
        }
        Users { terms: users, fixed }
    }

    fn of(&self, class: Id) -> &[(Id, Head)] {
        self.terms.get(&class).map_or(&[], Vec::as_slice)
    }
}
