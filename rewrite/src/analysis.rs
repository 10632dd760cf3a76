//! What is known of every class of equal terms.

use egg::{Analysis, DidMerge, EGraph, Id, Justification};
use fuse_ir::interp::{fold_cast, fold_scalar};
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Dim, Expr, IndexMap, Literal};

use crate::language::{GatherTerm, Head, ScanId, SpaceId, Tables, Term};
use crate::provenance::{Record, under};
use crate::rules::Limits;
use crate::scan_set::ScanSet;

/// The e-graph of the compiler.
pub type Terms = EGraph<Term, Context>;

/// What is known of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassData {
    /// The space of its terms.
    pub space: SpaceId,
    /// The element type.
    pub dtype: DType,
    /// The axes on which the value may depend, as bits; axes of extent 1 never count.
    pub depends: u64,
    /// The scans inside whose loops the value may lie: it depends, at each step, on their state at that step.
    pub inside: ScanSet,
    /// Whether every known way to compute it reduces something.
    pub heavy: bool,
    /// The value, where it is the same everywhere and known.
    pub constant: Option<Literal>,
}

/// The tables that terms refer to; the analysis of the e-graph.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The attributes of heads.
    pub tables: Tables,
    /// What rules asserted, where that is asked for.
    pub record: Record,
    /// How far rules may grow the graph; without limits if unset.
    pub limits: Option<Limits>,
}

/// The axes that expressions use, as bits.
pub fn axes_bits(e: &Expr) -> u64 {
    e.axes().iter().fold(0, |bits, a| bits | 1 << a.index().min(63))
}

/// The bits of the axes of a space whose extent is not 1.
pub fn full_bits(tables: &Tables, space: SpaceId) -> u64 {
    let extents = tables.extents(space).iter().enumerate();
    extents.fold(0, |bits, (i, n)| if n.is_one() { bits } else { bits | 1 << i })
}

/// Whether reading at `coordinates` stays in the same step of a scan at `depth` and of all scans around it.
pub fn same_step(coordinates: &[Expr], depth: usize) -> bool {
    let identity = |i: usize| coordinates.get(i).and_then(Expr::as_axis).is_some_and(|a| a.index() == i);
    (0..=depth).all(identity)
}

/// The scans whose time axis is among the first `axes` ones.
pub fn shallower(tables: &Tables, mut inside: ScanSet, axes: usize) -> ScanSet {
    for scan in inside.clone().iter() {
        if tables.scan(scan).depth() >= axes {
            inside.remove(scan);
        }
    }
    inside
}

/// The scans of `inside` that a view of `domain` at `coordinates` stays inside: each point is at its own step, and all
/// steps are there. What is there for some steps only is read after the loop.
pub fn kept_inside(tables: &Tables, inside: &ScanSet, domain: &[Dim], coordinates: &[Expr]) -> ScanSet {
    let mut kept = inside.clone();
    for scan in inside.iter() {
        let info = tables.scan(scan);
        let all_steps = info.prefix.iter().chain([&info.trip]).zip(domain).all(|(n, own)| n == own);
        if !all_steps || !same_step(coordinates, info.depth()) {
            kept.remove(scan);
        }
    }
    kept
}

impl Analysis<Term> for Context {
    type Data = ClassData;

    fn make(egraph: &mut Terms, term: &Term, _id: Id) -> ClassData {
        let data = Context::data(egraph, term);
        // A space without points has any value: then one that needs no computing.
        let empty = egraph.analysis.tables.extents(data.space).iter().any(Expr::is_zero);
        let constant = if empty { Some(Literal::from_i64(data.dtype, 0)) } else { data.constant };
        ClassData { constant, ..data }
    }

    fn merge(&mut self, a: &mut ClassData, b: ClassData) -> DidMerge {
        debug_assert_eq!(a.dtype, b.dtype, "only terms of one type are equal");
        let mut merged = a.clone();
        merged.depends &= b.depends;
        merged.inside.intersect_with(&b.inside);
        merged.heavy &= b.heavy;
        merged.constant = a.constant.or(b.constant);
        let did = DidMerge(merged != *a, merged != b);
        *a = merged;
        did
    }

    fn pre_union(egraph: &Terms, left: Id, right: Id, why: &Option<Justification>) {
        match why {
            Some(Justification::Congruence) => {}
            Some(Justification::Rule(_)) | None => egraph.analysis.record.note(left, right),
        }
    }

    fn modify(egraph: &mut Terms, id: Id) {
        let data = &egraph[id].data;
        let Some(value) = data.constant else { return };
        let space = data.space;
        let head = egraph.analysis.tables.constant_head(value, space);
        let constant = egraph.add(Term::leaf(head));
        under(egraph, "constant-folding", |egraph| egraph.union(id, constant));
    }
}

impl Context {
    /// What a term says of its class.
    fn data(egraph: &mut Terms, term: &Term) -> ClassData {
        let child = |i: usize| egraph[term.children[i]].data.clone();
        match term.head {
            Head::Leaf(position) => {
                let ty = egraph.analysis.tables.leaves[position as usize].clone();
                let space = egraph.analysis.tables.space(&ty.shape);
                egraph.analysis.leaf(space, ty.dtype, ScanSet::new())
            }
            Head::Constant(id) => {
                let constant = egraph.analysis.tables.constant(id);
                let dtype = constant.value.dtype();
                ClassData { constant: Some(constant.value), ..light(constant.space, dtype, 0) }
            }
            Head::Index(id) => {
                let tables = &egraph.analysis.tables;
                let index = tables.index(id);
                let used = axes_bits(&index.value) & full_bits(tables, index.space);
                let mut data = light(index.space, index.dtype, used);
                data.constant = index.value.as_constant().map(|v| Literal::from_i64(index.dtype, v));
                data
            }
            Head::Scalar(op) => {
                let operands: Vec<_> = (0..term.children.len()).map(child).collect();
                scalar(op, &operands)
            }
            Head::Cast(dtype) => {
                let x = child(0);
                ClassData { dtype, constant: x.constant.map(|c| fold_cast(c, dtype)), ..x }
            }
            Head::Reindex(map) => {
                let x = child(0);
                let map = egraph.analysis.tables.map(map).clone();
                let rank = egraph.analysis.tables.extents(x.space).len();
                debug_assert_eq!(map.results.len(), rank, "a view has a coordinate for each axis it reads");
                egraph.analysis.reindexed(&map, x)
            }
            Head::Reduce(op, axes) => {
                let x = child(0);
                let all = egraph.analysis.tables.extents(x.space).clone();
                let (kept, reduced) = all.split_at(all.len() - axes as usize);
                let nothing = reduced.iter().any(Expr::is_zero);
                let constant = nothing.then(|| op.identity(x.dtype));
                let space = egraph.analysis.tables.space(kept);
                let dtype = if op.is_arg() { DType::I64 } else { x.dtype };
                let depends = x.depends & ((1u64 << kept.len()) - 1);
                // What reduces over the steps of a loop is no longer inside it.
                let inside = shallower(&egraph.analysis.tables, x.inside, kept.len());
                ClassData { space, dtype, depends, inside, heavy: true, constant }
            }
            Head::Gather(id) => {
                let (table, index) = (child(0), child(1));
                egraph.analysis.gathered(id, &table, &index)
            }
            Head::Carry(scan, i) => {
                let info = egraph.analysis.tables.scan(scan);
                let mut space = info.prefix.clone();
                space.push(info.trip.clone());
                let ty = info.carries[i as usize].ty.clone();
                space.extend(ty.shape);
                let space = egraph.analysis.tables.space(&space);
                egraph.analysis.leaf(space, ty.dtype, ScanSet::of(scan))
            }
            Head::ScanFinal(scan, _) => {
                let init = child(0);
                // One loop computes all states of a scan, so it lies wherever any of them does.
                let tables = &egraph.analysis.tables;
                let mut inside = ScanSet::new();
                for state in tables.scan(scan).carries.iter().flat_map(|c| [c.init, c.next]) {
                    inside.union_with(&egraph[state].data.inside);
                }
                let inside = shallower(tables, inside, tables.scan(scan).depth());
                let depends = full_bits(tables, init.space);
                ClassData { inside, heavy: true, constant: None, depends, ..init }
            }
            Head::Recurrence { axis, .. } => {
                let (init, factor, term) = (child(0), child(1), child(2));
                let below = (1u64 << axis) - 1;
                let along = 1u64 << axis;
                let of_init = (init.depends & below) | ((init.depends & !below) << 1);
                let tables = &egraph.analysis.tables;
                let depends =
                    (of_init | factor.depends | term.depends | along) & full_bits(tables, term.space);
                let mut inside = shallower(tables, init.inside, axis as usize);
                inside.union_with(&factor.inside);
                inside.union_with(&term.inside);
                ClassData { depends, inside, heavy: true, constant: None, ..term }
            }
            Head::RecurrenceFinal(axis) => {
                let (init, states) = (child(0), child(1));
                let tables = &egraph.analysis.tables;
                let mut inside = init.inside;
                inside.union_with(&states.inside);
                let inside = shallower(tables, inside, axis as usize);
                let depends = full_bits(tables, init.space);
                ClassData { space: init.space, inside, depends, constant: None, ..states }
            }
        }
    }
}

fn light(space: SpaceId, dtype: DType, depends: u64) -> ClassData {
    ClassData { space, dtype, depends, inside: ScanSet::new(), heavy: false, constant: None }
}

fn scalar(op: ScalarOp, operands: &[ClassData]) -> ClassData {
    let dtype = op.result_rule().result(operands[operands.len() - 1].dtype);
    let mut data = light(operands[0].space, dtype, 0);
    for x in operands {
        data.depends |= x.depends;
        data.inside.union_with(&x.inside);
        data.heavy |= x.heavy;
    }
    let values: Option<Vec<Literal>> = operands.iter().map(|x| x.constant).collect();
    data.constant = values.and_then(|v| fold_scalar(op, &v));
    data
}

impl Context {
    fn leaf(&self, space: SpaceId, dtype: DType, inside: ScanSet) -> ClassData {
        ClassData { inside, ..light(space, dtype, full_bits(&self.tables, space)) }
    }

    /// What is known of `x` read through a map.
    fn reindexed(&mut self, map: &IndexMap, x: ClassData) -> ClassData {
        let space = self.tables.space(&map.domain);
        let used =
            |bits, (i, e): (usize, &Expr)| if x.depends & (1 << i) != 0 { bits | axes_bits(e) } else { bits };
        let depends = map.results.iter().enumerate().fold(0, used) & full_bits(&self.tables, space);
        let inside = kept_inside(&self.tables, &x.inside, &map.domain, &map.results);
        ClassData { space, depends, inside, ..x }
    }

    fn gathered(&self, id: crate::language::GatherId, table: &ClassData, index: &ClassData) -> ClassData {
        let gather = self.tables.gather(id);
        let fixed = gather.coordinates.iter().enumerate().filter(|(i, _)| *i != gather.axis);
        let depends = fixed.fold(index.depends, |bits, (_, e)| bits | axes_bits(e));
        let depends = depends & full_bits(&self.tables, gather.space);
        let inside = gathered_inside(&self.tables, gather, &table.inside, &index.inside);
        ClassData { heavy: index.heavy, inside, ..light(gather.space, table.dtype, depends) }
    }
}

/// The scans that a gather stays inside: those of its index, and those of its table that the fixed coordinates
/// before the gathered one stay inside.
pub fn gathered_inside(tables: &Tables, gather: &GatherTerm, table: &ScanSet, index: &ScanSet) -> ScanSet {
    let mut inside = shallower(
        tables,
        kept_inside(tables, table, tables.extents(gather.space), &gather.coordinates),
        gather.axis,
    );
    inside.union_with(index);
    inside
}

/// The scans that reading a class with these coordinates leaves, so that it must be read from memory.
pub fn leaves_step(tables: &Tables, inside: &ScanSet, map: &IndexMap) -> Option<ScanId> {
    let kept = kept_inside(tables, inside, &map.domain, &map.results);
    inside.iter().find(|s| !kept.contains(*s))
}
