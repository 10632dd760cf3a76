//! Whether what the e-graph holds equal is equal: the harness for all rules.
//!
//! `evaluate` gives every class of an e-graph its values on random inputs, by one of its nodes, and compares what
//! every other node of the class computes from its operands. An equality that does not hold shows in the very
//! class where a rule asserted it, whatever extraction would have chosen.
//!
//! | file | what is compared |
//! |---|---|
//! | `cases` | the case file of every rule in code: graphs where it applies, and near misses where it must not |
//! | `random` | random graphs: under the exact rules bit by bit, with NaN and infinities; under all within tolerances |
//!
//! `FUSE_SOAK=n` sets how often (`make soak`).

mod cases;
mod evaluate;
mod random;

/// How often to try: `FUSE_SOAK`, or so many times in an ordinary run.
fn trials(ordinary: usize) -> usize {
    std::env::var("FUSE_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(ordinary)
}
