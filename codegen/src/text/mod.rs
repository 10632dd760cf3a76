//! The text form of Kernel IR: `parse(&print(f)) == f` for every verified function.
//!
//! ```text
//! function scale range {
//!   read p0 "x": f32 = b0
//!   write p1 "y": f32 = b1
//!   symbols N
//!   work N
//!   v0: i64 = work_begin
//!   v1: i64 = work_end
//!   for v2 = v0 to v1 step 1 {
//!     v3: f32 = load p0[v2]
//!     v4: f32 = constant 2.0
//!     v5: f32 = mul v3, v4
//!     store p1[v2] = v5
//!   }
//! }
//! ```
//!
//! A loop that carries values lists each as `value: type = init next next result result`.

mod lexer;
mod parser;
mod printer;

pub use lexer::TextError;
pub use parser::parse;
pub use printer::print;
pub(crate) use printer::statement_head;
