//! The walk over a graph.

use std::collections::BTreeMap;

use crate::bind::concrete_shape;
use crate::dtype::{DType, Literal};
use crate::expr::DimEnv;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::ops::{Op, ReduceOp};
use crate::tensor::Tensor;

use super::array::{Array, Elements, Memory, element_count};
use super::elementwise::elementwise;
use super::errors::{self, FactorRounding};
use super::scalar::{int_from_float, int_from_int, wrap};
use super::scan::run_scan;
use super::structural::{View, concat, contract, gather, pad, reduce};
use super::value::Value;
use super::{InterpError, Limits, Precision, Zeros, position};

/// What one call fixes: the values of symbols, how floats are carried, whether errors are estimated, the memory.
pub(super) struct Context<'a> {
    pub dims: &'a DimEnv,
    precision: Precision,
    zeros: Zeros,
    rounding: Option<FactorRounding>,
    pub memory: Memory,
}

/// A graph with all that does not change from step to step worked out.
pub(super) struct Plan<'g> {
    graph: &'g Graph,
    shapes: Vec<Vec<usize>>,
    /// For each node, the values that are not used after it.
    release: Vec<Vec<ValueId>>,
    /// The bodies of the scans that run at all.
    bodies: BTreeMap<NodeId, Plan<'g>>,
}

/// Runs a graph on inputs that binding has accepted.
pub(super) fn run(
    graph: &Graph,
    inputs: &[Tensor],
    dims: &DimEnv,
    (precision, zeros): (Precision, Zeros),
    limits: Limits,
) -> Result<Vec<Tensor>, InterpError> {
    let context = Context { dims, precision, zeros, rounding: None, memory: Memory::new(limits.bytes) };
    let plan = Plan::new(graph, dims)?;
    let outputs = plan.run(context.inputs(inputs)?, &context)?;
    let pairs = outputs.iter().zip(graph.outputs());
    pairs.map(|(v, output)| Ok(v.array.to_tensor(graph.ty(output.value).dtype, precision)?)).collect()
}

/// The same in real numbers, with what rounding may change in every element of the outputs.
pub(super) fn run_with_errors(
    graph: &Graph,
    inputs: &[Tensor],
    dims: &DimEnv,
    rounding: FactorRounding,
    limits: Limits,
) -> Result<Vec<errors::Estimate>, InterpError> {
    let (precision, zeros, memory) = (Precision::F64, Zeros::default(), Memory::new(limits.bytes));
    let context = Context { dims, precision, zeros, rounding: Some(rounding), memory };
    let plan = Plan::new(graph, dims)?;
    let outputs = plan.run(context.inputs(inputs)?, &context)?;
    let pairs = outputs.iter().zip(graph.outputs());
    pairs.map(|(value, output)| errors::Estimate::new(value, graph.ty(output.value).dtype)).collect()
}

impl<'g> Plan<'g> {
    fn new(graph: &'g Graph, dims: &DimEnv) -> Result<Self, InterpError> {
        let shapes: Result<Vec<_>, _> =
            graph.values().map(|(_, v)| concrete_shape(&v.ty.shape, dims)).collect();
        let mut last_use: Vec<Option<usize>> = vec![None; graph.values().len()];
        let mut bodies = BTreeMap::new();
        for (i, (id, node)) in graph.nodes().enumerate() {
            for value in node.operands.iter().chain(&node.results) {
                last_use[value.index()] = Some(i);
            }
            if let Op::Scan(scan) = &node.op
                && position(&scan.trip, dims)? > 0
            {
                bodies.insert(id, Plan::new(&scan.body, dims)?);
            }
        }
        for output in graph.outputs() {
            last_use[output.value.index()] = None;
        }
        let mut release = vec![Vec::new(); graph.nodes().len()];
        for (value, last) in last_use.into_iter().enumerate() {
            if let Some(node) = last {
                release[node].push(ValueId::from(value));
            }
        }
        Ok(Plan { graph, shapes: shapes?, release, bodies })
    }

    /// One run of the graph.
    pub fn run(&self, inputs: Vec<Value>, context: &Context) -> Result<Vec<Value>, InterpError> {
        let mut values: Vec<Option<Value>> = vec![None; self.shapes.len()];
        for (input, value) in self.graph.inputs().iter().zip(inputs) {
            values[input.value.index()] = Some(value);
        }
        for (id, node) in self.graph.nodes() {
            let results = self.node(id, node, &values, context).map_err(|error| InterpError::Node {
                node: id,
                op: node.op.mnemonic(),
                error: Box::new(error),
            })?;
            for (value, result) in node.results.iter().zip(results) {
                values[value.index()] = Some(result);
            }
            for value in &self.release[id.index()] {
                values[value.index()] = None;
            }
        }
        self.graph.outputs().iter().map(|o| Ok(defined(&values, o.value)?.clone())).collect()
    }

    fn node(
        &self,
        id: NodeId,
        node: &Node,
        values: &[Option<Value>],
        context: &Context,
    ) -> Result<Vec<Value>, InterpError> {
        let operands: Result<Vec<&Value>, _> = node.operands.iter().map(|v| defined(values, *v)).collect();
        let operands = operands?;
        if let Op::Scan(scan) = &node.op {
            let shapes: Vec<&[usize]> = node.results.iter().map(|v| self.shape(*v)).collect();
            return run_scan(scan, self.bodies.get(&id), &operands, &shapes, context);
        }
        let result =
            node.results.first().ok_or_else(|| InterpError::Malformed(format!("{id} has no result")))?;
        let operand_type = |i: usize| node.operands.get(i).map_or(DType::F32, |v| self.graph.ty(*v).dtype);
        let ty = (self.graph.ty(*result).dtype, self.shape(*result));
        let arrays: Vec<&Array> = operands.iter().map(|value| &value.array).collect();
        let array = context.apply(&node.op, &arrays, operand_type, ty)?;
        let errors = match context.rounding {
            Some(rounding) => {
                let of = errors::Node { op: &node.op, operands: &operands, operand_type: &operand_type, ty };
                Some(of.errors(context, rounding, &array)?)
            }
            None => None,
        };
        Ok(vec![Value { array, errors }])
    }

    fn shape(&self, value: ValueId) -> &[usize] {
        &self.shapes[value.index()]
    }
}

fn defined(values: &[Option<Value>], value: ValueId) -> Result<&Value, InterpError> {
    let found = values.get(value.index()).and_then(Option::as_ref);
    found.ok_or_else(|| InterpError::Malformed(format!("{value} is used before it is defined")))
}

impl Context<'_> {
    /// Inputs, exact.
    fn inputs(&self, tensors: &[Tensor]) -> Result<Vec<Value>, InterpError> {
        let value = |tensor| {
            let array = Array::from_tensor(tensor, &self.memory)?;
            let errors = match self.rounding {
                Some(_) => Some(errors::none(self, array.shape())?),
                None => None,
            };
            Ok(Value { array, errors })
        };
        tensors.iter().map(value).collect()
    }

    /// One op other than a scan; the result has element type and extents `ty`.
    pub fn apply(
        &self,
        op: &Op,
        operands: &[&Array],
        operand_type: impl Fn(usize) -> DType,
        ty: (DType, &[usize]),
    ) -> Result<Array, InterpError> {
        let (dtype, shape) = ty;
        let memory = &self.memory;
        match (op, operands) {
            (Op::Constant { value }, []) => self.constant(*value, shape),
            (Op::Iota { axis, .. }, []) => self.iota(*axis, ty),
            (Op::Scalar(scalar), _) => {
                // The last operand has the type that decides: the first of a select is its condition.
                elementwise(self, *scalar, operands, operand_type(operands.len().saturating_sub(1)), shape)
            }
            (Op::Cast { .. }, [x]) => self.cast(x, ty),
            (Op::Reshape { .. }, [x]) => x.reshaped(shape),
            (Op::Broadcast { axes, .. }, [x]) => {
                View::broadcast(x.shape(), shape.len(), axes).read(x, shape, memory)
            }
            (Op::Transpose { permutation }, [x]) => {
                View::transpose(x.shape(), permutation).read(x, shape, memory)
            }
            (Op::Slice { axes }, [x]) => View::slice(x.shape(), axes, self.dims)?.read(x, shape, memory),
            (Op::Pad { low, value, .. }, [x]) => pad(x, low, *value, shape, self.dims, memory),
            (Op::Concat { axis }, _) => concat(operands, *axis, shape, memory),
            (Op::Reverse { axes }, [x]) => View::reverse(x.shape(), axes).read(x, shape, memory),
            (Op::Gather { axis }, [table, indices]) => gather(table, indices, *axis, shape, memory),
            (Op::Reduce { op, axes }, [x]) => {
                let array = reduce(*op, x, axes, (operand_type(0), shape), memory)?;
                let array = if *op == ReduceOp::Sum { self.signed(array)? } else { array };
                self.rounded(array, dtype)
            }
            (Op::Contract { batch, axes }, [a, b]) => {
                let array = self.signed(contract((a, b), batch, axes, ty, memory)?)?;
                self.rounded(array, dtype)
            }
            _ => Err(InterpError::Malformed(format!("{} of {} operands", op.mnemonic(), operands.len()))),
        }
    }

    /// Whether results of type `dtype` need rounding after they were computed in f64.
    fn rounds(&self, dtype: DType) -> bool {
        self.precision == Precision::Declared && dtype.is_float() && dtype != DType::F64
    }

    /// Rounds results of type `dtype` that were computed in f64.
    pub fn round(&self, elements: &mut [f64], dtype: DType) {
        if self.rounds(dtype) {
            elements.iter_mut().for_each(|x| *x = dtype.round_f64(*x));
        }
    }

    /// The sums with the signs of those that are zero, whatever their order gives.
    fn signed(&self, sums: Array) -> Result<Array, InterpError> {
        if self.zeros == Zeros::AsSummed || !matches!(sums.elements(), Elements::Float(_)) {
            return Ok(sums);
        }
        let grant = self.memory.grant(sums.shape())?;
        let mut out = grant.vector()?;
        out.extend(sums.floats()?.iter().map(|x| if *x == 0.0 { -x } else { *x }));
        grant.array(sums.shape(), out)
    }

    /// The array with its elements rounded to its type.
    fn rounded(&self, array: Array, dtype: DType) -> Result<Array, InterpError> {
        if !self.rounds(dtype) {
            return Ok(array);
        }
        let grant = self.memory.grant(array.shape())?;
        let mut out = grant.vector()?;
        out.extend_from_slice(array.floats()?);
        self.round(&mut out, dtype);
        grant.array(array.shape(), out)
    }

    fn constant(&self, value: Literal, shape: &[usize]) -> Result<Array, InterpError> {
        let grant = self.memory.grant(shape)?;
        if value.dtype().is_float() {
            let filled = grant.filled(value.as_f64())?;
            grant.array(shape, filled)
        } else {
            let filled = grant.filled(value.as_i64())?;
            grant.array(shape, filled)
        }
    }

    fn iota(&self, axis: usize, (dtype, shape): (DType, &[usize])) -> Result<Array, InterpError> {
        let grant = self.memory.grant(shape)?;
        let count = element_count(shape).unwrap_or(0);
        let inner: usize = if count == 0 { 1 } else { shape[axis + 1..].iter().product() };
        let coordinate = |i: usize| (i / inner % shape[axis]) as i64;
        if dtype.is_float() {
            let mut out = grant.vector()?;
            out.extend((0..count).map(|i| self.float_from_int(dtype, coordinate(i))));
            grant.array(shape, out)
        } else {
            let mut out = grant.vector()?;
            out.extend((0..count).map(|i| wrap(dtype, coordinate(i))));
            grant.array(shape, out)
        }
    }

    fn float_from_int(&self, dtype: DType, value: i64) -> f64 {
        if self.rounds(dtype) { dtype.round_i64(value) } else { value as f64 }
    }

    fn cast(&self, x: &Array, (dtype, shape): (DType, &[usize])) -> Result<Array, InterpError> {
        let grant = self.memory.grant(shape)?;
        if dtype.is_float() {
            let mut out = grant.vector()?;
            match x.elements() {
                Elements::Float(v) => {
                    out.extend_from_slice(v);
                    self.round(&mut out, dtype);
                }
                Elements::Int(v) => out.extend(v.iter().map(|x| self.float_from_int(dtype, *x))),
            }
            grant.array(shape, out)
        } else {
            let mut out = grant.vector()?;
            match x.elements() {
                Elements::Float(v) => out.extend(v.iter().map(|x| int_from_float(dtype, *x))),
                Elements::Int(v) => out.extend(v.iter().map(|x| int_from_int(dtype, *x))),
            }
            grant.array(shape, out)
        }
    }
}
