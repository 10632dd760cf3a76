//! The benchmark's cells. Weights multiply from the right; the order of the gates is PyTorch's.

mod gru;
mod linear_recurrence;
mod lstm;
mod lstm_variants;
mod nas;
mod rnn;

pub use gru::Gru;
pub use linear_recurrence::{MinGru, Sru};
pub use lstm::{Lstm, PeepholeLstm};
pub use lstm_variants::{LayerNormLstm, MultiplicativeLstm, StabilisedLstm};
pub use nas::{Nas, NasRnn};
pub use rnn::TanhRnn;
