//! Which weights can be stored in fewer bits than they are given in.

use fuse_ir::{DType, Tensor};

use crate::error::RunError;

/// The largest value of a 16-bit float type, and the least magnitude that rounds to infinity: half a unit beyond.
fn range(dtype: DType) -> Option<(f32, f32)> {
    match dtype {
        DType::F16 => Some((65504.0, 65520.0)),
        DType::Bf16 => Some((f32::from_bits(0x7f7f_0000), f32::from_bits(0x7f7f_8000))),
        DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => None,
    }
}

/// Refuses a tensor of f32 with a finite value that has no finite neighbour in `dtype`. Infinities and NaN stay what
/// they are.
pub(crate) fn check(name: &str, tensor: &Tensor, dtype: DType) -> Result<(), RunError> {
    let (DType::F32, Some((largest, beyond))) = (tensor.dtype(), range(dtype)) else { return Ok(()) };
    let values = tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let is_beyond = |x: &f32| x.is_finite() && x.abs() >= beyond;
    match values.clone().find(is_beyond) {
        Some(value) => Err(RunError::Narrow {
            parameter: name.to_string(),
            dtype,
            value,
            largest,
            count: values.filter(is_beyond).count(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: f32, dtype: DType) -> bool {
        let tensor = Tensor::from_values(&[2], &[0.5, value]).expect("two values");
        check("w", &tensor, dtype).is_err()
    }

    #[test]
    fn what_rounds_to_infinity_is_refused() {
        for dtype in [DType::F16, DType::Bf16] {
            for value in [1e-30, 65504.0, 65519.9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                assert!(!refused(value, dtype), "{value} as {dtype}");
            }
            assert!(refused(-f32::MAX, dtype), "{dtype}");
        }
        assert!(refused(65520.0, DType::F16) && refused(-1e5, DType::F16));
        assert!(!refused(65520.0, DType::Bf16) && !refused(f32::from_bits(0x7f7f_7fff), DType::Bf16));
        assert!(refused(f32::from_bits(0x7f7f_8000), DType::Bf16));
    }
}
