//! A launch for each kernel and step, for devices that have no room for all blocks of a loop, or of a cluster, at once.

use std::sync::{Arc, OnceLock};

use fuse_codegen::kernel_ir::{Function, Mapping};

use crate::device::DeviceError;
use crate::error::RunError;
use crate::executable::Code;
use crate::program::{Program, Quantities, Quantity};
use crate::version::Version;

/// Makes the functions of a program of which none needs all its blocks at once, with their code, or says why there are
/// none.
pub type MakeSteps = Box<dyn Fn() -> Result<(Vec<Function>, Code), String> + Send + Sync>;

/// A loop or a product whose blocks, or those of one of its clusters, do not all fit on the device at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shortage {
    pub kernel: String,
    /// The blocks that it needs.
    pub wanted: u64,
    /// Those that there is room for.
    pub available: u64,
}

/// The first launch of a program whose blocks have to be there at once and are more than there is room for: `room` says
/// for how many there is of a launch.
pub(crate) fn shortage(
    program: &Program,
    quantities: &Quantities,
    room: impl Fn(&crate::program::Launch) -> Result<u64, DeviceError>,
) -> Result<Option<Shortage>, RunError> {
    for (launch, work) in program.launches.iter().zip(&quantities.work) {
        let wanted = match (launch.mapping, work) {
            (Mapping::Resident { .. }, Quantity::Fixed(work)) => launch.mapping.blocks(work.unsigned_abs()),
            // Clusters do not wait for each other.
            (Mapping::Clusters { blocks, .. }, _) => u64::from(blocks),
            _ => continue,
        };
        let available = room(launch)?;
        if wanted > available {
            return Ok(Some(Shortage { kernel: launch.name.clone(), wanted, available }));
        }
    }
    Ok(None)
}

/// What runs in place of loops that are one launch, `C`, once a run has needed it.
pub(crate) struct Fallback<C> {
    make: MakeSteps,
    made: OnceLock<(Arc<Version>, C)>,
}

impl<C> Fallback<C> {
    pub fn new(make: MakeSteps) -> Fallback<C> {
        Fallback { make, made: OnceLock::new() }
    }

    /// The program and its code, which `load` makes the first time, when `shortage` is told of.
    pub fn code(
        &self,
        shortage: &Shortage,
        load: impl FnOnce(&[Function], Code) -> Result<(Arc<Version>, C), RunError>,
    ) -> Result<&(Arc<Version>, C), RunError> {
        if let Some(code) = self.made.get() {
            return Ok(code);
        }
        let Shortage { kernel, wanted, available } = shortage;
        tracing::warn!(
            kernel,
            wanted,
            available,
            "the device has no room for all blocks of this launch that have to be there at once; steps of loops are launched one by one and sums not divided among blocks, which is slower"
        );
        let (functions, code) = (self.make)().map_err(DeviceError::Steps)?;
        let loaded = load(&functions, code)?;
        // Another run may have been faster; what it made is the same.
        Ok(self.made.get_or_init(|| loaded))
    }
}
