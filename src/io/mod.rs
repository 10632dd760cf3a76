//! Files that hold tensors: `.npz` for inputs and outputs, `.safetensors` for weights.

pub mod npz;
pub mod weights;

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

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

/// Opens a regular file. A pipe without a writer does not wait for one.
pub(crate) fn open(path: &Path) -> Result<(File, u64), FileError> {
    let flags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| FileError::io(path, e.into()))?;
    let file = File::from(opened);
    let metadata = file.metadata().map_err(|e| FileError::io(path, e))?;
    if !metadata.is_file() {
        return Err(FileError::malformed(path, "it is no regular file"));
    }
    Ok((file, metadata.len()))
}

impl FileError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        FileError::Io { path: path.to_owned(), source }
    }

    fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        FileError::Malformed { path: path.to_owned(), problem: problem.into() }
    }
}
