//! Model files.

use std::fs::File;
use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;

use super::error::OnnxError;
use super::proto::ModelProto;

/// The largest model file; larger ones keep their tensors in external data. Protobuf's own limit is 2 GiB.
const MAX_BYTES: u64 = 2 << 30;

/// The bytes of a file, mapped into memory: tensors in it are read when they are used.
pub(crate) fn map(path: &Path) -> Result<Bytes, OnnxError> {
    let io = |source| OnnxError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(OnnxError::Malformed("it is no regular file".into()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(OnnxError::Limit(format!(
            "{} bytes; a model file has at most {MAX_BYTES}",
            metadata.len()
        )));
    }
    if metadata.len() == 0 {
        return Err(OnnxError::Malformed("the file is empty".into()));
    }
    std::fs::read(path).map(Bytes::from).map_err(io)
}

/// The directory that a model's external data lies beneath.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Decodes a model.
pub(crate) fn decode(bytes: Bytes) -> Result<ModelProto, OnnxError> {
    ModelProto::decode(bytes).map_err(|e| OnnxError::Malformed(e.to_string()))
}
