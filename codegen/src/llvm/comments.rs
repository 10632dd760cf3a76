//! Comments before the kernels of a PTX module, for people: what each was made of, and what its parameters are.

use std::fmt::Write;

use fuse_ir::kernel::{Kernel, KernelGraph, Loop, Step};

use crate::kernel_ir::{Access, Function, Mapping};
use crate::schedule::resident_name;

/// Columns of a comment.
const WIDTH: usize = 110;

/// A module of some functions of a graph with a comment before each of its entries.
pub fn commented(ptx: &str, graph: &KernelGraph, functions: &[Function]) -> String {
    let mut out = String::with_capacity(2 * ptx.len());
    for line in ptx.split_inclusive('\n') {
        let entry = line.strip_prefix(".visible .entry ").and_then(|rest| rest.split('(').next());
        let function = entry.and_then(|name| functions.iter().find(|f| f.name == name));
        if let Some(function) = function {
            write_comment(&mut out, graph, function);
        }
        out.push_str(line);
    }
    out
}

fn write_comment(out: &mut String, graph: &KernelGraph, function: &Function) {
    write_line(out, "//", &format!("{}: {}", function.name, launch(function.mapping)));
    for kernel in kernels_of(&graph.steps, &function.name) {
        write_line(out, "//  ", &format!("{} fuses {}", kernel.name, kernel.ops.join(", ")));
    }
    let buffers = function.buffers.iter().map(|buffer| {
        let access = match buffer.access {
            Access::Read => "read",
            Access::Write => "written",
            Access::ReadWrite => "read and written",
        };
        format!("{} ({access})", buffer.name)
    });
    let symbols = function.symbols.iter().map(|symbol| symbol.name().to_owned());
    let barrier = matches!(function.mapping, Mapping::Resident { .. }).then(|| "barrier".to_owned());
    let parameters = buffers.chain(symbols).chain(barrier).enumerate();
    let parameters: Vec<String> = parameters.map(|(i, parameter)| format!("{i} {parameter}")).collect();
    write_line(out, "//  ", &format!("parameters: {}", parameters.join(", ")));
}

/// How a function is launched.
fn launch(mapping: Mapping) -> String {
    match mapping {
        Mapping::Range => "not for a GPU".to_owned(),
        Mapping::Threads { block: threads } | Mapping::Blocks { threads } => {
            format!("blocks of {threads} threads")
        }
        Mapping::Resident { threads } => {
            format!("blocks of {threads} threads, all of which run at the same time")
        }
        Mapping::Clusters { threads, blocks } => format!("clusters of {blocks} blocks of {threads} threads"),
    }
}

/// What the function of that name was made of: a kernel, or all those of a loop.
fn kernels_of<'g>(steps: &'g [Step], name: &str) -> Vec<&'g Kernel> {
    let of_step = |step: &'g Step| match step {
        Step::Kernel(kernel) if kernel.name == name => vec![kernel],
        Step::Kernel(_) => Vec::new(),
        Step::Loop(l) if resident_name(l) == name => kernels_of_loop(l),
        Step::Loop(l) => kernels_of(&l.body, name),
    };
    steps.iter().flat_map(of_step).collect()
}

fn kernels_of_loop(l: &Loop) -> Vec<&Kernel> {
    l.body.iter().flat_map(Step::kernels).collect()
}

/// Writes words as a comment of as many lines as they need. Names of a model may have any characters.
fn write_line(out: &mut String, begin: &str, text: &str) {
    let mut column = begin.len();
    out.push_str(begin);
    let is_safe = |c: char| c.is_ascii_graphic() && c != '\\';
    for word in text.split_whitespace() {
        let word: String = word.chars().map(|c| if is_safe(c) { c } else { '_' }).collect();
        if column + 1 + word.len() > WIDTH && column > begin.len() {
            out.push_str("\n//     ");
            column = 7;
        }
        let _ = write!(out, " {word}");
        column += 1 + word.len();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_comments_are_wrapped_between_words() {
        let mut out = String::new();
        write_line(&mut out, "//  ", &"word ".repeat(60));
        assert!(
            out.lines().count() > 2 && out.lines().all(|l| l.starts_with("//") && l.len() <= WIDTH),
            "{out}"
        );
        assert_eq!(out.matches("word").count(), 60);
    }

    #[test]
    fn names_cannot_end_a_comment() {
        let mut out = String::new();
        write_line(&mut out, "//", "a\nb é\\");
        assert_eq!(out, "// a b __\n");
    }
}
