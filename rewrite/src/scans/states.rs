//! States that never change, and states that are always equal.

use std::collections::BTreeMap;

use egg::Id;
use fuse_ir::{DType, Expr, IndexMap};

use crate::analysis::Terms;
use crate::language::{Head, ScanId, Term};

/// The name of the rule about states that never change.
pub const UNCHANGED: &str = "unchanged-state";

/// The name of the rule about states that are always equal.
pub const DUPLICATE: &str = "duplicate-state";

/// A state that every step hands on unchanged is its initial value throughout; which may make the state of an
/// enclosing scan unchanged.
pub fn drop_unchanged(terms: &mut Terms) {
    while drop_unchanged_once(terms) {}
}

fn drop_unchanged_once(terms: &mut Terms) -> bool {
    let mut changed = false;
    let mut carries = Vec::new();
    for class in terms.classes() {
        for term in &class.nodes {
            if let Head::Carry(scan, i) = term.head {
                carries.push((class.id, scan, i));
            }
        }
    }
    carries.sort_unstable();
    for (class, scan, i) in carries {
        let info = terms.analysis.tables.scan(scan);
        let (carry, depth) = (&info.carries[i as usize], info.depth());
        let (init, next) = (carry.init, carry.next);
        if terms.find(next) != terms.find(class) {
            continue;
        }
        let domain = terms.analysis.tables.extents(terms[class].data.space).clone();
        let results = (0..domain.len()).filter(|a| *a != depth).map(Expr::axis).collect();
        let map = terms.analysis.tables.map_id(IndexMap { domain, results });
        let repeated = terms.add(Term::new(Head::Reindex(map), &[init]));
        let last = terms.add(Term::new(Head::ScanFinal(scan, i), &[init, next]));
        changed |= terms.union(class, repeated);
        changed |= terms.union(last, init);
    }
    terms.rebuild();
    changed
}

/// States of one scan, by position, that begin equal.
type Block = (ScanId, Vec<u32>);

/// States of a scan that begin equal, and that every step leaves equal if it found them equal, are equal
/// throughout: by induction over the steps. Which states those are is found as the coarsest partition that a
/// step respects (Hopcroft, 1971), with the e-graph's own congruence as what a step is known to respect.
pub fn merge_duplicates(terms: &mut Terms) {
    let mut blocks = candidates(terms);
    while !blocks.is_empty() {
        let mut assumed = terms.clone();
        for (scan, members) in &blocks {
            unite(&mut assumed, *scan, members);
        }
        assumed.rebuild();
        let refined: Vec<Block> = blocks.iter().flat_map(|b| split(&assumed, b)).collect();
        if refined == blocks {
            break;
        }
        blocks = refined;
    }
    for (scan, members) in blocks {
        unite(terms, scan, &members);
    }
    terms.rebuild();
}

/// Blocks of states of equal type and initial value, that are not known to be equal.
fn candidates(terms: &Terms) -> Vec<Block> {
    let mut out = Vec::new();
    for (s, info) in terms.analysis.tables.scans.iter().enumerate() {
        let scan = ScanId::from(s);
        let mut blocks: BTreeMap<(Id, DType), Vec<u32>> = BTreeMap::new();
        for (i, carry) in info.carries.iter().enumerate() {
            if terms.lookup(Term::leaf(Head::Carry(scan, i as u32))).is_some() {
                blocks.entry((terms.find(carry.init), carry.ty.dtype)).or_default().push(i as u32);
            }
        }
        let distinct = |members: &[u32]| {
            let class = |i: &u32| terms.lookup(Term::leaf(Head::Carry(scan, *i)));
            members.iter().any(|i| class(i) != class(&members[0]))
        };
        // What a step makes of equal states is equal by congruence only if the terms have a head in common.
        let alike = |members: &[u32]| {
            let heads = |i: u32| terms[info.carries[i as usize].next].nodes.iter().map(|t| t.head);
            let shared = |i: &u32| heads(members[0]).any(|h| heads(*i).any(|g| g == h));
            members.len() > 2 || members.iter().all(shared)
        };
        let of_scan = blocks.into_values().filter(|m| m.len() > 1 && distinct(m) && alike(m));
        out.extend(of_scan.map(|members| (scan, members)));
    }
    out
}

/// The parts of a block whose states are still equal after a step.
fn split(terms: &Terms, (scan, members): &Block) -> Vec<Block> {
    let mut parts: BTreeMap<Id, Vec<u32>> = BTreeMap::new();
    for i in members {
        let next = terms.analysis.tables.scan(*scan).carries[*i as usize].next;
        parts.entry(terms.find(next)).or_default().push(*i);
    }
    let mut parts: Vec<Vec<u32>> = parts.into_values().filter(|p| p.len() > 1).collect();
    parts.sort_unstable();
    parts.into_iter().map(|members| (*scan, members)).collect()
}

/// Makes states equal, and what they are after the loop.
fn unite(terms: &mut Terms, scan: ScanId, members: &[u32]) {
    let term = |terms: &mut Terms, i: u32| {
        let carry = &terms.analysis.tables.scan(scan).carries[i as usize];
        let last = Term::new(Head::ScanFinal(scan, i), &[carry.init, carry.next]);
        (terms.add(Term::leaf(Head::Carry(scan, i))), terms.add(last))
    };
    let (first, first_last) = term(terms, members[0]);
    for i in &members[1..] {
        let (state, last) = term(terms, *i);
        terms.union(first, state);
        terms.union(first_last, last);
    }
}
