//! Tensor graph → e-graph.
//!
//! Movement ops become index maps; padding and joining become selections between reads with clamped indices;
//! a contraction is the sum of a product of two reads. A scan's body is read with time as its first axis:
//! scanned tensors are themselves, captured ones repeat along time, carries are leaves, stacked results are
//! themselves. Lengths become ordinary selections on the position, so that freezing fuses like anything.
//!
//! Every scan runs forward here. Step `s` of a reverse scan is position `T-1-s`: its scanned inputs are read
//! there, and its stacked results are views that read back from there. Both are index maps, so the reverse of a
//! reverse is nothing, and scans of either direction look alike to every rule.

use egg::Id;
use fuse_ir::index_map::view_map;
use fuse_ir::ops::{Direction, Op, ReduceOp, ScalarOp};
use fuse_ir::types::Shape;
use fuse_ir::{DType, Dim, Expr, Graph, IndexMap, Literal, Node, Scan, TensorType, ValueId};

use crate::analysis::{Context, Terms};
use crate::error::RewriteError;
use crate::kernel_builder::clamped;
use crate::language::{CarryInfo, GatherTerm, Head, MAX_AXES, ScanId, ScanInfo, Term};

/// A graph as terms.
pub struct Ingested {
    /// The e-graph.
    pub terms: Terms,
    /// The class of each graph output.
    pub outputs: Vec<Id>,
    /// The stacked results of scans, which can always be read from memory.
    pub stacked: Vec<Id>,
}

/// Reads a graph into a new e-graph.
///
/// # Errors
/// Where a space would have more than [`MAX_AXES`] axes.
pub fn ingest(graph: &Graph) -> Result<Ingested, RewriteError> {
    let mut context = Context::default();
    context.tables.leaves = graph.inputs().iter().map(|i| graph.ty(i.value).clone()).collect();
    let mut reader =
        Reader { terms: Terms::new(context), prefix: Shape::new(), scans: Vec::new(), stacked: Vec::new() };
    let inputs = (0..graph.inputs().len()).map(|i| reader.terms.add(Term::leaf(Head::Leaf(i as u32))));
    let inputs: Vec<Id> = inputs.collect();
    let outputs = reader.graph(graph, &inputs)?;
    reader.terms.rebuild();
    Ok(Ingested { terms: reader.terms, outputs, stacked: reader.stacked })
}

/// A scan that was read, to recognise an equal one.
struct KnownScan {
    scan: Scan,
    operands: Vec<Id>,
    results: Vec<Id>,
}

struct Reader {
    terms: Terms,
    /// The trip counts of the scans around the graph that is being read.
    prefix: Shape,
    scans: Vec<KnownScan>,
    stacked: Vec<Id>,
}

impl Reader {
    fn graph(&mut self, graph: &Graph, inputs: &[Id]) -> Result<Vec<Id>, RewriteError> {
        let mut values: Vec<Option<Id>> = vec![None; graph.values().len()];
        for (input, id) in graph.inputs().iter().zip(inputs) {
            values[input.value.index()] = Some(*id);
        }
        for (_, node) in graph.nodes() {
            let operands: Vec<Id> = node.operands.iter().map(|v| defined(&values, *v)).collect();
            let results = self.node(graph, node, &operands)?;
            for (value, id) in node.results.iter().zip(results) {
                values[value.index()] = Some(id);
            }
        }
        Ok(graph.outputs().iter().map(|o| defined(&values, o.value)).collect())
    }

    fn node(&mut self, graph: &Graph, node: &Node, operands: &[Id]) -> Result<Vec<Id>, RewriteError> {
        let types: Vec<&TensorType> = node.operands.iter().map(|v| graph.ty(*v)).collect();
        let check = |rank: usize| {
            let rank = rank + self.prefix.len();
            if rank <= MAX_AXES {
                return Ok(());
            }
            Err(RewriteError::Rank { op: node.op.mnemonic().to_string(), rank })
        };
        // The operands of a contraction meet in a space that has the axes of both.
        let contracted = matches!(node.op, Op::Contract { .. });
        let ranks = types.iter().map(|t| t.rank() + 1);
        check(if contracted { ranks.sum() } else { ranks.max().unwrap_or(0) })?;
        if let Op::Scan(scan) = &node.op {
            return self.scan(scan, &types, operands);
        }
        let result = graph.ty(node.results[0]);
        check(result.rank() + 1)?;
        Ok(vec![match &node.op {
            Op::Constant { value } => self.constant(*value, &[]),
            Op::Iota { shape, axis, dtype } => {
                let space = self.space(shape);
                let position = Expr::axis(self.prefix.len() + axis);
                self.index(&position, *dtype, &space)
            }
            Op::Scalar(op) => self.scalar(*op, operands),
            Op::Cast { dtype } => self.cast(*dtype, operands[0]),
            Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Reverse { .. } => match view_map(&node.op, types[0], result) {
                Some(map) => self.view(&map, operands[0]),
                None => operands[0],
            },
            Op::Pad { low, value, .. } => self.pad(types[0], result, low, *value, operands[0]),
            Op::Concat { axis } => self.concat(&types, result, *axis, operands),
            Op::Gather { axis } => self.gather(&types, result, *axis, operands),
            Op::Reduce { op, axes } => self.reduce(*op, types[0], axes, operands[0]),
            Op::Contract { batch, axes } => self.contract(&types, result, batch, axes, operands),
            Op::Scan(scan) => return self.scan(scan, &types, operands),
        }])
    }

    /// The space of a value of this shape here: the axes of enclosing loops come first.
    fn space(&self, shape: &[Dim]) -> Shape {
        self.prefix.iter().chain(shape).cloned().collect()
    }

    fn constant(&mut self, value: Literal, shape: &[Dim]) -> Id {
        let space = self.space(shape);
        let tables = &mut self.terms.analysis.tables;
        let space = tables.space(&space);
        let head = tables.constant_head(value, space);
        self.terms.add(Term::leaf(head))
    }

    fn index(&mut self, value: &Expr, dtype: DType, space: &[Dim]) -> Id {
        let tables = &mut self.terms.analysis.tables;
        let space = tables.space(space);
        let head = tables.index_head(value, dtype, space);
        self.terms.add(Term::leaf(head))
    }

    fn scalar(&mut self, op: ScalarOp, operands: &[Id]) -> Id {
        self.terms.add(Term::new(Head::Scalar(op), operands))
    }

    fn cast(&mut self, dtype: DType, x: Id) -> Id {
        if self.terms[x].data.dtype == dtype { x } else { self.terms.add(Term::new(Head::Cast(dtype), &[x])) }
    }

    /// Reads `x` through a map that knows nothing of the enclosing loops.
    fn view(&mut self, map: &IndexMap, x: Id) -> Id {
        let lifted = IndexMap { domain: self.space(&map.domain), results: self.lift(&map.results) };
        self.reindex(lifted, x)
    }

    /// Coordinates over a shape as coordinates over the space of that shape here.
    fn lift(&self, coordinates: &[Expr]) -> Vec<Expr> {
        let depth = self.prefix.len();
        let shifted: Vec<Expr> = (depth..=MAX_AXES).map(Expr::axis).collect();
        let own = coordinates.iter().map(|e| e.substitute_axes(&shifted));
        (0..depth).map(Expr::axis).chain(own).collect()
    }

    fn reindex(&mut self, map: IndexMap, x: Id) -> Id {
        let source = self.terms[x].data.space;
        if map.is_identity() && *self.terms.analysis.tables.extents(source) == map.domain {
            return x;
        }
        let map = self.terms.analysis.tables.map_id(map);
        self.terms.add(Term::new(Head::Reindex(map), &[x]))
    }

    /// `x` where `coordinate` compares to `bound`, otherwise `y`; over `space`.
    fn select_at(
        &mut self,
        op: ScalarOp,
        coordinate: &Expr,
        bound: &Expr,
        space: &[Dim],
        x: Id,
        y: Id,
    ) -> Id {
        let coordinate = self.index(coordinate, DType::I64, space);
        let bound = self.index(bound, DType::I64, space);
        let condition = self.scalar(op, &[coordinate, bound]);
        self.scalar(ScalarOp::Select, &[condition, x, y])
    }

    fn pad(&mut self, operand: &TensorType, result: &TensorType, low: &[Dim], value: Literal, x: Id) -> Id {
        let depth = self.prefix.len();
        let space = self.space(&result.shape);
        let clamp = |(i, n): (usize, &Dim)| clamped(Expr::axis(i) - low[i].clone(), n);
        let results: Vec<Expr> = operand.shape.iter().enumerate().map(clamp).collect();
        let results = results.iter().map(|e| e.simplify(&result.shape)).collect();
        let mut out = self.view(&IndexMap { domain: result.shape.clone(), results }, x);
        let fill = self.constant(value, &result.shape);
        for (i, n) in operand.shape.iter().enumerate() {
            let position = Expr::axis(depth + i);
            let end = low[i].clone() + n.clone();
            if end != result.shape[i] {
                out = self.select_at(ScalarOp::Lt, &position, &end, &space, out, fill);
            }
            if !low[i].is_zero() {
                out = self.select_at(ScalarOp::Ge, &position, &low[i], &space, out, fill);
            }
        }
        out
    }

    fn concat(&mut self, types: &[&TensorType], result: &TensorType, axis: usize, operands: &[Id]) -> Id {
        let depth = self.prefix.len();
        let space = self.space(&result.shape);
        let mut offsets = vec![Dim::constant(0)];
        for ty in types {
            let last = offsets[offsets.len() - 1].clone();
            offsets.push(last + ty.shape[axis].clone());
        }
        let mut out = None;
        for (k, x) in operands.iter().enumerate().rev() {
            let mut map = IndexMap::identity(result.shape.clone());
            map.results[axis] =
                clamped(Expr::axis(axis) - offsets[k].clone(), &types[k].shape[axis]).simplify(&result.shape);
            let part = self.view(&map, *x);
            out = Some(match out {
                None => part,
                Some(rest) => {
                    let position = Expr::axis(depth + axis);
                    self.select_at(ScalarOp::Lt, &position, &offsets[k + 1], &space, part, rest)
                }
            });
        }
        // Inference refuses a concat of nothing.
        out.unwrap_or(operands[0])
    }

    fn gather(&mut self, types: &[&TensorType], result: &TensorType, axis: usize, operands: &[Id]) -> Id {
        let depth = self.prefix.len();
        let (table, indices) = (types[0], types[1]);
        if table.shape[axis].is_zero() {
            return self.constant(Literal::from_i64(table.dtype, 0), &result.shape);
        }
        let to_indices = (0..indices.rank()).map(|i| Expr::axis(axis + i)).collect();
        let index = self.view(&IndexMap { domain: result.shape.clone(), results: to_indices }, operands[1]);
        let coordinate = |i: usize| match i.cmp(&axis) {
            std::cmp::Ordering::Less => Expr::axis(i),
            std::cmp::Ordering::Equal => Expr::constant(0),
            std::cmp::Ordering::Greater => Expr::axis(i + indices.rank() - 1),
        };
        let coordinates: Vec<Expr> = (0..table.rank()).map(coordinate).collect();
        let coordinates = self.lift(&coordinates);
        let space = self.space(&result.shape);
        let tables = &mut self.terms.analysis.tables;
        let head = GatherTerm { space: tables.space(&space), coordinates, axis: depth + axis };
        let head = tables.gather_head(head);
        let row = self.terms.add(Term::new(head, &[operands[0], index]));
        let rows = &table.shape[axis];
        if rows.as_constant().is_some_and(|n| n > 0) {
            return row;
        }
        let zero = self.constant(Literal::from_i64(table.dtype, 0), &result.shape);
        self.select_at(ScalarOp::Gt, rows, &Expr::constant(0), &space, row, zero)
    }

    fn reduce(&mut self, op: ReduceOp, operand: &TensorType, axes: &[usize], x: Id) -> Id {
        let accumulator = match op {
            ReduceOp::Sum | ReduceOp::Prod => operand.dtype.accumulator(),
            ReduceOp::Max | ReduceOp::Min | ReduceOp::ArgMax | ReduceOp::ArgMin => operand.dtype,
        };
        let wide = self.cast(accumulator, x);
        if axes.is_empty() {
            return self.cast(operand.dtype, wide);
        }
        let kept = (0..operand.rank()).filter(|a| !axes.contains(a));
        let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
        let domain = order.iter().map(|a| operand.shape[*a].clone()).collect();
        let position = |a: usize| order.iter().position(|o| *o == a).unwrap_or(a);
        let results = (0..operand.rank()).map(|a| Expr::axis(position(a))).collect();
        let moved = self.view(&IndexMap { domain, results }, wide);
        let reduced = self.terms.add(Term::new(Head::Reduce(op, axes.len() as u8), &[moved]));
        if op.is_arg() { reduced } else { self.cast(operand.dtype, reduced) }
    }

    fn contract(
        &mut self,
        types: &[&TensorType],
        result: &TensorType,
        batch: &[(usize, usize)],
        axes: &[(usize, usize)],
        operands: &[Id],
    ) -> Id {
        let (a, b) = (types[0], types[1]);
        let dtype = result.dtype;
        let mut domain = result.shape.clone();
        domain.extend(axes.iter().map(|(i, _)| a.shape[*i].clone()));
        // The axis of the product's space that each axis of an operand runs along.
        let mut next_free = batch.len();
        let mut read = |ty: &TensorType, side: fn(&(usize, usize)) -> usize| {
            let results = (0..ty.rank()).map(|i| {
                if let Some(at) = batch.iter().position(|p| side(p) == i) {
                    Expr::axis(at)
                } else if let Some(at) = axes.iter().position(|p| side(p) == i) {
                    Expr::axis(result.rank() + at)
                } else {
                    next_free += 1;
                    Expr::axis(next_free - 1)
                }
            });
            IndexMap { domain: domain.clone(), results: results.collect() }
        };
        let (map_a, map_b) = (read(a, |p| p.0), read(b, |p| p.1));
        let wide_a = self.cast(dtype.accumulator(), operands[0]);
        let wide_b = self.cast(dtype.accumulator(), operands[1]);
        let (x, y) = (self.view(&map_a, wide_a), self.view(&map_b, wide_b));
        let product = self.scalar(ScalarOp::Mul, &[x, y]);
        let sum = match axes.len() {
            0 => product,
            n => self.terms.add(Term::new(Head::Reduce(ReduceOp::Sum, n as u8), &[product])),
        };
        self.cast(dtype, sum)
    }

    fn scan(&mut self, scan: &Scan, types: &[&TensorType], operands: &[Id]) -> Result<Vec<Id>, RewriteError> {
        let known = self.scans.iter().find(|k| k.operands == operands && k.scan == *scan);
        if let Some(known) = known {
            return Ok(known.results.clone());
        }
        let results = match scan.trip.as_constant() {
            Some(0) => self.no_step(scan, operands),
            Some(1) => self.one_step(scan, types, operands)?,
            _ => self.steps(scan, types, operands)?,
        };
        let operands = operands.to_vec();
        self.scans.push(KnownScan { scan: scan.clone(), operands, results: results.clone() });
        Ok(results)
    }

    /// A scan without steps: the initial states, and empty histories.
    fn no_step(&mut self, scan: &Scan, operands: &[Id]) -> Vec<Id> {
        let mut results = operands[..scan.carries].to_vec();
        for output in &scan.body.outputs()[scan.carries..] {
            let ty = scan.body.ty(output.value);
            let shape: Shape = [&scan.trip].into_iter().chain(&ty.shape).cloned().collect();
            results.push(self.constant(Literal::from_i64(ty.dtype, 0), &shape));
        }
        results
    }

    /// A scan of one step is its body: the states are the initial ones.
    fn one_step(
        &mut self,
        scan: &Scan,
        types: &[&TensorType],
        operands: &[Id],
    ) -> Result<Vec<Id>, RewriteError> {
        let mut states = Vec::with_capacity(scan.carries);
        for i in 0..scan.carries {
            states.push(self.repeat(&types[i].shape, &scan.trip, operands[i]));
        }
        let mut results = self.scan_body(states, scan, types, operands)?;
        for (result, ty) in results.iter_mut().zip(&types[..scan.carries]) {
            let axes = (0..ty.rank()).map(Expr::axis);
            let results = [Expr::constant(0)].into_iter().chain(axes).collect();
            *result = self.view(&IndexMap { domain: ty.shape.clone(), results }, *result);
        }
        Ok(results)
    }

    fn steps(
        &mut self,
        scan: &Scan,
        types: &[&TensorType],
        operands: &[Id],
    ) -> Result<Vec<Id>, RewriteError> {
        let id = ScanId::from(self.terms.analysis.tables.scans.len());
        let carry = |i: usize| CarryInfo {
            name: scan.body.inputs()[i].name.clone(),
            ty: types[i].clone(),
            init: operands[i],
            next: operands[i],
        };
        let info = ScanInfo {
            prefix: self.prefix.clone(),
            trip: scan.trip.clone(),
            carries: (0..scan.carries).map(carry).collect(),
        };
        self.terms.analysis.tables.scans.push(info);
        let states = (0..scan.carries).map(|i| self.terms.add(Term::leaf(Head::Carry(id, i as u32))));
        let states = states.collect();
        let outputs = self.scan_body(states, scan, types, operands)?;
        // Before any final state is a term: what each lies inside follows from all states of the scan.
        let known = &mut self.terms.analysis.tables.scans[id.index()].carries;
        known.iter_mut().zip(&outputs).for_each(|(carry, next)| carry.next = *next);
        let mut results = Vec::with_capacity(outputs.len());
        for (i, next) in outputs.iter().enumerate() {
            if i < scan.carries {
                results.push(self.terms.add(Term::new(Head::ScanFinal(id, i as u32), &[operands[i], *next])));
            } else {
                self.stacked.push(*next);
                let ty = scan.body.ty(scan.body.outputs()[i].value);
                let shape: Shape = [&scan.trip].into_iter().chain(&ty.shape).cloned().collect();
                results.push(self.at_positions(scan, &shape, *next));
            }
        }
        Ok(results)
    }

    /// The outputs of the body over the scan's steps, from the states at their start: new states, then stacked
    /// values.
    fn scan_body(
        &mut self,
        states: Vec<Id>,
        scan: &Scan,
        types: &[&TensorType],
        operands: &[Id],
    ) -> Result<Vec<Id>, RewriteError> {
        let fixed = scan.carries + scan.scanned;
        let captures = scan.captures(operands.len());
        let mut inputs = states;
        for k in scan.carries..fixed {
            inputs.push(self.at_positions(scan, &types[k].shape, operands[k]));
        }
        for k in fixed..fixed + captures {
            let captured = self.repeat(&types[k].shape, &scan.trip, operands[k]);
            inputs.push(captured);
        }
        let lengths = match scan.lengths {
            true => operands.last().map(|x| self.repeat(&types[types.len() - 1].shape, &scan.trip, *x)),
            false => None,
        };
        self.prefix.push(scan.trip.clone());
        let begin = self.terms.nodes().len();
        let outputs = self.graph(&scan.body, &inputs);
        let end = self.terms.nodes().len();
        self.terms.analysis.tables.bodies.push(begin..end);
        let outputs = outputs.map(|mut outputs| {
            if let Some(lengths) = lengths {
                for (i, output) in outputs.iter_mut().enumerate() {
                    let ty = scan.body.ty(scan.body.outputs()[i].value);
                    let old = inputs.get(i).filter(|_| i < scan.carries);
                    *output = self.frozen(scan, lengths, ty, *output, old);
                }
            }
            outputs
        });
        self.prefix.pop();
        outputs
    }

    /// `x` of this shape, which begins with time, by steps of the scan instead of positions, or the other way.
    fn at_positions(&mut self, scan: &Scan, shape: &[Dim], x: Id) -> Id {
        let mut map = IndexMap::identity(shape.to_vec());
        map.results[0] = position(scan, 0);
        self.view(&map, x)
    }

    /// `x` of this shape, repeated along a new innermost time axis.
    fn repeat(&mut self, shape: &[Dim], trip: &Dim, x: Id) -> Id {
        let depth = self.prefix.len();
        let domain: Shape = self.prefix.iter().chain([trip]).chain(shape).cloned().collect();
        let own = (0..shape.len()).map(|i| Expr::axis(depth + 1 + i));
        let results = (0..depth).map(Expr::axis).chain(own).collect();
        self.reindex(IndexMap { domain, results }, x)
    }

    /// `value` while the position is below the row's length; past it `old`, or zero where there is none.
    fn frozen(&mut self, scan: &Scan, lengths: Id, ty: &TensorType, value: Id, old: Option<&Id>) -> Id {
        let depth = self.prefix.len() - 1;
        let space = self.space(&ty.shape);
        let position = self.index(&position(scan, depth), DType::I64, &space);
        let lengths = self.cast(DType::I64, lengths);
        let rows = IndexMap { domain: ty.shape.clone(), results: vec![Expr::axis(0)] };
        let length = self.view(&rows, lengths);
        let running = self.scalar(ScalarOp::Lt, &[position, length]);
        let otherwise = match old {
            Some(old) => *old,
            None => self.constant(Literal::from_i64(ty.dtype, 0), &ty.shape),
        };
        self.scalar(ScalarOp::Select, &[running, value, otherwise])
    }
}

/// The position of the step that an axis of time counts.
fn position(scan: &Scan, axis: usize) -> Expr {
    match scan.direction {
        Direction::Forward => Expr::axis(axis),
        Direction::Reverse => scan.trip.clone() - Expr::constant(1) - Expr::axis(axis),
    }
}

/// The class of a value; operands come before their uses in every graph.
fn defined(values: &[Option<Id>], value: ValueId) -> Id {
    values.get(value.index()).copied().flatten().expect("a graph's nodes stand in topological order")
}
