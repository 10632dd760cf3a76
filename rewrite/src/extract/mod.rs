//! Extraction: which node computes each class, and which classes are materialised.
//!
//! An [`Extractor`] decides; there is one file for each. What a decision means (which kernels, in which
//! loops, at what cost) is the same for all and lives here.

pub mod arrange;
pub mod bits;
pub mod canonical;
pub mod cost;
pub mod decisions;
pub mod dense;
pub mod evaluate;
#[cfg(feature = "exact")]
pub mod exact;
pub mod greedy;
pub mod kernel_cost;
pub mod memory;
pub mod placement;
pub mod points;
pub mod region;
pub mod roots;
pub mod walk;

use fuse_ir::device::DeviceModel;

use arrange::Item;
use dense::{Class, Dense};
pub use evaluate::Evaluator;
use memory::Materialised;
use placement::{Misplaced, Placement};
pub use region::Region;
use roots::Roots;

/// What is to be extracted.
pub struct Problem<'a> {
    /// The classes.
    pub dense: &'a Dense<'a>,
    /// The class of each graph output.
    pub outputs: Vec<Class>,
    /// The stacked results of scans: with these in memory every loop can be separated from what follows it.
    pub stacked: Vec<Class>,
    /// The device.
    pub device: &'a DeviceModel,
}

/// The kernels that a decision leads to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is in memory.
    pub memory: Materialised,
    /// What is stored, and what computes it.
    pub roots: Roots,
    /// The loops around each root.
    pub placement: Placement,
    /// Kernels and loops in order of execution.
    pub items: Vec<Item>,
    /// Seconds of one run, for assumed dimensions.
    pub seconds: f64,
}

/// Numbers about an extraction.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ExtractionStats {
    /// Decisions that were evaluated.
    pub evaluated: usize,
    /// Classes that could be materialised or not.
    pub candidates: usize,
    /// Regions that were decided as an equal one was.
    pub reused: usize,
    /// Points that were visited to evaluate decisions: the work of the search, whatever the machine.
    pub visited: usize,
    /// Classes that were materialised.
    pub materialised: usize,
    /// Whether nothing else is better, in what could be stored without repetition.
    pub proven: bool,
    /// Seconds of one run by the model.
    pub seconds: f64,
}

/// A way to decide.
pub trait Extractor {
    /// The name in reports.
    fn name(&self) -> &'static str;

    /// The best plan found.
    ///
    /// # Errors
    /// In words, where no legal plan was found.
    fn extract(&self, problem: &Problem<'_>) -> Result<(Plan, ExtractionStats), String>;
}

/// Why a decision leads to no kernels.
#[derive(Clone, Debug, PartialEq)]
pub enum Illegal {
    /// These classes must be materialised too.
    Needs(Vec<Class>),
    /// The values cannot be placed in loops.
    Misplaced(Misplaced),
}
