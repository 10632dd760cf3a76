//! What is read at the last step is computed from the final states.
//!
//! Reading a history at its last step needs no history: the state after the last step is the final state, and
//! what a step computes from its new states can be computed once, after the loop. A classifier that projects
//! every step and keeps the last projects once, and the loop stacks nothing.

use egg::Id;
use fuse_ir::{Axis, Expr, IndexMap};
use rustc_hash::FxHashMap;

use crate::analysis::Terms;
use crate::language::{Head, MapId, ScanId, Term};

/// The name of the rule.
pub const NAME: &str = "last-step";

/// Lets every view of a loop's value that reads the last step alone read what the final states make of it.
pub fn read_final_states(terms: &mut Terms, outputs: &[Id]) {
    let mut found: Vec<(Id, MapId, Id)> = Vec::new();
    for class in terms.classes() {
        for term in &class.nodes {
            if let Head::Reindex(map) = term.head
                && !terms[term.children[0]].data.inside.is_empty()
            {
                found.push((class.id, map, term.children[0]));
            }
        }
    }
    found.sort_unstable();
    let mut reader = Reader { known: FxHashMap::default() };
    for (class, map, x) in found {
        let x = terms.find(x);
        let inside = terms[x].data.inside.clone();
        let Some(scan) = inside.iter().find(|s| reads_last(terms, *s, map)) else { continue };
        let is_state = next_state(terms, scan, x).is_some();
        // What is in memory as a whole is read there.
        if !is_state && outputs.iter().any(|o| terms.find(*o) == x) {
            continue;
        }
        let Some(last) = reader.at_last(terms, scan, x) else { continue };
        let mut rest = terms.analysis.tables.map(map).clone();
        rest.results.remove(terms.analysis.tables.scan(scan).depth());
        let space = terms.analysis.tables.extents(terms[last].data.space);
        let read = if rest.is_identity() && *space == rest.domain {
            last
        } else {
            let rest = terms.analysis.tables.map_id(rest);
            terms.add(Term::new(Head::Reindex(rest), &[last]))
        };
        terms.union(class, read);
        terms.analysis.tables.retired.views.insert((map, x));
    }
    terms.rebuild();
}

/// Whether a map reads the last step of a scan wherever it reads.
fn reads_last(terms: &Terms, scan: ScanId, map: MapId) -> bool {
    let tables = &terms.analysis.tables;
    let (info, map) = (tables.scan(scan), tables.map(map));
    // An axis of extent 1 has no position but 0.
    let only = |(a, n): (usize, &Expr)| if n.is_one() { Expr::constant(0) } else { Expr::axis(a) };
    let positions: Vec<Expr> = map.domain.iter().enumerate().map(only).collect();
    map.results[info.depth()].substitute_axes(&positions) == info.trip.clone() - Expr::constant(1)
}

/// The state of a scan that a class is after each step.
fn next_state(terms: &Terms, scan: ScanId, x: Id) -> Option<u32> {
    let mut carries = terms.analysis.tables.scan(scan).carries.iter();
    carries.position(|c| terms.find(c.next) == terms.find(x)).map(|i| i as u32)
}

struct Reader {
    /// The last steps of classes; `None` where unknown, or being worked out.
    known: FxHashMap<(ScanId, Id), Option<Id>>,
}

impl Reader {
    /// A class at the last step of a scan, over its space without the scan's time axis.
    fn at_last(&mut self, terms: &mut Terms, scan: ScanId, x: Id) -> Option<Id> {
        let x = terms.find(x);
        let depth = terms.analysis.tables.scan(scan).depth();
        if let Some(i) = next_state(terms, scan, x) {
            let carry = &terms.analysis.tables.scan(scan).carries[i as usize];
            let last = Term::new(Head::ScanFinal(scan, i), &[carry.init, carry.next]);
            return Some(terms.add(last));
        }
        if !terms[x].data.inside.contains(scan) {
            return Some(view_at_last(terms, scan, x));
        }
        if let Some(known) = self.known.get(&(scan, x)) {
            return *known;
        }
        self.known.insert((scan, x), None);
        let mut nodes: Vec<Term> = terms[x].nodes.clone();
        nodes.sort_unstable();
        let last = nodes.into_iter().find_map(|term| self.term_at_last(terms, scan, depth, &term));
        self.known.insert((scan, x), last);
        last
    }

    fn term_at_last(&mut self, terms: &mut Terms, scan: ScanId, depth: usize, term: &Term) -> Option<Id> {
        match term.head {
            Head::Scalar(_) | Head::Cast(_) | Head::Reduce(..) => {
                let children = term.children.iter().map(|c| self.at_last(terms, scan, *c));
                let children: Vec<Id> = children.collect::<Option<_>>()?;
                Some(terms.add(Term::new(term.head, &children)))
            }
            Head::Reindex(map) => {
                let map = without_axis(terms.analysis.tables.map(map), depth)?;
                let child = self.at_last(terms, scan, term.children[0])?;
                let map = terms.analysis.tables.map_id(map);
                Some(terms.add(Term::new(Head::Reindex(map), &[child])))
            }
            // The state at the start of the last step is not kept; the rest does not lie in a loop, or is rare.
            Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_)
            | Head::Gather(_)
            | Head::Leaf(_)
            | Head::Constant(_)
            | Head::Index(_) => None,
        }
    }
}

/// A map without the time axis `depth` of both its spaces, where it stays in the same step.
fn without_axis(map: &IndexMap, depth: usize) -> Option<IndexMap> {
    let axis = Axis(depth as u32);
    let same_step = map.results.get(depth)?.as_axis() == Some(axis);
    let mixes = map.results.iter().enumerate().any(|(i, e)| i != depth && e.uses_axis(axis));
    if !same_step || mixes {
        return None;
    }
    let renumbered = (0..map.domain.len()).map(|a| Expr::axis(if a > depth { a - 1 } else { a }));
    let renumbered: Vec<Expr> = renumbered.collect();
    let mut rest = IndexMap { domain: map.domain.clone(), results: map.results.clone() };
    rest.domain.remove(depth);
    rest.results.remove(depth);
    rest.results = rest.results.iter().map(|e| e.substitute_axes(&renumbered)).collect();
    Some(rest)
}

/// A class that does not lie in the loop, read at the position of the last step.
fn view_at_last(terms: &mut Terms, scan: ScanId, x: Id) -> Id {
    let tables = &terms.analysis.tables;
    let (info, mut domain) = (tables.scan(scan), tables.extents(terms[x].data.space).clone());
    let depth = info.depth();
    let coordinate = |a: usize| match a.cmp(&depth) {
        std::cmp::Ordering::Less => Expr::axis(a),
        std::cmp::Ordering::Equal => info.trip.clone() - Expr::constant(1),
        std::cmp::Ordering::Greater => Expr::axis(a - 1),
    };
    let results = (0..domain.len()).map(coordinate).collect();
    domain.remove(depth);
    let map = terms.analysis.tables.map_id(IndexMap { domain, results });
    terms.add(Term::new(Head::Reindex(map), &[x]))
}
