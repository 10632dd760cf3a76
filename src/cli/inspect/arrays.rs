//! What arrays hold: types, shapes, ranges, and the distribution of what looks like lengths.

use std::collections::BTreeMap;
use std::fmt::Write;

use fuse_ir::Tensor;
use serde::Serialize;

use super::super::error::CliError;
use super::super::{print, table};

/// The longest vector whose distribution is shown.
const MAX_LENGTHS: usize = 1 << 16;
/// The most bars of a distribution.
const MAX_BARS: i64 = 12;
/// The width of the longest bar, in characters.
const BAR_WIDTH: usize = 40;

/// One array.
#[derive(Debug, Serialize)]
struct ArrayReport {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    elements: usize,
    /// Of the numbers that are finite; absent where there are none.
    min: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
    nan: usize,
    /// Of either sign.
    infinite: usize,
    /// For vectors of integers that are not negative, such as the lengths of rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    distribution: Vec<Bar>,
}

/// How many numbers lie in a range.
#[derive(Debug, PartialEq, Serialize)]
struct Bar {
    from: i64,
    /// The last number of the range.
    to: i64,
    count: usize,
}

/// Prints what arrays hold.
pub fn inspect(arrays: BTreeMap<String, Tensor>, json: bool) -> Result<(), CliError> {
    let reports: Vec<ArrayReport> = arrays.into_iter().map(|(name, t)| ArrayReport::of(name, &t)).collect();
    if json {
        let value = serde_json::json!({ "arrays": reports });
        return print(&format!("{value:#}\n"));
    }
    print(&text(&reports))
}

impl ArrayReport {
    fn of(name: String, tensor: &Tensor) -> ArrayReport {
        let (mut min, mut max, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
        let (mut nan, mut infinite, mut finite) = (0, 0, 0usize);
        for value in tensor.literals().map(|v| v.as_f64()) {
            if value.is_nan() {
                nan += 1;
            } else if value.is_infinite() {
                infinite += 1;
            } else {
                (min, max, sum, finite) = (min.min(value), max.max(value), sum + value, finite + 1);
            }
        }
        let some = |value: f64| (finite > 0).then_some(value);
        ArrayReport {
            name,
            dtype: tensor.dtype().name(),
            shape: tensor.shape().to_vec(),
            elements: tensor.elements(),
            min: some(min),
            max: some(max),
            mean: some(sum / finite as f64),
            nan,
            infinite,
            distribution: distribution(tensor),
        }
    }
}

/// How a vector of lengths is distributed; empty for other arrays.
fn distribution(tensor: &Tensor) -> Vec<Bar> {
    let vector = tensor.shape().len() == 1 && (2..=MAX_LENGTHS).contains(&tensor.elements());
    if !vector || tensor.dtype().is_float() || tensor.dtype() == fuse_ir::DType::Bool {
        return Vec::new();
    }
    let values: Vec<i64> = tensor.literals().map(|v| v.as_i64()).collect();
    let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) else { return Vec::new() };
    // What is no length, an index into a table for example, may lie anywhere.
    if *low < 0 || *high > 1 << 20 {
        return Vec::new();
    }
    let width = (high - low) / MAX_BARS + 1;
    let bars = (high - low) / width + 1;
    let mut counts = vec![0; bars as usize];
    for value in &values {
        counts[((value - low) / width) as usize] += 1;
    }
    let bar = |(i, count)| {
        let from = low + i as i64 * width;
        Bar { from, to: (from + width - 1).min(*high), count }
    };
    counts.into_iter().enumerate().map(bar).collect()
}

fn text(reports: &[ArrayReport]) -> String {
    let heading = ["array", "type", "min", "max", "mean", "NaN", "infinite"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.6}"));
    for r in reports {
        rows.push(vec![
            r.name.clone(),
            format!("{}{:?}", r.dtype, r.shape),
            number(r.min),
            number(r.max),
            number(r.mean),
            r.nan.to_string(),
            r.infinite.to_string(),
        ]);
    }
    let mut out = table::render(&rows);
    for r in reports.iter().filter(|r| !r.distribution.is_empty()) {
        let _ = writeln!(out, "\n{}", r.name);
        out.push_str(&bars(&r.distribution));
    }
    out
}

fn bars(distribution: &[Bar]) -> String {
    let most = distribution.iter().map(|b| b.count).max().unwrap_or(1).max(1);
    let row = |bar: &Bar| {
        let range =
            if bar.from == bar.to { bar.from.to_string() } else { format!("{}-{}", bar.from, bar.to) };
        let length = (bar.count * BAR_WIDTH).div_ceil(most);
        vec![format!("  {range}"), bar.count.to_string(), "#".repeat(length)]
    };
    table::render(&distribution.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_distributed_over_few_bars() {
        let lengths: Vec<i32> = (1..=100).collect();
        let bars = distribution(&Tensor::from_values(&[100], &lengths).unwrap());
        assert_eq!(bars.len(), 12);
        assert_eq!(bars[0], Bar { from: 1, to: 9, count: 9 });
        assert_eq!(bars.iter().map(|b| b.count).sum::<usize>(), 100);
        assert_eq!(bars[11].to, 100);
        let same = distribution(&Tensor::from_values(&[3], &[7i64, 7, 7]).unwrap());
        assert_eq!(same, [Bar { from: 7, to: 7, count: 3 }]);
        assert!(distribution(&Tensor::from_values(&[2], &[-1i64, i64::MAX]).unwrap()).is_empty());
    }

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let tensor = Tensor::from_values(&[4], &[f32::NAN, f32::INFINITY, 1.0, 3.0]).unwrap();
        let report = ArrayReport::of("x".into(), &tensor);
        assert_eq!((report.nan, report.infinite), (1, 1));
        assert_eq!((report.min, report.max, report.mean), (Some(1.0), Some(3.0), Some(2.0)));
        let empty = ArrayReport::of("e".into(), &Tensor::from_values::<f32>(&[0], &[]).unwrap());
        assert_eq!(empty.mean, None);
    }
}
