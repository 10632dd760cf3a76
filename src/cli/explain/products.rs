//! What products outside of loops become on a GPU, and why.

use std::fmt::Write;

use fuse_codegen::schedule::{GpuLimits, ProductForm, ProductPlan, ProductUnits, Rounding, product_plan};
use fuse_ir::DimEnv;
use fuse_ir::kernel::{Kernel, KernelGraph};
use serde::Serialize;

use crate::cli::error::CliError;

/// How a kernel that is a product is computed.
#[derive(Debug, Serialize)]
pub struct ProductReport {
    #[serde(flatten)]
    chosen: FormReport,
    /// Multiprocessors that blocks may run on.
    multiprocessors: u32,
    /// Forms that were not chosen.
    others: Vec<FormReport>,
}

/// One form.
#[derive(Debug, Serialize)]
struct FormReport {
    form: String,
    /// Blocks of the launch, where it is in tiles.
    blocks: Option<i64>,
    /// What the model expects, without the launch, at the extents that schedules assume for symbols.
    modelled_us: f64,
}

impl ProductReport {
    /// Of a kernel that is a launch of its own; `None` where tiles do not come into question.
    ///
    /// # Errors
    /// Where the kernel has no schedule.
    pub fn of(
        program: &KernelGraph,
        kernel: &Kernel,
        (limits, rounding): (GpuLimits, Rounding),
        dims: &DimEnv,
    ) -> Result<Option<ProductReport>, CliError> {
        let plan = product_plan(program, kernel, limits, rounding).map_err(CliError::bug)?;
        Ok(plan.map(|plan| ProductReport::new(&plan, limits, dims)))
    }

    fn new(plan: &ProductPlan, limits: GpuLimits, dims: &DimEnv) -> ProductReport {
        ProductReport {
            chosen: FormReport::new(&plan.form, plan.seconds, dims),
            multiprocessors: limits.multiprocessors,
            others: plan.others.iter().map(|(form, seconds)| FormReport::new(form, *seconds, dims)).collect(),
        }
    }

    /// Whether other forms came into question.
    pub fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let mut out = self.chosen.text();
        let _ = write!(out, " on {} multiprocessors", self.multiprocessors);
        for other in &self.others {
            let _ = write!(out, "; not {}", other.text());
        }
        out
    }
}

impl FormReport {
    fn new(form: &ProductForm, seconds: f64, dims: &DimEnv) -> FormReport {
        let (text, blocks) = match form {
            ProductForm::Split => ("sums split among the threads of blocks".to_owned(), None),
            ProductForm::Tiles { tile: [rows, columns], tiles, slices, units } => {
                let by = match units {
                    ProductUnits::Threads => "multiply-adds",
                    ProductUnits::Warps => "tensor cores",
                    ProductUnits::WarpGroups => "tensor cores for warp groups",
                };
                let mut text = format!("tiles of {rows} by {columns} by {by}");
                if *slices > 1 {
                    let _ = write!(text, ", each by a cluster of {slices} blocks with a slice of the sum");
                }
                (text, tiles.eval_dim(dims).ok().map(|tiles| tiles * slices))
            }
        };
        FormReport { form: text, blocks, modelled_us: seconds * 1e6 }
    }

    fn text(&self) -> String {
        let blocks = self.blocks.map_or_else(String::new, |blocks| format!(", {blocks} blocks"));
        format!("{} ({:.2} us{blocks})", self.form, self.modelled_us)
    }
}
