//! The structure of a region, apart from where it stands in its graph.
//!
//! Two regions with equal structure have the same kernels under the same decisions: layers of a stack, steps of an
//! unrolled chain. Classes are numbered in the order in which a walk from the region's entries meets them; what
//! is in memory anyway (graph inputs, what other regions store) is known by its number, space and type alone, and
//! loops by the order in which they are met. All else that a search looks at is part of the structure: heads with
//! their attributes, the views that could be read instead, what is known of each class, which results are stacked.

use fuse_ir::{DType, Dim};
use rustc_hash::FxHashMap;

use super::dense::Class;
use super::{Problem, Region};
use crate::language::{Head, ScanId, SpaceId};

/// A part of a structure.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Token {
    /// A class in memory.
    Memory(SpaceId, DType),
    /// A class, what is known of it, and the head that computes it; scans are numbered.
    Computed(SpaceId, DType, u64, Flags, Head),
    /// A loop that a class lies in.
    Inside(usize),
    /// The leading coordinates at which a class can only be computed as itself.
    Steps(usize),
    /// An operand.
    Operand(usize),
    /// A view that could be read, and of what.
    View(Head, usize),
    /// A loop that is met, the number of loops around it and its steps.
    Loop(usize, Dim),
    /// The class of an output.
    Output(usize),
    /// The class of a value or state that others read.
    Entry(usize),
}

/// What is known of a class, as bits.
pub type Flags = u8;

/// The structure of a region, and the classes by number.
pub struct Canonical {
    /// Equal for regions that differ only in where they stand.
    pub structure: Vec<Token>,
    /// The classes by number.
    pub classes: Vec<Class>,
}

impl Canonical {
    /// The structure of a region.
    pub fn of(problem: &Problem<'_>, region: &Region) -> Self {
        let mut walk = Walk {
            problem,
            region,
            numbers: FxHashMap::default(),
            scans: FxHashMap::default(),
            out: Canonical { structure: Vec::new(), classes: Vec::new() },
        };
        let outputs = region.outputs(problem).len();
        for (i, entry) in region.entries(problem).into_iter().enumerate() {
            let entry = walk.number(entry);
            walk.out.structure.push(if i < outputs { Token::Output(entry) } else { Token::Entry(entry) });
        }
        let mut next = 0;
        while next < walk.out.classes.len() {
            walk.describe(walk.out.classes[next]);
            next += 1;
        }
        walk.out
    }
}

struct Walk<'a> {
    problem: &'a Problem<'a>,
    region: &'a Region,
    numbers: FxHashMap<Class, usize>,
    scans: FxHashMap<ScanId, usize>,
    out: Canonical,
}

impl Walk<'_> {
    fn number(&mut self, class: Class) -> usize {
        let classes = &mut self.out.classes;
        *self.numbers.entry(class).or_insert_with(|| {
            classes.push(class);
            classes.len() - 1
        })
    }

    fn describe(&mut self, class: Class) {
        let dense = self.problem.dense;
        let data = dense.data[class as usize];
        let node = dense.chosen(class);
        if self.region.is_foreign(class) || matches!(node.head, Head::Leaf(_)) {
            self.out.structure.push(Token::Memory(data.space, data.dtype));
            return;
        }
        let head = match node.head {
            Head::Carry(scan, i) => Head::Carry(self.scan(scan), i),
            Head::ScanFinal(scan, i) => Head::ScanFinal(self.scan(scan), i),
            head @ (Head::Leaf(_)
            | Head::Constant(_)
            | Head::Index(_)
            | Head::Scalar(_)
            | Head::Cast(_)
            | Head::Reindex(_)
            | Head::Reduce(..)
            | Head::Gather(_)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_)) => head,
        };
        let stacked = self.problem.stacked.binary_search(&class).is_ok();
        let flags = [stacked, data.constant.is_some(), data.heavy, dense.gathered[class as usize]];
        let flags = flags.iter().fold(0, |bits, flag| bits << 1 | Flags::from(*flag));
        self.out.structure.push(Token::Computed(data.space, data.dtype, data.depends, flags, head));
        // What a value that another region stores depended on there is no matter.
        for scan in dense.inside[class as usize].iter().filter(|s| !self.region.is_foreign_scan(dense, *s)) {
            let scan = self.scan(scan);
            self.out.structure.push(Token::Inside(scan.index()));
        }
        self.out.structure.push(Token::Steps(dense.least_steps[class as usize]));
        for child in &node.children {
            let child = self.number(*child);
            self.out.structure.push(Token::Operand(child));
        }
        for node in &dense.nodes[class as usize] {
            if let Head::Reindex(_) = node.head
                && dense.below(node.children[0], class)
            {
                let source = self.number(node.children[0]);
                self.out.structure.push(Token::View(node.head, source));
            }
        }
    }

    /// The number of a scan, as its id.
    fn scan(&mut self, scan: ScanId) -> ScanId {
        if let Some(known) = self.scans.get(&scan) {
            return ScanId::from(*known);
        }
        let number = self.scans.len();
        self.scans.insert(scan, number);
        let info = self.problem.dense.tables.scan(scan);
        self.out.structure.push(Token::Loop(info.depth(), info.trip.clone()));
        if !self.region.is_foreign_scan(self.problem.dense, scan) {
            for carry in &info.carries {
                for id in [carry.init, carry.next] {
                    let class = self.number(self.problem.dense.class(id));
                    self.out.structure.push(Token::Operand(class));
                }
            }
        }
        ScanId::from(number)
    }
}
