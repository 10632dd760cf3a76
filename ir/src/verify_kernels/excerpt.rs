//! The lines of a kernel around a place.

use crate::kernel::{Element, ElementId, Kernel, KernelGraph, Step};

use super::KernelVerifyError;

/// A place in a kernel.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Head,
    Element(ElementId),
    Store(usize),
}

/// Lines shown before and after the marked one.
const CONTEXT: usize = 3;

pub(super) fn located(
    graph: &KernelGraph,
    kernel: &Kernel,
    path: &str,
    place: Place,
    cause: Box<super::KernelVerifyCause>,
) -> KernelVerifyError {
    let here = match place {
        Place::Head => String::new(),
        Place::Element(id) => format!("/{id}"),
        Place::Store(i) => format!("/store {i}"),
    };
    let excerpt = if printable(graph, kernel) { excerpt(graph, kernel, place) } else { String::new() };
    KernelVerifyError { path: format!("{path}{here}"), cause, excerpt }
}

/// Whether everything that printing looks up is in range.
fn printable(graph: &KernelGraph, kernel: &Kernel) -> bool {
    let buffer = |id: crate::kernel::BufferId| id.index() < graph.buffers.len();
    let element = |e: &Element| match e {
        Element::Load { buffer: id, .. } => buffer(*id),
        Element::Reduce { axes, .. } => axes.iter().all(|a| a.index() < kernel.extents.len()),
        Element::Constant(_)
        | Element::Index(_)
        | Element::Scalar(..)
        | Element::Cast(_)
        | Element::Recurrence { .. } => true,
    };
    kernel.rank <= kernel.extents.len()
        && kernel.elements.iter().all(|e| element(&e.element))
        && kernel.stores.iter().all(|s| buffer(s.buffer))
}

fn excerpt(graph: &KernelGraph, kernel: &Kernel, place: Place) -> String {
    let alone = KernelGraph {
        name: String::new(),
        buffers: graph.buffers.clone(),
        steps: vec![Step::Kernel(kernel.clone())],
    };
    let text = alone.to_string();
    // After the opening line and the buffers, a kernel is its head, its elements, its stores, its end: a line each.
    let lines: Vec<&str> = text.lines().skip(1 + graph.buffers.len()).collect();
    let marked = match place {
        Place::Head => 0,
        Place::Element(id) => 1 + id.index(),
        Place::Store(i) => 1 + kernel.elements.len() + i,
    };
    let from = marked.saturating_sub(CONTEXT);
    let shown = lines.iter().enumerate().skip(from).take(marked - from + 1 + CONTEXT);
    shown.map(|(i, line)| format!("{} {line}\n", if i == marked { ">" } else { " " })).collect()
}
