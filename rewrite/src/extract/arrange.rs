//! In what order placed roots are computed, and which of them one kernel computes together.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use smallvec::SmallVec;

use super::bits::{Bits, Relation, Sorter, ones};
use super::dense::Dense;
use super::placement::{ChainId, Misplaced, Placement};
use super::roots::{RootId, Roots};
use crate::language::{ScanId, SpaceId};

/// One part of a level, in order of execution.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// A kernel that stores these roots.
    Kernel(Vec<RootId>),
    /// The loop of a scan, and of those that run with it.
    Loop(ScanId, Vec<Item>),
}

/// A part of one level: a root, or a loop with all that is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// A root.
    Root(RootId),
    /// A loop.
    Loop(ScanId),
}

/// What each part of a level needs directly.
pub type Operands = BTreeMap<Part, Vec<Part>>;

/// The parts of a level and what they need of each other.
#[derive(Clone, Debug, Default)]
struct Level {
    /// Ascending.
    parts: Vec<Part>,
    /// The level around, and the loop of that which this level is in.
    outer: Option<(ChainId, ScanId)>,
    /// The number of loops around.
    depth: usize,
    /// What each part needs directly, both by position.
    needs: Relation,
}

/// The parts of every level; one is used for many decisions, and keeps its memory.
#[derive(Default)]
pub struct Levels {
    /// By chain of loops; those in use.
    levels: Vec<Level>,
    used: usize,
    /// The position of each root in its level.
    at_root: Vec<usize>,
    /// The position of the loop of each live scan in its level, and of those merged with another that of the other.
    at_scan: Vec<(ScanId, usize)>,
    grouping: Grouping,
}

impl Levels {
    /// Makes these the levels of a placement.
    pub fn set(&mut self, roots: &Roots, placement: &Placement) {
        self.find_levels(placement);
        self.find_parts(roots, placement);
        for (r, root) in roots.roots.iter().enumerate() {
            let from = (placement.chain_id(r), Part::Root(r));
            for value in roots.values_read(r) {
                self.need(from, (placement.chain_id(*value), Part::Root(*value)));
            }
            for state in &root.walk.finals {
                if let Some(around) = placement.around_id(state.scan) {
                    self.need(from, (around, Part::Loop(placement.leader(state.scan))));
                }
            }
        }
        for state in roots.states() {
            if let Some(around) = placement.around_id(state.scan) {
                let own = (around, Part::Loop(placement.leader(state.scan)));
                self.need(own, (placement.chain_id(state.init), Part::Root(state.init)));
            }
        }
    }

    fn find_levels(&mut self, placement: &Placement) {
        let chains = placement.chains();
        self.used = chains.len();
        self.levels.resize_with(self.used.max(self.levels.len()), Level::default);
        for (level, chain) in self.levels.iter_mut().zip(chains) {
            level.parts.clear();
            level.depth = chain.len();
            let prefix = |scan: &ScanId| {
                let outer = chains.iter().position(|c| c[..] == chain[..chain.len() - 1]);
                outer.map(|outer| (outer, *scan))
            };
            level.outer = chain.last().and_then(prefix);
        }
    }

    fn find_parts(&mut self, roots: &Roots, placement: &Placement) {
        self.at_root.clear();
        self.at_scan.clear();
        for root in 0..roots.len() {
            let parts = &mut self.levels[placement.chain_id(root)].parts;
            self.at_root.push(parts.len());
            parts.push(Part::Root(root));
        }
        for (scan, around) in placement.scans() {
            if placement.leader(*scan) == *scan {
                let parts = &mut self.levels[*around].parts;
                self.at_scan.push((*scan, parts.len()));
                parts.push(Part::Loop(*scan));
            }
        }
        for level in &mut self.levels[..self.used] {
            level.needs.clear(level.parts.len());
        }
    }

    /// Where a part stands in its level.
    fn position(&self, part: Part) -> Option<usize> {
        match part {
            Part::Root(root) => self.at_root.get(root).copied(),
            Part::Loop(scan) => {
                let at = self.at_scan.binary_search_by_key(&scan, |s| s.0).ok()?;
                Some(self.at_scan[at].1)
            }
        }
    }

    /// Notes that one part needs another, on the level that both lie on.
    fn need(&mut self, mut from: (ChainId, Part), mut to: (ChainId, Part)) {
        while from.0 != to.0 {
            let deeper =
                if self.levels[from.0].depth < self.levels[to.0].depth { &mut to } else { &mut from };
            let Some((outer, scan)) = self.levels[deeper.0].outer else { return };
            *deeper = (outer, Part::Loop(scan));
        }
        if from.1 != to.1
            && let (Some(a), Some(b)) = (self.position(from.1), self.position(to.1))
        {
            self.levels[from.0].needs.insert(a, b);
        }
    }

    fn find(&self, level: &[ScanId]) -> Option<ChainId> {
        let (scan, outer) = match level.split_last() {
            None => return Some(0),
            Some((scan, outer)) => (scan, self.find(outer)?),
        };
        self.inner(outer, *scan)
    }

    /// The level in a loop of another; none if nothing is in it.
    fn inner(&self, outer: ChainId, scan: ScanId) -> Option<ChainId> {
        self.levels[..self.used].iter().position(|l| l.outer == Some((outer, scan)))
    }

    /// The parts of a level, each after what it needs, and what each needs directly.
    ///
    /// # Errors
    /// Where parts need each other.
    pub fn ordered(&self, level: &[ScanId]) -> Result<(Vec<Part>, Operands), Misplaced> {
        let Some(level) = self.find(level) else { return Ok(Default::default()) };
        let Level { parts, needs, .. } = &self.levels[level];
        let mut sorter = Sorter::default();
        if !sorter.sort(needs) {
            return Err(circular());
        }
        let operands = |(i, part): (usize, &Part)| (*part, ones(needs.of(i)).map(|o| parts[o]).collect());
        let operands = parts.iter().enumerate().map(operands).collect();
        Ok((sorter.order.iter().map(|i| parts[*i]).collect(), operands))
    }

    /// The kernels and loops of a level and of those in it, in order of execution.
    ///
    /// # Errors
    /// Where parts of a level need each other.
    pub fn arrange(
        &mut self,
        dense: &Dense<'_>,
        roots: &Roots,
        level: &[ScanId],
    ) -> Result<Arranged<'_>, Misplaced> {
        let mut grouping = std::mem::take(&mut self.grouping);
        grouping.events.clear();
        grouping.members.clear();
        grouping.open.clear();
        let done = match self.find(level) {
            Some(level) => self.arrange_level(dense, roots, level, &mut grouping),
            None => Ok(()),
        };
        self.grouping = grouping;
        done.map(|()| self.arranged())
    }

    /// What was arranged last.
    pub fn arranged(&self) -> Arranged<'_> {
        Arranged { events: &self.grouping.events, members: &self.grouping.members }
    }

    fn arrange_level(
        &self,
        dense: &Dense<'_>,
        roots: &Roots,
        level: ChainId,
        grouping: &mut Grouping,
    ) -> Result<(), Misplaced> {
        let start = grouping.open.len();
        grouping.group(dense, roots, &self.levels[level])?;
        for i in start..grouping.open.len() {
            let event = grouping.open[i];
            grouping.events.push(event);
            if let Event::Enter(scan) = event {
                if let Some(inner) = self.inner(level, scan) {
                    self.arrange_level(dense, roots, inner, grouping)?;
                }
                grouping.events.push(Event::Leave);
            }
        }
        grouping.open.truncate(start);
        Ok(())
    }
}

fn circular() -> Misplaced {
    Misplaced("kernels need each other".into())
}

/// What happens next in a program.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Event {
    /// A kernel runs; its members are at these positions.
    Kernel(usize, usize),
    /// A loop begins.
    Enter(ScanId),
    /// The loop that began last ends.
    Leave,
}

/// Kernels and loops in order of execution.
#[derive(Clone, Copy)]
pub struct Arranged<'a> {
    events: &'a [Event],
    members: &'a [RootId],
}

impl<'a> Arranged<'a> {
    /// The same as a tree.
    pub fn items(mut self) -> Vec<Item> {
        let mut items = Vec::new();
        self.take_items(&mut items);
        items
    }

    fn take_items(&mut self, items: &mut Vec<Item>) {
        while let Some((event, rest)) = self.events.split_first() {
            self.events = rest;
            match event {
                Event::Kernel(start, end) => items.push(Item::Kernel(self.members[*start..*end].to_vec())),
                Event::Enter(scan) => {
                    let mut body = Vec::new();
                    self.take_items(&mut body);
                    items.push(Item::Loop(*scan, body));
                }
                Event::Leave => return,
            }
        }
    }

    /// The members of each kernel and the axes of the loops around it, innermost last, after `time`.
    pub fn kernels(
        self,
        dense: &Dense<'_>,
        time: &[usize],
        mut see: impl FnMut(&[RootId], &[usize]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut time: SmallVec<[usize; 4]> = time.into();
        for event in self.events {
            match event {
                Event::Kernel(start, end) => see(&self.members[*start..*end], &time)?,
                Event::Enter(scan) => time.push(dense.tables.scan(*scan).depth()),
                Event::Leave => _ = time.pop(),
            }
        }
        ControlFlow::Continue(())
    }
}

/// A kernel or loop under construction.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Group {
    /// A kernel: the space of its roots, and the axis that its recurrences run along.
    Kernel { space: SpaceId, along: Option<usize> },
    /// A loop.
    Loop(ScanId),
}

/// Joins the roots of levels to kernels.
#[derive(Default)]
struct Grouping {
    groups: Vec<Group>,
    /// What groups need directly.
    operands: Relation,
    /// The group of each part of the level.
    group_of: Vec<usize>,
    /// The first and the last part of each group, and after each part the next of its group.
    ends: Vec<(usize, usize)>,
    next: Vec<usize>,
    /// The groups that the part at hand needs, all that these need in turn, and those whose values it reads at other
    /// points than its own.
    before: Bits,
    far: Bits,
    apart: Bits,
    pending: Vec<usize>,
    parts: Sorter,
    order: Sorter,
    /// The kernels and loops of levels that are not finished.
    open: Vec<Event>,
    events: Vec<Event>,
    members: Vec<RootId>,
}

impl Grouping {
    /// The kernels and loops of one level, in order of execution, at the end of `open`.
    fn group(&mut self, dense: &Dense<'_>, roots: &Roots, level: &Level) -> Result<(), Misplaced> {
        if !self.parts.sort(&level.needs) {
            return Err(circular());
        }
        let n = level.parts.len();
        self.groups.clear();
        self.operands.clear(n);
        self.ends.clear();
        for list in [&mut self.group_of, &mut self.next] {
            list.clear();
            list.resize(n, usize::MAX);
        }
        for i in 0..n {
            let at = self.parts.order[i];
            self.before.clear(n);
            for operand in ones(level.needs.of(at)) {
                self.before.insert(self.group_of[operand]);
            }
            let what = match level.parts[at] {
                Part::Loop(scan) => Group::Loop(scan),
                Part::Root(root) => Group::Kernel {
                    space: dense.data[roots.roots[root].computed as usize].space,
                    along: roots.roots[root].walk.recurrence,
                },
            };
            let host = match self.host(roots, level, at, what) {
                Some(host) => {
                    self.join(host, at, what);
                    host
                }
                None => {
                    self.groups.push(what);
                    self.ends.push((at, at));
                    self.groups.len() - 1
                }
            };
            for group in self.before.iter().filter(|g| *g != host) {
                self.operands.insert(host, group);
            }
            self.group_of[at] = host;
        }
        self.close(level)
    }

    fn join(&mut self, group: usize, at: usize, what: Group) {
        if let (Group::Kernel { along, .. }, Group::Kernel { along: own, .. }) =
            (&mut self.groups[group], what)
        {
            *along = along.or(own);
        }
        self.next[self.ends[group].1] = at;
        self.ends[group].1 = at;
    }

    /// The group that a root can join: same space, reading its members only at the same point, and no way
    /// from the group to the root through another.
    fn host(&mut self, roots: &Roots, level: &Level, at: usize, what: Group) -> Option<usize> {
        let (Group::Kernel { space, along }, Part::Root(root)) = (what, level.parts[at]) else { return None };
        let fits = |group: &Group| match *group {
            Group::Kernel { space: s, along: a } => {
                s == space && (a.is_none() || along.is_none() || a == along)
            }
            Group::Loop(_) => false,
        };
        if !self.groups.iter().any(fits) {
            return None;
        }
        self.operands.close(&self.before, &mut self.far, &mut self.pending);
        self.apart.clear(level.parts.len());
        for read in roots.roots[root].walk.reads.iter().filter(|read| !read.identity) {
            let value = roots.value(read.class).map(Part::Root);
            if let Some(at) = value.and_then(|v| level.parts.binary_search(&v).ok())
                && self.group_of[at] != usize::MAX
            {
                self.apart.insert(self.group_of[at]);
            }
        }
        let fits = |g: &usize| fits(&self.groups[*g]) && !self.far.contains(*g) && !self.apart.contains(*g);
        // Where it reads from first: that saves loads; then the earliest.
        self.before.iter().find(fits).or_else(|| (0..self.groups.len()).find(fits))
    }

    /// Puts the groups in order and writes them down.
    fn close(&mut self, level: &Level) -> Result<(), Misplaced> {
        if !self.order.sort(&self.operands) {
            return Err(circular());
        }
        let groups = self.groups.len();
        // Positions beyond the groups relate to nothing.
        for group in self.order.order.iter().filter(|g| **g < groups) {
            match self.groups[*group] {
                Group::Loop(scan) => self.open.push(Event::Enter(scan)),
                Group::Kernel { .. } => {
                    let start = self.members.len();
                    let mut at = self.ends[*group].0;
                    while at != usize::MAX {
                        if let Part::Root(root) = level.parts[at] {
                            self.members.push(root);
                        }
                        at = self.next[at];
                    }
                    self.open.push(Event::Kernel(start, self.members.len()));
                }
            }
        }
        Ok(())
    }
}
