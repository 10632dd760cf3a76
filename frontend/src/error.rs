//! What can be wrong with a traced program.

use std::panic::Location;

use fuse_ir::infer::InferError;
use fuse_ir::{DType, TensorType, VerifyError};

/// A mistake in a traced program: the operation, what is wrong with its arguments, and where it was called.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}{kind}\n  at {location}", self.prefix())]
pub struct TraceError {
    /// The operation that was called; `lstm: matmul` is a matmul inside of the library's `lstm`.
    pub operation: String,
    /// What is wrong.
    pub kind: Box<ErrorKind>,
    /// The call in the traced program.
    pub location: &'static Location<'static>,
}

impl TraceError {
    /// The error without the place of the call, which says nothing where a program is made from a file.
    pub(crate) fn message(&self) -> String {
        format!("{}{}", self.prefix(), self.kind)
    }

    /// The operation and a colon. Inference names its op itself, so that the last name of the path may drop out.
    fn prefix(&self) -> String {
        let (outer, last) = self.operation.rsplit_once(": ").unwrap_or(("", &self.operation));
        let repeated = match &*self.kind {
            ErrorKind::Infer(error) => {
                error.to_string().strip_prefix(last).is_some_and(|rest| rest.starts_with(':'))
            }
            _ => false,
        };
        match (repeated, outer) {
            (true, "") => String::new(),
            (true, outer) => format!("{outer}: "),
            (false, _) => format!("{}: ", self.operation),
        }
    }
}

/// What is wrong with an operation of a traced program.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ErrorKind {
    /// The operands' types do not fit the op.
    #[error("{0}")]
    Infer(InferError),
    /// Two arguments should agree and do not.
    #[error("{left} is {left_ty}, {right} is {right_ty}; {requirement}")]
    Mismatch {
        /// The name of one argument.
        left: String,
        /// Its type.
        left_ty: TensorType,
        /// The name of the other.
        right: String,
        /// Its type.
        right_ty: TensorType,
        /// What should hold.
        requirement: String,
    },
    /// An axis that the tensor does not have.
    #[error("there is no axis {axis} in {ty}, whose rank is {rank}", rank = ty.rank())]
    Axis {
        /// The tensor's type.
        ty: TensorType,
        /// The axis asked for.
        axis: i64,
    },
    /// An argument that does not do.
    #[error("argument `{argument}` is {got}; {requirement}")]
    Argument {
        /// The argument's name.
        argument: String,
        /// What was given.
        got: String,
        /// What would do.
        requirement: String,
    },
    /// A number that the tensor's element type cannot hold.
    #[error("the number {value} is no value of {dtype}, the element type of the other operand")]
    Number {
        /// The number.
        value: String,
        /// The element type.
        dtype: DType,
    },
    /// A tensor made inside a scan body, used after the body ended.
    #[error("operand {operand}, {ty}, belongs to a scan body that has ended; return it from the body")]
    Escaped {
        /// The position of the operand.
        operand: usize,
        /// Its type.
        ty: TensorType,
    },
    /// A tensor of another trace.
    #[error("operand {operand}, {ty}, belongs to another trace")]
    OtherTrace {
        /// The position of the operand.
        operand: usize,
        /// Its type.
        ty: TensorType,
    },
    /// A name that cannot be used.
    #[error("the name `{name}` {problem}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// Scans nested too deeply.
    #[error("scans nest more than {limit} deep")]
    Depth {
        /// The greatest depth.
        limit: usize,
    },
    /// A graph that breaks an invariant, such as a symbol that is no identifier.
    #[error("{0}")]
    Invalid(VerifyError),
    /// A program that returns nothing.
    #[error("the program has no outputs; name at least one with `output`")]
    NoOutputs,
}

/// Why an operation has no result: its first error, or an operand that already failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// An operand is poisoned; its error is already kept.
    Poisoned,
    /// A new error.
    Error(Box<ErrorKind>),
    /// An error with its place, from an operation that had no trace to keep it.
    Kept(TraceError),
}

impl From<ErrorKind> for Fault {
    fn from(kind: ErrorKind) -> Self {
        Fault::Error(Box::new(kind))
    }
}

impl From<InferError> for Fault {
    fn from(error: InferError) -> Self {
        ErrorKind::Infer(error).into()
    }
}

/// The fault of an argument that does not do.
pub(crate) fn argument(
    argument: impl Into<String>,
    got: impl ToString,
    requirement: impl Into<String>,
) -> Fault {
    let (argument, got, requirement) = (argument.into(), got.to_string(), requirement.into());
    ErrorKind::Argument { argument, got, requirement }.into()
}
