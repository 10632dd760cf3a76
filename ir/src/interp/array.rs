//! Values while they are interpreted: f64 or i64 elements, counted against a limit of memory.

use std::cell::Cell;
use std::rc::Rc;

use crate::dtype::{DType, Literal};
use crate::tensor::{Tensor, TensorError};

use super::{InterpError, Precision};

/// Counts the bytes of all living arrays.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    live: Rc<Cell<u64>>,
    limit: u64,
}

/// The share of one array in the count; gives it back when dropped.
#[derive(Debug)]
struct Charge {
    live: Rc<Cell<u64>>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.live.set(self.live.get().saturating_sub(self.bytes));
    }
}

/// Memory granted for a number of elements, before they exist.
pub(super) struct Grant {
    elements: usize,
    charge: Charge,
}

impl Memory {
    pub fn new(limit: u64) -> Self {
        Memory { live: Rc::new(Cell::new(0)), limit }
    }

    /// Grants memory for an array of this shape.
    pub fn grant(&self, shape: &[usize]) -> Result<Grant, InterpError> {
        let elements = element_count(shape);
        let bytes = elements.and_then(|n| u64::try_from(n).ok()).and_then(|n| n.checked_mul(8));
        let live = self.live.get();
        match (elements, bytes) {
            (Some(elements), Some(bytes)) if bytes <= self.limit.saturating_sub(live) => {
                self.live.set(live + bytes);
                Ok(Grant { elements, charge: Charge { live: self.live.clone(), bytes } })
            }
            _ => Err(InterpError::Memory { shape: shape.to_vec(), live, limit: self.limit }),
        }
    }
}

/// The number of elements; `None` where it overflows, but an empty shape is empty whatever its other extents.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// The elements of an array in row-major order.
#[derive(Debug)]
pub(super) enum Elements {
    /// Of a float type.
    Float(Vec<f64>),
    /// Of an integer type; 0 and 1 for bool.
    Int(Vec<i64>),
}

#[derive(Debug)]
struct Storage {
    elements: Elements,
    _charge: Charge,
}

/// A tensor; clones share the elements.
#[derive(Clone, Debug)]
pub(super) struct Array {
    shape: Rc<[usize]>,
    storage: Rc<Storage>,
}

/// The two element types, for code that only moves elements.
pub(super) trait Element: Copy {
    fn of(array: &Array) -> Result<&[Self], InterpError>;
    fn wrap(elements: Vec<Self>) -> Elements;
}

impl Element for f64 {
    fn of(array: &Array) -> Result<&[f64], InterpError> {
        array.floats()
    }
    fn wrap(elements: Vec<f64>) -> Elements {
        Elements::Float(elements)
    }
}

impl Element for i64 {
    fn of(array: &Array) -> Result<&[i64], InterpError> {
        array.ints()
    }
    fn wrap(elements: Vec<i64>) -> Elements {
        Elements::Int(elements)
    }
}

impl Grant {
    /// The array of these elements, as many as were granted.
    pub fn array<T: Element>(self, shape: &[usize], elements: Vec<T>) -> Result<Array, InterpError> {
        if elements.len() != self.elements {
            let text = format!("{} elements were computed for the shape {shape:?}", elements.len());
            return Err(InterpError::Malformed(text));
        }
        let storage = Storage { elements: T::wrap(elements), _charge: self.charge };
        Ok(Array { shape: shape.into(), storage: Rc::new(storage) })
    }

    /// An empty vector with room for the granted elements.
    pub fn vector<T>(&self) -> Result<Vec<T>, InterpError> {
        let mut out = Vec::new();
        out.try_reserve_exact(self.elements)
            .map_err(|_| InterpError::Allocation { elements: self.elements })?;
        Ok(out)
    }

    /// A vector of the granted elements, all `value`.
    pub fn filled<T: Copy>(&self, value: T) -> Result<Vec<T>, InterpError> {
        let mut out = self.vector()?;
        out.resize(self.elements, value);
        Ok(out)
    }
}

impl Array {
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn elements(&self) -> &Elements {
        &self.storage.elements
    }

    pub fn floats(&self) -> Result<&[f64], InterpError> {
        match &self.storage.elements {
            Elements::Float(v) => Ok(v),
            Elements::Int(_) => Err(InterpError::Malformed("integers where floats are expected".into())),
        }
    }

    pub fn ints(&self) -> Result<&[i64], InterpError> {
        match &self.storage.elements {
            Elements::Int(v) => Ok(v),
            Elements::Float(_) => Err(InterpError::Malformed("floats where integers are expected".into())),
        }
    }

    /// The same elements under another shape of as many.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Array, InterpError> {
        if element_count(shape) != element_count(&self.shape) {
            let text = format!("the shape {:?} cannot become {shape:?}", self.shape);
            return Err(InterpError::Malformed(text));
        }
        Ok(Array { shape: shape.into(), storage: self.storage.clone() })
    }

    pub fn from_tensor(tensor: &Tensor, memory: &Memory) -> Result<Array, InterpError> {
        let grant = memory.grant(tensor.shape())?;
        if tensor.dtype().is_float() {
            let mut out = grant.vector()?;
            match tensor.dtype() {
                // The common type without the detour through literals.
                DType::F32 => out.extend(tensor.bytes().chunks_exact(4).map(|c| {
                    let mut word = [0; 4];
                    word.copy_from_slice(c);
                    f64::from(f32::from_le_bytes(word))
                })),
                _ => out.extend(tensor.literals().map(Literal::as_f64)),
            }
            grant.array(tensor.shape(), out)
        } else {
            let mut out = grant.vector()?;
            out.extend(tensor.literals().map(Literal::as_i64));
            grant.array(tensor.shape(), out)
        }
    }

    /// The host tensor of an array of type `dtype`: floats as f64 under [`Precision::F64`].
    pub fn to_tensor(&self, dtype: DType, precision: Precision) -> Result<Tensor, TensorError> {
        let shape = self.shape();
        let dtype = match precision {
            Precision::F64 if dtype.is_float() => DType::F64,
            Precision::F64 | Precision::Declared => dtype,
        };
        let bytes = match &self.storage.elements {
            Elements::Float(v) if dtype == DType::F64 => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Float(v) if dtype == DType::F32 => {
                v.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect()
            }
            Elements::Float(v) => literal_bytes(dtype, v.iter().map(|x| Literal::from_f64(dtype, *x))),
            Elements::Int(v) => literal_bytes(dtype, v.iter().map(|x| Literal::from_i64(dtype, *x))),
        };
        Tensor::from_bytes(dtype, shape, bytes)
    }
}

fn literal_bytes(dtype: DType, literals: impl Iterator<Item = Literal>) -> Vec<u8> {
    literals.flat_map(|l| l.bits().to_le_bytes().into_iter().take(dtype.size())).collect()
}

/// Row-major strides. Of an empty shape they are never used, so that overflow does not matter.
pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut out = vec![0; shape.len()];
    let mut stride = 1isize;
    for (i, extent) in shape.iter().enumerate().rev() {
        out[i] = stride;
        stride = stride.wrapping_mul(*extent as isize);
    }
    out
}

/// Calls `row` with the position of each innermost row of a strided walk over `shape`, in row-major order.
fn walk(shape: &[usize], base: isize, strides: &[isize], mut row: impl FnMut(isize)) {
    if shape.contains(&0) {
        return;
    }
    let outer = shape.len().saturating_sub(1);
    let mut point = vec![0usize; outer];
    let mut position = base;
    loop {
        row(position);
        let mut axis = outer;
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            point[axis] += 1;
            position += strides[axis];
            if point[axis] < shape[axis] {
                break;
            }
            position -= strides[axis] * shape[axis] as isize;
            point[axis] = 0;
        }
    }
}

/// Appends `source[base + Σ point·strides]` for every point of `shape`.
pub(super) fn read_strided<T: Copy>(
    source: &[T],
    shape: &[usize],
    base: isize,
    strides: &[isize],
    out: &mut Vec<T>,
) {
    let (length, step) = match (shape.last(), strides.last()) {
        (Some(n), Some(s)) => (*n, *s),
        _ => (1, 1),
    };
    walk(shape, base, strides, |position| {
        let start = position as usize;
        match step {
            1 => out.extend_from_slice(&source[start..start + length]),
            0 => out.extend(std::iter::repeat_n(source[start], length)),
            _ => out.extend((0..length as isize).map(|i| source[(position + i * step) as usize])),
        }
    });
}

/// Writes the elements of `source`, of shape `shape`, to `out[base + Σ point·strides]`; the innermost stride
/// is 1.
pub(super) fn write_strided<T: Copy>(
    source: &[T],
    shape: &[usize],
    base: isize,
    strides: &[isize],
    out: &mut [T],
) {
    let length = shape.last().copied().unwrap_or(1);
    let mut rest = source;
    walk(shape, base, strides, |position| {
        let (row, tail) = rest.split_at(length);
        out[position as usize..position as usize + length].copy_from_slice(row);
        rest = tail;
    });
}
