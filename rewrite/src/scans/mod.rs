//! Rules about whole scans, each where it can be decided.
//!
//! | file | concept |
//! |---|---|
//! | `states` | states that never change, and states that are always equal |
//! | `accumulation` | a sum that only the end of a loop needs is a sum over time |
//! | `last_step` | what is read at the last step is computed from the final states |
//! | `linear` | states that are linear in themselves become recurrences, in the e-graph |
//! | `chunks` | recurrences run in chunks of time, in the kernels, where a device would stay idle |
//! | `siblings` | loops that stand beside each other become one, in the arranged program |
//! | `wavefront/` | loops that stand upon each other run beside each other, a step apart, in the kernels |
//! | `demand` | loops run as many steps as are read, in the kernels |
//! | `recent` | histories of which the last steps are read keep those, in the kernels |
//! | `catalogue` | all of them, as lines of the page of rules |
//!
//! The first three are equalities, asserted in the e-graph. Where one side makes the other superfluous whatever
//! else is decided, the other is *retired*: extraction does not consider it.

pub mod accumulation;
pub mod catalogue;
pub mod chunks;
pub mod demand;
pub mod last_step;
pub mod linear;
pub mod recent;
pub mod siblings;
pub mod states;
pub mod wavefront;
