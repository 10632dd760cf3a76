//! A loop over time by clusters of blocks, which exchange states through each other's shared memory.
//!
//! Where rows of a loop (its batch) do not need each other, a cluster takes as many as its threads sum up at once, and
//! other clusters take others. Every buffer that steps both write and read has an image in the shared memory of each block
//! of the cluster, for the cluster's rows alone: of the halves of a state both, so that the blocks meet once after each
//! kernel. What a block stores it writes to all images, and to the buffer too, where the loop's successors find it. A state
//! that only its own column reads is written to the block's own image.
//!
//! ```text
//! image    [half][row of the cluster][element of the row], padded where tensor cores take rows of it; of a state of its own
//!          columns, these alone
//! kernel   loads that are no images' | wait | sums, stores to images | arrive | stores to buffers
//! ```

use std::collections::BTreeMap;

use fuse_ir::expr::{Atom, Axis, Dim, Expr};
use fuse_ir::kernel::{BufferId, KernelGraph, Loop};

use super::super::access::Access;
use super::super::analysis::{Analysis, axis_set, ceil_div};
use super::super::block::{Numbers, THREADS};
use super::super::contraction::assumed;
use super::super::division::floor_division;
use super::super::emitter::{Emitted, Emitter, Image, ToMemory};
use super::super::plan::StatePlace;
use super::super::split::{Exchange, Split};
use super::super::{GpuLimits, Rounding, ScheduleError};
use super::own::{Progress, is_read_elsewhere};
use super::{Phase, Resident, points_of, position_of};
use crate::builder::FunctionBuilder;
use crate::kernel_ir::{BinaryOp, LaneType, Mapping, ParameterId, SharedId, Type, ValueId};

/// Elements of an image at most: what is left beside weights.
const MOST_ELEMENTS: i64 = 1 << 14;

/// A loop by clusters.
pub(super) struct Cluster<'a> {
    pub(super) resident: Resident<'a>,
    /// Blocks of a cluster.
    pub(super) blocks: u32,
    /// The number of rows, and how many a cluster takes.
    pub(super) rows: Dim,
    pub(super) rows_at_once: i64,
    /// By the buffer that a step reads, or the only one.
    images: Vec<ImagePlan>,
}

/// A buffer that steps write and read.
struct ImagePlan {
    current: ParameterId,
    /// The other half of a state.
    next: Option<ParameterId>,
    lane: LaneType,
    /// Elements of a row.
    elements: i64,
    /// Elements from one row of the image to the next.
    pitch: i64,
    /// Whether blocks read what others wrote.
    is_exchanged: bool,
    /// Where only its own columns read what a block stores, and these are the elements of a row, how many a block has.
    own_columns: Option<i64>,
    /// Of a state, whether somebody reads it after the loop.
    is_read: bool,
}

impl ImagePlan {
    fn halves(&self) -> i64 {
        1 + i64::from(self.next.is_some())
    }

    /// Elements of a row that a block has.
    fn width(&self) -> i64 {
        self.own_columns.unwrap_or(self.elements)
    }

    /// The first element of a row that a block has.
    fn first_element(&self, b: &mut FunctionBuilder, rank: ValueId) -> ValueId {
        let columns = b.index(self.own_columns.unwrap_or(0));
        b.mul(rank, columns)
    }
}

impl<'a> Cluster<'a> {
    /// Where it is possible and, by the model of the device, faster than the loop as blocks that meet in memory.
    pub(super) fn new(
        graph: &'a KernelGraph,
        l: &'a Loop,
        (limits, rounding): (GpuLimits, Rounding),
        grid: &Resident,
    ) -> Result<Option<Cluster<'a>>, ScheduleError> {
        if limits.cluster_blocks < 2 {
            return Ok(None);
        }
        let tensor_cores = grid.phases.iter().any(Phase::is_on_tensor_cores);
        let own = GpuLimits { multiprocessors: limits.cluster_blocks, tensor_cores, ..limits };
        let scheduled = |own| Resident::new(graph, l, (own, rounding), Exchange::Cluster);
        let Some(resident) = scheduled(own)? else { return Ok(None) };
        let Some((rows, rows_at_once)) = resident.rows() else { return Ok(None) };
        let Some(images) = images(graph, l, &resident, &rows) else { return Ok(None) };
        let taken = bytes_of(&images, rows_at_once);
        if images.iter().any(|image| rows_at_once * image.pitch > MOST_ELEMENTS) {
            return Ok(None);
        }
        let left = i64::from(limits.shared_bytes) - taken;
        let Some(left) = u32::try_from(left).ok().filter(|left| *left > 0) else { return Ok(None) };
        let Some(resident) = scheduled(GpuLimits { shared_bytes: left, ..own })? else {
            return Ok(None);
        };
        let pairs = || resident.analyses.iter().zip(&resident.phases);
        let fits = pairs().all(|(analysis, phase)| phase.fits_a_cluster(analysis, &l.counter));
        // The same kernels on tensor cores, which round what the others do not.
        let same = grid.phases.iter().zip(&resident.phases);
        let rounds_the_same = same.into_iter().all(|(a, b)| a.is_on_tensor_cores() == b.is_on_tensor_cores());
        if !fits || !rounds_the_same || resident.rows() != Some((rows.clone(), rows_at_once)) {
            return Ok(None);
        }
        // Blocks may have their columns in more groups now.
        let Some(images) = self::images(graph, l, &resident, &rows) else { return Ok(None) };
        if bytes_of(&images, rows_at_once) + i64::from(resident.shared_bytes())
            > i64::from(limits.shared_bytes)
        {
            return Ok(None);
        }
        let blocks = limits.cluster_blocks;
        let cluster = Cluster { resident, blocks, rows, rows_at_once, images };
        Ok(cluster.is_faster(grid, limits).then_some(cluster))
    }

    /// Whether the model of a GPU with so much expects a step to take less time than by all blocks, that meet in memory.
    fn is_faster(&self, grid: &Resident, limits: GpuLimits) -> bool {
        let device = limits.model();
        let of_row = |resident: &Resident| -> f64 {
            let pairs = resident.analyses.iter().zip(&resident.phases);
            pairs.map(|(analysis, phase)| phase.seconds_a_row(analysis, &device)).sum()
        };
        let turns = |resident: &Resident, rows: i64| -> f64 {
            resident.phases.iter().map(|phase| phase.turns(rows) as f64 * device.turn_seconds).sum()
        };
        let all_rows = assumed(&self.rows).max(1);
        let rows = all_rows as f64;
        let clusters = (rows / self.rows_at_once as f64).ceil();
        let share = f64::from(self.blocks) / f64::from(limits.multiprocessors);
        // Clusters that there is no room for run after the others, and exchange then.
        let waves = (clusters * share).ceil();
        let of_cluster = self.rows_at_once as f64 * of_row(&self.resident) / share.min(1.0)
            + turns(&self.resident, self.rows_at_once);
        let of_grid = rows * of_row(grid) + turns(grid, all_rows);
        let phases = self.resident.phases.len() as f64;
        let states = self.images.iter().filter(|image| image.is_exchanged && image.next.is_some());
        let bytes = states.map(|image| rows * (image.elements * i64::from(image.lane.bytes())) as f64);
        let beyond: f64 = bytes.map(|bytes| device.seconds_beyond_exchange(bytes)).sum();
        waves * (of_cluster + phases * device.cluster_exchange_seconds)
            < of_grid + phases * device.exchange_seconds + beyond
    }

    /// The blocks of the launch.
    pub(super) fn work(&self) -> Dim {
        self.rows.ceil_div(&Dim::constant(self.rows_at_once)) * Dim::constant(i64::from(self.blocks))
    }

    /// Where states are, by the buffer that a step reads.
    pub(super) fn state_places(&self) -> BTreeMap<ParameterId, StatePlace> {
        let place = |image: &ImagePlan| {
            let place = if image.is_exchanged { StatePlace::Cluster } else { StatePlace::OwnBlock };
            (image.current, place)
        };
        self.images.iter().map(place).collect()
    }

    /// The bytes of a block's images.
    pub(super) fn image_bytes(&self) -> u32 {
        u32::try_from(bytes_of(&self.images, self.rows_at_once)).unwrap_or(u32::MAX)
    }

    pub(super) fn mapping(&self) -> Mapping {
        Mapping::Clusters { threads: THREADS, blocks: self.blocks }
    }

    /// The code of the loop.
    pub(super) fn emit(&mut self, l: &Loop) -> Emitted<FunctionBuilder> {
        let mut b = FunctionBuilder::for_steps();
        let launched = Numbers::new(&mut b);
        let blocks = b.index(i64::from(self.blocks));
        let (cluster, rank) = floor_division(&mut b, launched.block, blocks, true);
        let numbers = Numbers { block: rank, ..launched };
        let Some(first) = self.resident.analyses.first() else { return Ok(b) };
        let mut emitter = Emitter::within(first, b, None);
        let rows = emitter.dimension(&self.rows)?;
        let at_once = emitter.b.index(self.rows_at_once);
        let begin = emitter.b.mul(cluster, at_once);
        let end = emitter.b.add(begin, at_once);
        let end = emitter.b.binary(BinaryOp::Min, end, rows);
        let trip = emitter.dimension(&l.trip)?;
        b = emitter.b;
        let of_rows = [begin, end];
        let arrays: Vec<SharedId> =
            self.images.iter().map(|image| self.fill(&mut b, image, numbers, of_rows)).collect();
        for (analysis, phase) in self.resident.analyses.iter().zip(&mut self.resident.phases) {
            let mut emitter = Emitter::within(analysis, b, None);
            phase.prepare(&mut emitter, numbers)?;
            b = emitter.b;
        }
        b.arrive_at_cluster();
        let none = b.index(0);
        let steps = b.open_loop(&[], true);
        let progress = Progress::new(&mut b, steps.counter, trip);
        let images = self.places(&mut b, &arrays, (begin, rank), progress);
        let position = position_of(&mut b, l, trip, steps.counter);
        for (analysis, phase) in self.resident.analyses.iter().zip(&self.resident.phases) {
            let mut emitter = Emitter::within(analysis, b, Some((l.counter.clone(), position)));
            emitter.images.clone_from(&images);
            match phase {
                Phase::Split(split) => split.phase_of_cluster(&mut emitter, numbers, of_rows)?,
                Phase::Rows(rows) => {
                    emitter.b.wait_for_cluster();
                    rows.phase(&mut emitter, numbers, self.blocks, (Some(of_rows), None))?;
                    emitter.b.arrive_at_cluster();
                }
                Phase::Points => {
                    emitter.b.wait_for_cluster();
                    points(&mut emitter, numbers, self.blocks, of_rows)?;
                    emitter.b.arrive_at_cluster();
                }
            }
            b = emitter.b;
        }
        b.close_exchanging_loop(steps, none, trip, 1, &[], self.resident.parameters.exchanged.clone());
        // Others may still write to this block's memory.
        b.wait_for_cluster();
        Ok(b)
    }

    /// Allocates an image and fills it with the states before the first step.
    fn fill(
        &self,
        b: &mut FunctionBuilder,
        image: &ImagePlan,
        numbers: Numbers,
        [begin, end]: [ValueId; 2],
    ) -> SharedId {
        let name = &self.resident.parameters.buffers[image.current.0 as usize].name;
        let elements = image.halves() * self.rows_at_once * image.pitch;
        let array =
            b.shared_array(format!("{name}.image"), image.lane, u32::try_from(elements).unwrap_or(u32::MAX));
        if image.next.is_none() {
            return array;
        }
        let row = b.index(image.elements);
        let first = b.mul(begin, row);
        let width = b.index(image.width());
        let count = b.sub(end, begin);
        let count = b.mul(count, width);
        let each = b.open_loop(&[], true);
        let (from, to) = self.filled(b, image, numbers.block, each.counter);
        let at = b.add(first, from);
        let depth = b.depth();
        let value = b.load_updated(Type::scalar(image.lane), image.current, at, depth);
        b.store_shared(array, to, value);
        b.close_loop(each, numbers.thread, count, i64::from(THREADS), &[]);
        array
    }

    /// What an element is filled from, counted from the cluster's first row in the buffer, and where it is in the image.
    fn filled(
        &self,
        b: &mut FunctionBuilder,
        image: &ImagePlan,
        rank: ValueId,
        number: ValueId,
    ) -> (ValueId, ValueId) {
        if image.pitch == image.elements && image.own_columns.is_none() {
            return (number, number);
        }
        let [width, pitch, elements] = [image.width(), image.pitch, image.elements].map(|n| b.index(n));
        let (row, place) = floor_division(b, number, width, true);
        let first = image.first_element(b, rank);
        let element = b.add(first, place);
        // Blocks may have fewer columns than others.
        let last = b.index(image.elements - 1);
        let element = b.binary(BinaryOp::Min, element, last);
        let from = b.mul(row, elements);
        let to = b.mul(row, pitch);
        (b.add(from, element), b.add(to, place))
    }

    /// Where the images of buffers are at a step: elements of the buffer at their position and the offset.
    fn places(
        &self,
        b: &mut FunctionBuilder,
        arrays: &[SharedId],
        (first_row, rank): (ValueId, ValueId),
        progress: Progress,
    ) -> rustc_hash::FxHashMap<ParameterId, Image> {
        let mut places = rustc_hash::FxHashMap::default();
        for (image, array) in self.images.iter().zip(arrays) {
            let blocks = image.is_exchanged.then_some(self.blocks);
            let row = b.index(image.pitch);
            let first = b.mul(first_row, row);
            let own = image.first_element(b, rank);
            let first = b.add(first, own);
            let padding = image.pitch - image.elements;
            let size = b.index(self.rows_at_once * image.pitch);
            let half = b.mul(progress.parity, size);
            // Steps read a state in its image alone.
            let to_memory = match image.next {
                Some(_) => progress.to_memory(image.is_read),
                None => ToMemory::Always,
            };
            let mut place = |b: &mut FunctionBuilder, buffer, half: Option<ValueId>| {
                let none = b.index(0);
                let offset = b.sub(half.unwrap_or(none), first);
                places.insert(buffer, Image { array: *array, offset, padding, blocks, to_memory });
            };
            match image.next {
                None => place(b, image.current, None),
                Some(next) => {
                    let other = b.sub(size, half);
                    place(b, image.current, Some(half));
                    place(b, next, Some(other));
                }
            }
        }
        places
    }
}

impl Resident<'_> {
    /// The rows that kernels have in common, and how many a block sums up at once.
    fn rows(&self) -> Option<(Dim, i64)> {
        let splits = self.analyses.iter().zip(&self.phases).filter_map(|(analysis, phase)| match phase {
            Phase::Split(split) => Some((analysis, split)),
            Phase::Rows(_) | Phase::Points => None,
        });
        let rows_at_once = splits.map(|(_, split)| split.rows_at_once()).min()?;
        let mut rows = None;
        for analysis in &self.analyses {
            let extent = analysis.extent(*analysis.space_axes().first()?).clone();
            if rows.get_or_insert_with(|| extent.clone()) != &extent {
                return None;
            }
        }
        rows.map(|rows| (rows, rows_at_once))
    }
}

/// The images of the buffers that a loop's kernels both store and load; `None` where rows need each other.
fn images(graph: &KernelGraph, l: &Loop, resident: &Resident, rows: &Dim) -> Option<Vec<ImagePlan>> {
    let positions = &resident.parameters.positions;
    let mut pairs: BTreeMap<BufferId, Option<BufferId>> = BTreeMap::new();
    for buffer in positions.keys().filter(|id| !l.carries.iter().any(|c| c.next == **id)) {
        let carry = l.carries.iter().find(|c| c.current == *buffer);
        pairs.insert(*buffer, carry.map(|c| c.next));
    }
    let mut images = Vec::new();
    for (current, next) in pairs {
        let buffers: Vec<ParameterId> = [Some(current), next]
            .into_iter()
            .flatten()
            .filter_map(|id| positions.get(&id).copied())
            .collect();
        let is_of = |access: &Access| buffers.contains(&access.buffer);
        let is_updated = resident.analyses.iter().any(|a| a.stores.iter().any(|s| is_of(&s.access)));
        let is_loaded = resident.analyses.iter().any(|a| a.loads.values().any(is_of));
        if !is_updated && next.is_none() || !is_loaded {
            continue;
        }
        let carry = l.carries.iter().find(|c| c.current == current);
        let declared = graph.buffer(current);
        let (extent, rest) = declared.ty.shape.split_first()?;
        let elements = rest.iter().try_fold(1i64, |n, e| n.checked_mul(e.as_constant()?))?;
        if extent != rows {
            return None;
        }
        for analysis in &resident.analyses {
            let row = *analysis.space_axes().first()?;
            let stores = analysis.stores.iter().map(|s| &s.access);
            let mut accesses = analysis.loads.values().chain(stores).filter(|access| is_of(access));
            if !accesses.all(|access| is_of_row(access, row, elements)) {
                return None;
            }
        }
        let dtype = declared.ty.dtype;
        let [current, ..] = buffers[..] else { return None };
        let own = own_split(resident, &buffers);
        let own_columns = own.and_then(|(analysis, split)| own_columns(analysis, split, &buffers, elements));
        images.push(ImagePlan {
            current,
            next: buffers.get(1).copied(),
            lane: LaneType::of_memory(dtype),
            elements,
            pitch: own_columns.unwrap_or_else(|| pitch(resident, &buffers, elements)),
            is_exchanged: own.is_none(),
            own_columns,
            is_read: carry.is_some_and(|carry| is_read_elsewhere(graph, l, carry)),
        });
    }
    Some(images)
}

/// The shared memory that images of so many rows take.
fn bytes_of(images: &[ImagePlan], rows: i64) -> i64 {
    let bytes = |image: &ImagePlan| {
        let elements = image.halves() * rows * image.pitch;
        (elements * i64::from(image.lane.bytes()) + 15) & !15
    };
    images.iter().map(bytes).sum()
}

/// Whether an access is of the row of its point, among rows of so many elements.
fn is_of_row(access: &Access, row: Axis, elements: i64) -> bool {
    if !access.dynamic.is_empty() || access.guard.is_some() {
        return false;
    }
    let mut is_found = false;
    for (factors, coefficient) in access.position.terms() {
        let of_row = factors.iter().any(|atom| match atom {
            Atom::Axis(axis) => *axis == row,
            Atom::Symbol(_) => true,
            Atom::FloorDiv(x, y) | Atom::Mod(x, y) | Atom::Min(x, y) | Atom::Max(x, y) => {
                [x, y].iter().any(|e| e.axes().contains(&row) || !e.symbols().is_empty())
            }
        });
        if of_row {
            if is_found || coefficient != elements || factors.len() != 1 || factors[0] != Atom::Axis(row) {
                return false;
            }
            is_found = true;
        } else if coefficient < 0 || coefficient >= elements {
            return false;
        }
    }
    is_found
}

/// Elements from one row of an image to the next. What four threads load of a row for a product on tensor cores is followed
/// by the same of the next row in other banks, where rows are an odd number of these apart.
fn pitch(resident: &Resident, buffers: &[ParameterId], elements: i64) -> i64 {
    let pairs = resident.analyses.iter().zip(&resident.phases);
    let depths = pairs.filter_map(|(analysis, phase)| {
        let Phase::Split(split) = phase else { return None };
        let (loads, depth) = split.row_loads(analysis)?;
        let is_of = |load| analysis.loads.get(load).is_some_and(|access| buffers.contains(&access.buffer));
        loads.iter().any(is_of).then_some(depth)
    });
    depths.max().map_or(elements, |depth| depth * (ceil_div(elements, depth) | 1))
}

/// How many columns a block has of a state that only its own columns read, if they are the elements of a row.
fn own_columns(analysis: &Analysis, split: &Split, buffers: &[ParameterId], elements: i64) -> Option<i64> {
    let row = *analysis.space_axes().first()?;
    let point = Expr::axis(row.index()) * Expr::constant(elements) + Expr::axis(split.column().index());
    let mut stores = analysis.stores.iter().map(|s| &s.access).filter(|a| buffers.contains(&a.buffer));
    stores.all(|access| access.position == point).then_some(split.columns_a_block())
}

/// The kernel whose columns store what only the same columns load, so that no other block needs it.
fn own_split<'r>(
    resident: &'r Resident<'r>,
    buffers: &[ParameterId],
) -> Option<(&'r Analysis<'r>, &'r Split)> {
    let [current, next] = buffers else { return None };
    let mut storing = resident
        .analyses
        .iter()
        .zip(&resident.phases)
        .filter(|(analysis, _)| analysis.stores.iter().any(|s| s.access.buffer == *next));
    let (Some((own, Phase::Split(split))), None) = (storing.next(), storing.next()) else { return None };
    let stored: Vec<&Access> =
        own.stores.iter().map(|s| &s.access).filter(|access| access.buffer == *next).collect();
    let space = axis_set(&own.space_axes());
    let is_own = resident.analyses.iter().all(|analysis| {
        analysis.loads.iter().all(|(id, access)| {
            let is_point = || {
                std::ptr::eq(analysis, own)
                    && analysis.free[id.index()] & !space == 0
                    && stored.iter().all(|store| store.position == access.position)
            };
            access.buffer != *next && (access.buffer != *current || is_point())
        })
    });
    is_own.then_some((own, split))
}

/// Every thread of the cluster computes points of its rows.
fn points(emitter: &mut Emitter, numbers: Numbers, blocks: u32, [begin, end]: [ValueId; 2]) -> Emitted<()> {
    let analysis = emitter.analysis;
    let axes = analysis.space_axes();
    let of_a_row = emitter.dimension(&analysis.points(axes.get(1..).unwrap_or(&[])))?;
    points_of(emitter, numbers, (blocks, None), |emitter, own| {
        let first = emitter.b.mul(begin, of_a_row);
        let first = emitter.b.add(first, own);
        Ok((first, emitter.b.mul(end, of_a_row)))
    })
}
