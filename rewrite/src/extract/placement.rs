//! Which values are computed in which loop.
//!
//! A *root* is something that must be stored: a materialised class, a scan's initial or next state, a graph
//! output. A root lies in the loop of a scan if it depends on the scan's state *and* the loop needs it: a next
//! state, or anything that reads the state directly, depends on it. What depends on the state but is needed
//! only afterwards runs after the loop, for all steps at once; what does not depend on it runs before: that is
//! all there is to hoisting.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::Region;
use super::bits::Bits;
use super::dense::Dense;
use super::roots::{RootId, RootKind, Roots};
use crate::language::ScanId;
use crate::scan_set::ScanSet;

/// Loops in each other, the outermost first.
pub type Chain = SmallVec<[ScanId; 2]>;

/// A chain of loops, by position.
pub type ChainId = usize;

/// Where every root is computed.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The distinct chains of loops around something. The first is empty.
    chains: Vec<Chain>,
    /// For each root the loops around it.
    around_root: Vec<ChainId>,
    /// For each live scan, ascending, the loops around its loop.
    around_scan: Vec<(ScanId, ChainId)>,
    /// The scan in whose loop a scan runs, for those that share the loop of another; loops are called by the scan
    /// that has one.
    leaders: BTreeMap<ScanId, ScanId>,
}

impl Placement {
    /// The distinct chains of loops around something.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// Which chain of loops a root is in.
    pub fn chain_id(&self, root: RootId) -> ChainId {
        self.around_root[root]
    }

    /// The loops around a root, outermost first.
    pub fn chain(&self, root: RootId) -> &[ScanId] {
        &self.chains[self.around_root[root]]
    }

    /// The live scans, ascending, and which chain of loops each loop is in.
    pub fn scans(&self) -> &[(ScanId, ChainId)] {
        &self.around_scan
    }

    /// Which chain of loops the loop of a live scan is in.
    pub fn around_id(&self, scan: ScanId) -> Option<ChainId> {
        let at = self.around_scan.binary_search_by_key(&scan, |s| s.0).ok()?;
        Some(self.around_scan[at].1)
    }

    /// The loops around the loop of a live scan, outermost first.
    pub fn around(&self, scan: ScanId) -> Option<&[ScanId]> {
        self.around_id(scan).map(|chain| &self.chains[chain][..])
    }

    /// The scan whose loop a scan runs in: itself, or the one it was merged with.
    pub fn leader(&self, scan: ScanId) -> ScanId {
        self.leaders.get(&scan).copied().unwrap_or(scan)
    }

    /// Whether any scan shares the loop of another.
    pub fn has_merged(&self) -> bool {
        !self.leaders.is_empty()
    }

    /// Lets `scan`, and what was merged with it, run in the loop of `leader`, which stands beside its own.
    pub fn merge(&mut self, scan: ScanId, leader: ScanId) {
        let chains = std::mem::take(&mut self.chains);
        let renamed = chains.into_iter().map(|mut chain| {
            chain.iter_mut().filter(|s| **s == scan).for_each(|s| *s = leader);
            self.intern(chain)
        });
        let renamed: Vec<ChainId> = renamed.collect();
        let around = self.around_root.iter_mut().chain(self.around_scan.iter_mut().map(|s| &mut s.1));
        around.for_each(|chain| *chain = renamed[*chain]);
        for around in self.leaders.values_mut().filter(|s| **s == scan) {
            *around = leader;
        }
        self.leaders.insert(scan, leader);
    }

    fn intern(&mut self, chain: Chain) -> ChainId {
        match self.chains.iter().position(|c| *c == chain) {
            Some(at) => at,
            None => {
                self.chains.push(chain);
                self.chains.len() - 1
            }
        }
    }
}

/// Why roots cannot be placed; a search rejects the move.
#[derive(Clone, Debug, PartialEq)]
pub struct Misplaced(pub String);

/// Decides the loops around every root.
///
/// # Errors
/// Where two loops that do not nest both claim a root, or a loop would need its own later steps.
pub fn place(
    dense: &Dense<'_>,
    roots: &Roots,
    region: &Region,
    placer: &mut Placer,
    placement: &mut Placement,
) -> Result<(), Misplaced> {
    placer.collect(dense, roots);
    placer.write(dense, placement);
    check(dense, roots, placement, region)
}

/// Finds out which roots lie in which loops; one is used for many decisions, and keeps its memory.
#[derive(Default)]
pub struct Placer {
    /// The live scans, ascending.
    scans: Vec<ScanId>,
    /// For each of them, the scans in whose loops its loop lies.
    parents: Vec<ScanSet>,
    /// For each root, the scans in whose loops it lies.
    members: Vec<ScanSet>,
    /// For each scan, the roots whose value depends on its state, in whatever way.
    dependents: Vec<Bits>,
    /// The roots that must be in the loop of a scan, whatever they depend on.
    anchors: Vec<RootId>,
    /// The roots that these need within a step.
    needed: Bits,
    /// Distinct sets of scans, in order of their chains.
    sets: Vec<ScanSet>,
}

impl Placer {
    fn collect(&mut self, dense: &Dense<'_>, roots: &Roots) {
        self.scans.clear();
        self.scans.extend(roots.states().iter().map(|s| s.scan));
        self.scans.dedup();
        let scans = self.scans.len();
        self.parents.clear();
        self.parents.resize(scans, ScanSet::new());
        self.members.clear();
        self.members.resize(roots.len(), ScanSet::new());
        self.dependents.resize_with(scans.max(self.dependents.len()), Bits::default);
        for scan in 0..scans {
            depends_on(dense, roots, self.scans[scan], &mut self.dependents[scan]);
        }
        while self.claim(dense, roots) {}
    }

    /// Lets every loop claim what it needs; whether that may let loops claim more.
    fn claim(&mut self, dense: &Dense<'_>, roots: &Roots) -> bool {
        let mut changed = false;
        for i in 0..self.scans.len() {
            let scan = self.scans[i];
            self.find_anchors(roots, scan);
            self.find_needed(dense, roots, scan);
            for root in &self.anchors {
                changed |= self.members[*root].insert(scan);
            }
            for root in self.needed.iter().filter(|r| self.dependents[i].contains(*r)) {
                changed |= self.members[root].insert(scan);
            }
        }
        // A state is initialised where its loop stands.
        for state in roots.states() {
            if let Ok(at) = self.scans.binary_search(&state.scan) {
                changed |= self.parents[at].union_with(&self.members[state.init]);
            }
        }
        for set in self.members.iter().filter(|set| !set.is_single()) {
            for inner in set.iter() {
                for outer in set.iter() {
                    let depth = |s: ScanId| dense.tables.scan(s).depth();
                    if depth(outer) < depth(inner)
                        && let Ok(at) = self.scans.binary_search(&inner)
                    {
                        changed |= self.parents[at].insert(outer);
                    }
                }
            }
        }
        // Only through loops in others does what one claims matter to another.
        changed && self.parents.iter().any(|p| !p.is_empty())
    }

    /// Whether the loop of a scan lies in that of another.
    fn lies_in(&self, inner: ScanId, outer: ScanId) -> bool {
        self.scans.binary_search(&inner).is_ok_and(|at| self.parents[at].contains(outer))
    }

    fn find_anchors(&mut self, roots: &Roots, scan: ScanId) {
        let mut anchors = std::mem::take(&mut self.anchors);
        let nested = self.parents.iter().any(|p| p.contains(scan));
        let inner = |s: ScanId| nested && self.lies_in(s, scan);
        let anchor = |r: &RootId| {
            let root = &roots.roots[*r];
            let own = match root.kind {
                RootKind::Next(s, _) => s == scan,
                RootKind::Init(s, _) => inner(s),
                RootKind::Output(_) | RootKind::Value => false,
            };
            own || root.walk.carries.iter().any(|c| c.scan == scan)
                || nested
                    && (root.walk.finals.iter().any(|f| inner(f.scan)) || self.members[*r].iter().any(inner))
        };
        anchors.clear();
        anchors.extend((0..roots.len()).filter(anchor));
        self.anchors = anchors;
    }

    /// The roots that the anchors need within a step of a scan.
    fn find_needed(&mut self, dense: &Dense<'_>, roots: &Roots, scan: ScanId) {
        let depth = dense.tables.scan(scan).depth();
        self.needed.clear(roots.len());
        let mut pending: SmallVec<[RootId; 64]> = self.anchors.as_slice().into();
        while let Some(root) = pending.pop() {
            if self.needed.insert(root) {
                pending.extend(roots.operands(dense, depth, root));
            }
        }
    }

    fn write(&mut self, dense: &Dense<'_>, placement: &mut Placement) {
        placement.chains.clear();
        placement.around_root.clear();
        placement.around_scan.clear();
        placement.leaders.clear();
        self.sets.clear();
        self.sets.push(ScanSet::new());
        placement.chains.push(Chain::new());
        let sets = &mut self.sets;
        let mut chain = |set: &ScanSet| match sets.iter().position(|s| s == set) {
            Some(at) => at,
            None => {
                let mut chain: Chain = set.iter().collect();
                chain.sort_by_key(|s| dense.tables.scan(*s).depth());
                sets.push(set.clone());
                placement.chains.push(chain);
                sets.len() - 1
            }
        };
        placement.around_root.extend(self.members.iter().map(&mut chain));
        placement.around_scan.extend(self.scans.iter().zip(&self.parents).map(|(s, p)| (*s, chain(p))));
    }
}

/// The roots whose value depends on the state of a scan, in whatever way.
fn depends_on(dense: &Dense<'_>, roots: &Roots, scan: ScanId, depends: &mut Bits) {
    let depth = dense.tables.scan(scan).depth();
    depends.clear(roots.len());
    for (r, root) in roots.roots.iter().enumerate() {
        if root.walk.carries.iter().any(|c| c.scan == scan) {
            depends.insert(r);
        }
    }
    loop {
        let mut changed = false;
        // Operands mostly come after their users.
        for root in (0..roots.len()).rev() {
            if !depends.contains(root) && roots.operands(dense, depth, root).any(|o| depends.contains(o)) {
                changed |= depends.insert(root);
            }
        }
        if !changed {
            return;
        }
    }
}

fn check(dense: &Dense<'_>, roots: &Roots, placement: &Placement, region: &Region) -> Result<(), Misplaced> {
    let fail = |text: String| Err(Misplaced(text));
    let depth = |s: ScanId| dense.tables.scan(s).depth();
    let mut checked = Bits::default();
    checked.clear(placement.chains.len());
    for (r, root) in roots.roots.iter().enumerate() {
        let id = placement.chain_id(r);
        let chain = placement.chain(r);
        if checked.insert(id) {
            if !chain.is_sorted_by(|a, b| depth(*a) < depth(*b)) {
                return fail(format!("a value lies in loops that do not nest: {chain:?}"));
            }
            for (i, scan) in chain.iter().enumerate() {
                if placement.around(*scan).is_none_or(|p| *p != chain[..i]) {
                    return fail(format!("the loops around {scan:?} differ"));
                }
            }
        }
        if !chain.is_empty() {
            for read in &root.walk.reads {
                let Some(value) = roots.value(read.class) else { continue };
                let shared = chain.iter().zip(placement.chain(value)).take_while(|(a, b)| a == b);
                if shared.map(|(s, _)| *s).any(|s| read.steps as usize <= depth(s)) {
                    return fail("a loop reads another step of a value made in it".into());
                }
            }
        }
        if root.walk.recurrence.is_some_and(|axis| chain.iter().any(|s| depth(*s) == axis)) {
            return fail("a recurrence runs along the axis of a loop around it".into());
        }
        if root.walk.carries.iter().any(|c| c.steps as usize <= depth(c.scan) || !chain.contains(&c.scan)) {
            return fail("a state is read outside its step".into());
        }
        for state in &root.walk.finals {
            if region.is_foreign_scan(dense, state.scan) {
                continue;
            }
            let around = placement.around(state.scan);
            let reachable = around
                .is_some_and(|p| p.iter().all(|q| chain.contains(q) && state.steps as usize > depth(*q)));
            if !reachable || chain.contains(&state.scan) {
                return fail("a final state is read where it no longer is".into());
            }
        }
    }
    Ok(())
}
