//! What the values are that a `Loop` carries, and how many steps it has. Found out by attempts at its body, which the
//! trace forgets.

use std::collections::BTreeMap;
use std::rc::Rc;

use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::{DType, Dim, TensorType};

use super::super::super::call::Call;
use super::super::super::error::{Built, refuse};
use super::super::super::value::{DimTensor, Value, step_symbol};
use super::repeat::{Loop, appended, carried_sequence, known_true};
use super::{run, same_type};
use crate::tensor::Origin;

/// What a carried value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carry {
    /// A state of the scan.
    Tensor,
    /// No step changes it.
    Invariant,
    /// An integer to which each step adds a number.
    Counter(i64),
    /// A sequence to which each step appends one tensor.
    Sequence,
}

/// How many steps a loop has.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Steps {
    /// Exactly so many.
    Counted(Dim),
    /// So many, unless its condition ends it before.
    AtMost(Dim),
}

/// How a loop is a scan.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// What each carried value is.
    pub(super) carries: Vec<Carry>,
    /// The number of its steps.
    pub(super) steps: Steps,
}

/// What a step is taken to leave of a carried value, until an attempt shows otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Guess {
    /// A number that is counted.
    Counter,
    /// Anything of its type.
    Tensor,
    /// The value itself.
    Invariant,
    /// A longer sequence.
    Sequence,
}

impl Plan {
    /// Looks for a plan: guesses what the carried values are, and guesses again as long as a step shows otherwise.
    pub(super) fn of(call: &Call<'_>, of: &Loop<'_>) -> Built<Plan> {
        let mut guesses: Vec<Guess> = of.initial.iter().map(first_guess).collect();
        // Each attempt settles one value at least, a counter in two: not counted, then a state or an invariant.
        for _ in 0..2 * guesses.len() + 2 {
            let attempt = call.trace().speculate(|| attempt(call, of, &guesses))?;
            match attempt {
                Attempt::Again(better) => guesses = better,
                Attempt::Done { carries, goes_on } => {
                    let steps = steps(of, &carries, &goes_on)?;
                    return Ok(Plan { carries, steps });
                }
            }
        }
        refuse("what its steps carry does not settle")
    }
}

fn first_guess(value: &Value) -> Guess {
    let is_count = |dtype| matches!(dtype, DType::I32 | DType::I64);
    match value {
        Value::Sequence(_) => Guess::Sequence,
        Value::Known(constant) if is_count(value.dtype()) && constant.tensor.elements() == 1 => {
            Guess::Counter
        }
        Value::Dims(tensor) if is_count(tensor.dtype) && tensor.dims.len() == 1 => Guess::Counter,
        Value::Known(_) | Value::Dims(_) | Value::Traced(_) => Guess::Tensor,
    }
}

/// What an attempt at the body shows.
enum Attempt {
    /// The guesses were wrong; these are better.
    Again(Vec<Guess>),
    /// They were right.
    Done {
        carries: Vec<Carry>,
        /// The condition after the step.
        goes_on: Condition,
    },
}

/// The condition after a step.
enum Condition {
    /// Positive where the loop goes on after step `step`.
    Dims {
        /// The expression.
        positive: Dim,
        /// The number of the step in it.
        step: Symbol,
    },
    /// Known only when the model runs.
    Traced,
}

/// Runs the body once on what the guesses make of its inputs.
fn attempt(call: &Call<'_>, of: &Loop<'_>, guesses: &[Guess]) -> Built<Attempt> {
    let step = step_symbol(call.importer.steps.borrow().len());
    let number = call.trace().step_input(TensorType::scalar(DType::I64));
    call.importer.steps.borrow_mut().insert(step.clone(), number.clone());
    let counter = |i: usize| Symbol::new(format!("count{i}#{}", step.name()));
    let mut counters = Vec::new();
    let scalar = |symbol: &Symbol, shape: &[usize], dtype| {
        let dims = vec![Dim::symbol(symbol.name())];
        Value::Dims(Rc::new(DimTensor { shape: shape.to_vec(), dims, dtype }))
    };
    let mut inputs = vec![scalar(&step, &[], DType::I64), known_true()];
    for (i, (value, guess)) in of.initial.iter().zip(guesses).enumerate() {
        let ty = TensorType::new(value.dtype(), value.shape());
        inputs.push(match guess {
            Guess::Counter => {
                let symbol = counter(i);
                let stand_in = call.trace().step_input(TensorType::scalar(value.dtype()));
                call.importer.steps.borrow_mut().insert(symbol.clone(), stand_in);
                counters.push(symbol.clone());
                scalar(&symbol, &vec![1; value.rank()], value.dtype())
            }
            Guess::Tensor => call.trace().step_input(ty).into(),
            Guess::Invariant => value.clone(),
            Guess::Sequence => carried_sequence(i),
        });
    }
    let results = run(call, of.body, &inputs);
    for symbol in counters.iter().chain([&step]) {
        call.importer.steps.borrow_mut().remove(symbol);
    }
    judge(call, of, guesses, &inputs[2..], &results?, (&step, &counter))
}

/// Compares what a step returned with the guesses.
fn judge(
    call: &Call<'_>,
    of: &Loop<'_>,
    guesses: &[Guess],
    inputs: &[Value],
    results: &[Value],
    (step, counter): (&Symbol, &dyn Fn(usize) -> Symbol),
) -> Built<Attempt> {
    let mut carries = Vec::with_capacity(guesses.len());
    let mut better = guesses.to_vec();
    let mut counts = BTreeMap::new();
    for (i, ((guess, input), result)) in guesses.iter().zip(inputs).zip(&results[1..]).enumerate() {
        carries.push(match guess {
            Guess::Sequence => {
                appended(call, i, result)?;
                Carry::Sequence
            }
            Guess::Invariant => Carry::Invariant,
            Guess::Counter => match added(&counter(i), result) {
                Some(0) => {
                    better[i] = Guess::Invariant;
                    Carry::Invariant
                }
                Some(by) => {
                    counts.insert(counter(i), (i, by));
                    Carry::Counter(by)
                }
                None => {
                    better[i] = Guess::Tensor;
                    Carry::Tensor
                }
            },
            Guess::Tensor if is_same(input, result) => {
                better[i] = Guess::Invariant;
                Carry::Invariant
            }
            Guess::Tensor => {
                same_type(call, input, result)?;
                Carry::Tensor
            }
        });
    }
    let traced = of.conditional && matches!(results[0], Value::Traced(_) | Value::Sequence(_));
    for (carry, guess) in carries.iter().zip(&mut better) {
        // A counter that stops with the loop is a state like others.
        if traced && matches!(carry, Carry::Counter(_)) {
            *guess = Guess::Tensor;
        }
    }
    if better != guesses {
        return Ok(Attempt::Again(better));
    }
    let goes_on = match &results[0] {
        _ if !of.conditional => Condition::Dims { positive: Dim::constant(1), step: step.clone() },
        Value::Dims(tensor) if tensor.dims.len() == 1 => {
            let positive = tensor.dims[0].substitute(&|atom| match atom {
                Atom::Symbol(symbol) => counts.get(symbol).and_then(|(i, by)| {
                    let start = start_of(&of.initial[*i])?;
                    Some(start + Dim::constant(*by) * Dim::symbol(step.name()))
                }),
                _ => None,
            });
            Condition::Dims { positive, step: step.clone() }
        }
        other => match other.as_known().and_then(|c| c.get(0)) {
            Some(known) => Condition::Dims { positive: Dim::constant(known.as_i64()), step: step.clone() },
            None => Condition::Traced,
        },
    };
    Ok(Attempt::Done { carries, goes_on })
}

/// The number that a carried integer begins with.
fn start_of(value: &Value) -> Option<Dim> {
    match value {
        Value::Dims(tensor) => tensor.dims.first().cloned(),
        Value::Known(constant) => Some(Dim::constant(constant.tensor.get(0)?.as_i64())),
        Value::Traced(_) | Value::Sequence(_) => None,
    }
}

/// What a step has added to a counter.
fn added(counter: &Symbol, result: &Value) -> Option<i64> {
    match result {
        Value::Dims(tensor) if tensor.dims.len() == 1 => {
            (tensor.dims[0].clone() - Dim::symbol(counter.name())).as_constant()
        }
        _ => None,
    }
}

/// Whether a step returned what it got.
fn is_same(input: &Value, result: &Value) -> bool {
    match (input, result) {
        (Value::Traced(a), Value::Traced(b)) => a.origin == b.origin && a.origin != Origin::Poisoned,
        _ => false,
    }
}

/// The number of steps, from the trip count and the conditions before and after each step.
fn steps(of: &Loop<'_>, carries: &[Carry], goes_on: &Condition) -> Built<Steps> {
    let Condition::Dims { positive, step } = goes_on else {
        let stacks = of.scan_outputs() > 0 || carries.contains(&Carry::Sequence);
        return match (&of.trip, of.enters.as_constant()) {
            _ if stacks => refuse("its condition depends on data, so that the length of what it stacks does"),
            (Some(trip), Some(c)) if c > 0 => Ok(Steps::AtMost(trip.clone())),
            (Some(_), _) => refuse("whether it begins must be known, as its condition depends on data"),
            (None, _) => {
                refuse("it has no trip count, and its condition depends on data; give it a trip count")
            }
        };
    };
    if of.enters.as_constant().is_some_and(|c| c <= 0) {
        return Ok(Steps::Counted(Dim::constant(0)));
    }
    let conditions = conjuncts(positive).into_iter().map(|c| Line::of(&c, step)).collect::<Option<Vec<_>>>();
    let Some(conditions) = conditions else {
        return refuse("its condition is not one of a counter against a bound");
    };
    match &of.trip {
        Some(trip) => all_run(of, trip, &conditions),
        None => counted_by_condition(of, &conditions),
    }
}

/// A condition that holds after step `i` where `offset - slope * i` is positive.
struct Line {
    offset: Dim,
    /// Not negative.
    slope: i64,
}

impl Line {
    fn of(condition: &Dim, step: &Symbol) -> Option<Line> {
        let at = |i: i64| {
            condition.substitute(&|atom| match atom {
                Atom::Symbol(symbol) if symbol == step => Some(Dim::constant(i)),
                _ => None,
            })
        };
        let slope = (at(0) - at(1)).as_constant()?;
        let is_line = slope >= 0 && (at(1) - at(2)).as_constant() == Some(slope);
        is_line.then(|| Line { offset: at(0), slope })
    }
}

/// What must all be positive for an expression to be.
fn conjuncts(positive: &Dim) -> Vec<Dim> {
    let terms: Vec<_> = positive.terms().collect();
    match &terms[..] {
        [([Atom::Min(a, b)], 1)] => [conjuncts(a), conjuncts(b)].concat(),
        _ => vec![positive.clone()],
    }
}

fn nonnegative(dim: &Dim) -> bool {
    dim.is_nonnegative(&[])
}

/// All steps of the trip count, if no condition ends the loop before: where there is a step at all, the conditions
/// hold before the first one and after each but the last.
fn all_run(of: &Loop<'_>, trip: &Dim, conditions: &[Line]) -> Built<Steps> {
    let one = Dim::constant(1);
    // Where there is a step, the trip count is positive, and what is no less than it is positive too.
    let positive =
        |d: &Dim| nonnegative(&(d.clone() - one.clone())) || nonnegative(&(d.clone() - trip.clone()));
    let begins = conjuncts(&of.enters).iter().all(positive);
    let holds = |line: &Line| {
        let last = trip.clone() - Dim::constant(2);
        let least = line.offset.clone() - Dim::constant(line.slope) * last - one.clone();
        if line.slope == 0 { positive(&line.offset) } else { nonnegative(&least) }
    };
    if begins && conditions.iter().all(holds) {
        return Ok(Steps::Counted(trip.clone()));
    }
    let constants =
        conditions.iter().find(|l| l.slope == 0 && l.offset.as_constant().is_some_and(|c| c <= 0));
    match (constants, of.enters.as_constant()) {
        // It is false after the first step.
        (Some(_), Some(c)) if c > 0 => Ok(Steps::Counted(trip.minimum(&one))),
        _ => refuse("its condition may end it before its trip count"),
    }
}

/// The steps of a loop without a trip count, which one condition counts down.
fn counted_by_condition(of: &Loop<'_>, conditions: &[Line]) -> Built<Steps> {
    let counting: Vec<&Line> = conditions.iter().filter(|l| l.slope > 0).collect();
    let others_hold = conditions.iter().filter(|l| l.slope == 0).all(|l| {
        let begins = conjuncts(&of.enters);
        l.offset.as_constant().is_some_and(|c| c > 0) || begins.contains(&l.offset)
    });
    let [line] = counting[..] else {
        return refuse("it has no trip count, and its condition does not count its steps");
    };
    // It fails first after step `offset / slope`, which is the last one.
    let trip = line.offset.ceil_div(&Dim::constant(line.slope)) + Dim::constant(1);
    let begins = conjuncts(&of.enters).iter().all(|d| {
        // The first step runs where any is counted, and only there.
        *d == trip || d.as_constant().is_some_and(|c| c > 0)
    });
    let only_where_counted = conjuncts(&of.enters).contains(&trip) || nonnegative(&line.offset);
    match line.slope == 1 && begins && others_hold && only_where_counted {
        true => Ok(Steps::Counted(trip)),
        false => refuse("it has no trip count, and its condition does not count its steps"),
    }
}
