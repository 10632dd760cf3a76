//! Whether a function accesses neighbouring elements one by one, which LLVM joins.
//!
//! Schedules choose vectors where they know of them; what remains are elements that only their positions show to be
//! neighbours, as those of an unrolled loop. LLVM compares the accesses of a block pair by pair, each with what it can
//! prove of their distance: for a recurrence, whose steps lie rows apart, that took a fifth of all passes. Here
//! positions are sums of multiples of values, and accesses with the same ones differ by a number.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::kernel_ir::{BinaryOp, Function, LaneType, Operation, Statement, Type, ValueId};

/// Bytes that an access moves at most.
const WIDEST: i64 = 16;

/// An integer as a sum of multiples of values, in order of these, and a number.
#[derive(Clone, Default)]
struct Linear {
    terms: Vec<(ValueId, i64)>,
    number: i64,
}

/// What is accessed, and how.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    memory: u32,
    is_shared: bool,
    is_store: bool,
    /// Elements that an access moves at most.
    widest: i64,
    terms: Vec<(ValueId, i64)>,
}

/// Whether there are two loads or two stores of one buffer, known to lie side by side, that one access could do.
pub(super) fn has_neighbours(function: &Function) -> bool {
    let mut walk =
        Walk { function, values: vec![None; function.types.len()], accessed: FxHashMap::default() };
    walk.block(&function.body);
    let are_near = |(place, numbers): (&Place, &BTreeSet<i64>)| {
        numbers.iter().zip(numbers.iter().skip(1)).any(|(x, y)| y - x < place.widest)
    };
    walk.accessed.iter().any(are_near)
}

struct Walk<'f> {
    function: &'f Function,
    values: Vec<Option<Linear>>,
    /// The numbers that are added to the terms of each place.
    accessed: FxHashMap<Place, BTreeSet<i64>>,
}

impl Walk<'_> {
    fn block(&mut self, body: &[Statement]) {
        for statement in body {
            match statement {
                Statement::Let { value, operation } => self.operation(*value, operation),
                Statement::Store { buffer, index, value } => {
                    let bytes = self.function.buffers[buffer.0 as usize].dtype.size() as i64;
                    self.access((buffer.0, false, true), *index, self.function.ty(*value), bytes);
                }
                Statement::StoreShared { array, index, value } => {
                    let bytes = i64::from(self.function.shared[array.0 as usize].lane.bytes());
                    self.access((array.0, true, true), *index, self.function.ty(*value), bytes);
                }
                _ => {}
            }
            self.block(statement.body());
        }
    }

    fn operation(&mut self, value: ValueId, operation: &Operation) {
        let ty = self.function.ty(value);
        match operation {
            Operation::Load { buffer, index } => {
                let bytes = self.function.buffers[buffer.0 as usize].dtype.size() as i64;
                self.access((buffer.0, false, false), *index, ty, bytes);
            }
            Operation::LoadShared { array, index } => {
                let bytes = i64::from(self.function.shared[array.0 as usize].lane.bytes());
                self.access((array.0, true, false), *index, ty, bytes);
            }
            _ if ty == Type::scalar(LaneType::I64) => {
                self.values[value.0 as usize] = self.linear(operation);
            }
            _ => {}
        }
    }

    /// `None` where the value is a term of its own.
    fn linear(&self, operation: &Operation) -> Option<Linear> {
        let number = |x: ValueId| {
            let x = self.of(x);
            x.terms.is_empty().then_some(x.number)
        };
        match operation {
            Operation::Constant(literal) => Some(Linear { terms: Vec::new(), number: literal.as_i64() }),
            Operation::Binary(BinaryOp::Add, x, y) => Some(self.of(*x).plus(&self.of(*y), 1)),
            Operation::Binary(BinaryOp::Sub, x, y) => Some(self.of(*x).plus(&self.of(*y), -1)),
            Operation::Binary(BinaryOp::Mul, x, y) => {
                let (factor, other) = number(*x).map(|n| (n, y)).or_else(|| Some((number(*y)?, x)))?;
                Some(Linear::default().plus(&self.of(*other), factor))
            }
            // Perhaps LLVM proves that it does not bind.
            Operation::Binary(BinaryOp::Min | BinaryOp::Max, x, y) => match (number(*x), number(*y)) {
                (Some(_), _) => Some(self.of(*y)),
                (_, Some(_)) => Some(self.of(*x)),
                _ => None,
            },
            Operation::Binary(BinaryOp::ShiftLeft, x, y) => {
                let factor = number(*y).filter(|bits| (0..63).contains(bits)).map(|bits| 1i64 << bits)?;
                Some(Linear::default().plus(&self.of(*x), factor))
            }
            _ => None,
        }
    }

    fn of(&self, value: ValueId) -> Linear {
        let own = || Linear { terms: vec![(value, 1)], number: 0 };
        self.values[value.0 as usize].clone().unwrap_or_else(own)
    }

    /// Notes an access of so many bytes an element, unless it is as wide as one can be.
    fn access(
        &mut self,
        (memory, is_shared, is_store): (u32, bool, bool),
        index: ValueId,
        ty: Type,
        bytes: i64,
    ) {
        let widest = WIDEST / bytes;
        if i64::from(ty.lanes) < widest {
            let Linear { terms, number } = self.of(index);
            let place = Place { memory, is_shared, is_store, widest, terms };
            self.accessed.entry(place).or_default().insert(number);
        }
    }
}

impl Linear {
    /// The sum of it and a multiple of another one.
    fn plus(&self, other: &Linear, factor: i64) -> Linear {
        let mut terms = self.terms.clone();
        for (value, multiple) in &other.terms {
            let multiple = multiple.wrapping_mul(factor);
            match terms.binary_search_by_key(value, |(v, _)| *v) {
                Ok(at) => terms[at].1 = terms[at].1.wrapping_add(multiple),
                Err(at) => terms.insert(at, (*value, multiple)),
            }
        }
        terms.retain(|(_, multiple)| *multiple != 0);
        Linear { terms, number: self.number.wrapping_add(other.number.wrapping_mul(factor)) }
    }
}
