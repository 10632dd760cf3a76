//! Builders of ONNX operators, one file a family. Each file has its rows of the table.

pub(super) mod alternatives;
mod elementwise;
mod shape;

use super::table::OpRow;

/// The rows of the table, by family.
pub(super) const FAMILIES: &[&[OpRow]] = &[elementwise::ROWS, shape::ROWS];
