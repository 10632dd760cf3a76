//! Model files.

use std::fs::{File, Metadata};
use std::path::Path;

use memmap2::Mmap;
use prost::Message;
use prost::bytes::Bytes;
use rustix::fs::{Mode, OFlags};

use super::error::OnnxError;
use super::proto::ModelProto;
use super::wire;

/// The largest model file; larger ones keep their tensors in external data. Protobuf's own limit is 2 GiB.
const MAX_BYTES: u64 = 2 << 30;

/// How files are opened: a pipe without a writer does not wait for one, a terminal does not become ours.
pub(crate) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The bytes of a model file, mapped into memory: tensors in it are read when they are used.
pub(crate) fn map(path: &Path) -> Result<Bytes, OnnxError> {
    let io = |source| OnnxError::Io { path: path.to_owned(), source };
    let file = File::from(rustix::fs::open(path, READ, Mode::empty()).map_err(|e| io(e.into()))?);
    let metadata = file.metadata().map_err(io)?;
    check(&metadata)?;
    // SAFETY: the map is private, never written by us, and owned by the slices of it. What remains is that nobody else
    // writes to the file while it is read, which no program that maps files can rule out. Lengths and element types
    // are checked in memory of our own, which a writer cannot change, so that bytes that do change are another
    // tensor's elements or another text. A file that is cut short under the map ends the process by SIGBUS.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(map))
}

/// Refuses what no model file is.
fn check(metadata: &Metadata) -> Result<(), OnnxError> {
    if !metadata.is_file() {
        return Err(OnnxError::Malformed("it is no regular file".into()));
    }
    match metadata.len() {
        0 => Err(OnnxError::Malformed("the file is empty".into())),
        bytes if bytes > MAX_BYTES => {
            Err(OnnxError::Limit(format!("{bytes} bytes; a model file has at most {MAX_BYTES}")))
        }
        _ => Ok(()),
    }
}

/// The directory that a model's external data lies beneath.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Decodes a model whose decoded form is in proportion to its bytes.
pub(crate) fn decode(bytes: Bytes) -> Result<ModelProto, OnnxError> {
    wire::check(&bytes)?;
    ModelProto::decode(bytes).map_err(|e| OnnxError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, TensorProto};

    #[test]
    fn raw_data_is_a_slice_of_the_map() {
        let raw_data = Some(Bytes::from(vec![7u8; 1 << 16]));
        let graph = GraphProto {
            initializer: vec![TensorProto { raw_data, ..Default::default() }],
            ..Default::default()
        };
        let model = ModelProto { graph: Some(graph), ..Default::default() };
        let path = std::env::temp_dir().join(format!("fuse-map-{}.onnx", std::process::id()));
        std::fs::write(&path, model.encode_to_vec()).expect("written");
        let bytes = map(&path).expect("mapped");
        let decoded = decode(bytes.clone()).expect("decoded");
        assert_eq!(decoded, model);
        let raw = decoded.graph.expect("a graph").initializer[0].raw_data.clone().expect("raw data");
        assert!(bytes.as_ptr_range().contains(&raw.as_ptr()), "the data is a copy");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(raw, vec![7u8; 1 << 16], "the map outlives the name");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        for path in ["/dev/null", "/"] {
            let message = map(Path::new(path)).expect_err("no model").to_string();
            assert!(message.contains("regular"), "{message}");
        }
    }
}
