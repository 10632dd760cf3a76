//! Symbolic integer expressions: one normal form for dimensions and for index arithmetic.
//!
//! An [`Expr`] is a polynomial with integer coefficients over [`Atom`]s: named symbols (`T`, `B`), the axes
//! of an iteration space, and the few non-polynomial functions that shapes and views need (floor division,
//! modulo, minimum, maximum). Construction normalises, so equal expressions are equal values; `Ord` is a
//! structural total order that does not depend on anything but the expression.
//!
//! A dimension is an expression without axes ([`Dim`]); an index is an expression that may have them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

/// A named runtime integer: a symbolic dimension such as `T` or `B`, or the counter of a time loop.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// The symbol of that name. Two symbols are equal when their names are.
    pub fn new(name: impl AsRef<str>) -> Self {
        Symbol(Arc::from(name.as_ref()))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One axis of an iteration space, outer axes first; printed `i0`, `i1`, ….
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Axis(pub u32);

impl Axis {
    /// The position of the axis in its space.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

impl fmt::Debug for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An indivisible factor of a monomial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atom {
    /// A coordinate of the iteration space.
    Axis(Axis),
    /// A runtime integer.
    Symbol(Symbol),
    /// `floor(a / b)`; 0 where `b` is 0.
    FloorDiv(Box<Expr>, Box<Expr>),
    /// `a - b·floor(a / b)`; 0 where `b` is 0.
    Mod(Box<Expr>, Box<Expr>),
    /// The smaller of two.
    Min(Box<Expr>, Box<Expr>),
    /// The larger of two.
    Max(Box<Expr>, Box<Expr>),
}

/// A product of atoms in ascending order; empty is 1.
type Monomial = SmallVec<[Atom; 1]>;

/// A symbolic integer in normal form: a sum of monomials with nonzero coefficients, ascending by monomial.
///
/// Coefficient arithmetic saturates at the limits of `i64`; [`Expr::eval`] is checked, so an absurd
/// expression ends in [`EvalError::Overflow`] and never in a wrong number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Expr {
    terms: SmallVec<[(Monomial, i64); 1]>,
}

/// A dimension: an [`Expr`] over symbols only.
pub type Dim = Expr;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A symbol has no value in the environment.
    #[error("symbol `{0}` has no value; give it with an input or as a dimension")]
    Unbound(Symbol),
    /// An axis was met where only symbols have values.
    #[error("axis {0} has no value here")]
    UnboundAxis(Axis),
    /// The value does not fit in 64 bits.
    #[error("`{0}` overflows 64-bit integers")]
    Overflow(String),
}

impl Expr {
    /// The constant `value`.
    pub fn constant(value: i64) -> Self {
        if value == 0 { Expr::default() } else { Expr { terms: smallvec![(Monomial::new(), value)] } }
    }

    /// The symbol called `name`.
    pub fn symbol(name: impl AsRef<str>) -> Self {
        Expr::atom(Atom::Symbol(Symbol::new(name)))
    }

    /// The coordinate along axis number `index`.
    pub fn axis(index: usize) -> Self {
        Expr::atom(Atom::Axis(Axis(index as u32)))
    }

    /// A single atom. Compound atoms should come from [`Expr::floor_div`] and its siblings, which simplify.
    pub fn atom(atom: Atom) -> Self {
        Expr { terms: smallvec![(smallvec![atom], 1)] }
    }

    /// The terms: (factors, coefficient), ascending.
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.terms.iter().map(|(monomial, c)| (monomial.as_slice(), *c))
    }

    /// The value, when the expression is a constant.
    pub fn as_constant(&self) -> Option<i64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(monomial, c)] if monomial.is_empty() => Some(*c),
            _ => None,
        }
    }

    /// The axis, when the expression is exactly one axis.
    pub fn as_axis(&self) -> Option<Axis> {
        match self.terms.as_slice() {
            [(monomial, 1)] => match monomial.as_slice() {
                [Atom::Axis(axis)] => Some(*axis),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether this is the constant 0.
    pub fn is_zero(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether this is the constant 1.
    pub fn is_one(&self) -> bool {
        self.as_constant() == Some(1)
    }

    /// `self / divisor` when the division is exact for every value of the symbols, with a constant or
    /// single-monomial divisor.
    pub fn exact_div(&self, divisor: &Expr) -> Option<Expr> {
        if self == divisor && !divisor.is_zero() {
            return Some(Expr::constant(1));
        }
        let [(monomial, coefficient)] = divisor.terms.as_slice() else { return None };
        let mut out = Expr::default();
        for (factors, c) in &self.terms {
            if c % coefficient != 0 {
                return None;
            }
            let mut rest = factors.clone();
            for atom in monomial {
                let at = rest.iter().position(|a| a == atom)?;
                rest.remove(at);
            }
            out.push(rest, c / coefficient);
        }
        Some(out.sorted())
    }

    /// `floor(self / divisor)`, simplified where it is exact or constant. Division by zero gives 0.
    pub fn floor_div(&self, divisor: &Expr) -> Expr {
        if divisor.is_one() || self.is_zero() {
            return self.clone();
        }
        if let (Some(a), Some(b)) = (self.as_constant(), divisor.as_constant()) {
            return Expr::constant(floor_div(a, b));
        }
        if divisor.as_constant().is_some_and(|d| d < 0) {
            return Expr::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(divisor.clone())));
        }
        let (multiple, rest) = self.split_multiples(divisor);
        if rest.is_zero() {
            return multiple;
        }
        if let (Some(r), Some(d)) = (rest.as_constant(), divisor.as_constant()) {
            return multiple + Expr::constant(floor_div(r, d));
        }
        if divisor.as_constant().is_none() {
            // A symbolic divisor may be 0 at run time, where pulling multiples out would not be exact.
            return Expr::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(divisor.clone())));
        }
        multiple + Expr::atom(Atom::FloorDiv(Box::new(rest), Box::new(divisor.clone())))
    }

    /// `self mod divisor`, with the sign of the divisor. Modulo zero gives 0.
    pub fn modulo(&self, divisor: &Expr) -> Expr {
        if divisor.is_one() || self.is_zero() || self.exact_div(divisor).is_some() {
            return Expr::default();
        }
        if let (Some(a), Some(b)) = (self.as_constant(), divisor.as_constant()) {
            return Expr::constant(floor_mod(a, b));
        }
        match divisor.as_constant() {
            Some(d) if d > 0 => {
                let (_, rest) = self.split_multiples(divisor);
                if let Some(r) = rest.as_constant() {
                    return Expr::constant(floor_mod(r, d));
                }
                Expr::atom(Atom::Mod(Box::new(rest), Box::new(divisor.clone())))
            }
            _ => Expr::atom(Atom::Mod(Box::new(self.clone()), Box::new(divisor.clone()))),
        }
    }

    /// The smaller of two expressions, decided now where their difference is constant.
    pub fn minimum(&self, other: &Expr) -> Expr {
        match (self.clone() - other.clone()).as_constant() {
            Some(d) if d <= 0 => self.clone(),
            Some(_) => other.clone(),
            None => {
                let (a, b) = if self <= other { (self, other) } else { (other, self) };
                Expr::atom(Atom::Min(Box::new(a.clone()), Box::new(b.clone())))
            }
        }
    }

    /// The larger of two expressions, decided now where their difference is constant.
    pub fn maximum(&self, other: &Expr) -> Expr {
        match (self.clone() - other.clone()).as_constant() {
            Some(d) if d >= 0 => self.clone(),
            Some(_) => other.clone(),
            None => {
                let (a, b) = if self <= other { (self, other) } else { (other, self) };
                Expr::atom(Atom::Max(Box::new(a.clone()), Box::new(b.clone())))
            }
        }
    }

    /// `ceil(self / divisor)` for a positive divisor.
    pub fn ceil_div(&self, divisor: &Expr) -> Expr {
        (self.clone() + divisor.clone() - Expr::constant(1)).floor_div(divisor)
    }

    /// Splits into (q, r) with `self = q·divisor + r`, where q holds the terms that divide exactly.
    pub fn split_multiples(&self, divisor: &Expr) -> (Expr, Expr) {
        let (mut multiple, mut rest) = (Expr::default(), Expr::default());
        for (monomial, c) in &self.terms {
            let term = Expr { terms: smallvec![(monomial.clone(), *c)] };
            match term.exact_div(divisor) {
                Some(q) => multiple = multiple + q,
                None => rest = rest + term,
            }
        }
        (multiple, rest)
    }

    /// Calls `visit` with every atom, those inside compound atoms too, parents first.
    pub fn visit_atoms<'a>(&'a self, visit: &mut impl FnMut(&'a Atom)) {
        for (monomial, _) in &self.terms {
            for atom in monomial {
                visit(atom);
                match atom {
                    Atom::Axis(_) | Atom::Symbol(_) => {}
                    Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                        a.visit_atoms(visit);
                        b.visit_atoms(visit);
                    }
                }
            }
        }
    }

    /// The symbols, ascending by name.
    pub fn symbols(&self) -> BTreeSet<Symbol> {
        let mut out = BTreeSet::new();
        self.visit_atoms(&mut |atom| {
            if let Atom::Symbol(s) = atom {
                out.insert(s.clone());
            }
        });
        out
    }

    /// The axes, ascending.
    pub fn axes(&self) -> BTreeSet<Axis> {
        let mut out = BTreeSet::new();
        self.visit_atoms(&mut |atom| {
            if let Atom::Axis(a) = atom {
                out.insert(*a);
            }
        });
        out
    }

    /// Whether the axis occurs anywhere in the expression.
    pub fn uses_axis(&self, axis: Axis) -> bool {
        let mut found = false;
        self.visit_atoms(&mut |atom| found |= matches!(atom, Atom::Axis(a) if *a == axis));
        found
    }

    /// Replaces axes and symbols (`leaf` returns `None` to keep one) and normalises again.
    pub fn substitute(&self, leaf: &impl Fn(&Atom) -> Option<Expr>) -> Expr {
        let mut out = Expr::default();
        for (monomial, c) in &self.terms {
            let mut product = Expr::constant(*c);
            for atom in monomial {
                let value = match atom {
                    Atom::Axis(_) | Atom::Symbol(_) => leaf(atom).unwrap_or_else(|| Expr::atom(atom.clone())),
                    Atom::FloorDiv(a, b) => a.substitute(leaf).floor_div(&b.substitute(leaf)),
                    Atom::Mod(a, b) => a.substitute(leaf).modulo(&b.substitute(leaf)),
                    Atom::Min(a, b) => a.substitute(leaf).minimum(&b.substitute(leaf)),
                    Atom::Max(a, b) => a.substitute(leaf).maximum(&b.substitute(leaf)),
                };
                product = product * value;
            }
            out = out + product;
        }
        out
    }

    /// Replaces axis `i` by `axes[i]`. Axes past the end are kept.
    pub fn substitute_axes(&self, axes: &[Expr]) -> Expr {
        self.substitute(&|atom| match atom {
            Atom::Axis(a) => axes.get(a.index()).cloned(),
            _ => None,
        })
    }

    /// The value where `leaf` gives that of each axis and symbol; checked arithmetic throughout.
    pub fn eval(&self, leaf: &impl Fn(&Atom) -> Option<i64>) -> Result<i64, EvalError> {
        let overflow = || EvalError::Overflow(self.to_string());
        let mut sum = 0i128;
        for (monomial, c) in &self.terms {
            if *c == i64::MAX || *c == i64::MIN {
                return Err(overflow());
            }
            let mut product = i128::from(*c);
            for atom in monomial {
                product = product.checked_mul(i128::from(eval_atom(atom, leaf)?)).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        i64::try_from(sum).map_err(|_| overflow())
    }

    /// The value of a dimension under `dims`.
    pub fn eval_dim(&self, dims: &DimEnv) -> Result<i64, EvalError> {
        self.eval(&|atom| match atom {
            Atom::Symbol(s) => dims.get(s),
            _ => None,
        })
    }

    /// Whether the expression is at least 0 whenever all symbols are at least 0 and every axis lies in
    /// `[0, extent)`. `false` means "not proven".
    pub fn is_nonnegative(&self, extents: &[Dim]) -> bool {
        self.lower_bound(extents).is_some_and(|lower| lower.terms.iter().all(|(_, c)| *c >= 0))
    }

    /// An upper bound free of axes, for axes that run over `extents`.
    pub fn upper_bound(&self, extents: &[Dim]) -> Option<Expr> {
        let negated = Expr::constant(-1) * self.clone();
        negated.lower_bound(extents).map(|least| Expr::constant(-1) * least)
    }

    /// A lower bound free of axes: each axis at the end of its range that makes its term least.
    fn lower_bound(&self, extents: &[Dim]) -> Option<Expr> {
        let mut out = Expr::default();
        for (monomial, c) in &self.terms {
            let mut product = Expr::constant(*c);
            for atom in monomial {
                let (low, high) = atom_bounds(atom, extents)?;
                product = product * if *c >= 0 { low } else { high? };
            }
            out = out + product;
        }
        Some(out)
    }

    /// Rewrites divisions and modulos that the ranges of the axes decide: with `i1 < n`,
    /// `(i0·n + i1) / n` is `i0` and `(i0·n + i1) mod n` is `i1`; a clamp that cannot bind disappears, and so does,
    /// beside other terms, an axis with one position.
    pub fn simplify(&self, extents: &[Dim]) -> Expr {
        let mut out = Expr::default();
        let is_zero =
            |atom: &Atom| matches!(atom, Atom::Axis(a) if extents.get(a.index()).is_some_and(Expr::is_one));
        for (monomial, c) in &self.terms {
            // An axis alone is left, by which identities are known.
            if self.terms.len() > 1 && monomial.iter().any(is_zero) {
                continue;
            }
            let mut product = Expr::constant(*c);
            for atom in monomial {
                product = product * simplify_atom(atom, extents);
            }
            out = out + product;
        }
        out
    }

    fn push(&mut self, monomial: Monomial, coefficient: i64) {
        match self.terms.iter_mut().find(|(m, _)| *m == monomial) {
            Some((_, c)) => *c = c.saturating_add(coefficient),
            None => self.terms.push((monomial, coefficient)),
        }
    }

    fn sorted(mut self) -> Self {
        self.terms.retain(|(_, c)| *c != 0);
        self.terms.sort();
        self
    }
}

/// Bounds of one atom that is known to be at least 0: (lower, upper if there is one free of axes).
fn atom_bounds(atom: &Atom, extents: &[Dim]) -> Option<(Expr, Option<Expr>)> {
    match atom {
        Atom::Axis(a) => {
            Some((Expr::default(), extents.get(a.index()).map(|n| n.clone() - Expr::constant(1))))
        }
        Atom::Symbol(_) => {
            let s = Expr::atom(atom.clone());
            Some((s.clone(), Some(s)))
        }
        Atom::Mod(_, b) if b.as_constant().is_some_and(|d| d > 0) => {
            Some((Expr::default(), Some((**b).clone() - Expr::constant(1))))
        }
        Atom::FloorDiv(a, b) if b.as_constant().is_some_and(|d| d > 0) && a.is_nonnegative(extents) => {
            let most = a.upper_bound(extents).and_then(|most| most.as_constant());
            let quotient = |(most, d)| Expr::constant(floor_div(most, d));
            Some((Expr::default(), most.zip(b.as_constant()).map(quotient)))
        }
        Atom::Min(a, b) if a.is_nonnegative(extents) && b.is_nonnegative(extents) => {
            Some((Expr::default(), None))
        }
        Atom::Max(a, b) if a.is_nonnegative(extents) || b.is_nonnegative(extents) => {
            Some((Expr::default(), None))
        }
        Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
    }
}

fn simplify_atom(atom: &Atom, extents: &[Dim]) -> Expr {
    let within = |e: &Expr, d: &Expr| {
        e.is_nonnegative(extents) && (d.clone() - e.clone() - Expr::constant(1)).is_nonnegative(extents)
    };
    match atom {
        Atom::Axis(_) | Atom::Symbol(_) => Expr::atom(atom.clone()),
        Atom::FloorDiv(a, b) => {
            let (a, b) = (a.simplify(extents), b.simplify(extents));
            let (multiple, rest) = a.split_multiples(&b);
            // `rest` within [0, b) proves that b is positive wherever the space has a point at all.
            if within(&rest, &b) { multiple } else { a.floor_div(&b) }
        }
        Atom::Mod(a, b) => {
            let (a, b) = (a.simplify(extents), b.simplify(extents));
            let (_, rest) = a.split_multiples(&b);
            if within(&rest, &b) { rest } else { a.modulo(&b) }
        }
        Atom::Min(a, b) => {
            let (a, b) = (a.simplify(extents), b.simplify(extents));
            if (b.clone() - a.clone()).is_nonnegative(extents) {
                a
            } else if (a.clone() - b.clone()).is_nonnegative(extents) {
                b
            } else {
                a.minimum(&b)
            }
        }
        Atom::Max(a, b) => {
            let (a, b) = (a.simplify(extents), b.simplify(extents));
            if (b.clone() - a.clone()).is_nonnegative(extents) {
                b
            } else if (a.clone() - b.clone()).is_nonnegative(extents) {
                a
            } else {
                a.maximum(&b)
            }
        }
    }
}

fn eval_atom(atom: &Atom, leaf: &impl Fn(&Atom) -> Option<i64>) -> Result<i64, EvalError> {
    Ok(match atom {
        Atom::Axis(a) => leaf(atom).ok_or(EvalError::UnboundAxis(*a))?,
        Atom::Symbol(s) => leaf(atom).ok_or_else(|| EvalError::Unbound(s.clone()))?,
        Atom::FloorDiv(a, b) => floor_div(a.eval(leaf)?, b.eval(leaf)?),
        Atom::Mod(a, b) => floor_mod(a.eval(leaf)?, b.eval(leaf)?),
        Atom::Min(a, b) => a.eval(leaf)?.min(b.eval(leaf)?),
        Atom::Max(a, b) => a.eval(leaf)?.max(b.eval(leaf)?),
    })
}

/// Division rounding down; 0 for a zero divisor.
fn floor_div(a: i64, b: i64) -> i64 {
    if b == 0 {
        return 0;
    }
    let q = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { q - 1 } else { q }
}

/// Remainder with the sign of the divisor; 0 for a zero divisor.
fn floor_mod(a: i64, b: i64) -> i64 {
    if b == 0 { 0 } else { a.wrapping_sub(floor_div(a, b).wrapping_mul(b)) }
}

impl Add for Expr {
    type Output = Expr;
    fn add(mut self, other: Expr) -> Expr {
        for (monomial, c) in other.terms {
            self.push(monomial, c);
        }
        self.sorted()
    }
}

impl Neg for Expr {
    type Output = Expr;
    fn neg(mut self) -> Expr {
        for (_, c) in &mut self.terms {
            *c = c.saturating_neg();
        }
        self
    }
}

impl Sub for Expr {
    type Output = Expr;
    fn sub(self, other: Expr) -> Expr {
        self + -other
    }
}

impl Mul for Expr {
    type Output = Expr;
    fn mul(self, other: Expr) -> Expr {
        let mut out = Expr::default();
        for (a, ca) in &self.terms {
            for (b, cb) in &other.terms {
                let mut monomial = a.clone();
                monomial.extend(b.iter().cloned());
                monomial.sort();
                out.push(monomial, ca.saturating_mul(*cb));
            }
        }
        out.sorted()
    }
}

impl From<i64> for Expr {
    fn from(value: i64) -> Self {
        Expr::constant(value)
    }
}

impl From<&str> for Expr {
    fn from(name: &str) -> Self {
        Expr::symbol(name)
    }
}

/// How a text form writes a symbol.
pub(crate) type WriteSymbol = fn(&Symbol, &mut fmt::Formatter<'_>) -> fmt::Result;

impl Atom {
    fn write(&self, symbol: WriteSymbol, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, a, b) = match self {
            Atom::Axis(a) => return write!(f, "{a}"),
            Atom::Symbol(s) => return symbol(s, f),
            Atom::FloorDiv(a, b) => ("floordiv", a, b),
            Atom::Mod(a, b) => ("mod", a, b),
            Atom::Min(a, b) => ("min", a, b),
            Atom::Max(a, b) => ("max", a, b),
        };
        write!(f, "{name}(")?;
        a.write(symbol, f)?;
        f.write_str(", ")?;
        b.write(symbol, f)?;
        f.write_str(")")
    }
}

impl Expr {
    /// Prints `4*H + T - 1`: terms with factors first, the constant last.
    pub(crate) fn write(&self, symbol: WriteSymbol, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        let (constants, factored): (Vec<_>, Vec<_>) = self.terms.iter().partition(|(m, _)| m.is_empty());
        for (n, (monomial, c)) in factored.into_iter().chain(constants).enumerate() {
            let sign = if *c < 0 { "-" } else { "+" };
            match n {
                0 if *c < 0 => f.write_str("-")?,
                0 => {}
                _ => write!(f, " {sign} ")?,
            }
            let magnitude = c.unsigned_abs();
            if magnitude != 1 || monomial.is_empty() {
                write!(f, "{magnitude}{}", if monomial.is_empty() { "" } else { "*" })?;
            }
            for (k, atom) in monomial.iter().enumerate() {
                f.write_str(if k == 0 { "" } else { "*" })?;
                atom.write(symbol, f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(fmt::Display::fmt, f)
    }
}

/// Prints `4*H + T - 1`.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(fmt::Display::fmt, f)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Values of symbols at one run: `T = 100`, `B = 1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DimEnv {
    values: std::collections::BTreeMap<Symbol, i64>,
}

impl DimEnv {
    /// An environment without symbols.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `symbol` a value and returns the one it had.
    pub fn set(&mut self, symbol: Symbol, value: i64) -> Option<i64> {
        self.values.insert(symbol, value)
    }

    /// The value of `symbol`.
    pub fn get(&self, symbol: &Symbol) -> Option<i64> {
        self.values.get(symbol).copied()
    }

    /// All values, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Symbol, i64)> {
        self.values.iter().map(|(s, v)| (s, *v))
    }

    /// The same environment with one more symbol.
    pub fn with(mut self, name: &str, value: i64) -> Self {
        self.set(Symbol::new(name), value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(name: &str) -> Expr {
        Expr::symbol(name)
    }
    fn c(v: i64) -> Expr {
        Expr::constant(v)
    }

    #[test]
    fn equal_polynomials_have_one_form() {
        assert_eq!((s("T") + c(1)) * s("B"), s("B") + s("B") * s("T"));
        assert_eq!((c(4) * s("H")).to_string(), "4*H");
        assert_eq!((s("T") - c(1)).to_string(), "T - 1");
        assert_eq!((s("T") - s("T")).to_string(), "0");
    }

    #[test]
    fn division_is_exact_where_every_term_divides() {
        assert_eq!((c(4) * s("H")).floor_div(&c(4)), s("H"));
        assert_eq!((s("T") * s("B")).exact_div(&s("B")), Some(s("T")));
        assert_eq!((c(4) * s("H") + c(6)).floor_div(&c(4)).to_string(), "H + 1");
        assert_eq!((s("T") + c(1)).floor_div(&c(2)).to_string(), "floordiv(T + 1, 2)");
    }

    #[test]
    fn the_range_of_an_axis_decides_division_and_modulo() {
        let space = [s("T"), s("B")];
        let flat = Expr::axis(0) * s("B") + Expr::axis(1);
        assert_eq!(flat.floor_div(&s("B")).simplify(&space), Expr::axis(0));
        assert_eq!(flat.modulo(&s("B")).simplify(&space), Expr::axis(1));
        let near_miss = Expr::axis(0) * s("B") + Expr::axis(1) + c(1);
        assert_ne!(near_miss.modulo(&s("B")).simplify(&space), Expr::axis(1) + c(1));
    }

    #[test]
    fn a_quotient_has_the_range_that_its_dividend_gives_it() {
        let (space, half) = ([c(512)], Expr::axis(0).floor_div(&c(256)));
        assert!(half.floor_div(&c(2)).simplify(&space).is_zero());
        assert_eq!(half.modulo(&c(2)).simplify(&space), half);
        assert!(!half.floor_div(&c(2)).simplify(&[c(513)]).is_zero());
        assert_eq!(half.upper_bound(&[s("B")]), None);
    }

    #[test]
    fn a_clamp_that_cannot_bind_disappears() {
        let space = [c(8)];
        let clamped = Expr::axis(0).minimum(&c(7)).maximum(&c(0));
        assert_eq!(clamped.simplify(&space), Expr::axis(0));
        let binding = Expr::axis(0).minimum(&c(6));
        assert_eq!(binding.simplify(&space), binding);
    }

    #[test]
    fn evaluation_is_checked() {
        let env = DimEnv::new().with("T", i64::MAX);
        assert!(matches!((s("T") * s("T")).eval_dim(&env), Err(EvalError::Overflow(_))));
        assert!(matches!(s("B").eval_dim(&env), Err(EvalError::Unbound(_))));
        assert_eq!((s("T") - s("T") + c(3)).eval_dim(&env), Ok(3));
    }
}
