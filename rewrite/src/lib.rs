//! Rewriting: from a tensor graph to fused kernels, through an e-graph.
//!
//! A term of the e-graph is a function on an iteration space; `reindex[m](x)` reads the term `x` through an
//! index map. A class that extraction materialises lives in memory and is read by loads; every other class
//! is computed where it is used, its indices substituted. So fusion is one decision, taken per class, and the
//! kernels are what lies between two materialised classes.
//!
//! | file | concept |
//! |---|---|
//! | `language` | terms, their interned attributes |
//! | `analysis` | what is known of a class: space, type, dependences, loops, constants |
//! | `ingest` | tensor graph → e-graph; time becomes an axis |
//! | `push` | `reindex` pushed through structure |
//! | `rules/` | algebra, as named data |
//! | `extract/` | which node of a class, and which classes are materialised |
//! | `scans/` | rules about whole scans |
//! | `lower` | chosen terms → kernels |
//! | `kernel_copy` | elements of one kernel in another |
//! | `pack` | parameters laid out as reductions read them |
//! | `interleave` | intermediates laid out as the steps of a loop read them |
//! | `narrow` | parameters of products stored in 16 bits |
//! | `ranges` | what values index expressions take |
//! | `provenance` | what rules asserted, and proofs from it |
//! | `unfused` | the baseline: one kernel per operation, without an e-graph |
//! | `explain` | why the kernels are what they are |
//! | `program_cost` | what a program of kernels costs, fused or not |
//! | `report` | what happened, in numbers |

mod analysis;
mod complexity;
mod copies;
mod error;
pub mod explain;
mod extract;
mod ingest;
mod interleave;
mod join;
mod kernel_builder;
mod kernel_copy;
mod language;
mod layout;
mod lower;
mod narrow;
mod optimize;
mod pack;
mod panels;
mod products;
mod program_cost;
mod provenance;
mod push;
mod ranges;
pub mod report;
pub mod rules;
mod scan_set;
mod scans;
#[cfg(test)]
mod soundness;
mod strips;
mod unfused;

pub use error::RewriteError;
pub use explain::{Explanation, explain};
pub use extract::cost::assumed_dims;
pub use extract::decisions::{Decision, Decisions, DecisionsError};
pub use join::store_joined;
pub use narrow::narrow_parameters;
pub use optimize::{Mode, Optimized, Options, dump_egraph, optimize};
pub use panels::panel_parameters;
pub use products::{split_given_products, split_products};
pub use program_cost::{KernelUse, ProgramCost, bytes_of, cost_of};
pub use report::Report;
pub use scans::chunks::ChunkPolicy;
pub use strips::{StripPolicy, strip_loops};
