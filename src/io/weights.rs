//! Weights in a `.safetensors` file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use fuse_ir::{Bytes, DType, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::FileError;

/// Reads every tensor of a file, by name.
///
/// # Errors
/// Where the file cannot be read, is corrupt, or holds an element type that fuse has not.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, FileError> {
    let (mut file, _) = super::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| FileError::io(path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| FileError::malformed(path, format!("not a safetensors file: {e}")))?;
    let mut out = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = element_type(view.dtype()).ok_or_else(|| {
            FileError::malformed(
                path,
                format!("tensor `{name}` is {:?}, which is not supported", view.dtype()),
            )
        })?;
        let tensor = Tensor::from_bytes(dtype, view.shape(), Bytes::copy_of(view.data()))
            .map_err(|e| FileError::malformed(path, format!("tensor `{name}`: {e}")))?;
        out.insert(name, tensor);
    }
    Ok(out)
}

/// Writes tensors to a file.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), FileError> {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, t)| {
            safetensors::tensor::TensorView::new(storage_type(t.dtype()), t.shape().to_vec(), t.bytes())
                .map(|view| (name.clone(), view))
                .map_err(|e| FileError::malformed(path, format!("tensor `{name}`: {e}")))
        })
        .collect::<Result<_, _>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|e| FileError::malformed(path, e.to_string()))?;
    std::fs::write(path, bytes).map_err(|e| FileError::io(path, e))
}

fn element_type(dtype: Dtype) -> Option<DType> {
    DType::ALL.into_iter().find(|d| storage_type(*d) == dtype)
}

fn storage_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_element_type_round_trip() {
        let path = std::env::temp_dir().join(format!("fuse-weights-{}.safetensors", std::process::id()));
        let tensors: BTreeMap<_, _> = DType::ALL
            .into_iter()
            .map(|d| (d.name().to_owned(), Tensor::from_bytes(d, &[2], vec![1; 2 * d.size()]).unwrap()))
            .collect();
        write(&path, &tensors).unwrap();
        assert_eq!(read(&path).unwrap(), tensors);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_corrupt_file_is_an_error_that_names_it() {
        let path = std::env::temp_dir().join(format!("fuse-corrupt-{}.safetensors", std::process::id()));
        std::fs::write(&path, [0xff; 64]).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("not a safetensors file") && message.contains("fuse-corrupt"), "{message}");
        std::fs::remove_file(&path).unwrap();
    }
}
