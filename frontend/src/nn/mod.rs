//! Layers of neural networks, as plain traced functions.
//!
//! Gate order, parameter shapes and parameter names are PyTorch's, so that weights trained there bind
//! unchanged. Sequences are `[T, B, ..]`: time first. Nothing here is known to the compiler: each function
//! only traces the operations that its equations say.
//!
//! A recurrent layer comes in three sizes: a *cell* is one step; a *layer* is one direction over a sequence;
//! the function with the plain name ([`lstm`], [`gru`], [`rnn`]) is a stack of layers, each in one or both
//! directions.

mod embedding;
mod gru;
mod layer_norm;
mod linear;
mod lstm;
mod recurrent;
mod rnn;

pub use embedding::embedding;
pub use gru::{gru, gru_cell, gru_layer};
pub use layer_norm::{
    LayerNormLstmParameters, LayerNormParameters, layer_norm, layer_norm_lstm_cell, layer_norm_lstm_layer,
};
pub use linear::linear;
pub use lstm::{lstm, lstm_cell, lstm_layer};
pub use recurrent::{CellParameters, Gates, StackOptions, StackedLayer, declare_stack};
pub use rnn::{Activation, rnn, rnn_cell, rnn_layer};
