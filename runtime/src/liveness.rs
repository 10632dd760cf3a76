//! When each arena buffer of a kernel graph must keep its contents.
//!
//! Program points are numbered along the text of the program: a kernel takes one point, a loop one for its
//! head and one for its end. A buffer is live over an interval of points. Loops run their points again and
//! again, so an interval may end inside a loop only when nothing in it survives an iteration.

use std::collections::BTreeSet;

use fuse_ir::expr::{Expr, Symbol};
use fuse_ir::kernel::{BufferId, BufferKind, Coordinate, Element, Kernel, KernelGraph, Loop, Step};

/// An interval of program points, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LiveRange {
    /// The first point.
    pub first: u32,
    /// The last point.
    pub last: u32,
}

impl LiveRange {
    /// Whether two intervals share a point.
    pub fn overlaps(self, other: LiveRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The smallest interval that holds both.
    pub fn union(self, other: LiveRange) -> LiveRange {
        LiveRange { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

impl std::fmt::Display for LiveRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

/// A loop as liveness sees it.
struct LoopRange {
    counter: Symbol,
    range: LiveRange,
}

/// One use of a buffer.
struct Access {
    point: LiveRange,
    /// The loops around it, outermost first.
    path: Vec<usize>,
    /// The symbols of its index.
    symbols: BTreeSet<Symbol>,
}

/// The live interval of each buffer that lives in the arena and is used at all, by [`BufferId`]; `None` for
/// inputs, outputs and unused buffers.
///
/// In a verified graph buffers are written before they are read, a state is written before its loop, and its
/// other half in it; nothing else is relied on.
pub fn live_ranges(graph: &KernelGraph) -> Vec<Option<LiveRange>> {
    let mut walk = Walk { point: 0, path: Vec::new(), loops: Vec::new(), accesses: Vec::new() };
    walk.accesses.resize_with(graph.buffers.len(), Vec::new);
    walk.steps(&graph.steps);
    let family = families(graph);
    let mut members = vec![Vec::new(); graph.buffers.len()];
    for (buffer, root) in family.iter().enumerate() {
        members[*root].push(buffer);
    }
    let in_arena = |b: usize| matches!(graph.buffers[b].kind, BufferKind::Temporary | BufferKind::State);
    (0..graph.buffers.len())
        .map(|buffer| {
            let family = &members[family[buffer]];
            let accesses: Vec<&Access> = family.iter().flat_map(|b| &walk.accesses[*b]).collect();
            in_arena(buffer).then(|| interval(&accesses, &walk.loops)).flatten()
        })
        .collect()
}

/// The halves of a carried state trade places at run time, so each half holds what the other was declared to
/// hold: they share one interval. Returns the representative of each buffer's family.
fn families(graph: &KernelGraph) -> Vec<usize> {
    fn unite(steps: &[Step], family: &mut [usize]) {
        for step in steps {
            let Step::Loop(l) = step else { continue };
            for carry in &l.carries {
                let (a, b) = (family[carry.current.index()], family[carry.next.index()]);
                family.iter_mut().filter(|f| **f == b).for_each(|f| *f = a);
            }
            unite(&l.body, family);
        }
    }
    let mut family: Vec<usize> = (0..graph.buffers.len()).collect();
    unite(&graph.steps, &mut family);
    family
}

struct Walk {
    point: u32,
    path: Vec<usize>,
    loops: Vec<LoopRange>,
    accesses: Vec<Vec<Access>>,
}

impl Walk {
    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Kernel(kernel) => self.kernel(kernel),
                Step::Loop(l) => self.repeated(l),
            }
        }
    }

    fn repeated(&mut self, l: &Loop) {
        let id = self.loops.len();
        let head = self.point;
        self.point += 1;
        self.loops
            .push(LoopRange { counter: l.counter.clone(), range: LiveRange { first: head, last: head } });
        self.path.push(id);
        self.steps(&l.body);
        self.path.pop();
        self.loops[id].range.last = self.point;
        self.point += 1;
    }

    fn kernel(&mut self, kernel: &Kernel) {
        let at = LiveRange { first: self.point, last: self.point };
        for typed in &kernel.elements {
            if let Element::Load { buffer, index } = &typed.element {
                let symbols = index.iter().flat_map(|c| match c {
                    Coordinate::Static(e) => e.symbols(),
                    Coordinate::Dynamic(_) => BTreeSet::new(),
                });
                self.access(*buffer, at, symbols.collect());
            }
        }
        for store in &kernel.stores {
            self.access(store.buffer, at, store.index.iter().flat_map(Expr::symbols).collect());
        }
        self.point += 1;
    }

    fn access(&mut self, buffer: BufferId, point: LiveRange, symbols: BTreeSet<Symbol>) {
        self.accesses[buffer.index()].push(Access { point, path: self.path.clone(), symbols });
    }
}

fn interval(accesses: &[&Access], loops: &[LoopRange]) -> Option<LiveRange> {
    let common = accesses.iter().map(|a| a.path.as_slice()).reduce(common_prefix)?;
    // An access deeper than the loops common to all counts for the whole of the loop around it.
    let lifted = |a: &Access| match a.path.get(common.len()) {
        Some(inner) => loops[*inner].range,
        None => a.point,
    };
    let range = accesses.iter().map(|a| lifted(a)).reduce(LiveRange::union)?;
    // What is filled or read slice by slice along a loop's counter survives the loop's iterations.
    let outermost = common.iter().find(|l| {
        let counter = &loops[**l].counter;
        accesses.iter().any(|a| a.symbols.contains(counter))
    });
    Some(outermost.map_or(range, |l| range.union(loops[*l].range)))
}

fn common_prefix<'a>(a: &'a [usize], b: &'a [usize]) -> &'a [usize] {
    let length = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    &a[..length]
}
