//! Walks the nodes of a graph and traces what they compute.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use fuse_ir::expr::Symbol;
use fuse_ir::limits::MAX_DIM;
use fuse_ir::tensor::Tensor as HostTensor;
use fuse_ir::{DType, Dim};

use super::attribute::Attributes;
use super::call::Call;
use super::error::{Built, NodeName, OnnxError, Problem, refuse};
use super::model::Model;
use super::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::table::{self, OpRow};
use super::tensor::host_tensor;
use super::value::{Constant, DimTensor, Value, depends_on_step};
use super::{dims, fold, function};
use crate::Trace;
use crate::tensor::Tensor;

/// How deep subgraphs and functions nest.
const MAX_DEPTH: usize = 48;
/// How many nodes are imported in all, those of unrolled loops and inlined functions included.
const MAX_NODES: usize = 1 << 18;

/// One pass over a model.
pub(crate) struct Importer<'a> {
    /// The model.
    pub(crate) model: &'a Model<'a>,
    /// What the nodes are traced into.
    pub(crate) trace: Trace,
    /// The known tensors that became parameters of the trace.
    parameters: RefCell<Parameters>,
    /// The steps of the loops that are being imported, by the symbol that stands for each.
    pub(crate) steps: RefCell<BTreeMap<Symbol, Tensor>>,
    /// How deep the graph that is being walked is nested.
    depth: Cell<usize>,
    /// The nodes imported so far.
    nodes: Rc<Cell<usize>>,
}

/// The known tensors that became parameters of the trace.
#[derive(Default)]
struct Parameters {
    /// In order, with their names.
    all: Vec<(String, Rc<Constant>)>,
    /// What stands for each, by its address.
    tensors: HashMap<*const Constant, Tensor>,
    names: HashSet<String>,
}

/// The names that a graph sees: its own, then those of the graphs around it.
pub(crate) struct Scope<'a> {
    around: Option<&'a Scope<'a>>,
    values: RefCell<HashMap<String, Value>>,
}

impl<'a> Scope<'a> {
    /// A scope within another.
    pub(crate) fn new(around: Option<&'a Scope<'a>>) -> Self {
        Scope { around, values: RefCell::default() }
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let own = self.values.borrow().get(name).cloned();
        own.or_else(|| self.around.and_then(|scope| scope.get(name)))
    }

    /// Gives a name its value.
    pub(crate) fn set(&self, name: &str, value: Value) -> Result<(), OnnxError> {
        match self.values.borrow_mut().insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(OnnxError::Malformed(format!("the name `{name}` is defined twice"))),
        }
    }
}

impl<'a> Importer<'a> {
    /// The import of a model into a trace.
    pub(crate) fn new(model: &'a Model<'a>, trace: &Trace) -> Self {
        Importer {
            model,
            trace: trace.clone(),
            parameters: RefCell::default(),
            steps: RefCell::default(),
            depth: Cell::new(0),
            nodes: Rc::default(),
        }
    }

    /// An import of the same model into another trace, as part of this one.
    pub(crate) fn within(&self, trace: &Trace) -> Importer<'a> {
        Importer {
            model: self.model,
            trace: trace.clone(),
            parameters: RefCell::default(),
            steps: RefCell::default(),
            depth: Cell::new(self.depth.get()),
            nodes: self.nodes.clone(),
        }
    }

    /// The parameters made so far, in order, with their names.
    pub(crate) fn parameters(&self) -> Vec<(String, Rc<Constant>)> {
        self.parameters.borrow().all.clone()
    }

    /// Imports the nodes of a graph whose inputs are already in `scope`, and returns its outputs.
    pub(crate) fn graph(&self, graph: &GraphProto, scope: &Scope<'_>) -> Built<Vec<Value>> {
        if !graph.sparse_initializer.is_empty() {
            return refuse("sparse initializers are not supported; store them dense");
        }
        let inputs: HashSet<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
        for tensor in &graph.initializer {
            // An input of the same name may have been given a value already.
            let name = tensor.name();
            self.model.budget.node(0)?;
            if !(inputs.contains(name) && scope.values.borrow().contains_key(name)) {
                scope.set(name, self.initializer(graph, tensor)?)?;
            }
        }
        self.nodes_of(&graph.node, scope)?;
        let output = |name: &str| {
            scope.get(name).ok_or_else(|| {
                OnnxError::Malformed(format!("output `{name}` of graph `{}` is not computed", graph.name()))
                    .into()
            })
        };
        graph.output.iter().map(|o| output(o.name())).collect()
    }

    /// The value of an initializer. Those of the model itself are read once for all passes.
    fn initializer(&self, graph: &GraphProto, tensor: &TensorProto) -> Built<Value> {
        let of_model = std::ptr::eq(graph, self.model.graph);
        let mut read = self.model.read.borrow_mut();
        if let Some(constant) = read.get(tensor.name()).filter(|_| of_model) {
            return Ok(Value::Known(constant.clone()));
        }
        let host = host_tensor(tensor, &self.model.data)?;
        let constant = Rc::new(Constant { name: tensor.name().to_owned(), tensor: host });
        if of_model {
            read.insert(tensor.name().to_owned(), constant.clone());
        }
        Ok(Value::Known(constant))
    }

    /// Imports nodes in order.
    pub(crate) fn nodes_of<'n>(
        &self,
        nodes: impl IntoIterator<Item = &'n NodeProto>,
        scope: &Scope<'_>,
    ) -> Built<()> {
        self.depth.set(self.depth.get() + 1);
        let _depth = DepthGuard(&self.depth);
        if self.depth.get() > MAX_DEPTH {
            return Err(
                OnnxError::Limit(format!("graphs and functions nest more than {MAX_DEPTH} deep")).into()
            );
        }
        for node in nodes {
            self.model.budget.node(node.input.len() + node.output.len())?;
            self.nodes.set(self.nodes.get() + 1);
            if self.nodes.get() > MAX_NODES {
                let text =
                    format!("more than {MAX_NODES} nodes, those of unrolled loops and functions included");
                return Err(OnnxError::Limit(text).into());
            }
            let values = self.node(node, scope).map_err(|problem| self.located(node, problem))?;
            if let Some(missing) = node.output.iter().skip(values.len()).position(|o| !o.is_empty()) {
                let problem = format!("its output {} is not supported", values.len() + missing);
                return Err(self.located(node, Problem::Refused(problem)));
            }
            for (name, value) in node.output.iter().zip(values).filter(|(name, _)| !name.is_empty()) {
                scope.set(name, value)?;
            }
        }
        Ok(())
    }

    /// The values of a node's outputs.
    fn node(&self, node: &NodeProto, scope: &Scope<'_>) -> Built<Vec<Value>> {
        let input = |name: &String| match name.as_str() {
            "" => Ok(None),
            name => scope.get(name).map(Some).ok_or_else(|| {
                let text = "is not defined before; the nodes are not in order, or form a cycle";
                Problem::from(OnnxError::Malformed(format!(
                    "node `{}`: its input `{name}` {text}",
                    node_label(node)
                )))
            }),
        };
        let inputs = node.input.iter().map(input).collect::<Built<Vec<_>>>()?;
        if let Some(function) = self.model.function(node) {
            return function::inline(self, function, node, inputs);
        }
        let opset = self.model.opset(node.domain());
        let Some(row) = table::find(node.domain(), node.op_type()) else {
            return refuse("the operator is not supported");
        };
        let name = node.output.first().map_or("", String::as_str);
        let call = Call {
            importer: self,
            scope,
            attributes: Attributes(node),
            inputs,
            outputs: node.output.len(),
            opset,
            name,
        };
        self.build(row, &call)
    }

    /// Builds a node: from what is known now if all its inputs are, as arithmetic of dimensions if they are, or as
    /// ops of the trace.
    fn build(&self, row: &'static OpRow, call: &Call<'_>) -> Built<Vec<Value>> {
        if fold::applies(row, call) {
            return fold::fold(row, call);
        }
        if let Some(values) = dims::apply(row, call)? {
            return Ok(values);
        }
        let values = (row.build)(call)?;
        match self.trace.failure() {
            None => Ok(values),
            Some(error) => refuse(error),
        }
    }

    /// An error with the node it is about.
    fn located(&self, node: &NodeProto, problem: Problem) -> Problem {
        match problem {
            Problem::Refused(problem) => OnnxError::Node { node: self.model.node_name(node), problem }.into(),
            Problem::NeedsValues { what, inputs } => {
                Problem::NeedsValues { what: format!("{}: {what}", self.model.node_name(node)), inputs }
            }
            Problem::NeedsDims { what, symbols } => {
                Problem::NeedsDims { what: format!("{}: {what}", self.model.node_name(node)), symbols }
            }
            Problem::Unequal(a, b) if a.as_constant().is_some() && b.as_constant().is_some() => {
                let problem = format!("sizes {a} and {b} differ");
                OnnxError::Node { node: self.model.node_name(node), problem }.into()
            }
            Problem::Unequal(..) | Problem::Located(_) => problem,
        }
    }
}

/// Values as tensors, and tensors as values.
impl Importer<'_> {
    /// A value as a tensor of the trace.
    pub(crate) fn tensor(&self, value: &Value) -> Built<Tensor> {
        match value {
            Value::Traced(tensor) => Ok(tensor.clone()),
            Value::Known(constant) => self.parameter(constant),
            Value::Dims(tensor) => self.dim_values(tensor),
            Value::Sequence(_) => refuse("a sequence of tensors stands where a tensor is needed"),
        }
    }

    /// A known tensor: a constant if all its elements are the same, a parameter otherwise.
    fn parameter(&self, constant: &Rc<Constant>) -> Built<Tensor> {
        let host = &constant.tensor;
        let shape: Vec<Dim> = host.shape().iter().map(|n| Dim::constant(*n as i64)).collect();
        if let Some(dim) = shape.iter().find(|d| d.as_constant().is_none_or(|c| c > MAX_DIM)) {
            return refuse(format!("tensor `{}` has the extent {dim}, beyond 2^40", constant.name));
        }
        if let Some(scalar) = same_everywhere(host) {
            let scalar = match host.dtype() {
                DType::Bool => self.trace.constant(DType::Bool, scalar.as_i64() != 0),
                dtype if dtype.is_float() => self.trace.constant(dtype, scalar.as_f64()),
                dtype => self.trace.constant(dtype, scalar.as_i64()),
            };
            return Ok(scalar.broadcast_to(shape));
        }
        let mut parameters = self.parameters.borrow_mut();
        if let Some(known) = parameters.tensors.get(&Rc::as_ptr(constant)) {
            return Ok(known.clone());
        }
        let base = if constant.name.is_empty() { "constant" } else { &constant.name };
        let mut name = base.to_owned();
        let mut count = 0;
        while parameters.names.contains(&name) || self.model.is_input(&name) {
            count += 1;
            name = format!("{base}_{count}");
        }
        let tensor = self.trace.parameter(&name, host.dtype(), shape);
        parameters.names.insert(name.clone());
        parameters.all.push((name, constant.clone()));
        parameters.tensors.insert(Rc::as_ptr(constant), tensor.clone());
        Ok(tensor)
    }

    /// The values of dimensions, computed when the model runs.
    fn dim_values(&self, tensor: &DimTensor) -> Built<Tensor> {
        let scalars = tensor.dims.iter().map(|d| dims::scalar(self, tensor.dtype, d));
        let scalars = scalars.collect::<Built<Vec<_>>>()?;
        let shape: Vec<i64> = tensor.shape.iter().map(|n| *n as i64).collect();
        match &scalars[..] {
            [] => Ok(self.trace.zeros(tensor.dtype, shape)),
            [one] => Ok(one.reshape(shape)),
            several => Ok(crate::stack(several, 0).reshape(shape)),
        }
    }

    /// The elements of a value, which must be known now.
    pub(crate) fn known(&self, value: &Value, what: &str) -> Built<HostTensor> {
        match value {
            Value::Known(constant) => Ok(constant.tensor.clone()),
            Value::Dims(tensor) if tensor.dims.iter().any(depends_on_step) => {
                refuse(format!("{what} must be the same in each step of the loop around it"))
            }
            Value::Dims(tensor) => {
                Err(Problem::NeedsDims { what: format!("{what} must be known"), symbols: tensor.symbols() })
            }
            Value::Sequence(_) => refuse(format!("{what} must be a tensor, not a sequence")),
            Value::Traced(tensor) => match self.trace.inputs_behind(tensor) {
                Some(inputs) if !inputs.is_empty() => {
                    Err(Problem::NeedsValues { what: format!("{what} must be known"), inputs })
                }
                _ => refuse(format!(
                    "{what} must be known when the model is compiled, but is computed when it runs"
                )),
            },
        }
    }
}

/// The element that a tensor consists of.
fn same_everywhere(tensor: &HostTensor) -> Option<fuse_ir::Literal> {
    let first = tensor.get(0)?;
    let size = tensor.dtype().size();
    let (head, rest) = tensor.bytes().split_at(size);
    rest.chunks_exact(size).all(|chunk| chunk == head).then_some(first)
}

/// What a node is called in errors: its name, or that of its first output.
pub(crate) fn node_label(node: &NodeProto) -> &str {
    match node.name() {
        "" => node.output.iter().find(|o| !o.is_empty()).map_or("?", String::as_str),
        name => name,
    }
}

/// An operator with its domain, unless that is ONNX's own.
pub(crate) fn operator(node: &NodeProto) -> String {
    match node.domain() {
        "" | "ai.onnx" => node.op_type().to_owned(),
        domain => format!("{domain}.{}", node.op_type()),
    }
}

impl Model<'_> {
    /// A node as errors name it.
    pub(crate) fn node_name(&self, node: &NodeProto) -> NodeName {
        NodeName {
            operator: operator(node),
            name: node_label(node).to_owned(),
            opset: self.opset(node.domain()),
        }
    }
}

struct DepthGuard<'a>(&'a Cell<usize>);

impl Drop for DepthGuard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
