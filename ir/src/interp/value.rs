//! What a run carries from node to node: arrays, and where errors are estimated those of every element.

use super::InterpError;
use super::array::Array;

/// A value of the graph.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub array: Array,
    /// Present in runs that estimate errors.
    pub errors: Option<Errors>,
}

/// How far each element of a value may be from what it is in real numbers; floats of the value's shape, not negative.
#[derive(Clone, Debug)]
pub(super) struct Errors {
    /// By rounding errors that all add up.
    pub worst: Array,
    /// By rounding errors that are independent of each other.
    pub likely: Array,
}

impl Value {
    /// What a function of arrays makes of the value and its errors alike.
    pub fn map(&self, mut f: impl FnMut(&Array) -> Result<Array, InterpError>) -> Result<Value, InterpError> {
        let array = f(&self.array)?;
        let errors = match &self.errors {
            Some(Errors { worst, likely }) => Some(Errors { worst: f(worst)?, likely: f(likely)? }),
            None => None,
        };
        Ok(Value { array, errors })
    }

    /// The same of two values, both of which have errors or neither.
    pub fn zip(
        &self,
        other: &Value,
        mut f: impl FnMut(&Array, &Array) -> Result<Array, InterpError>,
    ) -> Result<Value, InterpError> {
        let array = f(&self.array, &other.array)?;
        let errors = match (&self.errors, &other.errors) {
            (Some(x), Some(y)) => {
                Some(Errors { worst: f(&x.worst, &y.worst)?, likely: f(&x.likely, &y.likely)? })
            }
            _ => None,
        };
        Ok(Value { array, errors })
    }
}
