//! Whether a contraction is computed in tiles, in which, and how many blocks share one.

use fuse_ir::device::DeviceModel;
use fuse_ir::expr::Dim;

use super::super::analysis::{Analysis, ceil_div};
use super::super::plan::{ProductForm, ProductPlan, ProductUnits};
use super::super::{GpuLimits, Rounding};
use super::cost::{SplitSums, Tiles, staged_bytes};
use super::matrices::tile::By;
use super::product::{Contraction, assumed};
use super::slices::COUNTS;
use super::{THREADS, matrices, tile};
use crate::kernel_ir::{Mapping, MatrixFactors};

/// How a contraction is computed in tiles.
pub(in super::super) struct Plan {
    pub(super) contraction: Contraction,
    pub(super) form: Form,
    /// Blocks that share a tile, each with a slice of the summed axis.
    pub(super) slices: i64,
    /// What that is expected to take, by the model of the device, in seconds without the launch.
    pub(in super::super) seconds: f64,
    /// Tiles that no blocks share, of the size that is best then, by who multiplies, and what they are expected to take;
    /// without the form that was chosen.
    others: Vec<(Form, f64)>,
    /// The same of sums that are split among the threads of a block, where they can be.
    split_seconds: Option<f64>,
}

/// Tiles of one size.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Of products on tensor cores.
    Matrices(matrices::tile::Tile),
    /// Of multiply-adds.
    MultiplyAdd(tile::Tile),
}

impl Plan {
    /// The best plan for a kernel that is a contraction, for blocks of `threads`; beside it, the sums can be split among
    /// threads as `split` says. `None` for other kernels, small contractions, and blocks of another size.
    pub(in super::super) fn of(
        analysis: &Analysis,
        threads: u32,
        limits: GpuLimits,
        rounding: Rounding,
        split: Option<SplitSums>,
    ) -> Option<Plan> {
        let contraction = Contraction::of(analysis).filter(|_| i64::from(threads) == THREADS)?;
        let factors = contraction.matrix_factors(analysis, rounding).filter(|_| limits.tensor_cores);
        // Few rows or columns fill a part of a tile: whether that is better than to split the sums, the model says.
        if !(contraction.is_large() || split.is_some() && contraction.has_much_work()) {
            return None;
        }
        let kinds = Form::possible(analysis, &contraction, factors, limits);
        let device = limits.model();
        let seconds =
            |form: &Form, slices| form.launch(analysis, &contraction, slices, &device).seconds(&device);
        // Of each kind the first that fills the device, which loads least.
        let fills = |form: &&Form| form.fills(&contraction, limits);
        let whole = kinds.iter().filter_map(|forms| forms.iter().find(fills).or(forms.last()));
        let mut others: Vec<(Form, f64)> = whole.map(|form| (*form, seconds(form, 1))).collect();
        others.sort_by(|(_, x), (_, y)| x.total_cmp(y));
        let (whole, whole_seconds) = *others.first()?;
        let mut best = (whole, 1, whole_seconds);
        if !whole.fills(&contraction, limits) {
            let most = i64::from(limits.cluster_blocks);
            for slices in COUNTS.into_iter().filter(|slices| *slices <= most) {
                for form in kinds.iter().flatten().filter(|f| f.fits(&contraction, slices, limits)) {
                    let seconds = seconds(form, slices);
                    if seconds < best.2 {
                        best = (*form, slices, seconds);
                    }
                }
            }
        }
        let (form, slices, seconds) = best;
        if slices == 1 {
            others.remove(0);
        }
        let split_seconds = split.map(|split| split.seconds(analysis, &contraction, &device));
        Some(Plan { contraction, form, slices, seconds, others, split_seconds })
    }

    /// Whether sums that are split among threads are expected to take no longer.
    pub(in super::super) fn is_better_split(&self) -> bool {
        self.split_seconds.is_some_and(|split| split <= self.seconds)
    }

    /// What was decided, for people to read.
    pub(in super::super) fn told(&self) -> ProductPlan {
        let tiles = |form: &Form, slices| {
            let [rows, columns] = form.size();
            let tiles = self.contraction.blocks(rows, columns);
            ProductForm::Tiles { tile: [rows, columns], tiles, slices, units: form.units() }
        };
        let mut forms = vec![(tiles(&self.form, self.slices), self.seconds)];
        forms.extend(self.others.iter().map(|(form, seconds)| (tiles(form, 1), *seconds)));
        forms.extend(self.split_seconds.map(|seconds| (ProductForm::Split, seconds)));
        let last = forms.len() - 1;
        let (form, seconds) = forms.remove(if self.is_better_split() { last } else { 0 });
        ProductPlan { form, seconds, others: forms }
    }

    /// Blocks of the launch.
    pub(super) fn work(&self) -> Dim {
        let [rows, columns] = self.form.size();
        self.contraction.blocks(rows, columns) * Dim::constant(self.slices)
    }

    pub(super) fn mapping(&self) -> Mapping {
        let threads = THREADS as u32;
        match self.slices {
            1 => Mapping::Blocks { threads },
            slices => Mapping::Clusters { threads, blocks: slices as u32 },
        }
    }
}

impl Form {
    /// The forms for a contraction, of such factors where tensor cores may multiply them, by kind; those of a kind that load
    /// least first.
    fn possible(
        analysis: &Analysis,
        contraction: &Contraction,
        factors: Option<MatrixFactors>,
        limits: GpuLimits,
    ) -> Vec<Vec<Form>> {
        let matrices = factors.map(|f| matrices::tile::Tile::possible(analysis, contraction, f, limits));
        let matrices = matrices.into_iter().flatten();
        let kinds: Vec<Vec<Form>> =
            matrices.map(|tiles| tiles.into_iter().map(Form::Matrices).collect()).collect();
        if kinds.iter().any(|forms| !forms.is_empty()) {
            return kinds;
        }
        vec![tile::Tile::possible(contraction).into_iter().map(Form::MultiplyAdd).collect()]
    }

    /// What multiplies.
    fn units(&self) -> ProductUnits {
        match self {
            Form::Matrices(tile) => match tile.by {
                By::Warps => ProductUnits::Warps,
                By::Groups => ProductUnits::WarpGroups,
            },
            Form::MultiplyAdd(_) => ProductUnits::Threads,
        }
    }

    /// The rows and the columns of a tile.
    fn size(&self) -> [i64; 2] {
        match self {
            Form::Matrices(tile) => [tile.block_rows(), tile.block_columns()],
            Form::MultiplyAdd(tile) => [tile.block_rows(), tile.block_columns()],
        }
    }

    fn tiles(&self, contraction: &Contraction) -> i64 {
        let [rows, columns] = self.size();
        assumed(&contraction.blocks(rows, columns))
    }

    /// Whether there is a tile for every multiprocessor.
    fn fills(&self, contraction: &Contraction, limits: GpuLimits) -> bool {
        self.tiles(contraction) >= i64::from(limits.multiprocessors)
    }

    fn fits(&self, contraction: &Contraction, slices: i64, limits: GpuLimits) -> bool {
        match self {
            Form::Matrices(tile) => tile.fits(contraction, slices, limits),
            Form::MultiplyAdd(tile) => tile.fits(contraction, slices),
        }
    }

    fn launch(
        &self,
        analysis: &Analysis,
        contraction: &Contraction,
        slices: i64,
        device: &DeviceModel,
    ) -> Tiles {
        let (step, ahead, flops_per_second) = match self {
            Form::Matrices(tile) => (tile.step, tile.ahead(), tile.flops_per_second(contraction, device)),
            Form::MultiplyAdd(tile) => {
                (tile.step(), 1, device.flops_per_second / tile.loads_a_multiply_add())
            }
        };
        let [rows, columns] = self.size();
        let there =
            [rows.min(assumed(&contraction.rows.extent)), columns.min(assumed(&contraction.columns.extent))];
        let staged = staged_bytes(analysis, &contraction.left, there[0])
            + staged_bytes(analysis, &contraction.right, there[1]);
        let products = rows * columns * contraction.members.len() as i64 * step;
        let depth = assumed(&contraction.depth);
        Tiles {
            tiles: self.tiles(contraction),
            slices,
            steps: ceil_div(depth, step),
            tile_bytes: staged * depth as f64,
            step_flops: 2.0 * products as f64,
            flops_per_second,
            ahead,
        }
    }
}
