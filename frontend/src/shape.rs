//! Dimensions and shapes as arguments.

use fuse_ir::{Dim, TensorType, types::Shape};

use crate::error::{ErrorKind, Fault, argument};

/// The dimension written as `text`: a number, a symbol, or a sum of products of both: `dim("4*H + 1")`.
///
/// # Errors
/// Where the text is none of these.
pub fn dim(text: &str) -> Result<Dim, String> {
    text.into_dim()
}

/// What may stand for a dimension: an integer, a text (see [`dim`]), a [`Dim`].
pub trait IntoDim {
    /// The dimension.
    ///
    /// # Errors
    /// Where a text is not a dimension: a sentence that says so.
    fn into_dim(self) -> Result<Dim, String>;
}

impl IntoDim for Dim {
    fn into_dim(self) -> Result<Dim, String> {
        Ok(self)
    }
}

impl IntoDim for &Dim {
    fn into_dim(self) -> Result<Dim, String> {
        Ok(self.clone())
    }
}

impl IntoDim for i64 {
    fn into_dim(self) -> Result<Dim, String> {
        Ok(Dim::constant(self))
    }
}

impl IntoDim for i32 {
    fn into_dim(self) -> Result<Dim, String> {
        Ok(Dim::constant(self.into()))
    }
}

impl IntoDim for usize {
    fn into_dim(self) -> Result<Dim, String> {
        i64::try_from(self).map(Dim::constant).map_err(|_| format!("{self} is too large for a dimension"))
    }
}

impl IntoDim for &str {
    fn into_dim(self) -> Result<Dim, String> {
        parse_sum(self).ok_or_else(|| {
            format!("`{self}` is no dimension; write a number, a symbol, or a sum of products of them")
        })
    }
}

/// What [`dim`] returns.
impl IntoDim for Result<Dim, String> {
    fn into_dim(self) -> Result<Dim, String> {
        self
    }
}

impl IntoDim for String {
    fn into_dim(self) -> Result<Dim, String> {
        self.as_str().into_dim()
    }
}

/// What may stand for a shape: a tuple, array, vector or slice of dimensions, outermost first:
/// `("T", "B", 64)`; `()` is the shape of a scalar.
pub trait IntoShape {
    /// The shape.
    ///
    /// # Errors
    /// Where an entry is not a dimension.
    fn dims(self) -> Result<Shape, String>;
}

impl<D: IntoDim, const N: usize> IntoShape for [D; N] {
    fn dims(self) -> Result<Shape, String> {
        self.into_iter().map(IntoDim::into_dim).collect()
    }
}

impl<D: IntoDim> IntoShape for Vec<D> {
    fn dims(self) -> Result<Shape, String> {
        self.into_iter().map(IntoDim::into_dim).collect()
    }
}

impl IntoShape for &[Dim] {
    fn dims(self) -> Result<Shape, String> {
        Ok(self.to_vec())
    }
}

impl IntoShape for &Shape {
    fn dims(self) -> Result<Shape, String> {
        Ok(self.clone())
    }
}

macro_rules! tuple {
    ($($name:ident $position:tt),*) => {
        impl<$($name: IntoDim),*> IntoShape for ($($name,)*) {
            fn dims(self) -> Result<Shape, String> {
                Ok(vec![$(self.$position.into_dim()?),*])
            }
        }
    };
}

tuple!();
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// Conversion with the crate's own error.
pub(crate) trait ShapeArgument {
    fn into_shape(self) -> Result<Shape, Fault>;
}

impl<S: IntoShape> ShapeArgument for S {
    fn into_shape(self) -> Result<Shape, Fault> {
        self.dims().map_err(|problem| argument("shape", "not a shape", problem))
    }
}

/// A dimension given as the argument `name`.
pub(crate) fn one_dim(name: &str, dim: impl IntoDim) -> Result<Dim, Fault> {
    dim.into_dim().map_err(|problem| argument(name, "not a dimension", problem))
}

/// The position of a possibly negative axis.
pub(crate) fn axis_of(ty: &TensorType, axis: i64) -> Result<usize, Fault> {
    insertion_axis(ty, axis, ty.rank())
}

/// The position of a possibly negative axis of a result of rank `rank`.
pub(crate) fn insertion_axis(ty: &TensorType, axis: i64, rank: usize) -> Result<usize, Fault> {
    let signed = rank as i64;
    let position = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
    position
        .filter(|p| (0..signed).contains(p))
        .map(|p| p as usize)
        .ok_or_else(|| ErrorKind::Axis { ty: ty.clone(), axis }.into())
}

/// Whether `text` is a letter or underscore followed by letters, digits and underscores.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `4*H + T - 1`
fn parse_sum(text: &str) -> Option<Dim> {
    let mut sum = Dim::constant(0);
    let mut rest = text.trim();
    let mut sign = 1;
    if let Some(after) = rest.strip_prefix('-') {
        (sign, rest) = (-1, after);
    }
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let mut product = Dim::constant(sign);
        for factor in rest[..end].split('*') {
            product = product * parse_factor(factor.trim())?;
        }
        sum = sum + product;
        sign = match rest[end..].chars().next() {
            None => return Some(sum),
            Some('-') => -1,
            Some(_) => 1,
        };
        rest = &rest[end + 1..];
    }
}

fn parse_factor(text: &str) -> Option<Dim> {
    if is_identifier(text) {
        return Some(Dim::symbol(text));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().map(Dim::constant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_sum_of_products_of_numbers_and_symbols() {
        for (text, expected) in [("64", "64"), ("T", "T"), ("4*H", "4*H"), (" T - 1", "T - 1"), ("-1", "-1")]
        {
            assert_eq!(dim(text).map(|d| d.to_string()).as_deref(), Ok(expected));
        }
        assert_eq!(dim("2*H*B + 4*H + H").map(|d| d.to_string()).as_deref(), Ok("2*B*H + 5*H"));
    }

    #[test]
    fn a_text_that_is_no_dimension_is_refused() {
        for text in ["", "4H", "T +", "*", "T-", "99999999999999999999", "T.x", "é"] {
            assert!(dim(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_shape_may_mix_numbers_and_symbols() {
        let shape = ("T", 3, Dim::symbol("B"), "4*H").dims();
        let expected = TensorType::new(fuse_ir::DType::F32, shape.unwrap_or_default());
        assert_eq!(expected.to_string(), "f32[T, 3, B, 4*H]");
    }
}
