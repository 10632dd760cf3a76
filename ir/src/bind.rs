//! Values for the symbolic dimensions of one call: solved from the shapes that come in, then checked.
//!
//! Whoever runs a graph binds first. After [`bind_dims`] every symbol has a value, every input has the shape
//! its type asks for, no extent is negative and no slice reaches past its operand, so that what runs next can
//! compute sizes and positions without asking again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::dtype::DType;
use crate::expr::{Atom, Dim, DimEnv, EvalError, Symbol};
use crate::graph::{Graph, NodeId};
use crate::ops::{Op, SliceAxis};
use crate::types::{Shape, ShapeText, TensorType};

/// Why the inputs of a call do not fit a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The number of inputs is wrong.
    #[error("`{graph}` takes {expected} inputs ({names}), got {got}")]
    Count {
        /// The graph's name.
        graph: String,
        /// How many inputs it has.
        expected: usize,
        /// Their names.
        names: String,
        /// How many came.
        got: usize,
    },
    /// An input has another type than the graph declares.
    #[error("input `{input}` is {got}, expected {expected}{}", Bindings(bindings))]
    Input {
        /// The input's name.
        input: String,
        /// What came: element type and extents.
        got: String,
        /// The declared type.
        expected: TensorType,
        /// The values of the symbols in the declared type, each with its origin.
        bindings: Vec<String>,
    },
    /// A symbol follows from no input.
    #[error("dimension `{symbol}` follows from no input; give it with --dim {symbol}=…")]
    Unbound {
        /// The symbol.
        symbol: Symbol,
    },
    /// A value was given for a symbol that the graph does not have.
    #[error("`{graph}` has no dimension `{symbol}`; it has {known}")]
    Unknown {
        /// The graph's name.
        graph: String,
        /// The symbol.
        symbol: Symbol,
        /// The symbols there are, in words.
        known: String,
    },
    /// A dimension was given a negative value.
    #[error("dimension `{symbol}` is {value}; it must be at least 0")]
    Negative {
        /// The symbol.
        symbol: Symbol,
        /// The value.
        value: i64,
    },
    /// An extent, position or number of steps comes out negative.
    #[error("{what} is {expression} = {value}{}, but must be at least 0", Bindings(bindings))]
    NegativeExtent {
        /// Whose it is.
        what: String,
        /// The expression.
        expression: String,
        /// Its value.
        value: i64,
        /// The values of its symbols.
        bindings: Vec<String>,
    },
    /// A slice reaches past its operand.
    #[error("{node} (slice): axis {axis} of extent {extent} does not hold positions {start} to {last}")]
    Slice {
        /// The node.
        node: NodeId,
        /// The axis of the operand.
        axis: usize,
        /// Its extent.
        extent: i64,
        /// The first position.
        start: i64,
        /// The last position.
        last: i128,
    },
    /// An expression has no value.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

/// Prints ` with T = 3 (from `x`)`, or nothing.
struct Bindings<'a>(&'a [String]);

impl fmt::Display for Bindings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " with {}", self.0.join(", ")) }
    }
}

/// Finds the value of every symbol of `graph` from the element types and extents of all its inputs, in
/// order, and from `explicit` values.
///
/// A dimension that is linear in one symbol without a value (`T`, `4*H`, `T + 1`, `T*B` once `B` is known)
/// gives that symbol its value; then every dimension is checked.
///
/// # Errors
/// Where an input does not fit its declared type, a symbol has no or a negative value, an explicit one is not
/// in the graph, or an extent or slice inside the graph is impossible at these values.
pub fn bind_dims(
    graph: &Graph,
    inputs: &[(DType, &[usize])],
    explicit: &DimEnv,
) -> Result<DimEnv, BindError> {
    let given: Vec<_> = inputs.iter().map(|i| Some(*i)).collect();
    bind_given_dims(graph, &given, explicit)
}

/// As [`bind_dims`], where some inputs are not there yet (`None`): those that are must determine every
/// symbol, and [`concrete_shape`] then says what shapes the others need.
///
/// # Errors
/// As [`bind_dims`].
pub fn bind_given_dims(
    graph: &Graph,
    inputs: &[Option<(DType, &[usize])>],
    explicit: &DimEnv,
) -> Result<DimEnv, BindError> {
    if inputs.len() != graph.inputs().len() {
        let names: Vec<_> = graph.inputs().iter().map(|i| i.name.as_str()).collect();
        return Err(BindError::Count {
            graph: graph.name().into(),
            expected: names.len(),
            names: names.join(", "),
            got: inputs.len(),
        });
    }
    let symbols = symbols(graph);
    let mut binder = Binder::default();
    for (symbol, value) in explicit.iter() {
        check_explicit(graph, &symbols, symbol, value)?;
        binder.set(symbol.clone(), value, "--dim");
    }
    let given = || {
        let pairs = graph.inputs().iter().zip(inputs);
        pairs.filter_map(|(input, given)| given.map(|g| (input.name.as_str(), graph.ty(input.value), g)))
    };
    // Each pass binds at least one more symbol, so there are at most as many passes as symbols.
    loop {
        let mut progress = false;
        for (name, ty, got) in given() {
            progress |= binder.solve_input(name, ty, got)?;
        }
        if !progress {
            break;
        }
    }
    if let Some(symbol) = symbols.iter().find(|s| binder.dims.get(s).is_none()) {
        return Err(BindError::Unbound { symbol: symbol.clone() });
    }
    for (name, ty, got) in given() {
        binder.check_input(name, ty, got)?;
    }
    check_graph(graph, &binder.dims)?;
    Ok(binder.dims)
}

/// The extents of a shape at these values of the symbols.
///
/// # Errors
/// Where a symbol has no value or an extent is negative.
pub fn concrete_shape(shape: &[Dim], dims: &DimEnv) -> Result<Vec<usize>, BindError> {
    shape.iter().map(|d| nonnegative(d, dims, || format!("an extent of {}", ShapeText(shape)))).collect()
}

fn check_explicit(
    graph: &Graph,
    symbols: &BTreeSet<Symbol>,
    symbol: &Symbol,
    value: i64,
) -> Result<(), BindError> {
    if !symbols.contains(symbol) {
        let known: Vec<_> = symbols.iter().map(Symbol::name).collect();
        let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
        return Err(BindError::Unknown { graph: graph.name().into(), symbol: symbol.clone(), known });
    }
    if value < 0 {
        return Err(BindError::Negative { symbol: symbol.clone(), value });
    }
    Ok(())
}

/// The symbols of types and attributes, those of scan bodies too.
fn symbols(graph: &Graph) -> BTreeSet<Symbol> {
    let mut out = graph.symbols();
    for (_, node) in graph.nodes() {
        match &node.op {
            Op::Slice { axes } => out.extend(axes.iter().flat_map(|a| a.start.symbols())),
            Op::Pad { low, high, .. } => out.extend(low.iter().chain(high).flat_map(Dim::symbols)),
            Op::Scan(scan) => out.extend(symbols(&scan.body)),
            Op::Constant { .. }
            | Op::Iota { .. }
            | Op::Scalar(_)
            | Op::Cast { .. }
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Concat { .. }
            | Op::Reverse { .. }
            | Op::Gather { .. }
            | Op::Reduce { .. }
            | Op::Contract { .. } => {}
        }
    }
    out
}

/// What a dimension with a known value says about the symbols.
#[derive(Debug, PartialEq)]
enum Solution {
    /// Nothing to find, or not yet.
    Undetermined,
    /// The symbol must have this value.
    Value(Symbol, i64),
    /// No value of the symbol fits.
    Impossible,
}

/// Symbols bound so far, with their origins.
#[derive(Default)]
struct Binder {
    dims: DimEnv,
    origins: BTreeMap<Symbol, String>,
}

impl Binder {
    fn set(&mut self, symbol: Symbol, value: i64, origin: impl Into<String>) {
        self.origins.insert(symbol.clone(), origin.into());
        self.dims.set(symbol, value);
    }

    /// Binds what one input determines; whether that was anything.
    fn solve_input(
        &mut self,
        name: &str,
        ty: &TensorType,
        got: (DType, &[usize]),
    ) -> Result<bool, BindError> {
        if ty.dtype != got.0 || ty.rank() != got.1.len() {
            return Err(self.mismatch(name, ty, got));
        }
        let mut progress = false;
        for (dim, extent) in ty.shape.iter().zip(got.1) {
            let extent = i64::try_from(*extent).map_err(|_| self.mismatch(name, ty, got))?;
            match self.solve(dim, extent)? {
                Solution::Undetermined => {}
                Solution::Impossible => return Err(self.mismatch(name, ty, got)),
                Solution::Value(symbol, value) => {
                    self.set(symbol, value, format!("`{name}`"));
                    progress = true;
                }
            }
        }
        Ok(progress)
    }

    /// Solves `dim = value` where it is linear in exactly one unbound symbol.
    fn solve(&self, dim: &Dim, value: i64) -> Result<Solution, BindError> {
        let overflow = || BindError::Eval(EvalError::Overflow(dim.to_string()));
        let mut unknown: Option<&Symbol> = None;
        let (mut slope, mut constant) = (0i128, 0i128);
        for (factors, coefficient) in dim.terms() {
            let mut product = i128::from(coefficient);
            let mut here = 0;
            for atom in factors {
                match atom {
                    Atom::Symbol(s) if self.dims.get(s).is_none() => {
                        if unknown.is_some_and(|u| u != s) {
                            return Ok(Solution::Undetermined);
                        }
                        (unknown, here) = (Some(s), here + 1);
                    }
                    known => match Dim::atom(known.clone()).eval_dim(&self.dims) {
                        Ok(v) => product = product.checked_mul(i128::from(v)).ok_or_else(overflow)?,
                        Err(EvalError::Unbound(_)) => return Ok(Solution::Undetermined),
                        Err(e) => return Err(e.into()),
                    },
                }
            }
            let sum = match here {
                0 => &mut constant,
                1 => &mut slope,
                _ => return Ok(Solution::Undetermined),
            };
            *sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        let Some(symbol) = unknown.filter(|_| slope != 0) else { return Ok(Solution::Undetermined) };
        let rest = i128::from(value).checked_sub(constant).ok_or_else(overflow)?;
        match i64::try_from(rest / slope) {
            Ok(solved) if rest % slope == 0 && solved >= 0 => Ok(Solution::Value(symbol.clone(), solved)),
            _ => Ok(Solution::Impossible),
        }
    }

    fn check_input(&self, name: &str, ty: &TensorType, got: (DType, &[usize])) -> Result<(), BindError> {
        for (dim, extent) in ty.shape.iter().zip(got.1) {
            if usize::try_from(dim.eval_dim(&self.dims)?) != Ok(*extent) {
                return Err(self.mismatch(name, ty, got));
            }
        }
        Ok(())
    }

    fn mismatch(&self, name: &str, ty: &TensorType, (dtype, shape): (DType, &[usize])) -> BindError {
        let symbols: BTreeSet<Symbol> = ty.shape.iter().flat_map(Dim::symbols).collect();
        let own = format!("`{name}`");
        // What this input itself gave is in its shape already, unless nothing else explains the mismatch.
        let bound = |skip_own: bool| -> Vec<String> {
            let entry = |s: &Symbol| {
                let (value, origin) = (self.dims.get(s)?, self.origins.get(s)?);
                (!skip_own || *origin != own).then(|| format!("{s} = {value} (from {origin})"))
            };
            symbols.iter().filter_map(entry).collect()
        };
        let mut bindings = bound(true);
        if bindings.is_empty() && dtype == ty.dtype && shape.len() == ty.rank() {
            bindings = bound(false);
        }
        let got = format!("{dtype}{shape:?}");
        BindError::Input { input: name.into(), got, expected: ty.clone(), bindings }
    }
}

fn values_of(dim: &Dim, dims: &DimEnv) -> Vec<String> {
    dim.symbols().iter().filter_map(|s| Some(format!("{s} = {}", dims.get(s)?))).collect()
}

fn nonnegative(dim: &Dim, dims: &DimEnv, what: impl Fn() -> String) -> Result<usize, BindError> {
    let value = dim.eval_dim(dims)?;
    usize::try_from(value).map_err(|_| BindError::NegativeExtent {
        what: what(),
        expression: dim.to_string(),
        value,
        bindings: values_of(dim, dims),
    })
}

/// Checks every extent, padding, trip and slice of a graph at these values.
fn check_graph(graph: &Graph, dims: &DimEnv) -> Result<(), BindError> {
    for (id, value) in graph.values() {
        for (axis, dim) in value.ty.shape.iter().enumerate() {
            nonnegative(dim, dims, || format!("axis {axis} of {id}: {}", value.ty))?;
        }
    }
    for (id, node) in graph.nodes() {
        match &node.op {
            Op::Slice { axes } => check_slice(id, axes, &graph.ty(node.operands[0]).shape, dims)?,
            Op::Pad { low, high, .. } => {
                for dim in low.iter().chain(high) {
                    nonnegative(dim, dims, || format!("the padding of {id}"))?;
                }
            }
            Op::Scan(scan) => {
                let trip = nonnegative(&scan.trip, dims, || format!("the number of steps of {id}"))?;
                // The body of a loop that never runs need not make sense: `x[T - 1]` with T = 0.
                if trip > 0 {
                    check_graph(&scan.body, dims)?;
                }
            }
            Op::Constant { .. }
            | Op::Iota { .. }
            | Op::Scalar(_)
            | Op::Cast { .. }
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Concat { .. }
            | Op::Reverse { .. }
            | Op::Gather { .. }
            | Op::Reduce { .. }
            | Op::Contract { .. } => {}
        }
    }
    Ok(())
}

fn check_slice(node: NodeId, axes: &[SliceAxis], operand: &Shape, dims: &DimEnv) -> Result<(), BindError> {
    for (i, (axis, extent)) in axes.iter().zip(operand).enumerate() {
        let length = axis.length.eval_dim(dims)?;
        if length == 0 {
            continue;
        }
        let start = axis.start.eval_dim(dims)?;
        nonnegative(&axis.start, dims, || format!("the first position of {node} (slice) along axis {i}"))?;
        let extent = extent.eval_dim(dims)?;
        let last = i128::from(start) + (i128::from(length) - 1) * i128::from(axis.step);
        if last >= i128::from(extent) {
            return Err(BindError::Slice { node, axis: i, extent, start, last });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::InputKind;

    fn graph(inputs: &[(&str, &[Dim])]) -> Graph {
        let mut graph = Graph::new("g");
        for (name, shape) in inputs {
            graph.add_input(*name, InputKind::Input, TensorType::new(DType::F32, shape.to_vec()));
        }
        graph
    }

    fn s(name: &str) -> Dim {
        Dim::symbol(name)
    }

    fn bind(graph: &Graph, shapes: &[&[usize]], explicit: DimEnv) -> Result<DimEnv, String> {
        let inputs: Vec<_> = shapes.iter().map(|shape| (DType::F32, *shape)).collect();
        bind_dims(graph, &inputs, &explicit).map_err(|e| e.to_string())
    }

    #[test]
    fn plain_and_linear_dimensions_bind_whatever_the_order() {
        let g = graph(&[
            ("flat", &[s("T") * s("B") + s("T")]),
            ("w", &[Dim::constant(4) * s("H"), s("T") + Dim::constant(1)]),
            ("h", &[s("B")]),
        ]);
        let dims = bind(&g, &[&[18], &[64, 7], &[2]], DimEnv::new());
        assert_eq!(dims, Ok(DimEnv::new().with("B", 2).with("H", 16).with("T", 6)));
    }

    #[test]
    fn a_mismatch_names_the_input_both_types_and_where_the_value_came_from() {
        let g = graph(&[("h0", &[s("B")]), ("x", &[s("T"), s("B"), Dim::constant(64)])]);
        assert_eq!(
            bind(&g, &[&[2], &[3, 4]], DimEnv::new()).unwrap_err(),
            "input `x` is f32[3, 4], expected f32[T, B, 64] with B = 2 (from `h0`)"
        );
        assert_eq!(
            bind(&g, &[&[2], &[3, 5, 64]], DimEnv::new()).unwrap_err(),
            "input `x` is f32[3, 5, 64], expected f32[T, B, 64] with B = 2 (from `h0`)"
        );
        assert_eq!(
            bind(&g, &[&[2], &[3, 2, 64]], DimEnv::new().with("T", 4)).unwrap_err(),
            "input `x` is f32[3, 2, 64], expected f32[T, B, 64] with B = 2 (from `h0`), T = 4 (from --dim)"
        );
        let square = graph(&[("a", &[s("N"), s("N")])]);
        assert_eq!(
            bind(&square, &[&[2, 3]], DimEnv::new()).unwrap_err(),
            "input `a` is f32[2, 3], expected f32[N, N] with N = 2 (from `a`)"
        );
    }

    #[test]
    fn element_types_and_numbers_of_inputs_must_agree() {
        let g = graph(&[("x", &[s("T")]), ("y", &[s("T")])]);
        assert_eq!(bind(&g, &[&[2]], DimEnv::new()).unwrap_err(), "`g` takes 2 inputs (x, y), got 1");
        let e = bind_dims(&g, &[(DType::F64, &[2]), (DType::F32, &[2])], &DimEnv::new()).unwrap_err();
        assert_eq!(e.to_string(), "input `x` is f64[2], expected f32[T]");
    }

    #[test]
    fn what_has_no_solution_is_refused() {
        let g = graph(&[("w", &[Dim::constant(4) * s("H")])]);
        assert_eq!(bind(&g, &[&[6]], DimEnv::new()).unwrap_err(), "input `w` is f32[6], expected f32[4*H]");
        let g = graph(&[("w", &[s("T") + Dim::constant(3)])]);
        assert_eq!(bind(&g, &[&[2]], DimEnv::new()).unwrap_err(), "input `w` is f32[2], expected f32[T + 3]");
    }

    #[test]
    fn unbound_unknown_and_negative_symbols_are_named() {
        let g = graph(&[("x", &[s("T") * s("B")])]);
        assert_eq!(
            bind(&g, &[&[6]], DimEnv::new()).unwrap_err(),
            "dimension `B` follows from no input; give it with --dim B=…"
        );
        assert_eq!(
            bind(&g, &[&[6]], DimEnv::new().with("B", 2)),
            Ok(DimEnv::new().with("B", 2).with("T", 3))
        );
        assert_eq!(
            bind(&g, &[&[6]], DimEnv::new().with("Q", 2)).unwrap_err(),
            "`g` has no dimension `Q`; it has B, T"
        );
        assert_eq!(
            bind(&g, &[&[6]], DimEnv::new().with("T", -1)).unwrap_err(),
            "dimension `T` is -1; it must be at least 0"
        );
    }

    #[test]
    fn slices_and_extents_inside_the_graph_are_checked() {
        let mut g = graph(&[("x", &[s("T")])]);
        let x = g.inputs()[0].value;
        let last = SliceAxis { start: s("T") - Dim::constant(1), length: Dim::constant(1), step: 1 };
        g.add_node(Op::Slice { axes: vec![last] }, &[x], None).unwrap();
        assert!(bind(&g, &[&[1]], DimEnv::new()).is_ok());
        assert_eq!(
            bind(&g, &[&[0]], DimEnv::new()).unwrap_err(),
            "the first position of node0 (slice) along axis 0 is T - 1 = -1 with T = 0, but must be at least 0"
        );
        let mut g = graph(&[("x", &[s("T")]), ("n", &[s("N")])]);
        let x = g.inputs()[0].value;
        let prefix = SliceAxis { start: Dim::constant(0), length: s("N"), step: 2 };
        g.add_node(Op::Slice { axes: vec![prefix] }, &[x], None).unwrap();
        assert!(bind(&g, &[&[5], &[3]], DimEnv::new()).is_ok());
        assert_eq!(
            bind(&g, &[&[4], &[3]], DimEnv::new()).unwrap_err(),
            "node0 (slice): axis 0 of extent 4 does not hold positions 0 to 4"
        );
    }

    #[test]
    fn missing_inputs_take_their_shapes_from_the_others() {
        let g = graph(&[("x", &[s("T"), s("H")]), ("w", &[Dim::constant(4) * s("H")])]);
        let w: (DType, &[usize]) = (DType::F32, &[8]);
        let dims = bind_given_dims(&g, &[None, Some(w)], &DimEnv::new().with("T", 3)).unwrap();
        assert_eq!(concrete_shape(&g.ty(g.inputs()[0].value).shape, &dims), Ok(vec![3, 2]));
    }
}
