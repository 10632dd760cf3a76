//! Associativity of products: `(A · B) · C = A · (B · C)`.
//!
//! Which is cheaper depends on the shapes, so the rule looks at them (assumed values for symbols, as in the cost
//! model) and goes only towards fewer multiplications. A contraction here is a sum of a product of views over one
//! space; the views say along which axes each factor runs, whatever was transposed or repeated.

use egg::Id;
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::types::Shape;
use fuse_ir::{Axis, Expr, IndexMap};

use super::{Contract, Procedure};
use crate::analysis::Terms;
use crate::extract::cost::assumed;
use crate::language::{Head, Term};
use crate::push::extend;

/// The rule.
pub const PROCEDURES: &[Procedure] = &[Procedure {
    name: "reassociate-products",
    left: "contract(contract(a, b), c)",
    right: "contract(a, contract(b, c))",
    guard: "half the multiplications or fewer for the assumed dimensions; a does not run along the outer sum; \
            outside of loops, where a chain of two sums a step is slower than one",
    test: "rewrite/tests/rules/reassociate-products.fuse",
    candidate: |t| matches!(t.head, Head::Reduce(ReduceOp::Sum, _)),
    apply: reassociate,
    contract: Contract::Reassociates,
}];

/// A class read through a map from some space.
#[derive(Clone)]
struct View {
    results: Vec<Expr>,
    source: Id,
}

impl View {
    /// A class as a view of another, or of itself.
    fn of(terms: &Terms, class: Id) -> View {
        let tables = &terms.analysis.tables;
        let source = terms.find(class);
        let mut views: Vec<(Id, Vec<Expr>)> = Vec::new();
        // What would be read of an empty tensor is a constant, though what that tensor is a view of is none.
        let is_known = terms[class].data.constant.is_some();
        for term in terms[class].nodes.iter().filter(|_| !is_known) {
            if let Head::Reindex(map) = term.head {
                views.push((terms.find(term.children[0]), tables.map(map).results.clone()));
            }
        }
        views.sort();
        let rank = tables.extents(terms[class].data.space).len();
        match views.into_iter().find(|(inner, _)| *inner != source) {
            Some((source, results)) => View { results, source },
            None => View { results: (0..rank).map(Expr::axis).collect(), source },
        }
    }

    /// The view at the coordinates that another space gives.
    fn at(&self, coordinates: &[Expr]) -> View {
        let results = self.results.iter().map(|e| e.substitute_axes(coordinates)).collect();
        View { results, source: self.source }
    }

    /// Whether it runs along an axis.
    fn runs_along(&self, axis: usize) -> bool {
        self.results.iter().any(|e| e.uses_axis(Axis(axis as u32)))
    }

    /// Its term over a space.
    fn add(&self, terms: &mut Terms, domain: &Shape) -> Id {
        let results = self.results.iter().map(|e| e.simplify(domain)).collect();
        let map = terms.analysis.tables.map_id(IndexMap { domain: domain.clone(), results });
        terms.add(Term::new(Head::Reindex(map), &[self.source]))
    }
}

/// The two factors of a class that is a product.
fn factors(terms: &Terms, class: Id) -> Option<[Id; 2]> {
    let products = terms[class].nodes.iter().filter(|t| t.head == Head::Scalar(ScalarOp::Mul));
    products.map(|t| [terms.find(t.children[0]), terms.find(t.children[1])]).min()
}

/// What a class sums, and over how many axes.
fn summed(terms: &Terms, class: Id) -> Option<(usize, Id)> {
    let sum = |t: &Term| match t.head {
        Head::Reduce(ReduceOp::Sum, axes) => Some((axes as usize, terms.find(t.children[0]))),
        _ => None,
    };
    terms[class].nodes.iter().filter_map(sum).min()
}

fn points(extents: &[Expr]) -> f64 {
    extents.iter().map(assumed).product()
}

fn reassociate(terms: &mut Terms, term: &Term) -> Option<Id> {
    let [x, y] = factors(terms, term.children[0])?;
    attempt(terms, term, x, y).or_else(|| attempt(terms, term, y, x))
}

/// The sum of `x · c` where `x` is a view of a sum of `a · b`.
fn attempt(terms: &mut Terms, term: &Term, x: Id, c: Id) -> Option<Id> {
    let Head::Reduce(_, outer) = term.head else { return None };
    let tables = &terms.analysis.tables;
    let space = tables.extents(terms[term.children[0]].data.space).clone();
    let kept = space.len() - outer as usize;
    let product = View::of(terms, x);
    let (inner, operand) = summed(terms, product.source)?;
    let pair = factors(terms, operand)?;
    if !terms[x].data.inside.is_empty() || !terms[c].data.inside.is_empty() {
        return None;
    }
    // Over the space with the axes of the inner sum at its end.
    let inner_space = tables.extents(terms[operand].data.space).clone();
    let whole = extend(&IndexMap { domain: space.clone(), results: product.results }, &inner_space, inner);
    let (domain, coordinates) = (whole.domain, whole.results);
    let c = View::of(terms, c);
    let before = points(&inner_space) + points(&space);
    for [a, b] in [pair, [pair[1], pair[0]]] {
        let (a, b) = (View::of(terms, a).at(&coordinates), View::of(terms, b).at(&coordinates));
        if (kept..space.len()).any(|axis| a.runs_along(axis)) {
            continue;
        }
        let left: Vec<usize> = (0..kept).filter(|axis| b.runs_along(*axis) || c.runs_along(*axis)).collect();
        let split = Split { domain: &domain, kept, outer: outer as usize, left: &left };
        let after = points(&split.second()) + points(&split.first());
        if 2.0 * after <= before {
            return Some(split.build(terms, &a, &b, &c));
        }
    }
    None
}

/// The two sums on the right side: first that of `b · c`, then that of `a` and the first.
struct Split<'a> {
    /// The kept axes, those of the outer sum, those of the inner sum.
    domain: &'a Shape,
    kept: usize,
    outer: usize,
    /// The kept axes along which `b` or `c` runs.
    left: &'a [usize],
}

impl Split<'_> {
    fn inner_axes(&self) -> std::ops::Range<usize> {
        self.kept + self.outer..self.domain.len()
    }

    /// The space of the first sum's product, as axes of the domain: what is left, the inner sum's, the outer's.
    fn first_axes(&self) -> Vec<usize> {
        let outer = self.kept..self.kept + self.outer;
        self.left.iter().copied().chain(self.inner_axes()).chain(outer).collect()
    }

    fn second_axes(&self) -> Vec<usize> {
        (0..self.kept).chain(self.inner_axes()).collect()
    }

    fn extents(&self, axes: &[usize]) -> Shape {
        axes.iter().map(|a| self.domain[*a].clone()).collect()
    }

    fn first(&self) -> Shape {
        self.extents(&self.first_axes())
    }

    fn second(&self) -> Shape {
        self.extents(&self.second_axes())
    }

    /// The coordinates of the domain over a space of some of its axes; the others are not read.
    fn coordinates(&self, axes: &[usize]) -> Vec<Expr> {
        let position = |a: usize| axes.iter().position(|b| *b == a).map_or(Expr::constant(0), Expr::axis);
        (0..self.domain.len()).map(position).collect()
    }

    fn build(&self, terms: &mut Terms, a: &View, b: &View, c: &View) -> Id {
        let (first, second) = (self.first_axes(), self.second_axes());
        let at = self.coordinates(&first);
        let (b, c) = (b.at(&at).add(terms, &self.first()), c.at(&at).add(terms, &self.first()));
        let product = terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[b, c]));
        let sum = terms.add(Term::new(Head::Reduce(ReduceOp::Sum, self.outer as u8), &[product]));
        let at = self.coordinates(&second);
        let a = a.at(&at).add(terms, &self.second());
        let remaining = &first[..first.len() - self.outer];
        let results = remaining.iter().map(|axis| at[*axis].clone()).collect();
        let sum = View { results, source: sum }.add(terms, &self.second());
        let product = terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[a, sum]));
        let inner = self.inner_axes().len();
        terms.add(Term::new(Head::Reduce(ReduceOp::Sum, inner as u8), &[product]))
    }
}
