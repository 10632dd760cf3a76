//! What values index expressions take.
//!
//! An index expression is arithmetic on 64-bit integers that never wraps; a term of an integer type wraps. One is the
//! other only where the range of the value shows it.

use std::collections::BTreeMap;

use egg::Id;
use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::limits::MAX_DIM;
use fuse_ir::{DType, Dim, Expr};

use crate::analysis::Terms;
use crate::language::Head;

/// The largest magnitude of a number in an index expression, and of its value: of two of them the sum does not wrap.
const LARGEST: i128 = 1 << 62;

/// A least and a greatest value.
type Range = (i128, i128);

/// The index expression of a class of type i64, or of type i32 if it never exceeds that, should the class have one.
pub fn index_value(terms: &Terms, class: Id) -> Option<Expr> {
    let tables = &terms.analysis.tables;
    let data = &terms[class].data;
    if !matches!(data.dtype, DType::I64 | DType::I32) {
        return None;
    }
    let unwrapped = |e: &Expr| data.dtype == DType::I64 || fits(e, data.dtype, tables.extents(data.space));
    terms[class].nodes.iter().find_map(|t| match t.head {
        Head::Index(id) => Some(tables.index(id).value.clone()).filter(unwrapped),
        Head::Constant(id) => Some(Expr::constant(tables.constant(id).value.as_i64())),
        Head::Leaf(_)
        | Head::Scalar(_)
        | Head::Cast(_)
        | Head::Reindex(_)
        | Head::Reduce(..)
        | Head::Gather(_)
        | Head::Carry(..)
        | Head::ScanFinal(..)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => None,
    })
}

/// Whether an expression over a space is a value of an integer type everywhere, with room to spare in i64, whatever
/// the symbols are.
pub fn fits(e: &Expr, dtype: DType, extents: &[Dim]) -> bool {
    let (least, greatest) = match dtype {
        DType::I64 => (-LARGEST, LARGEST),
        DType::I32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
        DType::U8 => (0, i128::from(u8::MAX)),
        DType::Bool | DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => return false,
    };
    range(e, extents).is_some_and(|(low, high)| least <= low && high <= greatest)
}

/// The range of an expression at the points of a space, with symbols up to the largest dimension. `None` where that
/// does not fit in 128 bits, or where a number is so large that arithmetic on the expression saturated.
fn range(e: &Expr, extents: &[Dim]) -> Option<Range> {
    let mut sum = (0, 0);
    for (factors, coefficient) in e.terms() {
        let coefficient = i128::from(coefficient);
        if coefficient.abs() > LARGEST {
            return None;
        }
        let mut product = (coefficient, coefficient);
        for atom in factors {
            product = times(product, atom_range(atom, extents)?)?;
        }
        sum = (product.0.checked_add(sum.0)?, product.1.checked_add(sum.1)?);
    }
    Some(sum)
}

/// The range of the product of two values.
fn times(x: Range, y: Range) -> Option<Range> {
    let corners =
        [x.0.checked_mul(y.0)?, x.0.checked_mul(y.1)?, x.1.checked_mul(y.0)?, x.1.checked_mul(y.1)?];
    Some(corners[1..].iter().fold((corners[0], corners[0]), |(l, h), c| (l.min(*c), h.max(*c))))
}

fn atom_range(atom: &Atom, extents: &[Dim]) -> Option<Range> {
    let magnitude = |(low, high): Range| low.abs().max(high.abs());
    Some(match atom {
        Atom::Axis(axis) => {
            let (_, extent) = range(extents.get(axis.index())?, &[])?;
            (0, (extent - 1).max(0))
        }
        Atom::Symbol(_) => (0, i128::from(MAX_DIM)),
        // A quotient is no larger than what is divided, rounded down or not.
        Atom::FloorDiv(a, _) => {
            let most = magnitude(range(a, extents)?);
            (-most, most)
        }
        Atom::Mod(_, b) => {
            let most = magnitude(range(b, extents)?);
            (-most, most)
        }
        Atom::Min(a, b) => {
            let (a, b) = (range(a, extents)?, range(b, extents)?);
            (a.0.min(b.0), a.1.min(b.1))
        }
        Atom::Max(a, b) => {
            let (a, b) = (range(a, extents)?, range(b, extents)?);
            (a.0.max(b.0), a.1.max(b.1))
        }
    })
}

/// Whether an expression is at least 0 at every point of a space: where there is a point, no extent is 0. `false` means
/// "not proven".
pub fn is_nonnegative_at_points(e: &Expr, extents: &[Dim]) -> bool {
    if e.is_nonnegative(extents) {
        return true;
    }
    let least = least_symbols(extents);
    if least.is_empty() {
        return false;
    }
    // In terms of what each symbol exceeds its least value by, which may be anything from 0 on.
    let excess = |atom: &Atom| match atom {
        Atom::Symbol(s) => Some(Expr::atom(atom.clone()) + Expr::constant(*least.get(s)?)),
        Atom::Axis(_) | Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
    };
    let extents: Vec<Dim> = extents.iter().map(|n| n.substitute(&excess)).collect();
    e.substitute(&excess).is_nonnegative(&extents)
}

/// What symbols are at least where no extent is 0, if that is more than 0: `T` is at least 1 over `[T]`, and 3 over
/// `[T - 2]`.
fn least_symbols(extents: &[Dim]) -> BTreeMap<Symbol, i64> {
    let mut least = BTreeMap::new();
    for extent in extents {
        let symbols = extent.symbols();
        let Some(symbol) = symbols.first().filter(|_| symbols.len() == 1) else { continue };
        let one = Expr::atom(Atom::Symbol(symbol.clone()));
        let (multiple, rest) = extent.split_multiples(&one);
        let (Some(factor), Some(rest)) = (multiple.as_constant(), rest.as_constant()) else { continue };
        // The least s with factor · s + rest >= 1.
        let needed = i128::from(factor) - i128::from(rest);
        if factor > 0 && needed > 0 {
            let known = least.entry(symbol.clone()).or_insert(0);
            *known = (*known).max(i64::try_from(needed / i128::from(factor)).unwrap_or(0));
        }
    }
    least.retain(|_, n| *n > 0);
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(value: i64) -> Expr {
        Expr::constant(value)
    }

    fn t() -> Expr {
        Expr::symbol("T")
    }

    #[test]
    fn an_extent_is_at_least_one_where_there_is_a_point() {
        assert!(is_nonnegative_at_points(&(t() - c(1)), &[t()]));
        assert!(!is_nonnegative_at_points(&(t() - c(2)), &[t()]));
        assert!(!is_nonnegative_at_points(&(t() - c(1)), &[Expr::symbol("B")]));
        assert!(is_nonnegative_at_points(&(t() - c(3)), &[t() - c(2)]));
        assert!(!is_nonnegative_at_points(&(t() - c(4)), &[t() - c(2)]));
        // 2·T - 3 is at least 1 from 2 on.
        assert!(is_nonnegative_at_points(&(t() - c(2)), &[c(2) * t() - c(3)]));
        assert!(!is_nonnegative_at_points(&(t() - c(3)), &[c(2) * t() - c(3)]));
        // 9 - T bounds T from above only.
        assert!(!is_nonnegative_at_points(&(t() - c(1)), &[c(9) - t()]));
    }

    #[test]
    fn ranges_hold_what_expressions_take() {
        let space = [c(4), t(), c(0)];
        assert_eq!(range(&(Expr::axis(0) * c(-3) + c(5)), &space), Some((-4, 5)));
        assert_eq!(range(&Expr::axis(2), &space), Some((0, 0)));
        assert_eq!(range(&Expr::axis(1), &space), Some((0, (1 << 40) - 1)));
        assert_eq!(range(&(Expr::axis(0).minimum(&c(2)) * c(2)), &space), Some((0, 4)));
        assert_eq!(range(&Expr::axis(3), &space), None);
        assert_eq!(range(&c(i64::MAX), &space), None);
        assert!(fits(&Expr::axis(1), DType::I64, &space) && !fits(&Expr::axis(1), DType::I32, &space));
        let most = Expr::axis(0) * c(715_827_882) + c(1);
        assert!(fits(&most, DType::I32, &space) && !fits(&(most + c(1)), DType::I32, &space));
    }
}
