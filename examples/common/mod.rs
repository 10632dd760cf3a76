//! What the examples share: writing a traced model to a file.

use std::error::Error;
use std::path::PathBuf;

use fuse::Graph;

/// Writes the graph in the text form to the path given as the first argument, or to `target/demo/NAME.fuse`.
pub fn write(graph: &Graph) -> Result<(), Box<dyn Error>> {
    let default = || PathBuf::from("target/demo").join(graph.name()).with_extension("fuse");
    let path = std::env::args_os().nth(1).map_or_else(default, PathBuf::from);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&path, graph.to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}
