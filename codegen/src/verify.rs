//! The verifier of Kernel IR.
//!
//! # Invariants
//! * Every value is defined exactly once, by a `Let`, as a counter, as a carried value or as a loop's result,
//!   and used only after that within the block of the definition (a loop's results: the block of the loop).
//! * Operands and results have the types that the operation asks for; lanes are at least 1; constants have
//!   the element type of their lanes.
//! * Indices, counters and bounds are i64 scalars; conditions of `If` are bool scalars; a loop's step is at
//!   least 1; a carried value, its initial and next value and its result have one type.
//! * A buffer parameter is loaded only if it is read and stored only if it is written; the register type is
//!   that of the element type in memory. One that is both is only in a [`Mapping::Resident`] or a [`Mapping::Clusters`] function. Those that a loop
//!   exchanges hold one element type and are both.
//! * A shared array is one of the function's, which has none on a CPU; its elements are no bools.
//! * `WorkBegin` and `WorkEnd` appear only with [`Mapping::Range`], `WorkItem` only with
//!   [`Mapping::Threads`], `Block`, `Blocks`, `Thread` and `Barrier` only with [`Mapping::Blocks`] and
//!   [`Mapping::Resident`], `GridBarrier` only with the latter. Blocks have 1 to 1024 threads.
//! * `StoreCluster`, `ClusterArrive` and `ClusterWait` are only in a [`Mapping::Clusters`] function, whose clusters have 1, 2, 4
//!   or 8 blocks; the number of the block that a store is to is an i64, and where it is constant, that of one of these.
//! * Products of matrices, what loads and rounds their factors, and copies to shared memory are in functions that map
//!   work to blocks. Matrices are loaded from arrays of i32, 1, 2 or 4 at once. 4, 8 or 16 bytes are copied at once,
//!   to such an array and from a buffer that is only read.
//! * Warp groups multiply in functions whose blocks have whole ones, of 128 threads. Sums have 4 to 128 lanes, a multiple of
//!   4; where the right factor is transposed, of 32. Factors are in arrays of i32 before which a multiple of 1024 bytes
//!   stands. Only 16-bit ones are transposed.
//! * `symbols` ascend by name, and `work` depends on nothing else.

use fuse_ir::DType;
use rustc_hash::FxHashMap;

use crate::builder::memory_type;
use crate::divisors::MOST;
use crate::kernel_ir::{
    Access, BinaryOp, Conversion, Function, GroupFactor, LaneType, Mapping, MatrixFactors, Operation,
    PanelLayout, PanelProduct, ParameterId, SharedId, Statement, Type, UnaryOp, ValueId,
};
use crate::text::statement_head;

/// A function that breaks an invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Kernel IR of `{function}` is invalid: {message}\n  in: {statement}")]
pub struct VerifyError {
    /// The function.
    pub function: String,
    /// The statement, or the part of the header.
    pub statement: String,
    /// The invariant that is broken.
    pub message: String,
}

/// Checks every invariant of the module's list.
///
/// # Errors
/// The first violation, with the statement it is in.
pub fn verify(function: &Function) -> Result<(), VerifyError> {
    let mut verifier = Verifier {
        function,
        state: vec![State::Unseen; function.types.len()],
        scope: Vec::new(),
        constants: FxHashMap::default(),
    };
    verifier.header()?;
    verifier.block(&function.body)?;
    if let Some(missing) = verifier.state.iter().position(|s| *s == State::Unseen) {
        return verifier.header_error(format!("v{missing} is never defined"));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unseen,
    Visible,
    OutOfScope,
}

struct Verifier<'a> {
    function: &'a Function,
    state: Vec<State>,
    /// The visible values, in order of definition.
    scope: Vec<ValueId>,
    /// The constants among scalar i64s.
    constants: FxHashMap<ValueId, i64>,
}

type Checked = Result<(), VerifyError>;

/// Blocks of a cluster that every GPU with clusters has room for.
const MOST_CLUSTERED: u32 = 8;

const INDEX: Type = Type { lane: LaneType::I64, lanes: 1 };

impl Verifier<'_> {
    fn header_error<T>(&self, message: impl Into<String>) -> Result<T, VerifyError> {
        let function = self.function.name.clone();
        Err(VerifyError { function, statement: "the header".into(), message: message.into() })
    }

    fn header(&self) -> Checked {
        let symbols = &self.function.symbols;
        if !symbols.windows(2).all(|pair| pair[0] < pair[1]) {
            return self.header_error("symbols are not distinct and ascending");
        }
        if let Some(s) = self.function.work.symbols().into_iter().find(|s| !symbols.contains(s)) {
            return self.header_error(format!("work depends on `{s}`, which is not a symbol"));
        }
        if !self.function.work.axes().is_empty() {
            return self.header_error("work depends on an axis");
        }
        let mapping = self.function.mapping;
        if let Some(array) = self.function.shared.iter().find(|a| a.lane == LaneType::Bool) {
            return self.header_error(format!("the shared array `{}` is of bools", array.name));
        }
        if !self.function.shared.is_empty() && !mapping.is_by_block() {
            return self.header_error("shared arrays without blocks that share them");
        }
        let updates = |b: &&crate::kernel_ir::BufferParameter| b.access == Access::ReadWrite;
        let resident = matches!(mapping, Mapping::Resident { .. } | Mapping::Clusters { .. });
        if let (false, Some(buffer)) = (resident, self.function.buffers.iter().find(updates)) {
            return self.header_error(format!("`{}` is read and written", buffer.name));
        }
        let odd =
            |b: &&crate::kernel_ir::BufferParameter| !(b.divisor.is_power_of_two() && b.divisor <= MOST);
        if let Some(buffer) = self.function.buffers.iter().find(odd) {
            return self
                .header_error(format!("`{}` has a multiple of {} elements", buffer.name, buffer.divisor));
        }
        if let Some(blocks) = mapping.cluster_blocks()
            && !(blocks.is_power_of_two() && blocks <= MOST_CLUSTERED)
        {
            return self.header_error(format!("a cluster of {blocks} blocks"));
        }
        match mapping.block_threads() {
            Some(threads) if !(1..=1024).contains(&threads) => {
                self.header_error(format!("a block of {threads} threads"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn block(&mut self, body: &[Statement]) -> Checked {
        let outer = self.scope.len();
        self.statements(body)?;
        self.leave(outer);
        Ok(())
    }

    fn statements(&mut self, body: &[Statement]) -> Checked {
        for statement in body {
            if let Err(message) = self.statement(statement)? {
                let function = self.function.name.clone();
                let statement = statement_head(self.function, statement);
                return Err(VerifyError { function, statement, message });
            }
        }
        Ok(())
    }

    /// Ends the scope of the values defined since `outer`.
    fn leave(&mut self, outer: usize) {
        for value in self.scope.drain(outer..) {
            self.state[value.0 as usize] = State::OutOfScope;
        }
    }

    fn define(&mut self, value: ValueId) -> Result<Type, String> {
        let Some(state) = self.state.get_mut(value.0 as usize) else {
            return Err(format!("{value} has no type"));
        };
        if *state != State::Unseen {
            return Err(format!("{value} is defined twice"));
        }
        *state = State::Visible;
        self.scope.push(value);
        match self.function.ty(value) {
            Type { lanes: 0, .. } => Err(format!("{value} has no lanes")),
            ty => Ok(ty),
        }
    }

    fn used(&self, value: ValueId) -> Result<Type, String> {
        match self.state.get(value.0 as usize) {
            Some(State::Visible) => Ok(self.function.ty(value)),
            Some(State::Unseen) => Err(format!("{value} is used before it is defined")),
            Some(State::OutOfScope) => Err(format!("{value} is used outside its block")),
            None => Err(format!("{value} does not exist")),
        }
    }

    fn expect(&self, value: ValueId, ty: Type) -> Result<(), String> {
        let found = self.used(value)?;
        if found == ty { Ok(()) } else { Err(format!("{value} is {found}, not {ty}")) }
    }

    fn expect_float(&self, ty: Type) -> Result<(), String> {
        if ty.lane.is_float() { Ok(()) } else { Err(format!("{ty} is not a type of floats")) }
    }

    fn expect_integer(&self, ty: Type) -> Result<(), String> {
        match ty.lane {
            LaneType::I32 | LaneType::I64 => Ok(()),
            LaneType::F32 | LaneType::F64 | LaneType::Bool => Err(format!("{ty} is not a type of integers")),
        }
    }

    /// Errors of nested statements come as `Err`, those of this one as `Ok(Err)` to be given its text.
    fn statement(&mut self, statement: &Statement) -> Result<Result<(), String>, VerifyError> {
        match statement {
            Statement::Let { value, operation } => {
                let checked = self.operation(*value, operation);
                if let (Ok(()), Operation::Constant(literal)) = (&checked, operation)
                    && self.function.ty(*value) == INDEX
                {
                    self.constants.insert(*value, literal.as_i64());
                }
                Ok(checked)
            }
            Statement::Store { buffer, index, value } => Ok(self.store(*buffer, *index, *value)),
            Statement::StoreShared { array, index, value } => {
                Ok(self.expect(*index, INDEX).and_then(|()| self.shared(*array, self.used(*value)?.lane)))
            }
            Statement::StartCopy { array, to, buffer, from, bytes, inside } => {
                Ok(self.copy(*array, *buffer, *bytes).and_then(|()| {
                    self.expect(*to, INDEX)?;
                    self.expect(*from, INDEX)?;
                    self.expect(*inside, Type::scalar(LaneType::Bool))
                }))
            }
            Statement::Barrier | Statement::CommitCopies | Statement::AwaitCopies { .. } => {
                Ok(self.by_block())
            }
            Statement::GridBarrier => match self.function.mapping {
                Mapping::Resident { .. } => Ok(Ok(())),
                Mapping::Range
                | Mapping::Threads { .. }
                | Mapping::Blocks { .. }
                | Mapping::Clusters { .. } => Ok(Err("the blocks of a launch do not meet".into())),
            },
            Statement::StoreCluster { array, index, value, block } => {
                Ok(self.clustered(Some(*block)).and_then(|()| {
                    self.expect(*index, INDEX)?;
                    self.expect(*block, INDEX)?;
                    self.shared(*array, self.used(*value)?.lane)
                }))
            }
            Statement::ClusterArrive | Statement::ClusterWait => Ok(self.clustered(None)),
            Statement::Prefetch { buffer, index } => Ok(self.prefetch(*buffer, *index)),
            Statement::Product(product) => Ok(self.product(product)),
            Statement::For { counter, begin, end, step, carried, exchanged, body } => {
                let outer = self.scope.len();
                let mut enter = || {
                    self.expect(*begin, INDEX)?;
                    self.expect(*end, INDEX)?;
                    if *step < 1 {
                        return Err(format!("a step of {step}"));
                    }
                    carried.iter().try_for_each(|c| self.used(c.init).map(|_| ()))?;
                    exchanged.iter().try_for_each(|(a, b)| self.exchange(*a, *b))?;
                    if self.define(*counter)? != INDEX {
                        return Err(format!("the counter {counter} is not {INDEX}"));
                    }
                    carried.iter().try_for_each(|c| {
                        let ty = self.define(c.value)?;
                        self.expect(c.init, ty)
                    })
                };
                if let Err(message) = enter() {
                    return Ok(Err(message));
                }
                self.loop_body(body, carried, outer)
            }
            Statement::If { condition, body } => {
                if let Err(message) = self.expect(*condition, Type::scalar(LaneType::Bool)) {
                    return Ok(Err(message));
                }
                self.block(body).map(Ok)
            }
        }
    }

    fn loop_body(
        &mut self,
        body: &[Statement],
        carried: &[crate::kernel_ir::Carried],
        outer: usize,
    ) -> Result<Result<(), String>, VerifyError> {
        self.statements(body)?;
        // The next values live in the body, so they are checked before its values go out of scope.
        let next = carried.iter().try_for_each(|c| self.expect(c.next, self.function.ty(c.value)));
        self.leave(outer);
        if next.is_err() {
            return Ok(next);
        }
        Ok(carried.iter().try_for_each(|c| {
            let (expected, found) = (self.function.ty(c.value), self.define(c.result)?);
            if expected == found { Ok(()) } else { Err(format!("{} is {found}, not {expected}", c.result)) }
        }))
    }

    fn access(&self, buffer: ParameterId, access: Access, lane: LaneType) -> Result<(), String> {
        let Some(parameter) = self.function.buffers.get(buffer.0 as usize) else {
            return Err(format!("{buffer} does not exist"));
        };
        if parameter.access != access && parameter.access != Access::ReadWrite {
            let direction = if access == Access::Read { "written, not read" } else { "read, not written" };
            return Err(format!("{buffer} is {direction}"));
        }
        let register = LaneType::of_memory(parameter.dtype);
        if register != lane {
            let (dtype, register, lane) = (parameter.dtype, register.name(), lane.name());
            return Err(format!("{buffer} holds {dtype}, whose registers are {register}, not {lane}"));
        }
        Ok(())
    }

    fn store(&self, buffer: ParameterId, index: ValueId, value: ValueId) -> Result<(), String> {
        self.expect(index, INDEX)?;
        let ty = self.used(value)?;
        self.access(buffer, Access::Write, ty.lane)
    }

    fn shared(&self, array: SharedId, lane: LaneType) -> Result<(), String> {
        match self.function.shared.get(array.0 as usize) {
            None => Err(format!("{array} does not exist")),
            Some(found) if found.lane != lane => {
                Err(format!("{array} holds {}, not {}", found.lane.name(), lane.name()))
            }
            Some(_) => Ok(()),
        }
    }

    fn copy(&self, array: SharedId, buffer: ParameterId, bytes: u8) -> Result<(), String> {
        self.by_block()?;
        self.shared(array, LaneType::I32)?;
        if !matches!(bytes, 4 | 8 | 16) {
            return Err(format!("{bytes} bytes are not copied at once"));
        }
        match self.function.buffers.get(buffer.0 as usize) {
            Some(from) if from.access != Access::Read => Err(format!("{buffer} is not only read")),
            Some(from) if usize::from(bytes) < from.dtype.size() => {
                Err(format!("{bytes} bytes are no whole element of {buffer}"))
            }
            Some(_) => Ok(()),
            None => Err(format!("{buffer} does not exist")),
        }
    }

    /// Refuses what only blocks of clusters do, and a block that they do not have, as far as that is known.
    fn clustered(&self, block: Option<ValueId>) -> Result<(), String> {
        let Some(blocks) = self.function.mapping.cluster_blocks() else {
            return Err("blocks are not in clusters".into());
        };
        match block.and_then(|block| self.constants.get(&block)) {
            Some(block) if !(0..i64::from(blocks)).contains(block) => {
                Err(format!("a cluster of {blocks} blocks has no block {block}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn by_block(&self) -> Result<(), String> {
        if self.function.mapping.is_by_block() { Ok(()) } else { Err("work is not mapped to blocks".into()) }
    }

    fn exchange(&self, a: ParameterId, b: ParameterId) -> Result<(), String> {
        let dtype = |p: ParameterId| match self.function.buffers.get(p.0 as usize) {
            Some(buffer) if buffer.access == Access::ReadWrite => Ok(buffer.dtype),
            Some(_) => Err(format!("{p} is exchanged and not both read and written")),
            None => Err(format!("{p} does not exist")),
        };
        if dtype(a)? == dtype(b)? { Ok(()) } else { Err(format!("{a} and {b} hold different types")) }
    }

    fn prefetch(&self, buffer: ParameterId, index: ValueId) -> Result<(), String> {
        self.expect(index, INDEX)?;
        let known = self.function.buffers.get(buffer.0 as usize);
        known.map(drop).ok_or_else(|| format!("there is no buffer {buffer}"))
    }

    fn product(&self, product: &PanelProduct) -> Result<(), String> {
        if self.function.mapping != Mapping::Range {
            return Err("only ranges have products with panels".into());
        }
        if product.width < 1 || product.columns.is_empty() {
            return Err("a product has at least one column".into());
        }
        let PanelLayout { along, across } = product.layout;
        if along < 1 || across < 1 || (along > 1 && across > 1) {
            return Err("a panel is contiguous along its sums or across its columns".into());
        }
        let PanelProduct { rows, count, from, left_step, to_step, .. } = product;
        [rows, count, from, left_step, to_step].into_iter().try_for_each(|v| self.expect(*v, INDEX))?;
        self.access(product.left, Access::Read, LaneType::F32)?;
        product.columns.iter().try_for_each(|c| {
            self.expect(c.at, INDEX)?;
            self.expect(c.to_index, INDEX)?;
            self.access(c.panel, Access::Read, LaneType::F32)?;
            self.access(c.to, Access::Write, LaneType::F32)
        })
    }

    fn operation(&mut self, value: ValueId, operation: &Operation) -> Result<(), String> {
        let Some(ty) = self.function.types.get(value.0 as usize).copied() else {
            return Err(format!("{value} has no type"));
        };
        self.operands(ty, operation)?;
        self.define(value).map(|_| ())
    }

    fn operands(&self, ty: Type, operation: &Operation) -> Result<(), String> {
        let result = |expected: Type| {
            if expected == ty { Ok(()) } else { Err(format!("the result is {expected}, not {ty}")) }
        };
        let range = matches!(self.function.mapping, Mapping::Range);
        match operation {
            Operation::Constant(literal) => {
                let expected = memory_type(ty.lane);
                if literal.dtype() == expected {
                    Ok(())
                } else {
                    Err(format!("a constant of {} in lanes of {expected}", literal.dtype()))
                }
            }
            Operation::Symbol(position) if (*position as usize) < self.function.symbols.len() => {
                result(INDEX)
            }
            Operation::Symbol(position) => Err(format!("there is no symbol number {position}")),
            Operation::WorkBegin | Operation::WorkEnd if !range => Err("work is not mapped to ranges".into()),
            Operation::WorkItem if !matches!(self.function.mapping, Mapping::Threads { .. }) => {
                Err("work is not mapped to threads".into())
            }
            Operation::WorkBegin | Operation::WorkEnd | Operation::WorkItem => result(INDEX),
            Operation::Block | Operation::Blocks | Operation::Thread => {
                self.by_block()?;
                result(INDEX)
            }
            Operation::LoadShared { array, index } => {
                self.expect(*index, INDEX)?;
                self.shared(*array, ty.lane)
            }
            Operation::Load { buffer, index } => {
                self.expect(*index, INDEX)?;
                self.access(*buffer, Access::Read, ty.lane)
            }
            Operation::LoadMatrices { array, index, transposed: _ } => {
                self.by_block()?;
                self.expect(*index, INDEX)?;
                self.shared(*array, LaneType::I32)?;
                if ty.lane != LaneType::I32 || !matches!(ty.lanes, 1 | 2 | 4) {
                    return Err(format!("{ty} is not what matrices are loaded to"));
                }
                Ok(())
            }
            Operation::Pair(dtype, x, y) => {
                self.by_block()?;
                if !matches!(dtype, DType::F16 | DType::Bf16) {
                    return Err(format!("an i32 does not hold two of {dtype}"));
                }
                self.expect(*x, Type::scalar(LaneType::F32))?;
                self.expect(*y, Type::scalar(LaneType::F32))?;
                result(Type::scalar(LaneType::I32))
            }
            Operation::Tf32(x) => {
                self.by_block()?;
                self.expect(*x, Type::scalar(LaneType::F32))?;
                result(Type::scalar(LaneType::I32))
            }
            Operation::MatrixFma { factors: _, left, right, sum } => {
                self.by_block()?;
                let of = |lane, lanes| Type { lane, lanes };
                self.expect(*left, of(LaneType::I32, 4))?;
                self.expect(*right, of(LaneType::I32, 2))?;
                self.expect(*sum, of(LaneType::F32, 4))?;
                result(of(LaneType::F32, 4))
            }
            Operation::GroupFma { factors, left, right, sum } => {
                self.expect(*sum, ty)?;
                self.group_fma(*factors, [left, right], ty)
            }
            Operation::Butterfly(x, distance) => {
                self.by_block()?;
                self.expect(*x, ty)?;
                let fits = ty.lanes == 1 && matches!(ty.lane, LaneType::F32 | LaneType::I32);
                if !fits || !(1..32).contains(distance) {
                    return Err(format!("{ty} is not exchanged at a distance of {distance}"));
                }
                Ok(())
            }
            Operation::Unary(op, x) => {
                self.expect(*x, ty)?;
                self.unary(*op, ty)
            }
            Operation::Binary(op, x, y) => {
                self.expect(*x, ty)?;
                self.expect(*y, ty)?;
                self.binary(*op, ty)
            }
            Operation::Fma(x, y, z) => {
                [x, y, z].into_iter().try_for_each(|v| self.expect(*v, ty))?;
                self.expect_float(ty)
            }
            Operation::Compare(condition, x, y) => {
                let operand = self.used(*x)?;
                self.expect(*y, operand)?;
                let ordered =
                    !matches!(condition, crate::kernel_ir::Condition::Eq | crate::kernel_ir::Condition::Ne);
                if ordered && operand.lane == LaneType::Bool {
                    return Err("bools have no order".into());
                }
                result(operand.with_lane(LaneType::Bool))
            }
            Operation::Select(condition, x, y) => {
                self.expect(*condition, ty.with_lane(LaneType::Bool))?;
                self.expect(*x, ty)?;
                self.expect(*y, ty)
            }
            Operation::Convert(conversion, x) => self.conversion(*conversion, self.used(*x)?, ty),
            Operation::Splat(x) => self.expect(*x, Type::scalar(ty.lane)),
            Operation::LaneIndex => result(ty.with_lane(LaneType::I32)),
            Operation::Extract(x, lane) => {
                let vector = self.used(*x)?;
                if vector.lanes < 2 || *lane >= vector.lanes {
                    return Err(format!("{x} is {vector}, which has no lane {lane} to take"));
                }
                result(Type::scalar(vector.lane))
            }
            Operation::Insert(vector, scalar, lane) => {
                self.expect(*vector, ty)?;
                self.expect(*scalar, Type::scalar(ty.lane))?;
                if ty.lanes < 2 || *lane >= ty.lanes {
                    return Err(format!("{ty} has no lane {lane} to replace"));
                }
                Ok(())
            }
        }
    }

    fn group_fma(
        &self,
        factors: MatrixFactors,
        [left, right]: [&GroupFactor; 2],
        ty: Type,
    ) -> Result<(), String> {
        if !self.function.mapping.is_by_block()
            || self.function.mapping.block_threads().is_none_or(|n| !n.is_multiple_of(GroupFactor::THREADS))
        {
            return Err("blocks are not of whole warp groups".into());
        }
        if ty.lane != LaneType::F32 || !ty.lanes.is_multiple_of(4) || ty.lanes > 128 {
            return Err(format!("{ty} is not what a thread of a warp group has of the sums"));
        }
        for factor in [left, right] {
            self.expect(factor.index, INDEX)?;
            self.shared(factor.array, LaneType::I32)?;
            let before = self.function.shared.iter().take(factor.array.0 as usize);
            let offset = before.fold(0u32, |sum, array| sum.saturating_add(array.bytes()));
            if !offset.is_multiple_of(GroupFactor::ALIGNMENT) {
                return Err(format!("{} does not begin at a multiple of 1024 bytes", factor.array));
            }
            if factor.transposed && factors.per_word() == 1 {
                return Err("only factors of 16 bits are multiplied transposed".into());
            }
        }
        if right.transposed && !(2 * u32::from(ty.lanes)).is_multiple_of(GroupFactor::SIDE) {
            return Err("columns across the summed axis come 64 at a time".into());
        }
        Ok(())
    }

    fn unary(&self, op: UnaryOp, ty: Type) -> Result<(), String> {
        match op {
            UnaryOp::Abs | UnaryOp::Sqrt | UnaryOp::Floor | UnaryOp::Ceil => self.expect_float(ty),
            UnaryOp::Trunc | UnaryOp::Nearest => self.expect_float(ty),
            UnaryOp::Neg if ty.lane == LaneType::Bool => Err("bools have no negation but `not`".into()),
            UnaryOp::Neg => Ok(()),
            UnaryOp::Not if ty.lane.is_float() => Err(format!("{ty} is a type of floats")),
            UnaryOp::Not => Ok(()),
        }
    }

    fn binary(&self, op: BinaryOp, ty: Type) -> Result<(), String> {
        match op {
            BinaryOp::Div => self.expect_float(ty),
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Min | BinaryOp::Max => {
                if ty.lane == LaneType::Bool { Err("bools have no arithmetic".into()) } else { Ok(()) }
            }
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
                if ty.lane.is_float() {
                    Err(format!("{ty} is a type of floats"))
                } else {
                    Ok(())
                }
            }
            BinaryOp::IntDiv
            | BinaryOp::IntRem
            | BinaryOp::ShiftLeft
            | BinaryOp::ShiftRightLogical
            | BinaryOp::ShiftRightArithmetic => self.expect_integer(ty),
        }
    }

    fn conversion(&self, conversion: Conversion, from: Type, to: Type) -> Result<(), String> {
        use LaneType::{Bool, F32, F64, I32, I64};
        if from.lanes != to.lanes {
            return Err(format!("{from} and {to} have different numbers of lanes"));
        }
        let fits = match conversion {
            Conversion::FloatToFloat => matches!((from.lane, to.lane), (F32, F64) | (F64, F32)),
            Conversion::IntToFloat => matches!((from.lane, to.lane), (I32 | I64, F32 | F64)),
            Conversion::FloatToInt => matches!((from.lane, to.lane), (F32 | F64, I32 | I64)),
            Conversion::IntToInt => matches!((from.lane, to.lane), (I32, I64) | (I64, I32)),
            Conversion::ZeroExtend => matches!((from.lane, to.lane), (I32, I64)),
            Conversion::Bitcast => {
                matches!((from.lane, to.lane), (F32, I32) | (I32, F32) | (F64, I64) | (I64, F64))
            }
            Conversion::BoolToInt => matches!((from.lane, to.lane), (Bool, I32)),
            Conversion::HalfToFloat => matches!((from.lane, to.lane), (I32, F32)),
        };
        if fits { Ok(()) } else { Err(format!("no such conversion from {from} to {to}")) }
    }
}
