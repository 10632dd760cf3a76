//! The list of the benchmark's models.

use fuse_ir::Graph;

use super::cell::Cell;
use super::cells::{
    Gru, LayerNormLstm, Lstm, MinGru, MultiplicativeLstm, Nas, NasRnn, PeepholeLstm, Sru, StabilisedLstm,
    TanhRnn,
};
use super::models::{StackForm, attention, language_model, pointwise, stack_of, unrolled};
use crate::error::TraceError;

/// A model and the sizes to run it at.
#[derive(Clone, Debug)]
pub struct BenchmarkModel {
    /// The model.
    pub graph: Graph,
    /// Its symbols and the values they are to have, `T` first where it is one.
    pub dims: Vec<(&'static str, i64)>,
}

/// The sizes of the benchmark's models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// As published benchmarks have them.
    Full,
    /// At most 6 steps, 5 rows and 48 columns, for slow executors and for comparison with an interpreter.
    Small,
}

/// Sizes: steps, rows, inputs, units.
#[derive(Clone, Copy)]
struct Sizes {
    steps: i64,
    rows: i64,
    input: i64,
    hidden: i64,
}

impl Scale {
    fn sizes(self, [steps, rows, input, hidden]: [i64; 4]) -> Sizes {
        match self {
            Scale::Full => Sizes { steps, rows, input, hidden },
            Scale::Small => {
                Sizes { steps: steps.min(6), rows: rows.min(5), input: input.min(48), hidden: hidden.min(48) }
            }
        }
    }

    fn layer<const N: usize, C: Cell<N>>(
        self,
        name: &str,
        sizes: [i64; 4],
        form: StackForm,
    ) -> Result<BenchmarkModel, TraceError> {
        let Sizes { steps, rows, input, hidden } = self.sizes(sizes);
        let graph = stack_of::<N, C>(name, input, hidden, form)?;
        Ok(BenchmarkModel { graph, dims: vec![("T", steps), ("B", rows)] })
    }
}

/// The benchmark's models, in its order.
///
/// # Errors
/// None that depend on the caller; tracing has them.
pub fn benchmark(scale: Scale) -> Result<Vec<BenchmarkModel>, TraceError> {
    let one = StackForm::ONE_LAYER;
    let both = StackForm { bidirectional: true, ..one };
    let two_layers = StackForm { layers: 2, ..one };
    let lengths = StackForm { lengths: true, ..one };
    Ok(vec![
        scale.layer::<2, Lstm>("lstm_b1", [100, 1, 256, 256], one)?,
        scale.layer::<2, Lstm>("lstm_b8", [100, 8, 256, 256], one)?,
        scale.layer::<2, Lstm>("lstm_b64", [100, 64, 512, 512], one)?,
        scale.layer::<2, Lstm>("lstm_large", [50, 64, 1024, 1024], one)?,
        scale.layer::<1, Gru>("gru_b32", [100, 32, 512, 512], one)?,
        scale.layer::<1, TanhRnn>("rnn_b32", [100, 32, 512, 512], one)?,
        scale.layer::<2, Lstm>("bilstm", [64, 16, 256, 256], both)?,
        scale.layer::<2, Lstm>("lstm_2layer", [35, 20, 650, 650], two_layers)?,
        scale.layer::<2, Lstm>("lstm_varlen", [100, 64, 512, 512], lengths)?,
        scale.layer::<2, LayerNormLstm>("lnlstm_b64", [100, 64, 512, 512], one)?,
        scale.layer::<2, MultiplicativeLstm>("milstm_b64", [100, 64, 512, 512], one)?,
        scale.layer::<4, StabilisedLstm>("slstm_b16", [256, 16, 512, 512], one)?,
        scale.layer::<1, Sru>("sru_b32", [256, 32, 1024, 1024], one)?,
        scale.layer::<1, MinGru>("mingru_b32", [256, 32, 1024, 1024], one)?,
        scale.layer::<2, Nas>("nas_b1", [50, 1, 512, 512], one)?,
        scale.layer::<1, NasRnn>("nas_taso_b1", [50, 1, 512, 512], one)?,
        scale.layer::<2, PeepholeLstm>("peephole_b32", [100, 32, 256, 256], one)?,
        unrolled_nas(scale)?,
        chain(scale)?,
        words(scale)?,
        translation(scale)?,
    ])
}

fn unrolled_nas(scale: Scale) -> Result<BenchmarkModel, TraceError> {
    let Sizes { steps, rows, input, hidden } = scale.sizes([5, 1, 512, 512]);
    let graph = unrolled::<1, NasRnn>("nas_unrolled5", steps as usize, input, hidden)?;
    Ok(BenchmarkModel { graph, dims: vec![("B", rows)] })
}

fn chain(scale: Scale) -> Result<BenchmarkModel, TraceError> {
    let Sizes { steps, hidden, .. } = scale.sizes([4096, 1, 1, 1024]);
    Ok(BenchmarkModel { graph: pointwise(hidden)?, dims: vec![("T", steps)] })
}

fn words(scale: Scale) -> Result<BenchmarkModel, TraceError> {
    let Sizes { steps, rows, input: vocabulary, hidden } = scale.sizes([20, 20, 10_000, 200]);
    let graph = language_model(vocabulary, hidden)?;
    Ok(BenchmarkModel { graph, dims: vec![("T", steps), ("B", rows)] })
}

fn translation(scale: Scale) -> Result<BenchmarkModel, TraceError> {
    let Sizes { steps, rows, hidden, .. } = scale.sizes([20, 16, 256, 256]);
    let Sizes { steps: source, .. } = scale.sizes([40, 16, 256, 256]);
    let dims = vec![("T", steps), ("B", rows), ("S", source)];
    Ok(BenchmarkModel { graph: attention(hidden)?, dims })
}
