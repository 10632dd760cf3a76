//! The tensor IR: an SSA graph of ops over symbolic shapes.
//!
//! Nodes stand in topological order: a node's operands are graph inputs or results of earlier nodes. The
//! invariants that hold beyond the types are listed, and checked, in [`crate::verify`](mod@crate::verify).

use std::fmt;
use std::panic::Location;

use smallvec::SmallVec;

use crate::expr::Dim;
use crate::infer::{InferError, infer};
use crate::ops::{Direction, Op};
use crate::types::TensorType;

macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The position as a `usize`.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                $name(u32::try_from(index).expect("an arena holds fewer than 2^32 entries"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
pub(crate) use index_type;

index_type!(
    /// A value of a graph: an input or a result of a node.
    ValueId, "%"
);
index_type!(
    /// A node of a graph.
    NodeId, "node"
);

/// What an input of a graph is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InputKind {
    /// Given anew at every call.
    Input,
    /// A weight: bound once, before the calls.
    Parameter,
}

/// A graph input.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// The name by which callers give it.
    pub name: String,
    /// Given at each call, or bound once.
    pub kind: InputKind,
    /// The value it defines.
    pub value: ValueId,
}

/// A graph output.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// The name by which callers get it.
    pub name: String,
    /// The value it returns.
    pub value: ValueId,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Definition {
    /// The graph input of that position.
    Input(usize),
    /// A result of a node, by position.
    Result(NodeId, usize),
}

/// A value: its type and origin.
#[derive(Clone, PartialEq, Debug)]
pub struct Value {
    /// The type.
    pub ty: TensorType,
    /// The origin.
    pub definition: Definition,
}

/// The place in the user's program that made a node.
#[derive(Clone, Copy, Debug)]
pub struct SourceLocation(pub &'static Location<'static>);

/// An application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op with its attributes.
    pub op: Op,
    /// The operands.
    pub operands: SmallVec<[ValueId; 3]>,
    /// The results; one for every op but a scan.
    pub results: SmallVec<[ValueId; 1]>,
    /// Where a traced program made the node; not part of its identity.
    pub location: Option<SourceLocation>,
}

/// Nodes are equal when they compute the same; the source location does not count.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.operands == other.operands && self.results == other.results
    }
}

/// A loop over a leading axis with carried state.
///
/// Operands of the node, in order: the carries' initial values, the scanned tensors (`[trip, …]`), the
/// captured values (used whole at every step), and, if `lengths` is set, an integer vector `[B]`. Inputs of
/// the body: the carries, one slice of each scanned tensor, the captured values. Outputs of the body: the
/// new carries, then the values to stack. Results of the node: the final carries, then the stacked
/// values (`[trip, …]`), each at the position it was computed from.
///
/// With lengths every carry and stacked value has a leading axis `B`; in row `b`, steps at positions
/// `t ≥ lengths[b]` leave the carries as they are and stack zeros, whatever the padding holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// One step. Its node sees only its own inputs.
    pub body: Graph,
    /// The number of carries.
    pub carries: usize,
    /// The number of scanned tensors.
    pub scanned: usize,
    /// The number of steps; 0 is legal and returns the initial carries.
    pub trip: Dim,
    /// The order of the steps.
    pub direction: Direction,
    /// Whether the last operand gives each row's length.
    pub lengths: bool,
}

impl Scan {
    /// The number of captured operands, given the number of operands of the node.
    pub fn captures(&self, operands: usize) -> usize {
        operands.saturating_sub(self.carries + self.scanned + usize::from(self.lengths))
    }
}

/// A tensor program: inputs, nodes in topological order, outputs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    name: String,
    inputs: Vec<Input>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    outputs: Vec<Output>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The name, an identifier.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The nodes, operands first.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> + DoubleEndedIterator {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId::from(i), n))
    }

    /// A node.
    ///
    /// # Panics
    /// If the id is of another graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A value.
    ///
    /// # Panics
    /// If the id is of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// All values, inputs and results, in order of definition.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId::from(i), v))
    }

    /// The type of a value.
    ///
    /// # Panics
    /// If the id is of another graph.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// Adds an input and returns its value.
    pub fn add_input(&mut self, name: impl Into<String>, kind: InputKind, ty: TensorType) -> ValueId {
        let value = ValueId::from(self.values.len());
        self.values.push(Value { ty, definition: Definition::Input(self.inputs.len()) });
        self.inputs.push(Input { name: name.into(), kind, value });
        value
    }

    /// Applies `op` and returns the results, whose types [`infer`] gives.
    ///
    /// # Errors
    /// Where the operand types do not fit the op.
    ///
    /// # Panics
    /// If an operand is of another graph.
    pub fn add_node(
        &mut self,
        op: Op,
        operands: &[ValueId],
        location: Option<SourceLocation>,
    ) -> Result<SmallVec<[ValueId; 1]>, InferError> {
        let types: Vec<&TensorType> = operands.iter().map(|v| self.ty(*v)).collect();
        let result_types = infer(&op, &types)?;
        let node = NodeId::from(self.nodes.len());
        let mut results = SmallVec::new();
        for (i, ty) in result_types.into_iter().enumerate() {
            results.push(ValueId::from(self.values.len()));
            self.values.push(Value { ty, definition: Definition::Result(node, i) });
        }
        self.nodes.push(Node { op, operands: operands.into(), results: results.clone(), location });
        Ok(results)
    }

    /// Adds an output.
    pub fn add_output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push(Output { name: name.into(), value });
    }

    /// The symbols of all types, those of scan bodies too, ascending by name.
    pub fn symbols(&self) -> std::collections::BTreeSet<crate::expr::Symbol> {
        let mut out = std::collections::BTreeSet::new();
        for value in &self.values {
            for dim in &value.ty.shape {
                out.extend(dim.symbols());
            }
        }
        for node in &self.nodes {
            if let Op::Scan(scan) = &node.op {
                out.extend(scan.trip.symbols());
                out.extend(scan.body.symbols());
            }
        }
        out
    }

    /// The parts, for tests that break an invariant on purpose.
    #[cfg(test)]
    pub(crate) fn parts_mut(
        &mut self,
    ) -> (&mut Vec<Input>, &mut Vec<Node>, &mut Vec<Value>, &mut Vec<Output>) {
        (&mut self.inputs, &mut self.nodes, &mut self.values, &mut self.outputs)
    }
}
