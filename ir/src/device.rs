//! Plain numbers about a device, for the cost model.

/// The bytes that `exchange_seconds` are for: 32 KiB, which is what was measured.
const EXCHANGED_BYTES: f64 = 32768.0;

/// What the cost model knows about a device. Rates are sustained, not theoretical.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// The device's name, as the command line spells it.
    pub name: String,
    /// Fused multiply-adds and the like, f32, per second.
    pub flops_per_second: f64,
    /// The same in products of matrices of 16-bit floats that are summed up in f32, where a device has units for them;
    /// with factors of tf32 half as many.
    pub matrix_flops_per_second: f64,
    /// The same where warp groups of a GPU multiply matrices in shared memory together; as many where none do.
    pub group_matrix_flops_per_second: f64,
    /// How many flops a 16-bit float takes to become f32. None on a GPU: tensor cores multiply 16-bit floats as they
    /// are in memory, and elsewhere it is memory that kernels of them wait for.
    pub widening_flops: f64,
    /// Transcendental functions (exp, tanh, …) per second.
    pub transcendentals_per_second: f64,
    /// Bytes per second between memory and the cores.
    pub memory_bytes_per_second: f64,
    /// Bytes per second that all cores read of what others wrote, through the last cache that they share.
    pub cache_bytes_per_second: f64,
    /// Bytes per second that the threads of all cores load into registers, from what a core keeps to itself.
    pub load_bytes_per_second: f64,
    /// How much of the shorter of moving data and computing is not hidden behind the longer, from 0 to 1.
    pub exposed: f64,
    /// Seconds to launch one kernel (on a CPU: to enter compiled code on all threads).
    pub launch_seconds: f64,
    /// Seconds for all cores to meet once inside a kernel.
    pub barrier_seconds: f64,
    /// Seconds from when a core stores what all others need at the next step to when these have it, a barrier included.
    pub exchange_seconds: f64,
    /// The same among cores of a cluster, which write to each other's memory on the chip, where a device has such.
    pub cluster_exchange_seconds: f64,
    /// Seconds that a core takes, beside summing up, for rows whose sums its threads share: they meet, add up partial sums,
    /// meet, and compute what becomes of them.
    pub turn_seconds: f64,
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
    /// Threads that a long sum outside of loops is divided among where its points do not fill the device; 1 where it is not
    /// divided.
    pub sum_parts: f64,
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

    /// Seconds that an exchange takes longer if all cores need so many bytes of what others stored.
    pub fn seconds_beyond_exchange(&self, bytes: f64) -> f64 {
        (bytes - EXCHANGED_BYTES).max(0.0) * f64::from(self.cores) / self.cache_bytes_per_second
    }

    /// Seconds of multiply-adds of f32 by threads each of which sums up so many rows by so many columns: what it loads of
    /// either, 4 bytes, it multiplies with all it has of the other.
    pub fn tiled_seconds(&self, flops: f64, [rows, columns]: [f64; 2]) -> f64 {
        let loaded = flops / 2.0 * 4.0 * (1.0 / rows + 1.0 / columns);
        (flops / self.flops_per_second).max(loaded / self.load_bytes_per_second)
    }

    /// A two-core server CPU; figures as measured on a 2-core AVX-512 machine with 128-bit code.
    pub fn cpu() -> Self {
        DeviceModel {
            name: "cpu".into(),
            flops_per_second: 100e9,
            matrix_flops_per_second: 100e9,
            group_matrix_flops_per_second: 100e9,
            widening_flops: 1.0,
            transcendentals_per_second: 2e9,
            memory_bytes_per_second: 40e9,
            // Loads are part of what was measured as arithmetic.
            cache_bytes_per_second: f64::INFINITY,
            load_bytes_per_second: f64::INFINITY,
            // What lies in a cache is moved faster than from memory, and then computing is what takes the time.
            exposed: 0.5,
            launch_seconds: 1e-6,
            barrier_seconds: 0.2e-6,
            // The caches see to it while the cores meet.
            exchange_seconds: 0.2e-6,
            cluster_exchange_seconds: 0.2e-6,
            turn_seconds: 0.0,
            // A fused multiply-add, 4 cycles; `examples/recurrences.rs` measures it.
            step_seconds: 1e-9,
            loops_on_cores: true,
            on_chip_bytes: 1 << 20,
            cores: 2,
            parallel_points: 64.0,
            sum_parts: 1.0,
            reduces_contiguously: true,
        }
    }

    /// An H100 (SXM).
    pub fn cuda() -> Self {
        DeviceModel { name: "cuda".into(), ..DeviceModel::gpu(90) }
    }

    /// A GPU of a compute capability (times ten) such as data centres have: what its data sheet promises (NVIDIA's of
    /// the T4, A100 80 GB, L4, H100 SXM, B200 and RTX 5090), three quarters of it in arithmetic and nine tenths in
    /// bandwidth.
    pub fn gpu(capability: u32) -> Self {
        // Multiprocessors, clock in GHz, 10^12 operations of f32 and of matrices of 16-bit floats and 10^9 bytes of memory
        // per second, KiB a block.
        let (cores, clock, flops, matrix_flops, bandwidth, kib) = match capability {
            ..=79 => (40, 1.59, 8.1, 65.0, 320.0, 64),
            80 | 87 => (108, 1.41, 19.5, 312.0, 2039.0, 163),
            81..=89 => (58, 2.04, 30.3, 121.0, 300.0, 99),
            90..=99 => (132, 1.98, 67.0, 989.0, 3350.0, 227),
            100..=119 => (148, 1.97, 80.0, 2250.0, 8000.0, 227),
            _ => (170, 2.41, 104.8, 209.5, 1792.0, 99),
        };
        // Of what the tensor cores of an H800 can do, warps that multiply by themselves reach 62.9 % on average (Luo et al.,
        // Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking, arXiv:2402.13499).
        let by_warps = if (90..=99).contains(&capability) { 0.63 } else { 1.0 };
        DeviceModel {
            name: format!("sm_{capability}"),
            flops_per_second: 0.75e12 * flops,
            matrix_flops_per_second: 0.75e12 * matrix_flops * by_warps,
            group_matrix_flops_per_second: 0.75e12 * matrix_flops,
            widening_flops: 0.0,
            // 16 a clock and multiprocessor (CUDA programming guide, throughput of native arithmetic).
            transcendentals_per_second: 0.95 * 16e9 * clock * f64::from(cores),
            memory_bytes_per_second: 0.9e9 * bandwidth,
            // 32 bytes a clock and multiprocessor, three quarters of it: 6.3e12 of sm_90, where an H200 has 6.7e12 to 8.3e12
            // (docs/perf/gpu.md).
            cache_bytes_per_second: 0.75 * 32e9 * clock * f64::from(cores),
            // 128 bytes a clock and multiprocessor (CUDA programming guide, banks of shared memory).
            load_bytes_per_second: 128e9 * clock * f64::from(cores),
            exposed: 0.05,
            launch_seconds: 2e-6,
            // Both measured on an H200 (docs/perf/gpu.md).
            barrier_seconds: 0.94e-6,
            exchange_seconds: 2.7e-6,
            // A store and a signal that follows it, 180 cycles each between multiprocessors of an H800 (Luo et al.,
            // Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking, arXiv:2402.13499); not
            // measured here.
            cluster_exchange_seconds: 2.0 * 180e-9 / clock,
            // What a step of an LSTM took on an H200 beside the exchange and its loads (docs/perf/gpu.md).
            turn_seconds: 1.1e-6,
            // A load from memory that a step waits for, taken as 500 cycles; not measured on a card yet.
            step_seconds: 500e-9 / clock,
            loops_on_cores: false,
            on_chip_bytes: kib << 10,
            cores,
            parallel_points: f64::from(cores) * 2048.0,
            // 16 warps, of whose threads four have columns or rows of their own.
            sum_parts: 128.0,
            reduces_contiguously: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_loops_take_what_they_took_on_a_card() {
        let device = DeviceModel::gpu(90);
        // Rows, hidden size, gates, and microseconds on an H200 (docs/perf/gpu.md), where blocks took 16 rows at once.
        for (rows, hidden, gates, measured) in [
            (16.0, 512.0, 4.0, 4.8),
            (64.0, 512.0, 4.0, 14.1),
            (64.0, 1024.0, 4.0, 30.6),
            (16.0, 512.0, 3.0, 4.8),
        ] {
            let products = device.tiled_seconds(2.0 * rows * hidden * hidden * gates, [4.0, gates]);
            let turns = rows / 16.0 * device.turn_seconds;
            let exchange = device.exchange_seconds + device.seconds_beyond_exchange(4.0 * rows * hidden);
            let modelled = 1e6 * (exchange + turns + products);
            let error = modelled / measured - 1.0;
            assert!(error.abs() < 0.1, "{rows} by {hidden}, {gates} gates: {modelled:.2} us, not {measured}");
        }
    }

    #[test]
    fn newer_gpus_of_a_class_compute_and_move_more() {
        let models = [75, 80, 90, 100].map(DeviceModel::gpu);
        for pair in models.windows(2) {
            assert!(pair[0].flops_per_second < pair[1].flops_per_second, "{} {}", pair[0].name, pair[1].name);
            assert!(pair[0].memory_bytes_per_second < pair[1].memory_bytes_per_second);
            assert!(pair[0].cores < pair[1].cores);
        }
        assert_eq!(DeviceModel { name: "sm_90".into(), ..DeviceModel::cuda() }, DeviceModel::gpu(90));
    }
}
