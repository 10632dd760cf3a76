//! Products with parameters as they are given, `[K, N]` or `[N, K]`.
//!
//! A copy of a parameter in panels takes several times what one product with it takes: its memory is new, and every page of it
//! is a fault. It pays where a run uses the parameter at every step of a loop. Elsewhere the routine reads it as it is: for few
//! rows directly, or through blocks that it transposes, and for more rows it makes a part of a panel in the cache for each
//! block of them. Sums go up in `k` either way.

use std::collections::BTreeSet;

use fuse_ir::kernel::{Buffer, BufferId, Coordinate, Element, ElementId, Kernel, KernelGraph};
use fuse_ir::{Axis, Expr, Graph};

use super::{SumOfProducts, coordinates, is_row, moves_with};
use crate::copies::Permutations;
use crate::extract::cost::assumed;
use crate::pack::SHORTEST;
use crate::panels::{Panels, is_linear_in, known, split_axis};

/// Uses of a parameter in a run up to which it is read as it is given. Making panels in the cache takes as long as a product
/// with some 20 rows, at each use; a copy takes three times that, once.
const MOST_USES: f64 = 2.0;

/// What products can read as it is given.
pub(super) struct Given {
    /// The buffers that parameters alone decide.
    known: BTreeSet<BufferId>,
    /// Copies of parameters with their axes in another order.
    copies: Permutations,
}

impl Given {
    pub(super) fn new(graph: &Graph, kernels: &KernelGraph) -> Given {
        Given { known: known(graph, kernels), copies: Permutations::of(kernels) }
    }

    /// Drops copies that no kernel reads any more.
    pub(super) fn drop_copies(&self, kernels: &mut KernelGraph) {
        self.copies.drop_unread(kernels);
    }

    /// Whether a sum is `Σ_k left[…, k] · w[…]` of f32, where the last axis of the space and `k` are the columns and rows of a
    /// parameter `w`, or the other way round, and that is used seldom.
    pub(super) fn is_product(
        &self,
        buffers: &[Buffer],
        kernel: &Kernel,
        product: &SumOfProducts,
        lanes: i64,
        uses: f64,
    ) -> bool {
        let SumOfProducts { along, factors: [left, right] } = *product;
        let Some(last) = kernel.rank.checked_sub(1) else { return false };
        let column = Axis(last as u32);
        let is_worth = uses <= MOST_USES && assumed(&kernel.extents[along.index()]) >= SHORTEST;
        let in_panels = panels(kernel, lanes).is_some();
        let is_row = |id: ElementId| is_row(buffers, kernel, id, along, &[column]);
        let is_weight = |id: ElementId| self.is_weight(buffers, kernel, id, [column, along]);
        is_worth && in_panels && (is_row(left) && is_weight(right) || is_row(right) && is_weight(left))
    }

    /// Whether a load steps through a parameter along two axes, and depends on no other.
    fn is_weight(&self, buffers: &[Buffer], kernel: &Kernel, id: ElementId, axes: [Axis; 2]) -> bool {
        let Some((buffer, _)) = coordinates(buffers, kernel, id) else { return false };
        let Some((_, at)) = self.source(kernel, id) else { return false };
        let Some((end, outer)) = at.split_last() else { return false };
        let only = |e: &Expr, axis: Axis| moves_with(e, axis) && e.axes().len() == 1;
        let [column, along] = axes;
        let stepping: Vec<&Expr> = outer.iter().filter(|e| !e.axes().is_empty()).collect();
        let ([other], true) = (stepping.as_slice(), self.known.contains(&buffer)) else { return false };
        only(end, column) && only(other, along) || only(end, along) && only(other, column)
    }

    /// The buffer behind copies that a load reads, and where.
    fn source(&self, kernel: &Kernel, id: ElementId) -> Option<(BufferId, Vec<Expr>)> {
        let (buffer, index) = kernel.element(id).element.load()?;
        let at: Vec<Expr> = index.iter().map(|c| c.as_static().cloned()).collect::<Option<_>>()?;
        Some(self.copies.source(buffer, &at).unwrap_or((buffer, at)))
    }

    /// A kernel of nothing but such products, its last axis in panels; `None` where it is in the way of that.
    pub(super) fn in_panels(&self, mut kernel: Kernel, lanes: i64) -> Option<Kernel> {
        let last = kernel.rank.checked_sub(1)?;
        let column = Axis(last as u32);
        let panels = panels(&kernel, lanes)?;
        let contiguous = kernel.stores.iter().all(|store| {
            let Some((end, others)) = store.index.split_last() else { return false };
            moves_with(end, column) && others.iter().all(|e| !e.uses_axis(column))
        });
        if !contiguous || !is_linear_in(&kernel, column) {
            return None;
        }
        for id in (0..kernel.elements.len()).map(ElementId::from) {
            if let Some((buffer, at)) = self.source(&kernel, id)
                && at.iter().any(|e| e.uses_axis(column))
            {
                let index = at.into_iter().map(Coordinate::Static).collect();
                kernel.elements[id.index()].element = Element::Load { buffer, index };
            }
        }
        split_axis(&mut kernel, last, panels);
        Some(kernel)
    }
}

/// The panels of a kernel's last axis. Sums go on in memory from one chunk of `k` to the next, so that no two panels may have one
/// in common.
fn panels(kernel: &Kernel, lanes: i64) -> Option<Panels> {
    let columns = kernel.extents[kernel.rank.checked_sub(1)?].as_constant()?;
    Panels::dividing(columns, lanes)
}
