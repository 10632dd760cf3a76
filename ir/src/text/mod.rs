//! The text form of graphs, `.fuse`: [`parse`] and the `Display` of [`Graph`](crate::Graph).
//!
//! ```text
//! // One step of a cell, run over time.
//! graph cell(x: f32[T, B, 64], h0: f32[B, 32], param w: f32[64, 32]) -> (y: f32[T, B, 32], hn: f32[B, 32]) {
//!   %3, %4 = scan step over T reverse
//!       carry (h: f32[B, 32] = h0)
//!       each (xt: f32[B, 64] = x)
//!       with (w: f32[64, 32] = w)
//!       -> (f32[B, 32], f32[T, B, 32])
//!   {
//!     %3 = contract xt, w axes=[1:0] : f32[B, 32]
//!     %4 = add %3, h : f32[B, 32]
//!     %5 = tanh %4 : f32[B, 32]
//!     next h = %5
//!     stack y = %5
//!   }
//!   return y = %4, hn = %3
//! }
//! ```
//!
//! # Grammar
//! ```text
//! file      = graph
//! graph     = "graph" name "(" [input {"," input}] ")" ["->" "(" [output {"," output}] ")"] "{"
//!             {statement} "return" [binding {"," binding}] "}"
//! input     = ["param"] name ":" type ["at" number]
//! output    = name ":" type
//! binding   = name "=" value
//! statement = label {"," label} "=" (apply | scan)
//! apply     = mnemonic [value {"," value}] {attribute} [":" type]
//! attribute = word "=" (number | literal | "[" dims or axes or pairs of axes "]")
//! scan      = "scan" [name] "over" dim {clause} ["->" "(" types ")"] "{"
//!             {statement} ["next" binding {"," binding}] ["stack" binding {"," binding}] "}"
//! clause    = "forward" | "reverse" | ("carry" | "each" | "with") "(" [body input {"," body input}] ")"
//!           | "lengths" value
//! body input = name [":" type] "=" value ["at" number]
//! value     = name | label                a graph input by its name, a result by its label
//! label     = "%" letters and digits
//! type      = dtype "[" [dim {"," dim}] "]" | dtype
//! dim       = ["-"] term {("+" | "-") term};   term = factor {"*" factor}
//! factor    = number | symbol | ("floordiv" | "mod" | "min" | "max") "(" dim "," dim ")" | "(" dim ")"
//! name      = word | string;   word = [A-Za-z_][A-Za-z0-9_.]*
//! ```
//! `//` starts a comment. Line ends mean nothing.
//!
//! # Meaning
//! * Labels are free when written by hand (`%gates`); printing numbers them as in the graph, the inputs first.
//!   An input that the graph defines after some results says so with `at` and its number.
//! * Types of results, of body inputs and the list of outputs may be left out; where they are given they are
//!   checked. The type of `constant`, `iota`, `cast`, `reshape` and `broadcast` is what the op makes, so it
//!   must be given.
//! * The axes of `contract` are pairs: `axes=[1:0]` sums over axis 1 of the first operand with axis 0 of the
//!   second. `batch=[…]` may be left out, as may `step=[…]` of a slice.
//! * A literal of a float type prints as the shortest decimal that gives the same bits, or `inf`, `-inf`,
//!   `nan`, `nan:0x7fc00001`.
//! * The body of a scan sees only its own inputs. `next` gives the new carries in order, `stack` the values
//!   to collect over the steps.
//!
//! Bounds on sizes and depths are those of [`crate::limits`].

mod attributes;
pub(crate) mod cursor;
mod dim;
pub(crate) mod error;
pub(crate) mod lexer;
mod literal;
mod parse;
pub(crate) mod print;
mod scan;
mod scope;
pub(crate) mod suggest;

pub use error::{Label, ParseError, ParseErrorKind};
pub use parse::parse;

/// Whether `name` needs no quotes in the text form: `[A-Za-z_][A-Za-z0-9_.]*`.
pub fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}
