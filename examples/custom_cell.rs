//! Traces a cell that no library has (64 inputs, 128 units) and writes it to `target/demo/custom_cell.fuse`, or to the path
//! given as the first argument. The model is in `frontend/src/zoo.rs`; it serves every sequence length and batch.

mod common;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (input, hidden) = (64, 128);
    common::write(&fuse::frontend::zoo::custom_cell_graph(input, hidden)?)
}
