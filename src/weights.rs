//! In which type the CPU stores the weights of products, and what that does to results.

use fuse_ir::DType;

/// The type that weights of products are stored in on the CPU; all arithmetic is that of the model's own types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightsDtype {
    /// As the model has them.
    #[default]
    Given,
    /// Those of f32 as IEEE binary16; weights too large for it are refused.
    F16,
    /// Those of f32 as bfloat16.
    Bf16,
}

impl WeightsDtype {
    /// The element type of stored f32 weights, if another.
    pub fn dtype(self) -> Option<DType> {
        match self {
            WeightsDtype::Given => None,
            WeightsDtype::F16 => Some(DType::F16),
            WeightsDtype::Bf16 => Some(DType::Bf16),
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            WeightsDtype::Given => "given",
            WeightsDtype::F16 => "f16",
            WeightsDtype::Bf16 => "bf16",
        }
    }

    /// What storing weights so changes in the sum of products `Σ x·w`, for people; nothing where it changes nothing.
    pub fn bound(self) -> Option<&'static str> {
        match self {
            WeightsDtype::Given => None,
            WeightsDtype::F16 => Some(
                "each weight is off by at most 2^-11 of itself, or 2^-25 where it is below 2^-14; \
                 a sum of products x·w by at most 2^-11·Σ|x||w| + 2^-25·Σ|x|, before what f32 rounds",
            ),
            WeightsDtype::Bf16 => Some(
                "each weight is off by at most 2^-8 of itself, or 2^-134 where it is below 2^-126; \
                 a sum of products x·w by at most 2^-8·Σ|x||w| + 2^-134·Σ|x|, before what f32 rounds",
            ),
        }
    }
}

/// The parameters that are stored narrower than they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarrowWeights {
    /// The type they are stored in.
    pub dtype: DType,
    /// Their positions among the inputs of the graph, ascending.
    pub parameters: Vec<usize>,
}
