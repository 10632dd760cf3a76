//! Plain numbers about a device, for the cost model.

/// What the cost model knows about a device. Rates are sustained, not theoretical.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// The device's name, as the command line spells it.
    pub name: String,
    /// Fused multiply-adds and the like, f32, per second.
    pub flops_per_second: f64,
    /// How many of those a 16-bit float takes to become f32. None on a GPU: tensor cores multiply 16-bit floats as they
    /// are in memory, and elsewhere it is memory that kernels of them wait for.
    pub widening_flops: f64,
    /// Transcendental functions (exp, tanh, …) per second.
    pub transcendentals_per_second: f64,
    /// Bytes per second between memory and the cores.
    pub memory_bytes_per_second: f64,
    /// How much of the shorter of moving data and computing is not hidden behind the longer, from 0 to 1.
    pub exposed: f64,
    /// Seconds to launch one kernel (on a CPU: to enter compiled code on all threads).
    pub launch_seconds: f64,
    /// Seconds for all cores to meet once inside a kernel.
    pub barrier_seconds: f64,
    /// Seconds from one point of a recurrence to the next where no other work hides them.
    pub step_seconds: f64,
    /// Whether the cores run loops themselves and meet between the kernels of a step, rather than a host launching
    /// each: what stands between two steps is a barrier then, and no launch.
    pub loops_on_cores: bool,
    /// Bytes of memory on the chip that one core (or block) can keep to itself.
    pub on_chip_bytes: u64,
    /// Cores (or multiprocessors).
    pub cores: u32,
    /// Points of an iteration space below which the device is not filled.
    pub parallel_points: f64,
    /// Whether a reduction runs best along contiguous memory (vectors along the reduced axis), rather than with
    /// neighbouring points reading neighbouring elements.
    pub reduces_contiguously: bool,
}

impl DeviceModel {
    /// Bytes of memory that all cores can keep to themselves together.
    pub fn on_chip_total_bytes(&self) -> f64 {
        self.on_chip_bytes as f64 * f64::from(self.cores)
    }

    /// Seconds that a kernel in a loop takes beside its work.
    pub fn seconds_between_steps(&self) -> f64 {
        if self.loops_on_cores { self.barrier_seconds } else { self.launch_seconds }
    }

    /// A two-core server CPU; figures as measured on a 2-core AVX-512 machine with 128-bit code.
    pub fn cpu() -> Self {
        DeviceModel {
            name: "cpu".into(),
            flops_per_second: 100e9,
            widening_flops: 1.0,
            transcendentals_per_second: 2e9,
            memory_bytes_per_second: 40e9,
            // What lies in a cache is moved faster than from memory, and then computing is what takes the time.
            exposed: 0.5,
            launch_seconds: 1e-6,
            barrier_seconds: 0.2e-6,
            // A fused multiply-add, 4 cycles; `examples/recurrences.rs` measures it.
            step_seconds: 1e-9,
            loops_on_cores: true,
            on_chip_bytes: 1 << 20,
            cores: 2,
            parallel_points: 64.0,
            reduces_contiguously: true,
        }
    }

    /// An H100-class GPU, from its public specification: f32 outside the tensor cores, HBM3.
    pub fn cuda() -> Self {
        DeviceModel {
            name: "cuda".into(),
            flops_per_second: 50e12,
            widening_flops: 0.0,
            transcendentals_per_second: 4e12,
            memory_bytes_per_second: 3e12,
            exposed: 0.05,
            launch_seconds: 2e-6,
            barrier_seconds: 1e-6,
            // A load from memory that a step waits for, taken as 500 cycles of 1.8 GHz; not measured on a card yet.
            step_seconds: 0.28e-6,
            loops_on_cores: false,
            on_chip_bytes: 227 << 10,
            cores: 132,
            parallel_points: 132.0 * 2048.0,
            reduces_contiguously: false,
        }
    }
}
