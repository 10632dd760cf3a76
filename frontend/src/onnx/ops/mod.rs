//! Builders of ONNX operators, one file a family. Each file has its rows of the table.

mod activation;
pub(super) mod alternatives;
mod bits;
mod control;
mod elementwise;
mod recurrent;
mod sequence;
mod shape;

use super::table::OpRow;

/// The rows of the table, by family.
pub(super) const FAMILIES: &[(&str, &[OpRow])] = &[
    ("activation", activation::ROWS),
    ("bits", bits::ROWS),
    ("control", control::ROWS),
    ("elementwise", elementwise::ROWS),
    ("recurrent", recurrent::ROWS),
    ("sequence", sequence::ROWS),
    ("shape", shape::ROWS),
];
