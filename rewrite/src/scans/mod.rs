//! Rules about whole scans, each where it can be decided.
//!
//! | file | concept |
//! |---|---|
//! | `siblings` | loops that stand beside each other become one, in the arranged program |

pub mod siblings;
