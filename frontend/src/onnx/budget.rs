//! What importing a model may cost in all, every pass included.

use std::cell::Cell;

use super::error::OnnxError;

/// How many nodes and initializers are imported in all passes; a node of many operands counts as several.
const MAX_NODES: u64 = 1 << 20;
/// The operands and results that cost as much as a node.
const OPERANDS: u64 = 64;
/// How many elements are computed in all while a model is imported; about a second of the interpreter's time.
const MAX_OPERATIONS: u64 = 1 << 26;

/// What importing a model may still cost.
#[derive(Debug)]
pub(crate) struct Budget {
    nodes: Cell<u64>,
    operations: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { nodes: Cell::new(MAX_NODES), operations: Cell::new(MAX_OPERATIONS) }
    }
}

impl Budget {
    /// Takes one node or initializer into account.
    ///
    /// # Errors
    /// Where too many were imported already.
    pub(crate) fn node(&self, operands: usize) -> Result<(), OnnxError> {
        let cost = 1 + operands as u64 / OPERANDS;
        let Some(left) = self.nodes.get().checked_sub(cost) else {
            let text = "nodes in all passes, one for each dimension or input that others depend on; give more of \
                        them with --dim, or simplify the model";
            return Err(OnnxError::Limit(format!("more than {MAX_NODES} {text}")));
        };
        self.nodes.set(left);
        Ok(())
    }

    /// Whether so many elements may be computed now, rather than when the model runs.
    pub(crate) fn compute(&self, elements: u64) -> bool {
        match self.operations.get().checked_sub(elements) {
            Some(left) => {
                self.operations.set(left);
                true
            }
            None => false,
        }
    }
}
