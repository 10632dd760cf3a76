//! Bounds that every graph keeps, whoever made it.
//!
//! They are far beyond what models need. They exist so that no input, however malicious, makes the compiler
//! recurse without end, multiply polynomials without end, or overflow: the parser and the verifier check
//! them, later stages rely on them.

use crate::expr::{Atom, Dim};
use crate::types::TensorType;

/// The largest text form in bytes (64 MiB).
pub const MAX_SOURCE_BYTES: usize = 64 << 20;
/// The largest magnitude of a number in a dimension.
pub const MAX_DIM: i64 = 1 << 40;
/// The largest number of axes.
pub const MAX_RANK: usize = 64;
/// How deep scans nest.
pub const MAX_SCAN_DEPTH: usize = 32;
/// How deep dimension expressions nest.
pub const MAX_DIM_DEPTH: usize = 64;
/// The largest number of terms and factors in one dimension, those of nested expressions too.
pub const MAX_DIM_SIZE: usize = 256;
/// The largest number of terms in the product of all extents of a type, before like terms merge.
pub const MAX_SHAPE_TERMS: usize = 64;
/// The largest number of operands of one node.
pub const MAX_OPERANDS: usize = 4096;

/// What is wrong with a dimension, in words; `None` where it keeps the bounds.
pub fn dim_problem(dim: &Dim) -> Option<String> {
    let mut budget = Some(MAX_DIM_SIZE);
    let mut deep = false;
    let mut large = None;
    measure(dim, MAX_DIM_DEPTH, &mut budget, &mut deep, &mut large);
    if deep {
        return Some(format!("the dimension nests deeper than {MAX_DIM_DEPTH} levels"));
    }
    if budget.is_none() {
        return Some(format!("the dimension has more than {MAX_DIM_SIZE} terms and factors"));
    }
    large.map(|c: i64| format!("the number {c} in a dimension is beyond 2^40"))
}

/// What is wrong with the extents of a type, in words; `None` where they keep the bounds.
pub fn type_problem(ty: &TensorType) -> Option<String> {
    if ty.rank() > MAX_RANK {
        return Some(format!("the type has {} axes, more than {MAX_RANK}", ty.rank()));
    }
    if let Some(problem) = ty.shape.iter().find_map(dim_problem) {
        return Some(problem);
    }
    let terms = ty.shape.iter().map(|d| d.terms().count().max(1));
    let product = terms.fold(1usize, |product, n| product.saturating_mul(n));
    (product > MAX_SHAPE_TERMS).then(|| {
        format!("the number of elements of {ty} is a polynomial of more than {MAX_SHAPE_TERMS} terms")
    })
}

/// The number of terms and factors of a dimension.
pub(crate) fn dim_size(dim: &Dim) -> usize {
    let mut factors = 0;
    dim.visit_atoms(&mut |_| factors += 1);
    factors + dim.terms().count()
}

fn measure(dim: &Dim, depth: usize, budget: &mut Option<usize>, deep: &mut bool, large: &mut Option<i64>) {
    let Some(inner_depth) = depth.checked_sub(1) else {
        *deep = true;
        return;
    };
    for (factors, coefficient) in dim.terms() {
        *budget = budget.and_then(|b| b.checked_sub(1 + factors.len()));
        if budget.is_none() {
            return;
        }
        if coefficient.unsigned_abs() > MAX_DIM.unsigned_abs() {
            *large = Some(coefficient);
        }
        for atom in factors {
            match atom {
                Atom::Axis(_) | Atom::Symbol(_) => {}
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    measure(a, inner_depth, budget, deep, large);
                    measure(b, inner_depth, budget, deep, large);
                }
            }
        }
    }
}
