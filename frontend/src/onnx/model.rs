//! A model file that has been decoded: what it imports, defines and takes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use fuse_ir::Dim;
use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::limits::dim_problem;
use fuse_ir::tensor::Tensor as HostTensor;

use super::budget::Budget;
use super::describe::with_subgraphs;
use super::error::{OnnxError, UnsupportedNode};
use super::proto::tensor_shape_proto::dimension::Value as DimValue;
use super::proto::type_proto::Value as TypeValue;
use super::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::table;
use super::tensor::{Data, element_type, type_name};
use super::value::{Constant, Value};
use super::{ImportOptions, NEWEST_OPSET, OLDEST_OPSET};
use crate::Trace;
use crate::shape::is_identifier;

/// A decoded model, and what has been found out about it.
pub(crate) struct Model<'a> {
    /// The graph.
    pub(crate) graph: &'a GraphProto,
    /// Where tensors find data outside of the file.
    pub(crate) data: Data<'a>,
    opsets: HashMap<&'a str, i64>,
    functions: BTreeMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    inputs: BTreeSet<&'a str>,
    symbols: BTreeMap<String, Symbol>,
    /// The initializers that have been read, by name.
    pub(crate) read: RefCell<HashMap<String, Rc<Constant>>>,
    /// What the import may still cost.
    pub(crate) budget: Budget,
    /// What is compiled in.
    pub(crate) fixed: Fixed,
}

/// What a model is compiled for: everything that a node turned out to need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fixed {
    /// Inputs whose values are compiled in.
    pub(crate) inputs: BTreeSet<String>,
    /// Symbols that stand for other dimensions.
    dims: BTreeMap<Symbol, Dim>,
}

impl Fixed {
    /// Lets a symbol stand for a dimension, in what other symbols stand for too.
    ///
    /// # Errors
    /// Where a dimension becomes too large an expression.
    pub(crate) fn set(&mut self, symbol: Symbol, dim: Dim) -> Result<(), OnnxError> {
        self.dims.insert(symbol, dim.clone());
        let all: Vec<(Symbol, Dim)> = self.dims.iter().map(|(s, d)| (s.clone(), self.resolved(d))).collect();
        for (symbol, dim) in all {
            let factors = dim.terms().map(|(factors, _)| factors.len()).max().unwrap_or(0);
            if dim.terms().count() > MAX_FIXED || factors > MAX_FIXED || dim_problem(&dim).is_some() {
                let text = "its sizes are equal only if the dimension";
                return Err(OnnxError::Limit(format!("{text} {symbol} is an expression too large to keep")));
            }
            self.dims.insert(symbol, dim);
        }
        Ok(())
    }

    fn resolved(&self, dim: &Dim) -> Dim {
        dim.substitute(&|atom| match atom {
            Atom::Symbol(symbol) => self.dims.get(symbol).cloned(),
            Atom::Axis(_) | Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
        })
    }
}

/// How many symbols the inputs of a model may have.
const MAX_SYMBOLS: usize = 1024;
/// How many terms, and factors of one, a dimension may have that a symbol stands for.
const MAX_FIXED: usize = 8;

fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl<'a> Model<'a> {
    /// Checks what a model imports and defines.
    ///
    /// # Errors
    /// Where the operator set is too new or too old, or the model has no graph.
    pub(crate) fn new(proto: &'a ModelProto, data: Data<'a>) -> Result<Model<'a>, OnnxError> {
        let Some(graph) = &proto.graph else {
            return Err(OnnxError::Malformed("it has no graph".into()));
        };
        let mut opsets = HashMap::new();
        for import in &proto.opset_import {
            opsets.insert(domain(import.domain()), import.version());
        }
        let version = *opsets.entry("").or_insert(1);
        if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&version) && !graph.node.is_empty() {
            let text = format!(
                "fuse reads opsets {OLDEST_OPSET} to {NEWEST_OPSET}; export the model again with one"
            );
            return Err(OnnxError::Model(format!("the model uses opset {version}; {text}")));
        }
        let key = |f: &'a FunctionProto| ((domain(f.domain()), f.name(), f.overload()), f);
        let mut model = Model {
            graph,
            data,
            opsets,
            functions: proto.functions.iter().map(key).collect(),
            inputs: graph.input.iter().map(ValueInfoProto::name).collect(),
            symbols: BTreeMap::new(),
            read: RefCell::default(),
            budget: Budget::default(),
            fixed: Fixed::default(),
        };
        for name in graph.input.iter().flat_map(dim_names) {
            model.add_symbol(name);
            if model.symbols.len() > MAX_SYMBOLS {
                return Err(OnnxError::Limit(format!("its inputs have more than {MAX_SYMBOLS} symbols")));
            }
        }
        Ok(model)
    }

    /// The version of an operator set.
    pub(crate) fn opset(&self, name: &str) -> i64 {
        self.opsets.get(domain(name)).copied().unwrap_or(1)
    }

    /// The function that a node calls, if the model defines it.
    pub(crate) fn function(&self, node: &NodeProto) -> Option<&'a FunctionProto> {
        self.functions.get(&(domain(node.domain()), node.op_type(), node.overload())).copied()
    }

    /// Whether the model has an input of that name.
    pub(crate) fn is_input(&self, name: &str) -> bool {
        self.inputs.contains(name)
    }

    /// The inputs that are not initializers.
    pub(crate) fn plain_inputs(&self) -> impl Iterator<Item = &'a ValueInfoProto> + '_ {
        let initializers: BTreeSet<&str> = self.graph.initializer.iter().map(|t| t.name()).collect();
        self.graph.input.iter().filter(move |i| !initializers.contains(i.name()))
    }

    /// Every node that has no import, those of subgraphs and functions too.
    pub(crate) fn unsupported(&self) -> Vec<UnsupportedNode> {
        let mut found = Vec::new();
        let functions = self.functions.values().flat_map(|f| &f.node);
        for node in with_subgraphs(self.graph.node.iter().chain(functions)) {
            if self.function(node).is_some() {
                continue;
            }
            if let Some(reason) = table::unsupported(node, self.opset(node.domain())) {
                found.push(UnsupportedNode { node: self.node_name(node), reason });
            }
        }
        found
    }

    /// The symbols of the inputs' dimensions, by name.
    pub(crate) fn symbol_names(&self) -> Vec<String> {
        self.symbols.values().map(ToString::to_string).collect()
    }

    /// The bytes of the initializers that have been read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read.borrow().values().map(|c| c.tensor.bytes().len() as u64).sum()
    }

    fn add_symbol(&mut self, name: String) {
        if self.symbols.contains_key(&name) {
            return;
        }
        let mut base: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if !is_identifier(&base) {
            base.insert(0, 'd');
        }
        let mut symbol = Symbol::new(&base);
        let mut count = 0;
        while self.symbols.values().any(|s| *s == symbol) {
            count += 1;
            symbol = Symbol::new(format!("{base}_{count}"));
        }
        self.symbols.insert(name, symbol);
    }

    /// A dimension with everything in place that has been found out.
    pub(crate) fn resolved(&self, dim: &Dim) -> Dim {
        self.fixed.resolved(dim)
    }

    /// The declared extents of an input; `None` where the rank is left open.
    ///
    /// # Errors
    /// Where the input is no tensor of a supported element type.
    pub(crate) fn declared_shape(&self, input: &ValueInfoProto) -> Result<Option<Vec<Dim>>, OnnxError> {
        let Some(shape) = shape_of(input) else { return Ok(None) };
        let mut dims = Vec::with_capacity(shape.dim.len());
        for (i, dim) in shape.dim.iter().enumerate() {
            dims.push(match &dim.value {
                Some(DimValue::DimValue(n)) if *n < 0 => {
                    let text = format!("input `{}`: dimension {i} is {n}", input.name());
                    return Err(OnnxError::Malformed(text));
                }
                Some(DimValue::DimValue(n)) => Dim::constant(*n),
                _ => self.resolved(&Dim::symbol(self.symbols[&dim_name(input, i)].name())),
            });
        }
        Ok(Some(dims))
    }

    /// The value of an input of the model.
    ///
    /// # Errors
    /// Where the input's type is not supported.
    pub(crate) fn input(
        &self,
        trace: &Trace,
        input: &ValueInfoProto,
        options: &ImportOptions,
    ) -> Result<Value, OnnxError> {
        let given = options.values.get(input.name());
        if let Some(tensor) = given.filter(|_| self.fixed.inputs.contains(input.name())) {
            return Ok(Value::known(input.name(), tensor.clone()));
        }
        let number = element_number(input)
            .ok_or_else(|| OnnxError::Model(format!("input `{}` is no tensor", input.name())))?;
        let Some(dtype) = element_type(number) else {
            let text =
                format!("input `{}` is of type {}, which fuse has not", input.name(), type_name(number));
            return Err(OnnxError::Model(text));
        };
        let shape = match (self.declared_shape(input)?, given) {
            (Some(shape), _) => shape,
            (None, Some(tensor)) => tensor.shape().iter().map(|n| Dim::constant(*n as i64)).collect(),
            (None, None) => {
                let text = "has no declared rank; give its value with --inputs, or infer shapes before";
                return Err(OnnxError::Model(format!("input `{}` {text}", input.name())));
            }
        };
        Ok(trace.input(input.name(), dtype, shape).into())
    }

    /// The symbols that given inputs determine, with their values.
    pub(crate) fn known_dims(&self, options: &ImportOptions) -> BTreeMap<Symbol, i64> {
        let mut known: BTreeMap<Symbol, i64> = options.dims.iter().map(|(s, v)| (s.clone(), v)).collect();
        for input in self.plain_inputs() {
            let (Some(tensor), Ok(Some(shape))) =
                (options.values.get(input.name()), self.declared_shape(input))
            else {
                continue;
            };
            for (dim, n) in shape.iter().zip(tensor.shape()) {
                let symbols = dim.symbols();
                if let Some(symbol) = symbols.first()
                    && *dim == Dim::symbol(symbol.name())
                {
                    known.entry(symbol.clone()).or_insert(*n as i64);
                }
            }
        }
        known
    }

    /// The given value of an input.
    pub(crate) fn given<'o>(&self, options: &'o ImportOptions, name: &str) -> Option<&'o HostTensor> {
        options.values.get(name)
    }
}

/// The type of a value that is a tensor.
pub(crate) fn tensor_type(input: &ValueInfoProto) -> Option<&super::proto::type_proto::Tensor> {
    match input.r#type.as_ref()?.value.as_ref()? {
        TypeValue::TensorType(tensor) => Some(tensor),
        _ => None,
    }
}

fn element_number(input: &ValueInfoProto) -> Option<i32> {
    tensor_type(input).map(|t| t.elem_type())
}

fn shape_of(input: &ValueInfoProto) -> Option<&super::proto::TensorShapeProto> {
    tensor_type(input)?.shape.as_ref()
}

/// The name of a dimension that is no number: the model's, or one from its place.
fn dim_name(input: &ValueInfoProto, axis: usize) -> String {
    let dim = shape_of(input).and_then(|s| s.dim.get(axis)).and_then(|d| d.value.as_ref());
    match dim {
        Some(DimValue::DimParam(name)) if !name.is_empty() => name.clone(),
        _ => format!("{}_{axis}", input.name()),
    }
}

fn dim_names(input: &ValueInfoProto) -> Vec<String> {
    let dims = shape_of(input).map(|s| &s.dim[..]).unwrap_or_default();
    let open = |(i, d): (usize, &super::proto::tensor_shape_proto::Dimension)| {
        (!matches!(d.value, Some(DimValue::DimValue(_)))).then(|| dim_name(input, i))
    };
    dims.iter().enumerate().filter_map(open).collect()
}
