//! What parameters alone decide is computed once, when they are bound.
//!
//! Kernels ahead of all others that read nothing but parameters (copies of weights in the layout that the others
//! want, sums of biases) are split off into a program of their own. The rest reads their results as further
//! parameters, which live as long as what they were computed from.

use std::collections::BTreeSet;

use fuse_ir::kernel::{Buffer, BufferId, BufferKind, Kernel, KernelGraph, Step};
use fuse_ir::{Graph, InputKind};

/// A kernel graph in two parts.
pub(crate) struct Split {
    /// What runs when parameters are bound: its outputs, in order, are the further parameters.
    pub preparation: KernelGraph,
    /// What runs at each call: its inputs from `graph.inputs().len()` on are the preparation's outputs.
    pub main: KernelGraph,
    /// The preparation's outputs, by position of the buffer in both parts.
    pub prepared: Vec<BufferId>,
}

/// Splits the kernels of a verified `graph`.
pub(crate) fn split(graph: &Graph, kernels: &KernelGraph) -> Split {
    let (fixed, mut prepared) = fixed_kernels(graph, kernels);
    // What only further fixed kernels read is needed no longer than these run.
    let others = kernels.kernels().into_iter().filter(|(k, _)| !fixed.contains(&k.name));
    let read: BTreeSet<BufferId> = others.flat_map(|(k, _)| k.loads()).collect();
    prepared.retain(|b| read.contains(b));
    let is_fixed = |step: &Step| matches!(step, Step::Kernel(k) if fixed.contains(&k.name));
    let (first, rest) = kernels.steps.iter().cloned().partition(is_fixed);
    let part = |steps: Vec<Step>, kind: &dyn Fn(usize) -> BufferKind| {
        let mut buffers = kernels.buffers.clone();
        for (i, buffer) in prepared.iter().enumerate() {
            buffers[buffer.index()].kind = kind(i);
        }
        KernelGraph { name: kernels.name.clone(), buffers, steps }
    };
    let mut preparation = part(first, &BufferKind::Output);
    shrink_untouched(&mut preparation);
    let inputs = graph.inputs().len();
    let main = part(rest, &|i| BufferKind::Input(inputs + i));
    Split { preparation, main, prepared }
}

/// Takes the extents from buffers that nothing touches, so that all sizes are known without dimensions.
fn shrink_untouched(kernels: &mut KernelGraph) {
    let mut touched = vec![false; kernels.buffers.len()];
    for (kernel, _) in kernels.kernels() {
        let stored = kernel.stores.iter().map(|s| s.buffer);
        kernel.loads().into_iter().chain(stored).for_each(|b| touched[b.index()] = true);
    }
    let untouched = kernels.buffers.iter_mut().zip(touched).filter(|(_, touched)| !touched);
    untouched.for_each(|(buffer, _)| buffer.ty.shape.clear());
}

/// The names of the kernels that parameters alone decide, and the buffers that they write, in order.
fn fixed_kernels(graph: &Graph, kernels: &KernelGraph) -> (BTreeSet<String>, Vec<BufferId>) {
    let is_parameter = |b: &Buffer| match b.kind {
        BufferKind::Input(i) => graph.inputs().get(i).is_some_and(|input| input.kind == InputKind::Parameter),
        BufferKind::Output(_) | BufferKind::Temporary | BufferKind::State => false,
    };
    let mut writers = vec![0usize; kernels.buffers.len()];
    for (kernel, _) in kernels.kernels() {
        kernel.stores.iter().for_each(|store| writers[store.buffer.index()] += 1);
    }
    let known_size = |b: &Buffer| b.ty.shape.iter().all(|d| d.as_constant().is_some());
    let mut known: BTreeSet<BufferId> = (0..kernels.buffers.len())
        .filter(|b| is_parameter(&kernels.buffers[*b]) && known_size(&kernels.buffers[*b]))
        .map(BufferId::from)
        .collect();
    let (mut fixed, mut prepared) = (BTreeSet::new(), Vec::new());
    for step in &kernels.steps {
        let Step::Kernel(kernel) = step else { continue };
        let written = |k: &Kernel| {
            k.stores.iter().all(|s| {
                let buffer = kernels.buffer(s.buffer);
                buffer.kind == BufferKind::Temporary && writers[s.buffer.index()] == 1 && known_size(buffer)
            })
        };
        if kernel.symbols().is_empty() && kernel.loads().is_subset(&known) && written(kernel) {
            fixed.insert(kernel.name.clone());
            known.extend(kernel.stores.iter().map(|s| s.buffer));
            prepared.extend(kernel.stores.iter().map(|s| s.buffer));
        }
    }
    (fixed, prepared)
}

/// The inputs of the graph that the preparation reads.
pub(crate) fn needed(preparation: &KernelGraph) -> BTreeSet<usize> {
    let loads = preparation.kernels().into_iter().flat_map(|(k, _)| k.loads());
    let input = |b: BufferId| match preparation.buffer(b).kind {
        BufferKind::Input(i) => Some(i),
        BufferKind::Output(_) | BufferKind::Temporary | BufferKind::State => None,
    };
    loads.filter_map(input).collect()
}

#[cfg(test)]
mod tests {
    use fuse_frontend::{DType, trace};
    use fuse_ir::device::DeviceModel;

    use super::*;

    fn kernels(graph: &Graph) -> KernelGraph {
        fuse_rewrite::optimize(graph, &DeviceModel::cpu(), &fuse_rewrite::Options::default()).unwrap().kernels
    }

    fn product(weight: &'static str) -> Graph {
        trace("product", |t| {
            let x = t.input("x", DType::F32, ("B", 64));
            let w = match weight {
                "parameter" => t.parameter("w", DType::F32, (64, 96)),
                "input" => t.input("w", DType::F32, (64, 96)),
                _ => t.parameter("w", DType::F32, (64, "N")),
            };
            t.output("y", x.matmul(&w));
        })
        .unwrap()
    }

    #[test]
    fn the_copy_of_a_weight_is_made_when_it_is_bound() {
        let graph = product("parameter");
        let split = split(&graph, &kernels(&graph));
        assert_eq!((split.preparation.steps.len(), split.main.steps.len(), split.prepared.len()), (1, 1, 1));
        assert_eq!(split.main.buffer(split.prepared[0]).kind, BufferKind::Input(2));
        assert_eq!(needed(&split.preparation), BTreeSet::from([1]));
        let shape = &split.preparation.buffer(split.prepared[0]).ty.shape;
        assert_eq!(shape.iter().map(|d| d.as_constant()).collect::<Vec<_>>(), [Some(96), Some(64)]);
    }

    #[test]
    fn what_depends_on_inputs_or_on_sizes_of_a_call_is_not() {
        for weight in ["input", "symbolic parameter"] {
            let graph = product(weight);
            let whole = kernels(&graph);
            let split = split(&graph, &whole);
            assert!(split.prepared.is_empty() && split.preparation.steps.is_empty(), "{weight}");
            assert_eq!(split.main, whole, "{weight}");
        }
    }
}
