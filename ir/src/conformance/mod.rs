//! Conformance cases for every op: small graphs with operands and expected values that no part of the
//! compiler computed.
//!
//! Elementwise ops, casts and reductions come from `tests/conformance/scalars.txt`, which a Python script
//! computes exactly or with hundreds of bits; the other ops have small cases written by hand. The
//! interpreter and every back end run the same cases.

mod combine;
mod data;
mod loops;
mod structural;

use crate::compare::Tolerance;
use crate::dtype::DType;
use crate::graph::Graph;
use crate::tensor::Tensor;

/// A graph, its inputs, and what it must give.
#[derive(Clone, Debug)]
pub struct Case {
    /// `op::dtype`, or `op::variant::dtype` where an op has several.
    pub name: String,
    /// The graph. Its symbols all follow from the inputs.
    pub graph: Graph,
    /// The inputs, in order.
    pub inputs: Vec<Tensor>,
    /// The outputs, in order: f64 for floats of any width, the declared type otherwise.
    pub expected: Vec<Tensor>,
    /// How far a back end's outputs may be off.
    pub tolerance: Tolerance,
}

/// All cases, grouped by op.
///
/// # Panics
/// If the data files are not well-formed, which the tests of this crate would show.
pub fn cases() -> Vec<Case> {
    let mut out = data::cases();
    out.extend(structural::cases());
    out.extend(combine::cases());
    out.extend(loops::cases());
    out
}

/// The element type in which expected values of type `dtype` are given.
fn expected_type(dtype: DType) -> DType {
    if dtype.is_float() { DType::F64 } else { dtype }
}
