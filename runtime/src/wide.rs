//! PTX whose indices have 64 bits, for the runs that need them.

use std::collections::HashMap;
use std::sync::OnceLock;

use fuse_codegen::indices::{Range, of_expression, suffice};
use fuse_codegen::kernel_ir::Function;
use fuse_ir::expr::{DimEnv, Symbol};

use crate::device::DeviceError;
use crate::program::{Node, Program};

/// Makes PTX modules, or says why there are none.
pub type MakePtx = Box<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>;

/// What code with indices of 32 bits was compiled from, and the same with 64, `C`, once a run has needed it.
pub(crate) struct Wide<C> {
    functions: Vec<Function>,
    make: MakePtx,
    made: OnceLock<C>,
}

impl<C> Wide<C> {
    pub fn new(functions: &[Function], make: MakePtx) -> Wide<C> {
        Wide { functions: functions.to_vec(), make, made: OnceLock::new() }
    }

    /// Whether a run at `dims` needs it.
    pub fn is_needed(&self, program: &Program, dims: &DimEnv) -> bool {
        let ranges = ranges(program, dims);
        !self.functions.iter().all(|function| suffice(function, &|s| ranges.get(s).copied()))
    }

    /// The code, which `load` makes of the modules the first time.
    pub fn code(
        &self,
        load: impl FnOnce(&[String], &[Function]) -> Result<C, DeviceError>,
    ) -> Result<&C, DeviceError> {
        if let Some(code) = self.made.get() {
            return Ok(code);
        }
        let modules = (self.make)().map_err(DeviceError::WideIndices)?;
        let loaded = load(&modules, &self.functions)?;
        // Another run may have been faster; what it made is the same.
        Ok(self.made.get_or_init(|| loaded))
    }
}

/// What every runtime integer is in a run at `dims`: a dimension one number, a counter all those of its loop.
fn ranges(program: &Program, dims: &DimEnv) -> HashMap<Symbol, Range> {
    let mut ranges: HashMap<Symbol, Range> = dims.iter().map(|(s, n)| (s.clone(), Range::of(n))).collect();
    counters(program, &program.steps, &mut ranges);
    ranges
}

fn counters(program: &Program, steps: &[Node], ranges: &mut HashMap<Symbol, Range>) {
    for step in steps {
        let Node::Loop { trip, counter, body, .. } = step else { continue };
        let trip = of_expression(&program.trips[*trip], &|s| ranges.get(s).copied());
        ranges.insert(program.symbols[*counter].clone(), Range::count(trip.high));
        counters(program, body, ranges);
    }
}
