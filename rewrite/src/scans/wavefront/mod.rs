//! A stack of layers may run as a wavefront: layer `l` at step `t` beside layer `l + 1` at step `t - 1`.
//!
//! Loops that stand upon each other are skewed by a step each and joined, so that what was a launch a step and
//! layer is one a step ([`phases`]). What lies between two loops, computed for all steps at once, goes into the
//! steps for it ([`stack`]): its weights are then read every step. The model of the device decides, on the
//! kernels, where all of that is written down.
//!
//! Skewing is the classical transformation of loop nests (Lamport, "The parallel execution of DO loops", 1974);
//! for recurrent layers it is what Appleyard et al. do by hand ("Optimizing performance of recurrent neural
//! networks on GPUs", 2016).

mod access;
mod phases;
mod stack;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fuse_ir::DimEnv;
use fuse_ir::device::DeviceModel;
use fuse_ir::kernel::{Buffer, BufferId, BufferKind, Element, KernelGraph, Loop, Step};

use crate::extract::cost::assumed;
use crate::kernel_builder::Names;
use crate::program_cost::{cost_of, resident_bytes};
use access::Access;
use phases::{ProgramNames, Woven, weave};
use stack::{Stack, candidates, layer};

/// The rule's name.
pub const NAME: &str = "wavefront";

/// The most layers in one wavefront. Of each layer there is a kernel for every layer that runs in front of it, and
/// the kernel of a step holds all of them.
const MOST_LAYERS: usize = 4;

/// The part of the time that a wavefront must save: with the kernels of the rise and the fall there is more code to
/// compile and to hold, and one kernel that does more than before has less room for each of its parts, of which the
/// model knows nothing. Two LSTM layers of 16 units on two cores took 8 % longer where the model saw 5 % less.
const LEAST_GAIN: f64 = 0.1;

/// What became of a program.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Wavefronts {
    /// Modelled seconds that were gained.
    pub seconds: f64,
    /// For each new kernel the names of those whose work it does.
    pub origins: BTreeMap<String, BTreeSet<String>>,
}

/// A program, and what is asked of it for every stack.
struct Program<'g> {
    graph: &'g KernelGraph,
    /// What each step reads and writes.
    accesses: Vec<Access>,
    names: ProgramNames,
    buffer_names: Rc<Names>,
    /// A copy of its buffers that no stack has.
    spare: RefCell<Option<Vec<Buffer>>>,
}

impl<'g> Program<'g> {
    fn new(graph: &'g KernelGraph) -> Self {
        Program {
            graph,
            accesses: graph.steps.iter().map(Access::of).collect(),
            names: ProgramNames::of(graph),
            buffer_names: Rc::new(Names::of_buffers(&graph.buffers)),
            spare: RefCell::new(None),
        }
    }

    /// A copy of the buffers.
    fn take_buffers(&self) -> Vec<Buffer> {
        self.spare.take().unwrap_or_else(|| self.graph.buffers.clone())
    }

    /// Takes back a copy that a stack added to.
    fn give_back(&self, mut buffers: Vec<Buffer>) {
        buffers.truncate(self.graph.buffers.len());
        self.spare.replace(Some(buffers));
    }
}

/// Runs stacks of layers as wavefronts wherever that is faster.
pub fn run_as_wavefronts(graph: &mut KernelGraph, device: &DeviceModel) -> Wavefronts {
    let mut out = Wavefronts::default();
    let mut from = 0;
    while let Some((next, found)) = first_gain(graph, from, device) {
        from = next;
        let Attempt { stack, woven, seconds, .. } = found;
        out.seconds += seconds;
        out.origins.extend(woven.origins);
        let loops = woven.loops.into_iter().map(Step::Loop);
        let steps = stack.before.into_iter().chain(loops).chain(stack.after);
        graph.steps.splice(stack.range, steps.collect::<Vec<_>>());
        graph.buffers = stack.buffers;
    }
    out
}

/// The first stack, of those that begin at or after a step, that gains enough, and the step after its loops.
fn first_gain(graph: &KernelGraph, mut from: usize, device: &DeviceModel) -> Option<(usize, Attempt)> {
    let program = Program::new(graph);
    loop {
        let loops = candidates(&program.accesses, &graph.steps, from, MOST_LAYERS);
        from = loops.first()? + 1;
        if let Some(attempt) = widest(&program, &loops, device) {
            let Attempt { stack, woven, .. } = &attempt;
            return Some((stack.range.start + stack.before.len() + woven.loops.len(), attempt));
        }
    }
}

/// Drops temporaries that nothing stores any more; where each of the other buffers is now.
pub fn drop_unused(graph: &mut KernelGraph) -> BTreeMap<BufferId, BufferId> {
    let mut used = BTreeSet::new();
    for access in graph.steps.iter().map(Access::of) {
        used.extend(access.reads.into_iter().chain(access.writes));
    }
    let kept = |b: &BufferId| graph.buffer(*b).kind != BufferKind::Temporary || used.contains(b);
    let kept: Vec<BufferId> = (0..graph.buffers.len()).map(BufferId::from).filter(kept).collect();
    graph.buffers = kept.iter().map(|b| graph.buffer(*b).clone()).collect();
    let places = kept.iter().enumerate().map(|(i, b)| (*b, BufferId::from(i))).collect();
    renumber(&mut graph.steps, &places);
    places
}

fn renumber(steps: &mut [Step], places: &BTreeMap<BufferId, BufferId>) {
    for step in steps {
        match step {
            Step::Kernel(kernel) => {
                for typed in &mut kernel.elements {
                    if let Element::Load { buffer, .. } = &mut typed.element {
                        *buffer = places[buffer];
                    }
                }
                kernel.stores.iter_mut().for_each(|s| s.buffer = places[&s.buffer]);
            }
            Step::Loop(l) => {
                for carry in &mut l.carries {
                    (carry.current, carry.next) = (places[&carry.current], places[&carry.next]);
                }
                renumber(&mut l.body, places);
            }
        }
    }
}

/// A stack and its wavefront.
struct Attempt {
    stack: Stack,
    woven: Woven,
    /// Modelled seconds that are gained.
    seconds: f64,
    /// The same as a part of what the stack takes now.
    share: f64,
}

/// The wavefront of the most of the loops at some positions, from the first on, that gains enough.
fn widest(program: &Program<'_>, loops: &[usize], device: &DeviceModel) -> Option<Attempt> {
    let pair = attempt(program, loops.get(..2)?, device)?;
    // Two layers save one launch of two a step, n layers n - 1 of n: where the first two gain little, so do all.
    let most = 2.0 * (loops.len() - 1) as f64 / loops.len() as f64;
    if pair.share * most <= LEAST_GAIN {
        program.give_back(pair.stack.buffers);
        return None;
    }
    let wider = (3..=loops.len()).rev().filter_map(|n| attempt(program, &loops[..n], device));
    wider.chain([pair]).find(|attempt| attempt.share > LEAST_GAIN)
}

/// The wavefront of the loops at some positions, if they are a stack.
fn attempt(program: &Program<'_>, loops: &[usize], device: &DeviceModel) -> Option<Attempt> {
    let graph = program.graph;
    let mut stack = Stack::new(program, loops)?;
    let woven = weave(&program.names, &stack)?;
    // Steps must be what gains: a stored projection that is not read back counts only where moving takes longest.
    let between_steps = device.seconds_between_steps();
    let device = &DeviceModel { launch_seconds: between_steps, exposed: 0.0, ..device.clone() };
    let dims = DimEnv::new();
    let steps = graph.steps[stack.range.clone()].to_vec();
    let mut program = KernelGraph { name: String::new(), buffers: std::mem::take(&mut stack.buffers), steps };
    let before = cost_of(&program, device, &dims).seconds;
    let beside = stack.before.iter().chain(&stack.after).cloned();
    program.steps = beside.chain(woven.loops.iter().cloned().map(Step::Loop)).collect();
    let gain = before - cost_of(&program, device, &dims).seconds;
    // Weights may fit the chip with one layer, and not with all.
    let resident = |l: &Loop| resident_bytes(&program, l, &dims);
    let capacity = device.on_chip_total_bytes();
    let together = woven.loops.iter().map(resident).fold(0.0, f64::max);
    let lost: f64 = if together <= capacity {
        0.0
    } else {
        let layers = loops.iter().filter_map(|at| layer(&graph.steps[*at]));
        let bytes = layers.map(resident).filter(|bytes| *bytes <= capacity);
        bytes.map(|bytes| assumed(&stack.trip) * bytes).sum()
    };
    stack.buffers = program.buffers;
    let seconds = gain - lost / device.memory_bytes_per_second;
    Some(Attempt { stack, woven, seconds, share: seconds / before })
}
