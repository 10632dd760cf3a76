//! Host tensors: what callers pass in and get back.

use half::{bf16, f16};

use crate::bytes::Bytes;
use crate::dtype::{DType, Literal};

/// A dense, row-major tensor in host memory, which clones share until one of them is written.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// Why bytes do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The number of bytes does not fit the shape.
    #[error("{dtype}{shape:?} takes {expected} bytes, got {got}")]
    Size {
        /// The element type.
        dtype: DType,
        /// The extents.
        shape: Vec<usize>,
        /// The bytes it takes.
        expected: usize,
        /// The bytes given.
        got: usize,
    },
    /// The shape's size overflows.
    #[error("{dtype}{shape:?} does not fit in the address space")]
    TooLarge {
        /// The element type.
        dtype: DType,
        /// The extents.
        shape: Vec<usize>,
    },
    /// The element type is another than asked for.
    #[error("the tensor is {got}, not {expected}")]
    DType {
        /// What was asked for.
        expected: DType,
        /// What the tensor has.
        got: DType,
    },
}

/// A Rust type that is an element type.
pub trait Scalar: Copy + PartialEq + std::fmt::Debug + 'static {
    /// The element type.
    const DTYPE: DType;
    /// The literal of this value.
    fn literal(self) -> Literal;
    /// The value with the literal's bits.
    fn from_literal(literal: Literal) -> Self;
}

macro_rules! scalar {
    ($ty:ty, $dtype:ident, |$x:ident| $to:expr, |$b:ident| $from:expr) => {
        impl Scalar for $ty {
            const DTYPE: DType = DType::$dtype;
            fn literal(self) -> Literal {
                let $x = self;
                Literal::from_bits(DType::$dtype, $to)
            }
            fn from_literal(literal: Literal) -> Self {
                let $b = literal.bits();
                $from
            }
        }
    };
}

scalar!(f32, F32, |x| u64::from(x.to_bits()), |b| f32::from_bits(b as u32));
scalar!(f64, F64, |x| x.to_bits(), |b| f64::from_bits(b));
scalar!(f16, F16, |x| u64::from(x.to_bits()), |b| f16::from_bits(b as u16));
scalar!(bf16, Bf16, |x| u64::from(x.to_bits()), |b| bf16::from_bits(b as u16));
scalar!(i32, I32, |x| u64::from(x as u32), |b| b as u32 as i32);
scalar!(i64, I64, |x| x as u64, |b| b as i64);
scalar!(u8, U8, |x| u64::from(x), |b| b as u8);
scalar!(bool, Bool, |x| u64::from(x), |b| b != 0);

/// The bytes a tensor takes, if they can be counted.
pub fn checked_byte_size(dtype: DType, shape: &[usize]) -> Option<usize> {
    let bytes = shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d))?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// Where the size overflows.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        let size = checked_byte_size(dtype, shape)
            .ok_or_else(|| TensorError::TooLarge { dtype, shape: shape.to_vec() })?;
        Ok(Tensor { dtype, shape: shape.to_vec(), bytes: Bytes::zeroed(size) })
    }

    /// A tensor from little-endian row-major bytes, a `Vec` or [`Bytes`]. Bytes of a bool tensor other than 0 become 1.
    ///
    /// # Errors
    /// Where their number does not fit the shape.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: impl Into<Bytes>) -> Result<Self, TensorError> {
        let expected = checked_byte_size(dtype, shape)
            .ok_or_else(|| TensorError::TooLarge { dtype, shape: shape.to_vec() })?;
        let mut bytes = bytes.into();
        let got = bytes.as_slice().len();
        if got != expected {
            return Err(TensorError::Size { dtype, shape: shape.to_vec(), expected, got });
        }
        if dtype == DType::Bool && bytes.as_slice().iter().any(|b| *b > 1) {
            bytes.as_mut_slice().iter_mut().for_each(|b| *b = u8::from(*b != 0));
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), bytes })
    }

    /// A tensor from row-major values.
    ///
    /// # Errors
    /// Where their number does not fit the shape.
    pub fn from_values<T: Scalar>(shape: &[usize], values: &[T]) -> Result<Self, TensorError> {
        let size = T::DTYPE.size();
        let bytes = values.iter().flat_map(|v| v.literal().bits().to_le_bytes().into_iter().take(size));
        Tensor::from_bytes(T::DTYPE, shape, bytes.collect::<Vec<u8>>())
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.bytes().len() / self.dtype.size()
    }

    /// The little-endian bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The bytes, for writing results in place; a bool is 0 or 1. Where the memory is shared they are a copy.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }

    /// The bytes with their memory, to be shared.
    pub fn memory(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether another tensor shares the memory.
    pub fn is_shared(&self) -> bool {
        self.bytes.is_shared()
    }

    /// The element at a row-major position; `None` past the end.
    pub fn get(&self, position: usize) -> Option<Literal> {
        let size = self.dtype.size();
        let start = position.checked_mul(size)?;
        let bytes = self.bytes().get(start..start.checked_add(size)?)?;
        let mut word = [0u8; 8];
        word[..size].copy_from_slice(bytes);
        Some(Literal::from_bits(self.dtype, u64::from_le_bytes(word)))
    }

    /// The elements in order.
    pub fn literals(&self) -> impl Iterator<Item = Literal> + '_ {
        let size = self.dtype.size();
        self.bytes().chunks_exact(size).map(move |chunk| {
            let mut word = [0u8; 8];
            word[..size].copy_from_slice(chunk);
            Literal::from_bits(self.dtype, u64::from_le_bytes(word))
        })
    }

    /// The values.
    ///
    /// # Errors
    /// Where the element type is another.
    pub fn to_values<T: Scalar>(&self) -> Result<Vec<T>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DType { expected: T::DTYPE, got: self.dtype });
        }
        Ok(self.literals().map(T::from_literal).collect())
    }

    /// The values as f64; exact for every type but large i64.
    pub fn to_f64(&self) -> Vec<f64> {
        self.literals().map(Literal::as_f64).collect()
    }
}
