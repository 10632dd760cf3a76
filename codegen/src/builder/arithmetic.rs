//! Arithmetic of integers that is written in general and reads well once built.

use rustc_hash::FxHashMap;

use super::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, LaneType, Operation, Type, ValueId};

/// What is known of integer scalars that were built.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Those that are another one plus a constant.
    offsets: FxHashMap<ValueId, (ValueId, i64)>,
    /// Those that are another one times a constant.
    multiples: FxHashMap<ValueId, (ValueId, i64)>,
    /// Those that are the sum of one that stays in the innermost loops and one that moves.
    parts: FxHashMap<ValueId, [ValueId; 2]>,
    /// Whether sums are regrouped.
    pub(super) are_regrouped: bool,
}

impl FunctionBuilder {
    /// An empty function for a loop over time on a GPU, which takes most registers there are. What moves in a loop is the last
    /// term of sums but for constants, so that what stays is added up before, and unrolled iterations differ by constants,
    /// which instructions take as they are. Integers are computed where they are needed.
    pub fn for_steps() -> Self {
        let mut builder = FunctionBuilder::new();
        builder.terms.are_regrouped = true;
        builder
    }

    /// A primitive of two operands of one type.
    pub fn binary(&mut self, op: BinaryOp, x: ValueId, y: ValueId) -> ValueId {
        if let Some(folded) = self.fold(op, x, y).or_else(|| self.regroup(op, x, y)) {
            return folded;
        }
        let value = self.operation(self.ty(x), Operation::Binary(op, x, y));
        match (op, self.as_integer(y)) {
            (BinaryOp::Add, Some(offset)) => {
                self.terms.offsets.insert(value, (x, offset));
            }
            _ if !self.terms.are_regrouped => {}
            (BinaryOp::Mul, Some(by)) => {
                self.terms.multiples.insert(value, (x, by));
            }
            (BinaryOp::Add, None) if self.depth_of(x) < self.depth_of(y) => {
                self.terms.parts.insert(value, [x, y]);
            }
            (BinaryOp::Add, None) if self.depth_of(y) < self.depth_of(x) => {
                self.terms.parts.insert(value, [y, x]);
            }
            _ => {}
        }
        value
    }

    /// Integer identities.
    fn fold(&mut self, op: BinaryOp, x: ValueId, y: ValueId) -> Option<ValueId> {
        let ty = self.ty(x);
        match (op, self.as_integer(x), self.as_integer(y)) {
            (BinaryOp::Add | BinaryOp::Sub, _, Some(0)) | (BinaryOp::Mul, _, Some(1)) => Some(x),
            (BinaryOp::Add, Some(0), _) | (BinaryOp::Mul, Some(1), _) => Some(y),
            (BinaryOp::Mul, _, Some(0)) => Some(y),
            (BinaryOp::Mul, Some(0), _) => Some(x),
            (BinaryOp::IntDiv, _, Some(1)) => Some(x),
            (BinaryOp::IntRem, _, Some(1)) => Some(self.integer(ty, 0)),
            (BinaryOp::Add, Some(a), Some(b)) => Some(self.integer(ty, a.wrapping_add(b))),
            (BinaryOp::Sub, Some(a), Some(b)) => Some(self.integer(ty, a.wrapping_sub(b))),
            (BinaryOp::Mul, Some(a), Some(b)) => Some(self.integer(ty, a.wrapping_mul(b))),
            // Addresses of neighbouring rows then differ by a constant, which needs no register.
            (BinaryOp::Mul, None, Some(by)) if self.terms.offsets.contains_key(&x) => {
                let (base, offset) = self.terms.offsets[&x];
                let (product, offset) = (self.mul(y, base), self.integer(ty, offset.wrapping_mul(by)));
                Some(self.add(product, offset))
            }
            (BinaryOp::Mul, Some(_), None) if self.terms.offsets.contains_key(&y) => Some(self.mul(y, x)),
            (BinaryOp::And, Some(a), Some(b)) => Some(self.integer(ty, a & b)),
            (BinaryOp::Min, Some(a), Some(b)) => Some(self.integer(ty, a.min(b))),
            (BinaryOp::Max, Some(a), Some(b)) => Some(self.integer(ty, a.max(b))),
            _ => None,
        }
    }

    /// A sum or a multiple in other terms, where these are known and it is better so.
    fn regroup(&mut self, op: BinaryOp, x: ValueId, y: ValueId) -> Option<ValueId> {
        let index = Type::scalar(LaneType::I64);
        if !self.terms.are_regrouped || self.ty(x) != index {
            return None;
        }
        match op {
            BinaryOp::Add => self.regroup_sum(x, y),
            BinaryOp::Mul => match (self.as_integer(x), self.as_integer(y)) {
                (None, Some(by)) => self.regroup_multiple(x, by),
                (Some(_), None) => Some(self.mul(y, x)),
                _ => None,
            },
            _ => None,
        }
    }

    fn regroup_sum(&mut self, x: ValueId, y: ValueId) -> Option<ValueId> {
        let index = self.ty(x);
        let offset = |id: ValueId| self.terms.offsets.get(&id).copied();
        match (self.as_integer(x), self.as_integer(y)) {
            (_, Some(more)) => {
                let (base, offset) = offset(x)?;
                let offset = self.integer(index, offset.wrapping_add(more));
                return Some(self.add(base, offset));
            }
            (Some(_), None) => return Some(self.add(y, x)),
            (None, None) => {}
        }
        if let Some(((base, offset), other)) = offset(x).zip(Some(y)).or_else(|| offset(y).zip(Some(x))) {
            let (sum, offset) = (self.add(base, other), self.integer(index, offset));
            return Some(self.add(sum, offset));
        }
        let parts = |id: ValueId| self.terms.parts.get(&id).copied();
        match (parts(x), parts(y)) {
            (Some([stays, moves]), Some([too, with])) if self.depth_of(moves) == self.depth_of(with) => {
                let (stays, moves) = (self.add(stays, too), self.add(moves, with));
                Some(self.add(stays, moves))
            }
            (Some([stays, moves]), _) if self.depth_of(y) < self.depth_of(moves) => {
                let stays = self.add(stays, y);
                Some(self.add(stays, moves))
            }
            (_, Some([stays, moves])) if self.depth_of(x) < self.depth_of(moves) => {
                let stays = self.add(x, stays);
                Some(self.add(stays, moves))
            }
            _ => None,
        }
    }

    fn regroup_multiple(&mut self, x: ValueId, by: i64) -> Option<ValueId> {
        let index = self.ty(x);
        if let Some((base, times)) = self.terms.multiples.get(&x).copied() {
            let by = self.integer(index, times.wrapping_mul(by));
            return Some(self.mul(base, by));
        }
        let [stays, moves] = self.terms.parts.get(&x).copied()?;
        let by = self.integer(index, by);
        let [stays, moves] = [stays, moves].map(|part| self.mul(part, by));
        Some(self.add(stays, moves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_ir::Statement;

    /// The body of a loop that computes an index.
    fn in_a_loop(index: impl FnOnce(&mut FunctionBuilder, ValueId) -> ValueId) -> Vec<Statement> {
        let mut b = FunctionBuilder::for_steps();
        let (zero, end) = (b.index(0), b.index(8));
        let open = b.open_loop(&[], true);
        let index = index(&mut b, open.counter);
        let array = b.shared_array("a", LaneType::F32, 4096);
        let value = b.load_shared(array, 1, index);
        b.store_shared(array, index, value);
        b.close_loop(open, zero, end, 1, &[]);
        let function = b.finish("f", Vec::new(), Vec::new(), fuse_ir::expr::Dim::constant(1), block());
        let body = function.body.into_iter().find_map(|s| match s {
            Statement::For { body, .. } => Some(body),
            _ => None,
        });
        body.expect("a loop")
    }

    fn block() -> crate::kernel_ir::Mapping {
        crate::kernel_ir::Mapping::Blocks { threads: 32 }
    }

    fn thread(b: &mut FunctionBuilder) -> ValueId {
        b.operation(Type::scalar(LaneType::I64), Operation::Thread)
    }

    /// The sums that are used.
    fn used_sums(body: &[Statement]) -> usize {
        let uses = crate::operands::counts(64, body);
        let is_sum = |s: &&Statement| match s {
            Statement::Let { value, operation: Operation::Binary(BinaryOp::Add, ..) } => {
                uses[value.0 as usize] > 0
            }
            _ => false,
        };
        body.iter().filter(is_sum).count()
    }

    #[test]
    fn what_stays_is_added_up_before_the_loop() {
        // (4·counter + thread)·32 + thread, which is 128·counter and what stays.
        let body = in_a_loop(|b, counter| {
            let (thread, four, many) = (thread(b), b.index(4), b.index(32));
            let position = b.mul(counter, four);
            let position = b.add(position, thread);
            let position = b.mul(position, many);
            b.add(thread, position)
        });
        assert_eq!(used_sums(&body), 1, "{body:?}");
    }

    #[test]
    fn constants_are_added_last() {
        // (counter + 3) + (thread + 5) is counter + thread and 8.
        let mut offsets = Vec::new();
        in_a_loop(|b, counter| {
            let (thread, three, five) = (thread(b), b.index(3), b.index(5));
            let (x, y) = (b.add(counter, three), b.add(thread, five));
            let sum = b.add(x, y);
            offsets.extend(b.terms.offsets.get(&sum).map(|(_, offset)| *offset));
            sum
        });
        assert_eq!(offsets, [8]);
    }

    #[test]
    fn other_functions_keep_their_sums() {
        let mut b = FunctionBuilder::new();
        let (thread, three) = (thread(&mut b), b.index(3));
        let x = b.add(thread, three);
        let y = b.add(x, three);
        assert_eq!(b.terms.offsets.get(&y), Some(&(x, 3)));
    }
}
