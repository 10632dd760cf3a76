//! The text form of kernel graphs: [`parse_kernels`] and the `Display` of [`KernelGraph`].
//!
//! ```text
//! kernels rnn {
//!   buffer x: f32[T, B, 64] input 0
//!   buffer w: f32[64, 64] input 1
//!   buffer h: f32[B, 64] state
//!   buffer h.next: f32[B, 64] state
//!   buffer y: f32[T, B, 64] output 0
//!   kernel start [i0 < B, i1 < 64] fuses (constant, broadcast) {
//!     e0: f32 = constant 0.0
//!     store h[i0, i1] = e0
//!   }
//!   loop %t < T carry (h -> h.next) {
//!     kernel step [i0 < B, i1 < 64] fuses (contract, add, tanh) {
//!       e0: f32 = load h[i0, i2]
//!       e1: f32 = load w[i2, i1]
//!       e2: f32 = mul e0, e1
//!       e3: f32 = sum [i2 < 64] e2
//!       e4: f32 = load x[%t, i0, i1]
//!       e5: f32 = add e3, e4
//!       e6: f32 = tanh e5
//!       store h.next[i0, i1] = e6
//!       store y[%t, i0, i1] = e6
//!     }
//!   }
//! }
//! ```
//!
//! # Grammar
//! ```text
//! file       = "kernels" name "{" {buffer} {step} "}"
//! buffer     = "buffer" name ":" type ("input" number | "output" number | "temporary" | "state")
//! step       = kernel | loop
//! loop       = "loop" symbol "<" expr ["reverse"] ["carry" "(" [carry {"," carry}] ")"] "{" {step} "}"
//! carry      = name "->" name
//! kernel     = "kernel" name axes ["fuses" "(" [name {"," name}] ")"] "{" {element} {store} "}"
//! axes       = "[" [axis "<" expr {"," axis "<" expr}] "]"
//! element    = word ":" dtype "=" value
//! value      = "load" name "[" [coordinate {"," coordinate}] "]" | "constant" literal | "index" expr
//!            | "cast" word | elementwise word {"," word} | reduction axes word
//!            | "recurrence" ["before"] axis "from" word "by" word "plus" word
//! coordinate = expr | "@" word
//! store      = "store" name "[" [expr {"," expr}] "]" "=" word
//! axis       = "i" digits
//! symbol     = word | label | string
//! ```
//! Types, expressions, literals, names, labels and comments are those of [`crate::text`]; an `expr` has axes and
//! symbols for its leaves.
//!
//! # Meaning
//! * The axes after the name of a kernel are its space: `i0`, `i1`, … in order. A reduction gives the extents of
//!   the axes that it binds. Dimensions (of types, extents and trip counts) have no axes.
//! * A word `i7` in an expression is an axis. A symbol of such a name, or of a name that is no identifier, is in
//!   quotes; a label stands for the symbol with its `%`, which is how rewriting names the counters of loops.
//! * Elements may have any names when written by hand; printing numbers them. Operands come first.
//! * `@e3` is a coordinate that an element gives: [`Coordinate::Dynamic`](crate::kernel::Coordinate::Dynamic).
//! * `recurrence i0 from e0 by e1 plus e2` is the state after the point, `before i0` the one before it.
//! * `fuses` names the graph ops that were fused, in order of execution. It may be left out, as may `carry`.
//! * The type of a constant is that of its element; it prints so that the same bits are read.
//!
//! Bounds on sizes and depths are those of [`crate::limits`]. What the text does not need in order to be read,
//! such as element types and the order of writes and reads, [`verify_kernels`](crate::verify_kernels()) checks.
//!
//! [`KernelGraph`]: crate::kernel::KernelGraph

mod form;
mod kernel;
mod parse;
mod print;

pub use parse::parse_kernels;
