//! The memory plan: every buffer of a run has its place before the run starts.
//!
//! Temporaries and carried states share one arena. Their live intervals ([`crate::liveness`]) and sizes are
//! known once the dimensions are, so placing them is packing of intervals: largest first, each into the
//! lowest gap that no buffer alive at the same time occupies. Inputs, weights and outputs have memory of
//! their own; they count towards the peak.

use std::fmt;

use fuse_ir::expr::{DimEnv, EvalError};
use fuse_ir::kernel::{BufferId, BufferKind, KernelGraph};
use fuse_ir::types::TensorType;

use crate::liveness::{LiveRange, live_ranges};

/// Alignment of every buffer in the arena, in bytes: a cache line, and the widest vector load.
pub const ALIGNMENT: u64 = 64;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An extent has no value.
    #[error("buffer `{buffer}`: {source}")]
    Extent {
        /// The buffer.
        buffer: String,
        /// Why.
        source: EvalError,
    },
    /// An extent is below 0.
    #[error("buffer `{buffer}`: axis {axis} of {ty} would be {value}")]
    Negative {
        /// The buffer.
        buffer: String,
        /// Its type.
        ty: TensorType,
        /// The axis.
        axis: usize,
        /// The extent.
        value: i64,
    },
    /// The bytes of a buffer, or of all of them, cannot be counted.
    #[error("the sizes of the buffers overflow 64-bit integers at `{buffer}`")]
    Overflow {
        /// The buffer at which they do.
        buffer: String,
    },
    /// The plan is over the limit; nothing was allocated.
    #[error("the run needs {needed} bytes of memory, {allowed} are allowed")]
    OverLimit {
        /// [`MemoryPlan::peak_bytes`].
        needed: u64,
        /// The limit.
        allowed: u64,
    },
}

/// The place of a buffer in the arena.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The buffer. The halves of a carried state trade places at run time; this is where each starts.
    pub buffer: BufferId,
    /// Its name.
    pub name: String,
    /// Its bytes, at least those of one element.
    pub bytes: u64,
    /// Where it starts, in bytes from the arena's start; a multiple of [`ALIGNMENT`].
    pub offset: u64,
    /// When it is live.
    pub range: LiveRange,
}

/// Where every buffer of one run lives, and what the run takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// The dimensions that it was made for.
    pub dims: DimEnv,
    /// The bytes of the arena.
    pub arena_bytes: u64,
    /// The bytes that the arena's buffers alive at the same time take at the fullest point; no arena is smaller.
    pub live_bytes: u64,
    /// The bytes that the arena's buffers would take with memory of their own each.
    pub unplanned_bytes: u64,
    /// The bytes of the weights that kernels read.
    pub weight_bytes: u64,
    /// The bytes of weights that are kept as given beside them: until it is known that no better code will come which
    /// lays them out in another way, and where they are laid out or computed with others that may be bound again.
    pub kept_bytes: u64,
    /// The bytes of the inputs given at each call.
    pub input_bytes: u64,
    /// The bytes of the outputs.
    pub output_bytes: u64,
    /// The buffers in the arena, ascending by offset, then by buffer.
    pub placements: Vec<Placement>,
    /// Bytes of every buffer, at least those of one element, by [`BufferId`].
    pub buffer_bytes: Vec<u64>,
}

impl MemoryPlan {
    /// Plans a run of `graph` at `dims`. All inputs count as [`MemoryPlan::input_bytes`].
    ///
    /// # Errors
    /// Where a size has no value, is negative or overflows.
    pub fn new(graph: &KernelGraph, dims: &DimEnv) -> Result<MemoryPlan, PlanError> {
        MemoryPlan::with_weights(graph, dims, |_| false)
    }

    /// As [`MemoryPlan::new`], where the inputs of some positions are weights.
    ///
    /// # Errors
    /// As [`MemoryPlan::new`].
    pub fn with_weights(
        graph: &KernelGraph,
        dims: &DimEnv,
        is_weight: impl Fn(usize) -> bool,
    ) -> Result<MemoryPlan, PlanError> {
        let mut buffer_bytes = Vec::with_capacity(graph.buffers.len());
        let (mut weight_bytes, mut input_bytes, mut output_bytes, mut unplanned_bytes) =
            (0u64, 0u64, 0u64, 0u64);
        for buffer in &graph.buffers {
            let bytes = buffer_size(&buffer.name, &buffer.ty, dims)?;
            let total = match buffer.kind {
                BufferKind::Input(i) if is_weight(i) => &mut weight_bytes,
                BufferKind::Input(_) => &mut input_bytes,
                BufferKind::Output(_) => &mut output_bytes,
                BufferKind::Temporary | BufferKind::State => &mut unplanned_bytes,
            };
            *total = total
                .checked_add(bytes)
                .filter(|t| *t <= i64::MAX as u64 / 4)
                .ok_or_else(|| PlanError::Overflow { buffer: buffer.name.clone() })?;
            buffer_bytes.push(bytes);
        }
        let requests: Vec<Request> = live_ranges(graph)
            .into_iter()
            .enumerate()
            .filter_map(|(b, range)| Some((b, range?)))
            .map(|(b, range)| Request { buffer: b, bytes: aligned(buffer_bytes[b]), range })
            .collect();
        let (offsets, arena_bytes) = pack(&requests);
        let mut placements: Vec<Placement> = requests
            .iter()
            .zip(offsets)
            .map(|(r, offset)| Placement {
                buffer: BufferId::from(r.buffer),
                name: graph.buffers[r.buffer].name.clone(),
                bytes: buffer_bytes[r.buffer],
                offset,
                range: r.range,
            })
            .collect();
        placements.sort_by_key(|p| (p.offset, p.buffer));
        let live_bytes = fullest(&requests);
        Ok(MemoryPlan {
            dims: dims.clone(),
            arena_bytes,
            live_bytes,
            unplanned_bytes,
            weight_bytes,
            kept_bytes: 0,
            input_bytes,
            output_bytes,
            placements,
            buffer_bytes,
        })
    }

    /// The most bytes that a run takes at once: the arena, the weights, the inputs and the outputs.
    pub fn peak_bytes(&self) -> u64 {
        self.arena_bytes + self.weight_bytes + self.kept_bytes + self.input_bytes + self.output_bytes
    }

    /// Refuses a plan over `allowed` bytes.
    ///
    /// # Errors
    /// [`PlanError::OverLimit`].
    pub fn check_limit(&self, allowed: u64) -> Result<(), PlanError> {
        let needed = self.peak_bytes();
        if needed > allowed { Err(PlanError::OverLimit { needed, allowed }) } else { Ok(()) }
    }
}

/// The bytes of a tensor, at least those of one element: clamped views of an empty tensor read one.
fn buffer_size(name: &str, ty: &TensorType, dims: &DimEnv) -> Result<u64, PlanError> {
    let mut elements = 1u64;
    let mut empty = false;
    for (axis, dim) in ty.shape.iter().enumerate() {
        let value =
            dim.eval_dim(dims).map_err(|source| PlanError::Extent { buffer: name.to_string(), source })?;
        let extent = u64::try_from(value).map_err(|_| PlanError::Negative {
            buffer: name.to_string(),
            ty: ty.clone(),
            axis,
            value,
        })?;
        empty |= extent == 0;
        // Checked with the empty axes left out: kernels compute strides from the others.
        elements = elements
            .checked_mul(extent.max(1))
            .ok_or_else(|| PlanError::Overflow { buffer: name.to_string() })?;
    }
    let bytes = elements
        .checked_mul(ty.dtype.size() as u64)
        .filter(|b| *b <= i64::MAX as u64 / 4)
        .ok_or_else(|| PlanError::Overflow { buffer: name.to_string() })?;
    Ok(if empty { ty.dtype.size() as u64 } else { bytes })
}

/// Rounds up to [`ALIGNMENT`]; sizes were checked to be far from the limit.
fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// What is to be placed.
struct Request {
    buffer: usize,
    /// A multiple of [`ALIGNMENT`].
    bytes: u64,
    range: LiveRange,
}

/// Offsets for the requests and the bytes they span: the best of a few greedy orders, since none is best for
/// every program.
fn pack(requests: &[Request]) -> (Vec<u64>, u64) {
    let by_size = |r: &Request| (std::cmp::Reverse(r.bytes), r.range.first, r.buffer);
    let by_area = |r: &Request| {
        let length = u128::from(r.range.last - r.range.first + 1);
        (std::cmp::Reverse(u128::from(r.bytes) * length), r.buffer)
    };
    let by_time = |r: &Request| (r.range.first, std::cmp::Reverse(r.bytes), r.buffer);
    let mut orders = [(); 3].map(|()| (0..requests.len()).collect::<Vec<usize>>());
    orders[0].sort_by_key(|i| by_size(&requests[*i]));
    orders[1].sort_by_key(|i| by_area(&requests[*i]));
    orders[2].sort_by_key(|i| by_time(&requests[*i]));
    let packed = orders.iter().map(|order| first_fit(requests, order));
    packed.min_by_key(|(_, span)| *span).unwrap_or_default()
}

/// Places the requests in `order`, each at the lowest offset free throughout its interval.
fn first_fit(requests: &[Request], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0; requests.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut span = 0;
    for &i in order {
        let r = &requests[i];
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|p| requests[**p].range.overlaps(r.range))
            .map(|p| (offsets[*p], offsets[*p] + requests[*p].bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (begin, end) in taken {
            if begin >= offset + r.bytes {
                break;
            }
            offset = offset.max(end);
        }
        offsets[i] = offset;
        span = span.max(offset + r.bytes);
        placed.push(i);
    }
    (offsets, span)
}

/// The bytes alive at the fullest point.
fn fullest(requests: &[Request]) -> u64 {
    let alive = |at: u32| requests.iter().filter(move |r| r.range.first <= at && at <= r.range.last);
    requests.iter().map(|r| alive(r.range.first).map(|r| r.bytes).sum()).max().unwrap_or(0)
}

/// A table of the arena, then the totals.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.placements.iter().map(|p| p.name.len()).max().unwrap_or(0).max("buffer".len());
        writeln!(f, "{:width$}  {:>12}  {:>12}  live", "buffer", "bytes", "offset")?;
        for p in &self.placements {
            writeln!(f, "{:width$}  {:>12}  {:>12}  {}", p.name, p.bytes, p.offset, p.range)?;
        }
        let dims: Vec<String> = self.dims.iter().map(|(s, v)| format!("{s} = {v}")).collect();
        if !dims.is_empty() {
            writeln!(f, "at {}", dims.join(", "))?;
        }
        writeln!(
            f,
            "arena {} bytes (fullest point {}, one block a buffer {})",
            self.arena_bytes, self.live_bytes, self.unplanned_bytes
        )?;
        writeln!(
            f,
            "weights {} bytes, inputs {} bytes, outputs {} bytes, peak {} bytes",
            self.weight_bytes,
            self.input_bytes,
            self.output_bytes,
            self.peak_bytes()
        )?;
        match self.kept_bytes {
            0 => Ok(()),
            bytes => writeln!(f, "of the peak {bytes} bytes are weights as given, kept beside their layouts"),
        }
    }
}
