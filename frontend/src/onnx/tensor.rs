//! Tensors of ONNX files.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::Path;

use fuse_ir::limits::MAX_RANK;
use fuse_ir::tensor::{Tensor as HostTensor, checked_byte_size};
use fuse_ir::{Bytes, DType};

use super::error::OnnxError;
use super::proto::TensorProto;
use super::proto::tensor_proto::{DataLocation, DataType};

/// What a model may take in memory beside its files.
const BASE_BYTES: u64 = 128 << 20;
/// How often, on average, each byte of a model's files may be read into a tensor.
const READS: u64 = 8;

/// Where tensors may find data outside of the model file, and how much of it all they may take.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    /// The directory of the model file; `None` for a model that came as bytes.
    pub(crate) directory: Option<&'a Path>,
    /// The bytes that tensors may take.
    limit: Cell<u64>,
    /// The bytes that they take in this pass.
    used: Cell<u64>,
    /// The files outside of the model that were met, by device and inode.
    files: RefCell<HashSet<(u64, u64)>>,
}

impl<'a> Data<'a> {
    /// The data of a model file of so many bytes.
    pub(crate) fn new(directory: Option<&'a Path>, file_bytes: usize) -> Self {
        let limit = BASE_BYTES.saturating_add((file_bytes as u64).saturating_mul(READS));
        Data { directory, limit: Cell::new(limit), used: Cell::new(0), files: RefCell::default() }
    }

    /// Takes another file of so many bytes into account, once.
    pub(crate) fn add_file(&self, identity: (u64, u64), bytes: u64) {
        if self.files.borrow_mut().insert(identity) {
            self.limit.set(self.limit.get().saturating_add(bytes.saturating_mul(READS)));
        }
    }

    /// Starts another pass, of the tensors before which so many bytes are kept.
    pub(crate) fn restart(&self, kept: u64) {
        self.used.set(kept);
    }

    /// Takes the bytes of a tensor into account.
    ///
    /// # Errors
    /// Where the model's tensors take many times what its files do, as where a file names the same bytes again and
    /// again.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), OnnxError> {
        let used = self.used.get().saturating_add(bytes as u64);
        if used > self.limit.get() {
            let text = format!("its tensors take more than {READS} times what its files do");
            return Err(OnnxError::Limit(text));
        }
        self.used.set(used);
        Ok(())
    }
}

/// The element type of ONNX's number for it, if fuse has it.
pub(crate) fn element_type(number: i32) -> Option<DType> {
    Some(match DataType::try_from(number).ok()? {
        DataType::Float => DType::F32,
        DataType::Double => DType::F64,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::Bf16,
        DataType::Int32 => DType::I32,
        DataType::Int64 => DType::I64,
        DataType::Uint8 => DType::U8,
        DataType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The name of an element type in ONNX's terms.
pub(crate) fn type_name(number: i32) -> String {
    DataType::try_from(number).map_or_else(|_| format!("type {number}"), |t| t.as_str_name().to_lowercase())
}

/// The tensor of a message.
///
/// # Errors
/// Where the element type is none of fuse's, or data and dimensions disagree.
pub(crate) fn host_tensor(tensor: &TensorProto, data: &Data<'_>) -> Result<HostTensor, OnnxError> {
    let fail = |problem: String| OnnxError::Malformed(format!("tensor `{}`: {problem}", tensor.name()));
    let Some(dtype) = element_type(tensor.data_type()) else {
        let known = "float, double, float16, bfloat16, int32, int64, uint8, bool";
        let problem =
            format!("element type {} is not supported; fuse has {known}", type_name(tensor.data_type()));
        return Err(OnnxError::Model(format!("tensor `{}`: {problem}", tensor.name())));
    };
    if tensor.segment.is_some() {
        return Err(fail("data in segments is not supported".into()));
    }
    if tensor.dims.len() > MAX_RANK {
        return Err(fail(format!("it has {} axes, more than {MAX_RANK}", tensor.dims.len())));
    }
    let extent = |d: &i64| usize::try_from(*d).map_err(|_| fail(format!("dimension {d} is negative")));
    let shape = tensor.dims.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
    let size = checked_byte_size(dtype, &shape)
        .ok_or_else(|| fail(format!("{dtype}{shape:?} does not fit in the address space")))?;
    let bytes = if tensor.data_location() == DataLocation::External {
        super::external::read(tensor, size, data)?
    } else {
        check_size(tensor, dtype, size).map_err(fail)?;
        data.charge(size)?;
        match &tensor.raw_data {
            Some(raw) => Bytes::copy_of(raw),
            None => field_bytes(tensor, dtype).into(),
        }
    };
    HostTensor::from_bytes(dtype, &shape, bytes).map_err(|e| fail(e.to_string()))
}

/// Compares what the dimensions take with what is there.
fn check_size(tensor: &TensorProto, dtype: DType, size: usize) -> Result<(), String> {
    if let Some(raw) = &tensor.raw_data {
        if raw.len() != size {
            return Err(format!("its dimensions take {size} bytes, but raw_data has {}", raw.len()));
        }
        return Ok(());
    }
    let (field, found) = match dtype {
        DType::F32 => ("float_data", tensor.float_data.len()),
        DType::F64 => ("double_data", tensor.double_data.len()),
        DType::I64 => ("int64_data", tensor.int64_data.len()),
        DType::F16 | DType::Bf16 | DType::I32 | DType::U8 | DType::Bool => {
            ("int32_data", tensor.int32_data.len())
        }
    };
    let elements = size / dtype.size();
    if found != elements {
        return Err(format!("its dimensions take {elements} elements, but {field} has {found}"));
    }
    Ok(())
}

/// The elements from the field for their type.
fn field_bytes(tensor: &TensorProto, dtype: DType) -> Vec<u8> {
    let narrow = |bytes: fn(i32) -> Vec<u8>| tensor.int32_data.iter().flat_map(|v| bytes(*v)).collect();
    match dtype {
        DType::F32 => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I32 => narrow(|v| v.to_le_bytes().to_vec()),
        // Bit patterns in the low half.
        DType::F16 | DType::Bf16 => narrow(|v| (v as u16).to_le_bytes().to_vec()),
        DType::U8 => narrow(|v| vec![v as u8]),
        DType::Bool => narrow(|v| vec![u8::from(v != 0)]),
    }
}
