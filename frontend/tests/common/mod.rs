//! What the tests share: running a graph on the interpreter, and numbers to run it on.
#![allow(dead_code)] // every test file uses a part

use fuse_ir::interp::{Precision, interpret};
use fuse_ir::{Graph, Tensor};

/// The outputs of a graph, in order, as (shape, values), in f64 throughout.
pub fn run(graph: &Graph, inputs: &[(&str, Tensor)]) -> Vec<(Vec<usize>, Vec<f64>)> {
    let find = |name: &str| {
        inputs.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no input `{name}`")).1.clone()
    };
    let ordered: Vec<Tensor> = graph.inputs().iter().map(|i| find(&i.name)).collect();
    let outputs = interpret(graph, &ordered, Precision::F64).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    outputs.iter().map(|t| (t.shape().to_vec(), t.to_f64())).collect()
}

/// Small numbers that look random, the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Rounded to f32 so that the graph's f32 inputs and the reference see the same numbers.
        f64::from(((self.0 >> 33) as f64 / f64::from(1u32 << 31) - 0.5) as f32)
    }

    pub fn take(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.next()).collect()
    }
}

pub fn f32s(shape: &[usize], values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_values(shape, &values).expect("the count fits the shape")
}

pub fn i64s(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_values(shape, values).expect("the count fits the shape")
}

#[track_caller]
pub fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= 1e-12 * e.abs().max(1.0), "element {i}: {g} instead of {e}");
    }
}
