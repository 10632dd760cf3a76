//! Buffers and steps: recursive descent over tokens.

use crate::kernel::{Buffer, BufferKind, Carry, KernelGraph, Loop, Step};
use crate::limits::MAX_SCAN_DEPTH;
use crate::ops::Direction;
use crate::text::ParseError;
use crate::text::cursor::Parsed;
use crate::text::error::ParseErrorKind;
use crate::text::lexer::Token;

use super::form::{KernelParser, Kernels};

/// Reads the text form of a kernel graph; see the [module](crate::kernel_text) for the language.
///
/// For every kernel graph that keeps the invariants of [`mod@crate::verify_kernels`] and the bounds of
/// [`crate::limits`], with names that are not empty, `parse_kernels(&graph.to_string())` is the graph itself.
/// What is returned has all its ids in range; whether it keeps the other invariants is for the verifier to say.
///
/// # Errors
/// Where the text is not a kernel graph: the first thing that is wrong, with its place.
///
/// # Examples
/// ```
/// let text = "kernels double {
///   buffer x: f32[T] input 0
///   buffer y: f32[T] output 0
///   kernel double [i0 < T] fuses (add) {
///     e0: f32 = load x[i0]
///     e1: f32 = add e0, e0
///     store y[i0] = e1
///   }
/// }
/// ";
/// let graph = fuse_ir::parse_kernels(text)?;
/// assert_eq!(graph.to_string(), text);
/// assert_eq!(fuse_ir::verify_kernels(&graph), Ok(()));
/// # Ok::<(), fuse_ir::ParseError>(())
/// ```
pub fn parse_kernels(source: &str) -> Result<KernelGraph, ParseError> {
    let mut parser = KernelParser::new(source, Kernels::default())?;
    let graph = parser.graph()?;
    parser.expect_end("a file holds one kernel graph")?;
    Ok(graph)
}

impl KernelParser<'_> {
    fn graph(&mut self) -> Parsed<KernelGraph> {
        if !self.eat_word("kernels")? {
            return Err(self.unexpected("`kernels`").with_help("a kernel graph begins `kernels name {`"));
        }
        let (name, _) = self.name("the name of the kernel graph")?;
        self.expect('{')?;
        while self.eat_word("buffer")? {
            self.buffer()?;
        }
        let steps = self.steps(0)?;
        let buffers = std::mem::take(&mut self.form.buffers);
        Ok(KernelGraph { name: name.into_owned(), buffers, steps })
    }

    /// A buffer after its keyword.
    fn buffer(&mut self) -> Parsed<()> {
        let (name, span) = self.name("the name of a buffer")?;
        self.expect(':')?;
        let ty = self.ty()?.ty;
        let kind = self.buffer_kind()?;
        self.declare_buffer(Buffer { name: name.into_owned(), ty, kind }, span)
    }

    fn buffer_kind(&mut self) -> Parsed<BufferKind> {
        let Token::Word(word) = self.token else { return Err(self.no_kind()) };
        let positioned = match word {
            "temporary" | "state" => false,
            "input" | "output" => true,
            _ => return Err(self.no_kind()),
        };
        self.advance()?;
        let position = if positioned { self.count("the position of an input or output")? } else { 0 };
        Ok(match word {
            "input" => BufferKind::Input(position),
            "output" => BufferKind::Output(position),
            "state" => BufferKind::State,
            _ => BufferKind::Temporary,
        })
    }

    fn no_kind(&self) -> ParseError {
        let error = self.unexpected("what the buffer is for");
        error.with_help("a buffer is `input 0`, `output 0` (by position), `temporary` or `state`")
    }

    /// Steps, and the brace that closes them.
    fn steps(&mut self, depth: usize) -> Parsed<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            if self.eat_word("kernel")? {
                steps.push(Step::Kernel(self.kernel()?));
            } else if self.token == Token::Word("loop") {
                steps.push(Step::Loop(self.repeated(depth)?));
            } else if self.eat('}')? {
                return Ok(steps);
            } else {
                let first = depth == 0 && steps.is_empty();
                let error = self.unexpected(if first {
                    "`buffer`, `kernel`, `loop` or `}`"
                } else {
                    "`kernel`, `loop` or `}`"
                });
                let late = self.token == Token::Word("buffer");
                return Err(error.with_optional_help(late.then(|| "buffers come before the steps".into())));
            }
        }
    }

    fn repeated(&mut self, depth: usize) -> Parsed<Loop> {
        if depth >= MAX_SCAN_DEPTH {
            let text = format!("loops nest deeper than {MAX_SCAN_DEPTH} levels");
            return Err(self.error_here(ParseErrorKind::Limit(text)));
        }
        self.advance()?;
        let counter = self.counter()?;
        self.expect('<')?;
        let trip = self.extent()?;
        let direction = if self.eat_word("reverse")? { Direction::Reverse } else { Direction::Forward };
        let mut carries = Vec::new();
        if self.eat_word("carry")? {
            self.expect('(')?;
            carries = self.list(')', Self::carry)?;
        }
        if !self.eat('{')? {
            return Err(self.unexpected("`reverse`, `carry` or `{`"));
        }
        let body = self.steps(depth + 1)?;
        Ok(Loop { counter, trip, direction, carries, body })
    }

    fn carry(&mut self) -> Parsed<Carry> {
        let current = self.buffer_use()?;
        if !self.eat_arrow()? {
            let error = self.unexpected("`->`");
            return Err(error.with_help("a carry names the buffers of two states: `current -> next`"));
        }
        Ok(Carry { current, next: self.buffer_use()? })
    }
}
