//! The values of classes, at every point, for given inputs.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use egg::Id;
use fuse_ir::expr::Atom;
use fuse_ir::interp::{ScalarValue, eval_scalar, fold_cast};
use fuse_ir::ops::{ReduceOp, ScalarOp};
use fuse_ir::{DType, DimEnv, Expr, Literal, Tensor};

use crate::analysis::Terms;
use crate::language::{Head, ScanId, Term};

/// How equal values must be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Agreement {
    /// Bit by bit; one NaN is as good as another.
    Exact,
    /// Within this, of the larger of 1 and the operands; classes where rounding decides do not count.
    Within(f64),
}

/// Gives classes their values.
pub struct Evaluator<'a> {
    terms: &'a Terms,
    dims: &'a DimEnv,
    inputs: &'a [Tensor],
    /// The node by which each class is evaluated: a way down to leaves.
    chosen: HashMap<Id, Term>,
    height: HashMap<Id, usize>,
    known: HashMap<(Id, Vec<i64>), Option<Literal>>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of an e-graph that is rebuilt.
    pub fn new(terms: &'a Terms, dims: &'a DimEnv, inputs: &'a [Tensor]) -> Self {
        let (mut chosen, mut height) = (HashMap::new(), HashMap::<Id, usize>::new());
        let mut changed = true;
        while changed {
            changed = false;
            for class in terms.classes() {
                for term in &class.nodes {
                    let mut below = needed(terms, term).map(|c| height.get(&terms.find(c)));
                    let below = below.try_fold(0, |max, h| Some(max.max(*h?)));
                    let Some(below) = below else { continue };
                    if height.get(&class.id).is_none_or(|h| below + 1 < *h) {
                        height.insert(class.id, below + 1);
                        chosen.insert(class.id, term.clone());
                        changed = true;
                    }
                }
            }
        }
        Evaluator { terms, dims, inputs, chosen, height, known: HashMap::new() }
    }

    fn extents(&self, class: Id) -> Vec<i64> {
        let space = self.terms.analysis.tables.extents(self.terms[class].data.space);
        space.iter().map(|n| n.eval_dim(self.dims).expect("every dimension has a value")).collect()
    }

    fn index(&self, e: &Expr, point: &[i64]) -> i64 {
        let leaf = |atom: &Atom| match atom {
            Atom::Axis(axis) => point.get(axis.index()).copied(),
            Atom::Symbol(symbol) => self.dims.get(symbol),
            Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
        };
        e.eval(&leaf).expect("small coordinates do not overflow")
    }

    /// Whether an expression is clamped to an axis that has no positions, so that it is the coordinate of nothing: of
    /// what is pushed through such a view any value is as good.
    fn reads_nothing(&self, e: &Expr) -> bool {
        let is_below_zero = |n: &Expr| n.axes().is_empty() && n.eval_dim(self.dims).is_ok_and(|n| n < 0);
        let mut nothing = false;
        e.visit_atoms(&mut |atom| match atom {
            Atom::Min(a, b) => nothing |= is_below_zero(a) || is_below_zero(b),
            Atom::Axis(_) | Atom::Symbol(_) | Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Max(..) => {}
        });
        nothing
    }

    /// The value of a class at a point; `None` where it reads what is not there, as the side of a selection that
    /// is not taken may.
    pub fn value(&mut self, class: Id, point: &[i64]) -> Option<Literal> {
        let class = self.terms.find(class);
        let key = (class, point.to_vec());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let term = self.chosen.get(&class).expect("every class has a way down to leaves").clone();
        let value = self.term(&term, point);
        self.known.insert(key, value);
        value
    }

    fn read(&mut self, class: Id, point: &[i64]) -> Option<Literal> {
        let inside = self.extents(class).iter().zip(point).all(|(n, i)| (0..*n).contains(i));
        if inside { self.value(class, point) } else { None }
    }

    /// The value of a term at a point, from the values of its operands.
    pub fn term(&mut self, term: &Term, point: &[i64]) -> Option<Literal> {
        let tables = &self.terms.analysis.tables;
        let all = |e: &Self, coordinates: &[Expr]| -> Vec<i64> {
            coordinates.iter().map(|c| e.index(c, point)).collect()
        };
        match term.head {
            Head::Leaf(input) => {
                let tensor = &self.inputs[input as usize];
                let flat = tensor.shape().iter().zip(point).fold(0, |flat, (n, i)| flat * n + *i as usize);
                tensor.get(flat)
            }
            Head::Constant(id) => Some(tables.constant(id).value),
            Head::Index(id) => {
                let index = tables.index(id).clone();
                if self.reads_nothing(&index.value) {
                    return None;
                }
                let value = self.index(&index.value, point);
                Some(fold_cast(Literal::from_i64(DType::I64, value), index.dtype))
            }
            Head::Scalar(ScalarOp::Select) => {
                let condition = self.value(term.children[0], point)?;
                self.value(term.children[if condition.as_i64() != 0 { 1 } else { 2 }], point)
            }
            Head::Scalar(op) => {
                let operands: Option<Vec<Literal>> =
                    term.children.iter().map(|c| self.value(*c, point)).collect();
                Some(apply(op, &operands?))
            }
            Head::Cast(to) => Some(fold_cast(self.value(term.children[0], point)?, to)),
            Head::Reindex(map) => {
                let results = tables.map(map).results.clone();
                if results.iter().any(|e| self.reads_nothing(e)) {
                    return None;
                }
                let at = all(self, &results);
                self.read(term.children[0], &at)
            }
            Head::Reduce(op, axes) => self.reduce(op, axes as usize, term.children[0], point),
            Head::Gather(id) => {
                let gather = tables.gather(id).clone();
                if gather.coordinates.iter().any(|e| self.reads_nothing(e)) {
                    return None;
                }
                let row = self.value(term.children[1], point)?.as_i64();
                let mut at = all(self, &gather.coordinates);
                let rows = self.extents(term.children[0])[gather.axis];
                at[gather.axis] = row.min(rows - 1).max(0);
                self.read(term.children[0], &at)
            }
            Head::Carry(scan, i) => self.carry(scan, i as usize, point),
            Head::Recurrence { axis, exclusive } => {
                let axis = axis as usize;
                self.recurrence(term, axis, point, point[axis] + i64::from(!exclusive))
            }
            Head::RecurrenceFinal(axis) => {
                let steps = self.extents(term.children[1])[axis as usize];
                let mut at = point.to_vec();
                at.insert(axis as usize, steps - 1);
                if steps == 0 {
                    self.value(term.children[0], point)
                } else {
                    self.value(term.children[1], &at)
                }
            }
            Head::ScanFinal(scan, _) => {
                let (depth, trip) = self.scan(scan);
                let mut at = point.to_vec();
                at.insert(depth, trip - 1);
                if trip == 0 {
                    self.value(term.children[0], point)
                } else {
                    self.value(term.children[1], &at)
                }
            }
        }
    }

    /// The state of a recurrence after the points of its axis before `end`.
    fn recurrence(&mut self, term: &Term, axis: usize, point: &[i64], end: i64) -> Option<Literal> {
        let mut at = point.to_vec();
        at.remove(axis);
        let mut state = self.value(term.children[0], &at)?;
        let mut at = point.to_vec();
        for position in 0..end {
            at[axis] = position;
            let (factor, added) = (self.value(term.children[1], &at)?, self.value(term.children[2], &at)?);
            state = apply(ScalarOp::Add, &[apply(ScalarOp::Mul, &[factor, state]), added]);
        }
        Some(state)
    }

    /// The time axis of a scan and its number of steps.
    fn scan(&self, scan: ScanId) -> (usize, i64) {
        let info = self.terms.analysis.tables.scan(scan);
        let trip = info.trip.eval_dim(self.dims).expect("every dimension has a value");
        (info.depth(), trip)
    }

    fn carry(&mut self, scan: ScanId, i: usize, point: &[i64]) -> Option<Literal> {
        let (depth, _) = self.scan(scan);
        let carry = &self.terms.analysis.tables.scan(scan).carries[i];
        let (init, next) = (carry.init, carry.next);
        let mut at = point.to_vec();
        if at[depth] == 0 {
            at.remove(depth);
            return self.value(init, &at);
        }
        at[depth] -= 1;
        self.value(next, &at)
    }

    fn reduce(&mut self, op: ReduceOp, axes: usize, x: Id, point: &[i64]) -> Option<Literal> {
        let x = self.terms.find(x);
        let dtype = self.terms[x].data.dtype;
        let extents = self.extents(x)[point.len()..].to_vec();
        debug_assert_eq!(extents.len(), axes);
        let mut best: Option<(i64, Literal)> = None;
        let mut sum = op.identity(dtype);
        for (position, inner) in points(&extents).into_iter().enumerate() {
            let at: Vec<i64> = point.iter().copied().chain(inner).collect();
            let value = self.value(x, &at)?;
            let combine = match op {
                ReduceOp::Sum => ScalarOp::Add,
                ReduceOp::Prod => ScalarOp::Mul,
                ReduceOp::Max => ScalarOp::Max,
                ReduceOp::Min => ScalarOp::Min,
                ReduceOp::ArgMax | ReduceOp::ArgMin => {
                    let least = op == ReduceOp::ArgMin;
                    let better = |(_, b): (i64, Literal)| {
                        let (b, v) = (key(b), key(value));
                        !b.0 && (v.0 || if least { v.1 < b.1 } else { v.1 > b.1 })
                    };
                    if best.is_none_or(better) {
                        best = Some((position as i64, value));
                    }
                    continue;
                }
            };
            sum = apply(combine, &[sum, value]);
        }
        Some(if op.is_arg() { Literal::from_i64(DType::I64, best.map_or(0, |(at, _)| at)) } else { sum })
    }

    /// The classes whose nodes disagree, in words: what they compute, and where.
    pub fn disagreements(&mut self, agreement: Agreement) -> Vec<String> {
        let mut classes: Vec<Id> = self.terms.classes().map(|c| c.id).collect();
        classes.sort_by_key(|id| (self.height.get(id).copied(), *id));
        let mut out = Vec::new();
        // Classes that rounding has taken apart, and what is computed from them.
        let mut apart: HashSet<Id> = HashSet::new();
        for class in classes {
            let nodes = self.terms[class].nodes.clone();
            let touched = |t: &Term| t.children.iter().any(|c| apart.contains(&self.terms.find(*c)));
            if nodes.iter().any(touched) {
                apart.insert(class);
                continue;
            }
            let points = points(&self.extents(class));
            // Large classes are sampled, at points that meet no axis in step.
            let stride = if points.len() > MOST_POINTS { points.len() / MOST_POINTS + 1 } else { 1 };
            for point in points.into_iter().step_by(stride | 1) {
                let Some(expected) = self.value(class, &point) else { continue };
                if agreement != Agreement::Exact && (wild(expected) || self.beside_wild(&nodes, &point)) {
                    apart.insert(class);
                    break;
                }
                let differs = |e: &mut Self, t: &Term| {
                    let got = e.term(t, &point)?;
                    (!e.agree(agreement, t, &point, expected, got)).then_some((t.clone(), got))
                };
                let Some((term, got)) = nodes.iter().find_map(|t| differs(self, t)) else { continue };
                if agreement != Agreement::Exact && (wild(got) || nodes.iter().any(|t| jumps(t.head))) {
                    apart.insert(class);
                } else {
                    out.push(self.describe(class, &point, expected, &term, got));
                }
                break;
            }
        }
        out
    }

    /// Whether an operand is so large or so odd that rounding shows.
    fn beside_wild(&mut self, nodes: &[Term], point: &[i64]) -> bool {
        let pointwise = |t: &&Term| matches!(t.head, Head::Scalar(_) | Head::Cast(_));
        let operands: Vec<Id> =
            nodes.iter().filter(pointwise).flat_map(|t| t.children.iter().copied()).collect();
        operands.into_iter().any(|c| self.value(c, point).is_some_and(wild))
    }

    fn agree(&mut self, agreement: Agreement, term: &Term, point: &[i64], a: Literal, b: Literal) -> bool {
        let (x, y) = (a.as_f64(), b.as_f64());
        if a == b || (x.is_nan() && y.is_nan()) {
            return true;
        }
        let Agreement::Within(tolerance) = agreement else { return false };
        let size = match term.head {
            Head::Scalar(_) => term
                .children
                .iter()
                .filter_map(|c| self.value(*c, point))
                .fold(1f64, |max, v| max.max(v.as_f64().abs())),
            Head::Leaf(_)
            | Head::Constant(_)
            | Head::Index(_)
            | Head::Cast(_)
            | Head::Reindex(_)
            | Head::Reduce(..)
            | Head::Gather(_)
            | Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_) => 1.0,
        };
        a.dtype().is_float() && (x - y).abs() <= tolerance * size.max(x.abs())
    }

    fn describe(&mut self, class: Id, point: &[i64], expected: Literal, term: &Term, got: Literal) -> String {
        let mut out =
            format!("class {class} at {point:?} of {:?} is {expected}, but also {got}, by\n", self.dims);
        let mut pending = vec![(term.clone(), point.to_vec(), 1)];
        pending.insert(0, (self.chosen[&class].clone(), point.to_vec(), 1));
        while let Some((term, point, depth)) = pending.pop() {
            let head = self.terms.analysis.tables.head_text(term.head);
            let children: Vec<String> = term
                .children
                .iter()
                .map(|c| {
                    let c = self.terms.find(*c);
                    let inside = self.extents(c).len() == point.len();
                    match inside.then(|| self.read(c, &point)).flatten() {
                        Some(value) => format!("{c} = {value}"),
                        None => c.to_string(),
                    }
                })
                .collect();
            let _ = writeln!(out, "{:depth$}{head} ({})", "", children.join(", "));
            if depth < 4 {
                let same = |c: &&Id| self.extents(**c).len() == point.len();
                let below =
                    term.children.iter().filter(same).map(|c| self.chosen[&self.terms.find(*c)].clone());
                pending.extend(below.map(|t| (t, point.clone(), depth + 1)));
            }
        }
        out
    }
}

/// What the first point of a term is evaluated from: a state of a scan starts from its initial value, which may be
/// equal to the state at step 0 and must not be evaluated by it.
fn needed<'a>(terms: &'a Terms, term: &'a Term) -> impl Iterator<Item = Id> + 'a {
    let init = match term.head {
        Head::Carry(scan, i) => Some(terms.analysis.tables.scan(scan).carries[i as usize].init),
        Head::Leaf(_)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Scalar(_)
        | Head::Cast(_)
        | Head::Reindex(_)
        | Head::Reduce(..)
        | Head::Gather(_)
        | Head::ScanFinal(..)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => None,
    };
    term.children.iter().copied().chain(init)
}

/// Of larger classes not every point is compared.
const MOST_POINTS: usize = 48;

/// Every point of a space, in order.
fn points(extents: &[i64]) -> Vec<Vec<i64>> {
    extents.iter().fold(vec![Vec::new()], |points, n| {
        let extended = points.iter().flat_map(|p| {
            (0..*n).map(move |i| {
                let mut next = p.clone();
                next.push(i);
                next
            })
        });
        extended.collect()
    })
}

/// A NaN, and the value where there is none, in an order that both integers and floats have.
fn key(value: Literal) -> (bool, f64) {
    (value.as_f64().is_nan(), value.as_f64())
}

fn apply(op: ScalarOp, operands: &[Literal]) -> Literal {
    let scalar = |l: &Literal| {
        if l.dtype().is_float() { ScalarValue::Float(l.as_f64()) } else { ScalarValue::Int(l.as_i64()) }
    };
    let dtype = operands.last().expect("an op has operands").dtype();
    let values: Vec<ScalarValue> = operands.iter().map(scalar).collect();
    let result = op.result_rule().result(dtype);
    match eval_scalar(op, &values, dtype).expect("terms are typed") {
        ScalarValue::Float(x) => Literal::from_f64(result, x),
        ScalarValue::Int(x) => Literal::from_i64(result, x),
    }
}

/// Whether a value is beyond what rounding errors stay small for.
fn wild(value: Literal) -> bool {
    value.dtype().is_float() && (!value.as_f64().is_finite() || value.as_f64().abs() > 1e6)
}

/// Whether the last bit of an operand can decide the result.
fn jumps(head: Head) -> bool {
    use ScalarOp::{Ceil, Eq, Floor, Ge, Gt, IsNan, Le, Lt, Mod, Ne, Rem, Round, Sign, Trunc};
    match head {
        Head::Scalar(op) => matches!(
            op,
            Ceil | Eq | Floor | Ge | Gt | IsNan | Le | Lt | Mod | Ne | Rem | Round | Sign | Trunc
        ),
        Head::Cast(to) => !to.is_float(),
        Head::Reduce(op, _) => op.is_arg(),
        Head::Leaf(_)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Reindex(_)
        | Head::Gather(_)
        | Head::Carry(..)
        | Head::ScanFinal(..)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => false,
    }
}
