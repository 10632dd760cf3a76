//! What kernels cost on a device.

use std::ops::AddAssign;

use fuse_ir::device::DeviceModel;
use fuse_ir::expr::{Atom, Symbol};
use fuse_ir::ops::ScalarOp;
use fuse_ir::{DType, Dim, DimEnv, Graph};

/// The dimensions that kernels are chosen for: 100 steps (`T`) and 16 rows (`B`), 64 of anything else.
pub fn assumed_dims(graph: &Graph) -> DimEnv {
    let mut dims = DimEnv::new();
    for symbol in graph.symbols() {
        let value = assumed_symbol(&symbol);
        dims.set(symbol, value);
    }
    dims
}

/// The value a dimension is assumed to have.
pub fn assumed(dim: &Dim) -> f64 {
    let value = dim.eval(&|atom| match atom {
        Atom::Symbol(s) => Some(assumed_symbol(s)),
        Atom::Axis(_) | Atom::FloorDiv(..) | Atom::Mod(..) | Atom::Min(..) | Atom::Max(..) => None,
    });
    value.map_or(64.0, |v| v.max(1) as f64)
}

/// The value a symbol is assumed to have.
pub fn assumed_symbol(symbol: &Symbol) -> i64 {
    match symbol.name() {
        "T" => 100,
        "B" => 16,
        _ => 64,
    }
}

/// The arithmetic of one evaluation of something.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Work {
    /// Operations that take one issue slot.
    pub flops: f64,
    /// Transcendental functions.
    pub transcendentals: f64,
    /// 16-bit floats that become f32.
    pub widenings: f64,
}

impl Work {
    const fn new(flops: f64, transcendentals: f64) -> Self {
        Work { flops, transcendentals, widenings: 0.0 }
    }

    /// Operations that take one issue slot.
    pub const fn of_flops(flops: f64) -> Self {
        Work::new(flops, 0.0)
    }

    /// One number for comparing terms when nothing is known of placement.
    pub fn weight(self) -> f64 {
        self.flops + 16.0 * self.transcendentals + self.widenings
    }

    /// Every number as `f` of it.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        let Work { flops, transcendentals, widenings } = self;
        Work { flops: f(flops), transcendentals: f(transcendentals), widenings: f(widenings) }
    }

    /// The operations that take one issue slot on a device.
    pub fn flops_on(self, device: &DeviceModel) -> f64 {
        self.flops + self.widenings * device.widening_flops
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.flops += other.flops;
        self.transcendentals += other.transcendentals;
        self.widenings += other.widenings;
    }
}

/// What one application of an elementwise op costs.
pub fn scalar_work(op: ScalarOp) -> Work {
    use ScalarOp::*;
    match op {
        Neg | Abs | Sign | Floor | Ceil | Round | Trunc | Relu | Not | IsNan | ToBits | FromBits | Add
        | Sub | Mul | Min | Max | Eq | Ne | Lt | Le | Gt | Ge | And | Or | Xor | Select => {
            Work::new(1.0, 0.0)
        }
        Clamp => Work::new(2.0, 0.0),
        Div | Sqrt | Rsqrt | Reciprocal => Work::new(6.0, 0.0),
        Mod | Rem => Work::new(8.0, 0.0),
        Exp | Exp2 | Expm1 | Log | Log2 | Log1p | Sin | Cos | Tanh | Sigmoid | Erf => Work::new(0.0, 1.0),
        Softplus | Pow => Work::new(1.0, 2.0),
    }
}

/// What a conversion costs.
pub fn cast_work(from: DType, to: DType) -> Work {
    match (from, to) {
        (DType::F16 | DType::Bf16, DType::F32) => Work { widenings: 1.0, ..Work::default() },
        _ => Work::of_flops(1.0),
    }
}

/// What a reduction costs by its mere presence, as a part of a launch: the latency of its dependent chain and
/// of combining lanes. Small products inside a loop are bound by it, and it is why they belong outside.
const REDUCTION_LATENCY: f64 = 0.05;

/// Independent accumulations that hide each other's latency: a multiply-add takes four cycles on current CPUs and
/// GPUs, a CPU starts two a cycle, and on a GPU the second half hides what a thread waits for memory.
const ACCUMULATIONS_IN_FLIGHT: f64 = 8.0;

/// Elements of a part of a divided sum at least: a vector.
const LEAST_PART: f64 = 4.0;

/// How much longer products take within a recurrence, whose points come one after the other: no two rows share a load
/// of the weights. Measured for minGRU on a CPU (`docs/perf/rewriting.md`).
const PRODUCTS_IN_SEQUENCE: f64 = 1.5;

/// The reductions of a kernel.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Reductions {
    /// How many there are.
    pub count: usize,
    /// The combinations of all.
    all: f64,
    /// Those of the longest.
    longest: f64,
}

impl Reductions {
    /// One more, of so many combinations.
    pub fn add(&mut self, combinations: f64) {
        self.count += 1;
        self.all += combinations;
        self.longest = self.longest.max(combinations);
    }

    /// How many are under way at once on average, while the longest runs.
    fn in_flight(&self) -> f64 {
        if self.longest > 0.0 { self.all / self.longest } else { 1.0 }
    }
}

/// One launch of a kernel.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct KernelCost {
    /// Bytes loaded, each element counted once.
    pub loaded: f64,
    /// Bytes stored.
    pub stored: f64,
    /// Arithmetic.
    pub work: Work,
    /// Reductions.
    pub reductions: Reductions,
    /// Points of the iteration space that do not wait for each other.
    pub points: f64,
    /// Points along the axis of recurrences, each of which waits for the one before; 0 without any.
    pub steps: f64,
    /// Whether it is a step of a loop.
    pub is_in_loop: bool,
}

impl KernelCost {
    /// Seconds of one launch: the launch itself, and the roofline. Some of what the maximum hides counts too, also so
    /// that a search does not stand still on its plateaus. Recurrences wait in addition.
    pub fn seconds(&self, device: &DeviceModel) -> f64 {
        self.seconds_with(device, self.reductions.in_flight(), self.parts(device))
    }

    /// Threads that a sum of each point is divided among.
    fn parts(&self, device: &DeviceModel) -> f64 {
        if self.is_in_loop || self.steps > 0.0 {
            return 1.0;
        }
        let length = self.reductions.longest / self.points.max(1.0);
        (length / LEAST_PART).min(device.sum_parts).max(1.0)
    }

    /// No kernel that does this and more takes less: what it does in addition can only help to fill the device.
    #[cfg(feature = "exact")]
    pub fn least_seconds(&self, device: &DeviceModel) -> f64 {
        self.seconds_with(device, ACCUMULATIONS_IN_FLIGHT, device.sum_parts)
    }

    fn seconds_with(&self, device: &DeviceModel, accumulations: f64, parts: f64) -> f64 {
        let memory = (self.loaded + self.stored) / device.memory_bytes_per_second;
        // A space that does not fill the device leaves cores idle, one that fills it once has a ragged end.
        // Accumulations of one point do not wait for each other: four gates in a thread keep a core as busy as four
        // threads with a gate each, until the latency of a multiply-add is hidden. So do the parts of a sum.
        let parallel = self.points * accumulations.clamp(1.0, ACCUMULATIONS_IN_FLIGHT) * parts;
        let busy = parallel / (parallel + device.parallel_points);
        let compute = (self.work.flops_on(device) / device.flops_per_second
            + self.work.transcendentals / device.transcendentals_per_second)
            / busy;
        let in_sequence = self.steps > 0.0 && self.reductions.count > 0;
        let compute = if in_sequence { compute * PRODUCTS_IN_SEQUENCE } else { compute };
        let latency = 1.0 + REDUCTION_LATENCY * self.reductions.count as f64;
        // The steps of a recurrence wait for each other, and only other points can hide that.
        let idle = device.parallel_points / (self.points + device.parallel_points);
        let waits = self.steps * device.step_seconds * idle;
        device.launch_seconds * latency + memory.max(compute) + device.exposed * memory.min(compute) + waits
    }
}
