//! Which powers of two divide the integers of a function, so that emitters know how accesses are aligned.

use rustc_hash::FxHashMap;

use fuse_ir::expr::Dim;

use crate::kernel_ir::{BinaryOp, Function, LaneType, Operation, Statement, ValueId};

/// The largest power of two that is told apart; more aligned than 16 bytes is no better than 16.
pub const MOST: u32 = 16;

/// A power of two that divides each i64 scalar of a function whatever its inputs are, at most [`MOST`].
#[derive(Debug)]
pub struct Divisors {
    known: FxHashMap<ValueId, u32>,
    /// The constants among them.
    constants: FxHashMap<ValueId, i64>,
}

impl Divisors {
    /// Looks through a function.
    pub fn of(function: &Function) -> Divisors {
        let mut divisors = Divisors { known: FxHashMap::default(), constants: FxHashMap::default() };
        divisors.block(function, &function.body);
        divisors
    }

    /// What divides a value; 1 where nothing is known.
    pub fn get(&self, value: ValueId) -> u32 {
        self.known.get(&value).copied().unwrap_or(1)
    }

    fn block(&mut self, function: &Function, body: &[Statement]) {
        for statement in body {
            match statement {
                Statement::Let { value, operation } if function.ty(*value).lane == LaneType::I64 => {
                    let divisor = self.operation(operation);
                    self.known.insert(*value, divisor);
                    if let Operation::Constant(literal) = operation {
                        self.constants.insert(*value, literal.as_i64());
                    }
                }
                Statement::For { counter, begin, step, body, .. } => {
                    let divisor = self.get(*begin).min(of_number(*step));
                    self.known.insert(*counter, divisor);
                    self.block(function, body);
                }
                Statement::If { body, .. } => self.block(function, body),
                Statement::Let { .. }
                | Statement::Store { .. }
                | Statement::StoreShared { .. }
                | Statement::StartCopy { .. }
                | Statement::CommitCopies
                | Statement::AwaitCopies { .. }
                | Statement::Barrier
                | Statement::GridBarrier
                | Statement::StoreCluster { .. }
                | Statement::ClusterArrive
                | Statement::ClusterWait
                | Statement::Prefetch { .. }
                | Statement::Product(_) => {}
            }
        }
    }

    fn operation(&self, operation: &Operation) -> u32 {
        match operation {
            Operation::Constant(literal) => of_number(literal.as_i64()),
            Operation::Binary(
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Min | BinaryOp::Max | BinaryOp::Or | BinaryOp::Xor,
                x,
                y,
            )
            | Operation::Select(_, x, y) => self.get(*x).min(self.get(*y)),
            Operation::Binary(BinaryOp::Mul, x, y) => (self.get(*x) * self.get(*y)).min(MOST),
            Operation::Binary(BinaryOp::ShiftLeft, x, distance) => {
                let distance = self.constants.get(distance).and_then(|d| u32::try_from(*d).ok());
                self.get(*x).checked_shl(distance.unwrap_or(0).min(MOST)).unwrap_or(MOST).min(MOST)
            }
            Operation::Binary(BinaryOp::And, x, y) => self.get(*x).max(self.get(*y)),
            _ => 1,
        }
    }
}

/// A power of two that divides the product of extents whatever their symbols.
pub fn of_extents(extents: &[Dim]) -> u32 {
    let of = |extent: &Dim| extent.terms().fold(MOST, |known, (_, factor)| known.min(of_number(factor)));
    extents.iter().fold(1, |known, extent| (known * of(extent)).min(MOST))
}

fn of_number(number: i64) -> u32 {
    1 << number.trailing_zeros().min(MOST.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::FunctionBuilder;
    use crate::kernel_ir::Mapping;
    use crate::kernel_ir::Type;

    #[test]
    fn extents_are_multiples_of_what_all_their_terms_are() {
        let (n, extents) = (Dim::symbol("n"), |d: &[Dim]| of_extents(d));
        assert_eq!(extents(&[]), 1);
        assert_eq!(extents(&[Dim::constant(6)]), 2);
        assert_eq!(extents(&[Dim::constant(6), Dim::constant(4)]), 8);
        assert_eq!(extents(&[n.clone(), Dim::constant(512)]), MOST);
        assert_eq!(extents(&[n.clone() * Dim::constant(4) + Dim::constant(2)]), 2);
        assert_eq!(extents(std::slice::from_ref(&n)), 1);
        assert_eq!(extents(&[Dim::constant(0)]), MOST);
    }

    #[test]
    fn sums_products_and_counters_keep_what_divides_all_of_them() {
        let mut b = FunctionBuilder::new();
        let thread = b.operation(Type::scalar(LaneType::I64), Operation::Thread);
        let (four, eight, zero) = (b.index(4), b.index(24), b.index(0));
        let open = b.open_loop(&[], false);
        let row = b.mul(thread, eight);
        let place = b.add(row, open.counter);
        let odd = b.add(place, thread);
        let swizzled = b.xor(place, row);
        let shifted = b.shift_left(thread, 2);
        let counter = open.counter;
        b.close_loop(open, zero, eight, 4, &[]);
        let mapping = Mapping::Blocks { threads: 32 };
        let function = b.finish("f", Vec::new(), Vec::new(), Dim::constant(1), mapping);
        let divisors = Divisors::of(&function);
        let known: Vec<u32> = [thread, four, eight, zero, row, counter, place, odd, swizzled, shifted]
            .map(|v| divisors.get(v))
            .into();
        assert_eq!(known, [1, 4, 8, 16, 8, 4, 4, 1, 4, 4]);
    }
}
