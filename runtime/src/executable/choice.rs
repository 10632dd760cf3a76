//! Which code a run takes: with indices of 32 or 64 bits, with loops as one launch or their steps one by one.

use std::sync::Arc;

use fuse_codegen::kernel_ir::Function;
use fuse_ir::Tensor;
use fuse_ir::expr::DimEnv;

use super::{Backend, Code, Executable};
use crate::device::{Device, DeviceError, Kind};
use crate::error::RunError;
use crate::fallback::{Fallback, MakeSteps, Shortage, shortage};
use crate::program::{Program, Quantities};
use crate::version::{Instance, Version};
use crate::wide::Wide;

/// Code on a device.
pub(super) struct Form {
    pub backend: Backend,
    /// The same code with wider indices, where it has narrow ones.
    pub wide: Option<Wide<Backend>>,
}

/// What a run takes.
pub(super) struct Choice<'a> {
    pub version: Arc<Version>,
    pub instance: Arc<Instance>,
    pub backend: &'a Backend,
}

impl Form {
    /// Loads PTX on a GPU, simulated or not.
    pub fn of_ptx(device: &Device, functions: &[Function], code: Code) -> Result<Form, DeviceError> {
        let (ptx, wide) = match code {
            Code::Host(_) => (Vec::new(), None),
            Code::Ptx(ptx) => (ptx, None),
            Code::NarrowPtx { modules, wide } => (modules, Some(Wide::new(functions, wide))),
        };
        Ok(Form { backend: load_ptx(device, &ptx, functions)?, wide })
    }

    /// What runs with the indices that a run needs.
    fn backend(&self, device: &Device, instance: &Instance) -> Result<&Backend, RunError> {
        match &self.wide {
            Some(wide) if instance.has_wide_indices => {
                tracing::debug!("indices have 64 bits");
                Ok(wide.code(|ptx, functions| load_ptx(device, ptx, functions))?)
            }
            Some(_) | None => Ok(&self.backend),
        }
    }
}

impl Backend {
    /// The first loop that there is no room for.
    fn shortage(&self, program: &Program, quantities: &Quantities) -> Result<Option<Shortage>, RunError> {
        match self {
            Backend::Cpu { .. } => Ok(None),
            Backend::Sim { code } => shortage(program, quantities, |launch| Ok(code.room(launch))),
            Backend::Cuda { code, .. } => shortage(program, quantities, |launch| code.room(launch)),
        }
    }
}

impl Executable {
    /// Has loops that are one launch replaced by a launch for each kernel and step in runs on a GPU that has no room for all
    /// their blocks at once, as a smaller one or one that others use. `make` is called when that is first needed. Without it
    /// such runs fail.
    pub fn fall_back_to(&mut self, make: MakeSteps) {
        self.fallback = Some(Fallback::new(make));
    }

    /// What a run takes whose instance is that of a version.
    pub(super) fn choose<'a>(
        &'a self,
        version: Arc<Version>,
        instance: Arc<Instance>,
        given: &[Option<&Tensor>],
        dims: &DimEnv,
    ) -> Result<Choice<'a>, RunError> {
        let backend = self.form.backend(&self.device, &instance)?;
        let Some(fallback) = &self.fallback else { return Ok(Choice { version, instance, backend }) };
        let Some(shortage) = backend.shortage(&version.program, &instance.quantities)? else {
            return Ok(Choice { version, instance, backend });
        };
        let (version, form) = fallback.code(&shortage, |functions, code| {
            let kernels = (*version.kernels).clone();
            let version = Version::new(&self.graph, kernels, functions, None, &self.device);
            let version = version.map_err(|e| DeviceError::Steps(e.to_string()))?;
            Ok((Arc::new(version), Form::of_ptx(&self.device, functions, code)?))
        })?;
        let instance = self.instance(version, form, given, dims)?;
        let backend = form.backend(&self.device, &instance)?;
        Ok(Choice { version: version.clone(), instance, backend })
    }
}

/// Modules on a GPU, simulated or not.
fn load_ptx(device: &Device, ptx: &[String], functions: &[Function]) -> Result<Backend, DeviceError> {
    match &device.kind {
        Kind::Sim(sim) => Ok(Backend::Sim { code: sim.load(ptx, functions)? }),
        Kind::Cuda(cuda) => Ok(Backend::Cuda { device: cuda.clone(), code: cuda.load(ptx, functions)? }),
        Kind::Cpu(_) => {
            Err(DeviceError::NoEntry(functions.first().map_or_else(String::new, |f| f.name.clone())))
        }
    }
}
