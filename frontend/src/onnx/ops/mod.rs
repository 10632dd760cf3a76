//! Builders of ONNX operators, one file a family. Each file has its rows of the table.

mod activation;
pub(super) mod alternatives;
mod attention;
mod bits;
mod control;
mod conv;
mod einsum;
mod elementwise;
mod gather;
mod generate;
mod matmul;
mod movement;
mod norm;
mod pad;
mod power;
mod recurrent;
mod reduce;
mod scatter;
mod select;
mod sequence;
mod shape;
mod slice;
mod softmax;
#[cfg(test)]
mod tests;
mod trigonometry;
mod windows;

use super::table::OpRow;

/// The rows of the table, by family.
pub(super) const FAMILIES: &[(&str, &[OpRow])] = &[
    ("activation", activation::ROWS),
    ("attention", attention::ROWS),
    ("bits", bits::ROWS),
    ("control", control::ROWS),
    ("convolution", conv::ROWS),
    ("einsum", einsum::ROWS),
    ("elementwise", elementwise::ROWS),
    ("gather", gather::ROWS),
    ("generator", generate::ROWS),
    ("matmul", matmul::ROWS),
    ("movement", movement::ROWS),
    ("norm", norm::ROWS),
    ("pad", pad::ROWS),
    ("recurrent", recurrent::ROWS),
    ("reduction", reduce::ROWS),
    ("scatter", scatter::ROWS),
    ("selection", select::ROWS),
    ("sequence", sequence::ROWS),
    ("shape", shape::ROWS),
    ("slice", slice::ROWS),
    ("softmax", softmax::ROWS),
    ("trigonometry", trigonometry::ROWS),
];
