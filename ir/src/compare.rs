//! Agreement of a result with the oracle: by how much two tensors differ, and where most.

use std::fmt;

use crate::dtype::DType;
use crate::tensor::Tensor;

/// How far a value may be from the expected one. A value agrees if it satisfies any one of the three bounds;
/// with all three at 0 its bits must be those of the expected value rounded to the type, the sign of a zero
/// included.
///
/// Integers and bools must be equal, unless `absolute` or `relative` allows for more.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tolerance {
    /// Units in the last place of the result's element type; see [`ulp_distance`].
    pub ulp: f64,
    /// The absolute difference.
    pub absolute: f64,
    /// The difference relative to the magnitude of the expected value.
    pub relative: f64,
}

impl Tolerance {
    /// The same bits.
    pub const EXACT: Tolerance = Tolerance { ulp: 0.0, absolute: 0.0, relative: 0.0 };

    /// A bound in units in the last place alone.
    pub fn ulp(ulp: f64) -> Self {
        Tolerance { ulp, ..Tolerance::EXACT }
    }

    /// A bound on the absolute difference alone.
    pub fn absolute(absolute: f64) -> Self {
        Tolerance { absolute, ..Tolerance::EXACT }
    }
}

/// By how much two tensors that agree differ at most.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Agreement {
    /// The number of elements compared.
    pub elements: usize,
    /// The largest absolute difference.
    pub max_absolute: f64,
    /// The largest difference relative to the expected value, where that is not 0.
    pub max_relative: f64,
    /// The largest difference in units in the last place; 0 for integers.
    pub max_ulp: f64,
    /// The row-major position of the element with the largest absolute difference; 0 where there is none.
    pub worst: usize,
    /// The largest part of its own allowance that an element's absolute difference is, where there are allowances; see
    /// [`compare_within`].
    pub max_share: f64,
}

impl Agreement {
    /// The larger of each figure.
    pub fn merge(self, other: Agreement) -> Agreement {
        Agreement {
            elements: self.elements + other.elements,
            max_absolute: self.max_absolute.max(other.max_absolute),
            max_relative: self.max_relative.max(other.max_relative),
            max_ulp: self.max_ulp.max(other.max_ulp),
            worst: if other.max_absolute > self.max_absolute { other.worst } else { self.worst },
            max_share: self.max_share.max(other.max_share),
        }
    }
}

/// Prints `max error 1.2e-7 absolute, 3.4e-7 relative, 1.50 ULP over 4096 elements`.
impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "max error {:.1e} absolute, {:.1e} relative, {:.2} ULP over {} elements",
            self.max_absolute, self.max_relative, self.max_ulp, self.elements
        )
    }
}

/// Why two tensors do not agree.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Disagreement {
    /// The extents differ.
    #[error("got shape {got:?}, expected {expected:?}")]
    Shape {
        /// The extents that came.
        got: Vec<usize>,
        /// The extents that should have come.
        expected: Vec<usize>,
    },
    /// The element types cannot be compared: floats need an f64 or equal type, others an equal one.
    #[error("got {got}, expected {expected}")]
    DType {
        /// The element type that came.
        got: DType,
        /// The element type of the expected values.
        expected: DType,
    },
    /// Elements differ by more than the tolerance.
    #[error(
        "at {position:?}: got {got}, expected {expected} (off by {absolute:.1e}, {ulp:.1} ULP); {failing} of {elements} elements disagree"
    )]
    Element {
        /// The coordinates of the worst element.
        position: Vec<usize>,
        /// Its value.
        got: String,
        /// What it should be.
        expected: String,
        /// Its absolute difference.
        absolute: f64,
        /// Its difference in units in the last place; 0 for integers.
        ulp: f64,
        /// How many elements disagree.
        failing: usize,
        /// How many elements there are.
        elements: usize,
    },
}

/// The distance between consecutive values of a float type in the binade of `x`.
fn ulp_of(dtype: DType, x: f64) -> f64 {
    let (precision, low, high) = match dtype {
        DType::F32 => (24, -126, 127),
        DType::F16 => (11, -14, 15),
        DType::Bf16 => (8, -126, 127),
        DType::F64 | DType::I32 | DType::I64 | DType::U8 | DType::Bool => (53, -1022, 1023),
    };
    let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).clamp(low, high);
    // Down to the least f64, 2^-1074, which has no exponent field of its own.
    let last = exponent - (precision - 1);
    if last >= -1022 {
        f64::from_bits(((last + 1023) as u64) << 52)
    } else {
        f64::from_bits(1 << (last + 1074))
    }
}

/// `|a - b|` in units in the last place of `b` in the float type `dtype`.
///
/// The unit below the normal range is that of the least normal number. Two NaN are 0 apart and a NaN is
/// infinitely far from anything else. An infinite `a` counts as the power of two just above the type's
/// range, so that an overflow near the limit is a small error; an infinite or overflowing `b` is 0 from the
/// same infinity.
pub fn ulp_distance(dtype: DType, a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let rounded = if dtype.is_float() { dtype.round_f64(b) } else { b };
    if a == b || a == rounded && rounded.is_infinite() {
        return 0.0;
    }
    if b.is_infinite() {
        return f64::INFINITY;
    }
    let unit = ulp_of(dtype, b);
    if a.is_infinite() {
        let largest_unit = ulp_of(dtype, f64::MAX);
        let top = match dtype {
            DType::F16 => 2f64.powi(16),
            DType::F32 | DType::Bf16 => 2f64.powi(128),
            // One past the range of f64: measured from the largest value, plus its unit.
            _ => return ((f64::MAX - b.abs()) + largest_unit) / unit + sign_gap(a, b),
        };
        return (top.copysign(a) - b).abs() / unit;
    }
    (a - b).abs() / unit
}

/// Infinitely far where the signs differ.
fn sign_gap(a: f64, b: f64) -> f64 {
    if a.is_sign_negative() == b.is_sign_negative() { 0.0 } else { f64::INFINITY }
}

/// The difference of one element.
struct Difference {
    absolute: f64,
    relative: f64,
    ulp: f64,
    agrees: bool,
}

fn difference(dtype: DType, got: f64, expected: f64, tolerance: &Tolerance, allowed: f64) -> Difference {
    let ulp = ulp_distance(dtype, got, expected);
    let absolute = match ulp {
        0.0 => 0.0,
        _ if got.is_nan() || expected.is_nan() => f64::INFINITY,
        _ => (got - expected).abs(),
    };
    let relative = if absolute == 0.0 || expected == 0.0 { 0.0 } else { absolute / expected.abs() };
    let agrees = if *tolerance == Tolerance::EXACT && allowed == 0.0 {
        let expected = dtype.round_f64(expected);
        got.is_nan() && expected.is_nan() || got.to_bits() == expected.to_bits()
    } else {
        ulp <= tolerance.ulp
            || absolute <= tolerance.absolute + allowed
            || absolute <= tolerance.relative * expected.abs() + allowed && absolute.is_finite()
    };
    Difference { absolute, relative, ulp, agrees }
}

/// Compares a result with expected values: f64 for floats of any width, otherwise of the same type.
///
/// NaN agrees with NaN alone, an infinity with the same infinity (or with a finite expected value that
/// rounds to it, or is within the tolerance of it).
///
/// # Errors
/// Where shapes or types differ or an element is off by more than the tolerance; the worst one is named.
pub fn compare(got: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<Agreement, Disagreement> {
    compare_elements(got, expected, tolerance, None)
}

/// The same where each element, in row-major order, may be off by as much as `allowed` says beside the absolute or the
/// relative tolerance.
///
/// # Errors
/// As [`compare`].
pub fn compare_within(
    got: &Tensor,
    expected: &Tensor,
    tolerance: Tolerance,
    allowed: &[f64],
) -> Result<Agreement, Disagreement> {
    compare_elements(got, expected, tolerance, Some(allowed))
}

fn compare_elements(
    got: &Tensor,
    expected: &Tensor,
    tolerance: Tolerance,
    allowances: Option<&[f64]>,
) -> Result<Agreement, Disagreement> {
    if got.shape() != expected.shape() {
        let (got, expected) = (got.shape().to_vec(), expected.shape().to_vec());
        return Err(Disagreement::Shape { got, expected });
    }
    let widened = got.dtype().is_float() && expected.dtype() == DType::F64;
    if got.dtype() != expected.dtype() && !widened {
        return Err(Disagreement::DType { got: got.dtype(), expected: expected.dtype() });
    }
    let mut agreement = Agreement { elements: got.elements(), ..Agreement::default() };
    let (mut failing, mut worst_failing): (usize, Option<(usize, Difference)>) = (0, None);
    for (i, (a, b)) in got.literals().zip(expected.literals()).enumerate() {
        let allowed = allowances.and_then(|all| all.get(i)).copied().unwrap_or(0.0);
        let d = if got.dtype().is_float() {
            difference(got.dtype(), a.as_f64(), b.as_f64(), &tolerance, allowed)
        } else {
            let absolute = a.as_i64().abs_diff(b.as_i64()) as f64;
            let relative = if absolute == 0.0 { 0.0 } else { absolute / (b.as_f64().abs()) };
            let agrees = absolute <= tolerance.absolute.max(tolerance.relative * b.as_f64().abs()) + allowed;
            Difference { absolute, relative, ulp: 0.0, agrees }
        };
        if d.absolute > agreement.max_absolute {
            (agreement.max_absolute, agreement.worst) = (d.absolute, i);
        }
        agreement.max_relative = agreement.max_relative.max(d.relative);
        agreement.max_ulp = agreement.max_ulp.max(d.ulp);
        if allowed > 0.0 {
            agreement.max_share = agreement.max_share.max(d.absolute / allowed);
        }
        if !d.agrees {
            failing += 1;
            let key = |d: &Difference| if got.dtype().is_float() { d.ulp } else { d.absolute };
            if worst_failing.as_ref().is_none_or(|(_, w)| key(&d) > key(w)) {
                worst_failing = Some((i, d));
            }
        }
    }
    let Some((worst, d)) = worst_failing else { return Ok(agreement) };
    let show = |t: &Tensor| t.get(worst).map_or_else(String::new, |l| l.to_string());
    Err(Disagreement::Element {
        position: coordinates(worst, got.shape()),
        got: show(got),
        expected: show(expected),
        absolute: d.absolute,
        ulp: d.ulp,
        failing,
        elements: got.elements(),
    })
}

/// The coordinates of a row-major position in a shape without empty axes.
fn coordinates(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut out = vec![0; shape.len()];
    for (coordinate, extent) in out.iter_mut().zip(shape).rev() {
        *coordinate = position % (*extent).max(1);
        position /= (*extent).max(1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Tensor {
        Tensor::from_values(&[values.len()], values).unwrap()
    }

    fn f64s(values: &[f64]) -> Tensor {
        Tensor::from_values(&[values.len()], values).unwrap()
    }

    #[test]
    fn distances_are_in_units_of_the_expected_value() {
        assert_eq!(ulp_distance(DType::F32, 1.0 + f64::from(f32::EPSILON), 1.0), 1.0);
        assert_eq!(ulp_distance(DType::F32, 1.0, 1.0 + f64::from(f32::EPSILON) / 4.0), 0.25);
        assert_eq!(ulp_distance(DType::F16, 1.0 + 2f64.powi(-10), 1.0), 1.0);
        assert_eq!(ulp_distance(DType::Bf16, 1.0, 1.0 + 2f64.powi(-7)), 1.0);
        assert_eq!(ulp_distance(DType::F64, f64::from_bits(3), 0.0), 3.0);
        assert_eq!(ulp_distance(DType::F32, 2f64.powi(-149), 0.0), 1.0);
        assert_eq!(ulp_distance(DType::F32, 0.0, -0.0), 0.0);
    }

    #[test]
    fn overflow_is_right_where_the_expected_value_rounds_to_it() {
        let inf = f64::INFINITY;
        assert_eq!(ulp_distance(DType::F32, inf, 1e39), 0.0);
        assert_eq!(ulp_distance(DType::F32, inf, f64::from(f32::MAX)), 1.0);
        assert_eq!(ulp_distance(DType::F64, inf, f64::MAX), 1.0);
        assert_eq!(ulp_distance(DType::F64, -inf, f64::MAX), inf);
        assert_eq!(ulp_distance(DType::F32, f64::from(f32::MAX), inf), inf);
        assert!(ulp_distance(DType::F32, -inf, 1e39) > 1e6);
        assert_eq!(ulp_distance(DType::F16, f64::NAN, 1.0), inf);
        assert_eq!(ulp_distance(DType::F16, f64::NAN, f64::NAN), 0.0);
    }

    #[test]
    fn the_exact_tolerance_tells_zeros_apart_and_rounds_the_expected_value() {
        assert!(compare(&f32s(&[0.1]), &f64s(&[0.1]), Tolerance::EXACT).is_ok());
        assert!(compare(&f32s(&[0.0]), &f64s(&[-0.0]), Tolerance::EXACT).is_err());
        assert!(compare(&f32s(&[0.0]), &f64s(&[-0.0]), Tolerance::ulp(0.5)).is_ok());
        let next = f32::from_bits(0.1f32.to_bits() + 1);
        assert!(compare(&f32s(&[next]), &f64s(&[0.1]), Tolerance::EXACT).is_err());
    }

    #[test]
    fn any_one_bound_is_enough() {
        let (got, expected) = (f32s(&[1.0, 1000.5]), f64s(&[1.001, 1000.0]));
        assert!(compare(&got, &expected, Tolerance { ulp: 0.0, absolute: 0.01, relative: 1e-3 }).is_ok());
        assert!(compare(&got, &expected, Tolerance::absolute(0.01)).is_err());
        let agreement = compare(&got, &expected, Tolerance::absolute(1.0)).unwrap();
        assert_eq!((agreement.max_absolute, agreement.worst, agreement.elements), (0.5, 1, 2));
    }

    #[test]
    fn the_message_names_the_worst_place() {
        let got = Tensor::from_values(&[2, 2], &[1f32, 2.0, 3.0, f32::NAN]).unwrap();
        let expected = Tensor::from_values(&[2, 2], &[1f64, 2.5, 3.0, 4.0]).unwrap();
        let error = compare(&got, &expected, Tolerance::ulp(1.0)).unwrap_err().to_string();
        assert_eq!(error, "at [1, 1]: got nan, expected 4.0 (off by inf, inf ULP); 2 of 4 elements disagree");
        let error = compare(&got, &f64s(&[1.0]), Tolerance::ulp(1.0)).unwrap_err().to_string();
        assert_eq!(error, "got shape [2, 2], expected [1]");
        let ints = Tensor::from_values(&[1], &[1i32]).unwrap();
        assert_eq!(
            compare(&ints, &f64s(&[1.0]), Tolerance::ulp(1.0)).unwrap_err().to_string(),
            "got i32, expected f64"
        );
    }

    #[test]
    fn infinities_do_not_agree_with_finite_values_under_a_relative_bound() {
        let t = Tolerance { ulp: 4.0, absolute: 1e-5, relative: 1e-5 };
        assert!(compare(&f32s(&[f32::INFINITY]), &f64s(&[1.0]), t).is_err());
        assert!(compare(&f32s(&[1.0]), &f64s(&[f64::INFINITY]), t).is_err());
        assert!(compare(&f32s(&[f32::INFINITY]), &f64s(&[f64::INFINITY]), t).is_ok());
    }

    #[test]
    fn integers_are_equal_or_within_the_absolute_bound() {
        let (a, b) =
            (Tensor::from_values(&[1], &[7i64]).unwrap(), Tensor::from_values(&[1], &[8i64]).unwrap());
        assert!(compare(&a, &b, Tolerance::ulp(8.0)).is_err());
        assert!(compare(&a, &b, Tolerance::absolute(1.0)).is_ok());
    }
}
