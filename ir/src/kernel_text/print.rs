//! The printer. It prints any kernel graph, also one that breaks the invariants, so that the verifier can show
//! it: a `?` stands where an id is out of range.

use std::fmt;

use crate::expr::{Axis, Expr, Symbol};
use crate::kernel::{
    Buffer, BufferId, BufferKind, Carry, Coordinate, Element, ElementId, Kernel, KernelGraph, Loop,
    Recurrence, Step,
};
use crate::ops::Direction;
use crate::text::print::{NameText, QuotedText, join};
use crate::types::TensorType;

use super::form::is_plain_symbol;

/// A symbol, in quotes where it would read as something else.
struct SymbolText<'a>(&'a Symbol);

impl fmt::Display for SymbolText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.name();
        if is_plain_symbol(name) { f.write_str(name) } else { QuotedText(name).fmt(f) }
    }
}

/// An expression over axes and symbols.
struct ExprText<'a>(&'a Expr);

impl fmt::Display for ExprText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(|symbol, f| SymbolText(symbol).fmt(f), f)
    }
}

/// Expressions in brackets.
fn expressions(items: &[Expr]) -> String {
    format!("[{}]", join(items.iter().map(ExprText)))
}

fn type_text(ty: &TensorType) -> String {
    format!("{}{}", ty.dtype, expressions(&ty.shape))
}

/// Axes with their extents, in brackets.
fn axes(kernel: &Kernel, axes: impl Iterator<Item = Axis>) -> String {
    let extent = |axis: Axis| match kernel.extents.get(axis.index()) {
        Some(extent) => format!("{axis} < {}", ExprText(extent)),
        None => format!("{axis} < ?"),
    };
    format!("[{}]", join(axes.map(extent)))
}

fn write_buffer(buffer: &Buffer, f: &mut impl fmt::Write) -> fmt::Result {
    write!(f, "  buffer {}: {} ", NameText(&buffer.name), type_text(&buffer.ty))?;
    match buffer.kind {
        BufferKind::Input(position) => writeln!(f, "input {position}"),
        BufferKind::Output(position) => writeln!(f, "output {position}"),
        BufferKind::Temporary => writeln!(f, "temporary"),
        BufferKind::State => writeln!(f, "state"),
    }
}

impl KernelGraph {
    fn buffer_name(&self, id: BufferId) -> String {
        self.buffers.get(id.index()).map_or_else(|| format!("{id}?"), |b| NameText(&b.name).to_string())
    }

    fn element_text(&self, kernel: &Kernel, element: &Element) -> String {
        match element {
            Element::Load { buffer, index } => {
                let coordinate = |c: &Coordinate| match c {
                    Coordinate::Static(e) => ExprText(e).to_string(),
                    Coordinate::Dynamic(e) => format!("@{e}"),
                };
                format!("load {}[{}]", self.buffer_name(*buffer), join(index.iter().map(coordinate)))
            }
            Element::Constant(value) => format!("constant {value}"),
            Element::Index(e) => format!("index {}", ExprText(e)),
            Element::Scalar(op, operands) => format!("{} {}", op.mnemonic(), join(operands)),
            Element::Cast(e) => format!("cast {e}"),
            Element::Reduce { op, axes: bound, body } => {
                format!("{} {} {body}", op.mnemonic(), axes(kernel, bound.iter().copied()))
            }
            Element::Recurrence { state: Recurrence { axis, init, factor, term }, exclusive } => {
                let before = if *exclusive { "before " } else { "" };
                format!("recurrence {before}{axis} from {init} by {factor} plus {term}")
            }
        }
    }

    /// A kernel: its head, its elements, its stores and its end, a line each.
    fn write_kernel(&self, kernel: &Kernel, indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        let space = axes(kernel, (0..kernel.rank).map(|i| Axis(i as u32)));
        write!(f, "{:indent$}kernel {} {space}", "", NameText(&kernel.name))?;
        if !kernel.ops.is_empty() {
            write!(f, " fuses ({})", join(kernel.ops.iter().map(|op| NameText(op))))?;
        }
        f.write_str(" {\n")?;
        for (i, typed) in kernel.elements.iter().enumerate() {
            let text = self.element_text(kernel, &typed.element);
            writeln!(f, "{:indent$}  {}: {} = {text}", "", ElementId::from(i), typed.dtype)?;
        }
        for store in &kernel.stores {
            let (name, index) = (self.buffer_name(store.buffer), expressions(&store.index));
            writeln!(f, "{:indent$}  store {name}{index} = {}", "", store.value)?;
        }
        writeln!(f, "{:indent$}}}", "")
    }

    fn write_loop(&self, l: &Loop, indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        write!(f, "{:indent$}loop {} < {}", "", SymbolText(&l.counter), ExprText(&l.trip))?;
        match l.direction {
            Direction::Forward => {}
            Direction::Reverse => f.write_str(" reverse")?,
        }
        if !l.carries.is_empty() {
            let carry =
                |c: &Carry| format!("{} -> {}", self.buffer_name(c.current), self.buffer_name(c.next));
            write!(f, " carry ({})", join(l.carries.iter().map(carry)))?;
        }
        f.write_str(" {\n")?;
        self.write_steps(&l.body, indent + 2, f)?;
        writeln!(f, "{:indent$}}}", "")
    }

    fn write_steps(&self, steps: &[Step], indent: usize, f: &mut impl fmt::Write) -> fmt::Result {
        steps.iter().try_for_each(|step| match step {
            Step::Kernel(kernel) => self.write_kernel(kernel, indent, f),
            Step::Loop(l) => self.write_loop(l, indent, f),
        })
    }
}

/// Prints the text form; see [`crate::kernel_text`].
impl fmt::Display for KernelGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernels {} {{", NameText(&self.name))?;
        self.buffers.iter().try_for_each(|buffer| write_buffer(buffer, f))?;
        self.write_steps(&self.steps, 2, f)?;
        f.write_str("}\n")
    }
}
