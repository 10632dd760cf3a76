//! What Kernel IR means: a plain interpreter of one [`Function`] over buffers of bytes.
//!
//! It is the oracle that the emitters are compared with, so it favours the obvious: every value is a list of
//! lanes, every lane a Rust number, every access is checked. Nothing here is shared with an emitter.
//!
//! [`evaluate`] does one call (a range of work items), one GPU thread or one block of them that work together;
//! [`evaluate_all`] does a launch.
//!
//! # Errors
//! What Kernel IR leaves to its maker is an error here and never a silent value: an access outside a buffer
//! or against its declared direction, an integer division by zero, a counter past the end of i64, an operand
//! of the wrong type, a value that has no definition, threads that do not meet where they must.

mod copies;
mod group;
mod lane;
mod shared;
mod team;

use fuse_ir::DType;
use fuse_ir::expr::{DimEnv, EvalError};

use crate::kernel_ir::{
    Access, Carried, Function, LaneType, Mapping, Operation, PanelProduct, ParameterId, Statement, Type,
    ValueId,
};
use copies::Copies;
use lane::{Lane, binary, compare, constant, convert, fma, pair, read, tf32, unary, write};
use shared::{Shared, User};
use team::Team;

/// Which part of a launch a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The items `begin..end` of a function with [`Mapping::Range`].
    Range {
        /// The first item.
        begin: i64,
        /// One past the last item.
        end: i64,
    },
    /// The thread of that number of a function with [`Mapping::Threads`]; may lie past the last item.
    Item(i64),
    /// A block of that number, of so many, of a function with [`Mapping::Blocks`].
    Block {
        /// The number of the block.
        block: i64,
        /// How many there are.
        blocks: i64,
    },
    /// The blocks of a cluster, of so many blocks in all, of a function with [`Mapping::Clusters`].
    Cluster {
        /// The number of the first block.
        first: i64,
        /// How many blocks there are.
        blocks: i64,
    },
}

/// Why a function could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The caller passed another number of buffers or symbols than the function declares.
    #[error("`{function}` takes {expected} {what}, {given} were given")]
    Arguments {
        /// The function.
        function: String,
        /// `buffers` or `symbols`.
        what: &'static str,
        /// What it declares.
        expected: usize,
        /// What the caller passed.
        given: usize,
    },
    /// An access outside its buffer.
    #[error("`{function}` accesses element {index} of `{buffer}`, which has {elements} (lanes: {lanes})")]
    OutOfBounds {
        /// The function.
        function: String,
        /// The buffer.
        buffer: String,
        /// The first element.
        index: i64,
        /// The number of elements accessed.
        lanes: u8,
        /// The number of elements in the buffer.
        elements: usize,
    },
    /// A store to a buffer that is only read, or a load from one that is only written.
    #[error("`{function}` uses `{buffer}` against its declared access")]
    Access {
        /// The function.
        function: String,
        /// The buffer.
        buffer: String,
    },
    /// The function itself is malformed or breaks a condition of an operation.
    #[error("`{function}`: value v{value}: {what}")]
    Invalid {
        /// The function.
        function: String,
        /// The value that was being computed.
        value: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// Threads wait for others that do not run at the same time here: a thread alone, or the blocks of a launch.
    #[error("`{0}` waits for threads that are not evaluated at the same time")]
    Blocks(String),
    /// A warp multiplies matrices, each thread with words of its own: what the simulated GPU has alone.
    #[error("`{0}` multiplies matrices that a warp holds, which is not evaluated")]
    Matrices(String),
    /// Threads that must meet are on different ways.
    #[error("`{0}` has a place where threads meet that only some of them reach")]
    Diverged(String),
    /// The number of work items has no value.
    #[error(transparent)]
    Dimension(#[from] EvalError),
}

/// Evaluates one call or one thread of `function` over `buffers` (one for each buffer parameter, elements in
/// native byte order) and `symbols` (the values of [`Function::symbols`]).
///
/// # Errors
/// See the module. Buffers keep what was stored before the error.
pub fn evaluate(
    function: &Function,
    buffers: &mut [Vec<u8>],
    symbols: &[i64],
    work: Work,
) -> Result<(), EvaluationError> {
    let check = |what, expected, given| {
        let function = function.name.clone();
        if expected == given {
            Ok(())
        } else {
            Err(EvaluationError::Arguments { function, what, expected, given })
        }
    };
    check("buffers", function.buffers.len(), buffers.len())?;
    check("symbols", function.symbols.len(), symbols.len())?;
    let values = vec![None; function.types.len()];
    let together = match work {
        Work::Cluster { .. } => function.mapping.cluster_blocks().unwrap_or(1) as usize,
        Work::Range { .. } | Work::Item(_) | Work::Block { .. } => 1,
    };
    let shared = Shared::new(&function.shared, together);
    let user = User { block: 0, thread: 0 };
    let copies = Copies::default();
    let mut machine = Machine { function, buffers, symbols, work, user, shared, values, copies };
    match work {
        Work::Range { .. } | Work::Item(_) => machine.statements(&function.body),
        Work::Block { .. } | Work::Cluster { .. } => Team::new(machine, together).run(),
    }
}

/// Evaluates a whole launch: the range of all items in one call, or every thread of every block one after
/// another, those past the last item too. Threads of a block that works together take each statement together.
///
/// # Errors
/// As [`evaluate`], or a dimension that `dims` leaves without a value.
pub fn evaluate_all(
    function: &Function,
    buffers: &mut [Vec<u8>],
    dims: &DimEnv,
) -> Result<(), EvaluationError> {
    let value = |s: &fuse_ir::expr::Symbol| dims.get(s).ok_or_else(|| EvalError::Unbound(s.clone()));
    let symbols = function.symbols.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    let items = function.work.eval_dim(dims)?;
    match function.mapping {
        Mapping::Range => evaluate(function, buffers, &symbols, Work::Range { begin: 0, end: items }),
        Mapping::Threads { block } => {
            let block = i64::from(block.max(1));
            let threads = items.saturating_add(block - 1) / block * block;
            (0..threads).try_for_each(|item| evaluate(function, buffers, &symbols, Work::Item(item)))
        }
        Mapping::Blocks { .. } => (0..items).try_for_each(|block| {
            evaluate(function, buffers, &symbols, Work::Block { block, blocks: items })
        }),
        Mapping::Clusters { blocks, .. } => {
            let clusters = (0..items).step_by(blocks.max(1) as usize);
            clusters.into_iter().try_for_each(|first| {
                evaluate(function, buffers, &symbols, Work::Cluster { first, blocks: items })
            })
        }
        // Blocks that wait for each other are run by the simulated GPU alone.
        Mapping::Resident { .. } => Err(EvaluationError::Blocks(function.name.clone())),
    }
}

type Register = Vec<Lane>;

type Evaluated<T> = Result<T, EvaluationError>;

/// The state of one call.
struct Machine<'a> {
    function: &'a Function,
    buffers: &'a mut [Vec<u8>],
    symbols: &'a [i64],
    work: Work,
    /// The thread.
    user: User,
    shared: Shared,
    values: Vec<Option<Register>>,
    /// What the thread began to copy.
    copies: Copies,
}

/// A loop without its body.
struct Head<'a> {
    counter: ValueId,
    begin: ValueId,
    end: ValueId,
    step: i64,
    carried: &'a [Carried],
}

/// Where a loop is.
struct Running {
    position: i64,
    end: i64,
    carried: Vec<Register>,
}

impl Machine<'_> {
    fn invalid(&self, value: ValueId, what: &'static str) -> EvaluationError {
        EvaluationError::Invalid { function: self.function.name.clone(), value: value.0, what }
    }

    fn ty(&self, value: ValueId) -> Result<Type, EvaluationError> {
        self.function.types.get(value.0 as usize).copied().ok_or_else(|| self.invalid(value, "has no type"))
    }

    fn get(&self, value: ValueId) -> Evaluated<Register> {
        let defined = self.values.get(value.0 as usize).cloned().flatten();
        defined.ok_or_else(|| self.invalid(value, "is used before it is defined"))
    }

    /// Defines a value; its lanes must be of its declared type.
    fn set(&mut self, value: ValueId, register: Register) -> Evaluated<()> {
        let ty = self.ty(value)?;
        if register.len() != usize::from(ty.lanes) || register.iter().any(|lane| lane.ty() != ty.lane) {
            return Err(self.invalid(value, "has another type than declared"));
        }
        self.values[value.0 as usize] = Some(register);
        Ok(())
    }

    fn scalar_i64(&self, value: ValueId) -> Result<i64, EvaluationError> {
        match self.get(value)?.as_slice() {
            [Lane::I64(x)] => Ok(*x),
            _ => Err(self.invalid(value, "is not an i64 scalar")),
        }
    }

    fn statements(&mut self, body: &[Statement]) -> Evaluated<()> {
        body.iter().try_for_each(|statement| self.statement(statement))
    }

    /// A statement, by a thread that waits for no other.
    fn statement(&mut self, statement: &Statement) -> Evaluated<()> {
        match statement {
            Statement::Let { value, operation } => {
                let register = self.operation(*value, operation)?;
                self.set(*value, register)
            }
            Statement::Store { buffer, index, value } => self.store(*buffer, *index, *value),
            Statement::StoreShared { array, index, value } => {
                let (at, register) = (self.scalar_i64(*index)?, self.get(*value)?);
                let stored = self.shared.store(self.user, self.user.block, array.0 as usize, at, &register);
                stored.map_err(|what| self.invalid(*value, what))
            }
            Statement::StoreCluster { array, index, value, block } => {
                let (at, register) = (self.scalar_i64(*index)?, self.get(*value)?);
                let block = usize::try_from(self.scalar_i64(*block)?);
                let block = block.map_err(|_| self.invalid(*value, "is for a block of a negative number"))?;
                let stored = self.shared.store(self.user, block, array.0 as usize, at, &register);
                stored.map_err(|what| self.invalid(*value, what))
            }
            Statement::Prefetch { .. } => Ok(()),
            Statement::Product(product) => self.product(product),
            Statement::For { counter, begin, end, step, carried, body, .. } => {
                let head = Head { counter: *counter, begin: *begin, end: *end, step: *step, carried };
                let mut running = self.enter(&head)?;
                while running.position < running.end {
                    self.begin_iteration(&head, &running)?;
                    self.statements(body)?;
                    self.end_iteration(&head, &mut running)?;
                }
                self.leave(&head, running)
            }
            Statement::If { condition, body } => {
                if self.holds(*condition)? {
                    self.statements(body)
                } else {
                    Ok(())
                }
            }
            Statement::Barrier
            | Statement::GridBarrier
            | Statement::ClusterArrive
            | Statement::ClusterWait => Err(EvaluationError::Blocks(self.function.name.clone())),
            Statement::StartCopy { array, to, buffer, from, bytes, inside } => {
                let source = (*buffer, *from, *inside);
                self.start_copy((array.0 as usize, *to), source, usize::from(*bytes))
            }
            Statement::CommitCopies => {
                self.copies.commit();
                Ok(())
            }
            Statement::AwaitCopies { pending } => self.await_copies(usize::from(*pending)),
        }
    }

    fn product(&mut self, product: &PanelProduct) -> Evaluated<()> {
        let PanelProduct { rows, count, left, from, left_step, width, layout, to_step, columns } = product;
        let [rows, count, from] = [rows, count, from].map(|v| self.scalar_i64(*v));
        let [left_step, to_step] = [left_step, to_step].map(|v| self.scalar_i64(*v));
        let (rows, count, from, left_step, to_step) = (rows?, count?, from?, left_step?, to_step?);
        let [along, across] = [layout.along, layout.across].map(i64::from);
        for column in columns {
            let (at, to) = (self.scalar_i64(column.at)?, self.scalar_i64(column.to_index)?);
            for (r, j) in (0..rows).flat_map(|r| (0..i64::from(*width)).map(move |j| (r, j))) {
                let mut sum = 0f32;
                for k in 0..count {
                    let x = self.float(*left, from + r * left_step + k, product.rows)?;
                    let y = self.float(column.panel, at + k * along + j * across, product.rows)?;
                    sum = x.mul_add(y, sum);
                }
                let (_, bytes) = self.bytes(column.to, to + r * to_step + j, 1, Access::Write)?;
                write(Lane::F32(sum), bytes);
            }
        }
        Ok(())
    }

    /// An f32 in memory, for what a value is part of.
    fn float(&mut self, buffer: ParameterId, index: i64, value: ValueId) -> Evaluated<f32> {
        let (dtype, bytes) = self.bytes(buffer, index, 1, Access::Read)?;
        match read(dtype, bytes) {
            Lane::F32(x) => Ok(x),
            _ => Err(self.invalid(value, "is of a product of other numbers than f32")),
        }
    }

    fn holds(&self, condition: ValueId) -> Evaluated<bool> {
        match self.get(condition)?.as_slice() {
            [Lane::Bool(holds)] => Ok(*holds),
            _ => Err(self.invalid(condition, "is not a bool scalar")),
        }
    }

    fn enter(&self, head: &Head) -> Evaluated<Running> {
        if head.step < 1 {
            return Err(self.invalid(head.counter, "counts by less than 1"));
        }
        let (position, end) = (self.scalar_i64(head.begin)?, self.scalar_i64(head.end)?);
        let carried = head.carried.iter().map(|c| self.get(c.init)).collect::<Evaluated<_>>()?;
        Ok(Running { position, end, carried })
    }

    fn begin_iteration(&mut self, head: &Head, running: &Running) -> Evaluated<()> {
        self.set(head.counter, vec![Lane::I64(running.position)])?;
        let carried = head.carried.iter().zip(&running.carried);
        carried.into_iter().try_for_each(|(c, register)| self.set(c.value, register.clone()))
    }

    fn end_iteration(&self, head: &Head, running: &mut Running) -> Evaluated<()> {
        running.carried = head.carried.iter().map(|c| self.get(c.next)).collect::<Evaluated<_>>()?;
        let next = running.position.checked_add(head.step);
        running.position = next.ok_or_else(|| self.invalid(head.counter, "overflows"))?;
        Ok(())
    }

    fn leave(&mut self, head: &Head, running: Running) -> Evaluated<()> {
        head.carried.iter().zip(running.carried).try_for_each(|(c, register)| self.set(c.result, register))
    }

    /// The bytes of `lanes` elements of a buffer, after the checks of an access.
    fn bytes(
        &mut self,
        parameter: ParameterId,
        index: i64,
        lanes: u8,
        access: Access,
    ) -> Result<(DType, &mut [u8]), EvaluationError> {
        let declared = self.function.buffers.get(parameter.0 as usize);
        let memory = self.buffers.get_mut(parameter.0 as usize);
        let (Some(declared), Some(memory)) = (declared, memory) else {
            let function = self.function.name.clone();
            return Err(EvaluationError::Access { function, buffer: format!("#{}", parameter.0) });
        };
        let (function, buffer) = (self.function.name.clone(), declared.name.clone());
        if declared.access != access && declared.access != Access::ReadWrite {
            return Err(EvaluationError::Access { function, buffer });
        }
        let elements = memory.len() / declared.dtype.size();
        let first = usize::try_from(index).ok();
        let last = first.and_then(|f| f.checked_add(usize::from(lanes))).filter(|last| *last <= elements);
        match (first, last) {
            (Some(first), Some(last)) => {
                let size = declared.dtype.size();
                Ok((declared.dtype, &mut memory[first * size..last * size]))
            }
            _ => Err(EvaluationError::OutOfBounds { function, buffer, index, lanes, elements }),
        }
    }

    fn load(&mut self, value: ValueId, buffer: ParameterId, index: i64) -> Evaluated<Register> {
        let lanes = self.ty(value)?.lanes;
        let (dtype, bytes) = self.bytes(buffer, index, lanes, Access::Read)?;
        Ok(bytes.chunks_exact(dtype.size()).map(|element| read(dtype, element)).collect())
    }

    fn store(&mut self, buffer: ParameterId, index: ValueId, value: ValueId) -> Evaluated<()> {
        let (index, register) = (self.scalar_i64(index)?, self.get(value)?);
        let lanes = self.ty(value)?.lanes;
        let (dtype, bytes) = self.bytes(buffer, index, lanes, Access::Write)?;
        if register.iter().any(|lane| lane.ty() != LaneType::of_memory(dtype)) {
            return Err(self.invalid(value, "cannot be stored to memory of that type"));
        }
        for (lane, element) in register.iter().zip(bytes.chunks_exact_mut(dtype.size())) {
            write(*lane, element);
        }
        Ok(())
    }

    fn operation(&mut self, value: ValueId, operation: &Operation) -> Evaluated<Register> {
        let ty = self.ty(value)?;
        let typed =
            |lane: Option<Lane>| lane.ok_or_else(|| self.invalid(value, "has operands of wrong types"));
        match operation {
            Operation::Constant(literal) => Ok(vec![constant(*literal); usize::from(ty.lanes)]),
            Operation::Symbol(position) => match self.symbols.get(*position as usize) {
                Some(x) => Ok(vec![Lane::I64(*x)]),
                None => Err(self.invalid(value, "is a symbol that the function does not have")),
            },
            Operation::WorkBegin | Operation::WorkEnd | Operation::WorkItem => {
                let item = match (operation, self.work) {
                    (Operation::WorkBegin, Work::Range { begin, .. }) => begin,
                    (Operation::WorkEnd, Work::Range { end, .. }) => end,
                    (Operation::WorkItem, Work::Item(item)) => item,
                    _ => return Err(self.invalid(value, "belongs to the other mapping of work")),
                };
                Ok(vec![Lane::I64(item)])
            }
            Operation::Block | Operation::Blocks | Operation::Thread => {
                let number = match (operation, self.work) {
                    (Operation::Block, Work::Block { block, .. }) => block,
                    (Operation::Block, Work::Cluster { first, .. }) => first + self.user.block as i64,
                    (Operation::Blocks, Work::Block { blocks, .. } | Work::Cluster { blocks, .. }) => blocks,
                    (Operation::Thread, Work::Block { .. } | Work::Cluster { .. }) => self.user.thread,
                    _ => return Err(self.invalid(value, "belongs to the other mapping of work")),
                };
                Ok(vec![Lane::I64(number)])
            }
            Operation::LoadShared { array, index } => {
                let index = self.scalar_i64(*index)?;
                let loaded = self.shared.load(self.user, array.0 as usize, index, usize::from(ty.lanes));
                loaded.map_err(|what| self.invalid(value, what))
            }
            Operation::LoadMatrices { .. } | Operation::MatrixFma { .. } => {
                Err(EvaluationError::Matrices(self.function.name.clone()))
            }
            Operation::Pair(dtype, x, y) => {
                let [x, y] = [x, y].map(|x| self.get(*x));
                match (x?.as_slice(), y?.as_slice()) {
                    ([Lane::F32(x)], [Lane::F32(y)]) => Ok(vec![pair(*dtype, *x, *y)]),
                    _ => Err(self.invalid(value, "has operands of wrong types")),
                }
            }
            Operation::Tf32(x) => match self.get(*x)?.as_slice() {
                [Lane::F32(x)] => Ok(vec![tf32(*x)]),
                _ => Err(self.invalid(value, "has operands of wrong types")),
            },
            Operation::Butterfly(..) | Operation::GroupFma { .. } => {
                Err(self.invalid(value, "is for threads that run together"))
            }
            Operation::Load { buffer, index } => {
                let index = self.scalar_i64(*index)?;
                self.load(value, *buffer, index)
            }
            Operation::Unary(op, x) => self.get(*x)?.iter().map(|x| typed(unary(*op, *x))).collect(),
            Operation::Binary(op, x, y) => {
                let (x, y) = (self.get(*x)?, self.get(*y)?);
                self.same_lanes(value, &x, &y)?;
                x.iter().zip(&y).map(|(x, y)| typed(binary(*op, *x, *y))).collect()
            }
            Operation::Fma(x, y, z) => {
                let (x, y, z) = (self.get(*x)?, self.get(*y)?, self.get(*z)?);
                self.same_lanes(value, &x, &y)?;
                self.same_lanes(value, &x, &z)?;
                x.iter().zip(&y).zip(&z).map(|((x, y), z)| typed(fma(*x, *y, *z))).collect()
            }
            Operation::Compare(condition, x, y) => {
                let (x, y) = (self.get(*x)?, self.get(*y)?);
                self.same_lanes(value, &x, &y)?;
                x.iter().zip(&y).map(|(x, y)| typed(compare(*condition, *x, *y))).collect()
            }
            Operation::Select(condition, x, y) => {
                let (condition, x, y) = (self.get(*condition)?, self.get(*x)?, self.get(*y)?);
                self.same_lanes(value, &condition, &x)?;
                self.same_lanes(value, &condition, &y)?;
                let choose = |((c, x), y): ((&Lane, &Lane), &Lane)| match c {
                    Lane::Bool(c) => Some(if *c { *x } else { *y }),
                    _ => None,
                };
                condition.iter().zip(&x).zip(&y).map(|lanes| typed(choose(lanes))).collect()
            }
            Operation::Convert(conversion, x) => {
                self.get(*x)?.iter().map(|x| typed(convert(*conversion, *x, ty.lane))).collect()
            }
            Operation::Splat(x) => match self.get(*x)?.as_slice() {
                [lane] => Ok(vec![*lane; usize::from(ty.lanes)]),
                _ => Err(self.invalid(*x, "is not a scalar")),
            },
            Operation::LaneIndex => Ok((0..ty.lanes).map(|lane| Lane::I32(i32::from(lane))).collect()),
            Operation::Extract(x, lane) => match self.get(*x)?.get(usize::from(*lane)) {
                Some(lane) => Ok(vec![*lane]),
                None => Err(self.invalid(*x, "has no such lane")),
            },
            Operation::Insert(vector, scalar, lane) => {
                let mut register = self.get(*vector)?;
                match (register.get_mut(usize::from(*lane)), self.get(*scalar)?.as_slice()) {
                    (Some(slot), [x]) => *slot = *x,
                    _ => return Err(self.invalid(*vector, "has no such lane")),
                }
                Ok(register)
            }
        }
    }

    fn same_lanes(&self, value: ValueId, x: &Register, y: &Register) -> Evaluated<()> {
        if x.len() == y.len() { Ok(()) } else { Err(self.invalid(value, "has operands of unequal lanes")) }
    }
}
