//! Multiply-adds that follow each other, with the loads from shared arrays that feed them.
//!
//! The sums of a tile take hundreds of them a step, more than all else in a kernel. A compiler behind the emitter finds
//! nothing to improve there, but takes most of its time to see that. So what such a piece does is described in registers,
//! for a target that can write it down as it is ([`crate::scalar::ScalarBuilder::straight`]).

use rustc_hash::FxHashMap;

use crate::divisors::Divisors;
use crate::kernel_ir::{BinaryOp, Function, LaneType, Operation, SharedId, Statement, Type, ValueId};

/// Multiply-adds that are worth it.
const ENOUGH: usize = 64;

/// What is multiplied and added.
const FLOAT: Type = Type { lane: LaneType::F32, lanes: 1 };

/// How positions are computed.
const INDEX: Type = Type { lane: LaneType::I64, lanes: 1 };

/// An f32 that a piece of straight code holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// The sum of that number, which changes.
    Sum(u32),
    /// What was there before, by number.
    Given(u32),
    /// What was loaded from an array, the first of them being 0: the register of that number, for as long as it is used.
    Loaded(u32, u32),
}

/// An instruction of a piece of straight code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Loads consecutive elements of a shared array, 1, 2 or 4 of them, at a multiple of as many.
    Load {
        /// The base, by number.
        base: u32,
        /// The position of the first element, counted from the base.
        offset: i64,
        /// Where they go.
        to: Vec<Register>,
    },
    /// Adds the product of two registers to a sum, rounded once.
    Fma(u32, [Register; 2]),
}

/// What loads count positions from: a shared array, and an element of it.
pub type Base = (SharedId, ValueId);

/// A piece of straight code of f32.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Straight {
    /// How many statements it is.
    pub statements: usize,
    /// Those among them, by position, that compute positions which somebody else uses, or bases.
    pub positions: Vec<usize>,
    /// What loads count from.
    pub bases: Vec<Base>,
    /// The arrays, in the order of [`Register::Loaded`], with how many registers of each are in use at the same time.
    pub arrays: Vec<(SharedId, u32)>,
    /// What sums begin with.
    pub sums: Vec<ValueId>,
    /// What else was there before.
    pub given: Vec<ValueId>,
    /// What runs.
    pub steps: Vec<Step>,
    /// What the sums are in the end.
    pub results: Vec<ValueId>,
}

/// What is known of the values around.
pub struct Known<'a> {
    /// The function.
    pub function: &'a Function,
    /// How often each of them is used.
    pub uses: &'a [u32],
    /// What divides them.
    pub divisors: &'a Divisors,
    /// What an integer always is.
    pub constant: &'a dyn Fn(ValueId) -> Option<i64>,
}

impl Straight {
    /// The piece that statements begin with, if there is one that is long enough; otherwise how many of them begin none.
    pub fn of(body: &[Statement], known: &Known<'_>) -> Result<Straight, usize> {
        let is_fma = |s: &Statement| matches!(s.operation(), Some(Operation::Fma(..)));
        let multiplies = |length: usize| body[..length].iter().filter(|s| is_fma(s)).count();
        let run = body.iter().take_while(|s| known.may_belong(s)).count();
        if multiplies(run) < ENOUGH {
            return Err(run.max(1));
        }
        let mut length = run;
        loop {
            length = body[..length].iter().rposition(is_fma).map_or(0, |last| last + 1);
            if multiplies(length) < ENOUGH {
                return Err(1);
            }
            let mut reader = Reader::new(known);
            match body[..length].iter().enumerate().try_for_each(|(at, s)| reader.read(at, s)) {
                Ok(()) => return reader.finish(length).ok_or(1),
                Err(Ends(at)) => length = at,
            }
        }
    }
}

impl Known<'_> {
    fn may_belong(&self, statement: &Statement) -> bool {
        let Statement::Let { value, operation } = statement else { return false };
        let ty = self.function.ty(*value);
        match operation {
            Operation::LoadShared { .. } => ty.lane == LaneType::F32 && matches!(ty.lanes, 1 | 2 | 4),
            Operation::Extract(..) | Operation::Fma(..) => ty == FLOAT,
            Operation::Constant(_) | Operation::Binary(..) => ty == INDEX,
            _ => false,
        }
    }
}

/// The piece ends before the statement at that position.
struct Ends(usize);

/// What a value of the piece is.
#[derive(Clone, Copy)]
enum Meaning {
    Sum(u32),
    /// An element that was loaded, by number.
    Element(usize),
    /// As many elements that were loaded together.
    Vector(usize),
    /// A position that lies so far from another one.
    Position(ValueId, i64),
}

/// An element that was loaded.
struct Element {
    array: u32,
    /// The instructions that load it and use it last.
    lives: [usize; 2],
}

/// An instruction whose registers are not chosen yet.
enum Draft {
    Load { base: u32, offset: i64, first: usize, lanes: usize },
    Fma(u32, [Factor; 2]),
}

#[derive(Clone, Copy)]
enum Factor {
    Register(Register),
    Element(usize),
}

struct Reader<'a> {
    known: &'a Known<'a>,
    meanings: FxHashMap<ValueId, Meaning>,
    /// How often the piece uses each of its values.
    used: FxHashMap<ValueId, u32>,
    /// Where positions are computed.
    positions: Vec<(usize, ValueId)>,
    bases: Vec<Base>,
    arrays: Vec<SharedId>,
    elements: Vec<Element>,
    /// What each sum begins with, and what it is now.
    sums: Vec<[ValueId; 2]>,
    given: Vec<ValueId>,
    drafts: Vec<Draft>,
}

/// The number of a thing in a list, to which it is added where it is missing.
fn number_in<T: PartialEq>(list: &mut Vec<T>, thing: T) -> u32 {
    let at = list.iter().position(|t| *t == thing).unwrap_or_else(|| {
        list.push(thing);
        list.len() - 1
    });
    at as u32
}

impl<'a> Reader<'a> {
    fn new(known: &'a Known<'a>) -> Reader<'a> {
        Reader {
            known,
            meanings: FxHashMap::default(),
            used: FxHashMap::default(),
            positions: Vec::new(),
            bases: Vec::new(),
            arrays: Vec::new(),
            elements: Vec::new(),
            sums: Vec::new(),
            given: Vec::new(),
            drafts: Vec::new(),
        }
    }

    fn read(&mut self, at: usize, statement: &Statement) -> Result<(), Ends> {
        let Statement::Let { value, operation } = statement else { return Err(Ends(at)) };
        match *operation {
            Operation::LoadShared { array, index } => self.load(at, *value, array, index),
            Operation::Extract(vector, lane) => self.extract(at, *value, vector, lane),
            Operation::Fma(x, y, z) => self.fma(at, *value, [x, y], z),
            _ => {
                self.position(at, *value, operation);
                Ok(())
            }
        }
    }

    fn uses(&self, value: ValueId) -> u32 {
        self.known.uses[value.0 as usize]
    }

    fn position(&mut self, at: usize, value: ValueId, operation: &Operation) {
        self.positions.push((at, value));
        let Operation::Binary(BinaryOp::Add, x, y) = *operation else { return };
        let constant = |id| (self.known.constant)(id);
        let (from, offset) = match (constant(x), constant(y)) {
            (_, Some(offset)) => (x, offset),
            (Some(offset), _) => (y, offset),
            (None, None) => return,
        };
        let (base, distance) = self.base(from);
        if let Some(offset) = distance.checked_add(offset) {
            self.meanings.insert(value, Meaning::Position(base, offset));
        }
    }

    /// Which value a position is counted from, and how far.
    fn base(&self, position: ValueId) -> (ValueId, i64) {
        match self.meanings.get(&position) {
            Some(Meaning::Position(base, offset)) => (*base, *offset),
            _ => (position, 0),
        }
    }

    fn load(&mut self, at: usize, value: ValueId, array: SharedId, index: ValueId) -> Result<(), Ends> {
        let lanes = self.known.function.ty(value).lanes;
        if self.known.divisors.get(index) < u32::from(lanes) {
            return Err(Ends(at));
        }
        *self.used.entry(index).or_default() += 1;
        let (base, offset) = self.base(index);
        let base = number_in(&mut self.bases, (array, base));
        let number = number_in(&mut self.arrays, array);
        let (first, step) = (self.elements.len(), self.drafts.len());
        let element = |_| Element { array: number, lives: [step; 2] };
        self.elements.extend((0..lanes).map(element));
        let meaning = if lanes == 1 { Meaning::Element(first) } else { Meaning::Vector(first) };
        self.meanings.insert(value, meaning);
        self.drafts.push(Draft::Load { base, offset, first, lanes: usize::from(lanes) });
        Ok(())
    }

    fn extract(&mut self, at: usize, value: ValueId, vector: ValueId, lane: u8) -> Result<(), Ends> {
        let Some(Meaning::Vector(first)) = self.meanings.get(&vector) else { return Err(Ends(at)) };
        let element = Meaning::Element(first + usize::from(lane));
        self.meanings.insert(value, element);
        *self.used.entry(vector).or_default() += 1;
        Ok(())
    }

    fn fma(&mut self, at: usize, value: ValueId, factors: [ValueId; 2], sum: ValueId) -> Result<(), Ends> {
        let into = match self.meanings.get(&sum) {
            // It is lost when it changes.
            Some(Meaning::Sum(number)) if self.uses(sum) == 1 => *number,
            None => self.sums.len() as u32,
            Some(_) => return Err(Ends(at)),
        };
        let factors = [self.factor(at, factors[0])?, self.factor(at, factors[1])?];
        match self.sums.get_mut(into as usize) {
            Some(known) => known[1] = value,
            None => self.sums.push([sum, value]),
        }
        self.meanings.insert(value, Meaning::Sum(into));
        self.drafts.push(Draft::Fma(into, factors));
        Ok(())
    }

    fn factor(&mut self, at: usize, value: ValueId) -> Result<Factor, Ends> {
        match self.meanings.get(&value) {
            Some(Meaning::Element(element)) => {
                self.elements[*element].lives[1] = self.drafts.len();
                *self.used.entry(value).or_default() += 1;
                Ok(Factor::Element(*element))
            }
            None => Ok(Factor::Register(Register::Given(number_in(&mut self.given, value)))),
            Some(_) => Err(Ends(at)),
        }
    }

    /// Chooses registers. `None` where somebody else uses what was loaded.
    fn finish(self, statements: usize) -> Option<Straight> {
        let is_own = |value: &ValueId| self.used.get(value).copied().unwrap_or(0) == self.uses(*value);
        let loaded = |(value, meaning): (&ValueId, &Meaning)| match meaning {
            Meaning::Element(_) | Meaning::Vector(_) => Some(*value),
            Meaning::Sum(_) | Meaning::Position(..) => None,
        };
        if !self.meanings.iter().filter_map(loaded).all(|value| is_own(&value)) {
            return None;
        }
        // Positions that only loads use are part of the addresses of these.
        let is_folded = |value: &ValueId| {
            matches!(self.meanings.get(value), Some(Meaning::Position(..))) && is_own(value)
        };
        let positions = self.positions.iter().filter(|(_, value)| !is_folded(value));
        let positions = positions.map(|(at, _)| *at).collect();
        let (steps, counts) = self.with_registers();
        Some(Straight {
            statements,
            positions,
            arrays: self.arrays.iter().copied().zip(counts).collect(),
            sums: self.sums.iter().map(|[first, _]| *first).collect(),
            results: self.sums.iter().map(|[_, last]| *last).collect(),
            bases: self.bases,
            given: self.given,
            steps,
        })
    }

    /// The instructions, and how many registers they take for each array.
    fn with_registers(&self) -> (Vec<Step>, Vec<u32>) {
        let mut registers = vec![0; self.elements.len()];
        let mut free: Vec<Vec<u32>> = vec![Vec::new(); self.arrays.len()];
        let mut counts = vec![0; self.arrays.len()];
        let mut dead: Vec<usize> = Vec::new();
        let mut steps = Vec::with_capacity(self.drafts.len());
        for (at, draft) in self.drafts.iter().enumerate() {
            steps.push(match *draft {
                Draft::Load { base, offset, first, lanes } => {
                    // Of those that are free, the first.
                    dead.retain(|element| {
                        let Element { array, lives: [_, last] } = self.elements[*element];
                        if last < at {
                            free[array as usize].push(registers[*element]);
                        }
                        last >= at
                    });
                    let array = self.elements[first].array as usize;
                    free[array].sort_unstable_by(|x, y| y.cmp(x));
                    let to = (first..first + lanes).map(|element| {
                        registers[element] = free[array].pop().unwrap_or_else(|| {
                            counts[array] += 1;
                            counts[array] - 1
                        });
                        dead.push(element);
                        Register::Loaded(array as u32, registers[element])
                    });
                    Step::Load { base, offset, to: to.collect() }
                }
                Draft::Fma(sum, factors) => Step::Fma(
                    sum,
                    factors.map(|factor| match factor {
                        Factor::Register(register) => register,
                        Factor::Element(element) => {
                            Register::Loaded(self.elements[element].array, registers[element])
                        }
                    }),
                ),
            });
        }
        (steps, counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operands::uses;
    use crate::text;

    /// What stands before the pieces: `v2` is a position that a vector of 4 divides, `v3` and `v4` are floats.
    const BEFORE: &str = "function sums blocks 32 {
  read p0 \"x\": f32 = b0 multiple 16
  write p1 \"y\": f32 = b1
  shared s0 \"left\": f32 x 64
  shared s1 \"right\": f32 x 64
  work 1
  v0: i64 = thread
  v1: i64 = constant 4
  v2: i64 = mul v0, v1
  v3: f32 = load p0[v0]
  v4: f32 = constant 0.0
";

    /// The piece that the statements behind these begin with; what is used afterwards is stored.
    fn piece(statements: &[String], stored: &[u32]) -> Result<Straight, usize> {
        let stores = stored.iter().map(|value| format!("  store p1[v0] = v{value}\n"));
        let body: String = statements.iter().map(|s| format!("  {s}\n")).collect();
        let text = format!("{BEFORE}{body}{}}}\n", stores.collect::<String>());
        let function = text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let (uses, divisors) = (uses(&function), Divisors::of(&function));
        let constants: FxHashMap<ValueId, i64> = function
            .body
            .iter()
            .filter_map(|s| match s {
                Statement::Let { value, operation: Operation::Constant(literal) } => {
                    Some((*value, literal.as_i64()))
                }
                _ => None,
            })
            .collect();
        let constant = |id: ValueId| constants.get(&id).copied();
        let known = Known { function: &function, uses: &uses, divisors: &divisors, constant: &constant };
        // Behind what stands before.
        Straight::of(&function.body[5..], &known)
    }

    /// Vectors of two arrays, 12 elements apart, and as many multiply-adds into one sum as are enough.
    fn statements() -> Vec<String> {
        let mut all: Vec<String> = [
            "v5: f32x4 = load s0[v2]",
            "v6: f32 = extract v5, 0",
            "v7: f32 = extract v5, 3",
            "v8: i64 = constant 12",
            "v9: i64 = add v2, v8",
            "v10: f32x4 = load s1[v9]",
            "v11: f32 = extract v10, 1",
        ]
        .map(str::to_owned)
        .to_vec();
        all.push("v12: f32 = fma v6, v11, v4".to_owned());
        all.extend((1..ENOUGH).map(|i| format!("v{}: f32 = fma v7, v3, v{}", 12 + i, 11 + i)));
        all
    }

    const LAST: u32 = 11 + ENOUGH as u32;

    #[test]
    fn what_is_loaded_multiplied_and_added_is_one_piece() {
        let all = statements();
        let code = piece(&all, &[LAST]).expect("a piece");
        assert_eq!(code.statements, all.len());
        assert_eq!(code.bases, [(SharedId(0), ValueId(2)), (SharedId(1), ValueId(2))]);
        // The constant is a statement of its own; the position that was made of it is part of an address.
        assert_eq!(code.positions, [3]);
        assert_eq!(code.arrays, [(SharedId(0), 4), (SharedId(1), 4)]);
        assert_eq!((&code.sums[..], &code.given[..]), (&[ValueId(4)][..], &[ValueId(3)][..]));
        assert_eq!(code.results, [ValueId(LAST)]);
        let loaded = |array| (0..4).map(|number| Register::Loaded(array, number)).collect::<Vec<_>>();
        assert_eq!(code.steps[0], Step::Load { base: 0, offset: 0, to: loaded(0) });
        assert_eq!(code.steps[1], Step::Load { base: 1, offset: 12, to: loaded(1) });
        assert_eq!(code.steps[2], Step::Fma(0, [Register::Loaded(0, 0), Register::Loaded(1, 1)]));
        assert_eq!(code.steps[3], Step::Fma(0, [Register::Loaded(0, 3), Register::Given(0)]));
        assert_eq!(code.steps.len(), 2 + ENOUGH);
    }

    #[test]
    fn registers_are_used_again_once_their_last_use_is_over() {
        let mut all = statements();
        // `v7` lives on, `v6` does not.
        let at = all.len() - 1;
        all.insert(at, format!("v{}: f32 = load s0[v0]", LAST + 1));
        all.insert(at + 1, format!("v{}: f32 = fma v{}, v3, v{}", LAST + 2, LAST + 1, LAST - 1));
        all[at + 2] = format!("v{LAST}: f32 = fma v7, v3, v{}", LAST + 2);
        let code = piece(&all, &[LAST]).expect("a piece");
        assert_eq!(code.arrays[0], (SharedId(0), 4));
        let load = code.steps.iter().rev().find(|s| matches!(s, Step::Load { .. })).expect("it loads");
        assert_eq!(*load, Step::Load { base: 2, offset: 0, to: vec![Register::Loaded(0, 0)] });
    }

    #[test]
    fn a_piece_ends_where_a_sum_is_used_in_another_way() {
        let mut all = statements();
        let after = format!("v{}: f32 = fma v{LAST}, v3, v4", LAST + 1);
        all.push(after);
        // As a factor.
        let code = piece(&all, &[LAST + 1]).expect("a piece");
        assert_eq!(code.statements, all.len() - 1);
        // Twice as a sum: what is there before it changes is kept.
        *all.last_mut().expect("statements") = format!("v{}: f32 = fma v3, v3, v{LAST}", LAST + 1);
        let code = piece(&all, &[LAST, LAST + 1]).expect("a piece");
        assert_eq!((code.statements, code.results), (all.len() - 1, vec![ValueId(LAST)]));
    }

    #[test]
    fn what_others_use_or_lies_askew_is_no_piece() {
        let all = statements();
        assert_eq!(piece(&all, &[LAST, 6]), Err(1), "an element");
        let few = &all[..all.len() - 1];
        assert_eq!(piece(few, &[LAST - 1]), Err(few.len()), "too few");
        let mut askew = all;
        askew[3] = "v8: i64 = constant 13".to_owned();
        assert_eq!(piece(&askew, &[LAST]), Err(1), "not aligned");
    }
}
