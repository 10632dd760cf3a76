//! Whole loops over time as one launch of blocks that all run at the same time.

use fuse_ir::kernel::Loop;

/// The name of the function that runs all steps of a loop.
pub fn resident_name(l: &Loop) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("steps_{}", l.counter.name().chars().map(word).collect::<String>())
}
