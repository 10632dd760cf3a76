//! What a program of kernels costs on a device, fused or not, at given dimensions.
//!
//! The model is that of extraction, read off the kernels themselves, so that any two programs can be compared
//! and what a search believed can be checked against what came out.

use std::collections::{BTreeMap, BTreeSet};

use fuse_ir::device::DeviceModel;
use fuse_ir::expr::Atom;
use fuse_ir::kernel::{BufferId, Coordinate, Element, Kernel, KernelGraph, Loop, Step, Store, byte_size};
use fuse_ir::{Dim, DimEnv, Expr, TensorType};

use crate::extract::cost::{KernelCost, Work, assumed_symbol, cast_work, scalar_work};

/// What a program costs in one run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ProgramCost {
    /// Kernels launched; those in a loop once a step.
    pub launches: f64,
    /// Bytes loaded and stored; each element once a launch that touches it.
    pub bytes: f64,
    /// Arithmetic operations but transcendental ones.
    pub flops: f64,
    /// Transcendental functions.
    pub transcendentals: f64,
    /// Modelled seconds.
    pub seconds: f64,
    /// The kernels in order of execution.
    pub kernels: Vec<KernelUse>,
}

/// What a kernel costs in one run of its program: the sum of its launches.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct KernelUse {
    /// The kernel's name.
    pub name: String,
    /// The number of loops around it.
    pub depth: usize,
    /// Launches.
    pub launches: f64,
    /// Bytes loaded and stored.
    pub bytes: f64,
    /// Arithmetic operations but transcendental ones.
    pub flops: f64,
    /// Transcendental functions.
    pub transcendentals: f64,
    /// Modelled seconds.
    pub seconds: f64,
}

/// What a program costs on a device. Dimensions without a value in `dims` have the value that the search assumes
/// (`T` 100, `B` 16, others 64).
pub fn cost_of(kernels: &KernelGraph, device: &DeviceModel, dims: &DimEnv) -> ProgramCost {
    let mut out = ProgramCost::default();
    add_steps(kernels, &kernels.steps, (1.0, 0), device, &Sizes(dims), &mut out);
    for kernel in &out.kernels {
        out.launches += kernel.launches;
        out.bytes += kernel.bytes;
        out.flops += kernel.flops;
        out.transcendentals += kernel.transcendentals;
        out.seconds += kernel.seconds;
    }
    out
}

/// Modelled seconds of one launch of a kernel, at dimensions as for [`cost_of`].
pub fn kernel_seconds(graph: &KernelGraph, kernel: &Kernel, device: &DeviceModel, dims: &DimEnv) -> f64 {
    launch_cost(graph, kernel, &Sizes(dims)).seconds(device)
}

/// The bytes of a tensor. Dimensions have values as in [`cost_of`].
pub fn bytes_of(ty: &TensorType, dims: &DimEnv) -> f64 {
    Sizes(dims).of(&byte_size(ty))
}

/// The bytes that every step of a loop reads and none changes: weights. Dimensions have values as in [`cost_of`].
pub fn resident_bytes(graph: &KernelGraph, l: &Loop, dims: &DimEnv) -> f64 {
    let sizes = Sizes(dims);
    let kernels: Vec<&Kernel> = l.body.iter().flat_map(Step::kernels).collect();
    let mut changed: BTreeSet<BufferId> = l.carries.iter().flat_map(|c| [c.current, c.next]).collect();
    changed.extend(kernels.iter().flat_map(|k| &k.stores).map(|s| s.buffer));
    let mut elements: BTreeMap<BufferId, f64> = BTreeMap::new();
    for kernel in kernels {
        let extents: Vec<f64> = kernel.extents.iter().map(|n| sizes.of(n)).collect();
        for (typed, at) in kernel.elements.iter().zip(evaluated(kernel, &extents)) {
            let Element::Load { buffer, index } = &typed.element else { continue };
            let moves = index.iter().any(|c| match c {
                Coordinate::Static(e) => e.symbols().contains(&l.counter),
                Coordinate::Dynamic(_) => true,
            });
            if !moves && !changed.contains(buffer) {
                *elements.entry(*buffer).or_default() +=
                    distinct(graph, *buffer, index, &at.axes, &extents, &sizes);
            }
        }
    }
    let bytes = |(buffer, elements): (&BufferId, &f64)| {
        let ty = &graph.buffer(*buffer).ty;
        bytes_of(ty, dims).min(elements * ty.dtype.size() as f64)
    };
    elements.iter().map(bytes).sum()
}

/// Values of dimensions.
struct Sizes<'a>(&'a DimEnv);

impl Sizes<'_> {
    fn of(&self, dim: &Dim) -> f64 {
        let value = dim.eval(&|atom| match atom {
            Atom::Symbol(s) => self.0.get(s).or_else(|| Some(assumed_symbol(s))),
            Atom::Axis(_) | Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
        });
        value.map_or(0.0, |v| v.max(0) as f64)
    }
}

fn add_steps(
    graph: &KernelGraph,
    steps: &[Step],
    (runs, depth): (f64, usize),
    device: &DeviceModel,
    sizes: &Sizes<'_>,
    out: &mut ProgramCost,
) {
    for step in steps {
        match step {
            Step::Loop(l) => {
                let runs = runs * sizes.of(&l.trip);
                add_steps(graph, &l.body, (runs, depth + 1), device, sizes, out);
            }
            Step::Kernel(kernel) => {
                let cost = KernelCost { is_in_loop: depth > 0, ..launch_cost(graph, kernel, sizes) };
                out.kernels.push(KernelUse {
                    name: kernel.name.clone(),
                    depth,
                    launches: runs,
                    bytes: runs * (cost.loaded + cost.stored),
                    flops: runs * cost.work.flops_on(device),
                    transcendentals: runs * cost.work.transcendentals,
                    seconds: runs * cost.seconds(device),
                });
            }
        }
    }
}

/// Where an element is evaluated.
#[derive(Clone, Default)]
struct Evaluated {
    /// The axes its value depends on, ascending.
    axes: Vec<usize>,
    /// How often one launch evaluates it.
    times: f64,
}

/// What one launch of a kernel costs.
fn launch_cost(graph: &KernelGraph, kernel: &Kernel, sizes: &Sizes<'_>) -> KernelCost {
    let extents: Vec<f64> = kernel.extents.iter().map(|n| sizes.of(n)).collect();
    let evaluated = evaluated(kernel, &extents);
    let points: f64 = extents[..kernel.rank].iter().product();
    // The points along the axis of a recurrence wait for each other, and its final states have no such axis.
    let steps = kernel.recurrence_axis().map_or(0.0, |axis| extents[axis.index()]);
    let across: f64 = match kernel.recurrence_axis() {
        Some(axis) => (0..kernel.rank).filter(|a| *a != axis.index()).map(|a| extents[a]).product(),
        None => points,
    };
    let mut cost = KernelCost { points: across, steps, ..KernelCost::default() };
    let mut loads: Vec<(BufferId, f64)> = Vec::new();
    for (typed, at) in kernel.elements.iter().zip(&evaluated) {
        let (times, work) = match &typed.element {
            Element::Load { buffer, index } => {
                let distinct = distinct(graph, *buffer, index, &at.axes, &extents, sizes);
                loads.push((*buffer, distinct));
                let gathers = index.iter().filter(|c| matches!(c, Coordinate::Dynamic(_))).count();
                (at.times, Work::of_flops(2.0 * gathers as f64))
            }
            Element::Constant(_) | Element::Index(_) => continue,
            Element::Scalar(op, _) => (at.times, scalar_work(*op)),
            Element::Cast(x) => (at.times, cast_work(kernel.element(*x).dtype, typed.dtype)),
            Element::Reduce { axes, .. } => {
                // One combination for every evaluation of the body.
                let passes: f64 = axes.iter().map(|a| extents[a.index()]).product();
                cost.reductions.add(at.times * passes);
                (at.times * passes, Work::of_flops(1.0))
            }
            // A multiplication and an addition.
            Element::Recurrence { .. } => (at.times, Work::of_flops(2.0)),
        };
        cost.work += work.map(|n| n * times);
    }
    loads.sort_unstable_by_key(|l| l.0);
    for same in loads.chunk_by(|a, b| a.0 == b.0) {
        let ty = &graph.buffer(same[0].0).ty;
        let all: f64 = ty.shape.iter().map(|n| sizes.of(n)).product();
        let elements: f64 = same.iter().map(|l| l.1).sum();
        cost.loaded += elements.min(all) * ty.dtype.size() as f64;
    }
    let stored = |store: &Store| {
        let points = if kernel.is_final(store) { across } else { points };
        points * graph.buffer(store.buffer).ty.dtype.size() as f64
    };
    cost.stored = kernel.stores.iter().map(stored).sum();
    cost
}

/// The elements of a buffer that a load touches: no more than it has points, nor than fit each coordinate's
/// range.
fn distinct(
    graph: &KernelGraph,
    buffer: BufferId,
    index: &[Coordinate],
    axes: &[usize],
    extents: &[f64],
    sizes: &Sizes<'_>,
) -> f64 {
    let points: f64 = axes.iter().map(|a| extents[*a]).product();
    let along = |(coordinate, extent): (&Coordinate, &Dim)| match coordinate {
        Coordinate::Static(e) => {
            let positions: f64 = e.axes().iter().map(|a| extents[a.index()]).product();
            positions.min(sizes.of(extent))
        }
        Coordinate::Dynamic(_) => sizes.of(extent),
    };
    let range: f64 = index.iter().zip(&graph.buffer(buffer).ty.shape).map(along).product();
    points.min(range)
}

/// How often each element is evaluated: for every point of the leading axes down to the deepest it depends on,
/// or once for every pass of the innermost reduction it is in.
fn evaluated(kernel: &Kernel, extents: &[f64]) -> Vec<Evaluated> {
    let mut out: Vec<Evaluated> = vec![Evaluated::default(); kernel.elements.len()];
    let expression = |e: &Expr| e.axes().iter().map(|a| a.index()).collect::<Vec<_>>();
    for (i, typed) in kernel.elements.iter().enumerate() {
        let mut axes: Vec<usize> = match &typed.element {
            Element::Load { index, .. } => index
                .iter()
                .flat_map(|c| match c {
                    Coordinate::Static(e) => expression(e),
                    Coordinate::Dynamic(_) => Vec::new(),
                })
                .collect(),
            Element::Index(e) => expression(e),
            Element::Recurrence { state, .. } => vec![state.axis.index()],
            Element::Constant(_) | Element::Scalar(..) | Element::Cast(_) | Element::Reduce { .. } => {
                Vec::new()
            }
        };
        for operand in typed.element.operands() {
            axes.extend_from_slice(&out[operand.index()].axes);
        }
        axes.sort_unstable();
        axes.dedup();
        if let Element::Reduce { axes: bound, .. } = &typed.element {
            axes.retain(|a| bound.iter().all(|b| b.index() != *a));
        }
        out[i].axes = axes;
    }
    // The evaluations of one pass over each bound axis; users come after operands, so reductions around first.
    let mut passes = vec![0.0f64; extents.len()];
    for i in (0..out.len()).rev() {
        let inner = out[i].axes.iter().filter(|a| **a >= kernel.rank).map(|a| passes[*a]);
        out[i].times = match inner.reduce(f64::max) {
            Some(times) => times,
            None => {
                let levels = out[i].axes.iter().max().map_or(0, |a| a + 1);
                extents[..levels].iter().product()
            }
        };
        if let Element::Reduce { axes: bound, .. } = &kernel.elements[i].element {
            let mut times = out[i].times;
            for axis in bound {
                times *= extents[axis.index()];
                passes[axis.index()] = times;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use fuse_ir::parse;

    use super::*;
    use crate::{Mode, Options, optimize};

    fn costs(text: &str, mode: Mode, dims: &DimEnv) -> ProgramCost {
        let graph = parse(text).unwrap();
        let options = Options { mode, ..Options::default() };
        let kernels = optimize(&graph, &DeviceModel::cuda(), &options).unwrap().kernels;
        cost_of(&kernels, &DeviceModel::cuda(), dims)
    }

    const PRODUCT: &str = "graph g(x: f32[B, 8], w: f32[8, 16]) -> (y: f32[B, 16]) {
           %p = contract x, w axes=[1:0]
           %y = tanh %p
           return y = %y
         }";

    #[test]
    fn every_element_counts_once_for_each_launch_that_touches_it() {
        let dims = DimEnv::new().with("B", 4);
        let fused = costs(PRODUCT, Mode::On, &dims);
        assert_eq!(fused.launches, 1.0);
        assert_eq!(fused.bytes, 4.0 * (4.0 * 8.0 + 8.0 * 16.0 + 4.0 * 16.0));
        assert_eq!(fused.flops, 2.0 * 4.0 * 16.0 * 8.0);
        assert_eq!(fused.transcendentals, 64.0);
        let unfused = costs(PRODUCT, Mode::Off, &dims);
        assert_eq!(unfused.launches, 2.0);
        assert_eq!(unfused.bytes, fused.bytes + 2.0 * 4.0 * 64.0);
        assert_eq!((unfused.flops, unfused.transcendentals), (fused.flops, fused.transcendentals));
        assert!(unfused.seconds > fused.seconds);
    }

    #[test]
    fn a_view_of_a_part_loads_that_part_and_a_repetition_no_more_than_there_is() {
        let dims = DimEnv::new();
        let part = costs(
            "graph g(x: f32[8]) -> (y: f32[3, 5]) {
               %s = slice x start=[2] length=[3] step=[1]
               %b = broadcast %s axes=[0] : f32[3, 5]
               %y = exp %b
               return y = %y
             }",
            Mode::On,
            &dims,
        );
        assert_eq!(part.bytes, 4.0 * (3.0 + 15.0));
        assert_eq!(part.transcendentals, 3.0, "once for each row");
    }

    #[test]
    fn a_loop_launches_its_kernels_once_a_step_and_never_for_no_steps() {
        let text = "graph g(x: f32[T, 8], h: f32[8]) -> (y: f32[8]) {
               %f = scan body over T carry (a: f32[8] = h) each (b: f32[8] = x) -> (f32[8]) {
                 %s = add a, b
                 %t = tanh %s
                 next c = %t
               }
               return y = %f
             }";
        let at = |t: i64| costs(text, Mode::On, &DimEnv::new().with("T", t));
        assert_eq!(at(10).launches - at(3).launches, 7.0);
        assert_eq!(at(10).bytes - at(3).bytes, 7.0 * 4.0 * 3.0 * 8.0);
        assert_eq!(at(0).launches, 2.0, "the initial state is set and the final one is read");
    }

    #[test]
    fn weights_stay_in_a_loop_and_states_and_sequences_do_not() {
        let text = "graph g(x: f32[T, 8], w: f32[8, 8], h: f32[8]) -> (y: f32[8]) {
               %f = scan body over T carry (a: f32[8] = h) each (b: f32[8] = x) with (w: f32[8, 8] = w) -> (f32[8]) {
                 %p = contract a, w axes=[0:0]
                 %s = add %p, b
                 %t = tanh %s
                 next c = %t
               }
               return y = %f
             }";
        let graph =
            optimize(&parse(text).unwrap(), &DeviceModel::cuda(), &Options::default()).unwrap().kernels;
        let resident = |step: &Step| match step {
            Step::Loop(l) => resident_bytes(&graph, l, &DimEnv::new()),
            Step::Kernel(_) => 0.0,
        };
        assert_eq!(graph.steps.iter().map(resident).sum::<f64>(), 4.0 * 64.0, "{graph}");
    }
}
