//! Which values are computed in which loop, and in what order.
//!
//! A *root* is something that must be stored: a materialised class, a scan's initial or next state, a graph
//! output. A root lies in the loop of a scan if it depends on the scan's state *and* the loop needs it: a next
//! state, or anything that reads the state directly, depends on it. What depends on the state but is needed
//! only afterwards runs after the loop, for all steps at once; what does not depend on it runs before: that is
//! all there is to hoisting.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::Region;
use super::dense::{Class, Dense};
use super::walk::{Materialised, Walk};
use crate::language::{Head, ScanId};
use crate::layout::Layout;
use crate::scan_set::ScanSet;

/// A root, by position.
pub type RootId = usize;

/// Something that must be stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RootKind {
    /// The graph output of that position, of a class that is not materialised.
    Output(u32),
    /// The initial state of a scan.
    Init(ScanId, u32),
    /// The state of a scan after a step.
    Next(ScanId, u32),
    /// A materialised class.
    Value,
}

/// A root.
#[derive(Clone, Debug)]
pub struct Root {
    /// Why it is stored.
    pub kind: RootKind,
    /// What is stored.
    pub class: Class,
    /// What is computed to store it, over the space of the kernel; see [`Dense::computed`].
    pub computed: Class,
    /// What lies between it and memory.
    pub walk: Rc<Walk>,
}

/// A graph output that is stored where a materialised class is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredOutput {
    /// The output, by position.
    pub output: u32,
    /// The class that is stored.
    pub class: Class,
    /// How the output holds the class, where it is not the class itself.
    pub view: Option<Layout>,
}

/// All roots.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// The roots.
    pub roots: Vec<Root>,
    /// The root of each materialised class.
    pub values: HashMap<Class, RootId>,
    /// The graph outputs that are materialised classes, or views of them that are stored with them.
    pub outputs: BTreeMap<Class, Vec<StoredOutput>>,
    /// The initial and next roots of each live state.
    pub states: BTreeMap<(ScanId, u32), (RootId, RootId)>,
}

/// One part of a level, in order of execution.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// A kernel that stores these roots.
    Kernel(Vec<RootId>),
    /// The loop of a scan, and of those that run with it.
    Loop(ScanId, Vec<Item>),
}

/// Where every root is computed.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// For each root the loops around it, outermost first.
    pub chains: Vec<Vec<ScanId>>,
    /// For each live scan the loops around its loop, outermost first.
    pub parents: BTreeMap<ScanId, Vec<ScanId>>,
    /// The scan in whose loop a scan runs, for those that share the loop of another; loops are called by the scan
    /// that has one.
    pub leaders: BTreeMap<ScanId, ScanId>,
}

impl Placement {
    /// The scan whose loop a scan runs in: itself, or the one it was merged with.
    pub fn leader(&self, scan: ScanId) -> ScanId {
        self.leaders.get(&scan).copied().unwrap_or(scan)
    }

    /// Lets `scan`, and what was merged with it, run in the loop of `leader`, which stands beside its own.
    pub fn merge(&mut self, scan: ScanId, leader: ScanId) {
        let chains = self.chains.iter_mut().chain(self.parents.values_mut());
        for around in chains.flatten().filter(|s| **s == scan) {
            *around = leader;
        }
        for around in self.leaders.values_mut().filter(|s| **s == scan) {
            *around = leader;
        }
        self.leaders.insert(scan, leader);
    }
}

/// Why roots cannot be placed; a search rejects the move.
#[derive(Clone, Debug, PartialEq)]
pub struct Misplaced(pub String);

impl Roots {
    /// The roots that a root depends on within one step of a loop at `depth`: reads, and through the states of
    /// deeper scans their initial and next values. States of this loop and of those around it come from
    /// other steps; scans beside it have ended.
    fn operands<'a>(
        &'a self,
        dense: &'a Dense<'_>,
        depth: usize,
        root: RootId,
    ) -> impl Iterator<Item = RootId> + 'a {
        let walk = &self.roots[root].walk;
        let reads = walk.reads.iter().filter_map(|r| self.values.get(&r.class).copied());
        let states = walk.carries.iter().chain(&walk.finals);
        let deeper = states.filter(move |s| dense.tables.scan(s.scan).depth() > depth);
        let states = deeper.filter_map(|s| self.states.get(&(s.scan, s.carry)));
        reads.chain(states.flat_map(|(init, next)| [*init, *next]))
    }

    /// The classes in memory that a kernel with these roots computes itself.
    pub fn computed_here(&self, members: &[RootId]) -> Vec<Class> {
        let roots = members.iter().map(|r| &self.roots[*r]);
        let here = roots.filter(|r| r.kind == RootKind::Value || r.computed != r.class);
        here.map(|r| r.computed).collect()
    }

    fn live_scans(&self) -> Vec<ScanId> {
        let mut scans: Vec<ScanId> = self.states.keys().map(|(s, _)| *s).collect();
        scans.dedup();
        scans
    }

    fn len(&self) -> usize {
        self.roots.len()
    }
}

/// How a graph output can be stored without a kernel of its own: with the materialised class that it is, or that
/// it is a view of in some order of axes and directions.
pub fn stored_output(
    dense: &Dense<'_>,
    memory: &Materialised,
    output: u32,
    class: Class,
) -> Option<StoredOutput> {
    if memory.contains(class) {
        return Some(StoredOutput { output, class, view: None });
    }
    dense.nodes[class as usize].iter().find_map(|node| {
        let (Head::Reindex(map), [source]) = (node.head, &node.children[..]) else { return None };
        if !memory.contains(*source) || !dense.below(*source, class) || dense.gathered[*source as usize] {
            return None;
        }
        let extents = dense.tables.extents(dense.data[*source as usize].space);
        let layout = Layout::of_view(dense.tables.map(map), extents)?;
        // What has no axes but time is stored element by element anyway.
        let scalar = dense.least_steps[*source as usize] == extents.len();
        (scalar || layout.keeps_last(extents)).then_some(StoredOutput {
            output,
            class: *source,
            view: Some(layout),
        })
    })
}

/// Decides the loops around every root.
///
/// # Errors
/// Where two loops that do not nest both claim a root, or a loop would need its own later steps.
pub fn place(dense: &Dense<'_>, roots: &Roots, region: &Region) -> Result<Placement, Misplaced> {
    let scans = roots.live_scans();
    let mut members: Vec<ScanSet> = vec![ScanSet::new(); roots.len()];
    let mut parents: BTreeMap<ScanId, ScanSet> = scans.iter().map(|s| (*s, ScanSet::new())).collect();
    let dependents: BTreeMap<ScanId, Vec<bool>> =
        scans.iter().map(|s| (*s, depends_on(dense, roots, *s))).collect();
    loop {
        let mut changed = false;
        for scan in &scans {
            let anchors = anchors(roots, &members, &parents, *scan);
            let needed = reachable(dense, roots, *scan, &anchors);
            for root in 0..roots.len() {
                let member = anchors.contains(&root) || (needed[root] && dependents[scan][root]);
                changed |= member && members[root].insert(*scan);
            }
        }
        // A state is initialised where its loop stands.
        for ((scan, _), (init, _)) in &roots.states {
            if let Some(p) = parents.get_mut(scan) {
                changed |= p.union_with(&members[*init]);
            }
        }
        for set in &members {
            for inner in set.iter() {
                for outer in set.iter() {
                    let depth = |s: ScanId| dense.tables.scan(s).depth();
                    if depth(outer) < depth(inner)
                        && let Some(p) = parents.get_mut(&inner)
                    {
                        changed |= p.insert(outer);
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    let chain = |set: &ScanSet| {
        let mut chain: Vec<ScanId> = set.iter().collect();
        chain.sort_by_key(|s| dense.tables.scan(*s).depth());
        chain
    };
    let placement = Placement {
        chains: members.iter().map(chain).collect(),
        parents: parents.iter().map(|(s, p)| (*s, chain(p))).collect(),
        leaders: BTreeMap::new(),
    };
    check(dense, roots, &placement, region)?;
    Ok(placement)
}

/// The roots whose value depends on the state of a scan, in whatever way.
fn depends_on(dense: &Dense<'_>, roots: &Roots, scan: ScanId) -> Vec<bool> {
    let depth = dense.tables.scan(scan).depth();
    let reads_state = |r: RootId| roots.roots[r].walk.carries.iter().any(|c| c.scan == scan);
    let mut depends: Vec<bool> = (0..roots.len()).map(reads_state).collect();
    loop {
        let mut changed = false;
        for root in 0..roots.len() {
            if !depends[root] && roots.operands(dense, depth, root).any(|o| depends[o]) {
                depends[root] = true;
                changed = true;
            }
        }
        if !changed {
            return depends;
        }
    }
}

/// The roots that must be in the loop of a scan, whatever they depend on.
fn anchors(
    roots: &Roots,
    members: &[ScanSet],
    parents: &BTreeMap<ScanId, ScanSet>,
    scan: ScanId,
) -> Vec<RootId> {
    let inner = |s: ScanId| parents.get(&s).is_some_and(|p| p.contains(scan));
    let anchor = |r: &RootId| {
        let root = &roots.roots[*r];
        let own = match root.kind {
            RootKind::Next(s, _) => s == scan,
            RootKind::Init(s, _) => inner(s),
            RootKind::Output(_) | RootKind::Value => false,
        };
        own || root.walk.carries.iter().any(|c| c.scan == scan)
            || root.walk.finals.iter().any(|f| inner(f.scan))
            || members[*r].iter().any(inner)
    };
    (0..roots.len()).filter(anchor).collect()
}

/// The roots that some roots need within a step of a scan.
fn reachable(dense: &Dense<'_>, roots: &Roots, scan: ScanId, from: &[RootId]) -> Vec<bool> {
    let depth = dense.tables.scan(scan).depth();
    let mut seen = vec![false; roots.len()];
    let mut pending = from.to_vec();
    while let Some(root) = pending.pop() {
        if !std::mem::replace(&mut seen[root], true) {
            pending.extend(roots.operands(dense, depth, root));
        }
    }
    seen
}

fn check(dense: &Dense<'_>, roots: &Roots, placement: &Placement, region: &Region) -> Result<(), Misplaced> {
    let fail = |text: String| Err(Misplaced(text));
    let depth = |s: ScanId| dense.tables.scan(s).depth();
    for (r, chain) in placement.chains.iter().enumerate() {
        if !chain.is_sorted_by(|a, b| depth(*a) < depth(*b)) {
            return fail(format!("a value lies in loops that do not nest: {chain:?}"));
        }
        for (i, scan) in chain.iter().enumerate() {
            if placement.parents.get(scan).is_none_or(|p| p != &chain[..i]) {
                return fail(format!("the loops around {scan:?} differ"));
            }
        }
        let root = &roots.roots[r];
        for read in &root.walk.reads {
            let Some(value) = roots.values.get(&read.class) else { continue };
            let shared = chain.iter().zip(&placement.chains[*value]).take_while(|(a, b)| a == b);
            if shared.map(|(s, _)| *s).any(|s| read.steps <= depth(s)) {
                return fail("a loop reads another step of a value made in it".into());
            }
        }
        if root.walk.recurrence.is_some_and(|axis| chain.iter().any(|s| depth(*s) == axis)) {
            return fail("a recurrence runs along the axis of a loop around it".into());
        }
        if root.walk.carries.iter().any(|c| c.steps <= depth(c.scan) || !chain.contains(&c.scan)) {
            return fail("a state is read outside its step".into());
        }
        for state in &root.walk.finals {
            if region.is_foreign_scan(dense, state.scan) {
                continue;
            }
            let around = placement.parents.get(&state.scan);
            let reachable =
                around.is_some_and(|p| p.iter().all(|q| chain.contains(q) && state.steps > depth(*q)));
            if !reachable || chain.contains(&state.scan) {
                return fail("a final state is read where it no longer is".into());
            }
        }
    }
    Ok(())
}

/// What each part of a level needs directly.
type Operands = BTreeMap<Part, Vec<Part>>;

/// A part of one level: a root, or a loop with all that is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// A root.
    Root(RootId),
    /// A loop.
    Loop(ScanId),
}

/// Orders the roots and joins those that one kernel can store.
///
/// # Errors
/// Where parts of a level need each other.
pub fn arrange(
    dense: &Dense<'_>,
    roots: &Roots,
    placement: &Placement,
    join: &mut impl FnMut(&[RootId], RootId) -> bool,
) -> Result<Vec<Item>, Misplaced> {
    Levels::new(dense, roots, placement).arrange(&[], join)
}

/// The parts of every level and what they need of each other.
pub struct Levels<'a> {
    dense: &'a Dense<'a>,
    roots: &'a Roots,
    parts: BTreeMap<Vec<ScanId>, Vec<Part>>,
    edges: BTreeMap<Vec<ScanId>, Vec<(Part, Part)>>,
}

impl<'a> Levels<'a> {
    /// The levels of a placement.
    pub fn new(dense: &'a Dense<'a>, roots: &'a Roots, placement: &Placement) -> Self {
        let mut levels = Levels { dense, roots, parts: BTreeMap::new(), edges: BTreeMap::new() };
        for (r, root) in roots.roots.iter().enumerate() {
            let from = (placement.chains[r].as_slice(), Part::Root(r));
            for read in &root.walk.reads {
                if let Some(value) = roots.values.get(&read.class) {
                    levels.need(from, (&placement.chains[*value], Part::Root(*value)));
                }
            }
            for state in &root.walk.finals {
                if let Some(around) = placement.parents.get(&state.scan) {
                    levels.need(from, (around, Part::Loop(placement.leader(state.scan))));
                }
            }
        }
        for ((scan, _), (init, _)) in &roots.states {
            if let Some(around) = placement.parents.get(scan) {
                let own = (around.as_slice(), Part::Loop(placement.leader(*scan)));
                levels.need(own, (&placement.chains[*init], Part::Root(*init)));
            }
        }
        for (r, chain) in placement.chains.iter().enumerate() {
            levels.parts.entry(chain.clone()).or_default().push(Part::Root(r));
        }
        for (scan, around) in placement.parents.iter().filter(|(s, _)| placement.leader(**s) == **s) {
            levels.parts.entry(around.clone()).or_default().push(Part::Loop(*scan));
        }
        levels
    }

    /// Notes that one part needs another, on the level that both lie on.
    fn need(&mut self, from: (&[ScanId], Part), to: (&[ScanId], Part)) {
        let common = from.0.iter().zip(to.0).take_while(|(a, b)| a == b).count();
        let part = |(chain, part): (&[ScanId], Part)| chain.get(common).map_or(part, |s| Part::Loop(*s));
        let (part_from, part_to, level) = (part(from), part(to), from.0[..common].to_vec());
        if part_from != part_to {
            self.edges.entry(level).or_default().push((part_from, part_to));
        }
    }

    /// The parts of a level, each after what it needs, and what each needs directly.
    ///
    /// # Errors
    /// Where parts need each other.
    pub fn ordered(&self, level: &[ScanId]) -> Result<(Vec<Part>, Operands), Misplaced> {
        let none = Vec::new();
        let parts = self.parts.get(level).unwrap_or(&none);
        let edges = self.edges.get(level).map_or(&[][..], Vec::as_slice);
        let mut operands: Operands = parts.iter().map(|p| (*p, Vec::new())).collect();
        for (from, to) in edges {
            operands.entry(*from).or_default().push(*to);
        }
        Ok((topological(parts, &operands)?, operands))
    }
}

/// A kernel or loop under construction.
struct Group {
    parts: Vec<Part>,
    /// Groups that must run before.
    operands: Vec<usize>,
}

impl Levels<'_> {
    /// The kernels and loops of a level, and of those in it, in order of execution.
    ///
    /// # Errors
    /// Where parts of a level need each other.
    pub fn arrange(
        &self,
        chain: &[ScanId],
        join: &mut impl FnMut(&[RootId], RootId) -> bool,
    ) -> Result<Vec<Item>, Misplaced> {
        let (order, operands) = self.ordered(chain)?;
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of: BTreeMap<Part, usize> = BTreeMap::new();
        for part in order {
            let mut before: Vec<usize> =
                operands[&part].iter().filter_map(|o| group_of.get(o).copied()).collect();
            before.sort_unstable();
            before.dedup();
            let host = match part {
                Part::Root(root) => self.host(&groups, &before, root, join),
                Part::Loop(_) => None,
            };
            let at = host.unwrap_or_else(|| {
                groups.push(Group { parts: Vec::new(), operands: Vec::new() });
                groups.len() - 1
            });
            groups[at].parts.push(part);
            groups[at].operands.extend(before.into_iter().filter(|g| *g != at));
            group_of.insert(part, at);
        }
        self.emit(chain, &groups, join)
    }

    /// The group that a root can join: same space, reading its members only at the same point, and no way
    /// from the group to the root through another.
    fn host(
        &self,
        groups: &[Group],
        before: &[usize],
        root: RootId,
        join: &mut impl FnMut(&[RootId], RootId) -> bool,
    ) -> Option<usize> {
        let space = |r: RootId| self.dense.data[self.roots.roots[r].computed as usize].space;
        let along = |r: RootId| self.roots.roots[r].walk.recurrence;
        let same_axis = |r: RootId| match (along(r), along(root)) {
            (Some(a), Some(b)) => a == b,
            (None, _) | (_, None) => true,
        };
        let reads = &self.roots.roots[root].walk.reads;
        let members = |g: usize| {
            groups[g].parts.iter().filter_map(|p| match p {
                Part::Root(r) => Some(*r),
                Part::Loop(_) => None,
            })
        };
        let fits = |g: &usize| {
            let same_point = |r: RootId| {
                let value = self.roots.roots[r].kind == RootKind::Value;
                let class = self.roots.roots[r].class;
                !value || reads.iter().all(|read| read.class != class || read.identity)
            };
            let kernel = matches!(groups[*g].parts.first(), Some(Part::Root(_)));
            kernel
                && members(*g).all(|r| space(r) == space(root) && same_point(r) && same_axis(r))
                && before.iter().all(|b| b == g || !reaches(groups, *b, *g))
        };
        // Where it reads from first: that saves loads; then the earliest.
        let mut candidates: Vec<usize> = before.iter().copied().filter(|g| fits(g)).collect();
        candidates.extend((0..groups.len()).filter(|g| !before.contains(g) && fits(g)));
        candidates.into_iter().find(|g| join(&members(*g).collect::<Vec<_>>(), root))
    }

    fn emit(
        &self,
        chain: &[ScanId],
        groups: &[Group],
        join: &mut impl FnMut(&[RootId], RootId) -> bool,
    ) -> Result<Vec<Item>, Misplaced> {
        let ids: Vec<Part> = (0..groups.len()).map(Part::Root).collect();
        let operands = groups.iter().map(|g| g.operands.iter().map(|o| Part::Root(*o)).collect());
        let operands = ids.iter().copied().zip(operands).collect();
        let mut items = Vec::with_capacity(groups.len());
        for part in topological(&ids, &operands)? {
            let Part::Root(g) = part else { continue };
            match groups[g].parts.first() {
                Some(Part::Loop(scan)) => {
                    let inner: Vec<ScanId> = chain.iter().copied().chain([*scan]).collect();
                    items.push(Item::Loop(*scan, self.arrange(&inner, join)?));
                }
                Some(Part::Root(_)) | None => {
                    let members = groups[g].parts.iter().filter_map(|p| match p {
                        Part::Root(r) => Some(*r),
                        Part::Loop(_) => None,
                    });
                    items.push(Item::Kernel(members.collect()));
                }
            }
        }
        Ok(items)
    }
}

fn reaches(groups: &[Group], from: usize, to: usize) -> bool {
    let mut seen = vec![false; groups.len()];
    let mut pending = vec![from];
    while let Some(g) = pending.pop() {
        if g == to {
            return true;
        }
        if !std::mem::replace(&mut seen[g], true) {
            pending.extend(&groups[g].operands);
        }
    }
    false
}

/// Operands first; of the ready parts the least first.
fn topological(parts: &[Part], operands: &BTreeMap<Part, Vec<Part>>) -> Result<Vec<Part>, Misplaced> {
    let mut waiting: BTreeMap<Part, usize> = BTreeMap::new();
    let mut users: BTreeMap<Part, Vec<Part>> = BTreeMap::new();
    for part in parts {
        let mut distinct = operands.get(part).cloned().unwrap_or_default();
        distinct.sort_unstable();
        distinct.dedup();
        waiting.insert(*part, distinct.len());
        for operand in distinct {
            users.entry(operand).or_default().push(*part);
        }
    }
    let mut ready: std::collections::BTreeSet<Part> =
        waiting.iter().filter(|(_, n)| **n == 0).map(|(p, _)| *p).collect();
    let mut order = Vec::with_capacity(parts.len());
    while let Some(part) = ready.pop_first() {
        order.push(part);
        for user in users.get(&part).into_iter().flatten() {
            if let Some(n) = waiting.get_mut(user) {
                *n -= 1;
                if *n == 0 {
                    ready.insert(*user);
                }
            }
        }
    }
    if order.len() == parts.len() { Ok(order) } else { Err(Misplaced("kernels need each other".into())) }
}
