//! What parameters alone decide is computed once, when they are bound.
//!
//! Kernels ahead of all others that read nothing but parameters (copies of weights in the layout that the others
//! want, sums of biases) are split off into programs of their own, one for each part that shares no results with the
//! others, so that they can run one after the other. The rest reads their results as further parameters.

use std::collections::BTreeSet;

use fuse_ir::kernel::{Buffer, BufferId, BufferKind, Kernel, KernelGraph, Step};
use fuse_ir::{Graph, InputKind};

/// A kernel graph in parts.
pub(crate) struct Split {
    /// What runs before the first call.
    pub parts: Vec<Part>,
    /// What runs at each call: its inputs from `graph.inputs().len()` on are the further parameters. Parameters that
    /// only the parts read are scalars in it.
    pub main: KernelGraph,
    /// The number of further parameters.
    pub prepared: usize,
}

/// Some of the kernels that parameters alone decide.
pub(crate) struct Part {
    /// The kernels. Outputs are further parameters, by their position among these.
    pub kernels: KernelGraph,
    /// The further parameters that it computes: the buffer, in all parts, and the position.
    pub makes: Vec<(BufferId, usize)>,
    /// The inputs of the graph that it reads.
    pub needs: BTreeSet<usize>,
}

/// Splits the kernels of a verified `graph`.
pub(crate) fn split(graph: &Graph, kernels: &KernelGraph) -> Split {
    let (fixed, mut prepared) = fixed_kernels(graph, kernels);
    // What only further fixed kernels read is needed no longer than these run.
    let others = kernels.kernels().into_iter().filter(|(k, _)| !fixed.contains(&k.name));
    let read: BTreeSet<BufferId> = others.flat_map(|(k, _)| k.loads()).collect();
    prepared.retain(|b| read.contains(b));
    let is_fixed = |step: &Step| matches!(step, Step::Kernel(k) if fixed.contains(&k.name));
    let (first, rest): (Vec<Step>, Vec<Step>) = kernels.steps.iter().cloned().partition(is_fixed);
    let part =
        |steps: Vec<Step>, kind: &dyn Fn(usize) -> BufferKind, shrinks: &dyn Fn(BufferKind) -> bool| {
            let mut buffers = kernels.buffers.clone();
            for (i, buffer) in prepared.iter().enumerate() {
                buffers[buffer.index()].kind = kind(i);
            }
            let mut part = KernelGraph { name: kernels.name.clone(), buffers, steps };
            shrink_untouched(&mut part, shrinks);
            part
        };
    let parts = independent(kernels, first).into_iter().map(|steps| {
        // All sizes are known without dimensions.
        let kernels = part(steps, &BufferKind::Output, &|_| true);
        let stored: BTreeSet<BufferId> =
            kernels.kernels().iter().flat_map(|(k, _)| k.stores.iter().map(|s| s.buffer)).collect();
        let makes = prepared.iter().enumerate().filter(|(_, b)| stored.contains(b)).map(|(i, b)| (*b, i));
        Part { makes: makes.collect(), needs: needed(&kernels), kernels }
    });
    let parts = parts.collect();
    let inputs = graph.inputs().len();
    let is_parameter = |kind| matches!(kind, BufferKind::Input(i) if is_parameter(graph, i));
    let main = part(rest, &|i| BufferKind::Input(inputs + i), &is_parameter);
    Split { parts, main, prepared: prepared.len() }
}

fn is_parameter(graph: &Graph, position: usize) -> bool {
    graph.inputs().get(position).is_some_and(|input| input.kind == InputKind::Parameter)
}

/// The kernels in parts that share no buffer but inputs, each in the order given.
fn independent(kernels: &KernelGraph, steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut parts: Vec<(BTreeSet<BufferId>, Vec<Step>)> = Vec::new();
    for step in steps {
        let Step::Kernel(kernel) = &step else { continue };
        let stored = kernel.stores.iter().map(|s| s.buffer);
        let made = |b: &BufferId| !matches!(kernels.buffer(*b).kind, BufferKind::Input(_));
        let mut touched: BTreeSet<BufferId> = kernel.loads().into_iter().chain(stored).filter(made).collect();
        let (joined, mut others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(buffers, _)| !buffers.is_disjoint(&touched));
        let mut joint = Vec::new();
        for (buffers, steps) in joined {
            touched.extend(buffers);
            joint.extend(steps);
        }
        joint.push(step);
        others.push((touched, joint));
        parts = others;
    }
    parts.into_iter().map(|(_, steps)| steps).collect()
}

/// Takes the extents from buffers that nothing touches, of the kinds that `shrinks` says.
fn shrink_untouched(kernels: &mut KernelGraph, shrinks: impl Fn(BufferKind) -> bool) {
    let mut touched = vec![false; kernels.buffers.len()];
    for (kernel, _) in kernels.kernels() {
        let stored = kernel.stores.iter().map(|s| s.buffer);
        kernel.loads().into_iter().chain(stored).for_each(|b| touched[b.index()] = true);
    }
    let untouched =
        kernels.buffers.iter_mut().zip(touched).filter(|(b, touched)| !touched && shrinks(b.kind));
    untouched.for_each(|(buffer, _)| buffer.ty.shape.clear());
}

/// The names of the kernels that parameters alone decide, and the buffers that they write, in order.
fn fixed_kernels(graph: &Graph, kernels: &KernelGraph) -> (BTreeSet<String>, Vec<BufferId>) {
    let is_parameter = |b: &Buffer| matches!(b.kind, BufferKind::Input(i) if is_parameter(graph, i));
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

/// The inputs of the graph that kernels read.
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
        assert_eq!((split.parts.len(), split.main.steps.len(), split.prepared), (1, 1, 1));
        let Part { kernels, makes, needs } = &split.parts[0];
        assert_eq!((kernels.steps.len(), makes.len(), needs), (1, 1, &BTreeSet::from([1])));
        assert_eq!(split.main.buffer(makes[0].0).kind, BufferKind::Input(2));
        let shape = &kernels.buffer(makes[0].0).ty.shape;
        assert_eq!(shape.iter().map(|d| d.as_constant()).collect::<Vec<_>>(), [Some(96), Some(64)]);
        let given = split.main.buffers.iter().find(|b| b.kind == BufferKind::Input(1)).unwrap();
        assert!(given.ty.shape.is_empty(), "no call reads the weight as given");
    }

    #[test]
    fn what_depends_on_inputs_or_on_sizes_of_a_call_is_not() {
        for weight in ["input", "symbolic parameter"] {
            let graph = product(weight);
            let whole = kernels(&graph);
            let split = split(&graph, &whole);
            assert!(split.prepared == 0 && split.parts.is_empty(), "{weight}");
            assert_eq!(split.main, whole, "{weight}");
        }
    }

    #[test]
    fn weights_that_have_nothing_to_do_with_each_other_are_prepared_apart() {
        let graph = trace("two", |t| {
            let x = t.input("x", DType::F32, ("B", 64));
            let first = t.parameter("first", DType::F32, (64, 96));
            let second = t.parameter("second", DType::F32, (96, 32));
            let (a, b) = (t.parameter("a", DType::F32, [96]), t.parameter("b", DType::F32, [96]));
            t.output("y", (x.matmul(&first) + (a * b)).tanh().matmul(&second));
        });
        let graph = graph.unwrap();
        let split = split(&graph, &kernels(&graph));
        let needs: BTreeSet<BTreeSet<usize>> = split.parts.iter().map(|p| p.needs.clone()).collect();
        assert!(needs.contains(&BTreeSet::from([1])) && needs.contains(&BTreeSet::from([2])), "{needs:?}");
        let mut made: Vec<usize> = split.parts.iter().flat_map(|p| p.makes.iter().map(|m| m.1)).collect();
        made.sort_unstable();
        assert_eq!(made, (0..split.prepared).collect::<Vec<_>>());
    }
}
