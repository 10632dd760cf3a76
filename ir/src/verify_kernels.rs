//! The verifier of kernel graphs.
//!
//! # Invariants
//! Those of [`crate::kernel`], as far as they can be decided without running anything:
//!
//! 1. Ids are in range. Buffer names are unique and not empty, kernel names are unique identifiers, loop
//!    counters are unique. No two buffers are the same input or output.
//! 2. Dimensions (buffer shapes, extents, trip counts) have no axes, and constant ones are at least 0. Buffer
//!    shapes do not depend on loop counters. A counter is used only inside its loop.
//! 3. The operands of an element come before it.
//! 4. Element types follow the rules of the op table, and agree with the buffers that are loaded and stored.
//!    Dynamic coordinates are integers.
//! 5. A load or store has one coordinate for each axis of its buffer.
//! 6. Axes past the space are each bound by exactly one reduction, and what depends on one stays inside the
//!    body of that reduction: the free axes of a stored value, and of the index it is stored at, are axes of
//!    the space.
//! 7. A store's index depends on every axis of the space that has more than one point, except that a final
//!    state is stored at an index without the axis of the recurrence; without that, points would write the
//!    same element.
//! 8. A kernel stores something, and loads nothing that it stores.
//! 9. Inputs are never stored. An output is stored, and by a kernel at most once at each index; several kernels may each
//!    store a part of it, as those that take a recurrence in chunks do, and one kernel several parts, as a loop over two
//!    directions does.
//! 10. Buffers are written before they are read, in order of execution. What a loop writes counts as written
//!     afterwards.
//! 11. A carry's two buffers are different states of one type, and every state belongs to a carry, always with the
//!     same other half. Loops that carry one state run one after the other. `current` is written before the loop
//!     and not in its body; `next` is written in the body, and read there only afterwards.
//! 12. Loops nest no deeper than scans may.
//! 13. The recurrences of a kernel run along one axis, of the space. The operands of a recurrence have its type,
//!     which is numeric, and depend on axes of the space alone; the initial state does not depend on the axis
//!     that the recurrence runs along.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::dtype::DType;
use crate::expr::{Axis, Expr, Symbol};
use crate::infer::InferError;
use crate::kernel::{Buffer, BufferId, BufferKind, Carry, ElementId, KernelGraph, Loop, Step};
use crate::limits::MAX_SCAN_DEPTH;
use crate::types::TensorType;

mod excerpt;
mod kernel;
#[cfg(test)]
mod tests;

/// How a kernel graph breaks an invariant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelVerifyCause {
    /// Invariant 1: no such buffer.
    #[error("there is no buffer {0}")]
    NoBuffer(BufferId),
    /// Invariant 1: no such element.
    #[error("there is no element {0}")]
    NoElement(ElementId),
    /// Invariant 1: no such axis.
    #[error("there is no axis {axis}: the kernel has {count}")]
    NoAxis {
        /// The axis.
        axis: Axis,
        /// The number of axes.
        count: usize,
    },
    /// Invariant 1: a name that is none.
    #[error("{name:?} is no name for {what}")]
    Name {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Invariant 1: something that may be there once.
    #[error("{0} is there twice")]
    Duplicate(String),
    /// Invariant 1: more space axes than axes.
    #[error("the space has {rank} axes, but extents are given for {count}")]
    Rank {
        /// The rank of the space.
        rank: usize,
        /// The number of extents.
        count: usize,
    },
    /// Invariant 2.
    #[error("`{0}` is no dimension: dimensions have no axes, and a constant one is at least 0")]
    Dimension(String),
    /// Invariant 2.
    #[error("`{0}` is the counter of a loop, and is used outside of it")]
    CounterOutside(Symbol),
    /// Invariant 3.
    #[error("operand {0} comes later")]
    Order(ElementId),
    /// Invariant 4: an op does not take its operands.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// Invariant 4: a type is not the one that follows.
    #[error("{what} is {got}, but must be {expected}")]
    DType {
        /// What has the type.
        what: String,
        /// Its type.
        got: DType,
        /// The type that follows, in words.
        expected: String,
    },
    /// Invariant 5.
    #[error("{coordinates} coordinates are given for `{buffer}`, which is {ty}")]
    Coordinates {
        /// The buffer's name.
        buffer: String,
        /// Its type.
        ty: TensorType,
        /// The number of coordinates.
        coordinates: usize,
    },
    /// Invariant 6: an axis is bound wrongly.
    #[error("axis {axis} {problem}")]
    Binding {
        /// The axis.
        axis: Axis,
        /// What is wrong.
        problem: &'static str,
    },
    /// Invariant 6: a reduction axis leaves its reduction.
    #[error("{what} depends on axis {axis}, which is not an axis of the space")]
    FreeAxis {
        /// The stored value or its index.
        what: &'static str,
        /// The axis.
        axis: Axis,
    },
    /// Invariant 7.
    #[error(
        "the index does not depend on axis {axis} of extent {extent}, so that points overwrite each other"
    )]
    Overwrites {
        /// The axis.
        axis: Axis,
        /// Its extent.
        extent: Expr,
    },
    /// Invariant 8: nothing comes out.
    #[error("the kernel stores nothing")]
    NoStores,
    /// Invariant 8.
    #[error("the kernel both loads and stores `{0}`")]
    LoadsItsStore(String),
    /// Invariant 9.
    #[error("`{0}` is an input, and inputs are never stored")]
    StoresInput(String),
    /// Invariant 9.
    #[error("the output `{0}` is never stored")]
    OutputNotStored(String),
    /// Invariant 9.
    #[error("the kernel stores the output `{0}` twice")]
    OutputStoredTwice(String),
    /// Invariant 10.
    #[error("`{0}` is read before anything writes it")]
    ReadBeforeWrite(String),
    /// Invariant 11.
    #[error("carry `{current}` -> `{next}`: {problem}")]
    Carry {
        /// The name of the buffer with the current state.
        current: String,
        /// The name of the buffer with the next state.
        next: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Invariant 11.
    #[error("`{0}` is the current state of a loop, and is stored in its body")]
    StoresCurrent(String),
    /// Invariant 11.
    #[error("`{0}` is a state that no loop carries")]
    LooseState(String),
    /// Invariant 13.
    #[error("the recurrence along axis {axis}: {problem}")]
    Recurrence {
        /// The axis it runs along.
        axis: Axis,
        /// What is wrong.
        problem: &'static str,
    },
    /// Invariant 12.
    #[error("loops nest deeper than {MAX_SCAN_DEPTH} levels")]
    Depth,
}

/// Where a kernel graph breaks an invariant, and how.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {cause}\n{excerpt}")]
pub struct KernelVerifyError {
    /// The way to the place: `lstm/loop %t/kernel step/e7`.
    pub path: String,
    /// The broken invariant.
    pub cause: Box<KernelVerifyCause>,
    /// The lines of the kernel's text form around the place, the place itself marked with `>`; empty where the
    /// place is no kernel or cannot be printed.
    pub excerpt: String,
}

type Checked = Result<(), Box<KernelVerifyCause>>;
type Located = Result<(), KernelVerifyError>;

/// Checks the invariants of the [module documentation](self).
///
/// # Errors
/// The first that is broken, with its place.
pub fn verify_kernels(graph: &KernelGraph) -> Result<(), KernelVerifyError> {
    let mut walk = Walk::new(graph).map_err(|cause| at(&graph.name, cause))?;
    walk.buffers()?;
    walk.steps(&graph.steps, &graph.name)?;
    walk.leftovers().map_err(|cause| at(&graph.name, cause))
}

fn at(path: &str, cause: Box<KernelVerifyCause>) -> KernelVerifyError {
    KernelVerifyError { path: path.to_owned(), cause, excerpt: String::new() }
}

/// What is known at one point of the program, in order of execution.
struct Walk<'g> {
    graph: &'g KernelGraph,
    /// The counters of all loops.
    counters: BTreeSet<Symbol>,
    /// The counters of the loops around, outermost first.
    open: Vec<Symbol>,
    /// What holds a value.
    written: BTreeSet<BufferId>,
    /// The current states of the loops around.
    current: BTreeSet<BufferId>,
    /// The carry that each half of a state belongs to.
    carried: BTreeMap<BufferId, Carry>,
    /// What some kernel stores.
    stored: BTreeSet<BufferId>,
    kernel_names: HashSet<&'g str>,
}

impl<'g> Walk<'g> {
    fn new(graph: &'g KernelGraph) -> Result<Self, Box<KernelVerifyCause>> {
        let mut counters = BTreeSet::new();
        collect_counters(&graph.steps, 0, &mut counters)?;
        Ok(Walk {
            graph,
            counters,
            open: Vec::new(),
            written: BTreeSet::new(),
            current: BTreeSet::new(),
            carried: BTreeMap::new(),
            stored: BTreeSet::new(),
            kernel_names: HashSet::new(),
        })
    }

    fn buffer(&self, id: BufferId) -> Result<&'g Buffer, Box<KernelVerifyCause>> {
        self.graph.buffers.get(id.index()).ok_or_else(|| KernelVerifyCause::NoBuffer(id).into())
    }

    /// Checks the list of buffers; inputs hold a value from the start.
    fn buffers(&mut self) -> Located {
        let (mut names, mut roles) = (HashSet::new(), HashSet::new());
        for (i, buffer) in self.graph.buffers.iter().enumerate() {
            let place = format!("{}/buffer {}", self.graph.name, buffer.name);
            let fail = |cause: KernelVerifyCause| at(&place, cause.into());
            if buffer.name.is_empty() {
                return Err(fail(KernelVerifyCause::Name { what: "a buffer", name: String::new() }));
            }
            if !names.insert(buffer.name.as_str()) {
                return Err(fail(KernelVerifyCause::Duplicate(format!("the buffer name `{}`", buffer.name))));
            }
            match buffer.kind {
                BufferKind::Input(position) => {
                    if !roles.insert(buffer.kind) {
                        return Err(fail(KernelVerifyCause::Duplicate(format!("input {position}"))));
                    }
                    self.written.insert(BufferId::from(i));
                }
                BufferKind::Output(position) => {
                    if !roles.insert(buffer.kind) {
                        return Err(fail(KernelVerifyCause::Duplicate(format!("output {position}"))));
                    }
                }
                BufferKind::Temporary | BufferKind::State => {}
            }
            // No loop is open here, so that a counter in a shape is one outside its loop.
            buffer.ty.shape.iter().try_for_each(|d| self.dimension(d)).map_err(|c| at(&place, c))?;
        }
        Ok(())
    }

    /// Invariant 2.
    fn dimension(&self, dim: &Expr) -> Checked {
        if !dim.axes().is_empty() || dim.as_constant().is_some_and(|c| c < 0) {
            return Err(KernelVerifyCause::Dimension(dim.to_string()).into());
        }
        self.symbols(dim)
    }

    fn symbols(&self, expr: &Expr) -> Checked {
        let outside = |s: &Symbol| self.counters.contains(s) && !self.open.contains(s);
        match expr.symbols().into_iter().find(outside) {
            Some(symbol) => Err(KernelVerifyCause::CounterOutside(symbol).into()),
            None => Ok(()),
        }
    }

    fn steps(&mut self, steps: &'g [Step], path: &str) -> Located {
        for step in steps {
            match step {
                Step::Kernel(kernel) => {
                    let path = format!("{path}/kernel {}", kernel.name);
                    self.kernel(kernel, &path)?;
                }
                Step::Loop(l) => {
                    let path = format!("{path}/loop {}", l.counter);
                    self.enter(l).map_err(|cause| at(&path, cause))?;
                    self.steps(&l.body, &path)?;
                    self.leave(l).map_err(|cause| at(&path, cause))?;
                }
            }
        }
        Ok(())
    }

    /// What holds before the first step of a loop.
    fn enter(&mut self, l: &Loop) -> Checked {
        self.dimension(&l.trip)?;
        for carry in &l.carries {
            self.carry(carry)?;
            self.current.insert(carry.current);
        }
        l.carries.iter().for_each(|carry| _ = self.written.remove(&carry.next));
        self.open.push(l.counter.clone());
        Ok(())
    }

    fn carry(&mut self, carry: &Carry) -> Checked {
        let (current, next) = (self.buffer(carry.current)?, self.buffer(carry.next)?);
        let problem = if carry.current == carry.next {
            "the two are one buffer"
        } else if current.kind != BufferKind::State || next.kind != BufferKind::State {
            "both must be states"
        } else if current.ty != next.ty {
            "the types differ"
        } else if [carry.current, carry.next]
            .iter()
            .any(|b| *self.carried.entry(*b).or_insert(*carry) != *carry)
        {
            "another carry has one of them"
        } else if self.current.contains(&carry.current) {
            "a loop around this one, or another carry of this one, is the same"
        } else if !self.written.contains(&carry.current) {
            "nothing writes the initial state"
        } else {
            return Ok(());
        };
        let (current, next) = (current.name.clone(), next.name.clone());
        Err(KernelVerifyCause::Carry { current, next, problem }.into())
    }

    /// What holds after the last step of a loop.
    fn leave(&mut self, l: &Loop) -> Checked {
        self.open.pop();
        for carry in &l.carries {
            self.current.remove(&carry.current);
            if !self.written.remove(&carry.next) {
                let (current, next) = (self.buffer(carry.current)?, self.buffer(carry.next)?);
                let problem = "no step writes the next state";
                let (current, next) = (current.name.clone(), next.name.clone());
                return Err(KernelVerifyCause::Carry { current, next, problem }.into());
            }
        }
        Ok(())
    }

    /// What must have happened by the end of the program.
    fn leftovers(&self) -> Checked {
        for (i, buffer) in self.graph.buffers.iter().enumerate() {
            let id = BufferId::from(i);
            match buffer.kind {
                BufferKind::Output(_) if !self.stored.contains(&id) => {
                    return Err(KernelVerifyCause::OutputNotStored(buffer.name.clone()).into());
                }
                BufferKind::State if !self.carried.contains_key(&id) => {
                    return Err(KernelVerifyCause::LooseState(buffer.name.clone()).into());
                }
                BufferKind::Input(_) | BufferKind::Output(_) | BufferKind::Temporary | BufferKind::State => {}
            }
        }
        Ok(())
    }
}

/// All counters; the one walk that goes down without a bound of its own, so it checks the depth.
fn collect_counters(steps: &[Step], depth: usize, out: &mut BTreeSet<Symbol>) -> Checked {
    for step in steps {
        let Step::Loop(l) = step else { continue };
        if depth >= MAX_SCAN_DEPTH {
            return Err(KernelVerifyCause::Depth.into());
        }
        if !out.insert(l.counter.clone()) {
            return Err(KernelVerifyCause::Duplicate(format!("the loop counter `{}`", l.counter)).into());
        }
        collect_counters(&l.body, depth + 1, out)?;
    }
    Ok(())
}
