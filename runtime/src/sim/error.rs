//! Why PTX text cannot be executed.

/// A line of a module that the simulator does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: `{text}`: {problem}")]
pub struct PtxError {
    /// The line, from 1.
    pub line: u32,
    /// The instruction or directive as read.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

impl PtxError {
    /// The error at one line.
    pub(super) fn new(line: u32, text: impl Into<String>, problem: impl Into<String>) -> PtxError {
        PtxError { line, text: text.into(), problem: problem.into() }
    }
}
