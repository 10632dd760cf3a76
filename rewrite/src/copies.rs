//! Copies of copies, which read what the first ones copied.
//!
//! A parameter may be copied for one tier of code with its axes in another order ([`crate::pack`]), and that copy again
//! in panels for another tier ([`crate::panels`]). Where the second copy can read the parameter itself along its last
//! axis, the first one is needed no longer.

use std::collections::{BTreeSet, HashMap};

use fuse_ir::kernel::{BufferId, BufferKind, Coordinate, Element, Kernel, KernelGraph, Step, Store};
use fuse_ir::{Axis, Expr};
use smallvec::SmallVec;

/// What an input became with its axes in another order.
struct Permuted {
    input: BufferId,
    /// By axis of the copy, the one of the input.
    axes: Vec<usize>,
}

/// The copies of inputs with other orders of axes, ahead of all loops.
pub(crate) struct Permutations(HashMap<BufferId, Permuted>);

impl Permutations {
    pub(crate) fn of(kernels: &KernelGraph) -> Permutations {
        let mut writers: HashMap<BufferId, usize> = HashMap::new();
        for (kernel, _) in kernels.kernels() {
            kernel.stores.iter().for_each(|s| *writers.entry(s.buffer).or_default() += 1);
        }
        let mut permuted = HashMap::new();
        for step in &kernels.steps {
            let Step::Kernel(kernel) = step else { break };
            let Some((buffer, index, store)) = copy(kernel) else { continue };
            let [from, to] = [buffer, store.buffer].map(|b| &kernels.buffers[b.index()]);
            // What no other kernel writes is whole.
            let is_copy = matches!(from.kind, BufferKind::Input(_))
                && to.kind == BufferKind::Temporary
                && from.ty.dtype == to.ty.dtype
                && writers[&store.buffer] == 1;
            if let Some(axes) = permutation(index, &store.index).filter(|_| is_copy) {
                permuted.insert(store.buffer, Permuted { input: buffer, axes });
            }
        }
        Permutations(permuted)
    }

    /// The input that a buffer is a copy of, and where that has what the copy has at these coordinates.
    pub(crate) fn source(&self, buffer: BufferId, at: &[Expr]) -> Option<(BufferId, Vec<Expr>)> {
        let permuted = self.0.get(&buffer)?;
        Some((permuted.input, permuted.coordinates(at)))
    }

    /// Drops copies that no kernel reads.
    pub(crate) fn drop_unread(&self, kernels: &mut KernelGraph) {
        let read: BTreeSet<BufferId> = kernels.kernels().iter().flat_map(|(k, _)| k.loads()).collect();
        let is_dead =
            |k: &Kernel| k.stores.iter().all(|s| self.0.contains_key(&s.buffer) && !read.contains(&s.buffer));
        kernels.steps.retain(|step| !matches!(step, Step::Kernel(k) if is_dead(k)));
    }
}

/// Lets copies ahead of all loops read inputs instead of copies of them with other orders of axes, and drops the latter
/// where nothing else reads them.
pub(crate) fn read_inputs(kernels: &mut KernelGraph) {
    let permutations = Permutations::of(kernels);
    for step in &mut kernels.steps {
        let Step::Kernel(kernel) = step else { break };
        let Some((buffer, index, _)) = copy(kernel) else { continue };
        if let Some(first) = permutations.0.get(&buffer)
            && let Some(index) = first.read(index, kernel.rank)
        {
            kernel.elements[0].element = Element::Load { buffer: first.input, index };
        }
    }
    permutations.drop_unread(kernels);
}

/// The buffer that a kernel copies and where it reads that, and its store, if that is all it does.
fn copy(kernel: &Kernel) -> Option<(BufferId, &SmallVec<[Coordinate; 4]>, &Store)> {
    let ([only], [store]) = (kernel.elements.as_slice(), kernel.stores.as_slice()) else { return None };
    let Element::Load { buffer, index } = &only.element else { return None };
    Some((*buffer, index, store))
}

/// By axis of what is stored, the axis of what is loaded with the same coordinate, if each has one.
fn permutation(load: &[Coordinate], store: &[fuse_ir::Expr]) -> Option<Vec<usize>> {
    let place = |e: &fuse_ir::Expr| load.iter().position(|c| matches!(c, Coordinate::Static(at) if at == e));
    let places: Vec<usize> = store.iter().map(place).collect::<Option<_>>()?;
    let different: BTreeSet<usize> = places.iter().copied().collect();
    (different.len() == load.len() && load.len() == store.len()).then_some(places)
}

impl Permuted {
    /// Where the input has what the copy has at an index, if a kernel of that rank reads the input's last axis along its
    /// own last one, and no other so.
    fn read(&self, index: &[Coordinate], rank: usize) -> Option<SmallVec<[Coordinate; 4]>> {
        let places = self.coordinates(index);
        let last = Axis(rank.checked_sub(1)? as u32);
        let along = |c: &Coordinate| matches!(c, Coordinate::Static(e) if e.uses_axis(last));
        let (end, others) = places.split_last()?;
        (along(end) && !others.iter().any(along)).then_some(places.into())
    }

    /// The coordinates of the copy in the order of the input.
    fn coordinates<C: Clone>(&self, index: &[C]) -> Vec<C> {
        let mut places: Vec<(usize, &C)> = self.axes.iter().copied().zip(index).collect();
        places.sort_by_key(|(axis, _)| *axis);
        places.into_iter().map(|(_, c)| c.clone()).collect()
    }
}
