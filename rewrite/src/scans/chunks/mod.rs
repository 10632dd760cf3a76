//! Recurrences in chunks of time.
//!
//! The points of a recurrence wait for each other, so that a kernel with few other points leaves a device idle.
//! But `s(t) = a(t)·s(t-1) + b(t)` is associative: a chunk of steps makes `A·s + B` of the state before it, with `A`
//! the product of its factors and `B` its own state from zero. So one kernel becomes four:
//!
//! 1. *local*: for each chunk by itself, `A` and `B`;
//! 2. *combine*: from these, chunk after chunk, the state before each chunk, and the one after the last;
//! 3. the kernel as it was, for each chunk by itself, from the state before it;
//! 4. *rest*: the kernel as it was, for the steps that fill no chunk.
//!
//! Where only final states are stored, the third has nothing to do and is left out. The number of steps is a symbol,
//! so the chunks are expressions of it: at least [`SHORTEST`] steps each and at most as many chunks as fill
//! the device, so that a short sequence is all rest.
//!
//! The factors and terms are computed twice, and what lies in memory is read twice, so the cost model decides on the
//! assumed dimensions whether that pays. It reassociates: an overflow of `A` where no state overflows, and
//! an infinite state times factors whose product underflows, give NaN.

use std::collections::BTreeSet;

use fuse_ir::device::DeviceModel;
use fuse_ir::expr::Symbol;
use fuse_ir::kernel::{Element, ElementId, Kernel, KernelGraph, Recurrence, Step};
use fuse_ir::{Axis, DType, Dim, DimEnv};

use crate::extract::cost::assumed;
use crate::kernel_builder::Names;
use crate::program_cost::kernel_seconds;
use crate::rules::Contract;
use crate::rules::catalogue::{Family, RuleEntry};

mod kernels;
#[cfg(test)]
mod tests;

/// The name of the rule.
pub const RULE: &str = "recurrence-in-chunks";

/// The rule, for people.
pub const ENTRY: RuleEntry = RuleEntry::new(
    Family::Scans,
    RULE,
    (
        "a kernel with recurrences along an axis",
        "the same in chunks of the axis: what each makes of a state, the states between them, then all of it from \
         there",
    ),
    "factors and terms read no state and no reduction; f32, f64, integers; by the cost model, for few other points",
    Contract::Reassociates,
    "rewrite/tests/chunks.rs::recurrences_in_chunks_compute_what_they_did",
);

/// The fewest steps of a chunk. Each chunk costs a few loads and stores of its own, which this many steps outweigh.
const SHORTEST: i64 = 16;
/// The most chunks, whatever the device: the states between them are computed one after the other.
const MOST: i64 = 256;
/// Fewer chunks than this cannot pay, since the work is done twice.
const FEWEST: i64 = 4;
/// How many times as long the one kernel must take by the model: what it gains is at most as sure as the device figures.
const LEAST_GAIN: f64 = 1.2;

/// When recurrences run in chunks of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChunkPolicy {
    /// Where that costs less on the device.
    #[default]
    ByCost,
    /// Never: what the other policies are measured against.
    Never,
    /// Wherever they can, whatever it costs; for tests and measurements.
    Always,
}

/// A kernel whose recurrences run in chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divided {
    /// Its name.
    pub kernel: String,
    /// The names of the kernels in its place, in order.
    pub parts: Vec<String>,
}

/// Takes recurrences in chunks, under this policy for this device.
pub fn divide_recurrences(
    graph: &mut KernelGraph,
    device: &DeviceModel,
    policy: ChunkPolicy,
) -> Vec<Divided> {
    if policy == ChunkPolicy::Never {
        return Vec::new();
    }
    let (buffer_names, kernel_names) = (Names::of_buffers(&graph.buffers), Names::of_kernels(graph));
    let steps = std::mem::take(&mut graph.steps);
    let mut division = Division {
        graph,
        device,
        always: policy == ChunkPolicy::Always,
        buffer_names,
        kernel_names,
        counters: BTreeSet::new(),
        divided: Vec::new(),
    };
    let steps = division.steps(steps);
    let divided = division.divided;
    graph.steps = steps;
    divided
}

struct Division<'a> {
    /// The program; its steps are elsewhere meanwhile.
    graph: &'a mut KernelGraph,
    device: &'a DeviceModel,
    /// Whether to divide what can be divided, whatever it costs.
    always: bool,
    buffer_names: Names,
    kernel_names: Names,
    /// The counters of the loops around.
    counters: BTreeSet<Symbol>,
    divided: Vec<Divided>,
}

impl Division<'_> {
    fn steps(&mut self, steps: Vec<Step>) -> Vec<Step> {
        let mut out = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Kernel(kernel) => match self.divide(&kernel) {
                    Some(kernels) => out.extend(kernels.into_iter().map(Step::Kernel)),
                    None => out.push(Step::Kernel(kernel)),
                },
                Step::Loop(mut l) => {
                    self.counters.insert(l.counter.clone());
                    l.body = self.steps(std::mem::take(&mut l.body));
                    self.counters.remove(&l.counter);
                    out.push(Step::Loop(l));
                }
            }
        }
        out
    }

    /// The kernels in place of this one, if it can be divided and that costs less.
    fn divide(&mut self, kernel: &Kernel) -> Option<Vec<Kernel>> {
        let (axis, states) = divisible(kernel, &self.counters)?;
        let most = most_chunks(kernel, axis, self.device);
        if most < FEWEST && !self.always {
            return None;
        }
        let chunks = Chunks::new(&kernel.extents[axis.index()], most.max(FEWEST))?;
        let known = self.graph.buffers.len();
        let kernels = self.kernels(kernel, axis, &states, &chunks);
        let seconds = |kernel: &Kernel| kernel_seconds(self.graph, kernel, self.device, &DimEnv::new());
        let divided: f64 = kernels.iter().map(seconds).sum();
        if !self.always && seconds(kernel) < LEAST_GAIN * divided {
            self.graph.buffers.truncate(known);
            return None;
        }
        let parts = kernels.iter().map(|k| k.name.clone()).collect();
        self.divided.push(Divided { kernel: kernel.name.clone(), parts });
        Some(kernels)
    }
}

/// How an axis is divided.
struct Chunks {
    /// The steps of each chunk.
    length: Dim,
    /// The number of chunks.
    count: Dim,
    /// The steps that fill no chunk.
    rest: Dim,
}

impl Chunks {
    /// At most so many chunks, none of which is too short.
    fn new(extent: &Dim, most: i64) -> Option<Chunks> {
        // No maximum of the two: views see through a quotient, and not through a maximum.
        let length = extent.floor_div(&Dim::constant(most)) + Dim::constant(SHORTEST);
        let count = extent.floor_div(&length);
        let rest = extent.clone() - count.clone() * length.clone();
        (count.as_constant() != Some(0)).then_some(Chunks { length, count, rest })
    }
}

/// As many chunks as fill a device with the other points of a kernel.
fn most_chunks(kernel: &Kernel, axis: Axis, device: &DeviceModel) -> i64 {
    let others = kernel.space().iter().enumerate().filter(|(i, _)| *i != axis.index());
    let others: f64 = others.map(|(_, extent)| assumed(extent)).product();
    let fill = device.parallel_points / others;
    // Steps of a chunk are neighbours in memory, chunks are not: they keep cores busy, and vectors only where no other
    // points do. Measured in docs/perf/rewriting.md.
    let by_core = device.reduces_contiguously && others > 1.0;
    let wanted = if by_core { fill.min(f64::from(device.cores)) } else { fill };
    (wanted.clamp(1.0, MOST as f64).ceil() as u32).next_power_of_two().into()
}

/// The axis and the states of a kernel's recurrences, if they can be computed in chunks.
fn divisible(kernel: &Kernel, counters: &BTreeSet<Symbol>) -> Option<(Axis, Vec<Recurrence>)> {
    let axis = kernel.recurrence_axis()?;
    // An extent below zero means no points, but no number of chunks.
    let extent = &kernel.extents[axis.index()];
    // What is between chunks lies in buffers, whose extents no counter decides.
    let fixed = |n: &Dim| n.symbols().is_disjoint(counters);
    if !extent.is_nonnegative(&[]) || !kernel.space().iter().all(fixed) {
        return None;
    }
    let mut states: Vec<Recurrence> = Vec::new();
    for typed in &kernel.elements {
        let Some(state) = typed.element.recurrence() else { continue };
        let keeps = match typed.dtype {
            DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U8 => true,
            // A state is rounded at every step, and a product of factors would be too.
            DType::F16 | DType::Bf16 | DType::Bool => false,
        };
        if !keeps {
            return None;
        }
        if !states.contains(&state) {
            states.push(state);
        }
    }
    let operands = states.iter().flat_map(|s| [s.factor, s.term]);
    let needed = below(kernel, operands, |e| e.operands().to_vec());
    let simple = |e: &Element| match e {
        // Another state is known only once that is computed; a reduction is too much to do twice.
        Element::Recurrence { .. } | Element::Reduce { .. } => false,
        Element::Load { .. }
        | Element::Constant(_)
        | Element::Index(_)
        | Element::Scalar(..)
        | Element::Cast(_) => true,
    };
    let all = kernel.elements.iter().zip(&needed).all(|(e, needed)| !needed || simple(&e.element));
    all.then_some((axis, states))
}

/// Whether each element is a root or below one, where elements have these operands.
fn below(
    kernel: &Kernel,
    roots: impl IntoIterator<Item = ElementId>,
    operands: impl Fn(&Element) -> Vec<ElementId>,
) -> Vec<bool> {
    let mut needed = vec![false; kernel.elements.len()];
    roots.into_iter().for_each(|root| needed[root.index()] = true);
    for (i, typed) in kernel.elements.iter().enumerate().rev() {
        if needed[i] {
            operands(&typed.element).iter().for_each(|operand| needed[operand.index()] = true);
        }
    }
    needed
}
