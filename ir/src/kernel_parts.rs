//! Parts of a kernel that have nothing in common, as a kernel has that computes the gates of two directions.

use std::collections::BTreeSet;

use crate::expr::{Axis, Expr};
use crate::kernel::{BufferId, Coordinate, Element, ElementId, Kernel};

/// Stores, and the reductions that they need and no other part does.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// By position, ascending.
    pub stores: Vec<usize>,
    /// All reductions that the stored values are computed from.
    pub reductions: BTreeSet<ElementId>,
}

/// What makes two stores one part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shared {
    /// A reduction that both need.
    Reductions,
    /// That, or an element that reductions of both load: at the same coordinates, whatever the names of reduced axes.
    Operands,
}

impl Kernel {
    /// The parts of the kernel, by their first stores.
    pub fn parts(&self, shared: Shared) -> Vec<Part> {
        let mut parts: Vec<(Part, BTreeSet<Operand>)> = Vec::new();
        for (at, store) in self.stores.iter().enumerate() {
            let reductions = self.reductions_of(store.value);
            let operands = match shared {
                Shared::Reductions => BTreeSet::new(),
                Shared::Operands => reductions.iter().flat_map(|r| self.operands_of(*r)).collect(),
            };
            let mut part = (Part { stores: vec![at], reductions }, operands);
            for other in std::mem::take(&mut parts) {
                let separate =
                    other.0.reductions.is_disjoint(&part.0.reductions) && other.1.is_disjoint(&part.1);
                if separate {
                    parts.push(other);
                } else {
                    part.0.stores.extend(other.0.stores);
                    part.0.reductions.extend(other.0.reductions);
                    part.1.extend(other.1);
                }
            }
            part.0.stores.sort_unstable();
            parts.push(part);
        }
        let mut parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
        parts.sort_by_key(|p| p.stores.first().copied());
        parts
    }

    /// Whether each element is one of these, or one that they are computed from.
    ///
    /// # Panics
    /// If an id is of another kernel.
    pub fn computed_from(&self, elements: impl IntoIterator<Item = ElementId>) -> Vec<bool> {
        let mut inside = vec![false; self.elements.len()];
        elements.into_iter().for_each(|e| inside[e.index()] = true);
        for (i, typed) in self.elements.iter().enumerate().rev() {
            if inside[i] {
                typed.element.operands().iter().for_each(|o| inside[o.index()] = true);
            }
        }
        inside
    }

    /// The reductions that an element is computed from.
    fn reductions_of(&self, element: ElementId) -> BTreeSet<ElementId> {
        let inside = self.computed_from([element]);
        let is_reduction = |i: &usize| matches!(self.elements[*i].element, Element::Reduce { .. });
        (0..inside.len()).filter(|i| inside[*i]).filter(is_reduction).map(|i| ElementId(i as u32)).collect()
    }

    /// What a reduction loads along the axes that it binds, which are numbered from the kernel's last axis on.
    fn operands_of(&self, reduction: ElementId) -> BTreeSet<Operand> {
        let Element::Reduce { axes, body, .. } = &self.element(reduction).element else {
            return BTreeSet::new();
        };
        let mut names: Vec<Expr> = (0..self.extents.len()).map(Expr::axis).collect();
        for (i, axis) in axes.iter().enumerate() {
            names[axis.index()] = Expr::axis(self.extents.len() + i);
        }
        let inside = self.computed_from([*body]);
        let loads = self.elements.iter().zip(inside).filter(|(_, inside)| *inside);
        let loads = loads.filter_map(|(typed, _)| typed.element.load());
        let varies = |index: &[Coordinate]| {
            index.iter().any(|c| match c {
                Coordinate::Static(e) => axes.iter().any(|a: &Axis| e.uses_axis(*a)),
                Coordinate::Dynamic(_) => true,
            })
        };
        loads
            .filter(|(_, index)| varies(index))
            .map(|(buffer, index)| {
                let renamed = index.iter().map(|c| match c {
                    Coordinate::Static(e) => Coordinate::Static(e.substitute_axes(&names)),
                    Coordinate::Dynamic(e) => Coordinate::Dynamic(*e),
                });
                (buffer, renamed.collect())
            })
            .collect()
    }
}

/// What is loaded, and where.
type Operand = (BufferId, Vec<Coordinate>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_kernels;

    /// The stores of each part of a kernel that stores `y` and `z`, computed from `elements`.
    fn stores(shared: Shared, elements: &str, y: &str, z: &str) -> Vec<Vec<usize>> {
        let text = format!(
            "kernels k {{
               buffer a: f32[T, 8] input 0
               buffer b: f32[T, 8] input 1
               buffer w: f32[8, 4] input 2
               buffer v: f32[8, 4] input 3
               buffer y: f32[T, 4] output 0
               buffer z: f32[T, 4] output 1
               kernel k [i0 < T, i1 < 4] fuses (contract, contract) {{
                 {elements}
                 store y[i0, i1] = {y}
                 store z[i0, i1] = {z}
               }}
             }}"
        );
        let graph = parse_kernels(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let kernel = graph.kernels()[0].0;
        kernel.parts(shared).into_iter().map(|part| part.stores).collect()
    }

    /// A product of `x` and `m`, both at axis `k`, as elements from number `first` on; the sum is the last.
    fn product(first: usize, x: &str, m: &str, k: usize) -> String {
        let [e0, e1, e2, e3] = [0, 1, 2, 3].map(|i| format!("e{}", first + i));
        format!(
            "{e0}: f32 = load {x}[i0, i{k}]
             {e1}: f32 = load {m}[i{k}, i1]
             {e2}: f32 = mul {e0}, {e1}
             {e3}: f32 = sum [i{k} < 8] {e2}\n"
        )
    }

    #[test]
    fn products_without_a_common_operand_are_parts() {
        let elements = product(0, "a", "w", 2) + &product(4, "b", "v", 3);
        assert_eq!(stores(Shared::Operands, &elements, "e3", "e7"), [[0], [1]]);
        assert_eq!(stores(Shared::Reductions, &elements, "e3", "e7"), [[0], [1]]);
    }

    #[test]
    fn a_common_operand_joins_whatever_its_axis_is_called() {
        for elements in [
            product(0, "a", "w", 2) + &product(4, "a", "v", 3),
            product(0, "a", "w", 2) + &product(4, "b", "w", 3),
        ] {
            assert_eq!(stores(Shared::Operands, &elements, "e3", "e7"), [[0, 1]]);
            assert_eq!(stores(Shared::Reductions, &elements, "e3", "e7"), [vec![0], vec![1]]);
        }
    }

    #[test]
    fn the_same_buffer_elsewhere_is_no_common_operand() {
        let reversed = product(4, "a", "v", 3).replace("load a[i0, i3]", "load a[-i0 + T - 1, i3]");
        let elements = product(0, "a", "w", 2) + &reversed;
        assert_eq!(stores(Shared::Operands, &elements, "e3", "e7"), [[0], [1]]);
    }

    #[test]
    fn a_common_reduction_joins() {
        let elements = product(0, "a", "w", 2) + "e4: f32 = tanh e3\n" + &product(5, "b", "v", 3);
        let elements = elements + "e9: f32 = add e8, e3\n";
        assert_eq!(stores(Shared::Reductions, &elements, "e4", "e9"), [[0, 1]]);
    }

    #[test]
    fn a_later_store_joins_earlier_parts() {
        let elements = product(0, "a", "w", 2) + &product(4, "b", "v", 3) + "e8: f32 = add e3, e7\n";
        assert_eq!(stores(Shared::Reductions, &elements, "e3", "e8"), [[0, 1]]);
    }
}
