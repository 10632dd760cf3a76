//! What Kernel IR means: a plain interpreter of one [`Function`] over buffers of bytes.
//!
//! It is the oracle that the emitters are compared with, so it favours the obvious: every value is a list of
//! lanes, every lane a Rust number, every access is checked. Nothing here is shared with an emitter.
//!
//! [`evaluate`] does one call (a range of work items) or one GPU thread; [`evaluate_all`] does a launch.
//!
//! # Errors
//! What Kernel IR leaves to its maker is an error here and never a silent value: an access outside a buffer
//! or against its declared direction, an integer division by zero, a counter past the end of i64, an operand
//! of the wrong type, a value that has no definition.

use fuse_ir::expr::{DimEnv, EvalError};
use fuse_ir::{DType, Literal};

use crate::kernel_ir::{
    Access, BinaryOp, Condition, Conversion, Function, LaneType, Mapping, Operation, ParameterId, Statement,
    Type, UnaryOp, ValueId,
};

/// One lane of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lane {
    /// IEEE binary32.
    F32(f32),
    /// IEEE binary64.
    F64(f64),
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// True or false.
    Bool(bool),
}

impl Lane {
    /// The type of the lane.
    pub fn ty(self) -> LaneType {
        match self {
            Lane::F32(_) => LaneType::F32,
            Lane::F64(_) => LaneType::F64,
            Lane::I32(_) => LaneType::I32,
            Lane::I64(_) => LaneType::I64,
            Lane::Bool(_) => LaneType::Bool,
        }
    }
}

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
    Machine { function, buffers, symbols, work, values }.block(&function.body)
}

/// Evaluates a whole launch: the range of all items in one call, or every thread of every block one after
/// another, those past the last item too.
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
    }
}

type Register = Vec<Lane>;

/// The state of one call.
struct Machine<'a> {
    function: &'a Function,
    buffers: &'a mut [Vec<u8>],
    symbols: &'a [i64],
    work: Work,
    values: Vec<Option<Register>>,
}

impl Machine<'_> {
    fn invalid(&self, value: ValueId, what: &'static str) -> EvaluationError {
        EvaluationError::Invalid { function: self.function.name.clone(), value: value.0, what }
    }

    fn ty(&self, value: ValueId) -> Result<Type, EvaluationError> {
        self.function.types.get(value.0 as usize).copied().ok_or_else(|| self.invalid(value, "has no type"))
    }

    fn get(&self, value: ValueId) -> Result<Register, EvaluationError> {
        let defined = self.values.get(value.0 as usize).cloned().flatten();
        defined.ok_or_else(|| self.invalid(value, "is used before it is defined"))
    }

    /// Defines a value; its lanes must be of its declared type.
    fn set(&mut self, value: ValueId, register: Register) -> Result<(), EvaluationError> {
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

    fn block(&mut self, body: &[Statement]) -> Result<(), EvaluationError> {
        for statement in body {
            match statement {
                Statement::Let { value, operation } => {
                    let register = self.operation(*value, operation)?;
                    self.set(*value, register)?;
                }
                Statement::Store { buffer, index, value } => self.store(*buffer, *index, *value)?,
                Statement::For { .. } => self.counted_loop(statement)?,
                Statement::If { condition, body } => match self.get(*condition)?.as_slice() {
                    [Lane::Bool(true)] => self.block(body)?,
                    [Lane::Bool(false)] => {}
                    _ => return Err(self.invalid(*condition, "is not a bool scalar")),
                },
            }
        }
        Ok(())
    }

    fn counted_loop(&mut self, statement: &Statement) -> Result<(), EvaluationError> {
        let Statement::For { counter, begin, end, step, carried, body } = statement else { return Ok(()) };
        if *step < 1 {
            return Err(self.invalid(*counter, "counts by less than 1"));
        }
        let (mut position, end) = (self.scalar_i64(*begin)?, self.scalar_i64(*end)?);
        let mut current = carried.iter().map(|c| self.get(c.init)).collect::<Result<Vec<_>, _>>()?;
        while position < end {
            self.set(*counter, vec![Lane::I64(position)])?;
            for (c, register) in carried.iter().zip(current) {
                self.set(c.value, register)?;
            }
            self.block(body)?;
            current = carried.iter().map(|c| self.get(c.next)).collect::<Result<Vec<_>, _>>()?;
            position = position.checked_add(*step).ok_or_else(|| self.invalid(*counter, "overflows"))?;
        }
        for (c, register) in carried.iter().zip(current) {
            self.set(c.result, register)?;
        }
        Ok(())
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
        if declared.access != access {
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

    fn load(&mut self, value: ValueId, buffer: ParameterId, index: i64) -> Result<Register, EvaluationError> {
        let lanes = self.ty(value)?.lanes;
        let (dtype, bytes) = self.bytes(buffer, index, lanes, Access::Read)?;
        Ok(bytes.chunks_exact(dtype.size()).map(|element| read(dtype, element)).collect())
    }

    fn store(&mut self, buffer: ParameterId, index: ValueId, value: ValueId) -> Result<(), EvaluationError> {
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

    fn operation(&mut self, value: ValueId, operation: &Operation) -> Result<Register, EvaluationError> {
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

    fn same_lanes(&self, value: ValueId, x: &Register, y: &Register) -> Result<(), EvaluationError> {
        if x.len() == y.len() { Ok(()) } else { Err(self.invalid(value, "has operands of unequal lanes")) }
    }
}

/// An element of memory as a register lane; narrow types as their bits.
fn read(dtype: DType, element: &[u8]) -> Lane {
    let mut bytes = [0u8; 8];
    bytes[..element.len()].copy_from_slice(element);
    // Little-endian zero extension; on a big-endian machine the bytes are reversed first.
    if cfg!(target_endian = "big") {
        bytes[..element.len()].reverse();
    }
    let bits = u64::from_le_bytes(bytes);
    match LaneType::of_memory(dtype) {
        LaneType::F32 => Lane::F32(f32::from_bits(bits as u32)),
        LaneType::F64 => Lane::F64(f64::from_bits(bits)),
        LaneType::I32 => Lane::I32(bits as u32 as i32),
        LaneType::I64 => Lane::I64(bits as i64),
        LaneType::Bool => Lane::Bool(bits != 0),
    }
}

/// Writes the low bytes of a lane.
fn write(lane: Lane, element: &mut [u8]) {
    let bits = match lane {
        Lane::F32(x) => u64::from(x.to_bits()),
        Lane::F64(x) => x.to_bits(),
        Lane::I32(x) => u64::from(x as u32),
        Lane::I64(x) => x as u64,
        Lane::Bool(x) => u64::from(x),
    };
    element.copy_from_slice(&bits.to_le_bytes()[..element.len()]);
    if cfg!(target_endian = "big") {
        element.reverse();
    }
}

fn constant(literal: Literal) -> Lane {
    match literal.dtype() {
        DType::F32 => Lane::F32(f32::from_bits(literal.bits() as u32)),
        DType::F64 => Lane::F64(f64::from_bits(literal.bits())),
        DType::I64 => Lane::I64(literal.bits() as i64),
        DType::Bool => Lane::Bool(literal.bits() != 0),
        DType::I32 | DType::U8 | DType::F16 | DType::Bf16 => Lane::I32(literal.bits() as u32 as i32),
    }
}

/// `None` where the operation does not exist for the type.
fn unary(op: UnaryOp, x: Lane) -> Option<Lane> {
    Some(match (op, x) {
        (UnaryOp::Neg, Lane::F32(x)) => Lane::F32(-x),
        (UnaryOp::Neg, Lane::F64(x)) => Lane::F64(-x),
        (UnaryOp::Neg, Lane::I32(x)) => Lane::I32(x.wrapping_neg()),
        (UnaryOp::Neg, Lane::I64(x)) => Lane::I64(x.wrapping_neg()),
        (UnaryOp::Abs, Lane::F32(x)) => Lane::F32(x.abs()),
        (UnaryOp::Abs, Lane::F64(x)) => Lane::F64(x.abs()),
        (UnaryOp::Sqrt, Lane::F32(x)) => Lane::F32(x.sqrt()),
        (UnaryOp::Sqrt, Lane::F64(x)) => Lane::F64(x.sqrt()),
        (UnaryOp::Floor, Lane::F32(x)) => Lane::F32(x.floor()),
        (UnaryOp::Floor, Lane::F64(x)) => Lane::F64(x.floor()),
        (UnaryOp::Ceil, Lane::F32(x)) => Lane::F32(x.ceil()),
        (UnaryOp::Ceil, Lane::F64(x)) => Lane::F64(x.ceil()),
        (UnaryOp::Trunc, Lane::F32(x)) => Lane::F32(x.trunc()),
        (UnaryOp::Trunc, Lane::F64(x)) => Lane::F64(x.trunc()),
        (UnaryOp::Nearest, Lane::F32(x)) => Lane::F32(x.round_ties_even()),
        (UnaryOp::Nearest, Lane::F64(x)) => Lane::F64(x.round_ties_even()),
        (UnaryOp::Not, Lane::I32(x)) => Lane::I32(!x),
        (UnaryOp::Not, Lane::I64(x)) => Lane::I64(!x),
        (UnaryOp::Not, Lane::Bool(x)) => Lane::Bool(!x),
        (UnaryOp::Neg, Lane::Bool(_))
        | (UnaryOp::Not, Lane::F32(_) | Lane::F64(_))
        | (
            UnaryOp::Abs | UnaryOp::Sqrt | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc | UnaryOp::Nearest,
            Lane::I32(_) | Lane::I64(_) | Lane::Bool(_),
        ) => return None,
    })
}

/// `None` where the operation does not exist for the types or its condition on the divisor is broken.
fn binary(op: BinaryOp, x: Lane, y: Lane) -> Option<Lane> {
    match (x, y) {
        (Lane::F32(x), Lane::F32(y)) => binary_f32(op, x, y).map(Lane::F32),
        (Lane::F64(x), Lane::F64(y)) => binary_f64(op, x, y).map(Lane::F64),
        (Lane::I32(x), Lane::I32(y)) => binary_i32(op, x, y).map(Lane::I32),
        (Lane::I64(x), Lane::I64(y)) => binary_i64(op, x, y).map(Lane::I64),
        (Lane::Bool(x), Lane::Bool(y)) => binary_bool(op, x, y).map(Lane::Bool),
        _ => None,
    }
}

macro_rules! float_binary {
    ($name:ident, $float:ident) => {
        fn $name(op: BinaryOp, x: $float, y: $float) -> Option<$float> {
            Some(match op {
                BinaryOp::Add => x + y,
                BinaryOp::Sub => x - y,
                BinaryOp::Mul => x * y,
                BinaryOp::Div => x / y,
                BinaryOp::Min | BinaryOp::Max if x.is_nan() || y.is_nan() => $float::NAN,
                // Of two zeros the negative one is the smaller.
                BinaryOp::Min if x == y => {
                    if x.is_sign_negative() {
                        x
                    } else {
                        y
                    }
                }
                BinaryOp::Max if x == y => {
                    if x.is_sign_negative() {
                        y
                    } else {
                        x
                    }
                }
                BinaryOp::Min => {
                    if x < y {
                        x
                    } else {
                        y
                    }
                }
                BinaryOp::Max => {
                    if x > y {
                        x
                    } else {
                        y
                    }
                }
                BinaryOp::IntDiv
                | BinaryOp::IntRem
                | BinaryOp::And
                | BinaryOp::Or
                | BinaryOp::Xor
                | BinaryOp::ShiftLeft
                | BinaryOp::ShiftRightLogical
                | BinaryOp::ShiftRightArithmetic => return None,
            })
        }
    };
}
float_binary!(binary_f32, f32);
float_binary!(binary_f64, f64);

macro_rules! integer_binary {
    ($name:ident, $int:ident, $unsigned:ident) => {
        fn $name(op: BinaryOp, x: $int, y: $int) -> Option<$int> {
            Some(match op {
                BinaryOp::Add => x.wrapping_add(y),
                BinaryOp::Sub => x.wrapping_sub(y),
                BinaryOp::Mul => x.wrapping_mul(y),
                BinaryOp::Min => x.min(y),
                BinaryOp::Max => x.max(y),
                BinaryOp::IntDiv => x.checked_div(y)?,
                BinaryOp::IntRem => x.checked_rem(y)?,
                BinaryOp::And => x & y,
                BinaryOp::Or => x | y,
                BinaryOp::Xor => x ^ y,
                // The wrapping shifts take the distance modulo the width.
                BinaryOp::ShiftLeft => x.wrapping_shl(y as u32),
                BinaryOp::ShiftRightLogical => (x as $unsigned).wrapping_shr(y as u32) as $int,
                BinaryOp::ShiftRightArithmetic => x.wrapping_shr(y as u32),
                BinaryOp::Div => return None,
            })
        }
    };
}
integer_binary!(binary_i32, i32, u32);
integer_binary!(binary_i64, i64, u64);

fn binary_bool(op: BinaryOp, x: bool, y: bool) -> Option<bool> {
    match op {
        BinaryOp::And => Some(x & y),
        BinaryOp::Or => Some(x | y),
        BinaryOp::Xor => Some(x ^ y),
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Min
        | BinaryOp::Max
        | BinaryOp::IntDiv
        | BinaryOp::IntRem
        | BinaryOp::ShiftLeft
        | BinaryOp::ShiftRightLogical
        | BinaryOp::ShiftRightArithmetic => None,
    }
}

fn fma(x: Lane, y: Lane, z: Lane) -> Option<Lane> {
    match (x, y, z) {
        (Lane::F32(x), Lane::F32(y), Lane::F32(z)) => Some(Lane::F32(x.mul_add(y, z))),
        (Lane::F64(x), Lane::F64(y), Lane::F64(z)) => Some(Lane::F64(x.mul_add(y, z))),
        _ => None,
    }
}

fn compare(condition: Condition, x: Lane, y: Lane) -> Option<Lane> {
    fn holds<T: PartialOrd>(condition: Condition, x: T, y: T) -> bool {
        match condition {
            Condition::Eq => x == y,
            Condition::Ne => x != y,
            Condition::Lt => x < y,
            Condition::Le => x <= y,
            Condition::Gt => x > y,
            Condition::Ge => x >= y,
        }
    }
    let result = match (x, y) {
        (Lane::F32(x), Lane::F32(y)) => holds(condition, x, y),
        (Lane::F64(x), Lane::F64(y)) => holds(condition, x, y),
        (Lane::I32(x), Lane::I32(y)) => holds(condition, x, y),
        (Lane::I64(x), Lane::I64(y)) => holds(condition, x, y),
        (Lane::Bool(x), Lane::Bool(y)) => match condition {
            Condition::Eq => x == y,
            Condition::Ne => x != y,
            Condition::Lt | Condition::Le | Condition::Gt | Condition::Ge => return None,
        },
        _ => return None,
    };
    Some(Lane::Bool(result))
}

fn convert(conversion: Conversion, x: Lane, to: LaneType) -> Option<Lane> {
    use LaneType::{F32, F64, I32, I64};
    Some(match (conversion, x, to) {
        (Conversion::FloatToFloat, Lane::F32(x), F64) => Lane::F64(f64::from(x)),
        (Conversion::FloatToFloat, Lane::F64(x), F32) => Lane::F32(x as f32),
        (Conversion::IntToFloat, Lane::I32(x), F32) => Lane::F32(x as f32),
        (Conversion::IntToFloat, Lane::I32(x), F64) => Lane::F64(f64::from(x)),
        (Conversion::IntToFloat, Lane::I64(x), F32) => Lane::F32(x as f32),
        (Conversion::IntToFloat, Lane::I64(x), F64) => Lane::F64(x as f64),
        // Rust's casts truncate, saturate, and take NaN to 0.
        (Conversion::FloatToInt, Lane::F32(x), I32) => Lane::I32(x as i32),
        (Conversion::FloatToInt, Lane::F32(x), I64) => Lane::I64(x as i64),
        (Conversion::FloatToInt, Lane::F64(x), I32) => Lane::I32(x as i32),
        (Conversion::FloatToInt, Lane::F64(x), I64) => Lane::I64(x as i64),
        (Conversion::IntToInt, Lane::I32(x), I64) => Lane::I64(i64::from(x)),
        (Conversion::IntToInt, Lane::I64(x), I32) => Lane::I32(x as i32),
        (Conversion::ZeroExtend, Lane::I32(x), I64) => Lane::I64(i64::from(x as u32)),
        (Conversion::Bitcast, Lane::F32(x), I32) => Lane::I32(x.to_bits() as i32),
        (Conversion::Bitcast, Lane::I32(x), F32) => Lane::F32(f32::from_bits(x as u32)),
        (Conversion::Bitcast, Lane::F64(x), I64) => Lane::I64(x.to_bits() as i64),
        (Conversion::Bitcast, Lane::I64(x), F64) => Lane::F64(f64::from_bits(x as u64)),
        (Conversion::BoolToInt, Lane::Bool(x), I32) => Lane::I32(i32::from(x)),
        (
            Conversion::FloatToFloat
            | Conversion::IntToFloat
            | Conversion::FloatToInt
            | Conversion::IntToInt
            | Conversion::ZeroExtend
            | Conversion::Bitcast
            | Conversion::BoolToInt,
            ..,
        ) => return None,
    })
}
