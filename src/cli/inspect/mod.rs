//! `fuse inspect`: what a file holds.

mod arrays;
mod model;

use super::args::InspectArgs;
use super::error::CliError;
use crate::io::npz;

/// Runs the command.
pub fn inspect(args: &InspectArgs) -> Result<(), CliError> {
    let is = |extension: &str| args.file.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    if is("npz") {
        return arrays::inspect(npz::read(&args.file).map_err(CliError::input)?, args.json);
    }
    if is("npy") {
        let array = npz::read_array(&args.file).map_err(CliError::input)?;
        let name = args.file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        return arrays::inspect([(name, array)].into(), args.json);
    }
    model::inspect(args, is("onnx"))
}
