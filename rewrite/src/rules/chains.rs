//! Sums and products of many terms, each in one order.
//!
//! Rules for associativity and commutativity make every order and grouping of a sum: 6000 nodes for 8 terms, too
//! many for 10. Instead a sum is flattened into its terms with their coefficients, and written anew where that
//! gains something: equal terms are counted, constants folded, and what a loop does not change stands first, so
//! that it is one value that can leave the loop. Two sums of the same terms are one class, in whatever order they
//! were written. Products likewise.
//!
//! A sum ends at what others use too: flattening through it would compute it twice.

use std::collections::BTreeMap;

use egg::Id;
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Literal};
use rustc_hash::FxHashMap;

use super::{Contract, Family, RuleEntry, limits_reached};
use crate::analysis::Terms;
use crate::language::{Head, SpaceId, Term};
use crate::provenance::under;

/// The most operands of a chain that is looked at as one.
const MAX_OPERANDS: usize = 1024;

/// What this module does, for the catalogue.
pub const ENTRIES: &[RuleEntry] = &[
    RuleEntry::new(
        Family::Terms,
        SUM,
        (
            "a sum of terms, differences, negations and constant multiples",
            "the sum of distinct terms, each once",
        ),
        "it has fewer operations, or its loop-invariant terms become one; no term cancels unless it is an integer",
        Contract::Reassociates,
        "rewrite/tests/rules/sum-normal-form.fuse",
    ),
    RuleEntry::new(
        Family::Terms,
        PRODUCT,
        ("a product of factors, negations and constants", "the product with one constant"),
        "it has fewer operations, or its loop-invariant factors become one; the constant is finite",
        Contract::Reassociates,
        "rewrite/tests/rules/product-normal-form.fuse",
    ),
];

const SUM: &str = "sum-normal-form";
const PRODUCT: &str = "product-normal-form";

/// What kind of chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Kind {
    Sum,
    Product,
}

impl Kind {
    fn links(self, head: Head) -> bool {
        match self {
            Kind::Sum => matches!(head, Head::Scalar(ScalarOp::Add | ScalarOp::Sub)),
            Kind::Product => head == Head::Scalar(ScalarOp::Mul),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Sum => SUM,
            Kind::Product => PRODUCT,
        }
    }
}

/// A coefficient or constant: in f64, or modulo 2^64.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Number {
    Float(f64),
    Int(i64),
}

impl Number {
    fn of(literal: Literal) -> Number {
        if literal.dtype().is_float() {
            Number::Float(literal.as_f64())
        } else {
            Number::Int(literal.as_i64())
        }
    }

    fn integer(dtype: DType, value: i64) -> Number {
        if dtype.is_float() { Number::Float(value as f64) } else { Number::Int(value) }
    }

    fn plus(self, other: Number) -> Number {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => Number::Int(a.wrapping_add(b)),
            (a, b) => Number::Float(a.float() + b.float()),
        }
    }

    fn times(self, other: Number) -> Number {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => Number::Int(a.wrapping_mul(b)),
            (a, b) => Number::Float(a.float() * b.float()),
        }
    }

    fn float(self) -> f64 {
        match self {
            Number::Float(x) => x,
            Number::Int(x) => x as f64,
        }
    }

    fn is(self, value: i64) -> bool {
        match self {
            Number::Float(x) => x == value as f64,
            Number::Int(x) => x == value,
        }
    }

    fn is_negative(self) -> bool {
        self.float() < 0.0
    }

    fn negated(self) -> Number {
        match self {
            Number::Float(x) => Number::Float(-x),
            Number::Int(x) => Number::Int(x.wrapping_neg()),
        }
    }

    /// The literal, if the type has this very value; of integers the one that agrees modulo its size.
    fn literal(self, dtype: DType) -> Option<Literal> {
        match self {
            Number::Float(x) => Some(Literal::from_f64(dtype, x)).filter(|l| l.as_f64().is_finite()),
            Number::Int(x) => Some(Literal::from_i64(dtype, x)),
        }
    }

    /// For comparing normal forms.
    fn bits(self) -> u64 {
        match self {
            Number::Float(x) => x.to_bits(),
            Number::Int(x) => x as u64,
        }
    }
}

/// A chain, flattened. Of a sum the numbers are coefficients, of a product how often a factor occurs.
struct Chain {
    kind: Kind,
    dtype: DType,
    operands: BTreeMap<Id, Number>,
    constant: Number,
    /// The operands and constants as they stood.
    written: usize,
}

/// Which classes are used by one other class alone, and by which.
struct Users(FxHashMap<Id, Option<Id>>);

impl Users {
    fn of(terms: &Terms) -> Users {
        let mut users: FxHashMap<Id, Option<Id>> = FxHashMap::default();
        for class in terms.classes() {
            for child in class.nodes.iter().flat_map(|t| &t.children) {
                let entry = users.entry(terms.find(*child)).or_insert(Some(class.id));
                if *entry != Some(class.id) {
                    *entry = None;
                }
            }
        }
        Users(users)
    }

    fn sole(&self, class: Id) -> Option<Id> {
        self.0.get(&class).copied().flatten()
    }
}

/// The term by which a class is a link of a chain; never one that the class itself is an operand of.
fn link(terms: &Terms, kind: Kind, class: Id) -> Option<Term> {
    let canonical = |t: &Term| {
        let children: Vec<Id> = t.children.iter().map(|c| terms.find(*c)).collect();
        Term::new(t.head, &children)
    };
    let links = terms[class].nodes.iter().filter(|t| kind.links(t.head)).map(canonical);
    links.filter(|t| !t.children.contains(&class)).min()
}

/// Brings every sum and product into its normal form where that gains something. Returns how often, by name.
pub fn normalise(terms: &mut Terms) -> Vec<(&'static str, usize)> {
    [Kind::Sum, Kind::Product].map(|kind| (kind.name(), normalise_kind(terms, kind))).to_vec()
}

fn normalise_kind(terms: &mut Terms, kind: Kind) -> usize {
    let users = Users::of(terms);
    let mut roots: Vec<Id> = terms.classes().map(|c| c.id).collect();
    roots.retain(|class| is_root(terms, kind, &users, *class));
    roots.sort_unstable();
    let mut seen: FxHashMap<(Vec<(Id, u64)>, u64), Id> = FxHashMap::default();
    let mut changed = 0;
    for root in roots {
        if limits_reached(terms) {
            break;
        }
        let chain = flatten(terms, kind, &users, root).filter(|c| !c.operands.is_empty());
        let Some(chain) = chain else { continue };
        let written = link(terms, kind, root);
        let key = chain.operands.iter().map(|(id, n)| (*id, n.bits())).collect();
        let known = *seen.entry((key, chain.constant.bits())).or_insert(root);
        let equal = if known != root { Some(known) } else { chain.build(terms) };
        if let Some(equal) = equal {
            terms.analysis.record.between(written, None);
            changed += usize::from(under(terms, kind.name(), |terms| terms.union(root, equal)));
        }
    }
    terms.rebuild();
    changed
}

/// Whether a chain begins here rather than being a part of a longer one.
fn is_root(terms: &Terms, kind: Kind, users: &Users, class: Id) -> bool {
    let data = &terms[class].data;
    if data.constant.is_some() || data.dtype == DType::Bool || link(terms, kind, class).is_none() {
        return false;
    }
    users.sole(class).is_none_or(|user| {
        let inside = |t: &Term| kind.links(t.head) && t.children.iter().any(|c| terms.find(*c) == class);
        !terms[user].nodes.iter().any(inside)
    })
}

/// The operands of a chain; `None` where it is too long or cyclic, or where a float cancels.
fn flatten(terms: &Terms, kind: Kind, users: &Users, root: Id) -> Option<Chain> {
    let dtype = terms[root].data.dtype;
    let one = Number::integer(dtype, 1);
    let unit = if kind == Kind::Sum { Number::integer(dtype, 0) } else { one };
    let mut chain = Chain { kind, dtype, operands: BTreeMap::new(), constant: unit, written: 0 };
    let mut expanded = vec![root];
    let mut pending = vec![(root, one)];
    while let Some((class, coefficient)) = pending.pop() {
        let class = terms.find(class);
        if chain.written + pending.len() > MAX_OPERANDS || (class == root && expanded.len() > 1) {
            return None;
        }
        if let Some(value) = terms[class].data.constant {
            chain.written += 1;
            chain.take_constant(Number::of(value).times(coefficient));
            continue;
        }
        let opens = |class: Id| class == root || (users.sole(class).is_some() && !expanded.contains(&class));
        let stops = |class: Id| opens(class) && link(terms, kind, class).is_some();
        if let Some(term) = link(terms, kind, class).filter(|_| opens(class)) {
            expanded.push(class);
            let minus = term.head == Head::Scalar(ScalarOp::Sub);
            let second = if minus { coefficient.negated() } else { coefficient };
            // A sign of a product counts once, whichever factor it is followed into.
            let second = if kind == Kind::Product { one } else { second };
            if term.children[0] == term.children[1] {
                // x + x is twice x, whatever x is.
                chain.take(terms.find(term.children[0]), coefficient);
                chain.take(terms.find(term.children[1]), second);
                continue;
            }
            pending.push((term.children[1], second));
            pending.push((term.children[0], coefficient));
        } else if let Some((inner, factor)) = multiple_of(terms, kind, class, &stops) {
            let factor = coefficient.times(factor);
            // Of products the factor is one of the chain.
            chain.written += usize::from(kind == Kind::Product);
            pending.push((inner, factor));
        } else {
            chain.take(class, coefficient);
        }
    }
    // With what cancels a NaN would be lost.
    let cancels = dtype.is_float() && chain.operands.values().any(|n| n.is(0));
    (!cancels).then_some(chain)
}

/// What a class is a multiple of, looking through multiples of multiples as far as a class where to stop. `-(-x)` is
/// `x`, so that the two classes are multiples of each other: of those that go round in circles the first met counts.
fn multiple_of(terms: &Terms, kind: Kind, class: Id, stops: &impl Fn(Id) -> bool) -> Option<(Id, Number)> {
    let mut seen = vec![(class, Number::integer(terms[class].data.dtype, 1))];
    while let Some((last, coefficient)) =
        seen.last().copied().filter(|(last, _)| seen.len() == 1 || !stops(*last))
    {
        let Some((inner, factor)) = multiple(terms, kind, last) else { break };
        if let Some(first) = seen.iter().position(|(known, _)| *known == inner) {
            seen.truncate(first + 1);
            break;
        }
        seen.push((inner, coefficient.times(factor)));
    }
    seen.pop().filter(|(inner, _)| *inner != class)
}

/// `-x`, and in sums `c · x`, as `x` and its coefficient.
fn multiple(terms: &Terms, kind: Kind, class: Id) -> Option<(Id, Number)> {
    let dtype = terms[class].data.dtype;
    let read = |t: &Term| match (t.head, kind) {
        (Head::Scalar(ScalarOp::Neg), _) => Some((t.children[0], Number::integer(dtype, -1))),
        (Head::Scalar(ScalarOp::Mul), Kind::Sum) => {
            let constant = |i: usize| terms[t.children[i]].data.constant.map(Number::of);
            match (constant(0), constant(1)) {
                (None, Some(c)) => Some((t.children[0], c)),
                (Some(c), None) => Some((t.children[1], c)),
                (Some(_), Some(_)) | (None, None) => None,
            }
        }
        _ => None,
    };
    let finite = |n: &Number| n.float().is_finite() && !n.is(0);
    let found = terms[class].nodes.iter().filter_map(read);
    found.map(|(x, n)| (terms.find(x), n)).find(|(x, n)| *x != class && finite(n))
}

impl Chain {
    fn take_constant(&mut self, value: Number) {
        self.constant = match self.kind {
            Kind::Sum => self.constant.plus(value),
            Kind::Product => self.constant.times(value),
        };
    }

    fn take(&mut self, class: Id, coefficient: Number) {
        self.written += 1;
        let one = Number::integer(self.dtype, 1);
        let count = match self.kind {
            Kind::Sum => coefficient,
            Kind::Product => {
                self.constant = self.constant.times(coefficient);
                one
            }
        };
        let sum = self.operands.get(&class).map_or(count, |n| n.plus(count));
        self.operands.insert(class, sum);
    }

    /// The class of the chain written anew, where that gains something.
    fn build(&self, terms: &mut Terms) -> Option<Id> {
        self.constant.literal(self.dtype)?;
        let space = self.operands.keys().next().map(|id| terms[*id].data.space)?;
        let kept: Vec<(Id, Number)> =
            self.operands.iter().filter(|(_, n)| !n.is(0)).map(|(id, n)| (*id, *n)).collect();
        let trivial = if self.kind == Kind::Sum { 0 } else { 1 };
        let constants = usize::from(!self.constant.is(trivial));
        let folded = match self.kind {
            Kind::Sum => kept.len() + constants < self.written,
            // Equal factors stay: powers are no fewer operations.
            Kind::Product => {
                let factors: f64 = kept.iter().map(|(_, n)| n.float()).sum();
                factors as usize + constants < self.written
            }
        };
        let mut ordered: Vec<((usize, u32), Id, Number)> =
            kept.into_iter().map(|(id, n)| (order(terms, id), id, n)).collect();
        ordered.sort_by_key(|(key, id, _)| (*key, *id));
        let innermost = ordered.last().map_or(0, |(key, ..)| key.0);
        let invariant = ordered.iter().filter(|(key, ..)| key.0 < innermost).count() + constants;
        if !folded && (invariant < 2 || ordered.len() + constants < 3) {
            return None;
        }
        let operands: Vec<(Id, Number)> = ordered.into_iter().map(|(_, id, n)| (id, n)).collect();
        match self.kind {
            Kind::Sum => self.sum(terms, space, &operands),
            Kind::Product => self.product(terms, space, &operands),
        }
    }

    fn constant_term(&self, terms: &mut Terms, space: SpaceId, n: Number) -> Option<Id> {
        let head = terms.analysis.tables.constant_head(n.literal(self.dtype)?, space);
        Some(terms.add(Term::leaf(head)))
    }

    fn sum(&self, terms: &mut Terms, space: SpaceId, operands: &[(Id, Number)]) -> Option<Id> {
        let mut signed = Vec::with_capacity(operands.len() + 1);
        if !self.constant.is(0) || operands.is_empty() {
            signed.push((self.constant_term(terms, space, self.constant)?, false));
        }
        for (id, coefficient) in operands {
            let negative = coefficient.is_negative();
            let size = if negative { coefficient.negated() } else { *coefficient };
            let term = if size.is(1) {
                *id
            } else {
                let factor = self.constant_term(terms, space, size)?;
                terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[*id, factor]))
            };
            signed.push((term, negative));
        }
        // Something positive comes first; where there is nothing, the sum is negated as a whole.
        let first = signed.iter().position(|(_, negative)| !negative);
        let negated = first.is_none();
        let first = signed.remove(first.unwrap_or(0)).0;
        let sum = signed.into_iter().fold(first, |sum, (term, negative)| {
            let op = if negative && !negated { ScalarOp::Sub } else { ScalarOp::Add };
            terms.add(Term::new(Head::Scalar(op), &[sum, term]))
        });
        Some(if negated { terms.add(Term::new(Head::Scalar(ScalarOp::Neg), &[sum])) } else { sum })
    }

    fn product(&self, terms: &mut Terms, space: SpaceId, operands: &[(Id, Number)]) -> Option<Id> {
        let mut factors = Vec::new();
        let negated = self.constant.is(-1);
        if !self.constant.is(1) && !negated {
            factors.push(self.constant_term(terms, space, self.constant)?);
        }
        for (id, count) in operands {
            factors.extend(std::iter::repeat_n(*id, count.float() as usize));
        }
        let mut factors = factors.into_iter();
        let first = factors.next()?;
        let product = factors.fold(first, |x, y| terms.add(Term::new(Head::Scalar(ScalarOp::Mul), &[x, y])));
        Some(if negated { terms.add(Term::new(Head::Scalar(ScalarOp::Neg), &[product])) } else { product })
    }
}

/// Outer loops first, then what depends on fewer axes.
fn order(terms: &Terms, class: Id) -> (usize, u32) {
    let data = &terms[class].data;
    let depth = data.inside.iter().map(|s| terms.analysis.tables.scan(s).depth() + 1).max();
    (depth.unwrap_or(0), data.depends.count_ones())
}
