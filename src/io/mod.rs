//! Files that hold tensors: `.npz` for inputs and outputs, `.safetensors` for weights.

pub mod npz;
pub mod weights;

use std::path::{Path, PathBuf};

/// Why a file could not be read or written. Names the file, the entry in it and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The file is not what its name promises.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and with which entry.
        problem: String,
    },
}

impl FileError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        FileError::Io { path: path.to_owned(), source }
    }

    fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        FileError::Malformed { path: path.to_owned(), problem: problem.into() }
    }
}
