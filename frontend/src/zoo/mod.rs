//! Recurrent cells and models to measure and to test with, traced.
//!
//! | file | what |
//! |---|---|
//! | `pytorch` | four small models in PyTorch's layout (`x · Wᵀ`), which examples and tests use |
//! | `cell` | what a cell is, and how a layer runs it over time |
//! | `cells/` | the benchmark's cells, one step each; weights multiply from the right (`x · W`, `W` `[I, 4*H]`) |
//! | `models` | the benchmark's models: stacks of a cell, unrolled steps, a language model, attention, a chain |
//! | `benchmark` | the list of those models, at their full sizes and scaled down |
//!
//! Names of parameters, inputs and outputs, and the order of the gates, are those of the benchmark's array
//! programs, so that its weights bind as they are. All numbers are f32; `T` and `B` are symbols everywhere.

mod benchmark;
mod cell;
pub mod cells;
mod models;
mod pytorch;

pub use benchmark::{BenchmarkModel, Scale, benchmark};
pub use cell::{Cell, run_layer};
pub use models::{StackForm, attention, language_model, pointwise, stack_of, unrolled};
pub use pytorch::{custom_cell_graph, gru_graph, layer_norm_lstm_graph, lstm_graph};
