//! Builds Kernel IR: typed helpers over a stack of open blocks.
//!
//! Values are hash-consed and placed as far out as their operands allow: a pure operation goes to the
//! outermost block that sees all its operands, so loop invariants leave loops and equal sub-expressions are
//! one value, without a pass of its own. Loads are pure too, because a function never stores to a buffer that
//! it loads, but they stay inside a barrier ([`FunctionBuilder::open_if`]): outside it their index need not be
//! valid.
//!
//! The helpers take the type from the operands and expect them to agree; [`crate::verify`] is what checks.

mod arithmetic;

use fuse_ir::expr::{Dim, Symbol};
use fuse_ir::{DType, Literal};
use rustc_hash::FxHashMap;

use crate::kernel_ir::{
    BinaryOp, BufferParameter, Carried, Condition, Conversion, Function, GroupFactor, LaneType, Mapping,
    MatrixFactors, Operation, PanelProduct, ParameterId, SharedArray, SharedId, Statement, Type, UnaryOp,
    ValueId,
};
use crate::late;
use crate::operands::of_operation;
use arithmetic::Terms;

/// The nesting depth of a block; the function's body is 0.
pub type Depth = usize;

/// A function under construction.
#[derive(Debug)]
pub struct FunctionBuilder {
    types: Vec<Type>,
    homes: Vec<Home>,
    literals: FxHashMap<ValueId, Literal>,
    terms: Terms,
    shared: Vec<SharedArray>,
    blocks: Vec<OpenBlock>,
    next_block: u32,
}

/// The block that defines a value.
#[derive(Clone, Copy, Debug)]
struct Home {
    depth: u32,
    block: u32,
}

#[derive(Debug)]
struct OpenBlock {
    id: u32,
    statements: Vec<Statement>,
    known: FxHashMap<(Type, Operation), ValueId>,
    /// Whether loads must stay inside.
    barrier: bool,
}

/// A loop whose body is being built.
#[derive(Debug)]
pub struct OpenLoop {
    /// The counter.
    pub counter: ValueId,
    /// The carried values within the body.
    pub current: Vec<ValueId>,
    inits: Vec<ValueId>,
}

/// The blocks that [`FunctionBuilder::enter_depth`] set aside.
#[derive(Debug)]
pub struct SetAside(Vec<OpenBlock>);

impl Default for FunctionBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FunctionBuilder {
    /// An empty function.
    pub fn new() -> Self {
        let root = OpenBlock { id: 0, statements: Vec::new(), known: FxHashMap::default(), barrier: true };
        FunctionBuilder {
            types: Vec::new(),
            homes: Vec::new(),
            literals: FxHashMap::default(),
            terms: Terms::default(),
            shared: Vec::new(),
            blocks: vec![root],
            next_block: 1,
        }
    }

    /// The finished function. `types` of the builder become the function's.
    pub fn finish(
        mut self,
        name: impl Into<String>,
        buffers: Vec<BufferParameter>,
        symbols: Vec<Symbol>,
        work: Dim,
        mapping: Mapping,
    ) -> Function {
        let body = self.blocks.pop().map(|b| b.statements).unwrap_or_default();
        let (shared, types) = (self.shared, self.types);
        let body = if self.terms.are_regrouped { late::place(body, &types) } else { body };
        Function { name: name.into(), buffers, symbols, work, mapping, shared, types, body }
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> Type {
        self.types[value.0 as usize]
    }

    /// The depth of the innermost open block.
    pub fn depth(&self) -> Depth {
        self.blocks.len() - 1
    }

    /// The depth of the block that defines `value`.
    pub fn depth_of(&self, value: ValueId) -> Depth {
        self.homes[value.0 as usize].depth as usize
    }

    /// Whether `value` can be used in the innermost open block.
    pub fn is_visible(&self, value: ValueId) -> bool {
        let home = self.homes[value.0 as usize];
        self.blocks.get(home.depth as usize).is_some_and(|b| b.id == home.block)
    }

    /// The value as a number, when it is an integer constant.
    pub fn as_integer(&self, value: ValueId) -> Option<i64> {
        let integer = matches!(self.ty(value).lane, LaneType::I32 | LaneType::I64);
        self.literals.get(&value).filter(|_| integer).map(|l| l.as_i64())
    }

    /// Closes the blocks deeper than `depth` for a while, so that what is built next runs before them.
    pub fn enter_depth(&mut self, depth: Depth) -> SetAside {
        SetAside(self.blocks.split_off((depth + 1).min(self.blocks.len())))
    }

    /// Opens the blocks again that [`FunctionBuilder::enter_depth`] closed.
    pub fn restore(&mut self, aside: SetAside) {
        self.blocks.extend(aside.0);
    }

    fn define(&mut self, ty: Type, depth: Depth) -> ValueId {
        let id = ValueId(self.types.len() as u32);
        self.types.push(ty);
        self.homes.push(Home { depth: depth as u32, block: self.blocks[depth].id });
        id
    }

    /// A pure operation, placed at the outermost depth that is at least `floor` and sees its operands.
    fn place(&mut self, ty: Type, operation: Operation, floor: Depth) -> ValueId {
        let depth = of_operation(&operation).map(|v| self.depth_of(v)).max().unwrap_or(0).max(floor);
        let key = (ty, operation);
        // A value of an outer block is as good.
        if let Some(value) = self.blocks[..=depth].iter().rev().find_map(|b| b.known.get(&key)) {
            return *value;
        }
        let value = self.define(ty, depth);
        let block = &mut self.blocks[depth];
        block.statements.push(Statement::Let { value, operation: key.1.clone() });
        block.known.insert(key, value);
        value
    }

    /// A pure operation of result type `ty`.
    pub fn operation(&mut self, ty: Type, operation: Operation) -> ValueId {
        self.place(ty, operation, 0)
    }

    /// A constant in every lane.
    pub fn literal(&mut self, ty: Type, literal: Literal) -> ValueId {
        let value = self.operation(ty, Operation::Constant(literal));
        self.literals.insert(value, literal);
        value
    }

    /// A number in every lane of `ty`: rounded to a float type, wrapped to an integer type.
    pub fn number(&mut self, ty: Type, number: f64) -> ValueId {
        self.literal(ty, Literal::from_f64(memory_type(ty.lane), number))
    }

    /// An integer in every lane of `ty`.
    pub fn integer(&mut self, ty: Type, number: i64) -> ValueId {
        self.literal(ty, Literal::from_i64(memory_type(ty.lane), number))
    }

    /// An i64 scalar constant.
    pub fn index(&mut self, number: i64) -> ValueId {
        self.integer(Type::scalar(LaneType::I64), number)
    }

    /// A number of the type of `like`.
    pub fn number_like(&mut self, like: ValueId, number: f64) -> ValueId {
        self.number(self.ty(like), number)
    }

    /// An integer of the type of `like`.
    pub fn integer_like(&mut self, like: ValueId, number: i64) -> ValueId {
        self.integer(self.ty(like), number)
    }

    /// Reads `ty.lanes` elements from `index` on, at depth `floor` or deeper and inside every barrier.
    pub fn load(&mut self, ty: Type, buffer: ParameterId, index: ValueId, floor: Depth) -> ValueId {
        self.place(ty, Operation::Load { buffer, index }, floor.max(self.barrier()))
    }

    /// Reads `ty.lanes` elements from `index` on, of a buffer that is also written, but not before the innermost block
    /// that loads must not leave ends: once in that block, at depth `floor` or deeper.
    pub fn load_updated(&mut self, ty: Type, buffer: ParameterId, index: ValueId, floor: Depth) -> ValueId {
        let barrier = self.barrier();
        let depth = self.depth_of(index).max(floor).max(barrier);
        let key = (ty, Operation::Load { buffer, index });
        if let Some(value) = self.blocks[barrier..=depth].iter().rev().find_map(|b| b.known.get(&key)) {
            return *value;
        }
        let value = self.place_anew(ty, key.1.clone(), depth);
        self.blocks[depth].known.insert(key, value);
        value
    }

    /// A further array that the threads of a block share.
    pub fn shared_array(&mut self, name: impl Into<String>, lane: LaneType, elements: u32) -> SharedId {
        self.shared.push(SharedArray { name: name.into(), lane, elements });
        SharedId(self.shared.len() as u32 - 1)
    }

    /// Reads `lanes` elements of a shared array from `index` on, here.
    pub fn load_shared(&mut self, array: SharedId, lanes: u8, index: ValueId) -> ValueId {
        let ty = Type { lane: self.shared[array.0 as usize].lane, lanes };
        self.place_anew(ty, Operation::LoadShared { array, index }, self.depth())
    }

    /// `left·right + sum` of the matrices of a warp ([`Operation::MatrixFma`]), here.
    pub fn matrix_fma(
        &mut self,
        factors: MatrixFactors,
        left: ValueId,
        right: ValueId,
        sum: ValueId,
    ) -> ValueId {
        let operation = Operation::MatrixFma { factors, left, right, sum };
        self.place_anew(self.ty(sum), operation, self.depth())
    }

    /// `left·right + sum` of the matrices of a warp group ([`Operation::GroupFma`]), here.
    pub fn group_fma(
        &mut self,
        factors: MatrixFactors,
        left: GroupFactor,
        right: GroupFactor,
        sum: ValueId,
    ) -> ValueId {
        let operation = Operation::GroupFma { factors, left, right, sum };
        self.place_anew(self.ty(sum), operation, self.depth())
    }

    /// Two f32 as 16-bit floats, the first in the low half ([`Operation::Pair`]).
    pub fn pair(&mut self, dtype: DType, low: ValueId, high: ValueId) -> ValueId {
        self.operation(Type::scalar(LaneType::I32), Operation::Pair(dtype, low, high))
    }

    /// The bits of an f32 with a significand of 11 bits ([`Operation::Tf32`]).
    pub fn tf32(&mut self, x: ValueId) -> ValueId {
        self.operation(Type::scalar(LaneType::I32), Operation::Tf32(x))
    }

    /// So many matrices of a shared array, here ([`Operation::LoadMatrices`]).
    pub fn load_matrices(
        &mut self,
        array: SharedId,
        matrices: u8,
        index: ValueId,
        transposed: bool,
    ) -> ValueId {
        let ty = Type { lane: LaneType::I32, lanes: matrices };
        self.place_anew(ty, Operation::LoadMatrices { array, index, transposed }, self.depth())
    }

    /// Begins a copy of `bytes` from element `from` of a buffer to element `to` of a shared array, or of as many zeros
    /// where `inside` does not hold.
    pub fn start_copy(
        &mut self,
        (array, to): (SharedId, ValueId),
        (buffer, from): (ParameterId, ValueId),
        bytes: u8,
        inside: ValueId,
    ) {
        self.push(Statement::StartCopy { array, to, buffer, from, bytes, inside });
    }

    /// Ends a group of copies.
    pub fn commit_copies(&mut self) {
        self.push(Statement::CommitCopies);
    }

    /// Waits for all groups of copies but the last so many.
    pub fn await_copies(&mut self, pending: u8) {
        self.push(Statement::AwaitCopies { pending });
    }

    /// The value of the thread whose number differs by the bits of `distance`, here; one of 64 bits in halves.
    pub fn butterfly(&mut self, value: ValueId, distance: u8) -> ValueId {
        match self.ty(value).lane {
            LaneType::F64 => {
                let bits = self.bitcast(value, LaneType::I64);
                let other = self.butterfly(bits, distance);
                self.bitcast(other, LaneType::F64)
            }
            LaneType::I64 => {
                let high = self.shift_right_logical(value, 32);
                let [low, high] = [value, high].map(|half| {
                    let half = self.convert(Conversion::IntToInt, half, LaneType::I32);
                    let other = self.butterfly(half, distance);
                    self.convert(Conversion::ZeroExtend, other, LaneType::I64)
                });
                let high = self.shift_left(high, 32);
                self.or(low, high)
            }
            LaneType::F32 | LaneType::I32 | LaneType::Bool => {
                self.place_anew(self.ty(value), Operation::Butterfly(value, distance), self.depth())
            }
        }
    }

    /// Writes the lanes of `value` to a shared array from `index` on.
    pub fn store_shared(&mut self, array: SharedId, index: ValueId, value: ValueId) {
        self.push(Statement::StoreShared { array, index, value });
    }

    /// The threads of a block meet.
    pub fn meet(&mut self) {
        self.push(Statement::Barrier);
    }

    /// The threads of all blocks meet.
    pub fn meet_grid(&mut self) {
        self.push(Statement::GridBarrier);
    }

    /// Writes the lanes of `value` from `index` on to a shared array of a block of the cluster.
    pub fn store_cluster(&mut self, array: SharedId, index: ValueId, value: ValueId, block: ValueId) {
        self.push(Statement::StoreCluster { array, index, value, block });
    }

    /// The threads of the cluster arrive where it meets.
    pub fn arrive_at_cluster(&mut self) {
        self.push(Statement::ClusterArrive);
    }

    /// They wait there for all others.
    pub fn wait_for_cluster(&mut self) {
        self.push(Statement::ClusterWait);
    }

    fn place_anew(&mut self, ty: Type, operation: Operation, depth: Depth) -> ValueId {
        let value = self.define(ty, depth);
        self.blocks[depth].statements.push(Statement::Let { value, operation });
        value
    }

    /// The depth of the innermost block that loads must not leave.
    pub fn barrier(&self) -> Depth {
        self.blocks.iter().rposition(|b| b.barrier).unwrap_or(0)
    }

    /// Writes the lanes of `value` from `index` on.
    pub fn store(&mut self, buffer: ParameterId, index: ValueId, value: ValueId) {
        self.push(Statement::Store { buffer, index, value });
    }

    /// Asks for the memory at element `index`, inside or not, to come closer.
    pub fn prefetch(&mut self, buffer: ParameterId, index: ValueId) {
        self.push(Statement::Prefetch { buffer, index });
    }

    /// Writes a product with panels.
    pub fn product(&mut self, product: PanelProduct) {
        self.push(Statement::Product(product));
    }

    fn push(&mut self, statement: Statement) {
        if let Some(block) = self.blocks.last_mut() {
            block.statements.push(statement);
        }
    }

    /// Begins a counted loop; what is built until [`FunctionBuilder::close_loop`] is its body. With a barrier,
    /// loads do not leave it: their index may be invalid when nothing is counted.
    pub fn open_loop(&mut self, inits: &[ValueId], barrier: bool) -> OpenLoop {
        self.open(barrier);
        let depth = self.depth();
        let counter = self.define(Type::scalar(LaneType::I64), depth);
        let current = inits.iter().map(|v| self.define(self.ty(*v), depth)).collect();
        OpenLoop { counter, current, inits: inits.to_vec() }
    }

    /// Ends the body of a loop over `begin, begin + step, …` below `end`; `next` are the carried values of the
    /// next iteration. Returns those after the loop.
    pub fn close_loop(
        &mut self,
        open: OpenLoop,
        begin: ValueId,
        end: ValueId,
        step: i64,
        next: &[ValueId],
    ) -> Vec<ValueId> {
        self.close_exchanging_loop(open, begin, end, step, next, Vec::new())
    }

    /// As [`FunctionBuilder::close_loop`]; the pairs of buffers trade places after each iteration.
    pub fn close_exchanging_loop(
        &mut self,
        open: OpenLoop,
        begin: ValueId,
        end: ValueId,
        step: i64,
        next: &[ValueId],
        exchanged: Vec<(ParameterId, ParameterId)>,
    ) -> Vec<ValueId> {
        let body = self.close();
        let depth = self.depth();
        let results: Vec<_> = open.inits.iter().map(|v| self.define(self.ty(*v), depth)).collect();
        let carried = open.inits.iter().zip(&open.current).zip(next).zip(&results);
        let carried = carried
            .map(|(((init, value), next), result)| Carried {
                value: *value,
                init: *init,
                next: *next,
                result: *result,
            })
            .collect();
        self.push(Statement::For { counter: open.counter, begin, end, step, carried, exchanged, body });
        results
    }

    /// A counted loop; `body` gets the counter and the carried values and returns the next ones. Returns the
    /// values after the loop.
    pub fn counted_loop(
        &mut self,
        begin: ValueId,
        end: ValueId,
        step: i64,
        inits: &[ValueId],
        body: impl FnOnce(&mut Self, ValueId, &[ValueId]) -> Vec<ValueId>,
    ) -> Vec<ValueId> {
        let open = self.open_loop(inits, false);
        let next = body(self, open.counter, &open.current.clone());
        self.close_loop(open, begin, end, step, &next)
    }

    /// Begins a conditional block. Loads inside stay inside.
    pub fn open_if(&mut self) {
        self.open(true);
    }

    /// Ends a conditional block, which runs where `condition` holds.
    pub fn close_if(&mut self, condition: ValueId) {
        let body = self.close();
        self.push(Statement::If { condition, body });
    }

    fn open(&mut self, barrier: bool) {
        let id = self.next_block;
        self.next_block += 1;
        self.blocks.push(OpenBlock { id, statements: Vec::new(), known: FxHashMap::default(), barrier });
    }

    fn close(&mut self) -> Vec<Statement> {
        self.blocks.pop().map(|b| b.statements).unwrap_or_default()
    }

    /// A primitive of one operand.
    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> ValueId {
        self.operation(self.ty(x), Operation::Unary(op, x))
    }

    /// The sum.
    pub fn add(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::Add, x, y)
    }
    /// The difference.
    pub fn sub(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::Sub, x, y)
    }
    /// The product.
    pub fn mul(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::Mul, x, y)
    }
    /// The quotient of floats.
    pub fn div(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::Div, x, y)
    }
    /// Bitwise or logical conjunction.
    pub fn and(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::And, x, y)
    }
    /// Bitwise or logical disjunction.
    pub fn or(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::Or, x, y)
    }
    /// Bitwise or logical exclusive or.
    pub fn xor(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.binary(BinaryOp::Xor, x, y)
    }
    /// The bits moved up by a constant distance.
    pub fn shift_left(&mut self, x: ValueId, distance: i64) -> ValueId {
        let distance = self.integer_like(x, distance);
        self.binary(BinaryOp::ShiftLeft, x, distance)
    }
    /// The bits moved down by a constant distance, zeros in.
    pub fn shift_right_logical(&mut self, x: ValueId, distance: i64) -> ValueId {
        let distance = self.integer_like(x, distance);
        self.binary(BinaryOp::ShiftRightLogical, x, distance)
    }
    /// The bits moved down by a constant distance, signs in.
    pub fn shift_right_arithmetic(&mut self, x: ValueId, distance: i64) -> ValueId {
        let distance = self.integer_like(x, distance);
        self.binary(BinaryOp::ShiftRightArithmetic, x, distance)
    }
    /// The negation.
    pub fn neg(&mut self, x: ValueId) -> ValueId {
        self.unary(UnaryOp::Neg, x)
    }
    /// The absolute value of a float.
    pub fn abs(&mut self, x: ValueId) -> ValueId {
        self.unary(UnaryOp::Abs, x)
    }
    /// Logical or bitwise negation.
    pub fn not(&mut self, x: ValueId) -> ValueId {
        if let Some(number) = self.as_integer(x) {
            return self.integer_like(x, !number);
        }
        self.unary(UnaryOp::Not, x)
    }
    /// `x·y + z`, rounded once.
    pub fn fma(&mut self, x: ValueId, y: ValueId, z: ValueId) -> ValueId {
        self.operation(self.ty(x), Operation::Fma(x, y, z))
    }
    /// A comparison.
    pub fn compare(&mut self, condition: Condition, x: ValueId, y: ValueId) -> ValueId {
        self.operation(self.ty(x).with_lane(LaneType::Bool), Operation::Compare(condition, x, y))
    }
    /// A comparison with a constant.
    pub fn compare_number(&mut self, condition: Condition, x: ValueId, y: f64) -> ValueId {
        let y = self.number_like(x, y);
        self.compare(condition, x, y)
    }
    /// A comparison with an integer constant.
    pub fn compare_integer(&mut self, condition: Condition, x: ValueId, y: i64) -> ValueId {
        let y = self.integer_like(x, y);
        self.compare(condition, x, y)
    }
    /// `x` where the condition holds, otherwise `y`.
    pub fn select(&mut self, condition: ValueId, x: ValueId, y: ValueId) -> ValueId {
        if x == y {
            return x;
        }
        self.operation(self.ty(x), Operation::Select(condition, x, y))
    }
    /// A conversion to lanes of another type.
    pub fn convert(&mut self, conversion: Conversion, x: ValueId, to: LaneType) -> ValueId {
        if let (Conversion::Bitcast, Some(literal)) = (conversion, self.literals.get(&x)) {
            let same_bits = Literal::from_bits(memory_type(to), literal.bits());
            return self.literal(self.ty(x).with_lane(to), same_bits);
        }
        self.operation(self.ty(x).with_lane(to), Operation::Convert(conversion, x))
    }
    /// The same bits as lanes of another type.
    pub fn bitcast(&mut self, x: ValueId, to: LaneType) -> ValueId {
        self.convert(Conversion::Bitcast, x, to)
    }
    /// A scalar in `lanes` lanes; a vector stays.
    pub fn splat(&mut self, x: ValueId, lanes: u8) -> ValueId {
        let ty = self.ty(x);
        if ty.lanes == lanes {
            return x;
        }
        if let Some(literal) = self.literals.get(&x) {
            return self.literal(Type { lane: ty.lane, lanes }, *literal);
        }
        self.operation(Type { lane: ty.lane, lanes }, Operation::Splat(x))
    }
    /// One lane as a scalar; a scalar stays.
    pub fn extract(&mut self, x: ValueId, lane: u8) -> ValueId {
        let ty = self.ty(x);
        if ty.lanes == 1 {
            return x;
        }
        self.operation(Type::scalar(ty.lane), Operation::Extract(x, lane))
    }
    /// Scalars as the lanes of one vector.
    pub fn pack(&mut self, scalars: &[ValueId]) -> ValueId {
        let lanes = scalars.len() as u8;
        let mut vector = self.splat(scalars[0], lanes);
        for (lane, scalar) in scalars.iter().enumerate().skip(1) {
            if *scalar != scalars[0] {
                let ty = self.ty(vector);
                vector = self.operation(ty, Operation::Insert(vector, *scalar, lane as u8));
            }
        }
        vector
    }

    /// `coefficients[0] + coefficients[1]·x + …` by Horner's rule, every step rounded once.
    pub fn polynomial(&mut self, x: ValueId, coefficients: &[f64]) -> ValueId {
        let mut terms = coefficients.iter().rev();
        let highest = terms.next().copied().unwrap_or(0.0);
        let mut sum = self.number_like(x, highest);
        for c in terms {
            let c = self.number_like(x, *c);
            sum = self.fma(sum, x, c);
        }
        sum
    }
}

/// The element type whose literals are constants of a lane type.
pub(crate) fn memory_type(lane: LaneType) -> DType {
    match lane {
        LaneType::F32 => DType::F32,
        LaneType::F64 => DType::F64,
        LaneType::I32 => DType::I32,
        LaneType::I64 => DType::I64,
        LaneType::Bool => DType::Bool,
    }
}
