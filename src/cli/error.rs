//! What ends a command early, and with which exit code.

use std::fmt;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The model, a file or the data: exit code 1.
    Input,
    /// The command line: exit code 2.
    Usage,
    /// fuse itself: exit code 70.
    Bug,
}

impl Fault {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Fault::Input => 1,
            Fault::Usage => 2,
            Fault::Bug => 70,
        }
    }
}

/// An error for the person at the shell.
#[derive(Debug)]
pub struct CliError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened, where, and what to do.
    pub message: String,
}

impl CliError {
    /// The model, a file or the data is at fault.
    pub fn input(message: impl fmt::Display) -> Self {
        CliError { fault: Fault::Input, message: message.to_string() }
    }

    /// The command line is at fault.
    pub fn usage(message: impl fmt::Display) -> Self {
        CliError { fault: Fault::Usage, message: message.to_string() }
    }

    /// A stage of the compiler rejected what an earlier stage made.
    pub fn bug(message: impl fmt::Display) -> Self {
        CliError { fault: Fault::Bug, message: message.to_string() }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::Input | Fault::Usage => write!(f, "fuse: {}", self.message),
            Fault::Bug => write!(f, "fuse: internal error: {}\n{BUG_REPORT}", self.message),
        }
    }
}

/// How to report a bug in the compiler.
pub const BUG_REPORT: &str = "This is a bug in fuse, not in your model. Please report it with the model, the \
                              command line and `fuse --version`; see CONTRIBUTING.md.";
