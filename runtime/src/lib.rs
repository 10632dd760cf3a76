//! Memory planning and kernel launch for the fuse compiler.
//!
//! An [`Executable`] is made once from a graph, its kernels and their compiled functions; weights are bound
//! once; it then runs at any dimensions. Before a run every buffer has its place ([`plan`]), so that a run
//! that would not fit fails before anything is allocated.
//!
//! Devices ([`device`]) share one walk over the program's steps. The CPU ([`cpu`]) walks it with a team of
//! threads in lockstep ([`team`]), or on threads of the caller ([`ThreadPool`]); CUDA launches it on a stream, through a driver that is loaded at run time.

mod arguments;
mod block;
pub mod cpu;
mod cuda;
pub mod device;
pub mod error;
pub mod executable;
mod fallback;
mod flag;
mod improvement;
pub mod limits;
pub mod liveness;
pub mod machine;
mod narrow;
pub mod plan;
pub mod plan_checker;
mod pool;
mod prepare;
mod processor;
mod profile;
mod program;
mod rounds;
pub mod sim;
pub mod team;
mod turn;
mod version;
mod weights;
mod wide;

pub use arguments::Arguments;
pub use block::OutOfMemory;
pub use cpu::{FAST_OPERATIONS_PER_SECOND, HostModule};
pub use device::{Device, DeviceError, DeviceName, DeviceOptions};
pub use error::{BuildError, RunError};
pub use executable::{Code, Executable};
pub use fallback::MakeSteps;
pub use improvement::{HostCode, Improvement, Maker, Making, Urgency, improvement};
pub use plan::{MemoryPlan, PlanError};
pub use pool::ThreadPool;
pub use profile::KernelTime;
pub use wide::MakePtx;
