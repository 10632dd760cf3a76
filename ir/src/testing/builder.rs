//! The graph under construction, and its elementwise ops.

use crate::dtype::{DType, Literal};
use crate::expr::{Dim, DimEnv};
use crate::graph::{Graph, InputKind, ValueId};
use crate::infer::infer;
use crate::limits::type_problem;
use crate::ops::{Domain, Op, ScalarOp};
use crate::types::{Shape, TensorType};

use super::GraphConfig;
use super::choices::{Choices, Recipe};

/// Names that the text form must quote, escape or tell from its own words.
const ODD_NAMES: [&str; 12] =
    ["over", "param", "return", "nan", "at", "two words", "1x", "\"\\", "line\nend", "ünï", "a-b", "%3"];

/// The most elements of a value at [`PROBE`].
const MAX_ELEMENTS: i64 = 2048;
/// The extent of `T` and `B` at which sizes are judged.
const PROBE: i64 = 5;
const MAX_RANK: usize = 4;

pub(super) struct Builder<'c> {
    pub config: &'c GraphConfig,
    pub graph: Graph,
    /// The number of scans that may still nest.
    pub scan_depth: usize,
    names: usize,
}

impl<'c> Builder<'c> {
    pub fn new(config: &'c GraphConfig, name: &str, scan_depth: usize) -> Self {
        Builder { config, graph: Graph::new(name), scan_depth, names: 0 }
    }

    /// A whole program: some inputs, the steps of the recipe, and what nothing uses as outputs.
    pub fn program(config: &GraphConfig, header: &mut Choices, recipe: &mut Recipe) -> Graph {
        let mut builder = Builder::new(config, "random", config.scan_depth);
        for _ in 0..1 + header.below(4) {
            builder.random_input(header);
        }
        if header.one_in(2) {
            let lengths = TensorType { dtype: DType::I32, shape: vec![builder.batch()] };
            builder.input("n", InputKind::Input, lengths, header);
        }
        while let Some(mut choices) = recipe.next() {
            builder.step(&mut choices, recipe);
        }
        builder.outputs(header);
        builder.graph
    }

    fn batch(&self) -> Dim {
        if self.config.symbols { Dim::symbol("B") } else { Dim::constant(3) }
    }

    fn random_input(&mut self, choices: &mut Choices) {
        let dtype = self.dtype(choices);
        let shape: Shape = (0..choices.below(4)).map(|_| self.dim(choices)).collect();
        let kind = if choices.one_in(3) { InputKind::Parameter } else { InputKind::Input };
        self.input("x", kind, TensorType { dtype, shape }, choices);
    }

    /// Adds an input with a name of its own.
    pub fn input(&mut self, stem: &str, kind: InputKind, ty: TensorType, choices: &mut Choices) -> ValueId {
        let name = self.name(stem, choices);
        self.graph.add_input(name, kind, ty)
    }

    pub fn name(&mut self, stem: &str, choices: &mut Choices) -> String {
        let number = self.names;
        self.names += 1;
        let odd = if self.config.odd_names && choices.one_in(3) { choices.of(&ODD_NAMES) } else { None };
        match odd {
            // The first of its kind without a number, so that the bare word occurs.
            Some(odd) if !self.taken(odd) => (*odd).to_owned(),
            Some(odd) => format!("{odd}{number}"),
            None => format!("{stem}{number}"),
        }
    }

    fn taken(&self, name: &str) -> bool {
        let inputs = self.graph.inputs().iter().map(|i| &i.name);
        inputs.chain(self.graph.outputs().iter().map(|o| &o.name)).any(|n| n == name)
    }

    /// Makes outputs of the last values that nothing uses.
    fn outputs(&mut self, choices: &mut Choices) {
        const MOST: usize = 6;
        let mut used = vec![false; self.graph.values().len()];
        for (_, node) in self.graph.nodes() {
            node.operands.iter().for_each(|v| used[v.index()] = true);
        }
        let unused = used.iter().enumerate().rev().filter(|(_, used)| !**used).map(|(i, _)| ValueId::from(i));
        let mut values: Vec<ValueId> = unused.take(MOST).collect();
        if values.is_empty() || choices.one_in(4) {
            values.push(ValueId::from(self.graph.values().len() - 1));
        }
        for value in values {
            let name = self.name("y", choices);
            self.graph.add_output(name, value);
        }
    }

    pub fn dtype(&self, choices: &mut Choices) -> DType {
        choices.of(&self.config.dtypes).copied().unwrap_or(DType::F32)
    }

    pub fn dim(&self, choices: &mut Choices) -> Dim {
        if self.config.symbols && !choices.one_in(3) {
            return Dim::symbol(if choices.one_in(2) { "T" } else { "B" });
        }
        Dim::constant(choices.of(&self.config.sizes).copied().unwrap_or(2))
    }

    pub fn literal(&self, dtype: DType, choices: &mut Choices) -> Literal {
        if self.config.any_literals && choices.one_in(2) {
            return Literal::from_bits(dtype, choices.bits());
        }
        let value = choices.below(17) as f64 / 4.0 - 2.0;
        Literal::from_f64(dtype, if dtype.is_float() { value } else { value.abs().trunc() })
    }

    /// Any value, late ones more often.
    pub fn any_value(&self, choices: &mut Choices) -> ValueId {
        let count = self.graph.values().len();
        let back = choices.below(count).min(choices.below(count));
        ValueId::from(count - 1 - back)
    }

    /// One of the values that the predicate admits.
    pub fn value_where(
        &self,
        choices: &mut Choices,
        admits: impl Fn(&TensorType) -> bool,
    ) -> Option<ValueId> {
        let values: Vec<ValueId> =
            self.graph.values().filter(|(_, v)| admits(&v.ty)).map(|(id, _)| id).collect();
        values.len().checked_sub(1).map(|last| values[last - choices.below(values.len())])
    }

    pub fn ty(&self, value: ValueId) -> TensorType {
        self.graph.ty(value).clone()
    }

    /// Adds a node if the op takes the operands and its results are small.
    pub fn add(&mut self, op: Op, operands: &[ValueId]) -> Option<ValueId> {
        let types: Vec<&TensorType> = operands.iter().map(|v| self.graph.ty(*v)).collect();
        let results = infer(&op, &types).ok()?;
        if results.is_empty() || !results.iter().all(is_small) {
            return None;
        }
        let results = self.graph.add_node(op, operands, None).ok()?;
        results.first().copied()
    }

    /// One statement, or a few where an op needs operands that are not there; none where the draw fits nothing.
    pub fn step(&mut self, choices: &mut Choices, recipe: &mut Recipe) {
        let x = self.any_value(choices);
        _ = match choices.below(20) {
            0..=5 => self.elementwise(x, choices),
            6 => self.add(Op::Cast { dtype: self.dtype(choices) }, &[x]),
            7 => {
                let dtype = self.dtype(choices);
                self.add(Op::Constant { value: self.literal(dtype, choices) }, &[])
            }
            8 => self.iota(choices),
            9 => self.reshape(x, choices),
            10 => self.broadcast(x, choices),
            11 => self.transpose(x, choices),
            12 => self.slice(x, choices),
            13 => self.pad(x, choices),
            14 => self.concat(x, choices),
            15 => self.reverse(x, choices),
            16 => self.gather(x, choices),
            17 => self.reduce(x, choices),
            18 => self.contract(x, choices),
            _ => self.scan(x, choices, recipe),
        };
    }

    fn elementwise(&mut self, x: ValueId, choices: &mut Choices) -> Option<ValueId> {
        let ty = self.ty(x);
        // An op may change the type, but to none that the graph is not to have.
        let allowed =
            |dtype| dtype == DType::Bool || dtype == ty.dtype || self.config.dtypes.contains(&dtype);
        let takes = |op: &ScalarOp| {
            let in_domain = op.domain() == Domain::Any || op.domain().contains(ty.dtype);
            // Bits tell apart what programs that mean the same may differ in: the sign of a zero, the last place.
            *op != ScalarOp::ToBits && in_domain && allowed(op.result_rule().result(ty.dtype))
        };
        let ops: Vec<ScalarOp> = ScalarOp::ALL.iter().copied().filter(takes).collect();
        let op = *choices.of(&ops)?;
        let mut operands = vec![x];
        while operands.len() < op.arity() {
            operands.push(self.value_where(choices, |other| *other == ty)?);
        }
        if op == ScalarOp::Select {
            let condition = TensorType { dtype: DType::Bool, shape: ty.shape };
            operands[0] = match self.value_where(choices, |other| *other == condition) {
                Some(value) => value,
                None => self.add(Op::Scalar(ScalarOp::Eq), &[operands[1], operands[2]])?,
            };
        }
        self.add(Op::Scalar(op), &operands)
    }
}

/// Whether a value is cheap to compute and its dimensions short to read.
pub(super) fn is_small(ty: &TensorType) -> bool {
    const MOST_TERMS: usize = 4;
    let probe = DimEnv::new().with("T", PROBE).with("B", PROBE);
    let short = ty.shape.iter().all(|d| d.terms().count() <= MOST_TERMS);
    let elements = ty.shape.iter().try_fold(1i64, |n, d| n.checked_mul(d.eval_dim(&probe).ok()?.max(1)));
    ty.rank() <= MAX_RANK
        && short
        && elements.is_some_and(|n| n <= MAX_ELEMENTS)
        && type_problem(ty).is_none()
}
