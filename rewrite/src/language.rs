//! The language of the e-graph.
//!
//! A term is a function on its *space* (extents, outermost axis first). Operands stand over the same space,
//! except where the term says otherwise. Attributes that are not plain data are interned, so that a node is
//! small and copies cheaply. Inside scans the leading axes of a space are time, outermost loop first.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::ops::Range;

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::types::{Shape, ShapeText};
use fuse_ir::{DType, Dim, Expr, IndexMap, Literal, TensorType};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// The most axes a space may have: dependences on axes are bits of a word.
pub const MAX_AXES: usize = 63;

macro_rules! attribute_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                $name(index as u32)
            }
        }
    };
}

attribute_id!(
    /// An interned space.
    SpaceId
);
attribute_id!(
    /// An interned index map.
    MapId
);
attribute_id!(
    /// An interned constant with its space.
    ConstantId
);
attribute_id!(
    /// An interned index expression with its space.
    IndexId
);
attribute_id!(
    /// An interned gather.
    GatherId
);
attribute_id!(
    /// A scan; equal scans of equal operands are one.
    ScanId
);

/// The head of a term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Head {
    /// The graph input of that position.
    Leaf(u32),
    /// The same value everywhere.
    Constant(ConstantId),
    /// The value of an index expression over the space.
    Index(IndexId),
    /// A function of scalars, pointwise.
    Scalar(ScalarOp),
    /// A conversion, pointwise.
    Cast(DType),
    /// Reads the operand through a map from this space to the operand's.
    Reindex(MapId),
    /// Combines the operand over its last axes, that many of them.
    Reduce(ReduceOp, u8),
    /// Reads the first operand at coordinates one of which is the second operand's value.
    Gather(GatherId),
    /// The state carried by a scan at the start of each step; its space begins with time.
    Carry(ScanId, u32),
    /// The state after the last step. Operands: the initial state, and the state after each step.
    ScanFinal(ScanId, u32),
    /// The state of a linear recurrence `s(t) = factor(t)·s(t-1) + term(t)` along an axis of the space. Operands:
    /// the initial state, over the space without the axis, the factor and the term.
    Recurrence {
        /// The axis it runs along.
        axis: u8,
        /// Whether this is the state before each point, rather than the one after it.
        exclusive: bool,
    },
    /// The state of a recurrence after the last point of that axis, over the space without it. Operands: the
    /// initial state, and the state after each point.
    RecurrenceFinal(u8),
}

/// A term: a head and operands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Term {
    /// What it computes.
    pub head: Head,
    /// From what.
    pub children: SmallVec<[Id; 3]>,
}

impl Term {
    /// A term without operands.
    pub fn leaf(head: Head) -> Self {
        Term { head, children: SmallVec::new() }
    }

    /// A term.
    pub fn new(head: Head, children: &[Id]) -> Self {
        Term { head, children: children.into() }
    }
}

impl egg::Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// Prints the head alone; attributes need the tables, see [`Tables::head_text`].
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.head)
    }
}

/// A constant over a space.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConstantTerm {
    /// The value.
    pub value: Literal,
    /// Where.
    pub space: SpaceId,
}

/// An index expression over a space.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IndexTerm {
    /// The value, over the axes of the space.
    pub value: Expr,
    /// What it is converted to.
    pub dtype: DType,
    /// Where.
    pub space: SpaceId,
}

/// How a gather reads its table.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GatherTerm {
    /// The space of the result and of the index operand.
    pub space: SpaceId,
    /// One coordinate of the table for each of its axes; that of the gathered axis is unused.
    pub coordinates: Vec<Expr>,
    /// The axis of the table that the index operand addresses (clamped into it).
    pub axis: usize,
}

/// One carried state of a scan.
#[derive(Clone, Debug)]
pub struct CarryInfo {
    /// The name of the state in the scan's body.
    pub name: String,
    /// The type of the state at one step, without the axes of enclosing loops.
    pub ty: TensorType,
    /// The initial state, over the enclosing loops and the state's shape.
    pub init: Id,
    /// The state after each step, over the enclosing loops, time and the state's shape.
    pub next: Id,
}

/// A scan. It runs forward: ingestion turns the others round.
#[derive(Clone, Debug)]
pub struct ScanInfo {
    /// The trip counts of the enclosing scans; their number is the position of this scan's time axis.
    pub prefix: Shape,
    /// The number of steps.
    pub trip: Dim,
    /// The carried states.
    pub carries: Vec<CarryInfo>,
}

impl ScanInfo {
    /// The position of the time axis in spaces inside the scan.
    pub fn depth(&self) -> usize {
        self.prefix.len()
    }
}

/// Values with dense ids; equal values have one id.
#[derive(Clone, Debug)]
pub struct Interner<T> {
    items: Vec<T>,
    ids: FxHashMap<T, u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner { items: Vec::new(), ids: FxHashMap::default() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// The id of a value.
    pub fn intern(&mut self, item: T) -> u32 {
        if let Some(id) = self.ids.get(&item) {
            return *id;
        }
        let id = self.items.len() as u32;
        self.items.push(item.clone());
        self.ids.insert(item, id);
        id
    }

    /// The id of a value that has one.
    pub fn known<Q: Eq + Hash + ?Sized>(&self, item: &Q) -> Option<u32>
    where
        T: Borrow<Q>,
    {
        self.ids.get(item).copied()
    }

    /// The value of an id.
    pub fn get(&self, id: u32) -> &T {
        &self.items[id as usize]
    }
}

/// Terms that another term of their class makes superfluous.
#[derive(Clone, Debug, Default)]
pub struct Retired {
    /// Views of classes.
    pub views: FxHashSet<(MapId, Id)>,
    /// States after the loop.
    pub finals: FxHashSet<(ScanId, u32)>,
    /// Terms of any other kind.
    pub terms: FxHashSet<Term>,
}

/// The attributes of heads.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    spaces: Interner<Shape>,
    maps: Interner<IndexMap>,
    constants: Interner<ConstantTerm>,
    indices: Interner<IndexTerm>,
    gathers: Interner<GatherTerm>,
    /// The scans.
    pub scans: Vec<ScanInfo>,
    /// The terms, by position, that the bodies of scans were read as.
    pub bodies: Vec<Range<usize>>,
    /// What extraction need not consider.
    pub retired: Retired,
    /// The types of the graph inputs.
    pub leaves: Vec<TensorType>,
}

impl Tables {
    /// Interns a space.
    pub fn space(&mut self, space: &[Dim]) -> SpaceId {
        match self.spaces.known(space) {
            Some(id) => SpaceId(id),
            None => SpaceId(self.spaces.intern(space.to_vec())),
        }
    }

    /// The extents of a space.
    pub fn extents(&self, space: SpaceId) -> &Shape {
        self.spaces.get(space.0)
    }

    /// Interns a map.
    pub fn map_id(&mut self, map: IndexMap) -> MapId {
        MapId(self.maps.intern(map))
    }

    /// A map.
    pub fn map(&self, id: MapId) -> &IndexMap {
        self.maps.get(id.0)
    }

    /// The head of a constant.
    pub fn constant_head(&mut self, value: Literal, space: SpaceId) -> Head {
        Head::Constant(ConstantId(self.constants.intern(ConstantTerm { value, space })))
    }

    /// A constant.
    pub fn constant(&self, id: ConstantId) -> &ConstantTerm {
        self.constants.get(id.0)
    }

    /// The head of an index expression, which is simplified over the space.
    pub fn index_head(&mut self, value: &Expr, dtype: DType, space: SpaceId) -> Head {
        let value = value.simplify(self.extents(space));
        Head::Index(IndexId(self.indices.intern(IndexTerm { value, dtype, space })))
    }

    /// An index expression.
    pub fn index(&self, id: IndexId) -> &IndexTerm {
        self.indices.get(id.0)
    }

    /// The head of a gather.
    pub fn gather_head(&mut self, gather: GatherTerm) -> Head {
        Head::Gather(GatherId(self.gathers.intern(gather)))
    }

    /// A gather.
    pub fn gather(&self, id: GatherId) -> &GatherTerm {
        self.gathers.get(id.0)
    }

    /// A scan.
    pub fn scan(&self, id: ScanId) -> &ScanInfo {
        &self.scans[id.index()]
    }

    /// The head with its attributes, for dumps.
    pub fn head_text(&self, head: Head) -> String {
        match head {
            Head::Leaf(i) => format!("input {i}"),
            Head::Constant(id) => format!("constant {}", self.constant(id).value),
            Head::Index(id) => format!("index {}", self.index(id).value),
            Head::Scalar(op) => op.mnemonic().to_string(),
            Head::Cast(dtype) => format!("cast {dtype}"),
            Head::Reindex(id) => format!("reindex {}", ShapeText(&self.map(id).results)),
            Head::Reduce(op, axes) => format!("{} over {axes}", op.mnemonic()),
            Head::Gather(id) => {
                let gather = self.gather(id);
                let text = |(i, e): (usize, &Expr)| if i == gather.axis { "@".into() } else { e.to_string() };
                let coordinates: Vec<_> = gather.coordinates.iter().enumerate().map(text).collect();
                format!("gather [{}]", coordinates.join(", "))
            }
            Head::Carry(scan, i) => format!("carry {} of scan {}", i, scan.0),
            Head::ScanFinal(scan, i) => format!("final {} of scan {}", i, scan.0),
            Head::Recurrence { axis, exclusive: false } => format!("recurrence along {axis}"),
            Head::Recurrence { axis, exclusive: true } => format!("recurrence before {axis}"),
            Head::RecurrenceFinal(axis) => format!("last of recurrence along {axis}"),
        }
    }
}
