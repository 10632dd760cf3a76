//! A trace in progress: the graph being built, one level for each open scan body, and the first error.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::panic::Location;
use std::rc::Rc;

use fuse_ir::graph::{Definition, SourceLocation};
use fuse_ir::infer::InferError;
use fuse_ir::limits::{MAX_OPERANDS, type_problem};
use fuse_ir::{DType, Dim, Graph, InputKind, Literal, Op, TensorType, ValueId};
use smallvec::SmallVec;

use crate::error::{ErrorKind, Fault, TraceError, argument};
use crate::shape::is_identifier;
use crate::tensor::{Origin, Tensor};
use crate::tensor_list::TensorList;

/// A place in the traced program.
pub(crate) type Place = &'static Location<'static>;

/// Identifies a graph under construction: the program's or a scan body's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LevelId(u32);

/// A graph under construction.
pub(crate) struct Level {
    pub(crate) id: LevelId,
    pub(crate) graph: Graph,
    /// Values of the enclosing level used here, and the inputs that stand for them.
    pub(crate) captures: Vec<(ValueId, ValueId)>,
    /// The inputs that stand for values of the enclosing level.
    captured: HashMap<ValueId, ValueId>,
    /// The names of the inputs, each with the number that a name made from it got last.
    names: HashMap<String, usize>,
    /// The names of the outputs.
    output_names: HashSet<String>,
}

impl Level {
    fn new(id: LevelId, name: &str) -> Self {
        Level {
            id,
            graph: Graph::new(name),
            captures: Vec::new(),
            captured: HashMap::new(),
            names: HashMap::new(),
            output_names: HashSet::new(),
        }
    }

    /// Adds an input, whose name must be printable and new.
    pub(crate) fn named_input(
        &mut self,
        name: &str,
        kind: InputKind,
        ty: TensorType,
    ) -> Result<ValueId, Fault> {
        check_name(name, self.names.contains_key(name))?;
        self.names.insert(name.to_owned(), 0);
        Ok(self.graph.add_input(name, kind, ty))
    }

    /// Adds an output, whose name must be printable and new.
    pub(crate) fn named_output(&mut self, name: &str, value: ValueId) -> Result<(), Fault> {
        check_name(name, self.output_names.contains(name))?;
        self.output_names.insert(name.to_owned());
        self.graph.add_output(name, value);
        Ok(())
    }

    /// A name for an input, made from `base` by a number if that is taken.
    fn free_name(&mut self, base: &str) -> String {
        let Some(mut count) = self.names.get(base).copied() else { return base.to_owned() };
        loop {
            count += 1;
            let name = format!("{base}_{count}");
            if !self.names.contains_key(&name) {
                self.names.insert(base.to_owned(), count);
                return name;
            }
        }
    }
}

fn check_name(name: &str, taken: bool) -> Result<(), Fault> {
    let problem = if name.is_empty() || name.chars().any(char::is_control) {
        "must be printable and not empty"
    } else if taken {
        "is already taken"
    } else {
        return Ok(());
    };
    Err(ErrorKind::Name { name: name.into(), problem }.into())
}

/// A library operation that is running: its name and the caller's place.
struct Scope {
    operation: &'static str,
    place: Place,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) levels: Vec<Level>,
    next_level: u32,
    scopes: Vec<Scope>,
    scan_depth: usize,
    error: Option<TraceError>,
    /// Made for an operation without operands, so without a trace.
    detached: bool,
}

/// A trace in progress; the argument of the closure given to [`trace`]. Cloning it is cheap and refers to
/// the same trace.
#[derive(Clone)]
pub struct Trace(pub(crate) Rc<RefCell<State>>);

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trace")
    }
}

/// Runs `program` once and returns the graph of what it computed. `name`, an identifier, becomes the graph's.
///
/// The graph has the inputs and parameters that the program declared and the outputs that it named, in that
/// order. Traces may nest, but tensors of one do not mix with those of another.
///
/// # Errors
/// The first mistake of the program, even where the program went on; see the crate's documentation.
#[track_caller]
pub fn trace(name: &str, program: impl FnOnce(&Trace)) -> Result<Graph, TraceError> {
    let place = Location::caller();
    let fail =
        |kind: ErrorKind| TraceError { operation: "trace".into(), kind: Box::new(kind), location: place };
    if !is_identifier(name) {
        return Err(fail(ErrorKind::Name { name: name.into(), problem: "is no identifier" }));
    }
    let trace = Trace(Rc::default());
    trace.push_level(name);
    program(&trace);
    // Handles that outlive the program find no level, and so cannot be used.
    let mut state = trace.0.borrow_mut();
    let levels = std::mem::take(&mut state.levels);
    if let Some(error) = state.error.take() {
        return Err(error);
    }
    let Some(level) = levels.into_iter().next().filter(|level| !level.graph.outputs().is_empty()) else {
        return Err(fail(ErrorKind::NoOutputs));
    };
    let graph = inputs_first(level.graph).map_err(|error| fail(ErrorKind::Infer(error)))?;
    fuse_ir::verify(&graph).map_err(|error| fail(ErrorKind::Invalid(error)))?;
    Ok(graph)
}

/// Building.
impl Trace {
    /// A constant of the dimension's value: a literal, or for a symbolic dimension the number of elements of a
    /// vector that long.
    pub(crate) fn dim_tensor(&self, dtype: DType, dim: &Dim) -> Result<Tensor, Fault> {
        match dim.as_constant() {
            Some(value) => self.apply(Op::Constant { value: Literal::from_i64(dtype, value) }, &[]),
            None => {
                let ones = self.filled(std::slice::from_ref(dim), Literal::from_i64(dtype, 1))?;
                self.apply(Op::Reduce { op: fuse_ir::ReduceOp::Sum, axes: vec![0] }, &[&ones])
            }
        }
    }

    /// A constant broadcast to `shape`.
    pub(crate) fn filled(&self, shape: &[Dim], value: Literal) -> Result<Tensor, Fault> {
        let scalar = self.apply(Op::Constant { value }, &[])?;
        if shape.is_empty() {
            return Ok(scalar);
        }
        self.apply(Op::Broadcast { shape: shape.to_vec(), axes: vec![] }, &[&scalar])
    }

    /// Applies an op with one result in the innermost level.
    pub(crate) fn apply(&self, op: Op, operands: &[&Tensor]) -> Result<Tensor, Fault> {
        self.apply_all(op, operands)?.into_iter().next().ok_or(Fault::Poisoned)
    }

    /// Applies an op in the innermost level.
    pub(crate) fn apply_all(&self, op: Op, operands: &[&Tensor]) -> Result<Vec<Tensor>, Fault> {
        let values = self.resolve(operands)?;
        self.apply_values(op, &values)
    }

    /// Applies an op to values of the innermost level.
    pub(crate) fn apply_values(&self, op: Op, values: &[ValueId]) -> Result<Vec<Tensor>, Fault> {
        let mut state = self.0.borrow_mut();
        let location = state.scopes.first().map(|s| SourceLocation(s.place));
        let Some(level) = state.levels.last_mut() else { return Err(Fault::Poisoned) };
        if values.len() > MAX_OPERANDS {
            return Err(argument("operands", values.len(), format!("at most {MAX_OPERANDS} are allowed")));
        }
        let results = level.graph.add_node(op, values, location)?;
        if let Some(problem) = results.iter().find_map(|value| type_problem(level.graph.ty(*value))) {
            return Err(argument("shape", "too large", problem));
        }
        let tensor = |value| {
            Tensor::new(self, Origin::Value { level: level.id, value }, level.graph.ty(value).clone())
        };
        Ok(results.into_iter().map(tensor).collect())
    }

    /// The values of the innermost level that stand for `operands`, captured through the levels between.
    pub(crate) fn resolve(&self, operands: &[&Tensor]) -> Result<SmallVec<[ValueId; 4]>, Fault> {
        self.check(operands)?;
        let mut state = self.0.borrow_mut();
        let mut values = SmallVec::new();
        for tensor in operands {
            let Origin::Value { level, value } = tensor.origin else { return Err(Fault::Poisoned) };
            let home = state.levels.iter().position(|l| l.id == level).ok_or(Fault::Poisoned)?;
            let mut value = value;
            for depth in home + 1..state.levels.len() {
                value = state.capture(depth, value);
            }
            values.push(value);
        }
        Ok(values)
    }

    /// Checks that the tensors are usable in the innermost level.
    pub(crate) fn check(&self, operands: &[&Tensor]) -> Result<(), Fault> {
        for (operand, tensor) in operands.iter().enumerate() {
            if !Rc::ptr_eq(&self.0, &tensor.trace().0) {
                return Err(self.foreign(operand, tensor));
            }
            let Origin::Value { level, .. } = tensor.origin else { return Err(Fault::Poisoned) };
            if !self.0.borrow().levels.iter().any(|l| l.id == level) {
                return Err(ErrorKind::Escaped { operand, ty: tensor.ty().clone() }.into());
            }
        }
        Ok(())
    }

    /// The fault of a tensor of another trace, which the other trace keeps too. Where one of the two is detached,
    /// its error is the one to tell.
    fn foreign(&self, operand: usize, tensor: &Tensor) -> Fault {
        let other = tensor.trace();
        if let Some(error) = other.detached_error() {
            return Fault::Kept(error);
        }
        let kind = ErrorKind::OtherTrace { operand, ty: tensor.ty().clone() };
        let own = self.0.borrow();
        let told = self.detached_error().or_else(|| {
            let location = own.scopes.first()?.place;
            Some(TraceError { operation: own.operation(), kind: Box::new(kind.clone()), location })
        });
        if let Some(error) = told {
            other.0.borrow_mut().error.get_or_insert(error);
        }
        kind.into()
    }

    fn detached_error(&self) -> Option<TraceError> {
        let state = self.0.borrow();
        state.error.clone().filter(|_| state.detached)
    }

    /// Runs one library operation: ops made within, and errors, are placed at the caller of the outermost
    /// such operation; a fault is kept, and poisoned tensors of the type `guess` take the place of the result.
    pub(crate) fn traced<R: TensorList>(
        &self,
        operation: &'static str,
        place: Place,
        guess: &TensorType,
        run: impl FnOnce() -> Result<R, Fault>,
    ) -> R {
        let result = self.attempt(operation, place, run);
        result.unwrap_or_else(|| R::filled_with(&Tensor::new(self, Origin::Poisoned, guess.clone())))
    }

    /// Like [`Trace::traced`], with `None` in place of a result after a fault.
    pub(crate) fn attempt<R>(
        &self,
        operation: &'static str,
        place: Place,
        run: impl FnOnce() -> Result<R, Fault>,
    ) -> Option<R> {
        self.0.borrow_mut().scopes.push(Scope { operation, place });
        let _scope = ScopeGuard(self);
        match run() {
            Ok(result) => return Some(result),
            Err(Fault::Poisoned) => {}
            Err(Fault::Error(kind)) => self.keep(operation, place, kind),
            Err(Fault::Kept(error)) => {
                self.0.borrow_mut().error.get_or_insert(error);
            }
        }
        None
    }

    fn keep(&self, operation: &'static str, place: Place, kind: Box<ErrorKind>) {
        let mut state = self.0.borrow_mut();
        let mut path = state.operation();
        if path.is_empty() {
            path = operation.into();
        }
        let location = state.scopes.first().map_or(place, |s| s.place);
        state.error.get_or_insert(TraceError { operation: path, kind, location });
    }

    /// A trace that only keeps the error of an operation which was given no tensor, until the result is used.
    #[track_caller]
    pub(crate) fn detached() -> Trace {
        Trace(Rc::new(RefCell::new(State { detached: true, ..State::default() })))
    }

    /// The name of the tensor, if it is an input of the program.
    pub(crate) fn input_name(&self, tensor: &Tensor) -> Option<String> {
        let Origin::Value { level, value } = tensor.origin else { return None };
        let state = self.0.borrow();
        let root = state.levels.first().filter(|root| root.id == level)?;
        root.graph.inputs().iter().find(|i| i.value == value).map(|i| i.name.clone())
    }
}

/// What has happened so far.
impl Trace {
    /// The first mistake, without the place in the program.
    pub(crate) fn failure(&self) -> Option<String> {
        self.0.borrow().error.as_ref().map(TraceError::message)
    }

    /// The names of the program's inputs that a tensor is computed from; `None` where it depends on the step of a
    /// scan that is open.
    pub(crate) fn inputs_behind(&self, tensor: &Tensor) -> Option<Vec<String>> {
        let Origin::Value { level, value } = tensor.origin else { return None };
        let state = self.0.borrow();
        let home = state.levels.iter().position(|l| l.id == level)?;
        let mut wanted = std::collections::BTreeSet::from([value]);
        for depth in (0..=home).rev() {
            let level = &state.levels[depth];
            let mut outer = std::collections::BTreeSet::new();
            while let Some(value) = wanted.pop_last() {
                match level.graph.value(value).definition {
                    Definition::Result(node, _) => wanted.extend(level.graph.node(node).operands.iter()),
                    Definition::Input(_) if depth == 0 => _ = outer.insert(value),
                    Definition::Input(_) => {
                        outer.insert(level.captures.iter().find(|(_, inner)| *inner == value)?.0);
                    }
                }
            }
            wanted = outer;
        }
        let inputs = state.levels[0].graph.inputs().iter();
        Some(
            inputs
                .filter(|i| i.kind == InputKind::Input && wanted.contains(&i.value))
                .map(|i| i.name.clone())
                .collect(),
        )
    }
}

/// Trying things out.
impl Trace {
    /// Runs `attempt` and forgets the ops that it traced and the mistakes that it made.
    pub(crate) fn speculate<R>(&self, attempt: impl FnOnce() -> R) -> R {
        let (depth, error) = {
            let state = self.0.borrow();
            (state.levels.len(), state.error.clone())
        };
        self.push_level("attempt");
        let result = attempt();
        let mut state = self.0.borrow_mut();
        state.levels.truncate(depth);
        state.error = error;
        result
    }

    /// An input of the innermost level, for an attempt.
    pub(crate) fn step_input(&self, ty: TensorType) -> Tensor {
        let count = self.0.borrow().levels.last().map_or(0, |level| level.graph.inputs().len());
        let input = self.add_level_input(&format!("step{count}"), ty.clone());
        input.unwrap_or_else(|_| Tensor::new(self, Origin::Poisoned, ty))
    }
}

/// Levels.
impl Trace {
    /// Opens a level: the ops that follow go to a new graph.
    pub(crate) fn push_level(&self, name: &str) {
        let mut state = self.0.borrow_mut();
        let id = LevelId(state.next_level);
        state.next_level += 1;
        state.levels.push(Level::new(id, name));
    }

    /// Adds an input to the innermost level.
    pub(crate) fn add_level_input(&self, name: &str, ty: TensorType) -> Result<Tensor, Fault> {
        let mut state = self.0.borrow_mut();
        let Some(level) = state.levels.last_mut() else { return Err(Fault::Poisoned) };
        let value = level.graph.add_input(name, InputKind::Input, ty.clone());
        level.names.insert(name.to_owned(), 0);
        Ok(Tensor::new(self, Origin::Value { level: level.id, value }, ty))
    }

    /// Closes the innermost level.
    pub(crate) fn pop_level(&self) -> Result<Level, Fault> {
        let mut state = self.0.borrow_mut();
        // The program's own level stays until the trace ends.
        if state.levels.len() < 2 {
            return Err(Fault::Poisoned);
        }
        state.levels.pop().ok_or(Fault::Poisoned)
    }

    /// Counts a scan body that starts to run and returns how many do.
    pub(crate) fn enter_scan(&self) -> usize {
        let mut state = self.0.borrow_mut();
        state.scan_depth += 1;
        state.scan_depth
    }

    /// Counts a scan body that ended.
    pub(crate) fn leave_scan(&self) {
        let mut state = self.0.borrow_mut();
        state.scan_depth = state.scan_depth.saturating_sub(1);
    }
}

impl State {
    /// The operations that are running, outermost first.
    fn operation(&self) -> String {
        let names: Vec<_> = self.scopes.iter().map(|s| s.operation).collect();
        names.join(": ")
    }

    /// The input of level `depth` that stands for a value of the level around it.
    fn capture(&mut self, depth: usize, outer: ValueId) -> ValueId {
        if let Some(inner) = self.levels[depth].captured.get(&outer) {
            return *inner;
        }
        let around = &self.levels[depth - 1].graph;
        let ty = around.ty(outer).clone();
        let base = match around.value(outer).definition {
            Definition::Input(i) => around.inputs()[i].name.as_str(),
            Definition::Result(..) => "captured",
        };
        let base = base.to_string();
        let level = &mut self.levels[depth];
        let name = level.free_name(&base);
        level.names.insert(name.clone(), 0);
        let inner = level.graph.add_input(name, InputKind::Input, ty);
        level.captures.push((outer, inner));
        level.captured.insert(outer, inner);
        inner
    }
}

/// The same graph with every input before the first node. Tracing adds inputs as it meets them.
pub(crate) fn inputs_first(graph: Graph) -> Result<Graph, InferError> {
    if graph.inputs().iter().enumerate().all(|(i, input)| input.value.index() == i) {
        return Ok(graph);
    }
    let mut ordered = Graph::new(graph.name());
    let mut renamed = vec![ValueId(0); graph.values().len()];
    for input in graph.inputs() {
        let ty = graph.ty(input.value).clone();
        renamed[input.value.index()] = ordered.add_input(input.name.as_str(), input.kind, ty);
    }
    for (_, node) in graph.nodes() {
        let operands: Vec<ValueId> = node.operands.iter().map(|v| renamed[v.index()]).collect();
        let results = ordered.add_node(node.op.clone(), &operands, node.location)?;
        for (old, new) in node.results.iter().zip(results) {
            renamed[old.index()] = new;
        }
    }
    for output in graph.outputs() {
        ordered.add_output(output.name.as_str(), renamed[output.value.index()]);
    }
    Ok(ordered)
}

/// Ends a scope, also when the traced program panics.
struct ScopeGuard<'a>(&'a Trace);

impl Drop for ScopeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.borrow_mut().scopes.pop();
    }
}
