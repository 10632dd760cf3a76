//! Devices by name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use fuse_codegen::schedule::GpuLimits;

use crate::cpu::CpuDevice;
use crate::cuda::CudaDevice;
use crate::limits;
use crate::pool::ThreadPool;
use crate::sim::device::{CAPABILITY, SimDevice};
use crate::sim::{Counters, PtxError, SimError};

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no device of that name.
    #[error("there is no device `{0}`; there are cpu, sim, sim:sm_90a and cuda:N (cuda is cuda:0)")]
    UnknownName(String),
    /// The system refused the threads of a team.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many.
        threads: usize,
        /// Why.
        reason: String,
    },
    /// The CUDA driver is not installed or does not start.
    #[error("no CUDA driver here: {0}")]
    NoDriver(String),
    /// The driver has fewer devices.
    #[error("there is no cuda:{ordinal}; the driver has {count} devices")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: i32,
    },
    /// The driver did not take a module.
    #[error("the driver rejected the PTX ({error}): {log}")]
    Ptx {
        /// The driver's error.
        error: String,
        /// The log of its compiler.
        log: String,
    },
    /// A module has no entry point of that name.
    #[error("no PTX module has the entry point `{0}`")]
    NoEntry(String),
    /// Dimensions need indices of 64 bits, and code with these was not to be had.
    #[error("these dimensions need indices of 64 bits, and compiling for those failed: {0}")]
    WideIndices(String),
    /// There is no room for all blocks of a loop or a cluster at once, and code that does without was not to be had.
    #[error(
        "the device has no room for all blocks of a launch at once, and compiling without it failed: {0}"
    )]
    Steps(String),
    /// A launch has more blocks than a grid may have.
    #[error("kernel `{kernel}` needs {blocks} blocks; a grid has at most 2^31 - 1")]
    GridTooLarge {
        /// The kernel.
        kernel: String,
        /// The blocks.
        blocks: i64,
    },
    /// The simulated GPU does not take the PTX.
    #[error("sim: {0}")]
    SimPtx(#[from] PtxError),
    /// A launch on the simulated GPU failed: most likely a kernel did something wrong.
    #[error("sim: {0}")]
    Sim(#[from] SimError),
    /// A driver call failed.
    #[error("cuda: cannot {action}: {error}")]
    Driver {
        /// What was to be done.
        action: String,
        /// The driver's error.
        error: String,
    },
}

/// A device's name, as on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceName {
    /// `cpu`
    Cpu,
    /// `sim`, a simulated GPU that is given what later ones run, too (sm_90), or `sim:sm_90a`.
    Sim {
        /// Whether it is given code for its own architecture alone (sm_90a), in which warp groups multiply.
        warp_groups: bool,
    },
    /// `cuda:N`, or `cuda` for `cuda:0`.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::UnknownName(text.to_string());
        match text.split_once(':') {
            None if text == "cpu" => Ok(DeviceName::Cpu),
            None if text == "sim" => Ok(DeviceName::Sim { warp_groups: false }),
            Some(("sim", "sm_90a")) => Ok(DeviceName::Sim { warp_groups: true }),
            None if text == "cuda" => Ok(DeviceName::Cuda(0)),
            Some(("cuda", n)) if n.bytes().all(|b| b.is_ascii_digit()) => {
                n.parse().map(DeviceName::Cuda).map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Sim { warp_groups: false } => f.write_str("sim"),
            DeviceName::Sim { warp_groups: true } => f.write_str("sim:sm_90a"),
            DeviceName::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What a caller may set.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceOptions {
    /// The threads of the CPU's team, the caller's among them, or those that run blocks of the simulated GPU; by
    /// default as many as the process may use.
    pub threads: Option<usize>,
    /// The most bytes that one run may take ([`crate::plan::MemoryPlan::peak_bytes`]); by default what the
    /// machine, its control groups, or the GPU allow.
    pub memory_limit: Option<u64>,
    /// Multiprocessors that are left of the simulated GPU beside what others have taken; by default all of them.
    pub free_multiprocessors: Option<u32>,
}

/// A device that executables run on. Clones share its threads, or its context and stream.
#[derive(Clone)]
pub struct Device {
    pub(crate) kind: Kind,
    memory_limit: u64,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Cpu(CpuDevice),
    Sim(SimDevice),
    Cuda(CudaDevice),
}

impl Device {
    /// Opens the device of that name.
    ///
    /// # Errors
    /// Where the device is not there or refuses.
    pub fn open(name: DeviceName, options: &DeviceOptions) -> Result<Device, DeviceError> {
        let (kind, allowed) = match name {
            DeviceName::Cpu => (Kind::Cpu(CpuDevice::new(options.threads)?), limits::default_memory_limit()),
            DeviceName::Sim { warp_groups } => {
                let threads = options.threads.unwrap_or_else(limits::default_threads);
                let multiprocessors = options.free_multiprocessors;
                let device = SimDevice::new(threads, multiprocessors, warp_groups);
                (Kind::Sim(device), limits::default_memory_limit())
            }
            DeviceName::Cuda(ordinal) => {
                let device = CudaDevice::new(ordinal)?;
                let memory = device.total_memory()?;
                (Kind::Cuda(device), memory)
            }
        };
        Ok(Device { kind, memory_limit: options.memory_limit.unwrap_or(allowed) })
    }

    /// The host processor.
    ///
    /// # Errors
    /// Where the system refuses the threads.
    pub fn cpu(options: &DeviceOptions) -> Result<Device, DeviceError> {
        Device::open(DeviceName::Cpu, options)
    }

    /// The host processor, where every run is made on threads of the caller; see [`ThreadPool`] for what these are asked
    /// to do. Nothing of fuse waits or spins between runs. Runs take as many workers as the pool has, or `options`
    /// allow if that is fewer.
    pub fn on_pool(pool: impl ThreadPool + 'static, options: &DeviceOptions) -> Device {
        let kind = Kind::Cpu(CpuDevice::on_pool(Box::new(pool), options.threads));
        let memory_limit = options.memory_limit.unwrap_or_else(limits::default_memory_limit);
        Device { kind, memory_limit }
    }

    /// A simulated GPU of compute capability 9.0, which executes PTX on the host and reports what it does wrong.
    ///
    /// # Errors
    /// None at present.
    pub fn sim(options: &DeviceOptions) -> Result<Device, DeviceError> {
        Device::open(DeviceName::Sim { warp_groups: false }, options)
    }

    /// The GPU of that number.
    ///
    /// # Errors
    /// Where there is no driver or no such GPU.
    pub fn cuda(ordinal: usize, options: &DeviceOptions) -> Result<Device, DeviceError> {
        Device::open(DeviceName::Cuda(ordinal), options)
    }

    /// The device's name.
    pub fn name(&self) -> DeviceName {
        match &self.kind {
            Kind::Cpu(_) => DeviceName::Cpu,
            Kind::Sim(device) => DeviceName::Sim { warp_groups: device.has_warp_groups() },
            Kind::Cuda(device) => DeviceName::Cuda(device.ordinal()),
        }
    }

    /// The most bytes that one run may take.
    pub fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    /// The threads of the CPU's team, or those that simulate a GPU; 1 for a GPU, which the calling thread drives.
    pub fn threads(&self) -> usize {
        match &self.kind {
            Kind::Cpu(device) => device.threads(),
            Kind::Sim(device) => device.threads(),
            Kind::Cuda(_) => 1,
        }
    }

    /// What the GPU has for blocks that all run at the same time; `None` for the CPU.
    ///
    /// # Errors
    /// Where the driver does not say.
    pub fn gpu_limits(&self) -> Result<Option<GpuLimits>, DeviceError> {
        match &self.kind {
            Kind::Cpu(_) => Ok(None),
            Kind::Sim(device) => {
                Ok(Some(GpuLimits { warp_groups: device.has_warp_groups(), ..GpuLimits::h100() }))
            }
            Kind::Cuda(device) => device.limits().map(Some),
        }
    }

    /// The GPU's compute capability (9, 0 for `sm_90`); `None` for the CPU.
    ///
    /// # Errors
    /// Where the driver does not say.
    pub fn compute_capability(&self) -> Result<Option<(u32, u32)>, DeviceError> {
        match &self.kind {
            Kind::Cpu(_) => Ok(None),
            Kind::Sim(_) => Ok(Some(CAPABILITY)),
            Kind::Cuda(device) => device.compute_capability().map(Some),
        }
    }
}

impl Device {
    /// What launches on the simulated GPU cost since it was opened, by kernel; `None` for other devices.
    pub fn counters(&self) -> Option<BTreeMap<String, Counters>> {
        match &self.kind {
            Kind::Sim(device) => Some(device.counters()),
            Kind::Cpu(_) | Kind::Cuda(_) => None,
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name().to_string())
            .field("threads", &self.threads())
            .field("memory_limit", &self.memory_limit)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_round_trip() {
        for text in ["cpu", "sim", "sim:sm_90a", "cuda:0", "cuda:12"] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        for text in [
            "",
            "gpu",
            "cpu:1",
            "sim:0",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda:1x",
            "CUDA",
            "cuda:99999999999999999999",
        ] {
            let error = text.parse::<DeviceName>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "there is no device `{text}`; there are cpu, sim, sim:sm_90a and cuda:N (cuda is cuda:0)"
                )
            );
        }
    }
}
