//! `reindex` pushed through structure.
//!
//! `reindex[m](f(x, y))` equals `f(reindex[m](x), reindex[m](y))`, a view of a view is the view through the
//! composed map, and a view of a reduction reduces the view that extends the map by the reduced axes. One
//! memoised walk does this for every view in the graph, so that algebra sees through views; rule iterations
//! would take several rounds for the same classes.
//!
//! Never through a class that reduces when the map drops an axis of its domain: the reduction would be repeated
//! along that axis, in an unrolled chain once per step of the chain again. Never out of a loop's step: a read of
//! another step is a read of memory. And never through a view that may have points where what it is of has none: terms
//! that are equal at all of no points are not where it reads.

use egg::Id;
use fuse_ir::types::Shape;
use fuse_ir::{Dim, Expr, IndexMap};
use rustc_hash::FxHashMap;

use crate::analysis::{Terms, axes_bits, leaves_step};
use crate::complexity::may_substitute;
use crate::language::{GatherTerm, Head, MapId, SpaceId, Term};
use crate::provenance::under;
use crate::ranges::is_nonnegative_at_points;

/// Pushes views; remembers what was pushed already.
#[derive(Default)]
pub struct Pusher {
    known: FxHashMap<(MapId, Id), Id>,
    /// Views of views, the inner one first, as one.
    composed: FxHashMap<(MapId, MapId), MapId>,
    /// Views with more axes at the end, as many as are reduced of a space.
    extended: FxHashMap<(MapId, SpaceId, u8), MapId>,
    /// Whether a view may have points where a tensor over a space has none.
    may_read_nothing: FxHashMap<(MapId, SpaceId), bool>,
    /// The stacked results of scans.
    stacked: Vec<Id>,
    /// The classes that the walk came through.
    path: Vec<Id>,
    /// From this many nodes on views stay where they are.
    most_nodes: usize,
}

/// How deep one walk goes; a view this far down stays where it is, which is correct and only hides algebra.
const MAX_DEPTH: usize = 256;

/// How many times its size a graph may grow by pushing, and how small graphs may. Models grow less than threefold;
/// sums of a value and a view of it, one upon the other, double with every link.
const MAX_GROWTH: (usize, usize) = (4, 1024);

impl Pusher {
    /// A pusher for a graph with these stacked results of scans.
    pub fn new(stacked: &[Id]) -> Self {
        Pusher { stacked: stacked.to_vec(), ..Pusher::default() }
    }

    /// Pushes every view of the graph. Stops early, also within a walk, once the graph has `node_limit` nodes or
    /// many times those it began with.
    pub fn run(&mut self, terms: &mut Terms, node_limit: usize) {
        let (times, least) = MAX_GROWTH;
        self.most_nodes = node_limit.min(times * terms.total_size() + least);
        let views = |t: &Term| match t.head {
            Head::Reindex(map) => Some((map, t.children[0])),
            Head::Leaf(_)
            | Head::Constant(_)
            | Head::Index(_)
            | Head::Scalar(_)
            | Head::Cast(_)
            | Head::Reduce(..)
            | Head::Gather(_)
            | Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_) => None,
        };
        let mut found: Vec<(Id, MapId, Id)> = Vec::new();
        for class in terms.classes() {
            found.extend(class.nodes.iter().filter_map(views).map(|(map, x)| (class.id, map, x)));
        }
        found.sort_unstable();
        for (class, map, x) in found {
            if terms.total_size() >= self.most_nodes {
                break;
            }
            let pushed = self.push(terms, map, x);
            terms.analysis.record.between(Some(Term::new(Head::Reindex(map), &[x])), None);
            terms.union(class, pushed);
        }
        terms.rebuild();
    }

    /// The class of `reindex[map](x)`, in pushed form where it has one.
    pub fn push(&mut self, terms: &mut Terms, map: MapId, x: Id) -> Id {
        let x = terms.find(x);
        if let Some(known) = self.known.get(&(map, x)) {
            return *known;
        }
        if self.is_identity(terms, map, x) {
            return x;
        }
        let whole = terms.add(Term::new(Head::Reindex(map), &[x]));
        // Set before the walk: a cyclic class must find itself.
        self.known.insert((map, x), whole);
        if self.path.len() < MAX_DEPTH
            && terms.total_size() < self.most_nodes
            && let Some(term) = self.pushable(terms, map, x)
        {
            self.path.push(x);
            let pushed = self.push_term(terms, map, &term);
            self.path.pop();
            terms.analysis.record.between(Some(Term::new(Head::Reindex(map), &[x])), None);
            terms.union(whole, pushed);
        }
        whole
    }

    fn is_identity(&self, terms: &Terms, map: MapId, x: Id) -> bool {
        let tables = &terms.analysis.tables;
        let map = tables.map(map);
        map.is_identity() && *tables.extents(terms[x].data.space) == map.domain
    }

    /// Whether a term is a view of what the walk came through: a part read over the space of its concatenation is a
    /// view of the part, and the part of that. Round in circles the maps would grow with every turn and tell no more.
    fn leads_back(&self, terms: &Terms, term: &Term) -> bool {
        let on_path = |source: Id| self.path.iter().any(|class| terms.find(*class) == source);
        matches!(term.head, Head::Reindex(_)) && on_path(terms.find(term.children[0]))
    }

    /// The term of the class to push through, if that is allowed.
    fn pushable(&mut self, terms: &Terms, id: MapId, x: Id) -> Option<Term> {
        let tables = &terms.analysis.tables;
        let data = &terms[x].data;
        let map = tables.map(id);
        if leaves_step(tables, &data.inside, map).is_some() {
            return None;
        }
        if !data.inside.is_empty() && self.stacked.iter().any(|s| terms.find(*s) == x) {
            return None;
        }
        let used = map.results.iter().fold(0, |bits, e| bits | axes_bits(e));
        let domain = map.domain.iter().enumerate().filter(|(_, n)| !n.is_one());
        let drops = domain.fold(0, |bits, (i, _)| bits | 1u64 << i) & !used != 0;
        if data.heavy && drops {
            return None;
        }
        let nothing = || may_read_nothing(map, tables.extents(data.space));
        if *self.may_read_nothing.entry((id, data.space)).or_insert_with(nothing) {
            return None;
        }
        // A view of a view composes, whatever else the class holds.
        let rank = |t: &&Term| match t.head {
            Head::Constant(_) | Head::Index(_) => Some(0),
            Head::Reindex(_) => Some(1),
            Head::Scalar(_) | Head::Cast(_) | Head::Gather(_) => Some(2),
            Head::Reduce(..) => Some(3),
            Head::Leaf(_)
            | Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_) => None,
        };
        if terms[x].nodes.iter().any(|t| rank(&t).is_none()) {
            return None;
        }
        // A view of itself tells nothing.
        let tells = |t: &&Term| !matches!(t.head, Head::Reindex(_)) || terms.find(t.children[0]) != x;
        let term = terms[x].nodes.iter().filter(tells).min_by_key(|t| rank(t))?;
        if self.leads_back(terms, term) {
            return None;
        }
        let expressions = match term.head {
            Head::Index(id) => std::slice::from_ref(&tables.index(id).value),
            Head::Reindex(inner) => &tables.map(inner).results[..],
            Head::Gather(id) => &tables.gather(id).coordinates[..],
            Head::Constant(_)
            | Head::Scalar(_)
            | Head::Cast(_)
            | Head::Reduce(..)
            | Head::Leaf(_)
            | Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_) => &[],
        };
        may_substitute(expressions, &map.results).then(|| term.clone())
    }

    fn push_term(&mut self, terms: &mut Terms, id: MapId, term: &Term) -> Id {
        match term.head {
            Head::Constant(constant) => {
                let space = domain_space(terms, id);
                let value = terms.analysis.tables.constant(constant).value;
                let head = terms.analysis.tables.constant_head(value, space);
                terms.add(Term::leaf(head))
            }
            Head::Index(index) => {
                let space = domain_space(terms, id);
                let index = terms.analysis.tables.index(index).clone();
                let value = index.value.substitute_axes(&terms.analysis.tables.map(id).results);
                let head = terms.analysis.tables.index_head(&value, index.dtype, space);
                terms.add(Term::leaf(head))
            }
            Head::Scalar(_) | Head::Cast(_) => {
                let children: Vec<Id> = term.children.iter().map(|c| self.push(terms, id, *c)).collect();
                terms.add(Term::new(term.head, &children))
            }
            Head::Reindex(inner) => {
                let tables = &mut terms.analysis.tables;
                let compose = || {
                    let composed = tables.map(inner).compose(tables.map(id));
                    tables.map_id(composed)
                };
                let composed = *self.composed.entry((inner, id)).or_insert_with(compose);
                self.push(terms, composed, term.children[0])
            }
            Head::Reduce(op, axes) => {
                let child = terms.find(term.children[0]);
                let inner = terms[child].data.space;
                let tables = &mut terms.analysis.tables;
                let extend = || {
                    let extended = extend(tables.map(id), tables.extents(inner), axes as usize);
                    tables.map_id(extended)
                };
                let extended = *self.extended.entry((id, inner, axes)).or_insert_with(extend);
                let child = self.push(terms, extended, child);
                terms.add(Term::new(Head::Reduce(op, axes), &[child]))
            }
            Head::Gather(gather) => {
                let space = domain_space(terms, id);
                let gather = terms.analysis.tables.gather(gather).clone();
                let map = terms.analysis.tables.map(id);
                let coordinates =
                    gather.coordinates.iter().map(|e| e.substitute_axes(&map.results).simplify(&map.domain));
                let gather = GatherTerm { space, coordinates: coordinates.collect(), axis: gather.axis };
                let head = terms.analysis.tables.gather_head(gather);
                let index = self.push(terms, id, term.children[1]);
                terms.add(Term::new(head, &[term.children[0], index]))
            }
            // Never pushable: these are read from memory.
            Head::Leaf(_)
            | Head::Carry(..)
            | Head::ScanFinal(..)
            | Head::Recurrence { .. }
            | Head::RecurrenceFinal(_) => terms.add(term.clone()),
        }
    }
}

/// The space that a map is from.
fn domain_space(terms: &mut Terms, map: MapId) -> SpaceId {
    let domain = terms.analysis.tables.map(map).domain.clone();
    terms.analysis.tables.space(&domain)
}

/// Whether a view may have points where the tensor that it is of, with these extents, has none.
fn may_read_nothing(map: &IndexMap, extents: &[Dim]) -> bool {
    let there = |n: &Dim| is_nonnegative_at_points(&(n.clone() - Expr::constant(1)), &map.domain);
    !extents.iter().all(there)
}

/// A map with `axes` more axes at the end of both its spaces, mapped to each other.
pub fn extend(map: &IndexMap, inner: &Shape, axes: usize) -> IndexMap {
    let rank = map.domain.len();
    let mut domain = map.domain.clone();
    domain.extend(inner[inner.len() - axes..].iter().cloned());
    let mut results = map.results.clone();
    results.extend((rank..rank + axes).map(Expr::axis));
    IndexMap { domain, results }
}

/// Lets gathers look through views of their tables: a table then is read where it lies.
pub fn look_through_table_views(terms: &mut Terms) {
    let mut found = Vec::new();
    for class in terms.classes() {
        for term in &class.nodes {
            if let Head::Gather(gather) = term.head {
                found.push((class.id, gather, term.children[0], term.children[1]));
            }
        }
    }
    found.sort_unstable();
    for (class, gather, mut table, index) in found {
        let mut gather = terms.analysis.tables.gather(gather).clone();
        // Views of each other form cycles.
        let mut seen = vec![terms.find(table)];
        while let Some((through, source)) = table_view(terms, &gather, table, &seen) {
            gather = through;
            table = source;
            seen.push(terms.find(source));
        }
        let head = terms.analysis.tables.gather_head(gather);
        let direct = terms.add(Term::new(head, &[table, index]));
        under(terms, "gather-through-view", |terms| terms.union(class, direct));
    }
    terms.rebuild();
}

/// The gather that reads the source of the view `table`, where the gathered axis is an axis of the source.
fn table_view(terms: &Terms, gather: &GatherTerm, table: Id, seen: &[Id]) -> Option<(GatherTerm, Id)> {
    let tables = &terms.analysis.tables;
    // What would be read of an empty tensor is a constant, though what that tensor is a view of is none.
    if terms[table].data.constant.is_some() {
        return None;
    }
    let views = terms[table].nodes.iter().filter_map(|t| match t.head {
        Head::Reindex(map) => Some((tables.map(map), t.children[0])),
        Head::Leaf(_)
        | Head::Constant(_)
        | Head::Index(_)
        | Head::Scalar(_)
        | Head::Cast(_)
        | Head::Reduce(..)
        | Head::Gather(_)
        | Head::Carry(..)
        | Head::ScanFinal(..)
        | Head::Recurrence { .. }
        | Head::RecurrenceFinal(_) => None,
    });
    for (map, source) in views {
        let on_axis = |e: &Expr| e.as_axis().is_some_and(|a| a.index() == gather.axis);
        let gathered: Vec<usize> = (0..map.results.len()).filter(|i| on_axis(&map.results[*i])).collect();
        let mixed = map.results.iter().any(|e| !on_axis(e) && e.uses_axis(fuse_ir::Axis(gather.axis as u32)));
        let [axis] = gathered[..] else { continue };
        // The clamp moves with the index, so the extents must agree.
        let extents = tables.extents(terms[source].data.space);
        if !may_substitute(&map.results, &gather.coordinates) {
            continue;
        }
        if mixed || extents[axis] != map.domain[gather.axis] || seen.contains(&terms.find(source)) {
            continue;
        }
        let domain = tables.extents(gather.space);
        let coordinates = map.results.iter().enumerate().map(|(i, e)| {
            if i == axis {
                Expr::constant(0)
            } else {
                e.substitute_axes(&gather.coordinates).simplify(domain)
            }
        });
        let through = GatherTerm { space: gather.space, coordinates: coordinates.collect(), axis };
        return Some((through, source));
    }
    None
}
