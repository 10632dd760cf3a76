//! What a graph computes, and how far a correct program may be from that.
//!
//! Where the last bit of an operand decides (a comparison, a rounding, a difference of equals), another order of
//! operations may well give another result, and so it is with the sign of a zero that a sum comes to. How far a result
//! may be off follows from how far the interpreter itself moves: for inputs that differ in their last places, for other
//! signs of zeros, and, if a program computes in the declared types, when the interpreter does too.

use super::inputs_for;
use crate::dtype::Literal;
use crate::expr::DimEnv;
use crate::graph::Graph;
use crate::interp::{Interpreter, Precision, Zeros};
use crate::tensor::Tensor;

/// How a program computes whose results are compared.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rounding {
    /// How far a result may be off whatever the interpreter does, relative to one more than its magnitude; where
    /// it is infinite only types and shapes are compared.
    pub tolerance: f64,
    /// By how much inputs are moved, relative to their magnitude: a few units in the last place.
    pub nudge: f64,
    /// In what precision, where it is not f64.
    pub declared: bool,
}

impl Rounding {
    /// Of programs that compute in f64.
    pub const F64: Rounding = Rounding { tolerance: 1e-9, nudge: 4e-15, declared: false };
    /// Of programs that compute in the declared types, f32 or wider.
    pub const DECLARED: Rounding = Rounding { tolerance: 1e-5, nudge: 4e-7, declared: true };
}

/// What a graph computes of some inputs.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The inputs.
    pub inputs: Vec<Tensor>,
    /// The outputs, computed in f64.
    pub expected: Vec<Tensor>,
    /// The outputs of the other runs, which move.
    moved: Vec<Vec<Vec<f64>>>,
    rounding: Rounding,
}

/// The inputs with floats off by a few units in the last place.
fn nudged(inputs: &[Tensor], nudge: f64, round: u64) -> Vec<Tensor> {
    let of = |tensor: &Tensor| {
        let mut out = tensor.clone();
        let dtype = tensor.dtype();
        for (i, chunk) in out.bytes_mut().chunks_exact_mut(dtype.size()).enumerate() {
            let Some(value) = tensor.get(i).filter(|_| dtype.is_float()) else { continue };
            let third = (i as u64).wrapping_mul(0x9e37_79b9).wrapping_add(round * 7).is_multiple_of(3);
            let sign = if third { -1.0 } else { 1.0 };
            let off = value.as_f64() * (1.0 + sign * nudge) + sign * nudge / 400.0;
            chunk.copy_from_slice(&Literal::from_f64(dtype, off).bits().to_le_bytes()[..dtype.size()]);
        }
        out
    };
    inputs.iter().map(of).collect()
}

impl Reference {
    /// Interprets a graph on random inputs.
    ///
    /// # Errors
    /// Where the graph cannot run at these dimensions.
    pub fn of(graph: &Graph, dims: &DimEnv, seed: u64, rounding: Rounding) -> Result<Reference, String> {
        let inputs = inputs_for(graph, dims, seed).map_err(|e| e.to_string())?;
        let interpreter = |precision| Interpreter::new(precision).with_dims(dims.clone());
        let run = |inputs: &[Tensor], precision| {
            interpreter(precision).run(graph, inputs).map_err(|e| e.to_string())
        };
        let expected = run(&inputs, Precision::F64)?;
        let mut others = Vec::new();
        if rounding.declared {
            others.push(run(&inputs, Precision::Declared)?);
        }
        // With other zeros there may be no value, as for the moved inputs below.
        others.extend(interpreter(Precision::F64).with_zeros(Zeros::Flipped).run(graph, &inputs));
        for round in 0..2 {
            // Moved inputs may be such that the graph has no value (an index out of range); these say nothing.
            others.extend(run(&nudged(&inputs, rounding.nudge, round), Precision::F64));
        }
        let moved = others.iter().map(|o| o.iter().map(Tensor::to_f64).collect()).collect();
        Ok(Reference { inputs, expected, moved, rounding })
    }

    /// Of results that are known.
    pub fn known(inputs: Vec<Tensor>, expected: Vec<Tensor>, tolerance: f64) -> Reference {
        Reference { inputs, expected, moved: Vec::new(), rounding: Rounding { tolerance, ..Rounding::F64 } }
    }

    /// The first element of a program's outputs that is not right, in words.
    pub fn difference(&self, got: &[Tensor]) -> Option<String> {
        if got.len() != self.expected.len() {
            return Some(format!("{} outputs and not {}", got.len(), self.expected.len()));
        }
        got.iter().zip(&self.expected).enumerate().find_map(|(k, (g, e))| {
            // The interpreter's floats are f64, whatever they are declared to be.
            let same_type = e.dtype() == g.dtype() || (e.dtype().is_float() && g.dtype().is_float());
            if e.shape() != g.shape() || !same_type {
                let ty = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
                return Some(format!("output {k} is {} and not {}", ty(g), ty(e)));
            }
            g.to_f64().iter().zip(e.to_f64()).enumerate().find_map(|(i, (g, e))| {
                let moved: Vec<f64> = self.moved.iter().map(|m| m[k][i]).collect();
                (!self.agree(*g, e, &moved))
                    .then(|| format!("output {k} at {i}: {g} and not {e} (others: {moved:?})"))
            })
        })
    }

    fn agree(&self, got: f64, expected: f64, moved: &[f64]) -> bool {
        let Rounding { tolerance, declared, .. } = self.rounding;
        if got == expected || (got.is_nan() && expected.is_nan()) || tolerance.is_infinite() {
            return true;
        }
        // Beyond f32 there is no telling an overflow from a large number.
        if declared && (!expected.is_finite() || expected.abs() > 1e30) {
            return true;
        }
        // No distance to measure: an overflow in one run, a NaN in another.
        if moved.iter().any(|m| m.is_finite() != expected.is_finite() || m.is_nan() != expected.is_nan()) {
            return true;
        }
        let distance = |m: &f64| if *m == expected { 0.0 } else { (m - expected).abs() };
        let moved = moved.iter().map(distance).filter(|d| !d.is_nan()).fold(0.0, f64::max);
        (got - expected).abs() <= tolerance * (1.0 + expected.abs()) + 64.0 * moved
    }
}
