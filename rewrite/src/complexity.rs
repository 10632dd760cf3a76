//! Bounds on index expressions.
//!
//! A coordinate that goes through a reshape appears in a quotient and in a remainder, so a chain of reshapes and
//! transposes that do not simplify doubles it at every link. Beyond these bounds views are not composed: the
//! value in between is stored instead, as any library would.

use fuse_ir::Expr;
use fuse_ir::expr::Atom;

/// The most terms and factors the coordinates of a composed view may have.
pub const MAX_SIZE: usize = 256;

/// The terms and factors of an expression, those of nested ones too.
pub fn size(e: &Expr) -> usize {
    let mut count = e.terms().count();
    e.visit_atoms(&mut |_| count += 1);
    count
}

/// At most this size have `expressions` once each axis is replaced by the coordinate of its position.
pub fn substituted_size(expressions: &[Expr], coordinates: &[Expr]) -> usize {
    let sizes: Vec<usize> = coordinates.iter().map(size).collect();
    let mut count = 0usize;
    for e in expressions {
        count += e.terms().count();
        e.visit_atoms(&mut |atom| {
            count += match atom {
                Atom::Axis(axis) => sizes.get(axis.index()).copied().unwrap_or(1),
                Atom::Symbol(_) | Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => 1,
            }
        });
    }
    count
}

/// Whether replacing axes by coordinates stays within the bound. Moving axes about is always allowed.
pub fn may_substitute(expressions: &[Expr], coordinates: &[Expr]) -> bool {
    let plain = |e: &Expr| e.as_axis().is_some() || e.as_constant().is_some();
    coordinates.iter().all(plain) || substituted_size(expressions, coordinates) <= MAX_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_quotients_count_every_use_of_an_axis() {
        let quotient = Expr::axis(0).floor_div(&Expr::constant(3));
        let remainder = Expr::axis(0).modulo(&Expr::constant(3));
        let both = [quotient.clone(), remainder.clone()];
        let once = substituted_size(&both, &[Expr::axis(0)]);
        let twice = substituted_size(&both, &[quotient + remainder]);
        assert!(twice > 2 * once - 4, "{once} {twice}");
        assert!(may_substitute(&both, &[Expr::axis(5)]));
    }
}
