//! With which precision a GPU multiplies f32, and what that does to results.

use fuse_codegen::kernel_ir::MatrixFactors;
use fuse_codegen::schedule::Rounding;
use fuse_ir::interp::FactorRounding;

/// What the factors of products of f32 are rounded to on a GPU, where they are large or in loops: tensor cores then sum
/// them up in f32. Everything else is computed in the model's own types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProductPrecision {
    /// Nothing: fused multiply-adds of f32.
    #[default]
    F32,
    /// f32 with a significand of 11 bits.
    Tf32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16; what is too large for it becomes infinite.
    F16,
}

impl ProductPrecision {
    /// What schedules may round to.
    pub fn rounding(self) -> Rounding {
        match self {
            ProductPrecision::F32 => None,
            ProductPrecision::Tf32 => Some(MatrixFactors::Tf32),
            ProductPrecision::Bf16 => Some(MatrixFactors::Bf16),
            ProductPrecision::F16 => Some(MatrixFactors::F16),
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ProductPrecision::F32 => "f32",
            ProductPrecision::Tf32 => "tf32",
            ProductPrecision::Bf16 => "bf16",
            ProductPrecision::F16 => "f16",
        }
    }

    /// The relative error of a rounded factor at most, where it is no smaller than the least normal number of the type.
    pub fn unit(self) -> f64 {
        match self {
            ProductPrecision::F32 => 0.0,
            ProductPrecision::Tf32 | ProductPrecision::F16 => 2f64.powi(-11),
            ProductPrecision::Bf16 => 2f64.powi(-8),
        }
    }

    /// The error of a rounded factor at most.
    pub fn factor_rounding(self) -> FactorRounding {
        let absolute = match self {
            ProductPrecision::F32 => 0.0,
            ProductPrecision::Tf32 => 2f64.powi(-137),
            ProductPrecision::Bf16 => 2f64.powi(-134),
            ProductPrecision::F16 => 2f64.powi(-25),
        };
        FactorRounding { relative: self.unit(), absolute }
    }

    /// What rounding changes in the sum of products `Σ x·w`, for people; nothing where it changes nothing.
    pub fn bound(self) -> Option<&'static str> {
        match self {
            ProductPrecision::F32 => None,
            ProductPrecision::Tf32 => Some(
                "each factor is off by at most 2^-11 of itself, or 2^-137 where it is below 2^-126; \
                 a sum of products x·w by at most (2^-10 + 2^-22)·Σ|x||w|, before what summing in f32 rounds",
            ),
            ProductPrecision::Bf16 => Some(
                "each factor is off by at most 2^-8 of itself, or 2^-134 where it is below 2^-126; \
                 a sum of products x·w by at most (2^-7 + 2^-16)·Σ|x||w|, before what summing in f32 rounds",
            ),
            ProductPrecision::F16 => Some(
                "each factor is off by at most 2^-11 of itself, or 2^-25 where it is below 2^-14, and infinite from 65520 \
                 on; a sum of products x·w by at most (2^-10 + 2^-22)·Σ|x||w| + 2^-25·Σ(|x| + |w|) + 2^-50 a product, \
                 before what summing in f32 rounds",
            ),
        }
    }

    /// Which kernels round the factors of their products, and what that means; nothing where none was asked to.
    pub fn statement(self, kernels: &[String]) -> Option<String> {
        let (name, bound) = (self.name(), self.bound()?);
        Some(if kernels.is_empty() {
            format!("no factor is rounded to {name}: no kernel has products of f32 that tensor cores take")
        } else {
            format!(
                "factors rounded to {name}: {}; {bound}; `fuse check` estimates what that comes to through all steps",
                kernels.join(", ")
            )
        })
    }
}

impl std::fmt::Display for ProductPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
