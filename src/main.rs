//! The `fuse` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    fuse::cli::main()
}
