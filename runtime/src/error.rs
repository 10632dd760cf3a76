//! Why an executable cannot be built or run.

use fuse_ir::DType;
use fuse_ir::bind::BindError;
use fuse_ir::expr::EvalError;

use crate::block::OutOfMemory;
use crate::plan::PlanError;

/// Why compiled functions do not make an executable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The kernel graph breaks an invariant that running it safely depends on.
    #[error("the kernel graph is invalid: {0}")]
    Kernels(String),
    /// A kernel was not compiled.
    #[error("kernel `{kernel}` has no compiled function")]
    MissingFunction {
        /// The kernel.
        kernel: String,
    },
    /// A parameter does not fit its buffer.
    #[error("parameter `{parameter}` of function `{function}` does not fit the kernel graph")]
    Parameter {
        /// The function.
        function: String,
        /// The parameter.
        parameter: String,
    },
    /// A buffer of the kernel graph does not fit the graph's input or output.
    #[error("buffer `{buffer}` does not fit the inputs and outputs of graph `{graph}`")]
    Interface {
        /// The buffer.
        buffer: String,
        /// The graph.
        graph: String,
    },
    /// A function is spread over work items in a way that the device does not run.
    #[error("function `{function}` was scheduled for another kind of device than `{device}`")]
    Mapping {
        /// The function.
        function: String,
        /// The device.
        device: String,
    },
    /// The device did not take the code.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RunError {
    /// An input or parameter was not given.
    #[error("{kind} `{name}` is missing; expected {expected}")]
    Missing {
        /// `input` or `parameter`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its declared type.
        expected: String,
    },
    /// There is no input or parameter of that name.
    #[error("there is no {kind} `{name}`; {}", known_names(kind, known))]
    Unknown {
        /// `input` or `parameter`.
        kind: &'static str,
        /// The name given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A name was given twice.
    #[error("{kind} `{name}` was given twice")]
    Duplicate {
        /// `input` or `parameter`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The number of inputs given in order is wrong.
    #[error("expected {expected} inputs ({names}), got {got}")]
    Count {
        /// How many there are.
        expected: usize,
        /// Their names.
        names: String,
        /// How many were given.
        got: usize,
    },
    /// An input has another element type, shape or extent than declared, or a dimension follows from nothing.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A weight has no finite value in the type that it is stored in.
    #[error(
        "parameter `{parameter}` is to be stored as {dtype}, whose largest value is {largest:e}, but has {count} beyond, \
         the first {value:e}; store weights as given, or scale this one"
    )]
    Narrow {
        /// The parameter.
        parameter: String,
        /// The type that it is stored in.
        dtype: DType,
        /// The first such value.
        value: f32,
        /// The largest value of the type.
        largest: f32,
        /// How many such values there are.
        count: usize,
    },
    /// An expression of the dimensions has no value.
    #[error(transparent)]
    Dimension(#[from] EvalError),
    /// A number of work items or steps comes out negative.
    #[error("`{expression}` is {value}, but must be at least 0")]
    NegativeQuantity {
        /// The expression.
        expression: String,
        /// Its value.
        value: i64,
    },
    /// There is no memory plan, or it is over the limit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The system refused memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// An output's size cannot be represented.
    #[error("output `{name}`: {dtype}{shape:?} does not fit in the address space")]
    OutputTooLarge {
        /// The output.
        name: String,
        /// Its element type.
        dtype: DType,
        /// Its extents.
        shape: Vec<usize>,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    /// Compiled code panicked; a bug.
    #[error("a thread panicked during the run: {0}")]
    Panicked(String),
}

fn known_names(kind: &str, known: &[String]) -> String {
    if known.is_empty() { format!("there are no {kind}s") } else { format!("there is {}", known.join(", ")) }
}
