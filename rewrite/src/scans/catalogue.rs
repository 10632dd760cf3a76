//! The rules about scans, as lines of the page of rules.

use super::{accumulation, last_step, recent, states, wavefront};
use crate::rules::{Contract, Family, RuleEntry};

/// The rules about scans.
pub const ENTRIES: &[RuleEntry] = &[
    entry(
        "forward-scan",
        ("a scan that runs in reverse", "one that runs forward, over sequences read from their end"),
        "",
        Contract::Exact,
        "rewrite/tests/scans.rs::the_reverse_of_a_reverse_scan_reads_and_stores_in_order",
    ),
    entry(
        "stored-view",
        ("a result that is a view of what a kernel stores", "the result, stored at the index the view has"),
        "the view permutes and reverses axes, and keeps the last",
        Contract::Exact,
        "rewrite/tests/scans.rs::a_result_that_is_a_view_is_stored_where_it_is_computed",
    ),
    entry(
        states::UNCHANGED,
        ("a state that every step hands on", "its initial value"),
        "",
        Contract::Exact,
        "rewrite/tests/structure.rs::a_state_that_never_changes_needs_no_loop",
    ),
    entry(
        states::DUPLICATE,
        ("two states of a scan", "one"),
        "equal at first, and after a step if they were before it",
        Contract::Exact,
        "rewrite/tests/scans.rs::states_that_are_always_equal_are_one",
    ),
    entry(
        "unread-state",
        ("a state that nothing reads", "nothing"),
        "",
        Contract::Exact,
        "rewrite/tests/scans.rs::states_that_nothing_reads_are_not_computed",
    ),
    entry(
        "single-step",
        ("a scan of one step, or of none", "its body, or its initial states"),
        "the number of steps is a constant",
        Contract::Exact,
        "rewrite/tests/scans.rs::one_step_is_no_loop_and_none_is_nothing",
    ),
    entry(
        accumulation::NAME,
        (
            "the state after the last step, where a step adds a term (or multiplies by it, or takes the larger or \
             smaller)",
            "the initial state plus the sum of the terms over time",
        ),
        "nothing else reads the state; the type is as wide as sums are; the term depends on no state of the scan, \
         or is a sum itself",
        Contract::Reassociates,
        "rewrite/tests/accumulation.rs::a_sum_of_products_over_time_is_one_contraction",
    ),
    entry(
        last_step::NAME,
        ("the last step of a history", "what the final states make of it"),
        "the step computes it from its new states alone",
        Contract::Exact,
        "rewrite/tests/scans.rs::what_each_step_makes_of_its_state_is_made_once_if_the_last_alone_is_read",
    ),
    entry(
        "sibling-loops",
        ("two loops of equally many steps", "one loop"),
        "neither needs the other; launches saved outweigh weights that no longer fit the chip",
        Contract::Exact,
        "rewrite/tests/siblings.rs::both_directions_share_a_loop_of_one_kernel",
    ),
    entry(
        wavefront::NAME,
        (
            "a loop, and upon it a loop over what it stores",
            "one loop, in which the upper one is a step behind",
        ),
        "equally many steps; each step of the upper one reads what the lower one stores at that step, and of it \
         nothing else; launches saved outweigh weights that are read every step or no longer fit the chip",
        Contract::Exact,
        "rewrite/tests/wavefront.rs::a_stack_of_layers_is_a_launch_a_step",
    ),
    entry(
        "steps-read",
        ("a loop over T of whose histories n steps are read", "a loop over min(n, T)"),
        "its final states are not read",
        Contract::Exact,
        "rewrite/tests/scans.rs::a_loop_runs_as_many_steps_as_are_read",
    ),
    entry(
        recent::NAME,
        ("a history of T steps of which the last k are read", "a history of k steps"),
        "k is at most half of T, for the assumed dimensions; nothing in a loop reads it",
        Contract::Exact,
        "rewrite/tests/scans.rs::a_history_keeps_the_last_steps_if_those_alone_are_read",
    ),
];

const fn entry(
    name: &'static str,
    sides: (&'static str, &'static str),
    guard: &'static str,
    contract: Contract,
    test: &'static str,
) -> RuleEntry {
    RuleEntry::new(Family::Scans, name, sides, guard, contract, test)
}
